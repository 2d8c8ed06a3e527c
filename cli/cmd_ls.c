/* SPDX-License-Identifier: MIT */
/* vacate ls: the pools of running programs, and their blocks. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "host_target.h"
#include "out.h"
#include "remote.h"
#include "report_json.h"
#include "session.h"

static const struct opt_ctx ctx = {"ls"};

static void usage(void)
{
	puts("Usage: vacate ls [OPTIONS] [TARGET...]\n"
	     "\n"
	     "List the memory pools of running programs that have opened a control socket, with\n"
	     "their blocks. TARGET: the PID of a program, or the path of its socket; by default all\n"
	     "of this user, and for root of every user.\n"
	     "\n"
	     "The host's own memory: 'vacate ls host', see 'vacate ls host --help'.\n"
	     "\n"
	     "Options:\n"
	     "      --json   print one JSON object\n"
	     "  -h, --help   this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage, 64 some could not be asked.");
}

static const char *state_name(unsigned state)
{
	static const char *const names[] = {"offline", "online", "isolating", "evacuating"};

	return state < 4 ? names[state] : "?";
}

static const char *zone_name(const struct vac__ctl_block *b)
{
	if (b->state == VAC_BLOCK_OFFLINE)
		return "-";
	return b->zone == VAC_ZONE_NORMAL ? "normal" : "movable";
}

static const char *backing_name(const struct vac__ctl_block *b)
{
	return !b->file ? "memfd" : b->unsealable ? "file, unsealable" : "file";
}

typedef int block_fn(void *ctx, const struct vac__ctl_block *b);

static int each_block(struct target *t, block_fn *fn, void *arg)
{
	uint32_t next = 0;

	while (next != UINT32_MAX) {
		struct vac__ctl_blocks bs;
		uint32_t from = next;
		int err = ctl_two(&t->c, VAC__CTL_BLOCKS, next, 0,
				  offsetof(struct vac__ctl_blocks, block));

		bs = t->c.in.u.blocks;
		if (!err && (bs.n > VAC__CTL_BLOCKS_MAX || bs.next <= from ||
			     (bs.next > 65536 && bs.next != UINT32_MAX)))
			err = -EPROTO;
		for (uint32_t i = 0; !err && i < bs.n; i++)
			err = fn(arg, &bs.block[i]);
		if (err)
			return err;
		next = bs.next;
	}
	return 0;
}

static uint64_t frames(uint64_t n)
{
	return n * VAC_PAGE_BYTES;
}

/* ---- text ---- */

static int row(void *arg, const struct vac__ctl_block *b)
{
	struct out_table *tb = arg;
	char size[SIZE_TEXT_MAX];

	out_table_row(tb);
	out_table_cell(tb, "%" PRIu32, b->id);
	out_table_cell(tb, "%s", state_name(b->state));
	out_table_cell(tb, "%s", zone_name(b));
	out_table_cell(tb, "%s", size_text(b->bytes, size, sizeof(size)));
	if (b->state == VAC_BLOCK_OFFLINE) {
		for (int i = 0; i < 5; i++)
			out_table_cell(tb, "-");
		out_table_cell(tb, "%s", backing_name(b));
		return 0;
	}
	out_table_cell(tb, "%s", size_text(frames(b->frames_used), size, sizeof(size)));
	out_table_cell(tb, "%s",
		       size_text(frames(b->frames_free + b->frames_reserved), size, sizeof(size)));
	out_table_cell(tb, "%" PRIu64, b->pageblocks_huge);
	out_table_cell(tb, "%" PRIu64, b->pageblocks_base);
	out_table_cell(tb, "%" PRIu64, b->pins);
	out_table_cell(tb, "%s", backing_name(b));
	return 0;
}

static int print_pool(struct target *t)
{
	static const struct out_column cols[] = {
		{"BLOCK", 1}, {"STATE", 0}, {"ZONE", 0}, {"SIZE", 1}, {"USED", 1},
		{"FREE", 1},  {"HUGE", 1},  {"BASE", 1}, {"PINS", 1}, {"BACKING", 0},
	};
	const struct vac__ctl_pool *p = &t->pool;
	struct out_table *tb = out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];
	int err = each_block(t, row, tb), failed;

	printf("Pool %s of %s (pid %" PRIu32 "): %" PRIu64 " blocks of %s, %" PRIu64
	       " online; %s used, %s free\n"
	       "  guard %s; pageblocks filled by 2 MiB host pages: %" PRIu64
	       ", by 4 KiB ones: %" PRIu64 "; free whole: %" PRIu64 "\n"
	       "  host mappings: %" PRIu64 " of at most %" PRIu64 "; pins: %" PRIu64 "\n"
	       "  socket %s\n",
	       p->name, t->program[0] ? t->program : "?", p->pid, p->blocks,
	       size_text(p->block_bytes, a, sizeof(a)), p->blocks_online,
	       size_text(frames(p->frames_used), b, sizeof(b)),
	       size_text(frames(p->frames_free + p->frames_reserved), c, sizeof(c)),
	       guard_name((enum vac_guard)p->guard), p->pageblocks_huge, p->pageblocks_base,
	       p->pageblocks_free, p->host_vmas, p->host_vma_limit, p->pins, t->path);
	failed = out_table_print(tb);
	return err ? err : failed;
}

/* ---- JSON ---- */

static int add_block(void *arg, const struct vac__ctl_block *b)
{
	json_t *j = json_pack("{s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}",
			      "block", (json_int_t)b->id, "state", state_name(b->state), "zone",
			      zone_name(b), "bytes", (json_int_t)b->bytes, "frames_used",
			      (json_int_t)b->frames_used, "frames_free", (json_int_t)b->frames_free,
			      "frames_reserved", (json_int_t)b->frames_reserved, "pageblocks",
			      (json_int_t)b->pageblocks, "pageblocks_huge",
			      (json_int_t)b->pageblocks_huge, "pageblocks_base",
			      (json_int_t)b->pageblocks_base, "pins", (json_int_t)b->pins, "file",
			      b->file != 0, "unsealable", b->unsealable != 0);

	return json_array_append_new(arg, j) ? -ENOMEM : 0;
}

static json_t *pool_json(struct target *t, int *err)
{
	const struct vac__ctl_pool *p = &t->pool;
	json_t *blocks = json_array(), *j;

	*err = each_block(t, add_block, blocks);
	j = json_pack("{s:I, s:o, s:o, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		      "pid", (json_int_t)p->pid, "program", any_string(t->program), "name",
		      any_string(p->name), "socket", any_string(t->path), "version",
		      any_string(p->version), "guard", guard_name((enum vac_guard)p->guard),
		      "block_bytes", (json_int_t)p->block_bytes, "blocks_max",
		      (json_int_t)p->max_blocks, "frames_total", (json_int_t)p->frames_total,
		      "frames_free", (json_int_t)p->frames_free, "frames_reserved",
		      (json_int_t)p->frames_reserved, "frames_used", (json_int_t)p->frames_used,
		      "frames_isolated", (json_int_t)p->frames_isolated, "spaces",
		      (json_int_t)p->spaces);
	if (!j) {
		json_decref(blocks);
		return NULL;
	}
	json_object_set_new(j, "pins", json_integer((json_int_t)p->pins));
	json_object_set_new(j, "pageblocks_huge", json_integer((json_int_t)p->pageblocks_huge));
	json_object_set_new(j, "pageblocks_base", json_integer((json_int_t)p->pageblocks_base));
	json_object_set_new(j, "host_vmas", json_integer((json_int_t)p->host_vmas));
	json_object_set_new(j, "host_vma_limit", json_integer((json_int_t)p->host_vma_limit));
	json_object_set_new(j, "operations", json_integer(p->works));
	json_object_set_new(j, "faults", json_integer((json_int_t)p->faults));
	json_object_set_new(j, "migrate_folios", json_integer((json_int_t)p->migrate_folios));
	json_object_set_new(j, "migrate_bytes", json_integer((json_int_t)p->migrate_bytes));
	json_object_set_new(j, "gate_waits", json_integer((json_int_t)p->gate_waits));
	json_object_set_new(j, "pageblocks_free", json_integer((json_int_t)p->pageblocks_free));
	json_object_set_new(j, "compact_folios", json_integer((json_int_t)p->compact_folios));
	json_object_set_new(j, "collapsed_in_place",
			    json_integer((json_int_t)p->collapsed_in_place));
	json_object_set_new(j, "collapsed_by_copy", json_integer((json_int_t)p->collapsed_by_copy));
	json_object_set_new(j, "dangling", json_integer((json_int_t)p->dangling));
	json_object_set_new(j, "blocks", blocks);
	return j;
}

static int list(struct targets *ts, bool json)
{
	json_t *pools = json_array();
	unsigned failed = ts->failed;
	int err;

	for (unsigned i = 0; i < ts->n; i++) {
		if (json) {
			json_array_append_new(pools, pool_json(ts->t[i], &err));
		} else {
			if (i)
				putchar('\n');
			err = print_pool(ts->t[i]);
		}
		if (err) {
			out_error("%s: %s", ts->t[i]->path, remote_error(err));
			failed++;
		}
	}
	if (!json)
		json_decref(pools);
	else if (out_json(json_pack("{s:o}", "pools", pools)))
		return CMD_ERROR;
	if (!json && !ts->n && !failed)
		out_msg("no pool with a control socket is running");
	return !failed ? CMD_OK : ts->n ? CMD_PARTLY : CMD_ERROR;
}

int cmd_ls(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct targets ts;
	bool json = false;
	int c, rc;

	if (host_wanted(argc, argv))
		return cmd_host_ls(argc, argv);
	out_set_prefix("vacate ls");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'j': json = true; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	rc = targets_parse(&ts, &ctx, TARGET_ANY, argv + optind, argc - optind);
	if (rc < 0)
		rc = list(&ts, json);
	targets_free(&ts);
	return rc;
}

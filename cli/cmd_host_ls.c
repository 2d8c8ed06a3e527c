/* SPDX-License-Identifier: MIT */
/* vacate ls host: the host's memory blocks, and what may truly be removed. Reads only. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "host/json.h"
#include "host/walk.h"
#include "host_target.h"
#include "out.h"

static const struct opt_ctx ctx = {"ls"};

static void usage(void)
{
	puts("Usage: vacate ls [OPTIONS] host[:BLOCK|:NODE|:DEVICE]...\n"
	     "\n"
	     "List the host's memory blocks: state, zone, node, what each holds, and what offline\n"
	     "would do with it now, which 'removable' in sysfs does not know. Reads only. As root\n"
	     "all can be seen.\n"
	     "\n"
	     "Columns, of sizes: FREE; MOVABLE (anonymous and file pages); HELD by direct\n"
	     "references (pins, pipes, sockets, transfers in flight); STUCK, locked or under\n"
	     "writeback in both of two samples; HUGE, pages of hugetlb in use, and RESERVED, free\n"
	     "ones that somebody was promised; KERNEL, which never moves. OFFLINE is the verdict:\n"
	     "goes, loops, ebusy, unkillable, no-target, not-known; 'vacate why host:N' says why.\n"
	     "\n"
	     "Options:\n"
	     "      --json         print one JSON object, with every block\n"
	     "      --all          one line a block; by default like neighbours share one\n"
	     "      --sysroot DIR  a machine that 'vacate capture' saved\n"
	     "  -h, --help         this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage.");
}

struct list {
	struct host_targets t;
	struct host_usage *usage;
	enum host_verdict *verdict;
	bool refs_known;
};

/* ---- Text ---- */

/* One row may stand for blocks a to b. */
static void sum(struct host_usage *to, const struct host_usage *u)
{
	for (int c = 0; c < HOST_CLASSES; c++)
		to->frames[c] += u->frames[c];
	to->huge_reserved += u->huge_reserved;
	to->memmap += u->memmap;
}

static bool alike(const struct list *l, unsigned a, unsigned b)
{
	const struct host_block *x = &l->t.h->blocks[a], *y = &l->t.h->blocks[b];

	return y->id == x->id + 1 && x->state == y->state && !strcmp(x->zone, y->zone) &&
	       x->node == y->node && l->verdict[a] == l->verdict[b] &&
	       !strcmp(x->device, y->device);
}

static void size_cell(struct out_table *tb, const struct host *h, uint64_t frames)
{
	char size[SIZE_TEXT_MAX];

	if (frames)
		out_table_cell(tb, "%s", size_text(frames * h->page_bytes, size, sizeof(size)));
	else
		out_table_cell(tb, "-");
}

static void row(const struct list *l, struct out_table *tb, unsigned from, unsigned to)
{
	const struct host *h = l->t.h;
	const struct host_block *b = &h->blocks[l->t.block[from]];
	struct host_usage u = {0};

	for (unsigned i = from; i <= to; i++)
		sum(&u, &l->usage[l->t.block[i]]);
	out_table_row(tb);
	if (from == to)
		out_table_cell(tb, "%" PRIu32, b->id);
	else
		out_table_cell(tb, "%" PRIu32 "-%" PRIu32, b->id, h->blocks[l->t.block[to]].id);
	out_table_cell(tb, "%s", host_state_name(b->state));
	out_table_cell(tb, "%s", b->zone);
	if (b->node >= 0)
		out_table_cell(tb, "%d", b->node);
	else
		out_table_cell(tb, "-");
	size_cell(tb, h, (to - from + 1) * b->frames);
	size_cell(tb, h, u.frames[HOST_FREE]);
	size_cell(tb, h, u.frames[HOST_MOVABLE]);
	size_cell(tb, h, u.frames[HOST_HELD]);
	size_cell(tb, h, u.frames[HOST_LOCKED] + u.frames[HOST_WRITEBACK]);
	size_cell(tb, h, u.frames[HOST_HUGETLB_USED]);
	size_cell(tb, h, u.huge_reserved);
	size_cell(tb, h, u.frames[HOST_UNMOVABLE] + u.frames[HOST_UNKNOWN]);
	out_table_cell(tb, "%s", host_verdict_name(l->verdict[l->t.block[from]]));
	out_table_cell(tb, "%s", b->device[0] ? b->device : "-");
}

static void footer(const struct list *l)
{
	const struct host *h = l->t.h;
	uint64_t goes = 0, online = 0;
	unsigned claimed = 0, wrong = 0;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];

	for (unsigned k = 0; k < l->t.n; k++) {
		const struct host_block *hb = &h->blocks[l->t.block[k]];
		enum host_verdict v = l->verdict[l->t.block[k]];

		if (hb->state == HOST_OFFLINE)
			continue;
		online += hb->frames;
		goes += v == HOST_GOES ? hb->frames : 0;
		claimed += hb->sysfs_removable;
		wrong += hb->sysfs_removable && v != HOST_GOES && v != HOST_NOT_KNOWN;
	}
	printf("\n%s of %s online could leave now, each block by itself; sysfs calls %u block%s "
	       "removable, of which %u would not go.\n",
	       size_text(goes * h->page_bytes, a, sizeof(a)),
	       size_text(online * h->page_bytes, b, sizeof(b)), claimed, claimed == 1 ? "" : "s",
	       wrong);
}

static int print(const struct list *l, bool all)
{
	static const struct out_column cols[] = {
		{"BLOCK", 0},    {"STATE", 0},   {"ZONE", 0},    {"NODE", 1},   {"SIZE", 1},
		{"FREE", 1},     {"MOVABLE", 1}, {"HELD", 1},    {"STUCK", 1},  {"HUGE", 1},
		{"RESERVED", 1}, {"KERNEL", 1},  {"OFFLINE", 0}, {"DEVICE", 0},
	};
	struct out_table *tb = out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	unsigned i = 0, k;

	while (i < l->t.n) {
		for (k = i; !all && k + 1 < l->t.n && alike(l, l->t.block[k], l->t.block[k + 1]);)
			k++;
		row(l, tb, i, k);
		i = k + 1;
	}
	if (out_table_print(tb))
		return CMD_ERROR;
	footer(l);
	return CMD_OK;
}

/* ---- JSON ---- */

static int print_json(const struct list *l)
{
	const struct host *h = l->t.h;
	json_t *blocks = json_array();
	uint64_t goes = 0;

	for (unsigned k = 0; k < l->t.n; k++) {
		unsigned i = l->t.block[k];
		json_t *j = host_block_json(h, &h->blocks[i]);

		json_object_set_new(j, "usage", host_usage_json(h, &l->usage[i]));
		json_object_set_new(j, "verdict", json_string(host_verdict_name(l->verdict[i])));
		json_object_set_new(j, "removable", json_boolean(l->verdict[i] == HOST_GOES));
		json_array_append_new(blocks, j);
		goes += l->verdict[i] == HOST_GOES ? h->blocks[i].frames : 0;
	}
	return out_json(json_pack("{s:I, s:I, s:I, s:s, s:b, s:o}", "page_bytes",
				  (json_int_t)h->page_bytes, "block_bytes",
				  (json_int_t)h->block_bytes, "removable_bytes",
				  (json_int_t)(goes * h->page_bytes), "auto_online", h->auto_policy,
				  "references_known", l->refs_known, "blocks", blocks))
		       ? CMD_ERROR
		       : CMD_OK;
}

static int list(struct list *l, bool json, bool all)
{
	struct host *h = l->t.h;
	const char *why;

	l->usage = calloc(h->n_blocks, sizeof(*l->usage));
	l->verdict = calloc(h->n_blocks, sizeof(*l->verdict));
	if (!l->usage || !l->verdict) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	if (h->privileged && host_survey(h, l->usage, &l->refs_known)) {
		out_error("%s", host_message(h));
		return CMD_ERROR;
	}
	for (unsigned i = 0; i < h->n_blocks; i++)
		l->verdict[i] = host_verdict_of(h, &h->blocks[i], &l->usage[i], l->refs_known);
	why = host_walk_why_not(h);
	if (!h->privileged)
		out_msg("what blocks hold cannot be seen: %s",
			h->live ? "run as root" : "the directory has no vacate/pages");
	else if (!l->refs_known)
		out_msg("what is held cannot be told from what moves: %s",
			h->live && why ? why : "references were not captured");
	return json ? print_json(l) : print(l, all);
}

int cmd_host_ls(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"all", no_argument, NULL, 'a'},
		{"sysroot", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	const char *sysroot = NULL;
	bool json = false, all = false;
	struct list l = {0};
	int c, rc;

	out_set_prefix("vacate ls");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'j': json = true; break;
		case 'a': all = true; break;
		case 's': sysroot = optarg; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	rc = host_targets_parse(&l.t, &ctx, sysroot, argv + optind, argc - optind);
	if (rc < 0)
		rc = list(&l, json, all);
	free(l.usage);
	free(l.verdict);
	host_targets_free(&l.t);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* vacate why: who keeps a block of a running program from leaving. Moves nothing. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "host_target.h"
#include "out.h"
#include "remote.h"
#include "report_json.h"

static const struct opt_ctx ctx = {"why"};

static void usage(void)
{
	puts("Usage: vacate why [OPTIONS] [TARGET[:BLOCK]...]\n"
	     "\n"
	     "Say who keeps blocks of a running program from leaving: for each page that is held, the\n"
	     "owner's name, the thread, the age, and the call stack that pinned it where the program\n"
	     "records those. Moves nothing. By default all blocks that are online.\n"
	     "\n"
	     "TARGET: the PID of a program that has a control socket, or the socket's path; may be\n"
	     "left out where exactly one pool is running. BLOCK: a number or a range, 3 or 3-7.\n"
	     "A number alone is a block; 1234: is all blocks of a process.\n"
	     "\n"
	     "The host's own memory: 'vacate why host:32', see 'vacate why host --help'.\n"
	     "\n"
	     "Options:\n"
	     "      --json   print one JSON object\n"
	     "  -h, --help   this text\n"
	     "\n"
	     "Exit status: 0 done, whether anything is held or not; 1 error, 2 usage, 64 some blocks\n"
	     "could not be looked at.\n"
	     "\n"
	     "Example: vacate why 1234:3");
}

struct why {
	bool json;
	json_t *blocks;
	struct target *syms_of;
	struct symbols *syms;
	unsigned done, held, failed;
};

static struct symbols *symbols_of(struct why *w, struct target *t)
{
	if (w->syms_of != t) {
		symbols_close(w->syms);
		w->syms = remote_symbols(t);
		w->syms_of = t;
	}
	return w->syms;
}

static void show(struct why *w, const struct targets *ts, const struct target_block *b,
		 const struct remote_report *r)
{
	struct symbols *syms = r->n ? symbols_of(w, b->t) : NULL;
	char name[64], size[SIZE_TEXT_MAX];

	if (w->json) {
		json_array_append_new(
			w->blocks,
			json_pack("{s:I, s:o, s:I, s:I, s:o}", "pid", (json_int_t)b->t->pool.pid,
				  "pool", any_string(b->t->pool.name), "block", (json_int_t)b->id,
				  "held_bytes", (json_int_t)remote_report_bytes(r), "blockers",
				  remote_report_json(r, syms)));
		return;
	}
	if (!r->n)
		return;
	printf("%s: %s held, in %u folio%s\n", target_block_text(ts, b, name, sizeof(name)),
	       size_text(remote_report_bytes(r), size, sizeof(size)), r->n, r->n == 1 ? "" : "s");
	remote_report_print(r, syms, stdout);
}

static void look(struct why *w, const struct targets *ts, const struct target_block *b)
{
	struct remote_report r = {0};
	char name[64];
	int err = ctl_two(&b->t->c, VAC__CTL_WHY, b->id, 0, sizeof(struct vac__ctl_two));

	if (!err)
		err = remote_report(b->t, b->t->c.in.u.two.a, &r);
	if (err) {
		out_error("%s: %s", target_block_text(ts, b, name, sizeof(name)),
			  remote_error(err));
		w->failed++;
	} else {
		w->done++;
		w->held += r.n > 0;
		show(w, ts, b, &r);
	}
	remote_report_free(&r);
}

int cmd_why(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct why w = {0};
	struct targets ts;
	int c, rc;

	if (host_wanted(argc, argv))
		return cmd_host_why(argc, argv);
	out_set_prefix("vacate why");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'j': w.json = true; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	rc = targets_parse(&ts, &ctx, TARGET_ALL_BLOCKS, argv + optind, argc - optind);
	if (rc >= 0)
		goto out;
	w.blocks = json_array();
	for (unsigned i = 0; i < ts.n_blocks; i++)
		look(&w, &ts, &ts.block[i]);
	rc = !w.failed ? CMD_OK : w.done ? CMD_PARTLY : CMD_ERROR;
	if (w.json) {
		if (out_json(json_pack("{s:O}", "blocks", w.blocks)))
			rc = CMD_ERROR;
	} else if (w.done && !w.held) {
		printf("nothing is held in %u block%s\n", w.done, w.done == 1 ? "" : "s");
	}
	json_decref(w.blocks);
	symbols_close(w.syms);
out:
	targets_free(&ts);
	return rc;
}

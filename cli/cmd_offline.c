/* SPDX-License-Identifier: MIT */
/*
 * vacate offline: take blocks away from a running program. Those of the host: cmd_host_offline.c.
 *
 * The program does it; we watch. The first Ctrl-C asks it to give up and waits for its answer, so
 * that what is printed is true; a second one leaves at once, and the program gives up by itself
 * when it sees us gone.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_host.h"
#include "host_target.h"
#include "out.h"
#include "remote.h"
#include "report_json.h"

static const struct opt_ctx ctx = {"offline"};

static volatile int interrupted; /* signals so far; int is written whole, see sig_atomic_t */

static void on_signal(int sig)
{
	(void)sig;
	interrupted++;
}

void cmd_offline_usage(void)
{
	puts("Usage: vacate offline [OPTIONS] [TARGET:]BLOCK...\n"
	     "       vacate offline [OPTIONS] host:BLOCK... | host:nodeN | host:DEVICE\n"
	     "       vacate offline [OPTIONS] --bytes SIZE host\n"
	     "\n"
	     "Take memory blocks away from a running program, which goes on using its memory. Each\n"
	     "block ends offline, its memory given back to the system, or online as it was, and then\n"
	     "the holders are named.\n"
	     "\n"
	     "TARGET: the PID of a program that has a control socket, or the socket's path; may be\n"
	     "left out where exactly one pool is running. BLOCK: a number or a range, 3 or 3-7.\n"
	     "host: the memory blocks of this machine, as root. DEVICE: such as dax0.0 or virtio0.\n"
	     "\n"
	     "Options:\n"
	     "      --timeout TIME   of each block (default 10s)\n"
	     "      --writers PCT    let writers keep so much of the time, 0 to 95 (default 0: be fast)\n"
	     "      --best-effort    without enough memory elsewhere, move what fits, then stop\n"
	     "      --revoke         ask the holders of pins that keep it, where they can be asked, to\n"
	     "                       let go\n"
	     "      --cancel-io      cancel the direct I/O of contexts that hold the block\n"
	     "      --dry-run        move nothing: say who holds the block now and what memory is\n"
	     "                       missing, with the exit status that this would have\n"
	     "      --detach         do not wait: the program goes on by itself, see 'vacate ls'\n"
	     "      --cancel         make offlines of these blocks that are under way give up\n"
	     "      --json           print one JSON object\n"
	     "  -h, --help           this text\n"
	     "Of the host's blocks, with --timeout, --dry-run and --json:\n"
	     "      --bytes SIZE     choose the cheapest blocks, so many bytes together\n"
	     "      --node N         of this node; without --bytes, all of it\n"
	     "      --wait           until the holders let go, before the kernel is asked\n"
	     "      --suspend[=HOW]  stop the holders until their pages have left; HOW: auto, trace,\n"
	     "                       freezer or stop (default auto)\n"
	     "      --kill PID[:START]  end this holder, if it still is one; may be repeated\n"
	     "      --force          also where the kernel would wait beyond the reach of signals\n"
	     "      --thaw           only let go on what a killed vacate has left suspended\n"
	     "      --sysroot DIR    the machine below DIR, not this one\n"
	     "\n"
	     "Ctrl-C makes the program give up, and so does the end of this command in any other way.\n"
	     "Exit status: 0 done, 1 error, 2 usage, 3 held by pins or another holder, 4 no memory to\n"
	     "move to, 5 something unmovable, 6 refused as it could not be undone, 64 part of it is done.\n"
	     "\n"
	     "Example: vacate offline --timeout 30s 1234:3-5");
}

struct offline {
	bool json, cancel;
	struct vac__ctl_offline q;
	struct out_table *tb;
	json_t *blocks;
	unsigned done, partly;
	int failed_rc; /* of the first that failed, 0: none has */
};

static void show_progress(void *arg, const struct vac__ctl_progress *p)
{
	uint64_t moved = p->frames_used > p->frames_left ? p->frames_used - p->frames_left : 0;

	(void)arg;
	out_bar(p->frames_used ? (double)moved / (double)p->frames_used : 1,
		"block %" PRIu32 ": %.1f MiB moved, %.1f s", p->id,
		(double)p->bytes_moved / 1048576, (double)p->elapsed_ns / 1e9);
}

static bool is_dry(const struct offline *o)
{
	return o->q.flags & VAC__CTL_DRY_RUN;
}

static int rc_of(const struct offline *o, const struct vac__ctl_result *r, int err)
{
	switch (err) {
	case 0: return CMD_OK;
	case -EBUSY: return r->blockers ? CMD_HELD : CMD_ERROR;
	case -ENOMEM:
		if (!(o->q.flags & VAC__CTL_BEST_EFFORT))
			return CMD_NO_TARGET;
		return (is_dry(o) ? r->possible_bytes : r->bytes_moved) ? CMD_PARTLY
									: CMD_NO_TARGET;
	default: return CMD_ERROR;
	}
}

static const char *error_text(const struct offline *o, const struct vac__ctl_result *r, int err)
{
	if (err == -EBUSY && r->blockers)
		return is_dry(o) ? "held now, by:" : "held, by:";
	if (err == -EBUSY)
		return "another operation on this block is under way";
	if (err == -EALREADY)
		return "it is not online";
	if (err == -ENOMEM)
		return "there is not enough memory in the other online blocks";
	return remote_error(err);
}

static void add_json(struct offline *o, const struct target_block *b,
		     const struct vac__ctl_result *r, int err, const struct remote_report *rep,
		     struct symbols *syms)
{
	char who[VAC_OWNER_MAX];
	json_t *j;

	memcpy(who, r->waited_for, sizeof(who));
	target_clean(who, sizeof(who));
	j = json_pack("{s:I, s:o, s:I, s:b, s:i, s:s}", "pid", (json_int_t)b->t->pool.pid, "pool",
		      any_string(b->t->pool.name), "block", (json_int_t)b->id, "done",
		      err == 0 && !is_dry(o), "error", err, "error_text",
		      err ? error_text(o, r, err) : "");
	if (!j)
		return;
	if (is_dry(o))
		json_object_set_new(j, "possible", json_boolean(err == 0));
	json_object_set_new(j, "bytes_moved", json_integer((json_int_t)r->bytes_moved));
	json_object_set_new(j, "huge_moved", json_integer((json_int_t)r->huge_moved));
	json_object_set_new(j, "base_moved", json_integer((json_int_t)r->base_moved));
	json_object_set_new(j, "attempts", json_integer((json_int_t)r->attempts));
	json_object_set_new(j, "elapsed_ns", json_integer((json_int_t)r->elapsed_ns));
	json_object_set_new(j, "missing_bytes", json_integer((json_int_t)r->missing_bytes));
	json_object_set_new(j, "possible_bytes", json_integer((json_int_t)r->possible_bytes));
	json_object_set_new(j, "given_back_bytes", json_integer((json_int_t)r->given_back_bytes));
	json_object_set_new(j, "waited_ns", json_integer((json_int_t)r->waited_ns));
	json_object_set_new(j, "waited_for", any_string(who));
	json_object_set_new(j, "waited_for_tid", json_integer(r->waited_tid));
	json_object_set_new(j, "blockers", remote_report_json(rep, syms));
	json_array_append_new(o->blocks, j);
}

static const char *dry_text(const struct vac__ctl_result *r, int err)
{
	switch (err) {
	case 0: return "possible";
	case -EBUSY: return r->blockers ? "held" : "busy";
	case -ENOMEM: return "no memory";
	case -EALREADY: return "not online";
	default: return "failed";
	}
}

static void add_dry_row(struct offline *o, const struct target_block *b,
			const struct vac__ctl_result *r, int err, const struct remote_report *rep)
{
	char a[SIZE_TEXT_MAX];

	out_table_row(o->tb);
	out_table_cell(o->tb, "%" PRIu32, b->t->pool.pid);
	out_table_cell(o->tb, "%" PRIu32, b->id);
	out_table_cell(o->tb, "%s", dry_text(r, err));
	out_table_cell(o->tb, "%s", size_text(r->possible_bytes, a, sizeof(a)));
	out_table_cell(o->tb, "%s", size_text(remote_report_bytes(rep), a, sizeof(a)));
	out_table_cell(o->tb, "%s", size_text(r->missing_bytes, a, sizeof(a)));
}

static void add_row(struct offline *o, const struct target_block *b,
		    const struct vac__ctl_result *r, int err)
{
	char a[SIZE_TEXT_MAX], who[VAC_OWNER_MAX];

	memcpy(who, r->waited_for, sizeof(who));
	target_clean(who, sizeof(who));
	out_table_row(o->tb);
	out_table_cell(o->tb, "%" PRIu32, b->t->pool.pid);
	out_table_cell(o->tb, "%" PRIu32, b->id);
	out_table_cell(o->tb, "%s", !err ? "offline" : err == -EALREADY ? "not online" : "failed");
	out_table_cell(o->tb, "%s", size_text(r->bytes_moved, a, sizeof(a)));
	out_table_cell(o->tb, "%.3f s", (double)r->elapsed_ns / 1e9);
	out_table_cell(o->tb, "%.3f s", (double)r->waited_ns / 1e9);
	out_table_cell(o->tb, "%s", who);
	out_table_cell(o->tb, "%s", size_text(r->given_back_bytes, a, sizeof(a)));
	out_table_cell(o->tb, "%s", size_text(r->missing_bytes, a, sizeof(a)));
}

static void explain(const struct offline *o, const struct targets *ts, const struct target_block *b,
		    const struct vac__ctl_result *r, int err, const struct remote_report *rep,
		    struct symbols *syms)
{
	char name[64], a[SIZE_TEXT_MAX];

	target_block_text(ts, b, name, sizeof(name));
	if (r->missing_bytes)
		out_error("%s: %s: %s more is needed", name, error_text(o, r, err),
			  size_text(r->missing_bytes, a, sizeof(a)));
	else
		out_error("%s: %s", name, error_text(o, r, err));
	remote_report_print(rep, syms, stderr);
}

static void take(struct offline *o, const struct targets *ts, const struct target_block *b)
{
	struct remote_report rep = {0};
	struct vac__ctl_result r = {0};
	struct symbols *syms = NULL;
	struct ctl_call q = {.op = VAC__CTL_OFFLINE,
			     .body = &o->q,
			     .body_bytes = sizeof(o->q),
			     .fd = -1,
			     .timeout_ms = -1,
			     .tell = show_progress,
			     .interrupt = &interrupted};
	int err, rc;

	o->q.id = b->id;
	if (!(o->q.flags & VAC__CTL_DETACH))
		q.want = sizeof(r);
	err = o->cancel ? ctl_two(&b->t->c, VAC__CTL_CANCEL, b->id, 0, 0) : ctl_call(&b->t->c, &q);
	out_progress_end();
	/* A refusal of the offline itself has a body; one of the request has none. */
	if (b->t->c.in.head.bytes == sizeof(b->t->c.in.head) + sizeof(r))
		r = b->t->c.in.u.result;
	if (err && r.blockers) {
		if (remote_report(b->t, r.blockers, &rep))
			remote_report_free(&rep);
		syms = remote_symbols(b->t);
	}
	rc = o->cancel ? (err ? CMD_ERROR : CMD_OK) : rc_of(o, &r, err);
	o->done += rc == CMD_OK;
	o->partly += rc == CMD_PARTLY;
	if (rc && !o->failed_rc)
		o->failed_rc = rc;
	if (o->json)
		add_json(o, b, &r, err, &rep, syms);
	else if (q.want && !o->cancel && is_dry(o))
		add_dry_row(o, b, &r, err, &rep);
	else if (q.want && !o->cancel)
		add_row(o, b, &r, err);
	if (!err && (o->q.flags & VAC__CTL_DETACH) && !o->json)
		out_msg("the offline of block %" PRIu32 " goes on in the program", b->id);
	if (o->cancel && err == -EALREADY)
		out_error("block %" PRIu32 ": no offline of it is under way", b->id);
	else if (err)
		explain(o, ts, b, &r, err, &rep, syms);
	remote_report_free(&rep);
	symbols_close(syms);
}

static int take_all(struct offline *o, struct targets *ts)
{
	static const struct out_column cols[] = {
		{"PID", 1},    {"BLOCK", 1},      {"RESULT", 0},     {"MOVED", 1},   {"TIME", 1},
		{"WAITED", 1}, {"WAITED-FOR", 0}, {"GIVEN-BACK", 1}, {"MISSING", 1},
	};
	static const struct out_column dry[] = {
		{"PID", 1},     {"BLOCK", 1}, {"RESULT", 0},
		{"MOVABLE", 1}, {"HELD", 1},  {"MISSING", 1},
	};
	bool table = !o->json && !o->cancel && !(o->q.flags & VAC__CTL_DETACH);
	struct sigaction sa = {.sa_handler = on_signal};
	int err = 0;

	o->tb = !table      ? NULL
		: is_dry(o) ? out_table_new(dry, sizeof(dry) / sizeof(dry[0]))
			    : out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	o->blocks = json_array();
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	for (unsigned i = 0; i < ts->n_blocks && !interrupted; i++)
		take(o, ts, &ts->block[i]);
	if (o->json)
		err = out_json(json_pack("{s:O}", "blocks", o->blocks));
	else if (table)
		err = out_table_print(o->tb);
	json_decref(o->blocks);
	if (err)
		return CMD_ERROR;
	if (interrupted && !o->failed_rc)
		o->failed_rc = CMD_ERROR;
	if (!o->failed_rc)
		return CMD_OK;
	return o->done || o->partly ? CMD_PARTLY : o->failed_rc;
}

enum {
	OPT_TIMEOUT = 256,
	OPT_WRITERS,
	OPT_BEST,
	OPT_REVOKE,
	OPT_DRY,
	OPT_DETACH,
	OPT_CANCEL,
	OPT_CANCEL_IO,
	OPT_JSON
};

static int parse(struct offline *o, int argc, char **argv)
{
	static const struct option options[] = {
		{"timeout", required_argument, NULL, OPT_TIMEOUT},
		{"writers", required_argument, NULL, OPT_WRITERS},
		{"best-effort", no_argument, NULL, OPT_BEST},
		{"revoke", no_argument, NULL, OPT_REVOKE},
		{"dry-run", no_argument, NULL, OPT_DRY},
		{"detach", no_argument, NULL, OPT_DETACH},
		{"cancel", no_argument, NULL, OPT_CANCEL},
		{"cancel-io", no_argument, NULL, OPT_CANCEL_IO},
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	uint64_t ns, pct;
	int c;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_TIMEOUT:
			if (opt_time(&ctx, "--timeout", optarg, 1000000, 86400000000000, &ns))
				return CMD_USAGE;
			o->q.timeout_ms = (int64_t)(ns / 1000000);
			break;
		case OPT_WRITERS:
			if (opt_number(&ctx, "--writers", optarg, 0, 95, &pct))
				return CMD_USAGE;
			o->q.flags &= ~VAC__CTL_WRITERS_MASK;
			o->q.flags |= (uint32_t)pct << VAC__CTL_WRITERS;
			break;
		case OPT_BEST: o->q.flags |= VAC__CTL_BEST_EFFORT; break;
		case OPT_REVOKE: o->q.flags |= VAC__CTL_REVOKE; break;
		case OPT_DRY: o->q.flags |= VAC__CTL_DRY_RUN; break;
		case OPT_DETACH: o->q.flags |= VAC__CTL_DETACH; break;
		case OPT_CANCEL: o->cancel = true; break;
		case OPT_CANCEL_IO: o->q.flags |= VAC__CTL_CANCEL_IO; break;
		case OPT_JSON: o->json = true; break;
		case 'h': cmd_offline_usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	if (o->cancel && (o->q.flags || o->q.timeout_ms))
		return opt_error(&ctx, "--cancel goes with --json only");
	if ((o->q.flags & VAC__CTL_DETACH) && (o->q.flags & VAC__CTL_DRY_RUN))
		return opt_error(
			&ctx, "--detach does not go with --dry-run: nobody would see the answer");
	return -1;
}

int cmd_offline(int argc, char **argv)
{
	struct offline o = {0};
	struct targets ts;
	int rc;

	out_set_prefix("vacate offline");
	if (host_wanted(argc, argv))
		return cmd_host_offline(argc, argv);
	opterr = 0;
	rc = parse(&o, argc, argv);
	if (rc >= 0)
		return rc;
	rc = targets_parse(&ts, &ctx, TARGET_BLOCKS, argv + optind, argc - optind);
	if (rc < 0)
		rc = take_all(&o, &ts);
	targets_free(&ts);
	return rc;
}

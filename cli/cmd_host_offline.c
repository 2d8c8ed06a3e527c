/* SPDX-License-Identifier: MIT */
/*
 * vacate offline host:N: take the host's own memory blocks away.
 *
 * host/act.c does one block; this goes through those that are asked for, or chooses them, prints, and looks
 * in the end whether something has brought one back.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd.h"
#include "cmd_host.h"
#include "host/act.h"
#include "host/suspend.h"
#include "host_args.h"
#include "out.h"

static const struct opt_ctx ctx = {"offline"};

#define VICTIMS 64

static volatile int interrupted; /* signals so far; int is written whole, see sig_atomic_t */

/* A second one leaves at once: the kernel ends our children, and the guardian lets everybody go on. */
static void on_signal(int sig)
{
	(void)sig;
	if (interrupted++)
		_exit(CMD_ERROR);
}

struct job {
	bool json, thaw;
	const char *sysroot;
	uint64_t bytes; /* 0: the blocks that are named */
	int node;       /* -1: any */
	struct host_act act;
	struct host_victim victim[VICTIMS];
	struct host *h;
	struct out_table *tb;
	json_t *blocks;
	uint64_t gone; /* bytes, by us or before */
	unsigned done, failed;
	int failed_rc;            /* of the first that failed */
	struct host_block **left; /* that we have taken away */
	unsigned n_left;
	char advised[64]; /* the device that advice was last given on */
};

static void show_progress(void *arg, const struct host_progress *p)
{
	const struct job *j = arg;
	double page = j->h->page_bytes / 1048576.0;

	if (!p->left || !p->used)
		out_progress("block %" PRIu32 ": %s, %.1f s", p->block->id, p->phase, p->seconds);
	else
		out_bar(p->used > p->left ? 1 - (double)p->left / (double)p->used : 0,
			"block %" PRIu32 ": %.1f of %.1f MiB left, %.1f s", p->block->id,
			(double)p->left * page, (double)p->used * page, p->seconds);
}

static int rc_of_verdict(enum host_verdict v)
{
	switch (v) {
	case HOST_EBUSY: return CMD_UNMOVABLE;
	case HOST_UNKILLABLE: return CMD_REFUSED;
	case HOST_NO_TARGET: return CMD_NO_TARGET;
	default: return CMD_HELD;
	}
}

static int rc_of(const struct host_outcome *o)
{
	const struct host_why *w = o->have_after ? &o->after : &o->before;
	bool known = o->have_after || o->have_before;

	switch (o->result) {
	case HOST_DONE:
	case HOST_ALREADY:
	case HOST_WOULD: return CMD_OK;
	case HOST_WOULD_NOT:
		/* Without a verdict that says so, it is locked pages that keep it. */
		return o->before.verdict == HOST_GOES ? CMD_REFUSED
						      : rc_of_verdict(o->before.verdict);
	case HOST_REFUSED: return o->before.verdict == HOST_NO_TARGET ? CMD_NO_TARGET : CMD_REFUSED;
	case HOST_TIMEOUT: return known && w->verdict == HOST_NO_TARGET ? CMD_NO_TARGET : CMD_HELD;
	case HOST_KERNEL_EBUSY: return CMD_UNMOVABLE;
	default: return CMD_ERROR;
	}
}

static void add_json(struct job *j, struct host_block *b, const struct host_outcome *o)
{
	json_t *k = o->have_before ? host_why_json(j->h, b, &o->before) : json_object();
	char text[512];

	json_object_set_new(k, "block", json_integer(b->id));
	json_object_set_new(k, "node", json_integer(b->node));
	json_object_set_new(k, "result", json_string(host_result_name(o->result)));
	json_object_set_new(k, "done",
			    json_boolean(o->result == HOST_DONE || o->result == HOST_ALREADY));
	json_object_set_new(k, "error", json_integer(o->err));
	json_object_set_new(k, "message", json_string(o->message));
	json_object_set_new(k, "seconds", json_real(o->seconds));
	json_object_set_new(k, "waited_seconds", json_real(o->waited_s));
	json_object_set_new(k, "bytes_to_move",
			    json_integer((json_int_t)(o->used * j->h->page_bytes)));
	json_object_set_new(k, "bytes_left",
			    json_integer((json_int_t)(o->left * j->h->page_bytes)));
	json_object_set_new(k, "suspended", json_integer(o->suspended));
	json_object_set_new(k, "ended", json_integer(o->ended));
	if (host_device_advice(b, text, sizeof(text)))
		json_object_set_new(k, "device_advice", json_string(text));
	if (o->have_after)
		json_object_set_new(k, "after", host_why_json(j->h, b, &o->after));
	json_array_append_new(j->blocks, k);
}

static void add_row(struct job *j, const struct host_block *b, const struct host_outcome *o)
{
	char a[SIZE_TEXT_MAX];

	out_table_row(j->tb);
	out_table_cell(j->tb, "%" PRIu32, b->id);
	out_table_cell(j->tb, "%d", b->node);
	out_table_cell(j->tb, "%s", o->have_before ? host_verdict_name(o->before.verdict) : "-");
	out_table_cell(j->tb, "%s", host_result_name(o->result));
	out_table_cell(j->tb, "%s", size_text(o->used * j->h->page_bytes, a, sizeof(a)));
	out_table_cell(j->tb, "%s", size_text(o->left * j->h->page_bytes, a, sizeof(a)));
	out_table_cell(j->tb, "%.3f s", o->seconds);
	out_table_cell(j->tb, "%.3f s", o->waited_s);
}

static void print_holders(const struct host_why *w)
{
	char fd[16];

	for (unsigned i = 0; i < w->n_holders; i++) {
		const struct host_holder *o = &w->holders[i];

		fd[0] = '\0';
		if (o->fd >= 0)
			snprintf(fd, sizeof(fd), " fd %d", o->fd);
		if (o->pid > 0)
			fprintf(stderr, "  %d (%s)%s%s%s: %s, %" PRIu64 " pages, %s\n", (int)o->pid,
				o->comm, fd, o->unit && *o->unit ? " of " : "",
				o->unit ? o->unit : "", host_kind_name(o->kind), o->pages,
				host_evidence_name(o->evidence));
		else
			fprintf(stderr, "  %s, %" PRIu64 " pages, %s\n", host_kind_name(o->kind),
				o->pages, host_evidence_name(o->evidence));
	}
	for (unsigned i = 0; i < w->n_advice; i++)
		fprintf(stderr, "  %s\n", w->advice[i]);
}

static void explain(struct job *j, const struct host_block *b, const struct host_outcome *o)
{
	const struct host_why *w = o->have_after ? &o->after : o->have_before ? &o->before : NULL;
	static const char *const what[HOST_RESULTS] = {
		[HOST_WOULD_NOT] = "it would not leave",
		[HOST_REFUSED] =
			"refused, as it could not be undone: the kernel would wait, beyond "
			"the reach of signals",
		[HOST_TIMEOUT] = "it is online as before; the deadline has passed",
		[HOST_INTERRUPTED] = "it is online as before; interrupted",
		[HOST_KERNEL_EBUSY] = "the kernel refuses it",
		[HOST_STUCK] = "the kernel does not come back",
		[HOST_CAME_BACK] = "it was offline, and something has brought it back",
		[HOST_FAILED] = "failed",
	};
	const char *why = what[o->result];
	char text[512];

	if (o->result == HOST_REFUSED && w && w->verdict == HOST_NO_TARGET)
		why = "not begun, as the kernel would fill what is free elsewhere first";
	if (why)
		out_error("block %" PRIu32 ": %s%s%s%s%s", b->id, why,
			  w && w->reason && o->result != HOST_FAILED ? ": " : "",
			  w && w->reason && o->result != HOST_FAILED ? w->reason : "",
			  *o->message ? ": " : "", o->message);
	else if (*o->message)
		out_error("block %" PRIu32 ": %s", b->id, o->message);
	if (what[o->result] && w)
		print_holders(w);
	/* Once a device: its blocks come one after the other. */
	if (o->result == HOST_DONE && !j->json && strcmp(j->advised, b->device) &&
	    host_device_advice(b, text, sizeof(text))) {
		snprintf(j->advised, sizeof(j->advised), "%s", b->device);
		out_msg("block %" PRIu32 ": %s", b->id, text);
	}
}

static int take(struct job *j, struct host_block *b)
{
	struct host_outcome o;
	int rc;

	host_block_offline(j->h, b, &j->act, &o);
	out_progress_end();
	rc = rc_of(&o);
	if (rc == CMD_OK) {
		j->done++;
		j->gone += b->frames * j->h->page_bytes;
		if (o.result == HOST_DONE)
			j->left[j->n_left++] = b;
	} else {
		j->failed++;
		j->failed_rc = j->failed_rc ? j->failed_rc : rc;
	}
	if (j->json)
		add_json(j, b, &o);
	else
		add_row(j, b, &o);
	explain(j, b, &o);
	host_outcome_free(&o);
	return rc;
}

/* ---- What is brought back ---- */

static void warn(void *arg, const char *text)
{
	(void)arg;
	out_error("%s", text);
}

static void came_back(struct job *j, const struct host_block *b)
{
	json_t *k;
	size_t i;

	out_error("block %" PRIu32 " does not stay offline", b->id);
	j->done--;
	j->failed++;
	j->failed_rc = j->failed_rc ? j->failed_rc : CMD_ERROR;
	j->gone -= b->frames * j->h->page_bytes;
	json_array_foreach(j->blocks, i, k)
	{
		if (json_integer_value(json_object_get(k, "block")) != b->id)
			continue;
		json_object_set_new(k, "result", json_string(host_result_name(HOST_CAME_BACK)));
		json_object_set_new(k, "done", json_false());
	}
}

/*
 * A rule of udev acts when it hears of the change, a moment later. What came back is taken away once more;
 * who brings it back twice means it, and is left to the administrator.
 */
static void settle(struct job *j, bool expected)
{
	struct timespec pause = {0, 100000000};

	for (int i = 0; i < (expected ? 15 : 3) && !interrupted; i++) {
		nanosleep(&pause, NULL);
		for (unsigned k = 0; k < j->n_left; k++) {
			struct host_block *b = j->left[k];
			struct host_outcome o;

			if (host_block_refresh(j->h, b) || b->state != HOST_ONLINE)
				continue;
			out_error("block %" PRIu32 " was brought online again by somebody else; "
				  "taking it away once more",
				  b->id);
			host_audit(j->h, "came-back", b, "somebody else brought it online");
			host_block_offline(j->h, b, &j->act, &o);
			host_outcome_free(&o);
			nanosleep(&pause, NULL);
			if (host_block_refresh(j->h, b) || b->state != HOST_ONLINE)
				continue;
			came_back(j, b);
			j->left[k] = j->left[--j->n_left];
			k--;
		}
	}
}

/* ---- All of them ---- */

static int take_bytes(struct job *j)
{
	uint32_t *ids = NULL;
	int n = host_pick(j->h, j->node, &ids);
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];

	if (n < 0) {
		out_error("the frames cannot be looked at: %s", host_message(j->h));
		return CMD_ERROR;
	}
	/* Who is in the way is not waited for while there are other blocks. */
	j->act.only_if_goes = !j->act.wait;
	for (int i = 0; i < n && j->gone < j->bytes && !interrupted; i++) {
		struct host_block *blk = host_block(j->h, ids[i]);

		if (blk)
			take(j, blk);
	}
	free(ids);
	if (j->gone >= j->bytes) {
		/* It has got what was asked for, whatever was passed over. */
		j->failed = 0;
		return -1;
	}
	out_error("%s of %s: no more blocks can leave now", size_text(j->gone, a, sizeof(a)),
		  size_text(j->bytes, b, sizeof(b)));
	if (!j->failed_rc)
		j->failed_rc = CMD_UNMOVABLE;
	j->failed++;
	return -1;
}

static int take_all(struct job *j, const struct host_args *args)
{
	static const struct out_column cols[] = {
		{"BLOCK", 1}, {"NODE", 1}, {"FORESEEN", 0}, {"RESULT", 0},
		{"USED", 1},  {"LEFT", 1}, {"TIME", 1},     {"WAITED", 1},
	};
	struct sigaction sa = {.sa_handler = on_signal};
	bool expected = false;
	int rc = -1;

	j->left = calloc(j->h->n_blocks + 1, sizeof(struct host_block *));
	j->blocks = json_array();
	j->tb = j->json ? NULL : out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	if (!j->left || !j->blocks || (!j->json && !j->tb)) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	if (j->bytes || args->whole)
		expected = host_comebacks(j->h, warn, NULL) > 0;
	if (j->bytes)
		rc = take_bytes(j);
	for (unsigned i = 0; !j->bytes && i < args->n && !interrupted; i++)
		take(j, args->block[i]);
	if (j->n_left)
		settle(j, expected);
	for (unsigned i = 0; i < j->act.n_victims; i++)
		if (!j->act.victims[i].seen && !j->act.dry_run)
			out_error("%d holds nothing of these blocks, and is not ended",
				  (int)j->act.victims[i].pid);
	if (j->json ? out_json(json_pack("{s:O}", "blocks", j->blocks)) : out_table_print(j->tb))
		rc = CMD_ERROR;
	if (rc >= 0)
		return rc;
	if (interrupted && !j->failed) {
		j->failed++;
		j->failed_rc = CMD_ERROR;
	}
	if (!j->failed)
		return CMD_OK;
	return j->done ? CMD_PARTLY : j->failed_rc;
}

/* ---- Options ---- */

enum {
	OPT_TIMEOUT = 256,
	OPT_DRY,
	OPT_JSON,
	OPT_WAIT,
	OPT_SUSPEND,
	OPT_KILL,
	OPT_FORCE,
	OPT_BYTES,
	OPT_NODE,
	OPT_SYSROOT,
	OPT_THAW,
};

static int parse_how(struct job *j, const char *text)
{
	j->act.suspend = true;
	for (int how = HOST_HOW_AUTO; how <= HOST_HOW_STOP; how++) {
		if (!text || !strcmp(text, host_how_name((enum host_how)how))) {
			j->act.how = (enum host_how)how;
			return -1;
		}
	}
	return opt_error(&ctx, "--suspend: '%s' is no way; auto, trace, freezer and stop are",
			 text);
}

static int parse_victim(struct job *j, const char *text)
{
	struct host_victim *v = &j->victim[j->act.n_victims];
	unsigned long long start = 0;
	int pid, end = 0;

	if (j->act.n_victims == VICTIMS)
		return opt_error(&ctx, "--kill: at most %d processes", VICTIMS);
	if (sscanf(text, "%d%n:%llu%n", &pid, &end, &start, &end) < 1 || text[end] || pid <= 1)
		return opt_error(
			&ctx,
			"--kill: '%s' is no process; PID or PID:START are accepted, as 'vacate "
			"why --json' prints them",
			text);
	*v = (struct host_victim){.pid = pid, .start_ticks = start};
	j->act.victims = j->victim;
	j->act.n_victims++;
	return -1;
}

static int parse(struct job *j, int argc, char **argv)
{
	static const struct option options[] = {
		{"timeout", required_argument, NULL, OPT_TIMEOUT},
		{"dry-run", no_argument, NULL, OPT_DRY},
		{"json", no_argument, NULL, OPT_JSON},
		{"wait", no_argument, NULL, OPT_WAIT},
		{"suspend", optional_argument, NULL, OPT_SUSPEND},
		{"kill", required_argument, NULL, OPT_KILL},
		{"force", no_argument, NULL, OPT_FORCE},
		{"bytes", required_argument, NULL, OPT_BYTES},
		{"node", required_argument, NULL, OPT_NODE},
		{"sysroot", required_argument, NULL, OPT_SYSROOT},
		{"thaw", no_argument, NULL, OPT_THAW},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	uint64_t n;
	int c, rc = -1;

	while (rc < 0 && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_TIMEOUT:
			if (opt_time(&ctx, "--timeout", optarg, 1000000, 86400000000000,
				     &j->act.timeout_ns))
				return CMD_USAGE;
			break;
		case OPT_DRY: j->act.dry_run = true; break;
		case OPT_JSON: j->json = true; break;
		case OPT_WAIT: j->act.wait = true; break;
		case OPT_SUSPEND: rc = parse_how(j, optarg); break;
		case OPT_KILL: rc = parse_victim(j, optarg); break;
		case OPT_FORCE: j->act.force = true; break;
		case OPT_BYTES:
			if (opt_size(&ctx, "--bytes", optarg, 1, UINT64_MAX / 4, &j->bytes))
				return CMD_USAGE;
			break;
		case OPT_NODE:
			if (opt_number(&ctx, "--node", optarg, 0, 65535, &n))
				return CMD_USAGE;
			j->node = (int)n;
			break;
		case OPT_SYSROOT: j->sysroot = optarg; break;
		case OPT_THAW: j->thaw = true; break;
		case 'h': cmd_offline_usage(); return CMD_OK;
		default:
			return opt_error(
				&ctx,
				"'%s' is no option for blocks of the host, or is short for more than one, "
				"or a value is wrong",
				argv[optind - 1]);
		}
	}
	return rc;
}

static int check(struct job *j, const struct host_args *a)
{
	if (a->n && (j->bytes || j->node >= 0))
		return opt_error(&ctx,
				 "--bytes and --node choose blocks of 'host'; none is named then");
	if (!a->n && !j->bytes && j->node < 0)
		return opt_error(
			&ctx,
			"a block is missing: host:32, host:node1, or host with --bytes or --node");
	if (j->sysroot && (j->act.suspend || j->act.n_victims))
		return opt_error(
			&ctx,
			"--suspend and --kill are for the running machine, not for --sysroot");
	return -1;
}

int cmd_host_offline(int argc, char **argv)
{
	struct job j = {.node = -1, .act = {.timeout_ns = 10000000000, .interrupt = &interrupted}};
	struct host_args args = {0};
	char node[32], *one = node;
	int rc, n;

	opterr = 0;
	optind = 1;
	rc = parse(&j, argc, argv);
	if (rc >= 0)
		return rc;
	j.act.tell = show_progress;
	j.act.arg = &j;
	/* First of all, and also where nothing else is to do. */
	n = j.sysroot ? 0 : host_suspend_recover();
	if (n > 0)
		out_error("%d processes or cgroups go on again that a killed vacate had suspended",
			  n);
	if (j.thaw)
		return CMD_OK;
	rc = host_args_open(&j.h, j.sysroot);
	if (rc >= 0)
		return rc;
	rc = host_args_parse(&args, &ctx, j.h, argv + optind, argc - optind);
	if (rc < 0)
		rc = check(&j, &args);
	if (rc < 0 && j.node >= 0 && !j.bytes) {
		snprintf(node, sizeof(node), "host:node%d", j.node);
		host_args_free(&args);
		rc = host_args_parse(&args, &ctx, j.h, &one, 1);
	}
	if (rc < 0)
		rc = take_all(&j, &args);
	json_decref(j.blocks);
	free(j.left);
	host_args_free(&args);
	host_close(j.h);
	return rc;
}

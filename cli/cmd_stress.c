/* SPDX-License-Identifier: MIT */
/*
 * vacate stress: workloads of choice over a nearly full pool whose blocks leave and come back for
 * as long as asked, with checks of everything in between.
 *
 * Which block leaves next, and every choice of every thread, follows from the seed; what the
 * threads do to each other does not.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cmd.h"
#include "opt.h"
#include "out.h"
#include "report_json.h"
#include "session.h"
#include "workload.h"

#define MIB ((uint64_t)1 << 20)
#define DEFAULT_POOL (512 * MIB)
#define DEFAULT_BLOCKS 8
#define MIN_BLOCKS 3
#define FILL_PERCENT 90 /* of all blocks but one */
#define DEFAULT_DURATION_NS 10000000000u
#define DEFAULT_CHECK 16 /* cycles between two checks */
#define OFFLINE_TIMEOUT_NS 20000000000u
#define HANG_S 60
#define TIME_MAX_NS 50000000000u /* of one wait or hold: must not look like a hang */
#define WARM_NS 500000000u
#define REPORTS_MAX 64 /* failed offlines whose blockers are kept for the output */
#define BLOCKERS_MAX 4 /* of each of them */
#define FAILED_SHOWN 10

static const struct opt_ctx ctx = {"stress"};

/* Names that will mean something one day: they deserve a better answer than "unknown". */
static const char *const reserved[] = {"foreign"};

struct stress {
	struct session s;
	struct wl_run run;
	bool json, sweep_at_checks, compact;
	pthread_t compactor;
	_Atomic bool compact_stop;
	const struct wl_class *mix[WL_MAX_GROUPS];
	unsigned n_mix;
	uint64_t threads;
	uint64_t duration_ns, timeout_ns;
	double rate;          /* offlines a second, 0: as fast as possible */
	uint64_t check_every; /* cycles; 0: only at the end */
	uint64_t rng;

	double memcpy_bytes_per_s;
	uint64_t used_frames; /* what the quiet pool must have in use */
	_Atomic uint64_t attempted, succeeded, failed, bytes_moved;
	uint64_t failed_by_error[3]; /* held, no target memory, other */
	uint64_t busy_ns, cpu_ns, waited_ns, checks, given_back;
	_Atomic uint64_t t0_ns, end_ns; /* read by the ticker */
	json_t *blockers;
	unsigned reports;
	struct symbols *syms;
};

static void usage(void)
{
	puts("Usage: vacate stress [OPTIONS]\n"
	     "\n"
	     "Run workloads over a nearly full pool while its blocks leave and come back, and check\n"
	     "every byte.\n"
	     "\n"
	     "Options:\n"
	     "      --pool SIZE          memory in all blocks (default 512M)\n"
	     "      --block SIZE         of one block, a power of two from 2M to 1G (default: an\n"
	     "                           eighth of the pool)\n"
	     "      --threads N          of all workloads together (default: twice the processors,\n"
	     "                           at least one a workload)\n"
	     "      --workload MIX       names separated by commas (default all):");
	for (unsigned k = 0; wl_nth(k); k++)
		printf("                             %-9s %s\n", wl_nth(k)->name, wl_nth(k)->what);
	puts("      --offline-rate N     offlines a second (default 0: as fast as possible)\n"
	     "      --duration TIME      seconds, or like 30m, 1h (default 10s)\n"
	     "      --timeout TIME       of each offline (default 20s)\n"
	     "      --hold TIME          longest time that the holder keeps its pages (default 2s)\n"
	     "      --seed N             of all random choices (default: random, and printed)\n"
	     "      --guard NAME         auto, sigsegv or userfaultfd (default auto)\n"
	     "      --zone NAME          of the blocks: movable or normal (default movable)\n"
	     "      --base-only          fill memory with 4 KiB folios only\n"
	     "      --no-huge            use 4 KiB host pages only\n"
	     "      --compact            gather free memory and make huge folios all the while\n"
	     "      --check[=K]          pause all threads and check the whole pool after every K\n"
	     "                           offlines (default 16; --check alone: 1; 0: at the end only)\n"
	     "      --verify             at each check, verify all memory too\n"
	     "      --swap FILE[:SIZE]   let the data be twice the pool, with a swap file, which is made\n"
	     "                           if it is missing (default SIZE: twice the pool)\n"
	     "      --control[=PATH]     open a control socket, for vacate ls, why, offline, ...\n"
	     "      --json               print the results as one JSON object\n"
	     "  -h, --help               this text\n"
	     "\n"
	     "Ctrl-C ends early and prints the results; twice, at once.\n"
	     "Exit status: 0 nothing was found wrong, 1 something was, 2 usage.\n"
	     "\n"
	     "Example: vacate stress --workload records,dio,holder --duration 30s --json");
}

static void list_mix(char *buf, size_t len)
{
	size_t n = 0;

	for (unsigned k = 0; wl_nth(k) && n < len; k++)
		n += (size_t)snprintf(buf + n, len - n, "%s, ", wl_nth(k)->name);
	if (n < len)
		snprintf(buf + n, len - n, "all");
}

/* One name of the mix. 0, or CMD_USAGE with a message printed. */
static int add_to_mix(struct stress *st, const char *name)
{
	const struct wl_class *cls = wl_find(name);
	char known[256];

	if (!strcmp(name, "all")) {
		for (unsigned k = 0; wl_nth(k); k++)
			add_to_mix(st, wl_nth(k)->name);
		return 0;
	}
	for (unsigned k = 0; k < sizeof(reserved) / sizeof(reserved[0]); k++) {
		if (!strcmp(name, reserved[k]))
			return opt_error(&ctx, "--workload: '%s' is not built yet", name);
	}
	if (!cls) {
		list_mix(known, sizeof(known));
		return opt_error(&ctx, "--workload: there is no workload '%s'; there are: %s", name,
				 known);
	}
	for (unsigned k = 0; k < st->n_mix; k++) {
		if (st->mix[k] == cls)
			return 0;
	}
	st->mix[st->n_mix++] = cls;
	return 0;
}

static int parse_mix(struct stress *st, const char *list)
{
	char *copy = strdup(list), *rest = copy, *name;
	int rc = 0;

	if (!copy)
		return CMD_ERROR;
	st->n_mix = 0;
	while (!rc && (name = strsep(&rest, ",")))
		rc = add_to_mix(st, name);
	free(copy);
	return rc;
}

static int parse_guard(const char *name, enum vac_guard *guard)
{
	if (guard_from_name(name, guard) == 0)
		return 0;
	return opt_error(&ctx, "--guard: '%s' is not a guard; auto, sigsegv and userfaultfd are",
			 name);
}

static int parse_zone(const char *name, enum vac_zone *zone)
{
	if (!strcmp(name, "movable"))
		*zone = VAC_ZONE_MOVABLE;
	else if (!strcmp(name, "normal"))
		*zone = VAC_ZONE_NORMAL;
	else
		return opt_error(&ctx, "--zone: '%s' is not a zone; movable and normal are", name);
	return 0;
}

enum {
	OPT_POOL = 256,
	OPT_BLOCK,
	OPT_THREADS,
	OPT_WORKLOAD,
	OPT_RATE,
	OPT_DURATION,
	OPT_TIMEOUT,
	OPT_HOLD,
	OPT_SEED,
	OPT_GUARD,
	OPT_ZONE,
	OPT_BASE_ONLY,
	OPT_NO_HUGE,
	OPT_COMPACT,
	OPT_CHECK,
	OPT_VERIFY,
	OPT_SWAP,
	OPT_CONTROL,
	OPT_JSON,
};

static const struct option options[] = {
	{"pool", required_argument, NULL, OPT_POOL},
	{"block", required_argument, NULL, OPT_BLOCK},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"workload", required_argument, NULL, OPT_WORKLOAD},
	{"offline-rate", required_argument, NULL, OPT_RATE},
	{"duration", required_argument, NULL, OPT_DURATION},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"hold", required_argument, NULL, OPT_HOLD},
	{"seed", required_argument, NULL, OPT_SEED},
	{"guard", required_argument, NULL, OPT_GUARD},
	{"zone", required_argument, NULL, OPT_ZONE},
	{"base-only", no_argument, NULL, OPT_BASE_ONLY},
	{"no-huge", no_argument, NULL, OPT_NO_HUGE},
	{"compact", no_argument, NULL, OPT_COMPACT},
	{"check", optional_argument, NULL, OPT_CHECK},
	{"verify", no_argument, NULL, OPT_VERIFY},
	{"swap", required_argument, NULL, OPT_SWAP},
	{"control", optional_argument, NULL, OPT_CONTROL},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

/* FILE[:SIZE]. What follows the last colon is a size if it can be read as one. */
static int parse_swap(struct stress *st, char *text)
{
	char *colon = strrchr(text, ':');

	st->s.swap_path = text;
	if (!colon || opt_parse_size(colon + 1, &st->s.swap_bytes))
		return 0;
	*colon = '\0';
	return *text ? 0 : opt_error(&ctx, "--swap: a file's name is missing");
}

/* 0, or nonzero with a message printed. */
static int parse_option(struct stress *st, int c, char **argv)
{
	switch (c) {
	case OPT_POOL:
		return opt_size(&ctx, "--pool", optarg, MIN_BLOCKS * VAC_BLOCK_BYTES_MIN,
				(uint64_t)1 << 40, &st->s.pool_bytes);
	case OPT_BLOCK:
		return opt_size(&ctx, "--block", optarg, VAC_BLOCK_BYTES_MIN, VAC_BLOCK_BYTES_MAX,
				&st->s.block_bytes);
	case OPT_THREADS:
		return opt_number(&ctx, "--threads", optarg, 1, WL_MAX_WORKERS / 2, &st->threads);
	case OPT_WORKLOAD: return parse_mix(st, optarg);
	case OPT_RATE: return opt_real(&ctx, "--offline-rate", optarg, 0, 1e6, &st->rate);
	case OPT_DURATION:
		return opt_time(&ctx, "--duration", optarg, 100000000, UINT64_MAX,
				&st->duration_ns);
	case OPT_TIMEOUT:
		return opt_time(&ctx, "--timeout", optarg, 1000000, TIME_MAX_NS, &st->timeout_ns);
	case OPT_HOLD:
		return opt_time(&ctx, "--hold", optarg, 1000000, TIME_MAX_NS, &st->run.hold_ns);
	case OPT_SEED: return opt_number(&ctx, "--seed", optarg, 0, INT64_MAX, &st->run.seed);
	case OPT_GUARD: return parse_guard(optarg, &st->s.guard);
	case OPT_ZONE: return parse_zone(optarg, &st->s.zone);
	case OPT_BASE_ONLY: st->s.flags |= VAC_POOL_BASE_ONLY; return 0;
	case OPT_NO_HUGE: st->s.flags |= VAC_POOL_NO_HUGE; return 0;
	case OPT_COMPACT: st->compact = true; return 0;
	case OPT_CHECK:
		st->check_every = 1;
		return optarg ? opt_number(&ctx, "--check", optarg, 0, UINT32_MAX, &st->check_every)
			      : 0;
	case OPT_VERIFY: st->sweep_at_checks = true; return 0;
	case OPT_SWAP: return parse_swap(st, optarg);
	case OPT_CONTROL:
		st->s.with_control = true;
		st->s.control_path = optarg;
		return 0;
	case OPT_JSON: st->json = true; return 0;
	default: return opt_bad(&ctx, c, argv);
	}
}

/* -1: go on; else the exit status. */
static int parse(struct stress *st, int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (c == 'h') {
			usage();
			return CMD_OK;
		}
		if (parse_option(st, c, argv))
			return CMD_USAGE;
	}
	if (optind < argc)
		return opt_error(&ctx, "'%s' is not an option; there are no other arguments",
				 argv[optind]);
	if (!st->n_mix)
		add_to_mix(st, "all");
	if (!st->s.block_bytes) {
		st->s.block_bytes = VAC_BLOCK_BYTES_MIN;
		while (st->s.block_bytes * 2 * DEFAULT_BLOCKS <= st->s.pool_bytes &&
		       st->s.block_bytes < VAC_BLOCK_BYTES_MAX)
			st->s.block_bytes *= 2;
	}
	if (st->s.block_bytes & (st->s.block_bytes - 1))
		return opt_error(&ctx, "--block: %" PRIu64 " is not a power of two",
				 st->s.block_bytes);
	if (st->s.pool_bytes / st->s.block_bytes < MIN_BLOCKS)
		return opt_error(&ctx,
				 "--pool: %" PRIu64
				 " MiB is too little for at least %u blocks of %" PRIu64 " MiB",
				 st->s.pool_bytes >> 20, MIN_BLOCKS, st->s.block_bytes >> 20);
	st->s.pool_bytes = st->s.pool_bytes / st->s.block_bytes * st->s.block_bytes;
	for (unsigned k = 0; k < st->n_mix; k++)
		st->s.normal |= st->mix[k]->normal && st->s.zone == VAC_ZONE_MOVABLE;
	if (!st->threads)
		st->threads = cpus > 0 ? (uint64_t)cpus * 2 : 2;
	if (st->threads < st->n_mix)
		st->threads = st->n_mix;
	return -1;
}

/* ---- memory and threads ---- */

static uint64_t threads_of(const struct stress *st, unsigned k)
{
	uint64_t n = st->threads / st->n_mix + (k < st->threads % st->n_mix);

	return n < st->mix[k]->threads_min ? st->mix[k]->threads_min : n;
}

/*
 * Fill the pool to FILL_PERCENT of all blocks but one. What the small groups do not need is
 * shared by records and verify; verify's pages are there even if nobody reads them but the sweeps,
 * so that the pool is nearly full in every mix.
 */
static int fill(struct stress *st)
{
	uint64_t all = (st->s.pool_bytes - st->s.block_bytes) / 100 * FILL_PERCENT;
	uint64_t left, slack, churners = 0;
	int err = 0;

	for (unsigned k = 0; k < st->n_mix; k++) {
		if (st->mix[k] == &wl_map)
			churners = threads_of(st, k);
	}
	/* `map` shares half of what is left free, each mapping in pageblocks of its own. */
	slack = (st->s.pool_bytes - st->s.block_bytes - all) / 2;
	if (st->s.swap_path) { /* as much again as the pool has, or half of what the file takes: what
				* is in memory keeps its slots for a while, and a block is away */
		uint64_t more = st->s.swap_bytes / 2;

		all += more < st->s.pool_bytes ? more : st->s.pool_bytes;
	}
	left = all;
	st->run.churn_bytes = churners ? slack / churners : 0;
	if (st->run.churn_bytes > 4 * MIB)
		st->run.churn_bytes = 4 * MIB;
	if (st->run.churn_bytes < 64 << 10)
		st->run.churn_bytes = 64 << 10;

	for (unsigned k = 0; k < st->n_mix && !err; k++) {
		const struct wl_class *cls = st->mix[k];

		if (cls == &wl_verify || cls == &wl_records)
			continue;
		err = wl_run_add(&st->run, cls, (unsigned)threads_of(st, k), left);
		if (err)
			break;
		slack = st->run.groups[st->run.n_groups - 1].bytes;
		left = left > slack ? left - slack : 0;
	}
	for (unsigned k = 0; k < st->n_mix && !err; k++) {
		if (st->mix[k] != &wl_records)
			continue;
		err = wl_run_add(&st->run, &wl_records, (unsigned)threads_of(st, k), left / 2);
		left -= left / 2;
	}
	if (err)
		return err;
	for (unsigned k = 0; k < st->n_mix; k++) {
		if (st->mix[k] == &wl_verify)
			return wl_run_add(&st->run, &wl_verify, (unsigned)threads_of(st, k), left);
	}
	return wl_run_add(&st->run, &wl_verify, 0, left);
}

/* ---- compaction ---- */

static void *compact(void *arg)
{
	struct stress *st = arg;

	while (!atomic_load(&st->compact_stop)) {
		struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
		struct timespec rest = {.tv_nsec = 5000000};
		int r;

		o.timeout_ms = 1000;
		r = vac_pool_compact(st->s.pool, &o, NULL);
		if (r == -EOPNOTSUPP) /* said below; what needs no copy is done all the same */
			rest.tv_nsec = 100000000;
		else if (r < 0 && r != -ETIMEDOUT)
			wl_fault(&st->run, "a compaction answers %s", vac_strerror(r));
		nanosleep(&rest, NULL);
	}
	return NULL;
}

static int start_compaction(struct stress *st)
{
	struct vac_pool_stats ps = VAC_INIT(struct vac_pool_stats);
	int r;

	if (!st->compact)
		return 0;
	vac_pool_stats(st->s.pool, &ps);
	if (!ps.sees_holders)
		out_msg("holders cannot be seen here: only what needs no copy is collapsed");
	r = -pthread_create(&st->compactor, NULL, compact, st);
	if (r)
		out_error("no thread for the compaction: %s", strerror(-r));
	st->compact = r == 0;
	return r;
}

static void stop_compaction(struct stress *st)
{
	if (!st->compact)
		return;
	atomic_store(&st->compact_stop, true);
	pthread_join(st->compactor, NULL);
}

/* ---- the cycle ---- */

static void keep_report(struct stress *st, const struct cycle *c)
{
	json_t *some;

	if (st->reports >= REPORTS_MAX || !c->res.report)
		return;
	st->reports++;
	if (!st->syms)
		st->syms = symbols_open();
	some = report_json(c->res.report, BLOCKERS_MAX, st->syms);
	json_array_extend(st->blockers, some);
	json_decref(some);
}

static void count_failure(struct stress *st, const struct cycle *c)
{
	uint64_t n = atomic_fetch_add(&st->failed, 1);

	if (c->err == -EBUSY || c->err == -ETIMEDOUT)
		st->failed_by_error[0]++;
	else if (c->err == -ENOMEM)
		st->failed_by_error[1]++;
	else
		st->failed_by_error[2]++;
	keep_report(st, c);
	if (n >= FAILED_SHOWN)
		return;
	out_error("block %d could not leave: %s; waited %.1f s%s%s%s", c->id, vac_strerror(c->err),
		  (double)c->res.waited_ns / 1e9, *c->res.waited_for ? ", longest for \"" : "",
		  c->res.waited_for, *c->res.waited_for ? "\"" : "");
	if (c->res.missing_bytes)
		out_error("%.1f MiB of target memory are missing",
			  (double)c->res.missing_bytes / 1048576);
	report_text(c->res.report, stderr);
}

static int check(struct stress *st)
{
	struct wl_run *run = &st->run;
	uint64_t before = atomic_load(&run->faults);

	wl_run_pause(run);
	if (st->sweep_at_checks)
		wl_run_sweep(run);
	/* With the workers parked the pool holds what was filled in at the start, no frame more:
	 * `map` has nothing mapped between two rounds, everybody else keeps what he has. */
	session_check(&st->s, run, st->used_frames);
	wl_run_resume(run);
	st->checks++;
	return atomic_load(&run->faults) != before;
}

/* 0, or 1: no use going on. */
static int one_offline(struct stress *st)
{
	struct cycle c;
	int id;

	st->rng += 0x9e3779b97f4a7c15u;
	id = st->s.id[wl_mix(st->rng) % st->s.blocks];
	/* An interrupted offline is no attempt: it was cancelled. */
	session_offline(&st->s, &st->run, id, (int64_t)(st->timeout_ns / 1000000), false, &c);
	if (c.err && atomic_load(&st->run.interrupted)) {
		vac_report_free(c.res.report);
		return 1;
	}
	atomic_fetch_add(&st->attempted, 1);
	atomic_fetch_add(&st->bytes_moved, c.res.bytes_moved);
	/* An operator has taken the block, or is taking it. */
	if (st->s.with_control && (c.err == -EALREADY || c.err == -ENOENT)) {
		vac_report_free(c.res.report);
		atomic_fetch_sub(&st->attempted, 1);
		wl_run_wait(&st->run, 10000000);
		return 0;
	}
	st->busy_ns += c.busy_ns;
	st->cpu_ns += c.cpu_ns;
	st->waited_ns += c.res.waited_ns;
	if (c.err) {
		count_failure(st, &c);
		vac_report_free(c.res.report);
		/* Without a rate to keep, do not hammer at what has just refused. */
		wl_run_wait(&st->run, 10000000);
		return 0;
	}
	atomic_fetch_add(&st->succeeded, 1);
	st->given_back += c.res.given_back_bytes;
	return session_return(&st->s, &st->run, id) ? 1 : 0;
}

static int cycles(struct stress *st)
{
	uint64_t period = st->rate > 0 ? (uint64_t)(1e9 / st->rate) : 0;
	uint64_t due = wl_now_ns(), cycle = 0;

	while (!atomic_load(&st->run.interrupted)) {
		uint64_t now = wl_now_ns();

		if (now >= st->end_ns)
			break;
		if (period && now < due) {
			wl_run_wait(&st->run,
				    due - now < st->end_ns - now ? due - now : st->end_ns - now);
			continue;
		}
		due += period;
		if (one_offline(st))
			return !atomic_load(&st->run.interrupted);
		if (st->check_every && ++cycle % st->check_every == 0 && check(st))
			return 1;
		/* Wrong bytes will not become right: the sooner the state is looked at the better. */
		if (atomic_load(&st->run.faults))
			return 1;
	}
	return 0;
}

/* ---- results ---- */

static void show_tick(struct wl_run *run)
{
	struct stress *st = run->tick_ctx;
	uint64_t now = wl_now_ns(), t0 = atomic_load(&st->t0_ns), end = atomic_load(&st->end_ns);

	if (!t0 || now < t0 || now >= end)
		return;
	out_bar((double)(now - t0) / (double)(end - t0),
		"%.0f s, %" PRIu64 " offlines, %" PRIu64 " failed, %.1f GB moved, %" PRIu64
		" errors",
		(double)(now - t0) / 1e9, atomic_load(&st->succeeded), atomic_load(&st->failed),
		(double)atomic_load(&st->bytes_moved) / 1e9, atomic_load(&run->faults));
}

static double moved_rate(const struct stress *st)
{
	return st->busy_ns ? (double)st->bytes_moved / (double)st->busy_ns : 0;
}

static double cpu_rate(const struct stress *st)
{
	return st->cpu_ns ? (double)st->bytes_moved / (double)st->cpu_ns : 0;
}

static int print_json(struct stress *st, double seconds)
{
	struct vac_pool_stats ps = VAC_INIT(struct vac_pool_stats);
	json_t *j, *names = json_array();

	vac_pool_stats(st->s.pool, &ps);
	for (unsigned k = 0; k < st->n_mix; k++)
		json_array_append_new(names, json_string(st->mix[k]->name));
	j = json_pack("{s:I, s:s, s:f, s:f, s:I, s:I, s:i, s:I, s:o}", "seed",
		      (json_int_t)st->run.seed, "guard", guard_name(ps.guard), "duration_s",
		      seconds, "offline_rate", st->rate, "pool_bytes", (json_int_t)st->s.pool_bytes,
		      "block_bytes", (json_int_t)st->s.block_bytes, "blocks", (int)st->s.blocks,
		      "threads", (json_int_t)st->threads, "workload", names);
	if (!j)
		return -ENOMEM;
	json_object_set_new(j, "offlines",
			    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "attempted",
				      (json_int_t)st->attempted, "succeeded",
				      (json_int_t)st->succeeded, "failed", (json_int_t)st->failed,
				      "failed_held", (json_int_t)st->failed_by_error[0],
				      "failed_no_target", (json_int_t)st->failed_by_error[1],
				      "failed_other", (json_int_t)st->failed_by_error[2]));
	json_object_set_new(j, "bytes_moved", json_integer((json_int_t)st->bytes_moved));
	json_object_set_new(j, "moved_gb_per_s", json_real(moved_rate(st)));
	json_object_set_new(j, "moved_gb_per_cpu_s", json_real(cpu_rate(st)));
	json_object_set_new(j, "memcpy_gb_per_s", json_real(st->memcpy_bytes_per_s / 1e9));
	json_object_set_new(j, "offline_waited_s", json_real((double)st->waited_ns / 1e9));
	json_object_set_new(j, "given_back_bytes", json_integer((json_int_t)st->given_back));
	json_object_set_new(j, "verify",
			    json_pack("{s:I, s:I}", "checked", (json_int_t)wl_checked(&st->run),
				      "errors", (json_int_t)atomic_load(&st->run.faults)));
	json_object_set_new(j, "pool_checks", json_integer((json_int_t)st->checks));
	json_object_set_new(j, "writer_wait_us", latency_json(&st->run, WL_WRITER, WL_DURING));
	json_object_set_new(j, "reader_wait_us", latency_json(&st->run, WL_READER, WL_DURING));
	json_object_set_new(j, "writer_wait_before_us",
			    latency_json(&st->run, WL_WRITER, WL_BEFORE));
	json_object_set_new(j, "reader_wait_before_us",
			    latency_json(&st->run, WL_READER, WL_BEFORE));
	json_object_set_new(j, "host_vmas_max",
			    json_integer((json_int_t)atomic_load(&st->run.host_vmas_max)));
	json_object_set_new(j, "host_vmas_end", json_integer((json_int_t)ps.host_vmas));
	json_object_set_new(j, "host_vma_limit", json_integer((json_int_t)ps.host_vma_limit));
	json_object_set_new(j, "migrate_attempts", json_integer((json_int_t)ps.migrate_attempts));
	json_object_set_new(j, "migrate_folios", json_integer((json_int_t)ps.migrate_folios));
	json_object_set_new(j, "gate_waits", json_integer((json_int_t)ps.gate_waits));
	json_object_set_new(j, "fault_waits", json_integer((json_int_t)ps.fault_waits));
	if (st->s.swap_path)
		json_object_set_new(j, "swap",
				    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "slots",
					      (json_int_t)ps.swap_slots, "used",
					      (json_int_t)ps.swap_used, "bad",
					      (json_int_t)ps.swap_bad, "in", (json_int_t)ps.swap_in,
					      "out", (json_int_t)ps.swap_out, "second_chances",
					      (json_int_t)ps.swap_second_chances, "errors",
					      (json_int_t)ps.swap_errors));
	json_object_set_new(j, "splits", json_integer((json_int_t)ps.splits));
	json_object_set_new(j, "compact_folios", json_integer((json_int_t)ps.compact_folios));
	json_object_set_new(j, "collapsed_in_place",
			    json_integer((json_int_t)ps.collapsed_in_place));
	json_object_set_new(j, "collapsed_by_copy", json_integer((json_int_t)ps.collapsed_by_copy));
	json_object_set_new(j, "blockers", st->blockers);
	st->blockers = NULL;
	return out_json(j);
}

static void print_wait(struct stress *st, const char *name, enum wl_latency kind)
{
	struct hist *h = malloc(sizeof(*h));

	if (!h)
		return;
	for (int phase = WL_BEFORE; phase < WL_PHASES; phase++) {
		wl_latency(&st->run, kind, (enum wl_phase)phase, h);
		if (!h->count)
			continue;
		printf("%s %s: p50 %.1f us, p99 %.1f us, p99.9 %.1f us, max %.1f ms\n", name,
		       phase == WL_BEFORE ? "before the first offline" : "during offlines",
		       (double)hist_percentile(h, 50) / 1e3, (double)hist_percentile(h, 99) / 1e3,
		       (double)hist_percentile(h, 99.9) / 1e3, (double)h->max / 1e6);
	}
	free(h);
}

static int print_text(struct stress *st, double seconds)
{
	int err = wl_run_print(&st->run);
	bool told = false;
	struct vac_pool_stats ps = VAC_INIT(struct vac_pool_stats);

	for (unsigned i = 0; i < st->run.n_groups; i++)
		told |= st->run.groups[i].cls->tell != NULL;
	if (told)
		putchar('\n');
	wl_run_tell(&st->run);
	printf("\nseed %" PRIu64 ", %.1f s\n", st->run.seed, seconds);
	printf("offlines: %" PRIu64 " attempted, %" PRIu64 " succeeded, %" PRIu64
	       " failed (%" PRIu64 " held, %" PRIu64 " without target memory, %" PRIu64 " other)\n",
	       st->attempted, st->succeeded, st->failed, st->failed_by_error[0],
	       st->failed_by_error[1], st->failed_by_error[2]);
	printf("moved %.1f MiB at %.2f GB/s, %.2f GB a second of processor time (memcpy alone: %.2f "
	       "GB/s); waited %.1f s for holders\n",
	       (double)st->bytes_moved / 1048576, moved_rate(st), cpu_rate(st),
	       st->memcpy_bytes_per_s / 1e9, (double)st->waited_ns / 1e9);
	print_wait(st, "writers' wait", WL_WRITER);
	print_wait(st, "readers' wait", WL_READER);
	printf("host mappings: at most %" PRIu64 "; pool checked %" PRIu64 " times\n",
	       atomic_load(&st->run.host_vmas_max), st->checks);
	vac_pool_stats(st->s.pool, &ps);
	if (st->compact)
		printf("compaction moved %" PRIu64 " pages; collapsed %" PRIu64
		       " pageblocks in place, %" PRIu64 " by copy; %" PRIu64 " splits\n",
		       ps.compact_folios, ps.collapsed_in_place, ps.collapsed_by_copy, ps.splits);
	if (st->s.swap_path && vac_pool_stats(st->s.pool, &ps) == 0)
		printf("swap: %.1f MiB out, %.1f MiB in, %" PRIu64 " second chances, %" PRIu64
		       " errors, %.1f of %.1f MiB in use\n",
		       (double)ps.swap_out / 256, (double)ps.swap_in / 256, ps.swap_second_chances,
		       ps.swap_errors, (double)ps.swap_used / 256, (double)ps.swap_slots / 256);
	printf("verified: %" PRIu64 " checks, %" PRIu64 " errors\n", wl_checked(&st->run),
	       atomic_load(&st->run.faults));
	return err;
}

static int run_stress(struct stress *st)
{
	struct wl_run *run = &st->run;
	uint64_t step = st->s.pool_bytes / 4;
	double seconds = 0;
	int err, broken = 1;

	run->pool = st->s.pool;
	run->space = st->s.space;
	run->tick = st->json ? NULL : show_tick;
	run->tick_ctx = st;
	err = wl_run_init(run);
	if (err)
		return CMD_ERROR;
	err = wl_memcpy_rate(run, step < 64 * MIB ? step : 64 * MIB, 5, &st->memcpy_bytes_per_s,
			     NULL);
	if (!err)
		err = fill(st);
	if (!err) {
		st->used_frames = session_check(&st->s, run, 0);
		if (st->s.swap_path) /* how much is in memory is swap's affair */
			st->used_frames = 0;
		err = wl_run_start(run);
	}
	if (!err) {
		wl_run_wait(run, WARM_NS);
		atomic_store(&run->phase, WL_DURING);
		atomic_store(&st->end_ns, wl_now_ns() + st->duration_ns);
		atomic_store(&st->t0_ns, wl_now_ns());
		err = start_compaction(st);
		if (!err) {
			broken = cycles(st);
			stop_compaction(st);
		}
		seconds = (double)(wl_now_ns() - st->t0_ns) / 1e9;
	}
	wl_run_stop(run);
	out_progress_end();
	if (!err) {
		wl_run_sweep(run);
		session_check(&st->s, run, st->used_frames);
		st->checks++;
		err = st->json ? print_json(st, seconds) : print_text(st, seconds);
		if (err)
			out_error("cannot print the results: %s", strerror(-err));
	}
	if (!err && st->attempted && !st->succeeded)
		out_error("no block could leave");
	broken = err || broken || atomic_load(&run->faults) || (st->attempted && !st->succeeded);
	if (atomic_load(&run->faults))
		out_error("seed %" PRIu64, run->seed);
	wl_run_free(run);
	return broken ? CMD_ERROR : CMD_OK;
}

static int set_up_and_run(struct stress *st)
{
	uint64_t room = session_room(&st->s);
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
	int rc;

	if (st->s.pool_bytes + st->s.pool_bytes / 32 > room) {
		out_error("a pool of %s does not fit: only %s of memory are available",
			  size_text(st->s.pool_bytes, a, sizeof(a)), size_text(room, b, sizeof(b)));
		return CMD_ERROR;
	}
	if (session_open(&st->s))
		return CMD_ERROR;
	out_msg("seed %" PRIu64 ", %u blocks of %s, %" PRIu64 " threads, %.0f s", st->run.seed,
		st->s.blocks, size_text(st->s.block_bytes, a, sizeof(a)), st->threads,
		(double)st->duration_ns / 1e9);
	rc = run_stress(st);
	if (session_close(&st->s))
		rc = CMD_ERROR;
	return rc;
}

int cmd_stress(int argc, char **argv)
{
	struct stress *st = calloc(1, sizeof(*st));
	int rc;

	out_set_prefix("vacate stress");
	if (!st) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	st->s.name = "stress";
	st->s.pool_bytes = DEFAULT_POOL;
	st->s.zone = VAC_ZONE_MOVABLE;
	st->duration_ns = DEFAULT_DURATION_NS;
	st->check_every = DEFAULT_CHECK;
	st->timeout_ns = OFFLINE_TIMEOUT_NS;
	st->run.hang_s = HANG_S;
	st->run.hold_random = true;
	if (getrandom(&st->run.seed, sizeof(st->run.seed), 0) < 0)
		st->run.seed = wl_now_ns();
	st->run.seed >>= 32; /* short enough to be typed again */
	rc = parse(st, argc, argv);
	if (rc < 0) {
		st->rng = wl_mix(st->run.seed);
		st->blockers = json_array();
		rc = set_up_and_run(st);
		json_decref(st->blockers);
		symbols_close(st->syms);
	}
	free(st);
	return rc;
}

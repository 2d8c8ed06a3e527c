/* SPDX-License-Identifier: MIT */
/*
 * Exploring: one schedule a seed, until something is found; then the schedule is shortened, shown as
 * an interleaving that a person can read, and kept in a file that plays it again.
 *
 * A seed decides everything about its run: the world, the workload's choices, which calls fail, how
 * threads take turns. A replay file holds the same configuration and the list of turns taken, so that
 * turns can be left out; a shorter list counts only if it ends in the same kind of finding.
 */
#include "sim/explore.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "include/vacate.h"
#include "port/sim/sim.h"
#include "sim/workload.h"

#define STEPS_MAX 3000000u
#define SHRINK_RUNS 3000

struct options {
	uint64_t seed, schedules;
	int workload; /* -1: all in turn */
	int threads;
	int faults; /* -1: every other seed */
	bool json, shrink, trace;
	const char *replay, *save_dir;
};

struct run {
	struct sim_config sim;
	struct work_config work;
};

/* ---- A run ------------------------------------------------------------------------------------ */

static struct run derive(const struct options *o, uint64_t seed)
{
	struct run r = {0};

	r.work.seed = seed;
	r.work.workload = o->workload >= 0 ? (enum sim_workload)o->workload
					   : (enum sim_workload)(seed % WORK_COUNT);
	r.work.threads = o->threads;
	r.work.faults = o->faults >= 0 ? o->faults == 1 : (seed / WORK_COUNT & 1) == 1;
	r.sim.seed = seed;
	r.sim.policy = seed >> 3 & 1 ? SIM_PRIORITY : SIM_RANDOM_WALK;
	r.sim.switch_one_in = 1u << (1 + seed / 16 % 6);
	r.sim.depth = 1 + (uint32_t)(seed / 16 % 10);
	r.sim.max_steps = STEPS_MAX;
	return r;
}

/* The engine is ours: a signal of its making is a finding, not the end of the search. */
static void on_signal(int sig, siginfo_t *info, void *ctx)
{
	(void)ctx;
	sim_fail(SIM_CRASH, "signal %d at address %p", sig, info->si_addr);
}

static void catch_signals(void)
{
	static char alt[64 << 10];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
	struct sigaction a;

	sigaltstack(&ss, NULL);
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_signal;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
	sigaction(SIGSEGV, &a, NULL);
	sigaction(SIGBUS, &a, NULL);
	sigaction(SIGFPE, &a, NULL);
	sigaction(SIGABRT, &a, NULL);
}

static void play(struct run *r, struct sim_result *res)
{
	sim_run(&r->sim, work_run, &r->work, res);
}

static const char *end_name(enum sim_end e)
{
	switch (e) {
	case SIM_OK: return "nothing";
	case SIM_CRASH: return "crash";
	case SIM_LIVENESS: return "lost liveness";
	case SIM_CONTENT: return "wrong content";
	default: return "leak";
	}
}

/* ---- Shortening ------------------------------------------------------------------------------- */

/* Delta debugging (Zeller and Hildebrandt, 2002) on the list of turns: leave out ever smaller pieces
 * while the finding stays. Answers the new length. */
static uint32_t shorten(struct run *r, enum sim_end end, struct sim_decision *d, uint32_t n)
{
	struct sim_decision *t = malloc(sizeof(*t) * (n ? n : 1));
	struct sim_result res;
	int runs = 0;

	if (!t)
		return n;
	for (uint32_t chunk = n / 2; chunk && runs < SHRINK_RUNS; chunk /= 2) {
		for (uint32_t at = 0; at < n && runs < SHRINK_RUNS; runs++) {
			uint32_t cut = at + chunk < n ? chunk : n - at;

			memcpy(t, d, at * sizeof(*t));
			memcpy(t + at, d + at + cut, (n - at - cut) * sizeof(*t));
			r->sim.replay = t;
			r->sim.nr_replay = n - cut;
			play(r, &res);
			if (res.end == end) {
				n -= cut;
				memcpy(d, t, n * sizeof(*d));
			} else {
				at += chunk;
			}
		}
	}
	free(t);
	return n;
}

/* ---- Replay files ----------------------------------------------------------------------------- */

static int save(const char *path, const struct run *r, const struct sim_result *res,
		const struct sim_decision *d, uint32_t n)
{
	FILE *f = fopen(path, "w");
	int bad;

	if (!f)
		return -errno;
	fprintf(f, "vacate-sim %s\n# %s: %s\n", VAC_VERSION, end_name(res->end), res->what);
	fprintf(f, "seed %" PRIu64 "\nworkload %s\nthreads %d\nfaults %d\n", r->work.seed,
		work_name(r->work.workload), r->work.threads, r->work.faults);
	fprintf(f, "turns %u\n", n);
	for (uint32_t i = 0; i < n; i++)
		fprintf(f, "%u %u\n", d[i].step, d[i].thread);
	bad = ferror(f);
	return fclose(f) || bad ? -EIO : 0;
}

static int load(const char *path, struct options *o, struct run *r, struct sim_decision **d)
{
	char version[32], workload[32];
	unsigned step, thread, n;
	int threads, faults;
	FILE *f = fopen(path, "r");
	uint64_t seed;

	if (!f) {
		fprintf(stderr, "vacate sim: %s: %s\n", path, strerror(errno));
		return -1;
	}
	if (fscanf(f, "vacate-sim %31s\n#%*[^\n]\n", version) != 1 ||
	    fscanf(f, "seed %" SCNu64 " workload %31s threads %d faults %d turns %u", &seed,
		   workload, &threads, &faults, &n) != 5 ||
	    work_by_name(workload) < 0 || n > SIM_DECISIONS_MAX)
		goto bad;
	if (strcmp(version, VAC_VERSION) != 0)
		fprintf(stderr, "vacate sim: %s was made by version %s: it may go another way\n",
			path, version);
	o->workload = work_by_name(workload);
	o->threads = threads;
	o->faults = faults;
	*r = derive(o, seed);
	*d = malloc(sizeof(**d) * (n ? n : 1));
	if (!*d)
		goto bad;
	for (unsigned i = 0; i < n; i++) {
		if (fscanf(f, "%u %u", &step, &thread) != 2)
			goto bad;
		(*d)[i] = (struct sim_decision){.step = step, .thread = (uint8_t)thread};
	}
	r->sim.replay = *d;
	r->sim.nr_replay = n;
	fclose(f);
	return 0;
bad:
	fprintf(stderr, "vacate sim: %s: not a file that `vacate sim` has written\n", path);
	fclose(f);
	return -1;
}

/* ---- Reporting -------------------------------------------------------------------------------- */

static void replay_command(const struct run *r, char *buf, size_t n)
{
	snprintf(buf, n,
		 "vacate sim --seed %" PRIu64
		 " --schedules 1 --workload %s --threads %d --faults %s",
		 r->work.seed, work_name(r->work.workload), r->work.threads,
		 r->work.faults ? "on" : "off");
}

static void show(struct run *r, const struct options *o, const struct sim_result *found, char *file,
		 size_t file_bytes)
{
	uint32_t had = found->nr_decisions, n = had;
	struct sim_decision *d = malloc(sizeof(*d) * (n ? n : 1));
	struct sim_result res;

	file[0] = '\0';
	if (!d)
		return;
	memcpy(d, sim_decisions(), n * sizeof(*d));
	if (o->shrink && !found->decisions_cut)
		n = shorten(r, found->end, d, n);
	r->sim.replay = d;
	r->sim.nr_replay = n;
	snprintf(file, file_bytes, "%s/vacate-sim-%" PRIu64 ".replay", o->save_dir, r->work.seed);
	if (save(file, r, found, d, n) < 0)
		file[0] = '\0';
	if (!o->json) {
		printf("interleaving, shortened from %u turns to %u (step, thread, what):\n", had,
		       n);
		sim_trace_to(stdout);
		play(r, &res);
		sim_trace_to(NULL);
	}
	free(d);
}

static json_t *result_json(const struct run *r, const struct sim_result *res, const char *file)
{
	char cmd[256];

	replay_command(r, cmd, sizeof(cmd));
	return json_pack("{s:I,s:s,s:s,s:s,s:I,s:s,s:s}", "seed", (json_int_t)r->work.seed,
			 "workload", work_name(r->work.workload), "end", end_name(res->end), "what",
			 res->what, "steps", (json_int_t)res->steps, "replay", cmd, "replay_file",
			 file);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int explore(const struct options *o)
{
	uint64_t steps = 0, hash = 0, done = 0;
	double start = seconds(), took;
	struct sim_result res = {0};
	json_t *found = NULL;
	char file[512] = "", cmd[256];
	struct run r;

	if (!o->json)
		printf("vacate sim %s: seed %" PRIu64 ", %" PRIu64
		       " schedules, workload %s, threads %d\n"
		       "replay one: vacate sim --seed SEED --schedules 1 --workload NAME\n",
		       VAC_VERSION, o->seed, o->schedules,
		       o->workload < 0 ? "all" : work_name((enum sim_workload)o->workload),
		       o->threads);
	for (uint64_t i = 0; i < o->schedules; i++) {
		r = derive(o, o->seed + i);
		if (o->trace)
			sim_trace_to(stdout);
		play(&r, &res);
		steps += res.steps;
		hash = hash * 31 + res.trace_hash;
		done++;
		if (res.end != SIM_OK)
			break;
	}
	took = seconds() - start;
	if (res.end != SIM_OK) {
		sim_trace_to(NULL);
		replay_command(&r, cmd, sizeof(cmd));
		if (!o->json)
			printf("FOUND %s at step %" PRIu64 " of seed %" PRIu64 ": %s\nreplay: %s\n",
			       end_name(res.end), res.steps, r.work.seed, res.what, cmd);
		show(&r, o, &res, file, sizeof(file));
		if (!o->json && file[0])
			printf("replay the short one: vacate sim --replay %s\n", file);
		if (o->json)
			found = result_json(&r, &res, file);
	}
	if (o->json) {
		json_t *all = json_pack("{s:s,s:I,s:I,s:I,s:f,s:f,s:s,s:o}", "version", VAC_VERSION,
					"seed", (json_int_t)o->seed, "schedules", (json_int_t)done,
					"steps", (json_int_t)steps, "seconds", took,
					"schedules_per_s", took > 0 ? (double)done / took : 0.0,
					"trace_hash", "", "found", found ? found : json_null());

		snprintf(cmd, sizeof(cmd), "%016" PRIx64, hash);
		json_object_set_new(all, "trace_hash", json_string(cmd));
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(all);
	} else {
		printf("%" PRIu64 " schedules, %" PRIu64
		       " steps in %.1f s (%.0f schedules/s), trace %016" PRIx64 ": %s found\n",
		       done, steps, took, took > 0 ? (double)done / took : 0.0, hash,
		       end_name(res.end));
	}
	return (int)res.end;
}

static int replay(struct options *o)
{
	struct sim_decision *d = NULL;
	struct sim_result res;
	struct run r;

	if (load(o->replay, o, &r, &d) < 0) {
		free(d);
		return 1;
	}
	if (!o->json)
		sim_trace_to(stdout);
	play(&r, &res);
	sim_trace_to(NULL);
	if (o->json) {
		json_t *j = result_json(&r, &res, o->replay);

		json_dumpf(j, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(j);
	} else {
		printf("%s found after %" PRIu64 " steps%s%s\n", end_name(res.end), res.steps,
		       res.end ? ": " : "", res.what);
	}
	free(d);
	return (int)res.end;
}

int vac_sim_explore(const char *workload, uint64_t seed, uint64_t schedules, uint64_t *steps,
		    uint64_t *found)
{
	struct options o = {.workload = -1, .faults = -1};
	struct sim_result res;

	if (strcmp(workload, "all") != 0) {
		o.workload = work_by_name(workload);
		if (o.workload < 0)
			return -EINVAL;
	}
	*steps = *found = 0;
	for (uint64_t i = 0; i < schedules; i++) {
		struct run r = derive(&o, seed + i);

		play(&r, &res);
		*steps += res.steps;
		*found += res.end != SIM_OK;
	}
	return 0;
}

/* ---- The command line ------------------------------------------------------------------------- */

static void usage(void)
{
	printf("Usage: vacate sim [OPTIONS]\n\n"
	       "Run the engine under a deterministic simulator, one schedule a seed, until something is\n"
	       "found.\n\n"
	       "  --seed N          first seed (default 1)\n"
	       "  --schedules N     how many seeds (default 10000)\n"
	       "  --workload NAME   all");
	for (int i = 0; i < WORK_COUNT; i++)
		printf(", %s", work_name((enum sim_workload)i));
	printf(" (default all)\n"
	       "  --threads N       writers, 1 to 6 (default: drawn)\n"
	       "  --faults on|off   failing host calls (default: half of the seeds)\n"
	       "  --replay FILE     play a schedule that was found\n"
	       "  --save DIR        where to write such files (default: .)\n"
	       "  --no-shrink       do not shorten it first\n"
	       "  --trace           print every named step of every schedule\n"
	       "  --json\n\n"
	       "Exit status: 0 nothing found, 1 error, 2 usage, 10 crash or broken invariant, 11 lost\n"
	       "liveness, 12 wrong content, 13 leak.\n");
}

static bool number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *v)
{
	char *end;

	errno = 0;
	*v = strtoull(text, &end, 0);
	if (errno || *end || end == text || text[0] == '-' || *v < min || *v > max) {
		fprintf(stderr,
			"vacate sim: %s: '%s' is not a number from %" PRIu64 " to %" PRIu64 "\n",
			name, text, min, max);
		return false;
	}
	return true;
}

static bool workload(const char *text, int *k)
{
	*k = strcmp(text, "all") == 0 ? -1 : work_by_name(text);
	if (*k >= 0 || strcmp(text, "all") == 0)
		return true;
	fprintf(stderr, "vacate sim: no workload '%s'; there are: all", text);
	for (int i = 0; i < WORK_COUNT; i++)
		fprintf(stderr, ", %s", work_name((enum sim_workload)i));
	fputc('\n', stderr);
	return false;
}

static bool on_off(const char *text, int *v)
{
	*v = strcmp(text, "on") == 0 ? 1 : strcmp(text, "off") == 0 ? 0 : -1;
	if (*v < 0)
		fprintf(stderr, "vacate sim: --faults: '%s' is neither on nor off\n", text);
	return *v >= 0;
}

int vac_sim_main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"seed", required_argument, NULL, 's'},
		{"schedules", required_argument, NULL, 'n'},
		{"workload", required_argument, NULL, 'w'},
		{"threads", required_argument, NULL, 't'},
		{"faults", required_argument, NULL, 'f'},
		{"replay", required_argument, NULL, 'r'},
		{"save", required_argument, NULL, 'd'},
		{"no-shrink", no_argument, NULL, 'S'},
		{"trace", no_argument, NULL, 'T'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct options o = {.seed = 1,
			    .schedules = 10000,
			    .workload = -1,
			    .faults = -1,
			    .shrink = true,
			    .save_dir = "."};
	uint64_t v;
	bool ok = true;
	int c;

	optind = 1;
	while (ok && (c = getopt_long(argc, argv, "+h", longs, NULL)) != -1) {
		switch (c) {
		case 's': ok = number("--seed", optarg, 0, UINT64_MAX / 4, &o.seed); break;
		case 'n':
			ok = number("--schedules", optarg, 1, UINT64_MAX / 4, &o.schedules);
			break;
		case 'w': ok = workload(optarg, &o.workload); break;
		case 't':
			ok = number("--threads", optarg, 1, 6, &v);
			o.threads = (int)v;
			break;
		case 'f': ok = on_off(optarg, &o.faults); break;
		case 'r': o.replay = optarg; break;
		case 'd': o.save_dir = optarg; break;
		case 'S': o.shrink = false; break;
		case 'T': o.trace = true; break;
		case 'j': o.json = true; break;
		case 'h': usage(); return 0;
		default: ok = false;
		}
	}
	if (ok && optind < argc) {
		fprintf(stderr, "vacate sim: '%s' is one word too many\n", argv[optind]);
		ok = false;
	}
	if (!ok) {
		fprintf(stderr, "Try 'vacate sim --help'.\n");
		return 2;
	}
	catch_signals();
	return o.replay ? replay(&o) : explore(&o);
}

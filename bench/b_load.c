/* SPDX-License-Identifier: MIT */
/*
 * What a load keeps while blocks leave one after the other: throughput_record, throughput_write,
 * throughput_read, bystander.
 *
 * throughput: one thread writes (or reads) random words of pool memory as fast as it can, or rewrites
 * records as a server would: picks a 4 KiB record, sums it up, writes a line of it. Another, outside, looks at its counter every millisecond and writes nothing else down: so what counts is
 * what was done in each millisecond of real time. Forty million random writes a second meet the
 * pageblock that is leaving at once and stand still for the time of its copy. The value is the rate
 * while blocks leave and writers have their turns (vac_offline_opts.writers_pct), the peer the rate in
 * the same process when none leaves; `full_speed_ratio` is what is left when blocks leave as fast as
 * they can, and `block_ms`, `full_speed_block_ms` what a block takes in each case, coming back
 * included. `gap_ms` is the longest time without a single operation in between, `quiet_gap_ms` the same
 * when nothing leaves.
 *
 * bystander: a thread that has nothing to do with the pool maps, touches and unmaps 64 KiB of its own
 * memory, for ever, and so takes the address space's lock that migrations take too. Value and peer are
 * the 99.9th percentile of the time it takes, while blocks leave and while none does.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/host.h"
#include "bench/rig.h"
#include "cli/hist.h"

#define BYSTANDER_BYTES (64 << 10)
#define RECORD_WORDS 512
#define TURNS_PCT 80

enum work { RECORD, WRITE, READ, BYSTAND };

struct load {
	struct rig *rig;
	volatile uint64_t *mem;
	uint64_t words;
	enum work work;
	atomic_bool stop, stop_offliner, leaving, failed;
	_Atomic uint64_t done, offlines;
	struct hist hist[2]; /* bystander: quiet, leaving */
};

static void bystand(struct load *l)
{
	uint64_t start = bench_now();
	char *p = mmap(NULL, BYSTANDER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	if (p == MAP_FAILED)
		return;
	for (unsigned i = 0; i < BYSTANDER_BYTES; i += 4096)
		p[i] = 1;
	munmap(p, BYSTANDER_BYTES);
	hist_record(&l->hist[atomic_load(&l->leaving)], bench_now() - start);
}

/* The contents stay as they are, for rig_verify(). */
static void rewrite(volatile uint64_t *record)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < RECORD_WORDS; i++)
		sum += record[i];
	for (unsigned i = 0; i < 8; i++)
		__atomic_fetch_xor(&record[i], 0, __ATOMIC_RELAXED);
	__asm__ volatile("" ::"r"(sum));
}

static void *worker(void *arg)
{
	struct load *l = arg;
	uint64_t random = BENCH_SEED, n = 0;

	while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
		uint64_t i = bench_random(&random) % l->words;

		if (l->work == RECORD)
			rewrite(&l->mem[i / RECORD_WORDS * RECORD_WORDS]);
		else if (l->work == WRITE)
			__atomic_fetch_xor(&l->mem[i], 0, __ATOMIC_RELAXED);
		else if (l->work == READ)
			(void)l->mem[i];
		else
			bystand(l);
		atomic_store_explicit(&l->done, ++n, memory_order_relaxed);
	}
	return NULL;
}

/* Blocks leave and come back, one after the other. */
static void *offliner(void *arg)
{
	struct load *l = arg;

	for (int id = 0; !atomic_load(&l->stop_offliner); id = (id + 1) % (int)l->rig->blocks) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

		if (rig_offline(l->rig, id, &res, NULL) < 0 || rig_online(l->rig, id) < 0) {
			atomic_store(&l->failed, true);
			break;
		}
		atomic_fetch_add(&l->offlines, 1);
	}
	return NULL;
}

/* Operations a second over `ns`, and the longest stretch of milliseconds without one. */
static double watch(struct load *l, uint64_t ns, double *gap_ms)
{
	uint64_t start = bench_now(), first = atomic_load(&l->done), last = first, moved = start;
	uint64_t now = start, gap = 0;

	while (now - start < ns) {
		uint64_t done;

		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		now = bench_now();
		done = atomic_load(&l->done);
		if (done != last) {
			/* It moved at some time since the last look. */
			moved = now;
			last = done;
		} else if (now - moved > gap) {
			gap = now - moved;
		}
	}
	*gap_ms = (double)gap / 1e6;
	return (double)(last - first) * 1e9 / (double)(now - start);
}

struct figures {
	double quiet, full, turns; /* nothing leaves; at full speed; writers have their turns */
	double quiet_gap_ms, gap_ms, turns_gap_ms;
	double full_ms, turns_ms; /* an offline and an online */
};

/* The load while blocks leave, for ns. */
static int leaving(struct bench_env *env, struct load *l, uint32_t writers_pct, uint64_t ns,
		   double *rate, double *gap_ms, double *each_ms)
{
	pthread_t o;

	l->rig->writers_pct = writers_pct;
	atomic_store(&l->stop_offliner, false);
	atomic_store(&l->offlines, 0);
	atomic_store(&l->leaving, true);
	if (pthread_create(&o, NULL, offliner, l))
		return bench_fail(env, "a thread", -1);
	*rate = watch(l, ns, gap_ms);
	*each_ms = (double)ns / 1e6 / (double)(atomic_load(&l->offlines) + 1);
	atomic_store(&l->stop_offliner, true);
	pthread_join(o, NULL);
	atomic_store(&l->leaving, false);
	return 0;
}

static int measure(struct bench_env *env, struct load *l, struct figures *f)
{
	uint64_t ns = env->tiny ? 30000000 : 600000000;
	pthread_t w;
	int r;

	atomic_store(&l->stop, false);
	memset(l->hist, 0, sizeof(l->hist));
	if (pthread_create(&w, NULL, worker, l))
		return bench_fail(env, "a thread", -1);
	watch(l, ns / 4, &f->quiet_gap_ms); /* until it is warm */
	f->quiet = watch(l, ns, &f->quiet_gap_ms);
	r = leaving(env, l, 0, ns, &f->full, &f->gap_ms, &f->full_ms);
	if (r == 0 && l->work != BYSTAND)
		r = leaving(env, l, TURNS_PCT, ns, &f->turns, &f->turns_gap_ms, &f->turns_ms);
	atomic_store(&l->stop, true);
	pthread_join(w, NULL);
	return r < 0 || atomic_load(&l->failed) ? -1 : 0;
}

static int load(struct bench_env *env, enum work work, struct bench_result *res)
{
	struct rig rig = RIG_INIT(env);
	struct load l = {.rig = &rig, .work = work};
	double gap[BENCH_RUNS_MAX], quiet[BENCH_RUNS_MAX], full[BENCH_RUNS_MAX];
	double full_ms[BENCH_RUNS_MAX], turns_ms[BENCH_RUNS_MAX];
	uint64_t bytes = env->tiny ? 16 * MIB : 512 * MIB, *mem;
	int r = -1;

	rig.opts.block_bytes = bytes / 4;
	rig.blocks = 6;
	rig.space_bytes = bytes;
	if (rig_open(&rig) < 0 || rig_fill(&rig, bytes, 0, &mem) < 0)
		goto out;
	l.mem = mem;
	l.words = bytes / sizeof(*mem);
	for (int run = -1; run < (int)env->runs; run++) {
		struct figures f = {0};

		bench_run_begins(env, res->name, run);
		if (measure(env, &l, &f) < 0)
			goto out;
		if (run < 0)
			continue;
		if (work == BYSTAND) {
			bench_add(res, (double)hist_percentile(&l.hist[1], 99.9) / 1e3,
				  (double)hist_percentile(&l.hist[0], 99.9) / 1e3);
			continue;
		}
		bench_add(res, f.turns, f.quiet);
		gap[run] = f.gap_ms > f.turns_gap_ms ? f.gap_ms : f.turns_gap_ms;
		quiet[run] = f.quiet_gap_ms;
		full[run] = f.full / f.quiet;
		full_ms[run] = f.full_ms;
		turns_ms[run] = f.turns_ms;
	}
	if (work != BYSTAND) {
		bench_extra(res, "gap_ms", bench_median(gap, env->runs));
		bench_extra(res, "quiet_gap_ms", bench_median(quiet, env->runs));
		bench_extra(res, "full_speed_ratio", bench_median(full, env->runs));
		bench_extra(res, "full_speed_block_ms", bench_median(full_ms, env->runs));
		bench_extra(res, "block_ms", bench_median(turns_ms, env->runs));
	}
	r = rig_verify(&rig, mem, bytes, 1);
out:
	rig_close(&rig);
	return r;
}

int bench_throughput(struct bench_env *env)
{
	if (load(env, RECORD,
		 bench_result(env, "throughput_record", "ops/s", BENCH_MORE,
			      "the same when nothing leaves")) < 0)
		return -1;
	if (load(env, WRITE,
		 bench_result(env, "throughput_write", "ops/s", BENCH_MORE,
			      "the same when nothing leaves")) < 0)
		return -1;
	return load(env, READ,
		    bench_result(env, "throughput_read", "ops/s", BENCH_MORE,
				 "the same when nothing leaves"));
}

int bench_bystander(struct bench_env *env)
{
	return load(
		env, BYSTAND,
		bench_result(env, "bystander", "us", BENCH_LESS, "the same when nothing leaves"));
}

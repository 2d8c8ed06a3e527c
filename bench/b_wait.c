/* SPDX-License-Identifier: MIT */
/*
 * How long others wait while a block is taken away under their hands: writer_wait, reader_wait.
 *
 * One prober touches a random word of the block at fixed times, an operation every INTERVAL_NS,
 * whether or not the one before is done. Its latency counts from the time at which it was due: so
 * a wait also delays what falls due meanwhile, and nothing is left out by standing still
 * (coordinated omission). It counts as `quiet` if nothing left at that time: that is what the
 * machine itself does to the prober.
 *
 * A prober that has waited for one pageblock has a backlog, of which an operation is likely to meet
 * the next pageblock that leaves: waits add up. `single_max` is the longest that one operation took
 * from its own start.
 *
 * The figures of a run are the longest wait, and the 99th percentile, of all operations that fell
 * due during OFFLINES offlines. The writer's peer is the copy of one 2 MiB pageblock, for which a
 * writer to that pageblock has to wait; the reader's is a minor fault, which a reader takes when a
 * page's mapping has been replaced.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/host.h"
#include "bench/rig.h"
#include "cli/hist.h"

#define INTERVAL_NS 2000
#define QUIET_NS (20 * 1000000)

enum phase { WARMING, QUIET, LEAVING, ENDING, PHASES };

struct prober {
	volatile uint64_t *mem;
	uint64_t words;
	bool writes;
	atomic_int phase;
	_Atomic uint64_t due; /* everything due before has been done, and recorded */
	struct hist hist[PHASES];
	uint64_t single_max[PHASES];
	pthread_t thread;
};

static void *probe(void *arg)
{
	struct prober *p = arg;
	uint64_t random = BENCH_SEED, due = bench_now();
	int phase;

	while ((phase = atomic_load(&p->phase)) != ENDING) {
		uint64_t i = bench_random(&random) % p->words, start, end;

		while ((start = bench_now()) < due)
			;
		/* A write to the host, and the contents stay for rig_verify(). */
		if (p->writes)
			__atomic_fetch_xor(&p->mem[i], 0, __ATOMIC_RELAXED);
		else
			(void)p->mem[i];
		end = bench_now();
		hist_record(&p->hist[phase], end - due);
		if (end - start > p->single_max[phase])
			p->single_max[phase] = end - start;
		due += INTERVAL_NS;
		atomic_store(&p->due, due);
	}
	return NULL;
}

/* Change the phase as soon as everything that was due until now has been recorded. */
static void enter_phase(struct prober *p, int phase)
{
	uint64_t now = bench_now();

	while (atomic_load(&p->due) < now)
		;
	atomic_store(&p->phase, phase);
}

static void sleep_ns(long ns)
{
	nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* ---- The peers ------------------------------------------------------------------------------ */

#define PEER_TIMES 15

static double copy_us(struct host_buf *b)
{
	double us[PEER_TIMES];

	for (unsigned i = 0; i < PEER_TIMES; i++) {
		char *at = b->mem + i % 4 * 2 * VAC_PAGEBLOCK_BYTES;
		uint64_t start = bench_now();

		memcpy(at, at + VAC_PAGEBLOCK_BYTES, VAC_PAGEBLOCK_BYTES);
		us[i] = (double)(bench_now() - start) / 1e3;
	}
	return bench_median(us, PEER_TIMES);
}

/* Map a resident pageblock anew and read a word of it. */
static double minor_fault_us(struct host_buf *b)
{
	double us[PEER_TIMES];

	for (unsigned i = 0; i < PEER_TIMES; i++) {
		uint64_t start;

		mmap(b->mem, VAC_PAGEBLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     b->fd, 0);
		start = bench_now();
		(void)*(volatile char *)b->mem;
		us[i] = (double)(bench_now() - start) / 1e3;
	}
	return bench_median(us, PEER_TIMES);
}

/* ---- Runs ----------------------------------------------------------------------------------- */

struct wait_run {
	struct rig rig;
	struct host_buf peer;
	uint64_t *mem;
	uint64_t bytes;
	unsigned offlines;
	int id; /* the block that holds the memory */
	bool writes;
	struct bench_result *max, *p99;
	struct hist total, quiet; /* of all runs */
	double single_max[BENCH_RUNS_MAX];
};

static int take_away(struct wait_run *w, struct prober *p)
{
	for (unsigned i = 0; i < w->offlines; i++) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

		enter_phase(p, QUIET);
		sleep_ns(QUIET_NS);
		enter_phase(p, LEAVING);
		if (rig_offline(&w->rig, w->id, &res, NULL) < 0)
			return -1;
		enter_phase(p, WARMING);
		if (rig_online(&w->rig, w->id) < 0)
			return -1;
		w->id ^= 1;
	}
	return 0;
}

static int measure(struct wait_run *w, struct prober *p, int run)
{
	const struct hist *h = &p->hist[LEAVING];
	double peer = w->writes ? copy_us(&w->peer) : minor_fault_us(&w->peer);
	int r;

	memset(p, 0, sizeof(*p));
	p->mem = w->mem;
	p->words = w->bytes / sizeof(uint64_t);
	p->writes = w->writes;
	r = pthread_create(&p->thread, NULL, probe, p);
	if (r)
		return bench_fail(w->rig.env, "starting a thread", -r);
	sleep_ns(QUIET_NS);
	r = take_away(w, p);
	enter_phase(p, ENDING);
	pthread_join(p->thread, NULL);
	if (r < 0)
		return -1;
	peer = (peer + (w->writes ? copy_us(&w->peer) : minor_fault_us(&w->peer))) / 2;
	if (run < 0)
		return 0;
	hist_merge(&w->total, h);
	hist_merge(&w->quiet, &p->hist[QUIET]);
	w->single_max[run] = (double)p->single_max[LEAVING] / 1e3;
	bench_add(w->max, (double)h->max / 1e3, peer);
	bench_add(w->p99, (double)hist_percentile(h, 99) / 1e3, peer);
	return 0;
}

static int run_all(struct bench_env *env, struct wait_run *w, struct prober *p)
{
	w->rig.opts.block_bytes = w->bytes;
	w->rig.blocks = 2;
	w->rig.space_bytes = 2 * w->bytes;
	if (rig_open(&w->rig) < 0 || rig_fill(&w->rig, w->bytes, 0, &w->mem) < 0 ||
	    host_buf_open(env, &w->peer, 8 * VAC_PAGEBLOCK_BYTES, HOST_2M) < 0)
		return -1;
	for (int run = -1; run < (int)env->runs; run++) {
		bench_run_begins(env, w->max->name, run);
		if (measure(w, p, run) < 0)
			return -1;
	}
	return rig_verify(&w->rig, w->mem, w->bytes, 1);
}

static void extras(struct wait_run *w)
{
	struct bench_result *res = w->max;

	bench_extra(res, "p50", (double)hist_percentile(&w->total, 50) / 1e3);
	bench_extra(res, "p99", (double)hist_percentile(&w->total, 99) / 1e3);
	bench_extra(res, "p99.9", (double)hist_percentile(&w->total, 99.9) / 1e3);
	bench_extra(res, "max", (double)w->total.max / 1e3);
	bench_extra(res, "single_max", bench_median(w->single_max, res->n));
	bench_extra(res, "quiet_p50", (double)hist_percentile(&w->quiet, 50) / 1e3);
	bench_extra(res, "quiet_p99", (double)hist_percentile(&w->quiet, 99) / 1e3);
	bench_extra(res, "quiet_p99.9", (double)hist_percentile(&w->quiet, 99.9) / 1e3);
	bench_extra(res, "quiet_max", (double)w->quiet.max / 1e3);
	bench_extra(res, "operations", (double)w->total.count);
}

static int run(struct bench_env *env, bool writes)
{
	struct wait_run *w = calloc(1, sizeof(*w));
	struct prober *p = malloc(sizeof(*p));
	int r = -1;

	if (!w || !p) {
		bench_fail(env, "histograms", -ENOMEM);
		goto out;
	}
	w->rig = (struct rig)RIG_INIT(env);
	w->writes = writes;
	w->bytes = env->tiny ? 16 * MIB : 64 * MIB;
	w->offlines = env->tiny ? 2 : 8;
	w->max = bench_result(env, writes ? "writer_wait" : "reader_wait", "us", BENCH_LESS,
			      writes ? "copy of one pageblock" : "minor fault, 2 MiB page");
	w->p99 = bench_result(env, writes ? "writer_wait_p99" : "reader_wait_p99", "us", BENCH_LESS,
			      w->max->peer);
	r = run_all(env, w, p);
	extras(w);
	host_buf_close(&w->peer);
	rig_close(&w->rig);
out:
	free(p);
	free(w);
	return r;
}

int bench_writer_wait(struct bench_env *env)
{
	return run(env, true);
}

int bench_reader_wait(struct bench_env *env)
{
	return run(env, false);
}

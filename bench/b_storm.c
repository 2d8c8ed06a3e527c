/* SPDX-License-Identifier: MIT */
/*
 * storm: many threads at the pages of the block that is being taken away.
 *
 *  - storm_1 to storm_64: wall time of an offline while so many threads hammer the block, beside the
 *    same with none. A thread writes to each of the block's pageblocks in turn, so it cannot get
 *    around the one that is leaving; then it rests for a millisecond, so that 64 of them leave the
 *    offline some processor time even on a small machine. What is left is what the waiting, waking
 *    and faulting again costs.
 *  - storm_busy: 64 threads that do not rest; beside the same threads busy with memory of their own.
 *    The offline gets its share of the processors in either case, one part in 64 or so: this says
 *    whether it matters that they are after the block.
 *  - storm_attempts: folio migrations begun for each one that succeeded, with 64 threads; beside 1,
 *    the least possible.
 *  - storm_wake: 10,000 threads wait for one and the same folio, whose gate a pin keeps shut; the
 *    pin goes, the folio moves, and all are woken. The figure is the longest single call that wakes
 *    a batch, in processor time of the waker (those woken run before it does, on a small machine, and are
 *    not in it); beside the
 *    one call of FUTEX_WAKE that wakes as many threads from one futex at once.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench/host.h"
#include "bench/rig.h"

#define HAMMERS_MAX 64
#define OFFLINES 3 /* a figure of a run is their median */
#define REST_NS 1000000

/* ---- Hammering ------------------------------------------------------------------------------ */

enum work { RESTING, BUSY, BUSY_ELSEWHERE };

struct storm {
	struct rig rig;
	struct host_buf elsewhere;
	uint64_t *mem;
	uint64_t bytes;
	int id; /* the block that holds the memory */
	enum work work;
	atomic_bool stop;
	atomic_uint ready;
	double attempts; /* a success, of the last offline */
};

struct hammer {
	struct storm *storm;
	unsigned index;
	pthread_t thread;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	struct storm *s = h->storm;
	uint64_t *mem = s->work == BUSY_ELSEWHERE ? (uint64_t *)s->elsewhere.mem : s->mem;
	const uint64_t words = VAC_PAGEBLOCK_BYTES / sizeof(uint64_t);
	uint64_t random = BENCH_SEED + h->index, pageblocks = s->bytes / VAC_PAGEBLOCK_BYTES;
	uint64_t pb = bench_random(&random) % pageblocks, n = 0;

	atomic_fetch_add(&s->ready, 1);
	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		/* A write to the host, and the contents stay for rig_verify(). */
		__atomic_fetch_xor(&mem[pb * words + bench_random(&random) % words], 0,
				   __ATOMIC_RELAXED);
		pb = (pb + 1) % pageblocks;
		if (++n % pageblocks == 0 && s->work == RESTING)
			nanosleep(&(struct timespec){.tv_nsec = REST_NS}, NULL);
	}
	return NULL;
}

static int offline_median(struct storm *s, unsigned times, double *ms)
{
	double v[OFFLINES], a[OFFLINES];

	for (unsigned i = 0; i < times; i++) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		uint64_t ns;

		if (rig_offline(&s->rig, s->id, &res, &ns) < 0 || rig_online(&s->rig, s->id) < 0)
			return -1;
		s->id ^= 1;
		v[i] = (double)ns / 1e6;
		a[i] = (double)res.attempts / (double)(res.huge_moved + res.base_moved);
	}
	*ms = bench_median(v, times);
	s->attempts = bench_median(a, times);
	return 0;
}

static int with_hammers(struct storm *s, unsigned threads, enum work work, double *ms)
{
	struct hammer h[HAMMERS_MAX];
	unsigned started = 0;
	int r = 0;

	s->work = work;
	atomic_store(&s->stop, false);
	atomic_store(&s->ready, 0);
	while (started < threads && r == 0) {
		h[started] = (struct hammer){.storm = s, .index = started};
		r = -pthread_create(&h[started].thread, NULL, hammer, &h[started]);
		started += r == 0;
	}
	if (r < 0)
		bench_fail(s->rig.env, "starting a thread", r);
	while (atomic_load(&s->ready) < started)
		usleep(1000);
	if (r == 0)
		r = offline_median(s, work == RESTING ? OFFLINES : 1, ms);
	atomic_store(&s->stop, true);
	for (unsigned i = 0; i < started; i++)
		pthread_join(h[i].thread, NULL);
	return r;
}

static int run_hammers(struct storm *s, struct bench_result **res, struct bench_result *attempts,
		       struct bench_result *busy, int run)
{
	static const unsigned threads[] = {1, 4, 16, 64};
	double alone, ms;

	for (unsigned i = 0; i < 4; i++) {
		if (with_hammers(s, 0, RESTING, &alone) < 0 ||
		    with_hammers(s, threads[i], RESTING, &ms) < 0)
			return -1;
		if (run >= 0)
			bench_add(res[i], ms, alone);
	}
	if (run >= 0)
		bench_add(attempts, s->attempts, 1);
	if (with_hammers(s, HAMMERS_MAX, BUSY_ELSEWHERE, &alone) < 0 ||
	    with_hammers(s, HAMMERS_MAX, BUSY, &ms) < 0)
		return -1;
	if (run >= 0)
		bench_add(busy, ms, alone);
	return 0;
}

static int measure_hammers(struct bench_env *env, struct storm *s)
{
	static const char *const names[] = {"storm_1", "storm_4", "storm_16", "storm_64"};
	struct bench_result *res[4], *attempts, *busy;

	s->bytes = env->tiny ? 8 * MIB : 64 * MIB;
	s->rig.opts.block_bytes = s->bytes;
	s->rig.blocks = 2;
	s->rig.space_bytes = s->bytes;
	if (rig_open(&s->rig) < 0 || rig_fill(&s->rig, s->bytes, 0, &s->mem) < 0 ||
	    host_buf_open(env, &s->elsewhere, s->bytes, HOST_2M) < 0)
		return -1;
	for (unsigned i = 0; i < 4; i++)
		res[i] = bench_result(env, names[i], "ms", BENCH_LESS, "the same without threads");
	attempts =
		bench_result(env, "storm_attempts", "a success", BENCH_LESS, "the least possible");
	busy = bench_result(env, "storm_busy", "ms", BENCH_LESS, "64 threads busy elsewhere");
	for (int run = -1; run < (int)env->runs; run++) {
		bench_run_begins(env, "storm", run);
		if (run_hammers(s, res, attempts, busy, run) < 0)
			return -1;
	}
	for (unsigned i = 0; i < 4; i++)
		bench_extra(res[i], "times_as_long",
			    bench_median(res[i]->sample, res[i]->n) /
				    bench_median(res[i]->peer_sample, res[i]->n));
	return rig_verify(&s->rig, s->mem, s->bytes, 1);
}

/* ---- Waiters on one folio ------------------------------------------------------------------- */

#define WAITERS_MAX 10000
#define STACK_BYTES ((size_t)64 << 10)
#define WAIT_MS 60000

struct crowd {
	const struct bench_env *env;
	struct rig *rig; /* NULL: on a futex of our own */
	const void *page;
	_Atomic uint32_t futex;
	atomic_uint ready, failed;
	_Atomic uint64_t last_ns; /* when the last one was awake */
	unsigned n;
	char *stacks;
	pthread_t *thread;
};

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void *wait_in_crowd(void *arg)
{
	struct crowd *c = arg;
	uint64_t pin, now, last;

	atomic_fetch_add(&c->ready, 1);
	if (!c->rig) {
		while (atomic_load(&c->futex) == 0)
			futex(&c->futex, FUTEX_WAIT, 0);
	} else if (vac_pin(c->rig->space, c->page, 1, VAC_PIN_READ, "crowd", &pin) < 0) {
		atomic_fetch_add(&c->failed, 1);
		return NULL;
	}
	now = bench_now();
	last = atomic_load(&c->last_ns);
	while (last < now && !atomic_compare_exchange_weak(&c->last_ns, &last, now))
		;
	if (c->rig)
		vac_unpin(c->rig->pool, pin);
	return NULL;
}

/* As many threads as the system lets us have, up to c->n. */
static void gather(struct crowd *c)
{
	pthread_attr_t attr;
	unsigned i;

	pthread_attr_init(&attr);
	for (i = 0; i < c->n; i++) {
		pthread_attr_setstack(&attr, c->stacks + i * STACK_BYTES, STACK_BYTES);
		if (pthread_create(&c->thread[i], &attr, wait_in_crowd, c))
			break;
	}
	pthread_attr_destroy(&attr);
	c->n = i;
	while (atomic_load(&c->ready) < c->n)
		usleep(1000);
}

static void disperse(struct crowd *c)
{
	for (unsigned i = 0; i < c->n; i++)
		pthread_join(c->thread[i], NULL);
}

/* The peer: one call wakes them all. */
/* Processor time of this thread, as the engine takes it for its batches. */
static uint64_t thread_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int wake_at_once(struct crowd *c, double *us, double *awake_ms)
{
	uint64_t start, cpu;

	gather(c);
	usleep(20000); /* the last ones are between their mark and their sleep */
	atomic_store(&c->futex, 1);
	start = bench_now();
	cpu = thread_time();
	futex(&c->futex, FUTEX_WAKE, INT_MAX);
	cpu = thread_time() - cpu;
	disperse(c);
	*us = (double)cpu / 1e3;
	*awake_ms = (double)(atomic_load(&c->last_ns) - start) / 1e6;
	return 0;
}

struct leaver {
	struct rig *rig;
	pthread_t thread;
	int r;
};

static void *leave(void *arg)
{
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_offline_opts opts = VAC_INIT(struct vac_offline_opts);
	struct leaver *l = arg;

	opts.timeout_ms = 2 * WAIT_MS;
	l->r = vac_block_offline(l->rig->pool, 0, &opts, &res);
	vac_report_free(res.report);
	return NULL;
}

static int look_for_gate(void *gated, const struct vac_blocker *b)
{
	*(bool *)gated |= b->gated != 0;
	return 0;
}

/* Wait until the offline has shut the gate of a folio of block 0. */
static int await_gate(struct rig *rig)
{
	uint64_t end = bench_now() + (uint64_t)10 * 1000000000;
	bool gated = false;

	while (!gated && bench_now() < end) {
		struct vac_report *report;

		usleep(1000);
		if (vac_report_block(rig->pool, 0, &report) < 0)
			break;
		vac_report_walk(report, look_for_gate, &gated);
		vac_report_free(report);
	}
	return gated ? 0 : bench_fail(rig->env, "waiting for a gate", -ETIMEDOUT);
}

/* All of the crowd wait: the counter tells. */
static int await_crowd(struct crowd *c)
{
	uint64_t end = bench_now() + (uint64_t)30 * 1000000000;
	struct vac_pool_stats st;

	do {
		usleep(1000);
		if (rig_stats(c->rig, &st) < 0)
			return -1;
		if (st.gate_waits >= c->n)
			return 0;
	} while (bench_now() < end);
	return bench_fail(c->env, "waiting for the crowd", -ETIMEDOUT);
}

/* Ours. The folio's pin is the caller's to drop, if this fails before it has done so. */
static int wake_gate(struct crowd *c, struct leaver *l, uint64_t *pin, uint64_t *start)
{
	if (await_gate(c->rig) < 0) {
		c->n = 0;
		return -1;
	}
	gather(c);
	if (await_crowd(c) < 0)
		return -1;
	*start = bench_now();
	vac_unpin(c->rig->pool, *pin);
	*pin = 0;
	pthread_join(l->thread, NULL);
	return l->r < 0 ? bench_fail(c->env, "taking a block away", l->r) : 0;
}

static int wake_in_batches(struct crowd *c, double *us, double *awake_ms)
{
	struct leaver l = {.rig = c->rig};
	uint64_t pin, start = 0, *mem;
	struct vac_pool_stats st;
	int r;

	if (rig_fill(c->rig, VAC_PAGEBLOCK_BYTES, 0, &mem) < 0 ||
	    rig_warm(c->rig, VAC_PAGEBLOCK_BYTES) < 0)
		return -1;
	c->page = mem;
	r = vac_pin(c->rig->space, mem, 1, VAC_PIN_READ, "keeper of the gate", &pin);
	if (r < 0)
		return bench_fail(c->env, "pinning a page", r);
	r = -pthread_create(&l.thread, NULL, leave, &l);
	if (r < 0) {
		vac_unpin(c->rig->pool, pin);
		return bench_fail(c->env, "starting a thread", r);
	}
	r = wake_gate(c, &l, &pin, &start);
	if (pin) {
		vac_unpin(c->rig->pool, pin);
		pthread_join(l.thread, NULL);
	}
	disperse(c);
	if (r < 0 || rig_stats(c->rig, &st) < 0)
		return -1;
	if (atomic_load(&c->failed))
		return bench_fail(c->env, "pinning a page", -EFAULT);
	*us = (double)st.wake_batch_max_ns / 1e3;
	*awake_ms = (double)(atomic_load(&c->last_ns) - start) / 1e6;
	return 0;
}

struct wake_figures {
	double us[2], awake_ms[2]; /* ours, the peer's */
	unsigned threads;
};

static int wake_run(struct bench_env *env, unsigned n, char *stacks, pthread_t *thread, bool ours,
		    struct wake_figures *f)
{
	struct crowd c = {.env = env, .n = n, .stacks = stacks, .thread = thread};
	struct rig rig = RIG_INIT(env);
	int r;

	if (!ours)
		return wake_at_once(&c, &f->us[1], &f->awake_ms[1]);
	rig.opts.block_bytes = VAC_BLOCK_BYTES_MIN;
	rig.opts.gate_timeout_ms = WAIT_MS;
	rig.blocks = 2;
	rig.space_bytes = 2 * VAC_PAGEBLOCK_BYTES;
	c.rig = &rig;
	r = rig_open(&rig) < 0 ? -1 : wake_in_batches(&c, &f->us[0], &f->awake_ms[0]);
	f->threads = c.n;
	rig_close(&rig);
	return r;
}

static int measure_wakes(struct bench_env *env, char *stacks, pthread_t *thread, unsigned n)
{
	double awake[BENCH_RUNS_MAX], peer_awake[BENCH_RUNS_MAX];
	struct wake_figures f = {.threads = 0};
	struct bench_result *res = NULL;

	for (int run = -1; run < (int)env->runs; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, "storm_wake", run);
		if (wake_run(env, n, stacks, thread, first, &f) < 0 ||
		    wake_run(env, n, stacks, thread, !first, &f) < 0)
			return -1;
		if (f.threads == 0) {
			bench_skip(env, "storm_wake", "no thread with a small stack can be had");
			return 0;
		}
		if (run < 0) {
			res = bench_result(env, "storm_wake", "us", BENCH_LESS,
					   "one FUTEX_WAKE for all");
			continue;
		}
		bench_add(res, f.us[0], f.us[1]);
		awake[run] = f.awake_ms[0];
		peer_awake[run] = f.awake_ms[1];
	}
	bench_extra(res, "waiters", f.threads);
	bench_extra(res, "all_awake_ms", bench_median(awake, env->runs));
	bench_extra(res, "peer_all_awake_ms", bench_median(peer_awake, env->runs));
	if (f.threads < n)
		bench_note(res, "the system did not allow %u threads", n);
	return 0;
}

static int wakes(struct bench_env *env)
{
	unsigned n = env->tiny ? 200 : WAITERS_MAX;
	pthread_t *thread = calloc(n, sizeof(*thread));
	/* One mapping for all stacks: each by itself would cost two. */
	char *stacks = mmap(NULL, n * STACK_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r = -1;

	if (stacks == MAP_FAILED || !thread)
		bench_fail(env, "stacks", -ENOMEM);
	else
		r = measure_wakes(env, stacks, thread, n);
	if (stacks != MAP_FAILED)
		munmap(stacks, n * STACK_BYTES);
	free(thread);
	return r;
}

int bench_storm(struct bench_env *env)
{
	struct storm s = {.rig = RIG_INIT(env)};
	int r = measure_hammers(env, &s);

	host_buf_close(&s.elsewhere);
	rig_close(&s.rig);
	return r < 0 ? r : wakes(env);
}

/* SPDX-License-Identifier: MIT */
/*
 * The scheduler: coroutines, of which one runs. Every atomic access, wait, wake and host call of the
 * engine is a scheduling point (sim_yield), where the policy may hand over to another runnable one.
 *
 *	random walk  switch with probability 1/n, n drawn per seed
 *	priority     always the runnable thread of highest priority, which falls at d points drawn from
 *		     the seed (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees
 *		     of Finding Bugs", ASPLOS 2010)
 *
 * Both are fair in the end: a thread that has run 500 steps on end while others could run gives
 * way, else a loop that waits for another thread's store would never see it; and every 131,072 steps the
 * one that has been kept out longest goes first.
 *
 * Time: a step takes 20 ns. When nobody can run, the clock jumps to the next deadline; if there is
 * none, the run is over and somebody sleeps for ever: a finding.
 */
#include "port/sim/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "port/sim/world.h"

#define STACK_BYTES (128u << 10)
#define STEP_NS 100
#define FAIR_STEPS 500
#define STARVED_STEPS (1u << 17)
#define CHANGE_POINTS_MAX 32

enum state { UNUSED, RUNNABLE, WAITING, DONE };

struct thread {
	jmp_buf ctx;
	bool started;
	enum state state;
	const char *name;
	void (*fn)(void *);
	void *arg;
	const _Atomic uint32_t *addr; /* waited for; NULL: only the clock */
	uint64_t deadline;            /* 0: none */
	int wake_result;
	int joined; /* thread waited for, or -1 */
	uint32_t priority;
	uint64_t ran_at; /* step */
	struct vac__held held;
};

static struct thread threads[SIM_THREADS_MAX];
static uint8_t *stacks;
static int nr_threads, current;
static jmp_buf outside;

static struct sim_config cfg;
static struct sim_result *result;
static uint64_t rng_sched, rng_world, now_ns, steps, streak;
static uint64_t change_at[CHANGE_POINTS_MAX];
static uint32_t next_low; /* priorities handed out at change points fall */
static struct sim_decision decisions[SIM_DECISIONS_MAX];
static uint32_t nr_decisions, replay_at;
static FILE *trace;

/* ---- Randomness ------------------------------------------------------------------------------- */

/* splitmix64 (Vigna): every seed is as good as another. */
static uint64_t next(uint64_t *s)
{
	uint64_t z = (*s += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t sim_random(void)
{
	return next(&rng_world);
}

uint64_t sim_below(uint64_t n)
{
	return n ? sim_random() % n : 0;
}

bool sim_one_in(uint32_t n)
{
	return n && sim_below(n) == 0;
}

/* ---- The trace -------------------------------------------------------------------------------- */

void sim_trace_to(void *file)
{
	trace = file;
}

static void hash(uint64_t v)
{
	result->trace_hash = (result->trace_hash ^ v) * UINT64_C(0x100000001b3);
}

static void vnote(const char *fmt, va_list ap)
{
	fprintf(trace, "%8llu %2d %-9s ", (unsigned long long)steps, current,
		threads[current].name);
	vfprintf(trace, fmt, ap);
	fputc('\n', trace);
}

void sim_note(const char *fmt, ...)
{
	va_list ap;

	if (!trace)
		return;
	va_start(ap, fmt);
	vnote(fmt, ap);
	va_end(ap);
}

void vac__sim_sync(const char *name, uint64_t arg)
{
	/* The name's address differs between builds: its letters do not. */
	for (const char *p = name; *p; p++)
		hash((unsigned char)*p);
	hash(arg);
	sim_note("%s %llu", name, (unsigned long long)arg);
	sim_yield();
}

/* ---- Ends ------------------------------------------------------------------------------------- */

_Noreturn void sim_fail(enum sim_end end, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(result->what, sizeof(result->what), fmt, ap);
	va_end(ap);
	result->end = end;
	if (trace)
		fprintf(trace, "%8llu %2d %-9s FOUND: %s\n", (unsigned long long)steps, current,
			threads[current].name, result->what);
	_longjmp(outside, 1);
}

_Noreturn void vac__port_panic(const char *file, int line, const char *what)
{
	const char *base = strrchr(file, '/');

	sim_fail(SIM_CRASH, "%s:%d: %s", base ? base + 1 : file, line, what);
}

/* ---- Switching -------------------------------------------------------------------------------- */

static void entry(void)
{
	struct thread *t = &threads[current];

	t->fn(t->arg);
	t->state = DONE;
	sim_note("ends");
	for (int i = 0; i < nr_threads; i++)
		if (threads[i].state == WAITING && threads[i].joined == current)
			threads[i].state = RUNNABLE;
	sim_yield();
	abort(); /* a thread that is done is not chosen */
}

static void switch_to(int to)
{
	struct thread *t = &threads[to];
	ucontext_t uc;
	int from = current;

	current = to;
	streak = 0;
	if (from >= 0 && from != to && _setjmp(threads[from].ctx))
		return;
	if (t->started) {
		if (from != to)
			_longjmp(t->ctx, 1);
		return;
	}
	t->started = true;
	getcontext(&uc);
	uc.uc_stack.ss_sp = stacks + (size_t)to * STACK_BYTES;
	uc.uc_stack.ss_size = STACK_BYTES;
	uc.uc_link = NULL;
	makecontext(&uc, entry, 0);
	setcontext(&uc);
}

static int runnable(void)
{
	int n = 0;

	for (int i = 0; i < nr_threads; i++)
		n += threads[i].state == RUNNABLE;
	return n;
}

/* Nobody can run: let the clock reach the earliest deadline. */
static void advance(void)
{
	uint64_t at = UINT64_MAX;

	for (int i = 0; i < nr_threads; i++)
		if (threads[i].state == WAITING && threads[i].deadline && threads[i].deadline < at)
			at = threads[i].deadline;
	if (at == UINT64_MAX) {
		char who[160] = "";
		size_t n = 0;

		for (int i = 0; i < nr_threads && n < sizeof(who) - 1; i++)
			if (threads[i].state == WAITING)
				n += (size_t)snprintf(who + n, sizeof(who) - n, " %s",
						      threads[i].name);
		sim_fail(SIM_LIVENESS, "asleep for ever:%s", who);
	}
	if (at > now_ns)
		now_ns = at;
}

static void expire(void)
{
	for (int i = 0; i < nr_threads; i++) {
		struct thread *t = &threads[i];

		if (t->state != WAITING || !t->deadline || t->deadline > now_ns)
			continue;
		t->state = RUNNABLE;
		t->wake_result = -ETIMEDOUT;
	}
}

static int nth_runnable(uint64_t k)
{
	for (int i = 0; i < nr_threads; i++)
		if (threads[i].state == RUNNABLE && k-- == 0)
			return i;
	return -1;
}

static int highest(void)
{
	int best = -1;

	for (int i = 0; i < nr_threads; i++)
		if (threads[i].state == RUNNABLE &&
		    (best < 0 || threads[i].priority > threads[best].priority))
			best = i;
	return best;
}

/* The runnable thread that has not run for the longest time. */
static int longest_out(void)
{
	int best = -1;

	for (int i = 0; i < nr_threads; i++)
		if (threads[i].state == RUNNABLE &&
		    (best < 0 || threads[i].ran_at < threads[best].ran_at))
			best = i;
	return best;
}

/* The next in turn after `current`, for when no draw is asked for. */
static int in_turn(void)
{
	for (int k = 1; k <= nr_threads; k++) {
		int i = (current + k) % nr_threads;

		if (threads[i].state == RUNNABLE)
			return i;
	}
	return -1;
}

static int choose_replay(bool must, bool unfair)
{
	while (replay_at < cfg.nr_replay && cfg.replay[replay_at].step < (uint32_t)steps)
		replay_at++;
	if (replay_at < cfg.nr_replay && cfg.replay[replay_at].step == (uint32_t)steps) {
		int to = cfg.replay[replay_at++].thread;

		if (to < nr_threads && threads[to].state == RUNNABLE)
			return to;
	}
	return must || unfair ? in_turn() : current;
}

static int choose(bool must)
{
	bool unfair = streak > FAIR_STEPS;

	/* A list that was shortened may leave a spinner without an end. */
	if (cfg.replay)
		return choose_replay(must, streak > 20 * FAIR_STEPS);
	if (cfg.policy == SIM_RANDOM_WALK) {
		if (!must && !unfair && next(&rng_sched) % cfg.switch_one_in)
			return current;
		return nth_runnable(next(&rng_sched) % (uint64_t)runnable());
	}
	for (uint32_t i = 0; i < cfg.depth; i++)
		if (change_at[i] == steps)
			threads[current].priority = --next_low;
	if (unfair)
		threads[current].priority = --next_low;
	/* Several that wake each other never run for long on end, and may keep others out for ever. */
	if (steps % STARVED_STEPS == 0)
		threads[longest_out()].priority = threads[highest()].priority + 1;
	return highest();
}

static void decide(bool must)
{
	int to;

	expire();
	while (runnable() == 0) {
		advance();
		expire();
	}
	must |= threads[current].state != RUNNABLE;
	threads[current].ran_at = steps;
	to = choose(must);
	if (to == current)
		return;
	if (nr_decisions < SIM_DECISIONS_MAX)
		decisions[nr_decisions++] =
			(struct sim_decision){.step = (uint32_t)steps, .thread = (uint8_t)to};
	else
		result->decisions_cut = true;
	hash(steps << 8 | (uint64_t)to);
	switch_to(to);
}

void sim_yield(void)
{
	steps++;
	streak++;
	now_ns += STEP_NS;
	if (steps > cfg.max_steps)
		sim_fail(SIM_LIVENESS, "%llu steps, and not done", (unsigned long long)steps);
	decide(false);
}

void vac__sim_point(const volatile void *addr)
{
	(void)addr;
	sim_yield();
}

/* ---- The engine's port: time, identity, waiting ----------------------------------------------- */

uint64_t vac__port_now(void)
{
	return now_ns;
}

uint64_t vac__port_now_thread(void)
{
	return now_ns;
}

uint64_t vac__port_now_coarse(void)
{
	return now_ns;
}

uint32_t vac__port_tid(void)
{
	return (uint32_t)current + 1;
}

static int sleep_on(const _Atomic uint32_t *addr, uint64_t deadline)
{
	struct thread *t = &threads[current];

	t->state = WAITING;
	t->addr = addr;
	t->deadline = deadline;
	t->wake_result = 0;
	t->joined = -1;
	decide(true);
	return t->wake_result;
}

int vac__port_wait(const _Atomic uint32_t *addr, uint32_t expect, uint64_t deadline_ns)
{
	sim_yield();
	if (atomic_load(addr) != expect)
		return -EAGAIN;
	if (deadline_ns && deadline_ns <= now_ns)
		return -ETIMEDOUT;
	return sleep_on(addr, deadline_ns);
}

int vac__port_wake(const _Atomic uint32_t *addr, int n)
{
	int woken = 0, first;

	sim_yield();
	/* The kernel wakes in order of arrival; a wait that depends on the order is a bug, so the
	 * first is drawn. */
	first = (int)sim_below((uint64_t)nr_threads);
	for (int k = 0; k < nr_threads && woken < n; k++) {
		struct thread *t = &threads[(first + k) % nr_threads];

		if (t->state != WAITING || t->addr != addr || t->joined >= 0)
			continue;
		t->state = RUNNABLE;
		woken++;
	}
	return woken;
}

void vac__port_relax(void)
{
	/* A spinner lets others run whatever its priority. */
	if (!cfg.replay)
		streak = FAIR_STEPS + 1;
	sim_yield();
}

void vac__port_copy(void *dst, const void *src, size_t bytes)
{
	memcpy(dst, src, bytes);
}

void vac__port_enter(struct vac__port_saved *saved)
{
	(void)saved;
}

void vac__port_leave(const struct vac__port_saved *saved)
{
	(void)saved;
}

bool vac__port_forked(void)
{
	return false;
}

unsigned vac__port_stack(uintptr_t *pc, unsigned max)
{
	for (unsigned i = 0; i < 3 && i < max; i++)
		pc[i] = 0x1000u * (unsigned)(current + 1) + i;
	return max < 3 ? max : 3;
}

void vac__port_thread_name(uint32_t tid, char *buf, size_t bytes)
{
	if (tid >= 1 && tid <= (uint32_t)nr_threads)
		snprintf(buf, bytes, "%s", threads[tid - 1].name);
	else if (bytes)
		buf[0] = '\0';
}

void vac__port_symbol(uintptr_t pc, char *buf, size_t bytes)
{
	(void)pc;
	if (bytes)
		buf[0] = '\0';
}

struct vac__held *vac__port_held(void)
{
	return &threads[current].held;
}

/* Nobody reads what it says here: a world has no limits but the pool's. */
struct vac__lack *vac__port_lack(void)
{
	static struct vac__lack lack;

	return &lack;
}

/* ---- Threads of the world --------------------------------------------------------------------- */

int sim_self(void)
{
	return current;
}

uint64_t sim_steps(void)
{
	return steps;
}

void sim_sleep(uint64_t ns)
{
	sleep_on(NULL, now_ns + (ns ? ns : 1));
}

static int create(const char *name, void (*fn)(void *), void *arg)
{
	struct thread *t;

	if (nr_threads == SIM_THREADS_MAX)
		abort();
	t = &threads[nr_threads];
	memset(t, 0, sizeof(*t));
	t->state = RUNNABLE;
	t->name = name;
	t->fn = fn;
	t->arg = arg;
	t->joined = -1;
	t->priority = (uint32_t)(next(&rng_sched) >> 33) | 0x40000000u;
	return nr_threads++;
}

int sim_spawn(const char *name, void (*fn)(void *), void *arg)
{
	int t = create(name, fn, arg);

	sim_yield();
	return t;
}

void sim_join(int thread)
{
	struct thread *t = &threads[current];

	while (threads[thread].state != DONE) {
		t->state = WAITING;
		t->addr = NULL;
		t->deadline = 0;
		t->joined = thread;
		decide(true);
	}
	t->joined = -1;
}

int vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *thread)
{
	*thread = (uintptr_t)sim_spawn(name, fn, arg);
	return 0;
}

void vac__port_thread_touches(void)
{
}

void vac__port_thread_join(uintptr_t thread)
{
	sim_join((int)thread);
}

const struct sim_decision *sim_decisions(void)
{
	return decisions;
}

void sim_run(const struct sim_config *c, void (*fn)(void *), void *arg, struct sim_result *res)
{
	if (!stacks)
		stacks = malloc((size_t)SIM_THREADS_MAX * STACK_BYTES);
	if (!stacks)
		abort();
	memset(res, 0, sizeof(*res));
	cfg = *c;
	result = res;
	result->trace_hash = UINT64_C(0xcbf29ce484222325);
	rng_sched = c->seed * 2 + 1;
	rng_world = ~c->seed;
	now_ns = 1000000000;
	steps = streak = 0;
	nr_threads = 0;
	nr_decisions = replay_at = 0;
	next_low = 0x40000000u;
	for (uint32_t i = 0; i < CHANGE_POINTS_MAX; i++)
		change_at[i] = next(&rng_sched) % 20000;
	if (cfg.depth > CHANGE_POINTS_MAX)
		cfg.depth = CHANGE_POINTS_MAX;
	world_reset();
	create("main", fn, arg);
	current = -1;
	if (_setjmp(outside) == 0) {
		current = 0;
		threads[0].started = false;
		/* Thread 0 ends by leaving through `outside`: see world_over. */
		switch_to(0);
	}
	res->steps = steps;
	res->nr_decisions = nr_decisions;
}

/* Thread 0 is through with everything. */
_Noreturn void sim_over(void)
{
	for (int i = 1; i < nr_threads; i++)
		if (threads[i].state != DONE)
			sim_fail(SIM_LIVENESS, "%s never ended", threads[i].name);
	_longjmp(outside, 1);
}

/* A sector is one word here, and its own sum. */
void vac__port_sums(const void *page, uint64_t sum[8])
{
	memcpy(sum, page, 8 * sizeof(*sum));
}

/* A device may write between any two words. */
void vac__port_copy_sums(void *dst, const void *src, uint64_t sum[8])
{
	memcpy(dst, src, 4 * sizeof(*sum));
	sim_yield();
	memcpy((uint64_t *)dst + 4, (const uint64_t *)src + 4, 4 * sizeof(*sum));
	vac__port_sums(dst, sum);
}

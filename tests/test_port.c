/* SPDX-License-Identifier: MIT */
/*
 * port/linux: time, threads, waiting, masks, stacks, tables' memory, the budget of host mappings,
 * and fork(). The memory of blocks and spaces is test_port_memory.c, faults are test_port_guard.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/port.h"
#include "tests/util_port.h"

#define UNUSED __attribute__((unused))

static const struct vac__mem_ops *const ops = &vac__port_mem_ops;

static uint64_t ms(unsigned n)
{
	return (uint64_t)n * 1000000;
}

/* ---- Time, identity --------------------------------------------------------------------------- */

static void test_clock(void **state UNUSED)
{
	uint64_t a = vac__port_now(), b, c;

	sleep_ms(20);
	b = vac__port_now();
	assert_true(b - a >= ms(20) && b - a < ms(5000));
	c = vac__port_now_coarse();
	assert_true(c <= vac__port_now() && c + ms(50) > b);
}

static void *return_tid(void *arg UNUSED)
{
	return (void *)(uintptr_t)vac__port_tid();
}

static int wait_for(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* The child of a thread that has its number cached must not believe it. */
static void test_tid(void **state UNUSED)
{
	uint32_t here = vac__port_tid();
	pthread_t t;
	void *there;
	int pid;

	assert_int_equal(here, syscall(SYS_gettid));
	assert_int_equal(here, vac__port_tid());
	assert_int_equal(pthread_create(&t, NULL, return_tid, NULL), 0);
	pthread_join(t, &there);
	assert_int_not_equal((uintptr_t)there, here);
	pid = fork();
	if (pid == 0)
		_exit(vac__port_tid() == (uint32_t)syscall(SYS_gettid) && vac__port_tid() != here
			      ? 0
			      : 1);
	assert_int_equal(wait_for(pid), 0);
	pid = (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* fork() behind libc's back */
	if (pid == 0)
		_exit(vac__port_tid() == (uint32_t)syscall(SYS_gettid) ? 0 : 1);
	assert_int_equal(wait_for(pid), 0);
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

static void test_wait_differs(void **state UNUSED)
{
	_Atomic uint32_t w = 1;

	assert_int_equal(vac__port_wait(&w, 2, 0), -EAGAIN);
}

static void test_wait_timeout(void **state UNUSED)
{
	_Atomic uint32_t w = 1;
	uint64_t t = vac__port_now();

	assert_int_equal(vac__port_wait(&w, 1, t + ms(30)), -ETIMEDOUT);
	assert_true(vac__port_now() - t >= ms(30));
	t = vac__port_now();
	assert_int_equal(vac__port_wait(&w, 1, t - 1), -ETIMEDOUT); /* in the past */
	assert_int_equal(vac__port_wait(&w, 1, 1), -ETIMEDOUT);
	assert_true(vac__port_now() - t < ms(1000));
}

static _Atomic uint32_t gate, arrived, woken;

static void *waiter(void *arg UNUSED)
{
	atomic_fetch_add(&arrived, 1);
	while (atomic_load(&gate) == 0)
		vac__port_wait(&gate, 0, 0);
	atomic_fetch_add(&woken, 1);
	return NULL;
}

static void test_wake(void **state UNUSED)
{
	pthread_t t[4];
	int n = 0;

	gate = arrived = woken = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, waiter, NULL);
	while (arrived != 4)
		sleep_ms(1);
	assert_int_equal(vac__port_wake(&woken, 100), 0);     /* nobody waits there */
	for (int tries = 0; n < 4 && tries < 2000; tries++) { /* all must fall asleep first */
		sleep_ms(1);
		n = vac__port_wake(&gate, 100); /* for nothing: they look and sleep again */
	}
	assert_int_equal(n, 4);
	sleep_ms(10);
	gate = 1;
	for (n = 0; woken < 4; sleep_ms(1)) {
		int k = vac__port_wake(&gate, 1);

		assert_true(k == 0 || k == 1);
		n += k;
	}
	assert_true(n <= 4);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

static void test_wake_of_nothing(void **state UNUSED)
{
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(p, PAGE);
	assert_int_equal(vac__port_wake(p, 1), 0);
}

static _Atomic uint32_t alarms;

static void on_alarm(int sig UNUSED)
{
	alarms++;
}

static void *interrupter(void *arg)
{
	pthread_t *t = arg;

	for (int i = 0; i < 20; i++) {
		sleep_ms(5);
		pthread_kill(*t, SIGUSR1);
	}
	return NULL;
}

/* Signals wake a waiter, for nothing, and do not move its deadline. */
static void test_wait_interrupted(void **state UNUSED)
{
	struct sigaction a = {.sa_handler = on_alarm}, old;
	pthread_t self = pthread_self(), t;
	_Atomic uint32_t w = 1;
	uint64_t end = vac__port_now() + ms(60), n = 0;
	int r;

	sigaction(SIGUSR1, &a, &old);
	alarms = 0;
	pthread_create(&t, NULL, interrupter, &self);
	while ((r = vac__port_wait(&w, 1, end)) == 0)
		n++;
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(vac__port_now() >= end && vac__port_now() < end + ms(1000));
	assert_true(n > 0 && n <= 20);
	pthread_join(t, NULL);
	sigaction(SIGUSR1, &old, NULL);
}

/* ---- Masks, cancellation ---------------------------------------------------------------------- */

static uint64_t blocked_signals(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof(mask));
	return mask;
}

#define ALL_SIGNALS \
	(~(uint64_t)0 & ~((uint64_t)1 << (SIGKILL - 1)) & ~((uint64_t)1 << (SIGSTOP - 1)))

static void test_enter_nests(void **state UNUSED)
{
	uint64_t before = blocked_signals();
	struct vac__port_saved a, b;
	int old;

	vac__port_enter(&a);
	assert_true(blocked_signals() == ALL_SIGNALS); /* 32 and 33 too */
	vac__port_enter(&b);
	assert_true(blocked_signals() == ALL_SIGNALS);
	vac__port_leave(&b);
	assert_true(blocked_signals() == ALL_SIGNALS);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	assert_int_equal(old, PTHREAD_CANCEL_DISABLE);
	vac__port_leave(&a);
	assert_true(blocked_signals() == before);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	assert_int_equal(old, PTHREAD_CANCEL_ENABLE);
}

static _Atomic int inside, left;

static void *to_be_cancelled(void *async)
{
	struct vac__port_saved s;

	if (async)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	vac__port_enter(&s);
	inside = 1;
	sleep_ms(100); /* nanosleep is a cancellation point */
	left = 1;
	vac__port_leave(&s);
	for (;;)
		sleep_ms(1);
	return NULL;
}

static void cancel_one(void *async)
{
	pthread_t t;
	void *r;

	inside = left = 0;
	pthread_create(&t, NULL, to_be_cancelled, async);
	while (!inside)
		sleep_ms(1);
	pthread_cancel(t);
	pthread_join(t, &r);
	assert_ptr_equal(r, PTHREAD_CANCELED);
	assert_int_equal(left, 1);
}

static void test_enter_cancel_deferred(void **state UNUSED)
{
	cancel_one(NULL);
}

static void test_enter_cancel_async(void **state UNUSED)
{
	cancel_one((void *)1);
}

static void *slow_inside(void *arg UNUSED)
{
	struct vac__port_saved s;

	vac__port_enter(&s);
	inside = 1;
	sleep_ms(50);
	left = 1;
	vac__port_leave(&s);
	sleep_ms(20);
	return NULL;
}

/* setuid() in one thread makes all others do the same, by a signal; it waits for us. */
static void test_enter_setuid(void **state UNUSED)
{
	pthread_t t;

	inside = left = 0;
	pthread_create(&t, NULL, slow_inside, NULL);
	while (!inside)
		sleep_ms(1);
	assert_int_equal(seteuid(geteuid()), 0);
#if !defined(__SANITIZE_THREAD__)
	assert_int_equal(left, 1);
#endif
	pthread_join(t, NULL);
}

/* ---- Stacks, names ---------------------------------------------------------------------------- */

static uintptr_t pcs[16];

__attribute__((noinline)) unsigned inner_of_stack(unsigned max);
__attribute__((noinline)) unsigned outer_of_stack(unsigned max);

__attribute__((noinline)) unsigned inner_of_stack(unsigned max)
{
	unsigned n = vac__port_stack(pcs, max);

	__asm__ volatile("" ::: "memory"); /* no tail call */
	return n;
}

__attribute__((noinline)) unsigned outer_of_stack(unsigned max)
{
	unsigned n = inner_of_stack(max);

	__asm__ volatile("" ::: "memory");
	return n;
}

/* inner_of_stack() stands for the engine: the first address is in its caller. */
static void test_stack(void **state UNUSED)
{
	char s[128];
	unsigned n = outer_of_stack(16);

	assert_true(n >= 2 && n <= 16);
	vac__port_symbol(pcs[0], s, sizeof(s));
	assert_non_null(strstr(s, "outer_of_stack+0x"));
	assert_non_null(strstr(s, "(test_port)"));
	memset(pcs, 0, sizeof(pcs));
	assert_int_equal(outer_of_stack(1), 1);
	assert_int_equal(pcs[1], 0);
	assert_int_equal(outer_of_stack(0), 0);
}

static void test_symbol_unknown(void **state UNUSED)
{
	char s[8] = "x";

	vac__port_symbol(0, s, sizeof(s));
	assert_string_equal(s, "");
	vac__port_symbol(16, s, sizeof(s));
	assert_string_equal(s, "");
	vac__port_symbol((uintptr_t)printf + 1, s, sizeof(s)); /* cut, not overrun */
	assert_true(strlen(s) < sizeof(s));
	vac__port_symbol((uintptr_t)printf, NULL, 0);
}

static void test_thread_name(void **state UNUSED)
{
	char name[16];

	pthread_setname_np(pthread_self(), "port of call");
	vac__port_thread_name(vac__port_tid(), name, sizeof(name));
	assert_string_equal(name, "port of call");
	vac__port_thread_name(vac__port_tid(), name, 5);
	assert_string_equal(name, "port");
	vac__port_thread_name(0x7fffffff, name, sizeof(name));
	assert_string_equal(name, "");
}

static void *other_held(void *arg UNUSED)
{
	return vac__port_held();
}

static void test_held(void **state UNUSED)
{
	struct vac__held *h = vac__port_held();
	pthread_t t;
	void *r;

	assert_int_equal(h->depth, 0);
	assert_ptr_equal(h, vac__port_held());
	pthread_create(&t, NULL, other_held, NULL);
	pthread_join(t, &r);
	assert_ptr_not_equal(h, r);
}

static void case_panic(void)
{
	vac__port_panic("file.c", 1234, "the sky fell");
}

static void test_panic(void **state UNUSED)
{
	char err[512];
	int status = case_run("panic", err, sizeof(err));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(err, "vacate: file.c:1234: the sky fell\n"));
}

/* ---- Tables ----------------------------------------------------------------------------------- */

static void test_meta(void **state UNUSED)
{
	size_t big = (size_t)64 << 30;
	unsigned char vec[1], *p = vac__port_meta_reserve(big);
	int pid;

	assert_non_null(p);
	assert_int_equal(p[0] | p[big / 2] | p[big - 1], 0);
	p[big / 2] = p[big / 2 + PAGE] = 7;
	vac__port_meta_discard(p + big / 2, PAGE);
	assert_int_equal(p[big / 2], 0);
	assert_int_equal(p[big / 2 + PAGE], 7);
	pid = fork();
	if (pid == 0) /* not there */
		_exit(mincore(p, PAGE, vec) < 0 && errno == ENOMEM ? 0 : 1);
	assert_int_equal(wait_for(pid), 0);
	vac__port_meta_release(p, big);
	assert_int_equal(mincore(p, PAGE, vec), -1);
	assert_null(vac__port_meta_reserve((size_t)1 << 60));
}

/* Where private memory is booked when it is mapped (here by RLIMIT_DATA, as with
 * vm.overcommit_memory=2), the tables are of the other kind, and behave alike. */
static void case_meta_booked(void)
{
	struct rlimit old, l;
	size_t big = (size_t)64 << 30;
	unsigned char vec[1], *p;
	int pid;

	vac__port_tid(); /* the port's one private page */
	MUST(getrlimit(RLIMIT_DATA, &old) == 0);
	l = old;
	l.rlim_cur = 1 << 20;
	MUST(setrlimit(RLIMIT_DATA, &l) == 0);
	p = vac__port_meta_reserve(big);
	MUST(setrlimit(RLIMIT_DATA, &old) == 0);
	MUST(p && maps_with("vacate:tables") == 1);
	MUST((p[0] | p[big / 2] | p[big - 1]) == 0);
	p[big / 2] = p[big / 2 + PAGE] = 7;
	vac__port_meta_discard(p + big / 2, PAGE);
	MUST(p[big / 2] == 0 && p[big / 2 + PAGE] == 7);
	pid = fork();
	if (pid == 0)
		_exit(mincore(p, PAGE, vec) < 0 && errno == ENOMEM ? 0 : 1);
	MUST(wait_for(pid) == 0);
	vac__port_meta_release(p, big);
	MUST(maps_with("vacate:tables") == 0);
}

static void test_meta_booked(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("meta_booked", err, sizeof(err)), 0);
}

/* ---- The budget ------------------------------------------------------------------------------- */

#define TABLES 32 /* port/linux/vma.c */

static void test_vma_budget(void **state UNUSED)
{
	uint64_t used, limit, u2, l2;
	FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
	unsigned long max = 0;

	assert_int_equal(fscanf(f, "%lu", &max), 1);
	fclose(f);
	vac__port_vma_usage(&used, &limit);
	assert_true(limit > 0 && limit <= max / 10 * 9);
	limit -= TABLES; /* kept for what is booked by force */
	assert_false(vac__port_vma_charge((long)(limit - used) + 1, false));
	vac__port_vma_usage(&u2, &l2);
	assert_int_equal(u2, used);
	assert_true(vac__port_vma_charge((long)(limit - used), false));
	assert_false(vac__port_vma_charge(1, false));
	assert_true(vac__port_vma_charge(5, true));
	vac__port_vma_usage(&u2, &l2);
	assert_int_equal(u2, limit + 5);
	assert_int_equal(l2, limit + TABLES);
	assert_true(vac__port_vma_charge(-(long)(limit - used) - 5, false));
	vac__port_vma_usage(&u2, &l2);
	assert_int_equal(u2, used);
}

/* The port books its own mappings, and gives all of them back. */
static void test_vma_own(void **state UNUSED)
{
	uint64_t used, limit, now;
	int guard = VAC_GUARD_SIGSEGV;
	struct vac__backing b;
	void *ctx, *direct;

	assert_int_equal(ops->open(&ctx, "own", &guard, 0), 0); /* the spares stay from now on */
	ops->close(ctx);
	vac__port_vma_usage(&used, &limit);
	assert_int_equal(ops->open(&ctx, "own", &guard, 0), 0);
	assert_int_equal(ops->direct_reserve(ctx, 16 * PB, PB, &direct), 0);
	assert_int_equal((uintptr_t)direct % PB, 0);
	assert_int_equal(ops->block_open(ctx, 3, 4 * PB, direct, &b), 0);
	vac__port_vma_usage(&now, &limit);
	assert_true(now >= used + 4);
	ops->block_close(ctx, &b);
	ops->direct_release(ctx, direct, 16 * PB);
	ops->close(ctx);
	vac__port_vma_usage(&now, &limit);
	assert_int_equal(now, used);
}

static void test_vma_refused(void **state UNUSED)
{
	uint64_t used, limit;
	int guard = VAC_GUARD_SIGSEGV;
	struct vac__backing b;
	void *ctx, *direct, *p;

	assert_int_equal(ops->open(&ctx, "full", &guard, 0), 0);
	assert_int_equal(ops->direct_reserve(ctx, 16 * PB, PB, &direct), 0);
	vac__port_vma_usage(&used, &limit);
	limit -= TABLES;
	assert_true(vac__port_vma_charge((long)(limit - used), false));
	assert_int_equal(ops->block_open(ctx, 3, 4 * PB, direct, &b), -ENOMEM);
	assert_int_equal(ops->direct_reserve(ctx, 16 * PB, PB, &p), -ENOMEM);
	/* A report must be had just then. */
	p = vac__port_meta_reserve(PAGE);
	assert_non_null(p);
	vac__port_meta_release(p, PAGE);
	vac__port_vma_charge(-(long)(limit - used), true);
	assert_int_equal(ops->block_open(ctx, 3, 4 * PB, direct, &b), 0);
	ops->block_close(ctx, &b);
	ops->direct_release(ctx, direct, 16 * PB);
	ops->close(ctx);
}

/* ---- fork() ----------------------------------------------------------------------------------- */

pid_t _Fork(void);

static void test_forked_flag(void **state UNUSED)
{
	int guard = VAC_GUARD_SIGSEGV, pid;
	void *ctx;

	assert_int_equal(ops->open(&ctx, "fork", &guard, 0), 0);
	assert_false(vac__port_forked());
	for (int how = 0; how < 3; how++) {
		pid = how == 0   ? fork()
		      : how == 1 ? _Fork()
				 : (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (pid == 0) {
			bool once = vac__port_forked();

			if (how == 0) { /* a grandchild knows too */
				pid = fork();
				if (pid == 0)
					_exit(vac__port_forked() ? 0 : 1);
				if (wait_for(pid))
					_exit(2);
			}
			_exit(once ? 0 : 1);
		}
		assert_int_equal(wait_for(pid), 0);
	}
	assert_false(vac__port_forked());
	ops->close(ctx);
}

static int never(void *arg UNUSED, uintptr_t addr UNUSED, unsigned access UNUSED)
{
	return -EFAULT;
}

struct forks {
	void *ctx;
	struct vac__backing b;
	char *space;
	_Atomic bool stop;
	_Atomic unsigned long rounds;
};

#define FORK_THREADS 3

/* Map and unmap, protect and replace, as fast as possible, each thread in its own pageblock. */
static void *churn(void *arg)
{
	static _Atomic unsigned next;
	struct forks *f = arg;
	size_t at = (atomic_fetch_add(&next, 1) % FORK_THREADS) * PB;
	struct vac__port_saved s;

	while (!f->stop) {
		vac__port_enter(&s);
		if (ops->map(f->ctx, f->space + at, PB, &f->b, at, VAC__READ | VAC__WRITE) ||
		    ops->leave(f->ctx, f->space + at, PB / 2, VAC__READ | VAC__WRITE) ||
		    ops->map(f->ctx, f->space + at, PB / 2, &f->b, at, VAC__READ | VAC__WRITE) ||
		    ops->unmap(f->ctx, f->space + at, PB))
			must_fail(__FILE__, __LINE__, "churn");
		vac__port_leave(&s);
		f->rounds++;
	}
	return NULL;
}

/* At whatever moment a child is born, no page of a block is mapped in it. */
static void test_fork_any_moment(void **state UNUSED)
{
	static struct forks f;
	pthread_t t[FORK_THREADS];
	unsigned long before;
	void *direct, *space;
	int guard = VAC_GUARD_SIGSEGV;

	assert_int_equal(ops->open(&f.ctx, "forks", &guard, 0), 0);
	assert_int_equal(ops->direct_reserve(f.ctx, 8 * PB, PB, &direct), 0);
	assert_int_equal(ops->block_open(f.ctx, 1, 4 * PB, direct, &f.b), 0);
	assert_int_equal(ops->space_reserve(f.ctx, 8 * PB, never, NULL, &space), 0);
	f.space = space;
	for (int i = 0; i < FORK_THREADS; i++)
		pthread_create(&t[i], NULL, churn, &f);
	for (unsigned i = 0; i < scaled(400); i++) {
		int pid = fork();

		if (pid == 0) {
			alarm(20);
			_exit(maps_with("vacate:forks") ? 1 : vac__port_forked() ? 0 : 2);
		}
		assert_int_equal(wait_for(pid), 0);
	}
	before = f.rounds; /* and the forks did not stop the others for good */
	sleep_ms(50);
	assert_true(f.rounds > before);
	f.stop = true;
	for (int i = 0; i < FORK_THREADS; i++)
		pthread_join(t[i], NULL);
	ops->space_release(f.ctx, space, 8 * PB);
	ops->block_close(f.ctx, &f.b);
	ops->direct_release(f.ctx, direct, 8 * PB);
	ops->close(f.ctx);
}

static struct forks in_prepare;

static int map_on_fault(void *arg, uintptr_t addr, unsigned access UNUSED)
{
	struct forks *f = arg;

	addr &= ~(PB - 1);
	f->rounds++;
	return ops->map(f->ctx, (void *)addr, PB, &f->b, addr - (uintptr_t)f->space,
			VAC__READ | VAC__WRITE);
}

/* Registered before the port's own, which is when the library is loaded, so it runs after it: the fork
 * lock is taken. */
static void touch_in_prepare(void)
{
	if (in_prepare.space)
		++*(volatile char *)in_prepare.space;
}

__attribute__((constructor(101))) static void register_touch(void)
{
	pthread_atfork(touch_in_prepare, NULL, NULL);
}

static void case_fork_prepare(void)
{
	struct forks *f = &in_prepare;
	void *direct, *space;
	int guard = VAC_GUARD_SIGSEGV;

	MUST(ops->open(&f->ctx, "prepare", &guard, 0) == 0);
	MUST(ops->direct_reserve(f->ctx, 4 * PB, PB, &direct) == 0);
	MUST(ops->block_open(f->ctx, 1, 4 * PB, direct, &f->b) == 0);
	MUST(ops->space_reserve(f->ctx, 4 * PB, map_on_fault, f, &space) == 0);
	f->space = space;
	alarm(10);
	for (int i = 0; i < 20; i++) {
		int pid = fork();

		if (pid == 0)
			_exit(maps_with("vacate:prepare") ? 1 : 0);
		MUST(wait_for(pid) == 0);
		MUST(ops->unmap(f->ctx, space, PB) == 0);
	}
	MUST(f->rounds == 20);
	MUST(*(char *)direct == 20);
}

/* A thread that faults in an atfork handler while it holds the fork lock does not wait for itself. */
static void test_fork_fault_in_prepare(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("fork_prepare", err, sizeof(err)), 0);
}

static void *forker(void *arg UNUSED)
{
	for (unsigned i = 0; i < scaled(50); i++) {
		int pid = fork();

		if (pid == 0)
			_exit(0);
		if (wait_for(pid))
			return (void *)1;
	}
	return NULL;
}

static void test_forks_at_once(void **state UNUSED)
{
	pthread_t t[4];
	void *r;

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, forker, NULL);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		assert_null(r);
	}
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"panic", case_panic},
		{"meta_booked", case_meta_booked},
		{"fork_prepare", case_fork_prepare},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_tid),
		cmocka_unit_test(test_wait_differs),
		cmocka_unit_test(test_wait_timeout),
		cmocka_unit_test(test_wake),
		cmocka_unit_test(test_wake_of_nothing),
		cmocka_unit_test(test_wait_interrupted),
		cmocka_unit_test(test_enter_nests),
		cmocka_unit_test(test_enter_cancel_deferred),
		cmocka_unit_test(test_enter_cancel_async),
		cmocka_unit_test(test_enter_setuid),
		cmocka_unit_test(test_stack),
		cmocka_unit_test(test_symbol_unknown),
		cmocka_unit_test(test_thread_name),
		cmocka_unit_test(test_held),
		cmocka_unit_test(test_panic),
		cmocka_unit_test(test_meta),
		cmocka_unit_test(test_meta_booked),
		cmocka_unit_test(test_vma_budget),
		cmocka_unit_test(test_vma_own),
		cmocka_unit_test(test_vma_refused),
		cmocka_unit_test(test_forked_flag),
		cmocka_unit_test(test_fork_any_moment),
		cmocka_unit_test(test_fork_fault_in_prepare),
		cmocka_unit_test(test_forks_at_once),
	};

	case_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

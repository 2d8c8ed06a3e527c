/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * What the engine asks of threads while blocks leave, and what it does not: stacks, signal handlers,
 * cancellation.
 */
#include "tests/util.h"

#include <sys/syscall.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
} io;

static void in_and_out(struct member *m)
{
	/* Everything blocked that may be: the engine needs SIGSEGV only. */
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	while (!m->team->stop) {
		char *at = io.mem + rnd(&m->rnd) % 512 * P;

		errno = 4711;
		*(_Atomic char *)at = 1;
		MUST(errno == 4711); /* whatever the engine did for it */
		if (rnd(&m->rnd) % 8 == 0)
			MUST_OK(vac_advise(io.space, at, P, VAC_ADV_DONTNEED));
		m->team->rounds++;
	}
}

static void *small_thread(void *arg)
{
	in_and_out(arg);
	return NULL;
}

/* Signals blocked, a small stack, errno: a fault does not mind, and is not minded. */
static void test_poor_threads(void **state UNUSED)
{
	struct team t = {.n = 2};
	pthread_attr_t a;
	struct member m[2];
	pthread_t thread[2];

	io.pool = t_pool(MIB(4), 3);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, HUGE, VAC_MAP_NOHUGE);
	pthread_attr_init(&a);
	/* 32 KiB, as the header asks, and what the thread itself and its libraries take. */
	assert_ok(pthread_attr_setstacksize(&a, ASAN || TSAN ? 1 << 20 : 48 << 10));
	for (unsigned i = 0; i < 2; i++) {
		m[i] = (struct member){&t, i, t_seed(50 + i), NULL};
		assert_ok(pthread_create(&thread[i], &a, small_thread, &m[i]));
	}
	pthread_attr_destroy(&a);
	for (uint64_t end = t_ms() + scaled(1000); t_ms() < end;)
		t_round_of_offlines(io.pool, 3);
	team_rounds(&t, 10);
	t.stop = true;
	for (unsigned i = 0; i < 2; i++)
		assert_ok(pthread_join(thread[i], NULL));
	t_close(io.pool);
}

static _Atomic uint64_t handled;
static _Thread_local uint64_t handler_rnd;

/* Touches the pool, wherever the thread is: in its own code, on the fast path of a pin, or about to
 * take the engine's locks. */
static void on_usr1(int sig UNUSED)
{
	int e = errno;
	char *at = io.mem + HUGE + rnd(&handler_rnd) % 512 * P;
#if TSAN /* runs handlers later, with all signals blocked */
	uint64_t segv = (uint64_t)1 << (SIGSEGV - 1);

	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &segv, NULL, sizeof(segv));
#endif

	atomic_fetch_add((_Atomic uint32_t *)at, 1);
	handled++;
	errno = e;
}

static void calls_under_signals(struct member *m)
{
	handler_rnd = m->rnd;
	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd), pin;
		char *at =
			io.mem + (m->nr * 160 + r % 140) * P; /* each its own: it protects them */

		*at = 1;
		pin = t_pin(io.space, at, 1 + r % 10 * P,
			    VAC_PIN_WRITE | (r & 64 ? VAC_PIN_STACK : 0), "signalled");
		MUST_OK(vac_unpin(io.pool, pin));
		if (r >> 20 & 1)
			MUST_OK(vac_advise(io.space, at, P, VAC_ADV_DONTNEED));
		if ((r >> 21 & 7) == 0) {
			MUST_OK(vac_protect(io.space, at, 2 * P, VAC_PROT_READ));
			MUST_OK(vac_protect(io.space, at, 2 * P, RW));
		}
		m->team->rounds++;
	}
}

static void test_signal_handler(void **state UNUSED)
{
	struct sigaction a, old;
	struct team t;
	unsigned sent = 0;

	memset(&a, 0, sizeof(a));
	a.sa_handler = on_usr1;
	a.sa_flags = SA_RESTART;
	handled = 0;
	sigaction(SIGUSR1, &a, &old);
	io.pool = t_pool(MIB(4), 4);
	io.space = t_space(io.pool, MIB(8));
	io.mem = t_map(io.space, 2 * HUGE, VAC_MAP_NOHUGE);
	team_start(&t, 3, calls_under_signals, NULL);
	for (uint64_t end = t_ms() + scaled(2000); t_ms() < end;) {
		for (int id = 0; id < 4; id++) {
			for (int i = 0; i < 50; i++, sent++)
				pthread_kill(t.thread[sent % 3], SIGUSR1);
			MUST(t_offline(io.pool, id, 60000, NULL) == 0);
			MUST(t_online(io.pool, id) == 0);
		}
	}
	team_rounds(&t, 10);
	team_stop(&t);
	sigaction(SIGUSR1, &old, NULL);
	assert_true(handled > scaled(50));
	{
		uint64_t sum = 0;

		for (unsigned i = 0; i < 512; i++)
			sum += *(uint32_t *)(io.mem + HUGE + i * P);
		assert_true(sum == handled); /* none was lost with a page */
	}
	t_close(io.pool);
}

/* A thread that is cancelled (deferred, as is the default) ends between calls, never inside one with
 * locks, pins or references of the engine in its hands. */
static void call_until_cancelled(struct member *m)
{
	for (;;) {
		uint64_t r = rnd(&m->rnd), pin;
		char *at = io.mem + r % 500 * P;
		int old;

		m->team->rounds++;
		*at = 1;
		pthread_testcancel();
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
		MUST_OK(vac_pin(io.space, at, 3 * P, 0, "cancelled", &pin));
		MUST_OK(vac_unpin(io.pool, pin));
		pthread_setcancelstate(old, NULL);
		/* And without that protection: these hold nothing when they return. */
		MUST_OK(vac_advise(io.space, at, P, VAC_ADV_DONTNEED));
		MUST_OK(vac_protect(io.space, at, P, RW));
		MUST(vac_pool_stats(io.pool, &(struct vac_pool_stats){.size = 64}) == 0);
		if (m->nr == 0) {
			struct vac_report *report;

			if (vac_report_block(io.pool, 0, &report) == 0)
				vac_report_free(report);
			MUST(t_offline(io.pool, (int)(r % 4), 60000, NULL) == 0);
			MUST(t_online(io.pool, (int)(r % 4)) == 0);
		}
	}
}

#if ASAN
void __asan_handle_no_return(void);
#endif

/* The address sanitizer does not see that a cancelled thread leaves its stack by the shortest way. */
static void on_cancel(void *arg UNUSED)
{
#if ASAN
	__asan_handle_no_return();
#endif
}

static void *cancellable(void *arg)
{
	pthread_cleanup_push(on_cancel, NULL);
	call_until_cancelled(arg);
	pthread_cleanup_pop(0);
	return NULL;
}

static void test_pthread_cancel(void **state UNUSED)
{
	uint64_t seed = t_seed(60);

	if (TSAN) {
		print_message(
			"SKIP: forced: the thread sanitizer hangs where threads are cancelled\n");
		skip();
	}
	io.pool = t_pool(MIB(4), 4);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, HUGE, VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < scaled(150); i++) {
		struct team t = {.n = 2};
		struct member m[2];
		pthread_t thread[2];
		void *r;

		for (unsigned k = 0; k < 2; k++) {
			m[k] = (struct member){&t, k, rnd(&seed), NULL};
			MUST(pthread_create(&thread[k], NULL, cancellable, &m[k]) == 0);
		}
		while (t.rounds < 2)
			sched_yield();
		for (uint64_t n = rnd(&seed) % 3000; n; n--)
			vac__port_relax();
		for (unsigned k = 0; k < 2; k++)
			MUST(pthread_cancel(thread[k]) == 0);
		for (unsigned k = 0; k < 2; k++) {
			MUST(pthread_join(thread[k], &r) == 0);
			MUST(r == PTHREAD_CANCELED);
		}
		for (int id = 0; id < 4; id++) /* it may have died between the two */
			if (t_block(io.pool, id).state == VAC_BLOCK_OFFLINE)
				MUST(t_online(io.pool, id) == 0);
		MUST_OK(vac_pool_check(io.pool, NULL, 0));
		assert_int_equal(t_stats(io.pool).pins, 0);
	}
	t_close(io.pool);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_poor_threads),
		cmocka_unit_test(test_signal_handler),
		cmocka_unit_test(test_pthread_cancel),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * src/lock.c and src/wait.c: exclusion, the order of locks and what catches its reversal, and
 * sleeping for a folio or a gate without holding anything.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sched.h>

#include "src/internal.h"

#define MS(n) ((uint64_t)(n)*1000000)

/* ---- The order ---------------------------------------------------------------------------------- */

static struct vac__mutex mutex_a, mutex_b;
static struct vac__rwlock rw_a, rw_b;

enum how { MUTEX, UNTIL, READ, WRITE, TRY, HOWS };
#define BLOCKING 4 /* those before TRY wait */

static void take(enum how how, bool second, enum vac__rank rank)
{
	struct vac__mutex *m = second ? &mutex_b : &mutex_a;
	struct vac__rwlock *l = second ? &rw_b : &rw_a;

	switch (how) {
	case MUTEX: vac__lock(m, rank); break;
	case UNTIL: MUST(vac__lock_until(m, rank, vac__port_now() + MS(1000))); break;
	case READ: vac__rdlock(l, rank); break;
	case WRITE: vac__wrlock(l, rank); break;
	default: MUST(vac__trylock(m, rank)); break;
	}
}

/* In a child, as what is caught ends the program. Locks need no pool, so a child may use them. */
static int status_of(void (*fn)(const int *), const int *arg)
{
	int status, null, pid = fork();

	if (pid == 0) {
		null = open("/dev/null", O_WRONLY);
		dup2(null, 2);
		signal(SIGABRT, SIG_DFL);
		fn(arg);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static bool aborts(void (*fn)(const int *), int a, int b, int c, int d)
{
	int arg[4] = {a, b, c, d};
	int status = status_of(fn, arg);

	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
		return true;
	assert_int_equal(status, 0);
	return false;
}

static void two_locks(const int *arg)
{
	take((enum how)arg[0], false, (enum vac__rank)arg[2]);
	take((enum how)arg[1], true, (enum vac__rank)arg[3]);
}

/* Every pair of ranks: outer then inner passes, anything else that might wait is caught, also where
 * the first was only tried for; to try out of order is allowed. */
static void test_order(void **state UNUSED)
{
	for (int a = VAC__RANK_HOTPLUG; a <= VAC__RANK_ZONE; a++)
		for (int b = VAC__RANK_HOTPLUG; b <= VAC__RANK_ZONE; b++) {
			int first = (a + b) % HOWS, second = (a * 3 + b) % BLOCKING;

			assert_int_equal(aborts(two_locks, first, second, a, b), b <= a);
			if (b <= a)
				assert_false(aborts(two_locks, first, TRY, a, b));
		}
	for (int first = 0; first < HOWS; first++) /* and every kind on every kind */
		for (int second = 0; second < BLOCKING; second++) {
			assert_true(
				aborts(two_locks, first, second, VAC__RANK_ZONE, VAC__RANK_PTL));
			assert_false(
				aborts(two_locks, first, second, VAC__RANK_PTL, VAC__RANK_ZONE));
		}
}

static void case_reversed(void)
{
	vac__lock(&mutex_a, VAC__RANK_ZONE);
	vac__lock(&mutex_b, VAC__RANK_PTL);
}

/* A fresh program, to see that it says what happened. */
static void test_reversal_says_so(void **state UNUSED)
{
	char err[512];
	int status = case_run("reversed", err, sizeof(err));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(err, "lock order reversed"));
}

static void release_twice(const int *arg)
{
	vac__lock(&mutex_a, VAC__RANK_PTL);
	vac__unlock(&mutex_a, VAC__RANK_PTL);
	if (arg[0])
		vac__unlock(&mutex_a, VAC__RANK_PTL);
}

static void release_another(const int *arg)
{
	vac__lock(&mutex_a, VAC__RANK_PTL);
	vac__unlock(arg[0] ? &mutex_b : &mutex_a, arg[1] ? VAC__RANK_ZONE : VAC__RANK_PTL);
}

static void any_order_of_release(const int *arg)
{
	vac__lock(&mutex_a, VAC__RANK_SPACE);
	vac__rdlock(&rw_a, VAC__RANK_RMAP);
	vac__lock(&mutex_b, VAC__RANK_PTL);
	vac__unlock(&mutex_a, VAC__RANK_SPACE);
	vac__lock(&mutex_a, VAC__RANK_ZONE);
	vac__rdunlock(&rw_a, VAC__RANK_RMAP);
	if (arg[0])
		vac__wrlock(&rw_b, VAC__RANK_RMAP); /* ptl is still held */
	vac__unlock(&mutex_b, VAC__RANK_PTL);
	vac__unlock(&mutex_a, VAC__RANK_ZONE);
	MUST(vac__port_held()->depth == 0);
}

/* It is not the latest lock that counts, but the innermost. */
static void innermost_first(const int *arg)
{
	vac__lock(&mutex_a, VAC__RANK_ZONE);
	MUST(vac__trylock(&mutex_b, VAC__RANK_PTL));
	if (arg[0])
		vac__rdlock(&rw_a, VAC__RANK_SEGMENTS);
}

static void many(const int *arg)
{
	static struct vac__mutex m[VAC__HELD_MAX + 1];

	for (int i = 0; i < arg[0]; i++)
		MUST(vac__trylock(&m[i], VAC__RANK_ZONE));
}

static void with_folio(const int *arg)
{
	vac__folios_held(1);
	if (arg[0] == 0)
		vac__lock(&mutex_a, (enum vac__rank)arg[1]);
	vac__folios_held(-1);
	if (arg[0] == 1)
		vac__folios_held(-1);
}

static void asleep_with(const int *arg)
{
	if (arg[0] == 1)
		vac__rdlock(&rw_a, VAC__RANK_HOTPLUG);
	if (arg[0] == 2)
		vac__folios_held(1);
	vac__assert_bare();
}

static void test_misuse(void **state UNUSED)
{
	assert_false(aborts(release_twice, 0, 0, 0, 0));
	assert_true(aborts(release_twice, 1, 0, 0, 0));
	assert_false(aborts(release_another, 0, 0, 0, 0));
	assert_true(aborts(release_another, 1, 0, 0, 0));
	assert_true(aborts(release_another, 0, 1, 0, 0));
	assert_false(aborts(any_order_of_release, 0, 0, 0, 0));
	assert_true(aborts(any_order_of_release, 1, 0, 0, 0));
	assert_false(aborts(innermost_first, 0, 0, 0, 0));
	assert_true(aborts(innermost_first, 1, 0, 0, 0));
	assert_false(aborts(many, VAC__HELD_MAX, 0, 0, 0));
	assert_true(aborts(many, VAC__HELD_MAX + 1, 0, 0, 0));
	for (int rank = VAC__RANK_HOTPLUG; rank <= VAC__RANK_ZONE; rank++)
		assert_int_equal(aborts(with_folio, 0, rank, 0, 0), rank <= VAC__RANK_FOLIO);
	assert_true(aborts(with_folio, 1, 0, 0, 0));
	assert_false(aborts(asleep_with, 0, 0, 0, 0));
	assert_true(aborts(asleep_with, 1, 0, 0, 0));
	assert_true(aborts(asleep_with, 2, 0, 0, 0));
}

/* ---- Mutexes ------------------------------------------------------------------------------------ */

static struct vac__mutex counter_lock;
static uint64_t counter; /* plain: only the lock keeps it whole */

static void increment(struct member *m)
{
	for (unsigned i = 0; i < scaled(20000); i++) {
		if (m->nr % 3 == 0) {
			while (!vac__trylock(&counter_lock, VAC__RANK_PTL))
				sched_yield();
		} else if (m->nr % 3 == 1) {
			while (!vac__lock_until(&counter_lock, VAC__RANK_PTL,
						vac__port_now() + rnd(&m->rnd) % 200000))
				;
		} else {
			vac__lock(&counter_lock, VAC__RANK_PTL);
		}
		counter = *(volatile uint64_t *)&counter + 1;
		if (rnd(&m->rnd) % 64 == 0)
			sched_yield(); /* with it held: the others go to sleep */
		vac__unlock(&counter_lock, VAC__RANK_PTL);
	}
}

static void test_mutex(void **state UNUSED)
{
	struct team t;

	counter = 0;
	team_start(&t, 6, increment, NULL);
	team_join(&t);
	assert_int_equal(counter, 6ull * scaled(20000));
	assert_int_equal(counter_lock.v, 0);
}

static _Atomic bool held;

static void hold_until_stopped(struct member *m)
{
	vac__lock(&counter_lock, VAC__RANK_PTL);
	held = true;
	while (!m->team->stop)
		sleep_ms(1);
	vac__unlock(&counter_lock, VAC__RANK_PTL);
}

static void test_timed(void **state UNUSED)
{
	struct team t;
	uint64_t end;

	held = false;
	team_start(&t, 1, hold_until_stopped, NULL);
	while (!held)
		sleep_ms(1);
	assert_false(vac__trylock(&counter_lock, VAC__RANK_PTL));
	end = vac__port_now() + MS(10);
	assert_false(vac__lock_until(&counter_lock, VAC__RANK_PTL, end));
	assert_true(vac__port_now() >= end);
	assert_int_equal(vac__port_held()->depth, 0); /* or the next would seem out of order */
	t.stop = true;
	end = vac__port_now() + MS(30000);
	assert_true(vac__lock_until(&counter_lock, VAC__RANK_PTL, end));
	assert_true(vac__port_now() < end);
	vac__unlock(&counter_lock, VAC__RANK_PTL);
	team_join(&t);
	assert_true(
		vac__lock_until(&counter_lock, VAC__RANK_PTL, 1)); /* free: no matter the time */
	vac__unlock(&counter_lock, VAC__RANK_PTL);
}

/* ---- Read-write locks ----------------------------------------------------------------------------- */

static struct vac__rwlock rw;
static uint64_t left_half, right_half; /* equal, seen from inside */
static _Atomic uint32_t inside, most_inside, writers_inside;

static void reader_or_writer(struct member *m)
{
	for (unsigned i = 0; i < scaled(20000); i++) {
		if (rnd(&m->rnd) % 4) {
			uint32_t n;

			vac__rdlock(&rw, VAC__RANK_RMAP);
			n = atomic_fetch_add(&inside, 1) + 1;
			if (n > most_inside)
				most_inside = n;
			MUST(writers_inside == 0 && left_half == right_half);
			if (rnd(&m->rnd) % 64 == 0)
				sched_yield();
			MUST(left_half == right_half);
			inside--;
			vac__rdunlock(&rw, VAC__RANK_RMAP);
		} else {
			vac__wrlock(&rw, VAC__RANK_RMAP);
			MUST(atomic_fetch_add(&writers_inside, 1) == 0 && inside == 0);
			left_half++;
			if (rnd(&m->rnd) % 16 == 0)
				sched_yield();
			right_half++;
			writers_inside--;
			vac__wrunlock(&rw, VAC__RANK_RMAP);
			m->team->rounds++;
		}
	}
}

static void test_rwlock(void **state UNUSED)
{
	struct team t;

	left_half = right_half = 0;
	team_start(&t, 6, reader_or_writer, NULL);
	team_join(&t);
	assert_int_equal(left_half, t.rounds);
	assert_true(most_inside > 1);
	assert_int_equal(rw.v, 0);
}

static _Atomic uint32_t met;

/* Two readers that each wait for the other, inside. */
static void meet_inside(struct member *m UNUSED)
{
	vac__rdlock(&rw, VAC__RANK_RMAP);
	met++;
	while (met < 2)
		sched_yield();
	vac__rdunlock(&rw, VAC__RANK_RMAP);
}

static void test_readers_share(void **state UNUSED)
{
	struct team t;

	met = 0;
	team_start(&t, 2, meet_inside, NULL);
	team_join(&t);
}

static _Atomic uint64_t entered; /* readers, ever */

/* Never lets go before another reader has come in, or 50 ms have passed: without the preference for
 * writers the lock would be held for ever. */
static void relay(struct member *m)
{
	while (!m->team->stop) {
		uint64_t mine, end;

		vac__rdlock(&rw, VAC__RANK_RMAP);
		mine = atomic_fetch_add(&entered, 1);
		end = t_ms() + 50;
		while (entered <= mine + 1 && t_ms() < end && !m->team->stop)
			sched_yield();
		vac__rdunlock(&rw, VAC__RANK_RMAP);
		m->team->rounds++;
	}
}

static void write_once(struct member *m)
{
	vac__wrlock(&rw, VAC__RANK_RMAP);
	m->team->rounds++;
	vac__wrunlock(&rw, VAC__RANK_RMAP);
}

static void test_writer_preference(void **state UNUSED)
{
	struct team readers, writers;
	uint64_t give_up;
	bool in;

	team_start(&readers, 3, relay, NULL);
	team_rounds(&readers, 10);
	team_start(&writers, 2, write_once, NULL);
	give_up = t_ms() + 5000;
	while (writers.rounds < 2 && t_ms() < give_up)
		sleep_ms(1);
	in = writers.rounds == 2;
	if (in)
		team_rounds(&readers, 10); /* and the readers are let in again */
	team_stop(&readers);
	team_join(&writers);
	assert_true(in);
}

/* ---- The folio lock, gates, events ----------------------------------------------------------------- */

static struct vac_pool *pool;
static uint32_t folio;
static struct vac_space *space;
static char *mem;

static int setup(void **state UNUSED)
{
	pool = t_pool(MIB(2), 2);
	space = t_space(pool, MIB(4));
	mem = t_map(space, MIB(2), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	folio = (uint32_t)t_page(space, mem).pfn;
	return 0;
}

static int teardown(void **state UNUSED)
{
	t_close(pool);
	return 0;
}

static void test_ticket(void **state UNUSED)
{
	uint32_t ticket = 0;

	assert_false(vac__folio_wait_prepare(pool, folio, &ticket)); /* nobody to wait for */
	assert_true(vac__folio_trylock(pool, folio));
	assert_false(vac__folio_trylock(pool, folio));
	assert_true(vac__folio_wait_prepare(pool, folio, &ticket));
	vac__folio_unlock(pool, folio);
	vac__folio_wait(pool, folio, ticket); /* between the halves: must not sleep */
	for (int i = 0; i < 100; i++) {       /* a stranger has it again by now: not our affair */
		assert_true(vac__folio_trylock(pool, folio));
		if (i & 1) {
			uint32_t other;

			assert_true(vac__folio_wait_prepare(pool, folio, &other));
			assert_int_not_equal(other, ticket);
		}
		vac__folios_held(-1); /* we sleep, as if another thread had it */
		vac__folio_wait(pool, folio, ticket);
		vac__folios_held(1);
		vac__folio_unlock(pool, folio);
	}
}

static _Atomic uint32_t tickets;

static void wait_for_folio(struct member *m)
{
	while (!m->team->stop) {
		uint32_t ticket;

		if (vac__folio_wait_prepare(pool, folio, &ticket)) {
			tickets++;
			vac__folio_wait(pool, folio, ticket);
		} else {
			sched_yield();
		}
		m->team->rounds++;
	}
}

/* Every unlock lets every waiter go. A lost one would sleep through the last. */
static void test_wake_all(void **state UNUSED)
{
	struct vac_pool_stats before = t_stats(pool);
	struct team t;

	tickets = 0;
	team_start(&t, 100, wait_for_folio, NULL); /* more than one batch of wake-ups */
	for (unsigned i = 0; i < scaled(2000) || tickets < 1000; i++) {
		while (!vac__folio_trylock(pool, folio))
			;
		if (i % 8 == 0) /* time for all of them to fall asleep */
			sleep_ms(i % 128 == 0 ? 10 : 1);
		vac__folio_unlock(pool, folio);
	}
	t.stop = true;
	team_join(&t);
	assert_true(t_stats(pool).wakes > before.wakes);
	assert_int_equal(vac__frame(pool, folio)->lock & 3, 0);
}

static uint64_t locked_sum;

static void lock_and_count(struct member *m)
{
	for (unsigned i = 0; i < scaled(5000); i++) {
		vac__folio_lock(pool, folio);
		locked_sum++;
		if (rnd(&m->rnd) % 32 == 0)
			sched_yield();
		vac__folio_unlock(pool, folio);
	}
}

static void test_folio_lock(void **state UNUSED)
{
	struct team t;

	locked_sum = 0;
	team_start(&t, 4, lock_and_count, NULL);
	team_join(&t);
	assert_int_equal(locked_sum, 4ull * scaled(5000));
}

static void wait_at_gate(struct member *m)
{
	while (!m->team->stop) {
		vac__gate_wait(pool, folio);
		m->team->rounds++;
		sched_yield();
	}
}

static void test_gate(void **state UNUSED)
{
	vac__word *w = &vac__frame(pool, folio)->word;
	struct vac_pool_stats before = t_stats(pool);
	struct team t;

	vac__gate_wait(pool, folio); /* open: returns */
	team_start(&t, 10, wait_at_gate, NULL);
	for (unsigned i = 0; i < scaled(2000) || t_stats(pool).gate_waits < before.gate_waits + 20;
	     i++) {
		vac__w_gate(w);
		if (i % 8 == 0)
			sleep_ms(1);
		vac__gate_wake(pool, folio, vac__w_ungate(w));
	}
	team_rounds(&t, 100);
	team_stop(&t);
	assert_int_equal(*w & (VAC__W_GATED | VAC__W_WAITERS), 0);
}

static struct vac__event event;
static _Atomic uint32_t mail;
#define LETTERS 20000u

static void post(struct member *m UNUSED)
{
	for (unsigned i = 0; i < scaled(LETTERS); i++) {
		mail++;
		vac__event_signal(&event);
	}
}

/* No signal after the look is slept through; and a deadline is one. */
static void test_event(void **state UNUSED)
{
	struct team t;
	uint64_t end;
	uint32_t seen, got = 0;

	seen = vac__event_read(&event);
	end = vac__port_now() + MS(20);
	assert_int_equal(vac__event_wait(&event, seen, end), -ETIMEDOUT);
	assert_true(vac__port_now() >= end);
	vac__event_signal(&event);
	assert_ok(vac__event_wait(&event, seen, 0));
	mail = 0;
	team_start(&t, 2, post, NULL);
	while (got < 2 * scaled(LETTERS)) {
		seen = vac__event_read(&event);
		if (mail != got) {
			got = mail;
			continue;
		}
		assert_ok(vac__event_wait(&event, seen, vac__port_now() + MS(20000)));
	}
	team_join(&t);
	assert_int_equal(event.waiters, 0);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"reversed", case_reversed},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_reversal_says_so),
		cmocka_unit_test(test_misuse),
		cmocka_unit_test(test_mutex),
		cmocka_unit_test(test_timed),
		cmocka_unit_test(test_rwlock),
		cmocka_unit_test(test_readers_share),
		cmocka_unit_test(test_writer_preference),
		cmocka_unit_test_setup_teardown(test_ticket, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wake_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_folio_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gate, setup, teardown),
		cmocka_unit_test(test_event),
	};

	case_main(argc, argv, cases, COUNT(cases));
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

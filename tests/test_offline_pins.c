/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Who keeps a block, or only delays it, and who waits meanwhile: pins and their gates, threads that fault,
 * those that need memory, and holders that the engine does not know of.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

/* ---- Pins and gates ---------------------------------------------------------------------------------------- */

struct holder {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	unsigned flags, ms;
	_Atomic uint32_t tid;
};

static void hold_for_a_while(struct member *m)
{
	struct holder *h = m->arg;
	uint64_t pin = t_pin(h->space, h->mem, 1, h->flags, "slow I/O");

	h->tid = (uint32_t)syscall(SYS_gettid);
	sleep_ms(h->ms);
	MUST_OK(vac_unpin(h->pool, pin));
}

/* A short pin is waited for, however long it takes, and its owner named. */
static void test_slow_holder(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2); /* gates of 300 ms, a pin of 700 */
		struct vac_space *s = t_space(pool, MIB(4));
		struct holder h = {pool, s, t_map(s, 3 * P, VAC_MAP_POPULATE), 0, 700, 0};
		struct vac_offline_result res;
		struct team t;
		int r, id;

		if (huge)
			h.mem = t_map(s, HUGE, VAC_MAP_POPULATE);
		pat_fill(h.mem, 3 * P, 5);
		id = t_page(s, h.mem).block;
		team_start(&t, 1, hold_for_a_while, &h);
		while (!h.tid)
			sleep_ms(1);
		r = t_offline(pool, id, 20000, &res);
		team_join(&t);
		assert_ok(r);
		assert_string_equal(res.waited_for, "slow I/O");
		assert_int_equal(res.waited_tid, h.tid);
		assert_true(res.waited_longest_ns >= 100000000 &&
			    res.waited_ns >= res.waited_longest_ns);
		assert_true(res.waited_ns <= res.elapsed_ns);
		assert_int_equal(pat_bad(h.mem, 3 * P, 5), -1);
		t_close(pool);
	}
}

/* A long-term pin is not waited for: all else moves, and it is reported, long before the deadline and
 * also where there is none. What is pinned stays where it is; what shares its block does not. */
static void test_long_pin(void **state UNUSED)
{
	for (int64_t timeout = 8000; timeout >= -1; timeout -= 8001) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(4));
		char *m = t_map(s, 100 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		uint64_t pin, begin, pfn, other;
		struct t_found f;
		int id;

		pat_fill(m, 100 * P, 1);
		id = t_page(s, m).block;
		pin = t_pin(s, m + 20 * P, P, VAC_PIN_LONGTERM | VAC_PIN_STACK,
			    "registered buffer");
		pfn = t_page(s, m + 20 * P).pfn;
		other = t_page(s, m + 21 * P).pfn;
		begin = t_ms();
		alarm(60);
		assert_int_equal(t_offline(pool, id, timeout, &res), -EBUSY);
		alarm(0);
		assert_true(t_ms() - begin < 5000);
		assert_int_equal(vac_report_count(res.report), 1);
		f = t_find(res.report);
		assert_int_equal(f.b.cls, VAC_HELD_LONG_PIN);
		assert_string_equal(f.who.owner, "registered buffer");
		assert_true(f.who.stack_depth > 0);
		assert_int_equal(f.b.pfn, pfn);
		assert_int_equal(f.b.pins, 1);
		assert_int_equal(t_page(s, m + 20 * P).pfn, pfn);
		assert_int_not_equal(t_page(s, m + 21 * P).pfn, other);
		assert_int_equal(pat_bad(m, 100 * P, 1), -1);
		assert_ok(vac_unpin(pool, pin));
		assert_ok(t_offline(pool, id, 0, NULL));
		t_close(pool);
	}
}

/* A pinned page is not moved, and the report of the failed offline says who, since when, and where. */
static void test_pinned_stays(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(4));
		char *m = t_map(s, huge ? HUGE : 8 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		struct t_found f;
		uint64_t pin, pfn = t_page(s, m + P).pfn;
		int id = t_page(s, m).block;

		pat_fill(m, 8 * P, 1);
		pin = t_pin(s, m + P, 10, VAC_PIN_WRITE, "short");
		sleep_ms(30);
		assert_int_equal(t_offline(pool, id, 100, &res), -EBUSY);
		assert_string_equal(res.waited_for, "short");
		assert_int_equal(res.waited_tid, syscall(SYS_gettid));
		f = t_find(res.report);
		assert_int_equal(f.n, 1);
		assert_int_equal(f.b.cls, VAC_HELD_SHORT_PIN);
		assert_string_equal(f.who.owner, "short");
		assert_int_equal(f.who.tid, syscall(SYS_gettid));
		assert_true(f.who.age_ns >= 90000000);
		assert_int_equal(f.who.addr, (uintptr_t)m + P);
		assert_int_equal(f.b.block, id);
		assert_int_equal(f.b.frames, huge ? 512 : 1);
		assert_int_equal(f.b.addr, (uintptr_t)(huge ? m : m + P));
		assert_int_equal(f.b.last_error, -EBUSY);
		assert_true(f.b.attempts >= 1);
		assert_int_equal(f.b.refs, f.b.expected_refs);
		assert_int_equal(t_page(s, m + P).pfn, pfn);
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_check(pool); /* no gate left closed */
		assert_ok(vac_unpin(pool, pin));
		t_close(pool);
	}
}

/* Unmapped, but pinned: still in the way, and still known by its owner. */
static void test_unmapped_pinned(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *m = t_map(s, 4 * P, VAC_MAP_POPULATE);
	int id = t_page(s, m).block;
	uint64_t pin = t_pin(s, m, 1, 0, "orphan");
	struct vac_offline_result res;
	struct t_found f;

	assert_ok(vac_unmap(s, m, 4 * P));
	assert_int_equal(t_offline(pool, id, 50, &res), -EBUSY);
	f = t_find(res.report);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.b.map, 0);
	assert_int_equal(f.b.pins, 1);
	assert_string_equal(f.who.owner, "orphan");
	assert_int_equal(f.b.addr, 0);
	assert_string_equal(f.b.space, "");
	assert_ok(vac_unpin(pool, pin));
	assert_ok(t_offline(pool, id, 0, NULL));
	t_close(pool);
}

/* Direct I/O without end on one and the same buffer: each lets go only after the next has begun (or
 * 30 ms later, for that one may be kept out), so the buffer is never without a pin. */
static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	_Atomic uint64_t begun, failed;
} io;

static void overlap(struct member *m)
{
	while (!m->team->stop) {
		uint64_t pin = t_pin(io.space, io.mem, 3 * P, VAC_PIN_WRITE, "endless I/O");
		uint64_t mine = atomic_fetch_add(&io.begun, 1), end = t_ms() + 30;

		while (io.begun <= mine + 1 && t_ms() < end && !m->team->stop)
			sched_yield();
		MUST_OK(vac_unpin(io.pool, pin));
		m->team->rounds++;
	}
}

static void test_gate(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_offline_opts o = t_offline_opts(1500, VAC_OFFLINE_TEST_NO_GATE);
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		struct team t;
		int id;

		io.pool = t_pool(MIB(4), 3);
		io.space = t_space(io.pool, MIB(4));
		io.mem = t_map(io.space, huge ? HUGE : 3 * P, VAC_MAP_POPULATE);
		io.begun = 0;
		id = t_page(io.space, io.mem).block;
		team_start(&t, 4, overlap, NULL);
		team_rounds(&t, 20);
		/* Without the gate it starves, which shows that the test is one. */
		MUST(vac_block_offline(io.pool, id, &o, &res) == -EBUSY);
		vac_report_free(res.report);
		for (int i = 0; i < 10; i++) {
			id = t_page(io.space, io.mem).block;
			o = t_offline_opts(20000, 0);
			res.size = sizeof(res);
			MUST_OK(vac_block_offline(io.pool, id, &o, &res));
			/* A few I/O times: three of 30 ms at most in hand, and a machine that is busy. */
			MUST(res.elapsed_ns < 5000000000);
			MUST(t_online(io.pool, id) == 0);
			team_rounds(&t, 4); /* the I/O goes on */
		}
		team_stop(&t);
		assert_true(t_stats(io.pool).gate_waits > 0);
		t_close(io.pool);
	}
}

/* A holder that waits for a second pin behind the gate of the first: the gate opens in time. */
static void pin_twice(struct member *m)
{
	while (!m->team->stop) {
		uint64_t a = t_pin(io.space, io.mem, P, 0, "first"), b;

		sched_yield();
		b = t_pin(io.space, io.mem + (m->nr ? P : 0), P, 0, "second");
		MUST_OK(vac_unpin(io.pool, a));
		MUST_OK(vac_unpin(io.pool, b));
		m->team->rounds++;
	}
}

static void test_gate_deadlock(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct team t;
	uint64_t end;

	o.gate_timeout_ms = 20;
	io.pool = t_open(&o, 3);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, 8 * P, VAC_MAP_POPULATE);
	team_start(&t, 2, pin_twice, NULL);
	for (end = t_ms() + scaled(1500); t_ms() < end;) {
		int id = t_page(io.space, io.mem).block, r = t_offline(io.pool, id, 1000, NULL);

		MUST(r == 0 || r == -EBUSY);
		if (r == 0)
			MUST(t_online(io.pool, id) == 0);
	}
	team_rounds(&t, 10);
	team_stop(&t);
	t_close(io.pool);
}

/* ---- Waiting without a reference ----------------------------------------------------------------------------- */

static void storm(struct member *m)
{
	_Atomic uint32_t *w = (_Atomic uint32_t *)io.mem;

	while (!m->team->stop) {
		for (unsigned i = 0; i < 16; i++)
			atomic_fetch_add(&w[i * P / 4 + m->nr], 1);
		m->team->rounds++;
	}
}

/* However many threads refault on the pages that are leaving, they are not what keeps them. */
static void test_storm(void **state UNUSED)
{
	static const unsigned threads[] = {1, 4, 16, 48};

	for (unsigned i = 0; i < COUNT(threads); i++) {
		uint64_t attempts = 0, moved = 0;
		struct team t;

		io.pool = t_pool(MIB(4), 3);
		io.space = t_space(io.pool, MIB(4));
		io.mem = t_map(io.space, 16 * P, VAC_MAP_POPULATE);
		team_start(&t, threads[i], storm, NULL);
		for (unsigned n = 0; n < threads[i]; n++) /* until all of them are at it */
			while (((_Atomic uint32_t *)io.mem)[n] == 0)
				sleep_ms(1);
		for (unsigned n = 0; n < scaled(150); n++) {
			int id = t_page(io.space, io.mem).block;
			struct vac_offline_result res;

			MUST(t_offline(io.pool, id, 60000, &res) == 0);
			attempts += res.attempts;
			moved += res.base_moved + res.huge_moved;
			MUST(t_online(io.pool, id) == 0);
		}
		team_stop(&t);
		assert_true(moved >= 16 * scaled(150));
		assert_true(attempts <= 2 * moved);
		assert_int_equal(t_stats(io.pool).dangling, 0);
		t_close(io.pool);
	}
}

/* ---- Memory that others need meanwhile ----------------------------------------------------------------------- */

static void fill_and_drop(struct member *m)
{
	while (!m->team->stop) {
		io.failed += vac_advise(io.space, io.mem + m->nr * MIB(1), MIB(1),
					VAC_ADV_WILLNEED) != 0;
		MUST_OK(vac_advise(io.space, io.mem + m->nr * MIB(1), MIB(1), VAC_ADV_DONTNEED));
		m->team->rounds++;
	}
}

/* An offline that is refused for want of memory, and a dry run, take none away from others, not for
 * a moment: what they touch meanwhile would be a SIGBUS. */
static void test_refused_takes_nothing(void **state UNUSED)
{
	struct vac_offline_opts o = t_offline_opts(0, VAC_OFFLINE_DRY_RUN);
	struct team t;
	uint64_t end;
	char *full;

	io.pool = t_pool(MIB(8), 2);
	io.space = t_space(io.pool, MIB(32));
	full = t_map(io.space, MIB(8), VAC_MAP_POPULATE);
	assert_int_equal(t_page(io.space, full + MIB(6)).block, 0);
	t_map(io.space, P, VAC_MAP_POPULATE); /* so that block 1 never is empty */
	io.mem = t_map(io.space, MIB(2), VAC_MAP_NOHUGE);
	team_start(&t, 2, fill_and_drop, NULL);
	for (end = t_ms() + scaled(1000); t_ms() < end;) {
		MUST(vac_block_offline(io.pool, 1, &o, NULL) == -ENOMEM);
		MUST(t_offline(io.pool, 1, 1, NULL) == -ENOMEM);
		sched_yield();
	}
	team_stop(&t);
	assert_int_equal(io.failed, 0);
	t_close(io.pool);
}

/* ---- Holders that the engine does not know of ------------------------------------------------------------------ */

static void test_foreign(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(8));
		char *m = t_map(s, huge ? HUGE : 8 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		struct iovec iov;
		struct t_found f;
		int id = t_page(s, m).block, p[2];

		pat_fill(m, 8 * P, 1);
		iov = (struct iovec){m + 2 * P, P};
		assert_ok(pipe2(p, O_CLOEXEC));
		assert_int_equal(vmsplice(p[1], &iov, 1, 0),
				 P); /* the pipe holds the page itself */
		assert_int_equal(t_offline(pool, id, 300, &res), -EBUSY);
		f = t_find(res.report);
		/* One host page beneath all of them is held as a whole. */
		assert_in_range(f.n, 1, huge ? 1 : 8);
		assert_int_equal(f.b.cls, VAC_HELD_FOREIGN);
		assert_int_equal(f.b.block, id);
		/* Where the kernel shows who is held, nothing has moved; else all has, and waits. */
		assert_true(t_block(pool, id).state == VAC_BLOCK_ONLINE ||
			    t_block(pool, id).state == VAC_BLOCK_QUARANTINE);
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_check(pool);
		if (t_block(pool, id).state == VAC_BLOCK_ONLINE) {
			/* The block is of use again: fill all that there is. */
			char *rest = t_map(s, 4 * P, VAC_MAP_POPULATE);

			memset(rest, 3, 4 * P);
		}
		close(p[0]);
		close(p[1]);
		assert_ok(t_offline(pool, id, 0, NULL));
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_close(pool);
	}
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slow_holder),  cmocka_unit_test(test_long_pin),
		cmocka_unit_test(test_pinned_stays), cmocka_unit_test(test_unmapped_pinned),
		cmocka_unit_test(test_gate),         cmocka_unit_test(test_gate_deadlock),
		cmocka_unit_test(test_storm),        cmocka_unit_test(test_refused_takes_nothing),
		cmocka_unit_test(test_foreign),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/offline.c and migrate.c: blocks leave under everything that a program does meanwhile, every
 * byte checked; what keeps them is waited for, reported, or left alone; and the memory is truly gone.
 */
#include "tests/util.h"

#include <fcntl.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

/* ---- Turns for writers ------------------------------------------------------------------------------ */

struct scribble {
	_Atomic uint64_t *mem;
	size_t words;
};

static void scribble(struct member *m)
{
	struct scribble *s = m->arg;

	while (!m->team->stop) {
		m->rnd = m->rnd * 6364136223846793005u + 1442695040888963407u;
		atomic_fetch_add(&s->mem[(m->rnd >> 20) % s->words], 1);
		atomic_fetch_add(&m->team->rounds, 1);
	}
}

/* Writers who are everywhere are waited for where they were made to wait, and only if asked to. */
static void test_turns(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(16), 3);
	struct vac_space *s = t_space(pool, MIB(32));
	struct scribble arg = {.mem = (void *)t_map(s, MIB(16), 0), .words = MIB(16) / 8};
	struct vac_offline_opts o = t_offline_opts(60000, 0);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	uint64_t paused = 0, sum = 0;
	struct team t;

	memset((void *)arg.mem, 0, MIB(16));
	o.writers_pct = 96;
	assert_int_equal(vac_block_offline(pool, 0, &o, &res), -EINVAL);
	/* Nobody writes: nobody is waited for. */
	o.writers_pct = 95;
	assert_ok(vac_block_offline(pool, 0, &o, &res));
	assert_int_equal(res.paused_ns, 0);
	assert_ok(t_online(pool, 0));
	team_start(&t, 2, scribble, &arg);
	for (unsigned i = 0; i < 100 && paused == 0; i++) {
		int id = (int)(1 + i) % 3;

		while (t.rounds < 1000)
			sched_yield();
		o.writers_pct = 0;
		assert_ok(vac_block_offline(pool, id, &o, &res));
		assert_int_equal(res.paused_ns, 0);
		assert_ok(t_online(pool, id));
		o.writers_pct = 95;
		id = (id + 1) % 3;
		assert_ok(vac_block_offline(pool, id, &o, &res));
		paused += res.paused_ns;
		/* Nineteen parts of twenty are theirs, so the pauses are most of the time. */
		assert_true(res.paused_ns < res.elapsed_ns);
		assert_ok(t_online(pool, id));
	}
	assert_true(paused > 0);
	/* Half of the timeout is all that is given for it. */
	o.timeout_ms = 1;
	vac_block_offline(pool, 2, &o, &res);
	vac_report_free(res.report);
	t.stop = true;
	team_stop(&t);
	for (size_t i = 0; i < arg.words; i++)
		sum += arg.mem[i];
	assert_int_equal(sum, t.rounds);
	t_close(pool);
}

/* ---- What it answers -------------------------------------------------------------------------------- */

static void test_result(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(16));
	char *huge = t_map(s, 2 * HUGE, 0), *base = t_map(s, HUGE, VAC_MAP_NOHUGE);
	struct vac_offline_result res;
	struct vac_pool_stats st;

	pat_fill(huge, 2 * HUGE, 1);
	pat_fill(base, 100 * P, 2);
	assert_int_equal(t_block(pool, 0).frames_used, 1024 + 112); /* a fault fills 16 */
	assert_ok(t_offline(pool, 0, 0, &res));
	assert_int_equal(res.size, sizeof(res));
	assert_int_equal(res.huge_moved, 2);
	assert_int_equal(res.base_moved, 112);
	assert_int_equal(res.bytes_moved, 2 * HUGE + 112 * P);
	assert_int_equal(res.attempts, 114);
	assert_int_equal(res.missing_bytes, 0);
	assert_int_equal(res.possible_bytes, 2 * HUGE + 112 * P);
	assert_int_equal(res.given_back_bytes, 3 * HUGE); /* as pageblocks were filled */
	assert_true(res.elapsed_ns > res.copy_ns && res.copy_ns > 0);
	assert_int_equal(res.waited_ns + res.waited_longest_ns + res.waited_tid, 0);
	assert_string_equal(res.waited_for, "");
	assert_null(res.report);
	st = t_stats(pool);
	assert_int_equal(st.migrate_attempts, 114);
	assert_int_equal(st.migrate_folios, 114);
	assert_int_equal(st.migrate_bytes, res.bytes_moved);
	assert_int_equal(st.blocks_online, 1);
	assert_int_equal(pat_bad(huge, 2 * HUGE, 1), -1);
	assert_int_equal(pat_bad(base, 100 * P, 2), -1);
	assert_int_equal(t_page(s, huge).huge, 1);
	/* An older caller's result is filled as far as it goes, and nothing leaks. */
	assert_ok(t_online(pool, 0));
	memset(&res, 0x55, sizeof(res));
	res.size = offsetof(struct vac_offline_result, attempts);
	assert_ok(vac_block_offline(pool, 1, NULL, &res));
	assert_int_equal(res.bytes_moved, 2 * HUGE + 112 * P);
	assert_int_equal(res.attempts, 0x5555555555555555);
	assert_ok(t_online(pool, 1));
	t_close(pool);
}

/* An empty block goes at once; the last one stays, empty or not. */
static void test_last(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_offline_result res;
	char *m;

	assert_ok(t_offline(pool, 1, 0, &res));
	assert_int_equal(res.bytes_moved + res.given_back_bytes, 0);
	assert_int_equal(t_offline(pool, 0, 0, &res), -ENOMEM);
	assert_int_equal(t_block(pool, 0).state, VAC_BLOCK_ONLINE);
	vac_report_free(res.report);
	m = t_map(s, MIB(3), VAC_MAP_POPULATE);
	pat_fill(m, MIB(3), 1);
	assert_int_equal(t_offline(pool, 0, 0, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(3)); /* a huge folio and 256 base ones */
	assert_int_equal(res.possible_bytes, 0);
	assert_int_equal(res.bytes_moved, 0);
	vac_report_free(res.report);
	assert_int_equal(pat_bad(m, MIB(3), 1), -1);
	assert_ok(t_offline(pool, 1, 0, NULL) == -EALREADY ? 0 : 1);
	t_close(pool);
}

static int is_no_target(void *ctx UNUSED, const struct vac_blocker *b)
{
	return b->cls == VAC_HELD_NO_TARGET ? 0 : (int)b->cls + 1;
}

/* Without enough memory elsewhere nothing moves, and the answer says how much is lacking. */
static void test_missing(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(32));
	struct vac_offline_opts o = t_offline_opts(500, 0);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	char *m = t_map(s, MIB(8), VAC_MAP_POPULATE), *n = t_map(s, MIB(4), VAC_MAP_POPULATE);
	struct vac_pool_stats before;
	uint64_t moved;

	/* Block 0: full. Block 1: half. */
	pat_fill(m, MIB(8), 1);
	pat_fill(n, MIB(4), 2);
	assert_int_equal(t_page(s, m).block, 0);
	assert_int_equal(t_page(s, n).block, 1);
	before = t_stats(pool);
	assert_int_equal(vac_block_offline(pool, 0, &o, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(4));
	assert_int_equal(res.possible_bytes, MIB(4));
	assert_int_equal(res.bytes_moved + res.attempts, 0);
	vac_report_free(res.report);
	/* A look only. */
	o.flags = VAC_OFFLINE_DRY_RUN;
	res.size = sizeof(res);
	assert_int_equal(vac_block_offline(pool, 0, &o, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(4));
	assert_null(res.report);
	assert_int_equal(vac_block_offline(pool, 1, &o, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(4));
	assert_int_equal(res.possible_bytes, 0);
	assert_int_equal(t_stats(pool).frames_free, before.frames_free);
	assert_int_equal(t_stats(pool).migrate_attempts, before.migrate_attempts);
	/* As far as it goes. */
	o.flags = VAC_OFFLINE_BEST_EFFORT;
	assert_int_equal(vac_block_offline(pool, 0, &o, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(4));
	assert_int_equal(res.bytes_moved, MIB(4));
	moved = res.bytes_moved;
	assert_non_null(res.report); /* what is left, and why */
	assert_true(vac_report_count(res.report) > 0);
	assert_ok(vac_report_walk(res.report, is_no_target, NULL));
	vac_report_free(res.report);
	assert_int_equal(t_stats(pool).splits, 0); /* to split them would have been of no use */
	assert_int_equal(t_block(pool, 0).state, VAC_BLOCK_ONLINE);
	assert_int_equal(t_block(pool, 0).frames_used, (MIB(8) - moved) / P);
	assert_int_equal(t_stats(pool).frames_used, before.frames_used);
	assert_int_equal(pat_bad(m, MIB(8), 1), -1);
	assert_int_equal(pat_bad(n, MIB(4), 2), -1);
	t_check(pool);
	/* With enough of it the dry run says so, and does nothing either. */
	assert_ok(vac_unmap(s, n, MIB(4)));
	o.flags = VAC_OFFLINE_DRY_RUN;
	assert_ok(vac_block_offline(pool, 0, &o, &res));
	assert_int_equal(res.missing_bytes, 0);
	assert_int_equal(t_block(pool, 0).state, VAC_BLOCK_ONLINE);
	assert_ok(vac_block_offline(pool, 0, NULL, NULL));
	assert_int_equal(pat_bad(m, MIB(8), 1), -1);
	t_close(pool);
}

/* Room there is, but not in one piece: huge folios are split and go in parts. */
static void test_fragmented(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(32));
	char *all = t_map(s, MIB(8), VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *m;
	struct vac_offline_result res;

	for (size_t off = 0; off < MIB(8); off += 2 * P)
		assert_ok(vac_unmap(s, all + off, P));
	for (size_t off = P; off < MIB(8); off += 2 * P)
		pat_fill(all + off, P, off);
	m = t_map(s, MIB(4), 0);
	pat_fill(m, MIB(4), 3);
	assert_int_equal(t_page(s, m).huge, 1);
	assert_int_equal(t_page(s, m).block, 2);
	assert_ok(t_offline(pool, 2, 0, &res));
	assert_int_equal(res.base_moved, 1024);
	assert_int_equal(t_stats(pool).splits, 2);
	assert_int_equal(pat_bad(m, MIB(4), 3), -1);
	for (size_t off = P; off < MIB(8); off += 2 * P)
		assert_int_equal(pat_bad(all + off, P, off), -1);
	t_close(pool);
}

static void test_options(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 2);
	struct vac_offline_opts o = t_offline_opts(0, 1u << 20);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

	assert_int_equal(vac_block_offline(pool, 0, &o, NULL), -EINVAL);
	o = t_offline_opts(0, 0);
	o.size = sizeof(o) + 8;
	assert_int_equal(vac_block_offline(pool, 0, &o, NULL), -EINVAL);
	o.size = 0;
	assert_int_equal(vac_block_offline(pool, 0, &o, NULL), -EINVAL);
	o.size = sizeof(o);
	res.size = sizeof(res) + 8;
	assert_int_equal(vac_block_offline(pool, 0, &o, &res), -EINVAL);
	assert_int_equal(t_block(pool, 0).state, VAC_BLOCK_ONLINE);
	assert_ok(vac_block_offline(pool, 0, &o, NULL));
	t_close(pool);
}

static struct {
	unsigned calls, wrong;
	struct vac_offline_progress last;
	uint64_t at_ms, gap, least_gap;
	pthread_t thread;
} told;

static void on_progress(void *ctx, const struct vac_offline_progress *p)
{
	uint64_t now = t_ms();

	told.wrong += ctx != &told || p->size != sizeof(*p) || p->id != 1 ||
		      p->frames_left > p->frames_used || p->bytes_moved < told.last.bytes_moved;
	/* The gap before this call counts when there is a next one: the last may come at any time. */
	if (told.gap < told.least_gap)
		told.least_gap = told.gap;
	told.gap = told.calls ? now - told.at_ms : UINT64_MAX;
	told.calls++;
	told.at_ms = now;
	told.last = *p;
	told.thread = pthread_self();
}

static void test_progress(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(8), VAC_MAP_POPULATE);
	struct vac_offline_opts o = t_offline_opts(700, 0);
	uint64_t pin;

	memset(&told, 0, sizeof(told));
	told.gap = told.least_gap = UINT64_MAX;
	o.progress = on_progress;
	o.progress_ctx = &told;
	assert_int_equal(t_page(s, m + MIB(4)).block, 1);
	pin = t_pin(s, m + MIB(4), 1, 0, "slow");
	assert_int_equal(vac_block_offline(pool, 1, &o, NULL), -EBUSY);
	assert_true(told.calls >= 1 && told.calls <= 8);
	assert_int_equal(told.wrong, 0);
	assert_true(told.least_gap >= 95); /* but for the last, at the end */
	assert_int_equal(told.last.frames_used, 1024);
	assert_int_equal(told.last.frames_left, 512);
	assert_int_equal(told.last.bytes_moved, HUGE);
	assert_true(told.last.elapsed_ns >= 600000000);
	assert_true(pthread_equal(told.thread, pthread_self()));
	assert_ok(vac_unpin(pool, pin));
	memset(&told, 0, sizeof(told));
	assert_ok(vac_block_offline(pool, 1, &o, NULL));
	assert_int_equal(told.last.frames_left, 0);
	assert_int_equal(told.last.bytes_moved, HUGE);
	t_close(pool);
}

/* ---- Deadline, cancel --------------------------------------------------------------------------------- */

static void test_deadline(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(6), VAC_MAP_POPULATE);
	struct vac_offline_result res;
	uint64_t t, pin;
	int id = t_page(s, m).block;

	pat_fill(m, MIB(6), 1);
	pin = t_pin(s, m + 5, 1, 0, "never lets go");
	for (int64_t timeout = 1; timeout <= 700; timeout = timeout * 5 + 50) {
		t = t_ms();
		assert_int_equal(t_offline(pool, id, timeout, &res), -EBUSY);
		t = t_ms() - t;
		assert_true((int64_t)t + 1 >= timeout && t < 20000);
		assert_int_equal(vac_report_count(res.report), 1);
		vac_report_free(res.report);
		assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
		assert_true(t_block(pool, id).frames_used >= 512);
		assert_int_equal(pat_bad(m, MIB(6), 1), -1);
		t_check(pool);
	}
	assert_ok(vac_unpin(pool, pin));
	assert_ok(t_offline(pool, id, 0, NULL));
	assert_int_equal(pat_bad(m, MIB(6), 1), -1);
	t_close(pool);
}

/* Somebody holds the folio itself: no pin is to blame, but the report shows the count. */
static int check_reference(void *ctx, const struct vac_blocker *b)
{
	MUST(b->cls == VAC_HELD_REFERENCE && b->refs == 1 && b->expected_refs == 0 && b->pins == 0);
	MUST(b->attempts > 0 && b->last_error == -EAGAIN && b->owners == 0);
	++*(unsigned *)ctx;
	return 0;
}

static void test_reference(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *m = t_map(s, 16 * P, VAC_MAP_POPULATE);
	struct vac_offline_result res;
	uint32_t pfn = (uint32_t)t_page(s, m + 3 * P).pfn;
	unsigned n = 0;

	assert_ok(vac__w_try_ref(&vac__frame(pool, pfn)->word));
	assert_int_equal(t_offline(pool, 0, 200, &res), -ETIMEDOUT);
	assert_ok(vac_report_walk(res.report, check_reference, &n));
	assert_int_equal(n, 1);
	vac_report_free(res.report);
	vac__folio_put(pool, pfn, VAC__W_REF);
	assert_ok(t_offline(pool, 0, 0, NULL));
	t_close(pool);
}

static struct {
	struct vac_pool *pool;
	_Atomic int id, running;
	_Atomic unsigned cancelled;
} race;

static void cancel_at_random(struct member *m)
{
	while (!m->team->stop) {
		int r = vac_block_cancel(race.pool, race.id);

		MUST(r == 0 || r == -EALREADY);
		race.cancelled += r == 0;
		if (rnd(&m->rnd) % 4 == 0)
			sleep_ms(1);
		else
			for (uint64_t i = rnd(&m->rnd) % 20000; i; i--)
				vac__port_relax();
		m->team->rounds++;
	}
}

static void test_cancel(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(8), 0);
	struct team t;
	unsigned cancelled = 0, done = 0;
	uint64_t end;

	assert_ok(vac_advise(s, m, MIB(4), VAC_ADV_NOHUGE));
	pat_fill(m, MIB(8), 1);
	memset(&race, 0, sizeof(race));
	race.pool = pool;
	team_start(&t, 1, cancel_at_random, NULL);
	for (end = t_ms() + scaled(2000); t_ms() < end || !cancelled;) {
		int id = t_page(s, m).block, r;
		struct vac_offline_result res;

		race.id = id;
		r = t_offline(pool, id, 0, &res);
		MUST(r == 0 || r == -ECANCELED);
		vac_report_free(res.report);
		if (r == 0) {
			done++;
			MUST(t_online(pool, id) == 0);
		} else {
			cancelled++;
			MUST(t_block(pool, id).state == VAC_BLOCK_ONLINE);
		}
		if ((cancelled + done) % 16 == 0)
			MUST_OK(vac_pool_check(pool, NULL, 0));
		MUST(t_stats(pool).frames_used == 2048);
	}
	team_stop(&t);
	assert_int_equal(pat_bad(m, MIB(8), 1), -1);
	assert_true(cancelled > 0);
	t_close(pool);
}

static void cancel_after_100ms(struct member *m UNUSED)
{
	sleep_ms(100);
	MUST_OK(vac_block_cancel(race.pool, race.id));
}

/* Asleep for a pin, with no deadline at all, it hears the cancel. */
static void test_cancel_asleep(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *pool;
	struct vac_space *s;
	struct team t;
	uint64_t pin, begin;
	char *m;
	int r;

	o.gate_timeout_ms = 60000;
	pool = t_open(&o, 2);
	s = t_space(pool, MIB(2));
	m = t_map(s, P, VAC_MAP_POPULATE);
	pin = t_pin(s, m, 1, 0, "x");
	race.pool = pool;
	race.id = t_page(s, m).block;
	begin = t_ms();
	team_start(&t, 1, cancel_after_100ms, NULL);
	r = t_offline(pool, race.id, -1, NULL);
	team_join(&t);
	assert_int_equal(r, -ECANCELED);
	assert_true(t_ms() - begin >= 99 && t_ms() - begin < 20000);
	assert_int_equal(t_block(pool, race.id).state, VAC_BLOCK_ONLINE);
	assert_ok(vac_unpin(pool, pin));
	t_close(pool);
}

/* ---- Several at once ------------------------------------------------------------------------------------ */

static _Atomic int got[3];
static struct meeting start;

static void offline_same(struct member *m)
{
	meet(&start, 3);
	got[m->nr] = t_offline(race.pool, 1, 20000, NULL);
}

static void test_same_block(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(8), 0);
	struct team t;

	race.pool = pool;
	pat_fill(m, MIB(8), 1);
	for (unsigned i = 0; i < scaled(200); i++) {
		unsigned won = 0;

		team_start(&t, 3, offline_same, NULL);
		team_join(&t);
		for (int k = 0; k < 3; k++) {
			won += got[k] == 0;
			MUST(got[k] == 0 || got[k] == -EBUSY || got[k] == -EALREADY);
		}
		assert_int_equal(won, 1);
		assert_int_equal(t_block(pool, 1).state, VAC_BLOCK_OFFLINE);
		assert_ok(t_online(pool, 1));
	}
	assert_int_equal(pat_bad(m, MIB(8), 1), -1);
	t_close(pool);
}

static void offline_own(struct member *m)
{
	for (unsigned i = 0; i < scaled(100); i++) {
		meet(&start, 3);
		MUST(t_offline(race.pool, (int)m->nr, 60000, NULL) == 0);
		MUST(t_online(race.pool, (int)m->nr) == 0);
	}
}

static void test_different_blocks(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 5);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(8), 0);
	struct team t;

	race.pool = pool;
	pat_fill(m, MIB(8), 1);
	team_start(&t, 3, offline_own, NULL);
	team_join(&t);
	assert_int_equal(pat_bad(m, MIB(8), 1), -1);
	t_close(pool);
}

/* A second offline waits for the first, within its own deadline. */
static void offline_zero(struct member *m)
{
	*(int *)m->arg = t_offline(race.pool, 0, 700, NULL);
}

static void test_deadline_of_the_second(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 3);
	struct vac_space *s = t_space(pool, MIB(2));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	uint64_t pin = t_pin(s, m, 1, 0, "x"), begin;
	struct team t;
	int r = 1;

	race.pool = pool;
	assert_int_equal(t_page(s, m).block, 0);
	team_start(&t, 1, offline_zero, &r);
	while (t_block(pool, 0).state == VAC_BLOCK_ONLINE)
		sleep_ms(1);
	begin = t_ms();
	MUST(t_offline(pool, 1, 50, NULL) == -ETIMEDOUT);
	MUST(t_ms() - begin >= 49);
	MUST(t_block(pool, 1).state == VAC_BLOCK_ONLINE);
	MUST(t_offline(pool, 0, 50, NULL) == -EBUSY);
	team_join(&t);
	assert_int_equal(r, -EBUSY);
	assert_ok(vac_unpin(pool, pin));
	t_close(pool);
}

/* ---- The memory is gone ---------------------------------------------------------------------------------------- */

/* The host's frame behind an address; 0: not known. */
static uint64_t host_frame(const void *p)
{
	uint64_t e = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &e, sizeof(e), (off_t)((uintptr_t)p / P * 8)) != sizeof(e))
		e = 0;
	close(fd);
	return e >> 63 ? e & ((1ull << 55) - 1) : 0;
}

static void test_host_frames(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(3), VAC_MAP_POPULATE);
	uint64_t before[768];
	int id = t_page(s, m).block, fd = t_block(pool, id).fd;

	pat_fill(m, MIB(3), 1);
	if (geteuid() != 0 || host_frame(m) == 0) {
		t_close(pool);
		print_message("SKIP: forced: /proc/self/pagemap shows no frames\n");
		skip();
	}
	for (unsigned i = 0; i < 768; i++)
		before[i] = host_frame(m + i * P);
	assert_ok(t_offline(pool, id, 0, NULL));
	assert_int_equal(pat_bad(m, MIB(3), 1), -1);
	for (unsigned i = 0; i < 768; i++) {
		uint64_t now = host_frame(m + i * P);

		assert_true(now != 0);
		for (unsigned k = 0; k < 768; k++)
			assert_true(now != before[k]);
	}
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* and the file is closed */
	assert_int_equal(t_block(pool, id).fd, -1);
	/* The block's own addresses show nothing any more. */
	assert_int_equal(host_frame(vac__frame_addr(pool, vac__block_pfn(pool, id))), 0);
	t_close(pool);
}

/* In a process of its own, whose memory the parent measures from outside. */
#define LEAVING MIB(64)

static void case_gives_back(void)
{
	struct vac_pool_opts po = t_opts(LEAVING);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_pool *pool;
	struct vac_space *s;
	void *a, *b;

	so.bytes = 4 * LEAVING;
	MUST_OK(vac_pool_open(&po, &pool));
	for (int i = 0; i < 2; i++)
		MUST_OK(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	MUST_OK(vac_space_create(pool, &so, &s));
	step_done('0'); /* in its cgroup by now */
	MUST_OK(vac_map(s, NULL, LEAVING, RW, VAC_MAP_POPULATE, &a));
	memset(a, 1, LEAVING);
	MUST_OK(vac_map(s, NULL, LEAVING / 2, RW, VAC_MAP_POPULATE | VAC_MAP_NOHUGE, &b));
	memset(b, 2, LEAVING / 2);
	MUST_OK(vac_unmap(s, a, LEAVING / 2)); /* half of it free, but filled */
	step_done('1');
	MUST_OK(vac_block_offline(pool, 0, NULL, &res));
	step_done('2');
	MUST(res.given_back_bytes == LEAVING);
	for (size_t i = 0; i < LEAVING / 2; i++)
		MUST(((char *)a)[LEAVING / 2 + i] == 1 && ((char *)b)[i] == 2);
	MUST_OK(vac_pool_close(pool));
}

/* As the kernel accounts for it: 95 % of what the block held is off the cgroup's bill within a
 * second, less what its pages in use now take elsewhere. */
static void test_gives_back(void **state UNUSED)
{
	const char *why = "";
	struct memcg g;
	int64_t before, after = 0;
	int fd, pid, status;

	if (TSAN)
		why = "the thread sanitizer's own memory is on the same bill";
	if (TSAN || !memcg_make(&g, 0, &why)) {
		print_message("SKIP: forced: %s\n", why);
		skip();
	}
	pid = case_start("gives_back", &fd, false);
	assert_true(pid > 0);
	assert_int_equal(step_next(pid, fd), '0');
	assert_true(memcg_join(&g, pid));
	step_go(pid);
	assert_int_equal(step_next(pid, fd), '1');
	before = memcg_usage(&g);
	assert_true(before >= (int64_t)(LEAVING + LEAVING / 2));
	step_go(pid);
	assert_int_equal(step_next(pid, fd), '2');
	for (uint64_t end = t_ms() + 1000; t_ms() < end; sleep_ms(10)) {
		after = memcg_usage(&g);
		/* The block had LEAVING; half of that has been filled elsewhere. */
		if (before + (int64_t)LEAVING / 2 - after >= (int64_t)LEAVING / 100 * 95)
			break;
	}
	step_go(pid);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(fd);
	memcg_remove(&g);
	assert_int_equal(status, 0);
	assert_true(before + (int64_t)LEAVING / 2 - after >= (int64_t)LEAVING / 100 * 95);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"gives_back", case_gives_back},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_result),
		cmocka_unit_test(test_last),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_fragmented),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_progress),
		cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_reference),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_cancel_asleep),
		cmocka_unit_test(test_same_block),
		cmocka_unit_test(test_different_blocks),
		cmocka_unit_test(test_deadline_of_the_second),
		cmocka_unit_test(test_host_frames),
		cmocka_unit_test(test_gives_back),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

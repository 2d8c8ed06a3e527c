/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/snapshot.c and cow.c: what a snapshot shows, who copies what, and that pins stay with their pages.
 */
#include "tests/util.h"

#include <sched.h>
#include <sys/mman.h>

#include "tests/cow_rows.h"

/* ---- What it means --------------------------------------------------------------------------- */

static void test_two_sides(void **state UNUSED)
{
	static const unsigned flags[] = {0, VAC_MAP_NOHUGE};
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, MIB(8));

	for (unsigned i = 0; i < COUNT(flags); i++) {
		char *p = t_map(s, MIB(4) + 8192, flags[i]), *q;
		struct vac_space *t;

		pat_fill(p, MIB(4) + 8192, 1);
		t = snap(s);
		q = in(s, p, t);
		t_check(pool);
		assert_int_equal(pat_bad(q, MIB(4) + 8192, 1), -1);
		pat_fill(p, MIB(2), 2); /* all of a pageblock, and one page */
		pat_fill(p + MIB(4), 4096, 3);
		assert_int_equal(pat_bad(q, MIB(4) + 8192, 1), -1);
		pat_fill(q + MIB(2), MIB(2), 4);
		assert_int_equal(pat_bad(p, MIB(2), 2), -1);
		assert_int_equal(pat_bad(p + MIB(4), 4096, 3), -1);
		assert_int_equal(pat_bad(q, MIB(2), 1), -1);
		assert_int_equal(pat_bad(q + MIB(2), MIB(2), 4), -1);
		t_check(pool);
		if (i)
			assert_ok(vac_space_destroy(t));
		assert_int_equal(pat_bad(p, MIB(2), 2), -1);
		assert_ok(vac_unmap(s, p, MIB(4) + 8192));
		if (!i) {
			assert_int_equal(pat_bad(q, MIB(2), 1), -1);
			assert_int_equal(pat_bad(q + MIB(2), MIB(2), 4), -1);
			assert_ok(vac_space_destroy(t));
		}
		assert_int_equal(t_stats(pool).frames_used, 0);
		t_check(pool);
	}
	t_close(pool);
}

/* The mappings are those of the instant, their rights too; what is mapped later is nobody else's. */
static void test_mappings(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(8)), *t, *u;
	char *a = t_map(s, MIB(2), 0), *b = t_map(s, 8192, 0), *c;

	pat_fill(a, MIB(2), 1);
	pat_fill(b, 8192, 2);
	assert_ok(vac_protect(s, b, 8192, VAC_PROT_READ));
	t = snap(s);
	assert_int_equal(pat_bad(in(s, b, t), 8192, 2), -1);
	assert_false(can_write(in(s, b, t)));
	assert_ok(vac_protect(t, in(s, b, t), 8192, RW));
	pat_fill(in(s, b, t), 8192, 3);
	assert_int_equal(pat_bad(b, 8192, 2), -1);
	assert_false(can_write(b));
	c = t_map(s, MIB(2), 0);
	pat_fill(c, MIB(2), 4);
	assert_false(can_read(in(s, c, t)));
	assert_ok(vac_unmap(s, a, MIB(2)));
	assert_int_equal(pat_bad(in(s, a, t), MIB(2), 1), -1);
	u = snap(t); /* and of a snapshot */
	assert_ok(vac_protect(t, in(s, a, t), MIB(2), VAC_PROT_NONE));
	assert_false(can_read(in(s, a, t)));
	pat_fill(in(s, a, u), 4096, 5);
	assert_ok(vac_protect(t, in(s, a, t), MIB(2), VAC_PROT_READ));
	assert_int_equal(pat_bad(in(s, a, t), MIB(2), 1), -1);
	c = in(s, a, u);
	assert_ok(vac_space_destroy(s)); /* the oldest goes first */
	assert_int_equal(pat_bad(c, 4096, 5), -1);
	assert_int_equal(pat_bad(in(u, c, t), 4096, 1), -1);
	t_check(pool);
	assert_null(vac_space_translate(t, (char *)vac_space_base(t) - 1, u));
	assert_null(vac_space_translate(t, (char *)vac_space_base(t) + vac_space_bytes(t), u));
	t_close(pool);
}

/* A page alone is copied alone, what is written in order in ever longer runs, and what nobody else shows
 * any more is the space's own again with one fault a pageblock. */
static void test_how_much(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(4), 0);
	struct vac_pool_stats a, b;

	pat_fill(p, MIB(4), 1);
	t = snap(s);
	a = t_stats(pool);
	p[MIB(2) + 100 * 4096] ^= 1;
	b = t_stats(pool);
	assert_int_equal(b.cow_copies - a.cow_copies, 1);
	pat_fill(p, MIB(2), 2);
	a = t_stats(pool);
	assert_int_equal(a.cow_copies - b.cow_copies, 512);
	assert_in_range(a.faults - b.faults, 1, 16);
	assert_int_equal(pat_bad(in(s, p, t), MIB(2), 1), -1);
	assert_ok(vac_space_destroy(t));
	a = t_stats(pool);
	pat_fill(p + MIB(2), MIB(2), 3);
	b = t_stats(pool);
	assert_int_equal(b.cow_copies, a.cow_copies);
	assert_int_equal(b.cow_reuses - a.cow_reuses, 511);
	assert_in_range(b.faults - a.faults, 1, 3); /* on either side of what was written before */
	t_check(pool);
	t_close(pool);
}

/* What is written here and there is copied page by page, until so many pages of a pageblock are the space's
 * own: then all of it is, and takes no fault, and one host mapping. */
static void test_dense(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	unsigned few = pool->watches ? VAC__COW_DENSE_WATCHED : VAC__COW_DENSE, segments;
	char *p = t_map(s, MIB(4), 0);
	struct vac_pool_stats a, b;

	pat_fill(p, MIB(4), 1);
	t = snap(s);
	a = t_stats(pool);
	for (unsigned i = 0; i < few; i++)
		p[(5 + 11 * i) * 4096] ^= 1;
	b = t_stats(pool);
	assert_int_equal(b.cow_copies - a.cow_copies, few);
	p[509 * 4096] ^= 1;
	a = t_stats(pool);
	assert_int_equal(a.cow_copies - b.cow_copies, 512 - few);
	vac__ptl_lock(s, 0);
	segments = s->nseg[0];
	vac__ptl_unlock(s, 0);
	assert_int_equal(segments, 1);
	p[509 * 4096] ^= 1;
	for (unsigned i = 0; i < few; i++)
		p[(5 + 11 * i) * 4096] ^= 1;
	assert_int_equal(pat_bad(p, MIB(4), 1), -1);
	assert_int_equal(pat_bad(in(s, p, t), MIB(4), 1), -1);
	pat_fill(p, MIB(2), 2);
	b = t_stats(pool);
	assert_int_equal(b.cow_copies, a.cow_copies);
	assert_int_equal(pat_bad(in(s, p, t), MIB(4), 1), -1);
	assert_memory_equal(p + MIB(2), in(s, p, t) + MIB(2), MIB(2));
	t_check(pool);
	t_close(pool);
}

/* One period between snapshots: `each` pages of every pageblock are written. Answers the bytes copied for it. */
static uint64_t period(struct vac_space *s, unsigned pageblocks, unsigned flags, unsigned each)
{
	size_t bytes = pageblocks * MIB(2);
	char *p = t_map(s, bytes, flags);
	struct vac_pool *pool = vac_space_pool(s);
	struct vac_space *t;
	uint64_t before;

	pat_fill(p, bytes, 1);
	t = snap(s);
	before = t_stats(pool).cow_bytes;
	for (unsigned i = 0; i < each; i++)
		for (unsigned k = 0; k < pageblocks; k++)
			p[k * MIB(2) + (5 + 11 * i) * 4096] ^= 1;
	before = t_stats(pool).cow_bytes - before;
	assert_int_equal(pat_bad(in(s, p, t), bytes, 1), -1);
	for (unsigned i = 0; i < each; i++)
		for (unsigned k = 0; k < pageblocks; k++)
			p[k * MIB(2) + (5 + 11 * i) * 4096] ^= 1;
	assert_int_equal(pat_bad(p, bytes, 1), -1);
	t_check(pool);
	assert_ok(vac_space_destroy(t));
	assert_ok(vac_unmap(s, p, bytes));
	return before;
}

/* Where pageblocks became dense after one snapshot, they are copied whole at the first write after the next,
 * but for the few by which a change of habit is noticed: and it is. */
static void learned(unsigned flags)
{
	struct vac_pool *pool = t_pool(MIB(4), 16);
	struct vac_space *s = t_space(pool, MIB(20));
	unsigned few = pool->watches ? VAC__COW_DENSE_WATCHED : VAC__COW_DENSE, periods = 0;

	assert_int_equal(period(s, 10, flags, 1), 10 * 4096);
	assert_int_equal(period(s, 10, flags, few + 1), 10 * MIB(2));
	assert_in_range(period(s, 10, flags, 1), 9 * MIB(2), 10 * MIB(2));
	while (period(s, 10, flags, 1) != 10 * 4096)
		assert_in_range(++periods, 1, 2 * VAC__COW_LEARN * VAC__COW_PROBE / 10);
	/* And where there are fewer pageblocks than one in which probes are. */
	assert_int_equal(period(s, 10, flags, few + 1), 10 * MIB(2));
	assert_in_range(period(s, 5, flags, 1), 4 * MIB(2), 5 * MIB(2));
	for (periods = 0; period(s, 5, flags, 1) != 5 * 4096;)
		assert_in_range(++periods, 1, 2 * VAC__COW_LEARN * VAC__COW_PROBE / 5);
	t_close(pool);
}

static void test_learned(void **state UNUSED)
{
	learned(0);
	learned(VAC_MAP_NOHUGE);
}

/* The host may take pages out of the page table at any time, as its own reclaim does. They are asked for again,
 * with the rights that they had. */
static void test_forgotten(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(2), 0);

	pat_fill(p, MIB(2), 1);
	t = snap(s);
	p[100 * 4096] = 1; /* its own, and shown */
	assert_int_equal(p[200 * 4096], in(s, p, t)[200 * 4096]);
	for (unsigned i = 0; i < 4; i++) {
		assert_ok(madvise(p, MIB(2), MADV_DONTNEED));
		assert_int_equal(p[100 * 4096], 1 + (int)i);
		assert_ok(madvise(p, MIB(2), MADV_DONTNEED));
		p[100 * 4096]++;
		assert_int_equal(p[250 * 4096], in(s, p, t)[250 * 4096]);
		assert_ok(madvise(p, MIB(2), MADV_DONTNEED));
		p[(200 + i) * 4096] ^= 1; /* shown to be read, or not at all */
	}
	assert_int_equal(pat_bad(in(s, p, t), MIB(2), 1), -1);
	assert_int_equal(p[100 * 4096], 5);
	assert_memory_equal(p + MIB(1), in(s, p, t) + MIB(1), MIB(1));
	t_check(pool);
	t_close(pool);
}

/* An own space's memory stays where it is; its writes cost copies of what is shared, once. */
static void test_who_copies(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, MIB(4)), *t[3];
	char *p = t_map(s, MIB(4), 0);
	struct vac_page_info before, after;
	struct vac_pool_stats a, b;

	pat_fill(p, MIB(4), 1);
	before = t_page(s, p);
	for (unsigned i = 0; i < COUNT(t); i++)
		t[i] = snap(s);
	p[0] ^= 1;
	after = t_page(s, p);
	assert_int_equal(before.pfn, after.pfn);
	a = t_stats(pool);
	assert_true(a.cow_copies >= 1 && a.cow_copies <= 16);
	for (unsigned i = 0; i < COUNT(t); i++) /* one copy for all of them */
		assert_int_equal(t_page(t[i], in(s, p, t[i])).pfn,
				 t_page(t[0], in(s, p, t[0])).pfn);
	p[8] ^= 1;
	b = t_stats(pool);
	assert_int_equal(a.cow_copies, b.cow_copies);
	/* A snapshot's write is copied for it. */
	in(s, p, t[1])[0] ^= 1;
	assert_int_not_equal(t_page(t[1], in(s, p, t[1])).pfn, t_page(t[0], in(s, p, t[0])).pfn);
	p[0] ^= 1;
	assert_int_equal(p[0], in(s, p, t[0])[0]);
	for (unsigned i = 0; i < COUNT(t); i++)
		assert_ok(vac_space_destroy(t[i]));
	/* Nobody shares any more: no write copies, however many references others hold. */
	a = t_stats(pool);
	assert_ok(vac__folio_isolate(pool, (uint32_t)t_page(s, p + MIB(2)).pfn));
	p[MIB(2)] ^= 1;
	vac__folio_putback(pool, (uint32_t)t_page(s, p + MIB(2)).pfn & ~511u);
	b = t_stats(pool);
	assert_int_equal(a.cow_copies, b.cow_copies);
	assert_true(b.cow_reuses > a.cow_reuses);
	t_check(pool);
	t_close(pool);
}

static void test_bad_arguments(void **state UNUSED)
{
	struct vac_snapshot_opts o = VAC_INIT(struct vac_snapshot_opts);
	struct vac_pool *pool = t_pool(MIB(4), 1);
	struct vac_space *s = t_space(pool, MIB(4)), *other = t_space(pool, MIB(4)), *t;

	assert_int_equal(vac_space_snapshot(s, NULL, NULL), -EINVAL);
	o.size = 3;
	assert_int_equal(vac_space_snapshot(s, &o, &t), -EINVAL);
	o.size = sizeof(o);
	o.name = "a name that is longer than any that a space can have";
	assert_int_equal(vac_space_snapshot(s, &o, &t), -EINVAL);
	o.name = "backup";
	assert_ok(vac_space_snapshot(s, &o, &t));
	assert_null(vac_space_translate(s, vac_space_base(s), other));
	assert_ptr_equal(vac_space_translate(s, vac_space_base(s), t), vac_space_base(t));
	assert_ptr_equal(vac_space_translate(t, vac_space_base(t), s), vac_space_base(s));
	t_close(pool);
}

/* ---- Pins: mm/cow.c of the kernel's self-tests, rows 1 to 14; see cow_rows.h ------------------ */

static void test_cow_rows_1_2(void **state UNUSED)
{
	each_form(KEPT, old_bytes);
}

static void test_cow_rows_3_6(void **state UNUSED)
{
	each_form(KEPT, reader_unmaps);
}

static void test_cow_rows_7_14(void **state UNUSED)
{
	each_form(KEPT, pin_sees);
}

static void test_written_before_unpin(void **state UNUSED)
{
	each_form(KEPT, taken_and_written);
}

/* ---- One instant ----------------------------------------------------------------------------- */

#define TEAR_WORDS 6

struct tear {
	struct vac_space *s;
	_Atomic uint64_t *word[TEAR_WORDS];
};

static void tear_writer(struct member *m)
{
	struct tear *t = m->arg;

	for (uint64_t i = 1; !m->team->stop; i++) {
		for (unsigned k = 0; k < TEAR_WORDS; k++)
			atomic_store(t->word[k], i);
		m->team->rounds++;
	}
}

/* Words at the start and the end of three pages, some of them pinned, written one after the other: a
 * snapshot never shows a later store without the ones before it. */
static void test_tearing(void **state UNUSED)
{
	for (unsigned pinned = 0; pinned < 4; pinned++) {
		struct vac_pool *pool = t_pool(MIB(4), 4);
		struct tear t = {.s = t_space(pool, MIB(8))};
		char *p = t_map(t.s, MIB(8), pinned & 2 ? VAC_MAP_NOHUGE : 0);
		struct team team;
		uint64_t pin = 0;
		unsigned n = TSAN ? 40 : 200;

		for (unsigned k = 0; k < TEAR_WORDS; k++)
			t.word[k] = (void *)(p + MIB(2) * (k / 2) + (k & 1 ? 4088 : 0));
		for (unsigned k = 0; k < TEAR_WORDS; k++)
			atomic_store(t.word[k], 0);
		if (pinned & 1)
			pin = t_pin(t.s, p + MIB(2), 4096, VAC_PIN_WRITE | VAC_PIN_LONGTERM,
				    "ring");
		team_start(&team, 1, tear_writer, &t);
		team_rounds(&team, 10);
		while (n--) {
			struct vac_space *u = snap(t.s);
			uint64_t v[TEAR_WORDS];

			for (unsigned k = 0; k < TEAR_WORDS; k++)
				v[k] = atomic_load(
					(_Atomic uint64_t *)(void *)in(t.s, (void *)t.word[k], u));
			for (unsigned k = 1; k < TEAR_WORDS; k++)
				assert_true(v[k] <= v[k - 1] && v[k] + 1 >= v[0]);
			assert_ok(vac_space_destroy(u));
		}
		team_stop(&team);
		if (pin)
			assert_ok(vac_unpin(pool, pin));
		t_check(pool);
		t_close(pool);
	}
}

/* ---- Everything at once ---------------------------------------------------------------------- */

#define RECORDS 512 /* pages, each one a record: words that all agree */

struct storm {
	struct vac_pool *pool;
	struct vac_space *s;
	char *p;
	struct meeting meeting;
	_Atomic unsigned snaps;
};

static uint64_t *record(char *p, unsigned i)
{
	return (uint64_t *)(void *)(p + (size_t)i * VAC_PAGE_BYTES);
}

/* Each writer has pages of its own. */
static void storm_writer(struct member *m)
{
	struct storm *st = m->arg;
	uint64_t version[RECORDS] = {0};

	while (!m->team->stop) {
		unsigned i = (unsigned)(rnd(&m->rnd) % (RECORDS / 2)) * 2 + m->nr % 2;
		uint64_t *r = record(st->p, i);

		for (unsigned k = 0; k < 512; k += 73)
			MUST(r[k] == version[i]);
		version[i]++;
		for (unsigned k = 0; k < 512; k += 73)
			r[k] = version[i];
		m->team->rounds++;
	}
}

/* Snapshots that live for a while: what they show does not change. */
static void storm_snapper(struct member *m)
{
	struct storm *st = m->arg;

	while (!m->team->stop) {
		struct vac_space *t, *u = NULL;
		uint64_t sum[2] = {0, 0};
		char *q;
		int r = vac_space_snapshot(st->s, NULL, &t);

		MUST(r == 0);
		q = vac_space_translate(st->s, st->p, t);
		if (rnd(&m->rnd) % 2 == 0)
			MUST_OK(vac_space_snapshot(t, NULL, &u));
		for (unsigned pass = 0; pass < 2; pass++) {
			char *look = pass && u ? vac_space_translate(t, q, u) : q;

			for (unsigned i = 0; i < RECORDS; i++)
				sum[pass] = sum[pass] * 31 + record(look, i)[0] +
					    record(look, i)[511 - 511 % 73];
			if (!pass && u) { /* writes of ours, which the other does not see */
				for (unsigned n = 0; n < 20; n++)
					record(q, (unsigned)(rnd(&m->rnd) % RECORDS))[1] = 1;
			}
		}
		MUST(sum[0] == sum[1]);
		if (u)
			MUST_OK(vac_space_destroy(u));
		MUST_OK(vac_space_destroy(t));
		st->snaps++;
		m->team->rounds++;
	}
}

static void storm_pinner(struct member *m)
{
	struct storm *st = m->arg;

	while (!m->team->stop) {
		unsigned i = (unsigned)(rnd(&m->rnd) % RECORDS);
		uint64_t pin;

		if (vac_pin(st->s, record(st->p, i),
			    VAC_PAGE_BYTES * 2 - (i == RECORDS - 1 ? 4096 : 0),
			    rnd(&m->rnd) % 2 ? VAC_PIN_WRITE : 0, "storm", &pin) == 0) {
			sched_yield();
			MUST_OK(vac_unpin(st->pool, pin));
		}
		m->team->rounds++;
	}
}

static void storm(unsigned flags, bool offline)
{
	struct vac_pool *pool = t_pool(MIB(2), 8);
	struct storm st = {.pool = pool, .s = t_space(pool, MIB(4))};
	struct team writers, snappers, pinner;
	uint64_t end = t_ms() + (TSAN || ASAN ? 3000 : 2000);

	st.p = t_map(st.s, MIB(2), flags);
	memset(st.p, 0, MIB(2));
	team_start(&writers, 2, storm_writer, &st);
	team_start(&snappers, 2, storm_snapper, &st);
	team_start(&pinner, 1, storm_pinner, &st);
	for (int id = 0; t_ms() < end; id = (id + 1) % 8) {
		int r = offline ? t_offline(pool, id, 1000, NULL) : -EBUSY;

		if (r == 0)
			assert_ok(t_online(pool, id));
		else
			assert_true(r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
	}
	team_stop(&pinner);
	team_stop(&snappers);
	team_stop(&writers);
	assert_true(st.snaps > 2);
	assert_int_equal(t_stats(pool).dangling, 0);
	t_check(pool);
	t_close(pool);
}

static void test_storm_huge(void **state UNUSED)
{
	storm(0, false);
}

static void test_storm_offline(void **state UNUSED)
{
	storm(0, true);
}

static void test_storm_base(void **state UNUSED)
{
	storm(VAC_MAP_NOHUGE, true);
}

/* A tree of snapshots, and each member's own writes; then every block leaves. */
static void test_tree(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 8);
	struct vac_space *s[32] = {t_space(pool, MIB(4))};
	char *p = t_map(s[0], MIB(4), 0);
	unsigned n = 1;

	pat_fill(p, MIB(4), 1);
	for (unsigned level = 0; n < COUNT(s); level++) {
		unsigned parents = n;

		for (unsigned i = 0; i < parents && n < COUNT(s); i++) {
			s[n] = snap(s[i]);
			*(uint64_t *)(void *)in(s[0], p + 4096 * 20 * n, s[n]) = n;
			n++;
		}
	}
	for (int id = 0; id < 8; id++) {
		assert_ok(t_offline(pool, id, 5000, NULL));
		t_check(pool);
		assert_ok(t_online(pool, id));
	}
	for (unsigned i = 1; i < n; i++) {
		char *q = in(s[0], p, s[i]);

		assert_int_equal(*(uint64_t *)(void *)(q + 4096 * 20 * i), i);
		assert_int_equal(pat_bad(q + 4096, 4096, 0) == -1, false);
		/* What none of them has written is one frame for all. */
		assert_int_equal(t_page(s[i], q + MIB(4) - 4096).pfn,
				 t_page(s[0], p + MIB(4) - 4096).pfn);
		if (i % 3 == 0) {
			assert_ok(vac_space_destroy(s[i]));
			s[i] = NULL;
		}
	}
	assert_int_equal(pat_bad(p, MIB(4), 1), -1);
	t_check(pool);
	t_close(pool);
}

/* No memory for the copy: the write is refused, nothing else has changed. */
static void test_no_memory(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 2);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(4), VAC_MAP_POPULATE);
	uint64_t pin;

	pat_fill(p, MIB(4), 1);
	pin = t_pin(s, p, 4096, VAC_PIN_WRITE, "ring");
	assert_int_equal(vac_space_snapshot(s, NULL, &t), -ENOMEM);
	assert_ok(vac_unpin(pool, pin));
	t_check(pool);
	pat_fill(p, MIB(4), 2); /* it is still its own */
	t = snap(s);
	assert_int_equal(vac_prefault(s, p, 4096, RW), -ENOMEM);
	assert_int_equal(pat_bad(in(s, p, t), MIB(4), 2), -1);
	assert_int_equal(pat_bad(p, MIB(4), 2), -1);
	assert_ok(vac_space_destroy(t));
	pat_fill(p, MIB(4), 3);
	t_check(pool);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_sides),     cmocka_unit_test(test_mappings),
		cmocka_unit_test(test_who_copies),    cmocka_unit_test(test_how_much),
		cmocka_unit_test(test_dense),         cmocka_unit_test(test_learned),
		cmocka_unit_test(test_forgotten),     cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_cow_rows_1_2),  cmocka_unit_test(test_cow_rows_3_6),
		cmocka_unit_test(test_cow_rows_7_14), cmocka_unit_test(test_written_before_unpin),
		cmocka_unit_test(test_tearing),       cmocka_unit_test(test_tree),
		cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_storm_huge),
		cmocka_unit_test(test_storm_offline), cmocka_unit_test(test_storm_base),
	};

	t_filter(argc, argv);
	catch_faults();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

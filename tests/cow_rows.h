/* SPDX-License-Identifier: MIT */
/*
 * The rows of the table in the kernel's mm/cow.c self-test, against spaces and snapshots, over memory of each form
 * that a page can have; and, where a test says so, with all of it swapped out again and again in between.
 */
#ifndef VAC_TESTS_COW_ROWS_H
#define VAC_TESTS_COW_ROWS_H

#include "tests/snapshots.h"

/* What is done to all memory between the steps of a row. */
enum shake {
	KEPT, /* nothing */
	OUT,  /* it is swapped out */
	OUT_READ, /* and brought in again, for reading, through the space it is used by: mapped from the cache */
	OUT_HALF,      /* half of it */
	OUT_COLLAPSED, /* as OUT_READ, and then what can be made huge is */
	SHAKES
};
static enum shake how;

/* Split folios whose pages are nobody else's come together. Answers whether any did. */
static inline bool collapse(struct vac_pool *pool)
{
	struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
	struct vac_compact_result res = VAC_INIT(struct vac_compact_result);

	o.flags = VAC_COMPACT_COLLAPSE;
	vac_pool_compact(pool, &o, &res);
	return res.collapsed_in_place + res.collapsed_by_copy > 0;
}

static inline void shake(struct vac_space *s, char *p)
{
	if (how == KEPT)
		return;
	swap_out(s->pool);
	for (size_t i = 0; how != OUT && i < MIB(2); i += how == OUT_HALF ? 2 * 65536 : 65536)
		assert_ok(vac_prefault(s, p + i, 65536, VAC_PROT_READ));
	if (how == OUT_COLLAPSED)
		collapse(s->pool);
}

/* ---- Forms ----------------------------------------------------------------------------------- */

enum form { HUGE, BASE, SPLIT, SPLIT_SHARED_LOW, SPLIT_SHARED_HIGH, SINGLE, COLLAPSED, FORMS };

static size_t filled; /* how much of the 2 MiB has the pattern */

static char *form(struct vac_space *s, enum form f)
{
	char *p = t_map(s, MIB(2), f == BASE ? VAC_MAP_NOHUGE : 0);

	filled = f == SINGLE ? 4096 : MIB(2);
	pat_fill(p, MIB(2), 7);
	shake(s, p);
	if (f == SINGLE) /* of a folio that was huge one page is left */
		assert_ok(vac_advise(s, p + 4096, MIB(2) - 4096, VAC_ADV_DONTNEED));
	if (f >= SPLIT)
		assert_ok(vac_protect(s, p + MIB(1), 4096, VAC_PROT_READ)); /* cuts the folio */
	if (f >= SPLIT)
		assert_ok(vac_protect(s, p + MIB(1), 4096, RW));
	if (f == SPLIT_SHARED_LOW || f == SPLIT_SHARED_HIGH) {
		struct vac_space *t = snap(s);

		/* Half of it is shared with one that stays. */
		assert_ok(vac_unmap(t, in(s, f == SPLIT_SHARED_LOW ? p + MIB(1) : p, t), MIB(1)));
	}
	shake(s, p);
	if (f == COLLAPSED) { /* it is one again, whatever it was in between */
		if (how)
			assert_ok(vac_prefault(s, p, MIB(2), VAC_PROT_READ));
		assert_true(collapse(s->pool) || how == OUT_COLLAPSED);
		assert_int_equal(t_page(s, p + MIB(1)).huge, 1);
	}
	if (f == SPLIT_SHARED_LOW ||
	    f == SPLIT_SHARED_HIGH) { /* and nothing is that somebody shares */
		collapse(s->pool);
		assert_int_equal(t_page(s, p).huge, 0);
	}
	return p;
}

static void each_form(enum shake h, void (*fn)(struct vac_pool *pool, struct vac_space *s, char *p))
{
	for (enum form f = 0; f < FORMS; f++) {
		struct vac_pool *pool = t_pool(MIB(4), 5);
		struct vac_space *s = t_space(pool, MIB(4));
		char *p;

		how = h;
		if (how)
			swap_file(pool, MIB(64));
		p = form(s, f);
		fn(pool, s, p);
		if (how)
			assert_true(t_stats(pool).swap_out > 0);
		t_check(pool);
		t_close(pool);
	}
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static const size_t at[] = {0, 4096 * 3 + 8, MIB(1) - 8, MIB(1) + 4096, MIB(2) - 8};

/* One bit of each of these places. */
static void scratch(char *p)
{
	for (unsigned i = 0; i < COUNT(at) && at[i] < filled; i++)
		p[at[i]] ^= 1;
}

static void old_bytes(struct vac_pool *pool, struct vac_space *s, char *p)
{
	struct vac_space *t = snap(s);
	char *q = in(s, p, t);

	shake(t, q);
	scratch(p);
	shake(s, p);
	assert_int_equal(pat_bad(q, filled, 7), -1); /* row 1 */
	t_check(pool);
	assert_ok(vac_space_destroy(t));
	shake(s, p);
	scratch(p);
	t = snap(s);
	assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ)); /* row 2 */
	shake(s, p);
	assert_ok(vac_protect(s, p, MIB(2), RW));
	scratch(p);
	shake(s, p);
	assert_int_equal(pat_bad(in(s, p, t), filled, 7), -1);
	scratch(p);
	assert_int_equal(pat_bad(p, filled, 7), -1);
}

/* One side pins for reading and unmaps; what it pinned never shows the other side's writes. */
static void reader_unmaps(struct vac_pool *pool, struct vac_space *s, char *p)
{
	for (unsigned i = 0; i < 4; i++) { /* rows 3 to 6 */
		struct vac_space *t = snap(s), *pinner = i < 2 ? t : s, *writer = i < 2 ? s : t;
		char *mine = in(s, p, pinner), *other = in(s, p, writer);
		uint64_t pin, pfn;
		char was = *mine;

		shake(writer, other);
		if (i & 1) {
			assert_ok(vac_protect(writer, other, MIB(2), VAC_PROT_READ));
			assert_ok(vac_protect(writer, other, MIB(2), RW));
		}
		pin = t_pin(pinner, mine, 4096, i & 1 ? VAC_PIN_LONGTERM : 0, "reader");
		shake(writer, other);
		pfn = t_page(pinner, mine).pfn;
		assert_int_equal(t_page(pinner, mine).present, 1);
		assert_int_equal(frame_bytes(pool, pfn)[0], was);
		if (pinner == t)
			assert_ok(vac_unmap(t, mine, 4096 * 16));
		*other ^= 1;
		shake(writer, other);
		assert_int_equal(frame_bytes(pool, pfn)[0], was);
		assert_ok(vac_unpin(pool, pin));
		assert_ok(vac_space_destroy(t));
		if (writer == s)
			*p = was;
	}
}

/* What the owner writes after it pinned goes where the pin sees it. */
static void pin_sees(struct vac_pool *pool, struct vac_space *s, char *p)
{
	struct vac_space *t;
	uint64_t pin, pfn;

	for (unsigned i = 0; i < COUNT(at) && at[i] < filled; i += how ? 2 : 1) {
		char *q = p + at[i];
		char was = *q;

		shake(s, p);
		pin = t_pin(s, q, 1, VAC_PIN_WRITE | VAC_PIN_LONGTERM, "device"); /* row 7 */
		pfn = t_page(s, q).pfn;
		assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ));
		shake(s, p);
		assert_ok(vac_protect(s, p, MIB(2), RW));
		*q = 1;
		assert_int_equal(t_page(s, q).pfn, pfn);
		assert_int_equal(frame_bytes(pool, pfn)[at[i] % 4096], 1);
		t = snap(s); /* row 8 */
		shake(s, p);
		*q = 2;
		assert_int_equal(t_page(s, q).pfn, pfn);
		assert_int_equal(frame_bytes(pool, pfn)[at[i] % 4096], 2);
		assert_int_equal(*in(s, q, t), 1);
		assert_int_not_equal(t_page(t, in(s, q, t)).pfn, pfn);
		assert_ok(vac_unpin(pool, pin));
		*q = was;
		for (unsigned k = 0; k < 4; k++) { /* rows 9 to 14 */
			struct vac_space *u = snap(s);

			shake(s, p);
			if (k & 1)
				assert_ok(vac_space_destroy(u));
			if (k & 2)
				assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ));
			pin = t_pin(s, q, 1, VAC_PIN_LONGTERM, "device");
			pfn = t_page(s, q).pfn;
			if (k & 2)
				assert_ok(vac_protect(s, p, MIB(2), RW));
			*q = 3;
			assert_int_equal(t_page(s, q).pfn, pfn);
			assert_int_equal(frame_bytes(pool, pfn)[at[i] % 4096], 3);
			assert_ok(vac_unpin(pool, pin));
			*q = was;
			if (!(k & 1)) {
				assert_int_equal(*in(s, q, u), was);
				assert_ok(vac_space_destroy(u));
			}
		}
		assert_ok(vac_space_destroy(t));
	}
}

/* Seed 004, the case nobody had tested: pinned, then unmapped by what looks for pages to take (an offline, a
 * reclaim, a change of rights), then written before the pin goes. */
static void taken_and_written(struct vac_pool *pool, struct vac_space *s, char *p)
{
	uint64_t pin = t_pin(s, p, 4096, VAC_PIN_WRITE, "direct I/O");
	uint64_t pfn = t_page(s, p).pfn;
	int block = t_page(s, p).block;

	assert_int_equal(t_offline(pool, block, 50, NULL), -EBUSY);
	shake(s, p);
	assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ));
	assert_ok(vac_protect(s, p, MIB(2), RW));
	*p = 9;
	assert_int_equal(t_page(s, p).pfn, pfn);
	assert_int_equal(frame_bytes(pool, pfn)[0], 9);
	assert_ok(vac_unpin(pool, pin));
}

#endif /* VAC_TESTS_COW_ROWS_H */

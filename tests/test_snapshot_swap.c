/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Snapshots and swap in one pool: what several spaces share is swapped out, brought in by one of them, written,
 * pinned, locked, and lost, while the others go on.
 */
#include "tests/util.h"

#include <sched.h>

#include "tests/cow_rows.h"

#define P VAC_PAGE_BYTES

/* ---- The rows, swapped ----------------------------------------------------------------------- */

static void each_shake(void (*fn)(struct vac_pool *pool, struct vac_space *s, char *p))
{
	for (enum shake h = OUT; h < SHAKES; h++)
		if (h != OUT_READ || !TSAN)
			each_form(h, fn);
	how = KEPT;
}

static void test_cow_rows_1_2(void **state UNUSED)
{
	each_shake(old_bytes);
}

static void test_cow_rows_3_6(void **state UNUSED)
{
	each_shake(reader_unmaps);
}

static void test_cow_rows_7_14(void **state UNUSED)
{
	each_shake(pin_sees);
}

/* ---- Seed 004 -------------------------------------------------------------------------------- */

struct reads {
	struct vac_pool *pool;
	struct vac_space *s;
	char *buf;
};

/* Never less than one pin on the buffer, as long as it lasts. */
static void overlapping_reader(struct member *m)
{
	struct reads *r = m->arg;
	uint64_t last = 0, pin;

	while (!m->team->stop) {
		MUST_OK(vac_pin(r->s, r->buf, 4 * P, VAC_PIN_WRITE, "direct read", &pin));
		MUST(t_page(r->s, r->buf).present == 1);
		if (last)
			MUST_OK(vac_unpin(r->pool, last));
		last = pin;
		atomic_fetch_add(&m->team->rounds, 1);
		sched_yield();
	}
	if (last)
		MUST_OK(vac_unpin(r->pool, last));
}

/* (a) Overlapping direct reads into one buffer, which is never without a pin: snapshots of it go on, all
 * else is swapped, and the buffer stays where its transfers are. */
static void test_seed004_overlapping_reads(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct reads r = {.pool = pool, .s = t_space(pool, MIB(24))};
	char *more = t_map(r.s, MIB(20), 0);
	static struct team team;

	swap_file(pool, MIB(64));
	r.buf = t_map(r.s, MIB(2), VAC_MAP_NOHUGE);
	pat_fill(r.buf, MIB(2), 1);
	team_start(&team, 3, overlapping_reader, &r);
	team_rounds(&team, 3);
	for (uint64_t i = 0; i < 4; i++) {
		struct vac_space *t;

		pat_fill(more, MIB(20), i + 2);
		swap_out(pool);
		t = snap(r.s);
		pat_fill(more, MIB(1), i + 3);
		swap_out(pool);
		assert_int_equal(pat_bad(in(r.s, r.buf, t), MIB(2), 1), -1);
		assert_int_equal(pat_bad(in(r.s, more, t), MIB(1), i + 2), -1);
		assert_int_equal(pat_bad(more, MIB(1), i + 3), -1);
		assert_ok(vac_space_destroy(t));
	}
	team_stop(&team);
	assert_int_equal(pat_bad(r.buf, MIB(2), 1), -1);
	t_close(pool);
}

/* (b) */
static void test_seed004_written_before_unpin(void **state UNUSED)
{
	each_shake(taken_and_written);
}

/* (c) In the swap cache, and references besides (of the cache, of an offline that has picked it): no reason to
 * copy. An entry of another space for the slot: one. */
static void test_seed004_swap_cache_is_no_sharer(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	struct vac_pool_stats a, b;
	uint32_t pfn;

	swap_file(pool, MIB(16));
	pat_fill(p, MIB(2), 1);
	t = snap(s);
	swap_out(pool);
	assert_ok(vac_space_destroy(t));
	assert_ok(vac_prefault(s, p, MIB(2), VAC_PROT_READ));
	pfn = (uint32_t)t_page(s, p).pfn;
	assert_int_equal(t_page(s, p).map, 1);
	assert_int_equal(t_page(s, p).refs, 1); /* the cache's */
	a = t_stats(pool);
	assert_ok(vac__folio_isolate(pool, pfn));
	p[0] ^= 1;
	vac__folio_putback(pool, pfn);
	b = t_stats(pool);
	assert_int_equal(a.cow_copies, b.cow_copies);
	assert_true(b.cow_reuses > a.cow_reuses);
	assert_int_equal(t_page(s, p).pfn, pfn);
	p[0] ^= 1;
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	/* And now there is one, which is not in memory at all. */
	t = snap(s);
	swap_out(pool);
	assert_ok(vac_prefault(s, p, MIB(2), VAC_PROT_READ));
	assert_int_equal(t_page(s, p).map, 1);
	assert_int_equal(t_page(t, in(s, p, t)).present, 3);
	a = t_stats(pool);
	p[0] ^= 1;
	b = t_stats(pool);
	assert_int_equal(b.cow_copies - a.cow_copies, 1);
	assert_int_equal(pat_bad(in(s, p, t), MIB(2), 1), -1);
	t_check(pool);
	t_close(pool);
}

/* ---- Who copies, and who need not ------------------------------------------------------------ */

/* What is nobody else's is written without a copy, whoever shared it before and wherever it has been; the mark
 * that says so survives the file, so that not even a fault is spent on finding out. */
static void test_sole_owner(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(2), VAC_MAP_NOHUGE), *q;
	struct vac_pool_stats a, b;

	swap_file(pool, MIB(16));
	pat_fill(p, MIB(2), 1);
	a = t_stats(pool);
	for (uint64_t i = 2; i < 5; i++) { /* its own all the time */
		swap_out(pool);
		assert_int_equal(t_page(s, p).present, 3);
		pat_fill(p, MIB(2), i);
	}
	b = t_stats(pool);
	assert_int_equal(a.cow_copies + a.cow_reuses, b.cow_copies + b.cow_reuses);
	for (unsigned i = 0; i < 6; i++) { /* shared, before or while it was out */
		if (i & 1)
			swap_out(pool);
		t = snap(s);
		q = in(s, p, t);
		if (i & 2)
			swap_out(pool);
		if (i == 4)
			assert_ok(vac_prefault(t, q, MIB(2), VAC_PROT_READ));
		assert_ok(vac_space_destroy(t));
		swap_out(pool);
		a = t_stats(pool);
		pat_fill(p, MIB(2), i + 10);
		b = t_stats(pool);
		assert_int_equal(a.cow_copies, b.cow_copies);
		assert_int_equal(b.frames_used, MIB(2) / P);
		assert_int_equal(pat_bad(p, MIB(2), i + 10), -1);
	}
	/* The snapshot outlives its space, and is alone then. */
	t = snap(s);
	q = in(s, p, t);
	swap_out(pool);
	assert_ok(vac_space_destroy(s));
	a = t_stats(pool);
	pat_fill(q, MIB(2), 20);
	b = t_stats(pool);
	assert_int_equal(a.cow_copies, b.cow_copies);
	assert_int_equal(b.frames_used, MIB(2) / P);
	t_check(pool);
	assert_ok(vac_space_destroy(t));
	assert_int_equal(t_stats(pool).swap_used, 0);
	t_close(pool);
}

/* Slots are shared, not copied, and given back with the last who names them. */
static void test_slots(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(4)), *t[5];
	char *p = t_map(s, MIB(2), 0);

	swap_file(pool, MIB(16));
	pat_fill(p, MIB(2), 1);
	swap_out(pool);
	assert_int_equal(t_stats(pool).swap_used, MIB(2) / P);
	assert_int_equal(t_stats(pool).frames_used, 0);
	for (unsigned i = 0; i < COUNT(t); i++)
		t[i] = snap(i ? t[i - 1] : s);
	assert_int_equal(t_stats(pool).swap_used, MIB(2) / P);
	assert_int_equal(t_stats(pool).frames_used, 0);
	t_check(pool);
	/* One brings it in: one folio for all of them, and each shows it when it is touched. */
	assert_int_equal(pat_bad(in(s, p, t[2]), MIB(2), 1), -1);
	assert_int_equal(t_stats(pool).frames_used, MIB(2) / P);
	for (unsigned i = 0; i < COUNT(t); i++)
		assert_int_equal(pat_bad(in(s, p, t[i]), MIB(2), 1), -1);
	assert_int_equal(t_stats(pool).frames_used, MIB(2) / P);
	assert_int_equal(t_page(t[0], in(s, p, t[0])).map, COUNT(t));
	/* A write of one that is not the oldest, while some show the page and some name the slot. */
	in(s, p, t[3])[9] ^= 1;
	assert_int_equal(t_stats(pool).frames_used, MIB(2) / P + 1);
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	/* And of the oldest. */
	swap_out(pool);
	p[P] ^= 1;
	in(s, p, t[3])[9] ^= 1;
	t_check(pool);
	for (unsigned i = 0; i < COUNT(t); i++)
		assert_int_equal(pat_bad(in(s, p, t[i]), MIB(2), 1), -1);
	p[P] ^= 1;
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	swap_out(pool);
	for (unsigned i = 0; i < COUNT(t); i++) {
		assert_ok(vac_space_destroy(t[(i + 3) % COUNT(t)]));
		t_check(pool);
	}
	assert_ok(vac_unmap(s, p, MIB(2)));
	assert_int_equal(t_stats(pool).swap_used, 0);
	assert_int_equal(t_stats(pool).frames_used, 0);
	t_close(pool);
}

/* What was read keeps its slot, as long as no more than half of the file is in use. */
static void test_half_full(void **state UNUSED)
{
	for (unsigned i = 0; i < 2; i++) {
		struct vac_pool *pool = t_pool(MIB(4), 4);
		struct vac_space *s = t_space(pool, MIB(4));
		char *p = t_map(s, MIB(3), VAC_MAP_NOHUGE);
		size_t slots = (i ? MIB(16) : MIB(4)) / P;

		swap_file(pool, slots * P);
		pat_fill(p, MIB(3), 1);
		assert_ok(vac_protect(s, p, MIB(3), VAC_PROT_READ));
		swap_out(pool);
		assert_int_equal(t_stats(pool).swap_used, MIB(3) / P);
		assert_int_equal(pat_bad(p, MIB(3), 1), -1);
		assert_int_equal(t_stats(pool).swap_used, i ? MIB(3) / P : slots / 2);
		t_check(pool);
		t_close(pool);
	}
}

/* ---- Pins and locks -------------------------------------------------------------------------- */

/* What is pinned is copied for the snapshot at once, and there is always room for that, as all else can go. */
static void test_pinned_in_a_full_pool(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(24)), *t;
	char *p = t_map(s, MIB(4), 0), *more = t_map(s, MIB(20), 0);
	uint64_t pin[2];

	swap_file(pool, MIB(64));
	pat_fill(p, MIB(4), 1);
	/* A pageblock, and half of one. */
	pin[0] = t_pin(s, p, 1, VAC_PIN_WRITE | VAC_PIN_LONGTERM, "ring");
	pin[1] = t_pin(s, p + MIB(2), MIB(1), VAC_PIN_WRITE, "transfer");
	for (uint64_t i = 0; i < 3; i++) {
		pat_fill(more, MIB(20), 2 + i);
		t = snap(s);
		t_check(pool);
		pat_fill(p, MIB(3), 9);
		assert_int_equal(pat_bad(in(s, p, t), MIB(4), 1), -1);
		assert_int_equal(pat_bad(in(s, more, t), MIB(20), 2 + i), -1);
		assert_ok(vac_space_destroy(t));
		pat_fill(p, MIB(4), 1);
	}
	assert_ok(vac_unpin(pool, pin[0]));
	assert_ok(vac_unpin(pool, pin[1]));
	assert_int_equal(pat_bad(more, MIB(20), 4), -1);
	t_close(pool);
}

/* A lock holds for the space that has taken it: what that shows stays, for all who share it; a folio of a
 * snapshot's own goes. */
static void test_lock_is_not_inherited(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(4)), *t;
	char *p = t_map(s, MIB(2), 0), *q;

	swap_file(pool, MIB(32));
	pat_fill(p, MIB(2), 1);
	assert_ok(vac_lock(s, p, MIB(1)));
	t = snap(s);
	q = in(s, p, t);
	in(s, p, t)[P * 3] ^= 1;
	swap_out(pool);
	for (size_t i = 0; i < MIB(2); i += P)
		assert_int_equal(t_page(s, p + i).present, i < MIB(1) ? 1 : 3);
	assert_int_equal(t_page(t, q).present, 1);         /* shared with what is locked */
	assert_int_equal(t_page(t, q + 3 * P).present, 3); /* its own */
	assert_int_equal(t_page(t, q + MIB(1)).present, 3);
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	q[3 * P] ^= 1;
	assert_int_equal(pat_bad(q, MIB(2), 1), -1);
	/* The other way round. */
	assert_ok(vac_unlock(s, p, MIB(1)));
	assert_ok(vac_lock(t, q, 4 * P));
	swap_out(pool);
	for (size_t i = 0; i < MIB(2); i += P)
		assert_int_equal(t_page(t, q + i).present, i < 4 * P ? 1 : 3);
	assert_int_equal(t_page(s, p + 3 * P).present, 3);
	p[0] ^= 1; /* a copy for the one that has it locked */
	swap_out(pool);
	assert_int_equal(t_page(t, q).present, 1);
	assert_int_equal(t_page(s, p).present, 3);
	assert_int_equal(pat_bad(q, MIB(2), 1), -1);
	p[0] ^= 1;
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	t_close(pool);
}

/* ---- A file that fails, and one that goes ---------------------------------------------------- */

static struct {
	_Atomic bool reads;
	_Atomic uint64_t from, to; /* offsets that fail */
} bad;

static void bad_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
		   unsigned n)
{
	vac__port_mem_ops.swap_io(ctx, f, write, run, n);
	for (unsigned i = 0; i < n; i++) {
		if (write || !bad.reads || run[i].off >= bad.to ||
		    run[i].off + run[i].bytes <= bad.from)
			continue;
		memset(run[i].mem, 0, run[i].bytes);
		run[i].err = -EIO;
	}
}

/* A slot that three spaces share cannot be read: each is told so when it touches the page, every time anew, and
 * nothing else is touched. Once it can be read again all of them have their bytes. */
static void test_read_error_of_a_shared_slot(void **state UNUSED)
{
	static struct vac__mem_ops ops;
	struct vac_pool *pool;
	struct vac_space *s[3];
	char *p, *q;
	uint64_t pin;

	ops = vac__port_mem_ops;
	ops.swap_io = bad_io;
	vac__mem_ops_override = &ops;
	pool = t_pool(MIB(4), 4);
	swap_file(pool, MIB(32));
	s[0] = t_space(pool, MIB(4));
	p = t_map(s[0], MIB(2), VAC_MAP_NOHUGE);
	pat_fill(p, MIB(2), 5);
	s[1] = snap(s[0]);
	s[2] = snap(s[1]);
	swap_out(pool);
	bad.from =
		(uint64_t)vac__e_pfn(vac__entry_get(
			s[0], (uint32_t)((uint64_t)(p - (char *)vac_space_base(s[0])) / P) + 5)) *
		P;
	bad.to = bad.from + P;
	bad.reads = true;
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < COUNT(s); i++) {
			q = in(s[0], p, s[i]);
			assert_int_equal(vac_prefault(s[i], q + 5 * P, P, VAC_PROT_READ), -EIO);
			assert_int_equal(vac_prefault(s[i], q + 5 * P, P, RW), -EIO);
			assert_int_equal(vac_pin(s[i], q + 5 * P, P, 0, "me", &pin), -EIO);
			assert_int_equal(pat_bad(q, 5 * P, 5), -1);
			for (size_t k = 6; k < MIB(2) / P; k++)
				assert_ok(vac_prefault(s[i], q + k * P, P, VAC_PROT_READ));
			t_check(pool);
		}
	}
	/* One of them can do without: it drops the page. The others still cannot. */
	q = in(s[0], p, s[1]) + 5 * P;
	assert_ok(vac_advise(s[1], q, P, VAC_ADV_DONTNEED));
	assert_int_equal(zero_bad(q, P), -1);
	assert_int_equal(vac_prefault(s[2], in(s[0], p + 5 * P, s[2]), P, RW), -EIO);
	bad.reads = false;
	assert_int_equal(pat_bad(in(s[0], p, s[2]), MIB(2), 5), -1);
	p[5 * P] ^= 1;
	assert_int_equal(pat_bad(in(s[0], p, s[2]), MIB(2), 5), -1);
	p[5 * P] ^= 1;
	assert_int_equal(pat_bad(p, MIB(2), 5), -1);
	assert_true(t_stats(pool).swap_errors > 0);
	t_close(pool);
	vac__mem_ops_override = NULL;
}

/* Swap ends and begins again with snapshots alive, whose pages are out. */
static void test_off_with_snapshots(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 5);
	struct vac_space *s = t_space(pool, MIB(4)), *t[3];
	char *p = t_map(s, MIB(4), 0);

	for (uint64_t i = 0; i < COUNT(t); i++) {
		swap_file(pool, MIB(32));
		pat_fill(p, MIB(4), i + 1);
		t[i] = snap(s);
		swap_out(pool);
		assert_int_equal(t_stats(pool).frames_used, 0);
		pat_fill(p + MIB(1), MIB(1), 50); /* a quarter of it for itself */
		assert_ok(vac_swap_off(pool, 0));
		assert_int_equal(t_stats(pool).swap_used, 0);
		t_check(pool);
		assert_int_equal(pat_bad(in(s, p, t[i]), MIB(4), i + 1), -1);
		assert_int_equal(pat_bad(p + MIB(1), MIB(1), 50), -1);
		assert_int_equal(pat_bad(p, MIB(1), i + 1), -1);
		t_check(pool);
		/* What all of them have does not fit into memory otherwise. */
		assert_ok(vac_space_destroy(t[i]));
	}
	t_close(pool);
}

/* Host mappings are short, so huge folios are to be copied whole; but no pageblock can be made free. Then they are
 * cut after all. */
static void test_scarce_mappings(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(16)), *t;
	char *huge = t_map(s, MIB(2), 0), *rest = t_map(s, MIB(10), VAC_MAP_NOHUGE);
	uint64_t used, limit, copied;
	long more;

	swap_file(pool, MIB(64));
	pat_fill(huge, MIB(2), 1);
	pat_fill(rest, MIB(10), 2);
	for (size_t off = 0; off < MIB(10); off += MIB(2))
		assert_ok(vac_lock(s, rest + off, P));
	t = snap(s);
	copied = t_stats(pool).cow_bytes;
	vac__port_vma_usage(&used, &limit);
	more = (long)(limit / 10 * 6) - (long)used;
	assert_true(more > 0 && vac__port_vma_charge(more, true));
	huge[5 * P] ^= 1;
	vac__port_vma_charge(-more, true);
	assert_in_range(t_stats(pool).cow_bytes - copied, P, MIB(2));
	huge[5 * P] ^= 1;
	assert_int_equal(pat_bad(huge, MIB(2), 1), -1);
	assert_int_equal(pat_bad(in(s, huge, t), MIB(2), 1), -1);
	assert_int_equal(pat_bad(rest, MIB(10), 2), -1);
	t_check(pool);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cow_rows_1_2),
		cmocka_unit_test(test_cow_rows_3_6),
		cmocka_unit_test(test_cow_rows_7_14),
		cmocka_unit_test(test_scarce_mappings),
		cmocka_unit_test(test_seed004_overlapping_reads),
		cmocka_unit_test(test_seed004_written_before_unpin),
		cmocka_unit_test(test_seed004_swap_cache_is_no_sharer),
		cmocka_unit_test(test_sole_owner),
		cmocka_unit_test(test_slots),
		cmocka_unit_test(test_half_full),
		cmocka_unit_test(test_pinned_in_a_full_pool),
		cmocka_unit_test(test_lock_is_not_inherited),
		cmocka_unit_test(test_read_error_of_a_shared_slot),
		cmocka_unit_test(test_off_with_snapshots),
	};

	t_filter(argc, argv);
	catch_faults();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

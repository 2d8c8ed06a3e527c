/* SPDX-License-Identifier: MIT *
 * runtests: guards=both
 */
/*
 * vac_advise() against madvise(2)'s meaning, with a swap file and without, and how much a fault reads: what is
 * cold goes first, what is needed is read ahead, what is dropped is zeroes and takes no room in the file.
 */
#include "tests/util.h"

#include <unistd.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define CLUSTER (16 * P)

/* What the swap file is asked for, by the port's table. */
static struct {
	struct vac__mem_ops ops;
	_Atomic uint64_t calls, pages; /* of reads */
} io;

static void counted_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
		       unsigned n)
{
	if (!write) {
		atomic_fetch_add(&io.calls, 1);
		for (unsigned i = 0; i < n; i++)
			atomic_fetch_add(&io.pages, run[i].bytes / P);
	}
	vac__port_mem_ops.swap_io(ctx, f, write, run, n);
}

static struct vac_pool *pool_of(unsigned blocks, size_t swap)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);
	struct vac_pool *pool;

	io.ops = vac__port_mem_ops;
	io.ops.swap_io = counted_io;
	vac__mem_ops_override = &io.ops;
	pool = t_pool(MIB(4), blocks);
	vac__mem_ops_override = NULL;
	if (swap) {
		o.fd = t_swap_file(swap);
		o.bytes = swap;
		assert_ok(vac_swap_on(pool, &o));
		close(o.fd);
	}
	return pool;
}

static size_t pages_that_are(struct vac_space *s, const char *mem, size_t bytes, int present)
{
	size_t n = 0;

	for (size_t at = 0; at < bytes; at += P)
		n += t_page(s, mem + at).present == present;
	return n;
}

/* Those that are nowhere in memory: not in the swap cache either. */
static size_t pages_in_file(struct vac_space *s, const char *mem, size_t bytes)
{
	uint32_t first = (uint32_t)((size_t)((const uint8_t *)mem - s->base) / P);
	size_t n = 0;

	for (uint32_t p = first; p < first + bytes / P; p++) {
		uint64_t e = vac__entry_get(s, p);

		n += vac__e_swap(e) && !vac__ld(&s->pool->swap.slot[vac__e_pfn(e)].cache);
	}
	return n;
}

/* ---- Cold -------------------------------------------------------------------------------------- */

/* Two halves of what there is room for, one of them cold; then a quarter more is wanted. */
static void cold_goes_first(unsigned flags)
{
	struct vac_pool *pool = pool_of(4, MIB(64));
	struct vac_space *s = t_space(pool, MIB(32));
	char *warm = t_map(s, MIB(6), flags), *cold = t_map(s, MIB(6), flags);
	char *after = t_map(s, MIB(2), flags), *more;

	pat_fill(warm, MIB(6), 1);
	pat_fill(cold, MIB(6), 2);
	pat_fill(after, MIB(2), 3);
	assert_int_equal(t_stats(pool).swap_out, 0);
	assert_ok(vac_advise(s, cold, MIB(6), VAC_ADV_COLD));
	assert_int_equal(t_stats(pool).swap_out, 0);
	more = t_map(s, MIB(4), flags);
	pat_fill(more, MIB(4), 4);
	assert_true(pages_that_are(s, cold, MIB(6), 3) >= MIB(2) / P);
	assert_int_equal(pages_that_are(s, warm, MIB(6), 3), 0);
	assert_int_equal(pages_that_are(s, after, MIB(2), 3), 0);
	assert_int_equal(pat_bad(warm, MIB(6), 1), -1);
	assert_int_equal(pat_bad(cold, MIB(6), 2), -1);
	assert_int_equal(pat_bad(after, MIB(2), 3), -1);
	assert_int_equal(pat_bad(more, MIB(4), 4), -1);
	t_check(pool);
	t_close(pool);
}

static void test_cold_base(void **state UNUSED)
{
	cold_goes_first(VAC_MAP_NOHUGE);
}

static void test_cold_huge(void **state UNUSED)
{
	cold_goes_first(0);
}

/* What is touched after the advice is not cold any more; its neighbours are. */
static void test_cold_touched(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(4, MIB(64));
	struct vac_space *s = t_space(pool, MIB(32));
	char *cold = t_map(s, MIB(8), VAC_MAP_NOHUGE), *warm = t_map(s, MIB(6), VAC_MAP_NOHUGE);
	char *more;

	pat_fill(cold, MIB(8), 1);
	pat_fill(warm, MIB(6), 2);
	assert_ok(vac_advise(s, cold, MIB(8), VAC_ADV_COLD));
	for (size_t at = 0; at < MIB(8); at += 8 * CLUSTER)
		(void)*(volatile char *)(cold + at);
	more = t_map(s, MIB(4), VAC_MAP_NOHUGE);
	pat_fill(more, MIB(4), 3);
	for (size_t at = 0; at < MIB(8); at += 8 * CLUSTER)
		assert_int_equal(pages_that_are(s, cold + at, CLUSTER, 1), 16);
	assert_int_equal(pages_that_are(s, warm, MIB(6), 3), 0);
	assert_true(pages_that_are(s, cold, MIB(8), 3) >= MIB(2) / P);
	assert_int_equal(pat_bad(cold, MIB(8), 1), -1);
	t_close(pool);
}

/* Part of a huge folio, a pinned page, one without rights, one that is locked, and a gap. */
static void test_cold_parts(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(4, MIB(64));
	struct vac_space *s = t_space(pool, MIB(32));
	char *mem = t_map(s, MIB(8), 0), got[P], *more;
	uint64_t pin;
	int p[2];

	pat_fill(mem, MIB(8), 1);
	assert_ok(vac_pin(s, mem + MIB(2), P, VAC_PIN_WRITE, "me", &pin));
	assert_ok(vac_advise(s, mem + MIB(1), MIB(2), VAC_ADV_COLD));
	assert_int_equal(t_page(s, mem).huge, 0);
	/* A pinned page is there for system calls, under any guard. */
	MUST(pipe(p) == 0);
	MUST(write(p[1], mem + MIB(2), P) == (ssize_t)P && read(p[0], got, P) == (ssize_t)P);
	assert_memory_equal(got, mem + MIB(2), P);
	close(p[0]);
	close(p[1]);
	assert_ok(vac_protect(s, mem + MIB(4), MIB(2), 0));
	assert_ok(vac_advise(s, mem + MIB(3), MIB(2), VAC_ADV_COLD));
	assert_ok(vac_protect(s, mem + MIB(4), MIB(2), RW));
	assert_ok(vac_unmap(s, mem + MIB(7), P));
	assert_int_equal(vac_advise(s, mem + MIB(6), MIB(2), VAC_ADV_COLD), -ENOMEM);
	assert_int_equal(pat_bad(mem, MIB(7), 1), -1);
	assert_ok(vac_unpin(pool, pin));
	assert_ok(vac_lock(s, mem, P));
	assert_int_equal(vac_advise(s, mem, MIB(2), VAC_ADV_COLD), -EINVAL);
	assert_int_equal(vac_advise(s, mem, MIB(2), VAC_ADV_DONTNEED), -EINVAL);
	assert_int_equal(pat_bad(mem, MIB(7), 1), -1);
	assert_ok(vac_unlock(s, mem, P));
	/* All of it, written and read while it is on its way out. */
	assert_ok(vac_advise(s, mem, MIB(7), VAC_ADV_COLD));
	more = t_map(s, MIB(12), VAC_MAP_NOHUGE);
	pat_fill(more, MIB(12), 2);
	assert_true(t_stats(pool).swap_out > 0);
	assert_int_equal(pat_bad(mem, MIB(7), 1), -1);
	assert_int_equal(pat_bad(more, MIB(12), 2), -1);
	t_check(pool);
	t_close(pool);
}

/* Without a swap file there is nothing that a page could be reclaimed to. */
static void test_without_swap(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(4, 0);
	struct vac_space *s = t_space(pool, MIB(16));
	char *mem = t_map(s, MIB(4), 0);
	uint64_t faults;

	pat_fill(mem, MIB(1), 1);
	pat_fill(mem + MIB(1), MIB(1), 2);
	faults = t_stats(pool).faults;
	assert_ok(vac_advise(s, mem, MIB(4), VAC_ADV_COLD));
	assert_int_equal(pat_bad(mem, MIB(1), 1), -1);
	assert_int_equal(t_stats(pool).faults, faults);
	assert_int_equal(vac_advise(s, mem + MIB(2), MIB(4), VAC_ADV_COLD), -ENOMEM);
	assert_ok(vac_advise(s, mem, MIB(4), VAC_ADV_WILLNEED));
	assert_int_equal(pages_that_are(s, mem, MIB(4), 1), MIB(4) / P);
	assert_int_equal(vac_advise(s, mem + MIB(2), MIB(4), VAC_ADV_WILLNEED), -ENOMEM);
	assert_ok(vac_advise(s, mem, MIB(1), VAC_ADV_DONTNEED));
	assert_int_equal(zero_bad(mem, MIB(1)), -1);
	assert_int_equal(pat_bad(mem + MIB(1), MIB(1), 2), -1);
	/* Gaps are no error there. */
	assert_ok(vac_advise(s, mem + MIB(2), MIB(4), VAC_ADV_DONTNEED));
	assert_int_equal(vac_advise(s, mem, P, (enum vac_advice)99), -EINVAL);
	assert_int_equal(vac_advise(s, mem + 1, P, VAC_ADV_COLD), -EINVAL);
	t_check(pool);
	t_close(pool);
}

/* ---- Dropped, and needed ----------------------------------------------------------------------- */

static void test_dontneed(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(4, MIB(64));
	struct vac_space *s = t_space(pool, MIB(32));
	char *mem = t_map(s, MIB(32), VAC_MAP_NOHUGE);

	pat_fill(mem, MIB(24), 1);
	pat_fill(mem + MIB(24), MIB(8), 2);
	assert_true(pages_that_are(s, mem, MIB(32), 3) > MIB(12) / P);
	assert_ok(vac_advise(s, mem, MIB(24), VAC_ADV_DONTNEED));
	assert_int_equal(pages_that_are(s, mem, MIB(24), 0), MIB(24) / P);
	assert_true(t_stats(pool).swap_used <= MIB(8) / P);
	assert_int_equal(pat_bad(mem + MIB(24), MIB(8), 2), -1);
	assert_int_equal(zero_bad(mem, MIB(24)), -1);
	assert_int_equal(pat_bad(mem + MIB(24), MIB(8), 2), -1);
	t_check(pool);
	t_close(pool);
}

/* What is away is read without anybody touching it, and without the caller's waiting for it. */
static void test_willneed(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(6, MIB(64));
	struct vac_space *s = t_space(pool, MIB(64)), *gone;
	char *mem = t_map(s, MIB(4), VAC_MAP_NOHUGE), *more = t_map(s, MIB(24), VAC_MAP_NOHUGE);
	uint64_t away, end;

	pat_fill(mem, MIB(4), 1);
	/* What has been written out may be in the swap cache still, and is not read then. */
	do
		pat_fill(more, MIB(24), 2);
	while (pages_in_file(s, mem, MIB(4)) < MIB(2) / P);
	/* Room for it, so that none of it has to go again. */
	assert_ok(vac_unmap(s, more, MIB(16)));
	io.pages = 0;
	away = pages_in_file(s, mem, MIB(4));
	assert_ok(vac_advise(s, mem, MIB(4), VAC_ADV_WILLNEED));
	for (end = t_ms() + 60000; pages_in_file(s, mem, MIB(4)) && t_ms() < end;)
		sleep_ms(1);
	assert_int_equal(pages_in_file(s, mem, MIB(4)), 0);
	assert_int_equal(pat_bad(mem, MIB(4), 1), -1);
	/* What was away was read, and nothing twice. */
	assert_true(atomic_load(&io.pages) >= away && atomic_load(&io.pages) <= MIB(4) / P);
	/* Asked for in spaces that go, more often than the list is long. */
	pat_fill(more + MIB(16), MIB(8), 3);
	for (unsigned i = 0; i < 40; i++) {
		char *m;

		gone = t_space(pool, MIB(8));
		m = t_map(gone, MIB(2), VAC_MAP_NOHUGE);
		m[0] = 1;
		assert_ok(vac_advise(gone, m, MIB(2), VAC_ADV_WILLNEED));
		assert_ok(vac_advise(s, mem, MIB(4), VAC_ADV_WILLNEED));
		assert_ok(vac_space_destroy(gone));
	}
	assert_int_equal(pat_bad(mem, MIB(4), 1), -1);
	assert_int_equal(pat_bad(more + MIB(16), MIB(8), 3), -1);
	t_check(pool);
	t_close(pool);
}

/* ---- How much a fault reads --------------------------------------------------------------------- */

static void test_read_around(void **state UNUSED)
{
	struct vac_pool *pool = pool_of(4, MIB(64));
	struct vac_space *s = t_space(pool, MIB(64));
	size_t bytes = MIB(32), touched = 0; /* that were away */
	char *mem = t_map(s, bytes, VAC_MAP_NOHUGE);
	uint64_t rnd = 88172645463325252u;

	pat_fill(mem, bytes, 1);
	/* In order, upwards: windows grow to a cluster. */
	io.calls = io.pages = 0;
	for (size_t at = 0; at < MIB(8); at += P)
		(void)*(volatile char *)(mem + at);
	assert_true(atomic_load(&io.pages) > MIB(4) / P);
	assert_true(atomic_load(&io.calls) < atomic_load(&io.pages) / 12);
	/* Two at a time, one of them downwards. */
	pat_fill(mem, bytes, 2);
	io.calls = io.pages = 0;
	for (size_t at = 0; at < MIB(4); at += P) {
		(void)*(volatile char *)(mem + at);
		(void)*(volatile char *)(mem + MIB(12) - P - at);
	}
	assert_true(atomic_load(&io.pages) > MIB(4) / P);

	assert_true(atomic_load(&io.calls) < atomic_load(&io.pages) / 4);
	/* At random: next to nothing is read that is not touched. */
	pat_fill(mem, bytes, 3);
	io.calls = io.pages = 0;
	for (unsigned i = 0; i < 1000; i++) {
		char *at;

		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		at = mem + rnd % (bytes / P) * P;
		touched += t_page(s, at).present == 3;
		(void)*(volatile char *)at;
	}
	assert_true(touched > 200);
	assert_true(atomic_load(&io.pages) <= touched + touched / 8);
	assert_int_equal(pat_bad(mem, bytes, 3), -1);
	t_check(pool);
	t_close(pool);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cold_base),    cmocka_unit_test(test_cold_huge),
		cmocka_unit_test(test_cold_touched), cmocka_unit_test(test_cold_parts),
		cmocka_unit_test(test_without_swap), cmocka_unit_test(test_dontneed),
		cmocka_unit_test(test_willneed),     cmocka_unit_test(test_read_around),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

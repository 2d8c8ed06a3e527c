/* SPDX-License-Identifier: MIT */
/* runtests: guards=all
 *
 * src/compact.c and collapse.c: what compaction gains, what it leaves alone, and that nobody notices.
 */
#include "tests/util.h"

#include <setjmp.h>

#include "src/internal.h"
#include "tests/snapshots.h"

#define PB_PAGES 512u
#define PB_BYTES VAC_PAGEBLOCK_BYTES

static struct vac_compact_result compact(struct vac_pool *pool, uint32_t flags, uint32_t target,
					 uint32_t max_missing, int want)
{
	struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
	struct vac_compact_result res = VAC_INIT(struct vac_compact_result);

	o.flags = flags;
	o.target = target;
	o.max_missing = max_missing;
	o.timeout_ms = -1;
	assert_int_equal(vac_pool_compact(pool, &o, &res), want);
	return res;
}

static struct vac_pool *open_pool(uint64_t block_bytes, unsigned blocks, uint32_t flags)
{
	struct vac_pool_opts o = t_opts(block_bytes);

	o.flags |= flags;
	return t_open(&o, blocks);
}

/* Where nobody shows us who holds a page, the program must have said that it pins. */
static struct vac_pool *open_any(uint64_t block_bytes, unsigned blocks, uint32_t flags)
{
	struct vac_pool *pool = open_pool(block_bytes, blocks, flags);

	if (t_stats(pool).sees_holders)
		return pool;
	t_close(pool);
	return open_pool(block_bytes, blocks, flags | VAC_POOL_PINS_ONLY);
}

static unsigned huge_pages(struct vac_space *s, const char *p, size_t bytes)
{
	unsigned n = 0;

	for (size_t off = 0; off < bytes; off += PB_BYTES)
		n += t_page(s, p + off).huge != 0;
	return n;
}

/* ---- Gathering -------------------------------------------------------------------------------- */

/* Keep one page of `step`, from `phase` on, of every pageblock; the rest is dropped. */
static void thin_out(struct vac_space *s, char *p, size_t bytes, unsigned step)
{
	for (size_t off = 0; off < bytes; off += step * VAC_PAGE_BYTES)
		assert_ok(vac_advise(s, p + off + VAC_PAGE_BYTES, (step - 1) * VAC_PAGE_BYTES,
				     VAC_ADV_DONTNEED));
}

static void check_thin(const char *p, size_t bytes, unsigned step, uint64_t seed)
{
	for (size_t off = 0; off < bytes; off += step * VAC_PAGE_BYTES)
		assert_int_equal(pat_bad(p + off, VAC_PAGE_BYTES, seed + off), -1);
}

static void fill_thin(char *p, size_t bytes, unsigned step, uint64_t seed)
{
	for (size_t off = 0; off < bytes; off += step * VAC_PAGE_BYTES)
		pat_fill(p + off, VAC_PAGE_BYTES, seed + off);
}

static void test_gather(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 4, 0);
	struct vac_space *s = t_space(pool, MIB(32));
	char *p = t_map(s, MIB(24), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	struct vac_compact_result res;
	uint64_t before;

	fill_thin(p, MIB(24), 8, 1);
	thin_out(s, p, MIB(24), 8);
	before = t_stats(pool).pageblocks_free;
	assert_int_equal(before, 4);
	assert_int_equal(t_stats(pool).frames_used, 12 * 64);
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	t_check(pool);
	check_thin(p, MIB(24), 8, 1);
	/* 768 pages fit into two pageblocks. Each is copied once at most. */
	assert_int_equal(res.free_before, before);
	assert_int_equal(res.free_after, 16 - 2);
	assert_int_equal(t_stats(pool).pageblocks_free, 14);
	assert_int_equal(res.pageblocks_freed, 10);
	assert_in_range(res.folios_moved, 10 * 64, 10 * 64);
	assert_int_equal(res.bytes_moved, res.folios_moved * VAC_PAGE_BYTES);
	assert_int_equal(t_stats(pool).compact_folios, res.folios_moved);
	/* And again: there is nothing left to gain. */
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	assert_int_equal(res.folios_moved, 0);
	t_close(pool);
}

static void test_target(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 4, 0);
	struct vac_space *s = t_space(pool, MIB(32));
	char *p = t_map(s, MIB(30), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	struct vac_compact_result res;

	fill_thin(p, MIB(30), 4, 7);
	thin_out(s, p, MIB(30), 4);
	res = compact(pool, VAC_COMPACT_GATHER, 5, 0, 0);
	assert_int_equal(res.free_after, 5);
	assert_int_equal(res.pageblocks_freed, 4); /* and no page more than that takes */
	assert_int_equal(res.folios_moved, 4 * 128);
	compact(pool, VAC_COMPACT_GATHER, 16, 0, -ENOMEM); /* cannot be */
	check_thin(p, MIB(30), 4, 7);
	t_close(pool);
}

/* What leaves movable memory stays in it. That there is no room for it there says nothing of normal memory. */
static void test_zones(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 1, 0);
	struct vac_space *s = t_space(pool, MIB(32));
	char *p = t_map(s, MIB(8), VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *q;
	struct vac_compact_result res;

	pat_fill(p, MIB(8), 1);
	assert_ok(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_NORMAL));
	q = t_map(s, MIB(8), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	fill_thin(q, MIB(8), 8, 2);
	thin_out(s, q, MIB(8), 8);
	for (size_t off = 0; off < MIB(8); off += PB_BYTES) /* one page of the lowest is left */
		if (t_page(s, p + off).pfn < PB_PAGES)
			assert_ok(vac_advise(s, p + off + VAC_PAGE_BYTES, PB_BYTES - VAC_PAGE_BYTES,
					     VAC_ADV_DONTNEED));
	assert_int_equal(t_stats(pool).frames_used, 3 * PB_PAGES + 1 + 4 * 64);
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	t_check(pool);
	assert_int_equal(res.pageblocks_freed, 3);
	assert_int_equal(res.free_after, 3);
	check_thin(q, MIB(8), 8, 2);
	t_close(pool);
}

/* A pageblock with a pin in it cannot become free: not a byte of it is copied. */
static void test_pinned(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(16));
	char *p = t_map(s, MIB(12), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	struct vac_compact_result res;
	uint64_t pin[6];

	fill_thin(p, MIB(12), 16, 3);
	thin_out(s, p, MIB(12), 16);
	for (unsigned i = 0; i < 6; i++)
		pin[i] = t_pin(s, p + i * PB_BYTES + 32 * VAC_PAGE_BYTES, 1, VAC_PIN_WRITE, "test");
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	assert_int_equal(res.folios_moved, 0);
	assert_true(res.skipped_pinned >= 5);
	for (unsigned i = 0; i < 6; i++)
		assert_ok(vac_unpin(pool, pin[i]));
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	assert_int_equal(res.free_after, 7);
	check_thin(p, MIB(12), 16, 3);
	t_check(pool);
	t_close(pool);
}

/* What is gathered is of use: a huge folio that had no place has one. */
static void test_makes_room(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(4), 2, 0);
	struct vac_space *s = t_space(pool, MIB(16));
	char *p = t_map(s, MIB(8), VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *q;

	fill_thin(p, MIB(8), 4, 9);
	thin_out(s, p, MIB(8), 4);
	assert_int_equal(t_stats(pool).pageblocks_free, 0);
	compact(pool, 0, 0, 0, 0);
	assert_int_equal(t_stats(pool).pageblocks_free, 3);
	q = t_map(s, MIB(4), 0);
	q[0] = q[MIB(2)] = 1;
	assert_int_equal(huge_pages(s, q, MIB(4)), 2);
	check_thin(p, MIB(8), 4, 9);
	t_close(pool);
}

/* ---- Collapse --------------------------------------------------------------------------------- */

static void test_in_place(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(6), 0);
	struct vac_compact_result res;
	uint64_t pin;
	unsigned maps;

	pat_fill(p, MIB(6), 5);
	maps = maps_between(p, p + MIB(6));
	for (unsigned i = 0; i < 3; i++) {
		assert_ok(vac_protect(s, p + i * PB_BYTES + 40 * VAC_PAGE_BYTES, VAC_PAGE_BYTES,
				      VAC_PROT_READ));
		assert_ok(
			vac_protect(s, p + i * PB_BYTES + 40 * VAC_PAGE_BYTES, VAC_PAGE_BYTES, RW));
	}
	assert_int_equal(huge_pages(s, p, MIB(6)), 0);
	pin = t_pin(s, p + MIB(2) + 12345, 10, VAC_PIN_WRITE, "test");
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
	assert_int_equal(res.collapsed_in_place, 2);
	assert_int_equal(res.collapsed_by_copy, 0);
	assert_int_equal(res.skipped_pinned, 1);
	assert_int_equal(res.bytes_moved, 0);
	t_check(pool);
	assert_ok(vac_unpin(pool, pin));
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
	assert_int_equal(res.collapsed_in_place, 1);
	assert_int_equal(huge_pages(s, p, MIB(6)), 3);
	assert_int_equal(pat_bad(p, MIB(6), 5), -1);
	assert_int_equal(maps_between(p, p + MIB(6)), maps);
	/* A huge folio like any other: it is split, moved and freed. */
	assert_ok(vac_unmap(s, p + MIB(1), VAC_PAGE_BYTES));
	assert_int_equal(huge_pages(s, p, MIB(6)), 2);
	pat_fill(p + MIB(2), MIB(4), 6);
	assert_ok(t_offline(pool, t_page(s, p + MIB(2)).block, 10000, NULL));
	assert_int_equal(pat_bad(p + MIB(2), MIB(4), 6), -1);
	t_check(pool);
	t_close(pool);
}

static void test_by_copy(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(64));
	char *p = t_scattered(s, MIB(8));
	struct vac_compact_result res;

	assert_ok(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	pat_fill(p, MIB(8), 11);
	assert_int_equal(compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0).collapsed_by_copy, 0);
	assert_ok(vac_advise(s, p, MIB(8), VAC_ADV_HUGE));
	assert_ok(vac_protect(s, p + MIB(2), MIB(2), VAC_PROT_READ));
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
	assert_int_equal(res.collapsed_by_copy, 4);
	assert_int_equal(res.bytes_moved, MIB(8));
	assert_int_equal(huge_pages(s, p, MIB(8)), 4);
	assert_int_equal(pat_bad(p, MIB(8), 11), -1);
	assert_false(can_write(p + MIB(2) + 4096));
	assert_true(can_write(p + MIB(4)));
	t_check(pool);
	/* Their places are free: now there is something to gather. */
	res = compact(pool, VAC_COMPACT_GATHER, 0, 0, 0);
	t_check(pool);
	assert_int_equal(pat_bad(p, MIB(8), 11), -1);
	t_close(pool);
}

static void test_missing(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(2), 0);
	struct vac_compact_result res;

	pat_fill(p, MIB(2), 2);
	assert_ok(vac_advise(s, p + MIB(1), 10 * VAC_PAGE_BYTES, VAC_ADV_DONTNEED));
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 9, 0);
	assert_int_equal(res.skipped_sparse, 1);
	assert_int_equal(huge_pages(s, p, MIB(2)), 0);
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 10, 0);
	assert_int_equal(res.collapsed_in_place + res.collapsed_by_copy, 1);
	assert_int_equal(huge_pages(s, p, MIB(2)), 1);
	assert_int_equal(zero_bad(p + MIB(1), 10 * VAC_PAGE_BYTES), -1);
	pat_fill(p + MIB(1), 10 * VAC_PAGE_BYTES, 4);
	assert_int_equal(pat_bad(p, MIB(1), 2), -1);
	t_check(pool);
	/* Not where huge folios are not wanted, nor across the end of a mapping. */
	assert_ok(vac_advise(s, p, VAC_PAGE_BYTES, VAC_ADV_DONTNEED));
	assert_ok(vac_advise(s, p, MIB(2), VAC_ADV_NOHUGE));
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 511, 0);
	assert_int_equal(res.collapsed_in_place + res.collapsed_by_copy, 0);
	t_close(pool);
}

/* Memory that has been out comes together too, and gives its slots back; what fails keeps them, and what is
 * written meanwhile is what is written out the next time. */
static void test_swap_cache(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(16));
	char *p = t_map(s, MIB(4), 0);
	struct vac_compact_result res;
	uint64_t pin, kept;

	swap_file(pool, MIB(32));
	pat_fill(p, MIB(2), 1);
	pat_fill(p + MIB(2), MIB(2), 1);
	assert_ok(vac_protect(s, p + MIB(2), MIB(2), VAC_PROT_READ));
	swap_out(pool);
	assert_int_equal(t_stats(pool).frames_used, 0);
	assert_ok(vac_prefault(s, p, MIB(4), VAC_PROT_READ));
	/* What may be written keeps its slot where the first write is told. */
	kept = t_stats(pool).swap_used - PB_PAGES;
	assert_int_equal(kept, pool->guard == VAC_GUARD_SIGSEGV ? PB_PAGES : 0);
	pin = t_pin(s, p + 5 * VAC_PAGE_BYTES, 1, 0, "test");
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
	assert_int_equal(res.collapsed_in_place, 1);
	assert_int_equal(res.skipped_pinned, 1);
	assert_int_equal(huge_pages(s, p + MIB(2), MIB(2)), 1);
	assert_false(can_write(p + MIB(2)));
	assert_int_equal(t_stats(pool).swap_used, kept);
	t_check(pool);
	pat_fill(p, MIB(2), 2);
	assert_ok(vac_unpin(pool, pin));
	for (unsigned i = 2; i < 4; i++) {
		swap_out(pool);
		assert_int_equal(pat_bad(p, MIB(2), i), -1);
		assert_int_equal(pat_bad(p + MIB(2), MIB(2), 1), -1);
		res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
		assert_int_equal(res.collapsed_in_place, 2);
		assert_int_equal(t_stats(pool).swap_used, 0);
		t_check(pool);
		pat_fill(p, MIB(2), i + 1);
	}
	assert_int_equal(pat_bad(p + MIB(2), MIB(2), 1), -1);
	t_close(pool);
}

/* The same where the frames lie scattered. */
static void test_swap_cache_by_copy(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 2, 0);
	struct vac_space *s = t_space(pool, MIB(64));
	char *p = t_scattered(s, MIB(8)), *others = p - MIB(16);
	struct vac_compact_result res;

	swap_file(pool, MIB(64));
	for (size_t off = VAC_PAGE_BYTES; off < MIB(16); off += 2 * VAC_PAGE_BYTES)
		assert_ok(vac_lock(s, others + off, VAC_PAGE_BYTES));
	for (size_t off = 0; off < MIB(8); off += PB_BYTES)
		pat_fill(p + off, PB_BYTES, 11);
	assert_ok(vac_protect(s, p + MIB(2), MIB(2), VAC_PROT_READ));
	swap_out(pool);
	assert_int_equal(t_stats(pool).frames_used, MIB(8) / VAC_PAGE_BYTES);
	assert_ok(vac_prefault(s, p, MIB(8), VAC_PROT_READ));
	p[MIB(4)] ^= 1; /* one of a cluster, and the cluster with it, has no slot any more */
	p[MIB(4)] ^= 1;
	assert_true(t_stats(pool).swap_used > 0);
	assert_ok(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	assert_ok(vac_advise(s, p, MIB(8), VAC_ADV_HUGE));
	res = compact(pool, VAC_COMPACT_COLLAPSE, 0, 0, 0);
	assert_int_equal(res.collapsed_by_copy, 4);
	assert_int_equal(huge_pages(s, p, MIB(8)), 4);
	assert_int_equal(t_stats(pool).swap_used, 0);
	assert_false(can_write(p + MIB(2)));
	t_check(pool);
	for (size_t off = 0; off < MIB(8); off += PB_BYTES)
		assert_int_equal(pat_bad(p + off, PB_BYTES, 11), -1);
	pat_fill(p, MIB(2), 12);
	pat_fill(p + MIB(4), MIB(4), 13);
	swap_out(pool);
	assert_int_equal(pat_bad(p, MIB(2), 12), -1);
	assert_int_equal(pat_bad(p + MIB(2), MIB(2), 11), -1);
	assert_int_equal(pat_bad(p + MIB(4), MIB(4), 13), -1);
	t_close(pool);
}

static void test_bad_input(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
	struct vac_compact_result res = VAC_INIT(struct vac_compact_result);

	assert_int_equal(vac_pool_compact(pool, NULL, NULL),
			 t_stats(pool).sees_holders ? 0 : -EOPNOTSUPP);
	o.flags = 4;
	assert_int_equal(vac_pool_compact(pool, &o, &res), -EINVAL);
	o.flags = 0;
	o.max_used_pct = 101;
	assert_int_equal(vac_pool_compact(pool, &o, &res), -EINVAL);
	o.max_used_pct = 0;
	o.max_missing = 512;
	assert_int_equal(vac_pool_compact(pool, &o, &res), -EINVAL);
	o.max_missing = 0;
	o.size = sizeof(o) + 1;
	assert_int_equal(vac_pool_compact(pool, &o, &res), -EINVAL);
	o.size = sizeof(o);
	res.size = 1;
	assert_int_equal(vac_pool_compact(pool, &o, &res), -EINVAL);
	t_close(pool);
}

/* Where late bytes are looked for by sums, sources could not be used again: nothing is moved. */
static void test_blind(void **state UNUSED)
{
	struct vac_pool *pool = open_pool(MIB(8), 2, VAC_POOL_TEST_NO_LOOK);
	struct vac_space *s = t_space(pool, MIB(16));
	char *p = t_map(s, MIB(8), VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *q;
	struct vac_compact_result res;

	fill_thin(p, MIB(8), 8, 1);
	thin_out(s, p, MIB(8), 8);
	compact(pool, VAC_COMPACT_GATHER, 0, 0, -EOPNOTSUPP);
	assert_int_equal(t_stats(pool).frames_quarantined, 0);
	assert_int_equal(t_stats(pool).compact_folios, 0);
	/* What moves nothing is done. */
	q = t_map(s, MIB(2), 0);
	q[0] = 1;
	assert_ok(vac_protect(s, q + 4096, 4096, VAC_PROT_READ));
	assert_ok(vac_protect(s, q + 4096, 4096, RW));
	res = compact(pool, 0, 0, 0, 0);
	assert_int_equal(res.collapsed_in_place, 1);
	check_thin(p, MIB(8), 8, 1);
	t_close(pool);
}

/* ---- Against everything else ------------------------------------------------------------------ */

#define OWNERS 4u
#define REGION (3 * PB_BYTES + PB_BYTES / 2) /* regions share pageblocks */

struct storm {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
};

/* Writes, drops, protects and pins its own region at random, and knows every page of it. */
static void owner(struct member *m)
{
	struct storm *st = m->arg;
	char *mine = st->mem + m->nr * REGION;
	unsigned pages = REGION / VAC_PAGE_BYTES;
	uint64_t *seed = calloc(pages, sizeof(*seed)); /* 0: zeroes */

	MUST(seed);
	while (!atomic_load(&m->team->stop)) {
		unsigned at = (unsigned)(rnd(&m->rnd) % pages),
			 n = 1 + (unsigned)(rnd(&m->rnd) % 64);
		unsigned what = (unsigned)(rnd(&m->rnd) % 16);
		char *p = mine + at * VAC_PAGE_BYTES;
		uint64_t pin;

		n = n > pages - at ? pages - at : n;
		if (what < 6) {
			for (unsigned i = 0; i < n; i++) {
				seed[at + i] = rnd(&m->rnd) | 1;
				pat_fill(p + i * VAC_PAGE_BYTES, VAC_PAGE_BYTES, seed[at + i]);
			}
		} else if (what < 9) {
			int r = vac_advise(st->space, p, n * VAC_PAGE_BYTES, VAC_ADV_DONTNEED);

			MUST(r == 0 || r == -EBUSY);
			for (unsigned i = 0; i < n && r == 0; i++)
				seed[at + i] = 0;
		} else if (what < 10) {
			int r = vac_protect(st->space, p, n * VAC_PAGE_BYTES, VAC_PROT_READ);

			MUST(r == 0 || r == -EBUSY);
			if (r == 0)
				do
					r = vac_protect(st->space, p, n * VAC_PAGE_BYTES, RW);
				while (r == -EBUSY);
			MUST(r == 0 || r == -EBUSY);
		} else if (what < 12) {
			MUST(vac_pin(st->space, p, VAC_PAGE_BYTES, VAC_PIN_WRITE, "owner", &pin) ==
			     0);
			seed[at] = rnd(&m->rnd) | 1;
			pat_fill(p, VAC_PAGE_BYTES, seed[at]);
			MUST_OK(vac_unpin(st->pool, pin));
		}
		for (unsigned i = 0; i < n; i++)
			MUST((seed[at + i]
				      ? pat_bad(p + i * VAC_PAGE_BYTES, VAC_PAGE_BYTES,
						seed[at + i])
				      : zero_bad(p + i * VAC_PAGE_BYTES, VAC_PAGE_BYTES)) == -1);
		atomic_fetch_add(&m->team->rounds, 1);
	}
	for (unsigned i = 0; i < pages; i++)
		MUST((seed[i] ? pat_bad(mine + i * VAC_PAGE_BYTES, VAC_PAGE_BYTES, seed[i])
			      : zero_bad(mine + i * VAC_PAGE_BYTES, VAC_PAGE_BYTES)) == -1);
	free(seed);
}

static void compactor(struct member *m)
{
	struct storm *st = m->arg;

	while (!atomic_load(&m->team->stop)) {
		struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
		int r;

		o.max_missing = (uint32_t)(rnd(&m->rnd) % 512);
		o.max_used_pct = (uint32_t)(rnd(&m->rnd) % 101);
		o.timeout_ms = 200;
		r = vac_pool_compact(st->pool, &o, NULL);
		MUST(r == 0 || r == -ETIMEDOUT);
		atomic_fetch_add(&m->team->rounds, 1);
	}
}

static void test_storm(void **state UNUSED)
{
	static struct team owners, compactors;
	struct vac_pool *pool = open_any(MIB(8), 5, 0);
	struct storm st = {.pool = pool};
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_pool_stats stats;
	unsigned rounds = scaled(30), gone = 0;

	st.space = t_space(pool, MIB(32));
	st.mem = t_map(st.space, OWNERS * REGION, 0);
	team_start(&owners, OWNERS, owner, &st);
	team_start(&compactors, 2, compactor, &st);
	for (unsigned i = 0; i < rounds; i++) {
		int id = (int)(i % 5), r = t_offline(pool, id, 2000, &res);

		MUST(r == 0 || r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
		vac_report_free(res.report);
		if (r == 0) {
			gone++;
			assert_ok(t_online(pool, id));
		}
		team_rounds(&compactors, 1);
	}
	team_rounds(&owners, 100);
	team_stop(&compactors);
	team_stop(&owners);
	stats = t_stats(pool);
	assert_true(gone > 0);
	assert_true(stats.compact_folios > 0);
	assert_true(stats.collapsed_in_place + stats.collapsed_by_copy > 0);
	assert_true(stats.splits > 0);
	assert_int_equal(stats.dangling, 0);
	t_check(pool);
	t_close(pool);
}

/* ---- An entry left behind --------------------------------------------------------------------- */

static _Atomic unsigned lines;

static void count_lines(void *ctx UNUSED, enum vac_log_level level, const char *msg)
{
	if (level == VAC_LOG_ERROR && strstr(msg, "left behind"))
		atomic_fetch_add(&lines, 1);
}

/* Make the entry of a page a migration entry of a folio that nobody moves. pfn: of another frame. */
static void leave_behind(struct vac_space *s, const char *p, uint32_t pfn)
{
	uint32_t page = (uint32_t)((p - (char *)s->base) / VAC_PAGE_BYTES);
	vac__entry *slot = t_page(s, p).huge ? vac__pmd(s, page / PB_PAGES) : vac__pte(s, page);
	uint64_t e = atomic_load(slot), bits = e & 0xffff;
	size_t bytes = t_page(s, p).huge ? PB_BYTES : VAC_PAGE_BYTES;
	struct vac__frame *f = vac__frame(s->pool, vac__e_pfn(e));

	/* As a migration leaves it: a reference, no mapping, the host stops writers. */
	atomic_fetch_add(&f->word, VAC__W_REF);
	bits = (bits & ~(uint64_t)(VAC__E_TYPE | VAC__E_HWRITE)) | VAC__E_MIGRATION;
	assert_ok(s->pool->mem->leave(s->pool->mem_ctx, (void *)(uintptr_t)p, bytes,
				      VAC__READ | VAC__WRITE));
	atomic_store(slot, vac__e_make(pfn == VAC__NO_PFN ? vac__e_pfn(e) : pfn, bits));
	atomic_fetch_sub(&f->word, VAC__W_MAP);
	vac__ptl_lock(s, page / PB_PAGES);
	vac__segments_settle(s, page / PB_PAGES, 0);
	vac__ptl_unlock(s, page / PB_PAGES);
}

static void let_go(struct vac_pool *pool, uint32_t pfn)
{
	VAC__ENTER();
	vac__folio_put(pool, pfn, VAC__W_REF);
	VAC__LEAVE();
}

static void test_dangling(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(8));
	struct vac_pool *pool;
	struct vac_space *s;
	uint32_t base, huge;
	char *p, *q;

	o.log = count_lines;
	pool = t_open(&o, 2);
	s = t_space(pool, MIB(8));
	p = t_map(s, MIB(2), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	q = t_map(s, MIB(2), 0);
	pat_fill(p, MIB(2), 1);
	pat_fill(q, MIB(2), 2);
	vac__dangling_stops = false;
	base = (uint32_t)t_page(s, p + 5 * VAC_PAGE_BYTES).pfn;
	huge = (uint32_t)t_page(s, q).pfn;
	leave_behind(s, p + 5 * VAC_PAGE_BYTES, VAC__NO_PFN);
	leave_behind(s, q, VAC__NO_PFN);
	assert_int_equal(t_stats(pool).dangling, 0);
	assert_true(can_write(p + 5 * VAC_PAGE_BYTES)); /* waits for nobody */
	assert_int_equal(t_stats(pool).dangling, 1);
	assert_int_equal(t_stats(pool).dangling_repaired, 1);
	assert_int_equal(lines, 1);
	assert_int_equal(pat_bad(p, MIB(2), 1), -1);
	/* A change of rights meets the next one. */
	assert_ok(vac_protect(s, q, MIB(2), VAC_PROT_READ));
	assert_int_equal(t_stats(pool).dangling, 2);
	assert_int_equal(t_stats(pool).dangling_repaired, 2);
	assert_int_equal(lines, 1); /* said once */
	assert_int_equal(pat_bad(q, MIB(2), 2), -1);
	pat_fill(p, MIB(2), 3);
	let_go(pool, base);
	let_go(pool, huge);
	t_check(pool);
	vac__dangling_stops = true;
	atomic_store(&pool->c.dangling, 0); /* t_close() would not have it */
	t_close(pool);
}

static _Atomic unsigned buses;
static sigjmp_buf back;

static void on_bus(int sig UNUSED, siginfo_t *info UNUSED, void *uc UNUSED)
{
	atomic_fetch_add(&buses, 1);
	siglongjmp(back, 1);
}

static bool refused(volatile char *p, bool write)
{
	if (sigsetjmp(back, 1))
		return true;
	if (write)
		*p = 1;
	else
		(void)*p;
	return false;
}

/* The frame is somebody else's by now: nobody is shown it, and the program is told. */
static void test_dangling_lost(void **state UNUSED)
{
	struct sigaction a = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO}, old;
	struct vac_fault_info info = VAC_INIT(struct vac_fault_info);
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(2), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	char *lost = p + 7 * VAC_PAGE_BYTES;
	uint32_t pfn = (uint32_t)t_page(s, lost).pfn;

	pat_fill(p, MIB(2), 1);
	assert_ok(sigaction(SIGBUS, &a, &old));
	vac__dangling_stops = false;
	leave_behind(s, lost, (uint32_t)t_page(s, p).pfn); /* names the frame of another page */
	assert_true(refused(lost, true));
	assert_true(refused(lost, false));
	assert_true(buses >= 2);
	assert_ok(vac_last_fault(pool, &info));
	assert_int_equal(info.why, VAC_REFUSED_LOST);
	assert_int_equal(info.err, -EIO);
	assert_int_equal(info.addr, (uintptr_t)lost);
	assert_int_equal(t_stats(pool).dangling_repaired, 0);
	assert_true(t_stats(pool).dangling >= 1);
	assert_int_equal(pat_bad(p, 7 * VAC_PAGE_BYTES, 1), -1);
	let_go(pool, pfn);
	/* Dropping the page mends it: zeroes, as after any drop. */
	assert_ok(vac_advise(s, lost, VAC_PAGE_BYTES, VAC_ADV_DONTNEED));
	assert_int_equal(zero_bad(lost, VAC_PAGE_BYTES), -1);
	vac__dangling_stops = true;
	atomic_store(&pool->c.dangling, 0); /* t_close() would not have it */
	assert_ok(sigaction(SIGBUS, &old, NULL));
	t_close(pool);
}

/* ---- In the background ------------------------------------------------------------------------ */

static void test_background(void **state UNUSED)
{
	struct vac_pool *pool = open_any(MIB(8), 4, VAC_POOL_COMPACT);
	struct vac_space *s = t_space(pool, MIB(40));
	char *p = t_map(s, MIB(32), VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *q;
	uint64_t end;

	fill_thin(p, MIB(32), 16, 1);
	thin_out(s, p, MIB(32), 16);
	assert_int_equal(t_stats(pool).pageblocks_free, 0);
	q = t_map(s, MIB(4), 0);
	q[0] = 1; /* no whole pageblock: somebody hears of that */
	assert_int_equal(huge_pages(s, q, PB_BYTES), 0);
	end = t_ms() + 20000;
	while (t_stats(pool).pageblocks_free == 0 && t_ms() < end)
		sleep_ms(10);
	assert_true(t_stats(pool).pageblocks_free > 0);
	q[MIB(2)] = 1;
	assert_int_equal(huge_pages(s, q + MIB(2), PB_BYTES), 1);
	check_thin(p, MIB(32), 16, 1);
	/* What was split comes together again. */
	pat_fill(q + MIB(2), PB_BYTES, 3);
	assert_ok(vac_protect(s, q + MIB(2), VAC_PAGE_BYTES, VAC_PROT_READ));
	assert_ok(vac_protect(s, q + MIB(2), VAC_PAGE_BYTES, RW));
	end = t_ms() + 20000;
	while (huge_pages(s, q + MIB(2), PB_BYTES) == 0 && t_ms() < end)
		sleep_ms(10);
	assert_int_equal(huge_pages(s, q + MIB(2), PB_BYTES), 1);
	assert_int_equal(pat_bad(q + MIB(2), PB_BYTES, 3), -1);
	t_close(pool); /* ends the thread, and leaves no mapping behind */
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gather),
		cmocka_unit_test(test_target),
		cmocka_unit_test(test_pinned),
		cmocka_unit_test(test_makes_room),
		cmocka_unit_test(test_in_place),
		cmocka_unit_test(test_by_copy),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_bad_input),
		cmocka_unit_test(test_blind),
		cmocka_unit_test(test_storm),
		cmocka_unit_test(test_background),
		cmocka_unit_test(test_dangling),
		cmocka_unit_test(test_dangling_lost),
		cmocka_unit_test(test_swap_cache),
		cmocka_unit_test(test_swap_cache_by_copy),
		cmocka_unit_test(test_zones),
	};

	t_guard_or_skip();
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

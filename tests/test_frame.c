/* SPDX-License-Identifier: MIT */
/*
 * src/frame.c: the allocator against a model, reservations, isolation under load, and counters that
 * are exact after any number of cycles.
 */
#include "tests/util.h"

#include <sched.h>

#include "src/internal.h"

#define PB_PAGES 512u

static struct vac_pool_stats sums(struct vac_pool *pool)
{
	struct vac_pool_stats s = t_stats(pool);

	assert_int_equal(s.frames_total,
			 s.frames_free + s.frames_reserved + s.frames_used + s.frames_isolated);
	return s;
}

/* ---- Against a model ------------------------------------------------------------------------------ */

#define MODEL_BLOCKS 4u
#define MODEL_BYTES MIB(4)
#define MODEL_FRAMES (MODEL_BLOCKS * 1024u)
#define MODEL_VPBS 24u

struct model {
	struct vac_pool *pool;
	struct vac_space *space;
	uint8_t used[MODEL_FRAMES];
	uint32_t live[MODEL_FRAMES], page[MODEL_FRAMES],
		n; /* heads; page: which it was taken for */
	bool huge[MODEL_FRAMES];
	uint64_t frames;
};

static bool model_alloc(struct model *m, bool huge, uint32_t page)
{
	uint32_t pfn, n = huge ? PB_PAGES : 1;
	int r = huge ? vac__huge_alloc(m->pool, true, &pfn)
		     : vac__base_alloc(m->pool, m->space, page, &pfn);

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		return false;
	}
	assert_true(pfn + n <= MODEL_FRAMES && (!huge || pfn % PB_PAGES == 0));
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(m->used[pfn + i], 0);
		m->used[pfn + i] = 1;
	}
	if (huge) {
		assert_int_equal(zero_bad(vac__frame_addr(m->pool, pfn), VAC_PAGEBLOCK_BYTES), -1);
		memset(vac__frame_addr(m->pool, pfn), 0xaa, VAC_PAGEBLOCK_BYTES);
	}
	assert_true(vac__frame(m->pool, pfn)->word == VAC__W_REF);
	m->live[m->n] = pfn;
	m->page[m->n] = page;
	m->huge[m->n++] = huge;
	m->frames += n;
	return true;
}

static void model_free(struct model *m, uint32_t i)
{
	uint32_t n = m->huge[i] ? PB_PAGES : 1;

	memset(&m->used[m->live[i]], 0, n);
	m->frames -= n;
	vac__folio_put(m->pool, m->live[i], VAC__W_REF);
	m->n--;
	m->live[i] = m->live[m->n];
	m->page[i] = m->page[m->n];
	m->huge[i] = m->huge[m->n];
}

/* A page may be taken only once at a time, as in a page table. */
static bool model_has(const struct model *m, uint32_t page)
{
	for (uint32_t i = 0; i < m->n; i++)
		if (!m->huge[i] && m->page[i] == page)
			return true;
	return false;
}

static void test_model(void **state UNUSED)
{
	struct model *m = calloc(1, sizeof(*m));
	uint64_t seed = t_seed(1), huge_got = 0, huge_refused = 0;
	struct vac_pool_stats s;

	VAC__ENTER();
	m->pool = t_pool(MODEL_BYTES, MODEL_BLOCKS);
	m->space = t_space(m->pool, MODEL_VPBS * VAC_PAGEBLOCK_BYTES);
	for (unsigned i = 0; i < 40000; i++) {
		uint64_t r = rnd(&seed);
		/* Swing between empty and full, slowly. */
		bool grow = i / 10000 % 2 ? r % 8 < 3 : r % 8 < 5;

		r >>= 8;
		if (grow && r % 64 == 0) {
			if (model_alloc(m, true, 0))
				huge_got++;
			else
				huge_refused++;
		} else if (grow) {
			uint32_t page = (uint32_t)(r / 64 % (MODEL_VPBS * PB_PAGES));
			uint64_t before = m->frames;

			if (model_has(m, page))
				continue;
			/* One frame is always to be had while one is free or reserved. */
			assert_int_equal(model_alloc(m, false, page), before < MODEL_FRAMES);
		} else if (m->n) {
			model_free(m, (uint32_t)(r % m->n));
		}
		s = sums(m->pool);
		assert_int_equal(s.frames_used, m->frames);
		assert_int_equal(s.frames_total, MODEL_FRAMES);
	}
	assert_true(huge_got > 10 && huge_refused > 0);
	while (m->n)
		model_free(m, m->n - 1);
	s = sums(m->pool);
	assert_int_equal(s.frames_free, MODEL_FRAMES); /* all merged, no reservation left */
	for (uint32_t i = 0; i < MODEL_FRAMES / PB_PAGES; i++)
		assert_true(model_alloc(m, true, 0));
	assert_false(model_alloc(m, true, 0));
	while (m->n)
		model_free(m, 0);
	t_close(m->pool);
	VAC__LEAVE();
	free(m);
}

/* ---- Where things go ------------------------------------------------------------------------------- */

static void shuffle(uint32_t *a, uint32_t n, uint64_t *seed)
{
	for (uint32_t i = n; i > 1; i--) {
		uint32_t k = (uint32_t)(rnd(seed) % i), t = a[i - 1];

		a[i - 1] = a[k];
		a[k] = t;
	}
}

static void assert_placed(struct vac_space *s, char *mem, uint32_t pages)
{
	for (uint32_t i = 0; i < pages; i++) {
		struct vac_page_info p = t_page(s, mem + i * VAC_PAGE_BYTES);

		assert_int_equal(p.present, 1);
		assert_int_equal(p.pfn % PB_PAGES, i % PB_PAGES);
		assert_int_equal(p.pfn / PB_PAGES,
				 t_page(s, mem + i / PB_PAGES * VAC_PAGEBLOCK_BYTES).pfn /
					 PB_PAGES);
	}
}

/* Pages touched one by one, in any order, take their own offsets of one pageblock; and so they
 * arrive where an offline moves them to, those of two pageblocks not mixed. */
static void test_reservation(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	uint32_t order[2 * PB_PAGES];
	uint64_t seed = t_seed(2);
	char *mem;

	o.fault_bytes = 4096;
	pool = t_open(&o, 3);
	s = t_space(pool, MIB(8));
	mem = t_map(s, MIB(4), VAC_MAP_NOHUGE);
	for (uint32_t i = 0; i < COUNT(order); i++)
		order[i] = i;
	shuffle(order, COUNT(order), &seed);
	for (uint32_t i = 0; i < COUNT(order); i++) {
		struct vac_pool_stats st;

		*(uint32_t *)(mem + order[i] * VAC_PAGE_BYTES) = order[i];
		st = sums(pool);
		assert_int_equal(st.frames_used, i + 1);
	}
	assert_placed(s, mem, 2 * PB_PAGES);
	assert_int_equal(t_stats(pool).frames_reserved, 0);
	for (int round = 0; round < 3; round++) {
		int id = t_page(s, mem).block;

		assert_ok(t_offline(pool, id, 0, NULL));
		assert_placed(s, mem, 2 * PB_PAGES);
		assert_ok(t_online(pool, id));
	}
	for (uint32_t i = 0; i < COUNT(order); i++)
		assert_int_equal(*(uint32_t *)(mem + i * VAC_PAGE_BYTES), i);
	t_close(pool);
}

/* A sparse set keeps its offsets too, and what it left free stays with it until it is needed. */
static void test_reservation_sparse(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_pool_stats st;
	char *mem;
	int id;

	o.fault_bytes = 4096;
	pool = t_open(&o, 2);
	s = t_space(pool, MIB(8));
	mem = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	for (uint32_t i = 0; i < PB_PAGES; i += 7)
		mem[i * VAC_PAGE_BYTES] = (char)i;
	st = sums(pool);
	assert_int_equal(st.frames_used, 74);
	assert_int_equal(st.frames_reserved, PB_PAGES - 74);
	id = t_page(s, mem).block;
	assert_ok(t_offline(pool, id, 0, NULL));
	for (uint32_t i = 0; i < PB_PAGES; i += 7) {
		struct vac_page_info p = t_page(s, mem + i * VAC_PAGE_BYTES);

		assert_int_equal(p.pfn % PB_PAGES, i);
		assert_int_equal(p.pfn / PB_PAGES, t_page(s, mem).pfn / PB_PAGES);
		assert_int_equal(mem[i * VAC_PAGE_BYTES], (char)i);
	}
	/* The neighbours touched afterwards find their places kept. */
	for (uint32_t i = 0; i < PB_PAGES; i++)
		mem[i * VAC_PAGE_BYTES + 1] = 1;
	assert_placed(s, mem, PB_PAGES);
	/* And the reservation ends with the pages, not before. */
	assert_ok(vac_unmap(s, mem, MIB(2)));
	st = sums(pool);
	assert_int_equal(st.frames_free, st.frames_total);
	t_close(pool);
}

/* One page of each of many pageblocks: more reservations than pageblocks. Every frame is to be had
 * in the end, and no reservation survives that. */
static void test_reservation_pressure(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_pool_stats st;
	uint64_t seed = t_seed(3);
	uint32_t *at, total = 3 * PB_PAGES;
	char *mem;
	int r;

	o.fault_bytes = 4096;
	pool = t_open(&o, 3);
	s = t_space(pool, MIB(256));
	mem = t_map(s, MIB(256), VAC_MAP_NOHUGE);
	at = calloc(128 * PB_PAGES, sizeof(*at));
	for (uint32_t i = 0; i < 128 * PB_PAGES; i++)
		at[i] = i;
	shuffle(at, 128 * PB_PAGES, &seed);
	for (uint32_t i = 0; i < total; i++) {
		char *p = mem + at[i] * VAC_PAGE_BYTES;

		r = vac_advise(s, p, VAC_PAGE_BYTES, VAC_ADV_WILLNEED);
		assert_ok(r);
		assert_int_equal(zero_bad(p, VAC_PAGE_BYTES), -1);
		*(uint32_t *)p = i;
		st = sums(pool);
		assert_int_equal(st.frames_used, i + 1);
	}
	assert_int_equal(st.frames_free + st.frames_reserved, 0);
	assert_int_equal(
		vac_advise(s, mem + at[total] * VAC_PAGE_BYTES, VAC_PAGE_BYTES, VAC_ADV_WILLNEED),
		-ENOMEM);
	for (uint32_t i = 0; i < total; i++)
		assert_int_equal(*(uint32_t *)(mem + at[i] * VAC_PAGE_BYTES), i);
	t_check(pool);
	/* One page back is one page to be had, whoever asks. */
	assert_ok(vac_advise(s, mem + at[5] * VAC_PAGE_BYTES, VAC_PAGE_BYTES, VAC_ADV_DONTNEED));
	assert_ok(
		vac_advise(s, mem + at[total] * VAC_PAGE_BYTES, VAC_PAGE_BYTES, VAC_ADV_WILLNEED));
	free(at);
	t_close(pool);
}

/* Movable memory first, then normal; huge where a whole pageblock is, else base. */
static void test_zones(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 1);
	struct vac_space *s = t_space(pool, MIB(32));
	struct vac_block_opts bo = VAC_INIT(struct vac_block_opts);
	char *mem = t_map(s, MIB(8), 0);

	bo.id = 5;
	assert_int_equal(vac_block_add(pool, &bo), 5);
	assert_ok(vac_block_online(pool, 5, VAC_ZONE_NORMAL));
	assert_int_equal(t_block(pool, 5).zone, VAC_ZONE_NORMAL);
	assert_int_equal(t_block(pool, 0).zone, VAC_ZONE_MOVABLE);
	for (unsigned i = 0; i < 4; i++) {
		mem[i * MIB(2)] = 1;
		assert_int_equal(t_page(s, mem + i * MIB(2)).huge, 1);
		assert_int_equal(t_page(s, mem + i * MIB(2)).block, i < 2 ? 0 : 5);
	}
	/* Movable again as soon as some is free, in base pages where only those are. */
	assert_ok(vac_advise(s, mem, MIB(2), VAC_ADV_DONTNEED));
	assert_ok(vac_advise(s, mem + MIB(6), MIB(2), VAC_ADV_DONTNEED));
	assert_ok(vac_unmap(s, mem + MIB(4), 4096)); /* splits; a frame of normal memory is free */
	mem[MIB(6)] = 1;
	assert_int_equal(t_page(s, mem + MIB(6)).block, 0);
	assert_int_equal(t_page(s, mem + MIB(6)).huge, 1);
	mem[0] = 1;
	assert_int_equal(t_page(s, mem).block, 5);
	assert_int_equal(t_page(s, mem).huge, 1);
	assert_int_equal(sums(pool).frames_free, 1);
	assert_ok(vac_map(s, mem + MIB(4), 4096, RW, VAC_MAP_FIXED, &(void *){NULL}));
	mem[MIB(4)] = 1;
	assert_int_equal(t_page(s, mem + MIB(4)).huge, 0);
	assert_int_equal(sums(pool).frames_free, 0);
	t_close(pool);
}

/* Memory that the host has filled is used again before more is asked of it. */
static void test_reuse(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(16));
	struct vac_pool_stats st = t_stats(pool);
	char *mem = t_map(s, MIB(8), 0);

	assert_int_equal(st.pageblocks_huge + st.pageblocks_base, 0);
	for (unsigned i = 0; i < 30; i++) {
		mem[i % 4 * MIB(2)] = 1;
		assert_int_equal(zero_bad(mem + i % 4 * MIB(2) + 8, MIB(2) - 8), -1);
		memset(mem + i % 4 * MIB(2), 1, MIB(2));
		assert_ok(vac_advise(s, mem + i % 4 * MIB(2), MIB(2), VAC_ADV_DONTNEED));
		st = t_stats(pool);
		assert_int_equal(st.pageblocks_huge + st.pageblocks_base, 1);
	}
	t_close(pool);
}

/* ---- Isolation ---------------------------------------------------------------------------------------- */

/* Frames of [lo, hi) are isolated while `since` is odd. An allocation that began after that, and
 * ended in the same period, must not have got one. */
static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	_Atomic uint32_t period, lo, hi;
	_Atomic uint64_t got, got_while_isolated;
} iso;

static void alloc_and_free(struct member *m)
{
	uint32_t held[64], page[64], n = 0;
	bool huge[64];

	VAC__ENTER();
	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd);

		if (n < COUNT(held) && r % 2) {
			uint32_t before = iso.period, lo = iso.lo, hi = iso.hi;

			huge[n] = r / 2 % 16 == 0;
			/* Pages of this thread only, so that none is taken twice. */
			page[n] = (uint32_t)(m->nr * 4 * PB_PAGES + r / 32 % (4 * PB_PAGES));
			for (uint32_t i = 0; i < n && !huge[n]; i++)
				if (!huge[i] && page[i] == page[n])
					huge[n] = true;
			if (huge[n] ? vac__huge_alloc(iso.pool, false, &held[n]) == 0
				    : vac__base_alloc(iso.pool, iso.space, page[n], &held[n]) ==
					      0) {
				iso.got++;
				if ((before & 1) && iso.period == before) {
					MUST(held[n] >= hi || held[n] < lo);
					iso.got_while_isolated++;
				}
				n++;
			}
		} else if (n) {
			uint32_t k = (uint32_t)(r / 2 % n);

			vac__folio_put(iso.pool, held[k], VAC__W_REF);
			n--;
			held[k] = held[n];
			page[k] = page[n];
			huge[k] = huge[n];
		}
		m->team->rounds++;
	}
	while (n)
		vac__folio_put(iso.pool, held[--n], VAC__W_REF);
	VAC__LEAVE();
}

/* The allocator's own isolation, a pageblock at a time, with all threads hammering it. */
static void test_isolate_hammer(void **state UNUSED)
{
	struct team t;
	struct vac_pool_stats st;
	uint64_t seed = t_seed(4), end;
	unsigned turns = 0;

	memset(&iso, 0, sizeof(iso));
	iso.pool = t_pool(MIB(4), 3);
	iso.space = t_space(iso.pool, MIB(64));
	team_start(&t, 4, alloc_and_free, NULL);
	VAC__ENTER();
	for (end = t_ms() + scaled(3000); t_ms() < end || iso.got_while_isolated < 50; turns++) {
		uint32_t pb = (uint32_t)(rnd(&seed) % 6) * PB_PAGES, had;

		vac__frames_isolate(iso.pool, pb);
		iso.lo = pb;
		iso.hi = pb + PB_PAGES;
		iso.period++;
		had = vac__frames_used(iso.pool, pb, NULL, NULL);
		for (int i = 0; i < 20; i++) { /* it only empties */
			uint32_t has;

			sched_yield();
			has = vac__frames_used(iso.pool, pb, NULL, NULL);
			MUST(has <= had);
			had = has;
		}
		iso.period++;
		vac__frames_unisolate(iso.pool, pb);
	}
	VAC__LEAVE();
	team_stop(&t);
	assert_true(turns > 0);
	st = sums(iso.pool);
	assert_int_equal(st.frames_free, 3 * 1024); /* chunks merged across every un-isolation */
	assert_int_equal(st.frames_isolated, 0);
	t_close(iso.pool);
}

/* Fill, look where it went, drop: base and huge, in a part of the space of this thread's own. */
static void touch_and_drop(struct member *m)
{
	char *mem = iso.mem + m->nr * MIB(2);

	while (!m->team->stop) {
		uint32_t before = iso.period, lo = iso.lo, hi = iso.hi;
		uint64_t r = rnd(&m->rnd);
		size_t off = r % 2 ? 0 : r / 2 % PB_PAGES * VAC_PAGE_BYTES;
		struct vac_page_info p;

		MUST(vac_advise(iso.space, mem, MIB(2), r % 2 ? VAC_ADV_HUGE : VAC_ADV_NOHUGE) ==
		     0);
		mem[off] = 1;
		p = t_page(iso.space, mem + off);
		if ((before & 1) && iso.period == before && p.present) {
			MUST(p.pfn < lo || p.pfn >= hi);
			iso.got_while_isolated++;
		}
		iso.got++;
		MUST_OK(vac_advise(iso.space, mem, MIB(2), VAC_ADV_DONTNEED));
		m->team->rounds++;
	}
}

/* From the moment that a block is offline until it is online again nothing is ever placed there;
 * and every counter is as it was after every cycle. */
static void test_offline_hammer(void **state UNUSED)
{
	struct team t;
	uint64_t end;
	unsigned cycles = 0;

	memset(&iso, 0, sizeof(iso));
	iso.pool = t_pool(MIB(4), 6);
	iso.space = t_space(iso.pool, MIB(16));
	iso.mem = t_map(iso.space, MIB(8), 0);
	team_start(&t, 4, touch_and_drop, NULL);
	for (end = t_ms() + scaled(4000); t_ms() < end || iso.got_while_isolated < 5; cycles++) {
		int id = (int)(cycles % 6);

		MUST(t_offline(iso.pool, id, 20000, NULL) == 0);
		iso.lo = (uint32_t)id * 1024;
		iso.hi = iso.lo + 1024;
		iso.period++;
		MUST(t_block(iso.pool, id).fd == -1);
		sleep_ms(1);
		iso.period++;
		if (cycles % 2) {
			MUST_OK(vac_block_remove(iso.pool, id));
			MUST(vac_block_add(iso.pool, NULL) == id);
		}
		MUST(t_online(iso.pool, id) == 0);
	}
	team_stop(&t);
	assert_int_equal(sums(iso.pool).frames_free, 6 * 1024);
	t_close(iso.pool);
}

/* ---- A thousand cycles --------------------------------------------------------------------------------- */

static void cycles(size_t block_bytes, unsigned n)
{
	struct vac_pool *pool = t_pool(block_bytes, 3);
	struct vac_space *s = t_space(pool, 4 * block_bytes);
	char *mem = t_map(s, block_bytes + MIB(1), 0);
	struct vac_pool_stats before, after;
	unsigned fds;

	pat_fill(mem, MIB(1), 7); /* base and huge, and holes */
	pat_fill(mem + block_bytes, MIB(1) / 2, 8);
	assert_ok(vac_unmap(s, mem + MIB(1) / 2, MIB(1) / 4));
	for (int id = 0; id < 3; id++) { /* what a first round changes for good, it changes here */
		assert_ok(t_offline(pool, id, 0, NULL));
		assert_ok(t_online(pool, id));
	}
	before = sums(pool);
	fds = fds_total();
	for (unsigned i = 0; i < n; i++) {
		int id = (int)(i % 3);

		assert_ok(t_offline(pool, id, 0, NULL));
		after = sums(pool);
		assert_int_equal(after.frames_total, before.frames_total / 3 * 2);
		assert_int_equal(after.frames_used, before.frames_used);
		assert_int_equal(after.frames_isolated, 0);
		assert_int_equal(after.blocks_online, 2);
		assert_ok(t_online(pool, id));
		after = sums(pool);
		assert_int_equal(after.frames_total, before.frames_total);
		assert_int_equal(after.frames_used, before.frames_used);
		assert_int_equal(after.frames_free + after.frames_reserved,
				 before.frames_free + before.frames_reserved);
		if (i % 50 == 0)
			t_check(pool);
	}
	assert_int_equal(fds_total(), fds);
	assert_int_equal(after.host_vmas, before.host_vmas);
	assert_int_equal(after.dangling, 0);
	assert_int_equal(pat_bad(mem, MIB(1) / 2, 7), -1);
	assert_int_equal(pat_bad(mem + block_bytes, MIB(1) / 2, 8), -1);
	t_close(pool);
}

static void test_cycles(void **state UNUSED)
{
	cycles(MIB(2), scaled(600));
	cycles(MIB(4), scaled(300));
	cycles(MIB(8), scaled(100));
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_reservation),
		cmocka_unit_test(test_reservation_sparse),
		cmocka_unit_test(test_reservation_pressure),
		cmocka_unit_test(test_zones),
		cmocka_unit_test(test_reuse),
		cmocka_unit_test(test_isolate_hammer),
		cmocka_unit_test(test_offline_hammer),
		cmocka_unit_test(test_cycles),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

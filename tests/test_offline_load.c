/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Blocks leave while threads write, read, transfer and change the mappings of all that is in them; every
 * byte is checked.
 */
#include "tests/util.h"

#include "port/linux/linux.h"
#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

/*
 * The bytes. A page is 512 words. Word 0 is added to by all; word 1 + n, and as many more from there
 * as STRIPE says, belong to thread n, which knows what it has written last; the last word is the
 * device's. So a write that is lost, late, torn, or of another page is seen by its writer.
 */
#define LOAD_PAGES 1400u /* two pageblocks and most of a third */
#define LOAD_WRITERS 3u
#define STRIPE 40u
#define DEVICE_WORD 511u

struct load {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	bool normal;
	_Atomic uint64_t added[LOAD_PAGES];
};

static _Atomic uint64_t *word_at(const struct load *l, unsigned page, unsigned w)
{
	return (_Atomic uint64_t *)(l->mem + page * P) + w;
}

static void load_writer(struct member *m)
{
	struct load *l = m->arg;
	uint32_t *mine = calloc(LOAD_PAGES * STRIPE, sizeof(*mine));
	unsigned first = 1 + m->nr * STRIPE;

	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd);
		unsigned page = (unsigned)(r % LOAD_PAGES), n = 1 + (unsigned)(r >> 20) % STRIPE;

		for (unsigned i = 0; i < n; i++) {
			uint32_t *k = &mine[page * STRIPE + i];
			_Atomic uint64_t *w = word_at(l, page, first + i);
			uint64_t was = *k ? (uint64_t)page << 32 | *k : 0;

			MUST(*w == was);
			++*k;
			*w = (uint64_t)page << 32 | *k;
		}
		atomic_fetch_add(word_at(l, page, 0), 1);
		l->added[page]++;
		m->team->rounds++;
	}
	for (unsigned page = 0; page < LOAD_PAGES; page++)
		for (unsigned i = 0; i < STRIPE; i++) {
			uint32_t k = mine[page * STRIPE + i];

			MUST(*word_at(l, page, first + i) == (k ? (uint64_t)page << 32 | k : 0));
		}
	free(mine);
}

/* Sees every word only go forward, and never that of another page. */
static void load_reader(struct member *m)
{
	struct load *l = m->arg;
	uint64_t *last = calloc(LOAD_PAGES * 4, sizeof(*last));

	while (!m->team->stop) {
		unsigned page = (unsigned)(rnd(&m->rnd) % LOAD_PAGES);

		for (unsigned k = 0; k < 4; k++) {
			uint64_t v = *word_at(l, page, k == 3 ? 0 : 1 + k * STRIPE);

			MUST(v >= last[page * 4 + k]);
			MUST(k == 3 || v == 0 || v >> 32 == page);
			last[page * 4 + k] = v;
		}
		m->team->rounds++;
	}
	free(last);
}

/* A device: it is told the frames, not the addresses, and writes there while the pin lasts. */
static void load_device(struct member *m)
{
	struct load *l = m->arg;
	uint64_t *mine = calloc(LOAD_PAGES, sizeof(*mine));

	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd), pin;
		unsigned page = (unsigned)(r % (LOAD_PAGES - 4)), n = 1 + (unsigned)(r >> 20) % 4;
		uint32_t pfn[4];

		/* Only one device writes a page: they take turns by the number of the page. */
		page = page / 8 * 8 + m->nr * 4;
		if (page + 4 > LOAD_PAGES)
			continue;
		pin = t_pin(l->space, l->mem + page * P, n * P, VAC_PIN_WRITE, "device");
		for (unsigned i = 0; i < n; i++)
			pfn[i] = (uint32_t)t_page(l->space, l->mem + (page + i) * P).pfn;
		if (r >> 40 & 1)
			sched_yield();
		for (unsigned i = 0; i < n; i++) {
			_Atomic uint64_t *w = vac__frame_addr(l->pool, pfn[i]);

			MUST(w[DEVICE_WORD] == mine[page + i]);
			w[DEVICE_WORD] = ++mine[page + i];
			MUST(*word_at(l, page + i, DEVICE_WORD) == mine[page + i]);
			MUST(t_page(l->space, l->mem + (page + i) * P).pfn == pfn[i]);
		}
		MUST_OK(vac_unpin(l->pool, pin));
		m->team->rounds++;
	}
	for (unsigned page = 0; page < LOAD_PAGES; page++)
		if (page / 4 % 2 == m->nr)
			MUST(*word_at(l, page, DEVICE_WORD) == mine[page]);
	free(mine);
}

static void load_member(struct member *m)
{
	struct member self = *m;

	if (m->nr < LOAD_WRITERS) {
		load_writer(m);
	} else if (m->nr < LOAD_WRITERS + 2) {
		self.nr = m->nr - LOAD_WRITERS;
		load_device(&self);
	} else {
		load_reader(m);
	}
}

static void load(uint32_t pool_flags, unsigned map_flags, bool mixed, bool normal)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct load *l = calloc(1, sizeof(*l));
	struct team t;
	uint64_t end;
	unsigned rounds = 0;

	o.flags = pool_flags;
	o.gate_timeout_ms = 1000;
	l->pool = t_open(&o, normal ? 0 : 4);
	for (int id = 0; normal && id < 4; id++) {
		assert_int_equal(vac_block_add(l->pool, NULL), id);
		assert_ok(
			vac_block_online(l->pool, id, id % 2 ? VAC_ZONE_NORMAL : VAC_ZONE_MOVABLE));
	}
	l->space = t_space(l->pool, MIB(8));
	l->mem = t_map(l->space, LOAD_PAGES * P, map_flags);
	if (mixed) {
		assert_ok(vac_advise(l->space, l->mem, HUGE, VAC_ADV_NOHUGE));
		assert_ok(vac_protect(l->space, l->mem + HUGE + 5 * P, 7 * P, RW));
	}
	team_start(&t, LOAD_WRITERS + 2 + 2, load_member, l);
	for (end = t_ms() + scaled(2000); t_ms() < end; rounds++)
		t_round_of_offlines(l->pool, 4);
	team_rounds(&t, 100);
	team_stop(&t);
	for (unsigned page = 0; page < LOAD_PAGES; page++)
		assert_true(*word_at(l, page, 0) == l->added[page]);
	assert_true(rounds > 0 && t_stats(l->pool).migrate_folios > 0);
	assert_int_equal(t_stats(l->pool).dangling, 0);
	t_close(l->pool);
	free(l);
}

static void test_load_base(void **state UNUSED)
{
	load(0, VAC_MAP_NOHUGE, false, false);
}

static void test_load_base_only(void **state UNUSED)
{
	load(VAC_POOL_NO_HUGE | VAC_POOL_BASE_ONLY, 0, false, false);
}

static void test_load_huge(void **state UNUSED)
{
	load(0, 0, false, false);
}

static void test_load_huge_on_base_pages(void **state UNUSED)
{
	load(VAC_POOL_NO_HUGE, 0, false, true);
}

static void test_load_mixed(void **state UNUSED)
{
	load(0, 0, true, false);
}

static void test_load_normal(void **state UNUSED)
{
	load(VAC_POOL_STACKS, VAC_MAP_NOHUGE, false, true);
}

/* Ranges that are larger than a run, smaller, and across them, mapped and unmapped, protected and
 * filled, while all of it is on its way. Then nothing is left half gone: entries (t_check) or, in the
 * port, runs that are thought to be leaving. */
static void rip(struct member *m)
{
	struct load *l = m->arg;

	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd);
		size_t first = r % 700 + m->nr * 768, n = 1 + (r >> 20) % (768 - r % 700);
		char *at = l->mem + first * P;
		int what = (int)(r >> 50 & 3);
		void *out;

		if (what == 0) {
			MUST_OK(vac_unmap(l->space, at, n * P));
			MUST_OK(vac_map(l->space, at, n * P, RW, VAC_MAP_FIXED, &out));
		} else if (what == 1) {
			MUST_OK(vac_protect(l->space, at, n * P, VAC_PROT_READ));
			MUST_OK(vac_protect(l->space, at, n * P, RW));
		} else if (what == 2) {
			MUST_OK(vac_advise(l->space, at, n * P, VAC_ADV_DONTNEED));
			MUST(zero_bad(at, n * P) == -1);
		} else {
			pat_fill(at, n * P, r);
			sched_yield();
			MUST(pat_bad(at, n * P, r) == -1);
		}
		m->team->rounds++;
	}
}

static void test_load_ripped(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct load *l = calloc(1, sizeof(*l));
	struct team t;
	uint64_t end;

	o.gate_timeout_ms = 5000; /* nothing is pinned, so nothing can be busy for good */
	l->pool = t_open(&o, 5);
	l->space = t_space(l->pool, MIB(10));
	l->mem = t_map(l->space, 3 * 768 * P, 0);
	assert_ok(vac_advise(l->space, l->mem, MIB(2), VAC_ADV_NOHUGE));
	team_start(&t, 3, rip, l);
	for (end = t_ms() + scaled(3000); t_ms() < end;)
		t_round_of_offlines(l->pool, 5);
	team_stop(&t);
	for (size_t page = 0; page < 3 * 768; page++)
		assert_int_equal(vac__edge_colour((uintptr_t)l->mem + page * P), 0);
	assert_int_equal(t_stats(l->pool).dangling, 0);
	t_close(l->pool);
	free(l);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load_base),   cmocka_unit_test(test_load_base_only),
		cmocka_unit_test(test_load_huge),   cmocka_unit_test(test_load_huge_on_base_pages),
		cmocka_unit_test(test_load_mixed),  cmocka_unit_test(test_load_normal),
		cmocka_unit_test(test_load_ripped),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

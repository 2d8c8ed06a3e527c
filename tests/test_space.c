/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/space.c, map.c, split.c and fault.c: what the calls on a space mean, against a naive model of
 * every byte; and the budget of host mappings.
 */
#include "tests/util.h"

#include <sched.h>

#include "src/internal.h"

#define PAGE_OF(p, n) ((p) + (size_t)(n)*VAC_PAGE_BYTES)
#define PB_PAGES 512u

/* ---- Mapping -------------------------------------------------------------------------------------- */

static void *map_at(struct vac_space *s, void *addr, size_t len, int prot, unsigned flags, int want)
{
	void *p = NULL;

	assert_int_equal(vac_map(s, addr, len, prot, flags | (addr ? VAC_MAP_FIXED : 0), &p), want);
	if (want == 0 && addr)
		assert_ptr_equal(p, addr);
	return p;
}

static void test_addresses(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *base = vac_space_base(s), *p, *q;

	assert_int_equal((uintptr_t)base % VAC_PAGEBLOCK_BYTES, 0);
	assert_int_equal(vac_space_bytes(s), MIB(8));
	p = map_at(s, NULL, 4096, RW, 0, 0);
	q = map_at(s, NULL, MIB(2), RW, 0, 0);
	assert_true(p >= base && p < base + MIB(8));
	assert_int_equal((uintptr_t)q % VAC_PAGEBLOCK_BYTES, 0);
	assert_true(q >= p + 4096 || q + MIB(2) <= p);
	map_at(s, NULL, MIB(8), RW, 0, -ENOMEM); /* not in one piece any more */
	map_at(s, NULL, MIB(16), RW, 0, -ENOMEM);
	map_at(s, p, 4096, RW, 0, -EEXIST);
	map_at(s, q - 4096, 3 * 4096, RW, 0, -EEXIST);
	map_at(s, q + MIB(2) - 4096, 2 * 4096, RW, 0, -EEXIST);
	map_at(s, base, MIB(8), RW, 0, -EEXIST);
	assert_ok(vac_unmap(s, base, MIB(8))); /* holes are no error */
	map_at(s, base, MIB(8), RW, 0, 0);     /* and all of it is free now */
	map_at(s, NULL, 4096, RW, 0, -ENOMEM);
	assert_ok(vac_unmap(s, base + MIB(3), 4096));
	assert_ptr_equal(map_at(s, NULL, 4096, RW, 0, 0), base + MIB(3)); /* the one hole */
	t_close(pool);
}

static void test_zeroes(void **state UNUSED)
{
	static const unsigned flags[] = {0, VAC_MAP_NOHUGE, VAC_MAP_POPULATE,
					 VAC_MAP_NOHUGE | VAC_MAP_POPULATE};
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(16));

	for (unsigned i = 0; i < 4 * COUNT(flags); i++) {
		unsigned f = flags[i % COUNT(flags)];
		char *p = t_map(s, MIB(4) + 8192, f);

		if (f & VAC_MAP_POPULATE)
			assert_int_equal(t_stats(pool).frames_used, 1024 + 2);
		else
			assert_int_equal(t_stats(pool).frames_used, 0);
		if (i >= COUNT(flags) * 2)
			p[MIB(4) + 4096] = 1, p[MIB(4) + 4096] = 0; /* a write first, then reads */
		assert_int_equal(zero_bad(p, MIB(4) + 8192), -1);
		pat_fill(p, MIB(4) + 8192, i);
		assert_int_equal(pat_bad(p, MIB(4) + 8192, i), -1);
		assert_ok(vac_advise(s, p + 4096, MIB(3), VAC_ADV_DONTNEED));
		assert_int_equal(zero_bad(p + 4096, MIB(3)), -1);
		assert_int_equal(pat_bad(p, 4096, i), -1);
		assert_ok(vac_unmap(s, p, MIB(4) + 8192));
		assert_false(can_read(p));
		assert_int_equal(t_stats(pool).frames_used, 0);
	}
	t_close(pool);
}

/* Which folios come: huge for each whole pageblock inside the mapping, else base, a window at a time. */
static void test_folios(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(8));
	struct vac_pool *pool = t_open(&o, 2);
	struct vac_space *s = t_space(pool, MIB(16));
	char *base = vac_space_base(s), *p;

	p = map_at(s, base + MIB(1), MIB(4), RW, 0, 0); /* half, whole, half */
	for (size_t off = 0; off < MIB(4); off += 4096)
		p[off] = 1;
	for (size_t off = 0; off < MIB(4); off += 4096)
		assert_int_equal(t_page(s, p + off).huge, off >= MIB(1) && off < MIB(3));
	assert_int_equal(t_stats(pool).frames_used, 1024);
	assert_ok(vac_unmap(s, p, MIB(4)));

	p = map_at(s, base, MIB(2), RW, VAC_MAP_NOHUGE, 0);
	p[MIB(1)] = 1; /* the default window, 64 KiB, aligned */
	assert_int_equal(t_stats(pool).frames_used, 16);
	assert_int_equal(t_page(s, p + MIB(1)).present, 1);
	assert_int_equal(t_page(s, p + MIB(1) + 0xf000).present, 1);
	assert_int_equal(t_page(s, p + MIB(1) + 0x10000).present, 0);
	assert_int_equal(t_page(s, p + MIB(1) + 0x10000).block, -1);
	assert_int_equal(t_page(s, p + MIB(1) - 4096).present, 0);
	assert_ok(vac_unmap(s, p, MIB(2)));

	p = map_at(s, base, MIB(4), RW, VAC_MAP_NOHUGE, 0);
	assert_ok(vac_advise(s, p, MIB(4), VAC_ADV_HUGE));
	assert_ok(vac_advise(s, p + MIB(2), MIB(2), VAC_ADV_NOHUGE));
	p[0] = p[MIB(2)] = 1;
	assert_int_equal(t_page(s, p).huge, 1);
	assert_int_equal(t_page(s, p + MIB(2)).huge, 0);
	assert_ok(vac_advise(s, p, MIB(2), VAC_ADV_NOHUGE)); /* what is there stays */
	assert_int_equal(t_page(s, p).huge, 1);
	t_close(pool);

	o.flags = VAC_POOL_BASE_ONLY;
	o.fault_bytes = 4096;
	pool = t_open(&o, 1);
	s = t_space(pool, MIB(4));
	p = t_map(s, MIB(2), 0);
	p[5] = 1;
	assert_int_equal(t_page(s, p).huge, 0);
	assert_int_equal(t_stats(pool).frames_used, 1);
	t_close(pool);
}

static void test_page_info(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *base = vac_space_base(s), *p = map_at(s, base + 4096, MIB(1), RW, 0, 0);
	struct vac_page_info i = VAC_INIT(struct vac_page_info);

	assert_int_equal(vac_page_info(s, base, &i), -EFAULT);
	assert_int_equal(vac_page_info(s, p + MIB(1), &i), -EFAULT);
	assert_int_equal(vac_page_info(s, base - 1, &i), -EFAULT);
	assert_int_equal(vac_page_info(s, base + MIB(4), &i), -EFAULT);
	assert_ok(vac_page_info(s, p + MIB(1) - 1, &i)); /* no alignment asked */
	assert_int_equal(i.present, 0);
	p[0] = 1;
	i = t_page(s, p + 123);
	assert_int_equal(i.present, 1);
	assert_int_equal(i.huge, 0);
	assert_int_equal(i.block, 0);
	assert_int_equal(i.pfn >> 10, 0);
	assert_int_equal(i.refs, 0);
	assert_int_equal(i.pins, 0);
	assert_int_equal(i.map, 1);
	i.size = 3;
	assert_int_equal(vac_page_info(s, p, &i), -EINVAL);
	assert_int_equal(vac_page_info(s, p, NULL), -EINVAL);
	t_close(pool);
}

/* ---- Splits ------------------------------------------------------------------------------------------ */

enum cut { CUT_UNMAP, CUT_PROTECT, CUT_DONTNEED, CUTS };

/* Every place to cut a huge folio at, by every call that can: what is left is base pages, every byte
 * outside the range is as before, inside it what the call says. */
static void test_split(void **state UNUSED)
{
	static const struct {
		unsigned first, n;
	} where[] = {{0, 1},   {511, 1}, {1, 510},   {0, 511},
		     {1, 511}, {255, 2}, {256, 256}, {0, 256}};
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *p = map_at(s, vac_space_base(s), MIB(4), RW, 0, 0);
	uint64_t splits = 0;
	char *ref = malloc(MIB(4));

	for (unsigned i = 0; i < COUNT(where) * CUTS; i++) {
		unsigned first = where[i / CUTS].first, n = where[i / CUTS].n;
		char *at = PAGE_OF(p + MIB(2), first);
		size_t len = n * VAC_PAGE_BYTES;

		pat_fill(p, MIB(4), i);
		memcpy(ref, p, MIB(4));
		assert_int_equal(t_page(s, p + MIB(2)).huge, 1);
		if (i % CUTS == CUT_UNMAP)
			assert_ok(vac_unmap(s, at, len));
		else if (i % CUTS == CUT_PROTECT)
			assert_ok(vac_protect(s, at, len, VAC_PROT_READ));
		else
			assert_ok(vac_advise(s, at, len, VAC_ADV_DONTNEED));
		assert_int_equal(t_stats(pool).splits, ++splits); /* one split serves both ends */
		assert_int_equal(t_page(s, p).huge, 1);
		for (unsigned k = 0; k < PB_PAGES; k++) {
			bool in = k >= first && k < first + n;
			char *q = PAGE_OF(p + MIB(2), k);

			assert_int_equal(can_read(q), !in || i % CUTS != CUT_UNMAP);
			assert_int_equal(can_write(q), !in || i % CUTS == CUT_DONTNEED);
			if (in && i % CUTS == CUT_UNMAP)
				continue;
			assert_int_equal(t_page(s, q).huge, 0);
			if (in && i % CUTS == CUT_DONTNEED) {
				assert_int_equal(zero_bad(q, 4096), -1);
				memset(q, 1, 4096);
			} else {
				assert_memory_equal(q, ref + (q - p), 4096);
			}
		}
		t_check(pool);
		assert_ok(vac_unmap(s, p, MIB(4)));
		assert_int_equal(t_stats(pool).frames_used, 0);
		map_at(s, p, MIB(4), RW, 0, 0);
	}
	free(ref);
	t_close(pool);
}

/* ---- Rights ------------------------------------------------------------------------------------------- */

static void test_rights(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(16));

	for (int huge = 0; huge < 2; huge++) {
		char *p = t_map(s, MIB(2), huge ? 0 : VAC_MAP_NOHUGE);
		char *ro = map_at(s, NULL, MIB(2), VAC_PROT_READ, huge ? 0 : VAC_MAP_NOHUGE, 0);
		char *no = map_at(s, NULL, MIB(2), VAC_PROT_NONE, VAC_MAP_POPULATE, 0);
		char *wo = map_at(s, NULL, MIB(2), VAC_PROT_WRITE, 0, 0);

		assert_true(can_read(ro) && !can_write(ro) && !can_write(ro + MIB(1)));
		assert_int_equal(zero_bad(ro, MIB(2)), -1);
		assert_true(!can_read(no) && !can_write(no));
		assert_true(can_write(wo)); /* and, as on the hosts we know, read */
		assert_true(can_read(wo));
		pat_fill(p, MIB(2), 1);
		for (int i = 0; i < 3; i++) {
			assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ));
			assert_true(can_read(p) && !can_write(p) && !can_write(p + MIB(2) - 1));
			assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_NONE));
			assert_true(!can_read(p) && !can_write(p));
			assert_ok(vac_protect(s, p, MIB(2), RW));
			assert_true(can_write(p) && can_write(p + MIB(2) - 1));
			assert_int_equal(pat_bad(p, MIB(2), 1), -1);
		}
		/* Not there yet, and given rights: comes with those. */
		assert_ok(vac_protect(s, no, MIB(2), VAC_PROT_READ));
		assert_true(can_read(no) && !can_write(no));
		assert_ok(vac_protect(s, ro, MIB(2), RW));
		assert_true(can_write(ro));
		/* Rights survive the move of what they are on. */
		assert_ok(vac_protect(s, p, MIB(2), VAC_PROT_READ));
		for (int id = 0; id < 3; id++) {
			assert_ok(t_offline(pool, id, 0, NULL));
			assert_true(can_read(p) && !can_write(p) && can_read(no) && !can_write(no));
			assert_int_equal(pat_bad(p, MIB(2), 1), -1);
			assert_ok(t_online(pool, id));
		}
		assert_ok(vac_unmap(s, vac_space_base(s), vac_space_bytes(s)));
	}
	t_close(pool);
}

static void test_holes(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *p = map_at(s, vac_space_base(s), MIB(2), RW, VAC_MAP_NOHUGE | VAC_MAP_POPULATE, 0);
	struct vac_pool_stats st;

	pat_fill(p, MIB(2), 5);
	assert_ok(vac_unmap(s, p + MIB(1), 8192));
	/* A hole is an error of protect, before anything has changed; as of advice on mappings. */
	assert_int_equal(vac_protect(s, p, MIB(2), VAC_PROT_READ), -ENOMEM);
	assert_int_equal(vac_protect(s, p + MIB(1) + 4096, 8192, VAC_PROT_READ), -ENOMEM);
	assert_int_equal(vac_protect(s, p + MIB(2) - 4096, 8192, VAC_PROT_READ), -ENOMEM);
	assert_true(can_write(p) && can_write(p + MIB(2) - 1) && can_write(p + MIB(1) + 8192));
	assert_int_equal(vac_advise(s, p, MIB(2), VAC_ADV_HUGE), -ENOMEM);
	/* Not of these. */
	assert_ok(vac_advise(s, p + MIB(1) - 4096, 4 * 4096, VAC_ADV_DONTNEED));
	assert_int_equal(zero_bad(p + MIB(1) - 4096, 4096), -1);
	assert_int_equal(zero_bad(p + MIB(1) + 8192, 4096), -1);
	assert_ok(vac_advise(s, p, MIB(2), VAC_ADV_DONTNEED));
	/* What can be filled is, on both sides of the hole. */
	assert_int_equal(vac_advise(s, p, MIB(2), VAC_ADV_WILLNEED), -ENOMEM);
	st = t_stats(pool);
	assert_int_equal(st.frames_used, 510);
	assert_int_equal(zero_bad(p, MIB(1)), -1);
	assert_ok(vac_unmap(s, p, MIB(4)));
	assert_ok(vac_unmap(s, p, MIB(4)));
	t_close(pool);
}

/* A true SIGSEGV, with the true address, for a program without a handler: in a fresh one. */
static void touch_and_die(int what)
{
	struct vac_pool_opts po = t_opts(MIB(2));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool *pool;
	struct vac_space *s;
	void *p;

	so.bytes = MIB(4);
	MUST_OK(vac_pool_open(&po, &pool));
	MUST_OK(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	MUST_OK(vac_space_create(pool, &so, &s));
	MUST_OK(vac_map(s, NULL, MIB(2), RW, 0, &p));
	memset(p, 1, MIB(2));
	if (what == 0)
		MUST_OK(vac_protect(s, p, MIB(2), VAC_PROT_READ));
	else if (what == 1)
		MUST_OK(vac_protect(s, p, MIB(2), VAC_PROT_NONE));
	else if (what == 2)
		MUST_OK(vac_unmap(s, p, MIB(2)));
	else if (what == 3)
		MUST_OK(vac_space_destroy(s));
	else
		MUST_OK(vac_pool_close(pool));
	if (what == 1)
		_exit(*(volatile char *)p);
	*(volatile char *)p = 2;
	_exit(1);
}

static void case_read_only(void)
{
	touch_and_die(0);
}

static void case_no_access(void)
{
	touch_and_die(1);
}

static void case_unmapped(void)
{
	touch_and_die(2);
}

static void case_destroyed(void)
{
	touch_and_die(3);
}

static void case_closed(void)
{
	touch_and_die(4);
}

static const struct proc_case cases[] = {
	{"read_only", case_read_only}, {"no_access", case_no_access}, {"unmapped", case_unmapped},
	{"destroyed", case_destroyed}, {"closed", case_closed},
};

static void test_true_death(void **state UNUSED)
{
	char err[512];

	for (unsigned i = 0; i < COUNT(cases); i++) {
		int status = case_run(cases[i].name, err, sizeof(err));

		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
}

/* ---- Spaces -------------------------------------------------------------------------------------------- */

static void test_many_spaces(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 3);
	struct vac_space_opts o = VAC_INIT(struct vac_space_opts);
	static struct vac_space *s[4097];
	unsigned n = TSAN ? 300 : 4096;

	o.bytes = 1; /* rounded up */
	o.name = "one of many";
	for (unsigned i = 0; i < n; i++) {
		assert_ok(vac_space_create(pool, &o, &s[i]));
		assert_int_equal(vac_space_bytes(s[i]), MIB(2));
	}
	if (n == 4096)
		assert_int_equal(vac_space_create(pool, &o, &s[n]), -ENOSPC);
	assert_int_equal(t_stats(pool).spaces, n);
	for (unsigned i = 0; i < n; i += 7) {
		char *p = t_map(s[i], 4096, 0);

		*(unsigned *)p = i;
	}
	for (unsigned i = 3; i < n; i += 2)
		if (i % 7) {
			assert_ok(vac_space_destroy(s[i]));
			s[i] = NULL;
		}
	for (int id = 0; id < 3; id++) {
		assert_ok(t_offline(pool, id, 0, NULL));
		assert_ok(t_online(pool, id));
	}
	for (unsigned i = 0; i < n; i += 7)
		assert_int_equal(*(unsigned *)vac_space_base(s[i]), i);
	t_close(pool);
}

struct churn {
	struct vac_pool *pool;
};

/* Whole spaces come and go, each with memory of which every byte counts, */
static void space_churn(struct member *m)
{
	struct churn *c = m->arg;

	while (!m->team->stop) {
		struct vac_space_opts o = VAC_INIT(struct vac_space_opts);
		struct vac_space *s;
		uint64_t seed = rnd(&m->rnd), pin;
		void *p;

		o.bytes = MIB(4);
		MUST_OK(vac_space_create(c->pool, &o, &s));
		MUST_OK(vac_map(s, NULL, MIB(2), RW, seed % 2 ? VAC_MAP_NOHUGE : 0, &p));
		pat_fill(p, 64 << 10, seed);
		if (seed & 4) {
			MUST_OK(vac_pin(s, p, 9000, 0, "churn", &pin));
			MUST(vac_space_destroy(s) == -EBUSY);
			MUST(pat_bad(p, 64 << 10, seed) == -1);
			MUST_OK(vac_unpin(c->pool, pin));
		}
		MUST(pat_bad(p, 64 << 10, seed) == -1);
		MUST_OK(vac_space_destroy(s));
		m->team->rounds++;
	}
}

/* while blocks do, too. */
static void test_space_churn(void **state UNUSED)
{
	struct churn c = {t_pool(MIB(4), 5)};
	struct team t;
	uint64_t end;
	int id = 0;

	team_start(&t, 4, space_churn, &c);
	for (end = t_ms() + scaled(2000); t_ms() < end; id = (id + 1) % 5) {
		MUST(t_offline(c.pool, id, 30000, NULL) == 0);
		MUST(t_online(c.pool, id) == 0);
	}
	team_rounds(&t, 4);
	team_stop(&t);
	assert_int_equal(t_stats(c.pool).frames_used, 0);
	assert_int_equal(t_stats(c.pool).spaces, 0);
	t_close(c.pool);
}

/* ---- Threads on one page --------------------------------------------------------------------------------- */

static struct meeting crowd;
static char *crowd_mem;

static void touch_together(struct member *m)
{
	for (unsigned i = 0; i < 60; i++) {
		meet(&crowd, m->team->n);
		/* All on one pageblock, then each on a page of its own of another. */
		atomic_fetch_add((_Atomic uint32_t *)(crowd_mem + i * MIB(2)), 1);
		crowd_mem[i * MIB(2) + MIB(1) + m->nr * 4096 + 8] = 1;
	}
}

/* However many touch it first at once, it is filled once. */
static void test_touch_together(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(64), 2);
		struct vac_space *s = t_space(pool, MIB(120));
		struct team t;

		crowd_mem = t_map(s, MIB(120), huge ? 0 : VAC_MAP_NOHUGE);
		team_start(&t, 6, touch_together, NULL);
		team_join(&t);
		for (unsigned i = 0; i < 60; i++)
			assert_int_equal(*(uint32_t *)(crowd_mem + i * MIB(2)), 6);
		assert_int_equal(t_stats(pool).frames_used, huge ? 60 * 512 : 60 * 2 * 16);
		t_close(pool);
	}
}

/* ---- A model of every byte -------------------------------------------------------------------------------- */

#define MODEL_PAGES 1600u /* three pageblocks and a bit */

struct model {
	struct vac_pool *pool;
	struct vac_space *space;
	char *base, *bytes;       /* bytes: what must be there */
	int8_t prot[MODEL_PAGES]; /* -1: not mapped */
	uint64_t seed, *rnd;
	struct {
		uint64_t pin;
		unsigned first, n;
	} pin[3];
	unsigned long done;
};

static void model_init(struct model *m, struct vac_pool *pool, uint64_t *random)
{
	struct vac_space_opts o = VAC_INIT(struct vac_space_opts);

	memset(m, 0, sizeof(*m));
	m->pool = pool;
	m->rnd = random;
	o.bytes = MODEL_PAGES * VAC_PAGE_BYTES;
	MUST_OK(vac_space_create(pool, &o, &m->space));
	m->base = vac_space_base(m->space);
	m->bytes = calloc(MODEL_PAGES, VAC_PAGE_BYTES);
	memset(m->prot, -1, sizeof(m->prot));
}

static bool model_mapped(const struct model *m, unsigned first, unsigned n, bool all)
{
	unsigned yes = 0;

	for (unsigned i = first; i < first + n; i++)
		yes += m->prot[i] >= 0;
	return all ? yes == n : yes != 0;
}

static bool model_pinned(const struct model *m, unsigned first, unsigned n)
{
	/* A huge folio is pinned as a whole, so a pageblock more on either side. */
	unsigned lo = first / PB_PAGES * PB_PAGES,
		 hi = (first + n + PB_PAGES - 1) / PB_PAGES * PB_PAGES;

	for (unsigned i = 0; i < COUNT(m->pin); i++)
		if (m->pin[i].n && m->pin[i].first < hi && m->pin[i].first + m->pin[i].n > lo)
			return true;
	return false;
}

static void model_page(struct model *m, unsigned i)
{
	char *p = PAGE_OF(m->base, i);

	MUST(can_read(p) == (m->prot[i] > 0));
	MUST(can_write(p) == (m->prot[i] > 0 && (m->prot[i] & VAC_PROT_WRITE)));
	if (m->prot[i] > 0)
		MUST(memcmp(p, PAGE_OF(m->bytes, i), VAC_PAGE_BYTES) == 0);
}

static void model_step(struct model *m)
{
	static const int prots[] = {RW, RW, RW, VAC_PROT_READ, VAC_PROT_NONE};
	uint64_t r = rnd(m->rnd);
	unsigned first, n, k, op = r % 16;
	int prot, want, got;
	void *out;
	char *at;

	r >>= 4;
	/* Ranges of all sizes, some of them whole pageblocks. */
	n = 1 + (unsigned)(r % (1u << (r / 8 % 11)));
	first = (unsigned)(rnd(m->rnd) % MODEL_PAGES);
	if (r >> 30 & 1) {
		first &= ~(PB_PAGES - 1);
		n = (n + PB_PAGES - 1) & ~(PB_PAGES - 1);
	}
	if (n > MODEL_PAGES - first)
		n = MODEL_PAGES - first;
	at = PAGE_OF(m->base, first);
	prot = prots[r / 64 % COUNT(prots)];
	switch (op) {
	case 0:
	case 1:
	case 2:
		want = model_mapped(m, first, n, false) ? -EEXIST : 0;
		got = vac_map(m->space, at, n * VAC_PAGE_BYTES, prot,
			      VAC_MAP_FIXED | (r >> 31 & 1 ? VAC_MAP_NOHUGE : 0) |
				      (r >> 32 & 1 ? VAC_MAP_POPULATE : 0),
			      &out);
		MUST(got == want);
		if (got == 0) {
			memset(&m->prot[first], prot, n);
			memset(PAGE_OF(m->bytes, first), 0, n * VAC_PAGE_BYTES);
		}
		break;
	case 3:
		if (model_pinned(m, first, n))
			break;
		MUST_OK(vac_unmap(m->space, at, n * VAC_PAGE_BYTES));
		memset(&m->prot[first], -1, n);
		break;
	case 4:
	case 5:
		if (model_pinned(m, first, n))
			break;
		want = model_mapped(m, first, n, true) ? 0 : -ENOMEM;
		MUST(vac_protect(m->space, at, n * VAC_PAGE_BYTES, prot) == want);
		if (want == 0)
			memset(&m->prot[first], prot, n);
		break;
	case 6:
		if (model_pinned(m, first, n))
			break;
		MUST_OK(vac_advise(m->space, at, n * VAC_PAGE_BYTES, VAC_ADV_DONTNEED));
		memset(PAGE_OF(m->bytes, first), 0, n * VAC_PAGE_BYTES);
		break;
	case 7:
		got = vac_advise(m->space, at, n * VAC_PAGE_BYTES, VAC_ADV_WILLNEED);
		want = model_mapped(m, first, n, true) ? 0 : -ENOMEM;
		/* What may not be touched at all is filled, or not. */
		MUST(got == want || (got == -ENOMEM && memchr(&m->prot[first], 0, n)));
		break;
	case 8:
		want = model_mapped(m, first, n, true) ? 0 : -ENOMEM;
		MUST(vac_advise(m->space, at, n * VAC_PAGE_BYTES,
				r >> 33 & 1 ? VAC_ADV_HUGE : VAC_ADV_NOHUGE) == want);
		break;
	case 9: /* take a pin, or let one go */
		k = (unsigned)(r / 128 % COUNT(m->pin));
		if (m->pin[k].n) {
			MUST_OK(vac_unpin(m->pool, m->pin[k].pin));
			m->pin[k].n = 0;
			break;
		}
		if (n > 40)
			n = 40;
		for (unsigned i = first, i_want = 1; i < first + n; i++) {
			i_want &= m->prot[i] > 0;
			want = i_want ? 0 : -EFAULT;
		}
		MUST(vac_pin(m->space, at + 5, n * VAC_PAGE_BYTES - 10, VAC_PIN_READ, "model",
			     &m->pin[k].pin) == want);
		m->pin[k].first = first;
		m->pin[k].n = want == 0 ? n : 0;
		break;
	default: /* write somewhere, look somewhere else */
		for (k = first; k < first + n && k < first + 32; k++) {
			size_t off = rnd(m->rnd) % VAC_PAGE_BYTES;

			if (m->prot[k] <= 0 || !(m->prot[k] & VAC_PROT_WRITE))
				continue;
			PAGE_OF(m->base, k)[off] = PAGE_OF(m->bytes, k)[off] = (char)rnd(m->rnd);
		}
		for (unsigned i = 0; i < 4; i++)
			model_page(m, (unsigned)(rnd(m->rnd) % MODEL_PAGES));
	}
	m->done++;
}

static void model_end(struct model *m)
{
	for (unsigned i = 0; i < MODEL_PAGES; i++)
		model_page(m, i);
	for (unsigned i = 0; i < COUNT(m->pin); i++)
		if (m->pin[i].n)
			MUST_OK(vac_unpin(m->pool, m->pin[i].pin));
	for (unsigned i = 0; i < MODEL_PAGES; i++)
		model_page(m, i);
	MUST_OK(vac_space_destroy(m->space));
	free(m->bytes);
}

/* What is booked of host mappings is never less than what there is. */
static void assert_booked(struct vac_pool *pool, uint64_t booked0, unsigned maps0)
{
	uint64_t booked = t_stats(pool).host_vmas - booked0;

	if (ASAN || TSAN)
		return; /* those map as they like */
	assert_true((int)(maps_total() - maps0) <= (int)booked);
}

static void test_model(void **state UNUSED)
{
	uint64_t random = t_seed(11), booked;
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *pool;
	struct model *m = malloc(sizeof(*m));
	unsigned maps;

	free(malloc(MODEL_PAGES * VAC_PAGE_BYTES)); /* its own mapping comes and goes */
	o.fault_bytes = 16384;
	pool = t_open(&o, 8);
	maps = maps_total();
	booked = t_stats(pool).host_vmas;
	model_init(m, pool, &random);
	for (unsigned i = 0; i < scaled(12000); i++) {
		model_step(m);
		if (i % 20 == 0) {
			int id = (int)(rnd(&random) % 8);
			int r = t_offline(pool, id, 40, NULL);

			assert_true(r == 0 || r == -EBUSY); /* a pin of ours */
			if (r == 0)
				assert_ok(t_online(pool, id));
		}
		if (i % 100 == 0) {
			t_check(pool);
			assert_booked(pool, booked, maps + 1);
		}
		if (i % 1000 == 0)
			for (unsigned k = 0; k < MODEL_PAGES; k++)
				model_page(m, k);
	}
	model_end(m);
	assert_int_equal(t_stats(pool).host_vmas, booked);
	assert_int_equal(t_stats(pool).dangling, 0);
	free(m);
	t_close(pool);
}

static void model_thread(struct member *m)
{
	struct churn *c = m->arg;
	struct model *model = malloc(sizeof(*model));

	model_init(model, c->pool, &m->rnd);
	while (!m->team->stop) {
		model_step(model);
		m->team->rounds++;
	}
	model_end(model);
	free(model);
}

/* The same by three threads, each with a space of its own, while blocks come and go all the time. */
static void test_model_threads(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct churn c;
	struct team t;
	uint64_t end;
	unsigned n = 0, ok = 0;

	o.fault_bytes = 16384;
	o.gate_timeout_ms = 100;
	c.pool = t_open(&o, 12);
	team_start(&t, 3, model_thread, &c);
	for (end = t_ms() + scaled(5000); t_ms() < end; n++) {
		int id = (int)(n % 12), r = t_offline(c.pool, id, 100, NULL);

		MUST(r == 0 || r == -EBUSY || r == -ETIMEDOUT);
		if (r == 0) {
			MUST(t_online(c.pool, id) == 0);
			ok++;
		}
	}
	team_stop(&t);
	assert_true(ok > n / 10);
	assert_int_equal(t_stats(c.pool).frames_used, 0);
	assert_int_equal(t_stats(c.pool).dangling, 0);
	t_close(c.pool);
}

/* ---- The budget of host mappings --------------------------------------------------------------------------- */

static long taken;

/* Leave only so many mappings of the budget, as if the rest were in use. */
static void leave_budget(uint64_t n)
{
	for (taken = 0; vac__port_vma_charge(1, false);)
		taken++;
	vac__port_vma_charge(-(long)n, true);
	taken -= (long)n;
}

static void give_budget_back(void)
{
	vac__port_vma_charge(-taken, true);
	taken = 0;
}

static int teardown_budget(void **state UNUSED)
{
	give_budget_back(); /* where the test has failed */
	return 0;
}

static bool within_budget(struct vac_pool *pool)
{
	struct vac_pool_stats s = t_stats(pool);

	return s.host_vmas <= s.host_vma_limit;
}

/* Every other page of a large mapping, in truth: more than vm.max_map_count would bear one by one.
 * All of them come, because pages are filled in by the pageblock when mappings run short; and what
 * is booked bounds what there is, which stays within the limit. */
static void test_budget_touch(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(64));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_pool_stats st;
	unsigned maps, pages = scaled(150000);
	char *p;

	o.fault_bytes = 4096;
	pool = t_open(&o, 11);
	s = t_space(pool, MIB(640));
	maps = maps_total();
	st = t_stats(pool);
	p = t_map(s, pages * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < pages; i += 2) {
		PAGE_OF(p, i)[1] = (char)i;
		if (i % 20000 == 0) {
			assert_true(within_budget(pool));
			assert_booked(pool, st.host_vmas, maps);
		}
	}
	assert_true(within_budget(pool));
	assert_true(maps_total() <= t_stats(pool).host_vma_limit + maps);
	assert_booked(pool, st.host_vmas, maps);
	for (unsigned i = 0; i < pages; i += 2)
		assert_int_equal(PAGE_OF(p, i)[1], (char)i);
	t_check(pool);
	assert_ok(vac_unmap(s, p, pages * VAC_PAGE_BYTES));
	assert_int_equal(t_stats(pool).host_vmas, st.host_vmas);
	t_close(pool);
}

/* Frames that lie nowhere together need a mapping each: -ENOMEM before the budget is overrun. */
static void test_budget_scattered(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(64));
	unsigned filled = 0;
	char *p;

	/* Of 4096 frames each second one is free. */
	p = t_map(s, MIB(16), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	for (size_t off = 0; off < MIB(16); off += 8192)
		assert_ok(vac_unmap(s, p + off, 4096));
	leave_budget(700);
	p = t_map(s, MIB(4), VAC_MAP_NOHUGE | VAC_MAP_POPULATE); /* as far as it goes */
	for (unsigned i = 0; i < 1024; i++)
		filled += t_page(s, PAGE_OF(p, i)).present;
	assert_true(filled > 300 && filled < 1024);
	assert_true(within_budget(pool));
	assert_int_equal(vac_advise(s, p, MIB(4), VAC_ADV_WILLNEED), -ENOMEM);
	assert_true(within_budget(pool));
	t_check(pool);
	give_budget_back();
	for (unsigned i = 0; i < 1024; i++)
		assert_ok(vac_advise(s, PAGE_OF(p, i), 4096, VAC_ADV_WILLNEED));
	t_close(pool);
}

/* Rights that differ page by page divide a mapping: -ENOMEM, and nothing changed, not an overrun. */
static void test_budget_protect(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(8), VAC_MAP_POPULATE);
	unsigned done = 0, refused = 0;

	pat_fill(p, MIB(8), 3);
	leave_budget(300);
	for (unsigned i = 0; i < 2048; i += 2) {
		int r = vac_protect(s, PAGE_OF(p, i), 4096, VAC_PROT_READ);

		assert_true(r == 0 || r == -ENOMEM);
		assert_int_equal(can_write(PAGE_OF(p, i)), r != 0);
		done += r == 0;
		refused += r != 0;
		assert_true(within_budget(pool));
	}
	assert_true(done > 20 && refused > 20);
	assert_int_equal(pat_bad(p, MIB(8), 3), -1);
	t_check(pool);
	give_budget_back();
	t_close(pool);
}

static void test_budget_unmap(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(8), VAC_MAP_POPULATE);
	unsigned done = 0, refused = 0;

	leave_budget(300);
	for (unsigned i = 0; i < 2048; i += 2) {
		int r = i % 4 ? vac_unmap(s, PAGE_OF(p, i), 4096)
			      : vac_advise(s, PAGE_OF(p, i), 4096, VAC_ADV_DONTNEED);

		assert_true(r == 0 || r == -ENOMEM);
		assert_int_equal(t_page(s, PAGE_OF(p, i + 1)).present, 1);
		done += r == 0;
		refused += r != 0;
		assert_true(within_budget(pool));
	}
	assert_true(done > 20 && refused > 20);
	t_check(pool);
	/* Whole again is always to be had: it needs no mapping more. */
	assert_ok(vac_unmap(s, p, MIB(8)));
	give_budget_back();
	t_close(pool);
}

static int is_host_limit(void *ctx UNUSED, const struct vac_blocker *b)
{
	return b->cls == VAC_HELD_HOST_LIMIT ? 0 : (int)b->cls + 1;
}

/* Memory in one piece moves to where only single frames are free: it would need a mapping a page.
 * Where the budget does not bear that, it stays, and the report says why. */
static void test_budget_migrate(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(pool, MIB(64));
	struct vac_offline_result res;
	char *p, *all;
	int id;

	all = t_map(s, MIB(16), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	id = t_page(s, all).block;
	for (size_t off = 0; off < MIB(16);
	     off += 4096) { /* one block: all; the other: every second */
		int b = t_page(s, all + off).block;

		if (b == id || off / 4096 % 2)
			assert_ok(vac_unmap(s, all + off, 4096));
	}
	p = t_map(s, MIB(4), VAC_MAP_NOHUGE);
	pat_fill(p, MIB(4), 9);
	for (size_t off = 0; off < MIB(4); off += 4096)
		assert_int_equal(t_page(s, p + off).block, id);
	leave_budget(300);
	assert_int_equal(t_offline(pool, id, 1000, &res), -ETIMEDOUT); /* no pin is to blame */
	assert_true(within_budget(pool));
	assert_true(vac_report_count(res.report) > 0);
	assert_int_equal(vac_report_walk(res.report, is_host_limit, NULL), 0);
	vac_report_free(res.report);
	assert_int_equal(pat_bad(p, MIB(4), 9), -1);
	t_check(pool);
	give_budget_back();
	assert_ok(t_offline(pool, id, 0, NULL));
	assert_int_equal(pat_bad(p, MIB(4), 9), -1);
	t_close(pool);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_zeroes),
		cmocka_unit_test(test_folios),
		cmocka_unit_test(test_page_info),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_rights),
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_true_death),
		cmocka_unit_test(test_many_spaces),
		cmocka_unit_test(test_space_churn),
		cmocka_unit_test(test_touch_together),
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_model_threads),
		cmocka_unit_test(test_budget_touch),
		cmocka_unit_test_teardown(test_budget_scattered, teardown_budget),
		cmocka_unit_test_teardown(test_budget_protect, teardown_budget),
		cmocka_unit_test_teardown(test_budget_unmap, teardown_budget),
		cmocka_unit_test_teardown(test_budget_migrate, teardown_budget),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Snapshots and swap in one pool under load: more spaces than memory, all of them written and read, while blocks
 * leave and come back, pageblocks are compacted, and swap itself ends and begins.
 */
#include "tests/util.h"

#include <sched.h>

#include "tests/snapshots.h"

#define P VAC_PAGE_BYTES

/* What each page of a space has: its pattern's seed. */
struct model {
	struct vac_space *space;
	char *mem;
	uint32_t *seed;
};

static void write_page(struct model *m, uint32_t p, uint32_t seed)
{
	pat_fill(m->mem + (size_t)p * P, P, seed);
	m->seed[p] = seed;
}

static void check_pages(const struct model *m, uint32_t pages)
{
	for (uint32_t p = 0; p < pages; p++)
		MUST(pat_bad(m->mem + (size_t)p * P, P, m->seed[p]) == -1);
}

static struct model child_of(const struct model *m, uint32_t pages)
{
	struct model c = {.space = snap(m->space), .seed = malloc(pages * sizeof(*c.seed))};

	MUST(c.seed);
	memcpy(c.seed, m->seed, pages * sizeof(*c.seed));
	c.mem = in(m->space, m->mem, c.space);
	return c;
}

static void end_child(struct model *m)
{
	if (m->space)
		assert_ok(vac_space_destroy(m->space));
	free(m->seed);
	*m = (struct model){0};
}

/* ---- The program of 2010 --------------------------------------------------------------------- */

struct mover {
	struct vac_pool *pool;
	int blocks;
};

/* Blocks leave and come back, and pageblocks are gathered, without a pause. */
static void move(struct member *m)
{
	struct mover *v = m->arg;

	for (int id = 0; !m->team->stop; id = (id + 1) % v->blocks) {
		struct vac_offline_opts o = t_offline_opts(500, id % 2 ? VAC_OFFLINE_SWAP : 0);
		struct vac_compact_opts c = VAC_INIT(struct vac_compact_opts);
		int r = vac_block_offline(v->pool, id, &o, NULL);

		MUST(r == 0 || r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
		if (r == 0)
			MUST(t_online(v->pool, id) == 0);
		c.timeout_ms = 50;
		vac_pool_compact(v->pool, &c, NULL);
		atomic_fetch_add(&m->team->rounds, 1);
	}
}

/*
 * KAMEZAWA Hiroyuki's program of 2010: a parent with touched memory has children that rewrite some of it, and so
 * does it, while a migrator works; an entry was left behind in a child then. Here with half of the memory that it
 * would take, and every page of every child compared with what must be there.
 */
static void test_children_that_rewrite(void **state UNUSED)
{
	enum { ALIVE = 5, PAGES = 2048, REWRITTEN = 40 };
	unsigned rounds = TSAN || ASAN ? 10 : 30;
	struct vac_pool *pool = t_pool(MIB(2), 5);
	struct mover v = {.pool = pool, .blocks = 5};
	struct model parent = {.space = t_space(pool, MIB(8))}, child[ALIVE] = {{0}};
	uint64_t rnd_state = t_seed(1);
	static struct team mover;

	swap_file(pool, MIB(128));
	parent.seed = calloc(PAGES, sizeof(*parent.seed));
	MUST(parent.seed);
	parent.mem = t_map(parent.space, MIB(8), 0);
	for (uint32_t p = 0; p < PAGES; p++)
		write_page(&parent, p, p + 1);
	team_start(&mover, 1, move, &v);
	for (unsigned i = 0; i < rounds; i++) {
		struct model *c = &child[i % ALIVE];

		if (c->space)
			check_pages(c, PAGES);
		end_child(c);
		/* Of the parent, or of another child. */
		*c = child_of(i % 3 == 2 ? &child[(i - 1) % ALIVE] : &parent, PAGES);
		for (unsigned k = 0; k < REWRITTEN; k++) {
			uint64_t r = rnd(&rnd_state);

			write_page(c, (uint32_t)(r % PAGES), (uint32_t)(r >> 20) | 1);
			write_page(&parent, (uint32_t)(r >> 40) % PAGES, (uint32_t)(r >> 12) | 1);
		}
	}
	team_stop(&mover);
	check_pages(&parent, PAGES);
	t_check(pool);
	for (unsigned i = 0; i < ALIVE; i++) {
		check_pages(&child[i], PAGES);
		end_child(&child[i]);
	}
	assert_int_equal(t_stats(pool).dangling, 0);
	assert_true(t_stats(pool).swap_in > 0 && t_stats(pool).migrate_folios > 0);
	assert_true(atomic_load(&mover.rounds) > 2);
	t_check(pool);
	free(parent.seed);
	t_close(pool);
}

/* ---- The hang of 2025 ------------------------------------------------------------------------ */

/* Memory that several share, beyond what there is, with swap active; and a third of the blocks leaves: folios of
 * the swap cache that entries of other spaces name must not keep them. */
static void test_a_third_leaves(void **state UNUSED)
{
	size_t bytes = MIB(24);
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, bytes), *t, *u;
	char *p = t_map(s, bytes, 0), *q;
	struct vac_offline_opts o = t_offline_opts(30000, 0);

	swap_file(pool, 4 * bytes);
	pat_fill(p, bytes, 11);
	t = snap(s);
	q = in(s, p, t);
	pat_fill(p, bytes / 2, 12); /* a half is each one's own */
	u = snap(t);
	assert_int_equal(pat_bad(q, bytes, 11), -1);
	/* Some is mapped here and only named there. */
	assert_ok(vac_prefault(s, p + bytes / 2, bytes / 4, VAC_PROT_READ));
	assert_ok(vac_block_offline(pool, 1, &o, NULL));
	o.flags = VAC_OFFLINE_SWAP;
	assert_ok(vac_block_offline(pool, 4, &o, NULL));
	assert_int_equal(t_stats(pool).frames_total, MIB(16) / P);
	t_check(pool);
	assert_int_equal(pat_bad(in(s, p, u), bytes, 11), -1);
	assert_int_equal(pat_bad(q, bytes, 11), -1);
	assert_int_equal(pat_bad(p, bytes / 2, 12), -1);
	pat_fill(p, bytes, 13);
	assert_int_equal(pat_bad(q, bytes, 11), -1);
	assert_int_equal(pat_bad(p, bytes, 13), -1);
	t_check(pool);
	t_close(pool);
}

/* ---- Everything at once ---------------------------------------------------------------------- */

#define RECORDS 1536u /* pages, each one a record: words that all agree */
#define STEP 73u

static struct storm {
	struct vac_pool *pool;
	struct vac_space *s;
	char *p;
	_Atomic unsigned snaps, pins;
} st;

static _Atomic uint64_t *record(char *p, uint64_t i)
{
	return (_Atomic uint64_t *)(void *)(p + (size_t)(i % RECORDS) * P);
}

/* Each writer has pages of its own. */
static void writer(struct member *m)
{
	uint64_t *version = calloc(RECORDS, sizeof(*version));

	MUST(version);
	while (!m->team->stop) {
		uint64_t i = rnd(&m->rnd) % (RECORDS / 2) * 2 + m->nr % 2, n = 0;
		_Atomic uint64_t *r = record(st.p, i);

		for (unsigned k = 0; k < 512; k += STEP)
			n += r[k] == version[i];
		MUST(n == 512 / STEP + 1);
		if (rnd(&m->rnd) % 8 == 0) {
			MUST_OK(vac_protect(st.s, (void *)r, P, VAC_PROT_READ));
			MUST_OK(vac_protect(st.s, (void *)r, P, RW));
		}
		version[i]++;
		for (unsigned k = 0; k < 512; k += STEP)
			r[k] = version[i];
		m->team->rounds++;
	}
	free(version);
}

/* What a snapshot shows does not change, and a record is never newer at its end than at its start, as it is
 * written from the start. */
static uint64_t sum(char *q)
{
	uint64_t s = 0;

	for (uint64_t i = 0; i < RECORDS; i++) {
		uint64_t first = record(q, i)[0], last = record(q, i)[511 / STEP * STEP];

		MUST(first == last || first == last + 1);
		s = s * 31 + first * 3 + last;
	}
	return s;
}

static void snapper(struct member *m)
{
	while (!m->team->stop) {
		struct vac_space *t, *u = NULL;
		char *q, *look;
		uint64_t was;

		MUST_OK(vac_space_snapshot(st.s, NULL, &t));
		look = q = vac_space_translate(st.s, st.p, t);
		was = sum(q);
		if (rnd(&m->rnd) % 2 == 0) {
			MUST_OK(vac_space_snapshot(t, NULL, &u));
			look = vac_space_translate(t, q, u);
			/* Writes of ours, which it does not see. A writer may have had a page read-only. */
			MUST_OK(vac_protect(t, q, RECORDS * P, RW));
			for (unsigned n = 0; n < 20; n++)
				record(q, rnd(&m->rnd))[0] = UINT64_MAX / 2;
		}
		if (rnd(&m->rnd) % 4 == 0)
			swap_out(st.pool);
		MUST(sum(look) == was);
		if (u)
			MUST_OK(vac_space_destroy(u));
		MUST_OK(vac_space_destroy(t));
		st.snaps++;
		m->team->rounds++;
	}
}

static void pinner(struct member *m)
{
	while (!m->team->stop) {
		uint64_t i = rnd(&m->rnd) % (RECORDS - 1), pin;
		char *page = (char *)(void *)record(st.p, i);
		unsigned flags = rnd(&m->rnd) % 2 ? VAC_PIN_WRITE : 0;
		int r = vac_pin(st.s, page, 2 * P, flags, "storm", &pin);

		if (r == -EFAULT && flags)
			continue; /* a writer has it read-only just now */
		MUST_OK(r);
		MUST(t_page(st.s, page).pins && t_page(st.s, page).present == 1);
		sched_yield();
		MUST_OK(vac_unpin(st.pool, pin));
		st.pins++;
		m->team->rounds++;
	}
}

static void storm(unsigned flags)
{
	static struct team writers, snappers, pinners;
	int blocks = 6;
	struct vac_pool *pool = t_pool(MIB(2), (unsigned)blocks);
	uint64_t end;

	st.pool = pool;
	st.s = t_space(pool, MIB(8));
	st.snaps = st.pins = 0;
	swap_file(pool, MIB(128));
	st.p = t_map(st.s, RECORDS * P, flags);
	memset(st.p, 0, RECORDS * P);
	team_start(&writers, 2, writer, NULL);
	team_start(&snappers, 2, snapper, NULL);
	team_start(&pinners, 1, pinner, NULL);
	end = t_ms() + (TSAN || ASAN ? 3000 : 2000);
	for (int id = 0; t_ms() < end || st.snaps < 4; id = (id + 1) % blocks) {
		int r = t_offline(pool, id, 1000, NULL);

		if (r == 0)
			assert_ok(t_online(pool, id));
		else
			assert_true(r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
	}
	team_stop(&pinners);
	team_stop(&snappers);
	team_stop(&writers);
	assert_true(st.snaps > 3 && st.pins > 0);
	assert_int_equal(t_stats(pool).dangling, 0);
	assert_int_equal(t_stats(pool).swap_errors, 0);
	assert_true(t_stats(pool).swap_out > 0);
	t_check(pool);
	printf("%u snapshots, %u pins; %llu in, %llu out\n", (unsigned)st.snaps, (unsigned)st.pins,
	       (unsigned long long)t_stats(pool).swap_in,
	       (unsigned long long)t_stats(pool).swap_out);
	t_close(pool);
}

static void test_storm(void **state UNUSED)
{
	storm(0);
}

static void test_storm_base(void **state UNUSED)
{
	storm(VAC_MAP_NOHUGE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_children_that_rewrite),
		cmocka_unit_test(test_a_third_leaves),
		cmocka_unit_test(test_storm),
		cmocka_unit_test(test_storm_base),
	};

	t_filter(argc, argv);
	catch_faults();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/offline.c and migrate.c: blocks leave under everything that a program does meanwhile, every
 * byte checked; what keeps them is waited for, reported, or left alone; and the memory is truly gone.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "port/linux/linux.h"
#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static void round_of_offlines(struct vac_pool *pool, int blocks)
{
	for (int id = 0; id < blocks; id++) {
		struct vac_offline_result res;
		int r = t_offline(pool, id, 60000, &res);

		if (r < 0) {
			fprintf(stderr, "block %d: %s\n", id, vac_strerror(r));
			vac_report_print(res.report, stderr);
		}
		MUST(r == 0);
		MUST(res.report == NULL && res.missing_bytes == 0);
		MUST(t_online(pool, id) == 0);
	}
}

static struct vac_offline_opts opts(int64_t timeout_ms, uint32_t flags)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);

	o.timeout_ms = timeout_ms;
	o.flags = flags;
	return o;
}

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
	struct vac_offline_opts o = opts(60000, 0);
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
	struct vac_offline_opts o = opts(500, 0);
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
	struct vac_offline_opts o = opts(0, 1u << 20);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

	assert_int_equal(vac_block_offline(pool, 0, &o, NULL), -EINVAL);
	o = opts(0, 0);
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
	struct vac_offline_opts o = opts(700, 0);
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

/* ---- Under load -------------------------------------------------------------------------------------- */

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
		MUST(vac_unpin(l->pool, pin) == 0);
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
		round_of_offlines(l->pool, 4);
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
			MUST(vac_unmap(l->space, at, n * P) == 0);
			MUST(vac_map(l->space, at, n * P, RW, VAC_MAP_FIXED, &out) == 0);
		} else if (what == 1) {
			MUST(vac_protect(l->space, at, n * P, VAC_PROT_READ) == 0);
			MUST(vac_protect(l->space, at, n * P, RW) == 0);
		} else if (what == 2) {
			MUST(vac_advise(l->space, at, n * P, VAC_ADV_DONTNEED) == 0);
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
		round_of_offlines(l->pool, 5);
	team_stop(&t);
	for (size_t page = 0; page < 3 * 768; page++)
		assert_int_equal(vac__edge_colour((uintptr_t)l->mem + page * P), 0);
	assert_int_equal(t_stats(l->pool).dangling, 0);
	t_close(l->pool);
	free(l);
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
			MUST(vac_pool_check(pool, NULL, 0) == 0);
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
	MUST(vac_block_cancel(race.pool, race.id) == 0);
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

/* ---- Pins and gates ---------------------------------------------------------------------------------------- */

struct holder {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	unsigned flags, ms;
	_Atomic uint32_t tid;
};

static void hold_for_a_while(struct member *m)
{
	struct holder *h = m->arg;
	uint64_t pin = t_pin(h->space, h->mem, 1, h->flags, "slow I/O");

	h->tid = (uint32_t)syscall(SYS_gettid);
	sleep_ms(h->ms);
	MUST(vac_unpin(h->pool, pin) == 0);
}

/* A short pin is waited for, however long it takes, and its owner named. */
static void test_slow_holder(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2); /* gates of 300 ms, a pin of 700 */
		struct vac_space *s = t_space(pool, MIB(4));
		struct holder h = {pool, s, t_map(s, 3 * P, VAC_MAP_POPULATE), 0, 700, 0};
		struct vac_offline_result res;
		struct team t;
		int r, id;

		if (huge)
			h.mem = t_map(s, HUGE, VAC_MAP_POPULATE);
		pat_fill(h.mem, 3 * P, 5);
		id = t_page(s, h.mem).block;
		team_start(&t, 1, hold_for_a_while, &h);
		while (!h.tid)
			sleep_ms(1);
		r = t_offline(pool, id, 20000, &res);
		team_join(&t);
		assert_ok(r);
		assert_string_equal(res.waited_for, "slow I/O");
		assert_int_equal(res.waited_tid, h.tid);
		assert_true(res.waited_longest_ns >= 100000000 &&
			    res.waited_ns >= res.waited_longest_ns);
		assert_true(res.waited_ns <= res.elapsed_ns);
		assert_int_equal(pat_bad(h.mem, 3 * P, 5), -1);
		t_close(pool);
	}
}

struct found {
	struct vac_report *report;
	unsigned n;
	enum vac_blocker_class cls;
	struct vac_owner who;
	struct vac_blocker b;
};

static int take_found(void *ctx, const struct vac_blocker *b)
{
	struct found *f = ctx;

	f->b = *b;
	f->cls = b->cls;
	if (b->owners)
		MUST(vac_report_owner(f->report, f->n, 0, &f->who) == 0);
	f->n++;
	return 0;
}

static struct found find(struct vac_report *r)
{
	struct found f = {.report = r};

	assert_ok(vac_report_walk(r, take_found, &f));
	vac_report_free(r);
	return f;
}

/* A long-term pin is not waited for: all else moves, and it is reported, long before the deadline and
 * also where there is none. What is pinned stays where it is; what shares its block does not. */
static void test_long_pin(void **state UNUSED)
{
	for (int64_t timeout = 8000; timeout >= -1; timeout -= 8001) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(4));
		char *m = t_map(s, 100 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		uint64_t pin, begin, pfn, other;
		struct found f;
		int id;

		pat_fill(m, 100 * P, 1);
		id = t_page(s, m).block;
		pin = t_pin(s, m + 20 * P, P, VAC_PIN_LONGTERM | VAC_PIN_STACK,
			    "registered buffer");
		pfn = t_page(s, m + 20 * P).pfn;
		other = t_page(s, m + 21 * P).pfn;
		begin = t_ms();
		alarm(60);
		assert_int_equal(t_offline(pool, id, timeout, &res), -EBUSY);
		alarm(0);
		assert_true(t_ms() - begin < 5000);
		assert_int_equal(vac_report_count(res.report), 1);
		f = find(res.report);
		assert_int_equal(f.cls, VAC_HELD_LONG_PIN);
		assert_string_equal(f.who.owner, "registered buffer");
		assert_true(f.who.stack_depth > 0);
		assert_int_equal(f.b.pfn, pfn);
		assert_int_equal(f.b.pins, 1);
		assert_int_equal(t_page(s, m + 20 * P).pfn, pfn);
		assert_int_not_equal(t_page(s, m + 21 * P).pfn, other);
		assert_int_equal(pat_bad(m, 100 * P, 1), -1);
		assert_ok(vac_unpin(pool, pin));
		assert_ok(t_offline(pool, id, 0, NULL));
		t_close(pool);
	}
}

/* A pinned page is not moved, and the report of the failed offline says who, since when, and where. */
static void test_pinned_stays(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(4));
		char *m = t_map(s, huge ? HUGE : 8 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		struct found f;
		uint64_t pin, pfn = t_page(s, m + P).pfn;
		int id = t_page(s, m).block;

		pat_fill(m, 8 * P, 1);
		pin = t_pin(s, m + P, 10, VAC_PIN_WRITE, "short");
		sleep_ms(30);
		assert_int_equal(t_offline(pool, id, 100, &res), -EBUSY);
		assert_string_equal(res.waited_for, "short");
		assert_int_equal(res.waited_tid, syscall(SYS_gettid));
		f = find(res.report);
		assert_int_equal(f.n, 1);
		assert_int_equal(f.cls, VAC_HELD_SHORT_PIN);
		assert_string_equal(f.who.owner, "short");
		assert_int_equal(f.who.tid, syscall(SYS_gettid));
		assert_true(f.who.age_ns >= 90000000);
		assert_int_equal(f.who.addr, (uintptr_t)m + P);
		assert_int_equal(f.b.block, id);
		assert_int_equal(f.b.frames, huge ? 512 : 1);
		assert_int_equal(f.b.addr, (uintptr_t)(huge ? m : m + P));
		assert_int_equal(f.b.last_error, -EBUSY);
		assert_true(f.b.attempts >= 1);
		assert_int_equal(f.b.refs, f.b.expected_refs);
		assert_int_equal(t_page(s, m + P).pfn, pfn);
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_check(pool); /* no gate left closed */
		assert_ok(vac_unpin(pool, pin));
		t_close(pool);
	}
}

/* Unmapped, but pinned: still in the way, and still known by its owner. */
static void test_unmapped_pinned(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *m = t_map(s, 4 * P, VAC_MAP_POPULATE);
	int id = t_page(s, m).block;
	uint64_t pin = t_pin(s, m, 1, 0, "orphan");
	struct vac_offline_result res;
	struct found f;

	assert_ok(vac_unmap(s, m, 4 * P));
	assert_int_equal(t_offline(pool, id, 50, &res), -EBUSY);
	f = find(res.report);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.b.map, 0);
	assert_int_equal(f.b.pins, 1);
	assert_string_equal(f.who.owner, "orphan");
	assert_int_equal(f.b.addr, 0);
	assert_string_equal(f.b.space, "");
	assert_ok(vac_unpin(pool, pin));
	assert_ok(t_offline(pool, id, 0, NULL));
	t_close(pool);
}

/* Direct I/O without end on one and the same buffer: each lets go only after the next has begun (or
 * 30 ms later, for that one may be kept out), so the buffer is never without a pin. */
static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	_Atomic uint64_t begun, failed;
} io;

static void overlap(struct member *m)
{
	while (!m->team->stop) {
		uint64_t pin = t_pin(io.space, io.mem, 3 * P, VAC_PIN_WRITE, "endless I/O");
		uint64_t mine = atomic_fetch_add(&io.begun, 1), end = t_ms() + 30;

		while (io.begun <= mine + 1 && t_ms() < end && !m->team->stop)
			sched_yield();
		MUST(vac_unpin(io.pool, pin) == 0);
		m->team->rounds++;
	}
}

static void test_gate(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_offline_opts o = opts(1500, VAC_OFFLINE_TEST_NO_GATE);
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		struct team t;
		int id;

		io.pool = t_pool(MIB(4), 3);
		io.space = t_space(io.pool, MIB(4));
		io.mem = t_map(io.space, huge ? HUGE : 3 * P, VAC_MAP_POPULATE);
		io.begun = 0;
		id = t_page(io.space, io.mem).block;
		team_start(&t, 4, overlap, NULL);
		team_rounds(&t, 20);
		/* Without the gate it starves, which shows that the test is one. */
		MUST(vac_block_offline(io.pool, id, &o, &res) == -EBUSY);
		vac_report_free(res.report);
		for (int i = 0; i < 10; i++) {
			id = t_page(io.space, io.mem).block;
			o = opts(20000, 0);
			res.size = sizeof(res);
			MUST(vac_block_offline(io.pool, id, &o, &res) == 0);
			/* A few I/O times: three of 30 ms at most in hand, and a machine that is busy. */
			MUST(res.elapsed_ns < 5000000000);
			MUST(t_online(io.pool, id) == 0);
			team_rounds(&t, 4); /* the I/O goes on */
		}
		team_stop(&t);
		assert_true(t_stats(io.pool).gate_waits > 0);
		t_close(io.pool);
	}
}

/* A holder that waits for a second pin behind the gate of the first: the gate opens in time. */
static void pin_twice(struct member *m)
{
	while (!m->team->stop) {
		uint64_t a = t_pin(io.space, io.mem, P, 0, "first"), b;

		sched_yield();
		b = t_pin(io.space, io.mem + (m->nr ? P : 0), P, 0, "second");
		MUST(vac_unpin(io.pool, a) == 0);
		MUST(vac_unpin(io.pool, b) == 0);
		m->team->rounds++;
	}
}

static void test_gate_deadlock(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct team t;
	uint64_t end;

	o.gate_timeout_ms = 20;
	io.pool = t_open(&o, 3);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, 8 * P, VAC_MAP_POPULATE);
	team_start(&t, 2, pin_twice, NULL);
	for (end = t_ms() + scaled(1500); t_ms() < end;) {
		int id = t_page(io.space, io.mem).block, r = t_offline(io.pool, id, 1000, NULL);

		MUST(r == 0 || r == -EBUSY);
		if (r == 0)
			MUST(t_online(io.pool, id) == 0);
	}
	team_rounds(&t, 10);
	team_stop(&t);
	t_close(io.pool);
}

/* ---- Waiting without a reference ----------------------------------------------------------------------------- */

static void storm(struct member *m)
{
	_Atomic uint32_t *w = (_Atomic uint32_t *)io.mem;

	while (!m->team->stop) {
		for (unsigned i = 0; i < 16; i++)
			atomic_fetch_add(&w[i * P / 4 + m->nr], 1);
		m->team->rounds++;
	}
}

/* However many threads refault on the pages that are leaving, they are not what keeps them. */
static void test_storm(void **state UNUSED)
{
	static const unsigned threads[] = {1, 4, 16, 48};

	for (unsigned i = 0; i < COUNT(threads); i++) {
		uint64_t attempts = 0, moved = 0;
		struct team t;

		io.pool = t_pool(MIB(4), 3);
		io.space = t_space(io.pool, MIB(4));
		io.mem = t_map(io.space, 16 * P, VAC_MAP_POPULATE);
		team_start(&t, threads[i], storm, NULL);
		for (unsigned n = 0; n < threads[i]; n++) /* until all of them are at it */
			while (((_Atomic uint32_t *)io.mem)[n] == 0)
				sleep_ms(1);
		for (unsigned n = 0; n < scaled(150); n++) {
			int id = t_page(io.space, io.mem).block;
			struct vac_offline_result res;

			MUST(t_offline(io.pool, id, 60000, &res) == 0);
			attempts += res.attempts;
			moved += res.base_moved + res.huge_moved;
			MUST(t_online(io.pool, id) == 0);
		}
		team_stop(&t);
		assert_true(moved >= 16 * scaled(150));
		assert_true(attempts <= 2 * moved);
		assert_int_equal(t_stats(io.pool).dangling, 0);
		t_close(io.pool);
	}
}

/* ---- Memory that others need meanwhile ----------------------------------------------------------------------- */

static void fill_and_drop(struct member *m)
{
	while (!m->team->stop) {
		io.failed += vac_advise(io.space, io.mem + m->nr * MIB(1), MIB(1),
					VAC_ADV_WILLNEED) != 0;
		MUST(vac_advise(io.space, io.mem + m->nr * MIB(1), MIB(1), VAC_ADV_DONTNEED) == 0);
		m->team->rounds++;
	}
}

/* An offline that is refused for want of memory, and a dry run, take none away from others, not for
 * a moment: what they touch meanwhile would be a SIGBUS. */
static void test_refused_takes_nothing(void **state UNUSED)
{
	struct vac_offline_opts o = opts(0, VAC_OFFLINE_DRY_RUN);
	struct team t;
	uint64_t end;
	char *full;

	io.pool = t_pool(MIB(8), 2);
	io.space = t_space(io.pool, MIB(32));
	full = t_map(io.space, MIB(8), VAC_MAP_POPULATE);
	assert_int_equal(t_page(io.space, full + MIB(6)).block, 0);
	t_map(io.space, P, VAC_MAP_POPULATE); /* so that block 1 never is empty */
	io.mem = t_map(io.space, MIB(2), VAC_MAP_NOHUGE);
	team_start(&t, 2, fill_and_drop, NULL);
	for (end = t_ms() + scaled(1000); t_ms() < end;) {
		MUST(vac_block_offline(io.pool, 1, &o, NULL) == -ENOMEM);
		MUST(t_offline(io.pool, 1, 1, NULL) == -ENOMEM);
		sched_yield();
	}
	team_stop(&t);
	assert_int_equal(io.failed, 0);
	t_close(io.pool);
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
	MUST(vac_pool_open(&po, &pool) == 0);
	for (int i = 0; i < 2; i++)
		MUST(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE) == 0);
	MUST(vac_space_create(pool, &so, &s) == 0);
	step_done('0'); /* in its cgroup by now */
	MUST(vac_map(s, NULL, LEAVING, RW, VAC_MAP_POPULATE, &a) == 0);
	memset(a, 1, LEAVING);
	MUST(vac_map(s, NULL, LEAVING / 2, RW, VAC_MAP_POPULATE | VAC_MAP_NOHUGE, &b) == 0);
	memset(b, 2, LEAVING / 2);
	MUST(vac_unmap(s, a, LEAVING / 2) == 0); /* half of it free, but filled */
	step_done('1');
	MUST(vac_block_offline(pool, 0, NULL, &res) == 0);
	step_done('2');
	MUST(res.given_back_bytes == LEAVING);
	for (size_t i = 0; i < LEAVING / 2; i++)
		MUST(((char *)a)[LEAVING / 2 + i] == 1 && ((char *)b)[i] == 2);
	MUST(vac_pool_close(pool) == 0);
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

/* ---- Holders that the engine does not know of ------------------------------------------------------------------ */

static void test_foreign(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 2);
		struct vac_space *s = t_space(pool, MIB(8));
		char *m = t_map(s, huge ? HUGE : 8 * P, VAC_MAP_POPULATE);
		struct vac_offline_result res;
		struct iovec iov;
		struct found f;
		int id = t_page(s, m).block, p[2];

		pat_fill(m, 8 * P, 1);
		iov = (struct iovec){m + 2 * P, P};
		assert_ok(pipe2(p, O_CLOEXEC));
		assert_int_equal(vmsplice(p[1], &iov, 1, 0),
				 P); /* the pipe holds the page itself */
		assert_int_equal(t_offline(pool, id, 300, &res), -EBUSY);
		f = find(res.report);
		/* One host page beneath all of them is held as a whole. */
		assert_in_range(f.n, 1, huge ? 1 : 8);
		assert_int_equal(f.cls, VAC_HELD_FOREIGN);
		assert_int_equal(f.b.block, id);
		/* Where the kernel shows who is held, nothing has moved; else all has, and waits. */
		assert_true(t_block(pool, id).state == VAC_BLOCK_ONLINE ||
			    t_block(pool, id).state == VAC_BLOCK_QUARANTINE);
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_check(pool);
		if (t_block(pool, id).state == VAC_BLOCK_ONLINE) {
			/* The block is of use again: fill all that there is. */
			char *rest = t_map(s, 4 * P, VAC_MAP_POPULATE);

			memset(rest, 3, 4 * P);
		}
		close(p[0]);
		close(p[1]);
		assert_ok(t_offline(pool, id, 0, NULL));
		assert_int_equal(pat_bad(m, 8 * P, 1), -1);
		t_close(pool);
	}
}

/* ---- The rules for threads -------------------------------------------------------------------------------------- */

static void in_and_out(struct member *m)
{
	/* Everything blocked that may be: the engine needs SIGSEGV only. */
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	while (!m->team->stop) {
		char *at = io.mem + rnd(&m->rnd) % 512 * P;

		errno = 4711;
		*(_Atomic char *)at = 1;
		MUST(errno == 4711); /* whatever the engine did for it */
		if (rnd(&m->rnd) % 8 == 0)
			MUST(vac_advise(io.space, at, P, VAC_ADV_DONTNEED) == 0);
		m->team->rounds++;
	}
}

static void *small_thread(void *arg)
{
	in_and_out(arg);
	return NULL;
}

/* Signals blocked, a small stack, errno: a fault does not mind, and is not minded. */
static void test_poor_threads(void **state UNUSED)
{
	struct team t = {.n = 2};
	pthread_attr_t a;
	struct member m[2];
	pthread_t thread[2];

	io.pool = t_pool(MIB(4), 3);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, HUGE, VAC_MAP_NOHUGE);
	pthread_attr_init(&a);
	/* 32 KiB, as the header asks, and what the thread itself and its libraries take. */
	assert_ok(pthread_attr_setstacksize(&a, ASAN || TSAN ? 1 << 20 : 48 << 10));
	for (unsigned i = 0; i < 2; i++) {
		m[i] = (struct member){&t, i, t_seed(50 + i), NULL};
		assert_ok(pthread_create(&thread[i], &a, small_thread, &m[i]));
	}
	pthread_attr_destroy(&a);
	for (uint64_t end = t_ms() + scaled(1000); t_ms() < end;)
		round_of_offlines(io.pool, 3);
	team_rounds(&t, 10);
	t.stop = true;
	for (unsigned i = 0; i < 2; i++)
		assert_ok(pthread_join(thread[i], NULL));
	t_close(io.pool);
}

static _Atomic uint64_t handled;
static _Thread_local uint64_t handler_rnd;

/* Touches the pool, wherever the thread is: in its own code, on the fast path of a pin, or about to
 * take the engine's locks. */
static void on_usr1(int sig UNUSED)
{
	int e = errno;
	char *at = io.mem + HUGE + rnd(&handler_rnd) % 512 * P;
#if TSAN /* runs handlers later, with all signals blocked */
	uint64_t segv = (uint64_t)1 << (SIGSEGV - 1);

	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &segv, NULL, sizeof(segv));
#endif

	atomic_fetch_add((_Atomic uint32_t *)at, 1);
	handled++;
	errno = e;
}

static void calls_under_signals(struct member *m)
{
	handler_rnd = m->rnd;
	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd), pin;
		char *at =
			io.mem + (m->nr * 160 + r % 140) * P; /* each its own: it protects them */

		*at = 1;
		pin = t_pin(io.space, at, 1 + r % 10 * P,
			    VAC_PIN_WRITE | (r & 64 ? VAC_PIN_STACK : 0), "signalled");
		MUST(vac_unpin(io.pool, pin) == 0);
		if (r >> 20 & 1)
			MUST(vac_advise(io.space, at, P, VAC_ADV_DONTNEED) == 0);
		if ((r >> 21 & 7) == 0) {
			MUST(vac_protect(io.space, at, 2 * P, VAC_PROT_READ) == 0);
			MUST(vac_protect(io.space, at, 2 * P, RW) == 0);
		}
		m->team->rounds++;
	}
}

static void test_signal_handler(void **state UNUSED)
{
	struct sigaction a, old;
	struct team t;
	unsigned sent = 0;

	memset(&a, 0, sizeof(a));
	a.sa_handler = on_usr1;
	a.sa_flags = SA_RESTART;
	handled = 0;
	sigaction(SIGUSR1, &a, &old);
	io.pool = t_pool(MIB(4), 4);
	io.space = t_space(io.pool, MIB(8));
	io.mem = t_map(io.space, 2 * HUGE, VAC_MAP_NOHUGE);
	team_start(&t, 3, calls_under_signals, NULL);
	for (uint64_t end = t_ms() + scaled(2000); t_ms() < end;) {
		for (int id = 0; id < 4; id++) {
			for (int i = 0; i < 50; i++, sent++)
				pthread_kill(t.thread[sent % 3], SIGUSR1);
			MUST(t_offline(io.pool, id, 60000, NULL) == 0);
			MUST(t_online(io.pool, id) == 0);
		}
	}
	team_rounds(&t, 10);
	team_stop(&t);
	sigaction(SIGUSR1, &old, NULL);
	assert_true(handled > scaled(50));
	{
		uint64_t sum = 0;

		for (unsigned i = 0; i < 512; i++)
			sum += *(uint32_t *)(io.mem + HUGE + i * P);
		assert_true(sum == handled); /* none was lost with a page */
	}
	t_close(io.pool);
}

/* A thread that is cancelled (deferred, as is the default) ends between calls, never inside one with
 * locks, pins or references of the engine in its hands. */
static void call_until_cancelled(struct member *m)
{
	for (;;) {
		uint64_t r = rnd(&m->rnd), pin;
		char *at = io.mem + r % 500 * P;
		int old;

		m->team->rounds++;
		*at = 1;
		pthread_testcancel();
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
		MUST(vac_pin(io.space, at, 3 * P, 0, "cancelled", &pin) == 0);
		MUST(vac_unpin(io.pool, pin) == 0);
		pthread_setcancelstate(old, NULL);
		/* And without that protection: these hold nothing when they return. */
		MUST(vac_advise(io.space, at, P, VAC_ADV_DONTNEED) == 0);
		MUST(vac_protect(io.space, at, P, RW) == 0);
		MUST(vac_pool_stats(io.pool, &(struct vac_pool_stats){.size = 64}) == 0);
		if (m->nr == 0) {
			struct vac_report *report;

			if (vac_report_block(io.pool, 0, &report) == 0)
				vac_report_free(report);
			MUST(t_offline(io.pool, (int)(r % 4), 60000, NULL) == 0);
			MUST(t_online(io.pool, (int)(r % 4)) == 0);
		}
	}
}

#if ASAN
void __asan_handle_no_return(void);
#endif

/* The address sanitizer does not see that a cancelled thread leaves its stack by the shortest way. */
static void on_cancel(void *arg UNUSED)
{
#if ASAN
	__asan_handle_no_return();
#endif
}

static void *cancellable(void *arg)
{
	pthread_cleanup_push(on_cancel, NULL);
	call_until_cancelled(arg);
	pthread_cleanup_pop(0);
	return NULL;
}

static void test_pthread_cancel(void **state UNUSED)
{
	uint64_t seed = t_seed(60);

	if (TSAN) {
		print_message(
			"SKIP: forced: the thread sanitizer hangs where threads are cancelled\n");
		skip();
	}
	io.pool = t_pool(MIB(4), 4);
	io.space = t_space(io.pool, MIB(4));
	io.mem = t_map(io.space, HUGE, VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < scaled(150); i++) {
		struct team t = {.n = 2};
		struct member m[2];
		pthread_t thread[2];
		void *r;

		for (unsigned k = 0; k < 2; k++) {
			m[k] = (struct member){&t, k, rnd(&seed), NULL};
			MUST(pthread_create(&thread[k], NULL, cancellable, &m[k]) == 0);
		}
		while (t.rounds < 2)
			sched_yield();
		for (uint64_t n = rnd(&seed) % 3000; n; n--)
			vac__port_relax();
		for (unsigned k = 0; k < 2; k++)
			MUST(pthread_cancel(thread[k]) == 0);
		for (unsigned k = 0; k < 2; k++) {
			MUST(pthread_join(thread[k], &r) == 0);
			MUST(r == PTHREAD_CANCELED);
		}
		for (int id = 0; id < 4; id++) /* it may have died between the two */
			if (t_block(io.pool, id).state == VAC_BLOCK_OFFLINE)
				MUST(t_online(io.pool, id) == 0);
		MUST(vac_pool_check(io.pool, NULL, 0) == 0);
		assert_int_equal(t_stats(io.pool).pins, 0);
	}
	t_close(io.pool);
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
		cmocka_unit_test(test_load_base),
		cmocka_unit_test(test_load_base_only),
		cmocka_unit_test(test_load_huge),
		cmocka_unit_test(test_load_huge_on_base_pages),
		cmocka_unit_test(test_load_mixed),
		cmocka_unit_test(test_load_normal),
		cmocka_unit_test(test_load_ripped),
		cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_reference),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_cancel_asleep),
		cmocka_unit_test(test_same_block),
		cmocka_unit_test(test_different_blocks),
		cmocka_unit_test(test_deadline_of_the_second),
		cmocka_unit_test(test_slow_holder),
		cmocka_unit_test(test_long_pin),
		cmocka_unit_test(test_pinned_stays),
		cmocka_unit_test(test_unmapped_pinned),
		cmocka_unit_test(test_gate),
		cmocka_unit_test(test_gate_deadlock),
		cmocka_unit_test(test_storm),
		cmocka_unit_test(test_refused_takes_nothing),
		cmocka_unit_test(test_host_frames),
		cmocka_unit_test(test_gives_back),
		cmocka_unit_test(test_foreign),
		cmocka_unit_test(test_poor_threads),
		cmocka_unit_test(test_signal_handler),
		cmocka_unit_test(test_pthread_cancel),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 * runtests: guards=all timeout=600
 */
/*
 * Rings whose pages move: no event is lost, doubled or out of order, however they are fetched; and blocks full of rings
 * leave, also where nobody will ever touch those rings (multipathd, 2012).
 *
 * VAC_TEST_AIO=N: so many events through each ring in test_moving (default: some 100,000); the long form is 100000000.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

static struct vac_aio *setup(struct vac_space *s, unsigned events, const char *name, unsigned flags)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio *ctx;

	o.name = name;
	o.events = events;
	o.flags = flags;
	MUST_OK(vac_aio_setup(s, &o, &ctx));
	return ctx;
}

static struct vac_aio_info info(struct vac_aio *ctx)
{
	struct vac_aio_info i = VAC_INIT(struct vac_aio_info);

	MUST_OK(vac_aio_info(ctx, &i));
	return i;
}

/* Move the folio of a base page somewhere else. False: it could not be picked, or did not go. */
static bool move(struct vac_space *s, const void *addr)
{
	struct vac_pool *pool = s->pool;
	struct vac__mig_stats st = {0};
	uint32_t page = (uint32_t)((size_t)((const uint8_t *)addr - s->base) >> VAC__PAGE_SHIFT);
	struct vac__mig_item item = {0};
	uint64_t e;
	bool done = false;

	VAC__ENTER();
	vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
	e = vac__entry_get(s, page);
	if (vac__e_present(e) && vac__folio_isolate(pool, vac__e_pfn(e)) == 0) {
		item.src = vac__e_pfn(e);
		pool->batch[0] = item;
		vac__migrate(pool, pool->batch, 1, VAC__MIG_SYNC, &st);
		done = pool->batch[0].err == 0;
		if (!done)
			vac__folio_putback(pool, item.src);
	}
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	VAC__LEAVE();
	return done;
}

/* ---- Events through a ring that moves ------------------------------------------------------------- */

#define RINGS 3

static struct ring {
	struct vac_aio *ctx;
	struct vac_space *space;
	struct vac_aio_ring *ring;
	uint32_t pages, events;
	_Atomic uint64_t made, got, direct;
	_Atomic uint64_t moves[9]; /* of each page */
	uint64_t frames[9];        /* distinct from the one before */
} rings[RINGS];

static _Atomic uint64_t limit; /* events of each ring */
static _Atomic bool enough;    /* moves */

static bool finished(const struct ring *r)
{
	return atomic_load(&r->made) >= atomic_load(&limit) && atomic_load(&enough);
}

static void producer(struct ring *r, uint64_t *rnd_state)
{
	struct vac_aio_req q[32];
	uint64_t n = 0;

	memset(q, 0, sizeof(q));
	while (!finished(r)) {
		unsigned want = 1 + (unsigned)(rnd(rnd_state) % 32);
		int got;

		for (unsigned i = 0; i < want; i++) {
			q[i].user_data = n + i;
			q[i].off = (n + i) & 0x7fffffff;
		}
		got = vac_aio_submit(r->ctx, q, want);
		if (got == -EAGAIN) {
			sched_yield();
			continue;
		}
		MUST(got > 0);
		n += (unsigned)got;
		atomic_store(&r->made, n);
	}
	atomic_store(&r->made, n | UINT64_C(1) << 63);
}

static void check(uint64_t n, const struct vac_aio_event *e)
{
	MUST(e->user_data == n && e->res == (int32_t)(n & 0x7fffffff) && e->flags == 0);
}

static void consumer(struct ring *r, uint64_t *rnd_state)
{
	_Atomic uint64_t *tail = (_Atomic uint64_t *)(void *)&r->ring->tail;
	_Atomic uint64_t *head = (_Atomic uint64_t *)(void *)&r->ring->head;
	const struct vac_aio_event *slot = (void *)((char *)r->ring + r->ring->first);
	uint32_t size = r->ring->size;
	struct vac_aio_event e[48];
	uint64_t n = 0;

	for (;;) {
		uint64_t made = atomic_load(&r->made);
		unsigned tries = (unsigned)(rnd(rnd_state) % 64);

		if (made >> 63 && n == (made & INT64_MAX))
			break;
		/* Without a call: each event by itself, or several and then the head. */
		for (unsigned i = 0; i < tries; i++) {
			uint64_t h = atomic_load_explicit(head, memory_order_relaxed);
			uint64_t t = atomic_load_explicit(tail, memory_order_acquire);
			unsigned k = 1 + i % 5;

			for (; k && h != t; k--, h++)
				check(n++, &slot[h % size]);
			atomic_store_explicit(head, h, memory_order_release);
		}
		if (rnd(rnd_state) & 1) {
			int got = vac_aio_getevents(r->ctx, 1, 1 + (unsigned)(rnd(rnd_state) % 48),
						    e, 1000000);

			MUST(got >= 0);
			for (int i = 0; i < got; i++)
				check(n++, &e[i]);
		}
		atomic_store(&r->got, n);
	}
}

static void mover(uint64_t *rnd_state)
{
	uint64_t want = scaled(400), least;

	do {
		struct ring *r = &rings[rnd(rnd_state) % RINGS];
		/* The first page, with head and tail, as often as not. */
		uint32_t p = rnd(rnd_state) & 1 ? 0 : (uint32_t)(rnd(rnd_state) % r->pages);
		char *at = (char *)r->ring + p * P;
		uint64_t was = t_page(r->space, at).pfn;

		if (move(r->space, at)) {
			atomic_fetch_add(&r->moves[p], 1);
			r->frames[p] += t_page(r->space, at).pfn != was;
		}
		least = UINT64_MAX;
		for (unsigned i = 0; i < RINGS; i++)
			for (uint32_t k = 0; k < rings[i].pages; k++)
				if (rings[i].frames[k] < least)
					least = rings[i].frames[k];
		if (least >= want)
			atomic_store(&enough, true);
	} while (!atomic_load(&enough) || !finished(&rings[0]) || !finished(&rings[1]) ||
		 !finished(&rings[2]));
}

static void part(struct member *m)
{
	uint64_t state = m->rnd | 1;

	if (m->nr == 2 * RINGS)
		mover(&state);
	else if (m->nr % 2)
		consumer(&rings[m->nr / 2], &state);
	else
		producer(&rings[m->nr / 2], &state);
}

static void test_moving(void **state UNUSED)
{
	static const uint32_t pages[RINGS] = {1, 8, 9};
	const char *env = getenv("VAC_TEST_AIO");
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct team t = {0};

	memset(rings, 0, sizeof(rings));
	atomic_store(&enough, false);
	atomic_store(&limit, env ? strtoull(env, NULL, 10) : scaled(100000));
	for (unsigned i = 0; i < RINGS; i++) {
		struct ring *r = &rings[i];

		r->space = t_space(pool, MIB(4));
		r->events = (uint32_t)((pages[i] * P - sizeof(struct vac_aio_ring)) / 16);
		r->ctx = setup(r->space, r->events, NULL, 0);
		r->pages = (uint32_t)(info(r->ctx).ring_bytes / P);
		r->ring = info(r->ctx).ring;
		assert_int_equal(r->pages, pages[i]);
		assert_int_equal(r->ring->magic, VAC_AIO_MAGIC);
		assert_int_equal(r->ring->size, r->events);
	}
	team_start(&t, 2 * RINGS + 1, part, NULL);
	team_join(&t);
	for (unsigned i = 0; i < RINGS; i++) {
		struct ring *r = &rings[i];
		uint64_t all = 0;

		for (uint32_t p = 0; p < r->pages; p++)
			all += atomic_load(&r->moves[p]);
		print_message("ring of %u pages: %llu events, %llu moves, %llu of its first page\n",
			      r->pages, (unsigned long long)atomic_load(&r->got),
			      (unsigned long long)all, (unsigned long long)r->frames[0]);
		assert_int_equal(atomic_load(&r->got), atomic_load(&r->made) & INT64_MAX);
		assert_true(atomic_load(&r->got) >= atomic_load(&limit));
		assert_ok(vac_aio_destroy(r->ctx));
	}
	t_close(pool);
}

/* ---- Blocks full of rings ------------------------------------------------------------------------- */

/* A daemon that makes contexts, uses them once, or never, and keeps them for ever (multipathd, 2012): every block
 * leaves all the same, and the contexts work where they are then. */
static void test_multipathd_2012(void **state UNUSED)
{
	enum { N = 1500 };
	static struct vac_aio *ctx[N];
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_aio_req q = {.op = VAC_AIO_NOP};
	struct vac_aio_event e;
	unsigned in[8] = {0}, full = 0;

	o.aio_events = N * 128;
	pool = t_open(&o, 8);
	s = t_space(pool, MIB(16));
	for (unsigned i = 0; i < N; i++) {
		ctx[i] = setup(s, 128, i % 2 ? NULL : "multipathd", 0);
		in[t_page(s, info(ctx[i]).ring).block]++;
	}
	for (unsigned i = 0; i < 8; i++)
		full += in[i] == MIB(2) / P;
	assert_true(full >= 1); /* nothing but rings in it */
	for (unsigned i = 0; i < N; i += 2) {
		q.user_data = q.off = i;
		assert_int_equal(vac_aio_submit(ctx[i], &q, 1), 1);
	}
	assert_int_equal(t_stats(pool).pins, 0);
	t_round_of_offlines(pool, 8);
	for (unsigned i = 0; i < N; i++) {
		if (i % 2 == 0) {
			assert_int_equal(vac_aio_getevents(ctx[i], 1, 1, &e, -1), 1);
			assert_int_equal(e.user_data, i);
		}
		q.user_data = ~i;
		assert_int_equal(vac_aio_submit(ctx[i], &q, 1), 1);
		assert_int_equal(vac_aio_getevents(ctx[i], 1, 1, &e, -1), 1);
		assert_int_equal(e.user_data, (uint64_t)~i);
		assert_ok(vac_aio_destroy(ctx[i]));
	}
	t_close(pool);
}

/* As it was in 2012: each ring is pinned, and the report says by whom. */
static void test_rings_that_are_held(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 128, "multipathd", VAC_AIO_TEST_HELD);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_offline_opts o = t_offline_opts(300, 0);
	int block = t_page(s, info(ctx).ring).block;
	struct vac_owner w;

	assert_int_equal(t_page(s, info(ctx).ring).pins, 1);
	assert_int_equal(vac_block_offline(pool, block, &o, &res), -EBUSY);
	assert_int_equal(vac_report_count(res.report), 1);
	assert_ok(vac_report_owner(res.report, 0, 0, &w));
	assert_string_equal(w.owner, "aio:multipathd ring");
	assert_true(w.flags & VAC_PIN_LONGTERM);
	vac_report_free(res.report);
	assert_ok(vac_aio_destroy(ctx));
	assert_ok(t_offline(pool, block, 10000, NULL));
	t_close(pool);
}

/* ---- Making and ending contexts while everything moves ------------------------------------------------ */

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
} life;

static void living(struct member *m)
{
	uint64_t state = m->rnd | 1;
	struct vac_aio_event e[8];
	struct vac_aio_req q[8];
	char *buf = aligned_alloc(P, P);

	MUST(buf);
	memset(q, 0, sizeof(q));
	while (!atomic_load(&m->team->stop)) {
		unsigned events = 1 + (unsigned)(rnd(&state) % 600),
			 n = 1 + (unsigned)(rnd(&state) % 8);
		struct vac_aio *ctx = setup(life.space, events, NULL, 0);
		int r, got;

		n = n < events ? n : events;
		for (unsigned i = 0; i < n; i++)
			q[i] = (struct vac_aio_req){.op = VAC_AIO_NOP, .user_data = i, .off = i};
		r = vac_aio_submit(ctx, q, n);
		MUST(r == (int)n);
		if (rnd(&state) & 1) {
			got = vac_aio_getevents(ctx, n, 8, e, -1);
			MUST(got == (int)n);
			for (unsigned i = 0; i < n; i++)
				MUST(e[i].user_data == i && e[i].res == (int)i);
		}
		MUST_OK(vac_aio_destroy(ctx));
		atomic_fetch_add(&m->team->rounds, 1);
	}
	free(buf);
}

static void test_lives(void **state UNUSED)
{
	struct team t = {0};

	life.pool = t_pool(MIB(4), 3);
	life.space = t_space(life.pool, MIB(8));
	team_start(&t, 3, living, NULL);
	for (unsigned i = 0; i < 3; i++) {
		team_rounds(&t, scaled(50));
		t_round_of_offlines(life.pool, 3);
	}
	team_stop(&t);
	t_close(life.pool);
}

/* ---- Direct I/O of 2005 ---------------------------------------------------------------------------- */

#define FILE_PAGES 16u

static struct {
	struct vac_space *space;
	char *buf;
	int fd;
	_Atomic uint64_t reads;
} dio;

/* Reads of the whole file into the same buffer, so many at once that it is never without. */
static void reader(struct member *m)
{
	struct vac_aio *ctx = setup(dio.space, 8, "dio2005", 0);
	struct vac_aio_req q = {
		.op = VAC_AIO_READ, .fd = dio.fd, .buf = dio.buf, .len = FILE_PAGES * P};
	struct vac_aio_event e;

	for (unsigned i = 0; i < 4; i++)
		MUST(vac_aio_submit(ctx, &q, 1) == 1);
	while (!atomic_load(&m->team->stop)) {
		MUST(vac_aio_getevents(ctx, 1, 1, &e, -1) == 1);
		MUST(e.res == (int32_t)(FILE_PAGES * P));
		atomic_fetch_add(&m->team->rounds, 1);
		MUST(vac_aio_submit(ctx, &q, 1) == 1);
	}
	for (unsigned i = 0; i < 4; i++)
		MUST(vac_aio_getevents(ctx, 1, 1, &e, -1) == 1);
	MUST_OK(vac_aio_destroy(ctx));
}

static void test_direct_io_2005(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct team t = {0};
	char path[64], link[40];
	int fd;

	t_file(path, sizeof(path), FILE_PAGES, true);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	dio.fd = fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC);
	assert_true(dio.fd >= 0);
	(void)link;
	dio.space = t_space(pool, MIB(8));
	dio.buf = t_map(dio.space, MIB(2), VAC_MAP_NOHUGE);
	team_start(&t, 2, reader, NULL);
	for (unsigned i = 0; i < 3; i++) {
		team_rounds(&t, scaled(50));
		t_round_of_offlines(pool, 3);
		for (unsigned p = 0; p < FILE_PAGES; p++)
			assert_int_equal(pat_bad(dio.buf + p * P, P, p), -1);
	}
	team_stop(&t);
	close(dio.fd);
	unlink(path);
	t_close(pool);
}

/* A ring is memory like any other: it goes to the swap file while nobody needs it. */
static void test_swap(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_swap_opts so = VAC_INIT(struct vac_swap_opts);
	struct vac_space *s = t_space(pool, MIB(16));
	struct vac_aio *ctx = setup(s, 1000, NULL, 0);
	char *ring = info(ctx).ring, *mem = t_map(s, MIB(12), VAC_MAP_NOHUGE);
	struct vac_aio_req q = {.op = VAC_AIO_NOP};
	struct vac_aio_event e;
	int fd = t_swap_file(MIB(32));

	so.fd = fd;
	so.bytes = MIB(32);
	assert_ok(vac_swap_on(pool, &so));
	close(fd);
	for (uint64_t seed = 1; t_page(s, ring).present != 3; seed++)
		pat_fill(mem, MIB(12), seed);
	for (q.user_data = 0; q.user_data < 10; q.user_data++)
		assert_int_equal(vac_aio_submit(ctx, &q, 1), 1);
	/* It comes back by itself, without a call. */
	while (((volatile struct vac_aio_ring *)(void *)ring)->tail != 10)
		sched_yield();
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(vac_aio_getevents(ctx, 1, 1, &e, -1), 1);
		assert_int_equal(e.user_data, i);
	}
	assert_ok(vac_aio_destroy(ctx));
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moving),
		cmocka_unit_test(test_multipathd_2012),
		cmocka_unit_test(test_rings_that_are_held),
		cmocka_unit_test(test_lives),
		cmocka_unit_test(test_direct_io_2005),
		cmocka_unit_test(test_swap),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

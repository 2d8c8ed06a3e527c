/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Long-term pins and zones: pages leave movable memory before they are pinned for long; what cannot leave is
 * pinned all the same, told once, and reported; nothing is half done.
 */
#include "tests/util.h"

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static _Atomic unsigned warned;
static char last_warning[256];

static void note_log(void *ctx UNUSED, enum vac_log_level level, const char *msg)
{
	if (level != VAC_LOG_WARN || !strstr(msg, "long-term"))
		return;
	warned++;
	snprintf(last_warning, sizeof(last_warning), "%s", msg);
}

/* Blocks of 4 MiB, some of each zone. The program pins all that it hands to the kernel, so that the tests do
 * not depend on what the host shows. */
static struct vac_pool *mixed(unsigned movable, unsigned normal, uint32_t pct)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;

	o.flags |= VAC_POOL_PINS_ONLY;
	o.log = note_log;
	o.longterm_pct = pct;
	pool = t_open(&o, movable);
	for (unsigned i = 0; i < normal; i++)
		assert_ok(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_NORMAL));
	warned = 0;
	return pool;
}

static enum vac_zone zone_of(struct vac_space *s, const void *addr)
{
	return t_block(vac_space_pool(s), t_page(s, addr).block).zone;
}

static struct vac_pin_result pin_long(struct vac_space *s, const void *addr, size_t len,
				      unsigned flags, int want, uint64_t *pin)
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_pin_result res = VAC_INIT(struct vac_pin_result);

	o.flags = VAC_PIN_LONGTERM | flags;
	o.owner = "buffer";
	assert_int_equal(vac_pin_with(s, addr, len, &o, &res, pin), want);
	return res;
}

/* ---- Moving out ------------------------------------------------------------------------------- */

/* Base pages, huge ones, parts of them, unaligned, across pageblocks: in normal memory when the call
 * answers, by every kind of pin; then every movable block can leave. */
static void test_moves_out(void **state UNUSED)
{
	static const struct {
		size_t map, at, len;
	} shape[] = {{P, 0, 1},
		     {30 * P, 5 * P + 9, 20 * P},
		     {HUGE, 7 * P, 100},
		     {2 * HUGE, HUGE - 1, 2},
		     {HUGE + 9 * P, P, HUGE + 3 * P}};

	for (unsigned i = 0; i < 2 * COUNT(shape); i++) {
		struct vac_pool *pool = mixed(2, 2, 100);
		struct vac_space *s = t_space(pool, MIB(8));
		size_t at = shape[i / 2].at, len = shape[i / 2].len;
		char *m = t_map(s, shape[i / 2].map, i & 1 ? 0 : VAC_MAP_POPULATE);
		struct vac_pin_result res;
		uint64_t pin, a, b;

		pat_fill(m, shape[i / 2].map, i);
		assert_int_equal(zone_of(s, m + at), VAC_ZONE_MOVABLE);
		res = pin_long(s, m + at, len, i & 1 ? VAC_PIN_WRITE : VAC_PIN_STRICT, 0, &pin);
		assert_true(res.migrated >= 1 && res.unmovable_kept == 0 && res.kept_error == 0);
		for (size_t off = at; off < at + len;
		     off += off + P < at + len ? P : at + len - off)
			assert_int_equal(zone_of(s, m + off), VAC_ZONE_NORMAL);
		assert_int_equal(zone_of(s, m + at + len - 1), VAC_ZONE_NORMAL);
		assert_int_equal(pat_bad(m, shape[i / 2].map, i), -1);
		assert_true(t_stats(pool).longterm_frames >= (len + P - 1) / P);
		assert_int_equal(t_stats(pool).longterm_kept, 0);
		/* Again: it is there already. */
		assert_int_equal(pin_long(s, m + at, len, 0, 0, &a).migrated, 0);
		assert_ok(vac_pin(s, m + at, len, VAC_PIN_LONGTERM, "plain", &b));
		assert_ok(vac_unpin(pool, a));
		assert_ok(vac_unpin(pool, b));
		for (int id = 0; id < 2; id++) {
			assert_ok(t_offline(pool, id, 20000, NULL));
			assert_ok(t_online(pool, id));
		}
		assert_int_equal(warned, 0);
		assert_int_equal(pat_bad(m, shape[i / 2].map, i), -1);
		assert_ok(vac_unpin(pool, pin));
		assert_int_equal(t_stats(pool).longterm_frames, 0);
		t_close(pool);
	}
}

/* A pool of normal memory only does nothing for it. */
static void test_normal_only(void **state UNUSED)
{
	struct vac_pool *pool = mixed(0, 2, 0);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 9 * P, VAC_MAP_POPULATE);
	uint64_t pin, before = t_stats(pool).migrate_attempts;

	assert_int_equal(pin_long(s, m, 9 * P, VAC_PIN_STRICT, 0, &pin).migrated, 0);
	assert_int_equal(t_stats(pool).migrate_attempts, before);
	assert_int_equal(t_stats(pool).longterm_limit, t_stats(pool).frames_total * 3 / 4);
	assert_ok(vac_unpin(pool, pin));
	t_close(pool);
}

/* ---- What cannot move ------------------------------------------------------------------------- */

/* Seed 002: the target allocator fails. The pin is kept, one warning a call site, and the report of a later
 * offline names the pinner and says why his page is there. */
static void test_kept(void **state UNUSED)
{
	struct vac_pool *pool = mixed(3, 0, 0);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 9 * P, VAC_MAP_POPULATE);
	struct vac_offline_result or ;
	struct t_found f;
	struct vac_pin_result res;
	uint64_t pin[6], pfn = t_page(s, m).pfn;
	char text[4096] = "";
	FILE *out;

	for (int i = 0; i < 3; i++) {
		res = pin_long(s, m, 9 * P, 0, 0, &pin[i]);
		assert_int_equal(res.unmovable_kept, 9);
		assert_int_equal(res.kept_error, -ENOMEM);
		assert_int_equal(res.migrated, 0);
	}
	assert_int_equal(warned, 1);
	assert_non_null(strstr(last_warning, "buffer: a long-term pin stays in movable memory"));
	assert_ok(vac_pin(s, m, P, VAC_PIN_LONGTERM, "other site", &pin[3]));
	assert_int_equal(warned, 2);
	assert_int_equal(t_page(s, m).pins, 4);
	assert_int_equal(t_page(s, m).pfn, pfn);
	assert_int_equal(t_stats(pool).longterm_kept, 28);
	assert_int_equal(t_stats(pool).longterm_failed, 4);
	/* Strictly: an errno that says why, and nothing is held. */
	pin_long(s, m, 9 * P, VAC_PIN_STRICT, -ENOMEM, &pin[4]);
	assert_int_equal(vac_pin(s, m, P, VAC_PIN_STRICT, "without LONGTERM", &pin[4]), -EINVAL);
	assert_int_equal(t_page(s, m).pins, 4);
	assert_int_equal(t_offline(pool, t_page(s, m).block, 5000, & or), -EBUSY);
	out = fmemopen(text, sizeof(text), "w");
	assert_ok(vac_report_print(or.report, out));
	fclose(out);
	f = t_find(or.report);
	assert_int_equal(f.b.cls, VAC_HELD_LONG_PIN);
	assert_true(f.who.flags & VAC_OWNER_KEPT);
	assert_int_equal(f.who.error, -ENOMEM);
	assert_string_equal(f.who.owner, "buffer");
	assert_non_null(strstr(text, "kept in movable memory"));
	for (int i = 0; i < 4; i++)
		assert_ok(vac_unpin(pool, pin[i]));
	assert_int_equal(t_stats(pool).longterm_kept, 0);
	t_close(pool);
}

/* A range of which a part is there already, and another has no room: all of it is pinned. */
static void test_mixed_zones(void **state UNUSED)
{
	struct vac_pool *pool = mixed(2, 1, 50); /* half of 1,024 frames */
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 600 * P, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	uint64_t a, b, c;
	struct vac_pin_result res;

	pat_fill(m, 600 * P, 3);
	res = pin_long(s, m + 100 * P, 300 * P, 0, 0, &a);
	assert_int_equal(res.migrated, 300);
	res = pin_long(s, m, 600 * P, 0, 0, &b);
	assert_int_equal(res.unmovable_kept, 300);
	assert_int_equal(res.kept_error, -ENOMEM);
	assert_int_equal(t_page(s, m).pins, 1);
	assert_int_equal(t_page(s, m + 100 * P).pins, 2);
	pin_long(s, m, 600 * P, VAC_PIN_STRICT, -ENOMEM, &c);
	assert_int_equal(pat_bad(m, 600 * P, 3), -1);
	assert_ok(vac_unpin(pool, b));
	assert_ok(vac_unpin(pool, a));
	assert_ok(vac_pool_check(pool, NULL, 0));
	t_close(pool);
}

struct releaser {
	struct vac_pool *pool;
	uint64_t pin;
	unsigned ms;
};

static void release_later(struct member *m)
{
	struct releaser *r = m->arg;

	sleep_ms(r->ms);
	MUST_OK(vac_unpin(r->pool, r->pin));
}

/* Short pins of others are waited for; a long one, and one that lasts, are not: -EBUSY. */
static void test_held_by_others(void **state UNUSED)
{
	struct vac_pool *pool = mixed(2, 1, 0);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 4 * P, VAC_MAP_POPULATE);
	struct releaser r = {pool, t_pin(s, m, P, 0, "read"), 30};
	struct vac_pin_result res;
	struct team t;
	uint64_t pin, early;

	team_start(&t, 1, release_later, &r);
	res = pin_long(s, m, P, 0, 0, &pin);
	team_join(&t);
	assert_int_equal(res.migrated, 1);
	assert_ok(vac_unpin(pool, pin));
	early = t_pin(s, m + P, P, 0, "lasts");
	res = pin_long(s, m + P, P, 0, 0, &pin);
	assert_int_equal(res.kept_error, -EBUSY);
	assert_int_equal(warned, 1);
	pin_long(s, m + P, P, VAC_PIN_STRICT, -EBUSY, &pin);
	t_check(pool);
	assert_ok(vac_unpin(pool, early));
	/* The first of them is kept, and long; nobody waits for it. */
	pin_long(s, m + P, P, VAC_PIN_STRICT, -EBUSY, &early);
	vac_unpin(pool, pin);
	t_close(pool);
}

/* ---- Afterwards ------------------------------------------------------------------------------- */

/* They lie together, and go back when the last of their long-term pins has gone. */
static void test_back(void **state UNUSED)
{
	struct vac_pool *pool = mixed(2, 2, 0);
	struct vac_space *s = t_space(pool, MIB(16));
	char *m = t_map(s, MIB(4), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	char *h = t_map(s, HUGE, VAC_MAP_POPULATE);
	uint64_t pin[40], pb, big, second;

	pat_fill(m, MIB(4), 1);
	pat_fill(h, HUGE, 2);
	for (unsigned i = 0; i < 40; i++)
		pin_long(s, m + i * 23 * P, P, VAC_PIN_STRICT, 0, &pin[i]);
	pb = t_page(s, m).pfn / 512;
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(t_page(s, m + i * 23 * P).pfn / 512, pb);
	pin_long(s, h, HUGE, VAC_PIN_STRICT, 0, &big);
	pin_long(s, h, P, VAC_PIN_STRICT, 0, &second);
	for (unsigned i = 1; i < 40; i++)
		assert_ok(vac_unpin(pool, pin[i]));
	assert_ok(vac_unpin(pool, big));
	for (unsigned i = 1; i < 40; i++)
		while (zone_of(s, m + i * 23 * P) != VAC_ZONE_MOVABLE)
			sleep_ms(5);
	assert_int_equal(zone_of(s, m), VAC_ZONE_NORMAL);
	assert_int_equal(zone_of(s, h), VAC_ZONE_NORMAL);
	assert_ok(vac_unpin(pool, second));
	assert_ok(vac_unpin(pool, pin[0]));
	while (zone_of(s, m) != VAC_ZONE_MOVABLE || zone_of(s, h) != VAC_ZONE_MOVABLE)
		sleep_ms(5);
	assert_int_equal(pat_bad(m, MIB(4), 1), -1);
	assert_int_equal(pat_bad(h, HUGE, 2), -1);
	assert_true(t_stats(pool).longterm_moved_back >= 40 + 512);
	t_close(pool);
}

struct busy {
	struct vac_space *space;
	char *mem;
	unsigned pages;
};

/* Takes and drops long-term pins of a few pages of its own, and writes under them. */
static void pin_and_write(struct member *m)
{
	struct busy *b = m->arg;
	struct vac_pool *pool = vac_space_pool(b->space);
	char *mine = b->mem + (size_t)m->nr * b->pages * P;
	uint64_t n = 0;

	while (!m->team->stop) {
		unsigned at = (unsigned)(m->rnd >> 33) % (b->pages - 4);
		uint64_t pin;

		m->rnd = m->rnd * 6364136223846793005u + 1442695040888963407u;
		MUST_OK(vac_pin(b->space, mine + at * P, 3 * P + 8,
				VAC_PIN_LONGTERM | VAC_PIN_WRITE, "worker", &pin));
		for (unsigned i = 0; i < 4; i++) {
			uint64_t *w = (uint64_t *)(mine + (at + i) * P);

			*w = ++n;
			MUST(*(volatile uint64_t *)w == n);
		}
		MUST_OK(vac_unpin(pool, pin));
		m->team->rounds++;
	}
}

/* Long-term pins come and go while every movable block leaves, and comes back. */
static void test_beside_offline(void **state UNUSED)
{
	struct vac_pool *pool = mixed(3, 1, 100);
	struct vac_space *s = t_space(pool, MIB(8));
	struct busy b = {s, t_map(s, 96 * P, 0), 32};
	struct team t;
	int left = 0;

	team_start(&t, 3, pin_and_write, &b);
	for (int round = 0; round < (TSAN || ASAN ? 2 : 6); round++) {
		for (int id = 0; id < 3; id++) {
			struct vac_offline_result res;
			int r = t_offline(pool, id, 20000, &res);

			vac_report_free(res.report);
			MUST(r == 0 || r == -EBUSY);
			left += r == 0;
			if (r == 0)
				assert_ok(t_online(pool, id));
		}
		team_rounds(&t, 20);
	}
	team_stop(&t);
	assert_true(left > 0);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves_out),      cmocka_unit_test(test_normal_only),
		cmocka_unit_test(test_kept),           cmocka_unit_test(test_mixed_zones),
		cmocka_unit_test(test_held_by_others), cmocka_unit_test(test_back),
		cmocka_unit_test(test_beside_offline),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/pin.c, ledger.c and report.c: what a pin holds and for how long, that its count is exact, and
 * that whoever holds is found by name, from the first moment.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static struct vac_pool *pool;
static struct vac_space *space;
static char *base_mem, *huge_mem; /* two pageblocks each, filled */

static int setup(void **state UNUSED)
{
	pool = t_pool(MIB(4), 4);
	space = t_space(pool, MIB(32));
	base_mem = t_map(space, 2 * HUGE, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	huge_mem = t_map(space, 2 * HUGE, VAC_MAP_POPULATE);
	assert_int_equal(t_page(space, huge_mem).huge, 1);
	assert_int_equal(t_page(space, base_mem).huge, 0);
	return 0;
}

static int teardown(void **state UNUSED)
{
	if (pool)
		t_close(pool);
	pool = NULL;
	return 0;
}

static uint32_t pins_at(const void *addr)
{
	return t_page(space, addr).pins;
}

static uint64_t all_pins(void)
{
	uint64_t n = 0;

	for (size_t off = 0; off < 2 * HUGE; off += P) {
		struct vac_page_info i = VAC_INIT(struct vac_page_info);

		if (vac_page_info(space, base_mem + off, &i) == 0) /* it may be unmapped by now */
			n += i.pins;
	}
	return n + pins_at(huge_mem) + pins_at(huge_mem + HUGE);
}

/* ---- What is held ------------------------------------------------------------------------------- */

/* Bytes, not pages, are given: each folio that has one of them is pinned, once, and no other. */
static void test_extent(void **state UNUSED)
{
	static const struct {
		size_t off, len;
		unsigned first, n;
	} range[] = {{0, 1, 0, 1},          {0, P, 0, 1},
		     {P - 1, 1, 0, 1},      {P - 1, 2, 0, 2},
		     {P, 3 * P, 1, 3},      {P / 2, 3 * P, 0, 4},
		     {1, 3 * P - 1, 0, 3},  {510 * P, 4 * P, 510, 4},
		     {0, 1024 * P, 0, 1024}};

	for (unsigned i = 0; i < COUNT(range); i++) {
		uint64_t pin = t_pin(space, base_mem + range[i].off, range[i].len, 0, "x");

		for (unsigned k = 0; k < 1024; k++)
			assert_int_equal(pins_at(base_mem + k * P),
					 k >= range[i].first && k < range[i].first + range[i].n);
		assert_int_equal(t_stats(pool).pins, 1);
		assert_ok(vac_unpin(pool, pin));
		assert_int_equal(all_pins(), 0);
		assert_int_equal(t_stats(pool).pins, 0);
	}
}

/* Huge folios partly covered, as the kernel's hugetlb_dio test has them (semantics.md K.5). */
static void test_extent_huge(void **state UNUSED)
{
	const size_t p = HUGE;
	const size_t range[][2] = {
		{0, 2 * p}, {0, 2 * p - p / 2}, {p / 2, 2 * p}, {p / 2, p + p / 2},
		{0, 1},     {p - 1, p + 1},     {p - 1, p},     {0, p}};

	for (unsigned i = 0; i < COUNT(range); i++) {
		char *at = huge_mem + range[i][0];
		uint64_t free = t_stats(pool).frames_free, pin;
		bool second = range[i][1] > p;

		pin = t_pin(space, at, range[i][1] - range[i][0], VAC_PIN_WRITE, "dio");
		assert_int_equal(pins_at(huge_mem), 1);
		assert_int_equal(pins_at(huge_mem + HUGE), second);
		/* Unmapped, but kept for the pin; then gone. */
		assert_ok(vac_unmap(space, huge_mem, 2 * HUGE));
		assert_int_equal(t_stats(pool).frames_free, free + (second ? 0 : 512));
		assert_ok(vac_unpin(pool, pin));
		assert_int_equal(t_stats(pool).frames_free, free + 1024);
		assert_ok(vac_map(space, huge_mem, 2 * HUGE, RW, VAC_MAP_FIXED | VAC_MAP_POPULATE,
				  &(void *){NULL}));
	}
}

/* From base memory over the border into huge, with pages that are not there yet in between. */
static void test_extent_mixed(void **state UNUSED)
{
	char *at = huge_mem < base_mem ? huge_mem + HUGE : base_mem + HUGE;
	char *end = huge_mem < base_mem ? base_mem + HUGE : huge_mem + HUGE;
	uint64_t pin;

	assert_ptr_equal(end, at + 2 * HUGE); /* the two mappings touch */
	assert_ok(vac_advise(space, base_mem, 2 * HUGE, VAC_ADV_DONTNEED));
	pin = t_pin(space, at + 5, 2 * HUGE - 10, VAC_PIN_WRITE, "mixed");
	assert_int_equal(all_pins(), 512 + 1);
	memset(at, 1, 2 * HUGE);
	assert_ok(vac_unpin(pool, pin));
	assert_int_equal(all_pins(), 0);
}

/* Frames that lie nowhere together: a run each. More than the record has room for by itself, more
 * than its first overflow has, and fewer again with the same record. */
static void test_scattered(void **state UNUSED)
{
	struct vac_pool *other = t_pool(MIB(8), 2);
	struct vac_space *s = t_space(other, MIB(32));
	static const unsigned pages[] = {3, 4, 5, 8, 511, 512, 513, 600, 2048, 5, 2048};
	char *mem = t_scattered(s, MIB(8));

	for (unsigned i = 0; i < COUNT(pages); i++) {
		uint64_t a = t_pin(s, mem, pages[i] * P, 0, "many runs");
		uint64_t b = t_pin(s, mem + P, (pages[i] - 2) * P, VAC_PIN_WRITE, "inside");
		unsigned found = 0;

		t_check(other); /* what is counted is what the records say */
		for (unsigned k = 0; k < 2048; k++)
			assert_int_equal(t_page(s, mem + k * P).pins,
					 (k < pages[i]) + (k >= 1 && k < pages[i] - 1));
		for (int id = 0; id < 2; id++) {
			struct vac_report *r;
			struct vac_owner who;

			assert_ok(vac_report_block(other, id, &r));
			found += vac_report_count(r);
			for (unsigned k = 0; k < vac_report_count(r); k++)
				assert_ok(vac_report_owner(r, k, 0, &who));
			vac_report_free(r);
		}
		assert_int_equal(found, pages[i]);
		assert_ok(vac_unpin(other, a));
		t_check(other);
		assert_ok(vac_unpin(other, b));
	}
	t_close(other);
}

/* ---- All or nothing ---------------------------------------------------------------------------------- */

static void test_refused(void **state UNUSED)
{
	uint64_t pin = 77;
	char *m = base_mem;

	assert_ok(vac_unmap(space, m + 5 * P, P));
	assert_int_equal(vac_pin(space, m, 10 * P, 0, "x", &pin), -EFAULT);
	assert_int_equal(vac_pin(space, m + 5 * P, 1, 0, "x", &pin), -EFAULT);
	assert_int_equal(vac_pin(space, m, 5 * P + 1, 0, "x", &pin), -EFAULT);
	assert_int_equal(all_pins() + t_stats(pool).pins, 0);
	assert_ok(vac_protect(space, m + 20 * P, P, VAC_PROT_READ));
	assert_int_equal(vac_pin(space, m + 15 * P, 10 * P, VAC_PIN_WRITE, "x", &pin), -EFAULT);
	assert_ok(vac_protect(space, m + 30 * P, P, VAC_PROT_NONE));
	assert_int_equal(vac_pin(space, m + 25 * P, 10 * P, 0, "x", &pin), -EFAULT);
	assert_int_equal(all_pins() + t_stats(pool).pins, 0);
	assert_int_equal(pin, 77); /* and the handle is not touched */
	assert_ok(vac_pin(space, m + 15 * P, 10 * P, VAC_PIN_READ, "x", &pin));
	assert_ok(vac_unpin(pool, pin));
	assert_ok(vac_protect(space, m + 20 * P, P, RW));
	assert_ok(vac_pin(space, m + 15 * P, 10 * P, VAC_PIN_WRITE, "x", &pin));
	assert_ok(vac_unpin(pool, pin));
	/* Memory that never can be there. */
	{
		char *ro = NULL;

		assert_ok(vac_map(space, NULL, 4 * P, VAC_PROT_READ, 0, (void **)&ro));
		assert_int_equal(vac_pin(space, ro, 4 * P, VAC_PIN_WRITE, "x", &pin), -EFAULT);
		assert_ok(vac_pin(space, ro, 4 * P, VAC_PIN_READ, "x", &pin));
		assert_ok(vac_unpin(pool, pin));
	}
	t_check(pool);
}

/* A folio full of pins refuses one more, and what the call had taken of others is let go. */
static void test_overflow(void **state UNUSED)
{
	uint32_t pfn = (uint32_t)t_page(space, base_mem + 3 * P).pfn;
	vac__word *w = &vac__frame(pool, pfn)->word;
	uint64_t pin[4];

	vac__add(w, VAC__W_PIN * ((1u << 19) - 2)); /* half a million minus two */
	assert_ok(vac_pin(space, base_mem, 10 * P, 0, "x", &pin[0]));
	assert_ok(vac_pin(space, base_mem + 3 * P, P, 0, "x", &pin[1]));
	assert_int_equal(vac_pin(space, base_mem, 10 * P, 0, "x", &pin[2]), -EOVERFLOW);
	assert_int_equal(vac_pin(space, base_mem + 3 * P, 1, 0, "x", &pin[2]), -EOVERFLOW);
	assert_int_equal(pins_at(base_mem), 1);
	assert_int_equal(pins_at(base_mem + 2 * P), 1);
	assert_int_equal(pins_at(base_mem + 3 * P), 1u << 19);
	assert_int_equal(t_stats(pool).pins, 2);
	assert_ok(vac_pin(space, base_mem + 4 * P, 10 * P, 0, "x", &pin[2]));
	assert_ok(vac_unpin(pool, pin[0]));
	assert_ok(vac_pin(space, base_mem, 10 * P, 0, "x", &pin[0]));
	for (int i = 0; i < 3; i++)
		assert_ok(vac_unpin(pool, pin[i]));
	vac__sub(w, VAC__W_PIN * ((1u << 19) - 2));
}

/* No memory for one page of the range: nothing stays pinned. */
static void test_no_memory(void **state UNUSED)
{
	char *big = t_map(space, MIB(16), VAC_MAP_NOHUGE);
	uint64_t pin, used;

	assert_int_equal(vac_pin(space, big, MIB(16), 0, "x", &pin), -ENOMEM);
	used = t_stats(pool).frames_used;
	for (size_t off = 0; off < MIB(16); off += P)
		assert_int_equal(t_page(space, big + off).pins, 0);
	assert_int_equal(t_stats(pool).pins, 0);
	assert_ok(vac_unmap(space, big, MIB(16)));
	assert_true(t_stats(pool).frames_used < used);
	t_check(pool);
}

/* ---- Handles --------------------------------------------------------------------------------------- */

static void test_handles(void **state UNUSED)
{
	uint64_t pin[200], seed = t_seed(1), old;

	assert_int_equal(vac_unpin(pool, 0), -EINVAL);
	assert_int_equal(vac_unpin(pool, UINT64_MAX), -EINVAL);
	for (unsigned i = 0; i < COUNT(pin); i++)
		pin[i] = t_pin(space, base_mem + i * P, 1, 0, "x");
	for (unsigned i = 0; i < COUNT(pin); i++)
		for (unsigned k = 0; k < i; k++)
			assert_true(pin[i] != pin[k]);
	/* Whatever number is tried that was never given: no. */
	for (unsigned i = 0; i < 200000; i++) {
		uint64_t h = rnd(&seed);
		bool real = false;

		if (i % 2) /* close to one that is */
			h = pin[h % COUNT(pin)] +
			    (rnd(&seed) % 64 - 32) * (1ull << rnd(&seed) % 40);
		for (unsigned k = 0; k < COUNT(pin); k++)
			real |= pin[k] == h;
		if (!real)
			assert_int_equal(vac_unpin(pool, h), -EINVAL);
	}
	assert_int_equal(all_pins(), COUNT(pin));
	for (unsigned i = 0; i < COUNT(pin); i++) {
		assert_ok(vac_unpin(pool, pin[i]));
		assert_int_equal(vac_unpin(pool, pin[i]), -EINVAL);
		assert_int_equal(pins_at(base_mem + i * P), 0);
	}
	/* Records are used again; the handles of before are not good for the pins of now. */
	old = pin[0];
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t now = t_pin(space, base_mem, 1, 0, "x");

		assert_true(now != old);
		assert_int_equal(vac_unpin(pool, old), -EINVAL);
		assert_int_equal(pins_at(base_mem), 1);
		assert_ok(vac_unpin(pool, now));
		if (i % 100 == 0)
			old = now;
	}
	assert_int_equal(all_pins(), 0);
}

#define HANDLES 512
static uint64_t handle[HANDLES];
static _Atomic uint32_t dropped[HANDLES];
static struct meeting crowd;

static void drop_all(struct member *m)
{
	for (unsigned round = 0; round < scaled(100); round++) {
		if (m->nr == 0)
			for (unsigned i = 0; i < HANDLES; i++) {
				dropped[i] = 0;
				handle[i] = t_pin(space, base_mem + i * P, 1, 0, "contested");
			}
		meet(&crowd, m->team->n);
		for (unsigned i = 0; i < HANDLES; i++) {
			int r = vac_unpin(pool, handle[i]);

			MUST(r == 0 || r == -EINVAL);
			dropped[i] += r == 0;
		}
		meet(&crowd, m->team->n);
		if (m->nr == 0)
			for (unsigned i = 0; i < HANDLES; i++)
				MUST(dropped[i] == 1 && pins_at(base_mem + i * P) == 0);
		meet(&crowd, m->team->n);
	}
}

/* Of several threads that drop the same pin exactly one does. */
static void test_double_unpin(void **state UNUSED)
{
	struct team t;

	team_start(&t, 3, drop_all, NULL);
	team_join(&t);
	assert_int_equal(t_stats(pool).pins, 0);
}

static _Atomic uint64_t mailbox[16];
static _Atomic bool no_more;

/* One member pins, the other drops what it finds: handles are of no thread. */
static void hand_over(struct member *m)
{
	for (unsigned i = 0; m->nr == 0 && i < scaled(50000); i++) {
		uint64_t h = t_pin(space, base_mem + i % 1024 * P, 1, 0, "handed over"), old = 0;

		while (!atomic_compare_exchange_strong(&mailbox[i % 16], &old, h)) {
			old = 0;
			sched_yield();
		}
	}
	no_more |= m->nr == 0;
	for (bool last = false; m->nr == 1 && !last;) {
		last = no_more;
		for (unsigned i = 0; i < 16; i++) {
			uint64_t h = atomic_exchange(&mailbox[i], 0);

			if (h)
				MUST_OK(vac_unpin(pool, h));
		}
		sched_yield();
	}
}

/* One thread pins, another drops, as with completions: the ledger stays as small as the number of
 * pins alive at once, else every report would go through all that ever were. */
static void test_hand_over(void **state UNUSED)
{
	struct team t;

	memset(mailbox, 0, sizeof(mailbox));
	no_more = false;
	team_start(&t, 2, hand_over, NULL);
	team_join(&t);
	assert_int_equal(t_stats(pool).pins, 0);
	assert_true(pool->ledger.top <= 4096);
}

/* ---- Exact counts ------------------------------------------------------------------------------------ */

static _Atomic uint32_t shadow[1024 + 2];

static void hold_some(struct member *m)
{
	struct {
		uint64_t pin;
		unsigned first, n; /* base pages, then the two huge folios */
	} held[20];
	unsigned n = 0;

	for (unsigned round = 0; round < 40; round++) {
		for (unsigned step = 0; step < scaled(2000); step++) {
			uint64_t r = rnd(&m->rnd);

			if (n < COUNT(held) && r % 2) {
				unsigned first = (unsigned)(r / 2 % 1026);
				unsigned len = 1 + (unsigned)(r >> 20) % 40;
				char *at;

				if (first >= 1024) {
					at = huge_mem + (first - 1024) * HUGE +
					     (r >> 30) % (HUGE - 50);
					len = 1;
				} else {
					if (len > 1024 - first)
						len = 1024 - first;
					at = base_mem + first * P;
				}
				held[n].pin = t_pin(space, at, first >= 1024 ? 50 : len * P,
						    (unsigned)(r >> 40) &
							    (VAC_PIN_WRITE | VAC_PIN_LONGTERM),
						    "random");
				held[n].first = first;
				held[n++].n = len;
				for (unsigned i = first; i < first + len; i++)
					shadow[i]++;
			} else if (n) {
				unsigned k = (unsigned)(r / 2 % n);

				for (unsigned i = held[k].first; i < held[k].first + held[k].n; i++)
					shadow[i]--;
				MUST_OK(vac_unpin(pool, held[k].pin));
				held[k] = held[--n];
			}
		}
		meet(&crowd, m->team->n + 1);
		meet(&crowd, m->team->n + 1);
	}
	while (n)
		MUST_OK(vac_unpin(pool, held[--n].pin));
}

/* Threads pin and drop ranges that overlap; whenever they pause, every folio has exactly the pins
 * that are held, and the records say the same. */
static void test_exact(void **state UNUSED)
{
	struct team t;

	memset(shadow, 0, sizeof(shadow));
	team_start(&t, 4, hold_some, NULL);
	for (unsigned round = 0; round < 40; round++) {
		meet(&crowd, 5);
		for (unsigned i = 0; i < 1026; i++) {
			char *at = i < 1024 ? base_mem + i * P : huge_mem + (i - 1024) * HUGE;

			MUST(pins_at(at) == shadow[i]);
		}
		MUST_OK(vac_pool_check(pool, NULL, 0));
		meet(&crowd, 5);
	}
	team_join(&t);
	assert_int_equal(all_pins(), 0);
	assert_int_equal(t_stats(pool).pins, 0);
	assert_int_equal(pool->ledger.longterm, 0);
}

/* ---- Found by name ------------------------------------------------------------------------------------- */

struct wanted {
	uintptr_t addr; /* of the folio */
	const char *owner;
	unsigned seen, others;
	struct vac_blocker b;
	struct vac_owner who;
};

static struct vac_report *walking;
static unsigned walked;

static int look_for(void *ctx, const struct vac_blocker *b)
{
	struct wanted *w = ctx;
	unsigned i = walked++;

	for (unsigned k = 0; b->addr == w->addr && k < b->owners; k++) {
		struct vac_owner who;

		MUST_OK(vac_report_owner(walking, i, k, &who));
		if (!strcmp(who.owner, w->owner)) {
			w->b = *b;
			w->who = who;
			w->seen++;
		} else {
			w->others++;
		}
	}
	return 0;
}

/* Look for an owner of the folio that is mapped at addr. */
static struct wanted report_on(const void *addr, const char *owner)
{
	struct vac_page_info i = t_page(space, addr);
	struct wanted w = {.owner = owner};

	w.addr = (uintptr_t)addr & ~((i.huge ? HUGE : P) - 1);
	MUST_OK(vac_report_block(pool, i.block, &walking));
	walked = 0;
	MUST_OK(vac_report_walk(walking, look_for, &w));
	MUST(walked == vac_report_count(walking));
	vac_report_free(walking);
	return w;
}

static void *pin_under_a_name(void *arg)
{
	prctl(PR_SET_NAME, "the-pinner");
	*(_Atomic uint64_t *)arg = t_pin(space, huge_mem + 5000, 7000,
					 VAC_PIN_WRITE | VAC_PIN_LONGTERM | VAC_PIN_STACK,
					 "a long-term owner");
	while (*(_Atomic uint64_t *)arg)
		sleep_ms(1);
	return NULL;
}

static void test_report_says(void **state UNUSED)
{
	const char *longest = "123456789 123456789 123456789 123456789 123456789";
	struct wanted w;
	_Atomic uint64_t other = 0;
	uint64_t pin, stranger;
	pthread_t t;

	pin = t_pin(space, base_mem + 10 * P + 100, 200, VAC_PIN_READ, longest);
	sleep_ms(60);
	w = report_on(base_mem + 10 * P, "123456789 123456789 123456789 123456789");
	assert_int_equal(strlen(w.owner), VAC_OWNER_MAX - 1);
	assert_int_equal(w.seen, 1);
	assert_int_equal(w.b.cls, VAC_HELD_SHORT_PIN);
	assert_int_equal(w.b.frames, 1);
	assert_int_equal(w.b.refs, 0);
	assert_int_equal(w.b.pins, 1);
	assert_int_equal(w.b.map, 1);
	assert_int_equal(w.b.expected_refs, 0);
	assert_int_equal(w.b.frozen + w.b.gated + w.b.waiters + w.b.locked, 0);
	assert_int_equal(w.b.pfn, t_page(space, base_mem + 10 * P).pfn);
	assert_string_equal(w.b.space, "space");
	assert_int_equal(w.who.tid, (uint32_t)syscall(SYS_gettid));
	assert_int_equal(w.who.addr, (uintptr_t)base_mem + 10 * P + 100);
	assert_int_equal(w.who.len, 200);
	assert_int_equal(w.who.flags, VAC_PIN_READ);
	assert_int_equal(w.who.stack_depth, 0);
	assert_true(w.who.age_ns >= 40000000 && w.who.age_ns < 60000000000);
	assert_ok(vac_unpin(pool, pin));
	assert_int_equal(
		report_on(base_mem + 10 * P, "123456789 123456789 123456789 123456789").seen, 0);

	pin = t_pin(space, base_mem, 1, 0, NULL);
	assert_int_equal(report_on(base_mem, "?").seen, 1);
	stranger = t_pin(space, base_mem, 1, 0, "");
	assert_int_equal(report_on(base_mem, "").seen, 1);
	assert_int_equal(report_on(base_mem, "").others, 1);
	assert_ok(vac_unpin(pool, pin));
	assert_ok(vac_unpin(pool, stranger));

	pthread_create(&t, NULL, pin_under_a_name, &other);
	while (!other)
		sleep_ms(1);
	w = report_on(huge_mem, "a long-term owner");
	assert_int_equal(w.seen, 1);
	assert_int_equal(w.b.cls, VAC_HELD_LONG_PIN);
	assert_int_equal(w.b.frames, 512);
	assert_int_equal(w.who.flags & ~VAC_OWNER_KEPT,
			 VAC_PIN_WRITE | VAC_PIN_LONGTERM | VAC_PIN_STACK);
	assert_string_equal(w.who.thread, "the-pinner");
	assert_true(w.who.stack_depth > 0);
	pin = other;
	other = 0;
	pthread_join(t, NULL);
	w = report_on(huge_mem, "a long-term owner"); /* the thread has ended, its pin has not */
	assert_int_equal(w.seen, 1);
	assert_string_equal(w.who.thread, "");
	assert_ok(vac_unpin(pool, pin));
}

/* Blockers of one owner are together, the heaviest group first; the text says all that. */
static void test_report_groups(void **state UNUSED)
{
	uint64_t pin[8];
	struct vac_report *r;
	struct vac_owner who;
	char last[VAC_OWNER_MAX] = "", *text = NULL;
	unsigned changes = 0;
	size_t n = 0;
	FILE *f;
	int id = t_page(space, base_mem).block;

	pin[0] = t_pin(space, base_mem, 2 * P, 0, "two");
	pin[1] = t_pin(space, base_mem + 4 * P, P, 0, "one");
	pin[2] = t_pin(space, base_mem + 6 * P, 5 * P, VAC_PIN_LONGTERM, "six");
	pin[3] = t_pin(space, base_mem + 20 * P, P, 0, "six");
	assert_ok(vac_report_block(pool, id, &r));
	assert_int_equal(vac_report_count(r), 9);
	for (unsigned i = 0; i < 9; i++) {
		assert_ok(vac_report_owner(r, i, 0, &who));
		if (strcmp(last, who.owner)) {
			strcpy(last, who.owner);
			assert_string_equal(last, changes == 0   ? "six"
						  : changes == 1 ? "two"
								 : "one");
			changes++;
		}
		assert_int_equal(vac_report_owner(r, i, 1, &who), -ERANGE);
	}
	assert_int_equal(changes, 3);
	assert_int_equal(vac_report_owner(r, 9, 0, &who), -ERANGE);
	assert_int_equal(vac_report_owner(NULL, 0, 0, &who), -ERANGE);
	assert_int_equal(vac_report_count(NULL), 0);
	f = open_memstream(&text, &n);
	assert_ok(vac_report_print(r, f));
	fclose(f);
	assert_non_null(strstr(text, "held by \"six\": 24 KiB"));
	assert_non_null(strstr(text, "held by \"two\": 8 KiB"));
	assert_non_null(strstr(text, "long pin"));
	assert_non_null(strstr(text, "short pin"));
	assert_true(strstr(text, "six") < strstr(text, "two") &&
		    strstr(text, "two") < strstr(text, "one"));
	free(text);
	f = fopen("/dev/full", "w");
	setvbuf(f, NULL, _IONBF, 0);
	assert_int_equal(vac_report_print(r, f), -EIO);
	fclose(f);
	vac_report_free(r);
	for (int i = 0; i < 4; i++)
		assert_ok(vac_unpin(pool, pin[i]));
	assert_ok(vac_report_block(pool, id, &r));
	assert_int_equal(vac_report_count(r), 0);
	vac_report_free(r);
	assert_int_equal(vac_report_block(pool, 99, &r), -ENOENT);
	assert_int_equal(vac_report_block(pool, -1, &r), -ENOENT);
}

__attribute__((noinline)) uint64_t pin_in_a_named_function(unsigned flags);

__attribute__((noinline)) uint64_t pin_in_a_named_function(unsigned flags)
{
	uint64_t pin;

	MUST_OK(vac_pin(space, base_mem, 1, flags, "stack", &pin));
	__asm__ volatile("" ::: "memory");
	return pin;
}

static void test_stack(void **state UNUSED)
{
	struct vac_report *r;
	struct vac_owner who;
	char *text = NULL;
	size_t n = 0;
	FILE *f;
	uint64_t pin;

	for (unsigned flags = 0; flags <= VAC_PIN_STACK; flags += VAC_PIN_STACK) {
		pin = pin_in_a_named_function(flags);
		assert_ok(vac_report_block(pool, t_page(space, base_mem).block, &r));
		assert_ok(vac_report_owner(r, 0, 0, &who));
		f = open_memstream(&text, &n);
		assert_ok(vac_report_print(r, f));
		fclose(f);
		if (flags) {
			assert_true(who.stack_depth >= 2 && who.stack_depth <= VAC_STACK_MAX);
			assert_true(who.stack[0] - (uintptr_t)pin_in_a_named_function < 500);
			assert_non_null(strstr(text, "pin_in_a_named_function"));
		} else {
			assert_int_equal(who.stack_depth, 0);
		}
		free(text);
		vac_report_free(r);
		assert_ok(vac_unpin(pool, pin));
	}
}

/* A pool that records all stacks; and there may be more stacks than it has room for. */
static uint64_t (*deep)(struct vac_space *s, char *m, unsigned path);

static uint64_t go_deep(struct vac_space *s, char *m, unsigned path)
{
	uint64_t pin;

	if (path < 2)
		return t_pin(s, m, 1, 0, "deep");
	/* Which call is made where makes a stack of its own of each path. */
	if (path & 1)
		pin = deep(s, m, path >> 1);
	else
		pin = deep(s, m + 1, path >> 1);
	__asm__ volatile("" ::: "memory");
	return pin;
}

static void test_stacks_run_out(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *other;
	struct vac_report *r;
	struct vac_owner who;
	struct vac_space *s;
	unsigned with = 0;
	uint64_t pin;
	char *m;

	o.flags = VAC_POOL_STACKS;
	other = t_open(&o, 1);
	s = t_space(other, MIB(2));
	m = t_map(s, P, VAC_MAP_POPULATE);
	deep = go_deep;
	for (unsigned path = 4096; path < 4096 + scaled(6000); path++) {
		pin = deep(s, m, path);
		if (path % 64 == 0) {
			assert_ok(vac_report_block(other, 0, &r));
			assert_ok(vac_report_owner(r, 0, 0, &who));
			with += who.stack_depth != 0;
			vac_report_free(r);
		}
		assert_ok(vac_unpin(other, pin));
	}
	assert_true(with > 0);
	t_close(other);
}

/* Pins come and go all over a block while it is looked at again and again. A pin whose call has
 * returned is in every report from then on, until it is dropped. */
static struct {
	_Atomic uint32_t serial; /* of the pin that is held; odd: held */
	_Atomic uint32_t seen;
	char *addr;
	char owner[32];
} stage;

static void appear(struct member *m)
{
	for (uint32_t i = 1; !m->team->stop; i += 2) {
		uint64_t pin;

		stage.addr = base_mem + rnd(&m->rnd) % 1024 * P;
		if (i % 8 == 7)
			stage.addr = huge_mem + rnd(&m->rnd) % 2 * HUGE;
		snprintf(stage.owner, sizeof(stage.owner), "number %u", i);
		pin = t_pin(space, stage.addr, 1 + rnd(&m->rnd) % 5 * P / 4, 0, stage.owner);
		stage.serial = i;
		while (stage.seen != i && !m->team->stop)
			sched_yield();
		stage.serial = i + 1;
		MUST_OK(vac_unpin(pool, pin));
	}
}

static void come_and_go(struct member *m)
{
	while (!m->team->stop) {
		size_t at = rnd(&m->rnd) % 1000 * P, len = 1 + rnd(&m->rnd) % 24 * P;
		uint64_t pin = t_pin(space, base_mem + at, len, 0, "coming and going");

		if (rnd(&m->rnd) % 8 == 0)
			sched_yield();
		MUST_OK(vac_unpin(pool, pin));
		m->team->rounds++;
	}
}

static void test_seen_at_once(void **state UNUSED)
{
	struct team one, many;
	uint64_t end = t_ms() + scaled(2500);
	unsigned looks = 0;

	memset(&stage, 0, sizeof(stage));
	team_start(&many, 2, come_and_go, NULL);
	team_start(&one, 1, appear, NULL);
	while (t_ms() < end || looks < 3) {
		uint32_t serial = stage.serial;
		char owner[32];
		struct wanted w;

		if (!(serial & 1) || serial == stage.seen)
			continue;
		strcpy(owner, stage.owner);
		w = report_on(stage.addr, owner);
		MUST(w.seen == 1);
		MUST(w.b.pins >= 1);
		looks++;
		stage.seen = serial;
	}
	team_stop(&one);
	team_stop(&many);
	assert_true(looks >= 3 && many.rounds > 100);
}

/* ---- Pinned memory under other calls ------------------------------------------------------------------- */

/* Memory that is unmapped under a pin stays with the pin: same frame, same bytes, nobody else's. */
static void test_unmap_pinned(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		char *m = huge ? huge_mem : base_mem;
		size_t len = huge ? HUGE : 16 * P;
		uint32_t pfn = (uint32_t)t_page(space, m).pfn;
		char *device;
		uint64_t pin, used;

		pat_fill(m, len, 1);
		pin = t_pin(space, m, len, VAC_PIN_WRITE, "dma");
		device = vac__frame_addr(pool, pfn);
		used = t_stats(pool).frames_used;
		assert_ok(vac_unmap(space, m, len));
		assert_int_equal(t_stats(pool).frames_used, used);
		assert_int_equal(pat_bad(device, P, 1), -1);
		assert_ok(vac_map(space, m, len, RW, VAC_MAP_FIXED, &(void *){NULL}));
		assert_int_equal(zero_bad(m, len), -1); /* other memory */
		pat_fill(m, len, 2);
		assert_int_not_equal(t_page(space, m).pfn, pfn);
		memset(device, 9, P); /* the transfer ends, where nobody looks */
		assert_int_equal(pat_bad(m, len, 2), -1);
		assert_int_equal(vac_space_destroy(space), -EBUSY);
		assert_int_equal(pat_bad(m, len, 2), -1);
		assert_int_equal(t_stats(pool).frames_used, used + len / P);
		assert_ok(vac_unpin(pool, pin));
		assert_int_equal(t_stats(pool).frames_used, used);
		t_check(pool);
	}
}

static int cut_unmap(char *at)
{
	return vac_unmap(space, at, P);
}

static int cut_protect(char *at)
{
	return vac_protect(space, at, P, VAC_PROT_READ);
}

static int cut_dontneed(char *at)
{
	return vac_advise(space, at, P, VAC_ADV_DONTNEED);
}

static int (*const cuts[3])(char *at) = {cut_unmap, cut_protect, cut_dontneed};

/* A pinned huge folio cannot be cut: -EBUSY, after the gate's time and not before, nothing changed. */
static void test_cut_pinned(void **state UNUSED)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t pin, t;

		pat_fill(huge_mem, HUGE, i);
		pin = t_pin(space, huge_mem + 100 * P, P, 0, "x");
		t = t_ms();
		assert_int_equal(cuts[i](huge_mem + 300 * P), -EBUSY);
		t = t_ms() - t;
		assert_true(t >= 290 && t < 20000);
		assert_int_equal(t_page(space, huge_mem).huge, 1);
		assert_true(can_write(huge_mem + 300 * P));
		assert_int_equal(pat_bad(huge_mem, HUGE, i), -1);
		/* Whole is another matter. */
		assert_ok(vac_protect(space, huge_mem, HUGE, VAC_PROT_READ));
		assert_ok(vac_protect(space, huge_mem, HUGE, RW));
		assert_ok(vac_unpin(pool, pin));
		assert_int_equal(pat_bad(huge_mem, HUGE, i), -1);
		t_check(pool);
	}
}

static void unpin_after_50ms(struct member *m)
{
	sleep_ms(50);
	MUST_OK(vac_unpin(pool, *(uint64_t *)m->arg));
}

/* It waits for the pin to be dropped, though, and then does it; also among others that pin. */
static void test_cut_waits(void **state UNUSED)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t pin = t_pin(space, huge_mem, P, 0, "x");
		struct team t, others;

		team_start(&others, 1, come_and_go, NULL);
		team_start(&t, 1, unpin_after_50ms, &pin);
		MUST(cuts[i](huge_mem + 300 * P) == 0);
		team_join(&t);
		team_stop(&others);
		assert_ok(vac_unmap(space, huge_mem, HUGE));
		assert_ok(vac_map(space, huge_mem, HUGE, RW, VAC_MAP_FIXED, &(void *){NULL}));
		huge_mem[0] = 1;
		assert_int_equal(t_page(space, huge_mem).huge, 1);
	}
}

/* A range that is pinned may be read and written by the kernel, present or not before. */
static void test_pin_for_the_kernel(void **state UNUSED)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	char *m = t_map(space, 64 * P, VAC_MAP_NOHUGE);
	uint64_t pin;

	if (t_guard() == VAC_GUARD_SIGSEGV) {
		assert_int_equal(read(fd, m, 64 * P), -1); /* as the header says */
		assert_int_equal(errno, EFAULT);
	} else {
		assert_int_equal(read(fd, m, 64 * P), 64 * P);
	}
	pin = t_pin(space, m + 7, 64 * P - 7, VAC_PIN_WRITE, "read(2)");
	assert_int_equal(read(fd, m + 7, 64 * P - 7), 64 * P - 7);
	assert_ok(vac_unpin(pool, pin));
	close(fd);
}

/* ---- Cost ------------------------------------------------------------------------------------------------ */

/* Without contention a pin and its drop make no system call: seccomp would end the process. */
static void case_no_syscall(void)
{
	struct vac_pool_opts po = t_opts(MIB(2));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool *p;
	struct vac_space *s;
	uint64_t pin;
	void *m;

	so.bytes = MIB(4);
	po.guard = VAC_GUARD_SIGSEGV; /* the other one has threads, which outlive SYS_exit */
	MUST_OK(vac_pool_open(&po, &p));
	for (int i = 0; i < 2; i++)
		MUST_OK(vac_block_online(p, vac_block_add(p, NULL), VAC_ZONE_MOVABLE));
	MUST_OK(vac_space_create(p, &so, &s));
	MUST_OK(vac_map(s, NULL, MIB(3), RW, VAC_MAP_POPULATE, &m));
	MUST(vac_pin(s, m, MIB(3), VAC_PIN_WRITE, "warm", &pin) == 0 && vac_unpin(p, pin) == 0);
	MUST(prctl(PR_SET_SECCOMP, 1 /* strict: read, write, exit and sigreturn */) == 0);
	for (unsigned i = 0; i < 1000; i++) {
		if (vac_pin(s, (char *)m + i * 1000, 5000, VAC_PIN_WRITE, "fast", &pin) < 0 ||
		    vac_unpin(p, pin) < 0)
			syscall(SYS_exit, 1);
	}
	syscall(SYS_exit, 0);
}

static void test_no_syscall(void **state UNUSED)
{
	char err[512];

	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer makes system calls of its own\n");
		skip();
	}
	if (prctl(PR_GET_SECCOMP) != 0) {
		print_message("SKIP: forced: under a seccomp filter already\n");
		skip();
	}
	assert_int_equal(case_run("no_syscall", err, sizeof(err)), 0);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"no_syscall", case_no_syscall},
	};
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(test_extent),
		TEST(test_extent_huge),
		TEST(test_extent_mixed),
		TEST(test_scattered),
		TEST(test_refused),
		TEST(test_overflow),
		TEST(test_no_memory),
		TEST(test_handles),
		TEST(test_double_unpin),
		TEST(test_hand_over),
		TEST(test_exact),
		TEST(test_report_says),
		TEST(test_report_groups),
		TEST(test_stack),
		TEST(test_stacks_run_out),
		TEST(test_seen_at_once),
		TEST(test_unmap_pinned),
		TEST(test_cut_pinned),
		TEST(test_cut_waits),
		TEST(test_pin_for_the_kernel),
		cmocka_unit_test(test_no_syscall),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

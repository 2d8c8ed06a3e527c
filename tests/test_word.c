/* SPDX-License-Identifier: MIT */
/*
 * src/word.h, the state word: each operation against a shadow, at its limits, and racing each other
 * one; and the count that a migration expects to find.
 */
#include "tests/util.h"

#include "src/internal.h"

#define HALF (1u << 19)

static uint64_t counts(uint32_t refs, uint32_t pins, uint32_t map)
{
	return VAC__W_REF * refs + VAC__W_PIN * pins + VAC__W_MAP * map;
}

static void test_fields(void **state UNUSED)
{
	uint64_t w = counts(0x12345, 0x6789a, 0xbcdef) | VAC__W_GATED | VAC__W_POISON;

	assert_int_equal(vac__w_refs(w), 0x12345);
	assert_int_equal(vac__w_pins(w), 0x6789a);
	assert_int_equal(vac__w_map(w), 0xbcdef);
	assert_false(vac__w_free(w));
	assert_true(vac__w_free(VAC__W_FROZEN | VAC__W_GATED | VAC__W_WAITERS | VAC__W_POISON));
	assert_true((VAC__W_COUNTS &
		     (VAC__W_FROZEN | VAC__W_GATED | VAC__W_WAITERS | VAC__W_POISON)) == 0);
}

/* Every combination of flags, free and not: what each increment answers, and that a refusal leaves
 * the word as it was. */
static void test_refusals(void **state UNUSED)
{
	for (unsigned f = 0; f < 16; f++) {
		for (unsigned used = 0; used < 4; used++) {
			uint64_t flags = (uint64_t)f << 60;
			uint64_t base = used == 0   ? 0
					: used == 1 ? VAC__W_REF
					: used == 2 ? VAC__W_PIN
						    : VAC__W_MAP;
			bool gone = !used || (flags & VAC__W_POISON);
			bool frozen = flags & VAC__W_FROZEN, gated = flags & VAC__W_GATED;
			vac__word w = base | flags;
			int r = vac__w_try_ref(&w);

			assert_int_equal(r, gone ? -ENOENT : frozen ? -EAGAIN : 0);
			assert_true(w == (base | flags) + (r ? 0 : VAC__W_REF));
			w = base | flags;
			r = vac__w_try_pin(&w);
			assert_int_equal(r, gone ? -ENOENT : frozen || gated ? -EAGAIN : 0);
			assert_true(w == (base | flags) + (r ? 0 : VAC__W_PIN));
		}
	}
}

/* At half of its field a count is refused and the others go on; nothing ever carries. */
static void test_saturation(void **state UNUSED)
{
	static int (*const get[3])(vac__word *) = {vac__w_try_ref, vac__w_try_pin, vac__w_map_get};
	static const uint64_t unit[3] = {VAC__W_REF, VAC__W_PIN, VAC__W_MAP};

	for (unsigned k = 0; k < 3; k++) {
		uint64_t others = 0;
		vac__word w;

		for (unsigned i = 0; i < 3; i++)
			if (i != k)
				others += unit[i] * (HALF - 1);
		w = others + unit[k] * (HALF - 2);
		assert_ok(get[k](&w));
		assert_ok(get[k](&w));
		assert_true(w == others + unit[k] * HALF);
		for (int i = 0; i < 3; i++)
			assert_int_equal(get[k](&w), -EOVERFLOW);
		assert_true(w == others + unit[k] * HALF);
		for (unsigned i = 0; i < 3; i++) { /* the neighbours still have room for one */
			if (i == k)
				continue;
			assert_ok(get[i](&w));
			assert_int_equal(get[i](&w), -EOVERFLOW);
		}
		assert_true(vac__w_put(&w, unit[k]) ==
			    others + unit[(k + 1) % 3] + unit[(k + 2) % 3] + unit[k] * (HALF - 1));
		assert_ok(get[k](&w));
	}
}

static vac__word crowded;

static void crowd(struct member *m)
{
	for (unsigned i = 0; i < HALF / 4 + 1000; i++)
		m->rnd += vac__w_try_pin(&crowded) == 0;
}

/* The same by threads: the cap is exact, not approximate, however many come at once. */
static void test_saturation_threads(void **state UNUSED)
{
	struct team t;

	crowded = VAC__W_REF;
	team_start(&t, 5, crowd, NULL);
	team_join(&t);
	assert_true(crowded == counts(1, HALF, 0));
	crowded = VAC__W_REF; /* leaves nothing behind in the neighbour either */
}

/* Frozen only from exactly what is expected: one count more or fewer of any kind, or POISON, or
 * frozen already, and it fails without a trace. */
static void test_freeze_exact(void **state UNUSED)
{
	static const uint64_t unit[3] = {VAC__W_REF, VAC__W_PIN, VAC__W_MAP};

	for (uint32_t c = 0; c < 27; c++) {
		uint64_t expect = counts(1 + c % 3, c / 3 % 3, c / 9);

		for (unsigned f = 0; f < 16; f++) {
			uint64_t flags = (uint64_t)f << 60;
			bool ok = !(flags & (VAC__W_FROZEN | VAC__W_POISON));
			vac__word w = expect | flags;

			assert_int_equal(vac__w_freeze(&w, expect), ok);
			assert_true(w == (expect | flags | (ok ? VAC__W_FROZEN : 0)));
			for (unsigned k = 0; k < 3; k++) {
				w = (expect + unit[k]) | flags;
				assert_false(vac__w_freeze(&w, expect));
				assert_true(w == ((expect + unit[k]) | flags));
				if (expect / unit[k] % (1 << 20) == 0)
					continue;
				w = (expect - unit[k]) | flags;
				assert_false(vac__w_freeze(&w, expect));
				assert_true(w == ((expect - unit[k]) | flags));
			}
		}
	}
}

static void test_thaw(void **state UNUSED)
{
	vac__word w = VAC__W_REF | VAC__W_GATED | VAC__W_WAITERS;

	assert_true(vac__w_freeze(&w, VAC__W_REF));
	assert_true(vac__w_thaw(&w, counts(1, 0, 3)) ==
		    (VAC__W_REF | VAC__W_GATED | VAC__W_WAITERS | VAC__W_FROZEN));
	assert_true(w == counts(1, 0, 3));
	assert_true(vac__w_gate(&w) == (counts(1, 0, 3) | VAC__W_GATED));
	w |= VAC__W_WAITERS;
	assert_true(vac__w_ungate(&w) == (counts(1, 0, 3) | VAC__W_GATED | VAC__W_WAITERS));
	assert_true(w == counts(1, 0, 3));
}

/* A count that goes below nothing would borrow from its neighbour and break three at once: debug
 * builds, which tests are, stop there. */
static vac__word empty_field;

static void case_borrow_ref(void)
{
	empty_field = counts(0, 1, 1);
	vac__w_put(&empty_field, VAC__W_REF);
}

static void case_borrow_pin(void)
{
	empty_field = counts(1, 0, 1);
	vac__w_put(&empty_field, VAC__W_PIN);
}

static void case_borrow_map(void)
{
	empty_field = counts(1, 1, 0);
	vac__w_put(&empty_field, VAC__W_MAP);
}

static void test_borrow(void **state UNUSED)
{
	static const char *const name[] = {"borrow_ref", "borrow_pin", "borrow_map"};
	char err[512];

	for (unsigned i = 0; i < COUNT(name); i++) {
		int status = case_run(name[i], err, sizeof(err));

		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
}

/* ---- The expected counts ---------------------------------------------------------------------- */

/* The formula against a word on which each holder has really taken what it takes; and any one
 * holder more or fewer is noticed. All combinations, as a formula that forgets one term hides in
 * the combination nobody tried (semantics.md B.1). */
static void test_expected(void **state UNUSED)
{
	for (unsigned swapcache = 0; swapcache < 2; swapcache++)
		for (unsigned isolated = 0; isolated < 3; isolated++)
			for (unsigned extra = 0; extra < 3; extra++)
				for (unsigned map = 0; map < 4; map++) {
					uint64_t e = vac__expected_counts(swapcache, isolated,
									  extra, map);
					vac__word w = VAC__W_REF; /* the allocator's own */

					for (unsigned i = 0; i < swapcache + isolated + extra; i++)
						assert_ok(vac__w_try_ref(&w));
					for (unsigned i = 0; i < map; i++)
						assert_ok(vac__w_map_get(&w));
					assert_false(vac__w_freeze(&w, e)); /* one too many */
					vac__w_put(&w, VAC__W_REF);
					if (vac__w_free(w)) {
						assert_true(e == 0);
						continue;
					}
					assert_ok(vac__w_try_pin(&w));
					assert_false(vac__w_freeze(&w, e));
					vac__w_put(&w, VAC__W_PIN);
					assert_true(vac__w_freeze(&w, e));
				}
}

/* ---- Threads against a shadow ------------------------------------------------------------------ */

#define SHADOW_WORDS 4
#define SHADOW_THREADS 6

static struct {
	vac__word w;
	char pad[56];
} shared[SHADOW_WORDS];
static _Atomic uint64_t sum[SHADOW_WORDS][3], frozen_times;

/* Takes and drops refs, pins and maps at random, and knows what it holds. */
static void holder(struct member *m)
{
	uint32_t held[SHADOW_WORDS][3] = {{0}};

	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd);
		unsigned k = r % SHADOW_WORDS, what = r / 4 % 3;
		vac__word *w = &shared[k].w;
		uint32_t *h = held[k];

		if (r >> 20 & 3) { /* mostly drop, so that words are alone now and then */
			uint64_t unit = what == 0   ? VAC__W_REF
					: what == 1 ? VAC__W_PIN
						    : VAC__W_MAP;
			if (h[what]) {
				vac__w_put(w, unit);
				h[what]--;
			}
		} else if (what == 0) {
			h[0] += vac__w_try_ref(w) == 0;
		} else if (what == 1) {
			h[1] += vac__w_try_pin(w) == 0;
		} else if (vac__w_try_ref(w) == 0) { /* a map is taken by who holds a reference */
			MUST_OK(vac__w_map_get(w));
			h[2]++;
			vac__w_put(w, VAC__W_REF);
		}
		m->team->rounds++;
	}
	for (unsigned k = 0; k < SHADOW_WORDS; k++)
		for (unsigned i = 0; i < 3; i++)
			sum[k][i] += held[k][i];
}

/* Freezes words that look alone, and sees that nobody gets in or out until it thaws them. */
static void freezer(struct member *m)
{
	while (!m->team->stop) {
		unsigned k = rnd(&m->rnd) % SHADOW_WORDS;
		vac__word *w = &shared[k].w;
		uint64_t e = *w & VAC__W_COUNTS & ~(VAC__W_FIELD * VAC__W_PIN);

		if (vac__w_pins(*w) || vac__w_refs(e) != 1 || vac__w_map(e) || !vac__w_freeze(w, e))
			continue;
		for (int i = 0; i < 50; i++)
			MUST((*w & ~(VAC__W_GATED | VAC__W_WAITERS)) == (e | VAC__W_FROZEN));
		vac__w_thaw(w, e);
		frozen_times++;
	}
}

static void gater(struct member *m)
{
	while (!m->team->stop) {
		vac__word *w = &shared[rnd(&m->rnd) % SHADOW_WORDS].w;
		uint32_t pins = vac__w_pins(vac__w_gate(w));

		for (int i = 0; i < 20; i++) { /* they only go down while the gate is closed */
			uint64_t now = *w;

			if (!(now & VAC__W_GATED))
				break; /* the freezer's thaw has opened it */
			MUST(vac__w_pins(now) <= pins);
			pins = vac__w_pins(now);
		}
		atomic_fetch_or(w, VAC__W_WAITERS);
		vac__w_ungate(w);
	}
}

static void random_op(struct member *m)
{
	if (m->nr == 0)
		freezer(m);
	else if (m->nr == 1)
		gater(m);
	else
		holder(m);
}

static void test_shadow(void **state UNUSED)
{
	struct team t;

	frozen_times = 0;
	memset(sum, 0, sizeof(sum));
	for (unsigned k = 0; k < SHADOW_WORDS; k++)
		shared[k].w = VAC__W_REF;
	team_start(&t, SHADOW_THREADS, random_op, NULL);
	sleep_ms(scaled(2000));
	for (uint64_t end = t_ms() + 60000; t.rounds <= 10000 || frozen_times <= 10;) {
		MUST(t_ms() < end);
		sleep_ms(1);
	}
	team_stop(&t);
	for (unsigned k = 0; k < SHADOW_WORDS; k++) {
		uint64_t w = shared[k].w;

		assert_int_equal(vac__w_refs(w), 1 + sum[k][0]);
		assert_int_equal(vac__w_pins(w), sum[k][1]);
		assert_int_equal(vac__w_map(w), sum[k][2]);
		assert_true((w & (VAC__W_FROZEN | VAC__W_GATED | VAC__W_POISON)) == 0);
	}
}

/* ---- Duels ------------------------------------------------------------------------------------ */

#define BATCH 256

/* Two threads do one thing each to the same words at the same time; then one of them judges. */
struct duel {
	int (*op[2])(vac__word *w, unsigned i);
	uint64_t start;
	void (*judge)(int a, int b, uint64_t w);
	struct meeting m;
	vac__word w[BATCH];
	int got[2][BATCH];
	uint64_t end_ms;
	bool over;
	uint64_t fought, first[2]; /* a draw would be no race: both orders must be seen */
};

static void duellist(struct member *m)
{
	struct duel *d = m->arg;
	unsigned n = m->nr;

	while (!d->over) {
		meet(&d->m, 2);
		for (unsigned i = 0; i < BATCH; i++) {
			for (uint64_t k = rnd(&m->rnd) % 8; k; k--)
				vac__port_relax();
			d->got[n][i] = d->op[n](&d->w[i], i);
		}
		meet(&d->m, 2);
		if (n == 0) {
			for (unsigned i = 0; i < BATCH; i++) {
				d->judge(d->got[0][i], d->got[1][i], d->w[i]);
				d->first[d->got[0][i] == 0 ? 0 : 1]++;
				d->w[i] = d->start;
			}
			d->fought += BATCH;
			d->over = t_ms() >= d->end_ms;
		}
		meet(&d->m, 2);
	}
}

static void fight(struct duel *d)
{
	struct team t;

	for (unsigned i = 0; i < BATCH; i++)
		d->w[i] = d->start;
	d->end_ms = t_ms() + scaled(500);
	team_start(&t, 2, duellist, d);
	team_join(&t);
	assert_true(d->fought >= BATCH);
}

static int op_freeze(vac__word *w, unsigned i UNUSED)
{
	return vac__w_freeze(w, VAC__W_REF) ? 0 : -EBUSY;
}

static int op_ref(vac__word *w, unsigned i UNUSED)
{
	return vac__w_try_ref(w);
}

static int op_pin(vac__word *w, unsigned i UNUSED)
{
	return vac__w_try_pin(w);
}

static int op_put(vac__word *w, unsigned i UNUSED)
{
	vac__w_put(w, VAC__W_REF);
	return 0;
}

static int op_gate(vac__word *w, unsigned i UNUSED)
{
	return (int)vac__w_pins(vac__w_gate(w));
}

static int op_toggle(vac__word *w, unsigned i UNUSED)
{
	atomic_fetch_or(w, VAC__W_GATED | VAC__W_WAITERS);
	vac__w_ungate(w);
	return 0;
}

static void judge_ref(int a, int b, uint64_t w)
{
	MUST((a == 0) != (b == 0));
	MUST(b == 0 || b == -EAGAIN);
	MUST(w == (a == 0 ? VAC__W_REF | VAC__W_FROZEN : counts(2, 0, 0)));
}

static void judge_pin(int a, int b, uint64_t w)
{
	MUST((a == 0) != (b == 0));
	MUST(b == 0 || b == -EAGAIN);
	MUST(w == (a == 0 ? VAC__W_REF | VAC__W_FROZEN : counts(1, 1, 0)));
}

static void judge_freeze(int a, int b, uint64_t w)
{
	MUST((a == 0) != (b == 0));
	MUST(w == (VAC__W_REF | VAC__W_FROZEN));
}

/* The put makes the word what the freeze wants: it may come too late, never half. */
static void judge_put(int a, int b UNUSED, uint64_t w)
{
	MUST(w == (VAC__W_REF | (a == 0 ? VAC__W_FROZEN : 0)));
}

/* Whoever only rings the bell keeps nobody from freezing. */
static void judge_toggle(int a, int b UNUSED, uint64_t w)
{
	MUST(a == 0);
	MUST(w == (VAC__W_REF | VAC__W_FROZEN));
}

/* Gate against pin: either the gate's answer counts the pin, or the pin is refused. */
static void judge_gate(int a, int b, uint64_t w)
{
	MUST(a == 0 || a == 1);
	MUST((a == 1) == (b == 0));
	MUST(b == 0 || b == -EAGAIN);
	MUST(w == (counts(1, (uint32_t)a, 0) | VAC__W_GATED));
}

static void duel(int (*a)(vac__word *, unsigned), int (*b)(vac__word *, unsigned), uint64_t start,
		 void (*judge)(int, int, uint64_t), bool both_ways)
{
	struct duel d = {.op = {a, b}, .start = start, .judge = judge};

	fight(&d);
	if (both_ways && !TSAN && sysconf(_SC_NPROCESSORS_ONLN) > 1)
		assert_true(d.first[0] && d.first[1]);
}

static void test_freeze_ref(void **state UNUSED)
{
	duel(op_freeze, op_ref, VAC__W_REF, judge_ref, true);
}

static void test_freeze_pin(void **state UNUSED)
{
	duel(op_freeze, op_pin, VAC__W_REF, judge_pin, true);
}

static void test_freeze_freeze(void **state UNUSED)
{
	duel(op_freeze, op_freeze, VAC__W_REF, judge_freeze, true);
}

static void test_freeze_put(void **state UNUSED)
{
	duel(op_freeze, op_put, counts(2, 0, 0), judge_put, true);
}

static void test_freeze_waiters(void **state UNUSED)
{
	duel(op_freeze, op_toggle, VAC__W_REF, judge_toggle, false);
}

static void test_gate_pin(void **state UNUSED)
{
	duel(op_gate, op_pin, VAC__W_REF, judge_gate, true);
}

/* ---- One word, as hot as can be ----------------------------------------------------------------- */

static vac__word hot;
static _Atomic uint64_t hot_wins;

static void disturb(struct member *m)
{
	int (*const get[])(vac__word *) = {vac__w_try_ref, vac__w_try_pin};
	const uint64_t unit[] = {VAC__W_REF, VAC__W_PIN};
	unsigned what = *(const unsigned *)m->arg;

	while (!m->team->stop) {
		if (what == 2) {
			atomic_fetch_or(&hot, VAC__W_GATED | VAC__W_WAITERS);
			vac__w_ungate(&hot);
		} else if (get[what](&hot) == 0) {
			vac__w_put(&hot, unit[what]);
		}
	}
}

/* The freezer has it while nobody else does. Whoever only rings the bell never keeps it out. */
static void test_freeze_hot(void **state UNUSED)
{
	for (unsigned what = 0; what < 3; what++) {
		uint64_t end = t_ms() + scaled(400);
		struct team t;

		hot = VAC__W_REF;
		hot_wins = 0;
		team_start(&t, 1, disturb, &what);
		while (t_ms() < end || hot_wins < 10) {
			for (unsigned i = 0; i < 100; i++) {
				if (!vac__w_freeze(&hot, VAC__W_REF)) {
					MUST(what != 2);
					continue;
				}
				for (int k = 0; k < 3; k++)
					MUST((hot & ~(VAC__W_GATED | VAC__W_WAITERS)) ==
					     (VAC__W_REF | VAC__W_FROZEN));
				vac__w_thaw(&hot, VAC__W_REF);
				hot_wins++;
			}
		}
		team_stop(&t);
		assert_int_equal(vac__w_refs(hot), 1);
		assert_int_equal(vac__w_pins(hot), 0);
	}
}

/* ---- Litmus: pin against the change of a slot --------------------------------------------------- */

static vac__entry slot[BATCH];

/* The migrator of migrate.c: entry first, then the word. */
static int op_clear(vac__word *w, unsigned i)
{
	vac__xchg(&slot[i], VAC__E_MIGRATION);
	return vac__w_freeze(w, VAC__W_REF) ? 0 : -EBUSY;
}

/* The pinner of pin.c: slot, word, slot again. */
static int op_pin_slot(vac__word *w, unsigned i)
{
	uint64_t e = vac__ld_acq(&slot[i]);

	if (!vac__e_present(e))
		return -ENOENT;
	if (vac__w_try_pin(w) < 0)
		return -EAGAIN;
	if (vac__ld(&slot[i]) != e) {
		vac__w_put(w, VAC__W_PIN);
		return -ENOENT;
	}
	return 0;
}

static uint64_t litmus_pinned, litmus_moved;

static void judge_slot(int a, int b, uint64_t w)
{
	static unsigned i;

	MUST(a != 0 || b != 0); /* never both */
	MUST(w == (counts(1, b == 0, 0) | (a == 0 ? VAC__W_FROZEN : 0)));
	litmus_pinned += b == 0;
	litmus_moved += a == 0;
	slot[i++ % BATCH] = VAC__E_PRESENT;
}

static void test_pin_slot(void **state UNUSED)
{
	litmus_pinned = litmus_moved = 0;
	for (unsigned i = 0; i < BATCH; i++)
		slot[i] = VAC__E_PRESENT;
	duel(op_clear, op_pin_slot, VAC__W_REF, judge_slot, false);
	if (!TSAN && sysconf(_SC_NPROCESSORS_ONLN) > 1)
		assert_true(litmus_pinned && litmus_moved);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"borrow_ref", case_borrow_ref},
		{"borrow_pin", case_borrow_pin},
		{"borrow_map", case_borrow_map},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fields),       cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_saturation),   cmocka_unit_test(test_saturation_threads),
		cmocka_unit_test(test_freeze_exact), cmocka_unit_test(test_thaw),
		cmocka_unit_test(test_borrow),       cmocka_unit_test(test_expected),
		cmocka_unit_test(test_shadow),       cmocka_unit_test(test_freeze_ref),
		cmocka_unit_test(test_freeze_pin),   cmocka_unit_test(test_freeze_freeze),
		cmocka_unit_test(test_freeze_put),   cmocka_unit_test(test_freeze_waiters),
		cmocka_unit_test(test_gate_pin),     cmocka_unit_test(test_freeze_hot),
		cmocka_unit_test(test_pin_slot),
	};

	case_main(argc, argv, cases, COUNT(cases));
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Pins that can move: who is asked, in which order, what he is told, and what becomes of those who refuse,
 * are slow, or let go in the middle. The device writes frames by their numbers, as hardware does: what
 * it has not been told of it does not know.
 */
#include "tests/util.h"

#include <semaphore.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

/* ---- A holder that notes what it is told ------------------------------------------------------ */

struct holder {
	struct vac_pool *pool;
	struct vac_space *space;
	_Atomic int quiesced, resumed, repointed, revoked;
	_Atomic uint64_t repointed_bytes;
	_Atomic uintptr_t first_addr;
	_Atomic int answer;      /* of quiesce() and revoke() */
	_Atomic int answer_once; /* before that, once */
	_Atomic bool out_of_order, still;
	_Atomic bool unpins, waits, lingers; /* in quiesce(); in resume() */
	_Atomic bool unpinned;               /* by a callback, and that is over */
	sem_t begun, go_on;
	uint64_t pin;
};

static int quiesce(void *ctx, uint64_t pin)
{
	struct holder *h = ctx;
	int once = atomic_exchange(&h->answer_once, 0);

	h->quiesced++;
	h->out_of_order |= h->still;
	if (h->waits) {
		sem_post(&h->begun);
		while (sem_wait(&h->go_on) < 0)
			;
	}
	if (h->unpins) {
		MUST_OK(vac_unpin(h->pool, pin));
		h->unpinned = true;
		return 0;
	}
	if (once)
		return once;
	h->still = h->answer == 0;
	return h->answer;
}

static int repoint(void *ctx, uint64_t pin UNUSED, void *addr, size_t len)
{
	struct holder *h = ctx;

	if (!h->repointed++)
		h->first_addr = (uintptr_t)addr;
	h->repointed_bytes += len;
	h->out_of_order |= !h->still;
	return 0;
}

static void resume(void *ctx, uint64_t pin UNUSED)
{
	struct holder *h = ctx;

	h->out_of_order |= !h->still;
	h->still = false;
	h->resumed++;
	if (h->lingers)
		while (sem_wait(&h->go_on) < 0)
			;
}

static int let_go(void *ctx, uint64_t pin)
{
	struct holder *h = ctx;

	h->revoked++;
	if (h->answer == 0 && h->unpins) {
		MUST_OK(vac_unpin(h->pool, pin));
		h->unpinned = true;
	}
	return h->answer;
}

/* The block may have gone when the pin was, a little before its callback is at its end. */
static void wait_unpinned(struct holder *h)
{
	while (!h->unpinned)
		sleep_ms(1);
}

static const struct vac_relocate_ops ops = {.size = sizeof(ops),
					    .quiesce = quiesce,
					    .repoint = repoint,
					    .resume = resume,
					    .timeout_ms = 20000};

static void hold_by(struct holder *h, struct vac_space *s, const void *addr, size_t len,
		    const char *owner, const struct vac_relocate_ops *by)
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);

	memset(h, 0, sizeof(*h));
	h->pool = vac_space_pool(s);
	h->space = s;
	sem_init(&h->begun, 0, 0);
	sem_init(&h->go_on, 0, 0);
	o.flags = VAC_PIN_WRITE;
	o.owner = owner;
	o.relocate = by;
	o.ctx = h;
	assert_ok(vac_pin_with(s, addr, len, &o, NULL, &h->pin));
}

static void hold(struct holder *h, struct vac_space *s, const void *addr, size_t len,
		 const char *owner)
{
	hold_by(h, s, addr, len, owner, &ops);
}

/* ---- Single folios and ranges ----------------------------------------------------------------- */

/* Asked once a pageblock of frames, told of every page once, let go on; bytes and counts are right. */
static void test_moves(void **state UNUSED)
{
	static const struct {
		size_t map, at, len;
	} shape[] = {{P, 0, P},
		     {20 * P, 3 * P + 100, 9 * P},
		     {HUGE, 100, P},
		     {2 * HUGE, HUGE - P, 2 * P},
		     {HUGE + 5 * P, P, HUGE + 2 * P}};

	for (unsigned i = 0; i < COUNT(shape); i++) {
		struct vac_pool *pool = t_pool(MIB(4), 4);
		struct vac_space *s = t_space(pool, MIB(8));
		char *m = t_map(s, shape[i].map, VAC_MAP_POPULATE);
		uint64_t before, bytes = 0;
		struct holder h;

		pat_fill(m, shape[i].map, i);
		hold(&h, s, m + shape[i].at, shape[i].len, "queue");
		for (int round = 0; round < 3; round++) {
			int id = t_page(s, m + shape[i].at).block, asked = h.quiesced;

			before = t_page(s, m + shape[i].at).pfn;
			h.repointed = 0;
			h.repointed_bytes = 0;
			assert_ok(t_offline(pool, id, 20000, NULL));
			assert_true(h.quiesced > asked && h.quiesced == h.resumed);
			assert_true(h.repointed >= 1 && !h.out_of_order && !h.still);
			assert_true(h.first_addr >= (uintptr_t)m + shape[i].at &&
				    h.repointed_bytes <= shape[i].len);
			assert_int_not_equal(t_page(s, m + shape[i].at).pfn, before);
			assert_true(t_page(s, m + shape[i].at).pins >= 1);
			assert_int_equal(pat_bad(m, shape[i].map, i), -1);
			bytes += h.repointed_bytes;
			assert_ok(t_online(pool, id));
			t_check(pool);
		}
		assert_true(bytes >= shape[i].len);
		assert_ok(vac_unpin(pool, h.pin));
		assert_int_equal(vac_unpin(pool, h.pin), -EINVAL);
		t_close(pool);
	}
}

/* Scattered frames: a record of as many runs as pages, rewritten again and again. */
static void test_scattered(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(16));
	char *m = t_scattered(s, MIB(4));
	struct holder h, one;

	for (int id = 2; id < 4; id++) {
		assert_int_equal(vac_block_add(pool, NULL), id);
		assert_ok(t_online(pool, id));
	}

	pat_fill(m, 300 * P, 1);
	hold(&h, s, m, 300 * P, "many");
	hold(&one, s, m + 7 * P, 1, "one");
	for (int id = 0; id < 4; id++) {
		h.repointed_bytes = one.repointed_bytes = 0;
		assert_ok(t_offline(pool, id, 20000, NULL));
		assert_int_equal(h.quiesced, h.resumed);
		assert_true(one.repointed_bytes <= 1);
		assert_ok(t_online(pool, id));
		t_check(pool);
		assert_int_equal(pat_bad(m, 300 * P, 1), -1);
	}
	assert_ok(vac_unpin(pool, h.pin));
	assert_true(one.repointed > 0);
	assert_ok(vac_unpin(pool, one.pin));
	t_close(pool);
}

/* ---- Those who do not agree ------------------------------------------------------------------- */

/* One of two holders of a page refuses: it stays, by his name; the other was told nothing but to go on. */
static void test_refusal(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 20 * P, VAC_MAP_POPULATE);
	int id = t_page(s, m).block;
	uint64_t pfn = t_page(s, m).pfn, begin;
	struct vac_offline_result res;
	struct vac_report *rep;
	struct holder yes, no, far;
	struct t_found f;

	pat_fill(m, 20 * P, 1);
	hold(&yes, s, m, P, "willing");
	hold(&no, s, m + 8, 8, "stubborn");
	hold(&far, s, m + 9 * P, P, "elsewhere");
	assert_ok(vac_report_block(pool, id, &rep));
	f = t_find(rep);
	assert_int_equal(f.b.cls, VAC_HELD_RELOCATABLE);
	assert_int_equal(f.n, 2);
	no.answer = -EPERM;
	begin = t_ms();
	assert_int_equal(t_offline(pool, id, 60000, &res), -EBUSY);
	assert_true(t_ms() - begin < 30000);
	f = t_find(res.report);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.b.cls, VAC_HELD_REFUSED);
	assert_string_equal(vac_blocker_class_name(f.b.cls), "refused relocation");
	assert_string_equal(f.who.owner, "stubborn");
	assert_int_equal(f.who.error, -EPERM);
	assert_true(f.who.flags & VAC_OWNER_RELOCATABLE);
	assert_int_equal(no.quiesced, 1);
	assert_int_equal(no.resumed + no.repointed, 0);
	assert_true(yes.quiesced == yes.resumed && yes.repointed == 0 && !yes.out_of_order);
	assert_int_equal(far.repointed, 1);
	assert_int_equal(t_page(s, m).pfn, pfn);
	t_check(pool);
	/* Not now, twice; and then. */
	no.answer = 0;
	no.answer_once = -EAGAIN;
	assert_ok(t_offline(pool, id, 60000, NULL));
	assert_int_equal(no.quiesced, 3);
	assert_true(yes.repointed == 1 && no.repointed == 1 && no.resumed == 1);
	assert_int_not_equal(t_page(s, m).pfn, pfn);
	assert_int_equal(pat_bad(m, 20 * P, 1), -1);
	assert_ok(vac_unpin(pool, yes.pin));
	assert_ok(vac_unpin(pool, no.pin));
	assert_ok(vac_unpin(pool, far.pin));
	t_close(pool);
}

/* A callback that does not return: given up, named, and others moved all the same. When it comes back at
 * last it is told to go on. Nobody else could take its place in the queue. */
static void test_overrun(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 20 * P, VAC_MAP_POPULATE);
	int id = t_page(s, m).block;
	struct vac_relocate_ops fast = ops;
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_offline_result res;
	struct holder slow, other;
	struct t_found f;

	pat_fill(m, 20 * P, 1);
	hold(&slow, s, m, P, "unused");
	assert_ok(vac_unpin(pool, slow.pin));
	slow.waits = true;
	fast.timeout_ms = 50;
	o.owner = "asleep";
	o.relocate = &fast;
	o.ctx = &slow;
	assert_ok(vac_pin_with(s, m, P, &o, NULL, &slow.pin));
	hold(&other, s, m + 9 * P, P, "awake");
	assert_int_equal(t_offline(pool, id, 60000, &res), -EBUSY);
	f = t_find(res.report);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.b.cls, VAC_HELD_REFUSED);
	assert_string_equal(f.who.owner, "asleep");
	assert_int_equal(f.who.error, -ETIMEDOUT);
	assert_int_equal(other.repointed, 1);
	assert_int_equal(slow.resumed, 0);
	/* Still in it: an offline does not ask again. */
	assert_int_equal(t_offline(pool, id, 60000, &res), -EBUSY);
	vac_report_free(res.report);
	assert_int_equal(slow.quiesced, 1);
	slow.waits = false;
	sem_post(&slow.go_on);
	while (slow.resumed == 0)
		sleep_ms(1);
	assert_ok(t_offline(pool, id, 60000, NULL));
	assert_true(slow.quiesced == slow.resumed && slow.repointed == 1 && !slow.out_of_order);
	assert_int_equal(pat_bad(m, 20 * P, 1), -1);
	assert_ok(vac_unpin(pool, slow.pin));
	assert_ok(vac_unpin(pool, other.pin));
	t_close(pool);
}

/* ---- In the middle ---------------------------------------------------------------------------- */

struct offliner {
	struct vac_pool *pool;
	int id;
	_Atomic int r;
};

static void one_offline(struct member *m)
{
	struct offliner *o = m->arg;

	o->r = t_offline(o->pool, o->id, 60000, NULL);
}

/* An offline has ended at its deadline while a callback was at it: the next one waits for that, as for one of its own. */
static void test_earlier(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct offliner o = {pool, t_page(s, m).block, 1};
	struct holder h;
	struct team t;

	pat_fill(m, P, 1);
	hold(&h, s, m, P, "slow");
	h.waits = true;
	assert_int_equal(t_offline(pool, o.id, 20, NULL), -EBUSY);
	while (sem_wait(&h.begun) < 0)
		;
	team_start(&t, 1, one_offline, &o);
	while (t_block(pool, o.id).state != VAC_BLOCK_EVACUATING && o.r == 1)
		sleep_ms(1);
	sleep_ms(30); /* so that it has met the callback at work, on most machines */
	h.waits = false;
	sem_post(&h.go_on);
	team_join(&t);
	assert_ok(o.r);
	assert_true(h.quiesced == h.resumed && h.repointed == 1 && !h.out_of_order);
	assert_int_equal(pat_bad(m, P, 1), -1);
	assert_ok(vac_unpin(pool, h.pin));
	t_close(pool);
}

/* All threads that call are in callbacks that do not end: whoever is to be told yet to go on is held as those are,
 * and an offline does not wait for that until its deadline, which here is that of the test. */
static void test_all_hang(void **state UNUSED)
{
	const struct vac_relocate_ops hasty = {.size = sizeof(hasty),
					       .quiesce = quiesce,
					       .repoint = repoint,
					       .resume = resume,
					       .timeout_ms = 50};
	static struct holder h[VAC__RELOC_WORKERS + 2];
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, COUNT(h) * P, VAC_MAP_POPULATE);
	int id;

	pat_fill(m, COUNT(h) * P, 1);
	for (unsigned i = 0; i < COUNT(h); i++) {
		hold_by(&h[i], s, m + i * P, P, "hangs", &hasty);
		h[i].lingers = true;
	}
	assert_ok(t_offline(pool, t_page(s, m).block, 60000, NULL));
	id = t_page(s, m).block;
	assert_int_equal(t_offline(pool, id, 3600000, NULL), -EBUSY);
	for (unsigned i = 0; i < COUNT(h); i++) {
		h[i].lingers = false;
		sem_post(&h[i].go_on);
	}
	for (unsigned i = 0; i < COUNT(h); i++) {
		assert_ok(vac_unpin(pool, h[i].pin));
		assert_true(h[i].repointed >= 1 && !h[i].out_of_order);
	}
	assert_ok(t_offline(pool, id, 60000, NULL));
	assert_int_equal(pat_bad(m, COUNT(h) * P, 1), -1);
	t_close(pool);
}

/* The pin is dropped by its own callback: it is not called again, and the block goes. */
static void test_unpin_inside(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct holder h;

	hold(&h, s, m, P, "leaves");
	h.unpins = true;
	assert_ok(t_offline(pool, t_page(s, m).block, 60000, NULL));
	wait_unpinned(&h);
	assert_int_equal(h.quiesced, 1);
	assert_int_equal(h.resumed + h.repointed, 0);
	assert_int_equal(vac_unpin(pool, h.pin), -EINVAL);
	t_close(pool);
}

static void drop(struct member *m)
{
	struct holder *h = m->arg;

	MUST_OK(vac_unpin(h->pool, h->pin));
	h->still = true; /* as if asked again: nothing of it may be called from now on */
	h->unpins = true;
}

/* By another thread, while a callback runs: it waits for that one, and none comes after. */
static void test_unpin_beside(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct offliner o = {pool, t_page(s, m).block, 1};
	struct team off, t;
	struct holder h;

	hold(&h, s, m, P, "leaves");
	h.waits = true;
	team_start(&off, 1, one_offline, &o);
	while (sem_wait(&h.begun) < 0)
		;
	team_start(&t, 1, drop, &h);
	sleep_ms(20);
	assert_false(h.unpins); /* it waits */
	h.waits = false;
	sem_post(&h.go_on);
	team_join(&t);
	team_join(&off);
	assert_ok(o.r);
	assert_int_equal(h.repointed, 0);
	assert_true(h.quiesced == 1 && h.resumed <= 1);
	t_close(pool);
}

/* A cancel while somebody is asked: the offline ends at once, and he is told to go on when he answers. */
static void test_cancel(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct offliner o = {pool, t_page(s, m).block, 1};
	uint64_t pfn = t_page(s, m).pfn;
	struct holder h;
	struct team t;

	hold(&h, s, m, P, "asked");
	h.waits = true;
	team_start(&t, 1, one_offline, &o);
	while (sem_wait(&h.begun) < 0)
		;
	assert_ok(vac_block_cancel(pool, o.id));
	team_join(&t);
	assert_int_equal(o.r, -ECANCELED);
	h.waits = false;
	sem_post(&h.go_on);
	while (h.resumed == 0)
		sleep_ms(1);
	assert_int_equal(h.repointed, 0);
	assert_int_equal(t_page(s, m).pfn, pfn);
	t_check(pool);
	assert_ok(vac_unpin(pool, h.pin));
	t_close(pool);
}

/* A short pin beside: it is waited for while the other holder keeps still. */
static void test_short_beside(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct offliner o = {pool, t_page(s, m).block, 1};
	uint64_t pin = t_pin(s, m, 8, 0, "read");
	struct holder h;
	struct team t;

	hold(&h, s, m, P, "ring");
	team_start(&t, 1, one_offline, &o);
	while (h.quiesced == 0)
		sleep_ms(1);
	assert_ok(vac_unpin(pool, pin));
	team_join(&t);
	assert_ok(o.r);
	assert_true(h.quiesced == h.resumed && h.repointed == 1);
	assert_ok(vac_unpin(pool, h.pin));
	t_close(pool);
}

/* What cannot move after all, here for want of memory, stays as it was: nobody is told of new frames. */
static void test_rolled_back(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, MIB(4), VAC_MAP_POPULATE), *rest;
	struct vac_offline_opts o = t_offline_opts(20000, VAC_OFFLINE_BEST_EFFORT);
	int id = t_page(s, m).block;
	uint64_t pfn = t_page(s, m).pfn;
	struct holder h;

	rest = t_map(s, MIB(3), VAC_MAP_POPULATE);
	pat_fill(m, MIB(4), 1);
	pat_fill(rest, MIB(3), 2);
	hold(&h, s, m, MIB(4), "whole block");
	assert_int_equal(vac_block_offline(pool, id, &o, NULL), -ENOMEM);
	assert_true(h.quiesced == h.resumed && !h.out_of_order);
	assert_int_equal(h.repointed, 0);
	assert_int_equal(t_page(s, m).pfn, pfn);
	assert_int_equal(pat_bad(m, MIB(4), 1), -1);
	assert_int_equal(pat_bad(rest, MIB(3), 2), -1);
	t_check(pool);
	assert_ok(vac_unpin(pool, h.pin));
	t_close(pool);
}

/* The program has unmapped what it has pinned: there is no address to find it by, so it stays. */
static void test_unmapped(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	int id = t_page(s, m).block;
	struct vac_offline_result res;
	struct holder h;
	struct t_found f;

	hold(&h, s, m, P, "orphan");
	assert_ok(vac_unmap(s, m, P));
	assert_int_equal(t_offline(pool, id, 5000, &res), -EBUSY);
	f = t_find(res.report);
	assert_int_equal(f.b.cls, VAC_HELD_LONG_PIN);
	assert_int_equal(h.repointed, 0);
	assert_int_equal(h.quiesced, h.resumed);
	assert_ok(vac_unpin(pool, h.pin));
	assert_ok(t_offline(pool, id, 5000, NULL));
	t_close(pool);
}

/* ---- Revoke ----------------------------------------------------------------------------------- */

static void test_revoke(void **state UNUSED)
{
	for (int kind = 0; kind < 3; kind++) { /* at once; refused; later, by another thread */
		struct vac_pool *pool = t_pool(MIB(4), 3);
		struct vac_space *s = t_space(pool, MIB(8));
		char *m = t_map(s, P, VAC_MAP_POPULATE);
		struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
		struct vac_offline_opts oo = t_offline_opts(20000, 0);
		struct offliner off = {pool, t_page(s, m).block, 1};
		struct holder h = {.pool = pool, .space = s, .unpins = kind == 0};
		uint64_t pin;

		o.flags = VAC_PIN_LONGTERM;
		o.owner = "cache";
		o.revoke = let_go;
		o.ctx = &h;
		h.answer = kind == 1 ? -EPERM : 0;
		assert_ok(vac_pin_with(s, m, P, &o, NULL, &pin));
		assert_int_equal(vac_block_offline(pool, off.id, &oo, NULL), -EBUSY);
		assert_int_equal(h.revoked, 0); /* nobody has said so */
		oo.flags = VAC_OFFLINE_REVOKE;
		if (kind == 2) {
			oo.timeout_ms = 1000;
			assert_int_equal(vac_block_offline(pool, off.id, &oo, NULL), -EBUSY);
			assert_int_equal(h.revoked, 1); /* asked once, and waited for */
			assert_ok(vac_unpin(pool, pin));
			assert_ok(vac_block_offline(pool, off.id, &oo, NULL));
		} else {
			assert_int_equal(vac_block_offline(pool, off.id, &oo, NULL),
					 kind ? -EBUSY : 0);
			assert_int_equal(h.revoked, 1);
			if (kind)
				assert_ok(vac_unpin(pool, pin));
			else
				wait_unpinned(&h);
		}
		t_close(pool);
	}
}

/* ---- Bad arguments ---------------------------------------------------------------------------- */

static void test_arguments(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 1);
	struct vac_space *s = t_space(pool, MIB(4));
	char *m = t_map(s, P, VAC_MAP_POPULATE);
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_pin_result res = VAC_INIT(struct vac_pin_result);
	struct vac_relocate_ops bad = ops;
	uint64_t pin;

	o.size = 3;
	assert_int_equal(vac_pin_with(s, m, P, &o, NULL, &pin), -EINVAL);
	o.size = sizeof(o) + 8;
	assert_int_equal(vac_pin_with(s, m, P, &o, NULL, &pin), -EINVAL);
	o.size = sizeof(o);
	o.flags = 1u << 30;
	assert_int_equal(vac_pin_with(s, m, P, &o, NULL, &pin), -EINVAL);
	o.flags = 0;
	res.size = 2;
	assert_int_equal(vac_pin_with(s, m, P, &o, &res, &pin), -EINVAL);
	res.size = sizeof(res);
	o.relocate = &bad;
	bad.resume = NULL;
	assert_int_equal(vac_pin_with(s, m, P, &o, &res, &pin), -EINVAL);
	bad = ops;
	bad.size = 1;
	assert_int_equal(vac_pin_with(s, m, P, &o, &res, &pin), -EINVAL);
	bad.size = sizeof(bad);
	assert_int_equal(vac_pin_with(s, m + P, P, &o, &res, &pin), -EFAULT);
	t_check(pool);
	assert_ok(vac_pin_with(s, m, P, NULL, NULL, &pin));
	assert_ok(vac_unpin(pool, pin));
	assert_ok(vac_pin_with(s, m, P, &o, &res, &pin));
	assert_int_equal(vac_pool_close(pool), -EBUSY);
	assert_ok(vac_unpin(pool, pin));
	t_close(pool);
}

/* ---- A device --------------------------------------------------------------------------------- */

/* It writes numbers into the frames it was told of, through the block's file. */
struct device {
	struct vac_space *space;
	char *mem;
	unsigned pages;
	pthread_mutex_t lock; /* held for a transfer; taken by quiesce() until resume() */
	struct {
		int fd;
		off_t off;
		uint64_t n;
	} page[64];
	uint64_t pin;
	_Atomic uint64_t moved;
};

static void register_page(struct device *d, unsigned i)
{
	struct vac_page_info p = t_page(d->space, d->mem + i * P);
	struct vac_block_info b = t_block(vac_space_pool(d->space), p.block);

	d->page[i].fd = b.fd;
	d->page[i].off = (off_t)(p.pfn * P % b.bytes);
}

static int device_quiesce(void *ctx, uint64_t pin UNUSED)
{
	struct device *d = ctx;

	pthread_mutex_lock(&d->lock);
	return 0;
}

static int device_repoint(void *ctx, uint64_t pin UNUSED, void *addr, size_t len)
{
	struct device *d = ctx;
	size_t first = (size_t)((char *)addr - d->mem) / P;

	for (size_t i = 0; i < len / P; i++)
		register_page(d, (unsigned)(first + i));
	d->moved += len / P;
	return 0;
}

static void device_resume(void *ctx, uint64_t pin UNUSED)
{
	struct device *d = ctx;

	pthread_mutex_unlock(&d->lock);
}

static void device_run(struct member *m)
{
	struct device *d = (struct device *)m->arg + m->nr;

	while (!m->team->stop) {
		unsigned i = (unsigned)(m->rnd >> 33) % d->pages;
		uint64_t n;

		m->rnd = m->rnd * 6364136223846793005u + 1442695040888963407u;
		pthread_mutex_lock(&d->lock);
		n = ++d->page[i].n;
		MUST(pwrite(d->page[i].fd, &n, 8, d->page[i].off + 64) == 8);
		pthread_mutex_unlock(&d->lock);
		/* What it has written shows at the address, and nothing is lost of what was. */
		MUST(__atomic_load_n((uint64_t *)(d->mem + i * P + 64), __ATOMIC_ACQUIRE) == n);
		m->team->rounds++;
	}
}

/* Devices at work while every block leaves in turn, many times. */
static void test_devices(void **state UNUSED)
{
	static struct device d[3];
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(16));
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_relocate_ops dops = VAC_INIT(struct vac_relocate_ops);
	struct team t;

	dops.quiesce = device_quiesce;
	dops.repoint = device_repoint;
	dops.resume = device_resume;
	dops.timeout_ms = 60000;
	for (unsigned k = 0; k < 3; k++) {
		memset(&d[k], 0, sizeof(d[k]));
		d[k].space = s;
		d[k].pages = k ? 64 : 20;
		d[k].mem = t_map(s, k == 1 ? HUGE : 64 * P, VAC_MAP_POPULATE);
		memset(d[k].mem, 0, 64 * P);
		pthread_mutex_init(&d[k].lock, NULL);
		o.flags = VAC_PIN_WRITE;
		o.owner = "device";
		o.relocate = &dops;
		o.ctx = &d[k];
		assert_ok(vac_pin_with(s, d[k].mem, d[k].pages * P, &o, NULL, &d[k].pin));
		for (unsigned i = 0; i < d[k].pages; i++)
			register_page(&d[k], i);
	}
	team_start(&t, 3, device_run, d);
	for (int round = 0; round < (TSAN || ASAN ? 3 : 12); round++) {
		for (int id = 0; id < 4; id++) {
			assert_ok(t_offline(pool, id, 60000, NULL));
			assert_ok(t_online(pool, id));
		}
		team_rounds(&t, 100);
	}
	team_stop(&t);
	t_check(pool);
	for (unsigned k = 0; k < 3; k++) {
		assert_true(d[k].moved > 0);
		for (unsigned i = 0; i < d[k].pages; i++)
			assert_int_equal(*(uint64_t *)(d[k].mem + i * P + 64), d[k].page[i].n);
		assert_ok(vac_unpin(pool, d[k].pin));
	}
	t_close(pool);
}

/* fork() with a copy beside: the child has the bytes, the pins stay the parent's. */
static void test_fork_beside(void **state UNUSED)
{
	struct vac_pool_opts po = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	struct holder h;
	struct team t;
	char *m;

	po.flags |= VAC_POOL_FORK_COPY;
	pool = t_open(&po, 3);
	s = t_space(pool, MIB(8));
	m = t_map(s, 40 * P, VAC_MAP_POPULATE);
	pat_fill(m, 40 * P, 4);
	hold(&h, s, m, 40 * P, "ring");
	for (int round = 0; round < 6; round++) {
		struct offliner o = {pool, t_page(s, m).block, 1};
		int pid, status = -1;

		team_start(&t, 1, one_offline, &o);
		pid = fork();
		if (pid == 0)
			_exit(pat_bad(m, 40 * P, 4) == -1 && vac_unpin(pool, h.pin) == -EPERM ? 0
											      : 1);
		assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
		assert_int_equal(status, 0);
		team_join(&t);
		assert_ok(o.r);
		assert_ok(t_online(pool, o.id));
	}
	assert_true(h.quiesced == h.resumed && !h.out_of_order);
	assert_int_equal(pat_bad(m, 40 * P, 4), -1);
	assert_ok(vac_unpin(pool, h.pin));
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves),        cmocka_unit_test(test_scattered),
		cmocka_unit_test(test_refusal),      cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_unpin_inside), cmocka_unit_test(test_unpin_beside),
		cmocka_unit_test(test_cancel),       cmocka_unit_test(test_short_beside),
		cmocka_unit_test(test_rolled_back),  cmocka_unit_test(test_unmapped),
		cmocka_unit_test(test_revoke),       cmocka_unit_test(test_arguments),
		cmocka_unit_test(test_devices),      cmocka_unit_test(test_fork_beside),
		cmocka_unit_test(test_earlier),      cmocka_unit_test(test_all_hang),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Waiting: the folio lock, gates, and the offliner's event. Nobody who sleeps here on behalf of a
 * fault or a pin holds a reference, a pin or a lock (semantics.md C; Hugh Dickins,
 * put_and_wait_on_page_locked, Nov 2018, and its successor of 2022 which enqueues under the
 * page-table lock and takes no reference at all).
 *
 * The folio lock word is {generation:30, waiters:1, locked:1}. A waiter sets the waiters bit while
 * something guarantees that the lock is held (under the page-table lock, that a migration entry is
 * still there), remembers that exact value, drops everything, and sleeps while the word equals it.
 * Every unlock moves the generation on, so the word never equals an old value again while the
 * waiter could care: no lost wake, and no sleep on a stranger's later use of the same frame.
 * Descriptors stay readable for the life of the pool, so the word may be compared at any time.
 */
#include "internal.h"

#define LOCKED 1u
#define WAITING 2u
#define GENERATION 4u
#define WAKE_BATCH 8

/* Wake everybody on addr, a bounded batch at a time: the kernel holds its queue's lock for one
 * batch only. The number woken ends the loop, or the count of a full turn of new waiters. */
static void wake_all(struct vac_pool *pool, const _Atomic uint32_t *addr)
{
	for (int turns = 0; turns < (1 << 20) / WAKE_BATCH; turns++) {
		uint64_t t = vac__port_now_thread();
		int n = vac__port_wake(addr, WAKE_BATCH);

		vac__stat_max(&pool->c.wake_batch_max_ns, vac__port_now_thread() - t);
		vac__stat_add(&pool->c.wakes, (uint64_t)n);
		if (n < WAKE_BATCH)
			return;
	}
}

bool vac__folio_trylock(struct vac_pool *pool, uint32_t pfn)
{
	_Atomic uint32_t *l = &vac__frame(pool, pfn)->lock;
	uint32_t v = vac__ld_rlx(l);

	do {
		if (v & LOCKED)
			return false;
	} while (!vac__cas(l, &v, v | LOCKED));
	vac__folios_held(1);
	return true;
}

/* The caller holds a reference: the folio stays what it is. Nothing but outer locks may be held. */
void vac__folio_lock(struct vac_pool *pool, uint32_t pfn)
{
	_Atomic uint32_t *l = &vac__frame(pool, pfn)->lock;

	vac__rank_take(l, VAC__RANK_FOLIO, false);
	while (!vac__folio_trylock(pool, pfn)) {
		uint32_t v = vac__ld(l);

		if (!(v & LOCKED))
			continue;
		if (!(v & WAITING) && !vac__cas(l, &v, v | WAITING))
			continue;
		vac__port_wait(l, v | WAITING, 0);
	}
	vac__rank_drop(l, VAC__RANK_FOLIO); /* counted in folios from here on */
}

void vac__folio_unlock(struct vac_pool *pool, uint32_t pfn)
{
	_Atomic uint32_t *l = &vac__frame(pool, pfn)->lock;
	uint32_t v = vac__ld_rlx(l), slot = vac__swap_slot(pool, pfn);

	VAC__DEBUG_ASSERT(v & LOCKED);
	while (!vac__cas(l, &v, (v & ~(LOCKED | WAITING)) + GENERATION))
		;
	vac__folios_held(-1);
	if (v & WAITING)
		wake_all(pool, l);
	/* Perhaps nobody needs it any more, and who found that out found it locked. */
	if (slot != VAC__NO_SLOT)
		vac__swap_reap(pool, slot);
}

/*
 * First half of a wait without a reference. Answers false if the folio is not locked: look again.
 * Else *ticket is what vac__folio_wait needs; between the two calls the caller drops all it holds.
 * Under the page-table lock that shows a migration entry for pfn the answer is always true (I1).
 */
bool vac__folio_wait_prepare(struct vac_pool *pool, uint32_t pfn, uint32_t *ticket)
{
	_Atomic uint32_t *l = &vac__frame(pool, pfn)->lock;
	uint32_t v = vac__ld(l);

	do {
		if (!(v & LOCKED))
			return false;
	} while (!(v & WAITING) && !vac__cas(l, &v, v | WAITING));
	*ticket = v | WAITING;
	return true;
}

void vac__folio_wait(struct vac_pool *pool, uint32_t pfn, uint32_t ticket)
{
	_Atomic uint32_t *l = &vac__frame(pool, pfn)->lock;

	vac__assert_bare();
	while (vac__ld(l) == ticket)
		vac__port_wait(l, ticket, 0);
}

static struct vac__bucket *bucket(struct vac_pool *pool, uint32_t pfn)
{
	return &pool->buckets[(pfn ^ pfn >> VAC__PB_ORDER) % VAC__BUCKETS];
}

/*
 * Wait until the gate that was seen closed on pfn has been opened at least once. The bucket's
 * count is read first and WAITERS set after, in the word that GATED is in: either the opener sees
 * WAITERS, and moves the count on after we have read it, or we see the gate open.
 */
void vac__gate_wait(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__bucket *b = bucket(pool, pfn);
	vac__word *p = &vac__frame(pool, pfn)->word;
	uint32_t seq = vac__ld(&b->seq);
	uint64_t w = vac__ld(p);

	vac__assert_bare();
	do {
		if (!(w & VAC__W_GATED))
			return;
	} while (!(w & VAC__W_WAITERS) && !vac__cas(p, &w, w | VAC__W_WAITERS));
	vac__stat_add(&pool->c.gate_waits, 1);
	while (vac__ld(&b->seq) == seq)
		vac__port_wait(&b->seq, seq, 0);
}

/* The gate on pfn was opened, or its folio has gone; old_word is what the word was before. */
void vac__gate_wake(struct vac_pool *pool, uint32_t pfn, uint64_t old_word)
{
	struct vac__bucket *b = bucket(pool, pfn);

	if (!(old_word & VAC__W_WAITERS))
		return;
	vac__add(&b->seq, 1);
	wake_all(pool, &b->seq);
}

uint32_t vac__event_read(struct vac__event *e)
{
	return vac__ld(&e->seq);
}

/* Sleep until the event has been signalled since `seen` was read. -ETIMEDOUT. */
int vac__event_wait(struct vac__event *e, uint32_t seen, uint64_t deadline_ns)
{
	int r = 0;

	vac__add(&e->waiters, 1);
	while (vac__ld(&e->seq) == seen && r != -ETIMEDOUT)
		r = vac__port_wait(&e->seq, seen, deadline_ns);
	vac__sub(&e->waiters, 1);
	return r == -ETIMEDOUT ? r : 0;
}

void vac__event_signal(struct vac__event *e)
{
	vac__add(&e->seq, 1);
	if (vac__ld(&e->waiters))
		vac__port_wake(&e->seq, INT_MAX);
}

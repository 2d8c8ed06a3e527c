/* SPDX-License-Identifier: MIT */
/*
 * Mutexes and read-write locks over the port's wait and wake, and the debug build's rank check.
 *
 * Invariants: a mutex's value is 2 whenever a thread may be asleep on it, so the unlocker that sees
 * 1 owes no wake (Drepper, "Futexes Are Tricky", mutex 2). A read-write lock prefers writers: the
 * fault path reads, and an endless stream of faults must not keep an unmap out.
 */
#include "internal.h"

#define SPINS 100

/* As vac__lock; false if the clock reaches the deadline first (0: none). */
bool vac__lock_until(struct vac__mutex *m, enum vac__rank rank, uint64_t deadline_ns)
{
	uint32_t v = 0;

	vac__rank_take(m, rank, false);
	if (vac__cas_acq(&m->v, &v, 1))
		return true;
	for (int i = 0; i < SPINS; i++) {
		vac__port_relax();
		v = 0;
		if (vac__ld_rlx(&m->v) == 0 && vac__cas_acq(&m->v, &v, 1))
			return true;
	}
	while (vac__xchg(&m->v, 2) != 0) {
		if (vac__port_wait(&m->v, 2, deadline_ns) == -ETIMEDOUT) {
			vac__rank_drop(m, rank);
			return false;
		}
	}
	return true;
}

void vac__lock(struct vac__mutex *m, enum vac__rank rank)
{
	vac__lock_until(m, rank, 0);
}

bool vac__trylock(struct vac__mutex *m, enum vac__rank rank)
{
	uint32_t v = 0;

	if (!vac__cas_acq(&m->v, &v, 1))
		return false;
	vac__rank_take(m, rank, true);
	return true;
}

void vac__unlock(struct vac__mutex *m, enum vac__rank rank)
{
	vac__rank_drop(m, rank);
	if (vac__xchg(&m->v, 0) == 2)
		vac__port_wake(&m->v, 1);
}

#define WRITER (UINT32_C(1) << 31)
#define WAITING (UINT32_C(1) << 30)

/* Sleep until the lock may have changed. The wake count is read before the state was judged, so a
 * release in between makes the wait return at once. */
static void rw_wait(struct vac__rwlock *l, uint32_t wake)
{
	vac__port_wait(&l->wake, wake, 0);
}

static void rw_wake(struct vac__rwlock *l)
{
	vac__add(&l->wake, 1);
	vac__port_wake(&l->wake, INT32_MAX);
}

void vac__rdlock(struct vac__rwlock *l, enum vac__rank rank)
{
	vac__rank_take(l, rank, false);
	for (;;) {
		uint32_t wake = vac__ld(&l->wake);
		uint32_t v = vac__ld(&l->v);

		/* Readers that sleep behind a writer are woken by its release, which always wakes. */
		if (v & (WRITER | WAITING)) {
			rw_wait(l, wake);
			continue;
		}
		if (vac__cas_acq(&l->v, &v, v + 1))
			return;
	}
}

void vac__rdunlock(struct vac__rwlock *l, enum vac__rank rank)
{
	uint32_t v;

	vac__rank_drop(l, rank);
	v = vac__sub(&l->v, 1) - 1;
	if ((v & WAITING) && (v & ~(WAITING | WRITER)) == 0)
		rw_wake(l);
}

void vac__wrlock(struct vac__rwlock *l, enum vac__rank rank)
{
	vac__rank_take(l, rank, false);
	for (;;) {
		uint32_t wake = vac__ld(&l->wake);
		uint32_t v = vac__ld(&l->v);

		if ((v & ~WAITING) == 0) {
			if (vac__cas_acq(&l->v, &v, WRITER))
				return;
			continue;
		}
		if (!(v & WAITING) && !vac__cas(&l->v, &v, v | WAITING))
			continue;
		rw_wait(l, wake);
	}
}

void vac__wrunlock(struct vac__rwlock *l, enum vac__rank rank)
{
	vac__rank_drop(l, rank);
	/* Other writers that wait set WAITING again when they look. */
	vac__xchg(&l->v, 0);
	rw_wake(l);
}

#ifdef VAC_DEBUG
void vac__rank_take(const void *lock, enum vac__rank rank, bool tried)
{
	struct vac__held *h = vac__port_held();

	if (rank == VAC__RANK_MANY)
		return;
	if (!tried) {
		for (unsigned i = 0; i < h->depth; i++)
			if (h->e[i].rank >= rank)
				VAC__BUG("lock order reversed");
		if (h->folios && rank <= VAC__RANK_FOLIO)
			VAC__BUG("lock order reversed: a folio lock is held");
	}
	if (h->depth == VAC__HELD_MAX)
		VAC__BUG("too many locks held");
	h->e[h->depth].lock = lock;
	h->e[h->depth++].rank = rank;
}

void vac__rank_drop(const void *lock, enum vac__rank rank)
{
	struct vac__held *h = vac__port_held();

	if (rank == VAC__RANK_MANY)
		return;
	for (unsigned i = h->depth; i-- > 0;) {
		if (h->e[i].lock != lock || h->e[i].rank != rank)
			continue;
		for (; i + 1 < h->depth; i++)
			h->e[i] = h->e[i + 1];
		h->depth--;
		return;
	}
	VAC__BUG("a lock is released that is not held");
}

void vac__folios_held(int delta)
{
	struct vac__held *h = vac__port_held();

	if (delta < 0 && h->folios < (unsigned)-delta)
		VAC__BUG("a folio lock is released that is not held");
	h->folios += (unsigned)delta;
}

void vac__assert_bare(void)
{
	struct vac__held *h = vac__port_held();

	if (h->depth || h->folios)
		VAC__BUG("sleeping for a migration or a gate with a lock held");
}
#endif

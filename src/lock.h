/* SPDX-License-Identifier: MIT */
/*
 * Ranked locks, built on the port's wait and wake. A lock is taken only by a thread whose held
 * ranks are all lower; debug builds check it at every acquisition (vac__rank_check), and
 * tests/test_lock.c proves that a reversal is caught. The order, outer to inner:
 *
 *	pools                    the list of pools; held throughout a fork() with a copy
 *	background               the background thread's step; whoever wants the pool at rest
 *	hotplug                  one offline, online, add or remove at a time in a pool
 *	  aio setup              the direct I/O of a pool, when its first context is made
 *	    aio                  a direct I/O context: its requests and its ring
 *	      aio table          the slots of contexts and requests
 *	    space                a space's VMAs (read: faults; write: map, unmap, protect)
 *	      fault              one filler a pageblock of addresses
 *	        folio            one; more only by trylock (the migrator's batch)
 *	          rmap           a family's spaces (read: walks; write: VMA changes, splits)
 *	            ptl          the entries, and the host mapping, of one pageblock of addresses
 *	              swap       the slots of the swap file, and what the swap cache has for them
 *	              segments   the booking of a space's host mappings
 *	              relocate   pins with callbacks: their states, the queue of callbacks
 *	              ledger     growing the pin ledger, its overflow lists
 *	              zone       the frame allocator
 *	              refused    the record of the last fault that was refused
 *
 * A thread that sleeps for a migration or for a gate holds none of them (vac__assert_bare).
 */
#ifndef VAC_LOCK_H
#define VAC_LOCK_H

#include "atomic.h"

enum vac__rank {
	VAC__RANK_MANY = 0, /* not ranked: many locks of a rank, by the holder of pools (fork.c) */
	VAC__RANK_POOLS,
	VAC__RANK_BACKGROUND,
	VAC__RANK_HOTPLUG,
	VAC__RANK_AIO_SETUP,
	VAC__RANK_AIO,
	VAC__RANK_AIO_TABLE,
	VAC__RANK_SPACE,
	VAC__RANK_FAULT,
	VAC__RANK_FOLIO,
	VAC__RANK_RMAP,
	VAC__RANK_PTL,
	VAC__RANK_SWAP,
	VAC__RANK_SEGMENTS,
	VAC__RANK_RELOCATE,
	VAC__RANK_LEDGER,
	VAC__RANK_ZONE,
	VAC__RANK_REFUSED,
};

/* 0: free, 1: held, 2: held and perhaps waited for. Zero-initialised. */
struct vac__mutex {
	_Atomic uint32_t v;
};

/* bit 31: a writer holds it; bit 30: a writer waits, readers queue behind it; below: readers. */
struct vac__rwlock {
	_Atomic uint32_t v;
	_Atomic uint32_t wake; /* bumped at each release that somebody may wait for */
};

void vac__lock(struct vac__mutex *m, enum vac__rank rank);
bool vac__lock_until(struct vac__mutex *m, enum vac__rank rank, uint64_t deadline_ns);
bool vac__trylock(struct vac__mutex *m, enum vac__rank rank);
void vac__unlock(struct vac__mutex *m, enum vac__rank rank);

void vac__rdlock(struct vac__rwlock *l, enum vac__rank rank);
void vac__rdunlock(struct vac__rwlock *l, enum vac__rank rank);
void vac__wrlock(struct vac__rwlock *l, enum vac__rank rank);
void vac__wrunlock(struct vac__rwlock *l, enum vac__rank rank);

#ifdef VAC_DEBUG
void vac__rank_take(const void *lock, enum vac__rank rank, bool tried);
void vac__rank_drop(const void *lock, enum vac__rank rank);
void vac__folios_held(int delta);
void vac__assert_bare(void); /* the caller is about to sleep for a migration or a gate */
#else
static inline void vac__rank_take(const void *lock, enum vac__rank rank, bool tried)
{
	(void)lock, (void)rank, (void)tried;
}
static inline void vac__rank_drop(const void *lock, enum vac__rank rank)
{
	(void)lock, (void)rank;
}
static inline void vac__folios_held(int delta)
{
	(void)delta;
}
static inline void vac__assert_bare(void)
{
}
#endif

#endif /* VAC_LOCK_H */

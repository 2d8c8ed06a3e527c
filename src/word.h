/* SPDX-License-Identifier: MIT */
/*
 * The state word: everything that keeps a folio where it is, in one 64-bit atomic, so that one
 * look answers "who else is there?" and one compare-and-swap from the exact expected value proves
 * that nobody is (Hugh Dickins, "Changing COW detection to be memory hotplug friendly", Feb 2005:
 * count and mapcount in one atomic64, mapcount not repeated in count; here pins are exact too).
 *
 *	bits  0-19  refs     holders of the folio itself: isolation, caches, a lookup in progress
 *	bits 20-39  pins     holders of its data behind the page table's back
 *	bits 40-59  map      present page-table entries
 *	bit  60     FROZEN   a migration or split owns the folio: no field may grow
 *	bit  61     GATED    about to leave: no new pins
 *	bit  62     WAITERS  somebody waits for GATED to go
 *	bit  63     POISON   of an offline block: any use is a bug
 *
 * A folio is free when its three counts are 0; whoever makes them 0 frees it. An increment is
 * refused at half of a field: fields that grow by compare-and-swap can then never carry into the
 * next one. A count of zero never grows by lookup (try_ref, try_pin), only by the allocator.
 */
#ifndef VAC_WORD_H
#define VAC_WORD_H

#include <errno.h>

#include "atomic.h"
#include "port/port.h"

#define VAC__W_REF (UINT64_C(1))
#define VAC__W_PIN (UINT64_C(1) << 20)
#define VAC__W_MAP (UINT64_C(1) << 40)
#define VAC__W_FIELD UINT64_C(0xfffff)
#define VAC__W_HALF (UINT64_C(1) << 19)
#define VAC__W_COUNTS ((UINT64_C(1) << 60) - 1)
#define VAC__W_FROZEN (UINT64_C(1) << 60)
#define VAC__W_GATED (UINT64_C(1) << 61)
#define VAC__W_WAITERS (UINT64_C(1) << 62)
#define VAC__W_POISON (UINT64_C(1) << 63)

typedef _Atomic uint64_t vac__word;

static inline uint32_t vac__w_refs(uint64_t w)
{
	return (uint32_t)(w & VAC__W_FIELD);
}

static inline uint32_t vac__w_pins(uint64_t w)
{
	return (uint32_t)(w >> 20 & VAC__W_FIELD);
}

static inline uint32_t vac__w_map(uint64_t w)
{
	return (uint32_t)(w >> 40 & VAC__W_FIELD);
}

static inline bool vac__w_free(uint64_t w)
{
	return (w & VAC__W_COUNTS) == 0;
}

/* -ENOENT: free; -EAGAIN: frozen; -EOVERFLOW: half full. Nothing is held on failure. */
static inline int vac__w_try_ref(vac__word *p)
{
	uint64_t w = vac__ld_rlx(p);

	do {
		if (vac__w_free(w) || (w & VAC__W_POISON))
			return -ENOENT;
		if (w & VAC__W_FROZEN)
			return -EAGAIN;
		if (vac__w_refs(w) >= VAC__W_HALF)
			return -EOVERFLOW;
	} while (!vac__cas(p, &w, w + VAC__W_REF));
	return 0;
}

/* As try_ref; -EAGAIN also where GATED. A full barrier: the caller re-reads the page table next,
 * and the migrator reads this word after it has changed the page table. */
static inline int vac__w_try_pin(vac__word *p)
{
	uint64_t w = vac__ld_rlx(p);

	do {
		if (vac__w_free(w) || (w & VAC__W_POISON))
			return -ENOENT;
		if (w & (VAC__W_FROZEN | VAC__W_GATED))
			return -EAGAIN;
		if (vac__w_pins(w) >= VAC__W_HALF)
			return -EOVERFLOW;
	} while (!vac__cas(p, &w, w + VAC__W_PIN));
	return 0;
}

/* The caller holds a reference, so that the word can be neither free nor frozen. */
static inline int vac__w_map_get(vac__word *p)
{
	uint64_t w = vac__ld_rlx(p);

	do {
		if (vac__w_map(w) >= VAC__W_HALF)
			return -EOVERFLOW;
	} while (!vac__cas(p, &w, w + VAC__W_MAP));
	return 0;
}

/* The caller's reference becomes a mapping, in one step: a thread that has filled a page in and is
 * interrupted holds nothing that could make a migration of it fail. */
static inline void vac__w_ref_to_map(vac__word *p)
{
	vac__add(p, VAC__W_MAP - VAC__W_REF);
}

/* Answers the word after the step; the caller that sees vac__w_free() of it frees the folio. A count
 * below nothing would borrow from its neighbour: debug builds stop there. */
static inline uint64_t vac__w_put(vac__word *p, uint64_t unit)
{
	uint64_t old = vac__sub(p, unit);

#ifdef VAC_DEBUG
	if (!(old & unit * VAC__W_FIELD))
		vac__port_panic(__FILE__, __LINE__, "a count of a folio falls below nothing");
#endif
	return old - unit;
}

/*
 * Own the folio: from exactly the expected counts (and no POISON) to FROZEN. GATED and WAITERS may
 * be anything: waiters come and go without touching the folio.
 */
static inline bool vac__w_freeze(vac__word *p, uint64_t expected_counts)
{
	uint64_t w = vac__ld(p);

	do {
		if ((w & ~(VAC__W_GATED | VAC__W_WAITERS)) != expected_counts)
			return false;
	} while (!vac__cas(p, &w, w | VAC__W_FROZEN));
	return true;
}

/* The frozen folio's next counts, with no flag; answers the old word, for its WAITERS. */
static inline uint64_t vac__w_thaw(vac__word *p, uint64_t counts)
{
	return vac__xchg(p, counts);
}

/* Close the gate and learn, in the same step, which pins were in before. */
static inline uint64_t vac__w_gate(vac__word *p)
{
	return vac__or(p, VAC__W_GATED) | VAC__W_GATED;
}

/* Open it; answers the old word: with WAITERS set, the caller wakes them. */
static inline uint64_t vac__w_ungate(vac__word *p)
{
	return vac__and(p, ~(VAC__W_GATED | VAC__W_WAITERS));
}

#endif /* VAC_WORD_H */

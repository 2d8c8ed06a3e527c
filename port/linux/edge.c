/* SPDX-License-Identifier: MIT */
/*
 * The runs that are between leave and map (or stay), so that no two of them touch unseen.
 *
 * A run that is leaving must be a host VMA by itself: then replacing it exactly needs no new one.
 * What keeps it apart from its neighbours is a flag that mappings otherwise never have. But two runs
 * that leave at the same time, side by side, would both have it, and the kernel would merge them:
 * replacing the first would then split the pair again. So neighbours get different flags, called
 * colours here. A run has two neighbours, so three colours do.
 *
 * It is a set of addresses of one process, so there is one for all pools: an array ordered by
 * address, as migration hands in its runs in that order, mostly.
 *
 * Invariants: runs do not overlap; neighbours that touch have different colours. A full table (4,096
 * runs at once) does not take more: such a run may then merge with its neighbour, which costs a host
 * VMA at a time when the engine still has them booked.
 */
#include <string.h>

#include "port/linux/linux.h"

#define MOST 4096u

struct run {
	uintptr_t lo, hi;
	unsigned colour;
};

static struct vac__flock lock; /* guards all of it */
static struct run runs[MOST];
static unsigned nr;

/* The first run that ends above addr. */
static unsigned after(uintptr_t addr)
{
	unsigned a = 0, b = nr;

	if (nr && runs[nr - 1].hi <= addr)
		return nr;
	while (a < b) {
		unsigned m = (a + b) / 2;

		if (runs[m].hi > addr)
			b = m;
		else
			a = m + 1;
	}
	return a;
}

static void insert(unsigned i, uintptr_t lo, uintptr_t hi, unsigned colour)
{
	if (nr == MOST)
		return;
	memmove(&runs[i + 1], &runs[i], (nr - i) * sizeof(runs[0]));
	runs[i] = (struct run){lo, hi, colour};
	nr++;
}

static void delete (unsigned i)
{
	nr--;
	memmove(&runs[i], &runs[i + 1], (nr - i) * sizeof(runs[0]));
}

/* The colour, 1 to 3, of the run from lo to hi, which nobody else has claimed. */
unsigned vac__edge_claim(uintptr_t lo, uintptr_t hi)
{
	unsigned i, below = 0, above = 0, colour = 1;

	vac__flock_lock(&lock);
	i = after(lo);
	if (i > 0 && runs[i - 1].hi == lo)
		below = runs[i - 1].colour;
	if (i < nr && runs[i].lo == hi)
		above = runs[i].colour;
	while (colour == below || colour == above)
		colour++;
	insert(i, lo, hi, colour);
	vac__flock_unlock(&lock);
	return colour;
}

/* The colour of the run that leaves and has lo in it; 0: none. */
unsigned vac__edge_colour(uintptr_t lo)
{
	unsigned i, colour = 0;

	vac__flock_lock(&lock);
	i = after(lo);
	if (i < nr && runs[i].lo <= lo)
		colour = runs[i].colour;
	vac__flock_unlock(&lock);
	return colour;
}

/* Nothing leaves from lo to hi any more. That may be the middle of a run, of which two are left. */
void vac__edge_drop(uintptr_t lo, uintptr_t hi)
{
	unsigned i;

	vac__flock_lock(&lock);
	for (i = after(lo); i < nr && runs[i].lo < hi;) {
		struct run *r = &runs[i];
		uintptr_t end = r->hi;

		if (r->lo < lo) {
			r->hi = lo;
			if (end > hi)
				insert(i + 1, hi, end, r->colour);
			i++;
		} else if (end > hi) {
			r->lo = hi;
			i++;
		} else {
			delete (i);
		}
	}
	vac__flock_unlock(&lock);
}

/* SPDX-License-Identifier: MIT */
/*
 * Which addresses belong to which space: how either guard finds the engine for a fault.
 *
 * Invariants: a slot's fn and arg are constant while its users count is not 0; a slot is given to
 * another range only after the count has been 0 with DYING set. Nothing here allocates, and finding
 * takes no lock, so it may be done in the SIGSEGV handler.
 *
 * The lookup reads start and end of each slot without a lock, and may see those of a range that is
 * going or has gone. That is harmless: the count is raised first, refused when DYING, and the
 * bounds are read again under it. A range that appears meanwhile is missed only by a fault that was
 * made before its address was known to anybody.
 */
#include "port/linux/linux.h"

#define SLOTS 8192u
#define DYING 0x80000000u

static struct vac__range slots[SLOTS];
static _Atomic unsigned slots_used; /* all beyond are free and always were */
static struct vac__flock lock;      /* guards add and del */

static _Thread_local unsigned hint; /* where this thread faulted last: mostly there again */

static bool holds(struct vac__range *s, uintptr_t addr)
{
	return addr >= atomic_load_explicit(&s->start, memory_order_acquire) &&
	       addr < atomic_load_explicit(&s->end, memory_order_relaxed);
}

void vac__range_put(struct vac__range *s)
{
	if (atomic_fetch_sub_explicit(&s->users, 1, memory_order_release) == (DYING | 1))
		vac__port_wake(&s->users, INT_MAX);
}

static bool try_get(struct vac__range *s, uintptr_t addr)
{
	uint32_t u;

	if (!holds(s, addr))
		return false;
	u = atomic_load_explicit(&s->users, memory_order_relaxed);
	do {
		if (u & DYING)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&s->users, &u, u + 1, memory_order_acquire,
							memory_order_relaxed));
	if (holds(s, addr))
		return true;
	vac__range_put(s); /* another range lives there by now */
	return false;
}

struct vac__range *vac__range_get(uintptr_t addr)
{
	unsigned n = atomic_load_explicit(&slots_used, memory_order_acquire);

	if (try_get(&slots[hint], addr))
		return &slots[hint];
	for (unsigned i = 0; i < n; i++) {
		if (try_get(&slots[i], addr)) {
			hint = i;
			return &slots[i];
		}
	}
	return NULL;
}

int vac__range_add(uintptr_t lo, uintptr_t hi, vac__fault_fn *fn, void *arg)
{
	unsigned i = 0, n;
	struct vac__range *s;

	vac__flock_lock(&lock);
	n = atomic_load_explicit(&slots_used, memory_order_relaxed);
	while (i < n && atomic_load_explicit(&slots[i].start, memory_order_relaxed))
		i++;
	if (i == SLOTS) {
		vac__flock_unlock(&lock);
		return -ENOSPC;
	}
	s = &slots[i];
	s->fn = fn;
	s->arg = arg;
	atomic_store_explicit(&s->end, hi, memory_order_relaxed);
	atomic_store_explicit(&s->start, lo, memory_order_release);
	atomic_store_explicit(&s->users, 0, memory_order_release);
	if (i == n)
		atomic_store_explicit(&slots_used, n + 1, memory_order_release);
	vac__flock_unlock(&lock);
	return 0;
}

void vac__range_del(uintptr_t lo)
{
	unsigned n = atomic_load_explicit(&slots_used, memory_order_acquire);
	struct vac__range *s = NULL;
	uint32_t u;

	for (unsigned i = 0; i < n && !s; i++)
		if (atomic_load_explicit(&slots[i].start, memory_order_acquire) == lo)
			s = &slots[i];
	if (!s)
		return;
	u = atomic_fetch_or_explicit(&s->users, DYING, memory_order_acquire) | DYING;
	while (u != DYING) {
		vac__port_wait(&s->users, u, 0);
		u = atomic_load_explicit(&s->users, memory_order_acquire);
	}
	vac__flock_lock(&lock);
	atomic_store_explicit(&s->end, 0, memory_order_relaxed);
	atomic_store_explicit(&s->start, 0, memory_order_release);
	vac__flock_unlock(&lock);
}

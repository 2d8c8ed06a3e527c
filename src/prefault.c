/* SPDX-License-Identifier: MIT */
/*
 * What a program needs around system calls on pool memory: whose memory an address is, and filling
 * a range in before the kernel touches it.
 *
 * The table of spaces is one for the process: an address says nothing of its pool. It is read
 * without a lock. Slots are taken and given back one field after the other, low end first when it
 * goes and last when it comes, so a reader may see the bounds of two spaces that have lived in one
 * slot after each other. That is harmless: who asks about an address of a space keeps that space
 * alive meanwhile, so the slot of that one does not change under him, and no space that comes or
 * goes overlaps it.
 */
#include "internal.h"

/* ---- Whose address is it? -------------------------------------------------------------------- */

#define SLOTS 8192u       /* as many reservations as the platform's guard knows */
#define TAKEN UINTPTR_MAX /* in lo: being filled */

struct slot {
	_Atomic uintptr_t lo, hi; /* lo 0: free */
	_Atomic(struct vac_space *) space;
};

static struct slot slots[SLOTS];
static _Atomic uint64_t slots_used; /* all beyond are free, and always were */

/* Also where it is not listed. */
void vac__space_unlist(struct vac_space *s)
{
	uint64_t n = atomic_load(&slots_used);

	for (uint64_t i = 0; i < n; i++)
		if (atomic_load(&slots[i].lo) == (uintptr_t)s->base)
			atomic_store(&slots[i].lo, 0);
}

int vac__space_list(struct vac_space *s)
{
	/* The simulator drops whole worlds, and in the next one the same addresses come again. */
	vac__space_unlist(s);
	for (uint32_t i = 0; i < SLOTS; i++) {
		uintptr_t lo = 0;

		if (!atomic_compare_exchange_strong(&slots[i].lo, &lo, TAKEN))
			continue;
		atomic_store(&slots[i].space, s);
		atomic_store(&slots[i].hi, (uintptr_t)s->base + vac_space_bytes(s));
		vac__stat_max(&slots_used, i + 1);
		atomic_store(&slots[i].lo, (uintptr_t)s->base);
		return 0;
	}
	return -ENOSPC;
}

struct vac_space *vac_space_of(const void *addr)
{
	uint64_t n = atomic_load_explicit(&slots_used, memory_order_acquire);
	uintptr_t a = (uintptr_t)addr;

	if (vac__port_forked())
		return NULL;
	for (uint64_t i = 0; i < n; i++) {
		uintptr_t lo = atomic_load_explicit(&slots[i].lo, memory_order_acquire);

		if (lo && a >= lo && a < atomic_load_explicit(&slots[i].hi, memory_order_relaxed))
			return atomic_load_explicit(&slots[i].space, memory_order_relaxed);
	}
	return NULL;
}

struct vac_pool *vac_space_pool(struct vac_space *space)
{
	return vac__port_forked() ? NULL : space->pool;
}

enum vac_guard vac_pool_guard(struct vac_pool *pool)
{
	return vac__port_forked() ? VAC_GUARD_AUTO : (enum vac_guard)pool->guard;
}

/* ---- Prefault --------------------------------------------------------------------------------- */

/* Passes over a range whose pages leave as fast as they are waited for. */
#define PASSES 16

/* Does the host show the page with these rights at this moment? *next: the first page that the
 * answer does not speak for. No lock: what is read may be old the moment it is read, as the caller's
 * own answer is. */
static bool shown(struct vac_space *s, uint32_t page, uint64_t need, uint32_t *next)
{
	uint64_t e = vac__ld_acq(vac__pmd(s, page >> VAC__PB_ORDER));

	*next = (page / VAC__PB_PAGES + 1) * VAC__PB_PAGES;
	if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
		e = vac__ld_acq(vac__pte(s, page));
		*next = page + 1;
	}
	return vac__e_present(e) && (e & need) == need;
}

int vac_prefault(struct vac_space *space, const void *addr, size_t len, int prot)
{
	uintptr_t a = (uintptr_t)addr, base;
	uint32_t first, end, next;
	unsigned access = prot & VAC_PROT_WRITE ? VAC__WRITE : VAC__READ;
	uint64_t need = VAC__E_HREAD | (prot & VAC_PROT_WRITE ? VAC__E_HWRITE : 0);
	size_t bytes;

	if (vac__port_forked())
		return -EPERM;
	base = (uintptr_t)space->base;
	bytes = (size_t)space->vpbs << VAC__PB_SHIFT;
	if (len == 0 || a + len < a || (prot & ~(VAC_PROT_READ | VAC_PROT_WRITE)) || !prot)
		return -EINVAL;
	if (a < base || a - base >= bytes || len > bytes - (a - base))
		return -EFAULT;
	first = (uint32_t)((a - base) >> VAC__PAGE_SHIFT);
	end = (uint32_t)((a - base + len - 1) >> VAC__PAGE_SHIFT) + 1;
	for (unsigned pass = 0; pass < PASSES; pass++) {
		bool clean = true;

		for (uint32_t page = first; page < end; page = next) {
			int r;

			if (shown(space, page, need, &next))
				continue;
			clean = false;
			next = page + 1;
			VAC__ENTER();
			r = vac__fault_in(space, page, access);
			VAC__LEAVE();
			if (r < 0)
				return r;
		}
		if (clean)
			return 0;
	}
	return -EAGAIN;
}

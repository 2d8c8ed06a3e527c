/* SPDX-License-Identifier: MIT */
/*
 * Faults: a page was touched that the host does not show, or shows with fewer rights.
 *
 *	not mapped, or not allowed   -EFAULT: a true SIGSEGV
 *	none                         a new folio: huge where the VMA covers the whole vpb, else a
 *	                             window of base folios around the page
 *	migration entry              wait without a reference, then look again
 *	swap entry                   map the folio that the swap cache has; else read it, and look again
 *	present, shared, to be written or pinned
 *	                             make it exclusive (cow.c)
 *	present, host agrees         somebody else was faster: try the access again
 *	present, host shows less     show it again
 *
 * Locks: the space's for read throughout; the fault lock of the vpb while folios are made, so that
 * threads that touch the same new pageblock fill it once; the ptl to look and to install. Only the
 * wait for a migration sleeps for long, and it holds none of them.
 */
#include "internal.h"

struct vac__mutex *vac__fault_lock(struct vac_space *s, uint32_t vpb)
{
	return &s->pool->fault[(vpb + s->id * 7u) % 64u];
}

enum look { LOOK_NONE, LOOK_DONE, LOOK_WAIT, LOOK_AGAIN, LOOK_SHARED, LOOK_LOST, LOOK_SWAP };

/* A present entry is to become exclusive: its folio's lock and a reference, or the wait for the lock. */
static enum look look_shared(struct vac_space *s, uint32_t pfn, uint32_t *ticket)
{
	/* Present under the ptl means mapped, so the reference is to be had unless frozen. */
	int r = vac__w_try_ref(&vac__frame(s->pool, pfn)->word);

	if (r == 0 && !vac__folio_trylock(s->pool, pfn)) {
		vac__folio_put(s->pool, pfn, VAC__W_REF);
		r = -EAGAIN;
	}
	if (r == 0)
		return LOOK_SHARED;
	return vac__folio_wait_prepare(s->pool, pfn, ticket) ? LOOK_WAIT : LOOK_AGAIN;
}

/*
 * Judge the slot of a page under its ptl. LOOK_WAIT: *pfn is the folio that leaves, or that somebody is
 * at, and *ticket the wait prepared for it. LOOK_SHARED: *pfn is locked, and referenced. LOOK_DONE: *err.
 * LOOK_NONE: to be filled. LOOK_LOST: see dangling.c. LOOK_SWAP: to be read.
 */
static enum look look(struct vac_space *s, uint32_t page, unsigned access, uint32_t *pfn,
		      uint32_t *ticket, int *err)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	enum look l = LOOK_NONE;
	uint64_t e;

	VAC__SYNC("fault_before_ptl", page);
	vac__ptl_lock(s, vpb);
	e = vac__ld_rlx(vac__pmd(s, vpb));
	if ((e & VAC__E_TYPE) == VAC__E_TABLE)
		e = vac__ld_rlx(vac__pte(s, page));
	if (vac__e_migration(e)) {
		/* Readers find the leaving page in the host still; only the host's own refusal of a
		 * read, or a write, brings a thread here. */
		*pfn = vac__e_pfn(e);
		l = LOOK_WAIT;
		VAC__SYNC("fault_saw_entry", *pfn);
		if (!vac__folio_wait_prepare(s->pool, *pfn, ticket))
			l = LOOK_LOST;
	} else if (vac__e_present(e) && !(e & VAC__E_EXCL) &&
		   (access & (VAC__WRITE | VAC__UNSHARE))) {
		*pfn = vac__e_pfn(e);
		l = look_shared(s, *pfn, ticket);
	} else if (vac__e_present(e)) {
		uint64_t need = access & VAC__WRITE ? VAC__E_HWRITE : VAC__E_HREAD;

		if ((e & need) && !(e & VAC__E_HBLIND))
			*err = 0;
		else if ((access & VAC__WRITE) && (e & VAC__E_CLEAN))
			*err = vac__swap_upgrade(s, page);
		else
			*err = vac__host_refresh(s, page);
		l = LOOK_DONE;
	} else if (vac__e_swap(e)) {
		static const enum look as[] = {[VAC__SWAP_DONE] = LOOK_DONE,
					       [VAC__SWAP_WAIT] = LOOK_WAIT,
					       [VAC__SWAP_AGAIN] = LOOK_AGAIN,
					       [VAC__SWAP_READ] = LOOK_SWAP};

		l = as[vac__swap_look(s, page, access, pfn, ticket, err)];
		/* It is mapped, and shared: what was asked for is more. */
		if (l == LOOK_DONE && *err == 0 && !(e & VAC__E_EXCL) &&
		    (access & (VAC__WRITE | VAC__UNSHARE)))
			l = LOOK_AGAIN;
	}
	vac__ptl_unlock(s, vpb);
	return l;
}

/* The slot is filled already by what somebody else did meanwhile. */
static bool filled(struct vac_space *s, uint32_t page)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	bool yes;

	vac__ptl_lock(s, vpb);
	yes = vac__entry_get(s, page) != 0;
	vac__ptl_unlock(s, vpb);
	return yes;
}

static bool wants_huge(struct vac_space *s, const struct vac__vma *v, uint32_t vpb)
{
	return !v->nohuge && !(s->pool->opts.flags & VAC_POOL_BASE_ONLY) &&
	       v->start <= vpb * VAC__PB_PAGES && v->end >= (vpb + 1) * VAC__PB_PAGES &&
	       vac__ld_rlx(vac__pmd(s, vpb)) == 0;
}

static int fill_huge(struct vac_space *s, const struct vac__vma *v, uint32_t vpb)
{
	uint32_t pfn;
	int r = vac__huge_alloc(s->pool, true, &pfn);

	if (r < 0)
		return r;
	vac__ptl_lock(s, vpb);
	r = vac__install_huge(s, vpb, pfn, v->prot);
	vac__ptl_unlock(s, vpb);
	if (r < 0)
		vac__folio_put(s->pool, pfn, VAC__W_REF);
	else
		vac__progress(s->pool);
	return r;
}

/* The pages to fill with base folios around one: the configured window, or the whole vpb when
 * host mappings run short, as a filled vpb of one reservation needs only one. */
static void window(struct vac_space *s, const struct vac__vma *v, uint32_t page, uint32_t *lo,
		   uint32_t *hi)
{
	uint32_t unit = s->pool->opts.fault_bytes >> VAC__PAGE_SHIFT;
	uint64_t used, limit;

	vac__port_vma_usage(&used, &limit);
	if (used > limit / 2)
		unit = VAC__PB_PAGES;
	*lo = page - page % unit;
	*hi = *lo + unit;
	if (*lo < v->start)
		*lo = v->start;
	if (*hi > v->end)
		*hi = v->end;
}

/* Fill [lo, hi), which holds `page`: that one must succeed, the others are a convenience. */
static int fill_base(struct vac_space *s, const struct vac__vma *v, uint32_t page, uint32_t lo,
		     uint32_t hi)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	uint32_t pfns[VAC__PB_PAGES];
	int r, err;

	/* Its neighbours are not to take the last frame. */
	err = vac__base_alloc(s->pool, s, page, &pfns[page - lo]);
	if (err < 0)
		return err;
	/* We hold the vpb's fault lock: an empty slot stays empty but for an unmap, which waits for
	 * the space's lock. */
	for (uint32_t p = lo; p < hi; p++) {
		uint32_t *pfn = &pfns[p - lo];

		if (p != page)
			*pfn = VAC__NO_PFN;
		if (p == page ||
		    (vac__entry_get(s, p) == 0 && vac__base_alloc(s->pool, s, p, pfn) == 0))
			memset(vac__frame_addr(s->pool, *pfn), 0, VAC_PAGE_BYTES);
	}
	vac__ptl_lock(s, vpb);
	for (uint32_t p = lo; p < hi;) {
		uint32_t n = 0;

		while (p + n < hi && pfns[p + n - lo] != VAC__NO_PFN)
			n++;
		if (n == 0) {
			p++;
			continue;
		}
		r = vac__install_base(s, p, &pfns[p - lo], n, v->prot);
		if (r < (int)n && page >= p + (r > 0 ? (uint32_t)r : 0) && page < p + n)
			err = -ENOBUFS; /* the host's limit: there was a frame */
		for (int i = 0; i < r; i++)
			pfns[p + (uint32_t)i - lo] = VAC__NO_PFN; /* mapped: no longer ours */
		p += n;
	}
	vac__ptl_unlock(s, vpb);
	vac__progress(s->pool);
	for (uint32_t p = lo; p < hi; p++)
		if (pfns[p - lo] != VAC__NO_PFN)
			vac__folio_put(s->pool, pfns[p - lo], VAC__W_REF);
	return err;
}

/* Fill all that is empty of a vpb with base folios of zeroes. The space's lock and the vpb's fault lock
 * are held. 0: nothing is empty any more. */
int vac__fill_table(struct vac_space *s, const struct vac__vma *v, uint32_t vpb)
{
	uint32_t first = vpb * VAC__PB_PAGES, end = first + VAC__PB_PAGES;
	int r = 0;

	for (uint32_t p = first; p < end && r == 0; p++)
		if (vac__entry_get(s, p) == 0)
			r = fill_base(s, v, p, p, end);
	return r;
}

static int fill(struct vac_space *s, const struct vac__vma *v, uint32_t page)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	struct vac__mutex *m = vac__fault_lock(s, vpb);
	uint32_t lo, hi;
	int r = -ENOMEM;

	vac__lock(m, VAC__RANK_FAULT);
	if (filled(s, page)) {
		r = 0;
	} else {
		if (wants_huge(s, v, vpb))
			r = fill_huge(s, v, vpb);
		/* Memory may be there, but not in whole pageblocks. */
		if (r < 0) {
			window(s, v, page, &lo, &hi);
			r = fill_base(s, v, page, lo, hi);
		}
	}
	vac__unlock(m, VAC__RANK_FAULT);
	return r;
}

/* Somebody has picked the folio for a moment. Nothing is held; who lets go says so, as a rule. */
static void wait_progress(struct vac_pool *pool)
{
	uint32_t seen;

	vac__add(&pool->offliners, 1);
	seen = vac__event_read(&pool->progress);
	vac__event_wait(&pool->progress, seen, vac__port_now() + 1000000);
	vac__sub(&pool->offliners, 1);
}

/*
 * Make a page present with the access wanted. Signals are blocked, no lock is held. May sleep for
 * a migration, for the swap file, and for what others write to it to make room. 0, -EFAULT, -ENOMEM, -EIO
 * (it cannot be read, or is lost).
 */
int vac__fault_in(struct vac_space *s, uint32_t page, unsigned access)
{
	bool released = false, alone = false;
	uint32_t kept = VAC__NO_PFN; /* what we need in memory, until we have looked again */

	for (;;) {
		uint32_t pfn = 0, ticket = 0;
		const struct vac__vma *v;
		uint64_t freed = vac__ld(&s->pool->nr_freed);
		struct vac__swapin in;
		enum look l;
		int r = 0;

		vac__rdlock(&s->lock, VAC__RANK_SPACE);
		v = vac__vma_find(s, page);
		if (!v || !(v->prot & (VAC_PROT_READ | VAC_PROT_WRITE)) ||
		    ((access & VAC__WRITE) && !(v->prot & VAC_PROT_WRITE))) {
			vac__rdunlock(&s->lock, VAC__RANK_SPACE);
			if (kept != VAC__NO_PFN)
				vac__folio_put(s->pool, kept, VAC__W_REF);
			return -EFAULT;
		}
		l = look(s, page, access, &pfn, &ticket, &r);
		if (kept != VAC__NO_PFN)
			vac__folio_put(s->pool, kept, VAC__W_REF);
		kept = VAC__NO_PFN;
		if (l == LOOK_NONE)
			r = fill(s, v, page);
		else if (l == LOOK_SHARED)
			r = vac__unshare(s, v, page, pfn);
		else if (l == LOOK_SWAP)
			r = vac__swapin_begin(s, page, alone, &in);
		if (l == LOOK_LOST) {
			struct vac__rwlock *fam = &s->pool->families[s->family].lock;

			vac__rdlock(fam, VAC__RANK_RMAP);
			r = vac__dangling(s, page);
			vac__rdunlock(fam, VAC__RANK_RMAP);
		}
		vac__rdunlock(&s->lock, VAC__RANK_SPACE);
		if (l == LOOK_SWAP && r == 0)
			r = vac__swapin_read(s->pool, &in, &kept);
		if (l == LOOK_SHARED && r == -EBUSY)
			wait_progress(s->pool);
		if (l == LOOK_AGAIN || (l == LOOK_LOST && r == 0) ||
		    (l == LOOK_SWAP && (r == 0 || r == -EAGAIN)) ||
		    (l == LOOK_SHARED && (r == -EAGAIN || r == -EBUSY)))
			continue;
		/* What was dropped under a foreign holder, which may have been the kernel's own for a
		 * moment, is memory too once it has let go. Where a frame was there, and the host
		 * would not show it, that does not help. */
		if (r == -ENOMEM && l != LOOK_DONE && !released && vac__ld(&s->pool->nr_quar)) {
			released = true;
			/* One that pins may hold what whoever works on blocks is waiting for. */
			if (vac__quarantine_try(s->pool, access & VAC__UNSHARE
								 ? vac__port_now()
								 : vac__gate_deadline(s->pool)))
				continue;
		}
		/* To make room for a copy by throwing out what is to be copied would never end. */
		if (l == LOOK_SHARED && r == -ENOMEM &&
		    vac__w_try_ref(&vac__frame(s->pool, pfn)->word) == 0)
			kept = pfn;
		if ((l == LOOK_NONE || l == LOOK_SWAP || l == LOOK_SHARED) && r == -ENOMEM &&
		    (vac__reclaim(s->pool, 2 * VAC__SWAP_CLUSTER, freed) ||
		     (l == LOOK_SWAP && !alone))) {
			alone = true;
			continue;
		}
		if (kept != VAC__NO_PFN)
			vac__folio_put(s->pool, kept, VAC__W_REF);
		kept = VAC__NO_PFN;
		if (l == LOOK_NONE || l == LOOK_SWAP || l == LOOK_SHARED)
			vac__reclaim_kick(s->pool);
		if (r == -ENOBUFS)
			r = -ENOMEM;
		if (l != LOOK_WAIT)
			return r;
		vac__stat_add(&s->pool->c.fault_waits, 1);
		VAC__SYNC("waiter_queued", pfn);
		vac__folio_wait(s->pool, pfn, ticket);
	}
}

/*
 * A writer waits in the host: for a page that leaves, or that a fork() has stopped, which will be shown
 * anew; or for one that is watched, and then somebody must see to it. No lock, so the entry may be out of
 * date. It was changed after the host was, by whoever wakes the writers, and if it is changed later, it is
 * by somebody who will; a call for nothing does no harm.
 */
static int waits(struct vac_space *s, uint32_t page)
{
	uint64_t e = vac__entry_get(s, page);

	if (vac__e_present(e) && !(e & VAC__E_HWRITE))
		return 1;
	/* On its way out to swap: a hole wakes all who wait there, but the host may refuse one, and then the
	 * page stays, watched. */
	if (vac__e_swap(e))
		return 1;
	/* It may have met the watch before the page began to leave, and then nobody would wake it if it
	 * stays because the host refuses even that. */
	if (e & (VAC__E_HWATCH | VAC__E_HBLIND))
		return vac__e_migration(e);
	vac__stat_add(&s->pool->c.fault_waits, 1);
	return vac__left_behind(s, page);
}

/* The guard's upcall (vac__fault_fn). */
int vac__fault(void *space, uintptr_t addr, unsigned access)
{
	struct vac_space *s = space;
	uint32_t page;
	int r;

	(void)vac__ld_acq(&s->ready);
	page = (uint32_t)((addr - (uintptr_t)s->base) >> VAC__PAGE_SHIFT);
	if (access == VAC__WAITS)
		return waits(s, page);
	vac__fork_pass(s->pool);
	vac__stat_add(&s->pool->c.faults, 1);
	vac__port_lack()->kind = VAC__LACK_NONE;
	r = vac__fault_in(s, page, access);
	if (r == -ENOMEM || r == -EIO)
		vac__refuse(s, addr, access, r);
	return r;
}

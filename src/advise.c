/* SPDX-License-Identifier: MIT */
/*
 * Advice, and locking into memory: madvise(2)'s and mlock(2)'s meaning, said in include/vacate.h.
 *
 * Cold. The host does not tell which pages are touched, so one that is said not to be needed soon is hidden
 * from the host, which costs its next touch a fault; then it is not cold any more (map.c). What is cold when
 * memory is wanted goes before all others (reclaim.c). Nothing is hidden without a swap file.
 *
 * Will need. What was never there is filled in by the caller; what is in the swap file is read by swap's thread
 * (swapin.c), while the caller goes on.
 */
#include "internal.h"

/* ---- Marks of VMAs ----------------------------------------------------------------------------- */

enum mark { MARK_HUGE, MARK_NOHUGE, MARK_LOCKED, MARK_UNLOCKED };

static int mark(struct vac_space *s, uint32_t first, uint32_t end, enum mark m)
{
	uint32_t vmas;
	int r = 0;

	vac__wrlock(&s->lock, VAC__RANK_SPACE);
	vac__wrlock(&s->pool->families[s->family].lock, VAC__RANK_RMAP);
	vmas = s->nr_vmas;
	if (!vac__vma_room(s) || !vac__vma_covers(s, first, end)) {
		r = -ENOMEM;
	} else {
		vac__vma_cut(s, first);
		vac__vma_cut(s, end);
		for (uint32_t i = vac__vma_after(s, first);
		     i < s->nr_vmas && s->vmas[i].start < end; i++) {
			if (m == MARK_HUGE || m == MARK_NOHUGE)
				s->vmas[i].nohuge = m == MARK_NOHUGE;
			else
				s->vmas[i].locked = m == MARK_LOCKED;
		}
		vac__vma_merge_around(s, first, end);
	}
	vac__vmas_book(s, vmas);
	vac__wrunlock(&s->pool->families[s->family].lock, VAC__RANK_RMAP);
	vac__wrunlock(&s->lock, VAC__RANK_SPACE);
	return r;
}

/* Marked first: what is brought in stays. */
static int lock_range(struct vac_space *s, uint32_t first, uint32_t end)
{
	int r = mark(s, first, end, MARK_LOCKED);

	if (r < 0)
		return r;
	r = vac__populate(s, first, end, false);
	if (r < 0)
		mark(s, first, end, MARK_UNLOCKED);
	return r == -EFAULT ? -ENOMEM : r;
}

static int lock_or_unlock(struct vac_space *s, void *addr, size_t len, bool on)
{
	uint32_t first, end;
	int r;

	if (vac__port_forked())
		return -EPERM;
	r = vac__range(s, addr, len, &first, &end);
	if (r < 0)
		return r;
	VAC__ENTER();
	r = on ? lock_range(s, first, end) : mark(s, first, end, MARK_UNLOCKED);
	VAC__LEAVE();
	return r;
}

int vac_lock(struct vac_space *space, void *addr, size_t len)
{
	return lock_or_unlock(space, addr, len, true);
}

int vac_unlock(struct vac_space *space, void *addr, size_t len)
{
	return lock_or_unlock(space, addr, len, false);
}

/* ---- Advice ------------------------------------------------------------------------------------ */

/* What a range is, for the errors of madvise(2). */
static int look_at(struct vac_space *s, uint32_t first, uint32_t end, bool *whole)
{
	int r = 0;

	vac__rdlock(&s->lock, VAC__RANK_SPACE);
	*whole = vac__vma_covers(s, first, end);
	for (uint32_t i = vac__vma_after(s, first); i < s->nr_vmas && s->vmas[i].start < end; i++)
		if (s->vmas[i].locked)
			r = -EINVAL;
	vac__rdunlock(&s->lock, VAC__RANK_SPACE);
	return r;
}

/* Filled by the time of the answer: what was never there. Under way: what is in swap. */
static int will_need(struct vac_space *s, uint32_t first, uint32_t end)
{
	bool asked = false;
	int r = 0;

	for (uint32_t p = first; p < end; p++) {
		uint64_t e = vac__entry_get(s, p);
		int err = 0;

		if (vac__e_swap(e)) {
			if (!asked)
				vac__swapin_ask(s, p, end);
			asked = true;
		} else if (!e) {
			err = vac__fault_in(s, p, VAC__READ);
		}
		r = r ? r : err;
	}
	return r == -EFAULT ? -ENOMEM : r;
}

/* Of one vpb. The space's lock is held for read. */
static void cool(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint32_t vpb = first >> VAC__PB_ORDER;
	uint64_t e = vac__ld(vac__pmd(s, vpb));

	/* Half of a huge folio can be cold only by itself. */
	if (vac__e_present(e) && end - first < VAC__PB_PAGES)
		vac__reclaim_divide(s->pool, vac__e_pfn(e));
	vac__ptl_lock(s, vpb);
	vac__host_cool(s, first, end);
	vac__ptl_unlock(s, vpb);
}

static int cold(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint32_t next;
	bool whole;
	int r = look_at(s, first, end, &whole);

	if (r == 0 && vac__ld(&s->pool->swap.state) == VAC__SWAP_ON) {
		vac__rdlock(&s->lock, VAC__RANK_SPACE);
		for (; first < end; first = next) {
			next = (first / VAC__PB_PAGES + 1) * VAC__PB_PAGES;
			next = next < end ? next : end;
			cool(s, first, next);
		}
		vac__rdunlock(&s->lock, VAC__RANK_SPACE);
	}
	return r ? r : whole ? 0 : -ENOMEM;
}

static int dont_need(struct vac_space *s, uint32_t first, uint32_t end)
{
	bool whole;
	int r = look_at(s, first, end, &whole);

	if (r == 0)
		r = vac__words_end(s, first, end);
	/* Of a range with gaps: done, and no error, so that what fails has changed nothing. */
	return r ? r : vac__drop(s, first, end, false, false);
}

int vac_advise(struct vac_space *space, void *addr, size_t len, enum vac_advice advice)
{
	uint32_t first, end;
	int r;

	if (vac__port_forked())
		return -EPERM;
	r = vac__range(space, addr, len, &first, &end);
	if (r < 0)
		return r;
	VAC__ENTER();
	switch (advice) {
	case VAC_ADV_WILLNEED: r = will_need(space, first, end); break;
	case VAC_ADV_DONTNEED: r = dont_need(space, first, end); break;
	case VAC_ADV_HUGE:
	case VAC_ADV_NOHUGE:
		r = mark(space, first, end, advice == VAC_ADV_NOHUGE ? MARK_NOHUGE : MARK_HUGE);
		break;
	case VAC_ADV_COLD: r = cold(space, first, end); break;
	case VAC_ADV_WAITWORDS: r = vac__words_declare(space, first, end); break;
	case VAC_ADV_NOWAITWORDS: r = vac__words_end(space, first, end); break;
	default: r = -EINVAL;
	}
	VAC__LEAVE();
	return r;
}

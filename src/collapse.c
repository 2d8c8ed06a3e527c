/* SPDX-License-Identifier: MIT */
/*
 * Collapse: the base folios of one vpb become a huge folio again.
 *
 *	in place	they lie in order in one pageblock of frames: bookkeeping only, the inverse of split.c
 *	by copy		they do not: a migration of all of them into one huge folio (migrate.c), missing
 *			pages filled with zeroes before, up to a limit
 *
 * Invariants:
 *  - The space's lock is held for read and the vpb's fault lock throughout: the VMA stays as it is, no
 *    page is dropped or protected, and no empty slot is filled behind our back.
 *  - Only what one space alone shows comes together: each entry exclusive, each word frozen at exactly
 *    one mapping and our reference. So no pin is left on a frame that is about to be a tail, and a
 *    lock-free pinner that has read an old pte finds FROZEN, or a free word, or a changed slot.
 *  - A folio of the swap cache comes too: exclusive, so that no other entry names its slot. The slot goes
 *    back when all words are frozen, at exactly one reference more; what fails before keeps it.
 *  - The ptes are empty before the head can be pinned: a pte under a huge entry is never read as one.
 *  - A pageblock of frames that is a huge folio has no reservation.
 */
#include "internal.h"

/* What a look at a vpb has found. */
struct found {
	uint32_t pfn; /* of the first page */
	uint32_t missing;
	bool linear; /* the present ones lie in order in one pageblock */
	bool shown;  /* by the host, all of them */
};

/* Look at the ptes, under the ptl. 0; -EBUSY: some are leaving, shared, or of another kind. */
static int look(struct vac_space *s, uint32_t vpb, struct found *f)
{
	uint32_t first = vpb * VAC__PB_PAGES;
	uint64_t rights = 0;
	int r = 0;

	memset(f, 0, sizeof(*f));
	f->linear = f->shown = true;
	vac__ptl_lock(s, vpb);
	if ((vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) != VAC__E_TABLE)
		r = -ENOENT;
	for (uint32_t i = 0; i < VAC__PB_PAGES && r == 0; i++) {
		uint64_t e = vac__ld_rlx(vac__pte(s, first + i));

		if (e == 0) {
			f->missing++;
			f->linear = false;
			continue;
		}
		if (!vac__e_present(e) || !(e & VAC__E_EXCL))
			r = -EBUSY;
		if (i == f->missing) /* the first that is there */
			rights = vac__e_rights(e);
		if (vac__e_rights(e) != rights)
			r = -EBUSY;
		if (i == 0)
			f->pfn = vac__e_pfn(e);
		f->linear &= vac__e_pfn(e) == f->pfn + i && f->pfn % VAC__PB_PAGES == 0;
		f->shown &= (e & VAC__E_HMAP) != 0;
	}
	vac__ptl_unlock(s, vpb);
	return r;
}

/* ---- In place --------------------------------------------------------------------------------- */

/* Own all frames from pfn on, or none. */
static int own(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t n;
	int r = 0;

	for (n = 0; n < VAC__PB_PAGES; n++) {
		r = vac__folio_isolate(pool, pfn + n);
		if (r < 0)
			break;
		if (!vac__folio_trylock(pool, pfn + n)) {
			vac__folio_putback(pool, pfn + n);
			r = -EAGAIN;
			break;
		}
	}
	for (; r < 0 && n > 0; n--) {
		vac__folio_unlock(pool, pfn + n - 1);
		vac__folio_putback(pool, pfn + n - 1);
	}
	return r;
}

static int freeze_all(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t n;
	int r = 0;

	for (n = 0; n < VAC__PB_PAGES; n++) {
		vac__word *w = &vac__frame(pool, pfn + n)->word;

		if (vac__w_freeze(w, vac__expected_counts(vac__swapcache(pool, pfn + n), 1, 0, 1)))
			continue;
		r = vac__w_pins(vac__ld(w)) ? -EBUSY : -EAGAIN;
		break;
	}
	for (; r < 0 && n > 0; n--)
		vac__and(&vac__frame(pool, pfn + n - 1)->word, ~VAC__W_FROZEN);
	return r;
}

/* All words are frozen: from 512 folios to one. The ptl is held. */
static void join(struct vac_space *s, uint32_t vpb, uint32_t pfn)
{
	struct vac_pool *pool = s->pool;
	struct vac__frame *head = vac__frame(pool, pfn);
	uint64_t e = vac__ld_rlx(vac__pte(s, vpb * VAC__PB_PAGES));

	for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
		if (vac__swapcache(pool, pfn + i))
			vac__swap_cache_end(pool, pfn + i);
	for (uint32_t i = 1; i < VAC__PB_PAGES; i++) {
		struct vac__frame *t = vac__frame(pool, pfn + i);

		vac__st(&t->flags, VAC__F_TAIL);
		vac__gate_wake(pool, pfn + i, vac__w_thaw(&t->word, 0));
	}
	vac__or(&head->flags, VAC__F_HEAD);
	vac__and(&head->flags, ~VAC__F_BASE);
	vac__resv_end(pool, pfn);
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
		vac__st(vac__pte(s, vpb * VAC__PB_PAGES + i), 0);
	vac__st(vac__pmd(s, vpb), e);
	vac__segments_settle(s, vpb, 0);
	vac__gate_wake(pool, pfn, vac__w_thaw(&head->word, VAC__W_REF + VAC__W_MAP));
	VAC__SYNC("collapsed", pfn);
}

/* What was withheld so that the slot could be kept (E_CLEAN) is given: the slots are about to go. The ptl is
 * held, and all folios are locked. */
static void give_rights(struct vac_space *s, uint32_t vpb)
{
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++) {
		vac__entry *slot = vac__pte(s, vpb * VAC__PB_PAGES + i);
		uint64_t e = vac__ld_rlx(slot);

		if (!(e & VAC__E_CLEAN))
			continue;
		vac__swap_written(s->pool, vac__e_pfn(e));
		vac__st(slot, (e & ~(uint64_t)VAC__E_CLEAN) | VAC__E_WRITE);
	}
}

static int in_place(struct vac_space *s, uint32_t vpb, uint32_t pfn)
{
	struct vac_pool *pool = s->pool;
	struct vac__rwlock *fam = &pool->families[s->family].lock;
	struct found f;
	int r = own(pool, pfn);

	if (r < 0)
		return r;
	/* The folios are ours now: what is found stays so, but for what the family's lock is for. */
	r = look(s, vpb, &f);
	if (r == 0 && (!f.linear || f.pfn != pfn))
		r = -EAGAIN;
	if (r == 0) {
		vac__wrlock(fam, VAC__RANK_RMAP);
		vac__ptl_lock(s, vpb);
		give_rights(s, vpb);
		/* One mapping, which the host can turn into a 2 MiB page. It may refuse: before. */
		r = vac__host_refresh_table(s, vpb);
		if (r == 0)
			r = freeze_all(pool, pfn);
		if (r == 0)
			join(s, vpb, pfn);
		vac__ptl_unlock(s, vpb);
		vac__wrunlock(fam, VAC__RANK_RMAP);
	}
	for (uint32_t i = VAC__PB_PAGES; i-- > 0;) {
		vac__folio_unlock(pool, pfn + i);
		if (r < 0 || i == 0)
			vac__folio_putback(pool, pfn + i);
	}
	return r;
}

/* ---- By copy ---------------------------------------------------------------------------------- */

/* Pick the folios of all pages into items; answers how many, fewer if one cannot be had. */
static unsigned pick(struct vac_space *s, uint32_t vpb, struct vac__mig_item *items)
{
	uint32_t first = vpb * VAC__PB_PAGES;
	unsigned n;

	for (n = 0; n < VAC__PB_PAGES; n++) {
		uint64_t e = 0;
		int r = -EAGAIN;

		/* What a pte names under the ptl is this page's folio, and the reference keeps it so. */
		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pte(s, first + n));
		if (vac__e_present(e) && (e & VAC__E_EXCL))
			r = vac__folio_isolate(s->pool, vac__e_pfn(e));
		vac__ptl_unlock(s, vpb);
		if (r < 0)
			break;
		items[n].src = vac__e_pfn(e);
		items[n].pins = 0;
	}
	return n;
}

/* Have the host show every page, so that all of them leave by the same path. */
static int show_all(struct vac_space *s, uint32_t vpb)
{
	int r = 0;

	vac__ptl_lock(s, vpb);
	for (uint32_t p = vpb * VAC__PB_PAGES; p < (vpb + 1) * VAC__PB_PAGES && r == 0; p++) {
		uint64_t e = vac__ld_rlx(vac__pte(s, p));

		if (!vac__e_present(e))
			r = -EAGAIN;
		else if (!(e & VAC__E_HMAP))
			r = vac__host_refresh(s, p);
	}
	vac__ptl_unlock(s, vpb);
	return r;
}

#define TRIES 3 /* one of 512 pages is easily held for a moment */

/* Why the items have stayed: what is wrong with one of them, rather than that one kept the others. */
static int why(const struct vac__mig_item *items)
{
	int r = items[0].err;

	for (unsigned i = 0; i < VAC__PB_PAGES && r == -EAGAIN; i++)
		r = items[i].err;
	return r;
}

static int by_copy(struct vac_space *s, uint32_t vpb, const struct found *f,
		   struct vac__mig_stats *st)
{
	struct vac_pool *pool = s->pool;
	struct vac__mig_item *items = pool->batch;
	struct vac__mig_aim aim = {.huge = VAC__NO_PFN};
	int r = f->shown ? 0 : show_all(s, vpb);
	unsigned n;

	if (r == 0)
		r = vac__huge_alloc(pool, false, &aim.huge);
	if (r < 0)
		return r;
	n = pick(s, vpb, items);
	if (n == VAC__PB_PAGES) {
		r = -EAGAIN;
		for (int i = 0; i < TRIES && (r == -EAGAIN || r == -VAC__EHELD); i++) {
			vac__migrate_to(pool, items, n, VAC__MIG_ASYNC, st, &aim);
			r = why(items);
		}
	} else {
		r = -EAGAIN;
	}
	for (unsigned i = 0; i < n && r < 0; i++)
		vac__folio_putback(pool, items[i].src);
	if (r < 0)
		vac__folio_put(pool, aim.huge, VAC__W_REF);
	return r;
}

/* ---- One vpb ---------------------------------------------------------------------------------- */

/*
 * Make one huge folio of a vpb, if that can be. The hotplug lock and the space's lock (read) are held.
 * Up to max_missing pages that are not there are filled in first, and stay so if it fails afterwards.
 * enum vac__collapsed; -ENOENT: nothing to do; -EDOM: too many missing; -EBUSY: pinned, shared or not
 * all present; -ENOSPC: only a copy would do, which is not wanted; -EAGAIN, -ENOMEM, -ENOBUFS,
 * -VAC__EHELD: as vac__migrate().
 */
int vac__collapse(struct vac_space *s, uint32_t vpb, uint32_t max_missing, bool may_copy,
		  struct vac__mig_stats *st)
{
	const struct vac__vma *v = vac__vma_find(s, vpb * VAC__PB_PAGES);
	struct vac__mutex *m = vac__fault_lock(s, vpb);
	struct found f;
	int r;

	if (!v || v->nohuge || !v->prot || (s->pool->opts.flags & VAC_POOL_BASE_ONLY) ||
	    v->start > vpb * VAC__PB_PAGES || v->end < (vpb + 1) * VAC__PB_PAGES)
		return -ENOENT;
	vac__lock(m, VAC__RANK_FAULT);
	r = look(s, vpb, &f);
	if (r == 0 && f.missing > max_missing)
		r = -EDOM;
	if (r == 0 && f.missing && !may_copy)
		r = -ENOSPC;
	if (r == 0 && f.missing) {
		r = vac__fill_table(s, v, vpb);
		if (r == 0)
			r = look(s, vpb, &f);
		if (r == 0 && f.missing)
			r = -EAGAIN;
	}
	if (r == 0 && f.linear) {
		r = in_place(s, vpb, f.pfn);
		if (r == 0)
			r = VAC__COLLAPSED_IN_PLACE;
	} else if (r == 0) {
		r = may_copy ? by_copy(s, vpb, &f, st) : -ENOSPC;
		if (r == 0)
			r = VAC__COLLAPSED_BY_COPY;
	}
	vac__unlock(m, VAC__RANK_FAULT);
	if (r == VAC__COLLAPSED_IN_PLACE)
		vac__stat_add(&s->pool->c.collapsed_in_place, 1);
	else if (r == VAC__COLLAPSED_BY_COPY)
		vac__stat_add(&s->pool->c.collapsed_by_copy, 1);
	return r;
}

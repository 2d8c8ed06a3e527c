/* SPDX-License-Identifier: MIT */
/*
 * Splitting a huge folio into 512 base folios: bookkeeping only, no byte and no host mapping moves.
 *
 * Invariant: the split happens while the head is frozen at its exact expected word, under the
 * family's lock for write. So nobody holds a pin or a stray reference on it (a pin is counted on
 * the head and could not be divided), no walk is in progress, and a lock-free pinner that read the
 * old slot finds FROZEN, or counts on what is now a base folio and sees the changed slot.
 */
#include "internal.h"

/*
 * Split the folio pfn, of which the caller holds the lock and one reference that keeps it. The
 * reference is on the first base folio afterwards. -EBUSY: pinned, or otherwise held. -ENOENT: no
 * slot shows it any more.
 */
int vac__split(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t fam = vac__ld_rlx(&f->family), index = vac__ld_rlx(&f->index);
	uint32_t vpb = index >> VAC__PB_ORDER, map = 0;
	struct vac_space *s;
	uint64_t old;
	int r = 0;

	VAC__DEBUG_ASSERT(vac__ld_rlx(&f->flags) & VAC__F_HEAD);
	if (fam >= VAC__MAX_SPACES)
		return -ENOENT;
	vac__wrlock(&pool->families[fam].lock, VAC__RANK_RMAP);
	for (s = vac__rmap_first(pool, fam); s; s = s->next_in_family) {
		uint64_t e = vpb < s->vpbs ? vac__ld(vac__pmd(s, vpb)) : 0;

		map += vac__e_present(e) && vac__e_pfn(e) == pfn;
	}
	if (map == 0)
		r = -ENOENT;
	else if (!vac__w_freeze(&f->word, vac__expected_counts(false, 1, 0, map)))
		r = -EBUSY;
	if (r < 0) {
		vac__wrunlock(&pool->families[fam].lock, VAC__RANK_RMAP);
		return r;
	}
	for (uint32_t i = 1; i < VAC__PB_PAGES; i++) {
		struct vac__frame *t = vac__frame(pool, pfn + i);

		vac__st_rlx(&t->family, fam);
		vac__st_rlx(&t->index, index + i);
		vac__st_rlx(&t->flags, VAC__F_BASE);
		vac__st_rel(&t->word, VAC__W_MAP * map);
	}
	vac__or(&f->flags, VAC__F_BASE);
	vac__and(&f->flags, ~VAC__F_HEAD);
	for (s = vac__rmap_first(pool, fam); s; s = s->next_in_family) {
		uint64_t e = vpb < s->vpbs ? vac__ld(vac__pmd(s, vpb)) : 0;

		if (!vac__e_present(e) || vac__e_pfn(e) != pfn)
			continue;
		vac__ptl_lock(s, vpb);
		/* Once more: a fault may have shown it meanwhile, which takes the ptl only. */
		e = vac__ld_rlx(vac__pmd(s, vpb));
		for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
			vac__st_rlx(vac__pte(s, index + i), e + ((uint64_t)i << VAC__E_PFN_SHIFT));
		vac__st(vac__pmd(s, vpb), VAC__E_TABLE);
		/* One host mapping shows it, or none, as before. */
		vac__ptl_unlock(s, vpb);
	}
	old = vac__w_thaw(&f->word, VAC__W_REF + VAC__W_MAP * map);
	vac__wrunlock(&pool->families[fam].lock, VAC__RANK_RMAP);
	vac__gate_wake(pool, pfn, old);
	vac__stat_add(&pool->c.splits, 1);
	vac__compactor_wake(pool);
	return 0;
}

/*
 * A border at `page` is about to cut what lies there: split it if it is a huge folio. The caller
 * holds the space's lock for write, so it must not sleep here: -EAGAIN: drop everything, wait with
 * vac__folio_wait(*pfn, *ticket) if *pfn is one, and begin anew. -EBUSY: *pfn is pinned.
 */
int vac__split_at(struct vac_space *s, uint32_t page, uint32_t *pfn, uint32_t *ticket)
{
	struct vac_pool *pool = s->pool;
	uint32_t vpb = page >> VAC__PB_ORDER;
	uint64_t e;
	int r;

	*pfn = VAC__NO_PFN;
	if (page % VAC__PB_PAGES == 0)
		return 0;
	vac__ptl_lock(s, vpb);
	e = vac__ld_rlx(vac__pmd(s, vpb));
	if (e == 0 || (e & VAC__E_TYPE) == VAC__E_TABLE) {
		vac__ptl_unlock(s, vpb);
		return 0;
	}
	/* Present under the ptl means mapped, so the reference is to be had unless frozen. */
	r = vac__e_present(e) ? vac__w_try_ref(&vac__frame(pool, vac__e_pfn(e))->word) : -EAGAIN;
	if (r == 0 && !vac__folio_trylock(pool, vac__e_pfn(e))) {
		vac__folio_put(pool, vac__e_pfn(e), VAC__W_REF);
		r = -EAGAIN;
	}
	if (r < 0) {
		r = vac__folio_wait_prepare(pool, vac__e_pfn(e), ticket);
		if (r)
			*pfn = vac__e_pfn(e);
		vac__ptl_unlock(s, vpb);
		if (!r && vac__e_migration(e)) {
			struct vac__rwlock *fam = &pool->families[s->family].lock;

			vac__rdlock(fam, VAC__RANK_RMAP);
			r = vac__dangling(s, page);
			vac__rdunlock(fam, VAC__RANK_RMAP);
			if (r < 0)
				return -EBUSY;
		}
		return -EAGAIN;
	}
	vac__ptl_unlock(s, vpb);
	r = vac__split(pool, vac__e_pfn(e));
	vac__folio_unlock(pool, vac__e_pfn(e));
	vac__folio_put(pool, vac__e_pfn(e), VAC__W_REF);
	if (r == -EBUSY)
		*pfn = vac__e_pfn(e);
	return r == -ENOENT ? -EAGAIN : r;
}

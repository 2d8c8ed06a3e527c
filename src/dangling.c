/* SPDX-License-Identifier: MIT */
/*
 * A migration entry that was left behind: its folio is not locked, so nobody is coming to remove it.
 *
 * That must not be (invariant I1; semantics.md F.2 has its history), and a debug build stops. A release
 * build counts it, says so once, and goes on if it can prove which frame has the page's bytes:
 *
 *  - The entry's frame F is in use, is a folio of the entry's size, and believes to be this page of this
 *    family, of which this space is, and has always been, the only one.
 *  - F cannot have been freed since the entry was made. A frame gets the number of a page when it is
 *    mapped for it, and a frame just allocated has none; only an empty slot is filled, and this slot has
 *    held the entry all the time. (With snapshots F could be a later copy for one of them.)
 *  - So F still has the bytes of when the page began to leave, which nobody could write since.
 *
 * Then the entry is made present again. Otherwise the page is lost: whoever touches it gets SIGBUS and
 * the pool a record of it, and nothing else is ever mapped there.
 */
#include "internal.h"

#ifdef VAC_DEBUG
bool vac__dangling_stops = true;
#else
bool vac__dangling_stops;
#endif

/*
 * Does a page seem to have such an entry? Without a lock, for one that may take none: the folio may have
 * been locked for a later migration of the same page between our looks, so whoever hears a yes asks
 * vac__dangling(). The entry goes before the folio is unlocked, so that a no is right at some moment.
 */
bool vac__left_behind(struct vac_space *s, uint32_t page)
{
	uint64_t e = vac__entry_get(s, page);
	bool huge = (vac__ld(vac__pmd(s, page >> VAC__PB_ORDER)) & VAC__E_TYPE) != VAC__E_TABLE;
	uint32_t pfn = vac__e_pfn(e) - (huge ? page % VAC__PB_PAGES : 0);

	return vac__e_migration(e) && !(vac__ld(&vac__frame(s->pool, pfn)->lock) & 1) &&
	       vac__entry_get(s, page) == e;
}

/* One was met. */
static void tell(struct vac_pool *pool)
{
	vac__stat_add(&pool->c.dangling, 1);
	if (vac__dangling_stops)
		VAC__BUG("dangling migration entry");
	if (vac__xchg(&pool->said_dangling, 1) == 0)
		vac__log(
			pool, VAC_LOG_ERROR,
			"a migration entry was left behind: an error of the engine; please report it");
}

/* The entry in this slot, of a reference on whose folio we hold, by the rules above. */
static bool proven(struct vac_space *s, uint32_t index, uint64_t e, bool huge)
{
	struct vac__frame *f = vac__frame(s->pool, vac__e_pfn(e));

	return !s->cloned &&
	       (vac__ld(&f->flags) & VAC__F_KIND) == (huge ? VAC__F_HEAD : VAC__F_BASE) &&
	       vac__ld(&f->family) == s->family && vac__ld(&f->index) == index &&
	       vac__w_map(vac__ld(&f->word)) == 0;
}

/* What the host shows at a page that is lost may be anybody's. The ptl is held. */
static void hide(struct vac_space *s, vac__entry *slot, uint32_t index, bool huge)
{
	uint64_t e = vac__ld_rlx(slot);
	void *at = s->base + ((size_t)index << VAC__PAGE_SHIFT);

	if (!(e & VAC__E_HMAP) || !vac__port_vma_charge(2, false))
		return;
	if (s->pool->mem->hole(s->pool->mem_ctx, at, huge ? VAC_PAGEBLOCK_BYTES : VAC_PAGE_BYTES,
			       false) == 0)
		vac__st(slot, e & ~(uint64_t)VAC__E_HOST);
	vac__segments_settle(s, index >> VAC__PB_ORDER, 2);
}

/*
 * Look at a page whose slot was seen to have an entry for an unlocked folio. The family's lock is held,
 * the ptl is not. 0: look again, it is repaired or was another thing; -EIO: the page is lost.
 */
int vac__dangling(struct vac_space *s, uint32_t page)
{
	struct vac_pool *pool = s->pool;
	uint32_t vpb = page >> VAC__PB_ORDER, index = page, pfn, ticket;
	vac__entry *slot = vac__pmd(s, vpb);
	bool huge = true;
	uint64_t e;
	int r = -EIO;

	vac__ptl_lock(s, vpb);
	e = vac__ld_rlx(slot);
	if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
		slot = vac__pte(s, page);
		e = vac__ld_rlx(slot);
		huge = false;
	} else {
		index = vpb * VAC__PB_PAGES;
	}
	pfn = vac__e_pfn(e);
	if (!vac__e_migration(e) || vac__folio_wait_prepare(pool, pfn, &ticket)) {
		vac__ptl_unlock(s, vpb);
		return 0;
	}
	tell(pool);
	if (vac__w_try_ref(&vac__frame(pool, pfn)->word) == 0) {
		if (!vac__folio_trylock(pool, pfn)) {
			r = 0;
		} else {
			if (proven(s, index, e, huge)) {
				vac__w_map_get(&vac__frame(pool, pfn)->word);
				e &= ~(uint64_t)(VAC__E_TYPE | VAC__E_HOST);
				vac__xchg(slot, e | VAC__E_PRESENT);
				/* Counted before anybody is let in. What the host shows there is not
				 * known: the page, or whatever it can be made to show. If it refuses,
				 * the next touch asks. */
				vac__stat_add(&pool->c.repaired, 1);
				vac__host_refresh(s, page);
				r = 0;
			}
			vac__folio_unlock(pool, pfn);
		}
		vac__folio_put(pool, pfn, VAC__W_REF);
	}
	if (r < 0)
		hide(s, slot, index, huge);
	vac__ptl_unlock(s, vpb);
	return r;
}

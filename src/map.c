/* SPDX-License-Identifier: MIT */
/*
 * The page table: entries, the host mapping that follows them, and the booking of host mappings.
 *
 * Invariants:
 *  - The entries of a vpb, and what the host shows in its range, change only under its ptl, or
 *    under the space's lock and the family's lock both held for write, which keeps faults and
 *    walks out. So the host's state always follows the entries' in the same order.
 *  - Host rights never exceed the entry's: E_HREAD and E_HWRITE say what the host grants.
 *  - A huge folio's entry stands in the pmd slot; there are ptes only under E_TABLE. Lock-free
 *    readers (pin.c) may see a slot that is about to change: they count first and look again.
 *  - nseg: how many host mappings a vpb's range takes, at most, neighbours not considered; plus
 *    one for each run of empty vpbs before a filled one. This is an upper bound of the truth,
 *    which merges more, and it is what we book.
 */
#include "internal.h"

void vac__ptl_lock(struct vac_space *s, uint32_t vpb)
{
	vac__lock(&s->ptl[vpb], VAC__RANK_PTL);
}

void vac__ptl_unlock(struct vac_space *s, uint32_t vpb)
{
	vac__unlock(&s->ptl[vpb], VAC__RANK_PTL);
}

/* The entry that translates a page: a huge one answers with the page's own pfn. Lock-free. */
uint64_t vac__entry_get(struct vac_space *s, uint32_t page)
{
	uint64_t e = vac__ld(vac__pmd(s, page >> VAC__PB_ORDER));

	if ((e & VAC__E_TYPE) == VAC__E_TABLE)
		return vac__ld(vac__pte(s, page));
	if (e)
		e += (uint64_t)(page % VAC__PB_PAGES) << VAC__E_PFN_SHIFT;
	return e;
}

/* The host rights that an entry's own rights ask for. */
unsigned vac__host_prot(uint64_t e)
{
	return (e & VAC__E_READ ? VAC__READ : 0) | (e & VAC__E_WRITE ? VAC__WRITE : 0);
}

static uint64_t rights(unsigned prot)
{
	/* Write implies read, on every host that we know. */
	return (prot ? VAC__E_READ : 0) | (prot & VAC_PROT_WRITE ? VAC__E_WRITE : 0);
}

static uint64_t host_bits(unsigned prot)
{
	return VAC__E_HMAP | (prot ? VAC__E_HREAD : 0) |
	       (prot & VAC_PROT_WRITE ? VAC__E_HWRITE : 0);
}

/* A present entry, not shown by the host yet, of a folio that nobody shares. */
uint64_t vac__entry_for(uint32_t pfn, unsigned prot)
{
	return vac__e_make(pfn, VAC__E_PRESENT | VAC__E_EXCL | rights(prot));
}

/* ---- Host mappings, counted ----------------------------------------------------------------- */

/* Equal keys of neighbouring pages: one host mapping shows both. */
static uint64_t segment_key(struct vac_pool *pool, uint64_t e, uint32_t i)
{
	uint32_t pfn = vac__e_pfn(e);

	if (!(e & VAC__E_HMAP))
		return 0;
	return (uint64_t)(pfn - i) << 32 | (uint64_t)(pfn >> pool->block_shift) << 12 |
	       (e & (VAC__E_HMAP | VAC__E_HREAD | VAC__E_HWRITE));
}

uint32_t vac__segments_of(struct vac_space *s, uint32_t vpb)
{
	uint64_t e = vac__ld_rlx(vac__pmd(s, vpb));
	uint64_t key, last = 0;
	uint32_t n = 0;
	bool any = false;

	if ((e & VAC__E_TYPE) != VAC__E_TABLE)
		return e & VAC__E_HMAP ? 1 : 0;
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++) {
		e = vac__ld_rlx(vac__pte(s, vpb * VAC__PB_PAGES + i));
		key = segment_key(s->pool, e, i);
		any |= key != 0;
		n += i == 0 || key != last;
		last = key;
	}
	return any ? n : 0;
}

/* Host mappings of the empty runs that end at this vpb's border, either side. */
static long gaps_at(const struct vac_space *s, uint32_t vpb)
{
	long n = 0;

	if (vpb > 0 && !s->nseg[vpb - 1] && s->nseg[vpb])
		n++;
	if (vpb + 1 < s->vpbs && !s->nseg[vpb] && s->nseg[vpb + 1])
		n++;
	return n;
}

/* After a change of a vpb's host mappings, for which `charged` were booked beforehand: book what
 * it really takes. The ptl is held, or the space's and the family's locks for write. */
void vac__segments_settle(struct vac_space *s, uint32_t vpb, long charged)
{
	uint32_t n = vac__segments_of(s, vpb);
	long delta;

	vac__lock(&s->segments, VAC__RANK_SEGMENTS);
	delta = (long)n - s->nseg[vpb] - gaps_at(s, vpb);
	s->nseg[vpb] = (uint16_t)n;
	delta += gaps_at(s, vpb);
	vac__unlock(&s->segments, VAC__RANK_SEGMENTS);
	if (delta != charged)
		vac__port_vma_charge(delta - charged, true);
}

/* ---- Installing ----------------------------------------------------------------------------- */

static int host_map(struct vac_space *s, uint32_t page, uint32_t n, uint32_t pfn, unsigned prot)
{
	struct vac_pool *pool = s->pool;
	size_t off = (size_t)(pfn & ((UINT32_C(1) << pool->block_shift) - 1)) << VAC__PAGE_SHIFT;

	return pool->mem->map(pool->mem_ctx, s->base + ((size_t)page << VAC__PAGE_SHIFT),
			      (size_t)n << VAC__PAGE_SHIFT, &vac__pfn_block(pool, pfn)->backing,
			      off, prot);
}

/*
 * Map a new huge folio, of which the caller holds a reference, in an empty slot: the mapping takes
 * the reference over. The ptl is held.
 * The host comes first: if it refuses, no entry was ever visible.
 */
int vac__install_huge(struct vac_space *s, uint32_t vpb, uint32_t pfn, unsigned prot)
{
	struct vac__frame *f = vac__frame(s->pool, pfn);
	int r;

	VAC__DEBUG_ASSERT(vac__ld_rlx(vac__pmd(s, vpb)) == 0);
	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = host_map(s, vpb * VAC__PB_PAGES, VAC__PB_PAGES, pfn, prot);
	if (r < 0) {
		vac__port_vma_charge(-2, true);
		return r;
	}
	vac__st_rlx(&f->family, s->family);
	vac__st_rlx(&f->index, vpb * VAC__PB_PAGES);
	vac__w_ref_to_map(&f->word);
	vac__st(vac__pmd(s, vpb), vac__entry_for(pfn, prot) | host_bits(prot));
	vac__segments_settle(s, vpb, 2);
	return 0;
}

/* How many of pfns[0..n) follow one another within one block. */
static uint32_t linear(struct vac_pool *pool, const uint32_t *pfns, uint32_t n)
{
	uint32_t k = 1;

	while (k < n && pfns[k] == pfns[0] + k &&
	       vac__pfn_block(pool, pfns[k]) == vac__pfn_block(pool, pfns[0]))
		k++;
	return k;
}

/*
 * Map new base folios, one reference each, which the mappings take over, in the empty slots of pages
 * [first, first + n) of one vpb; one host call for each linear run. The ptl is held. Answers how many
 * were mapped, from the first on, or the error that kept even the first out.
 */
int vac__install_base(struct vac_space *s, uint32_t first, const uint32_t *pfns, uint32_t n,
		      unsigned prot)
{
	uint32_t vpb = first >> VAC__PB_ORDER;
	uint32_t done = 0;
	int r = 0;

	if (vac__ld_rlx(vac__pmd(s, vpb)) == 0)
		vac__st(vac__pmd(s, vpb), VAC__E_TABLE);
	while (done < n) {
		uint32_t k = linear(s->pool, pfns + done, n - done);

		if (!vac__port_vma_charge(2, false)) {
			r = -ENOMEM;
			break;
		}
		r = host_map(s, first + done, k, pfns[done], prot);
		if (r < 0) {
			vac__port_vma_charge(-2, true);
			break;
		}
		for (uint32_t i = done; i < done + k; i++) {
			struct vac__frame *f = vac__frame(s->pool, pfns[i]);

			vac__st_rlx(&f->family, s->family);
			vac__st_rlx(&f->index, first + i);
			vac__w_ref_to_map(&f->word);
			vac__st(vac__pte(s, first + i),
				vac__entry_for(pfns[i], prot) | host_bits(prot));
		}
		vac__segments_settle(s, vpb, 2);
		done += k;
	}
	return done ? (int)done : r;
}

/* The host shows less of a present page than the entry allows: show it again. The ptl is held. */
int vac__host_refresh(struct vac_space *s, uint32_t page)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	vac__entry *slot = vac__pmd(s, vpb);
	uint32_t n = VAC__PB_PAGES;
	uint64_t e;
	int r;

	if ((vac__ld_rlx(slot) & VAC__E_TYPE) == VAC__E_TABLE) {
		slot = vac__pte(s, page);
		n = 1;
	}
	page -= page % n;
	e = vac__ld_rlx(slot);
	VAC__DEBUG_ASSERT(vac__e_present(e));
	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = host_map(s, page, n, vac__e_pfn(e), vac__host_prot(e));
	if (r == 0)
		vac__st(slot, e | host_bits(vac__host_prot(e)));
	vac__segments_settle(s, vpb, 2);
	return r;
}

/* ---- Removing and changing ------------------------------------------------------------------ */

/* Delete one entry. What it maps may be freed by this: the host shows it no more. A migration
 * entry holds nothing, so there is nothing to drop: the migrator will find it gone. A swap entry holds
 * its slot. */
static void zap_entry(struct vac_space *s, vac__entry *slot)
{
	uint64_t e = vac__xchg(slot, 0);

	if (vac__e_present(e)) {
		uint32_t out = vac__swap_slot(s->pool, vac__e_pfn(e));

		vac__folio_put(s->pool, vac__e_pfn(e), VAC__W_MAP);
		if (out != VAC__NO_SLOT)
			vac__swap_reap(s->pool, out);
	} else if (vac__e_swap(e)) {
		vac__swap_put(s->pool, vac__e_pfn(e));
	}
}

/* The frames of pages [p, stop) of a table, run by run: does anybody outside hold them? */
static void look_at_ptes(struct vac_space *s, uint32_t p, uint32_t stop)
{
	uint32_t n;

	for (; p < stop; p += n) {
		uint64_t e = vac__ld_rlx(vac__pte(s, p));
		uint32_t pfn = vac__e_pfn(e);

		n = 1;
		if (!e || vac__e_swap(e))
			continue;
		while (p + n < stop && (pfn + n) % VAC__PB_PAGES &&
		       vac__ld_rlx(vac__pte(s, p + n)) &&
		       !vac__e_swap(vac__ld_rlx(vac__pte(s, p + n))) &&
		       vac__e_pfn(vac__ld_rlx(vac__pte(s, p + n))) == pfn + n)
			n++;
		vac__look_at_drop(s->pool, pfn, n);
	}
}

/*
 * Delete the entries of pages [first, end). The caller holds the space's and the family's locks
 * for write, has unmapped the range in the host, and has split what the borders cut.
 */
void vac__zap(struct vac_space *s, uint32_t first, uint32_t end)
{
	vac__watch_forget(s, first, end);
	while (first < end) {
		uint32_t vpb = first >> VAC__PB_ORDER;
		uint32_t stop = (vpb + 1) * VAC__PB_PAGES < end ? (vpb + 1) * VAC__PB_PAGES : end;
		uint64_t e;

		/* Nothing fills an empty slot while both locks are held. */
		if (vac__ld_rlx(vac__pmd(s, vpb)) == 0) {
			first = stop;
			continue;
		}
		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pmd(s, vpb));
		if (e && (e & VAC__E_TYPE) != VAC__E_TABLE) {
			VAC__ASSERT(stop - first == VAC__PB_PAGES);
			vac__look_at_drop(s->pool, vac__e_pfn(e), VAC__PB_PAGES);
			zap_entry(s, vac__pmd(s, vpb));
		} else if (e) {
			look_at_ptes(s, first, stop);
			for (uint32_t p = first; p < stop; p++)
				zap_entry(s, vac__pte(s, p));
			/* A whole table is empty now: the slot may take a huge folio again. */
			if (stop - first == VAC__PB_PAGES)
				vac__st(vac__pmd(s, vpb), 0);
		}
		if (e)
			vac__segments_settle(s, vpb, 0);
		vac__ptl_unlock(s, vpb);
		first = stop;
	}
}

static void hide_entry(vac__entry *slot)
{
	uint64_t e = vac__ld_rlx(slot);

	if (e & VAC__E_HMAP)
		vac__st(slot, e & ~(uint64_t)(VAC__E_HMAP | VAC__E_HREAD | VAC__E_HWRITE));
}

/* The host shows [first, end) no more, but nothing is to be deleted: the next touch brings it back. The
 * borders cut no huge folio. Locks as for vac__zap. */
void vac__entries_hide(struct vac_space *s, uint32_t first, uint32_t end)
{
	while (first < end) {
		uint32_t vpb = first >> VAC__PB_ORDER;
		uint32_t stop = (vpb + 1) * VAC__PB_PAGES < end ? (vpb + 1) * VAC__PB_PAGES : end;
		uint64_t e;

		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pmd(s, vpb));
		if (e && (e & VAC__E_TYPE) != VAC__E_TABLE) {
			VAC__ASSERT(stop - first == VAC__PB_PAGES);
			hide_entry(vac__pmd(s, vpb));
		} else if (e) {
			for (uint32_t p = first; p < stop; p++)
				hide_entry(vac__pte(s, p));
		}
		if (e)
			vac__segments_settle(s, vpb, 0);
		vac__ptl_unlock(s, vpb);
		first = stop;
	}
}

static void protect_entry(struct vac_space *s, vac__entry *slot, unsigned prot)
{
	uint64_t e = vac__ld_rlx(slot);

	if (!vac__e_present(e) && !vac__e_swap(e))
		return;
	if (vac__e_present(e) && (prot & VAC_PROT_WRITE))
		vac__swap_written(s->pool, vac__e_pfn(e));
	e = (e & ~(uint64_t)(VAC__E_READ | VAC__E_WRITE | VAC__E_CLEAN)) | rights(prot);
	if (e & VAC__E_HMAP)
		e = (e & ~(uint64_t)(VAC__E_HREAD | VAC__E_HWRITE)) | host_bits(prot);
	vac__st(slot, e);
}

/* The host's rights of [first, end) were just changed to prot: so are the entries'. Locks as for
 * vac__zap, and no migration entry is in the range. */
void vac__entries_protect(struct vac_space *s, uint32_t first, uint32_t end, unsigned prot)
{
	while (first < end) {
		uint32_t vpb = first >> VAC__PB_ORDER;
		uint32_t stop = (vpb + 1) * VAC__PB_PAGES < end ? (vpb + 1) * VAC__PB_PAGES : end;
		uint64_t e;

		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pmd(s, vpb));
		if (e && (e & VAC__E_TYPE) != VAC__E_TABLE) {
			VAC__ASSERT(stop - first == VAC__PB_PAGES);
			protect_entry(s, vac__pmd(s, vpb), prot);
		} else if (e) {
			for (uint32_t p = first; p < stop; p++)
				protect_entry(s, vac__pte(s, p), prot);
		}
		if (e)
			vac__segments_settle(s, vpb, 0);
		vac__ptl_unlock(s, vpb);
		first = stop;
	}
}

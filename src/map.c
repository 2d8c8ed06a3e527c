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

/* The host rights that an entry as it is shown may have: nobody writes what is shared. */
unsigned vac__host_prot(uint64_t e)
{
	return (e & VAC__E_READ ? VAC__READ : 0) |
	       ((e & VAC__E_WRITE) && (e & VAC__E_EXCL) ? VAC__WRITE : 0) |
	       (e & VAC__E_HWATCH ? VAC__WATCH : 0) | (e & VAC__E_HBLIND ? VAC__BLIND : 0);
}

/* And how to show it anew: where the platform can, so that a write to what is shared reaches us. */
unsigned vac__host_want(const struct vac_pool *pool, uint64_t e)
{
	unsigned prot = vac__host_prot(e & ~(uint64_t)(VAC__E_HWATCH | VAC__E_HBLIND));

	if (pool->watches && (e & VAC__E_WRITE) && !(e & VAC__E_EXCL))
		prot |= VAC__WATCH;
	return prot;
}

static uint64_t rights(unsigned prot)
{
	/* Write implies read, on every host that we know. */
	return (prot ? VAC__E_READ : 0) | (prot & VAC_PROT_WRITE ? VAC__E_WRITE : 0);
}

/* The bits of an entry that is shown with these rights. */
uint64_t vac__host_bits(unsigned prot)
{
	return VAC__E_HMAP | (prot ? VAC__E_HREAD : 0) | (prot & VAC__WRITE ? VAC__E_HWRITE : 0) |
	       (prot & VAC__WATCH ? VAC__E_HWATCH : 0);
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
	if (e & VAC__E_HWATCH) /* writers are let in within one mapping */
		e &= ~(uint64_t)VAC__E_HWRITE;
	if (e & VAC__E_HBLIND)
		e &= ~(uint64_t)(VAC__E_HREAD | VAC__E_HWRITE);
	return (uint64_t)(pfn - i) << 32 | (uint64_t)(pfn >> pool->block_shift) << 12 |
	       (e & VAC__E_HOST);
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

/* Where one host mapping ends and another begins, among pages [first, first + n) of a table, and at either
 * end of these. */
static uint32_t borders(struct vac_space *s, uint32_t first, uint32_t n)
{
	uint32_t base = first - first % VAC__PB_PAGES, i = first - base, end = i + n, count = 0;
	uint64_t last, key;

	i += i == 0;
	last = segment_key(s->pool, vac__ld_rlx(vac__pte(s, base + i - 1)), i - 1);
	for (; i <= end && i < VAC__PB_PAGES; i++) {
		key = segment_key(s->pool, vac__ld_rlx(vac__pte(s, base + i)), i);
		count += key != last;
		last = key;
	}
	return count;
}

/* vac__segments_settle() where only [first, first + n) has changed, which had so many borders before, of a
 * vpb that showed something before and does now. */
static void segments_adjust(struct vac_space *s, uint32_t first, uint32_t n, uint32_t before,
			    long charged)
{
	uint32_t vpb = first >> VAC__PB_ORDER;
	long delta = (long)borders(s, first, n) - before;

	vac__lock(&s->segments, VAC__RANK_SEGMENTS);
	s->nseg[vpb] = (uint16_t)(s->nseg[vpb] + delta);
	vac__unlock(&s->segments, VAC__RANK_SEGMENTS);
	VAC__DEBUG_ASSERT(s->nseg[vpb] == vac__segments_of(s, vpb));
	if (delta != charged)
		vac__port_vma_charge(delta - charged, true);
}

/* ---- Installing ----------------------------------------------------------------------------- */

static int host_map(struct vac_space *s, uint32_t page, uint32_t n, uint32_t pfn, unsigned prot)
{
	struct vac_pool *pool = s->pool;

	return pool->mem->map(pool->mem_ctx, vac__page_addr(s, page), (size_t)n << VAC__PAGE_SHIFT,
			      &vac__pfn_block(pool, pfn)->backing, vac__pfn_off(pool, pfn), prot);
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
	vac__st(vac__pmd(s, vpb), vac__entry_for(pfn, prot) | vac__host_bits(prot));
	vac__segments_settle(s, vpb, 2);
	return 0;
}

/* How many of pfns[0..n) follow one another within one block. */
static uint32_t linear(struct vac_pool *pool, const uint32_t *pfns, uint32_t n)
{
	uint32_t k = 1;

	while (k < n && vac__pfn_follows(pool, pfns[0], k, pfns[k]))
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
				vac__entry_for(pfns[i], prot) | vac__host_bits(prot));
		}
		vac__segments_settle(s, vpb, 2);
		done += k;
	}
	return done ? (int)done : r;
}

/* ---- Hiding ---------------------------------------------------------------------------------- */

static void hide_entry(struct vac_space *s, vac__entry *slot, unsigned prot)
{
	uint64_t e = vac__ld_rlx(slot);

	(void)s, (void)prot;
	if (e & VAC__E_HMAP)
		vac__st(slot, e & ~(uint64_t)VAC__E_HOST);
}

/* The host shows pages [page, page + n) of one vpb, all of which it does show, no more; a touch
 * reaches us. The ptl is held. */
int vac__host_hide(struct vac_space *s, uint32_t page, uint32_t n)
{
	bool table = (vac__ld_rlx(vac__pmd(s, page >> VAC__PB_ORDER)) & VAC__E_TYPE) ==
		     VAC__E_TABLE;
	int r;

	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = s->pool->mem->hole(s->pool->mem_ctx, vac__page_addr(s, page),
			       (size_t)n << VAC__PAGE_SHIFT, false);
	for (uint32_t i = 0; r == 0 && i < (table ? n : 1); i++)
		hide_entry(s, table ? vac__pte(s, page + i) : vac__pmd(s, page >> VAC__PB_ORDER),
			   0);
	vac__segments_settle(s, page >> VAC__PB_ORDER, 2);
	return r;
}

/* The folio is cold: see reclaim.c. */
static void mark_cold(struct vac_pool *pool, uint32_t pfn)
{
	_Atomic uint32_t *fl = &vac__frame(pool, pfn)->flags;

	vac__and(fl, ~VAC__F_YOUNG);
	vac__or(fl, VAC__F_COLD);
	vac__reclaim_cold(pool, pfn);
}

/* Can it become cold: is it there, nobody else's, and may be touched? What may not is bare, not a hole. */
static bool can_cool(struct vac_pool *pool, uint64_t e)
{
	return vac__e_present(e) && (e & VAC__E_READ) &&
	       vac__w_map(vac__ld(&vac__frame(pool, vac__e_pfn(e))->word)) == 1;
}

/* Of an entry whose ptl is held, from shown to hidden. False: its folio is pinned, and nothing has changed.
 * As in reclaim.c: a pin of before is seen, and who pins later sees the entry. */
static bool cool_entry(struct vac_pool *pool, vac__entry *slot, uint64_t e)
{
	vac__xchg(slot, e & ~(uint64_t)VAC__E_HOST);
	VAC__SYNC("cooled", vac__e_pfn(e));
	if (vac__w_pins(vac__ld(&vac__frame(pool, vac__e_pfn(e))->word)) == 0)
		return true;
	vac__xchg(slot, e);
	return false;
}

/* The host shows n pages no more, whose entries say so by now; two mappings are booked. */
static int cool_host(struct vac_space *s, uint32_t page, uint32_t n)
{
	return s->pool->mem->hole(s->pool->mem_ctx, vac__page_addr(s, page),
				  (size_t)n << VAC__PAGE_SHIFT, false);
}

/* The pages from `page` on that can go together; answers how many were looked at. */
static uint32_t cool_run(struct vac_space *s, uint32_t page, uint32_t end)
{
	struct vac_pool *pool = s->pool;
	uint64_t was[VAC__PB_PAGES], e;
	uint32_t n = 0;

	while (page + n < end) {
		e = was[n] = vac__ld_rlx(vac__pte(s, page + n));
		if (!can_cool(pool, e) || !(e & VAC__E_HMAP) ||
		    !cool_entry(pool, vac__pte(s, page + n), e))
			break;
		n++;
	}
	if (n == 0) {
		/* Hidden already, as it is after a snapshot. */
		if (can_cool(pool, was[0]) && !(was[0] & VAC__E_HMAP))
			mark_cold(pool, vac__e_pfn(was[0]));
		return 1;
	}
	if (cool_host(s, page, n) < 0) {
		for (uint32_t i = 0; i < n; i++)
			vac__xchg(vac__pte(s, page + i), was[i]);
		return end - page;
	}
	for (uint32_t i = 0; i < n; i++)
		mark_cold(pool, vac__e_pfn(was[i]));
	return n;
}

static void cool_huge(struct vac_space *s, uint32_t page, vac__entry *pmd, uint64_t e)
{
	if (!can_cool(s->pool, e) || ((e & VAC__E_HMAP) && !cool_entry(s->pool, pmd, e)))
		return;
	if ((e & VAC__E_HMAP) && cool_host(s, page, VAC__PB_PAGES) < 0)
		vac__xchg(pmd, e);
	else
		mark_cold(s->pool, vac__e_pfn(e));
}

/* Pages [page, end) of one vpb are not needed soon: hide them, so that a touch is noticed, and tell the
 * reclaim. The ptl is held. Of a huge folio only as a whole. It is advice: what is pinned, shared or
 * refused by the host stays as it is. */
void vac__host_cool(struct vac_space *s, uint32_t page, uint32_t end)
{
	vac__entry *pmd = vac__pmd(s, page >> VAC__PB_ORDER);
	uint64_t e = vac__ld_rlx(pmd);

	uint32_t vpb = page >> VAC__PB_ORDER;

	while (page < end && vac__port_vma_charge(2, false)) {
		if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
			page += cool_run(s, page, end);
		} else {
			if (end - page == VAC__PB_PAGES)
				cool_huge(s, page, pmd, e);
			page = end;
		}
		vac__segments_settle(s, vpb, 2);
	}
}

/* ---- Showing again ---------------------------------------------------------------------------- */

/*
 * The pages around one that a mapping can show with it: present, one after the other in one block, and
 * alike in what `mask` has of their entries; within the pageblock.
 */
static void alike(struct vac_space *s, uint32_t page, uint64_t mask, uint32_t *first, uint32_t *n)
{
	uint32_t lo = page - page % VAC__PB_PAGES, hi = lo + VAC__PB_PAGES;
	uint32_t shift = s->pool->block_shift;
	uint64_t e = vac__ld_rlx(vac__pte(s, page)), o;

	for (*first = page; *first > lo; --*first) {
		o = vac__ld_rlx(vac__pte(s, *first - 1));
		if ((o & mask) != (e & mask) ||
		    vac__e_pfn(o) + (page - *first + 1) != vac__e_pfn(e) ||
		    vac__e_pfn(o) >> shift != vac__e_pfn(e) >> shift)
			break;
	}
	for (*n = page - *first + 1; *first + *n < hi; ++*n) {
		o = vac__ld_rlx(vac__pte(s, *first + *n));
		if ((o & mask) != (e & mask) ||
		    vac__e_pfn(o) != vac__e_pfn(e) + (*first + *n - page) ||
		    vac__e_pfn(o) >> shift != vac__e_pfn(e) >> shift)
			break;
	}
}

/* A writer can be let into the page: it is ours alone, shown, and watched. */
static bool may_allow(uint64_t e)
{
	return (e & VAC__E_HREAD) && (e & (VAC__E_HWATCH | VAC__E_HBLIND)) &&
	       !(e & VAC__E_HWRITE) && (vac__host_prot(e) & VAC__WRITE);
}

/* Let writers into the pages of [first, first + n) where they can be. */
static int allow(struct vac_space *s, uint32_t first, uint32_t n)
{
	uint32_t k;
	int r = 0;

	for (uint32_t i = 0; i < n && r == 0; i += k) {
		for (k = 0; i + k < n; k++)
			if (!may_allow(vac__ld_rlx(vac__pte(s, first + i + k))))
				break;
		if (k == 0) {
			k = 1;
			continue;
		}
		r = s->pool->mem->allow(s->pool->mem_ctx, vac__page_addr(s, first + i),
					(size_t)k << VAC__PAGE_SHIFT);
		for (uint32_t j = 0; r == 0 && j < k; j++)
			vac__or(vac__pte(s, first + i + j), VAC__E_HWRITE);
	}
	return r;
}

/*
 * Pages that the host shows alike, with rights `had`, get more: half the price of mapping them anew, and
 * the host's page table stays filled. Refused at the far end for want of a mapping, the rights of whole
 * mappings before it may have changed: to take these back needs none. If it is refused too, nothing had.
 */
static int widen(struct vac_space *s, uint32_t first, uint32_t n, unsigned had, unsigned prot)
{
	const struct vac__mem_ops *mem = s->pool->mem;
	void *addr = vac__page_addr(s, first);
	size_t bytes = (size_t)n << VAC__PAGE_SHIFT;
	int r = mem->protect(s->pool->mem_ctx, addr, bytes, prot);

	if (r < 0)
		mem->protect(s->pool->mem_ctx, addr, bytes, had);
	return r;
}

/*
 * A page is touched that may be cold: it is not any more, nor are those that are shown with it, as nobody will
 * hear of their being touched. So these are few.
 */
static void warm(struct vac_space *s, uint32_t page, uint32_t pfn, uint32_t *first, uint32_t *n)
{
	uint32_t lo = page & ~(VAC__SWAP_CLUSTER - 1), hi = lo + VAC__SWAP_CLUSTER;
	uint32_t end = *first + *n;

	if (vac__ld_rlx(&vac__frame(s->pool, pfn)->flags) & VAC__F_COLD) {
		*first = *first > lo ? *first : lo;
		*n = (end < hi ? end : hi) - *first;
	}
	for (uint32_t i = 0; i < *n; i++) {
		struct vac__frame *f = vac__frame(s->pool, pfn - (page - *first) + i);

		if (vac__ld_rlx(&f->flags) & VAC__F_COLD)
			vac__and(&f->flags, ~VAC__F_COLD);
	}
}

/*
 * A page that is blind, with neighbours that are like it: all of them where they are ours alone, as cow.c
 * has chosen them; 64 KiB of those that are shared, as to show a page costs as much as to copy a tenth of
 * it. What the engine believes to be shown is shown once more: the host may have forgotten it.
 */
static int refresh_blind(struct vac_space *s, uint32_t page)
{
	uint64_t e = vac__ld_rlx(vac__pte(s, page));
	uint64_t bits = (UINT64_C(1) << VAC__E_PFN_SHIFT) - 1;
	unsigned prot = vac__host_prot(e) & (VAC__READ | VAC__WRITE);
	uint32_t first, n, lo = page - page % VAC__SHOW_PAGES, hi = lo + VAC__SHOW_PAGES;
	int r;

	alike(s, page, bits, &first, &n);
	warm(s, page, vac__e_pfn(e), &first, &n);
	if (may_allow(e))
		return allow(s, first, n);
	if (e & VAC__E_HREAD) {
		first = page;
		n = 1;
	} else if (!(prot & VAC__WRITE)) {
		hi = hi < first + n ? hi : first + n;
		first = lo > first ? lo : first;
		n = hi - first;
	}
	r = s->pool->mem->reveal(s->pool->mem_ctx, vac__page_addr(s, first),
				 (size_t)n << VAC__PAGE_SHIFT, prot);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		vac__or(vac__pte(s, first + i),
			vac__host_bits(prot) & (VAC__E_HREAD | VAC__E_HWRITE));
	return r;
}

/* All pages of a table are ours alone, in order, and alike but for what the host shows of them: one mapping made
 * anew shows them all, which may be a 2 MiB page of the host's. */
static bool all_ours(struct vac_space *s, uint32_t page)
{
	uint64_t bits = (UINT64_C(1) << VAC__E_PFN_SHIFT) - 1;
	uint32_t first, n;

	if (!(vac__host_prot(vac__ld_rlx(vac__pte(s, page))) & VAC__WRITE))
		return false;
	alike(s, page, bits & ~(uint64_t)(VAC__E_HREAD | VAC__E_HWRITE), &first, &n);
	return n == VAC__PB_PAGES;
}

/* With neighbours that are like it, so that what was split is not touched page by page. Where the
 * platform watches writers, one mapping shows what is shared and what is not. */
static int refresh_base(struct vac_space *s, uint32_t page)
{
	uint64_t bits = (UINT64_C(1) << VAC__E_PFN_SHIFT) - 1, any = 0;
	uint64_t e = vac__ld_rlx(vac__pte(s, page));
	bool watch = s->pool->watches && !(e & VAC__E_HMAP);
	/* The nseg of a vpb is written under its ptl. */
	bool local = s->nseg[page >> VAC__PB_ORDER] != 0;
	bool whole = all_ours(s, page);
	uint32_t first, n, before;
	unsigned prot;
	int r;

	if (whole) {
		first = page - page % VAC__PB_PAGES;
		n = VAC__PB_PAGES;
	} else {
		alike(s, page, watch ? bits & ~VAC__E_EXCL : bits, &first, &n);
	}
	warm(s, page, vac__e_pfn(e), &first, &n);
	whole = whole && n == VAC__PB_PAGES;
	before = local ? borders(s, first, n) : 0;
	for (uint32_t i = 0; i < n; i++)
		any |= ~vac__ld_rlx(vac__pte(s, first + i));
	prot = vac__host_want(s->pool, any & VAC__E_EXCL ? e & ~(uint64_t)VAC__E_EXCL : e);
	if ((e & VAC__E_HMAP) && !s->pool->watches && !whole)
		r = widen(s, first, n, e & VAC__E_HREAD ? VAC__READ : 0, prot);
	else
		r = host_map(s, first, n, vac__e_pfn(e) - (page - first),
			     prot | (e & VAC__E_HBLIND ? VAC__BLIND : 0));
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		vac__entry *slot = vac__pte(s, first + i);

		vac__st(slot,
			(vac__ld_rlx(slot) & ~(uint64_t)VAC__E_HBLIND) | vac__host_bits(prot));
	}
	if (local)
		segments_adjust(s, first, n, before, 2);
	else
		vac__segments_settle(s, page >> VAC__PB_ORDER, 2);
	return r == 0 && prot & VAC__WATCH ? allow(s, first, n) : r;
}

static int refresh_huge(struct vac_space *s, uint32_t vpb)
{
	vac__entry *slot = vac__pmd(s, vpb);
	uint32_t page = vpb * VAC__PB_PAGES;
	unsigned prot;
	uint64_t e;
	int r = 0;

	/* No longer watched, which is to the advantage of the host's page table. Hidden first: all who
	 * wait for it are woken by that. */
	if (vac__ld_rlx(slot) & VAC__E_HWATCH)
		r = vac__host_hide(s, page, VAC__PB_PAGES);
	e = vac__ld_rlx(slot);
	prot = vac__host_want(s->pool, e);
	if (vac__ld_rlx(&vac__frame(s->pool, vac__e_pfn(e))->flags) & VAC__F_COLD)
		vac__and(&vac__frame(s->pool, vac__e_pfn(e))->flags, ~VAC__F_COLD);
	if (r == 0)
		r = host_map(s, page, VAC__PB_PAGES, vac__e_pfn(e), prot);
	if (r == 0)
		vac__st(slot, (e & ~(uint64_t)VAC__E_HBLIND) | vac__host_bits(prot));
	return r;
}

/* The host shows less of a present page than the entry allows: show it again. The ptl is held. */
int vac__host_refresh(struct vac_space *s, uint32_t page)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	bool table = (vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) == VAC__E_TABLE;
	uint64_t e = table ? vac__ld_rlx(vac__pte(s, page)) : 0;
	int r;

	VAC__DEBUG_ASSERT(vac__e_present(vac__entry_get(s, page)));
	/* These two change no host mapping. */
	if (e & VAC__E_HWATCH) {
		uint32_t first, n;

		alike(s, page, (UINT64_C(1) << VAC__E_PFN_SHIFT) - 1, &first, &n);
		return allow(s, first, n);
	}
	if ((e & VAC__E_HBLIND) && !all_ours(s, page))
		return refresh_blind(s, page);
	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	if (table)
		return refresh_base(s, page);
	r = refresh_huge(s, vpb);
	vac__segments_settle(s, vpb, 2);
	return r;
}

/*
 * The present pages of a whole vpb lie in order in one pageblock, exclusive, with the same rights: show them all by
 * one host mapping. The ptl is held. -ENOMEM: nothing has changed.
 */
int vac__host_refresh_table(struct vac_space *s, uint32_t vpb)
{
	uint32_t first = vpb * VAC__PB_PAGES;
	uint64_t e = vac__ld_rlx(vac__pte(s, first)), any = 0;
	unsigned prot = vac__host_want(s->pool, e);
	int r;

	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	for (uint32_t p = first; p < first + VAC__PB_PAGES; p++)
		any |= vac__ld_rlx(vac__pte(s, p)) & (VAC__E_HWATCH | VAC__E_HBLIND);
	r = host_map(s, first, VAC__PB_PAGES, vac__e_pfn(e), prot | (any ? VAC__BLIND : 0));
	for (uint32_t p = first; p < first + VAC__PB_PAGES && r == 0; p++) {
		e = vac__ld_rlx(vac__pte(s, p)) & ~(uint64_t)(VAC__E_HWATCH | VAC__E_HBLIND);
		vac__st(vac__pte(s, p), e | vac__host_bits(prot));
	}
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
		uint32_t pfn = vac__e_pfn(e), out = vac__swap_slot(s->pool, pfn);

		/* The last: the cache has it for entries that name the slot, or for nobody. */
		if (out != VAC__NO_SLOT &&
		    vac__w_map(vac__ld(&vac__frame(s->pool, pfn)->word)) == 1)
			vac__add(&s->pool->swap.nr_inactive, 1);
		vac__folio_put(s->pool, pfn, VAC__W_MAP);
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

/* Change every entry of pages [first, end), whose borders cut no huge folio, and book what the host then
 * shows. Locks as for vac__zap. */
static void change_entries(struct vac_space *s, uint32_t first, uint32_t end,
			   void (*change)(struct vac_space *s, vac__entry *slot, unsigned prot),
			   unsigned prot)
{
	while (first < end) {
		uint32_t vpb = first >> VAC__PB_ORDER;
		uint32_t stop = (vpb + 1) * VAC__PB_PAGES < end ? (vpb + 1) * VAC__PB_PAGES : end;
		uint64_t e;

		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pmd(s, vpb));
		if (e && (e & VAC__E_TYPE) != VAC__E_TABLE) {
			VAC__ASSERT(stop - first == VAC__PB_PAGES);
			change(s, vac__pmd(s, vpb), prot);
		} else if (e) {
			for (uint32_t p = first; p < stop; p++)
				change(s, vac__pte(s, p), prot);
		}
		if (e)
			vac__segments_settle(s, vpb, 0);
		vac__ptl_unlock(s, vpb);
		first = stop;
	}
}

/* The host shows [first, end) no more, but nothing is to be deleted: the next touch brings it back. */
void vac__entries_hide(struct vac_space *s, uint32_t first, uint32_t end)
{
	change_entries(s, first, end, hide_entry, 0);
}

static void protect_entry(struct vac_space *s, vac__entry *slot, unsigned prot)
{
	uint64_t e = vac__ld_rlx(slot);

	if (!vac__e_present(e) && !vac__e_swap(e))
		return;
	if (vac__e_present(e) && (e & VAC__E_EXCL) && (prot & VAC_PROT_WRITE))
		vac__swap_written(s->pool, vac__e_pfn(e));
	e = (e & ~(uint64_t)(VAC__E_READ | VAC__E_WRITE | VAC__E_CLEAN)) | rights(prot);
	if (e & VAC__E_HMAP)
		e = (e & ~(uint64_t)(VAC__E_HREAD | VAC__E_HWRITE)) | vac__host_bits(prot);
	vac__st(slot, e);
}

/* The host's rights of [first, end) were just changed to prot: so are the entries'. No migration entry
 * is in the range. */
void vac__entries_protect(struct vac_space *s, uint32_t first, uint32_t end, unsigned prot)
{
	change_entries(s, first, end, protect_entry, prot);
}

static void stop_entry(struct vac_space *s, vac__entry *slot, unsigned prot)
{
	uint64_t e = vac__ld_rlx(slot);

	(void)s, (void)prot;
	if (e & VAC__E_HWRITE)
		vac__st(slot, e & ~(uint64_t)VAC__E_HWRITE);
}

static void blind_entry(struct vac_space *s, vac__entry *slot, unsigned prot)
{
	uint64_t e = vac__ld_rlx(slot);

	(void)s, (void)prot;
	if (e & VAC__E_HMAP)
		vac__st(slot, (e & ~(uint64_t)VAC__E_HOST) | VAC__E_HMAP | VAC__E_HBLIND);
}

/* What the host shows in [first, end) is blind now. */
void vac__entries_blind(struct vac_space *s, uint32_t first, uint32_t end)
{
	change_entries(s, first, end, blind_entry, 0);
}

/* The host lets nobody write in [first, end) any more. */
void vac__entries_stop(struct vac_space *s, uint32_t first, uint32_t end)
{
	change_entries(s, first, end, stop_entry, 0);
}

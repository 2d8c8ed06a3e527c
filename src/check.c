/* SPDX-License-Identifier: MIT */
/*
 * The invariants of semantics.md section 0.2 as code, over a whole pool at rest:
 *
 *	I1, I2  no migration entry exists anywhere, no folio is locked, frozen, gated or isolated
 *	I5      every pin counted has its record, and the other way round; what is pinned is exclusive,
 *		and what is exclusive is shown by one space
 *	I6      nothing of an isolated or offline pageblock is on a free list
 *	I9      lists, pageblock counters and pool counters agree; the map count of every folio is the
 *		number of present entries that name it, and the count of every slot of the swap file the
 *		number of those, in all spaces of the family, that name that; at rest nobody holds a
 *		reference but the swap cache
 *
 * plus the page table's own: an entry names a used frame of its size, which names it back; host
 * mappings are booked as they are.
 */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

#define EXCLUSIVE (UINT32_C(1) << 31) /* in a count of entries: one of them says so */
#define ENTRIES (~EXCLUSIVE)

struct check {
	struct vac_pool *pool;
	char *msg;
	size_t bytes;
	uint32_t *slot;        /* entries found for each slot of the swap file */
	_Atomic uint32_t *map; /* entries found for each frame; reserved, touched where used */
	uint64_t total, free, resv, isolated, quar, pins, cached;
};

__attribute__((format(printf, 2, 3))) static int bad(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->msg, c->bytes, fmt, ap);
	va_end(ap);
	return -EUCLEAN;
}

static uint32_t kind(struct check *c, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(c->pool, pfn)->flags);
}

/* ---- Spaces --------------------------------------------------------------------------------- */

static int check_entry(struct check *c, struct vac_space *s, uint32_t page, uint64_t e, bool huge)
{
	uint32_t pfn = vac__e_pfn(e);
	struct vac__frame *f;

	if (vac__e_migration(e))
		return bad(c, "space %u page %u: migration entry for pfn %u left behind", s->id,
			   page, pfn);
	if (vac__e_swap(e)) {
		if (pfn >= c->pool->swap.nr_slots || huge || (e & (VAC__E_HMAP | VAC__E_CLEAN)))
			return bad(c, "space %u page %u: swap entry %#llx", s->id, page,
				   (unsigned long long)e);
		if (c->pool->swap.slot[pfn].family != s->family ||
		    c->pool->swap.slot[pfn].index != page)
			return bad(c, "space %u page %u: slot %u is another page's", s->id, page,
				   pfn);
		if (!vac__vma_find(s, page))
			return bad(c, "space %u page %u: an entry outside every mapping", s->id,
				   page);
		c->slot[pfn]++;
		if (e & VAC__E_EXCL)
			c->slot[pfn] |= EXCLUSIVE;
		return 0;
	}
	if (!vac__e_present(e))
		return bad(c, "space %u page %u: entry %#llx is of no known type", s->id, page,
			   (unsigned long long)e);
	f = vac__frame(c->pool, pfn);
	if ((e & VAC__E_WRITE) && (e & VAC__E_EXCL) && (kind(c, pfn) & VAC__F_CLEAN))
		return bad(c, "space %u page %u: pfn %u may be written, and counts as clean", s->id,
			   page, pfn);
	if ((e & VAC__E_CLEAN) && (!(e & VAC__E_EXCL) || (e & VAC__E_WRITE)))
		return bad(c, "space %u page %u: entry %#llx withholds writing", s->id, page,
			   (unsigned long long)e);
	if ((kind(c, pfn) & VAC__F_KIND) != (huge ? VAC__F_HEAD : VAC__F_BASE))
		return bad(c, "space %u page %u: pfn %u has flags %#x, wanted a %s folio", s->id,
			   page, pfn, kind(c, pfn), huge ? "huge" : "base");
	if (vac__ld_rlx(&f->family) != s->family || vac__ld_rlx(&f->index) != page)
		return bad(c, "space %u page %u: pfn %u believes it is page %u of family %u", s->id,
			   page, pfn, vac__ld_rlx(&f->index), vac__ld_rlx(&f->family));
	if (((e & VAC__E_HWRITE) && !(e & VAC__E_WRITE)) ||
	    ((e & VAC__E_HREAD) && !(e & VAC__E_READ)))
		return bad(c, "space %u page %u: the host allows more than the entry", s->id, page);
	if (!vac__vma_find(s, page))
		return bad(c, "space %u page %u: an entry outside every mapping", s->id, page);
	if ((e & VAC__E_HWRITE) && !(e & VAC__E_EXCL))
		return bad(c, "space %u page %u: shared, and the host lets it be written", s->id,
			   page);
	if ((e & VAC__E_HWATCH) && !(e & VAC__E_HMAP))
		return bad(c, "space %u page %u: watched, and not shown", s->id, page);
	if ((e & VAC__E_HBLIND) && (!(e & VAC__E_HMAP) || (e & VAC__E_HWATCH) ||
				    (e & (VAC__E_HREAD | VAC__E_HWRITE)) == VAC__E_HWRITE ||
				    (huge && (e & (VAC__E_HREAD | VAC__E_HWRITE)))))
		return bad(c, "space %u page %u: blind, and shown as %#llx", s->id, page,
			   (unsigned long long)e);
	c->map[pfn]++;
	if (e & VAC__E_EXCL)
		c->map[pfn] |= EXCLUSIVE;
	return 0;
}

static int check_space(struct check *c, struct vac_space *s)
{
	int r = 0;

	for (uint32_t i = 0; i < s->nr_vmas; i++)
		if (s->vmas[i].start >= s->vmas[i].end || s->vmas[i].end > s->pages ||
		    (i && s->vmas[i - 1].end > s->vmas[i].start))
			return bad(c, "space %u: mapping %u is empty or out of order", s->id, i);
	for (uint32_t vpb = 0; vpb < s->vpbs && r == 0; vpb++) {
		uint64_t e = vac__ld(vac__pmd(s, vpb));

		if (s->nseg[vpb] != vac__segments_of(s, vpb))
			return bad(c, "space %u pageblock %u: %u host mappings booked, %u shown",
				   s->id, vpb, s->nseg[vpb], vac__segments_of(s, vpb));
		if (e && (e & VAC__E_TYPE) != VAC__E_TABLE)
			r = check_entry(c, s, vpb * VAC__PB_PAGES, e, true);
		for (uint32_t i = 0;
		     (e & VAC__E_TYPE) == VAC__E_TABLE && i < VAC__PB_PAGES && r == 0; i++) {
			uint32_t page = vpb * VAC__PB_PAGES + i;
			uint64_t pte = vac__ld(vac__pte(s, page));

			if (pte)
				r = check_entry(c, s, page, pte, false);
		}
	}
	return r;
}

/* ---- Frames --------------------------------------------------------------------------------- */

static int check_used(struct check *c, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(c->pool, pfn);
	uint64_t w = vac__ld(&f->word);
	uint32_t map;

	if (w & (VAC__W_FROZEN | VAC__W_GATED | VAC__W_WAITERS | VAC__W_POISON))
		return bad(c, "pfn %u: word %#llx has flags at rest", pfn, (unsigned long long)w);
	if (vac__ld_rlx(&f->flags) & VAC__F_ISOLATED)
		return bad(c, "pfn %u: isolated, and nobody is at it", pfn);
	if (vac__ld_rlx(&f->lock) & 1)
		return bad(c, "pfn %u: locked, and nobody is at it", pfn);
	if (vac__w_refs(w) != (vac__swapcache(c->pool, pfn) ? 1 : 0))
		return bad(c, "pfn %u: %u references at rest", pfn, vac__w_refs(w));
	if (vac__swapcache(c->pool, pfn)) {
		uint32_t slot = vac__swap_slot(c->pool, pfn);

		if (slot == VAC__NO_SLOT || vac__ld(&c->pool->swap.slot[slot].cache) != pfn + 1)
			return bad(c, "pfn %u: the swap cache does not know it", pfn);
		if (vac__w_map(w) == 0 && c->slot[slot] == 0)
			return bad(c, "pfn %u: in the swap cache for nobody", pfn);
		if ((c->map[pfn] & EXCLUSIVE && c->slot[slot]) ||
		    (c->slot[slot] & EXCLUSIVE && c->map[pfn]))
			return bad(c, "pfn %u: exclusive, and shared with entries for slot %u", pfn,
				   slot);
		if (kind(c, pfn) & VAC__F_READING)
			return bad(c, "pfn %u: is being read at rest", pfn);
		c->cached++;
	}
	map = c->map[pfn] & ENTRIES;
	if (vac__w_map(w) != map)
		return bad(c, "pfn %u: map count %u, %u entries", pfn, vac__w_map(w), map);
	if (c->map[pfn] & EXCLUSIVE && map > 1)
		return bad(c, "pfn %u: exclusive, and shown by %u", pfn, map);
	if (map && vac__w_pins(w) && !(c->map[pfn] & EXCLUSIVE))
		return bad(c, "pfn %u: pinned, and not exclusive", pfn);
	if (vac__w_free(w))
		return bad(c, "pfn %u: in use, and nobody holds it", pfn);
	c->pins += vac__w_pins(w);
	return 0;
}

static int check_pageblock(struct check *c, uint32_t n)
{
	struct vac__pb *pb = &c->pool->pbs[n];
	uint32_t nr_free = 0, nr_resv = 0, nr_quar = 0;
	int r = 0;

	for (uint32_t i = 0, step; i < VAC__PB_PAGES && r == 0; i += step) {
		uint32_t pfn = (n << VAC__PB_ORDER) + i, fl = kind(c, pfn);
		uint64_t w = vac__ld(&vac__frame(c->pool, pfn)->word);

		step = 1;
		if (fl & VAC__F_BUDDY) {
			step = UINT32_C(1) << (fl & VAC__F_ORDER);
			nr_free += step;
		} else if (fl & VAC__F_RESV) {
			nr_resv++;
		} else if (fl & VAC__F_QUAR) {
			nr_quar++;
		} else if (fl & VAC__F_HEAD) {
			step = VAC__PB_PAGES;
			r = check_used(c, pfn);
		} else if (fl & VAC__F_BASE) {
			r = check_used(c, pfn);
		} else {
			r = bad(c, "pfn %u: neither free nor used (flags %#x)", pfn, fl);
		}
		if (r == 0 && (fl & (VAC__F_BUDDY | VAC__F_RESV | VAC__F_QUAR)) && w)
			r = bad(c, "pfn %u: free with word %#llx", pfn, (unsigned long long)w);
	}
	if (r == 0 && (nr_free != pb->nr_free || nr_resv != pb->nr_resv))
		r = bad(c, "pageblock %u: counts %u free %u reserved, has %u and %u", n,
			pb->nr_free, pb->nr_resv, nr_free, nr_resv);
	if (r == 0 && nr_quar != vac__ld_rlx(&pb->nr_quar))
		r = bad(c, "pageblock %u: counts %u in quarantine, has %u", n,
			vac__ld_rlx(&pb->nr_quar), nr_quar);
	if (r == 0 && (nr_resv && !pb->resv_space))
		r = bad(c, "pageblock %u: reserved frames without a reservation", n);
	c->total += VAC__PB_PAGES;
	c->resv += nr_resv;
	c->quar += nr_quar;
	if (pb->isolated)
		c->isolated += nr_free;
	else
		c->free += nr_free;
	return r;
}

static int check_lists(struct check *c)
{
	uint64_t sum = 0, whole = 0;

	for (unsigned z = 0; z < 2; z++) {
		for (unsigned order = 0; order <= VAC__PB_ORDER; order++) {
			uint32_t prev = VAC__NO_PFN, pfn = c->pool->free[z][order].head;
			uint64_t before = sum;

			for (; pfn != VAC__NO_PFN;
			     pfn = vac__ld_rlx(&vac__frame(c->pool, pfn)->next)) {
				struct vac__pb *pb = &c->pool->pbs[pfn >> VAC__PB_ORDER];

				if (kind(c, pfn) != (VAC__F_BUDDY | order) ||
				    vac__ld_rlx(&vac__frame(c->pool, pfn)->prev) != prev)
					return bad(c, "free list %u/%u: pfn %u does not belong", z,
						   order, pfn);
				if (!pb->online || pb->isolated || pb->zone != z)
					return bad(c,
						   "free list %u/%u: pfn %u is of a pageblock that "
						   "gives none",
						   z, order, pfn);
				sum += UINT64_C(1) << order;
				prev = pfn;
			}
			if (c->pool->free[z][order].tail != prev)
				return bad(c, "free list %u/%u: wrong tail", z, order);
			if (order == VAC__PB_ORDER)
				whole += sum - before;
		}
	}
	if (whole != vac__ld(&c->pool->nr_pb_free) << VAC__PB_ORDER)
		return bad(c, "%llu frames in whole free pageblocks, counted %llu pageblocks",
			   (unsigned long long)whole,
			   (unsigned long long)vac__ld(&c->pool->nr_pb_free));
	if (sum != c->free)
		return bad(c, "free lists hold %llu frames, pageblocks %llu",
			   (unsigned long long)sum, (unsigned long long)c->free);
	return 0;
}

static int check_sums(struct check *c)
{
	struct vac_pool *pool = c->pool;
	uint64_t records = 0;

	if (c->total != vac__ld(&pool->nr_total) || c->free != vac__ld(&pool->nr_free) ||
	    c->resv != vac__ld(&pool->nr_resv) || c->isolated != vac__ld(&pool->nr_isolated))
		return bad(c,
			   "counters: total %llu/%llu free %llu/%llu reserved %llu/%llu isolated "
			   "%llu/%llu (counted/kept)",
			   (unsigned long long)c->total,
			   (unsigned long long)vac__ld(&pool->nr_total),
			   (unsigned long long)c->free, (unsigned long long)vac__ld(&pool->nr_free),
			   (unsigned long long)c->resv, (unsigned long long)vac__ld(&pool->nr_resv),
			   (unsigned long long)c->isolated,
			   (unsigned long long)vac__ld(&pool->nr_isolated));
	if (c->quar != vac__ld(&pool->nr_quar))
		return bad(c, "%llu frames in quarantine, counted %llu",
			   (unsigned long long)c->quar,
			   (unsigned long long)vac__ld(&pool->nr_quar));
	for (uint32_t i = 0; i < vac__ld_acq(&pool->ledger.top); i++)
		records += vac__pin_sum(pool, i);
	if (records != c->pins)
		return bad(c, "%llu pins counted on folios, %llu in records",
			   (unsigned long long)c->pins, (unsigned long long)records);
	return 0;
}

static int check_slots(struct check *c)
{
	struct vac__swap *sw = &c->pool->swap;
	uint64_t taken = 0, cached = 0;

	for (uint32_t i = 0; i < sw->nr_slots; i++) {
		uint32_t n = vac__ld(&sw->slot[i].count), of = vac__ld(&sw->slot[i].cache);

		if ((n & ~VAC__SLOT_BAD) != (c->slot[i] & ENTRIES))
			return bad(c, "slot %u: counts %u entries, %u name it", i,
				   n & ~VAC__SLOT_BAD, c->slot[i] & ENTRIES);
		if (c->slot[i] & EXCLUSIVE && (c->slot[i] & ENTRIES) > 1)
			return bad(c, "slot %u: exclusive, and named by %u", i,
				   c->slot[i] & ENTRIES);
		if (of && vac__swap_slot(c->pool, of - 1) != i)
			return bad(c, "slot %u: pfn %u does not know it", i, of - 1);
		cached += of != 0;
		taken += n || of;
	}
	if (taken != vac__ld(&sw->nr_taken) || cached != c->cached)
		return bad(c, "slots: %llu taken, counted %u; %llu cached, by frames %llu",
			   (unsigned long long)taken, vac__ld(&sw->nr_taken),
			   (unsigned long long)cached, (unsigned long long)c->cached);
	return 0;
}

int vac__check(struct vac_pool *pool, char *msg, size_t bytes)
{
	size_t map_bytes = ((size_t)pool->max_blocks << pool->block_shift) * sizeof(uint32_t);
	struct check c = {.pool = pool, .msg = msg, .bytes = bytes};
	size_t slot_bytes = (pool->swap.nr_slots + (size_t)1) * sizeof(uint32_t);
	int r = 0;

	c.map = vac__port_meta_reserve(map_bytes);
	c.slot = vac__port_meta_reserve(slot_bytes);
	if (!c.map || !c.slot) {
		if (c.map)
			vac__port_meta_release(c.map, map_bytes);
		return -ENOMEM;
	}
	vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
	for (uint32_t i = 0; i < VAC__MAX_SPACES && r == 0; i++) {
		struct vac_space *s = vac__ld(&pool->spaces[i]);

		if (!s)
			continue;
		vac__rdlock(&s->lock, VAC__RANK_SPACE);
		r = check_space(&c, s);
		vac__rdunlock(&s->lock, VAC__RANK_SPACE);
	}
	for (uint32_t i = 0; i < pool->max_blocks && r == 0; i++) {
		uint32_t n = vac__block_pfn(pool, (int)i) >> VAC__PB_ORDER;

		if (vac__ld(&pool->blocks[i].state) <= VAC_BLOCK_OFFLINE + 1)
			continue;
		for (uint32_t k = 0; k < pool->pb_per_block && r == 0; k++)
			r = check_pageblock(&c, n + k);
	}
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	if (r == 0)
		r = check_lists(&c);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	if (r == 0)
		r = check_sums(&c);
	if (r == 0)
		r = check_slots(&c);
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	vac__port_meta_release(c.slot, slot_bytes);
	vac__port_meta_release(c.map, map_bytes);
	return r;
}

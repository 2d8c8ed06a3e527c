/* SPDX-License-Identifier: MIT */
/*
 * Migration: give the pages of some folios new frames, while everybody goes on.
 *
 * A group is what one call of the host can move: folios of one vpb of one family, one huge or up
 * to 512 base ones. For each group:
 *
 *	1. lock every folio (by trylock; one alone may be waited for)
 *	2. allocate the destinations, beside one another where their reservation allows, and lock them
 *	3. in every space of the family: exchange present entries for migration entries, then make
 *	   the host's pages read-only and split its mappings at the ends. Readers go on, writers
 *	   fault and wait. This is the last step that the host can refuse.
 *	   Then look whether anybody outside the engine holds a source (quarantine.c): it fails.
 *	4. freeze each folio at the exact word expected: no entry, no pin, no reference but ours
 *	-------- commit: nothing below can fail --------
 *	5. copy; where the swap cache has the folio for a slot, that is the new frame from here on (a collapse
 *	   gives the slot back). One that nothing maps has no entries: steps 3 and 6 find none.
 *	6. publish: in every space, replace the host's run by the new frames in one call, then the
 *	   migration entries that are still there by present ones. An entry that was unmapped
 *	   meanwhile is gone, and stays so.
 *	7. unlock both; that of the source wakes the waiters, and free it or keep it
 *
 * Some migrations aim at something. A long-term pin's pages go to a zone (longterm.c). Compaction (gather) names the pageblocks that pages go to,
 * and uses the sources again at once, so that these are looked at once more: who has taken a page for
 * reading since the first look keeps its frame. A collapse (huge) makes one huge folio of all pages of a
 * vpb: one unit, which comes whole or not at all, and whose publication puts the pmd's entry in the
 * place of the ptes. Between its freeze and that, no space joins the family.
 *
 * A unit is a run of a group that follows itself without a gap at its addresses and in its
 * destination: what the host replaces in one piece. Before the commit a failure undoes its unit:
 * entries present again, rights as before. Units leave, and stay or are replaced, as a whole, so
 * that nothing after step 3 ever needs a host mapping that step 3 did not make.
 * Invariants: I1, an entry for a folio is in a table only while the folio is locked and we hold a
 * reference on it. I4, from step 3 to step 6 nobody writes the source: the host has no writable
 * translation left when step 3 answers, and a pin found by step 4 makes it fail. I3, step 4.
 */
#include "internal.h"

enum { GONE, LOCKED, ENTRIES, FROZEN, MOVED, FAILED };

/*
 * The counts that a folio must show for us to be alone with it. One formula, one place: every kind
 * of reference that the engine itself holds has its term here (the cautionary tale in semantics.md
 * B.1 is of two places that disagreed).
 */
uint64_t vac__expected_counts(bool swapcache, uint32_t isolated, uint32_t extra, uint32_t map)
{
	return VAC__W_REF * ((swapcache ? 1u : 0u) + isolated + extra) + VAC__W_MAP * map;
}

/*
 * Pick a folio for a move: a reference that keeps it, and the ISOLATED mark that keeps others from
 * picking it too. -ENOENT: not a folio, or free. -EAGAIN: frozen. -EBUSY: picked by another.
 */
int vac__folio_isolate(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	int r;

	if (!(vac__ld_rlx(&f->flags) & (VAC__F_BASE | VAC__F_HEAD)))
		return -ENOENT;
	r = vac__w_try_ref(&f->word);
	if (r < 0)
		return r;
	/* With the reference it cannot be freed or split; look again at what it is. */
	if (!(vac__ld(&f->flags) & (VAC__F_BASE | VAC__F_HEAD)))
		r = -ENOENT;
	else if (vac__or(&f->flags, VAC__F_ISOLATED) & VAC__F_ISOLATED)
		r = -EBUSY;
	if (r < 0)
		vac__folio_put(pool, pfn, VAC__W_REF);
	else
		VAC__SYNC("lru_isolated", pfn);
	return r;
}

/* The folio was not moved: open its gate, and let go. */
void vac__folio_putback(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint64_t old = vac__w_ungate(&f->word);

	vac__gate_wake(pool, pfn, old);
	vac__and(&f->flags, ~VAC__F_ISOLATED);
	vac__folio_put(pool, pfn, VAC__W_REF);
}

/* ---- Slots ---------------------------------------------------------------------------------- */

struct group {
	struct vac_pool *pool;
	struct vac__mig_item *item;
	unsigned n;
	uint32_t family, vpb;
	long charged; /* host mappings booked for the splits of step 3 */
	struct vac__gather *gather;
	uint32_t huge;  /* what all of it becomes, or VAC__NO_PFN */
	unsigned zones; /* only into these, 0: any */
};

/* Sources are used again at once. */
static bool aimed(const struct group *g)
{
	return g->gather || g->zones || g->huge != VAC__NO_PFN;
}

/* The slot of an item in a space, if entries of its size can be there at all. */
static vac__entry *slot_of(struct vac_space *s, const struct vac__mig_item *it)
{
	uint32_t vpb = it->index >> VAC__PB_ORDER;
	bool table;

	if (vpb >= s->vpbs)
		return NULL;
	table = (vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) == VAC__E_TABLE;
	if (it->huge)
		return table ? NULL : vac__pmd(s, vpb);
	return table ? vac__pte(s, it->index) : NULL;
}

static uint32_t pages_of(const struct vac__mig_item *it)
{
	return it->huge ? VAC__PB_PAGES : 1;
}

/* How many items from k on are in this state, of one unit, and have the same bits in their entries,
 * all being entries of this type for their sources. 0 if not even the first. */
static unsigned run_of(struct group *g, struct vac_space *s, unsigned k, int state, uint64_t type,
		       uint64_t *bits)
{
	unsigned n;

	for (n = 0; k + n < g->n; n++) {
		struct vac__mig_item *it = &g->item[k + n];
		vac__entry *slot = it->state == state ? slot_of(s, it) : NULL;
		uint64_t e = slot ? vac__ld_rlx(slot) : 0, b = e & ((1u << VAC__E_PFN_SHIFT) - 1);

		if (!slot || (e & VAC__E_TYPE) != type || vac__e_pfn(e) != it->src)
			break;
		if (n == 0)
			*bits = b;
		else if (b != *bits || it->unit != it[-1].unit)
			break;
	}
	return n;
}

static size_t run_bytes(const struct vac__mig_item *it, unsigned n)
{
	return (size_t)n * pages_of(it) << VAC__PAGE_SHIFT;
}

/* ---- Step 3: install ------------------------------------------------------------------------ */

/* present -> migration entry, in one exchange: whoever looks finds one or the other. */
static void to_entry(struct group *g, struct vac_space *s, struct vac__mig_item *it)
{
	vac__entry *slot = slot_of(s, it);
	uint64_t e = vac__ld_rlx(slot);

	vac__xchg(slot, (e & ~(uint64_t)(VAC__E_TYPE | VAC__E_HWRITE)) | VAC__E_MIGRATION);
	vac__w_put(&vac__frame(g->pool, it->src)->word, VAC__W_MAP);
	it->state = ENTRIES;
	VAC__SYNC("entry_set", it->src);
}

/* And back. The host still shows the source, and lets it be written or not. */
static void from_entry(struct group *g, struct vac_space *s, struct vac__mig_item *it,
		       bool writable)
{
	vac__entry *slot = slot_of(s, it);
	uint64_t e = vac__ld_rlx(slot);

	e = (e & ~(uint64_t)VAC__E_TYPE) | VAC__E_PRESENT;
	if ((e & VAC__E_HMAP) && writable && (!(e & VAC__E_HBLIND) || (e & VAC__E_HREAD)))
		e |= VAC__E_HWRITE;
	vac__w_map_get(&vac__frame(g->pool, it->src)->word);
	vac__xchg(slot, e);
}

/* Entries first, then the host: a fault between the two finds the entry and waits; a write between
 * the two lands in the source before the copy. */
static void install_space(struct group *g, struct vac_space *s)
{
	uint64_t bits;
	unsigned n;

	for (unsigned k = 0; k < g->n; k += n ? n : 1) {
		struct vac__mig_item *it = &g->item[k];
		int r = 0;

		/* LOCKED: not in a table yet. ENTRIES: another space has had it already. */
		n = run_of(g, s, k, it->state == ENTRIES ? ENTRIES : LOCKED, VAC__E_PRESENT, &bits);
		if (n == 0)
			continue;
		for (unsigned i = 0; i < n; i++)
			to_entry(g, s, it + i);
		if (!(bits & VAC__E_HMAP))
			continue;
		if (!vac__port_vma_charge(2, false)) {
			r = -ENOBUFS;
		} else {
			g->charged += 2;
			r = g->pool->mem->leave(g->pool->mem_ctx, vac__page_addr(s, it->index),
						run_bytes(it, n), vac__host_prot(bits));
		}
		for (unsigned i = 0; r < 0 && i < n; i++) {
			from_entry(g, s, it + i, bits & VAC__E_HWRITE);
			it[i].state = FAILED;
			it[i].err = -ENOBUFS;
		}
	}
}

/* ---- Undo ----------------------------------------------------------------------------------- */

/* The host shows the sources of a run, which may lie anywhere: tell it piece by piece. */
static void stay_run(struct group *g, struct vac_space *s, struct vac__mig_item *it, unsigned n,
		     unsigned prot)
{
	unsigned k;

	for (unsigned i = 0; i < n; i += k) {
		uint32_t src = it[i].src;

		k = 1;
		while (i + k < n && vac__pfn_follows(g->pool, src, k, it[i + k].src))
			k++;
		g->pool->mem->stay(g->pool->mem_ctx, vac__page_addr(s, it[i].index),
				   run_bytes(it + i, k), &vac__pfn_block(g->pool, src)->backing,
				   vac__pfn_off(g->pool, src), prot);
	}
}

/* Give the folios marked FAILED their entries back, wherever an entry is left. */
static void undo_space(struct group *g, struct vac_space *s)
{
	uint64_t bits;
	unsigned n;

	for (unsigned k = 0; k < g->n; k += n ? n : 1) {
		struct vac__mig_item *it = &g->item[k];

		n = run_of(g, s, k, FAILED, VAC__E_MIGRATION, &bits);
		if (n == 0)
			continue;
		if (bits & VAC__E_HMAP)
			stay_run(g, s, it, n, vac__host_prot(bits));
		for (unsigned i = 0; i < n; i++)
			from_entry(g, s, it + i, vac__host_prot(bits) & VAC__WRITE);
	}
}

/* ---- Step 6: publish ------------------------------------------------------------------------ */

/* Show the new frames of a run. Should the host refuse what step 3 has prepared, it must at least
 * not show the old ones: the next touch faults and tries again (vac__host_refresh). */
static bool show_run(struct group *g, struct vac_space *s, struct vac__mig_item *it, unsigned n,
		     uint64_t bits)
{
	struct vac_pool *pool = g->pool;
	void *at = vac__page_addr(s, it->index);

	if (pool->mem->map(pool->mem_ctx, at, run_bytes(it, n),
			   &vac__pfn_block(pool, it->dst)->backing, vac__pfn_off(pool, it->dst),
			   vac__host_want(pool, bits)) == 0)
		return true;
	if (pool->mem->hole(pool->mem_ctx, at, run_bytes(it, n), false) < 0)
		VAC__BUG("the host neither maps nor unmaps a prepared run");
	vac__log(pool, VAC_LOG_ERROR, "the host refused to map a run that it had prepared");
	return false;
}

static void publish_space(struct group *g, struct vac_space *s)
{
	uint64_t bits;
	unsigned n;
	bool shown;

	for (unsigned k = 0; k < g->n; k += n ? n : 1) {
		struct vac__mig_item *it = &g->item[k];

		n = run_of(g, s, k, FROZEN, VAC__E_MIGRATION, &bits);
		if (n == 0)
			continue;
		shown = (bits & VAC__E_HMAP) && show_run(g, s, it, n, bits);
		bits = (bits & (VAC__E_RIGHTS | VAC__E_EXCL | VAC__E_CLEAN)) | VAC__E_PRESENT;
		/* The host shows the new frames already: a pin that finds the entry uses them. */
		if (shown)
			bits |= vac__host_bits(vac__host_want(g->pool, bits));
		for (unsigned i = 0; i < n; i++) {
			vac__w_map_get(&vac__frame(g->pool, it[i].dst)->word);
			vac__xchg(slot_of(s, it + i), vac__e_make(it[i].dst, bits));
			if (it[i].watch == VAC__WATCH_SUMS)
				vac__watch_arm(s, it + i);
			VAC__SYNC("entry_removed", it[i].src);
		}
	}
}

static void walk(struct group *g, void (*step)(struct group *, struct vac_space *))
{
	struct vac__rwlock *lock = &g->pool->families[g->family].lock;

	vac__rdlock(lock, VAC__RANK_RMAP);
	for (struct vac_space *s = vac__rmap_first(g->pool, g->family); s; s = s->next_in_family) {
		if (g->vpb >= s->vpbs)
			continue;
		vac__ptl_lock(s, g->vpb);
		step(g, s);
		vac__segments_settle(s, g->vpb, 0);
		vac__ptl_unlock(s, g->vpb);
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
}

/* ---- One group ------------------------------------------------------------------------------ */

static void lock_group(struct group *g, enum vac__mig_mode mode)
{
	for (unsigned k = 0; k < g->n; k++) {
		struct vac__mig_item *it = &g->item[k];
		struct vac__frame *f = vac__frame(g->pool, it->src);
		uint64_t w;

		it->dst = VAC__NO_PFN;
		it->err = 0;
		/* Never wait for anything while holding another folio's lock. */
		if (mode == VAC__MIG_SYNC && g->n == 1) {
			vac__folio_lock(g->pool, it->src);
		} else if (!vac__folio_trylock(g->pool, it->src)) {
			it->state = FAILED;
			it->err = -EAGAIN;
			continue;
		}
		it->state = LOCKED;
		VAC__SYNC("src_locked", it->src);
		w = vac__ld(&vac__frame(g->pool, it->src)->word);
		if ((w & VAC__W_COUNTS) == VAC__W_REF) {
			/* Only our reference is left: freed meanwhile. */
			vac__folio_unlock(g->pool, it->src);
			it->state = GONE;
		} else if (vac__ld_rlx(&f->family) != it->family ||
			   vac__ld_rlx(&f->index) != it->index) {
			/* It was picked before it was told what it is for: swap-in fills such a folio
			 * under its lock. */
			vac__folio_unlock(g->pool, it->src);
			it->state = FAILED;
			it->err = -EAGAIN;
		}
	}
}

/* A space that shows a source, the oldest, whose neighbours it is to stay beside; any, if it is shown
 * nowhere by now. The family's lock is held. */
static struct vac_space *home_of(struct group *g, const struct vac__mig_item *it)
{
	struct vac_space *any = NULL;

	for (struct vac_space *s = vac__rmap_first(g->pool, g->family); s; s = s->next_in_family) {
		if (g->vpb >= s->vpbs)
			continue;
		if (vac__e_pfn(vac__entry_get(s, it->index)) == it->src)
			return s;
		if (!any)
			any = s;
	}
	return any;
}

static void alloc_group(struct group *g)
{
	struct vac_pool *pool = g->pool;
	struct vac__rwlock *lock = &pool->families[g->family].lock;

	/* The lock keeps the spaces, whose reservations we use, from going away. */
	vac__rdlock(lock, VAC__RANK_RMAP);
	for (unsigned k = 0; k < g->n; k++) {
		struct vac__mig_item *it = &g->item[k];
		struct vac_space *s;
		int r;

		if (it->state != LOCKED)
			continue;
		s = home_of(g, it);
		if (!s)
			r = -EAGAIN;
		else if (g->gather && !it->huge)
			r = vac__gather_alloc(pool, g->gather, s, it->index, &it->dst);
		else if (it->huge)
			r = vac__huge_alloc_in(pool, g->zones ? g->zones : VAC__ZONES_ALL, false,
					       &it->dst);
		else if (g->zones == VAC__ZONE_BIT(VAC_ZONE_NORMAL))
			r = vac__long_alloc(pool, it->index, &it->dst);
		else if (g->zones)
			r = vac__base_alloc_in(pool, g->zones, s, it->index, &it->dst);
		else
			r = vac__base_alloc(pool, s, it->index, &it->dst);
		/* Until it is published in every space its map count says too little: who wants to
		 * know whether it is shared waits for the lock. Another migration may have picked it
		 * in the moment since it was allocated. */
		if (r == 0 && !vac__folio_trylock(pool, it->dst)) {
			vac__folio_put(pool, it->dst, VAC__W_REF);
			r = -EAGAIN;
		}
		if (r == 0)
			continue;
		vac__folio_unlock(pool, it->src);
		it->dst = VAC__NO_PFN;
		it->state = FAILED;
		it->err = r;
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
}

/* Divide the group into units. A destination of another block is never in one host mapping. */
static void make_units(struct group *g)
{
	for (unsigned k = 0; k < g->n; k++) {
		struct vac__mig_item *it = &g->item[k];
		bool joins = k > 0 && it->state == LOCKED && it[-1].state == LOCKED &&
			     it->index == it[-1].index + 1 &&
			     vac__pfn_follows(g->pool, it[-1].dst, 1, it->dst);

		it->unit = joins ? it[-1].unit : (uint16_t)k;
	}
}

/* Freeze all of the unit items [k, end), or none. */
static bool freeze_unit(struct group *g, unsigned k, unsigned end)
{
	unsigned i;

	for (i = k; i < end; i++) {
		struct vac__mig_item *it = &g->item[i];
		vac__word *w = &vac__frame(g->pool, it->src)->word;

		if ((it->state != ENTRIES && it->state != LOCKED) || it->err)
			break;
		/* Pins move with what shows at their address. */
		if (it->pins && it->state != ENTRIES) {
			it->err = -EBUSY;
			break;
		}
		if (!vac__w_freeze(w,
				   vac__expected_counts(vac__swapcache(g->pool, it->src), 1, 0, 0) +
					   VAC__W_PIN * it->pins)) {
			uint64_t now = vac__ld(w);

			/* Behind a closed gate that was seen without others there are none. */
			VAC__DEBUG_ASSERT(!(now & VAC__W_GATED) || vac__w_pins(now) == it->pins);
			it->err = vac__w_pins(now) != it->pins ? -EBUSY : -EAGAIN;
			break;
		}
		it->state = FROZEN;
		VAC__SYNC("frozen", it->src);
	}
	if (i == end)
		return true;
	for (i = k; i < end; i++) {
		struct vac__mig_item *it = &g->item[i];

		if (it->state == FROZEN)
			vac__and(&vac__frame(g->pool, it->src)->word, ~VAC__W_FROZEN);
		it->state = FAILED;
		if (it->err == 0)
			it->err = -EAGAIN;
	}
	return false;
}

/* Answers whether there is something to undo. */
static bool freeze_group(struct group *g)
{
	bool undo = false;
	unsigned end;

	/* Compaction uses frames again: those that only their block's certificate frees are no gain. */
	for (unsigned k = 0; k < g->n && aimed(g); k++)
		if (g->item[k].watch == VAC__WATCH_SUMS && g->item[k].dst != VAC__NO_PFN)
			g->item[k].err = -VAC__EHELD;
	for (unsigned k = 0; k < g->n; k = end) {
		end = k + 1;
		/* Failed before there was an entry, or gone: a unit by itself. */
		if (g->item[k].dst == VAC__NO_PFN)
			continue;
		while (end < g->n && g->item[end].unit == g->item[k].unit)
			end++;
		undo |= !freeze_unit(g, k, end);
	}
	return undo;
}

/* Copy by runs that are linear at both ends. */
static void copy_group(struct group *g, struct vac__mig_stats *st)
{
	struct vac_pool *pool = g->pool;
	uint64_t t = vac__port_now();
	unsigned n;

	for (unsigned k = 0; k < g->n; k += n) {
		struct vac__mig_item *it = &g->item[k];

		n = 1;
		if (it->state != FROZEN)
			continue;
		while (!it->huge && k + n < g->n && it[n].state == FROZEN &&
		       it[n].src == it->src + n && it[n].dst == it->dst + n &&
		       it[n].watch == it->watch)
			n++;
		if (it->watch == VAC__WATCH_SUMS)
			vac__watch_copy(pool, it->src, it->dst, n * pages_of(it));
		else
			vac__port_copy(vac__frame_addr(pool, it->dst),
				       vac__frame_addr(pool, it->src),
				       (size_t)n * pages_of(it) << VAC__PAGE_SHIFT);
		for (unsigned i = 0; i < n; i++) {
			struct vac__frame *d = vac__frame(pool, it[i].dst);

			vac__st_rlx(&d->family, it[i].family);
			vac__st_rlx(&d->index, it[i].index);
			/* Before anybody can find it: from its first moment it is held. */
			if (it[i].pins)
				vac__add(&d->word, VAC__W_PIN * it[i].pins);
			if (!vac__swapcache(pool, it[i].src))
				continue;
			/* Not before the copy: from here on a fault finds the new frame by its slot. A part
			 * of a huge folio has none. */
			if (g->huge == VAC__NO_PFN)
				vac__swap_cache_move(pool, it[i].src, it[i].dst);
			else
				vac__swap_cache_end(pool, it[i].src);
		}
	}
	st->copy_ns += vac__port_now() - t;
}

/* Sources that are about to be used again: whoever took one for reading after the first look has it
 * now, and nobody can take it any more. He keeps it. */
static void look_again(struct group *g)
{
	unsigned n;

	for (unsigned k = 0; k < g->n; k += n) {
		struct vac__mig_item *it = &g->item[k];

		n = 1;
		if (it->state != FROZEN)
			continue;
		while (!it->huge && k + n < g->n && it[n].state == FROZEN &&
		       it[n].src == it->src + n && (it->src + n) % VAC__PB_PAGES)
			n++;
		vac__look_at_drop(g->pool, it->src, n * pages_of(it));
	}
}

static void finish_group(struct group *g, struct vac__mig_stats *st)
{
	struct vac_pool *pool = g->pool;

	if (aimed(g))
		look_again(g);
	for (unsigned k = 0; k < g->n; k++) {
		struct vac__mig_item *it = &g->item[k];
		uint64_t bytes = (uint64_t)pages_of(it) << VAC__PAGE_SHIFT;
		uint32_t slot;

		if (it->dst != VAC__NO_PFN && g->huge == VAC__NO_PFN)
			vac__folio_unlock(pool, it->dst);
		if (it->state == FAILED && it->dst != VAC__NO_PFN) {
			if (g->huge == VAC__NO_PFN)
				vac__folio_put(pool, it->dst, VAC__W_REF);
			vac__folio_unlock(pool, it->src);
		}
		if (it->state != FROZEN)
			continue;
		/* With no entry left to it, this was the destination's last reference; or, if it was the
		 * swap cache that held the source, the last but that one, for a slot of nobody's. */
		slot = g->huge == VAC__NO_PFN ? vac__swap_slot(pool, it->dst) : VAC__NO_SLOT;
		if (g->huge == VAC__NO_PFN || k == 0)
			vac__folio_put(pool, it->dst, VAC__W_REF);
		if (slot != VAC__NO_SLOT)
			vac__swap_reap(pool, slot);
		vac__and(&vac__frame(pool, it->src)->flags, ~VAC__F_ISOLATED);
		vac__folio_unlock(pool, it->src);
		VAC__SYNC("unlocked", it->src);
		if (it->watch == VAC__WATCH_NONE)
			vac__folio_free(pool, it->src);
		else
			vac__folio_quarantine(pool, it->src, true);
		it->state = MOVED;
		st->bytes += bytes;
		if (it->huge)
			st->huge++;
		else
			st->base++;
		vac__stat_add(&pool->c.migrate_folios, 1);
		vac__stat_add(&pool->c.migrate_bytes, bytes);
	}
	vac__port_vma_charge(-g->charged, true);
}

/* ---- Collapse ------------------------------------------------------------------------------- */

/* All or nothing: one that cannot come lets all stay. */
static void take_whole(struct group *g)
{
	int err = g->n == VAC__PB_PAGES ? 0 : -EAGAIN;

	for (unsigned k = 0; k < g->n; k++)
		if (g->item[k].state != LOCKED)
			err = -EAGAIN;
	for (unsigned k = 0; k < g->n; k++) {
		struct vac__mig_item *it = &g->item[k];

		if (err && it->state == LOCKED)
			vac__folio_unlock(g->pool, it->src);
		if (err && it->state != FAILED) {
			it->state = FAILED;
			it->err = err;
		}
		it->dst = err ? VAC__NO_PFN : g->huge + k;
	}
}

/* The one space that shows the folios, if it shows each of them, exclusive and by equal rights. The
 * family's lock is held. */
static struct vac_space *sole_owner(struct group *g)
{
	uint64_t same = VAC__E_EXCL | VAC__E_HMAP, bits = 0;
	struct vac_space *owner = NULL;
	unsigned found = 0;

	for (struct vac_space *s = vac__rmap_first(g->pool, g->family); s; s = s->next_in_family) {
		unsigned before = found;

		if (g->vpb >= s->vpbs)
			continue;
		vac__ptl_lock(s, g->vpb);
		for (unsigned k = 0; k < g->n; k++) {
			vac__entry *slot = slot_of(s, &g->item[k]);
			uint64_t e = slot ? vac__ld_rlx(slot) : 0;
			uint64_t b = (e & same) | vac__e_rights(e);

			if (!vac__e_migration(e) || vac__e_pfn(e) != g->item[k].src)
				continue;
			bits = found++ ? bits : b;
			if (b != bits)
				found = VAC__PB_PAGES + 1;
		}
		vac__ptl_unlock(s, g->vpb);
		if (found == before)
			continue;
		if (owner)
			return NULL;
		owner = s;
	}
	return found == VAC__PB_PAGES && (bits & VAC__E_EXCL) && (bits & VAC__E_HMAP) ? owner
										      : NULL;
}

/* Step 6 for a whole vpb. Whoever reads without the lock finds the pmd's entry, or an empty pte, which
 * sends him to the lock; never a pte of a folio that is gone. */
static void publish_huge(struct group *g, struct vac_space *s)
{
	uint64_t bits;

	vac__ptl_lock(s, g->vpb);
	bits = vac__ld_rlx(vac__pte(s, g->item->index)) & ((1u << VAC__E_PFN_SHIFT) - 1);
	bits = vac__e_rights(bits) | VAC__E_EXCL | VAC__E_PRESENT;
	if (show_run(g, s, g->item, g->n, bits))
		bits |= vac__host_bits(vac__host_want(g->pool, bits));
	for (unsigned k = 0; k < g->n; k++)
		vac__xchg(vac__pte(s, g->item[k].index), 0);
	vac__w_map_get(&vac__frame(g->pool, g->huge)->word);
	vac__xchg(vac__pmd(s, g->vpb), vac__e_make(g->huge, bits));
	VAC__SYNC("entry_removed", g->huge);
	vac__segments_settle(s, g->vpb, 0);
	vac__ptl_unlock(s, g->vpb);
}

/* Steps 4 to 6. Answers whether there is something to undo. */
static bool move_whole(struct group *g, struct vac__mig_stats *st)
{
	struct vac__rwlock *lock = &g->pool->families[g->family].lock;
	struct vac_space *s;
	bool undo;

	/* Held throughout, so that what sole_owner() has found stays true. */
	vac__rdlock(lock, VAC__RANK_RMAP);
	s = sole_owner(g);
	for (unsigned k = 0; k < g->n && !s; k++)
		g->item[k].err = g->item[k].err ? g->item[k].err : -EAGAIN;
	undo = freeze_group(g);
	if (!undo && s) {
		copy_group(g, st);
		VAC__SYNC("copied", g->item->src);
		publish_huge(g, s);
		VAC__SYNC("published", g->huge);
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
	return undo;
}

/* ---- The steps ------------------------------------------------------------------------------ */

/* Steps 1 to 3. Answers when the first writer may have begun to wait. */
static uint64_t leave_group(struct group *g, enum vac__mig_mode mode, struct vac__mig_stats *st)
{
	uint64_t start;

	vac__stat_add(&g->pool->c.migrate_attempts, g->n);
	st->attempts += g->n;
	lock_group(g, mode);
	if (g->huge == VAC__NO_PFN)
		alloc_group(g);
	else
		take_whole(g);
	make_units(g);
	start = vac__port_now();
	walk(g, install_space);
	VAC__SYNC("all_entries_set", g->item->src);
	vac__look_before(g->pool, g->item, g->n);
	return start;
}

static void migrate_group(struct group *g, enum vac__mig_mode mode, struct vac__mig_stats *st)
{
	uint64_t start = leave_group(g, mode, st);

	if (g->huge != VAC__NO_PFN) {
		if (move_whole(g, st))
			walk(g, undo_space);
	} else {
		if (freeze_group(g))
			walk(g, undo_space);
		copy_group(g, st);
		VAC__SYNC("copied", g->item->src);
		walk(g, publish_space);
		VAC__SYNC("published", g->item->src);
	}
	finish_group(g, st);
	st->leaving_ns += vac__port_now() - start;
}

/*
 * Call fn on a folio that is mapped for page `index` of a family, in a moment when nobody can write it:
 * steps 1 to 4 of a migration, and back. -ENOENT: it is not, or not any more. Else as vac__migrate().
 */
int vac__folio_edit(struct vac_pool *pool, uint32_t pfn, uint32_t family, uint32_t index,
		    void (*fn)(void *arg, uint32_t pfn), void *arg)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	struct vac__mig_item it = {.src = pfn, .family = family, .index = index};
	struct group g = {.pool = pool, .item = &it, .n = 1, .family = family, .huge = VAC__NO_PFN};
	int r = vac__folio_isolate(pool, pfn);

	if (r < 0)
		return r;
	it.huge = vac__ld_rlx(&f->flags) & VAC__F_HEAD;
	g.vpb = index >> VAC__PB_ORDER;
	lock_group(&g, VAC__MIG_SYNC);
	if (it.state == LOCKED) {
		walk(&g, install_space);
		r = it.state == LOCKED ? -ENOENT : it.err;
		if (it.state == ENTRIES && freeze_unit(&g, 0, 1)) {
			fn(arg, pfn);
			vac__swap_written(pool, pfn);
			vac__and(&f->word, ~VAC__W_FROZEN);
			it.state = FAILED; /* as one that does not move */
		}
		r = r ? r : it.err;
		walk(&g, undo_space);
		vac__folio_unlock(pool, pfn);
	} else {
		r = -ENOENT;
	}
	vac__port_vma_charge(-g.charged, true);
	vac__folio_putback(pool, pfn);
	return r;
}

/* ---- A batch -------------------------------------------------------------------------------- */

/*
 * By the pageblock of addresses, and there by the pageblock of frames: spaces of one family may have
 * frames of their own for the same pages, and those of one, which lie together, are to be one run.
 */
static bool same_vpb(const struct vac__mig_item *a, const struct vac__mig_item *b)
{
	return a->family == b->family && a->index >> VAC__PB_ORDER == b->index >> VAC__PB_ORDER;
}

static bool together(const struct vac__mig_item *a, const struct vac__mig_item *b)
{
	return same_vpb(a, b) && a->src >> VAC__PB_ORDER == b->src >> VAC__PB_ORDER;
}

static bool before(const struct vac__mig_item *a, const struct vac__mig_item *b)
{
	if (together(a, b) || (a->family == b->family && !same_vpb(a, b)))
		return a->index < b->index;
	return a->family != b->family ? a->family < b->family : a->src < b->src;
}

/* Shell sort: at most 512 items, nearly sorted as a rule. */
static void sort_items(struct vac__mig_item *items, unsigned n)
{
	for (unsigned gap = n / 2; gap; gap /= 2) {
		for (unsigned i = gap; i < n; i++) {
			struct vac__mig_item t = items[i];
			unsigned j = i;

			for (; j >= gap && before(&t, &items[j - gap]); j -= gap)
				items[j] = items[j - gap];
			items[j] = t;
		}
	}
}

/*
 * Move n folios, all isolated by the caller. Afterwards err of each item is 0: moved, or found
 * freed (*gone), and in both cases the caller's reference is gone; or a negative value: still where
 * it was, still isolated, and the caller's to put back. -EAGAIN: locked or held for a moment;
 * -EBUSY: pinned; -ENOMEM: no target memory; -ENOBUFS: the host's limit on mappings.
 */
void vac__migrate(struct vac_pool *pool, struct vac__mig_item *items, unsigned n,
		  enum vac__mig_mode mode, struct vac__mig_stats *st)
{
	const struct vac__mig_aim none = {.huge = VAC__NO_PFN};

	vac__migrate_to(pool, items, n, mode, st, &none);
}

/*
 * The same, to where `aim` says. With gather: base folios only, -ENOMEM where the scanners have met. With
 * zones: -ENOMEM where these are full; those of normal memory alone go where long-term pins are. With
 * huge: asynchronously, the items are all the pages of a vpb; the reference on the huge folio is the
 * mapping's if err is 0, else still the caller's.
 */
void vac__migrate_to(struct vac_pool *pool, struct vac__mig_item *items, unsigned n,
		     enum vac__mig_mode mode, struct vac__mig_stats *st,
		     const struct vac__mig_aim *aim)
{
	bool whole = aim->huge != VAC__NO_PFN;
	unsigned end;

	for (unsigned i = 0; i < n; i++) {
		struct vac__frame *f = vac__frame(pool, items[i].src);

		items[i].family = vac__ld_rlx(&f->family) % VAC__MAX_SPACES;
		items[i].index = vac__ld_rlx(&f->index);
		items[i].huge = vac__ld_rlx(&f->flags) & VAC__F_HEAD;
	}
	/* A collapse takes them as they are, from wherever they lie, in the order of their pages. */
	if (!whole)
		sort_items(items, n);
	for (unsigned i = 0; i < n; i = end) {
		struct group g = {.pool = pool,
				  .item = &items[i],
				  .gather = aim->gather,
				  .huge = aim->huge,
				  .zones = aim->zones,
				  .family = items[i].family,
				  .vpb = items[i].index >> VAC__PB_ORDER};

		end = i + 1;
		while (end < n && mode == VAC__MIG_ASYNC && !items[i].huge && !items[end].huge &&
		       (whole ? same_vpb(&items[i], &items[end])
			      : together(&items[i], &items[end])))
			end++;
		g.n = end - i;
		migrate_group(&g, mode, st);
	}
	for (unsigned i = 0; i < n; i++)
		if (items[i].state == GONE)
			vac__folio_putback(pool, items[i].src);
}

/* SPDX-License-Identifier: MIT */
/*
 * Reclaim: take pages out to the swap file, and free their frames.
 *
 * The host does not tell which pages are touched, so a second chance goes through the swap cache. Two
 * hands go round over the clusters of frames (16 of them, aligned: 64 KiB). The front hand takes what
 * is mapped: it is unmapped, written, and stays in memory as a folio of the cache. The back hand follows
 * at a distance and frees those that nobody has touched since; who does touch one maps it back without
 * I/O. The distance is kept such that some part of the pool is in between. What was advised cold is marked
 * in a map of clusters, and goes before all that.
 *
 * A cluster's way out, alone or with others (struct batch):
 *
 *	1. pick the folios: isolated, locked; then a slot each, one after the other, and in the cache
 *	2. in every space of the family, under the ptl: present entries become swap entries in one
 *	   exchange; one whose folio turns out to be pinned is turned back at once, and so are all if
 *	   the host cannot book what a hole may take. Then the host shows a hole.
 *	3. ask whether anybody outside the engine holds a page: it is mapped back
 *	4. write what the file does not have yet
 *	5. unlock
 *
 * Invariants: bytes are written only while no translation to them exists (the hole comes before the
 * write) and no pin. A pin of a moment before the exchange is seen after it; one that is counted later
 * sees the changed entry (pin.c), so a pinned folio is never without its mapping for anybody who looks
 * at the host. From 2 to 5 whoever faults waits for the folio's lock, holding nothing. What fails is
 * mapped again, which cannot fail: the host is asked when it is touched.
 */
#include "internal.h"

#define CLUSTER VAC__SWAP_CLUSTER
#define BATCH 8 /* clusters that are written at once, at most */
#define RUNS 32
#define IDLE_NS UINT64_C(100000000)
#define REFUSALS_MAX \
	(4 *         \
	 CLUSTER) /* folios that cannot go for want of slots or mappings, until a call gives up */

struct out {
	uint32_t pfn, family, index, slot;
	bool fresh;   /* newly in the cache */
	bool failed;  /* to be mapped back */
	bool refused; /* by the host, for want of mappings */
};

/* ---- Picking ----------------------------------------------------------------------------------- */

static bool wanted(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint64_t w = vac__ld_rlx(&f->word);

	return (vac__ld_rlx(&f->flags) & (VAC__F_BASE | VAC__F_ISOLATED)) == VAC__F_BASE &&
	       vac__w_map(w) && vac__w_pins(w) == 0 && !(w & (VAC__W_FROZEN | VAC__W_GATED));
}

static bool pick(struct vac_pool *pool, uint32_t pfn, struct out *o)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t slot;

	if (!wanted(pool, pfn) || vac__folio_isolate(pool, pfn) < 0)
		return false;
	if (!vac__folio_trylock(pool, pfn)) {
		vac__folio_putback(pool, pfn);
		return false;
	}
	slot = vac__swap_slot(pool, pfn);
	*o = (struct out){.pfn = pfn,
			  .family = vac__ld_rlx(&f->family),
			  .index = vac__ld_rlx(&f->index),
			  .slot = slot,
			  .fresh = slot == VAC__NO_SLOT};
	if ((vac__ld_rlx(&f->flags) & VAC__F_BASE) && o->family < VAC__MAX_SPACES &&
	    vac__w_map(vac__ld(&f->word)))
		return true;
	vac__folio_unlock(pool, pfn);
	vac__folio_putback(pool, pfn);
	return false;
}

static void let_go(struct vac_pool *pool, const struct out *o)
{
	vac__folio_unlock(pool, o->pfn);
	vac__folio_putback(pool, o->pfn);
}

static bool before(const struct out *a, const struct out *b)
{
	return a->family != b->family ? a->family < b->family : a->index < b->index;
}

static void sort(struct out *o, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		struct out t = o[i];
		unsigned j = i;

		for (; j > 0 && before(&t, &o[j - 1]); j--)
			o[j] = o[j - 1];
		o[j] = t;
	}
}

/* Slots for those that have none, and the cache's reference. False: there are not so many. */
static bool add_to_cache(struct vac_pool *pool, struct out *o, unsigned n)
{
	uint32_t pfns[CLUSTER];
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++) {
		if (!o[i].fresh)
			continue;
		vac__add(&vac__frame(pool, o[i].pfn)->word, VAC__W_REF);
		pfns[k++] = o[i].pfn;
	}
	if (k && !vac__swap_cache_add(pool, pfns, k)) {
		while (k)
			vac__folio_put(pool, pfns[--k], VAC__W_REF);
		return false;
	}
	for (unsigned i = 0; i < n; i++)
		o[i].slot = vac__swap_slot(pool, o[i].pfn);
	return true;
}

/* ---- Unmapping --------------------------------------------------------------------------------- */

/* What a swap entry carries: the rights of the mapping, and whether it is its owner's alone. */
static uint64_t carried(uint64_t e)
{
	return vac__e_rights(e) | (e & VAC__E_EXCL);
}

static bool shows(struct vac_space *s, const struct out *o, uint64_t *e)
{
	uint32_t vpb = o->index >> VAC__PB_ORDER;

	if (vpb >= s->vpbs || (vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) != VAC__E_TABLE)
		return false;
	*e = vac__ld_rlx(vac__pte(s, o->index));
	return vac__e_present(*e) && vac__e_pfn(*e) == o->pfn;
}

/* Of a folio in hand, whose ptl is held: from present to swap. False: it is pinned, and nothing has
 * changed. */
static bool to_swap(struct vac_pool *pool, struct vac_space *s, const struct out *o, uint64_t e)
{
	vac__entry *slot = vac__pte(s, o->index);

	vac__xchg(slot, vac__e_make(o->slot, VAC__E_SWAP | carried(e)));
	if (vac__w_pins(vac__ld(&vac__frame(pool, o->pfn)->word))) {
		vac__xchg(slot, e);
		return false;
	}
	vac__swap_dup(pool, o->slot);
	vac__w_put(&vac__frame(pool, o->pfn)->word, VAC__W_MAP);
	VAC__SYNC("swap_entry_set", o->pfn);
	return true;
}

static void from_swap(struct vac_pool *pool, struct vac_space *s, const struct out *o, uint64_t e)
{
	vac__w_map_get(&vac__frame(pool, o->pfn)->word);
	vac__xchg(vac__pte(s, o->index), e);
	vac__swap_put(pool, o->slot);
}

/* A run of o[0..n) that follow one another in the space, of which the first is shown: turn as many as can
 * be. Answers how many were looked at. */
static unsigned unmap_run(struct vac_pool *pool, struct vac_space *s, struct out *o, unsigned n)
{
	const struct vac__mem_ops *mem = pool->mem;
	uint64_t was[CLUSTER], alike = VAC__E_HMAP | VAC__E_READ;
	unsigned k = 0;
	int r = 0;

	while (k < n && o[k].index == o->index + k && !o[k].failed && shows(s, &o[k], &was[k]) &&
	       (k == 0 || (was[k] & alike) == (was[0] & alike))) {
		if (!to_swap(pool, s, &o[k], was[k])) {
			o[k].failed = true;
			break;
		}
		k++;
	}
	if (k == 0)
		return 1;
	if (was[0] & VAC__E_HMAP) {
		void *at = s->base + ((size_t)o->index << VAC__PAGE_SHIFT);
		size_t bytes = (size_t)k << VAC__PAGE_SHIFT;
		bool booked = vac__port_vma_charge(2, false);

		/* What nobody may touch is bare, as everywhere (space.c). */
		if (!booked)
			r = -ENOMEM;
		else if (was[0] & VAC__E_READ)
			r = mem->hole(pool->mem_ctx, at, bytes, false);
		else
			r = mem->unmap(pool->mem_ctx, at, bytes);
		for (unsigned i = 0; r < 0 && i < k; i++) {
			from_swap(pool, s, &o[i], was[i]);
			o[i].failed = o[i].refused = true;
		}
		vac__segments_settle(s, o->index >> VAC__PB_ORDER, booked ? 2 : 0);
	}
	return k;
}

/* What any space that shows it has locked into memory stays for all of them. A space with a folio of its own
 * for the same page has no say in it. The family's lock is held, so no VMA changes. */
static void spare_locked(struct vac_space *s, struct out *o, unsigned n)
{
	uint64_t e;

	for (unsigned i = 0; i < n; i++) {
		const struct vac__vma *v = vac__vma_find(s, o[i].index);

		o[i].failed |= v && v->locked && shows(s, &o[i], &e);
	}
}

/* Folios of one family and one pageblock of addresses, sorted. */
static void unmap_group(struct vac_pool *pool, struct out *o, unsigned n)
{
	struct vac__rwlock *lock = &pool->families[o->family].lock;
	uint32_t vpb = o->index >> VAC__PB_ORDER;
	struct vac_space *s;
	uint64_t e;

	vac__rdlock(lock, VAC__RANK_RMAP);
	/* All are asked before any is unmapped. Who is about to show a folio that he has just filled in shows
	 * it under his ptl. */
	for (s = vac__rmap_first(pool, o->family); s && s->next_in_family; s = s->next_in_family)
		if (vpb < s->next_in_family->vpbs)
			spare_locked(s->next_in_family, o, n);
	for (s = vac__rmap_first(pool, o->family); s; s = s->next_in_family) {
		if (vpb >= s->vpbs)
			continue;
		vac__ptl_lock(s, vpb);
		spare_locked(s, o, n);
		for (unsigned i = 0, k; i < n; i += k) {
			k = 1;
			if (!o[i].failed && shows(s, &o[i], &e))
				k = unmap_run(pool, s, &o[i], n - i);
		}
		vac__ptl_unlock(s, vpb);
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
	for (unsigned i = 0; i < n; i++) {
		if (vac__w_map(vac__ld(&vac__frame(pool, o[i].pfn)->word)))
			o[i].failed = true; /* some space shows it still */
		else
			vac__add(&pool->swap.nr_inactive, 1);
	}
}

/* ---- Holders, and writing ---------------------------------------------------------------------- */

/* How many of o[0..n), none of which has failed, take frames (and slots) that follow one another. */
static unsigned linear(struct vac_pool *pool, const struct out *o, unsigned n, bool slots)
{
	unsigned k = 1, shift = pool->block_shift;

	while (k < n && !o[k].failed && o[k].pfn == o->pfn + k &&
	       o[k].pfn >> shift == o->pfn >> shift && (!slots || o[k].slot == o->slot + k))
		k++;
	return k;
}

/* The frame is held from outside: if it is one of these it stays. */
static void held_one(struct vac_pool *pool, struct out *o, unsigned n, uint32_t pfn)
{
	for (unsigned i = 0; i < n; i++) {
		if (o[i].pfn != pfn || o[i].failed)
			continue;
		o[i].failed = true;
		vac__stat_add(&pool->c.foreign_held, 1);
	}
}

/* Nothing leads to these frames any more. Whoever outside the engine holds one has it from before: it must
 * stay. Where the platform cannot tell, that is a limit which vacate.h states. */
static void look(struct vac_pool *pool, struct out *o, unsigned n)
{
	for (unsigned i = 0, k; i < n; i += k) {
		struct vac__backing *b = &vac__pfn_block(pool, o[i].pfn)->backing;
		uint32_t c = o[i].pfn / CLUSTER, first = UINT32_MAX, last = 0;
		size_t off, at = 0, page, bytes;

		/* One question for a cluster of frames, in whatever order their pages are. */
		for (k = 0; i + k < n && o[i + k].pfn / CLUSTER == c; k++) {
			if (o[i + k].failed)
				continue;
			first = o[i + k].pfn < first ? o[i + k].pfn : first;
			last = o[i + k].pfn > last ? o[i + k].pfn : last;
		}
		if (first > last)
			continue;
		off = (size_t)(first & ((UINT32_C(1) << pool->block_shift) - 1)) << VAC__PAGE_SHIFT;
		bytes = (size_t)(last - first + 1) << VAC__PAGE_SHIFT;
		while (at < bytes &&
		       pool->mem->held(pool->mem_ctx, b, off + at, bytes - at, NULL, &page) == 1) {
			at = page - off;
			held_one(pool, &o[i], k, first + (uint32_t)(at >> VAC__PAGE_SHIFT));
			at += VAC_PAGE_BYTES;
		}
	}
}

static int write_one(struct vac_pool *pool, const struct out *o)
{
	struct vac__swap_run run = {.mem = vac__frame_addr(pool, o->pfn),
				    .off = (uint64_t)o->slot << VAC__PAGE_SHIFT,
				    .bytes = VAC_PAGE_BYTES};

	pool->mem->swap_io(pool->mem_ctx, &pool->swap.file, true, &run, 1);
	return run.err;
}

static void written(struct vac_pool *pool, struct out *o, const struct vac__swap_run *run)
{
	unsigned pages = (unsigned)(run->bytes >> VAC__PAGE_SHIFT);

	for (unsigned i = 0; i < pages; i++) {
		int err = run->err;

		/* One bad slot must not take its neighbours with it. */
		if (err && pages > 1)
			err = write_one(pool, &o[i]);
		if (err == 0) {
			vac__or(&vac__frame(pool, o[i].pfn)->flags, VAC__F_CLEAN);
			vac__stat_add(&pool->swap.out, 1);
			continue;
		}
		o[i].failed = true;
		vac__swap_error(pool, true);
		vac__swap_bad(pool, o[i].slot);
	}
}

static bool dirty(struct vac_pool *pool, const struct out *o)
{
	return !o->failed && !(vac__ld(&vac__frame(pool, o->pfn)->flags) & VAC__F_CLEAN);
}

static void write_out(struct vac_pool *pool, struct out *o, unsigned n)
{
	struct vac__swap_run run[RUNS];
	unsigned i = 0, k, of[RUNS];

	while (i < n) {
		unsigned runs = 0;

		for (; i < n && runs < RUNS; i += k) {
			k = 1;
			if (!dirty(pool, &o[i]))
				continue;
			k = linear(pool, o + i, n - i, true);
			for (unsigned j = 1; j < k; j++)
				if (!dirty(pool, &o[i + j]))
					k = j;
			of[runs] = i;
			run[runs++] = (struct vac__swap_run){.mem = vac__frame_addr(pool, o[i].pfn),
							     .off = (uint64_t)o[i].slot
								    << VAC__PAGE_SHIFT,
							     .bytes = (size_t)k << VAC__PAGE_SHIFT};
		}
		if (runs == 0)
			break;
		pool->mem->swap_io(pool->mem_ctx, &pool->swap.file, true, run, runs);
		for (unsigned r = 0; r < runs; r++)
			written(pool, o + of[r], &run[r]);
	}
}

/* ---- A batch ----------------------------------------------------------------------------------- */

/* What has failed is mapped again, if it was unmapped, and keeps no new slot. */
static void finish(struct vac_pool *pool, struct out *o)
{
	if (o->failed) {
		vac__swap_map_all(pool, o->pfn);
		/* Without an entry in another space that names it, the slot is of no use. */
		if (vac__ld(&pool->swap.slot[o->slot].count) % VAC__SLOT_BAD == 0 &&
		    !(vac__ld(&vac__frame(pool, o->pfn)->flags) & VAC__F_CLEAN))
			vac__swap_cache_drop(pool, o->pfn);
	}
	VAC__SYNC("swapped_out", o->pfn);
	let_go(pool, o);
}

/* Was one of these needed since the hand came by? Then all have another round. */
static bool young(struct vac_pool *pool, uint32_t first, uint32_t n)
{
	bool any = false;

	for (uint32_t i = first; i < first + n; i++) {
		struct vac__frame *f = vac__frame(pool, i);

		if (!(vac__ld_rlx(&f->flags) & VAC__F_YOUNG) || !vac__w_map(vac__ld_rlx(&f->word)))
			continue;
		vac__and(&f->flags, ~VAC__F_YOUNG);
		any = true;
	}
	return any;
}

/* What is on its way: unmapped, or failed. */
struct batch {
	struct out o[BATCH * CLUSTER];
	unsigned n, clusters;
	unsigned refusals; /* folios that could not go for want of slots or host mappings */
};

enum which { ALL, OLD, COLD };

/* Unmap the base folios of a cluster of frames: all of them, all if none is young, or those that are cold.
 * Answers whether there were any. */
static bool unmap_cluster(struct vac_pool *pool, struct batch *b, uint32_t first, enum which which)
{
	struct out *o = &b->o[b->n];
	unsigned k = 0, end;

	if (which == OLD && young(pool, first, CLUSTER))
		return false;
	for (uint32_t i = 0; i < CLUSTER; i++)
		if (which != COLD ||
		    (vac__ld_rlx(&vac__frame(pool, first + i)->flags) & VAC__F_COLD))
			k += pick(pool, first + i, &o[k]);
	if (k == 0)
		return false;
	sort(o, k);
	if (!add_to_cache(pool, o, k)) {
		for (unsigned i = 0; i < k; i++)
			let_go(pool, &o[i]);
		b->refusals += CLUSTER;
		return false;
	}
	for (unsigned i = 0; i < k; i = end) {
		for (end = i + 1; end < k && o[end].family == o[i].family &&
				  o[end].index >> VAC__PB_ORDER == o[i].index >> VAC__PB_ORDER;)
			end++;
		unmap_group(pool, o + i, end - i);
	}
	VAC__SYNC("swap_unmapped", first);
	b->n += k;
	b->clusters++;
	return true;
}

/* Write what was unmapped, and let go. Answers how many frames can be freed now. */
static unsigned write_batch(struct vac_pool *pool, struct batch *b)
{
	unsigned done = 0;

	if (b->n == 0)
		return 0;
	look(pool, b->o, b->n);
	write_out(pool, b->o, b->n);
	for (unsigned i = 0; i < b->n; i++) {
		done += !b->o[i].failed;
		b->refusals += b->o[i].refused;
		finish(pool, &b->o[i]);
	}
	b->n = b->clusters = 0;
	return done;
}

/* ---- The clock --------------------------------------------------------------------------------- */

/* At least one; changes when a block of a higher number comes, and the hands with it. */
static uint64_t clusters(struct vac_pool *pool)
{
	uint64_t blocks = vac__ld_rlx(&pool->swap.top);

	return ((blocks ? blocks : 1) << pool->block_shift) / CLUSTER;
}

/* The hand's next cluster, in a block that has memory. False: it has come to `stop`. */
static bool next(struct vac_pool *pool, _Atomic uint64_t *hand, uint64_t stop, uint32_t *first)
{
	uint64_t h = vac__ld(hand), all = clusters(pool);
	uint32_t per_block = (UINT32_C(1) << pool->block_shift) / CLUSTER;

	while (h < stop) {
		uint32_t c = (uint32_t)(h % all);
		uint32_t state = vac__ld_rlx(&pool->blocks[c / per_block].state);
		bool there = state > VAC_BLOCK_OFFLINE + 1 && state != VAC_BLOCK_QUARANTINE + 1;

		if (vac__cas(hand, &h, there ? h + 1 : h + per_block - c % per_block)) {
			*first = c * CLUSTER;
			if (there)
				return true;
			h = vac__ld(hand);
		}
	}
	return false;
}

/* A huge folio is divided first. */
void vac__reclaim_divide(struct vac_pool *pool, uint32_t pfn)
{
	if (vac__w_pins(vac__ld_rlx(&vac__frame(pool, pfn)->word)) ||
	    vac__folio_isolate(pool, pfn) < 0)
		return;
	if (vac__folio_trylock(pool, pfn)) {
		if (vac__ld(&vac__frame(pool, pfn)->flags) & VAC__F_HEAD)
			vac__split(pool, pfn);
		vac__folio_unlock(pool, pfn);
	}
	vac__folio_putback(pool, pfn);
}

static bool front_step(struct vac_pool *pool, struct batch *b, uint32_t first)
{
	uint32_t fl = vac__ld_rlx(&vac__frame(pool, first)->flags);
	uint32_t head = first & ~(VAC__PB_PAGES - 1);

	if (fl & (VAC__F_HEAD | VAC__F_TAIL))
		vac__reclaim_divide(pool, head);
	return unmap_cluster(pool, b, first, OLD);
}

static unsigned back_step(struct vac_pool *pool, uint32_t first)
{
	unsigned n = 0;

	for (uint32_t i = first; i < first + CLUSTER; i++)
		n += vac__swap_cache_free(pool, i);
	return n;
}

/* ---- What is cold ------------------------------------------------------------------------------ */

/* One of the folios in a cluster of frames has been advised cold (advise.c). */
void vac__reclaim_cold(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t c = pfn / CLUSTER;

	vac__or(&sw->cold[c / 64], UINT64_C(1) << c % 64);
	vac__st(&sw->any_cold, 1);
}

/* The next cluster with such, from cluster *at on; it is not marked any more. */
static bool next_cold(struct vac_pool *pool, uint64_t *at, uint32_t *first)
{
	struct vac__swap *sw = &pool->swap;
	uint64_t end = clusters(pool);

	while (*at < end) {
		uint64_t w = vac__ld(&sw->cold[*at / 64]) >> *at % 64, bit;

		if (w == 0) {
			*at = (*at / 64 + 1) * 64;
			continue;
		}
		for (; !(w & 1); w >>= 1)
			++*at;
		bit = UINT64_C(1) << *at % 64;
		*first = (uint32_t)*at * CLUSTER;
		++*at;
		if (vac__and(&sw->cold[(*at - 1) / 64], ~bit) & bit)
			return true;
	}
	return false;
}

/* A huge folio that is cold as a whole is divided, and its parts are. */
static void divide_cold(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t fl = vac__ld_rlx(&vac__frame(pool, pfn)->flags);

	if ((fl & (VAC__F_HEAD | VAC__F_COLD)) != (VAC__F_HEAD | VAC__F_COLD))
		return;
	vac__reclaim_divide(pool, pfn);
	for (uint32_t i = pfn; i < pfn + VAC__PB_PAGES; i++)
		if ((vac__ld_rlx(&vac__frame(pool, i)->flags) & VAC__F_BASE) &&
		    !(vac__or(&vac__frame(pool, i)->flags, VAC__F_COLD) & VAC__F_COLD))
			vac__reclaim_cold(pool, i);
}

/* As above, from the beginning on. Who finds none says so, and looks once more: a bit is set before any_cold. */
static bool find_cold(struct vac_pool *pool, uint64_t *at, uint32_t *first)
{
	struct vac__swap *sw = &pool->swap;

	if (!vac__ld(&sw->any_cold))
		return false;
	if (next_cold(pool, at, first))
		return true;
	vac__st(&sw->any_cold, 0);
	*at = 0;
	if (!next_cold(pool, at, first))
		return false;
	vac__st(&sw->any_cold, 1);
	return true;
}

/* What nobody has touched since he said that he would not goes first, whatever the hands point at, and has no
 * second chance but to be touched on its way out. */
static uint32_t cold_turn(struct vac_pool *pool, uint32_t want, unsigned together, bool *did)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t freed = 0, first[BATCH];
	uint64_t at = 0;
	struct batch b;
	unsigned n;

	b.n = b.clusters = b.refusals = 0;
	do {
		for (n = 0; n < together && b.refusals < REFUSALS_MAX &&
			    vac__ld_rlx(&sw->state) == VAC__SWAP_ON &&
			    find_cold(pool, &at, &first[n]);) {
			divide_cold(pool, first[n]);
			n += unmap_cluster(pool, &b, first[n], COLD);
		}
		*did |= write_batch(pool, &b) > 0;
		for (unsigned i = 0; i < n; i++)
			freed += back_step(pool, first[i]);
	} while (n && freed < want);
	return freed;
}

/* ---- A turn of the clock ----------------------------------------------------------------------- */

/*
 * At most two rounds of the clock: the first may only find out what is old. Clusters go out `together` at once.
 * Answers how many frames it has freed; *did: it has changed something.
 */
static uint32_t turn(struct vac_pool *pool, uint32_t want, unsigned together, bool *did)
{
	struct vac__swap *sw = &pool->swap;
	uint64_t end = vac__ld(&sw->front) + 2 * clusters(pool);
	int64_t target = (int64_t)(vac__ld_rlx(&pool->nr_total) / 8);
	uint32_t freed = cold_turn(pool, want, together, did), first;
	struct batch b;

	b.n = b.clusters = b.refusals = 0;
	while (freed < want) {
		/* Twice as much goes out as is freed until the distance of the hands is as it should be. */
		unsigned wash = vac__ld_rlx(&sw->nr_inactive) < target ? 2 * together : together;
		bool moved = false;

		while (wash && b.refusals < REFUSALS_MAX &&
		       vac__ld_rlx(&sw->state) == VAC__SWAP_ON &&
		       next(pool, &sw->front, end, &first)) {
			moved = true;
			if (!front_step(pool, &b, first))
				continue;
			wash--;
			if (b.clusters == together)
				*did |= write_batch(pool, &b) > 0;
		}
		*did |= write_batch(pool, &b) > 0;
		while (freed < want && next(pool, &sw->back, vac__ld(&sw->front), &first)) {
			moved = true;
			freed += back_step(pool, first);
		}
		if (!moved)
			break;
	}
	*did |= freed > 0;
	return freed;
}

/* A call that had folios in hand has let go of them. did: it has changed what can be reclaimed. */
void vac__reclaim_done(struct vac_pool *pool, bool did)
{
	if (did)
		vac__add(&pool->swap.acts, 1);
	vac__sub(&pool->swap.busy, 1);
	vac__event_signal(&pool->swap.event);
}

/*
 * There was no frame: make some. Nothing is held; seen_freed is what nr_freed was before the caller looked for one.
 * True: it is worth another try. False: everything is pinned, locked into memory or has no slot, nobody has
 * freed anything since the look, nor is about to let go of anything.
 */
bool vac__reclaim(struct vac_pool *pool, uint32_t want, uint64_t seen_freed)
{
	struct vac__swap *sw = &pool->swap;

	while (vac__ld(&sw->state) != VAC__SWAP_OFF) {
		uint32_t n;
		uint64_t acts = vac__ld(&sw->acts);
		bool did = false;

		vac__add(&sw->busy, 1);
		n = turn(pool, want, 1, &did);
		vac__reclaim_done(pool, did);
		if (n || vac__ld(&pool->nr_freed) != seen_freed)
			return true;
		/* What others have in hand they let go of, changed or as it was. Only the first is worth
		 * another look: those who find nothing would keep each other at it for ever. */
		vac__assert_bare();
		for (;;) {
			uint32_t seen = vac__event_read(&sw->event);

			if (vac__ld(&sw->acts) != acts)
				break;
			if (vac__ld(&sw->busy) == 0)
				return vac__ld(&pool->nr_freed) != seen_freed;
			vac__event_wait(&sw->event, seen, 0);
		}
	}
	return false;
}

/* As much as can be made at this moment; waits for the swap file only. */
uint32_t vac__reclaim_some(struct vac_pool *pool, uint32_t want, unsigned together)
{
	struct vac__swap *sw = &pool->swap;
	bool did = false;
	uint32_t n;

	if (vac__ld(&sw->state) == VAC__SWAP_OFF)
		return 0;
	vac__add(&sw->busy, 1);
	n = turn(pool, want, together, &did);
	vac__reclaim_done(pool, did);
	return n;
}

/* Write out what can be of one pageblock, young or old, and free it; answers how many frames. */
uint32_t vac__reclaim_pageblock(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t freed = 0;
	struct batch b;

	if (vac__ld(&sw->state) != VAC__SWAP_ON)
		return 0;
	vac__add(&sw->busy, 1);
	b.n = b.clusters = b.refusals = 0;
	if (vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_HEAD)
		vac__reclaim_divide(pool, pfn);
	for (uint32_t at = pfn; at < pfn + VAC__PB_PAGES && b.refusals < REFUSALS_MAX;
	     at += CLUSTER) {
		unmap_cluster(pool, &b, at, ALL);
		if (b.clusters == BATCH)
			write_batch(pool, &b);
	}
	write_batch(pool, &b);
	for (uint32_t i = pfn; i < pfn + VAC__PB_PAGES; i++) {
		vac__and(&vac__frame(pool, i)->flags, ~VAC__F_YOUNG);
		freed += vac__swap_cache_free(pool, i);
	}
	vac__reclaim_done(pool, freed > 0);
	return freed;
}

/* Pages that could go out, as it seems. */
uint64_t vac__swap_room(struct vac_pool *pool)
{
	struct vac__swap *sw = &pool->swap;
	int64_t inactive = vac__ld_rlx(&sw->nr_inactive);

	if (vac__ld_rlx(&sw->state) != VAC__SWAP_ON)
		return 0;
	return sw->nr_slots - vac__ld_rlx(&sw->nr_taken) + (uint64_t)(inactive > 0 ? inactive : 0);
}

/* ---- In the background ------------------------------------------------------------------------- */

/*
 * Keeps some frames free, so that those who fault find one, and reads what programs say that they will need.
 * Whoever takes frames wakes it; a kick that comes
 * while it is about to fall asleep is seen, as it has read the event before it looked.
 */
static void background(void *arg)
{
	struct vac_pool *pool = arg;
	struct vac__swap *sw = &pool->swap;

	for (;;) {
		uint32_t seen = vac__event_read(&sw->kick);
		bool enough = vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) >=
			      2 * vac__low_water(pool);
		bool on = vac__ld(&sw->state) == VAC__SWAP_ON;
		bool ahead = on && vac__ld_rlx(&sw->nr_asked);
		uint32_t n = 0;

		if (vac__ld(&sw->stop))
			break;
		if (on && (ahead || !enough)) {
			vac__lock(&sw->step, VAC__RANK_BACKGROUND);
			if (!enough)
				n = vac__reclaim_some(pool, BATCH * CLUSTER, BATCH);
			ahead = ahead && vac__swapin_step(pool);
			vac__unlock(&sw->step, VAC__RANK_BACKGROUND);
		}
		/* Where there is nothing to be had, not before something has changed. */
		if (n == 0 && !ahead)
			vac__event_wait(&sw->kick, seen, enough ? 0 : vac__port_now() + IDLE_NS);
	}
}

int vac__reclaim_start(struct vac_pool *pool)
{
	vac__st(&pool->swap.stop, 0);
	return vac__port_thread_start("vacate swap", background, pool, &pool->swap.thread);
}

void vac__reclaim_stop(struct vac_pool *pool)
{
	vac__st(&pool->swap.stop, 1);
	vac__event_signal(&pool->swap.kick);
	vac__port_thread_join(pool->swap.thread);
}

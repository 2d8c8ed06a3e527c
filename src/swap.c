/* SPDX-License-Identifier: MIT */
/*
 * Swap: slots of a file, the swap cache, and mapping from it. Reading is swapin.c, taking out reclaim.c.
 *
 * A slot holds the bytes of one page. It is free when no entry names it (count) and the swap cache
 * has no folio for it (cache). An entry that names a slot stands for a page that is in the cache's folio
 * if there is one, else in the file. The cache is two dense arrays, from slots to folios and back; its
 * place in them is one reference on the folio, and the flag SWAPCACHE.
 *
 * Invariants:
 *  - A folio enters and leaves the cache, and its slot's cache field changes, under that folio's lock
 *    and the swap lock. So who holds a folio's lock and finds it in the cache can rely on it until he
 *    lets go; who has only read the array must look again once he has the lock (semantics.md F.1).
 *  - A slot is taken with its folio: it is never in use with neither an entry nor a folio.
 *  - A folio is mapped from the cache under its lock only. So an unmapped one stays so for the holder.
 *  - CLEAN: the file has the folio's bytes. It goes before an entry that allows writing is shown
 *    (vac__swap_written). Where the guard tells of a first write, a page that was only read keeps its
 *    slot: its entry is E_CLEAN, without E_WRITE, until vac__swap_upgrade().
 *  - What neither an entry nor a mapping needs any more is dropped by the one who took the last of them
 *    away, or, where the folio is locked at that moment, by the one who unlocks it (vac__swap_reap).
 *  - READING: the folio is locked until its bytes are there, so nobody maps it before.
 *
 * Nobody waits here but for the file, holding nothing but the locks of folios that he has put in the
 * cache himself.
 */
#include "internal.h"

#define CLUSTER VAC__SWAP_CLUSTER
#define NO_SLOT VAC__NO_SLOT
#define SAY_NS UINT64_C(60000000000)

static struct vac__slot *slot_of(struct vac_pool *pool, uint32_t slot)
{
	return &pool->swap.slot[slot];
}

static uint32_t counted(struct vac__slot *sl)
{
	return vac__ld(&sl->count) & ~VAC__SLOT_BAD;
}

/* More than half of the file is in use: slots are given back early. */
static bool crowded(struct vac__swap *sw)
{
	return vac__ld_rlx(&sw->nr_taken) > sw->nr_slots / 2;
}

/* ---- Slots: under the swap lock ---------------------------------------------------------------- */

static bool is_free(struct vac__slot *sl)
{
	return vac__ld_rlx(&sl->count) == 0 && vac__ld_rlx(&sl->cache) == 0;
}

static void give_back(struct vac__swap *sw, uint32_t slot)
{
	if (!is_free(&sw->slot[slot]))
		return;
	sw->taken[slot / CLUSTER]--;
	vac__st_rlx(&sw->nr_taken, vac__ld_rlx(&sw->nr_taken) - 1);
}

/* n free slots that follow one another, in one cluster. */
static uint32_t find_run(struct vac__swap *sw, unsigned n)
{
	uint32_t clusters = sw->nr_slots / CLUSTER;

	for (uint32_t k = 0; k < clusters; k++) {
		uint32_t c = (sw->next + k) % clusters;
		unsigned len = 0;

		if (sw->taken[c] + n > CLUSTER)
			continue;
		for (uint32_t slot = c * CLUSTER; slot < (c + 1) * CLUSTER; slot++) {
			len = is_free(&sw->slot[slot]) ? len + 1 : 0;
			if (len == n) {
				sw->next = c;
				return slot + 1 - n;
			}
		}
	}
	return NO_SLOT;
}

static void cache_set(struct vac_pool *pool, uint32_t slot, uint32_t pfn)
{
	VAC__DEBUG_ASSERT(vac__ld_rlx(&vac__frame(pool, pfn)->index) == slot_of(pool, slot)->index);
	VAC__DEBUG_ASSERT(vac__ld_rlx(&vac__frame(pool, pfn)->family) ==
			  slot_of(pool, slot)->family);
	vac__or(&vac__frame(pool, pfn)->flags, VAC__F_SWAPCACHE);
	vac__st(&pool->swap.of[pfn], slot + 1);
	vac__st(&slot_of(pool, slot)->cache, pfn + 1);
}

static void take_slot(struct vac_pool *pool, uint32_t slot, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	struct vac__swap *sw = &pool->swap;

	sw->taken[slot / CLUSTER]++;
	vac__st_rlx(&sw->nr_taken, vac__ld_rlx(&sw->nr_taken) + 1);
	sw->slot[slot].family = vac__ld_rlx(&f->family);
	sw->slot[slot].index = vac__ld_rlx(&f->index);
	cache_set(pool, slot, pfn);
}

/*
 * Put n folios, at most a cluster, in the cache under new slots, one after the other if that can be had. The
 * caller holds their locks, and a reference of each for the cache. False: there are not so many slots.
 */
bool vac__swap_cache_add(struct vac_pool *pool, const uint32_t *pfns, unsigned n)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t slot;
	bool ok;

	vac__lock(&sw->lock, VAC__RANK_SWAP);
	ok = vac__ld_rlx(&sw->state) == VAC__SWAP_ON &&
	     sw->nr_slots - vac__ld_rlx(&sw->nr_taken) >= n;
	if (ok) {
		slot = find_run(sw, n);
		for (unsigned i = 0; i < n; i++)
			take_slot(pool, slot == NO_SLOT ? find_run(sw, 1) : slot + i, pfns[i]);
	}
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	return ok;
}

/* The slot of a folio in the cache, NO_SLOT if it is not. Sure for the holder of its lock only. */
static uint32_t slot_for(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t o = vac__swapcache(pool, pfn) ? vac__ld(&pool->swap.of[pfn]) : 0;

	return o ? o - 1 : NO_SLOT;
}

uint32_t vac__swap_slot(struct vac_pool *pool, uint32_t pfn)
{
	return slot_for(pool, pfn);
}

/* How many entries name the slot of a folio, whose lock is held: others that share its bytes. */
uint32_t vac__swap_users(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t slot = slot_for(pool, pfn);

	return slot == NO_SLOT ? 0 : counted(slot_of(pool, slot));
}

/* One more entry names the slot: its ptl is held, or the family's lock for write. */
void vac__swap_dup(struct vac_pool *pool, uint32_t slot)
{
	struct vac__slot *sl = slot_of(pool, slot);

	vac__lock(&pool->swap.lock, VAC__RANK_SWAP);
	vac__st(&sl->count, vac__ld_rlx(&sl->count) + 1);
	vac__unlock(&pool->swap.lock, VAC__RANK_SWAP);
}

/* One entry less; answers how many are left. */
static uint32_t uncount(struct vac_pool *pool, uint32_t slot)
{
	struct vac__slot *sl = slot_of(pool, slot);
	uint32_t n;

	vac__lock(&pool->swap.lock, VAC__RANK_SWAP);
	n = vac__ld_rlx(&sl->count);
	VAC__ASSERT((n & ~VAC__SLOT_BAD) != 0);
	vac__st(&sl->count, --n);
	give_back(&pool->swap, slot);
	vac__unlock(&pool->swap.lock, VAC__RANK_SWAP);
	return n & ~VAC__SLOT_BAD;
}

/* An entry that named the slot is gone. */
void vac__swap_put(struct vac_pool *pool, uint32_t slot)
{
	if (uncount(pool, slot) == 0)
		vac__swap_reap(pool, slot);
}

/* The slot could not be written: it is for nobody, as long as swap is on. */
void vac__swap_bad(struct vac_pool *pool, uint32_t slot)
{
	struct vac__slot *sl = slot_of(pool, slot);

	vac__lock(&pool->swap.lock, VAC__RANK_SWAP);
	if (!(vac__ld_rlx(&sl->count) & VAC__SLOT_BAD))
		vac__st_rlx(&pool->swap.nr_bad, vac__ld_rlx(&pool->swap.nr_bad) + 1);
	vac__st(&sl->count, vac__ld_rlx(&sl->count) | VAC__SLOT_BAD);
	vac__unlock(&pool->swap.lock, VAC__RANK_SWAP);
}

/* ---- The cache: the folio is locked ------------------------------------------------------------ */

/*
 * Lock the folio pfn, if the cache has it for a slot. Who only knows it from the array, or from a look at all
 * frames, does so with a reference: else it may be freed and its block leave, lock and all, before he finds
 * that it is another's. While it is locked and in the cache, the cache's reference will do.
 */
static bool lock_cached(struct vac_pool *pool, uint32_t slot, uint32_t pfn)
{
	bool ok;

	if (vac__w_try_ref(&vac__frame(pool, pfn)->word) < 0)
		return false;
	ok = vac__folio_trylock(pool, pfn);
	if (ok && vac__ld(&slot_of(pool, slot)->cache) != pfn + 1) {
		vac__folio_unlock(pool, pfn);
		ok = false;
	}
	vac__folio_put(pool, pfn, VAC__W_REF);
	return ok;
}

/* Out of the arrays; the reference is the caller's to drop. */
static void cache_forget(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t slot = slot_for(pool, pfn);

	VAC__ASSERT(slot != NO_SLOT);
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	vac__st(&slot_of(pool, slot)->cache, 0);
	vac__st(&sw->of[pfn], 0);
	give_back(sw, slot);
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	vac__and(&vac__frame(pool, pfn)->flags,
		 ~(VAC__F_SWAPCACHE | VAC__F_CLEAN | VAC__F_READING));
}

/* The same where nothing may map it. */
static void cache_clear(struct vac_pool *pool, uint32_t pfn)
{
	cache_forget(pool, pfn);
	if (vac__w_map(vac__ld_rlx(&vac__frame(pool, pfn)->word)) == 0)
		vac__sub(&pool->swap.nr_inactive, 1);
}

/* The cache lets go of a folio: its slot is of no use, or its bytes are. The caller knows that this is not
 * its last reference, as he is to unlock it: a free frame may go with its block, lock and all. */
void vac__swap_cache_drop(struct vac_pool *pool, uint32_t pfn)
{
	cache_clear(pool, pfn);
	vac__folio_put(pool, pfn, VAC__W_REF);
}

/* As above, where it may be the last: the folio is unlocked first. */
void vac__swap_drop_unlock(struct vac_pool *pool, uint32_t pfn)
{
	cache_clear(pool, pfn);
	vac__folio_unlock(pool, pfn);
	vac__folio_put(pool, pfn, VAC__W_REF);
}

/* A folio that was frozen at its exact counts, of which the cache's reference was one, has been copied to
 * dst, of which the caller holds a reference: the slot's folio is dst from here on. */
void vac__swap_cache_move(struct vac_pool *pool, uint32_t src, uint32_t dst)
{
	struct vac__swap *sw = &pool->swap;
	struct vac__frame *s = vac__frame(pool, src), *d = vac__frame(pool, dst);
	uint32_t slot = slot_for(pool, src);

	vac__add(&d->word, VAC__W_REF);
	vac__or(&d->flags, vac__ld_rlx(&s->flags) & (VAC__F_YOUNG | VAC__F_CLEAN));
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	cache_set(pool, slot, dst);
	vac__st(&sw->of[src], 0);
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	vac__and(&s->flags, ~(VAC__F_SWAPCACHE | VAC__F_CLEAN));
}

/* A folio that was mapped, alone, and was frozen at its exact counts, is made part of a huge one: its slot goes
 * back. The cache's reference was among the counts, and goes with them. */
void vac__swap_cache_end(struct vac_pool *pool, uint32_t pfn)
{
	VAC__DEBUG_ASSERT(vac__swap_users(pool, pfn) == 0);
	cache_forget(pool, pfn);
}

/* Free a folio that only the cache holds, and whose bytes are in the file, or nobody's. */
bool vac__swap_cache_free(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t fl = vac__ld_rlx(&f->flags), slot;

	if (!(fl & VAC__F_SWAPCACHE) || (vac__ld_rlx(&f->word) & VAC__W_COUNTS) != VAC__W_REF)
		return false;
	if (fl & VAC__F_YOUNG) {
		vac__and(&f->flags, ~VAC__F_YOUNG);
		return false;
	}
	slot = slot_for(pool, pfn);
	if (slot == NO_SLOT || !lock_cached(pool, slot, pfn))
		return false;
	if ((!(vac__ld_rlx(&f->flags) & VAC__F_CLEAN) && counted(slot_of(pool, slot))) ||
	    !vac__w_freeze(&f->word, vac__expected_counts(true, 0, 0, 0))) {
		vac__folio_unlock(pool, pfn);
		return false;
	}
	cache_clear(pool, pfn);
	vac__folio_unlock(pool, pfn);
	vac__folio_free(pool, pfn);
	return true;
}

/* Drop what the cache has for a slot if nobody needs it. Locked: whoever unlocks it asks again. */
void vac__swap_reap(struct vac_pool *pool, uint32_t slot)
{
	struct vac__slot *sl = slot_of(pool, slot);
	uint32_t c = vac__ld(&sl->cache);

	if (!c || counted(sl) || vac__w_map(vac__ld(&vac__frame(pool, c - 1)->word)))
		return;
	if (!lock_cached(pool, slot, c - 1))
		return;
	if (counted(sl) == 0 && vac__w_map(vac__ld(&vac__frame(pool, c - 1)->word)) == 0) {
		VAC__SYNC("swap_reaped", c - 1);
		vac__swap_drop_unlock(pool, c - 1);
	} else {
		vac__folio_unlock(pool, c - 1);
	}
}

/*
 * The folio is its owner's alone from here on, which holds its lock and a reference: no entry names the
 * slot, and none will. What the file has is of no use once the owner may write.
 */
void vac__swap_own(struct vac_pool *pool, uint32_t pfn)
{
	VAC__DEBUG_ASSERT(vac__swap_users(pool, pfn) == 0);
	if (vac__swapcache(pool, pfn))
		vac__swap_cache_drop(pool, pfn);
}

/* A folio that was new, or mapped, when its lock was taken is about to be unlocked. */
void vac__swap_settle(struct vac_pool *pool, uint32_t pfn)
{
	if (vac__swapcache(pool, pfn) && vac__w_map(vac__ld(&vac__frame(pool, pfn)->word)) == 0)
		vac__add(&pool->swap.nr_inactive, 1);
}

/* An entry of a folio is about to allow writing: what the file has is old. */
void vac__swap_written(struct vac_pool *pool, uint32_t pfn)
{
	if (vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_CLEAN)
		vac__and(&vac__frame(pool, pfn)->flags, ~VAC__F_CLEAN);
}

/* ---- Mapping from the cache -------------------------------------------------------------------- */

/* Pages of one cluster of addresses whose folios are linear, locked, and in the cache. */
struct run {
	uint32_t page, pfn, n;
};

/* Take the cached folio of a page, if it can be had. wanted: NO_PFN, or the one that it must be. */
static enum vac__swap_look take(struct vac_space *s, uint32_t page, uint32_t wanted, uint32_t *pfn,
				uint32_t *ticket)
{
	uint64_t e = vac__ld_rlx(vac__pte(s, page));
	struct vac__slot *sl = slot_of(s->pool, vac__e_pfn(e));
	uint32_t c = vac__ld(&sl->cache);

	if (!c)
		return VAC__SWAP_READ;
	*pfn = c - 1;
	if (wanted != VAC__NO_PFN && wanted != *pfn)
		return VAC__SWAP_AGAIN;
	/* Looked at first, as a reference might make a migration fail. */
	if (vac__folio_wait_prepare(s->pool, *pfn, ticket))
		return VAC__SWAP_WAIT;
	/* It may have been freed, or moved, between the look and the lock. */
	if (!lock_cached(s->pool, vac__e_pfn(e), *pfn))
		return VAC__SWAP_AGAIN;
	VAC__DEBUG_ASSERT(!(vac__ld(&vac__frame(s->pool, *pfn)->flags) & VAC__F_READING));
	return VAC__SWAP_DONE;
}

static bool same(struct vac_space *s, uint32_t a, uint32_t b)
{
	uint64_t low = (UINT64_C(1) << VAC__E_PFN_SHIFT) - 1;

	return (vac__ld_rlx(vac__pte(s, a)) & low) == (vac__ld_rlx(vac__pte(s, b)) & low);
}

/* Neighbours that lie beside the folio in hand come along: they went out together. */
static void extend(struct vac_space *s, struct run *r)
{
	uint32_t lo = r->page & ~(CLUSTER - 1), hi = lo + CLUSTER, pfn, ticket;
	unsigned shift = s->pool->block_shift;

	while (r->page + r->n < hi && same(s, r->page, r->page + r->n) &&
	       (r->pfn + r->n) >> shift == r->pfn >> shift &&
	       take(s, r->page + r->n, r->pfn + r->n, &pfn, &ticket) == VAC__SWAP_DONE)
		r->n++;
	while (r->page > lo && r->pfn > 0 && same(s, r->page, r->page - 1) &&
	       (r->pfn - 1) >> shift == r->pfn >> shift &&
	       take(s, r->page - 1, r->pfn - 1, &pfn, &ticket) == VAC__SWAP_DONE) {
		r->page--;
		r->pfn--;
		r->n++;
	}
}

static bool all_clean(struct vac_pool *pool, const struct run *r)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (!(vac__ld_rlx(&vac__frame(pool, r->pfn + i)->flags) & VAC__F_CLEAN))
			return false;
	return true;
}

/* Show [page, page + n), whose frames are linear, with rights prot. The ptl is held. */
static int show(struct vac_space *s, uint32_t page, uint32_t n, uint32_t pfn, unsigned prot)
{
	struct vac_pool *pool = s->pool;
	size_t off = (size_t)(pfn & ((UINT32_C(1) << pool->block_shift) - 1)) << VAC__PAGE_SHIFT;

	return pool->mem->map(pool->mem_ctx, s->base + ((size_t)page << VAC__PAGE_SHIFT),
			      (size_t)n << VAC__PAGE_SHIFT, &vac__pfn_block(pool, pfn)->backing,
			      off, prot);
}

static int map_run(struct vac_space *s, const struct run *r, unsigned access)
{
	uint64_t e = vac__ld_rlx(vac__pte(s, r->page));
	uint64_t bits = e & (VAC__E_READ | VAC__E_WRITE | VAC__E_EXCL);
	struct vac_pool *pool = s->pool;
	unsigned prot;
	int ret;

	if ((vac__host_prot(bits) & VAC__WRITE) && !(access & VAC__WRITE) &&
	    pool->guard == VAC_GUARD_SIGSEGV && !crowded(&pool->swap) && all_clean(pool, r))
		bits = (bits & ~(uint64_t)VAC__E_WRITE) | VAC__E_CLEAN;
	bits |= VAC__E_PRESENT;
	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	prot = vac__host_want(pool, bits);
	for (uint32_t i = 0; (prot & VAC__WRITE) && i < r->n; i++)
		vac__swap_written(pool, r->pfn + i);
	ret = show(s, r->page, r->n, r->pfn, prot);
	for (uint32_t i = 0; ret == 0 && i < r->n; i++) {
		struct vac__frame *f = vac__frame(pool, r->pfn + i);
		uint32_t slot = slot_for(pool, r->pfn + i);
		uint32_t fl = vac__or(&f->flags, VAC__F_YOUNG);

		if (vac__w_map(vac__ld_rlx(&f->word)) == 0) {
			vac__sub(&pool->swap.nr_inactive, 1);
			if (!(fl & VAC__F_YOUNG))
				vac__stat_add(&pool->swap.second_chances, 1);
		}
		vac__w_map_get(&f->word);
		vac__st(vac__pte(s, r->page + i),
			vac__e_make(r->pfn + i, bits | vac__host_bits(prot)));
		/* No entry names the slot, and what it has is old, or there are few slots: let it go. */
		if (uncount(pool, slot) == 0 &&
		    (!(vac__ld_rlx(&f->flags) & VAC__F_CLEAN) || crowded(&pool->swap)))
			vac__swap_cache_drop(pool, r->pfn + i);
	}
	vac__segments_settle(s, r->page >> VAC__PB_ORDER, 2);
	return ret;
}

/*
 * The entry of a page, under its ptl, names a slot. DONE: it is mapped, with neighbours, or *err. WAIT: its
 * folio *pfn is locked, and *ticket the wait prepared for it. AGAIN: look again. READ: it is not in the
 * cache.
 */
enum vac__swap_look vac__swap_look(struct vac_space *s, uint32_t page, unsigned access,
				   uint32_t *pfn, uint32_t *ticket, int *err)
{
	struct run r = {.page = page, .n = 1};
	enum vac__swap_look l = take(s, page, VAC__NO_PFN, pfn, ticket);

	if (l != VAC__SWAP_DONE)
		return l;
	VAC__SYNC("swap_locked", *pfn);
	r.pfn = *pfn;
	extend(s, &r);
	*err = map_run(s, &r, access);
	for (uint32_t i = 0; i < r.n; i++)
		vac__folio_unlock(s->pool, r.pfn + i);
	return l;
}

/* A page that was only read so far, and kept its slot, is to be written; the ptl is held. Its neighbours
 * come along, so that the host's mapping stays in one piece. */
int vac__swap_upgrade(struct vac_space *s, uint32_t page)
{
	uint32_t lo = page & ~(CLUSTER - 1), hi = lo + CLUSTER, first = page, end = page + 1;
	struct vac_pool *pool = s->pool;
	uint64_t e = vac__ld_rlx(vac__pte(s, page));
	unsigned shift = pool->block_shift;
	uint32_t pfn = vac__e_pfn(e);
	int r;

	while (end < hi &&
	       vac__ld_rlx(vac__pte(s, end)) == e + ((uint64_t)(end - page) << VAC__E_PFN_SHIFT) &&
	       (pfn + end - page) >> shift == pfn >> shift)
		end++;
	while (first > lo &&
	       vac__ld_rlx(vac__pte(s, first - 1)) ==
		       e - ((uint64_t)(page - first + 1) << VAC__E_PFN_SHIFT) &&
	       (pfn - (page - first + 1)) >> shift == pfn >> shift)
		first--;
	pfn -= page - first;
	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	for (uint32_t i = 0; i < end - first; i++)
		vac__swap_written(pool, pfn + i);
	e = (e | VAC__E_WRITE) & ~(uint64_t)VAC__E_CLEAN;
	r = show(s, first, end - first, pfn, vac__host_prot(e));
	for (uint32_t i = 0; r == 0 && i < end - first; i++) {
		vac__st(vac__pte(s, first + i),
			vac__e_make(pfn + i, (e & ((UINT64_C(1) << VAC__E_PFN_SHIFT) - 1)) |
						     vac__host_bits(vac__host_prot(e))));
		/* Locked: a reclaim or a migration has it in hand; then the slot goes another time. */
		if (!vac__folio_trylock(pool, pfn + i))
			continue;
		if (vac__swapcache(pool, pfn + i) && vac__swap_users(pool, pfn + i) == 0)
			vac__swap_cache_drop(pool, pfn + i);
		vac__folio_unlock(pool, pfn + i);
	}
	vac__segments_settle(s, first >> VAC__PB_ORDER, 2);
	return r;
}

/*
 * Map a folio, locked and in the cache, wherever an entry names its slot; the host is asked when it is
 * touched. Answers how many entries that were. Cannot fail: the way back for whoever swaps out.
 */
unsigned vac__swap_map_all(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t slot = slot_for(pool, pfn), family = vac__ld_rlx(&f->family);
	uint32_t index = vac__ld_rlx(&f->index), vpb = index >> VAC__PB_ORDER;
	unsigned n = 0;

	if (family >= VAC__MAX_SPACES)
		return 0;
	vac__rdlock(&pool->families[family].lock, VAC__RANK_RMAP);
	for (struct vac_space *s = vac__rmap_first(pool, family); s; s = s->next_in_family) {
		uint64_t e;

		if (vpb >= s->vpbs)
			continue;
		vac__ptl_lock(s, vpb);
		e = vac__ld_rlx(vac__pte(s, index));
		if ((vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) == VAC__E_TABLE &&
		    vac__e_swap(e) && vac__e_pfn(e) == slot) {
			if (vac__host_prot(e) & VAC__WRITE)
				vac__swap_written(pool, pfn);
			if (vac__w_map(vac__ld_rlx(&f->word)) == 0)
				vac__sub(&pool->swap.nr_inactive, 1);
			vac__w_map_get(&f->word);
			vac__st(vac__pte(s, index),
				vac__e_make(pfn, VAC__E_PRESENT | (e & (VAC__E_READ | VAC__E_WRITE |
									VAC__E_EXCL))));
			uncount(pool, slot);
			n++;
		}
		vac__ptl_unlock(s, vpb);
	}
	vac__rdunlock(&pool->families[family].lock, VAC__RANK_RMAP);
	return n;
}

/* A new folio for a slot that has none: locked, READING. False: the slot has one by now, or is another
 * page's. The caller's reference becomes the cache's. */
bool vac__swap_insert(struct vac_pool *pool, uint32_t slot, uint32_t pfn, uint32_t family,
		      uint32_t index)
{
	struct vac__slot *sl = slot_of(pool, slot);
	struct vac__swap *sw = &pool->swap;
	struct vac__frame *f = vac__frame(pool, pfn);
	bool ok;

	/* Somebody who knew the frame as another's may have the lock for a moment. */
	if (!vac__folio_trylock(pool, pfn))
		return false;
	vac__st_rlx(&f->family, family);
	vac__st_rlx(&f->index, index);
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	ok = counted(sl) && vac__ld_rlx(&sl->cache) == 0 && sl->family == family &&
	     sl->index == index;
	if (ok) {
		vac__or(&f->flags, VAC__F_READING | VAC__F_YOUNG);
		cache_set(pool, slot, pfn);
	}
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	if (ok)
		vac__add(&sw->nr_inactive, 1);
	else
		vac__folio_unlock(pool, pfn);
	return ok;
}

/* Counted, and said once a minute. */
void vac__swap_error(struct vac_pool *pool, bool write)
{
	struct vac__swap *sw = &pool->swap;
	uint64_t now = vac__port_now();
	bool say;

	vac__stat_add(&sw->errors, 1);
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	say = sw->said_ns == 0 || now - sw->said_ns > SAY_NS;
	if (say)
		sw->said_ns = now;
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	if (say)
		vac__log(pool, VAC_LOG_ERROR,
			 write ? "swap: a write failed: the page stays in memory, its slot is used "
				 "no more"
			       : "swap: a read failed: whoever touches the page gets SIGBUS");
}

/* ---- On and off -------------------------------------------------------------------------------- */

static size_t slot_bytes(void)
{
	return (size_t)VAC__SWAP_SLOTS_MAX * sizeof(struct vac__slot);
}

static size_t of_bytes(const struct vac_pool *pool)
{
	return ((size_t)pool->max_blocks << pool->block_shift) * sizeof(uint32_t);
}

static size_t cold_bytes(const struct vac_pool *pool)
{
	return (of_bytes(pool) / sizeof(uint32_t) / CLUSTER / 64 + 1) * sizeof(uint64_t);
}

static int reserve(struct vac_pool *pool)
{
	struct vac__swap *sw = &pool->swap;

	/* Kept until the pool is closed: readers without a lock need no care. */
	if (!sw->slot)
		sw->slot = vac__port_table_reserve(slot_bytes());
	if (!sw->taken)
		sw->taken = vac__port_table_reserve(VAC__SWAP_SLOTS_MAX / CLUSTER);
	if (!sw->of)
		sw->of = vac__port_table_reserve(of_bytes(pool));
	if (!sw->cold)
		sw->cold = vac__port_table_reserve(cold_bytes(pool));
	return sw->slot && sw->taken && sw->of && sw->cold ? 0 : -ENOMEM;
}

/* The pool is closed: nobody is at it. */
void vac__swap_release(struct vac_pool *pool)
{
	struct vac__swap *sw = &pool->swap;

	if (vac__ld(&sw->state) != VAC__SWAP_OFF)
		pool->mem->swap_close(pool->mem_ctx, &sw->file);
	vac__st(&sw->state, VAC__SWAP_OFF);
	if (sw->slot)
		vac__port_table_release(sw->slot, slot_bytes());
	if (sw->taken)
		vac__port_table_release(sw->taken, VAC__SWAP_SLOTS_MAX / CLUSTER);
	if (sw->of)
		vac__port_table_release(sw->of, of_bytes(pool));
	if (sw->cold)
		vac__port_table_release(sw->cold, cold_bytes(pool));
}

static int swap_on(struct vac_pool *pool, const struct vac_swap_opts *o)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t was = VAC__SWAP_OFF;
	uint64_t slots = o->bytes >> VAC__PAGE_SHIFT;
	int r;

	if (!pool->mem->swap_open)
		return -EOPNOTSUPP;
	if (slots > VAC__SWAP_SLOTS_MAX)
		slots = VAC__SWAP_SLOTS_MAX;
	slots -= slots % CLUSTER;
	if (slots == 0)
		return -EINVAL;
	if (!vac__cas(&sw->state, &was, VAC__SWAP_ENDING))
		return -EBUSY;
	r = reserve(pool);
	if (r == 0)
		r = pool->mem->swap_open(pool->mem_ctx, o->fd, slots << VAC__PAGE_SHIFT, &sw->file);
	if (r == 0) {
		r = vac__reclaim_start(pool);
		if (r < 0)
			pool->mem->swap_close(pool->mem_ctx, &sw->file);
	}
	if (r < 0) {
		vac__st(&sw->state, VAC__SWAP_OFF);
		return r;
	}
	for (uint32_t i = 0; vac__ld_rlx(&sw->nr_bad) && i < sw->nr_slots; i++)
		if (vac__ld_rlx(&sw->slot[i].count) & VAC__SLOT_BAD) {
			vac__st_rlx(&sw->slot[i].count, 0);
			give_back(sw, i);
		}
	vac__st_rlx(&sw->nr_bad, 0);
	sw->nr_slots = (uint32_t)slots;
	sw->next = 0;
	vac__st_rlx(&sw->nr_asked, 0);
	vac__st(&sw->state, VAC__SWAP_ON);
	return 0;
}

int vac_swap_on(struct vac_pool *pool, const struct vac_swap_opts *opts)
{
	struct vac_swap_opts o = {.size = sizeof(o), .fd = -1};
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!opts || opts->size < sizeof(size_t) || opts->size > sizeof(o))
		return -EINVAL;
	memcpy(&o, opts, opts->size);
	if (o.fd < 0 || o.flags)
		return -EINVAL;
	VAC__ENTER();
	r = swap_on(pool, &o);
	VAC__LEAVE();
	return r;
}

/*
 * Bring what one slot stands for back to where it is mapped. 0: it is free, or bad. -EAGAIN: not yet, look
 * again. wait: for a folio that is locked; then nothing is held.
 */
int vac__swap_bring(struct vac_pool *pool, uint32_t slot, bool wait)
{
	struct vac__slot *sl = slot_of(pool, slot);
	uint32_t c = vac__ld(&sl->cache), ticket;
	struct vac__swapin in = {.slot[0] = slot, .n = 1};
	int r;

	if (c == 0) {
		if (counted(sl) == 0)
			return 0;
		r = vac__swapin_fill(pool, NULL, &in, sl->family, sl->index);
		if (r == 0)
			r = vac__swapin_read(pool, &in, NULL);
		return r < 0 ? r : -EAGAIN;
	}
	if (vac__folio_wait_prepare(pool, c - 1, &ticket)) {
		if (wait)
			vac__folio_wait(pool, c - 1, ticket);
		return -EAGAIN;
	}
	if (!lock_cached(pool, slot, c - 1))
		return -EAGAIN;
	vac__swap_map_all(pool, c - 1);
	/* An entry may have been copied meanwhile: it is found the next time. */
	if (counted(sl) == 0) {
		vac__swap_drop_unlock(pool, c - 1);
		return -EAGAIN;
	}
	vac__folio_unlock(pool, c - 1);
	return -EAGAIN;
}

static int swap_off(struct vac_pool *pool, uint64_t deadline_ns)
{
	struct vac__swap *sw = &pool->swap;
	uint32_t was = VAC__SWAP_ON;
	uint64_t away = 0;
	int r = 0;

	vac__lock(&sw->lock, VAC__RANK_SWAP);
	if (!vac__cas(&sw->state, &was, VAC__SWAP_ENDING))
		r = was == VAC__SWAP_OFF ? -EALREADY : -EBUSY;
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	if (r < 0)
		return r;
	/* No slot is taken from here on. A look at whether it can be done, before a byte moves. */
	for (uint32_t slot = 0; slot < sw->nr_slots; slot++)
		away += counted(&sw->slot[slot]) && !vac__ld_rlx(&sw->slot[slot].cache);
	if (away > vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv))
		r = -ENOMEM;
	for (uint32_t slot = 0; slot < sw->nr_slots && r == 0; slot++) {
		do {
			r = vac__swap_bring(pool, slot, true);
			if (r == -EAGAIN && deadline_ns && vac__port_now() >= deadline_ns)
				r = -ETIMEDOUT;
		} while (r == -EAGAIN);
	}
	if (r < 0) {
		vac__st(&sw->state, VAC__SWAP_ON);
		return r;
	}
	vac__reclaim_stop(pool);
	pool->mem->swap_close(pool->mem_ctx, &sw->file);
	vac__st(&sw->state, VAC__SWAP_OFF);
	return 0;
}

int vac_swap_off(struct vac_pool *pool, int64_t timeout_ms)
{
	uint64_t deadline = 0;
	int r;

	if (vac__port_forked())
		return -EPERM;
	VAC__ENTER();
	if (timeout_ms > 0)
		deadline = vac__port_now() + (uint64_t)timeout_ms * 1000000;
	r = swap_off(pool, deadline);
	VAC__LEAVE();
	return r;
}

/* SPDX-License-Identifier: MIT */
/*
 * The frame allocator: a buddy system of orders 0 to 9 for each zone, and reservations.
 *
 * Invariants, all under the zone lock:
 *  - A free chunk lies inside one pageblock: its head has F_BUDDY and its order, its other frames no
 *    flag. It is on its zone's list unless its pageblock is isolated: then it is on none, so that
 *    nothing in an isolated pageblock is ever handed out (I6), and what is freed there stays there.
 *  - A chunk of order 9 may be virgin: the host has not given its memory yet. Any smaller chunk and
 *    any reservation lies in a populated pageblock. Populating is slow and is done outside the lock by
 *    the one who has taken the whole pageblock.
 *  - A reservation is a pageblock of which base folios of one vpb take the frames of their own
 *    offsets (after FreeBSD's superpage reservations, Navarro et al., OSDI 2002): host mappings
 *    stay linear and merge, and what leaves together arrives together. Frames not yet used have
 *    F_RESV; they are given to others, oldest reservation first, when nothing else is free.
 *    Compaction gives them to others too, one by one (gather_alloc): the frame goes back to the
 *    reservation when it is freed.
 *  - A frame in quarantine is on no list and part of no chunk (quarantine.c).
 *  - total = free + reserved + isolated + quarantined + used, by count.
 */
#include "internal.h"

static uint32_t flags_of(struct vac_pool *pool, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(pool, pfn)->flags);
}

static void set_flags(struct vac_pool *pool, uint32_t pfn, uint32_t flags)
{
	vac__st_rlx(&vac__frame(pool, pfn)->flags, flags);
}

static struct vac__pb *pb_of(struct vac_pool *pool, uint32_t pfn)
{
	return &pool->pbs[pfn >> VAC__PB_ORDER];
}

/* Counters are read without the lock by statistics; written under it. */
static void count(_Atomic uint64_t *c, int64_t n)
{
	vac__st_rlx(c, vac__ld_rlx(c) + (uint64_t)n);
}

/* ---- Lists ---------------------------------------------------------------------------------- */

static struct vac__free_list *list_of(struct vac_pool *pool, uint32_t pfn, unsigned order)
{
	return &pool->free[pb_of(pool, pfn)->zone][order];
}

static uint32_t next_of(struct vac_pool *pool, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(pool, pfn)->next);
}

static void set_next(struct vac_pool *pool, uint32_t pfn, uint32_t next)
{
	vac__st_rlx(&vac__frame(pool, pfn)->next, next);
}

static uint32_t prev_of(struct vac_pool *pool, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(pool, pfn)->prev);
}

static void set_prev(struct vac_pool *pool, uint32_t pfn, uint32_t prev)
{
	vac__st_rlx(&vac__frame(pool, pfn)->prev, prev);
}

/* Chunks that the host has filled go to the front: they are reused before new memory is touched. Last
 * comes what compaction is about to empty. */
static void link_chunk(struct vac_pool *pool, uint32_t pfn, unsigned order)
{
	struct vac__free_list *l = list_of(pool, pfn, order);
	bool last = vac__ld_rlx(&pb_of(pool, pfn)->populated) == VAC__PB_VIRGIN ||
		    pfn >> VAC__PB_ORDER == pool->draining;
	uint32_t prev = last ? l->tail : VAC__NO_PFN, next = last ? VAC__NO_PFN : l->head;

	set_prev(pool, pfn, prev);
	set_next(pool, pfn, next);
	if (prev == VAC__NO_PFN)
		l->head = pfn;
	else
		set_next(pool, prev, pfn);
	if (next == VAC__NO_PFN)
		l->tail = pfn;
	else
		set_prev(pool, next, pfn);
	if (order == VAC__PB_ORDER)
		count(&pool->nr_pb_free, 1);
}

static void unlink_chunk(struct vac_pool *pool, uint32_t pfn, unsigned order)
{
	struct vac__free_list *l = list_of(pool, pfn, order);
	uint32_t prev = prev_of(pool, pfn), next = next_of(pool, pfn);

	if (prev == VAC__NO_PFN)
		l->head = next;
	else
		set_next(pool, prev, next);
	if (next == VAC__NO_PFN)
		l->tail = prev;
	else
		set_prev(pool, next, prev);
	if (order == VAC__PB_ORDER)
		count(&pool->nr_pb_free, -1);
}

/* ---- Chunks --------------------------------------------------------------------------------- */

/* Make [pfn, pfn + 2^order) free, merged with its buddies. */
static void free_chunk(struct vac_pool *pool, uint32_t pfn, unsigned order)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	pb->nr_free = (uint16_t)(pb->nr_free + (1u << order));
	count(pb->isolated ? &pool->nr_isolated : &pool->nr_free, (int64_t)1 << order);
	for (; order < VAC__PB_ORDER; order++) {
		uint32_t buddy = pfn ^ (UINT32_C(1) << order);

		if ((flags_of(pool, buddy) & (VAC__F_KIND | VAC__F_ORDER)) !=
		    (VAC__F_BUDDY | order))
			break;
		if (!pb->isolated)
			unlink_chunk(pool, buddy, order);
		set_flags(pool, buddy, 0);
		pfn &= ~(UINT32_C(1) << order);
	}
	set_flags(pool, pfn, VAC__F_BUDDY | order);
	if (order == VAC__PB_ORDER)
		vac__st_rlx(&pb->grouped, false);
	if (!pb->isolated)
		link_chunk(pool, pfn, order);
}

/* Take a chunk of exactly this order off its list, no longer free. */
static void take_chunk(struct vac_pool *pool, uint32_t pfn, unsigned order)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	VAC__DEBUG_ASSERT(!pb->isolated);
	unlink_chunk(pool, pfn, order);
	set_flags(pool, pfn, 0);
	pb->nr_free = (uint16_t)(pb->nr_free - (1u << order));
	count(&pool->nr_free, -((int64_t)1 << order));
}

/* A whole free pageblock of these zones, movable memory first. VAC__NO_PFN if there is none. */
static uint32_t take_pageblock(struct vac_pool *pool, unsigned zones)
{
	for (unsigned z = 0; z < 2; z++) {
		uint32_t pfn = zones >> z & 1 ? pool->free[z][VAC__PB_ORDER].head : VAC__NO_PFN;

		if (pfn != VAC__NO_PFN) {
			take_chunk(pool, pfn, VAC__PB_ORDER);
			return pfn;
		}
	}
	return VAC__NO_PFN;
}

/* One frame out of a chunk smaller than a pageblock. */
static uint32_t take_small(struct vac_pool *pool, unsigned zones)
{
	for (unsigned z = 0; z < 2; z++) {
		for (unsigned order = 0; order < VAC__PB_ORDER && zones >> z & 1; order++) {
			uint32_t pfn = pool->free[z][order].head;

			if (pfn == VAC__NO_PFN)
				continue;
			take_chunk(pool, pfn, order);
			for (; order > 0; order--)
				free_chunk(pool, pfn + (UINT32_C(1) << (order - 1)), order - 1);
			return pfn;
		}
	}
	return VAC__NO_PFN;
}

/* Have the host fill a virgin pageblock that the caller has taken. Called without the zone lock. */
static int populate(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pb *pb = pb_of(pool, pfn);
	struct vac__block *b = vac__pfn_block(pool, pfn);
	size_t off = vac__pfn_off(pool, pfn);
	int r;

	if (vac__ld_rlx(&pb->populated) != VAC__PB_VIRGIN)
		return 0;
	r = pool->mem->block_populate(pool->mem_ctx, &b->backing, off);
	if (r < 0)
		return -ENOMEM;
	vac__st_rlx(&pb->populated, r ? VAC__PB_HUGE : VAC__PB_BASE);
	if (r == 0 && !(pool->opts.flags & VAC_POOL_NO_HUGE) && vac__xchg(&pool->said_base, 1) == 0)
		vac__log(pool, VAC_LOG_INFO,
			 "the host gives no 2 MiB page: faults and migrations will cost more where "
			 "pageblocks are filled by 4 KiB ones");
	vac__stat_add(r ? &pool->nr_pb_huge : &pool->nr_pb_base, 1);
	return 0;
}

/* ---- Reservations --------------------------------------------------------------------------- */

static void resv_link(struct vac_pool *pool, uint32_t n)
{
	struct vac__pb *pb = &pool->pbs[n];

	pb->resv_next = VAC__NO_PFN;
	pb->resv_prev = pool->resv.tail;
	if (pool->resv.tail == VAC__NO_PFN)
		pool->resv.head = n;
	else
		pool->pbs[pool->resv.tail].resv_next = n;
	pool->resv.tail = n;
}

static void resv_unlink(struct vac_pool *pool, uint32_t n)
{
	struct vac__pb *pb = &pool->pbs[n];

	if (pb->resv_prev == VAC__NO_PFN)
		pool->resv.head = pb->resv_next;
	else
		pool->pbs[pb->resv_prev].resv_next = pb->resv_next;
	if (pb->resv_next == VAC__NO_PFN)
		pool->resv.tail = pb->resv_prev;
	else
		pool->pbs[pb->resv_next].resv_prev = pb->resv_prev;
}

/* Turn a pageblock that was taken, and populated, into the reservation of a vpb. */
static void resv_make(struct vac_pool *pool, uint32_t pfn, struct vac_space *s, uint32_t vpb)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	pb->resv_space = s->id + 1;
	pb->resv_vpb = vpb;
	pb->nr_resv = VAC__PB_PAGES;
	count(&pool->nr_resv, VAC__PB_PAGES);
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
		set_flags(pool, pfn + i, VAC__F_RESV);
	s->resv[vpb] = (pfn >> VAC__PB_ORDER) + 1;
	resv_link(pool, pfn >> VAC__PB_ORDER);
}

/* End a reservation: what it kept is free for all, what is used stays used. */
static void resv_break(struct vac_pool *pool, uint32_t n)
{
	struct vac__pb *pb = &pool->pbs[n];
	struct vac_space *s = vac__ld_rlx(&pool->spaces[pb->resv_space - 1]);

	s->resv[pb->resv_vpb] = 0;
	pb->resv_space = 0;
	resv_unlink(pool, n);
	count(&pool->nr_resv, -(int64_t)pb->nr_resv);
	pb->nr_resv = 0;
	for (uint32_t i = 0, pfn = n << VAC__PB_ORDER; i < VAC__PB_PAGES; i++, pfn++) {
		if (!(flags_of(pool, pfn) & VAC__F_RESV))
			continue;
		set_flags(pool, pfn, 0);
		free_chunk(pool, pfn, 0);
	}
}

/* The oldest one of these zones. */
static bool break_oldest(struct vac_pool *pool, unsigned zones)
{
	uint32_t n = pool->resv.head;

	while (n != VAC__NO_PFN && !(zones >> pool->pbs[n].zone & 1))
		n = pool->pbs[n].resv_next;
	if (n != VAC__NO_PFN)
		resv_break(pool, n);
	return n != VAC__NO_PFN;
}

/* The frame that the reservation of this page keeps for it, or VAC__NO_PFN. */
static uint32_t resv_take(struct vac_pool *pool, struct vac_space *s, uint32_t page, unsigned zones)
{
	uint32_t slot = s->resv[page >> VAC__PB_ORDER];
	uint32_t pfn;

	if (!slot || slot - 1 == pool->draining || !(zones >> pool->pbs[slot - 1].zone & 1))
		return VAC__NO_PFN;
	pfn = ((slot - 1) << VAC__PB_ORDER) + page % VAC__PB_PAGES;
	if (!(flags_of(pool, pfn) & VAC__F_RESV))
		return VAC__NO_PFN;
	pool->pbs[slot - 1].nr_resv--;
	count(&pool->nr_resv, -1);
	return pfn;
}

/* The addresses [first_vpb, +nr_vpbs) are about to be given up: end their reservations. */
void vac__resv_forget(struct vac_pool *pool, struct vac_space *s, uint32_t first_vpb,
		      uint32_t nr_vpbs)
{
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	for (uint32_t v = first_vpb; v < first_vpb + nr_vpbs; v++)
		if (s->resv[v])
			resv_break(pool, s->resv[v] - 1);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* ---- Folios --------------------------------------------------------------------------------- */

/* From taken frames to a folio with one reference, the caller's. */
static void become_base(struct vac_pool *pool, uint32_t pfn)
{
	set_flags(pool, pfn, VAC__F_BASE);
	set_next(pool, pfn, VAC__NO_PFN); /* which is its family: none yet */
	vac__st(&vac__frame(pool, pfn)->word, VAC__W_REF);
}

static void become_huge(struct vac_pool *pool, uint32_t pfn)
{
	for (uint32_t i = 1; i < VAC__PB_PAGES; i++)
		set_flags(pool, pfn + i, VAC__F_TAIL);
	set_flags(pool, pfn, VAC__F_HEAD);
	set_next(pool, pfn, VAC__NO_PFN);
	vac__st(&vac__frame(pool, pfn)->word, VAC__W_REF);
}

/* A huge folio with one reference, of these zones. Blocks while the host fills the memory. -ENOMEM. */
int vac__huge_alloc_in(struct vac_pool *pool, unsigned zones, bool want_zero, uint32_t *pfn)
{
	bool fresh;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	*pfn = take_pageblock(pool, zones);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	if (*pfn == VAC__NO_PFN) {
		vac__compactor_wake(pool);
		return -ENOMEM;
	}
	fresh = vac__ld_rlx(&pb_of(pool, *pfn)->populated) == VAC__PB_VIRGIN;
	if (populate(pool, *pfn) < 0) {
		vac__lock(&pool->zone, VAC__RANK_ZONE);
		free_chunk(pool, *pfn, VAC__PB_ORDER);
		vac__unlock(&pool->zone, VAC__RANK_ZONE);
		vac__progress(pool);
		return -ENOMEM;
	}
	if (want_zero && !fresh)
		memset(vac__frame_addr(pool, *pfn), 0, VAC_PAGEBLOCK_BYTES);
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	become_huge(pool, *pfn);
	if (zones == VAC__ZONE_BIT(VAC_ZONE_NORMAL))
		vac__st_rlx(&pb_of(pool, *pfn)->grouped, true);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	return 0;
}

int vac__huge_alloc(struct vac_pool *pool, bool want_zero, uint32_t *pfn)
{
	return vac__huge_alloc_in(pool, VAC__ZONES_ALL, want_zero, pfn);
}

/*
 * A whole pageblock for small things, populated; the zone lock is held, and dropped meanwhile.
 * VAC__NO_PFN if there is none or the host has no memory for it.
 */
static uint32_t take_populated(struct vac_pool *pool, unsigned zones)
{
	for (;;) {
		uint32_t pfn = take_pageblock(pool, zones);
		int r;

		if (pfn == VAC__NO_PFN ||
		    vac__ld_rlx(&pb_of(pool, pfn)->populated) != VAC__PB_VIRGIN)
			return pfn;
		vac__unlock(&pool->zone, VAC__RANK_ZONE);
		r = populate(pool, pfn);
		vac__lock(&pool->zone, VAC__RANK_ZONE);
		if (r == 0 && !pb_of(pool, pfn)->isolated)
			return pfn;
		/* Isolated meanwhile: it must not become anybody's small things. */
		free_chunk(pool, pfn, VAC__PB_ORDER);
		if (r < 0)
			return VAC__NO_PFN;
		vac__progress(pool);
	}
}

/*
 * A base folio with one reference for this page of a space: from the page's reservation, else from
 * a new one, else any frame, breaking reservations oldest first. Contents undefined. -ENOMEM. s NULL: any
 * frame. In these zones.
 */
int vac__base_alloc_in(struct vac_pool *pool, unsigned zones, struct vac_space *s, uint32_t page,
		       uint32_t *out)
{
	uint32_t vpb = page >> VAC__PB_ORDER;
	uint32_t pfn, pb;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	pfn = s ? resv_take(pool, s, page, zones) : VAC__NO_PFN;
	if (pfn == VAC__NO_PFN && s && !s->resv[vpb]) {
		pb = take_populated(pool, zones);
		/* While the lock was dropped another thread may have made the reservation. */
		if (pb != VAC__NO_PFN && s->resv[vpb])
			free_chunk(pool, pb, VAC__PB_ORDER);
		else if (pb != VAC__NO_PFN)
			resv_make(pool, pb, s, vpb);
		pfn = resv_take(pool, s, page, zones);
	}
	if (pfn == VAC__NO_PFN)
		pfn = take_small(pool, zones);
	while (pfn == VAC__NO_PFN && break_oldest(pool, zones))
		pfn = take_small(pool, zones);
	if (pfn == VAC__NO_PFN) {
		pb = take_populated(pool, zones);
		if (pb != VAC__NO_PFN) {
			for (unsigned order = VAC__PB_ORDER; order > 0; order--)
				free_chunk(pool, pb + (UINT32_C(1) << (order - 1)), order - 1);
			pfn = pb;
		}
	}
	if (pfn != VAC__NO_PFN)
		become_base(pool, pfn);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	*out = pfn;
	return pfn == VAC__NO_PFN ? -ENOMEM : 0;
}

int vac__base_alloc(struct vac_pool *pool, struct vac_space *s, uint32_t page, uint32_t *out)
{
	return vac__base_alloc_in(pool, VAC__ZONES_ALL, s, page, out);
}

/* ---- For compaction -------------------------------------------------------------------------- */

/* Free what was taken, [head, head + 2^order), but for one frame. */
static void free_but(struct vac_pool *pool, uint32_t head, unsigned order, uint32_t pfn)
{
	while (order-- > 0) {
		uint32_t half = head + (UINT32_C(1) << order);

		free_chunk(pool, pfn < half ? half : head, order);
		head = pfn < half ? head : half;
	}
}

/* Take one frame out of a chunk smaller than a pageblock, or away from the reservation that keeps it. */
static bool take_frame(struct vac_pool *pool, uint32_t pfn)
{
	uint32_t head = pfn;
	unsigned order = 0;

	if (flags_of(pool, pfn) & VAC__F_RESV) {
		pb_of(pool, pfn)->nr_resv--;
		count(&pool->nr_resv, -1);
		return true;
	}
	while ((flags_of(pool, head) & (VAC__F_KIND | VAC__F_ORDER)) != (VAC__F_BUDDY | order)) {
		if (++order == VAC__PB_ORDER)
			return false;
		head = pfn & ~((UINT32_C(1) << order) - 1);
	}
	take_chunk(pool, head, order);
	free_but(pool, head, order, pfn);
	return true;
}

/* Does this pageblock take in what leaves `source`? It has room, is in use already, and is of a zone
 * that pages of the source may be in. */
static bool takes_in(const struct vac_pool *pool, uint32_t n, uint32_t source)
{
	const struct vac__pb *pb = &pool->pbs[n];
	uint32_t room = (uint32_t)pb->nr_free + pb->nr_resv;

	return pb->online && !pb->isolated && room &&
	       room + vac__ld_rlx(&pb->nr_quar) < VAC__PB_PAGES &&
	       (pb->zone == VAC_ZONE_MOVABLE || pb->zone == pool->pbs[source].zone);
}

/* The frame at this offset of the target pageblock, else the next free one. */
static uint32_t take_in_target(struct vac_pool *pool, struct vac__gather *g, uint32_t offset)
{
	uint32_t first = g->target << VAC__PB_ORDER;

	if (take_frame(pool, first + offset))
		return first + offset;
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++) {
		uint32_t k = (g->at + i) % VAC__PB_PAGES;

		if (!take_frame(pool, first + k))
			continue;
		g->at = k + 1;
		return first + k;
	}
	return VAC__NO_PFN;
}

/*
 * A base folio for this page that lies in neither an empty pageblock nor one that is yet to be emptied:
 * where its reservation keeps it, else in the target, at its own offset if that is free. The free
 * scanner goes down when a pageblock is full. -ENOMEM: it has met the source.
 */
int vac__gather_alloc(struct vac_pool *pool, struct vac__gather *g, struct vac_space *s,
		      uint32_t page, uint32_t *out)
{
	uint32_t pfn = VAC__NO_PFN, kept;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	kept = s->resv[page >> VAC__PB_ORDER];
	if (kept && (kept - 1 < g->source || kept - 1 >= g->target) &&
	    takes_in(pool, kept - 1, g->source))
		pfn = resv_take(pool, s, page, VAC__ZONES_ALL);
	while (pfn == VAC__NO_PFN && g->target > g->source) {
		if (takes_in(pool, g->target, g->source))
			pfn = take_in_target(pool, g, page % VAC__PB_PAGES);
		if (pfn == VAC__NO_PFN) {
			g->target--;
			g->at = 0;
		}
	}
	if (pfn != VAC__NO_PFN)
		become_base(pool, pfn);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	*out = pfn;
	return pfn == VAC__NO_PFN ? -ENOMEM : 0;
}

/* ---- For long-term pins ----------------------------------------------------------------------- */

/* Has this pageblock, which is one for them, a frame left? */
static bool takes_long(const struct vac_pool *pool, uint32_t n)
{
	const struct vac__pb *pb = &pool->pbs[n];

	return pb->online && vac__ld_rlx(&pb->grouped) && !pb->isolated &&
	       pb->zone == VAC_ZONE_NORMAL && pb->nr_free;
}

/* A pageblock that takes the next one: the last that did, or another. The zone lock is held. */
static bool find_long(struct vac_pool *pool)
{
	if (pool->long_pb != VAC__NO_PFN && takes_long(pool, pool->long_pb))
		return true;
	for (uint32_t id = 0; id < pool->max_blocks; id++) {
		if (vac__ld_rlx(&pool->blocks[id].state) <= VAC_BLOCK_OFFLINE + 1)
			continue;
		for (uint32_t k = 0; k < pool->pb_per_block; k++) {
			pool->long_pb = id * pool->pb_per_block + k;
			if (takes_long(pool, pool->long_pb))
				return true;
		}
	}
	pool->long_pb = VAC__NO_PFN;
	return false;
}

/*
 * A base folio of normal memory for a page that is pinned for long, beside others of its kind: so they
 * spoil few pageblocks. At the page's offset if that is free. -ENOMEM.
 */
int vac__long_alloc(struct vac_pool *pool, uint32_t page, uint32_t *out)
{
	uint32_t pfn = VAC__NO_PFN, pb;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	if (find_long(pool)) {
		struct vac__gather g = {.target = pool->long_pb};

		pfn = take_in_target(pool, &g, page % VAC__PB_PAGES);
	}
	if (pfn == VAC__NO_PFN) {
		pb = take_populated(pool, VAC__ZONE_BIT(VAC_ZONE_NORMAL));
		if (pb != VAC__NO_PFN) {
			pfn = pb + page % VAC__PB_PAGES;
			free_but(pool, pb, VAC__PB_ORDER, pfn);
			vac__st_rlx(&pb_of(pool, pb)->grouped, true);
			pool->long_pb = pb >> VAC__PB_ORDER;
		}
	}
	if (pfn != VAC__NO_PFN)
		become_base(pool, pfn);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	*out = pfn;
	return pfn == VAC__NO_PFN
		       ? vac__base_alloc_in(pool, VAC__ZONE_BIT(VAC_ZONE_NORMAL), NULL, page, out)
		       : 0;
}

/* How many frames the free scanner finds above the source, counted up to `want`. */
uint32_t vac__gather_room(struct vac_pool *pool, const struct vac__gather *g, uint32_t want)
{
	uint32_t room = 0;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	for (uint32_t n = g->target; n > g->source && room < want; n--)
		if (takes_in(pool, n, g->source))
			room += (uint32_t)pool->pbs[n].nr_free + pool->pbs[n].nr_resv;
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	return room;
}

/* How many frames are in use of a pageblock of this zone that could be given to others when it is empty; 0:
 * none, or it could not. */
uint32_t vac__frames_sparse(struct vac_pool *pool, uint32_t n, unsigned zone)
{
	const struct vac__pb *pb = &pool->pbs[n];
	uint32_t used = 0;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	if (pb->online && pb->zone == zone && !pb->isolated && vac__ld_rlx(&pb->nr_quar) == 0)
		used = VAC__PB_PAGES - pb->nr_free - pb->nr_resv;
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	return used;
}

/* All frames of the pageblock are one folio from now on: a reservation there has served. */
void vac__resv_end(struct vac_pool *pool, uint32_t pfn)
{
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	if (pb_of(pool, pfn)->resv_space)
		resv_break(pool, pfn >> VAC__PB_ORDER);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* A frame that was a base folio is free, or kept for its neighbours again. */
static void free_base(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	if (!pb->resv_space) {
		set_flags(pool, pfn, 0);
		free_chunk(pool, pfn, 0);
		return;
	}
	set_flags(pool, pfn, VAC__F_RESV);
	pb->nr_resv++;
	count(&pool->nr_resv, 1);
	if (pb->nr_resv == VAC__PB_PAGES)
		resv_break(pool, pfn >> VAC__PB_ORDER);
}

/* Give back a folio whose counts are 0, or which the caller holds frozen. */
void vac__folio_free(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint64_t w;
	uint32_t kind;

	if (flags_of(pool, pfn) & VAC__F_FOREIGN) {
		vac__folio_quarantine(pool, pfn, false);
		return;
	}
	w = vac__xchg(&f->word, 0);
	VAC__DEBUG_ASSERT(!(w & VAC__W_POISON));
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	count(&pool->nr_freed, 1);
	kind = flags_of(pool, pfn) & VAC__F_KIND;
	if (kind == VAC__F_HEAD) {
		for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
			set_flags(pool, pfn + i, 0);
		free_chunk(pool, pfn, VAC__PB_ORDER);
	} else {
		VAC__DEBUG_ASSERT(kind == VAC__F_BASE);
		free_base(pool, pfn);
	}
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	vac__gate_wake(pool, pfn, w);
	vac__progress(pool);
}

/* As vac__folio_free() of a folio held frozen, but somebody may still read or write its frames. sums:
 * there are records of what was copied. */
void vac__folio_quarantine(struct vac_pool *pool, uint32_t pfn, bool sums)
{
	struct vac__pb *pb = pb_of(pool, pfn);
	uint64_t w = vac__xchg(&vac__frame(pool, pfn)->word, 0);
	uint32_t n;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	n = flags_of(pool, pfn) & VAC__F_HEAD ? VAC__PB_PAGES : 1;
	for (uint32_t i = 0; i < n; i++) {
		vac__st(&pool->watch[pfn + i].sums, sums);
		set_flags(pool, pfn + i, VAC__F_QUAR);
	}
	vac__st_rlx(&pb->nr_quar, (uint16_t)(vac__ld_rlx(&pb->nr_quar) + n));
	count(&pool->nr_quar, n);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	vac__gate_wake(pool, pfn, w);
	vac__progress(pool);
}

/* The free chunks of an isolated pageblock, as offset << 4 | order; answers how many. */
unsigned vac__frames_free(struct vac_pool *pool, uint32_t pfn, uint32_t *chunks)
{
	unsigned n = 0;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	for (uint32_t i = 0, step; i < VAC__PB_PAGES; i += step) {
		uint32_t fl = flags_of(pool, pfn + i);

		step = fl & VAC__F_BUDDY ? UINT32_C(1) << (fl & VAC__F_ORDER) : 1;
		if (fl & VAC__F_BUDDY)
			chunks[n++] = i << 4 | (fl & VAC__F_ORDER);
	}
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	return n;
}

/* Take the free chunk of an isolated pageblock that pfn is in apart; answers where it ends. */
static uint32_t withhold_chunk(struct vac_pool *pool, uint32_t pfn, uint32_t end)
{
	struct vac__pb *pb = pb_of(pool, pfn);
	unsigned order = 0;
	uint32_t head;

	for (;; order++) {
		VAC__ASSERT(order <= VAC__PB_ORDER);
		head = pfn & ~((UINT32_C(1) << order) - 1);
		if ((flags_of(pool, head) & (VAC__F_BUDDY | VAC__F_ORDER)) ==
		    (VAC__F_BUDDY | order))
			break;
	}
	set_flags(pool, head, 0);
	pb->nr_free = (uint16_t)(pb->nr_free - (1u << order));
	count(&pool->nr_isolated, -((int64_t)1 << order));
	for (uint32_t i = head; i < head + (UINT32_C(1) << order); i++) {
		if (i < pfn || i >= end) {
			free_chunk(pool, i, 0);
			continue;
		}
		vac__st(&pool->watch[i].sums, 0);
		set_flags(pool, i, VAC__F_QUAR);
		vac__st_rlx(&pb->nr_quar, (uint16_t)(vac__ld_rlx(&pb->nr_quar) + 1));
		count(&pool->nr_quar, 1);
	}
	return head + (UINT32_C(1) << order);
}

/* Frames [pfn, pfn + n) of an isolated pageblock, all free, go to quarantine. */
void vac__frames_withhold(struct vac_pool *pool, uint32_t pfn, uint32_t n)
{
	uint32_t end = pfn + n;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	VAC__ASSERT(pb_of(pool, pfn)->isolated);
	while (pfn < end)
		pfn = withhold_chunk(pool, pfn, end);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* Frames [pfn, pfn + n) of one pageblock, all in quarantine, are free. */
void vac__frames_release(struct vac_pool *pool, uint32_t pfn, uint32_t n)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	vac__st_rlx(&pb->nr_quar, (uint16_t)(vac__ld_rlx(&pb->nr_quar) - n));
	count(&pool->nr_quar, -(int64_t)n);
	count(&pool->nr_freed, 1);
	for (uint32_t i = 0; i < n; i++) {
		VAC__DEBUG_ASSERT(flags_of(pool, pfn + i) & VAC__F_QUAR);
		free_base(pool, pfn + i);
	}
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	vac__progress(pool);
}

/* Drop one ref, pin or map; free the folio with the last. */
void vac__folio_put(struct vac_pool *pool, uint32_t pfn, uint64_t unit)
{
	uint64_t w = vac__w_put(&vac__frame(pool, pfn)->word, unit);

	VAC__DEBUG_ASSERT(!(w & VAC__W_POISON));
	if (vac__w_free(w) && !(w & VAC__W_FROZEN))
		vac__folio_free(pool, pfn);
	else
		vac__progress(pool);
}

/* ---- Hotplug: one pageblock a call ---------------------------------------------------------- */

void vac__frames_online(struct vac_pool *pool, uint32_t pfn, enum vac_zone zone)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	memset(pb, 0, sizeof(*pb));
	pb->zone = (uint8_t)zone;
	pb->online = true;
	count(zone == VAC_ZONE_MOVABLE ? &pool->nr_movable : &pool->nr_normal, VAC__PB_PAGES);
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++) {
		set_flags(pool, pfn + i, 0);
		vac__st(&vac__frame(pool, pfn + i)->word, 0);
	}
	count(&pool->nr_total, VAC__PB_PAGES);
	count(&pool->nr_freed, 1);
	free_chunk(pool, pfn, VAC__PB_ORDER);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* All frames are free, and isolated: take them out of the counts for good. */
void vac__frames_offline(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	VAC__ASSERT(pb->isolated && pb->nr_free + vac__ld_rlx(&pb->nr_quar) == VAC__PB_PAGES);
	count(&pool->nr_isolated, -(int64_t)pb->nr_free);
	count(&pool->nr_quar, -(int64_t)vac__ld_rlx(&pb->nr_quar));
	count(&pool->nr_total, -(int64_t)VAC__PB_PAGES);
	if (vac__ld_rlx(&pb->populated) != VAC__PB_VIRGIN)
		vac__sub(vac__ld_rlx(&pb->populated) == VAC__PB_HUGE ? &pool->nr_pb_huge
								     : &pool->nr_pb_base,
			 1);
	count(pb->zone == VAC_ZONE_MOVABLE ? &pool->nr_movable : &pool->nr_normal,
	      -(int64_t)VAC__PB_PAGES);
	memset(pb, 0, sizeof(*pb));
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++) {
		set_flags(pool, pfn + i, 0);
		vac__st(&vac__frame(pool, pfn + i)->word, VAC__W_POISON);
	}
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* Put every free chunk of a pageblock on, or off, its list. */
static void relink(struct vac_pool *pool, uint32_t pfn, bool on)
{
	for (uint32_t i = 0; i < VAC__PB_PAGES;) {
		uint32_t fl = flags_of(pool, pfn + i);
		unsigned order = fl & VAC__F_ORDER;

		if (!(fl & VAC__F_BUDDY)) {
			i++;
			continue;
		}
		if (on)
			link_chunk(pool, pfn + i, order);
		else
			unlink_chunk(pool, pfn + i, order);
		i += UINT32_C(1) << order;
	}
}

void vac__frames_isolate(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	VAC__ASSERT(pb->online && !pb->isolated);
	if (pb->resv_space)
		resv_break(pool, pfn >> VAC__PB_ORDER);
	relink(pool, pfn, false);
	pb->isolated = true;
	count(&pool->nr_free, -(int64_t)pb->nr_free);
	count(&pool->nr_isolated, pb->nr_free);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

void vac__frames_unisolate(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pb *pb = pb_of(pool, pfn);

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	VAC__ASSERT(pb->online && pb->isolated);
	pb->isolated = false;
	relink(pool, pfn, true);
	count(&pool->nr_free, pb->nr_free);
	count(&pool->nr_isolated, -(int64_t)pb->nr_free);
	count(&pool->nr_freed, 1);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/*
 * Compaction begins to empty a pageblock, or is through with it (VAC__NO_PFN). Meanwhile its frames are
 * the last to be taken, and its reservation does not grow: but nothing is refused for its sake.
 */
void vac__frames_drain(struct vac_pool *pool, uint32_t n)
{
	vac__lock(&pool->zone, VAC__RANK_ZONE);
	pool->draining = n;
	if (n != VAC__NO_PFN) {
		relink(pool, n << VAC__PB_ORDER, false);
		relink(pool, n << VAC__PB_ORDER, true);
	}
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
}

/* Frames in use of a pageblock, those in quarantine not counted; two other counts if asked for. */
uint32_t vac__frames_used(struct vac_pool *pool, uint32_t pfn, uint32_t *nr_free, uint32_t *nr_resv)
{
	struct vac__pb *pb = pb_of(pool, pfn);
	uint32_t f, r, q;

	vac__lock(&pool->zone, VAC__RANK_ZONE);
	f = pb->nr_free;
	r = pb->nr_resv;
	q = vac__ld_rlx(&pb->nr_quar);
	vac__unlock(&pool->zone, VAC__RANK_ZONE);
	if (nr_free)
		*nr_free = f;
	if (nr_resv)
		*nr_resv = r;
	return VAC__PB_PAGES - f - r - q;
}

/* SPDX-License-Identifier: MIT */
/*
 * Foreign holders and the frames that they keep from us.
 *
 * A program may hand pool memory to the kernel without a pin: direct I/O, a ring's registered buffers,
 * a pipe, a socket. The kernel then holds the frame, not the address, and writes or reads that frame
 * whatever a space shows meanwhile. Against that stand, in this order:
 *
 *	the look before the copy	Once a page is write-protected nobody can take it for writing any
 *		more, so if the platform proves that nobody holds the source at one moment after that, no
 *		byte can come late. Somebody does: the folio stays where it is, and is tried again.
 *	the look at a block that stays	What was taken for reading between that look and the replacement
 *		must find its bytes until it lets go. While the block is on its way out nothing is placed
 *		in it, and in the end the platform certifies it; only if it stays, its free frames are
 *		looked at, and those held are kept, in quarantine, and used for nothing.
 *	where the platform cannot tell	every source is kept, with a sum of each eighth of every page as
 *		it was copied. What is written late is found by comparing when the platform has certified
 *		that nobody holds the block any more, and carried over to where the page is now, where
 *		the destination still has what was copied; else it is named, in the report and the log.
 *
 * Invariants:
 *  - A frame in quarantine (F_QUAR) is on no list and is counted by its pageblock's nr_quar only. It
 *    goes back to use when the platform has proven that nobody holds it; with sums, only by the
 *    certificate for its whole block, and after the comparison.
 *  - armed: the record of a frame says which page it was copied for. Set in the step that publishes
 *    that page, under its ptl; taken back by vac__watch_forget() before the page's addresses can show
 *    anything else. So bytes are never carried into what has been mapped there since.
 *  - A late byte is carried with the destination write-protected, frozen and the same as when it was
 *    copied, all at one moment.
 *  - Everything but vac__watch_forget() runs under the hotplug lock.
 */
#include <stdio.h>

#include "internal.h"

#define SECTOR (VAC_PAGE_BYTES / VAC__SECTORS)

static uint32_t pages_of(const struct vac__mig_item *it)
{
	return it->huge ? VAC__PB_PAGES : 1;
}

static struct vac__backing *backing_of(struct vac_pool *pool, uint32_t pfn, size_t *off)
{
	*off = vac__pfn_off(pool, pfn);
	return &vac__pfn_block(pool, pfn)->backing;
}

/* ---- The looks -------------------------------------------------------------------------------- */

static void *shown_at(struct vac_pool *pool, const struct vac__mig_item *it)
{
	struct vac__rwlock *lock = &pool->families[it->family].lock;
	struct vac_space *s;
	void *at = NULL;

	vac__rdlock(lock, VAC__RANK_RMAP);
	for (s = vac__rmap_first(pool, it->family); s && !at; s = s->next_in_family)
		if (it->index < s->pages && vac__e_pfn(vac__entry_get(s, it->index)) == it->src)
			at = vac__page_addr(s, it->index);
	vac__rdunlock(lock, VAC__RANK_RMAP);
	return at;
}

/* How many items from the first on take frames and pages that follow one another. */
static unsigned linear(const struct vac__mig_item *it, unsigned n)
{
	unsigned k = 1;

	while (k < n && !it->huge && it[k].dst != VAC__NO_PFN && it[k].src == it->src + k &&
	       it[k].index == it->index + k)
		k++;
	return k;
}

/* Ask about the sources of items[0..n), which take linear frames; the answers are in watch. */
static void look(struct vac_pool *pool, struct vac__mig_item *it, unsigned n)
{
	size_t bytes = (size_t)n * pages_of(it) << VAC__PAGE_SHIFT, off, at = 0, page;
	struct vac__backing *b = backing_of(pool, it->src, &off);
	uint8_t *shown = shown_at(pool, it);
	bool shared = vac__ld_rlx(&pool->pbs[it->src >> VAC__PB_ORDER].populated) == VAC__PB_HUGE;

	for (unsigned k = 0; k < n; k++)
		it[k].watch = VAC__WATCH_NONE;
	while (at < bytes) {
		int r = pool->mem->held(pool->mem_ctx, b, off + at, bytes - at,
					shown ? shown + at : NULL, &page);
		unsigned k;

		pool->looked |= r >= 0;
		if (r == 0)
			return;
		if (r < 0) {
			for (k = it->huge ? 0 : (unsigned)(at >> VAC__PAGE_SHIFT); k < n; k++)
				it[k].watch = VAC__WATCH_SUMS;
			return;
		}
		vac__stat_add(&pool->c.foreign_held, 1);
		/* Where one host page is beneath all of them, it is held as a whole. */
		k = it->huge || shared ? 0 : (unsigned)((page - off) >> VAC__PAGE_SHIFT);
		VAC__DEBUG_ASSERT(k < n);
		it[k].watch = VAC__WATCH_HELD;
		if (it->huge)
			return;
		for (k++; shared && k < n; k++)
			it[k].watch = VAC__WATCH_HELD;
		at = (size_t)k << VAC__PAGE_SHIFT;
	}
}

/* Before the copy: no page can be taken for writing any more. Those that somebody holds fail. */
void vac__look_before(struct vac_pool *pool, struct vac__mig_item *items, unsigned n)
{
	unsigned step;

	for (unsigned k = 0; k < n; k += step) {
		struct vac__mig_item *it = &items[k];

		step = 1;
		it->watch = VAC__WATCH_NONE;
		if (it->dst == VAC__NO_PFN)
			continue;
		step = linear(it, n - k);
		look(pool, it, step);
		for (unsigned i = 0; i < step; i++)
			if (it[i].watch == VAC__WATCH_HELD)
				it[i].err = -VAC__EHELD;
		VAC__SYNC("looked", it->src);
	}
}

/* A chunk of free frames of a block that stays: those that somebody holds are for nobody. */
static void look_at_chunk(struct vac_pool *pool, uint32_t pfn, uint32_t frames)
{
	size_t off, bytes = (size_t)frames << VAC__PAGE_SHIFT, at = 0, page;
	struct vac__backing *b = backing_of(pool, pfn, &off);
	bool shared = vac__ld_rlx(&pool->pbs[pfn >> VAC__PB_ORDER].populated) == VAC__PB_HUGE;

	while (at < bytes) {
		int r = pool->mem->held(pool->mem_ctx, b, off + at, bytes - at, NULL, &page);
		uint32_t k = (uint32_t)(at >> VAC__PAGE_SHIFT), end = frames;

		if (r == 0)
			return;
		if (r > 0 && !shared) {
			k = (uint32_t)((page - off) >> VAC__PAGE_SHIFT);
			end = k + 1;
		}
		if (r > 0)
			vac__stat_add(&pool->c.foreign_held, 1);
		vac__frames_withhold(pool, pfn + k, end - k);
		at = (size_t)end << VAC__PAGE_SHIFT;
	}
}

/*
 * The block does not leave after all, and what is free in it will be used again: nothing leads there any
 * more, but what somebody has taken for reading, between the look and the replacement, he may hold
 * still. If the platform no longer tells, all of it is kept. Not where it has not told before: then
 * every source is in quarantine already.
 */
void vac__look_at_return(struct vac_pool *pool, int id)
{
	uint32_t first = vac__block_pfn(pool, id);

	for (uint32_t k = 0; k < pool->pb_per_block && pool->looked; k++) {
		uint32_t pfn = first + k * VAC__PB_PAGES;
		unsigned n;

		if (vac__ld_rlx(&pool->pbs[pfn >> VAC__PB_ORDER].populated) == VAC__PB_VIRGIN)
			continue;
		n = vac__frames_free(pool, pfn, pool->scratch);
		for (unsigned i = 0; i < n; i++)
			look_at_chunk(pool, pfn + (pool->scratch[i] >> 4),
				      UINT32_C(1) << (pool->scratch[i] & 15));
	}
}

/*
 * The pages of these linear frames were just unmapped, for good. Those that somebody holds still, a
 * pipe for instance, go to quarantine when their folio is freed. Where the platform cannot tell, that
 * is a limit which vacate.h states: there, what is unmapped is taken for free.
 */
void vac__look_at_drop(struct vac_pool *pool, uint32_t pfn, uint32_t frames)
{
	size_t off, bytes = (size_t)frames << VAC__PAGE_SHIFT, at = 0, page;
	struct vac__backing *b = backing_of(pool, pfn, &off);
	bool shared = vac__ld_rlx(&pool->pbs[pfn >> VAC__PB_ORDER].populated) == VAC__PB_HUGE;

	while (at < bytes &&
	       pool->mem->held(pool->mem_ctx, b, off + at, bytes - at, NULL, &page) == 1) {
		uint32_t k = shared ? (uint32_t)(at >> VAC__PAGE_SHIFT)
				    : (uint32_t)((page - off) >> VAC__PAGE_SHIFT);
		uint32_t end = shared ? frames : k + 1;

		vac__stat_add(&pool->c.foreign_held, 1);
		for (; k < end; k++)
			vac__or(&vac__frame(pool, pfn + k)->flags, VAC__F_FOREIGN);
		at = (size_t)k << VAC__PAGE_SHIFT;
	}
}

/* ---- Sums ------------------------------------------------------------------------------------- */

/* Copy, and keep the sums of what has arrived: a source that is written between the copy and the sum, or
 * in the midst of it, then differs from its sum. */
void vac__watch_copy(struct vac_pool *pool, uint32_t src, uint32_t dst, uint32_t pages)
{
	for (uint32_t i = 0; i < pages; i++)
		vac__port_copy_sums(vac__frame_addr(pool, dst + i), vac__frame_addr(pool, src + i),
				    pool->watch[src + i].sum);
}

/* The page of this item shows the destination from now on, in this space, and perhaps in others later in
 * its family. Its ptl is held. */
void vac__watch_arm(struct vac_space *s, const struct vac__mig_item *it)
{
	struct vac_pool *pool = s->pool;

	vac__st(&vac__pfn_block(pool, it->src)->watched, 1); /* before forget() may look */
	for (uint32_t i = 0; i < pages_of(it); i++) {
		struct vac__watch *w = &pool->watch[it->src + i];

		if (vac__ld_rlx(&w->armed))
			continue;
		vac__st_rlx(&w->family, it->family);
		vac__st_rlx(&w->space, s->id);
		vac__st_rlx(&w->index, it->index + i);
		vac__add(&pool->nr_watched, 1);
		vac__st(&w->armed, 1);
	}
}

static void disarm(struct vac_pool *pool, uint32_t pfn)
{
	if (vac__xchg(&pool->watch[pfn].armed, 0))
		vac__sub(&pool->nr_watched, 1);
}

/*
 * Pages [first, end) of a space are dropped: what comes late for them is nobody's. The space's and the
 * family's locks are held for write, so no page of them is being published.
 */
void vac__watch_forget(struct vac_space *s, uint32_t first, uint32_t end)
{
	struct vac_pool *pool = s->pool;

	if (vac__ld(&pool->nr_watched) == 0)
		return;
	for (uint32_t id = 0; id < pool->max_blocks; id++) {
		uint32_t pfn = vac__block_pfn(pool, (int)id);

		if (vac__ld(&pool->blocks[id].state) <= VAC_BLOCK_OFFLINE + 1 ||
		    !vac__ld(&pool->blocks[id].watched))
			continue;
		for (uint32_t i = 0; i < UINT32_C(1) << pool->block_shift; i++) {
			struct vac__watch *w = &pool->watch[pfn + i];

			if (vac__ld(&w->armed) && vac__ld_rlx(&w->space) == s->id &&
			    vac__ld_rlx(&w->index) >= first && vac__ld_rlx(&w->index) < end)
				disarm(pool, pfn + i);
		}
	}
}

/* ---- Carrying over ---------------------------------------------------------------------------- */

struct carry {
	struct vac_pool *pool;
	uint32_t pfn;    /* of the source */
	uint32_t page;   /* within the destination's folio */
	unsigned late;   /* sectors that differ from what was copied: bits */
	unsigned missed; /* of these, those whose destination has changed too */
};

/* The destination is frozen and write-protected: compare and write at one moment. */
static void carry_sectors(void *arg, uint32_t dst)
{
	struct carry *c = arg;
	struct vac__watch *w = &c->pool->watch[c->pfn];
	char *to = vac__frame_addr(c->pool, dst + c->page);
	const char *from = vac__frame_addr(c->pool, c->pfn);
	uint64_t now[VAC__SECTORS];

	if (!vac__ld(&w->armed)) {
		c->late = 0; /* dropped while we were on our way */
		return;
	}
	vac__port_sums(to, now);
	for (unsigned i = 0; i < VAC__SECTORS; i++) {
		if (!(c->late >> i & 1))
			continue;
		if (now[i] == w->sum[i])
			memcpy(to + i * SECTOR, from + i * SECTOR, SECTOR);
		else
			c->missed |= 1u << i;
	}
}

/* The folio that shows a page now, and the page's place in it. False: nothing does; *slot: it is out. */
static bool where_is(struct vac_pool *pool, const struct vac__watch *w, uint32_t *pfn,
		     uint32_t *place, uint32_t *slot)
{
	uint32_t family = vac__ld_rlx(&w->family), index = vac__ld_rlx(&w->index);
	struct vac__rwlock *lock = &pool->families[family].lock;
	struct vac_space *s;
	uint64_t e = 0;

	*pfn = VAC__NO_PFN;
	*place = 0;
	*slot = VAC__NO_SLOT;
	vac__rdlock(lock, VAC__RANK_RMAP);
	s = vac__rmap_find(pool, family, vac__ld_rlx(&w->space));
	if (s && index < s->pages) {
		uint32_t vpb = index >> VAC__PB_ORDER;

		vac__ptl_lock(s, vpb);
		e = vac__entry_get(s, index);
		*pfn = vac__e_pfn(e);
		if (vac__e_swap(e)) {
			*slot = *pfn;
			*pfn = VAC__NO_PFN;
		} else if (e && (vac__ld_rlx(vac__pmd(s, vpb)) & VAC__E_TYPE) != VAC__E_TABLE) {
			*place = index % VAC__PB_PAGES;
			*pfn -= *place;
		}
		vac__ptl_unlock(s, vpb);
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
	return *pfn != VAC__NO_PFN && e != 0;
}

/* Is the page that wants this frame's late bytes pinned now? */
bool vac__watch_pinned(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__watch *w = &pool->watch[pfn];
	uint32_t dst, place, slot;

	return vac__ld(&w->armed) && where_is(pool, w, &dst, &place, &slot) &&
	       vac__w_pins(vac__ld(&vac__frame(pool, dst)->word)) != 0;
}

static void name_lost(struct vac_pool *pool, const struct carry *c)
{
	struct vac__watch *w = &pool->watch[c->pfn];
	struct vac__mig_item it = {.family = vac__ld_rlx(&w->family),
				   .index = vac__ld_rlx(&w->index)};
	struct vac_space *s = NULL;
	char name[VAC_NAME_MAX] = "", msg[160];
	uintptr_t base = 0;

	vac__rdlock(&pool->families[it.family].lock, VAC__RANK_RMAP);
	s = vac__rmap_find(pool, it.family, vac__ld_rlx(&w->space));
	if (s) {
		memcpy(name, s->name, sizeof(name));
		base = (uintptr_t)s->base;
	}
	vac__rdunlock(&pool->families[it.family].lock, VAC__RANK_RMAP);
	for (unsigned i = 0, n; i < VAC__SECTORS; i += n) {
		uintptr_t at = base + ((uintptr_t)it.index << VAC__PAGE_SHIFT) + i * SECTOR;

		n = 1;
		if (!(c->missed >> i & 1))
			continue;
		while (i + n < VAC__SECTORS && c->missed >> (i + n) & 1)
			n++;
		vac__stat_add(&pool->c.late_lost, n * SECTOR);
		snprintf(
			msg, sizeof(msg),
			"late foreign write lost: space %s, %u bytes at %#llx were written both by the "
			"program and, late, by an unpinned transfer",
			name, (unsigned)(n * SECTOR), (unsigned long long)at);
		vac__log(pool, VAC_LOG_ERROR, msg);
		if (pool->nr_lost++ >= VAC__LOST_MAX)
			continue;
		memcpy(pool->lost[pool->nr_lost - 1].space, name, sizeof(name));
		pool->lost[pool->nr_lost - 1].addr = at;
		pool->lost[pool->nr_lost - 1].bytes = n * SECTOR;
		pool->lost[pool->nr_lost - 1].pfn = c->pfn;
	}
}

/* 0: nothing came late, or it is carried over or named. Negative: the destination is held. */
static int carry_page(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__watch *w = &pool->watch[pfn];
	struct carry c = {.pool = pool, .pfn = pfn};
	uint64_t now[VAC__SECTORS];
	uint32_t dst, slot;
	int r;

	vac__port_sums(vac__frame_addr(pool, pfn), now);
	for (unsigned i = 0; i < VAC__SECTORS; i++)
		c.late |= (unsigned)(now[i] != w->sum[i]) << i;
	/* Somebody else may be at the folio for a moment; a pin may stay. */
	for (int tries = 0; c.late && vac__ld(&w->armed); tries++) {
		uint32_t family = vac__ld_rlx(&w->family), index = vac__ld_rlx(&w->index);

		r = -EAGAIN;
		if (where_is(pool, w, &dst, &c.page, &slot))
			r = vac__folio_edit(pool, dst, family, index - c.page, carry_sectors, &c);
		else if (slot != VAC__NO_SLOT) /* out: in with it, then look again */
			r = vac__swap_bring(pool, slot, false);
		if (r == 0 && slot == VAC__NO_SLOT)
			break;
		if (tries == 100)
			return r;
		vac__port_relax();
	}
	if (c.late && vac__ld(&w->armed)) {
		if (c.missed)
			name_lost(pool, &c);
		for (unsigned i = 0; i < VAC__SECTORS; i++)
			if ((c.late & ~c.missed) >> i & 1)
				vac__stat_add(&pool->c.late_carried, SECTOR);
	}
	disarm(pool, pfn);
	return 0;
}

/*
 * The platform has certified that nobody holds the block: compare every source with what was copied.
 * readable: the block's memory can be read. Negative: a page that has late bytes is held, by a pin as
 * a rule; what was done stays done.
 */
int vac__watch_settle(struct vac_pool *pool, int id, bool readable)
{
	struct vac__block *b = &pool->blocks[id];
	uint32_t pfn = vac__block_pfn(pool, id), n = UINT32_C(1) << pool->block_shift;
	int ret = 0;

	if (!vac__ld(&b->watched))
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		struct carry all = {.pool = pool,
				    .pfn = pfn + i,
				    .late = (1u << VAC__SECTORS) - 1,
				    .missed = (1u << VAC__SECTORS) - 1};

		if (!vac__ld(&pool->watch[pfn + i].armed))
			continue;
		if (readable) {
			int r = carry_page(pool, pfn + i);

			ret = r < 0 ? r : ret;
			continue;
		}
		name_lost(pool, &all);
		disarm(pool, pfn + i);
	}
	if (ret < 0)
		return ret;
	vac__st(&b->watched, 0);
	if (((size_t)n * sizeof(*pool->watch)) % VAC_PAGE_BYTES == 0)
		vac__port_meta_discard(&pool->watch[pfn], n * sizeof(*pool->watch));
	return 0;
}

/* Frames kept only because somebody was reading them, in blocks that did not leave after all: give
 * those back to use that nobody holds any more. */
void vac__quarantine_release(struct vac_pool *pool)
{
	for (uint32_t id = 0; id < pool->max_blocks; id++) {
		uint32_t pfn = vac__block_pfn(pool, (int)id);

		if (vac__ld(&pool->blocks[id].state) != VAC_BLOCK_ONLINE + 1)
			continue;
		for (uint32_t k = 0; k < pool->pb_per_block; k++) {
			uint32_t first = pfn + k * VAC__PB_PAGES, n;

			if (!vac__ld_rlx(&pool->pbs[first >> VAC__PB_ORDER].nr_quar))
				continue;
			for (uint32_t i = 0; i < VAC__PB_PAGES; i += n) {
				struct vac__backing *b;
				size_t off, at;

				n = 1;
				if (!(vac__ld(&vac__frame(pool, first + i)->flags) & VAC__F_QUAR) ||
				    vac__ld(&pool->watch[first + i].sums))
					continue;
				while (i + n < VAC__PB_PAGES &&
				       (vac__ld(&vac__frame(pool, first + i + n)->flags) &
					VAC__F_QUAR) &&
				       !vac__ld(&pool->watch[first + i + n].sums))
					n++;
				b = backing_of(pool, first + i, &off);
				if (pool->mem->held(pool->mem_ctx, b, off,
						    (size_t)n << VAC__PAGE_SHIFT, NULL, &at) == 0)
					vac__frames_release(pool, first + i, n);
			}
		}
	}
}

/* The same for who holds no lock; not if somebody works on blocks until the deadline. True: there is less in
 * quarantine than there was. */
bool vac__quarantine_try(struct vac_pool *pool, uint64_t deadline_ns)
{
	uint64_t before = vac__ld(&pool->nr_quar);

	if (!before || !vac__lock_until(&pool->hotplug, VAC__RANK_HOTPLUG, deadline_ns))
		return false;
	vac__quarantine_release(pool);
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	return vac__ld(&pool->nr_quar) < before;
}

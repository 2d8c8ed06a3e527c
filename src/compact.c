/* SPDX-License-Identifier: MIT */
/*
 * Compaction: whole free pageblocks out of scattered free frames (mm/compaction.c of Linux).
 *
 * Two scanners over the pageblocks of frames. The migrate scanner goes up from the lowest and empties
 * sparse pageblocks; the free scanner (frame.c, vac__gather_alloc) goes down from the highest and finds
 * places in pageblocks that are in use. Where they meet a pass ends. Passes begin with the emptiest
 * pageblocks, which give most for a byte copied, and let in fuller ones as they go on. Pages keep their
 * offset within a pageblock where it is free there, so that pages of one vpb stay linear.
 *
 * A pass empties pageblocks of one zone, movable memory first: what leaves that stays in it, what leaves normal
 * memory may go to both, so where the free scanner has found no room for the one there may be room for the
 * other.
 *
 * Invariants:
 *  - Below the free scanner nothing is filled by us, above the migrate scanner nothing was emptied in
 *    this pass: each page moves at most once a pass.
 *  - Nothing is kept from allocations meanwhile: the pageblock in hand is the last to be used, that is
 *    all. So compaction makes no call fail that would not fail without it.
 *  - It is done a pageblock a time, with the hotplug lock held, as a migration in an offline is; between
 *    two of them whoever waits for that lock gets it.
 *  - A pageblock with a pin, a foreign holder or somebody at work in it cannot become free: it is left
 *    alone before a byte is copied, and nobody's pins are gated.
 *  - Sources are used again at once, so where the platform cannot tell who holds a page nothing is moved.
 */
#include "internal.h"

struct compact {
	struct vac_pool *pool;
	struct vac_compact_opts opts;
	struct vac_compact_result res;
	struct vac__mig_stats st;
	struct vac__gather g;
	uint64_t deadline_ns;
	const _Atomic uint32_t *stop; /* may be NULL */
	unsigned share;               /* of a processor, in percent; 0: all of it */
	bool may_move;
};

static bool over(const struct compact *c)
{
	return (c->stop && vac__ld(c->stop)) ||
	       (c->deadline_ns && vac__port_now() >= c->deadline_ns);
}

static bool enough(const struct compact *c)
{
	return c->opts.target && vac__ld_rlx(&c->pool->nr_pb_free) >= c->opts.target;
}

/* ---- One step: with the hotplug lock, and then others' turn ----------------------------------- */

static bool step_begin(struct compact *c, uint64_t *start)
{
	if (over(c) || !vac__lock_until(&c->pool->hotplug, VAC__RANK_HOTPLUG, c->deadline_ns))
		return false;
	*start = vac__port_now();
	return true;
}

static void step_end(struct compact *c, uint64_t start)
{
	_Atomic uint32_t nobody = 0;
	/* 2: perhaps somebody waits. A lock that is taken again at once is never his. */
	bool wanted = vac__ld_rlx(&c->pool->hotplug.v) == 2;
	uint64_t now = vac__port_now(), pause = wanted ? 200000 : 0;

	vac__unlock(&c->pool->hotplug, VAC__RANK_HOTPLUG);
	if (c->share)
		pause += (now - start) * (100 - c->share) / c->share;
	if (c->stop && pause)
		vac__port_wait(c->stop, 0, now + pause);
	else if (pause)
		vac__port_wait(&nobody, 0, now + pause);
}

/* ---- Gathering -------------------------------------------------------------------------------- */

static void note(struct compact *c, int err)
{
	if (err == -EBUSY)
		c->res.skipped_pinned++;
	else if (err == -VAC__EHELD)
		c->res.skipped_foreign++;
	else if (err == -ENOMEM || err == -ENOBUFS)
		c->res.skipped_no_room++;
	else
		c->res.skipped_busy++;
}

/* Pick all folios of a pageblock. Fewer than there are, and *err: one of them cannot leave now. */
static unsigned pick(struct compact *c, uint32_t pfn, int *err)
{
	struct vac_pool *pool = c->pool;
	unsigned n = 0;

	*err = 0;
	for (uint32_t end = pfn + VAC__PB_PAGES; pfn < end && *err == 0; pfn++) {
		struct vac__frame *f = vac__frame(pool, pfn);
		int r;

		if (vac__w_pins(vac__ld(&f->word))) {
			*err = -EBUSY;
			break;
		}
		r = vac__folio_isolate(pool, pfn);
		if (r == -ENOENT)
			continue;
		if (r < 0) {
			*err = -EAGAIN;
			break;
		}
		pool->batch[n].pins = 0;
		pool->batch[n++].src = pfn;
		if (vac__ld_rlx(&f->flags) & VAC__F_HEAD)
			*err = -EAGAIN;
	}
	return n;
}

/* Empty one pageblock. The hotplug lock is held. */
static void drain(struct compact *c)
{
	struct vac_pool *pool = c->pool;
	const struct vac__mig_aim aim = {.gather = &c->g, .huge = VAC__NO_PFN};
	uint32_t pfn = c->g.source << VAC__PB_ORDER;
	uint64_t copied = c->st.bytes;
	unsigned n;
	int err;

	vac__frames_drain(pool, c->g.source);
	n = pick(c, pfn, &err);
	if (err == 0)
		vac__migrate_to(pool, pool->batch, n, VAC__MIG_ASYNC, &c->st, &aim);
	for (unsigned i = 0; i < n; i++) {
		struct vac__mig_item *it = &pool->batch[i];

		/* Locked by another, or held for a moment: once more, alone. */
		if (err == 0 && (it->err == -EAGAIN || it->err == -VAC__EHELD))
			vac__migrate_to(pool, it, 1, VAC__MIG_SYNC, &c->st, &aim);
		if (err == 0 && it->err == 0)
			continue;
		if (err == 0)
			note(c, it->err);
		vac__folio_putback(pool, it->src);
	}
	if (err)
		note(c, err);
	else if (vac__frames_used(pool, pfn, NULL, NULL) == 0)
		c->res.pageblocks_freed++;
	vac__frames_drain(pool, VAC__NO_PFN);
	vac__stat_add(&pool->c.gathered, (c->st.bytes - copied) >> VAC__PAGE_SHIFT);
	VAC__SYNC("drained", pfn);
}

/* The highest pageblock of an online block. */
static bool highest(struct vac_pool *pool, uint32_t *n)
{
	for (uint32_t id = pool->max_blocks; id-- > 0;) {
		if (vac__ld(&pool->blocks[id].state) != VAC_BLOCK_ONLINE + 1)
			continue;
		*n = (id + 1) * pool->pb_per_block - 1;
		return true;
	}
	return false;
}

/* One pass over pageblocks of a zone with at most so many frames in use. */
static void pass(struct compact *c, uint32_t most, enum vac_zone zone)
{
	struct vac_pool *pool = c->pool;
	uint32_t room =
		UINT32_MAX; /* of the free scanner, once it was too little: it only gets less */
	uint64_t start;

	c->g.at = 0;
	if (!highest(pool, &c->g.target))
		return;
	for (c->g.source = 0; c->g.source < c->g.target && !enough(c); c->g.source++) {
		uint32_t id = c->g.source / pool->pb_per_block, used;

		if (vac__ld(&pool->blocks[id].state) != VAC_BLOCK_ONLINE + 1) {
			c->g.source = (id + 1) * pool->pb_per_block - 1;
			continue;
		}
		/* Looked at without the hotplug lock, so that what is not worth it costs nobody a turn; and
		 * again under it. */
		used = vac__frames_sparse(pool, c->g.source, zone);
		if (used == 0 || used > most)
			continue;
		if (used > room) {
			c->res.skipped_no_room++;
			continue;
		}
		if (!step_begin(c, &start))
			return;
		if (vac__ld(&pool->nr_quar))
			vac__quarantine_release(pool);
		used = vac__frames_sparse(pool, c->g.source, zone);
		if (used && used <= most) {
			uint32_t found = vac__gather_room(pool, &c->g, used);

			if (found >= used) {
				drain(c);
			} else {
				room = found;
				c->res.skipped_no_room++;
			}
		}
		step_end(c, start);
	}
}

static void gather(struct compact *c)
{
	static const uint8_t eighths[] = {1, 2, 4, 6, 8};
	uint32_t limit = c->opts.max_used_pct ? c->opts.max_used_pct : 75;

	limit = (uint32_t)VAC__PB_PAGES * limit / 100;
	for (unsigned i = 0; i < sizeof(eighths) && !over(c) && !enough(c); i++) {
		uint32_t most = VAC__PB_PAGES * eighths[i] / 8;
		bool last = most >= limit;

		most = last ? limit : most;
		if (most == VAC__PB_PAGES)
			most--;
		pass(c, most, VAC_ZONE_MOVABLE);
		if (vac__ld_rlx(&c->pool->nr_normal) && !over(c) && !enough(c))
			pass(c, most, VAC_ZONE_NORMAL);
		if (last)
			break;
	}
}

/* ---- Collapsing ------------------------------------------------------------------------------- */

#define LOOKS 65536u /* pageblocks of addresses that are looked at before others get a turn */

/* Where a walk over a space is. */
struct at {
	uint32_t vpb;
	uint32_t vma; /* a guess: an index near it */
};

enum next { NEXT_VPB, NEXT_TURN, NEXT_NONE };

/*
 * The first vpb from at->vpb on that lies wholly in a mapping and has a table. The space's lock is held;
 * the mappings may have changed since the last call.
 */
static enum next candidate(struct vac_space *s, struct at *at)
{
	uint32_t i = at->vma < s->nr_vmas ? at->vma : s->nr_vmas, looks = LOOKS;

	while (i > 0 && s->vmas[i - 1].end > (uint64_t)at->vpb * VAC__PB_PAGES)
		i--;
	for (; i < s->nr_vmas; i++) {
		const struct vac__vma *m = &s->vmas[i];
		uint32_t v = (m->start + VAC__PB_PAGES - 1) >> VAC__PB_ORDER;

		at->vma = i;
		if (looks-- == 0)
			return NEXT_TURN;
		if (m->nohuge || !m->prot)
			continue;
		for (v = v > at->vpb ? v : at->vpb; v < m->end >> VAC__PB_ORDER; v++) {
			at->vpb = v;
			if (looks == 0)
				return NEXT_TURN;
			looks--;
			if ((vac__ld_rlx(vac__pmd(s, v)) & VAC__E_TYPE) == VAC__E_TABLE)
				return NEXT_VPB;
		}
	}
	return NEXT_NONE;
}

static void note_collapse(struct compact *c, int r)
{
	if (r == VAC__COLLAPSED_IN_PLACE)
		c->res.collapsed_in_place++;
	else if (r == VAC__COLLAPSED_BY_COPY)
		c->res.collapsed_by_copy++;
	else if (r == -EDOM)
		c->res.skipped_sparse++;
	else if (r == -ENOSPC)
		c->res.skipped_no_room++;
	else if (r != -ENOENT)
		note(c, r);
}

/* The next vpb of a space. The hotplug lock is held. False: there is none. */
static bool collapse_next(struct compact *c, struct vac_space *s, struct at *at, bool copy)
{
	bool spare = vac__ld_rlx(&c->pool->nr_pb_free) > c->opts.target;
	enum next next;
	int r;

	vac__rdlock(&s->lock, VAC__RANK_SPACE);
	next = candidate(s, at);
	if (next == NEXT_VPB) {
		r = vac__collapse(s, at->vpb++, c->opts.max_missing, copy && spare, &c->st);
		/* What only a copy helps is told once, by the turn that copies. */
		if (r > 0 || copy == c->may_move)
			note_collapse(c, r);
	}
	vac__rdunlock(&s->lock, VAC__RANK_SPACE);
	return next != NEXT_NONE;
}

/* Every vpb of every space. copy: of those too that lie scattered, while whole pageblocks are left over.
 * A space is held for one step only, so that destroying it never waits for an offline. */
static void collapse(struct compact *c, bool copy)
{
	struct vac_space *s;
	uint64_t start;

	for (uint32_t id = 0; id < VAC__MAX_SPACES; id++) {
		struct at at = {0};
		bool more = vac__ld(&c->pool->spaces[id]) != NULL;

		while (more && step_begin(c, &start)) {
			s = vac__space_get(c->pool, id);
			more = s && collapse_next(c, s, &at, copy);
			if (s)
				vac__space_put(s);
			step_end(c, start);
		}
		if (over(c))
			return;
	}
}

/* ---- The whole -------------------------------------------------------------------------------- */

static int compact(struct compact *c)
{
	struct vac_pool *pool = c->pool;
	uint32_t what = c->opts.flags;
	int r = 0;

	what = what ? what : VAC_COMPACT_GATHER | VAC_COMPACT_COLLAPSE;
	c->may_move = (pool->opts.flags & VAC_POOL_PINS_ONLY) || pool->mem->sees(pool->mem_ctx);
	c->res.free_before = vac__ld_rlx(&pool->nr_pb_free);
	if (what & VAC_COMPACT_COLLAPSE)
		collapse(c, false); /* costs nothing */
	if ((what & VAC_COMPACT_GATHER) && c->may_move)
		gather(c);
	if ((what & VAC_COMPACT_COLLAPSE) && c->may_move)
		collapse(c, true);
	c->res.free_after = vac__ld_rlx(&pool->nr_pb_free);
	if (c->opts.target && c->res.free_after < c->opts.target)
		r = over(c) ? -ETIMEDOUT : -ENOMEM;
	else if (over(c) && !c->opts.target)
		r = -ETIMEDOUT;
	return r == 0 && !c->may_move && c->res.collapsed_in_place == 0 ? -EOPNOTSUPP : r;
}

int vac_pool_compact(struct vac_pool *pool, const struct vac_compact_opts *opts,
		     struct vac_compact_result *res)
{
	struct compact c = {
		.pool = pool, .opts = {.size = sizeof(c.opts)}, .res = {.size = sizeof(c.res)}};
	uint64_t start;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(c.opts))
			return -EINVAL;
		memcpy(&c.opts, opts, opts->size);
	}
	if ((res && (res->size < sizeof(size_t) || res->size > sizeof(c.res))) ||
	    (c.opts.flags & ~(VAC_COMPACT_GATHER | VAC_COMPACT_COLLAPSE)) ||
	    c.opts.max_used_pct > 100 || c.opts.max_missing >= VAC__PB_PAGES)
		return -EINVAL;
	VAC__ENTER();
	start = vac__port_now();
	if (c.opts.timeout_ms >= 0)
		c.deadline_ns =
			start + (c.opts.timeout_ms ? (uint64_t)c.opts.timeout_ms : 10000) * 1000000;
	r = compact(&c);
	c.res.elapsed_ns = vac__port_now() - start;
	VAC__LEAVE();
	c.res.folios_moved = c.st.base;
	c.res.bytes_moved = c.st.bytes;
	c.res.copy_ns = c.st.copy_ns;
	if (res) {
		c.res.size = res->size;
		memcpy(res, &c.res, res->size);
	}
	return r;
}

/* ---- In the background ------------------------------------------------------------------------ */

#define SHARE 5             /* of a processor, in percent */
#define REST_NS 1000000000u /* between two looks; twice as long each time nothing was gained */
#define REST_DOUBLES 6

/* Frames are free, enough for two pageblocks more, but fewer than 1/32 of the whole ones are. */
static bool short_of_pageblocks(struct vac_pool *pool)
{
	uint64_t frames = vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv);
	uint64_t whole = vac__ld_rlx(&pool->nr_pb_free);
	uint64_t want = vac__ld_rlx(&pool->nr_total) / VAC__PB_PAGES / 32 + 1;

	return whole < want && frames >= (whole + 2) * VAC__PB_PAGES;
}

static void background(void *arg)
{
	struct vac_pool *pool = arg;
	struct vac__compactor *k = &pool->compactor;
	uint64_t splits = 0;
	unsigned futile = 0;

	while (!vac__ld(&k->stop)) {
		uint32_t seen = vac__event_read(&k->wake);
		uint64_t now = vac__ld_rlx(&pool->c.splits);
		struct compact c = {.pool = pool, .stop = &k->stop, .share = SHARE};
		bool lack = short_of_pageblocks(pool), divided = now != splits;

		if (lack) {
			c.opts.target =
				(uint32_t)(vac__ld_rlx(&pool->nr_total) / VAC__PB_PAGES / 32 + 1);
			c.opts.flags = VAC_COMPACT_GATHER;
			compact(&c);
		}
		if (divided) { /* what was split may be whole again */
			c.opts.target = 1;
			c.opts.flags = VAC_COMPACT_COLLAPSE;
			compact(&c);
			splits = now;
		}
		if (c.res.pageblocks_freed + c.res.collapsed_in_place + c.res.collapsed_by_copy)
			futile = 0;
		else if (futile < REST_DOUBLES)
			futile++;
		if (!lack && !divided)
			vac__event_wait(&k->wake, seen, 0);
		/* However often it is asked for. */
		if (!vac__ld(&k->stop))
			vac__port_wait(&k->stop, 0,
				       vac__port_now() + ((uint64_t)REST_NS << futile) / 2);
	}
}

/* Somebody wanted a whole pageblock and there is none, or has divided one. */
void vac__compactor_wake(struct vac_pool *pool)
{
	if (pool->compactor.runs)
		vac__event_signal(&pool->compactor.wake);
}

int vac__compactor_start(struct vac_pool *pool)
{
	int r = vac__port_thread_start("vacate compact", background, pool, &pool->compactor.thread);

	pool->compactor.runs = r == 0;
	return r;
}

void vac__compactor_stop(struct vac_pool *pool)
{
	struct vac__compactor *k = &pool->compactor;

	if (!k->runs)
		return;
	vac__st(&k->stop, 1);
	vac__port_wake(&k->stop, INT_MAX);
	vac__event_signal(&k->wake);
	vac__port_thread_join(k->thread);
	k->runs = false;
}

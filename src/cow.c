/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write: a page of a folio that several spaces show is wanted for oneself, to be written or to be
 * pinned.
 *
 * Who else is there is decided by the map count, and by how many entries name the folio's slot in the swap
 * file, never by references: an offline that has picked the folio, or the swap cache, is no reason to
 * copy, and a pin never was there (Hugh Dickins, "Changing COW detection to be memory hotplug friendly",
 * Feb 2005). One entry is left: the folio is ours as it is.
 * More: whoever is the oldest space of the family keeps the frame, and the others get a copy of the old
 * bytes, so that a program's own memory stays where it is, linear, under its transfers; any other
 * space takes a copy for itself.
 *
 * Invariants:
 *  - an entry without E_EXCL is shown read-only at most. So the bytes of a shared folio do not change,
 *    and a copy needs no writer stopped;
 *  - E_EXCL comes and goes under the folio lock here, goes under the family's lock held for write in
 *    snapshot.c, and new entries for a folio appear only there. With the folio lock and the space's
 *    lock for read, "map count 1, and it is ours" therefore stays true;
 *  - a copy is locked until all who share it show it: before, its map count says too little;
 *  - a slot of the swap file goes with the old bytes: where we keep the frame, the copy takes its place in
 *    the swap cache, and the entries that name the slot find the copy there;
 *  - nobody writes the frame that is kept before every other entry, and the host, show the copy.
 *
 * Locks: the space's for read and the folios' of the window throughout, the first of which the caller
 * brings, others by trylock; the family's for read and one ptl after the other to commit.
 */
#include "internal.h"

struct cow {
	struct vac_pool *pool;
	struct vac_space *s;
	uint32_t page, pfn; /* what is wanted, and its folio */
	uint32_t lo, n;     /* the window: n folios from page lo on */
	uint32_t step;      /* pages of a folio: 1, or all of a pageblock */
	bool push;          /* we keep the frames, the others get the copies */
	bool reuse;         /* nobody else shows the folio: only such folios are in the window */
	bool probe; /* what comes of this pageblock says whether others are foretold rightly */
	uint32_t src[VAC__PB_PAGES], dst[VAC__PB_PAGES];
};

static vac__entry *slot(const struct cow *c, struct vac_space *t, uint32_t i)
{
	uint32_t vpb = c->lo >> VAC__PB_ORDER;
	bool table;

	if (vpb >= t->vpbs)
		return NULL;
	table = (vac__ld_rlx(vac__pmd(t, vpb)) & VAC__E_TYPE) == VAC__E_TABLE;
	if (c->step > 1)
		return table ? NULL : vac__pmd(t, vpb);
	return table ? vac__pte(t, c->lo + i) : NULL;
}

/* The slot of folio i in a space, if it shows that folio. The ptl is held. */
static vac__entry *shows(const struct cow *c, struct vac_space *t, uint32_t i)
{
	vac__entry *p = c->src[i] == VAC__NO_PFN ? NULL : slot(c, t, i);
	uint64_t e = p ? vac__ld_rlx(p) : 0;

	return vac__e_present(e) && vac__e_pfn(e) == c->src[i] ? p : NULL;
}

/* ---- What to do ------------------------------------------------------------------------------- */

/* Host mappings are short, or will be. */
static unsigned pressure(void)
{
	uint64_t used, limit;

	vac__port_vma_usage(&used, &limit);
	return used > limit / 2 ? 2 : used > limit / 4;
}

/* How many pages just before page c->page are ours alone, up to a quarter of the pageblock. Read without
 * a lock: a hint, and what is copied is looked at again. */
static uint32_t written_before(const struct cow *c)
{
	uint32_t n = 0;

	while (n < VAC__PB_PAGES / 4 && (c->page - n) % VAC__PB_PAGES &&
	       (vac__ld_rlx(vac__pte(c->s, c->page - n - 1)) & VAC__E_EXCL))
		n++;
	return n;
}

static bool spare(struct vac_pool *pool)
{
	return vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) > 4 * vac__low_water(pool);
}

/*
 * What is written after a snapshot is what was written after the one before, as a rule: whoever takes one
 * every minute goes on with his work. So where most pageblocks became dense() after the last snapshots, those
 * that are written now are copied whole at the first write, and spare the faults until then. One in
 * VAC__COW_PROBE is not, each time others, and only these are counted then; so a habit that changes is
 * noticed. Read without a lock: which copy is made is nobody's promise.
 */
static bool foretold(struct cow *c)
{
	uint32_t vpb = c->page >> VAC__PB_ORDER;

	if (!vac__ld_rlx(&c->s->cow_whole))
		return false;
	c->probe = (vpb + vac__ld_rlx(&c->s->cow_turn)) % VAC__COW_PROBE == 0;
	return !c->probe && spare(c->pool);
}

/* A snapshot of the space is taken, whose lock is held for write. Few pageblocks say nothing yet. */
void vac__cow_learn(struct vac_space *s)
{
	uint32_t begun = vac__ld_rlx(&s->cow_begun), became = vac__ld_rlx(&s->cow_dense);

	vac__add(&s->cow_turn,
		 1); /* where few pageblocks are written, they are probed too, by and by */
	if (begun < VAC__COW_LEARN)
		return;
	vac__st_rlx(&s->cow_whole, became > begun / 2);
	vac__st_rlx(&s->cow_begun, 0);
	vac__st_rlx(&s->cow_dense, 0);
}

/*
 * So many pages around c->page are ours already, written here and there, that all of the pageblock is to be
 * copied. Where a write costs no host mapping, that is when the faults have taken as long as the copy
 * does: then all together takes twice as long as the better choice would have, at most. Where each costs two of
 * them, and a signal, it is sooner; and half way where others of its kind have been foretold to become dense, as
 * it will be too, then. Only for who has memory to spare.
 */
static bool dense(const struct cow *c)
{
	uint32_t first = c->page - c->page % VAC__PB_PAGES, n = 0;
	uint32_t want = !c->pool->watches ? VAC__COW_DENSE
			: c->probe        ? VAC__COW_DENSE_PROBE
					  : VAC__COW_DENSE_WATCHED;

	for (uint32_t i = 0; i < VAC__PB_PAGES && n < want; i++)
		n += (vac__ld_rlx(vac__pte(c->s, first + i)) & VAC__E_EXCL) != 0;
	if (n == 0)
		vac__add(&c->s->cow_begun, 1);
	if (n < want || !spare(c->pool))
		return false;
	vac__add(&c->s->cow_dense, 1);
	return true;
}

/*
 * The pages to be done with in one go. A page that was written alone is copied alone. One that follows
 * pages already ours is copied with as many after it as there are before it: so at most twice as much
 * is copied as is written in order, and a pageblock takes a dozen faults. Where each run of other rights is
 * a mapping of the host, and a quarter of these are spent, it is a run of 64 KiB at least; and the whole
 * pageblock once half of them are, or where so much of it is ours, or will be. What nobody else shows needs no
 * copy: then all of it that is like that.
 */
static void window(struct cow *c, const struct vac__vma *v)
{
	unsigned scarce = pressure();
	uint32_t u = c->pool->watches || !scarce ? 1 : VAC__COW_PAGES, n = written_before(c), hi;

	if (scarce == 2 || c->reuse || foretold(c) || dense(c))
		u = VAC__PB_PAGES;
	c->lo = c->page - c->page % u;
	hi = c->lo + u;
	if (n > hi - c->page) {
		hi = c->page + n;
		if (hi > (c->page | (VAC__PB_PAGES - 1)) + 1)
			hi = (c->page | (VAC__PB_PAGES - 1)) + 1;
	}
	if (c->lo < v->start)
		c->lo = v->start;
	if (hi > v->end)
		hi = v->end;
	c->n = hi - c->lo;
}

/* One entry, ours. A pin may be counted for a moment, by who had seen the entry while it was exclusive;
 * it looks again, and finds it changed. */
static bool alone(const struct cow *c, uint32_t pfn)
{
	return vac__w_map(vac__ld(&vac__frame(c->pool, pfn)->word)) == 1 &&
	       vac__swap_users(c->pool, pfn) == 0;
}

static void let_go(struct cow *c, uint32_t i)
{
	if (c->dst[i] != VAC__NO_PFN) {
		vac__swap_settle(c->pool, c->dst[i]);
		vac__folio_unlock(c->pool, c->dst[i]);
		vac__folio_put(c->pool, c->dst[i], VAC__W_REF);
	}
	if (c->src[i] != VAC__NO_PFN) {
		vac__swap_settle(c->pool, c->src[i]);
		vac__folio_unlock(c->pool, c->src[i]);
		vac__folio_put(c->pool, c->src[i], VAC__W_REF);
	}
	c->src[i] = c->dst[i] = VAC__NO_PFN;
}

/* Lock the shared folios of the window, but for those that somebody else is at. */
static void collect(struct cow *c)
{
	uint32_t vpb = c->lo >> VAC__PB_ORDER;

	vac__ptl_lock(c->s, vpb);
	for (uint32_t i = 0; i < c->n; i++) {
		uint64_t e = vac__ld_rlx(vac__pte(c->s, c->lo + i));
		uint32_t pfn = vac__e_pfn(e);

		c->src[i] = c->dst[i] = VAC__NO_PFN;
		if (c->lo + i == c->page) {
			c->src[i] = c->pfn;
			continue;
		}
		if (!vac__e_present(e) || (e & VAC__E_EXCL) ||
		    vac__w_try_ref(&vac__frame(c->pool, pfn)->word) < 0)
			continue;
		if (vac__folio_trylock(c->pool, pfn)) {
			c->src[i] = pfn;
			if (c->reuse && !alone(c, pfn))
				let_go(c, i);
		} else {
			vac__folio_put(c->pool, pfn, VAC__W_REF);
		}
	}
	vac__ptl_unlock(c->s, vpb);
}

/*
 * Frames for copies of what is shared. Without one for the page that is wanted, an error; another page is
 * left out. The place of a copy is that of the space that will show it.
 */
static int allocate(struct cow *c)
{
	struct vac__rwlock *lock = &c->pool->families[c->s->family].lock;
	uint32_t at = (c->page - c->lo) / c->step;
	struct vac_space *t;
	int r = 0;

	/* The lock keeps the spaces, whose reservations are used. */
	vac__rdlock(lock, VAC__RANK_RMAP);
	t = vac__rmap_first(c->pool, c->s->family);
	c->push = t == c->s;
	for (; c->push && t; t = t->next_in_family) {
		vac__entry *p = t == c->s ? NULL : slot(c, t, at);
		uint64_t e = p ? vac__ld(p) : 0;

		if (vac__e_present(e) && vac__e_pfn(e) == c->src[at])
			break;
		if (vac__e_swap(e) && vac__e_pfn(e) == vac__swap_slot(c->pool, c->src[at]))
			break;
	}
	if (!t || !c->push)
		t = c->s;
	/* The one that is wanted first: its neighbours are not to take the last frame. */
	for (uint32_t k = 0; k < c->n && r == 0; k++) {
		uint32_t i = k == 0 ? at : k - (k <= at);

		if (c->src[i] == VAC__NO_PFN || alone(c, c->src[i]))
			continue;
		r = c->step > 1 ? vac__huge_alloc(c->pool, false, &c->dst[i])
				: vac__base_alloc(c->pool, t, c->lo + i, &c->dst[i]);
		/* A migration may have picked it in the moment since it was allocated. */
		if (r == 0 && !vac__folio_trylock(c->pool, c->dst[i])) {
			vac__folio_put(c->pool, c->dst[i], VAC__W_REF);
			r = -EAGAIN;
		}
		if (r == 0)
			continue;
		c->dst[i] = VAC__NO_PFN;
		if (i != at) {
			let_go(c, i);
			r = 0;
		}
	}
	vac__rdunlock(lock, VAC__RANK_RMAP);
	return r;
}

static void copy(struct cow *c)
{
	size_t bytes = (size_t)c->step << VAC__PAGE_SHIFT;
	uint32_t k;

	for (uint32_t i = 0; i < c->n; i += k) {
		for (k = 0; i + k < c->n && c->dst[i + k] != VAC__NO_PFN; k++) {
			struct vac__frame *f = vac__frame(c->pool, c->dst[i + k]);

			if (k && (c->dst[i + k] != c->dst[i] + k || c->src[i + k] != c->src[i] + k))
				break;
			vac__st_rlx(&f->family, c->s->family);
			vac__st_rlx(&f->index, c->lo + i + k);
		}
		if (k == 0) {
			k = 1;
			continue;
		}
		vac__port_copy(vac__frame_addr(c->pool, c->dst[i]),
			       vac__frame_addr(c->pool, c->src[i]), k * bytes);
		vac__stat_add(&c->pool->c.cow_copies, k);
		vac__stat_add(&c->pool->c.cow_bytes, k * bytes);
	}
	VAC__SYNC("cow_copied", c->pfn);
}

/* ---- Commit ----------------------------------------------------------------------------------- */

/*
 * Another space shows the copies from now on; the host is told first, and shows nothing there until the
 * next touch. On failure some runs have changed and some have not, which is the same to everybody:
 * the bytes are equal.
 */
static int repoint(struct cow *c, struct vac_space *t)
{
	struct vac_pool *pool = c->pool;
	uint32_t vpb = c->lo >> VAC__PB_ORDER, k;
	int r = 0;

	vac__ptl_lock(t, vpb);
	for (uint32_t i = 0; i < c->n && r == 0; i += k) {
		bool shown = false;

		for (k = 0; i + k < c->n && c->dst[i + k] != VAC__NO_PFN; k++) {
			vac__entry *p = shows(c, t, i + k);
			bool hmap = p && (vac__ld_rlx(p) & VAC__E_HMAP);

			if (!p || (k && hmap != shown))
				break;
			shown = hmap;
		}
		if (k == 0) {
			k = 1;
			continue;
		}
		if (shown)
			r = vac__host_hide(t, c->lo + i, k * c->step);
		for (uint32_t j = i; r == 0 && j < i + k; j++) {
			vac__entry *p = shows(c, t, j);
			uint64_t e = vac__ld_rlx(p) & VAC__E_RIGHTS;

			vac__w_map_get(&vac__frame(pool, c->dst[j])->word);
			vac__xchg(p, vac__e_make(c->dst[j], VAC__E_PRESENT | e));
			vac__folio_put(pool, c->src[j], VAC__W_MAP);
			VAC__SYNC("cow_repointed", c->src[j]);
		}
	}
	vac__ptl_unlock(t, vpb);
	return r;
}

static int give_copies(struct cow *c)
{
	struct vac__rwlock *lock = &c->pool->families[c->s->family].lock;
	int r = 0;

	/* Both are locked: who is sent to the slot by his entry waits. */
	for (uint32_t i = 0; i < c->n; i++) {
		if (c->dst[i] == VAC__NO_PFN || !vac__swapcache(c->pool, c->src[i]))
			continue;
		vac__swap_cache_move(c->pool, c->src[i], c->dst[i]);
		vac__folio_put(c->pool, c->src[i], VAC__W_REF);
	}
	VAC__SYNC("cow_slot_moved", c->pfn);
	vac__rdlock(lock, VAC__RANK_RMAP);
	for (struct vac_space *t = vac__rmap_first(c->pool, c->s->family); t && r == 0;
	     t = t->next_in_family)
		if (t != c->s && slot(c, t, 0))
			r = repoint(c, t);
	vac__rdunlock(lock, VAC__RANK_RMAP);
	return r;
}

/* Our entries are ours alone now: the frames as they are, or the copies. What the host shows follows, and
 * that of the page wanted must. */
static int take(struct cow *c)
{
	struct vac_pool *pool = c->pool;
	uint32_t vpb = c->lo >> VAC__PB_ORDER;
	int r = 0;

	vac__ptl_lock(c->s, vpb);
	for (uint32_t i = 0; i < c->n && r == 0; i++) {
		vac__entry *p = shows(c, c->s, i);
		uint64_t e = p ? vac__ld_rlx(p) : 0;

		if (!p)
			continue;
		if (c->dst[i] == VAC__NO_PFN || c->push) {
			if (e & VAC__E_WRITE)
				vac__swap_own(pool, c->src[i]);
			vac__xchg(p, e | VAC__E_EXCL);
			if (c->dst[i] == VAC__NO_PFN)
				vac__stat_add(&pool->c.cow_reuses, 1);
			continue;
		}
		if (e & VAC__E_HMAP)
			r = vac__host_hide(c->s, c->lo + i, c->step);
		if (r < 0)
			break;
		vac__w_map_get(&vac__frame(pool, c->dst[i])->word);
		vac__xchg(p, vac__e_make(c->dst[i],
					 VAC__E_PRESENT | VAC__E_EXCL | (e & VAC__E_RIGHTS)));
		vac__folio_put(pool, c->src[i], VAC__W_MAP);
	}
	if (r == 0)
		r = vac__host_refresh(c->s, c->page);
	vac__ptl_unlock(c->s, vpb);
	return r;
}

/* The frames are there, or r says why not. */
static int finish(struct cow *c, int r)
{
	bool sharers = false, copied = false;

	if (r == 0) {
		copied = true;
		copy(c);
		for (uint32_t i = 0; i < c->n; i++)
			sharers |= c->dst[i] != VAC__NO_PFN;
		if (c->push && sharers)
			r = give_copies(c);
	}
	if (r == 0)
		r = take(c);
	for (uint32_t i = 0; i < c->n; i++)
		let_go(c, i);
	return r == -ENOMEM && copied ? -ENOBUFS : r;
}

/* A huge folio is cut, unless host mappings are short, or more of it will be written: then all of it is
 * copied, if there is a whole pageblock for it, which reclaim alone would never make. So it is if somebody has
 * picked it for a moment, and it cannot be cut. */
static int unshare_huge(struct cow *c, bool whole)
{
	bool hoped = !whole && foretold(c);
	int r;

	if (alone(c, c->pfn))
		return finish(c, allocate(c));
	if (whole || hoped) {
		r = allocate(c);
		if (r != -ENOMEM)
			r = finish(c, r);
		if (r != -ENOMEM && !(hoped && r == -ENOBUFS))
			return r;
		if (hoped)
			vac__st_rlx(&c->s->cow_whole, false);
		if (r == -ENOBUFS)
			return -EAGAIN;
	}
	r = vac__split(c->pool, c->pfn);
	if (r == -EBUSY) {
		r = finish(c, allocate(c));
		return r == -ENOMEM || r == -ENOBUFS ? -EBUSY : r;
	}
	let_go(c, 0);
	return r == -ENOENT || r == 0 ? -EAGAIN : r;
}

/*
 * Make `page` of a space, of which the caller holds the lock for read, exclusive. It is shown by the folio
 * pfn, whose lock and one reference the caller hands over. 0: done, and the host shows it as the entry
 * allows; -EAGAIN: look again; -EBUSY: look again when others have made progress; -ENOMEM: no frame, nothing
 * has changed; -ENOBUFS: the host has no mapping to spare.
 */
int vac__unshare(struct vac_space *s, const struct vac__vma *v, uint32_t page, uint32_t pfn)
{
	struct vac_pool *pool = s->pool;
	struct cow c = {.pool = pool, .s = s, .page = page, .pfn = pfn, .step = 1};

	if (vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_HEAD) {
		bool whole = pressure() == 2;

		c.step = VAC__PB_PAGES;
		c.lo = c.page = page - page % VAC__PB_PAGES;
		c.n = 1;
		c.src[0] = pfn;
		c.dst[0] = VAC__NO_PFN;
		return unshare_huge(&c, whole);
	}
	c.reuse = alone(&c, pfn);
	window(&c, v);
	collect(&c);
	return finish(&c, allocate(&c));
}

/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: a space that shows, at other addresses, what another one shows at this instant, and shares
 * its folios until somebody writes (cow.c).
 *
 *	1. with the space's and its family's locks held for write, stop all writers in the host: that
 *	   is the instant. What a thread wrote before it was stopped is in, what it writes after is
 *	   not, and no thread has written something later than what another was stopped at
 *	2. copy the page table, one entry a pageblock where folios are huge. Neither side's entry is
 *	   exclusive any more, so a writer on either side comes to cow.c. A folio that is pinned stays
 *	   its owner's alone, and is copied now: CPUs do not write it, so the copy is torn by the pin's
 *	   own transfer at most. What is out is not brought in: one more entry names its slot
 *	3. let everybody go on. The snapshot is mapped in the host where it is touched, not before
 *
 * Invariants: a pin is only ever counted on an exclusive entry, and whoever counts one looks at the entry
 * again. We take the mark first and look at the pins then. So either we see the pin, and copy, or the
 * pinner sees the entry changed, and backs off (semantics.md G.2).
 * A migration may be under way: its entries are copied as they are. It publishes in every space of the
 * family, ours included, and cannot do so before we let go of the family. So may a reclaim, which maps
 * again, wherever an entry names its slot, what it could not write.
 */
#include "internal.h"

struct clone {
	struct vac_pool *pool;
	struct vac_space *from, *to;
	bool pinned;  /* something was */
	bool lacking; /* a frame, for a copy of it */
};

/* ---- Writers stop ----------------------------------------------------------------------------- */

/* The next run [*at, *to) of pages before end that the host shows, and lets be written if `writable`. */
static bool shown_run(struct vac_space *s, uint32_t *at, uint32_t *to, uint32_t end, bool writable)
{
	uint64_t need = writable ? VAC__E_HWRITE : VAC__E_HMAP;
	uint32_t p = *at, n;
	bool in = false;

	for (; p < end; p += n) {
		uint64_t e = vac__ld_rlx(vac__pmd(s, p >> VAC__PB_ORDER));

		n = VAC__PB_PAGES - p % VAC__PB_PAGES;
		if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
			e = vac__ld_rlx(vac__pte(s, p));
			n = 1;
		}
		if (in && !(e & need))
			break;
		if (!in && (e & need))
			*at = p;
		in = e & need;
	}
	*to = p < end ? p : end;
	return in;
}

static int make_hole(struct vac_space *s, uint32_t at, uint32_t to)
{
	int r;

	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = s->pool->mem->hole(s->pool->mem_ctx, vac__page_addr(s, at),
			       (size_t)(to - at) << VAC__PAGE_SHIFT, false);
	if (r == 0)
		vac__entries_hide(s, at, to);
	vac__port_vma_charge(-2, true);
	return r;
}

/*
 * Where the host's rights decide, they are narrowed: runs end where mappings of the host do, so that this
 * splits none, and cannot be refused. Where the kernel itself must be stopped too, all that may be
 * written is made blind: to write-protect it page by page would take longer than to show it again. Where
 * the host cannot do that, it becomes a hole.
 */
static int stop_writers(struct clone *c)
{
	const struct vac__mem_ops *mem = c->pool->mem;
	struct vac_space *s = c->from;
	int r = 0;

	for (uint32_t i = 0; i < s->nr_vmas && r == 0; i++) {
		uint32_t at = s->vmas[i].start, end = s->vmas[i].end, to;

		if (!(s->vmas[i].prot & VAC_PROT_WRITE))
			continue;
		/* What the host shows in one piece may belong to VMAs of other advice. */
		while (i + 1 < s->nr_vmas && s->vmas[i + 1].start == end &&
		       (s->vmas[i + 1].prot & VAC_PROT_WRITE))
			end = s->vmas[++i].end;
		for (; r == 0 && at < end && shown_run(s, &at, &to, end, !c->pool->watches);
		     at = to) {
			void *addr = vac__page_addr(s, at);
			size_t bytes = (size_t)(to - at) << VAC__PAGE_SHIFT;

			if (c->pool->watches) {
				r = mem->blind(c->pool->mem_ctx, addr, bytes);
				if (r == 0)
					vac__entries_blind(s, at, to);
				else
					r = make_hole(s, at, to);
			} else {
				r = mem->protect(c->pool->mem_ctx, addr, bytes, VAC__READ);
				if (r == 0)
					vac__entries_stop(s, at, to);
			}
		}
	}
	return r;
}

/* ---- The page table --------------------------------------------------------------------------- */

/* A pinned folio's bytes in a folio of the snapshot's own. */
static int copy_now(struct clone *c, uint32_t pfn, uint32_t page, bool huge, vac__entry *to,
		    uint64_t e)
{
	size_t bytes = huge ? VAC_PAGEBLOCK_BYTES : VAC_PAGE_BYTES;
	struct vac__frame *f;
	uint32_t dst;
	int r = huge ? vac__huge_alloc(c->pool, false, &dst)
		     : vac__base_alloc(c->pool, c->to, page, &dst);

	if (r < 0) {
		c->lacking = true;
		return r;
	}
	f = vac__frame(c->pool, dst);
	vac__st_rlx(&f->family, c->to->family);
	vac__st_rlx(&f->index, page);
	vac__port_copy(vac__frame_addr(c->pool, dst), vac__frame_addr(c->pool, pfn), bytes);
	vac__w_ref_to_map(&f->word);
	vac__st(to, vac__e_make(dst, VAC__E_PRESENT | VAC__E_EXCL | vac__e_rights(e)));
	vac__stat_add(&c->pool->c.snapshot_copies, huge ? VAC__PB_PAGES : 1);
	return 0;
}

/* All of a huge one; base by base, where no pageblock is to be had. */
static int copy_huge(struct clone *c, uint32_t pfn, uint32_t page, vac__entry *to, uint64_t e)
{
	int r = copy_now(c, pfn, page, true, to, e);

	if (r != -ENOMEM)
		return r;
	c->lacking = false;
	vac__st(to, VAC__E_TABLE);
	r = 0;
	for (uint32_t i = 0; i < VAC__PB_PAGES && r == 0; i++)
		r = copy_now(c, pfn + i, page + i, false, vac__pte(c->to, page + i), e);
	return r;
}

static int clone_entry(struct clone *c, vac__entry *from, vac__entry *to, uint32_t page, bool huge)
{
	uint64_t e = vac__ld_rlx(from), shared = e & ~(uint64_t)(VAC__E_EXCL | VAC__E_HWRITE);
	struct vac__frame *f = vac__frame(c->pool, vac__e_pfn(e));
	uint64_t hidden;

	if (e == 0)
		return 0;
	if (vac__e_swap(e)) {
		vac__swap_dup(c->pool, vac__e_pfn(e));
		vac__xchg(from, shared);
		vac__st(to, shared);
		VAC__SYNC("snapshot_slot_shared", vac__e_pfn(e));
		return 0;
	}
	/* Who shares writes a copy, so there is no slot to be given up before. */
	shared = (shared & ~(uint64_t)VAC__E_CLEAN) | vac__e_rights(e);
	hidden = shared & ~(uint64_t)VAC__E_HOST;
	vac__xchg(from, shared);
	VAC__SYNC("snapshot_shared", vac__e_pfn(e));
	if (vac__w_pins(vac__ld(&f->word))) {
		vac__xchg(from, e & ~(uint64_t)VAC__E_HWRITE);
		c->pinned = true;
		return huge ? copy_huge(c, vac__e_pfn(e), page, to, e)
			    : copy_now(c, vac__e_pfn(e), page, false, to, e);
	}
	/* A migration entry counts nothing; it is counted when it is published. */
	if (vac__e_present(e) && vac__w_map_get(&f->word) < 0) {
		vac__xchg(from, e & ~(uint64_t)VAC__E_HWRITE);
		return -EOVERFLOW;
	}
	vac__st(to, hidden);
	return 0;
}

/* What is pinned is shown for writing again at once: a system call that works on it need not meet a
 * fault, which is an error to it under one guard. All else is shared by now. Best effort. */
static int show_pinned(struct clone *c, uint32_t vpb)
{
	struct vac_space *s = c->from;
	uint64_t e = vac__ld_rlx(vac__pmd(s, vpb));
	bool table = (e & VAC__E_TYPE) == VAC__E_TABLE;

	for (uint32_t i = 0; i < (table ? VAC__PB_PAGES : 1); i++) {
		uint32_t page = vpb * VAC__PB_PAGES + i;

		if (table)
			e = vac__ld_rlx(vac__pte(s, page));
		if (vac__e_present(e) && (e & VAC__E_HMAP) && !(e & VAC__E_HWRITE) &&
		    (vac__host_prot(e) & VAC__WRITE))
			vac__host_refresh(s, page);
	}
	return 0;
}

static int clone_vpb(struct clone *c, uint32_t vpb)
{
	uint64_t e = vac__ld_rlx(vac__pmd(c->from, vpb));
	int r = 0;

	if (e == 0)
		return 0;
	if ((e & VAC__E_TYPE) != VAC__E_TABLE)
		return clone_entry(c, vac__pmd(c->from, vpb), vac__pmd(c->to, vpb),
				   vpb * VAC__PB_PAGES, true);
	vac__st(vac__pmd(c->to, vpb), VAC__E_TABLE);
	for (uint32_t p = vpb * VAC__PB_PAGES; r == 0 && p < (vpb + 1) * VAC__PB_PAGES; p++)
		r = clone_entry(c, vac__pte(c->from, p), vac__pte(c->to, p), p, false);
	vac__segments_settle(c->from, vpb, 0);
	return r;
}

static int each_vpb(struct clone *c, int (*fn)(struct clone *c, uint32_t vpb))
{
	uint32_t done = 0;
	int r = 0;

	for (uint32_t i = 0; i < c->from->nr_vmas && r == 0; i++) {
		const struct vac__vma *v = &c->from->vmas[i];
		uint32_t vpb = v->start >> VAC__PB_ORDER;

		for (vpb = vpb < done ? done : vpb; r == 0 && vpb * VAC__PB_PAGES < v->end; vpb++) {
			r = fn(c, vpb);
			done = vpb + 1;
		}
	}
	return r;
}

/* ---- The call --------------------------------------------------------------------------------- */

/* The locks of both spaces. Nobody else knows of the new one, so its lock cannot be waited for. */
static int clone(struct clone *c)
{
	struct vac__rwlock *fam = &c->pool->families[c->from->family].lock;
	int r;

	vac__wrlock(&c->from->lock, VAC__RANK_SPACE);
	vac__wrlock(&c->to->lock, VAC__RANK_MANY);
	vac__wrlock(fam, VAC__RANK_RMAP);
	r = vac__vmas_clone(c->to, c->from);
	if (r == 0) {
		c->from->cloned = c->to->cloned = true;
		r = stop_writers(c);
	}
	if (r == 0) {
		VAC__SYNC("snapshot_instant", c->to->id);
		vac__cow_learn(c->from);
		r = each_vpb(c, clone_vpb);
		if (c->pinned)
			each_vpb(c, show_pinned);
	}
	vac__wrunlock(fam, VAC__RANK_RMAP);
	vac__wrunlock(&c->to->lock, VAC__RANK_MANY);
	vac__wrunlock(&c->from->lock, VAC__RANK_SPACE);
	return r;
}

/* Once. Nothing is left of one that fails. */
static int try_snapshot(struct clone *c, const char *name)
{
	struct vac_pool *pool = c->pool;
	int r = vac__space_create(pool, (uint64_t)c->from->vpbs << VAC__PB_SHIFT, name, c->from,
				  &c->to);

	c->pinned = c->lacking = false;
	if (r < 0)
		return r;
	r = clone(c);
	if (r < 0 && vac__space_destroy(c->to) < 0) {
		vac__log(pool, VAC_LOG_ERROR,
			 "a snapshot that failed could not be taken away: its addresses "
			 "are lost");
		c->lacking = false;
	}
	return r;
}

/*
 * Where there is swap, frames for copies of what is pinned can be made, but not under the locks that a snapshot
 * holds. How many it takes is known when they are there: each time twice as many, and not more than all.
 */
static int snapshot(struct clone *c, const char *name)
{
	struct vac_pool *pool = c->pool;
	uint32_t want = 2 * VAC__SWAP_CLUSTER;
	int r;

	for (;; want *= 2) {
		r = try_snapshot(c, name);
		if (r != -ENOMEM || !c->lacking || vac__ld(&pool->swap.state) == VAC__SWAP_OFF ||
		    want / 2 > vac__ld_rlx(&pool->nr_total))
			return r;
		/* There may be that many by now. What the try had, and gave back, is no news. */
		if (vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) < want &&
		    !vac__reclaim(pool, want, vac__ld(&pool->nr_freed)))
			return r;
	}
}

int vac_space_snapshot(struct vac_space *space, const struct vac_snapshot_opts *opts,
		       struct vac_space **out)
{
	struct vac_snapshot_opts o = {.size = sizeof(o)};
	char name[VAC_NAME_MAX] = "snapshot";
	struct clone c = {.from = space};
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!out || (opts && (opts->size < sizeof(size_t) || opts->size > sizeof(o))))
		return -EINVAL;
	if (opts)
		memcpy(&o, opts, opts->size);
	if (o.name && strlen(o.name) >= VAC_NAME_MAX)
		return -EINVAL;
	if (o.name)
		memcpy(name, o.name, strlen(o.name) + 1);
	c.pool = space->pool;
	VAC__ENTER();
	r = snapshot(&c, name);
	VAC__LEAVE();
	if (r < 0)
		return r;
	vac__stat_add(&c.pool->c.snapshots, 1);
	*out = c.to;
	return 0;
}

void *vac_space_translate(struct vac_space *from, const void *addr, struct vac_space *to)
{
	uintptr_t off;

	if (vac__port_forked() || from->pool != to->pool || from->family != to->family)
		return NULL;
	off = (uintptr_t)addr - (uintptr_t)from->base;
	return off < (size_t)from->vpbs << VAC__PB_SHIFT ? to->base + off : NULL;
}

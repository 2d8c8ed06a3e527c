/* SPDX-License-Identifier: MIT */
/*
 * Spaces: create, destroy, map, unmap, protect. Advice is advise.c.
 *
 * Invariant: a call that fails has changed nothing. Everything that may fail (splits of huge folios, host
 * mappings, room in the array of VMAs) comes before the first entry is touched.
 */
#include "internal.h"

/* ---- Holes ------------------------------------------------------------------------------------- */

/*
 * What is mapped and may be touched, but shows nothing, is a hole to the host; what is not, or
 * has no rights, is bare. Each VMA is booked as two host mappings for it, as its holes begin and
 * end beside what is bare; the holes between what is shown are the gaps that map.c books.
 */
#define VMAS_EACH 2

/* After a change of VMAs, which cannot fail any more. */
void vac__vmas_book(struct vac_space *s, uint32_t before)
{
	vac__port_vma_charge(((long)s->nr_vmas - (long)before) * VMAS_EACH, true);
}

/* Pages [first, end) may be filled from now on: a core dump needs what describes them. */
static void dense(struct vac_space *s, uint32_t first, uint32_t end)
{
	size_t v = s->vpbs, at = first >> VAC__PB_ORDER;
	size_t n = ((end - 1) >> VAC__PB_ORDER) + 1 - at;

	vac__port_table_dense(s->pmd, v * sizeof(*s->pmd), at * sizeof(*s->pmd),
			      n * sizeof(*s->pmd));
	vac__port_table_dense(s->pte, v * VAC__PB_PAGES * sizeof(*s->pte),
			      at * VAC__PB_PAGES * sizeof(*s->pte),
			      n * VAC__PB_PAGES * sizeof(*s->pte));
	vac__port_table_dense(s->ptl, v * sizeof(*s->ptl), at * sizeof(*s->ptl),
			      n * sizeof(*s->ptl));
	vac__port_table_dense(s->nseg, v * sizeof(*s->nseg), at * sizeof(*s->nseg),
			      n * sizeof(*s->nseg));
	vac__port_table_dense(s->resv, v * sizeof(*s->resv), at * sizeof(*s->resv),
			      n * sizeof(*s->resv));
}

/* ---- Create and destroy --------------------------------------------------------------------- */

static void space_free(struct vac_space *s)
{
	size_t v = s->vpbs;

	if (s->pmd)
		vac__port_table_release(s->pmd, v * sizeof(*s->pmd));
	if (s->pte)
		vac__port_table_release(s->pte, v * VAC__PB_PAGES * sizeof(*s->pte));
	if (s->ptl)
		vac__port_table_release(s->ptl, v * sizeof(*s->ptl));
	if (s->nseg)
		vac__port_table_release(s->nseg, v * sizeof(*s->nseg));
	if (s->resv)
		vac__port_table_release(s->resv, v * sizeof(*s->resv));
	if (s->vmas)
		vac__port_table_release(s->vmas, s->cap_vmas * sizeof(*s->vmas));
	vac__port_meta_release(s, sizeof(*s));
}

static struct vac_space *space_alloc(struct vac_pool *pool, uint64_t bytes, const char *name)
{
	struct vac_space *s = vac__port_meta_reserve(sizeof(*s));
	size_t v = (size_t)(bytes >> VAC__PB_SHIFT);

	if (!s)
		return NULL;
	s->pool = pool;
	s->vpbs = (uint32_t)v;
	s->pages = (uint32_t)(v * VAC__PB_PAGES);
	memcpy(s->name, name, strlen(name) + 1);
	s->cap_vmas = s->pages + 4 < VAC__VMAS_MAX ? s->pages + 4 : VAC__VMAS_MAX;
	s->pmd = vac__port_table_reserve(v * sizeof(*s->pmd));
	s->pte = vac__port_table_reserve(v * VAC__PB_PAGES * sizeof(*s->pte));
	s->ptl = vac__port_table_reserve(v * sizeof(*s->ptl));
	s->nseg = vac__port_table_reserve(v * sizeof(*s->nseg));
	s->resv = vac__port_table_reserve(v * sizeof(*s->resv));
	s->vmas = vac__port_table_reserve(s->cap_vmas * sizeof(*s->vmas));
	if (!s->pmd || !s->pte || !s->ptl || !s->nseg || !s->resv || !s->vmas) {
		space_free(s);
		return NULL;
	}
	return s;
}

/*
 * A space of so many bytes, whole pageblocks, without VMAs; of the family of `kin`, or of one of its own.
 * A family lives on when the space that it was born with is gone, so its number is free when nobody is
 * in it.
 */
int vac__space_create(struct vac_pool *pool, uint64_t bytes, const char *name,
		      struct vac_space *kin, struct vac_space **out)
{
	struct vac_space *s = space_alloc(pool, bytes, name);
	uint32_t id;
	void *base;
	int r;

	if (!s)
		return -ENOMEM;
	vac__lock(&pool->spaces_lock, VAC__RANK_SPACE);
	for (id = 0; id < VAC__MAX_SPACES &&
		     (vac__ld_rlx(&pool->spaces[id]) || (!kin && vac__rmap_first(pool, id)));
	     id++)
		;
	if (id == VAC__MAX_SPACES) {
		r = -ENOSPC;
		goto fail;
	}
	s->id = id;
	s->family = kin ? kin->family : id;
	r = pool->mem->space_reserve(pool->mem_ctx, (size_t)s->vpbs << VAC__PB_SHIFT, vac__fault, s,
				     &base);
	if (r < 0)
		goto fail;
	s->base = base;
	vac__st(&s->ready, 1);
	r = vac__space_list(s);
	if (r < 0) {
		pool->mem->space_release(pool->mem_ctx, base, vac_space_bytes(s));
		goto fail;
	}
	/* Known before it is in the family: a migration of what an earlier space of this number has left
	 * finds us there, and may reserve a pageblock in our name. */
	vac__st(&pool->spaces[id], s);
	vac__family_join(pool, s->family, s);
	vac__add(&pool->nr_spaces, 1);
	vac__unlock(&pool->spaces_lock, VAC__RANK_SPACE);
	*out = s;
	return 0;
fail:
	vac__unlock(&pool->spaces_lock, VAC__RANK_SPACE);
	space_free(s);
	return r;
}

int vac_space_create(struct vac_pool *pool, const struct vac_space_opts *opts,
		     struct vac_space **space)
{
	struct vac_space_opts o = {.size = sizeof(o)};
	char name[VAC_NAME_MAX] = "space";
	struct vac_space *s = NULL;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!opts || !space || opts->size < sizeof(size_t) || opts->size > sizeof(o))
		return -EINVAL;
	memcpy(&o, opts, opts->size);
	if (o.bytes == 0 || o.bytes > UINT64_C(16) << 40)
		return -EINVAL;
	if (o.name) {
		if (strlen(o.name) >= VAC_NAME_MAX)
			return -EINVAL;
		memcpy(name, o.name, strlen(o.name) + 1);
	}
	o.bytes = (o.bytes + VAC_PAGEBLOCK_BYTES - 1) & ~(uint64_t)(VAC_PAGEBLOCK_BYTES - 1);
	if (o.bytes >> VAC__PAGE_SHIFT >= UINT32_MAX)
		o.bytes -= VAC_PAGEBLOCK_BYTES; /* page numbers are 32 bits, and one is no page */
	VAC__ENTER();
	r = vac__space_create(pool, o.bytes, name, NULL, &s);
	VAC__LEAVE();
	if (r == 0)
		*space = s;
	return r;
}

int vac__space_destroy(struct vac_space *s)
{
	struct vac_pool *pool = s->pool;

	if (vac__ld(&s->nr_rings) || vac__ledger_space_held(pool, s->id))
		return -EBUSY;
	vac__words_end(s, 0, s->pages);
	vac__wrlock(&s->lock, VAC__RANK_SPACE);
	vac__wrlock(&pool->families[s->family].lock, VAC__RANK_RMAP);
	if (pool->mem->unmap(pool->mem_ctx, s->base, vac_space_bytes(s)) < 0) {
		vac__wrunlock(&pool->families[s->family].lock, VAC__RANK_RMAP);
		vac__wrunlock(&s->lock, VAC__RANK_SPACE);
		return -ENOMEM;
	}
	vac__zap(s, 0, s->pages);
	vac__port_vma_charge(-(long)s->nr_vmas * VMAS_EACH, true);
	s->nr_vmas = 0;
	vac__wrunlock(&pool->families[s->family].lock, VAC__RANK_RMAP);
	vac__wrunlock(&s->lock, VAC__RANK_SPACE);

	vac__aio_forget(s);
	vac__family_leave(pool, s);
	/* No walk can find the space now, so no new reservation can name it. */
	for (uint32_t v = 0; v < s->vpbs; v += 4096)
		vac__resv_forget(pool, s, v, s->vpbs - v < 4096 ? s->vpbs - v : 4096);
	vac__lock(&pool->spaces_lock, VAC__RANK_SPACE);
	vac__st(&pool->spaces[s->id], NULL);
	vac__unlock(&pool->spaces_lock, VAC__RANK_SPACE);
	vac__sub(&pool->nr_spaces, 1);
	/* Nobody gets it any more; who has it finds it empty, and is not long. */
	for (uint32_t n; (n = vac__ld(&s->users)) != 0;)
		vac__port_wait(&s->users, n, 0);
	vac__space_unlist(s);
	pool->mem->space_release(pool->mem_ctx, s->base, vac_space_bytes(s));
	space_free(s);
	return 0;
}

/* A space for a thread of the engine's, which neither its creator nor a fault has told of it; it stays
 * until it is put. No lock is held, at put neither. */
struct vac_space *vac__space_get(struct vac_pool *pool, uint32_t id)
{
	struct vac_space *s;

	if (!vac__ld(&pool->spaces[id]))
		return NULL;
	vac__lock(&pool->spaces_lock, VAC__RANK_SPACE);
	s = vac__ld(&pool->spaces[id]);
	if (s)
		vac__add(&s->users, 1);
	vac__unlock(&pool->spaces_lock, VAC__RANK_SPACE);
	return s;
}

void vac__space_put(struct vac_space *s)
{
	const _Atomic uint32_t *users = &s->users;

	/* The space may be gone as soon as it is put: waking looks at no memory. */
	if (vac__sub(&s->users, 1) == 1)
		vac__port_wake(users, INT_MAX);
}

int vac_space_destroy(struct vac_space *space)
{
	int r;

	if (vac__port_forked())
		return -EPERM;
	VAC__ENTER();
	r = vac__space_destroy(space);
	VAC__LEAVE();
	return r;
}

void *vac_space_base(struct vac_space *space)
{
	return vac__port_forked() ? NULL : space->base;
}

size_t vac_space_bytes(struct vac_space *space)
{
	return vac__port_forked() ? 0 : (size_t)space->vpbs << VAC__PB_SHIFT;
}

/* A new space gets the VMAs of another one: holes, for now. Both are locked for write, the new one is
 * empty. On failure what there is of it is for vac__space_destroy(). */
int vac__vmas_clone(struct vac_space *to, const struct vac_space *from)
{
	const struct vac__mem_ops *mem = to->pool->mem;
	int r = 0;

	if (!vac__port_vma_charge((long)from->nr_vmas * VMAS_EACH, false))
		return -ENOMEM;
	vac__port_table_dense(to->vmas, to->cap_vmas * sizeof(*to->vmas), 0,
			      from->nr_vmas * sizeof(*to->vmas));
	vac__vma_inherit(to, from);
	vac__port_vma_charge(-(long)(from->nr_vmas - to->nr_vmas) * VMAS_EACH, true);
	for (uint32_t i = 0; i < to->nr_vmas && r == 0; i++) {
		const struct vac__vma *v = &to->vmas[i];

		dense(to, v->start, v->end);
		if (v->prot)
			r = mem->hole(to->pool->mem_ctx, vac__page_addr(to, v->start),
				      (size_t)(v->end - v->start) << VAC__PAGE_SHIFT, true);
	}
	return r;
}

/* ---- Ranges --------------------------------------------------------------------------------- */

/* From what a caller gave to pages: aligned, inside the space, not empty. */
int vac__range(const struct vac_space *s, const void *addr, size_t len, uint32_t *first,
	       uint32_t *end)
{
	uintptr_t a = (uintptr_t)addr, base = (uintptr_t)s->base;
	size_t bytes = (size_t)s->vpbs << VAC__PB_SHIFT;

	if (a % VAC_PAGE_BYTES || len % VAC_PAGE_BYTES || len == 0 || a < base ||
	    a - base > bytes || len > bytes - (a - base))
		return -EINVAL;
	*first = (uint32_t)((a - base) >> VAC__PAGE_SHIFT);
	*end = *first + (uint32_t)(len >> VAC__PAGE_SHIFT);
	return 0;
}

/* The first folio in [first, end) that is leaving. The family's lock is held for write. */
static bool leaving(struct vac_space *s, uint32_t first, uint32_t end, uint32_t *pfn,
		    uint32_t *ticket)
{
	while (first < end) {
		uint32_t vpb = first >> VAC__PB_ORDER;
		uint64_t e = vac__ld(vac__pmd(s, vpb));

		if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
			e = vac__ld(vac__pte(s, first));
			first++;
		} else {
			first = (vpb + 1) * VAC__PB_PAGES;
		}
		if (!vac__e_migration(e))
			continue;
		*pfn = VAC__NO_PFN;
		vac__ptl_lock(s, vpb);
		if (vac__folio_wait_prepare(s->pool, vac__e_pfn(e), ticket))
			*pfn = vac__e_pfn(e);
		vac__ptl_unlock(s, vpb);
		/* A page that is lost does not leave: what can be changed is its VMA. */
		if (*pfn == VAC__NO_PFN && vac__dangling(s, first - 1) < 0)
			continue;
		return true;
	}
	return false;
}

/* What a change of VMAs needs before it may begin, and the locks it is made under. */
struct change {
	uint32_t first, end;
	bool whole;      /* every page must be mapped */
	bool no_leaving; /* no page may be under migration */
	bool ring;       /* it is for the one whose ring it is */
	uint64_t deadline_ns;
};

/*
 * Take the space's and the family's locks for write, with huge folios split at the borders and, if
 * asked for, no migration under way in the range. Sleeps for migrations and pins, holding nothing.
 */
static int change_begin(struct vac_space *s, struct change *c)
{
	struct vac_pool *pool = s->pool;
	struct vac__rwlock *fam = &pool->families[s->family].lock;

	for (;;) {
		uint32_t pfn = VAC__NO_PFN, ticket = 0, seen;
		int r;

		/* Counted in before the look, so that an unpin after it tells us. */
		vac__add(&pool->offliners, 1);
		seen = vac__event_read(&pool->progress);
		vac__wrlock(&s->lock, VAC__RANK_SPACE);
		if (!c->ring && vac__vma_ring(s, c->first, c->end)) {
			vac__wrunlock(&s->lock, VAC__RANK_SPACE);
			vac__sub(&pool->offliners, 1);
			return -EBUSY;
		}
		r = !vac__vma_room(s) || (c->whole && !vac__vma_covers(s, c->first, c->end))
			    ? -ENOMEM
			    : 0;
		if (r == 0)
			r = vac__split_at(s, c->first, &pfn, &ticket);
		if (r == 0)
			r = vac__split_at(s, c->end, &pfn, &ticket);
		if (r == 0) {
			vac__wrlock(fam, VAC__RANK_RMAP);
			if (c->no_leaving && leaving(s, c->first, c->end, &pfn, &ticket)) {
				vac__wrunlock(fam, VAC__RANK_RMAP);
				r = -EAGAIN;
			}
		}
		if (r == 0) {
			vac__sub(&pool->offliners, 1);
			return 0;
		}
		vac__wrunlock(&s->lock, VAC__RANK_SPACE);
		if (r == -EAGAIN && pfn != VAC__NO_PFN)
			vac__folio_wait(pool, pfn, ticket);
		else if (r == -EBUSY && vac__port_now() < c->deadline_ns &&
			 vac__event_wait(&pool->progress, seen, c->deadline_ns) == 0)
			r = -EAGAIN;
		vac__sub(&pool->offliners, 1);
		if (r != -EAGAIN)
			return r;
	}
}

static void change_end(struct vac_space *s)
{
	vac__wrunlock(&s->pool->families[s->family].lock, VAC__RANK_RMAP);
	vac__wrunlock(&s->lock, VAC__RANK_SPACE);
}

/*
 * Host mappings that a border at this page may take, where there is none yet: it may cut what the host
 * shows in one piece (what meets at the border of two vpbs is booked as two pieces already), and it
 * may cut a VMA. To be booked until both are booked as they then are.
 */
static long cuts_at(struct vac_space *s, uint32_t page)
{
	const struct vac__vma *v = page < s->pages ? vac__vma_find(s, page) : NULL;
	long shown = page % VAC__PB_PAGES && (vac__entry_get(s, page - 1) & VAC__E_HMAP) &&
		     (vac__entry_get(s, page) & VAC__E_HMAP);

	return shown + (v && v->start < page ? VMAS_EACH : 0);
}

/*
 * Show nothing in [first, end) any more, but let it be touched where VMAs allow it: one host call for
 * VMAs that touch, as a huge folio may lie across two that differ in advice only. On failure what was
 * hidden is shown again when it is touched.
 */
static int hide(struct vac_space *s, uint32_t first, uint32_t end)
{
	const struct vac__mem_ops *mem = s->pool->mem;
	uint32_t i = vac__vma_after(s, first);
	int r = 0;

	while (r == 0 && i < s->nr_vmas && s->vmas[i].start < end) {
		bool rights = s->vmas[i].prot;
		uint32_t lo = s->vmas[i].start > first ? s->vmas[i].start : first, hi;
		size_t bytes;

		do {
			hi = s->vmas[i++].end;
		} while (i < s->nr_vmas && s->vmas[i].start == hi && hi < end &&
			 (s->vmas[i].prot != 0) == rights);
		bytes = (size_t)((hi < end ? hi : end) - lo) << VAC__PAGE_SHIFT;
		r = rights ? mem->hole(s->pool->mem_ctx, vac__page_addr(s, lo), bytes, false)
			   : mem->unmap(s->pool->mem_ctx, vac__page_addr(s, lo), bytes);
		if (r < 0)
			vac__entries_hide(s, first, lo);
	}
	return r;
}

/* Drop the pages of a range, and its VMAs too if `forget`. */
int vac__drop(struct vac_space *s, uint32_t first, uint32_t end, bool forget, bool ring)
{
	struct vac_pool *pool = s->pool;
	struct change c = {
		.first = first, .end = end, .ring = ring, .deadline_ns = vac__gate_deadline(pool)};
	uint32_t vmas;
	long cuts;
	int r;

	/* What earlier drops have left to others may be free by now. */
	vac__quarantine_try(pool, vac__port_now());
	r = change_begin(s, &c);
	if (r < 0)
		return r;
	cuts = cuts_at(s, first) + cuts_at(s, end);
	if (!vac__port_vma_charge(cuts, false)) {
		change_end(s);
		return -ENOMEM;
	}
	vmas = s->nr_vmas;
	if (forget)
		r = pool->mem->unmap(pool->mem_ctx, vac__page_addr(s, first),
				     (size_t)(end - first) << VAC__PAGE_SHIFT);
	else
		r = hide(s, first, end);
	if (r == 0)
		vac__zap(s, first, end);
	if (r == 0 && forget)
		vac__vma_remove(s, first, end);
	vac__vmas_book(s, vmas);
	vac__port_vma_charge(-cuts, true);
	change_end(s);
	return r;
}

int vac_unmap(struct vac_space *space, void *addr, size_t len)
{
	uint32_t first, end;
	int r;

	if (vac__port_forked())
		return -EPERM;
	r = vac__range(space, addr, len, &first, &end);
	if (r < 0)
		return r;
	VAC__ENTER();
	r = vac__words_end(space, first, end);
	r = r < 0 ? r : vac__drop(space, first, end, true, false);
	VAC__LEAVE();
	return r;
}

/* Fill in what can be filled, or up to the first page that cannot; the first error, if there is one. */
int vac__populate(struct vac_space *s, uint32_t first, uint32_t end, bool all)
{
	int r = 0;

	for (uint32_t p = first; p < end && (r == 0 || all); p++) {
		uint64_t e = vac__entry_get(s, p);
		int err = e && !vac__e_swap(e) ? 0 : vac__fault_in(s, p, VAC__READ);

		r = r ? r : err;
	}
	return r;
}

#define MAP_RING (1u << 31)

static int map(struct vac_space *s, uint32_t first, uint32_t pages, bool fixed, int prot,
	       unsigned flags, uint32_t *at)
{
	struct vac__vma v = {.prot = (uint8_t)prot,
			     .nohuge = (flags & VAC_MAP_NOHUGE) != 0,
			     .ring = (flags & MAP_RING) != 0};
	uint32_t i, vmas;
	int r = 0;

	vac__wrlock(&s->lock, VAC__RANK_SPACE);
	if (!vac__vma_room(s) || !vac__port_vma_charge(VMAS_EACH, false)) {
		vac__wrunlock(&s->lock, VAC__RANK_SPACE);
		return -ENOMEM;
	}
	vmas = s->nr_vmas;
	if (fixed) {
		i = vac__vma_after(s, first);
		if (i < s->nr_vmas && s->vmas[i].start < first + pages)
			r = -EEXIST;
	} else if (!vac__vma_hole(s, pages, pages >= VAC__PB_PAGES ? VAC__PB_PAGES : 1, &first)) {
		r = -ENOMEM;
	}
	if (r == 0 && prot)
		r = s->pool->mem->hole(s->pool->mem_ctx, vac__page_addr(s, first),
				       (size_t)pages << VAC__PAGE_SHIFT, true);
	if (r == 0) {
		v.start = first;
		v.end = first + pages;
		/* A new VMA has no entries yet, but reclaim looks at whether VMAs are locked. */
		vac__wrlock(&s->pool->families[s->family].lock, VAC__RANK_RMAP);
		vac__vma_insert(s, vac__vma_after(s, first), v);
		vac__vma_merge_around(s, first, v.end);
		vac__wrunlock(&s->pool->families[s->family].lock, VAC__RANK_RMAP);
		dense(s, first, v.end);
	}
	vac__vmas_book(s, vmas);
	vac__port_vma_charge(-VMAS_EACH, true);
	vac__wrunlock(&s->lock, VAC__RANK_SPACE);
	if (r == 0 && (flags & VAC_MAP_POPULATE) && prot)
		vac__populate(s, first, first + pages, true);
	*at = first;
	return r;
}

int vac_map(struct vac_space *space, void *addr, size_t len, int prot, unsigned flags, void **out)
{
	uint32_t first = 0, end = 0, at;
	int r = 0;

	if (vac__port_forked())
		return -EPERM;
	if (!out || (prot & ~(VAC_PROT_READ | VAC_PROT_WRITE)) ||
	    (flags & ~(VAC_MAP_FIXED | VAC_MAP_NOHUGE | VAC_MAP_POPULATE)) ||
	    ((flags & VAC_MAP_FIXED) && !addr) || (addr && !(flags & VAC_MAP_FIXED)))
		return -EINVAL;
	if (addr)
		r = vac__range(space, addr, len, &first, &end);
	else if (len == 0 || len % VAC_PAGE_BYTES)
		r = -EINVAL;
	else if (len >> VAC__PAGE_SHIFT > space->pages)
		r = -ENOMEM;
	if (r < 0)
		return r;
	VAC__ENTER();
	r = map(space, first, (uint32_t)(len >> VAC__PAGE_SHIFT), addr != NULL, prot, flags, &at);
	VAC__LEAVE();
	if (r == 0)
		*out = vac__page_addr(space, at);
	return r;
}

/* Pages for a ring, wherever they fit; the program cannot change their mapping. */
int vac__ring_map(struct vac_space *s, uint32_t pages, uint32_t *first)
{
	if (pages > s->pages)
		return -ENOMEM;
	return map(s, 0, pages, false, VAC_PROT_READ | VAC_PROT_WRITE, VAC_MAP_NOHUGE | MAP_RING,
		   first);
}

int vac__ring_unmap(struct vac_space *s, uint32_t first, uint32_t end)
{
	return vac__drop(s, first, end, true, true);
}

/* ---- Protect -------------------------------------------------------------------------------- */

/* The next run [*at, *to) of pages that the host shows, with whatever rights. */
static bool shown_run(struct vac_space *s, uint32_t *at, uint32_t *to, uint32_t end)
{
	uint32_t p = *at;
	bool in = false;

	while (p < end) {
		uint64_t e = vac__ld_rlx(vac__pmd(s, p >> VAC__PB_ORDER));
		uint32_t n = VAC__PB_PAGES - p % VAC__PB_PAGES;

		if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
			e = vac__ld_rlx(vac__pte(s, p));
			n = 1;
		}
		if (in && !(e & VAC__E_HMAP))
			break;
		if (!in && (e & VAC__E_HMAP)) {
			in = true;
			*at = p;
		}
		p += n;
	}
	*to = p < end ? p : end;
	return in;
}

/* The shown runs that a change of rights of [first, end) cuts, at the left and at the right. */
struct edges {
	struct {
		uint32_t at, to;
	} run[2];
	unsigned n;
};

static void find_edges(struct vac_space *s, uint32_t first, uint32_t end, struct edges *e)
{
	uint32_t at = first, to, last_at = 0, last_to = 0;

	e->n = 0;
	for (; at < end && shown_run(s, &at, &to, end); at = to) {
		if (at == first) {
			e->run[e->n].at = at;
			e->run[e->n++].to = to;
		}
		last_at = at;
		last_to = to;
	}
	if (last_to == end && last_at != first) {
		e->run[e->n].at = last_at;
		e->run[e->n++].to = last_to;
	}
}

/*
 * Split the host's mappings at both ends, which is all that the host can refuse. What follows only
 * changes whole mappings, so that a change of rights over many of them cannot stop half way.
 */
static int hold_edges(struct vac_space *s, const struct edges *e)
{
	const struct vac__mem_ops *mem = s->pool->mem;
	void *ctx = s->pool->mem_ctx;

	for (unsigned i = 0; i < e->n; i++) {
		size_t bytes = (size_t)(e->run[i].to - e->run[i].at) << VAC__PAGE_SHIFT;
		int r = mem->leave(ctx, vac__page_addr(s, e->run[i].at), bytes, 0);

		if (r == 0)
			continue;
		if (i > 0)
			mem->stay(ctx, vac__page_addr(s, e->run[0].at),
				  (size_t)(e->run[0].to - e->run[0].at) << VAC__PAGE_SHIFT, NULL, 0,
				  0);
		return r;
	}
	return 0;
}

static void let_edges_go(struct vac_space *s, const struct edges *e)
{
	for (unsigned i = 0; i < e->n; i++)
		s->pool->mem->stay(s->pool->mem_ctx, vac__page_addr(s, e->run[i].at),
				   (size_t)(e->run[i].to - e->run[i].at) << VAC__PAGE_SHIFT, NULL,
				   0, 0);
}

/*
 * What shows nothing in [first, end), of VMAs that have rights or of those that have none: make it a hole
 * (open), or bare. On failure *end says how far it got.
 */
static int turn_holes(struct vac_space *s, uint32_t first, uint32_t *end, bool rights, bool open)
{
	const struct vac__mem_ops *mem = s->pool->mem;
	void *ctx = s->pool->mem_ctx;

	for (uint32_t i = vac__vma_after(s, first); i < s->nr_vmas && s->vmas[i].start < *end;
	     i++) {
		const struct vac__vma *v = &s->vmas[i];
		uint32_t at = v->start > first ? v->start : first;
		uint32_t stop = v->end < *end ? v->end : *end;

		while (rights == (v->prot != 0) && at < stop) {
			uint32_t shown = at, to;
			size_t bytes;
			bool any = shown_run(s, &shown, &to, stop);
			int r = 0;

			if (!any)
				shown = to = stop;
			bytes = (size_t)(shown - at) << VAC__PAGE_SHIFT;
			if (bytes)
				r = open ? mem->hole(ctx, vac__page_addr(s, at), bytes, true)
					 : mem->unmap(ctx, vac__page_addr(s, at), bytes);
			if (r < 0) {
				*end = at;
				return r;
			}
			at = to;
		}
	}
	return 0;
}

static void protect_locked(struct vac_space *s, uint32_t first, uint32_t end, int prot)
{
	unsigned want = (prot ? VAC__READ : 0) | (prot & VAC_PROT_WRITE ? VAC__WRITE : 0);
	uint32_t vmas = s->nr_vmas, at, to;

	for (at = first; at < end && shown_run(s, &at, &to, end); at = to)
		if (s->pool->mem->protect(s->pool->mem_ctx, vac__page_addr(s, at),
					  (size_t)(to - at) << VAC__PAGE_SHIFT, want) < 0)
			VAC__BUG("the host refuses rights of whole mappings");
	vac__entries_protect(s, first, end, (unsigned)prot);
	vac__vma_cut(s, first);
	vac__vma_cut(s, end);
	for (uint32_t i = vac__vma_after(s, first); i < s->nr_vmas && s->vmas[i].start < end; i++)
		s->vmas[i].prot = (uint8_t)prot;
	vac__vma_merge_around(s, first, end);
	vac__vmas_book(s, vmas);
}

static int protect(struct vac_space *s, uint32_t first, uint32_t end, int prot)
{
	struct change c = {.first = first,
			   .end = end,
			   .whole = true,
			   .no_leaving = true,
			   .deadline_ns = vac__gate_deadline(s->pool)};
	struct edges e;
	long cuts;
	int r = change_begin(s, &c);

	if (r < 0)
		return r;
	cuts = cuts_at(s, first) + cuts_at(s, end);
	if (!vac__port_vma_charge(cuts, false)) {
		change_end(s);
		return -ENOMEM;
	}
	/* What the host may show differs from page to page once folios are shared: each touch finds out. */
	if (s->cloned) {
		r = hide(s, first, end);
		if (r == 0)
			vac__entries_hide(s, first, end);
	}
	find_edges(s, first, end, &e);
	if (r == 0)
		r = hold_edges(s, &e);
	if (r == 0) {
		uint32_t opened = end;

		/* Where rights come, holes come first. Where they go, holes go last; one that the host
		 * will not take back stays, and touching it is refused by the engine. */
		if (prot)
			r = turn_holes(s, first, &opened, false, true);
		if (r == 0)
			protect_locked(s, first, end, prot);
		if (r < 0 || !prot)
			turn_holes(s, first, &opened, false, false);
		let_edges_go(s, &e);
	}
	vac__port_vma_charge(-cuts, true);
	change_end(s);
	return r;
}

int vac_protect(struct vac_space *space, void *addr, size_t len, int prot)
{
	uint32_t first, end;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (prot & ~(VAC_PROT_READ | VAC_PROT_WRITE))
		return -EINVAL;
	r = vac__range(space, addr, len, &first, &end);
	if (r < 0)
		return r;
	VAC__ENTER();
	r = protect(space, first, end, prot);
	VAC__LEAVE();
	return r;
}

/* ---- Looking ----------------------------------------------------------------------------------- */

int vac_page_info(struct vac_space *space, const void *addr, struct vac_page_info *info)
{
	struct vac_page_info i = {.size = sizeof(i), .block = -1};
	uintptr_t a = (uintptr_t)addr, base;
	uint32_t page, head;
	uint64_t e, w;
	bool mapped;

	if (vac__port_forked())
		return -EPERM;
	base = (uintptr_t)space->base;
	if (!info || info->size < sizeof(size_t) || info->size > sizeof(i))
		return -EINVAL;
	if (a < base || a - base >= (size_t)space->vpbs << VAC__PB_SHIFT)
		return -EFAULT;
	i.size = info->size;
	page = (uint32_t)((a - base) >> VAC__PAGE_SHIFT);
	VAC__ENTER();
	vac__rdlock(&space->lock, VAC__RANK_SPACE);
	mapped = vac__vma_find(space, page) != NULL;
	vac__ptl_lock(space, page >> VAC__PB_ORDER);
	e = vac__entry_get(space, page);
	if (vac__e_swap(e)) {
		i.present = 3;
	} else if (e) {
		i.present = vac__e_present(e) ? 1 : 2;
		i.pfn = vac__e_pfn(e);
		i.block = (int)(vac__e_pfn(e) >> space->pool->block_shift);
		head = (uint32_t)i.pfn;
		i.huge = (vac__ld_rlx(vac__pmd(space, page >> VAC__PB_ORDER)) & VAC__E_TYPE) !=
			 VAC__E_TABLE;
		if (i.huge)
			head &= ~(VAC__PB_PAGES - 1);
		w = vac__ld(&vac__frame(space->pool, head)->word);
		i.refs = vac__w_refs(w);
		i.pins = vac__w_pins(w);
		i.map = vac__w_map(w);
	}
	vac__ptl_unlock(space, page >> VAC__PB_ORDER);
	vac__rdunlock(&space->lock, VAC__RANK_SPACE);
	VAC__LEAVE();
	if (!mapped)
		return -EFAULT;
	memcpy(info, &i, i.size);
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * The pin ledger: one record a live pin, with its owner's name, thread, time, range and stack, so
 * that a report can say who holds a folio.
 *
 * Invariants: a record is published before the first pin of it is counted and withdrawn after the
 * last is dropped, so whoever sees a pin counted finds its record. A record is written by its owner
 * only, while seq says free or live (see struct vac__pin_rec); a reader copies it and throws the
 * copy away if its life ended meanwhile. Fields are atomics, so that such a torn copy is harmless. Free records are
 * on 16 stacks, popped and pushed by compare-and-swap with a tag against ABA (Treiber, 1986);
 * records are never unmapped, so a pop may read the link of one that somebody else has just taken.
 */
#include "internal.h"

int vac__ledger_open(struct vac_pool *pool)
{
	struct vac__ledger *l = &pool->ledger;

	l->rec = vac__port_table_reserve(sizeof(*l->rec) * VAC__LEDGER_MAX);
	l->ext = vac__port_table_reserve(sizeof(*l->ext) * VAC__LEDGER_MAX);
	l->stacks = vac__port_meta_reserve(sizeof(*l->stacks) * VAC__STACKS_MAX);
	return l->rec && l->ext && l->stacks ? 0 : -ENOMEM;
}

void vac__ledger_close(struct vac_pool *pool)
{
	struct vac__ledger *l = &pool->ledger;

	for (uint32_t i = 0; l->rec && i < vac__ld_acq(&l->top); i++) {
		struct vac__pin_rec *r = &l->rec[i];
		_Atomic uint64_t *more = vac__ld_rlx(&r->more);
		uint64_t n = vac__ld_rlx(&r->more_runs);

		while (more) {
			_Atomic uint64_t *head = more - VAC__MORE_HEAD;
			uint64_t bytes = (n + VAC__MORE_HEAD) * sizeof(*head);

			more = (_Atomic uint64_t *)(uintptr_t)vac__ld_rlx(&head[0]);
			n = vac__ld_rlx(&head[1]);
			vac__port_meta_release(head, bytes);
		}
	}
	if (l->rec)
		vac__port_table_release(l->rec, sizeof(*l->rec) * VAC__LEDGER_MAX);
	if (l->ext)
		vac__port_table_release(l->ext, sizeof(*l->ext) * VAC__LEDGER_MAX);
	if (l->stacks)
		vac__port_meta_release(l->stacks, sizeof(*l->stacks) * VAC__STACKS_MAX);
}

static bool pop(struct vac__ledger *l, uint32_t shard, uint32_t *index)
{
	_Atomic uint64_t *head = &l->free[shard][0];
	uint64_t h = vac__ld_acq(head), next;

	do {
		if ((uint32_t)h == 0)
			return false;
		/* May be stale: then the tag has moved and the swap fails. */
		next = vac__ld_rlx(&l->rec[(uint32_t)h - 1].next);
	} while (!vac__cas(head, &h, ((h >> 32) + 1) << 32 | next));
	*index = (uint32_t)h - 1;
	return true;
}

static void push(struct vac__ledger *l, uint32_t shard, uint32_t index)
{
	_Atomic uint64_t *head = &l->free[shard][0];
	uint64_t h = vac__ld_rlx(head);

	do {
		vac__st_rlx(&l->rec[index].next, (uint32_t)h);
	} while (!vac__cas(head, &h, ((h >> 32) + 1) << 32 | (index + 1)));
}

/*
 * A free record: from this thread's shard, from another, or a new one. Records go home when they are
 * freed, so a thread whose pins are dropped by another still finds its own again. -ENOMEM: a million
 * are live.
 */
int vac__rec_take(struct vac_pool *pool, uint32_t *index)
{
	struct vac__ledger *l = &pool->ledger;
	uint32_t shard = vac__port_tid() % VAC__LEDGER_SHARDS;
	uint32_t top;

	for (uint32_t i = 0; i < VAC__LEDGER_SHARDS; i++)
		if (pop(l, (shard + i) % VAC__LEDGER_SHARDS, index))
			return 0;
	VAC__ENTER();
	vac__lock(&l->grow, VAC__RANK_LEDGER);
	top = vac__ld_rlx(&l->top);
	if (top < VAC__LEDGER_MAX) {
		vac__port_table_dense(l->rec, sizeof(*l->rec) * VAC__LEDGER_MAX,
				      sizeof(*l->rec) * top, sizeof(*l->rec) * VAC__LEDGER_GROW);
		for (uint32_t i = top; i < top + VAC__LEDGER_GROW; i++)
			l->rec[i].home = shard;
		vac__st_rel(&l->top, top + VAC__LEDGER_GROW);
		for (uint32_t i = top + 1; i < top + VAC__LEDGER_GROW; i++)
			push(l, shard, i);
	}
	vac__unlock(&l->grow, VAC__RANK_LEDGER);
	VAC__LEAVE();
	if (top < VAC__LEDGER_MAX) {
		*index = top;
		return 0;
	}
	return -ENOMEM;
}

void vac__rec_free(struct vac_pool *pool, uint32_t index)
{
	push(&pool->ledger, pool->ledger.rec[index].home, index);
}

/* ---- Runs ----------------------------------------------------------------------------------- */

/*
 * Room for so many runs, more than four: the record's own array, kept with the record for the next user
 * of it. Readers may be in the old array: it is never given back before the pool is closed. nr: that are
 * there. Nobody else changes the record's runs.
 */
int vac__runs_room(struct vac__pin_rec *r, uint32_t nr, uint64_t runs)
{
	uint32_t cap = vac__ld_rlx(&r->more_runs);
	_Atomic uint64_t *more, *old = vac__ld_rlx(&r->more);

	if (runs <= VAC__PIN_RUNS || cap >= runs)
		return 0;
	runs = runs < VAC__PB_PAGES ? VAC__PB_PAGES : runs;
	/* Metadata is never refused for want of host mappings, but there may be many of these. */
	if (!vac__port_vma_charge(1, false))
		return -ENOMEM;
	VAC__ENTER();
	more = vac__port_meta_reserve((runs + VAC__MORE_HEAD) * sizeof(*more));
	VAC__LEAVE();
	vac__port_vma_charge(-1, true);
	if (!more)
		return -ENOMEM;
	/* In front: the array before it and its size, for the end of the pool. */
	vac__st_rlx(&more[0], (uintptr_t)old);
	vac__st_rlx(&more[1], cap);
	more += VAC__MORE_HEAD;
	for (uint32_t i = 0; i < nr; i++)
		vac__st_rlx(&more[i], vac__ld_rlx(i < VAC__PIN_RUNS ? &r->run[i] : &old[i]));
	vac__st_rel(&r->more, more);
	vac__st_rel(&r->more_runs, (uint32_t)runs);
	return 0;
}

/* One folio a run: from the last one down, as there are no fewer than runs. */
static uint32_t explode(_Atomic uint64_t *run, uint32_t nr, uint32_t folios)
{
	uint32_t at = folios;

	for (uint32_t i = nr; i-- > 0;) {
		uint64_t v = vac__ld_rlx(&run[i]);
		uint32_t bits = (uint32_t)(v >> 32) & ~VAC__RUN_FOLIOS;
		uint32_t n = (uint32_t)(v >> 32) & VAC__RUN_FOLIOS;
		uint32_t step = bits & VAC__RUN_HUGE ? VAC__PB_PAGES : 1;

		while (n-- > 0) {
			at--;
			vac__st_rlx(&run[at],
				    (uint64_t)(bits | 1) << 32 | ((uint32_t)v + n * step));
		}
	}
	return folios;
}

static uint32_t join(_Atomic uint64_t *run, uint32_t nr)
{
	uint32_t out = 0;

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t v = vac__ld_rlx(&run[i]), last = out ? vac__ld_rlx(&run[out - 1]) : 0;
		uint32_t n = (uint32_t)(last >> 32), bits = n & ~VAC__RUN_FOLIOS;
		uint32_t more = (uint32_t)(v >> 32) & VAC__RUN_FOLIOS;
		uint32_t step = bits & VAC__RUN_HUGE ? VAC__PB_PAGES : 1;

		if (out && bits == ((uint32_t)(v >> 32) & ~VAC__RUN_FOLIOS) &&
		    (uint32_t)v == (uint32_t)last + (n & VAC__RUN_FOLIOS) * step)
			vac__st_rlx(&run[out - 1], last + ((uint64_t)more << 32));
		else {
			vac__st_rlx(&run[out], v);
			out++;
		}
	}
	return out;
}

/*
 * The folio at frame first + i of a pageblock is the one at to[i] from now on, where that is not
 * VAC__NO_PFN, and marked as moved. to NULL: take the marks away. There is room for a run a folio. A
 * reader at the same time may miss a folio, or see one twice.
 */
void vac__runs_replace(struct vac__pin_rec *r, uint32_t first, const uint32_t *to)
{
	uint32_t nr = vac__ld_rlx(&r->nr_runs), folios = 0;
	_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_rlx(&r->more) : r->run;

	for (uint32_t i = 0; i < nr; i++)
		folios += (uint32_t)(vac__ld_rlx(&run[i]) >> 32) & VAC__RUN_FOLIOS;
	if (to && folios > VAC__PIN_RUNS && nr <= VAC__PIN_RUNS) {
		run = vac__ld_rlx(&r->more);
		for (uint32_t i = 0; i < nr; i++)
			vac__st_rlx(&run[i], vac__ld_rlx(&r->run[i]));
	}
	if (to)
		nr = explode(run, nr, folios);
	for (uint32_t i = 0; i < nr; i++) {
		uint64_t v = vac__ld_rlx(&run[i]);
		uint32_t at = (uint32_t)v - first;

		if (!to)
			v &= ~((uint64_t)VAC__RUN_MOVED << 32);
		else if ((uint32_t)v >= first && at < VAC__PB_PAGES && to[at] != VAC__NO_PFN)
			v = (v & ~(uint64_t)UINT32_MAX) | (uint64_t)VAC__RUN_MOVED << 32 | to[at];
		vac__st_rlx(&run[i], v);
	}
	nr = join(run, nr);
	for (uint32_t i = 0; i < nr; i++)
		folios -= (uint32_t)(vac__ld_rlx(&run[i]) >> 32) & VAC__RUN_FOLIOS;
	VAC__DEBUG_ASSERT(folios == 0);
	for (uint32_t i = 0; i < nr && i < VAC__PIN_RUNS; i++)
		vac__st_rel(&r->run[i], vac__ld_rlx(&run[i]));
	vac__st_rel(&r->nr_runs, nr);
}

/* The number + 1 of a call stack, kept once; 0 when there is no room for another. */
uint32_t vac__stack_intern(struct vac_pool *pool, const uintptr_t *pc, unsigned depth)
{
	struct vac__ledger *l = &pool->ledger;
	uint32_t hash = 2166136261u, found = 0;

	if (depth == 0)
		return 0;
	for (unsigned i = 0; i < depth; i++)
		hash = (hash ^ (uint32_t)(pc[i] ^ (uint64_t)pc[i] >> 32)) * 16777619u;
	VAC__ENTER();
	vac__lock(&l->grow, VAC__RANK_LEDGER);
	for (uint32_t k = 0; k < VAC__STACKS_MAX && !found; k++) {
		uint32_t i = (hash + k) % VAC__STACKS_MAX;
		struct vac__stack *s = &l->stacks[i];

		if (vac__ld_rlx(&s->depth) == 0) {
			s->hash = hash;
			memcpy(s->pc, pc, depth * sizeof(*pc));
			vac__st_rel(&s->depth, depth);
			found = i + 1;
		} else if (s->hash == hash && vac__ld_rlx(&s->depth) == depth &&
			   memcmp(s->pc, pc, depth * sizeof(*pc)) == 0) {
			found = i + 1;
		}
	}
	vac__unlock(&l->grow, VAC__RANK_LEDGER);
	VAC__LEAVE();
	return found;
}

/* ---- Readers -------------------------------------------------------------------------------- */

/* A copy of a live record. False if there is none at that moment. */
bool vac__pin_view(struct vac_pool *pool, uint32_t index, struct vac__pin_view *v)
{
	struct vac__pin_rec *r = &pool->ledger.rec[index];
	uint32_t seq = vac__ld(&r->seq), stack;
	uint64_t owner[VAC_OWNER_MAX / 8];

	if (!vac__seq_used(seq))
		return false;
	v->flags = vac__ld_acq(&r->flags);
	v->error = v->flags & VAC__PIN_EXT ? vac__ld_rlx(&pool->ledger.ext[index].error) : 0;
	v->tid = vac__ld_acq(&r->tid);
	v->space = vac__ld_acq(&r->space);
	v->nr_runs = vac__ld_acq(&r->nr_runs);
	v->addr = vac__ld_acq(&r->addr);
	v->len = vac__ld_acq(&r->len);
	v->when_ns = vac__ld_acq(&r->when_ns);
	stack = vac__ld_acq(&r->stack);
	for (unsigned i = 0; i < VAC_OWNER_MAX / 8; i++)
		owner[i] = vac__ld_acq(&r->owner[i]);
	if (!vac__seq_same(seq, vac__ld(&r->seq)))
		return false;
	for (unsigned i = 0; i < VAC_OWNER_MAX; i++)
		v->owner[i] = (char)(owner[i / 8] >> i % 8 * 8);
	v->owner[VAC_OWNER_MAX - 1] = '\0';
	v->depth = 0;
	if (stack) {
		struct vac__stack *s = &pool->ledger.stacks[stack - 1];

		v->depth = vac__ld_acq(&s->depth);
		memcpy(v->stack, s->pc, v->depth * sizeof(s->pc[0]));
	}
	return true;
}

/* Go through the runs of a record: fn(ctx, first, step, n) until it answers true. False if the
 * record is not live, or fn never did, or the record's life ended meanwhile. */
bool vac__pin_runs(struct vac_pool *pool, uint32_t index, vac__run_fn *fn, void *ctx)
{
	struct vac__pin_rec *r = &pool->ledger.rec[index];
	uint32_t seq = vac__ld(&r->seq), nr = vac__ld_acq(&r->nr_runs);
	/* The overflow array of a record only ever grows, and is never unmapped while the pool
	 * lives, so a torn read reads old runs and is thrown away by the check of seq. */
	_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_acq(&r->more) : r->run;
	bool yes = false;

	if (!vac__seq_used(seq) || !run)
		return false;
	if (nr > VAC__PIN_RUNS && nr > vac__ld_acq(&r->more_runs))
		return false;
	for (uint32_t i = 0; i < nr && !yes; i++) {
		uint64_t v = vac__ld_acq(&run[i]);
		uint32_t n = (uint32_t)(v >> 32);

		yes = fn(ctx, (uint32_t)v, n & VAC__RUN_HUGE ? VAC__PB_PAGES : 1,
			 n & VAC__RUN_FOLIOS);
	}
	return yes && vac__seq_same(seq, vac__ld(&r->seq));
}

static bool run_has(void *ctx, uint32_t first, uint32_t step, uint32_t n)
{
	uint32_t pfn = *(const uint32_t *)ctx;

	return pfn >= first && (pfn - first) % step == 0 && (pfn - first) / step < n;
}

/* Does this record hold the folio whose head is pfn? */
bool vac__pin_holds(struct vac_pool *pool, uint32_t index, uint32_t pfn)
{
	return vac__pin_runs(pool, index, run_has, &pfn);
}

static bool run_meets(void *ctx, uint32_t first, uint32_t step, uint32_t n)
{
	const uint32_t *r = ctx; /* first, frames */

	return first < r[0] + r[1] && first + (n - 1) * step >= r[0];
}

/* Does this record hold a folio among these frames? */
bool vac__pin_touches(struct vac_pool *pool, uint32_t index, uint32_t first, uint32_t frames)
{
	uint32_t r[2] = {first, frames};

	return vac__pin_runs(pool, index, run_meets, r);
}

static bool run_sum(void *ctx, uint32_t first, uint32_t step, uint32_t n)
{
	(void)first, (void)step;
	*(uint64_t *)ctx += n;
	return false;
}

/* How many pins a record has counted. Exact while nobody works on it. */
uint64_t vac__pin_sum(struct vac_pool *pool, uint32_t index)
{
	uint64_t n = 0;

	vac__pin_runs(pool, index, run_sum, &n);
	return n;
}

/* The next record at or after *cursor that holds pfn; *cursor moves past it. */
bool vac__pin_find(struct vac_pool *pool, uint32_t pfn, uint32_t *cursor, struct vac__pin_view *v)
{
	uint32_t top = vac__ld_acq(&pool->ledger.top);

	while (*cursor < top) {
		uint32_t i = (*cursor)++;

		if (vac__pin_holds(pool, i, pfn) && vac__pin_view(pool, i, v))
			return true;
	}
	return false;
}

bool vac__ledger_space_held(struct vac_pool *pool, uint32_t space_id)
{
	struct vac__pin_view v;

	for (uint32_t i = 0; i < vac__ld_acq(&pool->ledger.top); i++)
		if (vac__pin_view(pool, i, &v) && v.space == space_id + 1)
			return true;
	return false;
}

/* SPDX-License-Identifier: MIT */
/*
 * Pins.
 *
 * The fast path takes no lock and makes no system call: read the slot, count a pin on its folio,
 * read the slot again. Both the count and a migrator's change of the slot are full barriers, so
 * either the migrator sees the pin and backs off, or we see the changed slot and take the pin back;
 * never both succeed (semantics.md E.6). What may be stale: the first read of the slot (the second
 * one decides), and the folio's identity in between (try_pin refuses what is free, frozen or
 * gated; a frame freed and used again shows in the slot).
 *
 * A gated folio: everything that this call has pinned is released before it waits, so that the one
 * who waits for those pins is not waiting for us (semantics.md G.6 step 2). The wait holds nothing.
 */
#include "internal.h"

struct pinning {
	struct vac_pool *pool;
	struct vac__pin_rec *rec;
	uint32_t index, nr;
	uint64_t last; /* the run being extended, not stored yet; 0: none */
};

static void store_run(struct vac__pin_rec *r, uint32_t i, uint64_t run)
{
	uint32_t cap = vac__ld_rlx(&r->more_runs);

	if (i < VAC__PIN_RUNS)
		vac__st_rel(&r->run[i], run);
	if (i < cap)
		vac__st_rel(&vac__ld_rlx(&r->more)[i], run);
}

/* Count a folio into the runs. The run is stored before the next folio is pinned, so the record
 * names every folio that it holds but, for a moment, the last. */
static void add_run(struct pinning *p, uint32_t pfn, bool huge)
{
	uint32_t first = (uint32_t)p->last, n = (uint32_t)(p->last >> 32);
	uint32_t step = huge ? VAC__PB_PAGES : 1;

	if (p->nr && ((n & VAC__RUN_HUGE) != 0) == huge &&
	    pfn == first + (n & VAC__RUN_FOLIOS) * step) {
		n++;
		p->last = (uint64_t)n << 32 | first;
		store_run(p->rec, p->nr - 1, p->last);
		return;
	}
	p->last = (uint64_t)(1 | (huge ? VAC__RUN_HUGE : 0)) << 32 | pfn;
	store_run(p->rec, p->nr, p->last);
	p->nr++;
	vac__st_rel(&p->rec->nr_runs, p->nr);
}

/* Freeing a folio takes the allocator's lock, which asks for blocked signals. */
static void put_pin(struct vac_pool *pool, uint32_t pfn)
{
	uint64_t w = vac__w_put(&vac__frame(pool, pfn)->word, VAC__W_PIN);

	if (vac__w_free(w) && !(w & VAC__W_FROZEN)) {
		VAC__ENTER();
		vac__folio_free(pool, pfn);
		VAC__LEAVE();
	} else {
		vac__progress(pool);
	}
}

static void release_runs(struct vac_pool *pool, struct vac__pin_rec *r)
{
	uint32_t nr = vac__ld_rlx(&r->nr_runs);
	_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_rlx(&r->more) : r->run;

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t v = vac__ld_rlx(&run[i]);
		uint32_t first = (uint32_t)v, n = (uint32_t)(v >> 32);
		uint32_t step = n & VAC__RUN_HUGE ? VAC__PB_PAGES : 1;

		n &= VAC__RUN_FOLIOS;
		for (uint32_t k = 0; k < n; k++)
			put_pin(pool, first + k * step);
	}
}

/*
 * Pin the folio of one page. 1: pinned, *huge says what. 0: not present with the access wanted.
 * -EAGAIN: gated or frozen, *pfn is the one to wait for.
 */
static int pin_page(struct vac_space *s, uint32_t page, unsigned access, uint32_t *pfn, bool *huge)
{
	uint64_t need = VAC__E_EXCL | VAC__E_HREAD | (access & VAC__WRITE ? VAC__E_HWRITE : 0);
	vac__entry *slot = vac__pmd(s, page >> VAC__PB_ORDER);
	uint64_t e = vac__ld_acq(slot);
	int r;

	*huge = (e & VAC__E_TYPE) != VAC__E_TABLE;
	if (!*huge) {
		slot = vac__pte(s, page);
		e = vac__ld_acq(slot);
	}
	if (!vac__e_present(e) || (e & need) != need)
		return 0;
	*pfn = vac__e_pfn(e);
	VAC__SYNC("pin_read_pte", *pfn);
	r = vac__w_try_pin(&vac__frame(s->pool, *pfn)->word);
	if (r == -ENOENT)
		return 0; /* the slot is about to change, or has */
	if (r < 0)
		return r;
	VAC__SYNC("pin_counted", *pfn);
	/* Rights may have been narrowed and widened meanwhile: only what it names matters, and
	 * that it is still there. */
	if (vac__ld(slot) != e) {
		put_pin(s->pool, *pfn);
		return 0;
	}
	VAC__SYNC("pin_rechecked", *pfn);
	return 1;
}

/* Pin [page, end). 0; -EAGAIN: some are pinned, and *pfn is gated or frozen; else an error. */
static int pin_range(struct pinning *p, struct vac_space *s, uint32_t page, uint32_t end,
		     unsigned access, uint32_t *pfn)
{
	while (page < end) {
		bool huge;
		int r;

		if (p->nr == VAC__PIN_RUNS) {
			r = vac__runs_room(p->rec, p->nr, end - page + VAC__PIN_RUNS);
			if (r < 0)
				return r;
		}
		r = pin_page(s, page, access, pfn, &huge);
		if (r < 0)
			return r;
		if (r == 0) {
			VAC__ENTER();
			r = vac__fault_in(s, page, access | VAC__UNSHARE);
			VAC__LEAVE();
			if (r < 0)
				return r;
			continue;
		}
		add_run(p, *pfn, huge);
		page = huge ? (page / VAC__PB_PAGES + 1) * VAC__PB_PAGES : page + 1;
	}
	return 0;
}

/* Wait until the folio that refused a pin may have let go of it. Nothing is held. */
static void wait_turn(struct vac_pool *pool, uint32_t pfn)
{
	uint64_t w = vac__ld(&vac__frame(pool, pfn)->word);
	uint32_t ticket;

	VAC__ENTER();
	if (w & VAC__W_GATED)
		vac__gate_wait(pool, pfn);
	else if (vac__folio_wait_prepare(pool, pfn, &ticket))
		vac__folio_wait(pool, pfn, ticket);
	VAC__LEAVE();
}

static void write_record(struct vac__pin_rec *r, struct vac_space *s, uintptr_t addr, size_t len,
			 unsigned flags, const char *owner)
{
	size_t n = 0;

	if (!owner)
		owner = "?";
	/* Packed in a register: bytes written to memory and read back as words would wait for the
	 * store buffer, which costs as much as an atomic. */
	for (unsigned i = 0; i < VAC_OWNER_MAX / 8; i++) {
		uint64_t word = 0;

		for (unsigned k = 0; k < 64 && n < VAC_OWNER_MAX - 1 && owner[n]; k += 8)
			word |= (uint64_t)(unsigned char)owner[n++] << k;
		vac__st_rlx(&r->owner[i], word);
	}
	vac__st_rlx(&r->flags, flags);
	vac__st_rlx(&r->tid, vac__port_tid());
	vac__st_rlx(&r->space, s->id + 1);
	vac__st_rlx(&r->addr, addr);
	vac__st_rlx(&r->len, len);
	vac__st_rlx(&r->when_ns, vac__port_now_coarse());
	vac__st_rlx(&r->nr_runs, 0);
	vac__st_rlx(&r->stack, 0);
}

static uint32_t ext_flags(const struct vac_pin_opts *o)
{
	return !o ? 0
		  : (o->relocate ? VAC_OWNER_RELOCATABLE : 0) |
			       (o->revoke ? VAC_OWNER_REVOCABLE : 0);
}

/* Inlined, so that a pin without callbacks pays nothing for them. */
static inline __attribute__((always_inline)) int take(struct vac_space *space, const void *addr,
						      size_t len, unsigned flags, const char *owner,
						      const struct vac_pin_opts *ext, uint64_t *pin)
{
	struct vac_pool *pool;
	struct pinning p = {0};
	uintptr_t a = (uintptr_t)addr, base;
	uint32_t first, end, pfn = 0, seq, keep;
	size_t bytes;
	int r;

	if (vac__port_forked())
		return -EPERM;
	pool = p.pool = space->pool;
	base = (uintptr_t)space->base;
	bytes = (size_t)space->vpbs << VAC__PB_SHIFT;
	if (len == 0 || !pin || a + len < a ||
	    (flags & ~(VAC_PIN_WRITE | VAC_PIN_LONGTERM | VAC_PIN_STACK | VAC_PIN_NOWAIT)))
		return -EINVAL;
	if (a < base || a - base >= bytes || len > bytes - (a - base))
		return -EFAULT;
	first = (uint32_t)((a - base) >> VAC__PAGE_SHIFT);
	end = (uint32_t)((a - base + len - 1) >> VAC__PAGE_SHIFT) + 1;

	r = vac__rec_take(pool, &p.index);
	if (r < 0)
		return r;
	p.rec = &pool->ledger.rec[p.index];
	if (ext) {
		r = vac__ext_begin(pool, p.index, ext);
		if (r < 0) {
			vac__rec_free(pool, p.index);
			return r;
		}
	}
	keep = (flags & ~VAC_PIN_NOWAIT) | ext_flags(ext);
	write_record(p.rec, space, a, len, keep, owner);
	if ((flags & VAC_PIN_STACK) || (pool->opts.flags & VAC_POOL_STACKS)) {
		uintptr_t pc[VAC_STACK_MAX];
		unsigned depth = vac__port_stack(pc, VAC_STACK_MAX);

		vac__st_rlx(&p.rec->stack, vac__stack_intern(pool, pc, depth));
	}
	if (flags & VAC_PIN_LONGTERM)
		vac__add(&pool->ledger.longterm, 1);
	/* From here on a report finds the record: the first pin is counted by a full barrier. */
	seq = vac__ld_rlx(&p.rec->seq) + VAC__SEQ_LIVE;
	vac__st_rel(&p.rec->seq, seq);

	for (;;) {
		bool fork = false;

		r = pin_range(&p, space, first, end, flags & VAC_PIN_WRITE ? VAC__WRITE : VAC__READ,
			      &pfn);
		/* Looked at after a pin was counted, which is a full barrier: either we see the
		 * gate, or fork() sees our record. */
		if (r == 0)
			fork = vac__fork_waits(pool, flags);
		if (r == 0 && fork)
			r = -EAGAIN;
		if (r != -EAGAIN || flags & VAC_PIN_NOWAIT)
			break;
		/* A fork() must not wait for a record that holds nothing. */
		vac__st(&p.rec->flags, keep & ~VAC_PIN_WRITE);
		release_runs(pool, p.rec);
		vac__st_rel(&p.rec->nr_runs, 0);
		p.nr = 0;
		vac__progress(pool);
		if (fork)
			vac__fork_wait(pool);
		else
			wait_turn(pool, pfn);
		vac__st(&p.rec->flags, keep);
	}
	if (r < 0) {
		if (ext)
			vac__ext_end(pool, p.index);
		release_runs(pool, p.rec);
		vac__st_rel(&p.rec->seq, seq + 3);
		if (flags & VAC_PIN_LONGTERM)
			vac__sub(&pool->ledger.longterm, 1);
		vac__rec_free(pool, p.index);
		return r;
	}
	*pin = (uint64_t)seq << 32 | p.index;
	if (ext)
		vac__ext_ready(pool, *pin);
	return 0;
}

int vac_pin(struct vac_space *space, const void *addr, size_t len, unsigned flags,
	    const char *owner, uint64_t *pin)
{
	return take(space, addr, len, flags, owner, NULL, pin);
}

int vac_pin_with(struct vac_space *space, const void *addr, size_t len,
		 const struct vac_pin_opts *opts, struct vac_pin_result *res, uint64_t *pin)
{
	struct vac_pin_opts o = {.size = sizeof(o)};
	struct vac_pin_result answer = {.size = sizeof(answer)};
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(o))
			return -EINVAL;
		memcpy(&o, opts, opts->size);
	}
	if (res && (res->size < sizeof(size_t) || res->size > sizeof(answer)))
		return -EINVAL;
	if (o.relocate)
		o.flags |= VAC_PIN_LONGTERM;
	r = take(space, addr, len, o.flags, o.owner, o.relocate || o.revoke ? &o : NULL, pin);
	if (res) {
		answer.size = res->size;
		memcpy(res, &answer, res->size);
	}
	return r;
}

int vac_unpin(struct vac_pool *pool, uint64_t pin)
{
	uint32_t index = (uint32_t)pin, seq = (uint32_t)(pin >> 32), flags;
	struct vac__pin_rec *r;

	if (vac__port_forked())
		return -EPERM;
	if (index >= vac__ld_acq(&pool->ledger.top) || (seq & 3) != VAC__SEQ_LIVE)
		return -EINVAL;
	r = &pool->ledger.rec[index];
	/* Who ends this life drops its pins: exactly one caller, whatever handles others hold. */
	if (!vac__cas(&r->seq, &seq, seq - VAC__SEQ_LIVE + VAC__SEQ_RELEASED))
		return -EINVAL;
	flags = vac__ld_rlx(&r->flags);
	if (flags & VAC__PIN_EXT)
		vac__ext_end(pool, index);
	release_runs(pool, r);
	if (flags & VAC_PIN_LONGTERM)
		vac__sub(&pool->ledger.longterm, 1);
	vac__st_rel(&r->seq, seq + 3);
	vac__rec_free(pool, index);
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * fork() with a pool whose policy is VAC_POOL_FORK_COPY, and the list of all pools.
 *
 *	prepare  let the short write pins in hand drain, and new ones wait; hold every page table of
 *	         the pool still, stop all writers, copy what is mapped into private memory that the
 *	         child will inherit
 *	fork()
 *	parent   drop that copy, let the writers go on
 *	child    move the copy to the addresses of the pages copied
 *
 * The copy is made by the parent before the fork, not by the child after it: all that can fail has
 * then failed before there is a child, nobody waits for a process that may die, and the child needs
 * nothing of the engine. Writers are stopped until the fork is over, so what the child finds in the
 * pool is of the same instant as the rest of its memory.
 *
 * Invariants:
 *  - from prepare to parent the forking thread holds the pools' lock and, of each space, the space's
 *    and the family's locks for write: no entry changes, no page appears or goes. A migration may
 *    be under way: its source is read-only and stays where it is until it can be published, which
 *    takes the family's lock;
 *  - each run of pages that the host lets the program write has been told to leave, and stays before
 *    the locks are released: E_HWRITE is never out of step with the host for anybody who can look;
 *  - a copy is whole or none is handed over: a child without one finds SIGBUS, never other bytes.
 *
 * This thread takes many locks of one rank, which no other may. Nobody can wait for it in a circle:
 * there is one collector at a time, and whoever else holds a space's lock asks for no other space's.
 * Who holds a family's lock or a folio's, but no space's, waits for us, and we wait for neither.
 */
#include "internal.h"

struct vac_pool *vac__pools; /* guarded by pools_lock; a debugger reads it too */

#ifdef VAC_SIM

/* A world of the simulator has one process and one pool. */
void vac__pool_link(struct vac_pool *pool)
{
	(void)pool;
}

void vac__pool_unlink(struct vac_pool *pool)
{
	(void)pool;
}

void vac__fork_pass(struct vac_pool *pool)
{
	(void)pool;
}

void vac__fork_wait(struct vac_pool *pool)
{
	(void)pool;
}

#else

static struct vac__mutex pools_lock; /* rank pools */

/* A mapping that the child gets. In memory that it inherits. */
struct row {
	uintptr_t addr, area; /* where it belongs, where the copy is */
	size_t bytes;
	unsigned prot;
};

/* The fork in hand. Guarded by pools_lock; the child has a copy of it. */
static struct {
	/* The thread that holds the pools still; 0: nobody; PASSING: all is being let go on its behalf, by
	 * itself or by the thread that serves its fault. Who changes it from a thread to PASSING is the one
	 * who lets go; what he does is done when it is 0. */
	_Atomic uint32_t owner;
	bool ready; /* the copy is good */
	struct row *rows;
	size_t nr_rows, rows_bytes;
	uint8_t *area;
	size_t area_bytes, touch_bytes;
} f;

#define PASSING UINT32_MAX

static bool copies(const struct vac_pool *pool)
{
	return pool->opts.flags & VAC_POOL_FORK_COPY;
}

/* ---- Walking what is mapped ------------------------------------------------------------------ */

/* Call fn for each pool that wants a copy, for each of its spaces; stops at an error. */
static int each_space(int (*fn)(struct vac_space *s))
{
	int r = 0;

	for (struct vac_pool *p = vac__pools; p && r == 0; p = p->next)
		for (uint32_t i = 0; copies(p) && i < VAC__MAX_SPACES && r == 0; i++) {
			struct vac_space *s = vac__ld(&p->spaces[i]);

			if (s)
				r = fn(s);
		}
	return r;
}

/* The entry of a page, and for how many pages from there on it stands. */
static uint64_t entry(struct vac_space *s, uint32_t page, uint32_t *n)
{
	uint64_t e = vac__ld_rlx(vac__pmd(s, page >> VAC__PB_ORDER));
	uint32_t in = page % VAC__PB_PAGES;

	if ((e & VAC__E_TYPE) == VAC__E_TABLE) {
		*n = 1;
		return vac__ld_rlx(vac__pte(s, page));
	}
	*n = VAC__PB_PAGES - in;
	return e ? e + ((uint64_t)in << VAC__E_PFN_SHIFT) : 0;
}

static size_t page_bytes(uint32_t n)
{
	return (size_t)n << VAC__PAGE_SHIFT;
}

/* ---- Stopping writers ------------------------------------------------------------------------ */

/* The next run [*at, *to) of pages before end that the program can write without a fault. */
static bool writable_run(struct vac_space *s, uint32_t *at, uint32_t *to, uint32_t end)
{
	uint32_t p = *at, n;
	uint64_t kind = 0;
	bool in = false;

	for (; p < end; p += n) {
		uint64_t e = entry(s, p, &n);
		bool w = vac__e_present(e) && (e & VAC__E_HWRITE);

		if (in && (!w || (e & (VAC__E_HWATCH | VAC__E_HBLIND)) != kind))
			break;
		kind = e & (VAC__E_HWATCH | VAC__E_HBLIND);
		if (!in && w)
			*at = p;
		in = w;
	}
	*to = p < end ? p : end;
	return in;
}

static unsigned vma_prot(const struct vac__vma *v)
{
	return (v->prot ? VAC__READ : 0) | (v->prot & VAC_PROT_WRITE ? VAC__WRITE : 0);
}

/* How many pages from `page` on, before end, lie in frames that follow one another in one block. */
static uint32_t linear(struct vac_space *s, uint32_t page, uint32_t end)
{
	uint32_t pfn = vac__e_pfn(entry(s, page, &(uint32_t){0})), n, k = 0;

	while (page + k < end) {
		uint64_t e = entry(s, page + k, &n);

		if (!vac__pfn_follows(s->pool, pfn, k, vac__e_pfn(e)))
			break;
		k += n < end - page - k ? n : end - page - k;
	}
	return k;
}

static void run_stays(struct vac_space *s, uint32_t at, uint32_t to)
{
	for (uint32_t n; at < to; at += n) {
		uint64_t e = entry(s, at, &n);
		uint32_t pfn = vac__e_pfn(e);

		n = linear(s, at, to);
		s->pool->mem->stay(s->pool->mem_ctx, vac__page_addr(s, at), page_bytes(n),
				   &vac__pfn_block(s->pool, pfn)->backing,
				   vac__pfn_off(s->pool, pfn), vac__host_prot(e));
	}
}

/* Let writers go on in the first n runs of a space. */
static void writers_go(struct vac_space *s, uint32_t n)
{
	for (uint32_t i = 0; i < s->nr_vmas; i++) {
		const struct vac__vma *v = &s->vmas[i];
		uint32_t at = v->start, to;

		for (; n && at < v->end && writable_run(s, &at, &to, v->end); at = to, n--) {
			run_stays(s, at, to);
			vac__port_vma_charge(-2, true);
		}
	}
	s->fork_runs = 0;
}

static int writers_stop(struct vac_space *s)
{
	for (uint32_t i = 0; i < s->nr_vmas; i++) {
		const struct vac__vma *v = &s->vmas[i];
		uint32_t at = v->start, to, n;

		for (; at < v->end && writable_run(s, &at, &to, v->end); at = to) {
			unsigned blind = vac__host_prot(entry(s, at, &n)) & VAC__BLIND;
			int r = -ENOBUFS;

			if (vac__port_vma_charge(2, false)) {
				r = s->pool->mem->leave(s->pool->mem_ctx, vac__page_addr(s, at),
							page_bytes(to - at),
							VAC__READ | VAC__WRITE | blind);
				if (r < 0)
					vac__port_vma_charge(-2, true);
			}
			if (r < 0)
				return r;
			s->fork_runs++;
		}
	}
	return 0;
}

/* ---- Pins ------------------------------------------------------------------------------------ */

/*
 * While the memory is read-only a transfer of the kernel into it would fail, or be caught half way. So
 * short pins for writing get the time of a gate to go, and new ones wait for the end of the fork. Long
 * ones are not waited for, nor are those of the thread that forks.
 */
static bool short_pin(struct vac_pool *pool)
{
	uint32_t self = vac__port_tid();

	for (uint32_t i = 0; i < vac__ld_acq(&pool->ledger.top); i++) {
		struct vac__pin_rec *r = &pool->ledger.rec[i];

		if ((vac__ld(&r->seq) & 3) == VAC__SEQ_LIVE &&
		    (vac__ld(&r->flags) & (VAC_PIN_WRITE | VAC_PIN_LONGTERM)) == VAC_PIN_WRITE &&
		    vac__ld(&r->tid) != self)
			return true;
	}
	return false;
}

static void drain(struct vac_pool *pool)
{
	uint64_t end = vac__gate_deadline(pool);

	vac__xchg(&pool->fork_gate, 1);
	vac__add(&pool->offliners, 1); /* whoever drops a pin tells us */
	for (;;) {
		uint32_t seen = vac__event_read(&pool->progress);

		if (!short_pin(pool))
			break;
		if (vac__event_wait(&pool->progress, seen, end) == -ETIMEDOUT) {
			vac__log(pool, VAC_LOG_WARN,
				 "fork: a short pin is still held: a transfer under it may fail "
				 "with EFAULT, or be half done in the child");
			break;
		}
	}
	vac__sub(&pool->offliners, 1);
}

static void open_gates(void)
{
	for (struct vac_pool *p = vac__pools; p; p = p->next) {
		if (!copies(p))
			continue;
		vac__xchg(&p->fork_gate, 0);
		vac__port_wake(&p->fork_gate, INT_MAX);
	}
}

void vac__fork_wait(struct vac_pool *pool)
{
	vac__assert_bare();
	VAC__ENTER();
	while (vac__ld(&pool->fork_gate))
		vac__port_wait(&pool->fork_gate, 1, 0);
	VAC__LEAVE();
}

/* ---- Holding still --------------------------------------------------------------------------- */

static int hold_space(struct vac_space *s)
{
	vac__wrlock(&s->lock, VAC__RANK_MANY);
	return 0;
}

static int hold_family(struct vac_space *s)
{
	struct vac__family *fam = &s->pool->families[s->family];

	if (!fam->held) /* by a space before it, which it is a snapshot of */
		vac__wrlock(&fam->lock, VAC__RANK_MANY);
	fam->held = true;
	return 0;
}

/* All spaces first: whoever holds one may want its family, which it shares with others. */
static void hold(void)
{
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		if (copies(p))
			vac__aio_hold(p);
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		if (copies(p))
			vac__lock(&p->spaces_lock, VAC__RANK_MANY);
	each_space(hold_space);
	each_space(hold_family);
}

static int let_go_space(struct vac_space *s)
{
	struct vac__family *fam = &s->pool->families[s->family];
	bool held = fam->held;

	writers_go(s, s->fork_runs);
	fam->held = false;
	if (held)
		vac__wrunlock(&fam->lock, VAC__RANK_MANY);
	vac__wrunlock(&s->lock, VAC__RANK_MANY);
	return 0;
}

static void let_go(void)
{
	each_space(let_go_space);
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		if (copies(p)) {
			vac__unlock(&p->spaces_lock, VAC__RANK_MANY);
			vac__aio_let_go(p);
		}
	open_gates();
}

/* ---- The copy -------------------------------------------------------------------------------- */

/* A VMA's place in the area has the same offset in a pageblock as the VMA: host pages of 2 MiB then
 * keep their size when they are moved. */
static int plan_space(struct vac_space *s)
{
	for (uint32_t i = 0; i < s->nr_vmas; i++) {
		const struct vac__vma *v = &s->vmas[i];
		size_t off = (uintptr_t)vac__page_addr(s, v->start) & (VAC_PAGEBLOCK_BYTES - 1);

		if (f.rows) {
			struct row *r = &f.rows[f.nr_rows];

			r->addr = (uintptr_t)vac__page_addr(s, v->start);
			r->area = f.area_bytes + off; /* an offset, until the area is there */
			r->bytes = page_bytes(v->end - v->start);
			r->prot = vma_prot(v);
		}
		f.nr_rows++;
		f.area_bytes += (off + page_bytes(v->end - v->start) + VAC_PAGEBLOCK_BYTES - 1) &
				~(VAC_PAGEBLOCK_BYTES - 1);
	}
	return 0;
}

/* How much of a VMA is there, and whether it fills the pageblocks that it is in well enough for the
 * copy to be worth 2 MiB host pages. */
static size_t weigh(struct vac_space *s, const struct vac__vma *v, bool *huge)
{
	uint64_t pages = 0, vpbs = 0;
	uint32_t last = UINT32_MAX, n;

	for (uint32_t p = v->start; p < v->end; p += n) {
		uint64_t e = entry(s, p, &n);

		if (!vac__e_present(e) && !vac__e_migration(e) && !vac__e_swap(e))
			continue;
		pages += n < v->end - p ? n : v->end - p;
		vpbs += p >> VAC__PB_ORDER != last;
		last = p >> VAC__PB_ORDER;
	}
	*huge = pages > vpbs * VAC__PB_PAGES / 2 && !(s->pool->opts.flags & VAC_POOL_NO_HUGE);
	return (size_t)(*huge ? vpbs * VAC__PB_PAGES : pages) << VAC__PAGE_SHIFT;
}

static int weigh_space(struct vac_space *s)
{
	bool huge;

	for (uint32_t i = 0; i < s->nr_vmas; i++)
		f.touch_bytes += weigh(s, &s->vmas[i], &huge);
	return 0;
}

static int copy_vma(struct vac_space *s, const struct vac__vma *v, const struct row *r)
{
	struct vac__peek peek = {.n = 0};
	uint32_t n;
	bool huge;

	weigh(s, v, &huge);
	vac__port_bequest_size(f.area + r->area, r->bytes, huge);
	for (uint32_t p = v->start; p < v->end; p += n) {
		uint64_t e = entry(s, p, &n);
		uint32_t more = 0;

		n = n < v->end - p ? n : v->end - p;
		if (vac__e_swap(e)) {
			int ret = vac__swap_peek(s->pool, &peek, vac__e_pfn(e),
						 f.area + r->area + page_bytes(p - v->start));

			if (ret < 0)
				return ret;
			continue;
		}
		if (!vac__e_present(e) && !vac__e_migration(e))
			continue;
		/* As long as the frames follow one another within a block. */
		while (p + n < v->end) {
			uint64_t next = entry(s, p + n, &more);

			if ((!vac__e_present(next) && !vac__e_migration(next)) ||
			    vac__e_pfn(next) != vac__e_pfn(e) + n ||
			    vac__pfn_block(s->pool, vac__e_pfn(next)) !=
				    vac__pfn_block(s->pool, vac__e_pfn(e)))
				break;
			n += more < v->end - p - n ? more : v->end - p - n;
		}
		vac__port_copy(f.area + r->area + page_bytes(p - v->start),
			       vac__frame_addr(s->pool, vac__e_pfn(e)), page_bytes(n));
	}
	return vac__swap_peek_end(s->pool, &peek);
}

static int copy_space(struct vac_space *s)
{
	int r = 0;

	for (uint32_t i = 0; i < s->nr_vmas && r == 0; i++)
		r = copy_vma(s, &s->vmas[i], &f.rows[f.nr_rows++]);
	return r;
}

static void plan(void)
{
	f.nr_rows = 0;
	f.area_bytes = 0;
	each_space(plan_space);
}

static void forget(void)
{
	if (f.rows)
		vac__port_bequest_free(f.rows, f.rows_bytes);
	if (f.area)
		vac__port_bequest_free(f.area, f.area_bytes);
	f.rows = NULL;
	f.area = NULL;
	f.nr_rows = 0;
	f.ready = false;
}

/* A sentence on why there is no copy; NULL: there is one. */
static const char *make(void)
{
	f.touch_bytes = 0;
	plan();
	if (f.nr_rows == 0)
		return NULL;
	f.rows_bytes = (f.nr_rows * sizeof(*f.rows) + VAC_PAGE_BYTES - 1) & ~(VAC_PAGE_BYTES - 1);
	f.rows = vac__port_bequest(f.rows_bytes, f.rows_bytes);
	if (!f.rows)
		return "fork: no memory for a list of what is mapped: the child has holes in its place";
	plan(); /* the rows themselves, now that there is room for them */
	if (each_space(writers_stop) < 0)
		return "fork: no copy for the child, it gets SIGBUS: the limit on host mappings";
	each_space(weigh_space);
	f.area = vac__port_bequest(f.area_bytes, f.touch_bytes);
	if (!f.area)
		return "fork: no copy for the child, it gets SIGBUS: no memory for it";
	f.nr_rows = 0;
	if (each_space(copy_space) < 0)
		return "fork: no copy for the child, it gets SIGBUS: the swap file cannot be read";
	return NULL;
}

static void log_all(enum vac_log_level level, const char *msg)
{
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		if (copies(p))
			vac__log(p, level, msg);
}

/* ---- The platform's calls -------------------------------------------------------------------- */

/* In the thread that is about to fork, all signals blocked. True: it holds the pools still, and none
 * of its own handlers may touch them before parent() or child(). */
static bool prepare(void)
{
	const char *why;
	bool any = false;

	vac__lock(&pools_lock, VAC__RANK_POOLS);
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		any |= copies(p);
	if (!any) {
		vac__unlock(&pools_lock, VAC__RANK_POOLS);
		return false;
	}
	for (struct vac_pool *p = vac__pools; p; p = p->next)
		if (copies(p))
			drain(p);
	hold();
	why = make();
	f.ready = !why;
	if (why)
		log_all(VAC_LOG_ERROR, why);
	vac__st(&f.owner, vac__port_tid());
	return true;
}

/*
 * The thread that forks has touched what it holds itself: a handler of pthread_atfork() that runs
 * after ours has. It must not wait for itself, so all is let go, and as the child's copy is no longer
 * what the memory is, the child gets none. Under a guard that serves faults in other threads this is
 * one of those; the one that forks sleeps until the fault is served, after this.
 */
void vac__fork_pass(struct vac_pool *pool)
{
	uint32_t owner = vac__port_tid();

	/* A touch of that thread from before the fork, which a signal handler has begun, may still be
	 * served: it waits for the fork to end, as anybody does. */
	if (vac__ld(&f.owner) != owner || !copies(pool) || !vac__port_in_fork() ||
	    !vac__cas(&f.owner, &owner, PASSING))
		return;
	log_all(VAC_LOG_ERROR, "fork: no copy for the child, it gets SIGBUS: an atfork handler "
			       "touched the pool after the copy was made");
	f.ready = false;
	let_go();
	vac__st(&f.owner, 0);
	vac__port_wake(&f.owner, INT_MAX);
}

static void parent(void)
{
	uint32_t owner;

	/* It can be awake too early: a debugger that attaches makes it touch the page again. */
	while ((owner = vac__ld(&f.owner)) == PASSING)
		vac__port_wait(&f.owner, PASSING, 0);
	if (owner) {
		vac__st(&f.owner, 0);
		let_go();
	}
	forget();
	vac__unlock(&pools_lock, VAC__RANK_POOLS);
}

static void child(void)
{
	(void)vac__ld(&f.owner); /* what was done on our behalf is seen */
	for (size_t i = 0; i < f.nr_rows; i++) {
		struct row *r = &f.rows[i];

		if (!f.ready || vac__port_bequest_place((void *)r->addr, r->bytes, f.area + r->area,
							r->prot) < 0)
			vac__port_bequest_deny((void *)r->addr, r->bytes);
	}
	forget();
}

static const struct vac__fork_ops ops = {prepare, parent, child};

/* ---- The list -------------------------------------------------------------------------------- */

void vac__pool_link(struct vac_pool *pool)
{
	vac__lock(&pools_lock, VAC__RANK_POOLS);
	pool->next = vac__pools;
	vac__pools = pool;
	if (copies(pool))
		vac__port_on_fork(&ops);
	vac__unlock(&pools_lock, VAC__RANK_POOLS);
}

void vac__pool_unlink(struct vac_pool *pool)
{
	vac__lock(&pools_lock, VAC__RANK_POOLS);
	for (struct vac_pool **p = &vac__pools; *p; p = &(*p)->next) {
		if (*p == pool) {
			*p = pool->next;
			break;
		}
	}
	vac__unlock(&pools_lock, VAC__RANK_POOLS);
}

#endif

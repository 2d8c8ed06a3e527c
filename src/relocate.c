/* SPDX-License-Identifier: MIT */
/*
 * Pins with callbacks: their holders are asked to keep still while their pages move, or to let go.
 *
 * The offline, for the pageblock in hand:
 *
 *	look      which pins hold its folios, and which of these can move
 *	quiesce   ask the holders, all of them, and wait. Their folios' gates are open meanwhile:
 *	          who is asked may be waiting for a transfer that needs another pin
 *	gate      then close the gates, until no other pins are left
 *	take      from here to `moved` nobody drops such a pin: the counts are exact
 *	migrate   as ever, but that a folio is frozen with the pins that are known, and the new frame has
 *	          them before anybody can find it (vac__mig_item.pins). So there is no moment at which
 *	          a page is not pinned, and one that does not move is as it was
 *	moved     the records name the new frames
 *	resume    repoint() for what has moved, then resume(), for every holder that has kept still
 *
 * Callbacks are made by threads of the pool's own, off a queue; the offline waits for each, for as long as
 * its owner has allowed. Then it is given up, not interrupted: its thread goes on with it, another one
 * takes the queue over. When it returns at last its thread does what is still due: after a quiesce that
 * answers 0, resume; after a repoint, the rest of them and resume. What has been given up holds no folio
 * that was not held before, and none of the frames that have left.
 *
 * Invariants: the state of a record with callbacks changes under reloc.lock, and a callback runs without it.
 * A record is in the queue exactly while its state is ASKED, DUE or REVOKE_DUE. Whoever drops a pin takes
 * it out first, and waits while it is MOVING, or while another thread runs one of its callbacks: so after
 * vac_unpin() nothing of the owner's is called or read.
 */
#include "internal.h"

enum {
	GONE,
	TAKING, /* vac_pin_with() is at it */
	IDLE,
	ASKED, /* to be asked to keep still */
	ASKING,
	QUIET, /* keeps still */
	MOVING,
	DUE, /* has to be told what has moved, if anything, and that it may go on */
	RESUMING,
	REVOKE_DUE,
	REVOKING,
};

#define TIMEOUT_MS 1000u
#define REST_NS 100000000u

static void lock(struct vac__reloc *rl)
{
	vac__lock(&rl->lock, VAC__RANK_RELOCATE);
}

static void unlock(struct vac__reloc *rl)
{
	vac__unlock(&rl->lock, VAC__RANK_RELOCATE);
}

static struct vac__pin_ext *ext_of(struct vac_pool *pool, uint64_t handle)
{
	return &pool->ledger.ext[(uint32_t)handle];
}

static bool running(const struct vac__pin_ext *e)
{
	return e->state == ASKING || e->state == RESUMING || e->state == REVOKING;
}

static bool queued(const struct vac__pin_ext *e)
{
	return e->state == ASKED || e->state == DUE || e->state == REVOKE_DUE;
}

/* Is this still the life that was meant, and nobody about to end it? */
static bool lives(const struct vac__pin_ext *e, uint64_t handle)
{
	return e->handle == handle && e->state != GONE && !e->leaving;
}

static uint64_t timeout_ns(const struct vac__pin_ext *e)
{
	return (uint64_t)(e->ops.timeout_ms ? e->ops.timeout_ms : TIMEOUT_MS) * 1000000;
}

/* The offline, and whoever drops a pin, look again. */
static void tell(struct vac_pool *pool)
{
	vac__event_signal(&pool->reloc.done);
	vac__event_signal(&pool->progress);
}

/* "who: what", to the log. */
static void say(struct vac_pool *pool, uint64_t handle, const char *what)
{
	struct vac__pin_view v;
	char msg[VAC_OWNER_MAX + 96];
	size_t n = 0, len;

	if (!vac__pin_view(pool, (uint32_t)handle, &v))
		return;
	len = strlen(v.owner);
	memcpy(msg, v.owner, len);
	memcpy(msg + len, ": ", 2);
	for (len += 2; what[n] && len < sizeof(msg) - 1; n++)
		msg[len++] = what[n];
	msg[len] = '\0';
	vac__log(pool, VAC_LOG_WARN, msg);
}

/* ---- The queue: the lock is held ------------------------------------------------------------- */

static void enqueue(struct vac_pool *pool, uint32_t index, uint8_t state)
{
	struct vac__reloc *rl = &pool->reloc;

	pool->ledger.ext[index].state = state;
	pool->ledger.ext[index].next = 0;
	if (rl->tail)
		pool->ledger.ext[rl->tail - 1].next = index + 1;
	else
		rl->head = index + 1;
	rl->tail = index + 1;
	vac__event_signal(&rl->kick);
}

static uint32_t dequeue(struct vac_pool *pool)
{
	struct vac__reloc *rl = &pool->reloc;
	uint32_t index = rl->head - 1;

	rl->head = pool->ledger.ext[index].next;
	if (!rl->head)
		rl->tail = 0;
	return index;
}

static void take_out(struct vac_pool *pool, uint32_t index)
{
	struct vac__reloc *rl = &pool->reloc;
	uint32_t *link = &rl->head, before = 0;

	while (*link && *link != index + 1) {
		before = *link;
		link = &pool->ledger.ext[*link - 1].next;
	}
	if (!*link)
		return;
	*link = pool->ledger.ext[index].next;
	if (rl->tail == index + 1)
		rl->tail = before;
}

/* ---- Callbacks -------------------------------------------------------------------------------- */

/* A callback of a record begins, and the lock is dropped for it; and it is over. The latter answers false if
 * the pin was dropped in between, by the callback itself, or is about to be: nothing of it may be called
 * any more. */
static void call_begin(struct vac_pool *pool, struct vac__pin_ext *e, uint8_t state)
{
	e->state = state;
	e->given_up = false;
	e->tid = vac__port_tid();
	e->began_ns = vac__port_now();
	tell(pool); /* from now on its time counts */
	unlock(&pool->reloc);
}

static bool call_end(struct vac_pool *pool, struct vac__pin_ext *e, uint64_t handle, bool *given_up)
{
	lock(&pool->reloc);
	if (!lives(e, handle)) {
		if (e->handle == handle && e->leaving && running(e))
			e->state = IDLE;
		return false;
	}
	*given_up = e->given_up;
	e->given_up = false;
	return true;
}

struct repointing {
	struct vac_pool *pool;
	struct vac__pin_ext *e;
	uint64_t handle;
	uintptr_t at, end; /* where in the pin's range the walk is, and where it ends */
	uintptr_t from;    /* of the stretch that has moved and is not told yet, or 0 */
	bool dropped;
};

/* Tell of [from, at). The lock is held, and dropped meanwhile. */
static void repoint(struct repointing *p)
{
	struct vac__pin_ext *e = p->e;
	bool late = false;
	uintptr_t from = p->from;
	int r;

	p->from = 0;
	if (!from || p->dropped)
		return;
	call_begin(p->pool, e, RESUMING);
	r = e->ops.repoint(e->ctx, p->handle, (void *)from, p->at - from);
	if (!call_end(p->pool, e, p->handle, &late)) {
		p->dropped = true;
		return;
	}
	if (r) {
		vac__st_rlx(&e->error, r < 0 ? r : -EINVAL);
		say(p->pool, p->handle, "could not register pages that have moved");
	} else if (late) {
		vac__st_rlx(&e->error, -ETIMEDOUT);
	}
}

/* Runs are in the order of the pages that they hold; a huge folio ends where its pageblock of addresses
 * does. */
static void repoint_runs(struct repointing *p, uint32_t index)
{
	struct vac__pin_rec *r = &p->pool->ledger.rec[index];
	uint32_t nr = vac__ld_rlx(&r->nr_runs);

	for (uint32_t i = 0; i < nr && !p->dropped; i++) {
		_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_rlx(&r->more) : r->run;
		uint32_t n = (uint32_t)(vac__ld_rlx(&run[i]) >> 32);
		size_t unit = n & VAC__RUN_HUGE ? VAC_PAGEBLOCK_BYTES : VAC_PAGE_BYTES;

		if (!(n & VAC__RUN_MOVED))
			repoint(p);
		else if (!p->from)
			p->from = p->at;
		if (p->dropped)
			return;
		for (uint32_t k = n & VAC__RUN_FOLIOS; k; k--)
			p->at = (p->at / unit + 1) * unit;
		p->at = p->at < p->end ? p->at : p->end;
	}
	repoint(p);
}

/* What is due after a quiesce: tell what has moved, then let it go on. The lock is held. */
static void let_go_on(struct vac_pool *pool, uint32_t index)
{
	struct vac__pin_ext *e = &pool->ledger.ext[index];
	struct vac__pin_rec *r = &pool->ledger.rec[index];
	struct repointing p = {.pool = pool, .e = e, .handle = e->handle};
	bool late;

	e->state = RESUMING;
	p.at = (uintptr_t)vac__ld_rlx(&r->addr);
	p.end = p.at + (uintptr_t)vac__ld_rlx(&r->len);
	repoint_runs(&p, index);
	if (p.dropped)
		return;
	vac__runs_replace(r, 0, NULL);
	call_begin(pool, e, RESUMING);
	e->ops.resume(e->ctx, p.handle);
	if (!call_end(pool, e, p.handle, &late))
		return;
	if (late)
		vac__st_rlx(&e->error, -ETIMEDOUT);
	e->state = IDLE;
}

static void ask(struct vac_pool *pool, uint32_t index)
{
	struct vac__pin_ext *e = &pool->ledger.ext[index];
	uint64_t handle = e->handle;
	bool late;
	int r;

	call_begin(pool, e, ASKING);
	r = e->ops.quiesce(e->ctx, handle);
	if (!call_end(pool, e, handle, &late))
		return;
	if (r == 0 && late) {
		let_go_on(pool, index);
		return;
	}
	if (!late)
		vac__st_rlx(&e->error, r <= 0 ? r : -EINVAL);
	e->state = r ? IDLE : QUIET;
}

static void ask_to_let_go(struct vac_pool *pool, uint32_t index)
{
	struct vac__pin_ext *e = &pool->ledger.ext[index];
	uint64_t handle = e->handle;
	bool late;
	int r;

	call_begin(pool, e, REVOKING);
	r = e->revoke(e->ctx, handle);
	if (!call_end(pool, e, handle, &late))
		return;
	e->willing = r == 0;
	if (!late)
		vac__st_rlx(&e->error, r <= 0 ? r : -EINVAL);
	e->state = IDLE;
}

static void worker(void *arg)
{
	struct vac_pool *pool = arg;
	struct vac__reloc *rl = &pool->reloc;

	vac__port_thread_touches();
	lock(rl);
	rl->nr_idle--;
	for (;;) {
		uint32_t seen = vac__event_read(&rl->kick), index;

		if (!rl->head) {
			bool rest = vac__ld(&pool->longterm.stale);

			rl->nr_idle++;
			unlock(rl);
			if (vac__ld(&rl->stop))
				return;
			/* What may move back can wait until nobody is at it any more. */
			if (vac__event_wait(&rl->kick, seen, rest ? vac__port_now() + REST_NS : 0) <
				    0 &&
			    vac__xchg(&pool->longterm.stale, 0) && !vac__long_back(pool))
				vac__xchg(&pool->longterm.stale, 1);
			lock(rl);
			rl->nr_idle--;
			continue;
		}
		index = dequeue(pool);
		switch (pool->ledger.ext[index].state) {
		case ASKED: ask(pool, index); break;
		case DUE: let_go_on(pool, index); break;
		default: ask_to_let_go(pool, index);
		}
		tell(pool);
	}
}

/* One more thread, if there may be one more. The lock is held. */
static int hire(struct vac_pool *pool)
{
	struct vac__reloc *rl = &pool->reloc;
	int r;

	if (rl->nr_workers == VAC__RELOC_WORKERS)
		return -EAGAIN;
	r = vac__port_thread_start("vacate pins", worker, pool, &rl->thread[rl->nr_workers]);
	if (r == 0) {
		rl->nr_workers++;
		rl->nr_idle++; /* it is, until it says otherwise */
	}
	return r;
}

/* At least one, for what is done in the background. */
void vac__reloc_hire(struct vac_pool *pool)
{
	VAC__ENTER();
	lock(&pool->reloc);
	if (pool->reloc.nr_workers == 0)
		hire(pool);
	unlock(&pool->reloc);
	VAC__LEAVE();
}

/* All pins are dropped: so nothing is queued, and no callback runs but one that has dropped its pin. */
void vac__reloc_stop(struct vac_pool *pool)
{
	struct vac__reloc *rl = &pool->reloc;

	vac__st(&rl->stop, 1);
	vac__event_signal(&rl->kick);
	for (uint32_t i = 0; i < rl->nr_workers; i++)
		vac__port_thread_join(rl->thread[i]);
	rl->nr_workers = 0;
}

/* ---- A record's life -------------------------------------------------------------------------- */

/* Before its first pin is counted. -EINVAL, -ENOMEM. */
int vac__ext_begin(struct vac_pool *pool, uint32_t index, const struct vac_pin_opts *o)
{
	struct vac__pin_ext *e = &pool->ledger.ext[index];
	struct vac_relocate_ops ops = {.size = sizeof(ops)};
	int r = 0;

	if (o->relocate) {
		if (o->relocate->size < sizeof(size_t) || o->relocate->size > sizeof(ops))
			return -EINVAL;
		memcpy(&ops, o->relocate, o->relocate->size);
		if (!ops.quiesce || !ops.repoint || !ops.resume)
			return -EINVAL;
	}
	VAC__ENTER();
	lock(&pool->reloc);
	if (pool->reloc.nr_workers == 0)
		r = hire(pool);
	if (r == 0) {
		memset(e, 0, sizeof(*e));
		e->ops = ops;
		e->revoke = o->revoke;
		e->ctx = o->ctx;
		e->state = TAKING;
	}
	unlock(&pool->reloc);
	VAC__LEAVE();
	return r < 0 ? -ENOMEM : 0;
}

/* All of it is pinned: from here on its owner may be asked. */
void vac__ext_ready(struct vac_pool *pool, uint64_t handle)
{
	struct vac__pin_ext *e = ext_of(pool, handle);

	VAC__ENTER();
	lock(&pool->reloc);
	e->handle = handle;
	e->state = IDLE;
	unlock(&pool->reloc);
	VAC__LEAVE();
	vac__progress(pool);
}

/* Its pins are about to be dropped. Waits until nobody is at it. */
void vac__ext_end(struct vac_pool *pool, uint32_t index)
{
	struct vac__reloc *rl = &pool->reloc;
	struct vac__pin_ext *e = &pool->ledger.ext[index];
	uint32_t self = vac__port_tid();

	VAC__ENTER();
	lock(rl);
	e->leaving = true;
	for (;;) {
		uint32_t seen = vac__event_read(&rl->done);

		if (e->state != MOVING && (!running(e) || e->tid == self))
			break;
		unlock(rl);
		vac__assert_bare();
		vac__event_wait(&rl->done, seen, 0);
		lock(rl);
	}
	if (queued(e))
		take_out(pool, index);
	e->state = GONE;
	unlock(rl);
	VAC__LEAVE();
}

/* ---- The pageblock in hand. The hotplug lock is held from here on --------------------------- */

/* An offline begins: it may ask everybody, once. */
void vac__reloc_begin(struct vac_pool *pool)
{
	if (++pool->reloc.serial == 0)
		pool->reloc.serial = 1;
	pool->reloc.nr = 0;
}

struct in_pageblock {
	struct vac__reloc *rl;
	uint32_t pfn; /* of the pageblock */
	uint8_t hold;
	uint32_t count;
};

/* Note a run's folios of the pageblock: what holds them, and how many pins that are counted. */
static bool note(void *ctx, uint32_t first, uint32_t step, uint32_t n)
{
	struct in_pageblock *in = ctx;
	uint32_t k = 0;

	if (first < in->pfn)
		k = (in->pfn - first + step - 1) / step;
	for (; k < n && first + k * step < in->pfn + VAC__PB_PAGES; k++) {
		uint32_t at = first + k * step - in->pfn;

		in->rl->hold[at] |= in->hold;
		in->rl->count[at] += in->count;
	}
	return false;
}

static void note_record(struct vac_pool *pool, uint32_t index, uint32_t pfn, uint8_t hold,
			uint32_t count)
{
	struct in_pageblock in = {.rl = &pool->reloc, .pfn = pfn, .hold = hold, .count = count};

	vac__pin_runs(pool, index, note, &in);
}

/* A record with callbacks that holds something of the pageblock. */
static void look_at(struct vac_pool *pool, uint32_t index, uint32_t pfn, uint32_t flags)
{
	struct vac__reloc *rl = &pool->reloc;
	struct vac__pin_ext *e = &pool->ledger.ext[index];

	lock(rl);
	if (e->state == GONE || e->state == TAKING || e->leaving) {
		; /* either goes soon, or comes to be asked in the next pass */
	} else if (e->revoked == rl->serial && e->willing) {
		; /* is about to let go: waited for as a short pin */
	} else if (!(flags & VAC_OWNER_RELOCATABLE)) {
		if (flags & VAC_PIN_LONGTERM)
			note_record(pool, index, pfn, VAC__HOLD_LONG, 0);
	} else if (e->refused == rl->serial) {
		note_record(pool, index, pfn, VAC__HOLD_LONG, 0);
	} else if (e->state != IDLE) {
		/* A callback that an earlier offline has not waited for: it has its time, and no more. One that
		 * has no thread yet was waited for, and all of them are in callbacks that do not end. */
		bool late = !running(e) || vac__port_now() >= e->began_ns + timeout_ns(e);

		note_record(pool, index, pfn, late ? VAC__HOLD_LONG : VAC__HOLD_LATER, 0);
	} else if (rl->nr == VAC__RELOC_LIST) {
		note_record(pool, index, pfn, VAC__HOLD_LATER, 0);
	} else {
		rl->list[rl->nr++] = (struct vac__reloc_asked){.handle = e->handle};
		note_record(pool, index, pfn, 0, 1);
	}
	unlock(rl);
}

/* Who holds the folios of a pageblock for long? */
void vac__reloc_look(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__reloc *rl = &pool->reloc;
	uint32_t top = vac__ld_acq(&pool->ledger.top);

	memset(rl->hold, 0, sizeof(rl->hold));
	memset(rl->count, 0, sizeof(rl->count));
	rl->nr = 0;
	if (vac__ld(&pool->ledger.longterm) == 0)
		return;
	for (uint32_t i = 0; i < top; i++) {
		uint32_t flags = vac__ld_acq(&pool->ledger.rec[i].flags);

		if (!(flags & VAC_PIN_LONGTERM) || !vac__pin_touches(pool, i, pfn, VAC__PB_PAGES))
			continue;
		if (flags & VAC__PIN_EXT)
			look_at(pool, i, pfn, flags);
		else
			note_record(pool, i, pfn, VAC__HOLD_LONG, 0);
	}
	/* A page that nothing shows has no address at which its holder could find it again. */
	for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
		if (rl->count[i] && vac__w_map(vac__ld(&vac__frame(pool, pfn + i)->word)) == 0)
			rl->hold[i] |= VAC__HOLD_LONG;
}

/* Which folios those hold now who keep still, or move; or of those only who move. */
static void count(struct vac_pool *pool, uint32_t pfn, bool quiet_too)
{
	struct vac__reloc *rl = &pool->reloc;

	memset(rl->count, 0, sizeof(rl->count));
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);

		lock(rl);
		if (rl->list[i].moving ||
		    (quiet_too && lives(e, rl->list[i].handle) && e->state == QUIET))
			note_record(pool, (uint32_t)rl->list[i].handle, pfn, 0, 1);
		unlock(rl);
	}
}

void vac__reloc_count(struct vac_pool *pool, uint32_t pfn)
{
	count(pool, pfn, true);
}

/* Somebody is waited for: give up whoever takes too long. Answers whether there is anybody left to wait
 * for; *wake is when to look again. The lock is held. */
static bool pending(struct vac_pool *pool, uint64_t *wake)
{
	struct vac__reloc *rl = &pool->reloc;
	uint64_t now = vac__port_now();
	bool waits = false, any = false;

	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);
		uint64_t end = e->began_ns + timeout_ns(e);

		if (!lives(e, rl->list[i].handle))
			continue;
		waits |= queued(e);
		if (!running(e) || e->given_up)
			continue;
		if (now < end) {
			*wake = end < *wake ? end : *wake;
			any = true;
			continue;
		}
		e->given_up = true;
		e->refused = rl->serial;
		vac__st_rlx(&e->error, -ETIMEDOUT);
		say(pool, rl->list[i].handle, "a callback of its pin takes too long");
	}
	/* They wait behind what has been given up: somebody else has to make their calls. */
	if (waits && !any && rl->nr_idle == 0 && hire(pool) < 0)
		return false;
	return waits || any;
}

/* Until all are through that were put in the queue, or stop says so. */
static void wait_for_all(struct vac_pool *pool, const struct vac__reloc_wait *w)
{
	struct vac__reloc *rl = &pool->reloc;

	lock(rl);
	for (;;) {
		uint32_t seen = vac__event_read(&pool->progress);
		uint64_t wake = UINT64_MAX;

		if (!pending(pool, &wake) || (w && w->stop(w->arg)))
			break;
		if (w && w->deadline_ns && w->deadline_ns < wake)
			wake = w->deadline_ns;
		unlock(rl);
		vac__event_wait(&pool->progress, seen, wake == UINT64_MAX ? 0 : wake);
		lock(rl);
	}
	unlock(rl);
}

/* Ask everybody found by the look who holds nothing that stays anyway, and wait. Afterwards those who
 * have agreed keep still; the folios of others are held. */
void vac__reloc_quiesce(struct vac_pool *pool, uint32_t pfn, const struct vac__reloc_wait *w)
{
	struct vac__reloc *rl = &pool->reloc;

	lock(rl);
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);

		if (lives(e, rl->list[i].handle) && e->state == IDLE)
			enqueue(pool, (uint32_t)rl->list[i].handle, ASKED);
	}
	unlock(rl);
	wait_for_all(pool, w);
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);
		uint32_t index = (uint32_t)rl->list[i].handle;

		lock(rl);
		if (lives(e, rl->list[i].handle) && e->state != QUIET) {
			bool now = e->state == IDLE && vac__ld_rlx(&e->error) != -EAGAIN;

			/* Not begun: time is up, or nobody is there to do it. */
			if (e->state == ASKED) {
				take_out(pool, index);
				e->state = IDLE;
			} else if (running(e)) {
				e->given_up = true;
			}
			if (now)
				e->refused = rl->serial;
			note_record(pool, index, pfn,
				    e->refused == rl->serial ? VAC__HOLD_LONG : VAC__HOLD_LATER, 0);
		}
		unlock(rl);
	}
}

/* Those who keep still move from here on: nobody drops their pins, and there is room in their records for
 * what may come. Counts their pins. */
void vac__reloc_take(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__reloc *rl = &pool->reloc;

	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);
		uint32_t index = (uint32_t)rl->list[i].handle;
		struct vac__pin_rec *r = &pool->ledger.rec[index];

		lock(rl);
		if (lives(e, rl->list[i].handle) && e->state == QUIET) {
			e->state = MOVING;
			rl->list[i].moving = true;
		}
		unlock(rl);
		if (!rl->list[i].moving ||
		    vac__runs_room(r, vac__ld_rlx(&r->nr_runs), vac__pin_sum(pool, index)) == 0)
			continue;
		lock(rl);
		e->state = QUIET; /* its folios have a pin too many, and stay */
		rl->list[i].moving = false;
		unlock(rl);
		tell(pool);
	}
	/* Of those who stay the pins are not counted, or their folios would move beneath their records. */
	count(pool, pfn, false);
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);

		lock(rl);
		if (!rl->list[i].moving && lives(e, rl->list[i].handle) && e->state == QUIET)
			note_record(pool, (uint32_t)rl->list[i].handle, pfn, VAC__HOLD_LATER, 0);
		unlock(rl);
	}
}

/* Items of the pageblock have been migrated, or not: the records follow. */
void vac__reloc_moved(struct vac_pool *pool, uint32_t pfn, const struct vac__mig_item *items,
		      unsigned n)
{
	struct vac__reloc *rl = &pool->reloc;

	for (uint32_t i = 0; i < VAC__PB_PAGES; i++)
		rl->moved[i] = VAC__NO_PFN;
	for (unsigned i = 0; i < n; i++)
		if (items[i].err == 0 && items[i].pins)
			rl->moved[items[i].src - pfn] = items[i].dst;
	for (uint32_t i = 0; i < rl->nr; i++) {
		uint32_t index = (uint32_t)rl->list[i].handle;

		if (!rl->list[i].moving)
			continue;
		vac__runs_replace(&pool->ledger.rec[index], pfn, rl->moved);
		lock(rl);
		pool->ledger.ext[index].state = QUIET;
		unlock(rl);
		rl->list[i].moving = false;
	}
	tell(pool);
}

/* All who keep still go on. Waits for as long as each of them is allowed to take. */
void vac__reloc_resume(struct vac_pool *pool)
{
	struct vac__reloc *rl = &pool->reloc;

	lock(rl);
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);

		if (lives(e, rl->list[i].handle) && e->state == QUIET)
			enqueue(pool, (uint32_t)rl->list[i].handle, DUE);
	}
	unlock(rl);
	wait_for_all(pool, NULL);
}

/* Ask those who hold something of a pageblock, and can be asked to let go, once in an offline. Answers
 * whether anybody is going to. */
bool vac__reloc_revoke(struct vac_pool *pool, uint32_t pfn, const struct vac__reloc_wait *w)
{
	struct vac__reloc *rl = &pool->reloc;
	uint32_t top = vac__ld_acq(&pool->ledger.top);
	bool willing = false;

	rl->nr = 0;
	lock(rl);
	for (uint32_t i = 0; i < top && rl->nr < VAC__RELOC_LIST; i++) {
		struct vac__pin_ext *e = &pool->ledger.ext[i];

		if (!(vac__ld_acq(&pool->ledger.rec[i].flags) & VAC_OWNER_REVOCABLE) ||
		    e->state != IDLE || e->revoked == rl->serial ||
		    !vac__pin_touches(pool, i, pfn, VAC__PB_PAGES))
			continue;
		e->revoked = rl->serial;
		e->willing = false;
		rl->list[rl->nr++] = (struct vac__reloc_asked){.handle = e->handle};
		enqueue(pool, i, REVOKE_DUE);
	}
	unlock(rl);
	wait_for_all(pool, w);
	lock(rl);
	for (uint32_t i = 0; i < rl->nr; i++) {
		struct vac__pin_ext *e = ext_of(pool, rl->list[i].handle);

		if (!lives(e, rl->list[i].handle)) {
			willing = true; /* has let go */
		} else if (e->state == REVOKE_DUE) {
			take_out(pool, (uint32_t)rl->list[i].handle);
			e->state = IDLE;
		} else if (running(e)) {
			e->given_up = true;
		} else {
			willing |= e->willing;
		}
	}
	unlock(rl);
	return willing;
}

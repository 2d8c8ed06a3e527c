/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O contexts: their life, and who collects what the port has done.
 *
 * A call that waits for events collects for everybody, as long as nobody else does (`role`): then a thread that submits and
 * waits meets no other. When no call has been at it for TICK_NS, or one waits that may not, the
 * pool's collector does; so an event is in its ring at most that much later than it could be. The role is given up
 * only after what was collected has been handed out: who takes it next, and has seen no event, has missed none.
 *
 * The poster brings in pages of rings that were not there when an event came, and posts then. It may wait for a
 * migration, a gate or the swap file; the collector waits for nothing but the port. So no request's end depends on
 * memory that is leaving (semantics.md G.6 step 5).
 *
 * Contexts and requests lie in tables that live as long as the pool, as the ledger's records do: a late look at one
 * finds memory.
 */
#include "aio.h"

#define CTX_MAX VAC__AIO_CTX_MAX
#define TICK_NS UINT64_C(2000000)
#define RETRY_NS \
	UINT64_C(20000000) /* until a page is asked for again for which there was no memory */

int vac__aio_get(struct vac_aio *c)
{
	vac__add(&c->users, 1);
	if (vac__ld(&c->state) == VAC__AIO_LIVE)
		return 0;
	vac__aio_put(c);
	return -ECANCELED;
}

void vac__aio_put(struct vac_aio *c)
{
	if (vac__sub(&c->users, 1) == 1 && vac__ld(&c->state) == VAC__AIO_DYING)
		vac__port_wake(&c->users, INT_MAX);
}

static void no_users(struct vac_aio *c)
{
	for (uint32_t n; (n = vac__ld(&c->users)) != 0;)
		vac__port_wait(&c->users, n, 0);
}

/* ---- Collecting -------------------------------------------------------------------------------- */

static bool take_role(struct vac__aio_pool *a)
{
	uint32_t nobody = 0;

	return vac__cas(&a->role, &nobody, 1);
}

/* Wait until something may have come for the context since `seen`, or the deadline. Nothing is held; signals are as
 * they were. */
void vac__aio_wait(struct vac_aio *c, uint32_t seen, uint64_t deadline_ns)
{
	struct vac_pool *pool = c->pool;
	struct vac__aio_pool *a = pool->aio;
	struct vac__ioreq *done[VAC__AIO_BATCH];
	unsigned n = 0;

	if (vac__ld(&a->inside) && take_role(a)) {
		if (vac__event_read(&c->event) == seen)
			n = pool->mem->io_collect(pool->mem_ctx, a->dev, done, VAC__AIO_BATCH,
						  deadline_ns);
		if (n) {
			VAC__ENTER();
			vac__aio_ended(a, done, n);
			VAC__LEAVE();
		}
		vac__add(&a->visits, 1);
		vac__st(&a->role, 0);
		if (vac__ld(&a->sleepers))
			vac__event_signal(&a->kick);
		return;
	}
	/* Either the one who gives up the role sees us, or we see that he has. */
	vac__add(&a->sleepers, 1);
	if (vac__ld(&a->role) || vac__ld(&a->inside) == 0)
		vac__event_wait(&c->event, seen, deadline_ns);
	vac__sub(&a->sleepers, 1);
}

static void collector(void *arg)
{
	struct vac__aio_pool *a = arg;
	struct vac_pool *pool = a->pool;
	struct vac__ioreq *done[VAC__AIO_BATCH];
	uint32_t last = 0;

	while (!vac__ld(&a->stop)) {
		uint32_t seen = vac__event_read(&a->kick), visits = vac__ld(&a->visits), called;
		unsigned n;

		if (visits == last && vac__ld(&a->inside) == 0) {
			vac__st(&a->parked, 1);
			if (vac__ld(&a->inside) == 0 && !vac__ld(&a->stop))
				vac__event_wait(&a->kick, seen, 0);
			vac__st(&a->parked, 0);
			continue;
		}
		if (vac__ld(&a->inside) == 0 || (visits != last && !vac__ld(&a->sleepers)) ||
		    !take_role(a)) {
			last = visits;
			vac__event_wait(&a->kick, seen, vac__port_now() + TICK_NS);
			continue;
		}
		n = pool->mem->io_collect(pool->mem_ctx, a->dev, done, VAC__AIO_BATCH, 0);
		called = vac__ld(&a->sleepers);
		if (n)
			vac__aio_ended(a, done, n);
		seen = vac__event_read(&a->kick);
		vac__st(&a->role, 0);
		/* Whoever has slept so far and has got something collects for himself from now on. */
		if (n && called)
			vac__event_wait(&a->kick, seen, vac__port_now() + TICK_NS);
	}
}

/* ---- Posting ----------------------------------------------------------------------------------- */

/* A context has events that cannot be posted yet. */
void vac__aio_stall(struct vac_aio *c)
{
	struct vac__aio_pool *a = c->pool->aio;

	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	if (!c->stalled) {
		c->stalled = true;
		c->next_stalled = 0;
		if (a->stalled)
			a->ctx[a->stalled_last - 1].next_stalled = c->id + 1;
		else
			a->stalled = c->id + 1;
		a->stalled_last = c->id + 1;
	}
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	vac__st(&a->posting, 1);
	vac__event_signal(&a->post);
}

static void post_rests(struct vac__aio_pool *a)
{
	vac__st(&a->posting, 0);
	vac__port_wake(&a->posting, INT_MAX);
}

/* Wait until the poster has nothing in hand, but for what there is no memory for. */
void vac__aio_quiet(struct vac_pool *pool)
{
	struct vac__aio_pool *a = vac__ld(&pool->aio);

	while (a && vac__ld(&a->posting))
		vac__port_wait(&a->posting, 1, 0);
}

/* The next one, in use. */
static struct vac_aio *unstall(struct vac__aio_pool *a)
{
	struct vac_aio *c = NULL;

	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	if (a->stalled) {
		c = &a->ctx[a->stalled - 1];
		a->stalled = c->next_stalled;
		c->stalled = false;
		vac__add(&c->users, 1);
	}
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	return c;
}

static void poster(void *arg)
{
	struct vac__aio_pool *a = arg;

	for (;;) {
		uint32_t seen = vac__event_read(&a->post), page;
		struct vac_aio *c;
		int r;

		if (vac__ld(&a->stop))
			return;
		c = unstall(a);
		if (!c) {
			post_rests(a);
			vac__event_wait(&a->post, seen, 0);
			continue;
		}
		vac__st(&a->posting, 1);
		vac__lock(&c->lock, VAC__RANK_AIO);
		r = c->waiting ? 0 : vac__aio_post(c);
		page = c->want;
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (r == -EAGAIN && vac__ld(&c->state) == VAC__AIO_LIVE) {
			r = vac__fault_in(c->space, page, VAC__WRITE);
			seen = vac__event_read(&a->post);
			vac__aio_stall(c);
			if (r < 0 && !vac__ld(&a->stop)) { /* for others that come we wake up */
				post_rests(a);
				vac__event_wait(&a->post, seen + 1, vac__port_now() + RETRY_NS);
			}
		}
		vac__aio_put(c);
	}
}

/* ---- The pool's part ---------------------------------------------------------------------------- */

#define CTX_BYTES (CTX_MAX * sizeof(struct vac_aio))
static size_t req_bytes(const struct vac__aio_pool *a)
{
	return a->max_events * sizeof(struct vac__aio_req);
}

static void aio_release(struct vac__aio_pool *a)
{
	while (a->big) {
		struct vac__aio_big *b = a->big;

		a->big = b->next;
		vac__port_meta_release(b, sizeof(*b));
	}
	if (a->dev)
		a->pool->mem->io_close(a->pool->mem_ctx, a->dev);
	if (a->ctx)
		vac__port_meta_release(a->ctx, CTX_BYTES);
	if (a->req)
		vac__port_meta_release(a->req, req_bytes(a));
	vac__port_meta_release(a, sizeof(*a));
}

static void stop_threads(struct vac__aio_pool *a)
{
	vac__st(&a->stop, 1);
	vac__event_signal(&a->kick);
	vac__event_signal(&a->post);
	a->pool->mem->io_kick(a->pool->mem_ctx, a->dev);
	vac__port_thread_join(a->collector);
	if (a->poster)
		vac__port_thread_join(a->poster);
}

static int aio_start(struct vac_pool *pool, unsigned flags, struct vac__aio_pool **out)
{
	struct vac__aio_pool *a = vac__port_meta_reserve(sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->pool = pool;
	a->max_events = pool->opts.aio_events;
	a->ctx = vac__port_meta_reserve(CTX_BYTES);
	a->req = vac__port_meta_reserve(req_bytes(a));
	r = a->ctx && a->req ? pool->mem->io_open(pool->mem_ctx,
						  flags & VAC_AIO_THREADS ? VAC__IO_THREADS : 0,
						  &a->dev, &a->native)
			     : -ENOMEM;
	if (r < 0) {
		a->dev = 0;
		aio_release(a);
		return r;
	}
	/* Whoever collects or posts finds the pool's part by its own argument. */
	r = vac__port_thread_start("vacate aio", collector, a, &a->collector);
	if (r < 0) {
		aio_release(a);
		return r;
	}
	r = vac__port_thread_start("vacate aio post", poster, a, &a->poster);
	if (r < 0) {
		a->poster = 0;
		stop_threads(a);
		aio_release(a);
		return r;
	}
	*out = a;
	return 0;
}

static int aio_of(struct vac_pool *pool, unsigned flags, struct vac__aio_pool **out)
{
	struct vac__aio_pool *a = NULL;
	int r = 0;

	if (!pool->mem->io_open)
		return -EOPNOTSUPP;
	vac__lock(&pool->aio_lock, VAC__RANK_AIO_SETUP);
	a = vac__ld(&pool->aio);
	if (!a) {
		r = aio_start(pool, flags, &a);
		if (r == 0)
			vac__st(&pool->aio, a);
	}
	vac__unlock(&pool->aio_lock, VAC__RANK_AIO_SETUP);
	*out = a;
	return r;
}

/* The pool is being closed. -EBUSY: there are contexts. */
int vac__aio_close(struct vac_pool *pool)
{
	struct vac__aio_pool *a = vac__ld(&pool->aio);

	if (!a)
		return 0;
	if (vac__ld(&a->nr_ctx))
		return -EBUSY;
	vac__st(&pool->aio, NULL);
	stop_threads(a);
	aio_release(a);
	return 0;
}

/* ---- Contexts ----------------------------------------------------------------------------------- */

static uint32_t ring_pages(uint32_t events)
{
	return (uint32_t)((sizeof(struct vac_aio_ring) + events * sizeof(struct vac_aio_event) +
			   VAC_PAGE_BYTES - 1) >>
			  VAC__PAGE_SHIFT);
}

/* A free slot of the table, with a promise of so many events. */
static int ctx_take(struct vac__aio_pool *a, uint32_t events, struct vac_aio **out)
{
	uint32_t i;
	int r = 0;

	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	for (i = 0; i < vac__ld(&a->top_ctx) && vac__ld(&a->ctx[i].state) != VAC__AIO_FREE; i++)
		;
	if (i == CTX_MAX || events > a->max_events - a->events) {
		r = -EAGAIN;
	} else {
		if (i == vac__ld(&a->top_ctx))
			vac__add(&a->top_ctx, 1);
		a->events += events;
		vac__st(&a->ctx[i].state, VAC__AIO_DYING); /* nobody's for now */
		vac__add(&a->nr_ctx, 1);
		*out = &a->ctx[i];
	}
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	return r;
}

/* The ring is unmapped, if it can be; slot and requests are anybody's then. No event will come for it. */
static void ctx_give(struct vac__aio_pool *a, struct vac_aio *c, bool mapped)
{
	if (mapped && vac__ring_unmap(c->space, c->page, c->page + c->pages) == 0)
		mapped = false;
	vac__sub(&c->space->nr_rings, 1);
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	while (c->free) {
		struct vac__aio_req *q = vac__aio_req(a, c->free);

		c->free = q->next;
		q->next = a->free_req;
		a->free_req = vac__aio_index(a, q);
	}
	a->events -= c->events;
	vac__sub(&a->nr_ctx, 1);
	vac__st(&c->state, mapped ? VAC__AIO_LEFT : VAC__AIO_FREE);
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
}

/* Unmap rings of a space that could not be unmapped when their contexts ended. */
static void unmap_left(struct vac__aio_pool *a, struct vac_space *s)
{
	for (uint32_t i = 0; i < vac__ld(&a->top_ctx); i++) {
		struct vac_aio *c = &a->ctx[i];
		uint32_t left = VAC__AIO_LEFT;
		int r;

		if (vac__ld(&c->state) != VAC__AIO_LEFT || c->space != s ||
		    !vac__cas(&c->state, &left, VAC__AIO_DYING))
			continue;
		r = vac__ring_unmap(s, c->page, c->page + c->pages);
		vac__st(&c->state, r < 0 ? VAC__AIO_LEFT : VAC__AIO_FREE);
	}
}

/* A space is gone, with all that was mapped in it. */
void vac__aio_forget(struct vac_space *s)
{
	struct vac__aio_pool *a = vac__ld(&s->pool->aio);

	for (uint32_t i = 0; a && i < vac__ld(&a->top_ctx); i++)
		if (vac__ld(&a->ctx[i].state) == VAC__AIO_LEFT && a->ctx[i].space == s)
			vac__st(&a->ctx[i].state, VAC__AIO_FREE);
}

/* fork() holds all contexts still, whether live or not: nobody writes to a ring. It holds no other lock than
 * those outside of these. */
void vac__aio_hold(struct vac_pool *pool)
{
	struct vac__aio_pool *a = vac__ld(&pool->aio);

	for (uint32_t i = 0; a && i < vac__ld(&a->top_ctx); i++) {
		vac__lock(&a->ctx[i].lock, VAC__RANK_MANY);
		a->ctx[i].forking = true;
	}
}

void vac__aio_let_go(struct vac_pool *pool)
{
	struct vac__aio_pool *a = vac__ld(&pool->aio);

	for (uint32_t i = 0; a && i < vac__ld(&a->top_ctx); i++)
		if (a->ctx[i].forking) { /* not so for those that are made since, who wait for the space */
			a->ctx[i].forking = false;
			vac__unlock(&a->ctx[i].lock, VAC__RANK_MANY);
		}
}

static void name_it(struct vac_aio *c, const char *name)
{
	uint32_t v = c->id;
	unsigned n = 0;

	memset(c->name, 0, sizeof(c->name));
	if (name) {
		memcpy(c->name, name, strlen(name));
		return;
	}
	for (uint32_t d = v; d >= 10; d /= 10)
		n++;
	for (;; v /= 10) {
		c->name[n] = (char)('0' + v % 10);
		if (n-- == 0)
			return;
	}
}

static int hold_ring(struct vac_aio *c)
{
	char owner[VAC_OWNER_MAX] = "aio:";

	memcpy(owner + 4, c->name, strlen(c->name));
	memcpy(owner + strlen(owner), " ring", 5);
	return vac_pin(c->space, vac__page_addr(c->space, c->page),
		       (size_t)c->pages << VAC__PAGE_SHIFT, VAC_PIN_WRITE | VAC_PIN_LONGTERM, owner,
		       &c->held);
}

/* The ring is mapped. It may be moved, shared or swapped from its first page on, like any memory. */
static int ring_fill(struct vac_aio *c)
{
	int r = 0;

	for (uint32_t p = c->page; p < c->page + c->pages && r == 0; p++)
		r = vac__fault_in(c->space, p, VAC__WRITE);
	while (r == 0) {
		vac__lock(&c->lock, VAC__RANK_AIO);
		r = vac__aio_ring_init(c);
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (r == 0)
			break;
		VAC__SYNC("aio_setup", c->want);
		r = vac__fault_in(c->space, c->want, VAC__WRITE);
	}
	return r;
}

static int setup(struct vac_space *s, const struct vac_aio_opts *o, const char *name,
		 struct vac_aio **out)
{
	struct vac__aio_pool *a;
	struct vac_aio *c;
	bool mapped;
	int r = aio_of(s->pool, o->flags, &a);

	if (r < 0)
		return r;
	unmap_left(a, s);
	r = ctx_take(a, o->events, &c);
	if (r < 0)
		return r;
	c->pool = s->pool;
	c->space = s;
	c->id = (uint32_t)(c - a->ctx);
	name_it(c, name);
	c->flying = c->ended = (struct vac__aio_list){0};
	c->events = o->events;
	c->waiting = 0;
	c->pages = ring_pages(o->events);
	c->size = (uint32_t)((((size_t)c->pages << VAC__PAGE_SHIFT) - sizeof(struct vac_aio_ring)) /
			     sizeof(struct vac_aio_event));
	c->head = c->tail = c->posted = c->held = 0;
	c->files = NULL;
	c->bufs = NULL;
	c->nr_files = c->nr_bufs = 0;
	vac__add(&s->nr_rings, 1);
	r = vac__ring_map(s, c->pages, &c->page);
	mapped = r == 0;
	if (r == 0)
		r = ring_fill(c);
	if (r == 0 && (o->flags & VAC_AIO_TEST_HELD))
		r = hold_ring(c);
	if (r < 0) {
		ctx_give(a, c, mapped);
		return r;
	}
	vac__st(&c->state, VAC__AIO_LIVE);
	*out = c;
	return 0;
}

int vac_aio_setup(struct vac_space *space, const struct vac_aio_opts *opts, struct vac_aio **ctx)
{
	struct vac_aio_opts o = {.size = sizeof(o)};
	char name[sizeof((*ctx)->name)] = "";
	struct vac_aio *c = NULL;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!opts || !ctx || opts->size < sizeof(size_t) || opts->size > sizeof(o))
		return -EINVAL;
	memcpy(&o, opts, opts->size);
	if (o.events == 0 || o.events > 65536 || (o.flags & ~(VAC_AIO_THREADS | VAC_AIO_TEST_HELD)))
		return -EINVAL;
	if (o.name) {
		if (strlen(o.name) >= sizeof(name))
			return -EINVAL;
		memcpy(name, o.name, strlen(o.name) + 1);
	}
	VAC__ENTER();
	r = setup(space, &o, o.name ? name : NULL, &c);
	VAC__LEAVE();
	if (r == 0)
		*ctx = c;
	return r;
}

/* Nobody begins a call any more: wait for those under way, then for the requests. */
static void drain(struct vac__aio_pool *a, struct vac_aio *c)
{
	vac__event_signal(&c->event);
	a->pool->mem->io_kick(a->pool->mem_ctx, a->dev);
	no_users(c);
	for (;;) {
		uint32_t seen = vac__event_read(&c->event), n;

		vac__lock(&c->lock, VAC__RANK_AIO);
		n = vac__aio_cancel_all(c);
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (n == 0)
			break;
		vac__aio_wait(c, seen, 0);
	}
	/* What could not be posted has nobody to be posted for. */
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	for (uint32_t *at = &a->stalled, before = 0; *at;) {
		if (*at == c->id + 1) {
			*at = c->next_stalled;
			if (a->stalled_last == c->id + 1)
				a->stalled_last = before;
			break;
		}
		before = *at;
		at = &a->ctx[*at - 1].next_stalled;
	}
	c->stalled = false;
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	no_users(c);
}

static void drop_files(struct vac_aio *c)
{
	for (uint32_t i = 0; i < c->nr_files; i++)
		c->pool->mem->io_file_drop(c->pool->mem_ctx, c->files[i]);
	if (c->files)
		vac__port_meta_release(c->files, VAC_PAGE_BYTES);
	c->files = NULL;
	c->nr_files = 0;
}

static int destroy(struct vac_aio *c)
{
	struct vac__aio_pool *a = c->pool->aio;
	uint32_t live = VAC__AIO_LIVE;

	if (!vac__cas(&c->state, &live, VAC__AIO_DYING))
		return -EINVAL;
	drain(a, c);
	if (c->held)
		vac_unpin(c->pool, c->held);
	c->held = 0;
	vac__lock(&c->lock, VAC__RANK_AIO);
	while (c->ended.n) {
		struct vac__aio_req *q = vac__aio_req(a, c->ended.first);

		vac__aio_detach(a, &c->ended, q);
		vac__aio_give(c, q);
	}
	vac__unlock(&c->lock, VAC__RANK_AIO);
	drop_files(c);
	vac__aio_buffers_end(c);
	ctx_give(a, c, true);
	return 0;
}

int vac_aio_destroy(struct vac_aio *ctx)
{
	int r;

	if (vac__port_forked())
		return -EPERM;
	VAC__ENTER();
	r = destroy(ctx);
	VAC__LEAVE();
	return r;
}

/* ---- Events ------------------------------------------------------------------------------------- */

/* Fetch some. 0: there were none, and if `wait`, we are counted as one who waits; a count; or an error. */
static int fetch(struct vac_aio *c, struct vac_aio_event *out, unsigned max, bool *waits, bool wait)
{
	bool stalled = false;
	uint32_t page;
	int r;

	for (;;) {
		VAC__ENTER();
		vac__lock(&c->lock, VAC__RANK_AIO);
		if (*waits)
			c->waiting--;
		*waits = false;
		r = vac__aio_take(c, out, max);
		if (r == 0 && wait && vac__ld(&c->state) == VAC__AIO_LIVE) {
			*waits = true;
			c->waiting++;
		}
		if (r >= 0 && c->ended.n && !c->waiting)
			stalled = vac__aio_post(c) == -EAGAIN;
		page = c->want;
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (stalled)
			vac__aio_stall(c);
		if (r == -EAGAIN)
			r = vac__fault_in(c->space, page, VAC__WRITE);
		else
			r = r ? r : 1 << 30;
		VAC__LEAVE();
		if (r)
			return r == 1 << 30 ? 0 : r;
	}
}

int vac_aio_getevents(struct vac_aio *ctx, unsigned min, unsigned max, struct vac_aio_event *events,
		      int64_t timeout_ns)
{
	struct vac_aio_event some[VAC__AIO_BATCH];
	uint64_t deadline = 0;
	unsigned got = 0;
	bool waits = false;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (max == 0 || min > max || max > INT32_MAX || !events)
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	if (timeout_ns > 0 && min)
		deadline = vac__port_now() + (uint64_t)timeout_ns;
	for (;;) {
		uint32_t seen = vac__event_read(&ctx->event);
		unsigned want = max - got < VAC__AIO_BATCH ? max - got : VAC__AIO_BATCH;
		bool wait = got < min && timeout_ns != 0 &&
			    (deadline == 0 || vac__port_now() < deadline);

		r = fetch(ctx, some, want, &waits, wait);
		if (r < 0)
			break;
		memcpy(events + got, some, (unsigned)r * sizeof(some[0]));
		got += (unsigned)r;
		if (got == max || (r == 0 && !waits))
			break;
		if (r == 0)
			vac__aio_wait(ctx, seen, deadline);
	}
	if (r == 0 && got < min && vac__ld(&ctx->state) != VAC__AIO_LIVE)
		r = -ECANCELED;
	vac__aio_put(ctx);
	return got ? (int)got : r < 0 ? r : 0;
}

/* ---- The rest ----------------------------------------------------------------------------------- */

int vac_aio_cancel(struct vac_aio *ctx, uint64_t user_data, unsigned flags)
{
	struct vac__aio_pool *a;
	unsigned n = 0;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (flags & ~VAC_AIO_CANCEL_ALL)
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	a = ctx->pool->aio;
	VAC__ENTER();
	vac__lock(&ctx->lock, VAC__RANK_AIO);
	for (uint32_t i = ctx->flying.first; i; i = vac__aio_req(a, i)->next)
		if (vac__aio_req(a, i)->begun &&
		    (flags || vac__aio_req(a, i)->user_data == user_data)) {
			ctx->pool->mem->io_cancel(ctx->pool->mem_ctx, a->dev,
						  &vac__aio_req(a, i)->io);
			n++;
		}
	vac__unlock(&ctx->lock, VAC__RANK_AIO);
	VAC__LEAVE();
	vac__aio_put(ctx);
	return n ? (int)n : -ENOENT;
}

/* For an offline: cancel what holds frames of a block. The hotplug lock is held. Answers how many were asked. */
unsigned vac__aio_cancel_block(struct vac_pool *pool, uint32_t first, uint32_t frames)
{
	struct vac__aio_pool *a = vac__ld(&pool->aio);
	unsigned n = 0;

	for (uint32_t id = 0; a && id < CTX_MAX; id++) {
		struct vac_aio *c = &a->ctx[id];

		if (vac__ld(&c->state) != VAC__AIO_LIVE && vac__ld(&c->state) != VAC__AIO_DYING)
			continue;
		vac__lock(&c->lock, VAC__RANK_AIO);
		for (uint32_t i = c->flying.first; i; i = vac__aio_req(a, i)->next) {
			struct vac__aio_req *q = vac__aio_req(a, i);
			bool holds = false;

			for (uint32_t k = 0; q->begun && k < q->nr_pins && !holds; k++)
				holds = vac__pin_touches(
					pool, (uint32_t)(q->big ? q->big->pin[k] : q->pin), first,
					frames);
			if (q->begun && q->buf)
				holds |= vac__pin_touches(pool, (uint32_t)c->bufs[q->buf - 1].pin,
							  first, frames);
			if (holds) {
				pool->mem->io_cancel(pool->mem_ctx, a->dev, &q->io);
				n++;
			}
		}
		vac__unlock(&c->lock, VAC__RANK_AIO);
	}
	return n;
}

int vac_aio_files(struct vac_aio *ctx, const int *fds, unsigned n)
{
	const unsigned most = VAC_PAGE_BYTES / sizeof(int);
	unsigned have = 0;
	int *mine = NULL;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (n > most || (n && !fds))
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	if (n) {
		VAC__ENTER();
		mine = vac__port_meta_reserve(VAC_PAGE_BYTES);
		VAC__LEAVE();
		r = mine ? 0 : -ENOMEM;
	}
	while (r == 0 && have < n) {
		int fd = ctx->pool->mem->io_file(ctx->pool->mem_ctx, fds[have]);

		if (fd < 0)
			r = fd;
		else
			mine[have++] = fd;
	}
	VAC__ENTER();
	vac__lock(&ctx->lock, VAC__RANK_AIO);
	if (r == 0 && ctx->flying.n)
		r = -EBUSY;
	if (r == 0) {
		int *old = ctx->files;
		unsigned nr = ctx->nr_files;

		ctx->files = mine;
		ctx->nr_files = n;
		mine = old;
		have = nr;
	}
	vac__unlock(&ctx->lock, VAC__RANK_AIO);
	for (unsigned i = 0; i < have; i++)
		ctx->pool->mem->io_file_drop(ctx->pool->mem_ctx, mine[i]);
	if (mine)
		vac__port_meta_release(mine, VAC_PAGE_BYTES);
	VAC__LEAVE();
	vac__aio_put(ctx);
	return r;
}

int vac_aio_info(struct vac_aio *ctx, struct vac_aio_info *info)
{
	struct vac_aio_info i = {.size = sizeof(i)};
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!info || info->size < sizeof(size_t) || info->size > sizeof(i))
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	i.size = info->size;
	VAC__ENTER();
	vac__lock(&ctx->lock, VAC__RANK_AIO);
	i.ring = vac__page_addr(ctx->space, ctx->page);
	i.ring_bytes = (size_t)ctx->pages << VAC__PAGE_SHIFT;
	i.events = ctx->events;
	i.under_way = ctx->flying.n;
	i.waiting = ctx->ended.n;
	i.ring_events = ctx->size;
	i.uring = vac__ld(&ctx->pool->aio)->native;
	i.posted = ctx->posted;
	vac__unlock(&ctx->lock, VAC__RANK_AIO);
	VAC__LEAVE();
	vac__aio_put(ctx);
	memcpy(info, &i, i.size);
	return 0;
}

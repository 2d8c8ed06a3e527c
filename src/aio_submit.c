/* SPDX-License-Identifier: MIT */
/*
 * Requests of direct I/O: from what the program asks for to what the port does, and back.
 *
 * A request's memory is pinned by records of the ledger, and given to the port as it lies in the direct map; so it
 * does not matter what becomes of the addresses meanwhile. Pins are taken without waiting. Where one would have to wait,
 * whatever this call has pinned before is first given to the port, or dropped: who waits for a gate waits with nothing
 * in hand whose end depends on him. At the end the pins go before anything that may wait is begun.
 *
 * What the program hands over is copied while no lock is held and signals are as they were: it may lie in pool memory.
 */
#include "aio.h"

/* ---- Slots ------------------------------------------------------------------------------------- */

void vac__aio_append(struct vac__aio_pool *a, struct vac__aio_list *l, struct vac__aio_req *q)
{
	uint32_t i = vac__aio_index(a, q);

	q->next = 0;
	q->prev = l->last;
	if (l->last)
		vac__aio_req(a, l->last)->next = i;
	else
		l->first = i;
	l->last = i;
	l->n++;
}

void vac__aio_detach(struct vac__aio_pool *a, struct vac__aio_list *l, struct vac__aio_req *q)
{
	if (q->prev)
		vac__aio_req(a, q->prev)->next = q->next;
	else
		l->first = q->next;
	if (q->next)
		vac__aio_req(a, q->next)->prev = q->prev;
	else
		l->last = q->prev;
	l->n--;
}

/* A slot is free again. It stays with the context. The lock is held, here and in take(). */
void vac__aio_give(struct vac_aio *c, struct vac__aio_req *q)
{
	q->next = c->free;
	c->free = vac__aio_index(c->pool->aio, q);
}

static struct vac__aio_req *slot_take(struct vac_aio *c)
{
	struct vac__aio_pool *a = c->pool->aio;
	struct vac__aio_req *q;
	uint32_t i = c->free;

	if (i) {
		c->free = vac__aio_req(a, i)->next;
	} else {
		/* There is one for each event that was promised to anybody. */
		vac__lock(&a->table, VAC__RANK_AIO_TABLE);
		i = a->free_req;
		if (i)
			a->free_req = vac__aio_req(a, i)->next;
		else
			i = ++a->top_req;
		vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	}
	q = vac__aio_req(a, i);
	q->ctx = c->id;
	q->nr_pins = 0;
	q->big = NULL;
	q->begun = false;
	q->buf = 0;
	q->io.buffer = 0;
	vac__st_rlx(&q->io.cancel, 0);
	return q;
}

static struct vac__aio_big *big_take(struct vac__aio_pool *a)
{
	struct vac__aio_big *b;

	VAC__ENTER();
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	b = a->big;
	if (b)
		a->big = b->next;
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	if (!b)
		b = vac__port_meta_reserve(sizeof(*b));
	VAC__LEAVE();
	return b;
}

static void big_give(struct vac__aio_pool *a, struct vac__aio_big *b)
{
	VAC__ENTER();
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	b->next = a->big;
	a->big = b;
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	VAC__LEAVE();
}

/* ---- Memory ------------------------------------------------------------------------------------ */

#define MOST ((uint64_t)INT32_MAX & ~(uint64_t)4095) /* bytes of a request, as of read(2) */

struct vec { /* as struct iovec */
	void *base;
	size_t len;
};

/* "aio:NAME fd 7 @4096+65536", by hand: it is written for every request. */
static char *put(char *p, const char *s)
{
	while (*s)
		*p++ = *s++;
	return p;
}

static char *put_number(char *p, uint64_t v)
{
	char digits[20];
	unsigned n = 0;

	do {
		digits[n++] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (n)
		*p++ = digits[--n];
	return p;
}

static void say_owner(const struct vac_aio *c, const struct vac_aio_req *r, uint64_t bytes,
		      char owner[96])
{
	char *p = put(owner, "aio:");

	p = put(p, c->name);
	p = put(p, r->flags & VAC_AIO_FILE ? " file " : " fd ");
	p = put_number(p, (uint32_t)r->fd);
	p = put(p, " @");
	p = put_number(p, r->off);
	p = put(p, "+");
	p = put_number(p, bytes);
	*p = '\0';
}

static void drop_pins(struct vac__aio_pool *a, struct vac__aio_req *q)
{
	for (uint32_t i = 0; i < q->nr_pins; i++)
		vac_unpin(a->pool, q->big ? q->big->pin[i] : q->pin);
	q->nr_pins = 0;
	if (q->big)
		big_give(a, q->big);
	q->big = NULL;
}

/* More pieces to come than the slot has room for. */
static int grow(struct vac__aio_pool *a, struct vac__aio_req *q)
{
	struct vac__aio_big *b = big_take(a);

	if (!b)
		return -ENOMEM;
	b->pin[0] = q->pin;
	memcpy(b->seg, q->seg, q->io.nr_seg * sizeof(q->seg[0]));
	q->io.seg = b->seg;
	q->big = b;
	return 0;
}

/* One piece more. 1: there is no room for it. */
static int add_piece(struct vac__aio_pool *a, struct vac__aio_req *q, void *mem, size_t bytes)
{
	struct vac__io_seg *last = q->io.nr_seg ? &q->io.seg[q->io.nr_seg - 1] : NULL;

	if (last && (uint8_t *)last->mem + last->bytes == mem) {
		last->bytes += bytes;
		return 0;
	}
	if (q->io.nr_seg == VAC__AIO_SEGS && !q->big && grow(a, q) < 0)
		return -ENOMEM;
	if (q->io.nr_seg == VAC__IO_SEGS)
		return 1;
	q->io.seg[q->io.nr_seg++] = (struct vac__io_seg){.mem = mem, .bytes = bytes};
	return 0;
}

/* The pieces of [at, at + len) of what is pinned from `from` on by a pin that stays as it is. */
static int add_pinned(struct vac__aio_pool *a, struct vac__aio_req *q, struct vac_space *s,
		      uint64_t pin, uintptr_t from, uintptr_t at, size_t len)
{
	struct vac__pin_rec *rec = &a->pool->ledger.rec[(uint32_t)pin];
	uint32_t nr = vac__ld_rlx(&rec->nr_runs);
	_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_rlx(&rec->more) : rec->run;
	size_t off = from - (uintptr_t)s->base, skip = at - from;
	int r = 0;

	for (uint32_t i = 0; i < nr && len && r == 0; i++) {
		uint64_t v = vac__ld_rlx(&run[i]);
		uint32_t pfn = (uint32_t)v, n = (uint32_t)(v >> 32);
		size_t unit = n & VAC__RUN_HUGE ? VAC_PAGEBLOCK_BYTES : VAC_PAGE_BYTES;
		size_t bytes = (n & VAC__RUN_FOLIOS) * unit - off % unit;
		uint8_t *mem = (uint8_t *)vac__frame_addr(a->pool, pfn) + off % unit;

		off += bytes;
		if (skip >= bytes) {
			skip -= bytes;
			continue;
		}
		bytes -= skip;
		bytes = bytes < len ? bytes : len;
		r = add_piece(a, q, mem + skip, bytes);
		skip = 0;
		len -= bytes;
	}
	return r;
}

/* What a submit that cannot go on has to wait for, with nothing in hand. */
struct wait {
	struct vec vec;           /* until it can be pinned */
	struct vac__aio_buf *buf; /* or until this is not quiet any more */
	uint32_t seen;
};

/* The same for a registered buffer. -EAGAIN: it is quiet. */
static int add_registered(struct vac_aio *c, struct vac__aio_req *q, const struct vac_aio_req *r,
			  struct wait *w)
{
	struct vac__aio_buf *b = &c->bufs[r->buffer];
	uintptr_t at = (uintptr_t)r->buf;
	uint64_t len = r->len < MOST ? r->len : MOST;
	bool mine;
	int err;

	if (at < b->addr || at - b->addr > b->len || r->len > b->len - (at - b->addr))
		return -EFAULT;
	VAC__ENTER();
	vac__lock(&c->lock, VAC__RANK_AIO);
	mine = vac__aio_buf_enter(b, &w->seen);
	if (mine)
		q->buf = r->buffer + 1;
	vac__unlock(&c->lock, VAC__RANK_AIO);
	VAC__LEAVE();
	if (!mine) {
		w->buf = b;
		return -EAGAIN;
	}
	err = add_pinned(c->pool->aio, q, b->space, b->pin, b->addr, at, len);
	if (b->known && q->io.nr_seg == 1)
		q->io.buffer = b->slot;
	return err < 0 ? err : 0;
}

/* Pin a vector and add its pieces. 1: the request is full. */
static int add_vec(struct vac_aio *c, struct vac__aio_req *q, struct vec v, unsigned flags,
		   const char *owner)
{
	struct vac__aio_pool *a = c->pool->aio;
	struct vac_space *s;
	uint64_t pin;
	int r;

	if (v.len == 0)
		return 0;
	s = vac_space_of(v.base);
	if (!s)
		return add_piece(a, q, v.base, v.len);
	if (s->pool != c->pool)
		return -EINVAL;
	if (q->nr_pins == 1 && !q->big && grow(a, q) < 0)
		return -ENOMEM;
	r = vac_pin(s, v.base, v.len, flags, owner, &pin);
	if (r < 0)
		return r;
	*(q->big ? &q->big->pin[q->nr_pins] : &q->pin) = pin;
	q->nr_pins++;
	return add_pinned(a, q, s, pin, (uintptr_t)v.base, (uintptr_t)v.base, v.len);
}

/* Wait until the memory of a vector can be pinned; nothing is held. */
static int wait_vec(struct vec v, unsigned flags, const char *owner)
{
	struct vac_space *s = vac_space_of(v.base);
	uint64_t pin;
	int r = s ? vac_pin(s, v.base, v.len, flags & ~VAC_PIN_NOWAIT, owner, &pin) : 0;

	if (s && r == 0)
		vac_unpin(s->pool, pin);
	return r;
}

/* All the memory of a request. -EAGAIN: nothing is pinned, and *wait is what to wait for. */
static int add_memory(struct vac_aio *c, struct vac__aio_req *q, const struct vac_aio_req *r,
		      struct wait *w, unsigned flags, char owner[96])
{
	bool vectors = r->op == VAC_AIO_READV || r->op == VAC_AIO_WRITEV;
	uint64_t n = vectors ? r->len : 1, left = MOST, all = 0;
	int err = 0;

	q->io.seg = q->seg;
	q->io.nr_seg = 0;
	if (r->flags & VAC_AIO_BUFFER)
		return add_registered(c, q, r, w);
	for (uint64_t i = 0; vectors && i < n; i++)
		all += ((const struct vec *)r->buf)[i].len;
	say_owner(c, r, vectors ? all : r->len, owner);
	for (uint64_t i = 0; i < n && left && err == 0; i++) {
		struct vec v = {.base = r->buf, .len = r->len};

		if (vectors)
			v = ((const struct vec *)r->buf)[i];
		v.len = v.len < left ? v.len : left;
		err = add_vec(c, q, v, flags, owner);
		left -= v.len;
		if (err == -EAGAIN)
			w->vec = v;
	}
	if (err < 0)
		drop_pins(c->pool->aio, q);
	return err < 0 ? err : 0;
}

/* ---- Down -------------------------------------------------------------------------------------- */

static int check(const struct vac_aio *c, const struct vac_aio_req *r)
{
	bool sync = r->op == VAC_AIO_FSYNC || r->op == VAC_AIO_FDSYNC;

	bool plain = r->op == VAC_AIO_READ || r->op == VAC_AIO_WRITE;
	bool buffer = r->flags & VAC_AIO_BUFFER;

	if (r->op > VAC_AIO_FDSYNC || (r->flags & ~(VAC_AIO_FILE | VAC_AIO_BUFFER)) ||
	    (buffer ? !plain || r->buffer >= c->nr_bufs : r->buffer != 0))
		return -EINVAL;
	if (r->op == VAC_AIO_NOP)
		return r->off > INT32_MAX ? -EINVAL : 0;
	if (r->off > INT64_MAX || (sync && (r->buf || r->len || r->off)))
		return -EINVAL;
	if ((r->op == VAC_AIO_READV || r->op == VAC_AIO_WRITEV) && r->len > VAC__IO_SEGS)
		return -EINVAL;
	if (r->fd < 0 || ((r->flags & VAC_AIO_FILE) && (uint32_t)r->fd >= c->nr_files))
		return -EBADF;
	return 0;
}

/* Slots for up to n requests, flying from now on in their order. A count, or -EAGAIN, -EUCLEAN. */
static int reserve(struct vac_aio *c, struct vac__aio_req **q, unsigned n)
{
	struct vac__aio_pool *a = c->pool->aio;
	int r = 0;

	for (;;) {
		uint64_t used;
		uint32_t page;

		VAC__ENTER();
		vac__lock(&c->lock, VAC__RANK_AIO);
		used = c->flying.n + c->ended.n + (c->tail - c->head);
		if (used + n > c->events) {
			r = vac__aio_head(c);
			used = c->flying.n + c->ended.n + (c->tail - c->head);
		}
		if (r == -EUCLEAN) /* then nothing was consumed, as far as we know */
			r = 0;
		if (r == 0) {
			n = used + n > c->events ? c->events - (unsigned)used : n;
			for (unsigned i = 0; i < n; i++) {
				q[i] = slot_take(c);
				vac__aio_append(a, &c->flying, q[i]);
			}
		}
		page = c->want;
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (r == -EAGAIN)
			r = vac__fault_in(c->space, page, VAC__WRITE);
		else
			r = r ? r : 1;
		VAC__LEAVE();
		if (r)
			return r < 0 ? r : n ? (int)n : -EAGAIN;
	}
}

/* Those of q[0..n) that were not submitted are free again. */
static void unreserve(struct vac_aio *c, struct vac__aio_req **q, unsigned n)
{
	VAC__ENTER();
	vac__lock(&c->lock, VAC__RANK_AIO);
	for (unsigned i = 0; i < n; i++) {
		if (q[i]->buf)
			vac__aio_buf_leave(&c->bufs[q[i]->buf - 1]);
		vac__aio_detach(c->pool->aio, &c->flying, q[i]);
		vac__aio_give(c, q[i]);
	}
	vac__event_signal(&c->event);
	vac__unlock(&c->lock, VAC__RANK_AIO);
	VAC__LEAVE();
}

/* Begin q[0..n). The lock is held throughout, so that a cancellation finds a request either before it has begun, and
 * waits, or with the port. Answers how many were begun. */
static unsigned begin(struct vac_aio *c, struct vac__aio_req **q, unsigned n)
{
	struct vac__aio_pool *a = c->pool->aio;
	const struct vac__mem_ops *mem = c->pool->mem;
	struct vac__ioreq *io[VAC__AIO_BATCH];
	unsigned done = 0;
	bool stalled = false, tell = false;

	VAC__ENTER();
	vac__lock(&c->lock, VAC__RANK_AIO);
	while (done < n) {
		unsigned m = 0, got;

		for (; done < n && q[done]->io.op == VAC__IO_NONE; done++) {
			vac__aio_detach(a, &c->flying, q[done]);
			vac__aio_append(a, &c->ended, q[done]);
		}
		while (done + m < n && q[done + m]->io.op != VAC__IO_NONE) {
			q[done + m]->begun = true;
			io[m] = &q[done + m]->io;
			m++;
		}
		if (m == 0)
			break;
		vac__add(&a->inside, m);
		got = mem->io_submit(c->pool->mem_ctx, a->dev, io, m);
		done += got;
		for (unsigned i = got; i < m; i++)
			((struct vac__aio_req *)io[i])->begun = false;
		if (got < m) {
			vac__sub(&a->inside, m - got);
			break;
		}
	}
	if (c->ended.n && !c->waiting)
		stalled = vac__aio_post(c) == -EAGAIN;
	tell = c->ended.n && c->waiting;
	vac__unlock(&c->lock, VAC__RANK_AIO);
	if (stalled)
		vac__aio_stall(c);
	if (tell) { /* whoever waits may do so in the port */
		vac__event_signal(&c->event);
		mem->io_kick(c->pool->mem_ctx, a->dev);
	}
	/* Read after `inside` was raised: either the collector sees that, or we see it parked. */
	if (vac__ld(&a->parked) || vac__ld(&a->sleepers))
		vac__event_signal(&a->kick);
	VAC__LEAVE();
	return done;
}

/* One request, all but its beginning. */
static int prepare(struct vac_aio *c, struct vac__aio_req *q, const struct vac_aio_req *r,
		   struct wait *w, char owner[96])
{
	unsigned flags = VAC_PIN_NOWAIT;

	q->user_data = r->user_data;
	q->io.fd = r->flags & VAC_AIO_FILE ? c->files[r->fd] : r->fd;
	q->io.off = r->off;
	q->io.nr_seg = 0;
	q->io.seg = NULL;
	q->io.res = 0;
	switch ((enum vac_aio_op)r->op) {
	case VAC_AIO_NOP:
		q->io.op = VAC__IO_NONE;
		q->io.res = (int32_t)r->off;
		return 0;
	case VAC_AIO_FSYNC: q->io.op = VAC__IO_FSYNC; return 0;
	case VAC_AIO_FDSYNC: q->io.op = VAC__IO_FDSYNC; return 0;
	case VAC_AIO_READ:
	case VAC_AIO_READV:
		q->io.op = VAC__IO_READ;
		flags |= VAC_PIN_WRITE;
		break;
	case VAC_AIO_WRITE:
	case VAC_AIO_WRITEV: q->io.op = VAC__IO_WRITE; break;
	}
	return add_memory(c, q, r, w, flags, owner);
}

/* Submit up to a batch. A count, and *err where it ended early. */
static unsigned submit_some(struct vac_aio *c, const struct vac_aio_req *req, unsigned n, int *err)
{
	struct vac__aio_req *q[VAC__AIO_BATCH];
	unsigned done = 0, ready = 0;
	int r = reserve(c, q, n);

	*err = r < 0 ? r : (unsigned)r < n ? -EAGAIN : 0;
	if (r < 0)
		return 0;
	n = (unsigned)r;
	while (ready < n) {
		struct vac_aio_req one = req[ready];
		struct wait w = {0};
		char owner[96];

		r = check(c, &one);
		if (r == 0)
			r = prepare(c, q[ready], &one, &w, owner);
		if (r == 0) {
			ready++;
			continue;
		}
		if (r == -EAGAIN && (w.vec.len || w.buf)) {
			/* What is pinned must not wait with us. */
			done += begin(c, q + done, ready - done);
			if (done < ready)
				r = -EAGAIN;
			else if (w.buf)
				r = vac__event_wait(&w.buf->event, w.seen, 0);
			else
				r = wait_vec(w.vec,
					     q[ready]->io.op == VAC__IO_READ ? VAC_PIN_WRITE : 0,
					     owner);
			if (r == 0)
				continue;
		}
		*err = r;
		break;
	}
	if (done < ready)
		done += begin(c, q + done, ready - done);
	if (done < ready && *err == 0)
		*err = -EAGAIN;
	for (unsigned i = done; i < ready; i++)
		drop_pins(c->pool->aio, q[i]);
	if (done < n)
		unreserve(c, q + done, n - done);
	return done;
}

int vac_aio_submit(struct vac_aio *ctx, const struct vac_aio_req *req, unsigned n)
{
	unsigned done = 0;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!req || n == 0)
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	while (done < n && r == 0) {
		unsigned m = n - done < VAC__AIO_BATCH ? n - done : VAC__AIO_BATCH;

		done += submit_some(ctx, req + done, m, &r);
	}
	vac__aio_put(ctx);
	return done ? (int)done : r;
}

/* ---- Up ---------------------------------------------------------------------------------------- */

/* Requests that the port has answered. Signals are blocked, nothing is held. The pins of all go first: whatever may have to
 * wait for them does not keep us, and we wait for nothing before. */
void vac__aio_ended(struct vac__aio_pool *a, struct vac__ioreq **io, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		drop_pins(a, (struct vac__aio_req *)io[i]);
	for (unsigned i = 0; i < n;) {
		struct vac_aio *c = &a->ctx[((struct vac__aio_req *)io[i])->ctx];
		bool stalled = false;

		vac__lock(&c->lock, VAC__RANK_AIO);
		for (; i < n && ((struct vac__aio_req *)io[i])->ctx == c->id; i++) {
			struct vac__aio_req *q = (struct vac__aio_req *)io[i];

			if (q->buf)
				vac__aio_buf_leave(&c->bufs[q->buf - 1]);
			q->buf = 0;
			vac__aio_detach(a, &c->flying, q);
			vac__aio_append(a, &c->ended, q);
		}
		if (!c->waiting)
			stalled = vac__aio_post(c) == -EAGAIN;
		/* Under the lock: whoever destroys the context gets it after us. */
		if (stalled)
			vac__aio_stall(c);
		vac__unlock(&c->lock, VAC__RANK_AIO);
		vac__event_signal(&c->event);
	}
	vac__sub(&a->inside, n);
}

/* Ask for all that fly. The lock is held. */
unsigned vac__aio_cancel_all(struct vac_aio *c)
{
	struct vac__aio_pool *a = c->pool->aio;
	unsigned n = 0;

	for (uint32_t i = c->flying.first; i; i = vac__aio_req(a, i)->next) {
		struct vac__aio_req *q = vac__aio_req(a, i);

		/* Once is enough, but for what was submitted anew since. */
		if (vac__ld_rlx(&q->io.cancel) == 0)
			c->pool->mem->io_cancel(c->pool->mem_ctx, a->dev, &q->io);
		n++;
	}
	return n;
}

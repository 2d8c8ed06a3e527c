/* SPDX-License-Identifier: MIT */
/*
 * Registered buffers: memory that is pinned once for many requests, by a pin that can move (relocate.c).
 *
 * When its memory is to leave, the buffer is quieted: new requests on it wait, those under way end, and the port forgets
 * it, so that nobody holds its frames. Afterwards it is registered again, where it lies now. The port is told of
 * a buffer only if it lies together in the direct map; else each request names its pieces, as always.
 *
 * Invariant: while `users` is not 0 the pin's frames do not change, and the port knows the buffer as it is.
 */
#include "aio.h"

#define PATIENCE_NS \
	UINT64_C(800000000) /* less than what a callback is given, and at most a gate's timeout */

/* The buffer's memory as one piece, or NULL. It is not being moved. */
static void *whole(const struct vac__aio_buf *b, uint64_t pin)
{
	struct vac__pin_rec *rec = &b->c->pool->ledger.rec[(uint32_t)pin];
	uint32_t nr = vac__ld_rlx(&rec->nr_runs), next = 0;
	_Atomic uint64_t *run = nr > VAC__PIN_RUNS ? vac__ld_rlx(&rec->more) : rec->run;
	size_t off = b->addr - (uintptr_t)b->space->base;
	uint32_t first = (uint32_t)vac__ld_rlx(&run[0]);
	bool huge = vac__ld_rlx(&run[0]) >> 32 & VAC__RUN_HUGE;

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t v = vac__ld_rlx(&run[i]);
		uint32_t n = (uint32_t)(v >> 32);

		if (i && (uint32_t)v != next)
			return NULL;
		next = (uint32_t)v +
		       (n & VAC__RUN_FOLIOS) * (n & VAC__RUN_HUGE ? VAC__PB_PAGES : 1);
	}
	return (uint8_t *)vac__frame_addr(b->c->pool, first) +
	       off % (huge ? VAC_PAGEBLOCK_BYTES : VAC_PAGE_BYTES);
}

/* Let the port know the buffer, or not any more. Nobody uses it, and it is not being moved. */
static void tell_port(struct vac__aio_buf *b, uint64_t pin, bool on)
{
	struct vac_pool *pool = b->c->pool;
	void *mem = on ? whole(b, pin) : NULL;

	if (!pool->mem->io_buffer || !b->slot || (!mem && !b->known))
		return;
	b->known = pool->mem->io_buffer(pool->mem_ctx, pool->aio->dev, b->slot - 1, mem,
					mem ? b->len : 0) == 0 &&
		   mem;
}

/* ---- For those who submit, and end ---------------------------------------------------------------- */

/* Use a buffer. False: it is quiet, *seen is for its event. The lock is held, in leave() too. */
bool vac__aio_buf_enter(struct vac__aio_buf *b, uint32_t *seen)
{
	*seen = vac__event_read(&b->event);
	if (b->quiet)
		return false;
	b->users++;
	return true;
}

void vac__aio_buf_leave(struct vac__aio_buf *b)
{
	b->users--;
}

/* ---- Callbacks of the pin ------------------------------------------------------------------------- */

static int quiesce(void *ctx, uint64_t pin)
{
	struct vac__aio_buf *b = ctx;
	struct vac_aio *c = b->c;
	uint64_t end = vac__port_now() + PATIENCE_NS, gate = vac__gate_deadline(c->pool);
	bool busy;

	end = gate < end ? gate : end;
	VAC__ENTER();
	for (;;) {
		uint32_t seen = vac__event_read(&c->event);

		vac__lock(&c->lock, VAC__RANK_AIO);
		busy = b->users != 0;
		b->quiet = !busy || vac__port_now() < end;
		vac__unlock(&c->lock, VAC__RANK_AIO);
		if (!busy || !b->quiet)
			break;
		vac__aio_wait(c, seen, end);
	}
	if (busy)
		vac__event_signal(&b->event);
	else
		tell_port(b, pin, false);
	VAC__LEAVE();
	return busy ? -EAGAIN : 0;
}

static int repoint(void *ctx, uint64_t pin, void *addr, size_t len)
{
	(void)ctx, (void)pin, (void)addr, (void)len; /* registered as a whole, when all has moved */
	return 0;
}

static void resume(void *ctx, uint64_t pin)
{
	struct vac__aio_buf *b = ctx;

	VAC__ENTER();
	if (!vac__ld(&b->ending))
		tell_port(b, pin, true);
	vac__lock(&b->c->lock, VAC__RANK_AIO);
	b->quiet = false;
	vac__unlock(&b->c->lock, VAC__RANK_AIO);
	vac__event_signal(&b->event);
	VAC__LEAVE();
}

static const struct vac_relocate_ops ops = {
	.size = sizeof(ops), .quiesce = quiesce, .repoint = repoint, .resume = resume};

/* ---- Registering ---------------------------------------------------------------------------------- */

static uint32_t slot_take(struct vac__aio_pool *a)
{
	uint32_t i;

	VAC__ENTER();
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	for (i = 0; i < VAC__IO_BUFFERS && (a->buf_slots[i / 64] >> i % 64 & 1); i++)
		;
	if (i < VAC__IO_BUFFERS)
		a->buf_slots[i / 64] |= UINT64_C(1) << i % 64;
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	VAC__LEAVE();
	return i < VAC__IO_BUFFERS ? i + 1 : 0;
}

static void slot_give(struct vac__aio_pool *a, uint32_t slot)
{
	VAC__ENTER();
	vac__lock(&a->table, VAC__RANK_AIO_TABLE);
	if (slot)
		a->buf_slots[(slot - 1) / 64] &= ~(UINT64_C(1) << (slot - 1) % 64);
	vac__unlock(&a->table, VAC__RANK_AIO_TABLE);
	VAC__LEAVE();
}

static void end_one(struct vac__aio_buf *b)
{
	vac__st(&b->ending, 1);
	vac_unpin(b->c->pool, b->pin); /* after it no callback runs */
	VAC__ENTER();
	tell_port(b, b->pin, false);
	VAC__LEAVE();
	slot_give(b->c->pool->aio, b->slot);
}

static int begin_one(struct vac_aio *c, struct vac__aio_buf *b, unsigned nr, void *addr, size_t len)
{
	struct vac_pin_opts o = {
		.size = sizeof(o), .flags = VAC_PIN_WRITE, .relocate = &ops, .ctx = b};
	char owner[VAC_OWNER_MAX] = "aio:";
	uint32_t seen;
	size_t n;
	bool mine;
	int r;

	memcpy(owner + 4, c->name, strlen(c->name));
	n = strlen(owner);
	memcpy(owner + n, " buffer ", 8);
	n += 8;
	if (nr >= 10)
		owner[n++] = (char)('0' + nr / 10);
	owner[n] = (char)('0' + nr % 10);
	o.owner = owner;
	b->c = c;
	b->addr = (uintptr_t)addr;
	b->len = len;
	b->space = vac_space_of(addr);
	if (len == 0 || !b->space || b->space->pool != c->pool)
		return -EINVAL;
	b->slot = slot_take(c->pool->aio);
	r = vac_pin_with(b->space, addr, len, &o, NULL, &b->pin);
	if (r < 0) {
		slot_give(c->pool->aio, b->slot);
		return r;
	}
	/* It may have been asked to move already; then it is registered when it has. */
	VAC__ENTER();
	vac__lock(&c->lock, VAC__RANK_AIO);
	mine = vac__aio_buf_enter(b, &seen);
	vac__unlock(&c->lock, VAC__RANK_AIO);
	if (mine) {
		tell_port(b, b->pin, true);
		vac__lock(&c->lock, VAC__RANK_AIO);
		vac__aio_buf_leave(b);
		vac__unlock(&c->lock, VAC__RANK_AIO);
		vac__event_signal(&c->event); /* for quiesce() */
	}
	VAC__LEAVE();
	return 0;
}

static void end_all(struct vac__aio_buf *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		end_one(&b[i]);
	VAC__ENTER();
	if (b)
		vac__port_meta_release(b, VAC__AIO_BUFS_MAX * sizeof(*b));
	VAC__LEAVE();
}

/* A context ends: no request is under way. */
void vac__aio_buffers_end(struct vac_aio *c)
{
	end_all(c->bufs, c->nr_bufs);
	c->bufs = NULL;
	c->nr_bufs = 0;
}

int vac_aio_buffers(struct vac_aio *ctx, const struct iovec *iov, unsigned n)
{
	const struct {
		void *base;
		size_t len;
	} *v = (const void *)iov;
	struct vac__aio_buf *mine = NULL;
	unsigned have = 0;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (n > VAC__AIO_BUFS_MAX || (n && !iov))
		return -EINVAL;
	r = vac__aio_get(ctx);
	if (r < 0)
		return r;
	if (n) {
		VAC__ENTER();
		mine = vac__port_meta_reserve(VAC__AIO_BUFS_MAX * sizeof(*mine));
		VAC__LEAVE();
		r = mine ? 0 : -ENOMEM;
	}
	for (; r == 0 && have < n; have += r == 0)
		r = begin_one(ctx, &mine[have], have, v[have].base, v[have].len);
	VAC__ENTER();
	vac__lock(&ctx->lock, VAC__RANK_AIO);
	if (r == 0 && ctx->flying.n)
		r = -EBUSY;
	if (r == 0) {
		struct vac__aio_buf *old = ctx->bufs;
		unsigned nr = ctx->nr_bufs;

		ctx->bufs = mine;
		ctx->nr_bufs = n;
		mine = old;
		have = nr;
	}
	vac__unlock(&ctx->lock, VAC__RANK_AIO);
	VAC__LEAVE();
	end_all(mine, have);
	vac__aio_put(ctx);
	return r;
}

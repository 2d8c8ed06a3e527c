/* SPDX-License-Identifier: MIT */
/*
 * The rings of direct I/O contexts, in the memory of their spaces.
 *
 * Nobody holds a ring's pages: no pin, no reference, no remembered frame. A page is written through the direct map
 * while the page-table lock of its pageblock of addresses is held, and only if its entry then says that it is present,
 * exclusive, and shown for writing. Whatever moves, shares, protects or swaps a page first changes its entry
 * under that lock. So what is written there is written as by a thread of the program at the same address:
 * before the page leaves, and then it is copied; or it has to wait until the page is back.
 *
 * Order of a post: events, then tail. A tail that cannot be written leaves events beyond it, which nobody sees and
 * which are written again. The context's own tail moves only when the ring's has.
 *
 * Invariant: flying + ended + (tail - head) is at most `events`, which is at most `size`; so what ends finds room, unless the
 * program has written nonsense to head.
 */
#include "aio.h"

struct cursor {
	struct vac_aio *c;
	bool locked;
	uint32_t vpb; /* whose ptl is held */
};

static void leave(struct cursor *k)
{
	if (k->locked)
		vac__ptl_unlock(k->c->space, k->vpb);
	k->locked = false;
}

/* The byte of the ring at off, for as long as the cursor stays in its pageblock of addresses; NULL, with c->want: the page
 * is not there with these rights. One ptl at a time. */
static void *reach(struct cursor *k, size_t off, bool write)
{
	struct vac_space *s = k->c->space;
	uint32_t page = k->c->page + (uint32_t)(off >> VAC__PAGE_SHIFT);
	uint32_t vpb = page >> VAC__PB_ORDER;
	uint64_t e, need = VAC__E_HREAD | (write ? VAC__E_EXCL | VAC__E_HWRITE : 0);

	if (k->locked && k->vpb != vpb)
		leave(k);
	if (!k->locked) {
		vac__ptl_lock(s, vpb);
		k->locked = true;
		k->vpb = vpb;
	}
	e = vac__entry_get(s, page);
	if (!vac__e_present(e) || (e & need) != need) {
		k->c->want = page;
		return NULL;
	}
	return (uint8_t *)vac__frame_addr(s->pool, vac__e_pfn(e)) + off % VAC_PAGE_BYTES;
}

static size_t slot(const struct vac_aio *c, uint64_t n)
{
	return sizeof(struct vac_aio_ring) + (size_t)(n % c->size) * sizeof(struct vac_aio_event);
}

static int read_head(struct cursor *k)
{
	struct vac_aio *c = k->c;
	_Atomic uint64_t *p = reach(k, offsetof(struct vac_aio_ring, head), false);
	uint64_t h;

	if (!p)
		return -EAGAIN;
	h = vac__ld_acq(p);
	if (h - c->head > c->tail - c->head)
		return -EUCLEAN;
	c->head = h;
	return 0;
}

/* Believe the program's head. The lock is held here and below. -EAGAIN: the page c->want is not there. -EUCLEAN: it
 * cannot be true. */
int vac__aio_head(struct vac_aio *c)
{
	struct cursor k = {.c = c};
	int r = read_head(&k);

	leave(&k);
	return r;
}

/* Post what has ended, some at a time. -EAGAIN as above. */
static int post_some(struct vac_aio *c)
{
	struct vac__aio_pool *a = c->pool->aio;
	struct cursor k = {.c = c};
	uint64_t tail = c->tail;
	_Atomic uint64_t *p;
	uint32_t i = c->ended.first;
	int r = 0;

	while (i && tail - c->tail < VAC__AIO_BATCH) {
		struct vac__aio_req *q = vac__aio_req(a, i);
		struct vac_aio_event *e;

		if (tail - c->head >= c->size) /* only where head is nonsense */
			break;
		e = reach(&k, slot(c, tail), true);
		if (!e) {
			r = -EAGAIN;
			break;
		}
		VAC__SYNC("aio_event", tail);
		*e = (struct vac_aio_event){.user_data = q->user_data, .res = q->io.res};
		tail++;
		i = q->next;
	}
	if (tail != c->tail) {
		p = reach(&k, offsetof(struct vac_aio_ring, tail), true);
		if (!p) {
			leave(&k);
			return -EAGAIN;
		}
		VAC__SYNC("aio_tail", tail);
		vac__st_rel(p, tail);
	}
	leave(&k);
	while (c->tail != tail) {
		struct vac__aio_req *q = vac__aio_req(a, c->ended.first);

		vac__aio_detach(a, &c->ended, q);
		vac__aio_give(c, q);
		c->tail++;
		c->posted++;
	}
	return r;
}

int vac__aio_post(struct vac_aio *c)
{
	int r = 0;

	while (c->ended.n && r == 0) {
		uint64_t before = c->tail;

		r = post_some(c);
		if (r == 0 && c->tail == before) { /* full: head may have been mended */
			r = vac__aio_head(c);
			if (r == 0 && c->tail - c->head >= c->size)
				break;
		}
	}
	return r;
}

/* Consume up to max events: those in the ring first, then those that have not got there. A count, or -EAGAIN,
 * -EUCLEAN as above, and then nothing was consumed. */
int vac__aio_take(struct vac_aio *c, struct vac_aio_event *out, unsigned max)
{
	struct vac__aio_pool *a = c->pool->aio;
	struct cursor k = {.c = c};
	unsigned n = 0;
	int r = 0;

	if (c->head != c->tail)
		r = read_head(&k);
	if (r == 0 && c->head != c->tail) {
		uint64_t h = c->head;

		while (n < max && h != c->tail) {
			const struct vac_aio_event *e = reach(&k, slot(c, h), false);

			if (!e)
				break;
			out[n++] = *e;
			h++;
		}
		if (n) {
			_Atomic uint64_t *p = reach(&k, offsetof(struct vac_aio_ring, head), true);

			if (p) {
				VAC__SYNC("aio_head", h);
				vac__st_rel(p, h);
				c->head = h;
			} else {
				n = 0;
			}
		}
		if (n == 0)
			r = -EAGAIN;
	}
	leave(&k);
	if (r < 0)
		return r;
	while (c->head == c->tail && n < max && c->ended.n) {
		struct vac__aio_req *q = vac__aio_req(a, c->ended.first);

		out[n++] = (struct vac_aio_event){.user_data = q->user_data, .res = q->io.res};
		vac__aio_detach(a, &c->ended, q);
		vac__aio_give(c, q);
	}
	return (int)n;
}

/* What does not change. The ring's memory is new, and nobody knows of it yet; it may move meanwhile, as any. */
int vac__aio_ring_init(struct vac_aio *c)
{
	struct cursor k = {.c = c};
	struct vac_aio_ring *h = reach(&k, 0, true);

	if (h) {
		h->magic = VAC_AIO_MAGIC;
		h->version = 1;
		h->size = c->size;
		h->first = sizeof(*h);
	}
	leave(&k);
	return h ? 0 : -EAGAIN;
}

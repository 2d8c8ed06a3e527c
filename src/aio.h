/* SPDX-License-Identifier: MIT */
/*
 * What the files of direct I/O share: aio.c (contexts, and the threads that collect and post), aio_ring.c (the rings),
 * aio_submit.c (requests: their memory, their way to the port and back).
 *
 * A request's slot is on one list of its context at any time: free, flying (with the port, or on the way there) or
 * ended (its event is not in the ring yet). The context's lock guards them.
 */
#ifndef VAC_AIO_H
#define VAC_AIO_H

#include "internal.h"

#define VAC__AIO_SEGS 4u
#define VAC__AIO_BATCH 32u /* requests, or events, that are handled at a time */

/* For requests with many vectors, or in many pieces; kept by the pool for the next one. */
struct vac__aio_big {
	struct vac__aio_big *next;
	uint64_t pin[VAC__IO_SEGS];
	struct vac__io_seg seg[VAC__IO_SEGS];
};

/* A registered buffer: aio_buffer.c. */
struct vac__aio_buf {
	struct vac_aio *c;
	struct vac_space *space;
	uintptr_t addr;
	size_t len;
	uint64_t pin;
	uint32_t slot; /* of the port + 1, 0: there is none */
	bool known;    /* the port has it there; written while nobody uses it */
	bool quiet;    /* guarded by the context's lock, as users: requests that have it in hand */
	uint32_t users;
	_Atomic uint32_t ending;
	struct vac__event event; /* it is not quiet any more */
};
#define VAC__AIO_BUFS_MAX 64u

struct vac__aio_req {
	struct vac__ioreq io; /* first: the port answers it */
	uint64_t user_data;
	uint32_t ctx;        /* its number */
	uint32_t next, prev; /* index + 1 */
	uint32_t nr_pins;
	uint32_t buf; /* index + 1 of the registered buffer that it uses */
	bool begun;   /* the port has it; guarded by the lock */
	uint64_t pin; /* the only one, where there is no more */
	struct vac__aio_big *big;
	struct vac__io_seg seg[VAC__AIO_SEGS];
};

struct vac__aio_list {
	uint32_t first, last, n; /* index + 1 */
};

/* LEFT: ended, but the host would not let its ring be unmapped: who needs addresses there tries again. */
enum { VAC__AIO_FREE, VAC__AIO_LIVE, VAC__AIO_DYING, VAC__AIO_LEFT };

struct vac_aio {
	struct vac_pool *pool;
	struct vac_space *space;
	uint32_t id;
	_Atomic uint32_t state; /* VAC__AIO_* */
	_Atomic uint32_t
		users; /* calls, and the poster, that are at it: destroying waits for them */
	char name[12];

	struct vac__mutex lock; /* rank aio: all below */
	bool forking;           /* a fork() holds it */
	struct vac__aio_list flying, ended;
	uint32_t free;           /* slots of its own */
	uint32_t events;         /* most that may be flying, ended or in the ring */
	uint32_t waiting;        /* vac_aio_getevents() calls that will fetch what has ended */
	struct vac__event event; /* something has ended; signalled under the lock or after it */

	/* The ring: pages [page, page + pages) of the space, of which head and tail are what we believe: only
	 * head is ever read, and believed where it can be true. */
	uint32_t page, pages, size;
	uint64_t head, tail, posted;
	uint32_t want; /* the page that was not there */
	uint64_t held; /* pin of VAC_AIO_TEST_HELD, 0: none */

	/* Guarded by the table's lock: on the poster's list. */
	bool stalled;
	uint32_t next_stalled; /* id + 1 */

	int *files;
	uint32_t nr_files;
	struct vac__aio_buf *bufs; /* these four change while nothing flies */
	uint32_t nr_bufs;
};

/* Of a pool; made with its first context. */
struct vac__aio_pool {
	struct vac_pool *pool;
	uintptr_t dev;
	bool native;
	uintptr_t collector, poster;

	struct vac__mutex table; /* rank aio table: slots of contexts and requests, the stalled */
	struct vac_aio *ctx;     /* reserved whole */
	struct vac__aio_req *req;
	_Atomic uint32_t top_ctx; /* written under the lock */
	uint32_t top_req, free_req;
	struct vac__aio_big *big;
	uint32_t stalled; /* id + 1 */
	uint32_t stalled_last;
	uint32_t events, max_events; /* promised to contexts, and at most */
	_Atomic uint32_t nr_ctx;
	uint64_t buf_slots[VAC__IO_BUFFERS / 64];

	_Atomic uint32_t inside;   /* requests that the port has */
	_Atomic uint32_t role;     /* 1: somebody collects */
	_Atomic uint32_t visits;   /* times that a call of the program's has */
	_Atomic uint32_t sleepers; /* calls that wait for others to collect for them */
	_Atomic uint32_t parked;   /* 1: the collector has nothing to do until it is told */
	_Atomic uint32_t stop;
	_Atomic uint32_t posting; /* 1: the poster has something to do, and will do it */
	struct vac__event kick;   /* for the collector */
	struct vac__event post;   /* for the poster */
};

/* ---- aio.c ---- */
int vac__aio_get(struct vac_aio *c);
void vac__aio_put(struct vac_aio *c);
void vac__aio_stall(struct vac_aio *c);
void vac__aio_wait(struct vac_aio *c, uint32_t seen, uint64_t deadline_ns);

/* ---- aio_ring.c ---- */
int vac__aio_post(struct vac_aio *c);
int vac__aio_take(struct vac_aio *c, struct vac_aio_event *out, unsigned max);
int vac__aio_head(struct vac_aio *c);
int vac__aio_ring_init(struct vac_aio *c);

/* ---- aio_buffer.c ---- */
bool vac__aio_buf_enter(struct vac__aio_buf *b, uint32_t *seen);
void vac__aio_buf_leave(struct vac__aio_buf *b);
void vac__aio_buffers_end(struct vac_aio *c);

/* ---- aio_submit.c ---- */
static inline struct vac__aio_req *vac__aio_req(struct vac__aio_pool *a, uint32_t index1)
{
	return &a->req[index1 - 1];
}
static inline uint32_t vac__aio_index(struct vac__aio_pool *a, const struct vac__aio_req *q)
{
	return (uint32_t)(q - a->req) + 1;
}
void vac__aio_append(struct vac__aio_pool *a, struct vac__aio_list *l, struct vac__aio_req *q);
void vac__aio_detach(struct vac__aio_pool *a, struct vac__aio_list *l, struct vac__aio_req *q);
void vac__aio_give(struct vac_aio *c, struct vac__aio_req *q);
void vac__aio_ended(struct vac__aio_pool *a, struct vac__ioreq **io, unsigned n);
unsigned vac__aio_cancel_all(struct vac_aio *c);

#endif /* VAC_AIO_H */

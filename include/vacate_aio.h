/* SPDX-License-Identifier: MIT */
/*
 * DIRECT I/O CONTEXTS: a part of vacate.h, which includes it.
 *
 * A context takes requests (read, write, fsync) on files and memory, and answers each by an event. It stands in
 * one space, whose memory its ring lies in. The memory of a request may lie in any space of the pool, or outside
 * all pools. It is pinned from submission to completion, under an owner that says who it is:
 *
 *	aio:NAME fd 7 @4096+65536
 *
 * so a block waits for the request, at the pace of its own I/O, and reports it by that name. What was submitted
 * moves data past the addresses of the space: unmapping or protecting the memory meanwhile is allowed and
 * changes nothing for the request; what it reads goes where it would have gone, and is lost with the mapping.
 * Nothing of a context that is idle is pinned, so one that idles for ever holds no block; neither does its ring.
 *
 * THE RING
 *
 * Completed requests become events in a ring in the space's memory, which any thread may read, and consume, without
 * a call: see struct vac_aio_ring. Its pages move as all memory does, at any time; a store to `head` waits for that as a
 * store to any page does. While a page of the ring is leaving, or is out in the swap file, or is shared with a snapshot,
 * events wait in the context and are posted, in order, when it is back: nothing is lost, doubled or reordered.
 * Events that find the ring full wait likewise. There are never more of those than the context was made for.
 *
 * The ring is mapped for reading and writing, and stays so: vac_unmap(), vac_protect() and VAC_ADV_DONTNEED of a range
 * with a ring in it answer -EBUSY until vac_aio_destroy(), as does vac_space_destroy(). In a snapshot it is
 * ordinary memory that shows the ring as it was at that instant; nothing is posted there, and it may be unmapped. A child
 * of fork() has a copy or nothing, as of all memory, and no context. What is in the ring other than `head` may be overwritten
 * at nobody's peril but the reader's: the engine never reads it. A `head` that cannot be true is
 * as good as a full ring: nothing is posted until it is mended, and vac_aio_getevents() answers -EUCLEAN.
 *
 * HOW THE I/O IS DONE
 *
 * By one io_uring a pool, opened with its first context; where the host forbids that, by at most eight threads:
 * vac_aio_info() says which. Either way two threads of the pool's own collect and post. With O_DIRECT the storage
 * reads and writes pool memory itself; the rules of the file (alignment) are the caller's. One request moves at most
 * 2 GiB - 4096 bytes, and at most 1024 pieces of memory, where a piece is what lies together: at least a page, and with huge
 * folios 2 MiB. What is beyond is not transferred: a short answer, as read(2) may give. With threads, only
 * regular files and block devices can be used (else the event's answer is -EOPNOTSUPP), and
 * only requests that have not begun can be cancelled.
 */
#ifndef VACATE_AIO_H
#define VACATE_AIO_H

struct vac_aio;

/* One completed request. 16 bytes. */
struct vac_aio_event {
	uint64_t user_data; /* of the request */
	int32_t res;        /* bytes transferred, or a negative errno value; -ECANCELED */
	uint32_t flags;     /* 0 */
};

/*
 * The first page of a ring. The n-th event since the beginning is events[n % size], where events begins `first`
 * bytes after this structure. Those from head to below tail are there. To consume one:
 *
 *	uint64_t h = r->head;                          (only consumers write it)
 *	if (h != atomic_load_acquire(&r->tail))
 *		use(events[h % r->size]), atomic_store_release(&r->head, h + 1);
 *
 * One consumer at a time; calls of vac_aio_getevents() are consumers. Counts are of 64 bits and do not wrap.
 */
#define VAC_AIO_MAGIC 0x6f696176u /* "vaio" */
struct vac_aio_ring {
	uint32_t magic, version; /* version 1 */
	uint32_t size, first;
	uint64_t reserved[6];
	uint64_t tail; /* written by the engine */
	uint64_t reserved2[7];
	uint64_t head; /* written by the consumer */
	uint64_t reserved3[7];
};

/* vac_aio_opts.flags */
#define VAC_AIO_THREADS 1u   /* do without io_uring; counts for the first context of a pool only */
#define VAC_AIO_TEST_HELD 2u /* test switch: hold the ring by a pin, as AIO did before Linux 3.12 */

struct vac_aio_opts {
	size_t size;
	const char *name; /* at most 11 bytes; NULL: a number */
	/* Most requests that are under way or whose event waits outside the ring; the ring has room for so many at
	 * least, and for what else fits into its last page. 1..65536. */
	uint32_t events;
	uint32_t flags; /* VAC_AIO_* */
};

/*
 * Make a context in a space. Blocks briefly. The first of a pool starts two threads.
 *
 * -EINVAL (opts, events), -EAGAIN (the limit of vac_pool_opts.aio_events, or of 16384 contexts, is reached: nothing else),
 * -ENOMEM (memory, addresses, threads), -EMFILE, -ENFILE, -EOPNOTSUPP (no direct I/O here), -EPERM (after fork).
 */
int vac_aio_setup(struct vac_space *space, const struct vac_aio_opts *opts, struct vac_aio **ctx);

/*
 * End a context: requests under way are cancelled, or waited for where they cannot be; vac_aio_getevents() calls of
 * other threads answer -ECANCELED; what nobody has fetched is thrown away, and the ring unmapped (where the host has
 * no mapping for that: with the next context, or the space). No other
 * thread may begin a call with it. -EINVAL (not a context, or being destroyed).
 */
int vac_aio_destroy(struct vac_aio *ctx);

enum vac_aio_op {
	VAC_AIO_NOP = 0, /* an event and nothing else, with `off` (at most 2^31-1) for its answer */
	VAC_AIO_READ,
	VAC_AIO_WRITE,
	VAC_AIO_READV, /* buf: struct iovec[], len: how many, at most 1024 */
	VAC_AIO_WRITEV,
	VAC_AIO_FSYNC,
	VAC_AIO_FDSYNC,
};

/* vac_aio_req.flags */
#define VAC_AIO_FILE 1u   /* fd is an index into what vac_aio_files() was given */
#define VAC_AIO_BUFFER 2u /* READ, WRITE: the memory is a part of buffer number `buffer` */

struct vac_aio_req {
	uint32_t op;     /* enum vac_aio_op */
	uint32_t flags;  /* VAC_AIO_FILE, VAC_AIO_BUFFER */
	int32_t fd;      /* must stay open until the request has been submitted; see VAC_AIO_FILE */
	uint32_t buffer; /* see vac_aio_buffers(); else 0 */
	uint64_t off;    /* in the file */
	void *buf;       /* stays the caller's; may not be touched until the event is there */
	uint64_t len;    /* bytes, or number of vectors */
	uint64_t user_data;
};

/*
 * Submit n requests, in order; they may be done in any. Answers how many were taken: fewer than n, or where it was the first
 * a negative value, when one could not be. Array and vectors are copied.
 * Memory is filled in and pinned, so the call may block for a migration or a gate, holding nothing of its own
 * meanwhile; and where the host has no free request, for a moment. Any thread may submit; what a thread has submitted goes on when it
 * ends.
 *
 * -EINVAL (n, op, flags, buffer, more than 1024 vectors, memory of another pool), -EBADF, -EFAULT, -EIO, -ENOMEM,
 * -EOVERFLOW as of vac_pin(), -EAGAIN (as many under way, or unfetched outside the ring, as the context was
 * made for; or the host takes no more now), -ECANCELED (being destroyed).
 */
int vac_aio_submit(struct vac_aio *ctx, const struct vac_aio_req *req, unsigned n);

/*
 * Wait for at least min events, or until timeout_ns have passed (below 0: no limit; 0: do not wait), and answer how
 * many of at most max have been written to `events`, in order. Signal handlers run meanwhile and do not end the wait, nor may they leave it by
 * a jump; it is no cancellation point. -EINVAL (max 0, min > max), -ENOMEM, -EIO (the ring's page cannot be brought in), -EUCLEAN
 * (the ring's head is not true), -ECANCELED (the context is being destroyed).
 */
int vac_aio_getevents(struct vac_aio *ctx, unsigned min, unsigned max, struct vac_aio_event *events,
		      int64_t timeout_ns);

/*
 * Ask for the requests with this user_data, or with VAC_AIO_CANCEL_ALL for all, to end early. Each still gives its one
 * event: -ECANCELED, or what it had come to. Answers how many were asked; -ENOENT: none is under way.
 */
#define VAC_AIO_CANCEL_ALL 1u
int vac_aio_cancel(struct vac_aio *ctx, uint64_t user_data, unsigned flags);

/*
 * Files for VAC_AIO_FILE, in place of those given before. They are duplicated, so that the caller may close
 * his. n 0: none. At most 1024. -EBUSY (requests are under way), -EBADF, -EMFILE, -EINVAL.
 */
int vac_aio_files(struct vac_aio *ctx, const int *fds, unsigned n);

/*
 * Buffers for VAC_AIO_BUFFER, in place of those given before; n 0: none; at most 64, each in one space of the pool, and
 * writable. They are pinned for as long as they are registered, by pins that move ("aio:NAME buffer 3"): an offline waits for
 * the requests on a buffer that are under way, those to come wait, and it goes on where it lies then. A request on a registered
 * buffer takes no pin of its own; where the buffer lies in one piece (as in a huge folio), and the kernel takes it, it is
 * registered with the io_uring too, and anew whenever it moves. What was unmapped stays with the buffer until
 * it is given up.A request that does not end (a pipe) keeps its buffer from moving, and others on it
 * wait for gate_timeout_ms when an offline asks: see VAC_OFFLINE_CANCEL_IO.
 * -EBUSY (requests are under way), -EINVAL (n; no memory of this pool), -EFAULT, -ENOMEM, -EIO, -EOVERFLOW as of
 * vac_pin_with().
 */
struct iovec;
int vac_aio_buffers(struct vac_aio *ctx, const struct iovec *iov, unsigned n);

struct vac_aio_info {
	size_t size;
	void *ring; /* struct vac_aio_ring; valid until vac_aio_destroy() */
	size_t ring_bytes;
	uint32_t events;      /* as asked for */
	uint32_t under_way;   /* requests submitted, not complete */
	uint32_t waiting;     /* events outside the ring */
	uint32_t ring_events; /* events that the ring has room for */
	int uring;            /* 1: by io_uring, 0: by threads */
	uint64_t posted;      /* events that were put into the ring */
};
int vac_aio_info(struct vac_aio *ctx, struct vac_aio_info *info);

#endif /* VACATE_AIO_H */

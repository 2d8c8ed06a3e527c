/* SPDX-License-Identifier: MIT */
/*
 * Requests of direct I/O by one io_uring for all contexts of a pool.
 *
 * `submit` is held for one system call that waits for nothing but a free request of the block layer; whoever
 * collects takes no other lock, as there is one at a time. Completions that find the queue full are kept by the
 * kernel (IORING_FEAT_NODROP), and come when it is waited again.
 *
 * The kernel cancels what a thread has submitted when that thread ends, though what is asked here goes on: an
 * -ECANCELED that nobody asked for is submitted anew by the one who collects. So is what a signal to the
 * submitter has interrupted. What has moved bytes does not answer either.
 */
#include <string.h>
#include <sys/uio.h>

#include "port/linux/ring.h"

#define ENTRIES 256u
#define COMPLETIONS 8192u
#define PAUSE_NS UINT64_C(1000000)
#define MINE 1u /* user_data of kicks and cancellations, whose completions nobody waits for */

/* The oldest kernel that has what is used: 5.17. Some before it take nothing (EBUSY) until completions have been
 * collected, which the one who would collect them may be waiting for. */
#define FEATURES                                                                   \
	(IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS | \
	 IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP)

struct uring {
	struct vac__io_dev dev;
	struct vac__ring q;
	struct vac__flock submit;
	/* Orders what the submitter has written of a request before what the collector reads: the kernel does
	 * that already, but no tool that looks for races knows. */
	_Atomic uint32_t handed;
};

static struct io_uring_sqe *prepare(struct uring *u, uint32_t at, unsigned op)
{
	uint32_t i = at & (u->q.p.sq_entries - 1);
	struct io_uring_sqe *s = &u->q.sqe[i];

	memset(s, 0, sizeof(*s));
	s->opcode = (uint8_t)op;
	atomic_store_explicit(&vac__ring_field(u->q.sq, u->q.p.sq_off.array)[i], i,
			      memory_order_relaxed);
	return s;
}

/* Hand over the entries [at, at + n); answers how many the kernel has taken, and why not more. `submit` is held. */
static unsigned hand_over(struct uring *u, uint32_t at, unsigned n, int *err)
{
	_Atomic uint32_t *tail = vac__ring_field(u->q.sq, u->q.p.sq_off.tail);
	unsigned done = 0;

	atomic_fetch_add(&u->handed, 1);
	atomic_store_explicit(tail, at + n, memory_order_release);
	while (done < n) {
		long got = vac__sys(
			syscall(SYS_io_uring_enter, u->q.fd, n - done, 0, 0, NULL, (size_t)0));

		*err = got < 0 ? (int)got : -EAGAIN;
		if (got > 0)
			done += (uint32_t)got;
		else if (got != -EINTR)
			break;
	}
	if (done < n) /* the host wants no more: take back what it has not taken */
		atomic_store_explicit(tail, at + done, memory_order_release);
	return done;
}

static uint32_t sq_tail(struct uring *u)
{
	return atomic_load_explicit(vac__ring_field(u->q.sq, u->q.p.sq_off.tail),
				    memory_order_relaxed);
}

static void fill(struct uring *u, uint32_t at, struct vac__ioreq *io)
{
	bool sync = io->op == VAC__IO_FSYNC || io->op == VAC__IO_FDSYNC;
	bool read = io->op == VAC__IO_READ;
	struct io_uring_sqe *s;

	if (sync) {
		s = prepare(u, at, IORING_OP_FSYNC);
		s->fsync_flags = io->op == VAC__IO_FDSYNC ? IORING_FSYNC_DATASYNC : 0;
	} else if (io->nr_seg == 1) {
		if (io->buffer) {
			s = prepare(u, at, read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED);
			s->buf_index = (uint16_t)(io->buffer - 1);
		} else {
			s = prepare(u, at, read ? IORING_OP_READ : IORING_OP_WRITE);
		}
		s->addr = (uintptr_t)io->seg->mem;
		s->len = (uint32_t)io->seg->bytes;
		s->off = io->off;
	} else {
		s = prepare(u, at, read ? IORING_OP_READV : IORING_OP_WRITEV);
		s->addr = (uintptr_t)io->seg;
		s->len = io->nr_seg;
		s->off = io->off;
	}
	s->fd = io->fd;
	s->user_data = (uintptr_t)io;
}

static unsigned submit(struct uring *u, struct vac__ioreq **io, unsigned n, int *err)
{
	unsigned done = 0;

	vac__flock_lock(&u->submit);
	while (done < n) {
		unsigned part = n - done < u->q.p.sq_entries ? n - done : u->q.p.sq_entries, got;
		uint32_t at = sq_tail(u);

		for (unsigned i = 0; i < part; i++)
			fill(u, at + i, io[done + i]);
		got = hand_over(u, at, part, err);
		done += got;
		if (got < part)
			break;
	}
	vac__flock_unlock(&u->submit);
	return done;
}

static unsigned uring_submit(struct vac__io_dev *d, struct vac__ioreq **io, unsigned n)
{
	int err;

	return submit((struct uring *)d, io, n, &err);
}

/* The kernel has not taken an entry that must arrive: is it worth another try, in a moment? It is short of memory. No
 * deadline ends that: what was asked for must come. */
static bool try_again(int err)
{
	static const _Atomic uint32_t nobody;

	if (err != -EAGAIN && err != -ENOMEM)
		return false;
	vac__port_wait(&nobody, 0, vac__port_now() + PAUSE_NS);
	return true;
}

/* An entry of ours. Nobody would ask again for what it asks for. */
static void tell(struct uring *u, unsigned op, const struct vac__ioreq *io)
{
	struct io_uring_sqe *s;
	unsigned n;
	uint32_t at;
	int err;

	do {
		vac__flock_lock(&u->submit);
		at = sq_tail(u);
		s = prepare(u, at, op);
		s->fd = -1;
		s->addr = (uintptr_t)io;
		s->user_data = MINE;
		n = hand_over(u, at, 1, &err);
		vac__flock_unlock(&u->submit);
	} while (n == 0 && try_again(err));
}

static void uring_cancel(struct vac__io_dev *d, struct vac__ioreq *io)
{
	atomic_store(&io->cancel, 1);
	tell((struct uring *)d, IORING_OP_ASYNC_CANCEL, io);
}

static void uring_kick(struct vac__io_dev *d)
{
	tell((struct uring *)d, IORING_OP_NOP, NULL);
}

/* Begin a request again that ended though nobody wanted that. */
static bool again(struct uring *u, struct vac__ioreq *io, int32_t res)
{
	struct vac__port_saved saved;
	unsigned n;
	int err;

	if (res != -ECANCELED && res != -EINTR)
		return false;
	vac__port_enter(&saved);
	do {
		n = 0;
		if (atomic_load(&io->cancel))
			break;
		n = submit(u, &io, 1, &err);
	} while (n == 0 && try_again(err));
	if (n && atomic_load(&io->cancel)) /* which has missed it */
		uring_cancel(&u->dev, io);
	vac__port_leave(&saved);
	return n == 1;
}

/* Answers whether anything was there, of others or of ours. */
static bool take(struct uring *u, struct vac__ioreq **done, unsigned max, unsigned *n)
{
	_Atomic uint32_t *head = vac__ring_field(u->q.cq, u->q.p.cq_off.head);
	_Atomic uint32_t *tail = vac__ring_field(u->q.cq, u->q.p.cq_off.tail);
	uint32_t at = atomic_load_explicit(head, memory_order_relaxed), first = at;
	uint32_t mask = u->q.p.cq_entries - 1;
	const struct io_uring_cqe *cqe = (const void *)(u->q.cq + u->q.p.cq_off.cqes);

	while (*n < max && at != atomic_load_explicit(tail, memory_order_acquire)) {
		uint64_t data = cqe[at & mask].user_data;
		int32_t res = cqe[at & mask].res;
		struct vac__ioreq *io = (void *)(uintptr_t)data;

		atomic_store_explicit(head, ++at, memory_order_release);
		if (data == MINE)
			continue;
		(void)atomic_load(&u->handed);
		if (again(u, io, res))
			continue;
		io->res = res;
		done[(*n)++] = io;
	}
	return at != first;
}

static unsigned uring_collect(struct vac__io_dev *d, struct vac__ioreq **done, unsigned max,
			      uint64_t deadline_ns)
{
	struct uring *u = (struct uring *)d;
	unsigned n = 0;

	if (!take(u, done, max, &n)) {
		struct io_uring_getevents_arg arg = {0};
		uint64_t now = deadline_ns ? vac__port_now() : 0;
		struct __kernel_timespec t;

		if (deadline_ns) {
			uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

			t.tv_sec = (int64_t)(left / 1000000000u);
			t.tv_nsec = (long long)(left % 1000000000u);
			arg.ts = (uintptr_t)&t;
		}
		syscall(SYS_io_uring_enter, u->q.fd, 0, 1,
			IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg));
		take(u, done, max, &n);
	}
	return n;
}

static int uring_buffer(struct vac__io_dev *d, unsigned slot, void *mem, size_t bytes)
{
	struct uring *u = (struct uring *)d;
	struct iovec v = {mem, bytes};
	struct io_uring_rsrc_update2 up = {.offset = slot, .data = (uintptr_t)&v, .nr = 1};
	long r;

	do {
		r = vac__sys(syscall(SYS_io_uring_register, u->q.fd, IORING_REGISTER_BUFFERS_UPDATE,
				     &up, sizeof(up)));
	} while (!mem && r < 0 &&
		 try_again((int)r)); /* what is given up is about to move, or gone */
	return r < 0 ? (int)r : 0;
}

/* An empty table of buffers. Linux 5.19. */
static bool sparse_buffers(struct uring *u)
{
	struct io_uring_rsrc_register reg = {.nr = VAC__IO_BUFFERS,
					     .flags = IORING_RSRC_REGISTER_SPARSE};

	return syscall(SYS_io_uring_register, u->q.fd, IORING_REGISTER_BUFFERS2, &reg,
		       sizeof(reg)) == 0;
}

static void uring_close(struct vac__io_dev *d)
{
	struct uring *u = (struct uring *)d;

	vac__ring_close(&u->q);
	vac__port_meta_release(u, VAC_PAGE_BYTES);
}

_Static_assert(sizeof(struct uring) <= VAC_PAGE_BYTES, "one page is reserved for it");

int vac__uring_open(struct vac__io_dev **dev)
{
	struct uring *u = vac__port_meta_reserve(VAC_PAGE_BYTES);
	int r;

	if (!u)
		return -ENOMEM;
	r = vac__ring_open(&u->q, ENTRIES, COMPLETIONS);
	if (r == 0 && (u->q.p.features & FEATURES) != FEATURES) {
		vac__ring_close(&u->q);
		r = -EOPNOTSUPP;
	}
	if (r < 0) {
		vac__port_meta_release(u, VAC_PAGE_BYTES);
		return r;
	}
	u->dev = (struct vac__io_dev){
		.native = true,
		.close = uring_close,
		.submit = uring_submit,
		.cancel = uring_cancel,
		.collect = uring_collect,
		.kick = uring_kick,
		.buffer = sparse_buffers(u) ? uring_buffer : NULL,
	};
	*dev = &u->dev;
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * The swap file: past the page cache where the file system allows it, from and to direct maps.
 *
 * One piece is a plain pread(2) or pwrite(2). Several go through one io_uring a file, all at once, where the
 * host has it and allows it. Containers and sandboxes often do not, but have the older io_submit(2): then a few
 * contexts of that are kept (queue), each for one caller at a time, who takes what is free. Without either, or
 * if all are in use, pieces go one after the other. Both are spoken to by system calls of our own, as the
 * library depends on nothing but libc.
 *
 * Anybody's completions may be found by anybody: who waits and finds no one at it becomes the collector, takes
 * what is there, and tells the others by moving `turn` on. A piece's memory is on the stack of its caller, who
 * does not leave before `left` is 0; the collector's last touch of it is the step that makes it so.
 *
 * Locks: `submit` is held for one system call that does not wait; `collect` while waiting in the kernel, for a
 * completion of which the collector's own pieces are some. Nothing else is taken under either.
 */
#include <linux/aio_abi.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "port/linux/linux.h"
#include "port/linux/ring.h"

#ifndef BLKGETSIZE64
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)
#endif

#define ENTRIES 64u
#define QUEUES 4u
#define DEPTH 32u /* pieces that one queue has under way at most */

struct ring {
	struct vac__ring q;
	struct vac__flock submit;
	_Atomic uint32_t collect; /* 1: somebody is at it */
	_Atomic uint32_t turn;
	_Atomic uint32_t
		inside; /* submitted and not collected: never more than the completion queue holds */
};

/* In the place of a ring, and told from it by fd, which is -1. */
struct queues {
	int fd;
	unsigned n;
	struct {
		aio_context_t ctx;
		_Atomic uint32_t taken;
	} q[QUEUES];
};

/* ---- The ring ---------------------------------------------------------------------------------- */

static void ring_close(struct ring *r)
{
	vac__ring_close(&r->q);
	vac__port_meta_release(r, VAC_PAGE_BYTES);
}

/* NULL: not to be had here. */
static struct ring *ring_open(void)
{
	struct ring *r = vac__port_meta_reserve(VAC_PAGE_BYTES);

	if (r && vac__ring_open(&r->q, ENTRIES, 0) < 0) {
		vac__port_meta_release(r, VAC_PAGE_BYTES);
		r = NULL;
	}
	return r;
}

/* ---- Without a ring ----------------------------------------------------------------------------- */

/* NULL: not even one is to be had (fs.aio-max-nr, or forbidden). */
static struct queues *queues_open(void)
{
	struct queues *q;

	/* The kernel maps a few pages for each. */
	if (!vac__port_vma_charge(QUEUES, false))
		return NULL;
	q = vac__port_meta_reserve(VAC_PAGE_BYTES);
	if (q) {
		q->fd = -1;
		while (q->n < QUEUES &&
		       vac__sys(syscall(SYS_io_setup, DEPTH, &q->q[q->n].ctx)) == 0)
			q->n++;
		if (q->n)
			return q;
		vac__port_meta_release(q, VAC_PAGE_BYTES);
	}
	vac__port_vma_charge(-(long)QUEUES, true);
	return NULL;
}

static void queues_close(struct queues *q)
{
	for (unsigned i = 0; i < q->n; i++)
		syscall(SYS_io_destroy, q->q[i].ctx);
	vac__port_vma_charge(-(long)QUEUES, true);
	vac__port_meta_release(q, VAC_PAGE_BYTES);
}

/* Up to DEPTH runs on a queue of one's own. What could not be handed over, or was done in part, is left as it
 * was (err 1), for the caller to do by himself. */
static void queue_run(aio_context_t ctx, int fd, bool write, struct vac__swap_run *run, unsigned n)
{
	struct iocb cb[DEPTH], *list[DEPTH];
	struct io_event ev[DEPTH];
	unsigned in = 0, out = 0;

	for (unsigned i = 0; i < n; i++) {
		cb[i] = (struct iocb){.aio_data = (uintptr_t)&run[i],
				      .aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
				      .aio_fildes = (uint32_t)fd,
				      .aio_buf = (uintptr_t)run[i].mem,
				      .aio_nbytes = run[i].bytes,
				      .aio_offset = (int64_t)run[i].off};
		list[i] = &cb[i];
	}
	while (in < n) {
		long r = vac__sys(syscall(SYS_io_submit, ctx, (long)(n - in), list + in));

		if (r == -EINTR)
			continue;
		if (r <= 0)
			break;
		in += (unsigned)r;
	}
	while (out < in) {
		long r = vac__sys(syscall(SYS_io_getevents, ctx, (long)(in - out), (long)(in - out),
					  ev, NULL));

		for (long i = 0; i < r; i++) {
			struct vac__swap_run *of = (void *)(uintptr_t)ev[i].data;
			int64_t res = ev[i].res;

			of->err = res == (int64_t)of->bytes                     ? 0
				  : res >= 0 || res == -EAGAIN || res == -EINTR ? 1
										: (int)res;
			out++;
		}
	}
}

/* Runs of one caller, on a queue that nobody has. False: there is none. */
static bool queues_io(struct queues *q, int fd, bool write, struct vac__swap_run *run, unsigned n)
{
	for (unsigned i = 0; i < q->n; i++) {
		uint32_t zero = 0;

		if (!atomic_compare_exchange_strong(&q->q[i].taken, &zero, 1))
			continue;
		for (unsigned at = 0; at < n; at += DEPTH)
			queue_run(q->q[i].ctx, fd, write, run + at,
				  n - at < DEPTH ? n - at : DEPTH);
		atomic_store(&q->q[i].taken, 0);
		return true;
	}
	return false;
}

/* ---- Completions of the ring --------------------------------------------------------------------- */

/* Take what has been completed. The collector's role is held. */
static void take_all(struct ring *r)
{
	_Atomic uint32_t *head = vac__ring_field(r->q.cq, r->q.p.cq_off.head);
	uint32_t at = atomic_load_explicit(head, memory_order_relaxed), n = 0;
	uint32_t mask = r->q.p.cq_entries - 1;
	const struct io_uring_cqe *cqe = (const void *)(r->q.cq + r->q.p.cq_off.cqes);

	while (at != atomic_load_explicit(vac__ring_field(r->q.cq, r->q.p.cq_off.tail),
					  memory_order_acquire)) {
		struct vac__swap_run *run = (void *)(uintptr_t)cqe[at & mask].user_data;
		int32_t res = cqe[at & mask].res;

		/* What its owner wrote of the run came before he was counted in. The kernel has carried
		 * that over already, but no tool that looks for races knows. */
		(void)atomic_load(&r->inside);
		at++;
		n++;
		atomic_store_explicit(head, at, memory_order_release);
		/* 1: done in part, or interrupted: its owner does it again by himself. */
		run->err = res == (int64_t)run->bytes                    ? 0
			   : res >= 0 || res == -EAGAIN || res == -EINTR ? 1
									 : res;
		atomic_fetch_sub_explicit(run->left, 1, memory_order_release);
	}
	if (n == 0)
		return;
	atomic_fetch_sub(&r->inside, n);
	atomic_fetch_add(&r->turn, 1);
	vac__port_wake(&r->turn, INT_MAX);
}

static void wait_for(struct ring *r, _Atomic uint32_t *left)
{
	while (atomic_load_explicit(left, memory_order_acquire)) {
		uint32_t turn = atomic_load(&r->turn), zero = 0;

		if (!atomic_compare_exchange_strong(&r->collect, &zero, 1)) {
			/* He tells us, or that he has gone. */
			if (atomic_load_explicit(left, memory_order_acquire))
				vac__port_wait(&r->turn, turn, 0);
			continue;
		}
		while (atomic_load_explicit(left, memory_order_acquire)) {
			take_all(r);
			if (atomic_load_explicit(left, memory_order_acquire))
				syscall(SYS_io_uring_enter, r->q.fd, 0, 1, IORING_ENTER_GETEVENTS,
					NULL, 0);
		}
		atomic_store(&r->collect, 0);
		atomic_fetch_add(&r->turn, 1);
		vac__port_wake(&r->turn, INT_MAX);
	}
}

/* Hand runs over, as many as there is room for; answers how many. */
static unsigned submit(struct ring *r, int fd, bool write, struct vac__swap_run *run, unsigned n)
{
	_Atomic uint32_t *tail = vac__ring_field(r->q.sq, r->q.p.sq_off.tail);
	_Atomic uint32_t *array = vac__ring_field(r->q.sq, r->q.p.sq_off.array);
	uint32_t mask = r->q.p.sq_entries - 1, at, done = 0;
	unsigned k = 0;

	vac__flock_lock(&r->submit);
	at = atomic_load_explicit(tail, memory_order_relaxed);
	while (k < n && k < r->q.p.sq_entries && atomic_load(&r->inside) + k < r->q.p.cq_entries) {
		struct io_uring_sqe *s = &r->q.sqe[(at + k) & mask];

		memset(s, 0, sizeof(*s));
		s->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
		s->fd = fd;
		s->off = run[k].off;
		s->addr = (uintptr_t)run[k].mem;
		s->len = (uint32_t)run[k].bytes;
		s->user_data = (uintptr_t)&run[k];
		atomic_store_explicit(&array[(at + k) & mask], (at + k) & mask,
				      memory_order_relaxed);
		k++;
	}
	atomic_fetch_add(&r->inside, k);
	atomic_store_explicit(tail, at + k, memory_order_release);
	while (done < k) {
		long got = vac__sys(syscall(SYS_io_uring_enter, r->q.fd, k - done, 0, 0, NULL, 0));

		if (got > 0)
			done += (uint32_t)got;
		else if (got != -EINTR && got != -EAGAIN && got != -EBUSY)
			break;
	}
	if (done < k) { /* the host wants no more: take back what it has not taken */
		atomic_store_explicit(tail, at + done, memory_order_release);
		atomic_fetch_sub(&r->inside, k - done);
	}
	vac__flock_unlock(&r->submit);
	return done;
}

/* ---- The file ---------------------------------------------------------------------------------- */

static int long_enough(int fd, uint64_t bytes)
{
	struct stat st;
	uint64_t size;

	if (vac__sys_fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		if (syscall(SYS_ioctl, fd, BLKGETSIZE64, &size) < 0)
			return -errno;
	} else if (S_ISREG(st.st_mode)) {
		size = (uint64_t)st.st_size;
	} else {
		return -EINVAL;
	}
	return size < bytes ? -EINVAL : 0;
}

/* The same file once more, with our own flags; a descriptor of ours in any case. */
static int reopen(int fd)
{
	char path[40];
	int r, flags = (int)vac__sys(syscall(SYS_fcntl, fd, F_GETFL));

	if (flags < 0)
		return flags;
	if ((flags & O_ACCMODE) != O_RDWR)
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = vac__sys_open(AT_FDCWD, path, O_RDWR | O_DIRECT);
	if (r < 0)
		r = (int)vac__sys(syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0));
	return r;
}

int vac__swap_open(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f)
{
	int r = long_enough(fd, bytes);

	(void)ctx;
	if (r < 0)
		return r;
	r = reopen(fd);
	if (r < 0)
		return r;
	*f = (struct vac__swapfile){.fd = r, .bytes = bytes, .priv = (uintptr_t)ring_open()};
	if (!f->priv)
		f->priv = (uintptr_t)queues_open();
	return 0;
}

void vac__swap_close(void *ctx, struct vac__swapfile *f)
{
	(void)ctx;
	if (f->priv && ((struct ring *)f->priv)->q.fd >= 0)
		ring_close((struct ring *)f->priv);
	else if (f->priv)
		queues_close((struct queues *)f->priv);
	vac__sys_close(f->fd);
	f->fd = -1;
}

static int transfer(int fd, bool write, const struct vac__swap_run *run)
{
	size_t done = 0;

	while (done < run->bytes) {
		long r = vac__sys(syscall(write ? SYS_pwrite64 : SYS_pread64, fd,
					  (char *)run->mem + done, run->bytes - done,
					  run->off + done));

		if (r == -EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? (int)r : -EIO;
		done += (size_t)r;
	}
	return 0;
}

/*
 * Somebody has made the file shorter: what was beyond its end is lost, and reading it fails. A write there
 * would make it longer again, and what was lost zeroes, so nothing is written any more.
 */
static bool was_cut(const struct vac__swapfile *f)
{
	struct stat st;

	return vac__sys_fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_size < f->bytes;
}

void vac__swap_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
		  unsigned n)
{
	struct ring *ring = (struct ring *)f->priv;
	_Atomic uint32_t left = 0;
	unsigned at = 0, k;

	(void)ctx;
	vac__uffd_pause();
	for (unsigned i = 0; i < n; i++) {
		run[i].err = 1;
		run[i].left = &left;
	}
	if (write && was_cut(f)) {
		for (unsigned i = 0; i < n; i++)
			run[i].err = -EIO;
		return;
	}
	if (ring && ring->q.fd < 0) {
		if (n > 1)
			queues_io((struct queues *)f->priv, f->fd, write, run, n);
		ring = NULL;
	}
	while (ring && n > 1 && at < n) {
		atomic_fetch_add(&left, n - at);
		k = submit(ring, f->fd, write, run + at, n - at);
		atomic_fetch_sub(&left, n - at - k);
		wait_for(ring, &left);
		if (k == 0)
			break;
		at += k;
	}
	for (unsigned i = 0; i < n; i++)
		if (run[i].err == 1)
			run[i].err = transfer(f->fd, write, &run[i]);
}

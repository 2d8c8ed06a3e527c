/* SPDX-License-Identifier: MIT */
/*
 * Requests of direct I/O by threads, where there is no io_uring. A thread is started when a request finds none that
 * waits for work, up to WORKERS of them.
 *
 * Everything is under one lock but the transfer itself. A request is on exactly one list: waiting, in a worker's hands (on
 * none), or done.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "port/linux/ring.h"

#define WORKERS 8u

enum { STATE_WAITING = 1, STATE_TAKEN, STATE_DONE };

struct list {
	struct vac__ioreq *first, *last;
};

struct pool {
	struct vac__io_dev dev;
	struct vac__flock lock;
	struct list todo, done;
	unsigned workers, idle;
	uintptr_t thread[WORKERS];
	_Atomic uint32_t work;  /* moves on when there is work, or the end has come */
	_Atomic uint32_t ended; /* moves on when there is something to be collected, or a kick */
	bool stop, kicked;
};

static void append(struct list *l, struct vac__ioreq *io)
{
	io->next = NULL;
	io->prev = l->last;
	*(l->last ? &l->last->next : &l->first) = io;
	l->last = io;
}

static void detach(struct list *l, struct vac__ioreq *io)
{
	*(io->prev ? &io->prev->next : &l->first) = io->next;
	*(io->next ? &io->next->prev : &l->last) = io->prev;
}

static void signal_all(_Atomic uint32_t *e)
{
	atomic_fetch_add(e, 1);
	vac__port_wake(e, INT_MAX);
}

/* What has no end that storage sees to (a pipe, a socket) would keep a thread for ever. */
static int transfer(const struct vac__ioreq *io)
{
	struct stat st;
	long r;

	if (vac__sys_fstat(io->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EOPNOTSUPP;
	do {
		switch (io->op) {
		case VAC__IO_FSYNC: r = vac__sys(syscall(SYS_fsync, io->fd)); break;
		case VAC__IO_FDSYNC: r = vac__sys(syscall(SYS_fdatasync, io->fd)); break;
		default:
			r = vac__sys(syscall(io->op == VAC__IO_READ ? SYS_preadv : SYS_pwritev,
					     io->fd, (struct iovec *)(void *)io->seg,
					     (unsigned long)io->nr_seg, (unsigned long)io->off,
					     (unsigned long)0));
		}
	} while (r == -EINTR);
	return (int)r;
}

static void worker(void *arg)
{
	struct pool *p = arg;

	vac__flock_lock(&p->lock);
	while (!p->stop) {
		struct vac__ioreq *io = p->todo.first;
		uint32_t seen = atomic_load(&p->work);

		if (!io) {
			p->idle++;
			vac__flock_unlock(&p->lock);
			vac__port_wait(&p->work, seen, 0);
			vac__flock_lock(&p->lock);
			p->idle--;
			continue;
		}
		detach(&p->todo, io);
		io->state = STATE_TAKEN;
		vac__flock_unlock(&p->lock);
		io->res = transfer(io);
		vac__flock_lock(&p->lock);
		io->state = STATE_DONE;
		append(&p->done, io);
		signal_all(&p->ended);
	}
	vac__flock_unlock(&p->lock);
}

static unsigned pool_submit(struct vac__io_dev *d, struct vac__ioreq **io, unsigned n)
{
	struct pool *p = (struct pool *)d;
	unsigned want;

	vac__flock_lock(&p->lock);
	for (unsigned i = 0; i < n; i++) {
		io[i]->state = STATE_WAITING;
		append(&p->todo, io[i]);
	}
	/* More than are idle is wanted; there is one at least since open. */
	for (want = n > p->idle ? n - p->idle : 0; want && p->workers < WORKERS; want--) {
		if (vac__port_thread_start("vac-io", worker, p, &p->thread[p->workers]) < 0)
			break;
		p->workers++;
	}
	signal_all(&p->work);
	vac__flock_unlock(&p->lock);
	return n;
}

static void pool_cancel(struct vac__io_dev *d, struct vac__ioreq *io)
{
	struct pool *p = (struct pool *)d;

	vac__flock_lock(&p->lock);
	if (io->state == STATE_WAITING) {
		detach(&p->todo, io);
		io->res = -ECANCELED;
		io->state = STATE_DONE;
		append(&p->done, io);
		signal_all(&p->ended);
	}
	vac__flock_unlock(&p->lock);
}

static unsigned pool_collect(struct vac__io_dev *d, struct vac__ioreq **done, unsigned max,
			     uint64_t deadline_ns)
{
	struct pool *p = (struct pool *)d;
	struct vac__port_saved saved;
	unsigned n = 0;

	for (unsigned pass = 0; pass < 2; pass++) {
		uint32_t seen = atomic_load(&p->ended);
		bool kicked;

		vac__port_enter(&saved);
		vac__flock_lock(&p->lock);
		for (struct vac__ioreq *io; n < max && (io = p->done.first); n++) {
			detach(&p->done, io);
			done[n] = io;
		}
		kicked = p->kicked;
		p->kicked = false;
		vac__flock_unlock(&p->lock);
		vac__port_leave(&saved);
		if (n || kicked || pass)
			break;
		vac__port_wait(&p->ended, seen, deadline_ns);
	}
	return n;
}

static void pool_kick(struct vac__io_dev *d)
{
	struct pool *p = (struct pool *)d;

	vac__flock_lock(&p->lock);
	p->kicked = true;
	signal_all(&p->ended);
	vac__flock_unlock(&p->lock);
}

static void pool_close(struct vac__io_dev *d)
{
	struct pool *p = (struct pool *)d;

	vac__flock_lock(&p->lock);
	p->stop = true;
	signal_all(&p->work);
	vac__flock_unlock(&p->lock);
	for (unsigned i = 0; i < p->workers; i++)
		vac__port_thread_join(p->thread[i]);
	vac__port_meta_release(p, VAC_PAGE_BYTES);
}

int vac__iothread_open(struct vac__io_dev **dev)
{
	struct pool *p = vac__port_meta_reserve(VAC_PAGE_BYTES);

	if (!p)
		return -ENOMEM;
	p->dev = (struct vac__io_dev){
		.close = pool_close,
		.submit = pool_submit,
		.cancel = pool_cancel,
		.collect = pool_collect,
		.kick = pool_kick,
	};
	if (vac__port_thread_start("vac-io", worker, p, &p->thread[0]) < 0) {
		vac__port_meta_release(p, VAC_PAGE_BYTES);
		return -ENOMEM;
	}
	p->workers = 1;
	*dev = &p->dev;
	return 0;
}

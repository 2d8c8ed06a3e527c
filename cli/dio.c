/* SPDX-License-Identifier: MIT */
/* A queue of direct transfers in flight. See dio.h. */
#include "dio.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct dio_queue {
	bool uring;
	struct io_uring ring;

	/* The rest serves the threads; guarded by lock. */
	pthread_mutex_t lock;
	pthread_cond_t asked, finished;
	struct dio_req *todo, **todo_tail;
	struct dio_req *done, **done_tail;
	bool stop;
	unsigned threads;
	pthread_t thread[];
};

static void push(struct dio_req ***tail, struct dio_req *r)
{
	r->next = NULL;
	**tail = r;
	*tail = &r->next;
}

static struct dio_req *pop(struct dio_req **head, struct dio_req ***tail)
{
	struct dio_req *r = *head;

	if (r) {
		*head = r->next;
		if (!*head)
			*tail = head;
	}
	return r;
}

static void *reader(void *arg)
{
	struct dio_queue *q = arg;
	struct dio_req *r;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		r = pop(&q->todo, &q->todo_tail);
		if (!r) {
			if (q->stop)
				break;
			pthread_cond_wait(&q->asked, &q->lock);
			continue;
		}
		pthread_mutex_unlock(&q->lock);
		do
			r->res = r->write ? pwritev(r->fd, r->iov, r->iovs, r->off)
					  : preadv(r->fd, r->iov, r->iovs, r->off);
		while (r->res < 0 && errno == EINTR);
		if (r->res < 0)
			r->res = -errno;
		pthread_mutex_lock(&q->lock);
		push(&q->done_tail, r);
		pthread_cond_signal(&q->finished);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static void stop_threads(struct dio_queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_broadcast(&q->asked);
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < q->threads; i++)
		pthread_join(q->thread[i], NULL);
}

static int start_threads(struct dio_queue *q, unsigned depth)
{
	for (unsigned i = 0; i < depth; i++) {
		int err = pthread_create(&q->thread[i], NULL, reader, q);

		if (err) {
			stop_threads(q);
			return -err;
		}
		q->threads++;
	}
	return 0;
}

/*
 * io_uring may be missing (old kernel), switched off (kernel.io_uring_disabled) or forbidden
 * (seccomp of container runtimes). Waiting with a timeout without touching the submission side
 * needs IORING_FEAT_EXT_ARG, Linux 5.11.
 */
static bool open_ring(struct dio_queue *q, unsigned depth)
{
	if (getenv("VACATE_NO_IO_URING"))
		return false;
	if (io_uring_queue_init(depth, &q->ring, 0) < 0)
		return false;
	if (q->ring.features & IORING_FEAT_EXT_ARG)
		return true;
	io_uring_queue_exit(&q->ring);
	return false;
}

int dio_open(struct dio_queue **out, unsigned depth)
{
	struct dio_queue *q = calloc(1, sizeof(*q) + depth * sizeof(q->thread[0]));
	pthread_condattr_t attr;
	int err;

	if (!q)
		return -ENOMEM;
	q->todo_tail = &q->todo;
	q->done_tail = &q->done;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->asked, NULL);
	pthread_cond_init(&q->finished, &attr);
	pthread_condattr_destroy(&attr);
	q->uring = open_ring(q, depth);
	err = q->uring ? 0 : start_threads(q, depth);
	if (err) {
		dio_close(q);
		return err;
	}
	*out = q;
	return 0;
}

const char *dio_backend(const struct dio_queue *q)
{
	return q->uring ? "io_uring" : "pread threads";
}

int dio_submit(struct dio_queue *q, struct dio_req *r)
{
	struct io_uring_sqe *sqe;
	int n;

	if (!q->uring) {
		pthread_mutex_lock(&q->lock);
		push(&q->todo_tail, r);
		pthread_cond_signal(&q->asked);
		pthread_mutex_unlock(&q->lock);
		return 0;
	}
	sqe = io_uring_get_sqe(&q->ring);
	if (!sqe)
		return -EBUSY;
	if (r->write)
		io_uring_prep_writev(sqe, r->fd, r->iov, (unsigned)r->iovs, (uint64_t)r->off);
	else
		io_uring_prep_readv(sqe, r->fd, r->iov, (unsigned)r->iovs, (uint64_t)r->off);
	io_uring_sqe_set_data(sqe, r);
	atomic_store_explicit(&r->handed, 1, memory_order_release);
	do
		n = io_uring_submit(&q->ring);
	while (n == -EINTR || n == -EAGAIN || n == -EBUSY);
	return n < 0 ? n : 0;
}

static struct dio_req *wait_ring(struct dio_queue *q, unsigned timeout_ms)
{
	struct __kernel_timespec ts = {timeout_ms / 1000, (timeout_ms % 1000) * 1000000ll};
	struct io_uring_cqe *cqe;
	struct dio_req *r;

	if (io_uring_wait_cqe_timeout(&q->ring, &cqe, &ts))
		return NULL; /* -ETIME, -EINTR: the caller asks again */
	r = io_uring_cqe_get_data(cqe);
	if (atomic_exchange_explicit(&r->handed, 0, memory_order_acquire) != 1)
		abort(); /* completed twice: the ring and we disagree */
	r->res = cqe->res;
	io_uring_cqe_seen(&q->ring, cqe);
	return r;
}

struct dio_req *dio_wait(struct dio_queue *q, unsigned timeout_ms)
{
	struct timespec until;
	struct dio_req *r;

	if (q->uring)
		return wait_ring(q, timeout_ms);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (timeout_ms % 1000) * 1000000l;
	if (until.tv_nsec >= 1000000000l) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000l;
	}
	pthread_mutex_lock(&q->lock);
	while (!(r = pop(&q->done, &q->done_tail))) {
		if (pthread_cond_timedwait(&q->finished, &q->lock, &until)) {
			r = pop(&q->done, &q->done_tail);
			break;
		}
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

void dio_close(struct dio_queue *q)
{
	if (!q)
		return;
	if (q->uring)
		io_uring_queue_exit(&q->ring);
	else
		stop_threads(q);
	pthread_cond_destroy(&q->asked);
	pthread_cond_destroy(&q->finished);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

/* SPDX-License-Identifier: MIT */
/*
 * A queue of direct reads and writes in flight: io_uring where the kernel lets us have one, else a thread
 * a transfer with preadv(2) or pwritev(2). Both halves may be used at once by two threads: one submits, another waits.
 *
 * The queue knows nothing of pins: whoever reads into pool memory pins it before dio_submit() and
 * unpins it after dio_wait() has handed the request back. A thread that waits for a pin must not
 * be the one that reaps, or the gate it waits for cannot open (see vac_pin()).
 */
#ifndef CLI_DIO_H
#define CLI_DIO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct dio_req {
	int fd;
	struct iovec iov[2];
	int iovs;
	off_t off;
	bool write;   /* else it reads */
	ssize_t res;  /* bytes transferred, or a negative errno value */
	uint64_t pin; /* for the caller */
	void *user;   /* for the caller */
	/* Hands the request from the submitting to the waiting thread: io_uring passes it through
	 * the kernel, which the C memory model (and ThreadSanitizer) knows nothing of. */
	atomic_int handed;
	struct dio_req *next;
};

struct dio_queue;

/* depth: most requests in flight; the caller keeps to it. 0, -ENOMEM, -EAGAIN (threads). */
int dio_open(struct dio_queue **q, unsigned depth);
/* "io_uring" or "pread threads". */
const char *dio_backend(const struct dio_queue *q);
/* 0, or a negative errno value: nothing was submitted. */
int dio_submit(struct dio_queue *q, struct dio_req *r);
/* The next finished request; NULL after timeout_ms without one. */
struct dio_req *dio_wait(struct dio_queue *q, unsigned timeout_ms);
/* Nothing may be in flight. */
void dio_close(struct dio_queue *q);

#endif

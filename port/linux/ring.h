/* SPDX-License-Identifier: MIT */
/*
 * The queues of an io_uring, as mapped. Spoken to by system calls of our own, as the library depends on nothing but libc.
 */
#ifndef VAC_PORT_LINUX_RING_H
#define VAC_PORT_LINUX_RING_H

#include <linux/io_uring.h>

#include "port/linux/linux.h"

struct vac__ring {
	int fd;
	uint8_t *sq, *cq; /* one mapping where the host makes it one */
	struct io_uring_sqe *sqe;
	size_t sq_bytes, cq_bytes, sqe_bytes;
	struct io_uring_params p;
};

static inline _Atomic uint32_t *vac__ring_field(uint8_t *base, uint32_t off)
{
	return (_Atomic uint32_t *)(void *)(base + off);
}

/* A zeroed *r gets a ring of so many entries, and completions (0: as the host likes). On failure nothing is
 * left. -ENOMEM, or what the host says. */
VAC__HIDDEN int vac__ring_open(struct vac__ring *r, unsigned entries, unsigned completions);
VAC__HIDDEN void vac__ring_close(struct vac__ring *r);

/* ---- uring.c, iothread.c: the two kinds of device, which mem.c's table tells apart -------------- */

struct vac__io_dev {
	bool native;
	/* As of port.h, without the ctx. */
	void (*close)(struct vac__io_dev *d);
	unsigned (*submit)(struct vac__io_dev *d, struct vac__ioreq **io, unsigned n);
	void (*cancel)(struct vac__io_dev *d, struct vac__ioreq *io);
	unsigned (*collect)(struct vac__io_dev *d, struct vac__ioreq **done, unsigned max,
			    uint64_t deadline_ns);
	void (*kick)(struct vac__io_dev *d);
	int (*buffer)(struct vac__io_dev *d, unsigned slot, void *mem, size_t bytes); /* or NULL */
};

VAC__HIDDEN int vac__uring_open(struct vac__io_dev **dev);
VAC__HIDDEN int vac__iothread_open(struct vac__io_dev **dev);

#endif /* VAC_PORT_LINUX_RING_H */

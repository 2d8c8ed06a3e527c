/* SPDX-License-Identifier: MIT */
/*
 * What io.c and io_socket.c share: a transfer over memory that may lie in pools. See io.c.
 */
#ifndef VAC_PORT_LINUX_IO_H
#define VAC_PORT_LINUX_IO_H

#include <sys/uio.h>

#include "port/linux/linux.h"

#define VAC__IO_STREAM ((size_t)1 << 20)   /* most that is pinned at once for a stream */
#define VAC__IO_BUFFER ((size_t)256 << 10) /* of our own, where a stream is waited for */
#define VAC__IO_FEW 8

struct vac__io {
	struct iovec *iov; /* our own copy of the caller's */
	unsigned n, at;    /* at: the first with something left */
	size_t left;       /* bytes not done yet */
	bool in;           /* the kernel writes the memory */
	bool pool;         /* some of it lies in a pool... */
	bool refuses;      /* ... whose guard does not serve the kernel's touches */
	const char *owner; /* of the pins */

	/* What vac__io_take() has pinned: pieces of iov from `at` on. */
	struct iovec *part;
	unsigned parts;
	struct {
		struct vac_pool *pool; /* NULL: not pinned */
		uint64_t pin;
	} * held;
	void *heap;
	struct iovec few_iov[VAC__IO_FEW], few_part[VAC__IO_FEW];
	unsigned char few_held[VAC__IO_FEW * 16] __attribute__((aligned(8)));
};

VAC__HIDDEN int vac__io_begin(struct vac__io *io, const struct iovec *iov, size_t n, bool in,
			      const char *owner);
VAC__HIDDEN void vac__io_end(struct vac__io *io);
VAC__HIDDEN int64_t vac__io_take(struct vac__io *io, size_t most);
VAC__HIDDEN void vac__io_drop(struct vac__io *io);
VAC__HIDDEN void vac__io_done(struct vac__io *io, size_t bytes);
VAC__HIDDEN int vac__io_fill_in(struct vac__io *io, size_t bytes);
VAC__HIDDEN void vac__io_scatter(struct vac__io *io, const void *buf, size_t bytes);
VAC__HIDDEN void vac__io_gather(const struct vac__io *io, void *buf, size_t bytes);

/* read(2), write(2) and kin of a socket. */
VAC__HIDDEN int64_t vac__io_socket(int fd, struct vac__io *io);

#endif

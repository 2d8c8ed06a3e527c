/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing the queues of an io_uring. They are not for a child of fork(), which shares the ring by its
 * descriptor only until exec.
 */
#include <string.h>

#include "port/linux/ring.h"

void vac__ring_close(struct vac__ring *r)
{
	if (r->sqe)
		vac__sys_munmap(r->sqe, r->sqe_bytes);
	if (r->cq && r->cq != r->sq)
		vac__sys_munmap(r->cq, r->cq_bytes);
	if (r->sq)
		vac__sys_munmap(r->sq, r->sq_bytes);
	if (r->fd >= 0)
		vac__sys_close(r->fd);
	vac__port_vma_charge(-3, true);
}

static void *ring_map(const struct vac__ring *r, size_t bytes, uint64_t off)
{
	void *p;

	if (vac__sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
			  (size_t)off, &p) < 0)
		return NULL;
	vac__sys_madvise(p, bytes, MADV_DONTFORK);
	return p;
}

int vac__ring_open(struct vac__ring *r, unsigned entries, unsigned completions)
{
	bool one;

	if (!vac__port_vma_charge(3, false))
		return -ENOMEM;
	if (completions) {
		r->p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
		r->p.cq_entries = completions;
	}
	r->fd = (int)vac__sys(syscall(SYS_io_uring_setup, entries, &r->p));
	if (r->fd < 0) {
		int err = r->fd;

		vac__ring_close(r);
		return err;
	}
	one = r->p.features & IORING_FEAT_SINGLE_MMAP;
	r->sq_bytes = r->p.sq_off.array + r->p.sq_entries * sizeof(uint32_t);
	r->cq_bytes = r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe);
	if (one && r->cq_bytes > r->sq_bytes)
		r->sq_bytes = r->cq_bytes;
	r->sqe_bytes = r->p.sq_entries * sizeof(struct io_uring_sqe);
	r->sq = ring_map(r, r->sq_bytes, IORING_OFF_SQ_RING);
	r->cq = one ? r->sq : ring_map(r, r->cq_bytes, IORING_OFF_CQ_RING);
	r->sqe = ring_map(r, r->sqe_bytes, IORING_OFF_SQES);
	if (r->sq && r->cq && r->sqe)
		return 0;
	vac__ring_close(r);
	return -ENOMEM;
}

/* SPDX-License-Identifier: MIT */
/*
 * The memory operations of a pool on Linux, as one table: blocks are memfd.c, what spaces show is
 * view.c, and touches are reported by guard_uffd.c or guard_sigsegv.c.
 */
#include <string.h>

#include "port/linux/linux.h"
#include "port/linux/ring.h"

#define CTX_BYTES ((sizeof(struct vac__mem_ctx) + VAC_PAGE_BYTES - 1) & ~(VAC_PAGE_BYTES - 1))

/* The first that the host allows, or the one that is wanted. */
static int choose_guard(struct vac__mem_ctx *ctx, int *guard)
{
	int r;

	if (*guard != VAC_GUARD_SIGSEGV) {
		r = vac__uffd_open(&ctx->uffd);
		if (r == 0 || *guard == VAC_GUARD_USERFAULTFD) {
			*guard = VAC_GUARD_USERFAULTFD;
			return r;
		}
	}
	*guard = VAC_GUARD_SIGSEGV;
	return vac__guard_install();
}

static int mem_open(void **out, const char *name, int *guard, unsigned pool_flags)
{
	struct vac__mem_ctx *ctx;
	int r;

	if (*guard != VAC_GUARD_AUTO && *guard != VAC_GUARD_SIGSEGV &&
	    *guard != VAC_GUARD_USERFAULTFD)
		return -EINVAL;
	vac__fork_init();
	vac__vma_refill();
	ctx = vac__port_meta_reserve(CTX_BYTES);
	if (!ctx)
		return -ENOMEM;
	strncpy(ctx->name, name ? name : "pool", sizeof(ctx->name) - 1);
	ctx->flags = pool_flags;
	vac__room_init(&ctx->room);
	if (!(pool_flags & VAC_POOL_PINS_ONLY))
		vac__foreign_init();
	r = choose_guard(ctx, guard);
	if (r < 0) {
		vac__room_destroy(&ctx->room);
		vac__port_meta_release(ctx, CTX_BYTES);
		return r;
	}
	*out = ctx;
	return 0;
}

static void mem_quiet(void *arg)
{
	struct vac__mem_ctx *ctx = arg;

	if (ctx->uffd)
		vac__uffd_quiet(ctx->uffd);
}

static void mem_close(void *arg)
{
	struct vac__mem_ctx *ctx = arg;

	if (ctx->uffd)
		vac__uffd_close(ctx->uffd);
	vac__room_destroy(&ctx->room);
	vac__port_meta_release(ctx, CTX_BYTES);
}

/* ---- Direct I/O: by the host's queues where they are to be had ------------------------------- */

static int io_open(void *ctx, unsigned flags, uintptr_t *dev, bool *native)
{
	struct vac__io_dev *d = NULL;
	int r = flags & VAC__IO_THREADS ? -EOPNOTSUPP : vac__uring_open(&d);

	(void)ctx;
	/* Not for want of a descriptor: that is for the caller to know. */
	if (r < 0 && r != -EMFILE && r != -ENFILE)
		r = vac__iothread_open(&d);
	if (r < 0)
		return r;
	*native = d->native;
	*dev = (uintptr_t)d;
	return 0;
}

static void io_close(void *ctx, uintptr_t dev)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	d->close(d);
}

static unsigned io_submit(void *ctx, uintptr_t dev, struct vac__ioreq **io, unsigned n)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	return d->submit(d, io, n);
}

static void io_cancel(void *ctx, uintptr_t dev, struct vac__ioreq *io)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	d->cancel(d, io);
}

static unsigned io_collect(void *ctx, uintptr_t dev, struct vac__ioreq **done, unsigned max,
			   uint64_t deadline_ns)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	return d->collect(d, done, max, deadline_ns);
}

static void io_kick(void *ctx, uintptr_t dev)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	d->kick(d);
}

static int io_buffer(void *ctx, uintptr_t dev, unsigned slot, void *mem, size_t bytes)
{
	struct vac__io_dev *d = (struct vac__io_dev *)dev;

	(void)ctx;
	return d->buffer ? d->buffer(d, slot, mem, bytes) : -EOPNOTSUPP;
}

static int io_file(void *ctx, int fd)
{
	(void)ctx;
	return (int)vac__sys(syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0));
}

static void io_file_drop(void *ctx, int fd)
{
	(void)ctx;
	vac__sys_close(fd);
}

const struct vac__mem_ops vac__port_mem_ops = {
	.open = mem_open,
	.close = mem_close,
	.quiet = mem_quiet,
	.block_open = vac__block_open,
	.block_open_file = vac__block_open_file,
	.file_take = vac__file_take,
	.file_lock = vac__file_lock,
	.file_drop = vac__file_drop,
	.block_populate = vac__block_populate,
	.block_seal = vac__block_seal,
	.block_close = vac__block_close,
	.held = vac__foreign_held,
	.sees = vac__foreign_sees,
	.holder = vac__foreign_holder,
	.direct_reserve = vac__direct_reserve,
	.direct_release = vac__direct_release,
	.space_reserve = vac__space_reserve,
	.space_release = vac__space_release,
	.map = vac__view_map,
	.protect = vac__view_protect,
	.leave = vac__view_leave,
	.stay = vac__view_stay,
	.allow = vac__view_allow,
	.blind = vac__view_blind,
	.reveal = vac__view_reveal,
	.unmap = vac__view_unmap,
	.hole = vac__view_hole,
	.swap_open = vac__swap_open,
	.swap_close = vac__swap_close,
	.swap_io = vac__swap_io,
	.io_open = io_open,
	.io_close = io_close,
	.io_submit = io_submit,
	.io_cancel = io_cancel,
	.io_collect = io_collect,
	.io_kick = io_kick,
	.io_buffer = io_buffer,
	.io_file = io_file,
	.io_file_drop = io_file_drop,
};

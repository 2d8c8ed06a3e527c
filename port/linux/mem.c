/* SPDX-License-Identifier: MIT */
/*
 * The memory operations of a pool on Linux, as one table: blocks are memfd.c, what spaces show is
 * view.c, and touches are reported by guard_sigsegv.c.
 */
#include <string.h>

#include "port/linux/linux.h"

#define CTX_BYTES ((sizeof(struct vac__mem_ctx) + VAC_PAGE_BYTES - 1) & ~(VAC_PAGE_BYTES - 1))

static int mem_open(void **out, const char *name, int *guard, unsigned pool_flags)
{
	struct vac__mem_ctx *ctx;
	int r;

	if (*guard != VAC_GUARD_AUTO && *guard != VAC_GUARD_SIGSEGV)
		return *guard == VAC_GUARD_USERFAULTFD ? -EOPNOTSUPP : -EINVAL;
	vac__fork_init();
	vac__vma_refill();
	ctx = vac__port_meta_reserve(CTX_BYTES);
	if (!ctx)
		return -ENOMEM;
	strncpy(ctx->name, name ? name : "pool", sizeof(ctx->name) - 1);
	ctx->flags = pool_flags;
	vac__room_init(&ctx->room);
	r = vac__guard_install();
	if (r < 0) {
		vac__room_destroy(&ctx->room);
		vac__port_meta_release(ctx, CTX_BYTES);
		return r;
	}
	*guard = VAC_GUARD_SIGSEGV;
	*out = ctx;
	return 0;
}

static void mem_close(void *arg)
{
	struct vac__mem_ctx *ctx = arg;

	vac__room_destroy(&ctx->room);
	vac__port_meta_release(ctx, CTX_BYTES);
}

const struct vac__mem_ops vac__port_mem_ops = {
	.open = mem_open,
	.close = mem_close,
	.block_open = vac__block_open,
	.block_populate = vac__block_populate,
	.block_seal = vac__block_seal,
	.block_close = vac__block_close,
	.direct_reserve = vac__direct_reserve,
	.direct_release = vac__direct_release,
	.space_reserve = vac__space_reserve,
	.space_release = vac__space_release,
	.map = vac__view_map,
	.protect = vac__view_protect,
	.leave = vac__view_leave,
	.stay = vac__view_stay,
	.unmap = vac__view_unmap,
};

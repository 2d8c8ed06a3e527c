/* SPDX-License-Identifier: MIT */
/*
 * What the tests of snapshots share.
 */
#ifndef VAC_TESTS_SNAPSHOTS_H
#define VAC_TESTS_SNAPSHOTS_H

#include "src/internal.h"
#include "tests/util.h"

static inline struct vac_space *snap(struct vac_space *s)
{
	struct vac_space *t = NULL;

	assert_ok(vac_space_snapshot(s, NULL, &t));
	return t;
}

static inline char *in(struct vac_space *from, const void *p, struct vac_space *to)
{
	char *q = vac_space_translate(from, p, to);

	assert_non_null(q);
	return q;
}

static inline const char *frame_bytes(struct vac_pool *pool, uint64_t pfn)
{
	return vac__frame_addr(pool, (uint32_t)pfn);
}

/* ---- Swap ------------------------------------------------------------------------------------ */

static inline int swap_on(struct vac_pool *pool, int fd, size_t bytes)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);

	o.fd = fd;
	o.bytes = bytes;
	return vac_swap_on(pool, &o);
}

static inline void swap_file(struct vac_pool *pool, size_t bytes)
{
	int fd = t_swap_file(bytes);

	assert_ok(swap_on(pool, fd, bytes));
	close(fd);
}

/* All that can be leaves memory. */
static inline void swap_out(struct vac_pool *pool)
{
	VAC__ENTER();
	for (uint32_t id = 0; id < pool->max_blocks; id++)
		for (uint32_t k = 0; k < pool->pb_per_block; k++)
			if (vac__ld(&pool->blocks[id].state) == VAC_BLOCK_ONLINE + 1)
				vac__reclaim_pageblock(pool, vac__block_pfn(pool, (int)id) +
								     k * VAC__PB_PAGES);
	VAC__LEAVE();
}

#endif /* VAC_TESTS_SNAPSHOTS_H */

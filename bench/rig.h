/* SPDX-License-Identifier: MIT */
/*
 * What benches measure: a pool with blocks and one space. Every call that answers an int answers 0,
 * or -1 with a message printed.
 */
#ifndef BENCH_RIG_H
#define BENCH_RIG_H

#include "bench/bench.h"
#include "vacate.h"

struct rig {
	/* Set by the caller. */
	const struct bench_env *env;
	struct vac_pool_opts opts; /* block_bytes must be given */
	unsigned blocks;           /* added and online, movable */
	uint64_t space_bytes;

	struct vac_pool *pool;
	struct vac_space *space;
	uint32_t writers_pct; /* for the offlines, see vac_offline_opts */
};

#define RIG_INIT(environment)                                                \
	{                                                                    \
		.env = (environment), .opts = VAC_INIT(struct vac_pool_opts) \
	}

int rig_open(struct rig *rig);
void rig_close(struct rig *rig); /* after a failed or no rig_open(), too */

/* Map bytes and write each word with a pattern of its own. flags: VAC_MAP_* */
int rig_fill(struct rig *rig, uint64_t bytes, unsigned flags, uint64_t **mem);
/* Every stride-th page still holds what rig_fill() wrote. */
int rig_verify(const struct rig *rig, const uint64_t *mem, uint64_t bytes, unsigned stride);

/* Let the pool get memory from the host for the next `bytes` that it hands out, all of them free
 * again afterwards. */
int rig_warm(struct rig *rig, uint64_t bytes);

/* Offline a block; ns, if not NULL, gets the time of the call. A failure prints the report. */
int rig_offline(struct rig *rig, int id, struct vac_offline_result *res, uint64_t *ns);
/* And let the pool have it again, with memory that nobody has touched. */
int rig_online(struct rig *rig, int id);
int rig_stats(const struct rig *rig, struct vac_pool_stats *stats);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * cost: the engine's metadata for each 4 KiB frame of a block, in bytes, beside Linux's struct page.
 *
 * The value is what the engine says of its descriptors. `measured` is what the kernel says: by how
 * much the process's private anonymous memory grows when a pool opens, and its blocks are filled
 * with huge folios, or with base ones; page tables of spaces, pins' ledger and all else included.
 */
#include "bench/host.h"
#include "bench/rig.h"

#define STRUCT_PAGE_BYTES 64

static int fill(struct bench_env *env, uint32_t flags, double *says, double *measured)
{
	uint64_t bytes = env->tiny ? 32 * MIB : 256 * MIB;
	double frames = (double)(bytes / VAC_PAGE_BYTES);
	struct rig rig = RIG_INIT(env);
	struct vac_pool_stats st;
	uint64_t before, *mem;
	int r = -1;

	rig.opts.block_bytes = bytes / 2;
	rig.opts.flags = flags;
	rig.blocks = 2;
	rig.space_bytes = bytes;
	before = host_kib_line("/proc/self/smaps_rollup", "Pss_Anon");
	if (rig_open(&rig) == 0 && rig_fill(&rig, bytes, 0, &mem) == 0 &&
	    rig_stats(&rig, &st) == 0) {
		*says = (double)st.meta_bytes_per_block / (frames / 2);
		*measured =
			(double)(host_kib_line("/proc/self/smaps_rollup", "Pss_Anon") - before) /
			frames;
		r = 0;
	}
	rig_close(&rig);
	return r;
}

int bench_cost(struct bench_env *env)
{
	struct bench_result *res =
		bench_result(env, "cost", "bytes/frame", BENCH_LESS, "struct page of Linux");
	double says = 0, huge[BENCH_RUNS_MAX], base[BENCH_RUNS_MAX];

	for (int run = -1; run < (int)env->runs; run++) {
		unsigned i = run < 0 ? 0 : (unsigned)run;

		bench_run_begins(env, "cost", run);
		if (fill(env, VAC_POOL_BASE_ONLY, &says, &base[i]) < 0 ||
		    fill(env, 0, &says, &huge[i]) < 0)
			return -1;
		if (run >= 0)
			bench_add(res, says, STRUCT_PAGE_BYTES);
	}
	bench_extra(res, "measured_huge", bench_median(huge, env->runs));
	bench_extra(res, "measured_base", bench_median(base, env->runs));
	return 0;
}

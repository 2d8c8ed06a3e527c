/* SPDX-License-Identifier: MIT */
/*
 * scale: taking a block away costs the same in a large pool as in a small one. Pools of 1, 4 and
 * 16 GiB, full of huge folios but for one block, in blocks of 128 MiB; the figure is the time of an
 * offline for each GiB moved. The peer of the larger pools is the pool of 1 GiB, which stays open
 * beside them, so that the two take turns. (The figure of 1 GiB is beside itself: its ratio, 1 but
 * for noise, says what a ratio is worth.)
 */
#include "bench/host.h"
#include "bench/rig.h"
#include "cli/out.h"

struct scale_pool {
	struct rig rig;
	uint64_t *mem, bytes;
	uint64_t random;
};

static int open_pool(struct bench_env *env, struct scale_pool *p, uint64_t pool, uint64_t block)
{
	p->rig = (struct rig)RIG_INIT(env);
	p->rig.opts.block_bytes = block;
	p->rig.blocks = (unsigned)(pool / block);
	p->rig.space_bytes = pool;
	p->bytes = pool - block;
	p->random = BENCH_SEED;
	return rig_open(&p->rig) < 0 || rig_fill(&p->rig, p->bytes, 0, &p->mem) < 0 ? -1 : 0;
}

/* Offline `times` blocks, full ones, at random; ms a GiB. */
static int offline(struct scale_pool *p, unsigned times, double *ms_per_gib)
{
	uint64_t moved = 0, total = 0, ns;

	while (times) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		int id = (int)(bench_random(&p->random) % p->rig.blocks);

		if (rig_offline(&p->rig, id, &res, &ns) < 0 || rig_online(&p->rig, id) < 0)
			return -1;
		if (res.bytes_moved < p->rig.opts.block_bytes)
			continue; /* the one that was free */
		moved += res.bytes_moved;
		total += ns;
		times--;
	}
	*ms_per_gib = (double)total / 1e6 / ((double)moved / (double)GIB);
	return 0;
}

static int compare(struct bench_env *env, const char *name, struct scale_pool *p,
		   struct scale_pool *small)
{
	unsigned times = env->tiny ? 2 : 4;
	struct bench_result *res;
	double value, peer;

	res = bench_result(env, name, "ms/GiB", BENCH_LESS, "pool of 1 GiB");
	for (int run = -1; run < (int)env->runs; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, name, run);
		if ((first && offline(p, times, &value) < 0) || offline(small, times, &peer) < 0 ||
		    (!first && offline(p, times, &value) < 0))
			return -1;
		if (run >= 0)
			bench_add(res, value, peer);
	}
	return rig_verify(&p->rig, p->mem, p->bytes, env->tiny ? 1 : 61);
}

/* The pool, and a margin for what else runs. */
static bool has_room(struct bench_env *env, const char *name, uint64_t bytes)
{
	uint64_t need = bytes + GIB / 2, have = host_available();

	if (have >= need)
		return true;
	bench_skip(env, name, "it needs %.1f GiB of memory, %.1f are available",
		   (double)need / (double)GIB, (double)have / (double)GIB);
	return false;
}

int bench_scale(struct bench_env *env)
{
	static const struct {
		const char *name;
		uint64_t gib;
	} pools[] = {{"scale_1", 1}, {"scale_4", 4}, {"scale_16", 16}};
	uint64_t unit = env->tiny ? 32 * MIB : GIB, block = unit / 8;
	struct scale_pool small = {.bytes = 0};
	int r;

	if (!has_room(env, "scale", unit))
		return 0;
	r = open_pool(env, &small, unit, block);
	if (r < 0)
		goto out;
	for (unsigned i = 0; i < 3; i++) {
		struct scale_pool p = {.bytes = 0};

		if (!has_room(env, pools[i].name, pools[i].gib * unit))
			continue;
		out_progress("%s: filling %llu MiB", pools[i].name,
			     (unsigned long long)(pools[i].gib * unit / MIB));
		if (open_pool(env, &p, pools[i].gib * unit, block) == 0)
			r = compare(env, pools[i].name, &p, &small);
		else
			r = -1;
		rig_close(&p.rig);
		if (r < 0)
			goto out;
	}
	r = rig_verify(&small.rig, small.mem, small.bytes, 7);
out:
	rig_close(&small.rig);
	return r;
}

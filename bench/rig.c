/* SPDX-License-Identifier: MIT */
/* Pools for benches. See rig.h. */
#include "bench/rig.h"

#include <stdio.h>

#include "cli/out.h"

#define WORDS_PER_PAGE (VAC_PAGE_BYTES / sizeof(uint64_t))

static void logged(void *env, enum vac_log_level level, const char *msg)
{
	if (level >= VAC_LOG_WARN)
		out_error("%s: %s", ((const struct bench_env *)env)->bench, msg);
}

int rig_open(struct rig *rig)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	int r;

	rig->opts.name = "bench";
	rig->opts.guard = rig->env->guard;
	rig->opts.log = logged;
	rig->opts.log_ctx = (void *)(uintptr_t)rig->env;
	r = vac_pool_open(&rig->opts, &rig->pool);
	if (r < 0)
		return bench_fail(rig->env, "opening a pool", r);
	for (unsigned i = 0; i < rig->blocks; i++) {
		int id = vac_block_add(rig->pool, NULL);

		if (id < 0)
			return bench_fail(rig->env, "adding a block", id);
		if (rig_online(rig, id) < 0)
			return -1;
	}
	so.bytes = rig->space_bytes;
	r = vac_space_create(rig->pool, &so, &rig->space);
	return r < 0 ? bench_fail(rig->env, "creating a space", r) : 0;
}

void rig_close(struct rig *rig)
{
	int r = rig->pool ? vac_pool_close(rig->pool) : 0;

	if (r < 0)
		bench_fail(rig->env, "closing the pool", r);
	rig->pool = NULL;
	rig->space = NULL;
}

static uint64_t pattern(uint64_t word)
{
	return (word + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

int rig_fill(struct rig *rig, uint64_t bytes, unsigned flags, uint64_t **mem)
{
	void *p;
	int r;

	/* Where memory runs out this is an error, and a touch would be a SIGBUS. */
	r = vac_map(rig->space, NULL, bytes, VAC_PROT_READ | VAC_PROT_WRITE,
		    flags | VAC_MAP_POPULATE, &p);
	if (r < 0)
		return bench_fail(rig->env, "mapping memory", r);
	*mem = p;
	for (uint64_t i = 0; i < bytes / sizeof(uint64_t); i++)
		(*mem)[i] = pattern(i);
	return 0;
}

int rig_verify(const struct rig *rig, const uint64_t *mem, uint64_t bytes, unsigned stride)
{
	for (uint64_t page = 0; page < bytes / VAC_PAGE_BYTES; page += stride) {
		for (uint64_t i = page * WORDS_PER_PAGE; i < (page + 1) * WORDS_PER_PAGE; i++) {
			if (mem[i] == pattern(i))
				continue;
			out_error("%s: wrong contents at byte %zu of the memory that has moved",
				  rig->env->bench, (size_t)i * sizeof(uint64_t));
			return -1;
		}
	}
	return 0;
}

int rig_warm(struct rig *rig, uint64_t bytes)
{
	void *mem;
	int r = vac_map(rig->space, NULL, bytes, VAC_PROT_READ | VAC_PROT_WRITE, 0, &mem);

	if (r < 0)
		return bench_fail(rig->env, "mapping memory", r);
	for (uint64_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		((volatile char *)mem)[i] = 1;
	r = vac_unmap(rig->space, mem, bytes);
	return r < 0 ? bench_fail(rig->env, "unmapping memory", r) : 0;
}

int rig_offline(struct rig *rig, int id, struct vac_offline_result *res, uint64_t *ns)
{
	struct vac_offline_opts opts = VAC_INIT(struct vac_offline_opts);
	uint64_t start = bench_now();
	int r;

	opts.writers_pct = rig->writers_pct;
	opts.timeout_ms =
		60000; /* a machine with others on it is slow, and that is what is measured */
	r = vac_block_offline(rig->pool, id, &opts, res);

	if (ns)
		*ns = bench_now() - start;
	if (r == 0)
		return 0;
	bench_fail(rig->env, "taking a block away", r);
	if (res->report)
		vac_report_print(res->report, stderr);
	vac_report_free(res->report);
	return -1;
}

int rig_online(struct rig *rig, int id)
{
	int r = vac_block_online(rig->pool, id, VAC_ZONE_MOVABLE);

	return r < 0 ? bench_fail(rig->env, "bringing a block online", r) : 0;
}

int rig_stats(const struct rig *rig, struct vac_pool_stats *stats)
{
	int r;

	*stats = (struct vac_pool_stats)VAC_INIT(struct vac_pool_stats);
	r = vac_pool_stats(rig->pool, stats);
	return r < 0 ? bench_fail(rig->env, "reading the pool's counters", r) : 0;
}

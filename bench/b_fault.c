/* SPDX-License-Identifier: MIT */
/*
 * Filling memory by touching it: first_touch, fault_in.
 *
 * One thread writes a word in each page of a mapping, in order. Ours is a mapping of a new pool,
 * whose memory the host has not given yet (but for `reused`: there the pool has it, and zeroes it
 * itself); the peers are new anonymous memory, with transparent huge pages or without.
 */
#include "bench/host.h"
#include "bench/rig.h"

struct touch_case {
	const char *name, *unit, *peer;
	enum host_pages pages;
	uint32_t flags;       /* VAC_POOL_* */
	uint32_t fault_bytes; /* 0: the default */
	bool reused;
};

static uint64_t touch(volatile char *mem, uint64_t bytes)
{
	uint64_t start = bench_now();

	for (uint64_t at = 0; at < bytes; at += VAC_PAGE_BYTES)
		mem[at] = 1;
	return bench_now() - start;
}

static int ours(struct bench_env *env, const struct touch_case *c, uint64_t bytes, uint64_t *ns)
{
	struct rig rig = RIG_INIT(env);
	void *mem;
	int r = -1;

	rig.opts.block_bytes = bytes;
	rig.opts.flags = c->flags;
	rig.opts.fault_bytes = c->fault_bytes;
	rig.blocks = 1;
	rig.space_bytes = bytes;
	if (rig_open(&rig) < 0 || (c->reused && rig_warm(&rig, bytes) < 0))
		goto out;
	r = vac_map(rig.space, NULL, bytes, VAC_PROT_READ | VAC_PROT_WRITE, 0, &mem);
	if (r < 0)
		r = bench_fail(env, "mapping memory", r);
	else
		*ns = touch(mem, bytes);
out:
	rig_close(&rig);
	return r;
}

/* *huge: bytes for which the host has given 2 MiB pages. */
static int host(struct bench_env *env, const struct touch_case *c, uint64_t bytes, uint64_t *ns,
		uint64_t *huge)
{
	uint64_t before = host_kib_line("/proc/self/smaps_rollup", "AnonHugePages");
	char *mem = host_anon(env, bytes, c->pages);

	if (!mem)
		return -1;
	*ns = touch(mem, bytes);
	*huge = host_kib_line("/proc/self/smaps_rollup", "AnonHugePages") - before;
	host_anon_free(mem, bytes);
	return 0;
}

static double figure(const struct touch_case *c, uint64_t bytes, uint64_t ns)
{
	if (c->unit[0] == 'G')
		return gb_per_s(bytes, ns);
	return (double)ns / (double)(bytes / VAC_PAGE_BYTES);
}

static int run_cases(struct bench_env *env, const struct touch_case *c, unsigned n, uint64_t bytes)
{
	for (const struct touch_case *end = c + n; c < end; c++) {
		struct bench_result *res;
		uint64_t value, peer, huge = 0;

		res = bench_result(env, c->name, c->unit,
				   c->unit[0] == 'G' ? BENCH_MORE : BENCH_LESS, c->peer);
		for (int run = -1; run < (int)env->runs; run++) {
			bool first = bench_value_first(run);

			bench_run_begins(env, c->name, run);
			if ((first && ours(env, c, bytes, &value) < 0) ||
			    host(env, c, bytes, &peer, &huge) < 0 ||
			    (!first && ours(env, c, bytes, &value) < 0))
				return -1;
			if (run >= 0)
				bench_add(res, figure(c, bytes, value), figure(c, bytes, peer));
		}
		if (c->pages == HOST_2M && huge < bytes)
			bench_note(res,
				   "the host gave 2 MiB pages for %llu of %llu MiB of the peer",
				   (unsigned long long)(huge / MIB),
				   (unsigned long long)(bytes / MIB));
	}
	return 0;
}

int bench_first_touch(struct bench_env *env)
{
	static const struct touch_case c[] = {
		{.name = "first_touch",
		 .unit = "GB/s",
		 .pages = HOST_2M,
		 .peer = "anonymous memory, 2 MiB pages"},
		{.name = "first_touch_4k",
		 .unit = "GB/s",
		 .pages = HOST_4K,
		 .peer = "anonymous memory, 4 KiB pages"},
		{.name = "first_touch_reused",
		 .unit = "GB/s",
		 .pages = HOST_2M,
		 .reused = true,
		 .peer = "anonymous memory, 2 MiB pages"},
	};

	return run_cases(env, c, 3, env->tiny ? 16 * MIB : 256 * MIB);
}

int bench_fault_in(struct bench_env *env)
{
	static const struct touch_case c[] = {
		{.name = "fault_in",
		 .unit = "ns/page",
		 .pages = HOST_4K,
		 .peer = "anonymous memory, 4 KiB pages",
		 .flags = VAC_POOL_BASE_ONLY},
		{.name = "fault_in_single",
		 .unit = "ns/page",
		 .pages = HOST_4K,
		 .peer = "anonymous memory, 4 KiB pages",
		 .flags = VAC_POOL_BASE_ONLY,
		 .fault_bytes = VAC_PAGE_BYTES,
		 .reused = true},
	};

	return run_cases(env, c, 2, env->tiny ? 8 * MIB : 64 * MIB);
}

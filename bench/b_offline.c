/* SPDX-License-Identifier: MIT */
/*
 * How fast a block is emptied, beside memcpy(): offline_huge, offline_base_run,
 * offline_base_single.
 *
 * Two blocks, one full of data, the other free; nobody touches the memory meanwhile. The figure is
 * the whole call, isolating, moving, sealing and giving the memory back included, in bytes moved.
 * The peer is one memcpy() of a whole block's bytes, in the same thread, from one resident memfd to
 * another that are backed as the pool's blocks are. (One large memcpy() is the fastest there is:
 * glibc changes to streaming stores above three quarters of the shared cache.)
 *
 * The target's memory is resident too, as the memcpy's is: the bench maps, touches and unmaps it
 * before. The _fresh figures leave that out. Then the kernel has to zero each new page, and the
 * peer does the same work: a new memfd made resident, then the memcpy().
 *
 * Every word is verified after the last run.
 */
#include <string.h>

#include "bench/host.h"
#include "bench/rig.h"

struct offline_case {
	const char *name;
	const char *peer;
	uint32_t flags;        /* VAC_POOL_* */
	enum host_pages pages; /* of the peer, and, if the host gives them, of the pool */
	unsigned stride;       /* only every stride-th page is in use: none has a neighbour */
	bool fresh;
};

struct offline_run {
	const struct offline_case *c;
	struct rig rig;
	struct host_buf from, to;
	uint64_t *mem;
	uint64_t bytes; /* of a block */
	struct vac_offline_result last;
	double copy_share, attempts;
	double best, peer_best;
};

/* Keep every stride-th page. */
static int thin_out(struct offline_run *o)
{
	uint64_t step = o->c->stride * VAC_PAGE_BYTES;

	for (uint64_t at = 0; o->c->stride > 1 && at < o->bytes; at += step) {
		int r = vac_advise(o->rig.space, (char *)o->mem + at + VAC_PAGE_BYTES,
				   step - VAC_PAGE_BYTES, VAC_ADV_DONTNEED);

		if (r < 0)
			return bench_fail(o->rig.env, "dropping a page", r);
	}
	return 0;
}

static int open_case(struct bench_env *env, struct offline_run *o)
{
	o->bytes = env->tiny ? 16 * MIB : 128 * MIB;
	o->rig = (struct rig)RIG_INIT(env);
	o->rig.opts.block_bytes = o->bytes;
	o->rig.opts.flags = o->c->flags;
	o->rig.blocks = 2;
	o->rig.space_bytes = 4 * o->bytes;
	if (rig_open(&o->rig) < 0 || rig_fill(&o->rig, o->bytes, 0, &o->mem) < 0 ||
	    thin_out(o) < 0 || host_buf_open(env, &o->from, o->bytes, o->c->pages) < 0)
		return -1;
	memset(o->from.mem, 0x5a, o->bytes);
	return o->c->fresh ? 0 : host_buf_open(env, &o->to, o->bytes, o->c->pages);
}

static int offline(struct offline_run *o, int run, double *value)
{
	struct vac_offline_result *res = &o->last;
	int id = run & 1 ? 0 : 1; /* run -1 finds the data in block 0 */
	uint64_t ns, folios;

	*res = (struct vac_offline_result)VAC_INIT(struct vac_offline_result);
	if (!o->c->fresh && rig_warm(&o->rig, o->bytes) < 0)
		return -1;
	if (rig_offline(&o->rig, id, res, &ns) < 0 || rig_online(&o->rig, id) < 0)
		return -1;
	*value = gb_per_s(res->bytes_moved, ns);
	if (run < 0)
		return 0;
	folios = res->huge_moved + res->base_moved;
	o->copy_share += (double)res->copy_ns / (double)ns / o->rig.env->runs;
	o->attempts += (double)res->attempts / (double)folios / o->rig.env->runs;
	o->best = *value > o->best ? *value : o->best;
	return 0;
}

static int copy(struct offline_run *o, int run, double *value)
{
	uint64_t start = bench_now();

	if (o->c->fresh && host_buf_open(o->rig.env, &o->to, o->bytes, o->c->pages) < 0)
		return -1;
	memcpy(o->to.mem, o->from.mem, o->bytes);
	*value = gb_per_s(o->bytes, bench_now() - start);
	if (o->c->fresh)
		host_buf_close(&o->to);
	if (run >= 0 && *value > o->peer_best)
		o->peer_best = *value;
	return 0;
}

/* What the host did not give, the figures do not show. */
static int note_backing(struct offline_run *o, struct bench_result *res)
{
	struct vac_pool_stats st;
	uint64_t all = o->bytes / VAC_PAGEBLOCK_BYTES;

	if (rig_stats(&o->rig, &st) < 0)
		return -1;
	if (o->c->pages == HOST_2M && st.pageblocks_base)
		bench_note(res, "the host gave 4 KiB pages for %llu pageblocks of the pool",
			   (unsigned long long)st.pageblocks_base);
	if (o->c->pages == HOST_2M && o->from.huge != all)
		bench_note(res, "and 2 MiB pages for %u of %llu pageblocks of the peer",
			   o->from.huge, (unsigned long long)all);
	return 0;
}

static int measure(struct bench_env *env, struct offline_run *o)
{
	struct bench_result *res;
	double value, peer;

	if (open_case(env, o) < 0)
		return -1;
	res = bench_result(env, o->c->name, "GB/s", BENCH_MORE, o->c->peer);
	for (int run = -1; run < (int)env->runs; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, o->c->name, run);
		if ((first && offline(o, run, &value) < 0) || copy(o, run, &peer) < 0 ||
		    (!first && offline(o, run, &value) < 0))
			return -1;
		if (run >= 0)
			bench_add(res, value, peer);
	}
	bench_extra(res, "best", o->best);
	bench_extra(res, "peer_best", o->peer_best);
	bench_extra(res, "best_ratio", o->peer_best > 0 ? o->best / o->peer_best : 0);
	bench_extra(res, "copy_share", o->copy_share);
	bench_extra(res, "attempts_per_folio", o->attempts);
	bench_extra(res, "mib_moved", (double)o->last.bytes_moved / (double)MIB);
	if (note_backing(o, res) < 0)
		return -1;
	return rig_verify(&o->rig, o->mem, o->bytes, o->c->stride);
}

static int run_cases(struct bench_env *env, const struct offline_case *c, unsigned n)
{
	int r = 0;

	for (unsigned i = 0; i < n && r == 0; i++) {
		struct offline_run o = {.c = &c[i]};

		r = measure(env, &o);
		host_buf_close(&o.from);
		host_buf_close(&o.to);
		rig_close(&o.rig);
	}
	return r;
}

#define MEMCPY_2M "memcpy, resident memfds of 2 MiB pages"
#define MEMCPY_4K "memcpy, resident memfds of 4 KiB pages"
#define MEMCPY_NEW "new memfd of 2 MiB pages made resident, memcpy"

int bench_offline_huge(struct bench_env *env)
{
	static const struct offline_case c[] = {
		{.name = "offline_huge", .peer = MEMCPY_2M, .pages = HOST_2M, .stride = 1},
		{.name = "offline_huge_fresh",
		 .peer = MEMCPY_NEW,
		 .pages = HOST_2M,
		 .stride = 1,
		 .fresh = true},
	};

	return run_cases(env, c, 2);
}

int bench_offline_base_run(struct bench_env *env)
{
	static const struct offline_case c[] = {
		{.name = "offline_base_run",
		 .peer = MEMCPY_2M,
		 .flags = VAC_POOL_BASE_ONLY,
		 .pages = HOST_2M,
		 .stride = 1},
		{.name = "offline_base_run_4k",
		 .peer = MEMCPY_4K,
		 .flags = VAC_POOL_BASE_ONLY | VAC_POOL_NO_HUGE,
		 .pages = HOST_4K,
		 .stride = 1},
	};

	return run_cases(env, c, 2);
}

int bench_offline_base_single(struct bench_env *env)
{
	static const struct offline_case c[] = {
		{.name = "offline_base_single",
		 .peer = MEMCPY_2M,
		 .flags = VAC_POOL_BASE_ONLY,
		 .pages = HOST_2M,
		 .stride = 2},
		{.name = "offline_base_single_4k",
		 .peer = MEMCPY_4K,
		 .flags = VAC_POOL_BASE_ONLY | VAC_POOL_NO_HUGE,
		 .pages = HOST_4K,
		 .stride = 2},
	};

	return run_cases(env, c, 2);
}

/* SPDX-License-Identifier: MIT */
/*
 * Compaction and collapse beside memcpy() of the same bytes: compact, compact_single, collapse_copy,
 * collapse_single, collapse_in_place.
 *
 * compact: a pool full of base folios of which one in eight is left, 64 KiB here and there (as they are
 * filled by default) or single pages; nobody touches the memory. The figure is the whole call in bytes
 * moved. Each pageblock that it gains takes an eighth of its bytes: what that comes to is given beside it.
 * collapse_copy, collapse_single: pageblocks whose pages lie apart from one another, in runs of 64 KiB or
 * each by itself, become huge folios, by migrating all 512; the figure is the time of one.
 * collapse_in_place: pageblocks that were split, where nothing is copied; the peer is the copy spared.
 */
#include <errno.h>
#include <string.h>

#include "bench/host.h"
#include "bench/rig.h"

struct compact_case {
	const char *name;
	unsigned keep, of; /* pages left of so many */
};

struct compact_run {
	struct rig rig;
	struct host_buf from, to;
	uint64_t bytes;
	struct vac_compact_result last;
};

static int open_run(struct bench_env *env, struct compact_run *o, uint64_t bytes, unsigned blocks)
{
	o->bytes = env->tiny ? 16 * MIB : bytes;
	o->rig = (struct rig)RIG_INIT(env);
	o->rig.opts.block_bytes = o->bytes / 2;
	o->rig.blocks = blocks;
	o->rig.space_bytes = 4 * o->bytes;
	if (rig_open(&o->rig) < 0 || host_buf_open(env, &o->from, o->bytes, HOST_2M) < 0)
		return -1;
	memset(o->from.mem, 0x5a, o->bytes);
	return host_buf_open(env, &o->to, o->bytes, HOST_2M);
}

static void close_run(struct compact_run *o)
{
	host_buf_close(&o->from);
	host_buf_close(&o->to);
	rig_close(&o->rig);
}

/* 1: it cannot be done here. */
static int compact(struct compact_run *o, uint32_t flags, uint64_t *ns)
{
	struct vac_compact_opts c = VAC_INIT(struct vac_compact_opts);
	uint64_t start = bench_now();
	int r;

	o->last = (struct vac_compact_result)VAC_INIT(struct vac_compact_result);
	c.flags = flags;
	r = vac_pool_compact(o->rig.pool, &c, &o->last);
	*ns = bench_now() - start;
	if (r == -EOPNOTSUPP)
		return 1;
	return r < 0 ? bench_fail(o->rig.env, "compacting", r) : 0;
}

static uint64_t copy(struct compact_run *o, uint64_t bytes)
{
	uint64_t start = bench_now();

	memcpy(o->to.mem, o->from.mem, bytes < o->bytes ? bytes : o->bytes);
	return bench_now() - start;
}

static int drop(struct compact_run *o, void *mem, uint64_t bytes)
{
	int r = vac_unmap(o->rig.space, mem, bytes);

	return r < 0 ? bench_fail(o->rig.env, "unmapping memory", r) : 0;
}

static int gather(struct compact_run *o, const struct compact_case *c, uint64_t *ns)
{
	uint64_t step = c->of * VAC_PAGE_BYTES, left = c->keep * VAC_PAGE_BYTES;
	uint64_t *mem;
	int r;

	if (rig_fill(&o->rig, o->bytes, VAC_MAP_NOHUGE, &mem) < 0)
		return -1;
	for (uint64_t at = 0; at < o->bytes; at += step) {
		r = vac_advise(o->rig.space, (char *)mem + at + left, step - left,
			       VAC_ADV_DONTNEED);
		if (r < 0)
			return bench_fail(o->rig.env, "dropping pages", r);
	}
	r = compact(o, VAC_COMPACT_GATHER, ns);
	if (r)
		return r;
	if (rig_verify(&o->rig, mem, o->bytes, c->of) < 0)
		return -1;
	return drop(o, mem, o->bytes);
}

static int measure_gather(struct bench_env *env, const struct compact_case *c)
{
	struct compact_run o = {.bytes = 0};
	struct bench_result *res = NULL;
	double gained = 0;
	uint64_t ns = 0;
	int r = open_run(env, &o, 128 * MIB, 2);

	for (int run = -1; r == 0 && run < (int)env->runs; run++) {
		uint64_t bytes = o.bytes * c->keep / c->of, peer;
		bool first = bench_value_first(run);

		bench_run_begins(env, c->name, run);
		peer = first ? 0 : copy(&o, bytes);
		r = gather(&o, c, &ns);
		if (r)
			break;
		peer = first ? copy(&o, bytes) : peer;
		if (run < 0) {
			res = bench_result(env, c->name, "GB/s", BENCH_MORE,
					   "memcpy of the bytes moved");
			continue;
		}
		bench_add(res, gb_per_s(o.last.bytes_moved, ns), gb_per_s(bytes, peer));
		gained += (double)o.last.pageblocks_freed * VAC_PAGEBLOCK_BYTES /
			  (double)o.last.bytes_moved / env->runs;
	}
	if (r == 0) {
		bench_extra(res, "freed_per_byte", gained);
		bench_extra(res, "pageblocks_freed", (double)o.last.pageblocks_freed);
		bench_extra(res, "us_a_pageblock",
			    (double)ns / 1e3 / (double)o.last.pageblocks_freed);
	} else if (r > 0) {
		bench_skip(env, c->name, "who holds a page cannot be seen here");
	}
	close_run(&o);
	return r < 0 ? -1 : 0;
}

int bench_compact(struct bench_env *env)
{
	static const struct compact_case c[] = {{"compact", 16, 128}, {"compact_single", 1, 8}};
	int r = 0;

	for (unsigned i = 0; i < 2 && r == 0; i++)
		r = measure_gather(env, &c[i]);
	return r;
}

/* Runs whose neighbours lie elsewhere: filled into the holes that every other run has left. */
static int scatter(struct compact_run *o, uint64_t pages, uint64_t **mem, uint64_t **rest)
{
	uint64_t run = pages * VAC_PAGE_BYTES;
	uint64_t half = o->bytes / 2, *target;
	int r = 0;

	/* The pageblocks where they are to go are resident, as the peer's are. */
	if (rig_fill(&o->rig, half, 0, &target) < 0 ||
	    rig_fill(&o->rig, o->bytes, VAC_MAP_NOHUGE, rest) < 0)
		return -1;
	for (uint64_t at = 0; at < o->bytes && r == 0; at += 2 * run)
		r = vac_unmap(o->rig.space, (char *)*rest + at, run);
	if (r < 0)
		return bench_fail(o->rig.env, "unmapping pages", r);
	if (rig_fill(&o->rig, half, VAC_MAP_NOHUGE, mem) < 0)
		return -1;
	if (drop(o, target, half) < 0)
		return -1;
	r = vac_advise(o->rig.space, *mem, half, VAC_ADV_HUGE);
	return r < 0 ? bench_fail(o->rig.env, "advice", r) : 0;
}

static int collapse_copy(struct compact_run *o, uint64_t pages, uint64_t *ns)
{
	uint64_t *mem, *rest;
	int r;

	if (scatter(o, pages, &mem, &rest) < 0)
		return -1;
	r = compact(o, VAC_COMPACT_COLLAPSE, ns);
	if (r)
		return r;
	if (rig_verify(&o->rig, mem, o->bytes / 2, 1) < 0 || drop(o, mem, o->bytes / 2) < 0)
		return -1;
	return drop(o, rest, o->bytes);
}

static int collapse_in_place(struct compact_run *o, uint64_t *ns)
{
	uint64_t *mem;
	int r = 0;

	if (rig_fill(&o->rig, o->bytes, 0, &mem) < 0)
		return -1;
	for (uint64_t at = 0; at < o->bytes && r == 0; at += VAC_PAGEBLOCK_BYTES) {
		r = vac_protect(o->rig.space, (char *)mem + at, VAC_PAGE_BYTES, VAC_PROT_READ);
		if (r == 0)
			r = vac_protect(o->rig.space, (char *)mem + at, VAC_PAGE_BYTES,
					VAC_PROT_READ | VAC_PROT_WRITE);
	}
	if (r < 0)
		return bench_fail(o->rig.env, "splitting", r);
	r = compact(o, VAC_COMPACT_COLLAPSE, ns);
	if (r)
		return r;
	if (rig_verify(&o->rig, mem, o->bytes, 1) < 0)
		return -1;
	return drop(o, mem, o->bytes);
}

/* pages: of a run; 0: in place */
static int measure_collapse(struct bench_env *env, const char *name, uint64_t pages)
{
	struct compact_run o = {.bytes = 0};
	struct bench_result *res = NULL;
	uint64_t ns = 0, done, peer;
	/* Each single page takes host mappings, of which there are not many more. */
	int r = open_run(env, &o, pages ? 64 * MIB : 128 * MIB, pages ? 3 : 2);

	for (int run = -1; r == 0 && run < (int)env->runs; run++) {
		bool first = bench_value_first(run);
		uint64_t bytes = pages ? o.bytes / 2 : o.bytes;

		bench_run_begins(env, name, run);
		peer = first ? 0 : copy(&o, bytes);
		r = pages ? collapse_copy(&o, pages, &ns) : collapse_in_place(&o, &ns);
		if (r)
			break;
		peer = first ? copy(&o, bytes) : peer;
		done = pages ? o.last.collapsed_by_copy : o.last.collapsed_in_place;
		if (done != bytes / VAC_PAGEBLOCK_BYTES)
			r = bench_fail(env, "collapsing all pageblocks", -EAGAIN);
		else if (run < 0)
			res = bench_result(env, name, "us", BENCH_LESS, "memcpy of the bytes");
		else
			bench_add(res, (double)ns / 1e3 / (double)done,
				  (double)peer / 1e3 / (double)done);
	}
	if (r > 0)
		bench_skip(env, name, "who holds a page cannot be seen here");
	close_run(&o);
	return r < 0 ? -1 : 0;
}

int bench_collapse(struct bench_env *env)
{
	if (measure_collapse(env, "collapse_copy", 16) < 0 ||
	    measure_collapse(env, "collapse_single", 1) < 0)
		return -1;
	return measure_collapse(env, "collapse_in_place", 0);
}

/* SPDX-License-Identifier: MIT */
/*
 * pin: vac_pin() and vac_unpin() of one base page, by its owner's name, beside mlock() and munlock()
 * of a page, which is what the host offers to keep a page (from being swapped out; it may still
 * move). One thread, the same page again and again; every pin is in the ledger with owner, thread,
 * time and address while it is held.
 */
#include <errno.h>
#include <sys/mman.h>

#include "bench/host.h"
#include "bench/rig.h"

static int pin(struct rig *rig, const void *page, unsigned times, double *ns)
{
	uint64_t start = bench_now(), handle;
	int r = 0;

	for (unsigned i = 0; i < times && r == 0; i++) {
		r = vac_pin(rig->space, page, VAC_PAGE_BYTES, VAC_PIN_WRITE, "bench", &handle);
		if (r == 0)
			r = vac_unpin(rig->pool, handle);
	}
	*ns = (double)(bench_now() - start) / times;
	return r < 0 ? bench_fail(rig->env, "pinning a page", r) : 0;
}

static int lock(const struct bench_env *env, void *page, unsigned times, double *ns)
{
	uint64_t start = bench_now();

	for (unsigned i = 0; i < times; i++) {
		if (mlock(page, VAC_PAGE_BYTES) < 0 || munlock(page, VAC_PAGE_BYTES) < 0)
			return bench_fail(env, "mlock", -errno);
	}
	*ns = (double)(bench_now() - start) / times;
	return 0;
}

static int measure(struct bench_env *env, struct rig *rig, char *page)
{
	unsigned times = env->tiny ? 100000 : 2000000;
	struct bench_result *res;
	double value = 0, peer = 0;
	uint64_t *mem;

	rig->opts.block_bytes = VAC_BLOCK_BYTES_MIN;
	rig->opts.flags = VAC_POOL_BASE_ONLY;
	rig->blocks = 1;
	rig->space_bytes = VAC_PAGEBLOCK_BYTES;
	if (rig_open(rig) < 0 || rig_fill(rig, VAC_PAGEBLOCK_BYTES, 0, &mem) < 0)
		return -1;
	*page = 1;
	res = bench_result(env, "pin", "ns", BENCH_LESS, "mlock and munlock of a page");
	for (int run = -1; run < (int)env->runs; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, "pin", run);
		if ((first && pin(rig, mem + 512, times, &value) < 0) ||
		    lock(env, page, times / 10, &peer) < 0 ||
		    (!first && pin(rig, mem + 512, times, &value) < 0))
			return -1;
		if (run >= 0)
			bench_add(res, value, peer);
	}
	return 0;
}

int bench_pin(struct bench_env *env)
{
	struct rig rig = RIG_INIT(env);
	char *page = host_anon(env, VAC_PAGEBLOCK_BYTES, HOST_4K);
	int r = page ? measure(env, &rig, page) : -1;

	rig_close(&rig);
	host_anon_free(page, VAC_PAGEBLOCK_BYTES);
	return r;
}

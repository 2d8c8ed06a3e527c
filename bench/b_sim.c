/* SPDX-License-Identifier: MIT */
/*
 * sim_rate: how fast the simulator explores, in scheduling points a second on one processor. Each
 * point may hand over to another coroutine; the peer is what libc asks for one such hand-over,
 * swapcontext(3), with nothing else done.
 */
#include <ucontext.h>

#include "bench/bench.h"
#include "bench/host.h"
#include "sim/explore.h"

static ucontext_t here, there;

static void bounce(void)
{
	for (;;)
		swapcontext(&there, &here);
}

/* Switches a second, to and fro. */
static double swaps(unsigned n)
{
	static char stack[64 << 10];
	uint64_t t;

	getcontext(&there);
	there.uc_stack.ss_sp = stack;
	there.uc_stack.ss_size = sizeof(stack);
	there.uc_link = NULL;
	makecontext(&there, bounce, 0);
	t = bench_now();
	for (unsigned i = 0; i < n; i++)
		swapcontext(&here, &there);
	return 2.0 * n * 1e9 / (double)(bench_now() - t);
}

int bench_sim_rate(struct bench_env *env)
{
	struct bench_result *res =
		bench_result(env, "sim_rate", "steps/s", BENCH_MORE, "swapcontext(3) switches");
	double schedules[BENCH_RUNS_MAX];
	uint64_t n = env->tiny ? 20 : 1000;

	for (int run = -1; run < (int)env->runs; run++) {
		uint64_t steps, found, t;
		double peer, took;

		bench_run_begins(env, "sim_rate", run);
		peer = swaps(env->tiny ? 1000 : 200000);
		t = bench_now();
		if (vac_sim_explore("all", BENCH_SEED % 1000003 + n * (uint64_t)(run + 1), n,
				    &steps, &found) < 0 ||
		    found)
			return bench_fail(env, "a simulated schedule found something", 0);
		took = (double)(bench_now() - t) / 1e9;
		if (run < 0)
			continue;
		bench_add(res, (double)steps / took, peer);
		schedules[run] = (double)n / took;
	}
	bench_extra(res, "schedules_per_s", bench_median(schedules, env->runs));
	return 0;
}

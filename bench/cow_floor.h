/* SPDX-License-Identifier: MIT */
/* The bare host calls of a write to a shared page. */
#ifndef BENCH_COW_FLOOR_H
#define BENCH_COW_FLOOR_H

#include "bench/bench.h"

/* Call writes(arg, mem), where each first write to a page of mem takes the calls that a write under the
 * guard needs at least. 0, or -1 with a message. */
int cow_floor(const struct bench_env *env, enum vac_guard guard, uint64_t bytes,
	      void (*writes)(void *arg, void *mem), void *arg);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The second part of `vacate demo`: a pool with half the memory that its data needs, and a swap file for the
 * rest, whose blocks leave too.
 */
#ifndef CLI_DEMO_SWAP_H
#define CLI_DEMO_SWAP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vacate.h"

struct demo_swap {
	/* Set by the caller. */
	uint64_t pool_bytes;
	uint64_t seed, limit_ns;
	enum vac_guard guard;

	/* What it has come to. */
	bool done; /* false: it could not even begin, which was said */
	bool interrupted;
	uint64_t data_bytes, errors, checked;
	uint64_t in, out;      /* pages */
	unsigned left, failed; /* offlines */
	double seconds;
};

/* 0: nothing lost. Else -1, with messages printed. */
int demo_swap_run(struct demo_swap *d);
void demo_swap_print(const struct demo_swap *d);
json_t *demo_swap_json(const struct demo_swap *d);

#endif

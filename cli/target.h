/* SPDX-License-Identifier: MIT */
/*
 * TARGET[:BLOCK]: which pool of which running program, and which of its blocks.
 *
 * A target is the PID of a program that has a control socket open, or the socket's path. It may be
 * left out where exactly one pool is running. A block is a number or a range, 3 or 3-7.
 */
#ifndef CLI_TARGET_H
#define CLI_TARGET_H

#include <stdbool.h>

#include "control/client.h"
#include "opt.h"

struct target {
	char path[1024];  /* of the socket */
	char program[32]; /* the name of the process, "" if it cannot be seen */
	struct ctl_client c;
	struct vac__ctl_pool pool; /* as it was when we connected */
};

struct target_block {
	struct target *t;
	uint32_t id;
};

struct targets {
	const struct opt_ctx *ctx;
	struct target **t;
	unsigned n;
	struct target_block *block;
	unsigned n_blocks;
	unsigned failed; /* sockets found that could not be asked, each with a message printed */
};

enum target_want {
	TARGET_ANY,        /* arguments are pools; none: all that can be found, perhaps none */
	TARGET_ONE,        /* at most one argument, a pool; none: the only one */
	TARGET_BLOCKS,     /* arguments name blocks, at least one */
	TARGET_ALL_BLOCKS, /* the same, but a pool alone, or nothing, means all its online blocks */
};

/* Read the arguments and connect. -1: go on; else the exit status, with a message printed. Call
 * targets_free() either way. */
int targets_parse(struct targets *ts, const struct opt_ctx *ctx, enum target_want want, char **argv,
		  int n);
void targets_free(struct targets *ts);

/* "block 3", or "block 3 of 1234" where there are several targets. Answers buf. */
const char *target_block_text(const struct targets *ts, const struct target_block *b, char *buf,
			      size_t len);

/* A string that came from the program: what is no text is shown as '?'. In place; ends it. */
void target_clean(char *s, size_t size);

#endif

/* SPDX-License-Identifier: MIT */
/* Arguments of the verbs that act on the host's own blocks: host:32, host:32-35, host:node1, host:dax0.0.
 * Unlike those that read (host_target.h), no argument never means all of them. */
#ifndef CLI_HOST_ARGS_H
#define CLI_HOST_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "host/host.h"
#include "opt.h"

struct host_args {
	struct host_block **block; /* in the order of the arguments, each once */
	unsigned n;
	bool whole; /* a node or a device was named */
	bool bare;  /* "host" alone was given */
};

/* Find the blocks. -1: go on; else the exit status, with a message printed. host_args_free() either way. */
int host_args_parse(struct host_args *a, const struct opt_ctx *ctx, struct host *h, char **argv,
		    int n);
void host_args_free(struct host_args *a);

/* Open the host, with a message where that fails. -1 or the exit status. */
int host_args_open(struct host **h, const char *sysroot);

#endif

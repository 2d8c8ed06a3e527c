/* SPDX-License-Identifier: MIT */
/* host[:BLOCK] on the command line, and --sysroot. */
#ifndef CLI_HOST_TARGET_H
#define CLI_HOST_TARGET_H

#include <stdbool.h>

#include "host/host.h"
#include "opt.h"

/* Is this command line about the host's own memory? So it is if a target is `host` or begins with
 * `host:`, or if --sysroot is there. */
bool host_wanted(int argc, char **argv);

struct host_targets {
	struct host *h;
	unsigned *block; /* indices into h->blocks, ascending as given, each once */
	unsigned n;
};

/* Open the host (sysroot may be NULL) and read host, host:3, host:3-7, host:node1, host:dax0.0. No argument, and
 * `host` alone, are all blocks. -1: go on; else the exit status, with a message printed. Call
 * host_targets_free() either way. */
int host_targets_parse(struct host_targets *t, const struct opt_ctx *ctx, const char *sysroot,
		       char **argv, int n);
void host_targets_free(struct host_targets *t);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Save of this machine what the reading verbs read, as a directory for --sysroot.
 *
 * What is saved: blocks, zones and pools of huge pages; of every frame its flags, map count and
 * references; what the walks found; and of processes that were found there, the names, command lines,
 * users, cgroups and descriptors. Never the contents of a page. Command lines may be confidential.
 */
#ifndef HOST_CAPTURE_H
#define HOST_CAPTURE_H

#include "host.h"

struct host_captured {
	unsigned files, processes;
	uint64_t bytes;
};

/* dir is created; -EEXIST: it is there and not empty. host_message() has the words for errors. */
int host_capture(struct host *h, const char *dir, struct host_captured *out);

#endif

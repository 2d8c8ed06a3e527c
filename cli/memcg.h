/* SPDX-License-Identifier: MIT */
/*
 * The memory cgroup of this process, as far as it is visible: how much memory the kernel charges
 * to it, and how much it may have. cgroup v1 and v2, nested groups, containers.
 */
#ifndef CLI_MEMCG_H
#define CLI_MEMCG_H

#include <limits.h>
#include <stdint.h>

struct memcg {
	int version;        /* 1, 2, or 0: none found */
	char dir[PATH_MAX]; /* its directory */
	char mount[PATH_MAX];
	char why[PATH_MAX + 64]; /* version 0: what was missing, as a sentence */
};

/* Find it. 0, or -ENOENT with the reason in cg->why. */
int memcg_find(struct memcg *cg);

/* Bytes charged now. v1 keeps up to some hundred KiB of the count in per-CPU stocks; v2 too. */
int memcg_usage(const struct memcg *cg, uint64_t *bytes);

/* The room left: the least of limit - usage over the group and all its visible parents.
 * UINT64_MAX if nothing is limited. */
int memcg_room(const struct memcg *cg, uint64_t *bytes);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The walks by BPF: struct page, and who refers to it. See bpf/walk.bpf.c.
 *
 * Where they cannot be had (built without clang, bpftool and libbpf; not root; a kernel that refuses
 * them) every call answers -EOPNOTSUPP and host_walk_why_not() says why, in one sentence.
 */
#ifndef HOST_WALK_H
#define HOST_WALK_H

#include "bpf/walk.h"
#include "host.h"

/* Load and calibrate, once; later calls answer what the first did. */
int host_walk_open(struct host *h);
void host_walk_close(struct host *h);
const char *host_walk_why_not(const struct host *h); /* NULL: all walks work */
/* What one kind of walk cannot see here, NULL: nothing. */
const char *host_walk_lacks(const struct host *h, unsigned i);

/* struct page of n frames from pfn on. */
int host_walk_pages(struct host *h, uint64_t pfn, uint64_t n, struct walk_page *out);

struct walk_found {
	struct walk_rec *rec; /* free() it */
	unsigned n;
	bool cut; /* there was more than we follow */
};

/* All records about frames of [lo, hi), descriptors that serve FUSE, and those of inodes. */
int host_walk_files(struct host *h, uint64_t lo, uint64_t hi, const struct walk_inode *inodes,
		    unsigned n_inodes, struct walk_found *out);

/* Fill in what `mapping` of each belongs to; at most WALK_INODES of them. */
int host_walk_inodes(struct host *h, struct walk_inode *inodes, unsigned n);

/* Whether the kernel keeps mappings of large folios in a count of its own. */
bool host_walk_has_large_mapcount(const struct host *h);
/* Where struct page of frame 0 would be; 0 unless opened. */
uint64_t host_walk_vmemmap(const struct host *h);

#endif

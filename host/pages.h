/* SPDX-License-Identifier: MIT */
/*
 * What a frame is, from what the kernel says of it, and how a captured machine keeps it.
 *
 * The form of a capture is text, a line a run of frames that are alike:
 *
 *	PFN COUNT FLAGS MAPCOUNT REFS EXCESS MAPPING MAP_TOTAL
 *
 * PFN and FLAGS (KPF_* bits) in hexadecimal; REFS is '-' where it was not known; MAPPING is 0, 'a'
 * (anonymous) or 'fN', N naming a file within the capture, 'f0' any. '#' begins a comment. What
 * no line names is not there.
 */
#ifndef HOST_PAGES_H
#define HOST_PAGES_H

#include "host.h"

#define KPF(name) (1ULL << KPF_##name)

enum {
	KPF_LOCKED,
	KPF_ERROR,
	KPF_REFERENCED,
	KPF_UPTODATE,
	KPF_DIRTY,
	KPF_LRU,
	KPF_ACTIVE,
	KPF_SLAB,
	KPF_WRITEBACK,
	KPF_RECLAIM,
	KPF_BUDDY,
	KPF_MMAP,
	KPF_ANON,
	KPF_SWAPCACHE,
	KPF_SWAPBACKED,
	KPF_COMPOUND_HEAD,
	KPF_COMPOUND_TAIL,
	KPF_HUGE,
	KPF_UNEVICTABLE,
	KPF_HWPOISON,
	KPF_NOPAGE,
	KPF_KSM,
	KPF_THP,
	KPF_OFFLINE,
	KPF_ZERO_PAGE,
	KPF_IDLE,
	KPF_PGTABLE,
	KPF_RESERVED = 32,
	KPF_PRIVATE = 35,
	KPF_PRIVATE_2 = 36,
};

/* Values of host_page.mapping that do not come from a running kernel. The lowest bits are the
 * kernel's own: 1 anonymous, 2 a driver's movable page. */
#define MAPPING_ANON 1ULL
#define MAPPING_FILE(n) (8 * ((uint64_t)(n) + 1)) /* the n-th of a capture, 0 any */

static inline bool mapping_is_file(uint64_t m)
{
	return m && !(m & 3);
}

/* A folio's frames from its head on, as far as they are in p. */
uint64_t host_folio_frames(const struct host_pages *p, uint64_t i);

/* vacate/pages and vacate/walk.json below the root of a capture; nothing on the running machine. */
int host_saved_open(struct host *h);
void host_saved_close(struct host *h);
/* Fill in n frames; class is left alone. */
void host_saved_read(const struct host *h, uint64_t pfn, uint64_t n, struct host_page *out);
bool host_saved_refs_known(const struct host *h);
/* Write frames as runs. 0 or -EIO. file_of numbers the file of a mapping. */
int host_saved_write(FILE *f, const struct host_pages *p,
		     unsigned (*file_of)(void *ctx, uint64_t mapping), void *ctx);

/* Work out the classes from all else. */
void host_classify(struct host_pages *p);

/* Frames of all pools of huge pages: free, and free but promised to somebody. */
void host_hugetlb(struct host *h, uint64_t *free_frames, uint64_t *reserved_frames);

#endif

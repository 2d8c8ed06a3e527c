/* SPDX-License-Identifier: MIT */
/*
 * Sizes. The simulator builds the same engine with small ones: a pageblock of 8 pages of 64 bytes is
 * copied in no time, fills up quickly, and has every border case of a large one.
 */
#ifndef VAC_GEOMETRY_H
#define VAC_GEOMETRY_H

#ifdef VAC_SIM
#define VAC__PAGE_SHIFT 6
#define VAC__PB_ORDER 3
#define VAC_PAGE_BYTES ((size_t)1 << VAC__PAGE_SHIFT)
#define VAC_PAGEBLOCK_BYTES (VAC_PAGE_BYTES << VAC__PB_ORDER)
#define VAC_BLOCK_BYTES_MIN ((uint64_t)VAC_PAGEBLOCK_BYTES)
#define VAC__MAX_SPACES 8u
#define VAC__MAX_BLOCKS 16u
#define VAC__VMAS_MAX 64u
#define VAC__LEDGER_MAX 256u
#define VAC__LEDGER_GROW 4u
#define VAC__STACKS_MAX 8u
#define VAC__BUCKETS 4u
#define VAC__TRACE 16u
#define VAC__BLOCKERS_MAX 32u
#define VAC__OWNERS_MAX 64u
#define VAC__LOST_MAX 16u
#define VAC__SWAP_CLUSTER 4u
#define VAC__SWAP_SLOTS_MAX 512u
#define VAC__AIO_CTX_MAX 8u
#define VAC__AIO_EVENTS 64u
#define VAC__RELOC_LIST 32u
#define VAC__RELOC_WORKERS 3u
#else
#define VAC__PAGE_SHIFT 12
#define VAC__PB_ORDER 9
#define VAC__MAX_SPACES 4096u
#define VAC__MAX_BLOCKS 65536u
#define VAC__VMAS_MAX (UINT32_C(1) << 20)
#define VAC__LEDGER_MAX (UINT32_C(1) << 20)
#define VAC__LEDGER_GROW 64u
#define VAC__STACKS_MAX 4096u
#define VAC__BUCKETS 256u
#define VAC__TRACE 256u
#define VAC__BLOCKERS_MAX 8192u
#define VAC__OWNERS_MAX 16384u
#define VAC__LOST_MAX 64u
#define VAC__SWAP_CLUSTER 16u
#define VAC__SWAP_SLOTS_MAX (UINT32_C(1) << 26)
#define VAC__AIO_CTX_MAX 16384u
#define VAC__AIO_EVENTS 65536u
#define VAC__RELOC_LIST 4096u
#define VAC__RELOC_WORKERS 8u
#endif

#define VAC__PB_PAGES (1u << VAC__PB_ORDER)
/* A pageblock of which so many pages are one's own is made one's own whole: see dense() in cow.c. */
#define VAC__COW_DENSE (VAC__PB_PAGES < 64 ? VAC__PB_PAGES / 2 : 8u)
#define VAC__COW_DENSE_WATCHED (VAC__PB_PAGES < 64 ? VAC__PB_PAGES / 2 : 32u)
#define VAC__COW_DENSE_PROBE (VAC__PB_PAGES < 64 ? VAC__PB_PAGES / 2 : 16u)
/* Pageblocks by whose fate that of the others is foretold, at least, and one in how many that is for. */
#define VAC__COW_LEARN (VAC__PB_PAGES < 64 ? 2u : 8u)
#define VAC__COW_PROBE (VAC__PB_PAGES < 64 ? 8u : 16u)
/* Shown at once of what is shared and shown page by page. */
#define VAC__SHOW_PAGES (VAC__PB_PAGES < 64 ? VAC__PB_PAGES / 4 : 16u)
#define VAC__COW_PAGES (VAC__PB_PAGES < 64 ? VAC__PB_PAGES / 2 : 16u)
#define VAC__PB_SHIFT (VAC__PAGE_SHIFT + VAC__PB_ORDER)
#define VAC__NO_PFN UINT32_MAX

#endif /* VAC_GEOMETRY_H */

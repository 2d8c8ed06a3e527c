/* SPDX-License-Identifier: MIT */
/*
 * vacate: take memory away from a running program without stopping it, and when a page cannot
 * leave, say who holds it.
 *
 * A *pool* is a set of memory blocks. A *block* is the unit of hot-add and hot-remove: one named
 * memfd of a power of two from 2 MiB to 1 GiB. A *space* is a range of addresses of this process;
 * memory mapped in it with vac_map() is filled on first touch with folios (4 KiB or 2 MiB) of the
 * pool's blocks, and keeps its address while the engine exchanges the folios beneath. A *pin* says
 * that somebody reads or writes a range behind the page table's back (direct I/O, DMA): a pinned
 * page stays where it is. vac_block_offline() moves every folio of a block to other blocks, gives
 * the memory back to the system, and, where it cannot, reports the holders by name.
 *
 * The smallest program:
 *
 *	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
 *	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
 *	struct vac_pool *pool;
 *	struct vac_space *space;
 *	void *mem;
 *
 *	vac_pool_open(&po, &pool);
 *	for (int i = 0; i < 3; i++)
 *		vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE);
 *	so.bytes = 1 << 30;
 *	vac_space_create(pool, &so, &space);
 *	vac_map(space, NULL, 200 << 20, VAC_PROT_READ | VAC_PROT_WRITE, 0, &mem);
 *	memset(mem, 1, 200 << 20);
 *	vac_block_offline(pool, 0, NULL, NULL);       // other threads may go on using mem
 *
 * CONVENTIONS
 *
 * Calls answer 0 or a count on success and a negative errno value on failure; each lists the
 * values it uses, vac_strerror() explains them. Lengths and addresses are bytes, page-aligned
 * (4096) where said so; times end in their unit. Option and result structures carry their own
 * size in the first member (use VAC_INIT), so that they can grow; what a caller of an older
 * header does not know is taken as zero. Nothing in the library prints, exits or touches stdio
 * except the call that is given a FILE.
 *
 * Any thread may call anything at any time unless said otherwise, except that nothing may be
 * called from a signal handler, from a log or progress callback, or in a child after fork() (there
 * every call answers -EPERM: a child has no pool memory). Arguments may lie in pool memory.
 *
 * CAVEATS, read these
 *
 * - Guard. The engine learns of a touch of a page that is absent or leaving by SIGSEGV. Threads
 *   that touch pool memory keep SIGSEGV unblocked and their stacks outside the pool, with 32 KiB
 *   free below or an alternate signal stack. A handler that the program had installed before the
 *   first pool was opened still gets every fault that is not the pool's; one installed later
 *   takes the faults away from the engine and must chain to the one it found.
 * - A system call that reads or writes pool memory which is absent, leaving or not yet writable
 *   answers EFAULT, as it does for any protected page. Pin the range first (vac_pin fills it in),
 *   for as long as the call lasts. This holds for read(2) and write(2) as well as for direct I/O.
 * - Memory handed to the kernel for longer than a call (direct I/O, registered buffers, vmsplice)
 *   must be pinned. The engine cannot see such users otherwise: the transfer would land in a
 *   page that is no longer mapped. What it can do, it does: a block is given back only after the
 *   kernel has certified, by sealing the memfd, that nobody holds a page of it.
 * - fork(): the child has none of the memory. vfork() followed by exec is fine. clone() without
 *   CLONE_VM and not through fork() is not supported.
 * - Futexes in pool memory: process-private ones (mutexes, condition variables and semaphores with
 *   default attributes) are keyed by address and keep working; process-shared ones are keyed by
 *   the file page beneath and lose their waiters when the page moves.
 * - Each separately placed or protected run costs one mapping of the host. The engine counts
 *   them, leaves a tenth of vm.max_map_count to the program, and answers -ENOMEM sooner than
 *   overrun it.
 */
#ifndef VACATE_H
#define VACATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VAC_VERSION_MAJOR 0
#define VAC_VERSION_MINOR 1
#define VAC_VERSION_PATCH 0
#define VAC_VERSION "0.1.0"

#ifndef VAC_PAGE_BYTES                /* else the simulator builds the engine with small ones */
#define VAC_PAGE_BYTES ((size_t)4096) /* a base folio */
#define VAC_PAGEBLOCK_BYTES ((size_t)2 << 20) /* a huge folio, and the unit of isolation */
#define VAC_BLOCK_BYTES_MIN ((uint64_t)2 << 20)
#endif
#define VAC_BLOCK_BYTES_MAX ((uint64_t)1 << 30)
#define VAC_OWNER_MAX 40 /* bytes of an owner's name that are kept, the final NUL included */
#define VAC_STACK_MAX 16 /* return addresses kept of a call stack */
#define VAC_NAME_MAX 32  /* bytes of a pool's or a space's name, the final NUL included */

/* clang-format off */
/* Initialise an option structure: struct vac_pool_opts o = VAC_INIT(struct vac_pool_opts); */
#ifdef __cplusplus
#define VAC_INIT(type) {sizeof(type)}
#else
#define VAC_INIT(type) {.size = sizeof(type)}
#endif
/* clang-format on */

struct vac_pool;
struct vac_space;
struct vac_report;

/* The meaning of a negative answer, as a sentence. Never NULL; static storage; any thread. */
const char *vac_strerror(int err);

/* "0.1.0": the version of the library that is linked, for comparison with VAC_VERSION. */
const char *vac_version(void);

/* ---- Pools ---------------------------------------------------------------------------------- */

enum vac_guard {
	VAC_GUARD_AUTO = 0,    /* the first that the host allows */
	VAC_GUARD_SIGSEGV,     /* mprotect and a SIGSEGV handler: no privilege needed */
	VAC_GUARD_USERFAULTFD, /* not built yet: vac_pool_open() answers -EOPNOTSUPP */
};

enum vac_log_level { VAC_LOG_INFO = 0, VAC_LOG_WARN, VAC_LOG_ERROR };

/* vac_pool_opts.flags */
#define VAC_POOL_STACKS 1u    /* record the call stack of every pin (else only VAC_PIN_STACK) */
#define VAC_POOL_NO_HUGE 2u   /* back pageblocks by 4 KiB host pages only */
#define VAC_POOL_BASE_ONLY 4u /* fill memory with 4 KiB folios only, as if every map said NOHUGE */

struct vac_pool_opts {
	size_t size;      /* sizeof(struct vac_pool_opts) */
	const char *name; /* shown in /proc/PID/maps; at most VAC_NAME_MAX-1 bytes; NULL: "pool" */
	uint64_t block_bytes; /* power of two, VAC_BLOCK_BYTES_MIN..MAX; 0: 128 MiB */
	uint64_t max_bytes; /* most memory in blocks at once; reserves addresses only; 0: 64 GiB */
	enum vac_guard guard;
	uint32_t flags;           /* VAC_POOL_* */
	uint32_t gate_timeout_ms; /* longest that the gate keeps new pins waiting; 0: 1000 */
	uint32_t fault_bytes; /* base folios filled in a fault: power of two, 4 KiB..2 MiB; 0: 64 KiB */
	/* Called for each message of the engine, from whichever thread meets it, with engine locks
	 * held: it must not call the library nor touch pool memory. NULL: messages are dropped. */
	void (*log)(void *ctx, enum vac_log_level level, const char *msg);
	void *log_ctx;
};

/*
 * Open a pool without blocks. opts may be NULL for all defaults. The first pool of a process
 * installs the SIGSEGV handler, which stays. Blocks briefly. Errors: -EINVAL (an option out of its
 * range, a size unknown), -ENOMEM (address space), -EOPNOTSUPP (guard), -EPERM (after fork).
 */
int vac_pool_open(const struct vac_pool_opts *opts, struct vac_pool **pool);

/*
 * Close a pool: destroy its spaces, give back its blocks. No other thread may be in a call on the
 * pool, touch its memory, or do so later. -EBUSY while pins are held: nothing is changed.
 */
int vac_pool_close(struct vac_pool *pool);

struct vac_pool_stats {
	size_t size;
	enum vac_guard guard;
	uint64_t block_bytes;
	uint64_t blocks, blocks_online;
	/* 4 KiB frames of online and isolating blocks: total = free + reserved + used + isolated.
	 * reserved: kept beside the used pages of a sparsely filled pageblock, given up on demand;
	 * isolated: free, in a block that is leaving. */
	uint64_t frames_total, frames_free, frames_reserved, frames_used, frames_isolated;
	uint64_t pageblocks_huge, pageblocks_base; /* filled with 2 MiB, with 4 KiB host pages */
	uint64_t spaces;
	uint64_t pins;                      /* live pin records */
	uint64_t host_vmas, host_vma_limit; /* mappings used by all pools, and the most allowed */
	uint64_t meta_bytes_per_block;      /* frame and pageblock descriptors */
	uint64_t faults, fault_waits;       /* guard faults served; those that met a leaving page */
	uint64_t migrate_attempts, migrate_folios,
		migrate_bytes; /* tries, folios and bytes moved */
	uint64_t gate_waits;   /* pins that waited for a gate */
	uint64_t splits;       /* huge folios split */
	uint64_t dangling;     /* migration entries met whose folio was not locked: always 0 */
	uint64_t wakes, wake_batch_max_ns; /* wake-ups of waiters, and the longest single batch */
};

/* Fill *stats (set stats->size first). Counters are read one by one, not at one instant. */
int vac_pool_stats(struct vac_pool *pool, struct vac_pool_stats *stats);

/*
 * Verify the invariants of the whole pool: counters against lists, every page-table entry against
 * its frame, every pin record against the pins counted. Meaningful only while no other thread
 * works on the pool. 0, or -EUCLEAN with a sentence about the first
 * violation in msg (which may be NULL).
 */
int vac_pool_check(struct vac_pool *pool, char *msg, size_t msg_bytes);

/* ---- Blocks --------------------------------------------------------------------------------- */

enum vac_zone {
	VAC_ZONE_MOVABLE = 0, /* may be asked to leave: preferred for all ordinary memory */
	VAC_ZONE_NORMAL,      /* used when no movable memory is free, and for what must stay */
};

enum vac_block_state {
	VAC_BLOCK_OFFLINE = 0, /* known to the pool, holds no memory */
	VAC_BLOCK_ONLINE,
	VAC_BLOCK_ISOLATING,  /* vac_block_offline() has begun: nothing new is placed in it */
	VAC_BLOCK_EVACUATING, /* its folios are moving out */
};

struct vac_block_opts {
	size_t size;
	int32_t id; /* the number wanted, or -1 for the lowest free one */
};

/*
 * Add a block, offline. opts NULL: the lowest free number. Answers the number (>= 0).
 * -EEXIST (number in use), -ENOSPC (max_bytes reached), -EINVAL, -ENOMEM.
 */
int vac_block_add(struct vac_pool *pool, const struct vac_block_opts *opts);

/*
 * Create a block's memory and let the pool use it. The memory is not touched before it is needed.
 * -ENOENT (no such block), -EALREADY (not offline), -EINVAL (zone), -ENOMEM, -EMFILE.
 */
int vac_block_online(struct vac_pool *pool, int id, enum vac_zone zone);

/* vac_offline_opts.flags */
#define VAC_OFFLINE_BEST_EFFORT 1u  /* without enough target memory, move what fits, then stop */
#define VAC_OFFLINE_DRY_RUN 2u      /* answer what would be missing; move nothing */
#define VAC_OFFLINE_TEST_NO_GATE 4u /* test switch: do not gate pins; endless I/O then starves us */

struct vac_offline_progress {
	size_t size;
	int id;
	uint64_t frames_used, frames_left; /* used at the start; still to move */
	uint64_t bytes_moved;
	uint64_t elapsed_ns;
};

struct vac_offline_opts {
	size_t size;
	int64_t timeout_ms; /* one deadline for the whole; 0: 10,000; below 0: none */
	uint32_t flags;
	/* Called at most every 100 ms, and at the end, in the calling thread; see CONVENTIONS. */
	void (*progress)(void *ctx, const struct vac_offline_progress *p);
	void *progress_ctx;
};

struct vac_offline_result {
	size_t size;
	uint64_t bytes_moved, huge_moved, base_moved; /* folios of each size */
	uint64_t attempts; /* folio migrations begun, for huge_moved + base_moved successes */
	uint64_t elapsed_ns, copy_ns;
	uint64_t missing_bytes;         /* target memory that is lacking; 0 if none */
	uint64_t possible_bytes;        /* how much of the block could move all the same */
	uint64_t given_back_bytes;      /* memory returned to the system, sealed before */
	uint64_t waited_ns;             /* total time waited for pins and other holders */
	char waited_for[VAC_OWNER_MAX]; /* owner of the pin that was waited for longest; "" if none */
	uint32_t waited_tid;            /* and the thread that had taken it */
	uint64_t waited_longest_ns;
	struct vac_report *report; /* on failure, who holds what; free it. NULL on success */
};

/*
 * Take a block away: move every folio to other online blocks, seal and close the block's memory.
 * Other threads go on; readers are not stopped, writers wait for the page they touch, new pins
 * wait for the folios in hand. Blocks for at most the timeout and the I/O in flight. Either the
 * block is OFFLINE afterwards, or it is ONLINE exactly as before (folios that have moved stay
 * moved). res may be NULL.
 *
 * -ENOENT (no such block), -EALREADY (not online), -EBUSY (held: pins, or another offline of the
 * same block), -ENOMEM (not enough memory in other online blocks, or no other online block: see
 * missing_bytes), -ETIMEDOUT (deadline, with no pin to blame), -ECANCELED.
 */
int vac_block_offline(struct vac_pool *pool, int id, const struct vac_offline_opts *opts,
		      struct vac_offline_result *res);

/* Make a running vac_block_offline() of this block give up. -ENOENT, -EALREADY (none runs). */
int vac_block_cancel(struct vac_pool *pool, int id);

/* Forget an offline block; its number may be used again. -ENOENT, -EBUSY (not offline). */
int vac_block_remove(struct vac_pool *pool, int id);

struct vac_block_info {
	size_t size;
	int id;
	enum vac_block_state state;
	enum vac_zone zone;
	uint64_t bytes;
	uint64_t frames_used, frames_free, frames_reserved;
	uint64_t pageblocks, pageblocks_huge,
		pageblocks_base; /* all; filled with 2 MiB, 4 KiB pages */
	uint64_t pins;           /* live pin records that touch the block */
	int fd;                  /* the memfd, owned by the pool, or -1 while offline */
};

/* -ENOENT. Numbers run from 0 to below vac_block_max(); not all exist. */
int vac_block_info(struct vac_pool *pool, int id, struct vac_block_info *info);
int vac_block_max(struct vac_pool *pool);

/* ---- Spaces --------------------------------------------------------------------------------- */

#define VAC_PROT_NONE 0
#define VAC_PROT_READ 1
#define VAC_PROT_WRITE 2

#define VAC_MAP_FIXED 1u    /* at addr exactly; -EEXIST if something is mapped there */
#define VAC_MAP_NOHUGE 2u   /* base folios only */
#define VAC_MAP_POPULATE 4u /* fill in now, as far as memory reaches (see VAC_ADV_WILLNEED) */

struct vac_space_opts {
	size_t size;
	const char *name; /* at most VAC_NAME_MAX-1 bytes; NULL: "space" */
	uint64_t bytes; /* addresses to reserve, at most 16 TiB; rounded up to 2 MiB; must be given */
};

/* Reserve a range of addresses. -EINVAL, -ENOMEM, -ENOSPC (4096 spaces exist). */
int vac_space_create(struct vac_pool *pool, const struct vac_space_opts *opts,
		     struct vac_space **space);

/*
 * Unmap everything and release the addresses. No other thread may be in a call on the space or
 * touch its memory. -EBUSY while a pin taken through it is held: nothing is changed.
 */
int vac_space_destroy(struct vac_space *space);

/* First address and length; constant for the life of the space. */
void *vac_space_base(struct vac_space *space);
size_t vac_space_bytes(struct vac_space *space);

/*
 * Map len bytes of zeroes. addr and len are multiples of 4096; addr NULL lets the engine choose (at
 * a multiple of 2 MiB if len reaches that). Folios come on first touch: huge ones for each whole
 * pageblock inside the mapping unless NOHUGE. *out gets the address.
 * -EINVAL (alignment, length 0 or overflowing, unknown bits, outside the space), -EEXIST,
 * -ENOMEM (addresses).
 */
int vac_map(struct vac_space *space, void *addr, size_t len, int prot, unsigned flags, void **out);

/*
 * Unmap a range; holes in it are no error. Pinned folios that are unmapped whole stay with their
 * pins and go when the last is dropped. Where the range cuts through a huge folio, that folio is
 * split; if it stays pinned for the gate's timeout, -EBUSY and nothing is changed.
 * -EINVAL, -ENOMEM (host mappings), -EBUSY.
 */
int vac_unmap(struct vac_space *space, void *addr, size_t len);

/* Change what is allowed. Every page of the range must be mapped, else -ENOMEM (as mprotect(2)).
 * -EINVAL, -EBUSY as for vac_unmap(). */
int vac_protect(struct vac_space *space, void *addr, size_t len, int prot);

enum vac_advice {
	VAC_ADV_WILLNEED = 1, /* fill in now; -ENOMEM where memory ran out, the rest is filled */
	VAC_ADV_DONTNEED, /* drop the contents: zeroes on the next touch. -EBUSY as vac_unmap() */
	VAC_ADV_HUGE,     /* from now on fill with huge folios where possible */
	VAC_ADV_NOHUGE,   /* from now on fill with base folios; what is there stays */
};
int vac_advise(struct vac_space *space, void *addr, size_t len, enum vac_advice advice);

struct vac_page_info {
	size_t size;
	int present; /* 0: nothing there yet, 1: a folio, 2: one that is leaving */
	int huge;
	int block;    /* block number, -1 if not present */
	uint64_t pfn; /* frame number in the pool of the page (not of the folio's head) */
	uint32_t refs, pins, map; /* of the folio */
};
/* What backs one address, at this moment. -EFAULT: not mapped. */
int vac_page_info(struct vac_space *space, const void *addr, struct vac_page_info *info);

/* ---- Pins ----------------------------------------------------------------------------------- */

#define VAC_PIN_READ 0u     /* the holder only reads the memory */
#define VAC_PIN_WRITE 1u    /* the holder writes it; the mapping must allow that */
#define VAC_PIN_LONGTERM 2u /* held for longer than an I/O: offline does not wait, it reports */
#define VAC_PIN_STACK 4u    /* record this call's stack */

/*
 * Pin every folio of [addr, addr+len): fill it in, and keep it where it is until vac_unpin(). No
 * alignment needed. All or nothing. The owner's name is copied (cut at VAC_OWNER_MAX-1 bytes)
 * and shown, with thread, time and address, in every report from this moment on; NULL: "?".
 * *pin gets a handle that any thread may use once. If all pages are present and none is
 * leaving, the call takes no lock and makes no system call; else it may block: for a migration,
 * or for a gate, holding nothing of its own meanwhile (at most gate_timeout_ms a time).
 *
 * Do not take a pin while holding another one whose release depends on this one: a gate then ends
 * only by its timeout.
 *
 * -EINVAL (length 0 or overflowing, flags), -EFAULT (outside the space, or a part is not mapped
 * or does not allow the access), -ENOMEM, -EOVERFLOW (2^19 pins on one folio).
 */
int vac_pin(struct vac_space *space, const void *addr, size_t len, unsigned flags,
	    const char *owner, uint64_t *pin);

/*
 * Drop a pin. Call it only when nobody will touch the memory through it again. -EINVAL: not a pin
 * of this pool, or dropped already (nothing is changed). Never blocks beyond short engine locks.
 */
int vac_unpin(struct vac_pool *pool, uint64_t pin);

/* ---- Reports -------------------------------------------------------------------------------- */

enum vac_blocker_class {
	VAC_HELD_SHORT_PIN = 0,
	VAC_HELD_LONG_PIN,
	VAC_HELD_REFERENCE,  /* somebody holds the folio itself, for a moment or by mistake */
	VAC_HELD_NO_TARGET,  /* no memory to move it to */
	VAC_HELD_FOREIGN,    /* the kernel says that somebody outside the engine holds a page */
	VAC_HELD_HOST_LIMIT, /* the host's limit on mappings */
	VAC_HELD_BUSY,       /* being filled, split or moved by another thread */
};
const char *vac_blocker_class_name(enum vac_blocker_class cls); /* "short pin", ... */

struct vac_owner {
	char owner[VAC_OWNER_MAX];
	uint32_t tid;
	char thread[16]; /* the thread's name, "" if it has ended */
	uint32_t flags;  /* VAC_PIN_* */
	uint64_t age_ns;
	uintptr_t addr; /* what was pinned */
	uint64_t len;
	unsigned stack_depth; /* return addresses, innermost first; 0 if not recorded */
	uintptr_t stack[VAC_STACK_MAX];
};

struct vac_blocker {
	size_t size;
	enum vac_blocker_class cls;
	int block;
	uint64_t pfn;                            /* of the folio's head */
	uint32_t frames;                         /* 1 or 512 */
	char space[VAC_NAME_MAX];                /* "" if it is mapped nowhere any more */
	uintptr_t addr;                          /* where it is mapped, 0 if nowhere */
	uint32_t refs, pins, map, expected_refs; /* expected: what a migration would have to find */
	int frozen, gated, waiters, locked;
	uint32_t attempts; /* of this offline to move it */
	int last_error;    /* of the last one, as a negative errno value */
	unsigned owners;   /* how many pin records hold it; see vac_report_owner() */
};

/* Who holds block id now? Moves nothing. *report is the caller's to free. -ENOENT, -ENOMEM. */
int vac_report_block(struct vac_pool *pool, int id, struct vac_report **report);

/* Number of blockers, and each. A report is a copy: it stays true to its moment, and may be read
 * by any one thread at a time. Blockers are grouped by owner, the largest group first. */
unsigned vac_report_count(const struct vac_report *report);
int vac_report_walk(const struct vac_report *report,
		    int (*fn)(void *ctx, const struct vac_blocker *b), void *ctx);
/* The k-th owner of the i-th blocker. -ERANGE. */
int vac_report_owner(const struct vac_report *report, unsigned i, unsigned k,
		     struct vac_owner *owner);
/* As text for people, with symbols of the stacks where the program has them. -EIO. */
int vac_report_print(const struct vac_report *report, FILE *out);
void vac_report_free(struct vac_report *report); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif /* VACATE_H */

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
 * Any thread may call anything at any time unless said otherwise, except that nothing (but
 * vac_last_fault()) may be called from a signal handler, from a log or progress callback, or in a child after fork() (there
 * every call answers -EPERM: a child has no pool memory). Arguments may lie in pool memory.
 *
 * CAVEATS, read these
 *
 * - Guard. The engine learns of a touch of a page that is absent or leaving in one of two ways, chosen
 *   when the pool is opened (enum vac_guard).
 *   Under userfaultfd(2) the thread sleeps in the kernel, wherever it was, until the page is there:
 *   nothing in the rest of this list about signals and EFAULT applies, but that a page for which
 *   there is no memory is SIGBUS, or EFAULT: see vac_last_fault(). Needs Linux 6.6, and root,
 *   vm.unprivileged_userfaultfd = 1 or access to /dev/userfaultfd; not vm.overcommit_memory = 2.
 *   The pool has a few threads of its own then.
 * - SIGSEGV guard. Threads
 *   that touch pool memory keep SIGSEGV unblocked and their stacks outside the pool, with 32 KiB
 *   free below or an alternate signal stack. A handler that the program had installed before the
 *   first pool was opened still gets every fault that is not the pool's; one installed later
 *   takes the faults away from the engine and must chain to the one it found.
 * - A system call that reads or writes pool memory which is absent, leaving or not yet writable
 *   answers EFAULT under the SIGSEGV guard, as it does for any protected page. See "System calls on
 *   pool memory" below: vac_read(), vac_recv() and kin do not fail, nor does any call on a range
 *   that is pinned, for as long as the pin lasts.
 * - Memory handed to the kernel (direct I/O, registered buffers, vmsplice) should be pinned: then a
 *   block waits for it and no longer, by name. What is not pinned is looked for: see FOREIGN.
 * - fork(): the child has none of the memory, or a copy: see FORK AND EXEC. clone() without
 *   CLONE_VM and not through fork() is not supported.
 * - Futexes in pool memory: process-private ones (mutexes, condition variables and semaphores with
 *   default attributes) are keyed by address and keep working; process-shared ones are keyed by
 *   the file page beneath and lose their waiters when the page moves, unless it is declared to hold
 *   such words: VAC_ADV_WAITWORDS. The engine cannot see that a page holds any.
 * - Each separately placed or protected run costs one mapping of the host. The engine counts
 *   them, leaves a tenth of vm.max_map_count to the program, and answers -ENOMEM sooner than
 *   overrun it.
 *
 * FORK AND EXEC
 *
 * What a child of fork() finds at the addresses of a pool is chosen when the pool is opened:
 *
 * - nothing (the default). Any touch is a true SIGSEGV in the child, which costs fork() nothing.
 * - with VAC_POOL_FORK_COPY, ordinary private memory at the same addresses, with the rights of
 *   vac_map() and vac_protect(): a copy of all that is mapped in the pool's spaces, as of the instant
 *   of the fork. No write of another thread of the parent is in it without those that came before.
 *   From then on it is the child's own and no pool: it may be written, mprotect()ed, munmap()ed, and
 *   is inherited by grandchildren as any memory is.
 *
 * Either way every call answers -EPERM in the child, and pins do not exist there.
 *
 * A copy costs time and memory: all that is mapped is copied before fork() returns, and threads
 * that write to the pool, fault in it or call map, unmap or protect meanwhile wait (readers do not);
 * the parent holds both until the fork is over. Where there is no memory (in the host or a cgroup),
 * no addresses or no host mappings for it, the pool's log is told (VAC_LOG_ERROR), fork() succeeds,
 * and a touch in the child is a SIGBUS: a child that only runs exec need not care. The child's maps
 * then show "vacate:no copy".
 *
 * While the copy is made the memory is read-only. So that no transfer of the kernel is cut in two or
 * meets that, fork() first waits for the short pins for writing that other threads hold, for at most
 * gate_timeout_ms, and vac_pin() waits with new ones until the fork is over. Under a pin that is not
 * dropped in time (the log is told: VAC_LOG_WARN) or that is long-term, a transfer goes on, the child
 * may have any part of it, and, under the SIGSEGV guard, a system call of another thread that writes
 * there at that moment answers EFAULT.
 *
 * The copy is made by a handler of pthread_atfork() that is registered when the library is loaded.
 * If a handler registered earlier than that touches the pool in the thread that forks, after the
 * copy, the child gets none, as above. No call of the library is possible from such a handler, nor
 * fork() from a log or progress callback; fork() from a signal handler is fine. vfork() and
 * posix_spawn() run no handlers, copy nothing, and are the way to run another program. The child of
 * _Fork() has nothing, whatever the policy.
 *
 * exec: nothing is inherited; every descriptor of the library is close-on-exec.
 *
 * SNAPSHOTS: vac_space_snapshot()
 *
 * A snapshot shares the folios of its space until somebody writes. Then the oldest space that is left of
 * the family keeps its memory where it is, and those that share it get a copy of the old bytes; any other
 * space takes a copy for itself. A huge folio is cut for that: what is copied is the page, and as many after
 * it as have just been written before it, so that memory written in order costs a dozen faults a
 * pageblock. Where a pageblock is written here and there, the rest of it is copied too once 8 pages of it
 * are the space's own (SIGSEGV) or 32 (userfaultfd), as long as more than a sixteenth of the pool's memory is
 * free: faster for most, and a snapshot may come to hold 64 times what was written. Where that came of most
 * pageblocks after the last snapshots of the space, they are copied whole at the first write after the next,
 * which then takes as long as 2 MiB do (a snapshot may hold 512 times what was written, if the habit has changed;
 * one pageblock in 16 goes on as before, by which that is noticed). Under the SIGSEGV guard
 * it is 64 KiB at least once a quarter of the host's mappings are spent;
 * under both whole pageblocks once half of them are. What is shared by nobody any more is written without
 * a copy.
 *
 * - Memory that is pinned when a snapshot is taken is copied at once, so a transfer under way stays with
 *   the space whose memory was pinned; the snapshot may have any part of what the transfer writes
 *   meanwhile, but nothing that a thread writes later. To pin what is shared, for reading too, makes it
 *   the pinning space's own first.
 * - A snapshot that is read costs a fault for each pageblock (or run of it that lies together), and host mappings
 *   only where it is touched.
 * - A write needs memory for the copy: where there is none it is SIGBUS, as for a page touched first. With a
 *   swap file there is: something else is written out.
 * - Under the SIGSEGV guard the memory is read-only for as long as the call takes, pinned or not: a system
 *   call of another thread that writes there at that moment answers EFAULT, and may be made again.
 * - What is in the swap file when a snapshot is taken stays there, once for all who share it, until somebody
 *   touches it. What is locked into memory (vac_lock()) is not locked in the snapshot; but as long as the two
 *   share it, it stays for both.
 * - Memory handed to the kernel without vac_pin(): what such a transfer writes belongs to whoever keeps the
 *   frame, the oldest space. A pipe that was filled from a snapshot by vmsplice() without a pin may show
 *   what is written after the snapshot has gone.
 *
 * FOREIGN holders: memory handed to the kernel without vac_pin()
 *
 * Direct I/O, AIO, io_uring, vmsplice(), MSG_ZEROCOPY, process_vm_writev() of another process: the
 * kernel holds the page that was there when it was asked, and reads or writes that one. A transfer that
 * is begun while its page is leaving answers EFAULT. One begun before:
 *
 * - Where the process may see the kernel's count of who holds a page (root, or CAP_BPF, CAP_PERFMON and
 *   CAP_SYS_ADMIN, when the first pool opens; Linux 5.14 with BTF, and 6.9 for 2 MiB host pages), the
 *   engine looks after it has stopped writers and before it copies: a page that is held stays where it
 *   is. Nothing can come late. The offline tries again, ever less often, until its deadline; then it
 *   answers -EBUSY, and the report names the page as VAC_HELD_FOREIGN and, where /proc/self tells, the
 *   holder: "io_uring fd 7, registered buffer 0". A 2 MiB host page is held as a whole. Pages that
 *   are unmapped or dropped under such a holder are kept for it; when it has let go, the next call
 *   that unmaps, drops, or changes a block finds that out, and they are free.
 * - Elsewhere the engine cannot know. It keeps every frame that it moves out of, with a sum of each 512
 *   bytes as they were copied, until the kernel certifies at the end, by sealing the memfd, that nobody
 *   holds a page of the block. Then what was written late is carried over to where the page is now,
 *   unless the program, or another transfer, has written those 512 bytes since: such bytes are named,
 *   as VAC_HELD_LOST in the report and by an error in the log. So there, and only there:
 *     o a transfer can have answered success and its bytes not be seen yet: until the offline during
 *       which it was under way has answered 0;
 *     o a holder that reads (a pipe, a socket) sees the bytes of when the page moved, not what the
 *       program writes later. Buffers registered with an io_uring of this process are found by
 *       /proc/self/fdinfo, and not moved; a ring that only another process has open is not found;
 *     o memory must not be unmapped or dropped before the kernel is done with it: it is used again
 *       at once;
 *     o what has moved out of a block whose offline failed is of no use (frames_quarantined) until
 *       a later offline of that block succeeds;
 *     o moving costs two to three times as much (docs/PERFORMANCE.md).
 * - A block that is empty but not certified is VAC_BLOCK_QUARANTINE: vac_block_offline() has answered
 *   -EBUSY, the bytes have moved, the memory is not given back and nothing is placed in it.
 *   vac_block_offline() again, or vac_block_online(), asks again and finishes once it is released. So is
 *   one whose late bytes belong to a page that is pinned now (VAC_HELD_LATE). vac_pool_close() gives the
 *   memory back in any case: with the spaces gone nobody can miss those bytes.
 * - VAC_POOL_PINS_ONLY: the program says that it pins whatever it hands to the kernel. Nothing of the
 *   above is done, but for the seal; an unpinned transfer then loses its bytes silently.
 *
 * Blocks on files (VAC_BLOCK_FILE) that cannot be sealed have no such certificate: what is said of
 * quarantine does not hold for them, and where the kernel's counts cannot be seen, what is written late
 * to one is lost. vac_block_info.unsealable and vacate ls name them.
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
	VAC_GUARD_AUTO = 0,    /* userfaultfd where the host allows it, else SIGSEGV */
	VAC_GUARD_SIGSEGV,     /* mprotect and a SIGSEGV handler: no privilege needed */
	VAC_GUARD_USERFAULTFD, /* the kernel itself may touch the memory at any time; see CAVEATS */
};

enum vac_log_level { VAC_LOG_INFO = 0, VAC_LOG_WARN, VAC_LOG_ERROR };

/* vac_pool_opts.flags */
#define VAC_POOL_STACKS 1u     /* record the call stack of every pin (else only VAC_PIN_STACK) */
#define VAC_POOL_NO_HUGE 2u    /* back pageblocks by 4 KiB host pages only */
#define VAC_POOL_BASE_ONLY 4u  /* fill memory with 4 KiB folios only, as if every map said NOHUGE */
#define VAC_POOL_FORK_COPY 8u  /* a child of fork() gets a private copy: see FORK AND EXEC */
#define VAC_POOL_PINS_ONLY 16u /* the program pins all that it hands to the kernel: see FOREIGN */
#define VAC_POOL_TEST_NO_LOOK 32u /* test switch: as on a host that does not show page counts */
#define VAC_POOL_COMPACT 64u /* a thread gathers free memory in the background: see COMPACTION */

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
	 * held: it must not call the library nor touch pool memory. A touch that is refused (see
	 * vac_last_fault()) is told from within the fault, that is, from a signal handler in
	 * whatever the thread was doing, which may be malloc() or printf(): stay with what is
	 * async-signal-safe, such as write(2). NULL: messages are dropped. */
	void (*log)(void *ctx, enum vac_log_level level, const char *msg);
	void *log_ctx;
	uint32_t longterm_pct; /* of VAC_ZONE_NORMAL, the most that long-term pins may take; 0: 75 */
	uint32_t aio_events; /* sum of vac_aio_opts.events of all contexts at most; 0: 65,536, as of Linux */
};

/*
 * Open a pool without blocks. opts may be NULL for all defaults. The first pool of a process with
 * the SIGSEGV guard installs the handler, which stays. Blocks briefly. Errors: -EINVAL (an option out of its
 * range, a size unknown), -ENOMEM (address space), -EOPNOTSUPP or -EACCES (the host does not have the
 * guard, or does not allow it), -EMFILE, -EPERM (after fork).
 */
int vac_pool_open(const struct vac_pool_opts *opts, struct vac_pool **pool);

/*
 * Close a pool: destroy its spaces, give back its blocks. No other thread may be in a call on the
 * pool, touch its memory, or do so later. -EBUSY while pins are held, or a control socket is open:
 * nothing is changed.
 */
int vac_pool_close(struct vac_pool *pool);

struct vac_pool_stats {
	size_t size;
	enum vac_guard guard;
	uint64_t block_bytes;
	uint64_t blocks, blocks_online;
	/* 4 KiB frames of online and isolating blocks: total = free + reserved + used + isolated +
	 * frames_quarantined.
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
	/* Migration entries met whose folio was not locked: always 0, or the engine has an error. It is
	 * then told to the log once, and mended where the page can be proven to be there; else a touch
	 * of that page is SIGBUS, and the record says VAC_REFUSED_LOST. */
	uint64_t dangling;
	/* Wake-ups of waiters, and the longest single batch: processor time of the waker, which bounds
	 * how long the kernel's queue was locked; being preempted in between is not in it. */
	uint64_t wakes, wake_batch_max_ns;
	/* See FOREIGN. Frames that wait until nobody outside the engine holds them, counted neither as
	 * free nor as used; looks that found a holder; bytes written late and carried over, or lost. */
	uint64_t frames_quarantined, foreign_held, late_carried_bytes, late_lost_bytes;
	uint64_t sees_holders; /* 1: the kernel's counts can be read; 0: late bytes are looked for */
	/* See SNAPSHOTS. Taken so far; pages that were pinned, and copied at once; folios, and bytes,
	 * copied when they were written; folios that were found to be nobody else's any more. */
	uint64_t snapshots, snapshot_copies, cow_copies, cow_bytes, cow_reuses;
	/* See COMPACTION. Whole pageblocks that are free; folios moved to gather them; huge folios made of
	 * base ones where they lay, and by copying them. */
	uint64_t pageblocks_free, compact_folios, collapsed_in_place, collapsed_by_copy;
	uint64_t dangling_repaired; /* of `dangling`: those whose page could be proven to be there */
	/* Swap. Slots of 4 KiB in the file, those in use, and of these the ones that could not be written
	 * and are used for nothing; pages read and written; pages touched again after they had been
	 * written and before their frame was used for something else, so without I/O; pages that could
	 * not be read or written. */
	uint64_t swap_slots, swap_used, swap_bad;
	uint64_t swap_in, swap_out, swap_second_chances, swap_errors;
	/* Long-term pins, but those that can move. Frames in normal memory, counted once for each pin, and the
	 * most that there may be; frames in movable memory, where they keep their blocks. Frames moved to normal
	 * memory for them, and back; pins that could not be moved. */
	uint64_t longterm_frames, longterm_limit, longterm_kept;
	uint64_t longterm_moved, longterm_moved_back, longterm_failed;
};

/* Fill *stats (set stats->size first). Counters are read one by one, not at one instant. */
int vac_pool_stats(struct vac_pool *pool, struct vac_pool_stats *stats);

/* The guard that the pool was opened with: never VAC_GUARD_AUTO, but in a child of fork(). */
enum vac_guard vac_pool_guard(struct vac_pool *pool);

/*
 * Verify the invariants of the whole pool: counters against lists, every page-table entry against
 * its frame, every pin record against the pins counted. Meaningful only while no other thread
 * works on the pool. 0, or -EUCLEAN with a sentence about the first
 * violation in msg (which may be NULL).
 */
int vac_pool_check(struct vac_pool *pool, char *msg, size_t msg_bytes);

/* ---- Swap ------------------------------------------------------------------------------------ */

/*
 * With a swap file a pool may hold less memory than its spaces have data. A touch that finds no free
 * frame then writes out pages that were not touched for long, instead of SIGBUS; touching one of those
 * reads it back.
 *
 * What cannot be written stays in memory, and its place in the file is used no more. What cannot be
 * read is a SIGBUS for whoever touches that page (EFAULT in a system call under userfaultfd; -EIO of
 * vac_pin(), vac_prefault() and vac_lock()), every time anew, and vac_last_fault() says so:
 * VAC_REFUSED_SWAP. Nothing else is touched. The log is told of either once a minute at most.
 *
 * A pinned page is never written out, nor one that the kernel's counts show to be held from outside.
 * Where those cannot be seen (vac_pool_stats.sees_holders is 0), memory handed to the kernel without
 * vac_pin() must not be handed over with swap on: a transfer that is late is lost. See FOREIGN.
 */
struct vac_swap_opts {
	size_t size;
	int fd; /* a regular file or block device, for reading and writing; duplicated, so it stays
		 * the caller's. What was in it is lost. Nobody else may touch it. */
	uint64_t bytes; /* of it, from the start; whole clusters of 64 KiB, at most 256 GiB are used */
	uint32_t flags; /* 0 */
};

/*
 * Use a file for swap. One at a time. The file is read and written past the page cache where it can be.
 * It takes the room that it needs as it is written, if it is sparse: then running out of room is an error
 * in writing, as above. So is writing to a file that somebody has made shorter.
 *
 * -EINVAL (too short, not such a file), -EBUSY (one is in use), -EBADF, -EMFILE, -ENOMEM, -EOPNOTSUPP (no
 * swap here).
 */
int vac_swap_on(struct vac_pool *pool, const struct vac_swap_opts *opts);

/*
 * Bring everything back into memory, while all goes on, and let go of the file. timeout_ms 0 or less: take
 * as long as it takes. On failure swap goes on as before. -EALREADY (there is none), -EBUSY (another call of
 * this kind), -ENOMEM (there is no room), -EIO (a page cannot be read), -ETIMEDOUT.
 */
int vac_swap_off(struct vac_pool *pool, int64_t timeout_ms);

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
	VAC_BLOCK_QUARANTINE, /* empty, but somebody outside the engine holds a page: see FOREIGN */
};

/* vac_block_opts.flags */
#define VAC_BLOCK_FILE 1u /* the block's memory is the file `fd` */

struct vac_block_opts {
	size_t size;
	int32_t id; /* the number wanted, or -1 for the lowest free one */
	uint32_t flags;
	int fd; /* with VAC_BLOCK_FILE; duplicated, so it stays the caller's */
};

/*
 * Add a block, offline. opts NULL: the lowest free number. Answers the number (>= 0).
 *
 * With VAC_BLOCK_FILE the memory is a file of yours, at least as long as a block and open for reading
 * and writing: a memfd, a file on tmpfs, or one that is mapped by DAX. Not one that can only be mapped by
 * more than 4 KiB at a time (hugetlbfs and memfds made with MFD_HUGETLB, device DAX): blocks of such
 * memory are not built yet, and it is -EINVAL. 2 MiB pages come from ordinary memfds, see VAC_POOL_NO_HUGE. What
 * was in it is lost when the block is onlined, and again when it leaves: then all of it is punched out.
 * Until the block is removed the file must not be shortened, nor used for anything else; it is locked
 * by flock(2) against the latter.
 *
 * Choose with care: only a memfd made with MFD_ALLOW_SEALING can be sealed. Such a one is, when its
 * block leaves: it is then empty and of length 0, and the block can be removed but not onlined again
 * (-EROFS). All others are
 * *unsealable*, as vac_block_info() says: the kernel cannot certify that nobody else reaches the memory
 * when it leaves, so a transfer that was not announced by a pin goes into the void unnoticed, and
 * whoever else may open the file sees what is in it.
 *
 * -EEXIST (number in use), -ENOSPC (max_bytes reached), -EINVAL (also: not such a file), -ENOMEM,
 * -EBUSY (the file is a block already, or locked), -EBADF, -EMFILE, -EOPNOTSUPP (no files here).
 */
int vac_block_add(struct vac_pool *pool, const struct vac_block_opts *opts);

/*
 * Create a block's memory and let the pool use it. The memory is not touched before it is needed.
 * A block in quarantine is given back first, and comes back as new memory.
 * -ENOENT (no such block), -EALREADY (not offline), -EINVAL (zone; its file is too short by now),
 * -ENOMEM, -EMFILE, -EROFS (its file has been sealed), -EBUSY (in quarantine, and still held).
 */
int vac_block_online(struct vac_pool *pool, int id, enum vac_zone zone);

/* vac_offline_opts.flags */
#define VAC_OFFLINE_BEST_EFFORT 1u /* without enough target memory, move what fits, then stop */
#define VAC_OFFLINE_DRY_RUN 2u     /* move nothing; answer what would hold it: see below */
#define VAC_OFFLINE_SWAP 8u        /* write pages to the swap file, if any, sooner than move them */
#define VAC_OFFLINE_CANCEL_IO 32u  /* cancel vac_aio_submit() requests that hold the block */
#define VAC_OFFLINE_REVOKE 16u /* ask holders of pins that keep it to let go: vac_pin_opts.revoke */
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
	/* How much of the time, in percent, threads that write all over the memory are to go on: after
	 * each pageblock that a writer has waited for, the offline pauses accordingly. 0: no pauses, it is
	 * as fast as it can be, and such writers keep about half of their speed; at most 95. Readers
	 * never need it. Pauses end when half of the timeout has passed. */
	uint32_t writers_pct;
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
	/* On failure, who holds what; free it. On success NULL, but where late bytes were lost. Of a dry
	 * run: NULL where nobody holds anything. */
	struct vac_report *report;
	uint64_t paused_ns; /* time left to writers: see writers_pct */
};

/*
 * Take a block away: move every folio to other online blocks, seal and close the block's memory. With a
 * swap file others are written out where there is no room for them, or, with VAC_OFFLINE_SWAP, those of the
 * block itself; what is pinned or locked moves all the same.
 * Other threads go on; readers are not stopped, writers wait for the page they touch, new pins
 * wait for the folios in hand. Blocks for at most the timeout and the I/O in flight. Either the
 * block is OFFLINE afterwards, or it is ONLINE exactly as before (folios that have moved stay
 * moved), or empty and in QUARANTINE (see FOREIGN). res may be NULL.
 *
 * -ENOENT (no such block), -EALREADY (not online), -EBUSY (held: pins, foreign holders, or another
 * offline of the same block), -ENOMEM (not enough memory in other online blocks, or no other online block: see
 * missing_bytes), -ETIMEDOUT (deadline, with no pin to blame), -ECANCELED.
 *
 * With VAC_OFFLINE_DRY_RUN nothing is moved, gated or made to wait, and the answer is what the call
 * would come to if all that holds the block at this moment went on holding it: 0, -EBUSY with the
 * report (pins of either kind, foreign holders, frames in quarantine), or -ENOMEM with missing_bytes
 * (with VAC_OFFLINE_BEST_EFFORT: also where only a part would leave, of possible_bytes; -EBUSY goes
 * before it). The true one waits for short pins and for transfers, so it may succeed where this
 * answers -EBUSY. Where the host does not show who holds pages (see FOREIGN), unpinned holders other than registered
 * buffers are not found, and a block in quarantine is said to be held as long as nobody has tried.
 * The calls wait for one another as true ones do.
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
	int file;                /* 1: its memory is a file that was given to vac_block_add() */
	int unsealable; /* 1: and the kernel cannot certify that nobody holds a page of it */
	uint64_t frames_quarantined; /* see FOREIGN; neither used nor free */
};

/* -ENOENT. Numbers run from 0 to below vac_block_max(); not all exist. */
int vac_block_info(struct vac_pool *pool, int id, struct vac_block_info *info);
int vac_block_max(struct vac_pool *pool);

/* ---- COMPACTION ----------------------------------------------------------------------------- */

/*
 * Huge folios need whole free pageblocks, and memory that is filled and dropped page by page leaves few:
 * each is kept by some pages. Compaction moves those pages together, into other pageblocks that are in
 * use, until whole ones are free. Collapse makes one huge folio of the 512 base folios of a pageblock of
 * addresses, after a partial unmap or protect has split it, or after it was filled page by page: in place
 * where they lie in order (nothing is copied), else by copying them into a free pageblock. It is done
 * only inside mappings that allow huge folios (not VAC_MAP_NOHUGE, VAC_ADV_NOHUGE, VAC_POOL_BASE_ONLY),
 * for pageblocks of addresses that one mapping covers.
 *
 * With VAC_POOL_COMPACT a thread of the library does both, for at most 5 % of a processor: it gathers
 * when fewer than one in 32 pageblocks are free while enough frames are, and collapses after splits.
 * Without it nothing is moved unless vac_pool_compact() is called.
 *
 * Everything else goes on meanwhile, as during an offline: readers are not stopped, writers wait for the
 * page they touch, in a collapse by copy for its pageblock (docs/PERFORMANCE.md says how long). Pinned pages stay where they are; nobody's pins are waited for. Frames that are emptied
 * are used again at once, so where the kernel does not show who holds a page (sees_holders 0, see
 * FOREIGN) only collapse in place is done, unless the program has said VAC_POOL_PINS_ONLY.
 */
#define VAC_COMPACT_GATHER 1u   /* move pages together */
#define VAC_COMPACT_COLLAPSE 2u /* make huge folios */

struct vac_compact_opts {
	size_t size;
	int64_t timeout_ms; /* 0: 10,000; below 0: none */
	uint32_t flags;     /* VAC_COMPACT_*; 0: both */
	uint32_t target;    /* stop when so many whole pageblocks are free; 0: as many as can be */
	uint32_t max_used_pct; /* leave pageblocks alone that are fuller than this; 0: 75 */
	uint32_t max_missing;  /* pages that a collapse may fill in with zeroes; below 512 */
};

struct vac_compact_result {
	size_t size;
	uint64_t free_before, free_after;   /* whole pageblocks that are free */
	uint64_t pageblocks_freed;          /* emptied; others may have used them since */
	uint64_t folios_moved, bytes_moved; /* base folios moved to gather; bytes copied in all */
	uint64_t collapsed_in_place, collapsed_by_copy;
	/* Pageblocks, or folios in them, that were left as they are: pinned; held by somebody outside the
	 * engine; in somebody's hands or shared; without a place to go, or a whole pageblock to
	 * collapse into; with more than max_missing pages missing. */
	uint64_t skipped_pinned, skipped_foreign, skipped_busy, skipped_no_room, skipped_sparse;
	uint64_t elapsed_ns, copy_ns;
};

/*
 * Gather free pageblocks and collapse, until the target is reached, nothing is left to do, or time is up.
 * Both may be NULL. Any thread; several take turns, and so do offlines. Blocks for at most the timeout
 * and the pageblock in hand. 0; -ENOMEM (all is done that can be done now, and the target is not
 * reached: see skipped_*), -ETIMEDOUT (what is done stays done), -EOPNOTSUPP (holders cannot be seen, and
 * nothing could be collapsed in place), -EINVAL.
 */
int vac_pool_compact(struct vac_pool *pool, const struct vac_compact_opts *opts,
		     struct vac_compact_result *res);

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

struct vac_snapshot_opts {
	size_t size;
	const char *name; /* at most VAC_NAME_MAX-1 bytes; NULL: "snapshot" */
};

/*
 * Another space of the same pool that shows what `space` shows at one instant of the call: the same
 * mappings, rights and bytes, at other addresses (vac_space_translate()). Memory is shared until it is
 * written, on either side: see SNAPSHOTS. Other threads go on; those that write to `space`, fault in it
 * or change its mappings wait, which takes microseconds a GiB where folios are huge. The snapshot is a
 * space like any other: it can be written, changed, pinned, snapshotted again, and ends by
 * vac_space_destroy(), before or after `space` does.
 *
 * opts may be NULL. Any thread. -EINVAL (opts), -ENOMEM (addresses, host mappings; or memory to copy
 * what is pinned, with swap too if no more of it can be made: nothing has changed), -ENOSPC (4096 spaces
 * exist), -EOVERFLOW (a page is shared by half a million already), -EPERM (after fork).
 */
int vac_space_snapshot(struct vac_space *space, const struct vac_snapshot_opts *opts,
		       struct vac_space **snapshot);

/*
 * Where an address of one space lies in another that was born of it, or of which it was born, or that
 * has the same ancestor. NULL: addr is not in `from`, or the two are not related. Neither blocks nor
 * looks whether anything is mapped there.
 */
void *vac_space_translate(struct vac_space *from, const void *addr, struct vac_space *to);

/*
 * The space whose addresses hold addr, NULL if none's do; and the pool of a space. Nothing is held:
 * who asks knows that the space is not being destroyed. Neither blocks nor takes a lock; NULL in a
 * child of fork().
 */
struct vac_space *vac_space_of(const void *addr);
struct vac_pool *vac_space_pool(struct vac_space *space);

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

/*
 * madvise(2)'s advice. -EINVAL: a range or advice that is none; -ENOMEM: not all of the range is mapped; the rest
 * is done all the same, but for HUGE and NOHUGE, which then change nothing.
 */
enum vac_advice {
	/* Fill in now what was never there; also -ENOMEM where memory ran out. What is in the swap file is
	 * begun to be read, as much as half of the memory takes, and the call does not wait for it: whoever
	 * touches it meanwhile does, and learns if it cannot be read. */
	VAC_ADV_WILLNEED = 1,
	/* Drop the contents, those in the swap file too: zeroes on the next touch. Gaps are no error.
	 * -EBUSY as vac_unmap(); -EINVAL if vac_lock() has locked a part of it: nothing is dropped then. */
	VAC_ADV_DONTNEED,
	VAC_ADV_HUGE,   /* from now on fill with huge folios where possible: see COMPACTION too */
	VAC_ADV_NOHUGE, /* from now on fill with base folios; what is there stays */
	/* Not needed soon: where memory is wanted it goes to the swap file before all else, unless it is
	 * touched before; that touch costs a fault. Nothing is lost, and without a swap file nothing
	 * happens. What is pinned, or shared with a snapshot, is left alone; a page that is moved meanwhile
	 * is like any other again. -EINVAL as VAC_ADV_DONTNEED. */
	VAC_ADV_COLD,
	/* The range holds wait words that processes share (mutexes, condition variables, semaphores that are
	 * PTHREAD_PROCESS_SHARED, futexes without FUTEX_PRIVATE_FLAG): keep its pages where they are, in normal
	 * memory if there is any, and name them in reports (VAC_HELD_WAITWORDS), as if pinned for long by
	 * "process-shared wait words". Until NOWAITWORDS, DONTNEED or vac_unmap(); -EBUSY as for pinned memory
	 * where that cuts through a huge folio. -ENOMEM: a part is not mapped. */
	VAC_ADV_WAITWORDS,
	VAC_ADV_NOWAITWORDS,
};
int vac_advise(struct vac_space *space, void *addr, size_t len, enum vac_advice advice);

/*
 * Bring a range in, and keep it out of swap from now on; it may still move. Every page of it must be mapped.
 * Locks do not add up: one vac_unlock() ends it, as does unmapping. They hold for this space: a snapshot of it
 * has none. A write to what it shares still takes a copy, which needs memory at that moment. -ENOMEM: not mapped, or not enough
 * memory; then nothing of the range is locked, though what was brought in is there. -EIO, -EINVAL.
 */
int vac_lock(struct vac_space *space, void *addr, size_t len);
int vac_unlock(struct vac_space *space, void *addr, size_t len);

struct vac_page_info {
	size_t size;
	int present; /* 0: nothing there yet, 1: a folio, 2: one that is leaving, 3: in swap */
	int huge;
	int block; /* block number, -1 if not present */
	uint64_t pfn; /* frame number in the pool of the page (not of the folio's head): in the block's memory,
		       * vac_block_info.fd, it lies at pfn * 4096 modulo the block's bytes */
	uint32_t refs, pins, map; /* of the folio */
};
/* What backs one address, at this moment. -EFAULT: not mapped. */
int vac_page_info(struct vac_space *space, const void *addr, struct vac_page_info *info);

/*
 * A touch that found no memory. The thread gets SIGBUS at the address (si_code BUS_ADRERR; under
 * userfaultfd that or BUS_MCEERR_AR, or EFAULT in the middle of a system call; and so does every touch
 * of the page for 20 milliseconds), and an operator has to learn which limit it was: before the signal is sent, the pool's log gets
 * `text` as VAC_LOG_ERROR, and the pool keeps the record for vac_last_fault().
 *
 * The engine's SIGBUS has si_errno ENOMEM, or EIO where a page is in swap and cannot be read (under userfaultfd it is 0, and the record tells). One with
 * si_errno 0 and no record is the kernel's: the memory beneath a
 * page that was there has gone, because somebody truncated or poisoned a block's memfd, or the host
 * ran out of memory in spite of all; the pool's contents cannot be trusted any more.
 */
enum vac_refusal {
	VAC_REFUSED_POOL = 0, /* no free frame in online blocks; limit, used: their bytes */
	VAC_REFUSED_CGROUP,   /* a memory cgroup is full: where, limit, used, need in bytes */
	VAC_REFUSED_HOST,     /* the host is: limit (all memory), used (not available), need */
	VAC_REFUSED_MAPPINGS, /* the engine's share of vm.max_map_count; limit, used: mappings */
	VAC_REFUSED_KERNEL,   /* the kernel refused although there seemed to be enough */
	VAC_REFUSED_LOST,     /* an error of the engine: see vac_pool_stats.dangling; err is -EIO */
	VAC_REFUSED_SWAP,     /* the page is in the swap file, which cannot be read; err is -EIO */
};

struct vac_fault_info {
	size_t size;
	uint64_t count; /* faults refused since the pool was opened, this one included */
	uintptr_t addr;
	int write; /* 0: a read */
	int err;   /* -ENOMEM, -EIO */
	enum vac_refusal why;
	uint32_t tid; /* of the thread that got the signal */
	uint64_t limit, used, need;
	char space[VAC_NAME_MAX];
	char where[128]; /* directory of the cgroup; "" for the other reasons */
	char text[384];  /* all of this as a sentence */
};

/* The last touch that was refused. May be called from a SIGBUS handler. -ENOENT: none was. */
int vac_last_fault(struct vac_pool *pool, struct vac_fault_info *info);

/* ---- Pins ----------------------------------------------------------------------------------- */

#define VAC_PIN_READ 0u     /* the holder only reads the memory */
#define VAC_PIN_WRITE 1u    /* the holder writes it; the mapping must allow that */
#define VAC_PIN_LONGTERM 2u /* held for longer than an I/O: offline does not wait; see below */
#define VAC_PIN_STACK 4u    /* record this call's stack */
#define VAC_PIN_NOWAIT 8u   /* -EAGAIN where the call would wait for a gate (not for a copy) */
#define VAC_PIN_STRICT 16u  /* with LONGTERM: fail rather than stay in movable memory */

/*
 * Pin every folio of [addr, addr+len): fill it in, and keep it where it is until vac_unpin(). No
 * alignment needed. All or nothing. The owner's name is copied (cut at VAC_OWNER_MAX-1 bytes)
 * and shown, with thread, time and address, in every report from this moment on; NULL: "?".
 * *pin gets a handle that any thread may use once. If all pages are present and none is
 * leaving, the call takes no lock and makes no system call; else it may block: for a migration,
 * or for a gate, holding nothing of its own meanwhile (at most gate_timeout_ms a time).
 *
 * With VAC_PIN_LONGTERM what lies in movable memory, or in a block that is leaving, is first moved to a block
 * of VAC_ZONE_NORMAL, where it is in nobody's way; this call holds no pin meanwhile, and may wait for short
 * pins of others, or for an offline, for gate_timeout_ms. Pages that came so lie together, take at most
 * longterm_pct of normal memory, and go back when their last such pin has gone. Where they cannot be moved
 * (no normal memory, its share used up: -ENOMEM; held by others, a whole offline long perhaps: -EBUSY; the
 * host does not show who holds a page, see FOREIGN: -EOPNOTSUPP), the pin is taken all the same where they are: the log is told
 * once a call site, vac_pin_result, vac_owner and the statistics say so. With VAC_PIN_STRICT the call fails
 * instead, with -ENOMEM or -EBUSY. Where there is no movable memory all this costs nothing.
 *
 * Do not take a pin while holding another one whose release depends on this one: a gate then ends
 * only by its timeout. (With VAC_PIN_NOWAIT you may: on -EAGAIN drop what you hold, and begin
 * anew.)
 *
 * -EINVAL (length 0 or overflowing, flags), -EFAULT (outside the space, or a part is not mapped
 * or does not allow the access), -ENOMEM, -EIO (in swap, and cannot be read), -EOVERFLOW (2^19 pins on one folio), -EAGAIN (only with
 * VAC_PIN_NOWAIT).
 */
int vac_pin(struct vac_space *space, const void *addr, size_t len, unsigned flags,
	    const char *owner, uint64_t *pin);

/*
 * A pin that can move: its holder, asked by vac_block_offline(), lets go for a moment, and goes on with
 * the new frames. For pins that last, where waiting is no use: registered buffers, rings, device queues.
 *
 * Callbacks run in a thread of the pool's own, one at a time as a rule, with no lock of the engine held
 * and all signals blocked but those of faults: pool memory may be touched. They may call vac_unpin() and
 * what only reads (vac_page_info(), vac_block_info(), vac_pool_stats()); no other call on this pool. ctx and pin are those
 * of vac_pin_with(), which may not have returned yet when the first one comes (*pin is set by then).
 */
struct vac_relocate_ops {
	size_t size;
	/* 0: until resume() nothing reaches the memory through the pin, and nobody holds its frames: the
	 * kernel neither, so what was registered with it is unregistered (else the offline finds the holder,
	 * and the page stays). Waiting here for transfers under way is fine. -EAGAIN: not now, ask again in a
	 * moment; other values refuse, for this offline. */
	int (*quiesce)(void *ctx, uint64_t pin);
	/* [addr, addr+len), a part of what was pinned, has new frames, which the pin holds: register them.
	 * Once for each such run of addresses. It cannot be undone: an error is told to the log, and to the
	 * report of a later offline. */
	int (*repoint)(void *ctx, uint64_t pin, void *addr, size_t len);
	/* Once after each quiesce() that has answered 0, whether anything has moved or not; not if the pin was
	 * dropped meanwhile. */
	void (*resume)(void *ctx, uint64_t pin);
	/* One call that takes longer is given up: its page stays, the report names the owner, and the offline
	 * goes on. When it returns, what is then missing (repoint, resume) is called. 0: 1000. */
	uint32_t timeout_ms;
};

struct vac_pin_opts {
	size_t size;
	unsigned flags; /* VAC_PIN_* */
	const char *owner;
	/* Copied. With it the pin counts as VAC_PIN_LONGTERM, and stays in the memory where it is. */
	const struct vac_relocate_ops *relocate;
	/* Asked by an offline with VAC_OFFLINE_REVOKE, once, when the pin keeps its block: to let go. The owner
	 * calls vac_unpin() now or later and answers 0, or a negative value: it will not. Nothing is forced.
	 * As the callbacks above. */
	int (*revoke)(void *ctx, uint64_t pin);
	void *ctx;
};

struct vac_pin_result {
	size_t size;
	uint32_t migrated;       /* folios that were moved to normal memory first */
	uint32_t unmovable_kept; /* folios that stay in movable memory, as they could not be moved */
	int kept_error;          /* why: a negative errno value */
};

/*
 * vac_pin() with more to say. res may be NULL. Errors: those of vac_pin(), -EINVAL (a size, or a callback is
 * missing), -ENOMEM (a thread for the callbacks too).
 */
int vac_pin_with(struct vac_space *space, const void *addr, size_t len,
		 const struct vac_pin_opts *opts, struct vac_pin_result *res, uint64_t *pin);

/*
 * Drop a pin. Call it only when nobody will touch the memory through it again. -EINVAL: not a pin
 * of this pool, or dropped already (nothing is changed). Never blocks beyond short engine locks; but if
 * the pin has callbacks, it waits for one of its own that is running (not if called by that), and for its
 * pages that are being copied. After it none is called any more: so hold no lock that they take.
 */
int vac_unpin(struct vac_pool *pool, uint64_t pin);

/* ---- System calls on pool memory: vac_prefault(), vac_read(), vac_recv(), ... ------------------ */

#include "vacate_io.h"

/* ---- Direct I/O contexts: vac_aio_*() --------------------------------------------------------- */

#include "vacate_aio.h"

/* ---- Reports -------------------------------------------------------------------------------- */

enum vac_blocker_class {
	VAC_HELD_SHORT_PIN = 0,
	VAC_HELD_LONG_PIN,
	VAC_HELD_REFERENCE,  /* somebody holds the folio itself, for a moment or by mistake */
	VAC_HELD_NO_TARGET,  /* no memory to move it to */
	VAC_HELD_FOREIGN,    /* somebody outside the engine holds a page: see FOREIGN */
	VAC_HELD_HOST_LIMIT, /* the host's limit on mappings */
	VAC_HELD_BUSY,       /* being filled, split or moved by another thread */
	VAC_HELD_LATE,       /* bytes came late for this page, which is pinned: see FOREIGN */
	VAC_HELD_LOST, /* bytes came late, and the program has written the same ones: FOREIGN */
	VAC_HELD_RELOCATABLE, /* pins that can move, whose holders an offline would ask */
	VAC_HELD_REFUSED,     /* one of them has refused, or took too long: vac_owner.error */
	VAC_HELD_WAITWORDS,   /* declared to hold process-shared futexes: VAC_ADV_WAITWORDS */
};
const char *vac_blocker_class_name(enum vac_blocker_class cls); /* "short pin", ... */

/* vac_owner.flags, besides VAC_PIN_* */
#define VAC_OWNER_RELOCATABLE 0x100u /* the pin has vac_relocate_ops */
#define VAC_OWNER_REVOCABLE 0x200u   /* and this one a revoke callback */
#define VAC_OWNER_WAITWORDS 0x800u   /* the engine's own, for VAC_ADV_WAITWORDS */
#define VAC_OWNER_KEPT 0x400u /* long-term, and in movable memory all the same: error says why */

struct vac_owner {
	char owner[VAC_OWNER_MAX];
	uint32_t tid;
	char thread[16]; /* the thread's name, "" if it has ended */
	uint32_t flags;  /* VAC_PIN_*, VAC_OWNER_* */
	uint64_t age_ns;
	uintptr_t addr; /* what was pinned */
	uint64_t len;
	unsigned stack_depth; /* return addresses, innermost first; 0 if not recorded */
	uintptr_t stack[VAC_STACK_MAX];
	/* What a callback of the pin has answered last, -ETIMEDOUT: one took, or takes, too long. 0: none has
	 * failed. With VAC_OWNER_KEPT: why it is there. */
	int error;
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

/* ---- Control -------------------------------------------------------------------------------- */

/*
 * A door for operators, opened only where the program asks for it: a local socket through which the
 * command (vacate ls, why, offline, online, add, remove) works on the pool of the running program.
 * Who may open the door may take the pool's memory away and learn owners' names and code addresses;
 * it shows no byte of memory. It is for the same user and root: the socket has mode 0600, in a
 * directory of mode 0700 that is opened without following a symbolic link, and who connects is
 * asked of the kernel. docs/CONTROL.md describes the protocol, its limits, and what is trusted.
 *
 * A thread of the library serves it, and one more for each operation under way (at most 16), with
 * all signals blocked. A client that goes away in the middle of an offline cancels it, unless it was
 * detached; what else it had asked for is done. A child of fork() has no control.
 */
struct vac_control;

struct vac_control_opts {
	size_t size;
	/* The socket, whose directory is made if it is missing (its last part). NULL: PID-POOL.sock
	 * in $XDG_RUNTIME_DIR/vacate, else /run/user/UID/vacate, else /tmp/vacate-UID: there the
	 * command finds it by itself. */
	const char *path;
	uint32_t flags; /* 0 */
};

/*
 * Open a control socket for a pool. opts may be NULL. A socket that is there already is replaced if
 * nobody listens on it any more. Errors: -EINVAL, -ELOOP (a part of the path is a symbolic link),
 * -EACCES (the directory is not of this user, or open to others), -EADDRINUSE (another program, or
 * pool, listens there), -EEXIST (something else has that name), -ENAMETOOLONG, -EAGAIN (the directory
 * was locked for a second), -ENOMEM, -EMFILE, or what the host says about the path; -EPERM (after
 * fork).
 */
int vac_control_open(struct vac_pool *pool, const struct vac_control_opts *opts,
		     struct vac_control **control);

/* The socket's path. Lives as long as the control. */
const char *vac_control_path(const struct vac_control *control);

/*
 * Close it: clients are hung up on, offlines that they had asked for are cancelled, also detached
 * ones. Blocks until the operations under way have ended. Before vac_pool_close(), which answers
 * -EBUSY while a control is open. NULL is fine.
 */
int vac_control_close(struct vac_control *control);

#ifdef __cplusplus
}
#endif
#endif /* VACATE_H */

/* SPDX-License-Identifier: MIT */
/*
 * All that a platform provides to the engine in src/.
 *
 * Two kinds of thing. Time, threads, waiting and metadata memory are bound when the program is
 * linked (the engine is built once a port). Memory operations are a table that a pool is opened
 * with, so that a wrapper which injects faults stacks over either port.
 *
 * Preconditions of every call here, stated once:
 *  - addresses and lengths are multiples of VAC_PAGE_BYTES, lengths are not 0, no overflow;
 *  - a range lies inside one reservation, a backing offset inside its backing;
 *  - calls that name overlapping ranges of a space, or one backing, are serialised by the engine,
 *    except that several pageblocks of one backing may be populated at once;
 *  - signals are blocked and cancellation is disabled in the caller (vac__port_enter);
 *  - a call neither sleeps on an engine lock nor calls back into the engine;
 *  - answers are 0 or a negative errno value; a call that fails has changed nothing that the
 *    engine can observe, unless said otherwise.
 */
#ifndef VAC_PORT_H
#define VAC_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Bound when linked ---------------------------------------------------------------------- */

/* Nanoseconds of a clock that never steps; the coarse one costs a few nanoseconds and may lag by a
 * scheduler tick. */
uint64_t vac__port_now(void);
uint64_t vac__port_now_coarse(void);

/* Processor time that the calling thread has used, in nanoseconds; costs a system call. */
uint64_t vac__port_now_thread(void);

uint32_t vac__port_tid(void); /* cached in the thread; no system call after the first */

/*
 * Sleep while *addr == expect, until woken or until the clock reaches deadline_ns (0: no end).
 * 0 when woken (perhaps for nothing), -EAGAIN if the value differed, -ETIMEDOUT. The comparison and
 * the falling asleep are one step against vac__port_wake() on the same address.
 */
int vac__port_wait(const _Atomic uint32_t *addr, uint32_t expect, uint64_t deadline_ns);

/* Wake up to n threads waiting on addr; answers how many. The memory need not exist any more. */
int vac__port_wake(const _Atomic uint32_t *addr, int n);

void vac__port_relax(void); /* in a short busy loop */

/* Copy whole pages of folios through the direct map; they do not overlap. When it answers, the copy
 * is visible to whoever sees a later store of the caller. */
void vac__port_copy(void *dst, const void *src, size_t bytes);

/* A sum of each eighth of a page, such that different bytes have different sums, as far as can be had in
 * 64 bits. The page may be written meanwhile: then the sums are of something or other. */
void vac__port_sums(const void *page, uint64_t sum[8]);

/* vac__port_copy() of one page, with the sums of the bytes that have arrived. */
void vac__port_copy_sums(void *dst, const void *src, uint64_t sum[8]);

/* Block all signals and disable cancellation, as every path that takes a lock does first. Nests. */
struct vac__port_saved {
	uint64_t mask[16]; /* room for a sigset_t */
	int cancel;
};
void vac__port_enter(struct vac__port_saved *saved);
void vac__port_leave(const struct vac__port_saved *saved);

/*
 * A thread of the engine's own: all signals blocked, no cancellation, a stack of 200 KiB at least. name:
 * static storage, at most 15 bytes. join waits for its end and must be called. -ENOMEM.
 */
int vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *thread);
void vac__port_thread_join(uintptr_t thread);
/* The calling thread, one of those, is about to run what may touch the memory of pools: let the signals
 * of its own faults through. */
void vac__port_thread_touches(void);

bool vac__port_forked(void); /* true in a child of fork(): the pool is not here */

/*
 * What the engine does around a fork(); set once. prepare runs in the forking thread before it, last
 * of all handlers that know of ours, with all signals blocked; if it answers true, signals other
 * than those of the thread's own faults stay blocked, and after the fork parent runs in the parent
 * (also if there is no child) and child in the child, before other handlers.
 */
struct vac__fork_ops {
	bool (*prepare)(void);
	void (*parent)(void);
	void (*child)(void);
};
void vac__port_on_fork(const struct vac__fork_ops *ops);
/* In the thread that forks, between prepare and parent; or in one that serves a touch which that thread
 * has made since prepare. */
bool vac__port_in_fork(void);

/*
 * Private memory that a child inherits: zero, 2 MiB aligned, of which `touch` bytes will be touched.
 * NULL where there is no room for these. size: before the touch, by how large host pages.
 * In a child: place moves a part of it to addr, where nothing is, with rights prot; deny makes any
 * touch there a SIGBUS. place: 0, or an error.
 */
void *vac__port_bequest(size_t bytes, size_t touch);
void vac__port_bequest_free(void *p, size_t bytes);
void vac__port_bequest_size(void *p, size_t bytes, bool huge);
int vac__port_bequest_place(void *addr, size_t bytes, void *from, unsigned prot);
void vac__port_bequest_deny(void *addr, size_t bytes);

/* A broken invariant. Says so where the platform says such things, and stops the program. */
_Noreturn void vac__port_panic(const char *file, int line, const char *what);

/*
 * Memory for the engine's own tables: zero when first touched, costs nothing before. Not inherited
 * by a child. NULL when there are no addresses left. discard gives the memory under a range back
 * and makes it zero again, keeping the addresses.
 */
void *vac__port_meta_reserve(size_t bytes);
void vac__port_meta_discard(void *p, size_t bytes);
void vac__port_meta_release(void *p, size_t bytes);
/* The same for a table of which large parts may never be used. A core dump leaves it out but for the
 * parts that table_dense has named (rounded as the port likes). */
void *vac__port_table_reserve(size_t bytes);
void vac__port_table_release(void *p, size_t bytes);
void vac__port_table_dense(void *p, size_t bytes, size_t off, size_t part);

/* Return addresses of the caller's callers, innermost first; answers how many. Signal-safe. */
unsigned vac__port_stack(uintptr_t *pc, unsigned max);

/* For reports; never fail, "" when unknown. */
void vac__port_thread_name(uint32_t tid, char *buf, size_t bytes);
void vac__port_symbol(uintptr_t pc, char *buf, size_t bytes);

/*
 * Host mappings (VMAs) of the whole process. charge books n more before the call that may create
 * them: false if that would pass the limit (force: book all the same, for what cannot fail any
 * more). n may be negative. The engine books what it maps in spaces; reservations and direct maps
 * are booked by the port itself. The limit leaves a tenth of the host's to others and what the process
 * used when the first pool was opened.
 */
bool vac__port_vma_charge(long n, bool force);
void vac__port_vma_usage(uint64_t *used, uint64_t *limit);

/*
 * What the calling thread's last -ENOMEM was for want of. The port notes it; the engine clears the
 * kind before, and reads it after.
 */
struct vac__lack {
	enum {
		VAC__LACK_NONE,
		VAC__LACK_CGROUP,   /* bytes; where: its directory */
		VAC__LACK_HOST,     /* bytes */
		VAC__LACK_MAPPINGS, /* host mappings */
		VAC__LACK_KERNEL,   /* there seemed to be enough of everything */
	} kind;
	uint64_t limit, used, need;
	char where[128];
};
struct vac__lack *vac__port_lack(void);

/* The thread's stack of held lock ranks; only debug builds use it. */
#define VAC__HELD_MAX 16
struct vac__held {
	unsigned depth;
	unsigned folios; /* folio locks held: a migrator takes many, by trylock */
	struct {
		const void *lock;
		unsigned rank;
	} e[VAC__HELD_MAX];
};
struct vac__held *vac__port_held(void);

/* ---- The memory of a pool: a run-time table ------------------------------------------------- */

#define VAC__READ 1u
#define VAC__WRITE 2u

/* Of a mapping: only to be read at first, while a write, also one that the kernel makes, reaches the
 * engine, and can be let in page by page (allow) without a host mapping more. For platforms with
 * VAC_GUARD_USERFAULTFD only. */
#define VAC__WATCH 4u

/* Of what is shown: blinded, see blind. Told to leave and stay; to map, of what it replaces, if that was blind
 * or watched: writers that wait for it are told. */
#define VAC__BLIND 8u

#define VAC__WAITS 0u

/* What the engine does with a touch the host refused. access: VAC__READ or VAC__WRITE; VAC__WAITS: the
 * host makes a writer wait by itself, for a leaving page or a watched one, and says so (perhaps from a
 * thread that must not take a lock): 0: it will be mapped anew; else it wants the engine, in a call with
 * VAC__WRITE. Of these: 0: try the access again. -EFAULT: not allowed (a true SIGSEGV). -ENOMEM: no memory (SIGBUS);
 * -EIO: its contents are lost, or cannot be read (SIGBUS). */
typedef int vac__fault_fn(void *arg, uintptr_t addr, unsigned access);

struct vac__backing { /* the memory of one block; filled by block_open */
	int fd;       /* for the user's eyes, -1 if there is none */
	size_t bytes;
	void *direct;    /* where it is mapped for the engine, NULL if not */
	bool file;       /* made by block_open_file */
	bool unsealable; /* block_seal cannot certify anything: it answers 0 all the same */
	size_t granule;  /* smallest run that can be mapped by itself: 4 KiB or 2 MiB */
	uintptr_t priv;
};

/* A file that is to be a block's memory. */
struct vac__file {
	int fd; /* the port's own */
	bool locked;
	bool unsealable;
	uint64_t id[2]; /* equal for equal files */
};

/* A swap file. */
struct vac__swapfile {
	int fd; /* the port's own */
	uint64_t bytes;
	uintptr_t priv;
};

/* One piece of a transfer: frames that follow one another, in a direct map or in a bequest. */
struct vac__swap_run {
	void *mem;
	uint64_t off;
	size_t bytes;
	int err;                /* answer: 0: all of it; a short transfer is -EIO */
	_Atomic uint32_t *left; /* the port's own: how many runs of the call are not done yet */
};

/* ---- Direct I/O --------------------------------------------------------------------------------- */

enum vac__io_op { VAC__IO_NONE, VAC__IO_READ, VAC__IO_WRITE, VAC__IO_FSYNC, VAC__IO_FDSYNC };

struct vac__io_seg { /* laid out as struct iovec */
	void *mem;
	size_t bytes;
};

/* A request. The engine's until io_submit() has taken it, and again once io_collect() has answered it; the
 * port's own in between, memory and segments included. */
struct vac__ioreq {
	enum vac__io_op op;
	int fd;
	uint64_t off;
	struct vac__io_seg *seg;
	uint32_t nr_seg; /* at most VAC__IO_SEGS */
	uint32_t buffer; /* slot + 1 of io_buffer() whose part the only segment is, 0: none */
	int32_t res;     /* answer: bytes, or a negative errno value; -ECANCELED */
	/* The port's own. */
	struct vac__ioreq *next, *prev;
	_Atomic uint32_t cancel; /* 1: io_cancel() was called for it */
	uint32_t state;
};
#ifdef VAC_SIM
#define VAC__IO_SEGS 16u
#else
#define VAC__IO_SEGS 1024u
#endif
#define VAC__IO_BUFFERS 1024u
#define VAC__IO_THREADS 1u /* of io_open: without the host's queues */

struct vac__mem_ops {
	/* One a pool. guard: enum vac_guard, answers the one chosen in *guard. -EOPNOTSUPP or -EACCES: the
	 * host does not have it, or does not allow it to us. */
	int (*open)(void **ctx, const char *name, int *guard, unsigned pool_flags);
	void (*close)(void *ctx);
	/* Threads of the port's own may still be at work for a touch whose thread has gone on, or has
	 * ended: wait for them. */
	void (*quiet)(void *ctx);

	/* Create the memory of block id, not yet touched; map it at direct (a reservation of
	 * direct_reserve). -ENOMEM, -EMFILE. */
	int (*block_open)(void *ctx, int id, size_t bytes, void *direct, struct vac__backing *b);
	/* The same on a file, whose contents are lost. May be NULL, as the next three. -EINVAL (too short
	 * by now), -EROFS (sealed). */
	int (*block_open_file)(void *ctx, const struct vac__file *f, size_t bytes, void *direct,
			       struct vac__backing *b);
	/* Take a file that can be a block of so many bytes: duplicate it. -EINVAL (it cannot), -EBADF,
	 * -EMFILE. lock it against others, once it is known not to be a block of ours: -EBUSY. */
	int (*file_take)(void *ctx, int fd, size_t bytes, struct vac__file *f);
	int (*file_lock)(void *ctx, struct vac__file *f);
	void (*file_drop)(void *ctx, struct vac__file *f);
	/* Make the pageblock at offset off resident and zero: by one 2 MiB host page where the host
	 * gives one. 1: huge, 0: base pages, -ENOMEM. Only for pageblocks never populated before. */
	int (*block_populate)(void *ctx, struct vac__backing *b, size_t off);
	/* Every view but the direct map is gone. Unmap that too, and have the platform certify that
	 * nobody can reach the memory any more. 0, or -EBUSY: a foreign holder; the direct map is
	 * then back as it was. keep: leave the memory to be read at direct until block_close, NULL if
	 * that is not to be had. *resident: bytes that the backing held. */
	int (*block_seal)(void *ctx, struct vac__backing *b, bool keep, uint64_t *resident);
	/* Unmap the direct map if need be and free the memory. */
	void (*block_close)(void *ctx, struct vac__backing *b);

	/* Does anybody but the engine's own mappings hold a page of [off, off+bytes)? 0: nobody did at
	 * some moment of the call. 1: somebody does, or may; *at is the offset of a first such page.
	 * Negative: the host does not let us know. An exact answer counts holders of every kind, those
	 * that no mapping leads to included. Whoever asks has stopped new ones before, as far as they
	 * matter. shown: where a space shows the range, for what the host knows by address; or NULL. */
	int (*held)(void *ctx, struct vac__backing *b, size_t off, size_t bytes, const void *shown,
		    size_t *at);
	/* Does held() tell, as a rule? */
	bool (*sees)(void *ctx);
	/* Who that may be, for a report: a few words, and a thread if it is known to be one. */
	void (*holder)(void *ctx, const void *shown, size_t bytes, char *text, size_t max,
		       uint32_t *tid);

	/* Addresses for direct maps: aligned to align, PROT_NONE. */
	int (*direct_reserve)(void *ctx, size_t bytes, size_t align, void **addr);
	void (*direct_release)(void *ctx, void *addr, size_t bytes);

	/* Addresses for a space, 2 MiB aligned, no access; touches go to fn(arg, ...) from now on.
	 * release waits until no fault on the range is being served. */
	int (*space_reserve)(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg, void **addr);
	void (*space_release)(void *ctx, void *addr, size_t bytes);

	/* Replace whatever addr shows by the backing's memory at off, with rights prot. May need two
	 * host mappings more than before; needs none if [addr, addr+bytes) was prepared by leave. */
	int (*map)(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		   unsigned prot);
	/* Change rights of present pages. Fails only for want of a host mapping, so not where both
	 * ends of the range are borders of host mappings already. */
	int (*protect)(void *ctx, void *addr, size_t bytes, unsigned prot);
	/* The run is about to be replaced: stop writers (readers go on), and split host mappings at
	 * both ends, so that a map of exactly this range cannot fail for want of them. When it
	 * answers, no CPU holds a writable translation any more. prot: rights the pages have now;
	 * 0: make the splits only and leave the rights as they are. */
	int (*leave)(void *ctx, void *addr, size_t bytes, unsigned prot);
	/* The run, or a part of it that shows the backing's memory from off on, does not leave after
	 * all: its former rights again, and joined with its neighbours where it can be. prot 0, b NULL:
	 * it was only split, and its rights are what they were. Cannot fail. */
	void (*stay)(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		     unsigned prot);
	/* Let writers into a part of what is shown with VAC__WATCH, or of what reveal has shown to be read;
	 * those that wait are told. May fail for want of memory. NULL where there is no VAC__WATCH. */
	int (*allow)(void *ctx, void *addr, size_t bytes);
	/* The range, whose ends are borders of host mappings, stays mapped as it is, but every touch of it,
	 * the kernel's too, reaches the engine, as of a hole. When it answers, no CPU holds a translation.
	 * Those that wait for a page of it are told. It takes no host mapping more. An error: only some of
	 * it, or none, may be blind, and the caller must make a hole of it. NULL where there is no
	 * VAC__WATCH. */
	int (*blind)(void *ctx, void *addr, size_t bytes);
	/* Show a part of what is blind, with rights prot, at the price of no host mapping; a write to what
	 * is shown to be read reaches the engine, as with VAC__WATCH. Pages that are shown stay as they
	 * are. The host may forget what was shown, and ask again. -ENOMEM. */
	int (*reveal)(void *ctx, void *addr, size_t bytes, unsigned prot);
	/* Back to the bare reservation: a touch is not allowed. */
	int (*unmap)(void *ctx, void *addr, size_t bytes);
	/* Nothing is shown, but a touch is allowed and reaches the engine (for a platform that tells
	 * these two apart by the host's rights; else the same as unmap). fresh: the range is bare; if
	 * not, no touch may be lost meanwhile. At most one host mapping more than bare. */
	int (*hole)(void *ctx, void *addr, size_t bytes, bool fresh);

	/* Take a file of so many bytes for swap: duplicate it. All three may be NULL: no swap.
	 * -EINVAL (not a file for that, or too short), -EBADF, -EMFILE, -ENOMEM. */
	int (*swap_open)(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f);
	/* No transfer is under way. */
	void (*swap_close)(void *ctx, struct vac__swapfile *f);
	/* Read or write all runs, in any order, and wait for all of them. What a write that failed
	 * leaves in the file, and a read in the memory, is anything. Any number of threads at once;
	 * no two touch the same bytes of the file or the memory. */
	void (*swap_io)(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
			unsigned n);

	/*
	 * A device that does requests; io_open may be NULL: none here. All that follow may be called by any number
	 * of threads at once, but close, when no request is under way and nobody else is in a call.
	 * *native: whether the host does them, or threads of the port's. -ENOMEM, -EMFILE.
	 */
	int (*io_open)(void *ctx, unsigned flags, uintptr_t *dev, bool *native);
	void (*io_close)(void *ctx, uintptr_t dev);
	/* Begin requests, the first ones of those given: answers how many. Does not wait for their end. A request goes on
	 * when the thread that has begun it ends. */
	unsigned (*io_submit)(void *ctx, uintptr_t dev, struct vac__ioreq **io, unsigned n);
	/* Ask for one to end, which has begun and was not answered by io_collect() yet: it is answered all the same. This,
	 * and a kick, arrives: they take as long as the host is short of memory for them (an error of another kind,
	 * which no host is known to give, would lose them). */
	void (*io_cancel)(void *ctx, uintptr_t dev, struct vac__ioreq *io);
	/* Wait until requests have ended, a deadline (0: none), a signal or a kick; answers how many were put into done. One
	 * thread at a time, of which nothing is asked: signals may be unblocked. */
	unsigned (*io_collect)(void *ctx, uintptr_t dev, struct vac__ioreq **done, unsigned max,
			       uint64_t deadline_ns);
	/* Whoever is in io_collect(), or comes next, does not wait. */
	void (*io_kick)(void *ctx, uintptr_t dev);
	/* Memory in a slot, for requests to come; in place of what was there, which no request uses. NULL: none, and
	 * what was there is held no longer when it answers: the host's being short of memory is waited out. May be
	 * NULL. Errors: as the host likes. */
	int (*io_buffer)(void *ctx, uintptr_t dev, unsigned slot, void *mem, size_t bytes);
	/* A descriptor of the port's own for the same file, or a negative errno value; and its end. */
	int (*io_file)(void *ctx, int fd);
	void (*io_file_drop)(void *ctx, int fd);
};

extern const struct vac__mem_ops vac__port_mem_ops;

#endif /* VAC_PORT_H */

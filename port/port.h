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

/* Block all signals and disable cancellation, as every path that takes a lock does first. Nests. */
struct vac__port_saved {
	uint64_t mask[16]; /* room for a sigset_t */
	int cancel;
};
void vac__port_enter(struct vac__port_saved *saved);
void vac__port_leave(const struct vac__port_saved *saved);

bool vac__port_forked(void); /* true in a child of fork(): the pool is not here */

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

/* What the engine does with a touch the host refused. access: VAC__READ or VAC__WRITE. 0: try the
 * access again. -EFAULT: not allowed (a true SIGSEGV). -ENOMEM: no memory (SIGBUS). */
typedef int vac__fault_fn(void *arg, uintptr_t addr, unsigned access);

struct vac__backing { /* the memory of one block; filled by block_open */
	int fd;       /* for the user's eyes, -1 if there is none */
	size_t bytes;
	void *direct;   /* where it is mapped for the engine, NULL if not */
	size_t granule; /* smallest run that can be mapped by itself: 4 KiB or 2 MiB */
	uintptr_t priv;
};

struct vac__mem_ops {
	/* One a pool. guard: enum vac_guard, answers the one chosen in *guard. */
	int (*open)(void **ctx, const char *name, int *guard, unsigned pool_flags);
	void (*close)(void *ctx);

	/* Create the memory of block id, not yet touched; map it at direct (a reservation of
	 * direct_reserve). -ENOMEM, -EMFILE. */
	int (*block_open)(void *ctx, int id, size_t bytes, void *direct, struct vac__backing *b);
	/* Make the pageblock at offset off resident and zero: by one 2 MiB host page where the host
	 * gives one. 1: huge, 0: base pages, -ENOMEM. Only for pageblocks never populated before. */
	int (*block_populate)(void *ctx, struct vac__backing *b, size_t off);
	/* Every view but the direct map is gone. Unmap that too, and have the platform certify that
	 * nobody can reach the memory any more. 0, or -EBUSY: a foreign holder; the direct map is
	 * then back as it was. *resident: bytes that the backing held. */
	int (*block_seal)(void *ctx, struct vac__backing *b, uint64_t *resident);
	/* Unmap the direct map if need be and free the memory. */
	void (*block_close)(void *ctx, struct vac__backing *b);

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
	/* The run does not leave after all: its former rights again (0: those it has), and joined
	 * with its neighbours where it can be. Cannot fail. */
	void (*stay)(void *ctx, void *addr, size_t bytes, unsigned prot);
	/* Back to the bare reservation. */
	int (*unmap)(void *ctx, void *addr, size_t bytes);
};

extern const struct vac__mem_ops vac__port_mem_ops;

#endif /* VAC_PORT_H */

/* SPDX-License-Identifier: MIT */
/*
 * What a space shows: shared mappings of blocks' memfds, cut into a reservation without access.
 *
 * Invariants:
 *  - every mapping made here is MADV_DONTFORK before any fork() can see it (fork.c);
 *  - a page is never without a mapping: replacing is one mmap(MAP_FIXED), which is atomic for
 *    other threads, and a touch meanwhile waits in the host;
 *  - mappings of one kind carry the same flags, so that the kernel merges neighbours: present ones
 *    none but DONTFORK (and NOHUGEPAGE, where writers are watched), bare ones DONTFORK and DONTDUMP. Leaving ones carry one of three more.
 */
#include <sys/prctl.h>

#include "port/linux/linux.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* A touch of a bare page is nothing wrong: memcheck must not think so. Where valgrind's header is there
 * when we are compiled; the request is a few instructions that do nothing elsewhere. */
#ifdef __has_include
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif
#endif
#ifndef VALGRIND_MAKE_MEM_DEFINED
#define VALGRIND_MAKE_MEM_DEFINED(addr, bytes) ((void)0)
#endif

static int host_prot(unsigned prot)
{
	return (prot & VAC__READ ? PROT_READ : 0) | (prot & VAC__WRITE ? PROT_WRITE : 0);
}

/*
 * mmap(2) with MAP_FIXED. It refuses when the process has more mappings than vm.max_map_count, even
 * to replace one by one; for a caller who has no way back, the port's spares are given up first.
 */
static int map_fixed(void *addr, size_t bytes, int prot, int flags, int fd, size_t off, bool must)
{
	int r;

	do {
		r = vac__sys_mmap(addr, bytes, prot, flags | MAP_FIXED, fd, off, NULL);
	} while (r == -ENOMEM && must && vac__vma_relief());
	return r;
}

/*
 * The range is a mapping by itself, so this splits nothing, but for one case: another thread has just
 * mapped the continuation beside it, and is about to make this call too. Where there is no host VMA
 * left for the split, a spare is given up. A child must not inherit the mapping, so this cannot fail.
 */
static void dont_fork(void *addr, size_t bytes)
{
	for (int tries = 0; vac__sys_madvise(addr, bytes, MADV_DONTFORK) < 0; tries++) {
		if (tries == 1000)
			vac__port_panic(__FILE__, __LINE__, "MADV_DONTFORK refused");
		vac__vma_relief();
		syscall(SYS_sched_yield);
	}
}

int vac__map_shared(void *addr, size_t bytes, int prot, int fd, size_t off, bool must)
{
	bool in = vac__fork_shut();
	int r = map_fixed(addr, bytes, prot, MAP_SHARED, fd, off, must);

	if (!r)
		dont_fork(addr, bytes);
	vac__fork_open(in);
	return r;
}

/* In /proc/PID/maps, where the kernel is built for that (CONFIG_ANON_VMA_NAME). */
void vac__name(void *addr, size_t bytes, const char *name)
{
	static _Atomic bool no_names;

	if (!no_names &&
	    syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, bytes, name) < 0 &&
	    errno == EINVAL)
		no_names = true;
}

/* Hidden from cores, as it may be terabytes of nothing; named where the kernel is built for that.
 * A child could inherit it at no harm, but the flag has to be that of its neighbours. */
static void mark_bare(void *addr, size_t bytes)
{
	vac__sys_madvise(addr, bytes, MADV_DONTFORK);
	vac__sys_madvise(addr, bytes, MADV_DONTDUMP);
	vac__name(addr, bytes, "vacate");
	(void)VALGRIND_MAKE_MEM_DEFINED(addr, bytes);
}

int vac__bare(void *addr, size_t bytes, bool must)
{
	int r = map_fixed(addr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			  0, must);

	if (!r)
		mark_bare(addr, bytes);
	return r;
}

int vac__bare_reserve(size_t bytes, size_t align, void **addr)
{
	uintptr_t lo, at;
	void *p;

	if (bytes + align < bytes)
		return -ENOMEM;
	if (!vac__port_vma_charge(1, false))
		return -ENOMEM;
	if (vac__sys_mmap(NULL, bytes + align, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p) < 0) {
		vac__port_vma_charge(-1, true);
		return -ENOMEM;
	}
	lo = (uintptr_t)p;
	at = (lo + align - 1) / align * align;
	if (at > lo)
		vac__sys_munmap(p, at - lo);
	if (lo + align > at)
		vac__sys_munmap((void *)(at + bytes), lo + align - at);
	*addr = (void *)at;
	mark_bare(*addr, bytes);
	return 0;
}

/* Neighbouring reservations may have become one mapping, so that taking one out splits it. */
void vac__bare_release(void *addr, size_t bytes)
{
	while (vac__sys_munmap(addr, bytes) == -ENOMEM && vac__vma_relief())
		;
	vac__port_vma_charge(-1, true);
}

int vac__space_reserve(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg, void **addr)
{
	int r = vac__bare_reserve(bytes, VAC_PAGEBLOCK_BYTES, addr);

	(void)ctx;
	if (r < 0)
		return r;
	r = vac__range_add((uintptr_t)*addr, (uintptr_t)*addr + bytes, fn, arg);
	if (r < 0)
		vac__bare_release(*addr, bytes);
	return r;
}

void vac__space_release(void *ctx, void *addr, size_t bytes)
{
	(void)ctx;
	vac__range_del((uintptr_t)addr);
	vac__bare_release(addr, bytes);
}

/*
 * Fill in the host's own page table for whole pageblocks, by one page of each: if a 2 MiB host page
 * is beneath, that maps all of it. Otherwise the next thread pays two faults for it (a read maps the
 * page clean, the write after it faults again). Measured: 1.5 us here save 1-1.5 us of a reader and
 * 7 us of a writer. With 4 KiB host pages it maps one page, or 16 for reading, and costs as much
 * as it saves; to fill in all of them would take 53-118 us a pageblock, a third of its copy, for
 * pages that may not be touched.
 */
static void prefault(uintptr_t addr, size_t bytes, size_t off, unsigned prot)
{
	int advice = prot & VAC__WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	if (!(prot & (VAC__READ | VAC__WRITE)) || (addr | bytes | off) & (VAC_PAGEBLOCK_BYTES - 1))
		return;
	for (uintptr_t at = addr; at < addr + bytes; at += VAC_PAGEBLOCK_BYTES)
		vac__sys_madvise((void *)at, VAC_PAGE_BYTES, advice);
}

/* Threads that have met the range as it was before sleep in the host until they are told. */
static void wake(void *arg, void *addr, size_t bytes)
{
	struct vac__mem_ctx *ctx = arg;

	if (ctx->uffd)
		vac__uffd_wake(ctx->uffd, addr, bytes);
}

/* A watched mapping, to another address. It returns when the event of it has been read, by another. */
static int move_here(void *p, size_t bytes, void *addr)
{
	vac__uffd_pause();
	return syscall(SYS_mremap, p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, addr) == -1
		       ? -errno
		       : 0;
}

/*
 * Shown so that every write is an event: marked elsewhere, and moved in with its marks, as a write between
 * a mapping and its marks would be lost to whoever shares the memory. All such mappings are kept from
 * huge host pages, which cannot be marked page by page, so that they merge.
 */
static int map_watched(struct vac__mem_ctx *ctx, void *addr, size_t bytes, int fd, size_t off,
		       bool must)
{
	bool in = vac__fork_shut();
	void *p;
	int r;

	do {
		r = vac__sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off, &p);
	} while (r == -ENOMEM && must && vac__vma_relief());
	if (!r)
		dont_fork(p, bytes);
	vac__fork_open(in);
	if (r < 0)
		return r;
	r = vac__sys_madvise(p, bytes, MADV_NOHUGEPAGE);
	if (r == -EINVAL) /* a kernel without huge pages */
		r = 0;
	if (!r)
		r = vac__uffd_protect(ctx->uffd, p, bytes, false);
	if (!r)
		r = move_here(p, bytes, addr);
	if (r < 0)
		vac__sys_munmap(p, bytes);
	return r;
}

int vac__view_map(void *arg, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		  unsigned prot)
{
	struct vac__mem_ctx *ctx = arg;
	uintptr_t lo = (uintptr_t)addr;
	bool left = vac__edge_colour(lo) != 0;
	int r = prot & VAC__WATCH ? map_watched(ctx, addr, bytes, b->fd, off, left)
				  : vac__map_shared(addr, bytes, host_prot(prot), b->fd, off, left);

	if (r < 0)
		return r;
	vac__edge_drop(lo, lo + bytes);
	if (!(prot & VAC__WATCH))
		prefault(lo, bytes, off, prot);
	/* Writers who wait for a leaving page are told by us alone. Those who wait for a missing one are told
	 * by the handler of their fault, when the engine is through with it. */
	if (left || prot & VAC__BLIND)
		wake(ctx, addr, bytes);
	return 0;
}

/* Over several mappings mprotect(2) can fail at the far end, when the split there is refused, with
 * the rights before it changed. The engine knows what they were, and gives them back. */
int vac__view_protect(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	(void)ctx;
	return vac__sys_mprotect(addr, bytes, host_prot(prot));
}

/* The three flags that keep leaving runs apart. MADV_RANDOM and MADV_SEQUENTIAL mean nothing to
 * memory that is not read from a disk, and go with the mapping when it is replaced. */
static int paint(void *addr, size_t bytes, unsigned colour)
{
	int r = vac__sys_madvise(addr, bytes, colour == 2 ? MADV_SEQUENTIAL : MADV_RANDOM);

	if (!r && colour == 3)
		r = vac__sys_madvise(addr, bytes, MADV_DONTDUMP);
	return r;
}

static void unpaint(void *addr, size_t bytes, unsigned colour)
{
	if (colour != 1 && colour != 2) /* 3, or forgotten */
		vac__sys_madvise(addr, bytes, MADV_DODUMP);
	vac__sys_madvise(addr, bytes, MADV_NORMAL);
}

/*
 * Paint first: that makes all the splits, so it is the call that may fail. The mprotect(2) on the
 * exact mapping then takes nothing, and has flushed every translation when it returns. The paint is
 * needed where the rights change too: a neighbour may be read-only for good, and the two would merge.
 *
 * Measured (us): paint 1.5, protect 1.0 (2 MiB host pages) or 17 (512 of 4 KiB), replace 3.0 or 27,
 * MADV_DONTFORK 2; one page of 4 KiB: 2.1, 1.0, 3.2 and 0.6.
 */
int vac__view_leave(void *arg, void *addr, size_t bytes, unsigned prot)
{
	uintptr_t lo = (uintptr_t)addr;
	unsigned colour = vac__edge_claim(lo, lo + bytes);
	struct vac__mem_ctx *ctx = arg;
	int r = paint(addr, bytes, colour);

	if (!r && prot & VAC__WRITE)
		r = ctx->uffd ? vac__uffd_protect(ctx->uffd, addr, bytes, prot & VAC__BLIND)
			      : vac__sys_mprotect(addr, bytes, PROT_READ);
	if (r < 0) {
		unpaint(addr, bytes, colour);
		vac__edge_drop(lo, lo + bytes);
	}
	return r;
}

/* Rights first, while the run is still a mapping by itself; then the paint comes off and it merges
 * again. A part of a run needs mappings for its ends, which the spares provide if the host does not:
 * the engine would otherwise believe in rights that the host never gives. */
static int allow_again(void *addr, size_t bytes, unsigned prot)
{
	int r;

	do {
		r = vac__sys_mprotect(addr, bytes, host_prot(prot));
	} while (r == -ENOMEM && vac__vma_relief());
	return r;
}

/* userfaultfd's modes are only shed by a mapping made anew: the same memory once more. What was watched
 * before it left has the modes in any case. */
void vac__view_stay(void *arg, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		    unsigned prot)
{
	struct vac__mem_ctx *ctx = arg;
	uintptr_t lo = (uintptr_t)addr;
	unsigned colour = vac__edge_colour(lo);
	bool watched = prot & (VAC__WATCH | VAC__BLIND);
	bool anew = ctx->uffd && prot & VAC__WRITE && !watched;
	int r = 0;

	if (watched)
		r = prot & VAC__WRITE ? vac__uffd_allow(ctx->uffd, addr, bytes) : 0;
	else if (anew)
		r = vac__map_shared(addr, bytes, host_prot(prot), b->fd, off, true);
	else if (prot & VAC__WRITE)
		r = allow_again(addr, bytes, prot);
	if (r < 0)
		vac__port_panic(__FILE__, __LINE__, "the host does not give back what it took");
	if (!anew)
		unpaint(addr, bytes, colour);
	vac__edge_drop(lo, lo + bytes);
	if (anew)
		wake(ctx, addr, bytes);
}

int vac__view_allow(void *arg, void *addr, size_t bytes)
{
	struct vac__mem_ctx *ctx = arg;

	return vac__uffd_allow(ctx->uffd, addr, bytes);
}

/*
 * In place: no touch finds anything between two states, the mapping is as large as before, and nobody waits
 * for the reader of events, as move_hole() does. All of these are kept from huge host pages, as what is
 * watched is, so that they merge.
 */
int vac__view_blind(void *arg, void *addr, size_t bytes)
{
	struct vac__mem_ctx *ctx = arg;
	int r = vac__sys_madvise(addr, bytes, MADV_NOHUGEPAGE);

	if (r == -EINVAL) /* a kernel without huge pages */
		r = 0;
	if (!r)
		r = vac__uffd_blind(ctx->uffd, addr, bytes);
	if (!r)
		wake(ctx, addr, bytes);
	return r;
}

int vac__view_reveal(void *arg, void *addr, size_t bytes, unsigned prot)
{
	struct vac__mem_ctx *ctx = arg;

	return vac__uffd_reveal(ctx->uffd, addr, bytes, prot & VAC__WRITE);
}

int vac__view_unmap(void *ctx, void *addr, size_t bytes)
{
	uintptr_t lo = (uintptr_t)addr;
	bool left = vac__edge_colour(lo) != 0;
	int r = vac__bare(addr, bytes, left);

	if (r < 0)
		return r;
	/* An unmap of the program's may take in runs that leave, whole or in part. */
	vac__edge_drop(lo, lo + bytes);
	wake(ctx, addr, bytes);
	return 0;
}

/* A hole in what is bare: watched first, then opened, so that no touch finds memory of the host's own.
 * Should the second fail, the first stays, which does no harm to what has no rights. */
static int open_hole(struct vac__mem_ctx *ctx, void *addr, size_t bytes)
{
	int r = vac__uffd_watch(ctx->uffd, addr, bytes);

	if (!r)
		r = vac__sys_mprotect(addr, bytes, PROT_READ | PROT_WRITE);
	/* It may be a hole that could not be made bare, with marks of refusals in it. */
	if (!r)
		vac__sys_madvise(addr, bytes, MADV_DONTNEED);
	return r;
}

/*
 * In place of what is shown: prepared elsewhere and moved in, in one step. "Map a hole, then watch it"
 * would lose what is written in between. The watch moves along because the reader of events is told of
 * the move (UFFD_FEATURE_EVENT_REMAP), which takes as long as it takes to answer.
 */
static int move_hole(struct vac__mem_ctx *ctx, void *addr, size_t bytes)
{
	void *p;
	int r = vac__sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p);

	if (r < 0)
		return r;
	mark_bare(p, bytes);
	r = vac__uffd_watch(ctx->uffd, p, bytes);
	if (!r)
		r = move_here(p, bytes, addr);
	if (r < 0)
		vac__sys_munmap(p, bytes);
	return r;
}

int vac__view_hole(void *arg, void *addr, size_t bytes, bool fresh)
{
	struct vac__mem_ctx *ctx = arg;
	uintptr_t lo = (uintptr_t)addr;
	int r;

	if (!ctx->uffd)
		return fresh ? 0 : vac__view_unmap(arg, addr, bytes);
	r = fresh ? open_hole(ctx, addr, bytes) : move_hole(ctx, addr, bytes);
	if (r < 0)
		return r;
	vac__edge_drop(lo, lo + bytes);
	wake(ctx, addr, bytes);
	return 0;
}

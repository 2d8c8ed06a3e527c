/* SPDX-License-Identifier: MIT */
/*
 * What the files of port/linux/ share: raw system calls, a small lock, and each other's services.
 *
 * Everything here may run inside the SIGSEGV handler, so nothing may lock, allocate or print
 * through libc. System calls that change mappings or wait go through syscall(2): the wrappers of
 * libc are intercepted by the sanitizers, whose bookkeeping is not signal-safe, and some of them are
 * cancellation points. syscall(2) does set errno; the handler saves it.
 */
#ifndef VAC_PORT_LINUX_H
#define VAC_PORT_LINUX_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/port.h"

#if ULONG_MAX != UINT64_MAX || !(defined(__x86_64__) || defined(__aarch64__))
#error "port/linux knows x86-64 and arm64"
#endif

/* Newer than the headers of Debian 12. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

#define VAC__HIDDEN __attribute__((visibility("hidden")))

/* ---- Raw system calls: 0 or a result, or a negative errno value ------------------------------ */

static inline long vac__sys(long r)
{
	return r == -1 ? -errno : r;
}

static inline int vac__sys_mmap(void *addr, size_t bytes, int prot, int flags, int fd, size_t off,
				void **out)
{
	long r = syscall(SYS_mmap, addr, bytes, prot, flags, fd, off);

	if (out)
		*out = r == -1 ? NULL : (void *)r;
	return r == -1 ? -errno : 0;
}

static inline int vac__sys_munmap(void *addr, size_t bytes)
{
	return (int)vac__sys(syscall(SYS_munmap, addr, bytes));
}

static inline int vac__sys_mprotect(void *addr, size_t bytes, int prot)
{
	return (int)vac__sys(syscall(SYS_mprotect, addr, bytes, prot));
}

/* madvise(2) says EAGAIN where its fellows say ENOMEM: "no memory or no host VMA for it". Advice
 * that has a real EAGAIN (MADV_COLLAPSE) does not come through here. */
static inline int vac__sys_madvise(void *addr, size_t bytes, int advice)
{
	int r = (int)vac__sys(syscall(SYS_madvise, addr, bytes, advice));

	return r == -EAGAIN ? -ENOMEM : r;
}

static inline int vac__sys_open(int dir, const char *path, int flags)
{
	return (int)vac__sys(syscall(SYS_openat, dir, path, flags | O_CLOEXEC, 0));
}

static inline long vac__sys_read(int fd, void *buf, size_t bytes)
{
	long r;

	do {
		r = vac__sys(syscall(SYS_read, fd, buf, bytes));
	} while (r == -EINTR);
	return r;
}

static inline long vac__sys_pread(int fd, void *buf, size_t bytes, size_t off)
{
	long r;

	do {
		r = vac__sys(syscall(SYS_pread64, fd, buf, bytes, off));
	} while (r == -EINTR);
	return r;
}

/* Not the C library's, which ThreadSanitizer follows: it would not see that we have closed the descriptor, and take a
 * stranger's use of the same number for a race. */
static inline int vac__sys_fstat(int fd, struct stat *st)
{
	return (int)vac__sys(syscall(SYS_fstat, fd, st));
}

static inline void vac__sys_close(int fd)
{
	syscall(SYS_close, fd);
}

/* ---- A lock for short sections, of threads that have blocked all signals --------------------- */

struct vac__flock {
	_Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody waits */
};

static inline void vac__flock_lock(struct vac__flock *l)
{
	uint32_t w = 0;

	if (atomic_compare_exchange_strong_explicit(&l->word, &w, 1, memory_order_acquire,
						    memory_order_relaxed))
		return;
	while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
		vac__port_wait(&l->word, 2, 0);
}

static inline void vac__flock_unlock(struct vac__flock *l)
{
	if (atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)
		vac__port_wake(&l->word, 1);
}

/* ---- fork.c ---------------------------------------------------------------------------------- */

VAC__HIDDEN void vac__fork_init(void);
/* Is it this thread that forks, and has come as far as the fork lock? Lock-free: true for sure for a thread
 * that waits. */
VAC__HIDDEN bool vac__fork_by(uint32_t tid);
/* The caller serves a fault of that thread: to the engine, and to the fork lock, it is that thread. 0: no
 * more. */
VAC__HIDDEN void vac__thread_acts_for(uint32_t tid, bool in_fork);
VAC__HIDDEN uint32_t vac__thread_acting(void);
VAC__HIDDEN void vac__thread_forked(void); /* thread.c: forget what is cached about the thread */

/* Held around "mmap, then madvise(MADV_DONTFORK)": fork() waits until nobody is in between. Any
 * number of threads at once; may be taken in the SIGSEGV handler. Does not nest. False: it is this thread
 * that forks, and passes; open is told what shut has answered. */
VAC__HIDDEN bool vac__fork_shut(void);
VAC__HIDDEN void vac__fork_open(bool in);

/* ---- vma.c ----------------------------------------------------------------------------------- */

/* Give up one spare mapping of the port, so that a replacement which must not fail can be tried
 * again. False if there is none left. refill puts them back, as far as the host lets it. */
VAC__HIDDEN bool vac__vma_relief(void);
VAC__HIDDEN void vac__vma_refill(void);

/* ---- edge.c: which runs are between leave and map -------------------------------------------- */

VAC__HIDDEN unsigned vac__edge_claim(uintptr_t lo, uintptr_t hi);
VAC__HIDDEN unsigned vac__edge_colour(uintptr_t lo);
VAC__HIDDEN void vac__edge_drop(uintptr_t lo, uintptr_t hi);

/* ---- room.c: is there memory to be had without an out-of-memory kill? ------------------------ */

#define VAC__ROOM_LEVELS 24

struct vac__room_level {
	int limit_fd, usage_fd, stat_fd;
};

struct vac__room {
	struct vac__flock lock;    /* guards all but inflight */
	_Atomic uint64_t inflight; /* bytes granted, not yet charged by the host */
	uint64_t checked_ns;       /* when the cgroup's name was last compared */
	uint32_t name_hash;
	bool v2;
	int meminfo_fd;
	unsigned levels;
	struct vac__room_level level[VAC__ROOM_LEVELS];
};

VAC__HIDDEN void vac__room_init(struct vac__room *room);
VAC__HIDDEN void vac__room_destroy(struct vac__room *room);
/* 0 and bytes are granted until vac__room_put(), or -ENOMEM. */
VAC__HIDDEN int vac__room_get(struct vac__room *room, size_t bytes);
VAC__HIDDEN void vac__room_put(struct vac__room *room, size_t bytes);
/* The kernel has refused bytes that were granted (and are put back): note why, as far as it shows. */
VAC__HIDDEN void vac__room_blame(struct vac__room *room, size_t bytes);

/* ---- registry.c: whose are these addresses? -------------------------------------------------- */

struct vac__range {
	_Atomic uintptr_t start, end; /* start 0: free */
	_Atomic uint32_t users;       /* DYING | faults being served */
	vac__fault_fn *fn;
	void *arg;
};
VAC__HIDDEN int vac__range_add(uintptr_t lo, uintptr_t hi, vac__fault_fn *fn, void *arg);
/* Waits until no fault in the range is being served. */
VAC__HIDDEN void vac__range_del(uintptr_t lo);
/* The range that addr is in, which stays until it is put, or NULL. */
VAC__HIDDEN struct vac__range *vac__range_get(uintptr_t addr);
VAC__HIDDEN void vac__range_put(struct vac__range *range);

/* ---- guard_sigsegv.c ------------------------------------------------------------------------- */

VAC__HIDDEN int vac__guard_install(void);

/* ---- guard_uffd.c ---------------------------------------------------------------------------- */

struct vac__uffd;
/* -EOPNOTSUPP, -EACCES: the host does not have or allow it; -ENOMEM, -EMFILE, -EAGAIN. */
VAC__HIDDEN int vac__uffd_open(struct vac__uffd **uffd);
VAC__HIDDEN void vac__uffd_close(struct vac__uffd *uffd);
/* Whoever waits for a page of the range looks again. */
VAC__HIDDEN void vac__uffd_wake(struct vac__uffd *uffd, void *addr, size_t bytes);
/* Whoever writes to the range, which is one or more host VMAs by itself, waits from now on, until it is
 * mapped anew and woken; no CPU holds a writable translation any more. */
VAC__HIDDEN int vac__uffd_protect(struct vac__uffd *uffd, void *addr, size_t bytes, bool blind);
/* Let writers into a part of what is write-protected page by page. */
VAC__HIDDEN int vac__uffd_allow(struct vac__uffd *uffd, void *addr, size_t bytes);
/* Shown memory, of one or more host VMAs by itself: every touch reaches the engine from now on; and parts
 * of it, which then may be read, or written too. */
VAC__HIDDEN int vac__uffd_blind(struct vac__uffd *uffd, void *addr, size_t bytes);
VAC__HIDDEN int vac__uffd_reveal(struct vac__uffd *uffd, void *addr, size_t bytes, bool writable);
/* Touches of the range, which is PROT_NONE or nobody's yet, reach the engine from now on. */
VAC__HIDDEN int vac__uffd_watch(struct vac__uffd *uffd, void *addr, size_t bytes);
/* The calling thread is about to sleep, or to be busy for long: if it reads events, another does so from
 * now on. */
VAC__HIDDEN void vac__uffd_pause(void);
/* Wait until every fault read so far has been served. */
VAC__HIDDEN void vac__uffd_fence(void);
VAC__HIDDEN void vac__uffd_quiet(struct vac__uffd *uffd);
/* Test switches: no zap before the protection, no look after it (loses writes, see guard_uffd.c); and every
 * n-th protection has no effect although the host says that it had, as happens with 2 MiB mappings. */
extern VAC__HIDDEN _Atomic bool vac__uffd_test_careless;
extern VAC__HIDDEN _Atomic unsigned vac__uffd_test_deaf;

/* ---- memfd.c, view.c: the memory operations; mem.c makes a table of them --------------------- */

struct vac__mem_ctx {
	char name[VAC_NAME_MAX];
	unsigned flags;         /* VAC_POOL_* */
	struct vac__uffd *uffd; /* NULL: the SIGSEGV guard */
	struct vac__room room;
};

/* addr becomes a bare reservation again. must, here and below: the range is a host VMA (or several)
 * by itself and the caller has no way back, so the port's spares are given up if need be. */
VAC__HIDDEN int vac__bare(void *addr, size_t bytes, bool must);
VAC__HIDDEN void vac__name(void *addr, size_t bytes, const char *name);
VAC__HIDDEN int vac__bare_reserve(size_t bytes, size_t align, void **addr);
VAC__HIDDEN void vac__bare_release(void *addr, size_t bytes);
/* mmap(MAP_SHARED|MAP_FIXED) that no fork() can see without MADV_DONTFORK. */
VAC__HIDDEN int vac__map_shared(void *addr, size_t bytes, int prot, int fd, size_t off, bool must);

VAC__HIDDEN int vac__direct_reserve(void *ctx, size_t bytes, size_t align, void **addr);
VAC__HIDDEN void vac__direct_release(void *ctx, void *addr, size_t bytes);
VAC__HIDDEN int vac__block_open(void *ctx, int id, size_t bytes, void *direct,
				struct vac__backing *b);
/* A block on a descriptor that it takes over, also where it fails. */
VAC__HIDDEN int vac__block_open_on(struct vac__mem_ctx *ctx, int fd, size_t bytes, void *direct,
				   struct vac__backing *b);
VAC__HIDDEN int vac__block_populate(void *ctx, struct vac__backing *b, size_t off);
VAC__HIDDEN int vac__block_seal(void *ctx, struct vac__backing *b, bool keep, uint64_t *resident);
VAC__HIDDEN void vac__block_close(void *ctx, struct vac__backing *b);

/* file.c: blocks on files that the program was given */
VAC__HIDDEN int vac__block_open_file(void *ctx, const struct vac__file *f, size_t bytes,
				     void *direct, struct vac__backing *b);
VAC__HIDDEN int vac__file_take(void *ctx, int fd, size_t bytes, struct vac__file *f);
VAC__HIDDEN int vac__file_lock(void *ctx, struct vac__file *f);
VAC__HIDDEN void vac__file_drop(void *ctx, struct vac__file *f);
/* foreign.c */
VAC__HIDDEN void vac__foreign_init(void);
VAC__HIDDEN int vac__foreign_held(void *ctx, struct vac__backing *b, size_t off, size_t bytes,
				  const void *shown, size_t *at);
VAC__HIDDEN bool vac__foreign_sees(void *ctx);
VAC__HIDDEN void vac__foreign_holder(void *ctx, const void *shown, size_t bytes, char *text,
				     size_t max, uint32_t *tid);

/* swapfile.c */
VAC__HIDDEN int vac__swap_open(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f);
VAC__HIDDEN void vac__swap_close(void *ctx, struct vac__swapfile *f);
VAC__HIDDEN void vac__swap_io(void *ctx, struct vac__swapfile *f, bool write,
			      struct vac__swap_run *run, unsigned n);

VAC__HIDDEN int vac__space_reserve(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg,
				   void **addr);
VAC__HIDDEN void vac__space_release(void *ctx, void *addr, size_t bytes);
VAC__HIDDEN int vac__view_map(void *ctx, void *addr, size_t bytes, struct vac__backing *b,
			      size_t off, unsigned prot);
VAC__HIDDEN int vac__view_protect(void *ctx, void *addr, size_t bytes, unsigned prot);
VAC__HIDDEN int vac__view_leave(void *ctx, void *addr, size_t bytes, unsigned prot);
VAC__HIDDEN int vac__view_allow(void *ctx, void *addr, size_t bytes);
VAC__HIDDEN int vac__view_blind(void *ctx, void *addr, size_t bytes);
VAC__HIDDEN int vac__view_reveal(void *ctx, void *addr, size_t bytes, unsigned prot);
VAC__HIDDEN void vac__view_stay(void *ctx, void *addr, size_t bytes, struct vac__backing *b,
				size_t off, unsigned prot);
VAC__HIDDEN int vac__view_unmap(void *ctx, void *addr, size_t bytes);
VAC__HIDDEN int vac__view_hole(void *ctx, void *addr, size_t bytes, bool fresh);

#endif /* VAC_PORT_LINUX_H */

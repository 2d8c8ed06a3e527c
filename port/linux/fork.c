/* SPDX-License-Identifier: MIT */
/*
 * fork(): a child has no pool memory, and knows it.
 *
 * MADV_DONTFORK is lost whenever a mapping is replaced (MAP_FIXED), and setting it again is a second
 * call. A fork() between the two would hand the child a shared writable view of a frame that the
 * engine is about to give to somebody else. So the two calls are made under the fork lock, which
 * pthread_atfork()'s prepare handler takes for itself alone.
 *
 * Invariants:
 *  - a thread that holds the lock shared only makes host calls: it waits for nobody, so fork()
 *    waits for at most a few of them, and a fault in another thread can never hold it up;
 *  - the forking thread may fault on pool memory in somebody's atfork handler, while it holds the
 *    lock alone: it then passes, as its own pair of calls ends before it forks;
 *  - once a fork() waits, newcomers wait behind it, so that hot faults do not starve it;
 *  - the mark is 1 in the process that set it up and 0 in every process born of it, however it was
 *    born: the kernel wipes it (MADV_WIPEONFORK).
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "port/linux/linux.h"

#define ALONE 0x80000000u /* a fork is going on, or waits for those who are in */

static _Atomic uint32_t word;  /* ALONE | number of threads in */
static _Atomic uint32_t owner; /* thread that forks; 0: none */
static _Atomic(_Atomic uint32_t *) mark;

static const struct vac__fork_ops *_Atomic engine; /* what else is to be done */
static struct vac__port_saved held; /* of the forking thread, if is_held; guarded by ALONE */
static bool is_held;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Not vac__port_tid(): that may ask us whether we are a child. */
static uint32_t tid(void)
{
	uint32_t other = vac__thread_acting();

	return other ? other : (uint32_t)syscall(SYS_gettid);
}

bool vac__fork_by(uint32_t thread)
{
	return thread && atomic_load_explicit(&owner, memory_order_relaxed) == thread;
}

bool vac__fork_shut(void)
{
	uint32_t w = atomic_load_explicit(&word, memory_order_relaxed);

	for (;;) {
		if (w & ALONE) {
			if (atomic_load_explicit(&owner, memory_order_relaxed) == tid())
				return false;
			vac__port_wait(&word, w, 0);
			w = atomic_load_explicit(&word, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(
				   &word, &w, w + 1, memory_order_acquire, memory_order_relaxed)) {
			return true;
		}
	}
}

void vac__fork_open(bool in)
{
	if (!in)
		return;
	if (atomic_fetch_sub_explicit(&word, 1, memory_order_release) == (ALONE | 1))
		vac__port_wake(&word, INT_MAX);
}

/* A handler that ran now, in the thread that holds the pools still, and touched them, would wait for
 * itself. The thread's own faults may be in other handlers of atfork; the engine knows what to do. */
static void own_faults_only(uint64_t mask)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
	uint64_t now = ~(uint64_t)0;

	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		now &= ~((uint64_t)1 << (own[i] - 1)) | mask;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &now, NULL, sizeof(now));
}

/* Signals are blocked from the moment ALONE is set until the owner is known, and again from when
 * it is forgotten: a handler in between that touches the pool would wait for its own thread. */
static void prepare(void)
{
	const struct vac__fork_ops *ops = atomic_load_explicit(&engine, memory_order_acquire);
	struct vac__port_saved saved;
	bool hold;
	uint32_t w;

	vac__port_enter(&saved);
	hold = ops && !vac__port_forked() && ops->prepare();
	w = atomic_load_explicit(&word, memory_order_relaxed);
	for (;;) { /* another thread may be forking too */
		if (w & ALONE) {
			vac__port_wait(&word, w, 0);
			w = atomic_load_explicit(&word, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(&word, &w, w | ALONE,
								 memory_order_acquire,
								 memory_order_relaxed)) {
			break;
		}
	}
	while ((w = atomic_load_explicit(&word, memory_order_acquire)) != ALONE)
		vac__port_wait(&word, w, 0);
	/* An earlier touch of this thread, which the fork has cut short in a signal handler, is not taken
	 * for one that it makes from now on: vac__fork_by(). */
	if (hold)
		vac__uffd_fence();
	atomic_store_explicit(&owner, tid(), memory_order_relaxed);
	is_held = hold;
	if (hold) {
		held = saved;
		own_faults_only(saved.mask[0]);
	} else {
		vac__port_leave(&saved);
	}
}

static void parent(void)
{
	struct vac__port_saved saved;

	vac__port_enter(&saved);
	if (is_held) {
		atomic_load_explicit(&engine, memory_order_relaxed)->parent();
		is_held = false;
		saved = held;
	}
	atomic_store_explicit(&owner, 0, memory_order_relaxed);
	atomic_store_explicit(&word, 0, memory_order_release);
	vac__port_wake(&word, INT_MAX);
	vac__port_leave(&saved);
}

static void child(void)
{
	_Atomic uint32_t *m = atomic_load_explicit(&mark, memory_order_relaxed);

	if (m) /* a kernel before 4.14 did not wipe it */
		atomic_store_explicit(m, 0, memory_order_relaxed);
	vac__thread_forked();
	atomic_store_explicit(&owner, 0, memory_order_relaxed);
	atomic_store_explicit(&word, 0, memory_order_relaxed);
	if (is_held) {
		atomic_load_explicit(&engine, memory_order_relaxed)->child();
		is_held = false;
		vac__port_leave(&held);
	}
}

static void init(void)
{
	void *p;

	if (vac__sys_mmap(NULL, VAC_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0, &p) < 0)
		vac__port_panic(__FILE__, __LINE__, "no memory for one page");
	atomic_store_explicit((_Atomic uint32_t *)p, 1, memory_order_relaxed);
	vac__sys_madvise(p, VAC_PAGE_BYTES, MADV_WIPEONFORK);
	atomic_store_explicit(&mark, p, memory_order_release);
}

/* When the library is loaded, so before anybody who uses it: our prepare then runs after the others',
 * and our child before theirs. */
__attribute__((constructor)) static void handlers(void)
{
	if (pthread_atfork(prepare, parent, child))
		vac__port_panic(__FILE__, __LINE__, "pthread_atfork failed");
}

void vac__port_on_fork(const struct vac__fork_ops *ops)
{
	atomic_store_explicit(&engine, ops, memory_order_release);
}

/* ---- What a child inherits ------------------------------------------------------------------- */

/* By a room of its own, which looks at the same limits; what other threads have been granted and not
 * touched yet is not seen. Where memory runs out all the same the kernel kills, as it does for any
 * other private memory. */
static bool room_for(size_t bytes)
{
	static struct vac__room room; /* too large for a stack; one fork() at a time comes here */
	int r;

	if (bytes <= VAC_PAGEBLOCK_BYTES)
		return true;
	memset(&room, 0, sizeof(room));
	vac__room_init(&room);
	r = vac__room_get(&room, bytes);
	vac__room_destroy(&room);
	return r == 0;
}

void *vac__port_bequest(size_t bytes, size_t touch)
{
	size_t all = bytes + VAC_PAGEBLOCK_BYTES;
	uintptr_t lo, at;
	void *p;

	if (!room_for(touch) ||
	    vac__sys_mmap(NULL, all, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p) < 0)
		return NULL;
	lo = (uintptr_t)p;
	at = (lo + VAC_PAGEBLOCK_BYTES - 1) & ~(VAC_PAGEBLOCK_BYTES - 1);
	if (at > lo)
		vac__sys_munmap(p, at - lo);
	if (lo + all > at + bytes)
		vac__sys_munmap((void *)(at + bytes), lo + all - at - bytes);
	vac__sys_madvise((void *)at, bytes, MADV_DONTDUMP);
	vac__name((void *)at, bytes, "vacate:copy for a child");
	vac__port_vma_charge(1, true);
	return (void *)at;
}

void vac__port_bequest_free(void *p, size_t bytes)
{
	vac__sys_munmap(p, bytes);
	vac__port_vma_charge(-1, true);
}

void vac__port_bequest_size(void *p, size_t bytes, bool huge)
{
	vac__sys_madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

int vac__port_bequest_place(void *addr, size_t bytes, void *from, unsigned prot)
{
	long r = vac__sys(
		syscall(SYS_mremap, from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, addr));

	if (r < 0 && r > -4096)
		return (int)r;
	vac__sys_madvise(addr, bytes, MADV_DODUMP); /* it is the child's own now */
	if (prot == (VAC__READ | VAC__WRITE))
		return 0;
	return vac__sys_mprotect(addr, bytes, prot & VAC__READ ? PROT_READ : PROT_NONE);
}

/* A file without a byte: whatever is touched is beyond its end. Its name says to whoever looks at the
 * maps, or at a core, what has happened. If it cannot be had, the hole is a SIGSEGV. */
void vac__port_bequest_deny(void *addr, size_t bytes)
{
	long fd = vac__sys(syscall(SYS_memfd_create, "vacate:no copy", MFD_CLOEXEC));

	if (fd < 0)
		return;
	vac__sys_mmap(addr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd, 0,
		      NULL);
	vac__sys_close((int)fd);
}

/* The first call comes from vac_pool_open() or earlier, so never from the fault handler, where
 * pthread_once() would have no place. */
void vac__fork_init(void)
{
	if (!atomic_load_explicit(&mark, memory_order_acquire))
		pthread_once(&once, init);
}

bool vac__port_forked(void)
{
	_Atomic uint32_t *m = atomic_load_explicit(&mark, memory_order_acquire);

	return m && atomic_load_explicit(m, memory_order_relaxed) == 0;
}

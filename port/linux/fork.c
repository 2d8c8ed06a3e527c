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

#include "port/linux/linux.h"

#define ALONE 0x80000000u /* a fork is going on, or waits for those who are in */

static _Atomic uint32_t word;  /* ALONE | number of threads in */
static _Atomic uint32_t owner; /* thread that forks; 0: none */
static _Atomic(_Atomic uint32_t *) mark;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Not vac__port_tid(): that may ask us whether we are a child. */
static uint32_t tid(void)
{
	return (uint32_t)syscall(SYS_gettid);
}

void vac__fork_shut(void)
{
	uint32_t w = atomic_load_explicit(&word, memory_order_relaxed);

	for (;;) {
		if (w & ALONE) {
			if (atomic_load_explicit(&owner, memory_order_relaxed) == tid())
				return;
			vac__port_wait(&word, w, 0);
			w = atomic_load_explicit(&word, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(
				   &word, &w, w + 1, memory_order_acquire, memory_order_relaxed)) {
			return;
		}
	}
}

void vac__fork_open(void)
{
	/* A fork may have begun to wait since we came in; it has no owner before we are out. */
	uint32_t o = atomic_load_explicit(&owner, memory_order_relaxed);

	if (o && o == tid())
		return;
	if (atomic_fetch_sub_explicit(&word, 1, memory_order_release) == (ALONE | 1))
		vac__port_wake(&word, INT_MAX);
}

/* Signals are blocked from the moment ALONE is set until the owner is known, and again from when
 * it is forgotten: a handler in between that touches the pool would wait for its own thread. */
static void prepare(void)
{
	struct vac__port_saved saved;
	uint32_t w;

	vac__port_enter(&saved);
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
	atomic_store_explicit(&owner, tid(), memory_order_relaxed);
	vac__port_leave(&saved);
}

static void parent(void)
{
	struct vac__port_saved saved;

	vac__port_enter(&saved);
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
}

static void init(void)
{
	void *p;

	if (vac__sys_mmap(NULL, VAC_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0, &p) < 0)
		vac__port_panic(__FILE__, __LINE__, "no memory for one page");
	atomic_store_explicit((_Atomic uint32_t *)p, 1, memory_order_relaxed);
	vac__sys_madvise(p, VAC_PAGE_BYTES, MADV_WIPEONFORK);
	if (pthread_atfork(prepare, parent, child))
		vac__port_panic(__FILE__, __LINE__, "pthread_atfork failed");
	atomic_store_explicit(&mark, p, memory_order_release);
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

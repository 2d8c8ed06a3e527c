/* SPDX-License-Identifier: MIT */
/*
 * The userfaultfd guard: a touch that the host cannot serve makes the thread sleep in the kernel, wherever
 * it was, in user mode or in the middle of read(2), until the engine has served it.
 *
 * Three kinds of thread, which block all signals and never touch pool memory. The server takes events off
 * the descriptor, and serves a touch of what is present by itself, which is a short job mostly: one change of
 * threads instead of two. Others it queues; a few handlers take them from there, call the engine as a
 * faulting thread would, and wake the sleeper. When the server is about to sleep in the middle of
 * that (vac__uffd_pause(), which all waits of the port call), the reader takes over: it reads and queues,
 * and never sleeps for anything else, until the server is back.
 *
 * What the host shows (view.c):
 *	hole      anonymous, writable, empty, watched for missing pages: what may be touched and is
 *	          not there. A touch is an event.
 *	shown     a block's memory, with the rights of the mapping, not watched at all.
 *	leaving   the same, watched for writes and write-protected page by page. A write is an event,
 *	          which nobody has to serve: the page is mapped anew before long, and woken.
 *	watched   the same for long, as others share the memory. A write is an event that the engine
 *	          serves; its page then loses its mark, and no mapping is cut for that.
 *	blind     shown, in a mapping of which every page that the page table does not have is an event.
 *		  The engine puts pages into the page table one by one, to be written, or marked as
 *		  watched ones are. It costs no mapping and no change of one.
 *	bare      no rights, not watched: SIGSEGV, or EFAULT, of the host's own.
 *
 * Invariants:
 *  - Somebody reads, always: a mremap() of a watched range (a hole that is moved in) returns only when
 *    its event has been taken. So the reader takes no lock that is held across a host call, and the
 *    server does not wait for one without telling the reader.
 *  - No wake is lost. A thread that meets a leaving page queues itself under the lock that mmap() takes
 *    for itself alone, having looked at the page; so it either sees the new mapping or is found by the
 *    wake that follows it.
 *  - Write protection is only believed when the page table says so of every page. UFFDIO_WRITEPROTECT of
 *    a 2 MiB host mapping answers 0, and once in several thousand times leaves it writable. Therefore
 *    the range is unmapped from the page table first (readers take one ordinary fault a page), kept
 *    from being mapped huge again, marked, and looked at.
 *
 * Lock order: none; the queue's lock is held for a few instructions, that of the list of all guards while
 * a fork() waits for the readers, who do not take it.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "port/linux/linux.h"

/* Newer than the headers of Debian 12. */
#ifndef UFFD_FEATURE_EXACT_ADDRESS
#define UFFD_FEATURE_EXACT_ADDRESS (1 << 11)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((uint64_t)1 << 1)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
struct vac__uffdio_poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define VAC__UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct vac__uffdio_poison)
#define VAC__USERFAULTFD_IOC_NEW _IO(UFFDIO, 0x00)

#define FEATURES                                                                          \
	(UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_EVENT_REMAP | \
	 UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |               \
	 UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_POISON)

#define PM_UFFD_WP ((uint64_t)1 << 57) /* of an entry of /proc/self/pagemap */

/* One fault a thread can be waiting for, and there are no more threads than this (PID_MAX_LIMIT). */
#define QUEUE (UINT32_C(1) << 22)
#define HANDLERS_MIN 5
#define HANDLERS_MAX 17
/* The engine's fault path needs 16 KiB. The rest, of which nothing is touched, is for the thread-local
 * storage of the program and its libraries, which libc places there: under TSan almost a megabyte. */
enum { SERVER, READER, WANTED, NOBODY };
#define STACK_BYTES ((size_t)2 << 20)
#define INSISTS 100
#define REFUSED_MAX 64
#define REFUSED_NS UINT64_C(20000000)

_Atomic bool vac__uffd_test_careless;
_Atomic unsigned vac__uffd_test_deaf;

struct fault {
	uintptr_t addr;
	uint32_t tid, access;
	bool in_fork; /* the thread was between the handlers of its fork() when it touched the page */
};

struct vac__uffd {
	struct vac__uffd *next; /* of `all` */
	/* Who reads: SERVER; READER, as the server is busy; WANTED: the same, and the server is not any
	 * more. NOBODY: the end. Waited for. */
	_Atomic uint32_t role;
	_Atomic uint32_t turn; /* of who reads: odd while it has events in hand */
	int fd, pagemap, end;  /* end: an eventfd that ends who reads */
	pthread_t reader, server, handler[HANDLERS_MAX];
	unsigned handlers;
	bool reading, serving;
	char *stacks; /* of the reader, the server, and so many handlers */
	unsigned nr_stacks;
	_Atomic uint32_t
		work[2]; /* moves on when something was queued, urgent or not, or at the end */
	_Atomic uint32_t open;    /* faults queued or being served */
	_Atomic uint32_t started; /* handlers; the first is kept for `urgent` */
	_Atomic bool stop;

	struct vac__flock lock; /* guards all below */
	struct fault *queue;
	uint32_t head, tail;
	/* Of the one thread that forks: it holds what all other faults may be waiting for, so one
	 * handler is kept for it. */
	struct fault urgent;
	bool is_urgent;
	/* The latest fault that was not allowed, and how often it has come again. */
	uint32_t refused_tid, refused_times;
	uintptr_t refused_page;
	/* Pages for which there was no memory: a touch of them is SIGBUS until they are opened again. */
	uint32_t refused_head, refused_tail;
	struct {
		uintptr_t page;
		uint64_t until_ns;
	} refused[REFUSED_MAX];
};

static struct vac__flock all_lock; /* guards the list; held while a fork() waits for the readers */
static struct vac__uffd *all;
static _Atomic uint32_t fences;

static int uffd_ioctl(const struct vac__uffd *u, unsigned long what, void *arg)
{
	return (int)vac__sys(syscall(SYS_ioctl, u->fd, what, arg));
}

/*
 * The fault that this handler serves is of the thread that forks. That thread must sleep until all is
 * done: it forks as soon as it is awake, and the engine, which acts for it, passes the fork lock. So its
 * page, and whatever else of this guard is to be woken meanwhile, is woken last.
 */
static _Thread_local struct {
	struct vac__uffd *u; /* NULL: nothing is put off */
	uintptr_t lo, hi;
} put_off;

/* The guard of which this thread is the server, while it reads. */
static _Thread_local struct vac__uffd *reads;

void vac__uffd_pause(void)
{
	struct vac__uffd *u = reads;
	uint32_t role = SERVER;

	if (!u)
		return;
	reads = NULL;
	if (atomic_compare_exchange_strong(&u->role, &role, READER))
		vac__port_wake(&u->role, INT_MAX);
}

/* The kernel has asked for an ioctl() to be made again, as somebody is moving a hole in: who reads must. */
static void again(void)
{
	vac__uffd_pause();
	sched_yield();
}

void vac__uffd_wake(struct vac__uffd *u, void *addr, size_t bytes)
{
	struct uffdio_range r = {.start = (uintptr_t)addr, .len = bytes};

	if (put_off.u == u) {
		if (put_off.hi == 0 || r.start < put_off.lo)
			put_off.lo = (uintptr_t)r.start;
		if (r.start + bytes > put_off.hi)
			put_off.hi = (uintptr_t)r.start + bytes;
		return;
	}
	if (uffd_ioctl(u, UFFDIO_WAKE, &r) < 0)
		vac__port_panic(__FILE__, __LINE__, "UFFDIO_WAKE refused");
}

static void *page_of(uintptr_t addr)
{
	return (void *)(addr & ~(VAC_PAGE_BYTES - 1));
}

/* ---- The queue ------------------------------------------------------------------------------- */

static bool push(struct vac__uffd *u, struct fault fault)
{
	bool room;

	vac__flock_lock(&u->lock);
	room = fault.in_fork ? !u->is_urgent : u->head - u->tail < QUEUE;
	if (room) {
		if (fault.in_fork)
			u->urgent = fault;
		else
			u->queue[u->head++ % QUEUE] = fault;
		u->is_urgent |= fault.in_fork;
		atomic_fetch_add_explicit(&u->open, 1, memory_order_relaxed);
	}
	vac__flock_unlock(&u->lock);
	return room;
}

/* The handler that is kept takes what is urgent, all others the rest. */
static bool pop(struct vac__uffd *u, struct fault *fault, bool kept)
{
	bool any;

	vac__flock_lock(&u->lock);
	any = kept ? u->is_urgent : u->head != u->tail;
	if (any)
		*fault = kept ? u->urgent : u->queue[u->tail++ % QUEUE];
	u->is_urgent &= !kept;
	vac__flock_unlock(&u->lock);
	return any;
}

static void announce(struct vac__uffd *u, bool urgent, int n)
{
	atomic_fetch_add_explicit(&u->work[urgent], 1, memory_order_release);
	vac__port_wake(&u->work[urgent], n);
}

/* ---- The reader ------------------------------------------------------------------------------ */

/* A writer sleeps. For a leaving page, which is served when that is mapped anew: true, it was only said.
 * For a watched one, which the engine must see to. */
static bool tell(uintptr_t addr)
{
	struct vac__range *range = vac__range_get(addr);
	int r;

	if (!range)
		return true; /* it has been unmapped, and woken */
	r = range->fn(range->arg, addr, VAC__WAITS);
	vac__range_put(range);
	return r == 0;
}

/* The event is queued, or needs nobody; or, if `self` allows, *mine is for the caller to serve: answers true. */
static bool take(struct vac__uffd *u, const struct uffd_msg *m, bool self, struct fault *mine)
{
	uintptr_t addr = (uintptr_t)m->arg.pagefault.address;
	uint64_t flags = m->arg.pagefault.flags;
	uint32_t tid = m->arg.pagefault.feat.ptid;
	bool in_fork = vac__fork_by(tid);
	struct fault f = {.addr = addr, .tid = tid, .in_fork = in_fork};

	if (m->event != UFFD_EVENT_PAGEFAULT)
		return false; /* others only had to be read */
	/* A thread that forks, and writes to what it has stopped writers of, waits for itself: the engine
	 * must let it pass. */
	if (flags & UFFD_PAGEFAULT_FLAG_WP && !in_fork && tell(addr))
		return false;
	f.access = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP) ? VAC__WRITE
										: VAC__READ;
	/* A new page is a longer job, which others may do at the same time. */
	if (self && !in_fork && flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) {
		atomic_fetch_add_explicit(&u->open, 1, memory_order_relaxed);
		*mine = f;
		return true;
	}
	if (push(u, f))
		announce(u, in_fork, 1);
	else
		vac__uffd_wake(u, page_of(addr), VAC_PAGE_BYTES); /* it comes again */
	return false;
}

/* Take what there is; if there is nothing, wait for it, or for the end. True: *mine is to be served. */
static bool read_events(struct vac__uffd *u, bool self, struct fault *mine)
{
	struct pollfd p[2] = {{.fd = u->fd, .events = POLLIN}, {.fd = u->end, .events = POLLIN}};
	struct uffd_msg m[16];
	bool any = false;
	long n, k;

	atomic_fetch_add(&u->turn, 1);
	n = vac__sys_read(u->fd, m, sizeof(m));
	k = n / (long)sizeof(m[0]);
	for (long i = 0; i < k; i++)
		any = take(u, &m[i], self && i == k - 1, mine);
	atomic_fetch_add(&u->turn, 1);
	if (atomic_load(&fences))
		vac__port_wake(&u->turn, INT_MAX);
	if (n < 0)
		poll(p, 2, -1);
	return any;
}

static bool stopped(struct vac__uffd *u)
{
	return atomic_load_explicit(&u->stop, memory_order_acquire);
}

static void *read_for_server(void *arg)
{
	struct vac__uffd *u = arg;

	while (!stopped(u)) {
		uint32_t role = WANTED;

		if (atomic_compare_exchange_strong(&u->role, &role, SERVER))
			vac__port_wake(&u->role, INT_MAX);
		else if (role == READER)
			read_events(u, false, NULL);
		else
			vac__port_wait(&u->role, role, 0);
	}
	return NULL;
}

/*
 * What the readers have in hand is queued when this answers: of a thread that has been taken out of its
 * fault by a signal there is nothing left that could come later, as the kernel forgets the event. Both
 * sides are sequentially consistent: either we see the turn end, or the reader sees us.
 */
void vac__uffd_fence(void)
{
	atomic_fetch_add(&fences, 1);
	vac__flock_lock(&all_lock);
	for (struct vac__uffd *u = all; u; u = u->next) {
		uint32_t turn = atomic_load(&u->turn);

		while (turn & 1 && atomic_load(&u->turn) == turn)
			vac__port_wait(&u->turn, turn, 0);
	}
	vac__flock_unlock(&all_lock);
	atomic_fetch_sub(&fences, 1);
}

/* ---- The handlers ---------------------------------------------------------------------------- */

/* A page of a hole for which there is no memory: whoever touches it gets SIGBUS, or EFAULT, for a while.
 * The kernel's own mark for it, which a mapping in its place removes. */
static void refuse(struct vac__uffd *u, uintptr_t page)
{
	struct vac__uffdio_poison p = {.range = {.start = page, .len = VAC_PAGE_BYTES}};
	uintptr_t oldest = 0;
	int r;

	while ((r = uffd_ioctl(u, VAC__UFFDIO_POISON, &p)) == -EAGAIN)
		again();
	if (r < 0)
		return; /* it is mapped by now, or gone */
	vac__flock_lock(&u->lock);
	if (u->refused_head - u->refused_tail == REFUSED_MAX)
		oldest = u->refused[u->refused_tail++ % REFUSED_MAX].page;
	u->refused[u->refused_head % REFUSED_MAX].page = page;
	u->refused[u->refused_head++ % REFUSED_MAX].until_ns = vac__port_now() + REFUSED_NS;
	vac__flock_unlock(&u->lock);
	if (oldest)
		vac__sys_madvise((void *)oldest, VAC_PAGE_BYTES, MADV_DONTNEED);
}

/* Open those whose time is over; answers when the next one is due, 0: none. Where something is mapped by
 * now this unmaps a page from the page table that the next touch finds again. */
static uint64_t reopen(struct vac__uffd *u)
{
	uintptr_t page = 0;
	uint64_t due = 0;

	do {
		if (page)
			vac__sys_madvise((void *)page, VAC_PAGE_BYTES, MADV_DONTNEED);
		page = 0;
		vac__flock_lock(&u->lock);
		due = 0;
		if (u->refused_head != u->refused_tail)
			due = u->refused[u->refused_tail % REFUSED_MAX].until_ns;
		if (due && (due <= vac__port_now() || atomic_load(&u->stop)))
			page = u->refused[u->refused_tail++ % REFUSED_MAX].page;
		vac__flock_unlock(&u->lock);
	} while (page);
	return due;
}

/*
 * Nothing is allowed where the range has become bare meanwhile, and the touch that is made again finds
 * that out by itself. So may be the event of a thread that a signal has taken elsewhere: its page may be
 * mapped anew by now, and must not be marked. Only where the same thread comes again and again is the
 * page a hole that the host would not make bare (space.c).
 */
static bool insists(struct vac__uffd *u, const struct fault *fault)
{
	uintptr_t page = (uintptr_t)page_of(fault->addr);
	bool yes;

	vac__flock_lock(&u->lock);
	if (u->refused_tid != fault->tid || u->refused_page != page) {
		u->refused_tid = fault->tid;
		u->refused_page = page;
		u->refused_times = 0;
	}
	yes = ++u->refused_times > INSISTS;
	if (yes)
		u->refused_times = 0;
	vac__flock_unlock(&u->lock);
	return yes;
}

/* A write to a page that may only be read is not allowed; it is filled for reading, and the host then
 * refuses the write by itself. */
static void serve(struct vac__uffd *u, const struct fault *fault)
{
	struct vac__range *range = vac__range_get(fault->addr);
	int r = -EFAULT;

	put_off.u = fault->in_fork ? u : NULL;
	put_off.hi = 0;
	if (range) {
		vac__thread_acts_for(fault->tid, fault->in_fork);
		r = range->fn(range->arg, fault->addr, fault->access);
		if (r == -EFAULT && fault->access == VAC__WRITE)
			r = range->fn(range->arg, fault->addr, VAC__READ);
		if (r == -ENOMEM || r == -EIO || (r < 0 && insists(u, fault)))
			refuse(u, (uintptr_t)page_of(fault->addr));
		vac__thread_acts_for(0, false);
		vac__range_put(range);
	}
	vac__uffd_wake(u, page_of(fault->addr), VAC_PAGE_BYTES);
	if (put_off.u) {
		put_off.u = NULL;
		vac__uffd_wake(u, (void *)put_off.lo, put_off.hi - put_off.lo);
	}
}

static void done(struct vac__uffd *u)
{
	if (atomic_fetch_sub_explicit(&u->open, 1, memory_order_release) == 1)
		vac__port_wake(&u->open, INT_MAX);
}

static void *read_and_serve(void *arg)
{
	struct vac__uffd *u = arg;
	struct fault fault;

	while (!stopped(u)) {
		uint32_t role = READER;

		if (atomic_load(&u->role) == SERVER) {
			if (!read_events(u, true, &fault))
				continue;
			reads = u;
			serve(u, &fault);
			reads = NULL;
			done(u);
		} else if (atomic_compare_exchange_strong(&u->role, &role, WANTED) ||
			   role == WANTED) {
			vac__port_wait(&u->role, WANTED, 0);
		}
	}
	return NULL;
}

static void *handle(void *arg)
{
	struct vac__uffd *u = arg;
	bool kept = atomic_fetch_add_explicit(&u->started, 1, memory_order_relaxed) == 0;
	struct fault fault;

	for (;;) {
		uint32_t seen = atomic_load_explicit(&u->work[kept], memory_order_acquire);

		if (pop(u, &fault, kept)) {
			serve(u, &fault);
			done(u);
			continue;
		}
		if (stopped(u))
			break;
		vac__port_wait(&u->work[kept], seen, kept ? 0 : reopen(u));
	}
	return NULL;
}

void vac__uffd_quiet(struct vac__uffd *u)
{
	uint32_t n;

	while ((n = atomic_load_explicit(&u->open, memory_order_acquire)) != 0)
		vac__port_wait(&u->open, n, 0);
}

/* ---- Watching and protecting ----------------------------------------------------------------- */

static int watch(struct vac__uffd *u, void *addr, size_t bytes, uint64_t mode)
{
	struct uffdio_register r = {.range = {.start = (uintptr_t)addr, .len = bytes},
				    .mode = mode};

	return uffd_ioctl(u, UFFDIO_REGISTER, &r);
}

int vac__uffd_watch(struct vac__uffd *u, void *addr, size_t bytes)
{
	return watch(u, addr, bytes, UFFDIO_REGISTER_MODE_MISSING);
}

/* What the page table says of each page. Unprivileged, as the mark is no secret. */
static bool all_marked(const struct vac__uffd *u, uintptr_t addr, size_t bytes)
{
	uint64_t e[VAC_PAGEBLOCK_BYTES / VAC_PAGE_BYTES];

	while (bytes) {
		size_t pages = bytes / VAC_PAGE_BYTES;

		if (pages > sizeof(e) / sizeof(e[0]))
			pages = sizeof(e) / sizeof(e[0]);
		if (vac__sys_pread(u->pagemap, e, pages * sizeof(e[0]),
				   addr / VAC_PAGE_BYTES * sizeof(e[0])) !=
		    (long)(pages * sizeof(e[0])))
			return false;
		for (size_t i = 0; i < pages; i++)
			if (!(e[i] & PM_UFFD_WP))
				return false;
		addr += pages * VAC_PAGE_BYTES;
		bytes -= pages * VAC_PAGE_BYTES;
	}
	return true;
}

static int write_protect(struct vac__uffd *u, void *addr, size_t bytes, uint64_t mode)
{
	struct uffdio_writeprotect w = {.range = {.start = (uintptr_t)addr, .len = bytes},
					.mode = mode};
	int r;

	while ((r = uffd_ioctl(u, UFFDIO_WRITEPROTECT, &w)) == -EAGAIN)
		again();
	return r;
}

/* The marks of watched pages go, and who waits for them is woken. */
int vac__uffd_allow(struct vac__uffd *u, void *addr, size_t bytes)
{
	return write_protect(u, addr, bytes, 0);
}

static int mark(struct vac__uffd *u, void *addr, size_t bytes)
{
	unsigned deaf = atomic_load_explicit(&vac__uffd_test_deaf, memory_order_relaxed);
	static _Atomic unsigned calls;

	if (deaf && atomic_fetch_add(&calls, 1) % deaf == 0)
		return 0;
	return write_protect(u, addr, bytes, UFFDIO_WRITEPROTECT_MODE_WP);
}

/*
 * "Watch, then unmap from the page table": watching waits for every fault that is being served with the
 * mapping as it was, so nothing comes into the page table after it has been emptied but by reveal.
 */
int vac__uffd_blind(struct vac__uffd *u, void *addr, size_t bytes)
{
	int r = watch(u, addr, bytes,
		      UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_MISSING |
			      UFFDIO_REGISTER_MODE_WP);

	return r < 0 ? r : vac__sys_madvise(addr, bytes, MADV_DONTNEED);
}

/* Whoever waits for the pages is woken by the kernel. */
int vac__uffd_reveal(struct vac__uffd *u, void *addr, size_t bytes, bool writable)
{
	uintptr_t at = (uintptr_t)addr, end = at + bytes;
	int r = 0;

	while (at < end) {
		struct uffdio_continue c = {.range = {.start = at, .len = end - at},
					    .mode = writable ? 0 : UFFDIO_CONTINUE_MODE_WP};

		r = uffd_ioctl(u, UFFDIO_CONTINUE, &c);
		if (r == 0)
			break;
		if (c.mapped > 0) {
			at += (uintptr_t)c.mapped;
		} else if (r == -EEXIST) {
			at += VAC_PAGE_BYTES;
		} else if (r == -EAGAIN) {
			again();
		} else {
			break;
		}
		r = 0;
	}
	return r == 0 ? 0 : -ENOMEM;
}

/*
 * Measured, 2 MiB of one host page (us): watch 0.8, unmap from the page table 1.1, mark 2.5, look 3.2.
 * Where whole pageblocks leave, a huge page may be beneath; smaller runs are only seen to be marked, and so
 * is what is blind, which is mapped page by page.
 */
int vac__uffd_protect(struct vac__uffd *u, void *addr, size_t bytes, bool blind)
{
	bool careless = atomic_load_explicit(&vac__uffd_test_careless, memory_order_relaxed);
	bool zap = ((uintptr_t)addr | bytes) % VAC_PAGEBLOCK_BYTES == 0 && !careless && !blind;
	int r = watch(u, addr, bytes, UFFDIO_REGISTER_MODE_WP);

	for (int tries = 0; r == 0; tries++) {
		if (zap) {
			r = vac__sys_madvise(addr, bytes, MADV_NOHUGEPAGE);
			if (r == -EINVAL) /* a kernel without huge pages */
				r = 0;
			if (r == 0)
				r = vac__sys_madvise(addr, bytes, MADV_DONTNEED);
		}
		if (r == 0)
			r = mark(u, addr, bytes);
		if (r < 0 || careless || all_marked(u, (uintptr_t)addr, bytes))
			break;
		zap = true;
		if (tries == 16)
			r = -ENOMEM;
	}
	return r == -EAGAIN ? -ENOMEM : r;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static int open_fd(void)
{
	long fd = vac__sys(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
	int dev;

	if (fd >= 0)
		return (int)fd;
	/* Not allowed by vm.unprivileged_userfaultfd: perhaps by the rights of the device. */
	dev = fd == -EPERM ? vac__sys_open(AT_FDCWD, "/dev/userfaultfd", O_RDWR) : -ENOENT;
	if (dev >= 0) {
		fd = vac__sys(
			syscall(SYS_ioctl, dev, VAC__USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
		vac__sys_close(dev);
		if (fd == -ENOTTY) /* something else in its place, as in a container */
			fd = -EPERM;
	}
	if (fd == -EPERM) /* which from us means a child of fork() */
		fd = -EACCES;
	return fd == -ENOSYS || fd == -EINVAL ? -EOPNOTSUPP : (int)fd;
}

/* Where memory is only promised as far as there is some (vm.overcommit_memory 2), holes as large as a
 * space are out of the question. */
static bool strict_overcommit(void)
{
	char c = 0;
	int fd = vac__sys_open(AT_FDCWD, "/proc/sys/vm/overcommit_memory", O_RDONLY);

	if (fd < 0)
		return false;
	if (vac__sys_read(fd, &c, 1) != 1)
		c = '2';
	vac__sys_close(fd);
	return c == '2';
}

/*
 * valgrind runs one thread at a time, and does not notice that one sleeps in a fault: nobody would serve
 * it. It is known by the library that it loads into every program.
 */
static bool under_valgrind(void)
{
	static const char name[] = "/vgpreload_core";
	int fd = vac__sys_open(AT_FDCWD, "/proc/self/maps", O_RDONLY);
	size_t match = 0;
	bool found = false;
	char buf[1024];
	long n;

	if (fd < 0)
		return false;
	while (!found && (n = vac__sys_read(fd, buf, sizeof(buf))) > 0) {
		for (long i = 0; i < n && !found; i++) {
			match = buf[i] == name[match] ? match + 1 : buf[i] == name[0];
			found = match == sizeof(name) - 1;
		}
	}
	vac__sys_close(fd);
	return found;
}

static int open_files(struct vac__uffd *u)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

	if (under_valgrind())
		return -EOPNOTSUPP;
	u->fd = open_fd();
	if (u->fd < 0)
		return u->fd;
	if (uffd_ioctl(u, UFFDIO_API, &api) < 0 || (api.features & FEATURES) != FEATURES ||
	    strict_overcommit())
		return -EOPNOTSUPP;
	u->pagemap = vac__sys_open(AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
	if (u->pagemap < 0)
		return u->pagemap == -EMFILE ? -EMFILE : -EOPNOTSUPP;
	u->end = (int)vac__sys(syscall(SYS_eventfd2, 0, EFD_CLOEXEC));
	return u->end < 0 ? u->end : 0;
}

static unsigned wanted_handlers(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < HANDLERS_MIN ? HANDLERS_MIN : n >= HANDLERS_MAX ? HANDLERS_MAX : (unsigned)n + 1;
}

/* Stacks of our own: libc's would be as large as those of the program's threads, and cached for ever. The
 * lowest page of each is a guard. */
static int start(struct vac__uffd *u, unsigned i, pthread_t *thread, void *(*fn)(void *))
{
	char *stack = u->stacks + i * STACK_BYTES;
	pthread_attr_t attr;
	int r;

	if (vac__sys_mprotect(stack, VAC_PAGE_BYTES, PROT_NONE) < 0 || pthread_attr_init(&attr))
		return -ENOMEM;
	r = pthread_attr_setstack(&attr, stack + VAC_PAGE_BYTES, STACK_BYTES - VAC_PAGE_BYTES);
	if (!r)
		r = pthread_create(thread, &attr, fn, u);
	pthread_attr_destroy(&attr);
	return r ? -ENOMEM : 0;
}

/* They inherit the caller's mask: all signals blocked. */
static int start_threads(struct vac__uffd *u)
{
	struct vac__port_saved saved;
	int r;

	vac__port_enter(&saved);
	r = start(u, 0, &u->reader, read_for_server);
	u->reading = r == 0;
	if (r == 0)
		r = start(u, 1, &u->server, read_and_serve);
	u->serving = u->reading && r == 0;
	while (r == 0 && u->handlers + 2 < u->nr_stacks) {
		r = start(u, u->handlers + 2, &u->handler[u->handlers], handle);
		if (r == 0)
			u->handlers++;
	}
	vac__port_leave(&saved);
	return u->handlers > 1 ? 0 : r; /* one for all, and the one that is kept, will do */
}

#define UFFD_BYTES ((sizeof(struct vac__uffd) + VAC_PAGE_BYTES - 1) & ~(VAC_PAGE_BYTES - 1))
#define QUEUE_BYTES (QUEUE * sizeof(struct fault))

/* A child inherits them: libc, which keeps what it knows of a thread on its stack, looks at that there. */
static int map_stacks(struct vac__uffd *u)
{
	unsigned n = wanted_handlers() + 2;
	void *p;

	if (!vac__port_vma_charge(2 * (long)n, false))
		return -ENOMEM;
	if (vac__sys_mmap(NULL, n * STACK_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p) < 0) {
		vac__port_vma_charge(-2 * (long)n, true);
		return -ENOMEM;
	}
	u->stacks = p;
	u->nr_stacks = n;
	return 0;
}

int vac__uffd_open(struct vac__uffd **out)
{
	struct vac__uffd *u = vac__port_meta_reserve(UFFD_BYTES);
	int r;

	if (!u)
		return -ENOMEM;
	u->fd = u->pagemap = u->end = -1;
	u->queue = vac__port_table_reserve(QUEUE_BYTES);
	r = u->queue ? map_stacks(u) : -ENOMEM;
	if (r == 0)
		r = open_files(u);
	if (r == 0)
		r = start_threads(u);
	if (r < 0) {
		vac__uffd_close(u);
		return r;
	}
	vac__flock_lock(&all_lock);
	u->next = all;
	all = u;
	vac__flock_unlock(&all_lock);
	*out = u;
	return 0;
}

/* No range of the pool's is left, so nobody waits. */
void vac__uffd_close(struct vac__uffd *u)
{
	uint64_t one = 1;

	vac__flock_lock(&all_lock);
	for (struct vac__uffd **p = &all; *p; p = &(*p)->next) {
		if (*p == u) {
			*p = u->next;
			break;
		}
	}
	vac__flock_unlock(&all_lock);
	atomic_store_explicit(&u->stop, true, memory_order_release);
	announce(u, false, INT_MAX);
	announce(u, true, INT_MAX);
	for (unsigned i = 0; i < u->handlers; i++)
		pthread_join(u->handler[i], NULL);
	if (u->reading) {
		atomic_store(&u->role, NOBODY);
		vac__port_wake(&u->role, INT_MAX);
		while (vac__sys(syscall(SYS_write, u->end, &one, sizeof(one))) == -EINTR)
			;
		pthread_join(u->reader, NULL);
	}
	if (u->serving)
		pthread_join(u->server, NULL);
	if (u->end >= 0)
		vac__sys_close(u->end);
	if (u->pagemap >= 0)
		vac__sys_close(u->pagemap);
	if (u->fd >= 0)
		vac__sys_close(u->fd);
	if (u->stacks) {
		vac__sys_munmap(u->stacks, u->nr_stacks * STACK_BYTES);
		vac__port_vma_charge(-2 * (long)u->nr_stacks, true);
	}
	if (u->queue)
		vac__port_table_release(u->queue, QUEUE_BYTES);
	vac__port_meta_release(u, UFFD_BYTES);
}

/* SPDX-License-Identifier: MIT */
/*
 * The SIGSEGV guard: a touch that the host refuses reaches the engine in the thread that made it.
 *
 * One handler for the process, installed when a pool with this guard opens and it is not there. A fault
 * in no space's range (registry.c), one that the engine disowns, and every fault in a child of fork()
 * go to the handler that was there before, as if we were not.
 *
 * Invariants:
 *  - the handler path takes no lock of libc, allocates nothing and prints nothing; errno is saved;
 *  - it runs with all signals blocked, so it is never interrupted, and a fault inside it (an engine
 *    bug) ends the process at once;
 *  - it holds nothing when it calls the handler before it, which may jump away;
 */
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "port/linux/linux.h"

static struct vac__flock lock; /* guards the installation */

/* ---- What the thread wanted ------------------------------------------------------------------ */

/* VAC__READ or VAC__WRITE; 0: to execute, or unknown. Pool memory never runs, and a retry of either
 * would come back for ever. */
static unsigned access_of(const ucontext_t *uc)
{
#if defined(__x86_64__)
	unsigned long err = (unsigned long)uc->uc_mcontext.gregs[REG_ERR];

	if (err & 0x10) /* instruction fetch */
		return 0;
	return err & 2 ? VAC__WRITE : VAC__READ;
#else
	const char *p = (const char *)uc->uc_mcontext.__reserved;
	const char *end = p + sizeof(uc->uc_mcontext.__reserved);

	while (p + 16 <= end) {
		uint32_t magic, size;
		uint64_t esr;

		memcpy(&magic, p, 4);
		memcpy(&size, p + 4, 4);
		if (magic == 0x45535201) { /* ESR_MAGIC */
			memcpy(&esr, p + 8, 8);
			if ((esr >> 26 & 0x3e) != 0x24) /* not a data abort */
				return 0;
			/* Bit 6: a write; bit 8: cache maintenance, which says write and reads. */
			return (esr & 0x40) && !(esr & 0x100) ? VAC__WRITE : VAC__READ;
		}
		if (!magic || size < 8)
			break;
		p += size;
	}
	return 0;
#endif
}

/* ---- Faults that are not ours ---------------------------------------------------------------- */

/* The kernel's own record of a disposition; libc's sigaction() cannot name signals 32 and 33. Both
 * architectures lay it out alike. */
struct host_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

/*
 * The handlers that ours has been put on top of, oldest first: mostly one. A second is there when the
 * program has installed one of its own later, and then opened a pool. That one may in turn call the
 * one it had found, which is ours: it then is the turn of the next older.
 */
#define BEFORE_MAX 8
struct previous {
	struct sigaction a; /* constant once counted, but see remember() */
	_Atomic bool gone;  /* it was good for one time only (SA_RESETHAND), and has run */
};
static struct previous before[BEFORE_MAX];
static _Atomic unsigned nr_before; /* changed under lock */

/* The chain that this thread is in, to know when it comes back to us: the same signal frame again,
 * deeper in the stack. (A chain that was left by a jump stays here; another signal may have its
 * frame in the same place, but is then handled at the same depth.) */
static _Thread_local struct {
	const void *uc, *frame;
	unsigned older; /* how many handlers are older than the one that was called */
} chaining;

static void set_default(int sig)
{
	struct host_action a = {.handler = (void *)SIG_DFL};

	syscall(SYS_rt_sigaction, sig, &a, NULL, sizeof(a.mask));
}

/* Send the thread a signal that it gets when the handler returns, before the access is made again.
 * To itself a process may give any si_code, so it looks as if the kernel had sent it. */
static void queue(int sig, siginfo_t *info)
{
	syscall(SYS_rt_tgsigqueueinfo, (int)syscall(SYS_getpid), (int)syscall(SYS_gettid), sig,
		info);
}

/*
 * Die of the signal as it came: same si_addr, registers as they were. Merely to return and let the
 * access fault again would leave the process alive and without our handler if another thread had
 * mapped the page by then. Where the queued signal does not kill (the first process of a container
 * ignores what it does not handle), the second fault does.
 */
static void die(int sig, siginfo_t *info)
{
	set_default(sig);
	queue(sig, info);
}

static void chain(int sig, siginfo_t *info, ucontext_t *uc, const void *frame)
{
	bool sync = info->si_code > 0; /* a fault of this thread, not a kill() */
	unsigned n = atomic_load_explicit(&nr_before, memory_order_acquire);
	struct previous *p = NULL;
	void (*fn)(int) = SIG_DFL;
	uint64_t mask, more;

	if (chaining.uc == uc && (uintptr_t)frame < (uintptr_t)chaining.frame)
		n = chaining.older;
	if (n) {
		p = &before[n - 1];
		fn = p->a.sa_handler;
	}
	if (fn == SIG_IGN && !sync)
		return;
	if (fn == SIG_DFL || fn == SIG_IGN ||
	    (p->a.sa_flags & (int)SA_RESETHAND && atomic_exchange(&p->gone, true))) {
		die(sig, info);
		return;
	}
	chaining.uc = uc;
	chaining.frame = frame;
	chaining.older = n - 1;
	memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
	memcpy(&more, &p->a.sa_mask, sizeof(more));
	mask |= more;
	if (!(p->a.sa_flags & SA_NODEFER))
		mask |= (uint64_t)1 << (sig - 1);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
	if (p->a.sa_flags & SA_SIGINFO)
		p->a.sa_sigaction(sig, info, uc);
	else
		fn(sig);
	chaining.uc = NULL;
}

/*
 * No memory for a page: what the kernel says of a file mapping in that case. A SIGBUS handler of the
 * program gets it; without one, or with SIGBUS blocked, it is fatal, as a kernel-sent one would be.
 */
static void no_memory(const siginfo_t *segv, ucontext_t *uc, int err)
{
	struct host_action a = {0};
	uint64_t mask, bit = (uint64_t)1 << (SIGBUS - 1);
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_errno = err; /* 0 in the kernel's own */
	info.si_code = BUS_ADRERR;
	info.si_addr = segv->si_addr;
	syscall(SYS_rt_sigaction, SIGBUS, NULL, &a, sizeof(a.mask));
	memcpy(&mask, &uc->uc_sigmask, sizeof(mask));
	if (a.handler == (void *)SIG_DFL || a.handler == (void *)SIG_IGN || mask & bit) {
		set_default(SIGBUS);
		set_default(SIGSEGV); /* if the first does not kill, the access made again does */
		mask &= ~bit;
		memcpy(&uc->uc_sigmask, &mask, sizeof(mask));
	}
	queue(SIGBUS, &info);
}

/* ---- The handler ----------------------------------------------------------------------------- */

static void on_segv(int sig, siginfo_t *info, void *arg)
{
	ucontext_t *uc = arg;
	int saved = errno, r = -EFAULT;
	uintptr_t addr = (uintptr_t)info->si_addr;
	struct vac__range *s = NULL;
	unsigned access;

	if ((info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR) && !vac__port_forked() &&
	    (access = access_of(uc)) != 0)
		s = vac__range_get(addr);
	if (s) {
		r = s->fn(s->arg, addr, access);
		vac__range_put(s);
	}
	if (r == -ENOMEM || r == -EIO)
		no_memory(info, uc, -r);
	errno = saved;
	if (r != 0 && r != -ENOMEM && r != -EIO)
		chain(sig, info, uc, __builtin_frame_address(0));
}

/* Under lock. One that is known already has come back: those above it have been taken away. */
static void remember(const struct sigaction *a)
{
	unsigned n = atomic_load_explicit(&nr_before, memory_order_relaxed), i = 0;

	while (i < n &&
	       (before[i].a.sa_handler != a->sa_handler || before[i].a.sa_flags != a->sa_flags))
		i++;
	if (i == BEFORE_MAX)
		i--;
	before[i].a = *a;
	atomic_store_explicit(&before[i].gone, false, memory_order_relaxed);
	atomic_store_explicit(&nr_before, i + 1, memory_order_release);
}

/*
 * Whoever opens a pool wants its faults served, so a handler that has been put in our place since
 * the last time (a test framework does so for each test) is put behind us now.
 *
 * libc installs ours, so that the restorer (and under a sanitizer, the wrapper) is right; then its
 * mask is made full in the kernel: libc leaves its own two signals out of any sigset, and one of them
 * may cancel the thread in the middle of the engine.
 */
int vac__guard_install(void)
{
	struct sigaction a, old;
	struct host_action h;
	int r = 0;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_segv;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigfillset(&a.sa_mask);
	vac__flock_lock(&lock);
	if (sigaction(SIGSEGV, NULL, &old)) {
		r = -errno;
	} else if (old.sa_sigaction != on_segv) {
		remember(&old); /* before the first fault can need it */
		if (sigaction(SIGSEGV, &a, NULL)) {
			r = -errno;
		} else if (!syscall(SYS_rt_sigaction, SIGSEGV, NULL, &h, sizeof(h.mask))) {
			h.mask = ~(uint64_t)0;
			syscall(SYS_rt_sigaction, SIGSEGV, &h, NULL, sizeof(h.mask));
		}
	}
	vac__flock_unlock(&lock);
	return r;
}

/* SPDX-License-Identifier: MIT */
/*
 * Threads: clock, identity, waiting, masks, stacks, and the end of a program whose invariants broke.
 *
 * Invariants:
 *  - now, tid, wait, wake, enter, leave and stack are safe in the SIGSEGV handler: no libc lock, no
 *    allocation. thread_name and symbol are for reports and are not.
 *  - all thread-local variables are of the initial-exec model, since the dynamic one allocates on
 *    the first touch in a thread, which may be in the handler.
 */
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unwind.h>

#include "port/linux/linux.h"

static _Thread_local uint32_t self_tid; /* 0: not asked yet */
static _Thread_local struct vac__held held;

static uint64_t read_clock(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t vac__port_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t vac__port_now_thread(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
uint64_t vac__port_now_coarse(void)
{
	return read_clock(CLOCK_MONOTONIC_COARSE);
}

/*
 * A child of fork() inherits the cached number of its parent's thread. The child handler of
 * pthread_atfork() forgets it, and for those who leave that out (_Fork, raw clone) the mark that
 * fork.c keeps in memory wiped by the kernel makes the cache void.
 */
static _Thread_local uint32_t acting;
static _Thread_local bool acting_in_fork;

void vac__thread_acts_for(uint32_t tid, bool in_fork)
{
	acting = tid;
	acting_in_fork = in_fork;
}

bool vac__port_in_fork(void)
{
	return acting ? acting_in_fork : vac__fork_by((uint32_t)syscall(SYS_gettid));
}

uint32_t vac__thread_acting(void)
{
	return acting;
}

uint32_t vac__port_tid(void)
{
	uint32_t tid = self_tid;

	if (acting)
		return acting;
	if (tid && !vac__port_forked())
		return tid;
	vac__fork_init();
	tid = (uint32_t)syscall(SYS_gettid);
	if (!vac__port_forked())
		self_tid = tid;
	return tid;
}

void vac__thread_forked(void)
{
	self_tid = 0;
	held.depth = 0;
}

/* FUTEX_WAIT_BITSET takes an absolute time of the monotonic clock; FUTEX_WAIT a relative one, which
 * a thread that is interrupted again and again would never reach. */
int vac__port_wait(const _Atomic uint32_t *addr, uint32_t expect, uint64_t deadline_ns)
{
	struct timespec t, *tp = NULL;
	long r;

	vac__uffd_pause();
	if (deadline_ns) {
		t.tv_sec = (time_t)(deadline_ns / 1000000000u);
		t.tv_nsec = (long)(deadline_ns % 1000000000u);
		tp = &t;
	}
	r = vac__sys(syscall(SYS_futex, addr, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expect, tp,
			     NULL, FUTEX_BITSET_MATCH_ANY));
	if (r == -EAGAIN || r == -ETIMEDOUT)
		return (int)r;
	if (r == 0 || r == -EINTR)
		return 0;
	vac__port_panic(__FILE__, __LINE__, "futex wait failed");
}

/* A private futex is a number to the kernel: waking looks at no memory. */
int vac__port_wake(const _Atomic uint32_t *addr, int n)
{
	long r = syscall(SYS_futex, addr, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, NULL, NULL, 0);

	return r > 0 ? (int)r : 0;
}

void vac__port_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("yield" ::: "memory");
#endif
}

/*
 * All signals, also the two that libc keeps for itself and that pthread_sigmask() leaves out: one
 * starts an asynchronous cancellation, the other a setuid() asked for by another thread; both run
 * handlers, and both can wait until the engine lets go. Signals go first and come back last, so
 * that no handler runs while cancellation is disabled on its behalf (it might never return).
 */
void vac__port_enter(struct vac__port_saved *saved)
{
	uint64_t all = ~(uint64_t)0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, saved->mask, sizeof(all));
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved->cancel);
}

void vac__port_leave(const struct vac__port_saved *saved)
{
	pthread_setcancelstate(saved->cancel, NULL);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, saved->mask, NULL, sizeof(uint64_t));
}

struct vac__held *vac__port_held(void)
{
	return &held;
}

static _Thread_local struct vac__lack lack;

struct vac__lack *vac__port_lack(void)
{
	return &lack;
}

static void complain(const char *s)
{
	long r = syscall(SYS_write, 2, s, strlen(s));

	(void)r; /* there is nobody left to tell */
}

_Noreturn void vac__port_panic(const char *file, int line, const char *what)
{
	char digits[12], *p = digits + sizeof(digits) - 1;
	unsigned n = line > 0 ? (unsigned)line : 0;

	*p = 0;
	do {
		*--p = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	complain("vacate: ");
	complain(file);
	complain(":");
	complain(p);
	complain(": ");
	complain(what);
	complain("\n");
	abort();
}

struct trace {
	uintptr_t *pc;
	unsigned n, max, skip;
};

static _Unwind_Reason_Code trace_step(struct _Unwind_Context *uc, void *arg)
{
	struct trace *t = arg;
	uintptr_t pc = _Unwind_GetIP(uc);

	if (!pc)
		return _URC_END_OF_STACK;
	if (t->skip) {
		t->skip--;
		return _URC_NO_REASON;
	}
	t->pc[t->n++] = pc;
	return t->n < t->max ? _URC_NO_REASON : _URC_END_OF_STACK;
}

/*
 * By the unwind tables: following frame pointers would read wild memory in a program that is built
 * without them. The unwinder of libgcc is a library that gcc links where needed, so it is there
 * from the start; where libc lacks _dl_find_object() (before 2.35) it takes the loader's lock, which
 * a pin taken inside dlopen() holds already, and may take again.
 * The first two frames are this function and the one that wants the stack of its caller.
 */
__attribute__((noinline)) unsigned vac__port_stack(uintptr_t *pc, unsigned max)
{
	struct trace t = {.pc = pc, .max = max, .skip = 2};

	if (max)
		_Unwind_Backtrace(trace_step, &t);
	return t.n;
}

void vac__port_thread_name(uint32_t tid, char *buf, size_t bytes)
{
	char path[48];
	long n = 0;
	int fd;

	if (!bytes)
		return;
	snprintf(path, sizeof(path), "/proc/self/task/%u/comm", tid);
	fd = vac__sys_open(AT_FDCWD, path, O_RDONLY);
	if (fd >= 0) {
		n = vac__sys_read(fd, buf, bytes - 1);
		vac__sys_close(fd);
	}
	if (n < 0)
		n = 0;
	if (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[n] = 0;
}

/* pc is a return address: the byte before it belongs to the call, and so to the right function
 * even if the call is the last thing there. */
void vac__port_symbol(uintptr_t pc, char *buf, size_t bytes)
{
	const char *module;
	Dl_info info;

	if (!bytes)
		return;
	buf[0] = 0;
	if (!pc || !dladdr((void *)(pc - 1), &info) || !info.dli_fname)
		return;
	module = strrchr(info.dli_fname, '/');
	module = module ? module + 1 : info.dli_fname;
	if (info.dli_sname)
		snprintf(buf, bytes, "%s+0x%lx (%s)", info.dli_sname,
			 (unsigned long)(pc - (uintptr_t)info.dli_saddr), module);
	else
		snprintf(buf, bytes, "%s+0x%lx", module,
			 (unsigned long)(pc - (uintptr_t)info.dli_fbase));
}

/* SPDX-License-Identifier: MIT */
/*
 * port/linux/guard_sigsegv.c: which faults reach the engine and what they look like, and that all
 * others look as if the guard were not there. Most of it ends a process, or depends on what was
 * installed before the first pool: each such case runs in a process of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/port.h"
#include "tests/util_port.h"

#define UNUSED __attribute__((unused))

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* The thread sanitizer calls a handler with an errno of its own, to see whether it is restored. */
#if defined(__SANITIZE_THREAD__)
#define ERRNO_IS(e) true
#else
#define ERRNO_IS(e) ((e) == EDOM)
#endif

static const struct vac__mem_ops *const ops = &vac__port_mem_ops;

/* A pool with one block, and a space whose faults are answered by `answer`, or served. */
static struct {
	void *ctx, *direct;
	struct vac__backing b;
	char *space;
	int answer;
	_Atomic unsigned reads, writes;
	_Atomic uintptr_t addr;
	_Atomic uint64_t mask; /* blocked while the fault was served */
} f;

static uint64_t blocked_signals(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof(mask));
	return mask;
}

static int serve(void *arg UNUSED, uintptr_t addr, unsigned access)
{
	uintptr_t page = addr & ~(PAGE - 1);

	f.addr = addr;
	f.mask = blocked_signals();
	errno = EXDEV;
	if (access == VAC__READ)
		f.reads++;
	else if (access == VAC__WRITE)
		f.writes++;
	else
		return -EFAULT;
	if (f.answer)
		return f.answer;
	return ops->map(f.ctx, (void *)page, PAGE, &f.b, page - (uintptr_t)f.space,
			access == VAC__WRITE ? VAC__READ | VAC__WRITE : VAC__READ);
}

static void setup(void)
{
	int guard = VAC_GUARD_SIGSEGV;
	void *p;

	MUST(ops->open(&f.ctx, "guard", &guard, 0) == 0);
	MUST(ops->direct_reserve(f.ctx, 4 * PB, PB, &f.direct) == 0);
	MUST(ops->block_open(f.ctx, 0, 4 * PB, f.direct, &f.b) == 0);
	MUST(ops->space_reserve(f.ctx, 4 * PB, serve, &f, &p) == 0);
	f.space = p;
}

/* A mapping of the program's own that may not be touched. */
static char *foreign(void)
{
	char *p = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p != MAP_FAILED);
	return p;
}

__attribute__((noinline)) static void poke(char *p)
{
	*(volatile char *)p = 1;
}

__attribute__((noinline)) static char peek(const char *p)
{
	return *(const volatile char *)p;
}

/* ---- Faults that are the engine's ------------------------------------------------------------- */

static void case_access(void)
{
	uint64_t before = blocked_signals();
	volatile double x = 1.5, y;

	setup();
	errno = EDOM;
	MUST(peek(f.space + 100) == 0);
	MUST(f.reads == 1 && f.writes == 0 && f.addr == (uintptr_t)f.space + 100);
	MUST(errno == EDOM);
	MUST((f.mask | (uint64_t)1 << (SIGKILL - 1) | (uint64_t)1 << (SIGSTOP - 1)) ==
	     ~(uint64_t)0);
	MUST(blocked_signals() == before);
	poke(f.space + 200); /* mapped, but read-only */
	MUST(f.reads == 1 && f.writes == 1 && f.addr == (uintptr_t)f.space + 200);
	poke(f.space + 201);
	MUST(f.writes == 1);
	/* Absent, and written first: a plain store, an atomic, a block store. */
	poke(f.space + PAGE);
	MUST(f.writes == 2);
	atomic_fetch_add((_Atomic uint64_t *)(void *)(f.space + 2 * PAGE), 5);
	MUST(f.reads == 1 && f.writes == 3);
	memset(f.space + 3 * PAGE, 3, PAGE);
	MUST(f.reads == 1 && f.writes == 4);
	*(volatile double *)(void *)(f.space + 4 * PAGE) = x * 2; /* registers survive */
	y = *(volatile double *)(void *)(f.space + 4 * PAGE);
	MUST(y == 3.0);
	/* From one page into the next: two faults, one instruction. */
	f.reads = 0;
	__builtin_memcpy((void *)&y, f.space + 7 * PAGE - 4, 8);
	MUST(f.reads == 2);
	MUST(*(uint64_t *)(void *)((char *)f.direct + 2 * PAGE) == 5);
}

static void case_exec(void)
{
	void (*fn)(void);

	setup();
	MUST(peek(f.space) == 0);
	memcpy(&fn, &(char *){f.space}, sizeof(fn));
	fn();
}

/* The kernel writes the frame to the alternate stack, and the handler runs there. */
static void *on_small_stack(void *arg UNUSED)
{
	static char alt[128 << 10];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};

	MUST(sigaltstack(&ss, NULL) == 0);
	poke(f.space);
	ss.ss_flags = SS_DISABLE;
	sigaltstack(&ss, NULL);
	return NULL;
}

static void case_altstack(void)
{
	pthread_attr_t a;
	pthread_t t;

	setup();
	pthread_attr_init(&a);
	MUST(pthread_attr_setstacksize(&a, 16384 + (SANITIZED ? 1 << 18 : 0)) == 0);
	MUST(pthread_create(&t, &a, on_small_stack, NULL) == 0);
	pthread_join(t, NULL);
	MUST(f.writes == 1);
}

/* How much stack the guard's own part takes below the signal frame: within what the manual says. */
static void *on_plain_stack(void *arg UNUSED)
{
	for (int i = 0; i < 100; i++)
		poke(f.space + (size_t)i * PAGE);
	return NULL;
}

static void case_small_stack(void)
{
	pthread_attr_t a;
	pthread_t t;

	setup();
	pthread_attr_init(&a);
	MUST(pthread_attr_setstacksize(&a, (40 << 10) + (SANITIZED ? 1 << 18 : 0)) == 0);
	MUST(pthread_create(&t, &a, on_plain_stack, NULL) == 0);
	pthread_join(t, NULL);
	MUST(f.writes == 100);
}

/* ---- Faults that are not ---------------------------------------------------------------------- */

static sigjmp_buf back;
static siginfo_t seen;
static volatile sig_atomic_t calls;
static volatile uint64_t seen_mask;
static volatile int seen_errno;

static void previous_info(int sig, siginfo_t *info, void *uc UNUSED)
{
	seen = *info;
	seen.si_signo = sig;
	seen_mask = blocked_signals();
	seen_errno = errno;
	calls++;
	siglongjmp(back, 1);
}

static void previous_plain(int sig UNUSED)
{
	seen_mask = blocked_signals();
	calls++;
	siglongjmp(back, 1);
}

static void install(void (*fn)(int), int flags, int also)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_handler = fn;
	a.sa_flags = flags;
	if (also)
		sigaddset(&a.sa_mask, also);
	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
}

static void install_info(int flags, int also)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = previous_info;
	a.sa_flags = flags | SA_SIGINFO;
	if (also)
		sigaddset(&a.sa_mask, also);
	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
}

#define BIT(sig) ((uint64_t)1 << ((sig)-1))

static void case_previous_info(void)
{
	uint64_t before = blocked_signals();
	char *p = foreign();

	install_info(0, SIGUSR2);
	setup();
	for (int i = 1; i <= 3; i++) {
		errno = EDOM;
		if (!sigsetjmp(back, 1))
			poke(p + 5);
		MUST(calls == i && seen.si_addr == p + 5 && seen.si_code == SEGV_ACCERR);
		MUST(ERRNO_IS(seen_errno));
		MUST(seen_mask == (before | BIT(SIGSEGV) | BIT(SIGUSR2)));
		MUST(blocked_signals() == before);
	}
	poke(f.space); /* and ours still come to us */
	MUST(calls == 3 && f.writes == 1);
	f.answer = -EFAULT; /* one that the engine disowns */
	if (!sigsetjmp(back, 1))
		poke(f.space + 3 * PAGE);
	MUST(calls == 4 && seen.si_addr == f.space + 3 * PAGE);
	munmap(p, PAGE);
	if (!sigsetjmp(back, 1))
		poke(p);
	MUST(calls == 5 && seen.si_code == SEGV_MAPERR);
	if (!sigsetjmp(back, 1))
		raise(SIGSEGV); /* not a fault at all */
	MUST(calls == 6 && seen.si_code <= 0 && seen.si_pid == getpid());
}

static void case_previous_nodefer(void)
{
	uint64_t before = blocked_signals();
	char *p = foreign();

	install_info(SA_NODEFER, 0);
	setup();
	if (!sigsetjmp(back, 1))
		poke(p);
	MUST(calls == 1 && seen_mask == before);
}

static void case_previous_resethand(void)
{
	char *p = foreign();

	install(previous_plain, (int)SA_RESETHAND, 0);
	setup();
	if (!sigsetjmp(back, 1))
		poke(p);
	MUST(calls == 1 && (seen_mask & BIT(SIGSEGV)));
	poke(f.space);
	MUST(f.writes == 1);
	poke(p); /* was good for one time */
}

/* One that was installed later and calls what it found, which is ours; then a pool is opened. */
static struct sigaction found;
static volatile sig_atomic_t later_calls;

static void later(int sig, siginfo_t *info, void *uc)
{
	later_calls++;
	found.sa_sigaction(sig, info, uc);
}

static void case_previous_later(void)
{
	int guard = VAC_GUARD_SIGSEGV;
	char *p = foreign();
	struct sigaction a;
	void *ctx;

	install_info(0, 0);
	setup();
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = later;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(SIGSEGV, &a, &found) == 0);
	poke(f.space);
	MUST(later_calls == 1 && f.writes == 1); /* as the manual says: it chains */
	MUST(ops->open(&ctx, "again", &guard, 0) == 0);
	poke(f.space + PAGE);
	MUST(later_calls == 1 && f.writes == 2 && calls == 0);
	for (int i = 1; i <= 3; i++) {
		if (!sigsetjmp(back, 1))
			poke(p);
		MUST(later_calls == 1 + i && calls == i);
	}
	poke(f.space + 2 * PAGE);
	MUST(later_calls == 4 && f.writes == 3);
}

static void case_default(void)
{
	setup();
	poke(foreign());
}

static void case_default_low(void)
{
	setup();
	poke((char *)(uintptr_t)(8 + blocked_signals() % 2)); /* not a constant */
}

static void case_disowned(void)
{
	setup();
	f.answer = -EFAULT;
	poke(f.space);
}

static void case_ignored(void)
{
	signal(SIGSEGV, SIG_IGN);
	setup();
	kill(getpid(), SIGSEGV);
	raise(SIGSEGV);
	poke(f.space);
	MUST(f.writes == 1);
	dprintf(2, "still here\n");
	poke(foreign());
}

static void case_killed(void)
{
	setup();
	kill(getpid(), SIGSEGV);
	sleep_ms(1000);
}

static void case_child(void)
{
	int pid, status;

	setup();
	poke(f.space);
	pid = fork();
	if (pid == 0) {
		poke(f.space);
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid);
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	MUST(f.writes == 1);
}

static void case_released(void)
{
	char *old;

	setup();
	old = f.space;
	poke(old);
	ops->space_release(f.ctx, f.space, 4 * PB);
	poke(old);
}

/* ---- No memory -------------------------------------------------------------------------------- */

static void case_bus(void)
{
	setup();
	f.answer = -ENOMEM;
	poke(f.space);
}

static void case_bus_ignored(void)
{
	signal(SIGBUS, SIG_IGN);
	case_bus();
}

static void case_bus_blocked(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGBUS);
	sigprocmask(SIG_BLOCK, &s, NULL);
	signal(SIGBUS, previous_plain);
	case_bus();
}

static void on_bus(int sig, siginfo_t *info, void *uc UNUSED)
{
	seen = *info;
	MUST(sig == SIGBUS);
	calls++;
	if (calls % 2)
		siglongjmp(back, 1);
	f.answer = 0; /* memory was found: try again */
}

static void case_bus_handler(void)
{
	struct sigaction a;

	setup();
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_bus;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(SIGBUS, &a, NULL) == 0);
	f.answer = -ENOMEM;
	errno = EDOM;
	if (!sigsetjmp(back, 1))
		poke(f.space + 77);
	MUST(calls == 1 && ERRNO_IS(errno));
	MUST(seen.si_signo == SIGBUS && seen.si_code == BUS_ADRERR && seen.si_addr == f.space + 77);
	poke(f.space + 77);
	MUST(calls == 2 && f.writes == 3);
	MUST(*((char *)f.direct + 77) == 1);
}

/* ---- The registry ----------------------------------------------------------------------------- */

static _Atomic uint32_t hold, serving;
static _Atomic int released;

static int slow(void *arg UNUSED, uintptr_t addr UNUSED, unsigned access UNUSED)
{
	serving++;
	while (!hold)
		vac__port_wait(&hold, 0, 0);
	return 0;
}

static void *touch(void *p)
{
	poke(p);
	return NULL;
}

static void *release(void *p)
{
	struct vac__port_saved s;

	vac__port_enter(&s);
	ops->space_release(f.ctx, p, 4 * PB);
	vac__port_leave(&s);
	released = 1;
	return NULL;
}

/* A release waits for the faults that are being served. They are answered "try again", and then
 * the range is nobody's: the threads, whose touch is a bug, get a true SIGSEGV. */
static void case_release_waits(void)
{
	pthread_t t[2], r;
	void *p;

	setup();
	ops->space_release(f.ctx, f.space, 4 * PB);
	MUST(ops->space_reserve(f.ctx, 4 * PB, slow, NULL, &p) == 0);
	f.space = p;
	pthread_create(&t[0], NULL, touch, (char *)p + 10);
	pthread_create(&t[1], NULL, touch, (char *)p + PAGE);
	while (serving < 2)
		sleep_ms(1);
	pthread_create(&r, NULL, release, p);
	sleep_ms(50);
	MUST(!released);
	dprintf(2, "waits\n");
	hold = 1;
	vac__port_wake(&hold, 100);
	pthread_join(r, NULL);
	sleep_ms(1000);
}

#define MANY 8192

static int which(void *arg, uintptr_t addr UNUSED, unsigned access UNUSED)
{
	f.addr = (uintptr_t)arg;
	return -ENOMEM;
}

static void case_many(void)
{
	static void *p[MANY];
	struct sigaction a;
	void *extra;

	setup();
	ops->space_release(f.ctx, f.space, 4 * PB);
	for (uintptr_t i = 0; i < MANY; i++)
		MUST(ops->space_reserve(f.ctx, PB, which, (void *)i, &p[i]) == 0);
	MUST(ops->space_reserve(f.ctx, PB, which, NULL, &extra) == -ENOSPC);
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = previous_info;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(SIGBUS, &a, NULL) == 0);
	for (uintptr_t i = 0; i < MANY; i += 97) {
		if (!sigsetjmp(back, 1))
			poke((char *)p[i] + PB - 1);
		MUST(f.addr == i && seen.si_addr == (char *)p[i] + PB - 1);
	}
	for (uintptr_t i = 0; i < MANY; i += 2)
		ops->space_release(f.ctx, p[i], PB);
	MUST(ops->space_reserve(f.ctx, PB, which, (void *)MANY, &extra) == 0);
	if (!sigsetjmp(back, 1))
		poke(extra);
	MUST(f.addr == MANY);
	if (!sigsetjmp(back, 1))
		poke(p[1]);
	MUST(f.addr == 1);
}

/* Ranges come and go while other threads fault all the time. */
static _Atomic bool stop;

static void *toucher(void *arg)
{
	char *p = f.space + (uintptr_t)arg * PB;
	struct vac__port_saved s;

	while (!stop) {
		poke(p);
		vac__port_enter(&s);
		MUST(ops->unmap(f.ctx, p, PAGE) == 0);
		vac__port_leave(&s);
	}
	return NULL;
}

static void case_registry_churn(void)
{
	struct vac__port_saved s;
	pthread_t t[2];
	void *p[16];

	setup();
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, toucher, (void *)i);
	/* On a busy machine the others may not have had a turn yet. */
	for (unsigned n = 0; n < scaled(500) || f.writes <= 10; n++) {
		vac__port_enter(&s);
		for (int i = 0; i < 16; i++)
			MUST(ops->space_reserve(f.ctx, PB, serve, NULL, &p[i]) == 0);
		for (int i = 0; i < 16; i++)
			ops->space_release(f.ctx, p[(i * 5) % 16], PB);
		vac__port_leave(&s);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	MUST(f.reads == 0 && f.writes > 10);
}

static void case_open_guards(void)
{
	int guard = VAC_GUARD_USERFAULTFD;
	void *ctx;

	int r = ops->open(&ctx, "x", &guard, 0);

	MUST(r == -EOPNOTSUPP || r == -EACCES || (r == 0 && guard == VAC_GUARD_USERFAULTFD));
	guard = VAC_GUARD_AUTO;
	MUST(ops->open(&ctx, "x", &guard, 0) == 0);
	MUST(guard == (r ? VAC_GUARD_SIGSEGV : VAC_GUARD_USERFAULTFD));
	guard = 77;
	MUST(ops->open(&ctx, "x", &guard, 0) == -EINVAL);
	guard = VAC_GUARD_SIGSEGV;
	MUST(ops->open(&ctx, NULL, &guard, 0) == 0 && guard == VAC_GUARD_SIGSEGV);
}

/* ---- The tests -------------------------------------------------------------------------------- */

static void passes(const char *name)
{
	char err[512];

	assert_int_equal(case_run(name, err, sizeof(err)), 0);
}

static void dies(const char *name, int sig)
{
	char err[512];
	int status = case_run(name, err, sizeof(err));

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
}

static void dies_saying(const char *name, int sig, const char *what)
{
	char err[512];
	int status = case_run(name, err, sizeof(err));

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
	assert_string_equal(err, what);
}

static void test_open_guards(void **state UNUSED)
{
	passes("open_guards");
}

static void test_access(void **state UNUSED)
{
	passes("access");
}

/* Would come back for ever if it were taken for a read. */
static void test_exec(void **state UNUSED)
{
	dies("exec", SIGSEGV);
}

static void test_altstack(void **state UNUSED)
{
	passes("altstack");
}

static void test_small_stack(void **state UNUSED)
{
	passes("small_stack");
}

static void test_previous_info(void **state UNUSED)
{
	passes("previous_info");
}

static void test_previous_later(void **state UNUSED)
{
	passes("previous_later");
}

static void test_previous_nodefer(void **state UNUSED)
{
	passes("previous_nodefer");
}

static void test_previous_resethand(void **state UNUSED)
{
	dies("previous_resethand", SIGSEGV);
}

static void test_default(void **state UNUSED)
{
	dies("default", SIGSEGV);
	dies("default_low", SIGSEGV);
	dies("disowned", SIGSEGV);
	dies("killed", SIGSEGV);
	dies("released", SIGSEGV);
}

static void test_ignored(void **state UNUSED)
{
	dies_saying("ignored", SIGSEGV, "still here\n");
}

static void test_child(void **state UNUSED)
{
	passes("child");
}

static void test_bus(void **state UNUSED)
{
	dies("bus", SIGBUS);
	dies("bus_ignored", SIGBUS);
	dies("bus_blocked", SIGBUS);
}

static void test_bus_handler(void **state UNUSED)
{
	passes("bus_handler");
}

static void test_release_waits(void **state UNUSED)
{
	dies_saying("release_waits", SIGSEGV, "waits\n");
}

static void test_many(void **state UNUSED)
{
	passes("many");
}

static void test_registry_churn(void **state UNUSED)
{
	passes("registry_churn");
}

#if defined(__x86_64__)
/* As a debugger sees it: the signal that kills has the address of the fault, and the registers are
 * those of the instruction that made it. */
static void test_death_is_true(void **state UNUSED)
{
	struct user_regs_struct at_fault, at_death;
	siginfo_t first, last;
	int status, fd, pid = case_start("disowned", &fd, true), n = 0;

	assert_true(pid > 0);
	memset(&first, 0, sizeof(first));
	memset(&last, 0, sizeof(last));
	for (;;) {
		int sig;

		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSTOPPED(status))
			break;
		sig = WSTOPSIG(status);
		if (sig == SIGTRAP)
			sig = 0; /* exec */
		if (sig == SIGSEGV) {
			ptrace(PTRACE_GETSIGINFO, pid, NULL, n ? &last : &first);
			ptrace(PTRACE_GETREGS, pid, NULL, n ? &at_death : &at_fault);
			n++;
		}
		ptrace(PTRACE_CONT, pid, NULL, (void *)(intptr_t)sig);
	}
	close(fd);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	assert_int_equal(n, 2);
	assert_ptr_equal(first.si_addr, last.si_addr);
	assert_int_equal(first.si_code, last.si_code);
	assert_int_equal(at_fault.rip, at_death.rip);
	assert_int_equal(at_fault.rsp, at_death.rsp);
}
#endif

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"open_guards", case_open_guards},
		{"access", case_access},
		{"exec", case_exec},
		{"altstack", case_altstack},
		{"small_stack", case_small_stack},
		{"previous_info", case_previous_info},
		{"previous_later", case_previous_later},
		{"previous_nodefer", case_previous_nodefer},
		{"previous_resethand", case_previous_resethand},
		{"default", case_default},
		{"default_low", case_default_low},
		{"disowned", case_disowned},
		{"ignored", case_ignored},
		{"killed", case_killed},
		{"child", case_child},
		{"released", case_released},
		{"bus", case_bus},
		{"bus_ignored", case_bus_ignored},
		{"bus_blocked", case_bus_blocked},
		{"bus_handler", case_bus_handler},
		{"release_waits", case_release_waits},
		{"many", case_many},
		{"registry_churn", case_registry_churn},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_guards),
		cmocka_unit_test(test_access),
		cmocka_unit_test(test_exec),
		cmocka_unit_test(test_altstack),
		cmocka_unit_test(test_small_stack),
		cmocka_unit_test(test_previous_info),
		cmocka_unit_test(test_previous_later),
		cmocka_unit_test(test_previous_nodefer),
		cmocka_unit_test(test_previous_resethand),
		cmocka_unit_test(test_default),
		cmocka_unit_test(test_ignored),
		cmocka_unit_test(test_child),
		cmocka_unit_test(test_bus),
		cmocka_unit_test(test_bus_handler),
		cmocka_unit_test(test_release_waits),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_registry_churn),
#if defined(__x86_64__)
		cmocka_unit_test(test_death_is_true),
#endif
	};

	case_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * host/suspend.c and host/kill.c on processes of this machine that the test has made: stopped in every way,
 * and going on in every case, also when the guardian, or who asked him, is killed. The same against a kernel
 * whose memory leaves is tests/guest.
 *
 * runtests: variants=normal,asan
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/act.h"
#include "host/suspend.h"

#define UNUSED __attribute__((unused))
#define THREADS 4
#define SOON_MS 20000 /* for what must happen, on a machine that has other work */

/* What host.c would give: only the message matters here. */
int host_fail(struct host *h, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(h->message, sizeof(h->message), fmt, ap);
	va_end(ap);
	return err;
}

/* ---- Holders ---- */

struct shared {
	atomic_ulong count[THREADS]; /* each thread's own, ever growing */
	atomic_ulong threads;        /* made and ended so far */
	atomic_int ready;
};

struct holder {
	pid_t pid;
	uint64_t start;
	struct shared *s;
};

static struct shared *shared;

static void *count_on(void *arg)
{
	atomic_ulong *c = arg;

	for (;;) {
		atomic_fetch_add(c, 1);
		usleep(200);
	}
	return NULL;
}

static void *end_at_once(void *arg)
{
	(void)arg;
	atomic_fetch_add(&shared->threads, 1);
	return NULL;
}

/* Makes a thread after the other, while the others count. */
static void spawn_on(void)
{
	for (;;) {
		pthread_t t;

		if (!pthread_create(&t, NULL, end_at_once, NULL))
			pthread_join(t, NULL);
	}
}

static struct holder start(bool spawning)
{
	struct holder h = {
		.s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};

	assert_ptr_not_equal(h.s, MAP_FAILED);
	h.pid = fork();
	assert_true(h.pid >= 0);
	if (!h.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		shared = h.s;
		for (int i = 0; i < THREADS; i++) {
			pthread_t t;

			if (pthread_create(&t, NULL, count_on, &shared->count[i]))
				_exit(1);
		}
		atomic_store(&shared->ready, 1);
		if (spawning)
			spawn_on();
		for (;;)
			pause();
	}
	while (!atomic_load(&h.s->ready))
		usleep(1000);
	h.start = host_start_ticks(h.pid);
	assert_int_not_equal(h.start, 0);
	return h;
}

static void end(struct holder *h)
{
	kill(h->pid, SIGKILL);
	waitpid(h->pid, NULL, 0);
	munmap(h->s, 4096);
}

static unsigned long sum(const struct holder *h)
{
	unsigned long n = atomic_load(&h->s->threads);

	for (int i = 0; i < THREADS; i++)
		n += atomic_load(&h->s->count[i]);
	return n;
}

/* Every thread counts again. */
static void expect_runs(const struct holder *h)
{
	for (int i = 0; i < THREADS; i++) {
		unsigned long before = atomic_load(&h->s->count[i]);

		for (int ms = 0; atomic_load(&h->s->count[i]) == before; ms++) {
			assert_true(ms < SOON_MS);
			usleep(1000);
		}
	}
}

/* None of them does: not for as long as the slowest would need for many rounds. */
static void expect_still(const struct holder *h)
{
	unsigned long before = sum(h);

	usleep(200000);
	assert_int_equal(sum(h), before);
}

static void suspended(struct host_suspend *s, const struct holder *h, enum host_how how)
{
	enum host_how used;
	int err = host_suspend_add(s, h->pid, h->start, how, &used);

	assert_true(err == 0 || err == -EINPROGRESS);
	if (how != HOST_HOW_AUTO)
		assert_int_equal(used, how);
	if (err == -EINPROGRESS)
		sleep(1); /* a machine that is slow to stop a thread */
	expect_still(h);
}

/* ---- Cases ---- */

static void goes_on(enum host_how how)
{
	struct holder h = start(false);
	struct host_suspend *s = host_suspend_start();
	int status;

	assert_non_null(s);
	suspended(s, &h, how);
	host_suspend_end(s);
	expect_runs(&h);
	/* Nobody was told of an end; a debugger's stop is not even seen by the parent. */
	if (how == HOST_HOW_TRACE)
		assert_int_equal(waitpid(h.pid, &status, WNOHANG | WUNTRACED | WCONTINUED), 0);
	end(&h);
}

static void test_trace(void **state UNUSED)
{
	goes_on(HOST_HOW_TRACE);
}

static void test_stop(void **state UNUSED)
{
	goes_on(HOST_HOW_STOP);
}

static void test_auto_is_trace(void **state UNUSED)
{
	struct holder h = start(false);
	struct host_suspend *s = host_suspend_start();
	enum host_how used;
	int err;

	assert_non_null(s);
	err = host_suspend_add(s, h.pid, h.start, HOST_HOW_AUTO, &used);
	assert_true(err == 0 || err == -EINPROGRESS);
	assert_int_equal(used, HOST_HOW_TRACE);
	host_suspend_end(s);
	expect_runs(&h);
	end(&h);
}

/* A process that makes threads all the time: none slips through. */
static void test_threads(void **state UNUSED)
{
	for (int i = 0; i < 5; i++) {
		struct holder h = start(true);
		struct host_suspend *s = host_suspend_start();

		assert_non_null(s);
		suspended(s, &h, HOST_HOW_TRACE);
		host_suspend_end(s);
		expect_runs(&h);
		end(&h);
	}
}

/* Who is traced already is stopped by other means; in a cgroup that is not its own, by a signal. */
static void test_traced(void **state UNUSED)
{
	struct holder h = start(false);
	struct host_suspend *s;
	enum host_how used;
	int fd[2];
	char c;
	pid_t tracer;

	assert_int_equal(pipe(fd), 0);
	tracer = fork();
	if (!tracer) {
		char path[64];

		/* Each thread, as a debugger does. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (pid_t tid = h.pid; tid < h.pid + 64; tid++) {
			snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)h.pid, (int)tid);
			if (!access(path, F_OK))
				ptrace(PTRACE_SEIZE, tid, NULL, NULL);
		}
		if (write(fd[1], "r", 1) != 1)
			_exit(1);
		/* It lets its tracee stop and go on. */
		for (;;) {
			int status;
			pid_t tid = waitpid(-1, &status, __WALL);

			if (tid > 0 && WIFSTOPPED(status))
				ptrace(status >> 16 == PTRACE_EVENT_STOP ? PTRACE_LISTEN
									 : PTRACE_CONT,
				       tid, NULL, status >> 16 ? 0 : WSTOPSIG(status));
		}
	}
	assert_int_equal(read(fd[0], &c, 1), 1);
	s = host_suspend_start();
	assert_non_null(s);
	assert_int_equal(host_suspend_add(s, h.pid, h.start, HOST_HOW_TRACE, &used), -EPERM);
	expect_runs(&h);
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	suspended(s, &h, HOST_HOW_TRACE);
	host_suspend_end(s);
	expect_runs(&h);
	close(fd[0]);
	close(fd[1]);
	end(&h);
}

/* Who was stopped by somebody else stays so. */
static void test_stopped_before(void **state UNUSED)
{
	struct holder h = start(false);
	struct host_suspend *s = host_suspend_start();
	enum host_how used;

	assert_non_null(s);
	kill(h.pid, SIGSTOP);
	waitpid(h.pid, NULL, WUNTRACED);
	assert_int_equal(host_suspend_add(s, h.pid, h.start, HOST_HOW_STOP, &used), -EALREADY);
	host_suspend_end(s);
	expect_still(&h);
	/* The same if it was traced meanwhile. */
	s = host_suspend_start();
	assert_non_null(s);
	host_suspend_add(s, h.pid, h.start, HOST_HOW_TRACE, &used);
	host_suspend_end(s);
	expect_still(&h);
	kill(h.pid, SIGCONT);
	expect_runs(&h);
	end(&h);
}

static void test_other_process(void **state UNUSED)
{
	struct holder h = start(false);
	struct host_suspend *s = host_suspend_start();
	enum host_how used;

	assert_non_null(s);
	for (enum host_how how = HOST_HOW_AUTO; how <= HOST_HOW_STOP; how++) {
		int err = host_suspend_add(s, h.pid, h.start + 1, how, &used);

		/* The freezer may first find that there is no such cgroup. */
		assert_true(err == -ESRCH || (how == HOST_HOW_FREEZER && err < 0));
	}
	expect_runs(&h);
	host_suspend_end(s);
	end(&h);
}

static void test_never(void **state UNUSED)
{
	assert_false(host_may_suspend(0));
	assert_false(host_may_suspend(1));
	assert_false(host_may_suspend(getpid()));
	assert_false(host_may_suspend(getppid()));
}

/* The child of ours whose name is the guardian's. */
static pid_t guardian_of(pid_t parent)
{
	for (int ms = 0; ms < SOON_MS; ms += 10) {
		char path[64], line[4096] = "";
		FILE *f;
		int pid = 0;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
		f = fopen(path, "re");
		if (f && fgets(line, sizeof(line), f)) {
			for (char *p = line, *e; (pid = (int)strtol(p, &e, 10)) > 0 && e > p;
			     p = e) {
				char name[32] = "";
				FILE *g;

				snprintf(path, sizeof(path), "/proc/%d/comm", pid);
				g = fopen(path, "re");
				if (g && fgets(name, sizeof(name), g) &&
				    !strcmp(name, "vacate-guard\n")) {
					fclose(g);
					fclose(f);
					return pid;
				}
				if (g)
					fclose(g);
			}
		}
		if (f)
			fclose(f);
		usleep(10000);
	}
	return -1;
}

/* Without the guardian: the traced go on at once, the stopped when we notice. */
static void test_guardian_killed(void **state UNUSED)
{
	struct holder h = start(false), k = start(false);
	struct host_suspend *s;
	enum host_how used;
	pid_t g;

	if (getuid()) {
		puts("SKIP: forced: not root, so no record in /run");
		end(&h);
		end(&k);
		skip();
	}
	s = host_suspend_start();
	assert_non_null(s);
	suspended(s, &h, HOST_HOW_TRACE);
	suspended(s, &k, HOST_HOW_STOP);
	g = guardian_of(getpid());
	assert_true(g > 0);
	kill(g, SIGKILL);
	expect_runs(&h);
	expect_still(&k);
	assert_int_equal(host_suspend_add(s, h.pid, h.start, HOST_HOW_TRACE, &used), -EPIPE);
	expect_runs(&k);
	host_suspend_end(s);
	end(&h);
	end(&k);
}

/* Without us: the guardian sees it. */
static void test_we_are_killed(void **state UNUSED)
{
	for (enum host_how how = HOST_HOW_TRACE; how <= HOST_HOW_STOP; how++) {
		struct holder h = start(false);
		int fd[2];
		pid_t we;
		char c;

		if (how == HOST_HOW_FREEZER) {
			end(&h);
			continue; /* needs a cgroup of its own: in the guest */
		}
		assert_int_equal(pipe(fd), 0);
		we = fork();
		if (!we) {
			struct host_suspend *s = host_suspend_start();
			enum host_how used;
			int err = s ? host_suspend_add(s, h.pid, h.start, how, &used) : -ENOMEM;

			if ((err && err != -EINPROGRESS) || write(fd[1], "r", 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		close(fd[1]);
		assert_int_equal(read(fd[0], &c, 1), 1);
		expect_still(&h);
		kill(we, SIGKILL);
		waitpid(we, NULL, 0);
		expect_runs(&h);
		close(fd[0]);
		end(&h);
	}
}

/* ---- Ending ---- */

static void test_end(void **state UNUSED)
{
	struct host host = {.live = true};
	struct holder h = start(false);

	assert_int_equal(host_end_process(&host, h.pid, h.start + 1, 100), -ESRCH);
	expect_runs(&h);
	assert_int_equal(host_end_process(&host, 1, 0, 100), -EPERM);
	assert_int_equal(host_end_process(&host, getpid(), host_start_ticks(getpid()), 100),
			 -EPERM);
	assert_int_equal(host_end_process(&host, h.pid, h.start, SOON_MS), 0);
	end(&h);
	host.live = false;
	h = start(false);
	assert_int_equal(host_end_process(&host, h.pid, h.start, 100), -EPERM);
	expect_runs(&h);
	end(&h);
}

/* Who ignores SIGTERM. */
static void test_end_hard(void **state UNUSED)
{
	struct host host = {.live = true};
	int fd[2], status;
	pid_t pid;
	char c;

	assert_int_equal(pipe(fd), 0);
	pid = fork();
	if (!pid) {
		signal(SIGTERM, SIG_IGN);
		if (write(fd[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fd[0], &c, 1), 1);
	assert_int_equal(host_end_process(&host, pid, host_start_ticks(pid), 100), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_auto_is_trace),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_traced),
		cmocka_unit_test(test_stopped_before),
		cmocka_unit_test(test_other_process),
		cmocka_unit_test(test_never),
		cmocka_unit_test(test_guardian_killed),
		cmocka_unit_test(test_we_are_killed),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_end_hard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/port.h"
#include "tests/util_port.h"

unsigned scaled(unsigned n)
{
	const char *s = getenv("VAC_TEST_SCALE");

	return s && !strcmp(s, "small") ? (n + 9) / 10 : n;
}

int t_guard(void)
{
	const char *s = getenv("VAC_TEST_GUARD");

	return s && !strcmp(s, "userfaultfd") ? VAC_GUARD_USERFAULTFD : VAC_GUARD_SIGSEGV;
}

void t_guard_or_skip(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd;

	if (t_guard() == VAC_GUARD_SIGSEGV)
		return;
	/* Not by opening a pool: the children of a process that has opened one may not. */
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 &&
	    api.features >> 14 & 1) { /* UFFDIO_POISON */
		close(fd);
		return;
	}
	printf("SKIP: forced: no userfaultfd here, or one without UFFDIO_POISON\n");
	exit(77);
}

uint64_t rnd(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

void sleep_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

_Noreturn void must_answer(const char *file, int line, const char *what, int answer)
{
	dprintf(2, "%s:%d: failed: %s answered %d\n", file, line, what, answer);
	_exit(99);
}

_Noreturn void must_fail(const char *file, int line, const char *what)
{
	dprintf(2, "%s:%d: failed: %s (errno %d)\n", file, line, what, errno);
	_exit(99);
}

static unsigned scan_maps(uintptr_t lo, uintptr_t hi, const char *what)
{
	char buf[4096], line[512];
	unsigned n = 0, hits = 0;
	long got;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	while ((got = read(fd, buf, sizeof(buf))) > 0) {
		for (long i = 0; i < got; i++) {
			char *end;
			uintptr_t a, b;

			if (buf[i] != '\n') {
				if (n < sizeof(line) - 1)
					line[n++] = buf[i];
				continue;
			}
			line[n] = 0;
			n = 0;
			a = strtoul(line, &end, 16);
			b = strtoul(end + 1, NULL, 16);
			hits += what ? strstr(line, what) != NULL : a < hi && b > lo;
		}
	}
	close(fd);
	return hits;
}

unsigned maps_between(const void *lo, const void *hi)
{
	return scan_maps((uintptr_t)lo, (uintptr_t)hi, NULL);
}

unsigned maps_with(const char *what)
{
	return scan_maps(0, 0, what);
}

/* ---- Cases in processes of their own --------------------------------------------------------- */

void case_main(int argc, char **argv, const struct proc_case *cases, unsigned n)
{
	if (argc != 3 || strcmp(argv[1], "--case"))
		return;
	for (unsigned i = 0; i < n; i++) {
		if (!strcmp(cases[i].name, argv[2])) {
			cases[i].fn();
			_exit(0);
		}
	}
	must_fail(__FILE__, __LINE__, "no such case");
}

/* Deadly signals must look as they do without a sanitizer. */
static void sanitizer_option(const char *var)
{
	const char *old = getenv(var);
	char buf[1024];

	snprintf(buf, sizeof(buf),
		 "%s%shandle_segv=0:handle_sigbus=0:handle_abort=0:handle_sigill=0", old ? old : "",
		 old ? ":" : "");
	setenv(var, buf, 1);
}

int case_start(const char *name, int *err_fd, bool traced)
{
	char arg0[] = "case", arg1[] = "--case", arg2[64];
	char *argv[] = {arg0, arg1, arg2, NULL};
	int p[2], pid;

	snprintf(arg2, sizeof(arg2), "%s", name);
	if (pipe2(p, O_CLOEXEC) < 0)
		return -1;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		dup2(p[1], 2);
		sanitizer_option("ASAN_OPTIONS");
		sanitizer_option("TSAN_OPTIONS");
		if (traced)
			ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execv("/proc/self/exe", argv);
		_exit(98);
	}
	close(p[1]);
	*err_fd = p[0];
	return pid;
}

int case_run(const char *name, char *err, size_t bytes)
{
	int fd, status = -1, pid = case_start(name, &fd, false);
	size_t n = 0;
	char buf[256];
	long got;

	if (pid < 0)
		return -1;
	while ((got = read(fd, buf, sizeof(buf))) > 0)
		for (long i = 0; i < got; i++)
			if (n + 1 < bytes)
				err[n++] = buf[i];
	err[n] = 0;
	close(fd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (n && WIFEXITED(status) && WEXITSTATUS(status))
		printf("%s: %s\n", name, err);
	return status;
}

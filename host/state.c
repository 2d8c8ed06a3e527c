/* SPDX-License-Identifier: MIT */
/*
 * Writing `state` of a memory block, by a child.
 *
 * The kernel works in the write() itself: until the block has left, or for ever, or until a signal. So it
 * is done by a child of which we can let go. Invariants:
 *
 * - The child is killed when the thread that made it ends, however it ends (PR_SET_PDEATHSIG): then the
 *   write answers EINTR within milliseconds and the kernel puts the block back. Nobody has to clean up.
 * - Whether a killed child's block has left is read from `state` afterwards, never guessed: the signal may
 *   have come too late.
 * - A process of its own group: Ctrl-C is for the parent, who ends things in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/act.h"

#define KILL_MS 10000 /* the kernel answers a killed writer within 30 ms; under load, later */

/* Open `state` for writing, and make sure that it is one: below the root and by no symbolic link, on sysfs
 * if and only if this is the running machine. */
static int open_state(struct host *h, const struct host_block *b)
{
	struct open_how how = {.flags = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	struct statfs fs;
	struct stat st;
	char path[96];
	int root, fd;

	snprintf(path, sizeof(path), "sys/devices/system/memory/memory%u/state", b->id);
	root = open(h->live ? "/" : h->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return host_fail(h, -errno, "%s: %s", h->live ? "/" : h->root, strerror(errno));
	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = openat(root, path, (int)how.flags | O_NOFOLLOW); /* before 5.6, or filtered */
	if (fd < 0) {
		int err = -errno;

		close(root);
		return host_fail(h, err, "%s/%s: %s%s", h->root, path, strerror(-err),
				 err == -EACCES ? "; only root may write it" : "");
	}
	close(root);
	if (fstat(fd, &st) || fstatfs(fd, &fs)) {
		int err = -errno;

		close(fd);
		return host_fail(h, err, "%s/%s: %s", h->root, path, strerror(-err));
	}
	if (!S_ISREG(st.st_mode) || h->live != (fs.f_type == SYSFS_MAGIC)) {
		close(fd);
		return host_fail(h, -EPERM, "%s/%s is %s, so it is not written", h->root, path,
				 h->live ? "not a file of sysfs"
					 : "no plain file, or the running machine's");
	}
	return fd;
}

int host_state_check(struct host *h, const struct host_block *b)
{
	int fd = open_state(h, b);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int above_2(int fd)
{
	return fd > 2 ? fd : fcntl(fd, F_DUPFD, 3);
}

/* Whoever waits for the end of our output must not wait for a child that cannot end. */
static void close_others(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a, null = open("/dev/null", O_RDWR);

	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (low > 3)
		syscall(SYS_close_range, 3, low - 1, 0);
	if (high > low + 1)
		syscall(SYS_close_range, low + 1, high - 1, 0);
	syscall(SYS_close_range, high + 1, ~0U, 0);
}

static void __attribute__((noreturn))
child(struct host *h, int fd, int answer, const char *word, pid_t parent)
{
	struct sigaction sa = {.sa_handler = SIG_DFL};
	sigset_t none;
	ssize_t n;
	int err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	setpgid(0, 0);
	fd = above_2(fd);
	answer = above_2(answer);
	close_others(fd, answer);
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &sa, NULL);
	sigemptyset(&sa.sa_mask);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "vacate-state");
	/* sysfs ignores it; a file below another root is a file. */
	if (!h->live && ftruncate(fd, 0))
		_exit(1);
	n = write(fd, word, strlen(word));
	err = n < 0 ? -errno : 0;
	if (write(answer, &err, sizeof(err)) != sizeof(err))
		_exit(1);
	_exit(0);
}

int host_writer_start(struct host *h, const struct host_block *b, const char *word,
		      struct host_writer *w)
{
	int fd = open_state(h, b), p[2];
	pid_t parent = getpid();

	w->pid = -1;
	w->fd = -1;
	if (fd < 0)
		return fd;
	if (pipe2(p, O_CLOEXEC)) {
		int err = -errno;

		close(fd);
		return host_fail(h, err, "pipe: %s", strerror(-err));
	}
	fflush(NULL);
	w->pid = fork();
	if (!w->pid) {
		close(p[0]);
		child(h, fd, p[1], word, parent);
	}
	close(fd);
	close(p[1]);
	if (w->pid < 0) {
		int err = -errno;

		close(p[0]);
		return host_fail(h, err, "fork: %s", strerror(-err));
	}
	w->fd = p[0];
	return 0;
}

int host_writer_wait(struct host_writer *w, unsigned timeout_ms, int *err)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};
	int status, n;

	/* Its answer, or the end of the pipe, which its death closes. */
	n = poll(&p, 1, (int)timeout_ms);
	if (n <= 0)
		return 0;
	*err = -EINTR;
	if (read(w->fd, err, sizeof(*err)) != sizeof(*err))
		*err = -EINTR;
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(w->fd);
	w->fd = -1;
	w->pid = -1;
	return 1;
}

int host_writer_stop(struct host_writer *w, int *err)
{
	struct timespec t0, t;

	if (w->pid < 0)
		return 0;
	kill(w->pid, SIGKILL); /* ours and not reaped: it is nobody else's pid */
	clock_gettime(CLOCK_MONOTONIC, &t0);
	do {
		if (host_writer_wait(w, 200, err))
			return 0;
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while ((t.tv_sec - t0.tv_sec) * 1000 < KILL_MS);
	close(w->fd);
	w->fd = -1;
	*err = -EDEADLK;
	return -EDEADLK;
}

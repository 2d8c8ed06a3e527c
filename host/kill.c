/* SPDX-License-Identifier: MIT */
/*
 * Ending a process, and no other.
 *
 * A pid may be another process's by the time that somebody acts on a report. A pidfd is taken first, then
 * the start time is compared: what the pidfd then names is the process that was meant, also if its pid is
 * used again meanwhile.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/act.h"

uint64_t host_start_ticks(pid_t pid)
{
	unsigned long long start = 0;
	char path[48], line[1024], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f);
	fclose(f);
	/* The name is in parentheses and may hold some, and spaces: count from the last. */
	p = p ? strrchr(line, ')') : NULL;
	for (int field = 2; p && field < 22; field++) {
		p = strchr(p, ' ');
		if (p)
			p++;
	}
	if (p && sscanf(p, "%llu", &start) != 1)
		start = 0;
	return start;
}

static int gone(int pidfd, unsigned ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, (int)ms) == 1;
}

int host_end_process(struct host *h, pid_t pid, uint64_t start_ticks, unsigned grace_ms)
{
	int fd, err = 0;

	if (!h->live)
		return host_fail(h, -EPERM, "processes of a captured machine cannot be ended");
	if (pid <= 1 || pid == getpid() || pid == getppid())
		return host_fail(h, -EPERM, "%d is not ended: it is %s", (int)pid,
				 pid == 1 ? "the first process" : "this command or its parent");
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return host_fail(h, -errno, "%d: %s", (int)pid, strerror(errno));
	if (host_start_ticks(pid) != start_ticks) {
		close(fd);
		return host_fail(h, -ESRCH, "%d is another process now", (int)pid);
	}
	if (syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0)) {
		err = -errno;
		goto out;
	}
	if (gone(fd, grace_ms))
		goto out;
	if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0))
		err = errno == ESRCH ? 0 : -errno;
	else if (!gone(fd, 10000))
		err = -ETIMEDOUT;
out:
	close(fd);
	if (err)
		host_fail(h, err, "%d: %s", (int)pid,
			  err == -ETIMEDOUT ? "does not die: it sleeps uninterruptibly"
					    : strerror(-err));
	return err;
}

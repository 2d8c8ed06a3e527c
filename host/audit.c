/* SPDX-License-Identifier: MIT */
/*
 * The administrator's log: one line for everything that is done to the machine.
 *
 * journald's own protocol is a datagram of FIELD=value lines, so no library is needed. Where it is not
 * there, syslog's socket; where that is not there either, the kernel's log. A line is written when an
 * action begins and when it has ended, so that one that never ends is in the log too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/act.h"

#define NOTICE 5           /* syslog's priority */
#define FACILITY (10 << 3) /* LOG_AUTHPRIV */

static int send_to(const struct host *h, const char *path, const char *text, size_t len)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, err = 0;

	if ((size_t)snprintf(a.sun_path, sizeof(a.sun_path), "%s%s", h->live ? "" : h->root,
			     path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Nobody reads the log: that must not keep us. */
	if (sendto(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&a, sizeof(a)) <
	    0)
		err = -errno;
	close(fd);
	return err;
}

static int to_kernel_log(const char *text)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY), err = 0;
	char line[1100];
	int n;

	if (fd < 0)
		return -errno;
	n = snprintf(line, sizeof(line), "<%d>vacate: %s", NOTICE, text);
	if (n < 0 || write(fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
		err = -errno;
	close(fd);
	return err;
}

int host_audit(struct host *h, const char *action, const struct host_block *b, const char *fmt, ...)
{
	char text[768], who[64] = "", where[32] = "", line[2048];
	va_list ap;
	int n, err;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	/* A name of a process may hold anything; a line is one line. */
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = '?';
	if (b)
		snprintf(where, sizeof(where), " memory%u", b->id);
	snprintf(who, sizeof(who), " (pid %d, uid %d)", (int)getpid(), (int)getuid());
	n = snprintf(line, sizeof(line),
		     "MESSAGE=%s%s: %s%s\nPRIORITY=%d\nSYSLOG_FACILITY=10\n"
		     "SYSLOG_IDENTIFIER=vacate\nVACATE_ACTION=%s\nVACATE_DETAIL=%s\n",
		     action, where, text, who, NOTICE, action, text);
	if (b)
		n += snprintf(line + n, sizeof(line) - (size_t)n,
			      "VACATE_BLOCK=%u\nVACATE_NODE=%d\n", b->id, b->node);
	err = send_to(h, "/run/systemd/journal/socket", line, (size_t)n);
	if (!err)
		return 0;
	n = snprintf(line, sizeof(line), "<%d>vacate[%d]: %s%s: %s%s", FACILITY | NOTICE,
		     (int)getpid(), action, where, text, who);
	err = send_to(h, "/dev/log", line, (size_t)n);
	if (!err || !h->live)
		return err;
	snprintf(line, sizeof(line), "%s%s: %s%s", action, where, text, who);
	return to_kernel_log(line);
}

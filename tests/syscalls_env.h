/* SPDX-License-Identifier: MIT */
/*
 * What a call of syscalls.h is made with: the environment of one attempt, contents, and the o_*() that
 * open descriptors and start what else it needs.
 */
#ifndef VAC_TESTS_SYSCALLS_ENV_H
#define VAC_TESTS_SYSCALLS_ENV_H

#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>

#include "tests/util.h"

/* What the SIGSEGV guard makes of the call. Under userfaultfd it is always OK. */
enum outcome {
	OK = 1, /* as on any memory */
	EF,     /* EFAULT */
	SHORT,  /* a partial result: what was moved before the page, PLAIN bytes */
	NO,     /* not supported: the process would end */
};
enum { IN = 1, OUT = 2, BOTH = 3 }; /* the kernel writes the memory, reads it */

#define LEN 64   /* bytes that the reads and writes of the table move */
#define PLAIN 16 /* of them in ordinary memory, where the call takes several pieces */

struct env {
	int fd[4]; /* -1: none; closed after each attempt */
	int pid;
	unsigned long ctx; /* aio context, or timer */
	char plain[PLAIN];
	struct msghdr msg;
	struct mmsghdr mmsg;
	struct iovec iov[2];
	union {
		char bytes[512];
		struct sockaddr_un un;
		struct iocb iocb;
	} u;
	char path[64];
	const char *why; /* open() has failed for this reason */
};

struct call {
	const char *name, *arg; /* the call, and which of its arguments */
	int dir;
	enum outcome untouched, leaving;
	bool (*open)(struct env *e);
	void (*fill)(struct env *e, char *buf);
	long (*call)(struct env *e, char *buf);
	bool (*good)(struct env *e, char *buf, long r);
	int64_t (*vac)(struct env *e, char *buf); /* the wrapper of the library, if there is one */
	const char *note;
	bool (*lost)(struct env *e); /* after EFAULT: what the note says has happened */
};

#define SYS(...) sysret(syscall(__VA_ARGS__))
static inline long sysret(long r)
{
	return r == -1 ? -errno : r;
}

/* ---- Contents -------------------------------------------------------------------------------- */

static char pat(size_t i)
{
	return (char)('A' + i % 53);
}

static void f_pat(struct env *e UNUSED, char *buf)
{
	for (size_t i = 0; i < LEN; i++)
		buf[i] = pat(i);
}

static bool is_pat(const char *buf, size_t from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (buf[i] != pat(from + i))
			return false;
	return true;
}

/* ---- open(): descriptors --------------------------------------------------------------------- */

static bool o_none(struct env *e UNUSED)
{
	return true;
}

static bool o_file(struct env *e)
{
	char data[2 * LEN];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = pat(i);
	e->fd[0] = memfd_create("file", MFD_CLOEXEC);
	return e->fd[0] >= 0 && write(e->fd[0], data, sizeof(data)) == sizeof(data) &&
	       lseek(e->fd[0], 0, SEEK_SET) == 0;
}

static bool o_empty(struct env *e)
{
	e->fd[0] = memfd_create("file", MFD_CLOEXEC);
	return e->fd[0] >= 0;
}

static bool put(int fd)
{
	char data[LEN];

	f_pat(NULL, data);
	return write(fd, data, LEN) == LEN;
}

static bool o_pipe(struct env *e)
{
	return pipe2(e->fd, O_CLOEXEC) == 0;
}

static bool o_pipe_full(struct env *e)
{
	return o_pipe(e) && put(e->fd[1]);
}

static bool o_event(struct env *e)
{
	e->fd[0] = eventfd(5, EFD_CLOEXEC);
	return e->fd[0] >= 0;
}

static bool o_pair(struct env *e)
{
	return socketpair(AF_UNIX, SOCK_STREAM, 0, e->fd) == 0;
}

static bool o_pair_full(struct env *e)
{
	return o_pair(e) && put(e->fd[1]);
}

static bool o_dgram(struct env *e)
{
	return socketpair(AF_UNIX, SOCK_DGRAM, 0, e->fd) == 0;
}

static bool o_dgram_full(struct env *e)
{
	return o_dgram(e) && put(e->fd[1]);
}

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = (in_port_t)port};

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static bool inet_at(int fd, struct sockaddr_in *a)
{
	socklen_t n = sizeof(*a);

	*a = loopback(0);
	return bind(fd, (struct sockaddr *)a, n) == 0 &&
	       getsockname(fd, (struct sockaddr *)a, &n) == 0;
}

/* Two UDP sockets; the second has sent a datagram to the first. */
static bool o_udp(struct env *e)
{
	struct sockaddr_in a, b;

	e->fd[0] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	e->fd[1] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return inet_at(e->fd[0], &a) && inet_at(e->fd[1], &b) &&
	       connect(e->fd[1], (struct sockaddr *)&a, sizeof(a)) == 0 &&
	       connect(e->fd[0], (struct sockaddr *)&b, sizeof(b)) == 0 && put(e->fd[1]);
}

/* A listening socket, with a connection waiting in its queue. */
static bool o_listen(struct env *e)
{
	struct sockaddr_in a;

	e->fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	e->fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return inet_at(e->fd[0], &a) && listen(e->fd[0], 4) == 0 &&
	       connect(e->fd[1], (struct sockaddr *)&a, sizeof(a)) == 0;
}

static bool o_socket(struct env *e)
{
	e->fd[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return e->fd[0] >= 0;
}

static bool o_dir(struct env *e)
{
	e->fd[0] = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return e->fd[0] >= 0;
}

static bool o_pty(struct env *e)
{
	struct winsize w = {.ws_row = 24, .ws_col = 80};

	e->why = "no pseudo-terminal here";
	e->fd[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	return e->fd[0] >= 0 && ioctl(e->fd[0], TIOCSWINSZ, &w) == 0;
}

static bool o_xattr(struct env *e)
{
	strcpy(e->path, "/tmp/vacate-xattr-XXXXXX");
	e->fd[0] = mkstemp(e->path);
	unlink(e->path);
	e->why = "no user attributes on the file system of /tmp";
	return e->fd[0] >= 0 && fsetxattr(e->fd[0], "user.vacate", "ABCDEF", 6, 0) == 0;
}

static bool o_timer(struct env *e)
{
	struct itimerspec t = {.it_value = {.tv_sec = 1000}};

	e->fd[0] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	return e->fd[0] >= 0 && timerfd_settime(e->fd[0], 0, &t, NULL) == 0;
}

static bool o_epoll(struct env *e)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0x1234};

	e->fd[2] = epoll_create1(EPOLL_CLOEXEC);
	return o_pipe_full(e) && epoll_ctl(e->fd[2], EPOLL_CTL_ADD, e->fd[0], &ev) == 0;
}

static bool o_epoll_ctl(struct env *e)
{
	e->fd[2] = epoll_create1(EPOLL_CLOEXEC);
	return o_pipe(e);
}

static bool o_aio(struct env *e)
{
	e->why = "no asynchronous I/O (io_setup) here";
	return o_file(e) && SYS(SYS_io_setup, 4, &e->ctx) == 0;
}

static bool o_aio_done(struct env *e)
{
	struct iocb *one = &e->u.iocb;

	*one = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
			     .aio_buf = (uintptr_t)e->plain,
			     .aio_nbytes = PLAIN,
			     .aio_data = 77};
	if (!o_aio(e))
		return false;
	one->aio_fildes = (uint32_t)e->fd[0];
	return SYS(SYS_io_submit, e->ctx, 1, &one) == 1;
}

static bool o_child(struct env *e)
{
	e->pid = fork();
	if (e->pid == 0)
		_exit(7);
	return e->pid > 0;
}

#endif /* VAC_TESTS_SYSCALLS_ENV_H */

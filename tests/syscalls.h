/* SPDX-License-Identifier: MIT */
/*
 * The table of system calls that read or write memory, for test_syscalls.c: how each is made with
 * its argument at `buf`, what it must answer, and what it answers instead under the SIGSEGV guard
 * when the page there is in one of the states. man/vacate.7.scd shows the same table; the test
 * compares the two.
 *
 * All calls are raw: libc (or a sanitizer's wrapper) would touch the memory first, in user mode, and
 * so cure what we want to see. Invariants of an entry:
 *  - open() makes all that the call needs anew, so that each attempt is independent; nothing of it
 *    lies in pool memory;
 *  - fill() writes what the kernel is to find, good() judges what the call has left; both touch the
 *    memory as a thread does;
 *  - the contents of an untouched page are zeroes, and the call is harmless with those too.
 */
#ifndef VAC_TESTS_SYSCALLS_H
#define VAC_TESTS_SYSCALLS_H

#include "tests/syscalls_env.h"

/* ---- Checks ---------------------------------------------------------------------------------- */

#define GOOD(name, expr)                                                        \
	static bool name(struct env *e UNUSED, char *buf UNUSED, long r UNUSED) \
	{                                                                       \
		return expr;                                                    \
	}
#define CALL(name, ...)                                          \
	static long name(struct env *e UNUSED, char *buf UNUSED) \
	{                                                        \
		return SYS(__VA_ARGS__);                         \
	}

GOOD(g_zero, r == 0)
GOOD(g_any, r >= 0)
GOOD(g_data, r == LEN && is_pat(buf, 0, LEN))
GOOD(g_pieces, r == LEN && is_pat(e->plain, 0, PLAIN) && is_pat(buf, PLAIN, LEN - PLAIN))

/* What was written is read back by another way. */
static bool came(int fd, long r)
{
	char back[LEN];

	return r == LEN && read(fd, back, LEN) == LEN && is_pat(back, 0, LEN);
}
GOOD(g_wrote_file, lseek(e->fd[0], 0, SEEK_SET) == 0 && came(e->fd[0], r))
GOOD(g_wrote_pipe, came(e->fd[0], r))
GOOD(g_sent, came(e->fd[1], r))

/* ---- Reads ----------------------------------------------------------------------------------- */

static struct iovec *pieces(struct env *e, char *buf)
{
	e->iov[0] = (struct iovec){e->plain, PLAIN};
	e->iov[1] = (struct iovec){buf, LEN - PLAIN};
	return e->iov;
}

static struct msghdr *message(struct env *e, char *buf)
{
	e->iov[0] = (struct iovec){buf, LEN};
	e->msg = (struct msghdr){.msg_iov = e->iov, .msg_iovlen = 1};
	e->mmsg.msg_hdr = e->msg;
	e->mmsg.msg_len = 0;
	return &e->msg;
}

CALL(c_read, SYS_read, e->fd[0], buf, LEN)
CALL(c_read_event, SYS_read, e->fd[0], buf, 8)
CALL(c_pread, SYS_pread64, e->fd[0], buf, LEN, 0L)
CALL(c_readv, SYS_readv, e->fd[0], pieces(e, buf), 2)
CALL(c_preadv, SYS_preadv, e->fd[0], pieces(e, buf), 2, 0L, 0L)
CALL(c_preadv2, SYS_preadv2, e->fd[0], message(e, buf)->msg_iov, 1, 0L, 0L, 0)
CALL(c_recvfrom, SYS_recvfrom, e->fd[0], buf, LEN, 0, NULL, NULL)
CALL(c_recvmsg, SYS_recvmsg, e->fd[0], message(e, buf), 0)
CALL(c_recv_name, SYS_recvfrom, e->fd[0], e->u.bytes, LEN, 0, buf, &(socklen_t){128})

static long c_recvmmsg(struct env *e, char *buf)
{
	message(e, buf);
	if (SYS(SYS_recvmmsg, e->fd[0], &e->mmsg, 1, 0, NULL) != 1)
		return -errno;
	return e->mmsg.msg_len;
}

static int64_t v_read(struct env *e, char *buf)
{
	return vac_read(e->fd[0], buf, LEN);
}
static int64_t v_read_event(struct env *e, char *buf)
{
	return vac_read(e->fd[0], buf, 8);
}
static int64_t v_pread(struct env *e, char *buf)
{
	return vac_pread(e->fd[0], buf, LEN, 0);
}
static int64_t v_readv(struct env *e, char *buf)
{
	return vac_readv(e->fd[0], pieces(e, buf), 2);
}
static int64_t v_preadv(struct env *e, char *buf)
{
	return vac_preadv(e->fd[0], pieces(e, buf), 2, 0);
}
static int64_t v_recv(struct env *e, char *buf)
{
	return vac_recv(e->fd[0], buf, LEN, 0);
}
static int64_t v_recv_name(struct env *e, char *buf)
{
	return vac_recvfrom(e->fd[0], e->u.bytes, LEN, 0, (struct sockaddr *)buf, &(uint32_t){128});
}
static int64_t v_recvmsg(struct env *e, char *buf)
{
	return vac_recvmsg(e->fd[0], message(e, buf), 0);
}

GOOD(g_event, r == 8 && *(uint64_t *)buf == 5)
GOOD(g_recv_name, r == LEN && is_pat(e->u.bytes, 0, LEN) && buf[0] == AF_INET)

/* The queue is empty although nobody has got what was in it. */
static bool l_queue(struct env *e)
{
	char c;

	return recv(e->fd[0], &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN;
}

static bool l_event(struct env *e)
{
	struct pollfd p = {.fd = e->fd[0], .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* ---- Writes ---------------------------------------------------------------------------------- */

static void f_pieces(struct env *e, char *buf)
{
	for (size_t i = 0; i < LEN; i++)
		*(i < PLAIN ? &e->plain[i] : &buf[i - PLAIN]) = pat(i);
}

CALL(c_write, SYS_write, e->fd[0], buf, LEN)
CALL(c_write_pipe, SYS_write, e->fd[1], buf, LEN)
CALL(c_pwrite, SYS_pwrite64, e->fd[0], buf, LEN, 0L)
CALL(c_writev, SYS_writev, e->fd[0], pieces(e, buf), 2)
CALL(c_pwritev, SYS_pwritev, e->fd[0], pieces(e, buf), 2, 0L, 0L)
CALL(c_sendto, SYS_sendto, e->fd[0], buf, LEN, 0, NULL, 0)
CALL(c_sendmsg, SYS_sendmsg, e->fd[0], message(e, buf), 0)
CALL(c_sendfile, SYS_sendfile, e->fd[1], e->fd[2], buf, LEN)

static long c_sendmmsg(struct env *e, char *buf)
{
	message(e, buf);
	if (SYS(SYS_sendmmsg, e->fd[0], &e->mmsg, 1, 0) != 1)
		return -errno;
	return e->mmsg.msg_len;
}

static bool o_sendfile(struct env *e)
{
	if (!o_file(e))
		return false;
	e->fd[2] = e->fd[0];
	return o_pipe(e);
}
static void f_zero(struct env *e UNUSED, char *buf)
{
	memset(buf, 0, 256);
}
GOOD(g_sendfile, came(e->fd[0], r) && *(int64_t *)buf == LEN)

static int64_t v_write(struct env *e, char *buf)
{
	return vac_write(e->fd[0], buf, LEN);
}
static int64_t v_write_pipe(struct env *e, char *buf)
{
	return vac_write(e->fd[1], buf, LEN);
}
static int64_t v_pwrite(struct env *e, char *buf)
{
	return vac_pwrite(e->fd[0], buf, LEN, 0);
}
static int64_t v_writev(struct env *e, char *buf)
{
	return vac_writev(e->fd[0], pieces(e, buf), 2);
}
static int64_t v_pwritev(struct env *e, char *buf)
{
	return vac_pwritev(e->fd[0], pieces(e, buf), 2, 0);
}
static int64_t v_send(struct env *e, char *buf)
{
	return vac_send(e->fd[0], buf, LEN, 0);
}
static int64_t v_sendmsg(struct env *e, char *buf)
{
	return vac_sendmsg(e->fd[0], message(e, buf), 0);
}

/* ---- Files and names ------------------------------------------------------------------------- */

CALL(c_stat, SYS_newfstatat, AT_FDCWD, "/", buf, 0)
CALL(c_fstat, SYS_fstat, e->fd[0], buf)
CALL(c_statx, SYS_statx, AT_FDCWD, "/", 0, STATX_BASIC_STATS, buf)
CALL(c_statfs, SYS_statfs, "/", buf)
CALL(c_readlink, SYS_readlinkat, AT_FDCWD, "/proc/self/exe", buf, 1024)
CALL(c_getcwd, SYS_getcwd, buf, 1024)
CALL(c_getdents, SYS_getdents64, e->fd[0], buf, 1024)
CALL(c_getxattr, SYS_fgetxattr, e->fd[0], "user.vacate", buf, 100)
CALL(c_setxattr, SYS_fsetxattr, e->fd[0], "user.vacate", buf, LEN, 0)
CALL(c_getlk, SYS_fcntl, e->fd[0], F_GETLK, buf)
CALL(c_mincore, SYS_mincore, (uintptr_t)e & ~(PAGE - 1), PAGE, buf)
CALL(c_access, SYS_faccessat, AT_FDCWD, buf, F_OK)
CALL(c_utimens, SYS_utimensat, e->fd[0], NULL, buf, 0)

static struct stat st_of(int fd)
{
	struct stat st = {0};

	fstat(fd, &st);
	return st;
}
static struct stat st_root(void)
{
	struct stat st = {0};

	stat("/", &st);
	return st;
}

/* A descriptor that the call has made is closed when the attempt ends. */
static long c_open(struct env *e, char *buf)
{
	long r = SYS(SYS_openat, AT_FDCWD, buf, O_RDONLY | O_CLOEXEC);

	e->fd[3] = r < 0 ? -1 : (int)r;
	return r;
}
static long c_memfd(struct env *e, char *buf)
{
	long r = SYS(SYS_memfd_create, buf, MFD_CLOEXEC);

	e->fd[3] = r < 0 ? -1 : (int)r;
	return r;
}

static void f_path(struct env *e UNUSED, char *buf)
{
	strcpy(buf, "/dev/null");
}
static void f_getlk(struct env *e UNUSED, char *buf)
{
	*(struct flock *)buf = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}
static void f_times(struct env *e UNUSED, char *buf)
{
	struct timespec *t = (void *)buf;

	t[0] = t[1] = (struct timespec){.tv_sec = 1234};
}
GOOD(g_stat, r == 0 && ((struct stat *)buf)->st_ino == st_root().st_ino)
GOOD(g_fstat, r == 0 && ((struct stat *)buf)->st_ino == st_of(e->fd[0]).st_ino)
GOOD(g_statx, r == 0 && ((struct statx *)buf)->stx_ino == st_root().st_ino)
GOOD(g_statfs, r == 0 && *(long *)buf != 0)
GOOD(g_readlink, r > 0 && memmem(buf, (size_t)r, "test_syscalls", 13))
GOOD(g_getcwd, r > 1 && buf[0] == '/' && strlen(buf) + 1 == (size_t)r)
GOOD(g_getdents, r > 0 && ((struct dirent64 *)buf)->d_name[0] == '.')
GOOD(g_getxattr, r == 6 && !memcmp(buf, "ABCDEF", 6))
GOOD(g_getlk, r == 0 && ((struct flock *)buf)->l_type == F_UNLCK)
GOOD(g_mincore, r == 0 && (buf[0] & 1))
GOOD(g_utimens, r == 0 && st_of(e->fd[0]).st_mtim.tv_sec == 1234)
static bool g_setxattr(struct env *e, char *buf UNUSED, long r)
{
	char back[LEN];

	return r == 0 && fgetxattr(e->fd[0], "user.vacate", back, LEN) == LEN &&
	       is_pat(back, 0, LEN);
}

/* ---- The system, time, limits ---------------------------------------------------------------- */

CALL(c_uname, SYS_uname, buf)
CALL(c_sysinfo, SYS_sysinfo, buf)
CALL(c_times, SYS_times, buf)
CALL(c_clock, SYS_clock_gettime, CLOCK_MONOTONIC, buf)
CALL(c_nanosleep, SYS_nanosleep, buf, NULL)
CALL(c_getrusage, SYS_getrusage, RUSAGE_SELF, buf)
CALL(c_prlimit, SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, buf)
CALL(c_getrandom, SYS_getrandom, buf, LEN, 0)
CALL(c_getresuid, SYS_getresuid, buf, buf + 4, buf + 8)
CALL(c_get_name, SYS_prctl, PR_GET_NAME, buf)
CALL(c_getaffinity, SYS_sched_getaffinity, 0, 128L, buf)
CALL(c_setaffinity, SYS_sched_setaffinity, 0, 128L, buf)
CALL(c_timer_get, SYS_timerfd_gettime, e->fd[0], buf)
CALL(c_timer_set, SYS_timerfd_settime, e->fd[0], 0, buf, NULL)
CALL(c_mempolicy, SYS_get_mempolicy, buf, NULL, 0L, NULL, 0L)

static bool o_numa(struct env *e)
{
	int mode;

	e->why = "a kernel without NUMA";
	return SYS(SYS_get_mempolicy, &mode, NULL, 0L, NULL, 0L) == 0;
}

/* The name is the thread's own: looked at in the call, and set back. */
static long c_set_name(struct env *e, char *buf)
{
	char before[16];
	long r;

	MUST(prctl(PR_GET_NAME, before) == 0);
	r = SYS(SYS_prctl, PR_SET_NAME, buf);
	MUST(prctl(PR_GET_NAME, e->path) == 0);
	MUST(prctl(PR_SET_NAME, before) == 0);
	return r;
}

static long c_capget(struct env *e UNUSED, char *buf)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};

	return SYS(SYS_capget, &h, buf);
}

/* These never enter the kernel: the vDSO stores in user mode. */
static long c_vdso_clock(struct env *e UNUSED, char *buf)
{
	return clock_gettime(CLOCK_MONOTONIC, (struct timespec *)buf);
}
static long c_vdso_day(struct env *e UNUSED, char *buf)
{
	return gettimeofday((struct timeval *)buf, NULL);
}

static void f_name(struct env *e UNUSED, char *buf)
{
	strcpy(buf, "pooled");
}
static void f_affinity(struct env *e UNUSED, char *buf)
{
	memset(buf, 0, 128);
	MUST(SYS(SYS_sched_getaffinity, 0, 128L, buf) > 0);
}
static void f_timer(struct env *e UNUSED, char *buf)
{
	*(struct itimerspec *)buf = (struct itimerspec){.it_value = {.tv_sec = 500}};
}
GOOD(g_set_name, r == 0 && !strcmp(e->path, "pooled"))
static bool g_get_name(struct env *e UNUSED, char *buf, long r)
{
	char name[16];

	return r == 0 && prctl(PR_GET_NAME, name) == 0 && !strcmp(name, buf);
}
static bool g_timer_set(struct env *e, char *buf UNUSED, long r)
{
	struct itimerspec t;

	return r == 0 && timerfd_gettime(e->fd[0], &t) == 0 && t.it_value.tv_sec < 501;
}
GOOD(g_uname, r == 0 && !strncmp(buf, "Linux", 6))
GOOD(g_sysinfo, r == 0 && *(long *)buf > 0)
GOOD(g_times, r != 0 && ((struct tms *)buf)->tms_cutime >= 0)
GOOD(g_clock, r == 0 && labs(((struct timespec *)buf)->tv_sec - (long)(t_ms() / 1000)) < 60)
GOOD(g_day, r == 0 && labs(((struct timeval *)buf)->tv_sec - time(NULL)) < 60)
GOOD(g_rusage, r == 0 && ((struct rusage *)buf)->ru_maxrss > 0)
GOOD(g_prlimit, r == 0 && ((struct rlimit *)buf)->rlim_cur > 0)
GOOD(g_random, r == LEN && memcmp(buf, buf + LEN / 2, LEN / 2))
GOOD(g_resuid, r == 0 && *(uid_t *)buf == getuid())
GOOD(g_affinity, r > 0 && memchr(buf, 0, 128))
GOOD(g_timer_get, r == 0 && ((struct itimerspec *)buf)->it_value.tv_sec > 500)
GOOD(g_capget, r == 0)

/* ---- Descriptors, polling, sockets ----------------------------------------------------------- */

CALL(c_pipe2, SYS_pipe2, buf, O_CLOEXEC)
CALL(c_socketpair, SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, buf)
CALL(c_getsockopt, SYS_getsockopt, e->fd[0], SOL_SOCKET, SO_TYPE, buf, &(socklen_t){4})
CALL(c_setsockopt, SYS_setsockopt, e->fd[0], SOL_SOCKET, SO_PASSCRED, buf, 4)
CALL(c_getsockname, SYS_getsockname, e->fd[0], buf, &(socklen_t){128})
CALL(c_getpeername, SYS_getpeername, e->fd[1], buf, &(socklen_t){128})
CALL(c_bind, SYS_bind, e->fd[0], buf, 8)
CALL(c_connect, SYS_connect, e->fd[0], buf, sizeof(struct sockaddr_un))
CALL(c_fionread, SYS_ioctl, e->fd[0], FIONREAD, buf)
CALL(c_winsize, SYS_ioctl, e->fd[0], TIOCGWINSZ, buf)
CALL(c_epoll_ctl, SYS_epoll_ctl, e->fd[2], EPOLL_CTL_ADD, e->fd[0], buf)
CALL(c_epoll_wait, SYS_epoll_pwait, e->fd[2], buf, 1, 0, NULL, 8L)
CALL(c_ppoll, SYS_ppoll, buf, 1, &((struct timespec){0, 0}), NULL, 8L)
CALL(c_select, SYS_pselect6, e->fd[0] + 1, buf, NULL, NULL, &((struct timespec){0, 0}), NULL)
CALL(c_io_submit, SYS_io_submit, e->ctx, 1, &((char *){buf}))
CALL(c_io_getevents, SYS_io_getevents, e->ctx, 1, 1, buf, NULL)

static long c_accept(struct env *e, char *buf)
{
	long r = SYS(SYS_accept4, e->fd[0], buf, &(socklen_t){128}, SOCK_CLOEXEC);

	e->fd[3] = r < 0 ? -1 : (int)r;
	return r;
}
static long c_uring(struct env *e, char *buf)
{
	long r = SYS(SYS_io_uring_setup, 4, buf);

	e->fd[3] = r < 0 ? -1 : (int)r;
	return r;
}
static bool o_uring(struct env *e)
{
	struct io_uring_params p = {0};

	e->fd[0] = (int)SYS(SYS_io_uring_setup, 4, &p);
	e->why = "no io_uring here";
	if (e->fd[0] < 0)
		e->fd[0] = -1;
	return e->fd[0] >= 0;
}

static void f_bind(struct env *e UNUSED, char *buf)
{
	static unsigned nr; /* an abstract name, never twice */

	memset(buf, 0, 8);
	*(sa_family_t *)buf = AF_UNIX;
	nr++;
	memcpy(buf + 3, &nr, 4);
}
static void f_connect(struct env *e UNUSED, char *buf)
{
	*(struct sockaddr_un *)buf =
		(struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
}
static void f_one(struct env *e UNUSED, char *buf)
{
	*(int *)buf = 1;
}
static void f_epoll_ctl(struct env *e UNUSED, char *buf)
{
	*(struct epoll_event *)buf = (struct epoll_event){.events = EPOLLOUT};
}
static void f_poll(struct env *e, char *buf)
{
	*(struct pollfd *)buf = (struct pollfd){.fd = e->fd[0], .events = POLLIN};
}
static void f_select(struct env *e, char *buf)
{
	memset(buf, 0, 256);
	FD_SET(e->fd[0], (fd_set *)buf);
}
static void f_iocb(struct env *e, char *buf)
{
	*(struct iocb *)buf = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
					    .aio_fildes = (uint32_t)e->fd[0],
					    .aio_buf = (uintptr_t)e->plain,
					    .aio_nbytes = PLAIN};
}

static bool g_fds(struct env *e UNUSED, char *buf, long r)
{
	int *fd = (int *)buf;

	return r == 0 && close(fd[0]) == 0 && close(fd[1]) == 0;
}
static bool g_setsockopt(struct env *e, char *buf UNUSED, long r)
{
	int on = 0;
	socklen_t n = sizeof(on);

	return r == 0 && getsockopt(e->fd[0], SOL_SOCKET, SO_PASSCRED, &on, &n) == 0 && on == 1;
}
GOOD(g_sock_type, r == 0 && *(int *)buf == SOCK_STREAM)
GOOD(g_inet, r >= 0 && ((struct sockaddr_in *)buf)->sin_addr.s_addr == htonl(INADDR_LOOPBACK))
GOOD(g_refused, r == -ENOENT)
GOOD(g_fionread, r == 0 && *(int *)buf == LEN)
GOOD(g_winsize, r == 0 && ((struct winsize *)buf)->ws_col == 80)
GOOD(g_epoll, r == 1 && ((struct epoll_event *)buf)->data.u64 == 0x1234)
GOOD(g_poll, r == 1 && ((struct pollfd *)buf)->revents == POLLIN)
GOOD(g_select, r == 1 && FD_ISSET(e->fd[0], (fd_set *)buf))
GOOD(g_uring, r >= 0 && ((struct io_uring_params *)buf)->sq_entries == 4)
GOOD(g_submitted, r == 1)
GOOD(g_aio_event, r == 1 && ((struct io_event *)buf)->data == 77)

static bool l_accept(struct env *e)
{
	struct pollfd p = {.fd = e->fd[0], .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* ---- Signals, threads, processes ------------------------------------------------------------- */

CALL(c_sigaction, SYS_rt_sigaction, SIGUSR2, NULL, buf, 8L)
CALL(c_sigprocmask, SYS_rt_sigprocmask, SIG_BLOCK, NULL, buf, 8L)
CALL(c_sigpending, SYS_rt_sigpending, buf, 8L)
CALL(c_sigaltstack, SYS_sigaltstack, NULL, buf)
CALL(c_futex_wait, SYS_futex, buf, FUTEX_WAIT_PRIVATE, 12345, NULL, NULL, 0)
CALL(c_futex_wake, SYS_futex, buf, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0)
CALL(c_wait4, SYS_wait4, e->pid, buf, 0, NULL)
CALL(c_waitid, SYS_waitid, P_PID, e->pid, buf, WEXITED, NULL)
CALL(c_vm_readv, SYS_process_vm_readv, getpid(), pieces(e, buf) + 1, 1L,
     &((struct iovec){e->u.bytes, LEN - PLAIN}), 1L, 0L)

static long c_sigtimedwait(struct env *e UNUSED, char *buf)
{
	uint64_t set = (uint64_t)1 << (SIGUSR2 - 1), old;
	struct timespec none = {0, 0};
	long r;

	MUST(SYS(SYS_rt_sigprocmask, SIG_BLOCK, &set, &old, 8L) == 0);
	MUST(SYS(SYS_tgkill, getpid(), SYS(SYS_gettid), SIGUSR2) == 0);
	r = SYS(SYS_rt_sigtimedwait, &set, buf, &none, 8L);
	/* Gone in either case: were it still pending, its default action would be the end. */
	MUST(SYS(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, 8L) == 0);
	return r;
}

static long c_robust(struct env *e UNUSED, char *buf)
{
	void *head;
	size_t len;
	long r;

	MUST(SYS(SYS_get_robust_list, 0, &head, &len) == 0);
	r = SYS(SYS_set_robust_list, buf, len);
	MUST(SYS(SYS_set_robust_list, head, len) == 0);
	return r;
}

/* execve() with the array of arguments at buf, in a child that shares our memory. */
static long c_execve(struct env *e UNUSED, char *buf)
{
	static char *const no_env[] = {NULL};
	static volatile long error;
	int pid, status = 0;

	error = 0;
	pid = vfork();
	if (pid == 0) {
		error = SYS(SYS_execve, "/bin/true", buf, no_env);
		_exit(1);
	}
	MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	return error ? error : status;
}
static bool o_execve(struct env *e)
{
	e->why = "a child of vfork() upsets the thread sanitizer";
	return !TSAN;
}
static void f_execve(struct env *e UNUSED, char *buf)
{
	((const char **)buf)[0] = "true";
	((const char **)buf)[1] = NULL;
}

static void *on_pool_stack(void *arg)
{
	volatile char local[256];

	memset((char *)local, 1, sizeof(local));
	*(_Atomic int *)arg = local[255];
	return NULL;
}

static bool o_stack(struct env *e)
{
	e->why = "the thread sanitizer keeps almost a megabyte of its own on each stack";
	return !TSAN;
}
/* The whole of the page and those behind it as a stack; the page itself is its far end. */
#define STACK_BYTES ((size_t)256 << 10)
static long c_stack(struct env *e UNUSED, char *buf)
{
	static _Atomic int ran;
	pthread_attr_t a;
	pthread_t t;

	ran = 0;
	MUST(pthread_attr_init(&a) == 0);
	MUST(pthread_attr_setstack(&a, buf, STACK_BYTES) == 0);
	MUST(pthread_create(&t, &a, on_pool_stack, &ran) == 0);
	MUST(pthread_join(t, NULL) == 0);
	return ran == 1 ? 0 : -EIO;
}

static volatile sig_atomic_t handled;
static void on_usr1(int sig UNUSED)
{
	handled++;
}
static long c_altstack(struct env *e UNUSED, char *buf)
{
	stack_t new = {.ss_sp = buf, .ss_size = STACK_BYTES / 2}, old;
	struct sigaction a = {.sa_handler = on_usr1, .sa_flags = SA_ONSTACK};

	MUST(sigaltstack(&new, &old) == 0 && sigaction(SIGUSR1, &a, NULL) == 0);
	handled = 0;
	raise(SIGUSR1);
	MUST(sigaltstack(&old, NULL) == 0);
	return handled == 1 ? 0 : -EIO;
}

static void f_word(struct env *e UNUSED, char *buf)
{
	*(uint32_t *)buf = 1;
}
static bool o_vm(struct env *e)
{
	for (size_t i = 0; i < LEN; i++)
		e->u.bytes[i] = pat(PLAIN + i);
	return true;
}
GOOD(g_sigaction, r == 0 && *(void **)buf == (void *)SIG_DFL)
GOOD(g_sigset, r == 0 && !(*(uint64_t *)buf & (uint64_t)1 << (SIGSEGV - 1)))
GOOD(g_sigpending, r == 0 && *(uint64_t *)buf == 0)
GOOD(g_altstack, r == 0 && ((stack_t *)buf)->ss_size < ((size_t)1 << 30))
GOOD(g_again, r == -EAGAIN)
GOOD(g_signal, r == SIGUSR2 && ((siginfo_t *)buf)->si_signo == SIGUSR2)
GOOD(g_status, r == e->pid && WEXITSTATUS(*(int *)buf) == 7)
GOOD(g_siginfo, r == 0 && ((siginfo_t *)buf)->si_status == 7)
GOOD(g_vm, r == LEN - PLAIN && is_pat(buf, PLAIN, LEN - PLAIN))

static bool l_child(struct env *e)
{
	return waitpid(e->pid, NULL, WNOHANG) == -1 && errno == ECHILD;
}

/* ---- The table ------------------------------------------------------------------------------- */

static const struct call calls[] = {
	/* clang-format off */
	{"read", "buffer; of a file", IN, EF, EF, o_file, NULL, c_read, g_data, v_read, NULL, NULL},
	{"read", "buffer; of a pipe", IN, EF, EF, o_pipe_full, NULL, c_read, g_data, v_read, NULL, NULL},
	{"read", "buffer; of an eventfd", IN, EF, EF, o_event, NULL, c_read_event, g_event, v_read_event, "the count is lost", l_event},
	{"pread64", "buffer", IN, EF, EF, o_file, NULL, c_pread, g_data, v_pread, NULL, NULL},
	{"readv", "second buffer", IN, SHORT, SHORT, o_file, NULL, c_readv, g_pieces, v_readv, NULL, NULL},
	{"preadv", "second buffer", IN, SHORT, SHORT, o_file, NULL, c_preadv, g_pieces, v_preadv, NULL, NULL},
	{"preadv2", "buffer", IN, EF, EF, o_file, NULL, c_preadv2, g_data, NULL, NULL, NULL},
	{"recvfrom", "buffer; of a stream", IN, EF, EF, o_pair_full, NULL, c_recvfrom, g_data, v_recv, NULL, NULL},
	{"recvfrom", "buffer; of a datagram", IN, EF, EF, o_dgram_full, NULL, c_recvfrom, g_data, v_recv, "the datagram is lost", l_queue},
	{"recvfrom", "address", IN, EF, EF, o_udp, NULL, c_recv_name, g_recv_name, v_recv_name, "the datagram is lost", l_queue},
	{"recvmsg", "buffer; UDP", IN, EF, EF, o_udp, NULL, c_recvmsg, g_data, v_recvmsg, "the datagram is lost", l_queue},
	{"recvmmsg", "buffer", IN, EF, EF, o_dgram_full, NULL, c_recvmmsg, g_data, NULL, "the datagram is lost", l_queue},
	{"write", "buffer; to a file", OUT, EF, OK, o_empty, f_pat, c_write, g_wrote_file, v_write, NULL, NULL},
	{"write", "buffer; to a pipe", OUT, EF, OK, o_pipe, f_pat, c_write_pipe, g_wrote_pipe, v_write_pipe, NULL, NULL},
	{"pwrite64", "buffer", OUT, EF, OK, o_empty, f_pat, c_pwrite, g_wrote_file, v_pwrite, NULL, NULL},
	{"writev", "second buffer", OUT, SHORT, OK, o_empty, f_pieces, c_writev, g_wrote_file, v_writev, NULL, NULL},
	{"pwritev", "second buffer", OUT, SHORT, OK, o_empty, f_pieces, c_pwritev, g_wrote_file, v_pwritev, NULL, NULL},
	{"sendto", "buffer", OUT, EF, OK, o_pair, f_pat, c_sendto, g_sent, v_send, NULL, NULL},
	{"sendmsg", "buffer", OUT, EF, OK, o_dgram, f_pat, c_sendmsg, g_sent, v_sendmsg, NULL, NULL},
	{"sendmmsg", "buffer", OUT, EF, OK, o_dgram, f_pat, c_sendmmsg, g_sent, NULL, NULL, NULL},
	{"sendfile", "offset", BOTH, EF, EF, o_sendfile, f_zero, c_sendfile, g_sendfile, NULL, "while leaving: the data is sent", NULL},
	{"stat", "result", IN, EF, EF, o_none, NULL, c_stat, g_stat, NULL, NULL, NULL},
	{"fstat", "result", IN, EF, EF, o_file, NULL, c_fstat, g_fstat, NULL, NULL, NULL},
	{"statx", "result", IN, EF, EF, o_none, NULL, c_statx, g_statx, NULL, NULL, NULL},
	{"statfs", "result", IN, EF, EF, o_none, NULL, c_statfs, g_statfs, NULL, NULL, NULL},
	{"readlinkat", "result", IN, EF, EF, o_none, NULL, c_readlink, g_readlink, NULL, NULL, NULL},
	{"getcwd", "result", IN, EF, EF, o_none, NULL, c_getcwd, g_getcwd, NULL, NULL, NULL},
	{"getdents64", "entries", IN, EF, EF, o_dir, NULL, c_getdents, g_getdents, NULL, NULL, NULL},
	{"fgetxattr", "value", IN, EF, EF, o_xattr, NULL, c_getxattr, g_getxattr, NULL, NULL, NULL},
	{"fsetxattr", "value", OUT, EF, OK, o_xattr, f_pat, c_setxattr, g_setxattr, NULL, NULL, NULL},
	{"openat", "path", OUT, EF, OK, o_none, f_path, c_open, g_any, NULL, NULL, NULL},
	{"faccessat", "path", OUT, EF, OK, o_none, f_path, c_access, g_zero, NULL, NULL, NULL},
	{"memfd_create", "name", OUT, EF, OK, o_none, f_path, c_memfd, g_any, NULL, NULL, NULL},
	{"utimensat", "times", OUT, EF, OK, o_file, f_times, c_utimens, g_utimens, NULL, NULL, NULL},
	{"fcntl F_GETLK", "lock", BOTH, EF, EF, o_file, f_getlk, c_getlk, g_getlk, NULL, NULL, NULL},
	{"mincore", "vector", IN, EF, EF, o_none, NULL, c_mincore, g_mincore, NULL, NULL, NULL},
	{"uname", "result", IN, EF, EF, o_none, NULL, c_uname, g_uname, NULL, NULL, NULL},
	{"sysinfo", "result", IN, EF, EF, o_none, NULL, c_sysinfo, g_sysinfo, NULL, NULL, NULL},
	{"times", "result", IN, EF, EF, o_none, NULL, c_times, g_times, NULL, NULL, NULL},
	{"clock_gettime", "result; entering the kernel", IN, EF, EF, o_none, NULL, c_clock, g_clock, NULL, NULL, NULL},
	{"clock_gettime", "result; libc's, by the vDSO", IN, OK, OK, o_none, NULL, c_vdso_clock, g_clock, NULL, "stored in user mode", NULL},
	{"gettimeofday", "result; libc's, by the vDSO", IN, OK, OK, o_none, NULL, c_vdso_day, g_day, NULL, "stored in user mode", NULL},
	{"nanosleep", "time", OUT, EF, OK, o_none, f_zero, c_nanosleep, g_zero, NULL, NULL, NULL},
	{"getrusage", "result", IN, EF, EF, o_none, NULL, c_getrusage, g_rusage, NULL, NULL, NULL},
	{"prlimit64", "old limit", IN, EF, EF, o_none, NULL, c_prlimit, g_prlimit, NULL, NULL, NULL},
	{"getrandom", "buffer", IN, EF, EF, o_none, NULL, c_getrandom, g_random, NULL, NULL, NULL},
	{"getresuid", "results", IN, EF, EF, o_none, NULL, c_getresuid, g_resuid, NULL, NULL, NULL},
	{"capget", "data", IN, EF, EF, o_none, NULL, c_capget, g_capget, NULL, NULL, NULL},
	{"get_mempolicy", "mode", IN, EF, EF, o_numa, NULL, c_mempolicy, g_zero, NULL, NULL, NULL},
	{"prctl PR_GET_NAME", "name", IN, EF, EF, o_none, NULL, c_get_name, g_get_name, NULL, NULL, NULL},
	{"prctl PR_SET_NAME", "name", OUT, EF, OK, o_none, f_name, c_set_name, g_set_name, NULL, NULL, NULL},
	{"sched_getaffinity", "mask", IN, EF, EF, o_none, NULL, c_getaffinity, g_affinity, NULL, NULL, NULL},
	{"sched_setaffinity", "mask", OUT, EF, OK, o_none, f_affinity, c_setaffinity, g_zero, NULL, NULL, NULL},
	{"timerfd_gettime", "result", IN, EF, EF, o_timer, NULL, c_timer_get, g_timer_get, NULL, NULL, NULL},
	{"timerfd_settime", "new value", OUT, EF, OK, o_timer, f_timer, c_timer_set, g_timer_set, NULL, NULL, NULL},
	{"pipe2", "descriptors", IN, EF, EF, o_none, NULL, c_pipe2, g_fds, NULL, NULL, NULL},
	{"socketpair", "descriptors", IN, EF, EF, o_none, NULL, c_socketpair, g_fds, NULL, NULL, NULL},
	{"getsockopt", "value", IN, EF, EF, o_pair, NULL, c_getsockopt, g_sock_type, NULL, NULL, NULL},
	{"setsockopt", "value", OUT, EF, OK, o_pair, f_one, c_setsockopt, g_setsockopt, NULL, NULL, NULL},
	{"getsockname", "address", IN, EF, EF, o_listen, NULL, c_getsockname, g_inet, NULL, NULL, NULL},
	{"getpeername", "address", IN, EF, EF, o_listen, NULL, c_getpeername, g_inet, NULL, NULL, NULL},
	{"accept4", "address", IN, EF, EF, o_listen, NULL, c_accept, g_inet, NULL, "the connection is lost", l_accept},
	{"bind", "address", OUT, EF, OK, o_socket, f_bind, c_bind, g_zero, NULL, NULL, NULL},
	{"connect", "address", OUT, EF, OK, o_socket, f_connect, c_connect, g_refused, NULL, NULL, NULL},
	{"ioctl FIONREAD", "result", IN, EF, EF, o_pipe_full, NULL, c_fionread, g_fionread, NULL, NULL, NULL},
	{"ioctl TIOCGWINSZ", "result", IN, EF, EF, o_pty, NULL, c_winsize, g_winsize, NULL, NULL, NULL},
	{"ppoll", "descriptors", BOTH, EF, EF, o_pipe_full, f_poll, c_ppoll, g_poll, NULL, NULL, NULL},
	{"pselect6", "set", BOTH, EF, EF, o_pipe_full, f_select, c_select, g_select, NULL, NULL, NULL},
	{"epoll_ctl", "event", OUT, EF, OK, o_epoll_ctl, f_epoll_ctl, c_epoll_ctl, g_zero, NULL, NULL, NULL},
	{"epoll_pwait", "events", IN, EF, EF, o_epoll, NULL, c_epoll_wait, g_epoll, NULL, NULL, NULL},
	{"io_uring_setup", "parameters", BOTH, EF, EF, o_uring, f_zero, c_uring, g_uring, NULL, NULL, NULL},
	{"io_submit", "control block", BOTH, EF, EF, o_aio, f_iocb, c_io_submit, g_submitted, NULL, NULL, NULL},
	{"io_getevents", "events", IN, EF, EF, o_aio_done, NULL, c_io_getevents, g_aio_event, NULL, NULL, NULL},
	{"futex FUTEX_WAIT", "word", OUT, EF, OK, o_none, f_word, c_futex_wait, g_again, NULL, NULL, NULL},
	{"futex FUTEX_WAKE", "word; private", OUT, OK, OK, o_none, f_word, c_futex_wake, g_zero, NULL, "only the address matters", NULL},
	{"set_robust_list", "list", OUT, OK, OK, o_none, f_zero, c_robust, g_zero, NULL, "read when the thread ends: then in vain", NULL},
	{"rt_sigaction", "old action", IN, EF, EF, o_none, NULL, c_sigaction, g_sigaction, NULL, NULL, NULL},
	{"rt_sigprocmask", "old mask", IN, EF, EF, o_none, NULL, c_sigprocmask, g_sigset, NULL, NULL, NULL},
	{"rt_sigpending", "result", IN, EF, EF, o_none, NULL, c_sigpending, g_sigpending, NULL, NULL, NULL},
	{"rt_sigtimedwait", "information", IN, EF, EF, o_none, NULL, c_sigtimedwait, g_signal, NULL, "the signal is lost", NULL},
	{"sigaltstack", "old stack", IN, EF, EF, o_none, NULL, c_sigaltstack, g_altstack, NULL, NULL, NULL},
	{"wait4", "status", IN, EF, EF, o_child, NULL, c_wait4, g_status, NULL, "the child is gone", l_child},
	{"waitid", "information", IN, EF, EF, o_child, NULL, c_waitid, g_siginfo, NULL, "the child is gone", l_child},
	{"process_vm_readv", "local buffer", IN, EF, EF, o_vm, NULL, c_vm_readv, g_vm, NULL, NULL, NULL},
	{"execve", "arguments; after vfork", OUT, EF, OK, o_execve, f_execve, c_execve, g_zero, NULL, NULL, NULL},
	{"clone", "stack of a thread", BOTH, NO, NO, o_stack, NULL, c_stack, g_zero, NULL, "keep stacks outside", NULL},
	{"sigaltstack", "stack of a handler", BOTH, NO, NO, o_none, NULL, c_altstack, g_zero, NULL, "keep stacks outside", NULL},
	/* clang-format on */
};

#endif

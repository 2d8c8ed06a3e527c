/* SPDX-License-Identifier: MIT */
/*
 * Holds some frames of this machine in the way that is asked for, says which, and waits to be ended.
 *
 *	host_holder KIND
 *
 * Prints, a line each, `pid=` of who is to be blamed, `fd=` once for each descriptor that would be
 * right, `pfn=` once for each frame, then `ready`. Ends when its standard input does. Exit status 77,
 * with the reason: this machine does not allow it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

#define PAGES 4
#define PAGE 4096UL

static void die(const char *what)
{
	int e = errno;

	printf("%s: %s\n", what, strerror(e));
	exit(e == EPERM || e == ENOSYS || e == ENODEV || e == EACCES || e == EOPNOTSUPP ? 77 : 1);
}

static void say_pfn(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t e = 0;

	if (fd < 0 || pread(fd, &e, 8, (off_t)((uintptr_t)p / PAGE * 8)) != 8)
		die("pagemap");
	close(fd);
	if (!(e >> 63))
		die("a page is not there");
	printf("pfn=%lx\n", (unsigned long)(e & ((1ULL << 55) - 1)));
}

static void say_pfns(const char *p, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		say_pfn(p + i * PAGE);
}

static void say_pid(pid_t pid)
{
	printf("pid=%d\n", (int)pid);
}

static void say_fds(const int *fd, int n)
{
	for (int i = 0; i < n; i++)
		printf("fd=%d\n", fd[i]);
}

static char *memory(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	madvise(p, bytes, MADV_NOHUGEPAGE);
	memset(p, 0x5a, bytes);
	return p;
}

/* ---- Pipes ---- */

static void fill_pipe(const int *fd, char *p, unsigned flags)
{
	struct iovec v = {p, PAGES * PAGE};

	if (vmsplice(fd[1], &v, 1, flags) != PAGES * PAGE)
		die("vmsplice");
}

static void hold_pipe(unsigned flags, int unmap)
{
	char *p = memory(PAGES * PAGE);
	int fd[2];

	if (pipe(fd))
		die("pipe");
	say_pid(getpid());
	say_fds(fd, 2);
	say_pfns(p, PAGES);
	fill_pipe(fd, p, flags);
	if (unmap)
		munmap(p, PAGES * PAGE);
}

/* A pipe that nobody has but a message that nobody has received. */
static void hold_in_flight(void)
{
	char control[CMSG_SPACE(2 * sizeof(int))] = {0}, *p = memory(PAGES * PAGE), byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int sock[2], fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock) || pipe(fd))
		die("socketpair");
	say_pid(getpid());
	say_fds(sock, 2);
	say_pfns(p, PAGES);
	fill_pipe(fd, p, 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(c), fd, 2 * sizeof(int));
	if (sendmsg(sock[0], &m, 0) != 1)
		die("sendmsg");
	close(fd[0]);
	close(fd[1]);
}

/* ---- Files in memory ---- */

static int memory_file(char **p)
{
	int fd = memfd_create("held", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, PAGES * PAGE))
		die("memfd");
	*p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*p == MAP_FAILED)
		die("mmap");
	memset(*p, 0x77, PAGES * PAGE);
	return fd;
}

static void hold_spliced(void)
{
	loff_t off = 0;
	int fd[2], file;
	char *p;

	file = memory_file(&p);
	if (pipe(fd))
		die("pipe");
	say_pid(getpid());
	say_fds(fd, 2);
	say_pfns(p, PAGES);
	if (splice(file, &off, fd[1], NULL, PAGES * PAGE, 0) <= 0)
		die("splice");
	munmap(p, PAGES * PAGE);
	close(file);
}

/* Two ends of a TCP connection to ourselves; without `accepted` the second is the listener. */
static void tcp_pair(int *fd, int accepted)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || fd[0] < 0 || bind(l, (void *)&a, len) || listen(l, 1) ||
	    getsockname(l, (void *)&a, &len) || connect(fd[0], (void *)&a, len))
		die("TCP");
	fd[1] = accepted ? accept(l, NULL, NULL) : l;
	if (fd[1] < 0)
		die("accept");
}

static void hold_sent_file(int unix_domain, int accepted)
{
	int fd[2], file;
	off_t off = 0;
	char *p;

	file = memory_file(&p);
	if (!unix_domain)
		tcp_pair(fd, accepted);
	else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd))
		die("socketpair");
	say_pid(getpid());
	say_fds(fd, 2);
	say_pfns(p, PAGES);
	if (sendfile(fd[0], file, &off, PAGES * PAGE) <= 0)
		die("sendfile");
}

/* Until the peer's buffer is full: the last pages stay in our own queue. */
static void hold_zerocopy(void)
{
	size_t size = 16UL << 20, sent = 0;
	char *p = memory(size);
	int fd[2], one = 1;
	ssize_t n;

	tcp_pair(fd, 1);
	if (setsockopt(fd[0], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		die("SO_ZEROCOPY");
	while (sent < size && (n = send(fd[0], p + sent, 65536, MSG_ZEROCOPY | MSG_DONTWAIT)) > 0)
		sent += (size_t)n;
	if (sent < 2 * PAGES * PAGE || sent >= size)
		die("MSG_ZEROCOPY");
	say_pid(getpid());
	say_fds(fd, 2);
	say_pfns(p + (sent / PAGE - PAGES) * PAGE, PAGES - 1);
}

/* ---- Rings ---- */

static void hold_registered(void)
{
	struct io_uring_params params = {0};
	char *p = memory(PAGES * PAGE);
	struct iovec v = {p, PAGES * PAGE};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		die("io_uring_setup");
	if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &v, 1))
		die("IORING_REGISTER_BUFFERS");
	say_pid(getpid());
	say_fds(&fd, 1);
	say_pfns(p, PAGES);
}

static void hold_aio_ring(void)
{
	aio_context_t ctx = 0;

	if (syscall(SYS_io_setup, 64, &ctx))
		die("io_setup");
	say_pid(getpid());
	if (*(volatile unsigned *)ctx == ~0u) /* touch it */
		die("the ring");
	say_pfn((void *)ctx);
}

/* ---- A FUSE server that answers no read ---- */

static void answer(int fd, uint64_t unique, const void *data, size_t size)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + size), .unique = unique};
	struct iovec v[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)data, size}};

	if (writev(fd, v, 2) < 0)
		exit(1);
}

static void serve(int fd)
{
	static char buf[1 << 18];
	struct fuse_in_header *in = (void *)buf;
	struct fuse_attr attr = {.ino = 1, .mode = S_IFREG | 0644, .nlink = 1, .size = 1 << 20};

	for (;;) {
		struct pollfd pf[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = 0}};
		struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 1 << 17};
		struct fuse_attr_out a = {.attr = attr};
		struct fuse_open_out o = {0};

		/* Who waits for us cannot end before we do: so our end is that of standard input. */
		if (poll(pf, 2, -1) < 0 || pf[1].revents || read(fd, buf, sizeof(buf)) <= 0)
			exit(0);
		switch (in->opcode) {
		case FUSE_INIT:
			init.flags = ((struct fuse_init_in *)(in + 1))->flags & FUSE_ASYNC_DIO;
			answer(fd, in->unique, &init, sizeof(init));
			break;
		case FUSE_GETATTR: answer(fd, in->unique, &a, sizeof(a)); break;
		case FUSE_OPEN: answer(fd, in->unique, &o, sizeof(o)); break;
		case FUSE_READ: break; /* never */
		default: {
			struct fuse_out_header h = {sizeof(h), -ENOSYS, in->unique};

			if (in->opcode != FUSE_FORGET && in->opcode != FUSE_INTERRUPT &&
			    write(fd, &h, sizeof(h)) < 0)
				exit(1);
		}
		}
	}
}

/* A file system that is one file, in a mount namespace of our own. Answers the server's pid. */
static pid_t hung_file(const char *path, int *fuse_fd)
{
	char options[128];
	int fd = open("/dev/fuse", O_RDWR);
	pid_t pid;

	if (fd < 0)
		die("/dev/fuse");
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("unshare");
	close(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,group_id=0", fd);
	if (mount("held", path, "fuse", 0, options))
		die("mount");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(fd);
	}
	*fuse_fd = fd;
	close(fd);
	return pid;
}

static void nap(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Wait until a child sleeps in a system call of this number, as far as it can be seen. */
static void wait_in(pid_t pid, long nr)
{
	char path[64], line[64];

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
	for (int i = 0; i < 6000; i++, nap(10)) {
		FILE *f = fopen(path, "r");

		if (f && fgets(line, sizeof(line), f) && atol(line) == nr && line[0] != 'r')
			i = 6000;
		if (f)
			fclose(f);
	}
	nap(100);
}

static void hold_direct(const char *path, int aio)
{
	char *p = memory(PAGES * PAGE);
	aio_context_t ctx = 0;
	int fd, fuse_fd;
	pid_t pid;

	hung_file(path, &fuse_fd);
	fd = open(path, O_RDONLY | O_DIRECT);
	if (fd < 0)
		die("O_DIRECT");
	if (aio) {
		struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd};
		struct iocb *list[] = {&cb};

		cb.aio_buf = (uintptr_t)p;
		cb.aio_nbytes = PAGES * PAGE;
		if (syscall(SYS_io_setup, 4, &ctx) || syscall(SYS_io_submit, ctx, 1, list) != 1)
			die("io_submit");
		say_pid(getpid());
		say_pfns(p, PAGES);
		say_fds(&fd, 1);
		return;
	}
	/* The child has pages of its own: those are the ones that are held. */
	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(p, 1, PAGES * PAGE);
		say_pid(getpid());
		say_fds(&fd, 1);
		say_pfns(p, PAGES);
		fflush(stdout);
		if (pread(fd, p, PAGES * PAGE, 0) < 0)
			exit(1);
		exit(0);
	}
	wait_in(pid, SYS_pread64);
}

static uint64_t *page_flags(size_t *n)
{
	size_t size = 1 << 26;
	uint64_t *f = malloc(size);
	int fd = open("/proc/kpageflags", O_RDONLY);
	ssize_t k;

	*n = 0;
	if (fd < 0 || !f)
		die("kpageflags");
	while (*n < size / 8 && (k = read(fd, f + *n, size - *n * 8)) > 0)
		*n += (size_t)k / 8;
	close(fd);
	return f;
}

/* A reader makes a page of the file, locks it and waits. */
static void hold_locked(const char *path)
{
	int fuse_fd, fd;
	pid_t server = hung_file(path, &fuse_fd), pid;
	uint64_t *before, *now[3];
	size_t n, m[3];

	fd = open(path, O_RDONLY);
	if (fd < 0)
		die("open");
	before = page_flags(&n);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		char c;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		exit(pread(fd, &c, 1, 0) < 0);
	}
	wait_in(pid, SYS_pread64);
	/* Other pages are locked and unlocked all the time. */
	for (int k = 0; k < 3; k++) {
		nap(300);
		now[k] = page_flags(&m[k]);
	}
	for (size_t i = 0; i < n && i < m[0] && i < m[1] && i < m[2]; i++)
		if (now[0][i] & now[1][i] & now[2][i] & ~before[i] & 1)
			printf("pfn=%zx\n", i);
	say_pid(server);
	say_fds(&fuse_fd, 1);
}

/* Direct reads of a file one after the other, by a child. */
static void read_directly(const char *path)
{
	char *p = memory(PAGES * PAGE);
	int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
	pid_t pid;

	if (fd < 0 || write(fd, p, PAGES * PAGE) != PAGES * PAGE || fsync(fd))
		die("a file");
	close(fd);
	fd = open(path, O_RDONLY | O_DIRECT);
	if (fd < 0)
		die("O_DIRECT");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(p, 2, PAGES * PAGE);
		say_pfns(p, PAGES);
		say_pid(getpid());
		say_fds(&fd, 1);
		puts("ready");
		fflush(stdout);
		while (pread(fd, p, PAGES * PAGE, 0) > 0)
			nap(20);
		exit(1);
	}
}

/* ---- Those that hold nothing ---- */

static void clean(const char *how)
{
	size_t size = 2UL << 20;
	char *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *file;

	if (p == MAP_FAILED)
		die("mmap");
	p = (char *)(((uintptr_t)p + size - 1) & ~(size - 1));
	madvise(p, size, strcmp(how, "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	memset(p, 1, size);
	if (!strcmp(how, "mlock") && mlock(p, size))
		die("mlock");
	if (!strcmp(how, "shared"))
		for (int i = 0; i < 3; i++)
			if (!fork()) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				pause();
			}
	if (!strcmp(how, "tmpfs")) {
		memory_file(&file);
		say_pfns(file, PAGES);
	}
	say_pid(getpid());
	say_pfns(p, PAGES);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	const char *path = argc > 2 ? argv[2] : "/tmp/host_holder.fuse";
	char c;

	if (!strcmp(kind, "vmsplice"))
		hold_pipe(0, 0);
	else if (!strcmp(kind, "gift"))
		hold_pipe(SPLICE_F_GIFT, 0);
	else if (!strcmp(kind, "unmapped"))
		hold_pipe(0, 1);
	else if (!strcmp(kind, "in-flight"))
		hold_in_flight();
	else if (!strcmp(kind, "spliced"))
		hold_spliced();
	else if (!strcmp(kind, "sendfile"))
		hold_sent_file(0, 1);
	else if (!strcmp(kind, "sendfile-unix"))
		hold_sent_file(1, 1);
	else if (!strcmp(kind, "not-accepted"))
		hold_sent_file(0, 0);
	else if (!strcmp(kind, "zerocopy"))
		hold_zerocopy();
	else if (!strcmp(kind, "registered"))
		hold_registered();
	else if (!strcmp(kind, "direct"))
		hold_direct(path, 0);
	else if (!strcmp(kind, "direct-aio"))
		hold_direct(path, 1);
	else if (!strcmp(kind, "fuse"))
		hold_locked(path);
	else if (!strcmp(kind, "direct-loop"))
		read_directly(path);
	else if (!strcmp(kind, "aio-ring"))
		hold_aio_ring();
	else if (!strncmp(kind, "clean-", 6))
		clean(kind + 6);
	else
		return 2;
	if (strcmp(kind, "direct-loop"))
		puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}

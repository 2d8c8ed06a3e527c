/* SPDX-License-Identifier: MIT */
/* Planters of pages that lie in pipes and sockets. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest.h"

#define BYTES (8 * 4096UL)

static void splice_memory(char *p, unsigned flags)
{
	struct iovec v = {p, BYTES};
	int fd[2];

	if (pipe(fd) || vmsplice(fd[1], &v, 1, flags) != (ssize_t)BYTES)
		die("vmsplice");
}

void plant_vmsplice(void)
{
	splice_memory(node_memory(BYTES), 0);
	plant_ready();
}

void plant_vmsplice_gift(void)
{
	splice_memory(node_memory(BYTES), SPLICE_F_GIFT);
	plant_ready();
}

/* No page table shows these pages any more. */
void plant_vmsplice_unmapped(void)
{
	char *p = node_memory(BYTES);

	splice_memory(p, 0);
	munmap(p, BYTES);
	plant_ready();
}

/* A file in memory, whose pages lie on the node. */
static int node_file(void)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	char *p;

	if (fd < 0 || ftruncate(fd, BYTES))
		die("memfd_create");
	p = node_mapping(BYTES, MAP_SHARED, fd);
	memset(p, 3, BYTES);
	expect_on_node(p, BYTES);
	munmap(p, BYTES);
	return fd;
}

void plant_splice(void)
{
	loff_t off = 0;
	int fd[2], file = node_file();

	if (pipe(fd) || splice(file, &off, fd[1], NULL, BYTES, 0) <= 0)
		die("splice");
	plant_ready();
}

/* A pipe that nobody has but a message that nobody has received. */
void plant_in_flight(void)
{
	char control[CMSG_SPACE(2 * sizeof(int))] = {0}, byte = 0;
	struct iovec v = {node_memory(BYTES), BYTES}, one = {&byte, 1};
	struct msghdr m = {.msg_iov = &one,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int sock[2], fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock) || pipe(fd) ||
	    vmsplice(fd[1], &v, 1, 0) != (ssize_t)BYTES)
		die("a pipe in flight");
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(c), fd, 2 * sizeof(int));
	if (sendmsg(sock[0], &m, 0) != 1)
		die("sendmsg");
	close(fd[0]);
	close(fd[1]);
	plant_ready();
}

/* Descriptors that only one thread has: the process's own table knows nothing of them. */
static void *hold_alone(void *arg)
{
	if (unshare(CLONE_FILES))
		die("unshare");
	splice_memory(arg, 0);
	plant_say_ready();
	for (;;)
		pause();
}

void plant_own_table(void)
{
	pthread_t t;

	pthread_create(&t, NULL, hold_alone, node_memory(BYTES));
	for (;;)
		pause();
}

/*
 * The pages are mapped by a child as well, which has no descriptor of the pipe: it maps what is held, and holds
 * nothing. A group of its own, so that it counts as somebody else.
 */
void plant_shared(void)
{
	char *p = node_memory(BYTES);
	int fd[2], up[2];
	char byte;
	struct iovec v = {p, BYTES};

	if (pipe(fd) || pipe(up) || vmsplice(fd[1], &v, 1, 0) != (ssize_t)BYTES)
		die("vmsplice");
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		close(fd[0]);
		close(fd[1]);
		if (write(up[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (read(up[0], &byte, 1) != 1)
		die("the child");
	plant_ready();
}

/* One page of a huge one: the whole of it is held. */
void plant_vmsplice_thp(void)
{
	const size_t huge = 2UL << 20;
	char *p = node_mapping(2 * huge, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	p = (char *)(((uintptr_t)p + huge - 1) & ~(huge - 1));
	madvise(p, huge, MADV_HUGEPAGE);
	memset(p, 1, huge);
	expect_on_node(p, huge);
	splice_memory(p + 17 * 4096, 0);
	plant_ready();
}

/* Connected to a peer that never reads; with little room, so that data stays in the sender's queue. */
static int peer(bool accepted)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);
	int small = 4096;

	setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	if (l < 0 || s < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len) || connect(s, (struct sockaddr *)&a, len))
		die("a TCP connection to ourselves");
	if (accepted && accept(l, NULL, NULL) < 0)
		die("accept");
	return s;
}

static int deaf_peer(void)
{
	return peer(true);
}

static void send_file(int s)
{
	int file = node_file();
	off_t off = 0;

	if (sendfile(s, file, &off, BYTES) <= 0)
		die("sendfile");
}

/* What was sent waits in a connection that has no descriptor yet. */
void plant_not_accepted(void)
{
	send_file(peer(false));
	plant_ready();
}

void plant_sendfile_unix(void)
{
	int s[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
		die("socketpair");
	send_file(s[0]);
	plant_ready();
}

void plant_sendfile(void)
{
	send_file(deaf_peer());
	plant_ready();
}

void plant_zerocopy(void)
{
	int s = deaf_peer(), one = 1;
	char *p = node_memory(BYTES);

	if (setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) ||
	    send(s, p, BYTES, MSG_ZEROCOPY | MSG_DONTWAIT) <= 0)
		die("MSG_ZEROCOPY");
	plant_ready();
}

/* ---- Who is not to be accused ---- */

/*
 * Memory in the block, a pipe with data of its own in it, a connection with unread bytes, a descriptor for direct
 * I/O: all that holders have, but none of the pages that it has in the block is held.
 */
void plant_innocent(void)
{
	char *p = node_memory(256 * 4096UL);
	int fd[2], s[2];

	memset(p, 4, 256 * 4096UL);
	if (pipe(fd) || write(fd[1], p, BYTES) != (ssize_t)BYTES ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, s) || write(s[0], p, 4096) != 4096)
		die("a pipe and a socket");
	open("/dev/vda", O_RDONLY | O_DIRECT);
	plant_ready();
}

/* ---- Which of them, nobody knows beforehand ---- */

void plant_random(void)
{
	static const struct {
		const char *name;
		void (*plant)(void);
	} all[] = {
		{"vmsplice", plant_vmsplice},
		{"vmsplice-gift", plant_vmsplice_gift},
		{"vmsplice-unmapped", plant_vmsplice_unmapped},
		{"vmsplice-thp", plant_vmsplice_thp},
		{"splice", plant_splice},
		{"in-flight", plant_in_flight},
		{"own-table", plant_own_table},
		{"shared", plant_shared},
		{"sendfile", plant_sendfile},
		{"sendfile-unix", plant_sendfile_unix},
		{"not-accepted", plant_not_accepted},
		{"zerocopy", plant_zerocopy},
	};
	unsigned k = 0;

	if (getrandom(&k, sizeof(k), 0) != sizeof(k))
		die("getrandom");
	k %= sizeof(all) / sizeof(all[0]);
	printf("# drawn: %s\n", all[k].name);
	fflush(stdout);
	all[k].plant();
}

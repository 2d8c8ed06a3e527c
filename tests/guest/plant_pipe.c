/* SPDX-License-Identifier: MIT */
/* Planters of pages that lie in pipes and sockets. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

/* Connected to a peer that never reads; with little room, so that data stays in the sender's queue. */
static int deaf_peer(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);
	int small = 4096;

	setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	if (l < 0 || s < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len) || connect(s, (struct sockaddr *)&a, len))
		die("a TCP connection to ourselves");
	if (accept(l, NULL, NULL) < 0)
		die("accept");
	return s;
}

void plant_sendfile(void)
{
	int s = deaf_peer(), file = node_file();
	off_t off = 0;

	if (sendfile(s, file, &off, BYTES) <= 0)
		die("sendfile");
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

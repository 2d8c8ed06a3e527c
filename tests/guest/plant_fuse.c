/* SPDX-License-Identifier: MIT */
/* A file on a FUSE server that hangs in a read: the page waits locked, in the page cache. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest.h"

static int dev;
static char request[1 << 17];

static void answer(uint64_t unique, const void *data, size_t len, int error)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + len), .error = error};
	struct iovec v[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)data, len}};

	h.unique = unique;
	if (writev(dev, v, 2) < 0 && errno != ENOENT)
		die("answer to a FUSE request");
}

static void file_attr(struct fuse_attr *a, uint64_t ino)
{
	a->ino = ino;
	a->mode = ino == 1 ? S_IFDIR | 0755 : S_IFREG | 0644;
	a->nlink = 1;
	a->size = 65536;
	a->blksize = 4096;
}

static void *serve(void *arg)
{
	struct fuse_in_header *in = (struct fuse_in_header *)request;
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 65536};
	struct fuse_entry_out entry = {.nodeid = 2, .attr_valid = 1000, .entry_valid = 1000};
	struct fuse_attr_out attr = {.attr_valid = 1000};
	struct fuse_open_out open_out = {.fh = 1};

	(void)arg;
	while (read(dev, request, sizeof(request)) > 0) {
		switch (in->opcode) {
		case FUSE_INIT: answer(in->unique, &init, sizeof(init), 0); break;
		case FUSE_LOOKUP:
			file_attr(&entry.attr, 2);
			answer(in->unique, &entry, sizeof(entry), 0);
			break;
		case FUSE_GETATTR:
			file_attr(&attr.attr, in->nodeid);
			answer(in->unique, &attr, sizeof(attr), 0);
			break;
		case FUSE_OPENDIR:
		case FUSE_OPEN: answer(in->unique, &open_out, sizeof(open_out), 0); break;
		case FUSE_READ: plant_say_ready(); break; /* and no answer, ever */
		case FUSE_FORGET: break;
		default: answer(in->unique, NULL, 0, -ENOSYS); break;
		}
	}
	return NULL;
}

void plant_fuse(void)
{
	char options[128];
	pthread_t t;

	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		die("/dev/fuse");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	mkdir("/tmp/fuse", 0755);
	if (mount("guest", "/tmp/fuse", "fuse.guest", 0, options))
		die("mount of a FUSE file system");
	pthread_create(&t, NULL, serve, NULL);
	/*
	 * The reader is a process of its own, and the only one that has the file open: a server that dies with a
	 * file of its own open waits for itself to answer the flush.
	 */
	if (!fork()) {
		char byte;
		int fd;

		close(dev);
		fd = open("/tmp/fuse/file", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			die("/tmp/fuse/file");
		node_policy(true);
		_exit(pread(fd, &byte, 1, 0) == 1);
	}
	for (;;)
		pause();
}

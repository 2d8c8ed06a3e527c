/* SPDX-License-Identifier: MIT */
/*
 * The swap file: past the page cache where the file system allows it, from and to direct maps.
 */
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "port/linux/linux.h"

#ifndef BLKGETSIZE64
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)
#endif

static int long_enough(int fd, uint64_t bytes)
{
	struct stat st;
	uint64_t size;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		if (syscall(SYS_ioctl, fd, BLKGETSIZE64, &size) < 0)
			return -errno;
	} else if (S_ISREG(st.st_mode)) {
		size = (uint64_t)st.st_size;
	} else {
		return -EINVAL;
	}
	return size < bytes ? -EINVAL : 0;
}

/* The same file once more, with our own flags; a descriptor of ours in any case. */
static int reopen(int fd)
{
	char path[40];
	int r, flags = (int)vac__sys(syscall(SYS_fcntl, fd, F_GETFL));

	if (flags < 0)
		return flags;
	if ((flags & O_ACCMODE) != O_RDWR)
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = vac__sys_open(AT_FDCWD, path, O_RDWR | O_DIRECT);
	if (r < 0)
		r = (int)vac__sys(syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0));
	return r;
}

int vac__swap_open(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f)
{
	int r = long_enough(fd, bytes);

	(void)ctx;
	if (r < 0)
		return r;
	r = reopen(fd);
	if (r < 0)
		return r;
	*f = (struct vac__swapfile){.fd = r, .bytes = bytes};
	return 0;
}

void vac__swap_close(void *ctx, struct vac__swapfile *f)
{
	(void)ctx;
	vac__sys_close(f->fd);
	f->fd = -1;
}

static int transfer(int fd, bool write, struct vac__swap_run *run)
{
	size_t done = 0;

	while (done < run->bytes) {
		long r = vac__sys(syscall(write ? SYS_pwrite64 : SYS_pread64, fd,
					  (char *)run->mem + done, run->bytes - done,
					  run->off + done));

		if (r == -EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? (int)r : -EIO;
		done += (size_t)r;
	}
	return 0;
}

void vac__swap_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
		  unsigned n)
{
	(void)ctx;
	for (unsigned i = 0; i < n; i++)
		run[i].err = transfer(f->fd, write, &run[i]);
}

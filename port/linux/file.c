/* SPDX-License-Identifier: MIT */
/*
 * Blocks whose memory is a file that the program was given: a memfd, a file on tmpfs, one that is
 * mapped by DAX. Nothing else: a file with a disk behind it would be written back to it.
 *
 * Invariants:
 *  - the pool has a descriptor of its own from file_take to file_drop, and a lock (flock) on the file,
 *    so that no other pool that asks takes the same;
 *  - the file is all holes when its block is opened: what is populated is zero;
 *  - nobody shortens the file meanwhile: its pages would be a SIGBUS. That is the caller's promise
 *    (vacate.h): F_SEAL_SHRINK would enforce it on some, and keep us from emptying a sealed file.
 */
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "port/linux/linux.h"

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_GET_SEALS 1034
#define F_SEAL_SEAL 1
#define F_SEAL_WRITE 8
#endif
#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif
#define TMPFS 0x01021994

static bool is_dax(int fd)
{
	struct statx sx;

	return !syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) &&
	       (sx.stx_attributes & STATX_ATTR_DAX);
}

static int suits(int fd, size_t bytes, struct vac__file *f)
{
	long flags = syscall(SYS_fcntl, fd, F_GETFL);
	struct statfs fs;
	struct stat st;

	if (flags < 0 || vac__sys_fstat(fd, &st))
		return -EBADF;
	if ((flags & O_ACCMODE) != O_RDWR || (flags & O_PATH) || !S_ISREG(st.st_mode) ||
	    fstatfs(fd, &fs) || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	/* hugetlbfs has pages of 2 MiB, which the engine could not place base folios in. */
	if ((unsigned long)fs.f_type != TMPFS && !is_dax(fd))
		return -EINVAL;
	f->id[0] = (uint64_t)st.st_dev;
	f->id[1] = (uint64_t)st.st_ino;
	return 0;
}

int vac__file_take(void *ctx, int fd, size_t bytes, struct vac__file *f)
{
	long seals;
	int r = suits(fd, bytes, f);

	(void)ctx;
	if (r < 0)
		return r;
	seals = syscall(SYS_fcntl, fd, F_GET_SEALS);
	if (seals > 0 && (seals & F_SEAL_WRITE))
		return -EINVAL;
	f->fd = (int)vac__sys(syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0));
	if (f->fd < 0)
		return f->fd;
	/* One that has F_SEAL_SEAL, as every file on tmpfs has, takes no further seals. */
	f->unsealable = seals < 0 || (seals & F_SEAL_SEAL);
	f->locked = false;
	return 0;
}

/* By flock, which belongs to the open file and not to the descriptor: who gives us the same one twice
 * would not be kept out by it, and must not lose the first lock with the second. */
int vac__file_lock(void *ctx, struct vac__file *f)
{
	(void)ctx;
	if (syscall(SYS_flock, f->fd, LOCK_EX | LOCK_NB) < 0)
		return -EBUSY;
	f->locked = true;
	return 0;
}

/* The lock belongs to what the caller's descriptor refers to as well, and would outlive ours. */
void vac__file_drop(void *ctx, struct vac__file *f)
{
	(void)ctx;
	if (f->locked)
		syscall(SYS_flock, f->fd, LOCK_UN);
	vac__sys_close(f->fd);
	f->fd = -1;
}

int vac__block_open_file(void *ctx, const struct vac__file *f, size_t bytes, void *direct,
			 struct vac__backing *b)
{
	long seals = syscall(SYS_fcntl, f->fd, F_GET_SEALS);
	struct stat st;
	int fd, r;

	if (seals > 0 && (seals & F_SEAL_WRITE))
		return -EROFS;
	if (vac__sys_fstat(f->fd, &st) || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	r = (int)vac__sys(syscall(SYS_fallocate, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  0, bytes));
	if (r < 0)
		return r == -EPERM ? -EROFS : r == -EOPNOTSUPP ? -EINVAL : r;
	fd = (int)vac__sys(syscall(SYS_fcntl, f->fd, F_DUPFD_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	r = vac__block_open_on(ctx, fd, bytes, direct, b);
	if (r == 0) {
		b->file = true;
		b->unsealable = f->unsealable;
	}
	return r;
}

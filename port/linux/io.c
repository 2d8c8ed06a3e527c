/* SPDX-License-Identifier: MIT */
/*
 * vac_read(), vac_write() and kin: system calls on pool memory that do not fail for a page which is
 * absent or leaving. The transfer itself is here, with files, pipes and devices; sockets are in
 * io_socket.c.
 *
 * Invariants:
 *  - a pin is held across a system call only if that call does not wait for anybody: a non-blocking
 *    form (RWF_NOWAIT, MSG_DONTWAIT), or a file or block device;
 *  - to wait, the thread makes the plain, blocking call on memory of our own. So blocking mode,
 *    time-outs, EINTR and the restart after SA_RESTART are the kernel's own, not imitated;
 *  - nothing is consumed before all memory that it may go to is pinned, or is ours;
 *  - a second pin of the same call never waits for a gate while the first is held.
 *
 * Beside mode and type, a file's size is looked at: what is regular and empty may be one of those of
 * /proc and tracefs that block (trace_pipe), and is treated as a device.
 */
#include "port/linux/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MOST ((size_t)16 << 20) /* of a file that is read at once, under one pin */
#define RW_MOST ((size_t)0x7ffff000) /* the kernel's own limit */
#define IOV_MOST 1024u

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

/* ---- The transfer ---------------------------------------------------------------------------- */

static struct vac_space *space_of(const struct iovec *v)
{
	return v->iov_len ? vac_space_of(v->iov_base) : NULL;
}

/* 0, -EINVAL, -ENOMEM. After 0, vac__io_end() must follow. */
int vac__io_begin(struct vac__io *io, const struct iovec *iov, size_t n, bool in, const char *owner)
{
	_Static_assert(sizeof(*io->held) * VAC__IO_FEW <= sizeof(io->few_held), "");
	if (n > IOV_MOST)
		return -EINVAL;
	io->n = (unsigned)n;
	io->at = io->parts = 0;
	io->left = 0;
	io->in = in;
	io->pool = io->refuses = false;
	io->owner = owner;
	io->heap = NULL;
	io->iov = io->few_iov;
	io->part = io->few_part;
	io->held = (void *)io->few_held;
	if (n > VAC__IO_FEW) {
		io->heap = malloc(n * (2 * sizeof(*iov) + sizeof(*io->held)));
		if (!io->heap)
			return -ENOMEM;
		io->iov = io->heap;
		io->part = io->iov + n;
		io->held = (void *)(io->part + n);
	}
	for (unsigned i = 0; i < n; i++) {
		struct iovec v = iov[i]; /* may lie in a pool: touched here, not by the kernel */
		struct vac_space *s;

		if (v.iov_len > SSIZE_MAX - io->left) {
			vac__io_end(io);
			return -EINVAL;
		}
		if (v.iov_len > RW_MOST - io->left)
			v.iov_len = RW_MOST - io->left;
		io->iov[i] = v;
		io->left += v.iov_len;
		s = space_of(&v);
		if (s) {
			io->pool = true;
			io->refuses |= vac_pool_guard(vac_space_pool(s)) != VAC_GUARD_USERFAULTFD;
		}
	}
	vac__io_done(io, 0);
	return 0;
}

void vac__io_end(struct vac__io *io)
{
	free(io->heap);
}

void vac__io_drop(struct vac__io *io)
{
	for (unsigned i = 0; i < io->parts; i++)
		if (io->held[i].pool)
			vac_unpin(io->held[i].pool, io->held[i].pin);
	io->parts = 0;
}

/* Pin the k-th part. -EAGAIN: it is at a gate; it was waited for, holding nothing: begin again. */
static int pin_part(struct vac__io *io, unsigned k)
{
	struct vac_space *s = space_of(&io->part[k]);
	unsigned flags = io->in ? VAC_PIN_WRITE : VAC_PIN_READ;
	const struct iovec *v = &io->part[k];
	int r;

	io->held[k].pool = NULL;
	if (!s)
		return 0;
	r = vac_pin(s, v->iov_base, v->iov_len, flags | (k ? VAC_PIN_NOWAIT : 0), io->owner,
		    &io->held[k].pin);
	if (r == 0)
		io->held[k].pool = vac_space_pool(s);
	if (r != -EAGAIN)
		return r;
	io->parts = k;
	vac__io_drop(io);
	r = vac_pin(s, v->iov_base, v->iov_len, flags, io->owner, &io->held[k].pin);
	if (r < 0)
		return r;
	vac_unpin(vac_space_pool(s), io->held[k].pin);
	return -EAGAIN;
}

/* Pin the next bytes, at most so many: io->part. Their number, or an error: nothing is pinned. */
int64_t vac__io_take(struct vac__io *io, size_t most)
{
	size_t bytes;
	int r;

again:
	bytes = 0;
	io->parts = 0;
	for (unsigned i = io->at; i < io->n && bytes < most; i++) {
		size_t len = io->iov[i].iov_len;

		if (len > most - bytes)
			len = most - bytes;
		if (!len)
			continue;
		io->part[io->parts] = (struct iovec){io->iov[i].iov_base, len};
		r = pin_part(io, io->parts);
		if (r == -EAGAIN)
			goto again;
		if (r < 0) {
			vac__io_drop(io);
			return r;
		}
		io->parts++;
		bytes += len;
	}
	return (int64_t)bytes;
}

void vac__io_done(struct vac__io *io, size_t bytes)
{
	io->left -= bytes;
	while (io->at < io->n && bytes >= io->iov[io->at].iov_len)
		bytes -= io->iov[io->at++].iov_len;
	if (bytes) {
		io->iov[io->at].iov_base = (char *)io->iov[io->at].iov_base + bytes;
		io->iov[io->at].iov_len -= bytes;
	}
}

/* Before something is consumed into memory of our own: can the next bytes go to the caller's? */
int vac__io_fill_in(struct vac__io *io, size_t bytes)
{
	int64_t r = vac__io_take(io, bytes);

	if (r >= 0)
		vac__io_drop(io);
	return r < 0 ? (int)r : 0;
}

/* The copies below touch pool memory as any thread does. */
void vac__io_scatter(struct vac__io *io, const void *buf, size_t bytes)
{
	const char *from = buf;

	while (bytes) {
		struct iovec *v = &io->iov[io->at];
		size_t len = v->iov_len < bytes ? v->iov_len : bytes;

		memcpy(v->iov_base, from, len);
		from += len;
		bytes -= len;
		vac__io_done(io, len);
	}
}

void vac__io_gather(const struct vac__io *io, void *buf, size_t bytes)
{
	char *to = buf;

	for (unsigned i = io->at; bytes; i++) {
		size_t len = io->iov[i].iov_len < bytes ? io->iov[i].iov_len : bytes;

		memcpy(to, io->iov[i].iov_base, len);
		to += len;
		bytes -= len;
	}
}

/* ---- Files, pipes, devices ------------------------------------------------------------------- */

#define HERE INT64_MIN /* at the file's own offset */

static int64_t move(bool in, int fd, const struct iovec *v, unsigned n, int64_t off)
{
	if (off == HERE)
		return vac__sys(syscall(in ? SYS_readv : SYS_writev, fd, v, n));
	return vac__sys(syscall(in ? SYS_preadv : SYS_pwritev, fd, v, n, off, 0));
}

static int64_t move_now(bool in, int fd, const struct iovec *v, unsigned n, int64_t off)
{
	return vac__sys(syscall(in ? SYS_preadv2 : SYS_pwritev2, fd, v, n,
				off == HERE ? (int64_t)-1 : off, 0, RWF_NOWAIT));
}

static bool would_wait(int64_t r)
{
	return r == -EAGAIN || r == -EOPNOTSUPP || r == -ENOSYS;
}

static int64_t read_file(int fd, struct vac__io *io, int64_t off)
{
	int64_t done = 0;

	while (io->left) {
		int64_t most = vac__io_take(io, FILE_MOST), r = most;

		if (most >= 0) {
			r = move(true, fd, io->part, io->parts, off);
			vac__io_drop(io);
		}
		if (r < 0)
			return done ? done : r;
		done += r;
		vac__io_done(io, (size_t)r);
		if (r < most)
			break;
		if (off != HERE)
			off += r;
	}
	return done;
}

static int64_t write_file(int fd, struct vac__io *io, int64_t off)
{
	int64_t r = vac__io_take(io, io->left);

	if (r >= 0) {
		r = move(false, fd, io->part, io->parts, off);
		vac__io_drop(io);
	}
	return r;
}

/* What is there now, straight into the memory; else wait with a buffer. */
static int64_t read_other(int fd, struct vac__io *io, int64_t off)
{
	struct iovec own;
	int64_t r = vac__io_take(io, VAC__IO_STREAM);

	if (r < 0)
		return r;
	r = move_now(true, fd, io->part, io->parts, off);
	vac__io_drop(io);
	if (!would_wait(r))
		return r;
	own.iov_len = io->left < VAC__IO_BUFFER ? io->left : VAC__IO_BUFFER;
	own.iov_base = malloc(own.iov_len);
	if (!own.iov_base)
		return -ENOMEM;
	r = move(true, fd, &own, 1, off);
	if (r > 0)
		vac__io_scatter(io, own.iov_base, (size_t)r);
	free(own.iov_base);
	return r;
}

/* As much as there is room for now, straight from the memory; the rest waits in a buffer. */
static int64_t write_other(int fd, struct vac__io *io, int64_t off)
{
	int64_t done = 0, r, most;
	struct iovec own = {NULL, 0};

	while (io->left) {
		most = vac__io_take(io, VAC__IO_STREAM);
		r = most;
		if (most >= 0) {
			r = move_now(false, fd, io->part, io->parts, off);
			vac__io_drop(io);
		}
		if (would_wait(r)) {
			most = (int64_t)(io->left < VAC__IO_BUFFER ? io->left : VAC__IO_BUFFER);
			if (!own.iov_base)
				own.iov_base = malloc((size_t)most);
			r = -ENOMEM;
			if (own.iov_base) {
				own.iov_len = (size_t)most;
				vac__io_gather(io, own.iov_base, own.iov_len);
				r = move(false, fd, &own, 1, off);
			}
			if (r >= 0 && r < most)
				io->left = (size_t)r; /* the kernel has given up waiting */
		}
		if (r < 0) {
			done = done ? done : r;
			break;
		}
		done += r;
		vac__io_done(io, (size_t)r);
		if (off != HERE)
			off += r;
	}
	free(own.iov_base);
	return done;
}

static int64_t transfer(int fd, struct vac__io *io, int64_t off)
{
	struct stat st;
	bool file;
	int r;

	if (!io->pool)
		return move(io->in, fd, io->iov, io->n, off);
	r = vac__sys_fstat(fd, &st);
	if (r < 0)
		return r;
	file = S_ISBLK(st.st_mode) || (S_ISREG(st.st_mode) && (st.st_size > 0 || !io->in));
	if (!file && !io->refuses)
		return move(io->in, fd, io->iov, io->n, off);
	if (S_ISSOCK(st.st_mode) && off == HERE)
		return vac__io_socket(fd, io);
	if (io->in)
		return file ? read_file(fd, io, off) : read_other(fd, io, off);
	return file ? write_file(fd, io, off) : write_other(fd, io, off);
}

static int64_t vector(int fd, const struct iovec *iov, int n, int64_t off, bool in,
		      const char *owner)
{
	struct vac__io io;
	int64_t r;

	if (n < 0)
		return -EINVAL;
	r = vac__io_begin(&io, iov, (size_t)n, in, owner);
	if (r < 0)
		return r;
	r = transfer(fd, &io, off);
	vac__io_end(&io);
	return r;
}

static int64_t single(int fd, const void *buf, size_t len, int64_t off, bool in, const char *owner)
{
	struct iovec v = {(void *)(uintptr_t)buf, len < RW_MOST ? len : RW_MOST};

	return vector(fd, &v, 1, off, in, owner);
}

int64_t vac_read(int fd, void *buf, size_t len)
{
	if (!len || !vac_space_of(buf))
		return vac__sys(syscall(SYS_read, fd, buf, len));
	return single(fd, buf, len, HERE, true, "vac_read");
}

int64_t vac_write(int fd, const void *buf, size_t len)
{
	if (!len || !vac_space_of(buf))
		return vac__sys(syscall(SYS_write, fd, buf, len));
	return single(fd, buf, len, HERE, false, "vac_write");
}

int64_t vac_pread(int fd, void *buf, size_t len, int64_t off)
{
	if (off < 0 || !len || !vac_space_of(buf))
		return vac__sys(syscall(SYS_pread64, fd, buf, len, off));
	return single(fd, buf, len, off, true, "vac_pread");
}

int64_t vac_pwrite(int fd, const void *buf, size_t len, int64_t off)
{
	if (off < 0 || !len || !vac_space_of(buf))
		return vac__sys(syscall(SYS_pwrite64, fd, buf, len, off));
	return single(fd, buf, len, off, false, "vac_pwrite");
}

int64_t vac_readv(int fd, const struct iovec *iov, int n)
{
	return vector(fd, iov, n, HERE, true, "vac_readv");
}

int64_t vac_writev(int fd, const struct iovec *iov, int n)
{
	return vector(fd, iov, n, HERE, false, "vac_writev");
}

int64_t vac_preadv(int fd, const struct iovec *iov, int n, int64_t off)
{
	return off < 0 ? -EINVAL : vector(fd, iov, n, off, true, "vac_preadv");
}

int64_t vac_pwritev(int fd, const struct iovec *iov, int n, int64_t off)
{
	return off < 0 ? -EINVAL : vector(fd, iov, n, off, false, "vac_pwritev");
}

/* SPDX-License-Identifier: MIT */
/*
 * vac_recv(), vac_send() and kin: see io.c. Tried first, under a pin: the call with MSG_DONTWAIT.
 * Where it says EAGAIN and may wait:
 *
 *	to receive	peek at one byte, blocking, into memory of our own; then try again
 *	to send		the plain call, blocking, from a copy
 *
 * Some receives cannot be put together from pieces, or not be peeked for; they are made, blocking,
 * into a buffer of their full length: WAITALL with PEEK or with room for control messages, sockets
 * with SO_PEEK_OFF, and those that know no MSG_PEEK.
 *
 * Names and control messages go through memory of our own: the kernel takes a message off its queue
 * first, and passes descriptors on, and would lose both to an EFAULT.
 */
#include "port/linux/io.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

static int64_t sys_recv(int fd, struct msghdr *m, int flags)
{
	return vac__sys(syscall(SYS_recvmsg, fd, m, flags));
}

static int64_t sys_send(int fd, const struct msghdr *m, int flags)
{
	return vac__sys(syscall(SYS_sendmsg, fd, m, flags));
}

static bool option(int fd, int name, void *value, socklen_t len)
{
	return syscall(SYS_getsockopt, fd, SOL_SOCKET, name, value, &len) == 0;
}

static bool is_stream(int fd)
{
	int type = 0;

	return option(fd, SO_TYPE, &type, sizeof(type)) && type == SOCK_STREAM;
}

/* ---- Receive --------------------------------------------------------------------------------- */

/* The blocking call itself, into a buffer as long as all that is left. */
static int64_t recv_buffered(int fd, struct vac__io *io, struct msghdr *m, int flags)
{
	struct iovec own = {NULL, io->left};
	int64_t r = vac__io_fill_in(io, io->left);
	size_t got;

	if (r < 0)
		return r;
	own.iov_base = malloc(io->left);
	if (!own.iov_base)
		return -ENOMEM;
	m->msg_iov = &own;
	m->msg_iovlen = 1;
	r = sys_recv(fd, m, flags);
	/* With MSG_TRUNC the answer is the length of the datagram, not of what there was room for. */
	got = r > 0 && (size_t)r > io->left ? io->left : (size_t)r;
	/* A stream with MSG_TRUNC throws the bytes away and stores none. */
	if (r > 0 && !((flags & MSG_TRUNC) && is_stream(fd)))
		vac__io_scatter(io, own.iov_base, got);
	free(own.iov_base);
	return r;
}

/* Wait as a receive does, and consume nothing. 0; -EOPNOTSUPP: cannot; else what a receive says. */
static int wait_first(int fd)
{
	int off = -1;
	char c;
	struct iovec v = {&c, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	int64_t r;

	if (option(fd, SO_PEEK_OFF, &off, sizeof(off)) && off >= 0)
		return -EOPNOTSUPP;
	r = sys_recv(fd, &m, MSG_PEEK);
	return r < 0 ? (int)r : 0;
}

/*
 * Wait for more of what MSG_WAITALL has asked for. False: it will not come, be it for a signal (in
 * the kernel too that ends a receive which has got something, SA_RESTART or not), the time-out, or
 * an error, which stays for the next call.
 */
static bool wait_more(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct timeval tv = {0, 0};
	struct timespec ts, *until = NULL;
	int queued = 0;

	if (option(fd, SO_RCVTIMEO, &tv, sizeof(tv)) && (tv.tv_sec || tv.tv_usec)) {
		ts.tv_sec = tv.tv_sec;
		ts.tv_nsec = tv.tv_usec * 1000;
		until = &ts;
	}
	if (syscall(SYS_ppoll, &p, 1, until, NULL, (size_t)8) <= 0)
		return false;
	if (p.revents & POLLERR)
		return syscall(SYS_ioctl, fd, FIONREAD, &queued) == 0 && queued > 0;
	return true;
}

static int64_t do_recv(int fd, struct vac__io *io, struct msghdr *m, int flags)
{
	socklen_t name_len = m->msg_namelen;
	size_t control_len = m->msg_controllen, most = io->left;
	bool may_wait = !(flags & (MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE));
	bool all = may_wait && (flags & MSG_WAITALL) && is_stream(fd);
	int64_t done = 0, r;

	if (!io->refuses) {
		m->msg_iov = io->iov;
		m->msg_iovlen = io->n;
		return sys_recv(fd, m, flags);
	}
	if (all && (flags & MSG_PEEK || m->msg_control))
		return recv_buffered(fd, io, m, flags);
	if (most > VAC__IO_STREAM && is_stream(fd))
		most = VAC__IO_STREAM;
	for (;;) {
		int64_t want = vac__io_take(io, most);

		if (want < 0)
			return done ? done : want;
		m->msg_iov = io->part;
		m->msg_iovlen = io->parts;
		m->msg_namelen = name_len;
		m->msg_controllen = control_len;
		r = sys_recv(fd, m, (flags & ~MSG_WAITALL) | MSG_DONTWAIT);
		vac__io_drop(io);
		if (r >= 0) {
			done += r;
			if (!all || r == 0 || (size_t)r >= io->left)
				return done;
			vac__io_done(io, (size_t)r);
			if (r == want)
				continue;
		} else if (r != -EAGAIN) {
			return done ? done : r;
		} else if (!may_wait) {
			return r;
		}
		if (done) {
			if (!wait_more(fd))
				return done;
			continue;
		}
		r = wait_first(fd);
		if (r == -EOPNOTSUPP || r == -EINVAL) {
			m->msg_namelen = name_len;
			m->msg_controllen = control_len;
			return recv_buffered(fd, io, m, flags);
		}
		if (r < 0)
			return r;
	}
}

/* ---- Send ------------------------------------------------------------------------------------ */

/* Control messages went out with the first byte. The end of a record is that of the last. */
static int64_t send_some(int fd, struct vac__io *io, struct msghdr *m, size_t bytes, int flags)
{
	int64_t r = sys_send(fd, m, bytes < io->left ? flags & ~MSG_EOR : flags);

	if (r >= 0) {
		m->msg_control = NULL;
		m->msg_controllen = 0;
	}
	return r;
}

static int64_t send_pinned(int fd, struct vac__io *io, struct msghdr *m, size_t most, int flags)
{
	int64_t r = vac__io_take(io, most);

	if (r < 0)
		return r;
	m->msg_iov = io->part;
	m->msg_iovlen = io->parts;
	r = send_some(fd, io, m, (size_t)r, flags | MSG_DONTWAIT);
	vac__io_drop(io);
	return r;
}

static int64_t send_buffered(int fd, struct vac__io *io, struct msghdr *m, size_t bytes, int flags)
{
	struct iovec own = {malloc(bytes ? bytes : 1), bytes};
	int64_t r;

	if (!own.iov_base)
		return -ENOMEM;
	vac__io_gather(io, own.iov_base, bytes);
	m->msg_iov = &own;
	m->msg_iovlen = 1;
	r = send_some(fd, io, m, bytes, flags);
	free(own.iov_base);
	return r;
}

static int64_t do_send(int fd, struct vac__io *io, struct msghdr *m, int flags)
{
	size_t most = io->left;
	int64_t done = 0, r;

	if (!io->refuses && !(flags & MSG_ZEROCOPY)) {
		m->msg_iov = io->iov;
		m->msg_iovlen = io->n;
		return sys_send(fd, m, flags);
	}
	if (io->pool && (flags & MSG_ZEROCOPY))
		return -EOPNOTSUPP;
	if (most > VAC__IO_STREAM && is_stream(fd))
		most = VAC__IO_STREAM;
	for (;;) {
		size_t want = io->left < most ? io->left : most;

		r = send_pinned(fd, io, m, want, flags);
		if (r == -EAGAIN && !(flags & MSG_DONTWAIT)) {
			if (want > VAC__IO_BUFFER && is_stream(fd))
				want = VAC__IO_BUFFER;
			r = send_buffered(fd, io, m, want, flags);
			if (r >= 0 && (size_t)r < want)
				return done + r; /* the kernel has given up waiting */
		}
		if (r < 0)
			return done ? done : r;
		done += r;
		vac__io_done(io, (size_t)r);
		if (!io->left || (flags & MSG_DONTWAIT && (size_t)r < want))
			return done;
	}
}

/* ---- The calls ------------------------------------------------------------------------------- */

int64_t vac__io_socket(int fd, struct vac__io *io)
{
	struct msghdr m = {.msg_name = NULL};

	return io->in ? do_recv(fd, io, &m, 0) : do_send(fd, io, &m, 0);
}

int64_t vac_recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *from,
		     uint32_t *from_len)
{
	struct iovec v = {buf, len};
	struct sockaddr_storage name;
	struct msghdr m = {.msg_name = from ? &name : NULL, .msg_namelen = sizeof(name)};
	struct vac__io io;
	int64_t r;

	if (from && from_len && *from_len > INT_MAX)
		return -EINVAL;
	if (!from)
		m.msg_namelen = 0;
	if (len > SSIZE_MAX)
		v.iov_len = SSIZE_MAX; /* more than there can be */
	r = vac__io_begin(&io, &v, 1, true, from ? "vac_recvfrom" : "vac_recv");
	if (r < 0)
		return r;
	r = do_recv(fd, &io, &m, flags);
	if (r >= 0 && from && from_len) {
		memcpy(from, &name, m.msg_namelen < *from_len ? m.msg_namelen : *from_len);
		*from_len = m.msg_namelen;
	}
	vac__io_end(&io);
	return r;
}

int64_t vac_recv(int fd, void *buf, size_t len, int flags)
{
	return vac_recvfrom(fd, buf, len, flags, NULL, NULL);
}

int64_t vac_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct sockaddr_storage name;
	struct msghdr m = *msg;
	struct vac__io io;
	int64_t r;

	if (m.msg_iovlen > IOV_MAX)
		return -EMSGSIZE;
	if (m.msg_name) {
		m.msg_name = &name;
		if (m.msg_namelen > sizeof(name))
			m.msg_namelen = sizeof(name);
	} else {
		m.msg_namelen = 0;
	}
	if (m.msg_control && vac_space_of(m.msg_control)) {
		m.msg_control = malloc(m.msg_controllen ? m.msg_controllen : 1);
		if (!m.msg_control)
			return -ENOMEM;
	}
	r = vac__io_begin(&io, msg->msg_iov, m.msg_iovlen, true, "vac_recvmsg");
	if (r == 0) {
		r = do_recv(fd, &io, &m, flags);
		vac__io_end(&io);
	}
	if (r >= 0) {
		if (msg->msg_name) {
			memcpy(msg->msg_name, &name,
			       m.msg_namelen < msg->msg_namelen ? m.msg_namelen : msg->msg_namelen);
			msg->msg_namelen = m.msg_namelen;
		}
		if (m.msg_control != msg->msg_control)
			memcpy(msg->msg_control, m.msg_control, m.msg_controllen);
		msg->msg_controllen = m.msg_controllen;
		msg->msg_flags = m.msg_flags;
	}
	if (m.msg_control != msg->msg_control)
		free(m.msg_control);
	return r;
}

static int64_t send_message(int fd, const struct msghdr *msg, int flags, const char *owner)
{
	struct sockaddr_storage name;
	struct msghdr m = *msg;
	void *control = NULL;
	struct vac__io io;
	int64_t r;

	if (m.msg_iovlen > IOV_MAX)
		return -EMSGSIZE;
	if (m.msg_namelen > sizeof(name))
		return -EINVAL;
	if (m.msg_name) {
		memcpy(&name, m.msg_name, m.msg_namelen);
		m.msg_name = &name;
	}
	if (m.msg_control && m.msg_controllen && vac_space_of(m.msg_control)) {
		control = malloc(m.msg_controllen);
		if (!control)
			return -ENOMEM;
		m.msg_control = memcpy(control, m.msg_control, m.msg_controllen);
	}
	r = vac__io_begin(&io, msg->msg_iov, m.msg_iovlen, false, owner);
	if (r == 0) {
		r = do_send(fd, &io, &m, flags);
		vac__io_end(&io);
	}
	free(control);
	return r;
}

int64_t vac_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return send_message(fd, msg, flags, "vac_sendmsg");
}

int64_t vac_sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *to,
		   uint32_t to_len)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};
	struct msghdr m = {.msg_name = (void *)(uintptr_t)to,
			   .msg_namelen = to ? to_len : 0,
			   .msg_iov = &v,
			   .msg_iovlen = 1};

	if (len > SSIZE_MAX)
		return -EMSGSIZE;
	return send_message(fd, &m, flags, to ? "vac_sendto" : "vac_send");
}

int64_t vac_send(int fd, const void *buf, size_t len, int flags)
{
	return vac_sendto(fd, buf, len, flags, NULL, 0);
}

/* SPDX-License-Identifier: MIT */
/*
 * The client's side of the control socket.
 *
 * It trusts the program no more than the program trusts it: root looks at other users' programs.
 * Invariant: what ctl_call() leaves in c->in is a packet of the right kind and length, with zeroes
 * after its end; strings in it are still to be ended by whoever prints them.
 */
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "control/path.h"

#define LOOK_MS 100 /* how long a signal that came at the wrong moment may go unnoticed */

int ctl_connect_at(struct ctl_client *c, int dirfd, const char *name)
{
	memset(c, 0, sizeof(*c));
	c->fd = vac__ctl_connect_at(dirfd, name, &c->pid);
	return c->fd < 0 ? c->fd : 0;
}

int ctl_connect(struct ctl_client *c, const char *path)
{
	char dir[VAC__CTL_PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	struct stat st;
	int fd, r;

	c->fd = -1;
	if (n >= sizeof(dir))
		return -ENAMETOOLONG;
	memcpy(dir, path, n);
	dir[n] = '\0';
	fd = vac__ctl_dir_open(n ? dir : slash ? "/" : ".", (uid_t)-1, false);
	if (fd < 0)
		return fd;
	r = -EACCES;
	if (!fstat(fd, &st) && (st.st_uid == geteuid() || st.st_uid == 0 || geteuid() == 0))
		r = ctl_connect_at(c, fd, slash ? slash + 1 : path);
	close(fd);
	return r;
}

void ctl_disconnect(struct ctl_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static int send_packet(struct ctl_client *c, const struct vac__ctl_packet *p, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} cm;
	struct iovec iov = {(void *)p, p->head.bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	long r;

	if (fd >= 0) {
		memset(&cm, 0, sizeof(cm));
		m.msg_control = &cm;
		m.msg_controllen = sizeof(cm.buf);
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &fd, sizeof(fd));
	}
	do {
		r = sendmsg(c->fd, &m, MSG_NOSIGNAL);
	} while (r < 0 && errno == EINTR);
	if (r >= 0)
		return 0;
	return errno == EPIPE ? -ECONNRESET : errno == EAGAIN ? -ETIMEDOUT : -errno;
}

static void head(struct vac__ctl_packet *p, unsigned op, size_t body)
{
	p->head.magic = VAC__CTL_MAGIC;
	p->head.version = VAC__CTL_VERSION;
	p->head.op = (uint16_t)op;
	p->head.bytes = (uint32_t)(sizeof(p->head) + body);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Wait for a packet, and ask the program once to give up when we are interrupted. */
static int wait_packet(struct ctl_client *c, const struct ctl_call *q, int64_t end, bool *asked)
{
	for (;;) {
		struct pollfd p = {c->fd, POLLIN, 0};
		int64_t left = end ? end - now_ms() : LOOK_MS;
		int r;

		if (q->interrupt && *q->interrupt > 1)
			return -EINTR;
		if (q->interrupt && *q->interrupt && !*asked) {
			struct vac__ctl_packet a = {.head = {0}};

			*asked = true;
			head(&a, VAC__CTL_ABORT, 0);
			r = send_packet(c, &a, -1);
			if (r < 0)
				return r;
		}
		if (left < 0)
			left = 0;
		r = poll(&p, 1, left < LOOK_MS ? (int)left : LOOK_MS);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (end && now_ms() >= end)
			return -ETIMEDOUT;
	}
}

static int receive(struct ctl_client *c)
{
	bool reset = false;
	long r;

	memset(&c->in, 0, sizeof(c->in));
	/* Who hangs up without having read all we said makes us hear of that before his last words. */
	for (;;) {
		r = recv(c->fd, &c->in, sizeof(c->in), MSG_TRUNC);
		if (r >= 0 || (errno != EINTR && (errno != ECONNRESET || reset)))
			break;
		reset |= errno == ECONNRESET;
	}
	if (r <= 0)
		return r == 0 || errno == ECONNRESET ? -ECONNRESET : -errno;
	if ((size_t)r < sizeof(c->in.head) || (size_t)r > sizeof(c->in) ||
	    c->in.head.magic != VAC__CTL_MAGIC || c->in.head.bytes != (size_t)r)
		return -EPROTO;
	return 0;
}

int ctl_call(struct ctl_client *c, const struct ctl_call *q)
{
	struct vac__ctl_packet p = {.head = {0}};
	int64_t end = q->timeout_ms < 0 ? 0 : now_ms() + q->timeout_ms;
	bool asked = false;
	int r;

	if (c->fd < 0)
		return -ECONNRESET;
	if (q->body_bytes)
		memcpy(&p.u, q->body, q->body_bytes);
	head(&p, q->op, q->body_bytes);
	r = send_packet(c, &p, q->fd);
	/* It may have said why before it hung up. */
	if (r < 0 && r != -ECONNRESET)
		return r;
	for (;;) {
		r = wait_packet(c, q, end, &asked);
		if (r == 0)
			r = receive(c);
		if (r < 0)
			return r;
		/* One of another version still says so in a head that we understand. */
		if (c->in.head.status < 0)
			return c->in.head.op == q->op || c->in.head.op == 0 ? c->in.head.status
									    : -EPROTO;
		if (c->in.head.version != VAC__CTL_VERSION)
			return -EOPNOTSUPP;
		if (c->in.head.op == VAC__CTL_PROGRESS && q->op == VAC__CTL_OFFLINE) {
			if (q->tell)
				q->tell(q->tell_ctx, &c->in.u.progress);
			continue;
		}
		if (c->in.head.op != q->op || c->in.head.status > 0 ||
		    c->in.head.bytes < sizeof(c->in.head) + q->want)
			return -EPROTO;
		return 0;
	}
}

int ctl_two(struct ctl_client *c, unsigned op, uint32_t a, uint32_t b, size_t want)
{
	struct vac__ctl_two two = {a, b};
	struct ctl_call q = {.op = op,
			     .body = &two,
			     .body_bytes = sizeof(two),
			     .want = want,
			     .fd = -1,
			     .timeout_ms = 10000};

	return ctl_call(c, &q);
}

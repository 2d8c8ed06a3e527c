/* SPDX-License-Identifier: MIT */
/*
 * The control socket in the program: one thread that talks to the clients, and a thread for each
 * operation that is under way.
 *
 * Invariants:
 *  - the talking thread never waits but in poll(): sockets do not block, and requests that may wait
 *    for an engine lock that is held for long are works. So one slow client, or one offline that
 *    takes minutes, delays no other client; and no client can delay the engine;
 *  - all memory for clients is there from the start: CLIENTS packets and WORKS operations;
 *  - a work belongs to the client that asked for it until that has gone or was told that it is
 *    detached; an offline whose client has gone is cancelled, everything else is done to its end;
 *  - all threads block all signals that can be blocked, and touch no user address of the pool;
 *  - every socket is closed in a child of fork(): one on which a child listens would look alive for
 *    ever.
 *
 * The socket file: bound in a directory that path.c vouches for, with mode 0600 from its first moment
 * (bind() takes the mode from the socket's own inode). What is in the way is removed only if it is a
 * socket of ours that refuses a connection; bind(), listen() and that check are made under a flock of
 * the directory, as a socket that is bound and not yet listening refuses too.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/path.h"
#include "control/request.h"
#include "internal.h"

#define LOCK_TRIES 100 /* of 10 ms, for the directory */
#define NAMES 100      /* pools of one name that a program may have */
#define ACCEPT_PAUSE_NS 200000000

_Atomic unsigned vac__ctl_idle_ms = VAC__CTL_IDLE_MS, vac__ctl_slow_ms = VAC__CTL_SLOW_MS;

struct client;

struct work {
	struct vac__ctl_work w;
	struct vac_control *ctl;
	pthread_t thread;
	struct client *client; /* NULL: nobody waits for the answer */
	bool used;
	/* Guarded by ctl->lock; the rest is the talking thread's. */
	bool done, told;
	struct vac__ctl_progress progress;
};

struct client {
	int fd; /* -1: free */
	struct vac__ctl_session session;
	struct work *work;
	bool hang_up;      /* once out has been sent */
	size_t out_bytes;  /* of out, to be sent */
	uint64_t since_ns; /* when it last did anything */
	struct vac__ctl_packet out;
};

struct vac_control {
	struct vac_pool *pool;
	int dir_fd, listen_fd, event_fd;
	uid_t uid;
	char name[128]; /* in the directory */
	char path[VAC__CTL_PATH_MAX + 128];
	dev_t dev; /* of the socket's file */
	ino_t ino;
	pthread_t thread;
	_Atomic bool stop;
	pthread_mutex_t lock; /* taken with engine locks held: nothing is called while it is held */
	uint64_t no_accept_until_ns;
	struct client client[VAC__CTL_CLIENTS];
	struct work work[VAC__CTL_WORKS];
	struct vac_control *next;
};

/* All that are open, for fork(). Guards the list, and every descriptor while it comes or goes. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vac_control *all;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* ---- fork ----------------------------------------------------------------------------------- */

static void fork_prepare(void)
{
	pthread_mutex_lock(&all_lock);
}

static void fork_parent(void)
{
	pthread_mutex_unlock(&all_lock);
}

static void fork_child(void)
{
	for (struct vac_control *c = all; c; c = c->next) {
		if (c->listen_fd >= 0)
			close(c->listen_fd);
		for (unsigned i = 0; i < VAC__CTL_CLIENTS; i++)
			if (c->client[i].fd >= 0)
				close(c->client[i].fd);
	}
	all = NULL; /* the memory is not ours to free: the parent's threads were at work on it */
	pthread_mutex_unlock(&all_lock);
}

static void fork_setup(void)
{
	pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/* ---- Works ---------------------------------------------------------------------------------- */

static void ring(struct vac_control *ctl)
{
	uint64_t one = 1;
	long r;

	do {
		r = write(ctl->event_fd, &one, sizeof(one));
	} while (r < 0 && errno == EINTR); /* EAGAIN: it rings already */
}

static void work_tell(struct vac__ctl_work *w, const struct vac__ctl_progress *p)
{
	struct work *k = w->ctx;

	pthread_mutex_lock(&k->ctl->lock);
	k->progress = *p;
	k->told = true;
	pthread_mutex_unlock(&k->ctl->lock);
	ring(k->ctl);
}

static void *work_thread(void *arg)
{
	struct work *k = arg;

	pthread_setname_np(pthread_self(), "vacate-work");
	vac__ctl_work_run(&k->w);
	pthread_mutex_lock(&k->ctl->lock);
	k->done = true;
	pthread_mutex_unlock(&k->ctl->lock);
	ring(k->ctl);
	return NULL;
}

static int start_thread(pthread_t *t, void *(*fn)(void *), void *arg)
{
	sigset_t every, old;
	int r;

	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &old);
	r = pthread_create(t, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

static uint32_t works_under_way(struct vac_control *ctl)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < VAC__CTL_WORKS; i++)
		n += ctl->work[i].used;
	return n;
}

static struct work *free_work(struct vac_control *ctl)
{
	for (unsigned i = 0; i < VAC__CTL_WORKS; i++)
		if (!ctl->work[i].used)
			return &ctl->work[i];
	return NULL;
}

/* The work has ended, and its answer is where it belongs. */
static void work_free(struct work *k)
{
	pthread_join(k->thread, NULL);
	if (k->client)
		k->client->work = NULL;
	k->client = NULL;
	vac_report_free(k->w.report);
	k->w.report = NULL;
	k->used = false;
}

/* Nobody waits for the answer any more. */
static void work_abandon(struct work *k)
{
	k->client->work = NULL;
	k->client = NULL;
}

/* ---- Clients -------------------------------------------------------------------------------- */

static void client_close(struct client *c)
{
	if (c->work) {
		vac__ctl_work_cancel(&c->work->w);
		work_abandon(c->work);
	}
	pthread_mutex_lock(&all_lock);
	close(c->fd);
	c->fd = -1;
	pthread_mutex_unlock(&all_lock);
	vac_report_free(c->session.report);
	c->session.report = NULL;
	c->out_bytes = 0;
	c->hang_up = false;
}

/* Send what there is to send, as far as the client takes it. */
static void client_flush(struct client *c, uint64_t now)
{
	long r;

	if (c->fd < 0 || !c->out_bytes)
		return;
	do {
		r = send(c->fd, &c->out, c->out_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (r < 0 && errno == EINTR);
	if (r < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM))
		return;
	if (r < 0 || c->hang_up) {
		client_close(c);
		return;
	}
	c->out_bytes = 0;
	c->since_ns = now;
}

static void start_work(struct vac_control *ctl, struct client *c, struct work *k)
{
	unsigned op = k->w.req.head.op;
	bool detach = op == VAC__CTL_OFFLINE && (k->w.req.u.offline.flags & VAC__CTL_DETACH) != 0;
	int r;

	k->ctl = ctl;
	k->client = c;
	k->done = k->told = false;
	k->w.tell = work_tell;
	k->w.ctx = k;
	k->used = true;
	c->work = k;
	r = start_thread(&k->thread, work_thread, k);
	if (r < 0) {
		work_abandon(k);
		k->used = false;
		if (k->w.fd >= 0)
			close(k->w.fd);
	} else if (detach) {
		work_abandon(k);
	}
	if (r < 0 || detach) {
		memset(&c->out, 0, sizeof(c->out));
		vac__ctl_answer(&c->out, op, r, 0);
		c->out_bytes = c->out.head.bytes;
	}
}

/* A packet and at most one descriptor; the kernel may hand over more than fit one: close them.
 * Bytes, 0: the client has gone, -EAGAIN. */
static long receive(struct client *c, void *buf, size_t bytes, int *fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} cm;
	struct iovec iov = {buf, bytes};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &cm,
			   .msg_controllen = sizeof(cm.buf)};
	long r;

	*fd = -1;
	do {
		r = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? -EAGAIN : 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		size_t n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int got;

			memcpy(&got, CMSG_DATA(h) + i * sizeof(int), sizeof(got));
			if (*fd < 0)
				*fd = got;
			else
				close(got);
		}
	}
	return m.msg_flags & MSG_TRUNC ? (long)bytes : r;
}

/* While its work is under way, all that a client may say is that it should end. */
static void heard_during_work(struct client *c, const void *req, size_t bytes)
{
	struct vac__ctl_head h;

	if (bytes == sizeof(h)) {
		memcpy(&h, req, sizeof(h));
		if (h.magic == VAC__CTL_MAGIC && h.version == VAC__CTL_VERSION &&
		    h.op == VAC__CTL_ABORT && h.bytes == bytes && !h.status) {
			vac__ctl_work_cancel(&c->work->w);
			return;
		}
	}
	client_close(c);
}

static void client_hear(struct vac_control *ctl, struct client *c, uint64_t now)
{
	struct work *k = free_work(ctl), spare;
	unsigned char req[VAC__CTL_PACKET_MAX + 1]; /* so that a packet too long shows */
	enum vac__ctl_next next;
	long n;
	int fd;

	n = receive(c, req, sizeof(req), &fd);
	if (n == -EAGAIN)
		return;
	c->since_ns = now;
	if (n <= 0) {
		client_close(c);
	} else if (c->work) {
		heard_during_work(c, req, (size_t)n);
	} else {
		/* Without a free work none is started: the request then answers so by itself. */
		next = vac__ctl_request(ctl->pool, &c->session, req, (size_t)n, &fd,
					works_under_way(ctl), k ? &k->w : &spare.w, &c->out);
		c->hang_up = next == VAC__CTL_HANG_UP;
		if (next == VAC__CTL_WORK)
			start_work(ctl, c, k);
		else if (next != VAC__CTL_SILENCE)
			c->out_bytes = c->out.head.bytes;
	}
	if (fd >= 0)
		close(fd);
	client_flush(c, now);
}

static void client_accept(struct vac_control *ctl, uint64_t now)
{
	struct client *c = NULL, refused = {.fd = -1};
	socklen_t len = sizeof(struct ucred);
	struct ucred who;
	int err = 0;

	for (unsigned i = 0; i < VAC__CTL_CLIENTS && !c; i++)
		if (ctl->client[i].fd < 0)
			c = &ctl->client[i];
	if (!c) {
		c = &refused;
		err = -EUSERS;
	}
	pthread_mutex_lock(&all_lock);
	c->fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	pthread_mutex_unlock(&all_lock);
	if (c->fd < 0) {
		/* Out of descriptors, say: the connection still waits, and would wake us at once. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			ctl->no_accept_until_ns = now + ACCEPT_PAUSE_NS;
		return;
	}
	c->since_ns = now;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) ||
	    (who.uid != ctl->uid && who.uid != 0))
		err = -EACCES;
	if (err) {
		memset(&c->out, 0, sizeof(c->out));
		vac__ctl_answer(&c->out, 0, err, 0);
		c->out_bytes = c->out.head.bytes;
		c->hang_up = true;
		client_flush(c, now);
		if (c->fd >= 0)
			client_close(c);
	}
}

/* ---- The talking thread --------------------------------------------------------------------- */

/* Works that have something to tell, or have ended. */
static void look_at_works(struct vac_control *ctl, uint64_t now)
{
	for (unsigned i = 0; i < VAC__CTL_WORKS; i++) {
		struct work *k = &ctl->work[i];
		struct client *c = k->client;
		struct vac__ctl_progress p;
		bool done, told;

		if (!k->used || (c && c->out_bytes))
			continue; /* free, or the client has not taken the last packet yet */
		pthread_mutex_lock(&ctl->lock);
		done = k->done;
		told = k->told;
		p = k->progress;
		k->told = false;
		pthread_mutex_unlock(&ctl->lock);
		if (c && (done || told)) {
			memset(&c->out, 0, sizeof(c->out));
			if (done) {
				c->out = k->w.answer;
				vac_report_free(c->session.report);
				c->session.report = k->w.report;
				k->w.report = NULL;
			} else {
				c->out.u.progress = p;
				vac__ctl_answer(&c->out, VAC__CTL_PROGRESS, 0, sizeof(p));
			}
			c->out_bytes = c->out.head.bytes;
		}
		if (done)
			work_free(k);
		if (c)
			client_flush(c, now);
	}
}

static void hang_up_on_the_idle(struct vac_control *ctl, uint64_t now)
{
	for (unsigned i = 0; i < VAC__CTL_CLIENTS; i++) {
		struct client *c = &ctl->client[i];
		uint64_t ms;

		if (c->fd < 0 || c->since_ns >= now)
			continue;
		ms = (now - c->since_ns) / 1000000;
		if (c->out_bytes ? ms > vac__ctl_slow_ms : !c->work && ms > vac__ctl_idle_ms)
			client_close(c);
	}
}

static unsigned gather(struct vac_control *ctl, struct pollfd *p, struct client **who)
{
	unsigned n = 0;

	p[n++] = (struct pollfd){ctl->event_fd, POLLIN, 0};
	p[n++] = (struct pollfd){vac__port_now() < ctl->no_accept_until_ns ? -1 : ctl->listen_fd,
				 POLLIN, 0};
	for (unsigned i = 0; i < VAC__CTL_CLIENTS; i++) {
		struct client *c = &ctl->client[i];

		if (c->fd < 0)
			continue;
		who[n] = c;
		/* A client that does not read is not read from either. */
		p[n++] = (struct pollfd){c->fd, c->out_bytes ? POLLOUT : POLLIN, 0};
	}
	return n;
}

static void *talk(void *arg)
{
	struct vac_control *ctl = arg;
	struct pollfd p[2 + VAC__CTL_CLIENTS];
	struct client *who[2 + VAC__CTL_CLIENTS];

	pthread_setname_np(pthread_self(), "vacate-control");
	while (!vac__ld(&ctl->stop)) {
		unsigned n = gather(ctl, p, who);
		bool timed = n > 2 || p[1].fd < 0;
		uint64_t now, rings;

		if (poll(p, n, timed ? 200 : -1) < 0 && errno != EINTR)
			break; /* not for any reason that we know of; the program goes on */
		now = vac__port_now();
		if (p[0].revents && read(ctl->event_fd, &rings, sizeof(rings)) < 0 &&
		    errno != EAGAIN && errno != EINTR)
			break;
		look_at_works(ctl, now);
		for (unsigned i = 2; i < n; i++) {
			struct client *c = who[i];

			if (!p[i].revents || c->fd != p[i].fd)
				continue;
			if (p[i].events == POLLOUT)
				client_flush(c, now);
			else
				client_hear(ctl, c, now);
		}
		if (p[1].revents)
			client_accept(ctl, now);
		hang_up_on_the_idle(ctl, now);
	}
	return NULL;
}

/* ---- The socket's file ---------------------------------------------------------------------- */

static int lock_dir(int dir_fd)
{
	struct timespec ts = {0, 10000000};

	for (int i = 0; i < LOCK_TRIES; i++) {
		if (!flock(dir_fd, LOCK_EX | LOCK_NB))
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		nanosleep(&ts, NULL);
	}
	return -EAGAIN;
}

/* Something of our name is there. 0: it was a stale socket of ours, and is gone. */
static int remove_stale(struct vac_control *ctl)
{
	struct stat st;
	int fd, r;

	if (fstatat(ctl->dir_fd, ctl->name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : -errno;
	if (S_ISLNK(st.st_mode))
		return -ELOOP;
	if (!S_ISSOCK(st.st_mode) || st.st_uid != ctl->uid)
		return -EEXIST;
	fd = vac__ctl_connect_at(ctl->dir_fd, ctl->name, NULL);
	if (fd >= 0)
		close(fd);
	if (fd != -ECONNREFUSED)
		return -EADDRINUSE;
	r = unlinkat(ctl->dir_fd, ctl->name, 0);
	return r && errno != ENOENT ? -errno : 0;
}

static int bind_and_listen(struct vac_control *ctl)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	int r;

	if (fchmod(ctl->listen_fd, 0600))
		return -errno;
	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", ctl->dir_fd,
		     ctl->name) >= (int)sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	r = remove_stale(ctl);
	if (r < 0)
		return r;
	if (bind(ctl->listen_fd, (struct sockaddr *)&sa, sizeof(sa)))
		return -errno;
	if (fstatat(ctl->dir_fd, ctl->name, &st, AT_SYMLINK_NOFOLLOW) ||
	    listen(ctl->listen_fd, (int)VAC__CTL_CLIENTS)) {
		r = -errno;
		unlinkat(ctl->dir_fd, ctl->name, 0);
		return r;
	}
	ctl->dev = st.st_dev;
	ctl->ino = st.st_ino;
	return 0;
}

static void listen_close(struct vac_control *ctl)
{
	pthread_mutex_lock(&all_lock);
	if (ctl->listen_fd >= 0)
		close(ctl->listen_fd);
	ctl->listen_fd = -1;
	pthread_mutex_unlock(&all_lock);
}

static int make_socket(struct vac_control *ctl, const char *dir, const char *name)
{
	int r = vac__ctl_dir_open(dir, ctl->uid, true);

	if (r < 0)
		return r;
	ctl->dir_fd = r;
	if (strlen(name) >= sizeof(ctl->name) ||
	    snprintf(ctl->path, sizeof(ctl->path), "%s%s%s", dir,
		     dir[strlen(dir) - 1] == '/' ? "" : "/", name) >= (int)sizeof(ctl->path)) {
		r = -ENAMETOOLONG;
		goto out;
	}
	memcpy(ctl->name, name, strlen(name) + 1);
	pthread_mutex_lock(&all_lock);
	ctl->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	pthread_mutex_unlock(&all_lock);
	r = ctl->listen_fd < 0 ? -errno : lock_dir(ctl->dir_fd);
	if (r == 0) {
		r = bind_and_listen(ctl);
		flock(ctl->dir_fd, LOCK_UN);
	}
out:
	if (r < 0) {
		listen_close(ctl);
		close(ctl->dir_fd);
		ctl->dir_fd = -1;
	}
	return r;
}

/* dir/name, or both by default. Relative ones are kept as they would be from the root. */
static int make_socket_at(struct vac_control *ctl, const char *path)
{
	char full[VAC__CTL_PATH_MAX], *slash;
	size_t n = 0;

	if (*path != '/') {
		if (!getcwd(full, sizeof(full) - 1))
			return -errno;
		n = strlen(full);
		full[n++] = '/';
	}
	if (n + strlen(path) >= sizeof(full))
		return -ENAMETOOLONG;
	memcpy(full + n, path, strlen(path) + 1);
	slash = strrchr(full, '/');
	if (!slash[1] || !strcmp(slash + 1, ".") || !strcmp(slash + 1, ".."))
		return -EINVAL;
	*slash = '\0';
	return make_socket(ctl, *full ? full : "/", slash + 1);
}

static int make_socket_by_default(struct vac_control *ctl)
{
	char dir[VAC__CTL_PATH_MAX], pool[VAC_NAME_MAX], name[sizeof(ctl->name)];
	int r = -ENOENT;

	for (unsigned i = 0; i < sizeof(pool); i++) {
		char ch = ctl->pool->name[i];

		pool[i] = ch && !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					"0123456789_-+",
					ch)
				  ? '_'
				  : ch;
	}
	for (unsigned k = 0; vac__ctl_dir_default(k, ctl->uid, true, dir, sizeof(dir)); k++) {
		for (unsigned n = 1; n <= NAMES; n++) {
			snprintf(name, sizeof(name), n == 1 ? "%d-%s%s" : "%d-%s%s.%u",
				 (int)getpid(), pool, n == 1 ? VAC__CTL_SUFFIX : "", n);
			if (n > 1)
				strcat(name, VAC__CTL_SUFFIX);
			r = make_socket(ctl, dir, name);
			if (r != -EADDRINUSE)
				break; /* else it is another pool's of this name */
		}
		if (r == 0)
			return 0;
	}
	return r;
}

/* Only our own: somebody may have put another one there. */
static void remove_socket(struct vac_control *ctl)
{
	bool locked = lock_dir(ctl->dir_fd) == 0;
	struct stat st;

	if (!fstatat(ctl->dir_fd, ctl->name, &st, AT_SYMLINK_NOFOLLOW) && st.st_dev == ctl->dev &&
	    st.st_ino == ctl->ino)
		unlinkat(ctl->dir_fd, ctl->name, 0);
	if (locked)
		flock(ctl->dir_fd, LOCK_UN);
}

/* ---- Public --------------------------------------------------------------------------------- */

static void list_add(struct vac_control *ctl)
{
	pthread_mutex_lock(&all_lock);
	ctl->next = all;
	all = ctl;
	pthread_mutex_unlock(&all_lock);
}

static void list_del(struct vac_control *ctl)
{
	pthread_mutex_lock(&all_lock);
	for (struct vac_control **p = &all; *p; p = &(*p)->next) {
		if (*p == ctl) {
			*p = ctl->next;
			break;
		}
	}
	pthread_mutex_unlock(&all_lock);
}

static void close_all(struct vac_control *ctl)
{
	listen_close(ctl);
	list_del(ctl);
	close(ctl->event_fd);
	if (ctl->dir_fd >= 0)
		close(ctl->dir_fd);
}

static int control_open(struct vac_control *ctl, const char *path)
{
	int r;

	pthread_once(&fork_once, fork_setup);
	ctl->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ctl->event_fd < 0)
		return -errno;
	list_add(ctl); /* before there is a socket that a child could inherit */
	r = path ? make_socket_at(ctl, path) : make_socket_by_default(ctl);
	if (r == 0) {
		vac__add(&ctl->pool->holds, 1);
		r = start_thread(&ctl->thread, talk, ctl);
		if (r < 0) {
			vac__sub(&ctl->pool->holds, 1);
			remove_socket(ctl);
		}
	}
	if (r < 0)
		close_all(ctl);
	return r;
}

int vac_control_open(struct vac_pool *pool, const struct vac_control_opts *opts,
		     struct vac_control **control)
{
	struct vac_control_opts o = VAC_INIT(struct vac_control_opts);
	struct vac_control *ctl;
	int r, cancel;

	if (vac__port_forked())
		return -EPERM;
	if (!pool || !control)
		return -EINVAL;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(o))
			return -EINVAL;
		memcpy(&o, opts, opts->size);
	}
	if (o.flags)
		return -EINVAL;
	ctl = calloc(1, sizeof(*ctl));
	if (!ctl)
		return -ENOMEM;
	ctl->pool = pool;
	ctl->uid = geteuid();
	ctl->dir_fd = ctl->listen_fd = -1;
	for (unsigned i = 0; i < VAC__CTL_CLIENTS; i++)
		ctl->client[i].fd = -1;
	pthread_mutex_init(&ctl->lock, NULL);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = control_open(ctl, o.path);
	pthread_setcancelstate(cancel, NULL);
	if (r < 0) {
		pthread_mutex_destroy(&ctl->lock);
		free(ctl);
		return r;
	}
	*control = ctl;
	return 0;
}

const char *vac_control_path(const struct vac_control *control)
{
	return control->path;
}

int vac_control_close(struct vac_control *ctl)
{
	int cancel;

	if (vac__port_forked())
		return -EPERM;
	if (!ctl)
		return 0;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	remove_socket(ctl); /* first: nobody shall connect and find nobody at home */
	vac__st(&ctl->stop, true);
	ring(ctl);
	pthread_join(ctl->thread, NULL);
	for (unsigned i = 0; i < VAC__CTL_CLIENTS; i++)
		if (ctl->client[i].fd >= 0)
			client_close(&ctl->client[i]);
	for (unsigned i = 0; i < VAC__CTL_WORKS; i++)
		if (ctl->work[i].used)
			vac__ctl_work_cancel(&ctl->work[i].w);
	for (unsigned i = 0; i < VAC__CTL_WORKS; i++)
		if (ctl->work[i].used)
			work_free(&ctl->work[i]);
	close_all(ctl);
	vac__sub(&ctl->pool->holds, 1);
	pthread_mutex_destroy(&ctl->lock);
	free(ctl);
	pthread_setcancelstate(cancel, NULL);
	return 0;
}

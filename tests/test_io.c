/* SPDX-License-Identifier: MIT */
/*
 * vac_read(), vac_recv() and kin: they answer what the plain calls do, with memory anywhere and while
 * its blocks leave; and whoever waits in one keeps no block. Also what they stand on: vac_space_of(),
 * vac_prefault(), VAC_PIN_NOWAIT. Each test is run under every guard that there is.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "port/port.h"
#include "tests/util.h"

#define P VAC_PAGE_BYTES

static struct vac_pool *pool;
static struct vac_space *space;

static void begin(enum vac_guard guard, unsigned blocks)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	int r;

	o.guard = guard;
	o.gate_timeout_ms = 10000; /* longer than any of these gates is shut */
	r = vac_pool_open(&o, &pool);
	if (r < 0) {
		print_message("SKIP: forced: no such guard here: %s\n", vac_strerror(r));
		skip();
	}
	assert_ok(vac_pool_close(pool));
	pool = t_open(&o, blocks);
	space = t_space(pool, MIB(128));
	assert_int_equal(vac_pool_guard(pool), t_stats(pool).guard);
}

static void end(void)
{
	assert_int_equal(t_stats(pool).pins, 0);
	assert_ok(vac_space_destroy(space));
	t_close(pool);
}

static void pair(int type, int fd[2])
{
	assert_ok(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fd));
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_ok(bind(l, (struct sockaddr *)&a, n));
	assert_ok(getsockname(l, (struct sockaddr *)&a, &n));
	assert_ok(listen(l, 1));
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_ok(connect(fd[0], (struct sockaddr *)&a, n));
	fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd[1] >= 0);
	close(l);
}

static void close2(int fd[2])
{
	close(fd[0]);
	close(fd[1]);
}

/* ---- A call in a thread ------------------------------------------------------------------------ */

struct waiter {
	int64_t (*fn)(struct waiter *w);
	int fd, flags;
	char *buf;
	size_t len;
	int64_t r;
	_Atomic int tid;
	_Atomic bool done;
	pthread_t thread;
};

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;

	w->tid = (int)syscall(SYS_gettid);
	w->r = w->fn(w);
	w->done = true;
	return NULL;
}

static void start(struct waiter *w)
{
	w->tid = 0;
	w->done = false;
	MUST(pthread_create(&w->thread, NULL, waiter_main, w) == 0);
}

static int64_t finish(struct waiter *w)
{
	MUST(pthread_join(w->thread, NULL) == 0);
	return w->r;
}

/* The system call that a thread sleeps in, -1 if it runs. */
static long sleeps_in(int tid)
{
	char path[64], text[64] = "";
	long nr = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	f = fopen(path, "r");
	MUST(f);
	MUST(fgets(text, sizeof(text), f));
	fclose(f);
	if (sscanf(text, "%ld", &nr) != 1)
		return -1;
	return nr;
}

/* Until the thread sleeps in this call, on behalf of the transfer. */
static void until_asleep(struct waiter *w, long nr)
{
	uint64_t give_up = t_ms() + 30000;

	while (!w->tid || sleeps_in(w->tid) != nr) {
		MUST(t_ms() < give_up);
		MUST(!w->done);
		sleep_ms(1);
	}
}

static int64_t w_recv(struct waiter *w)
{
	return vac_recv(w->fd, w->buf, w->len, w->flags);
}
static int64_t w_read(struct waiter *w)
{
	return vac_read(w->fd, w->buf, w->len);
}
static int64_t w_send(struct waiter *w)
{
	return vac_send(w->fd, w->buf, w->len, w->flags);
}
static int64_t w_write(struct waiter *w)
{
	return vac_write(w->fd, w->buf, w->len);
}

/* ---- Waiting ----------------------------------------------------------------------------------- */

/* While a thread waits for data into buf, its block leaves, at once. Then the data comes. */
static void wait_and_leave(struct waiter *w, long nr, int from)
{
	char data[1000];

	pat_fill(data, sizeof(data), 7);
	memset(w->buf, 1, w->len);
	start(w);
	until_asleep(w, nr);
	assert_int_equal(t_stats(pool).pins, 0);
	for (int id = 0; id < 2; id++) { /* wherever it was, it has left */
		assert_ok(t_offline(pool, id, 10000, NULL));
		assert_ok(t_online(pool, id));
	}
	assert_false(w->done);
	assert_int_equal(write(from, data, sizeof(data)), sizeof(data));
	assert_int_equal(finish(w), sizeof(data));
	assert_int_equal(pat_bad(w->buf, sizeof(data), 7), -1);
}

static void idle(enum vac_guard guard)
{
	struct waiter w = {.len = 5000};
	int fd[2];

	begin(guard, 3);
	w.buf = t_map(space, MIB(1), 0);
	w.fn = w_recv;
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		pair(type, fd);
		w.fd = fd[0];
		wait_and_leave(&w, SYS_recvmsg, fd[1]);
		close2(fd);
	}
	tcp_pair(fd);
	w.fd = fd[0];
	wait_and_leave(&w, SYS_recvmsg, fd[1]);
	close2(fd);
	assert_ok(pipe2(fd, O_CLOEXEC));
	w.fd = fd[0];
	w.fn = w_read;
	wait_and_leave(&w, SYS_readv, fd[1]);
	close2(fd);
	end();
}

/* A thread waits to write more than there is room for; its block leaves; the rest is read. */
static void write_and_leave(struct waiter *w, long nr, int to)
{
	char *back = malloc(w->len);
	size_t got = 0;

	pat_fill(w->buf, w->len, 9);
	start(w);
	until_asleep(w, nr);
	assert_int_equal(t_stats(pool).pins, 0);
	for (int id = 0; id < 2; id++) {
		assert_ok(t_offline(pool, id, 10000, NULL));
		assert_ok(t_online(pool, id));
	}
	while (got < w->len) {
		ssize_t n = read(to, back + got, w->len - got);

		assert_true(n > 0);
		got += (size_t)n;
	}
	assert_int_equal(finish(w), w->len);
	assert_int_equal(pat_bad(back, w->len, 9), -1);
	free(back);
}

static void full(enum vac_guard guard)
{
	struct waiter w = {.len = 3 * MIB(1) + 8};
	int fd[2];

	begin(guard, 4);
	w.buf = t_map(space, MIB(4), 0);
	pair(SOCK_STREAM, fd);
	w.fn = w_send;
	w.fd = fd[0];
	write_and_leave(&w, SYS_sendmsg, fd[1]);
	w.fn = w_write;
	write_and_leave(&w, guard == VAC_GUARD_SIGSEGV ? SYS_sendmsg : SYS_writev, fd[1]);
	close2(fd);
	assert_ok(pipe2(fd, O_CLOEXEC));
	w.fd = fd[1];
	write_and_leave(&w, SYS_writev, fd[0]);
	close2(fd);
	end();
}

static volatile sig_atomic_t signals;
static void on_signal(int sig UNUSED)
{
	signals++;
}

static void handler(int flags)
{
	struct sigaction a = {.sa_handler = on_signal, .sa_flags = flags};

	assert_ok(sigaction(SIGUSR1, &a, NULL));
}

/* Interrupted: with SA_RESTART the wait goes on, without it ends. */
static void interrupt(struct waiter *w, long nr, int from)
{
	handler(SA_RESTART);
	start(w);
	until_asleep(w, nr);
	signals = 0;
	pthread_kill(w->thread, SIGUSR1);
	while (!signals)
		sleep_ms(1);
	until_asleep(w, nr);
	assert_int_equal(write(from, "abcdefgh", 8), 8);
	assert_int_equal(finish(w), 8);
	assert_memory_equal(w->buf, "abcdefgh", 8);

	handler(0);
	start(w);
	until_asleep(w, nr);
	pthread_kill(w->thread, SIGUSR1);
	assert_int_equal(finish(w), -EINTR);
}

static void interrupted(enum vac_guard guard)
{
	struct waiter w = {.len = 100, .fn = w_recv};
	struct timeval tv = {.tv_usec = 20000};
	int fd[2];

	if (TSAN) {
		print_message("SKIP: forced: the thread sanitizer keeps signals back from system "
			      "calls that it does not know\n");
		skip();
	}
	begin(guard, 2);
	w.buf = t_map(space, MIB(1), VAC_MAP_NOHUGE);
	pair(SOCK_STREAM, fd);
	w.fd = fd[0];
	interrupt(&w, SYS_recvmsg, fd[1]);
	/* Part of MSG_WAITALL has come: that is the answer. */
	w.flags = MSG_WAITALL;
	start(&w);
	assert_int_equal(write(fd[1], "123", 3), 3);
	until_asleep(&w, guard == VAC_GUARD_SIGSEGV ? SYS_ppoll : SYS_recvmsg);
	pthread_kill(w.thread, SIGUSR1);
	assert_int_equal(finish(&w), 3);
	/* Time-outs, with and without a part. */
	assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	assert_int_equal(vac_recv(fd[0], w.buf, 100, 0), -EAGAIN);
	assert_int_equal(write(fd[1], "12345", 5), 5);
	assert_int_equal(vac_recv(fd[0], w.buf, 100, MSG_WAITALL), 5);
	assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
	assert_in_range(vac_send(fd[0], w.buf, MIB(1), 0), 1, MIB(1) - 1);
	assert_int_equal(vac_send(fd[0], w.buf, MIB(1), 0), -EAGAIN);
	close2(fd);
	assert_ok(pipe2(fd, O_CLOEXEC));
	w.fd = fd[0];
	w.fn = w_read;
	interrupt(&w, SYS_readv, fd[1]);
	close2(fd);
	end();
}

static void non_blocking(enum vac_guard guard)
{
	int fd[2];
	char *buf;

	begin(guard, 2);
	buf = t_map(space, MIB(2), VAC_MAP_NOHUGE);
	pair(SOCK_STREAM, fd);
	assert_int_equal(vac_recv(fd[0], buf, 10, MSG_DONTWAIT), -EAGAIN);
	assert_in_range(vac_send(fd[0], buf, MIB(2), MSG_DONTWAIT), 1, MIB(2) - 1);
	assert_int_equal(vac_send(fd[0], buf, MIB(2), MSG_DONTWAIT), -EAGAIN);
	close2(fd);
	assert_ok(pipe2(fd, O_NONBLOCK | O_CLOEXEC));
	assert_int_equal(vac_read(fd[0], buf, 10), -EAGAIN);
	assert_in_range(vac_write(fd[1], buf, MIB(2)), 1, MIB(2) - 1);
	assert_int_equal(vac_write(fd[1], buf, MIB(2)), -EAGAIN);
	close2(fd);
	assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd));
	assert_int_equal(vac_read(fd[0], buf, 10), -EAGAIN);
	assert_int_equal(vac_recv(fd[0], buf, 10, MSG_WAITALL), -EAGAIN);
	assert_int_equal(write(fd[1], "abc", 3), 3);
	assert_int_equal(vac_recv(fd[0], buf, 10, MSG_WAITALL | MSG_DONTWAIT), 3);
	close2(fd);
	end();
}

/* ---- Semantics --------------------------------------------------------------------------------- */

static void datagrams(enum vac_guard guard)
{
	struct sockaddr_in a = {.sin_family = AF_INET}, *from;
	socklen_t n = sizeof(a);
	uint32_t *from_len;
	int fd[2], udp;
	char *buf, data[300];

	begin(guard, 2);
	buf = t_map(space, MIB(1), VAC_MAP_NOHUGE);
	pat_fill(data, sizeof(data), 3);
	pair(SOCK_DGRAM, fd);
	assert_int_equal(write(fd[1], data, 296), 296);
	assert_int_equal(write(fd[1], data, 0), 0);
	assert_int_equal(write(fd[1], data, 8), 8);
	assert_int_equal(write(fd[1], data, 296), 296);
	assert_int_equal(vac_recv(fd[0], buf, 296, MSG_PEEK), 296);
	assert_int_equal(vac_recv(fd[0], buf + P, 1000, MSG_WAITALL), 296);
	assert_int_equal(pat_bad(buf + P, 296, 3), -1);
	assert_int_equal(vac_recv(fd[0], buf, 1000, 0), 0);
	assert_int_equal(vac_recv(fd[0], buf, 4, MSG_TRUNC), 8);
	assert_int_equal(vac_recv(fd[0], buf, 16, 0), 16); /* the rest of it is gone */
	assert_int_equal(vac_recv(fd[0], buf, 16, MSG_DONTWAIT), -EAGAIN);
	close2(fd);

	/* With addresses, themselves in the pool. */
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_ok(bind(udp, (struct sockaddr *)&a, n));
	assert_ok(getsockname(udp, (struct sockaddr *)&a, &n));
	from = (void *)(buf + 20 * P);
	*from = a;
	assert_int_equal(vac_sendto(udp, buf + P, 296, 0, (void *)from, n), 296);
	memset(from, 0, sizeof(*from));
	from_len = (void *)(buf + 40 * P);
	*from_len = sizeof(*from);
	assert_int_equal(vac_recvfrom(udp, buf + 60 * P, 500, 0, (void *)from, from_len), 296);
	assert_int_equal(pat_bad(buf + 60 * P, 296, 3), -1);
	assert_int_equal(*from_len, sizeof(*from));
	assert_int_equal(from->sin_port, a.sin_port);
	close(udp);
	end();
}

/* Descriptors are passed, with everything about the messages in pool memory. */
static void control(enum vac_guard guard)
{
	struct msghdr *m;
	struct cmsghdr *c;
	struct iovec *v;
	int fd[2], one, sent[2], *got;
	char *buf, byte;

	begin(guard, 2);
	buf = t_map(space, MIB(1), VAC_MAP_NOHUGE);
	m = (void *)buf;
	v = (void *)(buf + 20 * P);
	pair(SOCK_STREAM, fd);
	assert_ok(pipe2(sent, O_CLOEXEC));
	v->iov_base = buf + 40 * P;
	v->iov_len = 5;
	memcpy(v->iov_base, "hello", 5);
	*m = (struct msghdr){.msg_iov = v, .msg_iovlen = 1};
	m->msg_control = buf + 60 * P;
	m->msg_controllen = CMSG_SPACE(sizeof(int));
	c = CMSG_FIRSTHDR(m);
	c->cmsg_len = CMSG_LEN(sizeof(int));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(c), &sent[0], sizeof(int));
	assert_int_equal(vac_sendmsg(fd[0], m, 0), 5);
	memset(c, 0, 64);
	v->iov_base = buf + 80 * P;
	v->iov_len = 100;
	m->msg_controllen = 64;
	assert_int_equal(vac_recvmsg(fd[1], m, 0), 5);
	assert_memory_equal(buf + 80 * P, "hello", 5);
	assert_int_equal(m->msg_controllen, CMSG_SPACE(sizeof(int)));
	assert_int_equal(m->msg_flags & MSG_CTRUNC, 0);
	got = (int *)CMSG_DATA(CMSG_FIRSTHDR(m));
	one = *got;
	assert_int_equal(write(sent[1], "x", 1), 1);
	assert_int_equal(read(one, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(one);
	close2(sent);
	close2(fd);
	end();
}

static void all_of_it(enum vac_guard guard)
{
	struct waiter w = {.len = 3 * MIB(1), .fn = w_recv, .flags = MSG_WAITALL};
	struct msghdr m = {0};
	struct iovec v;
	char *data, ctl[64];
	int fd[2];

	begin(guard, 3);
	w.buf = t_map(space, MIB(4), 0);
	data = malloc(w.len);
	pat_fill(data, w.len, 5);
	for (int k = 0; k < 2; k++) {
		if (k)
			tcp_pair(fd);
		else
			pair(SOCK_STREAM, fd);
		w.fd = fd[0];
		memset(w.buf, 0, w.len);
		start(&w);
		for (size_t off = 0; off < w.len;) {
			size_t n = w.len - off < 100000 ? w.len - off : 100000;
			ssize_t done = write(fd[1], data + off, n);

			assert_true(done > 0);
			off += (size_t)done;
		}
		assert_int_equal(finish(&w), w.len);
		assert_int_equal(pat_bad(w.buf, w.len, 5), -1);
		/* Less, and then the end. */
		start(&w);
		assert_int_equal(write(fd[1], data, 800), 800);
		shutdown(fd[1], SHUT_WR);
		assert_int_equal(finish(&w), 800);
		assert_int_equal(vac_recv(fd[0], w.buf, 10, 0), 0);
		close2(fd);
	}
	/* What cannot be put together from pieces: with PEEK, or with room for control messages. */
	pair(SOCK_STREAM, fd);
	assert_int_equal(write(fd[1], data, 800), 800);
	memset(w.buf, 0, 800);
	assert_int_equal(vac_recv(fd[0], w.buf, 800, MSG_PEEK | MSG_WAITALL), 800);
	assert_int_equal(pat_bad(w.buf, 800, 5), -1);
	v = (struct iovec){w.buf, 800};
	m.msg_iov = &v;
	m.msg_iovlen = 1;
	m.msg_control = ctl;
	m.msg_controllen = sizeof(ctl);
	memset(w.buf, 0, 800);
	assert_int_equal(vac_recvmsg(fd[0], &m, MSG_WAITALL), 800);
	assert_int_equal(pat_bad(w.buf, 800, 5), -1);
	assert_int_equal(m.msg_controllen, 0);
	close2(fd);
	free(data);
	end();
}

static void files(enum vac_guard guard)
{
	const size_t size = MIB(20) + 8;
	struct stat st;
	char *buf, text[64], *plain;
	ssize_t n;
	int fd, ap;

	begin(guard, 12);
	buf = t_map(space, MIB(22), 0);
	fd = memfd_create("file", MFD_CLOEXEC);
	pat_fill(buf, size, 1);
	assert_int_equal(vac_write(fd, buf, size), size);
	assert_ok(fstat(fd, &st));
	assert_int_equal(st.st_size, size);
	memset(buf, 0, size);
	assert_int_equal(vac_read(fd, buf, 100), 0); /* at the end */
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(vac_read(fd, buf, MIB(22)), size);
	assert_int_equal(pat_bad(buf, size, 1), -1);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), size);
	memset(buf, 0, size);
	assert_int_equal(vac_pread(fd, buf, MIB(22), 0), size);
	assert_int_equal(pat_bad(buf, size, 1), -1);
	assert_int_equal(vac_pread(fd, buf, 100, (int64_t)size - 8), 8);
	assert_int_equal(vac_pread(fd, buf, 100, (int64_t)size), 0);
	assert_int_equal(vac_pread(fd, buf, 100, -1), -EINVAL);
	assert_int_equal(vac_pwrite(fd, "0123456789", 10, 4), 10);
	assert_int_equal(vac_pread(fd, buf, 10, 4), 10);
	assert_memory_equal(buf, "0123456789", 10);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", fd);
	ap = open(text, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(vac_write(ap, buf, 10), 10);
	assert_int_equal(vac_pread(fd, buf + 100, 20, (int64_t)size), 10);
	assert_memory_equal(buf + 100, "0123456789", 10);
	close(ap);
	close(fd);

	/* Regular by name, empty by size: made when read. */
	fd = open("/proc/version", O_RDONLY | O_CLOEXEC);
	plain = malloc(4096);
	n = read(fd, plain, 4096);
	assert_true(n > 10);
	assert_int_equal(vac_pread(fd, buf, 4096, 0), n);
	assert_memory_equal(buf, plain, (size_t)n);
	free(plain);
	close(fd);
	fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (size_t got = 0; got < 100000;
	     got += (size_t)n) { /* it ends early where others want to run */
		n = vac_read(fd, buf + got, 100000 - got);
		assert_in_range(n, 1, 100000 - got);
	}
	assert_int_equal(zero_bad(buf, 100000), -1);
	close(fd);
	fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(vac_read(fd, buf, 100), -EISDIR);
	close(fd);
	end();
}

static void errors(enum vac_guard guard)
{
	char *buf, *ro, *gap;
	struct iovec v[2];
	int fd[2], file;

	begin(guard, 2);
	buf = t_map(space, MIB(1), VAC_MAP_NOHUGE);
	ro = t_map(space, 4 * P, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	assert_ok(vac_protect(space, ro, 4 * P, VAC_PROT_READ));
	gap = (char *)vac_space_base(space) + MIB(100);
	assert_int_equal(vac_read(-1, buf, 10), -EBADF);
	assert_int_equal(vac_write(-1, buf, 10), -EBADF);
	assert_int_equal(vac_recv(-1, buf, 10, 0), -EBADF);
	assert_int_equal(vac_send(-1, buf, 10, 0), -EBADF);
	file = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(vac_recv(file, buf, 10, 0), -ENOTSOCK);
	assert_int_equal(vac_send(file, buf, 10, 0), -ENOTSOCK);
	assert_int_equal(vac_write(file, "abcdef", 6), 6);
	assert_int_equal(vac_write(file, gap, 10), -EFAULT);
	assert_int_equal(vac_pread(file, gap, 10, 0), -EFAULT);
	assert_int_equal(vac_pread(file, ro, 10, 0), -EFAULT);
	assert_int_equal(vac_pwrite(file, ro, 10, 0), 10);
	assert_int_equal(vac_readv(file, v, -1), -EINVAL);
	assert_int_equal(vac_readv(file, v, 1025), -EINVAL);
	v[0] = v[1] = (struct iovec){buf, SIZE_MAX / 2};
	assert_int_equal(vac_readv(file, v, 2), -EINVAL);
	assert_int_equal(vac_read(file, buf, 0), 0);
	close(file);
	pair(SOCK_STREAM, fd);
	assert_int_equal(vac_pread(fd[0], buf, 10, 0), -ESPIPE);
	assert_int_equal(write(fd[1], "abc", 3), 3);
	assert_int_equal(vac_recv(fd[0], gap, 10, 0), -EFAULT);
	assert_int_equal(vac_recv(fd[0], ro, 10, 0), -EFAULT);
	assert_int_equal(vac_recv(fd[0], buf, 10, 0), 3); /* and nothing is lost */
	assert_int_equal(vac_send(fd[0], buf, 10, MSG_ZEROCOPY), -EOPNOTSUPP);
	close(fd[1]);
	assert_int_equal(vac_send(fd[0], buf, 10, MSG_NOSIGNAL), -EPIPE);
	assert_int_equal(vac_recv(fd[0], buf, 10, 0), 0);
	close(fd[0]);
	assert_ok(pipe2(fd, O_CLOEXEC));
	assert_int_equal(vac_pread(fd[0], buf, 10, 0), -ESPIPE);
	assert_int_equal(vac_read(fd[1], buf, 10), -EBADF);
	close2(fd);
	end();
}

/* In a child there is no pool memory, but all else works. */
static void forked(enum vac_guard guard)
{
	int file, pid, status;
	char *buf, local[8];

	begin(guard, 1);
	buf = t_map(space, P, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	file = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(write(file, "abcdefgh", 8), 8);
	pid = fork();
	if (pid == 0) {
		MUST(vac_space_of(buf) == NULL);
		MUST(vac_pread(file, buf, 8, 0) == -EFAULT);
		MUST(vac_pread(file, local, 8, 0) == 8);
		MUST(vac_prefault(space, buf, 8, RW) == -EPERM);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(vac_pread(file, buf, 8, 0), 8);
	close(file);
	end();
}

/* Many pieces: in two pools, outside, empty ones; the list itself in a pool. */
static void vectors(enum vac_guard guard)
{
	const unsigned n = 1024;
	struct vac_pool *other;
	struct vac_space *there;
	struct vac_pool_opts o = t_opts(MIB(4));
	char *mem[3], *data;
	struct iovec *v;
	uint64_t rnd_state = t_seed(77);
	size_t total = 0, at[3] = {0};
	int fd;

	begin(guard, 3);
	o.guard = guard;
	other = t_open(&o, 3);
	there = t_space(other, MIB(64));
	mem[0] = t_map(space, MIB(8), VAC_MAP_NOHUGE);
	mem[1] = t_map(there, MIB(8), 0);
	mem[2] = malloc(MIB(8));
	v = (void *)t_map(space, n * sizeof(*v), VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < n; i++) {
		unsigned k = (unsigned)(rnd(&rnd_state) % 3);
		size_t len = rnd(&rnd_state) % 5000;

		v[i] = (struct iovec){mem[k] + at[k], i % 7 == 3 ? 0 : len};
		at[k] += v[i].iov_len;
		total += v[i].iov_len;
	}
	data = malloc(total);
	pat_fill(data, total & ~(size_t)7, 4);
	fd = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(write(fd, data, total), total);
	assert_int_equal(vac_preadv(fd, v, (int)n, 0), total);
	for (size_t i = 0, off = 0; i < n; off += v[i++].iov_len)
		assert_memory_equal(v[i].iov_base, data + off, v[i].iov_len);
	assert_ok(ftruncate(fd, 0));
	assert_int_equal(vac_pwritev(fd, v, (int)n, 0), total);
	memset(data, 0, total);
	assert_int_equal(pread(fd, data, total, 0), total);
	assert_int_equal(pat_bad(data, total & ~(size_t)7, 4), -1);
	close(fd);
	free(data);
	free(mem[2]);
	assert_int_equal(t_stats(other).pins, 0);
	assert_ok(vac_space_destroy(there));
	t_close(other);
	end();
}

/* ---- Under fire -------------------------------------------------------------------------------- */

#define STORM_BYTES MIB(1)
#define STORM_LEFT 4

struct storm {
	int fd[2];
	uint64_t bytes; /* at the least */
	char *from, *to;
	_Atomic unsigned left; /* blocks */
	_Atomic bool ended;
};

/* Word k of the stream is k, whatever the pieces. */
static void storm_sender(struct storm *s, uint64_t *r)
{
	for (uint64_t sent = 0; sent < s->bytes || s->left < STORM_LEFT;) {
		size_t len = 8 * (1 + rnd(r) % 20000), off = 8 * (rnd(r) % 1000), half;
		uint64_t *w = (void *)(s->from + off);
		struct iovec v[2];
		int64_t n;

		for (size_t i = 0; i < len / 8; i++)
			w[i] = sent / 8 + i;
		half = len / 16 * 8;
		v[0] = (struct iovec){w, half};
		v[1] = (struct iovec){(char *)w + half, len - half};
		n = rnd(r) % 2 ? vac_writev(s->fd[1], v, 2) : vac_send(s->fd[1], w, len, 0);
		MUST(n == (int64_t)len);
		sent += len;
	}
	shutdown(s->fd[1], SHUT_WR);
}

static void storm_receiver(struct storm *s, uint64_t *r)
{
	size_t len;
	int64_t n;

	for (uint64_t got = 0;; got += len) {
		size_t off = 8 * (rnd(r) % 1000);
		uint64_t *w = (void *)(s->to + off);

		len = 8 * (1 + rnd(r) % 20000);
		memset(w, 0xff, len);
		n = vac_recv(s->fd[0], w, len, MSG_WAITALL);
		MUST(n >= 0 && n % 8 == 0);
		for (size_t i = 0; i < (size_t)n / 8; i++)
			MUST(w[i] == got / 8 + i);
		if (n < (int64_t)len) { /* the end, and nowhere else */
			got += (uint64_t)n;
			MUST(got >= s->bytes && vac_recv(s->fd[0], w, 8, 0) == 0);
			break;
		}
	}
	s->ended = true;
}

static void storm_member(struct member *m)
{
	struct storm *s = m->arg;

	if (m->nr)
		storm_sender(s, &m->rnd);
	else
		storm_receiver(s, &m->rnd);
}

/* A stream out of pool memory and into it, while blocks leave. */
static void storm(enum vac_guard guard)
{
	struct storm s = {.bytes = MIB(scaled(200))};
	struct team t;

	begin(guard, 4);
	s.from = t_map(space, STORM_BYTES, VAC_MAP_NOHUGE);
	s.to = t_map(space, STORM_BYTES, 0);
	pair(SOCK_STREAM, s.fd);
	team_start(&t, 2, storm_member, &s);
	for (int id = 0; !s.ended; id = (id + 1) % 4) {
		assert_ok(t_offline(pool, id, 20000, NULL));
		assert_ok(t_online(pool, id));
		s.left++;
	}
	team_join(&t);
	close2(s.fd);
	end();
}

/* ---- What they stand on ------------------------------------------------------------------------ */

static void spaces(enum vac_guard guard)
{
	struct vac_space *s[40];
	char *base, local;

	begin(guard, 1);
	for (unsigned i = 0; i < COUNT(s); i++)
		s[i] = t_space(pool, MIB(2) * (i + 1));
	assert_null(vac_space_of(&local));
	assert_null(vac_space_of(NULL));
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < COUNT(s); i++) {
			base = vac_space_base(s[i]);
			assert_ptr_equal(vac_space_of(base), s[i]);
			assert_ptr_equal(vac_space_of(base + vac_space_bytes(s[i]) - 1), s[i]);
			assert_ptr_not_equal(vac_space_of(base + vac_space_bytes(s[i])), s[i]);
			assert_ptr_not_equal(vac_space_of(base - 1), s[i]);
			assert_ptr_equal(vac_space_pool(s[i]), pool);
		}
		for (unsigned i = round; i < COUNT(s); i += 2) {
			base = vac_space_base(s[i]);
			assert_ok(vac_space_destroy(s[i]));
			assert_null(vac_space_of(base));
			s[i] = t_space(pool, MIB(2) * (i + 3));
		}
	}
	for (unsigned i = 0; i < COUNT(s); i++)
		assert_ok(vac_space_destroy(s[i]));
	end();
}

static void prefault(enum vac_guard guard)
{
	char *buf, *ro, *huge, *gap;

	begin(guard, 3);
	buf = t_map(space, 40 * P, VAC_MAP_NOHUGE);
	assert_ok(vac_prefault(space, buf + 17 * P - 1, 2, RW));
	assert_int_equal(t_page(space, buf + 16 * P).present, 1);
	assert_int_equal(t_page(space, buf + 17 * P).present, 1);
	assert_ok(vac_prefault(space, buf, 40 * P, VAC_PROT_READ));
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(t_page(space, buf + i * P).present, 1);
	huge = t_map(space, MIB(2), 0);
	assert_ok(vac_prefault(space, huge + MIB(1), 1, RW));
	assert_int_equal(t_page(space, huge).huge, 1);
	ro = t_map(space, 2 * P, VAC_MAP_NOHUGE);
	assert_ok(vac_protect(space, ro, 2 * P, VAC_PROT_READ));
	assert_ok(vac_prefault(space, ro, 2 * P, VAC_PROT_READ));
	assert_int_equal(vac_prefault(space, ro, 2 * P, RW), -EFAULT);
	assert_ok(vac_protect(space, ro, 2 * P, RW));
	assert_ok(vac_prefault(space, ro, 2 * P, RW));
	assert_ok(vac_protect(space, ro, 2 * P, VAC_PROT_NONE));
	assert_int_equal(vac_prefault(space, ro, 1, VAC_PROT_READ), -EFAULT);
	gap = (char *)vac_space_base(space) + MIB(100);
	assert_int_equal(vac_prefault(space, gap, 1, VAC_PROT_READ), -EFAULT);
	assert_int_equal(vac_prefault(space, &gap, 1, VAC_PROT_READ), -EFAULT);
	assert_int_equal(vac_prefault(space, (char *)vac_space_base(space) + MIB(128) - 1, 2, RW),
			 -EFAULT);
	assert_int_equal(vac_prefault(space, buf, 0, RW), -EINVAL);
	assert_int_equal(vac_prefault(space, buf, SIZE_MAX, RW), -EINVAL);
	assert_int_equal(vac_prefault(space, buf, 1, 0), -EINVAL);
	assert_int_equal(vac_prefault(space, buf, 1, 8), -EINVAL);
	/* More than there is. */
	buf = t_map(space, MIB(16), VAC_MAP_NOHUGE);
	assert_int_equal(vac_prefault(space, buf, MIB(16), RW), -ENOMEM);
	end();
}

static int64_t w_offline(struct waiter *w)
{
	return t_offline(pool, w->flags, 30000, NULL);
}

/* A pin that would wait at a gate says so, has taken nothing, and can be had afterwards. */
static void nowait(enum vac_guard guard)
{
	struct waiter w = {.fn = w_offline};
	uint64_t pin, second = 0;
	char *buf;
	int r;

	begin(guard, 3);
	buf = t_map(space, MIB(2), 0);
	pin = t_pin(space, buf, 10, VAC_PIN_WRITE, "first");
	w.flags = t_page(space, buf).block;
	start(&w);
	while ((r = vac_pin(space, buf, 10, VAC_PIN_READ | VAC_PIN_NOWAIT, "second", &second)) ==
	       0) {
		assert_false(w.done);
		assert_ok(vac_unpin(pool, second));
	}
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(t_stats(pool).pins, 1);
	assert_ok(vac_unpin(pool, pin));
	assert_int_equal(finish(&w), 0);
	assert_ok(vac_pin(space, buf, 10, VAC_PIN_READ | VAC_PIN_NOWAIT, "third", &second));
	assert_ok(vac_unpin(pool, second));
	end();
}

static int64_t w_file(struct waiter *w)
{
	struct iovec *v = (void *)w->buf;

	return vac_preadv(w->fd, v, 2, 0);
}

/* Who waits at the gate of one piece does not hold the other. */
static void gates(enum vac_guard guard)
{
	struct waiter off = {.fn = w_offline}, w = {.fn = w_file};
	struct iovec v[2];
	uint64_t pin, waits;
	char *mem, *far;

	begin(guard, 4);
	mem = far = t_map(space, MIB(6), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	while (t_page(space, far).block == t_page(space, mem).block)
		far += P;
	w.fd = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(write(w.fd, "0123456789abcdef", 16), 16);
	v[0] = (struct iovec){mem, 8};
	v[1] = (struct iovec){far, 8};
	w.buf = (void *)v;
	pin = t_pin(space, far, 1, VAC_PIN_WRITE, "slow");
	off.flags = t_page(space, far).block;
	start(&off);
	/* Until the gate is shut. */
	while (vac_pin(space, far, 1, VAC_PIN_NOWAIT, "probe", &waits) == 0)
		assert_ok(vac_unpin(pool, waits));
	waits = t_stats(pool).gate_waits;
	start(&w);
	while (t_stats(pool).gate_waits == waits)
		sleep_ms(1);
	assert_false(w.done);
	assert_int_equal(t_page(space, mem).pins, 0);
	assert_ok(vac_unpin(pool, pin));
	assert_int_equal(finish(&w), 16);
	assert_int_equal(finish(&off), 0);
	assert_memory_equal(mem, "01234567", 8);
	assert_memory_equal(far, "89abcdef", 8);
	close(w.fd);
	end();
}

/* ---- Each under each guard --------------------------------------------------------------------- */

#define BOTH(name)                                              \
	static void test_##name##_sigsegv(void **st UNUSED)     \
	{                                                       \
		name(VAC_GUARD_SIGSEGV);                        \
	}                                                       \
	static void test_##name##_userfaultfd(void **st UNUSED) \
	{                                                       \
		name(VAC_GUARD_USERFAULTFD);                    \
	}
BOTH(idle)
BOTH(full)
BOTH(interrupted)
BOTH(non_blocking)
BOTH(datagrams)
BOTH(control)
BOTH(all_of_it)
BOTH(files)
BOTH(errors)
BOTH(forked)
BOTH(vectors)
BOTH(storm)
BOTH(spaces)
BOTH(prefault)
BOTH(nowait)
BOTH(gates)

#define TWO(name) \
	cmocka_unit_test(test_##name##_sigsegv), cmocka_unit_test(test_##name##_userfaultfd)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TWO(spaces),    TWO(prefault), TWO(nowait),      TWO(gates),
		TWO(idle),      TWO(full),     TWO(interrupted), TWO(non_blocking),
		TWO(datagrams), TWO(control),  TWO(all_of_it),   TWO(files),
		TWO(errors),    TWO(forked),   TWO(vectors),     TWO(storm),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Memory handed to the kernel without a pin, by every call that takes some, while all blocks leave in
 * turn. Each transfer ends with correct bytes, with an error, or what it lost is named; a wrong byte
 * that nobody has named fails the test. Three times over: with the look at the kernel's page counts
 * (root), with that look switched off, and as a user without privilege.
 *
 * VAC_TEST_FOREIGN=N makes N transfers of each kind in each cell (the full matrix: 10000), instead of
 * a few hundred; VAC_TEST_FOREIGN_KIND=TEXT only those kinds that have TEXT in their name.
 *
 * runtests: guards=both
 */
#include <fcntl.h>
#include <grp.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/util.h"

#define P ((size_t)4096)
#define BLOCKS 6
#define REGION MIB(2) /* of a worker */
#define WORKERS 2
#define PAGES (REGION / P)
#define FILE_PAGES 1024
#define CANNOT_LOOK 42
#define PATIENCE_MS 20000 /* for late bytes to be carried over */

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

enum outcome { CORRECT, ERROR, LATE, NAMED, WRONG, OUTCOMES };
enum mode { LOOK, BLIND, USER, MODES };
static const char *const mode_name[] = {"look", "no look", "unprivileged"};

struct worker {
	struct member *m;
	char *mem;
	uint64_t seq;
	int in, out; /* the file, to be read and to be written, O_DIRECT */
	int p[2];    /* a pipe */
	aio_context_t aio;
	struct io_uring ring;
	int sock[2];
	pid_t helper;
	int to[2], from[2];
};

struct cell {
	const char *name;
	bool (*begin)(struct worker *w);
	enum outcome (*once)(struct worker *w);
	void (*end)(struct worker *w);
	bool needs_look; /* what is unmapped under a holder is a limit elsewhere: vacate.h, FOREIGN */
};

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	const struct cell *cell;
	enum mode mode;
	uint64_t per_worker, end_ms;
	_Atomic uint64_t n[OUTCOMES], left, refused, holders;
	_Atomic unsigned working;
	pthread_mutex_t lock; /* guards what follows */
	struct {
		uintptr_t lo, hi;
	} lost[1024];
	unsigned nr_lost;
	char who[VAC_OWNER_MAX];
} g = {.lock = PTHREAD_MUTEX_INITIALIZER};
static char file_in[64], file_out[64];

/* ---- Small things ------------------------------------------------------------------------------ */

static uint64_t below(struct worker *w, uint64_t n)
{
	w->m->rnd ^= w->m->rnd << 13;
	w->m->rnd ^= w->m->rnd >> 7;
	w->m->rnd ^= w->m->rnd << 17;
	return w->m->rnd % n;
}

static char *page(struct worker *w, uint64_t n)
{
	return w->mem + n * P;
}

static void pause_us(unsigned us)
{
	struct timespec t = {0, us * 1000L};

	nanosleep(&t, NULL);
}

static bool is_named(const char *at, size_t bytes)
{
	bool hit = false;

	pthread_mutex_lock(&g.lock);
	for (unsigned i = 0; i < g.nr_lost; i++)
		hit |= (uintptr_t)at < g.lost[i].hi && (uintptr_t)at + bytes > g.lost[i].lo;
	pthread_mutex_unlock(&g.lock);
	return hit;
}

/* The file's pages first, first + 1, ... are in memory: at once; or late, where the look is missing; or
 * the engine has named the place. */
static enum outcome arrived(char *at, uint64_t first, size_t n)
{
	uint64_t end = 0;

	for (;;) {
		long bad = -1;

		for (size_t i = 0; i < n && bad < 0; i++)
			bad = pat_bad(at + i * P, P, first + i);
		if (bad < 0)
			return end ? LATE : CORRECT;
		if (is_named(at, n * P))
			return NAMED;
		if (g.mode == LOOK)
			return WRONG;
		if (!end)
			end = t_ms() + PATIENCE_MS;
		if (t_ms() > end)
			return WRONG;
		sleep_ms(1);
	}
}

/* What was sent of a page that was filled with this seed. */
static enum outcome sent(const char *copy, size_t bytes, uint64_t seed)
{
	return pat_bad(copy, bytes, seed) < 0 ? CORRECT : WRONG;
}

/* A transfer is refused with EFAULT while its page is leaving; a registration with ENOMEM, for a moment,
 * where what was registered before is still on the bill of locked memory. */
static enum outcome refused(long r)
{
	if (r != -EFAULT && r != -EAGAIN && r != -EINTR && r != -ENOMEM)
		fprintf(stderr, "refused with %ld\n", r);
	MUST(r == -EFAULT || r == -EAGAIN || r == -EINTR || r == -ENOMEM);
	return ERROR;
}

static bool open_files(struct worker *w)
{
	w->in = open(file_in, O_RDONLY | O_DIRECT | O_CLOEXEC);
	w->out = open(file_out, O_RDWR | O_DIRECT | O_CLOEXEC);
	return w->in >= 0 && w->out >= 0;
}

static void close_files(struct worker *w)
{
	close(w->in);
	close(w->out);
}

/* ---- Direct I/O -------------------------------------------------------------------------------- */

static enum outcome direct_read(struct worker *w)
{
	size_t n = 1 + below(w, 32);
	uint64_t at = below(w, PAGES - n), first = below(w, FILE_PAGES - n);
	long r = pread(w->in, page(w, at), n * P, (off_t)(first * P));

	/* Part of it may have been there when the rest was leaving. */
	if (r < (long)(n * P))
		return r < 0 ? refused(-errno) : ERROR;
	return arrived(page(w, at), first, n);
}

static enum outcome direct_write(struct worker *w)
{
	uint64_t at = below(w, PAGES), seed = ++w->seq << 8 | w->m->nr;
	static __thread char copy[4096] __attribute__((aligned(4096)));
	off_t to = (off_t)(w->m->nr * P);
	long r;

	pat_fill(page(w, at), P, seed);
	r = pwrite(w->out, page(w, at), P, to);
	if (r < (long)P)
		return r < 0 ? refused(-errno) : ERROR;
	MUST(pread(w->out, copy, P, to) == (long)P);
	return sent(copy, P, seed);
}

static bool aio_begin(struct worker *w)
{
	return open_files(w) && syscall(SYS_io_setup, 8, &w->aio) == 0;
}

static void aio_end(struct worker *w)
{
	syscall(SYS_io_destroy, w->aio);
	close_files(w);
}

static enum outcome aio_read(struct worker *w)
{
	struct iocb cb[4], *list[4];
	struct io_event ev[4];
	uint64_t first[4];
	enum outcome worst = CORRECT;
	long n = 0, r;

	memset(cb, 0, sizeof(cb));
	for (unsigned i = 0; i < 4; i++) {
		first[i] = below(w, FILE_PAGES - 4);
		cb[i].aio_lio_opcode = IOCB_CMD_PREAD;
		cb[i].aio_fildes = (uint32_t)w->in;
		cb[i].aio_buf = (uintptr_t)page(w, i * (PAGES / 4) + below(w, PAGES / 4 - 4));
		cb[i].aio_nbytes = 4 * P;
		cb[i].aio_offset = (int64_t)(first[i] * P);
		cb[i].aio_data = i;
		list[i] = &cb[i];
	}
	n = syscall(SYS_io_submit, w->aio, 4L, list);
	if (n < 0)
		return refused(-errno);
	for (long got = 0; got < n; got += r) {
		r = syscall(SYS_io_getevents, w->aio, 1L, n - got, ev, NULL);
		MUST(r > 0);
		for (long i = 0; i < r; i++) {
			struct iocb *c = &cb[ev[i].data];
			enum outcome o = ERROR;

			if (ev[i].res == (int64_t)(4 * P))
				o = arrived((char *)(uintptr_t)c->aio_buf, first[ev[i].data], 4);
			else if (ev[i].res < 0)
				o = refused((long)ev[i].res);
			worst = o > worst ? o : worst;
		}
	}
	return worst;
}

/* ---- io_uring ---------------------------------------------------------------------------------- */

static bool ring_begin(struct worker *w)
{
	return io_uring_queue_init(8, &w->ring, 0) == 0 && open_files(w);
}

static void ring_end(struct worker *w)
{
	io_uring_queue_exit(&w->ring);
	close_files(w);
}

static long ring_wait(struct worker *w)
{
	struct io_uring_cqe *c;
	long r;

	MUST(io_uring_submit(&w->ring) == 1);
	while ((r = io_uring_wait_cqe(&w->ring, &c)) == -EINTR)
		;
	MUST(r == 0);
	r = c->res;
	io_uring_cqe_seen(&w->ring, c);
	return r;
}

static enum outcome ring_read(struct worker *w)
{
	size_t n = 1 + below(w, 16);
	uint64_t at = below(w, PAGES - n), first = below(w, FILE_PAGES - n);
	long r;

	io_uring_prep_read(io_uring_get_sqe(&w->ring), w->in, page(w, at), (unsigned)(n * P),
			   first * P);
	r = ring_wait(w);
	if (r < (long)(n * P))
		return r < 0 ? refused(r) : ERROR;
	return arrived(page(w, at), first, n);
}

/* Registered, then written by the program and sent from, and read into, several times. */
static enum outcome ring_fixed(struct worker *w)
{
	uint64_t at = below(w, PAGES - 4), seed = 0, first;
	static __thread char copy[4096] __attribute__((aligned(4096)));
	struct iovec v = {page(w, at), 4 * P};
	off_t to = (off_t)(w->m->nr * P);
	enum outcome worst = CORRECT, o;
	long r = io_uring_register_buffers(&w->ring, &v, 1);

	if (r < 0)
		return refused(r);
	for (unsigned i = 0; i < 3; i++) {
		seed = ++w->seq << 8 | w->m->nr;
		pat_fill(page(w, at), P, seed);
		io_uring_prep_write_fixed(io_uring_get_sqe(&w->ring), w->out, page(w, at), P,
					  (uint64_t)to, 0);
		MUST(ring_wait(w) == (long)P);
		MUST(pread(w->out, copy, P, to) == (long)P);
		o = sent(copy, P, seed);
		worst = o > worst ? o : worst;
		first = below(w, FILE_PAGES - 3);
		io_uring_prep_read_fixed(io_uring_get_sqe(&w->ring), w->in, page(w, at + 1), 3 * P,
					 first * P, 0);
		MUST(ring_wait(w) == (long)(3 * P));
		o = arrived(page(w, at + 1), first, 3);
		worst = o > worst ? o : worst;
	}
	MUST(io_uring_unregister_buffers(&w->ring) == 0);
	return worst;
}

/* Registered and left alone while the program goes on with the memory. */
static enum outcome ring_idle(struct worker *w)
{
	uint64_t at = below(w, PAGES - 4), seed = ++w->seq << 8 | w->m->nr;
	struct iovec v = {page(w, at), 4 * P};
	enum outcome o = CORRECT;
	long r;

	pat_fill(page(w, at), P, seed);
	r = io_uring_register_buffers(&w->ring, &v, 1);
	if (r < 0)
		return refused(r);
	pat_fill(page(w, at + 1), P, seed + 1);
	pause_us((unsigned)below(w, 500));
	if (pat_bad(page(w, at), P, seed) >= 0 || pat_bad(page(w, at + 1), P, seed + 1) >= 0)
		o = WRONG;
	MUST(io_uring_unregister_buffers(&w->ring) == 0);
	return o;
}

/* ---- Pipes and sockets ------------------------------------------------------------------------- */

static bool pipe_begin(struct worker *w)
{
	return pipe2(w->p, O_CLOEXEC) == 0;
}

static void pipe_end(struct worker *w)
{
	close(w->p[0]);
	close(w->p[1]);
}

static void read_all(int fd, char *to, size_t bytes)
{
	for (size_t got = 0; got < bytes;) {
		long r = read(fd, to + got, bytes - got);

		MUST(r > 0 || (r < 0 && errno == EINTR));
		got += r > 0 ? (size_t)r : 0;
	}
}

static enum outcome splice_some(struct worker *w, char *at, size_t n, bool drop)
{
	uint64_t seed = ++w->seq << 8 | w->m->nr;
	static __thread char copy[4 * 4096];
	struct iovec v = {at, n * P};
	long r;

	pat_fill(at, n * P, seed);
	r = vmsplice(w->p[1], &v, 1, 0);
	if (drop)
		MUST_OK(vac_unmap(g.space, at, n * P));
	if (r <= 0)
		return refused(r < 0 ? -errno : -EAGAIN);
	pause_us((unsigned)below(w, 400));
	read_all(w->p[0], copy, (size_t)r);
	return sent(copy, (size_t)r, seed);
}

static enum outcome splice_page(struct worker *w)
{
	return splice_some(w, page(w, below(w, PAGES - 4)), 1 + below(w, 4), false);
}

static enum outcome splice_unmap(struct worker *w)
{
	size_t n = 1 + below(w, 4);
	void *at;
	int r = vac_map(g.space, NULL, n * P, RW, 0, &at);

	if (r == -ENOMEM)
		return ERROR;
	MUST(r == 0);
	return splice_some(w, at, n, true);
}

static bool socket_begin(struct worker *w)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	w->sock[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ok = bind(l, (struct sockaddr *)&a, len) == 0 && listen(l, 1) == 0 &&
	     getsockname(l, (struct sockaddr *)&a, &len) == 0 &&
	     setsockopt(w->sock[0], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) == 0 &&
	     connect(w->sock[0], (struct sockaddr *)&a, len) == 0;
	w->sock[1] = ok ? accept4(l, NULL, NULL, SOCK_CLOEXEC) : -1;
	close(l);
	return ok;
}

static void socket_end(struct worker *w)
{
	close(w->sock[0]);
	if (w->sock[1] >= 0)
		close(w->sock[1]);
}

/* The peer does not read, until the queue is so full that the pages wait in it. */
static enum outcome zerocopy(struct worker *w)
{
	static __thread char filler[1 << 16], copy[4096];
	uint64_t at = below(w, PAGES), seed = ++w->seq << 8 | w->m->nr;
	size_t before = 0;
	char control[128];
	struct msghdr msg;
	long r, n;

	while (below(w, 2) == 0 || before == 0) {
		n = send(w->sock[0], filler, sizeof(filler), MSG_DONTWAIT);
		if (n <= 0)
			break;
		before += (size_t)n;
	}
	pat_fill(page(w, at), P, seed);
	r = send(w->sock[0], page(w, at), P, MSG_ZEROCOPY | MSG_DONTWAIT);
	n = r < 0 ? -errno : r;
	pause_us((unsigned)below(w, 400));
	for (size_t got = 0; got < before; got += (size_t)r) {
		r = recv(w->sock[1], filler,
			 before - got < sizeof(filler) ? before - got : sizeof(filler), 0);
		MUST(r > 0);
	}
	if (n < 0) {
		MUST(n == -EFAULT || n == -EAGAIN || n == -ENOBUFS);
		return ERROR;
	}
	read_all(w->sock[1], copy, (size_t)n);
	do {
		msg = (struct msghdr){.msg_control = control, .msg_controllen = sizeof(control)};
	} while (recvmsg(w->sock[0], &msg, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0);
	return sent(copy, (size_t)n, seed);
}

/* ---- Another process's memory ------------------------------------------------------------------- */

static enum outcome vm_write_self(struct worker *w)
{
	static __thread char from[2 * 4096];
	uint64_t at = below(w, PAGES - 2), first = below(w, FILE_PAGES - 2);
	struct iovec l = {from, 2 * P}, r = {page(w, at), 2 * P};
	long n;

	pat_fill(from, P, first);
	pat_fill(from + P, P, first + 1);
	n = process_vm_writev(getpid(), &l, 1, &r, 1, 0);
	if (n < (long)(2 * P))
		return n < 0 ? refused(-errno) : ERROR;
	return arrived(page(w, at), first, 2);
}

struct order {
	uintptr_t at;
	uint64_t first;
};

/* The child writes where it is told to, into its parent. */
static void serve(int in, int out, pid_t parent)
{
	static char from[2 * 4096];
	struct order o;

	while (read(in, &o, sizeof(o)) == sizeof(o)) {
		struct iovec l = {from, 2 * P}, r = {(void *)o.at, 2 * P};
		long n;

		pat_fill(from, P, o.first);
		pat_fill(from + P, P, o.first + 1);
		n = process_vm_writev(parent, &l, 1, &r, 1, 0);
		if (n < 0)
			n = -errno;
		if (write(out, &n, sizeof(n)) != sizeof(n))
			break;
	}
	_exit(0);
}

static bool helper_begin(struct worker *w)
{
	pid_t parent = getpid();

	MUST(pipe2(w->to, O_CLOEXEC) == 0 && pipe2(w->from, O_CLOEXEC) == 0);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	w->helper = fork();
	if (w->helper == 0) {
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
		close(w->to[1]);
		serve(w->to[0], w->from[1], parent);
	}
	return w->helper > 0;
}

static void helper_end(struct worker *w)
{
	/* The other worker's child may have this end of the pipe too: do not wait for it to be shut. */
	kill(w->helper, SIGKILL);
	close(w->to[1]);
	MUST(waitpid(w->helper, NULL, 0) == w->helper);
	close(w->to[0]);
	close(w->from[0]);
	close(w->from[1]);
}

static enum outcome vm_write_other(struct worker *w)
{
	uint64_t at = below(w, PAGES - 2);
	struct order o = {(uintptr_t)page(w, at), below(w, FILE_PAGES - 2)};
	long n;

	MUST(write(w->to[1], &o, sizeof(o)) == sizeof(o));
	MUST(read(w->from[0], &n, sizeof(n)) == sizeof(n));
	if (n < (long)(2 * P))
		return n < 0 ? refused(n) : ERROR;
	return arrived(page(w, at), o.first, 2);
}

/* ---- The matrix -------------------------------------------------------------------------------- */

static const struct cell cells[] = {
	{"O_DIRECT pread", open_files, direct_read, close_files, false},
	{"O_DIRECT pwrite", open_files, direct_write, close_files, false},
	{"libaio", aio_begin, aio_read, aio_end, false},
	{"io_uring read", ring_begin, ring_read, ring_end, false},
	{"io_uring fixed", ring_begin, ring_fixed, ring_end, false},
	{"io_uring idle", ring_begin, ring_idle, ring_end, false},
	{"vmsplice", pipe_begin, splice_page, pipe_end, false},
	{"vmsplice, unmapped", pipe_begin, splice_unmap, pipe_end, true},
	{"MSG_ZEROCOPY", socket_begin, zerocopy, socket_end, false},
	{"process_vm_writev", NULL, vm_write_self, NULL, false},
	{"... by another", helper_begin, vm_write_other, helper_end, false},
};

static int take_blocker(void *ctx, const struct vac_blocker *b)
{
	struct vac_report *r = ctx;
	struct vac_owner o;

	pthread_mutex_lock(&g.lock);
	if (b->cls == VAC_HELD_LOST && g.nr_lost < COUNT(g.lost)) {
		g.lost[g.nr_lost].lo = b->addr;
		g.lost[g.nr_lost++].hi = b->addr + P;
	}
	if (b->cls == VAC_HELD_FOREIGN) {
		g.holders++;
		if (b->owners && vac_report_owner(r, 0, 0, &o) == 0)
			memcpy(g.who, o.owner, sizeof(g.who));
	}
	pthread_mutex_unlock(&g.lock);
	return 0;
}

static void mover(struct member *m)
{
	for (int id = 0; !m->team->stop; id = (id + 1) % BLOCKS) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		int r = t_offline(g.pool, id, 2000, &res);

		if (r && r != -EBUSY && r != -ENOMEM) {
			printf("block %d: %s\n", id, vac_strerror(r));
			vac_report_print(res.report, stdout);
			fflush(stdout);
		}
		/* The last: not within two seconds, on a machine that has others to serve. */
		MUST(r == 0 || r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
		vac_report_walk(res.report, take_blocker, res.report);
		if (r == -EBUSY)
			MUST(vac_report_count(res.report) > 0);
		vac_report_free(res.report);
		g.left += r == 0;
		g.refused += r < 0;
		if (r == 0)
			MUST(t_online(g.pool, id) == 0);
	}
}

static void work(struct member *m)
{
	struct worker w = {.m = m, .mem = (char *)m->arg + m->nr * REGION};

	MUST(!g.cell->begin || g.cell->begin(&w));
	/* At least so many, and until every block has left twice. */
	for (uint64_t i = 0; i < g.per_worker || (g.left < 2 * BLOCKS && t_ms() < g.end_ms); i++) {
		enum outcome o = g.cell->once(&w);

		/* An error is an answer, but the count is of transfers. */
		g.n[o]++;
		if (o == ERROR) {
			pause_us(50);
			i -= t_ms() < g.end_ms + 50000;
		}
	}
	if (g.cell->end)
		g.cell->end(&w);
}

static void run_cell(const struct cell *c, enum mode mode, bool base, uint64_t n)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	static struct team team, moving;
	uint64_t start = t_ms();
	char *mem;

	o.flags = mode == BLIND ? VAC_POOL_TEST_NO_LOOK : 0;
	if (base)
		o.flags |= VAC_POOL_BASE_ONLY | VAC_POOL_NO_HUGE;
	if (geteuid() != 0) /* what is allowed to it */
		o.guard = VAC_GUARD_AUTO;
	g.pool = t_open(&o, BLOCKS);
	g.space = t_space(g.pool, MIB(64));
	g.cell = c;
	g.mode = mode;
	g.per_worker = (n + WORKERS - 1) / WORKERS;
	g.end_ms = start + 10000;
	g.left = g.refused = g.holders = 0;
	g.nr_lost = 0;
	g.who[0] = '\0';
	for (int i = 0; i < OUTCOMES; i++)
		g.n[i] = 0;
	if (mode == LOOK && !t_stats(g.pool).sees_holders)
		_exit(CANNOT_LOOK);
	mem = t_map(g.space, WORKERS * REGION, VAC_MAP_POPULATE);
	memset(mem, 1, WORKERS * REGION);
	memset(&team, 0, sizeof(team));
	memset(&moving, 0, sizeof(moving));
	team_start(&moving, 1, mover, NULL);
	team_start(&team, WORKERS, work, mem);
	team_join(&team);
	team_stop(&moving);
	/* Everybody has let go: every block leaves, and nothing stays behind. */
	for (int id = 0; id < BLOCKS; id++) {
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		int r = t_offline(g.pool, id, 5000, &res);

		if (res.report)
			vac_report_print(res.report, stdout);
		vac_report_walk(res.report, take_blocker, res.report);
		vac_report_free(res.report);
		MUST(r == 0);
		MUST(t_online(g.pool, id) == 0);
	}
	printf("%-12s %-19s %s: %6llu correct %5llu late %5llu errors %3llu named %3llu WRONG; blocks "
	       "left %llu, refused %llu; held %llu, carried %llu, lost %llu%s%s; %llu ms\n",
	       mode_name[mode], c->name, base ? "4K" : "2M", (unsigned long long)g.n[CORRECT],
	       (unsigned long long)g.n[LATE], (unsigned long long)g.n[ERROR],
	       (unsigned long long)g.n[NAMED], (unsigned long long)g.n[WRONG],
	       (unsigned long long)g.left, (unsigned long long)g.refused,
	       (unsigned long long)t_stats(g.pool).foreign_held,
	       (unsigned long long)t_stats(g.pool).late_carried_bytes,
	       (unsigned long long)t_stats(g.pool).late_lost_bytes, g.who[0] ? "; " : "", g.who,
	       (unsigned long long)(t_ms() - start));
	fflush(stdout);
	MUST(t_stats(g.pool).frames_quarantined == 0);
	t_check(g.pool);
	t_close(g.pool);
	MUST(g.n[WRONG] == 0);
	MUST(g.n[CORRECT] + g.n[LATE] > 0);
}

static uint64_t transfers(void)
{
	const char *s = getenv("VAC_TEST_FOREIGN");

	return s ? strtoull(s, NULL, 0) : scaled(400);
}

static void matrix(enum mode mode)
{
	const char *only = getenv("VAC_TEST_FOREIGN_KIND");

	for (unsigned i = 0; i < COUNT(cells); i++)
		for (int base = 0; base < 2; base++)
			if ((mode == LOOK || !cells[i].needs_look) &&
			    (!only || strstr(cells[i].name, only)))
				run_cell(&cells[i], mode, base, transfers());
}

/* In a child, so that what it gives up stays given up and each begins anew. */
static void in_child(enum mode mode)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (mode == USER && geteuid() == 0) {
			MUST(setgroups(0, NULL) == 0 && setresgid(65534, 65534, 65534) == 0);
			MUST(setresuid(65534, 65534, 65534) == 0);
			MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
		}
		matrix(mode);
		fflush(NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_LOOK) {
		print_message("the kernel's page counts cannot be read here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void test_look(void **state UNUSED)
{
	in_child(LOOK);
}

static void test_no_look(void **state UNUSED)
{
	in_child(BLIND);
}

static void test_unprivileged(void **state UNUSED)
{
	in_child(USER);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_look),
		cmocka_unit_test(test_no_look),
		cmocka_unit_test(test_unprivileged),
	};
	int r;

	t_filter(argc, argv);
	t_file(file_in, sizeof(file_in), FILE_PAGES, true);
	t_file(file_out, sizeof(file_out), FILE_PAGES, false);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(file_in);
	unlink(file_out);
	return r;
}

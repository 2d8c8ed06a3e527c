/* SPDX-License-Identifier: MIT
 * runtests: guards=both
 */
/*
 * Direct I/O when the host refuses: a life of two contexts, with their files and buffers, is run with the first
 * fallible call failing, then the second, and so on until none fails; see test_rollback.c. Failures are put where the
 * engine meets them (the port's table, its threads and tables) and below that (io_uring's own calls), once, or
 * several in a row, as of a host that is short of memory for a while.
 *
 * Wherever it fails: the call under way answers an error that it documents, and has changed nothing, or succeeds in spite of it;
 * the same call then succeeds; each request that was taken gives its one event, with the right answer and bytes; nothing is
 * left of frames, pins, descriptors, mappings. And nothing waits for ever: what cannot fail must arrive.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

enum kind {
	K_META,   /* memory for tables */
	K_THREAD, /* a thread */
	K_OPEN,   /* the device, as a whole */
	K_SUBMIT, /* it takes none of the requests */
	K_SOME,   /* it takes all but the last */
	K_BUFFER, /* a buffer's registration */
	K_FILE,   /* a descriptor */
	K_MAP,    /* a host mapping, for a ring or a buffer */
	K_SETUP,  /* io_uring_setup(2): threads do it then */
	K_RING,   /* mapping its queues */
	K_ENTER, /* io_uring_enter(2), to submit: what is refused may be a cancellation, or a kick */
	K_REGISTER, /* io_uring_register(2) */
	KINDS
};
static const char *const kind_name[KINDS] = {"meta",  "thread", "open",  "submit",
					     "some",  "buffer", "file",  "map",
					     "setup", "ring",   "enter", "register"};

#define NEVER UINT64_MAX
#define LASTS 20u /* calls of a kind that fail in a row, if not one */

static struct {
	_Atomic bool on;
	_Atomic uint64_t calls, at;
	_Atomic unsigned left; /* so many more of that kind fail */
	_Atomic bool hit;
	_Atomic enum kind kind;
	unsigned lasts;
} inj;

static bool fails(enum kind k)
{
	unsigned left = atomic_load(&inj.left);

	if (!atomic_load(&inj.on))
		return false;
	if (atomic_fetch_add(&inj.calls, 1) == atomic_load(&inj.at)) {
		atomic_store(&inj.kind, k);
		atomic_store(&inj.left, inj.lasts - 1);
		atomic_store(&inj.hit, true);
		return true;
	}
	if (!atomic_load(&inj.hit) || atomic_load(&inj.kind) != k)
		return false;
	while (left && !atomic_compare_exchange_weak(&inj.left, &left, left - 1))
		;
	return left > 0;
}

/* The program's own touches do not fail: what is refused to one is a SIGBUS, which is not what is looked at. */
static bool spare(void)
{
	return atomic_exchange(&inj.on, false);
}

/* ---- What fails ----------------------------------------------------------------------------------- */

static const struct vac__mem_ops *const real = &vac__port_mem_ops;

/* The linker puts these in place of the library's calls: see the Makefile. */
void *__real_vac__port_meta_reserve(size_t bytes);
void *__wrap_vac__port_meta_reserve(size_t bytes);
int __real_vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *t);
int __wrap_vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *t);
long __real_syscall(long n, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f);

void *__wrap_vac__port_meta_reserve(size_t bytes)
{
	return fails(K_META) ? NULL : __real_vac__port_meta_reserve(bytes);
}

int __wrap_vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *t)
{
	return fails(K_THREAD) ? -ENOMEM : __real_vac__port_thread_start(name, fn, arg, t);
}

static long refuse(int err)
{
	errno = err;
	return -1;
}

long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f)
{
	switch (n) {
	case SYS_io_uring_setup:
		if (fails(K_SETUP))
			return refuse(ENOMEM);
		break;
	case SYS_io_uring_enter:
		if (b > 0 && fails(K_ENTER))
			return refuse(EAGAIN);
		break;
	case SYS_io_uring_register:
		if (fails(K_REGISTER))
			return refuse(ENOMEM);
		break;
	case SYS_mmap:
		if (d == (MAP_SHARED | MAP_POPULATE) && fails(K_RING))
			return refuse(ENOMEM);
		break;
	}
	return __real_syscall(n, a, b, c, d, e, f);
}

static int w_map(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		 unsigned prot)
{
	return fails(K_MAP) ? -ENOMEM : real->map(ctx, addr, bytes, b, off, prot);
}

static int w_io_open(void *ctx, unsigned flags, uintptr_t *dev, bool *native)
{
	return fails(K_OPEN) ? -EMFILE : real->io_open(ctx, flags, dev, native);
}

static unsigned w_io_submit(void *ctx, uintptr_t dev, struct vac__ioreq **io, unsigned n)
{
	if (fails(K_SUBMIT))
		return 0;
	if (n > 1 && fails(K_SOME))
		return real->io_submit(ctx, dev, io, n - 1);
	return real->io_submit(ctx, dev, io, n);
}

static int w_io_buffer(void *ctx, uintptr_t dev, unsigned slot, void *mem, size_t bytes)
{
	int r = fails(K_BUFFER) && mem ? -EFAULT : 0; /* to give one up does not fail */

	return r ? r : real->io_buffer(ctx, dev, slot, mem, bytes);
}

static int w_io_file(void *ctx, int fd)
{
	return fails(K_FILE) ? -EMFILE : real->io_file(ctx, fd);
}

/* ---- What must be there --------------------------------------------------------------------------- */

#define EVENTS 40u
#define BUF_PAGES 32u

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_aio *ctx[2];
	char *huge, *cut;
	unsigned flags;
	int fd, pipe[2];
	bool threads;
	struct vac_pool_stats before;
} w;

static bool pipes(void)
{
	return !w.threads;
}

static struct vac_aio_req req(enum vac_aio_op op, int fd, void *buf, size_t len, uint64_t off)
{
	return (struct vac_aio_req){.op = op, .fd = fd, .buf = buf, .len = len, .off = off};
}

/* One request with its event, from a call that may have to be made again. */
static int one(struct vac_aio *ctx, struct vac_aio_req r, int want)
{
	struct vac_aio_event e;
	int n = vac_aio_submit(ctx, &r, 1);

	if (n < 0)
		return n;
	MUST(n == 1);
	MUST(vac_aio_getevents(ctx, 1, 1, &e, -1) == 1);
	if (e.res != want)
		fail_msg("call %lu (%s): a request answers %d, not %d", inj.at, kind_name[inj.kind],
			 e.res, want);
	return 0;
}

/* ---- The steps ------------------------------------------------------------------------------------ */

static int setup(unsigned k)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_info i = VAC_INIT(struct vac_aio_info);
	int r;

	o.events = EVENTS + 300 * k; /* a ring of one page, and of more */
	o.name = k ? "second" : "first";
	o.flags = w.flags;
	r = vac_aio_setup(w.space, &o, &w.ctx[k]);
	if (r == 0) {
		assert_ok(vac_aio_info(w.ctx[k], &i));
		w.threads = !i.uring;
	} else if (r != -ENOMEM && r != -EMFILE) {
		fail_msg("call %lu (%s): vac_aio_setup: %s", inj.at, kind_name[inj.kind],
			 vac_strerror(r));
	}
	return r;
}

static int s_setup0(void)
{
	return setup(0);
}

static int s_setup1(void)
{
	return setup(1);
}

static int s_files(void)
{
	int fds[3] = {w.fd, w.pipe[0], w.fd};
	int r = vac_aio_files(w.ctx[0], fds, 3);

	assert_true(r == 0 || r == -EMFILE || r == -ENOMEM);
	return r;
}

/* In place of others, of which those stay that were there. */
static int s_files_again(void)
{
	int r = vac_aio_files(w.ctx[0], &w.fd, 1);

	if (r < 0) {
		struct vac_aio_req q = req(VAC_AIO_FSYNC, 2, NULL, 0, 0);
		bool was = spare();

		q.flags = VAC_AIO_FILE;
		MUST_OK(one(w.ctx[0], q, 0));
		inj.on = was;
	}
	return r;
}

static int buffers(unsigned n)
{
	struct iovec v[3] = {{w.huge, MIB(1)}, {w.cut, BUF_PAGES * P}, {w.huge + MIB(1), P}};
	int r = vac_aio_buffers(w.ctx[0], v, n);

	assert_true(r == 0 || r == -ENOMEM);
	return r;
}

static int s_buffers(void)
{
	return buffers(2);
}

static int s_buffers_again(void)
{
	return buffers(3);
}

/* Many at once, of each kind, of which any number is taken; those that are not are submitted again. */
static int s_many(void)
{
	static struct iovec v[BUF_PAGES];
	struct vac_aio_req r[EVENTS];
	bool seen[EVENTS] = {false};
	unsigned taken = 0, done = 0;
	bool was = spare();

	for (unsigned i = 0; i < BUF_PAGES; i++)
		v[i] = (struct iovec){w.cut + (BUF_PAGES - 1 - i) * P, P};
	pat_fill(w.huge, MIB(2), 1);
	pat_fill(w.cut, BUF_PAGES * P, 2);
	inj.on = was;
	for (unsigned i = 0; i < EVENTS; i++) {
		switch (i % 4) {
		case 0:
			r[i] = req(VAC_AIO_WRITE, 0, w.huge + i * P, P, i * P);
			r[i].flags = VAC_AIO_FILE | VAC_AIO_BUFFER;
			break;
		case 1: r[i] = req(VAC_AIO_WRITE, w.fd, w.huge + i * P, P, i * P); break;
		case 2: r[i] = req(VAC_AIO_NOP, 0, NULL, 0, P); break;
		default: /* in pieces: each takes a table of the pool's */
			r[i] = req(VAC_AIO_WRITEV, w.fd, v, BUF_PAGES, MIB(1) + i * BUF_PAGES * P);
		}
		r[i].user_data = i;
	}
	while (done < EVENTS) {
		struct vac_aio_event e[EVENTS];
		int n = taken < EVENTS ? vac_aio_submit(w.ctx[0], r + taken, EVENTS - taken) : 0;

		if (n < 0) {
			if (!inj.hit || (n != -EAGAIN && n != -ENOMEM))
				fail_msg("call %lu: vac_aio_submit: %s", inj.at, vac_strerror(n));
			spare();
			continue;
		}
		taken += (unsigned)n;
		n = vac_aio_getevents(w.ctx[0], 1, EVENTS, e, -1);
		MUST(n > 0);
		for (int i = 0; i < n; i++) {
			uint64_t k = e[i].user_data;

			MUST(k < taken && !seen[k]);
			seen[k] = true;
			if (e[i].res != (int)(k % 4 == 3 ? BUF_PAGES * P : P))
				fail_msg("call %lu (%s): request %lu answers %d", inj.at,
					 kind_name[inj.kind], k, e[i].res);
		}
		done += (unsigned)n;
	}
	spare();
	for (unsigned i = 0; i < EVENTS; i++) {
		char got[P];

		if (i % 4 < 2) {
			MUST(pread(w.fd, got, P, i * P) == P);
			assert_memory_equal(got, w.huge + i * P, P);
		} else if (i % 4 == 3) {
			for (unsigned k = 0; k < BUF_PAGES; k++) {
				MUST(pread(w.fd, got, P,
					   (off_t)(MIB(1) + (i * BUF_PAGES + k) * P)) == P);
				assert_memory_equal(got, w.cut + (BUF_PAGES - 1 - k) * P, P);
			}
		}
	}
	return 0;
}

/* The buffers move, and are registered again, or not; requests on them go where they are. */
static int s_move(void)
{
	struct vac_aio_req q = req(VAC_AIO_READ, 0, w.huge + 8 * P, 4 * P, 0);
	struct vac_offline_result res;
	int id = t_page(w.space, w.huge).block, r = t_offline(w.pool, id, 20000, &res);
	char got[4 * P];
	bool was;

	if (r < 0) {
		if (r != -ENOMEM)
			vac_report_print(res.report, stdout);
		vac_report_free(res.report);
		return r;
	}
	was = spare();
	assert_ok(t_online(w.pool, id));
	memset(w.huge + 8 * P, 0, 4 * P);
	inj.on = was;
	q.flags = VAC_AIO_FILE | VAC_AIO_BUFFER;
	while ((r = one(w.ctx[0], q, 4 * P)) == -EAGAIN)
		;
	spare();
	MUST(pread(w.fd, got, 4 * P, 0) == 4 * P);
	if (r == 0)
		assert_memory_equal(w.huge + 8 * P, got, 4 * P);
	return r;
}

/* What never ends is cancelled: the cancellation arrives. */
static int s_cancel(void)
{
	struct vac_aio_req q = req(VAC_AIO_READ, w.pipe[0], w.huge, P, 0);
	struct vac_aio_event e;
	int n;

	if (!pipes())
		return 0;
	n = vac_aio_submit(w.ctx[1], &q, 1);
	if (n < 0)
		return n;
	assert_int_equal(vac_aio_cancel(w.ctx[1], 0, 0), 1);
	assert_int_equal(vac_aio_getevents(w.ctx[1], 1, 1, &e, -1), 1);
	assert_int_equal(e.res, -ECANCELED);
	return 0;
}

static int submitted;

static void *submit_and_end(void *arg)
{
	struct vac_aio_req q = req(VAC_AIO_READ, w.pipe[0], w.huge, P, 0);

	submitted = vac_aio_submit(w.ctx[1], &q, 1);
	return arg;
}

/* The kernel cancels what a thread has submitted that ends: it is begun anew, and goes on. */
static int s_thread_ends(void)
{
	struct vac_aio_event e;
	pthread_t t;

	if (!pipes())
		return 0;
	assert_ok(pthread_create(&t, NULL, submit_and_end, NULL));
	assert_ok(pthread_join(t, NULL));
	if (submitted < 0)
		return submitted;
	assert_int_equal(vac_aio_getevents(w.ctx[1], 1, 1, &e, 3000000), 0);
	assert_int_equal(write(w.pipe[1], "hello", 5), 5);
	assert_int_equal(vac_aio_getevents(w.ctx[1], 1, 1, &e, -1), 1);
	assert_int_equal(e.res, 5);
	spare();
	assert_memory_equal(w.huge, "hello", 5);
	return 0;
}

/* An event that is there at once, for one who waits below. */
static void *wait_for_one(void *arg)
{
	struct vac_aio_event e;

	return (void *)(intptr_t)vac_aio_getevents(arg, 1, 1, &e, -1);
}

static int s_kick(void)
{
	struct vac_aio_req slow = req(VAC_AIO_READ, w.pipe[0], w.cut, P, 0);
	struct vac_aio_req nop = req(VAC_AIO_NOP, 0, NULL, 0, 7);
	pthread_t t;
	void *r;
	int n;

	if (!pipes())
		return 0;
	/* So that there is something to be waited for in the port. */
	n = vac_aio_submit(w.ctx[0], &slow, 1);
	if (n < 0)
		return n;
	assert_ok(pthread_create(&t, NULL, wait_for_one, w.ctx[1]));
	sleep_ms(2);
	assert_int_equal(vac_aio_submit(w.ctx[1], &nop, 1), 1);
	assert_ok(pthread_join(t, &r));
	assert_int_equal((intptr_t)r, 1);
	return 0; /* what is slow ends with its context */
}

static int s_destroy0(void)
{
	return vac_aio_destroy(w.ctx[0]);
}

static int s_destroy1(void)
{
	return vac_aio_destroy(w.ctx[1]);
}

/* The one that is still there, or was just refused, may be made again. */
static int s_setup0_again(void)
{
	return setup(0);
}

static int (*const steps[])(void) = {
	s_setup0, s_setup1,   s_files,        s_files_again, s_files,         s_buffers,
	s_many,   s_move,     s_cancel,       s_thread_ends, s_buffers_again, s_move,
	s_kick,   s_destroy0, s_setup0_again, s_destroy1,    s_destroy0,
};

/* Nothing has come of a step that failed. */
static void verify(const struct vac_pool_stats *was)
{
	struct vac_pool_stats now = t_stats(w.pool);

	if (now.pins != was->pins || now.spaces != was->spaces)
		fail_msg("call %lu (%s): %lu pins, %lu before", inj.at, kind_name[inj.kind],
			 now.pins, was->pins);
	t_check(w.pool);
}

static bool run(unsigned lasts, uint64_t at, uint64_t seen[KINDS])
{
	struct vac_pool_opts o = t_opts(MIB(4));
	unsigned failed = 0;

	memset(&inj, 0, sizeof(inj));
	memset(&w.ctx, 0, sizeof(w.ctx));
	/* Host pages that hold nothing else: a neighbour of a registered buffer would be looked at again and
	 * again. What is left is checked when it is closed. */
	o.flags |= VAC_POOL_NO_HUGE;
	w.pool = t_open(&o, 3);
	w.space = t_space(w.pool, MIB(16));
	w.cut = t_map(w.space, BUF_PAGES * P, VAC_MAP_NOHUGE);
	w.huge = t_map(w.space, MIB(2), VAC_MAP_POPULATE);
	memset(w.cut, 1, BUF_PAGES * P);
	w.fd = t_swap_file(MIB(1) + EVENTS * BUF_PAGES * P);
	assert_ok(pipe2(w.pipe, O_CLOEXEC));
	w.before = t_stats(w.pool);
	inj.lasts = lasts;
	inj.at = at;
	for (unsigned i = 0; i < COUNT(steps); i++) {
		struct vac_pool_stats was = t_stats(w.pool);
		bool before = inj.hit;
		uint64_t start;
		int r;

		inj.on = !before || atomic_load(&inj.left) > 0;
		start = t_ms();
		r = steps[i]();
		inj.on = false;
		if (t_ms() - start > 2000)
			printf("call %lu (%s), step %u: %lu ms\n", at, kind_name[inj.kind], i,
			       t_ms() - start);
		if (r == 0)
			continue;
		if (!inj.hit)
			fail_msg("step %u: %s, and nothing failed", i, vac_strerror(r));
		if (steps[i] == s_destroy0 || steps[i] == s_destroy1)
			fail_msg("a context that does not end: %s", vac_strerror(r));
		verify(&was);
		failed++;
		inj.left = 0;
		r = steps[i]();
		if (r < 0)
			fail_msg("call %lu (%s), step %u, again: %s", at, kind_name[inj.kind], i,
				 vac_strerror(r));
	}
	assert_true(failed <= 1);
	if (inj.hit)
		seen[inj.kind]++;
	verify(&w.before);
	assert_int_equal(t_stats(w.pool).frames_used, w.before.frames_used);
	close(w.fd);
	close(w.pipe[0]);
	close(w.pipe[1]);
	t_close(w.pool);
	return inj.hit;
}

static void every(unsigned flags, unsigned lasts)
{
	uint64_t seen[KINDS] = {0};
	unsigned step = scaled(10) == 1 ? 7 : lasts > 1 ? 3 : 1;

	w.flags = flags;
	assert_false(run(1, NEVER, seen));
	for (uint64_t at = 0; run(lasts, at, seen); at += step)
		;
	for (unsigned k = 0; k < KINDS && step == 1; k++) {
		bool none = k >= K_SETUP && (flags || w.threads);

		if (!seen[k] != none && !(w.threads && k == K_SETUP))
			fail_msg("%s: %lu have failed", kind_name[k], seen[k]);
	}
}

static void test_once(void **state UNUSED)
{
	every(0, 1);
}

static void test_several(void **state UNUSED)
{
	every(0, LASTS);
}

static void test_threads(void **state UNUSED)
{
	every(VAC_AIO_THREADS, 1);
	every(VAC_AIO_THREADS, LASTS);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_once),
		cmocka_unit_test(test_several),
		cmocka_unit_test(test_threads),
	};
	static struct vac__mem_ops wrapped;

	catch_faults();
	t_filter(argc, argv);
	wrapped = vac__port_mem_ops;
	wrapped.map = w_map;
	wrapped.io_open = w_io_open;
	wrapped.io_submit = w_io_submit;
	wrapped.io_buffer = w_io_buffer;
	wrapped.io_file = w_io_file;
	vac__mem_ops_override = &wrapped;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

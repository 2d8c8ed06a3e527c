/* SPDX-License-Identifier: MIT
 * runtests: guards=all
 */
/*
 * Direct I/O contexts on real files: what requests do, what is refused, and what becomes of a context's
 * memory. Everything runs on io_uring and again on threads. tests/test_aio_ring.c moves the rings.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

static unsigned backend; /* flags of every context: VAC_AIO_THREADS or 0 */

static struct vac_aio *setup(struct vac_space *s, unsigned events, const char *name)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio *ctx;

	o.name = name;
	o.events = events;
	o.flags = backend;
	assert_ok(vac_aio_setup(s, &o, &ctx));
	return ctx;
}

/* Threads, asked for or because the host has nothing else. */
static bool by_threads(struct vac_aio *ctx)
{
	struct vac_aio_info i = VAC_INIT(struct vac_aio_info);

	assert_ok(vac_aio_info(ctx, &i));
	assert_true(!i.uring || !backend);
	return !i.uring;
}

static struct vac_aio_info info(struct vac_aio *ctx)
{
	struct vac_aio_info i = VAC_INIT(struct vac_aio_info);

	assert_ok(vac_aio_info(ctx, &i));
	return i;
}

static struct vac_aio_req req(enum vac_aio_op op, int fd, void *buf, size_t len, uint64_t off,
			      uint64_t user_data)
{
	return (struct vac_aio_req){
		.op = op, .fd = fd, .buf = buf, .len = len, .off = off, .user_data = user_data};
}

static int submit(struct vac_aio *ctx, enum vac_aio_op op, int fd, void *buf, size_t len,
		  uint64_t off, uint64_t user_data)
{
	struct vac_aio_req r = req(op, fd, buf, len, off, user_data);

	return vac_aio_submit(ctx, &r, 1);
}

/* The answer of the next event, which has this number. */
static int answer(struct vac_aio *ctx, uint64_t user_data)
{
	struct vac_aio_event e;

	assert_int_equal(vac_aio_getevents(ctx, 1, 1, &e, -1), 1);
	assert_int_equal(e.user_data, user_data);
	assert_int_equal(e.flags, 0);
	return e.res;
}

static int one(struct vac_aio *ctx, enum vac_aio_op op, int fd, void *buf, size_t len, uint64_t off)
{
	assert_int_equal(submit(ctx, op, fd, buf, len, off, 77), 1);
	return answer(ctx, 77);
}

/* A new file without a name; past the page cache where that is allowed. */
static int direct_file(void)
{
	char path[] = "/var/tmp/vacate-aio-XXXXXX", link[40];
	int fd = mkstemp(path), direct;

	assert_true(fd >= 0);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	direct = open(link, O_RDWR | O_DIRECT | O_CLOEXEC);
	assert_ok(unlink(path));
	if (direct < 0)
		return fd;
	close(fd);
	return direct;
}

/* ---- What requests do --------------------------------------------------------------------------- */

static void test_requests(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(16));
	char *mem = t_map(s, MIB(8), 0), *cut;
	struct vac_aio *ctx = setup(s, 16, "db");
	struct iovec v[5];
	int fd = direct_file();

	pat_fill(mem, MIB(4), 1);
	assert_int_equal(one(ctx, VAC_AIO_WRITE, fd, mem, MIB(4), 0), MIB(4));
	assert_int_equal(one(ctx, VAC_AIO_FSYNC, fd, NULL, 0, 0), 0);
	assert_int_equal(one(ctx, VAC_AIO_FDSYNC, fd, NULL, 0, 0), 0);
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem + MIB(4), MIB(4), 0), MIB(4));
	assert_int_equal(pat_bad(mem + MIB(4), MIB(4), 1), -1);
	/* At the end of the file, and beyond. */
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem, 4 * P, MIB(4) - P), P);
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem, P, MIB(5)), 0);
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem, 0, 0), 0);
	/* Memory in many pieces: base pages that do not lie together, more than a slot has room for. */
	cut = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	for (size_t i = 0; i < 64; i++)
		cut[((i * 37) % 64) * P] = 1;
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, cut, 64 * P, 0), 64 * P);
	assert_memory_equal(cut, mem + MIB(4), 64 * P);
	/* Vectors: here and there, in both kinds of folio, one of nothing. */
	for (unsigned i = 0; i < 5; i++)
		v[i] = (struct iovec){i % 2 ? mem + i * 3 * P : cut + (4 - i) * 2 * P,
				      i == 2 ? 0 : 2 * P};
	memset(mem, 0, MIB(4));
	assert_int_equal(one(ctx, VAC_AIO_READV, fd, v, 5, 8 * P), 8 * P);
	for (unsigned i = 0, n = 0; i < 5; i++)
		if (i != 2)
			assert_memory_equal(v[i].iov_base, mem + MIB(4) + (8 + 2 * n++) * P, 2 * P);
	assert_int_equal(one(ctx, VAC_AIO_WRITEV, fd, v, 5, MIB(4)), 8 * P);
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem, 8 * P, MIB(4)), 8 * P);
	assert_memory_equal(mem, mem + MIB(4) + 8 * P, 8 * P);
	/* An event with a number, and no more. */
	assert_int_equal(one(ctx, VAC_AIO_NOP, -1, NULL, 0, 4711), 4711);
	assert_int_equal(t_stats(pool).pins, 0);
	assert_ok(vac_aio_destroy(ctx));
	close(fd);
	t_close(pool);
}

/* Memory outside of all pools is used as it is. */
static void test_other_memory(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_pool *other = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4)), *s2 = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 4, NULL);
	char *mem = t_map(s2, MIB(2), 0), *foreign = t_map(t_space(other, MIB(4)), MIB(2), 0);
	char *own = aligned_alloc(P, 4 * P);
	int fd = direct_file();

	assert_non_null(own);
	pat_fill(own, 4 * P, 5);
	assert_int_equal(one(ctx, VAC_AIO_WRITE, fd, own, 4 * P, 0), 4 * P);
	assert_int_equal(one(ctx, VAC_AIO_READ, fd, mem, 4 * P, 0), 4 * P);
	assert_int_equal(pat_bad(mem, 4 * P, 5), -1);
	assert_int_equal(submit(ctx, VAC_AIO_READ, fd, foreign, P, 0, 0), -EINVAL);
	assert_ok(vac_aio_destroy(ctx));
	free(own);
	close(fd);
	t_close(pool);
	t_close(other);
}

static void test_files(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 4, NULL);
	char *mem = t_map(s, MIB(2), 0);
	int fd[2] = {direct_file(), direct_file()}, bad[2] = {fd[0], 999};
	struct vac_aio_req r = req(VAC_AIO_WRITE, 1, mem, P, 0, 3);

	assert_int_equal(vac_aio_files(ctx, bad, 2), -EBADF);
	assert_int_equal(vac_aio_files(ctx, fd, 2000), -EINVAL);
	r.flags = VAC_AIO_FILE;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EBADF);
	assert_ok(vac_aio_files(ctx, fd, 2));
	close(fd[1]); /* the context has its own */
	pat_fill(mem, P, 9);
	assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
	assert_int_equal(answer(ctx, 3), P);
	r.op = VAC_AIO_READ;
	r.buf = mem + P;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
	assert_int_equal(answer(ctx, 3), P);
	assert_int_equal(pat_bad(mem + P, P, 9), -1);
	r.fd = 2;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EBADF);
	assert_ok(vac_aio_files(ctx, NULL, 0));
	r.fd = 0;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EBADF);
	assert_ok(vac_aio_destroy(ctx));
	close(fd[0]);
	t_close(pool);
}

/* Registered buffers stay with their memory wherever it goes, and keep no block. */
static void test_buffers(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(16));
	struct vac_aio *ctx = setup(s, 8, "reg");
	char *huge = t_map(s, MIB(2), 0), *cut = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	struct iovec v[3] = {{huge + P, MIB(1)}, {cut, 64 * P}, {NULL, P}};
	struct vac_aio_req r = req(VAC_AIO_WRITE, direct_file(), huge + 2 * P, 8 * P, 0, 1);
	unsigned pins;

	r.flags = VAC_AIO_BUFFER;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EINVAL);
	assert_int_equal(vac_aio_buffers(ctx, v, 3), -EINVAL);
	for (size_t i = 0; i < 64; i++)
		cut[((i * 37) % 64) * P] = 1;
	assert_ok(vac_aio_buffers(ctx, v, 2));
	for (int round = 0; round < 8; round++) {
		r.op = VAC_AIO_WRITE;
		r.buf = huge + 2 * P;
		r.buffer = 0;
		pat_fill(huge + 2 * P, 8 * P, (uint64_t)round);
		assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
		assert_int_equal(answer(ctx, 1), 8 * P);
		r.op = VAC_AIO_READ;
		r.buf = cut + 5 * P;
		r.buffer = 1;
		assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
		assert_int_equal(answer(ctx, 1), 8 * P);
		assert_int_equal(pat_bad(cut + 5 * P, 8 * P, (uint64_t)round), -1);
		assert_ok(t_offline(pool, round % 3, 10000, NULL));
		assert_ok(t_online(pool, round % 3));
	}
	r.buf = huge;
	r.buffer = 0;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EFAULT);
	r.buffer = 2;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EINVAL);
	r = req(VAC_AIO_FSYNC, r.fd, NULL, 0, 0, 1);
	r.flags = VAC_AIO_BUFFER;
	assert_int_equal(vac_aio_submit(ctx, &r, 1), -EINVAL);
	/* Two buffers, two pins, however many requests. */
	pins = (unsigned)t_stats(pool).pins;
	assert_int_equal(pins, 2);
	assert_ok(vac_aio_buffers(ctx, NULL, 0));
	assert_int_equal(t_stats(pool).pins, 0);
	assert_ok(vac_aio_buffers(ctx, v, 1));
	assert_ok(vac_aio_destroy(ctx));
	assert_int_equal(t_stats(pool).pins, 0);
	close(r.fd);
	t_close(pool);
}

/* ---- What is refused ---------------------------------------------------------------------------- */

static void test_refused(void **state UNUSED)
{
	struct vac_pool_opts po = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio *ctx, *b;
	struct vac_aio_req r[3];
	struct vac_aio_event e[4];
	char *mem;
	int fd = direct_file();

	po.aio_events = 100;
	pool = t_open(&po, 2);
	s = t_space(pool, MIB(4));
	o.flags = backend;
	assert_int_equal(vac_aio_setup(s, &o, &ctx), -EINVAL);
	o.events = 65537;
	assert_int_equal(vac_aio_setup(s, &o, &ctx), -EINVAL);
	o.events = 8;
	o.name = "twelve bytes";
	assert_int_equal(vac_aio_setup(s, &o, &ctx), -EINVAL);
	o.name = NULL;
	o.flags |= 1u << 30;
	assert_int_equal(vac_aio_setup(s, &o, &ctx), -EINVAL);
	/* EAGAIN is for the limit and for nothing else: a space that is full is ENOMEM. */
	ctx = setup(s, 60, NULL);
	o.flags = backend;
	o.events = 41;
	assert_int_equal(vac_aio_setup(s, &o, &b), -EAGAIN);
	o.events = 40;
	assert_ok(vac_aio_setup(s, &o, &b));
	assert_ok(vac_aio_destroy(b));
	mem = t_map(s, MIB(2), 0);
	assert_non_null(t_map(s, MIB(2) - P, VAC_MAP_NOHUGE));
	assert_int_equal(vac_aio_setup(s, &o, &b), -ENOMEM);

	r[0] = req(VAC_AIO_FDSYNC + 1, fd, mem, P, 0, 0);
	assert_int_equal(vac_aio_submit(ctx, r, 1), -EINVAL);
	r[0] = req(VAC_AIO_READ, fd, mem, P, 0, 0);
	r[0].flags = 2;
	assert_int_equal(vac_aio_submit(ctx, r, 1), -EINVAL);
	assert_int_equal(vac_aio_submit(ctx, r, 0), -EINVAL);
	assert_int_equal(submit(ctx, VAC_AIO_READ, -1, mem, P, 0, 0), -EBADF);
	assert_ok(vac_unmap(s, mem + MIB(2) - P, P));
	assert_int_equal(submit(ctx, VAC_AIO_READ, fd, mem + MIB(2) - 2 * P, 2 * P, 0, 0), -EFAULT);
	assert_int_equal(submit(ctx, VAC_AIO_READ, fd, mem + MIB(2) - P, 2 * P, 0, 0), -EFAULT);
	assert_int_equal(submit(ctx, VAC_AIO_READV, fd, mem, 1025, 0, 0), -EINVAL);
	assert_int_equal(submit(ctx, VAC_AIO_FSYNC, fd, mem, 0, 0, 0), -EINVAL);
	assert_ok(vac_protect(s, mem + MIB(1), P, VAC_PROT_READ));
	assert_int_equal(submit(ctx, VAC_AIO_READ, fd, mem + MIB(1), P, 0, 0), -EFAULT);
	/* Those before a bad one are taken. */
	r[0] = req(VAC_AIO_WRITE, fd, mem, P, 0, 1);
	r[1] = req(VAC_AIO_NOP, 0, NULL, 0, 5, 2);
	r[2] = req(VAC_AIO_READ, fd, mem + MIB(1), P, 0, 3);
	assert_int_equal(vac_aio_submit(ctx, r, 3), 2);
	assert_int_equal(vac_aio_getevents(ctx, 2, 4, e, -1), 2);
	assert_int_equal(e[0].user_data + e[1].user_data, 3);
	/* Bad descriptors are an event, as they are known late. */
	assert_int_equal(one(ctx, VAC_AIO_READ, 999, mem, P, 0), -EBADF);
	assert_int_equal(vac_aio_getevents(ctx, 0, 0, e, 0), -EINVAL);
	assert_int_equal(vac_aio_getevents(ctx, 2, 1, e, 0), -EINVAL);
	assert_int_equal(vac_aio_cancel(ctx, 1, 0), -ENOENT);
	assert_int_equal(vac_pool_close(pool), -EBUSY);
	assert_int_equal(vac_space_destroy(s), -EBUSY);
	assert_ok(vac_aio_destroy(ctx));
	t_close(pool);
	close(fd);
}

/* As many under way, or not fetched, as was asked for; then EAGAIN, until some are. */
static void test_full(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 10, NULL);
	struct vac_aio_ring *ring = info(ctx).ring;
	struct vac_aio_event e[20];
	struct vac_aio_req r[20];

	for (unsigned i = 0; i < 20; i++)
		r[i] = req(VAC_AIO_NOP, 0, NULL, 0, i, i);
	assert_int_equal(vac_aio_submit(ctx, r, 20), 10);
	assert_int_equal(vac_aio_submit(ctx, r + 10, 10), -EAGAIN);
	assert_int_equal(ring->tail, 10);
	ring->head = 3; /* consumed without a call */
	assert_int_equal(vac_aio_submit(ctx, r + 10, 10), 3);
	assert_int_equal(vac_aio_getevents(ctx, 1, 20, e, -1), 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(e[i].user_data, i + 3);
	assert_int_equal(vac_aio_getevents(ctx, 1, 20, e, 1000000), 0);
	/* A head that cannot be true. */
	assert_int_equal(vac_aio_submit(ctx, r, 2), 2);
	ring->head = 99;
	assert_int_equal(vac_aio_getevents(ctx, 1, 20, e, -1), -EUCLEAN);
	assert_int_equal(vac_aio_submit(ctx, r + 2, 8), 8);
	assert_int_equal(vac_aio_submit(ctx, r, 1), -EAGAIN);
	ring->head = 13;
	assert_int_equal(vac_aio_getevents(ctx, 1, 20, e, -1), 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(e[i].user_data, i);
	assert_ok(vac_aio_destroy(ctx));
	t_close(pool);
}

/* ---- Waiting, cancelling, ending ------------------------------------------------------------------ */

static void *wait_for_one(void *arg)
{
	struct vac_aio_event e = {0};

	return (void *)(intptr_t)vac_aio_getevents(arg, 1, 1, &e, -1);
}

static void test_waits(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 4, NULL);
	struct vac_aio_event e[4];
	uint64_t start = t_ms();
	pthread_t t[3];
	void *r;

	assert_int_equal(vac_aio_getevents(ctx, 0, 4, e, -1), 0);
	assert_int_equal(vac_aio_getevents(ctx, 1, 4, e, 0), 0);
	assert_int_equal(vac_aio_getevents(ctx, 1, 4, e, 30000000), 0);
	assert_true(t_ms() - start >= 30);
	/* Fewer than are wanted, when time is up. */
	assert_int_equal(submit(ctx, VAC_AIO_NOP, 0, NULL, 0, 0, 1), 1);
	assert_int_equal(vac_aio_getevents(ctx, 2, 4, e, 1000000), 1);
	/* Others wait; each gets one. */
	for (unsigned i = 0; i < 3; i++)
		assert_ok(pthread_create(&t[i], NULL, wait_for_one, ctx));
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(submit(ctx, VAC_AIO_NOP, 0, NULL, 0, 0, i), 1);
	for (unsigned i = 0; i < 3; i++) {
		assert_ok(pthread_join(t[i], &r));
		assert_int_equal((intptr_t)r, 1);
	}
	/* The end of the context is theirs. */
	assert_ok(pthread_create(&t[0], NULL, wait_for_one, ctx));
	assert_ok(vac_aio_destroy(ctx));
	assert_ok(pthread_join(t[0], &r));
	assert_int_equal((intptr_t)r, -ECANCELED);
	assert_int_equal(vac_aio_destroy(ctx), -EINVAL);
	t_close(pool);
}

static void *submit_and_end(void *arg)
{
	void **a = arg;

	MUST(submit(a[0], VAC_AIO_READ, (int)(intptr_t)a[1], a[2], P, 0, 8) == 1);
	return NULL;
}

/* A read that nobody answers: it holds its block by name, and is cancelled, or answered after all. */
static void test_cancel(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(4));
	struct vac_aio *ctx = setup(s, 8, "slow");
	char *mem = t_map(s, MIB(2), 0);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_offline_opts o = t_offline_opts(200, 0);
	struct vac_owner w;
	void *arg[3];
	pthread_t t;
	int p[2], block;

	assert_ok(pipe(p));
	if (by_threads(ctx)) {
		/* Threads would wait for it for ever. */
		assert_int_equal(one(ctx, VAC_AIO_READ, p[0], mem, P, 0), -EOPNOTSUPP);
		goto out;
	}
	assert_int_equal(submit(ctx, VAC_AIO_READ, p[0], mem, P, 0, 7), 1);
	block = t_page(s, mem).block;
	assert_int_equal(vac_block_offline(pool, block, &o, &res), -EBUSY);
	assert_int_equal(vac_report_count(res.report), 1);
	assert_ok(vac_report_owner(res.report, 0, 0, &w));
	{
		char name[VAC_OWNER_MAX];

		snprintf(name, sizeof(name), "aio:slow fd %d @0+4096", p[0]);
		assert_string_equal(w.owner, name);
	}
	assert_int_equal(w.tid, vac__port_tid());
	vac_report_free(res.report);
	assert_int_equal(info(ctx).under_way, 1);
	assert_int_equal(vac_aio_cancel(ctx, 6, 0), -ENOENT);
	assert_int_equal(vac_aio_cancel(ctx, 7, 0), 1);
	assert_int_equal(answer(ctx, 7), -ECANCELED);
	assert_ok(t_offline(pool, block, 10000, NULL));
	assert_ok(t_online(pool, block));
	/* The offline asks itself, where it was told to. */
	assert_int_equal(submit(ctx, VAC_AIO_READ, p[0], mem, P, 0, 7), 1);
	o = t_offline_opts(10000, VAC_OFFLINE_CANCEL_IO);
	block = t_page(s, mem).block;
	assert_ok(vac_block_offline(pool, block, &o, NULL));
	assert_ok(t_online(pool, block));
	assert_int_equal(answer(ctx, 7), -ECANCELED);
	/* It outlives the thread that has submitted it. */
	arg[0] = ctx;
	arg[1] = (void *)(intptr_t)p[0];
	arg[2] = mem;
	assert_ok(pthread_create(&t, NULL, submit_and_end, arg));
	assert_ok(pthread_join(t, NULL));
	assert_int_equal(write(p[1], "hello", 5), 5);
	assert_int_equal(answer(ctx, 8), 5);
	assert_memory_equal(mem, "hello", 5);
	/* And the end of the context ends it. */
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(submit(ctx, VAC_AIO_READ, p[0], mem + i * P, P, 0, i), 1);
out:
	assert_ok(vac_aio_destroy(ctx));
	assert_int_equal(t_stats(pool).pins, 0);
	close(p[0]);
	close(p[1]);
	t_close(pool);
}

/* ---- What becomes of a context's memory ----------------------------------------------------------- */

/* Buffers may be unmapped, protected, dropped while a request has them: it goes on, elsewhere. */
static void test_buffer_changes(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8));
	struct vac_aio *ctx = setup(s, 8, NULL);
	char *mem = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	int p[2];

	if (by_threads(ctx)) {
		assert_ok(vac_aio_destroy(ctx));
		t_close(pool);
		return;
	}
	assert_ok(pipe(p));
	memset(mem, 1, 4 * P);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(submit(ctx, VAC_AIO_READ, p[0], mem + i * P, P, 0, i), 1);
	assert_ok(vac_unmap(s, mem, P));
	assert_ok(vac_protect(s, mem + P, P, VAC_PROT_READ));
	assert_ok(vac_advise(s, mem + 2 * P, P, VAC_ADV_DONTNEED));
	for (unsigned i = 0; i < 3; i++) {
		struct vac_aio_event e;

		assert_int_equal(write(p[1], "x", 1), 1);
		assert_int_equal(vac_aio_getevents(ctx, 1, 1, &e, -1), 1);
		assert_int_equal(e.res, 1);
	}
	assert_int_equal(mem[P], 'x'); /* still its page */
	assert_int_equal(mem[2 * P], 0);
	assert_ok(vac_aio_destroy(ctx));
	close(p[0]);
	close(p[1]);
	t_close(pool);
}

static void test_ring_stays(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 3);
	struct vac_space *s = t_space(pool, MIB(8)), *shot;
	struct vac_aio *a = setup(s, 1000, NULL), *b = setup(s, 1000, NULL);
	char *ring = info(a).ring, *old;
	size_t bytes = info(a).ring_bytes;
	struct vac_aio_event e[2];

	assert_int_equal(info(b).ring == ring + bytes, 1);
	assert_int_equal(vac_unmap(s, ring, bytes), -EBUSY);
	assert_int_equal(vac_unmap(s, ring + bytes - P, P), -EBUSY);
	assert_int_equal(vac_unmap(s, vac_space_base(s), vac_space_bytes(s)), -EBUSY);
	assert_int_equal(vac_protect(s, ring, P, VAC_PROT_READ), -EBUSY);
	assert_int_equal(vac_advise(s, ring, P, VAC_ADV_DONTNEED), -EBUSY);
	assert_ok(vac_advise(s, ring, bytes, VAC_ADV_HUGE));
	assert_ok(vac_lock(s, ring, bytes));
	assert_ok(vac_unlock(s, ring, bytes));
	assert_int_equal(submit(a, VAC_AIO_NOP, 0, NULL, 0, 1, 1), 1);
	/* In a snapshot it is memory, that shows what was; the context goes on where it is. */
	assert_ok(vac_space_snapshot(s, NULL, &shot));
	assert_int_equal(submit(a, VAC_AIO_NOP, 0, NULL, 0, 2, 2), 1);
	old = vac_space_translate(s, ring, shot);
	assert_int_equal(((struct vac_aio_ring *)(void *)old)->tail, 1);
	assert_int_equal(vac_aio_getevents(a, 2, 2, e, -1), 2);
	assert_int_equal(e[0].user_data, 1);
	assert_int_equal(e[1].user_data, 2);
	assert_ok(vac_protect(shot, old, P, VAC_PROT_READ));
	t_check(pool);
	assert_ok(vac_unmap(shot, old, bytes));
	assert_ok(vac_space_destroy(shot));
	assert_ok(vac_aio_destroy(a));
	assert_int_equal(vac_unmap(s, ring + bytes, P), -EBUSY);
	assert_int_equal(submit(b, VAC_AIO_NOP, 0, NULL, 0, 3, 3), 1);
	assert_int_equal(answer(b, 3), 3);
	assert_ok(vac_aio_destroy(b));
	assert_ok(vac_unmap(s, ring, 2 * bytes));
	t_close(pool);
}

/* A child has no contexts; with a copy of the memory, what the ring was. */
static void test_fork(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	struct vac_aio *ctx;
	struct vac_aio_ring *ring;
	char *mem;
	int fd = direct_file(), status;
	pid_t pid;

	o.flags |= VAC_POOL_FORK_COPY;
	pool = t_open(&o, 2);
	s = t_space(pool, MIB(4));
	ctx = setup(s, 64, NULL);
	ring = info(ctx).ring;
	mem = t_map(s, MIB(2), 0);
	assert_int_equal(submit(ctx, VAC_AIO_NOP, 0, NULL, 0, 9, 1), 1);
	assert_int_equal(submit(ctx, VAC_AIO_WRITE, fd, mem, MIB(1), 0, 2), 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct vac_aio_event *e =
			(struct vac_aio_event *)(void *)((char *)ring + ring->first);
		bool ok = ring->tail >= 1 && e[0].user_data == 1 && e[0].res == 9 &&
			  submit(ctx, VAC_AIO_NOP, 0, NULL, 0, 0, 0) == -EPERM &&
			  vac_aio_destroy(ctx) == -EPERM;

		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(answer(ctx, 1), 9);
	assert_int_equal(answer(ctx, 2), MIB(1));
	assert_ok(vac_aio_destroy(ctx));
	t_close(pool);
	close(fd);
}

static int with_uring(void **state UNUSED)
{
	backend = 0;
	return 0;
}

static int with_threads(void **state UNUSED)
{
	backend = VAC_AIO_THREADS;
	return 0;
}

#define BOTH(f)                                                                   \
	cmocka_unit_test_setup(f, with_uring),                                    \
	{                                                                         \
		.name = #f "_threads", .test_func = f, .setup_func = with_threads \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_requests),   BOTH(test_other_memory), BOTH(test_files),
		BOTH(test_buffers),    BOTH(test_refused),      BOTH(test_full),
		BOTH(test_waits),      BOTH(test_cancel),       BOTH(test_buffer_changes),
		BOTH(test_ring_stays), BOTH(test_fork),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 * runtests: guards=both
 */
/*
 * Test cases of Linux, by their names, against this interface: mm/gup_longterm.c and mm/hugetlb_dio.c of the kernel's
 * self-tests, move_pages and migrate_pages of the LTP. mm/cow.c is in tests/cow_rows.h.
 *
 * A process of theirs is a thread here, or a space: what a child shares with its parent, a snapshot does. A node is a
 * block, and moving to another node is the block's going offline. Where a row means something else:
 *
 *	gup_longterm    "file" is what a block's memory is. A file that is written back, and hugetlb, are refused as blocks
 *	                (the kernel: when the pin is asked for). "Private" is memory shared with a snapshot. "Fast" is what
 *	                is all there, "slow" what has to be filled in.
 *	hugetlb_dio     as it is, with the memory unmapped before the transfer has ended, too
 *	move_pages03    a page of several mappers moves, and is theirs still. Plain "move", which leaves those
 *	                (EACCES), has no meaning: a block's pages all leave.
 *	move_pages11    "unprivileged" has no meaning within a process; who is not the owner is a child of fork(), EPERM.
 *	                Another user at the control socket: tests/test_operate.sh.
 *	move_pages05, 07, 09, 10   bad arrays, processes, nodes: tests/test_badinput.c
 *	migrate_pages03 KSM's merged pages are snapshots', all of one page
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES
#define BLOCK MIB(4)

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif

/* What a device finds at an address: read, or written, through the block's file, by the frame's number. */
static void device(struct vac_space *s, const void *addr, void *buf, size_t bytes, bool write)
{
	struct vac_page_info p = t_page(s, addr);
	struct vac_block_info b = t_block(vac_space_pool(s), p.block);
	off_t off = (off_t)(p.pfn * P % b.bytes + (uintptr_t)addr % P);

	MUST((write ? pwrite(b.fd, buf, bytes, off) : pread(b.fd, buf, bytes, off)) ==
	     (ssize_t)bytes);
}

/* ---- gup_longterm --------------------------------------------------------------------------------- */

enum backing { MEMFD, TMPFS, DISK, HUGETLB, BACKINGS };

static int backing_file(enum backing k)
{
	char path[] = "/var/tmp/vacate-gup-XXXXXX";
	int fd;

	switch (k) {
	case MEMFD: fd = memfd_create("gup", MFD_CLOEXEC | MFD_ALLOW_SEALING); break;
	case TMPFS: fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); break;
	case DISK:
		fd = mkstemp(path);
		unlink(path);
		break;
	default: fd = memfd_create("gup", MFD_CLOEXEC | MFD_HUGETLB);
	}
	if (fd >= 0 && ftruncate(fd, BLOCK)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* A block on such a file, in one zone. False: the host has no such file. */
static bool add_block(struct vac_pool *pool, enum backing k, enum vac_zone zone, int want)
{
	struct vac_block_opts o = VAC_INIT(struct vac_block_opts);
	int fd = backing_file(k), id;

	if (fd < 0)
		return false;
	o.id = -1;
	o.flags = VAC_BLOCK_FILE;
	o.fd = fd;
	id = vac_block_add(pool, &o);
	close(fd);
	if (want) {
		assert_int_equal(id, want);
		return true;
	}
	assert_true(id >= 0);
	assert_ok(vac_block_online(pool, id, zone));
	return true;
}

struct gup {
	enum backing backing;
	enum vac_zone
		zone; /* of the memory; where it is movable there is a block of normal memory beside */
	size_t bytes;
	bool private;
	struct vac_pool *pool;
	struct vac_space *space, *shot;
	char *m;
};

static bool gup_begin(struct gup *g, bool fast)
{
	struct vac_pool_opts o = t_opts(BLOCK);

	o.flags |= VAC_POOL_PINS_ONLY; /* as the device is */
	g->pool = t_open(&o, 0);
	for (int i = 0; i < 2; i++)
		if (!add_block(g->pool, g->backing, g->zone, 0)) {
			t_close(g->pool);
			return false;
		}
	if (g->zone == VAC_ZONE_MOVABLE)
		assert_ok(vac_block_online(g->pool, vac_block_add(g->pool, NULL), VAC_ZONE_NORMAL));
	g->space = t_space(g->pool, MIB(8));
	g->m = t_map(g->space, g->bytes, g->bytes < HUGE ? VAC_MAP_NOHUGE : 0);
	for (size_t at = 0; at < g->bytes; at += P)
		if (fast || g->private)
			pat_fill(g->m + at, P, at);
	g->shot = NULL;
	if (g->private)
		assert_ok(vac_space_snapshot(g->space, NULL, &g->shot));
	return true;
}

/* Nothing of what was done shows in the snapshot; nothing is held any more. */
static void gup_end(struct gup *g)
{
	assert_int_equal(t_stats(g->pool).pins, 0);
	for (size_t at = 0; g->shot && at < g->bytes; at += P)
		assert_int_equal(pat_bad(vac_space_translate(g->space, g->m + at, g->shot), P, at),
				 -1);
	t_check(g->pool);
	t_close(g->pool);
}

static void check_zone(const struct gup *g)
{
	for (size_t at = 0; at < g->bytes; at += P) {
		int id = t_page(g->space, g->m + at).block;

		assert_int_equal(t_block(g->pool, id).zone, VAC_ZONE_NORMAL);
		assert_int_equal(t_block(g->pool, id).file, g->zone == VAC_ZONE_NORMAL);
	}
}

/* {R/W, R/O} longterm GUP {slow, fast} in {shared, private} mapping with {memfd, tmpfs}. */
static void gup_pin(struct gup *g, bool write, bool fast)
{
	uint64_t pin, v, old;

	if (!gup_begin(g, fast))
		return;
	if (!write) {
		assert_ok(vac_protect(g->space, g->m, g->bytes, VAC_PROT_READ));
		assert_int_equal(vac_pin(g->space, g->m, g->bytes, VAC_PIN_LONGTERM | VAC_PIN_WRITE,
					 "gup", &pin),
				 -EFAULT);
	}
	assert_ok(vac_pin(g->space, g->m, g->bytes,
			  VAC_PIN_LONGTERM | VAC_PIN_STRICT | (write ? VAC_PIN_WRITE : 0), "gup",
			  &pin));
	check_zone(g);
	if (!write)
		assert_ok(vac_protect(g->space, g->m, g->bytes, RW));
	for (size_t at = 0; at < g->bytes; at += P) {
		uint64_t *w = (uint64_t *)(void *)(g->m + at + 8);

		/* What was there is there; what is written now the holder of the pin sees. */
		if (fast || g->private)
			assert_int_equal(pat_bad(g->m + at, P, at), -1);
		else
			assert_int_equal(zero_bad(g->m + at, P), -1);
		old = *w;
		*(volatile uint64_t *)w = ~at;
		device(g->space, w, &v, 8, false);
		assert_int_equal(v, ~at);
		/* And what he writes shows. */
		if (write) {
			v = at * 3 + 1;
			device(g->space, w, &v, 8, true);
			assert_int_equal(*(volatile uint64_t *)w, at * 3 + 1);
		}
		*w = old;
	}
	assert_ok(vac_unpin(g->pool, pin));
	gup_end(g);
}

/* io_uring registered buffers: a read into each page of one, from a file. */
static void gup_registered(struct gup *g)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_req r = {.op = VAC_AIO_READ, .flags = VAC_AIO_BUFFER};
	struct vac_aio_event e;
	struct vac_aio *ctx;
	struct iovec v;
	char path[64];
	int fd;

	if (!gup_begin(g, true))
		return;
	t_file(path, sizeof(path), 4, true);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	unlink(path);
	o.events = 4;
	assert_ok(vac_aio_setup(g->space, &o, &ctx));
	v = (struct iovec){g->m, g->bytes};
	assert_ok(vac_aio_buffers(ctx, &v, 1));
	assert_int_equal(t_stats(g->pool).pins, 1);
	for (size_t at = 0; at < g->bytes; at += P) {
		char seen[P];

		r.fd = fd;
		r.off = at / P % 4 * P;
		r.buf = g->m + at;
		r.len = P;
		assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
		assert_int_equal(vac_aio_getevents(ctx, 1, 1, &e, -1), 1);
		assert_int_equal(e.res, P);
		assert_int_equal(pat_bad(g->m + at, P, at / P % 4), -1);
		device(g->space, g->m + at, seen, P, false);
		assert_memory_equal(seen, g->m + at, P);
	}
	assert_ok(vac_aio_buffers(ctx, NULL, 0));
	assert_ok(vac_aio_destroy(ctx));
	close(fd);
	gup_end(g);
}

static void gup_rows(enum backing backing)
{
	static const size_t sizes[] = {6 * P, HUGE};
	int fd = backing_file(backing);

	if (fd < 0) {
		printf("SKIP: forced: no file of this kind can be made here\n");
		skip();
	}
	close(fd);
	for (unsigned i = 0; i < COUNT(sizes) * 4; i++) {
		struct gup g = {.backing = backing,
				.bytes = sizes[i / 4],
				.zone = i & 1 ? VAC_ZONE_MOVABLE : VAC_ZONE_NORMAL,
				.private = i & 2};

		for (unsigned k = 0; k < 4; k++)
			gup_pin(&g, k & 1, k & 2);
		gup_registered(&g);
	}
}

static void test_gup_longterm_memfd(void **state UNUSED)
{
	gup_rows(MEMFD);
}

static void test_gup_longterm_tmpfs(void **state UNUSED)
{
	gup_rows(TMPFS);
}

/* "with local tmpfile" and "with memfd hugetlb": the kernel's EFAULT for the first is our EINVAL, sooner. */
static void test_gup_longterm_others(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(BLOCK, 1);

	assert_true(add_block(pool, DISK, VAC_ZONE_NORMAL, -EINVAL));
	if (!add_block(pool, HUGETLB, VAC_ZONE_NORMAL, -EINVAL))
		printf("no hugetlb here\n");
	t_close(pool);
}

/* ---- hugetlb_dio ---------------------------------------------------------------------------------- */

static void dio_row(size_t start, size_t end, unsigned backend, bool unmapped_before)
{
	struct vac_pool *pool = t_pool(BLOCK, 3);
	struct vac_space *s = t_space(pool, MIB(8)), *rings = t_space(pool, MIB(4));
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_req r = {.op = VAC_AIO_WRITE, .len = end - start};
	char path[64], *m, *want = malloc(4 * P), *got = calloc(1, 4 * P);
	struct vac_aio_event e;
	struct vac_aio *ctx;
	uint64_t before;
	int fd, plain;

	t_file(path, sizeof(path), 4, false);
	plain = open(path, O_RDWR | O_CLOEXEC);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	o.events = 4;
	o.flags = backend;
	assert_ok(vac_aio_setup(rings, &o, &ctx)); /* its ring is not what is counted */
	before = t_stats(pool).frames_used;
	for (int attempt = 0; attempt < 2; attempt++) {
		m = t_map(s, HUGE, VAC_MAP_POPULATE);
		pat_fill(m, HUGE, start + end);
		memcpy(want, m, 4 * P);
		assert_int_equal(t_stats(pool).frames_used, before + 512);
		r.fd = attempt || fd < 0 ? plain : fd;
		r.buf = m + start;
		assert_int_equal(vac_aio_submit(ctx, &r, 1), 1);
		if (unmapped_before)
			assert_ok(vac_unmap(s, m, HUGE));
		assert_int_equal(vac_aio_getevents(ctx, 1, 1, &e, -1), 1);
		if (!unmapped_before)
			assert_ok(vac_unmap(s, m, HUGE));
		/* The event comes after the pins have gone: the folio is free. */
		assert_int_equal(t_stats(pool).pins, 0);
		assert_int_equal(t_stats(pool).frames_used, before);
		/* Storage may want more alignment than half a page: then it is refused, and nothing leaks. */
		if (e.res != -EINVAL)
			break;
		assert_true(!attempt && (start | end) % P);
	}
	assert_int_equal(e.res, end - start);
	assert_int_equal(pread(plain, got, end - start, 0), end - start);
	assert_memory_equal(got, want + start, end - start);
	assert_ok(vac_aio_destroy(ctx));
	if (fd >= 0)
		close(fd);
	close(plain);
	free(want);
	free(got);
	t_close(pool);
}

static void test_hugetlb_dio(void **state UNUSED)
{
	static const size_t row[][2] = {
		{0, 3 * P}, {0, 3 * P - P / 2}, {P / 2, 3 * P}, {P / 2, 3 * P + P / 2}};

	for (unsigned i = 0; i < COUNT(row) * 4; i++)
		dio_row(row[i / 4][0], row[i / 4][1], i & 1 ? VAC_AIO_THREADS : 0, i & 2);
}

/* ---- LTP: move_pages ------------------------------------------------------------------------------ */

/* 2 pages of several processes, one dirtied by one of them: "move all" moves them, and each is where it was asked to be,
 * for everybody. */
static void test_move_pages03(void **state UNUSED)
{
	static const unsigned flags[] = {VAC_MAP_NOHUGE, 0};

	for (unsigned i = 0; i < COUNT(flags); i++) {
		struct vac_pool *pool = t_pool(BLOCK, 2);
		struct vac_space *s = t_space(pool, MIB(8)), *shot[3];
		char *m = t_map(s, HUGE, flags[i]);

		memset(m, 1, 2 * P);
		for (unsigned k = 0; k < 3; k++)
			assert_ok(vac_space_snapshot(s, NULL, &shot[k]));
		pat_fill(vac_space_translate(s, m + P, shot[1]), P, 5); /* one has its own now */
		for (int id = 0; id < 4; id++) {
			assert_ok(t_offline(pool, id & 1, 60000, NULL));
			for (unsigned page = 0; page < 2; page++) {
				struct vac_page_info a = t_page(s, m + page * P);

				assert_int_equal(a.block, !(id & 1));
				for (unsigned k = 0; k < 3; k++) {
					char *q = vac_space_translate(s, m + page * P, shot[k]);
					struct vac_page_info b = t_page(shot[k], q);

					assert_int_equal(b.block, !(id & 1));
					if (page == 1 && k == 1) {
						assert_int_not_equal(b.pfn, a.pfn);
						assert_int_equal(pat_bad(q, P, 5), -1);
					} else {
						assert_int_equal(b.pfn, a.pfn);
						assert_memory_equal(q, m + page * P, P);
					}
				}
			}
			assert_int_equal(m[0] == 1 && !memcmp(m, m + 1, 2 * P - 1), 1);
			assert_ok(t_online(pool, id & 1));
		}
		t_close(pool);
	}
}

/* An untouched page has no status to report (ENOENT), one that is not mapped is EFAULT; the call succeeds,
 * and neither is there afterwards. */
static void test_move_pages04(void **state UNUSED)
{
	struct vac_page_info info = VAC_INIT(struct vac_page_info);
	struct vac_pool_opts o = t_opts(BLOCK);
	struct vac_space *s;
	struct vac_pool *pool;
	char *m;

	o.fault_bytes = P; /* one page a touch, as there */
	pool = t_open(&o, 2);
	s = t_space(pool, MIB(8));
	m = t_map(s, 5 * P, VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < 5; i += i == 1 ? 2 : 1)
		pat_fill(m + i * P, P, i);
	assert_ok(vac_unmap(s, m + 4 * P, P));
	for (int id = 0; id < 4; id++) {
		assert_ok(t_offline(pool, id & 1, 60000, NULL));
		for (unsigned i = 0; i < 4; i++) {
			info = t_page(s, m + i * P);
			assert_int_equal(info.present, i != 2);
			assert_int_equal(info.block, i == 2 ? -1 : !(id & 1));
			if (i != 2)
				assert_int_equal(pat_bad(m + i * P, P, i), -1);
		}
		assert_int_equal(vac_page_info(s, m + 4 * P, &info), -EFAULT);
		assert_ok(t_online(pool, id & 1));
	}
	assert_int_equal(t_stats(pool).frames_used, 3);
	assert_int_equal(zero_bad(m + 2 * P, P), -1);
	t_close(pool);
}

/* Who may not: EPERM, and nothing has moved. */
static void test_move_pages11(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(BLOCK, 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *m = t_map(s, 2 * P, VAC_MAP_POPULATE);
	struct vac_page_info before = t_page(s, m);
	int status = -1;
	pid_t pid;

	pat_fill(m, 2 * P, 1);
	pid = fork();
	if (pid == 0)
		_exit(t_offline(pool, before.block, 1000, NULL) == -EPERM &&
				      vac_block_cancel(pool, before.block) == -EPERM
			      ? 0
			      : 1);
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	assert_int_equal(t_page(s, m).pfn, before.pfn);
	assert_int_equal(t_block(pool, before.block).state, VAC_BLOCK_ONLINE);
	assert_int_equal(pat_bad(m, 2 * P, 1), -1);
	t_close(pool);
}

static void move_to_and_fro(struct member *m)
{
	struct vac_pool *pool = m->arg;

	while (!m->team->stop) {
		t_round_of_offlines(pool, 3); /* no call fails */
		m->team->rounds++;
	}
}

/* 2 huge pages are moved to and fro while they are mapped, filled and unmapped 1,000 times at one address. */
static void test_move_pages12(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(BLOCK, 3);
	struct vac_space *s = t_space(pool, MIB(8));
	char *at = t_map(s, 2 * HUGE, 0);
	struct team t;
	void *m;

	assert_ok(vac_unmap(s, at, 2 * HUGE));
	team_start(&t, 1, move_to_and_fro, pool);
	for (unsigned i = 0, n = scaled(1000); i < n || t.rounds < 3; i++) {
		assert_ok(vac_map(s, at, 2 * HUGE, RW, VAC_MAP_FIXED, &m));
		/* Every page, if not every byte, a thousand times. */
		for (size_t off = 0; off < 2 * HUGE; off += P)
			*(uint64_t *)(void *)(at + off + i % 512 * 8) = off ^ i;
		for (size_t off = 0; off < 2 * HUGE; off += P)
			if (*(uint64_t *)(void *)(at + off + i % 512 * 8) != (off ^ i) ||
			    (i % 512 && *(uint64_t *)(void *)(at + off)))
				fail_msg("round %u: wrong bytes at %zu", i, off);
		assert_ok(vac_unmap(s, at, 2 * HUGE));
	}
	team_stop(&t);
	assert_int_equal(t_stats(pool).frames_used, 0);
	t_close(pool);
}

/* ---- LTP: migrate_pages --------------------------------------------------------------------------- */

/* 20 pages that are one: moved 600 times, and all of them follow; then each is its own. */
static void test_migrate_pages03(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(VAC_BLOCK_BYTES_MIN, 4);
	struct vac_space *s[20];
	char *m;

	s[0] = t_space(pool, MIB(2));
	m = t_map(s[0], P, 0);
	pat_fill(m, P, 9);
	for (unsigned k = 1; k < 20; k++)
		assert_ok(vac_space_snapshot(s[k - 1], NULL, &s[k]));
	for (unsigned i = 0, n = scaled(600); i < n; i++) {
		struct vac_page_info was = t_page(s[0], m), is;

		assert_ok(t_offline(pool, was.block, 60000, NULL));
		is = t_page(s[0], m);
		assert_int_not_equal(is.block, was.block);
		assert_int_equal(is.map, 20);
		for (unsigned k = 1; k < 20; k++)
			assert_int_equal(t_page(s[k], vac_space_translate(s[0], m, s[k])).pfn,
					 is.pfn);
		assert_int_equal(pat_bad(vac_space_translate(s[0], m, s[i % 20]), P, 9), -1);
		assert_ok(t_online(pool, was.block));
	}
	assert_int_equal(t_stats(pool).frames_used, 1);
	for (unsigned k = 0; k < 20; k++)
		pat_fill(vac_space_translate(s[0], m, s[k]), P, k);
	for (unsigned k = 0; k < 20; k++)
		assert_int_equal(pat_bad(vac_space_translate(s[0], m, s[k]), P, k), -1);
	assert_int_equal(t_stats(pool).frames_used, 20);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gup_longterm_memfd),
		cmocka_unit_test(test_gup_longterm_tmpfs),
		cmocka_unit_test(test_gup_longterm_others),
		cmocka_unit_test(test_hugetlb_dio),
		cmocka_unit_test(test_move_pages03),
		cmocka_unit_test(test_move_pages04),
		cmocka_unit_test(test_move_pages11),
		cmocka_unit_test(test_move_pages12),
		cmocka_unit_test(test_migrate_pages03),
	};

	struct vac_pool *pool;

	catch_faults();
	t_filter(argc, argv);
	/* What the first pool leaves open for the later ones is nobody's leak. */
	MUST_OK(vac_pool_open(NULL, &pool));
	MUST_OK(vac_pool_close(pool));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

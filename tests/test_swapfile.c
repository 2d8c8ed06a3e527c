/* SPDX-License-Identifier: MIT *
 * runtests: guards=both
 */
/*
 * Swap files that go wrong in the kernel's own ways: cut short, on a file system that is full, on a device that
 * has gone and comes back. What is in memory stays, what is lost is said, and nothing else is touched.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

static void on(struct vac_pool *pool, int fd, size_t bytes)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);

	o.fd = fd;
	o.bytes = bytes;
	MUST_OK(vac_swap_on(pool, &o));
}

static size_t with_state(struct vac_space *s, const char *mem, size_t bytes, int present)
{
	size_t n = 0;

	for (size_t at = 0; at < bytes; at += P)
		n += t_page(s, mem + at).present == present;
	return n;
}

/* A page's number in its first and last word. */
static void number(char *page, uint64_t n)
{
	((volatile uint64_t *)(void *)page)[0] = n;
	((volatile uint64_t *)(void *)page)[511] = ~n;
}

static bool numbered(const char *page, uint64_t n)
{
	const volatile uint64_t *w = (const void *)page;

	return w[0] == n && w[511] == ~n;
}

/* How many of the pages can be read; each of those is what it was. The slot of one that cannot is lost. */
static size_t survivors(struct vac_space *s, char *mem, size_t pages, uint64_t cut)
{
	size_t n = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t e = vac__entry_get(
			s, (uint32_t)(((uintptr_t)mem - (uintptr_t)s->base) / P + i));
		int r = vac_prefault(s, mem + i * P, P, VAC_PROT_READ);

		if (r == 0) {
			MUST(numbered(mem + i * P, i));
			n++;
		} else {
			/* What cannot be written makes no room for what could be read. */
			MUST(r == -ENOMEM ||
			     (r == -EIO && vac__e_swap(e) && vac__e_pfn(e) * P >= cut));
		}
	}
	return n;
}

static void test_cut(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(32));
	size_t bytes = MIB(32), pages = bytes / P, there, out;
	char *mem = t_map(s, bytes, VAC_MAP_NOHUGE);
	int fd = t_swap_file(MIB(64));

	on(pool, fd, MIB(64));
	for (size_t i = 0; i < pages; i++)
		number(mem + i * P, i);
	out = with_state(s, mem, bytes, 3);
	assert_true(out > MIB(12) / P);
	MUST(ftruncate(fd, MIB(4)) == 0);
	/* What is read pushes out what is clean or cannot be written: the rest stays where it is. */
	there = survivors(s, mem, pages, MIB(4));
	assert_in_range(there, pages - out, pages - 1);
	assert_true(t_stats(pool).swap_errors > 0);
	/* Not even when it is as long as before are zeroes taken for what was lost. */
	for (size_t i = 0; i < pages; i += 7)
		if (t_page(s, mem + i * P).present == 1)
			number(mem + i * P, i);
	assert_int_equal(survivors(s, mem, pages, MIB(4)) < pages, 1);
	t_check(pool);
	close(fd);
	t_close(pool);
}

#define NO_MOUNT 9

/* On a tmpfs of 8 MiB: some writes are done in part, and then none. */
static void case_full(void)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_pool *pool;
	struct vac_space *s;
	size_t n = 0;
	void *p;
	char *mem;
	int fd, r = 0;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/mnt", "tmpfs", 0, "size=8192k,huge=never"))
		_exit(NO_MOUNT);
	fd = open("/mnt/swap", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(fd >= 0 && ftruncate(fd, MIB(64)) == 0);
	so.bytes = MIB(48);
	MUST_OK(vac_pool_open(&o, &pool));
	for (unsigned i = 0; i < 4; i++)
		MUST_OK(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	MUST_OK(vac_space_create(pool, &so, &s));
	MUST_OK(vac_map(s, NULL, MIB(48), RW, VAC_MAP_NOHUGE, &p));
	mem = p;
	on(pool, fd, MIB(64));
	for (; n < MIB(48) / P; n++) {
		r = vac_prefault(s, mem + n * P, P, RW);
		if (r < 0)
			break;
		number(mem + n * P, n);
	}
	/* The memory, and what the file system has room for. */
	MUST(r == -ENOMEM && n > MIB(20) / P && n <= MIB(24) / P);
	MUST_OK(vac_pool_stats(pool, &st));
	MUST(st.swap_errors > 0 && st.swap_bad > 0 && st.swap_out > MIB(4) / P);
	/* Both are full, so nothing can come in; but then there is room again. */
	n -= MIB(4) / P;
	MUST_OK(vac_unmap(s, mem + n * P, MIB(48) - n * P));
	for (unsigned round = 0; round < 2; round++)
		for (size_t i = 0; i < n; i++)
			MUST(numbered(mem + i * P, i));
	MUST_OK(vac_pool_check(pool, NULL, 0));
	/* With less data it goes on, and the places that failed are used again after off and on. */
	MUST_OK(vac_unmap(s, mem + MIB(12), n * P - MIB(12)));
	MUST_OK(vac_swap_off(pool, 0));
	MUST(ftruncate(fd, 0) == 0 && ftruncate(fd, MIB(64)) == 0);
	on(pool, fd, MIB(64));
	MUST(vac_pool_stats(pool, &st) == 0 && st.swap_bad == 0);
	for (size_t i = 0; i < MIB(12) / P; i++)
		MUST(numbered(mem + i * P, i));
	MUST_OK(vac_pool_close(pool));
}

static void test_full(void **state UNUSED)
{
	char err[512];
	int status;

	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer's memory is on the same bill\n");
		skip();
	}
	status = case_run("full", err, sizeof(err));
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_MOUNT) {
		print_message("SKIP: forced: mounting a small file system needs root\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* ---- A device that goes, and comes back -------------------------------------------------------------- */

static _Atomic bool gone;
static struct vac__mem_ops ops;

static void io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
	       unsigned n)
{
	if (!atomic_load(&gone)) {
		vac__port_mem_ops.swap_io(ctx, f, write, run, n);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		if (!write)
			memset(run[i].mem, 0xee, run[i].bytes);
		run[i].err = -ENXIO;
	}
}

static void test_gone(void **state UNUSED)
{
	size_t bytes = MIB(32), pages = bytes / P, away, there = 0;
	struct vac_pool *pool;
	struct vac_space *s;
	char *mem, *more;
	int fd;

	ops = vac__port_mem_ops;
	ops.swap_io = io;
	vac__mem_ops_override = &ops;
	pool = t_pool(MIB(4), 4);
	vac__mem_ops_override = NULL;
	fd = t_swap_file(MIB(64));
	s = t_space(pool, MIB(64));
	mem = t_map(s, bytes, VAC_MAP_NOHUGE);
	on(pool, fd, MIB(64));
	for (size_t i = 0; i < pages; i++)
		number(mem + i * P, i);
	away = with_state(s, mem, bytes, 3);
	atomic_store(&gone, true);
	for (size_t i = 0; i < pages; i++) {
		int r = vac_prefault(s, mem + i * P, P, VAC_PROT_READ);

		MUST(r == 0 || r == -EIO || r == -ENOMEM);
		if (r == 0)
			MUST(numbered(mem + i * P, i));
		there += r == 0;
	}
	assert_in_range(there, 1, pages - 1);
	assert_true(there >= pages - away);
	/* Neither ended nor lost: it cannot be brought in. */
	assert_int_equal(vac_swap_off(pool, 1000) < 0, 1);
	more = t_map(s, MIB(8), VAC_MAP_NOHUGE);
	(void)vac_advise(s, more, MIB(8), VAC_ADV_WILLNEED);
	assert_ok(vac_unmap(s, more, MIB(8)));
	t_check(pool);
	atomic_store(&gone, false);
	for (size_t i = 0; i < pages; i++) {
		assert_ok(vac_prefault(s, mem + i * P, P, VAC_PROT_READ));
		assert_true(numbered(mem + i * P, i));
	}
	t_check(pool);
	close(fd);
	t_close(pool);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {{"full", case_full}};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_gone),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

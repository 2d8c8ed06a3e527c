/* SPDX-License-Identifier: MIT *
 * runtests: guards=both
 */
/*
 * Swap on real memory and a real file: a pool that is smaller than its data, byte for byte; against pins,
 * changes of mappings, offline, fork; and a file that fails.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

static int swap_file(size_t bytes)
{
	char path[] = "/var/tmp/vacate-test-swap-XXXXXX";
	int fd = mkstemp(path);

	MUST(fd >= 0);
	unlink(path);
	MUST(ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

static int swap_on(struct vac_pool *pool, int fd, size_t bytes)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);

	o.fd = fd;
	o.bytes = bytes;
	return vac_swap_on(pool, &o);
}

/* A pool with a swap file: half of `data` in memory. */
static struct vac_pool *pool_for(size_t data)
{
	struct vac_pool *pool = t_pool(MIB(4), (unsigned)(data / 2 / MIB(4)));
	int fd = swap_file(2 * data);

	assert_ok(swap_on(pool, fd, 2 * data));
	close(fd);
	return pool;
}

static void test_half(void **state UNUSED)
{
	size_t bytes = MIB(32);
	struct vac_pool *pool = pool_for(bytes);
	struct vac_space *s = t_space(pool, bytes);
	char *mem = t_map(s, bytes, 0);
	struct vac_pool_stats st;

	pat_fill(mem, bytes, 1);
	assert_int_equal(pat_bad(mem, bytes, 1), -1);
	st = t_stats(pool);
	assert_true(st.swap_out > MIB(16) / P);
	assert_true(st.swap_in > 0);
	assert_int_equal(st.swap_errors, 0);
	assert_true(st.host_vmas < 20000);
	pat_fill(mem, bytes, 2);
	assert_int_equal(pat_bad(mem, bytes, 2), -1);
	t_check(pool);
	assert_int_equal(vac_swap_off(pool, 0), -ENOMEM);
	assert_int_equal(pat_bad(mem, bytes, 2), -1);
	assert_ok(vac_unmap(s, mem + bytes / 4, bytes - bytes / 4));
	assert_ok(vac_swap_off(pool, 0));
	assert_int_equal(t_stats(pool).swap_used, 0);
	assert_int_equal(pat_bad(mem, bytes / 4, 2), -1);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_half),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Blocks whose memory is a file of the caller's (VAC_BLOCK_FILE): which are taken, that none is taken
 * twice, that their memory is zero, moves like any other and goes back, and what a seal means.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define BLOCK MIB(4)
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif

static struct vac_pool *pool;
static struct vac_space *space;
static char *mem;

static int setup(void **state UNUSED)
{
	pool = t_pool(BLOCK, 2);
	space = t_space(pool, MIB(32));
	mem = t_map(space, MIB(3), VAC_MAP_POPULATE);
	pat_fill(mem, MIB(3), 1);
	return 0;
}

static int teardown(void **state UNUSED)
{
	assert_int_equal(pat_bad(mem, MIB(3), 1), -1);
	t_close(pool);
	return 0;
}

static int memfd(unsigned flags, size_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC | flags);

	assert_true(fd >= 0);
	assert_ok(ftruncate(fd, (off_t)bytes));
	return fd;
}

static int shm_file(size_t bytes)
{
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		assert_ok(ftruncate(fd, (off_t)bytes));
	return fd;
}

static int add(int fd)
{
	struct vac_block_opts o = VAC_INIT(struct vac_block_opts);

	o.id = -1;
	o.flags = VAC_BLOCK_FILE;
	o.fd = fd;
	return vac_block_add(pool, &o);
}

static uint64_t allocated(int fd)
{
	struct stat st;

	assert_ok(fstat(fd, &st));
	return (uint64_t)st.st_blocks * 512;
}

static void test_refused(void **state UNUSED)
{
	struct vac_block_opts o = VAC_INIT(struct vac_block_opts);
	int fd, ro, p[2], seals;
	char path[64];

	o.id = -1;
	o.flags = 2;
	assert_int_equal(vac_block_add(pool, &o), -EINVAL);
	assert_int_equal(add(-1), -EBADF);
	assert_int_equal(add(1 << 20), -EBADF);
	assert_ok(pipe2(p, O_CLOEXEC));
	assert_int_equal(add(p[0]), -EINVAL);
	close(p[0]);
	close(p[1]);
	fd = open("/", O_RDONLY | O_CLOEXEC);
	assert_int_equal(add(fd), -EINVAL);
	close(fd);
	fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	assert_int_equal(add(fd), -EINVAL);
	close(fd);
	fd = memfd(0, BLOCK - 1); /* too short by a byte */
	assert_int_equal(add(fd), -EINVAL);
	assert_ok(ftruncate(fd, BLOCK));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(add(ro), -EINVAL);
	close(ro);
	ro = open(path, O_PATH | O_CLOEXEC);
	assert_int_equal(add(ro), -EINVAL);
	close(ro);
	close(fd);
	seals = memfd(MFD_ALLOW_SEALING, BLOCK);
	assert_ok(fcntl(seals, F_ADD_SEALS, F_SEAL_WRITE));
	assert_int_equal(add(seals), -EINVAL);
	close(seals);
	fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	if (fd >= 0) {
		if (!ftruncate(fd, BLOCK))
			assert_int_equal(add(fd), -EINVAL);
		close(fd);
	}
	assert_int_equal(t_stats(pool).blocks, 2);
}

/* A file on a disk is none. */
static void test_disk(void **state UNUSED)
{
	int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int r = -1;

	if (fd >= 0 && !ftruncate(fd, BLOCK))
		r = add(fd);
	if (fd >= 0)
		close(fd);
	if (r == -EINVAL)
		return;
	if (r >= 0)
		assert_ok(vac_block_remove(pool, r));
	printf("SKIP: forced: no file that is on a disk can be made in the current directory\n");
	skip();
}

/* Everything a block does, on each kind of file. */
static void cycle(int fd, bool sealable)
{
	int id = add(fd);
	struct vac_block_info bi;
	char *all;

	assert_int_equal(id, 2);
	bi = t_block(pool, id);
	assert_int_equal(bi.file, 1);
	assert_int_equal(bi.unsealable, !sealable);
	assert_int_equal(t_block(pool, 0).file, 0);
	assert_int_equal(t_block(pool, 0).unsealable, 0);

	/* What was in it is gone, and does not show. */
	assert_int_equal(pwrite(fd, "old", 3, 0), 3);
	assert_int_equal(pwrite(fd, "old", 3, BLOCK - 3), 3);
	assert_ok(t_online(pool, id));
	assert_int_equal(allocated(fd), 0);
	all = t_map(space, MIB(6), 0);
	assert_int_equal(zero_bad(all, MIB(6)), -1);
	assert_true(allocated(fd) > 0);
	pat_fill(all, MIB(6), 3);
	assert_ok(vac_unmap(space, all + MIB(2), MIB(4)));
	assert_ok(t_offline(pool, id, 60000, NULL));
	assert_int_equal(allocated(fd), 0);
	assert_int_equal(pat_bad(all, MIB(2), 3), -1);
	t_check(pool);
	if (sealable) {
		assert_int_equal(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
		assert_int_equal(vac_block_online(pool, id, VAC_ZONE_MOVABLE), -EROFS);
	} else {
		assert_ok(t_online(pool, id)); /* again, and through the ordinary memory's turn */
		assert_ok(t_offline(pool, 0, 60000, NULL));
		assert_ok(t_online(pool, 0));
		assert_ok(t_offline(pool, id, 60000, NULL));
		assert_int_equal(allocated(fd), 0);
	}
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_OFFLINE);
	assert_ok(vac_unmap(space, all, MIB(2)));
	assert_ok(vac_block_remove(pool, id));
	/* The next of this number is an ordinary one. */
	assert_int_equal(vac_block_add(pool, NULL), 2);
	assert_int_equal(t_block(pool, id).file, 0);
	assert_ok(vac_block_remove(pool, id));
}

static void test_sealable(void **state UNUSED)
{
	int fd = memfd(MFD_ALLOW_SEALING, BLOCK);

	cycle(fd, true);
	close(fd);
}

static void test_unsealable(void **state UNUSED)
{
	int fd = memfd(0, 2 * BLOCK); /* longer than need be */

	cycle(fd, false);
	close(fd);
}

static void test_tmpfs(void **state UNUSED)
{
	int fd = shm_file(BLOCK);

	if (fd < 0) {
		printf("SKIP: forced: no file can be made in /dev/shm\n");
		skip();
	}
	cycle(fd, false);
	close(fd);
}

static void test_twice(void **state UNUSED)
{
	int fd = memfd(0, BLOCK), again, id;
	char path[64];

	id = add(fd);
	assert_int_equal(id, 2);
	assert_int_equal(add(fd), -EBUSY);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(add(again), -EBUSY);
	assert_int_equal(flock(again, LOCK_EX | LOCK_NB), -1); /* another program would see it */
	assert_ok(vac_block_remove(pool, id));
	assert_ok(flock(again, LOCK_EX | LOCK_NB));
	assert_int_equal(add(fd), -EBUSY);
	assert_ok(flock(again, LOCK_UN));
	assert_int_equal(add(fd), id);
	/* Left for vac_pool_close(), with which the lock goes. */
	assert_ok(t_online(pool, id));
	close(again);
	close(fd);
}

/* It may have become shorter while it was offline. */
static void test_shortened(void **state UNUSED)
{
	int fd = memfd(0, BLOCK), id = add(fd);

	assert_int_equal(id, 2);
	assert_ok(ftruncate(fd, BLOCK / 2));
	assert_int_equal(vac_block_online(pool, id, VAC_ZONE_MOVABLE), -EINVAL);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_OFFLINE);
	assert_ok(ftruncate(fd, BLOCK));
	assert_ok(t_online(pool, id));
	close(fd);
}

/* Somebody else maps the file: that shows where it can be sealed, and only there. */
static void test_foreign(void **state UNUSED)
{
	int seal = memfd(MFD_ALLOW_SEALING, BLOCK), not = memfd(0, BLOCK);
	void *a = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, seal, 0);
	void *b = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, not, 0);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

	assert_int_equal(add(seal), 2);
	assert_int_equal(add(not ), 3);
	assert_ok(t_online(pool, 2));
	assert_ok(t_online(pool, 3));
	assert_int_equal(t_offline(pool, 2, 500, &res), -EBUSY);
	assert_int_equal(t_block(pool, 2).state, VAC_BLOCK_QUARANTINE);
	vac_report_free(res.report);
	assert_ok(t_offline(pool, 3, 60000, NULL));
	assert_ok(munmap(a, BLOCK));
	assert_ok(munmap(b, BLOCK));
	assert_ok(t_offline(pool, 2, 60000, NULL));
	close(seal);
	close(not );
}

int main(int argc, char **argv)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(test_refused), TEST(test_disk),  TEST(test_sealable),  TEST(test_unsealable),
		TEST(test_tmpfs),   TEST(test_twice), TEST(test_shortened), TEST(test_foreign),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

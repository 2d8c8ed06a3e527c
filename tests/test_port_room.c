/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/* port/linux/room.c: a block's memory where there is little, in cgroups that are full and in made-up
 * hierarchies of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/linux/linux.h"
#include "port/port.h"
#include "tests/util_mem.h"
#include "tests/util_port.h"

#define UNUSED __attribute__((unused))
#define RW (VAC__READ | VAC__WRITE)

/* ---- Full cgroups ----------------------------------------------------------------------------- */

static char cg[256]; /* directory of the test's cgroup, "" if there is none */
static bool cg_v2;

static int put_text(const char *dir, const char *file, const char *text)
{
	char path[512];
	int fd, r;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	r = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	close(fd);
	return r;
}

static long get_number(const char *dir, const char *file, const char *key)
{
	char path[512], line[256];
	long v = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			v = atol(line + strlen(key));
	if (f)
		fclose(f);
	return v;
}

static bool cgroup_make(const char *dir, unsigned mib)
{
	char text[32];

	if (mkdir(dir, 0755) < 0)
		return false;
	snprintf(text, sizeof(text), "%u", mib << 20);
	if (mib && put_text(dir, cg_v2 ? "memory.max" : "memory.limit_in_bytes", text) < 0) {
		rmdir(dir);
		return false;
	}
	return true;
}

/* A limit that we may set: as root, where the memory controller is mounted. */
static bool cgroup_begin(unsigned mib)
{
	snprintf(cg, sizeof(cg), "/sys/fs/cgroup/memory/vacate-test-%d", getpid());
	cg_v2 = false;
	if (cgroup_make(cg, mib))
		return true;
	cg_v2 = true;
	put_text("/sys/fs/cgroup", "cgroup.subtree_control", "+memory");
	snprintf(cg, sizeof(cg), "/sys/fs/cgroup/vacate-test-%d", getpid());
	return cgroup_make(cg, mib);
}

static void cgroup_join(const char *dir)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	MUST(put_text(dir, "cgroup.procs", pid) == 0);
}

static long cgroup_kills(void)
{
	return cg_v2 ? get_number(cg, "memory.events", "oom_kill ")
		     : get_number(cg, "memory.oom_control", "oom_kill ");
}

#define LIMIT_MIB 128

static void in_cgroup(const char *name)
{
	char err[512];
	long kills;
	int status;

	if (!cgroup_begin(LIMIT_MIB))
		SKIP_FORCED("no memory cgroup that this user may make");
	setenv("VAC_TEST_CGROUP", cg, 1);
	status = case_run(name, err, sizeof(err));
	kills = cgroup_kills();
	snprintf(err, sizeof(err), "%s/child", cg); /* if the case left it behind */
	for (int i = 0; rmdir(cg) < 0 && i < 100; i++) {
		rmdir(err);
		sleep_ms(10);
	}
	assert_int_equal(kills, 0);
	assert_int_equal(status, 0);
}

static void touch_heap(size_t bytes)
{
	volatile char *p = malloc(bytes);

	MUST(p);
	for (size_t i = 0; i < bytes; i += PAGE)
		p[i] = 1;
	free((void *)p);
}

/* How many pageblocks can be had, up to all of the block. */
static unsigned fill(struct pool *p, int i)
{
	unsigned n;

	for (n = 0; n < p->bytes / PB; n++) {
		int r = populate(p, i, n * PB);

		if (r == -ENOMEM)
			break;
		MUST(r >= 0);
		memset((char *)p->b[i].direct + n * PB, 1, PB);
	}
	return n;
}

static void fill_to_the_brim(unsigned flags)
{
	unsigned n, least = LIMIT_MIB / 2 - 14;
	struct pool p;

	cgroup_join(getenv("VAC_TEST_CGROUP"));
	pool_open(&p, flags, 256 * PB, NULL);
	n = fill(&p, 0);
	MUST(n >= least && n < LIMIT_MIB / 2);
	MUST(held(&p.b[0]) == n * PB); /* what failed left nothing behind */
	MUST(populate(&p, 0, n * PB) == -ENOMEM);
	MUST(populate(&p, 1, 0) == -ENOMEM);
	touch_heap(1 << 20); /* some is left for the program */
	ENTERED({
		mem_ops->block_close(p.ctx, &p.b[0]);
		MUST(mem_ops->block_open(p.ctx, 7, p.bytes, p.direct, &p.b[0]) == 0);
	});
	MUST(fill(&p, 1) >= least);
	pool_close(&p);
}

static void case_full_huge(void)
{
	fill_to_the_brim(0);
}

static void case_full_base(void)
{
	fill_to_the_brim(VAC_POOL_NO_HUGE);
}

static struct pool shared;
static _Atomic unsigned next_block, got;

static void *fill_some(void *arg UNUSED)
{
	unsigned i;

	while ((i = atomic_fetch_add(&next_block, 1)) < 256) {
		int r = populate(&shared, 0, i * PB);

		MUST(r >= 0 || r == -ENOMEM);
		got += r >= 0;
	}
	return NULL;
}

/* Threads of one pool do not race one another into the limit. */
static void case_full_threads(void)
{
	pthread_t t[8];

	cgroup_join(getenv("VAC_TEST_CGROUP"));
	pool_open(&shared, VAC_POOL_NO_HUGE, 256 * PB, NULL);
	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, fill_some, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	MUST(got >= LIMIT_MIB / 2 - 20 && got < LIMIT_MIB / 2);
	pool_close(&shared);
}

/* A cgroup that is full of file cache is not full. */
static void case_full_cache(void)
{
	static char buf[1 << 20];
	struct pool p;
	unsigned n;
	int fd;

	cgroup_join(getenv("VAC_TEST_CGROUP"));
	fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	MUST(fd >= 0);
	for (int i = 0; i < LIMIT_MIB; i++)
		MUST(write(fd, buf, sizeof(buf)) == sizeof(buf));
	MUST(fsync(fd) == 0);
	for (int i = 0; i < LIMIT_MIB; i++)
		MUST(pread(fd, buf, sizeof(buf), (off_t)i << 20) == sizeof(buf));
	pool_open(&p, 0, 256 * PB, NULL);
	n = fill(&p, 0);
	dprintf(2, "%u pageblocks\n", n);
	MUST(n >= LIMIT_MIB / 2 - 20);
	pool_close(&p);
	close(fd);
}

/* The limit is an ancestor's. */
static void case_full_parent(void)
{
	char dir[300];
	unsigned n;
	struct pool p;

	snprintf(dir, sizeof(dir), "%s/child", getenv("VAC_TEST_CGROUP"));
	MUST(mkdir(dir, 0755) == 0 || errno == EEXIST);
	cgroup_join(dir);
	pool_open(&p, 0, 256 * PB, NULL);
	n = fill(&p, 0);
	MUST(n >= LIMIT_MIB / 2 - 14 && n < LIMIT_MIB / 2);
	pool_close(&p);
	snprintf(dir, sizeof(dir), "%s/..", getenv("VAC_TEST_CGROUP"));
	cgroup_join(dir);
	snprintf(dir, sizeof(dir), "%s/child", getenv("VAC_TEST_CGROUP"));
	for (int i = 0; rmdir(dir) < 0 && i < 100; i++)
		sleep_ms(10);
}

/* The process is moved into the cgroup after the pool was opened, and the limit sinks later. */
static void case_full_moved(void)
{
	const char *dir = getenv("VAC_TEST_CGROUP");
	struct pool p;
	unsigned n;

	pool_open(&p, 0, 256 * PB, NULL);
	MUST(populate(&p, 0, 0) >= 0);
	cgroup_join(dir);
	sleep_ms(1100);
	n = fill(&p, 1);
	MUST(n >= LIMIT_MIB / 2 - 14 && n < LIMIT_MIB / 2);
	ENTERED({
		mem_ops->block_close(p.ctx, &p.b[1]);
		MUST(mem_ops->block_open(p.ctx, 8, p.bytes, (char *)p.direct + p.bytes, &p.b[1]) ==
		     0);
	});
	MUST(put_text(dir,
		      access("/sys/fs/cgroup/memory", F_OK) ? "memory.max"
							    : "memory.limit_in_bytes",
		      "67108864") == 0);
	n = fill(&p, 1);
	MUST(n >= 32 - 14 && n < 32);
	pool_close(&p);
}

static UNUSED void test_full_huge(void **state UNUSED)
{
	in_cgroup("full_huge");
}

static UNUSED void test_full_base(void **state UNUSED)
{
	in_cgroup("full_base");
}

static UNUSED void test_full_threads(void **state UNUSED)
{
	in_cgroup("full_threads");
}

static UNUSED void test_full_cache(void **state UNUSED)
{
	in_cgroup("full_cache");
}

static UNUSED void test_full_parent(void **state UNUSED)
{
	in_cgroup("full_parent");
}

static UNUSED void test_full_moved(void **state UNUSED)
{
	in_cgroup("full_moved");
}

/*
 * Version 2 on a machine that has version 1, and back: the files are ours, mounted over the real
 * ones in a mount namespace of the case's own. Exit status 77: that may not be done here.
 */
static void fake(const char *dir, const char *file, const char *text)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void over(const char *dir, const char *file, const char *target)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	if (mount(path, target, NULL, MS_BIND, NULL) < 0)
		_exit(77);
}

static void fake_hierarchy(const char *mountinfo, const char *cgroup)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", "/mnt", "tmpfs", 0, NULL) < 0)
		_exit(77);
	fake("/mnt", "mountinfo", mountinfo);
	fake("/mnt", "cgroup", cgroup);
	over("/mnt", "mountinfo", "/proc/self/mountinfo");
	over("/mnt", "cgroup", "/proc/self/cgroup");
}

static void level_v2(const char *dir, const char *max, const char *current, const char *stat)
{
	mkdir(dir, 0755);
	fake(dir, "memory.max", max);
	fake(dir, "memory.current", current);
	fake(dir, "memory.stat", stat);
}

#define NO_CACHE "anon 1\nfile 1\ninactive_file 0\nactive_file 0\nfile_dirty 0\nfile_writeback 0\n"

static void case_fake_v2(void)
{
	struct pool p;

	fake_hierarchy("24 1 0:22 / /proc rw - proc proc rw\n"
		       "30 1 0:26 / /mnt/cg rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
		       "0::/a/b\n");
	mkdir("/mnt/cg", 0755); /* the root has no limit */
	level_v2("/mnt/cg/a", "104857600\n", "10485760\n", NO_CACHE);
	level_v2("/mnt/cg/a/b", "max\n", "10485760\n", NO_CACHE);
	pool_open(&p, 0, 4 * PB, NULL);
	MUST(populate(&p, 0, 0) >= 0);
	fake("/mnt/cg/a", "memory.current", "103809024\n"); /* 1 MiB is left in the ancestor */
	MUST(populate(&p, 0, PB) == -ENOMEM);
	fake("/mnt/cg/a", "memory.stat",
	     "anon 1\ninactive_file 20971520\nactive_file 0\nfile_dirty 20000000\n");
	MUST(populate(&p, 0, PB) == -ENOMEM); /* dirty pages have first to be written */
	fake("/mnt/cg/a", "memory.stat",
	     "anon 1\ninactive_file 10485760\nactive_file 10485760\nfile_dirty 4096\n");
	MUST(populate(&p, 0, PB) >= 0);
	fake("/mnt/cg/a/b", "memory.max", "10485760\n");
	MUST(populate(&p, 0, 2 * PB) == -ENOMEM);
	fake("/mnt/cg/a/b", "memory.max", "max\n");
	MUST(populate(&p, 0, 2 * PB) >= 0);
	pool_close(&p);
}

/* A container that sees only its own part of the hierarchy. */
static void case_fake_part(void)
{
	struct pool p;

	fake_hierarchy("30 1 0:26 /docker/x /mnt/cg rw - cgroup2 cgroup2 rw\n",
		       "0::/docker/x/task\n");
	level_v2("/mnt/cg", "10485760\n", "10485760\n", NO_CACHE);
	level_v2("/mnt/cg/task", "max\n", "0\n", NO_CACHE);
	pool_open(&p, 0, 4 * PB, NULL);
	MUST(populate(&p, 0, 0) == -ENOMEM);
	fake("/mnt/cg", "memory.max", "max\n");
	MUST(populate(&p, 0, 0) >= 0);
	fake("/mnt/cg/task", "memory.max", "0\n");
	MUST(populate(&p, 0, PB) == -ENOMEM);
	pool_close(&p);
}

static void case_fake_none(void)
{
	struct pool p;

	fake_hierarchy("24 1 0:22 / /proc rw - proc proc rw\n", "");
	pool_open(&p, 0, 4 * PB, NULL);
	MUST(populate(&p, 0, 0) >= 0);
	pool_close(&p);
}

static void case_fake_meminfo(void)
{
	struct pool p;

	fake_hierarchy("", "");
	fake("/mnt", "meminfo",
	     "MemTotal:       1000000 kB\nMemFree:         1000 kB\nMemAvailable:   1000 kB\n");
	over("/mnt", "meminfo", "/proc/meminfo");
	pool_open(&p, 0, 4 * PB, NULL);
	/* Free memory by sysinfo(2) is plenty, so the file is not even read. */
	MUST(populate(&p, 0, 0) >= 0);
	pool_close(&p);
}

static void fakes(const char *name)
{
	char err[512];
	int status = case_run(name, err, sizeof(err));

	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP_FORCED("no mount namespace for this user");
	assert_int_equal(status, 0);
}

static void test_fake_v2(void **state UNUSED)
{
	fakes("fake_v2");
}

static void test_fake_part(void **state UNUSED)
{
	fakes("fake_part");
}

static void test_fake_none(void **state UNUSED)
{
	fakes("fake_none");
	fakes("fake_meminfo");
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"full_huge", case_full_huge},       {"full_base", case_full_base},
		{"full_threads", case_full_threads}, {"full_cache", case_full_cache},
		{"full_parent", case_full_parent},   {"full_moved", case_full_moved},
		{"fake_v2", case_fake_v2},           {"fake_part", case_fake_part},
		{"fake_none", case_fake_none},       {"fake_meminfo", case_fake_meminfo},
	};
	static const struct CMUnitTest tests[] = {
#if !defined(__SANITIZE_THREAD__) /* its own memory would be what does not fit */
		cmocka_unit_test(test_full_huge),
		cmocka_unit_test(test_full_base),
		cmocka_unit_test(test_full_threads),
		cmocka_unit_test(test_full_cache),
		cmocka_unit_test(test_full_parent),
		cmocka_unit_test(test_full_moved),
#endif
		cmocka_unit_test(test_fake_v2),
		cmocka_unit_test(test_fake_part),
		cmocka_unit_test(test_fake_none),
	};

	case_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
	t_guard_or_skip();
	if (argc == 2)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * port/linux: the memory of blocks (memfd.c) and what spaces show (view.c, edge.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/vacate.h"
#include "port/linux/linux.h"
#include "port/port.h"
#include "tests/util_mem.h"
#include "tests/util_port.h"

#define UNUSED __attribute__((unused))
#define RW (VAC__READ | VAC__WRITE)

static bool all_bytes(const void *at, size_t bytes, unsigned char c)
{
	const unsigned char *p = at;

	return p[0] == c && !memcmp(p, p + 1, bytes - 1);
}

/* A field of the mapping at an address in /proc/self/smaps, in bytes. */
static size_t smaps(const void *addr, const char *what)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long a, b;
	char line[512];
	bool here = false;
	size_t kib = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2)
			here = a <= (uintptr_t)addr && (uintptr_t)addr < b;
		else if (here && !strncmp(line, what, strlen(what)))
			sscanf(line + strlen(what), ": %zu", &kib);
	}
	fclose(f);
	return kib * 1024;
}

/* ---- Blocks ----------------------------------------------------------------------------------- */

static void test_block_open(void **state UNUSED)
{
	char path[64], link[128];
	struct pool p;
	ssize_t n;

	pool_open(&p, 0, 4 * PB, NULL);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p.b[0].fd);
	n = readlink(path, link, sizeof(link) - 1);
	assert_true(n > 0);
	link[n] = 0;
	assert_string_equal(link, "/memfd:vacate:mem:7 (deleted)");
	assert_int_equal(fcntl(p.b[0].fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(lseek(p.b[0].fd, 0, SEEK_END), 4 * PB);
	assert_int_equal(p.b[0].bytes, 4 * PB);
	assert_int_equal(p.b[0].granule, PAGE);
	assert_ptr_equal(p.b[0].direct, p.direct);
	assert_int_equal(held(&p.b[0]), 0);
	pool_close(&p);
	assert_int_equal(maps_with("vacate:mem"), 0);
}

static void case_fsize(void)
{
	struct rlimit l = {PB, PB};
	struct vac__backing b;
	struct pool p;
	int r;

	pool_open(&p, 0, 4 * PB, NULL);
	MUST(setrlimit(RLIMIT_FSIZE, &l) == 0);
	ENTERED(r = mem_ops->block_open(p.ctx, 9, 4 * PB, (char *)p.direct + 8 * PB, &b));
	MUST(r == -EFBIG); /* and we are alive */
	MUST(populate(&p, 0, 2 * PB) >= 0);
	pool_close(&p);
}

static void case_nofile(void)
{
	struct vac__backing b;
	struct rlimit l;
	struct pool p;
	int r;

	pool_open(&p, 0, 4 * PB, NULL);
	l.rlim_cur = l.rlim_max = (rlim_t)p.b[1].fd + 1;
	MUST(setrlimit(RLIMIT_NOFILE, &l) == 0);
	ENTERED(r = mem_ops->block_open(p.ctx, 9, 4 * PB, (char *)p.direct + 8 * PB, &b));
	MUST(r == -EMFILE);
	pool_close(&p);
}

static void passes(const char *name)
{
	char err[512];

	assert_int_equal(case_run(name, err, sizeof(err)), 0);
}

static void test_block_limits(void **state UNUSED)
{
	passes("fsize");
	passes("nofile");
}

/* Whoever has the descriptor, a child of fork() for one, does not keep the memory. */
static void test_block_close_frees(void **state UNUSED)
{
	struct stat st;
	struct pool p;
	int fd;

	pool_open(&p, 0, 4 * PB, NULL);
	assert_true(populate(&p, 0, 0) >= 0);
	assert_int_equal(held(&p.b[0]), PB);
	fd = dup(p.b[0].fd);
	pool_close(&p);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	close(fd);
}

static void test_populate_huge(void **state UNUSED)
{
	struct pool p;
	int r;

	pool_open(&p, 0, 8 * PB, NULL);
	r = populate(&p, 0, 3 * PB);
	assert_true(r >= 0);
	assert_int_equal(held(&p.b[0]), PB);
	assert_true(all_bytes((char *)p.direct + 3 * PB, PB, 0));
	if (r == 1)
		assert_int_equal(smaps(p.direct, "ShmemPmdMapped"), PB);
	/* A second time, and beside it. */
	assert_int_equal(populate(&p, 0, 0), r);
	assert_int_equal(populate(&p, 0, 7 * PB), r);
	assert_int_equal(held(&p.b[0]), 3 * PB);
	memset((char *)p.direct + 3 * PB, 0x5a, PB);
	assert_true(all_bytes(p.direct, PB, 0));
	assert_int_equal(held(&p.b[0]), 3 * PB);
	/* What a block gives back is not what the next one gets. */
	ENTERED({
		mem_ops->block_close(p.ctx, &p.b[0]);
		MUST(mem_ops->block_open(p.ctx, 7, 8 * PB, p.direct, &p.b[0]) == 0);
	});
	assert_int_equal(populate(&p, 0, 3 * PB), r);
	assert_true(all_bytes((char *)p.direct + 3 * PB, PB, 0));
	pool_close(&p);
	if (r == 0)
		SKIP_FORCED("the host gives no 2 MiB pages");
}

static void test_populate_base(void **state UNUSED)
{
	static unsigned char vec[512];
	struct pool p;

	pool_open(&p, VAC_POOL_NO_HUGE, 8 * PB, NULL);
	assert_int_equal(populate(&p, 0, 3 * PB), 0);
	assert_int_equal(held(&p.b[0]), PB);
	assert_int_equal(mincore((char *)p.direct + 3 * PB, PB, vec), 0);
	for (int i = 0; i < 512; i++)
		assert_true(vec[i] & 1);
	assert_true(all_bytes((char *)p.direct + 3 * PB, PB, 0));
	assert_int_equal(smaps(p.direct, "ShmemPmdMapped"), 0);
	assert_int_equal(held(&p.b[0]), PB);
	pool_close(&p);
}

/* ---- Seals ------------------------------------------------------------------------------------ */

static int seal(struct pool *p, int i, uint64_t *resident)
{
	int r;

	ENTERED(r = mem_ops->block_seal(p->ctx, &p->b[i], false, resident));
	return r;
}

/* The direct map shows what it showed, and can be written; nothing was added to the host's maps. */
static void check_refused(struct pool *p, uint64_t resident, unsigned maps)
{
	char *d = p->b[0].direct;

	assert_ptr_equal(d, p->direct);
	assert_int_equal(resident, 2 * PB);
	assert_true(all_bytes(d, PB, 0x11) && all_bytes(d + PB, PB, 0x22));
	d[5] = 0x33;
	d[5] = 0x11;
	assert_int_equal(maps_between(p->direct, (char *)p->direct + 4 * p->bytes), maps);
}

static unsigned seal_begin(struct pool *p)
{
	pool_open(p, 0, 4 * PB, NULL);
	assert_true(populate(p, 0, 0) >= 0 && populate(p, 0, PB) >= 0);
	memset(p->direct, 0x11, PB);
	memset((char *)p->direct + PB, 0x22, PB);
	return maps_between(p->direct, (char *)p->direct + 4 * p->bytes);
}

static void seal_end(struct pool *p)
{
	uint64_t resident;
	int r = -EBUSY;

	for (int i = 0; r == -EBUSY && i < 20; i++) /* the kernel may let go a little later */
		r = seal(p, 0, &resident);
	assert_int_equal(r, 0);
	assert_int_equal(resident, 2 * PB);
	assert_null(p->b[0].direct);
	assert_true(fcntl(p->b[0].fd, F_GET_SEALS) & F_SEAL_WRITE);
	pool_close(p);
}

static void test_seal_clean(void **state UNUSED)
{
	struct pool p;

	seal_begin(&p);
	assert_true(populate(&p, 1, 0) >= 0);
	seal_end(&p);
}

/* Neighbours, both at once, both used again. */
static void test_seal_two(void **state UNUSED)
{
	uint64_t resident;
	struct pool p;

	seal_begin(&p);
	assert_int_equal(seal(&p, 0, &resident), 0);
	assert_int_equal(seal(&p, 1, &resident), 0);
	assert_int_equal(resident, 0);
	ENTERED({
		for (int i = 0; i < 2; i++) {
			mem_ops->block_close(p.ctx, &p.b[i]);
			MUST(mem_ops->block_open(p.ctx, i, p.bytes,
						 (char *)p.direct + (size_t)i * p.bytes,
						 &p.b[i]) == 0);
		}
	});
	assert_int_equal(maps_between(p.direct, (char *)p.direct + 4 * p.bytes), 3);
	pool_close(&p);
}

static void test_seal_refused_by_splice(void **state UNUSED)
{
	struct pool p;
	unsigned maps = seal_begin(&p);
	struct iovec v = {.iov_base = (char *)p.direct + PB + 64, .iov_len = 100};
	uint64_t resident;
	char buf[100];
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(vmsplice(fd[1], &v, 1, 0), 100);
	assert_int_equal(seal(&p, 0, &resident), -EBUSY);
	check_refused(&p, resident, maps);
	assert_int_equal(read(fd[0], buf, 100), 100);
	assert_true(all_bytes(buf, 100, 0x22));
	close(fd[0]);
	close(fd[1]);
	seal_end(&p);
}

static void test_seal_refused_by_ring(void **state UNUSED)
{
	struct pool p;
	struct io_uring ring;
	unsigned maps;
	struct iovec v;
	uint64_t resident;

	if (io_uring_queue_init(4, &ring, 0) < 0)
		SKIP_FORCED("no io_uring");
	maps = seal_begin(&p);
	v.iov_base = p.direct;
	v.iov_len = 8 * PAGE;
	assert_int_equal(io_uring_register_buffers(&ring, &v, 1), 0);
	assert_int_equal(seal(&p, 0, &resident), -EBUSY);
	check_refused(&p, resident, maps);
	assert_int_equal(io_uring_unregister_buffers(&ring), 0);
	seal_end(&p);
	io_uring_queue_exit(&ring);
}

static void test_seal_refused_by_mapping(void **state UNUSED)
{
	struct pool p;
	unsigned maps = seal_begin(&p);
	uint64_t resident;
	void *m = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, p.b[0].fd, 0);

	assert_ptr_not_equal(m, MAP_FAILED);
	assert_int_equal(seal(&p, 0, &resident), -EBUSY);
	check_refused(&p, resident, maps);
	munmap(m, PAGE);
	seal_end(&p);
}

/* ---- Host mappings ---------------------------------------------------------------------------- */

/* One run in the middle, whatever its rights: a mapping by itself while it leaves, one with its
 * neighbours before and after. */
static void test_maps_leave(void **state UNUSED)
{
	static const unsigned prots[] = {RW, VAC__READ, 0};
	struct pool p;

	pool_open(&p, 0, 8 * PB, NULL);
	for (unsigned k = 0; k < 3; k++) {
		unsigned prot = prots[k];

		assert_int_equal(shown(&p), 1);
		assert_int_equal(map_at(&p, 0, 0, 8 * PB, prot), 0);
		assert_int_equal(shown(&p), 1);
		assert_int_equal(leave_at(&p, 2 * PB, PB, prot), 0);
		assert_int_equal(shown(&p), 3);
		stay_at(&p, 0, 2 * PB, PB, prot);
		assert_int_equal(shown(&p), 1);
		assert_int_equal(leave_at(&p, 2 * PB, PB, prot), 0);
		assert_int_equal(map_at(&p, 1, 2 * PB, PB, prot), 0);
		assert_int_equal(shown(&p), 3);
		assert_int_equal(leave_at(&p, 2 * PB, PB, prot), 0);
		assert_int_equal(shown(&p), 3);
		assert_int_equal(map_at(&p, 0, 2 * PB, PB, prot), 0);
		assert_int_equal(shown(&p), 1);
		assert_int_equal(unmap_at(&p, 0, 8 * PB), 0);
	}
	assert_int_equal(shown(&p), 1);
	pool_close(&p);
}

/* Runs side by side that all leave at once keep apart, in any order; all come together again. */
static void test_maps_leave_side_by_side(void **state UNUSED)
{
	static const unsigned order[4][8] = {{0, 1, 2, 3, 4, 5, 6, 7},
					     {7, 6, 5, 4, 3, 2, 1, 0},
					     {0, 2, 4, 6, 1, 3, 5, 7},
					     {3, 4, 0, 7, 1, 6, 5, 2}};
	struct pool p;

	pool_open(&p, 0, 8 * PB, NULL);
	assert_int_equal(map_at(&p, 0, 0, 8 * PB, RW), 0);
	for (unsigned k = 0; k < 4; k++) {
		for (unsigned size = 0; size < 2; size++) { /* pageblocks, and single pages */
			size_t unit = size ? PAGE : PB;
			unsigned maps = size ? 9 : 8;

			for (unsigned i = 0; i < 8; i++)
				assert_int_equal(leave_at(&p, order[k][i] * unit, unit, RW), 0);
			assert_int_equal(shown(&p), maps);
			for (unsigned i = 0; i < 8; i++) {
				assert_int_equal(map_at(&p, 1, order[3 - k][i] * unit, unit, RW),
						 0);
				assert_true(shown(&p) <= maps);
			}
			assert_int_equal(shown(&p), size ? 2 : 1);
			for (unsigned i = 0; i < 8; i++)
				assert_int_equal(leave_at(&p, order[3 - k][i] * unit, unit, RW), 0);
			assert_int_equal(shown(&p), maps);
			for (unsigned i = 0; i < 8; i++)
				stay_at(&p, 1, order[k][i] * unit, unit, RW);
			assert_int_equal(shown(&p), size ? 2 : 1);
			assert_int_equal(map_at(&p, 0, 0, 8 * PB, RW), 0);
		}
	}
	pool_close(&p);
}

/* A random sequence of leave, map and stay, against a model of what must not be merged. */
static void test_maps_random(void **state UNUSED)
{
	enum { N = 64 };
	struct {
		int block, leaving; /* leaving: number of the run, 0: none */
	} m[N] = {{0, 0}};
	uint64_t seed = 88172645463325252u;
	int runs = 0;
	struct pool p;

	pool_open(&p, 0, PB, NULL);
	assert_int_equal(map_at(&p, 0, 0, N * PAGE, RW), 0);
	for (unsigned round = 0; round < scaled(4000); round++) {
		unsigned at = (unsigned)(rnd(&seed) % N), n = 1, least = 1, now;
		int what = (int)(rnd(&seed) % 3), r = m[at].leaving;

		if (!r) { /* a run that is linear, and not leaving, leaves */
			while (at + n < N && n < 1 + rnd(&seed) % 9 && !m[at + n].leaving &&
			       m[at + n].block == m[at].block)
				n++;
			runs++;
			for (unsigned i = 0; i < n; i++)
				m[at + i].leaving = runs;
			assert_int_equal(leave_at(&p, at * PAGE, n * PAGE, RW), 0);
		} else {
			while (at > 0 && m[at - 1].leaving == r)
				at--;
			while (at + n < N && m[at + n].leaving == r)
				n++;
			now = shown(&p);
			if (what == 0) {
				stay_at(&p, m[at].block, at * PAGE, n * PAGE, RW);
			} else {
				int to = what == 1 ? 0 : 1;

				assert_int_equal(map_at(&p, to, at * PAGE, n * PAGE, RW), 0);
				for (unsigned i = 0; i < n; i++)
					m[at + i].block = to;
			}
			for (unsigned i = 0; i < n; i++)
				m[at + i].leaving = 0;
			assert_true(shown(&p) <= now);
		}
		for (unsigned i = 1; i < N; i++)
			least += m[i].leaving != m[i - 1].leaving || m[i].block != m[i - 1].block;
		assert_int_equal(maps_between(p.space, p.space + N * PAGE), least);
	}
	pool_close(&p);
}

/* A part of a run stays, a part is replaced, the rest later. */
static void test_maps_leave_in_parts(void **state UNUSED)
{
	struct pool p;

	pool_open(&p, 0, 8 * PB, NULL);
	for (int i = 0; i < 2; i++)
		for (size_t k = 0; k < 8; k++)
			assert_true(populate(&p, i, k * PB) >= 0);
	assert_int_equal(map_at(&p, 0, 0, 8 * PB, RW), 0);
	assert_int_equal(leave_at(&p, 0, 8 * PB, RW), 0);
	assert_int_equal(shown(&p), 1);
	assert_int_equal(map_at(&p, 1, 2 * PB, 2 * PB, RW), 0);
	assert_int_equal(shown(&p), 3);
	stay_at(&p, 0, 5 * PB, PB, RW);
	assert_int_equal(shown(&p), 5);
	p.space[2 * PB] = p.space[5 * PB] = 1; /* both can be written */
	stay_at(&p, 0, 0, 2 * PB, RW);
	stay_at(&p, 0, 4 * PB, PB, RW);
	assert_int_equal(map_at(&p, 1, 6 * PB, 2 * PB, RW), 0);
	memset(p.space, 1, 8 * PB);
	assert_int_equal(shown(&p), 4);
	assert_int_equal(unmap_at(&p, 0, 8 * PB), 0);
	assert_int_equal(shown(&p), 1);
	pool_close(&p);
}

static void test_maps_protect(void **state UNUSED)
{
	struct pool p;
	int r;

	pool_open(&p, 0, 8 * PB, NULL);
	assert_int_equal(map_at(&p, 0, 0, 8 * PB, RW), 0);
	ENTERED(r = mem_ops->protect(p.ctx, p.space + PAGE, PAGE, VAC__READ));
	assert_int_equal(r, 0);
	assert_int_equal(shown(&p), 3);
	ENTERED(r = mem_ops->protect(p.ctx, p.space + PAGE, PAGE, RW));
	assert_int_equal(r, 0);
	assert_int_equal(shown(&p), 1);
	p.space[PAGE] = 1;
	pool_close(&p);
}

/* ---- At the host's limit ----------------------------------------------------------------------- */

/* Use up every mapping that the host allows, and the one more that mmap(2) lets through. */
static void use_all_mappings(void)
{
	size_t pages = 200000;
	char *p = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);
	size_t i;

	MUST(p != MAP_FAILED);
	for (i = 1; i < pages; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ) < 0)
			break;
	MUST(i < pages && errno == ENOMEM);
	while (mmap(NULL, PAGE, i++ % 2 ? PROT_READ : PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		    0) != MAP_FAILED)
		;
	MUST(errno == ENOMEM);
}

static void case_at_the_limit(void)
{
	struct pool p;
	uint64_t resident;
	int r;

	pool_open(&p, 0, 8 * PB, NULL);
	for (int i = 0; i < 2; i++)
		for (size_t k = 0; k < 8; k++)
			MUST(populate(&p, i, k * PB) >= 0);
	MUST(map_at(&p, 0, 0, 8 * PB, RW) == 0);
	memset(p.space, 7, 8 * PB);
	for (size_t k = 1; k < 6; k++)
		MUST(leave_at(&p, k * PB, PB, RW) == 0);
	use_all_mappings();
	/* Not prepared: refused, and nothing has changed. */
	MUST(map_at(&p, 1, 7 * PB, PAGE, RW) == -ENOMEM);
	MUST(leave_at(&p, 7 * PB, PAGE, RW) == -ENOMEM);
	ENTERED(r = mem_ops->protect(p.ctx, p.space + 7 * PB, PAGE, VAC__READ));
	MUST(r == -ENOMEM);
	MUST(all_bytes(p.space + 6 * PB, 2 * PB, 7));
	memset(p.space + 6 * PB, 7, 2 * PB);
	/* Prepared: every one of them goes or stays. */
	for (size_t k = 1; k < 5; k++) {
		memcpy((char *)p.b[1].direct + k * PB, (char *)p.b[0].direct + k * PB, PB);
		MUST(map_at(&p, 1, k * PB, PB, RW) == 0);
	}
	stay_at(&p, 0, 5 * PB, PB, RW);
	MUST(all_bytes(p.space, 8 * PB, 7));
	memset(p.space, 8, 8 * PB);
	/* The seal that is refused brings the direct map back. */
	ENTERED(r = mem_ops->block_seal(p.ctx, &p.b[0], false, &resident));
	MUST(r == -EBUSY && *(char *)p.b[0].direct == 8);
	MUST(unmap_at(&p, 0, 8 * PB) == 0);
	ENTERED(r = mem_ops->block_seal(p.ctx, &p.b[0], false, &resident));
	MUST(r == 0 && resident == 8 * PB);
	pool_close(&p);
}

static void test_at_the_limit(void **state UNUSED)
{
	passes("at_the_limit");
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"fsize", case_fsize},
		{"nofile", case_nofile},
		{"at_the_limit", case_at_the_limit},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block_open),
		cmocka_unit_test(test_block_limits),
		cmocka_unit_test(test_block_close_frees),
		cmocka_unit_test(test_populate_huge),
		cmocka_unit_test(test_populate_base),
		cmocka_unit_test(test_seal_clean),
		cmocka_unit_test(test_seal_two),
		cmocka_unit_test(test_seal_refused_by_splice),
		cmocka_unit_test(test_seal_refused_by_ring),
		cmocka_unit_test(test_seal_refused_by_mapping),
		cmocka_unit_test(test_maps_leave),
		cmocka_unit_test(test_maps_leave_side_by_side),
		cmocka_unit_test(test_maps_random),
		cmocka_unit_test(test_maps_leave_in_parts),
		cmocka_unit_test(test_maps_protect),
		cmocka_unit_test(test_at_the_limit),
	};

	case_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
	t_guard_or_skip();
	if (argc == 2)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

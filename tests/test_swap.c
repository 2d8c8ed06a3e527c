/* SPDX-License-Identifier: MIT *
 * runtests: guards=both timeout=600
 */
/*
 * Swap on real memory and a real file: a pool that is smaller than its data, byte for byte; against pins,
 * changes of mappings, offline, fork; and a file that fails.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

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
	int fd = t_swap_file(2 * data);

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

/* ---- Everything at once ------------------------------------------------------------------------- */

#define REGIONS 3u

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	size_t bytes; /* of each region */
	_Atomic uint64_t pinned;
} all;

/* Each thread owns a region: page p holds p and a count in its first and last word. */
static void owner(struct member *m)
{
	char *mem = all.mem + m->nr % REGIONS * all.bytes;
	uint32_t pages = (uint32_t)(all.bytes / P), *count = calloc(pages, sizeof(*count));

	MUST(count);
	while (!atomic_load(&m->team->stop)) {
		uint32_t p = (uint32_t)(m->rnd % pages);
		uint64_t *w = (uint64_t *)(void *)(mem + (size_t)p * P), pin;

		m->rnd = m->rnd * 6364136223846793005u + 1442695040888963407u;
		p = (uint32_t)((m->rnd >> 33) % pages);
		w = (uint64_t *)(void *)(mem + (size_t)p * P);
		if (count[p])
			MUST(w[0] == ((uint64_t)p << 32 | count[p]) && w[511] == w[0]);
		else
			MUST(w[0] == 0 && w[511] == 0);
		switch (m->rnd >> 20 & 15) {
		case 0:
			MUST_OK(vac_pin(all.space, w, P, VAC_PIN_WRITE, "owner", &pin));
			count[p]++;
			w[0] = w[511] = (uint64_t)p << 32 | count[p];
			MUST(t_page(all.space, w).present == 1 && t_page(all.space, w).pins);
			MUST_OK(vac_unpin(all.pool, pin));
			atomic_fetch_add(&all.pinned, 1);
			break;
		case 1:
			MUST_OK(vac_protect(all.space, w, P, VAC_PROT_READ));
			MUST(w[0] == (count[p] ? (uint64_t)p << 32 | count[p] : 0));
			MUST_OK(vac_protect(all.space, w, P, RW));
			break;
		case 2:
			if ((m->rnd >> 24 & 7) == 0) {
				MUST_OK(vac_advise(all.space, w, P, VAC_ADV_DONTNEED));
				count[p] = 0;
			}
			break;
		case 3:
		case 4:
		case 5:
		case 6:
		case 7: break;
		default: count[p]++; w[0] = w[511] = (uint64_t)p << 32 | count[p];
		}
		atomic_fetch_add(&m->team->rounds, 1);
	}
	for (uint32_t p = 0; p < pages; p++) {
		uint64_t *w = (uint64_t *)(void *)(mem + (size_t)p * P);

		MUST(w[0] == (count[p] ? (uint64_t)p << 32 | count[p] : 0) && w[511] == w[0]);
	}
	free(count);
}

static void test_everything(void **state UNUSED)
{
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	static struct team team;
	uint64_t end = t_ms() + (TSAN || ASAN ? 2500 : 1500);
	unsigned left = 0, tries = 0;
	struct vac_pool_stats st;

	all.bytes = MIB(10);
	all.pool = t_pool(MIB(4), 4);
	all.space = t_space(all.pool, REGIONS * all.bytes);
	all.mem = t_map(all.space, REGIONS * all.bytes, 0);
	{
		int fd = t_swap_file(MIB(64));

		assert_ok(swap_on(all.pool, fd, MIB(64)));
		close(fd);
	}
	team_start(&team, REGIONS, owner, NULL);
	for (int id = 0; t_ms() < end; id = (id + 1) % 4) {
		int r = t_offline(all.pool, id, 2000, &res);

		vac_report_free(res.report);
		tries++;
		if (r == 0) {
			left++;
			assert_ok(t_online(all.pool, id));
		} else {
			MUST(r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT);
		}
	}
	team_stop(&team);
	st = t_stats(all.pool);
	assert_true(left > 0);
	assert_true(st.swap_in > 100 && st.swap_out > 100);
	assert_int_equal(st.swap_errors, 0);
	assert_int_equal(st.dangling, 0);
	assert_true(atomic_load(&all.pinned) > 0);
	printf("%u of %u offlines; %llu in, %llu out, %llu second chances\n", left, tries,
	       (unsigned long long)st.swap_in, (unsigned long long)st.swap_out,
	       (unsigned long long)st.swap_second_chances);
	t_close(all.pool);
}

/* The hang of 2025: memory beyond what is there, swap active, and a third of the blocks leaves. */
static void test_third_leaves(void **state UNUSED)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	size_t bytes = MIB(40);
	struct vac_pool *pool = t_pool(MIB(4), 6);
	struct vac_space *s = t_space(pool, bytes);
	int fd = t_swap_file(2 * bytes);
	char *mem;

	assert_ok(swap_on(pool, fd, 2 * bytes));
	close(fd);
	mem = t_map(s, bytes, 0);
	pat_fill(mem, bytes, 11);
	o.timeout_ms = 20000;
	assert_ok(vac_block_offline(pool, 1, &o, NULL));
	o.flags = VAC_OFFLINE_SWAP;
	assert_ok(vac_block_offline(pool, 4, &o, NULL));
	assert_int_equal(t_stats(pool).frames_total, MIB(16) / P);
	assert_int_equal(pat_bad(mem, bytes, 11), -1);
	t_check(pool);
	t_close(pool);
}

/* Swap ends and begins again under threads that use the memory. */
static void test_off_under_load(void **state UNUSED)
{
	static struct team team;
	/* Each is some forty MiB through the file, which under a sanitizer takes its time. */
	unsigned ends = 0, rounds = TSAN || ASAN ? 2 : 6;
	int fd;

	all.bytes = MIB(4);
	all.pool = t_pool(MIB(4), 4);
	fd = t_swap_file(MIB(64));
	all.space = t_space(all.pool, MIB(40));
	all.mem = t_map(all.space, REGIONS * all.bytes, VAC_MAP_NOHUGE);
	/* All of it takes room from the start, however slowly the owners come to it. */
	memset(all.mem, 0, REGIONS * all.bytes);
	team_start(&team, REGIONS, owner, NULL);
	for (unsigned i = 0; i < rounds; i++) {
		void *more;
		int r;

		assert_ok(swap_on(all.pool, fd, MIB(64)));
		assert_int_equal(swap_on(all.pool, fd, MIB(64)), -EBUSY);
		/* Push the others out. */
		assert_ok(vac_map(all.space, NULL, MIB(12), RW, 0, &more));
		pat_fill(more, MIB(12), 7);
		assert_int_equal(pat_bad(more, MIB(12), 7), -1);
		assert_int_equal(vac_swap_off(all.pool, 0), -ENOMEM);
		assert_int_equal(pat_bad(more, MIB(12), 7), -1);
		assert_ok(vac_unmap(all.space, more, MIB(12)));
		r = vac_swap_off(all.pool, 0);
		assert_ok(r);
		ends += r == 0;
		assert_int_equal(vac_swap_off(all.pool, 0), -EALREADY);
	}
	team_stop(&team);
	assert_int_equal(ends, rounds);
	close(fd);
	t_close(all.pool);
}

/* ---- A sole owner does not copy, a locked page does not leave ------------------------------------ */

static void test_lock(void **state UNUSED)
{
	struct vac_pool *pool = pool_for(MIB(32));
	struct vac_space *s = t_space(pool, MIB(40));
	char *mem = t_map(s, MIB(4), 0), *more = t_map(s, MIB(28), 0);

	pat_fill(mem, MIB(4), 3);
	assert_ok(vac_lock(s, mem, MIB(2)));
	pat_fill(more, MIB(28), 4);
	for (size_t at = 0; at < MIB(2); at += P)
		assert_int_equal(t_page(s, mem + at).present, 1);
	assert_int_equal(pat_bad(mem, MIB(4), 3), -1);
	assert_int_equal(pat_bad(more, MIB(28), 4), -1);
	/* All of it cannot be kept in memory. */
	assert_int_equal(vac_lock(s, more, MIB(28)), -ENOMEM);
	assert_int_equal(vac_lock(s, more + MIB(28), MIB(2)), -ENOMEM);
	assert_ok(vac_unlock(s, mem, MIB(2)));
	assert_int_equal(pat_bad(more, MIB(28), 4), -1);
	assert_int_equal(pat_bad(mem, MIB(4), 3), -1);
	t_close(pool);
}

/* ---- A page that the kernel holds without a pin ------------------------------------------------- */

static void test_held(void **state UNUSED)
{
	struct vac_pool *pool = pool_for(MIB(32));
	struct vac_space *s = t_space(pool, MIB(40));
	char *mem = t_map(s, MIB(2), VAC_MAP_NOHUGE), *more = t_map(s, MIB(30), VAC_MAP_NOHUGE);
	char *held = mem + 33 * P, *neighbour = mem + 400 * P, got[P];
	struct iovec iov = {held, P};
	int p[2];

	if (!t_stats(pool).sees_holders) {
		t_close(pool);
		print_message("SKIP: the kernel's counts cannot be seen here\n");
		skip();
	}
	pat_fill(mem, MIB(2), 21);
	MUST(pipe(p) == 0);
	MUST(vmsplice(p[1], &iov, 1, 0) == (ssize_t)P);
	for (int i = 0; i < 3; i++) {
		pat_fill(more, MIB(30), 22 + (uint64_t)i);
		assert_int_equal(t_page(s, held).present, 1);
	}
	assert_true(t_stats(pool).foreign_held > 0);
	assert_int_equal(t_page(s, neighbour).present == 1 && t_stats(pool).swap_out == 0, 0);
	/* What the pipe has is what the page shows still. */
	MUST(read(p[0], got, P) == (ssize_t)P);
	assert_memory_equal(got, held, P);
	assert_int_equal(pat_bad(mem, MIB(2), 21), -1);
	close(p[0]);
	close(p[1]);
	for (int i = 0; i < 8 && t_page(s, held).present == 1; i++)
		pat_fill(more, MIB(30), 30 + (uint64_t)i);
	assert_int_equal(t_page(s, held).present, 3);
	assert_int_equal(pat_bad(mem, MIB(2), 21), -1);
	t_close(pool);
}

/* ---- A file that fails --------------------------------------------------------------------------- */

static struct {
	_Atomic bool reads, writes;
	_Atomic uint64_t from, to; /* offsets that fail */
} bad;

static void bad_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run,
		   unsigned n)
{
	vac__port_mem_ops.swap_io(ctx, f, write, run, n);
	for (unsigned i = 0; i < n; i++) {
		if (!(write ? bad.writes : bad.reads) || run[i].off >= bad.to ||
		    run[i].off + run[i].bytes <= bad.from)
			continue;
		if (!write)
			memset(run[i].mem, 0, run[i].bytes);
		run[i].err = -EIO;
	}
}

static struct vac__mem_ops bad_ops;

static sigjmp_buf jump;
static void on_bus(int sig UNUSED)
{
	siglongjmp(jump, 1);
}

static bool dies(volatile char *p)
{
	struct sigaction a = {.sa_handler = on_bus}, old;
	bool died = true;

	sigaction(SIGBUS, &a, &old);
	if (sigsetjmp(jump, 1) == 0) {
		(void)*p;
		died = false;
	}
	sigaction(SIGBUS, &old, NULL);
	return died;
}

static void test_read_errors(void **state UNUSED)
{
	struct vac_fault_info info = VAC_INIT(struct vac_fault_info);
	struct vac_pool *pool;
	struct vac_space *s;
	char *mem, *victim = NULL;
	uint64_t pin;

	bad_ops = vac__port_mem_ops;
	bad_ops.swap_io = bad_io;
	vac__mem_ops_override = &bad_ops;
	pool = pool_for(MIB(32));
	s = t_space(pool, MIB(32));
	mem = t_map(s, MIB(32), VAC_MAP_NOHUGE);
	pat_fill(mem, MIB(32), 5);
	for (size_t at = 5 * P; at < MIB(32) && !victim; at += 16 * P) {
		uint64_t e = vac__entry_get(s, (uint32_t)(at / P));

		/* Only in the file: what is being written yet is in memory too, and is not read. */
		if (vac__e_swap(e) && !vac__ld(&pool->swap.slot[vac__e_pfn(e)].cache)) {
			victim = mem + at;
			bad.from = (uint64_t)vac__e_pfn(e) * P;
		}
	}
	assert_non_null(victim);
	/* Every page of the cluster fails as one transfer; by itself only the one. */
	bad.to = bad.from + P;
	bad.reads = true;
	assert_int_equal(vac_pin(s, victim, P, VAC_PIN_READ, "me", &pin), -EIO);
	assert_int_equal(vac_prefault(s, victim, P, VAC_PROT_READ), -EIO);
	for (long i = -5; i < 11; i++)
		if (i)
			assert_ok(vac_prefault(s, victim + i * (long)P, P, VAC_PROT_READ));
	if (!TSAN) {
		assert_true(dies(victim));
		assert_ok(vac_last_fault(pool, &info));
		assert_int_equal(info.why, VAC_REFUSED_SWAP);
		assert_int_equal(info.err, -EIO);
		assert_int_equal(info.addr & ~(P - 1), (uintptr_t)victim);
	}
	assert_true(t_stats(pool).swap_errors > 0);
	bad.reads = false;
	/* Under userfaultfd a refusal stands for a while. */
	while (t_ms() && dies(victim))
		usleep(5000);
	assert_int_equal(pat_bad(mem, MIB(32), 5), -1);
	t_close(pool);
	vac__mem_ops_override = NULL;
}

static void test_write_errors(void **state UNUSED)
{
	struct vac_pool *pool;
	struct vac_space *s;
	char *mem;

	bad_ops = vac__port_mem_ops;
	bad_ops.swap_io = bad_io;
	vac__mem_ops_override = &bad_ops;
	pool = pool_for(MIB(32));
	s = t_space(pool, MIB(32));
	mem = t_map(s, MIB(32), 0);
	bad.from = MIB(1);
	bad.to = MIB(1) + 37 * P;
	bad.writes = true;
	pat_fill(mem, MIB(32), 6);
	assert_int_equal(pat_bad(mem, MIB(32), 6), -1);
	pat_fill(mem, MIB(32), 8);
	assert_int_equal(pat_bad(mem, MIB(32), 8), -1);
	assert_in_range(t_stats(pool).swap_bad, 5, 37);
	assert_true(t_stats(pool).swap_errors >= t_stats(pool).swap_bad);
	assert_int_equal(vac_pool_check(pool, NULL, 0), 0);
	t_check(pool);
	bad.writes = false;
	assert_int_equal(pat_bad(mem, MIB(32), 8), -1);
	t_close(pool);
	vac__mem_ops_override = NULL;
}

/* ---- fork ----------------------------------------------------------------------------------------- */

static void test_fork(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *s;
	int fd, status, pid;
	char *mem;

	o.flags |= VAC_POOL_FORK_COPY;
	pool = t_open(&o, 3);
	fd = t_swap_file(MIB(64));
	assert_ok(swap_on(pool, fd, MIB(64)));
	close(fd);
	s = t_space(pool, MIB(24));
	mem = t_map(s, MIB(24), 0);
	pat_fill(mem, MIB(24), 9);
	assert_true(t_stats(pool).swap_used > 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0)
		_exit(pat_bad(mem, MIB(24), 9) == -1 ? 0 : 1);
	MUST(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	assert_int_equal(pat_bad(mem, MIB(24), 9), -1);
	t_close(pool);
}

/* ---- Wrong calls ----------------------------------------------------------------------------------- */

static void test_refused(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);
	int fd = t_swap_file(MIB(4)), p[2];

	assert_int_equal(vac_swap_on(pool, NULL), -EINVAL);
	assert_int_equal(swap_on(pool, -1, MIB(4)), -EINVAL);
	assert_int_equal(swap_on(pool, fd, MIB(4) + P * 16), -EINVAL);
	assert_int_equal(swap_on(pool, fd, P), -EINVAL);
	assert_int_equal(swap_on(pool, 12345, MIB(4)), -EBADF);
	MUST(pipe(p) == 0);
	assert_int_equal(swap_on(pool, p[0], MIB(4)), -EINVAL);
	close(p[0]);
	close(p[1]);
	o.fd = fd;
	o.bytes = MIB(4);
	o.flags = 1;
	assert_int_equal(vac_swap_on(pool, &o), -EINVAL);
	assert_int_equal(vac_swap_off(pool, 0), -EALREADY);
	assert_ok(swap_on(pool, fd, MIB(4)));
	assert_int_equal(t_stats(pool).swap_slots, MIB(4) / P);
	assert_ok(vac_swap_off(pool, 0));
	assert_int_equal(vac_swap_off(pool, 0), -EALREADY);
	close(fd);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_half),         cmocka_unit_test(test_lock),
		cmocka_unit_test(test_held),         cmocka_unit_test(test_everything),
		cmocka_unit_test(test_third_leaves), cmocka_unit_test(test_off_under_load),
		cmocka_unit_test(test_read_errors),  cmocka_unit_test(test_write_errors),
		cmocka_unit_test(test_fork),         cmocka_unit_test(test_refused),
	};

	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

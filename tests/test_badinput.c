/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * What a caller may get wrong, or run out of: each a clear error, and a pool in which nothing has
 * changed.
 */
#include "tests/util.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include "port/port.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

/* A pool at work: huge, base and pinned memory, a hole, and an offline block. */
static struct vac_pool *pool;
static struct vac_space *space;
static char *mem;
static uint64_t pin;
static struct vac_pool_stats before;

#define MEM_BYTES (2 * HUGE + 64 * P)
#define HOLE (HUGE + 100 * P) /* a page */

static int setup(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));

	o.gate_timeout_ms = 50;
	o.max_bytes = 4 * MIB(4);
	pool = t_open(&o, 3);
	assert_int_equal(vac_block_add(pool, NULL), 3);
	space = t_space(pool, MIB(8));
	mem = t_map(space, MEM_BYTES, VAC_MAP_POPULATE);
	assert_ok(vac_unmap(space, mem + HOLE, P));
	pat_fill(mem, HOLE, 1);
	pat_fill(mem + HOLE + P, MEM_BYTES - HOLE - P, 2);
	pin = t_pin(space, mem + 5, 10 * P, 0, "bystander");
	before = t_stats(pool);
	return 0;
}

static void intact(void)
{
	struct vac_pool_stats now = t_stats(pool);

	assert_int_equal(now.blocks, before.blocks);
	assert_int_equal(now.blocks_online, before.blocks_online);
	assert_int_equal(now.frames_total, before.frames_total);
	assert_int_equal(now.frames_free + now.frames_reserved,
			 before.frames_free + before.frames_reserved);
	assert_int_equal(now.frames_used, before.frames_used);
	assert_int_equal(now.frames_isolated, 0);
	assert_int_equal(now.spaces, before.spaces);
	assert_int_equal(now.pins, before.pins);
	assert_int_equal(now.host_vmas, before.host_vmas);
	assert_int_equal(now.splits, before.splits);
	assert_int_equal(now.migrate_attempts, before.migrate_attempts);
	assert_int_equal(pat_bad(mem, HOLE, 1), -1);
	assert_int_equal(pat_bad(mem + HOLE + P, MEM_BYTES - HOLE - P, 2), -1);
	assert_true(can_write(mem) && can_write(mem + MEM_BYTES - 1) && !can_read(mem + HOLE));
	t_check(pool);
}

static int teardown(void **state UNUSED)
{
	intact();
	assert_ok(vac_unpin(pool, pin));
	for (int id = 0; id < 3; id++) { /* and it works as ever */
		assert_ok(t_offline(pool, id, 0, NULL));
		assert_ok(t_online(pool, id));
	}
	before = t_stats(pool);
	t_close(pool);
	return 0;
}

/* ---- Ranges --------------------------------------------------------------------------------------- */

/* All calls that take a range of pages answer alike. */
static void range_refused(void *addr, size_t len)
{
	void *out = (void *)42;

	assert_int_equal(vac_map(space, addr, len, RW, VAC_MAP_FIXED, &out), -EINVAL);
	assert_ptr_equal(out, (void *)42);
	assert_int_equal(vac_unmap(space, addr, len), -EINVAL);
	assert_int_equal(vac_protect(space, addr, len, VAC_PROT_READ), -EINVAL);
	for (int a = VAC_ADV_WILLNEED; a <= VAC_ADV_COLD; a++)
		assert_int_equal(vac_advise(space, addr, len, (enum vac_advice)a), -EINVAL);
}

static void test_unaligned(void **state UNUSED)
{
	static const size_t off[] = {1, 8, 511, 2048, 4095};
	void *out;

	for (unsigned i = 0; i < COUNT(off); i++) {
		range_refused(mem + off[i], P);
		range_refused(mem, P + off[i]);
		range_refused(mem + off[i], P - off[i]);
		range_refused(mem, off[i]);
		assert_int_equal(vac_map(space, NULL, P + off[i], RW, 0, &out), -EINVAL);
	}
}

static void test_foreign(void **state UNUSED)
{
	struct vac_space *another = t_space(pool, MIB(2));
	char *base = vac_space_base(space), local[2 * P], *end = base + vac_space_bytes(space);
	char *heap = aligned_alloc(P, 2 * P);
	uint64_t p;

	range_refused(NULL, P);
	range_refused(base - P, P);
	range_refused(base - P, 2 * P);
	range_refused(end, P);
	range_refused(end - P, 2 * P);
	range_refused(vac_space_base(another), P);
	range_refused(heap, P);
	range_refused((char *)((uintptr_t)(local + P - 1) & ~(P - 1)), P);
	range_refused((void *)~(uintptr_t)(P - 1), P);
	assert_int_equal(vac_pin(space, heap, 1, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(space, NULL, 1, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(space, base - 1, 1, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(space, base - 1, 2, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(space, end, 1, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(space, end - 1, 2, 0, NULL, &p), -EFAULT);
	assert_int_equal(vac_pin(another, mem, 1, 0, NULL, &p), -EFAULT);
	assert_ok(vac_space_destroy(another));
	free(heap);
}

static void test_overflow(void **state UNUSED)
{
	static const size_t huge_len[] = {SIZE_MAX, SIZE_MAX - 4094, (size_t)1 << 63,
					  (size_t)1 << 44, SIZE_MAX - MIB(2)};
	void *out = NULL;
	uint64_t p;
	int r;

	for (unsigned i = 0; i < COUNT(huge_len); i++) {
		range_refused(mem, huge_len[i] & ~(P - 1));
		range_refused(mem, -((uintptr_t)mem) & ~(P - 1)); /* up to the very end */
		range_refused(mem, (-((uintptr_t)mem) & ~(P - 1)) + P);
		r = vac_map(space, NULL, huge_len[i] & ~(P - 1), RW, 0, &out);
		assert_true(r == -ENOMEM || r == -EINVAL);
		r = vac_pin(space, mem, huge_len[i], 0, NULL, &p);
		assert_true(r == -EFAULT || r == -EINVAL);
	}
	assert_int_equal(vac_pin(space, mem + 1, SIZE_MAX, 0, NULL, &p), -EINVAL);
	assert_int_equal(vac_pin(space, mem, SIZE_MAX - (uintptr_t)mem + 1, 0, NULL, &p), -EINVAL);
	assert_int_equal(vac_pin(space, mem, SIZE_MAX - (uintptr_t)mem, 0, NULL, &p), -EFAULT);
	assert_null(out);
}

static void test_nothing(void **state UNUSED)
{
	void *out;
	uint64_t p;

	range_refused(mem, 0);
	assert_int_equal(vac_map(space, NULL, 0, RW, 0, &out), -EINVAL);
	assert_int_equal(vac_pin(space, mem, 0, 0, NULL, &p), -EINVAL);
	assert_int_equal(vac_map(space, NULL, P, RW, 0, NULL), -EINVAL);
	assert_int_equal(vac_pin(space, mem, 1, 0, NULL, NULL), -EINVAL);
	assert_int_equal(vac_report_block(pool, 0, NULL), -EINVAL);
}

static void test_unknown_bits(void **state UNUSED)
{
	char *free_page = mem + HOLE;
	void *out;
	uint64_t p;

	for (unsigned bit = 0; bit < 32; bit++) {
		unsigned b = 1u << bit;

		if (b & ~(unsigned)RW) {
			assert_int_equal(vac_map(space, NULL, P, (int)(RW | b), 0, &out), -EINVAL);
			assert_int_equal(vac_protect(space, mem, P, (int)(RW | b)), -EINVAL);
		}
		if (b & ~(VAC_MAP_FIXED | VAC_MAP_NOHUGE | VAC_MAP_POPULATE))
			assert_int_equal(vac_map(space, free_page, P, RW, VAC_MAP_FIXED | b, &out),
					 -EINVAL);
		if (b & ~(VAC_PIN_WRITE | VAC_PIN_LONGTERM | VAC_PIN_STACK | VAC_PIN_NOWAIT))
			assert_int_equal(vac_pin(space, mem, 1, b, NULL, &p), -EINVAL);
	}
	assert_int_equal(vac_map(space, NULL, P, RW, VAC_MAP_FIXED, &out), -EINVAL);
	assert_int_equal(vac_map(space, free_page, P, RW, 0, &out), -EINVAL); /* no hints */
	assert_int_equal(vac_advise(space, mem, P, (enum vac_advice)0), -EINVAL);
	assert_int_equal(vac_advise(space, mem, P, (enum vac_advice)99), -EINVAL);
}

static void test_spaces(void **state UNUSED)
{
	struct vac_space_opts o = VAC_INIT(struct vac_space_opts);
	struct vac_space *s = (void *)1;
	char name[VAC_NAME_MAX + 1];

	assert_int_equal(vac_space_create(pool, &o, &s), -EINVAL); /* how many bytes? */
	assert_int_equal(vac_space_create(pool, NULL, &s), -EINVAL);
	o.bytes = MIB(2);
	assert_int_equal(vac_space_create(pool, &o, NULL), -EINVAL);
	o.bytes = ((uint64_t)16 << 40) + 1;
	assert_int_equal(vac_space_create(pool, &o, &s), -EINVAL);
	o.bytes = UINT64_MAX;
	assert_int_equal(vac_space_create(pool, &o, &s), -EINVAL);
	o.bytes = MIB(2);
	o.size = sizeof(o) + 1;
	assert_int_equal(vac_space_create(pool, &o, &s), -EINVAL);
	o.size = sizeof(o);
	memset(name, 'x', sizeof(name));
	name[VAC_NAME_MAX] = 0;
	o.name = name;
	assert_int_equal(vac_space_create(pool, &o, &s), -EINVAL);
	assert_ptr_equal(s, (void *)1);
	o.name = name + 1;
	assert_ok(vac_space_create(pool, &o, &s));
	assert_ok(vac_space_destroy(s));
}

/* ---- Blocks, pins -------------------------------------------------------------------------------------- */

static void test_block_size(void **state UNUSED)
{
	static const uint64_t bytes[] = {1, 4096, 3 << 20, (4 << 20) + 1, 1ull << 31, UINT64_MAX};

	for (unsigned i = 0; i < COUNT(bytes); i++) {
		struct vac_pool_opts o = t_opts(bytes[i]);
		struct vac_pool *p = NULL;

		o.max_bytes = 0;
		assert_int_equal(vac_pool_open(&o, &p), -EINVAL);
		assert_null(p);
	}
}

static void test_unknown_block(void **state UNUSED)
{
	static const int id[] = {-1, 4, 5, 65536, INT32_MAX, INT32_MIN};
	struct vac_offline_result res;
	struct vac_report *r;

	for (unsigned i = 0; i < COUNT(id); i++) {
		assert_int_equal(t_offline(pool, id[i], 0, &res), -ENOENT);
		assert_null(res.report);
		assert_int_equal(t_online(pool, id[i]), -ENOENT);
		assert_int_equal(vac_block_remove(pool, id[i]), -ENOENT);
		assert_int_equal(vac_block_cancel(pool, id[i]), -ENOENT);
		assert_int_equal(vac_report_block(pool, id[i], &r), -ENOENT);
	}
}

static void test_offline_block(void **state UNUSED)
{
	struct vac_offline_result res;

	assert_int_equal(t_offline(pool, 3, 0, &res), -EALREADY);
	assert_int_equal(vac_block_cancel(pool, 3), -EALREADY);
	assert_int_equal(t_online(pool, 0), -EALREADY);
	assert_int_equal(vac_block_remove(pool, 0), -EBUSY);
	assert_int_equal(vac_block_cancel(pool, 0), -EALREADY);
}

static void test_last_block(void **state UNUSED)
{
	struct vac_pool *p = t_pool(MIB(2), 1);
	struct vac_space *s = t_space(p, MIB(2));
	struct vac_offline_result res;
	char *m = t_map(s, MIB(1), 0);

	pat_fill(m, MIB(1), 4);
	assert_int_equal(t_offline(p, 0, 0, &res), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(1));
	vac_report_free(res.report);
	assert_int_equal(pat_bad(m, MIB(1), 4), -1);
	assert_int_equal(t_block(p, 0).state, VAC_BLOCK_ONLINE);
	t_close(p);
}

static void test_pin_across_hole(void **state UNUSED)
{
	uint64_t p = 42;

	for (size_t lo = 0; lo < 4; lo++)
		for (size_t hi = 1; hi < 4; hi++)
			assert_int_equal(
				vac_pin(space, mem + HOLE - lo * P, (lo + hi) * P, 0, "x", &p),
				-EFAULT);
	assert_int_equal(vac_pin(space, mem, MEM_BYTES, 0, "x", &p), -EFAULT);
	assert_int_equal(vac_pin(space, mem + HOLE - 1, 2, 0, "x", &p), -EFAULT);
	assert_int_equal(vac_pin(space, mem + MEM_BYTES - 1, 2, 0, "x", &p), -EFAULT);
	assert_int_equal(p, 42);
	for (size_t off = 0; off < MEM_BYTES; off += P)
		if (off != HOLE)
			assert_int_equal(t_page(space, mem + off).pins,
					 off < HUGE); /* the bystander's */
}

static void test_double_unpin(void **state UNUSED)
{
	uint64_t p = t_pin(space, mem, HUGE, 0, "x");

	assert_ok(vac_unpin(pool, p));
	for (int i = 0; i < 3; i++)
		assert_int_equal(vac_unpin(pool, p), -EINVAL);
	assert_int_equal(vac_unpin(pool, p + 1), -EINVAL);
	assert_int_equal(vac_unpin(pool, 0), -EINVAL);
	assert_int_equal(vac_unpin(pool, ~p), -EINVAL);
	assert_int_equal(t_page(space, mem).pins, 1);
}

static void test_destroy_held(void **state UNUSED)
{
	assert_int_equal(vac_space_destroy(space), -EBUSY);
	intact();
	assert_int_equal(vac_pool_close(pool), -EBUSY);
}

/* ---- Limits ------------------------------------------------------------------------------------------------ */

static void test_max_bytes(void **state UNUSED)
{
	struct vac_block_opts o = VAC_INIT(struct vac_block_opts);

	assert_int_equal(vac_block_add(pool, NULL), -ENOSPC);
	o.id = 4;
	assert_int_equal(vac_block_add(pool, &o), -ENOSPC);
	o.id = 3;
	assert_int_equal(vac_block_add(pool, &o), -EEXIST);
}

/* More than the blocks have: said where it can be said. */
static void test_out_of_memory(void **state UNUSED)
{
	struct vac_space *s = t_space(pool, MIB(32));
	char *m = t_map(s, MIB(32), VAC_MAP_POPULATE); /* as far as it goes */
	uint64_t p;

	assert_int_equal(t_stats(pool).frames_free + t_stats(pool).frames_reserved, 0);
	assert_int_equal(vac_advise(s, m + MIB(24), MIB(2), VAC_ADV_WILLNEED), -ENOMEM);
	assert_int_equal(vac_pin(s, m + MIB(24), 5 * P, 0, "x", &p), -ENOMEM);
	assert_int_equal(zero_bad(m, MIB(4)), -1); /* what is there is good */
	t_check(pool);
	assert_ok(vac_space_destroy(s));
}

/* And where it cannot, a SIGBUS, as of a file on a full disk. */
static void case_touch_too_much(void)
{
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool *p;
	struct vac_space *s;
	void *m;

	so.bytes = MIB(4);
	MUST_OK(vac_pool_open(&o, &p));
	MUST_OK(vac_block_online(p, vac_block_add(p, NULL), VAC_ZONE_MOVABLE));
	MUST_OK(vac_space_create(p, &so, &s));
	MUST_OK(vac_map(s, NULL, MIB(4), RW, 0, &m));
	memset(m, 1, MIB(2));
	((volatile char *)m)[MIB(3)] = 1;
}

static void test_touch_too_much(void **state UNUSED)
{
	char err[512];
	int status = case_run("touch_too_much", err, sizeof(err));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void test_vma_limit(void **state UNUSED)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_opts po = t_opts(MIB(2));
	char *more = t_map(space, 16 * P, VAC_MAP_NOHUGE);
	struct vac_space *s = NULL;
	struct vac_pool *p = NULL;
	uint64_t used, limit, h;
	long taken;
	int r[9];

	so.bytes = MIB(2);
	for (taken = 0; vac__port_vma_charge(1, false);)
		taken++;
	r[0] = vac_space_create(pool, &so, &s);
	r[1] = vac_pool_open(&po, &p);
	r[2] = t_online(pool, 3);
	r[3] = vac_advise(space, more, P, VAC_ADV_WILLNEED);
	r[4] = vac_pin(space, more, P, 0, "x", &h);
	r[5] = vac_protect(space, mem + 5 * P, P, VAC_PROT_READ);
	r[6] = vac_unmap(space, mem + HUGE + 5 * P, P);
	r[7] = vac_advise(space, mem + HUGE + 8 * P, P, VAC_ADV_DONTNEED);
	vac__port_vma_usage(&used, &limit);
	vac__port_vma_charge(-taken, true);
	for (int i = 0; i < 8; i++)
		if (r[i] != -ENOMEM && !(i == 5 && r[i] == -EBUSY)) /* that one is pinned besides */
			fail_msg("call %d answers %d", i, r[i]);
	assert_true(used <= limit);
	assert_null(s);
	assert_null(p);
	assert_ok(vac_unmap(space, more, 16 * P));
	intact();
	assert_ok(vac_space_create(pool, &so, &s));
	assert_ok(vac_space_destroy(s));
}

static void test_descriptors(void **state UNUSED)
{
	struct rlimit old, low;
	int next;

	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	low = old;
	next = dup(0);
	assert_true(next >= 0);
	close(next);
	low.rlim_cur = (rlim_t)next; /* the lowest that is free: none is to be had below */
	assert_ok(setrlimit(RLIMIT_NOFILE, &low));
	for (int i = 0; i < 3; i++)
		if (t_online(pool, 3) != -EMFILE) {
			setrlimit(RLIMIT_NOFILE, &old);
			fail_msg("online without a descriptor to be had");
		}
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	assert_int_equal(t_block(pool, 3).state, VAC_BLOCK_OFFLINE);
	intact();
	assert_ok(t_online(pool, 3));
	assert_ok(t_offline(pool, 3, 0, NULL));
}

/* No addresses left. */
static void case_no_addresses(void)
{
	struct vac_pool_opts o = t_opts(MIB(128));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct rlimit l = {MIB(512), MIB(512)};
	struct vac_pool *p, *q = NULL;
	struct vac_space *s = NULL;
	unsigned maps;

	o.max_bytes = MIB(128);
	MUST_OK(vac_pool_open(&o, &p));
	MUST(setrlimit(RLIMIT_AS, &l) == 0);
	maps = maps_total();
	so.bytes = (uint64_t)1 << 30;
	for (int i = 0; i < 3; i++) {
		MUST(vac_space_create(p, &so, &s) == -ENOMEM && !s);
		o.max_bytes = (uint64_t)4 << 30;
		MUST(vac_pool_open(&o, &q) == -ENOMEM && !q);
	}
	MUST(maps_total() == maps);
	MUST(vac_pool_check(p, NULL, 0) == 0 && vac_pool_close(p) == 0);
}

static void test_no_addresses(void **state UNUSED)
{
	char err[512];

	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer needs all the addresses\n");
		skip();
	}
	assert_int_equal(case_run("no_addresses", err, sizeof(err)), 0);
}

/* ---- A full cgroup --------------------------------------------------------------------------------------------- */

#define CG_ROOM MIB(96)

static sigjmp_buf after_bus;

static void on_bus(int sig UNUSED)
{
	siglongjmp(after_bus, 1);
}

static void case_full_cgroup(void)
{
	struct vac_pool_opts o = t_opts(MIB(16));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct sigaction a;
	struct vac_pool *p;
	struct vac_space *s;
	size_t good = 0;
	volatile bool bus = false;
	void *m;
	uint64_t h;

	so.bytes = MIB(256);
	MUST_OK(vac_pool_open(&o, &p));
	for (int i = 0; i < 16; i++)
		MUST(t_online(p, vac_block_add(p, NULL)) == 0);
	MUST_OK(vac_space_create(p, &so, &s));
	MUST_OK(vac_map(s, NULL, MIB(256), RW, 0, &m));
	step_done('0'); /* in a cgroup with room for CG_ROOM from here on */
	while (good < MIB(256) && vac_advise(s, (char *)m + good, HUGE, VAC_ADV_WILLNEED) == 0) {
		pat_fill((char *)m + good, HUGE, good);
		good += HUGE;
	}
	MUST(good >= CG_ROOM / 2 && good <= CG_ROOM);
	/* Full: an error, again and again, by every way in; and nobody is killed. */
	MUST(vac_advise(s, (char *)m + good, HUGE, VAC_ADV_WILLNEED) == -ENOMEM);
	MUST(vac_pin(s, (char *)m + good, HUGE, 0, "x", &h) == -ENOMEM);
	memset(&a, 0, sizeof(a));
	a.sa_handler = on_bus;
	MUST(sigaction(SIGBUS, &a, NULL) == 0);
	if (sigsetjmp(after_bus, 1) == 0)
		((volatile char *)m)[good + HUGE / 2] = 1;
	else
		bus = true;
	MUST(bus);
	MUST_OK(vac_pool_check(p, NULL, 0));
	for (size_t at = 0; at < good; at += HUGE)
		MUST(pat_bad((char *)m + at, HUGE, at) == -1);
	/* A block may not be moved if that takes memory that is not there. It stays, whole. */
	{
		int r = t_offline(p, 0, 300, NULL);

		MUST(r == -ENOMEM || r == -ETIMEDOUT || r == 0);
		if (r == 0)
			MUST(t_online(p, 0) == 0);
	}
	for (size_t at = 0; at < good; at += HUGE)
		MUST(pat_bad((char *)m + at, HUGE, at) == -1);
	/* What is given back can be had again. */
	MUST_OK(vac_unmap(s, m, MIB(32)));
	MUST_OK(vac_advise(s, (char *)m + good, HUGE, VAC_ADV_WILLNEED));
	MUST(zero_bad((char *)m + good, HUGE) == -1);
	for (int id = 0; id < 16; id++) {
		int r = t_offline(p, id, 2000, NULL);

		MUST(r == 0);
		MUST(t_online(p, id) == 0);
	}
	for (size_t at = MIB(32); at < good; at += HUGE)
		MUST(pat_bad((char *)m + at, HUGE, at) == -1);
	MUST_OK(vac_pool_check(p, NULL, 0));
	MUST_OK(vac_pool_close(p));
}

static void test_full_cgroup(void **state UNUSED)
{
	if (TSAN) {
		print_message(
			"SKIP: forced: the thread sanitizer's own memory is on the same bill\n");
		skip();
	}
	t_case_in_cgroup("full_cgroup", CG_ROOM);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"touch_too_much", case_touch_too_much},
		{"no_addresses", case_no_addresses},
		{"full_cgroup", case_full_cgroup},
	};
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(test_unaligned),
		TEST(test_foreign),
		TEST(test_overflow),
		TEST(test_nothing),
		TEST(test_unknown_bits),
		TEST(test_spaces),
		TEST(test_block_size),
		TEST(test_unknown_block),
		TEST(test_offline_block),
		TEST(test_last_block),
		TEST(test_pin_across_hole),
		TEST(test_double_unpin),
		TEST(test_destroy_held),
		TEST(test_max_bytes),
		TEST(test_out_of_memory),
		cmocka_unit_test(test_touch_too_much),
		TEST(test_vma_limit),
		TEST(test_descriptors),
		cmocka_unit_test(test_no_addresses),
		cmocka_unit_test(test_full_cgroup),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

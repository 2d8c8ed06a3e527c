/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * src/pool.c, src/block.c and src/error.c: opening and closing, the life of a block, options and
 * results that grow, several pools in one process, and arguments that lie in pool memory.
 */
#include "tests/util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- Opening ---------------------------------------------------------------------------------- */

static void test_defaults(void **state UNUSED)
{
	struct vac_pool *pool;
	struct vac_pool_stats s;

	assert_ok(vac_pool_open(NULL, &pool));
	s = t_stats(pool);
	assert_int_equal(s.block_bytes, 128 << 20);
	assert_true(s.guard == VAC_GUARD_SIGSEGV ||
		    s.guard == VAC_GUARD_USERFAULTFD); /* not AUTO */
	assert_int_equal(s.blocks + s.blocks_online + s.frames_total + s.spaces + s.pins, 0);
	assert_int_equal(vac_block_max(pool), 512); /* 64 GiB of them */
	/* Descriptors: 24 bytes a frame, and next to nothing a pageblock; at most 32 in all. */
	assert_true(s.meta_bytes_per_block >= 32768 * 24);
	assert_true(s.meta_bytes_per_block <= 32768 * 24 + 64 * 64);
	assert_true(s.host_vmas > 0 && s.host_vmas < 100 && s.host_vma_limit > 1000);
	assert_ok(vac_pool_check(pool, NULL, 0));
	assert_ok(vac_pool_close(pool));
}

static int opens(const struct vac_pool_opts *o)
{
	struct vac_pool *pool = (void *)1;
	int r = vac_pool_open(o, &pool);

	if (r == 0)
		assert_ok(vac_pool_close(pool));
	else
		assert_ptr_equal(pool, (void *)1);
	return r;
}

static void test_block_sizes(void **state UNUSED)
{
	static const uint64_t good[] = {2 << 20, 4 << 20, 128 << 20, 1 << 30};
	static const uint64_t bad[] = {1,          4096,       1 << 20,         (2 << 20) + 4096,
				       3 << 20,    6 << 20,    (128 << 20) - 1, (1ull << 30) + 4096,
				       3ull << 29, 1ull << 31, 1ull << 63,      UINT64_MAX};

	for (unsigned i = 0; i < COUNT(good); i++) {
		struct vac_pool_opts o = t_opts(good[i]);

		assert_ok(opens(&o));
	}
	for (unsigned i = 0; i < COUNT(bad); i++) {
		struct vac_pool_opts o = t_opts(bad[i]);

		o.max_bytes = 0;
		assert_int_equal(opens(&o), -EINVAL);
	}
}

static void test_options(void **state UNUSED)
{
	static const uint32_t bad_window[] = {1, 2048, 4097, 12288, 4 << 20, 1u << 31};
	char name[VAC_NAME_MAX + 1];
	struct vac_pool_opts o;
	int r;

	for (unsigned i = 0; i < COUNT(bad_window); i++) {
		o = t_opts(MIB(2));
		o.fault_bytes = bad_window[i];
		assert_int_equal(opens(&o), -EINVAL);
	}
	for (uint32_t w = 4096; w <= 2 << 20; w *= 2) {
		o = t_opts(MIB(2));
		o.fault_bytes = w;
		assert_ok(opens(&o));
	}
	o = t_opts(MIB(4));
	o.max_bytes = MIB(2); /* not even one block */
	assert_int_equal(opens(&o), -EINVAL);
	o.max_bytes = UINT64_MAX;
	assert_int_equal(opens(&o), -EINVAL);
	o.max_bytes = (uint64_t)16 << 40; /* frames beyond 32 bits */
	assert_int_equal(opens(&o), -EINVAL);
	o = t_opts(MIB(2));
	o.flags = 1u << 31;
	assert_int_equal(opens(&o), -EINVAL);
	o.flags = VAC_POOL_STACKS | VAC_POOL_NO_HUGE | VAC_POOL_BASE_ONLY;
	assert_ok(opens(&o));
	o = t_opts(MIB(2));
	o.guard = VAC_GUARD_USERFAULTFD;
	r = opens(&o);
	assert_true(r == 0 || r == -EOPNOTSUPP || r == -EACCES); /* as the machine allows */
	o.guard = (enum vac_guard)17;
	assert_int_equal(opens(&o), -EINVAL);
	o.guard = (enum vac_guard) - 1;
	assert_int_equal(opens(&o), -EINVAL);
	memset(name, 'n', sizeof(name));
	name[VAC_NAME_MAX] = 0;
	o = t_opts(MIB(2));
	o.name = name;
	assert_int_equal(opens(&o), -EINVAL);
	o.name = name + 1;
	assert_ok(opens(&o));
	o.name = "";
	assert_ok(opens(&o));
	assert_int_equal(vac_pool_open(&o, NULL), -EINVAL);
}

/* A caller of an older header passes less, of a newer one more. */
static void test_sizes(void **state UNUSED)
{
	struct {
		struct vac_pool_opts o;
		uint64_t newer;
	} big = {.o = t_opts(MIB(2))};
	struct vac_pool *pool;
	struct vac_pool_stats s;

	big.o.size = sizeof(big);
	assert_int_equal(opens(&big.o), -EINVAL);
	big.o.size = 0;
	assert_int_equal(opens(&big.o), -EINVAL);
	big.o.size = sizeof(size_t) - 1;
	assert_int_equal(opens(&big.o), -EINVAL);
	big.o.size = offsetof(struct vac_pool_opts, max_bytes);
	big.o.max_bytes = 1; /* not known to that caller, so not looked at */
	assert_ok(opens(&big.o));
	big.o.size = sizeof(size_t);
	big.o.name = (const char *)1;
	assert_ok(opens(&big.o));

	pool = t_pool(MIB(2), 2);
	memset(&s, 0x55, sizeof(s));
	s.size = offsetof(struct vac_pool_stats, blocks_online);
	assert_ok(vac_pool_stats(pool, &s));
	assert_int_equal(s.size, offsetof(struct vac_pool_stats, blocks_online));
	assert_int_equal(s.blocks, 2);
	assert_int_equal(s.blocks_online, 0x5555555555555555); /* beyond what the caller has */
	s.size = sizeof(s) + 1;
	assert_int_equal(vac_pool_stats(pool, &s), -EINVAL);
	s.size = 1;
	assert_int_equal(vac_pool_stats(pool, &s), -EINVAL);
	assert_int_equal(vac_pool_stats(pool, NULL), -EINVAL);
	t_close(pool);
}

/* ---- The life of a block ------------------------------------------------------------------------ */

static void test_block_life(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_block_opts bo = VAC_INIT(struct vac_block_opts);
	struct vac_block_info i = VAC_INIT(struct vac_block_info);
	struct vac_pool *pool;

	o.max_bytes = 4 * MIB(4);
	pool = t_open(&o, 0);
	assert_int_equal(vac_block_max(pool), 4);
	assert_int_equal(vac_block_info(pool, 0, &i), -ENOENT);
	bo.id = 2;
	assert_int_equal(vac_block_add(pool, &bo), 2);
	assert_int_equal(vac_block_add(pool, &bo), -EEXIST);
	assert_int_equal(vac_block_add(pool, NULL), 0);
	bo.id = -1;
	assert_int_equal(vac_block_add(pool, &bo), 1);
	assert_int_equal(vac_block_add(pool, &bo), 3);
	assert_int_equal(vac_block_add(pool, NULL), -ENOSPC);
	bo.id = 4;
	assert_int_equal(vac_block_add(pool, &bo), -ENOSPC);
	bo.id = -2;
	assert_int_equal(vac_block_add(pool, &bo), -EINVAL);
	assert_int_equal(vac_block_online(pool, 2, (enum vac_zone)2), -EINVAL);
	i = t_block(pool, 2);
	assert_int_equal(i.state, VAC_BLOCK_OFFLINE);
	assert_int_equal(i.fd, -1);
	assert_int_equal(i.bytes, MIB(4));
	assert_int_equal(i.pageblocks, 2);
	assert_int_equal(i.frames_used + i.frames_free + i.frames_reserved, 0);
	assert_ok(t_online(pool, 2));
	assert_int_equal(t_online(pool, 2), -EALREADY);
	assert_int_equal(vac_block_remove(pool, 2), -EBUSY);
	assert_int_equal(vac_block_add(pool, &(struct vac_block_opts){.size = 0}), -EINVAL);
	i = t_block(pool, 2);
	assert_int_equal(i.state, VAC_BLOCK_ONLINE);
	assert_int_equal(i.id, 2);
	assert_int_equal(i.frames_free, 1024);
	assert_ok(t_online(pool, 0));
	assert_ok(t_offline(pool, 2, 0, NULL));
	assert_int_equal(t_block(pool, 2).state, VAC_BLOCK_OFFLINE);
	assert_int_equal(t_offline(pool, 2, 0, NULL), -EALREADY);
	assert_ok(vac_block_remove(pool, 2));
	assert_int_equal(vac_block_remove(pool, 2), -ENOENT);
	assert_int_equal(t_offline(pool, 2, 0, NULL), -ENOENT);
	assert_int_equal(t_online(pool, 2), -ENOENT);
	assert_int_equal(vac_block_add(pool, NULL), 2); /* the number is free again */
	assert_ok(vac_block_remove(pool, 1));           /* never online */
	for (int id = -5; id < 0; id++) {
		assert_int_equal(t_online(pool, id), -ENOENT);
		assert_int_equal(t_offline(pool, id, 0, NULL), -ENOENT);
		assert_int_equal(vac_block_remove(pool, id), -ENOENT);
		assert_int_equal(vac_block_cancel(pool, id), -ENOENT);
		assert_int_equal(vac_block_info(pool, id, &i), -ENOENT);
	}
	assert_int_equal(vac_block_cancel(pool, 0), -EALREADY);
	assert_int_equal(vac_block_cancel(pool, INT32_MAX), -ENOENT);
	i.size = sizeof(i) + 1;
	assert_int_equal(vac_block_info(pool, 0, &i), -EINVAL);
	assert_int_equal(vac_block_info(pool, 0, NULL), -EINVAL);
	t_close(pool);
}

static bool memfd_name(int fd, char *name, size_t bytes)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, bytes - 1);
	name[n > 0 ? n : 0] = 0;
	return n > 0;
}

/* A block is one memfd with the pool's name on it, which has no memory before it is needed, is not
 * inherited by exec, and is gone when the block is. */
static void test_block_memfd(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	struct vac_block_info i = t_block(pool, 0);
	char name[256], *mem;
	struct stat st;

	assert_true(i.fd >= 0 && memfd_name(i.fd, name, sizeof(name)));
	assert_non_null(strstr(name, "memfd:vacate:test:0"));
	assert_true(fcntl(i.fd, F_GETFD) & FD_CLOEXEC);
	assert_ok(fstat(i.fd, &st));
	assert_int_equal(st.st_size, MIB(4));
	assert_int_equal(st.st_blocks, 0);
	mem = t_map(s, MIB(2), 0);
	mem[0] = 1;
	assert_int_equal(t_page(s, mem).block, 0);
	assert_ok(fstat(i.fd, &st));
	assert_int_equal(st.st_blocks, MIB(2) / 512); /* a pageblock at a time */
	assert_int_equal(t_block(pool, 0).pageblocks_huge + t_block(pool, 0).pageblocks_base, 1);
	assert_ok(t_offline(pool, 0, 0, NULL));
	assert_false(memfd_name(i.fd, name, sizeof(name)) && strstr(name, "vacate:test:0"));
	assert_int_equal(mem[0], 1);
	t_close(pool);
}

/* ---- Closing ---------------------------------------------------------------------------------------- */

static void test_close_pinned(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 2);
	struct vac_space *s = t_space(pool, MIB(4));
	char *mem = t_map(s, MIB(1), 0);
	uint64_t pin;

	pat_fill(mem, MIB(1), 1);
	pin = t_pin(s, mem, 1, 0, "x");
	assert_int_equal(vac_pool_close(pool), -EBUSY);
	assert_int_equal(vac_space_destroy(s), -EBUSY);
	assert_int_equal(pat_bad(mem, MIB(1), 1), -1); /* and all is as it was */
	assert_int_equal(t_stats(pool).spaces, 1);
	t_check(pool);
	assert_ok(vac_unpin(pool, pin));
	t_close(pool);
}

/* Nothing is left behind by a pool: no address, no descriptor, no host mapping booked (t_close). */
static void test_reopen(void **state UNUSED)
{
	unsigned maps = 0;

	for (unsigned i = 0; i < scaled(100) + 3; i++) {
		struct vac_pool *pool = t_pool(MIB(2), 3);
		struct vac_space *a = t_space(pool, MIB(4)), *b = t_space(pool, MIB(2));
		char *mem = t_map(a, MIB(3), 0);
		uint64_t pin;

		memset(mem, (int)i, MIB(3));
		t_map(b, MIB(1), VAC_MAP_POPULATE)[5] = 1;
		pin = t_pin(a, mem, MIB(3), VAC_PIN_STACK, "y");
		assert_ok(vac_unpin(pool, pin));
		assert_ok(t_offline(pool, (int)i % 3, 0, NULL) == -ENOMEM ? 0 : 0);
		if (i % 2)
			assert_ok(vac_space_destroy(a));
		t_close(pool);
		if (i == 2)
			maps = maps_total();
	}
	assert_true(TSAN || maps_total() <= maps + 3); /* malloc's own come and go */
}

/* A pin of many runs grows its record; a longer one grows it again. */
static void test_close_after_long_pins(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(8));
	struct vac_pool *pool;
	struct vac_space *s;
	unsigned before = 0;

	for (int round = 0; round < 12; round++) {
		char *mem;

		pool = t_open(&o, 2);
		s = t_space(pool, MIB(32));
		mem = t_scattered(s, MIB(8));
		for (unsigned pages = 8; pages <= 2048; pages *= 4) {
			uint64_t pin = t_pin(s, mem, pages * VAC_PAGE_BYTES, 0, "long");

			assert_ok(vac_unpin(pool, pin));
		}
		t_close(pool);
		if (round == 1)
			before = maps_total();
	}
	assert_true(TSAN || maps_total() <= before + 3);
}

/* ---- Several pools ------------------------------------------------------------------------------------ */

static void test_several_pools(void **state UNUSED)
{
	struct vac_pool *pool[4];
	struct vac_space *s[4][3];
	char *mem[4][3];
	uint64_t pin;

	for (unsigned p = 0; p < 4; p++) {
		pool[p] = t_pool(MIB(2) << p, 3);
		for (unsigned k = 0; k < 3; k++) {
			s[p][k] = t_space(pool[p], MIB(4));
			mem[p][k] = t_map(s[p][k], MIB(1), 0);
			pat_fill(mem[p][k], MIB(1), p * 10 + k);
		}
	}
	for (unsigned p = 0; p < 4; p++)
		for (int id = 0; id < 3; id++) {
			assert_ok(t_offline(pool[p], id, 0, NULL));
			assert_ok(t_online(pool[p], id));
		}
	for (unsigned p = 0; p < 4; p++)
		for (unsigned k = 0; k < 3; k++)
			assert_int_equal(pat_bad(mem[p][k], MIB(1), p * 10 + k), -1);
	pin = t_pin(s[1][1], mem[1][1], 4096, 0, "x");
	assert_int_equal(vac_unpin(pool[2], pin), -EINVAL); /* another pool's, which has none */
	assert_ok(vac_unpin(pool[1], pin));
	/* A space's calls take the space's addresses only. */
	assert_int_equal(vac_unmap(s[0][0], mem[0][1], MIB(1)), -EINVAL);
	assert_int_equal(vac_pin(s[0][0], mem[1][0], 1, 0, NULL, &pin), -EFAULT);
	for (unsigned p = 0; p < 4; p++) {
		t_close(pool[p]);
		for (unsigned q = p + 1; q < 4; q++)
			assert_int_equal(pat_bad(mem[q][2], MIB(1), q * 10 + 2), -1);
	}
}

/* ---- Words --------------------------------------------------------------------------------------------- */

static void test_strerror(void **state UNUSED)
{
	static const int known[] = {EPERM,      ENOENT,    EIO,       EAGAIN,  ENOMEM,
				    EFAULT,     EBUSY,     EEXIST,    EINVAL,  EMFILE,
				    ENOSPC,     ERANGE,    EALREADY,  ENOBUFS, EOVERFLOW,
				    EOPNOTSUPP, ETIMEDOUT, ECANCELED, EUCLEAN};

	for (unsigned i = 0; i < COUNT(known); i++) {
		assert_ptr_equal(vac_strerror(-known[i]), vac_strerror(known[i]));
		assert_string_not_equal(vac_strerror(-known[i]), vac_strerror(-9999));
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(vac_strerror(-known[i]), vac_strerror(-known[k]));
	}
	assert_non_null(vac_strerror(INT32_MIN));
	assert_string_equal(vac_version(), VAC_VERSION);
	for (int c = -1; c < 10; c++)
		assert_non_null(vac_blocker_class_name((enum vac_blocker_class)c));
	assert_string_equal(vac_blocker_class_name(VAC_HELD_LONG_PIN), "long pin");
}

/* ---- Arguments in pool memory ---------------------------------------------------------------------------- */

/* A page of it each, never touched before the call: so the call itself faults it in. */
static char *fresh(struct vac_space *s)
{
	char *p = t_map(s, VAC_PAGE_BYTES, 0);

	return p + 64;
}

/* What the caller has written lies in pages that are written to no more; what is written for him
 * lies in pages that were never there. Options and results, names, owners and handles. */
static void test_arguments_in_pool(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(2), 4), **second;
	struct vac_space *s = t_space(pool, MIB(16)), **another;
	struct vac_pool_opts *po = (void *)fresh(s);
	struct vac_space_opts *so = (void *)fresh(s);
	struct vac_block_opts *bo = (void *)fresh(s);
	struct vac_offline_opts *oo = (void *)fresh(s);
	struct vac_offline_result *res = (void *)fresh(s);
	struct vac_pool_stats *st = (void *)fresh(s);
	struct vac_block_info *bi = (void *)fresh(s);
	struct vac_page_info *pi = (void *)fresh(s);
	struct vac_report **report = (void *)fresh(s);
	struct vac_owner *who = (void *)fresh(s);
	char *name = fresh(s), *owner = fresh(s), *msg = fresh(s), *mem;
	uint64_t *pin = (void *)fresh(s);
	void **out = (void *)fresh(s);

	*po = t_opts(MIB(2));
	po->name = strcpy(name, "in-pool");
	second = (void *)fresh(s);
	assert_ok(vac_pool_open(po, second));
	bo->size = sizeof(*bo);
	bo->id = 7;
	assert_int_equal(vac_block_add(*second, bo), 7);
	assert_ok(vac_pool_close(*second));

	so->size = sizeof(*so);
	so->bytes = MIB(4);
	so->name = name;
	another = (void *)fresh(s);
	assert_ok(vac_space_create(pool, so, another));
	assert_ok(vac_map(*another, NULL, MIB(2), RW, 0, out));
	mem = *out;
	strcpy(owner, "owner in pool memory");
	assert_ok(vac_pin(*another, mem, 100, 0, owner, pin));
	st->size = sizeof(*st);
	assert_ok(vac_pool_stats(pool, st));
	assert_int_equal(st->pins, 1);
	pi->size = sizeof(*pi);
	assert_ok(vac_page_info(*another, mem, pi));
	assert_int_equal(pi->pins, 1);
	bi->size = sizeof(*bi);
	assert_ok(vac_block_info(pool, pi->block, bi));
	assert_int_equal(bi->pins, 1);
	assert_ok(vac_report_block(pool, pi->block, report));
	assert_int_equal(vac_report_count(*report), 1);
	assert_ok(vac_report_owner(*report, 0, 0, who));
	assert_string_equal(who->owner, owner);
	vac_report_free(*report);
	oo->size = sizeof(*oo);
	oo->timeout_ms = 50;
	res->size = sizeof(*res);
	assert_int_equal(vac_block_offline(pool, pi->block, oo, res), -EBUSY);
	assert_string_equal(res->waited_for, owner);
	vac_report_free(res->report);
	assert_ok(vac_unpin(pool, *pin));
	oo->timeout_ms = 0;
	for (int id = 0; id < 4; id++) { /* everything above moves away under the calls */
		assert_ok(vac_block_offline(pool, id, oo, res));
		assert_int_equal(res->missing_bytes, 0);
		assert_ok(t_online(pool, id));
	}
	assert_ok(vac_pool_check(pool, msg, 100));
	assert_string_equal(msg, "");
	/* An argument in the memory that the call itself takes away or protects. */
	out = (void *)(mem + 64);
	*out = NULL;
	assert_ok(vac_map(*another, NULL, VAC_PAGE_BYTES, RW, 0, out));
	assert_non_null(*out);
	strcpy(mem, "pinned by its own name");
	assert_ok(vac_pin(*another, mem, MIB(2), VAC_PIN_WRITE, mem, (uint64_t *)(mem + 128)));
	assert_ok(vac_unpin(pool, *(uint64_t *)(mem + 128)));
	assert_ok(vac_space_destroy(*another));
	t_close(pool);
}

/* Also where they are being moved meanwhile, and where the pages must wait for that. */
struct moving {
	struct vac_pool *pool;
	struct vac_space *space;
};

static void call_with_pool_arguments(struct member *m)
{
	struct moving *v = m->arg;
	char *mem = t_map(v->space, MIB(2), m->nr % 2 ? VAC_MAP_NOHUGE : 0);

	while (!m->team->stop) {
		size_t at = rnd(&m->rnd) % 500 * VAC_PAGE_BYTES;
		uint64_t *pin = (uint64_t *)(mem + at + 8);
		struct vac_page_info *i = (void *)(mem + at + 64);
		char *owner = mem + at + VAC_PAGE_BYTES - 8; /* across a border */

		strcpy(owner, "across a border");
		MUST(vac_pin(v->space, mem + at, 3 * VAC_PAGE_BYTES, VAC_PIN_WRITE, owner, pin) ==
		     0);
		i->size = sizeof(*i);
		MUST_OK(vac_page_info(v->space, mem + at, i));
		MUST(i->present == 1 && i->pins >= 1);
		MUST_OK(vac_unpin(v->pool, *pin));
		m->team->rounds++;
	}
}

static void test_arguments_moving(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct moving v = {pool, t_space(pool, MIB(16))};
	struct team t;
	uint64_t end;

	team_start(&t, 4, call_with_pool_arguments, &v);
	for (end = t_ms() + scaled(1500); t_ms() < end;) {
		for (int id = 0; id < 4; id++) {
			MUST(t_offline(pool, id, 30000, NULL) == 0);
			MUST(t_online(pool, id) == 0);
		}
	}
	team_stop(&t);
	t_close(pool);
}

/* ---- fork() ------------------------------------------------------------------------------------------------ */

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_report *report;
	char *mem;
	uint64_t pin;
} parent;

static int count_blocker(void *ctx UNUSED, const struct vac_blocker *b UNUSED)
{
	return 77;
}

/* Every call of the header, in a child. 0: as promised; else the number of the first that was not. */
static int child_calls(void)
{
	struct vac_pool_opts po = t_opts(MIB(2));
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_block_info bi = VAC_INIT(struct vac_block_info);
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_report *report;
	struct vac_pool *pool;
	struct vac_space *space;
	unsigned char vec;
	uint64_t pin;
	void *out;
	char msg[10];

	so.bytes = MIB(2);
	alarm(20);
	if (vac_pool_open(&po, &pool) != -EPERM || vac_pool_open(NULL, &pool) != -EPERM)
		return 1;
	if (vac_pool_close(parent.pool) != -EPERM || vac_pool_stats(parent.pool, &st) != -EPERM)
		return 2;
	if (vac_pool_check(parent.pool, msg, sizeof(msg)) != -EPERM)
		return 3;
	if (vac_block_add(parent.pool, NULL) != -EPERM ||
	    vac_block_online(parent.pool, 0, 0) != -EPERM)
		return 4;
	if (vac_block_offline(parent.pool, 0, NULL, NULL) != -EPERM)
		return 5;
	if (vac_block_cancel(parent.pool, 0) != -EPERM ||
	    vac_block_remove(parent.pool, 0) != -EPERM)
		return 6;
	if (vac_block_info(parent.pool, 0, &bi) != -EPERM || vac_block_max(parent.pool) != -EPERM)
		return 7;
	if (vac_space_create(parent.pool, &so, &space) != -EPERM ||
	    vac_space_destroy(parent.space) != -EPERM)
		return 8;
	if (vac_space_base(parent.space) || vac_space_bytes(parent.space))
		return 9;
	if (vac_map(parent.space, NULL, 4096, RW, 0, &out) != -EPERM ||
	    vac_unmap(parent.space, parent.mem, 4096) != -EPERM)
		return 10;
	if (vac_protect(parent.space, parent.mem, 4096, 0) != -EPERM ||
	    vac_advise(parent.space, parent.mem, 4096, VAC_ADV_WILLNEED) != -EPERM)
		return 11;
	if (vac_page_info(parent.space, parent.mem, &pi) != -EPERM)
		return 12;
	if (vac_pin(parent.space, parent.mem, 1, 0, NULL, &pin) != -EPERM ||
	    vac_unpin(parent.pool, parent.pin) != -EPERM)
		return 13;
	if (vac_report_block(parent.pool, 0, &report) != -EPERM ||
	    vac_pool_compact(parent.pool, NULL, NULL) != -EPERM)
		return 14;
	vac_report_free(parent.report);
	vac_report_free(NULL);
	if (maps_with("vacate:test"))
		return 15;
	if (mincore(parent.mem, 4096, &vec) == 0 && maps_with("memfd:vacate"))
		return 16;
	return 0;
}

/* A report is memory of the parent, too: the calls that only read it must say no, not crash. */
static int child_reads_report(void)
{
	struct vac_owner who;

	return vac_report_count(parent.report) == 0 &&
			       vac_report_walk(parent.report, count_blocker, NULL) == -EPERM &&
			       vac_report_owner(parent.report, 0, 0, &who) == -EPERM &&
			       vac_report_print(parent.report, stdout) == -EPERM
		       ? 0
		       : 1;
}

static int in_child(int (*fn)(void))
{
	int status, pid = fork();

	if (pid == 0)
		_exit(fn());
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int fork_with_report(int (*fn)(void))
{
	int status;

	parent.pool = t_pool(MIB(2), 2);
	parent.space = t_space(parent.pool, MIB(4));
	parent.mem = t_map(parent.space, MIB(1), VAC_MAP_POPULATE);
	parent.pin = t_pin(parent.space, parent.mem, 1, 0, "parent");
	assert_ok(vac_report_block(parent.pool, t_page(parent.space, parent.mem).block,
				   &parent.report));
	assert_int_equal(vac_report_count(parent.report), 1);
	status = in_child(fn);
	vac_report_free(parent.report);
	assert_ok(vac_unpin(parent.pool, parent.pin));
	t_close(parent.pool);
	return status;
}

static void test_fork_calls(void **state UNUSED)
{
	int status = fork_with_report(child_calls);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_fork_report(void **state UNUSED)
{
	assert_int_equal(fork_with_report(child_reads_report), 0);
}

static int child_touches(void)
{
	parent.mem[0] = 2;
	return 0;
}

static void test_fork_touch(void **state UNUSED)
{
	int status;

	parent.pool = t_pool(MIB(2), 2);
	parent.space = t_space(parent.pool, MIB(4));
	parent.mem = t_map(parent.space, MIB(1), VAC_MAP_POPULATE);
	parent.mem[0] = 1;
	status = in_child(child_touches);
#if ASAN || TSAN
	assert_true(status != 0); /* the sanitizer reports it in its own way */
#else
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
#endif
	assert_int_equal(parent.mem[0], 1);
	t_close(parent.pool);
}

static int child_does_little(void)
{
	alarm(20);
	if (maps_with("memfd:vacate"))
		return 1;
	if (vac_pool_close(parent.pool) != -EPERM || vac_unpin(parent.pool, 0) != -EPERM)
		return 2;
	return malloc(100000) ? 0 : 3;
}

static void work_on_parent(struct member *m)
{
	char *mem = t_map(parent.space, MIB(2), m->nr % 2 ? VAC_MAP_NOHUGE : 0);

	while (!m->team->stop) {
		uint64_t r = rnd(&m->rnd), pin;
		char *p = mem + r % 512 * VAC_PAGE_BYTES;

		*p = 1;
		if (r >> 20 & 1) {
			MUST_OK(vac_pin(parent.space, p, 1, 0, "w", &pin));
			MUST_OK(vac_unpin(parent.pool, pin));
		} else if (r >> 21 & 1) {
			MUST_OK(vac_advise(parent.space, mem, MIB(2), VAC_ADV_DONTNEED));
		} else {
			MUST_OK(vac_protect(parent.space, mem, MIB(2), VAC_PROT_READ));
			MUST_OK(vac_protect(parent.space, mem, MIB(2), RW));
		}
		m->team->rounds++;
	}
}

static void offline_parent(struct member *m)
{
	for (int id = 0; !m->team->stop; id = (id + 1) % 4) {
		MUST(t_offline(parent.pool, id, 30000, NULL) == 0);
		MUST(t_online(parent.pool, id) == 0);
		m->team->rounds++;
	}
}

/* Whatever the others are doing: the child has no page of the pool, no call works, it ends well, and
 * the parent does not notice. */
static void test_fork_any_moment(void **state UNUSED)
{
	struct team work, off;

	parent.pool = t_pool(MIB(4), 4);
	parent.space = t_space(parent.pool, MIB(16));
	parent.mem = t_map(parent.space, MIB(1), VAC_MAP_POPULATE);
	team_start(&work, 3, work_on_parent, NULL);
	team_start(&off, 1, offline_parent, NULL);
	for (unsigned i = 0; i < scaled(300); i++)
		MUST(in_child(child_does_little) == 0);
	team_rounds(&work, 10);
	team_rounds(&off, 2);
	team_stop(&work);
	team_stop(&off);
	t_close(parent.pool);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_block_sizes),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_block_life),
		cmocka_unit_test(test_block_memfd),
		cmocka_unit_test(test_close_pinned),
		cmocka_unit_test(test_reopen),
		cmocka_unit_test(test_close_after_long_pins),
		cmocka_unit_test(test_several_pools),
		cmocka_unit_test(test_strerror),
		cmocka_unit_test(test_arguments_in_pool),
		cmocka_unit_test(test_arguments_moving),
		cmocka_unit_test(test_fork_calls),
		cmocka_unit_test(test_fork_report),
		cmocka_unit_test(test_fork_touch),
		cmocka_unit_test(test_fork_any_moment),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

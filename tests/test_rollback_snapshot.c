/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Snapshots when the host refuses, or has no memory: snapshots of a space and of a snapshot, in which huge, base and
 * pinned pages are written on either side, are run with the first fallible call failing, then the second, and so on
 * until none fails; see test_rollback.c. What fails are the port's calls, its tables, and the frames for copies:
 * once, or all of that kind from then on; with and without a swap file.
 *
 * Wherever it fails: the call under way answers an error, and nothing has changed in any space, or it succeeds in
 * spite of it; the same call then succeeds; and at the end no frame, slot, mapping or descriptor is left.
 */
#include "tests/util.h"

#include "tests/snapshots.h"

#define P VAC_PAGE_BYTES
#define BYTES MIB(6) /* two huge folios, and base pages */
#define SPACES 3
#define NEVER UINT64_MAX

enum kind { K_SPACE, K_MAP, K_PROTECT, K_LEAVE, K_BLIND, K_UNMAP, K_TABLE, K_FRAME, KINDS };
static const char *const kind_name[KINDS] = {"space_reserve", "map",   "protect", "leave",
					     "blind",         "unmap", "table",   "frame"};

/* Under userfaultfd a handler is a thread, while the one whose fault it serves sleeps in the kernel. */
static struct {
	_Atomic bool off, hit, on; /* on: all of a kind, from then on */
	_Atomic uint64_t calls, at;
	_Atomic enum kind kind;
} inj;

static bool fails(enum kind k)
{
	if (inj.off)
		return false;
	if (inj.calls++ == inj.at) {
		inj.kind = k;
		inj.hit = true;
		return true;
	}
	return inj.on && inj.hit && inj.kind == k;
}

/* ---- What fails ------------------------------------------------------------------------------- */

static const struct vac__mem_ops *const real = &vac__port_mem_ops;

/* The linker puts these in place of the library's: see the Makefile. */
void *__real_vac__port_meta_reserve(size_t bytes);
void *__wrap_vac__port_meta_reserve(size_t bytes);
void *__real_vac__port_table_reserve(size_t bytes);
void *__wrap_vac__port_table_reserve(size_t bytes);
int __real_vac__base_alloc(struct vac_pool *pool, struct vac_space *s, uint32_t page,
			   uint32_t *pfn);
int __wrap_vac__base_alloc(struct vac_pool *pool, struct vac_space *s, uint32_t page,
			   uint32_t *pfn);
int __real_vac__huge_alloc(struct vac_pool *pool, bool want_zero, uint32_t *pfn);
int __wrap_vac__huge_alloc(struct vac_pool *pool, bool want_zero, uint32_t *pfn);

void *__wrap_vac__port_meta_reserve(size_t bytes)
{
	return fails(K_TABLE) ? NULL : __real_vac__port_meta_reserve(bytes);
}

void *__wrap_vac__port_table_reserve(size_t bytes)
{
	return fails(K_TABLE) ? NULL : __real_vac__port_table_reserve(bytes);
}

int __wrap_vac__base_alloc(struct vac_pool *pool, struct vac_space *s, uint32_t page, uint32_t *pfn)
{
	return fails(K_FRAME) ? -ENOMEM : __real_vac__base_alloc(pool, s, page, pfn);
}

int __wrap_vac__huge_alloc(struct vac_pool *pool, bool want_zero, uint32_t *pfn)
{
	return fails(K_FRAME) ? -ENOMEM : __real_vac__huge_alloc(pool, want_zero, pfn);
}

static int f_space_reserve(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg, void **addr)
{
	return fails(K_SPACE) ? -ENOMEM : real->space_reserve(ctx, bytes, fn, arg, addr);
}

static int f_map(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		 unsigned prot)
{
	return fails(K_MAP) ? -ENOMEM : real->map(ctx, addr, bytes, b, off, prot);
}

static int f_protect(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return fails(K_PROTECT) ? -ENOMEM : real->protect(ctx, addr, bytes, prot);
}

static int f_leave(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return fails(K_LEAVE) ? -ENOMEM : real->leave(ctx, addr, bytes, prot);
}

static int f_allow(void *ctx, void *addr, size_t bytes)
{
	return fails(K_BLIND) ? -ENOMEM : real->allow(ctx, addr, bytes);
}

static int f_blind(void *ctx, void *addr, size_t bytes)
{
	return fails(K_BLIND) ? -ENOMEM : real->blind(ctx, addr, bytes);
}

static int f_reveal(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return fails(K_BLIND) ? -ENOMEM : real->reveal(ctx, addr, bytes, prot);
}

static int f_hole(void *ctx, void *addr, size_t bytes, bool fresh)
{
	return fails(K_UNMAP) ? -ENOMEM : real->hole(ctx, addr, bytes, fresh);
}

static int f_unmap(void *ctx, void *addr, size_t bytes)
{
	return fails(K_UNMAP) ? -ENOMEM : real->unmap(ctx, addr, bytes);
}

/* ---- What must be there ------------------------------------------------------------------------- */

static struct vac_pool *pool;
static bool swaps;
static struct {
	struct vac_space *s;
	char *mem, *bytes; /* bytes: what must be in mem */
} sp[SPACES];
static uint64_t seq;

static void verify(void)
{
	bool off = inj.off;

	inj.off = true;
	for (unsigned k = 0; k < SPACES; k++) {
		if (!sp[k].s)
			continue;
		/* Under userfaultfd a touch that was refused is refused for a moment more. */
		assert_ok(vac_prefault(sp[k].s, sp[k].mem, BYTES, VAC_PROT_READ));
		for (size_t i = 0; i < BYTES; i += P)
			if (memcmp(sp[k].mem + i, sp[k].bytes + i, P))
				fail_msg("space %u page %zu (call %lu, %s)", k, i / P,
					 (unsigned long)inj.at, kind_name[inj.kind]);
	}
	t_check(pool);
	inj.off = off;
}

/* ---- The steps ---------------------------------------------------------------------------------- */

static int take(unsigned from, unsigned to)
{
	uint64_t used = t_stats(pool).frames_used;
	int r = vac_space_snapshot(sp[from].s, NULL, &sp[to].s);

	if (r < 0) {
		sp[to].s = NULL;
		if (!swaps)
			assert_int_equal(t_stats(pool).frames_used, used);
		return r;
	}
	sp[to].mem = in(sp[from].s, sp[from].mem, sp[to].s);
	memcpy(sp[to].bytes, sp[from].bytes, BYTES);
	return 0;
}

static int put(unsigned k, unsigned page)
{
	char *p = sp[k].mem + (size_t)page * P;
	int r = vac_prefault(sp[k].s, p, P, RW);

	if (r < 0)
		return r;
	seq++;
	memcpy(p + 8, &seq, sizeof(seq));
	memcpy(sp[k].bytes + (size_t)page * P + 8, &seq, sizeof(seq));
	return 0;
}

/* What the host shows must be hidden from a space that gets a copy. */
static int look(unsigned k, unsigned unused UNUSED)
{
	return vac_prefault(sp[k].s, sp[k].mem, BYTES, VAC_PROT_READ);
}

static int end(unsigned k, unsigned unused UNUSED)
{
	int r = vac_space_destroy(sp[k].s);

	if (r == 0)
		sp[k].s = NULL;
	return r;
}

/* What cannot go stays: that is no error. */
static int out(unsigned a UNUSED, unsigned b UNUSED)
{
	if (swaps)
		swap_out(pool);
	return 0;
}

#define PINNED_HUGE 600u
#define PINNED_BASE 1100u

/* Of a huge folio that is cut, of base pages, of what is pinned, on either side; of what three have; and, at the
 * end, of what is nobody else's. */
static const struct step {
	int (*fn)(unsigned a, unsigned b);
	unsigned a, b;
} steps[] = {
	{take, 0, 1},          {look, 1, 0},          {look, 0, 0},   {put, 0, 1030},
	{put, 0, 5},           {put, 1, 7},           {put, 1, 1031}, {put, 0, PINNED_HUGE},
	{put, 1, PINNED_HUGE}, {put, 0, PINNED_BASE}, {out, 0, 0},    {put, 0, 1200},
	{put, 1, 1201},        {take, 1, 2},          {look, 2, 0},   {look, 1, 0},
	{put, 1, 5},           {put, 2, 5},           {put, 2, 1100}, {put, 0, 5},
	{out, 0, 0},           {end, 1, 0},           {put, 2, 7},    {put, 0, 7},
	{end, 2, 0},           {put, 0, 100},         {put, 0, 1210},
};

/* ---- Running them ------------------------------------------------------------------------------- */

static void setup(uint64_t *pin)
{
	struct vac_pool_opts o = t_opts(MIB(4));

	pool = t_open(&o, 6);
	if (swaps)
		swap_file(pool, MIB(64));
	sp[0].s = t_space(pool, MIB(8));
	sp[0].mem = t_map(sp[0].s, BYTES, 0);
	assert_ok(vac_advise(sp[0].s, sp[0].mem + MIB(4), MIB(2), VAC_ADV_NOHUGE));
	pat_fill(sp[0].bytes, BYTES, 1);
	memcpy(sp[0].mem, sp[0].bytes, BYTES);
	pin[0] = t_pin(sp[0].s, sp[0].mem + PINNED_HUGE * P, P, VAC_PIN_WRITE, "ring");
	pin[1] = t_pin(sp[0].s, sp[0].mem + PINNED_BASE * P, P, VAC_PIN_WRITE, "ring");
}

static uint64_t booked(void)
{
	uint64_t used, limit;

	vac__port_vma_usage(&used, &limit);
	return used;
}

/* One run. True if the failure came to pass. */
static bool run(uint64_t at, bool from_then_on)
{
	uint64_t vmas = booked(), pin[2];
	unsigned fds = fds_total(), failed = 0;

	inj.off = true;
	inj.hit = inj.on = false;
	setup(pin);
	inj.calls = 0;
	inj.at = at;
	inj.on = from_then_on;
	inj.off = false;
	for (unsigned i = 0; i < COUNT(steps); i++) {
		const struct step *s = &steps[i];
		bool before = inj.hit;
		int r = s->fn(s->a, s->b);

		if (r < 0) {
			if (!inj.hit || (before && !from_then_on))
				fail_msg("call %lu, step %u: %s, and nothing failed",
					 (unsigned long)at, i, vac_strerror(r));
			if (r != -ENOMEM)
				fail_msg("call %lu, step %u: %s for want of memory",
					 (unsigned long)at, i, vac_strerror(r));
			failed++;
			inj.off = true;
			verify();
			r = s->fn(s->a, s->b);
			if (r < 0)
				fail_msg("call %lu, step %u, again: %s", (unsigned long)at, i,
					 vac_strerror(r));
			inj.off = from_then_on; /* repaired */
		}
		if (inj.hit != before)
			verify();
	}
	inj.off = true;
	assert_true(failed <= 1);
	verify();
	assert_ok(vac_unpin(pool, pin[0]));
	assert_ok(vac_unpin(pool, pin[1]));
	assert_ok(end(0, 0));
	assert_int_equal(t_stats(pool).frames_used, 0);
	assert_int_equal(t_stats(pool).swap_used, 0);
	t_close(pool);
	assert_int_equal(booked(), vmas);
	assert_int_equal(fds_total(), fds);
	return inj.hit;
}

static void every(bool from_then_on)
{
	uint64_t n, seen[KINDS] = {0}, stride = scaled(10) == 1 ? 5 : 1;

	assert_false(run(NEVER, false));
	/* With a swap file most calls are those of pages that come in, which are alike. */
	if (inj.calls / 40 > stride)
		stride = inj.calls / 40 | 1;
	for (n = 0; run(n, from_then_on); n += stride)
		seen[inj.kind]++;
	assert_true(n > 30);
	assert_true(stride > 1 || (seen[K_SPACE] && seen[K_MAP] && seen[K_UNMAP] && seen[K_TABLE] &&
				   seen[K_FRAME]));
	assert_true(stride > 1 || seen[K_PROTECT] || seen[K_BLIND]);
}

static void test_once(void **state UNUSED)
{
	swaps = false;
	every(false);
}

static void test_from_then_on(void **state UNUSED)
{
	swaps = false;
	every(true);
}

static void test_once_swapped(void **state UNUSED)
{
	swaps = true;
	every(false);
}

static int group(void **state UNUSED)
{
	static struct vac__mem_ops ops;

	ops = *real;
	ops.space_reserve = f_space_reserve;
	ops.map = f_map;
	ops.protect = f_protect;
	ops.leave = f_leave;
	ops.hole = f_hole;
	ops.unmap = f_unmap;
	if (real->blind) {
		ops.allow = f_allow;
		ops.blind = f_blind;
		ops.reveal = f_reveal;
	}
	vac__mem_ops_override = &ops;
	inj.off = true;
	t_close(t_pool(MIB(4),
		       1)); /* from the first pool on the process's own mappings are booked */
	for (unsigned k = 0; k < SPACES; k++)
		sp[k].bytes = malloc(BYTES);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_once),
		cmocka_unit_test(test_from_then_on),
		cmocka_unit_test(test_once_swapped),
	};

	t_guard_or_skip();
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, group, NULL);
}

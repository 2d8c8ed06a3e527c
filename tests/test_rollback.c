/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Roll-back, exact at every step: a scenario that makes every fallible call of the port is run with
 * the first of them failing, then the second, and so on until none fails (after SQLite's test_vfs and
 * Seastar's failure injector). Wherever it fails, the call of ours that was under way answers an error
 * or succeeds in spite of it; an error has changed nothing; and the same call then succeeds.
 *
 * Failures are injected in these ways: once; from then on, for all calls of that kind; and, instead of
 * a failure, a cancel of the offline.
 * Direct I/O has a scenario of its own: tests/test_rollback_aio.c.
 * The same is done with the budget of host mappings: with room for none more, for one, for two...
 */
#include "tests/util.h"

#include "src/internal.h"

#define P VAC_PAGE_BYTES

/* ---- The port, wrapped -------------------------------------------------------------------------- */

enum kind {
	K_OPEN,
	K_DIRECT,
	K_BLOCK_OPEN,
	K_POPULATE,
	K_SEAL,
	K_SPACE,
	K_MAP,
	K_LEAVE,
	K_UNMAP,
	KINDS
};
static const char *const kind_name[KINDS] = {
	"open", "direct_reserve", "block_open", "block_populate", "block_seal", "space_reserve",
	"map",  "leave",          "unmap"};
enum mode { ONCE, FROM_THEN_ON, CANCEL, MODES };
static const char *const mode_name[MODES] = {"once", "from then on", "cancel"};

#define NEVER UINT64_MAX

/* One thread at a time. Under userfaultfd a handler is one, while the thread whose fault it serves sleeps
 * in the kernel: atomic, as a sanitizer does not see that. */
static struct {
	_Atomic bool off;
	_Atomic enum mode mode;
	_Atomic uint64_t calls, at; /* fail call number at, counted from 0 */
	_Atomic bool hit;           /* it has come to that */
	_Atomic enum kind kind;     /* of the one that failed */
	struct vac_pool *_Atomic pool;
	_Atomic int offlining; /* block, or -1 */
	_Atomic uint64_t calls_of[KINDS];
} inj;

static const struct vac__mem_ops *const real = &vac__port_mem_ops;

static bool fails(enum kind k)
{
	if (inj.off)
		return false;
	inj.calls_of[k]++;
	if (inj.calls++ == inj.at) {
		inj.hit = true;
		inj.kind = k;
		if (inj.mode != CANCEL)
			return true;
		if (inj.offlining >= 0)
			vac_block_cancel(inj.pool, inj.offlining); /* takes no lock */
		return false;
	}
	return inj.mode == FROM_THEN_ON && inj.hit && inj.kind == k;
}

static int w_open(void **ctx, const char *name, int *guard, unsigned pool_flags)
{
	return fails(K_OPEN) ? -ENOMEM : real->open(ctx, name, guard, pool_flags);
}

static void w_close(void *ctx)
{
	real->close(ctx);
}

static int w_block_open(void *ctx, int id, size_t bytes, void *direct, struct vac__backing *b)
{
	return fails(K_BLOCK_OPEN) ? -EMFILE : real->block_open(ctx, id, bytes, direct, b);
}

static int w_block_populate(void *ctx, struct vac__backing *b, size_t off)
{
	return fails(K_POPULATE) ? -ENOMEM : real->block_populate(ctx, b, off);
}

static int w_block_seal(void *ctx, struct vac__backing *b, bool keep, uint64_t *resident)
{
	return fails(K_SEAL) ? -EBUSY : real->block_seal(ctx, b, keep, resident);
}

static void w_block_close(void *ctx, struct vac__backing *b)
{
	real->block_close(ctx, b);
}

static int w_direct_reserve(void *ctx, size_t bytes, size_t align, void **addr)
{
	return fails(K_DIRECT) ? -ENOMEM : real->direct_reserve(ctx, bytes, align, addr);
}

static void w_direct_release(void *ctx, void *addr, size_t bytes)
{
	real->direct_release(ctx, addr, bytes);
}

static int w_space_reserve(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg, void **addr)
{
	return fails(K_SPACE) ? -ENOMEM : real->space_reserve(ctx, bytes, fn, arg, addr);
}

static void w_space_release(void *ctx, void *addr, size_t bytes)
{
	real->space_release(ctx, addr, bytes);
}

static int w_map(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		 unsigned prot)
{
	return fails(K_MAP) ? -ENOMEM : real->map(ctx, addr, bytes, b, off, prot);
}

/* Between borders that a leave has made a protect cannot fail. */
static int w_protect(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return real->protect(ctx, addr, bytes, prot);
}

static int w_leave(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return fails(K_LEAVE) ? -ENOMEM : real->leave(ctx, addr, bytes, prot);
}

static void w_stay(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		   unsigned prot)
{
	real->stay(ctx, addr, bytes, b, off, prot);
}

static int w_allow(void *ctx, void *addr, size_t bytes)
{
	return fails(K_LEAVE) ? -ENOMEM : real->allow(ctx, addr, bytes);
}

static int w_blind(void *ctx, void *addr, size_t bytes)
{
	return fails(K_LEAVE) ? -ENOMEM : real->blind(ctx, addr, bytes);
}

static int w_reveal(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	return fails(K_LEAVE) ? -ENOMEM : real->reveal(ctx, addr, bytes, prot);
}

static int w_hole(void *ctx, void *addr, size_t bytes, bool fresh)
{
	return fails(K_UNMAP) ? -ENOMEM : real->hole(ctx, addr, bytes, fresh);
}

static int w_unmap(void *ctx, void *addr, size_t bytes)
{
	return fails(K_UNMAP) ? -ENOMEM : real->unmap(ctx, addr, bytes);
}

static void w_quiet(void *ctx)
{
	real->quiet(ctx);
}

static int w_held(void *ctx, struct vac__backing *b, size_t off, size_t bytes, const void *shown,
		  size_t *at)
{
	return real->held(ctx, b, off, bytes, shown, at);
}

static bool w_sees(void *ctx)
{
	return real->sees(ctx);
}

static void w_holder(void *ctx, const void *shown, size_t bytes, char *text, size_t max,
		     uint32_t *tid)
{
	real->holder(ctx, shown, bytes, text, max, tid);
}

static const struct vac__mem_ops wrapped = {
	.quiet = w_quiet,
	.open = w_open,
	.close = w_close,
	.block_open = w_block_open,
	.block_populate = w_block_populate,
	.block_seal = w_block_seal,
	.held = w_held,
	.sees = w_sees,
	.holder = w_holder,
	.block_close = w_block_close,
	.direct_reserve = w_direct_reserve,
	.direct_release = w_direct_release,
	.space_reserve = w_space_reserve,
	.space_release = w_space_release,
	.map = w_map,
	.protect = w_protect,
	.leave = w_leave,
	.stay = w_stay,
	.allow = w_allow,
	.blind = w_blind,
	.reveal = w_reveal,
	.unmap = w_unmap,
	.hole = w_hole,
};

/* ---- What must be there --------------------------------------------------------------------------- */

#define A_PAGES 1200u /* of space 0: two huge folios and some base pages */
#define B_PAGES 300u  /* of space 1: base pages */

static long taken; /* of the budget of host mappings */

static struct area {
	struct vac_space *space;
	char *mem, *bytes;    /* bytes: what must be in mem */
	int8_t prot[A_PAGES]; /* -1: not mapped */
	unsigned pages;
} area[2];

static struct vac_pool *pool;
static uint64_t pin;
static bool online[3];
static unsigned messages;

static void on_log(void *ctx UNUSED, enum vac_log_level level, const char *msg)
{
	assert_non_null(msg);
	messages += level == VAC_LOG_ERROR;
}

/* Everything is as the model says. The port does not fail meanwhile: what a failure before this may
 * have left to be done again at the next touch is done now. */
static void verify(void)
{
	static uint64_t refusals;
	struct vac_fault_info info = VAC_INIT(struct vac_fault_info);
	bool off = inj.off;

	inj.off = true;
	/* Under userfaultfd a touch that was refused is refused for 20 ms more. */
	if (t_guard() == VAC_GUARD_USERFAULTFD && pool && vac_last_fault(pool, &info) == 0 &&
	    info.count != refusals) {
		refusals = info.count;
		sleep_ms(60);
	}
	for (unsigned k = 0; k < 2; k++) {
		struct area *a = &area[k];

		for (unsigned i = 0; a->mem && i < a->pages; i++) {
			char *p = a->mem + i * P;
			bool r = a->prot[i] > 0, w = r && (a->prot[i] & VAC_PROT_WRITE);

			if (can_read(p) != r || can_write(p) != w ||
			    (r && memcmp(p, a->bytes + i * P, P)))
				fail_msg(
					"area %u page %u: rights %d%d or bytes are wrong; wanted %d "
					"(call %llu, %s)",
					k, i, can_read(p), can_write(p), a->prot[i],
					(unsigned long long)inj.at, kind_name[inj.kind]);
		}
	}
	if (pool) {
		char msg[200] = "";

		for (int id = 0; id < 3; id++) {
			enum vac_block_state st = t_block(pool, id).state;

			/* An offline that was refused its seal goes on from there. */
			if (st == VAC_BLOCK_QUARANTINE && online[id])
				continue;
			assert_int_equal(st, online[id] ? VAC_BLOCK_ONLINE : VAC_BLOCK_OFFLINE);
		}
		if (vac_pool_check(pool, msg, sizeof(msg)))
			fail_msg("%s", msg);
	}
	inj.off = off;
}

static void set_prot(unsigned k, unsigned first, unsigned n, int prot)
{
	memset(&area[k].prot[first], prot, n);
}

/* ---- The scenario: steps that can be taken again when they fail -------------------------------------- */

static int s_open(void)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	int r;

	o.log = on_log;
	o.gate_timeout_ms = 10;
	o.fault_bytes = 8 * P;
	o.max_bytes = 3 * MIB(4);
	r = vac_pool_open(&o, &pool);
	if (r == 0) {
		inj.pool = pool;
		for (int id = 0; id < 3; id++)
			assert_int_equal(vac_block_add(pool, NULL), id);
	} else {
		pool = NULL;
	}
	return r;
}

static int go_online(int id)
{
	int r = t_online(pool, id);

	online[id] = r == 0;
	return r;
}

static int s_online0(void)
{
	return go_online(0);
}

static int s_online1(void)
{
	return go_online(1);
}

static int s_online2(void)
{
	return go_online(2);
}

static int create(unsigned k)
{
	struct vac_space_opts o = VAC_INIT(struct vac_space_opts);
	int r;

	o.bytes = MIB(6);
	r = vac_space_create(pool, &o, &area[k].space);
	if (r < 0)
		return r;
	area[k].pages = k ? B_PAGES : A_PAGES;
	r = vac_map(area[k].space, NULL, area[k].pages * P, RW, k ? VAC_MAP_NOHUGE : 0,
		    (void **)&area[k].mem);
	if (r < 0) { /* taking back what was done is not what is looked at */
		bool off = inj.off;

		inj.off = true;
		assert_ok(vac_space_destroy(area[k].space));
		inj.off = off;
		area[k].space = NULL;
		return r;
	}
	set_prot(k, 0, area[k].pages, RW);
	memset(area[k].bytes, 0, area[k].pages * P);
	return 0;
}

static int s_space0(void)
{
	return create(0);
}

static int s_space1(void)
{
	return create(1);
}

static int fill(unsigned k)
{
	int r = vac_advise(area[k].space, area[k].mem, area[k].pages * P, VAC_ADV_WILLNEED);

	if (r == 0) {
		pat_fill(area[k].mem, area[k].pages * P, 40 + k);
		memcpy(area[k].bytes, area[k].mem, area[k].pages * P);
	}
	return r;
}

static int s_fill0(void)
{
	return fill(0);
}

static int s_fill1(void)
{
	return fill(1);
}

static int protect(unsigned k, unsigned first, unsigned n, int prot)
{
	int r = vac_protect(area[k].space, area[k].mem + first * P, n * P, prot);

	if (r == 0)
		set_prot(k, first, n, prot);
	return r;
}

static int s_cut_by_protect(void)
{
	return protect(0, 100, 7, VAC_PROT_READ); /* splits a huge folio */
}

static int drop(unsigned k, unsigned first, unsigned n)
{
	int r = vac_advise(area[k].space, area[k].mem + first * P, n * P, VAC_ADV_DONTNEED);

	if (r == 0)
		memset(area[k].bytes + first * P, 0, n * P);
	return r;
}

static int s_drop0(void)
{
	return drop(0, 1100, 30);
}

static int s_drop1(void)
{
	return drop(1, 50, 3);
}

static int s_drop1_more(void)
{
	return drop(1, 60, 1);
}

/* Over what is there and what is not, of different rights: several runs, each a call. */
static int s_protect_many(void)
{
	return protect(1, 10, 200, VAC_PROT_NONE);
}

static int s_protect_back(void)
{
	return protect(1, 20, 170, RW);
}

static int s_protect_mixed(void)
{
	return protect(1, 0, 300, VAC_PROT_READ);
}

static int s_protect_rw(void)
{
	return protect(1, 0, 300, RW);
}

static int cut_out(unsigned k, unsigned first, unsigned n)
{
	int r = vac_unmap(area[k].space, area[k].mem + first * P, n * P);

	if (r == 0)
		set_prot(k, first, n, -1);
	return r;
}

static int s_unmap_part(void)
{
	return cut_out(0, 520, 10); /* splits the other */
}

static int s_unmap_more(void)
{
	return cut_out(1, 295, 5);
}

/* Over a page that is not there, so that it is filled in. */
static int s_pin(void)
{
	return vac_pin(area[1].space, area[1].mem + 45 * P, 20 * P, VAC_PIN_WRITE, "rollback",
		       &pin);
}

/* What fails for good fails at the deadline; else time must not matter. */
static int64_t soon(void)
{
	return (inj.mode == FROM_THEN_ON && !inj.off) || taken ? 60 : 20000;
}

static int leave_block(int id, int64_t timeout_ms)
{
	struct vac_offline_result res;
	int r;

	inj.offlining = id;
	r = t_offline(pool, id, timeout_ms, &res);
	vac_report_free(res.report);
	if (r == -ETIMEDOUT && timeout_ms > 12 && !inj.hit && !taken) {
		r = t_offline(pool, id, 20000, &res);
		vac_report_free(res.report);
	}
	inj.offlining = -1;
	if (r == 0) {
		online[id] = false;
		inj.off = true; /* this step is over: online again is another */
		assert_ok(go_online(id));
		inj.off = false;
	}
	return r;
}

/* The pinned one must fail, whatever else does. */
static int s_offline_pinned(void)
{
	bool off = inj.off;
	int id, r;

	inj.off = true;
	id = t_page(area[1].space, area[1].mem + 45 * P).block;
	inj.off = off;
	r = leave_block(id, 12); /* the gate is closed for 10 */
	assert_int_not_equal(r, 0);
	return r == -EBUSY || r == -ETIMEDOUT || (inj.hit && r == -ECANCELED) ? 0 : r;
}

static int s_unpin(void)
{
	return vac_unpin(pool, pin);
}

static int s_offline0(void)
{
	return leave_block(0, soon());
}

static int s_offline1(void)
{
	return leave_block(1, soon());
}

static int s_offline2(void)
{
	return leave_block(2, soon());
}

static int s_unmap_all(void)
{
	return cut_out(1, 0, 300);
}

static int s_destroy(void)
{
	int r = vac_space_destroy(area[1].space);

	if (r == 0)
		area[1].mem = NULL;
	return r;
}

static int s_close(void)
{
	int r = vac_pool_close(pool);

	if (r == 0) {
		pool = NULL;
		area[0].mem = NULL;
	}
	return r;
}

static int (*const steps[])(void) = {
	s_open,           s_online0,      s_online1,       s_online2,
	s_space0,         s_space1,       s_fill0,         s_fill1,
	s_cut_by_protect, s_drop0,        s_drop1,         s_drop1_more,
	s_protect_many,   s_protect_back, s_protect_mixed, s_protect_rw,
	s_unmap_part,     s_unmap_more,   s_pin,           s_offline_pinned,
	s_unpin,          s_offline0,     s_offline1,      s_offline2,
	s_offline0,       s_unmap_all,    s_destroy,       s_close,
};

static bool offlines(unsigned step)
{
	return steps[step] == s_offline0 || steps[step] == s_offline1 ||
	       steps[step] == s_offline2 || steps[step] == s_offline_pinned;
}

static bool fills(unsigned step)
{
	return steps[step] == s_fill0 || steps[step] == s_fill1 || steps[step] == s_pin;
}

static uint64_t booked(void)
{
	uint64_t used, limit;

	vac__port_vma_usage(&used, &limit);
	return used;
}

static void begin(void)
{
	pool = NULL;
	for (unsigned k = 0; k < 2; k++) {
		if (!area[k].bytes)
			area[k].bytes = malloc(A_PAGES * P);
		area[k].mem = NULL;
	}
	memset(online, 0, sizeof(online));
	memset(&inj, 0, sizeof(inj));
	inj.offlining = -1;
	messages = 0;
}

/* One run. True if the failure came to pass. */
static bool run(enum mode mode, uint64_t at)
{
	uint64_t vmas, used;
	unsigned fds, maps, failed = 0;

	begin();
	vmas = booked();
	fds = fds_total();
	maps = maps_total();
	inj.mode = mode;
	inj.at = at;
	for (unsigned i = 0; i < COUNT(steps); i++) {
		bool before = inj.hit;
		int r;

		used = pool ? t_stats(pool).frames_used : 0;
		r = steps[i]();
		if (r < 0) {
			/* Not without a reason, and as if it had not been. */
			if (!inj.hit)
				fail_msg("step %u: %s, and nothing failed", i, vac_strerror(r));
			if (mode != FROM_THEN_ON && before)
				fail_msg("call %lu, step %u: %s, long after %s failed", at, i,
					 vac_strerror(r), kind_name[inj.kind]);
			if (pool && !fills(i))
				assert_int_equal(t_stats(pool).frames_used, used);
			if (mode == CANCEL)
				assert_int_equal(r, -ECANCELED);
			verify();
			failed++;
			inj.off = true; /* repaired */
			r = steps[i]();
			if (r < 0)
				fail_msg("step %u, again: %s", i, vac_strerror(r));
		} else if (mode == FROM_THEN_ON && inj.hit) {
			inj.off = true;
		}
		/* Where something happened, and at the end. */
		if (inj.hit != before || steps[i] == s_destroy)
			verify();
		inj.off = mode == FROM_THEN_ON && inj.hit;
	}
	assert_true(failed <= 1);
	assert_int_equal(booked(), vmas);
	assert_int_equal(fds_total(), fds);
	assert_true(ASAN || TSAN || maps_total() <= maps + 1); /* those map as they like */
	return inj.hit;
}

static uint64_t stride(void)
{
	return scaled(10) == 1 ? 5 : 1;
}

static void every(enum mode mode)
{
	uint64_t n, seen[KINDS] = {0}, told = 0;

	assert_false(run(ONCE, NEVER));
	for (n = 0; run(mode, n); n += stride()) {
		seen[inj.kind]++;
		told += messages != 0;
	}
	assert_true(n > 50);
	for (unsigned k = 0; k < KINDS && stride() == 1; k++)
		if (!seen[k])
			fail_msg("%s: no %s has failed", mode_name[mode], kind_name[k]);
	/* After the commit a host that refuses what it had prepared is told of; the page comes back
	 * with the next touch. */
	if (mode != CANCEL && stride() == 1)
		assert_true(told > 0);
}

static void test_once(void **state UNUSED)
{
	every(ONCE);
}

static void test_from_then_on(void **state UNUSED)
{
	every(FROM_THEN_ON);
}

static void test_cancel(void **state UNUSED)
{
	every(CANCEL);
}

/* A failure that passes by itself, and of which nothing tells: all that the block has is one page, so
 * that no other success wakes the offline. It looks again, long before its deadline. */
static void test_alone(void **state UNUSED)
{
	static const enum kind kinds[] = {K_LEAVE, K_POPULATE};

	for (unsigned k = 0; k < COUNT(kinds); k++) {
		uint64_t begin_ms, all;
		bool hit = false;

		for (uint64_t at = 0; !hit; at++) {
			begin();
			inj.at = NEVER;
			assert_ok(s_open());
			assert_ok(go_online(0));
			assert_ok(s_space1());
			assert_ok(vac_advise(area[1].space, area[1].mem, P, VAC_ADV_WILLNEED));
			assert_ok(go_online(1));
			inj.at = inj.calls + at;
			begin_ms = t_ms();
			all = inj.calls_of[kinds[k]];
			assert_ok(t_offline(pool, 0, 8000, NULL));
			hit = inj.hit && inj.kind == kinds[k];
			assert_true(t_ms() - begin_ms < 4000);
			assert_true(inj.calls_of[kinds[k]] > all);
			assert_true(inj.hit);
			online[0] = false;
			verify();
			assert_ok(s_close());
		}
	}
}

/* ---- The budget ------------------------------------------------------------------------------------------ */

static void leave_budget(uint64_t n)
{
	for (taken = 0; vac__port_vma_charge(1, false);)
		taken++;
	vac__port_vma_charge(-(long)n, true);
	taken -= (long)n;
}

static void budget_back(void)
{
	vac__port_vma_charge(-taken, true);
	taken = 0;
}

static int teardown(void **state UNUSED)
{
	budget_back();
	inj.off = true;
	return 0;
}

/* Each step with room for 0, 1, 2... mappings more until it succeeds: whatever fails for want of one
 * has changed nothing, and what is booked never exceeds what may be. */
static void test_budget(void **state UNUSED)
{
	uint64_t used, limit, vmas;

	vmas = booked();
	begin();
	inj.at = NEVER;
	for (unsigned i = 0; i < COUNT(steps); i++) {
		uint64_t n = 0;
		int r;

		for (;; n++) {
			leave_budget(n);
			r = steps[i]();
			vac__port_vma_usage(&used, &limit);
			if (used > limit)
				fail_msg("step %u, room for %lu: %lu too many", i, n, used - limit);
			budget_back();
			if (r == 0)
				break;
			assert_true(r == -ENOMEM || (r == -ETIMEDOUT && offlines(i)));
			verify();
			assert_true(n < 300);
		}
		verify();
	}
	assert_int_equal(booked(), vmas);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_once, teardown),
		cmocka_unit_test_teardown(test_from_then_on, teardown),
		cmocka_unit_test_teardown(test_cancel, teardown),
		cmocka_unit_test_teardown(test_alone, teardown),
		cmocka_unit_test_teardown(test_budget, teardown),
	};

	catch_faults();
	t_filter(argc, argv);
	MUST(vac_pool_open(NULL, &pool) == 0 &&
	     vac_pool_close(pool) == 0); /* what the first leaves */
	vac__mem_ops_override = &wrapped;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

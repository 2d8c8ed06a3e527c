/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * The SIGSEGV guard with the engine behind it: every rule that vacate.h states under CAVEATS, and
 * what a thread may rely on when it touches pool memory at any moment. The port's half alone (which
 * handler gets what) is test_port_guard.c.
 */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "tests/util.h"

extern char **environ;

/* What is so under one guard only. */
#define ONLY_SIGSEGV()                                                       \
	do {                                                                 \
		if (t_guard() != VAC_GUARD_SIGSEGV) {                        \
			print_message("SKIP: forced: of the other guard\n"); \
			skip();                                              \
		}                                                            \
	} while (0)

#define ALL_SIGNALS (~((uint64_t)1 << (SIGKILL - 1) | (uint64_t)1 << (SIGSTOP - 1)))

static uint64_t blocked_signals(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof(mask));
	return mask;
}

__attribute__((noinline)) static void poke(void *p)
{
	*(volatile char *)p = 1;
}

__attribute__((noinline)) static char peek(const void *p)
{
	return *(const volatile char *)p;
}

/* Take every block away in turn and give it back. Calls that run at the same time may make one
 * fail, for good reasons. */
static void rotate(struct vac_pool *pool, unsigned blocks, int64_t timeout_ms)
{
	for (int id = 0; id < (int)blocks; id++) {
		int r = t_offline(pool, id, timeout_ms, NULL);

		if (r == 0)
			r = t_online(pool, id);
		MUST(r == 0 || r == -EBUSY || r == -ETIMEDOUT || r == -ENOMEM || r == -EALREADY);
	}
}

struct rotation {
	struct vac_pool *pool;
	unsigned blocks;
};

static void rotator(struct member *m)
{
	struct rotation *r = m->arg;

	while (!m->team->stop) {
		rotate(r->pool, r->blocks, 500);
		m->team->rounds++;
	}
}

/* ---- What a fault leaves alone ---------------------------------------------------------------- */

static void test_errno_and_mask(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(16));
	char *huge = t_map(s, MIB(4), 0), *base = t_map(s, MIB(2), VAC_MAP_NOHUGE);
	uint64_t before = blocked_signals();
	sigset_t some, old;

	sigemptyset(&some);
	sigaddset(&some, SIGUSR2);
	errno = EDOM;
	poke(huge);
	poke(base);
	assert_int_equal(peek(base + MIB(1)), 0);
	assert_int_equal(errno, EDOM);
	assert_true(blocked_signals() == before);
	sigprocmask(SIG_BLOCK, &some, &old);
	poke(huge + MIB(2));
	assert_true(blocked_signals() == (before | (uint64_t)1 << (SIGUSR2 - 1)));
	sigprocmask(SIG_SETMASK, &old, NULL);
	assert_int_equal(t_stats(pool).faults, 4);
	t_close(pool);
}

static uint64_t mask_inside;

static void look_at_mask(void *ctx UNUSED, const struct vac_offline_progress *p UNUSED)
{
	mask_inside = blocked_signals();
}

static void test_signals_blocked_inside(void **state UNUSED)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	struct vac_pool *pool = t_pool(MIB(4), 2);
	uint64_t before = blocked_signals();

	o.progress = look_at_mask;
	assert_ok(vac_block_offline(pool, 1, &o, NULL));
	assert_true(mask_inside == ALL_SIGNALS);
	assert_true(blocked_signals() == before);
	t_close(pool);
}

/* ---- Stacks ----------------------------------------------------------------------------------- */

#define STACK MIB(1)

struct dive {
	char *huge, *base;
	unsigned char *stack;
	_Atomic bool stop;
	size_t used;
};

/* Faults of every kind on a painted stack; then look how deep the paint is scratched. */
static void *dive(void *arg)
{
	struct dive *d = arg;
	unsigned char here;
	size_t low = 0;

	poke(d->huge);
	poke(d->base);
	while (!d->stop) /* and of pages that are leaving */
		for (size_t off = 0; off < MIB(2); off += MIB(2) / 64)
			poke(d->base + off);
	while (d->stack[low] == 0xa5)
		low++;
	d->used = (size_t)(&here - d->stack) - low;
	return NULL;
}

/* The manual asks for 32 KiB below the point where pool memory is touched. */
static void test_stack_used(void **state UNUSED)
{
	ONLY_SIGSEGV();
	struct vac_pool *pool = t_pool(MIB(4), 4);
	struct vac_space *s = t_space(pool, MIB(16));
	struct dive d = {.huge = t_map(s, MIB(2), 0), .base = t_map(s, MIB(2), VAC_MAP_NOHUGE)};
	pthread_attr_t a;
	pthread_t t;

	d.stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(d.stack, MAP_FAILED);
	memset(d.stack, 0xa5, STACK);
	pthread_attr_init(&a);
	assert_ok(pthread_attr_setstack(&a, d.stack, STACK));
	assert_ok(pthread_create(&t, &a, dive, &d));
	for (unsigned i = 0; i < scaled(20); i++)
		rotate(pool, 4, 1000);
	d.stop = true;
	pthread_join(t, NULL);
	munmap(d.stack, STACK);
	assert_true(d.used > 1000);
	if (!TSAN && !ASAN)
		assert_true(d.used < 32 << 10);
	t_close(pool);
}

static char *to_touch;

static void *on_alternate(void *arg UNUSED)
{
	static char alt[(32 << 10) + (TSAN || ASAN ? 1 << 18 : 0)];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};

	MUST(sigaltstack(&ss, NULL) == 0);
	for (size_t off = 0; off < MIB(4); off += VAC_PAGE_BYTES)
		poke(to_touch + off);
	ss.ss_flags = SS_DISABLE;
	MUST(sigaltstack(&ss, NULL) == 0);
	return NULL;
}

static void test_alternate_stack(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	pthread_attr_t a;
	pthread_t t;

	to_touch = t_map(s, MIB(4), VAC_MAP_NOHUGE);
	pthread_attr_init(&a);
	assert_ok(pthread_attr_setstacksize(&a, 16384 + (TSAN || ASAN ? 1 << 18 : 0)));
	assert_ok(pthread_create(&t, &a, on_alternate, NULL));
	pthread_join(t, NULL);
	assert_int_equal(zero_bad(to_touch + 8, VAC_PAGE_BYTES - 8), -1);
	t_close(pool);
}

/* ---- Signal handlers that touch the pool ------------------------------------------------------- */

#define HOT_PAGES 256u

static _Atomic uint64_t *hot; /* HOT_PAGES pages, a counter in each */
static _Atomic uint64_t hits;

static void touch_in_handler(int sig UNUSED)
{
	static _Thread_local uint64_t seed = 12345;
	uint64_t page = rnd(&seed) % HOT_PAGES;

	atomic_fetch_add(&hot[page * (VAC_PAGE_BYTES / 8)], 1);
	hits++;
}

struct busy {
	struct vac_pool *pool;
	struct vac_space *space;
	unsigned blocks;
};

/* One thread that is in the engine nearly all the time, by every way in. */
static void busybody(struct member *m)
{
	struct busy *b = m->arg;
	struct vac_page_info info = VAC_INIT(struct vac_page_info);
	uint64_t pin;
	void *p;

	while (!m->team->stop) {
		MUST_OK(vac_map(b->space, NULL, MIB(2), RW, m->nr % 2 ? VAC_MAP_NOHUGE : 0, &p));
		poke(p);
		MUST_OK(vac_pin(b->space, (char *)p + 100, 8192, VAC_PIN_WRITE, "busy", &pin));
		MUST(vac_page_info(b->space, p, &info) == 0 && info.pins > 0);
		MUST_OK(vac_unpin(b->pool, pin));
		MUST(vac_protect(b->space, p, 8192, VAC_PROT_READ) == 0 || errno);
		MUST_OK(vac_unmap(b->space, p, MIB(2)));
		rotate(b->pool, 1 + m->nr, 200);
		m->team->rounds++;
	}
}

static UNUSED void test_handler_inside_engine(void **state UNUSED)
{
	struct busy b = {.pool = t_pool(MIB(4), 8), .blocks = 8};
	struct sigaction a, old;
	static struct team t;
	uint64_t sum = 0, sent = 0;

	b.space = t_space(b.pool, MIB(64));
	hot = (void *)t_map(b.space, HOT_PAGES * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	hits = 0;
	memset(&a, 0, sizeof(a));
	a.sa_handler = touch_in_handler;
	a.sa_flags = SA_RESTART;
	assert_ok(sigaction(SIGUSR1, &a, &old));
	team_start(&t, 2, busybody, &b);
	for (uint64_t end = t_ms() + scaled(2000); t_ms() < end; sent++) {
		struct timespec pause = {0, 50000};

		pthread_kill(t.thread[sent % 2], SIGUSR1);
		nanosleep(&pause, NULL);
	}
	team_stop(&t);
	assert_ok(sigaction(SIGUSR1, &old, NULL));
	for (unsigned i = 0; i < HOT_PAGES; i++)
		sum += hot[i * (VAC_PAGE_BYTES / 8)];
	assert_int_equal(sum, hits);
	assert_true(hits > 0 && hits <= sent);
	assert_true(t.rounds > 0);
	t_close(b.pool);
}

/* ---- Arguments in pool memory ------------------------------------------------------------------ */

/* Everything that a call is told or answers, in one page of the pool. */
struct arguments {
	struct vac_pool_opts pool_opts;
	struct vac_space_opts space_opts;
	struct vac_block_opts block_opts;
	struct vac_offline_opts offline_opts;
	struct vac_offline_result offline_result;
	struct vac_pool_stats stats;
	struct vac_block_info block_info;
	struct vac_page_info page_info;
	struct vac_owner owner;
	struct vac_report *report;
	struct vac_pool *pool;
	struct vac_space *space;
	void *mem;
	uint64_t pin;
	char name[64], msg[200];
};

struct in_pool {
	struct vac_pool *pool;
	struct vac_space *space;
	struct arguments *a; /* one for each member */
};

/* From absent to filled in by the engine's own look at it, or by ours, or leaving at that moment. */
static void absent(struct in_pool *p, void *page)
{
	int r = vac_advise(p->space, page, VAC_PAGE_BYTES, VAC_ADV_DONTNEED);

	MUST(r == 0 || r == -EBUSY);
}

static void arguments_in_pool(struct in_pool *p, struct arguments *a, int block)
{
	_Static_assert(sizeof(*a) <= 4096, "one page");

	absent(p, a);
	MUST(vac_page_info(p->space, a, &a->page_info) ==
	     -EINVAL); /* size 0, in a page of zeroes */
	a->page_info.size = sizeof(a->page_info);
	MUST(vac_page_info(p->space, a, &a->page_info) == 0 && a->page_info.present);
	absent(p, a);
	strcpy(a->name, "owner in the pool");
	MUST_OK(vac_pin(p->space, a, sizeof(*a), VAC_PIN_WRITE, a->name, &a->pin));
	MUST_OK(vac_unpin(p->pool, a->pin));
	absent(p, a); /* the answer is what fills the page in */
	MUST_OK(vac_pin(p->space, a, 1, VAC_PIN_READ, NULL, &a->pin));
	MUST_OK(vac_unpin(p->pool, a->pin));
	a->stats.size = sizeof(a->stats);
	MUST(vac_pool_stats(p->pool, &a->stats) == 0 && a->stats.spaces > 0);
	a->block_info.size = sizeof(a->block_info);
	MUST(vac_block_info(p->pool, block, &a->block_info) == 0 && a->block_info.id == block);
	absent(p, a);
	MUST_OK(vac_map(p->space, NULL, MIB(2), RW, 0, &a->mem));
	MUST_OK(vac_unmap(p->space, a->mem, MIB(2)));
	absent(p, a);
	strcpy(a->name, "space in the pool");
	a->space_opts.size = sizeof(a->space_opts);
	a->space_opts.name = a->name;
	a->space_opts.bytes = MIB(4);
	MUST_OK(vac_space_create(p->pool, &a->space_opts, &a->space));
	MUST_OK(vac_space_destroy(a->space));
	absent(p, a);
	MUST_OK(vac_report_block(p->pool, block, &a->report));
	if (vac_report_count(a->report) > 0)
		vac_report_owner(a->report, 0, 0, &a->owner);
	vac_report_free(a->report);
	absent(p, a);
	a->offline_opts.size = sizeof(a->offline_opts);
	a->offline_opts.timeout_ms = 300;
	a->offline_result.size = sizeof(a->offline_result);
	if (vac_block_offline(p->pool, block, &a->offline_opts, &a->offline_result) == 0) {
		MUST(a->offline_result.report == NULL);
		MUST_OK(vac_block_online(p->pool, block, VAC_ZONE_MOVABLE));
	} else {
		vac_report_free(a->offline_result.report);
	}
}

static void test_arguments_in_pool(void **state UNUSED)
{
	struct in_pool p = {.pool = t_pool(MIB(4), 4)};
	int first;

	p.space = t_space(p.pool, MIB(64));
	p.a = (void *)t_map(p.space, 16 * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < scaled(20); i++)
		for (int id = 0; id < 4; id++)
			arguments_in_pool(&p, p.a, id);
	/* What makes a pool, and what adds a block. */
	absent(&p, p.a);
	strcpy(p.a->name, "second");
	p.a->pool_opts.size = sizeof(p.a->pool_opts);
	p.a->pool_opts.name = p.a->name;
	p.a->pool_opts.block_bytes = MIB(4);
	assert_ok(vac_pool_open(&p.a->pool_opts, &p.a->pool));
	p.a->block_opts.size = sizeof(p.a->block_opts);
	p.a->block_opts.id = 3;
	assert_int_equal(vac_block_add(p.a->pool, &p.a->block_opts), 3);
	absent(&p, (char *)p.a + VAC_PAGE_BYTES);
	assert_ok(vac_pool_check(p.a->pool, (char *)p.a + VAC_PAGE_BYTES, 100));
	assert_ok(vac_pool_close(p.a->pool));
	/* The struct is in the block that leaves. */
	first = t_page(p.space, p.a).block;
	memset(&p.a->offline_result, 0, sizeof(p.a->offline_result));
	p.a->offline_opts.size = sizeof(p.a->offline_opts);
	p.a->offline_opts.timeout_ms = 1000;
	p.a->offline_result.size = sizeof(p.a->offline_result);
	assert_ok(vac_block_offline(p.pool, first, &p.a->offline_opts, &p.a->offline_result));
	assert_true(p.a->offline_result.bytes_moved > 0);
	assert_int_not_equal(t_page(p.space, p.a).block, first);
	t_close(p.pool);
}

static void arguer(struct member *m)
{
	struct in_pool *p = m->arg;
	struct arguments *a = (void *)((char *)p->a + m->nr * VAC_PAGE_BYTES);

	while (!m->team->stop) {
		arguments_in_pool(p, a, (int)m->nr);
		m->team->rounds++;
	}
}

/* The same while the pages with the arguments are moved about by the others. */
static void test_arguments_that_leave(void **state UNUSED)
{
	struct in_pool p = {.pool = t_pool(MIB(4), 8)};
	static struct team t;

	p.space = t_space(p.pool, MIB(64));
	p.a = (void *)t_map(p.space, 16 * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	team_start(&t, 4, arguer, &p);
	sleep_ms(scaled(2000));
	team_stop(&t);
	assert_true(t.rounds >= 4);
	t_close(p.pool);
}

/* ---- Cancellation ------------------------------------------------------------------------------ */

/* No cancellation point in here, although the engine waits and sleeps. */
__attribute__((noinline)) static void victim_round(struct busy *b)
{
	uint64_t pin;
	void *p;

	MUST_OK(vac_map(b->space, NULL, MIB(2), RW, VAC_MAP_NOHUGE, &p));
	poke(p);
	MUST_OK(vac_pin(b->space, p, VAC_PAGE_BYTES, 0, "victim", &pin));
	MUST_OK(vac_unpin(b->pool, pin));
	rotate(b->pool, 2, 200);
	MUST_OK(vac_unmap(b->space, p, MIB(2)));
}

static void *deferred_victim(void *arg)
{
	for (;;) {
		victim_round(arg);
		pthread_testcancel();
	}
	return NULL;
}

#if !TSAN && !ASAN /* which do not survive a thread that stops anywhere */
static void *async_victim(void *arg)
{
	struct busy *b = arg;
	char *p = (char *)hot;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;) {
		vac_protect(b->space, p, MIB(1), RW); /* the one before may have stopped anywhere */
		vac_advise(b->space, p, MIB(1), VAC_ADV_DONTNEED);
		for (size_t off = 0; off < MIB(1); off += 16 * VAC_PAGE_BYTES)
			poke(p + off);
		vac_protect(b->space, p, 32 * VAC_PAGE_BYTES, VAC_PROT_READ);
		vac_advise(b->space, p, MIB(1), VAC_ADV_WILLNEED);
		rotate(b->pool, 1, 200);
	}
	return NULL;
}
#endif

static void cancel_many(void *(*victim)(void *))
{
	struct busy b = {.pool = t_pool(MIB(4), 8)};
	uint64_t seed = t_seed(99);
	pthread_t t;
	void *r;

	b.space = t_space(b.pool, MIB(64));
	hot = (void *)t_map(b.space, MIB(1), VAC_MAP_NOHUGE);
	for (unsigned i = 0; i < scaled(100); i++) {
		struct timespec pause = {0, (long)(rnd(&seed) % 5000000)};

		assert_ok(pthread_create(&t, NULL, victim, &b));
		nanosleep(&pause, NULL);
		assert_ok(pthread_cancel(t));
		assert_ok(pthread_join(t, &r));
		assert_ptr_equal(r, PTHREAD_CANCELED);
		t_check(b.pool);
	}
	assert_int_equal(t_stats(b.pool).pins, 0);
	assert_ok(vac_protect(b.space, hot, MIB(1), RW));
	memset((void *)hot, 1, MIB(1));
	t_close(b.pool);
}

static void test_cancel_deferred(void **state UNUSED)
{
	cancel_many(deferred_victim);
}

#if !TSAN && !ASAN
static void test_cancel_async(void **state UNUSED)
{
	cancel_many(async_victim);
}
#endif

/* ---- fork() ------------------------------------------------------------------------------------ */

static int wait_for(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static void hammer(struct member *m)
{
	struct busy *b = m->arg;
	uint64_t pin;
	void *p;

	while (!m->team->stop) {
		MUST_OK(vac_map(b->space, NULL, MIB(2), RW, m->nr % 2 ? VAC_MAP_NOHUGE : 0, &p));
		memset(p, (int)m->nr + 1, 8 * VAC_PAGE_BYTES);
		MUST_OK(vac_pin(b->space, p, VAC_PAGE_BYTES, 0, "hammer", &pin));
		for (unsigned i = 0; i < 64; i++)
			atomic_fetch_add(&hot[rnd(&m->rnd) % HOT_PAGES * (VAC_PAGE_BYTES / 8)], 1);
		MUST_OK(vac_unpin(b->pool, pin));
		MUST_OK(vac_unmap(b->space, p, MIB(2)));
		m->team->rounds++;
	}
}

/* In the child. Which calls do not say -EPERM: a number that names the line, 0 if all do. */
static int calls_in_child(const struct busy *b, struct vac_report *report, uint64_t pin)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_block_info bi = VAC_INIT(struct vac_block_info);
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_report *r;
	void *p = (void *)hot;
	char msg[10];

	so.bytes = MIB(4);
#define EPERM_OF(call)        \
	if ((call) != -EPERM) \
	return __LINE__ % 200 + 1
	EPERM_OF(vac_pool_open(NULL, &pool));
	EPERM_OF(vac_pool_stats(b->pool, &st));
	EPERM_OF(vac_pool_check(b->pool, msg, sizeof(msg)));
	EPERM_OF(vac_block_add(b->pool, NULL));
	EPERM_OF(vac_block_online(b->pool, 0, VAC_ZONE_MOVABLE));
	EPERM_OF(vac_block_offline(b->pool, 0, NULL, NULL));
	EPERM_OF(vac_block_cancel(b->pool, 0));
	EPERM_OF(vac_block_remove(b->pool, 0));
	EPERM_OF(vac_block_info(b->pool, 0, &bi));
	EPERM_OF(vac_block_max(b->pool));
	EPERM_OF(vac_space_create(b->pool, &so, &space));
	EPERM_OF(vac_space_destroy(b->space));
	EPERM_OF(vac_map(b->space, NULL, MIB(2), RW, 0, &p));
	EPERM_OF(vac_unmap(b->space, p, MIB(1)));
	EPERM_OF(vac_protect(b->space, p, MIB(1), RW));
	EPERM_OF(vac_advise(b->space, p, MIB(1), VAC_ADV_WILLNEED));
	EPERM_OF(vac_page_info(b->space, p, &pi));
	EPERM_OF(vac_pin(b->space, p, 1, 0, NULL, &pin));
	EPERM_OF(vac_unpin(b->pool, pin));
	EPERM_OF(vac_report_block(b->pool, 0, &r));
	EPERM_OF(vac_pool_close(b->pool));
#undef EPERM_OF
	vac_report_free(report);
	vac_space_base(b->space);
	vac_space_bytes(b->space);
	vac_strerror(-EPERM);
	return maps_with("vacate:test") ? 250 : 0;
}

/* Children born at any moment of a working pool have none of it, and cannot hurt it. */
static void test_fork_any_moment(void **state UNUSED)
{
	struct busy b = {.pool = t_pool(MIB(4), 8)};
	struct rotation rot = {b.pool, 8};
	static struct team t, r;
	struct vac_report *report;
	uint64_t pin;
	void *pinned;

	b.space = t_space(b.pool, MIB(64));
	hot = (void *)t_map(b.space, HOT_PAGES * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	memset((void *)hot, 0, HOT_PAGES * VAC_PAGE_BYTES);
	pinned = t_map(b.space, VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	pin = t_pin(b.space, pinned, VAC_PAGE_BYTES, 0, "parent");
	assert_ok(vac_report_block(b.pool, t_page(b.space, pinned).block, &report));
	team_start(&t, 2, hammer, &b);
	team_start(&r, 1, rotator, &rot);
	for (unsigned i = 0; i < scaled(200); i++) {
		int pid = fork();

		if (pid == 0) {
			alarm(30);
			if (i % 4 || ASAN || TSAN) /* they turn a death into a long story */
				_exit(calls_in_child(&b, report, pin));
			poke((void *)hot);
			_exit(0);
		}
		assert_true(pid > 0);
		if (i % 4 || ASAN || TSAN)
			assert_int_equal(wait_for(pid), 0);
		else
			assert_int_equal(WTERMSIG(wait_for(pid)), SIGSEGV);
	}
	team_rounds(&t, 4);
	team_rounds(&r, 1);
	team_stop(&t);
	team_stop(&r);
	vac_report_free(report);
	assert_ok(vac_unpin(b.pool, pin));
	assert_int_equal(t_stats(b.pool).pins, 0);
	t_close(b.pool);
}

/* What runs another program does not need fork(). */
static void test_spawn(void **state UNUSED)
{
	struct busy b = {.pool = t_pool(MIB(4), 8)};
	struct rotation rot = {b.pool, 8};
	char arg0[] = "true", *argv[] = {arg0, NULL};
	static struct team t, r;

	b.space = t_space(b.pool, MIB(64));
	hot = (void *)t_map(b.space, HOT_PAGES * VAC_PAGE_BYTES, VAC_MAP_NOHUGE);
	team_start(&t, 2, hammer, &b);
	team_start(&r, 1, rotator, &rot);
	for (unsigned i = 0; i < scaled(100); i++) {
		pid_t pid;

		assert_ok(posix_spawnp(&pid, "true", NULL, NULL, argv, environ));
		assert_int_equal(wait_for(pid), 0);
	}
	team_stop(&t);
	team_stop(&r);
	t_close(b.pool);
}

/* ---- System calls ------------------------------------------------------------------------------ */

/* The kernel's own touch of an absent page is an EFAULT; of a pinned one it is not. */
static void test_system_calls(void **state UNUSED)
{
	ONLY_SIGSEGV();
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8));
	char *p = t_map(s, MIB(1), VAC_MAP_NOHUGE);
	uint64_t pin;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	p[VAC_PAGE_BYTES * 200] = 1;
	assert_int_equal(read(fd, p, 100), -1);
	assert_int_equal(errno, EFAULT);
	pin = t_pin(s, p, 3 * VAC_PAGE_BYTES, VAC_PIN_WRITE, "read");
	assert_int_equal(read(fd, p + 5, 3 * VAC_PAGE_BYTES - 5), 3 * VAC_PAGE_BYTES - 5);
	assert_ok(vac_unpin(pool, pin));
	assert_int_equal(p[VAC_PAGE_BYTES * 200], 1);
	close(fd);
	t_close(pool);
}

/* ---- Several pools and spaces ------------------------------------------------------------------ */

static void test_many_spaces(void **state UNUSED)
{
	struct vac_pool *pool[3];
	struct vac_space *s[3][8];
	char *p[3][8];

	for (int i = 0; i < 3; i++) {
		pool[i] = t_pool(MIB(4), 4);
		for (int k = 0; k < 8; k++) {
			s[i][k] = t_space(pool[i], MIB(4));
			p[i][k] = t_map(s[i][k], MIB(1), k % 2 ? VAC_MAP_NOHUGE : 0);
		}
	}
	for (int k = 0; k < 8; k++)
		for (int i = 0; i < 3; i++)
			pat_fill(p[i][k], 64 << 10, (uint64_t)(i * 8 + k));
	for (int i = 0; i < 3; i++) {
		assert_true(t_stats(pool[i]).faults >= 8);
		for (int k = 0; k < 8; k++)
			assert_int_equal(pat_bad(p[i][k], 64 << 10, (uint64_t)(i * 8 + k)), -1);
	}
	assert_ok(vac_space_destroy(s[1][3]));
	assert_int_equal(pat_bad(p[1][4], 64 << 10, 12), -1);
	t_close(pool[1]);
	assert_int_equal(pat_bad(p[2][4], 64 << 10, 20), -1);
	t_close(pool[0]);
	t_close(pool[2]);
}

/* ---- Faults that are the program's own -------------------------------------------------------- */

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
} c;

static void case_setup(void)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	void *p;

	po.block_bytes = MIB(4);
	MUST_OK(vac_pool_open(&po, &c.pool));
	for (int i = 0; i < 2; i++)
		MUST_OK(vac_block_online(c.pool, vac_block_add(c.pool, NULL), VAC_ZONE_MOVABLE));
	so.bytes = MIB(32);
	MUST_OK(vac_space_create(c.pool, &so, &c.space));
	MUST_OK(vac_map(c.space, NULL, MIB(4), RW, 0, &p));
	c.mem = p;
	memset(c.mem, 1, MIB(4));
}

static void case_unmapped(void)
{
	case_setup();
	MUST_OK(vac_unmap(c.space, c.mem + MIB(1), VAC_PAGE_BYTES));
	poke(c.mem + MIB(1) - 1);
	poke(c.mem + MIB(1) + VAC_PAGE_BYTES);
	dprintf(2, "so far\n");
	poke(c.mem + MIB(1));
}

static void case_never_mapped(void)
{
	case_setup();
	MUST(peek(c.mem + MIB(4)) == 2);
}

static void case_read_only(void)
{
	case_setup();
	MUST_OK(vac_protect(c.space, c.mem, MIB(2), VAC_PROT_READ));
	MUST(peek(c.mem) == 1);
	poke(c.mem + MIB(2));
	dprintf(2, "so far\n");
	poke(c.mem);
}

static void case_no_access(void)
{
	case_setup();
	MUST_OK(vac_protect(c.space, c.mem, MIB(2), VAC_PROT_NONE));
	MUST(peek(c.mem) == 2);
}

static void case_space_gone(void)
{
	case_setup();
	MUST_OK(vac_space_destroy(c.space));
	poke(c.mem);
}

static void case_pool_gone(void)
{
	case_setup();
	MUST_OK(vac_pool_close(c.pool));
	poke(c.mem);
}

static void case_no_memory(void)
{
	void *p;

	case_setup();
	MUST_OK(vac_map(c.space, NULL, MIB(16), RW, 0, &p));
	memset(p, 1, MIB(16));
}

static sigjmp_buf back;
static siginfo_t seen;

static void on_signal(int sig UNUSED, siginfo_t *info, void *uc UNUSED)
{
	seen = *info;
	siglongjmp(back, 1);
}

static void handle(int sig)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_signal;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(sig, &a, NULL) == 0);
}

/* The program's handlers see the faults that are not the pool's, and nothing of the others. */
static void case_handlers(void)
{
	uint64_t before = blocked_signals();
	char *foreign = mmap(NULL, VAC_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *p;

	handle(SIGSEGV);
	handle(SIGBUS);
	case_setup();
	MUST(seen.si_signo == 0);
	if (!sigsetjmp(back, 1))
		poke(foreign + 7);
	MUST(seen.si_signo == SIGSEGV && seen.si_addr == foreign + 7);
	if (!sigsetjmp(back, 1))
		poke(c.mem + MIB(5));
	MUST(seen.si_signo == SIGSEGV && seen.si_addr == c.mem + MIB(5));
	/* No memory: and the same touch again once there is some. */
	MUST_OK(vac_map(c.space, NULL, MIB(4), RW, VAC_MAP_POPULATE, &p));
	MUST_OK(vac_map(c.space, NULL, MIB(2), RW, 0, &p));
	if (!sigsetjmp(back, 1))
		poke(p);
	MUST(seen.si_signo == SIGBUS && seen.si_addr == p && seen.si_code == BUS_ADRERR);
	MUST_OK(vac_unmap(c.space, c.mem, MIB(2)));
	poke(p);
	MUST(blocked_signals() == before);
	MUST_OK(vac_pool_close(c.pool));
}

static void dies(const char *name, int sig, const char *said)
{
	char err[512];
	int status = case_run(name, err, sizeof(err));

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
	assert_string_equal(err, said);
}

static void test_true_sigsegv(void **state UNUSED)
{
	dies("unmapped", SIGSEGV, "so far\n");
	dies("never_mapped", SIGSEGV, "");
	dies("read_only", SIGSEGV, "so far\n");
	dies("no_access", SIGSEGV, "");
	dies("space_gone", SIGSEGV, "");
	dies("pool_gone", SIGSEGV, "");
}

static void test_true_sigbus(void **state UNUSED)
{
	dies("no_memory", SIGBUS, "");
}

static void test_handlers(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("handlers", err, sizeof(err)), 0);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"unmapped", case_unmapped},     {"never_mapped", case_never_mapped},
		{"read_only", case_read_only},   {"no_access", case_no_access},
		{"space_gone", case_space_gone}, {"pool_gone", case_pool_gone},
		{"no_memory", case_no_memory},   {"handlers", case_handlers},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errno_and_mask),
		cmocka_unit_test(test_signals_blocked_inside),
		cmocka_unit_test(test_stack_used),
		cmocka_unit_test(test_alternate_stack),
#if !TSAN /* which runs handlers later, with SIGSEGV blocked */
		cmocka_unit_test(test_handler_inside_engine),
#endif
		cmocka_unit_test(test_arguments_in_pool),
		cmocka_unit_test(test_arguments_that_leave),
		cmocka_unit_test(test_cancel_deferred),
#if !TSAN && !ASAN
		cmocka_unit_test(test_cancel_async),
#endif
		cmocka_unit_test(test_fork_any_moment),
		cmocka_unit_test(test_spawn),
		cmocka_unit_test(test_system_calls),
		cmocka_unit_test(test_many_spaces),
		cmocka_unit_test(test_true_sigsegv),
		cmocka_unit_test(test_true_sigbus),
		cmocka_unit_test(test_handlers),
	};

	case_main(argc, argv, cases, COUNT(cases));
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

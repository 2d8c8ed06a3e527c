/* SPDX-License-Identifier: MIT */
/* runtests: guards=all */
/*
 * What a child of fork() finds of a pool, by the pool's policy, and what a program run by exec finds. Copies
 * that cannot be made are in test_fork_refused.c.
 */
#include "tests/fork.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* ---- What is there --------------------------------------------------------------------------- */

/* One mapping of every kind. */
static struct {
	struct vac_pool *pool;
	struct vac_space *space, *other;
	char *huge, *base, *thin, *fixed, *hidden, *fresh, *gone, *far;
	uint64_t pin;
} all;

#define THIN_PAGES 300

static void all_make(void)
{
	all.pool = copy_pool(MIB(4), 8);
	all.space = t_space(all.pool, MIB(64));
	all.other = t_space(all.pool, MIB(8));
	all.huge = t_map(all.space, 2 * HUGE, 0);
	all.base = t_map(all.space, HUGE + 7 * P, VAC_MAP_NOHUGE);
	all.thin = t_map(all.space, THIN_PAGES * 16 * P, VAC_MAP_NOHUGE);
	all.fixed = t_map(all.space, 10 * P, VAC_MAP_NOHUGE);
	all.hidden = t_map(all.space, 10 * P, VAC_MAP_NOHUGE);
	all.fresh = t_map(all.space, 3 * HUGE, 0);
	all.gone = t_map(all.space, 4 * P, 0);
	all.far = t_map(all.other, HUGE, 0);
	pat_fill(all.huge, 2 * HUGE, 1);
	pat_fill(all.base, HUGE + 7 * P, 2);
	for (size_t i = 0; i < THIN_PAGES; i++)
		memset(all.thin + i * 16 * P, (int)i + 1, 8);
	pat_fill(all.fixed, 10 * P, 3);
	pat_fill(all.hidden, 10 * P, 4);
	pat_fill(all.far, HUGE, 5);
	all.gone[0] = 1;
	assert_ok(vac_unmap(all.space, all.gone, 4 * P));
	assert_ok(vac_protect(all.space, all.fixed, 10 * P, VAC_PROT_READ));
	assert_ok(vac_protect(all.space, all.hidden, 10 * P, VAC_PROT_NONE));
	all.pin = t_pin(all.space, all.base, 3 * P, VAC_PIN_WRITE | VAC_PIN_LONGTERM, "holder");
}

/* 0, or the number of what is wrong. */
static int all_wrong(void)
{
	if (pat_bad(all.huge, 2 * HUGE, 1) != -1)
		return 1;
	if (pat_bad(all.base, HUGE + 7 * P, 2) != -1)
		return 2;
	for (size_t i = 0; i < THIN_PAGES; i++) {
		char want[8];

		memset(want, (int)i + 1, 8);
		if (memcmp(all.thin + i * 16 * P, want, 8) ||
		    zero_bad(all.thin + i * 16 * P + 8, P - 8) != -1)
			return 3;
	}
	if (pat_bad(all.fixed, 10 * P, 3) != -1)
		return 4;
	if (pat_bad(all.far, HUGE, 5) != -1)
		return 5;
	return 0;
}

static int child_of_copy(void)
{
	int r = all_wrong();
	uint64_t pin;
	void *out;

	alarm(60);
	if (r)
		return r;
	if (zero_bad(all.fresh, 3 * HUGE) != -1)
		return 10;
	if (vac_map(all.space, NULL, P, RW, 0, &out) != -EPERM ||
	    vac_pin(all.space, all.base, P, 0, "child", &pin) != -EPERM ||
	    vac_unpin(all.pool, all.pin) != -EPERM || vac_pool_close(all.pool) != -EPERM)
		return 11;
	if (maps_with("memfd:vacate"))
		return 12;
	if (!ASAN && !TSAN) { /* they tell long stories of every death */
		if (dies_of(all.fixed, true) != SIGSEGV || dies_of(all.hidden, false) != SIGSEGV)
			return 13;
		if (dies_of(all.gone, false) != SIGSEGV || dies_of(all.huge, true) != 0)
			return 14;
	}
	/* It is the child's own memory, to do with as it likes. */
	if (mprotect(all.hidden, 10 * P, PROT_READ) || pat_bad(all.hidden, 10 * P, 4) != -1)
		return 15;
	memset(all.huge, 77, 2 * HUGE);
	memset(all.base, 77, HUGE + 7 * P);
	memset(all.fresh, 77, 3 * HUGE);
	if (munmap(all.far, HUGE))
		return 16;
	return 0;
}

static void test_copy(void **state UNUSED)
{
	uint64_t vmas;
	unsigned maps;
	int pid;

	all_make();
	vmas = t_stats(all.pool).host_vmas;
	maps = maps_total();
	for (int i = 0; i < 3; i++) {
		pid = fork();
		if (pid == 0)
			_exit(child_of_copy());
		assert_int_equal(wait_for(pid), 0);
		assert_int_equal(all_wrong(), 0);
		assert_int_equal(t_stats(all.pool).host_vmas, vmas);
		assert_int_equal(maps_total(), maps);
	}
	assert_int_equal(logged, 0);
	/* The parent's is the pool's as ever. */
	pat_fill(all.huge, 2 * HUGE, 1);
	assert_true(can_write(all.base) && !can_write(all.fixed) && !can_read(all.hidden));
	assert_ok(vac_unpin(all.pool, all.pin));
	for (int id = 0; id < 8; id++) {
		assert_ok(t_offline(all.pool, id, 0, NULL));
		assert_ok(t_online(all.pool, id));
	}
	assert_int_equal(all_wrong(), 0);
	t_close(all.pool);
}

/* A grandchild has what its parent had, by the host's own fork. */
static void test_grandchild(void **state UNUSED)
{
	struct vac_pool *pool = copy_pool(MIB(4), 2);
	char *m = t_map(t_space(pool, MIB(4)), HUGE, 0);
	int pid;

	pat_fill(m, HUGE, 8);
	pid = fork();
	if (pid == 0) {
		memset(m, 9, P);
		pid = fork();
		if (pid == 0)
			_exit(m[0] == 9 && m[P - 1] == 9 ? 0 : 1);
		_exit(WEXITSTATUS(wait_for(pid)));
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(pat_bad(m, HUGE, 8), -1);
	t_close(pool);
}

/* Each pool has its own policy. */
static void test_two_policies(void **state UNUSED)
{
	struct vac_pool *copy = copy_pool(MIB(4), 2), *none = t_pool(MIB(4), 2),
			*another = copy_pool(MIB(2), 2);
	char *a = t_map(t_space(copy, MIB(4)), HUGE, 0);
	char *b = t_map(t_space(none, MIB(4)), HUGE, 0);
	char *c = t_map(t_space(another, MIB(4)), MIB(1), VAC_MAP_NOHUGE);
	int pid;

	pat_fill(a, HUGE, 1);
	pat_fill(b, HUGE, 2);
	pat_fill(c, MIB(1), 3);
	pid = fork();
	if (pid == 0) {
		if (pat_bad(a, HUGE, 1) != -1 || pat_bad(c, MIB(1), 3) != -1)
			_exit(1);
		_exit(ASAN || TSAN || dies_of(b, false) == SIGSEGV ? 0 : 2);
	}
	assert_int_equal(wait_for(pid), 0);
	t_close(copy);
	t_close(none);
	pid = fork(); /* the list of pools is in order after pools have gone */
	if (pid == 0)
		_exit(pat_bad(c, MIB(1), 3) != -1);
	assert_int_equal(wait_for(pid), 0);
	t_close(another);
}

/* ---- One instant ----------------------------------------------------------------------------- */

/*
 * Writers store i, then i + 1 ... to the same words in the same order, far apart from one another.
 * Whoever looks at one instant sees in each word at most what the one before it has, and at least
 * one less. (K.9 of semantics.md: fork snapshot tearing.)
 */
#define WORDS 6
#define WRITERS 3

struct torn {
	struct vac_pool *pool;
	struct vac_space *space;
	_Atomic uint64_t *word[WRITERS][WORDS];
	_Atomic uint64_t *outside; /* of the first writer, after its last word: not of the pool */
};

static void write_in_order(struct member *m)
{
	struct torn *t = m->arg;

	for (uint64_t i = 1; !m->team->stop; i++) {
		for (unsigned k = 0; k < WORDS; k++)
			atomic_store_explicit(t->word[m->nr][k], i, memory_order_release);
		if (m->nr == 0)
			atomic_store_explicit(t->outside, i, memory_order_release);
		m->team->rounds++;
	}
}

static int torn_in_child(struct torn *t)
{
	alarm(60);
	for (unsigned w = 0; w < WRITERS; w++) {
		uint64_t first = *t->word[w][0], last = first;

		for (unsigned k = 0; k < WORDS; k++) {
			uint64_t v = *t->word[w][k];

			if (v > last || first - v > 1)
				return 1 + (int)(w * WORDS + k);
			last = v;
		}
		/* What is not of the pool is of the same instant. */
		if (w == 0 && (*t->outside > last || first - *t->outside > 1))
			return 100;
	}
	return 0;
}

static void rotate(struct member *m)
{
	struct torn *t = m->arg;

	for (int id = 0; !m->team->stop; id = (id + 1) % 8) {
		int r = t_offline(t->pool, id, 200, NULL);

		MUST(r == 0 || r == -EBUSY || r == -ETIMEDOUT);
		if (r == 0)
			MUST(t_online(t->pool, id) == 0);
		m->team->rounds++;
	}
}

static void churn(struct member *m)
{
	struct torn *t = m->arg;

	while (!m->team->stop) {
		void *p;
		uint64_t pin;

		MUST_OK(vac_map(t->space, NULL, MIB(1), RW, VAC_MAP_NOHUGE, &p));
		memset(p, 3, 4 * P);
		MUST_OK(vac_pin(t->space, p, P, VAC_PIN_WRITE, "churn", &pin));
		MUST_OK(vac_protect(t->space, p, P, VAC_PROT_READ));
		MUST_OK(vac_unpin(t->pool, pin));
		MUST_OK(vac_unmap(t->space, p, MIB(1)));
		m->team->rounds++;
	}
}

static void instant(bool pinned)
{
	static struct team writers, rotator, churner;
	struct torn t = {.pool = copy_pool(MIB(4), 8)};
	char *huge, *base, *place[3];
	uint64_t pin[2] = {0};
	unsigned n = scaled(60);

	t.space = t_space(t.pool, MIB(64));
	huge = t_map(t.space, HUGE, VAC_MAP_POPULATE);
	base = t_map(t.space, MIB(1), VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	place[0] = base + 5 * P;
	place[1] = huge + 100 * P;
	place[2] = base + 130 * P; /* of a far-away page that is filled by itself */
	for (unsigned w = 0; w < WRITERS; w++)
		for (unsigned k = 0; k < WORDS; k++)
			t.word[w][k] = (void *)(place[k % 3] + (k < 3 ? 0 : P - 64) + w * 8);
	t.outside = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(t.outside != MAP_FAILED);
	if (pinned) {
		pin[0] = t_pin(t.space, place[0], P, VAC_PIN_WRITE | VAC_PIN_LONGTERM, "long");
		pin[1] = t_pin(t.space, place[1], P, VAC_PIN_LONGTERM, "long");
	}
	team_start(&writers, WRITERS, write_in_order, &t);
	team_start(&rotator, 1, rotate, &t);
	team_start(&churner, 1, churn, &t);
	team_rounds(&writers, 10);
	for (unsigned i = 0; i < n; i++) {
		int pid = fork();

		if (pid == 0)
			_exit(torn_in_child(&t));
		assert_true(pid > 0);
		assert_int_equal(wait_for(pid), 0);
	}
	team_rounds(&writers, 10);
	team_rounds(&churner, 2);
	team_rounds(&rotator, 1);
	team_stop(&writers);
	team_stop(&rotator);
	team_stop(&churner);
	assert_int_equal(logged, 0);
	if (pinned) {
		assert_ok(vac_unpin(t.pool, pin[0]));
		assert_ok(vac_unpin(t.pool, pin[1]));
	}
	munmap((void *)t.outside, P);
	t_close(t.pool);
}

static void test_instant(void **state UNUSED)
{
	instant(false);
}

static void test_instant_pinned(void **state UNUSED)
{
	instant(true);
}

/* ---- Pins ------------------------------------------------------------------------------------ */

struct reads {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	int fd;
};

#define READ_BYTES (64 * P)

/* A transfer by the kernel into pinned memory: all of it one byte, then all of it another. */
static void read_pinned(struct member *m)
{
	struct reads *t = m->arg;
	char *to = t->mem + m->nr * READ_BYTES;

	for (unsigned i = 0; !m->team->stop; i++) {
		uint64_t pin = t_pin(t->space, to, READ_BYTES, VAC_PIN_WRITE, "reader");

		MUST(pread(t->fd, to, READ_BYTES, (off_t)(i % 5 * READ_BYTES)) ==
		     (ssize_t)READ_BYTES);
		MUST_OK(vac_unpin(t->pool, pin));
		m->team->rounds++;
	}
}

static int half_read(struct reads *t, unsigned n)
{
	alarm(60);
	for (unsigned k = 0; k < n; k++) {
		const char *p = t->mem + k * READ_BYTES;

		for (size_t off = 1; off < READ_BYTES; off++)
			if (p[off] != p[0])
				return 1;
	}
	return 0;
}

/* A system call under a short pin neither fails nor is seen half done because somebody forks. */
static void test_short_pins(void **state UNUSED)
{
	static struct team team;
	struct reads t = {.pool = copy_pool(MIB(4), 12)};
	char name[] = "/tmp/vacate-fork-XXXXXX", buf[READ_BYTES];

	t.space = t_space(t.pool, MIB(64));
	t.mem = t_map(t.space, 3 * READ_BYTES, VAC_MAP_NOHUGE);
	memset(t_map(t.space, MIB(40), 0), 1, MIB(40)); /* so that a copy takes its time */
	t.fd = mkstemp(name);
	assert_true(t.fd >= 0);
	unlink(name);
	for (int i = 0; i < 5; i++) {
		memset(buf, 'a' + i, sizeof(buf));
		assert_int_equal(write(t.fd, buf, sizeof(buf)), sizeof(buf));
	}
	team_start(&team, 3, read_pinned, &t);
	team_rounds(&team, 10);
	for (unsigned i = 0; i < scaled(100); i++) {
		int pid = fork();

		if (pid == 0)
			_exit(half_read(&t, 3));
		assert_true(pid > 0);
		assert_int_equal(wait_for(pid), 0);
	}
	team_rounds(&team, 10);
	team_stop(&team);
	assert_int_equal(logged, 0);
	close(t.fd);
	t_close(t.pool);
}

static void hold_and_wait(struct member *m)
{
	struct reads *t = m->arg;
	uint64_t pin = t_pin(t->space, t->mem, P, VAC_PIN_WRITE, "slow");

	m->team->rounds++;
	while (!m->team->stop)
		sleep_ms(1);
	MUST_OK(vac_unpin(t->pool, pin));
}

/* One that is held for ever delays a fork by the gate's timeout, and not those of the thread itself. */
static void test_slow_pin(void **state UNUSED)
{
	static struct team team;
	struct reads t = {.pool = copy_pool(MIB(4), 2)};
	uint64_t start, mine;
	int pid;

	t.space = t_space(t.pool, MIB(4));
	t.mem = t_map(t.space, MIB(1), 0);
	memset(t.mem, 3, MIB(1));
	mine = t_pin(t.space, t.mem + 9 * P, P, VAC_PIN_WRITE, "mine");
	team_start(&team, 1, hold_and_wait, &t);
	while (!team.rounds) /* it has taken its pin */
		sleep_ms(1);
	start = t_ms();
	pid = fork();
	if (pid == 0)
		_exit(t.mem[0] != 3);
	assert_true(t_ms() - start >= 299); /* the tests' gates take 300 */
	assert_int_equal(wait_for(pid), 0);
	team_stop(&team);
	assert_ok(vac_unpin(t.pool, mine));
	t_close(t.pool);
}

/* ---- Forks in odd places --------------------------------------------------------------------- */

static void fork_and_check(struct member *m)
{
	struct torn *t = m->arg;

	for (unsigned i = 0; i < scaled(20); i++) {
		int pid = fork();

		if (pid == 0)
			_exit(torn_in_child(t));
		MUST(pid > 0);
		MUST(wait_for(pid) == 0);
	}
}

/* Several threads fork while others write, and while pools come and go. */
static void test_forks_at_once(void **state UNUSED)
{
	static struct team writers, forkers;
	struct torn t = {.pool = copy_pool(MIB(4), 4)};
	char *m;

	t.space = t_space(t.pool, MIB(8));
	m = t_map(t.space, MIB(1), VAC_MAP_NOHUGE);
	for (unsigned w = 0; w < WRITERS; w++)
		for (unsigned k = 0; k < WORDS; k++)
			t.word[w][k] = (void *)(m + (w * WORDS + k) * 9 * P);
	t.outside = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	team_start(&writers, WRITERS, write_in_order, &t);
	team_start(&forkers, 3, fork_and_check, &t);
	for (unsigned i = 0; i < scaled(20); i++) {
		struct vac_pool *p = copy_pool(MIB(2), 1);

		*t_map(t_space(p, MIB(2)), P, 0) = 1;
		t_close(p);
	}
	team_join(&forkers);
	team_stop(&writers);
	munmap((void *)t.outside, P);
	t_close(t.pool);
}

static char *poked;
static struct vac_space *poked_space;
static _Atomic int forked_pid;
static _Atomic unsigned handler_writes;

static void forking_handler(int sig UNUSED)
{
	int saved = errno, pid = fork();

	if (pid == 0)
		_exit(poked[1] == 5 ? 0 : 1);
	forked_pid = pid;
	errno = saved;
}

/* fork() from a signal handler, whatever the thread was doing: engine calls, faults. */
static void case_in_handler(void)
{
	struct sigaction a;
	struct vac_pool *pool = case_pool(&poked_space, 2);
	char *m = case_map(poked_space, MIB(2), VAC_MAP_NOHUGE);

	poked = case_map(poked_space, P, 0);
	poked[1] = 5;
	memset(&a, 0, sizeof(a));
	a.sa_handler = forking_handler;
	MUST(sigaction(SIGUSR1, &a, NULL) == 0);
	alarm(60);
	for (unsigned i = 0; i < scaled(50); i++) {
		struct itimerval it = {{0, 0}, {0, 50 + 37 * (int)i}};

		a.sa_handler = forking_handler;
		MUST(sigaction(SIGVTALRM, &a, NULL) == 0);
		forked_pid = 0;
		MUST(setitimer(ITIMER_VIRTUAL, &it, NULL) == 0);
		for (size_t k = 0; !forked_pid; k++) {
			m[k * P % MIB(2)] = 1;
			if (k % 512 == 511)
				MUST_OK(vac_advise(poked_space, m, MIB(2), VAC_ADV_DONTNEED));
		}
		MUST(wait_for(forked_pid) == 0);
	}
	MUST(logged == 0);
	MUST_OK(vac_pool_check(pool, NULL, 0));
}

static void test_in_handler(void **state UNUSED)
{
	char err[512];

	if (TSAN) {
		print_message(
			"SKIP: forced: the thread sanitizer allocates in fork(), no matter where\n");
		skip();
	}
	assert_int_equal(case_run("in_handler", err, sizeof(err)), 0);
}

static void writing_handler(int sig UNUSED)
{
	poked[0]++;
	handler_writes++;
}

/* Signals that come while a thread forks run their handlers after it, pool memory and all. */
static void case_signals_wait(void)
{
	struct itimerval it = {{0, 200}, {0, 200}};
	struct vac_pool *pool = case_pool(&poked_space, 4);
	char *m = case_map(poked_space, MIB(8), 0);
	struct sigaction a;

	poked = case_map(poked_space, P, 0);
	memset(m, 1, MIB(8));
	memset(&a, 0, sizeof(a));
	a.sa_handler = writing_handler;
	a.sa_flags = SA_RESTART;
	MUST(sigaction(SIGALRM, &a, NULL) == 0);
	MUST(setitimer(ITIMER_REAL, &it, NULL) == 0);
	for (unsigned i = 0; i < scaled(100); i++) {
		int pid = fork();

		if (pid == 0)
			_exit(m[MIB(7)] == 1 ? 0 : 1);
		MUST(wait_for(pid) == 0);
	}
	while (handler_writes < 10)
		sleep_ms(1);
	MUST(logged == 0);
	MUST_OK(vac_pool_check(pool, NULL, 0));
}

static void test_signals_wait(void **state UNUSED)
{
	char err[512];

	if (TSAN) {
		print_message("SKIP: forced: the thread sanitizer runs handlers with SIGSEGV "
			      "blocked\n");
		skip();
	}
	assert_int_equal(case_run("signals_wait", err, sizeof(err)), 0);
}

/* posix_spawn() runs no handlers and copies nothing. */
static void test_spawn(void **state UNUSED)
{
	struct vac_pool *pool = copy_pool(MIB(4), 2);
	char *m = t_map(t_space(pool, MIB(4)), HUGE, VAC_MAP_POPULATE);
	char sh[] = "/bin/sh", c[] = "-c",
	     cmd[] = "! grep -q memfd:vacate /proc/self/maps && "
		     "! ls -l /proc/self/fd/ | grep -q memfd:vacate";
	char *argv[] = {sh, c, cmd, NULL};
	int pid;

	m[0] = 1;
	assert_ok(posix_spawn(&pid, sh, NULL, NULL, argv, (char *[]){NULL}));
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(m[0], 1);
	t_close(pool);
}

/* Nothing is left after exec: neither descriptors nor memory. From a plain pool and from one that is
 * copied. */
static void test_exec(void **state UNUSED)
{
	for (int copy = 0; copy < 2; copy++) {
		struct vac_pool *pool = copy ? copy_pool(MIB(4), 2) : t_pool(MIB(4), 2);
		char *m = t_map(t_space(pool, MIB(4)), HUGE, VAC_MAP_POPULATE);
		int pid, fd = t_block(pool, 0).fd;

		m[0] = 1;
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		pid = fork();
		if (pid == 0) {
			execl("/bin/sh", "sh", "-c",
			      "! grep -q 'vacate:' /proc/self/maps && "
			      "! ls -l /proc/self/fd/ | grep -q 'vacate:'",
			      (char *)NULL);
			_exit(98);
		}
		assert_int_equal(wait_for(pid), 0);
		t_close(pool);
	}
}

/* An unknown flag is refused still. */
static void test_flag(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;

	o.flags = 1u << 31;
	assert_int_equal(vac_pool_open(&o, &pool), -EINVAL);
	o.flags = VAC_POOL_FORK_COPY;
	assert_ok(vac_pool_open(&o, &pool));
	assert_ok(vac_pool_close(pool));
}
int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"in_handler", case_in_handler},
		{"signals_wait", case_signals_wait},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flag),          cmocka_unit_test(test_copy),
		cmocka_unit_test(test_grandchild),    cmocka_unit_test(test_two_policies),
		cmocka_unit_test(test_instant),       cmocka_unit_test(test_instant_pinned),
		cmocka_unit_test(test_short_pins),    cmocka_unit_test(test_slow_pin),
		cmocka_unit_test(test_forks_at_once), cmocka_unit_test(test_in_handler),
		cmocka_unit_test(test_signals_wait),  cmocka_unit_test(test_spawn),
		cmocka_unit_test(test_exec),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

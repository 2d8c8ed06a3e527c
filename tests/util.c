/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "port/port.h"
#include "tests/util.h"

/*
 * cmocka puts a SIGSEGV handler of its own in place before each test, by signal(3), and the one that
 * was there back afterwards, as a plain handler. Either takes the faults away from the engine. So
 * the tests have a signal() that leaves SIGSEGV alone unless it is to be ignored: a test that crashes
 * ends its program.
 */
void (*signal(int sig, void (*fn)(int)))(int)
{
	struct sigaction a, old;

	if ((sig == SIGSEGV || (sig == SIGBUS && t_guard() == VAC_GUARD_USERFAULTFD)) &&
	    fn != SIG_IGN)
		return SIG_DFL;
	memset(&a, 0, sizeof(a));
	a.sa_handler = fn;
	a.sa_flags = SA_RESTART;
	return sigaction(sig, &a, &old) ? SIG_ERR : old.sa_handler;
}

uint64_t t_seed(uint64_t stream)
{
	const char *s = getenv("VAC_TEST_SEED");
	uint64_t x = (s ? strtoull(s, NULL, 0) : 1) * 0x9e3779b97f4a7c15u + stream + 1;

	for (int i = 0; i < 8; i++)
		rnd(&x);
	return x;
}

void t_filter(int argc, char **argv)
{
	t_guard_or_skip();
	if (argc == 2)
		cmocka_set_test_filter(argv[1]);
}

uint64_t t_ms(void)
{
	return vac__port_now() / 1000000;
}

/* ---- Pools ----------------------------------------------------------------------------------- */

static unsigned pools_open;
static uint64_t vmas_before;
static unsigned fds_before;

struct vac_pool_opts t_opts(uint64_t block_bytes)
{
	struct vac_pool_opts o = VAC_INIT(struct vac_pool_opts);

	o.name = "test";
	o.block_bytes = block_bytes;
	o.max_bytes = block_bytes * 64;
	o.gate_timeout_ms = 300;
	o.guard = (enum vac_guard)t_guard();
	return o;
}

static uint64_t vmas_booked(void)
{
	uint64_t used, limit;

	vac__port_vma_usage(&used, &limit);
	return used;
}

struct vac_pool *t_open(const struct vac_pool_opts *o, unsigned blocks)
{
	static bool warm;
	struct vac_pool *pool;

	if (!warm) { /* what the first pool of a process leaves behind for good */
		warm = true;
		assert_ok(vac_pool_open(o, &pool));
		assert_ok(vac_pool_close(pool));
	}
	if (pools_open++ == 0) {
		vmas_before = vmas_booked();
		fds_before = fds_total();
	}
	assert_ok(vac_pool_open(o, &pool));
	for (unsigned i = 0; i < blocks; i++) {
		assert_int_equal(vac_block_add(pool, NULL), (int)i);
		assert_ok(vac_block_online(pool, (int)i, VAC_ZONE_MOVABLE));
	}
	return pool;
}

struct vac_pool *t_pool(uint64_t block_bytes, unsigned blocks)
{
	struct vac_pool_opts o = t_opts(block_bytes);

	return t_open(&o, blocks);
}

void t_check(struct vac_pool *pool)
{
	char msg[200] = "";

	if (vac_pool_check(pool, msg, sizeof(msg)) != 0)
		fail_msg("%s", msg);
}

void t_close(struct vac_pool *pool)
{
	t_check(pool);
	assert_int_equal(t_stats(pool).dangling, 0);
	assert_ok(vac_pool_close(pool));
	if (--pools_open == 0) {
		assert_int_equal(vmas_booked(), vmas_before);
		assert_int_equal(fds_total(), fds_before);
	}
}

struct vac_space *t_space(struct vac_pool *pool, size_t bytes)
{
	struct vac_space_opts o = VAC_INIT(struct vac_space_opts);
	struct vac_space *s;

	o.bytes = bytes;
	assert_ok(vac_space_create(pool, &o, &s));
	return s;
}

char *t_map(struct vac_space *space, size_t len, unsigned flags)
{
	void *p;

	assert_ok(vac_map(space, NULL, len, RW, flags, &p));
	return p;
}

char *t_scattered(struct vac_space *space, size_t bytes)
{
	char *all = t_map(space, 2 * bytes, VAC_MAP_NOHUGE | VAC_MAP_POPULATE), *mem;

	for (size_t off = 0; off < 2 * bytes; off += 2 * VAC_PAGE_BYTES)
		assert_ok(vac_unmap(space, all + off, VAC_PAGE_BYTES));
	mem = t_map(space, bytes, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	for (size_t off = VAC_PAGE_BYTES; off < bytes; off += VAC_PAGE_BYTES) {
		int64_t a = (int64_t)t_page(space, mem + off - VAC_PAGE_BYTES).pfn;

		assert_true((int64_t)t_page(space, mem + off).pfn != a + 1);
	}
	return mem;
}

struct vac_pool_stats t_stats(struct vac_pool *pool)
{
	struct vac_pool_stats s = VAC_INIT(struct vac_pool_stats);

	MUST_OK(vac_pool_stats(pool, &s));
	return s;
}

struct vac_block_info t_block(struct vac_pool *pool, int id)
{
	struct vac_block_info i = VAC_INIT(struct vac_block_info);

	MUST_OK(vac_block_info(pool, id, &i));
	return i;
}

struct vac_page_info t_page(struct vac_space *space, const void *addr)
{
	struct vac_page_info i = VAC_INIT(struct vac_page_info);

	MUST_OK(vac_page_info(space, addr, &i));
	return i;
}

uint64_t t_pin(struct vac_space *space, const void *addr, size_t len, unsigned flags,
	       const char *owner)
{
	uint64_t pin;

	MUST_OK(vac_pin(space, addr, len, flags, owner, &pin));
	return pin;
}

int t_offline(struct vac_pool *pool, int id, int64_t timeout_ms, struct vac_offline_result *res)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);

	o.timeout_ms = timeout_ms;
	if (res) {
		memset(res, 0, sizeof(*res));
		res->size = sizeof(*res);
	}
	return vac_block_offline(pool, id, &o, res);
}

int t_online(struct vac_pool *pool, int id)
{
	return vac_block_online(pool, id, VAC_ZONE_MOVABLE);
}

void t_round_of_offlines(struct vac_pool *pool, int blocks)
{
	for (int id = 0; id < blocks; id++) {
		struct vac_offline_result res;
		int r = t_offline(pool, id, 60000, &res);

		if (r < 0) {
			fprintf(stderr, "block %d: %s\n", id, vac_strerror(r));
			vac_report_print(res.report, stderr);
		}
		MUST(r == 0);
		MUST(res.report == NULL && res.missing_bytes == 0);
		MUST(t_online(pool, id) == 0);
	}
}

static int take_found(void *ctx, const struct vac_blocker *b)
{
	struct t_found *f = ctx;

	f->b = *b;
	for (unsigned k = 0; k < b->owners; k++) {
		struct vac_owner o;

		MUST_OK(vac_report_owner(f->report, f->n, k, &o));
		if (k == 0 || (o.error && !f->who.error))
			f->who = o;
	}
	f->n++;
	return 0;
}

struct t_found t_find(struct vac_report *r)
{
	struct t_found f = {.report = r};

	MUST_OK(vac_report_walk(r, take_found, &f));
	vac_report_free(r);
	f.report = NULL;
	return f;
}

struct vac_offline_opts t_offline_opts(int64_t timeout_ms, uint32_t flags)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);

	o.timeout_ms = timeout_ms;
	o.flags = flags;
	return o;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static uint64_t word(uint64_t seed, size_t i)
{
	uint64_t x = (seed + i + 1) * 0x9e3779b97f4a7c15u;

	return x ^ x >> 29;
}

void pat_fill(void *p, size_t bytes, uint64_t seed)
{
	uint64_t *w = p;

	for (size_t i = 0; i < bytes / 8; i++)
		w[i] = word(seed, i);
}

long pat_bad(const void *p, size_t bytes, uint64_t seed)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < bytes / 8; i++)
		if (w[i] != word(seed, i))
			return (long)(i * 8);
	return -1;
}

long zero_bad(const void *p, size_t bytes)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < bytes / 8; i++)
		if (w[i])
			return (long)(i * 8);
	return -1;
}

static _Thread_local sigjmp_buf refused;
static _Thread_local const volatile char *_Atomic probed;

static void on_refusal(int sig UNUSED, siginfo_t *info, void *uc UNUSED)
{
	if (probed && info->si_addr == (void *)(uintptr_t)probed)
		siglongjmp(refused, 1);
	dprintf(2, "unexpected SIGSEGV at %p\n", info->si_addr);
	abort();
}

void catch_faults(void)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_refusal;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
	/* Under userfaultfd: what the host would not make bare when it lost its rights (space.c). */
	if (t_guard() == VAC_GUARD_USERFAULTFD)
		MUST(sigaction(SIGBUS, &a, NULL) == 0);
}

static bool probe(const volatile char *p, bool write)
{
	bool yes = false;

	probed = p;
	if (sigsetjmp(refused, 1) == 0) {
		if (write)
			__atomic_fetch_or((volatile char *)(uintptr_t)p, 0, __ATOMIC_RELAXED);
		else
			(void)__atomic_load_n(p, __ATOMIC_RELAXED);
		yes = true;
	}
	probed = NULL;
	return yes;
}

bool can_read(const void *p)
{
	return probe(p, false);
}

bool can_write(void *p)
{
	return probe(p, true);
}

int t_swap_file(size_t bytes)
{
	char path[] = "/var/tmp/vacate-test-swap-XXXXXX";
	int fd = mkstemp(path);

	MUST(fd >= 0);
	unlink(path);
	MUST(ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

void t_file(char *path, size_t max, unsigned pages, bool in)
{
	static char buf[4096] __attribute__((aligned(4096)));
	const char *dir = getenv("VAC_TEST_DIR") ? getenv("VAC_TEST_DIR") : "/var/tmp";
	int fd;

	snprintf(path, max, "%s/vacate-foreign-XXXXXX", dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (uint64_t i = 0; i < pages; i++) {
		if (in)
			pat_fill(buf, sizeof(buf), i);
		MUST(write(fd, buf, sizeof(buf)) == sizeof(buf));
	}
	MUST(fchmod(fd, 0666) == 0 && fsync(fd) == 0);
	close(fd);
}

unsigned maps_total(void)
{
	return maps_between(NULL, (void *)UINTPTR_MAX);
}

unsigned fds_total(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	MUST(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* ---- Threads --------------------------------------------------------------------------------- */

static void *member_main(void *arg)
{
	struct member *m = arg;

	m->team->fn(m);
	return NULL;
}

void team_start(struct team *t, unsigned n, void (*fn)(struct member *m), void *arg)
{
	MUST(n <= TEAM_MAX);
	memset(t, 0, sizeof(*t));
	t->n = n;
	t->fn = fn;
	for (unsigned i = 0; i < n; i++) {
		t->member[i] =
			(struct member){.team = t, .nr = i, .rnd = t_seed(1000 + i), .arg = arg};
		MUST(pthread_create(&t->thread[i], NULL, member_main, &t->member[i]) == 0);
	}
}

void team_join(struct team *t)
{
	for (unsigned i = 0; i < t->n; i++)
		MUST(pthread_join(t->thread[i], NULL) == 0);
}

void team_stop(struct team *t)
{
	t->stop = true;
	team_join(t);
}

void team_rounds(struct team *t, uint64_t n)
{
	uint64_t end = t->rounds + n, give_up = t_ms() + 60000;

	while (t->rounds < end) {
		MUST(t_ms() < give_up);
		sleep_ms(1);
	}
}

void meet(struct meeting *m, unsigned n)
{
	uint32_t turn = m->turn;

	if (atomic_fetch_add(&m->arrived, 1) + 1 == n) {
		m->arrived = 0;
		m->turn = turn + 1;
		return;
	}
	for (unsigned i = 0; m->turn == turn; i++) {
		if (i % 1000 == 999)
			sched_yield();
		else
			vac__port_relax();
	}
}

void step_done(char which)
{
	MUST(write(2, &which, 1) == 1);
	kill(getpid(), SIGSTOP);
}

char step_next(int pid, int fd)
{
	char c = 0;
	int status;

	if (read(fd, &c, 1) != 1)
		return 0;
	MUST(waitpid(pid, &status, WUNTRACED) == pid);
	if (!WIFSTOPPED(status))
		fprintf(stderr, "the case has ended with status %#x after '%c'\n", status, c);
	MUST(WIFSTOPPED(status));
	return c;
}

void step_go(int pid)
{
	kill(pid, SIGCONT);
}

/* ---- cgroups --------------------------------------------------------------------------------- */

static bool put_text(const char *dir, const char *file, const char *text)
{
	char path[320];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = write(fd, text, strlen(text));
		close(fd);
	}
	return n == (ssize_t)strlen(text);
}

static int64_t get_number(const char *dir, const char *file)
{
	char path[320], buf[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, buf, sizeof(buf) - 1);
		close(fd);
	}
	if (n <= 0)
		return -1;
	buf[n] = 0;
	return strtoll(buf, NULL, 10);
}

bool memcg_make(struct memcg *g, uint64_t limit, const char **why)
{
	static unsigned nr;
	char text[32];

	g->v2 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) != 0;
	if (geteuid() != 0) {
		*why = "not root";
		return false;
	}
	snprintf(g->dir, sizeof(g->dir), "/sys/fs/cgroup%s/vacate-test-%d-%u",
		 g->v2 ? "" : "/memory", (int)getpid(), nr++);
	if (g->v2)
		put_text("/sys/fs/cgroup", "cgroup.subtree_control", "+memory");
	if (mkdir(g->dir, 0755) < 0) {
		*why = "no memory cgroup can be made here";
		return false;
	}
	snprintf(text, sizeof(text), "%llu", (unsigned long long)limit);
	if (memcg_usage(g) < 0 ||
	    (limit && !put_text(g->dir, g->v2 ? "memory.max" : "memory.limit_in_bytes", text))) {
		rmdir(g->dir);
		*why = "no memory controller here";
		return false;
	}
	return true;
}

bool memcg_join(const struct memcg *g, int pid)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", pid);
	return put_text(g->dir, "cgroup.procs", text);
}

int64_t memcg_usage(const struct memcg *g)
{
	return get_number(g->dir, g->v2 ? "memory.current" : "memory.usage_in_bytes");
}

void memcg_remove(struct memcg *g)
{
	for (int i = 0; i < 100 && rmdir(g->dir) < 0 && errno == EBUSY; i++)
		sleep_ms(10);
}

void t_case_in_cgroup(const char *name, uint64_t limit)
{
	const char *why = "";
	char said[512];
	ssize_t n;
	struct memcg g;
	int fd, pid, status, r;

	if (!memcg_make(&g, limit, &why)) {
		print_message("SKIP: forced: %s\n", why);
		skip();
	}
	pid = case_start(name, &fd, false);
	assert_true(pid > 0);
	assert_int_equal(step_next(pid, fd), '0');
	assert_true(memcg_join(&g, pid));
	step_go(pid);
	n = read(fd, said, sizeof(said) - 1); /* what it complains about, if it does */
	said[n > 0 ? n : 0] = 0;
	do {
		r = waitpid(pid, &status, 0);
	} while (r < 0 && errno == EINTR);
	assert_int_equal(r, pid);
	close(fd);
	memcg_remove(&g);
	if (status)
		fail_msg("status %#x: %s", status, said);
}

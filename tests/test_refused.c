/* SPDX-License-Identifier: MIT */
/* runtests: guards=all */
/* A touch for which there is no memory: the signal, the log, the record, each naming what was missing. */
#include "tests/util.h"

#include <sys/mman.h>
#include <ucontext.h>

#include "port/port.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static struct vac_pool *pool;
static struct vac_space *space;
static char *mem;

static _Atomic unsigned logged;
static char last_log[512];

static void on_log(void *ctx UNUSED, enum vac_log_level level, const char *msg)
{
	size_t n = strlen(msg);

	if (level != VAC_LOG_ERROR)
		return;
	memcpy(last_log, msg, n < sizeof(last_log) ? n + 1 : 0);
	logged++;
	MUST(write(1, msg, n) == (ssize_t)n && write(1, "\n", 1) == 1);
}

static sigjmp_buf after_bus;
static siginfo_t bus;
static struct vac_fault_info seen; /* by the handler itself */
static int seen_r;

static void on_bus(int sig UNUSED, siginfo_t *info, void *uc UNUSED)
{
	bus = *info;
	memset(&seen, 0, sizeof(seen));
	seen.size = sizeof(seen);
	seen_r = vac_last_fault(pool, &seen);
	siglongjmp(after_bus, 1);
}

static void catch_bus(void)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_bus;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(SIGBUS, &a, NULL) == 0);
}

/* Does a touch end in SIGBUS? */
static bool refused(volatile char *p, bool write)
{
	if (t_guard() == VAC_GUARD_USERFAULTFD)
		sleep_ms(100); /* the mark of an earlier refusal stays for 20 */
	if (sigsetjmp(after_bus, 1))
		return true;
	if (write)
		*p = 1;
	else
		(void)*p;
	return false;
}

static void open_pool(unsigned blocks)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_opts o = t_opts(MIB(2));
	void *p;

	o.name = "kitchen";
	o.log = on_log;
	so.name = "sink";
	so.bytes = MIB(256);
	MUST_OK(vac_pool_open(&o, &pool));
	for (unsigned i = 0; i < blocks; i++)
		MUST(t_online(pool, vac_block_add(pool, NULL)) == 0);
	MUST_OK(vac_space_create(pool, &so, &space));
	MUST_OK(vac_map(space, NULL, MIB(256), RW, 0, &p));
	mem = p;
}

static bool said(const char *what)
{
	return strstr(last_log, what) != NULL;
}

/* The signal, the record as its handler saw it, and the log agree about a touch of p. */
static void agree(const char *p, bool write, enum vac_refusal why, unsigned count)
{
	char hex[32];

	snprintf(hex, sizeof(hex), "0x%lx", (unsigned long)(uintptr_t)p);
	MUST(bus.si_addr == p);
	if (t_guard() == VAC_GUARD_SIGSEGV)
		MUST(bus.si_code == BUS_ADRERR && bus.si_errno == ENOMEM);
	else /* the host's own, of a page marked for it; the code depends on how the kernel was built */
		MUST((bus.si_code == BUS_MCEERR_AR || bus.si_code == BUS_ADRERR) &&
		     bus.si_errno == 0);
	MUST(seen_r == 0 && seen.count == count && seen.addr == (uintptr_t)p);
	MUST(seen.write == write && seen.err == -ENOMEM && seen.why == why);
	MUST(seen.tid == vac__port_tid() && !strcmp(seen.space, "sink"));
	MUST(logged == count && !strcmp(seen.text, last_log));
	MUST(said("pool \"kitchen\"") && said("space \"sink\"") && said(hex) && said("SIGBUS"));
}

static void case_pool_full(void)
{
	struct vac_fault_info none = VAC_INIT(struct vac_fault_info), small = {.size = 16};

	open_pool(2);
	catch_bus();
	MUST(vac_last_fault(pool, &none) == -ENOENT);
	memset(mem, 1, MIB(4));
	for (unsigned n = 1; n <= 3; n++) {
		char *p = mem + MIB(5) + n * 1000;

		MUST(refused(p, n % 2));
		agree(p, n % 2, VAC_REFUSED_POOL, n);
		MUST(seen.limit == MIB(4) && seen.used == MIB(4) && said("4096 KiB"));
	}
	/* Errors that are answers are none of this. */
	MUST(vac_advise(space, mem + MIB(6), MIB(2), VAC_ADV_WILLNEED) == -ENOMEM && logged == 3);
	MUST(t_online(pool, vac_block_add(pool, NULL)) == 0);
	MUST(!refused(mem + MIB(5), true) && logged == 3);
	none.size = sizeof(none) + 1;
	MUST(vac_last_fault(pool, &none) == -EINVAL && vac_last_fault(pool, NULL) == -EINVAL);
	MUST(vac_last_fault(pool, &small) == 0 && small.size == 16 && small.count == 3 &&
	     small.addr == 0);
	MUST(vac_pool_check(pool, NULL, 0) == 0 && vac_pool_close(pool) == 0);
}

static void case_mappings(void)
{
	long taken;

	open_pool(2);
	catch_bus();
	mem[0] = 1;
	for (taken = 0; vac__port_vma_charge(1, false);)
		taken++;
	MUST(refused(mem + MIB(3), true));
	agree(mem + MIB(3), true, VAC_REFUSED_MAPPINGS, 1);
	MUST(seen.limit && seen.used == seen.limit && said("max_map_count"));
	vac__port_vma_charge(-taken, true);
	MUST(!refused(mem + MIB(3), true));
	MUST_OK(vac_pool_close(pool));
}

static void case_cgroup(void)
{
	size_t good = 0;

	open_pool(64);
	catch_bus();
	step_done('0');
	while (good < MIB(128) && !refused(mem + good, true))
		good += HUGE;
	MUST(good >= MIB(16) && good < MIB(64));
	agree(mem + good, true, VAC_REFUSED_CGROUP, 1);
	MUST(strstr(seen.where, "vacate-test") && said(seen.where));
	MUST(seen.limit == MIB(64) && seen.used >= good && seen.used <= seen.limit);
	MUST(seen.used + seen.need > seen.limit);
	MUST_OK(vac_unmap(space, mem, good));
	for (int id = 0; id < 30; id++)
		MUST(t_offline(pool, id, 0, NULL) == 0);
	MUST(!refused(mem + good, true) && logged == 1);
	MUST_OK(vac_pool_close(pool));
}

/* The kernel's own SIGBUS on a page that was there: told apart, as nobody refused it. */
static void case_truncated(void)
{
	struct vac_block_info b = VAC_INIT(struct vac_block_info);

	open_pool(1);
	catch_bus();
	memset(mem, 1, HUGE);
	MUST(vac_block_info(pool, 0, &b) == 0 && b.fd >= 0);
	MUST(ftruncate(b.fd, 0) == 0);
	MUST(refused(mem + 5, false));
	MUST(bus.si_addr == mem + 5 && bus.si_errno == 0);
	MUST(seen_r == -ENOENT && logged == 0);
}

/* Without a handler of the program it is deadly, and the log has been told before. */
static void case_deadly(void)
{
	open_pool(1);
	memset(mem, 1, HUGE);
	mem[MIB(3)] = 1;
}

static void run(const char *name)
{
	char err[512];

	assert_int_equal(case_run(name, err, sizeof(err)), 0);
}

static void test_pool_full(void **state UNUSED)
{
	run("pool_full");
}

static void test_mappings(void **state UNUSED)
{
	run("mappings");
}

static void test_truncated(void **state UNUSED)
{
	run("truncated");
}

static void test_cgroup(void **state UNUSED)
{
	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer's own memory is on the same bill\n");
		skip();
	}
	t_case_in_cgroup("cgroup", MIB(64));
}

static void test_deadly(void **state UNUSED)
{
	char err[512];
	int status = case_run("deadly", err, sizeof(err));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"pool_full", case_pool_full}, {"mappings", case_mappings}, {"cgroup", case_cgroup},
		{"truncated", case_truncated}, {"deadly", case_deadly},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pool_full), cmocka_unit_test(test_mappings),
		cmocka_unit_test(test_cgroup),    cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_deadly),
	};

	case_main(argc, argv, cases, COUNT(cases));
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* runtests: guards=all */
/*
 * Forks of a pool whose copy for the child cannot be made, or is spoilt by what others do in their handlers of
 * pthread_atfork(): the parent goes on as if nothing had been, the child has none of the memory.
 */
#include "tests/fork.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "port/port.h"

static volatile char *late_write, *early_write; /* what handlers of pthread_atfork() write */

/* ---- When it cannot be done ------------------------------------------------------------------ */

/* fork() fails: the parent goes on as if it had not tried. */
static void case_fork_fails(void)
{
	struct vac_space *space;
	struct vac_pool *pool = case_pool(&space, 2);
	struct rlimit l = {0, 0};
	char *m = case_map(space, HUGE, 0);

	memset(m, 1, HUGE);
	MUST(setrlimit(RLIMIT_NPROC, &l) == 0);
	if (geteuid() == 0)
		MUST(syscall(SYS_setresuid, 65534, 65534, 65534) == 0);
	for (int i = 0; i < 10; i++) {
		MUST(fork() < 0 && errno == EAGAIN);
		memset(m, i, HUGE);
	}
	MUST(logged == 0);
	MUST_OK(vac_pool_check(pool, NULL, 0));
	MUST_OK(vac_pool_close(pool));
}

static void test_fork_fails(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("fork_fails", err, sizeof(err)), 0);
}

/* Of a child without a copy: every touch is a SIGBUS, the maps say why, and the rest of it works. */
static void denied(char *m)
{
	int pid = fork();

	MUST(pid >= 0);
	if (pid == 0) {
		late_write = NULL; /* grandchildren are born here, too */
		MUST(maps_with("vacate:no copy") > 0);
		MUST(dies_of(m, false) == SIGBUS && dies_of(m + HUGE - 1, true) == SIGBUS);
		_exit(0);
	}
	MUST(wait_for(pid) == 0);
}

/* No addresses for the copy. */
static void case_no_room(void)
{
	struct vac_space *space;
	struct vac_pool *pool = case_pool(&space, 8);
	struct rlimit l, old;
	char *m = case_map(space, MIB(16), 0);
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long pages;

	memset(m, 1, MIB(16));
	MUST(f && fscanf(f, "%lu", &pages) == 1);
	fclose(f);
	MUST(getrlimit(RLIMIT_AS, &old) == 0);
	l = old;
	l.rlim_cur = pages * P + MIB(10);
	MUST(setrlimit(RLIMIT_AS, &l) == 0);
	denied(m);
	MUST(logged == 1 && strstr(last_log, "no memory"));
	memset(m, 2, MIB(16)); /* nobody else is harmed */
	MUST(setrlimit(RLIMIT_AS, &old) == 0);
	if (fork() == 0)
		_exit(m[5] != 2);
	{
		int status;

		MUST(wait(&status) > 0 && status == 0);
	}
	MUST_OK(vac_pool_check(pool, NULL, 0));
	MUST_OK(vac_pool_close(pool));
}

static void test_no_room(void **state UNUSED)
{
	char err[512];

	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer needs all the addresses\n");
		skip();
	}
	assert_int_equal(case_run("no_room", err, sizeof(err)), 0);
}

/* A memory cgroup in which the pool fits, and not the copy: nobody is killed. */
static void case_full_cgroup(void)
{
	struct vac_space *space;
	struct vac_pool *pool = case_pool(&space, 16);
	char *m = case_map(space, MIB(48), 0);

	step_done('0');
	memset(m, 1, MIB(48));
	denied(m);
	MUST(logged == 1 && strstr(last_log, "no memory"));
	MUST_OK(vac_unmap(space, m + MIB(4), MIB(44)));
	for (int id = 15; id > 4; id--)
		MUST(t_offline(pool, id, 0, NULL) == 0);
	if (fork() == 0)
		_exit(m[5] != 1);
	{
		int status;

		MUST(wait(&status) > 0 && status == 0);
	}
	MUST(logged == 1);
	MUST_OK(vac_pool_close(pool));
}

static void test_full_cgroup(void **state UNUSED)
{
	if (ASAN || TSAN) {
		print_message("SKIP: forced: a sanitizer's own memory is on the same bill\n");
		skip();
	}
	t_case_in_cgroup("full_cgroup", MIB(80));
}

/* No host mappings to be had for stopping the writers. */
static void test_vma_limit(void **state UNUSED)
{
	struct vac_pool *pool = copy_pool(MIB(4), 2);
	char *m = t_map(t_space(pool, MIB(4)), HUGE, 0);
	long taken;
	int pid;

	memset(m, 1, HUGE);
	for (taken = 0; vac__port_vma_charge(1, false);)
		taken++;
	pid = fork();
	if (pid == 0)
		_exit(ASAN || TSAN || dies_of(m, false) == SIGBUS ? 0 : 1);
	vac__port_vma_charge(-taken, true);
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(logged, 1);
	assert_non_null(strstr(last_log, "host mappings"));
	memset(m, 2, HUGE);
	t_close(pool);
}

/* ---- Handlers of others ---------------------------------------------------------------------- */

static void late_prepare(void)
{
	if (late_write)
		*late_write = 6;
}

static void early_prepare(void)
{
	if (early_write)
		*early_write = 7;
}

/* Before the library has registered its own, as only a constructor of this priority can: so it runs
 * after that. What the program registers in main() runs before. */
__attribute__((constructor(101))) static void register_late(void)
{
	pthread_atfork(late_prepare, NULL, NULL);
}

static void case_handlers(void)
{
	struct vac_space *space;
	struct vac_pool *pool = case_pool(&space, 2);
	char *m = case_map(space, HUGE, 0);
	int pid, status;

	MUST(pthread_atfork(early_prepare, NULL, NULL) == 0);
	memset(m, 1, HUGE);
	alarm(30);
	early_write = m;
	pid = fork();
	if (pid == 0)
		_exit(m[0] != 7 || m[1] != 1);
	MUST(wait_for(pid) == 0 && logged == 0);
	early_write = NULL;

	/* After the copy was made: the parent goes on, and the child has none rather than another. */
	late_write = m + 2;
	denied(m);
	MUST(logged == 1 && strstr(last_log, "atfork"));
	MUST(m[2] == 6);
	late_write = NULL;
	pid = fork();
	if (pid == 0)
		_exit(m[2] != 6);
	status = wait_for(pid);
	MUST(status == 0 && logged == 1);
	MUST_OK(vac_pool_check(pool, NULL, 0));
	MUST_OK(vac_pool_close(pool));
}

static void test_handlers(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("handlers", err, sizeof(err)), 0);
}

/* Much is to be let go, and the page that the handler has touched is among the first: whoever lets go must
 * be through before the thread that forks does so. */
static void case_handler_of_many(void)
{
	struct vac_space *space;
	struct vac_pool *pool = case_pool(&space, 8);
	char *m = case_map(space, MIB(8), VAC_MAP_NOHUGE);
	size_t step = 16 * P;

	for (size_t off = step; off < MIB(8); off += 2 * step)
		MUST_OK(vac_protect(space, m + off, step, VAC_PROT_READ));
	alarm(60);
	for (unsigned i = 0; i < 10; i++) {
		for (size_t off = 0; off < MIB(8); off += 2 * step)
			memset(m + off, (int)i, step);
		late_write = m;
		denied(m);
		MUST(logged == i + 1);
		late_write = NULL;
		for (size_t off = 0; off < MIB(8); off += 2 * step)
			MUST(m[off + step - 1] == (char)i);
	}
	MUST_OK(vac_pool_check(pool, NULL, 0));
	MUST_OK(vac_pool_close(pool));
}

static void test_handler_of_many(void **state UNUSED)
{
	char err[512];

	assert_int_equal(case_run("handler_of_many", err, sizeof(err)), 0);
}
int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"fork_fails", case_fork_fails},           {"no_room", case_no_room},
		{"full_cgroup", case_full_cgroup},         {"handlers", case_handlers},
		{"handler_of_many", case_handler_of_many},
	};
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fork_fails),  cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_full_cgroup), cmocka_unit_test(test_vma_limit),
		cmocka_unit_test(test_handlers),    cmocka_unit_test(test_handler_of_many),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

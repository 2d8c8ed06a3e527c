/* SPDX-License-Identifier: MIT */
/*
 * System calls on pool memory: each call of syscalls.h, with its argument in a page of each state,
 * under each guard.
 *
 *	untouched	mapped, and nothing there yet
 *	leaving		write-protected by a migration that is stopped half way
 *	shared		by a snapshot, shown and not to be written: to the kernel as one that is leaving
 *	swapped		written out: as one that is untouched
 *
 * Under userfaultfd every call does what it does on any memory. Under SIGSEGV it answers what the
 * table says, and each cure helps: prefault, a pin, the wrapper of the library where there is one.
 * That the call works at all is proved on a page that is present. The manual shows the same table.
 */
#include "tests/syscalls.h"

#include "port/port.h"
#include "src/internal.h"

#define BLOCKS 4
#define MAP_BYTES STACK_BYTES
#define FILLER ((char)0xa5)

/* ---- Stopping a migration --------------------------------------------------------------------- */

/* The test's own vac__port_copy(), in place of the port's: at the copy of the frame that is armed the
 * page is write-protected, its entry says that it is leaving, and the engine holds no lock that a
 * fault would wait for. There the migration stops until it is let go. */
static struct {
	_Atomic(const char *) frame; /* NULL: not armed */
	_Atomic uint32_t stopped, go;
} hold;

void vac__port_copy(void *dst, const void *src, size_t bytes)
{
	const char *frame = hold.frame;

	if (frame && frame >= (const char *)src && frame < (const char *)src + bytes) {
		hold.frame = NULL;
		hold.stopped = 1;
		vac__port_wake(&hold.stopped, 1);
		while (!hold.go)
			vac__port_wait(&hold.go, 0, 0);
	}
	memcpy(dst, src, bytes);
}

struct leaver {
	struct vac_pool *pool;
	int block, result;
	pthread_t thread;
};

static void *leaver_main(void *arg)
{
	struct leaver *l = arg;

	l->result = t_offline(l->pool, l->block, 60000, NULL);
	return NULL;
}

static void leave_begin(struct leaver *l, struct vac_space *s, const char *buf)
{
	l->pool = vac_space_pool(s);
	l->block = t_page(s, buf).block;
	MUST(l->block >= 0);
	hold.stopped = hold.go = 0;
	hold.frame = vac__frame_addr(l->pool, (uint32_t)t_page(s, buf).pfn);
	MUST(pthread_create(&l->thread, NULL, leaver_main, l) == 0);
	while (!hold.stopped)
		vac__port_wait(&hold.stopped, 0, 0);
	MUST(t_page(s, buf).present == 2);
}

static void leave_go_on(void)
{
	hold.go = 1;
	vac__port_wake(&hold.go, 1);
}

static void leave_end(struct leaver *l)
{
	MUST(pthread_join(l->thread, NULL) == 0);
	MUST(l->result == 0);
	MUST(t_online(l->pool, l->block) == 0);
}

/* ---- One attempt ------------------------------------------------------------------------------ */

enum state { PRESENT, UNTOUCHED, LEAVING, SHARED, SWAPPED };
enum way { BARE, PREFAULT, PIN, WRAPPER };
static const char *const state_name[] = {"present", "untouched", "leaving", "shared", "swapped"};
static const char *const way_name[] = {"bare", "after vac_prefault()", "pinned",
				       "by the library's own"};

struct attempt {
	const struct call *c;
	struct vac_space *space;
	char *buf;
	enum way way;
	struct env e;
	long r;
	_Atomic bool done;
	_Atomic int tid;
	pthread_t thread;
};

static void make_call(struct attempt *a)
{
	unsigned write = a->c->dir & IN ? 1 : 0;
	uint64_t pin = 0;

	if (a->way == PREFAULT)
		MUST_OK(vac_prefault(a->space, a->buf, VAC_PAGE_BYTES,
				     VAC_PROT_READ | (write ? VAC_PROT_WRITE : 0)));
	if (a->way == PIN)
		pin = t_pin(a->space, a->buf, VAC_PAGE_BYTES, write ? VAC_PIN_WRITE : VAC_PIN_READ,
			    a->c->name);
	a->r = a->way == WRAPPER ? (long)a->c->vac(&a->e, a->buf) : a->c->call(&a->e, a->buf);
	if (a->way == PIN)
		MUST_OK(vac_unpin(vac_space_pool(a->space), pin));
	a->done = true;
}

static void *attempt_main(void *arg)
{
	((struct attempt *)arg)->tid = (int)SYS(SYS_gettid);
	make_call(arg);
	return NULL;
}

/* Map the memory and make what the call needs. False: cannot be had on this machine. */
static bool attempt_open(struct attempt *a, const struct call *c, struct vac_space *space,
			 enum way way, bool fill)
{
	memset(a, 0, sizeof(*a));
	a->c = c;
	a->space = space;
	a->way = way;
	for (unsigned i = 0; i < COUNT(a->e.fd); i++)
		a->e.fd[i] = -1;
	if (!c->open(&a->e)) {
		if (!a->e.why)
			fail_msg("%s (%s): cannot prepare: %s", c->name, c->arg, strerror(errno));
		return false;
	}
	a->buf = t_map(space, MAP_BYTES, VAC_MAP_NOHUGE);
	if (fill && c->fill)
		c->fill(&a->e, a->buf);
	else if (fill)
		memset(a->buf, FILLER, VAC_PAGE_BYTES);
	return true;
}

static void attempt_close(struct attempt *a)
{
	for (unsigned i = 0; i < COUNT(a->e.fd); i++)
		if (a->e.fd[i] >= 0 && (i == 0 || a->e.fd[i] != a->e.fd[i - 1]))
			close(a->e.fd[i]);
	if (a->e.ctx)
		SYS(SYS_io_destroy, a->e.ctx);
	if (a->e.pid > 0)
		waitpid(a->e.pid, NULL, 0);
	if (a->buf)
		assert_ok(vac_unmap(a->space, a->buf, MAP_BYTES));
}

static void wrong(const struct attempt *a, enum state state, const char *want)
{
	fail_msg("%s (%s), %s, %s: answers %ld (%s), not %s", a->c->name, a->c->arg,
		 state_name[state], way_name[a->way], a->r,
		 a->r < 0 ? strerror((int)-a->r) : "done", want);
}

/* Contents that the kernel is to find are there only if the page was filled before. */
static void judge(struct attempt *a, enum state state, enum outcome want)
{
	bool has_input = state != UNTOUCHED || a->c->dir == IN;

	switch (want) {
	case EF:
		if (a->r != -EFAULT)
			wrong(a, state, "EFAULT");
		if (a->c->lost && !a->c->lost(&a->e))
			wrong(a, state, "with the loss that the table names");
		break;
	case SHORT:
		if (a->r != PLAIN)
			wrong(a, state, "a short count");
		break;
	default:
		if (a->r == -EFAULT)
			wrong(a, state, "something else");
		if (has_input && !a->c->good(&a->e, a->buf, a->r))
			wrong(a, state, "what it should, or with wrong bytes");
	}
}

/* ---- The states ------------------------------------------------------------------------------- */

static void run_present(struct attempt *a, struct vac_space *s UNUSED, enum outcome want)
{
	make_call(a);
	judge(a, PRESENT, want);
}

static void run_untouched(struct attempt *a, struct vac_space *s, enum outcome want)
{
	assert_int_equal(t_page(s, a->buf).present, 0);
	make_call(a);
	judge(a, UNTOUCHED, want);
}

/* Has the call met the page, and waits? Either the engine says so, or the host: in the middle of a
 * system call it waits for a userfaultfd. */
static bool waits(struct attempt *a, uint64_t before)
{
	char path[64], text[64] = "";
	int fd;

	if (t_stats(vac_space_pool(a->space)).fault_waits != before)
		return true;
	if (!a->tid || vac_pool_guard(vac_space_pool(a->space)) != VAC_GUARD_USERFAULTFD)
		return false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", a->tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) < 0)
			text[0] = 0;
		close(fd);
	}
	return !strcmp(text, "handle_userfault");
}

/*
 * The call is made in a thread, while the migration stands. What is to fail has to fail then; what
 * has to wait for the page is seen to wait in the engine before the migration goes on.
 */
static void run_leaving(struct attempt *a, struct vac_space *s, enum outcome want)
{
	uint64_t before, give_up;
	struct leaver l;
	bool at_once;

	leave_begin(&l, s, a->buf);
	before = t_stats(vac_space_pool(s)).fault_waits;
	MUST(pthread_create(&a->thread, NULL, attempt_main, a) == 0);
	give_up = t_ms() + 30000;
	while (!a->done && !waits(a, before)) {
		MUST(t_ms() < give_up);
		sched_yield();
	}
	at_once = a->done;
	leave_go_on();
	MUST(pthread_join(a->thread, NULL) == 0);
	leave_end(&l);
	if (want != OK && !at_once)
		wrong(a, LEAVING, "at once");
	if (a->way == PREFAULT && at_once)
		wrong(a, LEAVING, "after the page has left");
	judge(a, LEAVING, want);
}

/* The snapshot shows what was there before, whatever the call has done. */
static void run_shared(struct attempt *a, struct vac_space *s, enum outcome want)
{
	struct vac_space *shot;
	char before[VAC_PAGE_BYTES];
	const char *old;

	memcpy(before, a->buf, sizeof(before));
	assert_ok(vac_space_snapshot(s, NULL, &shot));
	old = vac_space_translate(s, a->buf, shot);
	/* Shown again, where the snapshot has hidden it: a write is then an event of another kind. */
	assert_int_equal(*(volatile char *)a->buf, before[0]);
	make_call(a);
	judge(a, SHARED, want);
	assert_memory_equal(old, before, sizeof(before));
	assert_ok(vac_space_destroy(shot));
}

static void run_swapped(struct attempt *a, struct vac_space *s, enum outcome want)
{
	struct vac_pool *pool = vac_space_pool(s);
	uint64_t give_up = t_ms() + 30000;

	while (t_page(s, a->buf).present == 1) {
		MUST(t_ms() <
		     give_up); /* another reclaim, or the kernel, may be at it for a moment */
		vac__reclaim_pageblock(pool, (uint32_t)t_page(s, a->buf).pfn & ~511u);
	}
	assert_int_equal(t_page(s, a->buf).present, 3);
	make_call(a);
	judge(a, SWAPPED, want);
}

static const struct {
	void (*run)(struct attempt *a, struct vac_space *s, enum outcome want);
	bool fill; /* the page is touched before */
} states[] = {
	[PRESENT] = {run_present, true}, [UNTOUCHED] = {run_untouched, false},
	[LEAVING] = {run_leaving, true}, [SHARED] = {run_shared, true},
	[SWAPPED] = {run_swapped, true},
};

/* What the SIGSEGV guard makes of a bare call. */
static enum outcome listed(const struct call *c, enum state state)
{
	switch (state) {
	case UNTOUCHED:
	case SWAPPED: return c->untouched;
	case LEAVING:
	case SHARED: return c->leaving;
	default: return c->untouched == NO ? NO : OK;
	}
}

static void one(const struct call *c, struct vac_space *s, enum vac_guard guard, enum state state,
		enum way way, unsigned *cannot)
{
	enum outcome want = listed(c, state);
	struct attempt a;

	if (way == WRAPPER && !c->vac)
		return;
	if (guard == VAC_GUARD_SIGSEGV && want == NO)
		return; /* it would end the process; the manual says so */
	/* A pin makes the memory stay, whatever is done with it; prefault cannot do that for a stack
	 * that is used for as long as its thread lives. */
	if (guard != VAC_GUARD_SIGSEGV || way != BARE)
		want = OK;
	if (!attempt_open(&a, c, s, way, states[state].fill)) {
		if (state == PRESENT && way == BARE) {
			print_message("not tried: %s (%s): %s\n", c->name, c->arg, a.e.why);
			*cannot += 1;
		}
	} else {
		states[state].run(&a, s, want);
	}
	attempt_close(&a);
}

static void all_calls(enum vac_guard guard, enum state state)
{
	struct vac_pool_opts o = t_opts(MIB(2));
	struct vac_pool *pool;
	struct vac_space *s;
	unsigned cannot = 0;
	int r;

	o.guard = guard;
	o.flags |=
		VAC_POOL_PINS_ONLY; /* else a copy may go by another function than the one above */
	r = vac_pool_open(&o, &pool);
	if (r < 0) {
		print_message("SKIP: forced: no such guard here: %s\n", vac_strerror(r));
		skip();
	}
	assert_ok(vac_pool_close(pool));
	pool = t_open(&o, BLOCKS);
	s = t_space(pool, MIB(16));
	if (state == SWAPPED) {
		struct vac_swap_opts so = VAC_INIT(struct vac_swap_opts);

		so.fd = t_swap_file(MIB(32));
		so.bytes = MIB(32);
		assert_ok(vac_swap_on(pool, &so));
		close(so.fd);
	}
	for (unsigned i = 0; i < COUNT(calls); i++) {
		for (enum way way = BARE; way <= WRAPPER; way++)
			one(&calls[i], s, guard, state, way, &cannot);
	}
	assert_true(cannot < 8); /* else this is no test of the table any more */
	assert_ok(vac_space_destroy(s));
	t_close(pool);
}

#define STATE_TEST(name, guard, state)     \
	static void name(void **st UNUSED) \
	{                                  \
		all_calls(guard, state);   \
	}
STATE_TEST(test_sigsegv_present, VAC_GUARD_SIGSEGV, PRESENT)
STATE_TEST(test_sigsegv_untouched, VAC_GUARD_SIGSEGV, UNTOUCHED)
STATE_TEST(test_sigsegv_leaving, VAC_GUARD_SIGSEGV, LEAVING)
STATE_TEST(test_sigsegv_shared, VAC_GUARD_SIGSEGV, SHARED)
STATE_TEST(test_sigsegv_swapped, VAC_GUARD_SIGSEGV, SWAPPED)
STATE_TEST(test_userfaultfd_shared, VAC_GUARD_USERFAULTFD, SHARED)
STATE_TEST(test_userfaultfd_swapped, VAC_GUARD_USERFAULTFD, SWAPPED)
STATE_TEST(test_userfaultfd_present, VAC_GUARD_USERFAULTFD, PRESENT)
STATE_TEST(test_userfaultfd_untouched, VAC_GUARD_USERFAULTFD, UNTOUCHED)
STATE_TEST(test_userfaultfd_leaving, VAC_GUARD_USERFAULTFD, LEAVING)

/* ---- The manual ------------------------------------------------------------------------------- */

#define MANUAL "man/vacate.7.scd"

static const char *outcome_text(enum outcome o)
{
	static const char *const text[] = {"", "-", "EFAULT", "short", "no"};

	return text[o];
}

/* As a table of scdoc(5): what the manual has, and `test_syscalls --table` prints. */
static void print_table(FILE *out)
{
	fprintf(out, "|[ *call*\n:[ *what lies in the pool*\n:[ *untouched*\n:[ *leaving*\n"
		     ":[ *the library's own, or remark*\n");
	for (unsigned i = 0; i < COUNT(calls); i++) {
		const struct call *c = &calls[i];

		fprintf(out, "|  %s\n:  %s\n:  %s\n:  %s\n:  %s%s%s\n", c->name, c->arg,
			outcome_text(c->untouched), outcome_text(c->leaving), c->vac ? "yes" : "",
			c->vac && c->note ? "; " : "", c->note ? c->note : "");
	}
}

/* From the first line of the table to the last. */
static void test_manual(void **st UNUSED)
{
	char *want = NULL, *got = NULL, *line = NULL;
	size_t want_len = 0, got_len = 0, cap = 0;
	FILE *f = open_memstream(&want, &want_len), *g, *m;
	bool in = false;

	print_table(f);
	fclose(f);
	g = open_memstream(&got, &got_len);
	m = fopen(MANUAL, "r");
	assert_non_null(m);
	while (getline(&line, &cap, m) >= 0) {
		if (!strncmp(line, "|[ *call*", 9))
			in = true;
		else if (in && line[0] == '\n')
			in = false;
		if (in)
			fputs(line, g);
	}
	fclose(m);
	fclose(g);
	if (strcmp(want, got))
		fail_msg("the table in " MANUAL " is not that of tests/syscalls.h; put in what "
			 "`build/tests/test_syscalls --table` prints");
	free(line);
	free(want);
	free(got);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manual),
		cmocka_unit_test(test_sigsegv_present),
		cmocka_unit_test(test_sigsegv_untouched),
		cmocka_unit_test(test_sigsegv_leaving),
		cmocka_unit_test(test_sigsegv_shared),
		cmocka_unit_test(test_sigsegv_swapped),
		cmocka_unit_test(test_userfaultfd_shared),
		cmocka_unit_test(test_userfaultfd_swapped),
		cmocka_unit_test(test_userfaultfd_present),
		cmocka_unit_test(test_userfaultfd_untouched),
		cmocka_unit_test(test_userfaultfd_leaving),
	};

	if (argc == 2 && !strcmp(argv[1], "--table")) {
		print_table(stdout);
		return 0;
	}
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

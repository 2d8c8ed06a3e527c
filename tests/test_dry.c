/* SPDX-License-Identifier: MIT */
/*
 * VAC_OFFLINE_DRY_RUN: what an offline would come to, asked and not tried. Each answer is compared with
 * that of the offline itself right afterwards, and nothing that anybody could notice has changed.
 *
 * runtests: guards=all
 */
#include <fcntl.h>
#include <liburing.h>
#include <sys/uio.h>

#include "tests/util.h"

#define P ((size_t)4096)

struct seen {
	unsigned n, short_pins, long_pins, foreign;
	uintptr_t addr;
	char owner[VAC_OWNER_MAX];
	struct vac_report *report;
};

static int see(void *ctx, const struct vac_blocker *b)
{
	struct seen *s = ctx;
	struct vac_owner o;

	if (b->owners && vac_report_owner(s->report, s->n, 0, &o) == 0)
		memcpy(s->owner, o.owner, sizeof(s->owner));
	s->n++;
	s->addr = b->addr;
	s->short_pins += b->cls == VAC_HELD_SHORT_PIN;
	s->long_pins += b->cls == VAC_HELD_LONG_PIN;
	s->foreign += b->cls == VAC_HELD_FOREIGN;
	return 0;
}

/* One offline, dry or not. There is a report exactly where there is somebody to name. */
static int ask(struct vac_pool *pool, int id, uint32_t flags, struct vac_offline_result *res,
	       struct seen *s)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	int r;

	o.flags = flags;
	o.timeout_ms = 500;
	memset(res, 0, sizeof(*res));
	res->size = sizeof(*res);
	memset(s, 0, sizeof(*s));
	r = vac_block_offline(pool, id, &o, res);
	s->report = res->report;
	vac_report_walk(res->report, see, s);
	if ((flags & VAC_OFFLINE_DRY_RUN) && r == 0)
		assert_null(res->report);
	vac_report_free(res->report);
	return r;
}

/* A dry run, before and after which the pool looks the same. */
static int dry(struct vac_pool *pool, int id, uint32_t flags, struct vac_offline_result *res,
	       struct seen *s)
{
	struct vac_pool_stats before = t_stats(pool), after;
	struct vac_block_info b = t_block(pool, id), a;
	int r = ask(pool, id, flags | VAC_OFFLINE_DRY_RUN, res, s);

	if (r == -EBUSY)
		assert_true(s->n > 0);
	after = t_stats(pool);
	a = t_block(pool, id);
	assert_int_equal(a.state, b.state);
	assert_int_equal(a.frames_used, b.frames_used);
	assert_int_equal(a.frames_free, b.frames_free);
	assert_int_equal(after.frames_isolated, before.frames_isolated);
	assert_int_equal(after.migrate_attempts, before.migrate_attempts);
	assert_int_equal(after.gate_waits, before.gate_waits);
	assert_int_equal(after.splits, before.splits);
	assert_int_equal(res->bytes_moved + res->attempts + res->waited_ns, 0);
	return r;
}

static void test_pins(void **state UNUSED)
{
	for (int longterm = 0; longterm < 2; longterm++) {
		struct vac_pool *pool = t_pool(MIB(4), 3);
		struct vac_space *space = t_space(pool, MIB(16));
		char *mem = t_map(space, MIB(4), VAC_MAP_POPULATE);
		struct vac_offline_result res;
		int id = t_page(space, mem).block;
		struct seen s;
		uint64_t pin;

		pat_fill(mem, MIB(4), 1);
		assert_ok(dry(pool, id, 0, &res, &s));
		assert_int_equal(res.possible_bytes, MIB(4));
		pin = t_pin(space, mem + 5 * P, P, longterm ? VAC_PIN_LONGTERM : 0, "keeper");
		assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
		assert_int_equal(s.n, 1);
		assert_int_equal(longterm ? s.long_pins : s.short_pins, 1);
		assert_string_equal(s.owner, "keeper");
		assert_int_equal(ask(pool, id, 0, &res, &s), -EBUSY);
		assert_string_equal(s.owner, "keeper");
		assert_ok(vac_unpin(pool, pin));
		/* What had no pin has moved by now, and lies in another block. */
		id = t_page(space, mem).block;
		assert_ok(dry(pool, id, 0, &res, &s));
		assert_ok(ask(pool, id, 0, &res, &s));
		assert_int_equal(dry(pool, id, 0, &res, &s), -EALREADY);
		assert_int_equal(ask(pool, 99, VAC_OFFLINE_DRY_RUN, &res, &s), -ENOENT);
		assert_int_equal(pat_bad(mem, MIB(4), 1), -1);
		t_close(pool);
	}
}

static void test_memory(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(8), 2);
	struct vac_space *space = t_space(pool, MIB(32));
	char *full = t_map(space, MIB(8), VAC_MAP_POPULATE);
	char *half = t_map(space, MIB(4), VAC_MAP_POPULATE);
	struct vac_offline_result res;
	struct seen s;
	uint64_t pin;

	assert_int_equal(t_page(space, full).block, 0);
	assert_int_equal(t_page(space, half).block, 1);
	assert_int_equal(dry(pool, 0, 0, &res, &s), -ENOMEM);
	assert_int_equal(res.missing_bytes, MIB(4));
	assert_int_equal(res.possible_bytes, MIB(4));
	/* As far as it goes is not all. */
	assert_int_equal(dry(pool, 0, VAC_OFFLINE_BEST_EFFORT, &res, &s), -ENOMEM);
	assert_int_equal(res.possible_bytes, MIB(4));
	/* A pin comes before missing memory only where the one is tried without the other. */
	pin = t_pin(space, full, P, VAC_PIN_LONGTERM, "keeper");
	assert_int_equal(dry(pool, 0, 0, &res, &s), -ENOMEM);
	assert_string_equal(s.owner, "keeper");
	assert_int_equal(ask(pool, 0, 0, &res, &s), -ENOMEM);
	assert_int_equal(dry(pool, 0, VAC_OFFLINE_BEST_EFFORT, &res, &s), -EBUSY);
	assert_int_equal(ask(pool, 0, VAC_OFFLINE_BEST_EFFORT, &res, &s), -EBUSY);
	assert_ok(vac_unpin(pool, pin));
	assert_ok(vac_unmap(space, half, MIB(4)));
	assert_ok(dry(pool, 0, 0, &res, &s));
	assert_ok(ask(pool, 0, 0, &res, &s));
	/* The last one has nowhere to go, and nothing is missing. */
	assert_int_equal(dry(pool, 1, 0, &res, &s), -ENOMEM);
	assert_int_equal(ask(pool, 1, 0, &res, &s), -ENOMEM);
	t_close(pool);
}

/* ---- Holders outside the engine ---------------------------------------------------------------- */

static bool can_look(void)
{
	struct vac_pool *pool = t_pool(MIB(4), 1);
	bool yes = t_stats(pool).sees_holders;

	t_close(pool);
	if (!yes)
		print_message("SKIP: forced: the kernel's page counts cannot be read here\n");
	return yes;
}

static void splice_in(const int p[2], char *at, size_t bytes)
{
	struct iovec v = {at, bytes};

	assert_int_equal(vmsplice(p[1], &v, 1, 0), (long)bytes);
}

static void drain(const int p[2], size_t bytes)
{
	static char buf[4 * 4096];

	assert_true(bytes <= sizeof(buf));
	assert_int_equal(read(p[0], buf, bytes), (long)bytes);
}

static void test_foreign(void **state UNUSED)
{
	if (!can_look())
		skip();
	for (int huge = 0; huge < 2; huge++) {
		struct vac_pool *pool = t_pool(MIB(4), 3);
		struct vac_space *space = t_space(pool, MIB(16));
		char *mem = t_map(space, MIB(2), huge ? 0 : VAC_MAP_NOHUGE);
		struct vac_offline_result res;
		struct seen s;
		int id, p[2];

		assert_ok(pipe2(p, O_CLOEXEC));
		pat_fill(mem, MIB(2), 1);
		id = t_page(space, mem).block;
		assert_ok(dry(pool, id, 0, &res, &s));
		splice_in(p, mem + 3 * P, P);
		assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
		assert_true(s.n > 0 && s.foreign == s.n);
		assert_true(s.addr <= (uintptr_t)mem + 3 * P || !huge);
		assert_int_equal(ask(pool, id, 0, &res, &s), -EBUSY);
		assert_true(s.foreign > 0);
		drain(p, P);
		assert_ok(dry(pool, id, 0, &res, &s));
		assert_ok(ask(pool, id, 0, &res, &s));
		assert_int_equal(pat_bad(mem, MIB(2), 1), -1);
		close(p[0]);
		close(p[1]);
		t_close(pool);
	}
}

/* Dropped under its holder: the page is nobody's, and the block could not be given back. */
static void test_quarantine(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_offline_result res;
	struct vac_report *why;
	struct seen s;
	int id, p[2];
	char *mem;

	if (!can_look())
		skip();
	o.flags = VAC_POOL_NO_HUGE; /* else the neighbours are held with it */
	pool = t_open(&o, 3);
	space = t_space(pool, MIB(16));
	mem = t_map(space, 16 * P, VAC_MAP_POPULATE);
	assert_ok(pipe2(p, O_CLOEXEC));
	id = t_page(space, mem).block;
	splice_in(p, mem + 4 * P, P);
	assert_ok(vac_unmap(space, mem + 4 * P, P));
	assert_true(t_stats(pool).frames_quarantined > 0);
	assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.foreign, 1);
	/* And so says the report without an offline. */
	assert_ok(vac_report_block(pool, id, &why));
	assert_int_equal(vac_report_count(why), 1);
	vac_report_free(why);
	assert_int_equal(ask(pool, id, 0, &res, &s), -EBUSY);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_QUARANTINE);
	assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
	assert_true(s.foreign > 0);
	drain(p, P);
	assert_ok(dry(pool, id, 0, &res, &s));
	assert_ok(vac_report_block(pool, id, &why));
	assert_int_equal(vac_report_count(why), 0);
	vac_report_free(why);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_QUARANTINE);
	assert_ok(ask(pool, id, 0, &res, &s));
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_OFFLINE);
	close(p[0]);
	close(p[1]);
	t_close(pool);
}

/* Where the host does not show who holds pages: registered buffers are found, all else is not, and a
 * block in quarantine is held until somebody tries. */
static void test_blind(void **state UNUSED)
{
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_offline_result res;
	struct io_uring ring;
	struct iovec v;
	struct seen s;
	int id, p[2], r;
	char *mem;

	o.flags = VAC_POOL_TEST_NO_LOOK;
	pool = t_open(&o, 3);
	space = t_space(pool, MIB(16));
	mem = t_map(space, 16 * P, VAC_MAP_POPULATE);
	id = t_page(space, mem).block;
	assert_ok(pipe2(p, O_CLOEXEC));
	r = io_uring_queue_init(4, &ring, 0);
	if (r == 0) {
		v = (struct iovec){mem + 2 * P, P};
		assert_ok(io_uring_register_buffers(&ring, &v, 1));
		assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
		assert_int_equal(s.foreign, s.n);
		assert_non_null(strstr(s.owner, "io_uring fd"));
		io_uring_unregister_buffers(&ring);
		io_uring_queue_exit(&ring);
	}
	assert_ok(dry(pool, id, 0, &res, &s));
	splice_in(p, mem + 4 * P, P);
	assert_ok(dry(pool, id, 0, &res, &s)); /* the limit that the header states */
	assert_int_equal(ask(pool, id, 0, &res, &s), -EBUSY);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_QUARANTINE);
	assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
	drain(p, P);
	assert_int_equal(dry(pool, id, 0, &res, &s), -EBUSY);
	assert_ok(ask(pool, id, 0, &res, &s));
	close(p[0]);
	close(p[1]);
	t_close(pool);
}

/* ---- While everything else goes on ------------------------------------------------------------- */

static struct {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
} go;

static void fill_and_drop(struct member *m)
{
	char *mine = go.mem + m->nr * MIB(4);

	while (!m->team->stop) {
		memset(mine, (int)m->nr, MIB(4));
		MUST_OK(vac_advise(go.space, mine + MIB(1), MIB(2), VAC_ADV_DONTNEED));
		m->team->rounds++;
	}
}

static void take_and_return(struct member *m)
{
	for (int id = 0; !m->team->stop; id = (id + 1) % 6) {
		int r = t_offline(go.pool, id, 2000, NULL);

		MUST(r == 0 || r == -ENOMEM || r == -ETIMEDOUT);
		MUST(r != 0 || t_online(go.pool, id) == 0);
		m->team->rounds++;
	}
}

/* Nobody holds anything: faults, migrations and dropped pages are no holders, ever. */
static void test_nobody(void **state UNUSED)
{
	static struct team writers, admin;
	unsigned asked = 0;
	uint64_t end;

	go.pool = t_pool(MIB(4), 6);
	go.space = t_space(go.pool, MIB(32));
	go.mem = t_map(go.space, MIB(8), 0);
	memset(&writers, 0, sizeof(writers));
	memset(&admin, 0, sizeof(admin));
	team_start(&writers, 2, fill_and_drop, NULL);
	team_start(&admin, 1, take_and_return, NULL);
	for (end = t_ms() + scaled(2000); t_ms() < end || asked < 50;) {
		for (int id = 0; id < 6; id++) {
			struct vac_offline_result res;
			struct seen s;
			int r = ask(go.pool, id, VAC_OFFLINE_DRY_RUN, &res, &s);

			if (r == -EBUSY && s.n)
				printf("block %d: %u of %u foreign, at %#lx: %s\n", id, s.foreign,
				       s.n, (unsigned long)s.addr, s.owner);
			/* Busy without a name: the other is at this block. */
			MUST(r == 0 || r == -ENOMEM || r == -EALREADY || r == -ETIMEDOUT ||
			     (r == -EBUSY && s.n == 0));
			asked += r == 0;
		}
		sched_yield();
	}
	team_stop(&admin);
	team_stop(&writers);
	t_close(go.pool);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pins),    cmocka_unit_test(test_memory),
		cmocka_unit_test(test_foreign), cmocka_unit_test(test_quarantine),
		cmocka_unit_test(test_blind),   cmocka_unit_test(test_nobody),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

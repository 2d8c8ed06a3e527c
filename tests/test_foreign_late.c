/* SPDX-License-Identifier: MIT */
/*
 * One late write, step by step: a holder that the engine cannot see writes into a page after it has moved.
 * What comes late is carried over, or named, or was for nobody; and with the look at the kernel's page
 * counts such a page does not move at all.
 *
 * runtests: guards=both
 */
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "tests/util.h"

#define P ((size_t)4096)

static char file_in[64];

/*
 * A ring that only a child has: its registered buffer is held, and nothing in /proc/self says so. The
 * child reads the file's page FILE_PAGE into it when told to, wherever the page is by then.
 */
#define FILE_PAGE 77
#define SECTOR 512

struct hidden {
	struct io_uring ring;
	pid_t pid;
	int go[2], done[2];
};

static void hide(struct hidden *h, void *buf)
{
	struct iovec v = {buf, P};
	int fd;
	char c;

	assert_ok(io_uring_queue_init(4, &h->ring, 0));
	assert_ok(io_uring_register_buffers(&h->ring, &v, 1));
	assert_ok(pipe2(h->go, O_CLOEXEC));
	assert_ok(pipe2(h->done, O_CLOEXEC));
	h->pid = fork();
	assert_true(h->pid >= 0);
	if (h->pid == 0) {
		struct io_uring_cqe *q;

		close(h->go[1]);
		fd = open(file_in, O_RDONLY | O_DIRECT | O_CLOEXEC);
		while (read(h->go[0], &c, 1) == 1) {
			io_uring_prep_read_fixed(io_uring_get_sqe(&h->ring), fd, buf, P,
						 FILE_PAGE * P, 0);
			MUST(io_uring_submit(&h->ring) == 1 &&
			     io_uring_wait_cqe(&h->ring, &q) == 0 && q->res == (int)P);
			io_uring_cqe_seen(&h->ring, q);
			MUST(write(h->done[1], &c, 1) == 1);
		}
		_exit(0);
	}
	io_uring_queue_exit(&h->ring);
}

static void late_write(struct hidden *h)
{
	char c = 0;

	assert_int_equal(write(h->go[1], &c, 1), 1);
	assert_int_equal(read(h->done[0], &c, 1), 1);
}

static void let_go(struct hidden *h)
{
	close(h->go[1]);
	assert_int_equal(waitpid(h->pid, NULL, 0), h->pid);
	close(h->go[0]);
	close(h->done[0]);
	close(h->done[1]);
}

struct story {
	struct vac_pool *pool;
	struct vac_space *space;
	char *mem;
	int id;
	struct hidden h;
};

static unsigned story_flags;
static _Atomic unsigned errors_logged;

static void on_log(void *ctx, enum vac_log_level level, const char *msg)
{
	(void)ctx;
	errors_logged += level == VAC_LOG_ERROR && strstr(msg, "late foreign write lost");
}

static void begin(struct story *s, bool huge)
{
	struct vac_pool_opts o = t_opts(MIB(4));

	o.flags = story_flags;
	o.log = on_log;
	errors_logged = 0;
	s->pool = t_open(&o, 3);
	s->space = t_space(s->pool, MIB(16));
	s->mem = t_map(s->space, huge ? MIB(2) : 16 * P, VAC_MAP_POPULATE);
	pat_fill(s->mem, 4 * P, 1);
	s->id = t_page(s->space, s->mem).block;
	hide(&s->h, s->mem + P);
}

static bool can_look(void)
{
	struct vac_pool *pool = t_pool(MIB(4), 1);
	bool yes = t_stats(pool).sees_holders;

	t_close(pool);
	return yes;
}

struct seen {
	unsigned foreign, lost, late, pins;
	uintptr_t addr;
};

static int see(void *ctx, const struct vac_blocker *b)
{
	struct seen *s = ctx;

	s->foreign += b->cls == VAC_HELD_FOREIGN;
	s->lost += b->cls == VAC_HELD_LOST;
	s->late += b->cls == VAC_HELD_LATE;
	if (b->cls == VAC_HELD_LOST || b->cls == VAC_HELD_LATE)
		s->addr = b->addr;
	return 0;
}

static int leave(struct story *s, struct seen *seen)
{
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	int r = t_offline(s->pool, s->id, 300, &res);

	memset(seen, 0, sizeof(*seen));
	vac_report_walk(res.report, see, seen);
	vac_report_free(res.report);
	return r;
}

/* The block is empty and in quarantine: it is used for nothing, and says so. */
static void into_quarantine(struct story *s)
{
	struct seen seen;
	struct vac_block_info info;
	struct vac_pool_stats st;
	struct vac_report *rep;

	assert_int_equal(leave(s, &seen), -EBUSY);
	assert_true(seen.foreign > 0);
	info = t_block(s->pool, s->id);
	st = t_stats(s->pool);
	assert_int_equal(info.state, VAC_BLOCK_QUARANTINE);
	assert_int_equal(info.frames_used, 0);
	assert_true(info.frames_quarantined > 0);
	assert_ok(vac_report_block(s->pool, s->id, &rep));
	memset(&seen, 0, sizeof(seen));
	vac_report_walk(rep, see, &seen);
	vac_report_free(rep);
	assert_true(seen.foreign > 0);
	assert_true(st.frames_quarantined > 0);
	assert_int_equal(st.frames_total, st.frames_free + st.frames_reserved + st.frames_used +
						  st.frames_isolated + st.frames_quarantined);
	assert_int_not_equal(t_page(s->space, s->mem).block, s->id);
	assert_int_equal(pat_bad(s->mem, P, 1), -1);
	assert_int_equal(vac_block_online(s->pool, s->id, VAC_ZONE_MOVABLE), -EBUSY);
	assert_int_equal(vac_block_remove(s->pool, s->id), -EBUSY);
	assert_int_equal(vac_block_cancel(s->pool, s->id), -EALREADY);
	t_check(s->pool);
}

static void end(struct story *s, uint64_t carried, uint64_t lost)
{
	assert_int_equal(t_block(s->pool, s->id).state, VAC_BLOCK_OFFLINE);
	assert_int_equal(t_stats(s->pool).frames_quarantined, 0);
	assert_int_equal(t_stats(s->pool).late_carried_bytes, carried);
	assert_int_equal(t_stats(s->pool).late_lost_bytes, lost);
	t_check(s->pool);
	t_close(s->pool);
}

static void test_carried(void **state UNUSED)
{
	for (int huge = 0; huge < 2; huge++) {
		struct story s;
		struct seen seen;

		begin(&s, huge);
		into_quarantine(&s);
		late_write(&s.h);
		/* Not seen yet: the limit that the header states. */
		assert_int_equal(leave(&s, &seen), -EBUSY);
		let_go(&s.h);
		assert_ok(leave(&s, &seen));
		assert_int_equal(seen.lost, 0);
		assert_int_equal(pat_bad(s.mem + P, P, FILE_PAGE), -1);
		end(&s, P, 0);
	}
}

/* By vac_block_online(), which gives the old memory back first. */
static void test_carried_by_online(void **state UNUSED)
{
	struct story s;

	begin(&s, true);
	into_quarantine(&s);
	late_write(&s.h);
	let_go(&s.h);
	while (vac_block_online(s.pool, s.id, VAC_ZONE_MOVABLE) == -EBUSY)
		sleep_ms(1); /* a ring is taken down some time after its last holder has ended */
	assert_int_equal(pat_bad(s.mem + P, P, FILE_PAGE), -1);
	assert_int_equal(t_block(s.pool, s.id).state, VAC_BLOCK_ONLINE);
	assert_ok(t_offline(s.pool, s.id, 1000, NULL));
	end(&s, P, 0);
}

/* The program has written one of the eighths since: that one is named, the others arrive. */
static void test_lost(void **state UNUSED)
{
	struct story s;
	struct seen seen;
	char want[4096];

	begin(&s, true);
	into_quarantine(&s);
	s.mem[P + 3 * SECTOR + 5] ^= 1;
	late_write(&s.h);
	let_go(&s.h);
	pat_fill(want, P, FILE_PAGE);
	memcpy(want + 3 * SECTOR, s.mem + P + 3 * SECTOR, SECTOR);
	assert_ok(leave(&s, &seen));
	assert_int_equal(seen.lost, 1);
	assert_int_equal(seen.addr, (uintptr_t)s.mem + P + 3 * SECTOR);
	assert_int_equal(errors_logged, 1);
	assert_memory_equal(s.mem + P, want, P);
	end(&s, P - SECTOR, SECTOR);
}

/* The page is pinned now: it is nobody's to write. The block waits for the pin, and says so. */
static void test_late_and_pinned(void **state UNUSED)
{
	struct story s;
	struct seen seen;
	uint64_t pin;

	begin(&s, false);
	into_quarantine(&s);
	late_write(&s.h);
	let_go(&s.h);
	pin = t_pin(s.space, s.mem + P, P, VAC_PIN_WRITE, "in the way");
	assert_int_equal(leave(&s, &seen), -EBUSY);
	assert_int_equal(seen.late, 1);
	assert_int_equal(seen.addr, (uintptr_t)s.mem + P);
	assert_int_equal(t_block(s.pool, s.id).state, VAC_BLOCK_QUARANTINE);
	assert_int_equal(pat_bad(s.mem, P, 1), -1);
	t_check(s.pool);
	assert_ok(vac_unpin(s.pool, pin));
	assert_ok(leave(&s, &seen));
	assert_int_equal(pat_bad(s.mem + P, P, FILE_PAGE), -1);
	end(&s, P, 0);
}

/* What was there is dropped, and something else, or the same zeroes, is there now. */
static void test_late_for_nobody(void **state UNUSED)
{
	for (int remap = 0; remap < 2; remap++) {
		struct story s;
		struct seen seen;
		void *at;

		begin(&s, false);
		memset(s.mem + P, 0, P);
		into_quarantine(&s);
		if (remap) {
			assert_ok(vac_unmap(s.space, s.mem + P, P));
			assert_ok(vac_map(s.space, s.mem + P, P, RW, VAC_MAP_FIXED, &at));
		} else {
			assert_ok(vac_advise(s.space, s.mem + P, P, VAC_ADV_DONTNEED));
		}
		assert_int_equal(zero_bad(s.mem + P, P), -1);
		late_write(&s.h);
		let_go(&s.h);
		assert_ok(leave(&s, &seen));
		assert_int_equal(seen.lost, 0);
		assert_int_equal(zero_bad(s.mem + P, P), -1);
		assert_int_equal(pat_bad(s.mem, P, 1), -1);
		end(&s, 0, 0);
	}
}

/* A pool may close at any time: what is held stays the holder's. */
static void test_close_in_quarantine(void **state UNUSED)
{
	struct story s;

	begin(&s, true);
	into_quarantine(&s);
	late_write(&s.h);
	/* The child goes on with its buffer, whatever becomes of the pool. */
	assert_ok(vac_space_destroy(s.space));
	late_write(&s.h);
	let_go(&s.h);
	t_close(s.pool);
}

/* With the look such a page does not move at all. */
static void test_looked_at(void **state UNUSED)
{
	if (!can_look())
		skip();
	for (int huge = 0; huge < 2; huge++) {
		struct story s;
		struct seen seen;

		begin(&s, huge);
		assert_int_equal(leave(&s, &seen), -EBUSY);
		assert_true(seen.foreign > 0);
		assert_int_equal(t_block(s.pool, s.id).state, VAC_BLOCK_ONLINE);
		assert_int_equal(t_page(s.space, s.mem + P).block, s.id);
		assert_true(t_stats(s.pool).foreign_held > 0);
		late_write(&s.h);
		assert_int_equal(pat_bad(s.mem + P, P, FILE_PAGE), -1);
		let_go(&s.h);
		while (leave(&s, &seen) == -EBUSY)
			sleep_ms(1);
		assert_int_equal(pat_bad(s.mem + P, P, FILE_PAGE), -1);
		assert_int_equal(pat_bad(s.mem, P, 1), -1);
		end(&s, 0, 0);
	}
}

static int be_blind(void **state UNUSED)
{
	story_flags = VAC_POOL_TEST_NO_LOOK;
	return 0;
}

static int be_looking(void **state UNUSED)
{
	story_flags = 0;
	return 0;
}

/* The program says that it pins everything, and does not: all that is left is the seal. */
static void test_pins_only(void **state UNUSED)
{
	struct story s;
	struct seen seen;

	story_flags = VAC_POOL_PINS_ONLY;
	begin(&s, true);
	assert_int_equal(leave(&s, &seen), -EBUSY);
	assert_int_equal(seen.foreign, 1);
	assert_int_equal(t_block(s.pool, s.id).state, VAC_BLOCK_QUARANTINE);
	let_go(&s.h);
	while (leave(&s, &seen) == -EBUSY)
		sleep_ms(1);
	end(&s, 0, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_carried, be_blind),
		cmocka_unit_test_setup(test_carried_by_online, be_blind),
		cmocka_unit_test_setup(test_lost, be_blind),
		cmocka_unit_test_setup(test_late_and_pinned, be_blind),
		cmocka_unit_test_setup(test_late_for_nobody, be_blind),
		cmocka_unit_test_setup(test_close_in_quarantine, be_blind),
		cmocka_unit_test_setup(test_looked_at, be_looking),
		cmocka_unit_test(test_pins_only),
	};
	int r;

	t_filter(argc, argv);
	t_file(file_in, sizeof(file_in), FILE_PAGE + 1, true);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(file_in);
	return r;
}

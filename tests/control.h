/* SPDX-License-Identifier: MIT */
/*
 * What the tests of control/ share: a pool with a door, and clients that come in by it. Each program has
 * its own; what one of them does not use costs nothing.
 */
#ifndef VAC_TESTS_CONTROL_H
#define VAC_TESTS_CONTROL_H

#include <sys/socket.h>
#include <sys/time.h>

#include "control/client.h"
#include "control/path.h"
#include "control/request.h"
#include "src/internal.h"
#include "tests/util.h"

#define BLOCK MIB(4)

static struct vac_pool *pool;
static struct vac_space *space;
static struct vac_control *ctl;
static char *mem;
static char dir[64], where[128]; /* a directory of our own; the socket in it */
static unsigned fds_at_start;

static inline int setup_dir(void **state UNUSED)
{
	static bool warm;

	if (!warm) { /* what the first pool of a process keeps for good */
		warm = true;
		t_close(t_pool(BLOCK, 1));
	}
	fds_at_start = fds_total();
	strcpy(dir, "/tmp/vacate-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(where, sizeof(where), "%s/door.sock", dir);
	assert_ok(setenv("XDG_RUNTIME_DIR", dir, 1));
	return 0;
}

static inline int teardown_dir(void **state UNUSED)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	assert_ok(system(cmd));
	vac__ctl_idle_ms = VAC__CTL_IDLE_MS;
	vac__ctl_slow_ms = VAC__CTL_SLOW_MS;
	return 0;
}

static inline int try_open(const char *path)
{
	struct vac_control_opts o = VAC_INIT(struct vac_control_opts);

	o.path = path;
	return vac_control_open(pool, &o, &ctl);
}

/* Four blocks of 4 MiB, two of them full, and the door open. */
static inline int setup(void **state)
{
	struct vac_pool_opts o = t_opts(BLOCK);

	setup_dir(state);
	o.max_bytes = MIB(2048);
	pool = t_open(&o, 4);
	space = t_space(pool, MIB(64));
	mem = t_map(space, MIB(8), VAC_MAP_POPULATE);
	pat_fill(mem, MIB(8), 1);
	assert_ok(try_open(where));
	return 0;
}

static inline int teardown(void **state)
{
	assert_int_equal(pat_bad(mem, MIB(8), 1), -1);
	assert_ok(vac_control_close(ctl));
	ctl = NULL;
	t_close(pool);
	assert_int_equal(fds_total(), fds_at_start);
	return teardown_dir(state);
}

static inline struct ctl_client come_in(void)
{
	struct ctl_client c;

	assert_ok(ctl_connect(&c, where));
	return c;
}

static inline int ask(struct ctl_client *c, unsigned op, const void *body, size_t bytes)
{
	struct ctl_call q = {
		.op = op, .body = body, .body_bytes = bytes, .fd = -1, .timeout_ms = 60000};

	return ctl_call(c, &q);
}

static inline uint32_t works(struct ctl_client *c)
{
	assert_ok(ask(c, VAC__CTL_POOL, NULL, 0));
	return c->in.u.pool.works;
}

static inline void wait_works(struct ctl_client *c, uint32_t n)
{
	uint64_t end = t_ms() + 60000;

	while (works(c) != n) {
		assert_true(t_ms() < end);
		sleep_ms(1);
	}
}

static inline void wait_state(int id, enum vac_block_state s)
{
	uint64_t end = t_ms() + 60000;

	while (t_block(pool, id).state != s) {
		assert_true(t_ms() < end);
		sleep_ms(1);
	}
}

/* Send as it is. */
static inline void throw(struct ctl_client * c, const void *p, size_t bytes)
{
	send(c->fd, p, bytes, MSG_NOSIGNAL);
}

static inline struct vac__ctl_packet request(unsigned op, size_t body)
{
	struct vac__ctl_packet p;

	memset(&p, 0, sizeof(p));
	vac__ctl_answer(&p, op, 0, body);
	return p;
}

/* Has the program hung up, within a minute? */
static inline bool hung_up(struct ctl_client *c)
{
	struct timeval tv = {60, 0};
	char buf[VAC__CTL_PACKET_MAX];

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	for (;;) {
		long r = recv(c->fd, buf, sizeof(buf), 0);

		if (r == 0 || (r < 0 && errno == ECONNRESET))
			return true;
		if (r < 0)
			return false;
	}
}

static inline struct ctl_call offline_call(const struct vac__ctl_offline *q)
{
	return (struct ctl_call){.op = VAC__CTL_OFFLINE,
				 .body = q,
				 .body_bytes = sizeof(*q),
				 .fd = -1,
				 .timeout_ms = 60000};
}

static inline int remote_offline(struct ctl_client *c, int id, uint32_t flags, int64_t timeout_ms)
{
	struct vac__ctl_offline q = {(uint32_t)id, flags, timeout_ms};
	struct ctl_call call = offline_call(&q);

	return ctl_call(c, &call);
}

static inline int remote_add(struct ctl_client *c, int id, uint32_t flags)
{
	struct vac__ctl_add q = {.id = id, .flags = flags};

	return ask(c, VAC__CTL_ADD, &q, sizeof(q));
}

/* A test with the pool and its door. */
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

#endif /* VAC_TESTS_CONTROL_H */

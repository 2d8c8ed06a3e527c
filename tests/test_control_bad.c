/* SPDX-License-Identifier: MIT */
/*
 * control/: bad company. Whatever a client sends, however much or slowly, and whenever it dies, it harms
 * neither the pool nor another client; and a client is not taken in by a program's answers.
 *
 * runtests: timeout=600
 */
#include "tests/control.h"

#include <fcntl.h>
#include <sys/un.h>

/* The first answer's status, and that the program hangs up after it. */
static void must_refuse(const void *p, size_t bytes, int status)
{
	struct ctl_client c = come_in();
	struct vac__ctl_packet in;

	throw(&c, p, bytes);
	assert_int_equal(recv(c.fd, &in, sizeof(in), 0), sizeof(in.head));
	assert_int_equal(in.head.status, status);
	assert_true(hung_up(&c));
	ctl_disconnect(&c);
}

static void test_malformed(void **state UNUSED)
{
	struct vac__ctl_packet p = request(VAC__CTL_POOL, 0);
	unsigned char big[2 * VAC__CTL_PACKET_MAX];
	struct ctl_client c;

	for (size_t n = 1; n < sizeof(p.head); n++)
		must_refuse(&p, n, -EPROTO);
	must_refuse(&p, sizeof(p.head) + 1, -EPROTO);
	must_refuse(&p, sizeof(p), -EPROTO);
	memset(big, 0, sizeof(big));
	memcpy(big, &p, sizeof(p.head));
	must_refuse(big, sizeof(p) + 1, -EPROTO);
	must_refuse(big, sizeof(big), -EPROTO);
	((struct vac__ctl_head *)big)->bytes = sizeof(big);
	must_refuse(big, sizeof(big), -EPROTO);
	p.head.magic++;
	must_refuse(&p, p.head.bytes, -EPROTO);
	p.head.magic--;
	p.head.version++;
	must_refuse(&p, p.head.bytes, -EOPNOTSUPP);
	p.head.version--;
	p.head.status = -1;
	must_refuse(&p, p.head.bytes, -EPROTO);
	p.head.status = 0;
	for (unsigned op = 0; op < 300; op++) {
		p = request(op, 0);
		if (op == 0 || op >= VAC__CTL_PROGRESS)
			must_refuse(&p, p.head.bytes, -EOPNOTSUPP);
		p = request(op, 4);
		if (op && op < VAC__CTL_PROGRESS)
			must_refuse(&p, p.head.bytes, -EPROTO);
	}
	/* An empty packet looks like the end. */
	c = come_in();
	throw(&c, &p, 0);
	assert_true(hung_up(&c));
	ctl_disconnect(&c);
	/* Fields that must be zero. */
	c = come_in();
	assert_int_equal(ctl_two(&c, VAC__CTL_WHY, 0, 1, 0), -EINVAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_BLOCKS, 0, 1, 0), -EINVAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_REMOVE, 0, 1, 0), -EINVAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_CANCEL, 0, 1, 0), -EINVAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_BLOCKER, 0, 1, 0), -EINVAL);
	ctl_disconnect(&c);
}

/* Send with n descriptors. */
static void throw_fds(int sock, const void *p, size_t bytes, unsigned n)
{
	union {
		char buf[CMSG_SPACE(16 * sizeof(int))];
		struct cmsghdr align;
	} cm;
	struct iovec iov = {(void *)p, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	int fds[16];

	memset(&cm, 0, sizeof(cm));
	if (n) {
		m.msg_control = &cm;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(n * sizeof(int));
		for (unsigned i = 0; i < n; i++)
			fds[i] = sock;
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, n * sizeof(int));
	}
	sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Descriptors that nobody asked for are closed. */
static void test_descriptors(void **state UNUSED)
{
	struct ctl_client c = come_in();
	struct vac__ctl_packet p = request(VAC__CTL_POOL, 0);
	unsigned before;

	wait_works(&c, 0);
	before = fds_total();
	for (unsigned n = 1; n <= 16; n++) {
		throw_fds(c.fd, &p, p.head.bytes, n);
		assert_true(recv(c.fd, &c.in, sizeof(c.in), 0) > 0);
		assert_int_equal(c.in.head.status, 0);
		assert_int_equal(fds_total(), before);
	}
	p = request(VAC__CTL_ADD, sizeof(p.u.add));
	p.u.add.id = -1;
	throw_fds(c.fd, &p, p.head.bytes, 1);
	assert_true(recv(c.fd, &c.in, sizeof(c.in), 0) > 0);
	assert_int_equal(c.in.head.status, -EINVAL);
	assert_int_equal(fds_total(), before);
	ctl_disconnect(&c);
}

static void test_too_many(void **state UNUSED)
{
	struct ctl_client c[VAC__CTL_CLIENTS], more;
	int r;

	for (unsigned i = 0; i < COUNT(c); i++) {
		c[i] = come_in();
		assert_int_equal(works(&c[i]), 0);
	}
	assert_ok(ctl_connect(&more, where));
	r = ask(&more, VAC__CTL_POOL, NULL, 0);
	assert_int_equal(r, -EUSERS);
	ctl_disconnect(&more);
	assert_int_equal(works(&c[0]), 0);
	ctl_disconnect(&c[3]);
	for (uint64_t end = t_ms() + 60000;;) {
		more = come_in();
		if (ask(&more, VAC__CTL_POOL, NULL, 0) == 0)
			break;
		ctl_disconnect(&more);
		assert_true(t_ms() < end);
	}
	ctl_disconnect(&more);
	for (unsigned i = 0; i < COUNT(c); i++)
		if (i != 3)
			ctl_disconnect(&c[i]);
}

/* More operations than there is room for. */
static void test_too_much(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	struct ctl_client watch = come_in();

	assert_ok(remote_offline(&watch, id, VAC__CTL_DETACH, -1));
	wait_state(id, VAC_BLOCK_EVACUATING); /* it has the pool's hotplug lock: the others wait */
	for (unsigned i = 1; i < VAC__CTL_WORKS; i++)
		assert_ok(remote_offline(&watch, (id + 1) % 4, VAC__CTL_DETACH, -1));
	assert_int_equal(works(&watch), VAC__CTL_WORKS);
	assert_int_equal(remote_offline(&watch, 0, 0, 0), -EUSERS);
	assert_int_equal(remote_add(&watch, -1, 0), -EUSERS);
	assert_ok(
		ctl_two(&watch, VAC__CTL_WHY, (uint32_t)id, 0, 8)); /* looking is still possible */
	assert_ok(ctl_two(&watch, VAC__CTL_CANCEL, (uint32_t)id, 0, 0));
	wait_works(&watch, 0);
	ctl_disconnect(&watch);
	assert_ok(vac_unpin(pool, pin));
	if (t_block(pool, (id + 1) % 4).state == VAC_BLOCK_OFFLINE)
		assert_ok(vac_block_online(pool, (id + 1) % 4, VAC_ZONE_MOVABLE));
}

/* One that asks and asks and never reads delays nobody, and is hung up on in the end. */
static void test_slow(void **state UNUSED)
{
	struct ctl_client slow = come_in(), c = come_in();
	struct vac__ctl_packet p = request(VAC__CTL_BLOCKS, sizeof(p.u.two));
	unsigned sent = 0;

	vac__ctl_slow_ms = 300;
	while (send(slow.fd, &p, p.head.bytes, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 ||
	       errno == EAGAIN) {
		sent++;
		assert_int_equal(works(&c), 0);
		if (sent > 5000)
			sleep_ms(1);
	}
	assert_true(sent > 10);
	assert_true(hung_up(&slow));
	ctl_disconnect(&slow);
	assert_int_equal(works(&c), 0);
	/* And one that says nothing. */
	vac__ctl_idle_ms = 100;
	assert_true(hung_up(&c));
	ctl_disconnect(&c);
}

/* A program is trusted no more than a client: what is no answer is not taken for one. */
static void test_bad_answers(void **state UNUSED)
{
	static const struct {
		size_t bytes;
		uint32_t magic, said;
		uint16_t version, op;
		int32_t status;
		int want;
	} bad[] = {
		{3, VAC__CTL_MAGIC, 3, 1, VAC__CTL_WHY, 0, -EPROTO},
		{24, 1, 24, 1, VAC__CTL_WHY, 0, -EPROTO},
		{24, VAC__CTL_MAGIC, 23, 1, VAC__CTL_WHY, 0, -EPROTO},
		{24, VAC__CTL_MAGIC, 4096, 1, VAC__CTL_WHY, 0, -EPROTO},
		{23, VAC__CTL_MAGIC, 23, 1, VAC__CTL_WHY, 0, -EPROTO},
		{5000, VAC__CTL_MAGIC, 5000, 1, VAC__CTL_WHY, 0, -EPROTO},
		{24, VAC__CTL_MAGIC, 24, 2, VAC__CTL_WHY, 0, -EOPNOTSUPP},
		{24, VAC__CTL_MAGIC, 24, 1, VAC__CTL_POOL, 0, -EPROTO},
		{24, VAC__CTL_MAGIC, 24, 1, VAC__CTL_PROGRESS, 0, -EPROTO},
		{24, VAC__CTL_MAGIC, 24, 1, VAC__CTL_WHY, 1, -EPROTO},
		{16, VAC__CTL_MAGIC, 16, 1, VAC__CTL_POOL, -EBUSY, -EPROTO},
		{16, VAC__CTL_MAGIC, 16, 9, VAC__CTL_WHY, -EBUSY, -EBUSY},
		{16, VAC__CTL_MAGIC, 16, 1, 0, -EUSERS, -EUSERS},
		{24, VAC__CTL_MAGIC, 24, 1, VAC__CTL_WHY, 0, 0},
	};
	int pair[2];

	for (unsigned i = 0; i < COUNT(bad); i++) {
		struct vac__ctl_packet p[2];
		struct ctl_client c;

		assert_ok(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
		memset(p, 0, sizeof(p));
		p[0].head = (struct vac__ctl_head){bad[i].magic, bad[i].version, bad[i].op,
						   bad[i].said, bad[i].status};
		assert_int_equal(send(pair[1], p, bad[i].bytes, 0), bad[i].bytes);
		c.fd = pair[0];
		assert_int_equal(ctl_two(&c, VAC__CTL_WHY, 0, 0, 8), bad[i].want);
		close(pair[1]);
		assert_int_equal(ctl_two(&c, VAC__CTL_WHY, 0, 0, 8), -ECONNRESET);
		ctl_disconnect(&c);
	}
}

static void garbage(uint64_t *r, struct vac__ctl_packet *p, size_t *bytes)
{
	unsigned kind = rnd(r) % 8;

	memset(p, 0, sizeof(*p));
	for (size_t i = 0; i < sizeof(*p) / 8; i++)
		((uint64_t *)p)[i] = rnd(r);
	*bytes = rnd(r) % (sizeof(*p) + 1);
	if (kind == 0)
		return;
	/* A good head; a body with numbers that are small, or not. */
	p->head.magic = VAC__CTL_MAGIC;
	p->head.version = VAC__CTL_VERSION;
	p->head.op = (uint16_t)(rnd(r) % (VAC__CTL_PROGRESS + 2));
	p->head.status = 0;
	if (kind > 1) {
		static const unsigned char len[] = {0, 8, 16, 16};

		*bytes = sizeof(p->head) + len[rnd(r) % 4];
		for (unsigned i = 0; i < 4; i++)
			if (rnd(r) % 8)
				((uint32_t *)&p->u)[i] = (uint32_t)(rnd(r) % 6);
		if (p->head.op == VAC__CTL_OFFLINE)
			p->u.offline.timeout_ms = (int64_t)(rnd(r) % 3 + 1);
	}
	p->head.bytes = rnd(r) % 16 ? (uint32_t)*bytes : (uint32_t)rnd(r);
}

/* Noise, for as long as it takes; meanwhile a well-behaved client is served. */
static void test_garbage(void **state UNUSED)
{
	uint64_t seed = t_seed(1), r = seed ? seed : 1;
	unsigned n = scaled(200000), hang_ups = 0;
	struct ctl_client c = come_in(), good = come_in();
	struct vac__ctl_packet p, in;
	size_t bytes;

	for (unsigned i = 0; i < n; i++) {
		garbage(&r, &p, &bytes);
		if (rnd(&r) % 64)
			throw(&c, &p, bytes);
		else
			throw_fds(c.fd, &p, bytes, rnd(&r) % 4);
		/* Read most of what comes, but not always in turn. */
		while (rnd(&r) % 4) {
			long got = recv(c.fd, &in, sizeof(in), MSG_DONTWAIT);

			if (got < 0 && errno == EAGAIN)
				break;
			if (got > 0) {
				assert_int_equal(in.head.magic, VAC__CTL_MAGIC);
				assert_int_equal(in.head.bytes, got);
				continue;
			}
			ctl_disconnect(&c);
			c = come_in();
			hang_ups++;
		}
		if (i % 256 == 0)
			works(&good);
	}
	assert_true(hang_ups > n / 100);
	ctl_disconnect(&c);
	wait_works(&good, 0);
	ctl_disconnect(&good);
	/* Noise may have asked for anything; it cannot have broken anything. */
	t_check(pool);
	assert_int_equal(pat_bad(mem, MIB(8), 1), -1);
}

/* ---- Clients that die --------------------------------------------------------------------------- */

/* A client in a process of its own: operates without end, until it is killed. */
static void case_client(void)
{
	uint64_t r = strtoull(getenv("VAC_SEED"), NULL, 0) | 1;
	struct ctl_client c;

	MUST(ctl_connect(&c, getenv("VAC_WHERE")) == 0);
	MUST(write(2, "!", 1) == 1);
	for (;;) {
		uint32_t id = (uint32_t)(rnd(&r) % 6);
		int e;

		switch (rnd(&r) % 8) {
		case 0:
		case 1:
		case 2: e = remote_offline(&c, (int)id, 0, (int64_t)(rnd(&r) % 200 + 1)); break;
		case 3: e = ctl_two(&c, VAC__CTL_REMOVE, id, 0, 0); break;
		case 4: e = remote_add(&c, (int)id, rnd(&r) & VAC__CTL_ADD_ONLINE); break;
		case 5: e = ctl_two(&c, VAC__CTL_WHY, id, 0, 0); break;
		default: e = ctl_two(&c, VAC__CTL_ONLINE, id, 0, 0); break;
		}
		MUST(e != -ECONNRESET && e != -EPROTO);
	}
}

static void writer(struct member *m)
{
	char *own = mem + MIB(8) * m->nr / 2;

	while (!atomic_load(&m->team->stop)) {
		size_t off = rnd(&m->rnd) % MIB(4) & ~(size_t)7;

		*(volatile uint64_t *)(own + off) = *(volatile uint64_t *)(own + off);
		atomic_fetch_add(&m->team->rounds, 1);
	}
}

static void test_kills(void **state UNUSED)
{
	uint64_t r = t_seed(2) | 1;
	unsigned kills = TSAN || ASAN ? 40 : 200, in_the_middle = 0;
	struct ctl_client watch = come_in();
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	static struct team t;

	setenv("VAC_WHERE", where, 1);
	for (unsigned i = 0; i < kills; i++) {
		char seed[24], ch;
		int fd, pid, status, id;

		snprintf(seed, sizeof(seed), "%llu", (unsigned long long)rnd(&r));
		setenv("VAC_SEED", seed, 1);
		team_start(&t, 2, writer, NULL);
		pid = case_start("client", &fd, false);
		assert_int_equal(read(fd, &ch, 1), 1);
		assert_int_equal(ch, '!');
		usleep((useconds_t)(rnd(&r) % 20000));
		in_the_middle += works(&watch) > 0;
		assert_ok(kill(pid, SIGKILL));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		close(fd);
		wait_works(&watch, 0);
		team_stop(&t);
		/* Consistent, every byte in its place, and all of it still works. */
		t_check(pool);
		for (id = 0; id < 6; id++) {
			struct vac_block_info bi = VAC_INIT(struct vac_block_info);

			if (vac_block_info(pool, id, &bi) == -ENOENT) {
				struct vac_block_opts o = VAC_INIT(struct vac_block_opts);

				o.id = id;
				assert_int_equal(vac_block_add(pool, &o), id);
			} else if (bi.state != VAC_BLOCK_OFFLINE) {
				assert_int_equal(bi.state, VAC_BLOCK_ONLINE);
				continue;
			}
			assert_ok(t_online(pool, id));
		}
		id = (t_page(space, mem).block + 1) % 6;
		assert_ok(t_offline(pool, id, 60000, NULL));
		assert_ok(t_online(pool, id));
		if (i % 10 == 0)
			assert_int_equal(pat_bad(mem, MIB(8), 1), -1);
	}
	printf("%u of %u clients were killed in the middle of an operation\n", in_the_middle,
	       kills);
	/* The kills must have hit operations, not only the time between them. */
	assert_true(in_the_middle > kills / 8);
	ctl_disconnect(&watch);
	assert_ok(vac_unpin(pool, pin));
}

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"client", case_client},
	};
	static const struct CMUnitTest tests[] = {
		TEST(test_malformed), TEST(test_descriptors), TEST(test_too_many),
		TEST(test_too_much),  TEST(test_slow),        TEST(test_bad_answers),
		TEST(test_garbage),   TEST(test_kills),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

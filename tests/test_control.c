/* SPDX-License-Identifier: MIT */
/*
 * control/: who may come in and by which door, what is answered, and what an operator does.
 * Those that mean harm, or die, are in test_control_bad.c.
 *
 * runtests: timeout=600
 */
#include "tests/control.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- The door ----------------------------------------------------------------------------------- */

static int setup_bare(void **state)
{
	setup_dir(state);
	pool = t_pool(BLOCK, 1);
	return 0;
}

static int teardown_bare(void **state)
{
	t_close(pool);
	assert_int_equal(fds_total(), fds_at_start);
	return teardown_dir(state);
}

static unsigned mode_of(const char *path)
{
	struct stat st;

	assert_ok(lstat(path, &st));
	return st.st_mode;
}

static void test_default_path(void **state UNUSED)
{
	struct vac_control *second;
	char want[256], vdir[128];

	assert_ok(vac_control_open(pool, NULL, &ctl));
	snprintf(vdir, sizeof(vdir), "%s/vacate", dir);
	snprintf(want, sizeof(want), "%s/%d-test.sock", vdir, (int)getpid());
	assert_string_equal(vac_control_path(ctl), want);
	assert_int_equal(mode_of(vdir), S_IFDIR | 0700);
	assert_int_equal(mode_of(want), S_IFSOCK | 0600);
	/* A second pool of the same name gets one beside it. */
	assert_ok(vac_control_open(pool, NULL, &second));
	assert_string_not_equal(vac_control_path(second), want);
	assert_int_equal(mode_of(vac_control_path(second)), S_IFSOCK | 0600);
	assert_ok(vac_control_close(second));
	assert_ok(vac_control_close(ctl));
	assert_int_equal(access(want, F_OK), -1);
	assert_ok(vac_control_close(NULL));
}

/* Whatever the umask. */
static void test_modes(void **state UNUSED)
{
	char sub[128], path[256];
	mode_t old = umask(0);

	snprintf(sub, sizeof(sub), "%s/new", dir);
	snprintf(path, sizeof(path), "%s/door", sub);
	assert_ok(try_open(path));
	umask(old);
	assert_int_equal(mode_of(sub), S_IFDIR | 0700);
	assert_int_equal(mode_of(path), S_IFSOCK | 0600);
	assert_ok(vac_control_close(ctl));
}

static void test_bad_paths(void **state UNUSED)
{
	struct vac_control_opts o = VAC_INIT(struct vac_control_opts);
	char path[1200], other[256];
	int fd;

	assert_int_equal(vac_control_open(NULL, NULL, &ctl), -EINVAL);
	assert_int_equal(vac_control_open(pool, NULL, NULL), -EINVAL);
	o.flags = 1;
	assert_int_equal(vac_control_open(pool, &o, &ctl), -EINVAL);
	o.flags = 0;
	o.size = sizeof(o) + 8;
	assert_int_equal(vac_control_open(pool, &o, &ctl), -EINVAL);

	/* A symbolic link in any place: the directory, one above it, the socket itself. */
	snprintf(path, sizeof(path), "%s/real", dir);
	assert_ok(mkdir(path, 0700));
	snprintf(other, sizeof(other), "%s/link", dir);
	assert_ok(symlink(path, other));
	snprintf(path, sizeof(path), "%s/link/door", dir);
	assert_int_equal(try_open(path), -ELOOP);
	snprintf(path, sizeof(path), "%s/link/sub/door", dir);
	assert_int_equal(try_open(path), -ELOOP);
	snprintf(path, sizeof(path), "%s/real/door", dir);
	snprintf(other, sizeof(other), "%s/elsewhere", dir);
	assert_ok(symlink(other, path));
	assert_int_equal(try_open(path), -ELOOP);
	assert_int_equal(access(other, F_OK), -1); /* nothing was made at its end */
	assert_ok(unlink(path));

	/* A file is not removed, whatever it is called. */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(try_open(path), -EEXIST);
	assert_true(S_ISREG(mode_of(path)));
	assert_ok(unlink(path));
	assert_ok(mkdir(path, 0700));
	assert_int_equal(try_open(path), -EEXIST);

	/* A directory that is open to others. */
	snprintf(other, sizeof(other), "%s/real", dir);
	for (unsigned bit = 0100; bit >>= 1;) {
		assert_ok(chmod(other, 0700 | bit));
		snprintf(path, sizeof(path), "%s/real/x", dir);
		assert_int_equal(try_open(path), -EACCES);
	}
	snprintf(path, sizeof(path), "%s/no/such/door", dir);
	assert_int_equal(try_open(path), -ENOENT);
	assert_int_equal(try_open("/dev/null/door"), -ENOTDIR);
	assert_int_equal(try_open(""), -EINVAL);
	snprintf(path, sizeof(path), "%s/", dir);
	assert_int_equal(try_open(path), -EINVAL);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(try_open(path), -ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/%0150d", dir, 1);
	assert_int_equal(try_open(path), -ENAMETOOLONG);
}

static void test_foreign_directory(void **state UNUSED)
{
	char sub[128], path[256];

	if (geteuid()) {
		printf("SKIP: forced: a directory of another user can be made by root only\n");
		skip();
	}
	snprintf(sub, sizeof(sub), "%s/theirs", dir);
	snprintf(path, sizeof(path), "%s/door", sub);
	assert_ok(mkdir(sub, 0700));
	assert_ok(chown(sub, 65534, 65534));
	assert_int_equal(try_open(path), -EACCES);
}

/* A listener of another kind, as another program would have one. */
static int listener(int type, bool listening)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	strcpy(sa.sun_path, where);
	assert_ok(bind(fd, (struct sockaddr *)&sa, sizeof(sa)));
	if (listening)
		assert_ok(listen(fd, 0));
	return fd;
}

static void test_stale(void **state UNUSED)
{
	struct vac_control *mine;
	struct ctl_client c, full[8];
	int fd, n = 0;

	/* One that nobody listens on is replaced, */
	close(listener(SOCK_SEQPACKET, true));
	assert_int_equal(mode_of(where) & S_IFMT, S_IFSOCK);
	assert_ok(try_open(where));
	assert_ok(ctl_connect(&c, where));
	ctl_disconnect(&c);

	/* one of a pool that is alive is not, */
	mine = ctl;
	assert_int_equal(try_open(where), -EADDRINUSE);
	assert_ok(ctl_connect(&c, where));
	assert_ok(ask(&c, VAC__CTL_POOL, NULL, 0));
	ctl_disconnect(&c);

	/* and closing removes only our own: somebody has put his in its place. */
	assert_ok(unlink(where));
	fd = listener(SOCK_SEQPACKET, true);
	assert_ok(vac_control_close(mine));
	assert_int_equal(mode_of(where) & S_IFMT, S_IFSOCK);

	/* Alive, too, is one that has no room for a further connection, */
	while (n < 8) {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};

		full[n].fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		strcpy(sa.sun_path, where);
		if (connect(full[n++].fd, (struct sockaddr *)&sa, sizeof(sa))) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
	}
	assert_in_range(n, 2, 7);
	assert_int_equal(try_open(where), -EADDRINUSE);
	while (n)
		ctl_disconnect(&full[--n]);
	close(fd);
	assert_ok(unlink(where));

	/* and one of another type. */
	fd = listener(SOCK_STREAM, true);
	assert_int_equal(try_open(where), -EADDRINUSE);
	assert_int_equal(mode_of(where) & S_IFMT, S_IFSOCK);
	close(fd);
}

static void test_pool_close(void **state UNUSED)
{
	assert_ok(try_open(where));
	assert_int_equal(vac_pool_close(pool), -EBUSY);
	t_check(pool);
	assert_ok(vac_control_close(ctl));
}

/* ---- fork, other users -------------------------------------------------------------------------- */

/* A child has no control, and does not keep the socket alive. */
static void test_fork(void **state UNUSED)
{
	struct ctl_client c = come_in();
	int gate[2], status;
	pid_t pid;
	char ch;

	wait_works(&c, 0);
	assert_ok(pipe2(gate, O_CLOEXEC));
	pid = fork();
	if (pid == 0) {
		struct vac_control *x;

		close(gate[1]);
		if (vac_control_close(ctl) != -EPERM || vac_control_open(pool, NULL, &x) != -EPERM)
			_exit(1);
		_exit(read(gate[0], &ch, 1) == 0 ? 0 : 2);
	}
	assert_true(pid > 0);
	close(gate[0]);
	assert_ok(vac_control_close(ctl));
	/* The client learns of it although the child lives, and so does who comes next. */
	assert_true(hung_up(&c));
	ctl_disconnect(&c);
	close(listener(SOCK_SEQPACKET, true)); /* the name was free, and is stale now */
	assert_ok(try_open(where));
	close(gate[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* In a process of its own, as nobody. VAC_WHERE is the socket. */
static void case_nobody(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct vac__ctl_packet p;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	const char *what = getenv("VAC_WHAT");
	long r;

	MUST(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
	strcpy(sa.sun_path, getenv("VAC_WHERE"));
	r = connect(fd, (struct sockaddr *)&sa, sizeof(sa));
	if (!strcmp(what, "closed")) {
		MUST(r == -1 && errno == EACCES);
		return;
	}
	MUST(r == 0);
	p = request(VAC__CTL_REMOVE, sizeof(p.u.two));
	send(fd, &p, p.head.bytes, MSG_NOSIGNAL);
	memset(&p, 0, sizeof(p));
	r = recv(fd, &p, sizeof(p), 0);
	if (r < 0 && errno == ECONNRESET) /* it has not read what we said: told before its answer */
		r = recv(fd, &p, sizeof(p), 0);
	MUST(r == sizeof(p.head) && p.head.status == -EACCES);
	MUST(recv(fd, &p, sizeof(p), 0) <= 0);
}

static void test_other_user(void **state UNUSED)
{
	char err[1024];

	if (geteuid()) {
		printf("SKIP: forced: only root can become another user\n");
		skip();
	}
	setenv("VAC_WHERE", where, 1);
	setenv("VAC_WHAT", "closed", 1);
	assert_int_equal(case_run("nobody", err, sizeof(err)), 0);
	/* Even if somebody opens the doors in front: the program asks the kernel who it is. */
	assert_ok(chmod(dir, 0755));
	assert_ok(chmod(where, 0666));
	setenv("VAC_WHAT", "open", 1);
	if (case_run("nobody", err, sizeof(err)))
		fail_msg("%s", err);
	assert_ok(chmod(dir, 0700));
}

/* The client looks as carefully. */
static void test_client_refuses(void **state UNUSED)
{
	struct ctl_client c;
	char path[256];

	snprintf(path, sizeof(path), "%s/link.sock", dir);
	assert_ok(symlink(where, path));
	assert_int_equal(ctl_connect(&c, path), -ELOOP);
	assert_int_equal(ctl_connect(&c, "/dev/null"), -EACCES); /* its directory is not private */
	snprintf(path, sizeof(path), "%s/none.sock", dir);
	assert_int_equal(ctl_connect(&c, path), -ENOENT);
	assert_ok(close(open(path, O_CREAT | O_WRONLY, 0600)));
	assert_int_equal(ctl_connect(&c, path), -ENOTSOCK);
	assert_ok(chmod(dir, 0750));
	assert_int_equal(ctl_connect(&c, where), -EACCES);
	assert_ok(chmod(dir, 0700));
	c = come_in();
	assert_int_equal(c.pid, getpid());
	ctl_disconnect(&c);
}

/* ---- Looking ------------------------------------------------------------------------------------ */

static void test_pool_and_blocks(void **state UNUSED)
{
	struct vac_pool_stats s = t_stats(pool);
	struct ctl_client c = come_in();
	unsigned n = 0;
	uint32_t next = 0;

	assert_ok(ask(&c, VAC__CTL_POOL, NULL, 0));
	assert_string_equal(c.in.u.pool.name, "test");
	assert_string_equal(c.in.u.pool.version, vac_version());
	assert_int_equal(c.in.u.pool.pid, getpid());
	assert_int_equal(c.in.u.pool.blocks, s.blocks);
	assert_int_equal(c.in.u.pool.frames_used, s.frames_used);
	assert_int_equal(c.in.u.pool.guard, s.guard);
	assert_int_equal(c.in.u.pool.max_blocks, vac_block_max(pool));
	/* More than fit one packet, with holes. */
	for (int id = 10; id < 240; id += 2) {
		struct vac_block_opts o = VAC_INIT(struct vac_block_opts);

		o.id = id;
		assert_int_equal(vac_block_add(pool, &o), id);
	}
	while (next != UINT32_MAX) {
		assert_ok(ctl_two(&c, VAC__CTL_BLOCKS, next, 0, 8));
		for (uint32_t i = 0; i < c.in.u.blocks.n; i++, n++) {
			struct vac__ctl_block *b = &c.in.u.blocks.block[i];
			struct vac_block_info bi = t_block(pool, (int)b->id);

			assert_int_equal(b->id, n < 4 ? n : 10 + 2 * (n - 4));
			assert_int_equal(b->state, bi.state);
			assert_int_equal(b->frames_used, bi.frames_used);
			assert_int_equal(b->frames_free, bi.frames_free);
			assert_int_equal(b->pageblocks_huge, bi.pageblocks_huge);
			assert_int_equal(b->pins, bi.pins);
		}
		next = c.in.u.blocks.next;
	}
	assert_int_equal(n, 4 + 115);
	assert_ok(ctl_two(&c, VAC__CTL_BLOCKS, UINT32_MAX, 0, 8));
	assert_int_equal(c.in.u.blocks.n, 0);
	ctl_disconnect(&c);
}

static void test_why(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	struct ctl_client c = come_in();
	uint64_t pin[40];

	assert_ok(ctl_two(&c, VAC__CTL_WHY, (uint32_t)id, 0, 8));
	assert_int_equal(c.in.u.two.a, 0);
	/* More owners than fit one packet. */
	for (unsigned i = 0; i < COUNT(pin); i++) {
		char name[VAC_OWNER_MAX];

		snprintf(name, sizeof(name), "owner-%u", i);
		pin[i] = t_pin(space, mem + i, 1, VAC_PIN_STACK, name);
	}
	assert_ok(ctl_two(&c, VAC__CTL_WHY, (uint32_t)id, 0, 8));
	assert_int_equal(c.in.u.two.a, 1);
	assert_ok(ctl_two(&c, VAC__CTL_BLOCKER, 0, 0, sizeof(c.in.u.blocker)));
	assert_int_equal(c.in.u.blocker.cls, VAC_HELD_SHORT_PIN);
	assert_int_equal(c.in.u.blocker.pfn, t_page(space, mem).pfn);
	assert_int_equal(c.in.u.blocker.pins, COUNT(pin));
	assert_int_equal(c.in.u.blocker.owners, COUNT(pin));
	for (unsigned i = 0, seen = 0; i < COUNT(pin); i = seen) {
		assert_ok(ctl_two(&c, VAC__CTL_OWNERS, 0, i, 8));
		assert_true(c.in.u.owners.n > 0);
		for (uint32_t k = 0; k < c.in.u.owners.n; k++, seen++) {
			struct vac__ctl_owner *o = &c.in.u.owners.owner[k];

			assert_int_equal(memcmp(o->owner, "owner-", 6), 0);
			assert_int_equal(o->tid, gettid());
			assert_true(o->stack_depth > 0);
		}
	}
	assert_ok(ctl_two(&c, VAC__CTL_OWNERS, 0, COUNT(pin), 8));
	assert_int_equal(c.in.u.owners.n, 0);
	assert_int_equal(ctl_two(&c, VAC__CTL_BLOCKER, 1, 0, 8), -ERANGE);
	assert_ok(ctl_two(&c, VAC__CTL_OWNERS, 7, 0, 8));
	assert_int_equal(c.in.u.owners.n, 0);
	assert_int_equal(ctl_two(&c, VAC__CTL_WHY, 999999, 0, 8), -ENOENT);
	assert_int_equal(ctl_two(&c, VAC__CTL_WHY, UINT32_MAX, 0, 8), -ENOENT);
	/* It is a copy, and another client has none. */
	for (unsigned i = 0; i < COUNT(pin); i++)
		assert_ok(vac_unpin(pool, pin[i]));
	assert_ok(ctl_two(&c, VAC__CTL_BLOCKER, 0, 0, 8));
	ctl_disconnect(&c);
	c = come_in();
	assert_int_equal(ctl_two(&c, VAC__CTL_BLOCKER, 0, 0, 8), -ERANGE);
	ctl_disconnect(&c);
}

/* ---- Operating ---------------------------------------------------------------------------------- */

/* Ask for an offline and do not wait for the answer. */
static void begin_offline(struct ctl_client *c, int id, uint32_t flags, int64_t timeout_ms)
{
	struct vac__ctl_packet p = request(VAC__CTL_OFFLINE, sizeof(p.u.offline));

	p.u.offline = (struct vac__ctl_offline){(uint32_t)id, flags, timeout_ms};
	throw(c, &p, p.head.bytes);
}

static void test_cycle(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	struct ctl_client c = come_in();
	uint64_t used = t_stats(pool).frames_used;

	assert_ok(remote_offline(&c, id, VAC__CTL_DRY_RUN, 0));
	assert_true(c.in.u.result.possible_bytes > 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	assert_ok(remote_offline(&c, id, 0, 0));
	assert_true(c.in.u.result.bytes_moved > 0);
	assert_true(c.in.u.result.given_back_bytes > 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_OFFLINE);
	assert_int_equal(remote_offline(&c, id, 0, 0), -EALREADY);
	assert_int_equal(remote_offline(&c, 7777777, 0, 0), -ENOENT);
	assert_ok(ctl_two(&c, VAC__CTL_ONLINE, (uint32_t)id, VAC_ZONE_NORMAL, 0));
	assert_int_equal(t_block(pool, id).zone, VAC_ZONE_NORMAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_ONLINE, (uint32_t)id, 0, 0), -EALREADY);
	assert_int_equal(ctl_two(&c, VAC__CTL_ONLINE, UINT32_MAX, 0, 0), -ENOENT);
	assert_int_equal(ctl_two(&c, VAC__CTL_ONLINE, (uint32_t)id, 2, 0), -EINVAL);
	assert_int_equal(ctl_two(&c, VAC__CTL_REMOVE, (uint32_t)id, 0, 0), -EBUSY);
	assert_ok(remote_add(&c, -1, 0));
	assert_int_equal(c.in.u.two.a, 4);
	assert_int_equal(t_block(pool, 4).state, VAC_BLOCK_OFFLINE);
	assert_ok(remote_add(&c, 9, VAC__CTL_ADD_ONLINE));
	assert_int_equal(c.in.u.two.a, 9);
	assert_int_equal(t_block(pool, 9).state, VAC_BLOCK_ONLINE);
	assert_int_equal(remote_add(&c, 9, 0), -EEXIST);
	assert_int_equal(remote_add(&c, INT32_MAX, 0), -ENOSPC);
	assert_int_equal(remote_add(&c, -2, 0), -EINVAL);
	assert_int_equal(remote_add(&c, -1, 0x80), -EINVAL);
	assert_int_equal(remote_add(&c, -1, VAC__CTL_ADD_FILE), -EINVAL); /* none came along */
	assert_int_equal(remote_offline(&c, 9, 0x20, 0), -EINVAL);
	assert_ok(ctl_two(&c, VAC__CTL_REMOVE, 4, 0, 0));
	assert_int_equal(ctl_two(&c, VAC__CTL_REMOVE, 4, 0, 0), -ENOENT);
	assert_int_equal(ctl_two(&c, VAC__CTL_REMOVE, UINT32_MAX, 0, 0), -ENOENT);
	assert_int_equal(ctl_two(&c, VAC__CTL_CANCEL, 0, 0, 0), -EALREADY);
	assert_int_equal(t_stats(pool).frames_used, used);
	ctl_disconnect(&c);
	t_check(pool);
}

/* A file that the client has opened becomes a block. */
static void test_file(void **state UNUSED)
{
	struct ctl_client c = come_in();
	struct vac__ctl_add q = {.id = -1, .flags = VAC__CTL_ADD_FILE | VAC__CTL_ADD_ONLINE};
	struct ctl_call call = {.op = VAC__CTL_ADD,
				.body = &q,
				.body_bytes = sizeof(q),
				.want = sizeof(struct vac__ctl_two),
				.timeout_ms = 60000};
	unsigned before;

	call.fd = memfd_create("given", MFD_CLOEXEC);
	wait_works(&c, 0);
	before = fds_total();
	assert_int_equal(ctl_call(&c, &call), -EINVAL); /* too short */
	assert_int_equal(fds_total(), before);
	assert_int_equal(t_stats(pool).blocks, 4);
	assert_ok(ftruncate(call.fd, BLOCK));
	assert_ok(ctl_call(&c, &call));
	assert_int_equal(c.in.u.two.a, 4);
	assert_int_equal(t_block(pool, 4).unsealable, 1);
	assert_int_equal(ctl_call(&c, &call), -EBUSY); /* once is enough */
	assert_ok(ctl_two(&c, VAC__CTL_BLOCKS, 4, 0, 8));
	assert_int_equal(c.in.u.blocks.block[0].file, 1);
	assert_int_equal(c.in.u.blocks.block[0].unsealable, 1);
	close(call.fd);
	assert_ok(remote_offline(&c, 4, 0, 60000));
	assert_ok(ctl_two(&c, VAC__CTL_REMOVE, 4, 0, 0));
	assert_int_equal(fds_total(), before - 1);
	ctl_disconnect(&c);
}

/* A holder is named in the answer of an offline, and the block is as it was. */
static void test_held(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	uint64_t pin = t_pin(space, mem, 1, VAC_PIN_STACK, "keeper");
	struct ctl_client c = come_in();

	assert_int_equal(remote_offline(&c, id, 0, 50), -EBUSY);
	assert_string_equal(c.in.u.result.waited_for, "keeper");
	assert_int_equal(c.in.u.result.blockers, 1);
	assert_ok(ctl_two(&c, VAC__CTL_OWNERS, 0, 0, 8));
	assert_string_equal(c.in.u.owners.owner[0].owner, "keeper");
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	assert_ok(vac_unpin(pool, pin));
	ctl_disconnect(&c);
}

static void count_call(void *ctx, const struct vac__ctl_progress *p)
{
	unsigned *n = ctx;

	assert_true(p->frames_left <= p->frames_used);
	++*n;
}

/* Ctrl-C: the offline gives up and says so; the client goes on. */
static void test_abort(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	struct ctl_client c = come_in();
	struct vac__ctl_packet p;
	struct vac__ctl_offline q = {(uint32_t)id, 0, -1};
	struct ctl_call call = offline_call(&q);
	volatile int interrupt = 1;
	unsigned told = 0;

	call.interrupt = &interrupt;
	call.tell = count_call;
	call.tell_ctx = &told;
	assert_int_equal(ctl_call(&c, &call), -ECANCELED);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	/* One that comes too late is not answered, and harms nobody. */
	p = request(VAC__CTL_ABORT, 0);
	throw(&c, &p, p.head.bytes);
	assert_int_equal(works(&c), 0);
	/* Another client's cancel does the same. */
	begin_offline(&c, id, 0, -1);
	wait_state(id, VAC_BLOCK_EVACUATING);
	struct ctl_client other = come_in();
	assert_ok(ctl_two(&other, VAC__CTL_CANCEL, (uint32_t)id, 0, 0));
	wait_works(&other, 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	ctl_disconnect(&other);
	ctl_disconnect(&c);
	assert_ok(vac_unpin(pool, pin));
}

/* A client that goes in the middle: cancelled, unless detached. */
static void test_gone(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	struct ctl_client c = come_in(), watch = come_in();

	begin_offline(&c, id, 0, -1);
	wait_state(id, VAC_BLOCK_EVACUATING);
	assert_int_equal(works(&watch), 1);
	ctl_disconnect(&c);
	wait_works(&watch, 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	/* Whoever says anything else meanwhile is hung up on: the same. */
	c = come_in();
	begin_offline(&c, id, 0, -1);
	wait_state(id, VAC_BLOCK_EVACUATING);
	begin_offline(&c, id, 0, -1);
	assert_true(hung_up(&c));
	ctl_disconnect(&c);
	wait_works(&watch, 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);

	c = come_in();
	assert_ok(remote_offline(&c, id, VAC__CTL_DETACH, -1));
	wait_state(id, VAC_BLOCK_EVACUATING);
	ctl_disconnect(&c);
	assert_int_equal(works(&watch), 1);
	assert_ok(vac_unpin(pool, pin));
	wait_works(&watch, 0);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_OFFLINE);
	ctl_disconnect(&watch);
	assert_ok(vac_block_online(pool, id, VAC_ZONE_MOVABLE));
}

/* One that waits behind another's offline is cancelled where it waits, and the other is not. */
static void test_gone_in_the_queue(void **state UNUSED)
{
	int id = t_page(space, mem).block, next = (id + 1) % 4;
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	struct ctl_client first = come_in(), second = come_in(), watch = come_in();

	begin_offline(&first, id, 0, -1);
	wait_state(id, VAC_BLOCK_EVACUATING);
	begin_offline(&second, next, 0, -1);
	wait_works(&watch, 2);
	ctl_disconnect(&second);
	wait_works(&watch, 1);
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_EVACUATING);
	assert_int_equal(t_block(pool, next).state, VAC_BLOCK_ONLINE);
	ctl_disconnect(&first);
	wait_works(&watch, 0);
	ctl_disconnect(&watch);
	assert_ok(vac_unpin(pool, pin));
}

/* Closing ends what is under way, also what is detached. */
static void test_close_under_way(void **state UNUSED)
{
	int id = t_page(space, mem).block;
	uint64_t pin = t_pin(space, mem, 1, 0, "keeper");
	struct ctl_client c = come_in(), d = come_in();

	assert_ok(remote_offline(&c, id, VAC__CTL_DETACH, -1));
	wait_state(id, VAC_BLOCK_EVACUATING);
	begin_offline(&d, (id + 1) % 4, 0, -1);
	wait_works(&c, 2);
	assert_ok(vac_control_close(ctl));
	assert_int_equal(t_block(pool, id).state, VAC_BLOCK_ONLINE);
	assert_true(hung_up(&c));
	assert_true(hung_up(&d));
	ctl_disconnect(&c);
	ctl_disconnect(&d);
	assert_ok(vac_unpin(pool, pin));
	assert_ok(try_open(where));
}

#define BARE(t) cmocka_unit_test_setup_teardown(t, setup_bare, teardown_bare)

int main(int argc, char **argv)
{
	static const struct proc_case cases[] = {
		{"nobody", case_nobody},
	};
	static const struct CMUnitTest tests[] = {
		BARE(test_default_path),
		BARE(test_modes),
		BARE(test_bad_paths),
		BARE(test_foreign_directory),
		BARE(test_stale),
		BARE(test_pool_close),
		TEST(test_fork),
		TEST(test_other_user),
		TEST(test_client_refuses),
		TEST(test_pool_and_blocks),
		TEST(test_why),
		TEST(test_cycle),
		TEST(test_file),
		TEST(test_held),
		TEST(test_abort),
		TEST(test_gone),
		TEST(test_gone_in_the_queue),
		TEST(test_close_under_way),
	};

	case_main(argc, argv, cases, COUNT(cases));
	catch_faults();
	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

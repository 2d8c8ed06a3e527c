/* SPDX-License-Identifier: MIT */
/* TARGET[:BLOCK]. See target.h. */
#include "target.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd.h"
#include "control/path.h"
#include "out.h"

#define BLOCKS_MAX 65536
#define ASK_MS 5000 /* a program that is stopped must not stop us for longer */

void target_clean(char *s, size_t size)
{
	s[size - 1] = '\0';
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			*s = '?';
}

const char *target_block_text(const struct targets *ts, const struct target_block *b, char *buf,
			      size_t len)
{
	if (ts->n > 1)
		snprintf(buf, len, "block %" PRIu32 " of %" PRIu32, b->id, b->t->pool.pid);
	else
		snprintf(buf, len, "block %" PRIu32, b->id);
	return buf;
}

void targets_free(struct targets *ts)
{
	for (unsigned i = 0; i < ts->n; i++) {
		ctl_disconnect(&ts->t[i]->c);
		free(ts->t[i]);
	}
	free(ts->t);
	free(ts->block);
	memset(ts, 0, sizeof(*ts));
}

/* ---- Pools ---- */

static void find_program(struct target *t)
{
	char path[64];
	FILE *f;

	if (!t->c.pid)
		return;
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)t->c.pid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(t->program, sizeof(t->program), f))
		t->program[strcspn(t->program, "\n")] = '\0';
	fclose(f);
	target_clean(t->program, sizeof(t->program));
}

/* What to tell people about an error of a socket. */
static const char *socket_error(int err)
{
	switch (err) {
	case -ECONNREFUSED: return "nobody listens there any more";
	case -ENOENT: return "there is no such socket";
	case -ENOTSOCK: return "it is not a socket";
	case -EPROTOTYPE: return "it is not a control socket";
	case -ELOOP: return "a part of the path is a symbolic link, and none is followed";
	case -ECONNRESET: return "the program has hung up";
	case -ETIMEDOUT: return "the program does not answer; is it stopped?";
	case -EUSERS: return "too many clients are connected; try again later";
	case -EACCES:
		return "not allowed: its directory must be mode 0700 and yours or root's, and the "
		       "program must run as that user";
	case -EOPNOTSUPP: return "the program has a library of another version";
	case -EPROTO: return "what listens there does not speak our protocol";
	default: return strerror(-err);
	}
}

/* Takes a connection over: asks who that is and adds it. 0 or a negative errno value. */
static int adopt(struct targets *ts, struct ctl_client *c, const char *path, struct target **out)
{
	struct target **grown = realloc(ts->t, (ts->n + 1) * sizeof(*grown));
	struct ctl_call q = {.op = VAC__CTL_POOL,
			     .want = sizeof(struct vac__ctl_pool),
			     .fd = -1,
			     .timeout_ms = ASK_MS};
	struct target *t = calloc(1, sizeof(*t));
	int err;

	if (grown)
		ts->t = grown;
	if (!grown || !t) {
		err = -ENOMEM;
		goto fail;
	}
	err = ctl_call(c, &q);
	if (err)
		goto fail;
	t->c = *c;
	t->pool = c->in.u.pool;
	target_clean(t->pool.name, sizeof(t->pool.name));
	target_clean(t->pool.version, sizeof(t->pool.version));
	snprintf(t->path, sizeof(t->path), "%s", path);
	find_program(t);
	ts->t[ts->n++] = t;
	if (out)
		*out = t;
	return 0;
fail:
	ctl_disconnect(c);
	free(t);
	return err;
}

static bool has_suffix(const char *name)
{
	size_t n = strlen(name), m = strlen(VAC__CTL_SUFFIX);

	return n > m && !strcmp(name + n - m, VAC__CTL_SUFFIX);
}

/* All sockets of a directory of uid's, or those whose names begin with prefix. */
static void scan_dir(struct targets *ts, const char *dir, uid_t uid, const char *prefix)
{
	int fd = vac__ctl_dir_open(dir, uid, false);
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return; /* most are not there */
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d))) {
		struct ctl_client c;
		char path[sizeof(((struct target *)0)->path)];
		int err;

		if (!has_suffix(e->d_name) || strncmp(e->d_name, prefix, strlen(prefix)))
			continue;
		snprintf(path, sizeof(path), "%.700s/%s", dir, e->d_name);
		err = ctl_connect_at(&c, fd, e->d_name);
		if (!err)
			err = adopt(ts, &c, path, NULL);
		/* What a program leaves behind that ended without closing is nobody's error. */
		if (!err || err == -ECONNREFUSED || err == -ENOENT)
			continue;
		target_clean(path, sizeof(path));
		out_error("%s: %s", path, socket_error(err));
		ts->failed++;
	}
	closedir(d);
}

/* Directories base/PREFIXuid[/vacate] of all users. */
static void scan_users(struct targets *ts, const char *base, const char *head, const char *tail,
		       const char *prefix)
{
	DIR *d = opendir(base);
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d))) {
		char dir[VAC__CTL_PATH_MAX], *end;
		unsigned long uid;

		if (strncmp(e->d_name, head, strlen(head)) ||
		    !isdigit((unsigned char)e->d_name[strlen(head)]))
			continue;
		uid = strtoul(e->d_name + strlen(head), &end, 10);
		if (*end || uid == geteuid())
			continue;
		snprintf(dir, sizeof(dir), "%s/%s%s", base, e->d_name, tail);
		scan_dir(ts, dir, (uid_t)uid, prefix);
	}
	closedir(d);
}

/* Every pool of this user, and for root every user's, where a program puts its socket by default. */
static void scan(struct targets *ts, const char *prefix)
{
	char dir[VAC__CTL_PATH_MAX];

	for (unsigned k = 0; vac__ctl_dir_default(k, geteuid(), true, dir, sizeof(dir)); k++)
		scan_dir(ts, dir, geteuid(), prefix);
	if (geteuid())
		return;
	scan_users(ts, "/run/user", "", "/vacate", prefix);
	scan_users(ts, "/tmp", "vacate-", "", prefix);
}

static int no_pool(struct targets *ts)
{
	if (!ts->failed)
		out_error(
			"no running program with a control socket was found; a program opens one by "
			"vac_control_open() (try 'vacate stress --control'), and one that is "
			"elsewhere is named by its path");
	return CMD_ERROR;
}

static int one_of(struct targets *ts, unsigned before, struct target **out)
{
	*out = ts->t[before];
	if (ts->n == before + 1)
		return -1;
	out_error("%u pools are running; name one of these:", ts->n - before);
	for (unsigned i = before; i < ts->n; i++)
		out_msg("  %s  (%s, pid %" PRIu32 ")", ts->t[i]->path, ts->t[i]->pool.name,
			ts->t[i]->pool.pid);
	return CMD_USAGE;
}

static int find_only(struct targets *ts, struct target **out)
{
	unsigned before = ts->n;

	scan(ts, "");
	return ts->n == before ? no_pool(ts) : one_of(ts, before, out);
}

static int find_path(struct targets *ts, const char *path, struct target **out)
{
	struct ctl_client c;
	int err;

	for (unsigned i = 0; i < ts->n; i++) {
		*out = ts->t[i];
		if (!strcmp((*out)->path, path))
			return -1;
	}
	err = ctl_connect(&c, path);
	if (!err)
		err = adopt(ts, &c, path, out);
	if (!err)
		return -1;
	out_error("%s: %s", path, socket_error(err));
	return CMD_ERROR;
}

static int find_pid(struct targets *ts, const char *digits, struct target **out)
{
	unsigned long pid = strtoul(digits, NULL, 10);
	unsigned before = ts->n;
	char prefix[24];

	if (!pid || pid > INT32_MAX)
		return opt_error(ts->ctx, "'%.40s' is not a PID; those are from 1 to %d", digits,
				 INT32_MAX);
	for (unsigned i = 0; i < ts->n; i++) {
		*out = ts->t[i];
		if (ts->t[i]->pool.pid == pid)
			return -1;
	}
	snprintf(prefix, sizeof(prefix), "%lu-", pid);
	scan(ts, prefix);
	if (ts->n != before)
		return one_of(ts, before, out);
	if (!ts->failed)
		out_error("process %lu has no control socket where they are looked for; is it a "
			  "program of this user that has opened one?",
			  pid);
	return CMD_ERROR;
}

/* ---- Blocks ---- */

static int add_block(struct targets *ts, struct target *t, uint32_t id)
{
	struct target_block *grown;

	for (unsigned i = 0; i < ts->n_blocks; i++)
		if (ts->block[i].t == t && ts->block[i].id == id)
			return -1; /* once is enough */
	grown = realloc(ts->block, (ts->n_blocks + 1) * sizeof(*grown));
	if (!grown) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	ts->block = grown;
	ts->block[ts->n_blocks++] = (struct target_block){t, id};
	return -1;
}

/* "3" or "3-7". */
static bool parse_range(const char *s, uint32_t *first, uint32_t *last)
{
	char *end;
	unsigned long a, b;

	if (!isdigit((unsigned char)*s))
		return false;
	errno = 0;
	a = b = strtoul(s, &end, 10);
	if (*end == '-' && isdigit((unsigned char)end[1]))
		b = strtoul(end + 1, &end, 10);
	if (*end || errno || a > b || b >= BLOCKS_MAX)
		return false;
	*first = (uint32_t)a;
	*last = (uint32_t)b;
	return true;
}

static int add_range(struct targets *ts, struct target *t, const char *arg, const char *range)
{
	uint32_t first, last;
	int rc = -1;

	if (!parse_range(range, &first, &last))
		return opt_error(
			ts->ctx,
			"'%s' does not name a block; give a number or a range, such as 3 or "
			"3-7; a process is named with a colon, as in 1234: or 1234:3",
			arg);
	if (last >= t->pool.max_blocks)
		return opt_error(ts->ctx,
				 "'%s': pool %s has room for blocks 0 to %" PRIu32
				 " only; a process is named with a colon, as in 1234: or 1234:3",
				 arg, t->pool.name, t->pool.max_blocks - 1);
	for (uint32_t id = first; id <= last && rc < 0; id++)
		rc = add_block(ts, t, id);
	return rc;
}

static int add_online(struct targets *ts, struct target *t)
{
	uint32_t next = 0;
	int rc = -1;

	while (next != UINT32_MAX && rc < 0) {
		struct vac__ctl_blocks *bs = &t->c.in.u.blocks;
		uint32_t from = next;
		int err = ctl_two(&t->c, VAC__CTL_BLOCKS, next, 0,
				  offsetof(struct vac__ctl_blocks, block));

		if (!err && (bs->n > VAC__CTL_BLOCKS_MAX || bs->next <= from ||
			     (bs->next > BLOCKS_MAX && bs->next != UINT32_MAX)))
			err = -EPROTO;
		if (err) {
			out_error("%s: %s", t->path, socket_error(err));
			return CMD_ERROR;
		}
		for (uint32_t i = 0; i < bs->n && rc < 0; i++)
			if (bs->block[i].state != VAC_BLOCK_OFFLINE)
				rc = add_block(ts, t, bs->block[i].id);
		next = bs->next;
	}
	return rc;
}

/* ---- Arguments ---- */

static bool digits_only(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isdigit((unsigned char)s[i]))
			return false;
	return n > 0;
}

/* The end of the target in "TARGET:BLOCK", or NULL if there is no block, or no target. A path may
 * have colons of its own. */
static const char *colon_of(const char *arg)
{
	const char *c = strrchr(arg, ':');

	return c && !strchr(c, '/') ? c : NULL;
}

static int parse_arg(struct targets *ts, enum target_want want, const char *arg)
{
	bool blocks = want == TARGET_BLOCKS || want == TARGET_ALL_BLOCKS;
	const char *colon = blocks ? colon_of(arg) : NULL;
	size_t n = colon ? (size_t)(colon - arg) : strlen(arg);
	char name[VAC__CTL_PATH_MAX];
	struct target *t = NULL;
	uint32_t first, last;
	int rc;

	if (n >= sizeof(name))
		return opt_error(ts->ctx, "'%.40s...' is too long for a target", arg);
	memcpy(name, arg, n);
	name[n] = '\0';
	if (!strcmp(name, "host"))
		return opt_error(
			ts->ctx,
			"'%s': the host's own blocks go with ls, why, offline, online, watch and metrics, and only by themselves",
			arg);
	if (blocks && !colon && (parse_range(arg, &first, &last) || digits_only(name, n))) {
		rc = ts->n ? one_of(ts, 0, &t) : find_only(ts, &t);
		return rc < 0 ? add_range(ts, t, arg, arg) : rc;
	}
	if (!n || (!digits_only(name, n) && !strchr(name, '/') && access(name, F_OK)))
		return opt_error(ts->ctx,
				 "'%s' is not %s; a target is a PID or the path of a control "
				 "socket%s",
				 arg, blocks ? "a block, nor a target" : "a target",
				 blocks ? ", a block a number or a range, such as 3-7 or TARGET:3"
					: "");
	rc = digits_only(name, n) ? find_pid(ts, name, &t) : find_path(ts, name, &t);
	if (rc >= 0 || !blocks)
		return rc;
	if (colon && colon[1])
		return add_range(ts, t, arg, colon + 1);
	if (want == TARGET_ALL_BLOCKS)
		return add_online(ts, t);
	return opt_error(ts->ctx,
			 "'%s' names no block; give one or a range after a colon, as in %s:3", arg,
			 name);
}

int targets_parse(struct targets *ts, const struct opt_ctx *ctx, enum target_want want, char **argv,
		  int n)
{
	struct target *t;
	int rc = -1;

	memset(ts, 0, sizeof(*ts));
	ts->ctx = ctx;
	if (want == TARGET_ONE && n > 1)
		return opt_error(ctx, "'%s' is too much: one target is enough", argv[1]);
	if (!n) {
		switch (want) {
		case TARGET_ANY: scan(ts, ""); return -1;
		case TARGET_BLOCKS:
			return opt_error(ctx, "which block? Give a number, a range such as 3-7, or "
					      "TARGET:3");
		default: rc = find_only(ts, &t); break;
		}
		return rc < 0 && want == TARGET_ALL_BLOCKS ? add_online(ts, t) : rc;
	}
	for (int i = 0; i < n && rc < 0; i++)
		rc = parse_arg(ts, want, argv[i]);
	return rc;
}

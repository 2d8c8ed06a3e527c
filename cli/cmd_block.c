/* SPDX-License-Identifier: MIT */
/* vacate add, online, remove: blocks of a running program come and go. What each does is whole or not
 * done, block by block, whatever becomes of us meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "cmd_host.h"
#include "host_target.h"
#include "out.h"
#include "remote.h"
#include "report_json.h"

struct result {
	bool json;
	const char *verb, *past; /* "online", "brought online" */
	json_t *blocks;
	unsigned done, failed;
};

static void add_result(struct result *r, struct target *t, int64_t id, int err, const char *why)
{
	json_t *j;

	r->done += !err;
	r->failed += err != 0;
	if (!r->json) {
		if (!err)
			printf("block %" PRId64 " of %" PRIu32 " %s\n", id, t->pool.pid, r->past);
		return;
	}
	j = json_pack("{s:I, s:o, s:b, s:i, s:s}", "pid", (json_int_t)t->pool.pid, "pool",
		      any_string(t->pool.name), "done", err == 0, "error", err, "error_text",
		      err ? why : "");
	if (j && id >= 0)
		json_object_set_new(j, "block", json_integer((json_int_t)id));
	json_array_append_new(r->blocks, j);
}

static int finish(struct result *r)
{
	int rc = !r->failed ? CMD_OK : r->done ? CMD_PARTLY : CMD_ERROR;

	if (r->json && out_json(json_pack("{s:O}", "blocks", r->blocks)))
		rc = CMD_ERROR;
	json_decref(r->blocks);
	return rc;
}

static int parse_zone(const struct opt_ctx *ctx, const char *name, uint32_t *zone)
{
	if (!strcmp(name, "movable"))
		*zone = VAC_ZONE_MOVABLE;
	else if (!strcmp(name, "normal"))
		*zone = VAC_ZONE_NORMAL;
	else
		return opt_error(ctx, "--zone: '%s' is not a zone; movable and normal are", name);
	return -1;
}

/* Online, add and remove may have to wait for another operation: for as long as that takes. */
static int call(struct target *t, unsigned op, const void *body, size_t bytes, size_t want, int fd)
{
	struct ctl_call q = {.op = op,
			     .body = body,
			     .body_bytes = bytes,
			     .want = want,
			     .fd = fd,
			     .timeout_ms = -1};

	return ctl_call(&t->c, &q);
}

enum { OPT_ZONE = 256, OPT_JSON, OPT_COUNT, OPT_ID, OPT_ONLINE, OPT_FILE };

/* ---- online, remove ---- */

void cmd_online_usage(void)
{
	puts("Usage: vacate online [OPTIONS] [TARGET:]BLOCK...\n"
	     "       vacate online [OPTIONS] host:BLOCK... | host:nodeN | host:DEVICE\n"
	     "\n"
	     "Give offline blocks of a running program, or of this machine, memory, and let it use them.\n"
	     "\n"
	     "TARGET: the PID of a program that has a control socket, or the socket's path; may be\n"
	     "left out where exactly one pool is running. BLOCK: a number or a range, 3 or 3-7.\n"
	     "\n"
	     "Options:\n"
	     "      --zone NAME   movable or normal; of the host movable, kernel, or default, which is\n"
	     "                    what the kernel chooses (default movable)\n"
	     "      --json        print one JSON object\n"
	     "      --sysroot DIR  of the host: the machine below DIR, not this one\n"
	     "  -h, --help        this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage, 64 some blocks are online, others not.\n"
	     "\n"
	     "Example: vacate online 1234:3");
}

static void usage_remove(void)
{
	puts("Usage: vacate remove [OPTIONS] [TARGET:]BLOCK...\n"
	     "\n"
	     "Make a running program forget offline blocks; their numbers may be used again.\n"
	     "\n"
	     "TARGET: the PID of a program that has a control socket, or the socket's path; may be\n"
	     "left out where exactly one pool is running. BLOCK: a number or a range, 3 or 3-7.\n"
	     "\n"
	     "Options:\n"
	     "      --json   print one JSON object\n"
	     "  -h, --help   this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage, 64 some blocks are removed, others not.\n"
	     "\n"
	     "Example: vacate offline 3 && vacate remove 3");
}

static const char *why_not(unsigned op, int err)
{
	if (op == VAC__CTL_ONLINE && err == -EALREADY)
		return "it is online already";
	if (op == VAC__CTL_ONLINE && err == -ENOMEM)
		return "the host has no memory or no mapping for it";
	if (op == VAC__CTL_REMOVE && err == -EBUSY)
		return "it is online; take it offline first";
	return remote_error(err);
}

static int each(struct result *r, unsigned op, uint32_t zone, const struct opt_ctx *ctx,
		char **argv, int n)
{
	struct targets ts;
	int rc = targets_parse(&ts, ctx, TARGET_BLOCKS, argv, n);

	if (rc >= 0)
		goto out;
	r->blocks = json_array();
	for (unsigned i = 0; i < ts.n_blocks; i++) {
		struct target_block *b = &ts.block[i];
		struct vac__ctl_two two = {b->id, zone};
		int err = call(b->t, op, &two, sizeof(two), 0, -1);
		char name[64];

		if (err)
			out_error("%s: %s", target_block_text(&ts, b, name, sizeof(name)),
				  why_not(op, err));
		add_result(r, b->t, b->id, err, why_not(op, err));
	}
	rc = finish(r);
out:
	targets_free(&ts);
	return rc;
}

int cmd_online(int argc, char **argv)
{
	static const struct option options[] = {
		{"zone", required_argument, NULL, OPT_ZONE},
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	static const struct opt_ctx ctx = {"online"};
	struct result r = {.past = "is online"};
	uint32_t zone = VAC_ZONE_MOVABLE;
	int c;

	out_set_prefix("vacate online");
	if (host_wanted(argc, argv))
		return cmd_host_online(argc, argv);
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_ZONE:
			if (parse_zone(&ctx, optarg, &zone) >= 0)
				return CMD_USAGE;
			break;
		case OPT_JSON: r.json = true; break;
		case 'h': cmd_online_usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	return each(&r, VAC__CTL_ONLINE, zone, &ctx, argv + optind, argc - optind);
}

int cmd_remove(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	static const struct opt_ctx ctx = {"remove"};
	struct result r = {.past = "is removed"};
	int c;

	out_set_prefix("vacate remove");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_JSON: r.json = true; break;
		case 'h': usage_remove(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	return each(&r, VAC__CTL_REMOVE, 0, &ctx, argv + optind, argc - optind);
}

/* ---- add ---- */

static void usage_add(void)
{
	puts("Usage: vacate add [OPTIONS] [TARGET]\n"
	     "\n"
	     "Add blocks to the pool of a running program, offline, and print their numbers.\n"
	     "\n"
	     "TARGET: the PID of a program that has a control socket, or the socket's path; may be\n"
	     "left out where exactly one pool is running.\n"
	     "\n"
	     "Options:\n"
	     "      --count N     how many (default 1)\n"
	     "      --id N        the number of the first (default: the lowest free one)\n"
	     "      --file PATH   its memory is this file: on tmpfs or mapped by DAX, at least as long as\n"
	     "                    a block; what is in it is lost. Opened here, with our rights\n"
	     "      --online      bring each online too; where that fails it is not added\n"
	     "      --zone NAME   with --online: movable or normal (default movable)\n"
	     "      --json        print one JSON object\n"
	     "  -h, --help        this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage, 64 fewer than asked for are added.\n"
	     "\n"
	     "Example: vacate add --count 2 --online 1234");
}

static const char *why_not_added(int err, bool file)
{
	switch (err) {
	case -EINVAL:
		return file ? "the file cannot be a block: it must be on tmpfs or mapped by DAX, not on "
			      "hugetlbfs, and at least as long as a block"
			    : remote_error(err);
	case -EBUSY: return file ? "the file is a block already, or locked" : remote_error(err);
	case -EEXIST: return "there is a block of this number already";
	case -ENOSPC: return "the pool has no room for more blocks";
	case -ENOMEM: return "the host has no memory or no mapping for it";
	default: return remote_error(err);
	}
}

struct add {
	struct result r;
	struct vac__ctl_add q;
	uint64_t count;
	const char *file;
	int fd; /* of the file, or -1 */
};

static int add_all(struct add *a, struct target *t)
{
	a->r.blocks = json_array();
	for (uint64_t i = 0; i < a->count; i++) {
		int err = call(t, VAC__CTL_ADD, &a->q, sizeof(a->q), sizeof(struct vac__ctl_two),
			       a->fd);
		int64_t id = err ? a->q.id : (int64_t)t->c.in.u.two.a;

		add_result(&a->r, t, id, err, why_not_added(err, a->file));
		if (err) {
			if (id >= 0)
				out_error("block %" PRId64 ": %s", id, why_not_added(err, a->file));
			else
				out_error("%s", why_not_added(err, a->file));
			break;
		}
		if (a->q.id >= 0)
			a->q.id++;
	}
	return finish(&a->r);
}

static int open_file(struct add *a)
{
	if (!a->file)
		return 0;
	a->fd = open(a->file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (a->fd < 0) {
		out_error("--file: %s: %s", a->file,
			  errno == ELOOP ? "it is a symbolic link, and none is followed"
					 : strerror(errno));
		return -1;
	}
	a->q.flags |= VAC__CTL_ADD_FILE;
	return 0;
}

int cmd_add(int argc, char **argv)
{
	static const struct option options[] = {
		{"count", required_argument, NULL, OPT_COUNT},
		{"id", required_argument, NULL, OPT_ID},
		{"file", required_argument, NULL, OPT_FILE},
		{"online", no_argument, NULL, OPT_ONLINE},
		{"zone", required_argument, NULL, OPT_ZONE},
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	static const struct opt_ctx ctx = {"add"};
	struct add a = {.r = {.past = "is added"}, .q = {.id = -1}, .count = 1, .fd = -1};
	bool zone = false;
	struct targets ts;
	uint64_t id;
	int c, rc;

	out_set_prefix("vacate add");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_COUNT:
			if (opt_number(&ctx, "--count", optarg, 1, 65536, &a.count))
				return CMD_USAGE;
			break;
		case OPT_ID:
			if (opt_number(&ctx, "--id", optarg, 0, 65535, &id))
				return CMD_USAGE;
			a.q.id = (int32_t)id;
			break;
		case OPT_FILE: a.file = optarg; break;
		case OPT_ONLINE: a.q.flags |= VAC__CTL_ADD_ONLINE; break;
		case OPT_ZONE:
			if (parse_zone(&ctx, optarg, &a.q.zone) >= 0)
				return CMD_USAGE;
			zone = true;
			break;
		case OPT_JSON: a.r.json = true; break;
		case 'h': usage_add(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	if (zone && !(a.q.flags & VAC__CTL_ADD_ONLINE))
		return opt_error(&ctx,
				 "--zone goes with --online only: an offline block has no zone");
	if (a.file && a.count > 1)
		return opt_error(&ctx, "--count does not go with --file: a file is one block");
	if (a.q.flags & VAC__CTL_ADD_ONLINE)
		a.r.past = "is added and online";
	rc = targets_parse(&ts, &ctx, TARGET_ONE, argv + optind, argc - optind);
	if (rc < 0)
		rc = open_file(&a) ? CMD_ERROR : add_all(&a, ts.t[0]);
	if (a.fd >= 0)
		close(a.fd);
	targets_free(&ts);
	return rc;
}

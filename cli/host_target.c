/* SPDX-License-Identifier: MIT */
/* host[:BLOCK]. See host_target.h. */
#include "host_target.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "host/act.h"
#include "out.h"

bool host_wanted(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "host") || !strncmp(argv[i], "host:", 5) ||
		    !strcmp(argv[i], "--sysroot") || !strncmp(argv[i], "--sysroot=", 10))
			return true;
	return false;
}

void host_targets_free(struct host_targets *t)
{
	host_close(t->h);
	free(t->block);
	memset(t, 0, sizeof(*t));
}

static void add(struct host_targets *t, unsigned i)
{
	for (unsigned k = 0; k < t->n; k++)
		if (t->block[k] == i)
			return;
	t->block[t->n++] = i;
}

static int no_block(const struct host_targets *t, const char *arg)
{
	out_error("'%s': this host has no such block; it has %u, from %" PRIu32 " to %" PRIu32
		  ", which 'vacate ls host' lists",
		  arg, t->h->n_blocks, t->h->blocks[0].id, t->h->blocks[t->h->n_blocks - 1].id);
	return CMD_ERROR;
}

/* host:node1, host:dax0.0: all blocks of it. */
static int add_device(struct host_targets *t, const char *name)
{
	uint32_t *ids;
	int n = host_device_blocks(t->h, name, &ids);

	if (n < 0) {
		out_error("%s", host_message(t->h));
		return CMD_ERROR;
	}
	for (int i = 0; i < n; i++)
		add(t, (unsigned)(host_block(t->h, ids[i]) - t->h->blocks));
	free(ids);
	return -1;
}

static int add_range(struct host_targets *t, const struct opt_ctx *ctx, const char *arg)
{
	const char *s = arg + 5;
	unsigned long a, b;
	bool any = false;
	char *end;

	if (isalpha((unsigned char)*s))
		return add_device(t, s);
	errno = 0;
	a = b = strtoul(s, &end, 10);
	if (isdigit((unsigned char)*s) && *end == '-' && isdigit((unsigned char)end[1]))
		b = strtoul(end + 1, &end, 10);
	if (!isdigit((unsigned char)*s) || *end || errno || a > b)
		return opt_error(ctx,
				 "'%s' does not name a block; give a number, a range, a node or a "
				 "device after the colon, such as host:32, host:32-35, host:node1 "
				 "or host:dax0.0",
				 arg);
	for (unsigned i = 0; i < t->h->n_blocks; i++)
		if (t->h->blocks[i].id >= a && t->h->blocks[i].id <= b) {
			add(t, i);
			any = true;
		}
	return !any ? no_block(t, arg) : -1;
}

int host_targets_parse(struct host_targets *t, const struct opt_ctx *ctx, const char *sysroot,
		       char **argv, int n)
{
	const char *message;
	int rc = -1;

	memset(t, 0, sizeof(*t));
	for (int i = 0; i < n; i++)
		if (strcmp(argv[i], "host") && strncmp(argv[i], "host:", 5))
			return opt_error(
				ctx,
				"'%s' is not of the host; the host's blocks are host:32, "
				"host:32-35 or host:node1, and one command is about the host or "
				"about programs",
				argv[i]);
	if (host_open(&t->h, sysroot, &message)) {
		out_error("%s", message);
		return CMD_ERROR;
	}
	t->block = calloc(t->h->n_blocks, sizeof(*t->block));
	if (!t->block) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	for (int i = 0; i < n && rc < 0; i++)
		if (!strcmp(argv[i], "host"))
			n = 0;
		else
			rc = add_range(t, ctx, argv[i]);
	for (unsigned i = 0; rc < 0 && n == 0 && i < t->h->n_blocks; i++)
		add(t, i);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/* Arguments of the verbs that act on the host's own blocks. See host_args.h. */
#include "host_args.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "host/act.h"
#include "out.h"

static int add(struct host_args *a, struct host *h, uint32_t id)
{
	struct host_block *b = host_block(h, id), **more;

	for (unsigned i = 0; i < a->n; i++)
		if (a->block[i] == b)
			return 0;
	more = realloc(a->block, (a->n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	a->block = more;
	a->block[a->n++] = b;
	return 0;
}

static int number(const char **s, uint64_t *n)
{
	char *end;

	if (!isdigit((unsigned char)**s))
		return -1;
	errno = 0;
	*n = strtoull(*s, &end, 10);
	*s = end;
	return errno || *n > UINT32_MAX ? -1 : 0;
}

static int add_numbers(struct host_args *a, const struct opt_ctx *ctx, struct host *h,
		       const char *arg)
{
	const char *s = arg + 5;
	uint64_t first, last;
	unsigned before = a->n;

	if (number(&s, &first))
		return opt_error(
			ctx, "'%s' does not name a block; host:32, host:32-35, host:node1 would",
			arg);
	last = first;
	if (*s == '-') {
		s++;
		if (number(&s, &last))
			return opt_error(ctx, "'%s' is not a range; host:32-35 would be", arg);
	}
	if (*s || last < first)
		return opt_error(
			ctx, "'%s' does not name a block; host:32, host:32-35, host:node1 would",
			arg);
	if (!h->n_blocks) {
		out_error("this machine has no memory blocks: its kernel cannot remove memory");
		return CMD_ERROR;
	}
	/* A range may have holes, as the machine's memory has. */
	for (unsigned i = 0; i < h->n_blocks; i++)
		if (h->blocks[i].id >= first && h->blocks[i].id <= last &&
		    add(a, h, h->blocks[i].id))
			return CMD_ERROR;
	if (a->n == before && !host_block(h, (uint32_t)first)) {
		out_error("there is no memory block %" PRIu64 "; from %" PRIu32 " to %" PRIu32
			  " there are %u",
			  first, h->blocks[0].id, h->blocks[h->n_blocks - 1].id, h->n_blocks);
		return CMD_ERROR;
	}
	return -1;
}

static int add_device(struct host_args *a, struct host *h, const char *name)
{
	uint32_t *ids = NULL;
	int n = host_device_blocks(h, name, &ids), err = 0;

	if (n < 0) {
		out_error("%s", host_message(h));
		return CMD_ERROR;
	}
	for (int i = 0; i < n && !err; i++)
		err = add(a, h, ids[i]);
	free(ids);
	a->whole = true;
	return err ? CMD_ERROR : -1;
}

int host_args_parse(struct host_args *a, const struct opt_ctx *ctx, struct host *h, char **argv,
		    int n)
{
	int rc;

	memset(a, 0, sizeof(*a));
	for (int i = 0; i < n; i++) {
		if (!strcmp(argv[i], "host")) {
			a->bare = true;
			continue;
		}
		if (strncmp(argv[i], "host:", 5))
			return opt_error(
				ctx, "'%s': blocks of the host and of programs do not go together",
				argv[i]);
		rc = isdigit((unsigned char)argv[i][5]) || !argv[i][5]
			     ? add_numbers(a, ctx, h, argv[i])
			     : add_device(a, h, argv[i] + 5);
		if (rc >= 0)
			return rc;
	}
	return -1;
}

void host_args_free(struct host_args *a)
{
	free(a->block);
	memset(a, 0, sizeof(*a));
}

int host_args_open(struct host **h, const char *sysroot)
{
	const char *message = "";

	if (!host_open(h, sysroot, &message))
		return -1;
	out_error("%s", message);
	return CMD_ERROR;
}

/* SPDX-License-Identifier: MIT */
/*
 * Which blocks are the cheapest to take away.
 *
 * By one look at the frames, without asking who holds what: that is done for each block when its turn comes,
 * and costs a hundred times as much.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/act.h"

struct candidate {
	uint32_t id;
	unsigned trouble; /* 0: nothing in sight; 1: another zone than movable; 2: somebody may hold it */
	uint64_t copies; /* frames */
};

static int by_cost(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->trouble != y->trouble)
		return x->trouble < y->trouble ? -1 : 1;
	if (x->copies != y->copies)
		return x->copies < y->copies ? -1 : 1;
	/* High memory first: what came last is mostly what can be unplugged. */
	return x->id > y->id ? -1 : x->id < y->id;
}

/* 0: not one to choose; 1: it is; -errno. */
static int weigh(struct host *h, const struct host_block *b, struct candidate *c)
{
	struct host_pages p;
	struct host_usage u;
	int err;

	err = host_pages_read(h, b->pfn, b->frames, 0, &p);
	if (err)
		return err;
	host_pages_usage(h, &p, b->pfn, b->frames, &u);
	host_pages_free(&p);
	if (u.frames[HOST_UNMOVABLE])
		return 0;
	c->id = b->id;
	c->copies = u.frames[HOST_MOVABLE] + u.frames[HOST_HELD] + u.frames[HOST_HUGETLB_USED];
	c->trouble = u.frames[HOST_HELD] || u.frames[HOST_LOCKED] || u.frames[HOST_WRITEBACK] ||
				     u.frames[HOST_HUGETLB_USED] || u.huge_reserved
			     ? 2
			     : strcmp(b->zone, "Movable") != 0;
	return 1;
}

int host_pick(struct host *h, int node, uint32_t **ids)
{
	struct candidate *c = calloc(h->n_blocks ? h->n_blocks : 1, sizeof(*c));
	int n = 0, err = 0;

	*ids = calloc(h->n_blocks ? h->n_blocks : 1, sizeof(**ids));
	if (!c || !*ids) {
		free(c);
		free(*ids);
		*ids = NULL;
		return -ENOMEM;
	}
	for (unsigned i = 0; i < h->n_blocks && err >= 0; i++) {
		const struct host_block *b = &h->blocks[i];

		if (b->state != HOST_ONLINE || (node >= 0 && b->node != node))
			continue;
		err = weigh(h, b, &c[n]);
		n += err > 0;
	}
	qsort(c, (size_t)n, sizeof(*c), by_cost);
	for (int i = 0; i < n; i++)
		(*ids)[i] = c[i].id;
	free(c);
	if (err < 0) {
		free(*ids);
		*ids = NULL;
	}
	return err < 0 ? err : n;
}

/* SPDX-License-Identifier: MIT */
/*
 * All blocks at once. The first sample is of every frame; the second, later, only of the blocks in
 * which something was suspicious, and only what is suspicious in both stays so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "why.h"

static bool suspicious(const struct host_page *g)
{
	return g->class == HOST_HELD || g->class == HOST_LOCKED || g->class == HOST_WRITEBACK;
}

/* Remember which frames are suspicious. *set stays without bits where none is. */
static int remember(const struct host_pages *p, struct frame_set *set)
{
	for (uint64_t i = 0; i < p->n; i++) {
		if (!suspicious(&p->page[i]))
			continue;
		if (!set->bits && frame_set_init(set, p->pfn, p->n))
			return -ENOMEM;
		frame_set_add(set, p->pfn + i);
	}
	return 0;
}

static int look(struct host *h, unsigned i, const struct facts *f, struct frame_set *before,
		struct host_usage *u, bool *refs_known)
{
	const struct host_block *b = &h->blocks[i];
	bool second = before->bits;
	struct host_pages p;
	int err = host_pages_read(h, b->pfn, b->frames, 0, &p);

	if (err)
		return err;
	host_pages_forgive(&p, f);
	for (uint64_t k = 0; second && k < p.n; k++)
		if (suspicious(&p.page[k]) && !frame_set_has(before, p.pfn + k))
			p.page[k].class = HOST_MOVABLE;
	host_pages_usage(h, &p, p.pfn, p.n, u);
	*refs_known &= p.refs_known;
	if (!second && h->live)
		err = remember(&p, before);
	host_pages_free(&p);
	return err;
}

int host_survey(struct host *h, struct host_usage *usage, bool *refs_known)
{
	struct frame_set *sets = calloc(h->n_blocks, sizeof(*sets));
	struct timespec wait = {0, 60 * 1000000};
	struct facts f = {0};
	bool again = false;
	int err = sets ? 0 : -ENOMEM;

	memset(usage, 0, h->n_blocks * sizeof(*usage));
	*refs_known = true;
	/* Only for the rings of AIO contexts, which are no holders. */
	if (!err)
		err = facts_walk(h, NULL, 0, UINT64_MAX >> 13, &f);
	for (unsigned i = 0; i < h->n_blocks && !err; i++) {
		if (h->blocks[i].state == HOST_OFFLINE)
			continue;
		err = look(h, i, &f, &sets[i], &usage[i], refs_known);
		again |= sets[i].bits != NULL;
	}
	if (again && !err)
		nanosleep(&wait, NULL);
	for (unsigned i = 0; i < h->n_blocks && !err; i++)
		if (sets[i].bits)
			err = look(h, i, &f, &sets[i], &usage[i], refs_known);
	for (unsigned i = 0; sets && i < h->n_blocks; i++)
		frame_set_free(&sets[i]);
	facts_free(&f);
	free(sets);
	return err;
}

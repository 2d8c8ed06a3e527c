/* SPDX-License-Identifier: MIT */
/*
 * Workload `atomics`: many threads add to the same cells, by fetch-and-add and by 16-byte
 * compare-and-swap, and every sum must come out exact.
 *
 * Each thread keeps, outside the pool, what it has added to each cell; the sum over the threads
 * must be what the cell holds. An atomic operation that hit the old frame after its bytes had been
 * copied is missing from the sum for ever, and nothing else could ever make up for it. All cells
 * lie in a few base folios and one stretch of a huge one, which every thread writes all the time.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cas16.h"
#include "out.h"
#include "workload.h"

#define CELLS_PER_PAGE 8
#define PAGES 64
#define CELLS (CELLS_PER_PAGE * PAGES)

/* 512 bytes, so that eight of them spread over a page. */
struct cell {
	_Atomic uint64_t sum;
	uint64_t pad1[7];
	struct pair pair; /* lo counts, hi sums */
	uint64_t pad2[54];
};

_Static_assert(sizeof(struct cell) * CELLS_PER_PAGE == VAC_PAGE_BYTES, "cells fill a page");

struct added {
	uint64_t sum[CELLS], lo[CELLS], hi[CELLS];
};

struct atomics {
	struct cell *cell[2]; /* [CELLS / 2] each: in base folios, in a huge folio */
	uint64_t bytes[2];
	struct added *added; /* [threads] */
};

static int prepare(struct wl_group *g)
{
	struct atomics *d = calloc(1, sizeof(*d));
	int err = -ENOMEM;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->added = calloc(g->threads ? g->threads : 1, sizeof(*d->added));
	if (!d->added)
		return -ENOMEM;
	d->bytes[0] = PAGES / 2 * VAC_PAGE_BYTES;
	d->bytes[1] = g->bytes >= 2 * VAC_PAGEBLOCK_BYTES ? VAC_PAGEBLOCK_BYTES : d->bytes[0];
	for (unsigned k = 0; k < 2; k++) {
		d->cell[k] = wl_map_filled(g->run, &d->bytes[k], k ? 0 : VAC_MAP_NOHUGE,
					   "'atomics'", &err);
		if (!d->cell[k])
			return err;
	}
	g->bytes = d->bytes[0] + d->bytes[1];
	return 0;
}

static struct cell *cell_at(struct atomics *d, unsigned i)
{
	return &d->cell[i & 1][i / 2];
}

static void work(struct wl_worker *w)
{
	struct atomics *d = w->group->data;
	struct added *mine = &d->added[w->index];

	while (wl_go(w)) {
		unsigned i = (unsigned)wl_below(w, CELLS);
		uint64_t delta = wl_random(w);
		struct cell *c = cell_at(d, i);
		uint64_t t0;

		wl_doing(w, "adding to a cell", c);
		t0 = wl_now_ns();
		if (delta & 1) {
			atomic_fetch_add_explicit(&c->sum, delta, memory_order_relaxed);
			mine->sum[i] += delta;
		} else {
			/* A first guess; a wrong one costs one more round. */
			struct pair seen = {0, 0}, want;

			do {
				want.lo = seen.lo + 1;
				want.hi = seen.hi + delta;
			} while (!cas16(&c->pair, &seen, want));
			mine->lo[i]++;
			mine->hi[i] += delta;
		}
		wl_op_end(w, t0, 0);
	}
}

static void sweep(struct wl_group *g)
{
	struct atomics *d = g->data;

	wl_stage(g->run, "checking the sums of 'atomics'");
	for (unsigned i = 0; i < CELLS; i++) {
		struct cell *c = cell_at(d, i);
		uint64_t sum = 0, lo = 0, hi = 0;
		char text[160];

		for (unsigned t = 0; t < g->threads; t++) {
			sum += d->added[t].sum[i];
			lo += d->added[t].lo[i];
			hi += d->added[t].hi[i];
		}
		if (atomic_load(&c->sum) != sum)
			wl_fault(g->run,
				 "atomics: the cell at %p holds %016" PRIx64
				 ", added were %016" PRIx64 " (%s)",
				 (void *)c, atomic_load(&c->sum), sum,
				 wl_page_text(g->run, c, text, sizeof(text)));
		if (c->pair.lo != lo || c->pair.hi != hi)
			wl_fault(g->run,
				 "atomics: the pair at %p holds %" PRIu64 ", %016" PRIx64
				 "; swapped in were %" PRIu64 ", %016" PRIx64 " (%s)",
				 (void *)&c->pair, c->pair.lo, c->pair.hi, lo, hi,
				 wl_page_text(g->run, c, text, sizeof(text)));
	}
	/* What a sweep proves is every operation since the start; but each only once. */
	atomic_store(&g->swept, wl_group_ops(g));
}

static void release(struct wl_group *g)
{
	struct atomics *d = g->data;

	for (unsigned k = 0; k < 2; k++) {
		if (d->cell[k])
			vac_unmap(g->run->space, d->cell[k], d->bytes[k]);
	}
	free(d->added);
	free(d);
	g->data = NULL;
}

const struct wl_class wl_atomics = {
	.name = "atomics",
	.what = "fetch-and-add and 16-byte compare-and-swap on shared pages, sums exact",
	.latency = WL_WRITER,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
};

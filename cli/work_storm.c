/* SPDX-License-Identifier: MIT */
/*
 * Workload `storm`: every thread hammers the same few pages, so that whenever one of them leaves,
 * all threads wait for it at once.
 *
 * Each thread has one word in each page (512 of them, so 512 threads at most) and adds one to it
 * in turn; the word must hold what the thread wrote last. Words of different threads share cache
 * lines on purpose.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "out.h"
#include "workload.h"

#define PAGES 4
#define WORDS (VAC_PAGE_BYTES / 8)

struct storm {
	volatile uint64_t *word; /* [PAGES][WORDS] */
	uint64_t bytes;
	uint64_t *count; /* [threads][PAGES]: what each word must hold */
};

static int prepare(struct wl_group *g)
{
	struct storm *d;
	int err;

	if (g->threads > WORDS) {
		out_error("'storm' takes at most %zu threads, not %u", WORDS, g->threads);
		return -EINVAL;
	}
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	g->data = d;
	d->count = calloc((g->threads ? g->threads : 1) * PAGES, sizeof(uint64_t));
	if (!d->count)
		return -ENOMEM;
	d->bytes = PAGES * VAC_PAGE_BYTES;
	d->word = wl_map_filled(g->run, &d->bytes, VAC_MAP_NOHUGE, "'storm'", &err);
	if (!d->word)
		return err;
	g->bytes = d->bytes;
	return 0;
}

static void check(struct wl_group *g, unsigned thread, unsigned page)
{
	struct storm *d = g->data;
	volatile uint64_t *word = &d->word[page * WORDS + thread];
	uint64_t *count = &d->count[thread * PAGES + page];
	uint64_t seen = *word;
	char text[160];

	if (seen == *count)
		return;
	wl_fault(g->run, "storm: the word at %p holds %" PRIu64 ", not %" PRIu64 " (%s)",
		 (void *)(uintptr_t)word, seen, *count,
		 wl_page_text(g->run, (const void *)(uintptr_t)word, text, sizeof(text)));
	*count = seen;
}

static void work(struct wl_worker *w)
{
	struct storm *d = w->group->data;

	while (wl_go(w)) {
		unsigned page = (unsigned)wl_below(w, PAGES);
		volatile uint64_t *word = &d->word[page * WORDS + w->index];
		uint64_t t0;

		wl_doing(w, "hammering a page", (const void *)(uintptr_t)word);
		t0 = wl_now_ns();
		check(w->group, w->index, page);
		*word = ++d->count[w->index * PAGES + page];
		wl_op_end(w, t0, 1);
	}
}

static void sweep(struct wl_group *g)
{
	wl_stage(g->run, "checking the words of 'storm'");
	for (unsigned t = 0; t < g->threads; t++) {
		for (unsigned page = 0; page < PAGES; page++)
			check(g, t, page);
	}
	atomic_fetch_add(&g->swept, g->threads * PAGES);
}

static void release(struct wl_group *g)
{
	struct storm *d = g->data;

	if (d->word)
		vac_unmap(g->run->space, (void *)(uintptr_t)d->word, d->bytes);
	free(d->count);
	free(d);
	g->data = NULL;
}

const struct wl_class wl_storm = {
	.name = "storm",
	.what = "all its threads hammer the same few pages",
	.latency = WL_WRITER,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
};

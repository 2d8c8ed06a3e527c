/* SPDX-License-Identifier: MIT */
/*
 * Workload `verify`: readers of memory whose checksums were kept.
 *
 * The pages are filled once, by a demo's files or with pseudo-random bytes, summed, and made
 * read-only; each reader then sums random pages and compares. A page that was copied wrongly,
 * mapped at the wrong place, or read before it was complete does not pass. Pages are summed where
 * they lie, so a reader also proves that reading goes on while its page leaves.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "sum64.h"
#include "workload.h"

struct verify {
	struct wl_pages own;
	const struct wl_pages *pages; /* own, or somebody else's */
};

uint64_t wl_page_sum(const void *page)
{
	return sum64(page, VAC_PAGE_BYTES / 8);
}

static int prepare(struct wl_group *g)
{
	struct wl_run *run = g->run;
	struct verify *v = calloc(1, sizeof(*v));
	int err;

	if (!v)
		return -ENOMEM;
	g->data = v;
	v->pages = &v->own;
	if (!g->bytes)
		return 0; /* wl_verify_use() follows */
	v->own.base = wl_map_filled(run, &g->bytes, 0, "'verify'", &err);
	if (!v->own.base)
		return err;
	v->own.pages = g->bytes / VAC_PAGE_BYTES;
	g->mem = v->own.base;
	g->mem_bytes = g->bytes;
	v->own.sum = malloc(v->own.pages * sizeof(uint64_t));
	if (!v->own.sum)
		return -ENOMEM;
	for (uint64_t i = 0; i < v->own.pages; i++) {
		uint64_t *word = (uint64_t *)(v->own.base + i * VAC_PAGE_BYTES);

		for (unsigned k = 0; k < VAC_PAGE_BYTES / 8; k++)
			word[k] = wl_mix(run->seed + i * (VAC_PAGE_BYTES / 8) + k);
		v->own.sum[i] = wl_page_sum(word);
		if (!(i & 1023))
			wl_stage(run, "filling memory for 'verify'");
	}
	err = vac_protect(run->space, v->own.base, g->bytes, VAC_PROT_READ);
	if (err)
		out_error("cannot make the pages of 'verify' read-only: %s", vac_strerror(err));
	return err;
}

void wl_verify_use(struct wl_group *g, const struct wl_pages *pages)
{
	struct verify *v = g->data;

	v->pages = pages;
	g->bytes = pages->pages * VAC_PAGE_BYTES;
	g->mem = pages->base;
	g->mem_bytes = g->bytes;
}

static bool check_page(struct wl_run *run, const struct wl_pages *p, uint64_t i)
{
	const unsigned char *page = p->base + i * VAC_PAGE_BYTES;
	uint64_t sum = wl_page_sum(page), again;
	char text[160];

	if (sum == p->sum[i])
		return true;
	again = wl_page_sum(page);
	wl_fault(run,
		 "verify: page %" PRIu64 " at %p sums to %016" PRIx64 ", not %016" PRIx64
		 " (a second time %016" PRIx64 "; %s)",
		 i, (const void *)page, sum, p->sum[i], again,
		 wl_page_text(run, page, text, sizeof(text)));
	return false;
}

static void work(struct wl_worker *w)
{
	struct verify *v = w->group->data;
	const struct wl_pages *p = v->pages;

	while (wl_go(w)) {
		uint64_t i, t0;

		if (!p->pages) {
			/* Nothing to read: alive all the same. */
			wl_doing(w, "idle: no pages", NULL);
			wl_op_end(w, wl_now_ns(), 0);
			wl_sleep(w, 100000000);
			continue;
		}
		i = wl_below(w, p->pages);
		wl_doing(w, "reading a page", p->base + i * VAC_PAGE_BYTES);
		t0 = wl_now_ns();
		check_page(w->run, p, i);
		wl_op_end(w, t0, 1);
	}
}

static void sweep(struct wl_group *g)
{
	struct verify *v = g->data;

	for (uint64_t i = 0; i < v->pages->pages; i++) {
		check_page(g->run, v->pages, i);
		if (!(i & 4095))
			wl_stage(g->run, "checking all pages of 'verify'");
	}
	atomic_fetch_add(&g->swept, v->pages->pages);
}

static void release(struct wl_group *g)
{
	struct verify *v = g->data;

	if (v->own.base)
		vac_unmap(g->run->space, v->own.base, g->bytes);
	free(v->own.sum);
	free(v);
	g->data = NULL;
}

const struct wl_class wl_verify = {
	.name = "verify",
	.what = "read random pages and compare their checksums",
	.latency = WL_READER,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
};

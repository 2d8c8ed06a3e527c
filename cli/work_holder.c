/* SPDX-License-Identifier: MIT */
/*
 * Workload `holder`: somebody who pins a few pages for long (two seconds), again and again, under
 * the name "slow-holder". An offline that meets them has to wait, and to say for whom.
 *
 * The pages are neighbours somewhere in the memory of another group. One vac_pin() covers them:
 * taking several pins one after the other while holding the first would be what vac_pin() warns
 * of. The controller may ask for pages of a certain block (run->hold_block) and sees in
 * run->held_block when that has come true. A holder parks with its pin held: checks of the pool
 * must cope with pins.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "workload.h"

#define HOLD_PAGES 3
#define TRIES 512 /* random pages looked at for one in the block asked for */

static int prepare(struct wl_group *g)
{
	g->bytes = 0;
	return 0;
}

/* A random page of some group's memory, with room for HOLD_PAGES; NULL if there is none. */
static unsigned char *random_page(struct wl_worker *w)
{
	struct wl_run *run = w->run;
	uint64_t pages = 0, pick;

	for (unsigned i = 0; i < run->n_groups; i++) {
		if (run->groups[i].mem_bytes >= HOLD_PAGES * VAC_PAGE_BYTES)
			pages += run->groups[i].mem_bytes / VAC_PAGE_BYTES - HOLD_PAGES + 1;
	}
	if (!pages)
		return NULL;
	pick = wl_below(w, pages);
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];
		uint64_t n;

		if (g->mem_bytes < HOLD_PAGES * VAC_PAGE_BYTES)
			continue;
		n = g->mem_bytes / VAC_PAGE_BYTES - HOLD_PAGES + 1;
		if (pick < n)
			return g->mem + pick * VAC_PAGE_BYTES;
		pick -= n;
	}
	return NULL;
}

static int block_of(struct wl_run *run, const void *addr)
{
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);

	if (vac_page_info(run->space, addr, &pi) || !pi.present)
		return WL_NO_BLOCK;
	return pi.block;
}

static unsigned char *choose(struct wl_worker *w)
{
	int wanted = atomic_load(&w->run->hold_block);
	unsigned char *page = random_page(w);

	if (wanted == WL_NO_BLOCK || !page)
		return page;
	for (unsigned i = 0; i < TRIES && block_of(w->run, page) != wanted; i++)
		page = random_page(w);
	return page;
}

static uint64_t hold_time(struct wl_worker *w)
{
	uint64_t ns = w->run->hold_ns;

	/* Always the longest hold would make a stress test wait more than work. */
	if (w->run->hold_random && wl_below(w, 8))
		return wl_below(w, ns / 40);
	return ns;
}

static void work(struct wl_worker *w)
{
	struct wl_run *run = w->run;

	while (wl_go(w)) {
		unsigned char *page = choose(w);
		uint64_t t0 = wl_now_ns(), pin;
		int err;

		if (!page) {
			wl_doing(w, "idle: nothing to hold", NULL);
			wl_op_end(w, t0, 0);
			wl_sleep(w, 100000000);
			continue;
		}
		wl_doing(w, "pinning", page);
		err = vac_pin(run->space, page, HOLD_PAGES * VAC_PAGE_BYTES,
			      VAC_PIN_READ | VAC_PIN_STACK, "slow-holder", &pin);
		if (err) {
			wl_fault(run, "holder: cannot pin %p: %s", (void *)page, vac_strerror(err));
			wl_sleep(w, 100000000);
			continue;
		}
		atomic_store(&run->held_block, block_of(run, page));
		wl_doing(w, "holding", page);
		wl_sleep(w, hold_time(w));
		atomic_store(&run->held_block, WL_NO_BLOCK);
		err = vac_unpin(run->pool, pin);
		if (err)
			wl_fault(run, "holder: cannot unpin: %s", vac_strerror(err));
		wl_op_end(w, t0, 0);
		/* Else the next hold may begin before an offline that waits has seen the end. */
		wl_sleep(w, 1000000);
	}
}

const struct wl_class wl_holder = {
	.name = "holder",
	.what = "pin a few pages for up to two seconds, again and again",
	.latency = WL_NEITHER,
	.prepare = prepare,
	.work = work,
};

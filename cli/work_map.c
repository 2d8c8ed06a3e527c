/* SPDX-License-Identifier: MIT */
/*
 * Workload `map`: map, write, verify, protect, drop, split and unmap, with sizes and places drawn
 * at random, while what is mapped moves about.
 *
 * Each thread works on mappings of its own and has none between two rounds: when it is parked the
 * pool holds exactly what the other groups hold, which the controller checks. Memory may run out,
 * as the pool is meant to be nearly full: every fill is asked for explicitly (a touch that finds
 * no memory could only end the thread), and -ENOMEM ends the round early.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "workload.h"

#define PAGE VAC_PAGE_BYTES

struct map_group {
	_Atomic uint64_t no_memory; /* rounds cut short */
};

/* One round's mapping. state[] says what each page must hold. UNFILLED pages are mapped, but there
 * was no memory for them: not to be touched. An UNMAPPED page's address may belong to somebody else
 * by now. */
enum page_state { UNMAPPED, UNFILLED, ZERO, WRITTEN };

struct round {
	struct wl_worker *w;
	unsigned char *base;
	uint64_t pages;
	uint64_t salt;
	unsigned char *state; /* [pages], enum page_state */
};

static int prepare(struct wl_group *g)
{
	g->data = calloc(1, sizeof(struct map_group));
	g->bytes = 0;
	return g->data ? 0 : -ENOMEM;
}

static uint64_t word_of(const struct round *r, uint64_t page, unsigned k)
{
	return wl_mix(r->salt ^ (page << 9 | k));
}

/* Four words a page: enough to tell pages apart, and cheap. */
static unsigned offset_of(unsigned k)
{
	static const unsigned at[4] = {0, 1000, 2048, PAGE - 8};

	return at[k];
}

static void write_pages(struct round *r, uint64_t from, uint64_t n)
{
	for (uint64_t i = from; i < from + n; i++) {
		for (unsigned k = 0; k < 4; k++) {
			uint64_t v = word_of(r, i, k);

			memcpy(r->base + i * PAGE + offset_of(k), &v, sizeof(v));
		}
		r->state[i] = WRITTEN;
	}
}

static uint64_t verify_pages(struct round *r)
{
	uint64_t n = 0;
	char text[160];

	for (uint64_t i = 0; i < r->pages; i++) {
		if (r->state[i] < ZERO)
			continue;
		for (unsigned k = 0; k < 4; k++) {
			const unsigned char *at = r->base + i * PAGE + offset_of(k);
			uint64_t want = r->state[i] == ZERO ? 0 : word_of(r, i, k), v;

			memcpy(&v, at, sizeof(v));
			if (v != want)
				wl_fault(r->w->run,
					 "map: %p holds %016" PRIx64 ", not %016" PRIx64 " (%s)",
					 (const void *)at, v, want,
					 wl_page_text(r->w->run, at, text, sizeof(text)));
		}
		n++;
	}
	return n;
}

/* A random run of pages that may be touched; 0 if the page chosen may not. */
static uint64_t random_run(struct round *r, uint64_t *from)
{
	uint64_t max, n = 0;

	*from = wl_below(r->w, r->pages);
	max = 1 + wl_below(r->w, r->pages - *from);
	while (n < max && r->state[*from + n] >= ZERO)
		n++;
	return n;
}

/* 0, -ENOMEM (an expected answer), or another error, which is a fault. */
static int answer(struct round *r, int err, const char *what)
{
	if (err && err != -ENOMEM && err != -EBUSY)
		wl_fault(r->w->run, "map: %s answers: %s", what, vac_strerror(err));
	return err;
}

static int drop(struct round *r, unsigned char *at, uint64_t from, uint64_t n)
{
	int err =
		answer(r, vac_advise(r->w->run->space, at, n * PAGE, VAC_ADV_DONTNEED), "DONTNEED");

	if (err)
		return err;
	memset(r->state + from, ZERO, n);
	/* Filled in again at once: nobody may run out of memory in a plain load. */
	err = answer(r, vac_advise(r->w->run->space, at, n * PAGE, VAC_ADV_WILLNEED), "WILLNEED");
	if (err)
		memset(r->state + from, UNFILLED, n);
	return err;
}

static int make_readonly(struct round *r, unsigned char *at, uint64_t from, uint64_t n)
{
	struct vac_space *space = r->w->run->space;
	int err = answer(r, vac_protect(space, at, n * PAGE, VAC_PROT_READ), "protect");

	if (err)
		return err;
	verify_pages(r);
	err = answer(r, vac_protect(space, at, n * PAGE, VAC_PROT_READ | VAC_PROT_WRITE),
		     "protect");
	if (err)
		return err;
	write_pages(r, from, n);
	return 0;
}

static int pin_a_while(struct round *r, unsigned char *at, uint64_t n)
{
	uint64_t pin;
	int err = answer(r,
			 vac_pin(r->w->run->space, at, n * PAGE, VAC_PIN_WRITE, "map churn", &pin),
			 "pin");

	if (err)
		return err;
	verify_pages(r);
	return answer(r, vac_unpin(r->w->run->pool, pin), "unpin");
}

static int unmap_part(struct round *r, unsigned char *at, uint64_t from, uint64_t n)
{
	int err = answer(r, vac_unmap(r->w->run->space, at, n * PAGE), "unmap");

	if (!err)
		memset(r->state + from, UNMAPPED, n);
	return err;
}

/* One random step on the mapping. 0, or the error that ends the round. */
static int step(struct round *r)
{
	uint64_t from, n = random_run(r, &from);
	unsigned char *at = r->base + from * PAGE;

	if (!n)
		return 0;
	switch (wl_below(r->w, 5)) {
	case 0:
		wl_doing(r->w, "writing", at);
		write_pages(r, from, n);
		return 0;
	case 1: wl_doing(r->w, "dropping contents", at); return drop(r, at, from, n);
	case 2: wl_doing(r->w, "protecting", at); return make_readonly(r, at, from, n);
	case 3: wl_doing(r->w, "pinning", at); return pin_a_while(r, at, n);
	default: wl_doing(r->w, "unmapping a part", at); return unmap_part(r, at, from, n);
	}
}

/* Unmap what is left. A page that straddles the end may be busy for a moment, and host mappings
 * short: both pass. */
static void unmap_rest(struct round *r)
{
	struct wl_run *run = r->w->run;

	for (uint64_t from = 0, n; from < r->pages; from += n + 1) {
		int err = 0;

		n = 0;
		while (from + n < r->pages && r->state[from + n] != UNMAPPED)
			n++;
		if (!n)
			continue;
		for (unsigned try = 0; try < 5000; try++) {
			err = vac_unmap(run->space, r->base + from * PAGE, n * PAGE);
			if (err != -EBUSY && err != -ENOMEM)
				break;
			nanosleep(&(struct timespec){0, 1000000}, NULL);
		}
		if (err)
			wl_fault(run, "map: cannot unmap %" PRIu64 " pages at %p: %s", n,
				 (void *)(r->base + from * PAGE), vac_strerror(err));
	}
}

static uint64_t round_of(struct wl_worker *w, unsigned char *state, uint64_t max_pages)
{
	struct round r = {.w = w, .state = state};
	unsigned flags = wl_below(w, 2) ? 0 : VAC_MAP_NOHUGE;
	uint64_t checked, steps;
	void *base;
	int err;

	/* Small ones are as frequent as large ones: the logarithm is uniform. */
	r.pages = 1 + wl_below(w, (uint64_t)1 << wl_below(w, 11));
	if (r.pages > max_pages)
		r.pages = max_pages;
	r.salt = wl_random(w);
	wl_doing(w, "mapping", NULL);
	err = answer(&r, wl_map_now(w->run, r.pages * PAGE, flags, &base), "map");
	if (err) {
		struct map_group *d = w->group->data;

		atomic_fetch_add_explicit(&d->no_memory, 1, memory_order_relaxed);
		wl_sleep(w, 1000000);
		return 0;
	}
	r.base = base;
	memset(state, ZERO, r.pages);
	verify_pages(&r);
	write_pages(&r, 0, r.pages);
	for (steps = wl_below(w, 8); steps; steps--) {
		if (step(&r))
			break;
	}
	wl_doing(w, "verifying", base);
	checked = verify_pages(&r);
	wl_doing(w, "unmapping", base);
	unmap_rest(&r);
	return checked;
}

static void work(struct wl_worker *w)
{
	uint64_t max_pages = w->run->churn_bytes / PAGE;
	unsigned char *state;
	uint64_t rounds = 0;

	if (!max_pages)
		max_pages = 1;
	state = malloc(max_pages);
	if (!state) {
		wl_fault(w->run, "map: out of memory");
		return;
	}
	while (wl_go(w)) {
		uint64_t t0 = wl_now_ns();

		wl_op_end(w, t0, round_of(w, state, max_pages));
		if (!(rounds++ & 63))
			wl_sample(w->run);
	}
	free(state);
}

static void release(struct wl_group *g)
{
	free(g->data);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct map_group *d = g->data;
	uint64_t n = atomic_load(&d->no_memory);

	if (n)
		snprintf(buf, len, "%" PRIu64 " rounds found no memory", n);
}

const struct wl_class wl_map = {
	.name = "map",
	.what = "map, write, protect, drop, split and unmap at random",
	.latency = WL_NEITHER,
	.prepare = prepare,
	.work = work,
	.release = release,
	.note = note,
};

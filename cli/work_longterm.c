/* SPDX-License-Identifier: MIT */
/*
 * Workload `longterm`: pins that last for as long as the holder's time, one after the other, of each policy that
 * there is:
 *
 *	plain		VAC_PIN_LONGTERM: moves to normal memory, or stays where it is, and that is said
 *	strict		with VAC_PIN_STRICT: moves to normal memory, or is refused
 *	relocatable	a device's registered buffer: its holder follows the frames when an offline asks
 *	revocable	its holder cannot follow, but lets go when asked (VAC_OFFLINE_REVOKE)
 *
 * What must hold: the bytes stay; while a pin is held the frames beneath it stay the same, but for what repoint()
 * has told; a plain pin that says so, and every strict one, lies in normal memory. The holder notes the frames, as
 * a device would, and compares them at every look.
 *
 * A plain pin that had to stay in movable memory is given up at the next look: blocks are to leave.
 *
 * Parks with its pins held. The pages of the last pin of a folio go back to movable memory a moment after it, so
 * the number of frames in use may be off by those for as long.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "workload.h"

#define PAGES 16u /* a pin */
#define PINS 4u   /* of each policy a thread, where memory is plentiful */
#define PLENTY ((uint64_t)64 << 20)
#define WORDS (VAC_PAGE_BYTES / 8)
#define PAUSE_NS 500000
#define POLITE_NS 100000000u /* before a pin is taken again that was not to be */

enum policy { PLAIN, STRICT, RELOCATABLE, REVOCABLE, POLICIES };

static const char *const names[POLICIES] = {"plain", "strict", "relocatable", "revocable"};

struct holding {
	struct wl_group *g;
	enum policy policy;
	unsigned char *mem;
	uint64_t salt;
	uint64_t until_ns; /* it is held, or left alone, as long */
	uint64_t pin;
	bool kept, had; /* in movable memory; the worker has not seen it end */
	/* Whoever takes it away drops the pin: the worker, or the callback that is asked to. */
	atomic_bool held;

	pthread_mutex_t lock;
	/* Under the lock. */
	bool quiet;
	uint64_t pfn[PAGES];
};

struct longterm {
	unsigned char *mem;
	uint64_t mem_bytes;
	struct holding *h; /* [threads * each] */
	unsigned each, all;
	_Atomic uint64_t taken[POLICIES];
	_Atomic uint64_t moved, kept, refused, asked, followed, revoked;
};

/* ---- What the engine calls -------------------------------------------------------------------- */

static void note_frames(struct holding *h, unsigned first, unsigned n)
{
	for (unsigned k = first; k < first + n; k++) {
		struct vac_page_info pi = VAC_INIT(struct vac_page_info);
		int err = vac_page_info(h->g->run->space, h->mem + k * VAC_PAGE_BYTES, &pi);

		if (err || !pi.pins)
			wl_fault(h->g->run, "longterm: no pinned page at %p: %s",
				 (void *)(h->mem + k * VAC_PAGE_BYTES), vac_strerror(err));
		h->pfn[k] = pi.pfn;
	}
}

static int quiesce(void *ctx, uint64_t pin)
{
	struct holding *h = ctx;
	struct longterm *d = h->g->data;

	(void)pin;
	pthread_mutex_lock(&h->lock);
	h->quiet = true;
	pthread_mutex_unlock(&h->lock);
	atomic_fetch_add(&d->asked, 1);
	return 0;
}

static int repoint(void *ctx, uint64_t pin, void *addr, size_t len)
{
	struct holding *h = ctx;
	struct longterm *d = h->g->data;
	size_t at = (size_t)((unsigned char *)addr - h->mem);

	(void)pin;
	if ((unsigned char *)addr < h->mem || at + len > PAGES * VAC_PAGE_BYTES ||
	    at % VAC_PAGE_BYTES || len % VAC_PAGE_BYTES) {
		wl_fault(h->g->run, "longterm: told of %zu bytes at %p, it has %p", len, addr,
			 (void *)h->mem);
		return -EINVAL;
	}
	pthread_mutex_lock(&h->lock);
	note_frames(h, (unsigned)(at / VAC_PAGE_BYTES), (unsigned)(len / VAC_PAGE_BYTES));
	pthread_mutex_unlock(&h->lock);
	atomic_fetch_add(&d->followed, len / VAC_PAGE_BYTES);
	return 0;
}

static void resume(void *ctx, uint64_t pin)
{
	struct holding *h = ctx;

	(void)pin;
	pthread_mutex_lock(&h->lock);
	h->quiet = false;
	pthread_mutex_unlock(&h->lock);
}

/* Of a holder whose device knows no new frames. */
static int cannot(void *ctx, uint64_t pin)
{
	(void)ctx;
	(void)pin;
	return -EOPNOTSUPP;
}

static int let_go(void *ctx, uint64_t pin)
{
	struct holding *h = ctx;
	struct longterm *d = h->g->data;
	int err;

	if (!atomic_exchange(&h->held, false))
		return 0; /* the worker is dropping it */
	err = vac_unpin(h->g->run->pool, pin);
	if (err)
		wl_fault(h->g->run, "longterm: cannot let go: %s", vac_strerror(err));
	atomic_fetch_add(&d->revoked, 1);
	return err;
}

/* ---- The worker ------------------------------------------------------------------------------- */

static uint64_t word_of(const struct holding *h, unsigned page, unsigned k)
{
	return wl_mix(h->salt ^ (uint64_t)page << 16 ^ k);
}

static void check_bytes(struct holding *h)
{
	for (unsigned page = 0; page < PAGES; page++) {
		const uint64_t *word =
			(const uint64_t *)(const void *)(h->mem + page * VAC_PAGE_BYTES);

		for (unsigned k = 0; k < WORDS; k++) {
			char text[160];

			if (word[k] == word_of(h, page, k))
				continue;
			wl_fault(h->g->run,
				 "longterm: %s: %016" PRIx64 " at %p, not %016" PRIx64 " (%s)",
				 names[h->policy], word[k], (const void *)&word[k],
				 word_of(h, page, k),
				 wl_page_text(h->g->run, &word[k], text, sizeof(text)));
			return;
		}
	}
}

/* Held, and its frames are those that it knows? Call with the lock held: a pin that may move then cannot. */
static void check_frames(struct holding *h)
{
	for (unsigned k = 0; k < PAGES && !h->quiet; k++) {
		struct vac_page_info pi = VAC_INIT(struct vac_page_info);
		int err = vac_page_info(h->g->run->space, h->mem + k * VAC_PAGE_BYTES, &pi);

		/* One that is asked to let go may have done so while we looked. */
		if (!atomic_load(&h->held))
			return;
		if (!err && pi.pins && pi.pfn == h->pfn[k])
			continue;
		wl_fault(h->g->run,
			 "longterm: %s: frame %" PRIu64 " beneath a pin at %p is %" PRIu64 " now",
			 names[h->policy], h->pfn[k], (void *)(h->mem + k * VAC_PAGE_BYTES),
			 pi.pfn);
		return;
	}
}

/* Of a pin that says it has moved there. */
static void check_zone(struct holding *h)
{
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);
	struct vac_block_info bi = VAC_INIT(struct vac_block_info);

	if (vac_page_info(h->g->run->space, h->mem, &pi) ||
	    vac_block_info(h->g->run->pool, pi.block, &bi))
		wl_fault(h->g->run, "longterm: %s: nothing at %p", names[h->policy],
			 (void *)h->mem);
	else if (bi.zone != VAC_ZONE_NORMAL)
		wl_fault(h->g->run, "longterm: %s: pinned in block %d, which is movable",
			 names[h->policy], pi.block);
}

static int ask(struct holding *h, struct vac_pin_result *res)
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_relocate_ops ops = VAC_INIT(struct vac_relocate_ops);
	char owner[VAC_OWNER_MAX];

	snprintf(owner, sizeof(owner), "longterm %s", names[h->policy]);
	o.owner = owner;
	o.flags = VAC_PIN_WRITE | VAC_PIN_LONGTERM | (h->policy == STRICT ? VAC_PIN_STRICT : 0);
	o.ctx = h;
	ops.quiesce = h->policy == RELOCATABLE ? quiesce : cannot;
	ops.repoint = repoint;
	ops.resume = resume;
	if (h->policy == RELOCATABLE || h->policy == REVOCABLE)
		o.relocate = &ops;
	if (h->policy == REVOCABLE)
		o.revoke = let_go;
	return vac_pin_with(h->g->run->space, h->mem, PAGES * VAC_PAGE_BYTES, &o, res, &h->pin);
}

static void take(struct wl_worker *w, struct holding *h)
{
	struct vac_pin_result res = VAC_INIT(struct vac_pin_result);
	struct longterm *d = h->g->data;
	int err;

	wl_doing(w, "pinning for long", h->mem);
	/* It may be asked before the call has returned: to let go, or to follow, for which it has no frames
	 * yet that it could compare. */
	atomic_store(&h->held, true);
	pthread_mutex_lock(&h->lock);
	h->quiet = false;
	pthread_mutex_unlock(&h->lock);
	err = ask(h, &res);
	if (err) {
		atomic_store(&h->held, false);
		h->until_ns = wl_now_ns() + POLITE_NS;
		if (h->policy == STRICT && (err == -ENOMEM || err == -EBUSY || err == -EOPNOTSUPP))
			atomic_fetch_add(&d->refused, 1);
		else
			wl_fault(w->run, "longterm: %s: cannot pin: %s", names[h->policy],
				 vac_strerror(err));
		return;
	}
	pthread_mutex_lock(&h->lock);
	/* While quiet it is being told: then the rest has not moved and is read here, under the lock. */
	if (atomic_load(&h->held) || h->policy != REVOCABLE)
		for (unsigned k = 0; k < PAGES; k++) {
			struct vac_page_info pi = VAC_INIT(struct vac_page_info);

			vac_page_info(w->run->space, h->mem + k * VAC_PAGE_BYTES, &pi);
			h->pfn[k] = pi.pfn;
		}
	pthread_mutex_unlock(&h->lock);
	h->had = true;
	h->kept = res.unmovable_kept > 0;
	if ((h->policy == PLAIN && !h->kept) || h->policy == STRICT)
		check_zone(h);
	if (h->policy == STRICT && h->kept)
		wl_fault(w->run, "longterm: strict: %u folios were kept", res.unmovable_kept);
	atomic_fetch_add(&d->taken[h->policy], 1);
	atomic_fetch_add(&d->moved, res.migrated);
	atomic_fetch_add(&d->kept, res.unmovable_kept);
	h->until_ns = wl_now_ns() + w->run->hold_ns / 2 + wl_below(w, w->run->hold_ns);
}

static void drop(struct wl_worker *w, struct holding *h)
{
	int err;

	h->had = false;
	h->until_ns = 0;
	if (h->kept || !atomic_load(&h->held)) /* it was in the way, or was asked to go */
		h->until_ns = wl_now_ns() + POLITE_NS;
	if (!atomic_exchange(&h->held, false))
		return;
	wl_doing(w, "dropping a long pin", h->mem);
	err = vac_unpin(w->run->pool, h->pin);
	if (err)
		wl_fault(w->run, "longterm: %s: cannot unpin: %s", names[h->policy],
			 vac_strerror(err));
}

static void work(struct wl_worker *w)
{
	struct longterm *d = w->group->data;

	while (wl_go(w)) {
		struct holding *h = &d->h[w->index * d->each + wl_below(w, d->each)];
		uint64_t t0 = wl_now_ns();

		if (!h->had) {
			if (t0 > h->until_ns)
				take(w, h);
		} else if (!atomic_load(&h->held) || h->kept || wl_now_ns() > h->until_ns) {
			drop(w, h);
		} else {
			wl_doing(w, "looking at a long pin", h->mem);
			pthread_mutex_lock(&h->lock);
			check_frames(h);
			pthread_mutex_unlock(&h->lock);
		}
		check_bytes(h);
		wl_op_end(w, t0, PAGES);
		wl_sleep(w, PAUSE_NS);
	}
}

/* ---- The group -------------------------------------------------------------------------------- */

static int prepare(struct wl_group *g)
{
	struct longterm *d = calloc(1, sizeof(*d));
	unsigned pins = g->bytes >= PLENTY ? PINS : 1;
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	g->bytes = 0;
	d->each = pins * POLICIES;
	d->h = calloc((size_t)d->each * g->threads + 1, sizeof(*d->h));
	if (!d->h)
		return -ENOMEM;
	if (!g->threads)
		return 0;
	d->mem_bytes = (uint64_t)d->each * g->threads * PAGES * VAC_PAGE_BYTES;
	d->mem = wl_map_filled(g->run, &d->mem_bytes, VAC_MAP_NOHUGE, "'longterm'", &err);
	if (!d->mem)
		return err;
	for (; d->all < d->each * g->threads; d->all++) {
		struct holding *h = &d->h[d->all];

		h->g = g;
		h->policy = (enum policy)(d->all % POLICIES);
		h->salt = wl_mix(g->run->seed ^ d->all);
		h->mem = d->mem + (uint64_t)d->all * PAGES * VAC_PAGE_BYTES;
		pthread_mutex_init(&h->lock, NULL);
		for (unsigned k = 0; k < PAGES * WORDS; k++)
			((uint64_t *)(void *)h->mem)[k] = word_of(h, k / WORDS, k % WORDS);
	}
	g->bytes = d->mem_bytes;
	return 0;
}

static void sweep(struct wl_group *g)
{
	struct longterm *d = g->data;

	for (unsigned k = 0; k < d->all; k++)
		check_bytes(&d->h[k]);
	atomic_fetch_add(&g->swept, (uint64_t)d->all * PAGES);
}

static unsigned in_block(struct wl_group *g, int block)
{
	struct longterm *d = g->data;
	unsigned n = 0;

	for (unsigned k = 0; k < d->all; k++)
		n += atomic_load(&d->h[k].held) && wl_lies_in(g->run->space, d->h[k].mem, block);
	return n;
}

static void release(struct wl_group *g)
{
	struct longterm *d = g->data;

	for (unsigned k = 0; k < d->all; k++) {
		if (atomic_exchange(&d->h[k].held, false))
			vac_unpin(g->run->pool, d->h[k].pin);
		pthread_mutex_destroy(&d->h[k].lock);
	}
	if (d->mem)
		vac_unmap(g->run->space, d->mem, d->mem_bytes);
	free(d->h);
	free(d);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct longterm *d = g->data;

	snprintf(buf, len,
		 "%u pins; %" PRIu64 " pages moved out, %" PRIu64 " kept, %" PRIu64
		 " refused; %" PRIu64 " followed, %" PRIu64 " revoked",
		 d->all, atomic_load(&d->moved), atomic_load(&d->kept), atomic_load(&d->refused),
		 atomic_load(&d->followed), atomic_load(&d->revoked));
}

static void tell(struct wl_group *g, char *buf, size_t len)
{
	struct longterm *d = g->data;

	snprintf(buf, len,
		 "long-term pins: %" PRIu64 " plain and %" PRIu64 " strict, for which %" PRIu64
		 " pages moved to normal memory (%" PRIu64 " had to stay,\n%" PRIu64
		 " pins were refused); %" PRIu64 " relocatable, which followed %" PRIu64
		 " pages in %" PRIu64 " moves; %" PRIu64 " revocable,\nof which %" PRIu64
		 " let go when asked; %" PRIu64 " block%s left with %" PRIu64 " of them",
		 atomic_load(&d->taken[PLAIN]), atomic_load(&d->taken[STRICT]),
		 atomic_load(&d->moved), atomic_load(&d->kept), atomic_load(&d->refused),
		 atomic_load(&d->taken[RELOCATABLE]), atomic_load(&d->followed),
		 atomic_load(&d->asked), atomic_load(&d->taken[REVOCABLE]),
		 atomic_load(&d->revoked), g->stat.blocks, wl_s(g->stat.blocks), g->stat.pieces);
}

const struct wl_class wl_longterm = {
	.name = "longterm",
	.what = "pins that last, of each policy: plain, strict, relocatable, revocable",
	.normal = true,
	.owner = "longterm ",
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
	.note = note,
	.in_block = in_block,
	.tell = tell,
};

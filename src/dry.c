/* SPDX-License-Identifier: MIT */
/*
 * What would keep a block from leaving, asked and not tried: vac_block_offline() with
 * VAC_OFFLINE_DRY_RUN.
 *
 * Invariant: nothing that anybody could notice is changed. No folio is picked, gated, locked or
 * referenced, so all that is found may have changed as it is found, and the answer is of this moment:
 * a short pin counts as long as it is there, and what an unpinned transfer holds until it is done.
 * Frames are looked at without a reference; one that is freed meanwhile is a free frame of the same
 * block, whose memory stays while the hotplug lock is held.
 */
#include "internal.h"

/* Somebody must hold a page each time: faults, and whoever maps and unmaps beside it, make it look held
 * for a moment. */
#define LOOKS 10
#define LOOK_PAUSE_NS 1000000

/* The folios of a pageblock that no pin holds, as items for vac__look_before(). */
static unsigned collect(struct vac_pool *pool, uint32_t pfn, struct vac__mig_item *items)
{
	unsigned n = 0;

	for (uint32_t end = pfn + VAC__PB_PAGES; pfn < end; pfn++) {
		struct vac__frame *f = vac__frame(pool, pfn);
		uint32_t flags = vac__ld(&f->flags);
		uint64_t w = vac__ld(&f->word);

		if (!(flags & (VAC__F_BASE | VAC__F_HEAD)) || vac__w_free(w) || vac__w_pins(w))
			continue;
		items[n++] = (struct vac__mig_item){
			.src = pfn,
			.dst = pfn, /* none; but it is to be looked at */
			.family = vac__ld_rlx(&f->family) % VAC__MAX_SPACES,
			.index = vac__ld_rlx(&f->index),
			.huge = (flags & VAC__F_HEAD) != 0,
		};
		if (flags & VAC__F_HEAD)
			break;
	}
	return n;
}

/* Note which folios of a pageblock somebody outside the engine holds. */
static void ask(struct vac_pool *pool, uint32_t pfn, struct vac__trace *t)
{
	struct vac__mig_item *items = pool->batch;
	unsigned n = collect(pool, pfn, items);
	_Atomic uint32_t nobody = 0;

	for (int look = 0; look < LOOKS && n; look++) {
		unsigned held = 0;

		if (look)
			vac__port_wait(&nobody, 0, vac__port_now() + LOOK_PAUSE_NS);
		vac__look_before(pool, items, n);
		for (unsigned i = 0; i < n; i++) {
			if (items[i].err != -VAC__EHELD)
				continue;
			items[held] = items[i];
			items[held++].err = 0;
		}
		n = held;
	}
	for (unsigned i = 0; i < n; i++) {
		uint32_t src = items[i].src;

		t->e[src % VAC__TRACE].pfn = src;
		t->e[src % VAC__TRACE].err = -VAC__EHELD;
	}
}

/*
 * -EBUSY: *report names who holds the block now. 0: nobody does, *report is NULL. The hotplug lock is
 * held, and the block is online or in quarantine. -ENOMEM, -ECANCELED, -ETIMEDOUT (not all was looked
 * at, and nobody found).
 */
int vac__dry_run(struct vac_pool *pool, int id, struct vac__trace *t,
		 const _Atomic uint32_t *cancel, uint64_t deadline_ns, struct vac_report **report)
{
	bool quarantine = vac__ld(&pool->blocks[id].state) == VAC_BLOCK_QUARANTINE + 1;
	uint32_t first = vac__block_pfn(pool, id);
	int r, why = 0;

	*report = NULL;
	t->asks = true;
	t->foreign = t->certified = quarantine;
	for (uint32_t i = 0; i < pool->pb_per_block && !quarantine; i++) {
		if (vac__frames_used(pool, first + i * VAC__PB_PAGES, NULL, NULL) == 0)
			continue;
		if (cancel && vac__ld(cancel))
			return -ECANCELED;
		if (deadline_ns && vac__port_now() >= deadline_ns) {
			why = -ETIMEDOUT;
			break;
		}
		ask(pool, first + i * VAC__PB_PAGES, t);
	}
	r = vac__report_make(pool, id, t, report);
	if (r < 0)
		return r;
	if (vac__report_holds(*report))
		return -EBUSY;
	vac_report_free(*report);
	*report = NULL;
	return why;
}

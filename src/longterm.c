/* SPDX-License-Identifier: MIT */
/*
 * Long-term pins: their pages do not stay in memory that may be asked to leave.
 *
 * A pin with VAC_PIN_LONGTERM is taken as any other is. Then, if a folio of it lies in movable memory, or in
 * a block that is leaving: all of its pins are dropped, those folios are moved to normal memory, whole
 * range by whole batches, huge folios by their heads, and it is taken again (get_user_pages_non_movable()
 * of 2013, as reviewed on linux-mm). At most TURNS times: then, and where the move fails, it stays where
 * it is, which is told once a call site and remembered for the report; or the call fails, if it was
 * VAC_PIN_STRICT. It never answers success for less than was asked for, and -EAGAIN never for this.
 *
 * Invariants: nothing is moved while this call holds a pin of it. Who waits here for pins, or for the hotplug
 * lock, holds none. A pool without movable memory looks at the zones of the pin's runs, and that is all.
 *
 * Pages that came this way lie together (vac__long_alloc), in at most longterm_pct of normal memory. When
 * their last long-term pin has gone, they go back as soon as a thread of the pool comes to it.
 */
#include "internal.h"

#define TURNS 3u

/* ---- What is where ---------------------------------------------------------------------------- */

struct sum {
	struct vac_pool *pool;
	uint64_t normal, movable; /* frames */
	uint64_t folios;          /* that should not stay where they are */
};

/* Zones and isolation are looked at without their lock: who isolates looks for pins afterwards. */
static bool pinnable(struct vac_pool *pool, uint32_t pfn)
{
	const struct vac__pb *pb = &pool->pbs[pfn >> VAC__PB_ORDER];

	return pb->zone == VAC_ZONE_NORMAL && !pb->isolated;
}

static bool add(void *ctx, uint32_t first, uint32_t step, uint32_t n)
{
	struct sum *sum = ctx;

	for (uint32_t k = 0, more; k < n; k += more) {
		uint32_t pfn = first + k * step, left = VAC__PB_PAGES - pfn % VAC__PB_PAGES;

		more = step == 1 && left < n - k ? left : step == 1 ? n - k : 1;
		if (sum->pool->pbs[pfn >> VAC__PB_ORDER].zone == VAC_ZONE_NORMAL)
			sum->normal += more * step;
		else
			sum->movable += more * step;
		if (!pinnable(sum->pool, pfn))
			sum->folios += more;
	}
	return false;
}

static struct sum sum_of(struct vac_pool *pool, uint32_t index)
{
	struct sum sum = {.pool = pool};

	vac__pin_runs(pool, index, add, &sum);
	return sum;
}

/* ---- Moving out ------------------------------------------------------------------------------- */

/* Pick folios of [*page, end) that should not stay, and close their gates; *page is where to go on. */
static unsigned pick(struct vac_space *s, uint32_t *page, uint32_t end, int *why)
{
	struct vac_pool *pool = s->pool;
	struct vac__mig_item *items = pool->longterm.batch;
	unsigned n = 0;

	while (*page < end && n < VAC__BATCH) {
		uint64_t e = vac__ld_acq(vac__pmd(s, *page >> VAC__PB_ORDER));
		bool huge = (e & VAC__E_TYPE) != VAC__E_TABLE;
		uint32_t pfn;

		if (!huge)
			e = vac__ld_acq(vac__pte(s, *page));
		*page = huge ? (*page / VAC__PB_PAGES + 1) * VAC__PB_PAGES : *page + 1;
		pfn = vac__e_pfn(e);
		if (!vac__e_present(e) || pinnable(pool, pfn))
			continue;
		if (vac__folio_isolate(pool, pfn) < 0) {
			*why = -EBUSY; /* freed, or in other hands: looked at again when it is pinned */
			continue;
		}
		vac__w_gate(&vac__frame(pool, pfn)->word);
		items[n] = (struct vac__mig_item){.src = pfn};
		items[n++].huge = vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_HEAD;
	}
	return n;
}

static bool held_for_long(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__pin_view v;
	uint32_t cursor = 0;

	while (vac__pin_find(pool, pfn, &cursor, &v))
		if (v.flags & VAC_PIN_LONGTERM)
			return true;
	return false;
}

/* Wait until those are left that have no pins, and put the others back: for long-term pins nobody waits. */
static unsigned drain(struct vac_pool *pool, unsigned n, uint64_t deadline_ns, int *why)
{
	struct vac__mig_item *items = pool->longterm.batch;
	unsigned ready = 0, at = 0;

	vac__add(&pool->offliners, 1); /* so that we are told of pins that go */
	while (at < n) {
		uint32_t seen = vac__event_read(&pool->progress), src = items[at].src;

		if (vac__w_pins(vac__ld(&vac__frame(pool, src)->word)) == 0) {
			items[ready++] = items[at++];
		} else if (vac__port_now() >= deadline_ns || held_for_long(pool, src)) {
			*why = -EBUSY;
			vac__folio_putback(pool, src);
			at++;
		} else {
			vac__event_wait(&pool->progress, seen, deadline_ns);
		}
	}
	vac__sub(&pool->offliners, 1);
	return ready;
}

/* Divide a huge folio that finds no whole pageblock: the next turn moves its parts, if they fit. */
static bool split(struct vac_pool *pool, uint32_t pfn)
{
	bool yes = false;

	if (vac__ld_rlx(&pool->longterm.pages) + VAC__PB_PAGES > vac__long_limit(pool))
		return false;
	vac__folio_lock(pool, pfn);
	yes = vac__split(pool, pfn) == 0;
	vac__folio_unlock(pool, pfn);
	return yes;
}

/* What a failed migration means to whoever pins. */
static int meaning(int err)
{
	return err == -ENOMEM || err == -ENOBUFS ? -ENOMEM : -EBUSY;
}

/* Move the batch; answers whether another turn may do more. */
static bool move(struct vac_pool *pool, unsigned n, struct vac_pin_result *res, int *why)
{
	const struct vac__mig_aim aim = {.huge = VAC__NO_PFN,
					 .zones = VAC__ZONE_BIT(VAC_ZONE_NORMAL)};
	struct vac__mig_item *items = pool->longterm.batch;
	struct vac__mig_stats st = {0};
	bool again = false;

	vac__migrate_to(pool, items, n, VAC__MIG_ASYNC, &st, &aim);
	for (unsigned i = 0; i < n; i++) {
		if (items[i].err == -EAGAIN || items[i].err == -VAC__EHELD)
			vac__migrate_to(pool, &items[i], 1, VAC__MIG_SYNC, &st, &aim);
		if (items[i].err == 0)
			continue;
		*why = meaning(items[i].err);
		if (items[i].err == -ENOMEM && items[i].huge)
			again |= split(pool, items[i].src);
		vac__folio_putback(pool, items[i].src);
	}
	res->migrated += (uint32_t)(st.huge + st.base);
	vac__stat_add(&pool->longterm.moved, st.bytes >> VAC__PAGE_SHIFT);
	return again;
}

/*
 * Move what lies in [page, end) to normal memory. 0: all that was found; -EAGAIN: once more; -ENOMEM: there
 * is none, or its share is used up; -EBUSY: held by others; -EOPNOTSUPP: the host does not show who holds
 * a page, so frames could not be used again.
 */
static int move_out(struct vac_space *s, uint32_t page, uint32_t end, unsigned flags,
		    struct vac_pin_result *res)
{
	struct vac_pool *pool = s->pool;
	uint64_t deadline_ns = vac__gate_deadline(pool), wanted;
	bool again = false;
	int why = 0;

	if (!(pool->opts.flags & VAC_POOL_PINS_ONLY) && !pool->mem->sees(pool->mem_ctx))
		return -EOPNOTSUPP;
	if (!vac__lock_until(&pool->hotplug, VAC__RANK_HOTPLUG,
			     flags & VAC_PIN_NOWAIT ? 1 : deadline_ns))
		return -EBUSY;
	if (vac__ld(&pool->nr_quar))
		vac__quarantine_release(pool);
	while (page < end && why != -ENOMEM) {
		unsigned n = pick(s, &page, end, &why);

		wanted = 0;
		for (unsigned i = 0; i < n; i++)
			wanted += pool->longterm.batch[i].huge ? VAC__PB_PAGES : 1;
		if (vac__ld_rlx(&pool->longterm.pages) + wanted > vac__long_limit(pool)) {
			for (unsigned i = 0; i < n; i++)
				vac__folio_putback(pool, pool->longterm.batch[i].src);
			why = -ENOMEM;
			break;
		}
		n = drain(pool, n, flags & VAC_PIN_NOWAIT ? 0 : deadline_ns, &why);
		again |= move(pool, n, res, &why);
	}
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	return again ? -EAGAIN : why;
}

/*
 * A long-term pin has been taken, in so many turns so far. 0: it may stay, where it is or as it could not
 * be moved, which res says. -EAGAIN: it has been dropped, and is to be taken again. Else it has been
 * dropped for good: -ENOMEM, -EBUSY, with VAC_PIN_STRICT only.
 */
int vac__long_settle(struct vac_space *s, uint64_t pin, uint32_t first, uint32_t end,
		     unsigned flags, unsigned turn, struct vac_pin_result *res)
{
	struct vac_pool *pool = s->pool;
	struct vac__pin_rec *r = &pool->ledger.rec[(uint32_t)pin];
	struct sum sum = sum_of(pool, (uint32_t)pin);
	uint32_t mark = VAC__PIN_COUNTED;
	int why = res->kept_error;

	if (sum.folios && turn < TURNS && (why == 0 || why == -EAGAIN)) {
		vac_unpin(pool, pin);
		VAC__ENTER();
		res->kept_error = move_out(s, first, end, flags, res);
		VAC__LEAVE();
		VAC__SYNC("long_moved", first);
		return -EAGAIN;
	}
	if (sum.folios && (why == 0 || why == -EAGAIN))
		why = -EBUSY; /* others bring them back as fast as they leave */
	if (sum.folios && (flags & VAC_PIN_STRICT)) {
		vac_unpin(pool, pin);
		return why == -EOPNOTSUPP ? -EBUSY : why;
	}
	res->kept_error = sum.folios ? why : 0;
	res->unmovable_kept = (uint32_t)sum.folios;
	if (sum.folios) {
		mark |= VAC_OWNER_KEPT | (uint32_t)-why << VAC__PIN_WHY_SHIFT;
		vac__stat_add(&pool->longterm.failed, 1);
	}
	vac__add(&pool->longterm.pages, sum.normal);
	vac__add(&pool->longterm.kept, sum.movable);
	vac__or(&r->flags, mark);
	if (res->migrated)
		vac__reloc_hire(pool);
	return 0;
}

/* Such a pin is about to be dropped. */
void vac__long_end(struct vac_pool *pool, uint32_t index)
{
	struct sum sum = sum_of(pool, index);

	vac__sub(&pool->longterm.pages, sum.normal);
	vac__sub(&pool->longterm.kept, sum.movable);
	if (sum.normal && vac__ld_rlx(&pool->longterm.moved) && vac__ld_rlx(&pool->nr_movable) &&
	    vac__xchg(&pool->longterm.stale, 1) == 0)
		vac__event_signal(&pool->reloc.kick);
}

/* ---- Telling ---------------------------------------------------------------------------------- */

static bool new_site(struct vac__longterm *l, uintptr_t site)
{
	for (unsigned k = 0; k < VAC__SITES; k++) {
		_Atomic uintptr_t *slot = &l->site[(site / 16 + k) % VAC__SITES];
		uintptr_t was = vac__ld(slot);

		if (was == 0 && vac__cas(slot, &was, site))
			return true;
		if (was == site)
			return false;
	}
	return false; /* so many have been told of that one more says nothing new */
}

static size_t put(char *msg, size_t max, size_t at, const char *text)
{
	while (*text && at < max - 1)
		msg[at++] = *text++;
	msg[at] = '\0';
	return at;
}

/* A pin is kept in movable memory, by a caller at this address: told once for each. */
void vac__long_warn(struct vac_pool *pool, const char *owner, uintptr_t site, int why)
{
	char msg[256], digit[2] = "";
	size_t at;

	if (!new_site(&pool->longterm, site))
		return;
	at = put(msg, sizeof(msg), 0, owner ? owner : "?");
	at = put(msg, sizeof(msg), at, ": a long-term pin stays in movable memory (");
	at = put(msg, sizeof(msg), at, vac_strerror(why));
	at = put(msg, sizeof(msg), at, "), and keeps its block; called from 0x");
	for (int shift = (int)sizeof(site) * 8 - 4; shift >= 0; shift -= 4) {
		digit[0] = "0123456789abcdef"[site >> shift & 15];
		if (site >> shift)
			at = put(msg, sizeof(msg), at, digit);
	}
	VAC__ENTER();
	vac__log(pool, VAC_LOG_WARN, msg);
	VAC__LEAVE();
}

/* ---- Moving back ------------------------------------------------------------------------------ */

/* Folios of a pageblock that no pin holds. */
static unsigned pick_back(struct vac_pool *pool, uint32_t pfn)
{
	struct vac__mig_item *items = pool->longterm.batch;
	unsigned n = 0;

	for (uint32_t end = pfn + VAC__PB_PAGES; pfn < end; pfn++) {
		if (vac__w_pins(vac__ld(&vac__frame(pool, pfn)->word)) ||
		    vac__folio_isolate(pool, pfn) < 0)
			continue;
		items[n++] = (struct vac__mig_item){.src = pfn};
	}
	return n;
}

/* Answers whether there was room for all of them. */
static bool move_back(struct vac_pool *pool, uint32_t pfn)
{
	const struct vac__mig_aim aim = {.huge = VAC__NO_PFN,
					 .zones = VAC__ZONE_BIT(VAC_ZONE_MOVABLE)};
	struct vac__mig_item *items = pool->longterm.batch;
	struct vac__mig_stats st = {0};
	unsigned n = pick_back(pool, pfn);
	bool room = true;

	vac__migrate_to(pool, items, n, VAC__MIG_ASYNC, &st, &aim);
	for (unsigned i = 0; i < n; i++) {
		if (items[i].err == 0)
			continue;
		room &= items[i].err != -ENOMEM;
		vac__folio_putback(pool, items[i].src);
	}
	vac__stat_add(&pool->longterm.back, st.bytes >> VAC__PAGE_SHIFT);
	return room;
}

/* What was moved for long-term pins and has none any more goes back, as far as there is room. By a thread of
 * the pool, which holds nothing; false: not now, as somebody else is at the blocks. */
bool vac__long_back(struct vac_pool *pool)
{
	bool room = true;

	if (!(pool->opts.flags & VAC_POOL_PINS_ONLY) && !pool->mem->sees(pool->mem_ctx))
		return true;
	if (!vac__trylock(&pool->hotplug, VAC__RANK_HOTPLUG))
		return false;
	for (uint32_t id = 0; id < pool->max_blocks && room; id++) {
		if (vac__ld(&pool->blocks[id].state) != VAC_BLOCK_ONLINE + 1)
			continue;
		for (uint32_t k = 0; k < pool->pb_per_block && room; k++) {
			uint32_t n = id * pool->pb_per_block + k;

			if (vac__ld(&pool->pbs[n].grouped))
				room = move_back(pool, n << VAC__PB_ORDER);
		}
	}
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	return true;
}

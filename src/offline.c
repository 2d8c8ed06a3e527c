/* SPDX-License-Identifier: MIT */
/*
 * Taking a block away.
 *
 *	ISOLATING    nothing new is placed in the block (vac__frames_isolate)
 *	             enough memory elsewhere? else stop before a byte moves
 *	EVACUATING   passes over the block: pick folios, gate them, move those without pins, let the
 *	             pins of the others drain, move those; between passes sleep until somebody
 *	             frees, unpins or maps something
 *	commit       every frame is free; the platform certifies that nobody holds the memory
 *	             (vac__block_give_back); the memory goes back to the system
 *	QUARANTINE   it does not: the block stays empty and is used for nothing; asking again goes on
 *	             from here
 *
 * Every way out before the commit is one: un-isolate, ONLINE, report. Invariants: I6 from the first
 * state on; I7, the block ends OFFLINE, or ONLINE with every frame that has not moved as it was, or
 * empty in QUARANTINE.
 *
 * The gate: a folio about to leave takes no new pins; the ones in hand drain at the pace of their
 * own I/O, the CPU goes on. It covers one batch only and at most gate_timeout: a holder may be
 * waiting for a pin that we keep out, so we let go, wait for an event, and come back. Long-term pins
 * are not drained: those that can move are asked to (relocate.c), others are reported. One deadline governs everything here, waiting for the
 * hotplug lock included.
 */
#include "internal.h"

#define CANCEL_LOOK_NS 20000000

struct offline {
	struct vac_pool *pool;
	struct vac__block *block;
	int id;
	uint32_t first; /* pfn */
	struct vac_offline_opts opts;
	struct vac_offline_result res;
	struct vac__mig_stats st;
	struct vac__trace trace;
	uint64_t start_ns, deadline_ns, told_ns;
	uint32_t used_at_start;
	/* Of the pass in hand, and of the one before, which a pass cut short falls back on. */
	unsigned moved, pinned, no_memory, foreign, other, again;
	unsigned last_pinned, last_no_memory, last_foreign;
	const _Atomic uint32_t *cancel; /* of this call; may be NULL */
	uint32_t long_frames;           /* of folios under long-term pins, which nobody waits for */
};

/* ---- Small things --------------------------------------------------------------------------- */

static uint32_t pb_pfn(const struct offline *o, uint32_t i)
{
	return o->first + i * VAC__PB_PAGES;
}

static uint32_t used(struct offline *o)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < o->pool->pb_per_block; i++)
		n += vac__frames_used(o->pool, pb_pfn(o, i), NULL, NULL);
	return n;
}

static bool cancelled(const struct offline *o)
{
	return vac__ld(&o->block->cancel) || (o->cancel && vac__ld(o->cancel));
}

/* Why to stop now, or 0. */
static int stop(const struct offline *o)
{
	if (cancelled(o))
		return -ECANCELED;
	if (o->deadline_ns && vac__port_now() >= o->deadline_ns)
		return -ETIMEDOUT;
	return 0;
}

static uint64_t sooner(const struct offline *o, uint64_t t)
{
	return o->deadline_ns && o->deadline_ns < t ? o->deadline_ns : t;
}

static void tell(struct offline *o, bool at_end)
{
	uint64_t now = vac__port_now();
	struct vac_offline_progress p = {.size = sizeof(p),
					 .id = o->id,
					 .frames_used = o->used_at_start,
					 .bytes_moved = o->st.bytes,
					 .elapsed_ns = now - o->start_ns};

	if (!o->opts.progress || (!at_end && now - o->told_ns < 100000000))
		return;
	o->told_ns = now;
	p.frames_left = vac__ld(&o->block->state) == VAC_BLOCK_OFFLINE + 1 ? 0 : used(o);
	o->opts.progress(o->opts.progress_ctx, &p);
}

static void note_failure(struct offline *o, uint32_t pfn, int err)
{
	uint32_t i = pfn % VAC__TRACE;

	if (o->trace.e[i].pfn != pfn)
		o->trace.e[i].attempts = 0;
	o->trace.e[i].pfn = pfn;
	o->trace.e[i].attempts++;
	o->trace.e[i].err = err;
	if (err == -EBUSY)
		o->pinned++;
	else if (err == -ENOMEM)
		o->no_memory++;
	else if (err == -VAC__EHELD)
		o->foreign++;
	else
		o->other++;
}

/* ---- Waiting for pins ----------------------------------------------------------------------- */

static uint32_t pins_of(struct offline *o, uint32_t pfn)
{
	return vac__w_pins(vac__ld(&vac__frame(o->pool, pfn)->word));
}

static uint32_t folio_frames(struct offline *o, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(o->pool, pfn)->flags) & VAC__F_HEAD ? VAC__PB_PAGES : 1;
}

/* Somebody was waited for, for this long: remember the longest. */
static void note_wait(struct offline *o, const struct vac__pin_view *v, uint64_t ns)
{
	o->res.waited_ns += ns;
	if (ns <= o->res.waited_longest_ns || !v->owner[0])
		return;
	o->res.waited_longest_ns = ns;
	o->res.waited_tid = v->tid;
	memcpy(o->res.waited_for, v->owner, sizeof(o->res.waited_for));
}

/* No pageblock is free for a huge folio, but frames are: divide it, the next pass moves the parts. */
static void split_instead(struct offline *o, uint32_t pfn)
{
	struct vac_pool *pool = o->pool;

	if (vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) == 0)
		return; /* the parts would not fit either */
	vac__folio_lock(o->pool, pfn);
	if (vac__split(o->pool, pfn) == 0)
		o->moved++; /* progress: the next pass finds something else */
	vac__folio_unlock(o->pool, pfn);
}

/* Move items[0..n), which have no pins; what does not move is divided or put back, and noted. */
static void move(struct offline *o, struct vac__mig_item *items, unsigned n)
{
	struct vac_pool *pool = o->pool;

	vac__migrate(pool, items, n, VAC__MIG_ASYNC, &o->st);
	for (unsigned i = 0; i < n; i++) {
		struct vac__mig_item *it = &items[i];

		if (it->err == -EAGAIN) /* locked by another: wait for it, alone */
			vac__migrate(pool, it, 1, VAC__MIG_SYNC, &o->st);
		if (it->err == 0) {
			o->moved++;
			continue;
		}
		note_failure(o, it->src, it->err);
		if (it->err == -ENOMEM && it->huge)
			split_instead(o, it->src);
		vac__folio_putback(pool, it->src);
	}
	tell(o, false);
}

/* Move those of items[0..n) that have no pins now; answers how many are left, at the front. */
static unsigned move_ready(struct offline *o, struct vac__mig_item *items, unsigned n)
{
	unsigned left = 0;

	for (unsigned i = 0; i < n; i++) {
		struct vac__mig_item t = items[i];

		if (pins_of(o, t.src) == 0)
			continue;
		items[i] = items[left];
		items[left++] = t;
	}
	move(o, items + left, n - left);
	return left;
}

/* items[0..n) are gated and pinned: move each when its pins are gone, until the gate must open. */
static void drain(struct offline *o, struct vac__mig_item *items, unsigned n)
{
	uint64_t start = vac__port_now(), end;
	uint64_t gate = sooner(o, start + (uint64_t)o->pool->opts.gate_timeout_ms * 1000000);
	struct vac__pin_view who = {0};
	uint32_t cursor = 0;

	vac__pin_find(o->pool, items[0].src, &cursor, &who);
	for (;;) {
		uint32_t seen = vac__event_read(&o->pool->progress);
		uint32_t first = items[0].src;

		n = move_ready(o, items, n);
		end = vac__port_now();
		if (n == 0 || items[0].src != first) {
			note_wait(o, &who, end - start);
			start = end;
			cursor = 0;
			who.owner[0] = '\0';
			if (n)
				vac__pin_find(o->pool, items[0].src, &cursor, &who);
		}
		if (n == 0 || end >= gate || cancelled(o))
			break;
		if (o->opts.flags & VAC_OFFLINE_CANCEL_IO)
			vac__aio_cancel_block(o->pool, o->first,
					      UINT32_C(1) << o->pool->block_shift);
		vac__event_wait(&o->pool->progress, seen, gate);
	}
	if (n)
		note_wait(o, &who, end - start);
	for (unsigned i = 0; i < n; i++) {
		note_failure(o, items[i].src, -EBUSY);
		vac__folio_putback(o->pool, items[i].src);
	}
}

/* ---- One pageblock -------------------------------------------------------------------------- */

/* Pick every folio of a pageblock that can be picked, and close its gate: not where pins are that would
 * not drain. */
static unsigned pick(struct offline *o, uint32_t pfn, struct vac__mig_item *items)
{
	struct vac_pool *pool = o->pool;
	unsigned n = 0, at;

	for (uint32_t end = pfn + VAC__PB_PAGES; pfn < end; pfn++) {
		if (vac__folio_isolate(pool, pfn) < 0)
			continue;
		at = pfn % VAC__PB_PAGES;
		if (!(o->opts.flags & VAC_OFFLINE_TEST_NO_GATE) && !pool->reloc.hold[at] &&
		    !pool->reloc.count[at])
			vac__w_gate(&vac__frame(pool, pfn)->word);
		items[n].pins = 0;
		items[n++].src = pfn;
		if (vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_HEAD)
			break;
	}
	return n;
}

/*
 * Leave writers their share of the time since `start`, when the pageblock just moved was begun: of
 * the whole, pauses included, its pages may have been leaving for 100 - writers_pct percent. Only
 * where somebody did wait; and no longer once half of the timeout is gone, as the block comes first.
 */
static void leave_a_turn(struct offline *o, uint64_t start, uint64_t leaving_ns, uint64_t waits)
{
	struct vac_pool *pool = o->pool;
	_Atomic uint32_t nobody = 0;
	uint64_t end, half;

	if (!o->opts.writers_pct || vac__ld_rlx(&pool->c.fault_waits) == waits)
		return;
	end = start + leaving_ns * 100 / (100 - o->opts.writers_pct);
	half = o->deadline_ns ? o->start_ns + (o->deadline_ns - o->start_ns) / 2 : UINT64_MAX;
	/* In pieces, so that a cancel is not kept waiting. */
	for (uint64_t now = vac__port_now(), then; now < end && now < half && stop(o) == 0;
	     now = then) {
		vac__port_wait(&nobody, 0, end - now > 10000000 ? now + 10000000 : end);
		then = vac__port_now();
		o->res.paused_ns += then - now;
	}
}

/* ---- Pins that can move: relocate.c ---------------------------------------------------------- */

static bool stops(void *arg)
{
	return stop(arg) != 0;
}

/* A folio whose pins are not waited for: for long, or as they have to be asked again in a moment. */
static void leave_held(struct offline *o, uint32_t src, uint32_t at)
{
	note_failure(o, src, -EBUSY);
	if (o->pool->reloc.hold[at] & VAC__HOLD_LONG)
		o->long_frames += folio_frames(o, src);
	else if (o->pool->reloc.hold[at])
		o->again++;
	vac__folio_putback(o->pool, src);
}

/* Close the gates of those whose holders keep still, and wait until nobody else has pins there, until the
 * gates must open. */
static void gate_quiet(struct offline *o, uint32_t pfn, struct vac__mig_item *items, unsigned n)
{
	struct vac_pool *pool = o->pool;
	uint64_t start = vac__port_now();
	uint64_t gate = sooner(o, start + (uint64_t)pool->opts.gate_timeout_ms * 1000000);

	for (unsigned i = 0; i < n; i++)
		vac__w_gate(&vac__frame(pool, items[i].src)->word);
	for (;;) {
		uint32_t seen = vac__event_read(&pool->progress);
		unsigned ready = 0;

		vac__reloc_count(pool, pfn);
		for (unsigned i = 0; i < n; i++)
			ready += pins_of(o, items[i].src) == pool->reloc.count[items[i].src - pfn];
		if (ready == n || vac__port_now() >= gate || cancelled(o))
			break;
		vac__event_wait(&pool->progress, seen, gate);
	}
	o->res.waited_ns += vac__port_now() - start;
}

/* items[0..n) are folios of the pageblock with pins that can move: move those whose holders agree. */
static void relocate(struct offline *o, uint32_t pfn, struct vac__mig_item *items, unsigned n)
{
	struct vac__reloc_wait w = {.stop = stops, .arg = o, .deadline_ns = o->deadline_ns};
	struct vac_pool *pool = o->pool;
	uint64_t start = vac__port_now();
	unsigned ready = 0;

	vac__reloc_quiesce(pool, pfn, &w);
	o->res.waited_ns += vac__port_now() - start;
	for (unsigned i = 0; i < n; i++) {
		uint32_t src = items[i].src;

		if (pool->reloc.hold[src - pfn])
			leave_held(o, src, src - pfn);
		else
			items[ready++].src = src;
	}
	n = ready;
	if (n)
		gate_quiet(o, pfn, items, n);
	vac__reloc_take(pool, pfn);
	ready = 0;
	for (unsigned i = 0; i < n; i++) {
		uint32_t src = items[i].src, at = src - pfn;

		if (pins_of(o, src) != pool->reloc.count[at]) {
			pool->reloc.hold[at] |= VAC__HOLD_LATER;
			leave_held(o, src, at);
			continue;
		}
		items[ready].src = src;
		items[ready++].pins = pool->reloc.count[at];
	}
	move(o, items, ready);
	vac__reloc_moved(pool, pfn, items, ready);
	vac__reloc_resume(pool);
}

static void evacuate_pageblock(struct offline *o, uint32_t pfn)
{
	struct vac_pool *pool = o->pool;
	struct vac__mig_item *items = pool->batch;
	uint64_t start = vac__port_now(), leaving = o->st.leaving_ns;
	uint64_t waits = vac__ld_rlx(&pool->c.fault_waits);
	unsigned n, held = 0, asked = 0, fails = o->pinned;

	if (o->opts.flags & VAC_OFFLINE_SWAP)
		o->moved += vac__reclaim_pageblock(pool, pfn);
	vac__reloc_look(pool, pfn);
	n = move_ready(o, items, pick(o, pfn, items));

	/* Those that are not gated will not drain: pins that can move, behind the others in the batch;
	 * those that cannot; or the test switch. */
	for (unsigned i = 0; i < n; i++) {
		uint32_t src = items[i].src, at = src - pfn;

		if (!pool->reloc.hold[at] &&
		    (pool->reloc.count[at] ||
		     (vac__ld(&vac__frame(pool, src)->word) & VAC__W_GATED))) {
			items[held++].src = src;
			continue;
		}
		leave_held(o, src, at);
	}
	for (unsigned i = 0; i + asked < held;) {
		uint32_t src = items[i].src;

		if (!pool->reloc.count[src - pfn]) {
			i++;
			continue;
		}
		asked++;
		items[i].src = items[held - asked].src;
		items[held - asked].src = src;
	}
	if (held > asked)
		drain(o, items, held - asked);
	if (asked && (o->opts.flags & VAC_OFFLINE_CANCEL_IO)) /* on registered buffers */
		vac__aio_cancel_block(pool, o->first, UINT32_C(1) << pool->block_shift);
	if (asked)
		relocate(o, pfn, items + held - asked, asked);
	if ((o->opts.flags & VAC_OFFLINE_REVOKE) && o->pinned != fails) {
		struct vac__reloc_wait w = {.stop = stops, .arg = o, .deadline_ns = o->deadline_ns};

		if (vac__reloc_revoke(pool, pfn, &w))
			o->again++;
	}
	leave_a_turn(o, start, o->st.leaving_ns - leaving, waits);
}

/* ---- The whole ------------------------------------------------------------------------------ */

/* What keeps the block's last folios, as one errno value. */
static int verdict(const struct offline *o, int why)
{
	if (why == -ECANCELED)
		return why;
	if (o->pinned || o->last_pinned || o->foreign || o->last_foreign)
		return -EBUSY;
	if (o->no_memory || o->last_no_memory)
		return -ENOMEM;
	return why;
}

static uint64_t pause_ns(unsigned idle)
{
	return UINT64_C(1000000) << (idle < 6 ? idle : 6);
}

static int evacuate(struct offline *o)
{
	struct vac_pool *pool = o->pool;
	_Atomic uint32_t nobody = 0;
	unsigned idle = 0;
	uint32_t left;
	int r;

	for (;;) {
		uint32_t seen = vac__event_read(&pool->progress);

		if (vac__ld(&pool->nr_quar)) /* what others have let go meanwhile is target memory */
			vac__quarantine_release(pool);
		o->last_pinned = o->pinned;
		o->last_no_memory = o->no_memory;
		o->last_foreign = o->foreign;
		o->moved = o->pinned = o->no_memory = o->foreign = o->other = o->again = 0;
		o->long_frames = 0;
		for (uint32_t i = 0; i < pool->pb_per_block; i++) {
			if (vac__frames_used(pool, pb_pfn(o, i), NULL, NULL) == 0)
				continue;
			r = stop(o);
			if (r < 0)
				return verdict(o, r);
			evacuate_pageblock(o, pb_pfn(o, i));
		}
		left = used(o);
		if (left == 0)
			return 0;
		r = stop(o);
		if (r < 0)
			return verdict(o, r);
		if (o->moved) {
			idle = 0;
			continue;
		}
		/* Others make room by going out; or some of this block's do. */
		if (o->no_memory && vac__reclaim_some(pool, VAC__SWAP_CLUSTER, 1)) {
			idle = 0;
			continue;
		}
		if (o->no_memory && !o->pinned && !o->foreign && !o->other &&
		    (o->opts.flags & VAC_OFFLINE_BEST_EFFORT))
			return -ENOMEM;
		if (o->long_frames == left && !o->again)
			return -EBUSY; /* all that is left is held for long: report, do not wait */
		/* Nothing can be done until something happens elsewhere. Where a lot happens that
		 * does not help us, look less often: each look gates the pinned folios again. */
		if (o->foreign || o->again) /* nobody tells when to ask again: ever less often */
			vac__event_wait(&pool->progress, seen,
					sooner(o, vac__port_now() + pause_ns(idle)));
		else
			vac__event_wait(&pool->progress, seen, o->deadline_ns);
		if (idle++)
			vac__port_wait(&nobody, 0, sooner(o, vac__port_now() + pause_ns(idle)));
	}
}

static void set_state(struct offline *o, enum vac_block_state s)
{
	vac__st(&o->block->state, (uint32_t)s + 1);
}

/*
 * Enough memory in other online blocks? Asked before anything is isolated, so that an offline which is
 * refused, or only tried dry, takes memory from nobody for a moment; and again after, when nothing of
 * this block can be taken any more.
 */
static int check_room(struct offline *o, bool isolated)
{
	struct vac_pool *pool = o->pool;
	uint64_t room =
		vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) + vac__swap_room(pool);
	uint64_t own = 0;
	uint32_t nr_free, nr_resv;
	bool others = false;

	o->used_at_start = 0;
	for (uint32_t i = 0; i < pool->pb_per_block; i++) {
		o->used_at_start += vac__frames_used(pool, pb_pfn(o, i), &nr_free, &nr_resv);
		own += isolated ? 0 : nr_free + nr_resv;
	}
	room = room > own ? room - own : 0;
	o->res.missing_bytes = 0;
	if (o->used_at_start > room)
		o->res.missing_bytes = (o->used_at_start - room) << VAC__PAGE_SHIFT;
	o->res.possible_bytes = (o->used_at_start < room ? o->used_at_start : room)
				<< VAC__PAGE_SHIFT;
	for (uint32_t i = 0; i < pool->max_blocks; i++)
		others |= i != (uint32_t)o->id &&
			  vac__ld(&pool->blocks[i].state) == VAC_BLOCK_ONLINE + 1;
	if (!others)
		return -ENOMEM; /* the last one: there is nowhere to go, now or later */
	if (o->res.missing_bytes && !(o->opts.flags & VAC_OFFLINE_BEST_EFFORT))
		return -ENOMEM;
	return 0;
}

static void isolate(struct offline *o)
{
	for (uint32_t i = 0; i < o->pool->pb_per_block; i++)
		vac__frames_isolate(o->pool, pb_pfn(o, i));
}

static void unisolate(struct offline *o)
{
	for (uint32_t i = 0; i < o->pool->pb_per_block; i++)
		vac__frames_unisolate(o->pool, pb_pfn(o, i));
}

/* The block is empty: have it certified, asking again until the deadline. */
static int certify(struct offline *o)
{
	_Atomic uint32_t nobody = 0;
	int r;

	o->pool->nr_lost = 0;
	for (unsigned idle = 0;; idle++) {
		r = vac__block_give_back(o->pool, o->id, &o->res.given_back_bytes);
		if (r == 0 || stop(o) < 0)
			break;
		vac__port_wait(&nobody, 0, sooner(o, vac__port_now() + pause_ns(idle)));
	}
	o->trace.foreign = r < 0;
	o->trace.certified = true;
	if (r < 0 || o->pool->nr_lost)
		vac__report_make(o->pool, o->id, &o->trace, &o->res.report);
	if (r < 0)
		set_state(o, VAC_BLOCK_QUARANTINE);
	return r;
}

/* What the rest of offline_locked() would answer if all that holds the block now went on holding it.
 * room: of check_room(). */
static int dry_run(struct offline *o, int room)
{
	int r = vac__dry_run(o->pool, o->id, &o->trace, o->cancel, o->deadline_ns, &o->res.report);

	if (room < 0)
		return room;
	if (r < 0)
		return r;
	return o->res.missing_bytes ? -ENOMEM : 0; /* best effort: it would end there */
}

static int offline_locked(struct offline *o)
{
	struct vac_pool *pool = o->pool;
	bool dry = o->opts.flags & VAC_OFFLINE_DRY_RUN;
	int r;

	if (!vac__block_valid(pool, o->id))
		return -ENOENT;
	if (vac__ld(&o->block->state) == VAC_BLOCK_QUARANTINE + 1) {
		if (dry)
			return dry_run(o, 0);
		vac__st(&o->block->cancel, 0);
		set_state(o, VAC_BLOCK_EVACUATING);
		r = certify(o);
		tell(o, true);
		return r;
	}
	if (vac__ld(&o->block->state) != VAC_BLOCK_ONLINE + 1)
		return -EALREADY;
	vac__quarantine_release(pool);
	r = check_room(o, false);
	if (dry)
		return dry_run(o, r);
	if (r < 0) {
		vac__report_make(pool, o->id, &o->trace, &o->res.report);
		return r;
	}
	vac__st(&o->block->cancel, 0);
	set_state(o, VAC_BLOCK_ISOLATING);
	pool->looked = false;
	vac__reloc_begin(pool);
	vac__add(&pool->offliners, 1);
	isolate(o);
	VAC__SYNC("iso_done", (uint64_t)o->id);
	r = check_room(o, true);
	if (r == 0) {
		set_state(o, VAC_BLOCK_EVACUATING);
		r = evacuate(o);
	}
	if (r == 0) {
		r = certify(o);
	} else {
		vac__report_make(pool, o->id, &o->trace, &o->res.report);
		vac__look_at_return(pool, o->id);
		unisolate(o);
		set_state(o, VAC_BLOCK_ONLINE);
		vac__quarantine_release(pool);
	}
	vac__sub(&pool->offliners, 1);
	/* Those who found no memory while the block was isolated may find some again. */
	vac__progress(pool);
	tell(o, true);
	return r;
}

/* The lock has no event to wait for beside it: who can be cancelled looks up now and then. */
static int lock_hotplug(struct offline *o)
{
	for (;;) {
		uint64_t until = o->deadline_ns;

		if (o->cancel) {
			if (vac__ld(o->cancel))
				return -ECANCELED;
			until = sooner(o, vac__port_now() + CANCEL_LOOK_NS);
		}
		if (vac__lock_until(&o->pool->hotplug, VAC__RANK_HOTPLUG, until))
			return 0;
		if (until == o->deadline_ns)
			return -ETIMEDOUT;
	}
}

static int offline(struct offline *o)
{
	struct vac_pool *pool = o->pool;
	uint32_t state;
	int r;

	o->start_ns = o->told_ns = vac__port_now();
	if (o->opts.timeout_ms >= 0)
		o->deadline_ns =
			o->start_ns +
			(o->opts.timeout_ms ? (uint64_t)o->opts.timeout_ms : 10000) * 1000000;
	if (!vac__block_valid(pool, o->id))
		return -ENOENT;
	o->block = &pool->blocks[o->id];
	state = vac__ld(&o->block->state);
	if (state > VAC_BLOCK_ONLINE + 1 && state != VAC_BLOCK_QUARANTINE + 1)
		return -EBUSY; /* somebody is at it already */
	o->first = vac__block_pfn(pool, o->id);
	r = lock_hotplug(o);
	if (r < 0)
		return r;
	r = offline_locked(o);
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	return r;
}

int vac__block_offline(struct vac_pool *pool, int id, const struct vac_offline_opts *opts,
		       struct vac_offline_result *res, const _Atomic uint32_t *cancel)
{
	struct offline o = {.pool = pool,
			    .id = id,
			    .cancel = cancel,
			    .opts = {.size = sizeof(o.opts)},
			    .res = {.size = sizeof(o.res)}};
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(o.opts))
			return -EINVAL;
		memcpy(&o.opts, opts, opts->size);
	}
	if ((res && (res->size < sizeof(size_t) || res->size > sizeof(o.res))) ||
	    (o.opts.flags &
	     ~(VAC_OFFLINE_BEST_EFFORT | VAC_OFFLINE_DRY_RUN | VAC_OFFLINE_SWAP |
	       VAC_OFFLINE_CANCEL_IO | VAC_OFFLINE_REVOKE | VAC_OFFLINE_TEST_NO_GATE)) ||
	    o.opts.writers_pct > 95)
		return -EINVAL;
	vac__trace_init(&o.trace);
	VAC__ENTER();
	r = offline(&o);
	o.res.elapsed_ns = vac__port_now() - o.start_ns;
	VAC__LEAVE();
	o.res.bytes_moved = o.st.bytes;
	o.res.huge_moved = o.st.huge;
	o.res.base_moved = o.st.base;
	o.res.attempts = o.st.attempts;
	o.res.copy_ns = o.st.copy_ns;
	if (!res) {
		vac_report_free(o.res.report);
		return r;
	}
	o.res.size = res->size;
	if (o.res.size < offsetof(struct vac_offline_result, report) + sizeof(o.res.report))
		vac_report_free(o.res.report);
	memcpy(res, &o.res, o.res.size);
	return r;
}

int vac_block_offline(struct vac_pool *pool, int id, const struct vac_offline_opts *opts,
		      struct vac_offline_result *res)
{
	return vac__block_offline(pool, id, opts, res, NULL);
}

int vac_block_cancel(struct vac_pool *pool, int id)
{
	if (vac__port_forked())
		return -EPERM;
	if (!vac__block_valid(pool, id))
		return -ENOENT;
	if (vac__ld(&pool->blocks[id].state) <= VAC_BLOCK_ONLINE + 1 ||
	    vac__ld(&pool->blocks[id].state) == VAC_BLOCK_QUARANTINE + 1)
		return -EALREADY;
	vac__st(&pool->blocks[id].cancel, 1);
	vac__event_signal(&pool->progress);
	return 0;
}

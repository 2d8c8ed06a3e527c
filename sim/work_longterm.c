/* SPDX-License-Identifier: MIT */
/*
 * Pins that last: devices that can be asked to keep still while their pages move, and pins whose pages leave
 * movable memory first.
 *
 * A device knows frames, not addresses: it has them from the pin, or from repoint(), and from nowhere
 * else. Where it goes on with a frame that its page has left, or is told of none, its next look shows it.
 */
#include <string.h>

#include "sim/work.h"

#define DEV_PAGES 6

struct device {
	struct writer *t;
	uint32_t first, n;
	uint64_t handle;
	struct sim_dma frame[DEV_PAGES];
	uint32_t gen[DEV_PAGES];
	bool alive, asked, still, busy, dropped;
	bool ended; /* reaches nothing any more; its pin is about to be dropped */
	bool told[DEV_PAGES], held[DEV_PAGES];
};
static struct device devices[WRITERS_MAX];

static uint64_t at(const struct device *d, uint32_t k)
{
	return work_addr_of(d->t, d->first + k, 0);
}

static void called(const struct device *d)
{
	if (!d->alive)
		sim_fail(SIM_CONTENT, "a callback of a pin that was dropped");
}

static void let_go(struct device *d, uint32_t k)
{
	if (d->held[k])
		sim_dma_put(&d->frame[k]);
	d->held[k] = false;
}

static void find(struct device *d, uint32_t k)
{
	int r = work_dma_get(at(d, k), true, &d->frame[k]);

	work_must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
	d->held[k] = true;
	if (d->ended)
		let_go(d, k);
	sim_note("device %d has page %u: block %d", d->t->id, d->first + k, d->frame[k].block);
	d->told[k] = true;
}

static int keep_still(void *ctx, uint64_t pin)
{
	struct device *d = ctx;
	int r = 0;

	called(d);
	if (d->still)
		sim_fail(SIM_CONTENT, "asked to keep still twice");
	if (!world.calm && sim_one_in(6))
		sim_sleep(sim_below(3000000)); /* perhaps too long */
	if (!world.calm && sim_one_in(6))
		r = sim_one_in(2) ? -EAGAIN : -EPERM;
	while (d->busy)
		sim_sleep(1000);
	if (r)
		return r;
	d->still = true;
	/* Nobody holds the frames meanwhile: the device forgets what it must be told again. */
	for (uint32_t k = 0; k < d->n; k++) {
		d->told[k] = false;
		let_go(d, k);
	}
	if (!world.calm && sim_one_in(10)) {
		r = vac_unpin(world.pool, pin);
		work_must(r == 0 || r == -EINVAL, SIM_CONTENT, "an unpin by a callback", r);
		d->dropped = r == 0; /* else its owner is about to, and waits for us */
		d->alive = r != 0;
	}
	return 0;
}

static int quiesce(void *ctx, uint64_t pin)
{
	struct device *d = ctx;
	int r;

	d->asked = true;
	r = keep_still(ctx, pin);
	d->asked = false;
	return r;
}

static int repoint(void *ctx, uint64_t pin, void *addr, size_t len)
{
	struct device *d = ctx;
	uint32_t k = (uint32_t)(((uintptr_t)addr - at(d, 0)) / PAGE);

	(void)pin;
	called(d);
	if (!d->still || (uintptr_t)addr < at(d, 0) || k + len / PAGE > d->n)
		sim_fail(SIM_CONTENT, "told of what was not pinned, or not asked for");
	for (uint32_t end = k + (uint32_t)(len / PAGE); k < end; k++) {
		uint8_t *was = d->frame[k].at;

		if (d->told[k])
			sim_fail(SIM_CONTENT, "told of a page twice");
		if (d->ended)
			continue;
		find(d, k);
		if (d->frame[k].at == was && !d->ended)
			sim_fail(SIM_CONTENT, "told of a frame that it has had");
	}
	return 0;
}

static void resume(void *ctx, uint64_t pin)
{
	struct device *d = ctx;

	(void)pin;
	called(d);
	if (!d->still)
		sim_fail(SIM_CONTENT, "told to go on, and has never stopped");
	for (uint32_t k = 0; k < d->n; k++) {
		uint8_t *was = d->frame[k].at;

		if (d->told[k] || d->ended)
			continue;
		find(d, k); /* registered again, where it was */
		if (d->frame[k].at != was && !d->ended)
			sim_fail(SIM_CONTENT, "a page has moved, and its device was not told");
	}
	d->still = false;
}

static const struct vac_relocate_ops ops = {.size = sizeof(ops),
					    .quiesce = quiesce,
					    .repoint = repoint,
					    .resume = resume,
					    .timeout_ms = 2};

/* One write of the device, if it may; and what the processor sees of it. */
static void transfer(struct device *d)
{
	uint32_t k = (uint32_t)sim_below(d->n), word = (uint32_t)sim_below(WORDS);
	struct writer *t = d->t;
	struct page *m = &t->page[d->first + k];
	uint64_t v = (uint64_t)(t->id + 1) << 48 | ++t->seq;

	if (d->still || d->dropped)
		return;
	d->busy = true;
	sim_dma_write(&d->frame[k], word * 8, v);
	if (m->gen == d->gen[k]) {
		m->word[word] = v;
		m->late &= ~(1u << word);
	}
	d->busy = false;
}

/* A short pin that may outlast a gate: then the page stays, and its device is told to go on. */
static void short_beside(struct device *d)
{
	uint64_t handle;
	int r = vac_pin(world.space, work_ptr(at(d, (uint32_t)sim_below(d->n))), PAGE,
			VAC_PIN_NOWAIT, "short beside", &handle);

	if (r < 0)
		return;
	sim_sleep(sim_below(3 * GATE_MS * 1000000));
	r = vac_unpin(world.pool, handle);
	work_must(r == 0, SIM_CONTENT, "an unpin", r);
}

/* A word of one of n pages. One draw a statement: the order of arguments is the compiler's. */
static void load_any(struct writer *t, uint32_t first, uint32_t n)
{
	uint32_t p = first + (uint32_t)sim_below(n);

	work_load(t, p, (uint32_t)sim_below(WORDS));
}

static void store_any(struct writer *t, uint32_t first, uint32_t n)
{
	uint32_t p = first + (uint32_t)sim_below(n);

	work_store(t, p, (uint32_t)sim_below(WORDS));
}

static void relocatable(struct writer *t)
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct device *d = &devices[t->id];
	uint32_t n = 1 + (uint32_t)sim_below(DEV_PAGES);
	bool starved = work_may_starve(), waits = sim_one_in(2);
	int r;

	memset(d, 0, sizeof(*d));
	d->t = t;
	d->n = n;
	d->first = (uint32_t)sim_below(REGION_PAGES - n + 1);
	d->alive = true;
	d->busy = true; /* not before it has its frames */
	o.flags = VAC_PIN_WRITE;
	o.owner = "device";
	o.relocate = &ops;
	o.ctx = d;
	r = vac_pin_with(world.space, work_ptr(at(d, 0)), n * PAGE, &o, NULL, &d->handle);
	if (r < 0)
		d->alive = false;
	if (work_excused(r, starved))
		return;
	if (!work_pinnable(t, d->first, n, true)) {
		work_must(r == -EFAULT, SIM_CONTENT, "a pin across what is not mapped", r);
		return;
	}
	work_must(r == 0, SIM_CONTENT, "a pin that can move", r);
	for (uint32_t k = 0; k < n; k++) {
		find(d, k);
		d->gen[k] = t->page[d->first + k].gen;
	}
	d->busy = false;
	for (uint64_t i = 2 + sim_below(12); i; i--) {
		transfer(d);
		if (sim_one_in(3))
			load_any(t, d->first, n);
		if (sim_one_in(3))
			store_any(t, d->first, n);
		if (sim_one_in(3))
			sim_sleep(sim_below(100000));
		if (!world.calm && sim_one_in(12))
			short_beside(d);
	}
	/* Whoever was asked is told to go on. */
	for (uint32_t k = 0; waits && (d->asked || d->still) && !d->dropped; k++) {
		if (k > 1000)
			sim_fail(SIM_LIVENESS, "a device keeps still for ever");
		sim_sleep(1000000);
	}
	d->ended = true;
	for (uint32_t k = 0; k < n; k++)
		let_go(d, k);
	r = vac_unpin(world.pool, d->handle);
	work_must(r == 0 || r == -EINVAL, SIM_CONTENT, "an unpin", r);
	/* A callback may have been faster, and not be over. */
	while (r == -EINVAL && !d->dropped)
		sim_sleep(1000);
	d->alive = false;
}

/* Where it is strict, and answers 0, all of it is in memory that stays. Read without a scheduling point. */
static void check_zone(uint64_t handle)
{
	struct vac__pin_rec *r = &world.pool->ledger.rec[(uint32_t)handle];
	uint32_t nr = atomic_load(&r->nr_runs);

	for (uint32_t i = 0; i < nr && nr <= VAC__PIN_RUNS; i++) {
		uint32_t pfn = (uint32_t)atomic_load(&r->run[i]);

		if (world.pool->pbs[pfn >> VAC__PB_ORDER].zone != VAC_ZONE_NORMAL)
			sim_fail(SIM_CONTENT, "a strict pin lies in movable memory");
	}
}

static void long_pin(struct writer *t)
{
	uint32_t n = 1 + (uint32_t)sim_below(10), p = (uint32_t)sim_below(REGION_PAGES - n + 1);
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_pin_result res = VAC_INIT(struct vac_pin_result);
	bool starved = work_may_starve();
	uint64_t handle;
	int r;

	o.flags = VAC_PIN_LONGTERM | VAC_PIN_WRITE | (sim_one_in(2) ? VAC_PIN_STRICT : 0);
	o.owner = "long";
	r = vac_pin_with(world.space, work_ptr(work_addr_of(t, p, 0)), n * PAGE, &o, &res, &handle);
	sim_note("long pin of %u: %d, moved %u kept %u", n, r, res.migrated, res.unmovable_kept);
	if (!work_pinnable(t, p, n, true)) {
		work_must(r == -EFAULT || work_excused(r, starved) || r == -EBUSY || r == -ENOMEM,
			  SIM_CONTENT, "a long pin across what is not mapped", r);
		return;
	}
	if (work_excused(r, starved) ||
	    ((o.flags & VAC_PIN_STRICT) && (r == -EBUSY || r == -ENOMEM)))
		return;
	work_must(r == 0, SIM_CONTENT, "a long pin of mapped memory", r);
	if (o.flags & VAC_PIN_STRICT)
		check_zone(handle);
	for (uint64_t k = sim_below(4); k; k--) {
		store_any(t, p, n);
		sim_sleep(sim_below(50000));
	}
	for (uint32_t k = 0; k < n; k++)
		work_load(t, p + k, 0);
	r = vac_unpin(world.pool, handle);
	work_must(r == 0, SIM_CONTENT, "an unpin of a long pin", r);
}

static enum op pick(enum op drawn)
{
	if (!sim_one_in(5))
		return drawn;
	return world.calm || sim_one_in(2) ? OP_OWN : OP_OWN_2;
}

/* With nobody else there, what can move does. */
static void rest(void)
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	struct vac_pin_result res = VAC_INIT(struct vac_pin_result);
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	uint64_t handle;

	o.flags = VAC_PIN_LONGTERM;
	o.owner = "at rest";
	for (int i = 0; i < world.nr_writers; i++) {
		struct writer *t = &world.writer[i];
		uint32_t p = (uint32_t)sim_below(REGION_PAGES);
		int r;

		if (!work_pinnable(t, p, 1, false))
			continue;
		r = vac_pin_with(world.space, work_ptr(work_addr_of(t, p, 0)), PAGE, &o, &res,
				 &handle);
		work_must(r == 0, SIM_CONTENT, "a long pin at rest", r);
		if (res.kept_error && res.kept_error != -ENOMEM)
			sim_fail(SIM_LIVENESS,
				 "a long pin stays in movable memory (%d), and nobody "
				 "holds it",
				 res.kept_error);
		r = vac_unpin(world.pool, handle);
		work_must(r == 0, SIM_CONTENT, "an unpin at rest", r);
	}
	vac_pool_stats(world.pool, &st);
	if (st.longterm_frames || st.longterm_kept)
		sim_fail(SIM_LEAK, "%llu and %llu frames are pinned for long, and nothing is",
			 (unsigned long long)st.longterm_frames,
			 (unsigned long long)st.longterm_kept);
	/* The pool's thread may be taking pages back. */
	while (vac__ld(&world.pool->longterm.stale))
		sim_sleep(100000000);
	sim_sleep(100000000);
}

static void draw(void)
{
	for (int i = OP_ADD; i < OP_OWN; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
	world.nr_queues = (int)sim_below(2);
	world.steps_left *= 2;
	world.spare = 2;
	world.pool_flags_on = sim_one_in(4) ? VAC_POOL_COMPACT : 0;
}

const struct work_kind work_longterm = {
	.name = "longterm",
	.draw = draw,
	.pick = pick,
	.own = {relocatable, long_pin},
	.rest = rest,
};

/* SPDX-License-Identifier: MIT */
/*
 * A pool with a third of the memory that its data needs, and a disk for the rest, which takes its time and
 * fails; and which is taken away and given back.
 */
#include "sim/work.h"

static uint64_t disk_pages;
static bool swapping;

static int disk_on(void)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);

	o.fd = 3;
	o.bytes = disk_pages * PAGE;
	return vac_swap_on(world.pool, &o);
}

void work_disk_on(uint64_t pages)
{
	int r;

	disk_pages = pages < VAC__SWAP_SLOTS_MAX ? pages : VAC__SWAP_SLOTS_MAX;
	r = disk_on();
	work_must(r == 0, SIM_CONTENT, "a swap on", r);
}

void work_disk_draw(void)
{
	world.tight = world.offline_swaps = true;
	world.faults.disk_slow = sim_one_in(2) ? 30000 : 0;
	if (world.cfg.faults) {
		world.faults.disk_read = sim_one_in(2) ? 12 : 0;
		world.faults.disk_write = sim_one_in(2) ? 12 : 0;
	}
	swapping = false;
}

/* Takes the disk away and gives it back, as far as memory reaches. */
void work_swapper(void *arg)
{
	int r;

	(void)arg;
	swapping = true;
	for (uint64_t n = sim_one_in(2) ? 1 + sim_below(4) : 0; n && !world.calm; n--) {
		sim_sleep(sim_below(3000000));
		r = vac_swap_off(world.pool, sim_one_in(3) ? 1 : 0);
		sim_note("swap off: %d", r);
		work_must(r == 0 || r == -ENOMEM || r == -ETIMEDOUT ||
				  (r == -EIO && world.faults.disk_read),
			  SIM_CONTENT, "an end of swap", r);
		if (r < 0)
			continue;
		sim_sleep(sim_below(100000));
		r = disk_on();
		work_must(r == 0, SIM_CONTENT, "a swap on", r);
	}
	swapping = false;
}

/* Kept out of swap for a while, or not any more: what is there does not change. */
void work_lock_pages(struct writer *t)
{
	uint32_t n = 1 + (uint32_t)sim_below(4), first = (uint32_t)sim_below(REGION_PAGES - n);
	bool on = sim_one_in(2) && !world.calm, starved = work_may_starve();
	void *at = work_ptr(work_addr_of(t, first, 0));
	int r;

	for (uint32_t p = first; on && p < first + n; p++)
		t->page[p].locked = true;
	r = on ? vac_lock(world.space, at, n * PAGE) : vac_unlock(world.space, at, n * PAGE);
	work_must(r == 0 || r == -ENOMEM || work_excused(r, starved), SIM_CONTENT, "a lock", r);
	for (uint32_t p = first; !on && r == 0 && p < first + n; p++)
		t->page[p].locked = false;
}

/* Pages are said not to be needed soon, and are needed or not. What is there does not change. */
void work_cool_pages(struct writer *t)
{
	uint32_t n = 1 + (uint32_t)sim_below(REGION_PAGES), first;
	bool all = true, locked = false;
	int r;

	first = (uint32_t)sim_below(REGION_PAGES);
	n = n < REGION_PAGES - first ? n : REGION_PAGES - first;
	for (uint32_t p = first; p < first + n; p++) {
		all &= t->page[p].mapped;
		locked |= t->page[p].locked;
	}
	r = vac_advise(world.space, work_ptr(work_addr_of(t, first, 0)), n * PAGE, VAC_ADV_COLD);
	sim_note("cold %u+%u: %d", first, n, r);
	work_must(r == (all ? 0 : -ENOMEM) || (locked && r == -EINVAL), SIM_CONTENT,
		  "advice that pages are cold", r);
}

static enum op pick(enum op drawn)
{
	switch (sim_below(24)) {
	case 0: return OP_OWN;
	case 1:
	case 2: return OP_OWN_2;
	case 3: return OP_WILLNEED;
	default: return drawn;
	}
}

static void touch_all(struct writer *t)
{
	for (uint32_t p = 0; p < REGION_PAGES; p++)
		work_store(t, p, 0);
}

static void draw(void)
{
	for (int i = OP_ADD; i < OP_OWN; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
	world.nr_queues = (int)sim_below(2);
	world.steps_left *= 2;
	work_disk_draw();
	world.pool_flags_on = sim_one_in(3) ? VAC_POOL_COMPACT : 0;
}

/* A third of what is needed, but room for what may be pinned at once. */
static void size(uint32_t *pbs, uint64_t *need)
{
	uint64_t least = 2 + (uint64_t)world.nr_writers;

	if (pbs && *pbs > 2)
		*pbs = 2;
	if (!need)
		return;
	work_disk_on(*need * VAC__PB_PAGES + 32);
	*need = *need / 3 > least ? *need / 3 : least;
}

/* What is locked into memory may be more than there is. */
void work_swap_calm(void)
{
	while (swapping)
		sim_sleep(100000);
	vac_unlock(world.space, work_ptr(world.base), vac_space_bytes(world.space));
	for (int i = 0; i < world.nr_writers; i++)
		for (uint32_t p = 0; p < REGION_PAGES; p++)
			vac_unlock(world.space, work_ptr(work_addr_of(&world.writer[i], p, 0)),
				   PAGE);
}

/* Nothing is ever shared here: the mark that says so goes with a page wherever it goes. */
static void never_shared(void)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);

	vac_pool_stats(world.pool, &st);
	if (st.cow_copies || st.cow_reuses)
		sim_fail(SIM_CONTENT, "%llu pages taken for shared",
			 (unsigned long long)(st.cow_copies + st.cow_reuses));
}

const struct work_kind work_swap = {
	.name = "swap",
	.draw = draw,
	.pick = pick,
	.own = {work_lock_pages, work_cool_pages},
	.size = size,
	.begin = touch_all,
	.more = work_swapper,
	.more_name = "swapper",
	.nr_more = 1,
	.calm = work_swap_calm,
	.rest = never_shared,
};

/* SPDX-License-Identifier: MIT */
/*
 * Compaction and collapse against everything else. In a quarter of the worlds there is not quite enough memory, and
 * a disk: what comes together has been out, and has a slot still.
 */
#include "sim/work.h"

#define COMPACTORS 2

static bool swaps;
static int next;

/* Compacts until told to stop, by whatever options. */
static void compactor(void *arg)
{
	(void)arg;
	while (!world.stop) {
		struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
		struct vac_compact_result res = VAC_INIT(struct vac_compact_result);
		bool aimed;
		int r;

		o.flags = (uint32_t)sim_below(4);
		o.target = sim_one_in(2) ? (uint32_t)sim_below(6) : 0;
		o.max_used_pct = (uint32_t)sim_below(101);
		o.max_missing = (uint32_t)sim_below(VAC__PB_PAGES);
		o.timeout_ms = 1 + (int64_t)sim_below(4);
		aimed = o.target;
		r = vac_pool_compact(world.pool, &o, &res);
		sim_note("compact: %d, freed %llu, collapsed %llu and %llu", r,
			 (unsigned long long)res.pageblocks_freed,
			 (unsigned long long)res.collapsed_in_place,
			 (unsigned long long)res.collapsed_by_copy);
		work_must(r == 0 || (aimed && r == -ENOMEM) || r == -ETIMEDOUT, SIM_CONTENT,
			  "a compaction", r);
		sim_sleep(sim_below(200000));
	}
}

/* With nobody else there all is gathered that can be: of each zone, less than two pageblocks' worth of
 * free frames is left in pageblocks that are in use. */
static void gathers_all(void)
{
	struct vac_compact_opts o = VAC_INIT(struct vac_compact_opts);
	struct vac_compact_result res = VAC_INIT(struct vac_compact_result);
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	uint64_t free;
	int r;

	o.flags = VAC_COMPACT_GATHER;
	o.max_used_pct = 100;
	o.timeout_ms = -1;
	r = vac_pool_compact(world.pool, &o, NULL);
	work_must(r == 0, SIM_LIVENESS, "a compaction at rest", r);
	vac_pool_stats(world.pool, &st);
	free = st.frames_free + st.frames_reserved - st.pageblocks_free * VAC__PB_PAGES;
	if (st.frames_quarantined == 0 && free >= 4 * VAC__PB_PAGES)
		sim_fail(SIM_LIVENESS, "%llu frames are left scattered", (unsigned long long)free);
	/* What is moved is moved for something. */
	r = vac_pool_compact(world.pool, &o, &res);
	work_must(r == 0, SIM_LIVENESS, "a compaction at rest", r);
	if (res.folios_moved && res.pageblocks_freed == 0)
		sim_fail(SIM_LIVENESS, "%llu pages were moved for nothing",
			 (unsigned long long)res.folios_moved);
}

/* Where there is a disk, one of them takes it away and gives it back. */
static void more(void *arg)
{
	if (next++ == 0 || !swaps)
		compactor(arg);
	else
		work_swapper(arg);
}

static enum op pick(enum op drawn)
{
	if (!swaps)
		return drawn;
	switch (sim_below(16)) {
	case 0: return OP_OWN;
	case 1:
	case 2: return OP_OWN_2;
	default: return drawn;
	}
}

static void size(uint32_t *pbs, uint64_t *need)
{
	if (!swaps)
		return;
	if (pbs && *pbs > 2)
		*pbs = 2;
	if (!need)
		return;
	work_disk_on(*need * VAC__PB_PAGES + 32);
	if (sim_one_in(2))
		*need -= *need / 4;
}

static void calm(void)
{
	if (swaps)
		work_swap_calm();
}

static void draw(void)
{
	for (int i = OP_ADD; i < OP_OWN; i++)
		world.ops_off |= (uint32_t)sim_one_in(4) << i;
	world.nr_queues = (int)sim_below(2);
	world.steps_left *= 2;
	world.pool_flags_off = VAC_POOL_BASE_ONLY;
	world.pool_flags_on = sim_one_in(3) ? VAC_POOL_COMPACT : 0;
	next = 0;
	swaps = world.cfg.seed / 16 % 4 ==
		0; /* not drawn: the other worlds are as they were before */
	if (!swaps)
		return;
	/* Room for what comes together elsewhere, or not. */
	world.spare = (uint32_t)sim_below(4);
	work_disk_draw();
}

const struct work_kind work_compact = {
	.name = "compact",
	.draw = draw,
	.pick = pick,
	.own = {work_lock_pages, work_cool_pages},
	.size = size,
	.more = more,
	.more_name = "compactor",
	.nr_more = COMPACTORS,
	.calm = calm,
	.rest = gathers_all,
};

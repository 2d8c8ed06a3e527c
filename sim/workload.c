/* SPDX-License-Identifier: MIT */
/*
 * The run of a world, and the workloads that are made of nothing but the common operations.
 *
 * First phase: everything at once, host calls failing if the configuration says so. Second: no
 * faults, no changes to mappings, but transfers and accesses go on: now every block must be able to
 * leave. Then all stop, and the pool at rest is checked, byte by byte and by vac_pool_check().
 */
#include <string.h>

#include "sim/work.h"

struct work_world world;

/* ---- Workloads of the common operations ------------------------------------------------------- */

static void draw_mix(void)
{
	for (int i = 2; i < OP_COUNT; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
}
const struct work_kind work_mix = {.name = "mix", .draw = draw_mix};

static void draw_migrate(void)
{
	world.ops_off = ((1u << OP_COUNT) - 1) &
			~(1u << OP_STORE | 1u << OP_LOAD | 1u << OP_ADD | 1u << OP_LOAD_OTHER);
}
const struct work_kind work_migrate = {.name = "migrate", .draw = draw_migrate};

static void draw_pin(void)
{
	world.ops_off = 1u << OP_MAP | 1u << OP_UNMAP | 1u << OP_PROTECT | 1u << OP_DONTNEED |
			1u << OP_ADVISE;
	world.nr_queues = 1 + (int)sim_below(QUEUES_MAX);
}
const struct work_kind work_pin = {.name = "pin", .draw = draw_pin};

static void draw_map(void)
{
	world.ops_off = 1u << OP_LONGPIN;
	world.nr_queues = 0;
}
const struct work_kind work_map = {.name = "map", .draw = draw_map};

static void draw_refault(void)
{
	world.ops_off = ~(1u << OP_ADD);
	world.nr_queues = 0;
	world.nr_writers = 1;
}

/* Hammers one page of the shared ones until told to stop: the refault storm. */
static void stormer(void *arg)
{
	(void)arg;
	while (!world.stop)
		work_add_shared();
}

static void fill_all(void)
{
	vac_advise(world.space, work_ptr(world.base), vac_space_bytes(world.space),
		   VAC_ADV_WILLNEED);
}
const struct work_kind work_refault = {
	.name = "refault",
	.draw = draw_refault,
	.more = stormer,
	.more_name = "stormer",
	.nr_more = 4,
	.calm = fill_all,
	.first_try = true,
};

static void draw_dio(void)
{
	world.nr_queues = QUEUES_MAX;
}
const struct work_kind work_dio = {.name = "dio", .draw = draw_dio};

static const struct work_kind *const kinds[WORK_COUNT] = {
#define WORK_KIND(name) [WORK_##name] = &work_##name,
	WORKS(WORK_KIND)
#undef WORK_KIND
};

const char *work_name(enum sim_workload k)
{
	return kinds[k]->name;
}

int work_by_name(const char *name)
{
	for (int i = 0; i < WORK_COUNT; i++)
		if (strcmp(kinds[i]->name, name) == 0)
			return i;
	return -1;
}

/* ---- The administrator ------------------------------------------------------------------------ */

/* Take a block away and, if it went, bring it back. */
static int cycle(int id, int64_t timeout_ms, uint32_t flags)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_block_opts add = VAC_INIT(struct vac_block_opts);
	bool calm = world.calm;
	int r, again;

	o.timeout_ms = timeout_ms;
	o.flags = flags;
	r = vac_block_offline(world.pool, id, &o, &res);
	vac_report_free(res.report);
	/* A thread that waits for a migration must not be what makes it fail (2018): where every page
	 * is there and nobody pins, each folio moves at the first try, however many threads wait. Only
	 * one that has to be divided is tried once more. */
	if (calm && world.kind->first_try && res.attempts > res.base_moved + 2 * res.huge_moved + 2)
		sim_fail(SIM_LIVENESS, "%llu tries for %llu folios",
			 (unsigned long long)res.attempts,
			 (unsigned long long)(res.huge_moved + res.base_moved));
	/* Nobody holds a pin for long now: who waits until a gate times out was not told. */
	if (calm && res.waited_longest_ns > GATE_MS * 500000u)
		sim_fail(SIM_LIVENESS, "waited %llu ns for %s",
			 (unsigned long long)res.waited_longest_ns, res.waited_for);
	work_must(r == 0 || r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT || r == -ECANCELED ||
			  r == -EALREADY || r == -ENOENT,
		  SIM_CONTENT, "an offline", r);
	if (r < 0 || (flags & VAC_OFFLINE_DRY_RUN))
		return r;
	if (sim_one_in(2) && vac_block_remove(world.pool, id) == 0) {
		add.id = id;
		again = vac_block_add(world.pool, &add);
		work_must(again == id || again == -EEXIST, SIM_CONTENT, "an add", again);
	}
	do {
		again = vac_block_online(world.pool, id, (enum vac_zone)sim_below(2));
		/* The other administrator may have left it in quarantine. */
		work_must(again == 0 || again == -ENOMEM || again == -EALREADY ||
				  again == -ENOENT || again == -EBUSY,
			  SIM_CONTENT, "an online", again);
	} while (again == -ENOMEM && !sim_one_in(50));
	return 0;
}

static void admin(void *arg)
{
	uint32_t rounds = 3 + (uint32_t)sim_below(8);
	int id;

	(void)arg;
	while (rounds--) {
		uint32_t flags = sim_one_in(6) ? VAC_OFFLINE_BEST_EFFORT : 0;

		/* Where the host does not tell, what moves out of a block that stays is lost to the pool
		 * until that block leaves: do not give up halfway as a rule. */
		if (world.faults.blind && !sim_one_in(4)) {
			cycle((int)sim_below((uint64_t)world.nr_blocks), 2000, 0);
			continue;
		}

		if (world.offline_swaps && sim_one_in(3))
			flags |= VAC_OFFLINE_SWAP;
		if (sim_one_in(8))
			flags |= VAC_OFFLINE_DRY_RUN;
		id = (int)sim_below((uint64_t)world.nr_blocks);
		cycle(id, 1 + (int64_t)sim_below(4), flags);
	}
}

static void observer(void *arg)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_block_info info = VAC_INIT(struct vac_block_info);

	(void)arg;
	for (uint64_t n = 2 + sim_below(10); n; n--) {
		struct vac_report *rep = NULL;
		int id = (int)sim_below((uint64_t)world.nr_blocks);

		if (sim_one_in(world.faults.blind ? 20 : 3))
			vac_block_cancel(world.pool, id);
		if (vac_report_block(world.pool, id, &rep) == 0)
			vac_report_free(rep);
		vac_block_info(world.pool, id, &info);
		vac_pool_stats(world.pool, &st);
		sim_sleep(sim_below(100000));
	}
}

/* ---- The world -------------------------------------------------------------------------------- */

static void open_pool(void)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	uint32_t pbs = 1u << sim_below(3); /* pageblocks a block */
	struct sim_faults calm = {0};
	uint64_t need, have = 0;
	void *at;
	int r;

	if (world.kind->size)
		world.kind->size(&pbs, NULL);
	po.block_bytes = pbs * VAC_PAGEBLOCK_BYTES;
	po.max_bytes = po.block_bytes * VAC__MAX_BLOCKS;
	po.gate_timeout_ms = GATE_MS;
	po.fault_bytes = (uint32_t)(PAGE << sim_below(VAC__PB_ORDER + 1));
	po.flags = sim_one_in(4) ? VAC_POOL_BASE_ONLY : 0;
	po.flags |= sim_one_in(4) ? VAC_POOL_STACKS : 0;
	po.flags = (po.flags & ~world.pool_flags_off) | world.pool_flags_on;
	calm.waits = world.faults.waits = sim_one_in(2);
	sim_faults(&calm);
	r = vac_pool_open(&po, &world.pool);
	work_must(r == 0, SIM_CONTENT, "a pool's opening", r);

	so.bytes =
		((uint64_t)world.nr_writers * REGION_PAGES + SHARED_PAGES + 2 + SCRATCH_PAGES + 8) *
		PAGE;
	r = vac_space_create(world.pool, &so, &world.space);
	work_must(r == 0, SIM_CONTENT, "a space's creation", r);
	world.base = (uintptr_t)vac_space_base(world.space);
	/* All that is mapped, in pageblocks, and between one and three blocks more. */
	need = so.bytes / VAC_PAGEBLOCK_BYTES + 2 + world.spare;
	if (world.kind->size)
		world.kind->size(NULL, &need);
	if (world.faults.blind) /* and what blocks that could not leave have left behind */
		need += pbs * 3;
	for (world.nr_blocks = 0; world.nr_blocks < (int)VAC__MAX_BLOCKS; world.nr_blocks++) {
		if (have >= need + pbs * (world.tight ? 1 : 1 + sim_below(2)))
			break;
		r = vac_block_add(world.pool, NULL);
		work_must(r == world.nr_blocks, SIM_CONTENT, "an add", r);
		r = vac_block_online(world.pool, r, (enum vac_zone)sim_one_in(4));
		work_must(r == 0, SIM_CONTENT, "an online", r);
		have += pbs;
	}
	if (world.nr_blocks < 2) {
		r = vac_block_online(world.pool, vac_block_add(world.pool, NULL), VAC_ZONE_MOVABLE);
		work_must(r == 0, SIM_CONTENT, "an online", r);
		world.nr_blocks++;
	}
	r = vac_map(world.space, work_ptr(world.base), so.bytes / PAGE * PAGE,
		    VAC_PROT_READ | VAC_PROT_WRITE, VAC_MAP_FIXED, &at);
	work_must(r == 0, SIM_CONTENT, "a map", r);
	world.shared = world.base + (uint64_t)world.nr_writers * REGION_PAGES * PAGE;
	world.buffer = world.shared + SHARED_PAGES * PAGE;
	world.scratch = world.buffer + 2 * PAGE;
	for (int i = 0; i < world.nr_writers; i++) {
		world.writer[i].id = i;
		world.writer[i].base = world.base + (uint64_t)i * REGION_PAGES * PAGE;
		for (uint32_t p = 0; p < REGION_PAGES; p++) {
			world.writer[i].page[p].mapped = true;
			world.writer[i].page[p].prot = VAC_PROT_READ | VAC_PROT_WRITE;
		}
	}
}

static void draw_world(void)
{
	world.nr_writers = world.cfg.threads ? world.cfg.threads : 1 + (int)sim_below(3);
	if (world.nr_writers > WRITERS_MAX)
		world.nr_writers = WRITERS_MAX;
	world.steps_left = 8 + (uint32_t)sim_below(30);
	world.nr_queues = (int)sim_below(3);
	world.observer = sim_one_in(2);
	world.admin2 = sim_one_in(4);
	if (world.kind->draw)
		world.kind->draw();
	if (world.cfg.faults) {
		world.faults.populate = 20;
		world.faults.map = 30;
		world.faults.protect = 15;
		world.faults.leave = 15;
		world.faults.unmap = 30;
		world.faults.seal = 6;
		world.faults.open = 6;
		world.faults.held = 12;
		if (sim_one_in(3) && !world.faults.blind)
			world.faults.vma_limit = 12 + sim_below(40);
	}
}

/* A block that was left offline by a failing call comes back. */
static void every_block_online(void)
{
	for (int id = 0; id < world.nr_blocks; id++) {
		int r = vac_block_online(world.pool, id, VAC_ZONE_MOVABLE);

		if (r == -ENOENT) {
			struct vac_block_opts add = VAC_INIT(struct vac_block_opts);

			add.id = id;
			r = vac_block_add(world.pool, &add);
			work_must(r == id, SIM_CONTENT, "an add", r);
			r = vac_block_online(world.pool, id, VAC_ZONE_MOVABLE);
		}
		work_must(r == 0 || r == -EALREADY, SIM_CONTENT, "an online", r);
	}
}

/* Without failing calls, long-term pins and changes of mappings every block can leave: there is one
 * block's worth of memory more than all that is mapped. */
void work_every_block_leaves(void)
{
	for (int id = 0; id < world.nr_blocks; id++) {
		int r = cycle(id, 2000, 0);

		if (r < 0)
			sim_fail(SIM_LIVENESS, "block %d does not leave, and nothing holds it (%d)",
				 id, r);
	}
}

/*
 * Where the host did not tell, frames that were moved out of a block which stayed wait for that block to
 * leave. False: so many that none can; then there is nothing more to be seen in this world.
 */
bool work_quarantine_ends(void)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);

	for (int round = 0; round < 4; round++) {
		vac_pool_stats(world.pool, &st);
		if (st.frames_quarantined == 0)
			return true;
		for (int id = 0; id < world.nr_blocks; id++) {
			cycle(id, 2000, 0);
			every_block_online();
		}
	}
	vac_pool_stats(world.pool, &st);
	return st.frames_quarantined == 0;
}

static void final_check(void)
{
	uint64_t sum = 0, v;
	char msg[160];
	int r;

	for (int i = 0; i < world.nr_writers; i++)
		for (uint32_t p = 0; p < REGION_PAGES; p++)
			for (uint32_t k = 0; k < WORDS; k++)
				work_load(&world.writer[i], p, k);
	for (uint32_t p = 0; p < SHARED_PAGES; p++) {
		r = sim_load(world.shared + p * PAGE, &v);
		work_must(r == 0, SIM_CONTENT, "a load of the shared counter", r);
		sum += v;
	}
	/* With no pin anywhere nothing refuses, whatever it cuts. */
	for (int i = 0; i < world.nr_writers; i++) {
		uint32_t p = (uint32_t)sim_below(REGION_PAGES);

		r = vac_unmap(world.space, work_ptr(work_addr_of(&world.writer[i], p, 0)), PAGE);
		work_must(r == 0, SIM_LIVENESS, "an unmap at rest", r);
	}
	if (sum != world.added)
		sim_fail(SIM_CONTENT, "the shared counters are %llu, %llu were added",
			 (unsigned long long)sum, (unsigned long long)world.added);
	r = vac_pool_check(world.pool, msg, sizeof(msg));
	if (r < 0)
		sim_fail(SIM_LEAK, "%s", msg);
}

void work_run(void *arg)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct sim_faults none = {0};
	bool over = false;
	int a = -1, a2 = -1, o = -1, more[MORE_MAX], r;

	memset(&world, 0, sizeof(world));
	world.cfg = *(const struct work_config *)arg;
	world.kind = kinds[world.cfg.workload];
	draw_world();
	open_pool();
	sim_faults(&world.faults);
	for (int i = 0; i < world.nr_queues; i++)
		world.queue[i] = sim_spawn("queue", work_queue, NULL);
	for (int i = 0; i < world.nr_writers; i++)
		world.writer[i].thread = sim_spawn("writer", work_writer, &world.writer[i]);
	for (int i = 0; i < world.kind->nr_more; i++)
		more[i] = sim_spawn(world.kind->more_name, world.kind->more, NULL);
	a = sim_spawn("admin", admin, NULL);
	if (world.admin2)
		a2 = sim_spawn("admin2", admin, NULL);
	if (world.observer)
		o = sim_spawn("observer", observer, NULL);
	for (int i = 0; i < world.nr_writers; i++)
		sim_join(world.writer[i].thread);
	sim_join(a);
	if (a2 >= 0)
		sim_join(a2);
	if (o >= 0)
		sim_join(o);

	sim_note("second phase");
	none.waits = world.faults.waits;
	none.blind = world.faults.blind;
	none.slow = world.faults.slow;
	none.disk_slow = world.faults.disk_slow;
	sim_faults(&none);
	every_block_online();
	over = world.faults.blind && !work_quarantine_ends();
	if (world.kind->calm)
		world.kind->calm();
	world.calm = !over;
	for (int i = 0; i < world.nr_writers && !over; i++)
		world.writer[i].thread = sim_spawn("writer", work_writer, &world.writer[i]);
	if (!over)
		work_every_block_leaves();
	for (int i = 0; i < world.nr_writers && !over; i++)
		sim_join(world.writer[i].thread);
	if (world.kind->end && !over)
		world.kind->end();
	world.stop = true;
	for (int i = 0; i < world.nr_queues; i++)
		sim_join(world.queue[i]);
	for (int i = 0; i < world.kind->nr_more; i++)
		sim_join(more[i]);

	if (world.kind->rest)
		world.kind->rest();
	final_check();
	vac_pool_stats(world.pool, &st);
	if (st.dangling)
		sim_fail(SIM_CRASH, "%llu dangling migration entries",
			 (unsigned long long)st.dangling);
	r = vac_pool_close(world.pool);
	work_must(r == 0, SIM_LEAK, "a pool's closing", r);
	if (sim_meta_live())
		sim_fail(SIM_LEAK, "%zu pieces of metadata left", sim_meta_live());
	sim_over();
}

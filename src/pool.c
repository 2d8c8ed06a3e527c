/* SPDX-License-Identifier: MIT */
/*
 * Pools: open, close, statistics. A pool is one reservation of metadata: descriptors of all frames
 * that max_bytes allows, readable for the pool's whole life whether their block is there or not.
 */
#include "internal.h"

#define DEFAULT_BLOCK_BYTES (UINT64_C(128) << 20)
#define DEFAULT_MAX_BYTES (UINT64_C(64) << 30)
#define DEFAULT_FAULT_PAGES (VAC__PB_PAGES / 32 ? VAC__PB_PAGES / 32 : 1)

const struct vac__mem_ops *vac__mem_ops_override;

void vac__log(struct vac_pool *pool, enum vac_log_level level, const char *msg)
{
	if (pool->opts.log)
		pool->opts.log(pool->opts.log_ctx, level, msg);
}

static bool power_of_two(uint64_t v)
{
	return v && (v & (v - 1)) == 0;
}

static unsigned log2_of(uint64_t v)
{
	unsigned n = 0;

	while (v >>= 1)
		n++;
	return n;
}

/* Fill in the defaults and refuse what is out of range. */
static int complete(struct vac_pool_opts *o)
{
	if (o->block_bytes == 0)
		o->block_bytes = DEFAULT_BLOCK_BYTES;
	if (o->max_bytes == 0)
		o->max_bytes = DEFAULT_MAX_BYTES < o->block_bytes ? o->block_bytes
								  : DEFAULT_MAX_BYTES;
	if (o->gate_timeout_ms == 0)
		o->gate_timeout_ms = 1000;
	if (o->longterm_pct == 0)
		o->longterm_pct = 75;
	if (o->longterm_pct > 100)
		return -EINVAL;
	if (o->aio_events == 0)
		o->aio_events = VAC__AIO_EVENTS;
	if (o->fault_bytes == 0)
		o->fault_bytes = DEFAULT_FAULT_PAGES * VAC_PAGE_BYTES;
	if (!power_of_two(o->block_bytes) || o->block_bytes < VAC_BLOCK_BYTES_MIN ||
	    o->block_bytes > VAC_BLOCK_BYTES_MAX)
		return -EINVAL;
	if (!power_of_two(o->fault_bytes) || o->fault_bytes < VAC_PAGE_BYTES ||
	    o->fault_bytes > VAC_PAGEBLOCK_BYTES)
		return -EINVAL;
	if (o->max_bytes < o->block_bytes || o->max_bytes / o->block_bytes > VAC__MAX_BLOCKS ||
	    o->max_bytes >> VAC__PAGE_SHIFT >= VAC__NO_PFN)
		return -EINVAL;
	if (o->flags &
	    ~(VAC_POOL_STACKS | VAC_POOL_NO_HUGE | VAC_POOL_BASE_ONLY | VAC_POOL_FORK_COPY |
	      VAC_POOL_PINS_ONLY | VAC_POOL_TEST_NO_LOOK | VAC_POOL_COMPACT))
		return -EINVAL;
	if (o->aio_events > UINT32_C(1) << 20)
		return -EINVAL;
	if ((unsigned)o->guard > VAC_GUARD_USERFAULTFD)
		return -EINVAL;
	return 0;
}

static void release(struct vac_pool *pool)
{
	size_t frames = (size_t)pool->max_blocks << pool->block_shift;

	if (pool->direct)
		pool->mem->direct_release(pool->mem_ctx, pool->direct, pool->direct_bytes);
	vac__ledger_close(pool);
	if (pool->mem_ctx)
		pool->mem->close(pool->mem_ctx);
	if (pool->frames)
		vac__port_table_release(pool->frames, frames * sizeof(*pool->frames));
	if (pool->pbs)
		vac__port_table_release(pool->pbs, (frames >> VAC__PB_ORDER) * sizeof(*pool->pbs));
	if (pool->watch)
		vac__port_table_release(pool->watch, frames * sizeof(*pool->watch));
	if (pool->blocks)
		vac__port_meta_release(pool->blocks, pool->max_blocks * sizeof(*pool->blocks));
	vac__port_meta_release(pool, sizeof(*pool));
}

static int pool_open(const struct vac_pool_opts *o, const char *name, struct vac_pool **out)
{
	struct vac_pool *pool = vac__port_meta_reserve(sizeof(*pool));
	size_t frames, align;
	void *direct;
	int r;

	if (!pool)
		return -ENOMEM;
	memcpy(pool->name, name, strlen(name) + 1);
	pool->opts = *o;
	pool->opts.name = pool->name;
	pool->mem = vac__mem_ops_override ? vac__mem_ops_override : &vac__port_mem_ops;
	pool->guard = (int)o->guard;
	pool->max_blocks = (uint32_t)(o->max_bytes / o->block_bytes);
	pool->block_shift = log2_of(o->block_bytes) - VAC__PAGE_SHIFT;
	pool->pb_per_block = UINT32_C(1) << (pool->block_shift - VAC__PB_ORDER);
	frames = (size_t)pool->max_blocks << pool->block_shift;
	for (unsigned z = 0; z < 2; z++)
		for (unsigned order = 0; order <= VAC__PB_ORDER; order++)
			pool->free[z][order].head = pool->free[z][order].tail = VAC__NO_PFN;
	pool->resv.head = pool->resv.tail = VAC__NO_PFN;
	pool->draining = pool->long_pb = VAC__NO_PFN;

	r = pool->mem->open(&pool->mem_ctx, pool->name, &pool->guard, o->flags);
	if (r < 0) {
		pool->mem_ctx = NULL;
		goto fail;
	}
	pool->watches = pool->guard == VAC_GUARD_USERFAULTFD;
	r = -ENOMEM;
	pool->frames = vac__port_table_reserve(frames * sizeof(*pool->frames));
	pool->pbs = vac__port_table_reserve((frames >> VAC__PB_ORDER) * sizeof(*pool->pbs));
	pool->blocks = vac__port_meta_reserve(pool->max_blocks * sizeof(*pool->blocks));
	pool->watch = vac__port_table_reserve(frames * sizeof(*pool->watch));
	if (!pool->watch || !pool->frames || !pool->pbs || !pool->blocks ||
	    vac__ledger_open(pool) < 0)
		goto fail;
	pool->direct_bytes = frames << VAC__PAGE_SHIFT;
	align = VAC_PAGEBLOCK_BYTES;
	r = pool->mem->direct_reserve(pool->mem_ctx, pool->direct_bytes, align, &direct);
	if (r < 0)
		goto fail;
	pool->direct = direct;
	r = o->flags & VAC_POOL_COMPACT ? vac__compactor_start(pool) : 0;
	if (r < 0)
		goto fail;
	vac__pool_link(pool);
	*out = pool;
	if (o->guard == VAC_GUARD_AUTO && pool->guard != VAC_GUARD_USERFAULTFD)
		vac__log(
			pool, VAC_LOG_INFO,
			"guard sigsegv, as the host does not allow userfaultfd: system calls on pool "
			"memory that is absent or leaving answer EFAULT, see vacate(7)");
	return 0;
fail:
	release(pool);
	return r;
}

int vac_pool_open(const struct vac_pool_opts *opts, struct vac_pool **pool)
{
	struct vac_pool_opts o = {.size = sizeof(o)};
	char name[VAC_NAME_MAX] = "pool";
	struct vac_pool *p = NULL;
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (!pool)
		return -EINVAL;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(o))
			return -EINVAL;
		memcpy(&o, opts, opts->size);
	}
	if (o.name) {
		if (strlen(o.name) >= VAC_NAME_MAX)
			return -EINVAL;
		memcpy(name, o.name, strlen(o.name) + 1);
	}
	r = complete(&o);
	if (r < 0)
		return r;
	VAC__ENTER();
	r = pool_open(&o, name, &p);
	VAC__LEAVE();
	if (r == 0)
		*pool = p;
	return r;
}

int vac_pool_close(struct vac_pool *pool)
{
	int r = 0;

	if (vac__port_forked())
		return -EPERM;
	if (vac__ld(&pool->holds))
		return -EBUSY;
	VAC__ENTER();
	for (uint32_t i = 0; i < vac__ld_acq(&pool->ledger.top) && r == 0; i++)
		if (vac__seq_used(vac__ld_acq(&pool->ledger.rec[i].seq)) &&
		    !(vac__ld_acq(&pool->ledger.rec[i].flags) & VAC_OWNER_WAITWORDS))
			r = -EBUSY;
	if (r == 0)
		r = vac__aio_close(pool);
	if (r == 0) {
		vac__compactor_stop(pool);
		vac__reloc_stop(pool);
	}
	for (uint32_t i = 0; i < VAC__MAX_SPACES && r == 0; i++) {
		struct vac_space *s = vac__ld(&pool->spaces[i]);

		if (s)
			r = vac_space_destroy(s);
	}
	if (r == 0) {
		if (vac__ld(&pool->swap.state) != VAC__SWAP_OFF)
			vac__reclaim_stop(pool);
		vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
		for (uint32_t i = 0; i < pool->max_blocks; i++) {
			if (vac__ld(&pool->blocks[i].state) > VAC_BLOCK_OFFLINE + 1)
				vac__block_free_memory(pool, (int)i);
			if (vac__ld(&pool->blocks[i].state))
				vac__block_drop_file(pool, &pool->blocks[i]);
		}
		vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
		vac__pool_unlink(pool);
		vac__swap_release(pool);
		release(pool);
	}
	VAC__LEAVE();
	return r;
}

int vac_pool_stats(struct vac_pool *pool, struct vac_pool_stats *stats)
{
	struct vac_pool_stats s = {.size = sizeof(s)};

	if (vac__port_forked())
		return -EPERM;
	if (!stats || stats->size < sizeof(size_t) || stats->size > sizeof(s))
		return -EINVAL;
	s.size = stats->size;
	s.guard = (enum vac_guard)pool->guard;
	s.block_bytes = pool->opts.block_bytes;
	for (uint32_t i = 0; i < pool->max_blocks; i++) {
		uint32_t state = vac__ld_acq(&pool->blocks[i].state);

		s.blocks += state != 0;
		s.blocks_online += state > VAC_BLOCK_OFFLINE + 1 &&
				   state != VAC_BLOCK_QUARANTINE + 1;
	}
	s.frames_total = vac__ld_rlx(&pool->nr_total);
	s.frames_free = vac__ld_rlx(&pool->nr_free);
	s.frames_reserved = vac__ld_rlx(&pool->nr_resv);
	s.frames_isolated = vac__ld_rlx(&pool->nr_isolated);
	s.frames_quarantined = vac__ld_rlx(&pool->nr_quar);
	s.frames_used = s.frames_total - s.frames_free - s.frames_reserved - s.frames_isolated -
			s.frames_quarantined;
	s.pageblocks_huge = vac__ld_rlx(&pool->nr_pb_huge);
	s.pageblocks_base = vac__ld_rlx(&pool->nr_pb_base);
	s.spaces = vac__ld_rlx(&pool->nr_spaces);
	for (uint32_t i = 0; i < vac__ld_acq(&pool->ledger.top); i++)
		s.pins += vac__seq_used(vac__ld_acq(&pool->ledger.rec[i].seq));
	vac__port_vma_usage(&s.host_vmas, &s.host_vma_limit);
	s.meta_bytes_per_block = (sizeof(struct vac__frame) << pool->block_shift) +
				 pool->pb_per_block * sizeof(struct vac__pb);
	s.faults = vac__ld_rlx(&pool->c.faults);
	s.fault_waits = vac__ld_rlx(&pool->c.fault_waits);
	s.migrate_attempts = vac__ld_rlx(&pool->c.migrate_attempts);
	s.migrate_folios = vac__ld_rlx(&pool->c.migrate_folios);
	s.migrate_bytes = vac__ld_rlx(&pool->c.migrate_bytes);
	s.gate_waits = vac__ld_rlx(&pool->c.gate_waits);
	s.splits = vac__ld_rlx(&pool->c.splits);
	s.dangling = vac__ld_rlx(&pool->c.dangling);
	s.wakes = vac__ld_rlx(&pool->c.wakes);
	s.wake_batch_max_ns = vac__ld_rlx(&pool->c.wake_batch_max_ns);
	s.sees_holders = pool->mem->sees(pool->mem_ctx);
	s.foreign_held = vac__ld_rlx(&pool->c.foreign_held);
	s.late_carried_bytes = vac__ld_rlx(&pool->c.late_carried);
	s.late_lost_bytes = vac__ld_rlx(&pool->c.late_lost);
	s.snapshots = vac__ld_rlx(&pool->c.snapshots);
	s.snapshot_copies = vac__ld_rlx(&pool->c.snapshot_copies);
	s.cow_copies = vac__ld_rlx(&pool->c.cow_copies);
	s.cow_bytes = vac__ld_rlx(&pool->c.cow_bytes);
	s.cow_reuses = vac__ld_rlx(&pool->c.cow_reuses);
	s.pageblocks_free = vac__ld_rlx(&pool->nr_pb_free);
	s.compact_folios = vac__ld_rlx(&pool->c.gathered);
	s.collapsed_in_place = vac__ld_rlx(&pool->c.collapsed_in_place);
	s.collapsed_by_copy = vac__ld_rlx(&pool->c.collapsed_by_copy);
	s.dangling_repaired = vac__ld_rlx(&pool->c.repaired);
	s.swap_slots = vac__ld(&pool->swap.state) == VAC__SWAP_OFF ? 0 : pool->swap.nr_slots;
	s.swap_used = vac__ld_rlx(&pool->swap.nr_taken);
	s.swap_bad = vac__ld_rlx(&pool->swap.nr_bad);
	s.swap_in = vac__ld_rlx(&pool->swap.in);
	s.swap_out = vac__ld_rlx(&pool->swap.out);
	s.swap_second_chances = vac__ld_rlx(&pool->swap.second_chances);
	s.swap_errors = vac__ld_rlx(&pool->swap.errors);
	s.longterm_frames = vac__ld_rlx(&pool->longterm.pages);
	s.longterm_kept = vac__ld_rlx(&pool->longterm.kept);
	s.longterm_limit = vac__long_limit(pool);
	s.longterm_moved = vac__ld_rlx(&pool->longterm.moved);
	s.longterm_moved_back = vac__ld_rlx(&pool->longterm.back);
	s.longterm_failed = vac__ld_rlx(&pool->longterm.failed);
	memcpy(stats, &s, s.size);
	return 0;
}

int vac_pool_check(struct vac_pool *pool, char *msg, size_t msg_bytes)
{
	char text[160] = "";
	int r;

	if (vac__port_forked())
		return -EPERM;
	VAC__ENTER();
	vac__aio_quiet(pool);
	pool->mem->quiet(pool->mem_ctx);
	vac__lock(&pool->swap.step, VAC__RANK_BACKGROUND);
	r = vac__check(pool, text, sizeof(text));
	vac__unlock(&pool->swap.step, VAC__RANK_BACKGROUND);
	VAC__LEAVE();
	if (msg && msg_bytes) {
		size_t n = strlen(text);

		n = n < msg_bytes ? n : msg_bytes - 1;
		memcpy(msg, text, n);
		msg[n] = '\0';
	}
	return r;
}

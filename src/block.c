/* SPDX-License-Identifier: MIT */
/*
 * Memory blocks: add, online, remove, look. (Taking one away is offline.c.)
 *
 *	 unknown --add--> OFFLINE --online--> ONLINE --offline--> ISOLATING -> EVACUATING
 *	    ^                |  ^                ^                      |            |
 *	    +----remove------+  |                +------- roll-back ----+------------+
 *	                        +--------------------------- commit -----------------+
 *	                        +--- commit --- QUARANTINE <--- empty, but held -----+
 *
 * Invariant: states change under the hotplug lock; a block has a backing, and frames that the
 * allocator knows, exactly while it is not OFFLINE. States are read without the lock by
 * vac_block_info() and reports: they may be one step late.
 */
#include "internal.h"

bool vac__block_valid(struct vac_pool *pool, int id)
{
	return id >= 0 && (uint32_t)id < pool->max_blocks && vac__ld_acq(&pool->blocks[id].state);
}

static uint32_t nr_pbs(struct vac_pool *pool)
{
	return pool->pb_per_block;
}

/* The file of a block to be: not one that is another block's. The hotplug lock is held. */
static int take_file(struct vac_pool *pool, struct vac__block *b, int fd)
{
	struct vac__file f;
	int r = -EOPNOTSUPP;

	if (pool->mem->file_take)
		r = pool->mem->file_take(pool->mem_ctx, fd, (size_t)pool->opts.block_bytes, &f);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < pool->max_blocks; i++) {
		struct vac__block *o = &pool->blocks[i];

		if (vac__ld_rlx(&o->state) && vac__ld_rlx(&o->file_flags) &&
		    o->file.id[0] == f.id[0] && o->file.id[1] == f.id[1]) {
			r = -EBUSY;
			break;
		}
	}
	if (r == 0)
		r = pool->mem->file_lock(pool->mem_ctx, &f);
	if (r < 0) {
		pool->mem->file_drop(pool->mem_ctx, &f);
		return r;
	}
	b->file = f;
	vac__st(&b->file_flags, f.unsealable ? 3 : 1);
	return 0;
}

/* The block goes: give its file back, if it has one. The hotplug lock is held. */
void vac__block_drop_file(struct vac_pool *pool, struct vac__block *b)
{
	if (!vac__ld_rlx(&b->file_flags))
		return;
	pool->mem->file_drop(pool->mem_ctx, &b->file);
	vac__st(&b->file_flags, 0);
}

int vac_block_add(struct vac_pool *pool, const struct vac_block_opts *opts)
{
	struct vac_block_opts o = {.size = sizeof(o), .id = -1};
	int id, r = -ENOSPC;

	if (vac__port_forked())
		return -EPERM;
	if (opts) {
		if (opts->size < sizeof(size_t) || opts->size > sizeof(o))
			return -EINVAL;
		memcpy(&o, opts, opts->size);
		if (o.id < -1 || (o.flags & ~VAC_BLOCK_FILE))
			return -EINVAL;
		if (o.id >= 0 && (uint32_t)o.id >= pool->max_blocks)
			return -ENOSPC;
	}
	VAC__ENTER();
	vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
	for (id = o.id < 0 ? 0 : o.id; (uint32_t)id < pool->max_blocks; id++) {
		struct vac__block *b = &pool->blocks[id];

		if (vac__ld_rlx(&b->state) == 0) {
			vac__st(&b->file_flags, 0);
			r = o.flags & VAC_BLOCK_FILE ? take_file(pool, b, o.fd) : 0;
			if (r < 0)
				break;
			vac__st(&b->fd, -1);
			vac__st(&b->state, VAC_BLOCK_OFFLINE + 1);
			r = id;
			break;
		}
		if (o.id >= 0) {
			r = -EEXIST;
			break;
		}
	}
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	VAC__LEAVE();
	return r;
}

/* A core dump needs the descriptors of a block that has memory. */
static void dense(struct vac_pool *pool, int id)
{
	size_t frames = (size_t)pool->max_blocks << pool->block_shift, n = nr_pbs(pool);
	size_t at = vac__block_pfn(pool, id) >> VAC__PB_ORDER;

	vac__port_table_dense(pool->frames, frames * sizeof(*pool->frames),
			      at * VAC__PB_PAGES * sizeof(*pool->frames),
			      n * VAC__PB_PAGES * sizeof(*pool->frames));
	vac__port_table_dense(pool->pbs, (frames >> VAC__PB_ORDER) * sizeof(*pool->pbs),
			      at * sizeof(*pool->pbs), n * sizeof(*pool->pbs));
}

static int online(struct vac_pool *pool, int id, enum vac_zone zone)
{
	uint64_t resident;
	struct vac__block *b = &pool->blocks[id];
	uint32_t pfn = vac__block_pfn(pool, id);
	int r;

	if (!vac__block_valid(pool, id))
		return -ENOENT;
	vac__quarantine_release(pool);
	pool->nr_lost = 0;
	/* Empty, and held: it may come back only as new memory, so it must have left first. */
	if (vac__ld_rlx(&b->state) == VAC_BLOCK_QUARANTINE + 1 &&
	    vac__block_give_back(pool, id, &resident) < 0)
		return -EBUSY;
	if (vac__ld_rlx(&b->state) != VAC_BLOCK_OFFLINE + 1)
		return -EALREADY;
	if (vac__ld_rlx(&b->file_flags))
		r = pool->mem->block_open_file(pool->mem_ctx, &b->file,
					       (size_t)pool->opts.block_bytes,
					       vac__frame_addr(pool, pfn), &b->backing);
	else
		r = pool->mem->block_open(pool->mem_ctx, id, (size_t)pool->opts.block_bytes,
					  vac__frame_addr(pool, pfn), &b->backing);
	if (r < 0)
		return r;
	dense(pool, id);
	b->zone = (uint8_t)zone;
	vac__st(&b->fd, b->backing.fd);
	vac__st(&b->cancel, 0);
	vac__st(&b->state, VAC_BLOCK_ONLINE + 1);
	if ((uint32_t)id >= vac__ld_rlx(&pool->swap.top))
		vac__st_rlx(&pool->swap.top, (uint32_t)id + 1);
	for (uint32_t i = 0; i < nr_pbs(pool); i++)
		vac__frames_online(pool, pfn + i * VAC__PB_PAGES, zone);
	vac__progress(pool);
	return 0;
}

int vac_block_online(struct vac_pool *pool, int id, enum vac_zone zone)
{
	int r;

	if (vac__port_forked())
		return -EPERM;
	if (zone != VAC_ZONE_MOVABLE && zone != VAC_ZONE_NORMAL)
		return -EINVAL;
	VAC__ENTER();
	vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
	r = online(pool, id, zone);
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	VAC__LEAVE();
	return r;
}

/*
 * Every frame is free or in quarantine, and isolated: have the platform certify that nobody holds the
 * memory, carry over what was written late, then give it back. -EBUSY: somebody does, or a page that
 * late bytes belong to is pinned; the memory stays as it is, for nobody. The hotplug lock is held.
 */
int vac__block_give_back(struct vac_pool *pool, int id, uint64_t *resident)
{
	struct vac__block *b = &pool->blocks[id];
	uint32_t pfn = vac__block_pfn(pool, id);

	if (!b->sealed) {
		if (pool->mem->block_seal(pool->mem_ctx, &b->backing, vac__ld(&b->watched),
					  &b->resident) < 0)
			return -EBUSY;
		b->sealed = true;
	}
	if (vac__watch_settle(pool, id, b->backing.direct != NULL) < 0)
		return -EBUSY;
	*resident = b->resident;
	for (uint32_t i = 0; i < nr_pbs(pool); i++)
		vac__frames_offline(pool, pfn + i * VAC__PB_PAGES);
	vac__block_free_memory(pool, id);
	return 0;
}

/* Give the memory back unconditionally: at the end of an offline, or of the pool. */
void vac__block_free_memory(struct vac_pool *pool, int id)
{
	struct vac__block *b = &pool->blocks[id];

	vac__st(&b->fd, -1);
	b->sealed = false;
	pool->mem->block_close(pool->mem_ctx, &b->backing);
	vac__st(&b->state, VAC_BLOCK_OFFLINE + 1);
}

/* The descriptors of a block that goes for good: give their memory back where they fill pages. */
static void discard_meta(struct vac_pool *pool, int id)
{
	size_t bytes = sizeof(struct vac__frame) << pool->block_shift;

	if (bytes % VAC_PAGE_BYTES == 0)
		vac__port_meta_discard(vac__frame(pool, vac__block_pfn(pool, id)), bytes);
}

int vac_block_remove(struct vac_pool *pool, int id)
{
	int r = 0;

	if (vac__port_forked())
		return -EPERM;
	VAC__ENTER();
	vac__lock(&pool->hotplug, VAC__RANK_HOTPLUG);
	if (!vac__block_valid(pool, id)) {
		r = -ENOENT;
	} else if (vac__ld_rlx(&pool->blocks[id].state) != VAC_BLOCK_OFFLINE + 1) {
		r = -EBUSY;
	} else {
		vac__st(&pool->blocks[id].state, 0);
		vac__block_drop_file(pool, &pool->blocks[id]);
		discard_meta(pool, id);
	}
	vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	VAC__LEAVE();
	return r;
}

int vac_block_max(struct vac_pool *pool)
{
	return vac__port_forked() ? -EPERM : (int)pool->max_blocks;
}

static uint64_t pins_on_block(struct vac_pool *pool, int id)
{
	uint32_t first = vac__block_pfn(pool, id), frames = UINT32_C(1) << pool->block_shift;
	uint32_t top = vac__ld_acq(&pool->ledger.top);
	uint64_t n = 0;

	for (uint32_t i = 0; i < top; i++)
		n += vac__pin_touches(pool, i, first, frames);
	return n;
}

int vac_block_info(struct vac_pool *pool, int id, struct vac_block_info *info)
{
	struct vac_block_info i = {.size = sizeof(i), .id = id};
	uint32_t state, pfn;

	if (vac__port_forked())
		return -EPERM;
	if (!info || info->size < sizeof(size_t) || info->size > sizeof(i))
		return -EINVAL;
	if (!vac__block_valid(pool, id))
		return -ENOENT;
	i.size = info->size;
	pfn = vac__block_pfn(pool, id);
	VAC__ENTER();
	state = vac__ld_acq(&pool->blocks[id].state);
	i.state = state ? (enum vac_block_state)(state - 1) : VAC_BLOCK_OFFLINE;
	i.bytes = pool->opts.block_bytes;
	i.pageblocks = nr_pbs(pool);
	i.fd = vac__ld(&pool->blocks[id].fd);
	i.file = (vac__ld(&pool->blocks[id].file_flags) & 1) != 0;
	i.unsealable = (vac__ld(&pool->blocks[id].file_flags) & 2) != 0;
	i.pins = pins_on_block(pool, id);
	for (uint32_t k = 0; k < nr_pbs(pool) && i.state != VAC_BLOCK_OFFLINE; k++) {
		struct vac__pb *pb = &pool->pbs[(pfn >> VAC__PB_ORDER) + k];
		uint32_t nr_free, nr_resv;

		i.frames_used +=
			vac__frames_used(pool, pfn + k * VAC__PB_PAGES, &nr_free, &nr_resv);
		i.frames_free += nr_free;
		i.frames_reserved += nr_resv;
		i.frames_quarantined += vac__ld_rlx(&pb->nr_quar);
		i.pageblocks_huge += vac__ld_rlx(&pb->populated) == VAC__PB_HUGE;
		i.pageblocks_base += vac__ld_rlx(&pb->populated) == VAC__PB_BASE;
	}
	i.zone = pool->blocks[id].zone;
	VAC__LEAVE();
	memcpy(info, &i, i.size);
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * Requests and their answers, without the socket: the server sends what comes out, the fuzzer sees
 * what goes in.
 *
 * Invariants:
 *  - nothing of a request is used before its length, its version and every field of it are checked;
 *  - what may wait for the pool's hotplug lock (whoever takes a block away keeps it for as long as
 *    that lasts) is a work, and never done here;
 *  - each work is whole or not at all, whatever becomes of its client;
 *  - an answer never holds a byte that was not meant: packets are cleared before they are filled.
 */
#include "control/request.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

void vac__ctl_answer(struct vac__ctl_packet *out, unsigned op, int status, size_t body)
{
	out->head.magic = VAC__CTL_MAGIC;
	out->head.version = VAC__CTL_VERSION;
	out->head.op = (uint16_t)op;
	out->head.bytes = (uint32_t)(sizeof(out->head) + body);
	out->head.status = status;
}

/* ---- Looking -------------------------------------------------------------------------------- */

static int answer_pool(struct vac_pool *pool, uint32_t works, struct vac__ctl_packet *out)
{
	struct vac_pool_stats s = VAC_INIT(struct vac_pool_stats);
	struct vac__ctl_pool *p = &out->u.pool;
	int r = vac_pool_stats(pool, &s);

	if (r < 0)
		return r;
	p->pid = (uint32_t)getpid();
	p->guard = (uint32_t)s.guard;
	p->max_blocks = (uint32_t)vac_block_max(pool);
	p->works = works;
	p->block_bytes = s.block_bytes;
	p->blocks = s.blocks;
	p->blocks_online = s.blocks_online;
	p->frames_total = s.frames_total;
	p->frames_free = s.frames_free;
	p->frames_reserved = s.frames_reserved;
	p->frames_used = s.frames_used;
	p->frames_isolated = s.frames_isolated;
	p->pageblocks_huge = s.pageblocks_huge;
	p->pageblocks_base = s.pageblocks_base;
	p->spaces = s.spaces;
	p->pins = s.pins;
	p->host_vmas = s.host_vmas;
	p->host_vma_limit = s.host_vma_limit;
	p->meta_bytes_per_block = s.meta_bytes_per_block;
	p->faults = s.faults;
	p->migrate_folios = s.migrate_folios;
	p->migrate_bytes = s.migrate_bytes;
	p->gate_waits = s.gate_waits;
	p->pageblocks_free = s.pageblocks_free;
	p->compact_folios = s.compact_folios;
	p->collapsed_in_place = s.collapsed_in_place;
	p->collapsed_by_copy = s.collapsed_by_copy;
	p->dangling = s.dangling;
	p->snapshots = s.snapshots;
	p->cow_copies = s.cow_copies;
	p->swap_slots = s.swap_slots;
	p->swap_used = s.swap_used;
	p->swap_bad = s.swap_bad;
	p->swap_in = s.swap_in;
	p->swap_out = s.swap_out;
	p->swap_second_chances = s.swap_second_chances;
	p->swap_errors = s.swap_errors;
	memcpy(p->name, pool->name, sizeof(p->name));
	strncpy(p->version, vac_version(), sizeof(p->version) - 1);
	return sizeof(*p);
}

static int answer_blocks(struct vac_pool *pool, uint32_t first, struct vac__ctl_packet *out)
{
	struct vac__ctl_blocks *bs = &out->u.blocks;
	uint32_t max = (uint32_t)vac_block_max(pool), id;

	bs->next = UINT32_MAX;
	for (id = first; id < max; id++) {
		struct vac_block_info i = VAC_INIT(struct vac_block_info);
		struct vac__ctl_block *b = &bs->block[bs->n];

		if (vac_block_info(pool, (int)id, &i) < 0)
			continue; /* there is none of this number */
		if (bs->n == VAC__CTL_BLOCKS_MAX) {
			bs->next = id;
			break;
		}
		bs->n++;
		b->id = id;
		b->state = (uint8_t)i.state;
		b->zone = (uint8_t)i.zone;
		b->bytes = i.bytes;
		b->frames_used = i.frames_used;
		b->frames_free = i.frames_free;
		b->frames_reserved = i.frames_reserved;
		b->pageblocks = i.pageblocks;
		b->pageblocks_huge = i.pageblocks_huge;
		b->pageblocks_base = i.pageblocks_base;
		b->pins = i.pins;
		b->file = i.file != 0;
		b->unsealable = i.unsealable != 0;
	}
	return (int)(offsetof(struct vac__ctl_blocks, block) + bs->n * sizeof(bs->block[0]));
}

static int answer_why(struct vac_pool *pool, struct vac__ctl_session *s, uint32_t id,
		      struct vac__ctl_packet *out)
{
	struct vac_report *report;
	int r;

	if (id > INT32_MAX)
		return -ENOENT;
	r = vac_report_block(pool, (int)id, &report);
	if (r < 0)
		return r;
	vac_report_free(s->report);
	s->report = report;
	out->u.two.a = vac_report_count(report);
	return sizeof(out->u.two);
}

struct pick {
	uint32_t left;
	struct vac__ctl_blocker *b;
};

static int pick_blocker(void *ctx, const struct vac_blocker *b)
{
	struct pick *p = ctx;
	struct vac__ctl_blocker *c = p->b;

	if (p->left--)
		return 0;
	c->cls = (uint32_t)b->cls;
	c->block = (uint32_t)b->block;
	c->pfn = b->pfn;
	c->addr = b->addr;
	c->frames = b->frames;
	c->refs = b->refs;
	c->pins = b->pins;
	c->map = b->map;
	c->expected_refs = b->expected_refs;
	c->attempts = b->attempts;
	c->last_error = b->last_error;
	c->frozen = b->frozen != 0;
	c->gated = b->gated != 0;
	c->waiters = b->waiters != 0;
	c->locked = b->locked != 0;
	c->owners = b->owners;
	memcpy(c->space, b->space, sizeof(c->space));
	return 1;
}

static int answer_blocker(struct vac__ctl_session *s, uint32_t index, struct vac__ctl_packet *out)
{
	struct pick p = {.left = index, .b = &out->u.blocker};

	if (index >= vac_report_count(s->report))
		return -ERANGE;
	vac_report_walk(s->report, pick_blocker, &p);
	return sizeof(out->u.blocker);
}

static int answer_owners(struct vac__ctl_session *s, uint32_t index, uint32_t first,
			 struct vac__ctl_packet *out)
{
	struct vac__ctl_owners *os = &out->u.owners;
	struct vac_owner o;

	while (os->n < VAC__CTL_OWNERS_MAX && first <= UINT32_MAX - os->n &&
	       vac_report_owner(s->report, index, first + os->n, &o) == 0) {
		struct vac__ctl_owner *c = &os->owner[os->n++];

		c->tid = o.tid;
		c->flags = o.flags;
		c->age_ns = o.age_ns;
		c->addr = o.addr;
		c->len = o.len;
		c->stack_depth = o.stack_depth;
		c->error = o.error;
		memcpy(c->owner, o.owner, sizeof(c->owner));
		memcpy(c->thread, o.thread, sizeof(c->thread));
		for (unsigned i = 0; i < o.stack_depth && i < VAC_STACK_MAX; i++)
			c->stack[i] = o.stack[i];
	}
	return (int)(offsetof(struct vac__ctl_owners, owner) + os->n * sizeof(os->owner[0]));
}

/* ---- Looking at a request ------------------------------------------------------------------- */

static size_t body_of(unsigned op)
{
	switch (op) {
	case VAC__CTL_POOL:
	case VAC__CTL_ABORT: return 0;
	case VAC__CTL_OFFLINE: return sizeof(struct vac__ctl_offline);
	case VAC__CTL_ADD: return sizeof(struct vac__ctl_add);
	default: return sizeof(struct vac__ctl_two);
	}
}

/* The fields of a work. 0, or -EINVAL. */
static int check_work(const struct vac__ctl_packet *p, bool has_fd)
{
	const struct vac__ctl_add *a = &p->u.add;

	switch (p->head.op) {
	case VAC__CTL_OFFLINE:
		return p->u.offline.flags & ~(VAC__CTL_BEST_EFFORT | VAC__CTL_DRY_RUN |
					      VAC__CTL_DETACH | VAC__CTL_REVOKE |
					      VAC__CTL_CANCEL_IO | VAC__CTL_WRITERS_MASK)
			       ? -EINVAL
			       : 0;
	case VAC__CTL_ONLINE: return p->u.two.b > VAC_ZONE_NORMAL ? -EINVAL : 0;
	case VAC__CTL_REMOVE: return p->u.two.b ? -EINVAL : 0;
	case VAC__CTL_ADD:
		if (a->id < -1 || a->zero || a->zone > VAC_ZONE_NORMAL ||
		    (a->flags & ~(VAC__CTL_ADD_ONLINE | VAC__CTL_ADD_FILE)))
			return -EINVAL;
		return has_fd == ((a->flags & VAC__CTL_ADD_FILE) != 0) ? 0 : -EINVAL;
	default: return -EINVAL;
	}
}

enum vac__ctl_next vac__ctl_request(struct vac_pool *pool, struct vac__ctl_session *s,
				    const void *req, size_t bytes, int *fd, uint32_t works,
				    struct vac__ctl_work *work, struct vac__ctl_packet *out)
{
	struct vac__ctl_packet p;
	unsigned op;
	int r;

	memset(out, 0, sizeof(*out));
	memset(&p, 0, sizeof(p));
	if (bytes < sizeof(p.head) || bytes > sizeof(p)) {
		vac__ctl_answer(out, 0, -EPROTO, 0);
		return VAC__CTL_HANG_UP;
	}
	memcpy(&p, req, bytes);
	op = p.head.op;
	r = 0;
	if (p.head.magic != VAC__CTL_MAGIC || p.head.bytes != bytes || p.head.status)
		r = -EPROTO;
	else if (p.head.version != VAC__CTL_VERSION)
		r = -EOPNOTSUPP;
	else if (op < VAC__CTL_POOL || op >= VAC__CTL_PROGRESS)
		r = -EOPNOTSUPP;
	else if (bytes != sizeof(p.head) + body_of(op))
		r = -EPROTO;
	if (r < 0) {
		vac__ctl_answer(out, op, r, 0);
		return VAC__CTL_HANG_UP;
	}
	switch (op) {
	case VAC__CTL_POOL: r = answer_pool(pool, works, out); break;
	case VAC__CTL_BLOCKS: r = p.u.two.b ? -EINVAL : answer_blocks(pool, p.u.two.a, out); break;
	case VAC__CTL_WHY: r = p.u.two.b ? -EINVAL : answer_why(pool, s, p.u.two.a, out); break;
	case VAC__CTL_BLOCKER: r = p.u.two.b ? -EINVAL : answer_blocker(s, p.u.two.a, out); break;
	case VAC__CTL_OWNERS: r = answer_owners(s, p.u.two.a, p.u.two.b, out); break;
	case VAC__CTL_CANCEL:
		r = p.u.two.b || p.u.two.a > INT32_MAX ? -EINVAL
						       : vac_block_cancel(pool, (int)p.u.two.a);
		break;
	case VAC__CTL_ABORT: return VAC__CTL_SILENCE; /* what it meant has ended meanwhile */
	default:
		r = check_work(&p, *fd >= 0);
		if (r < 0)
			break;
		if (works >= VAC__CTL_WORKS) {
			r = -EUSERS;
			break;
		}
		memset(work, 0, sizeof(*work));
		work->pool = pool;
		work->req = p;
		work->fd = *fd;
		*fd = -1;
		return VAC__CTL_WORK;
	}
	if (r < 0)
		memset(&out->u, 0, sizeof(out->u));
	vac__ctl_answer(out, op, r < 0 ? r : 0, r < 0 ? 0 : (size_t)r);
	return VAC__CTL_ANSWER;
}

/* ---- Working -------------------------------------------------------------------------------- */

static void offline_progress(void *ctx, const struct vac_offline_progress *p)
{
	struct vac__ctl_work *w = ctx;
	struct vac__ctl_progress c = {.id = (uint32_t)p->id,
				      .frames_used = p->frames_used,
				      .frames_left = p->frames_left,
				      .bytes_moved = p->bytes_moved,
				      .elapsed_ns = p->elapsed_ns};

	if (w->tell)
		w->tell(w, &c);
}

static void work_offline(struct vac__ctl_work *w)
{
	const struct vac__ctl_offline *q = &w->req.u.offline;
	struct vac__ctl_result *a = &w->answer.u.result;
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	int r = -ENOENT;

	o.timeout_ms = q->timeout_ms;
	o.flags = (q->flags & VAC__CTL_BEST_EFFORT ? VAC_OFFLINE_BEST_EFFORT : 0) |
		  (q->flags & VAC__CTL_DRY_RUN ? VAC_OFFLINE_DRY_RUN : 0) |
		  (q->flags & VAC__CTL_REVOKE ? VAC_OFFLINE_REVOKE : 0) |
		  (q->flags & VAC__CTL_CANCEL_IO ? VAC_OFFLINE_CANCEL_IO : 0);
	o.writers_pct = (q->flags & VAC__CTL_WRITERS_MASK) >> VAC__CTL_WRITERS;
	o.progress = offline_progress;
	o.progress_ctx = w;
	if (q->id <= INT32_MAX)
		r = vac__block_offline(w->pool, (int)q->id, &o, &res, &w->cancel);
	a->id = q->id;
	a->blockers = vac_report_count(res.report);
	a->bytes_moved = res.bytes_moved;
	a->huge_moved = res.huge_moved;
	a->base_moved = res.base_moved;
	a->attempts = res.attempts;
	a->elapsed_ns = res.elapsed_ns;
	a->copy_ns = res.copy_ns;
	a->missing_bytes = res.missing_bytes;
	a->possible_bytes = res.possible_bytes;
	a->given_back_bytes = res.given_back_bytes;
	a->waited_ns = res.waited_ns;
	a->waited_longest_ns = res.waited_longest_ns;
	a->waited_tid = res.waited_tid;
	memcpy(a->waited_for, res.waited_for, sizeof(a->waited_for));
	w->report = res.report;
	vac__ctl_answer(&w->answer, VAC__CTL_OFFLINE, r, sizeof(*a));
}

static int work_add(struct vac__ctl_work *w)
{
	const struct vac__ctl_add *q = &w->req.u.add;
	struct vac_block_opts o = VAC_INIT(struct vac_block_opts);
	int id, r = 0;

	o.id = q->id;
	o.fd = w->fd;
	o.flags = w->fd >= 0 ? VAC_BLOCK_FILE : 0;
	id = vac_block_add(w->pool, &o);
	if (id < 0)
		return id;
	if (q->flags & VAC__CTL_ADD_ONLINE)
		r = vac_block_online(w->pool, id, (enum vac_zone)q->zone);
	if (r < 0) {
		/* Fails only if somebody was quick enough to online or remove it himself. */
		vac_block_remove(w->pool, id);
		return r;
	}
	w->answer.u.two.a = (uint32_t)id;
	return 0;
}

void vac__ctl_work_run(struct vac__ctl_work *w)
{
	const struct vac__ctl_two *q = &w->req.u.two;
	size_t body = 0;
	int r = -ENOENT;

	memset(&w->answer, 0, sizeof(w->answer));
	w->report = NULL;
	switch (w->req.head.op) {
	case VAC__CTL_OFFLINE: work_offline(w); goto out;
	case VAC__CTL_ADD:
		r = work_add(w);
		body = r < 0 ? 0 : sizeof(w->answer.u.two);
		break;
	case VAC__CTL_ONLINE:
		if (q->a <= INT32_MAX)
			r = vac_block_online(w->pool, (int)q->a, (enum vac_zone)q->b);
		break;
	case VAC__CTL_REMOVE:
		if (q->a <= INT32_MAX)
			r = vac_block_remove(w->pool, (int)q->a);
		break;
	}
	vac__ctl_answer(&w->answer, w->req.head.op, r, body);
out:
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

void vac__ctl_work_cancel(struct vac__ctl_work *w)
{
	vac__st(&w->cancel, 1);
	vac__event_signal(&w->pool->progress);
}

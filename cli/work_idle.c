/* SPDX-License-Identifier: MIT */
/*
 * Workloads `idle` and `multipathd`: direct I/O contexts as the report of 2012 found them. multipathd had made
 * one a path by io_setup() and kept it for ever; the pages of the rings were pinned for as long, and no block
 * with one of them could leave again.
 *
 * `idle` has thousands of contexts that nobody uses, each with a ring page of the space; now and then one is
 * asked for an event, or destroyed and made anew. Nothing may be pinned because of them, and no offline may wait
 * for one. `multipathd` has the path checkers themselves: each reads one sector of its file every so often,
 * waits for it with a timeout, and asks again later if it has not come.
 *
 * When parked, `idle` has all its contexts and `multipathd` may have a read under way: its pin is for a moment.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "out.h"
#include "scratch.h"
#include "workload.h"

#define IDLE_ALL 2000u /* of all threads together, memory permitting */
#define IDLE_SHARE 16  /* of the group's memory, at most */
#define IDLE_EVENTS 8u
#define IDLE_PAUSE_NS 500000
#define SETUP_TRIES 10000 /* of a millisecond each, while a block is away and memory short */
#define PATHS 16u         /* a thread */
#define SECTOR ((uint64_t)4096)
#define PATH_PAUSE_NS 2000000
#define PATH_TIMEOUT_NS 1000000000
#define PATH_SALT 0x70617468u

static int setup(struct wl_group *g, const char *name, unsigned events, struct vac_aio **ctx)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);

	o.name = name;
	o.events = events;
	return vac_aio_setup(g->run->space, &o, ctx);
}

static void *ring_of(struct vac_aio *ctx)
{
	struct vac_aio_info info = VAC_INIT(struct vac_aio_info);

	return vac_aio_info(ctx, &info) ? NULL : info.ring;
}

/* ---- idle ------------------------------------------------------------------------------------ */

struct idler {
	struct vac_aio *ctx;
	_Atomic(void *) ring; /* for the controller */
	uint32_t asked;       /* events that it has given so far */
};

struct idle {
	struct idler *idler;
	unsigned all, each; /* contexts, of a thread */
	_Atomic uint64_t made;
};

static int idle_prepare(struct wl_group *g)
{
	struct idle *d = calloc(1, sizeof(*d));
	uint64_t most = g->bytes / IDLE_SHARE / VAC_PAGE_BYTES;
	int err = 0;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->each = g->threads ? (most < IDLE_ALL ? (unsigned)most : IDLE_ALL) / g->threads : 0;
	if (!d->each && g->threads)
		d->each = 1;
	d->idler = calloc((size_t)d->each * g->threads + 1, sizeof(*d->idler));
	if (!d->idler)
		return -ENOMEM;
	for (; d->all < d->each * g->threads; d->all++) {
		struct idler *i = &d->idler[d->all];

		err = setup(g, "idle", IDLE_EVENTS, &i->ctx);
		if (err) {
			out_error("cannot make context %u of 'idle': %s", d->all + 1,
				  vac_strerror(err));
			return err;
		}
		atomic_store(&i->ring, ring_of(i->ctx));
	}
	g->bytes = d->all * VAC_PAGE_BYTES;
	return 0;
}

/* It has idled for as long as it may be, and answers as if it had not. */
static void wake(struct wl_worker *w, struct idler *i)
{
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);
	struct vac_aio_req q = {
		.op = VAC_AIO_NOP, .off = i->asked & INT32_MAX, .user_data = i->asked};
	void *ring = atomic_load(&i->ring);
	struct vac_aio_event e;
	int r;

	wl_doing(w, "asking an idle context", ring);
	/* A huge folio may hold more than this ring, and that may be pinned. */
	if (!vac_page_info(w->run->space, ring, &pi) && pi.present == 1 && !pi.huge && pi.pins)
		wl_fault(w->run, "idle: %u pins on the ring at %p", pi.pins, ring);
	do
		r = vac_aio_submit(i->ctx, &q, 1);
	while (r == -EAGAIN);
	if (r == 1)
		r = vac_aio_getevents(i->ctx, 1, 1, &e, -1);
	if (r != 1)
		wl_fault(w->run, "idle: a context answers %s", vac_strerror(r));
	else if (e.user_data != i->asked || e.res != (int32_t)(i->asked & INT32_MAX))
		wl_fault(w->run, "idle: event %" PRIu64 " with answer %d is not number %u",
			 e.user_data, e.res, i->asked);
	i->asked++;
	atomic_fetch_add(&w->group->stat.events, 1);
}

static void renew(struct wl_worker *w, struct idler *i)
{
	struct idle *d = w->group->data;
	int err;

	wl_doing(w, "making an idle context anew", NULL);
	atomic_store(&i->ring, NULL);
	err = vac_aio_destroy(i->ctx);
	if (err)
		wl_fault(w->run, "idle: a context stays: %s", vac_strerror(err));
	i->ctx = NULL;
	i->asked = 0;
	for (unsigned try = 0; try < SETUP_TRIES; try++) {
		const struct timespec ts = {0, 1000000};

		err = setup(w->group, "idle", IDLE_EVENTS, &i->ctx);
		if (err != -ENOMEM)
			break;
		nanosleep(&ts, NULL);
	}
	if (err) {
		wl_fault(w->run, "idle: no new context: %s", vac_strerror(err));
		i->ctx = NULL;
		return;
	}
	atomic_store(&i->ring, ring_of(i->ctx));
	atomic_fetch_add(&d->made, 1);
}

static void idle_work(struct wl_worker *w)
{
	struct idle *d = w->group->data;

	while (wl_go(w)) {
		struct idler *i = &d->idler[w->index * d->each + wl_below(w, d->each)];
		uint64_t t0 = wl_now_ns();

		if (i->ctx && wl_below(w, 16))
			wake(w, i);
		else if (i->ctx)
			renew(w, i);
		wl_op_end(w, t0, 1);
		wl_sleep(w, IDLE_PAUSE_NS);
	}
}

static unsigned idle_in_block(struct wl_group *g, int block)
{
	struct idle *d = g->data;
	unsigned n = 0;

	for (unsigned k = 0; k < d->all; k++)
		n += wl_lies_in(g->run->space, atomic_load(&d->idler[k].ring), block);
	return n;
}

static void idle_release(struct wl_group *g)
{
	struct idle *d = g->data;

	for (unsigned k = 0; k < d->all; k++) {
		if (d->idler[k].ctx)
			vac_aio_destroy(d->idler[k].ctx);
	}
	free(d->idler);
	free(d);
	g->data = NULL;
}

static void idle_note(struct wl_group *g, char *buf, size_t len)
{
	struct idle *d = g->data;

	snprintf(buf, len, "%u contexts, %" PRIu64 " made anew", d->all, atomic_load(&d->made));
}

static void idle_tell(struct wl_group *g, char *buf, size_t len)
{
	struct idle *d = g->data;

	snprintf(buf, len,
		 "%u direct I/O contexts that idle for ever, %" PRIu64
		 " of them made anew: %" PRIu64 " block%s left with %" PRIu64
		 " of\ntheir rings, and waited for none; %" PRIu64 " events, each the right one",
		 d->all, atomic_load(&d->made), g->stat.blocks, wl_s(g->stat.blocks),
		 g->stat.pieces, atomic_load(&g->stat.events));
}

const struct wl_class wl_idle = {
	.name = "idle",
	.what = "thousands of direct I/O contexts that idle for ever; now and then one is made anew",
	.owner = "aio:idle",
	.idle = true,
	.prepare = idle_prepare,
	.work = idle_work,
	.release = idle_release,
	.note = idle_note,
	.in_block = idle_in_block,
	.tell = idle_tell,
};

/* ---- multipathd ------------------------------------------------------------------------------ */

struct checked_path {
	struct vac_aio *ctx;
	void *ring;
	int fd;
	bool pending; /* a read that the last check has not seen end */
	uint64_t serial;
	uint64_t *sector; /* in the pool */
};

struct multipathd {
	struct checked_path *path; /* [threads * PATHS] */
	unsigned paths;
	unsigned char *mem;
	uint64_t mem_bytes;
	_Atomic uint64_t timeouts;
};

static uint64_t sector_word(unsigned path, unsigned k)
{
	return wl_mix(PATH_SALT ^ (uint64_t)path << 32 ^ wl_mix(k));
}

static int make_path(struct wl_group *g, unsigned n, struct checked_path *p)
{
	uint64_t *words = aligned_alloc(SECTOR, SECTOR);
	int err = words ? 0 : -ENOMEM;

	p->fd = -1;
	if (!err)
		p->fd = scratch_file(g->run, "path", NULL);
	for (unsigned k = 0; !err && k < SECTOR / 8; k++)
		words[k] = sector_word(n, k);
	if (!err && p->fd < 0)
		err = p->fd;
	if (!err && pwrite(p->fd, words, SECTOR, 0) != (ssize_t)SECTOR)
		err = errno ? -errno : -EIO;
	free(words);
	if (!err)
		err = setup(g, "multipathd", 1, &p->ctx);
	if (err)
		out_error("cannot make path %u of 'multipathd': %s", n + 1, vac_strerror(err));
	else
		p->ring = ring_of(p->ctx);
	return err;
}

static int path_prepare(struct wl_group *g)
{
	struct multipathd *d = calloc(1, sizeof(*d));
	int err = 0;

	if (!d)
		return -ENOMEM;
	g->data = d;
	g->bytes = 0;
	d->path = calloc((size_t)PATHS * g->threads + 1, sizeof(*d->path));
	if (!d->path)
		return -ENOMEM;
	if (!g->threads)
		return 0;
	d->mem_bytes = PATHS * g->threads * SECTOR;
	d->mem = wl_map_filled(g->run, &d->mem_bytes, VAC_MAP_NOHUGE, "'multipathd'", &err);
	if (!d->mem)
		return err;
	while (d->paths < PATHS * g->threads && !err) {
		struct checked_path *p = &d->path[d->paths];

		p->sector = (uint64_t *)(void *)(d->mem + d->paths * SECTOR);
		err = make_path(g, d->paths, p);
		d->paths++;
	}
	g->bytes = d->mem_bytes + d->paths * VAC_PAGE_BYTES;
	return err;
}

static void check_sector(struct wl_worker *w, const struct checked_path *p, unsigned n,
			 const struct vac_aio_event *e)
{
	if (e->user_data != p->serial || e->res != (int32_t)SECTOR) {
		wl_fault(w->run,
			 "multipathd: path %u: read %" PRIu64 " answers %d, read %" PRIu64
			 " was asked for",
			 n, e->user_data, e->res, p->serial);
		return;
	}
	for (unsigned k = 0; k < SECTOR / 8; k++) {
		char text[160];

		if (p->sector[k] == sector_word(n, k))
			continue;
		wl_fault(w->run, "multipathd: path %u: %016" PRIx64 " at %p is not its file's (%s)",
			 n, p->sector[k], (void *)&p->sector[k],
			 wl_page_text(w->run, &p->sector[k], text, sizeof(text)));
		return;
	}
}

/* As checker_check() of a direct I/O path checker: ask if nothing is under way, and wait, but not for ever. */
static void check_path(struct wl_worker *w, struct checked_path *p, unsigned n)
{
	struct multipathd *d = w->group->data;
	struct vac_aio_event e;
	int r;

	wl_doing(w, "checking a path", p->sector);
	if (!p->pending) {
		struct vac_aio_req q = {.op = VAC_AIO_READ,
					.fd = p->fd,
					.buf = p->sector,
					.len = SECTOR,
					.user_data = ++p->serial};

		memset(p->sector, 0, SECTOR);
		r = vac_aio_submit(p->ctx, &q, 1);
		if (r == -EAGAIN) /* the host takes no more now: at the next check */
			return;
		if (r != 1) {
			wl_fault(w->run, "multipathd: path %u: cannot ask: %s", n, vac_strerror(r));
			return;
		}
		p->pending = true;
	}
	r = vac_aio_getevents(p->ctx, 1, 1, &e, PATH_TIMEOUT_NS);
	if (!r) {
		atomic_fetch_add(&d->timeouts, 1);
		return;
	}
	p->pending = false;
	if (r != 1) {
		wl_fault(w->run, "multipathd: path %u: no event: %s", n, vac_strerror(r));
		return;
	}
	check_sector(w, p, n, &e);
	atomic_fetch_add(&w->group->stat.events, 1);
	atomic_fetch_add(&w->group->stat.transfers, 1);
	atomic_fetch_add(&w->group->stat.bytes, SECTOR);
}

static void path_work(struct wl_worker *w)
{
	struct multipathd *d = w->group->data;

	for (unsigned k = 0; wl_go(w); k = (k + 1) % PATHS) {
		unsigned n = w->index * PATHS + k;
		uint64_t t0 = wl_now_ns();

		check_path(w, &d->path[n], n);
		wl_op_end(w, t0, 1);
		wl_sleep(w, PATH_PAUSE_NS);
	}
}

static unsigned path_in_block(struct wl_group *g, int block)
{
	struct multipathd *d = g->data;
	unsigned n = 0;

	for (unsigned k = 0; k < d->paths; k++)
		n += wl_lies_in(g->run->space, d->path[k].ring, block) ||
		     wl_lies_in(g->run->space, d->path[k].sector, block);
	return n;
}

static void path_release(struct wl_group *g)
{
	struct multipathd *d = g->data;

	for (unsigned k = 0; k < d->paths; k++) {
		if (d->path[k].ctx)
			vac_aio_destroy(d->path[k].ctx);
		if (d->path[k].fd >= 0)
			close(d->path[k].fd);
	}
	if (d->mem)
		vac_unmap(g->run->space, d->mem, d->mem_bytes);
	free(d->path);
	free(d);
	g->data = NULL;
}

static void path_note(struct wl_group *g, char *buf, size_t len)
{
	struct multipathd *d = g->data;

	snprintf(buf, len, "%u paths, %" PRIu64 " timeouts", d->paths, atomic_load(&d->timeouts));
}

static void path_tell(struct wl_group *g, char *buf, size_t len)
{
	struct multipathd *d = g->data;

	snprintf(buf, len,
		 "multipathd's %u path checkers, each with its context for ever (2012): %" PRIu64
		 " sectors read, %" PRIu64 " timeouts;\n%" PRIu64 " block%s left with %" PRIu64
		 " rings or buffers of theirs, the longest wait for a read was %.3f s",
		 d->paths, atomic_load(&g->stat.transfers), atomic_load(&d->timeouts),
		 g->stat.blocks, wl_s(g->stat.blocks), g->stat.pieces,
		 (double)g->stat.waited_ns / 1e9);
}

const struct wl_class wl_multipathd = {
	.name = "multipathd",
	.what = "the case of 2012: path checkers that read a sector every so often, for ever",
	.owner = "aio:multipathd",
	.prepare = path_prepare,
	.work = path_work,
	.release = path_release,
	.note = path_note,
	.in_block = path_in_block,
	.tell = path_tell,
};

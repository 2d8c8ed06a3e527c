/* SPDX-License-Identifier: MIT */
/*
 * Workload `aio`: direct I/O contexts. Each thread writes pages of a file of its own and reads them back, eight
 * requests at a time. (Contexts that idle are in work_idle.c.)
 *
 * A thread has no request under way between two rounds, so nothing is pinned when it is parked.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "out.h"
#include "scratch.h"
#include "workload.h"

#define DEPTH 8u
#define FILE_PAGES 256u
#define REQ_BYTES ((uint64_t)2 * VAC_PAGE_BYTES)

struct client {
	struct vac_aio *ctx;
	unsigned char *buf;
	int fd;
	uint64_t version[FILE_PAGES / 2]; /* of each stretch of REQ_BYTES, 0: never written */
};

struct aio_group {
	struct client *client; /* [threads] */
	bool uring;
};

static int setup(struct wl_group *g, const char *name, unsigned events, struct vac_aio **ctx)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);

	o.name = name;
	o.events = events;
	return vac_aio_setup(g->run->space, &o, ctx);
}

static int prepare(struct wl_group *g)
{
	struct aio_group *a = calloc(1, sizeof(*a));
	struct vac_aio_info info = VAC_INIT(struct vac_aio_info);
	int err = 0;

	if (!a)
		return -ENOMEM;
	g->data = a;
	g->bytes = 0;
	a->client = calloc(g->threads ? g->threads : 1, sizeof(*a->client));
	if (!a->client)
		return -ENOMEM;
	for (unsigned i = 0; i < g->threads; i++)
		a->client[i].fd = -1;
	for (unsigned i = 0; i < g->threads; i++) {
		struct client *c = &a->client[i];
		uint64_t bytes = DEPTH * REQ_BYTES;

		c->fd = scratch_file(g->run, "aio", NULL);
		if (c->fd < 0) {
			out_error("cannot make a file for 'aio': %s", strerror(-c->fd));
			return c->fd;
		}
		/* Every other buffer lies in base folios. */
		c->buf = wl_map_filled(g->run, &bytes, i & 1 ? 0 : VAC_MAP_NOHUGE, "'aio'", &err);
		if (!c->buf)
			return err;
		g->bytes += bytes;
		err = setup(g, "stress", DEPTH, &c->ctx);
		if (err) {
			out_error("cannot make a context: %s", vac_strerror(err));
			return err;
		}
		g->bytes += VAC_PAGE_BYTES;
	}
	if (g->threads)
		vac_aio_info(a->client[0].ctx, &info);
	a->uring = info.uring;
	return 0;
}

static uint64_t word_of(const struct wl_worker *w, unsigned stretch, uint64_t version, unsigned k)
{
	return wl_mix(((uint64_t)w->id << 48 | (uint64_t)stretch << 32 | version) ^ wl_mix(k));
}

/* A round of requests on stretches that differ; those never written are written, others one or the other. */
static void do_round(struct wl_worker *w, struct client *c)
{
	const unsigned words = (unsigned)(REQ_BYTES / 8);
	struct vac_aio_req q[DEPTH];
	struct vac_aio_event e[DEPTH];
	unsigned first = (unsigned)wl_below(w, FILE_PAGES / 2), n = 0;
	uint64_t t0 = wl_now_ns();
	int r;

	wl_doing(w, "direct I/O", c->buf);
	memset(q, 0, sizeof(q));
	for (unsigned i = 0; i < DEPTH; i++) {
		unsigned s = (first + i * 5) % (FILE_PAGES / 2);
		uint64_t *buf = (uint64_t *)(void *)(c->buf + i * REQ_BYTES);
		bool write = !c->version[s] || wl_below(w, 2);

		q[i].op = write ? VAC_AIO_WRITE : VAC_AIO_READ;
		q[i].fd = c->fd;
		q[i].off = s * REQ_BYTES;
		q[i].buf = buf;
		q[i].len = REQ_BYTES;
		q[i].user_data = (uint64_t)s << 8 | i;
		c->version[s] += write;
		for (unsigned k = 0; k < words; k++)
			buf[k] = write ? word_of(w, s, c->version[s], k) : 0;
	}
	while (n < DEPTH) {
		r = vac_aio_submit(c->ctx, q + n, DEPTH - n);
		if (r < 0 && r != -EAGAIN) {
			wl_fault(w->run, "aio: a submit answers: %s", vac_strerror(r));
			break;
		}
		n += r > 0 ? (unsigned)r : 0;
	}
	for (unsigned done = 0; done < n; done += (unsigned)r) {
		r = vac_aio_getevents(c->ctx, 1, DEPTH, e, -1);
		if (r < 0) {
			wl_fault(w->run, "aio: a getevents answers: %s", vac_strerror(r));
			return;
		}
		for (int j = 0; j < r; j++) {
			unsigned i = e[j].user_data & 0xff, s = (unsigned)(e[j].user_data >> 8);
			const uint64_t *buf =
				(const uint64_t *)(const void *)(c->buf + i * REQ_BYTES);

			if (e[j].res != (int32_t)REQ_BYTES)
				wl_fault(w->run, "aio: a request answers %d", e[j].res);
			for (unsigned k = 0; q[i].op == VAC_AIO_READ && k < words; k++)
				if (buf[k] != word_of(w, s, c->version[s], k)) {
					wl_fault(w->run,
						 "aio: %p holds %016" PRIx64
						 ", not what the file does",
						 (const void *)&buf[k], buf[k]);
					break;
				}
		}
	}
	wl_op_end(w, t0, n);
}

static void work(struct wl_worker *w)
{
	struct aio_group *a = w->group->data;
	struct client *c = &a->client[w->index];

	while (wl_go(w))
		do_round(w, c);
}

static void release(struct wl_group *g)
{
	struct aio_group *a = g->data;

	for (unsigned i = 0; a && a->client && i < g->threads; i++) {
		struct client *c = &a->client[i];

		if (c->ctx)
			vac_aio_destroy(c->ctx);
		if (c->buf)
			vac_unmap(g->run->space, c->buf, DEPTH * REQ_BYTES);
		if (c->fd >= 0)
			close(c->fd);
	}
	if (a)
		free(a->client);
	free(a);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	const struct aio_group *a = g->data;

	if (g->threads)
		snprintf(buf, len, "by %s", a->uring ? "io_uring" : "threads");
}

const struct wl_class wl_aio = {
	.name = "aio",
	.what = "direct I/O contexts: reads and writes of files, eight at a time",
	.latency = WL_NEITHER,
	.prepare = prepare,
	.work = work,
	.release = release,
	.note = note,
};

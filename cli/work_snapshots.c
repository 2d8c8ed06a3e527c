/* SPDX-License-Identifier: MIT */
/*
 * Workload `snapshots`: what a snapshot shows is one instant, whoever writes meanwhile.
 *
 * It has a space of its own with an array of 256-byte records {address, sequence, contents, checksum},
 * since what is shared needs memory for copies, and the other groups leave none. The first thread takes
 * snapshots, the others write. A writer owns 2^k records and rewrites them in one fixed order for ever,
 * so that the sequence numbers alone tell the instant: if the highest that is found is x, then the
 * others are exactly x - 1, x - 2, ..., each in its place. A write that came later shows as a gap.
 * The instant may fall into a write: at most one record a writer may be torn, and it is the next.
 *
 * `snapshots` takes one, and often one of the snapshot or another of the space, sums each twice while the
 * writers go on, checks it, writes to it, and takes them away in any order. It parks without a snapshot, so the
 * number of frames in use is known at a check of the pool. (Backups from snapshots are in work_backup.c.)
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "sum64.h"
#include "workload.h"

#define RECORD_WORDS 32
#define FILL_WORDS (RECORD_WORDS - 3)
#define RECORD_BYTES (RECORD_WORDS * 8)
#define AREA_MAX ((uint64_t)16 << 20)
#define AREA_MIN ((uint64_t)256 << 10)
#define COPIES 3 /* of the area, at most: two snapshots, and what is written to these */
#define PAUSE_NS 2000000
#define ROUND_NS 20000000 /* between two rounds, where paced */

struct record {
	uint64_t addr, seq;
	uint64_t fill[FILL_WORDS];
	uint64_t sum; /* of all words before it */
};

struct snaps {
	struct vac_space *space;
	struct record *record;
	uint64_t bytes, each; /* of the area; records a writer, a power of two */
	unsigned writers;
	uint64_t *seq;    /* [writers]: written last; the writer's own */
	uint64_t refused; /* for want of memory or host mappings */
	uint64_t taken;   /* by the first thread */
};

/* ---- Records --------------------------------------------------------------------------------- */

static struct record *place(const struct snaps *d, struct record *area, unsigned writer,
			    uint64_t seq)
{
	/* Any odd factor: each number below d->each once. */
	uint64_t i = seq * UINT64_C(0x9e3779b97f4a7c15) & (d->each - 1);

	return &area[i * d->writers + writer];
}

static void write_record(struct record *r, uint64_t seq)
{
	uint64_t x = wl_mix((uintptr_t)r ^ seq << 32);

	r->addr = (uintptr_t)r;
	r->seq = seq;
	for (unsigned k = 0; k < FILL_WORDS; k++)
		r->fill[k] = x + k;
	r->sum = sum64((const uint64_t *)r, RECORD_WORDS - 1);
}

/* What write_record() makes at address `at`? */
static bool whole(const struct record *r, const struct record *at)
{
	uint64_t x = wl_mix((uintptr_t)at ^ r->seq << 32);
	bool good = r->addr == (uintptr_t)at &&
		    r->sum == sum64((const uint64_t *)r, RECORD_WORDS - 1);

	for (unsigned k = 0; good && k < FILL_WORDS; k++)
		good = r->fill[k] == x + k;
	return good;
}

/* A writer's records in `area`, a picture of the memory: an instant of it? torn: how many may be. */
static void check_writer(struct wl_run *run, const struct snaps *d, struct record *area,
			 unsigned writer, unsigned torn, const char *what)
{
	uint64_t last = 0;

	for (uint64_t i = 0; i < d->each; i++) {
		uint64_t at = i * d->writers + writer;

		if (area[at].seq > last && whole(&area[at], &d->record[at]))
			last = area[at].seq;
	}
	for (uint64_t back = 0; back < d->each; back++) {
		struct record *r = place(d, area, writer, last - back),
			      *at = d->record + (r - area);
		bool good = whole(r, at);

		if (good && r->seq == last - back)
			continue;
		/* The place of the next is that of the oldest. */
		if (!good && back == d->each - 1 && torn)
			continue;
		wl_fault(run,
			 "%s: record at %p of writer %u has sequence %" PRIu64
			 " (%s) where %" PRIu64 " should be, the highest is %" PRIu64,
			 what, (void *)at, writer, r->seq, good ? "whole" : "not whole",
			 last - back, last);
		return;
	}
}

static void check_area(struct wl_run *run, const struct snaps *d, struct record *area,
		       unsigned torn, const char *what)
{
	for (unsigned k = 0; k < d->writers; k++)
		check_writer(run, d, area, k, torn, what);
}

/* ---- Preparing ------------------------------------------------------------------------------- */

static int prepare(struct wl_group *g)
{
	uint64_t area = g->bytes / 32 < AREA_MAX ? g->bytes / 32 : AREA_MAX;
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct snaps *d = calloc(1, sizeof(*d));
	void *mem;
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->writers = g->threads > 1 ? g->threads - 1 : 1;
	d->each = 2 * VAC_PAGE_BYTES / RECORD_BYTES;
	if (area < AREA_MIN)
		area = AREA_MIN;
	while (d->each * 2 * d->writers * RECORD_BYTES <= area)
		d->each *= 2;
	d->bytes = d->each * d->writers * RECORD_BYTES;
	d->bytes = (d->bytes + VAC_PAGE_BYTES - 1) / VAC_PAGE_BYTES * VAC_PAGE_BYTES;
	d->seq = calloc(d->writers, sizeof(*d->seq));
	if (!d->seq)
		return -ENOMEM;
	so.bytes = (d->bytes + VAC_PAGEBLOCK_BYTES - 1) / VAC_PAGEBLOCK_BYTES * VAC_PAGEBLOCK_BYTES;
	so.name = g->cls->name;
	err = vac_space_create(g->run->pool, &so, &d->space);
	if (!err)
		err = vac_map(d->space, NULL, d->bytes, VAC_PROT_READ | VAC_PROT_WRITE,
			      VAC_MAP_POPULATE, &mem);
	if (err) {
		out_error("cannot map memory for '%s': %s", g->cls->name, vac_strerror(err));
		return err;
	}
	d->record = mem;
	for (unsigned k = 0; k < d->writers; k++) {
		for (; d->seq[k] < d->each; d->seq[k]++)
			write_record(place(d, d->record, k, d->seq[k] + 1), d->seq[k] + 1);
	}
	g->bytes = d->bytes * (1 + COPIES);
	return 0;
}

/* ---- Working --------------------------------------------------------------------------------- */

static void write_some(struct wl_worker *w, unsigned writer)
{
	struct snaps *d = w->group->data;
	uint64_t t0 = wl_now_ns();
	struct record *r = place(d, d->record, writer, d->seq[writer] + 1);

	wl_doing(w, "rewriting a record", r);
	write_record(r, ++d->seq[writer]);
	wl_op_end(w, t0, 0);
}

static bool take(struct wl_worker *w, struct vac_space *from, struct vac_space **snap)
{
	struct snaps *d = w->group->data;
	int err;

	wl_doing(w, "taking a snapshot", NULL);
	err = vac_space_snapshot(from, NULL, snap);
	d->taken += !err;
	d->refused += err == -ENOMEM;
	if (err && err != -ENOMEM)
		wl_fault(w->run, "%s: no snapshot: %s", w->group->cls->name, vac_strerror(err));
	return !err;
}

static void drop(struct wl_worker *w, struct vac_space *snap)
{
	int err;

	wl_doing(w, "taking a snapshot away", NULL);
	err = vac_space_destroy(snap);
	if (err)
		wl_fault(w->run, "%s: a snapshot stays: %s", w->group->cls->name,
			 vac_strerror(err));
}

static struct record *in(const struct snaps *d, struct vac_space *snap)
{
	return vac_space_translate(d->space, d->record, snap);
}

static uint64_t sum_of(struct wl_worker *w, struct vac_space *snap)
{
	struct snaps *d = w->group->data;
	struct record *r = in(d, snap);

	wl_doing(w, "summing a snapshot", r);
	return sum64((const uint64_t *)r, d->each * d->writers * RECORD_WORDS);
}

/* Two snapshots, one of them perhaps of the other, summed twice with writers at work. */
static void one_round(struct wl_worker *w)
{
	struct snaps *d = w->group->data;
	struct timespec ts = {0, (long)wl_below(w, PAUSE_NS)};
	bool nested = wl_below(w, 2), oldest_first = wl_below(w, 2);
	struct vac_space *s[2] = {NULL, NULL};
	uint64_t sum[2], t0 = wl_now_ns();
	unsigned n = 1;
	struct record *r, was;

	if (!take(w, d->space, &s[0]))
		return;
	if (wl_below(w, 4) && take(w, nested ? s[0] : d->space, &s[1]))
		n = 2;
	for (unsigned i = 0; i < n; i++) {
		sum[i] = sum_of(w, s[i]);
		check_area(w->run, d, in(d, s[i]), 1, "snapshots");
	}
	if (n == 2 && nested && sum[0] != sum[1])
		wl_fault(w->run, "snapshots: one of a snapshot differs from it");
	nanosleep(&ts, NULL);
	/* What is written to one is nobody else's. */
	r = in(d, s[0]) + wl_below(w, d->each * d->writers);
	was = *r;
	memset(r, 0xa5, sizeof(*r));
	if (n == 2 && sum_of(w, s[1]) != sum[1])
		wl_fault(w->run, "snapshots: a snapshot has changed");
	*r = was;
	if (sum_of(w, s[0]) != sum[0])
		wl_fault(w->run, "snapshots: a snapshot has changed that only we write");
	if (n == 2)
		drop(w, s[oldest_first ? 0 : 1]);
	drop(w, s[n == 2 && oldest_first ? 1 : 0]);
	wl_op_end(w, t0, n * d->each * d->writers);
}

static void work(struct wl_worker *w)
{
	while (wl_go(w)) {
		if (!w->index)
			one_round(w);
		if (w->index || w->group->threads == 1) /* nobody else writes */
			write_some(w, w->index ? w->index - 1 : 0);
		if (w->index)
			wl_pace(w);
		else if (w->run->paced)
			wl_sleep(w, ROUND_NS);
	}
}

static void sweep(struct wl_group *g)
{
	struct snaps *d = g->data;

	check_area(g->run, d, d->record, 0, g->cls->name);
	atomic_fetch_add(&g->swept, d->each * d->writers);
}

static void release(struct wl_group *g)
{
	struct snaps *d = g->data;

	if (d->space && vac_space_destroy(d->space))
		wl_fault(g->run, "%s: its space stays", g->cls->name);
	free(d->seq);
	free(d);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct snaps *d = g->data;

	snprintf(buf, len, "%" PRIu64 " snapshots, %" PRIu64 " refused", d->taken, d->refused);
}

const struct wl_class wl_snapshots = {
	.name = "snapshots",
	.what = "take snapshots, of snapshots too, and check each twice while records are rewritten",
	.threads_min = 2,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
	.note = note,
};

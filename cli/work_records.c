/* SPDX-License-Identifier: MIT */
/*
 * Workload `records`: writers that notice a lost, repeated, misplaced or torn write.
 *
 * Memory is an array of 256-byte records {address, version, contents, checksum}. Each belongs to
 * one thread, which remembers outside the pool the version that it wrote last. Before it writes
 * the next version it checks that the record says its own address, just that version, and all the
 * contents that follow from the two: a write that went to the old frame of a page that was being
 * copied shows as an older version, a page mapped at a wrong place as a wrong address.
 *
 * A quarter of the memory is mapped without huge folios, so that base folios move too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "sum64.h"
#include "workload.h"

#define RECORD_WORDS 32
#define FILL_WORDS (RECORD_WORDS - 3)

struct record {
	uint64_t addr, version;
	uint64_t fill[FILL_WORDS];
	uint64_t sum; /* of all words before it */
};

struct area {
	struct record *record;
	uint32_t *version; /* [records]: written by the record's owner only */
	uint64_t records;
	uint64_t bytes;
};

struct records {
	struct area area[2]; /* huge folios, base folios */
};

static void write_record(struct record *r, uint32_t version)
{
	uint64_t x = wl_mix((uintptr_t)r ^ ((uint64_t)version << 32));

	r->addr = (uintptr_t)r;
	r->version = version;
	for (unsigned k = 0; k < FILL_WORDS; k++)
		r->fill[k] = x + k;
	r->sum = sum64((const uint64_t *)r, RECORD_WORDS - 1);
}

static bool check_record(struct wl_run *run, const struct record *r, uint32_t version)
{
	uint64_t x = wl_mix((uintptr_t)r ^ ((uint64_t)version << 32));
	uint64_t sum = sum64((const uint64_t *)r, RECORD_WORDS - 1);
	bool good = r->addr == (uintptr_t)r && r->version == version && r->sum == sum;
	char text[160];

	/* The sum agrees with the contents; do the contents agree with address and version? */
	for (unsigned k = 0; good && k < FILL_WORDS; k++)
		good = r->fill[k] == x + k;
	if (good)
		return true;
	wl_fault(run,
		 "records: record at %p says address 0x%" PRIx64 ", version %" PRIu64
		 ", sum %016" PRIx64 "; it should be version %" PRIu32
		 ", sum of its bytes %016" PRIx64 " (%s)",
		 (const void *)r, r->addr, r->version, r->sum, version, sum,
		 wl_page_text(run, r, text, sizeof(text)));
	return false;
}

static int prepare_area(struct wl_group *g, struct area *a, uint64_t bytes, unsigned flags)
{
	int err;

	a->bytes = bytes;
	a->record = wl_map_filled(g->run, &a->bytes, flags, "'records'", &err);
	if (!a->record)
		return err;
	a->records = a->bytes / sizeof(struct record);
	a->version = malloc(a->records * sizeof(uint32_t));
	if (!a->version)
		return -ENOMEM;
	for (uint64_t i = 0; i < a->records; i++) {
		a->version[i] = 1;
		write_record(&a->record[i], 1);
		if (!(i & 16383))
			wl_stage(g->run, "filling memory for 'records'");
	}
	return 0;
}

static int prepare(struct wl_group *g)
{
	struct records *d = calloc(1, sizeof(*d));
	uint64_t base = g->bytes / 4;
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	if (base < VAC_PAGE_BYTES)
		base = VAC_PAGE_BYTES;
	err = prepare_area(g, &d->area[1], base, VAC_MAP_NOHUGE);
	if (!err && g->bytes > base + VAC_PAGE_BYTES)
		err = prepare_area(g, &d->area[0], g->bytes - base, 0);
	g->bytes = d->area[0].bytes + d->area[1].bytes;
	g->mem = (unsigned char *)d->area[d->area[0].record ? 0 : 1].record;
	g->mem_bytes = d->area[d->area[0].record ? 0 : 1].bytes;
	return err;
}

static void work(struct wl_worker *w)
{
	struct records *d = w->group->data;
	unsigned threads = w->group->threads;

	while (wl_go(w)) {
		uint64_t records = d->area[0].records + d->area[1].records;
		/* Thread i owns the records that are i modulo the number of threads: neighbours in a
		 * page belong to different threads, so that several write into a leaving page. */
		uint64_t i = wl_below(w, (records - w->index + threads - 1) / threads) * threads +
			     w->index;
		struct area *a = &d->area[0];
		struct record *r;
		uint64_t t0;

		if (i >= a->records) {
			i -= a->records;
			a++;
		}
		r = &a->record[i];
		wl_doing(w, "rewriting a record", r);
		t0 = wl_now_ns();
		/* A wrong record is reported once, then set right: the rest goes on being checked. */
		check_record(w->run, r, a->version[i]);
		write_record(r, ++a->version[i]);
		wl_op_end(w, t0, 1);
	}
}

static void sweep(struct wl_group *g)
{
	struct records *d = g->data;

	for (unsigned k = 0; k < 2; k++) {
		struct area *a = &d->area[k];

		for (uint64_t i = 0; i < a->records; i++) {
			check_record(g->run, &a->record[i], a->version[i]);
			if (!(i & 65535))
				wl_stage(g->run, "checking all records");
		}
		atomic_fetch_add(&g->swept, a->records);
	}
}

static void release(struct wl_group *g)
{
	struct records *d = g->data;

	for (unsigned k = 0; k < 2; k++) {
		if (d->area[k].record)
			vac_unmap(g->run->space, d->area[k].record, d->area[k].bytes);
		free(d->area[k].version);
	}
	free(d);
	g->data = NULL;
}

const struct wl_class wl_records = {
	.name = "records",
	.what = "rewrite records of {address, version, checksum}, each checked before",
	.latency = WL_WRITER,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
};

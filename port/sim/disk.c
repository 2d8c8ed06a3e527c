/* SPDX-License-Identifier: MIT */
/*
 * The simulated disk. A transfer takes time; its pages, and those of others that are under way, are done in an
 * order that is drawn, each word by itself, with other threads running in between: so what is written
 * after the memory was given to the disk is written or not, as it comes, and a reader that does not wait
 * for the end finds anything.
 *
 * Faults: a page cannot be read, and what was to receive it is left with rubbish; a page cannot be written,
 * and some words of it are written all the same (a torn write), or rubbish.
 *
 * Checked here: no two transfers touch a page of the disk at once unless both read it; what is read was
 * written before; nothing is transferred once the disk is closed.
 */
#include <stdlib.h>
#include <string.h>

#include "port/sim/sim.h"
#include "port/sim/world.h"

#define PAGES VAC__SWAP_SLOTS_MAX
#define RUNS_MAX 16
#define PIECES_MAX 128

static uint8_t *disk;
static bool is_open, good[PAGES];
static int readers[PAGES], writers[PAGES];
static uint32_t pages;

void disk_reset(void)
{
	if (!disk)
		disk = malloc(PAGES * VAC_PAGE_BYTES);
	if (!disk)
		abort();
	memset(disk, 0xD1, PAGES * VAC_PAGE_BYTES);
	memset(good, 0, sizeof(good));
	memset(readers, 0, sizeof(readers));
	memset(writers, 0, sizeof(writers));
	is_open = false;
}

int disk_open(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f)
{
	(void)ctx;
	sim_yield();
	if (is_open)
		sim_fail(SIM_CRASH, "the disk is opened twice");
	if (bytes > PAGES * VAC_PAGE_BYTES)
		return -EINVAL;
	is_open = true;
	pages = (uint32_t)(bytes / VAC_PAGE_BYTES);
	memset(good, 0, sizeof(good));
	*f = (struct vac__swapfile){.fd = fd, .bytes = bytes};
	return 0;
}

void disk_close(void *ctx, struct vac__swapfile *f)
{
	(void)ctx, (void)f;
	sim_yield();
	for (uint32_t i = 0; i < pages; i++)
		if (readers[i] || writers[i])
			sim_fail(SIM_CRASH, "the disk is closed during a transfer");
	is_open = false;
}

/* One page of a transfer. Answers whether it was done right. */
static bool page_io(bool write, uint8_t *mem, uint32_t at)
{
	const struct sim_faults *f = sim_faults_now();
	bool fail = sim_one_in(write ? f->disk_write : f->disk_read);
	uint64_t *to = (uint64_t *)(void *)(write ? disk + at * VAC_PAGE_BYTES : mem);
	uint64_t *from = (uint64_t *)(void *)(write ? mem : disk + at * VAC_PAGE_BYTES);

	if (!is_open)
		sim_fail(SIM_CRASH, "a transfer of page %u of a disk that is closed", at);
	if (writers[at] || (write && readers[at]))
		sim_fail(SIM_CRASH, "page %u of the disk is in two transfers", at);
	if (!write && !good[at])
		sim_fail(SIM_CONTENT, "page %u of the disk is read, and was never written", at);
	(write ? writers : readers)[at]++;
	if (f->disk_slow && sim_one_in(3))
		sim_sleep(sim_below(f->disk_slow));
	for (unsigned i = 0; i < VAC_PAGE_BYTES / 8; i++) {
		to[i] = fail && sim_one_in(2) ? UINT64_C(0xBADBADBADBAD) : from[i];
		if (i % 3 == 2)
			sim_yield();
	}
	if (write)
		good[at] = !fail;
	(write ? writers : readers)[at]--;
	return !fail;
}

void disk_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run, unsigned n)
{
	struct {
		unsigned run, page;
	} piece[PIECES_MAX];
	unsigned pieces = 0;

	(void)ctx;
	sim_yield();
	for (unsigned i = 0; i < n; i++) {
		run[i].err = 0;
		if (run[i].off + run[i].bytes > f->bytes)
			sim_fail(SIM_CRASH, "a transfer beyond the end of the disk");
		for (unsigned p = 0; p < run[i].bytes / VAC_PAGE_BYTES; p++) {
			if (pieces == PIECES_MAX)
				sim_fail(SIM_CRASH, "a transfer of too many pages");
			piece[pieces].run = i;
			piece[pieces++].page = p;
		}
	}
	while (pieces) {
		unsigned k = (unsigned)sim_below(pieces);
		struct vac__swap_run *r = &run[piece[k].run];

		if (!page_io(write, (uint8_t *)r->mem + piece[k].page * VAC_PAGE_BYTES,
			     (uint32_t)(r->off / VAC_PAGE_BYTES) + piece[k].page))
			r->err = -EIO;
		piece[k] = piece[--pieces];
	}
}

/* SPDX-License-Identifier: MIT */
/*
 * The simulated device of direct I/O: files of a few pages, and workers that do requests in an order that is drawn, word
 * by word, with others running in between.
 *
 * Faults, as of the disk (disk.c): a transfer fails, and has done anything up to there. A request may be cancelled while
 * it waits; one on the last file waits until it is.
 *
 * Checked here: a request is with the device once; nothing is asked of a device that is closed; what is transferred
 * goes through memory that is pinned, if the engine has said so: the workload sees what arrives.
 */
#include <string.h>

#include "port/sim/device.h"
#include "port/sim/sim.h"
#include "port/sim/world.h"

#define WORKERS 2
#define QUEUE_MAX 64

static uint64_t file[DEVICE_FILES][DEVICE_PAGES][VAC_PAGE_BYTES / 8];

static struct {
	bool open, stop, kicked;
	struct vac__ioreq *todo[QUEUE_MAX], *done[QUEUE_MAX];
	unsigned nr_todo, nr_done, busy;
	uint8_t *buffer[VAC__IO_BUFFERS];
	size_t buffer_bytes[VAC__IO_BUFFERS];
	_Atomic uint32_t work, ended;
	uintptr_t worker[WORKERS];
} dev;

void device_reset(void)
{
	memset(&dev, 0, sizeof(dev));
	for (unsigned f = 0; f < DEVICE_FILES; f++)
		for (unsigned p = 0; p < DEVICE_PAGES; p++)
			for (unsigned i = 0; i < VAC_PAGE_BYTES / 8; i++)
				file[f][p][i] = device_first(f, p, i);
}

uint64_t device_first(unsigned f, unsigned p, unsigned i)
{
	return UINT64_C(0xF11E) << 48 | (uint64_t)f << 32 | (uint64_t)p << 16 | i;
}

static void tell(_Atomic uint32_t *e)
{
	atomic_fetch_add(e, 1);
	vac__port_wake(e, INT32_MAX);
}

static void must_be_open(void)
{
	sim_yield();
	if (!dev.open)
		sim_fail(SIM_CRASH, "a device that is closed is asked for something");
}

/* ---- Transfers ---------------------------------------------------------------------------------- */

static int32_t transfer(struct vac__ioreq *io)
{
	const struct sim_faults *f = sim_faults_now();
	bool read = io->op == VAC__IO_READ;
	uint64_t at = io->off;
	bool fail = sim_one_in(read ? f->disk_read : f->disk_write);

	if (f->disk_slow && sim_one_in(3))
		sim_sleep(sim_below(f->disk_slow));
	if (io->op == VAC__IO_FSYNC || io->op == VAC__IO_FDSYNC)
		return 0;
	if (io->buffer) {
		uint8_t *b = dev.buffer[io->buffer - 1], *mem = io->seg[0].mem;

		if (io->nr_seg != 1 || !b || mem < b ||
		    mem + io->seg[0].bytes > b + dev.buffer_bytes[io->buffer - 1])
			sim_fail(SIM_CRASH, "a transfer beside its registered buffer");
	}
	for (uint32_t s = 0; s < io->nr_seg; s++) {
		uint64_t *mem = io->seg[s].mem;

		for (size_t k = 0; k < io->seg[s].bytes / 8; k++, at += 8) {
			uint64_t *word;

			if (at >= DEVICE_PAGES * VAC_PAGE_BYTES)
				return (int32_t)(at - io->off);
			word = &file[io->fd][at / VAC_PAGE_BYTES][at % VAC_PAGE_BYTES / 8];
			if (fail && sim_one_in(8))
				return -EIO;
			if (read)
				mem[k] = *word;
			else
				*word = mem[k];
			if (k % 3 == 2)
				sim_yield();
		}
	}
	return fail ? -EIO : (int32_t)(at - io->off);
}

static void end(struct vac__ioreq *io, int32_t res)
{
	io->res = res;
	dev.done[dev.nr_done++] = io;
	tell(&dev.ended);
}

static struct vac__ioreq *pick(void)
{
	for (unsigned n = dev.nr_todo, k = n ? (unsigned)sim_below(n) : 0; n; n--) {
		struct vac__ioreq *io = dev.todo[(k + n) % dev.nr_todo];

		if (io->fd == DEVICE_FILES - 1 && io->op == VAC__IO_READ)
			continue; /* nothing to be read there, ever */
		dev.todo[(k + n) % dev.nr_todo] = dev.todo[dev.nr_todo - 1];
		dev.nr_todo--;
		return io;
	}
	return NULL;
}

static void worker(void *arg)
{
	(void)arg;
	while (!dev.stop) {
		uint32_t seen = atomic_load(&dev.work);
		struct vac__ioreq *io = pick();

		if (!io) {
			vac__port_wait(&dev.work, seen, 0);
			continue;
		}
		dev.busy++;
		sim_yield();
		end(io, transfer(io));
		dev.busy--;
	}
}

/* ---- The port's table ---------------------------------------------------------------------------- */

int device_open(void *ctx, unsigned flags, uintptr_t *out, bool *native)
{
	(void)ctx;
	sim_yield();
	if (dev.open)
		sim_fail(SIM_CRASH, "the device is opened twice");
	memset(&dev, 0, sizeof(dev));
	dev.open = true;
	*native = !(flags & VAC__IO_THREADS);
	*out = 1;
	for (unsigned i = 0; i < WORKERS; i++)
		vac__port_thread_start("device", worker, NULL, &dev.worker[i]);
	return 0;
}

void device_close(void *ctx, uintptr_t d)
{
	(void)ctx, (void)d;
	must_be_open();
	if (dev.nr_todo || dev.nr_done || dev.busy)
		sim_fail(SIM_CRASH, "the device is closed with requests in it");
	dev.stop = true;
	tell(&dev.work);
	for (unsigned i = 0; i < WORKERS; i++)
		vac__port_thread_join(dev.worker[i]);
	dev.open = false;
}

unsigned device_submit(void *ctx, uintptr_t d, struct vac__ioreq **io, unsigned n)
{
	(void)ctx, (void)d;
	must_be_open();
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 0; k < dev.nr_todo; k++)
			if (dev.todo[k] == io[i])
				sim_fail(SIM_CRASH, "a request is submitted twice");
		/* The host has no room, now and then. */
		if (dev.nr_todo + dev.nr_done + dev.busy == QUEUE_MAX ||
		    sim_one_in(sim_faults_now()->map)) {
			n = i;
			break;
		}
		if (io[i]->fd < 0 || io[i]->fd >= DEVICE_FILES)
			sim_fail(SIM_CRASH, "a request for file %d", io[i]->fd);
		dev.todo[dev.nr_todo++] = io[i];
		sim_yield();
	}
	tell(&dev.work);
	return n;
}

void device_cancel(void *ctx, uintptr_t d, struct vac__ioreq *io)
{
	(void)ctx, (void)d;
	must_be_open();
	atomic_store(&io->cancel, 1);
	for (unsigned k = 0; k < dev.nr_todo; k++)
		if (dev.todo[k] == io) {
			dev.todo[k] = dev.todo[--dev.nr_todo];
			end(io, -ECANCELED);
			return;
		}
}

unsigned device_collect(void *ctx, uintptr_t d, struct vac__ioreq **done, unsigned max,
			uint64_t deadline_ns)
{
	unsigned n = 0;

	(void)ctx, (void)d;
	for (unsigned pass = 0; pass < 2; pass++) {
		uint32_t seen = atomic_load(&dev.ended);

		must_be_open();
		while (n < max && dev.nr_done) {
			unsigned k = (unsigned)sim_below(dev.nr_done);

			done[n++] = dev.done[k];
			dev.done[k] = dev.done[--dev.nr_done];
		}
		if (n || dev.kicked || pass)
			break;
		vac__port_wait(&dev.ended, seen, deadline_ns);
	}
	dev.kicked = false;
	return n;
}

void device_kick(void *ctx, uintptr_t d)
{
	(void)ctx, (void)d;
	must_be_open();
	dev.kicked = true;
	tell(&dev.ended);
}

int device_buffer(void *ctx, uintptr_t d, unsigned slot, void *mem, size_t bytes)
{
	(void)ctx, (void)d;
	must_be_open();
	if (mem && sim_one_in(sim_faults_now()->map))
		return -ENOMEM;
	dev.buffer[slot] = mem;
	dev.buffer_bytes[slot] = bytes;
	return 0;
}

int device_file(void *ctx, int fd)
{
	(void)ctx;
	return fd < 0 || fd >= DEVICE_FILES ? -EBADF : fd;
}

void device_file_drop(void *ctx, int fd)
{
	(void)ctx, (void)fd;
	sim_yield();
}

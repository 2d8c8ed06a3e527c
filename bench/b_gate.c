/* SPDX-License-Identifier: MIT */
/*
 * gate: endless overlapping direct reads into one pinned buffer. At any moment at least one of them
 * holds a pin, so without a gate the buffer's folio never leaves; with it, new reads wait until
 * those in hand are done and the folio has moved.
 *
 * The figure is the time that an offline of the block takes, which holds nothing but that buffer;
 * the peer is the time of one read, from submission to completion, as the same loop sees it while
 * nothing leaves. `reads` says how many of these an offline takes. `ungated` says how many offlines
 * ended with the gate switched off, of `ungated_tries`, each of which waited for as long as
 * UNGATED_MS. (Where the submitter gets no processor for as long as the reads in hand take, no pin is
 * left for a moment, and such an offline may end.)
 *
 * A thread submits and another reaps: who waits for a gate must not be the one whose pins it waits
 * for.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "bench/rig.h"
#include "cli/dio.h"

#define DEPTH 16
#define READ_BYTES ((size_t)1 << 20)
#define LOOK_NS (100 * 1000000)
#define UNGATED_MS 250
#define UNGATED_TRIES 3
#define TMPFS_MAGIC 0x01021994

struct reads {
	struct bench_env *env;
	struct rig rig;
	uint64_t *buf;
	int fd;
	uint64_t file_bytes;
	struct dio_queue *q;
	struct dio_req req[DEPTH];
	uint64_t submitted_ns[DEPTH];
	sem_t free_slots;
	atomic_uint busy;          /* a bit a slot */
	atomic_bool stop, drained; /* no more reads; and none will come */
	atomic_int err;
	_Atomic uint64_t done, total_ns;
	pthread_t submitter, reaper;
	int id; /* the block that holds the buffer */
};

/* ---- The loop of reads ---------------------------------------------------------------------- */

static void *submit(void *arg)
{
	struct reads *d = arg;
	uint64_t random = BENCH_SEED;

	for (;;) {
		uint64_t piece = bench_random(&random) % (d->file_bytes / READ_BYTES);
		unsigned i;
		int r;

		sem_wait(&d->free_slots);
		if (atomic_load(&d->stop))
			break;
		for (i = 0; atomic_load(&d->busy) & 1u << i;)
			i++;
		r = vac_pin(d->rig.space, d->buf, READ_BYTES, VAC_PIN_WRITE, "endless read",
			    &d->req[i].pin);
		if (r < 0) {
			atomic_store(&d->err, r);
			break;
		}
		d->req[i].fd = d->fd;
		d->req[i].iov[0] = (struct iovec){d->buf, READ_BYTES};
		d->req[i].iovs = 1;
		d->req[i].off = (off_t)(piece * READ_BYTES);
		atomic_fetch_or(&d->busy, 1u << i);
		d->submitted_ns[i] = bench_now();
		r = dio_submit(d->q, &d->req[i]);
		if (r < 0) {
			vac_unpin(d->rig.pool, d->req[i].pin);
			atomic_fetch_and(&d->busy, ~(1u << i));
			atomic_store(&d->err, r);
			break;
		}
	}
	return NULL;
}

/* Ends when no more reads come and none is in flight. */
static void *reap(void *arg)
{
	struct reads *d = arg;

	while (!atomic_load(&d->drained) || atomic_load(&d->busy)) {
		struct dio_req *r = dio_wait(d->q, 50);
		size_t i;

		if (!r)
			continue;
		i = (size_t)(r - d->req);
		atomic_fetch_add(&d->total_ns, bench_now() - d->submitted_ns[i]);
		if (r->res != (ssize_t)READ_BYTES)
			atomic_store(&d->err, r->res < 0 ? (int)r->res : -EIO);
		vac_unpin(d->rig.pool, r->pin);
		atomic_fetch_add(&d->done, 1);
		atomic_fetch_and(&d->busy, ~(1u << i));
		sem_post(&d->free_slots);
	}
	return NULL;
}

static int start_reads(struct reads *d)
{
	int r = -pthread_create(&d->reaper, NULL, reap, d);

	if (r < 0)
		return bench_fail(d->env, "starting a thread", r);
	r = -pthread_create(&d->submitter, NULL, submit, d);
	if (r == 0)
		return 0;
	atomic_store(&d->drained, true);
	pthread_join(d->reaper, NULL);
	return bench_fail(d->env, "starting a thread", r);
}

static int stop_reads(struct reads *d)
{
	atomic_store(&d->stop, true);
	sem_post(&d->free_slots); /* not a slot, but the submitter may sleep */
	pthread_join(d->submitter, NULL);
	atomic_store(&d->drained, true);
	pthread_join(d->reaper, NULL);
	return atomic_load(&d->err) ? bench_fail(d->env, "reading", atomic_load(&d->err)) : 0;
}

/* ---- Measuring ------------------------------------------------------------------------------ */

/* Mean time of a read while nothing else happens. */
static double read_us(struct reads *d)
{
	uint64_t n = atomic_load(&d->done), ns = atomic_load(&d->total_ns);

	do
		nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
	while (atomic_load(&d->done) == n && !atomic_load(&d->err));
	n = atomic_load(&d->done) - n;
	return n ? (double)(atomic_load(&d->total_ns) - ns) / (double)n / 1e3 : 0;
}

static int offline_us(struct reads *d, double *us)
{
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	uint64_t ns;

	if (rig_offline(&d->rig, d->id, &res, &ns) < 0 || rig_online(&d->rig, d->id) < 0)
		return -1;
	d->id ^= 1;
	*us = (double)ns / 1e3;
	return 0;
}

/* 1 if the offline ended all the same, 0 if not. */
static int offline_ungated(struct reads *d)
{
	struct vac_offline_opts opts = VAC_INIT(struct vac_offline_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	int r;

	opts.timeout_ms = UNGATED_MS;
	opts.flags = VAC_OFFLINE_TEST_NO_GATE;
	r = vac_block_offline(d->rig.pool, d->id, &opts, &res);
	vac_report_free(res.report);
	if (r == -EBUSY || r == -ETIMEDOUT)
		return 0;
	if (r < 0)
		return bench_fail(d->env, "taking a block away without the gate", r);
	r = rig_online(&d->rig, d->id);
	d->id ^= 1;
	return r < 0 ? r : 1;
}

static int measure(struct reads *d)
{
	struct bench_env *env = d->env;
	struct bench_result *res;
	double us, peer, reads[BENCH_RUNS_MAX];
	unsigned ended = 0;
	int r;

	res = bench_result(env, "gate", "us", BENCH_LESS, "one read of 1 MiB, 16 in flight");
	for (int run = -1; run < (int)env->runs; run++) {
		bench_run_begins(env, "gate", run);
		if (rig_warm(&d->rig, VAC_PAGEBLOCK_BYTES) < 0)
			return -1;
		peer = read_us(d);
		if (offline_us(d, &us) < 0 || atomic_load(&d->err))
			return -1;
		if (run < 0)
			continue;
		bench_add(res, us, peer);
		reads[run] = peer > 0 ? us / peer : 0;
	}
	for (unsigned i = 0; i < UNGATED_TRIES; i++) {
		r = offline_ungated(d);
		if (r < 0)
			return -1;
		ended += (unsigned)r;
	}
	bench_extra(res, "reads", bench_median(reads, env->runs));
	bench_extra(res, "ungated", ended);
	bench_extra(res, "ungated_tries", UNGATED_TRIES);
	bench_note(res, "by %s", dio_backend(d->q));
	return 0;
}

/* ---- The file ------------------------------------------------------------------------------- */

static int write_file(int fd, uint64_t bytes)
{
	char *buf = calloc(1, READ_BYTES);
	ssize_t n = -1;

	for (uint64_t at = 0; buf && at < bytes; at += READ_BYTES) {
		memset(buf, (int)(at / READ_BYTES), READ_BYTES);
		n = pwrite(fd, buf, READ_BYTES, (off_t)at);
		if (n != (ssize_t)READ_BYTES)
			break;
	}
	free(buf);
	return n == (ssize_t)READ_BYTES && fdatasync(fd) == 0 ? 0 : -1;
}

/* An unnamed file in the directory that can be read past the page cache, or -1. */
static int open_in(const char *dir, uint64_t bytes)
{
	char path[4096];
	struct statfs fs;
	int fd = -1, direct = -1;

	if (!dir || statfs(dir, &fs) < 0 || fs.f_type == TMPFS_MAGIC ||
	    snprintf(path, sizeof(path), "%s/vacate-bench-XXXXXX", dir) >= (int)sizeof(path))
		return -1;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (write_file(fd, bytes) == 0)
		direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(path);
	close(fd);
	return direct;
}

static int open_file(uint64_t bytes)
{
	const char *const dirs[] = {getenv("TMPDIR"), "/var/tmp", "/tmp", "."};
	int fd = -1;

	for (unsigned i = 0; fd < 0 && i < sizeof(dirs) / sizeof(dirs[0]); i++)
		fd = open_in(dirs[i], bytes);
	return fd;
}

static int open_and_measure(struct reads *d)
{
	int r;

	d->rig.opts.block_bytes = VAC_BLOCK_BYTES_MIN;
	d->rig.blocks = 2;
	d->rig.space_bytes = 2 * VAC_PAGEBLOCK_BYTES;
	if (rig_open(&d->rig) < 0 || rig_fill(&d->rig, VAC_PAGEBLOCK_BYTES, 0, &d->buf) < 0)
		return -1;
	r = dio_open(&d->q, DEPTH);
	if (r < 0)
		return bench_fail(d->env, "opening a queue for reads", r);
	if (start_reads(d) < 0)
		return -1;
	r = measure(d);
	return stop_reads(d) < 0 ? -1 : r;
}

int bench_gate(struct bench_env *env)
{
	struct reads d = {.env = env, .rig = RIG_INIT(env)};
	int r;

	d.file_bytes = env->tiny ? 16 * MIB : 128 * MIB;
	d.fd = open_file(d.file_bytes);
	if (d.fd < 0) {
		bench_skip(env, "gate", "no place for a file that can be read directly (TMPDIR)");
		return 0;
	}
	sem_init(&d.free_slots, 0, DEPTH);
	r = open_and_measure(&d);
	dio_close(d.q);
	sem_destroy(&d.free_slots);
	rig_close(&d.rig);
	close(d.fd);
	return r;
}

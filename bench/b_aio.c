/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O by vac_aio contexts beside fio's io_uring engine: aio_seq (128 KiB, in order) and aio_rand (4 KiB, at random),
 * reads of the same file, 32 at a time, past the page cache, for the same time; and the same while every block of the
 * pool is taken away and given back in turn, about once a second each (aio_seq_moving, aio_rand_moving). Every read of ours is checked by
 * its first word.
 *
 * fio is a package of its own (Debian: fio). Without it these are skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/rig.h"

#define DEPTH 32u
#define BLOCKS 4u
#define PACE_MS 250 /* each block leaves, and comes back, about once a second */

struct kind {
	const char *name, *rw, *unit;
	uint64_t bytes; /* of a read */
	bool random, moving;
};

static const struct kind kinds[] = {
	{"aio_seq", "read", "MiB/s", 128 * KIB, false, false},
	{"aio_seq_moving", "read", "MiB/s", 128 * KIB, false, true},
	{"aio_rand", "randread", "reads/s", 4 * KIB, true, false},
	{"aio_rand_moving", "randread", "reads/s", 4 * KIB, true, true},
};

struct file {
	char path[48];
	int fd;
	uint64_t bytes;
};

/* Each page begins with its number. */
static int file_make(struct file *f, uint64_t bytes)
{
	uint64_t *buf = calloc(MIB, 1);
	int fd, r = 0;

	strcpy(f->path, "/var/tmp/vacate-bench-XXXXXX");
	f->bytes = bytes;
	fd = mkostemp(f->path, O_CLOEXEC);
	if (fd < 0 || !buf) {
		free(buf);
		return -ENOMEM;
	}
	for (uint64_t off = 0; off < bytes && r == 0; off += MIB) {
		for (uint64_t p = 0; p < MIB / VAC_PAGE_BYTES; p++)
			buf[p * (VAC_PAGE_BYTES / 8)] = off / VAC_PAGE_BYTES + p + 1;
		if (pwrite(fd, buf, MIB, (off_t)off) != (ssize_t)MIB)
			r = -ENOSPC;
	}
	if (fsync(fd) < 0)
		r = -EIO;
	close(fd);
	free(buf);
	f->fd = open(f->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return r ? r : f->fd < 0 ? -errno : 0;
}

/* What fio says it did: reads a second, or MiB. */
static int fio(const struct kind *k, const struct file *f, uint64_t ms, double *value)
{
	char cmd[512], line[4096], *at = line, *field = NULL;
	FILE *p;

	snprintf(
		cmd, sizeof(cmd),
		"fio --name=peer --filename=%s --ioengine=io_uring --direct=1 --iodepth=%u --rw=%s "
		"--bs=%llu --size=%llu --runtime=%llums --time_based --minimal --randrepeat=1 "
		"2>/dev/null",
		f->path, DEPTH, k->rw, (unsigned long long)k->bytes, (unsigned long long)f->bytes,
		(unsigned long long)ms);
	p = popen(cmd, "re");
	if (!p)
		return -errno;
	line[0] = '\0';
	if (!fgets(line, sizeof(line), p))
		line[0] = '\0';
	if (pclose(p) != 0)
		return -EIO;
	for (unsigned i = 0; i < (k->random ? 8u : 7u) && at; i++)
		field = strsep(&at, ";");
	*value = field ? strtod(field, NULL) / (k->random ? 1 : 1024) : 0;
	return *value > 0 ? 0 : -EIO;
}

/* ---- Ours ---------------------------------------------------------------------------------------- */

struct load {
	struct vac_aio *ctx;
	uint8_t *mem;
	const struct kind *k;
	const struct file *f;
	uint64_t seed, next;
	unsigned bad;
};

static void aim(struct load *l, struct vac_aio_req *q, unsigned slot)
{
	uint64_t n = l->f->bytes / l->k->bytes;

	*q = (struct vac_aio_req){.op = VAC_AIO_READ,
				  .fd = l->f->fd,
				  .off = (l->k->random ? bench_random(&l->seed) : l->next++) % n *
					 l->k->bytes,
				  .buf = l->mem + slot * l->k->bytes,
				  .len = l->k->bytes};
	q->user_data = q->off / VAC_PAGE_BYTES << 8 | slot;
}

/* DEPTH reads at a time for so long; answers reads, or MiB, a second. */
static int ours(struct load *l, uint64_t ms, double *value)
{
	struct vac_aio_req q[DEPTH];
	struct vac_aio_event e[DEPTH];
	uint64_t start = bench_now(), end = start + ms * 1000000, reads = 0, now;
	unsigned under_way = DEPTH;
	int r, n;

	for (unsigned i = 0; i < DEPTH; i++)
		aim(l, &q[i], i);
	r = vac_aio_submit(l->ctx, q, DEPTH);
	if (r != (int)DEPTH)
		return r < 0 ? r : -EIO;
	while (under_way) {
		n = vac_aio_getevents(l->ctx, 1, DEPTH, e, -1);
		if (n < 0)
			return n;
		now = bench_now();
		for (int i = 0; i < n; i++) {
			unsigned slot = e[i].user_data & 0xff;
			uint64_t word = *(uint64_t *)(void *)(l->mem + slot * l->k->bytes);

			l->bad += e[i].res != (int32_t)l->k->bytes ||
				  word != (e[i].user_data >> 8) + 1;
			aim(l, &q[i], slot);
		}
		reads += now < end ? (unsigned)n : 0;
		if (now >= end) {
			under_way -= (unsigned)n;
			continue;
		}
		r = vac_aio_submit(l->ctx, q, (unsigned)n);
		if (r != n)
			return r < 0 ? r : -EIO;
	}
	*value = (double)reads * 1e9 / (double)(end - start) *
		 (l->k->random ? 1 : (double)l->k->bytes / (double)MIB);
	return 0;
}

struct mover {
	struct rig *rig;
	_Atomic bool stop;
	_Atomic unsigned rounds;
	int r;
};

static void *mover_main(void *arg)
{
	struct mover *m = arg;
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);

	for (int id = 0; !atomic_load(&m->stop) && m->r == 0; id = (id + 1) % (int)BLOCKS) {
		m->r = rig_offline(m->rig, id, &res, NULL);
		if (m->r == 0)
			m->r = rig_online(m->rig, id);
		atomic_fetch_add(&m->rounds, 1);
		usleep(PACE_MS * 1000);
	}
	return NULL;
}

static int ours_moving(struct load *l, struct rig *rig, uint64_t ms, double *value,
		       unsigned *blocks)
{
	struct mover m = {.rig = rig};
	pthread_t t;
	int r;

	if (!l->k->moving)
		return ours(l, ms, value);
	if (pthread_create(&t, NULL, mover_main, &m))
		return -ENOMEM;
	r = ours(l, ms, value);
	atomic_store(&m.stop, true);
	pthread_join(t, NULL);
	*blocks += atomic_load(&m.rounds);
	return r ? r : m.r;
}

static int run_kind(struct bench_env *env, const struct kind *k)
{
	uint64_t ms = env->tiny ? 200 : 2000, *mem;
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_info info = VAC_INIT(struct vac_aio_info);
	struct rig rig = RIG_INIT(env);
	struct file f = {.fd = -1};
	struct load l = {.k = k, .f = &f, .seed = BENCH_SEED};
	struct bench_result *res;
	unsigned blocks = 0;
	double value = 0, peer = 0;
	int r;

	if (system("fio --version >/dev/null 2>&1") != 0) {
		bench_skip(env, k->name, "fio, the peer, is not installed");
		return 0;
	}
	r = file_make(&f, env->tiny ? 16 * MIB : 512 * MIB);
	if (r < 0) {
		if (f.fd >= 0)
			close(f.fd);
		unlink(f.path);
		bench_skip(env, k->name, "no file for direct I/O in /var/tmp: %s", vac_strerror(r));
		return 0;
	}
	r = -1;
	rig.opts.block_bytes = env->tiny ? 8 * MIB : 16 * MIB;
	rig.blocks = BLOCKS;
	rig.space_bytes = 64 * MIB;
	if (rig_open(&rig) < 0 || rig_fill(&rig, DEPTH * k->bytes, 0, &mem) < 0)
		goto out;
	l.mem = (uint8_t *)mem;
	o.name = "bench";
	o.events = DEPTH;
	r = vac_aio_setup(rig.space, &o, &l.ctx);
	if (r < 0) {
		r = bench_fail(env, "a context", r);
		goto out;
	}
	vac_aio_info(l.ctx, &info);
	res = bench_result(env, k->name, k->unit, BENCH_MORE, "fio --ioengine=io_uring");
	for (int run = -1; run < (int)env->runs && r == 0; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, k->name, run);
		if (first)
			r = ours_moving(&l, &rig, ms, &value, &blocks);
		r = r ? r : fio(k, &f, ms, &peer);
		if (!first && r == 0)
			r = ours_moving(&l, &rig, ms, &value, &blocks);
		if (run >= 0 && r == 0)
			bench_add(res, value, peer);
	}
	vac_aio_destroy(l.ctx);
	if (r < 0)
		r = bench_fail(env, "reads", r);
	else if (l.bad)
		r = bench_fail(env, "the contents of what was read", -EIO);
	if (k->moving)
		bench_extra(res, "blocks taken away", blocks);
	if (!info.uring)
		bench_note(res, "by threads, as the host has no io_uring for us");
out:
	rig_close(&rig);
	close(f.fd);
	unlink(f.path);
	return r;
}

static int run_two(struct bench_env *env, unsigned first)
{
	return run_kind(env, &kinds[first]) < 0 || run_kind(env, &kinds[first + 1]) < 0 ? -1 : 0;
}

int bench_aio_seq(struct bench_env *env)
{
	return run_two(env, 0);
}

int bench_aio_rand(struct bench_env *env)
{
	return run_two(env, 2);
}

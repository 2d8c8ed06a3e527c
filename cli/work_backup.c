/* SPDX-License-Identifier: MIT */
/*
 * Workload `backup`: point-in-time backups of files to disk, from a snapshot, while they are rewritten.
 *
 * The files are copies of real ones that the run has loaded (run->source), or made up, in a space of their own, since
 * what is shared needs memory for copies, and the other groups leave none. The first thread backs up: it takes a
 * snapshot, saves each file of it to a directory on the disk, takes it away, reads all files back and checks them. The other
 * threads rewrite: each owns a part of the files and gives them version after version, in one fixed order for ever, the
 * words of each from the first to the last.
 *
 * So the versions alone tell the instant. Of a writer's files, which have versions v0, v1, ... in its order: the first
 * few have the same, the rest one less. Only the last one of the first can be in the middle of its rewriting, and
 * then it is cut at one word: before it the version, from it on the one before. Anything else is not one
 * instant, or not what was there.
 *
 * Every other backup is taken as a program would that wants whole files: between two of them, writers kept out
 * for the moment of the snapshot. Then no file may be cut. The rest is taken at any moment.
 *
 * Parks without a snapshot, every file whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "out.h"
#include "scratch.h"
#include "workload.h"

#define AREA_MAX ((uint64_t)16 << 20)
#define AREA_MIN ((uint64_t)256 << 10)
#define AREA_SHARE 32 /* of the group's memory */
#define COPIES 3      /* of the area, at most: while a snapshot is there */
#define FILES_MAX 256u
#define MADE_FILES 16u /* where none were given */
#define HEAD_WORDS \
	4u /* what comes before the contents: a magic, the file's number, its words, its version */
#define VERSION 3u
#define MAGIC UINT64_C(0x7061636b75706261)
#define BOUNCE_WORDS ((uint64_t)32 << 10)
#define PAUSE_NS 20000000u
#define REST_NS 1000000

struct image {
	char name[64];
	uint64_t *at;    /* in the space */
	uint64_t words;  /* the head too */
	uint64_t *first; /* what version 0 has for contents */
};

struct backup {
	struct vac_space *space;
	void *mem;
	uint64_t bytes; /* mapped */
	struct image *file;
	unsigned files, writers;
	bool real;     /* copies of files that were loaded */
	uint64_t *is;  /* a file that was read back, or a piece to be written */
	uint64_t most; /* words of the largest */

	/* A writer holds it for reading over one file; for writing: all files are whole. */
	pthread_rwlock_t whole;
	bool lock_made;

	int dir;
	char path[512];

	/* The first thread's. */
	uint64_t taken, between, cut, saved_bytes, refused;
	_Atomic uint64_t rewritten;
};

/* ---- Versions --------------------------------------------------------------------------------- */

static uint64_t word_of(const struct image *f, uint64_t i, uint64_t version)
{
	uint64_t w = f->first[i - HEAD_WORDS];

	return version ? w ^ wl_mix(version << 24 ^ i) : w;
}

/* In order, one word after another: the order of stores is what a snapshot is judged by. */
static void rewrite(const struct image *f, uint64_t version, uint64_t from, uint64_t to)
{
	volatile uint64_t *at = f->at;

	for (uint64_t i = from; i < to; i++)
		at[i] = word_of(f, i, version);
}

static void rewrite_one(struct wl_worker *w, const struct image *f, uint64_t version)
{
	uint64_t rest = HEAD_WORDS + wl_below(w, f->words - HEAD_WORDS + 1);

	((volatile uint64_t *)f->at)[VERSION] = version;
	rewrite(f, version, HEAD_WORDS, rest);
	/* Resting in the middle of a file, a snapshot meets it there. */
	if (w->run->paced) {
		const struct timespec ts = {0, REST_NS};

		nanosleep(&ts, NULL);
	}
	rewrite(f, version, rest, f->words);
}

/*
 * Is this what file k has in some version, or, if torn, in two that follow each other? Answers the version, the later one;
 * *cut: it was two.
 */
static uint64_t check_image(struct wl_run *run, const struct backup *d, unsigned k,
			    const uint64_t *is, bool torn, bool *cut, const char *what)
{
	const struct image *f = &d->file[k];
	uint64_t version = is[VERSION], part = version;

	*cut = false;
	if (is[0] != MAGIC || is[1] != k || is[2] != f->words) {
		wl_fault(run,
			 "backup: %s: file %u (%s) begins with %016" PRIx64 " %" PRIu64 " %" PRIu64,
			 what, k, f->name, is[0], is[1], is[2]);
		return version;
	}
	for (uint64_t i = HEAD_WORDS; i < f->words; i++) {
		if (is[i] == word_of(f, i, part))
			continue;
		if (torn && !*cut && version && is[i] == word_of(f, i, version - 1)) {
			*cut = true;
			part = version - 1;
			continue;
		}
		wl_fault(run,
			 "backup: %s: file %u (%s), version %" PRIu64 "%s: word %" PRIu64
			 " of %" PRIu64 " is %016" PRIx64 ", not %016" PRIx64,
			 what, k, f->name, version, *cut ? ", cut before" : "", i, f->words, is[i],
			 word_of(f, i, part));
		break;
	}
	return version;
}

/* What a look at all files of a writer has found so far, in its order. */
struct instant {
	uint64_t first, last;
	unsigned files;
	bool cut;
};

static void check_instant(struct wl_run *run, const struct backup *d, unsigned k,
			  struct instant *now, uint64_t version, bool cut, const char *what)
{
	if (!now->files++) {
		now->first = version;
	} else if (version != now->last && (version + 1 != now->last || now->last != now->first)) {
		wl_fault(run,
			 "backup: %s: not one instant: file %u (%s) has version %" PRIu64
			 ", the one before it %" PRIu64 ", the first %" PRIu64,
			 what, k, d->file[k].name, version, now->last, now->first);
	} else if (now->cut && version == now->last) {
		wl_fault(run,
			 "backup: %s: file %u (%s) has version %" PRIu64
			 " already, and the one before it is still being rewritten",
			 what, k, d->file[k].name, version);
	}
	if (cut && version != now->first)
		wl_fault(run,
			 "backup: %s: file %u (%s) is cut in version %" PRIu64
			 ", the first has %" PRIu64,
			 what, k, d->file[k].name, version, now->first);
	now->last = version;
	now->cut = cut;
}

/* ---- Preparing -------------------------------------------------------------------------------- */

static int add_file(struct backup *d, const char *name, const void *from, uint64_t bytes,
		    uint64_t seed)
{
	struct image *f = &d->file[d->files];
	uint64_t words = (bytes + 7) / 8;

	f->first = calloc(words ? words : 1, 8);
	if (!f->first)
		return -ENOMEM;
	if (from)
		memcpy(f->first, from, bytes);
	for (uint64_t i = 0; !from && i < words; i++)
		f->first[i] = wl_mix(seed ^ (uint64_t)d->files << 40 ^ i);
	f->words = HEAD_WORDS + words;
	snprintf(f->name, sizeof(f->name), "%03u-%.50s", d->files, name);
	if (f->words > d->most)
		d->most = f->words;
	d->bytes += (f->words * 8 + VAC_PAGE_BYTES - 1) / VAC_PAGE_BYTES * VAC_PAGE_BYTES;
	d->files++;
	return 0;
}

static int choose_files(struct wl_group *g, uint64_t area)
{
	const struct wl_run *run = g->run;
	struct backup *d = g->data;
	unsigned made = MADE_FILES > d->writers * 2 ? MADE_FILES : d->writers * 2;
	int err = 0;

	/* One large file alone would show little. */
	for (unsigned k = 0; k < run->sources && d->files < FILES_MAX && !err; k++) {
		const struct wl_source *s = &run->source[k];
		const char *name = strrchr(s->name, '/');

		if (s->bytes && s->bytes <= area / 8 && d->bytes + s->bytes + VAC_PAGE_BYTES < area)
			err = add_file(d, name ? name + 1 : s->name, s->at, s->bytes, 0);
	}
	d->real = d->files >= d->writers * 2;
	/* Of very different sizes. */
	for (unsigned k = 0; !d->real && k < made && d->files < FILES_MAX && !err; k++)
		err = add_file(d, "made", NULL, area / made / 4 * (1 + k % 4) + k % 7, run->seed);
	return err;
}

static int map_files(struct wl_group *g)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct backup *d = g->data;
	unsigned char *at;
	int err;

	so.bytes = (d->bytes + VAC_PAGEBLOCK_BYTES - 1) / VAC_PAGEBLOCK_BYTES * VAC_PAGEBLOCK_BYTES;
	so.name = g->cls->name;
	err = vac_space_create(g->run->pool, &so, &d->space);
	if (!err)
		err = vac_map(d->space, NULL, d->bytes, VAC_PROT_READ | VAC_PROT_WRITE,
			      VAC_MAP_POPULATE, &d->mem);
	if (err) {
		out_error("cannot map memory for 'backup': %s", vac_strerror(err));
		return err;
	}
	at = d->mem;
	for (unsigned k = 0; k < d->files; k++) {
		struct image *f = &d->file[k];

		f->at = (uint64_t *)(void *)at;
		f->at[0] = MAGIC;
		f->at[1] = k;
		f->at[2] = f->words;
		f->at[VERSION] = 0;
		rewrite(f, 0, HEAD_WORDS, f->words);
		at += (f->words * 8 + VAC_PAGE_BYTES - 1) / VAC_PAGE_BYTES * VAC_PAGE_BYTES;
	}
	return 0;
}

static int prepare(struct wl_group *g)
{
	uint64_t area = g->bytes / AREA_SHARE < AREA_MAX ? g->bytes / AREA_SHARE : AREA_MAX;
	struct backup *d = calloc(1, sizeof(*d));
	pthread_rwlockattr_t attr;
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->dir = -1;
	d->writers = g->threads > 1 ? g->threads - 1 : 1;
	/* Or who wants them whole would wait for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	d->lock_made = !pthread_rwlock_init(&d->whole, &attr);
	pthread_rwlockattr_destroy(&attr);
	d->file = calloc(FILES_MAX, sizeof(*d->file));
	if (!d->file || !d->lock_made)
		return -ENOMEM;
	err = choose_files(g, area > AREA_MIN ? area : AREA_MIN);
	if (err)
		return err;
	d->is = malloc((d->most > BOUNCE_WORDS ? d->most : BOUNCE_WORDS) * 8);
	if (!d->is)
		return -ENOMEM;
	d->dir = scratch_dir(g->run, "backup", d->path, sizeof(d->path));
	if (d->dir < 0) {
		out_error("no directory for the files of 'backup': %s", strerror(-d->dir));
		return d->dir;
	}
	err = map_files(g);
	g->bytes = d->bytes * (1 + COPIES);
	return err;
}

/* ---- Working ---------------------------------------------------------------------------------- */

static void rewrite_all(struct wl_worker *w, unsigned writer)
{
	struct backup *d = w->group->data;

	for (uint64_t version = 1;; version++) {
		for (unsigned k = writer; k < d->files; k += d->writers) {
			uint64_t t0;

			if (!wl_go(w))
				return;
			t0 = wl_now_ns();
			wl_doing(w, "rewriting a file", d->file[k].at);
			pthread_rwlock_rdlock(&d->whole);
			rewrite_one(w, &d->file[k], version);
			pthread_rwlock_unlock(&d->whole);
			atomic_fetch_add(&d->rewritten, 1);
			wl_op_end(w, t0, 0);
		}
	}
}

/* Through memory of our own: the kernel takes pages only for which a pin would have to copy them. */
static int save(struct backup *d, const struct image *f, const uint64_t *from)
{
	int fd = openat(d->dir, f->name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t n;
	int err = fd < 0 ? -errno : 0;

	for (uint64_t at = 0; at < f->words && !err; at += n) {
		n = f->words - at < BOUNCE_WORDS ? f->words - at : BOUNCE_WORDS;
		memcpy(d->is, from + at, n * 8);
		for (uint64_t done = 0; done < n * 8 && !err;) {
			ssize_t r = write(fd, (char *)d->is + done, n * 8 - done);

			if (r < 0 && errno != EINTR)
				err = -errno;
			done += r > 0 ? (uint64_t)r : 0;
		}
	}
	if (!err && fdatasync(fd))
		err = -errno;
	/* What is read back is to come from the disk. */
	if (!err)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (fd >= 0 && close(fd) && !err)
		err = -errno;
	return err;
}

static int load(struct backup *d, const struct image *f)
{
	int fd = openat(d->dir, f->name, O_RDONLY | O_CLOEXEC);
	int err = fd < 0 ? -errno : 0;
	uint64_t at = 0;

	while (at < f->words * 8 && !err) {
		ssize_t n = read(fd, (char *)d->is + at, f->words * 8 - at);

		if (n < 0 && errno == EINTR)
			continue;
		err = n > 0 ? 0 : n ? -errno : -EIO;
		at += n > 0 ? (uint64_t)n : 0;
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static int take(struct wl_worker *w, bool whole, struct vac_space **snap)
{
	struct backup *d = w->group->data;
	int err;

	wl_doing(w, "taking a snapshot", NULL);
	if (whole)
		pthread_rwlock_wrlock(&d->whole);
	err = vac_space_snapshot(d->space, NULL, snap);
	if (whole)
		pthread_rwlock_unlock(&d->whole);
	d->refused += err == -ENOMEM;
	if (err && err != -ENOMEM)
		wl_fault(w->run, "backup: no snapshot: %s", vac_strerror(err));
	return err;
}

static void check_saved(struct wl_worker *w, bool whole)
{
	struct backup *d = w->group->data;
	bool any = false;

	for (unsigned writer = 0; writer < d->writers; writer++) {
		struct instant now = {0};

		for (unsigned k = writer; k < d->files; k += d->writers) {
			int err = load(d, &d->file[k]);
			uint64_t version;
			bool cut;

			if (err) {
				wl_fault(w->run, "backup: cannot read %s/%s: %s", d->path,
					 d->file[k].name, strerror(-err));
				return;
			}
			version = check_image(w->run, d, k, d->is, !whole, &cut, "on the disk");
			check_instant(w->run, d, k, &now, version, cut, "on the disk");
			d->saved_bytes += d->file[k].words * 8;
			any |= cut;
		}
	}
	d->cut += any;
}

static void one_backup(struct wl_worker *w)
{
	struct backup *d = w->group->data;
	bool whole = d->taken & 1;
	uint64_t t0 = wl_now_ns();
	struct vac_space *s;
	int err;

	if (take(w, whole, &s)) {
		wl_sleep(w, PAUSE_NS);
		return;
	}
	for (unsigned k = 0, e = 0; k < d->files && !e; k++) {
		const struct image *f = &d->file[k];
		const uint64_t *from = vac_space_translate(d->space, f->at, s);

		wl_doing(w, "saving a file of a snapshot", from);
		err = save(d, f, from);
		e = err != 0;
		if (err)
			wl_fault(w->run, "backup: cannot write %s/%s: %s", d->path, f->name,
				 strerror(-err));
	}
	wl_doing(w, "taking a snapshot away", NULL);
	err = vac_space_destroy(s);
	if (err)
		wl_fault(w->run, "backup: a snapshot stays: %s", vac_strerror(err));
	wl_doing(w, "checking a backup", NULL);
	check_saved(w, whole);
	d->taken++;
	d->between += whole;
	wl_op_end(w, t0, d->files);
	if (w->run->paced)
		wl_sleep(w, PAUSE_NS);
}

static void work(struct wl_worker *w)
{
	if (w->index) {
		rewrite_all(w, w->index - 1);
		return;
	}
	while (wl_go(w))
		one_backup(w);
}

/* Nobody is at work: no file is in the middle of anything. */
static void sweep(struct wl_group *g)
{
	struct backup *d = g->data;

	for (unsigned writer = 0; writer < d->writers; writer++) {
		struct instant now = {0};

		for (unsigned k = writer; k < d->files; k += d->writers) {
			bool cut;
			uint64_t version =
				check_image(g->run, d, k, d->file[k].at, false, &cut, "in memory");

			check_instant(g->run, d, k, &now, version, cut, "in memory");
		}
	}
	atomic_fetch_add(&g->swept, d->files);
}

static void release(struct wl_group *g)
{
	struct backup *d = g->data;

	if (d->space && vac_space_destroy(d->space))
		wl_fault(g->run, "backup: its space stays");
	for (unsigned k = 0; k < d->files; k++) {
		if (d->dir >= 0)
			unlinkat(d->dir, d->file[k].name, 0);
		free(d->file[k].first);
	}
	if (d->dir >= 0) {
		close(d->dir);
		rmdir(d->path);
	}
	if (d->lock_made)
		pthread_rwlock_destroy(&d->whole);
	free(d->file);
	free(d->is);
	free(d);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct backup *d = g->data;

	snprintf(buf, len, "%" PRIu64 " backups of %u files, %" PRIu64 " refused", d->taken,
		 d->files, d->refused);
}

static void tell(struct wl_group *g, char *buf, size_t len)
{
	struct backup *d = g->data;

	snprintf(buf, len,
		 "%" PRIu64 " backups to the disk of %u files%s, from snapshots, while these were "
		 "rewritten %" PRIu64
		 " times:\n%.1f MiB read back, each backup of one instant; %" PRIu64
		 " taken between two rewrites, every file whole,\n%" PRIu64
		 " at any moment, of which %" PRIu64
		 " met one file in the middle, cut at the right word",
		 d->taken, d->files, d->real ? " that were loaded" : "", atomic_load(&d->rewritten),
		 (double)d->saved_bytes / 1048576, d->between, d->taken - d->between, d->cut);
}

/* The space is its own: its memory lies where memory is, and nothing of it keeps a block. */
static unsigned in_block(struct wl_group *g, int block)
{
	struct backup *d = g->data;
	unsigned n = 0;

	for (unsigned k = 0; k < d->files; k++)
		n += wl_lies_in(d->space, d->file[k].at, block);
	return n;
}

const struct wl_class wl_backup = {
	.name = "backup",
	.what = "save files to disk from a snapshot while they are rewritten, and check them there",
	.threads_min = 2,
	.prepare = prepare,
	.work = work,
	.sweep = sweep,
	.release = release,
	.note = note,
	.in_block = in_block,
	.tell = tell,
};

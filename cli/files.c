/* SPDX-License-Identifier: MIT */
/*
 * Real files in pool memory. See files.h.
 *
 * Loading and comparing read the same stretches (chunks) in the same way, several in flight; they
 * differ in where a chunk goes: straight into pinned pool memory, or into a buffer of our own to
 * be compared. One thread pins, submits and reaps, which is safe only while no block leaves: it
 * waits for no gate.
 */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dio.h"
#include "opt.h"
#include "out.h"

#define DEPTH 8
#define CHUNK ((uint64_t)1 << 20)
#define MISFITS_MAX 2000 /* files that no longer fit, before we stop looking for one that does */
#define CHANGED_SHOWN 10
#define PAGE VAC_PAGE_BYTES

static uint64_t round_up(uint64_t n)
{
	return (n + PAGE - 1) / PAGE * PAGE;
}

/* ---- finding ---- */

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int add_file(struct file_set *fs, const FTSENT *e)
{
	struct file *f;

	if (fs->files == fs->room) {
		uint64_t room = fs->room ? fs->room * 2 : 256;
		struct file *bigger = reallocarray(fs->file, room, sizeof(*f));

		if (!bigger)
			return -ENOMEM;
		fs->file = bigger;
		fs->room = room;
	}
	f = &fs->file[fs->files];
	memset(f, 0, sizeof(*f));
	f->path = strdup(e->fts_path);
	if (!f->path)
		return -ENOMEM;
	f->bytes = (uint64_t)e->fts_statp->st_size;
	f->first_page = fs->pages.pages;
	fs->files++;
	fs->bytes += f->bytes;
	fs->pages.pages += round_up(f->bytes) / PAGE;
	return 0;
}

/* 0, 1 (enough found), or an error. */
static int consider(struct file_set *fs, const FTSENT *e, uint64_t min_bytes, uint64_t max_bytes)
{
	uint64_t left = max_bytes - fs->pages.pages * PAGE;
	uint64_t bytes;

	switch (e->fts_info) {
	case FTS_F: break;
	case FTS_NS:
	case FTS_DNR:
	case FTS_ERR:
		if (e->fts_level == FTS_ROOTLEVEL) {
			out_error("cannot read '%s': %s; give files or directories", e->fts_path,
				  strerror(e->fts_errno));
			return -e->fts_errno;
		}
		fs->unreadable++;
		return 0;
	default: return 0;
	}
	bytes = (uint64_t)e->fts_statp->st_size;
	if (!bytes || bytes < min_bytes)
		return 0;
	if (faccessat(AT_FDCWD, e->fts_path, R_OK, AT_EACCESS)) {
		fs->unreadable++;
		return 0;
	}
	if (round_up(bytes) > left)
		return ++fs->not_fitting >= MISFITS_MAX || left < PAGE ? 1 : 0;
	return add_file(fs, e);
}

int files_collect(struct file_set *fs, char *const *paths, unsigned n, uint64_t min_bytes,
		  uint64_t max_bytes)
{
	int err = 0;

	/* One walk a path: fts would sort the paths themselves too, and their order is the user's. */
	for (unsigned i = 0; i < n && !err; i++) {
		char *one[2] = {paths[i], NULL};
		FTS *walk = fts_open(one, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR | FTS_XDEV,
				     by_name);
		FTSENT *e;

		if (!walk) {
			err = -errno;
			out_error("cannot walk '%s': %s", paths[i], strerror(-err));
			return err;
		}
		while (!err && (e = fts_read(walk)))
			err = consider(fs, e, min_bytes, max_bytes);
		fts_close(walk);
		if (err == -ENOMEM)
			out_error("out of memory for the list of files");
	}
	return err < 0 ? err : 0;
}

/* ---- reading ---- */

/* A file that is being read. */
struct open_file {
	struct file *f;
	int fd;
	unsigned chunks; /* of it in flight */
	bool all_submitted;
};

struct chunk {
	struct dio_req req;
	struct open_file *of;
	uint64_t off, bytes; /* of the file's contents */
	unsigned char *bounce;
	struct chunk *next_free;
};

struct reading {
	struct file_set *fs;
	struct wl_run *run;
	bool compare;
	struct dio_queue *q;
	struct chunk chunk[DEPTH];
	struct chunk *free;
	unsigned in_flight;
	uint64_t done_bytes;
};

static unsigned char *pool_at(struct reading *r, const struct file *f, uint64_t off)
{
	return r->fs->pages.base + f->first_page * PAGE + off;
}

static bool same_file(const struct file *f, const struct stat *st)
{
	return f->dev == st->st_dev && f->ino == st->st_ino && f->bytes == (uint64_t)st->st_size &&
	       f->mtime.tv_sec == st->st_mtim.tv_sec && f->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

static void fail(struct reading *r, struct file *f, const char *what, int err)
{
	if (r->compare) {
		f->changed = true;
		return;
	}
	if (!f->failed)
		out_error("cannot %s '%s': %s; it is left out", what, f->path, strerror(err));
	f->failed = true;
}

static void differ(struct reading *r, const struct chunk *c, const unsigned char *disk)
{
	struct file *f = c->of->f;
	const unsigned char *mem = pool_at(r, f, c->off);
	uint64_t i = 0, page;
	char text[160];

	while (i < c->bytes && mem[i] == disk[i])
		i++;
	f->differs = true;
	page = f->first_page + (c->off + i) / PAGE;
	wl_fault(r->run,
		 "file '%s' differs from byte %" PRIu64 " on: %02x in the pool, %02x on the disk; "
		 "the page's checksum is %s that of its loading (%s)",
		 f->path, c->off + i, mem[i], disk[i],
		 wl_page_sum(r->fs->pages.base + page * PAGE) == r->fs->pages.sum[page] ? "still"
											: "not",
		 wl_page_text(r->run, mem + i, text, sizeof(text)));
}

/* The slow way, for files or tails that direct reads do not deliver: into our buffer, from c->off +
 * done on. */
static void read_buffered(struct reading *r, struct chunk *c, uint64_t done)
{
	struct file *f = c->of->f;
	int fd = open(f->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		fail(r, f, "open", errno);
		return;
	}
	while (done < c->bytes) {
		ssize_t n = pread(fd, c->bounce + done, c->bytes - done, (off_t)(c->off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			fail(r, f, "read", n ? errno : ENODATA);
			break;
		}
		/* By the CPU, which may touch the pool whenever it likes; read(2) may not. */
		if (!r->compare)
			memcpy(pool_at(r, f, c->off + done), c->bounce + done, (size_t)n);
		done += (uint64_t)n;
	}
	close(fd);
}

static void put_chunk(struct reading *r, struct chunk *c)
{
	c->next_free = r->free;
	r->free = c;
}

static void put_file(struct reading *r, struct open_file *of)
{
	struct file *f = of->f;
	struct stat st;

	if (of->chunks || !of->all_submitted)
		return;
	if (!f->failed && (fstat(of->fd, &st) || !same_file(f, &st)))
		fail(r, f, "load", ESTALE); /* it changed while it was being read */
	close(of->fd);
	free(of);
}

/* c's bytes have been read as far as they could be; the chunk is free again. */
static void end_chunk(struct reading *r, struct chunk *c)
{
	struct open_file *of = c->of;
	struct file *f = of->f;

	if (r->compare && !f->changed) {
		if (memcmp(c->bounce, pool_at(r, f, c->off), c->bytes))
			differ(r, c, c->bounce);
		else
			r->fs->compared_bytes += c->bytes;
	}
	r->done_bytes += c->bytes;
	wl_stage(r->run, r->compare ? "comparing files" : "loading files");
	out_bar((double)r->done_bytes / (double)(r->fs->bytes ? r->fs->bytes : 1), "%s %s",
		r->compare ? "comparing" : "loading", f->path);
	of->chunks--;
	put_file(r, of);
	put_chunk(r, c);
}

static void reap(struct reading *r)
{
	struct dio_req *req = dio_wait(r->q, 1000);
	struct chunk *c;
	uint64_t done = 0;

	if (!req)
		return;
	c = req->user;
	r->in_flight--;
	if (!r->compare && vac_unpin(r->run->pool, req->pin))
		wl_fault(r->run, "cannot unpin what '%s' was loaded into", c->of->f->path);
	if (req->res == -EINVAL || req->res == -EOPNOTSUPP)
		c->of->f->buffered = true; /* refused at the read, not at open() */
	else if (req->res < 0 && req->res != -EAGAIN && req->res != -EINTR)
		fail(r, c->of->f, "read", (int)-req->res);
	else if (req->res > 0)
		done = (uint64_t)req->res;
	if (done < c->bytes && !c->of->f->failed)
		read_buffered(r, c, done);
	end_chunk(r, c);
}

static void read_chunk(struct reading *r, struct open_file *of, uint64_t off)
{
	struct file *f = of->f;
	const char *name = strrchr(f->path, '/');
	char owner[VAC_OWNER_MAX];
	struct chunk *c;
	int err;

	while (!r->free)
		reap(r);
	c = r->free;
	r->free = c->next_free;
	c->of = of;
	c->off = off;
	c->bytes = f->bytes - off < CHUNK ? f->bytes - off : CHUNK;
	of->chunks++;
	if (f->buffered) {
		read_buffered(r, c, 0);
		end_chunk(r, c);
		return;
	}
	c->req.fd = of->fd;
	c->req.off = (off_t)off;
	c->req.user = c;
	c->req.iovs = 1;
	c->req.iov[0].iov_base = r->compare ? c->bounce : pool_at(r, f, off);
	c->req.iov[0].iov_len = round_up(c->bytes);
	if (!r->compare) {
		snprintf(owner, sizeof(owner), "load %.20s+%uK", name ? name + 1 : f->path,
			 (unsigned)(off >> 10));
		err = vac_pin(r->run->space, c->req.iov[0].iov_base, c->req.iov[0].iov_len,
			      VAC_PIN_WRITE, owner, &c->req.pin);
		if (err) {
			wl_fault(r->run, "cannot pin %p: %s", c->req.iov[0].iov_base,
				 vac_strerror(err));
			fail(r, f, "load", -err);
			end_chunk(r, c);
			return;
		}
	}
	err = dio_submit(r->q, &c->req);
	if (!err) {
		r->in_flight++;
		return;
	}
	if (!r->compare)
		vac_unpin(r->run->pool, c->req.pin);
	fail(r, f, "read", -err);
	end_chunk(r, c);
}

static void read_file(struct reading *r, struct file *f)
{
	struct open_file *of;
	struct stat st;

	if (r->compare && (f->failed || f->changed))
		return;
	of = calloc(1, sizeof(*of));
	if (!of) {
		fail(r, f, "load", ENOMEM);
		return;
	}
	of->f = f;
	of->fd = -1;
	if (!f->buffered)
		of->fd = open(f->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (of->fd < 0 && (f->buffered || errno == EINVAL || errno == EOPNOTSUPP)) {
		f->buffered = true;
		of->fd = open(f->path, O_RDONLY | O_CLOEXEC);
	}
	if (of->fd < 0 || fstat(of->fd, &st)) {
		fail(r, f, "open", errno);
		goto out;
	}
	if (!r->compare) {
		if ((uint64_t)st.st_size != f->bytes) {
			fail(r, f, "load", ESTALE);
			goto out;
		}
		f->dev = st.st_dev;
		f->ino = st.st_ino;
		f->mtime = st.st_mtim;
	} else if (!same_file(f, &st)) {
		f->changed = true;
		goto out;
	}
	for (uint64_t off = 0; off < f->bytes && !f->failed; off += CHUNK)
		read_chunk(r, of, off);
	of->all_submitted = true;
	put_file(r, of);
	return;
out:
	if (of->fd >= 0)
		close(of->fd);
	free(of);
}

static int read_all(struct file_set *fs, struct wl_run *run, bool compare)
{
	struct reading r = {.fs = fs, .run = run, .compare = compare};
	int err = dio_open(&r.q, DEPTH);

	if (err) {
		out_error("cannot start direct reads: %s", strerror(-err));
		return err;
	}
	fs->backend = dio_backend(r.q);
	for (unsigned i = 0; i < DEPTH; i++) {
		r.chunk[i].bounce = aligned_alloc(PAGE, CHUNK);
		if (!r.chunk[i].bounce) {
			err = -ENOMEM;
			out_error("out of memory for reading files");
			goto out;
		}
		put_chunk(&r, &r.chunk[i]);
	}
	for (uint64_t i = 0; i < fs->files; i++) {
		if (atomic_load(&run->interrupted)) {
			err = -EINTR;
			break;
		}
		read_file(&r, &fs->file[i]);
	}
	while (r.in_flight)
		reap(&r);
out:
	for (unsigned i = 0; i < DEPTH; i++)
		free(r.chunk[i].bounce);
	dio_close(r.q);
	out_progress_end();
	return err;
}

/* ---- the whole ---- */

int files_load(struct file_set *fs, struct wl_run *run)
{
	uint64_t bytes = fs->pages.pages * PAGE, t0, ns;
	int err;

	if (!bytes)
		return 0;
	fs->pages.base = wl_map_filled(run, &bytes, 0, "the files", &err);
	if (!fs->pages.base)
		return err;
	fs->pages.sum = malloc(fs->pages.pages * sizeof(uint64_t));
	if (!fs->pages.sum) {
		out_error("out of memory for checksums");
		return -ENOMEM;
	}
	t0 = wl_now_ns();
	err = read_all(fs, run, false);
	if (err)
		return err;
	ns = wl_now_ns() - t0;
	fs->load_bytes_per_s = (double)fs->bytes * 1e9 / (double)(ns ? ns : 1);
	for (uint64_t i = 0; i < fs->pages.pages; i++)
		fs->pages.sum[i] = wl_page_sum(fs->pages.base + i * PAGE);
	for (uint64_t i = 0; i < fs->files; i++) {
		fs->failed += fs->file[i].failed;
		fs->buffered += fs->file[i].buffered && !fs->file[i].failed;
		if (fs->file[i].failed)
			fs->bytes -= fs->file[i].bytes;
	}
	err = vac_protect(run->space, fs->pages.base, bytes, VAC_PROT_READ);
	if (err)
		out_error("cannot make the files' pages read-only: %s", vac_strerror(err));
	return err;
}

int files_compare(struct file_set *fs, struct wl_run *run)
{
	int err = read_all(fs, run, true);

	for (uint64_t i = 0; i < fs->files; i++) {
		const struct file *f = &fs->file[i];

		fs->differing += f->differs;
		if (f->changed && ++fs->changed <= CHANGED_SHOWN)
			out_error("'%s' has changed on the disk since it was loaded: its checksums "
				  "stand in for it",
				  f->path);
	}
	return err;
}

void files_free(struct file_set *fs, struct wl_run *run)
{
	if (fs->pages.base)
		vac_unmap(run->space, fs->pages.base, fs->pages.pages * PAGE);
	for (uint64_t i = 0; i < fs->files; i++)
		free(fs->file[i].path);
	free(fs->file);
	free(fs->pages.sum);
	memset(fs, 0, sizeof(*fs));
}

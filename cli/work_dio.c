/* SPDX-License-Identifier: MIT */
/*
 * Workload `dio`: direct reads, several in flight and overlapping in time, into one and the same
 * pinned buffer, for ever: the pattern that starves memory hot-remove on Linux.
 *
 * Every read has its own pin, from submission to completion. The thread that pins and submits is
 * not the one that reaps and unpins: while the first waits at a gate, the second drains what the
 * gate waits for.
 *
 * How a lost read is noticed although all reads go to the same place: the file has SLOTS stretches
 * with different contents, each 8-byte word saying slot and position, and reads take the slots in
 * turn. When read X has completed, each word of the shared buffer must come from X or from a read
 * that was still in flight when X was submitted, or later. An older word means that X went
 * somewhere else. (Words of 8 bytes, not whole slots: transfers in flight interleave.) As the next
 * read soon covers up a hole that one has left, each read also fills, as its last page, a page of
 * its slot alone behind the shared buffer, under the same pin; that page is cleared before and must
 * be right to the last word after.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dio.h"
#include "out.h"
#include "workload.h"

#define DEPTH 6
#define SLOTS 32
#define SHARED_BYTES ((size_t)128 << 10)
#define OWN_BYTES VAC_PAGE_BYTES
#define READ_BYTES (SHARED_BYTES + OWN_BYTES)           /* what one read reads */
#define PINNED_BYTES (SHARED_BYTES + SLOTS * OWN_BYTES) /* the buffer, and what each read pins */
#define SHARED_WORDS (SHARED_BYTES / 8)
#define OWN_WORDS (OWN_BYTES / 8)
#define TAG 0xd1u /* top byte of each word of the file */

struct slot {
	atomic_bool in_flight;
	_Atomic uint64_t done_seq; /* when its last read was reaped */
};

/* One buffer and the thread pair that reads into it. */
struct stream {
	struct wl_worker *w;
	struct dio_queue *q;
	pthread_t reaper;
	unsigned char *buf;
	uint64_t buf_bytes;
	struct dio_req req[SLOTS]; /* a slot's read */
	uint64_t submit_seq[SLOTS];
	struct slot slot[SLOTS];
	_Atomic uint64_t seq;       /* orders submissions and completions */
	_Atomic uint64_t depth_sum; /* of reads in flight, taken at each completion */
	pthread_mutex_t lock;
	pthread_cond_t reaped;
	unsigned in_flight; /* guarded by lock */
	atomic_bool stop;
};

struct dio_group {
	char path[256]; /* of the file, already unlinked; for the owner's name */
	int fd;
	bool direct;
	const char *backend;
	struct stream *stream; /* [threads] */
};

static uint64_t file_word(unsigned slot, uint64_t index)
{
	return (uint64_t)TAG << 56 | (uint64_t)slot << 48 | index;
}

/* A temporary file with a name that is gone already. */
static int make_file(struct dio_group *d, const char *dir)
{
	struct stat st;
	int fd;

	if (stat(dir, &st) || !S_ISDIR(st.st_mode))
		return -ENOTDIR;
	snprintf(d->path, sizeof(d->path), "%.200s/vacate-dio-XXXXXX", dir);
	fd = mkostemp(d->path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	d->fd = open(d->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	d->direct = d->fd >= 0;
	if (d->fd < 0)
		d->fd = open(d->path, O_RDONLY | O_CLOEXEC);
	unlink(d->path);
	if (d->fd < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static int fill_file(int fd)
{
	uint64_t *words = malloc(READ_BYTES);
	int err = words ? 0 : -ENOMEM;

	for (unsigned s = 0; !err && s < SLOTS; s++) {
		for (uint64_t i = 0; i < READ_BYTES / 8; i++)
			words[i] = file_word(s, i);
		if (pwrite(fd, words, READ_BYTES, (off_t)(s * READ_BYTES)) != (ssize_t)READ_BYTES)
			err = errno ? -errno : -EIO;
	}
	/* Without this the first direct reads would write the pages back, each for itself. */
	if (!err && fsync(fd))
		err = -errno;
	free(words);
	return err;
}

/* O_DIRECT may be taken at open() and refused at the first read. */
static void probe_direct(struct dio_group *d)
{
	void *page;
	ssize_t n;
	char name[64];
	int fd;

	if (!d->direct || posix_memalign(&page, VAC_PAGE_BYTES, VAC_PAGE_BYTES))
		return;
	n = pread(d->fd, page, VAC_PAGE_BYTES, 0);
	free(page);
	if (n == (ssize_t)VAC_PAGE_BYTES)
		return;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", d->fd);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	close(d->fd);
	d->fd = fd;
	d->direct = false;
}

static int open_file(struct wl_group *g)
{
	struct dio_group *d = g->data;
	const char *dirs[] = {g->run->scratch_dir, getenv("TMPDIR"), "/var/tmp", "/tmp", "."};
	int err = -ENOENT;

	/* The first directory that takes O_DIRECT, else the first that takes a file at all. */
	for (int want_direct = 1; want_direct >= 0; want_direct--) {
		for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
			int fd = dirs[i] ? make_file(d, dirs[i]) : -ENOENT;

			if (fd < 0) {
				err = fd;
				continue;
			}
			err = fill_file(fd);
			close(fd);
			if (!err)
				probe_direct(d);
			if (!err && (d->direct || !want_direct))
				return 0;
			close(d->fd);
			d->fd = -1;
		}
	}
	out_error("cannot make a file of %zu KiB for direct reads in $TMPDIR, /var/tmp or /tmp: %s",
		  SLOTS * READ_BYTES >> 10, strerror(-err));
	return err;
}

static int prepare(struct wl_group *g)
{
	struct dio_group *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->fd = -1;
	d->stream = calloc(g->threads ? g->threads : 1, sizeof(*d->stream));
	if (!d->stream)
		return -ENOMEM;
	err = open_file(g);
	if (err)
		return err;
	if (!d->direct)
		out_error(
			"no directory at hand allows O_DIRECT: 'dio' reads through the page cache");
	g->bytes = 0;
	for (unsigned i = 0; i < g->threads; i++) {
		struct stream *s = &d->stream[i];

		s->w = g->workers[i];
		pthread_mutex_init(&s->lock, NULL);
		pthread_cond_init(&s->reaped, NULL);
		/* Every other buffer lies in base folios. */
		s->buf_bytes = PINNED_BYTES;
		s->buf = wl_map_filled(g->run, &s->buf_bytes, i & 1 ? 0 : VAC_MAP_NOHUGE, "'dio'",
				       &err);
		if (!s->buf)
			return err;
		err = dio_open(&s->q, DEPTH);
		if (err) {
			out_error("cannot start direct reads: %s", strerror(-err));
			return err;
		}
		d->backend = dio_backend(s->q);
		g->bytes += s->buf_bytes;
	}
	return 0;
}

/* May a word of this slot be in the buffer once a read submitted at submit_seq has completed? */
static bool recent(struct stream *s, unsigned slot, uint64_t submit_seq)
{
	return slot < SLOTS && (atomic_load(&s->slot[slot].in_flight) ||
				atomic_load(&s->slot[slot].done_seq) > submit_seq);
}

static uint64_t *own_page(struct stream *s, unsigned slot)
{
	return (uint64_t *)(s->buf + SHARED_BYTES + slot * OWN_BYTES);
}

static void wrong(struct stream *s, unsigned slot, const uint64_t *at, uint64_t found,
		  const char *what)
{
	char text[160];

	wl_fault(s->w->run,
		 "dio: after the read of slot %u the word at %p is %016" PRIx64 ": %s (%s)", slot,
		 (const void *)at, found, what, wl_page_text(s->w->run, at, text, sizeof(text)));
}

static void verify(struct stream *s, unsigned slot, uint64_t submit_seq)
{
	const uint64_t *own = own_page(s, slot);
	unsigned known = slot;

	for (uint64_t i = 0; i < OWN_WORDS; i++) {
		if (own[i] == file_word(slot, SHARED_WORDS + i))
			continue;
		wrong(s, slot, &own[i], own[i],
		      own[i] ? "not what the file holds" : "the read went elsewhere");
		break;
	}
	for (uint64_t i = 0; i < SHARED_WORDS; i++) {
		const volatile uint64_t *word = (const volatile uint64_t *)(uintptr_t)s->buf + i;
		uint64_t v = *word;
		unsigned from = (unsigned)(v >> 48) & 0xff;

		/* The word is read before its slot is looked up: a read that has begun is in
		 * flight from before it can have written anything. */
		if (v == file_word(from, i) && (from == known || recent(s, from, submit_seq))) {
			known = from;
			continue;
		}
		wrong(s, slot, (const uint64_t *)(uintptr_t)word, v,
		      v == file_word(from, i) ? "of an earlier read, this one went elsewhere"
					      : "not of the file, or of another place in it");
		break;
	}
}

static void *reaper(void *arg)
{
	struct stream *s = arg;
	struct wl_run *run = s->w->run;

	pthread_setname_np(pthread_self(), "dio-reaper");
	while (!atomic_load(&s->stop)) {
		struct dio_req *r = dio_wait(s->q, 100);
		unsigned slot;
		int err;

		if (!r)
			continue;
		slot = (unsigned)(r - s->req);
		if (r->res != (ssize_t)READ_BYTES && r->res != -EAGAIN && r->res != -EINTR)
			wl_fault(run, "dio: a read of %zu bytes at %lld answers %zd (%s)",
				 READ_BYTES, (long long)r->off, r->res,
				 r->res < 0 ? strerror((int)-r->res) : "short");
		else if (r->res > 0)
			verify(s, slot, s->submit_seq[slot]);
		err = vac_unpin(run->pool, r->pin);
		if (err)
			wl_fault(run, "dio: cannot unpin: %s", vac_strerror(err));
		atomic_store(&s->slot[slot].done_seq, atomic_fetch_add(&s->seq, 1));
		/* From here on the request may be used again. */
		atomic_store(&s->slot[slot].in_flight, false);
		pthread_mutex_lock(&s->lock);
		atomic_fetch_add_explicit(&s->depth_sum, s->in_flight, memory_order_relaxed);
		s->in_flight--;
		pthread_cond_signal(&s->reaped);
		pthread_mutex_unlock(&s->lock);
		wl_op_end(s->w, wl_now_ns(), 1);
	}
	return NULL;
}

static void wait_below(struct stream *s, unsigned limit)
{
	pthread_mutex_lock(&s->lock);
	while (s->in_flight >= limit)
		pthread_cond_wait(&s->reaped, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static int submit(struct stream *s, const struct dio_group *d, unsigned slot)
{
	struct dio_req *r = &s->req[slot];
	const char *name = strrchr(d->path, '/');
	char owner[VAC_OWNER_MAX];
	int err;

	name = name ? name + 1 : d->path;
	r->fd = d->fd;
	r->iov[0].iov_base = s->buf;
	r->iov[0].iov_len = SHARED_BYTES;
	r->iov[1].iov_base = own_page(s, slot);
	r->iov[1].iov_len = OWN_BYTES;
	r->iovs = 2;
	r->off = (off_t)(slot * READ_BYTES);
	snprintf(owner, sizeof(owner), "direct read %.17s+%zuK", name, slot * READ_BYTES >> 10);
	wl_doing(s->w, "pinning the buffer", s->buf);
	err = vac_pin(s->w->run->space, s->buf, PINNED_BYTES, VAC_PIN_WRITE, owner, &r->pin);
	if (err) {
		wl_fault(s->w->run, "dio: cannot pin the buffer: %s", vac_strerror(err));
		return err;
	}
	wl_doing(s->w, "submitting a read", s->buf);
	memset(own_page(s, slot), 0, OWN_BYTES);
	pthread_mutex_lock(&s->lock);
	s->in_flight++;
	pthread_mutex_unlock(&s->lock);
	s->submit_seq[slot] = atomic_fetch_add(&s->seq, 1);
	atomic_store(&s->slot[slot].in_flight, true);
	err = dio_submit(s->q, r);
	if (!err)
		return 0;
	wl_fault(s->w->run, "dio: cannot submit a read: %s", strerror(-err));
	atomic_store(&s->slot[slot].in_flight, false);
	vac_unpin(s->w->run->pool, r->pin);
	pthread_mutex_lock(&s->lock);
	s->in_flight--;
	pthread_mutex_unlock(&s->lock);
	return err;
}

static void work(struct wl_worker *w)
{
	struct dio_group *d = w->group->data;
	struct stream *s = &d->stream[w->index];
	unsigned slot = 0;
	int err = pthread_create(&s->reaper, NULL, reaper, s);

	if (err) {
		wl_fault(w->run, "dio: cannot start a thread: %s", strerror(err));
		return;
	}
	for (;;) {
		/* Parked with nothing in flight: the reaper, which is no worker, is then idle. */
		if (atomic_load_explicit(&w->run->state, memory_order_relaxed) != WL_GO)
			wait_below(s, 1);
		if (!wl_go(w))
			break;
		wl_doing(w, "waiting for a read", s->buf);
		wait_below(s, DEPTH);
		/* Reads may overtake each other: a slow one still has its slot when its turn comes
		 * again. There are more slots than reads in flight. */
		do
			slot = (slot + 1) % SLOTS;
		while (atomic_load(&s->slot[slot].in_flight));
		if (submit(s, d, slot))
			wl_sleep(w, 100000000);
	}
	wait_below(s, 1);
	atomic_store(&s->stop, true);
	pthread_join(s->reaper, NULL);
}

static void release(struct wl_group *g)
{
	struct dio_group *d = g->data;

	for (unsigned i = 0; d->stream && i < g->threads; i++) {
		struct stream *s = &d->stream[i];

		if (!s->w)
			continue;
		dio_close(s->q);
		if (s->buf)
			vac_unmap(g->run->space, s->buf, s->buf_bytes);
		pthread_mutex_destroy(&s->lock);
		pthread_cond_destroy(&s->reaped);
	}
	if (d->fd >= 0)
		close(d->fd);
	free(d->stream);
	free(d);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct dio_group *d = g->data;
	uint64_t sum = 0, ops = wl_group_ops(g);

	for (unsigned i = 0; i < g->threads; i++)
		sum += atomic_load_explicit(&d->stream[i].depth_sum, memory_order_relaxed);
	snprintf(buf, len, "%s, %s; on average %.1f in flight into one buffer",
		 d->direct ? "O_DIRECT" : "page cache", d->backend,
		 ops ? (double)sum / (double)ops : 0.0);
}

const struct wl_class wl_dio = {
	.name = "dio",
	.what = "overlapping direct reads into one pinned buffer, for ever",
	.latency = WL_NEITHER,
	.prepare = prepare,
	.work = work,
	.release = release,
	.note = note,
};

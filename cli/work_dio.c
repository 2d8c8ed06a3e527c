/* SPDX-License-Identifier: MIT */
/*
 * Workload `dio`: the direct I/O test of 2005. Several threads keep direct reads and writes in flight, overlapping
 * in time, on one and the same buffer, for ever: there is always one that keeps the buffer's pages, and a
 * memory hot-remove that waits for none to be left waits for ever.
 *
 * Every transfer has its own pin, from submission to completion. The thread that pins and submits is
 * not the one that reaps and unpins: while the first waits at a gate, the second drains what the
 * gate waits for.
 *
 * Threads work in teams, each with one buffer. How a lost read is noticed although all reads go to the same
 * place: the file has SLOTS stretches with different contents, each 8-byte word saying slot and position, and
 * every thread's reads take its slots in turn. When read X has completed, each word of the shared buffer must come from X or
 * from a read that was still in flight when X was submitted, or later. An older word means that X went
 * somewhere else. (Words of 8 bytes, not whole slots: transfers in flight interleave.) As the next
 * read soon covers up a hole that one has left, each read also fills, as its last page, a page of
 * its slot alone behind the shared buffer, under the same pin; that page is cleared before and must
 * be right to the last word after.
 *
 * A write takes what the buffer has at that time, and its slot's page with contents of its own, to a stretch of the
 * file that is its slot's. What has come there is read back: the page to the last word, and no word older than
 * the buffer had when the write was submitted. (Not on filesystems that keep checksums of what they write:
 * memory that changes meanwhile is an I/O error there.)
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "dio.h"
#include "out.h"
#include "scratch.h"
#include "workload.h"

#define DEPTH 4 /* of a thread */
#define EACH 8  /* slots of a thread: more than are in flight */
#define TEAM 4  /* threads, at most */
#define SLOTS (EACH * TEAM)
#define SHARED_BYTES ((size_t)128 << 10)
#define OWN_BYTES VAC_PAGE_BYTES
#define READ_BYTES (SHARED_BYTES + OWN_BYTES) /* what one transfer moves */
#define PINNED_BYTES \
	(SHARED_BYTES + SLOTS * OWN_BYTES) /* the buffer, and what each transfer pins */
#define SHARED_WORDS (SHARED_BYTES / 8)
#define OWN_WORDS (OWN_BYTES / 8)
#define TAG 0xd1u /* top byte of each word of the file */
#define WRITE_ONE_IN 4u

struct slot {
	atomic_bool in_flight;     /* a read */
	_Atomic uint64_t done_seq; /* when its last read was reaped */
};

/* One buffer and the threads that read into it and write from it. */
struct team {
	unsigned char *buf;
	uint64_t buf_bytes;
	struct slot slot[SLOTS];
	_Atomic uint64_t seq; /* orders submissions and completions; from 1 */
	/* Highest submission of a read that has been reaped: nothing in the buffer is older. 0: none has. */
	_Atomic uint64_t floor;
	_Atomic unsigned in_flight;
};

/* A thread's part of it. */
struct stream {
	struct wl_worker *w;
	struct team *t;
	unsigned first; /* of its slots */
	struct dio_queue *q;
	pthread_t reaper;
	struct dio_req req[EACH];
	uint64_t submit_seq[EACH], floor[EACH];
	atomic_bool busy[EACH];
	uint64_t *back; /* for what is read back */
	_Atomic uint64_t
		depth_sum; /* of transfers in flight in the team, taken at each completion */
	_Atomic uint64_t reads, writes;
	pthread_mutex_t lock;
	pthread_cond_t reaped;
	unsigned in_flight; /* guarded by lock */
	atomic_bool stop;
};

struct dio_group {
	int fd;
	bool direct, writes;
	const char *backend;
	struct team *team; /* [teams] */
	unsigned teams;
	struct stream *stream; /* [threads] */
};

static uint64_t file_word(unsigned slot, uint64_t index)
{
	return (uint64_t)TAG << 56 | (uint64_t)slot << 48 | index;
}

static uint64_t written_word(uint64_t seq, uint64_t index)
{
	return wl_mix(seq << 16 ^ index);
}

static int fill_file(struct dio_group *d)
{
	uint64_t *words = aligned_alloc(VAC_PAGE_BYTES, READ_BYTES);
	int err = words ? 0 : -ENOMEM;

	for (unsigned s = 0; !err && s < SLOTS; s++) {
		for (uint64_t i = 0; i < READ_BYTES / 8; i++)
			words[i] = file_word(s, i);
		if (pwrite(d->fd, words, READ_BYTES, (off_t)(s * READ_BYTES)) !=
		    (ssize_t)READ_BYTES)
			err = errno ? -errno : -EIO;
	}
	/* Without this the first direct reads would write the pages back, each for itself. */
	if (!err && fsync(d->fd))
		err = -errno;
	free(words);
	return err;
}

/* Where a checksum is taken of memory first and it is written then, it may not change in between. */
static bool takes_changing(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return false;
	switch ((uint32_t)fs.f_type) {
	case 0x9123683eu:               /* btrfs */
	case 0xca451a4eu:               /* bcachefs */
	case 0x2fc12fc1u: return false; /* ZFS */
	default: return true;
	}
}

static int open_file(struct wl_group *g)
{
	struct dio_group *d = g->data;
	int err;

	d->fd = scratch_file(g->run, "dio", &d->direct);
	err = d->fd < 0 ? d->fd : fill_file(d);
	if (err)
		out_error(
			"cannot make a file of %zu KiB for direct I/O in $TMPDIR, /var/tmp or /tmp: "
			"%s",
			SLOTS * READ_BYTES >> 10, strerror(-err));
	else if (!d->direct)
		out_error(
			"no directory at hand allows O_DIRECT: 'dio' reads through the page cache");
	/* Through the page cache memory is copied by the processor, and words may tear. */
	d->writes = !err && d->direct && takes_changing(d->fd);
	return err;
}

static int open_stream(struct wl_group *g, unsigned i)
{
	struct dio_group *d = g->data;
	struct stream *s = &d->stream[i];
	struct team *t = &d->team[i / TEAM];
	int err = 0;

	s->w = g->workers[i];
	s->t = t;
	s->first = i % TEAM * EACH;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->reaped, NULL);
	s->back = aligned_alloc(VAC_PAGE_BYTES, READ_BYTES);
	if (!s->back)
		return -ENOMEM;
	if (!t->buf) {
		/* Every other buffer lies in base folios. */
		t->buf_bytes = PINNED_BYTES;
		t->buf = wl_map_filled(g->run, &t->buf_bytes, i / TEAM & 1 ? 0 : VAC_MAP_NOHUGE,
				       "'dio'", &err);
		if (!t->buf)
			return err;
		atomic_store(&t->seq, 1);
		g->bytes += t->buf_bytes;
	}
	err = dio_open(&s->q, DEPTH);
	if (err)
		out_error("cannot start direct I/O: %s", strerror(-err));
	else
		d->backend = dio_backend(s->q);
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
	d->teams = (g->threads + TEAM - 1) / TEAM;
	d->team = calloc(d->teams + 1, sizeof(*d->team));
	d->stream = calloc(g->threads + 1, sizeof(*d->stream));
	if (!d->stream || !d->team)
		return -ENOMEM;
	err = open_file(g);
	g->bytes = 0;
	for (unsigned i = 0; i < g->threads && !err; i++)
		err = open_stream(g, i);
	return err;
}

/* May a word of this slot be in the buffer after everything submitted before `since` has been covered? */
static bool recent(struct team *t, unsigned slot, uint64_t since)
{
	return slot < SLOTS && (atomic_load(&t->slot[slot].in_flight) ||
				atomic_load(&t->slot[slot].done_seq) > since);
}

static uint64_t *own_page(struct team *t, unsigned slot)
{
	return (uint64_t *)(void *)(t->buf + SHARED_BYTES + slot * OWN_BYTES);
}

static void wrong(struct stream *s, unsigned slot, const uint64_t *at, uint64_t found,
		  const char *what)
{
	char text[160];

	wl_fault(s->w->run,
		 "dio: after the read of slot %u the word at %p is %016" PRIx64 ": %s (%s)", slot,
		 (const void *)at, found, what, wl_page_text(s->w->run, at, text, sizeof(text)));
}

static void verify_read(struct stream *s, unsigned slot, uint64_t submit_seq)
{
	const uint64_t *own = own_page(s->t, slot);
	unsigned known = slot;

	for (uint64_t i = 0; i < OWN_WORDS; i++) {
		if (own[i] == file_word(slot, SHARED_WORDS + i))
			continue;
		wrong(s, slot, &own[i], own[i],
		      own[i] ? "not what the file holds" : "the read went elsewhere");
		break;
	}
	for (uint64_t i = 0; i < SHARED_WORDS; i++) {
		const volatile uint64_t *word = (const volatile uint64_t *)(void *)s->t->buf + i;
		uint64_t v = *word;
		unsigned from = (unsigned)(v >> 48) & 0xff;

		/* The word is read before its slot is looked up: a read that has begun is in
		 * flight from before it can have written anything. */
		if (v == file_word(from, i) && (from == known || recent(s->t, from, submit_seq))) {
			known = from;
			continue;
		}
		wrong(s, slot, (const uint64_t *)(uintptr_t)word, v,
		      v == file_word(from, i) ? "of an earlier read, this one went elsewhere"
					      : "not of the file, or of another place in it");
		break;
	}
}

/* What has the write brought to the file? Its pin has gone: the memory is nobody's affair here. */
static void verify_write(struct stream *s, unsigned k)
{
	struct dio_group *d = s->w->group->data;
	const uint64_t *own = s->back + SHARED_WORDS;
	unsigned known = SLOTS;
	ssize_t n = pread(d->fd, s->back, READ_BYTES, s->req[k].off);

	if (n != (ssize_t)READ_BYTES) {
		wl_fault(s->w->run, "dio: what was written at %lld cannot be read back: %s",
			 (long long)s->req[k].off, n < 0 ? strerror(errno) : "short");
		return;
	}
	for (uint64_t i = 0; i < OWN_WORDS; i++) {
		if (own[i] == written_word(s->submit_seq[k], i))
			continue;
		wl_fault(s->w->run,
			 "dio: write %" PRIu64 " has brought %016" PRIx64 " for word %" PRIu64
			 " of its own page, not %016" PRIx64,
			 s->submit_seq[k], own[i], i, written_word(s->submit_seq[k], i));
		return;
	}
	for (uint64_t i = 0; i < SHARED_WORDS; i++) {
		uint64_t v = s->back[i];
		unsigned from = (unsigned)(v >> 48) & 0xff;

		if (v == file_word(from, i) && (from == known || recent(s->t, from, s->floor[k]))) {
			known = from;
			continue;
		}
		wl_fault(s->w->run,
			 "dio: write %" PRIu64 " has brought %016" PRIx64 " for word %" PRIu64
			 ": %s",
			 s->submit_seq[k], v, i,
			 v == file_word(from, i) ? "the buffer had a later one"
						 : "not of the buffer");
		return;
	}
}

/* Nothing in the buffer is older than a read that has completed. */
static void raise_floor(struct team *t, uint64_t seq)
{
	uint64_t seen = atomic_load(&t->floor);

	while (seen < seq && !atomic_compare_exchange_weak(&t->floor, &seen, seq))
		;
}

static void finish(struct stream *s, unsigned k)
{
	struct dio_req *r = &s->req[k];
	unsigned slot = s->first + k;
	bool good = r->res == (ssize_t)READ_BYTES;
	int err;

	if (!good && r->res != -EAGAIN && r->res != -EINTR)
		wl_fault(s->w->run, "dio: a %s of %zu bytes at %lld answers %zd (%s)",
			 r->write ? "write" : "read", READ_BYTES, (long long)r->off, r->res,
			 r->res < 0 ? strerror((int)-r->res) : "short");
	if (good && !r->write) {
		verify_read(s, slot, s->submit_seq[k]);
		raise_floor(s->t, s->submit_seq[k]);
	}
	err = vac_unpin(s->w->run->pool, r->pin);
	if (err)
		wl_fault(s->w->run, "dio: cannot unpin: %s", vac_strerror(err));
	if (good && r->write)
		verify_write(s, k);
	if (!r->write) {
		atomic_store(&s->t->slot[slot].done_seq, atomic_fetch_add(&s->t->seq, 1));
		atomic_store(&s->t->slot[slot].in_flight, false);
	}
	atomic_fetch_add(r->write ? &s->writes : &s->reads, 1);
	atomic_fetch_add(&s->w->group->stat.transfers, 1);
	atomic_fetch_add(&s->w->group->stat.bytes, good ? READ_BYTES : 0);
	atomic_fetch_add_explicit(&s->depth_sum, atomic_fetch_sub(&s->t->in_flight, 1),
				  memory_order_relaxed);
	/* From here on the request may be used again. */
	atomic_store(&s->busy[k], false);
	pthread_mutex_lock(&s->lock);
	s->in_flight--;
	pthread_cond_signal(&s->reaped);
	pthread_mutex_unlock(&s->lock);
}

static void *reaper(void *arg)
{
	struct stream *s = arg;

	pthread_setname_np(pthread_self(), "dio-reaper");
	while (!atomic_load(&s->stop)) {
		struct dio_req *r = dio_wait(s->q, 100);

		if (!r)
			continue;
		finish(s, (unsigned)(r - s->req));
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

/* The transfer under way has the slot's own page to itself: only it and its thread touch it. */
static void prepare_transfer(struct stream *s, unsigned k)
{
	uint64_t *own = own_page(s->t, s->first + k);

	s->floor[k] = atomic_load(&s->t->floor);
	s->submit_seq[k] = atomic_fetch_add(&s->t->seq, 1);
	if (!s->req[k].write) {
		memset(own, 0, OWN_BYTES);
		atomic_store(&s->t->slot[s->first + k].in_flight, true);
		return;
	}
	for (uint64_t i = 0; i < OWN_WORDS; i++)
		own[i] = written_word(s->submit_seq[k], i);
}

static int submit(struct stream *s, const struct dio_group *d, unsigned k)
{
	unsigned slot = s->first + k, team = (unsigned)(s->t - d->team);
	struct dio_req *r = &s->req[k];
	char owner[VAC_OWNER_MAX];
	int err;

	/* Before the first read there is nothing in the buffer to write. */
	r->write = d->writes && atomic_load(&s->t->floor) && !wl_below(s->w, WRITE_ONE_IN);
	r->fd = d->fd;
	r->iov[0].iov_base = s->t->buf;
	r->iov[0].iov_len = SHARED_BYTES;
	r->iov[1].iov_base = own_page(s->t, slot);
	r->iov[1].iov_len = OWN_BYTES;
	r->iovs = 2;
	r->off = (off_t)((r->write ? SLOTS * (team + 1) + slot : slot) * READ_BYTES);
	snprintf(owner, sizeof(owner), "direct %s +%lldK", r->write ? "write" : "read",
		 (long long)r->off >> 10);
	wl_doing(s->w, "pinning the buffer", s->t->buf);
	err = vac_pin(s->w->run->space, s->t->buf, PINNED_BYTES,
		      r->write ? VAC_PIN_READ : VAC_PIN_WRITE, owner, &r->pin);
	if (err) {
		wl_fault(s->w->run, "dio: cannot pin the buffer: %s", vac_strerror(err));
		return err;
	}
	wl_doing(s->w, "submitting a transfer", s->t->buf);
	prepare_transfer(s, k);
	atomic_fetch_add(&s->t->in_flight, 1);
	pthread_mutex_lock(&s->lock);
	s->in_flight++;
	pthread_mutex_unlock(&s->lock);
	atomic_store(&s->busy[k], true);
	err = dio_submit(s->q, r);
	if (!err)
		return 0;
	wl_fault(s->w->run, "dio: cannot submit a transfer: %s", strerror(-err));
	atomic_store(&s->t->slot[slot].in_flight, false);
	vac_unpin(s->w->run->pool, r->pin);
	atomic_fetch_sub(&s->t->in_flight, 1);
	atomic_store(&s->busy[k], false);
	pthread_mutex_lock(&s->lock);
	s->in_flight--;
	pthread_mutex_unlock(&s->lock);
	return err;
}

static void work(struct wl_worker *w)
{
	struct dio_group *d = w->group->data;
	struct stream *s = &d->stream[w->index];
	unsigned k = 0;
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
		wl_doing(w, "waiting for a transfer", s->t->buf);
		wait_below(s, DEPTH);
		/* Transfers may overtake each other: a slow one still has its slot when its turn comes
		 * again. There are more slots than transfers in flight. */
		do
			k = (k + 1) % EACH;
		while (atomic_load(&s->busy[k]));
		if (submit(s, d, k))
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
		free(s->back);
		pthread_mutex_destroy(&s->lock);
		pthread_cond_destroy(&s->reaped);
	}
	for (unsigned i = 0; d->team && i < d->teams; i++) {
		if (d->team[i].buf)
			vac_unmap(g->run->space, d->team[i].buf, d->team[i].buf_bytes);
	}
	if (d->fd >= 0)
		close(d->fd);
	free(d->stream);
	free(d->team);
	free(d);
	g->data = NULL;
}

struct sum {
	uint64_t reads, writes;
	double depth;
};

static struct sum sum_of(struct wl_group *g)
{
	struct dio_group *d = g->data;
	struct sum s = {0};

	for (unsigned i = 0; i < g->threads; i++) {
		s.reads += atomic_load(&d->stream[i].reads);
		s.writes += atomic_load(&d->stream[i].writes);
		s.depth += (double)atomic_load(&d->stream[i].depth_sum);
	}
	if (s.reads + s.writes)
		s.depth /= (double)(s.reads + s.writes);
	return s;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct dio_group *d = g->data;

	snprintf(buf, len, "%s, %s; on average %.1f in flight on one buffer",
		 d->direct ? "O_DIRECT" : "page cache", d->backend, sum_of(g).depth);
}

static unsigned in_block(struct wl_group *g, int block)
{
	struct dio_group *d = g->data;
	unsigned n = 0;

	for (unsigned i = 0; i < d->teams; i++) {
		for (uint64_t at = 0; at < SHARED_BYTES; at += VAC_PAGE_BYTES) {
			if (wl_lies_in(g->run->space, d->team[i].buf + at, block)) {
				n++;
				break;
			}
		}
	}
	return n;
}

static void tell(struct wl_group *g, char *buf, size_t len)
{
	struct dio_group *d = g->data;
	struct sum s = sum_of(g);

	snprintf(buf, len,
		 "direct I/O on one buffer, endless and overlapping (2005): %" PRIu64
		 " reads and %" PRIu64
		 " writes%s by %u thread%s,\n%.1f in flight, %.2f GB, each byte "
		 "checked; %" PRIu64
		 " block%s left with such a buffer, the longest wait for a\ntransfer "
		 "was %.3f s",
		 s.reads, s.writes, d->writes ? "" : " (none on this filesystem)", g->threads,
		 wl_s(g->threads), s.depth, (double)atomic_load(&g->stat.bytes) / 1e9,
		 g->stat.blocks, wl_s(g->stat.blocks), (double)g->stat.waited_ns / 1e9);
}

const struct wl_class wl_dio = {
	.name = "dio",
	.what = "the test of 2005: overlapping direct reads and writes on one buffer, for ever",
	.latency = WL_NEITHER,
	.threads_min = 2,
	.owner = "direct ",
	.prepare = prepare,
	.work = work,
	.release = release,
	.note = note,
	.in_block = in_block,
	.tell = tell,
};

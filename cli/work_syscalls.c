/* SPDX-License-Identifier: MIT */
/*
 * Workload `read`: read(2) and recv(2) into pool memory without pins, while its pages leave.
 *
 * Each thread receives an endless stream, whose every word follows from its place, from a socket
 * that another thread feeds out of ordinary memory, with pauses, so that the receiver also waits;
 * and it reads a file of known contents at random places. Both go to random places of a buffer in the
 * pool, and every byte is checked there. Data that the kernel has put into a page just left shows as
 * what was there before, which belongs to another place of the stream or of the file.
 *
 * Under the userfaultfd guard these are the plain system calls; under SIGSEGV, where those fail with
 * EFAULT in a page that is leaving, vac_recv() and vac_pread().
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "out.h"
#include "workload.h"

#define SMALL_BYTES ((uint64_t)128 << 10) /* a buffer of base folios */
#define LARGE_BYTES VAC_PAGEBLOCK_BYTES   /* one huge folio, where there is plenty of memory */
#define PLENTY ((uint64_t)64 << 20)
#define FILE_BYTES ((uint64_t)256 << 10)
#define MOST ((uint64_t)48 << 10) /* of one call */
#define FEED_WORDS 2048u
#define FILE_SALT 0x66696c65u /* the file's words are not those of a stream */

struct reader {
	struct wl_worker *w;
	unsigned char *buf;
	uint64_t buf_bytes;
	uint64_t salt, got; /* of the stream: got bytes so far */
	int sock[2];        /* [1] is fed */
	pthread_t feeder;
};

struct syscalls {
	int file;
	bool plain;
	struct reader *reader; /* [threads] */
};

/* The byte at place `at` of what follows from salt; little-endian or not, it is the same for all. */
static uint64_t word_of(uint64_t salt, uint64_t at)
{
	return wl_mix(salt ^ (at / 8));
}

static void *feed(void *arg)
{
	struct reader *r = arg;
	uint64_t word[FEED_WORDS], at = 0, rng = r->salt;

	pthread_setname_np(pthread_self(), "read-feeder");
	for (;;) {
		for (unsigned k = 0; k < FEED_WORDS; k++)
			word[k] = word_of(r->salt, at + k * 8);
		for (size_t off = 0; off < sizeof(word);) {
			ssize_t n = send(r->sock[1], (char *)word + off, sizeof(word) - off,
					 MSG_NOSIGNAL);

			if (n < 0 && errno != EINTR)
				return NULL; /* shut down: the reader has ended */
			off += n > 0 ? (size_t)n : 0;
		}
		at += sizeof(word);
		rng = wl_mix(rng);
		if (rng % 64 == 0)
			usleep(1000);
	}
}

static int make_file(struct wl_run *run)
{
	uint64_t *words = malloc(FILE_BYTES);
	int fd = memfd_create("vacate-read", MFD_CLOEXEC), err = 0;

	for (uint64_t i = 0; words && i < FILE_BYTES / 8; i++)
		words[i] = word_of(run->seed ^ FILE_SALT, i * 8);
	if (fd < 0)
		err = -errno;
	else if (!words)
		err = -ENOMEM;
	else if (write(fd, words, FILE_BYTES) != (ssize_t)FILE_BYTES)
		err = -EIO;
	free(words);
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

static int prepare(struct wl_group *g)
{
	struct syscalls *d = calloc(1, sizeof(*d));
	bool large = g->bytes >= PLENTY;
	int err;

	if (!d)
		return -ENOMEM;
	g->data = d;
	d->plain = vac_pool_guard(g->run->pool) == VAC_GUARD_USERFAULTFD;
	d->file = make_file(g->run);
	d->reader = calloc(g->threads ? g->threads : 1, sizeof(*d->reader));
	if (d->file < 0 || !d->reader) {
		out_error("cannot make the file of 'read'");
		return d->file < 0 ? d->file : -ENOMEM;
	}
	g->bytes = 0;
	for (unsigned i = 0; i < g->threads; i++) {
		struct reader *r = &d->reader[i];

		r->sock[0] = r->sock[1] = -1;
		r->w = g->workers[i];
		r->salt = wl_mix(g->run->seed + i);
		r->buf_bytes = large ? LARGE_BYTES : SMALL_BYTES;
		r->buf = wl_map_filled(g->run, &r->buf_bytes, large ? 0 : VAC_MAP_NOHUGE, "'read'",
				       &err);
		if (!r->buf)
			return err;
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, r->sock)) {
			err = -errno;
			out_error("cannot make a socket for 'read': %s", strerror(-err));
			return err;
		}
		g->bytes += r->buf_bytes;
	}
	return 0;
}

/* bytes at p are those from place `at` on. */
static void check(struct reader *r, const unsigned char *p, uint64_t bytes, uint64_t salt,
		  uint64_t at, const char *call)
{
	char text[160];

	for (uint64_t i = 0; i < bytes;) {
		uint64_t word = word_of(salt, at + i), part = (at + i) % 8, n = 8 - part;

		if (n > bytes - i)
			n = bytes - i;
		if (memcmp(p + i, (unsigned char *)&word + part, n)) {
			wl_fault(r->w->run,
				 "read: byte %" PRIu64 " to %" PRIu64 " of %" PRIu64
				 " that %s has put at %p are not those of place %" PRIu64 " (%s)",
				 i, i + n - 1, bytes, call, (const void *)p, at,
				 wl_page_text(r->w->run, p + i, text, sizeof(text)));
			return;
		}
		i += n;
	}
}

static void receive(struct reader *r, bool plain, unsigned char *p, uint64_t len)
{
	int64_t n;

	if (plain) {
		n = recv(r->sock[0], p, len, 0);
		n = n < 0 ? -errno : n;
	} else {
		n = vac_recv(r->sock[0], p, len, 0);
	}
	if (n <= 0) {
		if (n != -EINTR)
			wl_fault(r->w->run, "read: receiving %" PRIu64 " bytes at %p answers %s",
				 len, (void *)p, n ? strerror((int)-n) : "end of file");
		return;
	}
	check(r, p, (uint64_t)n, r->salt, r->got, plain ? "recv" : "vac_recv");
	r->got += (uint64_t)n;
}

static void read_file(struct reader *r, const struct syscalls *d, unsigned char *p, uint64_t len)
{
	uint64_t off = wl_below(r->w, FILE_BYTES - len);
	int64_t n;

	if (d->plain) {
		n = pread(d->file, p, len, (off_t)off);
		n = n < 0 ? -errno : n;
	} else {
		n = vac_pread(d->file, p, len, (int64_t)off);
	}
	if (n != (int64_t)len) {
		wl_fault(r->w->run,
			 "read: reading %" PRIu64 " bytes of a file to %p answers %" PRId64 " (%s)",
			 len, (void *)p, n, n < 0 ? strerror((int)-n) : "short");
		return;
	}
	check(r, p, len, r->w->run->seed ^ FILE_SALT, off, d->plain ? "pread" : "vac_pread");
}

static void work(struct wl_worker *w)
{
	struct syscalls *d = w->group->data;
	struct reader *r = &d->reader[w->index];
	int err = pthread_create(&r->feeder, NULL, feed, r);

	if (err) {
		wl_fault(w->run, "read: cannot start a thread: %s", strerror(err));
		return;
	}
	while (wl_go(w)) {
		uint64_t len = 1 + wl_below(w, MOST), t0 = wl_now_ns();
		unsigned char *p = r->buf + wl_below(w, r->buf_bytes - len);

		if (wl_below(w, 4)) {
			wl_doing(w, "receiving", p);
			receive(r, d->plain, p, len);
		} else {
			wl_doing(w, "reading a file", p);
			read_file(r, d, p, len);
		}
		wl_op_end(w, t0, 1);
	}
	shutdown(r->sock[0], SHUT_RDWR);
	pthread_join(r->feeder, NULL);
}

static void release(struct wl_group *g)
{
	struct syscalls *d = g->data;

	for (unsigned i = 0; d->reader && i < g->threads; i++) {
		struct reader *r = &d->reader[i];

		if (!r->buf)
			continue;
		vac_unmap(g->run->space, r->buf, r->buf_bytes);
		for (unsigned k = 0; k < 2; k++) {
			if (r->sock[k] >= 0)
				close(r->sock[k]);
		}
	}
	if (d->file >= 0)
		close(d->file);
	free(d->reader);
	free(d);
	g->data = NULL;
}

static void note(struct wl_group *g, char *buf, size_t len)
{
	struct syscalls *d = g->data;
	uint64_t got = 0;

	for (unsigned i = 0; i < g->threads; i++)
		got += d->reader[i].got;
	snprintf(buf, len, "%s; %.1f MiB received",
		 d->plain ? "recv(2) and pread(2), no pins" : "vac_recv() and vac_pread()",
		 (double)got / 1048576);
}

const struct wl_class wl_read = {
	.name = "read",
	.what = "read a file and receive from a socket into pool memory, no pins",
	.latency = WL_NEITHER,
	.prepare = prepare,
	.work = work,
	.release = release,
	.note = note,
};

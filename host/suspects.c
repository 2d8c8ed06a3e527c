/* SPDX-License-Identifier: MIT */
/*
 * Held frames that no walk accounts for: most are transfers in flight, which no structure leads to.
 * Whoever maps such a frame is looked at: a thread that waits in a transfer into just this buffer, a
 * descriptor opened for direct I/O, or nothing of the kind. Of several mappers only those with the
 * best reason are named; where none has a reason, several mappers are mappers, no more.
 */
#include "why.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum reason {
	WAITS,   /* a thread is in a transfer with this very buffer */
	DIRECT,  /* the process does direct I/O */
	MAPS,    /* nothing but that it maps the frame */
	NOTHING, /* nobody was looked at yet */
};

#define BUFFERS_MAX 256

/* A buffer of a system call in which a thread waits. */
struct buffer {
	uint64_t start, end;
	pid_t tid;
	int fd;
	bool direct;
};

struct suspect {
	pid_t pid;
	int direct_fd;     /* the first of those with O_DIRECT, -1 */
	unsigned n_direct; /* how many */
	unsigned n_uring;
	struct buffer *buf;
	unsigned n_buf;
};

/* ---- What a process is doing ---- */

static bool opened_direct(struct host *h, pid_t pid, int fd)
{
	char info[512], *p;

	if (host_read(h, info, sizeof(info), "proc/%d/fdinfo/%d", (int)pid, fd) <= 0)
		return false;
	p = strstr(info, "flags:");
	return p && strtoul(p + 6, NULL, 8) & O_DIRECT;
}

static void look_at_fds(struct host *h, struct suspect *s)
{
	DIR *d = host_opendir(h, "proc/%d/fd", (int)s->pid);
	struct dirent *e;

	s->direct_fd = -1;
	while (d && (e = readdir(d))) {
		char link[64];
		int fd;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		fd = atoi(e->d_name);
		if (host_readlink(h, link, sizeof(link), "proc/%d/fd/%d", (int)s->pid, fd) <= 0)
			continue;
		if (!strcmp(link, "anon_inode:[io_uring]"))
			s->n_uring++;
		/* A pipe in packet mode has the same bit. */
		if (strncmp(link, "pipe:", 5) && opened_direct(h, s->pid, fd)) {
			if (!s->n_direct++ || fd < s->direct_fd)
				s->direct_fd = fd;
		}
	}
	if (d)
		closedir(d);
}

static void add_buffer(struct suspect *s, uint64_t start, uint64_t len, pid_t tid, int fd,
		       bool direct)
{
	struct buffer *grown;

	if (!len || s->n_buf >= BUFFERS_MAX)
		return;
	grown = realloc(s->buf, (s->n_buf + 1) * sizeof(*grown));
	if (!grown)
		return;
	s->buf = grown;
	s->buf[s->n_buf++] = (struct buffer){start, start + len, tid, fd, direct};
}

/* The vector of a readv() that is under way. */
static void add_vector(struct host *h, struct suspect *s, const unsigned long long *a, pid_t tid)
{
	bool direct = opened_direct(h, s->pid, (int)a[0]);
	struct iovec v[64], local = {v, sizeof(v)}, remote = {NULL, 0};
	ssize_t n;

	remote.iov_base = (void *)(uintptr_t)a[1];
	remote.iov_len = (a[2] < 64 ? a[2] : 64) * sizeof(v[0]);
	local.iov_len = remote.iov_len;
	n = h->live ? process_vm_readv(s->pid, &local, 1, &remote, 1, 0) : -1;
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(v[0]); i++)
		add_buffer(s, (uintptr_t)v[i].iov_base, v[i].iov_len, tid, (int)a[0], direct);
}

static void look_at_threads(struct host *h, struct suspect *s)
{
	DIR *d = host_opendir(h, "proc/%d/task", (int)s->pid);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		unsigned long long a[3];
		char line[256];
		long nr;

		if (!isdigit((unsigned char)e->d_name[0]) ||
		    host_read(h, line, sizeof(line), "proc/%d/task/%s/syscall", (int)s->pid,
			      e->d_name) <= 0 ||
		    sscanf(line, "%ld %llx %llx %llx", &nr, &a[0], &a[1], &a[2]) != 4)
			continue;
		switch (nr) {
		case SYS_read:
		case SYS_write:
		case SYS_pread64:
		case SYS_pwrite64:
			add_buffer(s, a[1], a[2], atoi(e->d_name), (int)a[0],
				   opened_direct(h, s->pid, (int)a[0]));
			break;
		case SYS_readv:
		case SYS_writev:
		case SYS_preadv:
		case SYS_pwritev:
		case SYS_preadv2:
		case SYS_pwritev2: add_vector(h, s, a, atoi(e->d_name)); break;
		default: break;
		}
	}
	if (d)
		closedir(d);
}

/* ---- Blame ---- */

static const struct buffer *buffer_at(const struct suspect *s, uint64_t vaddr)
{
	for (unsigned i = 0; i < s->n_buf; i++)
		if (vaddr + 4095 >= s->buf[i].start && vaddr < s->buf[i].end)
			return &s->buf[i];
	return NULL;
}

static enum reason reason_of(const struct suspect *s, uint64_t vaddr)
{
	if (buffer_at(s, vaddr))
		return WAITS;
	return s->n_direct ? DIRECT : MAPS;
}

struct blame {
	uint8_t reason; /* the best */
	uint8_t mappers;
};

static int accuse(struct job *j, const struct suspect *s, uint64_t pfn, uint64_t vaddr,
		  const struct blame *b)
{
	const struct buffer *buf = buffer_at(s, vaddr);
	struct host_holder o = {.pid = s->pid, .fd = -1, .blocks = true, .evidence = HOST_LIKELY};

	if (buf) {
		o.kind = buf->direct ? HOST_KIND_DIRECT_IO : HOST_KIND_UNKNOWN;
		o.tid = buf->tid;
		o.fd = buf->fd;
		o.detail = text("thread %d waits in a transfer with this buffer%s", (int)buf->tid,
				buf->direct ? ", opened with O_DIRECT" : "");
	} else if (s->n_direct) {
		o.kind = HOST_KIND_DIRECT_IO;
		o.fd = s->n_direct == 1 ? s->direct_fd : -1;
		o.detail = text("maps it, and has %u descriptor%s opened with O_DIRECT%s",
				s->n_direct, s->n_direct == 1 ? "" : "s",
				s->n_uring ? " and an io_uring" : "");
	} else {
		o.kind = HOST_KIND_UNKNOWN;
		if (b->mappers > 1)
			o.evidence = HOST_MAPPER;
		o.detail = text("maps it; somebody refers to the page directly, and no walk says "
				"who%s",
				s->n_uring ? " (the process has an io_uring)" : "");
	}
	return job_add(j, &o, pfn, 1);
}

static struct suspect *suspect_of(struct suspect *s, size_t n, pid_t pid)
{
	for (size_t i = 0; i < n; i++)
		if (s[i].pid == pid)
			return &s[i];
	return NULL;
}

static bool unexplained(const struct job *j, uint64_t i)
{
	uint32_t head = j->head[i];

	return j->p.page[i].class == HOST_HELD && j->p.page[head].excess > j->explained[head];
}

static int name_them(struct job *j, struct suspect *s, size_t n, struct blame *blame)
{
	int err = 0;

	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < j->f.n_map && !err; i++) {
			const struct mapped_run *r = &j->f.map[i];
			struct suspect *who = suspect_of(s, n, r->pid);

			for (uint64_t k = 0; who && k < r->n && !err; k++) {
				uint64_t pfn = r->pfn + k, at = pfn - j->p.pfn;
				uint64_t vaddr = r->vaddr + k * j->h->page_bytes;
				enum reason why;

				if (at >= j->p.n || !unexplained(j, at))
					continue;
				why = reason_of(who, vaddr);
				if (!pass) {
					blame[at].reason = why < blame[at].reason
								   ? (uint8_t)why
								   : blame[at].reason;
					blame[at].mappers += blame[at].mappers < UINT8_MAX;
				} else if (why == blame[at].reason) {
					err = accuse(j, who, pfn, vaddr, &blame[at]);
				}
			}
		}
	return err;
}

/* Nobody maps them: unmapped since, or the page cache's. */
static int add_nobody(struct job *j, const struct blame *blame)
{
	struct host_holder o = {.kind = HOST_KIND_UNKNOWN, .evidence = HOST_LIKELY, .fd = -1};
	uint64_t pages = 0, first = 0;

	for (uint64_t i = 0; i < j->p.n; i++)
		if (blame[i].reason == NOTHING && unexplained(j, i) && !pages++)
			first = j->p.pfn + i;
	j->w->unexplained = pages;
	if (!pages)
		return 0;
	o.blocks = true;
	o.detail = text("references that no walk accounts for, to pages that no process maps");
	return job_add(j, &o, first, pages);
}

int suspects_add(struct job *j)
{
	struct frame_set set = {0};
	struct suspect *s = NULL;
	struct blame *blame;
	size_t n = 0;
	uint64_t asked = 0;
	int err;

	err = frame_set_init(&set, j->p.pfn, j->p.n);
	blame = malloc(j->p.n * sizeof(*blame));
	if (err || !blame) {
		err = -ENOMEM;
		goto out;
	}
	for (uint64_t i = 0; i < j->p.n; i++) {
		blame[i] = (struct blame){NOTHING, 0};
		if (unexplained(j, i)) {
			frame_set_add(&set, j->p.pfn + i);
			asked++;
		}
	}
	if (!asked)
		goto out;
	err = facts_map(j->h, &set, &j->f);
	for (size_t i = 0; i < j->f.n_map && !err; i++) {
		struct suspect *grown;

		const struct mapped_run *r = &j->f.map[i];
		bool any = false;

		for (uint64_t k = 0; k < r->n && !any; k++)
			any = frame_set_has(&set, r->pfn + k);
		if (!any || suspect_of(s, n, r->pid))
			continue;
		grown = realloc(s, (n + 1) * sizeof(*grown));
		if (!grown) {
			err = -ENOMEM;
			break;
		}
		s = grown;
		s[n++] = (struct suspect){.pid = r->pid};
		look_at_fds(j->h, &s[n - 1]);
		look_at_threads(j->h, &s[n - 1]);
	}
	if (!err)
		err = name_them(j, s, n, blame);
	if (!err)
		err = add_nobody(j, blame);
out:
	for (size_t i = 0; i < n; i++)
		free(s[i].buf);
	free(s);
	free(blame);
	frame_set_free(&set);
	return err;
}

/* SPDX-License-Identifier: MIT */
/* The walks by BPF: loading, calibrating, running. See walk.h. */
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef VAC_BPF

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "walk.skel.h"

#define RECS_MAX (1u << 16)
#define PAGES_MAX (1u << 16) /* frames a run of the scan */

struct host_walk {
	struct walk_bpf *skel;
	struct bpf_link *files, *tasks;
	struct walk_rec *recs;
	struct walk_page *pages;
	int error;
	char why_not[256];
	const char *lacks[4];
	unsigned n_lacks;
};

static int quiet(enum libbpf_print_level level, const char *fmt, va_list args)
{
	(void)level;
	(void)fmt;
	(void)args;
	return 0;
}

static int fail(struct host_walk *w, int err, const char *what)
{
	if (!w->error)
		snprintf(w->why_not, sizeof(w->why_not), "%s: %s", what, strerror(-err));
	w->error = err;
	return err;
}

static int run_prog(struct bpf_program *prog)
{
	LIBBPF_OPTS(bpf_test_run_opts, o);
	int err = bpf_prog_test_run_opts(bpf_program__fd(prog), &o);

	if (err)
		return err < 0 ? err : -errno;
	return o.retval ? -EIO : 0;
}

/* ---- Calibration ---- */

struct cal {
	int pipe[2], own[2], sock[2], uring, fuse;
	char *mem;
	size_t page;
};

static void cal_close(struct cal *c)
{
	int *fds[] = {&c->pipe[0], &c->pipe[1], &c->own[0], &c->own[1],
		      &c->sock[0], &c->sock[1], &c->uring,  &c->fuse};

	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (*fds[i] >= 0)
			close(*fds[i]);
	if (c->mem != MAP_FAILED)
		munmap(c->mem, 2 * c->page);
}

/* Two pages of ours in a pipe, one of a pipe's own, and one of each other kind of descriptor. */
static int cal_open(struct cal *c)
{
	struct io_uring_params p = {0};
	struct iovec v[2];

	*c = (struct cal){{-1, -1}, {-1, -1}, {-1, -1}, -1, -1, MAP_FAILED, 0};
	c->page = (size_t)sysconf(_SC_PAGESIZE);
	c->mem =
		mmap(NULL, 2 * c->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->mem == MAP_FAILED)
		return -errno;
	/* Small pages, so that neither is a part of something larger. */
	madvise(c->mem, 2 * c->page, MADV_NOHUGEPAGE);
	for (int i = 0; i < 2; i++) {
		c->mem[(size_t)i * c->page] = (char)(i + 1);
		v[i].iov_base = c->mem + (size_t)i * c->page;
		v[i].iov_len = c->page;
	}
	if (pipe2(c->pipe, O_CLOEXEC) || pipe2(c->own, O_CLOEXEC) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, c->sock))
		return -errno;
	if (write(c->own[1], "", 1) != 1 || vmsplice(c->pipe[1], &v[0], 1, 0) != (ssize_t)c->page ||
	    vmsplice(c->pipe[1], &v[1], 1, 0) != (ssize_t)c->page)
		return -EIO;
	c->uring = (int)syscall(SYS_io_uring_setup, 1, &p);
	c->fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	return 0;
}

static int own_pfn(const char *p, size_t page, uint64_t *pfn)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t e = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = pread(fd, &e, sizeof(e), (off_t)((uintptr_t)p / page * sizeof(e)));
	close(fd);
	if (n != sizeof(e))
		return -EIO;
	*pfn = e & ((1ULL << 55) - 1);
	return e >> 63 && *pfn ? 0 : -EPERM;
}

static int calibrate(struct host_walk *w)
{
	uint64_t pfn[2], base[2];
	struct walk_bpf *s = w->skel;
	struct cal c;
	int err = cal_open(&c);

	if (err)
		goto out;
	s->data->cal_pipe = c.pipe[0];
	s->data->cal_own = c.own[0];
	s->data->cal_socket = c.sock[0];
	s->data->cal_uring = c.uring;
	s->data->cal_fuse = c.fuse;
	err = run_prog(s->progs.calibrate);
	/* After it: what is in the pipe stays where it is. */
	for (int i = 0; i < 2 && !err; i++) {
		err = own_pfn(c.mem + (size_t)i * c.page, c.page, &pfn[i]);
		if (!err)
			base[i] = s->bss->cal_page[i] - pfn[i] * s->bss->page_bytes;
	}
	/* One array for all frames: two pages agree on where it begins. */
	if (!err && (base[0] != base[1] || !s->bss->cal_page[0]))
		err = -ENOTSUP;
	if (err)
		goto out;
	s->bss->vmemmap = base[0];
	if (!s->bss->uring_fops || !s->bss->has_uring)
		w->lacks[w->n_lacks++] = "registered buffers of io_uring cannot be walked: "
					 "io_uring_setup is refused, or this kernel keeps them "
					 "where they are not looked for";
	if (!s->bss->has_aio)
		w->lacks[w->n_lacks++] = "rings of AIO contexts cannot be walked on this kernel";
	if (!s->bss->socket_fops)
		w->lacks[w->n_lacks++] = "sockets cannot be walked";
	if (!s->bss->fuse_fops || !s->bss->has_fuse)
		w->lacks[w->n_lacks++] = NULL; /* no FUSE here: nothing to be seen */
	if (w->n_lacks && !w->lacks[w->n_lacks - 1])
		w->n_lacks--;
out:
	cal_close(&c);
	return err;
}

/* ---- Opening ---- */

static void *map_array(struct bpf_map *m, size_t value, unsigned n)
{
	return mmap(NULL, value * n, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(m), 0);
}

static int load(struct host_walk *w)
{
	struct walk_bpf *s;
	int err;

	if (geteuid())
		return fail(w, -EPERM, "the walks need root");
	libbpf_set_print(quiet);
	s = w->skel = walk_bpf__open();
	if (!s)
		return fail(w, -errno, "the BPF programs cannot be opened");
	bpf_map__set_max_entries(s->maps.recs, RECS_MAX);
	bpf_map__set_max_entries(s->maps.pages, PAGES_MAX);
	s->bss->rec_max = RECS_MAX;
	s->bss->page_max = PAGES_MAX;
	err = walk_bpf__load(s);
	if (err)
		return fail(w, err, "this kernel refuses the BPF programs");
	w->recs = map_array(s->maps.recs, sizeof(*w->recs), RECS_MAX);
	w->pages = map_array(s->maps.pages, sizeof(*w->pages), PAGES_MAX);
	if (w->recs == MAP_FAILED || w->pages == MAP_FAILED)
		return fail(w, -ENOMEM, "the maps of the BPF programs cannot be mapped");
	err = calibrate(w);
	if (err)
		return fail(w, err, "struct page cannot be found by pages of our own");
	w->files = bpf_program__attach_iter(s->progs.walk_files, NULL);
	if (!w->files)
		return fail(w, -errno, "the walk of descriptors cannot be attached");
	w->tasks = bpf_program__attach_iter(s->progs.walk_tasks, NULL);
	if (!w->tasks)
		return fail(w, -errno, "the walk of tasks cannot be attached");
	return 0;
}

int host_walk_open(struct host *h)
{
	struct host_walk *w = h->walk;

	if (!h->live)
		return -EOPNOTSUPP;
	if (!w) {
		w = h->walk = calloc(1, sizeof(*w));
		if (!w)
			return -ENOMEM;
		w->error = load(w);
	}
	return w->error ? -EOPNOTSUPP : 0;
}

void host_walk_close(struct host *h)
{
	struct host_walk *w = h->walk;

	if (!w)
		return;
	bpf_link__destroy(w->files);
	bpf_link__destroy(w->tasks);
	if (w->recs && w->recs != MAP_FAILED)
		munmap(w->recs, sizeof(*w->recs) * RECS_MAX);
	if (w->pages && w->pages != MAP_FAILED)
		munmap(w->pages, sizeof(*w->pages) * PAGES_MAX);
	walk_bpf__destroy(w->skel);
	free(w);
	h->walk = NULL;
}

const char *host_walk_why_not(const struct host *h)
{
	if (!h->walk)
		return h->live ? "out of memory" : "a captured machine has no more to be walked";
	return h->walk->error ? h->walk->why_not : NULL;
}

const char *host_walk_lacks(const struct host *h, unsigned i)
{
	return h->walk && !h->walk->error && i < h->walk->n_lacks ? h->walk->lacks[i] : NULL;
}

bool host_walk_has_large_mapcount(const struct host *h)
{
	return h->walk && !h->walk->error && h->walk->skel->bss->has_large_mapcount;
}

uint64_t host_walk_vmemmap(const struct host *h)
{
	return h->walk && !h->walk->error ? h->walk->skel->bss->vmemmap : 0;
}

/* ---- Running ---- */

int host_walk_pages(struct host *h, uint64_t pfn, uint64_t n, struct walk_page *out)
{
	int err = host_walk_open(h);
	struct host_walk *w = h->walk;

	while (!err && n) {
		uint64_t k = n < PAGES_MAX ? n : PAGES_MAX;

		w->skel->bss->lo_pfn = pfn;
		w->skel->bss->hi_pfn = pfn + k;
		err = run_prog(w->skel->progs.scan_pages);
		if (err)
			return err;
		memcpy(out, w->pages, k * sizeof(*out));
		pfn += k;
		out += k;
		n -= k;
	}
	return err;
}

static int drain(struct bpf_link *link)
{
	int fd = bpf_iter_create(bpf_link__fd(link));
	char buf[4096];
	ssize_t n;

	if (fd < 0)
		return -errno;
	do
		n = read(fd, buf, sizeof(buf));
	while (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)));
	n = n < 0 ? -errno : 0;
	close(fd);
	return (int)n;
}

static int append(struct walk_found *out, const struct walk_rec *rec, unsigned n)
{
	struct walk_rec *grown;

	if (!n)
		return 0;
	grown = realloc(out->rec, (out->n + n) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memcpy(grown + out->n, rec, n * sizeof(*rec));
	out->rec = grown;
	out->n += n;
	return 0;
}

/* What does not fit is walked again in halves: the records of descriptors come once, with the first. */
static int walk_range(struct host *h, uint64_t lo, uint64_t hi, struct walk_found *out)
{
	struct host_walk *w = h->walk;
	struct walk_bpf *s = w->skel;
	int err;

	s->bss->lo_pfn = lo;
	s->bss->hi_pfn = hi;
	s->bss->n_recs = s->bss->overflow = 0;
	err = drain(w->files);
	if (!err)
		err = drain(w->tasks);
	if (err)
		return err;
	if (s->bss->overflow && hi - lo > 1) {
		uint64_t mid = lo + (hi - lo) / 2;

		err = walk_range(h, lo, mid, out);
		s->bss->n_inodes = 0;
		return err ? err : walk_range(h, mid, hi, out);
	}
	if (s->bss->overflow)
		s->bss->cut = 1;
	return append(out, w->recs, s->bss->n_recs);
}

int host_walk_files(struct host *h, uint64_t lo, uint64_t hi, const struct walk_inode *inodes,
		    unsigned n_inodes, struct walk_found *out)
{
	int err = host_walk_open(h);
	struct walk_bpf *s;

	memset(out, 0, sizeof(*out));
	if (err)
		return err;
	s = h->walk->skel;
	s->bss->cut = 0;
	s->bss->n_inodes = n_inodes < WALK_INODES ? n_inodes : WALK_INODES;
	if (n_inodes)
		memcpy(s->bss->inodes, inodes, s->bss->n_inodes * sizeof(*inodes));
	err = walk_range(h, lo, hi, out);
	out->cut = s->bss->cut;
	return err;
}

int host_walk_inodes(struct host *h, struct walk_inode *inodes, unsigned n)
{
	int err = host_walk_open(h);
	struct walk_bpf *s;

	if (err)
		return err;
	if (n > WALK_INODES)
		return -E2BIG;
	s = h->walk->skel;
	memcpy(s->bss->inodes, inodes, n * sizeof(*inodes));
	s->bss->n_inodes = n;
	err = run_prog(s->progs.find_inodes);
	memcpy(inodes, s->bss->inodes, n * sizeof(*inodes));
	return err;
}

#else /* no BPF */

int host_walk_open(struct host *h)
{
	(void)h;
	return -EOPNOTSUPP;
}

void host_walk_close(struct host *h)
{
	(void)h;
}

const char *host_walk_why_not(const struct host *h)
{
	(void)h;
	return "this vacate was built without BPF (it needs clang, bpftool and libbpf-dev)";
}

const char *host_walk_lacks(const struct host *h, unsigned i)
{
	(void)h;
	(void)i;
	return NULL;
}

bool host_walk_has_large_mapcount(const struct host *h)
{
	(void)h;
	return false;
}

uint64_t host_walk_vmemmap(const struct host *h)
{
	(void)h;
	return 0;
}

int host_walk_pages(struct host *h, uint64_t pfn, uint64_t n, struct walk_page *out)
{
	(void)h;
	(void)pfn;
	(void)n;
	(void)out;
	return -EOPNOTSUPP;
}

int host_walk_files(struct host *h, uint64_t lo, uint64_t hi, const struct walk_inode *inodes,
		    unsigned n_inodes, struct walk_found *out)
{
	(void)h;
	(void)lo;
	(void)hi;
	(void)inodes;
	(void)n_inodes;
	memset(out, 0, sizeof(*out));
	return -EOPNOTSUPP;
}

int host_walk_inodes(struct host *h, struct walk_inode *inodes, unsigned n)
{
	(void)h;
	(void)inodes;
	(void)n;
	return -EOPNOTSUPP;
}

#endif

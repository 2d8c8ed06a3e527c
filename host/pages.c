/* SPDX-License-Identifier: MIT */
/*
 * Frames: two samples of what the kernel says, and the class that follows.
 *
 * References that nothing accounts for are what tells a held frame. A folio's references should be
 * its mappings, one a frame for the page cache or the swap cache, one for private data, and one if
 * it is just being isolated or added (then it is not on a list). Any other is somebody who reads or
 * writes it directly. What is in a CPU's batch of the lists has one more, for as long as that CPU
 * finds nothing to do: so the batches are drained first, by a move of a page of our own to where it
 * is already. The rest of what comes and goes differs between two samples.
 */
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "walk.h"

struct sample {
	uint64_t *flags, *counts;
	struct walk_page *walked; /* NULL: cannot be had */
};

/* move_pages(2) drains every CPU's batches before it looks at the first page. */
static void drain_batches(void)
{
	static time_t last; /* who looks at block after block needs it once a second */
	struct timespec now;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int node = 0, status = 0;
	void *list[1] = {p};

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (p == MAP_FAILED || now.tv_sec == last)
		goto out;
	last = now.tv_sec;
	*p = 1;
	if (!syscall(SYS_move_pages, 0, 1UL, list, NULL, &status, 0) && status >= 0)
		node = status;
	syscall(SYS_move_pages, 0, 1UL, list, &node, &status, 2 /* MPOL_MF_MOVE */);
out:
	if (p != MAP_FAILED)
		munmap(p, page);
}

/* ---- One sample ---- */

static int read_words(struct host *h, const char *file, uint64_t pfn, uint64_t n, uint64_t *out)
{
	int fd = host_openat(h, O_RDONLY, "%s", file);
	size_t done = 0, want = n * sizeof(*out);
	ssize_t k = 1;

	if (fd < 0)
		return host_fail(h, fd, "%s/%s: %s", h->root, file,
				 fd == -EACCES || fd == -EPERM ? "only root may read it"
							       : strerror(-fd));
	while (done < want && k > 0) {
		k = pread(fd, (char *)out + done, want - done, (off_t)(pfn * sizeof(*out) + done));
		done += k > 0 ? (size_t)k : 0;
	}
	close(fd);
	if (k < 0)
		return host_fail(h, -EIO, "%s/%s: %s", h->root, file, strerror(EIO));
	/* The kernel knows no frames beyond its last. */
	for (uint64_t i = done / sizeof(*out); i < n; i++)
		out[i] = KPF(NOPAGE);
	return 0;
}

static int take(struct host *h, uint64_t pfn, uint64_t n, struct sample *s)
{
	int err = read_words(h, "proc/kpageflags", pfn, n, s->flags);

	if (!err && s->walked && host_walk_pages(h, pfn, n, s->walked)) {
		free(s->walked);
		s->walked = NULL;
	}
	if (err || s->walked) /* which has the counts too, and in half the time */
		return err;
	return read_words(h, "proc/kpagecount", pfn, n, s->counts);
}

static int sample_alloc(struct host *h, uint64_t n, struct sample *s)
{
	s->flags = malloc(n * sizeof(*s->flags));
	s->counts = malloc(n * sizeof(*s->counts));
	s->walked = host_walk_open(h) ? NULL : malloc(n * sizeof(*s->walked));
	return s->flags && s->counts ? 0 : -ENOMEM;
}

static void sample_free(struct sample *s)
{
	free(s->flags);
	free(s->counts);
	free(s->walked);
}

/* ---- Folios ---- */

uint64_t host_folio_frames(const struct host_pages *p, uint64_t i)
{
	uint64_t n = 1;

	if (p->page[i].flags & KPF(COMPOUND_HEAD))
		while (i + n < p->n && p->page[i + n].flags & KPF(COMPOUND_TAIL))
			n++;
	return n;
}

/* A stored map count: -1 is none, anything less a page's type. */
static uint32_t mapped(int stored)
{
	return stored >= 0 ? (uint32_t)stored + 1 : 0;
}

/*
 * References that mappings account for. A folio that is mapped whole has one for all its frames.
 * Kernels that keep the sum have it in `large`; before, it was each frame's own, and whole mappings;
 * and of anonymous folios mapped both ways, long ago, every frame's own was one too many.
 */
static uint32_t map_refs(const struct walk_page *w, uint64_t n, bool anon, bool has_large)
{
	uint32_t whole = mapped(w->entire), sum = 0, least = UINT32_MAX;

	if (n == 1)
		return mapped(w->mapcount);
	if (has_large)
		return mapped(w->large);
	for (uint64_t i = 0; i < n; i++) {
		uint32_t m = mapped(w[i].mapcount);

		sum += m;
		least = m < least ? m : least;
	}
	if (anon && whole && least)
		sum -= (uint32_t)n;
	return whole + sum;
}

static bool is_movable(const struct host_page *p)
{
	/* Not by MMAP: drivers show pages of their own to processes. */
	if (p->flags & (KPF(LRU) | KPF(ANON) | KPF(SWAPCACHE) | KPF(THP)))
		return true;
	if ((p->mapping & 3) == 2) /* a driver that moves its pages: zsmalloc, a balloon */
		return true;
	/* Page cache on its way to a list. */
	return mapping_is_file(p->mapping) &&
	       p->flags & (KPF(UPTODATE) | KPF(SWAPBACKED) | KPF(LOCKED));
}

/* How many references too many has the folio of n frames with this head? */
static uint32_t excess_of(const struct host_page *head, uint64_t n)
{
	uint64_t expected = head->map_total;
	bool huge = head->flags & KPF(HUGE);

	if (head->refs == HOST_REFS_UNKNOWN || !head->refs)
		return 0;
	if (mapping_is_file(head->mapping) && !(head->flags & KPF(ANON)))
		expected += huge ? 1 : n;
	if (head->flags & KPF(SWAPCACHE))
		expected += n;
	if (head->flags & (KPF(PRIVATE) | KPF(PRIVATE_2)) && !huge)
		expected++;
	if (!(head->flags & KPF(LRU)) && !huge)
		expected++;
	return head->refs > expected ? (uint32_t)(head->refs - expected) : 0;
}

/* From a sample to frames. */
static void digest(struct host *h, const struct sample *s, struct host_pages *p)
{
	bool has_large = host_walk_has_large_mapcount(h);

	for (uint64_t i = 0; i < p->n; i++) {
		struct host_page *g = &p->page[i];

		*g = (struct host_page){.flags = s->flags[i], .refs = HOST_REFS_UNKNOWN};
		if (g->flags & KPF(NOPAGE))
			continue;
		if (!s->walked) {
			g->mapcount = (uint32_t)s->counts[i];
			continue;
		}
		g->refs = s->walked[i].refs;
		g->mapping = s->walked[i].mapping;
		if (g->refs == HOST_REFS_UNKNOWN)
			g->flags |= KPF(NOPAGE);
		else if (g->flags & (KPF(MMAP) | KPF(HUGE)))
			g->mapcount = mapped(s->walked[i].mapcount);
	}
	for (uint64_t i = 0, n; s->walked && i < p->n; i += n) {
		struct host_page *g = &p->page[i];
		bool movable;

		n = host_folio_frames(p, i);
		movable = g->flags & KPF(HUGE) || is_movable(g);
		/* Elsewhere the word means something else: it is nobody's business. */
		if (!movable || g->flags & (KPF(SLAB) | KPF(RESERVED) | KPF(PGTABLE) | KPF(BUDDY)))
			g->mapping = 0;
		for (uint64_t k = 1; k < n; k++)
			g[k].mapping = 0;
		/* Without a mapping, and on a list: cut off from its file, and all references
		 * are somebody's. */
		if (g->flags & KPF(COMPOUND_TAIL) || !movable ||
		    (!g->mapping && !(g->flags & KPF(LRU))))
			continue;
		g->map_total = map_refs(&s->walked[i], n, g->flags & KPF(ANON), has_large);
		g->excess = excess_of(g, n);
	}
}

/* ---- Two samples ---- */

/* The second sample becomes what both agree on. */
static void fold(const struct host_pages *first, struct host_pages *second)
{
	for (uint64_t i = 0; i < second->n; i++) {
		const struct host_page *a = &first->page[i];
		struct host_page *b = &second->page[i];

		if (!(a->flags & KPF(LOCKED)))
			b->flags &= ~KPF(LOCKED);
		if (!(a->flags & KPF(WRITEBACK)))
			b->flags &= ~KPF(WRITEBACK);
		if (a->excess < b->excess)
			b->excess = a->excess;
	}
}

static enum host_class class_of(const struct host_page *p)
{
	uint64_t f = p->flags;
	bool known = p->refs != HOST_REFS_UNKNOWN;

	if (f & (KPF(NOPAGE) | KPF(HWPOISON) | KPF(OFFLINE)))
		return HOST_ABSENT;
	if (f & KPF(BUDDY))
		return HOST_FREE;
	if (f & KPF(HUGE)) {
		if (!p->mapcount && (!known || !p->refs))
			return HOST_HUGETLB_FREE;
		return p->excess ? HOST_HELD : HOST_HUGETLB_USED;
	}
	if (f & (KPF(RESERVED) | KPF(SLAB) | KPF(PGTABLE) | KPF(ZERO_PAGE)))
		return HOST_UNMOVABLE;
	if (is_movable(p)) {
		if (f & KPF(WRITEBACK))
			return HOST_WRITEBACK;
		if (f & KPF(LOCKED))
			return HOST_LOCKED;
		return p->excess ? HOST_HELD : HOST_MOVABLE;
	}
	if (!known)
		return f & ~KPF(REFERENCED) ? HOST_UNMOVABLE : HOST_UNKNOWN;
	return p->refs || f & KPF(COMPOUND_TAIL) ? HOST_UNMOVABLE : HOST_FREE;
}

void host_classify(struct host_pages *p)
{
	for (uint64_t i = 0, n; i < p->n; i += n) {
		struct host_page *g = &p->page[i];

		n = host_folio_frames(p, i);
		g->class = (uint8_t)class_of(g);
		for (uint64_t k = 1; k < n; k++)
			g[k].class = g->class;
	}
}

static void nap(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static bool any_stuck(const struct host_pages *p)
{
	for (uint64_t i = 0; i < p->n; i++)
		if (p->page[i].flags & (KPF(LOCKED) | KPF(WRITEBACK)))
			return true;
	return false;
}

static int read_live(struct host *h, uint64_t pfn, uint64_t n, unsigned wait_ms,
		     struct host_pages *out)
{
	struct host_pages first = {pfn, n, false, true, NULL};
	struct sample s = {0};
	int err = sample_alloc(h, n, &s);

	drain_batches();
	if (!err)
		err = take(h, pfn, n, &s);
	if (!err && wait_ms) {
		first.page = malloc(n * sizeof(*first.page));
		err = first.page ? 0 : -ENOMEM;
		if (!err) {
			digest(h, &s, &first);
			nap(wait_ms);
			err = take(h, pfn, n, &s);
		}
	}
	if (!err) {
		out->refs_known = s.walked;
		digest(h, &s, out);
		if (wait_ms)
			fold(&first, out);
		/* A disk that is merely busy deserves more patience. */
		if (wait_ms && any_stuck(out)) {
			struct host_page *spare = first.page;

			first.page = out->page;
			out->page = spare;
			nap(4 * wait_ms);
			err = take(h, pfn, n, &s);
			if (!err) {
				digest(h, &s, out);
				fold(&first, out);
			}
		}
	}
	sample_free(&s);
	free(first.page);
	return err;
}

int host_pages_read(struct host *h, uint64_t pfn, uint64_t n, unsigned wait_ms,
		    struct host_pages *out)
{
	int err = 0;

	*out = (struct host_pages){pfn, n, false, true, malloc(n * sizeof(*out->page))};
	if (!out->page)
		return -ENOMEM;
	if (h->live)
		err = read_live(h, pfn, n, wait_ms, out);
	else {
		host_saved_read(h, pfn, n, out->page);
		out->refs_known = host_saved_refs_known(h);
		out->flags_known = h->saved;
	}
	if (err)
		host_pages_free(out);
	else
		host_classify(out);
	return err;
}

void host_pages_free(struct host_pages *p)
{
	free(p->page);
	memset(p, 0, sizeof(*p));
}

/* ---- What a block holds ---- */

void host_hugetlb(struct host *h, uint64_t *free_frames, uint64_t *reserved_frames)
{
	DIR *d = host_opendir(h, "sys/kernel/mm/hugepages");
	struct dirent *e;

	*free_frames = *reserved_frames = 0;
	while (d && (e = readdir(d))) {
		unsigned long kb;
		char text[32];

		if (sscanf(e->d_name, "hugepages-%lukB", &kb) != 1)
			continue;
		kb = kb * 1024 / h->page_bytes;
		if (host_read(h, text, sizeof(text), "sys/kernel/mm/hugepages/%s/free_hugepages",
			      e->d_name) > 0)
			*free_frames += strtoull(text, NULL, 10) * kb;
		if (host_read(h, text, sizeof(text), "sys/kernel/mm/hugepages/%s/resv_hugepages",
			      e->d_name) > 0)
			*reserved_frames += strtoull(text, NULL, 10) * kb;
	}
	if (d)
		closedir(d);
}

void host_pages_usage(struct host *h, const struct host_pages *p, uint64_t pfn, uint64_t n,
		      struct host_usage *u)
{
	memset(u, 0, sizeof(*u));
	for (uint64_t i = pfn - p->pfn; i < pfn - p->pfn + n && i < p->n; i++) {
		const struct host_page *g = &p->page[i];

		u->frames[g->class]++;
		u->holes += (g->flags & KPF(NOPAGE)) != 0;
		if (g->class != HOST_MOVABLE && g->class != HOST_HELD)
			continue;
		if (g->flags & KPF(ANON))
			u->anon++;
		else
			u->file++;
	}
	/* The array of struct page of a block may lie at its own beginning. */
	for (uint64_t i = pfn - p->pfn; i < pfn - p->pfn + n && i < p->n; i++, u->memmap++)
		if (!(p->page[i].flags & KPF(RESERVED)))
			break;
	if (u->memmap > n / 32)
		u->memmap = 0;
	if (u->frames[HOST_HUGETLB_FREE]) {
		uint64_t free_frames, reserved;

		/* A promise is the pool's: as long as others keep it, these may go. */
		host_hugetlb(h, &free_frames, &reserved);
		free_frames -= reserved < free_frames ? reserved : free_frames;
		if (u->frames[HOST_HUGETLB_FREE] > free_frames)
			u->huge_reserved = u->frames[HOST_HUGETLB_FREE] - free_frames;
	}
}

const char *host_class_name(enum host_class c)
{
	static const char *const names[HOST_CLASSES] = {
		"free",         "movable",      "held",      "locked",  "writeback",
		"hugetlb_free", "hugetlb_used", "unmovable", "unknown", "absent",
	};

	return c < HOST_CLASSES ? names[c] : "?";
}

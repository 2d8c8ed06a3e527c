/* SPDX-License-Identifier: MIT */
/*
 * Why a block cannot go, and who holds it: put together from frames (pages.c), walks (walk.c), page
 * tables (mappers.c) and processes (who.c).
 *
 * A holder is proved where a walk found the frame in its own structure. What references are left
 * then are somebody's whom no walk knows: who maps the frame is likely, or merely a mapper.
 */
#include "why.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES_MS 60 /* a transfer that is shorter than this holds nobody up */

char *text(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

const char *host_kind_name(enum host_kind k)
{
	static const char *const names[HOST_KINDS] = {
		"pipe",    "direct-io", "registered-buffer", "socket", "aio-ring",
		"hugetlb", "fuse",      "writeback",         "locked", "kernel",
		"mapped",  "unknown",
	};

	return k < HOST_KINDS ? names[k] : "unknown";
}

const char *host_evidence_name(enum host_evidence e)
{
	return e == HOST_PROOF ? "proof" : e == HOST_LIKELY ? "likely" : "mapper-only";
}

/* ---- Holders ---- */

static bool same(const struct host_holder *a, const struct host_holder *b)
{
	return a->kind == b->kind && a->evidence == b->evidence && a->pid == b->pid &&
	       a->tid == b->tid && a->fd == b->fd && a->object == b->object &&
	       a->in_flight == b->in_flight &&
	       !strcmp(a->detail ? a->detail : "", b->detail ? b->detail : "");
}

/* A frame may be found with a holder more than once, but is one frame. */
static uint64_t count(struct job *j, uint64_t pfn, uint64_t pages, unsigned holder)
{
	uint64_t k = pfn - j->p.pfn;

	if (pages != 1 || k >= j->p.n)
		return pages;
	if (j->counted[k] == holder + 1)
		return 0;
	j->counted[k] = holder + 1;
	return 1;
}

int job_add(struct job *j, struct host_holder *o, uint64_t pfn, uint64_t pages)
{
	struct host_why *w = j->w;

	for (unsigned i = 0; i < w->n_holders; i++) {
		if (!same(&w->holders[i], o))
			continue;
		w->holders[i].pages += count(j, pfn, pages, i);
		host_holder_clear(o);
		return 0;
	}
	if (w->n_holders == j->holders_size) {
		unsigned size = j->holders_size ? 2 * j->holders_size : 16;
		struct host_holder *grown = realloc(w->holders, size * sizeof(*grown));

		if (!grown) {
			host_holder_clear(o);
			return -ENOMEM;
		}
		w->holders = grown;
		j->holders_size = size;
	}
	o->first_pfn = pfn;
	o->pages = count(j, pfn, pages, w->n_holders);
	o->age_s = -1;
	w->holders[w->n_holders++] = *o;
	memset(o, 0, sizeof(*o));
	return 0;
}

/* The rest about a holder's process and descriptor. No string is NULL afterwards. */
static int complete(struct host *h, struct host_holder *o)
{
	char **strings[] = {&o->cmdline, &o->what,      &o->detail, &o->cgroup,
			    &o->unit,    &o->container, &o->pod};
	char link[512];

	if (o->pid) {
		host_identify(h, o);
		if (o->fd >= 0 && !o->in_flight && !o->what &&
		    host_readlink(h, link, sizeof(link), "proc/%d/fd/%d", (int)o->pid, o->fd) > 0)
			o->what = strdup(link);
	}
	for (unsigned i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		if (!*strings[i] && !(*strings[i] = strdup("")))
			return -ENOMEM;
	return 0;
}

/* ---- Walks ---- */

static const enum host_kind kind_of[] = {
	[WALK_PIPE] = HOST_KIND_PIPE,
	[WALK_URING] = HOST_KIND_REGISTERED,
	[WALK_SOCKET] = HOST_KIND_SOCKET,
	[WALK_AIO] = HOST_KIND_AIO_RING,
};

/* Long-term pins of small folios count 1,024 references each. */
#define PIN_WEIGHT 1024

static uint32_t add_refs(uint32_t a, uint32_t b)
{
	return a + b < a ? UINT32_MAX : a + b;
}

static char *walk_detail(const struct walk_rec *r)
{
	const char *end = "";

	if (r->flags & WALK_IN_FLIGHT)
		return text("the descriptor is on its way through the socket that is descriptor %d",
			    r->fd);
	if (r->flags & WALK_ACCEPT)
		end = ", of a connection that was never accepted";
	switch (r->kind) {
	case WALK_PIPE: return text("buffers of a pipe that nobody has read");
	case WALK_URING: return text("registered buffers of an io_uring");
	case WALK_SOCKET:
		return r->flags & WALK_RECEIVED ? text("received and not read%s", end)
						: text("sent and not acknowledged%s", end);
	default: return text("the ring of an AIO context: it moves with its page");
	}
}

/* Does this frame keep the block, so that who refers to it matters? */
static bool in_the_way(const struct host_page *g)
{
	return g->class == HOST_HELD || g->class == HOST_LOCKED || g->class == HOST_WRITEBACK;
}

/* A pipe refers to a page once, by however many descriptors it is found: the first one counts. */
struct counted {
	uint64_t object;
	unsigned tgid;
	int fd;
};

static bool counts(struct counted *seen, unsigned *n, const struct walk_rec *r)
{
	unsigned i = 0;

	while (i < *n && seen[i].object != r->object)
		i++;
	if (i == *n)
		seen[(*n)++] = (struct counted){r->object, r->tgid, r->fd};
	return seen[i].tgid == r->tgid && seen[i].fd == r->fd;
}

static int add_walked(struct job *j)
{
	struct counted *seen = malloc((j->f.n_rec + 1) * sizeof(*seen));
	unsigned n_seen = 0;
	int err = seen ? 0 : -ENOMEM;

	for (unsigned i = 0; i < j->f.n_rec && !err; i++) {
		const struct walk_rec *r = &j->f.rec[i];

		bool first;

		if (r->kind > WALK_AIO || r->pfn + r->n <= j->p.pfn || r->pfn >= j->p.pfn + j->p.n)
			continue;
		first = counts(seen, &n_seen, r);
		for (uint64_t pfn = r->pfn; pfn < r->pfn + r->n && !err; pfn++) {
			struct host_holder o = {0};
			uint64_t k = pfn - j->p.pfn, head;

			if (k >= j->p.n)
				continue;
			head = j->head[k];
			if (r->kind != WALK_AIO && !in_the_way(&j->p.page[head]))
				continue;
			if (first && r->kind != WALK_AIO)
				j->explained[head] =
					add_refs(j->explained[head],
						 r->flags & WALK_PINNED ? PIN_WEIGHT + 1 : 1);
			o.kind = kind_of[r->kind];
			o.evidence = HOST_PROOF;
			o.pid = (pid_t)r->tgid;
			o.fd = r->fd;
			o.object = r->object;
			o.blocks = r->kind != WALK_AIO;
			o.in_flight = r->flags & WALK_IN_FLIGHT;
			o.detail = walk_detail(r);
			err = job_add(j, &o, pfn, 1);
		}
	}
	free(seen);
	return err;
}

void host_pages_forgive(struct host_pages *p, const struct facts *f)
{
	bool changed = false;

	for (unsigned i = 0; i < f->n_rec; i++) {
		const struct walk_rec *r = &f->rec[i];

		if (r->kind != WALK_AIO)
			continue;
		for (uint64_t pfn = r->pfn > p->pfn ? r->pfn : p->pfn;
		     pfn < r->pfn + r->n && pfn < p->pfn + p->n; pfn++)
			if (p->page[pfn - p->pfn].excess) {
				p->page[pfn - p->pfn].excess--;
				changed = true;
			}
	}
	if (changed)
		host_classify(p);
}

/* ---- All together ---- */

static void find_heads(struct job *j)
{
	for (uint64_t i = 0, n; i < j->p.n; i += n) {
		n = host_folio_frames(&j->p, i);
		for (uint64_t k = 0; k < n; k++)
			j->head[i + k] = (uint32_t)i;
	}
}

static int by_weight(const void *a, const void *b)
{
	const struct host_holder *x = a, *y = b;

	if (x->blocks != y->blocks)
		return x->blocks ? -1 : 1;
	if (x->evidence != y->evidence)
		return x->evidence < y->evidence ? -1 : 1;
	if (x->pages != y->pages)
		return x->pages > y->pages ? -1 : 1;
	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static int blind(struct host_why *w, char *s)
{
	char **grown = s ? realloc(w->blind, (w->n_blind + 1) * sizeof(*grown)) : NULL;

	if (!grown) {
		free(s);
		return -ENOMEM;
	}
	w->blind = grown;
	w->blind[w->n_blind++] = s;
	return 0;
}

static int say_blind(struct job *j)
{
	int err = 0;

	if (!j->f.walked)
		err = blind(j->w, text("who holds pages was not looked for: %s", j->f.why_not));
	if (!err && !j->p.refs_known)
		err = blind(j->w, text("which pages are held cannot be told from those that are "
				       "only mapped: references are not known"));
	for (unsigned i = 0; i < j->f.n_lacks && !err; i++)
		err = blind(j->w, text("%s", j->f.lacks[i]));
	return err;
}

static int work(struct job *j)
{
	struct host_why *w = j->w;
	int err = host_pages_read(j->h, j->b->pfn, j->b->frames, SAMPLES_MS, &j->p);

	if (!err)
		err = facts_walk(j->h, &j->p, j->b->pfn, j->b->pfn + j->b->frames, &j->f);
	if (err)
		return err;
	j->head = malloc(j->p.n * sizeof(*j->head));
	j->explained = calloc(j->p.n, sizeof(*j->explained));
	j->counted = calloc(j->p.n, sizeof(*j->counted));
	if (!j->head || !j->explained || !j->counted)
		return -ENOMEM;
	find_heads(j);
	host_pages_forgive(&j->p, &j->f);
	host_pages_usage(j->h, &j->p, j->b->pfn, j->b->frames, &w->usage);
	err = add_walked(j);
	if (!err)
		err = stuck_add(j);
	if (!err)
		err = suspects_add(j);
	if (!err)
		err = verdict_reach(j);
	for (unsigned i = 0; i < w->n_holders && !err; i++)
		err = complete(j->h, &w->holders[i]);
	if (w->n_holders)
		qsort(w->holders, w->n_holders, sizeof(*w->holders), by_weight);
	return err ? err : say_blind(j);
}

int host_why(struct host *h, const struct host_block *b, struct host_why *out)
{
	struct job j = {.h = h, .b = b, .w = out};
	int err;

	memset(out, 0, sizeof(*out));
	if (b->state == HOST_OFFLINE) {
		out->verdict = HOST_IS_OFFLINE;
		out->reason = strdup("the block is offline");
		return out->reason ? 0 : -ENOMEM;
	}
	err = work(&j);
	host_pages_free(&j.p);
	facts_free(&j.f);
	free(j.head);
	free(j.explained);
	free(j.counted);
	if (err)
		host_why_free(out);
	return err;
}

void host_why_free(struct host_why *w)
{
	for (unsigned i = 0; i < w->n_holders; i++)
		host_holder_clear(&w->holders[i]);
	for (unsigned i = 0; i < w->n_advice; i++)
		free(w->advice[i]);
	for (unsigned i = 0; i < w->n_blind; i++)
		free(w->blind[i]);
	free(w->holders);
	free(w->advice);
	free(w->blind);
	free(w->reason);
	memset(w, 0, sizeof(*w));
}

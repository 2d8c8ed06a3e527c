/* SPDX-License-Identifier: MIT */
/* Frames of a captured machine: the text form of pages.h, read and written. */
#include "pages.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct run {
	uint64_t pfn, n;
	struct host_page page;
};

/* Runs by pfn, ascending; they do not overlap. */
struct host_saved {
	struct run *run;
	size_t n, size;
	bool refs_known;
};

static bool parse_mapping(const char *s, uint64_t *mapping)
{
	char *end;

	if (!strcmp(s, "0"))
		*mapping = 0;
	else if (!strcmp(s, "a"))
		*mapping = MAPPING_ANON;
	else if (!strcmp(s, "d"))
		*mapping = 2;
	else if (s[0] == 'f' && s[1]) {
		*mapping = MAPPING_FILE(strtoul(s + 1, &end, 10));
		return !*end;
	} else
		return false;
	return true;
}

static bool parse_run(const char *line, struct run *r)
{
	char refs[24], mapping[24], *end;

	memset(r, 0, sizeof(*r));
	if (sscanf(line,
		   "%" SCNx64 " %" SCNu64 " %" SCNx64 " %" SCNu32 " %23s %" SCNu32 " %23s %" SCNu32,
		   &r->pfn, &r->n, &r->page.flags, &r->page.mapcount, refs, &r->page.excess,
		   mapping, &r->page.map_total) != 8)
		return false;
	r->page.refs = HOST_REFS_UNKNOWN;
	if (strcmp(refs, "-")) {
		r->page.refs = (uint32_t)strtoul(refs, &end, 10);
		if (*end)
			return false;
	}
	return r->n && r->n < 1ULL << 40 && r->pfn < 1ULL << 52 &&
	       parse_mapping(mapping, &r->page.mapping);
}

static int add_run(struct host_saved *s, const struct run *r)
{
	if (s->n == s->size) {
		size_t size = s->size ? 2 * s->size : 1024;
		struct run *grown = realloc(s->run, size * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		s->run = grown;
		s->size = size;
	}
	s->run[s->n++] = *r;
	s->refs_known |= r->page.refs != HOST_REFS_UNKNOWN;
	return 0;
}

static int read_pages(struct host *h, FILE *f)
{
	char line[256];
	unsigned no = 0;
	struct run r;
	int err;

	while (fgets(line, sizeof(line), f)) {
		char *hash = strchr(line, '#');
		struct run *last = h->saved->n ? &h->saved->run[h->saved->n - 1] : NULL;

		no++;
		if (hash)
			*hash = '\0';
		if (!line[strspn(line, " \t\n")])
			continue;
		if (!parse_run(line, &r))
			return host_fail(h, -EINVAL,
					 "%s/vacate/pages, line %u: not 'PFN COUNT FLAGS MAPCOUNT "
					 "REFS EXCESS MAPPING MAP_TOTAL'",
					 h->root, no);
		if (last && r.pfn < last->pfn + last->n)
			return host_fail(h, -EINVAL,
					 "%s/vacate/pages, line %u: frames must ascend, each once",
					 h->root, no);
		err = add_run(h->saved, &r);
		if (err)
			return host_fail(h, err, "out of memory");
	}
	return ferror(f) ? host_fail(h, -EIO, "%s/vacate/pages: cannot be read", h->root) : 0;
}

int host_saved_open(struct host *h)
{
	char path[PATH_MAX];
	json_error_t e;
	FILE *f;
	int err;

	if (h->live)
		return 0;
	f = host_fopen(h, "vacate/pages");
	if (!f && errno != ENOENT)
		return host_fail(h, -errno, "%s/vacate/pages: %s", h->root, strerror(errno));
	if (f) {
		h->saved = calloc(1, sizeof(*h->saved));
		err = h->saved ? read_pages(h, f) : -ENOMEM;
		fclose(f);
		if (err)
			return err;
	}
	h->privileged = h->saved;
	if (snprintf(path, sizeof(path), "%s/vacate/walk.json", h->root) >= (int)sizeof(path))
		return host_fail(h, -ENAMETOOLONG, "%s: the path is too long", h->root);
	f = host_fopen(h, "vacate/walk.json");
	if (!f)
		return errno == ENOENT ? 0 : host_fail(h, -errno, "%s: %s", path, strerror(errno));
	h->saved_walk = json_loadf(f, JSON_REJECT_DUPLICATES, &e);
	fclose(f);
	if (!json_is_object(h->saved_walk))
		return host_fail(h, -EINVAL, "%s, line %d: %s", path, e.line,
				 h->saved_walk ? "not a JSON object" : e.text);
	return 0;
}

void host_saved_close(struct host *h)
{
	if (h->saved)
		free(h->saved->run);
	free(h->saved);
	json_decref(h->saved_walk);
	h->saved = NULL;
	h->saved_walk = NULL;
}

bool host_saved_refs_known(const struct host *h)
{
	return h->saved && h->saved->refs_known;
}

void host_saved_read(const struct host *h, uint64_t pfn, uint64_t n, struct host_page *out)
{
	const struct host_saved *s = h->saved;
	size_t lo = 0, hi = s ? s->n : 0;

	for (uint64_t i = 0; i < n; i++)
		out[i] = (struct host_page){.flags = KPF(NOPAGE), .refs = HOST_REFS_UNKNOWN};
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->run[mid].pfn + s->run[mid].n <= pfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; s && lo < s->n && s->run[lo].pfn < pfn + n; lo++) {
		const struct run *r = &s->run[lo];
		uint64_t from = r->pfn > pfn ? r->pfn : pfn;
		uint64_t to = r->pfn + r->n < pfn + n ? r->pfn + r->n : pfn + n;

		for (uint64_t i = from; i < to; i++)
			out[i - pfn] = r->page;
	}
}

/* What a file can know: no pointers of the kernel's. */
static bool alike(const struct host_page *a, const struct host_page *b)
{
	return a->flags == b->flags && a->mapcount == b->mapcount && a->refs == b->refs &&
	       a->excess == b->excess && a->mapping == b->mapping && a->map_total == b->map_total;
}

int host_saved_write(FILE *f, const struct host_pages *p,
		     unsigned (*file_of)(void *ctx, uint64_t mapping), void *ctx)
{
	for (uint64_t i = 0, n; i < p->n; i += n) {
		const struct host_page *g = &p->page[i];

		for (n = 1; i + n < p->n && alike(g, &p->page[i + n]); n++)
			;
		if (g->flags & KPF(NOPAGE))
			continue;
		fprintf(f, "%" PRIx64 " %" PRIu64 " %" PRIx64 " %" PRIu32 " ", p->pfn + i, n,
			g->flags, g->mapcount);
		if (g->refs == HOST_REFS_UNKNOWN)
			fputs("-", f);
		else
			fprintf(f, "%" PRIu32, g->refs);
		fprintf(f, " %" PRIu32 " ", g->excess);
		if (!g->mapping)
			fputs("0", f);
		else if (g->mapping & 1)
			fputs("a", f);
		else if (g->mapping & 2)
			fputs("d", f);
		else
			fprintf(f, "f%u", file_of(ctx, g->mapping));
		fprintf(f, " %" PRIu32 "\n", g->map_total);
	}
	return ferror(f) ? -EIO : 0;
}

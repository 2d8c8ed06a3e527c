/* SPDX-License-Identifier: MIT */
/* Gathering: see facts.h. */
#include "facts.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

int frame_set_init(struct frame_set *s, uint64_t pfn, uint64_t n)
{
	s->pfn = pfn;
	s->n = n;
	s->bits = calloc(n / 64 + 1, sizeof(*s->bits));
	return s->bits ? 0 : -ENOMEM;
}

void frame_set_free(struct frame_set *s)
{
	free(s->bits);
	s->bits = NULL;
}

void facts_lack(struct facts *f, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (unsigned i = 0; i < f->n_lacks; i++)
		if (!strcmp(f->lacks[i], text))
			return;
	if (f->n_lacks < sizeof(f->lacks) / sizeof(f->lacks[0])) {
		f->lacks[f->n_lacks] = strdup(text);
		f->n_lacks += f->lacks[f->n_lacks] != NULL;
	}
}

int facts_add_run(struct facts *f, pid_t pid, uint64_t pfn, uint64_t n, uint64_t vaddr,
		  uint32_t page_bytes)
{
	struct mapped_run *last = f->n_map ? &f->map[f->n_map - 1] : NULL;

	if (last && last->pid == pid && last->pfn + last->n == pfn &&
	    last->vaddr + last->n * page_bytes == vaddr) {
		last->n += n;
		return 0;
	}
	if (f->n_map == f->map_size) {
		size_t size = f->map_size ? 2 * f->map_size : 256;
		struct mapped_run *grown = realloc(f->map, size * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		f->map = grown;
		f->map_size = size;
	}
	f->map[f->n_map++] = (struct mapped_run){pid, pfn, n, vaddr};
	return 0;
}

void facts_stuck_files(const struct host_pages *p, struct facts *f)
{
	for (uint64_t i = 0; i < p->n && f->n_file < WALK_INODES; i++) {
		const struct host_page *g = &p->page[i];
		unsigned k = 0;

		if ((g->class != HOST_LOCKED && g->class != HOST_WRITEBACK) ||
		    !mapping_is_file(g->mapping))
			continue;
		while (k < f->n_file && f->file[k].mapping != g->mapping)
			k++;
		if (k == f->n_file)
			f->file[f->n_file++] = (struct walk_inode){.mapping = g->mapping};
	}
}

int facts_walk(struct host *h, const struct host_pages *p, uint64_t lo, uint64_t hi,
	       struct facts *f)
{
	struct walk_found found;
	const char *lack;
	int err;

	if (!h->live)
		return facts_from_json(h, lo, hi, f);
	err = host_walk_open(h);
	if (err) {
		snprintf(f->why_not, sizeof(f->why_not), "%s", host_walk_why_not(h));
		return err == -ENOMEM ? err : 0;
	}
	f->walked = true;
	for (unsigned i = 0; (lack = host_walk_lacks(h, i)); i++)
		facts_lack(f, "%s", lack);
	if (p)
		facts_stuck_files(p, f);
	if (f->n_file && host_walk_inodes(h, f->file, f->n_file))
		f->n_file = 0;
	err = host_walk_files(h, lo, hi, f->file, f->n_file, &found);
	f->rec = found.rec;
	f->n_rec = found.n;
	f->cut = found.cut;
	if (err)
		return host_fail(h, err, "the walk of descriptors failed: %s", strerror(-err));
	if (f->cut)
		facts_lack(f, "a pipe, ring or queue was longer than is followed");
	return 0;
}

int facts_map(struct host *h, const struct frame_set *set, struct facts *f)
{
	return h->live ? mappers_scan(h, set, f) : 0;
}

void facts_free(struct facts *f)
{
	for (unsigned i = 0; i < f->n_lacks; i++)
		free(f->lacks[i]);
	free(f->rec);
	free(f->map);
	memset(f, 0, sizeof(*f));
}

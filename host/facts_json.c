/* SPDX-License-Identifier: MIT */
/*
 * Facts as JSON, in a capture's vacate/walk.json:
 *
 *	{"version": 1,
 *	 "walked": true,                  what BPF found is here; else "why_not" says why it is not
 *	 "lacks": ["..."],                what could not be seen
 *	 "records": [{"kind": "pipe", "pid": 7, "fd": 3, "object": 1, "flags": 0,
 *	              "runs": [[pfn, n], ...]}, ...],
 *	 "servers": [{"pid": 9, "fd": 4, "dev": 45}],          of FUSE file systems
 *	 "files": [{"file": 1, "dev": 45, "ino": 2, "fstype": "fuse", "disk": ""}],
 *	 "openers": [{"pid": 7, "fd": 5, "file": 1}],
 *	 "mappers": [{"pid": 7, "runs": [[pfn, n, address], ...]}]}
 *
 * Objects are numbered anew: a capture has no addresses of the kernel's.
 */
#include "facts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

static const char *const kinds[] = {"pipe", "registered", "socket", "aio"};

#define RUN_MAX (1 << 26)
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- Writing ---- */

static json_int_t object_number(uint64_t **seen, unsigned *n, uint64_t object)
{
	for (unsigned i = 0; i < *n; i++)
		if ((*seen)[i] == object)
			return i + 1;
	if (*n % 64 == 0) {
		uint64_t *grown = realloc(*seen, (*n + 64) * sizeof(*grown));

		if (!grown)
			return 0;
		*seen = grown;
	}
	(*seen)[(*n)++] = object;
	return *n;
}

static bool same_holder(const struct walk_rec *a, const struct walk_rec *b)
{
	return a->kind == b->kind && a->tgid == b->tgid && a->fd == b->fd &&
	       a->object == b->object && a->flags == b->flags;
}

static void add_records(const struct facts *f, json_t *records, json_t *servers, json_t *openers)
{
	uint64_t *seen = NULL;
	unsigned n_seen = 0;
	json_t *runs = NULL;

	for (unsigned i = 0; i < f->n_rec; i++) {
		const struct walk_rec *r = &f->rec[i];

		if (r->kind == WALK_FUSE) {
			json_array_append_new(servers,
					      json_pack("{s:i,s:i,s:I}", "pid", (int)r->tgid, "fd",
							r->fd, "dev", (json_int_t)r->object));
		} else if (r->kind == WALK_OPENER) {
			json_array_append_new(openers,
					      json_pack("{s:i,s:i,s:i}", "pid", (int)r->tgid, "fd",
							r->fd, "file", (int)(r->pfn & 0xffff) + 1));
		} else if (r->kind < KINDS) {
			if (!runs || !i || !same_holder(r, r - 1)) {
				runs = json_array();
				json_array_append_new(
					records, json_pack("{s:s,s:i,s:i,s:I,s:i,s:o}", "kind",
							   kinds[r->kind], "pid", (int)r->tgid,
							   "fd", r->fd, "object",
							   object_number(&seen, &n_seen, r->object),
							   "flags", (int)r->flags, "runs", runs));
			}
			json_array_append_new(
				runs, json_pack("[I,I]", (json_int_t)r->pfn, (json_int_t)r->n));
		}
	}
	free(seen);
}

json_t *facts_to_json(const struct facts *f)
{
	json_t *lacks = json_array(), *records = json_array(), *servers = json_array();
	json_t *openers = json_array(), *files = json_array(), *mappers = json_array();
	json_t *runs = NULL;

	for (unsigned i = 0; i < f->n_lacks; i++)
		json_array_append_new(lacks, json_string(f->lacks[i]));
	add_records(f, records, servers, openers);
	for (unsigned i = 0; i < f->n_file; i++)
		json_array_append_new(files, json_pack("{s:i,s:I,s:I,s:s,s:s}", "file", (int)i + 1,
						       "dev", (json_int_t)f->file[i].dev, "ino",
						       (json_int_t)f->file[i].ino, "fstype",
						       f->file[i].fstype, "disk", f->file[i].bdev));
	for (size_t i = 0; i < f->n_map; i++) {
		if (!i || f->map[i].pid != f->map[i - 1].pid) {
			runs = json_array();
			json_array_append_new(mappers, json_pack("{s:i,s:o}", "pid",
								 (int)f->map[i].pid, "runs", runs));
		}
		json_array_append_new(runs, json_pack("[I,I,I]", (json_int_t)f->map[i].pfn,
						      (json_int_t)f->map[i].n,
						      (json_int_t)f->map[i].vaddr));
	}
	return json_pack("{s:i,s:b,s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "version", 1, "walked", f->walked,
			 "why_not", f->why_not, "lacks", lacks, "records", records, "servers",
			 servers, "files", files, "openers", openers, "mappers", mappers);
}

/* ---- Reading ---- */

static int bad(struct host *h, const char *what)
{
	return host_fail(h, -EINVAL, "%s/vacate/walk.json: %s is not as 'vacate capture' writes it",
			 h->root, what);
}

static int add_rec(struct facts *f, const struct walk_rec *r)
{
	struct walk_rec *grown;

	if (f->n_rec % 256 == 0) {
		grown = realloc(f->rec, (f->n_rec + 256) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		f->rec = grown;
	}
	f->rec[f->n_rec++] = *r;
	return 0;
}

/* Frames that the block at hand has; a run may be longer, and what is outside is nobody's question. */
struct window {
	uint64_t lo, hi;
};

/* The part of n frames from *pfn on that is in the window; *skipped frames before it are not. */
static uint64_t clip(const struct window *w, uint64_t *pfn, uint64_t n, uint64_t *skipped)
{
	uint64_t end = *pfn + n < w->hi ? *pfn + n : w->hi;

	*skipped = *pfn < w->lo ? w->lo - *pfn : 0;
	*pfn += *skipped;
	return end > *pfn ? end - *pfn : 0;
}

static int get_run(json_t *j, size_t k, json_int_t *v)
{
	for (size_t i = 0; i < k; i++) {
		json_t *n = json_array_get(j, i);

		if (!json_is_integer(n) || json_integer_value(n) < 0)
			return -EINVAL;
		v[i] = json_integer_value(n);
	}
	/* More frames than a run can be of are a mistake. */
	return v[1] && v[1] <= RUN_MAX ? 0 : -EINVAL;
}

static int read_record(const struct window *w, struct facts *f, json_t *j)
{
	struct walk_rec r = {0};
	const char *kind;
	json_int_t object;
	json_t *runs, *run;
	int pid, flags;
	size_t i;

	if (json_unpack(j, "{s:s,s:i,s:i,s:I,s:i,s:o}", "kind", &kind, "pid", &pid, "fd", &r.fd,
			"object", &object, "flags", &flags, "runs", &runs) ||
	    !json_is_array(runs))
		return -EINVAL;
	while (r.kind < KINDS && strcmp(kinds[r.kind], kind))
		r.kind++;
	if (r.kind == KINDS || pid <= 0)
		return -EINVAL;
	r.tgid = (unsigned)pid;
	r.object = (uint64_t)object;
	r.flags = (unsigned char)flags;
	json_array_foreach(runs, i, run)
	{
		uint64_t pfn, skipped;
		json_int_t v[2];

		if (get_run(run, 2, v))
			return -EINVAL;
		pfn = (uint64_t)v[0];
		r.n = (unsigned)clip(w, &pfn, (uint64_t)v[1], &skipped);
		r.pfn = pfn;
		if (r.n && add_rec(f, &r))
			return -ENOMEM;
	}
	return 0;
}

static int read_mapper(struct host *h, const struct window *w, struct facts *f, json_t *j)
{
	json_t *runs, *run;
	size_t i;
	int pid;

	if (json_unpack(j, "{s:i,s:o}", "pid", &pid, "runs", &runs) || !json_is_array(runs) ||
	    pid <= 0)
		return -EINVAL;
	json_array_foreach(runs, i, run)
	{
		uint64_t pfn, n, skipped;
		json_int_t v[3];

		if (get_run(run, 3, v))
			return -EINVAL;
		pfn = (uint64_t)v[0];
		n = clip(w, &pfn, (uint64_t)v[1], &skipped);
		if (n && facts_add_run(f, pid, pfn, n, (uint64_t)v[2] + skipped * h->page_bytes,
				       h->page_bytes))
			return -ENOMEM;
	}
	return 0;
}

static int read_file(struct facts *f, json_t *j)
{
	json_int_t dev, ino;
	const char *fstype, *disk;
	struct walk_inode *w;
	int file;

	if (json_unpack(j, "{s:i,s:I,s:I,s:s,s:s}", "file", &file, "dev", &dev, "ino", &ino,
			"fstype", &fstype, "disk", &disk) ||
	    file != (int)f->n_file + 1 || f->n_file == WALK_INODES)
		return -EINVAL;
	w = &f->file[f->n_file++];
	w->mapping = MAPPING_FILE(file);
	w->dev = (unsigned)dev;
	w->ino = (uint64_t)ino;
	snprintf(w->fstype, sizeof(w->fstype), "%s", fstype);
	snprintf(w->bdev, sizeof(w->bdev), "%s", disk);
	return 0;
}

static int read_opener(struct facts *f, json_t *j)
{
	struct walk_rec r = {.kind = WALK_OPENER};
	int pid, file;

	if (json_unpack(j, "{s:i,s:i,s:i}", "pid", &pid, "fd", &r.fd, "file", &file) || file < 1 ||
	    file > WALK_INODES)
		return -EINVAL;
	r.tgid = (unsigned)pid;
	r.pfn = 1ULL << 63 | (unsigned)(file - 1);
	return add_rec(f, &r);
}

static int read_server(struct facts *f, json_t *j)
{
	struct walk_rec r = {.kind = WALK_FUSE};
	json_int_t dev;
	int pid;

	if (json_unpack(j, "{s:i,s:i,s:I}", "pid", &pid, "fd", &r.fd, "dev", &dev))
		return -EINVAL;
	r.tgid = (unsigned)pid;
	r.object = (uint64_t)dev;
	return add_rec(f, &r);
}

int facts_from_json(struct host *h, uint64_t lo, uint64_t hi, struct facts *f)
{
	const struct window w = {lo, hi};
	json_t *j = h->saved_walk, *each;
	const char *why;
	size_t i;
	int err = 0;

	if (!j) {
		snprintf(
			f->why_not, sizeof(f->why_not),
			"the directory has no vacate/walk.json: nothing was walked when it was made");
		return 0;
	}
	if (json_integer_value(json_object_get(j, "version")) != 1)
		return bad(h, "\"version\" (1)");
	f->walked = json_is_true(json_object_get(j, "walked"));
	why = json_string_value(json_object_get(j, "why_not"));
	snprintf(f->why_not, sizeof(f->why_not), "%s", why ? why : "");
	json_array_foreach(json_object_get(j, "lacks"), i, each)
	{
		if (!json_is_string(each))
			return bad(h, "\"lacks\"");
		facts_lack(f, "%s", json_string_value(each));
	}
#define EACH(name, call)                                                                  \
	json_array_foreach(json_object_get(j, name), i, each)                             \
	{                                                                                 \
		err = call;                                                               \
		if (err)                                                                  \
			return err == -EINVAL ? bad(h, "an entry of \"" name "\"") : err; \
	}
	EACH("records", read_record(&w, f, each))
	EACH("files", read_file(f, each))
	EACH("openers", read_opener(f, each))
	EACH("servers", read_server(f, each))
	EACH("mappers", read_mapper(h, &w, f, each))
#undef EACH
	return 0;
}

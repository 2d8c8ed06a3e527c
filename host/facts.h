/* SPDX-License-Identifier: MIT */
/*
 * What the walks and /proc say about frames, gathered live or read from a capture, in one form.
 *
 * The form on disk is vacate/walk.json: see facts_json.c.
 */
#ifndef HOST_FACTS_H
#define HOST_FACTS_H

#include "walk.h"

/* A run of frames that a process maps, ascending and together in both. */
struct mapped_run {
	pid_t pid;
	uint64_t pfn, n, vaddr;
};

struct facts {
	bool walked;       /* BPF worked, then or now */
	bool cut;          /* a list was longer than we follow */
	char why_not[256]; /* where it did not */
	char *lacks[8];    /* what else could not be seen, one sentence each */
	unsigned n_lacks;
	struct walk_rec *rec;
	unsigned n_rec;
	struct walk_inode file[WALK_INODES]; /* of frames that are locked or under writeback */
	unsigned n_file;
	struct mapped_run *map; /* of frames of interest */
	size_t n_map, map_size;
};

/* Frames that somebody asks about: bit i is frame pfn + i. */
struct frame_set {
	uint64_t pfn, n;
	uint64_t *bits;
};

int frame_set_init(struct frame_set *s, uint64_t pfn, uint64_t n);
void frame_set_free(struct frame_set *s);
static inline void frame_set_add(struct frame_set *s, uint64_t pfn)
{
	s->bits[(pfn - s->pfn) / 64] |= 1ULL << (pfn - s->pfn) % 64;
}
static inline bool frame_set_has(const struct frame_set *s, uint64_t pfn)
{
	return pfn - s->pfn < s->n && s->bits[(pfn - s->pfn) / 64] >> (pfn - s->pfn) % 64 & 1;
}

/* The files whose pages in p are stuck, added to those known, each once, as many as there is room for. */
void facts_stuck_files(const struct host_pages *p, struct facts *f);
/* Walk about frames [lo, hi), and about the files that stuck frames of p belong to. 0 also where
 * nothing can be walked: facts says so. */
int facts_walk(struct host *h, const struct host_pages *p, uint64_t lo, uint64_t hi,
	       struct facts *f);
/* Who maps the frames of set. */
int facts_map(struct host *h, const struct frame_set *set, struct facts *f);
void facts_free(struct facts *f);
void facts_lack(struct facts *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One joins the last where it continues that. */
int facts_add_run(struct facts *f, pid_t pid, uint64_t pfn, uint64_t n, uint64_t vaddr,
		  uint32_t page_bytes);

/* mappers.c: the live half of facts_map(). */
int mappers_scan(struct host *h, const struct frame_set *set, struct facts *f);

/* facts_json.c */
json_t *facts_to_json(const struct facts *f);
/* What it says of frames of [lo, hi): as much work as the file is long, whatever it says. */
int facts_from_json(struct host *h, uint64_t lo, uint64_t hi, struct facts *f);

#endif

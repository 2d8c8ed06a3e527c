/* SPDX-License-Identifier: MIT */
/* What the parts of `why` share: the block in hand, as it is being worked out. */
#ifndef HOST_WHY_H
#define HOST_WHY_H

#include "facts.h"
#include "pages.h"

struct job {
	struct host *h;
	const struct host_block *b;
	struct host_pages p;
	struct facts f;
	struct host_why *w;
	uint32_t *head;      /* of each frame, the index of its folio's head */
	uint32_t *explained; /* of each head, the references that walks account for */
	uint32_t *counted;   /* of each frame, the holder that it was last counted for, + 1 */
	unsigned holders_size;
};

/* Rings of AIO contexts move by themselves: take their references out of excess, and classify again. */
void host_pages_forgive(struct host_pages *p, const struct facts *f);

/* Count pages frames to the holder like o, or add it. Frames start at pfn. Takes o's strings. */
int job_add(struct job *j, struct host_holder *o, uint64_t pfn, uint64_t pages);
char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* suspects.c: holders of held frames that no walk accounts for, from who maps them. */
int suspects_add(struct job *j);
/* stuck.c: of frames that are locked or under writeback. */
int stuck_add(struct job *j);
/* verdict.c: from the usage and the holders. */
int verdict_reach(struct job *j);
/* target.c: the memory that movable frames could go to, in frames. */
uint64_t target_frames(struct host *h, const struct host_block *b, const struct host_usage *u);
/* The same for huge pages. */
uint64_t target_huge_frames(struct host *h, const struct host_block *b);

#endif

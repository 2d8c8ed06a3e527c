/* SPDX-License-Identifier: MIT */
/* A pool without an engine: two blocks and a space, through the port's own calls, for the tests of
 * port/linux/. */
#ifndef VAC_TESTS_UTIL_MEM_H
#define VAC_TESTS_UTIL_MEM_H

#include <stddef.h>

#include "port/linux/linux.h"
#include "port/port.h"

#define mem_ops (&vac__port_mem_ops)

struct pool {
	void *ctx, *direct;
	size_t bytes; /* of a block */
	struct vac__backing b[2];
	char *_Atomic space; /* of as many bytes; read where a fault is served, too */
};

/* The engine calls the port with all signals blocked. */
#define ENTERED(call)                            \
	do {                                     \
		struct vac__port_saved entered_; \
		vac__port_enter(&entered_);      \
		call;                            \
		vac__port_leave(&entered_);      \
	} while (0)

void pool_open(struct pool *p, unsigned flags, size_t bytes, vac__fault_fn *fn);
void pool_close(struct pool *p);
int populate(struct pool *p, int i, size_t off);
uint64_t held(const struct vac__backing *b);
unsigned shown(const struct pool *p);
int map_at(struct pool *p, int i, size_t off, size_t bytes, unsigned prot);
int leave_at(struct pool *p, size_t off, size_t bytes, unsigned prot);
void stay_at(struct pool *p, int i, size_t off, size_t bytes, unsigned prot);
int unmap_at(struct pool *p, size_t off, size_t bytes);

#define SKIP_FORCED(why)                                  \
	do {                                              \
		print_message("SKIP: forced: %s\n", why); \
		skip();                                   \
	} while (0)

#endif /* VAC_TESTS_UTIL_MEM_H */

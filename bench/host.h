/* SPDX-License-Identifier: MIT */
/* The host's own memory, which the peers use. */
#ifndef BENCH_HOST_H
#define BENCH_HOST_H

#include "bench/bench.h"

enum host_pages { HOST_2M, HOST_4K };

/* Memory backed as a pool's blocks are: a memfd of 2 MiB or 4 KiB host pages. */
struct host_buf {
	char *mem;
	uint64_t bytes;
	int fd;
	unsigned huge; /* how many pageblocks are 2 MiB host pages */
};

/* bytes: a multiple of 2 MiB. All of it is resident, and zero. 0, or -1 with a message. */
int host_buf_open(const struct bench_env *env, struct host_buf *b, uint64_t bytes,
		  enum host_pages pages);
void host_buf_close(struct host_buf *b);

/* Private anonymous memory, aligned to 2 MiB and not touched yet, with the advice for or against
 * transparent huge pages. NULL with a message. */
char *host_anon(const struct bench_env *env, uint64_t bytes, enum host_pages pages);
void host_anon_free(char *mem, uint64_t bytes);

/* Memory that this process may still get: of the system, and of its memory cgroups. */
uint64_t host_available(void);

/* A number from a file of "Key:   number kB" lines, in bytes; 0 if it is not there. */
uint64_t host_kib_line(const char *path, const char *key);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Watching one block: who takes direct references to its frames from now on, and since when.
 *
 * What was taken before is found by host_why() only. When a reference ends is not traced: a frame is
 * held no more when it has none too many, which host_watch_held() looks at.
 */
#ifndef HOST_WATCH_H
#define HOST_WATCH_H

#include "bpf/watch.h"
#include "host.h"

struct host_watch;

/* Called for each event, from host_watch_wait(). e->ns is of CLOCK_MONOTONIC. */
typedef void host_watch_fn(void *ctx, const struct watch_event *e);

/* -EOPNOTSUPP, with host_message(): no BPF here, or the kernel refuses every way there is. */
int host_watch_open(struct host *h, const struct host_block *b, host_watch_fn *fn, void *ctx,
		    struct host_watch **out);
void host_watch_close(struct host_watch *w);
/* "fexit" or "block_bio_queue": by which way, and so how much, is seen. */
const char *host_watch_how(const struct host_watch *w);
/* Wait for events at most so long. A count, or -errno; -EINTR after a signal. */
int host_watch_wait(struct host_watch *w, int timeout_ms);
/* Events that there was no room for. */
uint64_t host_watch_lost(const struct host_watch *w);
/* The name of a kernel function, with offset; "0x..." where it is hidden. Answers buf. */
const char *host_symbol(struct host *h, uint64_t addr, char *buf, size_t len);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A pool of our own for `vacate demo` and `vacate stress`: blocks, one space, and the cycle of
 * taking a block away and adding it back, with what the kernel says about the memory.
 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "memcg.h"
#include "vacate.h"
#include "workload.h"

struct session {
	/* Set by the caller. */
	const char *name;
	uint64_t pool_bytes, block_bytes;
	enum vac_guard guard;
	uint32_t flags; /* VAC_POOL_* */
	enum vac_zone zone;
	/* One block more, of normal memory, that never leaves: for pins that last. Not in pool_bytes. */
	bool normal;
	bool with_control;        /* open a control socket */
	const char *control_path; /* NULL: where `vacate ls` finds it */
	const char *swap_path;    /* a file to be made, or a block device; NULL: no swap */
	uint64_t swap_bytes;      /* 0: twice the pool */

	/* Set by session_open(). */
	struct vac_pool *pool;
	struct vac_space *space;
	struct vac_control *control;
	unsigned blocks;
	int *id; /* [blocks]: without the normal one */
	int normal_id;
	struct memcg memcg;
};

/* What one offline did. */
struct cycle {
	int id;
	int err; /* of the offline: 0 or a negative errno value */
	struct vac_offline_result res;
	uint64_t busy_ns; /* while it was not waiting for somebody */
	double gb_per_s;  /* in that time */
	/* Processor time of the calling thread, which does all the work of the offline: beside a
	 * load that fills the processors, only this says how fast the engine itself is. */
	uint64_t cpu_ns;
	uint64_t writer_worst_ns, reader_worst_ns;
	uint64_t touched_bytes; /* what the kernel had allocated to the block's memfd */
	bool charged_known;
	int64_t charged_fall_bytes; /* the cgroup's usage fell by this; see watch_fall() */
	double charged_fall_s;      /* and it took this long after the offline */
};

/* Open pool, blocks (online) and space. 0 or a negative errno value, with a message printed. */
int session_open(struct session *s);
/* Releases all that session_open() has got. 0, or the error of closing, with a message printed. */
int session_close(struct session *s);

/* The memory that this process may still get: the least of what the system has and what the
 * memory cgroups allow. */
uint64_t session_room(struct session *s);

/*
 * Offline block id. The numbers of the workers' waits are taken for the time of the call. account:
 * also measure what comes back to the memory cgroup. A report in c->res.report is the caller's to
 * free. Answers c->err.
 */
int session_offline(struct session *s, struct wl_run *run, int id, int64_t timeout_ms, bool account,
		    struct cycle *c);
/* Remove an offline block, add it again under its number, online it. 0 or a negative errno value,
 * with a message printed. */
int session_return(struct session *s, struct wl_run *run, int id);

/*
 * With all workers paused or ended: the engine's own check of the whole pool, and the sums of its
 * frame counters. Anything wrong is a wl_fault(). used_frames: expected number of frames in use,
 * 0 if it is not known; answers the number found.
 */
uint64_t session_check(struct session *s, struct wl_run *run, uint64_t used_frames);

/* {"p50", "p99", "p999", "max", "count"} in microseconds. */
json_t *latency_json(struct wl_run *run, enum wl_latency kind, enum wl_phase phase);

const char *guard_name(enum vac_guard guard);
int guard_from_name(const char *name, enum vac_guard *guard); /* -EINVAL */

#endif

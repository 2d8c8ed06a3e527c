/* SPDX-License-Identifier: MIT */
/*
 * What a simulated program does with a pool: a world drawn from a seed, in which writers, devices,
 * pinners, an administrator and an observer work at once against a model of every byte.
 */
#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

/* In this order, which decides with a seed what it runs: see derive() in explore.c. */
#define WORKS(X)                                                                         \
	X(mix)      /* everything, each seed with a random part of it switched off */    \
	X(migrate)  /* writers and readers under continuous offline; no map calls */     \
	X(pin)      /* pins, devices and gates */                                        \
	X(map)      /* map, unmap, protect, advise and splits under offline */           \
	X(refault)  /* many threads on one page: the storm of 2018 */                    \
	X(dio)      /* endless overlapping transfers into one buffer: 2005 */            \
	X(foreign)  /* transfers that nobody has pinned for */                           \
	X(snapshot) /* snapshots, of snapshots too, that are read, written and pinned */ \
	X(compact)  /* compaction and collapse against all of these */                   \
	X(swap)     /* a third of the memory that the data would need, and a disk */     \
	X(longterm) /* pins that last: that can move, or leave movable memory first */   \
	X(aio)      /* direct I/O contexts, their rings, and a device */

#define WORK_NUMBER(name) WORK_##name,
enum sim_workload { WORKS(WORK_NUMBER) WORK_COUNT };
#undef WORK_NUMBER

struct work_config {
	uint64_t seed;
	enum sim_workload workload;
	int threads; /* writers; 0: drawn */
	bool faults; /* first phase with failing host calls */
};

const char *work_name(enum sim_workload w);
int work_by_name(const char *name); /* -1 */

/* The body of a world, for sim_run(): arg is a struct work_config. */
void work_run(void *arg);

#endif /* SIM_WORKLOAD_H */

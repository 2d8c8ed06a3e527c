/* SPDX-License-Identifier: MIT */
/*
 * What a simulated program does with a pool: a world drawn from a seed, in which writers, devices,
 * pinners, an administrator and an observer work at once against a model of every byte.
 */
#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

enum sim_workload {
	WORK_MIX,     /* everything, each seed with a random part of it switched off */
	WORK_MIGRATE, /* writers and readers under continuous offline; no map calls */
	WORK_PIN,     /* pins, devices and gates */
	WORK_MAP,     /* map, unmap, protect, advise and splits under offline */
	WORK_REFAULT, /* many threads on one page: the storm of 2018 */
	WORK_DIO,     /* endless overlapping transfers into one buffer: 2005 */
	WORK_FOREIGN, /* transfers that nobody has pinned for */
	WORK_SWAP,    /* half the memory that the data would need, and a disk */
	WORK_COUNT,
};

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

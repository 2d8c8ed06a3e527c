/* SPDX-License-Identifier: MIT */
/*
 * The explorer behind `vacate sim`. It is linked with an engine of its own, built for the simulator,
 * and is the only symbol of that half of the program that the other half sees.
 */
#ifndef SIM_EXPLORE_H
#define SIM_EXPLORE_H

#include <stdint.h>

/* argv[0] is the verb. Answers the exit status: 0 nothing found, 1 error, 2 usage, or an
 * enum sim_end from 10 on. */
int vac_sim_main(int argc, char **argv);

/* Schedules of `workload` ("all") explored from a seed on, and how many found something; for the
 * measurement of the rate. Answers 0, or -EINVAL for an unknown workload. */
int vac_sim_explore(const char *workload, uint64_t seed, uint64_t schedules, uint64_t *steps,
		    uint64_t *found);

#endif /* SIM_EXPLORE_H */

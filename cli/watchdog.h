/* SPDX-License-Identifier: MIT */
/* The ticker of a run: signals and the hang watchdog. */
#ifndef CLI_WATCHDOG_H
#define CLI_WATCHDOG_H

#include "workload.h"

/* Block SIGINT and SIGTERM in the calling thread (threads started later inherit that) and start
 * the ticker. 0 or a negative errno value, with a message printed. */
int watchdog_start(struct wl_run *run);
/* Stop it, if it runs. The signals stay blocked. */
void watchdog_stop(struct wl_run *run);

#endif

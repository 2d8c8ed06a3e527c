/* SPDX-License-Identifier: MIT */
/* The machine that was measured, for the reader of the figures. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <jansson.h>

/* A new object, the caller's. */
json_t *machine_json(void);

#endif

/* SPDX-License-Identifier: MIT */
/* What the files of port/sim/ share: the engine's port, under small sizes, and the machine's reset. */
#ifndef VAC_SIM_WORLD_H
#define VAC_SIM_WORLD_H

#include "src/internal.h"

/* Everything as before the first pool: metadata, address space, translations. */
void world_reset(void);
_Noreturn void sim_over(void);

/* disk.c: the swap file */
void disk_reset(void);
int disk_open(void *ctx, int fd, uint64_t bytes, struct vac__swapfile *f);
void disk_close(void *ctx, struct vac__swapfile *f);
void disk_io(void *ctx, struct vac__swapfile *f, bool write, struct vac__swap_run *run, unsigned n);

#endif /* VAC_SIM_WORLD_H */

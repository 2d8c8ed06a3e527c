/* SPDX-License-Identifier: MIT */
/* What the files of port/sim/ share: the engine's port, under small sizes, and the machine's reset. */
#ifndef VAC_SIM_WORLD_H
#define VAC_SIM_WORLD_H

#include "src/internal.h"

/* Everything as before the first pool: metadata, address space, translations. */
void world_reset(void);
_Noreturn void sim_over(void);

#endif /* VAC_SIM_WORLD_H */

/* SPDX-License-Identifier: MIT */
/* The simulated device of direct I/O: see device.c. */
#ifndef VAC_SIM_DEVICE_H
#define VAC_SIM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#define DEVICE_FILES \
	4 /* whose descriptors are 0 to 3; reads of the last one end only by being cancelled */
#define DEVICE_PAGES 8u /* of each */

struct vac__ioreq;

void device_reset(void);
uint64_t device_first(unsigned file, unsigned page, unsigned word); /* what is in it at first */

int device_open(void *ctx, unsigned flags, uintptr_t *dev, bool *native);
void device_close(void *ctx, uintptr_t dev);
unsigned device_submit(void *ctx, uintptr_t dev, struct vac__ioreq **io, unsigned n);
void device_cancel(void *ctx, uintptr_t dev, struct vac__ioreq *io);
unsigned device_collect(void *ctx, uintptr_t dev, struct vac__ioreq **done, unsigned max,
			uint64_t deadline_ns);
void device_kick(void *ctx, uintptr_t dev);
int device_buffer(void *ctx, uintptr_t dev, unsigned slot, void *mem, size_t bytes);
int device_file(void *ctx, int fd);
void device_file_drop(void *ctx, int fd);

#endif /* VAC_SIM_DEVICE_H */

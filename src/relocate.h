/* SPDX-License-Identifier: MIT */
/*
 * Pins with callbacks: what the engine keeps of them beside their record in the ledger. See relocate.c.
 */
#ifndef VAC_RELOCATE_H
#define VAC_RELOCATE_H

#include "geometry.h"
#include "lock.h"
#include "vacate.h"

/* A pin's record with callbacks. All but what is constant is guarded by vac__reloc.lock. */
struct vac__pin_ext {
	/* Constant from the record's first pin to its end. */
	struct vac_relocate_ops ops;
	int (*revoke)(void *ctx, uint64_t pin);
	void *ctx;

	uint64_t handle; /* whose life this is */
	uint64_t began_ns;
	uint32_t tid;      /* of the thread in its callback */
	uint32_t next;     /* of the queue, index + 1 */
	uint32_t refused;  /* number of the offline that it has refused, or was too slow for */
	uint32_t revoked;  /* and of the one that has asked it to let go */
	_Atomic int error; /* what a callback has answered last; read without the lock */
	uint8_t state;
	bool given_up; /* nobody waits for the callback any more */
	bool willing;  /* has answered that it lets go */
	bool leaving;  /* somebody drops the pin, and waits for what is under way */
};

/* A record that has been looked at, or asked, for the pageblock in hand. */
struct vac__reloc_asked {
	uint64_t handle; /* in which its index is */
	bool moving;
};

/* Of a folio in the pageblock in hand. */
#define VAC__HOLD_LONG 1u  /* somebody holds it for long: nobody waits for him */
#define VAC__HOLD_LATER 2u /* somebody has to be asked again */

struct vac__reloc {
	struct vac__mutex lock; /* rank relocate */
	uint32_t head, tail;    /* the queue of callbacks to be made; guarded by lock */
	uint32_t nr_workers, nr_idle;
	uintptr_t thread[VAC__RELOC_WORKERS];
	struct vac__event kick; /* the queue has something, or all is to end */
	struct vac__event done; /* a callback has returned, or pages have moved */
	_Atomic uint32_t stop;

	/* The offline in hand; guarded by hotplug. */
	uint32_t serial;
	uint32_t nr;
	struct vac__reloc_asked list[VAC__RELOC_LIST];
	uint32_t count[VAC__PB_PAGES]; /* relocatable pins of each folio of the pageblock in hand */
	uint32_t moved[VAC__PB_PAGES]; /* where it went */
	uint8_t hold[VAC__PB_PAGES];   /* VAC__HOLD_* */
};

#endif /* VAC_RELOCATE_H */

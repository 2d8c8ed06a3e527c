/* SPDX-License-Identifier: MIT */
/*
 * What the workloads share: the world that a seed has drawn, the model of every byte, and the operations
 * of a writer. A workload is a struct work_kind in a file of its own, sim/work_NAME.c, and a line in
 * the list WORKS of workload.h.
 */
#ifndef SIM_WORK_H
#define SIM_WORK_H

#include <errno.h>

#include "port/sim/sim.h"
#include "port/sim/world.h"
#include "sim/workload.h"

#define PAGE VAC_PAGE_BYTES
#define WORDS (PAGE / 8)
#define WRITERS_MAX 6
#define QUEUES_MAX 3
#define REGION_PAGES 20u /* of a writer: two and a half pageblocks */
#define SHARED_PAGES 2u
#define SCRATCH_PAGES 6u
#define GATE_MS 5
#define MORE_MAX 4

enum op {
	OP_STORE,
	OP_LOAD,
	OP_LOAD_OTHER,
	OP_ADD,
	OP_PIN,
	OP_DMA,
	OP_LONGPIN,
	OP_NESTED_PIN,
	OP_SCRATCH,
	OP_MAP,
	OP_UNMAP,
	OP_PROTECT,
	OP_DONTNEED,
	OP_WILLNEED,
	OP_ADVISE,
	OP_INFO,
	OP_OWN, /* what own[0] of the workload does */
	OP_OWN_2,
	OP_COUNT,
};

struct page {
	bool mapped;
	bool locked; /* perhaps: somebody has tried, and it was not surely undone */
	uint8_t prot;
	uint32_t gen; /* odd: it is being dropped, and may be there or not */
	uint64_t word[WORDS];
	/* Bit set: written by a device without a pin where the host does not tell who holds a page. Until
	 * the block that it went to has been certified, the word may be what it was. */
	uint32_t late;
	uint64_t was[WORDS];
};

struct writer {
	int id, thread;
	uint64_t base; /* address of its region */
	uint64_t seq;
	struct page page[REGION_PAGES];
};

struct work_world {
	struct work_config cfg;
	const struct work_kind *kind;
	struct vac_pool *pool;
	struct vac_space *space;
	uint64_t base, shared, buffer, scratch;
	uint64_t drops, drops_over; /* of scratch pages: begun, and ended */
	uint32_t ops_off;           /* bit set: this operation is switched off (swarm) */
	int nr_writers, nr_queues, nr_blocks, admin, admin2, observer;
	int queue[QUEUES_MAX];
	struct writer writer[WRITERS_MAX];
	uint64_t added; /* to the shared counter */
	uint32_t steps_left;
	uint32_t pool_flags_on, pool_flags_off;
	bool tight;         /* no block more than are needed */
	bool offline_swaps; /* some offlines write out what they can */
	uint32_t spare;     /* pageblocks of memory more than what is mapped needs */
	bool calm, stop;    /* second phase; queues and stormers end */
	struct sim_faults faults;
};
extern struct work_world world;

/*
 * What distinguishes a workload. Each function may be left out. They draw with sim_below() and the like,
 * so that the seed decides all; one draw more or less changes what every seed of the workload means.
 */
struct work_kind {
	const char *name;
	/* Its part of the world, after what all workloads have drawn: ops_off, how many threads, faults. */
	void (*draw)(void);
	/* The operation in place of the one drawn. */
	enum op (*pick)(enum op drawn);
	void (*own[OP_COUNT - OP_OWN])(struct writer *t); /* only pick() picks them */
	/* Threads that run until world.stop, besides writers, queues, administrators and the observer. */
	void (*more)(void *arg);
	const char *more_name;
	int nr_more;        /* at most MORE_MAX */
	void (*calm)(void); /* at the end of the first phase: no host call fails any more */
	bool first_try;     /* then every folio moves at the first try */
	void (*rest)(void); /* when all threads have ended */
	void (*size)(uint32_t *pbs,
		     uint64_t *need);    /* pageblocks a block, and in all; before any */
	void (*begin)(struct writer *t); /* of a writer, in either phase */
	/* At the end of the second phase, when the writers have ended; not where a world is given up. */
	void (*end)(void);
};
#define WORK_EXTERN(name) extern const struct work_kind work_##name;
WORKS(WORK_EXTERN)
#undef WORK_EXTERN

static inline void *work_ptr(uint64_t addr)
{
	return (void *)(uintptr_t)addr;
}

static inline uint64_t work_addr_of(const struct writer *t, uint32_t page, uint32_t word)
{
	return t->base + page * PAGE + word * 8;
}

/* Failing host calls, and blocks that are away, may make any touch of a page that is not there fail
 * for want of memory. Asked before the touch: it may take us into the second phase. */
static inline bool work_may_starve(void)
{
	return !world.calm;
}

/* And while the disk fails, any page may be out and not to be read. */
static inline bool work_excused(int r, bool starved)
{
	return starved && (r == -ENOMEM || (r == -EIO && world.faults.disk_read));
}

/* Refusals that any change of mappings may give while others pin, and host calls fail. There are
 * none in the second phase. */
static inline bool work_refused(int r)
{
	return r == -EBUSY || r == -ENOMEM;
}

/* ---- work_ops.c ---- */
void work_must(bool ok, enum sim_end end, const char *what, int r);
void work_load(struct writer *t, uint32_t p, uint32_t i);
void work_store(struct writer *t, uint32_t p, uint32_t i);
void work_add_shared(void);
int work_dma_get(uint64_t addr, bool write, struct sim_dma *d);
bool work_pinnable(struct writer *t, uint32_t first, uint32_t n, bool write);
void work_dropped(struct writer *t, uint32_t first, uint32_t n);
void work_writer(void *arg);
void work_queue(void *arg);

/* ---- work_swap.c: for workloads that may have a disk ---- */
void work_disk_draw(void);
void work_disk_on(uint64_t pages); /* before any block is there */
void work_swapper(void *arg);      /* a thread */
void work_lock_pages(struct writer *t);
void work_cool_pages(struct writer *t);
void work_swap_calm(void);

/* ---- workload.c ---- */
void work_every_block_leaves(void);
bool work_quarantine_ends(void);

#endif /* SIM_WORK_H */

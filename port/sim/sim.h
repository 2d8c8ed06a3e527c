/* SPDX-License-Identifier: MIT */
/*
 * The simulated platform: threads that take turns as a seed decides, memory with translation caches
 * that stay stale until they are flushed, and a clock that moves only when somebody takes a step.
 *
 * Everything here happens on one thread of the host, so a run is a function of its configuration:
 * the same seed gives the same steps.
 */
#ifndef VAC_SIM_H
#define VAC_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_THREADS_MAX 24
#define SIM_DECISIONS_MAX (1u << 20)

/* How a schedule ended. The numbers are the exit statuses of `vacate sim`. */
enum sim_end {
	SIM_OK = 0,
	SIM_CRASH = 10,    /* a broken invariant, a wild access, a lock order */
	SIM_LIVENESS = 11, /* somebody sleeps for ever, or nothing gets done */
	SIM_CONTENT = 12,  /* a byte is not what the model says */
	SIM_LEAK = 13,     /* counters or memory are not what they were */
};

enum sim_policy { SIM_RANDOM_WALK, SIM_PRIORITY };

struct sim_decision {
	uint32_t step;  /* at this scheduling point of the run ... */
	uint8_t thread; /* ... this thread goes on */
};

struct sim_config {
	uint64_t seed;
	enum sim_policy policy;
	uint32_t switch_one_in; /* random walk: mean steps between switches */
	uint32_t depth;         /* priority: number of change points (PCT's d) */
	uint64_t max_steps;     /* beyond: SIM_LIVENESS */
	/* Replay: instead of drawing, follow these; NULL: draw. */
	const struct sim_decision *replay;
	uint32_t nr_replay;
};

struct sim_result {
	enum sim_end end;
	char what[256];
	uint64_t steps;
	uint64_t trace_hash; /* of every (step, thread, kind) */
	uint32_t nr_decisions;
	bool decisions_cut; /* more than SIM_DECISIONS_MAX */
};

/* Run fn(arg) as thread 0 of a new world until it and all it started have ended, or something is
 * found. Decisions taken are in sim_decisions() afterwards. */
void sim_run(const struct sim_config *cfg, void (*fn)(void *), void *arg, struct sim_result *res);
const struct sim_decision *sim_decisions(void);

/* ---- From inside a world --------------------------------------------------------------------- */

int sim_spawn(const char *name, void (*fn)(void *), void *arg); /* thread number */
void sim_join(int thread);
int sim_self(void);
void sim_yield(void);           /* a scheduling point */
void sim_sleep(uint64_t ns);    /* of simulated time */
uint64_t sim_random(void);      /* from the seed, apart from scheduling */
uint64_t sim_below(uint64_t n); /* 0..n-1 */
bool sim_one_in(uint32_t n);    /* true once in n; never for 0 */
uint64_t sim_steps(void);
_Noreturn void sim_fail(enum sim_end end, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void sim_note(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* into the trace */

/* The trace of the run: printed as it happens when not NULL. */
void sim_trace_to(void *file);

/* ---- The machine ------------------------------------------------------------------------------ */

struct sim_faults {
	uint32_t populate, map, protect, leave, unmap, seal,
		open;   /* one call in n fails; 0: none */
	uint32_t held;  /* one look in n takes a page of nobody's for held */
	uint32_t slow;  /* nanoseconds that a look may take to answer */
	uint32_t blind; /* one look in n, the host does not tell who holds a page; 1: never */
	uint32_t disk_read, disk_write; /* one page in n cannot be read, or is written in part */
	uint32_t disk_slow;             /* nanoseconds that a transfer of a page may take */
	uint64_t vma_limit;
	bool waits; /* the host behaves as under userfaultfd: see mem.c. Set before the first space */
};
void sim_faults(const struct sim_faults *f);
const struct sim_faults *sim_faults_now(void);

/* What a thread does with memory of a space: one instruction each, through its translations. A
 * refused access goes to the engine first. 0, or -EFAULT, -ENOMEM: what would be a signal. */
int sim_load(uint64_t addr, uint64_t *value);
int sim_store(uint64_t addr, uint64_t value);
int sim_fetch_add(uint64_t addr, uint64_t n);

/* What a device does: look the frame up once, as get_user_pages() would, then read and write that
 * frame whatever becomes of the mapping. The device holds the frame until it drops it. */
struct sim_dma {
	uint8_t *at;
	int block;
	uint32_t page; /* of the block; for sim_gup_put() */
};
int sim_dma_get(uint64_t addr, bool write, struct sim_dma *d);
void sim_dma_put(struct sim_dma *d);
/* The same without a pin, as a program does that does not know better: by the page table as it is at this
 * moment, not by a translation, and the engine is not asked: -EFAULT where it does not allow it. */
int sim_gup(uint64_t addr, bool write, struct sim_dma *d);
void sim_gup_put(struct sim_dma *d);
void sim_dma_abandon(struct sim_dma *d);
void sim_dma_write(struct sim_dma *d, size_t off, uint64_t value);
uint64_t sim_dma_read(struct sim_dma *d, size_t off);

/* At rest: nothing of the engine's is left allocated, nothing of the host's is mapped. */
size_t sim_meta_live(void);

#endif /* VAC_SIM_H */

/* SPDX-License-Identifier: MIT */
/*
 * Workloads over a pool: threads that use its memory and check every byte they read, while the
 * controller (the main thread of `vacate demo` and `vacate stress`) takes its blocks away.
 *
 * A *class* is a kind of workload (verify, records, ...); a *group* is one class in a run with its
 * threads and memory; a *worker* is one thread. Life of a run:
 *
 *	wl_run_init        pool and space are open, blocks online
 *	wl_run_add         for each class: maps and fills its memory
 *	wl_run_start       threads begin
 *	wl_run_pause, wl_run_sweep, wl_run_resume    as often as wanted
 *	wl_run_stop        threads have ended; wl_run_sweep once more
 *	wl_run_free        unmaps everything
 *
 * Invariants:
 * - A worker is parked (and counted in run->parked) only between two operations, holding no lock;
 *   what it still pins is for its class to say. While all are parked, nobody but the controller
 *   touches pool memory or calls the engine.
 * - Only the owner thread writes a worker's counters and histograms; histograms are read when it
 *   is parked or has ended.
 * - Whatever a worker reads it can verify: no class reads memory whose contents it cannot predict.
 */
#ifndef CLI_WORKLOAD_H
#define CLI_WORKLOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "hist.h"
#include "vacate.h"

#define WL_MAX_GROUPS 16
#define WL_MAX_WORKERS 1024
#define WL_NO_BLOCK (-1)

struct wl_run;
struct wl_group;
struct wl_worker;

/* Whose wait a class's operations measure. */
enum wl_latency { WL_NEITHER = 0, WL_READER, WL_WRITER };

struct wl_class {
	const char *name;
	const char *what; /* one line for --help */
	enum wl_latency latency;
	unsigned threads_min; /* it makes no sense with fewer; 0: none */
	bool normal;          /* it wants a block of normal memory beside the movable ones */
	const char *owner;    /* how the names of its pins begin; NULL: it is not counted by them */
	bool idle; /* it never holds a block: an offline that waits for its owner is wrong */
	/* Map and fill the group's memory, of about g->bytes where the class can use any amount.
	 * 0 or a negative errno value, with a message printed. */
	int (*prepare)(struct wl_group *g);
	/* The thread: until wl_go() says no. */
	void (*work)(struct wl_worker *w);
	/* All workers are parked: check everything. Reports by wl_fault(). May be NULL. */
	void (*sweep)(struct wl_group *g);
	/* After the threads have ended. */
	void (*release)(struct wl_group *g);
	/* Something worth a line in the summary; may be NULL or leave buf empty. */
	void (*note)(struct wl_group *g, char *buf, size_t len);
	/* How many of the things that it is about (contexts, pins, buffers) lie in a block now: asked before
	 * each offline, with the threads at work; and what came of that, in a line or more. Both or none. */
	unsigned (*in_block)(struct wl_group *g, int block);
	void (*tell)(struct wl_group *g, char *buf, size_t len);
};

extern const struct wl_class wl_verify, wl_records, wl_atomics, wl_dio, wl_read, wl_holder, wl_map,
	wl_storm, wl_snapshots, wl_backup, wl_aio, wl_idle, wl_multipathd, wl_longterm;

/* What a class with in_block() has come to. */
struct wl_stat {
	_Atomic uint64_t events, transfers, bytes; /* by its threads */
	/* The controller's: blocks that left with something of the group in them, how many pieces those were
	 * altogether, and the longest that an offline has waited for one of its pins. */
	uint64_t blocks, pieces, waited_ns;
	unsigned before; /* pieces in the block that is leaving */
};

struct wl_group {
	struct wl_run *run;
	const struct wl_class *cls;
	unsigned threads;
	struct wl_worker **workers; /* [threads] */
	uint64_t bytes;             /* memory of the group: asked for, then real */
	void *data;                 /* the class's own; NULL: nothing prepared */
	unsigned char *mem;         /* its memory if that lasts, for `holder` to hold pages of */
	uint64_t mem_bytes;
	_Atomic uint64_t swept; /* things checked by sweeps */
	struct wl_stat stat;
};

enum wl_phase { WL_BEFORE = 0, WL_DURING, WL_PHASES }; /* of the first offline */

struct wl_worker {
	_Alignas(64) struct wl_run *run;
	struct wl_group *group;
	unsigned id, index; /* in the run, in the group */
	pthread_t thread;
	char name[16];
	atomic_int tid;
	uint64_t rng;
	uint64_t interval_ns; /* expected between two operations; see wl_op_end() */
	uint64_t warm;        /* operations until it is known */
	struct hist *hist;    /* [WL_PHASES]; NULL if the class measures nobody */
	void *data;

	_Alignas(64) _Atomic uint64_t ops, checked;
	_Atomic uint64_t worst_ns; /* since the controller last took it */
	_Atomic(const char *) doing;
	_Atomic uintptr_t where;
	atomic_bool parked;
};

enum wl_state { WL_GO = 0, WL_PAUSE, WL_STOP };

/* A file that lies in pool memory: what `backup` makes its files from. */
struct wl_source {
	const char *name;
	const void *at;
	uint64_t bytes;
};

struct wl_run {
	struct vac_pool *pool;
	struct vac_space *space;
	uint64_t seed;
	uint64_t churn_bytes;           /* most that one thread of `map` has mapped */
	uint64_t hold_ns;               /* how long the holder keeps its pin */
	bool hold_random;               /* mostly much shorter than that */
	const char *scratch_dir;        /* for files, see scratch.h; NULL: find one */
	const struct wl_source *source; /* [sources], while `backup` is prepared */
	unsigned sources;
	bool paced; /* those who would rewrite at full speed for ever leave some of it to the rest */

	struct wl_group groups[WL_MAX_GROUPS];
	unsigned n_groups;
	struct wl_worker *workers[WL_MAX_WORKERS];
	_Atomic unsigned n_workers; /* grows after the entry is filled: the ticker reads it */
	unsigned n_started;

	_Atomic int state; /* enum wl_state; written under lock */
	_Atomic int phase; /* enum wl_phase */
	pthread_mutex_t lock;
	pthread_cond_t wake;     /* state has changed */
	pthread_cond_t quiet;    /* a worker has parked or ended */
	unsigned parked, ended;  /* guarded by lock */
	_Atomic uint64_t faults; /* things found wrong: bytes, sums, addresses, invariants */

	/* For the holder: the block that it should take its pages from, and from which it has. */
	_Atomic int hold_block, held_block;

	/* The ticker's. */
	pthread_t ticker, canceller;
	bool ticker_runs, canceller_runs;
	atomic_bool ticker_stop;
	atomic_bool interrupted; /* SIGINT or SIGTERM has come */
	_Atomic int leaving;     /* block in vac_block_offline(), or WL_NO_BLOCK: to be cancelled */
	_Atomic uint64_t steps;  /* of the controller, for the watchdog */
	_Atomic(const char *) stage; /* what the controller does */
	_Atomic uint64_t host_vmas_max;
	unsigned hang_s;                  /* the watchdog's patience; 0: none */
	void (*tick)(struct wl_run *run); /* ten times a second, in the ticker's thread; or NULL */
	void *tick_ctx;
};

/* ---- the run, for the controller (workload.c) ---- */

/* Also blocks SIGINT and SIGTERM in the calling thread and starts the ticker, which takes them.
 * Sets what is not set before the call to its default. 0 or a negative errno value. */
int wl_run_init(struct wl_run *run);
/* 0 or a negative errno value, with a message printed. */
int wl_run_add(struct wl_run *run, const struct wl_class *cls, unsigned threads, uint64_t bytes);
int wl_run_start(struct wl_run *run);
void wl_run_pause(struct wl_run *run);
void wl_run_sweep(struct wl_run *run);
void wl_run_resume(struct wl_run *run);
void wl_run_stop(struct wl_run *run);
/* Stops the ticker too. The pool stays the caller's. */
void wl_run_free(struct wl_run *run);

/* The controller begins something: shown by the watchdog, and a sign of life. */
void wl_stage(struct wl_run *run, const char *stage);
/* Sleep, but not after an interrupt. */
void wl_run_wait(struct wl_run *run, uint64_t ns);
/* Note the number of host mappings in host_vmas_max. */
void wl_sample(struct wl_run *run);
/* Worst wait since the last call over all workers of a kind; sets it back. */
uint64_t wl_worst_ns(struct wl_run *run, enum wl_latency kind);
/* All histograms of a kind in one; workers parked or ended. */
void wl_latency(struct wl_run *run, enum wl_latency kind, enum wl_phase phase, struct hist *out);
uint64_t wl_checked(struct wl_run *run);
uint64_t wl_group_ops(const struct wl_group *g);
uint64_t wl_group_checked(const struct wl_group *g);
/* A table with a line a group, on stdout; as out_table_print() answers. */
int wl_run_print(struct wl_run *run);
/* Around an offline: see wl_stat. */
void wl_before_offline(struct wl_run *run, int block);
void wl_after_offline(struct wl_run *run, const struct vac_offline_result *res, int err);
/* On stdout, what each class with tell() has to say; indented after its first line. */
void wl_run_tell(struct wl_run *run);
/* The class by name, NULL; and the k-th, NULL after the last. */
const struct wl_class *wl_find(const char *name);
const struct wl_class *wl_nth(unsigned k);

/* ---- for the classes ---- */

/* Something is wrong that must never be: counted, printed (the first few dozen). */
void wl_fault(struct wl_run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool wl_park(struct wl_worker *w);
/* Between two operations: shall the worker go on? Parks here while the run is paused. */
static inline bool wl_go(struct wl_worker *w)
{
	return atomic_load_explicit(&w->run->state, memory_order_relaxed) == WL_GO || wl_park(w);
}

/* After each operation of a thread that has no other reason to rest: see wl_run.paced. */
void wl_pace(struct wl_worker *w);

/* Sleep; parks meanwhile where asked. false: stop. */
bool wl_sleep(struct wl_worker *w, uint64_t ns);

static inline uint64_t wl_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* One operation that began at t0 is done, having verified n things. */
void wl_op_end(struct wl_worker *w, uint64_t t0, uint64_t n);

static inline void wl_doing(struct wl_worker *w, const char *what, const void *where)
{
	atomic_store_explicit(&w->doing, what, memory_order_relaxed);
	atomic_store_explicit(&w->where, (uintptr_t)where, memory_order_relaxed);
}

/* splitmix64: one multiplication chain a number, any seed is good. */
static inline uint64_t wl_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static inline uint64_t wl_random(struct wl_worker *w)
{
	w->rng += 0x9e3779b97f4a7c15u;
	return wl_mix(w->rng);
}

/* Below n, n > 0. The bias of at most n / 2^64 does not matter here. */
static inline uint64_t wl_below(struct wl_worker *w, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)wl_random(w) * n) >> 64);
}

/* Map bytes of the space and fill all of them in, so that no later touch needs memory (one that
 * finds none could only end the thread). 0, or a negative errno value: nothing is mapped. */
int wl_map_now(struct wl_run *run, uint64_t bytes, unsigned flags, void **mem);
/* The same, with *bytes rounded up to pages. NULL: a message was printed, *err is set. */
void *wl_map_filled(struct wl_run *run, uint64_t *bytes, unsigned flags, const char *for_what,
		    int *err);

/* Whether a page is in a block now. Of what was unmapped meanwhile the answer is no, or that of what is there
 * now; NULL is nowhere. */
bool wl_lies_in(struct vac_space *space, const void *addr, int block);

/* Of a plural. */
static inline const char *wl_s(uint64_t n)
{
	return n == 1 ? "" : "s";
}

/* What the engine says about an address, for messages about a fault. */
const char *wl_page_text(struct wl_run *run, const void *addr, char *buf, size_t len);

/* ---- memory with checksums, shared by verify and by the loaded files (work_verify.c) ---- */

struct wl_pages {
	unsigned char *base; /* read-only once filled */
	uint64_t pages;
	uint64_t *sum; /* [pages] */
};

/* Instead of preparing synthetic contents: let `verify` use these pages (a demo's files). */
void wl_verify_use(struct wl_group *g, const struct wl_pages *pages);
uint64_t wl_page_sum(const void *page);

/* Best of runs: bytes a second of processor time of memcpy() between two resident runs of pool memory. fresh (may be NULL), of a
 * pool whose memory was never touched: the same if the kernel has to find and clear the target first, as it
 * has when a block that was given back takes in what leaves another one. */
int wl_memcpy_rate(struct wl_run *run, uint64_t bytes, unsigned runs, double *bytes_per_s,
		   double *fresh);

#endif

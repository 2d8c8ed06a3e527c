/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the engine share: small pools that must leave nothing behind, memory whose every
 * byte can be checked, teams of threads.
 *
 * cmocka's assert_*() is for the main thread of a test; MUST() (util_port.h) ends the process, and is
 * what threads and cases use.
 */
#ifndef VAC_TESTS_UTIL_H
#define VAC_TESTS_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/vacate.h"
#include "tests/util_port.h"

#define UNUSED __attribute__((unused))
#define MIB(n) ((size_t)(n) << 20)
#define RW (VAC_PROT_READ | VAC_PROT_WRITE)

#if defined(__SANITIZE_THREAD__) || defined(VAC_TSAN)
#define TSAN 1
#else
#define TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(VAC_ASAN)
#define ASAN 1
#else
#define ASAN 0
#endif

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define assert_ok(x) assert_int_equal((x), 0)

/* A random test replays with the same VAC_TEST_SEED; each draws from a stream of its own. */
uint64_t t_seed(uint64_t stream);

uint64_t t_ms(void); /* of a clock that never steps */

/* The one argument that a test program takes: which of its tests to run ("test_cut*"). */
void t_filter(int argc, char **argv);

/* ---- Pools ----------------------------------------------------------------------------------- */

/* The defaults of the tests: blocks of 4 MiB, gates of 300 ms. */
struct vac_pool_opts t_opts(uint64_t block_bytes);
/* Open, with so many blocks online and movable. t_close() checks the pool's invariants, that nothing
 * is in use once its spaces are gone, and after the last pool of the process that no host mapping
 * and no file descriptor is left. */
struct vac_pool *t_open(const struct vac_pool_opts *o, unsigned blocks);
struct vac_pool *t_pool(uint64_t block_bytes, unsigned blocks);
void t_close(struct vac_pool *pool);
void t_check(struct vac_pool *pool);

struct vac_space *t_space(struct vac_pool *pool, size_t bytes);
char *t_map(struct vac_space *space, size_t len, unsigned flags);
/* bytes of base pages of which no two that are neighbours lie in neighbouring frames. Takes twice as
 * much of a pool that has all of its memory free, and all that it has. */
char *t_scattered(struct vac_space *space, size_t bytes);
struct vac_pool_stats t_stats(struct vac_pool *pool);
struct vac_block_info t_block(struct vac_pool *pool, int id);
struct vac_page_info t_page(struct vac_space *space, const void *addr);
uint64_t t_pin(struct vac_space *space, const void *addr, size_t len, unsigned flags,
	       const char *owner);

int t_offline(struct vac_pool *pool, int id, int64_t timeout_ms, struct vac_offline_result *res);
int t_online(struct vac_pool *pool, int id);
/* Each of blocks [0, n) leaves and comes back, without anything left to report; see MUST(). */
void t_round_of_offlines(struct vac_pool *pool, int blocks);
/* What a report says last: its last blocker, and of its owners the first with an error, else the first. */
struct t_found {
	struct vac_report *report;
	unsigned n; /* blockers */
	struct vac_blocker b;
	struct vac_owner who;
};
struct t_found t_find(struct vac_report *r); /* frees the report */
struct vac_offline_opts t_offline_opts(int64_t timeout_ms, uint32_t flags);

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Words that depend on seed and place. bad: offset of the first that differs, or -1. */
void pat_fill(void *p, size_t bytes, uint64_t seed);
long pat_bad(const void *p, size_t bytes, uint64_t seed);
long zero_bad(const void *p, size_t bytes);

/* A file without a name, on a disk; the caller closes it. */
int t_swap_file(size_t bytes);
/* A new file of so many pages, on a disk (VAC_TEST_DIR, or /var/tmp), that anybody may write; `in`: page i
 * is pat_fill()ed with seed i. path takes its name; the caller unlinks it. */
void t_file(char *path, size_t max, unsigned pages, bool in);

/* Does the memory let this thread read, or write (what is there already)? A refusal is a SIGSEGV that
 * the engine disowns: it goes to the handler that catch_faults() has installed before the first pool
 * was opened, which counts it and goes on. */
void catch_faults(void);
bool can_read(const void *p);
bool can_write(void *p);

unsigned maps_total(void); /* host mappings of the process, as /proc/self/maps has them */
unsigned fds_total(void);

/* ---- Threads --------------------------------------------------------------------------------- */

struct team;
struct member {
	struct team *team;
	unsigned nr;
	uint64_t rnd; /* a stream of its own */
	void *arg;
};
#define TEAM_MAX 128
struct team {
	_Atomic bool stop;       /* fn returns soon after it becomes true */
	_Atomic uint64_t rounds; /* counted by fn, so that others can see it is alive */
	unsigned n;
	void (*fn)(struct member *m);
	struct member member[TEAM_MAX];
	pthread_t thread[TEAM_MAX];
};
void team_start(struct team *t, unsigned n, void (*fn)(struct member *m), void *arg);
void team_join(struct team *t);
void team_stop(struct team *t);               /* stop, and join */
void team_rounds(struct team *t, uint64_t n); /* wait until so many more rounds are done */

/* Two or more threads that go on together, again and again, as close to one another as they can. */
struct meeting {
	_Atomic uint32_t arrived, turn;
};
void meet(struct meeting *m, unsigned n);

/* A case that is measured from outside: it stops after each step and says which that was; the parent,
 * which has it from case_start(), waits for the next (0: it has ended), looks, and lets it go on. */
void step_done(char which);
char step_next(int pid, int fd);
void step_go(int pid);

/* ---- cgroups --------------------------------------------------------------------------------- */

/* A memory cgroup of our own, version 1 or 2; limit 0: none. False: cannot be had here, and *why
 * says so. Usage is in bytes, -1: not known. */
struct memcg {
	char dir[256];
	bool v2;
};
bool memcg_make(struct memcg *g, uint64_t limit, const char **why);
bool memcg_join(const struct memcg *g, int pid);
int64_t memcg_usage(const struct memcg *g);
void memcg_remove(struct memcg *g);
/* Run a case that says step_done('0') when it is to be put into a cgroup of its own, where it must end well.
 * Skips where there is none to be had. */
void t_case_in_cgroup(const char *name, uint64_t limit);

#endif /* VAC_TESTS_UTIL_H */

/* SPDX-License-Identifier: MIT */
/*
 * vacate bench: every figure beside its peer, measured in the same run.
 *
 * A *bench* is a name that the user can ask for. It makes one or more *results*: a figure of ours
 * and one of its peer, the nearest thing that the host itself offers. A run measures both, one
 * right after the other and in alternating order, so that what disturbs the machine disturbs both;
 * a result's value is the median of its runs, and the raw samples stay with it. One run before the
 * first is thrown away. Where figures other than the median are given, their names say so.
 *
 * Benches run one after the other in the calling thread. Everything random comes from BENCH_SEED.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "vacate.h"

#define BENCH_SEED UINT64_C(0x5eed0fbac47e)
#define BENCH_RUNS_MAX 100
#define BENCH_RESULTS_MAX 64
#define BENCH_EXTRAS_MAX 12
#define BENCH_TEXT_MAX 200

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

/* Which way a figure is better. A ratio above 1 always means that vacate is. */
enum bench_better { BENCH_MORE, BENCH_LESS };

struct bench_result {
	const char *name, *unit;
	const char *peer; /* what the peer is */
	enum bench_better better;
	unsigned n;
	double sample[BENCH_RUNS_MAX], peer_sample[BENCH_RUNS_MAX];
	/* Further figures of the same measurement: averages over the runs, or as the key says. */
	unsigned extras;
	struct {
		const char *key;
		double value;
	} extra[BENCH_EXTRAS_MAX];
	char note[BENCH_TEXT_MAX]; /* what the reader must know about this one; "" if nothing */
};

struct bench_env {
	unsigned runs;
	enum vac_guard guard;
	bool tiny;         /* sizes that show that it works, and take a second or two */
	const char *bench; /* the one that runs */
	unsigned results;
	struct bench_result result[BENCH_RESULTS_MAX];
	unsigned skips;
	struct {
		const char *name;
		char why[BENCH_TEXT_MAX];
	} skip[BENCH_RESULTS_MAX];
};

/* name, unit and peer must outlive the environment. */
struct bench_result *bench_result(struct bench_env *env, const char *name, const char *unit,
				  enum bench_better better, const char *peer);
/* The figures of one run. */
void bench_add(struct bench_result *res, double value, double peer);
void bench_extra(struct bench_result *res, const char *key, double value);
void bench_note(struct bench_result *res, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* The machine does not allow this figure. */
void bench_skip(struct bench_env *env, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Print that what failed, with a negative errno value, and answer -1. */
int bench_fail(const struct bench_env *env, const char *what, int err);

/* Runs count from -1, the one that is thrown away. Shows progress; name is a result's. */
void bench_run_begins(const struct bench_env *env, const char *name, int run);
/* Does this run measure the value before the peer? */
static inline bool bench_value_first(int run)
{
	return run & 1;
}

double bench_median(const double *v, unsigned n);
double bench_ratio(enum bench_better better, double value, double peer);

static inline uint64_t bench_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* splitmix64. The state begins as any number. */
static inline uint64_t bench_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline double gb_per_s(uint64_t bytes, uint64_t ns)
{
	return ns ? (double)bytes / (double)ns : 0;
}

/* The benches. 0, or -1 with a message printed. */
int bench_offline_huge(struct bench_env *env);
int bench_offline_base_run(struct bench_env *env);
int bench_offline_base_single(struct bench_env *env);
int bench_writer_wait(struct bench_env *env);
int bench_reader_wait(struct bench_env *env);
int bench_pin(struct bench_env *env);
int bench_first_touch(struct bench_env *env);
int bench_fault_in(struct bench_env *env);
int bench_storm(struct bench_env *env);
int bench_gate(struct bench_env *env);
int bench_cost(struct bench_env *env);
int bench_scale(struct bench_env *env);
int bench_sim_rate(struct bench_env *env);
int bench_throughput(struct bench_env *env);
int bench_bystander(struct bench_env *env);
int bench_compact(struct bench_env *env);
int bench_collapse(struct bench_env *env);
int bench_swap_random(struct bench_env *env);
int bench_aio_seq(struct bench_env *env);
int bench_aio_rand(struct bench_env *env);
int bench_snapshot(struct bench_env *env);
int bench_snapshot_tenth(struct bench_env *env);
int bench_cow_write(struct bench_env *env);
int bench_cow_seq(struct bench_env *env);
int bench_cow_budget(struct bench_env *env);

#endif

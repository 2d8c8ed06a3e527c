/* SPDX-License-Identifier: MIT */
/*
 * Histogram of latencies in nanoseconds: fixed memory, error below 1 %, recording in a few
 * nanoseconds. The layout is HdrHistogram's log-linear one: within each power of two, 128 equal
 * buckets.
 *
 * One thread records; nobody else looks until that thread has ended or is parked. Merge to
 * combine threads.
 */
#ifndef CLI_HIST_H
#define CLI_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 7
#define HIST_MAX_BITS 42 /* values up to 2^42 ns, 73 minutes; larger ones count as that */
#define HIST_BUCKETS ((HIST_MAX_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	uint64_t count;
	uint64_t max;
	uint64_t bucket[HIST_BUCKETS];
};

void hist_record(struct hist *h, uint64_t ns);

/*
 * Record ns, and with it what a client that asks every interval_ns would have seen meanwhile: ns -
 * interval, ns - 2 * interval, and so on. Without this, a thread that stands still for a second
 * counts as one slow operation among millions of fast ones (coordinated omission), and every
 * percentile flatters. interval_ns 0: plain recording.
 */
void hist_record_corrected(struct hist *h, uint64_t ns, uint64_t interval_ns);

void hist_merge(struct hist *into, const struct hist *from);

/* The value that pct percent of the records do not exceed (to the precision of the buckets, and
 * never above the maximum recorded). 0 if nothing was recorded. */
uint64_t hist_percentile(const struct hist *h, double pct);

#endif

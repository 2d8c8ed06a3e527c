/* SPDX-License-Identifier: MIT */
/* Histogram of latencies. See hist.h. */
#include "hist.h"

#define SUB_COUNT (1ull << HIST_SUB_BITS)
#define VALUE_MAX ((1ull << HIST_MAX_BITS) - 1)

/*
 * Values below SUB_COUNT have a bucket each. Above, the top HIST_SUB_BITS + 1 bits of a value
 * choose the bucket: shift is how many low bits are dropped, (v >> shift) lies in
 * [SUB_COUNT, 2 * SUB_COUNT), and each shift owns the SUB_COUNT buckets after those of the one
 * before.
 */
static unsigned index_of(uint64_t v)
{
	unsigned msb, shift;

	if (v < SUB_COUNT)
		return (unsigned)v;
	msb = 63u - (unsigned)__builtin_clzll(v);
	shift = msb - HIST_SUB_BITS;
	return (shift << HIST_SUB_BITS) + (unsigned)(v >> shift);
}

static uint64_t lowest_of(unsigned index)
{
	unsigned shift;

	if (index < 2 * SUB_COUNT)
		return index;
	shift = (index >> HIST_SUB_BITS) - 1;
	return (uint64_t)(index - (shift << HIST_SUB_BITS)) << shift;
}

static uint64_t highest_of(unsigned index)
{
	return lowest_of(index + 1) - 1;
}

static void add(struct hist *h, uint64_t v, uint64_t n)
{
	h->bucket[index_of(v)] += n;
	h->count += n;
}

void hist_record(struct hist *h, uint64_t ns)
{
	if (ns > VALUE_MAX)
		ns = VALUE_MAX;
	if (ns > h->max)
		h->max = ns;
	add(h, ns, 1);
}

void hist_record_corrected(struct hist *h, uint64_t ns, uint64_t interval_ns)
{
	uint64_t v;

	hist_record(h, ns);
	if (ns > VALUE_MAX)
		ns = VALUE_MAX;
	if (!interval_ns || ns < 2 * interval_ns)
		return;
	/* The missing values form an arithmetic series; all that fall into one bucket are added at
	 * once, so that a stall of seconds costs some thousand steps and not millions. */
	v = ns - interval_ns;
	for (;;) {
		uint64_t low = lowest_of(index_of(v));
		uint64_t n;

		if (low < interval_ns)
			low = interval_ns;
		n = (v - low) / interval_ns + 1;
		add(h, v, n);
		if (v < n * interval_ns)
			return;
		v -= n * interval_ns;
		if (v < interval_ns)
			return;
	}
}

void hist_merge(struct hist *into, const struct hist *from)
{
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->count += from->count;
	if (from->max > into->max)
		into->max = from->max;
}

uint64_t hist_percentile(const struct hist *h, double pct)
{
	uint64_t want, seen = 0;

	if (!h->count)
		return 0;
	want = (uint64_t)(pct / 100.0 * (double)h->count) + 1;
	if (want >= h->count)
		return h->max;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= want)
			return highest_of(i) < h->max ? highest_of(i) : h->max;
	}
	return h->max;
}

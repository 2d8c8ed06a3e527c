/* SPDX-License-Identifier: MIT */
/*
 * Sums of the sectors of a page, and a copy that takes them: they tell what was written to a page after
 * it was copied. Sums are of the bytes that were stored, each word of the source being read once, so a
 * write in the middle of the copy is either in both or shows up later.
 */
#include <string.h>

#include "port/port.h"

#define SECTORS 8u
#define SECTOR_WORDS 64u

/* Four lanes, so that a multiplication need not wait for the one before. Each step is one to one in the
 * word that it takes in, so two sectors that differ in one word of a lane never agree in that lane. */
struct lanes {
	uint64_t l[4];
};
static const struct lanes lanes_init = {{1, 2, 3, 4}};

static inline uint64_t mix(uint64_t lane, uint64_t word)
{
	lane = (lane ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	return lane ^ lane >> 29; /* products lose what is high: bring it down */
}

static inline void take(struct lanes *s, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	s->l[0] = mix(s->l[0], a);
	s->l[1] = mix(s->l[1], b);
	s->l[2] = mix(s->l[2], c);
	s->l[3] = mix(s->l[3], d);
}

static inline uint64_t finish(const struct lanes *s)
{
	return mix(mix(mix(s->l[0], s->l[1]), s->l[2]), s->l[3]);
}

void vac__port_sums(const void *page, uint64_t sum[8])
{
	const uint64_t *w = page;

	for (unsigned i = 0; i < SECTORS; i++) {
		struct lanes s = lanes_init;

		for (unsigned j = 0; j < SECTOR_WORDS; j += 4, w += 4)
			take(&s, w[0], w[1], w[2], w[3]);
		sum[i] = finish(&s);
	}
}

/* The sanitizers see memcpy(), and would not see these stores. */
#if defined(__x86_64__) && !defined(VAC_ASAN) && !defined(VAC_TSAN)
#include <emmintrin.h>

#define AHEAD 256u /* bytes of prefetch; crossing the end of the source is harmless */

/* Each word is read once: what is stored is what is summed, whoever writes the source meanwhile. */
void vac__port_copy_sums(void *dst, const void *src, uint64_t sum[8])
{
	const volatile long long *from = src;
	long long *to = dst;

	for (unsigned i = 0; i < SECTORS; i++) {
		struct lanes s = lanes_init;

		for (unsigned j = 0; j < SECTOR_WORDS; j += 4, from += 4, to += 4) {
			long long a = from[0], b = from[1], c = from[2], d = from[3];

			if (j % 8 == 0)
				_mm_prefetch((const char *)src + i * 512 + j * 8 + AHEAD,
					     _MM_HINT_T0);
			_mm_stream_si64(to, a);
			_mm_stream_si64(to + 1, b);
			_mm_stream_si64(to + 2, c);
			_mm_stream_si64(to + 3, d);
			take(&s, (uint64_t)a, (uint64_t)b, (uint64_t)c, (uint64_t)d);
		}
		sum[i] = finish(&s);
	}
	_mm_sfence();
}

#else

void vac__port_copy_sums(void *dst, const void *src, uint64_t sum[8])
{
	memcpy(dst, src, 4096);
	vac__port_sums(dst, sum); /* of what was copied, not of what the source has become */
}

#endif

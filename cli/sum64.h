/* SPDX-License-Identifier: MIT */
/*
 * A checksum of whole 8-byte words, about as fast as memory can be read.
 *
 * It has to notice bytes that are lost, stale, moved or torn, not an adversary: four lanes, each
 * multiplying by an odd constant after every word, so that a word's place counts, then mixed.
 * A change of one word always changes the sum: each step is a bijection of its lane.
 */
#ifndef CLI_SUM64_H
#define CLI_SUM64_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t sum64_step(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15u;
	return h << 29 | h >> 35;
}

static inline uint64_t sum64(const uint64_t *word, size_t words)
{
	uint64_t a = 1, b = 2, c = 3, d = words;
	const uint64_t *end = word + words;

	for (; end - word >= 4; word += 4) {
		a = sum64_step(a, word[0]);
		b = sum64_step(b, word[1]);
		c = sum64_step(c, word[2]);
		d = sum64_step(d, word[3]);
	}
	while (word < end)
		a = sum64_step(a, *word++);
	return sum64_step(sum64_step(sum64_step(a, b), c), d);
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Compare-and-swap of 16 aligned bytes, in line. The compilers' own builtins go through libatomic,
 * which may fall back to a lock: the point here is one instruction that reads and writes a page
 * that may be leaving.
 */
#ifndef CLI_CAS16_H
#define CLI_CAS16_H

#include <stdbool.h>
#include <stdint.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "no 16-byte compare-and-swap known for this processor"
#endif

struct pair {
	_Alignas(16) uint64_t lo;
	uint64_t hi;
};

/* If *p equals *seen, store want and answer true; else put what is there in *seen. Full barrier. */
static inline bool cas16(struct pair *p, struct pair *seen, struct pair want)
{
#if defined(__x86_64__)
	bool done;

	__asm__ volatile("lock cmpxchg16b %1"
			 : "=@ccz"(done), "+m"(*p), "+a"(seen->lo), "+d"(seen->hi)
			 : "b"(want.lo), "c"(want.hi)
			 : "memory");
	return done;
#else
	uint64_t lo, hi;
	uint32_t failed;

	/* A load of a pair is known to be whole only if the store of the same pair succeeds; so
	 * what was seen is stored back on a mismatch. */
	do {
		uint64_t new_lo, new_hi;
		bool same;

		__asm__ volatile("ldaxp %0, %1, %2" : "=&r"(lo), "=&r"(hi) : "Q"(*p) : "memory");
		same = lo == seen->lo && hi == seen->hi;
		new_lo = same ? want.lo : lo;
		new_hi = same ? want.hi : hi;
		__asm__ volatile("stlxp %w0, %2, %3, %1"
				 : "=&r"(failed), "=Q"(*p)
				 : "r"(new_lo), "r"(new_hi)
				 : "memory");
		if (!failed && same)
			return true;
	} while (failed);
	seen->lo = lo;
	seen->hi = hi;
	return false;
#endif
}

#endif

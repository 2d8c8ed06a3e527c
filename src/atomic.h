/* SPDX-License-Identifier: MIT */
/*
 * Atomics. Every access to shared state goes through these names, for two reasons: the order is
 * written where it is used, and the simulator can make each access a scheduling point.
 *
 * Orders: _rlx for counters and for values that a later, ordered step verifies; _acq and _rel for
 * hand-over; everything else is sequentially consistent, because the protocols of pins, gates and
 * freezing each need "my store is before my load" (semantics.md E.6, G.6).
 */
#ifndef VAC_ATOMIC_H
#define VAC_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef VAC_SIM
void vac__sim_point(const volatile void *addr);
void vac__sim_sync(const char *name, uint64_t arg);
#define VAC__POINT(p) vac__sim_point(p)
/* A named moment of semantics.md section 0.3, with what it is about: a pfn or a page. */
#define VAC__SYNC(name, arg) vac__sim_sync(name, arg)
#else
#define VAC__POINT(p) ((void)0)
#define VAC__SYNC(name, arg) ((void)0)
#endif

/* Two loads in one expression: a compiler may make both turns first and then both loads, and gcc does
 * where clang does not. So that a seed means one schedule, the simulator's load is one piece. */
#ifdef VAC_SIM
#define VAC__LOAD(p, order)                                                          \
	__extension__({                                                              \
		VAC__POINT(p);                                                       \
		__auto_type load_ = atomic_load_explicit((p), memory_order_##order); \
		load_;                                                               \
	})
#else
#define VAC__LOAD(p, order) atomic_load_explicit((p), memory_order_##order)
#endif
#define vac__ld_rlx(p) VAC__LOAD(p, relaxed)
#define vac__ld_acq(p) VAC__LOAD(p, acquire)
#define vac__ld(p) VAC__LOAD(p, seq_cst)
#define vac__st_rlx(p, v) (VAC__POINT(p), atomic_store_explicit((p), (v), memory_order_relaxed))
#define vac__st_rel(p, v) (VAC__POINT(p), atomic_store_explicit((p), (v), memory_order_release))
#define vac__st(p, v) (VAC__POINT(p), atomic_store((p), (v)))
#define vac__xchg(p, v) (VAC__POINT(p), atomic_exchange((p), (v)))
#define vac__cas(p, old, v) (VAC__POINT(p), atomic_compare_exchange_strong((p), (old), (v)))
#define vac__cas_acq(p, old, v)                                  \
	(VAC__POINT(p), atomic_compare_exchange_strong_explicit( \
				(p), (old), (v), memory_order_acquire, memory_order_relaxed))
#define vac__add(p, v) (VAC__POINT(p), atomic_fetch_add((p), (v)))
#define vac__sub(p, v) (VAC__POINT(p), atomic_fetch_sub((p), (v)))
#define vac__or(p, v) (VAC__POINT(p), atomic_fetch_or((p), (v)))
#define vac__and(p, v) (VAC__POINT(p), atomic_fetch_and((p), (v)))
/* Statistics: exact sums, no order with anything else. */
#define vac__stat_add(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define vac__stat_max(p, v)                                                                        \
	do {                                                                                       \
		uint64_t max_new_ = (v),                                                           \
			 max_old_ = atomic_load_explicit((p), memory_order_relaxed);               \
		while (max_new_ > max_old_ && !atomic_compare_exchange_weak_explicit(              \
						      (p), &max_old_, max_new_,                    \
						      memory_order_relaxed, memory_order_relaxed)) \
			;                                                                          \
	} while (0)

#endif /* VAC_ATOMIC_H */

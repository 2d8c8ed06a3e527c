/* SPDX-License-Identifier: MIT */
/*
 * Wait words: process-shared futexes in pool memory.
 *
 * The kernel keys a process-private futex by its address, which a page keeps when it moves. A process-shared
 * one it keys by the page of the file beneath, which is another one afterwards: who sleeps there is never
 * woken. So a page that is declared to hold such words (VAC_ADV_WAITWORDS) does not move: the engine pins it
 * itself, for long, and so in normal memory where there is any; and says so in reports.
 *
 * Invariants: a declared page is covered by a record with VAC_OWNER_WAITWORDS from the answer of the call that
 * declares it to the beginning of the one that ends that. Where a part of a record ends, what is left of it is
 * pinned anew before the old one is dropped.
 */
#include "internal.h"

static int hold(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint64_t pin;
	int r = vac_pin(s, vac__page_addr(s, first), (size_t)(end - first) << VAC__PAGE_SHIFT,
			VAC_PIN_LONGTERM, "process-shared wait words", &pin);

	if (r < 0)
		return r == -EFAULT ? -ENOMEM : r;
	vac__or(&s->pool->ledger.rec[(uint32_t)pin].flags, VAC_OWNER_WAITWORDS);
	vac__add(&s->pool->nr_words, 1);
	return 0;
}

/* The next record of such words that meets [first, end) of a space; *cursor moves past it. */
static bool find(struct vac_space *s, uint32_t *cursor, uint32_t first, uint32_t end,
		 uint64_t *handle, uint32_t *from, uint32_t *to)
{
	struct vac__ledger *l = &s->pool->ledger;

	for (uint32_t top = vac__ld_acq(&l->top); *cursor < top;) {
		uint32_t i = (*cursor)++, seq = vac__ld(&l->rec[i].seq);
		struct vac__pin_view v;

		if (!vac__pin_view(s->pool, i, &v) || !(v.flags & VAC_OWNER_WAITWORDS) ||
		    v.space != s->id + 1 || (seq & 3) != VAC__SEQ_LIVE)
			continue;
		*from = (uint32_t)((v.addr - (uintptr_t)s->base) >> VAC__PAGE_SHIFT);
		*to = *from + (uint32_t)(v.len >> VAC__PAGE_SHIFT);
		*handle = (uint64_t)seq << 32 | i;
		if (*from<end && * to> first)
			return true;
	}
	return false;
}

/* [first, end) holds them from now on. Blocks as vac_pin() does. -ENOMEM: a part is not mapped to be read. */
int vac__words_declare(struct vac_space *s, uint32_t first, uint32_t end)
{
	return hold(s, first, end);
}

/* No part of [first, end) does any more. */
int vac__words_end(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint32_t cursor = 0, from, to;
	uint64_t handle;
	int r = 0;

	if (vac__ld(&s->pool->nr_words) == 0)
		return 0;
	while (r == 0 && find(s, &cursor, first, end, &handle, &from, &to)) {
		if (from < first)
			r = hold(s, from, first);
		if (r == 0 && to > end)
			r = hold(s, end, to);
		if (r == 0 && vac_unpin(s->pool, handle) == 0)
			vac__sub(&s->pool->nr_words, 1);
	}
	return r;
}

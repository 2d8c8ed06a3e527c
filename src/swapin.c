/* SPDX-License-Identifier: MIT */
/*
 * Reading from the swap file: for a fault, ahead of one, because a program will need it, and for a fork.
 *
 * How much is read around a page that is touched depends on how the program has come to it. A space
 * remembers where its latest reads began and ended (stream). A fault beside one of them goes on with it,
 * either way, and reads twice as much as the last time, to a cluster; any other one is alone and reads its
 * page only. What a fault has read is mapped with it, so a pass meets one fault a window, and that is
 * where the next one begins: no page has to be watched for whether it was of use. Where host mappings are
 * getting short it is always a cluster, as each single page may cost two.
 *
 * Windows lie within an aligned cluster of addresses. Their pages have been written together as a rule, and are
 * one transfer then; if not they are several, under way at once.
 *
 * What is advised (VAC_ADV_WILLNEED) is read by swap's thread, cluster by cluster, into the swap cache. It is
 * mapped when it is touched.
 *
 * Invariants: a folio is locked, and READING, from its entering the cache until its bytes are there. Who
 * waits for the file holds the locks of such folios only, and is busy (vac__reclaim_done).
 */
#include "internal.h"

#define CLUSTER VAC__SWAP_CLUSTER

/* ---- How much ---------------------------------------------------------------------------------- */

/* A stream: where the next page would be, and how long the last read was; 0: none. */
static uint64_t stream(uint32_t end, uint32_t n)
{
	return (uint64_t)n << 32 | end;
}

/*
 * The window of a fault at `page`: [*lo, *hi), around it. Several threads may be at the streams at once. A
 * stream that one of them loses costs reads, nothing else.
 */
static void window(struct vac_space *s, uint32_t page, uint32_t *lo, uint32_t *hi)
{
	uint32_t base = page & ~(CLUSTER - 1), n = 1;
	_Atomic uint64_t *at = NULL;
	uint64_t used, limit, v;
	bool back = false;

	for (unsigned i = 0; i < VAC__STREAMS && !at; i++) {
		uint32_t end, len;

		v = vac__ld_rlx(&s->stream[i]);
		end = (uint32_t)v;
		len = (uint32_t)(v >> 32);
		if (len == 0 || page > end || page + len + 1 < end)
			continue;
		at = &s->stream[i];
		back = page + len + 1 == end;
		/* Inside it: the same fault again, or one that had to leave some out. */
		n = page == end || back ? 2 * len : len;
	}
	if (!at)
		at = &s->stream[vac__add(&s->next_stream, 1) % VAC__STREAMS];
	n = n < CLUSTER ? n : CLUSTER;
	vac__port_vma_usage(&used, &limit);
	if (used > limit / 2) {
		*lo = base;
		*hi = base + CLUSTER;
	} else if (back) {
		*lo = page + 1 > n && page + 1 - n > base ? page + 1 - n : base;
		*hi = page + 1;
	} else {
		*lo = page;
		*hi = page + n < base + CLUSTER ? page + n : base + CLUSTER;
	}
	vac__st_rlx(at, stream(*hi, *hi - *lo));
}

/* ---- Beginning --------------------------------------------------------------------------------- */

/* Folios for the slots of n pages from index on; `in->at` must have one. They enter the cache. */
int vac__swapin_fill(struct vac_pool *pool, struct vac_space *s, struct vac__swapin *in,
		     uint32_t family, uint32_t index)
{
	int r = 0;

	for (uint32_t i = 0; i < in->n; i++) {
		r = vac__base_alloc(pool, s, index + i, &in->pfn[i]);
		if (r == 0)
			continue;
		if (i > in->at) {
			in->n = i;
			break;
		}
		while (i)
			vac__folio_put(pool, in->pfn[--i], VAC__W_REF);
		if (in->n == 1)
			return r;
		/* Not with all of them; alone, then. */
		in->slot[0] = in->slot[in->at];
		index += in->at;
		in->at = 0;
		in->n = 1;
		i = UINT32_MAX;
	}
	vac__add(&pool->swap.busy, 1);
	for (uint32_t i = 0; i < in->n; i++) {
		if (vac__swap_insert(pool, in->slot[i], in->pfn[i], family, index + i))
			continue;
		vac__folio_put(pool, in->pfn[i], VAC__W_REF);
		in->pfn[i] = VAC__NO_PFN;
	}
	return 0;
}

/* Is the page in the file only? Without a lock: vac__swap_insert() decides. */
static bool away(struct vac_space *s, uint32_t page, uint32_t *slot)
{
	uint64_t e = vac__entry_get(s, page);

	*slot = vac__e_pfn(e);
	return vac__e_swap(e) && !vac__ld(&s->pool->swap.slot[*slot].cache);
}

/* Pages [lo, hi) around `page`, as far as they are away without a gap. */
static int begin(struct vac_space *s, uint32_t page, uint32_t lo, uint32_t hi, bool alone,
		 struct vac__swapin *in)
{
	struct vac_pool *pool = s->pool;
	uint32_t first = page, end = page + 1, slot;
	uint64_t room;

	if (!away(s, page, &slot))
		return -EAGAIN;
	/* What cannot be mapped afterwards is not read: others would free it, and take that for progress. */
	if (!vac__port_vma_charge(2, false))
		return -ENOBUFS;
	vac__port_vma_charge(-2, true);
	while (end < hi && away(s, end, &slot))
		end++;
	while (first > lo && away(s, first - 1, &slot))
		first--;
	/* They are wanted together: it costs more to bring them in one by one than to make room for all. */
	room = vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv);
	if (end - first > room) {
		if (!alone)
			return -ENOMEM;
		first = page;
		if (end - first > room)
			end = first + (room ? (uint32_t)room : 1);
	}
	in->n = end - first;
	in->at = page - first;
	for (uint32_t p = first; p < end; p++)
		if (!away(s, p, &in->slot[p - first]) && p == page)
			return -EAGAIN;
	return vac__swapin_fill(pool, s, in, s->family, first);
}

/*
 * The page's slot must be read: put folios for it, and for the window around it, in the cache. The space's
 * lock is held for read. 0: vac__swapin_read() is next. -EAGAIN: look again. -ENOBUFS: the host has no
 * mapping to spare. -ENOMEM; alone: not before there is not even one frame.
 */
int vac__swapin_begin(struct vac_space *s, uint32_t page, bool alone, struct vac__swapin *in)
{
	uint32_t lo, hi;

	window(s, page, &lo, &hi);
	return begin(s, page, lo, hi, alone, in);
}

/* ---- Reading ----------------------------------------------------------------------------------- */

static void read_runs(struct vac_pool *pool, struct vac__swapin *in, int *err)
{
	struct vac__swap *sw = &pool->swap;
	struct vac__swap_run run[CLUSTER];
	unsigned n = 0, of[CLUSTER];

	for (uint32_t i = 0, k; i < in->n; i += k) {
		k = 1;
		if (in->pfn[i] == VAC__NO_PFN)
			continue;
		while (i + k < in->n && in->pfn[i + k] == in->pfn[i] + k &&
		       in->slot[i + k] == in->slot[i] + k)
			k++;
		of[n] = i;
		run[n++] = (struct vac__swap_run){.mem = vac__frame_addr(pool, in->pfn[i]),
						  .off = (uint64_t)in->slot[i] << VAC__PAGE_SHIFT,
						  .bytes = (size_t)k << VAC__PAGE_SHIFT};
	}
	if (n)
		pool->mem->swap_io(pool->mem_ctx, &sw->file, false, run, n);
	for (unsigned j = 0; j < n; j++) {
		uint32_t pages = (uint32_t)(run[j].bytes >> VAC__PAGE_SHIFT);

		for (uint32_t k = 0; k < pages; k++) {
			struct vac__swap_run one = {
				.mem = (char *)run[j].mem + ((size_t)k << VAC__PAGE_SHIFT),
				.off = run[j].off + ((uint64_t)k << VAC__PAGE_SHIFT),
				.bytes = VAC_PAGE_BYTES};

			err[of[j] + k] = run[j].err;
			/* One page that cannot be read must not take its neighbours with it. */
			if (run[j].err == 0 || pages == 1)
				continue;
			pool->mem->swap_io(pool->mem_ctx, &sw->file, false, &one, 1);
			err[of[j] + k] = one.err;
		}
	}
}

/*
 * Nothing is held but the folios' locks, which are released. 0: look again. Negative: the page that was
 * wanted cannot be read.
 * kept: the caller is about to map it, and puts *kept once he has looked, before he waits for anything; until
 * then nobody frees it. Else two who have one frame between them could take it from each other for ever,
 * each having read what it never comes to map. VAC__NO_PFN: there is nothing to be put.
 */
int vac__swapin_read(struct vac_pool *pool, struct vac__swapin *in, uint32_t *kept)
{
	int err[CLUSTER] = {0}, r;

	VAC__SYNC("swap_reading", in->slot[in->at]);
	read_runs(pool, in, err);
	for (uint32_t i = 0; i < in->n; i++) {
		struct vac__frame *f;

		if (in->pfn[i] == VAC__NO_PFN)
			continue;
		f = vac__frame(pool, in->pfn[i]);
		if (err[i] == 0) {
			vac__or(&f->flags, VAC__F_CLEAN);
			vac__and(&f->flags, ~VAC__F_READING);
			vac__stat_add(&pool->swap.in, 1);
			if (kept && i == in->at) {
				*kept = in->pfn[i];
				vac__add(&f->word, VAC__W_REF);
			}
			vac__folio_unlock(pool, in->pfn[i]);
		} else {
			vac__swap_error(pool, false);
			vac__swap_drop_unlock(pool, in->pfn[i]);
		}
	}
	r = in->pfn[in->at] == VAC__NO_PFN || err[in->at] == 0 ? 0 : -EIO;
	vac__reclaim_done(pool, true);
	return r;
}

/* ---- Ahead, because somebody says that he will need it ------------------------------------------- */

/* Pages [first, end) of a space, or as many of them as half of the memory takes: more would push each other
 * out. It is advice: what finds the list full is not read before it is touched. */
void vac__swapin_ask(struct vac_space *s, uint32_t first, uint32_t end)
{
	struct vac_pool *pool = s->pool;
	struct vac__swap *sw = &pool->swap;
	uint64_t most = vac__ld_rlx(&pool->nr_total) / 2;

	if (end - first > most)
		end = first + (uint32_t)most;
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	if (vac__ld_rlx(&sw->state) == VAC__SWAP_ON && sw->nr_asked < VAC__SWAP_ASKED) {
		sw->asked[(sw->first_asked + sw->nr_asked) % VAC__SWAP_ASKED] =
			(struct vac__ahead){.space = s->id, .at = first, .end = end};
		vac__st_rlx(&sw->nr_asked, sw->nr_asked + 1);
	}
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	vac__event_signal(&sw->kick);
}

/* The space whose number the oldest call has named may be gone, or be another one by now. */
static bool ask_next(struct vac__swap *sw, struct vac__ahead *a)
{
	bool any;

	vac__lock(&sw->lock, VAC__RANK_SWAP);
	any = sw->nr_asked != 0;
	if (any)
		*a = sw->asked[sw->first_asked];
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
	return any;
}

/* It has been read up to `at`. Only swap's thread takes from the list. */
static void ask_done(struct vac__swap *sw, const struct vac__ahead *a, uint32_t at)
{
	vac__lock(&sw->lock, VAC__RANK_SWAP);
	sw->asked[sw->first_asked].at = at;
	if (at >= a->end) {
		sw->first_asked = (sw->first_asked + 1) % VAC__SWAP_ASKED;
		vac__st_rlx(&sw->nr_asked, sw->nr_asked - 1);
	}
	vac__unlock(&sw->lock, VAC__RANK_SWAP);
}

/* Read one cluster of what was asked for. False: nothing is left to do. For swap's thread; only its step's
 * lock is held. */
bool vac__swapin_step(struct vac_pool *pool)
{
	struct vac__swap *sw = &pool->swap;
	struct vac__swapin in;
	struct vac_space *s;
	struct vac__ahead a;
	uint32_t end, at, slot;
	int r = -EAGAIN;

	if (!ask_next(sw, &a))
		return false;
	s = vac__space_get(pool, a.space);
	end = s && a.end > s->pages ? s->pages : a.end;
	if (!s)
		a.at = a.end;
	for (at = a.at; at < end; at++)
		if (away(s, at, &slot))
			break;
	if (at < end) {
		uint32_t hi = (at & ~(CLUSTER - 1)) + CLUSTER;

		vac__rdlock(&s->lock, VAC__RANK_SPACE);
		r = begin(s, at, at, hi < end ? hi : end, false, &in);
		vac__rdunlock(&s->lock, VAC__RANK_SPACE);
		at = r == 0 ? at + in.n : at + 1;
	}
	if (r == 0)
		vac__swapin_read(pool, &in, NULL);
	if (s)
		vac__space_put(s);
	/* Without room it was bad advice. */
	ask_done(sw, &a, r == -ENOMEM || at >= end ? a.end : at);
	return true;
}

/* ---- Of a space that stands still: fork.c -------------------------------------------------------- */

/* Read what has been put off. */
int vac__swap_peek_end(struct vac_pool *pool, struct vac__peek *p)
{
	int r = 0;

	if (p->n)
		pool->mem->swap_io(pool->mem_ctx, &pool->swap.file, false, p->run, p->n);
	for (unsigned i = 0; i < p->n && r == 0; i++)
		r = p->run[i].err;
	p->n = 0;
	return r;
}

/*
 * The bytes of a slot that an entry names, while nobody can change the entry: of the cache's folio, or of the
 * file. They are there after vac__swap_peek_end() at the latest.
 */
int vac__swap_peek(struct vac_pool *pool, struct vac__peek *p, uint32_t slot, void *to)
{
	struct vac__swap_run *last = p->n ? &p->run[p->n - 1] : NULL;
	uint64_t off = (uint64_t)slot << VAC__PAGE_SHIFT;
	uint32_t c = vac__ld(&pool->swap.slot[slot].cache);

	/* With a reference it is neither freed nor moved. */
	if (c && vac__w_try_ref(&vac__frame(pool, c - 1)->word) == 0) {
		bool good = vac__ld(&pool->swap.slot[slot].cache) == c &&
			    !(vac__ld(&vac__frame(pool, c - 1)->flags) & VAC__F_READING);

		if (good)
			vac__port_copy(to, vac__frame_addr(pool, c - 1), VAC_PAGE_BYTES);
		vac__folio_put(pool, c - 1, VAC__W_REF);
		if (good)
			return 0;
	}
	if (last && last->off + last->bytes == off && (char *)last->mem + last->bytes == to &&
	    last->bytes < VAC__PEEK_BYTES) {
		last->bytes += VAC_PAGE_BYTES;
		return 0;
	}
	p->run[p->n++] = (struct vac__swap_run){.mem = to, .off = off, .bytes = VAC_PAGE_BYTES};
	return p->n == VAC__PEEK_RUNS ? vac__swap_peek_end(pool, p) : 0;
}

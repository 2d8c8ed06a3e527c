/* SPDX-License-Identifier: MIT */
/*
 * Transfers that nobody has pinned for: devices, and others outside the engine, take pages as
 * get_user_pages() does, read and write them, and keep them for as long as they like.
 */
#include <string.h>

#include "sim/work.h"

static void drop_page(struct writer *t, uint32_t p)
{
	int r = vac_advise(world.space, work_ptr(work_addr_of(t, p, 0)), PAGE, VAC_ADV_DONTNEED);

	if (work_refused(r))
		return;
	work_must(r == 0, SIM_CONTENT, "a drop of contents", r);
	work_dropped(t, p, 1);
}

/*
 * A device fills a page that nobody has pinned: an error, or its bytes; at once where the host tells who
 * holds what, and before the block is certified elsewhere. The program leaves the words alone that are
 * on their way, and writes others.
 */
static void foreign_write(struct writer *t)
{
	uint32_t p = (uint32_t)sim_below(REGION_PAGES), gen, done = 0;
	struct page *m = &t->page[p];
	uint64_t old[WORDS], sent[WORDS];
	struct sim_dma d;

	if (!work_pinnable(t, p, 1, true))
		return;
	/* Of two transfers that come late for one word the older may win, and the newer is named. */
	for (uint32_t i = 0; i < WORDS; i++)
		if (i == 0 || (m->late >> i & 1))
			work_store(t, p, i);
	if (sim_gup(work_addr_of(t, p, 0), true, &d) < 0)
		return; /* it is leaving, or was not there: the program is told */
	gen = m->gen;
	memcpy(old, m->word, sizeof(old));
	for (uint64_t n = 1 + sim_below(6); n; n--) {
		uint32_t word = 1 + (uint32_t)sim_below(WORDS - 1);

		if (sim_one_in(3))
			sim_sleep(sim_below(50000));
		if (sim_one_in(4))
			work_store(t, p, 0);
		if (done >> word & 1)
			continue;
		sent[word] = (uint64_t)(t->id + 1) << 48 | ++t->seq;
		sim_dma_write(&d, word * 8, sent[word]);
		done |= 1u << word;
		if (!world.faults.blind && !world.calm && sim_one_in(20))
			drop_page(t, p);
	}
	sim_gup_put(&d);
	for (uint32_t i = 1; i < WORDS && m->gen == gen; i++) {
		if (!(done >> i & 1))
			continue;
		if (world.faults.blind) {
			m->was[i] = old[i];
			m->late |= 1u << i;
		}
		m->word[i] = sent[i];
	}
	if (m->gen == gen)
		work_load(t, p, (uint32_t)sim_below(WORDS));
}

/* A device sends a page that nobody has pinned, and that the program does not write meanwhile; it may
 * drop it, as after a vmsplice(). */
static void foreign_read(struct writer *t)
{
	uint32_t p = (uint32_t)sim_below(REGION_PAGES);
	struct page *m = &t->page[p];
	bool fresh = sim_one_in(3);
	uint64_t want[WORDS];
	struct sim_dma d;

	if (!work_pinnable(t, p, 1, true))
		return;
	/* What it has written long ago too: also while the page leaves, it can be read. */
	for (uint32_t i = 0; i < WORDS; i++)
		if (fresh || (m->late >> i & 1))
			work_store(t, p, i);
	memcpy(want, m->word, sizeof(want));
	if (sim_gup(work_addr_of(t, p, 0), false, &d) < 0)
		return;
	/* What is dropped under a holder is kept for him: memory may be short for that long. */
	if (!world.faults.blind && !world.calm && sim_one_in(3))
		drop_page(t, p);
	if (sim_one_in(4)) /* longer than an offline may take */
		sim_sleep(sim_below(6000000));
	for (uint64_t n = 1 + sim_below(4); n; n--) {
		uint32_t word = (uint32_t)sim_below(WORDS);
		uint64_t v;

		if (sim_one_in(2))
			sim_sleep(sim_below(50000));
		v = sim_dma_read(&d, word * 8);
		if (v != want[word] && !(m->late >> word & 1))
			sim_fail(SIM_CONTENT, "a device sends %#llx of page %u, written %#llx",
				 (unsigned long long)v, p, (unsigned long long)want[word]);
	}
	sim_gup_put(&d);
}

/* ---- The workload ----------------------------------------------------------------------------- */

static void draw(void)
{
	for (int i = OP_ADD; i < OP_COUNT; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
	/* What moves out of a block that stays must be kept too: blocks that stay are wanted. */
	world.ops_off &= ~(1u << OP_OWN | 1u << OP_OWN_2 | 1u << OP_LONGPIN);
	world.nr_writers = world.nr_writers < 3 ? 3 : world.nr_writers;
	world.nr_queues = 0;
	world.steps_left *= 2;
	world.faults.slow = sim_one_in(2) ? 20000 : 0;
	world.faults.blind = sim_one_in(2) ? 1 : sim_one_in(3) ? 3 : 0;
}

static enum op pick(enum op drawn)
{
	if (!sim_one_in(2))
		return drawn;
	if (sim_one_in(10))
		return OP_LONGPIN;
	return sim_one_in(2) ? OP_OWN : OP_OWN_2;
}

/* All blocks have left since the last transfer, so all that came late has been carried over: nothing
 * has changed these words since. */
static void nothing_is_late(void)
{
	for (int i = 0; i < world.nr_writers; i++)
		for (uint32_t p = 0; p < REGION_PAGES; p++)
			world.writer[i].page[p].late = 0;
}

static void end(void)
{
	work_every_block_leaves();
	if (world.faults.blind)
		work_must(work_quarantine_ends(), SIM_LIVENESS, "a quarantine without a holder", 0);
	nothing_is_late();
}

const struct work_kind work_foreign = {
	.name = "foreign",
	.draw = draw,
	.pick = pick,
	.own = {foreign_read, foreign_write},
	.end = end,
};

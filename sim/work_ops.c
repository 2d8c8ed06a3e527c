/* SPDX-License-Identifier: MIT */
/*
 * What a writer does, and what must come of it.
 *
 * Every word of a space belongs to one thread, which alone writes it and so knows what must be
 * there; regions of different owners share pageblocks, so that one owner's unmap splits another's
 * huge folio. A call may refuse only for reasons that can be so; then nothing has changed. Shared
 * counters are added to by all and must sum up.
 */
#include <string.h>

#include "sim/work.h"

void work_must(bool ok, enum sim_end end, const char *what, int r)
{
	if (!ok)
		sim_fail(end, "%s (answered %d)", what, r);
}

/* ---- A writer's words ------------------------------------------------------------------------- */

void work_load(struct writer *t, uint32_t p, uint32_t i)
{
	struct page *m = &t->page[p];
	bool starved = work_may_starve();
	uint64_t v = 0;
	int r = sim_load(work_addr_of(t, p, i), &v);

	if (!world.stop)
		sim_note("load %#llx: %d, %#llx", (unsigned long long)work_addr_of(t, p, i), r,
			 (unsigned long long)v);
	if (work_excused(r, starved) && m->mapped && m->prot)
		return;
	if (!m->mapped || !m->prot) {
		work_must(r == -EFAULT, SIM_CONTENT, "a load where nothing may be read", r);
		return;
	}
	work_must(r == 0, SIM_CONTENT, "a load of mapped memory", r);
	if ((m->late >> i & 1) && v == m->was[i])
		return;
	if (v != m->word[i])
		sim_fail(SIM_CONTENT, "writer %d page %u word %u: %#llx, written %#llx", t->id, p,
			 i, (unsigned long long)v, (unsigned long long)m->word[i]);
}

void work_store(struct writer *t, uint32_t p, uint32_t i)
{
	struct page *m = &t->page[p];
	uint64_t v = (uint64_t)(t->id + 1) << 48 | ++t->seq;
	bool starved = work_may_starve();
	int r = sim_store(work_addr_of(t, p, i), v);

	sim_note("store %#llx: %d, %#llx", (unsigned long long)work_addr_of(t, p, i), r,
		 (unsigned long long)v);
	if (work_excused(r, starved) && m->mapped && (m->prot & VAC_PROT_WRITE))
		return;
	if (!m->mapped || !(m->prot & VAC_PROT_WRITE)) {
		work_must(r == -EFAULT, SIM_CONTENT, "a store where nothing may be written", r);
		return;
	}
	work_must(r == 0, SIM_CONTENT, "a store to mapped memory", r);
	m->word[i] = v;
	m->late &= ~(1u << i); /* the program's last word: nothing late may replace it */
}

static void load_other(struct writer *t)
{
	struct writer *o = &world.writer[sim_below((uint64_t)world.nr_writers)];
	uint64_t v;

	(void)t;
	/* Whatever it answers: it fills the translation cache and disturbs the owner. */
	sim_load(work_addr_of(o, (uint32_t)sim_below(REGION_PAGES), 0), &v);
}

void work_add_shared(void)
{
	bool starved = work_may_starve();
	int r = sim_fetch_add(world.shared + sim_below(SHARED_PAGES) * PAGE, 1);

	if (work_excused(r, starved))
		return;
	work_must(r == 0, SIM_CONTENT, "an addition to shared memory", r);
	world.added++;
}

/* ---- Pins and devices ------------------------------------------------------------------------- */

/*
 * What a pin holds is the page that was asked for, or was dropped since and is nobody's: never a frame
 * that another page has got meanwhile. Read without a scheduling point: at this very moment.
 */
static void check_pin(uint64_t handle, uint64_t addr)
{
	uint64_t run = atomic_load(&world.pool->ledger.rec[(uint32_t)handle].run[0]);
	struct vac__frame *f = vac__frame(world.pool, (uint32_t)run);
	uint32_t page = (uint32_t)((addr - world.base) / PAGE), index = atomic_load(&f->index);
	uint32_t pages = run >> 32 & VAC__RUN_HUGE ? VAC__PB_PAGES : 1;
	uint64_t word = atomic_load(&f->word);

	if (vac__w_pins(word) == 0)
		sim_fail(SIM_CONTENT, "a pin that is counted nowhere");
	if (vac__w_map(word) && (page < index || page - index >= pages))
		sim_fail(SIM_CONTENT, "a pin of page %u holds the frame of page %u", page, index);
}

bool work_pinnable(struct writer *t, uint32_t first, uint32_t n, bool write)
{
	for (uint32_t p = first; p < first + n; p++)
		if (!t->page[p].mapped || !(t->page[p].prot & (write ? VAC_PROT_WRITE : 3)))
			return false;
	return true;
}

/* A device's look at a page that is pinned. Where a snapshot was taken meanwhile the host may not show it,
 * and may fail to, for as long as calls fail. */
int work_dma_get(uint64_t addr, bool write, struct sim_dma *d)
{
	int r;

	do
		r = sim_dma_get(addr, write, d);
	while (work_excused(r, work_may_starve()));
	return r;
}

static int pin(struct writer *t, uint32_t first, uint32_t n, unsigned flags, uint64_t *handle)
{
	bool starved = work_may_starve();
	int r = vac_pin(world.space, work_ptr(work_addr_of(t, first, 0)), n * PAGE, flags, "writer",
			handle);

	if (work_excused(r, starved))
		return r;
	if (!work_pinnable(t, first, n, flags & VAC_PIN_WRITE)) {
		work_must(r == -EFAULT, SIM_CONTENT, "a pin across what is not mapped", r);
		return -EFAULT;
	}
	work_must(r == 0, SIM_CONTENT, "a pin of mapped memory", r);
	check_pin(*handle, work_addr_of(t, first, 0));
	return r;
}

static void unpin(uint64_t handle)
{
	int r = vac_unpin(world.pool, handle);

	work_must(r == 0, SIM_CONTENT, "an unpin", r);
	if (sim_one_in(8)) {
		r = vac_unpin(world.pool, handle);
		work_must(r == -EINVAL, SIM_CONTENT, "a second unpin", r);
	}
}

/* A device writes into pinned pages while the processor goes on with the rest of the region. */
static void pin_and_dma(struct writer *t, unsigned flags)
{
	uint32_t n = 1 + (uint32_t)sim_below(6), first = (uint32_t)sim_below(REGION_PAGES - n + 1);
	struct sim_dma d[6];
	uint32_t gen[6];
	uint64_t handle;

	if (pin(t, first, n, flags | VAC_PIN_WRITE, &handle) < 0)
		return;
	for (uint32_t k = 0; k < n; k++) {
		int r = work_dma_get(work_addr_of(t, first + k, 0), true, &d[k]);

		work_must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
		gen[k] = t->page[first + k].gen;
	}
	for (uint64_t i = sim_below(6); i; i--) {
		uint32_t k = (uint32_t)sim_below(n), word = (uint32_t)sim_below(WORDS);
		uint64_t v = (uint64_t)(t->id + 1) << 48 | ++t->seq;

		if (sim_one_in(3))
			work_load(t, first + k, word);
		if (sim_one_in(4))
			sim_sleep(sim_below(20000));
		sim_dma_write(&d[k], word * 8, v);
		if (t->page[first + k].gen == gen[k]) {
			t->page[first + k].word[word] = v;
			t->page[first + k].late &= ~(1u << word);
		}
		if (sim_dma_read(&d[k], word * 8) != v)
			sim_fail(SIM_CONTENT, "a device reads back something else");
	}
	for (uint32_t k = 0; k < n; k++)
		sim_dma_put(&d[k]);
	unpin(handle);
}

/* A device reads a page while its owner writes it: it must see what was written. */
static void pin_and_read(struct writer *t)
{
	uint32_t p = (uint32_t)sim_below(REGION_PAGES), word = (uint32_t)sim_below(WORDS);
	struct page *m = &t->page[p];
	struct sim_dma d;
	uint64_t handle, v;
	int r;

	if (pin(t, p, 1, VAC_PIN_READ, &handle) < 0)
		return;
	r = work_dma_get(work_addr_of(t, p, 0), false, &d);
	work_must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
	for (uint64_t n = 1 + sim_below(3); n; n--) {
		work_store(t, p, word);
		v = sim_dma_read(&d, word * 8);
		if (v != m->word[word])
			sim_fail(SIM_CONTENT, "a device reads %#llx, written %#llx",
				 (unsigned long long)v, (unsigned long long)m->word[word]);
	}
	sim_dma_put(&d);
	unpin(handle);
}

/*
 * Pages that everybody fills, pins and drops as he likes. What is there is known only from a pin to
 * its end, and only if nobody has dropped anything meanwhile.
 */
static void scratch(struct writer *t)
{
	uint64_t a = world.scratch + sim_below(SCRATCH_PAGES) * PAGE, handle, gen, v;
	uint32_t word = (uint32_t)t->id % WORDS;
	struct sim_dma d;
	bool starved = work_may_starve(), kept;
	int r;

	if (sim_one_in(2) && !world.calm) {
		world.drops++;
		r = vac_advise(world.space, work_ptr(a), PAGE, VAC_ADV_DONTNEED);
		work_must(r == 0 || r == -EBUSY || r == -ENOMEM, SIM_CONTENT, "a drop of contents",
			  r);
		world.drops_over++;
		return;
	}
	kept = world.drops == world.drops_over;
	gen = world.drops;
	r = vac_pin(world.space, work_ptr(a), PAGE, VAC_PIN_WRITE, "scratch", &handle);
	if (work_excused(r, starved))
		return;
	work_must(r == 0, SIM_CONTENT, "a pin of a scratch page", r);
	check_pin(handle, a);
	r = work_dma_get(a, true, &d);
	if (r == 0) {
		sim_dma_write(&d, word * 8, ++t->seq);
		if (sim_one_in(3))
			sim_sleep(sim_below(20000));
		r = sim_load(a + word * 8, &v);
		if (r == 0 && kept && gen == world.drops && v != t->seq)
			sim_fail(SIM_CONTENT, "a scratch page: %#llx, the device wrote %#llx",
				 (unsigned long long)v, (unsigned long long)t->seq);
		/* The pin is on the page that a device would reach, unless that was dropped. */
		if (gen != world.drops || !kept)
			sim_dma_abandon(&d);
		else
			sim_dma_put(&d);
	}
	unpin(handle);
}

/* Two pins of one thread, the second while the first is held: gates must not wait for each other
 * for ever. */
static void nested_pins(struct writer *t)
{
	uint64_t a, b;
	uint32_t p = (uint32_t)sim_below(REGION_PAGES - 3);

	if (pin(t, p, 2, VAC_PIN_READ, &a) < 0)
		return;
	if (pin(t, p + 1, 2, VAC_PIN_READ, &b) == 0)
		unpin(b);
	unpin(a);
}

/* ---- Changing mappings ------------------------------------------------------------------------ */

void work_dropped(struct writer *t, uint32_t first, uint32_t n)
{
	for (uint32_t p = first; p < first + n; p++) {
		t->page[p].gen++;
		t->page[p].late = 0;
		memset(t->page[p].word, 0, sizeof(t->page[p].word));
	}
}

static void change_mapping(struct writer *t, enum op op)
{
	uint32_t n = 1 + (uint32_t)sim_below(REGION_PAGES),
		 first = (uint32_t)sim_below(REGION_PAGES);
	bool all = true, none = true, starved;
	uint64_t a;
	void *out;
	unsigned flags = VAC_MAP_FIXED;
	int prot = (int)sim_below(4), r = 0;

	if (n > REGION_PAGES - first)
		n = REGION_PAGES - first;
	a = work_addr_of(t, first, 0);
	prot = prot == VAC_PROT_WRITE ? VAC_PROT_WRITE | VAC_PROT_READ : prot;
	for (uint32_t p = first; p < first + n; p++) {
		all &= t->page[p].mapped;
		none &= !t->page[p].mapped;
	}
	for (uint32_t p = first; p < first + n; p++)
		t->page[p].going = op == OP_UNMAP || op == OP_DONTNEED;
	switch (op) {
	case OP_MAP:
		/* One draw a statement: the order of operands is the compiler's. */
		flags |= sim_one_in(3) ? VAC_MAP_NOHUGE : 0;
		flags |= sim_one_in(4) ? VAC_MAP_POPULATE : 0;
		r = vac_map(world.space, work_ptr(a), n * PAGE, prot, flags, &out);
		sim_note("map %#llx+%u as %d: %d", (unsigned long long)a, n, prot, r);
		if (!none) {
			work_must(r == -EEXIST || work_refused(r), SIM_CONTENT,
				  "a map over something", r);
		} else if (!work_refused(r)) {
			work_must(r == 0, SIM_CONTENT, "a map of free addresses", r);
			for (uint32_t p = first; p < first + n; p++) {
				t->page[p].mapped = true;
				t->page[p].prot = (uint8_t)prot;
			}
		}
		break;
	case OP_UNMAP:
		r = vac_unmap(world.space, work_ptr(a), n * PAGE);
		sim_note("unmap %#llx+%u: %d", (unsigned long long)a, n, r);
		if (work_refused(r))
			break;
		work_must(r == 0, SIM_CONTENT, "an unmap", r);
		work_dropped(t, first, n);
		for (uint32_t p = first; p < first + n; p++)
			t->page[p].mapped = false;
		break;
	case OP_DONTNEED:
		r = vac_advise(world.space, work_ptr(a), n * PAGE, VAC_ADV_DONTNEED);
		sim_note("drop %#llx+%u: %d", (unsigned long long)a, n, r);
		if (work_refused(r))
			break;
		work_must(r == 0, SIM_CONTENT, "a drop of contents", r);
		work_dropped(t, first, n);
		break;
	case OP_PROTECT:
		r = vac_protect(world.space, work_ptr(a), n * PAGE, prot);
		sim_note("protect %#llx+%u to %d: %d", (unsigned long long)a, n, prot, r);
		if (!all) {
			work_must(r == -ENOMEM || work_refused(r), SIM_CONTENT,
				  "a protect across a hole", r);
		} else if (!work_refused(r)) {
			work_must(r == 0, SIM_CONTENT, "a protect", r);
			for (uint32_t p = first; p < first + n; p++)
				t->page[p].prot = (uint8_t)prot;
		}
		break;
	case OP_WILLNEED:
		starved = work_may_starve();
		r = vac_advise(world.space, work_ptr(a), n * PAGE, VAC_ADV_WILLNEED);
		work_must(r == 0 || r == -ENOMEM || work_excused(r, starved), SIM_CONTENT, "a fill",
			  r);
		break;
	default:
		r = vac_advise(world.space, work_ptr(a), n * PAGE,
			       sim_one_in(2) ? VAC_ADV_HUGE : VAC_ADV_NOHUGE);
		work_must(r == 0 || r == -ENOMEM, SIM_CONTENT, "advice", r);
	}
	for (uint32_t p = first; p < first + n; p++)
		t->page[p].going = false;
}

/* ---- Threads ---------------------------------------------------------------------------------- */

static void one_op(struct writer *t)
{
	static const uint8_t weight[OP_COUNT] = {
		[OP_STORE] = 30,   [OP_LOAD] = 20,    [OP_LOAD_OTHER] = 6, [OP_ADD] = 10,
		[OP_PIN] = 4,      [OP_DMA] = 8,      [OP_LONGPIN] = 2,    [OP_NESTED_PIN] = 3,
		[OP_SCRATCH] = 8,  [OP_MAP] = 8,      [OP_UNMAP] = 6,      [OP_PROTECT] = 6,
		[OP_DONTNEED] = 3, [OP_WILLNEED] = 2, [OP_ADVISE] = 2,     [OP_INFO] = 1,
	};
	struct vac_page_info info = VAC_INIT(struct vac_page_info);
	uint32_t p = (uint32_t)sim_below(REGION_PAGES), i = (uint32_t)sim_below(WORDS);
	uint64_t handle, pick = sim_below(119);
	enum op op = 0;

	while (pick >= weight[op])
		pick -= weight[op++];
	if (world.kind->pick)
		op = world.kind->pick(op);
	if (world.ops_off >> op & 1 || (world.calm && op >= OP_MAP && op <= OP_ADVISE))
		op = sim_one_in(2) ? OP_STORE : OP_LOAD;
	/* A pin that waits for a pin ends by the gate's timeout only. */
	if (world.calm && (op == OP_LONGPIN || op == OP_NESTED_PIN))
		op = OP_PIN;
	switch (op) {
	case OP_STORE: work_store(t, p, i); break;
	case OP_LOAD: work_load(t, p, i); break;
	case OP_LOAD_OTHER: load_other(t); break;
	case OP_ADD: work_add_shared(); break;
	case OP_PIN:
		if (pin(t, p, 1, VAC_PIN_READ, &handle) == 0) {
			work_load(t, p, i);
			unpin(handle);
			pin_and_read(t);
		}
		break;
	case OP_DMA: pin_and_dma(t, 0); break;
	case OP_LONGPIN: pin_and_dma(t, VAC_PIN_LONGTERM | VAC_PIN_STACK); break;
	case OP_NESTED_PIN: nested_pins(t); break;
	case OP_SCRATCH: scratch(t); break;
	case OP_OWN:
	case OP_OWN_2: world.kind->own[op - OP_OWN](t); break;
	case OP_INFO: vac_page_info(world.space, work_ptr(work_addr_of(t, p, 0)), &info); break;
	default: change_mapping(t, op);
	}
}

void work_writer(void *arg)
{
	struct writer *t = arg;

	if (world.kind->begin)
		world.kind->begin(t);
	for (uint32_t n = world.steps_left; n; n--)
		one_op(t);
}

/* Endless overlapping transfers of one and the same content into one buffer, each with its pin. */
void work_queue(void *arg)
{
	(void)arg;
	while (!world.stop) {
		struct sim_dma d[2];
		uint64_t handle, v;
		bool starved = work_may_starve();
		int r = vac_pin(world.space, work_ptr(world.buffer), 2 * PAGE, VAC_PIN_WRITE,
				"direct read", &handle);

		if (work_excused(r, starved)) {
			sim_sleep(100000);
			continue;
		}
		work_must(r == 0, SIM_CONTENT, "a pin of the buffer", r);
		check_pin(handle, world.buffer);
		for (int k = 0; k < 2; k++) {
			r = work_dma_get(world.buffer + (uint64_t)k * PAGE, true, &d[k]);
			work_must(r == 0, SIM_CONTENT, "a device's look at the buffer", r);
		}
		sim_sleep(5000 + sim_below(20000));
		for (uint32_t i = 0; i < 2 * WORDS; i++)
			if (sim_one_in(4))
				sim_dma_write(&d[i / WORDS], i % WORDS * 8, 0xd10 + i);
		sim_dma_write(&d[0], 0, 0xd10);
		for (int k = 0; k < 2; k++)
			sim_dma_put(&d[k]);
		unpin(handle);
		starved = work_may_starve();
		r = sim_load(world.buffer, &v);
		if (work_excused(r, starved))
			continue;
		work_must(r == 0 && v == 0xd10, SIM_CONTENT, "what a transfer has written", r);
	}
}

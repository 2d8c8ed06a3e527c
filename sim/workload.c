/* SPDX-License-Identifier: MIT */
/*
 * The workloads and their oracles.
 *
 * Every word of a space belongs to one thread, which alone writes it and so knows what must be
 * there; regions of different owners share pageblocks, so that one owner's unmap splits another's
 * huge folio. A call may refuse only for reasons that can be so; then nothing has changed. Shared
 * counters are added to by all and must sum up.
 *
 * First phase: everything at once, host calls failing if the configuration says so. Second: no
 * faults, no changes to mappings, but transfers and accesses go on: now every block must be able to
 * leave. Then all stop, and the pool at rest is checked, byte by byte and by vac_pool_check().
 */
#include "sim/workload.h"

#include <errno.h>
#include <string.h>

#include "port/sim/sim.h"
#include "port/sim/world.h"

#define PAGE VAC_PAGE_BYTES
#define WORDS (PAGE / 8)
#define WRITERS_MAX 6
#define QUEUES_MAX 3
#define REGION_PAGES 20u /* of a writer: two and a half pageblocks */
#define SHARED_PAGES 2u
#define SCRATCH_PAGES 6u
#define GATE_MS 5

enum op {
	OP_STORE,
	OP_LOAD,
	OP_LOAD_OTHER,
	OP_ADD,
	OP_PIN,
	OP_DMA,
	OP_LONGPIN,
	OP_NESTED_PIN,
	OP_SCRATCH,
	OP_MAP,
	OP_UNMAP,
	OP_PROTECT,
	OP_DONTNEED,
	OP_WILLNEED,
	OP_ADVISE,
	OP_INFO,
	OP_FOREIGN_WRITE,
	OP_FOREIGN_READ,
	OP_LOCK,
	OP_COUNT,
};

struct page {
	bool mapped;
	uint8_t prot;
	uint32_t gen; /* goes up when what is there is dropped */
	uint64_t word[WORDS];
	/* Bit set: written by a device without a pin where the host does not tell who holds a page. Until
	 * the block that it went to has been certified, the word may be what it was. */
	uint32_t late;
	uint64_t was[WORDS];
};

struct writer {
	int id, thread;
	uint64_t base; /* address of its region */
	uint64_t seq;
	struct page page[REGION_PAGES];
};

static struct {
	struct work_config cfg;
	struct vac_pool *pool;
	struct vac_space *space;
	uint64_t base, shared, buffer, scratch, scratch_gen;
	uint32_t ops_off; /* bit set: this operation is switched off (swarm) */
	int nr_writers, nr_queues, nr_blocks, admin, admin2, observer;
	int queue[QUEUES_MAX];
	struct writer writer[WRITERS_MAX];
	uint64_t added; /* to the shared counter */
	uint64_t disk_pages;
	uint32_t steps_left;
	bool swapper;
	bool calm, stop; /* second phase; queues and stormers end */
	struct sim_faults faults;
} w;

static const char *const names[WORK_COUNT] = {
	[WORK_MIX] = "mix",         [WORK_MIGRATE] = "migrate", [WORK_PIN] = "pin",
	[WORK_MAP] = "map",         [WORK_REFAULT] = "refault", [WORK_DIO] = "dio",
	[WORK_FOREIGN] = "foreign", [WORK_SWAP] = "swap",
};

const char *work_name(enum sim_workload k)
{
	return names[k];
}

int work_by_name(const char *name)
{
	for (int i = 0; i < WORK_COUNT; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

static void must(bool ok, enum sim_end end, const char *what, int r)
{
	if (!ok)
		sim_fail(end, "%s (answered %d)", what, r);
}

static void *ptr(uint64_t addr)
{
	return (void *)(uintptr_t)addr;
}

/* ---- A writer's words ------------------------------------------------------------------------- */

static uint64_t addr_of(const struct writer *t, uint32_t page, uint32_t word)
{
	return t->base + page * PAGE + word * 8;
}

/* Failing host calls, and blocks that are away, may make any touch of a page that is not there fail
 * for want of memory. Asked before the touch: it may take us into the second phase. */
static bool may_starve(void)
{
	return !w.calm;
}

/* And while the disk fails, any page may be out and not to be read. */
static bool excused(int r, bool starved)
{
	return starved && (r == -ENOMEM || (r == -EIO && w.faults.disk_read));
}

static void load(struct writer *t, uint32_t p, uint32_t i)
{
	struct page *m = &t->page[p];
	bool starved = may_starve();
	uint64_t v = 0;
	int r = sim_load(addr_of(t, p, i), &v);

	if (!w.stop)
		sim_note("load %#llx: %d, %#llx", (unsigned long long)addr_of(t, p, i), r,
			 (unsigned long long)v);
	if (excused(r, starved) && m->mapped && m->prot)
		return;
	if (!m->mapped || !m->prot) {
		must(r == -EFAULT, SIM_CONTENT, "a load where nothing may be read", r);
		return;
	}
	must(r == 0, SIM_CONTENT, "a load of mapped memory", r);
	if ((m->late >> i & 1) && v == m->was[i])
		return;
	if (v != m->word[i])
		sim_fail(SIM_CONTENT, "writer %d page %u word %u: %#llx, written %#llx", t->id, p,
			 i, (unsigned long long)v, (unsigned long long)m->word[i]);
}

static void store(struct writer *t, uint32_t p, uint32_t i)
{
	struct page *m = &t->page[p];
	uint64_t v = (uint64_t)(t->id + 1) << 48 | ++t->seq;
	bool starved = may_starve();
	int r = sim_store(addr_of(t, p, i), v);

	sim_note("store %#llx: %d, %#llx", (unsigned long long)addr_of(t, p, i), r,
		 (unsigned long long)v);
	if (excused(r, starved) && m->mapped && (m->prot & VAC_PROT_WRITE))
		return;
	if (!m->mapped || !(m->prot & VAC_PROT_WRITE)) {
		must(r == -EFAULT, SIM_CONTENT, "a store where nothing may be written", r);
		return;
	}
	must(r == 0, SIM_CONTENT, "a store to mapped memory", r);
	m->word[i] = v;
	m->late &= ~(1u << i); /* the program's last word: nothing late may replace it */
}

static void load_other(struct writer *t)
{
	struct writer *o = &w.writer[sim_below((uint64_t)w.nr_writers)];
	uint64_t v;

	(void)t;
	/* Whatever it answers: it fills the translation cache and disturbs the owner. */
	sim_load(addr_of(o, (uint32_t)sim_below(REGION_PAGES), 0), &v);
}

static void add_shared(void)
{
	bool starved = may_starve();
	int r = sim_fetch_add(w.shared + sim_below(SHARED_PAGES) * PAGE, 1);

	if (excused(r, starved))
		return;
	must(r == 0, SIM_CONTENT, "an addition to shared memory", r);
	w.added++;
}

/* ---- Pins and devices ------------------------------------------------------------------------- */

/*
 * What a pin holds is the page that was asked for, or was dropped since and is nobody's: never a frame
 * that another page has got meanwhile. Read without a scheduling point: at this very moment.
 */
static void check_pin(uint64_t handle, uint64_t addr)
{
	uint64_t run = atomic_load(&w.pool->ledger.rec[(uint32_t)handle].run[0]);
	struct vac__frame *f = vac__frame(w.pool, (uint32_t)run);
	uint32_t page = (uint32_t)((addr - w.base) / PAGE), index = atomic_load(&f->index);
	uint32_t pages = run >> 32 & VAC__RUN_HUGE ? VAC__PB_PAGES : 1;
	uint64_t word = atomic_load(&f->word);

	if (vac__w_pins(word) == 0)
		sim_fail(SIM_CONTENT, "a pin that is counted nowhere");
	if (vac__w_map(word) && (page < index || page - index >= pages))
		sim_fail(SIM_CONTENT, "a pin of page %u holds the frame of page %u", page, index);
}

static bool pinnable(struct writer *t, uint32_t first, uint32_t n, bool write)
{
	for (uint32_t p = first; p < first + n; p++)
		if (!t->page[p].mapped || !(t->page[p].prot & (write ? VAC_PROT_WRITE : 3)))
			return false;
	return true;
}

static int pin(struct writer *t, uint32_t first, uint32_t n, unsigned flags, uint64_t *handle)
{
	bool starved = may_starve();
	int r = vac_pin(w.space, ptr(addr_of(t, first, 0)), n * PAGE, flags, "writer", handle);

	if (excused(r, starved))
		return r;
	if (!pinnable(t, first, n, flags & VAC_PIN_WRITE)) {
		must(r == -EFAULT, SIM_CONTENT, "a pin across what is not mapped", r);
		return -EFAULT;
	}
	must(r == 0, SIM_CONTENT, "a pin of mapped memory", r);
	check_pin(*handle, addr_of(t, first, 0));
	return r;
}

static void unpin(uint64_t handle)
{
	int r = vac_unpin(w.pool, handle);

	must(r == 0, SIM_CONTENT, "an unpin", r);
	if (sim_one_in(8)) {
		r = vac_unpin(w.pool, handle);
		must(r == -EINVAL, SIM_CONTENT, "a second unpin", r);
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
		int r = sim_dma_get(addr_of(t, first + k, 0), true, &d[k]);

		must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
		gen[k] = t->page[first + k].gen;
	}
	for (uint64_t i = sim_below(6); i; i--) {
		uint32_t k = (uint32_t)sim_below(n), word = (uint32_t)sim_below(WORDS);
		uint64_t v = (uint64_t)(t->id + 1) << 48 | ++t->seq;

		if (sim_one_in(3))
			load(t, first + k, word);
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
	r = sim_dma_get(addr_of(t, p, 0), false, &d);
	must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
	for (uint64_t n = 1 + sim_below(3); n; n--) {
		store(t, p, word);
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
	uint64_t a = w.scratch + sim_below(SCRATCH_PAGES) * PAGE, handle, gen, v;
	uint32_t word = (uint32_t)t->id % WORDS;
	struct sim_dma d;
	bool starved = may_starve();
	int r;

	if (sim_one_in(2) && !w.calm) {
		w.scratch_gen++;
		r = vac_advise(w.space, ptr(a), PAGE, VAC_ADV_DONTNEED);
		must(r == 0 || r == -EBUSY || r == -ENOMEM, SIM_CONTENT, "a drop of contents", r);
		w.scratch_gen++;
		return;
	}
	gen = w.scratch_gen;
	r = vac_pin(w.space, ptr(a), PAGE, VAC_PIN_WRITE, "scratch", &handle);
	if (excused(r, starved))
		return;
	must(r == 0, SIM_CONTENT, "a pin of a scratch page", r);
	check_pin(handle, a);
	r = sim_dma_get(a, true, &d);
	if (r == 0) {
		sim_dma_write(&d, word * 8, ++t->seq);
		if (sim_one_in(3))
			sim_sleep(sim_below(20000));
		r = sim_load(a + word * 8, &v);
		if (r == 0 && gen == w.scratch_gen && gen % 2 == 0 && v != t->seq)
			sim_fail(SIM_CONTENT, "a scratch page: %#llx, the device wrote %#llx",
				 (unsigned long long)v, (unsigned long long)t->seq);
		/* The pin is on the page that a device would reach, unless that was dropped. */
		if (gen != w.scratch_gen || gen % 2)
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

static void dropped(struct writer *t, uint32_t first, uint32_t n)
{
	for (uint32_t p = first; p < first + n; p++) {
		t->page[p].gen++;
		t->page[p].late = 0;
		memset(t->page[p].word, 0, sizeof(t->page[p].word));
	}
}

/* Refusals that any change of mappings may give while others pin, and host calls fail. There are
 * none in the second phase. */
static bool refused(int r)
{
	return r == -EBUSY || r == -ENOMEM;
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
	a = addr_of(t, first, 0);
	prot = prot == VAC_PROT_WRITE ? VAC_PROT_WRITE | VAC_PROT_READ : prot;
	for (uint32_t p = first; p < first + n; p++) {
		all &= t->page[p].mapped;
		none &= !t->page[p].mapped;
	}
	switch (op) {
	case OP_MAP:
		/* One draw a statement: the order of operands is the compiler's. */
		flags |= sim_one_in(3) ? VAC_MAP_NOHUGE : 0;
		flags |= sim_one_in(4) ? VAC_MAP_POPULATE : 0;
		r = vac_map(w.space, ptr(a), n * PAGE, prot, flags, &out);
		sim_note("map %#llx+%u as %d: %d", (unsigned long long)a, n, prot, r);
		if (!none) {
			must(r == -EEXIST || refused(r), SIM_CONTENT, "a map over something", r);
		} else if (!refused(r)) {
			must(r == 0, SIM_CONTENT, "a map of free addresses", r);
			for (uint32_t p = first; p < first + n; p++) {
				t->page[p].mapped = true;
				t->page[p].prot = (uint8_t)prot;
			}
		}
		break;
	case OP_UNMAP:
		r = vac_unmap(w.space, ptr(a), n * PAGE);
		sim_note("unmap %#llx+%u: %d", (unsigned long long)a, n, r);
		if (refused(r))
			break;
		must(r == 0, SIM_CONTENT, "an unmap", r);
		dropped(t, first, n);
		for (uint32_t p = first; p < first + n; p++)
			t->page[p].mapped = false;
		break;
	case OP_DONTNEED:
		r = vac_advise(w.space, ptr(a), n * PAGE, VAC_ADV_DONTNEED);
		sim_note("drop %#llx+%u: %d", (unsigned long long)a, n, r);
		if (refused(r))
			break;
		must(r == 0, SIM_CONTENT, "a drop of contents", r);
		dropped(t, first, n);
		break;
	case OP_PROTECT:
		r = vac_protect(w.space, ptr(a), n * PAGE, prot);
		sim_note("protect %#llx+%u to %d: %d", (unsigned long long)a, n, prot, r);
		if (!all) {
			must(r == -ENOMEM || refused(r), SIM_CONTENT, "a protect across a hole", r);
		} else if (!refused(r)) {
			must(r == 0, SIM_CONTENT, "a protect", r);
			for (uint32_t p = first; p < first + n; p++)
				t->page[p].prot = (uint8_t)prot;
		}
		break;
	case OP_WILLNEED:
		starved = may_starve();
		r = vac_advise(w.space, ptr(a), n * PAGE, VAC_ADV_WILLNEED);
		must(r == 0 || r == -ENOMEM || excused(r, starved), SIM_CONTENT, "a fill", r);
		break;
	default:
		r = vac_advise(w.space, ptr(a), n * PAGE,
			       sim_one_in(2) ? VAC_ADV_HUGE : VAC_ADV_NOHUGE);
		must(r == 0 || r == -ENOMEM, SIM_CONTENT, "advice", r);
	}
}

/* Kept out of swap for a while, or not any more: what is there does not change. */
static void lock_pages(struct writer *t)
{
	uint32_t n = 1 + (uint32_t)sim_below(4), first = (uint32_t)sim_below(REGION_PAGES - n);
	bool on = sim_one_in(2) && !w.calm, starved = may_starve();
	uint64_t a = addr_of(t, first, 0);
	int r;

	if (on)
		r = vac_lock(w.space, ptr(a), n * PAGE);
	else
		r = vac_unlock(w.space, ptr(a), n * PAGE);
	must(r == 0 || r == -ENOMEM || excused(r, starved), SIM_CONTENT, "a lock", r);
}

/* ---- Transfers without a pin ------------------------------------------------------------------ */

static void drop_page(struct writer *t, uint32_t p)
{
	int r = vac_advise(w.space, ptr(addr_of(t, p, 0)), PAGE, VAC_ADV_DONTNEED);

	if (refused(r))
		return;
	must(r == 0, SIM_CONTENT, "a drop of contents", r);
	dropped(t, p, 1);
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

	if (!pinnable(t, p, 1, true))
		return;
	/* Of two transfers that come late for one word the older may win, and the newer is named. */
	for (uint32_t i = 0; i < WORDS; i++)
		if (i == 0 || (m->late >> i & 1))
			store(t, p, i);
	if (sim_gup(addr_of(t, p, 0), true, &d) < 0)
		return; /* it is leaving, or was not there: the program is told */
	gen = m->gen;
	memcpy(old, m->word, sizeof(old));
	for (uint64_t n = 1 + sim_below(6); n; n--) {
		uint32_t word = 1 + (uint32_t)sim_below(WORDS - 1);

		if (sim_one_in(3))
			sim_sleep(sim_below(50000));
		if (sim_one_in(4))
			store(t, p, 0);
		if (done >> word & 1)
			continue;
		sent[word] = (uint64_t)(t->id + 1) << 48 | ++t->seq;
		sim_dma_write(&d, word * 8, sent[word]);
		done |= 1u << word;
		if (!w.faults.blind && !w.calm && sim_one_in(20))
			drop_page(t, p);
	}
	sim_gup_put(&d);
	for (uint32_t i = 1; i < WORDS && m->gen == gen; i++) {
		if (!(done >> i & 1))
			continue;
		if (w.faults.blind) {
			m->was[i] = old[i];
			m->late |= 1u << i;
		}
		m->word[i] = sent[i];
	}
	if (m->gen == gen)
		load(t, p, (uint32_t)sim_below(WORDS));
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

	if (!pinnable(t, p, 1, true))
		return;
	/* What it has written long ago too: also while the page leaves, it can be read. */
	for (uint32_t i = 0; i < WORDS; i++)
		if (fresh || (m->late >> i & 1))
			store(t, p, i);
	memcpy(want, m->word, sizeof(want));
	if (sim_gup(addr_of(t, p, 0), false, &d) < 0)
		return;
	/* What is dropped under a holder is kept for him: memory may be short for that long. */
	if (!w.faults.blind && !w.calm && sim_one_in(3))
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
	int op = 0;

	while (pick >= weight[op])
		pick -= weight[op++];
	if (w.cfg.workload == WORK_FOREIGN && sim_one_in(2))
		op = sim_one_in(10)  ? OP_LONGPIN
		     : sim_one_in(2) ? OP_FOREIGN_READ
				     : OP_FOREIGN_WRITE;
	if (w.ops_off >> op & 1 || (w.calm && op >= OP_MAP && op <= OP_ADVISE))
		op = sim_one_in(2) ? OP_STORE : OP_LOAD;
	if (w.cfg.workload == WORK_SWAP && sim_one_in(16))
		op = OP_LOCK;
	/* A pin that waits for a pin ends by the gate's timeout only. */
	if (w.calm && (op == OP_LONGPIN || op == OP_NESTED_PIN))
		op = OP_PIN;
	switch (op) {
	case OP_STORE: store(t, p, i); break;
	case OP_LOAD: load(t, p, i); break;
	case OP_LOAD_OTHER: load_other(t); break;
	case OP_ADD: add_shared(); break;
	case OP_PIN:
		if (pin(t, p, 1, VAC_PIN_READ, &handle) == 0) {
			load(t, p, i);
			unpin(handle);
			pin_and_read(t);
		}
		break;
	case OP_DMA: pin_and_dma(t, 0); break;
	case OP_LONGPIN: pin_and_dma(t, VAC_PIN_LONGTERM | VAC_PIN_STACK); break;
	case OP_NESTED_PIN: nested_pins(t); break;
	case OP_SCRATCH: scratch(t); break;
	case OP_FOREIGN_WRITE: foreign_write(t); break;
	case OP_FOREIGN_READ: foreign_read(t); break;
	case OP_LOCK: lock_pages(t); break;
	case OP_INFO: vac_page_info(w.space, ptr(addr_of(t, p, 0)), &info); break;
	default: change_mapping(t, (enum op)op);
	}
}

static void writer(void *arg)
{
	struct writer *t = arg;

	for (uint32_t p = 0; w.cfg.workload == WORK_SWAP && p < REGION_PAGES; p++)
		store(t, p, 0);
	for (uint32_t n = w.steps_left; n; n--)
		one_op(t);
}

/* Hammers one page of the shared ones until told to stop: the refault storm. */
static void stormer(void *arg)
{
	(void)arg;
	while (!w.stop)
		add_shared();
}

/* Endless overlapping transfers of one and the same content into one buffer, each with its pin. */
static void queue(void *arg)
{
	(void)arg;
	while (!w.stop) {
		struct sim_dma d[2];
		uint64_t handle, v;
		bool starved = may_starve();
		int r = vac_pin(w.space, ptr(w.buffer), 2 * PAGE, VAC_PIN_WRITE, "direct read",
				&handle);

		if (excused(r, starved)) {
			sim_sleep(100000);
			continue;
		}
		must(r == 0, SIM_CONTENT, "a pin of the buffer", r);
		check_pin(handle, w.buffer);
		for (int k = 0; k < 2; k++) {
			r = sim_dma_get(w.buffer + (uint64_t)k * PAGE, true, &d[k]);
			must(r == 0, SIM_CONTENT, "a device's look at the buffer", r);
		}
		sim_sleep(5000 + sim_below(20000));
		for (uint32_t i = 0; i < 2 * WORDS; i++)
			if (sim_one_in(4))
				sim_dma_write(&d[i / WORDS], i % WORDS * 8, 0xd10 + i);
		sim_dma_write(&d[0], 0, 0xd10);
		for (int k = 0; k < 2; k++)
			sim_dma_put(&d[k]);
		unpin(handle);
		starved = may_starve();
		r = sim_load(w.buffer, &v);
		if (w.cfg.workload == WORK_SWAP && excused(r, starved))
			continue;
		must(r == 0 && v == 0xd10, SIM_CONTENT, "what a transfer has written", r);
	}
}

/* ---- The administrator ------------------------------------------------------------------------ */

/* Take a block away and, if it went, bring it back. */
static int cycle(int id, int64_t timeout_ms, uint32_t flags)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct vac_block_opts add = VAC_INIT(struct vac_block_opts);
	bool calm = w.calm;
	int r, again;

	o.timeout_ms = timeout_ms;
	o.flags = flags;
	r = vac_block_offline(w.pool, id, &o, &res);
	vac_report_free(res.report);
	/* A thread that waits for a migration must not be what makes it fail (2018): where every page
	 * is there and nobody pins, each folio moves at the first try, however many threads wait. Only
	 * one that has to be divided is tried once more. */
	if (calm && w.cfg.workload == WORK_REFAULT &&
	    res.attempts > res.base_moved + 2 * res.huge_moved + 2)
		sim_fail(SIM_LIVENESS, "%llu tries for %llu folios",
			 (unsigned long long)res.attempts,
			 (unsigned long long)(res.huge_moved + res.base_moved));
	/* Nobody holds a pin for long now: who waits until a gate times out was not told. */
	if (calm && res.waited_longest_ns > GATE_MS * 500000u)
		sim_fail(SIM_LIVENESS, "waited %llu ns for %s",
			 (unsigned long long)res.waited_longest_ns, res.waited_for);
	must(r == 0 || r == -EBUSY || r == -ENOMEM || r == -ETIMEDOUT || r == -ECANCELED ||
		     r == -EALREADY || r == -ENOENT,
	     SIM_CONTENT, "an offline", r);
	if (r < 0 || (flags & VAC_OFFLINE_DRY_RUN))
		return r;
	if (sim_one_in(2) && vac_block_remove(w.pool, id) == 0) {
		add.id = id;
		again = vac_block_add(w.pool, &add);
		must(again == id || again == -EEXIST, SIM_CONTENT, "an add", again);
	}
	do {
		again = vac_block_online(w.pool, id, (enum vac_zone)sim_below(2));
		/* The other administrator may have left it in quarantine. */
		must(again == 0 || again == -ENOMEM || again == -EALREADY || again == -ENOENT ||
			     again == -EBUSY,
		     SIM_CONTENT, "an online", again);
	} while (again == -ENOMEM && !sim_one_in(50));
	return 0;
}

static void admin(void *arg)
{
	uint32_t rounds = 3 + (uint32_t)sim_below(8);
	int id;

	(void)arg;
	while (rounds--) {
		uint32_t flags = sim_one_in(6) ? VAC_OFFLINE_BEST_EFFORT : 0;

		/* Where the host does not tell, what moves out of a block that stays is lost to the pool
		 * until that block leaves: do not give up halfway as a rule. */
		if (w.faults.blind && !sim_one_in(4)) {
			cycle((int)sim_below((uint64_t)w.nr_blocks), 2000, 0);
			continue;
		}

		if (w.cfg.workload == WORK_SWAP && sim_one_in(3))
			flags |= VAC_OFFLINE_SWAP;
		if (sim_one_in(8))
			flags |= VAC_OFFLINE_DRY_RUN;
		id = (int)sim_below((uint64_t)w.nr_blocks);
		cycle(id, 1 + (int64_t)sim_below(4), flags);
	}
}

static int disk_on(void)
{
	struct vac_swap_opts o = VAC_INIT(struct vac_swap_opts);

	o.fd = 3;
	o.bytes = w.disk_pages * PAGE;
	return vac_swap_on(w.pool, &o);
}

/* Takes the disk away and gives it back, as far as memory reaches. */
static void swapper(void *arg)
{
	int r;

	(void)arg;
	for (uint64_t n = 1 + sim_below(4); n; n--) {
		sim_sleep(sim_below(3000000));
		r = vac_swap_off(w.pool, sim_one_in(3) ? 1 : 0);
		sim_note("swap off: %d", r);
		must(r == 0 || r == -ENOMEM || r == -ETIMEDOUT || (r == -EIO && w.faults.disk_read),
		     SIM_CONTENT, "an end of swap", r);
		if (r < 0)
			continue;
		sim_sleep(sim_below(100000));
		r = disk_on();
		must(r == 0, SIM_CONTENT, "a swap on", r);
	}
}

static void observer(void *arg)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_block_info info = VAC_INIT(struct vac_block_info);

	(void)arg;
	for (uint64_t n = 2 + sim_below(10); n; n--) {
		struct vac_report *rep = NULL;
		int id = (int)sim_below((uint64_t)w.nr_blocks);

		if (sim_one_in(w.faults.blind ? 20 : 3))
			vac_block_cancel(w.pool, id);
		if (vac_report_block(w.pool, id, &rep) == 0)
			vac_report_free(rep);
		vac_block_info(w.pool, id, &info);
		vac_pool_stats(w.pool, &st);
		sim_sleep(sim_below(100000));
	}
}

/* ---- The world -------------------------------------------------------------------------------- */

static void open_pool(void)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	uint32_t pbs = 1u << sim_below(3); /* pageblocks a block */
	struct sim_faults calm = {0};
	uint64_t need, have = 0;
	void *at;
	int r;

	if (w.cfg.workload == WORK_SWAP && pbs > 2)
		pbs = 2;
	po.block_bytes = pbs * VAC_PAGEBLOCK_BYTES;
	po.max_bytes = po.block_bytes * VAC__MAX_BLOCKS;
	po.gate_timeout_ms = GATE_MS;
	po.fault_bytes = (uint32_t)(PAGE << sim_below(VAC__PB_ORDER + 1));
	po.flags = sim_one_in(4) ? VAC_POOL_BASE_ONLY : 0;
	po.flags |= sim_one_in(4) ? VAC_POOL_STACKS : 0;
	calm.waits = w.faults.waits = sim_one_in(2);
	sim_faults(&calm);
	r = vac_pool_open(&po, &w.pool);
	must(r == 0, SIM_CONTENT, "a pool's opening", r);

	so.bytes = ((uint64_t)w.nr_writers * REGION_PAGES + SHARED_PAGES + 2 + SCRATCH_PAGES + 8) *
		   PAGE;
	r = vac_space_create(w.pool, &so, &w.space);
	must(r == 0, SIM_CONTENT, "a space's creation", r);
	w.base = (uintptr_t)vac_space_base(w.space);
	/* All that is mapped, in pageblocks, and between one and three blocks more. */
	need = so.bytes / VAC_PAGEBLOCK_BYTES + 2;
	/* A third of it, but room for what may be pinned at once; the disk for the rest. */
	if (w.cfg.workload == WORK_SWAP) {
		w.disk_pages = need * VAC__PB_PAGES + 32;
		need = need / 3 > 2 + (uint64_t)w.nr_writers ? need / 3
							     : 2 + (uint64_t)w.nr_writers;
		r = disk_on();
		must(r == 0, SIM_CONTENT, "a swap on", r);
	}
	if (w.faults.blind) /* and what blocks that could not leave have left behind */
		need += pbs * 3;
	for (w.nr_blocks = 0; w.nr_blocks < (int)VAC__MAX_BLOCKS; w.nr_blocks++) {
		if (have >= need + pbs * (w.cfg.workload == WORK_SWAP ? 1 : 1 + sim_below(2)))
			break;
		r = vac_block_add(w.pool, NULL);
		must(r == w.nr_blocks, SIM_CONTENT, "an add", r);
		r = vac_block_online(w.pool, r, (enum vac_zone)sim_one_in(4));
		must(r == 0, SIM_CONTENT, "an online", r);
		have += pbs;
	}
	if (w.nr_blocks < 2) {
		r = vac_block_online(w.pool, vac_block_add(w.pool, NULL), VAC_ZONE_MOVABLE);
		must(r == 0, SIM_CONTENT, "an online", r);
		w.nr_blocks++;
	}
	r = vac_map(w.space, ptr(w.base), so.bytes / PAGE * PAGE, VAC_PROT_READ | VAC_PROT_WRITE,
		    VAC_MAP_FIXED, &at);
	must(r == 0, SIM_CONTENT, "a map", r);
	w.shared = w.base + (uint64_t)w.nr_writers * REGION_PAGES * PAGE;
	w.buffer = w.shared + SHARED_PAGES * PAGE;
	w.scratch = w.buffer + 2 * PAGE;
	for (int i = 0; i < w.nr_writers; i++) {
		w.writer[i].id = i;
		w.writer[i].base = w.base + (uint64_t)i * REGION_PAGES * PAGE;
		for (uint32_t p = 0; p < REGION_PAGES; p++) {
			w.writer[i].page[p].mapped = true;
			w.writer[i].page[p].prot = VAC_PROT_READ | VAC_PROT_WRITE;
		}
	}
}

static void draw_world(void)
{
	enum sim_workload k = w.cfg.workload;

	w.nr_writers = w.cfg.threads ? w.cfg.threads : 1 + (int)sim_below(3);
	if (w.nr_writers > WRITERS_MAX)
		w.nr_writers = WRITERS_MAX;
	w.steps_left = 8 + (uint32_t)sim_below(30);
	w.nr_queues = (int)sim_below(3);
	w.observer = sim_one_in(2);
	w.admin2 = sim_one_in(4);
	switch (k) {
	case WORK_MIX:
		for (int i = 2; i < OP_COUNT; i++)
			w.ops_off |= (uint32_t)sim_one_in(3) << i;
		break;
	case WORK_MIGRATE:
		w.ops_off = ((1u << OP_COUNT) - 1) &
			    ~(1u << OP_STORE | 1u << OP_LOAD | 1u << OP_ADD | 1u << OP_LOAD_OTHER);
		break;
	case WORK_PIN:
		w.ops_off = 1u << OP_MAP | 1u << OP_UNMAP | 1u << OP_PROTECT | 1u << OP_DONTNEED |
			    1u << OP_ADVISE;
		w.nr_queues = 1 + (int)sim_below(QUEUES_MAX);
		break;
	case WORK_MAP:
		w.ops_off = 1u << OP_LONGPIN;
		w.nr_queues = 0;
		break;
	case WORK_REFAULT:
		w.ops_off = ~(1u << OP_ADD);
		w.nr_queues = 0;
		w.nr_writers = 1;
		break;
	case WORK_FOREIGN:
		for (int i = OP_ADD; i < OP_COUNT; i++)
			w.ops_off |= (uint32_t)sim_one_in(3) << i;
		/* What moves out of a block that stays must be kept too: blocks that stay are wanted. */
		w.ops_off &= ~(1u << OP_FOREIGN_READ | 1u << OP_FOREIGN_WRITE | 1u << OP_LONGPIN);
		w.nr_writers = w.nr_writers < 3 ? 3 : w.nr_writers;
		w.nr_queues = 0;
		w.steps_left *= 2;
		w.faults.slow = sim_one_in(2) ? 20000 : 0;
		w.faults.blind = sim_one_in(2) ? 1 : sim_one_in(3) ? 3 : 0;
		break;
	case WORK_SWAP:
		for (int i = OP_ADD; i < OP_COUNT; i++)
			w.ops_off |= (uint32_t)sim_one_in(3) << i;
		w.nr_queues = (int)sim_below(2);
		w.steps_left *= 2;
		w.faults.disk_slow = sim_one_in(2) ? 30000 : 0;
		w.swapper = sim_one_in(2);
		break;
	default: w.nr_queues = QUEUES_MAX;
	}
	if (w.cfg.faults && k == WORK_SWAP) {
		w.faults.disk_read = sim_one_in(2) ? 12 : 0;
		w.faults.disk_write = sim_one_in(2) ? 12 : 0;
	}
	if (w.cfg.faults) {
		w.faults.populate = 20;
		w.faults.map = 30;
		w.faults.protect = 15;
		w.faults.leave = 15;
		w.faults.unmap = 30;
		w.faults.seal = 6;
		w.faults.open = 6;
		w.faults.held = 12;
		if (sim_one_in(3) && !w.faults.blind)
			w.faults.vma_limit = 12 + sim_below(40);
	}
}

/* A block that was left offline by a failing call comes back. */
static void every_block_online(void)
{
	for (int id = 0; id < w.nr_blocks; id++) {
		int r = vac_block_online(w.pool, id, VAC_ZONE_MOVABLE);

		if (r == -ENOENT) {
			struct vac_block_opts add = VAC_INIT(struct vac_block_opts);

			add.id = id;
			r = vac_block_add(w.pool, &add);
			must(r == id, SIM_CONTENT, "an add", r);
			r = vac_block_online(w.pool, id, VAC_ZONE_MOVABLE);
		}
		must(r == 0 || r == -EALREADY, SIM_CONTENT, "an online", r);
	}
}

/* Without failing calls, long-term pins and changes of mappings every block can leave: there is one
 * block's worth of memory more than all that is mapped. */
static void every_block_leaves(void)
{
	for (int id = 0; id < w.nr_blocks; id++) {
		int r = cycle(id, 2000, 0);

		if (r < 0)
			sim_fail(SIM_LIVENESS, "block %d does not leave, and nothing holds it (%d)",
				 id, r);
	}
}

/*
 * Where the host did not tell, frames that were moved out of a block which stayed wait for that block to
 * leave. False: so many that none can; then there is nothing more to be seen in this world.
 */
static bool quarantine_ends(void)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);

	for (int round = 0; round < 4; round++) {
		vac_pool_stats(w.pool, &st);
		if (st.frames_quarantined == 0)
			return true;
		for (int id = 0; id < w.nr_blocks; id++) {
			cycle(id, 2000, 0);
			every_block_online();
		}
	}
	vac_pool_stats(w.pool, &st);
	return st.frames_quarantined == 0;
}

/* All blocks have left since the last transfer, so all that came late has been carried over: nothing
 * has changed these words since. */
static void nothing_is_late(void)
{
	for (int i = 0; i < w.nr_writers; i++)
		for (uint32_t p = 0; p < REGION_PAGES; p++)
			w.writer[i].page[p].late = 0;
}

static void final_check(void)
{
	uint64_t sum = 0, v;
	char msg[160];
	int r;

	for (int i = 0; i < w.nr_writers; i++)
		for (uint32_t p = 0; p < REGION_PAGES; p++)
			for (uint32_t k = 0; k < WORDS; k++)
				load(&w.writer[i], p, k);
	for (uint32_t p = 0; p < SHARED_PAGES; p++) {
		r = sim_load(w.shared + p * PAGE, &v);
		must(r == 0, SIM_CONTENT, "a load of the shared counter", r);
		sum += v;
	}
	/* With no pin anywhere nothing refuses, whatever it cuts. */
	for (int i = 0; i < w.nr_writers; i++) {
		uint32_t p = (uint32_t)sim_below(REGION_PAGES);

		r = vac_unmap(w.space, ptr(addr_of(&w.writer[i], p, 0)), PAGE);
		must(r == 0, SIM_LIVENESS, "an unmap at rest", r);
	}
	if (sum != w.added)
		sim_fail(SIM_CONTENT, "the shared counters are %llu, %llu were added",
			 (unsigned long long)sum, (unsigned long long)w.added);
	r = vac_pool_check(w.pool, msg, sizeof(msg));
	if (r < 0)
		sim_fail(SIM_LEAK, "%s", msg);
}

void work_run(void *arg)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct sim_faults none = {0};
	bool over = false;
	int a = -1, a2 = -1, o = -1, sw = -1, storm[4], nr_storm = 0, r;

	memset(&w, 0, sizeof(w));
	w.cfg = *(const struct work_config *)arg;
	draw_world();
	open_pool();
	sim_faults(&w.faults);
	for (int i = 0; i < w.nr_queues; i++)
		w.queue[i] = sim_spawn("queue", queue, NULL);
	for (int i = 0; i < w.nr_writers; i++)
		w.writer[i].thread = sim_spawn("writer", writer, &w.writer[i]);
	if (w.cfg.workload == WORK_REFAULT)
		for (nr_storm = 0; nr_storm < 4; nr_storm++)
			storm[nr_storm] = sim_spawn("stormer", stormer, NULL);
	a = sim_spawn("admin", admin, NULL);
	if (w.admin2)
		a2 = sim_spawn("admin2", admin, NULL);
	if (w.observer)
		o = sim_spawn("observer", observer, NULL);
	if (w.swapper)
		sw = sim_spawn("swapper", swapper, NULL);
	for (int i = 0; i < w.nr_writers; i++)
		sim_join(w.writer[i].thread);
	sim_join(a);
	if (a2 >= 0)
		sim_join(a2);
	if (o >= 0)
		sim_join(o);
	if (sw >= 0)
		sim_join(sw);

	sim_note("second phase");
	none.waits = w.faults.waits;
	none.blind = w.faults.blind;
	none.slow = w.faults.slow;
	none.disk_slow = w.faults.disk_slow;
	sim_faults(&none);
	every_block_online();
	over = w.faults.blind && !quarantine_ends();
	if (w.cfg.workload == WORK_REFAULT)
		vac_advise(w.space, ptr(w.base), vac_space_bytes(w.space), VAC_ADV_WILLNEED);
	if (w.cfg.workload == WORK_SWAP) {
		/* Whatever could not be written has made slots bad: a disk anew, if memory reaches. */
		vac_unlock(w.space, ptr(w.base), vac_space_bytes(w.space));
		for (int i = 0; i < w.nr_writers; i++)
			for (uint32_t p = 0; p < REGION_PAGES; p++)
				vac_unlock(w.space, ptr(addr_of(&w.writer[i], p, 0)), PAGE);
	}
	w.calm = !over;
	for (int i = 0; i < w.nr_writers && !over; i++)
		w.writer[i].thread = sim_spawn("writer", writer, &w.writer[i]);
	if (!over)
		every_block_leaves();
	for (int i = 0; i < w.nr_writers && !over; i++)
		sim_join(w.writer[i].thread);
	if (w.cfg.workload == WORK_FOREIGN && !over) {
		every_block_leaves();
		if (w.faults.blind)
			must(quarantine_ends(), SIM_LIVENESS, "a quarantine without a holder", 0);
		nothing_is_late();
	}
	w.stop = true;
	for (int i = 0; i < w.nr_queues; i++)
		sim_join(w.queue[i]);
	for (int i = 0; i < nr_storm; i++)
		sim_join(storm[i]);

	final_check();
	vac_pool_stats(w.pool, &st);
	if (st.dangling)
		sim_fail(SIM_CRASH, "%llu dangling migration entries",
			 (unsigned long long)st.dangling);
	r = vac_pool_close(w.pool);
	must(r == 0, SIM_LEAK, "a pool's closing", r);
	if (sim_meta_live())
		sim_fail(SIM_LEAK, "%zu pieces of metadata left", sim_meta_live());
	sim_over();
}

/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of the space that everybody works on: what one shows is of one instant, stays as it is, and
 * is its owner's alone; and one of a snapshot that nobody else writes shows exactly the same.
 */
#include <string.h>

#include "sim/work.h"

#define SNAPPERS 2
#define PAGES_MAX (WRITERS_MAX * REGION_PAGES)

/* A snapshot, what its words are, as far as they are known, and what its owner may do with them. */
struct shot {
	struct vac_space *space;
	uint64_t base;
	bool unmapped[PAGES_MAX];
	bool known[PAGES_MAX][WORDS];
	uint64_t word[PAGES_MAX][WORDS];
};

static struct shot shots[SNAPPERS][2];
static int busy, next; /* snappers that have a snapshot; their numbers */
static bool pause;     /* no new ones */

static uint32_t pages(void)
{
	return (uint32_t)world.nr_writers * REGION_PAGES;
}

static uint64_t addr_of(const struct shot *s, uint32_t p, uint32_t i)
{
	return s->base + p * PAGE + i * 8;
}

static int take(struct vac_space *of, struct shot *s)
{
	int r;

	memset(s, 0, sizeof(*s));
	r = vac_space_snapshot(of, NULL, &s->space);
	sim_note("snapshot: %d", r);
	work_must(r == 0 || ((r == -ENOMEM || r == -ENOSPC) && work_may_starve()), SIM_CONTENT,
		  "a snapshot", r);
	if (r == 0)
		s->base = (uintptr_t)vac_space_base(s->space);
	return r;
}

/* A word of a snapshot is what it was at the first look. -EFAULT: it was not mapped to be read then. */
static void look(struct shot *s, uint32_t p, uint32_t i)
{
	bool starved = work_may_starve();
	uint64_t v = 0;
	int r = sim_load(addr_of(s, p, i), &v);

	sim_note("load %#llx: %d, %#llx", (unsigned long long)addr_of(s, p, i), r,
		 (unsigned long long)v);
	if (r == -ENOMEM && starved)
		return;
	if (r == -EFAULT)
		v = UINT64_MAX;
	else
		work_must(r == 0, SIM_CONTENT, "a load of a snapshot", r);
	if (s->known[p][i] && v != s->word[p][i])
		sim_fail(SIM_CONTENT, "a snapshot's page %u word %u was %#llx, is %#llx", p, i,
			 (unsigned long long)s->word[p][i], (unsigned long long)v);
	s->known[p][i] = true;
	s->word[p][i] = v;
}

/* A write of the owner's. Where it is refused nothing may be written, and nothing is. */
static void change(struct shot *s, uint32_t p, uint32_t i)
{
	bool starved = work_may_starve();
	uint64_t v = UINT64_C(0x5a) << 56 | sim_below(1u << 30);
	int r = sim_store(addr_of(s, p, i), v);

	sim_note("store %#llx: %d, %#llx", (unsigned long long)addr_of(s, p, i), r,
		 (unsigned long long)v);
	work_must(r == 0 || r == -EFAULT || (r == -ENOMEM && starved), SIM_CONTENT,
		  "a store to a snapshot", r);
	if (r == 0) {
		if (s->unmapped[p])
			sim_fail(SIM_CONTENT, "a store to a page that was unmapped");
		s->known[p][i] = true;
		s->word[p][i] = v;
	}
}

static void drop(struct shot *s, uint32_t p)
{
	uint32_t n = 1 + (uint32_t)sim_below(12);
	int r;

	if (n > pages() - p)
		n = pages() - p;
	r = vac_unmap(s->space, work_ptr(addr_of(s, p, 0)), n * PAGE);
	work_must(r == 0 || work_refused(r), SIM_CONTENT, "an unmap in a snapshot", r);
	for (uint32_t k = p; r == 0 && k < p + n; k++) {
		s->unmapped[k] = true;
		for (uint32_t i = 0; i < WORDS; i++) {
			s->known[k][i] = true;
			s->word[k][i] = UINT64_MAX;
		}
	}
}

/* A device reads what is pinned; the snapshot's bytes are its own from then on. */
static void pin(struct shot *s, uint32_t p, bool write)
{
	bool starved = work_may_starve();
	uint32_t i = (uint32_t)sim_below(WORDS);
	struct sim_dma d;
	uint64_t handle, v;
	int r = vac_pin(s->space, work_ptr(addr_of(s, p, 0)), PAGE, write ? VAC_PIN_WRITE : 0,
			"snapshot", &handle);

	work_must(r == 0 || r == -EFAULT || (r == -ENOMEM && starved), SIM_CONTENT,
		  "a pin of a snapshot", r);
	if (r < 0)
		return;
	r = work_dma_get(addr_of(s, p, 0), write, &d);
	work_must(r == 0, SIM_CONTENT, "a device's look at a pinned page", r);
	look(s, p, i);
	if (sim_one_in(2))
		sim_sleep(sim_below(20000));
	v = sim_dma_read(&d, i * 8);
	if (s->known[p][i] && v != s->word[p][i])
		sim_fail(SIM_CONTENT, "a device reads %#llx of a snapshot, which shows %#llx",
			 (unsigned long long)v, (unsigned long long)s->word[p][i]);
	if (write) {
		v = UINT64_C(0xd1) << 56 | sim_below(1u << 30);
		sim_dma_write(&d, i * 8, v);
		s->word[p][i] = v;
		s->known[p][i] = true;
		look(s, p, i);
	}
	sim_dma_put(&d);
	vac_unpin(world.pool, handle);
}

/*
 * One instant: what a writer had written before the call began is there; nothing is that it began to
 * write after the call had ended. What devices wrote, and what was dropped meanwhile, is not judged.
 */
struct before {
	uint64_t word[PAGES_MAX][WORDS];
	uint32_t gen[PAGES_MAX];
};
static struct before befores[SNAPPERS];

/* Which drops of a page are over; unlike any other while one is under way. */
static uint32_t drops_of(const struct page *m)
{
	return m->gen << 1 | m->going;
}

static void remember(struct before *b)
{
	for (int w = 0; w < world.nr_writers; w++) {
		for (uint32_t p = 0; p < REGION_PAGES; p++) {
			struct page *m = &world.writer[w].page[p];

			memcpy(b->word[(uint32_t)w * REGION_PAGES + p], m->word, sizeof(m->word));
			b->gen[(uint32_t)w * REGION_PAGES + p] = drops_of(m);
		}
	}
}

static void judge(struct shot *s, const struct before *b, const uint64_t *last, const uint32_t *gen,
		  uint32_t p, uint32_t i)
{
	uint32_t w = p / REGION_PAGES;
	uint64_t v, old = b->word[p][i];

	look(s, p, i);
	v = s->word[p][i];
	if (!s->known[p][i] || v == UINT64_MAX || gen[p] != b->gen[p] || gen[p] & 1)
		return;
	if (v < old || v > ((uint64_t)(w + 1) << 48 | last[w]))
		sim_fail(SIM_CONTENT, "a snapshot's page %u word %u: %#llx, was %#llx before it", p,
			 i, (unsigned long long)v, (unsigned long long)old);
}

static void use(struct shot *s, uint64_t n)
{
	while (n--) {
		uint32_t p = (uint32_t)sim_below(pages()), i = (uint32_t)sim_below(WORDS);

		switch (sim_below(10)) {
		case 0:
		case 1: change(s, p, i); break;
		case 2: pin(s, p, false); break;
		case 3: pin(s, p, true); break;
		case 4:
			if (sim_one_in(3))
				drop(s, p);
			break;
		default: look(s, p, i);
		}
		if (sim_one_in(8))
			sim_sleep(sim_below(100000));
	}
}

static void end_shot(struct shot *s)
{
	int r = vac_space_destroy(s->space);

	/* A host call may fail; it is given up with the pool then. */
	work_must(r == 0 || r == -ENOMEM, SIM_CONTENT, "a snapshot's end", r);
	while (r == -ENOMEM)
		r = vac_space_destroy(s->space);
	s->space = NULL;
}

static void round_of(int me)
{
	struct shot *a = &shots[me][0], *b = &shots[me][1];
	struct before *before = &befores[me];
	uint64_t last[WRITERS_MAX];
	uint32_t gen[PAGES_MAX];

	remember(before);
	if (take(world.space, a) < 0) {
		sim_sleep(10000);
		return;
	}
	for (int w = 0; w < world.nr_writers; w++)
		last[w] = world.writer[w].seq;
	for (uint32_t p = 0; p < pages(); p++)
		gen[p] = drops_of(&world.writer[p / REGION_PAGES].page[p % REGION_PAGES]);
	for (uint64_t n = 10 + sim_below(30); n; n--)
		judge(a, before, last, gen, (uint32_t)sim_below(pages()),
		      (uint32_t)sim_below(WORDS));
	use(a, sim_below(12));
	if (sim_one_in(2) && take(a->space, b) == 0) {
		uint64_t base = b->base;

		/* It is what the other one is, word for word. */
		memcpy(b->word, a->word, sizeof(b->word));
		memcpy(b->known, a->known, sizeof(b->known));
		memcpy(b->unmapped, a->unmapped, sizeof(b->unmapped));
		b->base = base;
		use(b, sim_below(12));
		use(a, sim_below(12));
		if (sim_one_in(2)) {
			end_shot(a);
			use(b, sim_below(12));
			end_shot(b);
			return;
		}
		end_shot(b);
	}
	use(a, sim_below(12));
	end_shot(a);
}

static void snapper(void *arg)
{
	int me = next++;

	(void)arg;
	while (!world.stop) {
		if (pause) {
			sim_sleep(2000000);
			continue;
		}
		busy++;
		round_of(me);
		busy--;
		if (sim_one_in(3))
			vac_pool_compact(world.pool, NULL, NULL);
		sim_sleep(sim_below(100000));
	}
}

static void draw(void)
{
	for (int i = OP_ADD; i < OP_OWN; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
	world.nr_writers = 1 + (int)sim_below(2);
	world.nr_queues = (int)sim_below(2);
	world.spare = 10; /* pageblocks, for copies */
	/* Folios that were cut for copies come together again. */
	world.pool_flags_on = sim_one_in(2) ? VAC_POOL_COMPACT : 0;
	busy = next = 0;
	pause = false;
}

/* From now on nobody may be refused memory, and blocks must be able to leave. */
static void calm(void)
{
	pause = true;
	while (busy)
		sim_sleep(50000);
}

const struct work_kind work_snapshot = {
	.name = "snapshot",
	.draw = draw,
	.more = snapper,
	.more_name = "snapper",
	.nr_more = SNAPPERS,
	.calm = calm,
};

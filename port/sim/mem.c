/* SPDX-License-Identifier: MIT */
/*
 * The machine: blocks of memory, the host's page table for spaces, and a translation cache a thread.
 *
 * Fault model. A host call that may fail does so one time in n, before it has done anything. A
 * translation, once cached, is used until a host call flushes it: map, protect, leave and unmap flush
 * their range after they have changed the page table, with a scheduling point in between, so that a
 * thread on another processor uses the old one for a while, as it would. Between a translation and
 * its access there is no such point: a processor finishes its instruction before it answers a flush.
 *
 * The host is one of two kinds. A touch that its page table refuses goes to the engine (as with the
 * SIGSEGV guard); or (faults.waits, as with userfaultfd) only a touch of a hole does, a write to a page
 * that is leaving waits until that is mapped anew, and everything else that is refused is refused for
 * good: so rights of the host that are not the engine's, and holes that are missing, are found.
 *
 * Checked here, at every call: an access that reaches memory which was given back (SIM_CRASH); a seal
 * that is asked for while a mapping or a device still has the block; a mapping of two owners; more
 * host mappings than were booked.
 */
#include <stdlib.h>
#include <string.h>

#include "port/sim/device.h"
#include "port/sim/sim.h"
#include "port/sim/world.h"

#define META_BYTES (8u << 20)
#define META_MAX 256
#define SPACES_MAX VAC__MAX_SPACES
#define SPACE_PAGES_MAX 512u
#define TLB_SLOTS 8
#define SIM_BLOCK_PAGES_MAX 64u
#define DIRECT_BYTES_MAX (1u << 20)
#define GIVEN_BACK 0xEB
#define UNTOUCHED 0xD5

/* ---- Metadata --------------------------------------------------------------------------------- */

static uint8_t *meta;
static size_t meta_top;
static struct {
	void *p;
	size_t bytes;
} meta_live[META_MAX];
static unsigned nr_meta;

static size_t round_up(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

void *vac__port_meta_reserve(size_t bytes)
{
	void *p;

	bytes = round_up(bytes);
	if (nr_meta == META_MAX || meta_top + bytes > META_BYTES)
		return NULL;
	p = meta + meta_top;
	memset(p, 0, bytes);
	meta_top += bytes;
	meta_live[nr_meta].p = p;
	meta_live[nr_meta++].bytes = bytes;
	return p;
}

void vac__port_meta_discard(void *p, size_t bytes)
{
	memset(p, 0, bytes);
}

/* Released memory is not handed out again in this run, and reads as nonsense. */
void vac__port_meta_release(void *p, size_t bytes)
{
	bytes = round_up(bytes);
	for (unsigned i = 0; i < nr_meta; i++) {
		if (meta_live[i].p != p)
			continue;
		if (meta_live[i].bytes != bytes)
			sim_fail(SIM_CRASH, "metadata of %zu bytes released as %zu",
				 meta_live[i].bytes, bytes);
		memset(p, 0xA5, bytes);
		meta_live[i] = meta_live[--nr_meta];
		/* The last one given out can be given again: reports come and go. */
		if ((uint8_t *)p + bytes == meta + meta_top)
			meta_top -= bytes;
		return;
	}
	sim_fail(SIM_CRASH, "metadata released that was not reserved");
}

void *vac__port_table_reserve(size_t bytes)
{
	return vac__port_meta_reserve(bytes);
}

void vac__port_table_release(void *p, size_t bytes)
{
	vac__port_meta_release(p, bytes);
}

void vac__port_table_dense(void *p, size_t bytes, size_t off, size_t part)
{
	(void)p, (void)bytes, (void)off, (void)part;
}

size_t sim_meta_live(void)
{
	return nr_meta;
}

/* ---- The host's state ------------------------------------------------------------------------- */

struct host_pte {
	int block; /* -1: bare, or a hole */
	uint32_t off;
	uint8_t prot;
	bool hole;
	bool watch; /* VAC__WATCH: a refused write asks the engine, and rights cut no mapping */
	bool blind; /* prot is what was revealed, and may be forgotten */
	uint32_t leaving; /* 0: not; else the run that leaves, which merges with no other */
};

struct host_space {
	uint64_t base;
	uint32_t pages;
	vac__fault_fn *fn;
	void *arg;
	struct host_pte pte[SPACE_PAGES_MAX];
};

struct host_block {
	bool open;
	uint8_t *mem;
	size_t bytes;
	int dma;                           /* devices that hold a frame of it, under a pin */
	int foreign;                       /* and without one */
	uint8_t held[SIM_BLOCK_PAGES_MAX]; /* of these, by page */
};

static struct host_space spaces[SPACES_MAX];
static struct host_block blocks[VAC__MAX_BLOCKS];
static uint8_t *direct;
static size_t direct_bytes;
static struct sim_faults faults;
static long vmas;
static uint32_t next_run;
static _Atomic uint32_t remapped; /* moves on, and wakes, whenever something is mapped anew */

struct translation {
	uint64_t page; /* address; 0: none */
	uint8_t *at;
	int block;
	uint8_t prot;
};
static struct translation tlb[SIM_THREADS_MAX][TLB_SLOTS];

void sim_faults(const struct sim_faults *f)
{
	faults = *f;
}

const struct sim_faults *sim_faults_now(void)
{
	return &faults;
}

void world_reset(void)
{
	if (!meta)
		meta = malloc(META_BYTES);
	if (!direct)
		direct = malloc(DIRECT_BYTES_MAX);
	if (!meta || !direct)
		abort();
	meta_top = 0;
	nr_meta = 0;
	memset(spaces, 0, sizeof(spaces));
	memset(blocks, 0, sizeof(blocks));
	memset(tlb, 0, sizeof(tlb));
	memset(&faults, 0, sizeof(faults));
	disk_reset();
	device_reset();
	direct_bytes = 0;
	vmas = 0;
}

static struct host_space *space_at(uint64_t addr)
{
	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct host_space *s = &spaces[i];

		if (s->base && addr >= s->base && addr - s->base < s->pages * VAC_PAGE_BYTES)
			return s;
	}
	return NULL;
}

static struct host_pte *pte_at(uint64_t addr)
{
	struct host_space *s = space_at(addr);

	if (!s)
		sim_fail(SIM_CRASH, "a host call on %#llx, which is no space's",
			 (unsigned long long)addr);
	return &s->pte[(addr - s->base) / VAC_PAGE_BYTES];
}

static void flush(uint64_t addr, size_t bytes)
{
	for (unsigned t = 0; t < SIM_THREADS_MAX; t++)
		for (unsigned i = 0; i < TLB_SLOTS; i++)
			if (tlb[t][i].page >= addr && tlb[t][i].page < addr + bytes)
				tlb[t][i].page = 0;
}

/* ---- Host mappings, counted ------------------------------------------------------------------- */

bool vac__port_vma_charge(long n, bool force)
{
	sim_yield();
	if (!force && n > 0 && faults.vma_limit && vmas + n > (long)faults.vma_limit)
		return false;
	vmas += n;
	return true;
}

void vac__port_vma_usage(uint64_t *used, uint64_t *limit)
{
	*used = vmas > 0 ? (uint64_t)vmas : 0;
	*limit = faults.vma_limit ? faults.vma_limit : 100000;
}

static bool joins(const struct host_pte *a, const struct host_pte *b)
{
	if (a->block != b->block || a->watch != b->watch || a->leaving != b->leaving ||
	    a->blind != b->blind || a->hole != b->hole ||
	    (a->prot != b->prot && !a->watch && !a->blind))
		return false;
	return a->block < 0 || b->off == a->off + VAC_PAGE_BYTES;
}

/* The mappings that the spaces take in truth never exceed what the engine has booked. */
static long count_vmas(void)
{
	long n = 0;

	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct host_space *s = &spaces[i];

		for (uint32_t p = 1; s->base && p < s->pages; p++)
			n += !joins(&s->pte[p - 1], &s->pte[p]);
	}
	return n;
}

static void check_vmas(void)
{
	long n = count_vmas();

	/* The run before the first and after the last filled pageblock is the reservation itself. */
	if (n > vmas + 1)
		sim_fail(SIM_CRASH, "%ld host mappings more than the reservations, %ld booked", n,
			 vmas);
}

static bool refuse(uint32_t one_in)
{
	sim_yield();
	return sim_one_in(one_in);
}

/* ---- Blocks ----------------------------------------------------------------------------------- */

static int mem_open(void **ctx, const char *name, int *guard, unsigned flags)
{
	(void)name, (void)flags;
	*ctx = &faults;
	*guard = faults.waits ? VAC_GUARD_USERFAULTFD : VAC_GUARD_SIGSEGV;
	return 0;
}

static void mem_close(void *ctx)
{
	(void)ctx;
	for (unsigned i = 0; i < SPACES_MAX; i++)
		if (spaces[i].base)
			sim_fail(SIM_LEAK, "a pool closed with a space reserved");
	for (unsigned i = 0; i < VAC__MAX_BLOCKS; i++)
		if (blocks[i].open)
			sim_fail(SIM_LEAK, "a pool closed with block %u open", i);
	if (vmas)
		sim_fail(SIM_LEAK, "a pool closed with %ld host mappings booked", vmas);
}

static int block_open(void *ctx, int id, size_t bytes, void *at, struct vac__backing *b)
{
	struct host_block *h = &blocks[id];

	(void)ctx;
	if (refuse(faults.open))
		return -ENOMEM;
	if (h->open)
		sim_fail(SIM_CRASH, "block %d opened twice", id);
	h->open = true;
	h->mem = at;
	h->bytes = bytes;
	if (bytes / VAC_PAGE_BYTES > SIM_BLOCK_PAGES_MAX)
		sim_fail(SIM_CRASH, "a block of more pages than are counted");
	memset(at, UNTOUCHED, bytes);
	*b = (struct vac__backing){.fd = id,
				   .bytes = bytes,
				   .direct = at,
				   .granule = VAC_PAGE_BYTES,
				   .priv = (uintptr_t)id};
	return 0;
}

static struct host_block *block_of(const struct vac__backing *b)
{
	struct host_block *h = &blocks[b->priv];

	if (!h->open)
		sim_fail(SIM_CRASH, "block %d is used after it was given back", (int)b->priv);
	return h;
}

static int block_populate(void *ctx, struct vac__backing *b, size_t off)
{
	(void)ctx;
	if (refuse(faults.populate))
		return -ENOMEM;
	memset(block_of(b)->mem + off, 0, VAC_PAGEBLOCK_BYTES);
	sim_yield();
	return sim_one_in(2);
}

static bool shown_somewhere(int id)
{
	for (unsigned i = 0; i < SPACES_MAX; i++)
		for (uint32_t p = 0; spaces[i].base && p < spaces[i].pages; p++)
			if (spaces[i].pte[p].block == id) {
				sim_note("space %u page %u shows block %d", i, p, id);
				return true;
			}
	for (unsigned t = 0; t < SIM_THREADS_MAX; t++)
		for (unsigned i = 0; i < TLB_SLOTS; i++)
			if (tlb[t][i].page && tlb[t][i].block == id) {
				sim_note("thread %u has %#llx of block %d cached", t,
					 (unsigned long long)tlb[t][i].page, id);
				return true;
			}
	return false;
}

static int block_seal(void *ctx, struct vac__backing *b, bool keep, uint64_t *resident)
{
	struct host_block *h = block_of(b);
	int id = (int)b->priv;

	(void)ctx;
	*resident = h->bytes;
	sim_yield();
	if (shown_somewhere(id))
		sim_fail(SIM_CRASH, "block %d is to be sealed while a space shows it", id);
	/* Engine pins were all gone: whoever holds a frame now was never told to the engine. */
	if (h->dma)
		sim_fail(SIM_CRASH, "block %d is to be sealed while a device holds %d frames", id,
			 h->dma);
	if (refuse(faults.seal) || h->foreign)
		return -EBUSY;
	if (!keep)
		b->direct = NULL;
	return 0;
}

/* Every device that holds a page here without a pin is found, or, on a host that hides them, none. What
 * is on its way through some list of the host's looks held for a moment. */
static int held(void *ctx, struct vac__backing *b, size_t off, size_t bytes, const void *shown,
		size_t *at)
{
	struct host_block *h = block_of(b);
	bool found = false;

	(void)ctx, (void)shown;
	sim_yield();
	*at = off;
	if (sim_one_in(faults.blind))
		return -EOPNOTSUPP;
	if (sim_one_in(faults.held))
		return 1;
	for (size_t i = off / VAC_PAGE_BYTES; i < (off + bytes) / VAC_PAGE_BYTES && !found; i++) {
		found = h->held[i] != 0;
		*at = found ? i * VAC_PAGE_BYTES : off;
	}
	/* The answer is of a moment of the call, and may be old when it arrives. */
	if (faults.slow && sim_one_in(4))
		sim_sleep(sim_below(faults.slow));
	return found;
}

static bool sees(void *ctx)
{
	(void)ctx;
	return !faults.blind;
}

static void holder(void *ctx, const void *shown, size_t bytes, char *text, size_t max,
		   uint32_t *tid)
{
	(void)ctx, (void)shown, (void)bytes;
	strncpy(text, "device", max);
	*tid = 0;
}

static void block_close(void *ctx, struct vac__backing *b)
{
	struct host_block *h = block_of(b);

	(void)ctx;
	sim_yield();
	memset(h->mem, GIVEN_BACK, h->bytes);
	h->open = false;
	b->direct = NULL;
	b->fd = -1;
}

static int direct_reserve(void *ctx, size_t bytes, size_t align, void **addr)
{
	(void)ctx, (void)align;
	if (direct_bytes || bytes > DIRECT_BYTES_MAX)
		return -ENOMEM;
	direct_bytes = bytes;
	memset(direct, GIVEN_BACK, bytes);
	*addr = direct;
	return 0;
}

static void direct_release(void *ctx, void *addr, size_t bytes)
{
	(void)ctx, (void)addr;
	/* Nobody has written where there was no block. */
	for (size_t i = 0; i < bytes; i++)
		if (direct[i] != GIVEN_BACK)
			sim_fail(SIM_CRASH, "memory written after it was given back, at frame %zu",
				 i / VAC_PAGE_BYTES);
	direct_bytes = 0;
}

/* ---- Spaces ----------------------------------------------------------------------------------- */

static int space_reserve(void *ctx, size_t bytes, vac__fault_fn *fn, void *arg, void **addr)
{
	(void)ctx;
	for (unsigned i = 0; i < SPACES_MAX; i++) {
		struct host_space *s = &spaces[i];

		if (s->base)
			continue;
		if (bytes / VAC_PAGE_BYTES > SPACE_PAGES_MAX)
			return -ENOMEM;
		s->base = (uint64_t)(i + 1) << 24;
		s->pages = (uint32_t)(bytes / VAC_PAGE_BYTES);
		s->fn = fn;
		s->arg = arg;
		for (uint32_t p = 0; p < s->pages; p++)
			s->pte[p] = (struct host_pte){.block = -1};
		*addr = (void *)(uintptr_t)s->base;
		return 0;
	}
	return -ENOMEM;
}

static void space_release(void *ctx, void *addr, size_t bytes)
{
	struct host_space *s = space_at((uintptr_t)addr);

	(void)ctx;
	flush((uintptr_t)addr, bytes);
	s->base = 0;
}

static void wake_writers(void)
{
	atomic_fetch_add(&remapped, 1);
	vac__port_wake(&remapped, INT_MAX);
}

static int map(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
	       unsigned prot)
{
	struct host_block *h = block_of(b);
	uint64_t a = (uintptr_t)addr;
	bool told = pte_at(a)->leaving || prot & VAC__BLIND;

	(void)ctx;
	if (off + bytes > h->bytes)
		sim_fail(SIM_CRASH, "a mapping beyond block %d", (int)b->priv);
	if (prot & VAC__WATCH && !faults.waits)
		sim_fail(SIM_CRASH, "a host is asked to watch that cannot");
	/* A prepared run cannot be refused: everything it needs is there. */
	if (!pte_at(a)->leaving && refuse(faults.map))
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		*pte_at(a + i) =
			(struct host_pte){.block = (int)b->priv,
					  .off = (uint32_t)(off + i),
					  .prot = (uint8_t)(prot & (VAC__READ | VAC__WRITE)),
					  .watch = prot & VAC__WATCH};
	check_vmas();
	sim_yield();
	flush(a, bytes);
	if (told)
		wake_writers();
	sim_yield();
	return 0;
}

/* leaving: the run's number, 0: none any more, -1: as it is. */
static void set_prot(uint64_t a, size_t bytes, unsigned prot, int64_t leaving)
{
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		/* A page that is blind and not revealed stays so. */
		if (!pte_at(a + i)->blind || pte_at(a + i)->prot)
			pte_at(a + i)->prot = (uint8_t)(prot & (VAC__READ | VAC__WRITE));
		if (leaving >= 0)
			pte_at(a + i)->leaving = (uint32_t)leaving;
	}
	check_vmas();
	sim_yield();
	flush(a, bytes);
	sim_yield();
}

/* Does the range cut a host mapping? Only then can the host refuse it other rights. */
static bool divides(uint64_t a, size_t bytes)
{
	struct host_space *s = space_at(a);
	uint32_t first = (uint32_t)((a - s->base) / VAC_PAGE_BYTES);
	uint32_t end = first + (uint32_t)(bytes / VAC_PAGE_BYTES);

	return (first > 0 && joins(&s->pte[first - 1], &s->pte[first])) ||
	       (end < s->pages && joins(&s->pte[end - 1], &s->pte[end]));
}

static int protect(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		if (pte_at(a + i)->block < 0)
			sim_fail(SIM_CRASH, "rights given to bare addresses");
	if (refuse(faults.protect) && divides(a, bytes))
		return -ENOMEM;
	set_prot(a, bytes, prot, -1);
	return 0;
}

static int leave(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		if (pte_at(a + i)->block < 0 || pte_at(a + i)->leaving)
			sim_fail(SIM_CRASH, "a run leaves that is not there, or is leaving");
		if (prot && !pte_at(a + i)->blind != !(prot & VAC__BLIND))
			sim_fail(SIM_CRASH, "a run leaves as blind, or is and leaves as not");
		if (prot && pte_at(a + i)->prot & ~prot)
			sim_fail(SIM_CRASH, "a run leaves with rights %u, the host gives %u", prot,
				 pte_at(a + i)->prot);
	}
	if (refuse(faults.leave))
		return -ENOMEM;
	next_run++;
	if (prot) {
		set_prot(a, bytes, prot & VAC__READ, next_run);
		return 0;
	}
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		pte_at(a + i)->leaving = next_run;
	check_vmas();
	return 0;
}

static void stay(void *ctx, void *addr, size_t bytes, struct vac__backing *b, size_t off,
		 unsigned prot)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		if (!pte_at(a + i)->leaving)
			sim_fail(SIM_CRASH, "a run stays that was not leaving");
		if (b && (pte_at(a + i)->block != (int)b->priv || pte_at(a + i)->off != off + i))
			sim_fail(SIM_CRASH, "a run stays that shows something else");
	}
	sim_yield();
	if (prot)
		set_prot(a, bytes, prot, 0);
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		pte_at(a + i)->leaving = 0;
	wake_writers();
}

static int allow(void *ctx, void *addr, size_t bytes)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	if (refuse(faults.protect))
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		struct host_pte *p = pte_at(a + i);

		if (p->block < 0 || !(p->watch || p->blind) || p->leaving)
			sim_fail(SIM_CRASH, "writers are let in where none are watched");
		if (!p->blind || p->prot) /* else forgotten */
			p->prot |= VAC__WRITE;
	}
	wake_writers();
	sim_yield();
	return 0;
}

static int blind(void *ctx, void *addr, size_t bytes)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	if (refuse(faults.protect))
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		if (pte_at(a + i)->block < 0 || !faults.waits)
			sim_fail(SIM_CRASH, "made blind where nothing is shown");
		pte_at(a + i)->prot = 0;
		pte_at(a + i)->watch = false;
		pte_at(a + i)->blind = true;
	}
	check_vmas();
	sim_yield();
	flush(a, bytes);
	wake_writers();
	sim_yield();
	return 0;
}

static int reveal(void *ctx, void *addr, size_t bytes, unsigned prot)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	if (refuse(faults.protect))
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES) {
		if (pte_at(a + i)->block < 0 || !pte_at(a + i)->blind || pte_at(a + i)->leaving)
			sim_fail(SIM_CRASH, "revealed where nothing is blind");
		if (!pte_at(a + i)->prot)
			pte_at(a + i)->prot = (uint8_t)prot;
	}
	wake_writers();
	sim_yield();
	return 0;
}

static void clear(uint64_t a, size_t bytes, bool hole)
{
	for (size_t i = 0; i < bytes; i += VAC_PAGE_BYTES)
		*pte_at(a + i) = (struct host_pte){.block = -1, .hole = hole};
	check_vmas();
	sim_yield();
	flush(a, bytes);
	wake_writers();
	sim_yield();
}

static int unmap(void *ctx, void *addr, size_t bytes)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	if (!pte_at(a)->leaving && refuse(faults.unmap))
		return -ENOMEM;
	clear(a, bytes, false);
	return 0;
}

static int hole(void *ctx, void *addr, size_t bytes, bool fresh)
{
	uint64_t a = (uintptr_t)addr;

	(void)ctx;
	for (size_t i = 0; fresh && i < bytes; i += VAC_PAGE_BYTES)
		if (pte_at(a + i)->block >= 0)
			sim_fail(SIM_CRASH, "a fresh hole where something is shown");
	if (!pte_at(a)->leaving && refuse(faults.unmap))
		return -ENOMEM;
	clear(a, bytes, true);
	return 0;
}

static void quiet(void *ctx)
{
	(void)ctx;
}

const struct vac__mem_ops vac__port_mem_ops = {
	.quiet = quiet,
	.open = mem_open,
	.close = mem_close,
	.block_open = block_open,
	.block_populate = block_populate,
	.block_seal = block_seal,
	.block_close = block_close,
	.held = held,
	.sees = sees,
	.holder = holder,
	.direct_reserve = direct_reserve,
	.direct_release = direct_release,
	.space_reserve = space_reserve,
	.space_release = space_release,
	.map = map,
	.protect = protect,
	.leave = leave,
	.stay = stay,
	.allow = allow,
	.blind = blind,
	.reveal = reveal,
	.unmap = unmap,
	.hole = hole,
	.swap_open = disk_open,
	.swap_close = disk_close,
	.swap_io = disk_io,
	.io_open = device_open,
	.io_close = device_close,
	.io_submit = device_submit,
	.io_cancel = device_cancel,
	.io_collect = device_collect,
	.io_kick = device_kick,
	.io_buffer = device_buffer,
	.io_file = device_file,
	.io_file_drop = device_file_drop,
};

/* ---- A processor's access --------------------------------------------------------------------- */

static struct translation *cached(uint64_t page, unsigned access)
{
	struct translation *t = tlb[sim_self()];

	for (unsigned i = 0; i < TLB_SLOTS; i++)
		if (t[i].page == page && (t[i].prot & access) == access)
			return &t[i];
	return NULL;
}

/*
 * The page table refuses an access: who is asked? 0: try it again. The host that waits: handlers ask
 * the engine for holes only, and where a write is not allowed, for what is (guard_uffd.c).
 */
static int refused(struct host_space *s, uint64_t addr, unsigned access)
{
	struct host_pte *p = &s->pte[(addr - s->base) / VAC_PAGE_BYTES];
	int r;

	if (!faults.waits)
		return s->fn(s->arg, (uintptr_t)addr, access);
	if (p->block >= 0 && !(p->blind && !p->prot)) {
		uint32_t seen = atomic_load(&remapped);

		if ((p->prot & access) == access)
			return 0; /* allowed by now */
		if (!(p->leaving || p->watch || p->blind) || !(p->prot & VAC__READ) ||
		    access != VAC__WRITE)
			return -EFAULT;
		r = s->fn(s->arg, (uintptr_t)addr, VAC__WAITS);
		if (r == 1)
			return s->fn(s->arg, (uintptr_t)addr, VAC__WRITE);
		vac__port_wait(&remapped, seen, 0);
		return 0;
	}
	if (!p->hole && p->block < 0)
		return -EFAULT;
	r = s->fn(s->arg, (uintptr_t)addr, access);
	if (r == -EFAULT && access == VAC__WRITE) {
		r = s->fn(s->arg, (uintptr_t)addr, VAC__READ);
		r = r == 0 ? 0 : -EFAULT;
	}
	return r;
}

/* A translation for this access, from the cache, the page table, or the engine. */
static int translate(uint64_t addr, unsigned access, struct translation **out)
{
	uint64_t page = addr & ~(uint64_t)(VAC_PAGE_BYTES - 1);

	for (int tries = 0;; tries++) {
		struct host_space *s = space_at(addr);
		struct translation *t = cached(page, access);
		struct host_pte *p;
		int r;

		if (!s)
			return -EFAULT;
		if (t) {
			*out = t;
			break;
		}
		p = &s->pte[(addr - s->base) / VAC_PAGE_BYTES];
		/* The host's own reclaim may take a page out of the page table at any time. */
		if (p->blind && p->prot && !p->leaving && sim_one_in(32)) {
			p->prot = 0;
			flush(page, VAC_PAGE_BYTES);
		}
		if (p->block >= 0 && (p->prot & access) == access) {
			t = &tlb[sim_self()][sim_below(TLB_SLOTS)];
			for (unsigned i = 0; i < TLB_SLOTS; i++)
				if (tlb[sim_self()][i].page == page)
					t = &tlb[sim_self()][i];
			*t = (struct translation){.page = page,
						  .at = blocks[p->block].mem + p->off,
						  .block = p->block,
						  .prot = p->prot};
			*out = t;
			break;
		}
		if (tries > 1000)
			sim_fail(SIM_LIVENESS, "the same access faults for ever");
		sim_yield();
		r = refused(s, addr, access);
		if (r < 0)
			return r;
	}
	if (!blocks[(*out)->block].open)
		sim_fail(SIM_CRASH, "a stale translation reaches block %d, which was given back",
			 (*out)->block);
	return 0;
}

static uint64_t *word_at(struct translation *t, uint64_t addr)
{
	return (uint64_t *)(void *)(t->at + addr % VAC_PAGE_BYTES);
}

int sim_load(uint64_t addr, uint64_t *value)
{
	struct translation *t;
	int r;

	sim_yield();
	r = translate(addr, VAC__READ, &t);
	if (r == 0)
		*value = *word_at(t, addr);
	return r;
}

int sim_store(uint64_t addr, uint64_t value)
{
	struct translation *t;
	int r;

	sim_yield();
	r = translate(addr, VAC__WRITE, &t);
	if (r == 0)
		*word_at(t, addr) = value;
	return r;
}

int sim_fetch_add(uint64_t addr, uint64_t n)
{
	struct translation *t;
	int r;

	sim_yield();
	r = translate(addr, VAC__WRITE, &t);
	if (r == 0)
		*word_at(t, addr) += n;
	return r;
}

/* ---- A device's ------------------------------------------------------------------------------- */

int sim_dma_get(uint64_t addr, bool write, struct sim_dma *d)
{
	struct translation *t;
	int r;

	sim_yield();
	r = translate(addr, write ? VAC__WRITE : VAC__READ, &t);
	if (r < 0)
		return r;
	d->at = t->at;
	d->block = t->block;
	blocks[d->block].dma++;
	return 0;
}

int sim_gup(uint64_t addr, bool write, struct sim_dma *d)
{
	unsigned access = write ? VAC__WRITE : VAC__READ;
	struct host_space *s;
	struct host_pte *p;

	sim_yield();
	s = space_at(addr);
	p = s ? &s->pte[(addr - s->base) / VAC_PAGE_BYTES] : NULL;
	if (!p || p->block < 0 || (p->prot & access) != access)
		return -EFAULT;
	d->block = p->block;
	d->page = p->off / VAC_PAGE_BYTES;
	d->at = blocks[p->block].mem + p->off;
	blocks[p->block].foreign++;
	blocks[p->block].held[d->page]++;
	return 0;
}

static void dma_check(const struct sim_dma *d)
{
	if (!blocks[d->block].open)
		sim_fail(SIM_CRASH, "a device reaches block %d, which was given back", d->block);
}

void sim_dma_put(struct sim_dma *d)
{
	dma_check(d);
	blocks[d->block].dma--;
}

void sim_gup_put(struct sim_dma *d)
{
	dma_check(d);
	blocks[d->block].foreign--;
	blocks[d->block].held[d->page]--;
}

/* The page was dropped under the device, which its owner may do: it reaches nothing of anybody's, or
 * something that the pin does not keep. */
void sim_dma_abandon(struct sim_dma *d)
{
	blocks[d->block].dma--;
}

void sim_dma_write(struct sim_dma *d, size_t off, uint64_t value)
{
	sim_yield();
	dma_check(d);
	memcpy(d->at + off, &value, sizeof(value));
}

uint64_t sim_dma_read(struct sim_dma *d, size_t off)
{
	uint64_t v;

	sim_yield();
	dma_check(d);
	memcpy(&v, d->at + off, sizeof(v));
	return v;
}

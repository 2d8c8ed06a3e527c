/* SPDX-License-Identifier: MIT */
/*
 * The engine's glossary and main types. Standard C only: what needs a system is in port/port.h.
 *
 *	page   4 KiB of a space's addresses, numbered from the space's first
 *	vpb    a pageblock of addresses: 512 pages; the unit of a huge mapping and of page-table locks
 *	frame  4 KiB of the pool's memory, numbered by pfn; block id * frames per block + offset
 *	pb     a pageblock of frames: pfn >> 9
 *	folio  a base frame, or a huge one: a whole pageblock, described by its first (head) frame
 *	entry  a slot of the page table: none, present, migration (the folio is leaving), or swap (the
 *	       bytes are in a slot of the swap file, or in the folio that the swap cache has for it)
 *
 * Locks are listed, with their order, in lock.h. Lock-free readers: vac_pin() reads entries and
 * words (pin.c says why that is safe); the offline scan reads frames' flags and words and verifies
 * under a reference; reports and statistics read everything and promise nothing beyond "as it was
 * when looked at". All of it can be read at any time because descriptors are never unmapped while
 * the pool lives: a removed block's read as zeroes.
 */
#ifndef VAC_INTERNAL_H
#define VAC_INTERNAL_H

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "geometry.h"
#include "lock.h"
#include "port/port.h"
#include "vacate.h"
#include "word.h"

#ifndef EUCLEAN
#define EUCLEAN 117 /* not in every errno.h; the value is Linux's */
#endif

#ifndef ETXTBSY
#define ETXTBSY 26 /* Linux's */
#endif
#define VAC__EHELD ETXTBSY /* somebody outside the engine holds the page */

#define VAC__BUG(what) vac__port_panic(__FILE__, __LINE__, what)
#define VAC__ASSERT(cond)                                     \
	do {                                                  \
		if (!(cond))                                  \
			VAC__BUG("assertion failed: " #cond); \
	} while (0)
#ifdef VAC_DEBUG
#define VAC__DEBUG_ASSERT(cond) VAC__ASSERT(cond)
#else
#define VAC__DEBUG_ASSERT(cond) ((void)0)
#endif

/* Something may have happened: waited for by an offline. */
struct vac__event {
	_Atomic uint32_t seq, waiters;
};

#include "relocate.h"

/* ---- Frames --------------------------------------------------------------------------------- */

/* frame.flags. The kind changes under the zone lock, or by the one who holds the folio frozen;
 * ISOLATED by atomic or/and. Read without a lock by scans, which verify. */
#define VAC__F_ORDER 0xfu      /* of a free chunk */
#define VAC__F_BUDDY 0x10u     /* head of a free chunk */
#define VAC__F_RESV 0x20u      /* free, kept for a neighbour in its reservation */
#define VAC__F_BASE 0x40u      /* a base folio */
#define VAC__F_HEAD 0x80u      /* head of a huge folio */
#define VAC__F_TAIL 0x100u     /* the other 511 frames of one */
#define VAC__F_ISOLATED 0x200u /* a migration or split has picked it; it also holds a reference */
#define VAC__F_QUAR 0x400u     /* in quarantine: nobody's, and for nobody yet (quarantine.c) */
#define VAC__F_FOREIGN 0x800u  /* was held from outside when its page was dropped */
/* Of swap; see swap.c. CLEAN and READING only together with SWAPCACHE, which goes with a reference. */
#define VAC__F_SWAPCACHE 0x1000u /* the swap cache names it for a slot */
#define VAC__F_YOUNG 0x100000u   /* was needed since the clock's hand came by */
#define VAC__F_CLEAN 0x200000u   /* its bytes are in its slot too */
#define VAC__F_READING 0x400000u /* its bytes are on their way from the slot */
#define VAC__F_COLD 0x800000u    /* hidden from the host by VAC_ADV_COLD, and not touched since */
#define VAC__F_KIND \
	(VAC__F_BUDDY | VAC__F_RESV | VAC__F_BASE | VAC__F_HEAD | VAC__F_TAIL | VAC__F_QUAR)

struct vac__frame {
	vac__word word;
	_Atomic uint32_t lock; /* the folio lock: see wait.c */
	_Atomic uint32_t flags;
	union {
		/* In use: where it is mapped, page `index` of the spaces of `family`. Set before the
		 * first mapping by the one who allocated it; constant until freed. */
		struct {
			_Atomic uint32_t family, index;
		};
		/* Head of a free chunk: its list; guarded by the zone lock. */
		struct {
			_Atomic uint32_t next, prev;
		};
	};
};
_Static_assert(sizeof(struct vac__frame) <= 24, "at most 32 bytes of metadata a frame");

/* A pageblock of frames. All guarded by the zone lock, except populated: written by the one who
 * took the whole pageblock off the free list. */
struct vac__pb {
	uint16_t nr_free; /* frames in free chunks */
	uint16_t nr_resv; /* frames kept by its reservation */
	_Atomic uint16_t
		nr_quar; /* frames in quarantine; written under the lock, looked at without */
	_Atomic uint8_t populated; /* VAC__PB_* */
	uint8_t zone;
	bool online;
	_Atomic bool
		grouped; /* what is in it was moved here to be pinned for long; looked at without */
	bool isolated;   /* free chunks here are on no list: nothing is allocated */
	/* The reservation: pages of one vpb at their own offsets in this pageblock. */
	uint32_t resv_space; /* space id + 1, 0: none */
	uint32_t resv_vpb;
	uint32_t resv_next, resv_prev; /* list of reservations, oldest first; pb numbers */
};
#define VAC__ZONE_BIT(zone) (1u << (zone))
#define VAC__ZONES_ALL (VAC__ZONE_BIT(VAC_ZONE_MOVABLE) | VAC__ZONE_BIT(VAC_ZONE_NORMAL))
enum { VAC__PB_VIRGIN = 0, VAC__PB_BASE, VAC__PB_HUGE };

struct vac__free_list {
	uint32_t head, tail;
};

/* ---- Spaces --------------------------------------------------------------------------------- */

/*
 * Entries. A present entry's rights (E_READ, E_WRITE) are the engine's; E_HMAP, E_HREAD, E_HWRITE
 * say what the host shows there now: never more than the entry allows. A migration entry keeps
 * them, names the source's pfn, and the host shows that read-only at most.
 * An entry without E_EXCL is of a folio that others may show too: the host lets nobody write there,
 * whatever E_WRITE says, which is the mapping's right. A write, or a pin, makes it exclusive (cow.c).
 * With E_HBLIND the mapping is there and shows what was revealed of it: E_HREAD and E_HWRITE say what,
 * but the host may forget it. A huge folio has nothing revealed.
 * In a pmd slot a huge folio's entry stands for 512 pages; E_TABLE sends readers to the ptes.
 */
#define VAC__E_TYPE 7u
#define VAC__E_PRESENT 1u
#define VAC__E_MIGRATION 2u
#define VAC__E_SWAP 3u /* the slot's number stands in place of a pfn */
#define VAC__E_TABLE 4u
#define VAC__E_HBLIND 8u /* shown, and page by page at that (the port's blind and reveal) */
#define VAC__E_READ 0x10u
#define VAC__E_WRITE 0x20u
#define VAC__E_EXCL 0x40u /* no other space shares the folio: only such folios are pinned */
#define VAC__E_CLEAN \
	0x80u /* exclusive, but E_WRITE is withheld until the slot is given up: swap.c */
#define VAC__E_HMAP 0x100u
#define VAC__E_HREAD 0x200u
#define VAC__E_HWRITE 0x400u
#define VAC__E_HWATCH 0x800u /* shown so that writers can be let in page by page: VAC__WATCH */
#define VAC__E_HOST (VAC__E_HMAP | VAC__E_HREAD | VAC__E_HWRITE | VAC__E_HWATCH | VAC__E_HBLIND)
#define VAC__E_RIGHTS (VAC__E_READ | VAC__E_WRITE)
#define VAC__E_PFN_SHIFT 16
typedef _Atomic uint64_t vac__entry;

static inline uint32_t vac__e_pfn(uint64_t e)
{
	return (uint32_t)(e >> VAC__E_PFN_SHIFT);
}
static inline uint64_t vac__e_make(uint32_t pfn, uint64_t bits)
{
	return (uint64_t)pfn << VAC__E_PFN_SHIFT | bits;
}
static inline bool vac__e_present(uint64_t e)
{
	return (e & VAC__E_TYPE) == VAC__E_PRESENT;
}
static inline bool vac__e_migration(uint64_t e)
{
	return (e & VAC__E_TYPE) == VAC__E_MIGRATION;
}

static inline bool vac__e_swap(uint64_t e)
{
	return (e & VAC__E_TYPE) == VAC__E_SWAP;
}

/* The rights of the mapping, what E_CLEAN withholds included. */
static inline uint64_t vac__e_rights(uint64_t e)
{
	return (e & VAC__E_RIGHTS) | (e & VAC__E_CLEAN ? VAC__E_WRITE : 0);
}

struct vac__vma {
	uint32_t start, end; /* pages */
	uint8_t prot;
	bool nohuge;
	bool locked; /* kept out of swap */
	bool ring;   /* of a direct I/O context: stays as it is */
};

#define VAC__STREAMS 8u

/* Spaces born of one another share a family: the root of the reverse map. Slots are never
 * unmapped, so that a stale family number finds a lock and a list, perhaps somebody else's. */
struct vac__family {
	struct vac__rwlock lock; /* rank rmap: guards the list, and freezes all VMAs of its spaces */
	struct vac_space *_Atomic first;
	bool held; /* by a fork(), which holds it: fork.c */
};

struct vac_space {
	struct vac_pool *pool;
	uint32_t fork_runs; /* writable runs that a fork() has stopped; guarded by its locks */
	uint32_t id;        /* slot in pool->spaces */
	uint32_t family;    /* id of the space that it was born with */
	bool cloned; /* folios of it may be shared; set under its lock, and its family's, for write */
	struct vac_space *next_in_family;
	char name[VAC_NAME_MAX];
	uint8_t *base;
	/* Stored when all above is, loaded before any of it by whoever was not told of the space by its
	 * creator: the threads that serve faults learn of it through the kernel only. */
	_Atomic uint32_t ready;
	uint32_t pages, vpbs;
	/* Where the latest reads from swap began and ended: swapin.c. */
	_Atomic uint64_t stream[VAC__STREAMS];
	_Atomic uint32_t next_stream;

	struct vac__rwlock lock; /* rank space: guards vmas */
	struct vac__vma *vmas;   /* sorted by start, disjoint, never adjacent and equal */
	uint32_t nr_vmas, cap_vmas;

	/* One element a vpb or page; reserved whole, touched where used. */
	vac__entry *pmd;
	vac__entry *pte;
	struct vac__mutex *ptl;     /* guards the entries and the host mapping of a vpb */
	struct vac__mutex segments; /* rank segments: guards nseg */
	uint16_t *nseg;             /* host mappings booked for a vpb, 0: it shows nothing */
	_Atomic uint32_t users;     /* engine threads that are at it: destroying waits for them */
	_Atomic uint32_t nr_rings;  /* direct I/O contexts whose ring lies here */
	/* About: pageblocks that writers began to have copied page by page, and those of which so much was that the rest
	 * followed; and what that says of the next ones: see cow.c. */
	_Atomic uint32_t cow_begun, cow_dense, cow_turn;
	_Atomic bool cow_whole;
	uint32_t *resv; /* pb + 1 of its reservation; guarded by the zone lock */
};

/* ---- Pins ----------------------------------------------------------------------------------- */

struct vac__run {
	uint32_t pfn;
	uint32_t n; /* folios; VAC__RUN_HUGE: of 512 frames each */
};
#define VAC__RUN_HUGE (UINT32_C(1) << 31)
#define VAC__RUN_MOVED (UINT32_C(1) << 30) /* has new frames that its holder has not been told of */
#define VAC__RUN_FOLIOS (VAC__RUN_MOVED - 1)
#define VAC__PIN_RUNS 4
#define VAC__MORE_HEAD 2 /* words in front of an overflow array: see more_room() in pin.c */

/*
 * A record of the ledger: who pins what. seq is the record's life: its low two bits are 0 free, 1
 * live, 2 being released; what is above counts the lives. A handle is (index, seq while live): the
 * one who moves exactly that seq to "released" drops the pins, so a handle is good once. A reader
 * that sees the same life, not free, before and after has read one pin's record.
 */
#define VAC__SEQ_LIVE 1u
#define VAC__SEQ_RELEASED 2u
static inline bool vac__seq_used(uint32_t seq)
{
	return (seq & 3) != 0;
}
static inline bool vac__seq_same(uint32_t a, uint32_t b)
{
	return a >> 2 == b >> 2 && vac__seq_used(b);
}

struct vac__pin_rec {
	_Atomic uint32_t seq;
	_Atomic uint32_t next;    /* free list link: index + 1 */
	_Atomic uint32_t nr_runs; /* 0: being taken */
	_Atomic uint32_t flags, tid;
	_Atomic uint32_t space;     /* id + 1 */
	_Atomic uint32_t stack;     /* index + 1 into the stacks */
	_Atomic uint32_t more_runs; /* capacity of *more */
	uint32_t home;              /* free list it goes back to; constant once made */
	_Atomic uint64_t addr, len, when_ns;
	_Atomic uint64_t owner[VAC_OWNER_MAX / 8];
	_Atomic uint64_t run[VAC__PIN_RUNS]; /* n << 32 | pfn */
	_Atomic(_Atomic uint64_t *) more;    /* all the runs, where there are more than four */
};

/* vac__pin_rec.flags: VAC_PIN_*, VAC_OWNER_*. With one of the latter it has a vac__pin_ext. */
#define VAC__PIN_EXT (VAC_OWNER_RELOCATABLE | VAC_OWNER_REVOCABLE)
/* Its frames are counted in longterm.pages. */
#define VAC__PIN_COUNTED 0x1000u
#define VAC__PIN_PUBLIC 0xfffu
#define VAC__PIN_WHY_SHIFT 16 /* from here: why it is VAC_OWNER_KEPT, as a positive errno value */

#define VAC__LEDGER_SHARDS 16u

struct vac__stack {
	_Atomic uint32_t depth;
	uint32_t hash;
	uintptr_t pc[VAC_STACK_MAX];
};

struct vac__ledger {
	struct vac__pin_rec *rec; /* reserved whole, first `top` are in use or on a free list */
	struct vac__pin_ext *ext; /* the same of pins with callbacks; see relocate.c */
	_Atomic uint32_t top;
	struct vac__mutex grow;                       /* rank ledger */
	_Atomic uint64_t free[VAC__LEDGER_SHARDS][8]; /* [0]: tag << 32 | index + 1; padded */
	_Atomic uint32_t live;
	_Atomic uint32_t longterm;
	struct vac__stack *stacks; /* interned; filled under grow, read when depth != 0 */
	_Atomic uint32_t nr_stacks;
};

/* ---- Blocks and the pool -------------------------------------------------------------------- */

struct vac__block {
	_Atomic uint32_t state; /* 0: unknown number, else enum vac_block_state + 1 */
	uint8_t zone;
	_Atomic uint32_t cancel;
	_Atomic int fd;              /* for vac_block_info(), which takes no lock */
	_Atomic uint32_t file_flags; /* the same: 1 it has a file, 2 which is unsealable */
	struct vac__file file;       /* hotplug lock; from add to remove */
	struct vac__backing backing; /* hotplug lock; constant while online */
	_Atomic uint32_t watched;    /* 1: some of its frames have sums */
	bool sealed;                 /* hotplug lock: certified, not compared yet */
	uint64_t resident;           /* bytes that it held then */
};

/* The record of a frame that was left while the platform could not say who holds it. */
#define VAC__SECTORS 8u
struct vac__watch {
	_Atomic uint32_t armed; /* 1: the page below still wants what comes late */
	_Atomic uint32_t sums; /* 1: there are sums: only the block's certificate frees the frame */
	_Atomic uint32_t family, space, index; /* the oldest space that showed it, by its number */
	uint64_t sum[VAC__SECTORS];
};

/* Late bytes that could not be carried over, of the offline in hand. */
struct vac__lost {
	char space[VAC_NAME_MAX];
	uintptr_t addr;
	uint32_t bytes, pfn;
};

struct vac__bucket {
	_Atomic uint32_t seq;
	uint32_t pad[15]; /* a cache line each */
};

struct vac__mig_item {
	uint32_t src, dst;
	uint32_t family, index; /* rmap key */
	uint32_t pins;          /* that move with it: their holders keep still meanwhile */
	uint16_t unit;          /* first item of its unit, within its group */
	uint8_t state;
	uint8_t watch; /* VAC__WATCH_* */
	bool huge;
	int err;
};
/* What the look has found: nobody; somebody; the platform cannot tell. */
enum { VAC__WATCH_NONE, VAC__WATCH_HELD, VAC__WATCH_SUMS };
#define VAC__BATCH VAC__PB_PAGES

/* Compaction's two scanners, as pageblocks. Guarded by the hotplug lock; source < target. */
struct vac__gather {
	uint32_t source; /* being emptied */
	uint32_t target; /* takes in what comes from below, at its own place or from `at` on */
	uint32_t at;
};

/* Where a migration goes, if not where the allocator puts it. */
struct vac__mig_aim {
	struct vac__gather *gather; /* into what it names, or NULL */
	uint32_t huge;  /* the batch is a whole vpb and becomes this huge folio, or VAC__NO_PFN */
	unsigned zones; /* only into these (VAC__ZONE_BIT), 0: any */
};
/* ---- Swap ----------------------------------------------------------------------------------- */

#define VAC__NO_SLOT UINT32_MAX
#define VAC__SLOT_BAD (UINT32_C(1) << 31) /* in count: could not be written, used for nothing */

struct vac__slot {
	_Atomic uint32_t count; /* entries that name it; written under the swap lock */
	/* pfn + 1 of the folio that the swap cache has for it, 0: none. Written under the swap lock
	 * and the lock of that folio. Read without: who then gets the folio's lock looks again. */
	_Atomic uint32_t cache;
	uint32_t family, index; /* of those entries; set when the slot is taken */
};

#define VAC__SWAP_ASKED 16u
struct vac__ahead {
	uint32_t space, at, end; /* pages */
};

struct vac__swap {
	struct vac__swapfile file;
	_Atomic uint32_t state;  /* VAC__SWAP_*; ON to ENDING under the lock */
	struct vac__mutex lock;  /* rank swap: slots, and which are free */
	struct vac__slot *slot;  /* reserved whole */
	uint8_t *taken;          /* of each cluster of slots, how many are */
	uint32_t nr_slots, next; /* next: cluster at which the search for free ones goes on */
	_Atomic uint32_t nr_taken, nr_bad;
	_Atomic uint32_t *of; /* by pfn: its slot + 1; like slot[].cache */

	/* The clock: clusters of frames, counted on for ever. back follows front. */
	_Atomic uint64_t front, back;
	_Atomic uint32_t top;        /* blocks from here on were never online; hotplug lock */
	_Atomic int64_t nr_inactive; /* folios in the cache that nothing maps; about */
	_Atomic uint64_t acts;       /* times that something about that has changed */
	_Atomic uint32_t busy;       /* calls that have folios in hand and will let go of them */
	struct vac__event event;     /* one of those has ended, or memory was freed */
	/* A bit for each cluster of frames of which some may be cold; reserved whole. */
	_Atomic uint64_t *cold;
	_Atomic uint32_t
		any_cold; /* stored after a bit of them, cleared before a last look at them */
	/* What VAC_ADV_WILLNEED has asked for, oldest first; guarded by lock, `at` moved on and the first
	 * taken by swap's thread alone. */
	struct vac__ahead asked[VAC__SWAP_ASKED];
	uint32_t first_asked;
	_Atomic uint32_t nr_asked;
	struct vac__mutex step; /* rank background: its thread is at work */
	struct vac__event kick; /* memory is short: the background thread has work */
	_Atomic uint32_t stop;  /* it is to end */
	uintptr_t thread;
	uint64_t said_ns; /* guarded by lock: when the log was last told of an error */

	_Atomic uint64_t in, out, second_chances, errors;
};
enum { VAC__SWAP_OFF, VAC__SWAP_ON, VAC__SWAP_ENDING };

struct vac__counters {
	_Atomic uint64_t faults, fault_waits, migrate_attempts, migrate_folios, migrate_bytes;
	_Atomic uint64_t gate_waits, splits, dangling, wakes, wake_batch_max_ns;
	_Atomic uint64_t foreign_held, late_carried, late_lost;
	_Atomic uint64_t snapshots, snapshot_copies, cow_copies, cow_bytes, cow_reuses;
	_Atomic uint64_t gathered, collapsed_in_place, collapsed_by_copy, repaired;
};

/* See longterm.c. */
#define VAC__SITES 64u
struct vac__longterm {
	_Atomic uint64_t pages;       /* of long-term pins in normal memory; once for each pin */
	_Atomic uint64_t kept;        /* and in movable memory */
	_Atomic uint64_t moved, back; /* frames that were moved out of movable memory, and back */
	_Atomic uint64_t failed;      /* pins that had to stay there */
	_Atomic uintptr_t site[VAC__SITES]; /* that were warned of */
	_Atomic uint32_t stale;             /* 1: pins have gone, and their pages may move back */
	struct vac__mig_item batch[VAC__BATCH]; /* hotplug lock */
};

struct vac_pool {
	struct vac_pool *next; /* of all pools; see fork.c */
	char name[VAC_NAME_MAX];
	struct vac_pool_opts opts;
	const struct vac__mem_ops *mem;
	void *mem_ctx;
	int guard;
	bool watches; /* the guard stops the kernel's own writes too: see VAC__WATCH in port.h */

	uint32_t pb_per_block, block_shift; /* block_shift: log2 of frames a block */
	uint32_t max_blocks;
	uint8_t *direct; /* direct map: frame pfn is at direct + pfn * 4096 */
	size_t direct_bytes;
	struct vac__frame *frames;
	struct vac__pb *pbs;

	struct vac__mutex hotplug; /* rank hotplug: block states, backings, the migration batch */
	struct vac__block *blocks;

	struct vac__mutex zone;                           /* rank zone: all of the allocator */
	struct vac__free_list free[2][VAC__PB_ORDER + 1]; /* by enum vac_zone */
	struct vac__free_list resv;                       /* of pageblocks, through resv_next */
	_Atomic uint64_t nr_total, nr_free, nr_resv, nr_isolated; /* written under zone */
	_Atomic uint64_t nr_quar;                                 /* likewise */
	_Atomic uint64_t nr_freed;              /* likewise: times that frames have become free */
	_Atomic uint64_t nr_pb_free;            /* likewise: whole pageblocks on the free lists */
	_Atomic uint64_t nr_movable, nr_normal; /* likewise: frames online, by zone */
	uint32_t long_pb; /* zone lock: where the next page goes that is pinned for long, or none */
	uint32_t draining; /* zone lock: the pageblock that compaction empties, or none */
	_Atomic uint64_t nr_pb_huge, nr_pb_base;
	_Atomic uint32_t said_base;     /* 1: the log knows that there are 4 KiB host pages */
	_Atomic uint32_t said_dangling; /* 1: and that a migration entry was left behind */

	struct vac__mutex
		spaces_lock; /* rank space, never with a space's lock: the table of spaces */
	struct vac_space *_Atomic spaces[VAC__MAX_SPACES];
	struct vac__family families[VAC__MAX_SPACES];
	_Atomic uint32_t nr_spaces;
	struct vac__mutex fault[64]; /* rank fault, by (space, vpb) */

	_Atomic uint32_t nr_words; /* records of wait words */
	_Atomic uint32_t holds;    /* of control/: the pool cannot be closed meanwhile */
	struct vac__ledger ledger;
	struct vac__bucket buckets[VAC__BUCKETS]; /* gates, hashed by pfn */
	struct vac__event progress;
	_Atomic uint32_t
		offliners; /* offlines under way: whoever frees, unpins or maps tells them */

	/* The batch of the migration in hand; guarded by hotplug. */
	struct vac__mig_item batch[VAC__BATCH];
	uint32_t scratch[VAC__BATCH];

	struct vac__watch *watch;             /* by pfn; reserved whole, touched where used */
	_Atomic uint32_t nr_watched;          /* records that are armed */
	struct vac__lost lost[VAC__LOST_MAX]; /* hotplug lock */
	bool looked;      /* hotplug lock: the platform has told who holds pages, in this offline */
	unsigned nr_lost; /* may be more */

	struct vac__counters c;
	struct vac__swap swap;
	struct vac__reloc reloc;
	struct vac__longterm longterm;

	struct vac__mutex aio_lock;        /* rank aio setup */
	struct vac__aio_pool *_Atomic aio; /* aio.h; NULL before the first context */

	struct vac__compactor {
		uintptr_t thread;       /* of the port; constant while `runs` */
		bool runs;              /* written by open and close only */
		_Atomic uint32_t stop;  /* closing */
		struct vac__event wake; /* there may be work */
	} compactor;

	_Atomic uint32_t fork_gate; /* a fork() is copying: short write pins wait; see fork.c */

	struct vac__mutex refused_lock; /* rank refused */
	struct vac_fault_info refused;  /* the last fault that was; guarded by it */
};

static inline struct vac__frame *vac__frame(struct vac_pool *pool, uint32_t pfn)
{
	return &pool->frames[pfn];
}
static inline void *vac__frame_addr(struct vac_pool *pool, uint32_t pfn)
{
	return pool->direct + ((size_t)pfn << VAC__PAGE_SHIFT);
}
static inline struct vac__block *vac__pfn_block(struct vac_pool *pool, uint32_t pfn)
{
	return &pool->blocks[pfn >> pool->block_shift];
}
/* Where in its block's backing a frame is. */
static inline size_t vac__pfn_off(const struct vac_pool *pool, uint32_t pfn)
{
	return (size_t)(pfn & ((UINT32_C(1) << pool->block_shift) - 1)) << VAC__PAGE_SHIFT;
}
/* Is pfn the k-th frame after `first`, and of the same block? One host mapping can show both. */
static inline bool vac__pfn_follows(const struct vac_pool *pool, uint32_t first, uint32_t k,
				    uint32_t pfn)
{
	return pfn == first + k && pfn >> pool->block_shift == first >> pool->block_shift;
}
static inline void *vac__page_addr(const struct vac_space *s, uint32_t page)
{
	return s->base + ((size_t)page << VAC__PAGE_SHIFT);
}

/* The longest that anybody waits for others who hold something for a moment. */
static inline uint64_t vac__gate_deadline(const struct vac_pool *pool)
{
	return vac__port_now() + (uint64_t)pool->opts.gate_timeout_ms * 1000000;
}

/* The stretch of a call in which it may take locks: signals and cancellation are off. */
#define VAC__ENTER()                       \
	struct vac__port_saved vac__saved; \
	vac__port_enter(&vac__saved)
#define VAC__LEAVE() vac__port_leave(&vac__saved)

/* ---- wait.c ---- */
bool vac__folio_trylock(struct vac_pool *pool, uint32_t pfn);
void vac__folio_lock(struct vac_pool *pool, uint32_t pfn);
void vac__folio_unlock(struct vac_pool *pool, uint32_t pfn);
bool vac__folio_wait_prepare(struct vac_pool *pool, uint32_t pfn, uint32_t *ticket);
void vac__folio_wait(struct vac_pool *pool, uint32_t pfn, uint32_t ticket);
void vac__gate_wait(struct vac_pool *pool, uint32_t pfn);
void vac__gate_wake(struct vac_pool *pool, uint32_t pfn, uint64_t old_word);
uint32_t vac__event_read(struct vac__event *e);
int vac__event_wait(struct vac__event *e, uint32_t seen, uint64_t deadline_ns);
void vac__event_signal(struct vac__event *e);
static inline void vac__progress(struct vac_pool *pool)
{
	/* Sequentially consistent on both sides: the offliner counts itself in, then looks; we have
	 * changed a word, then look for offliners. One of us sees the other. */
	if (vac__ld(&pool->offliners))
		vac__event_signal(&pool->progress);
}

/* ---- frame.c ---- */
void vac__frames_online(struct vac_pool *pool, uint32_t pfn, enum vac_zone zone);
void vac__frames_offline(struct vac_pool *pool, uint32_t pfn);
void vac__frames_isolate(struct vac_pool *pool, uint32_t pfn);
void vac__frames_unisolate(struct vac_pool *pool, uint32_t pfn);
uint32_t vac__frames_used(struct vac_pool *pool, uint32_t pfn, uint32_t *nr_free,
			  uint32_t *nr_resv);
int vac__huge_alloc(struct vac_pool *pool, bool want_zero, uint32_t *pfn);
int vac__base_alloc(struct vac_pool *pool, struct vac_space *space, uint32_t page, uint32_t *pfn);
int vac__huge_alloc_in(struct vac_pool *pool, unsigned zones, bool want_zero, uint32_t *pfn);
int vac__base_alloc_in(struct vac_pool *pool, unsigned zones, struct vac_space *space,
		       uint32_t page, uint32_t *pfn);
int vac__long_alloc(struct vac_pool *pool, uint32_t page, uint32_t *pfn);
int vac__gather_alloc(struct vac_pool *pool, struct vac__gather *g, struct vac_space *space,
		      uint32_t page, uint32_t *pfn);
uint32_t vac__gather_room(struct vac_pool *pool, const struct vac__gather *g, uint32_t want);
uint32_t vac__frames_sparse(struct vac_pool *pool, uint32_t pb, unsigned zone);
void vac__frames_drain(struct vac_pool *pool, uint32_t pb);
void vac__resv_end(struct vac_pool *pool, uint32_t pfn);
void vac__folio_free(struct vac_pool *pool, uint32_t pfn);
void vac__folio_put(struct vac_pool *pool, uint32_t pfn, uint64_t unit);
void vac__folio_quarantine(struct vac_pool *pool, uint32_t pfn, bool sums);
unsigned vac__frames_free(struct vac_pool *pool, uint32_t pfn, uint32_t *chunks);
void vac__frames_withhold(struct vac_pool *pool, uint32_t pfn, uint32_t n);
void vac__frames_release(struct vac_pool *pool, uint32_t pfn, uint32_t n);
void vac__resv_forget(struct vac_pool *pool, struct vac_space *space, uint32_t first_vpb,
		      uint32_t nr_vpbs);

/* ---- map.c ---- */
static inline vac__entry *vac__pmd(struct vac_space *s, uint32_t vpb)
{
	return &s->pmd[vpb];
}
static inline vac__entry *vac__pte(struct vac_space *s, uint32_t page)
{
	return &s->pte[page];
}
void vac__ptl_lock(struct vac_space *s, uint32_t vpb);
void vac__ptl_unlock(struct vac_space *s, uint32_t vpb);
uint64_t vac__entry_get(struct vac_space *s, uint32_t page);
unsigned vac__host_prot(uint64_t entry);
uint64_t vac__entry_for(uint32_t pfn, unsigned prot);
int vac__install_huge(struct vac_space *s, uint32_t vpb, uint32_t pfn, unsigned prot);
int vac__install_base(struct vac_space *s, uint32_t first, const uint32_t *pfns, uint32_t n,
		      unsigned prot);
int vac__host_refresh(struct vac_space *s, uint32_t page);
int vac__host_refresh_table(struct vac_space *s, uint32_t vpb);
void vac__segments_settle(struct vac_space *s, uint32_t vpb, long charged);
void vac__zap(struct vac_space *s, uint32_t first, uint32_t end);
void vac__entries_hide(struct vac_space *s, uint32_t first, uint32_t end);
void vac__entries_protect(struct vac_space *s, uint32_t first, uint32_t end, unsigned prot);
void vac__entries_blind(struct vac_space *s, uint32_t first, uint32_t end);
void vac__entries_stop(struct vac_space *s, uint32_t first, uint32_t end);
int vac__host_hide(struct vac_space *s, uint32_t page, uint32_t n);
void vac__host_cool(struct vac_space *s, uint32_t page, uint32_t end);
unsigned vac__host_want(const struct vac_pool *pool, uint64_t entry);
uint64_t vac__host_bits(unsigned prot);

/* ---- rmap.c ---- */
void vac__family_join(struct vac_pool *pool, uint32_t family, struct vac_space *s);
void vac__family_leave(struct vac_pool *pool, struct vac_space *s);
struct vac_space *vac__rmap_first(struct vac_pool *pool, uint32_t family);
struct vac_space *vac__rmap_find(struct vac_pool *pool, uint32_t family, uint32_t id);

/* ---- vma.c ---- */
uint32_t vac__vma_after(const struct vac_space *s, uint32_t page);
const struct vac__vma *vac__vma_find(const struct vac_space *s, uint32_t page);
void vac__vma_insert(struct vac_space *s, uint32_t at, struct vac__vma v);
void vac__vma_cut(struct vac_space *s, uint32_t page);
void vac__vma_merge_around(struct vac_space *s, uint32_t first, uint32_t end);
void vac__vma_inherit(struct vac_space *to, const struct vac_space *from);
bool vac__vma_room(const struct vac_space *s);
void vac__vma_remove(struct vac_space *s, uint32_t first, uint32_t end);
bool vac__vma_ring(const struct vac_space *s, uint32_t first, uint32_t end);
bool vac__vma_covers(const struct vac_space *s, uint32_t first, uint32_t end);
bool vac__vma_hole(const struct vac_space *s, uint32_t n, uint32_t align, uint32_t *first);

/* ---- space.c ---- */
int vac__space_create(struct vac_pool *pool, uint64_t bytes, const char *name,
		      struct vac_space *kin, struct vac_space **out);
int vac__space_destroy(struct vac_space *s);
int vac__vmas_clone(struct vac_space *to, const struct vac_space *from);
int vac__ring_map(struct vac_space *s, uint32_t pages, uint32_t *first);
int vac__ring_unmap(struct vac_space *s, uint32_t first, uint32_t end);
struct vac_space *vac__space_get(struct vac_pool *pool, uint32_t id);
void vac__space_put(struct vac_space *s);

int vac__range(const struct vac_space *s, const void *addr, size_t len, uint32_t *first,
	       uint32_t *end);
void vac__vmas_book(struct vac_space *s, uint32_t before);
int vac__drop(struct vac_space *s, uint32_t first, uint32_t end, bool forget, bool ring);
int vac__populate(struct vac_space *s, uint32_t first, uint32_t end, bool all);

/* ---- fault.c ---- */
int vac__fault(void *space, uintptr_t addr, unsigned access);
int vac__fault_in(struct vac_space *s, uint32_t page, unsigned access);
struct vac__mutex *vac__fault_lock(struct vac_space *s, uint32_t vpb);
int vac__fill_table(struct vac_space *s, const struct vac__vma *v, uint32_t vpb);

/* ---- dangling.c ---- */
extern bool vac__dangling_stops; /* cleared by tests: a debug build goes on as a release build does */
int vac__dangling(struct vac_space *s, uint32_t page);
bool vac__left_behind(struct vac_space *s, uint32_t page);

/* Beside VAC__READ and VAC__WRITE: the page is to be exclusive, as it is going to be pinned. */
#define VAC__UNSHARE 0x100u

/* ---- cow.c ---- */
int vac__unshare(struct vac_space *s, const struct vac__vma *v, uint32_t page, uint32_t pfn);
void vac__cow_learn(struct vac_space *s);

/* ---- swap.c ---- */
enum vac__swap_look { VAC__SWAP_DONE, VAC__SWAP_WAIT, VAC__SWAP_AGAIN, VAC__SWAP_READ };
enum vac__swap_look vac__swap_look(struct vac_space *s, uint32_t page, unsigned access,
				   uint32_t *pfn, uint32_t *ticket, int *err);
int vac__swap_upgrade(struct vac_space *s, uint32_t page);
bool vac__swap_insert(struct vac_pool *pool, uint32_t slot, uint32_t pfn, uint32_t family,
		      uint32_t index);
void vac__swap_drop_unlock(struct vac_pool *pool, uint32_t pfn);
uint32_t vac__swap_users(struct vac_pool *pool, uint32_t pfn);
void vac__swap_own(struct vac_pool *pool, uint32_t pfn);
void vac__swap_settle(struct vac_pool *pool, uint32_t pfn);
void vac__swap_dup(struct vac_pool *pool, uint32_t slot);
void vac__swap_put(struct vac_pool *pool, uint32_t slot);
void vac__swap_reap(struct vac_pool *pool, uint32_t slot);
uint32_t vac__swap_slot(struct vac_pool *pool, uint32_t pfn);
void vac__swap_written(struct vac_pool *pool, uint32_t pfn);
bool vac__swap_cache_add(struct vac_pool *pool, const uint32_t *pfns, unsigned n);
void vac__swap_cache_drop(struct vac_pool *pool, uint32_t pfn);
void vac__swap_cache_end(struct vac_pool *pool, uint32_t pfn);
void vac__swap_cache_move(struct vac_pool *pool, uint32_t src, uint32_t dst);
bool vac__swap_cache_free(struct vac_pool *pool, uint32_t pfn);
unsigned vac__swap_map_all(struct vac_pool *pool, uint32_t pfn);
void vac__swap_bad(struct vac_pool *pool, uint32_t slot);
void vac__swap_error(struct vac_pool *pool, bool write);
int vac__swap_bring(struct vac_pool *pool, uint32_t slot, bool wait);
void vac__swap_release(struct vac_pool *pool);
static inline bool vac__swapcache(struct vac_pool *pool, uint32_t pfn)
{
	return vac__ld_rlx(&vac__frame(pool, pfn)->flags) & VAC__F_SWAPCACHE;
}

/* ---- swapin.c ---- */
/* Pages of a space that follow one another, whose bytes are about to be read: their folios are locked and in
 * the cache, but where somebody was faster (VAC__NO_PFN). */
struct vac__swapin {
	uint32_t n, at; /* which of the n is wanted */
	uint32_t slot[VAC__SWAP_CLUSTER], pfn[VAC__SWAP_CLUSTER];
};
int vac__swapin_begin(struct vac_space *s, uint32_t page, bool alone, struct vac__swapin *in);
int vac__swapin_fill(struct vac_pool *pool, struct vac_space *s, struct vac__swapin *in,
		     uint32_t family, uint32_t index);
int vac__swapin_read(struct vac_pool *pool, struct vac__swapin *in, uint32_t *kept);
void vac__swapin_ask(struct vac_space *s, uint32_t first, uint32_t end);
bool vac__swapin_step(struct vac_pool *pool);
/* Slots that are read together, into memory that is not the pool's. */
#define VAC__PEEK_RUNS 32u
#define VAC__PEEK_BYTES 262144u /* a run, at most */
struct vac__peek {
	struct vac__swap_run run[VAC__PEEK_RUNS];
	unsigned n;
};
int vac__swap_peek(struct vac_pool *pool, struct vac__peek *p, uint32_t slot, void *to);
int vac__swap_peek_end(struct vac_pool *pool, struct vac__peek *p);
/* ---- aio.c ---- */
int vac__aio_close(struct vac_pool *pool);
void vac__aio_quiet(struct vac_pool *pool);
void vac__aio_forget(struct vac_space *s);
void vac__aio_hold(struct vac_pool *pool);
void vac__aio_let_go(struct vac_pool *pool);
unsigned vac__aio_cancel_block(struct vac_pool *pool, uint32_t first, uint32_t frames);

/* ---- reclaim.c ---- */
bool vac__reclaim(struct vac_pool *pool, uint32_t want, uint64_t seen_freed);
uint32_t vac__reclaim_some(struct vac_pool *pool, uint32_t want, unsigned together);
uint64_t vac__swap_room(struct vac_pool *pool);
uint32_t vac__reclaim_pageblock(struct vac_pool *pool, uint32_t pfn);
void vac__reclaim_cold(struct vac_pool *pool, uint32_t pfn);
void vac__reclaim_divide(struct vac_pool *pool, uint32_t pfn);
int vac__reclaim_start(struct vac_pool *pool);
void vac__reclaim_stop(struct vac_pool *pool);
/* Free frames below which the background thread begins; it stops at twice as many. */
static inline uint64_t vac__low_water(struct vac_pool *pool)
{
	uint64_t low = vac__ld_rlx(&pool->nr_total) / 64;

	return low < 2 * VAC__SWAP_CLUSTER ? 2 * VAC__SWAP_CLUSTER : low;
}
/* A frame was taken. */
static inline void vac__reclaim_kick(struct vac_pool *pool)
{
	if (vac__ld_rlx(&pool->swap.state) == VAC__SWAP_ON &&
	    vac__ld_rlx(&pool->nr_free) + vac__ld_rlx(&pool->nr_resv) < vac__low_water(pool) &&
	    vac__ld(&pool->swap.kick.waiters))
		vac__event_signal(&pool->swap.kick);
}
void vac__reclaim_done(struct vac_pool *pool, bool did);

/* ---- prefault.c ---- */
int vac__space_list(struct vac_space *s);
void vac__space_unlist(struct vac_space *s);
/* ---- refuse.c ---- */
void vac__refuse(struct vac_space *s, uintptr_t addr, unsigned access, int err);

/* ---- split.c ---- */
int vac__split(struct vac_pool *pool, uint32_t pfn);
int vac__split_at(struct vac_space *s, uint32_t page, uint32_t *pfn, uint32_t *ticket);

/* ---- pin.c, ledger.c ---- */
int vac__ledger_open(struct vac_pool *pool);
void vac__ledger_close(struct vac_pool *pool);
bool vac__ledger_space_held(struct vac_pool *pool, uint32_t space_id);
struct vac__pin_view {
	uint32_t flags, tid, space, nr_runs;
	uint64_t addr, len, when_ns;
	char owner[VAC_OWNER_MAX];
	int error; /* of its callbacks */
	unsigned depth;
	uintptr_t stack[VAC_STACK_MAX];
};
bool vac__pin_view(struct vac_pool *pool, uint32_t index, struct vac__pin_view *v);
bool vac__pin_holds(struct vac_pool *pool, uint32_t index, uint32_t pfn);
bool vac__pin_touches(struct vac_pool *pool, uint32_t index, uint32_t first, uint32_t frames);
uint64_t vac__pin_sum(struct vac_pool *pool, uint32_t index);
bool vac__pin_find(struct vac_pool *pool, uint32_t pfn, uint32_t *cursor, struct vac__pin_view *v);
typedef bool vac__run_fn(void *ctx, uint32_t first, uint32_t step, uint32_t n);
bool vac__pin_runs(struct vac_pool *pool, uint32_t index, vac__run_fn *fn, void *ctx);
int vac__runs_room(struct vac__pin_rec *r, uint32_t nr, uint64_t runs);
void vac__runs_replace(struct vac__pin_rec *r, uint32_t first, const uint32_t *to);
int vac__rec_take(struct vac_pool *pool, uint32_t *index);
void vac__rec_free(struct vac_pool *pool, uint32_t index);
uint32_t vac__stack_intern(struct vac_pool *pool, const uintptr_t *pc, unsigned depth);

/* ---- relocate.c ---- */
/* When to give up waiting: asked often. */
struct vac__reloc_wait {
	bool (*stop)(void *arg);
	void *arg;
	uint64_t deadline_ns;
};
int vac__ext_begin(struct vac_pool *pool, uint32_t index, const struct vac_pin_opts *o);
void vac__ext_ready(struct vac_pool *pool, uint64_t handle);
void vac__ext_end(struct vac_pool *pool, uint32_t index);
void vac__reloc_begin(struct vac_pool *pool);
void vac__reloc_look(struct vac_pool *pool, uint32_t pfn);
void vac__reloc_quiesce(struct vac_pool *pool, uint32_t pfn, const struct vac__reloc_wait *w);
void vac__reloc_count(struct vac_pool *pool, uint32_t pfn);
void vac__reloc_take(struct vac_pool *pool, uint32_t pfn);
void vac__reloc_moved(struct vac_pool *pool, uint32_t pfn, const struct vac__mig_item *items,
		      unsigned n);
void vac__reloc_resume(struct vac_pool *pool);
bool vac__reloc_revoke(struct vac_pool *pool, uint32_t pfn, const struct vac__reloc_wait *w);
void vac__reloc_hire(struct vac_pool *pool);
void vac__reloc_stop(struct vac_pool *pool);

/* ---- waitwords.c ---- */
int vac__words_declare(struct vac_space *s, uint32_t first, uint32_t end);
int vac__words_end(struct vac_space *s, uint32_t first, uint32_t end);

/* ---- longterm.c ---- */
int vac__long_settle(struct vac_space *s, uint64_t pin, uint32_t first, uint32_t end,
		     unsigned flags, unsigned turn, struct vac_pin_result *res);
void vac__long_end(struct vac_pool *pool, uint32_t index);
void vac__long_warn(struct vac_pool *pool, const char *owner, uintptr_t site, int why);
bool vac__long_back(struct vac_pool *pool);
/* Frames of normal memory that may be pinned for long. */
static inline uint64_t vac__long_limit(const struct vac_pool *pool)
{
	return vac__ld_rlx(&pool->nr_normal) * pool->opts.longterm_pct / 100;
}

/* ---- migrate.c ---- */
uint64_t vac__expected_counts(bool swapcache, uint32_t isolated, uint32_t extra, uint32_t map);
int vac__folio_isolate(struct vac_pool *pool, uint32_t pfn);
void vac__folio_putback(struct vac_pool *pool, uint32_t pfn);
enum vac__mig_mode { VAC__MIG_ASYNC, VAC__MIG_SYNC };
struct vac__mig_stats {
	uint64_t attempts, huge, base, bytes, copy_ns;
	uint64_t leaving_ns; /* time that writers of the pages in hand had to wait */
};
void vac__migrate(struct vac_pool *pool, struct vac__mig_item *items, unsigned n,
		  enum vac__mig_mode mode, struct vac__mig_stats *st);
void vac__migrate_to(struct vac_pool *pool, struct vac__mig_item *items, unsigned n,
		     enum vac__mig_mode mode, struct vac__mig_stats *st,
		     const struct vac__mig_aim *aim);
int vac__folio_edit(struct vac_pool *pool, uint32_t pfn, uint32_t family, uint32_t index,
		    void (*fn)(void *arg, uint32_t pfn), void *arg);

/* ---- collapse.c ---- */
enum vac__collapsed { VAC__COLLAPSED_IN_PLACE = 1, VAC__COLLAPSED_BY_COPY };
int vac__collapse(struct vac_space *s, uint32_t vpb, uint32_t max_missing, bool may_copy,
		  struct vac__mig_stats *st);

/* ---- compact.c ---- */
int vac__compactor_start(struct vac_pool *pool);
void vac__compactor_stop(struct vac_pool *pool);
void vac__compactor_wake(struct vac_pool *pool);

/* ---- quarantine.c ---- */
void vac__look_before(struct vac_pool *pool, struct vac__mig_item *items, unsigned n);
void vac__look_at_return(struct vac_pool *pool, int id);
void vac__look_at_drop(struct vac_pool *pool, uint32_t pfn, uint32_t frames);
void vac__watch_copy(struct vac_pool *pool, uint32_t src, uint32_t dst, uint32_t pages);
void vac__watch_arm(struct vac_space *s, const struct vac__mig_item *it);
void vac__watch_forget(struct vac_space *s, uint32_t first, uint32_t end);
int vac__watch_settle(struct vac_pool *pool, int id, bool readable);
bool vac__watch_pinned(struct vac_pool *pool, uint32_t pfn);
void vac__quarantine_release(struct vac_pool *pool);
bool vac__quarantine_try(struct vac_pool *pool, uint64_t deadline_ns);

/* ---- report.c ---- */
/* What an offline has met, folio by folio: the latest 256 failures, by pfn. */
struct vac__trace {
	struct {
		uint32_t pfn, attempts;
		int err;
	} e[VAC__TRACE];
	bool foreign;   /* the platform refused to certify the block */
	bool certified; /* or did, and late bytes were looked for */
	bool asks;      /* nothing is tried now: what holds the block at this moment */
};
void vac__trace_init(struct vac__trace *t);
int vac__report_make(struct vac_pool *pool, int id, const struct vac__trace *t,
		     struct vac_report **report);
bool vac__report_holds(const struct vac_report *report);

/* ---- dry.c ---- */
int vac__dry_run(struct vac_pool *pool, int id, struct vac__trace *t,
		 const _Atomic uint32_t *cancel, uint64_t deadline_ns, struct vac_report **report);

/* ---- block.c ---- */
bool vac__block_valid(struct vac_pool *pool, int id);
int vac__block_give_back(struct vac_pool *pool, int id, uint64_t *resident);
void vac__block_drop_file(struct vac_pool *pool, struct vac__block *b);
void vac__block_free_memory(struct vac_pool *pool, int id);
static inline uint32_t vac__block_pfn(struct vac_pool *pool, int id)
{
	return (uint32_t)id << pool->block_shift;
}

/* ---- offline.c ---- */
/* vac_block_offline() that also gives up, with -ECANCELED, once *cancel is not 0 (NULL: it never is).
 * Whoever sets it signals pool->progress. Cancels this call and no other, wherever it waits. */
int vac__block_offline(struct vac_pool *pool, int id, const struct vac_offline_opts *opts,
		       struct vac_offline_result *res, const _Atomic uint32_t *cancel);

/* ---- check.c ---- */
int vac__check(struct vac_pool *pool, char *msg, size_t bytes);

/* ---- map.c, for check.c ---- */
uint32_t vac__segments_of(struct vac_space *s, uint32_t vpb);

/* ---- fork.c ---- */
extern struct vac_pool *vac__pools;
void vac__pool_link(struct vac_pool *pool);
void vac__pool_unlink(struct vac_pool *pool);
void vac__fork_pass(struct vac_pool *pool);
static inline bool vac__fork_waits(struct vac_pool *pool, unsigned flags)
{
	return vac__ld(&pool->fork_gate) &&
	       (flags & (VAC_PIN_WRITE | VAC_PIN_LONGTERM)) == VAC_PIN_WRITE;
}
void vac__fork_wait(struct vac_pool *pool);

/* ---- pool.c ---- */
void vac__log(struct vac_pool *pool, enum vac_log_level level, const char *msg);
extern const struct vac__mem_ops *vac__mem_ops_override; /* set by tests: wraps the port's table */

#endif /* VAC_INTERNAL_H */

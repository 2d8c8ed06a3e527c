/* SPDX-License-Identifier: MIT */
/*
 * What goes over a control socket. docs/CONTROL.md says the same in words.
 *
 * The socket is of type SOCK_SEQPACKET: one packet is one request or one answer, never a part of one.
 * A client has one request in hand at a time; each gets exactly one answer, except that an offline
 * tells its progress first. Lists are fetched piece by piece, so neither side ever holds more than a
 * packet for the other. Both ends are on one machine: numbers are in its own byte order.
 *
 * Invariants: every packet begins with a head; its `bytes` is the length of the packet; fields called
 * zero are 0; strings are ended by a NUL inside their array. Whoever gets anything else hangs up.
 */
#ifndef VAC_CONTROL_PROTO_H
#define VAC_CONTROL_PROTO_H

#include <stdint.h>

#include "include/vacate.h"

#define VAC__CTL_MAGIC UINT32_C(0x74636176) /* "vact" */
#define VAC__CTL_VERSION 1
#define VAC__CTL_PACKET_MAX 4096u
#define VAC__CTL_CLIENTS 16u    /* connected at a time */
#define VAC__CTL_WORKS 16u      /* operations under way at a time */
#define VAC__CTL_IDLE_MS 60000u /* a client that asks nothing for so long is hung up on */
#define VAC__CTL_SLOW_MS 10000u /* and one that does not take its answer */

enum vac__ctl_op {
	VAC__CTL_POOL = 1, /* -> struct vac__ctl_pool */
	VAC__CTL_BLOCKS,   /* two: first number -> struct vac__ctl_blocks */
	VAC__CTL_WHY,      /* two: block -> two: number of blockers, kept until the next report */
	VAC__CTL_BLOCKER,  /* two: index -> struct vac__ctl_blocker */
	VAC__CTL_OWNERS,   /* two: index, first -> struct vac__ctl_owners */
	VAC__CTL_OFFLINE,  /* struct vac__ctl_offline -> PROGRESS..., struct vac__ctl_result */
	VAC__CTL_ONLINE,   /* two: block, zone -> nothing */
	VAC__CTL_ADD,      /* struct vac__ctl_add, perhaps a descriptor -> two: block */
	VAC__CTL_REMOVE,   /* two: block -> nothing */
	VAC__CTL_CANCEL,   /* two: block -> nothing: whoever's offline it is, it gives up */
	VAC__CTL_ABORT, /* while an offline of this client runs: it gives up; no answer of its own */
	VAC__CTL_PROGRESS, /* answers only: struct vac__ctl_progress */
};

struct vac__ctl_head {
	uint32_t magic;
	uint16_t version;
	uint16_t op;    /* an answer has that of its request, or PROGRESS */
	uint32_t bytes; /* of the packet, the head included */
	int32_t status; /* requests: 0. Answers: 0, or a negative errno value and no body but a result */
};

struct vac__ctl_two { /* most bodies: two numbers, the second 0 where only one is wanted */
	uint32_t a, b;
};

struct vac__ctl_pool {
	uint32_t pid, guard, max_blocks, works; /* works: operations under way for clients */
	uint64_t block_bytes, blocks, blocks_online;
	uint64_t frames_total, frames_free, frames_reserved, frames_used, frames_isolated;
	uint64_t pageblocks_huge, pageblocks_base, spaces, pins;
	uint64_t host_vmas, host_vma_limit, meta_bytes_per_block;
	uint64_t faults, migrate_folios, migrate_bytes, gate_waits;
	uint64_t pageblocks_free, compact_folios, collapsed_in_place, collapsed_by_copy, dangling;
	uint64_t snapshots, cow_copies;
	/* In slots of a page: 0 where there is no swap file. The rest counts pages, since the beginning. */
	uint64_t swap_slots, swap_used, swap_bad;
	uint64_t swap_in, swap_out, swap_second_chances, swap_errors;
	char name[VAC_NAME_MAX];
	char version[16]; /* of the library */
};

struct vac__ctl_block {
	uint32_t id;
	uint8_t state, zone, unsealable, file;
	uint64_t bytes, frames_used, frames_free, frames_reserved;
	uint64_t pageblocks, pageblocks_huge, pageblocks_base, pins;
};
#define VAC__CTL_BLOCKS_MAX 48u

struct vac__ctl_blocks {
	uint32_t n;
	uint32_t next; /* number to go on with, UINT32_MAX: that was all */
	struct vac__ctl_block block[VAC__CTL_BLOCKS_MAX];
};

struct vac__ctl_blocker {
	uint32_t cls, block;
	uint64_t pfn, addr;
	uint32_t frames, refs, pins, map, expected_refs, attempts;
	int32_t last_error;
	uint8_t frozen, gated, waiters, locked;
	uint32_t owners, zero;
	char space[VAC_NAME_MAX];
};

struct vac__ctl_owner {
	uint32_t tid, flags;
	uint64_t age_ns, addr, len;
	uint32_t stack_depth;
	int32_t error;
	char owner[VAC_OWNER_MAX];
	char thread[16];
	uint64_t stack[VAC_STACK_MAX];
};
#define VAC__CTL_OWNERS_MAX 16u

struct vac__ctl_owners {
	uint32_t n, zero;
	struct vac__ctl_owner owner[VAC__CTL_OWNERS_MAX];
};

#define VAC__CTL_BEST_EFFORT 1u
#define VAC__CTL_DRY_RUN 2u
#define VAC__CTL_DETACH 4u /* answer at once; the offline goes on without the client */
#define VAC__CTL_REVOKE 16u
#define VAC__CTL_CANCEL_IO 64u
#define VAC__CTL_WRITERS 8 /* from this bit on, seven of them: writers_pct of vac_offline_opts */
#define VAC__CTL_WRITERS_MASK (0x7fu << VAC__CTL_WRITERS)

struct vac__ctl_offline {
	uint32_t id, flags;
	int64_t timeout_ms; /* as in struct vac_offline_opts */
};

struct vac__ctl_progress {
	uint32_t id, zero;
	uint64_t frames_used, frames_left, bytes_moved, elapsed_ns;
};

struct vac__ctl_result {
	uint32_t id;
	uint32_t blockers; /* of the report that is kept for the client */
	uint64_t bytes_moved, huge_moved, base_moved, attempts, elapsed_ns, copy_ns;
	uint64_t missing_bytes, possible_bytes, given_back_bytes, waited_ns, waited_longest_ns;
	uint32_t waited_tid, zero;
	char waited_for[VAC_OWNER_MAX];
};

#define VAC__CTL_ADD_ONLINE 1u /* and online it; where that fails, it is not added either */
#define VAC__CTL_ADD_FILE 2u   /* its memory is the file whose descriptor comes along */

struct vac__ctl_add {
	int32_t id; /* -1: the lowest free number */
	uint32_t flags, zone, zero;
};

struct vac__ctl_packet {
	struct vac__ctl_head head;
	union {
		struct vac__ctl_two two;
		struct vac__ctl_pool pool;
		struct vac__ctl_blocks blocks;
		struct vac__ctl_blocker blocker;
		struct vac__ctl_owners owners;
		struct vac__ctl_offline offline;
		struct vac__ctl_progress progress;
		struct vac__ctl_result result;
		struct vac__ctl_add add;
		unsigned char bytes[VAC__CTL_PACKET_MAX - sizeof(struct vac__ctl_head)];
	} u;
};
_Static_assert(sizeof(struct vac__ctl_packet) == VAC__CTL_PACKET_MAX, "a packet is one page");
_Static_assert(sizeof(struct vac__ctl_head) == 16, "no hole before the body");

#endif /* VAC_CONTROL_PROTO_H */

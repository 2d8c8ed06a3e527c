/* SPDX-License-Identifier: MIT */
/*
 * The host's own memory blocks: what they hold, who holds it, and what the kernel would do.
 *
 * Everything here only reads. All paths (/sys, /proc, /etc) are opened below a root directory, ""
 * on the running machine and a directory made by host_capture() elsewhere; there the answers are
 * those of the machine that was captured.
 *
 * Words. A *frame* is a physical page of page_bytes, numbered by pfn. A *block* is what sysfs calls
 * memoryN. A frame is *held* if more references to its folio exist than its mappings, the page
 * cache and private data account for, in two samples: somebody reads or writes it behind the page
 * table's back, and offline waits for him.
 *
 * Calls answer 0, a count or a negative errno value; after an error host_message() says which file
 * it was and what would have been accepted. A struct host and what comes from it belong to one
 * thread at a time.
 */
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include <dirent.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* ---- Blocks ---- */

enum host_state {
	HOST_OFFLINE,
	HOST_ONLINE,
	HOST_GOING_OFFLINE,
	HOST_STATE_UNKNOWN,
};

/* Who brought the block in, and so who must be asked to take it away. */
enum host_owner {
	HOST_OWNER_NONE, /* there since boot, or by the hypervisor without a device that we know */
	HOST_OWNER_DIMM, /* an ACPI memory device (pc-dimm): eject follows offline */
	HOST_OWNER_VIRTIO, /* virtio-mem: its requested size decides, device "virtio0" */
	HOST_OWNER_DAX,    /* the kmem driver of a DAX device, device "dax0.0": daxctl */
};

struct host_block {
	uint32_t id;
	uint64_t pfn;    /* the first frame */
	uint64_t frames; /* of the block, holes too */
	enum host_state state;
	int node;       /* -1: unknown */
	char zones[64]; /* as in valid_zones: where it is, or could be onlined to */
	char zone[16];  /* "Movable", "Normal", "DMA32"...; "none": more than one; "-": offline */
	bool sysfs_removable;
	enum host_owner owner;
	char device[64]; /* "" where owner is HOST_OWNER_NONE */
};

struct host {
	char *root; /* "" is the running machine */
	bool live;
	bool privileged; /* pfns can be read: root, or a capture made by root */
	uint32_t page_bytes;
	uint64_t block_bytes;
	struct host_block *blocks; /* by id, ascending */
	unsigned n_blocks;
	int online_blocks_auto; /* auto_online_blocks: 0 offline, 1 some kind of online, -1 unknown */
	char auto_policy[32];   /* as the kernel prints it */
	char message[512];      /* of the last error */
	struct host_walk *walk;   /* walk.c; NULL until somebody asks */
	struct host_saved *saved; /* pages of a capture; NULL when live */
	json_t *saved_walk;       /* its vacate/walk.json */
};

/* sysroot NULL or "": this machine. *out is NULL after an error, with *message then (static). */
int host_open(struct host **out, const char *sysroot, const char **message);
void host_close(struct host *h);
const char *host_message(const struct host *h);
/* Read all blocks, or one of them, again: states change under us. */
int host_refresh(struct host *h);
int host_block_refresh(struct host *h, struct host_block *b);
struct host_block *host_block(struct host *h, uint32_t id); /* NULL: there is none */
const char *host_state_name(enum host_state s);
const char *host_owner_name(enum host_owner o);

/* A file below the root. fd or -errno; host_read() answers bytes, ends text with NUL and strips one
 * newline at the end. Messages are left alone: many files are optional. */
int host_openat(const struct host *h, int flags, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
FILE *host_fopen(const struct host *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
ssize_t host_read(const struct host *h, char *buf, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
ssize_t host_readlink(const struct host *h, char *buf, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
DIR *host_opendir(const struct host *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int host_fail(struct host *h, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- Frames ---- */

/* Each frame of a block is in exactly one class. */
enum host_class {
	HOST_FREE,
	HOST_MOVABLE,      /* anonymous, page cache, or of a driver that moves its pages */
	HOST_HELD,         /* movable, were it not for references that nothing accounts for */
	HOST_LOCKED,       /* locked in both samples */
	HOST_WRITEBACK,    /* under writeback in both samples */
	HOST_HUGETLB_FREE, /* in a pool of huge pages, unused */
	HOST_HUGETLB_USED, /* in use: moves where a free huge page is */
	HOST_UNMOVABLE,    /* slab, page tables, kernel stacks, reserved: never moves */
	HOST_UNKNOWN,      /* free in a list of a CPU, or the kernel's: /proc alone cannot tell */
	HOST_ABSENT,       /* a hole, or withdrawn: poisoned, ballooned, offline */
	HOST_CLASSES,
};

#define HOST_REFS_UNKNOWN UINT32_MAX

/* What is known of a frame. Of a compound page, refs and map_total are in the head only. */
struct host_page {
	uint64_t flags; /* KPF_* of linux/kernel-page-flags.h; LOCKED and WRITEBACK if in both samples */
	uint64_t mapping;   /* struct page's mapping; 0 unknown */
	uint32_t refs;      /* references; HOST_REFS_UNKNOWN without BPF */
	uint32_t mapcount;  /* /proc/kpagecount */
	uint32_t map_total; /* of a large folio: references that come from mappings */
	uint32_t excess;    /* references that nothing accounts for, the smaller of two samples */
	uint8_t class;      /* enum host_class */
	uint8_t pad[7];
};

struct host_pages {
	uint64_t pfn; /* of page[0] */
	uint64_t n;
	bool refs_known;  /* references were read: held and unmovable are told from free */
	bool flags_known; /* false: not root, nothing is known */
	struct host_page *page;
};

struct host_usage {
	uint64_t frames[HOST_CLASSES];
	uint64_t anon, file;    /* frames among the movable and held */
	uint64_t huge_reserved; /* frames of free huge pages that a reservation keeps in their pool */
	uint64_t holes;         /* among the absent: frames without memory */
	uint64_t memmap; /* among the unmovable: the block's own struct pages; they leave with it */
};

/* Look at the frames of [pfn, pfn + n) twice, wait_ms apart (0: once; then nothing is held or
 * stuck for sure, and excess is that of one sample). Free with host_pages_free(). */
int host_pages_read(struct host *h, uint64_t pfn, uint64_t n, unsigned wait_ms,
		    struct host_pages *out);
void host_pages_free(struct host_pages *p);
void host_pages_usage(struct host *h, const struct host_pages *p, uint64_t pfn, uint64_t n,
		      struct host_usage *u);
const char *host_class_name(enum host_class c);

/* What all blocks hold, usage[i] being of h->blocks[i], in two samples of what is suspicious. Blocks
 * that are offline hold nothing. *refs_known as in struct host_pages. Time is linear in memory. */
int host_survey(struct host *h, struct host_usage *usage, bool *refs_known);

/* ---- Holders ---- */

enum host_kind {
	HOST_KIND_PIPE,       /* a buffer of a pipe: vmsplice, splice, tee */
	HOST_KIND_DIRECT_IO,  /* a transfer in flight */
	HOST_KIND_REGISTERED, /* a registered buffer of an io_uring */
	HOST_KIND_SOCKET,     /* a fragment in a socket's queue: MSG_ZEROCOPY, sendfile, splice */
	HOST_KIND_AIO_RING,   /* the ring of an AIO context; moves, so never a blocker */
	HOST_KIND_HUGETLB,    /* huge pages without a target, or reserved */
	HOST_KIND_FUSE,       /* locked by a read that a FUSE server does not answer */
	HOST_KIND_WRITEBACK,  /* being written to a device that does not finish */
	HOST_KIND_LOCKED,     /* locked for a long time, by whom is not known */
	HOST_KIND_KERNEL,     /* the kernel's own */
	HOST_KIND_MAPPED,     /* only mapped: pages that have nowhere to go */
	HOST_KIND_UNKNOWN,    /* references that no walk accounts for */
	HOST_KINDS,
};

enum host_evidence {
	HOST_PROOF,  /* a walk found the page in the holder's own structure */
	HOST_LIKELY, /* references too many, and who maps the page or serves it */
	HOST_MAPPER, /* maps it, no more */
};

struct host_holder {
	enum host_kind kind;
	enum host_evidence evidence;
	pid_t pid;            /* 0: the kernel, or nobody that is known */
	uint64_t start_ticks; /* /proc/PID/stat, field 22: with pid, the process's identity */
	pid_t tid;            /* the thread that waits in the transfer, 0 unknown */
	int fd;               /* -1: none */
	uint64_t object;      /* equal for descriptors of one pipe, ring or socket; 0 none */
	uint64_t pages;       /* frames of the block */
	uint64_t first_pfn;
	double age_s;   /* at least so long; < 0: not known */
	bool blocks;    /* false: moves by itself, listed on demand only */
	bool in_flight; /* the descriptor is itself on its way through a socket */
	uid_t uid;
	char comm[32];
	char user[64];
	char *cmdline;   /* "" for a kernel thread */
	char *what;      /* of the descriptor, as /proc/PID/fd shows it: "pipe:[123]" */
	char *detail;    /* one sentence on how it is known */
	char *cgroup;    /* path in the v2 hierarchy, or of systemd's; "" unknown */
	char *unit;      /* systemd unit, "" */
	char *container; /* id, "" */
	char *pod;       /* uid of a Kubernetes pod, "" */
};

enum host_verdict {
	HOST_GOES,       /* offline would succeed */
	HOST_IS_OFFLINE, /* it has left */
	HOST_LOOPS,      /* offline would try for ever, until a signal */
	HOST_EBUSY,      /* refused at once */
	HOST_UNKILLABLE, /* the writer of `state` would sleep beyond the reach of SIGKILL */
	HOST_NO_TARGET,  /* nowhere to move to: loops */
	HOST_NOT_KNOWN,  /* we cannot see enough */
	HOST_VERDICTS,
};

struct host_why {
	enum host_verdict verdict;
	char *reason;  /* one sentence */
	char **advice; /* commands, or a sentence that begins with "# " */
	unsigned n_advice;
	char **blind; /* what could not be looked at, one sentence each */
	unsigned n_blind;
	struct host_usage usage;
	struct host_holder *holders; /* blockers first, by pages, descending */
	unsigned n_holders;
	uint64_t unexplained; /* held frames that no holder was found for */
};

/* What the kernel would do with this block, and who is in the way. Moves nothing, takes less than
 * half a second a block. Free with host_why_free(). */
int host_why(struct host *h, const struct host_block *b, struct host_why *out);
void host_why_free(struct host_why *w);
/* The verdict alone, from what a survey says. */
enum host_verdict host_verdict_of(struct host *h, const struct host_block *b,
				  const struct host_usage *u, bool refs_known);
json_t *host_why_json(struct host *h, const struct host_block *b, const struct host_why *w);
const char *host_verdict_name(enum host_verdict v); /* a stable word: "goes", "loops"... */
const char *host_kind_name(enum host_kind k);
const char *host_evidence_name(enum host_evidence e);

/* A process as people know it: fills comm, cmdline, uid, user, start_ticks, cgroup, unit, container
 * and pod from pid. -ENOENT: it has gone. */
int host_identify(struct host *h, struct host_holder *o);
void host_holder_clear(struct host_holder *o);

#endif

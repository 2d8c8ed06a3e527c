/* SPDX-License-Identifier: MIT */
/*
 * What would the kernel do? Its own order of doing things decides: isolation refuses at once what
 * never moves; the loop of migration waits for stuck pages beyond the reach of a signal, and tries
 * again for ever with pages that are held or have nowhere to go; only then are free huge pages
 * dissolved, and those that somebody was promised refuse.
 */
#include "why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *host_verdict_name(enum host_verdict v)
{
	static const char *const names[HOST_VERDICTS] = {
		"goes", "offline", "loops", "ebusy", "unkillable", "no-target", "not-known",
	};

	return v < HOST_VERDICTS ? names[v] : "?";
}

static int advise(struct host_why *w, char *s)
{
	char **grown = s ? realloc(w->advice, (w->n_advice + 1) * sizeof(*grown)) : NULL;

	if (!grown) {
		free(s);
		return -ENOMEM;
	}
	w->advice = grown;
	w->advice[w->n_advice++] = s;
	return 0;
}

static int set(struct host_why *w, enum host_verdict v, char *reason)
{
	free(w->reason);
	w->verdict = v;
	w->reason = reason;
	return reason ? 0 : -ENOMEM;
}

static const char *size_of(const struct job *j, uint64_t frames, char *buf, size_t len)
{
	uint64_t kib = frames * (j->h->page_bytes / 1024);

	if (kib < 1024 || kib % 1024)
		snprintf(buf, len, "%" PRIu64 " KiB", kib);
	else
		snprintf(buf, len, "%" PRIu64 " MiB", kib / 1024);
	return buf;
}

#define SIZE 32

/* ---- What never moves ---- */

static int add_kernel(struct job *j, uint64_t frames)
{
	struct host_holder o = {.kind = HOST_KIND_KERNEL, .evidence = HOST_PROOF, .fd = -1};
	uint64_t slab = 0, tables = 0, reserved = 0, first = 0;

	for (uint64_t i = j->p.n; i--;) {
		const struct host_page *g = &j->p.page[i];

		if (g->class != HOST_UNMOVABLE)
			continue;
		first = j->p.pfn + i;
		slab += (j->p.page[j->head[i]].flags & KPF(SLAB)) != 0;
		tables += (g->flags & KPF(PGTABLE)) != 0;
		reserved += (g->flags & KPF(RESERVED)) != 0;
	}
	o.blocks = true;
	o.detail = text("%" PRIu64 " pages of slab, %" PRIu64 " of page tables, %" PRIu64
			" reserved, %" PRIu64 " of other kinds",
			slab, tables, reserved,
			j->w->usage.frames[HOST_UNMOVABLE] - slab - tables - reserved);
	return job_add(j, &o, first, frames);
}

static int advise_kernel(struct job *j)
{
	int err;

	if (!strcmp(j->b->zone, "Movable"))
		return advise(j->w,
			      text("# the kernel's own pages in a movable zone: nothing frees "
				   "them but who allocated them, or a restart"));
	err = advise(j->w, text("# choose a block that was onlined movable, or keep the kernel out "
				"of new ones: echo online_movable > "
				"/sys/devices/system/memory/auto_online_blocks"));
	if (!err && j->b->owner != HOST_OWNER_NONE)
		err = advise(j->w, text("# after a restart, online it movable before anything else "
					"does: echo online_movable > "
					"/sys/devices/system/memory/memory%" PRIu32 "/state",
					j->b->id));
	return err;
}

/* ---- Holders ---- */

static int advise_holder(struct job *j, const struct host_holder *o)
{
	struct host_holder who = {.pid = o->pid};
	int err;

	if (!o->blocks || !o->pid)
		return 0;
	if (host_identify(j->h, &who))
		who.unit = NULL;
	if (o->evidence == HOST_MAPPER)
		err = advise(j->w, text("# process %d (%s) maps pages that are held; whether it "
					"holds them is not known",
					(int)o->pid, who.comm));
	else if (who.unit && *who.unit && strstr(who.unit, ".service"))
		err = advise(j->w, text("systemctl restart %s", who.unit));
	else
		err = advise(j->w, text("kill %d", (int)o->pid));
	host_holder_clear(&who);
	return err;
}

#define ADVICE_MAX 8

static int advise_holders(struct job *j)
{
	int err = 0;

	for (unsigned i = 0; i < j->w->n_holders && !err && j->w->n_advice < ADVICE_MAX; i++) {
		bool again = false;

		for (unsigned k = 0; k < i; k++)
			again |= j->w->holders[k].pid == j->w->holders[i].pid;
		if (!again)
			err = advise_holder(j, &j->w->holders[i]);
	}
	return err;
}

static bool is_stuck(const struct job *j, uint64_t mapping)
{
	for (uint64_t i = 0; i < j->p.n; i++)
		if (j->p.page[i].mapping == mapping &&
		    (j->p.page[i].class == HOST_LOCKED || j->p.page[i].class == HOST_WRITEBACK))
			return true;
	return false;
}

static int unkillable(struct job *j)
{
	const struct host_usage *u = &j->w->usage;
	char a[SIZE], b[SIZE];
	int err = set(j->w, HOST_UNKILLABLE,
		      text("%s stayed locked and %s under writeback: the writer of `state` would "
			   "sleep where no signal reaches it",
			   size_of(j, u->frames[HOST_LOCKED], a, sizeof(a)),
			   size_of(j, u->frames[HOST_WRITEBACK], b, sizeof(b))));

	if (!err)
		err = advise(j->w, text("# do not write to `state` before these pages are free"));
	for (unsigned k = 0; k < j->f.n_file && !err; k++) {
		const struct walk_inode *f = &j->f.file[k];

		if (!is_stuck(j, f->mapping))
			continue;
		if (!strncmp(f->fstype, "fuse", 4))
			err = advise(j->w,
				     text("echo 1 > /sys/fs/fuse/connections/%u/abort   # ends the "
					  "file system with an error for its readers",
					  f->dev & 0xfffff));
		else if (f->bdev[0])
			err = advise(j->w, text("cat /sys/block/%s/inflight   # wait until the "
						"device is done",
						f->bdev));
	}
	return err ? err : advise(j->w, text("vacate why host:%" PRIu32, j->b->id));
}

static int loops(struct job *j)
{
	const struct host_usage *u = &j->w->usage;
	char a[SIZE];
	int err = set(j->w, HOST_LOOPS,
		      text("%s held directly, beside mappings and caches: offline would try "
			   "again until a signal ends it",
			   size_of(j, u->frames[HOST_HELD], a, sizeof(a))));

	if (!err)
		err = advise_holders(j);
	if (!err)
		err = advise(j->w, text("vacate offline host:%" PRIu32
					" --wait   # goes on when the holders let go",
					j->b->id));
	return err;
}

/* ---- No room ---- */

/* Who has the most of what cannot go. */
static int add_mappers(struct job *j, bool huge)
{
	struct frame_set all = {0};
	size_t from = j->f.n_map;
	int err = frame_set_init(&all, j->p.pfn, j->p.n);

	for (uint64_t i = 0; i < j->p.n && !err; i++) {
		enum host_class c = j->p.page[i].class;

		if (huge ? c == HOST_HUGETLB_USED : c == HOST_MOVABLE || c == HOST_HELD)
			frame_set_add(&all, j->p.pfn + i);
	}
	if (!err)
		err = facts_map(j->h, &all, &j->f);
	if (!j->h->live)
		from = 0;
	for (size_t i = from; i < j->f.n_map && !err; i++) {
		struct host_holder o = {.pid = j->f.map[i].pid, .fd = -1, .blocks = true};
		uint64_t n = 0;

		for (uint64_t k = 0; k < j->f.map[i].n; k++)
			n += frame_set_has(&all, j->f.map[i].pfn + k);
		if (!n)
			continue;
		o.kind = huge ? HOST_KIND_HUGETLB : HOST_KIND_MAPPED;
		o.evidence = huge ? HOST_LIKELY : HOST_MAPPER;
		o.detail = huge ? text("maps huge pages that have no free one elsewhere to go to")
				: text("maps pages that have nowhere to go");
		err = job_add(j, &o, j->f.map[i].pfn, n);
	}
	frame_set_free(&all);
	return err;
}

static int no_target(struct job *j, uint64_t need, uint64_t have, bool huge)
{
	char a[SIZE], b[SIZE];
	int err = set(j->w, HOST_NO_TARGET,
		      text("%s%s must move, and about %s could be had for it elsewhere: offline "
			   "would try again until a signal ends it",
			   size_of(j, need, a, sizeof(a)), huge ? " of huge pages" : "",
			   size_of(j, have, b, sizeof(b))));

	if (!err)
		err = add_mappers(j, huge);
	if (err)
		return err;
	if (huge)
		return advise(j->w,
			      text("# give another node as many huge pages: echo N > "
				   "/sys/devices/system/node/nodeN/hugepages/hugepages-2048kB/"
				   "nr_hugepages"));
	err = advise(j->w, text("# free memory on another node, or add swap: swapon FILE"));
	return err ? err : advise_holders(j);
}

/* ---- Promised huge pages ---- */

/* Mappings of huge pages that are not filled yet: theirs are the promises. */
static int add_promised(struct job *j)
{
	DIR *d = host_opendir(j->h, "proc");
	struct dirent *e;
	int err = 0;

	while (d && !err && (e = readdir(d))) {
		FILE *f = e->d_name[0] >= '0' && e->d_name[0] <= '9'
				  ? host_fopen(j->h, "proc/%s/smaps", e->d_name)
				  : NULL;
		uint64_t v, size = 0, touched = 0, promised = 0;
		char line[512];

		while (f && fgets(line, sizeof(line), f)) {
			if (sscanf(line, "Size: %" SCNu64, &v) == 1) {
				size = v;
				touched = 0;
			} else if (sscanf(line, "Shared_Hugetlb: %" SCNu64, &v) == 1 ||
				   sscanf(line, "Private_Hugetlb: %" SCNu64, &v) == 1) {
				touched += v;
			} else if (!strncmp(line, "VmFlags:", 8) && strstr(line, " ht") &&
				   !strstr(line, " nr")) {
				promised += size > touched ? size - touched : 0;
			}
		}
		if (f)
			fclose(f);
		if (promised) {
			struct host_holder o = {.kind = HOST_KIND_HUGETLB, .fd = -1};

			o.evidence = HOST_LIKELY;
			o.blocks = true;
			o.pid = atoi(e->d_name);
			o.detail = text("maps %" PRIu64 " KiB of huge pages that it has not "
					"touched; they are kept for it",
					promised);
			err = job_add(j, &o, j->p.pfn, promised * 1024 / j->h->page_bytes);
		}
	}
	if (d)
		closedir(d);
	return err;
}

static int promised(struct job *j)
{
	char a[SIZE];
	int err = set(j->w, HOST_EBUSY,
		      text("%s of free huge pages are promised to mappings that have not touched "
			   "them: the kernel refuses to dissolve them, and says nothing",
			   size_of(j, j->w->usage.huge_reserved, a, sizeof(a))));

	if (!err)
		err = add_promised(j);
	if (!err)
		err = advise_holders(j);
	if (!err)
		err = advise(j->w,
			     text("# or enlarge the pool on another node, so that it can keep "
				  "its promise: echo N > /sys/devices/system/node/nodeN/"
				  "hugepages/hugepages-2048kB/nr_hugepages"));
	return err;
}

/* ---- The order ---- */

static int goes(struct job *j)
{
	const struct host_usage *u = &j->w->usage;
	uint64_t n = u->frames[HOST_MOVABLE] + u->frames[HOST_HUGETLB_USED];
	char a[SIZE];
	int err = set(j->w, HOST_GOES,
		      n ? text("%s to move, and nothing in the way", size_of(j, n, a, sizeof(a)))
			: text("nothing in it is in use"));

	if (err)
		return err;
	switch (j->b->owner) {
	case HOST_OWNER_DAX: return advise(j->w, text("daxctl offline-memory %s", j->b->device));
	case HOST_OWNER_VIRTIO:
		return advise(j->w, text("# the driver owns it: lower requested-size of %s in the "
					 "hypervisor",
					 j->b->device));
	default: return advise(j->w, text("vacate offline host:%" PRIu32, j->b->id));
	}
}

/* What decides, in the order in which the kernel meets it. */
enum ground {
	UNSEEN,
	HOLES,
	ZONES,
	KERNEL,
	STUCK,
	HELD,
	KERNEL_IN_MOVABLE,
	NO_HUGE_TARGET,
	NO_ROOM,
	PROMISED,
	BLIND,
	CLEAR,
};

static enum ground judge(struct host *h, const struct host_block *b, const struct host_usage *u,
			 bool refs_known, uint64_t *have)
{
	uint64_t kernel = u->frames[HOST_UNMOVABLE] - u->memmap;
	uint64_t need = u->frames[HOST_MOVABLE] + u->frames[HOST_HELD];
	uint64_t huge = u->frames[HOST_HUGETLB_USED];

	if (u->holes && u->holes < b->frames)
		return HOLES;
	if (!strcmp(b->zone, "none"))
		return ZONES;
	if (kernel && strcmp(b->zone, "Movable"))
		return KERNEL;
	if (u->frames[HOST_LOCKED] || u->frames[HOST_WRITEBACK])
		return STUCK;
	if (u->frames[HOST_HELD])
		return HELD;
	if (kernel)
		return KERNEL_IN_MOVABLE;
	if (huge && (*have = target_huge_frames(h, b)) < huge)
		return NO_HUGE_TARGET;
	if (need && (*have = target_frames(h, b, u)) < need)
		return NO_ROOM;
	if (u->huge_reserved)
		return PROMISED;
	if (!refs_known && (need || huge || u->frames[HOST_UNKNOWN]))
		return BLIND;
	return CLEAR;
}

enum host_verdict host_verdict_of(struct host *h, const struct host_block *b,
				  const struct host_usage *u, bool refs_known)
{
	static const enum host_verdict of[] = {
		[UNSEEN] = HOST_NOT_KNOWN,
		[HOLES] = HOST_EBUSY,
		[ZONES] = HOST_EBUSY,
		[KERNEL] = HOST_EBUSY,
		[STUCK] = HOST_UNKILLABLE,
		[HELD] = HOST_LOOPS,
		[KERNEL_IN_MOVABLE] = HOST_LOOPS,
		[NO_HUGE_TARGET] = HOST_NO_TARGET,
		[NO_ROOM] = HOST_NO_TARGET,
		[PROMISED] = HOST_EBUSY,
		[BLIND] = HOST_NOT_KNOWN,
		[CLEAR] = HOST_GOES,
	};
	uint64_t have;

	if (b->state == HOST_OFFLINE)
		return HOST_IS_OFFLINE;
	return h->privileged ? of[judge(h, b, u, refs_known, &have)] : HOST_NOT_KNOWN;
}

static int kernels_own(struct job *j, bool movable)
{
	uint64_t n = j->w->usage.frames[HOST_UNMOVABLE] - j->w->usage.memmap;
	char a[SIZE];
	int err;

	size_of(j, n, a, sizeof(a));
	err = movable ? set(j->w, HOST_LOOPS,
			    text("%s are the kernel's own, in a movable zone where they should not "
				 "be: offline would try again until a signal ends it",
				 a))
		      : set(j->w, HOST_EBUSY,
			    text("%s are the kernel's own and never move: isolation refuses at once",
				 a));
	if (!err)
		err = add_kernel(j, n);
	return err ? err : advise_kernel(j);
}

int verdict_reach(struct job *j)
{
	struct host_why *w = j->w;
	const struct host_usage *u = &w->usage;
	enum ground g = UNSEEN;
	uint64_t have = 0;
	char a[SIZE];

	if (j->h->privileged && j->p.flags_known)
		g = judge(j->h, j->b, u, j->p.refs_known, &have);
	switch (g) {
	case UNSEEN:
		return set(w, HOST_NOT_KNOWN,
			   text("what the block holds cannot be seen: %s",
				j->h->live ? "run as root" : "the capture has no vacate/pages"));
	case HOLES:
		return set(w, HOST_EBUSY,
			   text("%s of it are a hole: the kernel offlines blocks without holes "
				"only (EINVAL)",
				size_of(j, u->holes, a, sizeof(a))));
	case ZONES:
		return set(w, HOST_EBUSY,
			   text("it is part of more than one zone: the kernel refuses (EINVAL)"));
	case KERNEL: return kernels_own(j, false);
	case STUCK: return unkillable(j);
	case HELD: return loops(j);
	case KERNEL_IN_MOVABLE: return kernels_own(j, true);
	case NO_HUGE_TARGET: return no_target(j, u->frames[HOST_HUGETLB_USED], have, true);
	case NO_ROOM: return no_target(j, u->frames[HOST_MOVABLE], have, false);
	case PROMISED: return promised(j);
	case BLIND:
		return set(w, HOST_NOT_KNOWN,
			   text("nothing is in the way that /proc shows; who refers to its pages "
				"directly cannot be seen here"));
	default: return goes(j);
	}
}

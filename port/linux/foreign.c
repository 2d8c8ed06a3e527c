/* SPDX-License-Identifier: MIT */
/*
 * Foreign holders: who, other than the engine's mappings, keeps a page of a block? Direct I/O without
 * a pin, a ring's registered buffers, a pipe, a socket's queue: the kernel counts all of them in the
 * page's reference count and nowhere else. Where the process may (root, or CAP_BPF with CAP_PERFMON
 * and CAP_SYS_ADMIN), that count is read and compared with what it must be: the *look*.
 *
 * How the look reads. One BPF program of type "syscall", a dozen instructions assembled below, reads
 * a list of kernel words into an array that this process has mapped; everything else is done here. It
 * traces nothing and changes nothing. Where fields lie is read from the kernel's BTF. Where
 * struct page lies is calibrated: a page of our own is put into a pipe of our own, found there by way
 * of the task's file table, and compared with its frame number in /proc/self/pagemap. No library and
 * no compiler for BPF is needed, so the engine depends on neither.
 *
 * Invariants:
 *  - The look is believed only after it has been right about pages of our own, held and not held, of
 *    4 KiB and of 2 MiB (calibrate); a kernel whose fields have moved leaves us without one.
 *  - It never errs towards "nobody". A base page's reference and map counts are one aligned word, read
 *    at once, and the kernel counts a mapping's reference before the mapping and drops it after. A
 *    large folio's lie apart, so they are read twice, the map count before, between and after.
 *    It may err towards "somebody": pages wait in per-processor lists with a reference, so those are
 *    drained before the answer is given.
 *  - A page that the host has moved or swapped out since its frame number was read had no holder at
 *    that moment, after the caller had stopped new ones.
 *  - All state is of the process, set once, under one lock.
 *
 * Without the look there is proof in one direction only: a ring's registered buffers are listed in
 * /proc/self/fdinfo, by address. That finds those that would not be noticed later, because the
 * kernel reads from them whenever it is asked to; what is written late is noticed by quarantine.c.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <string.h>

#include "port/linux/linux.h"

#define LIST 1024u /* words a run of the program can read */
#define PROG_GONE (-EOPNOTSUPP)

struct words { /* what the program and we share */
	uint64_t n, task;
	struct {
		uint64_t addr, value; /* addr becomes 0 if the word could be read */
	} e[LIST];
};

static struct {
	struct vac__flock lock; /* guards all, and the list */
	bool tried, ready, huge;
	int map_fd, prog_fd, pagemap_fd;
	struct words *w;
	uint64_t base, page_bytes; /* struct page of frame 0; the size of one */
	uint32_t flags, head, map, ref, large_map, order; /* offsets */
	uint32_t pg_head;                                 /* bit of flags */
	void *own;                                        /* 2 MiB of our own, to calibrate with */
	uint64_t pm[VAC_PAGEBLOCK_BYTES / VAC_PAGE_BYTES];
} look = {.map_fd = -1, .prog_fd = -1, .pagemap_fd = -1};

/* ---- BTF: where fields lie -------------------------------------------------------------------- */

struct btf {
	char *raw;
	size_t bytes;
	const char *strings;
	uint32_t nr, str_len;
	const struct btf_type **type; /* by number, from 1 */
	size_t type_bytes;
};

static size_t type_size(const struct btf_type *t)
{
	uint32_t vlen = BTF_INFO_VLEN(t->info);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT: return sizeof(*t) + sizeof(uint32_t);
	case BTF_KIND_ARRAY: return sizeof(*t) + sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION: return sizeof(*t) + vlen * sizeof(struct btf_member);
	case BTF_KIND_ENUM: return sizeof(*t) + vlen * sizeof(struct btf_enum);
	case BTF_KIND_FUNC_PROTO: return sizeof(*t) + vlen * sizeof(struct btf_param);
	case BTF_KIND_VAR: return sizeof(*t) + sizeof(struct btf_var);
	case BTF_KIND_DATASEC: return sizeof(*t) + vlen * sizeof(struct btf_var_secinfo);
	case 17 /* decl tag */: return sizeof(*t) + sizeof(uint32_t);
	case 19 /* enum64 */: return sizeof(*t) + vlen * 3 * sizeof(uint32_t);
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case 16 /* float */:
	case 18 /* type tag */: return sizeof(*t);
	default: return 0; /* a kind that we do not know: we cannot go on */
	}
}

static void btf_close(struct btf *b)
{
	if (b->type)
		vac__port_meta_release(b->type, b->type_bytes);
	if (b->raw)
		vac__port_meta_release(b->raw, b->bytes);
}

static bool btf_index(struct btf *b)
{
	const struct btf_header *h = (const void *)b->raw;
	const char *at, *end;

	if (b->bytes < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > b->bytes ||
	    (uint64_t)h->hdr_len + h->type_off + h->type_len > b->bytes ||
	    (uint64_t)h->hdr_len + h->str_off + h->str_len > b->bytes || h->str_len == 0)
		return false;
	b->strings = b->raw + h->hdr_len + h->str_off;
	b->str_len = h->str_len;
	if (b->strings[h->str_len - 1])
		return false;
	at = b->raw + h->hdr_len + h->type_off;
	end = at + h->type_len;
	b->type_bytes = (h->type_len / sizeof(struct btf_type) + 2) * sizeof(*b->type);
	b->type = vac__port_meta_reserve(b->type_bytes);
	if (!b->type)
		return false;
	while (at < end) {
		const struct btf_type *t = (const void *)at;
		size_t n;

		if ((size_t)(end - at) < sizeof(*t))
			return false;
		n = type_size(t);
		if (n == 0 || n > (size_t)(end - at))
			return false;
		b->type[++b->nr] = t;
		at += n;
	}
	return true;
}

static bool btf_open(struct btf *b)
{
	int fd = vac__sys_open(AT_FDCWD, "/sys/kernel/btf/vmlinux", O_RDONLY);
	long size, n, got = 0;

	memset(b, 0, sizeof(*b));
	if (fd < 0)
		return false;
	size = vac__sys(syscall(SYS_lseek, fd, 0, SEEK_END));
	if (size > 0 && vac__sys(syscall(SYS_lseek, fd, 0, SEEK_SET)) == 0)
		b->raw = vac__port_meta_reserve(b->bytes = (size_t)size);
	while (b->raw && got < size &&
	       (n = vac__sys_read(fd, b->raw + got, (size_t)(size - got))) > 0)
		got += n;
	vac__sys_close(fd);
	if (b->raw && got == size && btf_index(b))
		return true;
	btf_close(b);
	return false;
}

static const char *btf_name(const struct btf *b, uint32_t off)
{
	return off < b->str_len ? b->strings + off : "";
}

static const struct btf_type *btf_find(const struct btf *b, uint32_t kind, const char *name)
{
	for (uint32_t i = 1; i <= b->nr; i++)
		if (BTF_INFO_KIND(b->type[i]->info) == kind && BTF_INFO_VLEN(b->type[i]->info) &&
		    strcmp(btf_name(b, b->type[i]->name_off), name) == 0)
			return b->type[i];
	return NULL;
}

/* Offset in bytes of a member, inside anonymous structures and unions too; -1 if there is none. */
static long member(const struct btf *b, const struct btf_type *t, const char *name, int depth)
{
	const struct btf_member *m = (const void *)(t + 1);

	for (uint32_t i = 0; i < BTF_INFO_VLEN(t->info); i++, m++) {
		uint32_t bits = BTF_INFO_KFLAG(t->info) ? BTF_MEMBER_BIT_OFFSET(m->offset)
							: m->offset;
		const char *its = btf_name(b, m->name_off);
		const struct btf_type *in;
		uint32_t kind;
		long off;

		if (strcmp(its, name) == 0)
			return bits % 8 ? -1 : (long)(bits / 8);
		if (*its || depth == 0 || m->type == 0 || m->type > b->nr)
			continue;
		in = b->type[m->type];
		kind = BTF_INFO_KIND(in->info);
		if (kind != BTF_KIND_STRUCT && kind != BTF_KIND_UNION)
			continue;
		off = member(b, in, name, depth - 1);
		if (off >= 0)
			return off + (long)(bits / 8);
	}
	return -1;
}

static bool field(const struct btf *b, const char *type, const char *name, uint32_t *off)
{
	const struct btf_type *t = btf_find(b, BTF_KIND_STRUCT, type);
	long v = t ? member(b, t, name, 8) : -1;

	*off = (uint32_t)v;
	return v >= 0;
}

static bool constant(const struct btf *b, const char *type, const char *name, uint32_t *v)
{
	const struct btf_type *t = btf_find(b, BTF_KIND_ENUM, type);
	const struct btf_enum *e = (const void *)(t + 1);

	for (uint32_t i = 0; t && i < BTF_INFO_VLEN(t->info); i++) {
		if (strcmp(btf_name(b, e[i].name_off), name) == 0) {
			*v = (uint32_t)e[i].val;
			return true;
		}
	}
	return false;
}

/* ---- The program ------------------------------------------------------------------------------ */

#define INSN(c, d, s, o, i)                                                                  \
	{                                                                                    \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (int32_t)(i) \
	}

static long bpf(int cmd, union bpf_attr *attr)
{
	return vac__sys(syscall(SYS_bpf, cmd, attr, sizeof(*attr)));
}

static bool program_load(void)
{
	static const char licence[] = "Dual MIT/GPL"; /* what bpf_probe_read_kernel() asks for */
	union bpf_attr a;
	void *at;
	long r;

	memset(&a, 0, sizeof(a));
	a.map_type = BPF_MAP_TYPE_ARRAY;
	a.key_size = 4;
	a.value_size = sizeof(struct words);
	a.max_entries = 1;
	a.map_flags = BPF_F_MMAPABLE;
	r = bpf(BPF_MAP_CREATE, &a);
	if (r < 0)
		return false;
	look.map_fd = (int)r;
	if (!vac__port_vma_charge(1, false))
		return false;
	if (vac__sys_mmap(NULL, sizeof(struct words), PROT_READ | PROT_WRITE, MAP_SHARED,
			  look.map_fd, 0, &at) < 0) {
		vac__port_vma_charge(-1, true);
		return false;
	}
	look.w = at;
	vac__sys_madvise(at, sizeof(struct words), MADV_DONTFORK);

	/* r6: the list. r7: index. r8: how many. r9: the element. */
	struct bpf_insn prog[] = {
		INSN(BPF_LD | BPF_DW | BPF_IMM, 6, BPF_PSEUDO_MAP_VALUE, 0, look.map_fd),
		INSN(0, 0, 0, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_task),
		INSN(BPF_STX | BPF_MEM | BPF_DW, 6, 0, 8, 0),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, 8, 6, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 7, 0, 0, 0),
		/* loop: */
		INSN(BPF_JMP | BPF_JGE | BPF_K, 7, 0, 12, LIST),
		INSN(BPF_JMP | BPF_JGE | BPF_X, 7, 8, 11, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 9, 7, 0, 0),
		INSN(BPF_ALU64 | BPF_LSH | BPF_K, 9, 0, 0, 4),
		INSN(BPF_ALU64 | BPF_ADD | BPF_X, 9, 6, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 1, 9, 0, 0),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, offsetof(struct words, e[0].value)),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 8),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, 3, 9, offsetof(struct words, e[0].addr), 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel),
		INSN(BPF_STX | BPF_MEM | BPF_DW, 9, 0, offsetof(struct words, e[0].addr), 0),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, 7, 0, 0, 1),
		INSN(BPF_JMP | BPF_JA, 0, 0, -13, 0),
		/* out: */
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};

	memset(&a, 0, sizeof(a));
	a.prog_type = BPF_PROG_TYPE_SYSCALL;
	a.insns = (uintptr_t)prog;
	a.insn_cnt = sizeof(prog) / sizeof(prog[0]);
	a.license = (uintptr_t)licence;
	a.prog_flags = BPF_F_SLEEPABLE;
	memcpy(a.prog_name, "vacate_look", 12);
	r = bpf(BPF_PROG_LOAD, &a);
	if (r < 0)
		return false;
	look.prog_fd = (int)r;
	return true;
}

/* Read the words listed. False if the program does not run, or one of them cannot be read. */
static bool run(unsigned n)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.test.prog_fd = (uint32_t)look.prog_fd;
	look.w->n = n;
	if (bpf(BPF_PROG_TEST_RUN, &a) < 0)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (look.w->e[i].addr)
			return false;
	return true;
}

static bool word(uint64_t addr, uint64_t *v)
{
	look.w->e[0].addr = addr;
	if (!run(1))
		return false;
	*v = look.w->e[0].value;
	return true;
}

/* ---- Looking at pages ------------------------------------------------------------------------- */

static uint64_t page_of(uint64_t pfn)
{
	return look.base + pfn * look.page_bytes;
}

/* Half of the aligned word that a 32-bit field lies in. */
static int32_t part(uint64_t v, uint32_t off)
{
	return (int32_t)(v >> (off % 8 * 8)); /* little endian, as are both processors */
}

/* A large folio by its head: 0 nobody, 1 somebody, negative. *pages: how many it has. */
static int look_large(uint64_t head, unsigned *pages)
{
	uint64_t map = head + (look.large_map & ~7u), ref = head + (look.ref & ~7u);
	const uint64_t addr[] = {head + look.flags, head + look.order, map, ref, map, ref, map};
	int64_t refs[2], maps[3];
	unsigned order;

	for (unsigned i = 0; i < 7; i++)
		look.w->e[i].addr = addr[i];
	if (!run(7))
		return PROG_GONE;
	order = look.w->e[1].value & 0xff;
	if (!(look.w->e[0].value >> look.pg_head & 1) || order == 0 || order > 20)
		return 1; /* not a folio any more: divided or freed as we looked */
	*pages = 1u << order;
	for (unsigned i = 0; i < 3; i++)
		maps[i] = (int64_t)part(look.w->e[2 + 2 * i].value, look.large_map) + 1;
	for (unsigned i = 0; i < 2; i++)
		refs[i] = part(look.w->e[3 + 2 * i].value, look.ref);
	if (maps[0] != maps[1] || maps[1] != maps[2] || refs[0] != refs[1])
		return 1;
	return refs[0] != maps[0] + (1 << order);
}

/* Frames look.pm[0..n), which a mapping of ours shows. *first: which of them is held. */
static int look_frames(unsigned n, unsigned *first)
{
	unsigned per = LIST / 3, done = 0;

	while (done < n) {
		unsigned k = n - done < per ? n - done : per, step;

		/* What begins with a whole large folio is told by its head alone. */
		if (k > 1)
			k = look.pm[done + k - 1] - look.pm[done] == k - 1 && done == 0 ? 1 : k;
		for (unsigned i = 0; i < k; i++) {
			uint64_t p = page_of(look.pm[done + i]);

			look.w->e[3 * i].addr = p + look.flags;
			look.w->e[3 * i + 1].addr = p + look.head;
			look.w->e[3 * i + 2].addr = p + (look.ref & ~7u);
		}
		if (!run(3 * k))
			return PROG_GONE;
		for (unsigned i = 0; i < k; i += step) {
			uint64_t flags = look.w->e[3 * i].value, up = look.w->e[3 * i + 1].value;
			uint64_t counts = look.w->e[3 * i + 2].value;
			uint64_t head = up & 1 ? up - 1 : page_of(look.pm[done + i]);

			step = 1;
			*first = done + i;
			if (!(up & 1) && !(flags >> look.pg_head & 1)) {
				/* The page cache's reference, and one a mapping. */
				if (part(counts, look.ref) != part(counts, look.map) + 2)
					return 1;
				continue;
			}
			if (!look.huge)
				return PROG_GONE;
			unsigned pages, back;
			int r = look_large(head, &pages);

			if (r)
				return r;
			/* The rest of it need not be asked; the list is overwritten. */
			back = (unsigned)((page_of(look.pm[done + i]) - head) / look.page_bytes);
			if (back >= pages)
				return 1;
			k = done + i + (pages - back) < n ? i + (pages - back) : n - done;
			break;
		}
		done += k;
	}
	return 0;
}

static int look_once(void *at, size_t bytes, size_t *where)
{
	unsigned n = (unsigned)(bytes / VAC_PAGE_BYTES), first = 0;
	int r;

	/* The page must be there, to have a number. */
	if (vac__sys_madvise(at, bytes, MADV_POPULATE_READ) < 0)
		return PROG_GONE;
	if (vac__sys_pread(look.pagemap_fd, look.pm, n * 8, (uintptr_t)at / VAC_PAGE_BYTES * 8) !=
	    (long)(n * 8))
		return PROG_GONE;
	for (unsigned i = 0; i < n; i++) {
		if (!(look.pm[i] >> 63)) {
			*where = i * VAC_PAGE_BYTES;
			return 1; /* on its way out already: ask again */
		}
		look.pm[i] &= (UINT64_C(1) << 55) - 1;
		if (look.pm[i] == 0)
			return PROG_GONE; /* hidden: the privilege is gone */
	}
	r = look_frames(n, &first);
	*where = first * VAC_PAGE_BYTES;
	return r;
}

/* lru_add_drain_all(), which any collapse begins with: here one that has nothing to do. */
static void drain(void)
{
	syscall(SYS_madvise, look.own, VAC_PAGE_BYTES, MADV_COLLAPSE);
}

/* The lock is held. At most a pageblock at a time. */
static int look_at(void *at, size_t bytes, size_t *where)
{
	int r = look_once(at, bytes, where);

	if (r == 1) {
		drain();
		r = look_once(at, bytes, where);
	}
	return r;
}

/* ---- Calibration ------------------------------------------------------------------------------ */

struct offsets {
	uint32_t files, fdt, fd, private_data, bufs, page, buf_bytes;
};

static bool find_offsets(struct offsets *o)
{
	struct btf b;
	const struct btf_type *page, *buf;
	bool ok;

	if (!btf_open(&b))
		return false;
	page = btf_find(&b, BTF_KIND_STRUCT, "page");
	buf = btf_find(&b, BTF_KIND_STRUCT, "pipe_buffer");
	ok = page && buf && field(&b, "page", "flags", &look.flags) &&
	     field(&b, "page", "compound_head", &look.head) &&
	     field(&b, "page", "_mapcount", &look.map) &&
	     field(&b, "page", "_refcount", &look.ref) &&
	     constant(&b, "pageflags", "PG_head", &look.pg_head) &&
	     field(&b, "task_struct", "files", &o->files) &&
	     field(&b, "files_struct", "fdt", &o->fdt) && field(&b, "fdtable", "fd", &o->fd) &&
	     field(&b, "file", "private_data", &o->private_data) &&
	     field(&b, "pipe_inode_info", "bufs", &o->bufs) &&
	     field(&b, "pipe_buffer", "page", &o->page) &&
	     /* One aligned word holds both counts, else they could not be read at once. */
	     look.map / 8 == look.ref / 8 && look.flags % 8 == 0 && look.head % 8 == 0;
	if (ok) {
		look.page_bytes = page->size;
		o->buf_bytes = buf->size;
	}
	/* The total of a large folio's mappings has a field of its own since Linux 6.9 or so; the
	 * order lies in the lowest byte of the second page's flags since 6.6. */
	look.huge = ok && field(&b, "folio", "_large_mapcount", &look.large_map) &&
		    field(&b, "folio", "_flags_1", &look.order) && look.order % 8 == 0;
	btf_close(&b);
	return ok;
}

/* The struct page of a pipe's k-th buffer: task, file table, file, pipe, buffer. */
static bool page_in_pipe(const struct offsets *o, int fd, unsigned k, uint64_t *page)
{
	uint64_t v;

	look.w->n = 0;
	if (!run(0))
		return false;
	v = look.w->task;
	return word(v + o->files, &v) && word(v + o->fdt, &v) && word(v + o->fd, &v) &&
	       word(v + (uint64_t)fd * 8, &v) && word(v + o->private_data, &v) &&
	       word(v + o->bufs, &v) && word(v + k * o->buf_bytes + o->page, page);
}

static bool frame_of(const void *at, uint64_t *pfn)
{
	uint64_t v;

	if (vac__sys_pread(look.pagemap_fd, &v, 8, (uintptr_t)at / VAC_PAGE_BYTES * 8) != 8)
		return false;
	*pfn = v & ((UINT64_C(1) << 55) - 1);
	return v >> 63 && *pfn;
}

static bool into_pipe(int fd, void *at)
{
	struct iovec {
		void *base;
		size_t len;
	} v = {at, VAC_PAGE_BYTES};

	return vac__sys(syscall(SYS_vmsplice, fd, &v, 1, 0)) == (long)VAC_PAGE_BYTES;
}

static bool is_held(void *at, size_t bytes, int want)
{
	size_t where;

	return look_at(at, bytes, &where) == want;
}

static bool pipe_open(int *p)
{
	return vac__sys(syscall(SYS_pipe2, p, O_CLOEXEC | O_NONBLOCK)) == 0;
}

static void pipe_close(int *p)
{
	vac__sys_close(p[0]);
	vac__sys_close(p[1]);
}

/* Learn where struct page lies, then be right about pages that we know all about. */
static bool calibrate_base(const struct offsets *o)
{
	char *at = look.own;
	uint64_t page, pfn;
	bool ok;
	int p[2];

	if (!pipe_open(p))
		return false;
	ok = into_pipe(p[1], at) && into_pipe(p[1], at + VAC_PAGE_BYTES) &&
	     page_in_pipe(o, p[0], 0, &page) && frame_of(at, &pfn);
	if (ok) {
		look.base = page - pfn * look.page_bytes;
		ok = page_in_pipe(o, p[0], 1, &page) && frame_of(at + VAC_PAGE_BYTES, &pfn) &&
		     page == page_of(pfn);
	}
	ok = ok && is_held(at, VAC_PAGE_BYTES, 1) &&
	     is_held(at + 2 * VAC_PAGE_BYTES, VAC_PAGE_BYTES, 0) &&
	     is_held(at, 4 * VAC_PAGE_BYTES, 1);
	pipe_close(p);
	return ok && is_held(at, 4 * VAC_PAGE_BYTES, 0);
}

static bool calibrate_huge(void)
{
	char *at = look.own;
	bool ok;
	int p[2];

	if (syscall(SYS_madvise, at, VAC_PAGEBLOCK_BYTES, MADV_COLLAPSE) < 0 || !pipe_open(p))
		return false;
	ok = is_held(at, VAC_PAGEBLOCK_BYTES, 0) && into_pipe(p[1], at + 9 * VAC_PAGE_BYTES) &&
	     is_held(at, VAC_PAGEBLOCK_BYTES, 1) && is_held(at + 64 * VAC_PAGE_BYTES, 4096, 1);
	pipe_close(p);
	return ok && is_held(at, VAC_PAGEBLOCK_BYTES, 0);
}

/* 2 MiB of a memfd, of which only calibration touches pages; kept for drain(). */
static bool own_pages(void)
{
	long fd = vac__sys(syscall(SYS_memfd_create, "vacate:look", MFD_CLOEXEC));
	void *at;
	bool ok;

	if (fd < 0)
		return false;
	ok = vac__sys(syscall(SYS_ftruncate, fd, VAC_PAGEBLOCK_BYTES)) == 0 &&
	     vac__bare_reserve(VAC_PAGEBLOCK_BYTES, VAC_PAGEBLOCK_BYTES, &at) == 0;
	if (ok && vac__map_shared(at, VAC_PAGEBLOCK_BYTES, PROT_READ | PROT_WRITE, (int)fd, 0,
				  false) < 0) {
		vac__bare_release(at, VAC_PAGEBLOCK_BYTES);
		ok = false;
	}
	if (ok)
		look.own = at;
	ok = ok && vac__sys_madvise(at, 4 * VAC_PAGE_BYTES, MADV_POPULATE_WRITE) == 0;
	if (ok)
		look.pagemap_fd = vac__sys_open(AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
	vac__sys_close((int)fd);
	return ok && look.pagemap_fd >= 0;
}

static void give_up(void)
{
	if (look.w) {
		vac__sys_munmap(look.w, sizeof(struct words));
		vac__port_vma_charge(-1, true);
	}
	if (look.own)
		vac__bare_release(look.own, VAC_PAGEBLOCK_BYTES);
	if (look.map_fd >= 0)
		vac__sys_close(look.map_fd);
	if (look.prog_fd >= 0)
		vac__sys_close(look.prog_fd);
	if (look.pagemap_fd >= 0)
		vac__sys_close(look.pagemap_fd);
	look.w = NULL;
	look.own = NULL;
}

/* Once a process, at the opening of its first pool that may need it: the program may give up its
 * privileges later, and what is open stays usable. */
void vac__foreign_init(void)
{
	struct offsets o;

	vac__flock_lock(&look.lock);
	if (!look.tried) {
		look.tried = true;
		/* The quick refusal first: reading the BTF takes some milliseconds. */
		look.ready = program_load() && own_pages() && find_offsets(&o) &&
			     calibrate_base(&o);
		if (!look.ready)
			give_up();
		else if (look.huge)
			look.huge = calibrate_huge();
		if (look.own) /* the collapse has filled it */
			vac__sys_madvise(look.own, VAC_PAGEBLOCK_BYTES, MADV_REMOVE);
	}
	vac__flock_unlock(&look.lock);
}

/* ---- Text of /proc ---------------------------------------------------------------------------- */

struct lines { /* a file of /proc, read line by line */
	int fd;
	unsigned at, end;
	char buf[1024];
};

static bool next_line(struct lines *l, char *line, size_t max)
{
	size_t n = 0;

	for (;;) {
		if (l->at == l->end) {
			long r = vac__sys_read(l->fd, l->buf, sizeof(l->buf));

			if (r <= 0) {
				line[n] = '\0';
				return n > 0;
			}
			l->at = 0;
			l->end = (unsigned)r;
		}
		if (l->buf[l->at] == '\n') {
			l->at++;
			line[n] = '\0';
			return true;
		}
		if (n + 1 < max)
			line[n++] = l->buf[l->at];
		l->at++;
	}
}

static const char *spaces(const char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	return s;
}

static const char *number(const char *s, uint64_t *v)
{
	unsigned base = 10;

	s = spaces(s);
	*v = 0;
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	for (;; s++) {
		unsigned d = *s >= '0' && *s <= '9'   ? (unsigned)(*s - '0')
			     : *s >= 'a' && *s <= 'f' ? (unsigned)(*s - 'a') + 10
						      : 99;

		if (d >= base)
			return s;
		*v = *v * base + d;
	}
}

static char *put(char *to, const char *end, const char *s)
{
	while (*s && to + 1 < end)
		*to++ = *s++;
	*to = '\0';
	return to;
}

static char *put_number(char *to, const char *end, uint64_t v)
{
	char digits[24], *p = digits + sizeof(digits) - 1;

	*p = '\0';
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	return put(to, end, p);
}

/* Call fn for each number that a directory of /proc lists, until it answers true. */
static bool each_number(const char *dir, bool (*fn)(void *arg, int dir, uint64_t n), void *arg)
{
	int fd = vac__sys_open(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY);
	_Alignas(8) char buf[2048];
	bool hit = false;
	long n;

	if (fd < 0)
		return false;
	while (!hit && (n = vac__sys(syscall(SYS_getdents64, fd, buf, sizeof(buf)))) > 0) {
		for (long at = 0; at < n && !hit;) {
			uint16_t len;
			const char *name = buf + at + 19;
			uint64_t v;

			memcpy(&len, buf + at + 16, sizeof(len));
			if (*name >= '0' && *name <= '9') {
				number(name, &v);
				hit = fn(arg, fd, v);
			}
			at += len;
		}
	}
	vac__sys_close(fd);
	return hit;
}

struct range {
	uint64_t lo, hi;
	uint64_t fd, index; /* of what was found */
	uint64_t tid, call;
};

static int open_number(const char *dir, uint64_t n, const char *file)
{
	char path[64], *end = path + sizeof(path);

	put(put_number(put(path, end, dir), end, n), end, file);
	return vac__sys_open(AT_FDCWD, path, O_RDONLY);
}

/* ---- io_uring: registered buffers, by address -------------------------------------------------- */

/* A ring that is busy leaves the list out: it is asked again, then taken for one that holds. */
static bool ring_lists(struct range *r, uint64_t fd, bool *told)
{
	struct lines l = {.fd = open_number("/proc/self/fdinfo/", fd, "")};
	char line[160];
	bool hit = false, in = false;

	*told = l.fd < 0; /* closed meanwhile */
	while (l.fd >= 0 && !hit && next_line(&l, line, sizeof(line))) {
		uint64_t index, addr, len;
		const char *s;

		if (strncmp(line, "UserBufs:", 9) == 0) {
			*told = in = true;
			continue;
		}
		if (!in)
			continue;
		s = spaces(number(line, &index));
		if (*s != ':') {
			in = false;
			continue;
		}
		s = number(s + 1, &addr);
		if (*s != '/')
			continue; /* <none> */
		number(s + 1, &len);
		hit = addr < r->hi && len > 0 && addr + len > r->lo;
		r->fd = fd;
		r->index = index;
	}
	if (l.fd >= 0)
		vac__sys_close(l.fd);
	return hit;
}

static bool ring_holds(void *arg, int dir, uint64_t fd)
{
	struct range *r = arg;
	char name[24], link[32];
	long n;

	put_number(name, name + sizeof(name), fd);
	n = vac__sys(syscall(SYS_readlinkat, dir, name, link, sizeof(link)));
	if (n < 21 || memcmp(link, "anon_inode:[io_uring]", 21) != 0)
		return false;
	for (int tries = 0; tries < 20; tries++) {
		bool told;

		if (ring_lists(r, fd, &told))
			return true;
		if (told)
			return false;
		syscall(SYS_sched_yield);
	}
	r->fd = fd;
	r->index = UINT64_MAX;
	return true;
}

/* ---- Threads that sleep in a call on the range ------------------------------------------------- */

static const struct {
	long nr;
	const char *name;
} calls[] = {
	{SYS_read, "read"},         {SYS_pread64, "pread64"},   {SYS_write, "write"},
	{SYS_pwrite64, "pwrite64"}, {SYS_recvfrom, "recvfrom"}, {SYS_sendto, "sendto"},
};

static bool thread_holds(void *arg, int dir, uint64_t tid)
{
	struct range *r = arg;
	struct lines l = {.fd = open_number("/proc/self/task/", tid, "/syscall")};
	char line[160];
	bool ok = l.fd >= 0 && next_line(&l, line, sizeof(line));
	uint64_t nr, v[3];
	const char *s;

	(void)dir;
	if (l.fd >= 0)
		vac__sys_close(l.fd);
	if (!ok || line[0] < '0' || line[0] > '9')
		return false; /* "running", or in the kernel for another reason */
	s = number(line, &nr);
	for (int i = 0; i < 3; i++)
		s = number(s, &v[i]);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if ((uint64_t)calls[i].nr != nr || v[1] >= r->hi || v[1] + v[2] <= r->lo)
			continue;
		r->tid = tid;
		r->call = i;
		r->fd = v[0];
		return true;
	}
	return false;
}

/* ---- The operations --------------------------------------------------------------------------- */

int vac__foreign_held(void *arg, struct vac__backing *b, size_t off, size_t bytes,
		      const void *shown, size_t *at)
{
	struct vac__mem_ctx *ctx = arg;
	struct range r = {.lo = (uintptr_t)shown, .hi = (uintptr_t)shown + bytes};
	int ret = PROG_GONE;

	*at = off;
	if (ctx->flags & VAC_POOL_PINS_ONLY)
		return 0;
	if (!(ctx->flags & VAC_POOL_TEST_NO_LOOK)) {
		vac__flock_lock(&look.lock);
		for (size_t done = 0, n, where = 0; look.ready && done < bytes; done += n) {
			n = bytes - done < VAC_PAGEBLOCK_BYTES ? bytes - done : VAC_PAGEBLOCK_BYTES;
			ret = look_at((char *)b->direct + off + done, n, &where);
			*at = off + done + where;
			if (ret)
				break;
		}
		vac__flock_unlock(&look.lock);
		if (ret >= 0)
			return ret;
		*at = off;
	}
	if (shown && each_number("/proc/self/fd", ring_holds, &r))
		return 1;
	return PROG_GONE;
}

bool vac__foreign_sees(void *arg)
{
	struct vac__mem_ctx *ctx = arg;

	return look.ready && !(ctx->flags & (VAC_POOL_PINS_ONLY | VAC_POOL_TEST_NO_LOOK));
}

void vac__foreign_holder(void *arg, const void *shown, size_t bytes, char *text, size_t max,
			 uint32_t *tid)
{
	struct range r = {.lo = (uintptr_t)shown, .hi = (uintptr_t)shown + bytes};
	char *end = text + max, *p;

	(void)arg;
	*tid = 0;
	if (shown && each_number("/proc/self/fd", ring_holds, &r)) {
		p = put_number(put(text, end, "io_uring fd "), end, r.fd);
		if (r.index == UINT64_MAX)
			put(p, end, ", busy");
		else
			put_number(put(p, end, ", registered buffer "), end, r.index);
	} else if (shown && each_number("/proc/self/task", thread_holds, &r)) {
		*tid = (uint32_t)r.tid;
		p = put(put(text, end, calls[r.call].name), end, "(fd ");
		put(put_number(p, end, r.fd), end, ")");
	} else {
		put(text, end, "kernel reference, holder unknown");
	}
}

// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Live: who takes references to frames of one block, as it happens.
 *
 * Two ways. fexit on the functions that pin user memory sees every kind, with the thread and stack;
 * kernels without BPF trampolines, or under lockdown, refuse it. tp_btf/block_bio_queue is allowed
 * everywhere: it runs in the thread that submits, and sees direct I/O to block devices, and with it
 * the page cache's own I/O, which the command leaves out unless asked. Frames of other blocks cost
 * a comparison.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "watch.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define VECS_MAX 256
#define PAGES_MAX 512
#define REQ_OP_MASK 0xff

unsigned long long lo_pfn, hi_pfn, vmemmap;
unsigned int own_tgid;
unsigned int page_shift = 12;
unsigned long long lost; /* events for which there was no room */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct bvec_iter {
	unsigned int bi_idx;
	unsigned int bi_size;
} __attribute__((preserve_access_index));

struct bio {
	struct block_device *bi_bdev;
	unsigned int bi_opf;
	unsigned short bi_vcnt;
	struct bio_vec *bi_io_vec;
	struct bvec_iter bi_iter;
} __attribute__((preserve_access_index));

/* What a loop looks for, and has found. */
struct look {
	u64 base;
	u64 pfn[WATCH_RUNS];
	u32 len[WATCH_RUNS];
	u32 runs;
	u32 n;
	u32 anon;
};

static __always_inline u64 pfn_of(u64 page)
{
	return vmemmap && page >= vmemmap ? (page - vmemmap) / bpf_core_type_size(struct page) : 0;
}

static __always_inline void note(struct look *l, u64 page, u64 bytes)
{
	u64 pfn = pfn_of(page), end;
	u32 k;

	end = pfn + ((bytes + (1ULL << page_shift) - 1) >> page_shift);
	if (!pfn || pfn >= hi_pfn || end <= lo_pfn)
		return;
	if (pfn < lo_pfn)
		pfn = lo_pfn;
	if (end > hi_pfn)
		end = hi_pfn;
	l->n += (u32)(end - pfn);
	k = l->runs;
	if (k >= WATCH_RUNS)
		return;
	l->pfn[k & (WATCH_RUNS - 1)] = pfn;
	l->len[k & (WATCH_RUNS - 1)] = (u32)(end - pfn);
	l->runs = k + 1;
}

static __always_inline void tell(void *ctx, const struct look *l, u8 how, u8 write, u8 direct,
				 struct block_device *bdev)
{
	struct watch_event *e;
	u64 id = bpf_get_current_pid_tgid();

	if ((u32)(id >> 32) == own_tgid)
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	for (int i = 0; i < WATCH_RUNS; i++) {
		e->pfn[i] = l->pfn[i];
		e->len[i] = l->len[i];
	}
	e->n = l->n;
	e->ns = bpf_ktime_get_ns();
	e->tgid = (u32)(id >> 32);
	e->pid = (u32)id;
	e->how = how;
	e->write = write;
	e->direct = direct;
	e->pad = 0;
	e->disk[0] = 0;
	for (int i = 0; i < WATCH_STACK; i++)
		e->stack[i] = 0;
	bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (bdev)
		BPF_CORE_READ_STR_INTO(&e->disk, bdev, bd_disk, disk_name);
	bpf_ringbuf_submit(e, 0);
}

/* ---- Block I/O ---- */

static long vec_step(u32 i, void *data)
{
	struct look *l = data;
	struct bio_vec *v = (void *)(l->base + (u64)i * bpf_core_type_size(struct bio_vec));
	struct page *p = BPF_CORE_READ(v, bv_page);
	u64 had = l->n;

	note(l, (u64)p, BPF_CORE_READ(v, bv_len) + BPF_CORE_READ(v, bv_offset));
	if (l->n != had)
		l->anon |= (u64)BPF_CORE_READ(p, mapping) & 1;
	return 0;
}

SEC("tp_btf/block_bio_queue")
int bio_queue(u64 *ctx)
{
	struct bio *bio = (void *)ctx[0];
	struct look l = {};
	u32 n = BPF_CORE_READ(bio, bi_vcnt), first = BPF_CORE_READ(bio, bi_iter.bi_idx), op;

	l.base = (u64)BPF_CORE_READ(bio, bi_io_vec) +
		 (u64)first * bpf_core_type_size(struct bio_vec);
	/* A clone counts no vectors of its own; its size bounds them. */
	if (!n)
		n = (BPF_CORE_READ(bio, bi_iter.bi_size) + 4095) >> 12;
	bpf_loop(n < VECS_MAX ? n : VECS_MAX, vec_step, &l, 0);
	if (!l.n)
		return 0;
	op = BPF_CORE_READ(bio, bi_opf) & REQ_OP_MASK;
	tell(ctx, &l, WATCH_BIO, op & 1, (u8)l.anon, BPF_CORE_READ(bio, bi_bdev));
	return 0;
}

/* ---- Pins ---- */

static long page_step(u32 i, void *data)
{
	struct look *l = data;
	u64 page = 0;

	bpf_probe_read_kernel(&page, sizeof(page), (void *)(l->base + i * 8ULL));
	note(l, page, 1);
	return 0;
}

/* struct page ** arguments are refused by older verifiers, so arguments come by number. */
static __always_inline int pinned(void *ctx, u32 pages_arg)
{
	struct look l = {};
	u64 pages = 0, n = 0;

	if (bpf_get_func_ret(ctx, &n) || bpf_get_func_arg(ctx, pages_arg, &pages))
		return 0;
	if ((s32)n <= 0 || !pages)
		return 0;
	l.base = pages;
	bpf_loop((u32)n < PAGES_MAX ? (u32)n : PAGES_MAX, page_step, &l, 0);
	if (l.n)
		tell(ctx, &l, WATCH_PIN, 0, 0, NULL);
	return 0;
}

SEC("fexit/get_user_pages_fast")
int gup_fast(u64 *ctx)
{
	return pinned(ctx, 3);
}

SEC("fexit/pin_user_pages_fast")
int pup_fast(u64 *ctx)
{
	return pinned(ctx, 3);
}

SEC("fexit/pin_user_pages")
int pup(u64 *ctx)
{
	return pinned(ctx, 3);
}

SEC("fexit/pin_user_pages_remote")
int pup_remote(u64 *ctx)
{
	return pinned(ctx, 4);
}

// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The walks: who refers to which frame, found in the holders' own structures.
 *
 * Only reads. One process runs these programs, one after the other, so their state is in globals,
 * and the loops of bpf_loop() need no stack. The kernel's lists are read without their locks: a
 * list may change under a walk, so every walk is bounded, every read may fail, and what is found is
 * a claim about a moment; the command compares it with a second look at the frame.
 *
 * What is only ever 0 or 1 is volatile: clang would make a byte of it, and the kernel refuses a type
 * description that says otherwise.
 *
 * Which file is a pipe, a ring or a socket is told by its file operations, compared with those of
 * descriptors of our own (calibrate). The place of the array of struct page comes from there too:
 * no symbol needs to be visible.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "walk.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define PAGE_SHIFT_4K 12
#define QUEUE_MAX (1 << 17)
#define AF_UNIX_ 1
#define AF_INET_ 2
#define AF_INET6_ 10
#define TCP_LISTEN_ 10
#define SOCK_STREAM_ 1
#define IPPROTO_TCP_ 6
#define PIPE_MAX (1 << 20)

/* Set by the command before each run. */
unsigned long long lo_pfn, hi_pfn; /* frames that are of interest */
unsigned long long vmemmap;        /* struct page of frame 0; 0 until calibrated */
unsigned int page_shift = PAGE_SHIFT_4K;
int cal_pipe = -1, cal_own = -1, cal_socket = -1, cal_uring = -1, cal_fuse = -1;
struct walk_inode inodes[WALK_INODES];
unsigned int n_inodes;
unsigned int rec_max, page_max;

/* Answers. */
unsigned long long page_bytes; /* sizeof(struct page) here */
unsigned long long cal_page[2];
unsigned long long pipe_fops, own_ops, socket_fops, uring_fops, fuse_fops;
unsigned int n_recs;
unsigned int overflow; /* the records did not all fit */
unsigned int cut;      /* a list was longer than we follow */
unsigned int has_large_mapcount, has_entire_mapcount, has_aio, has_uring, has_fuse;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk_rec);
} recs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk_page);
} pages SEC(".maps");

/* A file or socket still to be looked at, for the descriptor in hand. */
struct todo {
	u64 ptr;
	u64 object; /* once it was looked at */
	u32 is_sock;
	u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WALK_FILES);
	__type(key, u32);
	__type(value, struct todo);
} todos SEC(".maps");

/* The descriptor and object in hand. */
static struct walk_rec at;
static u32 n_todo;

/* Kernel memory at an address that was computed; 0 where it cannot be read. */
static __always_inline u64 peek(u64 addr)
{
	u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)addr);
	return v;
}

static __always_inline void put(u64 pfn, u32 n)
{
	struct walk_rec *r;
	u32 i = n_recs;

	if (i) {
		i--;
		r = bpf_map_lookup_elem(&recs, &i);
		if (r && r->pfn + r->n == pfn && r->tgid == at.tgid && r->fd == at.fd &&
		    r->object == at.object && r->kind == at.kind && r->flags == at.flags) {
			r->n += n;
			return;
		}
		i++;
	}
	if (i >= rec_max) {
		overflow = 1;
		return;
	}
	r = bpf_map_lookup_elem(&recs, &i);
	if (!r)
		return;
	*r = at;
	r->pfn = pfn;
	r->n = n;
	n_recs = i + 1;
}

/* `at` refers to len bytes from offset of this page on. */
static __always_inline void put_page(u64 page, u64 offset, u64 len)
{
	u64 pfn, n, end;

	if (!vmemmap || !len || page < vmemmap)
		return;
	pfn = (page - vmemmap) / bpf_core_type_size(struct page);
	n = ((offset & ((1ULL << page_shift) - 1)) + len + (1ULL << page_shift) - 1) >> page_shift;
	pfn += offset >> page_shift;
	end = pfn + n;
	if (pfn < lo_pfn)
		pfn = lo_pfn;
	if (end > hi_pfn)
		end = hi_pfn;
	if (pfn < end)
		put(pfn, (u32)(end - pfn));
}

static __always_inline void add_todo(u64 ptr, u32 is_sock, u32 flags)
{
	u32 i = n_todo;
	struct todo *t;

	if (!ptr)
		return;
	t = bpf_map_lookup_elem(&todos, &i);
	if (!t) {
		cut = 1;
		return;
	}
	t->ptr = ptr;
	t->object = 0;
	t->is_sock = is_sock;
	t->flags = flags;
	n_todo = i + 1;
}

/* ---- Pipes ---- */

static u64 pipe_bufs;
static u32 pipe_tail, pipe_mask;

static long pipe_step(u32 i, void *ctx)
{
	u64 at_buf = pipe_bufs +
		     (u64)((pipe_tail + i) & pipe_mask) * bpf_core_type_size(struct pipe_buffer);
	struct pipe_buffer *b = (void *)at_buf;

	/* Pages of the pipe's own: never in movable memory. */
	if ((u64)BPF_CORE_READ(b, ops) != own_ops)
		put_page((u64)BPF_CORE_READ(b, page), BPF_CORE_READ(b, offset),
			 BPF_CORE_READ(b, len));
	return 0;
}

static __always_inline void walk_pipe(struct pipe_inode_info *p)
{
	u32 head = BPF_CORE_READ(p, head), ring = BPF_CORE_READ(p, ring_size);

	at.kind = WALK_PIPE;
	at.object = (u64)p;
	pipe_bufs = (u64)BPF_CORE_READ(p, bufs);
	pipe_tail = BPF_CORE_READ(p, tail);
	pipe_mask = ring - 1;
	if (head - pipe_tail <= ring && ring <= PIPE_MAX)
		bpf_loop(head - pipe_tail, pipe_step, NULL, 0);
}

/* ---- Registered buffers ---- */

static u64 ubufs, ubuf_bvecs;

static long bvec_step(u32 i, void *ctx)
{
	struct bio_vec *v = (void *)(ubuf_bvecs + (u64)i * bpf_core_type_size(struct bio_vec));

	put_page((u64)BPF_CORE_READ(v, bv_page), BPF_CORE_READ(v, bv_offset),
		 BPF_CORE_READ(v, bv_len));
	return 0;
}

static __always_inline void walk_ubuf(struct io_mapped_ubuf *u)
{
	u32 n;

	if (!u)
		return;
	n = BPF_CORE_READ(u, nr_bvecs);
	ubuf_bvecs = (u64)u + bpf_core_field_offset(struct io_mapped_ubuf, bvec);
	bpf_loop(n < QUEUE_MAX * 8 ? n : 0, bvec_step, NULL, 0);
}

static long ubuf_step(u32 i, void *ctx)
{
	walk_ubuf((void *)peek(ubufs + i * 8ULL));
	return 0;
}

static long node_step(u32 i, void *ctx)
{
	struct io_rsrc_node *n = (void *)peek(ubufs + i * 8ULL);

	if (n && bpf_core_field_exists(struct io_rsrc_node, buf))
		walk_ubuf(BPF_CORE_READ(n, buf));
	return 0;
}

static __always_inline void walk_uring(struct io_ring_ctx *c)
{
	struct io_ring_ctx___old *old = (void *)c;
	u32 n;

	at.kind = WALK_URING;
	at.object = (u64)c;
	at.flags |= WALK_PINNED;
	if (bpf_core_field_exists(c->buf_table)) {
		n = BPF_CORE_READ(c, buf_table.nr);
		ubufs = (u64)BPF_CORE_READ(c, buf_table.nodes);
		bpf_loop(ubufs && n < QUEUE_MAX ? n : 0, node_step, NULL, 0);
	} else if (bpf_core_field_exists(old->user_bufs)) {
		n = BPF_CORE_READ(old, nr_user_bufs);
		ubufs = (u64)BPF_CORE_READ(old, user_bufs);
		bpf_loop(ubufs && n < QUEUE_MAX ? n : 0, ubuf_step, NULL, 0);
	}
}

/* ---- Sockets ---- */

static u64 frags, next_skb, after_list, queue_end;
static volatile u32 unix_queue, listen_queue;
static u64 fps;
static u64 rb_at, rb_from;
static u64 next_req;

static long frag_step(u32 i, void *ctx)
{
	/* Before there was netmem, a fragment was a bio_vec, whose members have the same places. */
	u64 f = frags + i * 16ULL, page = peek(f), rest = peek(f + 8);

	if (!(page & 1)) /* not a struct page, but memory of a device */
		put_page(page, rest >> 32, (u32)rest);
	return 0;
}

static long fp_step(u32 i, void *ctx)
{
	add_todo(peek(fps + i * 8ULL), 0, (at.flags & WALK_ACCEPT) | WALK_IN_FLIGHT);
	return 0;
}

/* The fragments of one buffer. Answers its list of further buffers. */
static __always_inline u64 walk_skb(struct sk_buff *skb)
{
	struct skb_shared_info *s;
	u32 n;

	s = (void *)((u64)BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
	n = BPF_CORE_READ(s, nr_frags);
	frags = (u64)s + bpf_core_field_offset(struct skb_shared_info, frags);
	bpf_loop(n < 64 ? n : 0, frag_step, NULL, 0);
	return (u64)BPF_CORE_READ(s, frag_list);
}

static long skb_step(u32 i, void *ctx)
{
	struct sk_buff *skb = (void *)next_skb;
	u64 list;

	if (!skb && after_list) {
		skb = (void *)after_list;
		after_list = 0;
	}
	if (!skb || (u64)skb == queue_end)
		return 1;
	next_skb = (u64)BPF_CORE_READ(skb, next);
	if (listen_queue) {
		add_todo((u64)BPF_CORE_READ(skb, sk), 1, at.flags | WALK_ACCEPT);
		return 0;
	}
	list = walk_skb(skb);
	if (list && !after_list) {
		after_list = next_skb;
		next_skb = list;
	}
	if (unix_queue) {
		struct unix_skb_parms *cb =
			(void *)((u64)skb + bpf_core_field_offset(struct sk_buff, cb));
		struct scm_fp_list *fp = BPF_CORE_READ(cb, fp);
		int n;

		if (fp) {
			n = BPF_CORE_READ(fp, count);
			fps = (u64)fp + bpf_core_field_offset(struct scm_fp_list, fp);
			bpf_loop(n > 0 && n < 256 ? n : 0, fp_step, NULL, 0);
		}
	}
	return 0;
}

static __always_inline void walk_queue(struct sk_buff_head *q)
{
	queue_end = (u64)q;
	next_skb = (u64)BPF_CORE_READ(q, next);
	after_list = 0;
	if (bpf_loop(QUEUE_MAX, skb_step, NULL, 0) == QUEUE_MAX)
		cut = 1;
}

/* One edge of a tree of buffers a step, in order: down from the parent, or up from a child. */
static long rb_step(u32 i, void *ctx)
{
	struct rb_node *n = (void *)rb_at;
	u64 left, right, up;

	if (!n)
		return 1;
	left = (u64)BPF_CORE_READ(n, rb_left);
	right = (u64)BPF_CORE_READ(n, rb_right);
	up = BPF_CORE_READ(n, __rb_parent_color) & ~3ULL;
	if (rb_from == up && left) {
		rb_from = rb_at;
		rb_at = left;
		return 0;
	}
	if (rb_from == up || rb_from == left) {
		walk_skb((void *)(rb_at - bpf_core_field_offset(struct sk_buff, rbnode)));
		if (right) {
			rb_from = rb_at;
			rb_at = right;
			return 0;
		}
	}
	rb_from = rb_at;
	rb_at = up;
	return 0;
}

static __always_inline void walk_tree(u64 root)
{
	rb_at = root;
	rb_from = 0;
	if (bpf_loop(QUEUE_MAX, rb_step, NULL, 0) == QUEUE_MAX)
		cut = 1;
}

static long req_step(u32 i, void *ctx)
{
	struct request_sock *r = (void *)next_req;

	if (!r)
		return 1;
	add_todo((u64)BPF_CORE_READ(r, sk), 1, at.flags | WALK_ACCEPT);
	next_req = (u64)BPF_CORE_READ(r, dl_next);
	return 0;
}

static __always_inline void walk_sock(struct sock *sk)
{
	u16 family, type, protocol;
	u8 state;

	if (!sk)
		return;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	type = BPF_CORE_READ(sk, sk_type);
	protocol = BPF_CORE_READ(sk, sk_protocol);
	at.kind = WALK_SOCKET;
	at.object = (u64)sk;
	unix_queue = family == AF_UNIX_;
	listen_queue = unix_queue && state == TCP_LISTEN_;
	at.flags |= WALK_RECEIVED;
	walk_queue((void *)((u64)sk + bpf_core_field_offset(struct sock, sk_receive_queue)));
	if ((family == AF_INET_ || family == AF_INET6_) && type == SOCK_STREAM_ &&
	    protocol == IPPROTO_TCP_) {
		if (state == TCP_LISTEN_) {
			struct inet_connection_sock *icsk = (void *)sk;

			at.flags &= ~WALK_RECEIVED;
			next_req = (u64)BPF_CORE_READ(icsk, icsk_accept_queue.rskq_accept_head);
			bpf_loop(QUEUE_MAX, req_step, NULL, 0);
			return;
		}
		walk_tree((u64)BPF_CORE_READ((struct tcp_sock *)sk, out_of_order_queue.rb_node));
		at.flags &= ~WALK_RECEIVED;
		walk_tree((u64)BPF_CORE_READ(sk, tcp_rtx_queue.rb_node));
	}
	at.flags &= ~WALK_RECEIVED;
	unix_queue = listen_queue = 0;
	walk_queue((void *)((u64)sk + bpf_core_field_offset(struct sock, sk_write_queue)));
}

/* ---- Descriptors ---- */

static __always_inline void match_inode(u64 inode)
{
	for (u32 i = 0; i < WALK_INODES; i++) {
		if (i >= n_inodes || !inode)
			break;
		if (inodes[i].inode == inode) {
			at.kind = WALK_OPENER;
			at.object = inode;
			put(i | 1ULL << 63, 0);
		}
	}
}

static __always_inline void walk_fuse(u64 data)
{
	struct fuse_dev *d = (void *)(data & ~7ULL);

	if (!d || !bpf_core_type_exists(struct fuse_dev) || !bpf_core_type_exists(struct fuse_conn))
		return;
	at.kind = WALK_FUSE;
	at.object = BPF_CORE_READ(d, fc, dev);
	if (at.object)
		put(1ULL << 62, 0);
}

static u64 asked_object;
static volatile u32 was_there;

static long was_step(u32 i, void *ctx)
{
	struct todo *t = bpf_map_lookup_elem(&todos, &i);

	if (!t || t->object != asked_object)
		return 0;
	was_there = 1;
	return 1;
}

/* Both ends of a pipe in one message are one pipe. */
static __always_inline bool first_time(u32 i, struct todo *t, u64 object)
{
	asked_object = object;
	was_there = 0;
	bpf_loop(i, was_step, NULL, 0);
	t->object = object;
	return !was_there;
}

static long todo_step(u32 i, void *ctx)
{
	struct file *file;
	struct todo *t;
	u64 fops, data;

	if (i >= n_todo)
		return 1;
	t = bpf_map_lookup_elem(&todos, &i);
	if (!t)
		return 1;
	at.flags = (u8)t->flags;
	if (t->is_sock && first_time(i, t, t->ptr)) {
		walk_sock((void *)t->ptr);
		return 0;
	}
	if (t->is_sock)
		return 0;
	file = (void *)t->ptr;
	fops = (u64)BPF_CORE_READ(file, f_op);
	data = (u64)BPF_CORE_READ(file, private_data);
	if (!fops || !data || !first_time(i, t, data))
		return 0;
	if (fops == pipe_fops)
		walk_pipe((void *)data);
	else if (fops == socket_fops)
		walk_sock(BPF_CORE_READ((struct socket *)data, sk));
	else if (fops == uring_fops)
		walk_uring((void *)data);
	else if (fops == fuse_fops)
		walk_fuse(data);
	return 0;
}

SEC("iter/task_file")
int walk_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	if (!task || !file)
		return 0;
	at.tgid = task->tgid;
	at.fd = (int)ctx->fd;
	at.flags = 0;
	match_inode((u64)file->f_inode);
	n_todo = 0;
	add_todo((u64)file, 0, 0);
	bpf_loop(WALK_FILES, todo_step, NULL, 0);
	return 0;
}

/* ---- AIO contexts ---- */

static u64 aio_table, aio_pages;

static long aio_page_step(u32 i, void *ctx)
{
	put_page(peek(aio_pages + i * 8ULL), 0, 1);
	return 0;
}

static long aio_step(u32 i, void *ctx)
{
	struct kioctx *k = (void *)peek(aio_table + i * 8ULL);
	struct kioctx___folios *f = (void *)k;
	long n;

	if (!k)
		return 0;
	if (bpf_core_field_exists(f->ring_folios))
		aio_pages = (u64)BPF_CORE_READ(f, ring_folios);
	else if (bpf_core_field_exists(k->ring_pages))
		aio_pages = (u64)BPF_CORE_READ(k, ring_pages);
	else
		return 1;
	n = BPF_CORE_READ(k, nr_pages);
	at.object = (u64)k;
	bpf_loop(n > 0 && n < QUEUE_MAX ? (u32)n : 0, aio_page_step, NULL, 0);
	return 0;
}

SEC("iter/task")
int walk_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct kioctx_table *t;
	u32 n;

	if (!task || task->pid != task->tgid)
		return 0;
	t = BPF_CORE_READ(task, mm, ioctx_table);
	if (!t)
		return 0;
	at.tgid = task->tgid;
	at.fd = -1;
	at.kind = WALK_AIO;
	at.flags = 0;
	aio_table = (u64)t + bpf_core_field_offset(struct kioctx_table, table);
	n = BPF_CORE_READ(t, nr);
	bpf_loop(n < QUEUE_MAX ? n : 0, aio_step, NULL, 0);
	return 0;
}

/* ---- struct page ---- */

static long page_step(u32 i, void *ctx)
{
	u64 addr = vmemmap + (lo_pfn + i) * bpf_core_type_size(struct page);
	struct page *p = (void *)addr;
	struct folio *f = (void *)addr;
	struct page___compound *c = (void *)(addr + bpf_core_type_size(struct page));
	struct walk_page *out;
	u64 raw[8] = {}, flags, head;

	out = bpf_map_lookup_elem(&pages, &i);
	if (!out)
		return 1;
	if (bpf_probe_read_kernel(raw, sizeof(raw), p)) {
		out->refs = ~0u; /* no struct page: a hole */
		out->mapping = 0;
		return 0;
	}
#define FIELD(type, member) (*(type *)((char *)raw + bpf_core_field_offset(struct page, member)))
	out->mapping = FIELD(u64, mapping);
	out->refs = (u32)FIELD(s32, _refcount);
	out->mapcount = FIELD(s32, _mapcount);
	out->large = out->entire = -1;
	flags = raw[0];
	head = FIELD(u64, compound_head);
	if (head & 1 || !(flags & 1ULL << bpf_core_enum_value(enum pageflags, PG_head)))
		return 0;
	if (bpf_core_field_exists(f->_large_mapcount))
		out->large = BPF_CORE_READ(f, _large_mapcount.counter);
	if (bpf_core_field_exists(f->_entire_mapcount))
		out->entire = BPF_CORE_READ(f, _entire_mapcount.counter);
	else if (bpf_core_field_exists(c->compound_mapcount))
		out->entire = BPF_CORE_READ(c, compound_mapcount.counter);
	return 0;
}

SEC("syscall")
int scan_pages(void *ctx)
{
	u64 n = hi_pfn - lo_pfn;

	if (hi_pfn <= lo_pfn || n > page_max || !vmemmap)
		return 1;
	bpf_loop((u32)n, page_step, NULL, 0);
	return 0;
}

/* To which file do pages belong whose mapping was seen? */
SEC("syscall")
int find_inodes(void *ctx)
{
	for (u32 i = 0; i < WALK_INODES; i++) {
		struct walk_inode *w = &inodes[i];
		struct address_space *m;
		struct inode *inode;
		struct super_block *sb;

		if (i >= n_inodes)
			break;
		m = (void *)w->mapping;
		inode = BPF_CORE_READ(m, host);
		w->inode = (u64)inode;
		sb = BPF_CORE_READ(inode, i_sb);
		w->ino = BPF_CORE_READ(inode, i_ino);
		w->dev = BPF_CORE_READ(sb, s_dev);
		bpf_probe_read_kernel_str(w->fstype, sizeof(w->fstype),
					  BPF_CORE_READ(sb, s_type, name));
		BPF_CORE_READ_STR_INTO(&w->bdev, sb, s_bdev, bd_disk, disk_name);
	}
	return 0;
}

/* ---- Calibration ---- */

static __always_inline struct file *own_file(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 table;

	if (fd < 0 || (u32)fd >= BPF_CORE_READ(task, files, fdt, max_fds))
		return NULL;
	table = (u64)BPF_CORE_READ(task, files, fdt, fd);
	return (void *)peek(table + (u32)fd * 8ULL);
}

SEC("syscall")
int calibrate(void *ctx)
{
	struct pipe_inode_info *p;
	struct file *f;
	u64 b;

	page_bytes = bpf_core_type_size(struct page);
	has_large_mapcount = bpf_core_field_exists(((struct folio *)0)->_large_mapcount);
	has_entire_mapcount =
		bpf_core_field_exists(((struct folio *)0)->_entire_mapcount) ||
		bpf_core_field_exists(((struct page___compound *)0)->compound_mapcount);
	has_aio = bpf_core_field_exists(((struct kioctx___folios *)0)->ring_folios) ||
		  bpf_core_field_exists(((struct kioctx *)0)->ring_pages);
	has_uring = bpf_core_field_exists(((struct io_ring_ctx *)0)->buf_table) ||
		    bpf_core_field_exists(((struct io_ring_ctx___old *)0)->user_bufs);
	has_fuse = bpf_core_type_exists(struct fuse_dev) && bpf_core_type_exists(struct fuse_conn);

	f = own_file(cal_pipe);
	if (!f)
		return 1;
	pipe_fops = (u64)BPF_CORE_READ(f, f_op);
	p = BPF_CORE_READ(f, private_data);
	b = (u64)BPF_CORE_READ(p, bufs);
	cal_page[0] = (u64)BPF_CORE_READ((struct pipe_buffer *)b, page);
	b += bpf_core_type_size(struct pipe_buffer);
	cal_page[1] = (u64)BPF_CORE_READ((struct pipe_buffer *)b, page);
	f = own_file(cal_own);
	if (f) {
		p = BPF_CORE_READ(f, private_data);
		own_ops = (u64)BPF_CORE_READ(p, bufs, ops);
	}
	f = own_file(cal_socket);
	if (f)
		socket_fops = (u64)BPF_CORE_READ(f, f_op);
	f = own_file(cal_uring);
	if (f)
		uring_fops = (u64)BPF_CORE_READ(f, f_op);
	f = own_file(cal_fuse);
	if (f)
		fuse_fops = (u64)BPF_CORE_READ(f, f_op);
	return 0;
}

/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Those members of the kernel's structures that we read. Their places are filled in when the
 * programs are loaded (CO-RE), so only names and types matter here, and no vmlinux.h is needed to
 * build. A name with three underscores is another age's form of the same structure; which one a
 * kernel has is found by asking whether the member exists, never by its version.
 */
#ifndef HOST_BPF_KERNEL_H
#define HOST_BPF_KERNEL_H

#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef _Bool bool;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

/* ---- Memory ---- */

struct page {
	unsigned long compound_head;
	struct address_space *mapping;
	atomic_t _mapcount;
	atomic_t _refcount;
};

/* Of the second page of a large folio: 6.10 and later, 6.2 to 6.9, and before that. */
struct folio {
	atomic_t _large_mapcount;
	atomic_t _entire_mapcount;
};

struct page___compound {
	atomic_t compound_mapcount;
};

enum pageflags {
	PG_head,
};

struct gendisk {
	char disk_name[32];
};

struct block_device {
	struct gendisk *bd_disk;
};

struct file_system_type {
	const char *name;
};

struct super_block {
	u32 s_dev;
	struct block_device *s_bdev;
	struct file_system_type *s_type;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct address_space {
	struct inode *host;
};

/* ---- Tasks and files ---- */

struct file_operations;

struct file {
	const struct file_operations *f_op;
	void *private_data;
	struct inode *f_inode;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct kioctx {
	long nr_pages;
	struct page **ring_pages;
};

struct kioctx___folios {
	struct folio **ring_folios;
};

struct kioctx_table {
	unsigned int nr;
	struct kioctx *table[];
};

struct mm_struct {
	struct kioctx_table *ioctx_table;
};

struct task_struct {
	int pid;
	int tgid;
	struct mm_struct *mm;
	struct files_struct *files;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id;
	u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

/* ---- Pipes and rings ---- */

struct pipe_buf_operations;

struct pipe_buffer {
	struct page *page;
	unsigned int offset;
	unsigned int len;
	const struct pipe_buf_operations *ops;
};

struct pipe_inode_info {
	unsigned int head;
	unsigned int tail;
	unsigned int ring_size;
	struct pipe_buffer *bufs;
};

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

struct io_mapped_ubuf {
	unsigned int nr_bvecs;
	struct bio_vec bvec[];
};

struct io_rsrc_node {
	struct io_mapped_ubuf *buf;
};

struct io_rsrc_data {
	unsigned int nr;
	struct io_rsrc_node **nodes;
};

struct io_ring_ctx {
	struct io_rsrc_data buf_table;
};

struct io_ring_ctx___old {
	unsigned int nr_user_bufs;
	struct io_mapped_ubuf **user_bufs;
};

/* ---- Sockets ---- */

struct rb_node {
	unsigned long __rb_parent_color;
	struct rb_node *rb_right;
	struct rb_node *rb_left;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct sk_buff {
	struct sk_buff *next;
	struct rb_node rbnode;
	struct sock *sk;
	char cb[48];
	unsigned int end;
	unsigned char *head;
};

struct skb_frag {
	unsigned long netmem;
	unsigned int len;
	unsigned int offset;
};

struct skb_shared_info {
	u8 nr_frags;
	struct sk_buff *frag_list;
	struct skb_frag frags[1];
};

struct sk_buff_head {
	struct sk_buff *next;
	u32 qlen;
};

struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct sk_buff_head sk_error_queue;
	struct sk_buff_head sk_write_queue;
	struct rb_root tcp_rtx_queue;
	u16 sk_protocol;
	u16 sk_type;
};

struct tcp_sock {
	struct rb_root out_of_order_queue;
};

struct request_sock {
	struct request_sock *dl_next;
	struct sock *sk;
};

struct request_sock_queue {
	struct request_sock *rskq_accept_head;
};

struct inet_connection_sock {
	struct request_sock_queue icsk_accept_queue;
};

struct socket {
	struct sock *sk;
};

struct scm_fp_list {
	short count;
	struct file *fp[];
};

struct unix_skb_parms {
	struct scm_fp_list *fp;
};

/* ---- FUSE (a module on many kernels) ---- */

struct fuse_conn {
	u32 dev;
};

struct fuse_dev {
	struct fuse_conn *fc;
};

#pragma clang attribute pop

#endif

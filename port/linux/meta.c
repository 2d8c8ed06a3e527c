/* SPDX-License-Identifier: MIT */
/*
 * Memory for the engine's own tables: address space by the GiB, paid for by the page touched.
 *
 * Anonymous memory with MAP_NORESERVE does that, except where vm.overcommit_memory is 2: there the
 * kernel ignores MAP_NORESERVE and books every writable private byte when it is mapped, so that a
 * sparse table of some GiB fails on a small machine. A shared mapping of a memfd is booked by the
 * page, when it is allocated; it is the second choice only because a page that cannot be booked is
 * then a SIGBUS at the touch. Either stays in core dumps, which are hard to read without it, but for
 * the parts of large tables that are not in use: a core that goes through a pipe has no holes.
 *
 * Neither kind is inherited by a child of fork().
 */
#include <string.h>

#include "port/linux/linux.h"

/* Addresses given back by one thread may be the next that another gets. The kernel sees to it that
 * the one is over before the other begins; this says so to the thread sanitizer. */
static _Atomic unsigned released;

static int reserve_anon(size_t bytes, void **p)
{
	return vac__sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, p);
}

static int reserve_memfd(size_t bytes, void **p)
{
	long fd = vac__sys(syscall(SYS_memfd_create, "vacate:tables", MFD_CLOEXEC));
	int r;

	if (fd < 0)
		return (int)fd;
	r = (int)vac__sys(syscall(SYS_ftruncate, (int)fd, bytes));
	if (!r)
		r = vac__sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
				  (int)fd, 0, p);
	vac__sys_close((int)fd); /* the mapping keeps the memory */
	return r;
}

void *vac__port_meta_reserve(size_t bytes)
{
	void *p = NULL;
	bool in;
	int r;

	vac__fork_init();
	/* Booked, never refused: a report must be had just when mappings have run out, and a table
	 * is one of few. vma.c keeps some for them. */
	vac__port_vma_charge(1, true);
	in = vac__fork_shut();
	r = reserve_anon(bytes, &p);
	if (r < 0)
		r = reserve_memfd(bytes, &p);
	if (!r && vac__sys_madvise(p, bytes, MADV_DONTFORK) < 0) {
		vac__sys_munmap(p, bytes);
		r = -ENOMEM;
	}
	vac__fork_open(in);
	if (r < 0) {
		vac__port_vma_charge(-1, true);
		return NULL;
	}
	vac__name(p, bytes, "vacate:tables");
	(void)atomic_load_explicit(&released, memory_order_acquire);
	return p;
}

/* A hole in the memfd; anonymous memory refuses that and is dropped. Neither works on memory that
 * the program has locked (mlockall), which is zeroed by hand. */
void vac__port_meta_discard(void *p, size_t bytes)
{
	if (vac__sys_madvise(p, bytes, MADV_REMOVE) < 0 &&
	    vac__sys_madvise(p, bytes, MADV_DONTNEED) < 0)
		memset(p, 0, bytes);
}

void vac__port_meta_release(void *p, size_t bytes)
{
	atomic_fetch_add_explicit(&released, 1, memory_order_release);
	if (vac__sys_munmap(p, bytes) < 0) /* no VMA left to split one by */
		vac__port_meta_discard(p, bytes);
	else
		vac__port_vma_charge(-1, true);
}

/* ---- Tables with unused parts ---------------------------------------------------------------- */

/* Smaller ones are not worth it; parts grow by this much at a time. Mostly there is one, at the front,
 * which makes two mappings more of one; a few more may be needed and are not booked. */
#define DUMP_UNIT ((size_t)2 << 20)

void *vac__port_table_reserve(size_t bytes)
{
	void *p = vac__port_meta_reserve(bytes);

	if (p && bytes > DUMP_UNIT) {
		vac__port_vma_charge(2, true);
		vac__sys_madvise(p, bytes, MADV_DONTDUMP);
	}
	return p;
}

void vac__port_table_release(void *p, size_t bytes)
{
	vac__port_meta_release(p, bytes);
	if (bytes > DUMP_UNIT)
		vac__port_vma_charge(-2, true);
}

void vac__port_table_dense(void *p, size_t bytes, size_t off, size_t part)
{
	size_t lo = off / DUMP_UNIT * DUMP_UNIT;
	size_t hi = (off + part + DUMP_UNIT - 1) / DUMP_UNIT * DUMP_UNIT;

	if (bytes > DUMP_UNIT && part)
		vac__sys_madvise((char *)p + lo, (hi < bytes ? hi : bytes) - lo, MADV_DODUMP);
}

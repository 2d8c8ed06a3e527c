/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "include/vacate.h"
#include "tests/util_mem.h"
#include "tests/util_port.h"

static int no_fault(void *arg, uintptr_t addr, unsigned access)
{
	(void)arg, (void)addr, (void)access;
	return -EFAULT;
}

void pool_open(struct pool *p, unsigned flags, size_t bytes, vac__fault_fn *fn)
{
	int guard = t_guard();
	void *space;

	memset(p, 0, sizeof(*p));
	p->bytes = bytes;
	ENTERED({
		MUST(mem_ops->open(&p->ctx, "mem", &guard, flags) == 0);
		MUST(mem_ops->direct_reserve(p->ctx, 4 * bytes, bytes, &p->direct) == 0);
		for (int i = 0; i < 2; i++)
			MUST(mem_ops->block_open(p->ctx, 7 + i, bytes,
						 (char *)p->direct + (size_t)i * bytes,
						 &p->b[i]) == 0);
		MUST(mem_ops->space_reserve(p->ctx, bytes, fn ? fn : no_fault, p, &space) == 0);
	});
	p->space = space;
}

void pool_close(struct pool *p)
{
	ENTERED({
		mem_ops->space_release(p->ctx, p->space, p->bytes);
		for (int i = 0; i < 2; i++)
			if (p->b[i].fd >= 0)
				mem_ops->block_close(p->ctx, &p->b[i]);
		mem_ops->direct_release(p->ctx, p->direct, 4 * p->bytes);
		mem_ops->close(p->ctx);
	});
}

int populate(struct pool *p, int i, size_t off)
{
	int r;

	ENTERED(r = mem_ops->block_populate(p->ctx, &p->b[i], off));
	return r;
}

uint64_t held(const struct vac__backing *b)
{
	struct stat st;

	MUST(fstat(b->fd, &st) == 0);
	return (uint64_t)st.st_blocks * 512;
}

unsigned shown(const struct pool *p)
{
	return maps_between(p->space, p->space + p->bytes);
}

int map_at(struct pool *p, int i, size_t off, size_t bytes, unsigned prot)
{
	int r;

	ENTERED(r = mem_ops->map(p->ctx, p->space + off, bytes, &p->b[i], off, prot));
	return r;
}

int leave_at(struct pool *p, size_t off, size_t bytes, unsigned prot)
{
	int r;

	ENTERED(r = mem_ops->leave(p->ctx, p->space + off, bytes, prot));
	return r;
}

void stay_at(struct pool *p, int i, size_t off, size_t bytes, unsigned prot)
{
	ENTERED(mem_ops->stay(p->ctx, p->space + off, bytes, &p->b[i], off, prot));
}

int unmap_at(struct pool *p, size_t off, size_t bytes)
{
	int r;

	ENTERED(r = mem_ops->unmap(p->ctx, p->space + off, bytes));
	return r;
}

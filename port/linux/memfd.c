/* SPDX-License-Identifier: MIT */
/*
 * The memory of blocks: one memfd each, named "vacate:POOL:ID", seen by the engine through its
 * direct map.
 *
 * Invariants:
 *  - the direct map is one host VMA, MADV_DONTFORK and MADV_DONTDUMP, or a bare reservation;
 *  - memory is only touched by calls that answer an error where a touch would be a signal;
 *  - a block is closed by truncating it first: whoever still has the file open, such as a child of
 *    fork() that has inherited the descriptor, keeps an empty file and no memory.
 */
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "port/linux/linux.h"

#define DIRECT_VMAS 2 /* that a direct map adds to the reservation it is cut from */

/* Linux 3.17 */
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_WRITE 8
#endif

int vac__direct_reserve(void *ctx, size_t bytes, size_t align, void **addr)
{
	(void)ctx;
	return vac__bare_reserve(bytes, align, addr);
}

void vac__direct_release(void *ctx, void *addr, size_t bytes)
{
	(void)ctx;
	vac__bare_release(addr, bytes);
}

static int create(const struct vac__mem_ctx *ctx, int id)
{
	char name[16 + VAC_NAME_MAX + 12] = "vacate:", digits[12], *p = digits + sizeof(digits) - 1;
	unsigned n = (unsigned)id;
	long fd;

	*p = 0;
	do {
		*--p = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	strcat(name, ctx->name);
	strcat(name, ":");
	strcat(name, p);
	/* Since Linux 6.3 a memfd is asked not to be executable, and may be refused if it is. */
	fd = vac__sys(
		syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
	if (fd == -EINVAL)
		fd = vac__sys(syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
	return fd == -ENFILE ? -EMFILE : (int)fd;
}

/* RLIMIT_FSIZE holds for a memfd too, and is enforced by a signal besides the error: it is pending
 * now, as all signals are blocked, and would end the program when they no longer are. */
static int set_size(int fd, size_t bytes)
{
	int r = (int)vac__sys(syscall(SYS_ftruncate, fd, bytes));

	if (r == -EFBIG) {
		uint64_t xfsz = (uint64_t)1 << (SIGXFSZ - 1);
		struct timespec now = {0, 0};

		syscall(SYS_rt_sigtimedwait, &xfsz, NULL, &now, sizeof(xfsz));
	}
	return r;
}

static int map_direct(const struct vac__mem_ctx *ctx, const struct vac__backing *b, void *direct,
		      bool must)
{
	int r = vac__map_shared(direct, b->bytes, PROT_READ | PROT_WRITE, b->fd, 0, must);

	if (r < 0)
		return r;
	vac__sys_madvise(direct, b->bytes, MADV_DONTDUMP);
	if (ctx->flags & VAC_POOL_NO_HUGE)
		vac__sys_madvise(direct, b->bytes, MADV_NOHUGEPAGE);
	return 0;
}

int vac__block_open_on(struct vac__mem_ctx *ctx, int fd, size_t bytes, void *direct,
		       struct vac__backing *b)
{
	struct vac__backing n = {.fd = fd, .bytes = bytes, .granule = VAC_PAGE_BYTES};
	int r = -ENOMEM;

	vac__vma_refill();
	if (!vac__port_vma_charge(DIRECT_VMAS, false))
		goto out_fd;
	r = map_direct(ctx, &n, direct, false);
	if (r < 0)
		goto out_charge;
	n.direct = direct;
	*b = n;
	return 0;
out_charge:
	vac__port_vma_charge(-DIRECT_VMAS, true);
out_fd:
	vac__sys_close(fd);
	return r;
}

int vac__block_open(void *arg, int id, size_t bytes, void *direct, struct vac__backing *b)
{
	int fd = create(arg, id), r;

	if (fd < 0)
		return fd;
	r = set_size(fd, bytes);
	if (r < 0) {
		vac__sys_close(fd);
		return r;
	}
	return vac__block_open_on(arg, fd, bytes, direct, b);
}

static void punch(const struct vac__backing *b, size_t off)
{
	syscall(SYS_fallocate, b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
		VAC_PAGEBLOCK_BYTES);
}

/* Of the collapse, errors other than "no room" mean that the host has no huge page for us now, or
 * never (a kernel before 6.1, or built without them). */
static int populate_huge(const struct vac__backing *b, size_t off)
{
	void *at = (char *)b->direct + off;
	int r = (int)vac__sys(syscall(SYS_fallocate, b->fd, 0, off, VAC_PAGE_BYTES));

	if (r < 0)
		return r == -ENOSPC ? -ENOMEM : r;
	for (int tries = 0; tries < 3; tries++) { /* EAGAIN: the page was busy on some list */
		r = (int)vac__sys(syscall(SYS_madvise, at, VAC_PAGEBLOCK_BYTES, MADV_COLLAPSE));
		if (r != -EAGAIN)
			break;
	}
	if (!r)
		return 1;
	return r == -EBUSY ? -ENOMEM : 0; /* EBUSY: the cgroup refused to be charged for it */
}

static int populate_base(const struct vac__backing *b, size_t off)
{
	void *at = (char *)b->direct + off;
	int r = vac__sys_madvise(at, VAC_PAGEBLOCK_BYTES, MADV_POPULATE_WRITE);

	if (r == -EINVAL) /* before Linux 5.14: allocate now, zero at the touch */
		r = (int)vac__sys(syscall(SYS_fallocate, b->fd, 0, off, VAC_PAGEBLOCK_BYTES));
	return r < 0 ? -ENOMEM : 0; /* EFAULT: a touch would have been a SIGBUS */
}

/*
 * One page allocated, then MADV_COLLAPSE: a 2 MiB page without privilege, whatever
 * /sys/kernel/mm/transparent_hugepage/shmem_enabled says. On a pageblock without any page the
 * collapse answers EINVAL. The charge of a huge page to a full cgroup fails, where that of a small
 * one kills; so the risk is confined to the first page, for which room.c vouches.
 *
 * Measured, a pageblock of 2 MiB (memory the hypervisor already backs; else five times as much):
 * 356 us in this way, 725-1270 us by MADV_POPULATE_WRITE of 512 pages; the check of room: 4 us.
 */
int vac__block_populate(void *arg, struct vac__backing *b, size_t off)
{
	struct vac__mem_ctx *ctx = arg;
	int r = vac__room_get(&ctx->room, VAC_PAGEBLOCK_BYTES);

	if (r < 0)
		return r;
	r = 0;
	if (!(ctx->flags & VAC_POOL_NO_HUGE))
		r = populate_huge(b, off);
	if (r == 0)
		r = populate_base(b, off);
	else if (r == 1)
		goto out;
	if (r < 0)
		punch(b, off); /* as untouched as before */
out:
	vac__room_put(&ctx->room, VAC_PAGEBLOCK_BYTES);
	if (r < 0)
		vac__room_blame(&ctx->room, VAC_PAGEBLOCK_BYTES);
	return r < 0 ? -ENOMEM : r;
}

/*
 * F_SEAL_WRITE is granted only if no writable mapping exists anywhere and no page has a reference
 * beyond the page cache's own: the kernel's certificate that no device, pipe, ring or other process
 * can reach the memory any more. When somebody does, it takes 160 ms to say so.
 *
 * The direct map cannot stay meanwhile, and must be able to come back if the seal is refused. The
 * reservation that takes its place therefore keeps to itself: it lacks MADV_DONTDUMP and is marked
 * by the parity of its place, so that it merges neither with the bare reservations around it nor
 * with a neighbour that is being sealed too. Mapping over it needs no new host VMA.
 */
int vac__block_seal(void *arg, struct vac__backing *b, bool keep, uint64_t *resident)
{
	struct vac__mem_ctx *ctx = arg;
	bool odd = (uintptr_t)b->direct / b->bytes & 1;
	struct stat st;
	int r;

	*resident = vac__sys_fstat(b->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
	r = vac__sys_mmap(b->direct, b->bytes, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0, NULL);
	if (r < 0)
		return -EBUSY; /* no mapping to be had: nothing has changed, and nobody has certified */
	vac__sys_madvise(b->direct, b->bytes, odd ? MADV_RANDOM : MADV_SEQUENTIAL);
	r = b->unsealable ? 0 : (int)vac__sys(syscall(SYS_fcntl, b->fd, F_ADD_SEALS, F_SEAL_WRITE));
	if (r < 0) {
		if (map_direct(ctx, b, b->direct, true) < 0)
			vac__port_panic(__FILE__, __LINE__, "direct map lost");
		return -EBUSY;
	}
	/* A private view that is only read keeps nobody out of anything, and the seal allows it. */
	if (keep && vac__sys_mmap(b->direct, b->bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, b->fd, 0,
				  NULL) == 0) {
		vac__sys_madvise(b->direct, b->bytes, MADV_DONTFORK);
		vac__sys_madvise(b->direct, b->bytes, MADV_DONTDUMP);
		return 0;
	}
	vac__bare(b->direct, b->bytes, true);
	b->direct = NULL;
	vac__port_vma_charge(-DIRECT_VMAS, true);
	return 0;
}

void vac__block_close(void *arg, struct vac__backing *b)
{
	(void)arg;
	if (b->direct) {
		vac__bare(b->direct, b->bytes, true); /* if not: a map of an empty file */
		b->direct = NULL;
		vac__port_vma_charge(-DIRECT_VMAS, true);
	}
	/* A given file is not ours to shorten; but one that is sealed cannot be emptied otherwise. */
	if (!b->file || syscall(SYS_fallocate, b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				b->bytes) < 0)
		syscall(SYS_ftruncate, b->fd, 0);
	vac__sys_close(b->fd);
	b->fd = -1;
}

/* SPDX-License-Identifier: MIT */
/* The host's own memory, for the peers. See host.h. */
#include "bench/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/memcg.h"
#include "vacate.h"

/* Linux 6.1, 5.14 */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* As the engine does it (port/linux/memfd.c), so that a peer pays what we pay. */
static int make_resident(struct host_buf *b, enum host_pages pages)
{
	if (pages == HOST_4K) {
		madvise(b->mem, b->bytes, MADV_NOHUGEPAGE);
		return madvise(b->mem, b->bytes, MADV_POPULATE_WRITE);
	}
	for (uint64_t at = 0; at < b->bytes; at += VAC_PAGEBLOCK_BYTES) {
		if (fallocate(b->fd, 0, (off_t)at, (off_t)VAC_PAGE_BYTES) < 0)
			return -1;
		if (madvise(b->mem + at, VAC_PAGEBLOCK_BYTES, MADV_COLLAPSE) == 0)
			b->huge++;
		else if (madvise(b->mem + at, VAC_PAGEBLOCK_BYTES, MADV_POPULATE_WRITE) < 0)
			return -1;
	}
	return 0;
}

int host_buf_open(const struct bench_env *env, struct host_buf *b, uint64_t bytes,
		  enum host_pages pages)
{
	int err;

	*b = (struct host_buf){.fd = -1, .bytes = bytes};
	/* Addresses at a multiple of 2 MiB, or there could be no 2 MiB mapping. */
	b->mem = host_anon(env, bytes, pages);
	if (!b->mem)
		return -1;
	b->fd = memfd_create("vacate-bench", MFD_CLOEXEC);
	if (b->fd >= 0 && ftruncate(b->fd, (off_t)bytes) == 0 &&
	    mmap(b->mem, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, b->fd, 0) !=
		    MAP_FAILED &&
	    make_resident(b, pages) == 0)
		return 0;
	err = -errno;
	host_buf_close(b);
	return bench_fail(env, "memory for the peer", err);
}

void host_buf_close(struct host_buf *b)
{
	if (b->mem)
		munmap(b->mem, b->bytes);
	if (b->mem && b->fd >= 0)
		close(b->fd);
	*b = (struct host_buf){.fd = -1};
}

char *host_anon(const struct bench_env *env, uint64_t bytes, enum host_pages pages)
{
	uint64_t more = bytes + VAC_PAGEBLOCK_BYTES;
	char *p = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t head;

	if (p == MAP_FAILED) {
		bench_fail(env, "memory for the peer", -errno);
		return NULL;
	}
	head = -(uintptr_t)p & (VAC_PAGEBLOCK_BYTES - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + bytes, VAC_PAGEBLOCK_BYTES - head);
	madvise(p + head, bytes, pages == HOST_2M ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p + head;
}

void host_anon_free(char *mem, uint64_t bytes)
{
	if (mem)
		munmap(mem, bytes);
}

uint64_t host_available(void)
{
	uint64_t have = host_kib_line("/proc/meminfo", "MemAvailable"), cg;
	struct memcg memcg;

	memcg_find(&memcg);
	if (memcg_room(&memcg, &cg) == 0 && cg < have)
		have = cg;
	return have;
}

uint64_t host_kib_line(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	unsigned long long kib = 0;
	char line[256];
	size_t n = strlen(key);

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, n) || line[n] != ':')
			continue;
		if (sscanf(line + n + 1, "%llu", &kib) != 1)
			kib = 0;
		break;
	}
	fclose(f);
	return kib * 1024;
}

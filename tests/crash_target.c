/* SPDX-License-Identifier: MIT */
/*
 * A program to crash and to be looked at, for test_core.sh, test_gdb.sh and test_valgrind.sh; they
 * compile it. It makes one pool with a bit of everything, prints what the library says of it, one
 * `key=value` a line, and then does what it was told:
 *
 *	crash_target abort|pause|exit|segv [HUGE_MIB [SPACE_GIB [MAX_GIB]]]
 *
 * The first bytes of each page that is filled are "VACPAGE" and a number of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vacate.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define MIB ((size_t)1 << 20)
#define RW (VAC_PROT_READ | VAC_PROT_WRITE)

static struct vac_pool *pool;
static struct vac_space *space;
static unsigned pages;

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "crash_target: %s: %s\n", what, vac_strerror(r));
	exit(3);
}

static void fill(char *p, size_t bytes)
{
	for (size_t off = 0; off < bytes; off += VAC_PAGE_BYTES) {
		memcpy(p + off, "VACPAGE", 7);
		for (int i = 0; i < 8; i++)
			p[off + 7 + i] = "0123456789abcdef"[pages >> (28 - 4 * i) & 15];
		pages++;
	}
}

static char *map(size_t bytes, unsigned flags)
{
	void *p;

	must(vac_map(space, NULL, bytes, RW, flags, &p), "vac_map");
	return p;
}

static void describe(const char *name, const void *p)
{
	struct vac_page_info i = VAC_INIT(struct vac_page_info);

	must(vac_page_info(space, p, &i), "vac_page_info");
	printf("%s=%p\n%s_pfn=%llu\n%s_block=%d\n%s_counts=refs %u, pins %u, map %u\n", name, p,
	       name, (unsigned long long)i.pfn, name, i.block, name, i.refs, i.pins, i.map);
}

/* Not static, and not inlined: its name is to be seen in the stack of the pin. */
__attribute__((noinline)) void take_the_pin(const char *p)
{
	uint64_t pin;

	must(vac_pin(space, p, 3 * VAC_PAGE_BYTES, VAC_PIN_WRITE | VAC_PIN_LONGTERM | VAC_PIN_STACK,
		     "diver", &pin),
	     "vac_pin");
	__asm__ volatile("");
}

int main(int argc, char **argv)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	const char *what = argc > 1 ? argv[1] : "exit";
	size_t huge_bytes = (argc > 2 ? strtoul(argv[2], NULL, 10) : 32) * MIB, online;
	struct rlimit core = {RLIM_INFINITY, RLIM_INFINITY};
	char *huge, *base, *thin;
	void *anon;

	po.name = "aquarium";
	po.block_bytes = 16 * MIB;
	po.max_bytes = (argc > 4 ? strtoull(argv[4], NULL, 10) : 64) << 30;
	so.name = "reef";
	so.bytes = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1024) << 30;
	must(vac_pool_open(&po, &pool), "vac_pool_open");
	online = (huge_bytes + 47 * MIB) / (16 * MIB);
	for (size_t i = 0; i < online; i++)
		must(vac_block_online(pool, vac_block_add(pool, NULL),
				      i == 0 ? VAC_ZONE_NORMAL : VAC_ZONE_MOVABLE),
		     "vac_block_online");
	must(vac_block_add(pool, NULL), "vac_block_add");
	must(vac_space_create(pool, &so, &space), "vac_space_create");

	huge = map(huge_bytes, 0);
	base = map(4 * MIB, VAC_MAP_NOHUGE);
	thin = map(2 * MIB, VAC_MAP_NOHUGE);
	fill(huge, huge_bytes);
	fill(base, 4 * MIB);
	for (size_t off = 0; off < 2 * MIB; off += 128 * 1024)
		fill(thin + off, VAC_PAGE_BYTES);
	must(vac_protect(space, base, 10 * VAC_PAGE_BYTES, VAC_PROT_READ), "vac_protect");
	take_the_pin(base + 20 * VAC_PAGE_BYTES);
	/* All frames of the pool have a new place, and the tables tell of it. */
	must(vac_block_offline(pool, 1, NULL, NULL), "vac_block_offline");
	must(vac_block_online(pool, 1, VAC_ZONE_MOVABLE), "vac_block_online");

	must(vac_pool_stats(pool, &st), "vac_pool_stats");
	anon = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("names=%d\n",
	       !prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, anon, 4096, "names are there"));
	printf("pid=%d\npages=%u\nblocks=%zu\n", (int)getpid(), pages, online);
	printf("frames=frames %llu: used %llu, free %llu, reserved %llu, isolated %llu\n",
	       (unsigned long long)st.frames_total, (unsigned long long)st.frames_used,
	       (unsigned long long)st.frames_free, (unsigned long long)st.frames_reserved,
	       (unsigned long long)st.frames_isolated);
	describe("huge", huge + 5 * VAC_PAGE_BYTES);
	describe("base", base + 21 * VAC_PAGE_BYTES);
	describe("fixed", base);
	printf("thin=%p\nhole=%p\n", (void *)thin, (void *)(thin + 2 * MIB));
	printf("ready=1\n");
	fflush(stdout);

	if (!strcmp(what, "pause")) {
		pause();
	} else if (!strcmp(what, "abort") || !strcmp(what, "segv")) {
		if (setrlimit(RLIMIT_CORE, &core) < 0) {
			core.rlim_cur = core.rlim_max = 0;
			getrlimit(RLIMIT_CORE, &core);
			core.rlim_cur = core.rlim_max;
			setrlimit(RLIMIT_CORE, &core);
		}
		if (*what == 'a')
			abort();
		*(volatile char *)(thin + 2 * MIB) = 1; /* a true one, in the middle of a space */
	}
	must(vac_pool_check(pool, NULL, 0), "vac_pool_check");
	return 0;
}

/* SPDX-License-Identifier: MIT */
/* Planters of memory that moves, or has nowhere to go. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define MIB (1UL << 20)

/* The pages must be the same after they have moved: who finds another byte says so by dying. */
static void watch(const char *p, size_t bytes)
{
	plant_say_ready();
	for (;;) {
		for (size_t i = 0; i < bytes; i += 4096)
			if (p[i] != (char)(i / 4096 + 1))
				die("byte %zu has changed", i);
		usleep(20000);
	}
}

static void mark(char *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = (char)(i / 4096 + 1);
}

void plant_anon(void)
{
	char *p = node_memory(16 * MIB);

	mark(p, 16 * MIB);
	watch(p, 16 * MIB);
}

void plant_thp(void)
{
	char *p = node_mapping(18 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	p = (char *)(((uintptr_t)p + 2 * MIB - 1) & ~(2 * MIB - 1));
	madvise(p, 16 * MIB, MADV_HUGEPAGE);
	mark(p, 16 * MIB);
	watch(p, 16 * MIB);
}

void plant_mlock(void)
{
	char *p = node_memory(8 * MIB);

	mark(p, 8 * MIB);
	if (mlock(p, 8 * MIB))
		die("mlock");
	watch(p, 8 * MIB);
}

static char *shared;

static void *write_on(void *arg)
{
	size_t k = (size_t)(uintptr_t)arg;

	for (unsigned n = 0;; n++)
		for (size_t i = k * 4096; i < 8 * MIB; i += 4 * 4096)
			((volatile char *)shared)[i] = (char)n;
	return NULL;
}

void plant_writers(void)
{
	pthread_t t;

	shared = node_memory(8 * MIB);
	for (uintptr_t k = 0; k < 4; k++)
		pthread_create(&t, NULL, write_on, (void *)k);
	plant_ready();
}

static void *futex_wait(void *arg)
{
	for (;;)
		syscall(SYS_futex, arg, FUTEX_WAIT, 0, NULL, NULL, 0);
	return NULL;
}

void plant_futex(void)
{
	char *p = node_memory(1 * MIB);
	char *s = node_mapping(1 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1);
	pthread_t t;

	memset(p, 0, 1 * MIB);
	memset(s, 0, 1 * MIB);
	pthread_create(&t, NULL, futex_wait, p);
	pthread_create(&t, NULL, futex_wait, s);
	usleep(100000);
	plant_ready();
}

void plant_cow(void)
{
	char *p = node_memory(4 * MIB);

	mark(p, 4 * MIB);
	for (int i = 0; i < 3; i++) {
		if (!fork()) {
			for (;;)
				pause();
		}
	}
	watch(p, 4 * MIB);
}

void plant_stopped(void)
{
	char *p = node_memory(4 * MIB);
	pid_t child;

	mark(p, 4 * MIB);
	child = fork();
	if (!child) {
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child, NULL, WUNTRACED);
	plant_ready();
}

void plant_tmpfs(void)
{
	int fd = open("/dev/shm/guest", O_RDWR | O_CREAT | O_TRUNC, 0600);
	char *p;

	if (fd < 0 || ftruncate(fd, 4 * MIB))
		die("/dev/shm/guest");
	p = node_mapping(4 * MIB, MAP_SHARED, fd);
	mark(p, 4 * MIB);
	expect_on_node(p, 4 * MIB);
	watch(p, 4 * MIB);
}

/* Registered, and a thread that waits for a page of it: nobody answers. */
static void *touch(void *arg)
{
	return (void *)(uintptr_t) * (volatile char *)arg;
}

void plant_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	char *p = node_mapping(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	pthread_t t;

	memset(p, 7, 2 * MIB);
	reg.range.start = (uintptr_t)p;
	reg.range.len = 4 * MIB;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		die("userfaultfd");
	pthread_create(&t, NULL, touch, p + 3 * MIB);
	usleep(50000);
	plant_ready();
}

/* ---- Huge pages: of a pool ---- */

#define NODE_HUGE "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages"

static void huge_pages(int node, int n)
{
	char path[128];

	snprintf(path, sizeof(path), NODE_HUGE, node);
	put(path, "%d", n);
}

void release_huge(void)
{
	huge_pages(0, 0);
	huge_pages(NODE, 0);
	unlink("/dev/shm/fill");
	unlink("/dev/hugepages/guest");
}

void setup_huge_target(void)
{
	huge_pages(NODE, 2);
	huge_pages(0, 4);
}

void setup_huge_only(void)
{
	huge_pages(0, 0);
	huge_pages(NODE, 2);
}

/* Promised to a mapping and not touched: nothing but a counter says that they cannot go. */
void setup_huge_reserved(void)
{
	huge_pages(0, 0);
	huge_pages(NODE, 2);
}

void plant_huge(void)
{
	char *p = node_mapping(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);

	memset(p, 5, 4 * MIB);
	plant_ready();
}

/* Maps its huge pages and leaves them alone. */
void plant_huge_reserved(void)
{
	int fd = open("/dev/hugepages/guest", O_RDWR | O_CREAT, 0600);

	if (fd < 0)
		die("/dev/hugepages/guest");
	node_mapping(4 * MIB, MAP_SHARED, fd);
	plant_ready();
}

/* ---- No memory elsewhere: what is free on the other nodes is taken by a file in memory. ---- */

static uint64_t available(void)
{
	unsigned long long kb = 0;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb * 1024;
}

/* Most of the block is used by us: elsewhere less than that must be free. What is available counts the rest of
 * the block, too. */
void plant_much(void)
{
	char *p = node_memory(104 * MIB), *q;

	mark(p, 104 * MIB);
	while (available() > 115 * MIB) {
		q = mmap(NULL, available() > 200 * MIB ? 64 * MIB : 4 * MIB, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (q == MAP_FAILED)
			break;
	}
	plant_ready();
}

/* Objects of the kernel, from slabs on the node, and page tables. */
void plant_slab(void)
{
	int fd[2];

	node_policy(true);
	for (int i = 0; i < 200; i++) {
		if (pipe(fd))
			break;
		if (!(i % 10) && !fork()) {
			for (;;)
				pause();
		}
	}
	node_policy(false);
	plant_ready();
}

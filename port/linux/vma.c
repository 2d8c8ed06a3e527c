/* SPDX-License-Identifier: MIT */
/*
 * The budget of host mappings (VMAs). The kernel allows vm.max_map_count of them to a process and
 * fails mmap(2), mprotect(2) and even munmap(2) beyond. Nine tenths of that, less what the process
 * had when it was first asked, are the engine's to use; the rest is the program's.
 *
 * What is charged is an upper bound: the kernel merges neighbours where it can.
 *
 * The spares: mmap(2) fails when more than max_map_count mappings exist, also where it would replace
 * one by one; and a program that overruns its own tenth can get one past the limit. A replacement
 * that follows the commit of a migration cannot fail. So the port keeps a few mappings whose only
 * use is to be given up then.
 */
#include "port/linux/linux.h"

#define SPARES 16
#define TABLES 32 /* of the limit, kept for the engine's tables: see vac__port_meta_reserve() */

static struct vac__flock lock; /* guards the set-up and the spares */
static _Atomic bool ready;
static _Atomic int64_t used;
static int64_t limit; /* constant once ready */

static char *spare_base; /* 2 * SPARES + 1 pages of addresses */
static unsigned spares;  /* how many are mapped: the first ones */

static uint64_t read_number(const char *path)
{
	char buf[32];
	uint64_t v = 0;
	long n = 0;
	int fd = vac__sys_open(AT_FDCWD, path, O_RDONLY);

	if (fd >= 0) {
		n = vac__sys_read(fd, buf, sizeof(buf));
		vac__sys_close(fd);
	}
	for (long i = 0; i < n && buf[i] >= '0' && buf[i] <= '9'; i++)
		v = v * 10 + (uint64_t)(buf[i] - '0');
	return v;
}

static int64_t count_mappings(void)
{
	char buf[4096];
	int64_t lines = 0;
	long n;
	int fd = vac__sys_open(AT_FDCWD, "/proc/self/maps", O_RDONLY);

	if (fd < 0)
		return 0;
	while ((n = vac__sys_read(fd, buf, sizeof(buf))) > 0)
		for (long i = 0; i < n; i++)
			lines += buf[i] == '\n';
	vac__sys_close(fd);
	return lines;
}

static void setup(void)
{
	int64_t max;

	vac__flock_lock(&lock);
	if (!atomic_load_explicit(&ready, memory_order_relaxed)) {
		max = (int64_t)read_number("/proc/sys/vm/max_map_count");
		if (max <= 0)
			max = 65530; /* the kernel's default; no /proc here */
		limit = max / 10 * 9 - count_mappings();
		if (limit < 0)
			limit = 0;
		atomic_store_explicit(&ready, true, memory_order_release);
	}
	vac__flock_unlock(&lock);
}

bool vac__port_vma_charge(long n, bool force)
{
	int64_t u;

	if (!atomic_load_explicit(&ready, memory_order_acquire))
		setup();
	u = atomic_load_explicit(&used, memory_order_relaxed);
	do {
		if (n > 0 && !force && u + n > limit - TABLES) {
			struct vac__lack *lack = vac__port_lack();

			lack->kind = VAC__LACK_MAPPINGS;
			lack->used = u > 0 ? (uint64_t)u : 0;
			lack->limit = limit > TABLES ? (uint64_t)limit - TABLES : 0;
			lack->need = (uint64_t)n;
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(&used, &u, u + n, memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

void vac__port_vma_usage(uint64_t *u, uint64_t *l)
{
	int64_t v;

	if (!atomic_load_explicit(&ready, memory_order_acquire))
		setup();
	v = atomic_load_explicit(&used, memory_order_relaxed);
	*u = v > 0 ? (uint64_t)v : 0;
	*l = (uint64_t)limit;
}

/* Every second page, so that no two spares are one mapping. */
static char *spare(unsigned i)
{
	return spare_base + (2 * i + 1) * VAC_PAGE_BYTES;
}

void vac__vma_refill(void)
{
	void *p;

	vac__port_vma_charge(0, true); /* the set-up takes the lock */
	vac__flock_lock(&lock);
	if (!spare_base && !vac__sys_mmap(NULL, (2 * SPARES + 1) * VAC_PAGE_BYTES, PROT_NONE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p)) {
		spare_base = p;
		vac__port_vma_charge(2 * SPARES + 1, true);
	}
	while (spare_base && spares < SPARES &&
	       !vac__sys_mprotect(spare(spares), VAC_PAGE_BYTES, PROT_READ))
		spares++;
	vac__flock_unlock(&lock);
}

/* Back to the rights of its two neighbours: three mappings become one. */
bool vac__vma_relief(void)
{
	bool ok = false;

	vac__flock_lock(&lock);
	if (spares && !vac__sys_mprotect(spare(spares - 1), VAC_PAGE_BYTES, PROT_NONE)) {
		spares--;
		ok = true;
	}
	vac__flock_unlock(&lock);
	return ok;
}

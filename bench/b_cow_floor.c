/* SPDX-License-Identifier: MIT */
/*
 * The floor of cow_write: the host calls that a write to a shared page cannot do without, and nothing else.
 * No engine, no copy, no lock, no budget.
 *
 *	SIGSEGV      memory of 2 MiB host pages is made read-only by one mprotect(2). Each write is a signal,
 *	             whose handler makes that page writable by another, and returns
 *	userfaultfd  the same memory is registered and its page table emptied. Each write is an event, which
 *	             one thread reads, and answers by one UFFDIO_CONTINUE of the page
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench/cow_floor.h"
#include "bench/host.h"

#define PAGE_OF(addr) ((void *)((uintptr_t)(addr) & ~(uintptr_t)(VAC_PAGE_BYTES - 1)))

/* Filled in, as memory that has been written is. */
static void touch(const struct host_buf *b)
{
	for (uint64_t at = 0; at < b->bytes; at += VAC_PAGE_BYTES)
		*(volatile char *)(b->mem + at) = 1;
}

/* ---- SIGSEGV ---------------------------------------------------------------------------------- */

static void on_segv(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	if (mprotect(PAGE_OF(info->si_addr), VAC_PAGE_BYTES, PROT_READ | PROT_WRITE) < 0)
		_exit(1);
}

static int floor_sigsegv(const struct host_buf *b, void (*writes)(void *arg, void *mem), void *arg)
{
	struct sigaction a = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO}, old;

	sigfillset(&a.sa_mask);
	touch(b);
	if (mprotect(b->mem, b->bytes, PROT_READ) < 0 || sigaction(SIGSEGV, &a, &old) < 0)
		return -errno;
	writes(arg, b->mem);
	sigaction(SIGSEGV, &old, NULL);
	return 0;
}

/* ---- userfaultfd ------------------------------------------------------------------------------ */

struct answerer {
	int fd, end;
};

static void *answer(void *arg)
{
	const struct answerer *s = arg;
	struct pollfd p[2] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->end, .events = POLLIN}};
	struct uffd_msg m;

	while (!(p[1].revents & POLLIN)) {
		struct uffdio_continue c = {.range = {.len = VAC_PAGE_BYTES}};

		if (read(s->fd, &m, sizeof(m)) != sizeof(m)) {
			poll(p, 2, -1);
			continue;
		}
		c.range.start = m.arg.pagefault.address & ~(uint64_t)(VAC_PAGE_BYTES - 1);
		if (ioctl(s->fd, UFFDIO_CONTINUE, &c) < 0)
			_exit(1);
	}
	return NULL;
}

static int floor_uffd(const struct host_buf *b, void (*writes)(void *arg, void *mem), void *arg)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
	struct uffdio_register reg = {.range = {.start = (uintptr_t)b->mem, .len = b->bytes},
				      .mode = UFFDIO_REGISTER_MODE_MINOR};
	struct answerer s;
	pthread_t thread;
	int r = 0;

	s.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (s.fd < 0)
		return -errno;
	s.end = eventfd(0, EFD_CLOEXEC);
	touch(b);
	if (s.end < 0 || ioctl(s.fd, UFFDIO_API, &api) < 0 ||
	    ioctl(s.fd, UFFDIO_REGISTER, &reg) < 0 || madvise(b->mem, b->bytes, MADV_DONTNEED) < 0)
		r = -errno;
	if (r == 0)
		r = -pthread_create(&thread, NULL, answer, &s);
	if (r == 0) {
		writes(arg, b->mem);
		if (write(s.end, &(uint64_t){1}, sizeof(uint64_t)) < 0)
			_exit(1);
		pthread_join(thread, NULL);
	}
	if (s.end >= 0)
		close(s.end);
	close(s.fd);
	return r;
}

int cow_floor(const struct bench_env *env, enum vac_guard guard, uint64_t bytes,
	      void (*writes)(void *arg, void *mem), void *arg)
{
	struct host_buf b;
	int r = host_buf_open(env, &b, bytes, HOST_2M);

	if (r < 0)
		return r;
	r = guard == VAC_GUARD_SIGSEGV ? floor_sigsegv(&b, writes, arg)
				       : floor_uffd(&b, writes, arg);
	host_buf_close(&b);
	return r < 0 ? bench_fail(env, "the floor of a write", r) : 0;
}

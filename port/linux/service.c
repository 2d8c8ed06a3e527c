/* SPDX-License-Identifier: MIT */
/*
 * Threads of the engine's own, that serve a pool from its opening to its close.
 *
 * Their stacks are ours: libc's would be as large as those of the program's threads, and cached for
 * ever. The lowest page of each is a guard. A child of fork() inherits the mapping, as libc keeps there
 * what it knows of the thread.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "port/linux/linux.h"

#define STACK_BYTES ((size_t)2 << 20) /* what is not touched costs nothing; sanitizers want much */

/* At the low end of the stack's mapping, above the guard. */
struct service {
	pthread_t thread;
	const char *name;
	void (*fn)(void *arg);
	void *arg;
};

static struct service *service_of(uintptr_t thread)
{
	return (struct service *)(thread + VAC_PAGE_BYTES);
}

static void *run(void *arg)
{
	struct service *s = arg;

	prctl(PR_SET_NAME, s->name);
	s->fn(s->arg);
	return NULL;
}

int vac__port_thread_start(const char *name, void (*fn)(void *arg), void *arg, uintptr_t *thread)
{
	struct vac__port_saved saved;
	pthread_attr_t attr;
	struct service *s;
	void *p;
	int r;

	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = vac__sys_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &p);
	if (r < 0) {
		vac__port_vma_charge(-2, true);
		return -ENOMEM;
	}
	r = vac__sys_mprotect(p, VAC_PAGE_BYTES, PROT_NONE);
	s = service_of((uintptr_t)p);
	if (r == 0) {
		*s = (struct service){.name = name, .fn = fn, .arg = arg};
		r = -pthread_attr_init(&attr);
	}
	if (r == 0) {
		r = -pthread_attr_setstack(&attr, (char *)p + 2 * VAC_PAGE_BYTES,
					   STACK_BYTES - 2 * VAC_PAGE_BYTES);
		/* It inherits the caller's mask: all signals blocked. */
		vac__port_enter(&saved);
		if (r == 0)
			r = -pthread_create(&s->thread, &attr, run, s);
		vac__port_leave(&saved);
		pthread_attr_destroy(&attr);
	}
	if (r < 0) {
		vac__sys_munmap(p, STACK_BYTES);
		vac__port_vma_charge(-2, true);
		return -ENOMEM;
	}
	*thread = (uintptr_t)p;
	return 0;
}

void vac__port_thread_touches(void)
{
	sigset_t faults;

	sigemptyset(&faults);
	sigaddset(&faults, SIGSEGV);
	sigaddset(&faults, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &faults, NULL);
}

void vac__port_thread_join(uintptr_t thread)
{
	pthread_join(service_of(thread)->thread, NULL);
	vac__sys_munmap((void *)thread, STACK_BYTES);
	vac__port_vma_charge(-2, true);
}

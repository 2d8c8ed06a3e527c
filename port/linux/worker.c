/* SPDX-License-Identifier: MIT */
/*
 * Threads of the engine's own. Stacks are ours: libc's would be as large as those of the program's threads,
 * and cached for ever. The lowest page of each is a guard; the highest holds the bookkeeping.
 */
#include <pthread.h>

#include "port/linux/linux.h"

/* Touched where used. Thread-local storage of the program lies here too: under TSan almost a megabyte. */
#define STACK_BYTES ((size_t)2 << 20)

struct worker {
	void *stack;
	pthread_t thread;
	void (*fn)(void *arg);
	void *arg;
};

static void *run(void *arg)
{
	struct worker *w = arg;

	w->fn(w->arg);
	return NULL;
}

int vac__port_thread_start(uintptr_t *handle, void (*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	struct worker *w;
	char *stack;
	void *p;
	int r;

	if (!vac__port_vma_charge(2, false))
		return -ENOMEM;
	r = vac__sys_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0, &p);
	if (r == 0) {
		stack = p;
		w = (struct worker *)(stack + STACK_BYTES - VAC_PAGE_BYTES);
		*w = (struct worker){.stack = stack, .fn = fn, .arg = arg};
		r = vac__sys_mprotect(stack, VAC_PAGE_BYTES, PROT_NONE);
		if (r == 0 && pthread_attr_init(&attr))
			r = -ENOMEM;
		if (r == 0) {
			if (pthread_attr_setstack(&attr, stack + VAC_PAGE_BYTES,
						  STACK_BYTES - 2 * VAC_PAGE_BYTES) ||
			    pthread_create(&w->thread, &attr, run, w))
				r = -ENOMEM;
			pthread_attr_destroy(&attr);
		}
		if (r == 0)
			*handle = (uintptr_t)w;
		else
			vac__sys_munmap(stack, STACK_BYTES);
	}
	if (r < 0)
		vac__port_vma_charge(-2, true);
	return r < 0 ? -ENOMEM : 0;
}

void vac__port_thread_end(uintptr_t handle)
{
	struct worker *w = (struct worker *)handle;

	pthread_join(w->thread, NULL);
	vac__sys_munmap(w->stack, STACK_BYTES);
	vac__port_vma_charge(-2, true);
}

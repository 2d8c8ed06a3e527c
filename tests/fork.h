/* SPDX-License-Identifier: MIT */
/*
 * What the tests of a pool that is copied for children share. Each program has its own; what one of them does
 * not use costs nothing.
 */
#ifndef VAC_TESTS_FORK_H
#define VAC_TESTS_FORK_H

#include <sys/resource.h>

#include "tests/util.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES

static _Atomic unsigned logged;
static char last_log[200];

static inline void on_log(void *ctx UNUSED, enum vac_log_level level, const char *msg)
{
	if (level != VAC_LOG_ERROR)
		return;
	snprintf(last_log, sizeof(last_log), "%s", msg);
	logged++;
}

static inline struct vac_pool *copy_pool(uint64_t block_bytes, unsigned blocks)
{
	struct vac_pool_opts o = t_opts(block_bytes);

	o.flags = VAC_POOL_FORK_COPY;
	o.log = on_log;
	logged = 0;
	return t_open(&o, blocks);
}

/* The same, where t_*() have no place: in a process of its own. */
static inline struct vac_pool *case_pool(struct vac_space **space, unsigned blocks)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool_opts o = t_opts(MIB(4));
	struct vac_pool *pool;

	o.flags = VAC_POOL_FORK_COPY;
	o.log = on_log;
	so.bytes = MIB(64);
	MUST(vac_pool_open(&o, &pool) == 0);
	for (unsigned i = 0; i < blocks; i++)
		MUST(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE) == 0);
	MUST(vac_space_create(pool, &so, space) == 0);
	return pool;
}

static inline char *case_map(struct vac_space *space, size_t len, unsigned flags)
{
	void *p;

	MUST(vac_map(space, NULL, len, RW, flags, &p) == 0);
	return p;
}

static inline int wait_for(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* In a child: the signal that a touch dies of, 0 if it does not. A grandchild tries. */
static inline int dies_of(volatile char *p, bool write)
{
	int status, pid = fork();

	if (pid == 0) {
		struct sigaction a;

		memset(&a, 0, sizeof(a));
		a.sa_handler = SIG_DFL;
		sigaction(SIGSEGV, &a, NULL);
		sigaction(SIGBUS, &a, NULL);
		if (write)
			*p = 1;
		else
			(void)*p;
		_exit(0);
	}
	status = wait_for(pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

#endif /* VAC_TESTS_FORK_H */

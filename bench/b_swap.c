/* SPDX-License-Identifier: MIT */
/*
 * Random reads over twice the memory there is: swap_random.
 *
 * Ours: a pool with a swap file, and data of twice its size. The peer: a file of that size, mapped by a
 * process whose memory cgroup allows it as much memory as the pool has. Both files lie in one directory, and
 * both read one word of a page drawn at random, the same pages in the same order; what was there before the
 * run stays. The peer's kernel reads around a fault as it does by default; in swap_random_advised it was told
 * MADV_RANDOM.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/rig.h"

#define ROOM (6 * MIB) /* of the peer's process for itself, beside the file */

struct cgroup {
	char dir[128];
	bool v2;
};

static bool put(const struct cgroup *g, const char *file, uint64_t value)
{
	char path[192], text[32];
	int fd, n;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", g->dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	ok = write(fd, text, (size_t)n) == n;
	close(fd);
	return ok;
}

static bool cgroup_make(struct cgroup *g, uint64_t limit)
{
	g->v2 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) != 0;
	snprintf(g->dir, sizeof(g->dir), "/sys/fs/cgroup%s/vacate-bench-%d", g->v2 ? "" : "/memory",
		 (int)getpid());
	if (mkdir(g->dir, 0755) < 0)
		return false;
	if (put(g, g->v2 ? "memory.max" : "memory.limit_in_bytes", limit))
		return true;
	rmdir(g->dir);
	return false;
}

static void cgroup_remove(const struct cgroup *g)
{
	for (int i = 0; i < 200 && rmdir(g->dir) < 0 && errno == EBUSY; i++)
		usleep(10000);
}

static int file_of(uint64_t bytes)
{
	char path[] = "/var/tmp/vacate-bench-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	if (fd < 0)
		return -errno;
	unlink(path);
	if (ftruncate(fd, (off_t)bytes) < 0) {
		close(fd);
		return -ENOSPC;
	}
	return fd;
}

static uint64_t read_around(const volatile uint64_t *mem, uint64_t bytes, uint64_t reads,
			    uint64_t seed)
{
	uint64_t start = bench_now();

	for (uint64_t i = 0; i < reads; i++)
		(void)mem[bench_random(&seed) % (bytes / VAC_PAGE_BYTES) *
			  (VAC_PAGE_BYTES / sizeof(*mem))];
	return bench_now() - start;
}

/* The peer, for its whole life: it answers a time for each byte that it is asked with. */
static void peer_main(const struct cgroup *g, int fd, uint64_t bytes, uint64_t reads, bool advised,
		      int in, int out)
{
	uint64_t seed = BENCH_SEED, ns;
	void *mem;
	char c;

	if (!put(g, "cgroup.procs", (uint64_t)getpid()))
		_exit(1);
	mem = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		_exit(1);
	if (advised)
		madvise(mem, bytes, MADV_RANDOM);
	while (read(in, &c, 1) == 1) {
		ns = read_around(mem, bytes, reads, seed++);
		if (write(out, &ns, sizeof(ns)) != sizeof(ns))
			break;
	}
	_exit(0);
}

struct peer {
	int pid, to, from;
};

static int peer_start(struct peer *p, const struct cgroup *g, uint64_t bytes, uint64_t reads,
		      bool advised)
{
	int fd = file_of(bytes), a[2], b[2];
	char *buf = malloc(MIB);

	if (fd < 0 || !buf || pipe(a) < 0 || pipe(b) < 0)
		return -1;
	memset(buf, 0x5a, MIB);
	for (uint64_t at = 0; at < bytes; at += MIB)
		if (pwrite(fd, buf, MIB, (off_t)at) != (ssize_t)MIB)
			return -1;
	free(buf);
	/* What is cached already would not be charged to the peer. */
	fsync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	p->pid = fork();
	if (p->pid == 0) {
		close(a[1]);
		close(b[0]);
		peer_main(g, fd, bytes, reads, advised, a[0], b[1]);
	}
	close(a[0]);
	close(b[1]);
	close(fd);
	p->to = a[1];
	p->from = b[0];
	return p->pid < 0 ? -1 : 0;
}

static int peer_run(struct peer *p, uint64_t *ns)
{
	return write(p->to, "", 1) == 1 && read(p->from, ns, sizeof(*ns)) == sizeof(*ns) ? 0 : -1;
}

static void peer_end(struct peer *p)
{
	close(p->to);
	close(p->from);
	if (p->pid > 0)
		waitpid(p->pid, NULL, 0);
}

static int swap_on(struct rig *rig, uint64_t bytes)
{
	struct vac_swap_opts so = VAC_INIT(struct vac_swap_opts);
	int r;

	so.bytes = bytes;
	so.fd = file_of(bytes);
	if (so.fd < 0)
		return bench_fail(rig->env, "making a swap file", so.fd);
	r = vac_swap_on(rig->pool, &so);
	close(so.fd);
	return r < 0 ? bench_fail(rig->env, "switching swap on", r) : 0;
}

static int run_case(struct bench_env *env, const char *name, bool advised)
{
	uint64_t memory = env->tiny ? 8 * MIB : 32 * MIB, reads = env->tiny ? 500 : 3000;
	uint64_t bytes = 2 * memory, value = 0, other = 0, *mem, seed = BENCH_SEED;
	struct vac_pool_stats st;
	struct rig rig = RIG_INIT(env);
	struct peer peer = {.pid = -1, .to = -1, .from = -1};
	struct bench_result *res;
	struct cgroup g;
	int r = -1;

	if (!cgroup_make(&g, memory + ROOM)) {
		bench_skip(env, name, "no memory cgroup can be made here for the peer");
		return 0;
	}
	rig.opts.block_bytes = env->tiny ? 2 * MIB : 8 * MIB;
	rig.blocks = (unsigned)(memory / rig.opts.block_bytes);
	rig.space_bytes = bytes;
	if (peer_start(&peer, &g, bytes, reads, advised) < 0) {
		bench_fail(env, "the peer's file", -EIO);
		goto out;
	}
	if (rig_open(&rig) < 0 || swap_on(&rig, 2 * bytes) < 0 ||
	    rig_fill(&rig, bytes, 0, &mem) < 0)
		goto out;
	res = bench_result(env, name, "us/read", BENCH_LESS,
			   advised ? "mmap()ed file in a memory cgroup, MADV_RANDOM"
				   : "mmap()ed file in a memory cgroup");
	for (int run = -1; run < (int)env->runs; run++) {
		bool first = bench_value_first(run);

		bench_run_begins(env, name, run);
		if (first)
			value = read_around(mem, bytes, reads, seed);
		if (peer_run(&peer, &other) < 0) {
			bench_fail(env, "the peer", -EIO);
			goto out;
		}
		if (!first)
			value = read_around(mem, bytes, reads, seed);
		seed++;
		if (run >= 0)
			bench_add(res, (double)value / (double)reads / 1e3,
				  (double)other / (double)reads / 1e3);
	}
	if (rig_verify(&rig, mem, bytes, env->tiny ? 1 : 16) < 0 || rig_stats(&rig, &st) < 0)
		goto out;
	bench_extra(res, "pages in", (double)st.swap_in);
	bench_extra(res, "pages out", (double)st.swap_out);
	bench_extra(res, "second chances", (double)st.swap_second_chances);
	r = 0;
out:
	rig_close(&rig);
	peer_end(&peer);
	cgroup_remove(&g);
	return r;
}

int bench_swap_random(struct bench_env *env)
{
	if (run_case(env, "swap_random", false) < 0)
		return -1;
	return run_case(env, "swap_random_advised", true);
}

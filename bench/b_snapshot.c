/* SPDX-License-Identifier: MIT */
/*
 * Snapshots beside fork(): snapshot, snapshot_huge, snapshot_base, snapshot_tenth, cow_write, cow_seq.
 *
 * Both sides have the same bytes, all of them written before. Ours is a mapping of a pool that has memory
 * for the copies already; the peer is private anonymous memory of a process that has little else, of
 * which fork() makes the copy, whose child only waits for the end. What is timed is the call (snapshot*),
 * the call and writes to a tenth of the pages in random order (snapshot_tenth), or the writes after it:
 * one page of each 64 KiB, in random order (cow_write: as many faults as writes, on either side), or all
 * words in order (cow_seq). Afterwards the snapshot is compared with what was there before. For
 * cow_budget see below.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/cow_floor.h"
#include "bench/host.h"
#include "bench/rig.h"

#define BLOCK (128 * MIB)
#define TINY_BLOCK (8 * MIB)
#define APART ((64 * KIB) / VAC_PAGE_BYTES) /* pages of which cow_write writes one */

enum what { CALL, TENTH, EACH, ALL };

struct snap_case {
	const char *name, *unit, *peer;
	enum what what;
	enum host_pages pages; /* of the peer */
	unsigned map_flags;
	uint64_t mib, tiny_mib;
};

/* What is written after the copy was made, the same on both sides. */
struct plan {
	enum what what;
	uint64_t bytes;
	uint32_t *page; /* [n], in this order; what is ALL: none */
	uint32_t n;
	double *took; /* [n] what is EACH: how long each write has taken, ns */
};

struct times {
	uint64_t call_ns, write_ns;
	uint64_t cpu_call_ns, cpu_write_ns; /* processor time of the process, all of its threads */
	double median_ns;                   /* of single writes */
};

struct sums { /* over the runs */
	double call_us, faults, copied_mib;
	double median[BENCH_RUNS_MAX], peer_median[BENCH_RUNS_MAX], floor[BENCH_RUNS_MAX];
	double cpu[BENCH_RUNS_MAX], peer_cpu[BENCH_RUNS_MAX]; /* the figure, by processor time */
};

static uint64_t cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int plan_make(struct plan *p, const struct snap_case *c, uint64_t bytes)
{
	uint32_t pages = (uint32_t)(bytes / VAC_PAGE_BYTES);
	uint64_t rng = BENCH_SEED;

	*p = (struct plan){.what = c->what, .bytes = bytes};
	if (c->what == CALL || c->what == ALL)
		return 0;
	p->page = malloc(pages * sizeof(*p->page));
	if (!p->page)
		return -1;
	if (c->what == TENTH) {
		for (uint32_t i = 0; i < pages; i++)
			p->page[i] = i;
		p->n = pages;
	} else {
		for (; p->n < pages / APART; p->n++)
			p->page[p->n] = (uint32_t)(p->n * APART + bench_random(&rng) % APART);
	}
	for (uint32_t i = p->n; i > 1; i--) {
		uint32_t k = (uint32_t)(bench_random(&rng) % i), old = p->page[i - 1];

		p->page[i - 1] = p->page[k];
		p->page[k] = old;
	}
	if (c->what == TENTH)
		p->n = pages / 10;
	p->took = c->what == EACH ? malloc(p->n * sizeof(*p->took)) : NULL;
	return c->what == EACH && !p->took ? -1 : 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void plan_free(struct plan *p)
{
	free(p->page);
	free(p->took);
}

/* Where single writes are timed, two looks at the clock belong to each, on both sides. */
static void plan_write(const struct plan *p, void *mem, struct times *t)
{
	volatile uint64_t *word = mem;
	uint64_t cpu = cpu_now(), start = bench_now(), at = start, now;

	for (uint32_t i = 0; i < p->n; i++) {
		word[p->page[i] * (VAC_PAGE_BYTES / sizeof(*word))] = i;
		if (p->took) {
			now = bench_now();
			p->took[i] = (double)(now - at);
			at = now;
		}
	}
	if (p->what == ALL) {
		for (uint64_t i = 0; i < p->bytes / sizeof(*word); i++)
			word[i] = i;
	}
	t->write_ns = bench_now() - start;
	t->cpu_write_ns = cpu_now() - cpu;
	if (p->took)
		qsort(p->took, p->n, sizeof(*p->took), by_value);
	t->median_ns = p->took ? p->took[p->n / 2] : 0;
}

static int rig_for(struct rig *rig, const struct bench_env *env, uint64_t bytes, uint64_t copies)
{
	rig->opts.block_bytes = env->tiny ? TINY_BLOCK : BLOCK;
	/* One more: folios that stand alone begin pageblocks of their own. */
	rig->blocks = (unsigned)((bytes + copies) / rig->opts.block_bytes + 1);
	rig->space_bytes = rig->blocks * rig->opts.block_bytes;
	if (rig_open(rig) < 0)
		return -1;
	return rig_warm(rig, bytes + copies);
}

/* The memory begins as huge folios again: the writes of the last run have cut them. */
static int ours(struct rig *rig, const struct snap_case *c, const struct plan *p, struct times *t,
		struct sums *sums)
{
	struct vac_pool_stats before, after;
	struct vac_space *snap;
	uint64_t start, cpu, *mem;
	int r;

	if (rig_fill(rig, p->bytes, c->map_flags, &mem) < 0 || rig_stats(rig, &before) < 0)
		return -1;
	cpu = cpu_now();
	start = bench_now();
	r = vac_space_snapshot(rig->space, NULL, &snap);
	t->call_ns = bench_now() - start;
	t->cpu_call_ns = cpu_now() - cpu;
	if (r < 0)
		return bench_fail(rig->env, "taking a snapshot", r);
	plan_write(p, mem, t);
	if (rig_stats(rig, &after) < 0)
		return -1;
	sums->call_us += (double)t->call_ns / 1e3;
	sums->faults += (double)(after.faults - before.faults);
	sums->copied_mib += (double)(after.cow_bytes - before.cow_bytes) / MIB;
	if (rig_verify(rig, vac_space_translate(rig->space, mem, snap), p->bytes, 61) < 0)
		return -1;
	r = vac_space_destroy(snap);
	if (r == 0)
		r = vac_unmap(rig->space, mem, p->bytes);
	return r < 0 ? bench_fail(rig->env, "taking a snapshot away", r) : 0;
}

/* ---- The peer ------------------------------------------------------------------------------- */

struct peer {
	const struct bench_env *env;
	pid_t pid;
	int ask[2], answer[2]; /* a byte a run; struct times, or the end where something failed */
	uint64_t huge;         /* bytes that the host gave 2 MiB pages for */
};

static int peer_fork(const struct plan *p, void *mem, struct times *t)
{
	int end[2];
	uint64_t start, cpu;
	pid_t pid;
	char byte;

	if (pipe(end) < 0)
		return -errno;
	cpu = cpu_now();
	start = bench_now();
	pid = fork();
	if (pid == 0) {
		close(end[1]);
		while (read(end[0], &byte, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	t->call_ns = bench_now() - start;
	t->cpu_call_ns = cpu_now() - cpu;
	if (pid > 0)
		plan_write(p, mem, t);
	close(end[0]);
	close(end[1]);
	if (pid < 0)
		return -errno;
	waitpid(pid, NULL, 0);
	return 0;
}

/* The peer's process: memory of its own, one fork() of it for each byte. */
_Noreturn static void peer_serve(struct peer *peer, const struct snap_case *c, const struct plan *p)
{
	uint64_t *mem = (uint64_t *)host_anon(peer->env, p->bytes, c->pages);
	struct times t;
	char byte;
	int r = 0;

	if (!mem)
		_exit(1);
	for (uint64_t i = 0; i < p->bytes / sizeof(*mem); i++)
		mem[i] = i;
	peer->huge = host_kib_line("/proc/self/smaps_rollup", "AnonHugePages");
	if (write(peer->answer[1], &peer->huge, sizeof(peer->huge)) < 0)
		_exit(1);
	while (r == 0 && read(peer->ask[0], &byte, 1) == 1) {
		r = peer_fork(p, mem, &t);
		if (r < 0)
			bench_fail(peer->env, "fork()", r);
		else if (write(peer->answer[1], &t, sizeof(t)) < 0)
			break;
	}
	_exit(r < 0);
}

/* Started while there is no pool: it has nothing of one, and its fork()s copy nothing of one. */
static int peer_open(struct peer *peer, const struct bench_env *env, const struct snap_case *c,
		     const struct plan *p)
{
	*peer = (struct peer){.env = env, .pid = -1, .ask = {-1, -1}, .answer = {-1, -1}};
	if (pipe(peer->ask) < 0 || pipe(peer->answer) < 0)
		return bench_fail(env, "a pipe", -errno);
	peer->pid = fork();
	if (peer->pid < 0)
		return bench_fail(env, "a process", -errno);
	if (peer->pid == 0) {
		close(peer->ask[1]);
		close(peer->answer[0]);
		peer_serve(peer, c, p);
	}
	close(peer->ask[0]);
	close(peer->answer[1]);
	peer->ask[0] = peer->answer[1] = -1;
	if (read(peer->answer[0], &peer->huge, sizeof(peer->huge)) != sizeof(peer->huge))
		return bench_fail(env, "memory of the peer", -ECHILD);
	return 0;
}

static int peer_run(struct peer *peer, struct times *t)
{
	if (write(peer->ask[1], "", 1) != 1 || read(peer->answer[0], t, sizeof(*t)) != sizeof(*t))
		return bench_fail(peer->env, "the peer", -ECHILD);
	return 0;
}

static void peer_close(struct peer *peer)
{
	for (unsigned i = 0; i < 2; i++) {
		if (peer->ask[i] >= 0)
			close(peer->ask[i]);
		if (peer->answer[i] >= 0)
			close(peer->answer[i]);
	}
	if (peer->pid > 0)
		waitpid(peer->pid, NULL, 0);
}

/* ---- Both ----------------------------------------------------------------------------------- */

static double figure(const struct plan *p, const struct times *t)
{
	switch (p->what) {
	case CALL: return (double)t->call_ns / 1e3;
	case TENTH: return (double)(t->call_ns + t->write_ns) / 1e6;
	case EACH: return (double)t->write_ns / p->n;
	default: return gb_per_s(p->bytes, t->write_ns);
	}
}

/* By processor time, which a busy machine changes little. */
static double cpu_figure(const struct plan *p, const struct times *t)
{
	struct times cpu = {.call_ns = t->cpu_call_ns, .write_ns = t->cpu_write_ns};

	return figure(p, &cpu);
}

/* The median write of ours, of the peer's, and of the bare host calls: not moved by what takes the
 * processor away now and then, as the average is. */
struct floor {
	const struct plan *p;
	struct times t;
};

static void floor_writes(void *arg, void *mem)
{
	struct floor *f = arg;

	plan_write(f->p, mem, &f->t);
}

static int medians(const struct rig *rig, const struct plan *p, struct sums *sums, int run,
		   const struct times *a, const struct times *b)
{
	struct floor f = {.p = p};

	if (cow_floor(rig->env, vac_pool_guard(rig->pool), p->bytes, floor_writes, &f) < 0)
		return -1;
	sums->median[run] = a->median_ns;
	sums->peer_median[run] = b->median_ns;
	sums->floor[run] = f.t.median_ns;
	return 0;
}

static int run_case(struct bench_env *env, const struct snap_case *c)
{
	uint64_t bytes = (env->tiny ? c->tiny_mib : c->mib) * MIB;
	struct rig rig = RIG_INIT(env);
	struct sums sums = {0};
	struct bench_result *res;
	struct peer peer;
	struct plan p;
	int r;

	if (plan_make(&p, c, bytes) < 0)
		return bench_fail(env, "a list of pages", -ENOMEM);
	bench_run_begins(env, c->name, -1);
	res = bench_result(env, c->name, c->unit, c->what == ALL ? BENCH_MORE : BENCH_LESS,
			   c->peer);
	r = peer_open(&peer, env, c, &p);
	if (r == 0)
		r = rig_for(&rig, env, bytes, c->what == CALL ? 0 : bytes);
	for (int run = -1; run < (int)env->runs && r == 0; run++) {
		struct times a, b;

		bench_run_begins(env, c->name, run);
		if (bench_value_first(run))
			r = ours(&rig, c, &p, &a, &sums);
		if (r == 0)
			r = peer_run(&peer, &b);
		if (r == 0 && !bench_value_first(run))
			r = ours(&rig, c, &p, &a, &sums);
		if (r == 0 && run >= 0) {
			bench_add(res, figure(&p, &a), figure(&p, &b));
			sums.cpu[run] = cpu_figure(&p, &a);
			sums.peer_cpu[run] = cpu_figure(&p, &b);
		}
		if (r == 0 && run >= 0 && c->what == EACH)
			r = medians(&rig, &p, &sums, run, &a, &b);
		if (run < 0)
			sums = (struct sums){0};
	}
	if (r == 0) {
		bench_extra(res, "cpu", bench_median(sums.cpu, env->runs));
		bench_extra(res, "peer_cpu", bench_median(sums.peer_cpu, env->runs));
	}
	if (c->what != CALL && r == 0) {
		bench_extra(res, "snapshot_us", sums.call_us / env->runs);
		bench_extra(res, "faults", sums.faults / env->runs);
		bench_extra(res, "copied_mib", sums.copied_mib / env->runs);
	}
	if (c->what == EACH && r == 0) {
		bench_extra(res, "median", bench_median(sums.median, env->runs));
		bench_extra(res, "peer_median", bench_median(sums.peer_median, env->runs));
		bench_extra(res, "floor", bench_median(sums.floor, env->runs));
	}
	if (c->pages == HOST_2M && peer.huge < bytes)
		bench_note(res, "the host gave 2 MiB pages for %llu of %llu MiB of the peer",
			   (unsigned long long)(peer.huge / MIB),
			   (unsigned long long)(bytes / MIB));
	rig_close(&rig);
	peer_close(&peer);
	plan_free(&p);
	return r;
}

#define FORK_4K "fork() of the same bytes, 4 KiB pages"
#define FORK_2M "fork() of the same bytes, 2 MiB pages"

int bench_snapshot(struct bench_env *env)
{
	static const struct snap_case c[] = {
		{.name = "snapshot",
		 .unit = "us",
		 .peer = FORK_4K,
		 .what = CALL,
		 .pages = HOST_4K,
		 .mib = 1024,
		 .tiny_mib = 16},
		{.name = "snapshot_huge",
		 .unit = "us",
		 .peer = FORK_2M,
		 .what = CALL,
		 .pages = HOST_2M,
		 .mib = 1024,
		 .tiny_mib = 16},
		{.name = "snapshot_base",
		 .unit = "us",
		 .peer = FORK_4K,
		 .what = CALL,
		 .pages = HOST_4K,
		 .map_flags = VAC_MAP_NOHUGE,
		 .mib = 1024,
		 .tiny_mib = 16},
	};
	int r = 0;

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]) && r == 0; i++)
		r = run_case(env, &c[i]);
	return r;
}

int bench_snapshot_tenth(struct bench_env *env)
{
	static const struct snap_case c = {.name = "snapshot_tenth",
					   .unit = "ms",
					   .peer = "fork() and the same writes, 4 KiB pages",
					   .what = TENTH,
					   .pages = HOST_4K,
					   .mib = 512,
					   .tiny_mib = 16};

	return run_case(env, &c);
}

int bench_cow_write(struct bench_env *env)
{
	static const struct snap_case c = {.name = "cow_write",
					   .unit = "ns",
					   .peer = "copy fault after fork(), 4 KiB pages",
					   .what = EACH,
					   .pages = HOST_4K,
					   .mib = 256,
					   .tiny_mib = 16};

	return run_case(env, &c);
}

int bench_cow_seq(struct bench_env *env)
{
	static const struct snap_case c = {.name = "cow_seq",
					   .unit = "GB/s",
					   .peer = "the same writes after fork(), 4 KiB pages",
					   .what = ALL,
					   .pages = HOST_4K,
					   .mib = 256,
					   .tiny_mib = 16};

	return run_case(env, &c);
}

/*
 * cow_budget: host mappings under random writes while ten snapshots live. A snapshot is taken every tenth
 * of a million writes; each of the ten is read at random meanwhile, or it would show nothing and need no
 * mapping. The value is the most mappings that all pools had at any of 1,000 looks, the peer what they
 * may have.
 */
#define SNAPSHOTS 10

static int budget(struct bench_env *env, double *most, double *limit)
{
	uint64_t bytes = (env->tiny ? 8 : 64) * MIB, *mem, rng = BENCH_SEED;
	uint32_t writes = env->tiny ? 10000 : 1000000, n = 0;
	uint64_t words = bytes / sizeof(uint64_t);
	struct rig rig = RIG_INIT(env);
	struct vac_pool_stats st;
	uint64_t *snap[SNAPSHOTS];
	int r = -1;

	*most = 0;
	if (rig_for(&rig, env, bytes, SNAPSHOTS * bytes) < 0 || rig_fill(&rig, bytes, 0, &mem) < 0)
		goto out;
	for (uint64_t i = 0; i < words; i++)
		mem[i] = i;
	for (uint32_t w = 0; w < writes; w++) {
		uint64_t at = bench_random(&rng) % words;

		if (w % (writes / SNAPSHOTS) == 0) {
			struct vac_space *s;

			r = vac_space_snapshot(rig.space, NULL, &s);
			if (r < 0) {
				bench_fail(env, "taking a snapshot", r);
				goto out;
			}
			snap[n++] = vac_space_translate(rig.space, mem, s);
		}
		/* The low half says which word it is, and that is checked; the high half changes. */
		mem[at] = at | (uint64_t)w << 32;
		at = bench_random(&rng) % words;
		if ((uint32_t)snap[w % n][at] != (uint32_t)at) {
			r = bench_fail(env, "a word of a snapshot is another's", -EIO);
			goto out;
		}
		if (w % (writes / 1000 ? writes / 1000 : 1) == 0) {
			r = rig_stats(&rig, &st);
			if (r < 0)
				goto out;
			if ((double)st.host_vmas > *most)
				*most = (double)st.host_vmas;
			*limit = (double)st.host_vma_limit;
		}
	}
	r = 0;
out:
	rig_close(&rig);
	return r;
}

int bench_cow_budget(struct bench_env *env)
{
	struct bench_result *res = bench_result(env, "cow_budget", "mappings", BENCH_LESS,
						"host mappings that pools may have");

	double most = 0, limit = 0;

	/* Once: it is a count that follows from the seed, and many seconds under userfaultfd. */
	bench_run_begins(env, "cow_budget", 0);
	if (budget(env, &most, &limit) < 0)
		return -1;
	bench_add(res, most, limit);
	return 0;
}

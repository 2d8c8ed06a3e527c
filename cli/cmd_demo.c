/* SPDX-License-Identifier: MIT */
/*
 * vacate demo: the main job in one command. A pool is filled with real files and with records,
 * threads work on all of it and check every byte, and meanwhile every block is taken away, given
 * back to the system and added again, in turn, twice where there is time for it. Some of the threads are the cases that
 * memory hot-remove once failed on: endless direct I/O on one buffer (2005), direct I/O contexts that idle for ever and
 * multipathd's (2012), pins that last. Two groups work on snapshots: one sums each twice, one saves files to the disk from them.
 * Then the same with swap: twice the data that a second, smaller pool has memory for (demo_swap.c).
 *
 * The exit status is 0 only if no byte differs, every sum is exact, the pool's own check finds
 * nothing, and every block could leave.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "demo_swap.h"
#include "files.h"
#include "opt.h"
#include "out.h"
#include "report_json.h"
#include "session.h"
#include "workload.h"

#define MIB ((uint64_t)1 << 20)
#define DEFAULT_BLOCK (128 * MIB)
#define DEFAULT_BLOCKS 9 /* eight, and the one block's worth that offline needs */
#define MIN_BLOCKS 4
#define DEFAULT_PASSES 2
#define SOON_NS \
	12000000000u /* passes, if the user has not said how many: none that begins later than this */
#define FILL_PERCENT 93     /* of all blocks but one */
#define FILES_PERCENT 55    /* of that, at most; the rest are records */
#define MIN_FILE (16 << 10) /* of the default paths: smaller ones only cost time */
#define OFFLINE_TIMEOUT_MS 20000
#define OFFLINE_TRIES 3 /* before an offline has failed for good */
#define HANG_S 60
#define WARM_NS 1000000000u
#define SNAPSHOTS_BYTES (32 * MIB) /* of which `snapshots` takes an eighth, at most */
#define BACKUP_BYTES (128 * MIB)   /* and `backup` of these */
#define SWAP_BYTES (64 * MIB)      /* memory of the pool that swaps, at most */
#define SWAP_NS 3000000000u
#define HOLD_WAIT_NS 3000000000u

static const struct opt_ctx ctx = {"demo"};

static char *const default_paths[] = {(char *)"/usr/lib", (char *)"/usr/bin", (char *)"/usr/share"};

struct demo {
	struct session s;
	struct wl_run run;
	struct file_set files;
	struct demo_swap swap;
	bool json;
	bool custom; /* sizes come from the user */
	uint64_t passes;
	bool passes_given; /* else only as many of them as there is time for */
	uint64_t limit_ns; /* 0: none */
	char *const *paths;
	unsigned n_paths;
	uint64_t min_file;

	double memcpy_bytes_per_s; /* measured before there is any load */
	double memcpy_fresh;       /* into memory that the kernel has to clear first */
	uint64_t before_worst_ns;  /* writers' worst wait with no offline going on */
	double occupied;           /* share of all frames but one block's */
	uint64_t used_frames;
	struct cycle *cycle; /* [cycles], the last try of each */
	unsigned cycles, rooms, pass_done, retried, failed;
	double total_s, offline_s;
};

static void usage(void)
{
	puts("Usage: vacate demo [OPTIONS] [PATH...]\n"
	     "\n"
	     "Fill a pool of memory with files, let threads work on all of it, and meanwhile take\n"
	     "every memory block away, give it back to the system and add it again, in turn.\n"
	     "Nothing may be lost: the exit status is 0 only if every byte is in its place.\n"
	     "\n"
	     "PATH: files and directories to load (default: /usr/lib /usr/bin /usr/share).\n"
	     "\n"
	     "Options:\n"
	     "      --pool SIZE     memory in all blocks (default 1152M)\n"
	     "      --block SIZE    of one block, a power of two from 2M to 1G (default 128M)\n"
	     "      --passes N      times that every block leaves (default 2, or 1 if that is slow)\n"
	     "      --seconds N     begin no further block after N seconds of passes\n"
	     "      --seed N        of all random choices (default 1)\n"
	     "      --guard GUARD   auto (default), sigsegv or userfaultfd\n"
	     "      --control[=PATH]  open a control socket, for vacate ls, why, offline, ...\n"
	     "      --json          print the results as one JSON object\n"
	     "  -h, --help          this text\n"
	     "\n"
	     "Sizes are written like 512M or 1GiB.\n"
	     "Exit status: 0 nothing lost, 1 something lost or a block could not leave, 2 usage.\n"
	     "\n"
	     "Example: vacate demo --pool 256M --block 32M --passes 1 /usr/include");
}

enum {
	OPT_POOL = 256,
	OPT_BLOCK,
	OPT_PASSES,
	OPT_SECONDS,
	OPT_SEED,
	OPT_GUARD,
	OPT_CONTROL,
	OPT_JSON
};

/* -1: go on; else the exit status. */
static int parse(struct demo *d, int argc, char **argv)
{
	static const struct option options[] = {
		{"pool", required_argument, NULL, OPT_POOL},
		{"block", required_argument, NULL, OPT_BLOCK},
		{"passes", required_argument, NULL, OPT_PASSES},
		{"seconds", required_argument, NULL, OPT_SECONDS},
		{"seed", required_argument, NULL, OPT_SEED},
		{"guard", required_argument, NULL, OPT_GUARD},
		{"control", optional_argument, NULL, OPT_CONTROL},
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	uint64_t pool = 0, block = 0;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_POOL:
			if (opt_size(&ctx, "--pool", optarg, MIN_BLOCKS * VAC_BLOCK_BYTES_MIN,
				     (uint64_t)1 << 40, &pool))
				return CMD_USAGE;
			break;
		case OPT_BLOCK:
			if (opt_size(&ctx, "--block", optarg, VAC_BLOCK_BYTES_MIN,
				     VAC_BLOCK_BYTES_MAX, &block))
				return CMD_USAGE;
			break;
		case OPT_PASSES:
			if (opt_number(&ctx, "--passes", optarg, 1, 1000000, &d->passes))
				return CMD_USAGE;
			d->passes_given = true;
			break;
		case OPT_SECONDS:
			if (opt_time(&ctx, "--seconds", optarg, 1000000000u, UINT64_MAX,
				     &d->limit_ns))
				return CMD_USAGE;
			break;
		case OPT_SEED:
			if (opt_number(&ctx, "--seed", optarg, 0, UINT64_MAX, &d->run.seed))
				return CMD_USAGE;
			break;
		case OPT_GUARD:
			if (guard_from_name(optarg, &d->s.guard) < 0)
				return opt_error(
					&ctx, "--guard is auto, sigsegv or userfaultfd, not '%s'",
					optarg);
			break;
		case OPT_CONTROL:
			d->s.with_control = true;
			d->s.control_path = optarg;
			break;
		case OPT_JSON: d->json = true; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	d->custom = pool || block;
	if (!block && pool) {
		/* The largest block of which the pool has enough. */
		block = VAC_BLOCK_BYTES_MIN;
		while (block * 2 * DEFAULT_BLOCKS <= pool && block < DEFAULT_BLOCK)
			block *= 2;
	}
	if (!block)
		block = DEFAULT_BLOCK;
	if (block & (block - 1))
		return opt_error(&ctx, "--block: %" PRIu64 " is not a power of two", block);
	if (!pool)
		pool = block * DEFAULT_BLOCKS;
	if (pool / block < MIN_BLOCKS)
		return opt_error(&ctx,
				 "--pool: %" PRIu64
				 " MiB is too little for at least %u blocks of %" PRIu64 " MiB",
				 pool >> 20, MIN_BLOCKS, block >> 20);
	d->s.block_bytes = block;
	d->s.pool_bytes = pool / block * block;
	d->paths = optind < argc ? argv + optind : default_paths;
	d->n_paths = optind < argc ? (unsigned)(argc - optind) : 3;
	d->min_file = optind < argc ? 1 : MIN_FILE;
	return -1;
}

/* What the process needs beside the pool: versions of records, checksums, threads, files' names. */
static uint64_t memory_needed(uint64_t pool_bytes)
{
	/* Of the normal block only what is pinned is ever touched. */
	return pool_bytes + pool_bytes / 32 + 80 * MIB +
	       (pool_bytes / 8 < SWAP_BYTES ? pool_bytes / 8 : SWAP_BYTES);
}

/* A machine or a cgroup that is too small gets a smaller demonstration, said so. */
static int fit(struct demo *d)
{
	uint64_t room = session_room(&d->s), wanted = d->s.pool_bytes;
	uint64_t blocks = d->s.pool_bytes / d->s.block_bytes;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];

	while (memory_needed(d->s.pool_bytes) > room &&
	       d->s.block_bytes > VAC_BLOCK_BYTES_MIN * 2) {
		d->s.block_bytes /= 2;
		d->s.pool_bytes = d->s.block_bytes * blocks;
	}
	if (memory_needed(d->s.pool_bytes) > room) {
		out_error("there is not enough memory even for a small pool: %s are available, %s "
			  "are needed",
			  size_text(room, a, sizeof(a)),
			  size_text(memory_needed(d->s.pool_bytes), b, sizeof(b)));
		return -ENOMEM;
	}
	if (d->s.pool_bytes != wanted)
		out_error("only %s of memory are available: the pool is scaled down from %s to %s",
			  size_text(room, a, sizeof(a)), size_text(wanted, b, sizeof(b)),
			  size_text(d->s.pool_bytes, c, sizeof(c)));
	else if (d->custom && d->s.pool_bytes < 1024 * MIB + d->s.block_bytes)
		out_error("a pool of %s: smaller than the demonstration's own size",
			  size_text(d->s.pool_bytes, a, sizeof(a)));
	if (!d->s.memcg.version)
		out_error("the memory that comes back cannot be seen from the outside: %s",
			  d->s.memcg.why);
	return 0;
}

static unsigned threads_for(unsigned most)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = cpus > 4 ? (unsigned)cpus / 2 : 2;

	return n < most ? n : most;
}

/* Its files are copies of what has been loaded. */
static int add_backup(struct demo *d, uint64_t bytes)
{
	struct wl_source *source = calloc(d->files.files + 1, sizeof(*source));
	unsigned n = 0;
	int err;

	if (!source)
		return -ENOMEM;
	for (uint64_t i = 0; i < d->files.files; i++) {
		const struct file *f = &d->files.file[i];

		if (f->failed)
			continue;
		source[n].name = f->path;
		source[n].at = d->files.pages.base + f->first_page * VAC_PAGE_BYTES;
		source[n++].bytes = f->bytes;
	}
	d->run.source = source;
	d->run.sources = n;
	err = wl_run_add(&d->run, &wl_backup, 2, bytes < BACKUP_BYTES ? bytes : BACKUP_BYTES);
	d->run.source = NULL;
	d->run.sources = 0;
	free(source);
	return err;
}

/* The cases, all small. Answers what they take, or a negative errno value. */
static int64_t add_cases(struct demo *d, uint64_t bytes)
{
	unsigned first = d->run.n_groups;
	int64_t taken = 0;
	int err;

	err = wl_run_add(&d->run, &wl_dio, 2, 0);
	if (!err)
		err = wl_run_add(&d->run, &wl_idle, 1, bytes);
	if (!err)
		err = wl_run_add(&d->run, &wl_multipathd, 1, 0);
	if (!err)
		err = wl_run_add(&d->run, &wl_longterm, 1, bytes);
	if (!err)
		err = wl_run_add(&d->run, &wl_snapshots, 2,
				 bytes / 4 < SNAPSHOTS_BYTES ? bytes / 4 : SNAPSHOTS_BYTES);
	if (!err)
		err = add_backup(d, bytes / 4);
	for (unsigned i = first; i < d->run.n_groups; i++)
		taken += (int64_t)d->run.groups[i].bytes;
	return err ? err : taken;
}

/* Map and fill everything: files first, the rest of the space with records. */
static int fill(struct demo *d)
{
	uint64_t bytes = (d->s.pool_bytes - d->s.block_bytes) / 100 * FILL_PERCENT;
	/* Atomics at most 2 MiB + 128 KiB, read 2 MiB or 128 KiB. */
	uint64_t fixed = bytes >= 64 * MIB ? 5 * MIB : MIB * 3 / 4;
	int64_t cases;
	char a[SIZE_TEXT_MAX], how[64];
	int err;

	err = files_collect(&d->files, d->paths, d->n_paths, d->min_file,
			    bytes / 100 * FILES_PERCENT);
	if (err)
		return err;
	if (!d->files.files)
		out_error("no file of at most %s is readable there: the pool holds records only",
			  size_text(bytes / 100 * FILES_PERCENT, a, sizeof(a)));
	err = files_load(&d->files, &d->run);
	if (err)
		return err;
	snprintf(how, sizeof(how), "O_DIRECT by %s", d->files.backend ? d->files.backend : "-");
	out_msg("loaded %" PRIu64 " files, %s, at %.2f GB/s (%s%s)",
		d->files.files - d->files.failed, size_text(d->files.bytes, a, sizeof(a)),
		d->files.load_bytes_per_s / 1e9, how,
		d->files.not_fitting ? "; the pool holds no more" : "");
	if (d->files.buffered)
		out_error("%" PRIu64 " files lie on a filesystem that refuses O_DIRECT and were "
			  "read through the page cache",
			  d->files.buffered);
	err = wl_run_add(&d->run, &wl_verify, threads_for(8), 0);
	if (err)
		return err;
	wl_verify_use(&d->run.groups[0], &d->files.pages);
	bytes -= d->files.pages.pages * VAC_PAGE_BYTES;
	err = wl_run_add(&d->run, &wl_atomics, threads_for(8), bytes >= 64 * MIB ? bytes : 0);
	if (!err)
		err = wl_run_add(&d->run, &wl_read, 1, bytes);
	if (!err)
		err = wl_run_add(&d->run, &wl_holder, 1, 0);
	if (err)
		return err;
	cases = add_cases(d, bytes);
	if (cases < 0)
		return (int)cases;
	fixed += (uint64_t)cases;
	err = wl_run_add(&d->run, &wl_records, threads_for(8),
			 bytes > fixed ? bytes - fixed : VAC_PAGE_BYTES);
	return err;
}

static void tell_pool(struct demo *d)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	/* One block's worth is what an offline needs; the normal one is for long-term pins. */
	uint64_t spare = d->s.block_bytes / VAC_PAGE_BYTES * 2;
	char a[SIZE_TEXT_MAX];

	if (vac_pool_stats(d->s.pool, &st))
		return;
	d->used_frames = st.frames_used;
	d->occupied = (double)st.frames_used / (double)(st.frames_total - spare);
	out_msg("pool of %u blocks of %s and one of normal memory, guard %s, %.1f %% occupied apart from one "
		"block's worth; "
		"%" PRIu64 " pageblocks of 2 MiB host pages, %" PRIu64 " of 4 KiB",
		d->s.blocks, size_text(d->s.block_bytes, a, sizeof(a)), guard_name(st.guard),
		d->occupied * 100, st.pageblocks_huge, st.pageblocks_base);
}

/* The load alone, before any offline: how long does a writer wait on this machine for reasons of
 * its own? */
static void warm_up(struct demo *d)
{
	wl_run_wait(&d->run, WARM_NS / 2);
	wl_worst_ns(&d->run, WL_WRITER);
	wl_run_wait(&d->run, WARM_NS);
	d->before_worst_ns = wl_worst_ns(&d->run, WL_WRITER);
	out_msg("memcpy: %.2f GB/s, into fresh memory %.2f; writer's worst wait while nothing leaves: %.1f ms",
		d->memcpy_bytes_per_s / 1e9, d->memcpy_fresh / 1e9,
		(double)d->before_worst_ns / 1e6);
	atomic_store(&d->run.phase, WL_DURING);
}

/* Once a pass the holder is asked to hold pages of the block that leaves next. */
static void let_hold(struct demo *d, int id)
{
	uint64_t until = wl_now_ns() + HOLD_WAIT_NS;

	atomic_store(&d->run.hold_block, id);
	while (atomic_load(&d->run.held_block) != id && wl_now_ns() < until &&
	       !atomic_load(&d->run.interrupted))
		wl_run_wait(&d->run, 5000000);
	atomic_store(&d->run.hold_block, WL_NO_BLOCK);
}

/* How fast bytes moved beside memcpy, second of processor time for second: the load takes most of
 * the processors' time from both. */
static double memcpy_share(const struct demo *d, uint64_t bytes, uint64_t cpu_ns)
{
	if (!cpu_ns || d->memcpy_bytes_per_s <= 0)
		return 0;
	return (double)bytes * 1e9 / (double)cpu_ns / d->memcpy_bytes_per_s;
}

static void tell_cycle(struct demo *d, const struct cycle *c, unsigned pass, unsigned n)
{
	char waited[128] = "waited for nobody";

	if (*c->res.waited_for)
		snprintf(waited, sizeof(waited), "waited %.2f s, longest for \"%s\" (thread %u)",
			 (double)c->res.waited_ns / 1e9, c->res.waited_for, c->res.waited_tid);
	out_msg("pass %u/%" PRIu64
		" block %d (%u/%u): moved %.1f MiB in %.2f s, %.2f GB/s (%.2f of "
		"memcpy by processor time); writer's worst wait %.1f ms; %s",
		pass + 1, d->passes, c->id, n + 1, d->s.blocks,
		(double)c->res.bytes_moved / 1048576, (double)c->res.elapsed_ns / 1e9, c->gb_per_s,
		memcpy_share(d, c->res.bytes_moved, c->cpu_ns), (double)c->writer_worst_ns / 1e6,
		waited);
}

/* Take block id away and bring it back. 0, or 1: the demonstration cannot go on. */
static int one_block(struct demo *d, unsigned pass, unsigned n)
{
	struct cycle *c = &d->cycle[d->cycles];
	int id = d->s.id[n];

	if (n == pass % d->s.blocks)
		let_hold(d, id);
	for (unsigned try = 1;; try++) {
		session_offline(&d->s, &d->run, id, OFFLINE_TIMEOUT_MS, true, c);
		if (!c->err)
			break;
		if (atomic_load(&d->run.interrupted)) {
			vac_report_free(c->res.report);
			return 1;
		}
		out_error("block %d could not leave (try %u of %u): %s", id, try, OFFLINE_TRIES,
			  vac_strerror(c->err));
		if (c->res.missing_bytes)
			out_error("%.1f MiB of target memory are missing",
				  (double)c->res.missing_bytes / 1048576);
		report_text(c->res.report, stderr);
		vac_report_free(c->res.report);
		c->res.report = NULL;
		if (try == OFFLINE_TRIES) {
			d->failed++;
			d->cycles++;
			return 0;
		}
		d->retried++;
	}
	tell_cycle(d, c, pass, n);
	d->cycles++;
	return session_return(&d->s, &d->run, id) ? 1 : 0;
}

/* 0, or 1 if the passes were broken off by an error. */
static int passes(struct demo *d)
{
	uint64_t t0 = wl_now_ns();
	int err = 0;

	d->rooms = (unsigned)d->passes * d->s.blocks;
	d->cycle = calloc(d->rooms, sizeof(*d->cycle));
	if (!d->cycle) {
		out_error("out of memory");
		return 1;
	}
	for (unsigned pass = 0; pass < d->passes; pass++) {
		if (pass && !d->passes_given && wl_now_ns() - t0 > SOON_NS) {
			out_msg("pass %u took %.0f s: no further one (--passes for more)", pass,
				(double)(wl_now_ns() - t0) / 1e9);
			break;
		}
		for (unsigned n = 0; n < d->s.blocks; n++) {
			if (atomic_load(&d->run.interrupted))
				goto out;
			if (d->limit_ns && wl_now_ns() - t0 > d->limit_ns) {
				out_error("%.0f s are over in pass %u of %" PRIu64,
					  (double)d->limit_ns / 1e9, pass + 1, d->passes);
				goto out;
			}
			err = one_block(d, pass, n);
			if (err)
				goto out;
		}
		d->pass_done++;
	}
out:
	d->offline_s = (double)(wl_now_ns() - t0) / 1e9;
	return err && !atomic_load(&d->run.interrupted);
}

/* ---- results ---- */

struct sum {
	unsigned times, failed;
	uint64_t moved, busy_ns, cpu_ns, waited_ns, writer_worst_ns, longest_ns, given_back;
	uint64_t touched; /* of the cycles whose charge is known */
	int64_t fall;
	double fall_s;
	const char *waited_for; /* whom it waited for longest */
};

static void add(struct sum *s, const struct cycle *c)
{
	if (c->err) {
		s->failed++;
		return;
	}
	s->times++;
	s->moved += c->res.bytes_moved;
	s->busy_ns += c->busy_ns;
	s->cpu_ns += c->cpu_ns;
	s->waited_ns += c->res.waited_ns;
	s->given_back += c->res.given_back_bytes;
	if (c->writer_worst_ns > s->writer_worst_ns)
		s->writer_worst_ns = c->writer_worst_ns;
	if (*c->res.waited_for && c->res.waited_longest_ns >= s->longest_ns) {
		s->longest_ns = c->res.waited_longest_ns;
		s->waited_for = c->res.waited_for;
	}
	if (c->charged_known) {
		s->touched += c->touched_bytes;
		s->fall += c->charged_fall_bytes;
		if (c->charged_fall_s > s->fall_s)
			s->fall_s = c->charged_fall_s;
	}
}

/* Over all cycles of block id, or of all blocks for WL_NO_BLOCK. */
static struct sum sum_of(const struct demo *d, int id)
{
	struct sum s = {0};

	for (unsigned i = 0; i < d->cycles; i++) {
		if (id == WL_NO_BLOCK || d->cycle[i].id == id)
			add(&s, &d->cycle[i]);
	}
	return s;
}

static double rate(const struct sum *s)
{
	return s->busy_ns ? (double)s->moved / (double)s->busy_ns : 0;
}

static void block_row(const struct demo *d, struct out_table *tb, const char *name,
		      const struct sum *s)
{
	out_table_row(tb);
	out_table_cell(tb, "%s", name);
	out_table_cell(tb, "%u", s->times);
	out_table_cell(tb, "%u", s->failed);
	out_table_cell(tb, "%.1f MiB", (double)s->moved / 1048576);
	out_table_cell(tb, "%.2f", rate(s));
	out_table_cell(tb, "%.2f", memcpy_share(d, s->moved, s->cpu_ns));
	out_table_cell(tb, "%.1f ms", (double)s->writer_worst_ns / 1e6);
	out_table_cell(tb, "%.2f s", (double)s->waited_ns / 1e9);
	out_table_cell(tb, "%s", s->waited_for ? s->waited_for : "-");
	out_table_cell(tb, "%.1f MiB", (double)s->given_back / 1048576);
}

static int print_blocks(const struct demo *d)
{
	static const struct out_column cols[] = {
		{"BLOCK", 1},       {"LEFT", 1},       {"FAILED", 1},       {"MOVED", 1},
		{"GB/S", 1},        {"OF-MEMCPY", 1},  {"WRITER-WORST", 1}, {"WAITED", 1},
		{"LONGEST-FOR", 0}, {"GIVEN-BACK", 1},
	};
	struct out_table *tb = out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	struct sum all = sum_of(d, WL_NO_BLOCK);

	for (unsigned n = 0; n < d->s.blocks; n++) {
		struct sum s = sum_of(d, d->s.id[n]);
		char name[16];

		snprintf(name, sizeof(name), "%d", d->s.id[n]);
		block_row(d, tb, name, &s);
	}
	block_row(d, tb, "all", &all);
	return out_table_print(tb);
}

static void print_memory(const struct demo *d)
{
	struct sum all = sum_of(d, WL_NO_BLOCK);

	printf("memory: %.1f MiB given back in %u blocks, each certified by a seal of its memfd\n",
	       (double)all.given_back / 1048576, all.times);
	if (!d->s.memcg.version) {
		printf("        no memory cgroup to see it in: %s\n", d->s.memcg.why);
		return;
	}
	printf("        the kernel had allocated %.1f MiB to them; %s\n"
	       "        fell by %.1f MiB (%.1f %%), each time within %.2f s, our own growth elsewhere "
	       "apart\n",
	       (double)all.touched / 1048576,
	       d->s.memcg.version == 2 ? "the cgroup's memory.current"
				       : "the cgroup's memory.usage_in_bytes",
	       (double)all.fall / 1048576,
	       all.touched ? (double)all.fall * 100 / (double)all.touched : 0, all.fall_s);
}

/* Most of what a block had was 4 KiB folios. Only such cycles, or the others. */
static struct sum sum_of_kind(const struct demo *d, bool base)
{
	struct sum s = {0};

	for (unsigned i = 0; i < d->cycles; i++) {
		const struct vac_offline_result *res = &d->cycle[i].res;

		if ((res->base_moved * VAC_PAGE_BYTES > res->bytes_moved / 2) == base)
			add(&s, &d->cycle[i]);
	}
	return s;
}

static double cpu_rate(const struct sum *s)
{
	return s->cpu_ns ? (double)s->moved / (double)s->cpu_ns : 0;
}

/*
 * Two rates, since folios of either size cost what they cost, beside what memcpy would cost: into memory that
 * is fresh, as that of a block is which was given back and has returned. And why the clock shows less.
 */
static void print_rates(const struct demo *d)
{
	struct sum all = sum_of(d, WL_NO_BLOCK), huge = sum_of_kind(d, false),
		   base = sum_of_kind(d, true);

	printf("moved: %.2f GB a second of processor time for %u blocks mostly of 2 MiB folios, ",
	       cpu_rate(&huge), huge.times);
	if (base.times)
		printf("%.2f GB for %u mostly of\n       4 KiB folios, ", cpu_rate(&base),
		       base.times);
	printf("where memcpy into fresh memory makes %.2f GB; by the clock %.2f GB/s,\n"
	       "       as the load's %u threads have the same %ld processors\n",
	       d->memcpy_fresh / 1e9, rate(&all), d->run.n_workers, sysconf(_SC_NPROCESSORS_ONLN));
}

static bool passed(struct demo *d)
{
	return !atomic_load(&d->run.faults) && !d->swap.errors && !d->swap.failed && d->swap.done &&
	       !d->failed && !d->files.differing && !atomic_load(&d->run.interrupted) && d->cycles;
}

static int print_text(struct demo *d)
{
	const struct file_set *fs = &d->files;
	int err;

	err = print_blocks(d);
	putchar('\n');
	if (!err)
		err = wl_run_print(&d->run);
	printf("\nfiles: %" PRIu64
	       " loaded, %.1f MiB compared with the disk byte for byte, %" PRIu64 " differ",
	       fs->files - fs->failed, (double)fs->compared_bytes / 1048576, fs->differing);
	if (fs->changed)
		printf("; %" PRIu64
		       " have changed on the disk, and were checked by their checksums",
		       fs->changed);
	putchar('\n');
	print_memory(d);
	print_rates(d);
	wl_run_tell(&d->run);
	demo_swap_print(&d->swap);
	printf("writer's worst wait: %.1f ms while blocks left, %.1f ms while none did\n",
	       (double)sum_of(d, WL_NO_BLOCK).writer_worst_ns / 1e6,
	       (double)d->before_worst_ns / 1e6);
	printf("errors: %" PRIu64 "\n%s\n", atomic_load(&d->run.faults) + d->swap.errors,
	       passed(d)                          ? "PASSED: every block has left, nothing was lost"
	       : atomic_load(&d->run.interrupted) ? "INTERRUPTED"
						  : "FAILED");
	return err;
}

static json_t *cycle_json(const struct demo *d, const struct cycle *c)
{
	json_t *j = json_pack(
		"{s:i, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:s, s:i, s:I}", "block", c->id,
		"result", c->err ? vac_strerror(c->err) : "offline", "bytes_moved",
		(json_int_t)c->res.bytes_moved, "huge_moved", (json_int_t)c->res.huge_moved,
		"base_moved", (json_int_t)c->res.base_moved, "seconds",
		(double)c->res.elapsed_ns / 1e9, "gb_per_s", c->gb_per_s, "memcpy_share",
		memcpy_share(d, c->res.bytes_moved, c->cpu_ns), "writer_worst_us",
		(double)c->writer_worst_ns / 1e3, "waited_s", (double)c->res.waited_ns / 1e9,
		"waited_for", c->res.waited_for, "waited_tid", (int)c->res.waited_tid,
		"given_back_bytes", (json_int_t)c->res.given_back_bytes);

	if (j && c->charged_known) {
		json_object_set_new(j, "allocated_bytes",
				    json_integer((json_int_t)c->touched_bytes));
		json_object_set_new(j, "cgroup_fall_bytes", json_integer(c->charged_fall_bytes));
		json_object_set_new(j, "cgroup_fall_s", json_real(c->charged_fall_s));
	}
	return j;
}

static json_t *groups_json(struct demo *d)
{
	json_t *a = json_array();

	for (unsigned i = 0; a && i < d->run.n_groups; i++) {
		struct wl_group *g = &d->run.groups[i];

		json_array_append_new(a, json_pack("{s:s, s:i, s:I, s:I, s:I}", "name",
						   g->cls->name, "threads", (int)g->threads,
						   "bytes", (json_int_t)g->bytes, "operations",
						   (json_int_t)wl_group_ops(g), "checked",
						   (json_int_t)wl_group_checked(g)));
		if (g->cls->tell)
			json_object_set_new(json_array_get(a, json_array_size(a) - 1), "case",
					    json_pack("{s:I, s:I, s:I, s:I, s:I, s:f}", "events",
						      (json_int_t)g->stat.events, "transfers",
						      (json_int_t)g->stat.transfers, "bytes",
						      (json_int_t)g->stat.bytes, "blocks_left",
						      (json_int_t)g->stat.blocks, "pieces_left",
						      (json_int_t)g->stat.pieces,
						      "waited_longest_s",
						      (double)g->stat.waited_ns / 1e9));
	}
	return a;
}

static int print_json(struct demo *d)
{
	const struct file_set *fs = &d->files;
	struct sum all = sum_of(d, WL_NO_BLOCK), huge = sum_of_kind(d, false),
		   base = sum_of_kind(d, true);
	json_t *offlines = json_array(), *j;

	for (unsigned i = 0; offlines && i < d->cycles; i++)
		json_array_append_new(offlines, cycle_json(d, &d->cycle[i]));
	j = json_pack("{s:b, s:I, s:I, s:i, s:I, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "passed",
		      passed(d), "seed", (json_int_t)d->run.seed, "block_bytes",
		      (json_int_t)d->s.block_bytes, "blocks", (int)d->s.blocks, "passes",
		      (json_int_t)d->passes, "passes_done", (int)d->pass_done, "duration_s",
		      d->total_s, "occupied", d->occupied, "moved_gb_per_s", rate(&all),
		      "memcpy_gb_per_s", d->memcpy_bytes_per_s / 1e9, "memcpy_share",
		      memcpy_share(d, all.moved, all.cpu_ns), "writer_worst_before_us",
		      (double)d->before_worst_ns / 1e3);
	if (!j) {
		json_decref(offlines);
		return -ENOMEM;
	}
	json_object_set_new(j, "bytes_moved", json_integer((json_int_t)all.moved));
	json_object_set_new(j, "memcpy_fresh_gb_per_s", json_real(d->memcpy_fresh / 1e9));
	json_object_set_new(j, "gb_per_cpu_s_huge", json_real(cpu_rate(&huge)));
	json_object_set_new(j, "gb_per_cpu_s_base", json_real(cpu_rate(&base)));
	json_object_set_new(j, "offlines", offlines);
	json_object_set_new(j, "failed", json_integer(d->failed));
	json_object_set_new(j, "workloads", groups_json(d));
	json_object_set_new(
		j, "files",
		json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "loaded",
			  (json_int_t)(fs->files - fs->failed), "bytes", (json_int_t)fs->bytes,
			  "compared_bytes", (json_int_t)fs->compared_bytes, "differing",
			  (json_int_t)fs->differing, "changed_on_disk", (json_int_t)fs->changed,
			  "failed", (json_int_t)fs->failed, "buffered", (json_int_t)fs->buffered));
	json_object_set_new(
		j, "memory",
		json_pack("{s:I, s:i, s:I, s:I}", "given_back_bytes", (json_int_t)all.given_back,
			  "cgroup_version", d->s.memcg.version, "allocated_bytes",
			  (json_int_t)all.touched, "cgroup_fall_bytes", (json_int_t)all.fall));
	json_object_set_new(j, "swap", demo_swap_json(&d->swap));
	json_object_set_new(j, "verify",
			    json_pack("{s:I, s:I}", "checked", (json_int_t)wl_checked(&d->run),
				      "errors", (json_int_t)atomic_load(&d->run.faults)));
	json_object_set_new(j, "writer_wait_us", latency_json(&d->run, WL_WRITER, WL_DURING));
	json_object_set_new(j, "writer_wait_before_us",
			    latency_json(&d->run, WL_WRITER, WL_BEFORE));
	json_object_set_new(j, "reader_wait_us", latency_json(&d->run, WL_READER, WL_DURING));
	json_object_set_new(j, "reader_wait_before_us",
			    latency_json(&d->run, WL_READER, WL_BEFORE));
	json_object_set_new(j, "host_vmas_max",
			    json_integer((json_int_t)atomic_load(&d->run.host_vmas_max)));
	return out_json(j);
}

static int run_demo(struct demo *d)
{
	struct wl_run *run = &d->run;
	uint64_t t0 = wl_now_ns(), step = d->s.pool_bytes / 4;
	int err, broken;

	run->pool = d->s.pool;
	run->space = d->s.space;
	err = wl_run_init(run);
	if (err)
		return CMD_ERROR;
	err = wl_memcpy_rate(run, step < 64 * MIB ? step : 64 * MIB, 5, &d->memcpy_bytes_per_s,
			     &d->memcpy_fresh);
	if (!err)
		err = fill(d);
	if (!err) {
		tell_pool(d);
		err = wl_run_start(run);
	}
	if (!err)
		warm_up(d);
	broken = err || passes(d);
	wl_run_stop(run);
	if (!err) {
		wl_run_sweep(run);
		if (!broken)
			session_check(&d->s, run, d->used_frames);
		files_compare(&d->files, run);
		if (!broken) {
			d->swap.pool_bytes = d->s.pool_bytes / 8 < SWAP_BYTES ? d->s.pool_bytes / 8
									      : SWAP_BYTES;
			d->swap.seed = run->seed;
			d->swap.guard = d->s.guard;
			d->swap.limit_ns = SWAP_NS;
			broken = demo_swap_run(&d->swap) < 0;
			if (d->swap.interrupted)
				atomic_store(&run->interrupted, true);
		}
		d->total_s = (double)(wl_now_ns() - t0) / 1e9;
		err = d->json ? print_json(d) : print_text(d);
		if (err)
			out_error("cannot print the results: %s", strerror(-err));
	}
	broken = err || broken || !passed(d);
	/* The files' pages are verify's: first the group, then the pages. */
	wl_run_free(run);
	files_free(&d->files, run);
	free(d->cycle);
	return broken ? CMD_ERROR : CMD_OK;
}

int cmd_demo(int argc, char **argv)
{
	struct demo *d = calloc(1, sizeof(*d)); /* too large for a careful stack */
	int rc;

	out_set_prefix("vacate demo");
	if (!d) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	d->passes = DEFAULT_PASSES;
	d->run.seed = 1;
	d->run.hang_s = HANG_S;
	d->run.paced = true;
	d->s.normal = true;
	d->s.name = "demo";
	d->s.zone = VAC_ZONE_MOVABLE;
	rc = parse(d, argc, argv);
	if (rc < 0) {
		rc = CMD_ERROR;
		if (!fit(d) && !session_open(&d->s)) {
			rc = run_demo(d);
			if (session_close(&d->s))
				rc = CMD_ERROR;
		}
	}
	free(d);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/*
 * The ticker of a run, a thread of its own ten times a second:
 *
 * - takes SIGINT and SIGTERM: the first asks the run to end (and cancels an offline that is under
 *   way), the second ends the process at once;
 * - watches that the controller and every worker that is not parked make progress; a thread that
 *   has made none for run->hang_s seconds is a hang: what each thread does is printed, and the
 *   process ends with status 1, without running anything that might hang as well.
 *
 * It touches no pool memory and calls nothing of the engine: an engine that hangs must not take
 * its watchdog along. The cancelling is therefore left to a third thread, which starts with the
 * first signal.
 */
#include "watchdog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "out.h"

#define TICK_NS 100000000l

struct life {
	uint64_t ops, since_ns;
};

static void read_line(int tid, const char *what, char *buf, size_t len)
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, buf, len - 1);
		close(fd);
	}
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

/* The letter after the command in /proc/.../stat; the command may hold anything but its last ')'.*/
static char run_state(int tid)
{
	char stat[512];
	const char *p;

	read_line(tid, "stat", stat, sizeof(stat));
	p = strrchr(stat, ')');
	return p && p[1] == ' ' && p[2] ? p[2] : '?';
}

static void print_thread(const char *name, int tid, const char *doing, uintptr_t where,
			 uint64_t ops, double still_s)
{
	char wchan[64], syscall_text[160];

	read_line(tid, "wchan", wchan, sizeof(wchan));
	read_line(tid, "syscall", syscall_text, sizeof(syscall_text));
	out_msg("  %-14s tid %-7d %c %6.1f s still, %" PRIu64 " done: %s%s%" PRIxPTR
		" [wchan %s; syscall %s]",
		name, tid, run_state(tid), still_s, ops, doing, where ? " at 0x" : " ", where,
		*wchan ? wchan : "-", *syscall_text ? syscall_text : "-");
}

/* The threads that are no workers: helpers of a workload, of libraries, of the engine. */
static void print_others(struct wl_run *run)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		int tid = atoi(e->d_name);
		char name[32];
		bool known = tid <= 0 || tid == getpid();

		for (unsigned i = 0; i < run->n_workers && !known; i++)
			known = atomic_load(&run->workers[i]->tid) == tid;
		if (known)
			continue;
		read_line(tid, "comm", name, sizeof(name));
		print_thread(name, tid, "-", 0, 0, 0);
	}
	if (dir)
		closedir(dir);
}

static void hang(struct wl_run *run, const struct life *life, const char *who)
{
	uint64_t now = wl_now_ns();

	out_error("HANG: %s has made no progress for %u s; this is what each thread does:", who,
		  run->hang_s);
	print_thread("controller", getpid(), atomic_load(&run->stage), 0, atomic_load(&run->steps),
		     (double)(now - life[0].since_ns) / 1e9);
	for (unsigned i = 0; i < run->n_workers; i++) {
		struct wl_worker *w = run->workers[i];

		print_thread(w->name, atomic_load(&w->tid), atomic_load(&w->doing),
			     atomic_load(&w->where), atomic_load(&w->ops),
			     (double)(now - life[i + 1].since_ns) / 1e9);
	}
	print_others(run);
	if (atomic_load(&run->leaving) != WL_NO_BLOCK)
		out_msg("  block %d is being offlined", atomic_load(&run->leaving));
	out_error("seed %" PRIu64, run->seed);
	_exit(1);
}

static bool still_too_long(struct life *l, uint64_t ops, bool idle, uint64_t now, unsigned hang_s)
{
	if (idle || ops != l->ops || !l->since_ns) {
		l->ops = ops;
		l->since_ns = now;
	}
	return now - l->since_ns > (uint64_t)hang_s * 1000000000u;
}

static void watch(struct wl_run *run, struct life *life)
{
	uint64_t now = wl_now_ns();
	bool offlining = atomic_load(&run->leaving) != WL_NO_BLOCK;

	if (!run->hang_s)
		return;
	for (unsigned i = 0; i < run->n_workers; i++) {
		struct wl_worker *w = run->workers[i];
		bool idle = atomic_load(&w->parked) || !atomic_load(&w->tid);

		if (still_too_long(&life[i + 1], atomic_load(&w->ops), idle, now, run->hang_s))
			hang(run, life, w->name);
	}
	/* An offline has its own deadline, on top of which the controller gets the patience. */
	if (still_too_long(&life[0], atomic_load(&run->steps), false, now,
			   run->hang_s + (offlining ? 30 : 0)))
		hang(run, life, "the controller");
}

static void *canceller(void *arg)
{
	struct wl_run *run = arg;
	struct timespec tick = {0, TICK_NS};

	while (!atomic_load(&run->ticker_stop)) {
		int id = atomic_load(&run->leaving);

		/* It may just have ended: then there is nothing to cancel, and the answer says so. */
		if (id != WL_NO_BLOCK)
			vac_block_cancel(run->pool, id);
		nanosleep(&tick, NULL);
	}
	return NULL;
}

static void *ticker(void *arg)
{
	struct wl_run *run = arg;
	struct life *life = calloc(WL_MAX_WORKERS + 1, sizeof(*life));
	struct timespec tick = {0, TICK_NS};
	sigset_t set;

	pthread_setname_np(pthread_self(), "ticker");
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	while (!atomic_load(&run->ticker_stop)) {
		int sig = sigtimedwait(&set, NULL, &tick);

		if (sig > 0 && atomic_exchange(&run->interrupted, true)) {
			out_error("interrupted again: ending at once");
			_exit(128 + sig);
		}
		if (sig > 0) {
			out_error("interrupted: ending (once more to end at once)");
			run->canceller_runs =
				!pthread_create(&run->canceller, NULL, canceller, run);
		}
		if (life)
			watch(run, life);
		if (run->tick)
			run->tick(run);
	}
	free(life);
	return NULL;
}

int watchdog_start(struct wl_run *run)
{
	sigset_t set;
	int err;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	err = pthread_create(&run->ticker, NULL, ticker, run);
	if (err) {
		out_error("cannot start a thread: %s", strerror(err));
		return -err;
	}
	run->ticker_runs = true;
	return 0;
}

void watchdog_stop(struct wl_run *run)
{
	if (!run->ticker_runs)
		return;
	atomic_store(&run->ticker_stop, true);
	pthread_join(run->ticker, NULL);
	run->ticker_runs = false;
	if (run->canceller_runs)
		pthread_join(run->canceller, NULL);
	run->canceller_runs = false;
}

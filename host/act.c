/* SPDX-License-Identifier: MIT */
/*
 * One block goes offline, or comes back.
 *
 * In this order: look (host_why()), end whom the caller named, wait for the others if he wants that, refuse
 * what could not be undone, suspend, ask the kernel, watch, give up at the deadline, let everybody go on, look
 * who it was. Commit point: none before the kernel's own; until the block has left, everything is undone by
 * killing the writer, which is also what our own death does.
 */
#include "host/act.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "host/suspend.h"

#define STUCK_MS 60   /* between two looks for what is locked or under writeback */
#define TELL_MS 200   /* between two lines of progress */
#define GRACE_MS 3000 /* from SIGTERM to SIGKILL */
#define WAIT_FDS 64

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void sleep_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

const char *host_result_name(enum host_result r)
{
	static const char *const name[HOST_RESULTS] = {
		"done",        "already",        "would", "would not", "refused", "timeout",
		"interrupted", "kernel refused", "stuck", "came back", "failed",
	};

	return name[r];
}

void host_outcome_free(struct host_outcome *out)
{
	if (out->have_before)
		host_why_free(&out->before);
	if (out->have_after)
		host_why_free(&out->after);
	memset(out, 0, sizeof(*out));
}

/* ---- Frames ---- */

#define BIT(n) (1ULL << (n))
#define IN_USE (BIT(KPF_LRU) | BIT(KPF_MMAP) | BIT(KPF_HUGE) | BIT(KPF_LOCKED) | BIT(KPF_WRITEBACK))
#define NOT_THERE (BIT(KPF_NOPAGE) | BIT(KPF_BUDDY) | BIT(KPF_HWPOISON) | BIT(KPF_OFFLINE))

static int read_flags(struct host *h, const struct host_block *b, uint64_t *flags)
{
	size_t bytes = b->frames * 8, done = 0;
	int fd = host_openat(h, O_RDONLY, "/proc/kpageflags");
	ssize_t n;

	if (fd < 0)
		return fd;
	while (done < bytes) {
		n = pread(fd, (char *)flags + done, bytes - done, (off_t)(b->pfn * 8 + done));
		if (n <= 0) {
			n = n ? -errno : 0;
			close(fd);
			memset((char *)flags + done, 0, bytes - done);
			return (int)n;
		}
		done += (size_t)n;
	}
	close(fd);
	return 0;
}

int host_frames_left(struct host *h, const struct host_block *b, unsigned wait_ms, uint64_t *left,
		     uint64_t *stuck)
{
	uint64_t *f = calloc(b->frames, 8), *g = wait_ms ? calloc(b->frames, 8) : NULL;
	int err = f && (g || !wait_ms) ? read_flags(h, b, f) : -ENOMEM;

	*left = *stuck = 0;
	if (!err && wait_ms) {
		sleep_ms(wait_ms);
		err = read_flags(h, b, g);
	}
	for (uint64_t i = 0; !err && i < b->frames; i++) {
		*left += (f[i] & IN_USE) && !(f[i] & NOT_THERE);
		*stuck += g && (f[i] & g[i] & (BIT(KPF_LOCKED) | BIT(KPF_WRITEBACK)));
	}
	free(f);
	free(g);
	return err;
}

/* ---- One attempt ---- */

struct attempt {
	struct host *h;
	struct host_block *b;
	const struct host_act *a;
	struct host_outcome *out;
	const struct host_why *w; /* the newest look: out->before, or again */
	struct host_why again;
	uint64_t t0, deadline;
	struct host_suspend *suspend;
};

static bool interrupted(const struct attempt *t)
{
	return t->a->interrupt && *t->a->interrupt;
}

static void tell(struct attempt *t, const char *phase, uint64_t left)
{
	struct host_progress p = {.block = t->b,
				  .phase = phase,
				  .used = t->out->used,
				  .left = left,
				  .seconds = (double)(now_ns() - t->t0) / 1e9};

	if (t->a->tell)
		t->a->tell(t->a->arg, &p);
}

static void __attribute__((format(printf, 2, 3)))
say(struct host_outcome *out, const char *fmt, ...)
{
	size_t len = strlen(out->message);
	va_list ap;

	if (len && len + 3 < sizeof(out->message)) {
		strcpy(out->message + len, "; ");
		len += 2;
	}
	va_start(ap, fmt);
	vsnprintf(out->message + len, sizeof(out->message) - len, fmt, ap);
	va_end(ap);
}

/* What the first look has found stays in out->before: it is what was foreseen. */
static int look(struct attempt *t)
{
	struct host_why w;
	int err = host_why(t->h, t->b, &w);

	if (err)
		return err;
	if (!t->out->have_before) {
		t->out->before = w;
		t->out->have_before = true;
		t->w = &t->out->before;
		return 0;
	}
	if (t->w == &t->again)
		host_why_free(&t->again);
	t->again = w;
	t->w = &t->again;
	return 0;
}

/* Is there something in the way that may go away? */
static bool in_the_way(const struct attempt *t)
{
	switch (t->w->verdict) {
	case HOST_LOOPS:
	case HOST_EBUSY:
	case HOST_UNKILLABLE:
	case HOST_NO_TARGET: return true;
	default: return false;
	}
}

static void end_victims(struct attempt *t)
{
	for (unsigned i = 0; i < t->a->n_victims; i++) {
		struct host_victim *v = &t->a->victims[i];
		const struct host_holder *o = NULL;
		int err;

		for (unsigned k = 0; k < t->w->n_holders && !o; k++)
			if (t->w->holders[k].pid == v->pid)
				o = &t->w->holders[k];
		if (!o)
			continue; /* it holds nothing of this block */
		v->seen = true;
		if (v->start_ticks && v->start_ticks != o->start_ticks) {
			say(t->out, "%d is another process now, and is not ended", (int)v->pid);
			continue;
		}
		host_audit(t->h, "kill", t->b, "process %d (%s), which holds %llu pages",
			   (int)o->pid, o->comm, (unsigned long long)o->pages);
		err = host_end_process(t->h, o->pid, o->start_ticks, GRACE_MS);
		if (err)
			say(t->out, "%s", host_message(t->h));
		else
			t->out->ended++;
	}
	if (t->out->ended)
		look(t);
}

/*
 * Until nothing is in the way, or the deadline. Between two looks we sleep: until a holder ends, or a time
 * that grows, as most holders let go without ending.
 */
static void wait_for_holders(struct attempt *t)
{
	uint64_t begin = now_ns(), pause_ms = 100;

	while (in_the_way(t) && now_ns() < t->deadline && !interrupted(t)) {
		struct pollfd p[WAIT_FDS];
		unsigned n = 0, ms;
		uint64_t rest;

		for (unsigned i = 0; i < t->w->n_holders && n < WAIT_FDS; i++) {
			const struct host_holder *o = &t->w->holders[i];
			int fd;

			if (!o->blocks || o->pid <= 0)
				continue;
			fd = (int)syscall(SYS_pidfd_open, o->pid, 0);
			if (fd >= 0)
				p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
		tell(t, "waiting", 0);
		rest = t->deadline > now_ns() ? (t->deadline - now_ns()) / 1000000 : 0;
		ms = (unsigned)(rest < pause_ms ? rest + 1 : pause_ms);
		poll(p, n, (int)ms);
		while (n)
			close(p[--n].fd);
		pause_ms = pause_ms < 2000 ? pause_ms * 2 : 2000;
		if (look(t))
			break;
	}
	t->out->waited_s = (double)(now_ns() - begin) / 1e9;
}

/* Would stopping it help? A server that does not answer, and one whose pages are in a pipe or a socket until
 * somebody reads them, will not let go by being stopped; but neither does it hurt, except for a server. */
static bool worth_suspending(const struct host_holder *o)
{
	return o->pid > 0 && o->kind != HOST_KIND_FUSE && o->kind != HOST_KIND_KERNEL &&
	       (o->blocks || o->kind == HOST_KIND_DIRECT_IO);
}

static void suspend_holders(struct attempt *t)
{
	tell(t, "suspending", 0);
	for (unsigned i = 0; i < t->w->n_holders && !interrupted(t); i++) {
		const struct host_holder *o = &t->w->holders[i];
		enum host_how how;
		bool again = false;
		int err;

		for (unsigned k = 0; k < i; k++)
			again |= t->w->holders[k].pid == o->pid;
		if (again || !worth_suspending(o))
			continue;
		if (!host_may_suspend(o->pid)) {
			say(t->out, "%d (%s) is not suspended: this command runs below it",
			    (int)o->pid, o->comm);
			continue;
		}
		if (!t->suspend && !(t->suspend = host_suspend_start())) {
			say(t->out, "nobody is suspended: %s", strerror(errno));
			return;
		}
		err = host_suspend_add(t->suspend, o->pid, o->start_ticks, t->a->how, &how);
		if (!err || err == -EINPROGRESS) {
			t->out->suspended++;
			host_audit(t->h, "suspend", t->b, "process %d (%s) by %s", (int)o->pid,
				   o->comm, host_how_name(how));
		} else if (err != -ESRCH && err != -EALREADY) {
			say(t->out, "%d (%s) cannot be suspended: %s", (int)o->pid, o->comm,
			    strerror(-err));
		}
		if (err == -EPIPE) {
			host_suspend_end(t->suspend);
			t->suspend = NULL;
		}
	}
}

static void resume(struct attempt *t)
{
	if (!t->suspend)
		return;
	host_suspend_end(t->suspend);
	t->suspend = NULL;
	host_audit(t->h, "resume", t->b, "%u processes go on", t->out->suspended);
}

static enum host_result ended(struct attempt *t, int err, bool gave_up, enum host_state wanted)
{
	int bad = host_block_refresh(t->h, t->b);

	t->out->err = err;
	if (bad) {
		t->out->err = bad;
		return HOST_FAILED;
	}
	if (t->b->state == wanted) {
		t->out->err = 0;
		return HOST_DONE;
	}
	if (err == -EDEADLK)
		return HOST_STUCK;
	if (gave_up)
		return interrupted(t) ? HOST_INTERRUPTED : HOST_TIMEOUT;
	if (!err)
		return HOST_CAME_BACK;
	return err == -EBUSY ? HOST_KERNEL_EBUSY : HOST_FAILED;
}

/* Have word written, and watch until it is, or the deadline. */
static enum host_result write_state(struct attempt *t, const char *word, enum host_state wanted)
{
	struct host_writer w;
	uint64_t left, stuck;
	bool gave_up = false;
	int err = host_writer_start(t->h, t->b, word, &w);
	pid_t pid = w.pid;

	if (err) {
		t->out->err = err;
		say(t->out, "%s", host_message(t->h));
		return HOST_FAILED;
	}
	while (!host_writer_wait(&w, TELL_MS, &err)) {
		if (now_ns() >= t->deadline || interrupted(t)) {
			gave_up = true;
			if (!host_frames_left(t->h, t->b, 0, &left, &stuck))
				t->out->left = left;
			if (host_writer_stop(&w, &err))
				t->out->stuck_pid = pid;
			break;
		}
		if (wanted == HOST_OFFLINE && !host_frames_left(t->h, t->b, 0, &left, &stuck))
			tell(t, "leaving", left);
	}
	return ended(t, err, gave_up, wanted);
}

static void finish(struct attempt *t, enum host_result r)
{
	struct host_outcome *out = t->out;

	out->result = r;
	out->seconds = (double)(now_ns() - t->t0) / 1e9;
	if (r == HOST_FAILED && !out->message[0])
		say(out, "%s", out->err ? strerror(-out->err) : "it failed");
	if (r == HOST_STUCK)
		say(out,
		    "process %d sleeps uninterruptibly in the kernel and cannot be killed; until what it "
		    "waits for has come, other writers of memory blocks wait behind it",
		    (int)out->stuck_pid);
}

static void offline(struct attempt *t)
{
	struct host_outcome *out = t->out;
	uint64_t left, stuck = 0;
	enum host_result r;
	int err = host_block_refresh(t->h, t->b);

	if (!err && t->b->state == HOST_OFFLINE) {
		finish(t, HOST_ALREADY);
		return;
	}
	tell(t, "looking", 0);
	if (!err)
		err = look(t);
	if (err) {
		out->err = err;
		say(out, "%s", host_message(t->h));
		finish(t, HOST_FAILED);
		return;
	}
	if (!host_frames_left(t->h, t->b, STUCK_MS, &left, &stuck))
		out->used = left;
	t->deadline = now_ns() + t->a->timeout_ns;
	if (t->a->dry_run) {
		finish(t, in_the_way(t) || stuck ? HOST_WOULD_NOT : HOST_WOULD);
		return;
	}
	err = host_state_check(t->h, t->b);
	if (err) {
		out->err = err;
		say(out, "%s", host_message(t->h));
		finish(t, HOST_FAILED);
		return;
	}
	end_victims(t);
	if (t->a->wait)
		wait_for_holders(t);
	if (t->a->only_if_goes && in_the_way(t)) {
		finish(t, HOST_WOULD_NOT);
		return;
	}
	/* The kernel would fill what is free elsewhere before it finds that it is not enough, and whoever needs
	 * memory meanwhile meets the OOM killer. */
	if (t->w->verdict == HOST_NO_TARGET && !t->a->force) {
		finish(t, interrupted(t) ? HOST_INTERRUPTED : HOST_REFUSED);
		return;
	}
	if (t->a->suspend)
		suspend_holders(t);
	/* Once more, and as late as possible: what is locked now may be so for ever. */
	if (t->a->wait || t->suspend || out->ended || stuck)
		host_frames_left(t->h, t->b, STUCK_MS, &left, &stuck);
	if ((t->w->verdict == HOST_UNKILLABLE || stuck) && !t->a->force) {
		if (stuck && t->w->verdict != HOST_UNKILLABLE)
			say(out, "%llu pages are locked or under writeback",
			    (unsigned long long)stuck);
		resume(t);
		finish(t, interrupted(t) ? HOST_INTERRUPTED : HOST_REFUSED);
		return;
	}
	if (interrupted(t) || now_ns() >= t->deadline) {
		resume(t);
		finish(t, interrupted(t) ? HOST_INTERRUPTED : HOST_TIMEOUT);
	} else {
		host_audit(t->h, "offline", t->b, "begins, expected: %s",
			   host_verdict_name(t->w->verdict));
		r = write_state(t, "offline", HOST_OFFLINE);
		resume(t);
		finish(t, r);
		host_audit(t->h, "offline", t->b, "%s after %.2f s", host_result_name(r),
			   out->seconds);
	}
	if (out->result != HOST_DONE && out->result != HOST_STUCK)
		out->have_after = !host_why(t->h, t->b, &out->after);
}

void host_block_offline(struct host *h, struct host_block *b, const struct host_act *a,
			struct host_outcome *out)
{
	struct attempt t = {.h = h, .b = b, .a = a, .out = out, .t0 = now_ns()};

	memset(out, 0, sizeof(*out));
	offline(&t);
	if (t.w == &t.again)
		host_why_free(&t.again);
}

void host_block_online(struct host *h, struct host_block *b, const char *word, uint64_t timeout_ns,
		       struct host_outcome *out)
{
	struct host_act a = {.timeout_ns = timeout_ns};
	struct attempt t = {.h = h, .b = b, .a = &a, .out = out, .t0 = now_ns()};
	enum host_result r;
	int err;

	memset(out, 0, sizeof(*out));
	t.deadline = t.t0 + timeout_ns;
	err = host_block_refresh(h, b);
	if (!err && b->state == HOST_ONLINE) {
		finish(&t, HOST_ALREADY);
		return;
	}
	if (!err)
		err = host_state_check(h, b);
	if (err) {
		out->err = err;
		say(out, "%s", host_message(h));
		finish(&t, HOST_FAILED);
		return;
	}
	host_audit(h, "online", b, "begins: %s", word);
	r = write_state(&t, word, HOST_ONLINE);
	finish(&t, r);
	host_audit(h, "online", b, "%s after %.2f s", host_result_name(r), out->seconds);
}

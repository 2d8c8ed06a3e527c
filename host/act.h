/* SPDX-License-Identifier: MIT */
/*
 * The acting half of the host verbs: blocks go offline and come back, holders are suspended or ended.
 *
 * The rules that everything here keeps:
 *
 * - The kernel's offline does not give up by itself, it ends by a signal. So `state` is only ever written
 *   by a child (state.c) that is killed at the deadline, and that dies with us.
 * - What cannot be ended by a signal is not begun: offline waits uninterruptibly for a page that is locked
 *   or under writeback, so such a block is refused unless somebody forces it.
 * - Who is suspended goes on in every case: see suspend.h.
 * - Only `state` of a memory block is written, and only where it is what it should be: on sysfs on the
 *   running machine, anywhere but on sysfs below another root.
 * - Everything that is done to the machine is in the log, before and after: audit.c.
 */
#ifndef HOST_ACT_H
#define HOST_ACT_H

#include "host/host.h"

/* ---- state.c: writing `state` ---- */

struct host_writer {
	pid_t pid;
	int fd; /* its answer: an int, 0 or a negative errno value */
};

/* Begin to write word into the block's `state`, in a child that is killed when this thread ends. 0 or
 * -errno (host_message()). */
int host_writer_start(struct host *h, const struct host_block *b, const char *word,
		      struct host_writer *w);
/* Wait for its end, at most so long. 1: it has ended, *err is its answer, -EINTR if it was killed. 0: not
 * yet. */
int host_writer_wait(struct host_writer *w, unsigned timeout_ms, int *err);
/* Kill it. *err as above. 0, or -EDEADLK: it sleeps uninterruptibly, and is left behind. */
int host_writer_stop(struct host_writer *w, int *err);
/* May this `state` be written? 0, -EACCES, or -EPERM where it is not what it should be, with a message. */
int host_state_check(struct host *h, const struct host_block *b);

/* ---- act.c: one block ---- */

enum host_how { /* to suspend */
		HOST_HOW_AUTO,
		HOST_HOW_TRACE,
		HOST_HOW_FREEZER,
		HOST_HOW_STOP,
};

struct host_victim {
	pid_t pid;
	uint64_t start_ticks; /* 0: whoever has this pid now and holds a page of the block */
	bool seen;            /* set: it was among the holders of a block */
};

struct host_progress {
	const struct host_block *block;
	const char *phase;   /* "looking", "waiting", "suspending", "leaving" */
	uint64_t used, left; /* frames that had to leave, and have to yet; 0 while not known */
	double seconds;
};

struct host_act {
	uint64_t timeout_ns; /* for one block, from the end of the first look at it */
	bool wait;           /* for the holders, before the kernel is asked */
	bool suspend;
	bool force; /* also where it would become unkillable, or there is no memory to move to */
	bool dry_run;
	bool only_if_goes; /* begin only where nothing stands in the way, else HOST_WOULD_NOT */
	enum host_how how;
	struct host_victim *victims;
	unsigned n_victims;
	void (*tell)(void *arg, const struct host_progress *p);
	void *arg;
	const volatile int *interrupt; /* nonzero: give up */
};

/* How it ended. The words of host_result_name() are stable. */
enum host_result {
	HOST_DONE,      /* it is offline (online), and was not before */
	HOST_ALREADY,   /* it was so before */
	HOST_WOULD,     /* dry run: it would go */
	HOST_WOULD_NOT, /* dry run: it would not, see the verdict */
	HOST_REFUSED,   /* not begun: it would become unkillable, or take memory that others need */
	HOST_TIMEOUT,   /* the deadline has passed; it is online as before */
	HOST_INTERRUPTED,  /* somebody pressed Ctrl-C; the same */
	HOST_KERNEL_EBUSY, /* the kernel has refused it at once: something unmovable, or reserved */
	HOST_STUCK,        /* the writer cannot be killed: `state` is neither */
	HOST_CAME_BACK,    /* it was offline, and something has brought it online again */
	HOST_FAILED,       /* an error: err, and host_message() */
	HOST_RESULTS,
};

struct host_outcome {
	enum host_result result;
	int err;
	double seconds, waited_s;
	uint64_t used; /* frames that had to leave */
	uint64_t left; /* that were left when it was given up */
	pid_t stuck_pid;
	unsigned suspended, ended; /* processes */
	bool have_before, have_after;
	struct host_why before; /* what was foreseen, and for whom */
	struct host_why after;  /* who held it at the end; not where it has left */
	char message[512];
};

/* Take a block away. Blocks until it has left, or the deadline. The answer is in out, which is filled in
 * every case and freed by host_outcome_free(). */
void host_block_offline(struct host *h, struct host_block *b, const struct host_act *a,
			struct host_outcome *out);
/* Bring one back. word: "online", "online_movable" or "online_kernel". */
void host_block_online(struct host *h, struct host_block *b, const char *word, uint64_t timeout_ns,
		       struct host_outcome *out);
void host_outcome_free(struct host_outcome *out);
const char *host_result_name(enum host_result r);

/* Frames of the block that must leave, and those that are locked or under writeback in both of two looks
 * wait_ms apart. 0, or -errno where /proc/kpageflags cannot be read. */
int host_frames_left(struct host *h, const struct host_block *b, unsigned wait_ms, uint64_t *left,
		     uint64_t *stuck);

/* ---- pick.c: which blocks ---- */

/* Online blocks of a node (-1: of all) that could be taken away, the cheapest first: what is in the movable
 * zone before what is not, what nobody holds before what somebody does, and then by what must be copied.
 * Blocks with something unmovable are left out. Answers how many; the caller frees *ids. */
int host_pick(struct host *h, int node, uint32_t **ids);

/* ---- device.c: blocks of a device, and what brings them back ---- */

/* "node1", "dax0.0", "virtio0": its blocks, ascending. Answers how many, or -ENOENT, -EINVAL with a
 * message. The caller frees *ids. */
int host_device_blocks(struct host *h, const char *name, uint32_t **ids);
/* What an administrator must know of a block that a driver owns: one sentence and a command; NULL: none. */
const char *host_device_advice(const struct host_block *b, char *buf, size_t size);
/* What may bring offline blocks back by itself: the policy of the kernel, rules of udev. Calls say for
 * each, a sentence; answers how many. */
int host_comebacks(struct host *h, void (*say)(void *arg, const char *text), void *arg);

/* ---- audit.c ---- */

/* A line for the administrator's log: to journald with fields, else to syslog, else to the kernel's log.
 * Answers 0, or a negative errno value where nobody takes it. */
int host_audit(struct host *h, const char *action, const struct host_block *b, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* ---- kill.c ---- */

/* End a process that must still be this one: SIGTERM, and SIGKILL after grace_ms. 0: it has gone; -ESRCH: it
 * had gone before, or pid is another process now; -EPERM; -ETIMEDOUT: it does not die. */
int host_end_process(struct host *h, pid_t pid, uint64_t start_ticks, unsigned grace_ms);
/* Field 22 of /proc/PID/stat on this machine; 0: there is no such process. */
uint64_t host_start_ticks(pid_t pid);

#endif

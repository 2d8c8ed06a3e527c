/* SPDX-License-Identifier: MIT */
/*
 * Suspending processes, so that they go on in every case.
 *
 * A child of ours, the guardian, does it and undoes it: when it is told, and when it sees us gone, however
 * we went. Three ways, in this order unless one is asked for:
 *
 * - trace: the guardian attaches as a tracer (PTRACE_SEIZE) and interrupts every thread. The kernel lets the
 *   threads go on when the tracer ends, so not even a SIGKILL of us and the guardian together leaves anybody
 *   behind; and parents and job control notice nothing. Not possible where somebody else traces the
 *   process already, or Yama forbids it altogether.
 * - freezer: cgroup.freeze of the process's cgroup (v2), if that is its own: nothing of ours, no other
 *   holder's parent, not the root. It stops what the process would fork, too. Files stay frozen when their
 *   writer dies, hence the guardian and the record.
 * - stop: SIGSTOP, and SIGCONT afterwards. Whoever was stopped before stays so.
 *
 * What the last two did is recorded in /run/vacate/suspended-PID until it is undone; if the guardian was
 * killed together with us, host_suspend_recover() reads it, and every `vacate offline host` begins with that.
 */
#ifndef HOST_SUSPEND_H
#define HOST_SUSPEND_H

#include "host/act.h"

struct host_suspend;

/* Start the guardian. NULL: out of processes or memory. */
struct host_suspend *host_suspend_start(void);
/* Suspend a process that must still be this one. 0, or -errno: -ESRCH it is another one now, -EPERM, -EALREADY
 * where it is stopped by somebody else, -EPIPE if the guardian is gone (all is undone then). *used says how.
 * -EINPROGRESS: it will stop as soon as it returns from the kernel. */
int host_suspend_add(struct host_suspend *s, pid_t pid, uint64_t start_ticks, enum host_how how,
		     enum host_how *used);
/* All go on, and the guardian ends. */
void host_suspend_end(struct host_suspend *s);
/* Undo what is recorded of guardians that are gone. Answers how many processes and cgroups go on again. */
int host_suspend_recover(void);
/* May it be suspended at all? Not: the kernel's, the first process, ourselves and our ancestors. */
bool host_may_suspend(pid_t pid);
const char *host_how_name(enum host_how how);

#endif

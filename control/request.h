/* SPDX-License-Identifier: MIT */
/* Requests and their answers, without the socket. See request.c. */
#ifndef VAC_CONTROL_REQUEST_H
#define VAC_CONTROL_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "control/proto.h"

/* What is kept of a client between two of its requests. */
struct vac__ctl_session {
	struct vac_report *report;
};

/* An operation that may take long: done by a thread of its own, or by whoever calls work_run(). */
struct vac__ctl_work {
	struct vac_pool *pool;
	struct vac__ctl_packet req; /* checked */
	int fd;                     /* that came along, or -1 */
	_Atomic uint32_t cancel;
	struct vac__ctl_packet answer;
	struct vac_report *report; /* that belongs to the answer */
	/* Called from vac_block_offline(), so with engine locks held: it must not wait. May be NULL. */
	void (*tell)(struct vac__ctl_work *w, const struct vac__ctl_progress *p);
	void *ctx;
};

enum vac__ctl_next {
	VAC__CTL_ANSWER,  /* *out is to be sent */
	VAC__CTL_WORK,    /* *work is to be run, and its answer sent */
	VAC__CTL_SILENCE, /* nothing is to be done */
	VAC__CTL_HANG_UP, /* *out is to be sent, and then the client hung up on */
};

/*
 * Look at a request of `bytes` bytes, with a descriptor or -1 (taken over: *fd is then -1), of a client
 * that has no work under way. works: how many are, of all clients.
 */
enum vac__ctl_next vac__ctl_request(struct vac_pool *pool, struct vac__ctl_session *s,
				    const void *req, size_t bytes, int *fd, uint32_t works,
				    struct vac__ctl_work *work, struct vac__ctl_packet *out);

/* Do it, and fill in its answer and report. */
void vac__ctl_work_run(struct vac__ctl_work *w);
void vac__ctl_work_cancel(struct vac__ctl_work *w);

extern _Atomic unsigned vac__ctl_idle_ms, vac__ctl_slow_ms; /* tests shorten them */

/* An answer without a body. */
void vac__ctl_answer(struct vac__ctl_packet *out, unsigned op, int status, size_t body);

#endif /* VAC_CONTROL_REQUEST_H */

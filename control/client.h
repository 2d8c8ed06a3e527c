/* SPDX-License-Identifier: MIT */
/* The client's side of the control socket. See client.c. */
#ifndef VAC_CONTROL_CLIENT_H
#define VAC_CONTROL_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "control/proto.h"

struct ctl_client {
	int fd;
	pid_t pid;                 /* who listens there, 0: in a PID namespace that we do not see */
	struct vac__ctl_packet in; /* the last answer */
};

/* Connect to the socket `name` in the directory dirfd. 0 or a negative errno value, see path.h. */
int ctl_connect_at(struct ctl_client *c, int dirfd, const char *name);
/* Connect to the socket at a path; its directory must be one user's alone, and that user root, we or,
 * if we are root, anybody. */
int ctl_connect(struct ctl_client *c, const char *path);
void ctl_disconnect(struct ctl_client *c);

/*
 * Ask, and wait for the answer at most timeout_ms (below 0: for ever). The answer is in c->in, of
 * `want` bytes of body at least. 0, or a negative errno value: the answer's own status, -EPROTO (it is
 * not an answer), -ECONNRESET (the program has hung up or ended), -ETIMEDOUT. fd: a descriptor that
 * goes along, or -1.
 *
 * tell: called for each progress packet (may be NULL). interrupt: once *interrupt is not 0 the program
 * is asked to give up, and once it is above 1 we do not wait any longer: -EINTR. May be NULL.
 */
struct ctl_call {
	unsigned op;
	const void *body;
	size_t body_bytes, want;
	int fd;
	int timeout_ms;
	void (*tell)(void *ctx, const struct vac__ctl_progress *p);
	void *tell_ctx;
	const volatile int *interrupt;
};
int ctl_call(struct ctl_client *c, const struct ctl_call *q);
/* The most common: two numbers, ten seconds. */
int ctl_two(struct ctl_client *c, unsigned op, uint32_t a, uint32_t b, size_t want);

#endif /* VAC_CONTROL_CLIENT_H */

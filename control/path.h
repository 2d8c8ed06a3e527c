/* SPDX-License-Identifier: MIT */
/* Where control sockets are, and how to get at one without following anybody's link. See path.c. */
#ifndef VAC_CONTROL_PATH_H
#define VAC_CONTROL_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define VAC__CTL_PATH_MAX 1024
#define VAC__CTL_SUFFIX ".sock"

/*
 * Open the directory dir, absolute or relative, following no link in any of its parts, and see that
 * it belongs to owner and that nobody else may do anything in it. create: make its last part, 0700,
 * where it is missing. A descriptor, or -ELOOP (a part is a link), -EACCES (it is another's, or open to
 * others), -ENOENT, -ENOTDIR, ... owner (uid_t)-1: whoever's it is, but his alone.
 */
int vac__ctl_dir_open(const char *dir, uid_t owner, bool create);

/* The k-th of the directories where a program of this user puts its sockets by default, the first
 * that can be had; false: there are no more. environment: look at $XDG_RUNTIME_DIR too. */
bool vac__ctl_dir_default(unsigned k, uid_t uid, bool environment, char *buf, size_t bytes);

/* Connect to the socket `name` in a directory so opened: to that very file, if it is a socket of the
 * directory's owner and so is who listens there. A descriptor, or -ECONNREFUSED (nobody listens: it
 * is stale), -ENOTSOCK, -ELOOP, -EACCES, -ETIMEDOUT, ... */
int vac__ctl_connect_at(int dirfd, const char *name, pid_t *pid);

#endif /* VAC_CONTROL_PATH_H */

/* SPDX-License-Identifier: MIT */
/*
 * Where control sockets are, and how to get at one without following anybody's link.
 *
 * A socket is trusted because of the directory that it is in: real, of the user, open to nobody else.
 * So the directory is opened part by part with O_NOFOLLOW, looked at through its descriptor, and from
 * then on named by that descriptor only: neither a rename nor a link elsewhere in the path can make
 * us look at another one. Inside it only its owner (and root) can have put anything.
 */
#include "control/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECT_S 5

/* One part of a path. O_PATH needs no right to read what we only pass through. */
static int open_part(int at, const char *part, bool last)
{
	int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | (last ? O_RDONLY : O_PATH);
	int fd = openat(at, part, flags);
	struct stat st;

	if (fd >= 0)
		return fd;
	if (errno == ENOTDIR && !fstatat(at, part, &st, AT_SYMLINK_NOFOLLOW) && S_ISLNK(st.st_mode))
		return -ELOOP;
	return -errno;
}

int vac__ctl_dir_open(const char *dir, uid_t owner, bool create)
{
	char copy[VAC__CTL_PATH_MAX], *rest = copy, *part;
	struct stat st;
	int fd, r;

	if (!*dir)
		return -ENOENT;
	if (strlen(dir) >= sizeof(copy))
		return -ENAMETOOLONG;
	memcpy(copy, dir, strlen(dir) + 1);
	fd = open(*dir == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (rest) {
		bool last;

		part = strsep(&rest, "/");
		last = !rest || rest[strspn(rest, "/")] == '\0';
		if (!*part && !last)
			continue;
		if (!*part)
			part = (char *)"."; /* "/" itself, or "" after the last slash */
		if (last && create && mkdirat(fd, part, 0700) && errno != EEXIST) {
			r = -errno;
			close(fd);
			return r;
		}
		r = open_part(fd, part, last);
		close(fd);
		if (r < 0)
			return r;
		fd = r;
		if (last)
			break;
	}
	if (fstat(fd, &st) || !S_ISDIR(st.st_mode) || (owner != (uid_t)-1 && st.st_uid != owner) ||
	    (st.st_mode & 077)) {
		close(fd);
		return -EACCES;
	}
	return fd;
}

/* Is dir a directory of uid? Its own links, if any, are seen when the socket's directory is opened. */
static bool is_of(const char *dir, uid_t uid)
{
	struct stat st;

	return !lstat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == uid;
}

bool vac__ctl_dir_default(unsigned k, uid_t uid, bool environment, char *buf, size_t bytes)
{
	const char *xdg = environment ? secure_getenv("XDG_RUNTIME_DIR") : NULL;
	char run[64];

	snprintf(run, sizeof(run), "/run/user/%u", (unsigned)uid);
	/* One that is another user's, as after su, is not for us. */
	if (xdg && (*xdg != '/' || strlen(xdg) + sizeof("/vacate") > bytes || !is_of(xdg, uid) ||
		    !strcmp(xdg, run)))
		xdg = NULL;
	if (xdg && k-- == 0) {
		snprintf(buf, bytes, "%s/vacate", xdg);
		return true;
	}
	if (is_of(run, uid) && k-- == 0) {
		snprintf(buf, bytes, "%s/vacate", run);
		return true;
	}
	if (k == 0) {
		snprintf(buf, bytes, "/tmp/vacate-%u", (unsigned)uid);
		return true;
	}
	return false;
}

int vac__ctl_connect_at(int dirfd, const char *name, pid_t *pid)
{
	struct timeval tv = {CONNECT_S, 0};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(struct ucred);
	struct stat st, dir;
	struct ucred who;
	int file, fd = -1, r;

	if (strchr(name, '/'))
		return -EINVAL;
	/* The very file: the descriptor's name under /proc leads to it and nowhere else. */
	file = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (file < 0)
		return -errno;
	r = -EACCES;
	if (fstat(file, &st) || fstat(dirfd, &dir))
		goto out;
	r = S_ISLNK(st.st_mode) ? -ELOOP : -ENOTSOCK;
	if (!S_ISSOCK(st.st_mode))
		goto out;
	r = -EACCES;
	if (st.st_uid != dir.st_uid)
		goto out;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		r = -errno;
		goto out;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d", file);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		r = errno == EAGAIN ? -ETIMEDOUT : -errno;
		goto out;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) || who.uid != st.st_uid)
		goto out;
	if (pid)
		*pid = who.pid;
	r = fd;
	fd = -1;
out:
	if (fd >= 0)
		close(fd);
	close(file);
	return r;
}

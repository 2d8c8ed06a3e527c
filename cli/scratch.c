/* SPDX-License-Identifier: MIT */
/* Files and directories for workloads. See scratch.h. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "workload.h"

#define PLACES 5

static const char *place(const struct wl_run *run, unsigned k)
{
	switch (k) {
	case 0: return run->scratch_dir;
	case 1: return getenv("TMPDIR");
	case 2: return "/var/tmp";
	case 3: return "/tmp";
	default: return ".";
	}
}

/* O_DIRECT may be taken at open() and refused at the first transfer. */
static bool takes_direct(int fd)
{
	void *page;
	bool ok;

	if (posix_memalign(&page, VAC_PAGE_BYTES, VAC_PAGE_BYTES))
		return false;
	ok = pread(fd, page, VAC_PAGE_BYTES, 0) == 0;
	free(page);
	return ok;
}

static int one_file(const char *dir, const char *stem, bool direct)
{
	char path[512];
	int fd, again;

	if (snprintf(path, sizeof(path), "%s/vacate-%s-XXXXXX", dir, stem) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	again = direct ? open(path, O_RDWR | O_DIRECT | O_NOFOLLOW | O_CLOEXEC) : -1;
	unlink(path);
	if (!direct)
		return fd;
	close(fd);
	if (again >= 0 && takes_direct(again))
		return again;
	if (again >= 0)
		close(again);
	return -EINVAL;
}

int scratch_file(const struct wl_run *run, const char *stem, bool *direct)
{
	int err = -ENOENT;

	for (int want = 1; want >= 0; want--) {
		for (unsigned k = 0; k < PLACES; k++) {
			int fd = place(run, k) ? one_file(place(run, k), stem, want) : -ENOENT;

			if (fd >= 0) {
				if (direct)
					*direct = want;
				return fd;
			}
			if (fd != -ENOENT)
				err = fd;
		}
	}
	return err;
}

int scratch_dir(const struct wl_run *run, const char *stem, char *path, size_t len)
{
	int err = -ENOENT;

	for (unsigned k = 0; k < PLACES; k++) {
		int fd;

		if (!place(run, k) ||
		    snprintf(path, len, "%s/vacate-%s-XXXXXX", place(run, k), stem) >= (int)len)
			continue;
		if (!mkdtemp(path)) {
			err = -errno;
			continue;
		}
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		err = -errno;
		rmdir(path);
	}
	return err;
}

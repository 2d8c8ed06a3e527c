/* SPDX-License-Identifier: MIT */
/*
 * Real files in pool memory: found, loaded by direct reads into pinned pages, summed page by page,
 * and in the end compared with the disk byte for byte.
 */
#ifndef CLI_FILES_H
#define CLI_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "workload.h"

struct file {
	char *path;
	uint64_t bytes;
	uint64_t first_page; /* in file_set.pages; each file begins on a page of its own */
	dev_t dev;           /* as it was when it was loaded */
	ino_t ino;
	struct timespec mtime;
	bool buffered; /* O_DIRECT was refused */
	bool failed;   /* could not be loaded, see files_load() */
	bool changed;  /* is no longer on the disk as it was loaded */
	bool differs;  /* pool memory is not what is on the disk */
};

struct file_set {
	struct file *file;
	uint64_t files, room; /* entries used, allocated */
	uint64_t bytes;       /* of the files' contents */
	uint64_t not_fitting, unreadable, failed, buffered, changed, differing;
	uint64_t compared_bytes;
	struct wl_pages pages; /* where they are; also those of files that failed (zeroes) */
	const char *backend;   /* how direct reads were made */
	double load_bytes_per_s;
};

/*
 * Collect regular readable files below the paths, in the order of the paths and then of names, each
 * of at least min_bytes (and at least one), until they fill max_bytes of pages. Filesystems other
 * than that of a path are not entered. A path that cannot be read is an error. 0 or a negative
 * errno value, with a message printed.
 */
int files_collect(struct file_set *fs, char *const *paths, unsigned n, uint64_t min_bytes,
		  uint64_t max_bytes);

/*
 * Map pages, read all files into them, sum them, make them read-only. A file that cannot be read
 * is left out, with a message. 0 or a negative errno value, with a message printed. What was
 * mapped is undone by files_free() in any case.
 */
int files_load(struct file_set *fs, struct wl_run *run);

/*
 * Read all files again and compare with the pool. A difference is a wl_fault(). Files that have
 * changed on the disk (size, time, inode) since they were loaded are counted and named; the sums of
 * their pages must still hold, which the sweep of `verify` checks. No worker may run.
 */
int files_compare(struct file_set *fs, struct wl_run *run);

void files_free(struct file_set *fs, struct wl_run *run);

#endif

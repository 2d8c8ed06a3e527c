/* SPDX-License-Identifier: MIT */
/* Files and directories for workloads that need real ones, gone when the run is. */
#ifndef CLI_SCRATCH_H
#define CLI_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

struct wl_run;

/*
 * An empty file without a name, open for reading and writing: in run->scratch_dir, $TMPDIR, /var/tmp, /tmp or
 * here. The first place that takes O_DIRECT, else the first that takes a file at all; *direct (may be NULL)
 * says which. A descriptor, or a negative errno value.
 */
int scratch_file(const struct wl_run *run, const char *stem, bool *direct);

/*
 * A directory of our own, whose path is put into path; the same places. The caller removes it. A descriptor of
 * it, or a negative errno value.
 */
int scratch_dir(const struct wl_run *run, const char *stem, char *path, size_t len);

#endif

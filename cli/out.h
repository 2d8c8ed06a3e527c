/* SPDX-License-Identifier: MIT */
/*
 * Output: data on stdout (tables or JSON), messages and progress on stderr.
 *
 * Messages may come from any thread; a lock keeps lines whole. A progress line exists on a
 * terminal only, is rewritten in place, and is erased before anything else is printed, so that a
 * log file never sees one.
 */
#ifndef CLI_OUT_H
#define CLI_OUT_H

#include <jansson.h>
#include <stddef.h>

/* Prefix of out_error() from here on: "vacate demo". The string is not copied. */
void out_set_prefix(const char *prefix);

/* A line on stderr as it is. */
void out_msg(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A line on stderr that begins with the prefix. */
void out_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Rewrite the progress line, cut at the width of the terminal. Nothing without a terminal. */
void out_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same with a bar in front; done from 0 to 1. */
void out_bar(double done, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Erase it. */
void out_progress_end(void);

/* Print obj on stdout and drop the caller's reference. 0, -ENOMEM (obj NULL), -EIO. */
int out_json(json_t *obj);

/* Close stdout. A write that failed, now or before, is reported on stderr: -errno. EPIPE is not
 * an error: the reader has seen enough. */
int out_close(void);

struct out_column {
	const char *name;
	int right; /* numbers: aligned to the right */
};

struct out_table;

/* NULL: out of memory. */
struct out_table *out_table_new(const struct out_column *cols, unsigned n);
/* Add a row; the cells follow by out_table_cell() in the order of the columns. */
void out_table_row(struct out_table *tb);
void out_table_cell(struct out_table *tb, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Print on stdout and free. 0, or a negative errno value if any step ran out of memory. */
int out_table_print(struct out_table *tb);

#endif

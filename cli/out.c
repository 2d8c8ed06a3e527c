/* SPDX-License-Identifier: MIT */
/* Output: data on stdout, messages and progress on stderr. See out.h. */
#include "out.h"

#include <errno.h>
#include <libsmartcols.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512
#define BAR_CELLS 20

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *prefix = "vacate"; /* set before threads start */
/* Guarded by lock. */
static bool line_shown;           /* a progress line stands on the terminal */
static struct timespec line_time; /* since when */

void out_set_prefix(const char *p)
{
	prefix = p;
}

/* Call with lock held. */
static void erase_line(void)
{
	if (line_shown)
		fputs("\r\033[K", stderr);
	line_shown = false;
}

static void message(const char *head, const char *fmt, va_list ap)
{
	pthread_mutex_lock(&lock);
	erase_line();
	if (head)
		fprintf(stderr, "%s: ", head);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	fflush(stderr);
	pthread_mutex_unlock(&lock);
}

void out_msg(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(NULL, fmt, ap);
	va_end(ap);
}

void out_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(prefix, fmt, ap);
	va_end(ap);
}

/* Columns of the terminal on stderr; 0 if it is none. */
static unsigned terminal_width(void)
{
	struct winsize ws;

	if (!isatty(STDERR_FILENO))
		return 0;
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) || !ws.ws_col)
		return 80;
	return ws.ws_col;
}

/* More than twenty lines a second only cost time. Call with lock held. */
static bool too_soon(void)
{
	struct timespec now;
	long ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = (now.tv_sec - line_time.tv_sec) * 1000 + (now.tv_nsec - line_time.tv_nsec) / 1000000;
	if (line_shown && ms < 50)
		return true;
	line_time = now;
	return false;
}

static void show_line(const char *head, const char *fmt, va_list ap)
{
	char line[LINE_MAX_BYTES];
	unsigned width = terminal_width();
	int n;

	if (!width)
		return;
	n = snprintf(line, sizeof(line), "%s", head);
	vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
	pthread_mutex_lock(&lock);
	if (!too_soon()) {
		/* One column less: a line that fills the last one wraps on some terminals. */
		fprintf(stderr, "\r\033[K%.*s", (int)width - 1, line);
		fflush(stderr);
		line_shown = true;
	}
	pthread_mutex_unlock(&lock);
}

void out_progress(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	show_line("", fmt, ap);
	va_end(ap);
}

void out_bar(double done, const char *fmt, ...)
{
	char bar[BAR_CELLS + 4];
	va_list ap;
	int full;

	if (done < 0)
		done = 0;
	if (done > 1)
		done = 1;
	full = (int)(done * BAR_CELLS);
	bar[0] = '[';
	for (int i = 0; i < BAR_CELLS; i++)
		bar[1 + i] = i < full ? '=' : ' ';
	memcpy(bar + 1 + BAR_CELLS, "] ", 3);
	va_start(ap, fmt);
	show_line(bar, fmt, ap);
	va_end(ap);
}

void out_progress_end(void)
{
	pthread_mutex_lock(&lock);
	erase_line();
	fflush(stderr);
	pthread_mutex_unlock(&lock);
}

int out_json(json_t *obj)
{
	int err = 0;

	if (!obj)
		return -ENOMEM;
	out_progress_end();
	if (json_dumpf(obj, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) ||
	    putchar('\n') == EOF)
		err = -EIO;
	json_decref(obj);
	return err;
}

int out_close(void)
{
	int failed = ferror(stdout);
	int err = 0;

	errno = 0;
	if (fflush(stdout) || fclose(stdout))
		err = errno ? errno : EIO;
	else if (failed)
		err = EIO; /* an earlier write failed; its errno is gone */
	if (!err || err == EPIPE)
		return 0;
	out_error("cannot write to standard output: %s", strerror(err));
	return -err;
}

struct out_table {
	struct libscols_table *tb;
	struct libscols_line *line;
	unsigned next;
	int err;
};

struct out_table *out_table_new(const struct out_column *cols, unsigned n)
{
	struct out_table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	scols_init_debug(0);
	t->tb = scols_new_table();
	if (!t->tb)
		goto fail;
	for (unsigned i = 0; i < n; i++) {
		if (!scols_table_new_column(t->tb, cols[i].name, 0,
					    cols[i].right ? SCOLS_FL_RIGHT : 0))
			goto fail;
	}
	return t;
fail:
	scols_unref_table(t->tb);
	free(t);
	return NULL;
}

void out_table_row(struct out_table *t)
{
	if (!t)
		return;
	t->next = 0;
	t->line = scols_table_new_line(t->tb, NULL);
	if (!t->line)
		t->err = -ENOMEM;
}

void out_table_cell(struct out_table *t, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	if (!t || !t->line)
		return;
	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	/* The line owns the string from here on. */
	if (n < 0 || scols_line_refer_data(t->line, t->next++, text))
		t->err = -ENOMEM;
}

int out_table_print(struct out_table *t)
{
	int err;

	if (!t)
		return -ENOMEM;
	out_progress_end();
	err = t->err;
	if (!err)
		err = scols_print_table(t->tb);
	scols_unref_table(t->tb);
	free(t);
	return err;
}

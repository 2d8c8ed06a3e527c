/* SPDX-License-Identifier: MIT */
/*
 * Reading of option arguments: sizes, times, numbers, and the errors about them.
 *
 * Every error names what was given and says what would have been accepted. Each opt_* reader that
 * takes a name prints that error itself and answers -1, so that a verb only has to return
 * CMD_USAGE.
 */
#ifndef CLI_OPT_H
#define CLI_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which verb speaks: "stress" makes messages begin with "vacate stress: ". */
struct opt_ctx {
	const char *verb;
};

/* Print "vacate VERB: ..." and the hint at --help on stderr. Always answers CMD_USAGE. */
int opt_error(const struct opt_ctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Explain the answer '?' or ':' of getopt_long(), called with a short option string that begins
 * with "+:" or ":" and opterr zero. Always answers CMD_USAGE.
 */
int opt_bad(const struct opt_ctx *c, int answer, char **argv);

/* "4096", "64K", "64KiB", "1G", "1.5G": bytes, binary multiples. 0, or -EINVAL, -ERANGE. */
int opt_parse_size(const char *text, uint64_t *bytes);
/* "10", "2.5s", "30m", "1h", "500ms": nanoseconds. 0, or -EINVAL, -ERANGE. */
int opt_parse_time(const char *text, uint64_t *ns);

/* The same with bounds (inclusive) and a message. 0 or -1. */
int opt_size(const struct opt_ctx *c, const char *name, const char *text, uint64_t min,
	     uint64_t max, uint64_t *bytes);
int opt_time(const struct opt_ctx *c, const char *name, const char *text, uint64_t min_ns,
	     uint64_t max_ns, uint64_t *ns);
int opt_number(const struct opt_ctx *c, const char *name, const char *text, uint64_t min,
	       uint64_t max, uint64_t *value);
int opt_real(const struct opt_ctx *c, const char *name, const char *text, double min, double max,
	     double *value);

/* A size as people write it: "128 MiB", "1.5 GiB". Answers buf. */
const char *size_text(uint64_t bytes, char *buf, size_t len);

#define SIZE_TEXT_MAX 24

#endif

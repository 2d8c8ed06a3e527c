/* SPDX-License-Identifier: MIT */
/* Reading of option arguments. See opt.h. */
#include "opt.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cmd.h"

int opt_error(const struct opt_ctx *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "vacate %s: ", c->verb);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry 'vacate %s --help'.\n", c->verb);
	return CMD_USAGE;
}

int opt_bad(const struct opt_ctx *c, int answer, char **argv)
{
	/* getopt has stepped past the culprit; for a cluster of short options ("-xy") it may not
	 * have, and optopt then holds the letter. */
	const char *arg = argv[optind - 1];

	if (answer == ':')
		return opt_error(c, "option '%s' needs a value", arg);
	if (optopt && !strncmp(arg, "--", 2))
		return opt_error(c, "option '%s' takes no value", arg);
	if (optopt)
		return opt_error(c, "there is no option '-%c'", optopt);
	return opt_error(c, "there is no option '%s', or it is short for more than one", arg);
}

struct unit {
	const char *name;
	double factor;
};

static const struct unit size_units[] = {
	{"", 1},
	{"B", 1},
	{"K", 1024},
	{"KB", 1024},
	{"KiB", 1024},
	{"M", 1048576},
	{"MB", 1048576},
	{"MiB", 1048576},
	{"G", 1073741824},
	{"GB", 1073741824},
	{"GiB", 1073741824},
	{"T", 1099511627776},
	{"TB", 1099511627776},
	{"TiB", 1099511627776},
};

static const struct unit time_units[] = {
	{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"m", 60e9}, {"min", 60e9}, {"h", 3600e9},
};

static int parse_scaled(const char *text, const struct unit *units, size_t n, uint64_t *value)
{
	char *end;
	double v;

	/* strtod() would take "inf", "nan", "0x10" and "-1"; none of them is a quantity here. */
	if (!isdigit((unsigned char)text[0]) || (text[0] == '0' && (text[1] | 32) == 'x'))
		return -EINVAL;
	errno = 0;
	v = strtod(text, &end);
	if (errno)
		return -ERANGE;
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < n; i++) {
		if (strcasecmp(end, units[i].name))
			continue;
		v *= units[i].factor;
		if (!(v < 9.2e18))
			return -ERANGE;
		*value = (uint64_t)(v + 0.5);
		return 0;
	}
	return -EINVAL;
}

int opt_parse_size(const char *text, uint64_t *bytes)
{
	return parse_scaled(text, size_units, sizeof(size_units) / sizeof(size_units[0]), bytes);
}

int opt_parse_time(const char *text, uint64_t *ns)
{
	return parse_scaled(text, time_units, sizeof(time_units) / sizeof(time_units[0]), ns);
}

int opt_size(const struct opt_ctx *c, const char *name, const char *text, uint64_t min,
	     uint64_t max, uint64_t *bytes)
{
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
	int err = opt_parse_size(text, bytes);

	if (err == -EINVAL) {
		opt_error(c,
			  "%s: '%s' is not a size; give a number with K, M, G or T, "
			  "such as 512M or 1GiB",
			  name, text);
		return -1;
	}
	if (err || *bytes < min || *bytes > max) {
		opt_error(c, "%s: '%s' is out of range; from %s to %s are accepted", name, text,
			  size_text(min, a, sizeof(a)), size_text(max, b, sizeof(b)));
		return -1;
	}
	return 0;
}

int opt_time(const struct opt_ctx *c, const char *name, const char *text, uint64_t min_ns,
	     uint64_t max_ns, uint64_t *ns)
{
	int err = opt_parse_time(text, ns);

	if (err == -EINVAL) {
		opt_error(c,
			  "%s: '%s' is not a time; give seconds, or a number with ms, s, m or h, "
			  "such as 90, 10s or 30m",
			  name, text);
		return -1;
	}
	if (!err && *ns >= min_ns && *ns <= max_ns)
		return 0;
	if (max_ns == UINT64_MAX)
		opt_error(c, "%s: '%s' is out of range; at least %g s is accepted", name, text,
			  (double)min_ns / 1e9);
	else
		opt_error(c, "%s: '%s' is out of range; from %g to %g s are accepted", name, text,
			  (double)min_ns / 1e9, (double)max_ns / 1e9);
	return -1;
}

int opt_number(const struct opt_ctx *c, const char *name, const char *text, uint64_t min,
	       uint64_t max, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (!isdigit((unsigned char)text[0]) || *end) {
		opt_error(c, "%s: '%s' is not a whole number", name, text);
		return -1;
	}
	if (errno || *value < min || *value > max) {
		opt_error(c, "%s: '%s' is out of range; from %llu to %llu are accepted", name, text,
			  (unsigned long long)min, (unsigned long long)max);
		return -1;
	}
	return 0;
}

int opt_real(const struct opt_ctx *c, const char *name, const char *text, double min, double max,
	     double *value)
{
	char *end;

	*value = strtod(text, &end);
	if (!isdigit((unsigned char)text[0]) || *end) {
		opt_error(c, "%s: '%s' is not a number", name, text);
		return -1;
	}
	if (!(*value >= min && *value <= max)) {
		opt_error(c, "%s: '%s' is out of range; from %g to %g are accepted", name, text,
			  min, max);
		return -1;
	}
	return 0;
}

const char *size_text(uint64_t bytes, char *buf, size_t len)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double v = (double)bytes;
	unsigned u = 0;

	/* 1152 MiB rather than 1.1 GiB: sizes here are mostly small multiples of something. */
	while (u < 5 && (v >= 10240 || (v >= 1024 && !(bytes >> (10 * u) & 1023)))) {
		v /= 1024;
		u++;
	}
	snprintf(buf, len, (double)(uint64_t)v == v || v >= 100 ? "%.0f %s" : "%.1f %s", v,
		 unit[u]);
	return buf;
}

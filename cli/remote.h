/* SPDX-License-Identifier: MIT */
/* What a running program says of its pool, in the library's own structures. */
#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H

#include <jansson.h>
#include <stdio.h>

#include "symbol.h"
#include "target.h"

struct remote_report {
	unsigned n;
	struct vac_blocker *b;
	struct vac_owner **o; /* [n], of b[i].owners each */
};

/* Fetch the report that the program has made for us last, of `count` blockers. 0 or a negative errno
 * value; call remote_report_free() either way. */
int remote_report(struct target *t, uint32_t count, struct remote_report *r);
uint64_t remote_report_bytes(const struct remote_report *r); /* of the folios that are held */
void remote_report_free(struct remote_report *r);

/* For people: grouped by owner, each pin's stack once. */
void remote_report_print(const struct remote_report *r, struct symbols *syms, FILE *out);
json_t *remote_report_json(const struct remote_report *r, struct symbols *syms);

/* What an answer's error means, for people. */
const char *remote_error(int err);

/* The program's symbols; says once where they cannot be had. May answer NULL, which symbol.h takes. */
struct symbols *remote_symbols(struct target *t);

#endif

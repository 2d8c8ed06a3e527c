/* SPDX-License-Identifier: MIT */
/* A report of the engine (who holds what), as JSON and, with source lines, as text. */
#ifndef CLI_REPORT_JSON_H
#define CLI_REPORT_JSON_H

#include <jansson.h>
#include <stdio.h>

#include "symbol.h"
#include "vacate.h"

/*
 * An array with one object a blocker: class, block, pfn, frames, space, address, the numbers of
 * the folio and its owners. At most max_blockers of them (0: all). syms may be NULL: stacks then
 * have addresses only. NULL: out of memory.
 */
json_t *report_json(const struct vac_report *report, unsigned max_blockers, struct symbols *syms);

/* One such object. owner: the k-th owner of this blocker; nonzero ends the list. NULL: no memory. */
typedef int blocker_owner_fn(void *ctx, unsigned k, struct vac_owner *owner);
json_t *blocker_json(const struct vac_blocker *b, blocker_owner_fn *owner, void *ctx,
		     struct symbols *syms);

/* A name that came from a program, which may hold anything, as a string of JSON. */
json_t *any_string(const char *s);

/* The engine's text, then the call stacks with file and line where debugging information is
 * there. 0 or -EIO. */
int report_text(const struct vac_report *report, FILE *out);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A report of the engine as JSON and as text. See report_json.h.
 *
 * JSON keys are those of the structures in vacate.h; a unit ends the name where there is one.
 * Addresses and frame numbers are plain integers: they fit into jansson's 63 bits.
 */
#include "report_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct walk {
	const struct vac_report *report;
	struct symbols *syms;
	json_t *array;
	unsigned index, max;
};

static json_t *stack_json(const struct vac_owner *o, struct symbols *syms)
{
	json_t *stack = json_array();

	for (unsigned i = 0; stack && i < o->stack_depth && i < VAC_STACK_MAX; i++) {
		struct symbol sym;
		json_t *frame;

		symbols_find(syms, o->stack[i], &sym);
		frame = json_pack("{s:I}", "address", (json_int_t)o->stack[i]);
		if (sym.function)
			json_object_set_new(frame, "function", json_string(sym.function));
		if (sym.module)
			json_object_set_new(frame, "module", json_string(sym.module));
		if (sym.file) {
			json_object_set_new(frame, "file", json_string(sym.file));
			json_object_set_new(frame, "line", json_integer(sym.line));
		}
		json_array_append_new(stack, frame);
	}
	return stack;
}

/* Owners' and threads' names come from the program and may hold anything; jansson refuses what is
 * not UTF-8, and a report must not be lost for that. */
json_t *any_string(const char *s)
{
	json_t *j = json_string(s);
	char ascii[VAC_OWNER_MAX + VAC_NAME_MAX];
	size_t i;

	if (j)
		return j;
	for (i = 0; s[i] && i < sizeof(ascii) - 1; i++)
		ascii[i] = (unsigned char)s[i] < 128 ? s[i] : '?';
	ascii[i] = '\0';
	return json_string(ascii);
}

static json_t *owner_json(const struct vac_owner *o, struct symbols *syms)
{
	json_t *j = json_pack("{s:o, s:I, s:o, s:b, s:b, s:I, s:I, s:I}", "owner",
			      any_string(o->owner), "tid", (json_int_t)o->tid, "thread",
			      any_string(o->thread), "write", (o->flags & VAC_PIN_WRITE) != 0,
			      "longterm", (o->flags & VAC_PIN_LONGTERM) != 0, "age_ns",
			      (json_int_t)o->age_ns, "address", (json_int_t)o->addr, "bytes",
			      (json_int_t)o->len);

	if (j) {
		json_object_set_new(j, "relocatable",
				    json_boolean(o->flags & VAC_OWNER_RELOCATABLE));
		json_object_set_new(j, "revocable", json_boolean(o->flags & VAC_OWNER_REVOCABLE));
		json_object_set_new(j, "kept", json_boolean(o->flags & VAC_OWNER_KEPT));
		json_object_set_new(j, "error", json_integer(o->error));
		json_object_set_new(j, "error_text",
				    json_string(o->error ? vac_strerror(o->error) : ""));
	}
	if (j && o->stack_depth)
		json_object_set_new(j, "stack", stack_json(o, syms));
	return j;
}

json_t *blocker_json(const struct vac_blocker *b, blocker_owner_fn *owner, void *ctx,
		     struct symbols *syms)
{
	json_t *owners = json_array(), *j;

	for (unsigned k = 0; owners && k < b->owners; k++) {
		struct vac_owner o;

		if (owner(ctx, k, &o))
			break;
		json_array_append_new(owners, owner_json(&o, syms));
	}
	j = json_pack("{s:s, s:i, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I}", "class",
		      vac_blocker_class_name(b->cls), "block", b->block, "pfn", (json_int_t)b->pfn,
		      "frames", (json_int_t)b->frames, "space", any_string(b->space), "address",
		      (json_int_t)b->addr, "refs", (json_int_t)b->refs, "pins", (json_int_t)b->pins,
		      "map", (json_int_t)b->map, "expected_refs", (json_int_t)b->expected_refs);
	if (!j) {
		json_decref(owners);
		return NULL;
	}
	json_object_set_new(j, "frozen", json_boolean(b->frozen));
	json_object_set_new(j, "gated", json_boolean(b->gated));
	json_object_set_new(j, "waiters", json_boolean(b->waiters));
	json_object_set_new(j, "locked", json_boolean(b->locked));
	json_object_set_new(j, "attempts", json_integer(b->attempts));
	json_object_set_new(j, "last_error", json_integer(b->last_error));
	json_object_set_new(j, "last_error_text",
			    json_string(b->last_error ? vac_strerror(b->last_error) : ""));
	json_object_set_new(j, "owners", owners);
	return j;
}

static int owner_of_report(void *ctx, unsigned k, struct vac_owner *o)
{
	struct walk *w = ctx;

	return vac_report_owner(w->report, w->index, k, o);
}

static int add_blocker(void *ctx, const struct vac_blocker *b)
{
	struct walk *w = ctx;
	int err;

	if (w->max && w->index >= w->max)
		return 1;
	err = json_array_append_new(w->array, blocker_json(b, owner_of_report, w, w->syms));
	w->index++;
	return err ? -ENOMEM : 0;
}

json_t *report_json(const struct vac_report *report, unsigned max_blockers, struct symbols *syms)
{
	struct walk w = {.report = report, .syms = syms, .max = max_blockers};

	w.array = json_array();
	if (!w.array)
		return NULL;
	if (report)
		vac_report_walk(report, add_blocker, &w);
	return w.array;
}

struct text_walk {
	const struct vac_report *report;
	struct symbols *syms;
	FILE *out;
	unsigned index;
	char last[VAC_OWNER_MAX]; /* blockers are grouped by owner: one stack a group is enough */
};

static int print_stacks(void *ctx, const struct vac_blocker *b)
{
	struct text_walk *w = ctx;
	unsigned i = w->index++;

	for (unsigned k = 0; k < b->owners; k++) {
		struct vac_owner o;
		struct symbol sym;
		char text[512];

		if (vac_report_owner(w->report, i, k, &o))
			break;
		if (!o.stack_depth || !strcmp(o.owner, w->last))
			continue;
		memcpy(w->last, o.owner, sizeof(w->last));
		fprintf(w->out, "pinned by \"%s\", thread %u (%s):\n", o.owner, o.tid, o.thread);
		for (unsigned f = 0; f < o.stack_depth && f < VAC_STACK_MAX; f++) {
			symbols_find(w->syms, o.stack[f], &sym);
			fprintf(w->out, "\t%s\n",
				symbol_text(&sym, o.stack[f], text, sizeof(text)));
		}
	}
	return 0;
}

int report_text(const struct vac_report *report, FILE *out)
{
	struct text_walk w = {.report = report, .out = out};
	int err;

	if (!report)
		return 0;
	err = vac_report_print(report, out);
	w.syms = symbols_open();
	vac_report_walk(report, print_stacks, &w);
	symbols_close(w.syms);
	if (!err && ferror(out))
		err = -EIO;
	return err;
}

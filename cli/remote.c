/* SPDX-License-Identifier: MIT */
/* What a running program says of its pool. See remote.h. */
#include "remote.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "report_json.h"

#define BLOCKERS_MAX 65536 /* more than any program tells; what it says is not to be trusted */
#define OWNERS_MAX 65536   /* of one report */

const char *remote_error(int err)
{
	switch (err) {
	case -ENOENT: return "there is no such block";
	case -ECONNRESET: return "the program has hung up";
	case -EPROTO: return "the program's answer cannot be understood";
	case -EUSERS: return "too many operations are under way in the program; try again later";
	case -EINTR: return "interrupted";
	case -ERANGE: return "the program has made another report meanwhile";
	default: return vac_strerror(err);
	}
}

struct symbols *remote_symbols(struct target *t)
{
	struct symbols *s = t->c.pid ? symbols_open_pid(t->c.pid) : NULL;

	if (!s)
		out_error("the mappings of process %" PRIu32
			  " cannot be read: call stacks have addresses only",
			  t->pool.pid);
	return s;
}

static int fetch_owners(struct target *t, uint32_t index, unsigned n, struct vac_owner *o)
{
	unsigned got = 0;

	while (got < n) {
		struct vac__ctl_owners *in = &t->c.in.u.owners;
		int err = ctl_two(&t->c, VAC__CTL_OWNERS, index, got,
				  offsetof(struct vac__ctl_owners, owner));

		if (err)
			return err;
		if (in->n > VAC__CTL_OWNERS_MAX)
			return -EPROTO;
		if (!in->n)
			return -ERANGE;
		for (uint32_t k = 0; k < in->n && got < n; k++, got++) {
			struct vac__ctl_owner *c = &in->owner[k];

			memcpy(o[got].owner, c->owner, sizeof(o[got].owner));
			memcpy(o[got].thread, c->thread, sizeof(o[got].thread));
			target_clean(o[got].owner, sizeof(o[got].owner));
			target_clean(o[got].thread, sizeof(o[got].thread));
			o[got].tid = c->tid;
			o[got].flags = c->flags;
			o[got].error = c->error;
			o[got].age_ns = c->age_ns;
			o[got].addr = (uintptr_t)c->addr;
			o[got].len = c->len;
			o[got].stack_depth = c->stack_depth < VAC_STACK_MAX ? c->stack_depth
									    : VAC_STACK_MAX;
			for (unsigned f = 0; f < o[got].stack_depth; f++)
				o[got].stack[f] = (uintptr_t)c->stack[f];
		}
	}
	return 0;
}

static int fetch_blocker(struct target *t, uint32_t i, struct remote_report *r, unsigned *owners)
{
	struct vac__ctl_blocker *c = &t->c.in.u.blocker;
	struct vac_blocker *b = &r->b[i];
	int err = ctl_two(&t->c, VAC__CTL_BLOCKER, i, 0, sizeof(*c));

	if (err)
		return err;
	*b = (struct vac_blocker){.size = sizeof(*b),
				  .cls = (enum vac_blocker_class)c->cls,
				  .block = (int)c->block,
				  .pfn = c->pfn,
				  .frames = c->frames,
				  .addr = (uintptr_t)c->addr,
				  .refs = c->refs,
				  .pins = c->pins,
				  .map = c->map,
				  .expected_refs = c->expected_refs,
				  .frozen = c->frozen,
				  .gated = c->gated,
				  .waiters = c->waiters,
				  .locked = c->locked,
				  .attempts = c->attempts,
				  .last_error = c->last_error,
				  .owners = c->owners};
	memcpy(b->space, c->space, sizeof(b->space));
	target_clean(b->space, sizeof(b->space));
	if (b->owners > OWNERS_MAX - *owners) {
		b->owners = 0;
		return -EPROTO;
	}
	*owners += b->owners;
	r->o[i] = calloc(b->owners ? b->owners : 1, sizeof(*r->o[i]));
	if (!r->o[i])
		return -ENOMEM;
	return fetch_owners(t, i, b->owners, r->o[i]);
}

int remote_report(struct target *t, uint32_t count, struct remote_report *r)
{
	unsigned owners = 0;
	int err = 0;

	memset(r, 0, sizeof(*r));
	if (count > BLOCKERS_MAX)
		return -EPROTO;
	r->b = calloc(count ? count : 1, sizeof(*r->b));
	r->o = calloc(count ? count : 1, sizeof(struct vac_owner *));
	if (!r->b || !r->o)
		return -ENOMEM;
	r->n = count;
	for (uint32_t i = 0; i < count && !err; i++)
		err = fetch_blocker(t, i, r, &owners);
	return err;
}

uint64_t remote_report_bytes(const struct remote_report *r)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < r->n; i++)
		n += r->b[i].frames * (uint64_t)VAC_PAGE_BYTES;
	return n;
}

void remote_report_free(struct remote_report *r)
{
	for (unsigned i = 0; r->o && i < r->n; i++)
		free(r->o[i]);
	free(r->o);
	free(r->b);
	memset(r, 0, sizeof(*r));
}

/* ---- Text ---- */

static void print_stack(const struct vac_owner *o, struct symbols *syms, FILE *out)
{
	for (unsigned f = 0; f < o->stack_depth; f++) {
		struct symbol sym;
		char text[512];

		symbols_find(syms, o->stack[f], &sym);
		fprintf(out, "        %s\n", symbol_text(&sym, o->stack[f], text, sizeof(text)));
	}
}

static bool same_pin(const struct vac_owner *a, const struct vac_owner *b)
{
	return a->tid == b->tid && a->addr == b->addr && a->len == b->len &&
	       !strcmp(a->owner, b->owner);
}

/* Has the pin been shown with the blocker before? Those of one owner are neighbours. */
static bool shown(const struct remote_report *r, unsigned i, const struct vac_owner *o)
{
	for (unsigned k = 0; i && k < r->b[i - 1].owners; k++)
		if (same_pin(&r->o[i - 1][k], o))
			return true;
	return false;
}

static void print_owner(const struct vac_owner *o, struct symbols *syms, FILE *out)
{
	fprintf(out, "    \"%s\" thread %u", o->owner, o->tid);
	if (o->thread[0])
		fprintf(out, " (%s)", o->thread);
	else
		fputs(" (ended)", out);
	fprintf(out, ", for %.3f s, %s%s %#" PRIxPTR "+%" PRIu64, (double)o->age_ns / 1e9,
		o->flags & VAC_OWNER_RELOCATABLE ? "relocatable "
		: o->flags & VAC_PIN_LONGTERM    ? "long-term "
						 : "",
		o->flags & VAC_PIN_WRITE ? "write" : "read", o->addr, o->len);
	if (o->error)
		fprintf(out, ", %s: %s",
			o->flags & VAC_OWNER_KEPT ? "kept in movable memory" : "callback",
			vac_strerror(o->error));
	fputc('\n', out);
	print_stack(o, syms, out);
}

void remote_report_print(const struct remote_report *r, struct symbols *syms, FILE *out)
{
	for (unsigned i = 0; i < r->n; i++) {
		const struct vac_blocker *b = &r->b[i];
		unsigned again = 0;

		fprintf(out, "  pfn %" PRIu64 "%s ", b->pfn, b->frames == 1 ? "" : " huge");
		if (b->addr)
			fprintf(out, "%s at %#" PRIxPTR, b->space, b->addr);
		else
			fputs("unmapped", out);
		fprintf(out, ": %s, refs %u (expected %u) pins %u map %u%s%s%s%s",
			vac_blocker_class_name(b->cls), b->refs, b->expected_refs, b->pins, b->map,
			b->frozen ? " frozen" : "", b->gated ? " gated" : "",
			b->waiters ? " waiters" : "", b->locked ? " locked" : "");
		if (b->attempts)
			fprintf(out, ", tried %u times, last: %s", b->attempts,
				vac_strerror(b->last_error));
		fputc('\n', out);
		for (unsigned k = 0; k < b->owners; k++) {
			if (shown(r, i, &r->o[i][k]))
				again++;
			else
				print_owner(&r->o[i][k], syms, out);
		}
		if (again)
			fprintf(out, "    held by %s as well\n",
				again == 1 ? "the pin above" : "the pins above");
	}
}

/* ---- JSON ---- */

struct nth {
	const struct remote_report *r;
	unsigned i;
};

static int owner_of(void *ctx, unsigned k, struct vac_owner *o)
{
	struct nth *n = ctx;

	*o = n->r->o[n->i][k];
	return 0;
}

json_t *remote_report_json(const struct remote_report *r, struct symbols *syms)
{
	json_t *a = json_array();

	for (unsigned i = 0; a && i < r->n; i++) {
		struct nth n = {r, i};

		json_array_append_new(a, blocker_json(&r->b[i], owner_of, &n, syms));
	}
	return a;
}

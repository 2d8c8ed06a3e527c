/* SPDX-License-Identifier: MIT */
/* Blocks, usage and holders as JSON. Members are added, never renamed. */
#include "json.h"

/* Text of processes may be no UTF-8, which JSON must be. */
static json_t *any(const char *s)
{
	json_t *j = json_string(s);
	char copy[4096];
	size_t n = 0;

	if (j)
		return j;
	for (; s[n] && n < sizeof(copy) - 1; n++)
		copy[n] = (unsigned char)s[n] < 0x80 ? s[n] : '?';
	copy[n] = '\0';
	return json_string(copy);
}

json_t *host_usage_json(const struct host *h, const struct host_usage *u)
{
	json_t *j = json_object();

	for (enum host_class c = 0; c < HOST_CLASSES; c++)
		json_object_set_new(j, host_class_name(c),
				    json_integer((json_int_t)(u->frames[c] * h->page_bytes)));
	json_object_set_new(j, "hugetlb_reserved",
			    json_integer((json_int_t)(u->huge_reserved * h->page_bytes)));
	json_object_set_new(j, "anon", json_integer((json_int_t)(u->anon * h->page_bytes)));
	json_object_set_new(j, "file", json_integer((json_int_t)(u->file * h->page_bytes)));
	return j;
}

json_t *host_block_json(const struct host *h, const struct host_block *b)
{
	return json_pack(
		"{s:I, s:s, s:o, s:o, s:i, s:s, s:o, s:I, s:I, s:b}", "block", (json_int_t)b->id,
		"state", host_state_name(b->state), "zone", any(b->zone), "valid_zones",
		any(b->zones), "node", b->node, "owner", host_owner_name(b->owner), "device",
		any(b->device), "address", (json_int_t)(b->pfn * h->page_bytes), "bytes",
		(json_int_t)(b->frames * h->page_bytes), "sysfs_removable", b->sysfs_removable);
}

static json_t *holder_json(const struct host *h, const struct host_holder *o)
{
	json_t *j = json_pack("{s:s, s:s, s:b, s:I, s:I, s:i, s:i, s:I, s:b}", "kind",
			      host_kind_name(o->kind), "evidence", host_evidence_name(o->evidence),
			      "blocks", o->blocks, "bytes", (json_int_t)(o->pages * h->page_bytes),
			      "first_pfn", (json_int_t)o->first_pfn, "pid", (int)o->pid, "fd",
			      o->fd, "start_ticks", (json_int_t)o->start_ticks, "in_flight",
			      o->in_flight);

	json_object_set_new(j, "tid", o->tid ? json_integer(o->tid) : json_null());
	json_object_set_new(j, "age_s", o->age_s >= 0 ? json_real(o->age_s) : json_null());
	if (o->pid)
		json_object_set_new(j, "uid", json_integer((json_int_t)o->uid));
	json_object_set_new(j, "comm", any(o->comm));
	json_object_set_new(j, "user", any(o->user));
	json_object_set_new(j, "cmdline", any(o->cmdline));
	json_object_set_new(j, "what", any(o->what));
	json_object_set_new(j, "detail", any(o->detail));
	json_object_set_new(j, "cgroup", any(o->cgroup));
	json_object_set_new(j, "unit", any(o->unit));
	json_object_set_new(j, "container", any(o->container));
	json_object_set_new(j, "pod", any(o->pod));
	return j;
}

static json_t *strings(char **s, unsigned n)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(a, any(s[i]));
	return a;
}

json_t *host_why_json(struct host *h, const struct host_block *b, const struct host_why *w)
{
	json_t *j = host_block_json(h, b), *holders = json_array();

	for (unsigned i = 0; i < w->n_holders; i++)
		json_array_append_new(holders, holder_json(h, &w->holders[i]));
	json_object_set_new(j, "verdict", json_string(host_verdict_name(w->verdict)));
	json_object_set_new(j, "reason", any(w->reason));
	json_object_set_new(j, "usage", host_usage_json(h, &w->usage));
	json_object_set_new(j, "holders", holders);
	json_object_set_new(j, "unexplained",
			    json_integer((json_int_t)(w->unexplained * h->page_bytes)));
	json_object_set_new(j, "advice", strings(w->advice, w->n_advice));
	json_object_set_new(j, "not_seen", strings(w->blind, w->n_blind));
	return j;
}

/* SPDX-License-Identifier: MIT */
/*
 * The report: what keeps a block's folios from leaving, and whose name is on it.
 *
 * A report is a copy made at one moment, without stopping anybody: each blocker's numbers come from
 * one read of its state word, its owners from the pin ledger right after. A folio that changes
 * hands in between is shown as it was found. Blockers are grouped by the first owner's name, the
 * group with most frames first.
 */
#include "internal.h"

struct held {
	struct vac_blocker b;
	uint32_t first_owner; /* index into owners */
	uint64_t weight;      /* frames of its group */
};

struct vac_report {
	uint32_t n, nr_owners, left_out;
	struct held *held;
	struct vac_owner *owners;
};

/* ---- Making --------------------------------------------------------------------------------- */

/* Where a folio is mapped: the first slot of its family that names it. */
static void find_mapping(struct vac_pool *pool, uint32_t pfn, struct vac_blocker *b)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t fam = vac__ld_rlx(&f->family) % VAC__MAX_SPACES, page = vac__ld_rlx(&f->index);

	vac__rdlock(&pool->families[fam].lock, VAC__RANK_RMAP);
	for (struct vac_space *s = vac__rmap_first(pool, fam); s; s = s->next_in_family) {
		uint64_t e;

		if (page >= s->pages)
			continue;
		vac__ptl_lock(s, page >> VAC__PB_ORDER);
		e = vac__entry_get(s, page);
		vac__ptl_unlock(s, page >> VAC__PB_ORDER);
		if (e == 0 || vac__e_swap(e) || vac__e_pfn(e) != pfn)
			continue;
		memcpy(b->space, s->name, sizeof(b->space));
		b->addr = (uintptr_t)vac__page_addr(s, page);
		break;
	}
	vac__rdunlock(&pool->families[fam].lock, VAC__RANK_RMAP);
}

/* The address of a page, and the name of its space. */
static void name_page(struct vac_pool *pool, struct vac_blocker *b, const struct vac__watch *w)
{
	uint32_t family = vac__ld_rlx(&w->family), page = vac__ld_rlx(&w->index);
	struct vac_space *s;

	vac__rdlock(&pool->families[family].lock, VAC__RANK_RMAP);
	s = vac__rmap_find(pool, family, vac__ld_rlx(&w->space));
	if (s && page < s->pages) {
		memcpy(b->space, s->name, sizeof(b->space));
		b->addr = (uintptr_t)vac__page_addr(s, page);
	}
	vac__rdunlock(&pool->families[family].lock, VAC__RANK_RMAP);
}

static void add_owner(struct vac_report *r, struct held *h, const struct vac__pin_view *v)
{
	struct vac_owner *o;
	uint64_t now = vac__port_now_coarse();

	if (r->nr_owners == VAC__OWNERS_MAX)
		return;
	o = &r->owners[r->nr_owners++];
	memcpy(o->owner, v->owner, sizeof(o->owner));
	o->tid = v->tid;
	o->flags = v->flags;
	o->age_ns = now > v->when_ns ? now - v->when_ns : 0;
	o->addr = (uintptr_t)v->addr;
	o->len = v->len;
	o->error = v->error;
	o->stack_depth = v->depth;
	memcpy(o->stack, v->stack, v->depth * sizeof(v->stack[0]));
	vac__port_thread_name(v->tid, o->thread, sizeof(o->thread));
	h->b.owners++;
}

/* Somebody that the ledger does not know: ask the platform for a name. */
static void add_foreigner(struct vac_pool *pool, struct vac_report *r, struct held *h,
			  const void *shown, size_t bytes)
{
	struct vac__pin_view v = {.addr = (uintptr_t)shown, .len = shown ? bytes : 0};

	pool->mem->holder(pool->mem_ctx, shown, bytes, v.owner, sizeof(v.owner), &v.tid);
	v.when_ns = vac__port_now_coarse(); /* nobody knows since when */
	add_owner(r, h, &v);
}

/* What the pins of a folio come to: the class of the most stubborn of them. */
static enum vac_blocker_class of_pin(enum vac_blocker_class most, const struct vac__pin_view *v,
				     bool shown)
{
	static const uint8_t weight[] = {[VAC_HELD_RELOCATABLE] = 1,
					 [VAC_HELD_SHORT_PIN] = 2,
					 [VAC_HELD_REFUSED] = 3,
					 [VAC_HELD_LONG_PIN] = 4};
	enum vac_blocker_class cls = VAC_HELD_SHORT_PIN;

	/* What nothing shows cannot be found again by its holder: see vac__reloc_look(). */
	if ((v->flags & VAC_OWNER_RELOCATABLE) && shown)
		cls = v->error ? VAC_HELD_REFUSED : VAC_HELD_RELOCATABLE;
	else if (v->flags & VAC_PIN_LONGTERM)
		cls = VAC_HELD_LONG_PIN;
	return weight[cls] > weight[most] ? cls : most;
}

static enum vac_blocker_class classify(const struct vac_blocker *b, enum vac_blocker_class pin)
{
	if (b->pins)
		return pin;
	if (b->last_error == -ENOMEM)
		return VAC_HELD_NO_TARGET;
	if (b->last_error == -VAC__EHELD)
		return VAC_HELD_FOREIGN;
	if (b->last_error == -ENOBUFS)
		return VAC_HELD_HOST_LIMIT;
	if (b->refs > b->expected_refs)
		return VAC_HELD_REFERENCE;
	return VAC_HELD_BUSY;
}

static void add_folio(struct vac_pool *pool, struct vac_report *r, uint32_t pfn,
		      const struct vac__trace *t)
{
	struct vac__frame *f = vac__frame(pool, pfn);
	uint32_t flags = vac__ld(&f->flags), cursor = 0;
	uint64_t w = vac__ld(&f->word);
	struct vac__pin_view v;
	enum vac_blocker_class pin = VAC_HELD_RELOCATABLE;
	struct held *h;
	struct vac_blocker b = {.size = sizeof(b)};

	if (!(flags & (VAC__F_BASE | VAC__F_HEAD)) || vac__w_free(w))
		return;
	b.block = (int)(pfn >> pool->block_shift);
	b.pfn = pfn;
	b.frames = flags & VAC__F_HEAD ? VAC__PB_PAGES : 1;
	b.refs = vac__w_refs(w);
	b.pins = vac__w_pins(w);
	b.map = vac__w_map(w);
	/* What a migration would want to find, were it to pick the folio now: its own. */
	b.expected_refs = vac__w_refs(vac__expected_counts(
		flags & VAC__F_SWAPCACHE, flags & VAC__F_ISOLATED ? 1 : 0, 0, b.map));
	b.frozen = (w & VAC__W_FROZEN) != 0;
	b.gated = (w & VAC__W_GATED) != 0;
	b.waiters = (w & VAC__W_WAITERS) != 0;
	b.locked = vac__ld(&f->lock) & 1;
	if (t && t->e[pfn % VAC__TRACE].pfn == pfn) {
		b.attempts = t->e[pfn % VAC__TRACE].attempts;
		b.last_error = t->e[pfn % VAC__TRACE].err;
	}
	if (!b.pins && b.refs <= b.expected_refs && !b.last_error)
		return; /* an ordinary folio: it would leave when asked */
	if (r->n == VAC__BLOCKERS_MAX) {
		r->left_out++;
		return;
	}
	h = &r->held[r->n++];
	h->b = b;
	h->first_owner = r->nr_owners;
	find_mapping(pool, pfn, &h->b);
	while (b.pins && vac__pin_find(pool, pfn, &cursor, &v)) {
		pin = of_pin(pin, &v, b.map != 0);
		add_owner(r, h, &v);
	}
	/* Who has counted a pin is about to be found in the ledger: for a moment. */
	h->b.cls = classify(&h->b, h->b.owners ? pin : VAC_HELD_SHORT_PIN);
	if (h->b.cls == VAC_HELD_FOREIGN)
		add_foreigner(pool, r, h, (void *)h->b.addr, (size_t)b.frames << VAC__PAGE_SHIFT);
}

static const char *group_of(const struct vac_report *r, const struct held *h)
{
	return h->b.owners ? r->owners[h->first_owner].owner : "";
}

/* Heaviest group first, then by name, then by pfn. */
static bool comes_before(const struct vac_report *r, const struct held *a, const struct held *b)
{
	int c;

	if (a->weight != b->weight)
		return a->weight > b->weight;
	c = strcmp(group_of(r, a), group_of(r, b));
	return c ? c < 0 : a->b.pfn < b->b.pfn;
}

static void group(struct vac_report *r)
{
	/* By name first, so that a group's members are neighbours and can be weighed. */
	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t gap = r->n / 2; gap; gap /= 2) {
			for (uint32_t i = gap; i < r->n; i++) {
				struct held t = r->held[i];
				uint32_t j = i;

				for (; j >= gap && comes_before(r, &t, &r->held[j - gap]); j -= gap)
					r->held[j] = r->held[j - gap];
				r->held[j] = t;
			}
		}
		for (uint32_t i = 0, end; pass == 0 && i < r->n; i = end) {
			uint64_t weight = 0;

			for (end = i; end < r->n && strcmp(group_of(r, &r->held[end]),
							   group_of(r, &r->held[i])) == 0;
			     end++)
				weight += r->held[end].b.frames;
			for (uint32_t k = i; k < end; k++)
				r->held[k].weight = weight;
		}
	}
}

static struct held *add_held(struct vac_report *r, enum vac_blocker_class cls, int block,
			     uint32_t pfn, uint32_t frames)
{
	struct held *h;

	if (r->n == VAC__BLOCKERS_MAX) {
		r->left_out++;
		return NULL;
	}
	h = &r->held[r->n++];
	memset(h, 0, sizeof(*h));
	h->b.size = sizeof(h->b);
	h->b.cls = cls;
	h->b.block = block;
	h->b.pfn = pfn;
	h->b.frames = frames;
	h->b.last_error = -EBUSY;
	h->first_owner = r->nr_owners;
	return h;
}

/* The platform does not certify the block: which of its frames are held, and by whom, as far as it can
 * tell. Frames without records were looked at one by one, where that could be done. asks: it was not
 * asked now. Where it tells who holds pages and nobody does, nobody does; elsewhere the last answer
 * stands. */
static void add_foreign(struct vac_pool *pool, struct vac_report *r, int id, bool asks)
{
	struct vac__block *b = &pool->blocks[id];
	uint32_t first = vac__block_pfn(pool, id), n = UINT32_C(1) << pool->block_shift, found = 0;
	struct held *h;

	for (uint32_t k = 0; k < n && !b->sealed; k += VAC__PB_PAGES) {
		size_t at, off = (size_t)k << VAC__PAGE_SHIFT;

		if (vac__ld_rlx(&pool->pbs[(first + k) >> VAC__PB_ORDER].populated) ==
			    VAC__PB_VIRGIN ||
		    pool->mem->held(pool->mem_ctx, &b->backing, off, VAC_PAGEBLOCK_BYTES, NULL,
				    &at) != 1)
			continue;
		h = add_held(r, VAC_HELD_FOREIGN, id, first + (uint32_t)(at >> VAC__PAGE_SHIFT), 1);
		if (h)
			add_foreigner(pool, r, h, NULL, 0);
		found++;
	}
	if (found || b->sealed || (asks && pool->mem->sees(pool->mem_ctx)))
		return;
	h = add_held(r, VAC_HELD_FOREIGN, id, first, n);
	if (h)
		add_foreigner(pool, r, h, NULL, 0);
}

/* Frames of a block in use that nobody may have because somebody outside the engine held them when
 * they were looked at last: they would keep the block from being given back. Those with sums are not
 * known to be held. */
static void add_quarantined(struct vac_pool *pool, struct vac_report *r, int id)
{
	uint32_t first = vac__block_pfn(pool, id);

	for (uint32_t k = 0; k < pool->pb_per_block; k++) {
		uint32_t pfn = first + k * VAC__PB_PAGES, n;
		uint32_t quar = vac__ld_rlx(&pool->pbs[pfn >> VAC__PB_ORDER].nr_quar);

		n = quar == VAC__PB_PAGES ? VAC__PB_PAGES : 1;
		for (uint32_t i = 0; quar && i < VAC__PB_PAGES; i += n) {
			struct held *h;

			if (!(vac__ld(&vac__frame(pool, pfn + i)->flags) & VAC__F_QUAR) ||
			    vac__ld(&pool->watch[pfn + i].sums))
				continue;
			h = add_held(r, VAC_HELD_FOREIGN, id, pfn + i, n);
			if (h)
				add_foreigner(pool, r, h, NULL, 0);
		}
	}
}

/* Certified, but not all could be carried over: pages whose pins stand in the way, if the block waits
 * for those, and bytes that are lost. */
static void add_late(struct vac_pool *pool, struct vac_report *r, int id, bool asks)
{
	uint32_t first = vac__block_pfn(pool, id), n = UINT32_C(1) << pool->block_shift;
	struct held *h;

	for (uint32_t i = 0; i < n && pool->blocks[id].sealed; i++) {
		struct vac__watch *w = &pool->watch[first + i];

		if (!vac__ld(&w->armed) || (asks && !vac__watch_pinned(pool, first + i)))
			continue;
		h = add_held(r, VAC_HELD_LATE, id, first + i, 1);
		if (h)
			name_page(pool, &h->b, w);
	}
	for (unsigned i = 0; i < pool->nr_lost && i < VAC__LOST_MAX && !asks; i++) {
		if ((int)(pool->lost[i].pfn >> pool->block_shift) != id)
			continue;
		h = add_held(r, VAC_HELD_LOST, id, pool->lost[i].pfn, 1);
		if (!h)
			return;
		memcpy(h->b.space, pool->lost[i].space, sizeof(h->b.space));
		h->b.addr = pool->lost[i].addr;
	}
	if (pool->nr_lost > VAC__LOST_MAX && !asks)
		r->left_out += pool->nr_lost - VAC__LOST_MAX;
}

void vac__trace_init(struct vac__trace *t)
{
	memset(t, 0, sizeof(*t));
	for (unsigned i = 0; i < VAC__TRACE; i++)
		t->e[i].pfn = VAC__NO_PFN;
}

int vac__report_make(struct vac_pool *pool, int id, const struct vac__trace *t,
		     struct vac_report **report)
{
	struct vac_report *r = vac__port_meta_reserve(sizeof(*r));
	uint32_t pfn = vac__block_pfn(pool, id), end = pfn + (UINT32_C(1) << pool->block_shift);

	*report = NULL;
	if (!r)
		return -ENOMEM;
	r->held = vac__port_meta_reserve(sizeof(*r->held) * VAC__BLOCKERS_MAX);
	r->owners = vac__port_meta_reserve(sizeof(*r->owners) * VAC__OWNERS_MAX);
	if (!r->held || !r->owners) {
		vac_report_free(r);
		return -ENOMEM;
	}
	for (; pfn < end; pfn++)
		add_folio(pool, r, pfn, t);
	if (t && t->foreign)
		add_foreign(pool, r, id, t->asks);
	else
		add_quarantined(pool, r, id);
	if (t && t->certified)
		add_late(pool, r, id, t->asks);
	group(r);
	*report = r;
	return 0;
}

int vac_report_block(struct vac_pool *pool, int id, struct vac_report **report)
{
	struct vac_report *r = NULL;
	int err;

	if (vac__port_forked())
		return -EPERM;
	if (!report)
		return -EINVAL;
	if (!vac__block_valid(pool, id))
		return -ENOENT;
	VAC__ENTER();
	/* What keeps an empty block from being given back is asked of the platform, which wants it to stay
	 * as it is meanwhile; an offline at work on it says so itself. */
	if (vac__ld(&pool->blocks[id].state) == VAC_BLOCK_QUARANTINE + 1 &&
	    vac__lock_until(&pool->hotplug, VAC__RANK_HOTPLUG, vac__port_now() + 1000000)) {
		struct vac__trace t;

		vac__trace_init(&t);
		t.foreign = t.certified = t.asks = true;
		err = vac__report_make(
			pool, id,
			vac__ld(&pool->blocks[id].state) == VAC_BLOCK_QUARANTINE + 1 ? &t : NULL,
			&r);
		vac__unlock(&pool->hotplug, VAC__RANK_HOTPLUG);
	} else {
		err = vac__report_make(pool, id, NULL, &r);
	}
	VAC__LEAVE();
	*report = r;
	return err;
}

void vac_report_free(struct vac_report *r)
{
	if (!r || vac__port_forked())
		return;
	VAC__ENTER();
	if (r->held)
		vac__port_meta_release(r->held, sizeof(*r->held) * VAC__BLOCKERS_MAX);
	if (r->owners)
		vac__port_meta_release(r->owners, sizeof(*r->owners) * VAC__OWNERS_MAX);
	vac__port_meta_release(r, sizeof(*r));
	VAC__LEAVE();
}

/* Does it name anybody whom an offline would answer -EBUSY for, were he to stay? What is only being
 * filled, split or moved is not his. */
bool vac__report_holds(const struct vac_report *r)
{
	bool yes = r->left_out != 0;

	for (uint32_t i = 0; i < r->n && !yes; i++)
		yes = r->held[i].b.cls != VAC_HELD_REFERENCE && r->held[i].b.cls != VAC_HELD_BUSY &&
		      r->held[i].b.cls != VAC_HELD_RELOCATABLE;
	return yes;
}

/* ---- Reading -------------------------------------------------------------------------------- */

unsigned vac_report_count(const struct vac_report *r)
{
	return r && !vac__port_forked() ? r->n : 0;
}

int vac_report_walk(const struct vac_report *r, int (*fn)(void *ctx, const struct vac_blocker *b),
		    void *ctx)
{
	int ret = 0;

	if (vac__port_forked())
		return -EPERM;
	for (uint32_t i = 0; r && i < r->n && ret == 0; i++)
		ret = fn(ctx, &r->held[i].b);
	return ret;
}

int vac_report_owner(const struct vac_report *r, unsigned i, unsigned k, struct vac_owner *owner)
{
	if (vac__port_forked())
		return -EPERM;
	if (!r || i >= r->n || k >= r->held[i].b.owners)
		return -ERANGE;
	*owner = r->owners[r->held[i].first_owner + k];
	return 0;
}

const char *vac_blocker_class_name(enum vac_blocker_class cls)
{
	static const char *const names[] = {
		[VAC_HELD_SHORT_PIN] = "short pin",
		[VAC_HELD_LONG_PIN] = "long pin",
		[VAC_HELD_REFERENCE] = "reference",
		[VAC_HELD_NO_TARGET] = "no target memory",
		[VAC_HELD_FOREIGN] = "foreign holder",
		[VAC_HELD_HOST_LIMIT] = "host mapping limit",
		[VAC_HELD_BUSY] = "busy",
		[VAC_HELD_LATE] = "late foreign write to be carried over",
		[VAC_HELD_LOST] = "late foreign write lost",
		[VAC_HELD_RELOCATABLE] = "relocatable pin",
		[VAC_HELD_REFUSED] = "refused relocation",
	};

	return (unsigned)cls < sizeof(names) / sizeof(names[0]) ? names[cls] : "unknown";
}

static void print_owner(const struct vac_owner *o, FILE *out)
{
	if (o->age_ns == 0 && o->len == 0 && o->tid == 0) { /* somebody outside the engine */
		fprintf(out, "    \"%s\"\n", o->owner);
		return;
	}
	fprintf(out, "    \"%s\" thread %u%s%s%s, for %llu.%03llu s, %s%s %#llx+%llu%s%s\n",
		o->owner, o->tid, o->thread[0] ? " (" : "", o->thread,
		o->thread[0] ? ")" : " (ended)", (unsigned long long)(o->age_ns / 1000000000),
		(unsigned long long)(o->age_ns / 1000000 % 1000),
		o->flags & VAC_OWNER_RELOCATABLE ? "relocatable "
		: o->flags & VAC_PIN_LONGTERM    ? "long-term "
						 : "",
		o->flags & VAC_PIN_WRITE ? "write" : "read", (unsigned long long)o->addr,
		(unsigned long long)o->len, o->error ? ", callback: " : "",
		o->error ? vac_strerror(o->error) : "");
	for (unsigned i = 0; i < o->stack_depth; i++) {
		char name[128];

		vac__port_symbol(o->stack[i], name, sizeof(name));
		fprintf(out, "        %#llx %s\n", (unsigned long long)o->stack[i], name);
	}
}

int vac_report_print(const struct vac_report *r, FILE *out)
{
	const char *last = NULL;

	if (vac__port_forked())
		return -EPERM;
	if (!r || r->n == 0) {
		fprintf(out, "nothing holds the block\n");
		return ferror(out) ? -EIO : 0;
	}
	for (uint32_t i = 0; i < r->n; i++) {
		const struct held *h = &r->held[i];
		const struct vac_blocker *b = &h->b;
		const char *who = group_of(r, h);

		if (!last || strcmp(last, who) != 0)
			fprintf(out, "%s%s%s: %llu KiB\n", *who ? "held by \"" : "",
				*who ? who : "", *who ? "\"" : vac_blocker_class_name(b->cls),
				(unsigned long long)(h->weight * VAC_PAGE_BYTES >> 10));
		last = who;
		fprintf(out,
			"  block %d pfn %llu%s %s%s%#llx: %s, refs %u (expected %u) pins %u map %u%s%s%s%s",
			b->block, (unsigned long long)b->pfn, b->frames == 1 ? "" : " huge",
			*b->space ? b->space : "unmapped", *b->space ? " at " : " ",
			(unsigned long long)b->addr, vac_blocker_class_name(b->cls), b->refs,
			b->expected_refs, b->pins, b->map, b->frozen ? " frozen" : "",
			b->gated ? " gated" : "", b->waiters ? " waiters" : "",
			b->locked ? " locked" : "");
		if (b->attempts)
			fprintf(out, ", tried %u times, last: %s", b->attempts,
				vac_strerror(b->last_error));
		fputc('\n', out);
		for (unsigned k = 0; k < b->owners; k++)
			print_owner(&r->owners[h->first_owner + k], out);
	}
	if (r->left_out)
		fprintf(out, "and %u more folios\n", r->left_out);
	return ferror(out) ? -EIO : 0;
}

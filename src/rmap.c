/* SPDX-License-Identifier: MIT */
/*
 * The reverse map: from a folio to the slots that may show it. A folio knows its family and one
 * page index, the same in every space of the family, so the slots are found by going through the
 * family's spaces; each slot is judged only under its ptl, by whether it names the folio.
 *
 * Invariants: the list of a family, and the VMAs of its spaces, change only under the family's
 * lock held for write; walks hold it for read, so no slot appears, moves or goes behind a walk's
 * back (semantics.md F.2: with that, the order of the walk does not matter). Families are never
 * unmapped: a stale number leads to a walk that finds nothing. Several folios may have the same family and
 * index, one a space at most: that is why a slot counts only if it names the folio.
 */
#include "internal.h"

void vac__family_join(struct vac_pool *pool, uint32_t family, struct vac_space *s)
{
	struct vac__family *f = &pool->families[family];
	struct vac_space *t;

	vac__wrlock(&f->lock, VAC__RANK_RMAP);
	t = vac__ld_rlx(&f->first);
	if (!t) {
		vac__st_rel(&f->first, s);
	} else {
		while (t->next_in_family)
			t = t->next_in_family;
		t->next_in_family = s;
	}
	vac__wrunlock(&f->lock, VAC__RANK_RMAP);
}

void vac__family_leave(struct vac_pool *pool, struct vac_space *s)
{
	struct vac__family *f = &pool->families[s->family];
	struct vac_space *t;

	vac__wrlock(&f->lock, VAC__RANK_RMAP);
	t = vac__ld_rlx(&f->first);
	if (t == s) {
		vac__st_rel(&f->first, s->next_in_family);
	} else {
		while (t->next_in_family != s)
			t = t->next_in_family;
		t->next_in_family = s->next_in_family;
	}
	vac__wrunlock(&f->lock, VAC__RANK_RMAP);
}

/* A space of a family by its number, NULL if it is gone. The lock is held. */
struct vac_space *vac__rmap_find(struct vac_pool *pool, uint32_t family, uint32_t id)
{
	struct vac_space *s = vac__rmap_first(pool, family);

	while (s && s->id != id)
		s = s->next_in_family;
	return s;
}

/* The first space of a family, which is the oldest: the others follow by next_in_family, in the order in
 * which they were born. The lock is held. */
struct vac_space *vac__rmap_first(struct vac_pool *pool, uint32_t family)
{
	return family < VAC__MAX_SPACES ? vac__ld_rlx(&pool->families[family].first) : NULL;
}

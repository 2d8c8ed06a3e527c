/* SPDX-License-Identifier: MIT */
/*
 * The VMAs of a space: what is mapped, with which rights and advice.
 *
 * Invariants: a sorted array of disjoint runs, no two of which touch and agree; guarded by the space's
 * lock, and for whoever holds the family's lock, frozen.
 */
#include "internal.h"

/* Index of the first VMA that ends after page. */
uint32_t vac__vma_after(const struct vac_space *s, uint32_t page)
{
	uint32_t lo = 0, hi = s->nr_vmas;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->vmas[mid].end > page)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

const struct vac__vma *vac__vma_find(const struct vac_space *s, uint32_t page)
{
	uint32_t i = vac__vma_after(s, page);

	return i < s->nr_vmas && s->vmas[i].start <= page ? &s->vmas[i] : NULL;
}

void vac__vma_insert(struct vac_space *s, uint32_t at, struct vac__vma v)
{
	if (s->nr_vmas % 65536 == 0) /* see dense() in space.c */
		vac__port_table_dense(s->vmas, s->cap_vmas * sizeof(v), 0,
				      (s->nr_vmas + 65536) * sizeof(v));
	memmove(&s->vmas[at + 1], &s->vmas[at], (s->nr_vmas - at) * sizeof(v));
	s->vmas[at] = v;
	s->nr_vmas++;
}

/* Make page a border, if something is mapped across it. */
void vac__vma_cut(struct vac_space *s, uint32_t page)
{
	uint32_t i = vac__vma_after(s, page);

	if (i < s->nr_vmas && s->vmas[i].start < page) {
		struct vac__vma left = s->vmas[i];

		left.end = page;
		s->vmas[i].start = page;
		vac__vma_insert(s, i, left);
	}
}

void vac__vma_merge_around(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint32_t i = vac__vma_after(s, first ? first - 1 : 0);

	while (i + 1 < s->nr_vmas && s->vmas[i].start <= end) {
		struct vac__vma *a = &s->vmas[i], *b = a + 1;

		if (a->end != b->start || a->prot != b->prot || a->nohuge != b->nohuge ||
		    a->locked != b->locked || a->ring != b->ring) {
			i++;
			continue;
		}
		a->end = b->end;
		memmove(b, b + 1, (s->nr_vmas - i - 2) * sizeof(*b));
		s->nr_vmas--;
	}
}

/* The VMAs of another space, which are not locked into memory in this one, as they are not in a child of
 * fork(), and are memory that shows what a ring was: borders of such things are none. */
void vac__vma_inherit(struct vac_space *to, const struct vac_space *from)
{
	to->nr_vmas = 0;
	for (uint32_t i = 0; i < from->nr_vmas; i++) {
		struct vac__vma v = from->vmas[i];
		struct vac__vma *last = to->nr_vmas ? &to->vmas[to->nr_vmas - 1] : NULL;

		v.locked = v.ring = false;
		if (last && last->end == v.start && last->prot == v.prot &&
		    last->nohuge == v.nohuge)
			last->end = v.end;
		else
			to->vmas[to->nr_vmas++] = v;
	}
}

/* Room for the two borders that a change may add. */
bool vac__vma_room(const struct vac_space *s)
{
	return s->nr_vmas + 3 <= s->cap_vmas;
}

void vac__vma_remove(struct vac_space *s, uint32_t first, uint32_t end)
{
	uint32_t i, j;

	vac__vma_cut(s, first);
	vac__vma_cut(s, end);
	i = vac__vma_after(s, first);
	for (j = i; j < s->nr_vmas && s->vmas[j].start < end; j++)
		;
	memmove(&s->vmas[i], &s->vmas[j], (s->nr_vmas - j) * sizeof(s->vmas[0]));
	s->nr_vmas -= j - i;
}

/* Does a ring lie in the range? */
bool vac__vma_ring(const struct vac_space *s, uint32_t first, uint32_t end)
{
	for (uint32_t i = vac__vma_after(s, first); i < s->nr_vmas && s->vmas[i].start < end; i++)
		if (s->vmas[i].ring)
			return true;
	return false;
}

/* Is every page of the range mapped? */
bool vac__vma_covers(const struct vac_space *s, uint32_t first, uint32_t end)
{
	for (uint32_t i = vac__vma_after(s, first); first < end; i++) {
		if (i == s->nr_vmas || s->vmas[i].start > first)
			return false;
		first = s->vmas[i].end;
	}
	return true;
}

/* A hole of n pages, from a multiple of align on. */
bool vac__vma_hole(const struct vac_space *s, uint32_t n, uint32_t align, uint32_t *first)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i <= s->nr_vmas; i++) {
		uint32_t end = i < s->nr_vmas ? s->vmas[i].start : s->pages;

		at = (at + align - 1) / align * align;
		if (at + n <= end) {
			*first = (uint32_t)at;
			return true;
		}
		if (i < s->nr_vmas)
			at = s->vmas[i].end;
	}
	return false;
}

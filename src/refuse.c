/* SPDX-License-Identifier: MIT */
/*
 * Faults that cannot be served: what was missing, said while the thread still lives.
 *
 * The thread is about to get SIGBUS. Before that the pool's log gets one sentence with everything
 * that an operator needs to see which limit to raise, and the pool remembers the last one for
 * vac_last_fault(). All of it may run in a signal handler: the text is put together by hand, without
 * stdio, and the record's lock is only ever held with all signals blocked.
 */
#include "internal.h"

struct text {
	char *to;
	size_t left; /* without the NUL */
};

static void put(struct text *t, const char *s)
{
	while (*s && t->left) {
		*t->to++ = *s++;
		t->left--;
	}
	*t->to = '\0';
}

static void put_number(struct text *t, uint64_t v, unsigned base)
{
	char digits[24], *p = digits + sizeof(digits) - 1;

	*p = '\0';
	do {
		*--p = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	put(t, p);
}

static void put_kib(struct text *t, uint64_t bytes)
{
	put_number(t, (bytes + 1023) / 1024, 10);
	put(t, " KiB");
}

static void put_why(struct text *t, const struct vac_fault_info *i)
{
	switch (i->why) {
	case VAC_REFUSED_POOL:
		put(t, "the pool has no free frame: of ");
		put_kib(t, i->limit);
		put(t, " in online blocks ");
		put_kib(t, i->used);
		put(t, " are in use or leaving");
		break;
	case VAC_REFUSED_CGROUP:
		put(t, "the memory cgroup ");
		put(t, i->where);
		put(t, " is full: limit ");
		put_kib(t, i->limit);
		put(t, ", used ");
		put_kib(t, i->used);
		put(t, ", wanted with a reserve ");
		put_kib(t, i->need);
		break;
	case VAC_REFUSED_HOST:
		put(t, "the host is full: ");
		put_kib(t, i->limit - i->used);
		put(t, " available of ");
		put_kib(t, i->limit);
		put(t, ", wanted with a reserve ");
		put_kib(t, i->need);
		break;
	case VAC_REFUSED_MAPPINGS:
		put(t, "host mappings: ");
		put_number(t, i->used, 10);
		put(t, " in use of ");
		put_number(t, i->limit, 10);
		put(t, " (raise vm.max_map_count)");
		break;
	case VAC_REFUSED_SWAP: put(t, "the swap file cannot be read"); break;
	case VAC_REFUSED_KERNEL: put(t, "the kernel refused the memory"); break;
	case VAC_REFUSED_LOST: put(t, "the engine has lost track of the page"); break;
	}
}

static enum vac_refusal why_of(const struct vac__lack *lack)
{
	switch (lack->kind) {
	case VAC__LACK_CGROUP: return VAC_REFUSED_CGROUP;
	case VAC__LACK_HOST: return VAC_REFUSED_HOST;
	case VAC__LACK_MAPPINGS: return VAC_REFUSED_MAPPINGS;
	case VAC__LACK_KERNEL: return VAC_REFUSED_KERNEL;
	default: return VAC_REFUSED_POOL; /* the platform was not even asked */
	}
}

/* What cannot be read stays where it is: in the swap file. */
static enum vac_refusal lost_or_out(struct vac_space *s, uintptr_t addr)
{
	uint32_t page = (uint32_t)((addr - (uintptr_t)s->base) >> VAC__PAGE_SHIFT);

	return vac__e_swap(vac__entry_get(s, page)) ? VAC_REFUSED_SWAP : VAC_REFUSED_LOST;
}

/* A touch of addr in s is refused with err; what for, the platform has noted for this thread. */
void vac__refuse(struct vac_space *s, uintptr_t addr, unsigned access, int err)
{
	const struct vac__lack *lack = vac__port_lack();
	struct vac_pool *pool = s->pool;
	struct vac_fault_info i = {.size = sizeof(i),
				   .addr = addr,
				   .write = (access & VAC__WRITE) != 0,
				   .err = err,
				   .why = err == -EIO ? lost_or_out(s, addr) : why_of(lack),
				   .tid = vac__port_tid(),
				   .limit = err == -EIO ? 0 : lack->limit,
				   .used = err == -EIO ? 0 : lack->used,
				   .need = err == -EIO ? 0 : lack->need};
	struct text t = {i.text, sizeof(i.text) - 1};

	memcpy(i.space, s->name, sizeof(i.space));
	if (i.why == VAC_REFUSED_CGROUP)
		memcpy(i.where, lack->where, sizeof(i.where));
	if (i.why == VAC_REFUSED_POOL) {
		uint64_t total = vac__ld_rlx(&pool->nr_total);

		i.limit = total << VAC__PAGE_SHIFT;
		i.used = (total - vac__ld_rlx(&pool->nr_free) - vac__ld_rlx(&pool->nr_resv))
			 << VAC__PAGE_SHIFT;
		i.need = VAC_PAGE_BYTES;
	}
	put(&t, "pool \"");
	put(&t, pool->name);
	put(&t, "\", space \"");
	put(&t, s->name);
	put(&t, err == -EIO ? "\": no contents for 0x" : "\": no memory for 0x");
	put_number(&t, addr, 16);
	put(&t, ", SIGBUS for thread ");
	put_number(&t, i.tid, 10);
	put(&t, ": ");
	put_why(&t, &i);

	vac__lock(&pool->refused_lock, VAC__RANK_REFUSED);
	i.count = pool->refused.count + 1;
	pool->refused = i;
	vac__unlock(&pool->refused_lock, VAC__RANK_REFUSED);
	vac__log(pool, VAC_LOG_ERROR, i.text);
}

int vac_last_fault(struct vac_pool *pool, struct vac_fault_info *info)
{
	struct vac_fault_info i;

	if (vac__port_forked())
		return -EPERM;
	if (!info || info->size < sizeof(size_t) || info->size > sizeof(i))
		return -EINVAL;
	VAC__ENTER();
	vac__lock(&pool->refused_lock, VAC__RANK_REFUSED);
	i = pool->refused;
	vac__unlock(&pool->refused_lock, VAC__RANK_REFUSED);
	VAC__LEAVE();
	if (i.count == 0)
		return -ENOENT;
	i.size = info->size;
	memcpy(info, &i, i.size);
	return 0;
}

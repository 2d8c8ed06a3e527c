/* SPDX-License-Identifier: MIT */
/* Watching a block: see watch.h, and bpf/watch.bpf.c for the two ways. */
#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "walk.h"

/* ---- Symbols ---- */

struct symbol {
	uint64_t addr;
	char name[48];
};

static struct symbol *symbols;
static size_t n_symbols;

static int by_addr(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void read_symbols(struct host *h)
{
	FILE *f = host_fopen(h, "proc/kallsyms");
	size_t size = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		struct symbol s = {0};
		char type;

		if (sscanf(line, "%" SCNx64 " %c %47s", &s.addr, &type, s.name) != 3 || !s.addr ||
		    (type != 't' && type != 'T'))
			continue;
		if (n_symbols == size) {
			struct symbol *grown;

			size = size ? 2 * size : 65536;
			grown = realloc(symbols, size * sizeof(*grown));
			if (!grown)
				break;
			symbols = grown;
		}
		symbols[n_symbols++] = s;
	}
	if (f)
		fclose(f);
	if (n_symbols)
		qsort(symbols, n_symbols, sizeof(*symbols), by_addr);
}

const char *host_symbol(struct host *h, uint64_t addr, char *buf, size_t len)
{
	static bool read_once;
	size_t lo = 0, hi;

	if (!read_once)
		read_symbols(h);
	read_once = true;
	for (hi = n_symbols; lo < hi;) {
		size_t mid = lo + (hi - lo) / 2;

		if (symbols[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo)
		snprintf(buf, len, "%s+0x%" PRIx64, symbols[lo - 1].name,
			 addr - symbols[lo - 1].addr);
	else
		snprintf(buf, len, "0x%" PRIx64, addr);
	return buf;
}

#ifdef VAC_BPF

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include "watch.skel.h"

struct host_watch {
	struct watch_bpf *skel;
	struct ring_buffer *ring;
	host_watch_fn *fn;
	void *ctx;
	unsigned fexits;
};

static int event(void *ctx, void *data, size_t size)
{
	struct host_watch *w = ctx;

	if (size >= sizeof(struct watch_event))
		w->fn(w->ctx, data);
	return 0;
}

static bool is_fexit(const struct bpf_program *p)
{
	return !strncmp(bpf_program__section_name(p), "fexit/", 6);
}

/* Every way, or where trampolines are refused the tracepoint alone. */
static int load(struct host *h, const struct host_block *b, struct host_watch *w, bool fexits)
{
	struct bpf_program *p;
	int err;

	w->skel = watch_bpf__open();
	if (!w->skel)
		return -errno;
	bpf_object__for_each_program(p, w->skel->obj) if (is_fexit(p))
		bpf_program__set_autoload(p, fexits);
	w->skel->bss->lo_pfn = b->pfn;
	w->skel->bss->hi_pfn = b->pfn + b->frames;
	w->skel->bss->own_tgid = (unsigned)getpid();
	w->skel->bss->vmemmap = host_walk_vmemmap(h);
	err = watch_bpf__load(w->skel);
	if (err)
		goto fail;
	w->fexits = 0;
	w->skel->links.bio_queue = bpf_program__attach(w->skel->progs.bio_queue);
	bpf_object__for_each_program(p, w->skel->obj)
	{
		struct bpf_link *link;

		if (!fexits || !is_fexit(p))
			continue;
		link = bpf_program__attach(p);
		/* A function that this kernel has not, or has inlined, is no loss to the others. */
		if (link) {
			bpf_link__disconnect(link);
			w->fexits++;
		}
	}
	if (w->skel->links.bio_queue || w->fexits)
		return 0;
	err = -EOPNOTSUPP;
fail:
	watch_bpf__destroy(w->skel);
	w->skel = NULL;
	return err;
}

int host_watch_open(struct host *h, const struct host_block *b, host_watch_fn *fn, void *ctx,
		    struct host_watch **out)
{
	struct host_watch *w;
	int err = host_walk_open(h);

	*out = NULL;
	if (err)
		return host_fail(h, -EOPNOTSUPP, "%s", host_walk_why_not(h));
	w = calloc(1, sizeof(*w));
	if (!w)
		return host_fail(h, -ENOMEM, "out of memory");
	w->fn = fn;
	w->ctx = ctx;
	if (load(h, b, w, true))
		err = load(h, b, w, false);
	if (err) {
		free(w);
		return host_fail(h, -EOPNOTSUPP,
				 "this kernel refuses to trace pins (fexit) and block I/O "
				 "(tp_btf/block_bio_queue): %s",
				 strerror(-err));
	}
	w->ring = ring_buffer__new(bpf_map__fd(w->skel->maps.events), event, w, NULL);
	if (!w->ring) {
		host_watch_close(w);
		return host_fail(h, -ENOMEM, "the ring of events cannot be mapped");
	}
	*out = w;
	return 0;
}

void host_watch_close(struct host_watch *w)
{
	if (!w)
		return;
	ring_buffer__free(w->ring);
	watch_bpf__destroy(w->skel);
	free(w);
}

const char *host_watch_how(const struct host_watch *w)
{
	return w->fexits ? "fexit" : "block_bio_queue";
}

int host_watch_wait(struct host_watch *w, int timeout_ms)
{
	return ring_buffer__poll(w->ring, timeout_ms);
}

uint64_t host_watch_lost(const struct host_watch *w)
{
	return w->skel->bss->lost;
}

#else /* no BPF */

int host_watch_open(struct host *h, const struct host_block *b, host_watch_fn *fn, void *ctx,
		    struct host_watch **out)
{
	(void)b;
	(void)fn;
	(void)ctx;
	*out = NULL;
	return host_fail(h, -EOPNOTSUPP, "%s", host_walk_why_not(h));
}

void host_watch_close(struct host_watch *w)
{
	(void)w;
}

const char *host_watch_how(const struct host_watch *w)
{
	(void)w;
	return "";
}

int host_watch_wait(struct host_watch *w, int timeout_ms)
{
	(void)w;
	(void)timeout_ms;
	return -EOPNOTSUPP;
}

uint64_t host_watch_lost(const struct host_watch *w)
{
	(void)w;
	return 0;
}

#endif

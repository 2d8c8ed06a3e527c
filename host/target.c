/* SPDX-License-Identifier: MIT */
/*
 * Where could a block's pages go? What Linux's alloc_migration_target() may choose from: the other
 * nodes with memory if there are any, else the block's own node; free memory above the low
 * watermark, and what reclaim can free (file pages, and as much as swap takes).
 *
 * An estimate: it errs by what changes meanwhile, and by the caches that reclaim will not give up.
 */
#include "why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct node_memory {
	bool present;
	uint64_t free, low, managed, file;
};

#define NODES_MAX 1024

static int read_zones(struct host *h, struct node_memory *nodes)
{
	FILE *f = host_fopen(h, "proc/zoneinfo");
	char line[256], word[64];
	int node = -1, top = -1;

	while (f && fgets(line, sizeof(line), f)) {
		struct node_memory *m = node >= 0 ? &nodes[node] : NULL;
		uint64_t v;

		if (sscanf(line, "Node %d, zone %63s", &node, word) == 2) {
			if (node < 0 || node >= NODES_MAX)
				node = -1;
			top = node > top ? node : top;
			continue;
		}
		if (!m)
			continue;
		if (sscanf(line, " pages free %" SCNu64, &v) == 1)
			m->free += v;
		else if (sscanf(line, " low %" SCNu64, &v) == 1)
			m->low += v;
		else if (sscanf(line, " managed %" SCNu64, &v) == 1) {
			m->managed += v;
			m->present |= v != 0;
		} else if (sscanf(line, " nr_inactive_file %" SCNu64, &v) == 1 ||
			   sscanf(line, " nr_active_file %" SCNu64, &v) == 1) {
			/* "per-node stats", once a node; older kernels repeat it a zone. */
			m->file += v;
		}
	}
	if (f)
		fclose(f);
	return top + 1;
}

static uint64_t swap_frames(struct host *h)
{
	char buf[8192], *p;

	if (host_read(h, buf, sizeof(buf), "proc/meminfo") <= 0)
		return 0;
	p = strstr(buf, "SwapFree:");
	return p ? strtoull(p + 9, NULL, 10) * 1024 / h->page_bytes : 0;
}

/* Other nodes, unless this one is alone. */
static bool elsewhere(const struct node_memory *nodes, int n, int own, int node)
{
	if (!nodes[node].present)
		return false;
	if (node != own)
		return true;
	for (int i = 0; i < n; i++)
		if (i != own && nodes[i].present)
			return false;
	return true;
}

uint64_t target_frames(struct host *h, const struct host_block *b, const struct host_usage *u)
{
	struct node_memory *nodes = calloc(NODES_MAX, sizeof(*nodes));
	int n = nodes ? read_zones(h, nodes) : 0;
	uint64_t sum = 0;

	if (n <= 0) {
		free(nodes);
		return UINT64_MAX; /* nothing is known: no objection */
	}
	for (int i = 0; i < n; i++) {
		struct node_memory *m = &nodes[i];
		uint64_t have = m->free, lose = m->low;

		if (!elsewhere(nodes, n, b->node, i))
			continue;
		if (i == b->node) {
			lose += u->frames[HOST_FREE];
			m->file -= m->file < u->file ? m->file : u->file;
		}
		have += m->file;
		sum += have > lose ? have - lose : 0;
	}
	free(nodes);
	return sum + swap_frames(h);
}

/* Frames of free huge pages that the block's huge pages could move to: those in pools elsewhere, and
 * those that could be made of free memory, which for the first size is order 9 and above. */
uint64_t target_huge_frames(struct host *h, const struct host_block *b)
{
	FILE *f = host_fopen(h, "proc/buddyinfo");
	struct node_memory *nodes = calloc(NODES_MAX, sizeof(*nodes));
	int n = nodes ? read_zones(h, nodes) : 0, node;
	uint64_t sum = 0;
	char line[512];

	while (f && n > 0 && fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "zone");
		uint64_t in_zone = 0;

		if (!p || sscanf(line, "Node %d,", &node) != 1 || node < 0 || node >= n ||
		    !elsewhere(nodes, n, b->node, node) || strstr(line, "DMA "))
			continue;
		p += 4 + strspn(p + 4, " ");
		p += strcspn(p, " ");
		for (unsigned order = 0; *p && *p != '\n'; order++) {
			uint64_t k = strtoull(p, &p, 10);

			if (order >= 9 && order < 32)
				in_zone += k << order;
			while (*p == ' ')
				p++;
		}
		sum += in_zone;
	}
	if (f)
		fclose(f);
	for (int i = 0; i < n; i++) {
		DIR *d;
		struct dirent *e;

		if (!elsewhere(nodes, n, b->node, i))
			continue;
		d = host_opendir(h, "sys/devices/system/node/node%d/hugepages", i);
		while (d && (e = readdir(d))) {
			unsigned long kb;
			char text_of[32];

			if (sscanf(e->d_name, "hugepages-%lukB", &kb) == 1 &&
			    host_read(h, text_of, sizeof(text_of),
				      "sys/devices/system/node/node%d/hugepages/%s/free_hugepages",
				      i, e->d_name) > 0)
				sum += strtoull(text_of, NULL, 10) * kb * 1024 / h->page_bytes;
		}
		if (d)
			closedir(d);
	}
	free(nodes);
	return sum;
}

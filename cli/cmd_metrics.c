/* SPDX-License-Identifier: MIT */
/*
 * vacate metrics: figures for a collector, in the OpenMetrics text format, so that what would keep
 * blocks from leaving is seen long before somebody needs them to.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "host_target.h"
#include "out.h"

static const struct opt_ctx ctx = {"metrics"};

#define LOOKED_AT_MAX 16 /* blocks of which the holders are named, a tenth of a second each */

static void usage(void)
{
	puts("Usage: vacate metrics [OPTIONS] host\n"
	     "\n"
	     "Print the state of the host's memory blocks in the OpenMetrics text format: bytes by\n"
	     "node, zone and class; what could truly be removed; blocks by verdict; and bytes that are\n"
	     "held, by systemd unit, of at most 16 blocks, movable ones first. Reads only. As root.\n"
	     "\n"
	     "Options:\n"
	     "      --sysroot DIR  a machine that 'vacate capture' saved\n"
	     "  -h, --help         this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage.\n"
	     "\n"
	     "Example: vacate metrics host >/var/lib/node_exporter/vacate.prom");
}

struct cell {
	int node;
	char zone[16];
	uint64_t frames[HOST_CLASSES], online, removable, reserved;
	unsigned blocks[HOST_VERDICTS];
};

struct unit {
	char *name;
	const char *kind;
	uint64_t bytes;
};

struct metrics {
	struct host *h;
	struct host_usage *usage;
	enum host_verdict *verdict;
	bool refs_known;
	struct cell *cell;
	unsigned n_cells;
	struct unit *unit;
	unsigned n_units;
	unsigned held_blocks, looked_at;
};

static struct cell *cell_of(struct metrics *m, const struct host_block *b)
{
	struct cell *grown;

	for (unsigned i = 0; i < m->n_cells; i++)
		if (m->cell[i].node == b->node && !strcmp(m->cell[i].zone, b->zone))
			return &m->cell[i];
	grown = realloc(m->cell, (m->n_cells + 1) * sizeof(*grown));
	if (!grown)
		return NULL;
	m->cell = grown;
	memset(&grown[m->n_cells], 0, sizeof(*grown));
	grown[m->n_cells].node = b->node;
	memcpy(grown[m->n_cells].zone, b->zone, sizeof(b->zone));
	return &grown[m->n_cells++];
}

static int sum(struct metrics *m)
{
	for (unsigned i = 0; i < m->h->n_blocks; i++) {
		const struct host_block *b = &m->h->blocks[i];
		struct cell *c = cell_of(m, b);

		if (!c)
			return -1;
		m->verdict[i] = host_verdict_of(m->h, b, &m->usage[i], m->refs_known);
		c->blocks[m->verdict[i]]++;
		for (int k = 0; k < HOST_CLASSES; k++)
			c->frames[k] += m->usage[i].frames[k];
		c->reserved += m->usage[i].huge_reserved;
		c->online += b->state == HOST_OFFLINE ? 0 : b->frames;
		c->removable += m->verdict[i] == HOST_GOES ? b->frames : 0;
		m->held_blocks += m->usage[i].frames[HOST_HELD] != 0;
	}
	return 0;
}

static int add_unit(struct metrics *m, const char *name, const char *kind, uint64_t bytes)
{
	struct unit *grown;

	for (unsigned i = 0; i < m->n_units; i++)
		if (!strcmp(m->unit[i].name, name) && m->unit[i].kind == kind) {
			m->unit[i].bytes += bytes;
			return 0;
		}
	grown = realloc(m->unit, (m->n_units + 1) * sizeof(*grown));
	if (!grown)
		return -1;
	m->unit = grown;
	grown[m->n_units] = (struct unit){strdup(name), kind, bytes};
	return grown[m->n_units].name ? (m->n_units++, 0) : -1;
}

/* Two descriptors of one object are one holder. */
static bool counted(const struct host_why *w, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (w->holders[i].object && w->holders[k].object == w->holders[i].object)
			return true;
	return false;
}

static int name_holders(struct metrics *m)
{
	for (int movable = 1; movable >= 0; movable--)
		for (unsigned i = 0; i < m->h->n_blocks && m->looked_at < LOOKED_AT_MAX; i++) {
			const struct host_block *b = &m->h->blocks[i];
			struct host_why w;
			int err = 0;

			if (!m->usage[i].frames[HOST_HELD] ||
			    (strcmp(b->zone, "Movable") == 0) != movable)
				continue;
			m->looked_at++;
			if (host_why(m->h, b, &w))
				return -1;
			for (unsigned k = 0; k < w.n_holders && !err; k++) {
				const struct host_holder *o = &w.holders[k];

				if (o->blocks && o->kind != HOST_KIND_KERNEL &&
				    o->evidence != HOST_MAPPER && !counted(&w, k))
					err = add_unit(m,
						       o->unit[0]   ? o->unit
						       : o->comm[0] ? o->comm
								    : "unknown",
						       host_kind_name(o->kind),
						       o->pages * m->h->page_bytes);
			}
			host_why_free(&w);
			if (err)
				return err;
		}
	return 0;
}

/* A label's value, escaped as OpenMetrics has it: anybody may name a control group with a line feed in it. */
static void label(const char *s)
{
	for (; *s; s++) {
		if (*s == '"' || *s == '\\' || *s == '\n')
			putchar('\\');
		putchar(*s == '\n' ? 'n' : *s);
	}
}

static void where(const struct cell *c)
{
	printf("{node=\"%d\",zone=\"%s\"", c->node, c->zone);
}

static void family(const char *name, const char *unit, const char *help)
{
	printf("# TYPE %s gauge\n", name);
	if (unit)
		printf("# UNIT %s %s\n", name, unit);
	printf("# HELP %s %s\n", name, help);
}

/* A family of one value a cell: frames, at `offset` in it. */
static void amounts(const struct metrics *m, const char *name, const char *help, size_t offset)
{
	family(name, "bytes", help);
	for (unsigned i = 0; i < m->n_cells; i++) {
		const void *frames = (const char *)&m->cell[i] + offset;

		fputs(name, stdout);
		where(&m->cell[i]);
		printf("} %" PRIu64 "\n", *(const uint64_t *)frames * m->h->page_bytes);
	}
}

static void print(const struct metrics *m)
{
	uint64_t page = m->h->page_bytes;

	family("vacate_host_memory_bytes", "bytes", "Memory blocks' frames by what they hold.");
	for (unsigned i = 0; i < m->n_cells; i++)
		for (enum host_class c = 0; c < HOST_CLASSES; c++) {
			fputs("vacate_host_memory_bytes", stdout);
			where(&m->cell[i]);
			printf(",class=\"%s\"} %" PRIu64 "\n", host_class_name(c),
			       m->cell[i].frames[c] * page);
		}
	amounts(m, "vacate_host_online_bytes", "Memory that is online.",
		offsetof(struct cell, online));
	amounts(m, "vacate_host_removable_bytes",
		"Memory in blocks of which each by itself would go offline now.",
		offsetof(struct cell, removable));
	amounts(m, "vacate_host_hugetlb_reserved_bytes",
		"Free huge pages in blocks that were promised to mappings.",
		offsetof(struct cell, reserved));
	family("vacate_host_blocks", NULL, "Memory blocks by what offline would do with them now.");
	for (unsigned i = 0; i < m->n_cells; i++)
		for (enum host_verdict v = 0; v < HOST_VERDICTS; v++) {
			fputs("vacate_host_blocks", stdout);
			where(&m->cell[i]);
			printf(",verdict=\"%s\"} %u\n", host_verdict_name(v), m->cell[i].blocks[v]);
		}
	family("vacate_host_held_bytes", "bytes",
	       "Movable pages that are held directly, by systemd unit, else by command.");
	for (unsigned i = 0; i < m->n_units; i++) {
		fputs("vacate_host_held_bytes{unit=\"", stdout);
		label(m->unit[i].name);
		printf("\",kind=\"%s\"} %" PRIu64 "\n", m->unit[i].kind, m->unit[i].bytes);
	}
	family("vacate_host_held_blocks", NULL,
	       "Blocks with held pages, and how many were looked at.");
	printf("vacate_host_held_blocks{looked_at=\"no\"} %u\n"
	       "vacate_host_held_blocks{looked_at=\"yes\"} %u\n"
	       "# EOF\n",
	       m->held_blocks - m->looked_at, m->looked_at);
}

static int work(struct host_targets *t)
{
	struct metrics m = {.h = t->h};
	int rc = CMD_ERROR;

	m.usage = calloc(t->h->n_blocks, sizeof(*m.usage));
	m.verdict = calloc(t->h->n_blocks, sizeof(*m.verdict));
	if (!t->h->privileged)
		out_error("what blocks hold cannot be seen: %s",
			  t->h->live ? "run as root" : "the directory has no vacate/pages");
	else if (!m.usage || !m.verdict)
		out_error("out of memory");
	else if (host_survey(t->h, m.usage, &m.refs_known) || sum(&m) || name_holders(&m))
		out_error("%s", host_message(t->h)[0] ? host_message(t->h) : "out of memory");
	else {
		print(&m);
		rc = CMD_OK;
	}
	for (unsigned i = 0; i < m.n_units; i++)
		free(m.unit[i].name);
	free(m.unit);
	free(m.cell);
	free(m.usage);
	free(m.verdict);
	return rc;
}

int cmd_metrics(int argc, char **argv)
{
	static const struct option options[] = {
		{"sysroot", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	const char *sysroot = NULL;
	struct host_targets t;
	int c, rc;

	out_set_prefix("vacate metrics");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 's': sysroot = optarg; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	if (argc - optind > 1 || (argc > optind && strcmp(argv[optind], "host")))
		return opt_error(&ctx,
				 "'%s': there are metrics of the whole host only, as in "
				 "'vacate metrics host'",
				 argv[argc - optind > 1 ? optind + 1 : optind]);
	if (argc == optind && !sysroot)
		return opt_error(&ctx,
				 "of what? There are metrics of the host: 'vacate metrics host'");
	rc = host_targets_parse(&t, &ctx, sysroot, argv + optind, argc - optind);
	if (rc < 0)
		rc = work(&t);
	host_targets_free(&t);
	return rc;
}

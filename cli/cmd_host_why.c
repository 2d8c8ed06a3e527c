/* SPDX-License-Identifier: MIT */
/* vacate why host:N: what offline would do with a block, and who is in the way. Reads only. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "host_target.h"
#include "out.h"

static const struct opt_ctx ctx = {"why"};

static void usage(void)
{
	puts("Usage: vacate why [OPTIONS] host:BLOCK...\n"
	     "\n"
	     "Say what the kernel would do if blocks of the host's memory were set offline, and who\n"
	     "is in the way, by process, descriptor and kind. Moves nothing. As root all can be seen.\n"
	     "\n"
	     "Verdicts: goes; loops (tries for ever, until a signal); ebusy (refused); unkillable\n"
	     "(the writer would sleep beyond the reach of SIGKILL); no-target (nowhere to move to);\n"
	     "offline; not-known. Evidence: proof (found in the holder's own structure), likely\n"
	     "(references too many, and who maps the page), mapper-only.\n"
	     "\n"
	     "BLOCK: a number or a range, host:32 or host:32-35; all of a node or a device, host:node1,\n"
	     "host:dax0.0 or host:virtio0; host alone is every block.\n"
	     "\n"
	     "Options:\n"
	     "      --json         print one JSON object\n"
	     "      --all          list what moves by itself too, such as rings of AIO contexts\n"
	     "      --sysroot DIR  a machine that 'vacate capture' saved\n"
	     "  -h, --help         this text\n"
	     "\n"
	     "Exit status: 0 done, whatever the verdict; 1 error, 2 usage, 64 some blocks could not\n"
	     "be looked at.\n"
	     "\n"
	     "Example: vacate why host:32");
}

static void print_holder(const struct host *h, const struct host_holder *o)
{
	char size[SIZE_TEXT_MAX];

	printf("  %-11s %-17s %9s  ", host_evidence_name(o->evidence), host_kind_name(o->kind),
	       size_text(o->pages * h->page_bytes, size, sizeof(size)));
	if (o->pid)
		printf("pid %d (%s)", (int)o->pid, o->comm);
	else
		printf("%s", o->kind == HOST_KIND_KERNEL ? "the kernel" : "nobody that is known");
	if (o->tid)
		printf(" thread %d", (int)o->tid);
	if (o->fd >= 0)
		printf(", descriptor %d%s", o->fd, o->in_flight ? " (in flight)" : "");
	if (o->what[0])
		printf(" = %s", o->what);
	putchar('\n');
	printf("    %s\n", o->detail);
	if (!o->pid)
		return;
	printf("    user %s", o->user);
	if (o->unit[0] && !(o->container[0] && strstr(o->unit, o->container)))
		printf(", unit %s", o->unit);
	if (o->container[0])
		printf(", container %.12s", o->container);
	if (o->pod[0])
		printf(", pod %s", o->pod);
	if (o->age_s >= 0)
		printf(", for at least %.1f s", o->age_s);
	printf("%s%.160s\n", o->cmdline[0] ? ", command: " : "", o->cmdline);
}

static void print_usage(const struct host *h, const struct host_usage *u)
{
	char size[SIZE_TEXT_MAX];
	bool any = false;

	for (enum host_class c = 0; c < HOST_CLASSES; c++) {
		if (!u->frames[c])
			continue;
		printf("%s%s %s", any ? ", " : "  ", host_class_name(c),
		       size_text(u->frames[c] * h->page_bytes, size, sizeof(size)));
		any = true;
	}
	if (u->huge_reserved)
		printf(", of huge pages promised %s",
		       size_text(u->huge_reserved * h->page_bytes, size, sizeof(size)));
	if (any)
		putchar('\n');
}

static void print(const struct host *h, const struct host_block *b, const struct host_why *w,
		  bool all)
{
	printf("host:%" PRIu32 " (%s, node %d, zone %s%s%s): %s: %s\n", b->id,
	       host_state_name(b->state), b->node, b->zone, b->device[0] ? ", " : "", b->device,
	       host_verdict_name(w->verdict), w->reason);
	print_usage(h, &w->usage);
	for (unsigned i = 0; i < w->n_holders; i++)
		if (all || w->holders[i].blocks || w->holders[i].evidence == HOST_MAPPER)
			print_holder(h, &w->holders[i]);
	for (unsigned i = 0; i < w->n_blind; i++)
		printf("  not seen: %s\n", w->blind[i]);
	if (w->n_advice)
		puts("  next:");
	for (unsigned i = 0; i < w->n_advice; i++)
		printf("    %s\n", w->advice[i]);
}

static int look(struct host_targets *t, bool json, bool all)
{
	json_t *blocks = json_array();
	unsigned done = 0, failed = 0;
	struct host_why w;

	for (unsigned i = 0; i < t->n; i++) {
		const struct host_block *b = &t->h->blocks[t->block[i]];

		if (host_why(t->h, b, &w)) {
			out_error("host:%" PRIu32 ": %s", b->id,
				  host_message(t->h)[0] ? host_message(t->h) : "out of memory");
			failed++;
			continue;
		}
		if (json)
			json_array_append_new(blocks, host_why_json(t->h, b, &w));
		else
			print(t->h, b, &w, all);
		host_why_free(&w);
		done++;
	}
	if (!json)
		json_decref(blocks);
	else if (out_json(json_pack("{s:o}", "blocks", blocks)))
		return CMD_ERROR;
	return !failed ? CMD_OK : done ? CMD_PARTLY : CMD_ERROR;
}

int cmd_host_why(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"all", no_argument, NULL, 'a'},
		{"sysroot", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	const char *sysroot = NULL;
	bool json = false, all = false;
	struct host_targets t;
	int c, rc;

	out_set_prefix("vacate why");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'j': json = true; break;
		case 'a': all = true; break;
		case 's': sysroot = optarg; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	rc = host_targets_parse(&t, &ctx, sysroot, argv + optind, argc - optind);
	if (rc < 0)
		rc = look(&t, json, all);
	host_targets_free(&t);
	return rc;
}

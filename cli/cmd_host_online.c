/* SPDX-License-Identifier: MIT */
/* vacate online host:N: bring the host's own memory blocks back, into a zone. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_host.h"
#include "host/act.h"
#include "host_args.h"
#include "out.h"

static const struct opt_ctx ctx = {"online"};

/* The kernel's onlining does not wait for anybody but other hotplug. */
#define TIMEOUT_NS 60000000000

/* What is written. "movable" is the default, as everywhere here: memory that is to leave again. */
static const char *word_of(const char *zone)
{
	if (!strcmp(zone, "movable"))
		return "online_movable";
	if (!strcmp(zone, "kernel") || !strcmp(zone, "normal"))
		return "online_kernel";
	return strcmp(zone, "default") ? NULL : "online";
}

static int all(struct host *h, const struct host_args *a, const char *word, bool json)
{
	unsigned done = 0, failed = 0;
	json_t *list = json_array();

	for (unsigned i = 0; i < a->n; i++) {
		struct host_block *b = a->block[i];
		struct host_outcome o;
		bool ok;

		host_block_online(h, b, word, TIMEOUT_NS, &o);
		ok = o.result == HOST_DONE || o.result == HOST_ALREADY;
		done += ok;
		failed += !ok;
		if (json)
			json_array_append_new(
				list,
				json_pack("{s:I, s:i, s:s, s:s, s:b, s:i, s:s, s:f}", "block",
					  (json_int_t)b->id, "node", b->node, "zone", b->zone,
					  "result", host_result_name(o.result), "done", ok, "error",
					  o.err, "message", o.message, "seconds", o.seconds));
		else if (ok)
			printf("block %" PRIu32 " is online%s, zone %s\n", b->id,
			       o.result == HOST_ALREADY ? " already" : "", b->zone);
		if (!ok)
			out_error("block %" PRIu32 ": %s%s%s%s", b->id, host_result_name(o.result),
				  *o.message ? ": " : "", o.message,
				  o.err == -EINVAL ? "; the zone cannot take it: see valid_zones"
						   : "");
		host_outcome_free(&o);
	}
	if (json && out_json(json_pack("{s:O}", "blocks", list)))
		failed++;
	json_decref(list);
	return !failed ? CMD_OK : done ? CMD_PARTLY : CMD_ERROR;
}

enum { OPT_ZONE = 256, OPT_JSON, OPT_SYSROOT };

int cmd_host_online(int argc, char **argv)
{
	static const struct option options[] = {
		{"zone", required_argument, NULL, OPT_ZONE},
		{"json", no_argument, NULL, OPT_JSON},
		{"sysroot", required_argument, NULL, OPT_SYSROOT},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	const char *sysroot = NULL, *zone = "movable", *word;
	struct host_args args = {0};
	struct host *h = NULL;
	bool json = false;
	int c, rc;

	opterr = 0;
	optind = 1;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case OPT_ZONE: zone = optarg; break;
		case OPT_JSON: json = true; break;
		case OPT_SYSROOT: sysroot = optarg; break;
		case 'h': cmd_online_usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	word = word_of(zone);
	if (!word)
		return opt_error(
			&ctx, "--zone: '%s' is not a zone; movable, kernel and default are", zone);
	rc = host_args_open(&h, sysroot);
	if (rc >= 0)
		return rc;
	rc = host_args_parse(&args, &ctx, h, argv + optind, argc - optind);
	if (rc < 0)
		rc = args.n ? all(h, &args, word, json)
			    : opt_error(&ctx, "a block is missing: host:32 or host:node1");
	host_args_free(&args);
	host_close(h);
	return rc;
}

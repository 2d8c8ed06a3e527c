/* SPDX-License-Identifier: MIT */
/* vacate capture: save of this machine what the reading verbs read. */
#include <getopt.h>
#include <stdio.h>

#include "cmd.h"
#include "host/capture.h"
#include "host/walk.h"
#include "opt.h"
#include "out.h"

static const struct opt_ctx ctx = {"capture"};

static void usage(void)
{
	puts("Usage: vacate capture [OPTIONS] DIRECTORY\n"
	     "\n"
	     "Save of this machine what 'ls host' and 'why host:N' read, so that they can be asked\n"
	     "elsewhere with --sysroot DIRECTORY. No contents of any page are saved; the command\n"
	     "lines, users and descriptors of processes that hold pages are. As root.\n"
	     "DIRECTORY is made, and must be empty if it is there.\n"
	     "\n"
	     "Options:\n"
	     "  -h, --help   this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, 2 usage.");
}

int cmd_capture(int argc, char **argv)
{
	static const struct option options[] = {{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	struct host_captured n;
	const char *message;
	char size[SIZE_TEXT_MAX];
	struct host *h;
	int c, rc = CMD_OK;

	out_set_prefix("vacate capture");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (c != 'h')
			return opt_bad(&ctx, c, argv);
		usage();
		return CMD_OK;
	}
	if (argc == optind)
		return opt_error(&ctx, "into which directory?");
	if (argc - optind > 1)
		return opt_error(&ctx, "'%s' is too much: one directory is enough",
				 argv[optind + 1]);
	if (host_open(&h, NULL, &message)) {
		out_error("%s", message);
		return CMD_ERROR;
	}
	if (host_capture(h, argv[optind], &n)) {
		out_error("%s", host_message(h));
		rc = CMD_ERROR;
	} else {
		if (!h->privileged)
			out_msg("not root: what blocks hold could not be seen, and is not there");
		else if (host_walk_why_not(h))
			out_msg("who holds pages was not looked for: %s", host_walk_why_not(h));
		printf("%s: %u files, %u processes, %s\n", argv[optind], n.files, n.processes,
		       size_text(n.bytes, size, sizeof(size)));
	}
	host_close(h);
	return rc;
}

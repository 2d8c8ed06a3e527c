/* SPDX-License-Identifier: MIT */
/* vacate: finds the verb, and makes sure in the end that what was printed has arrived. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "out.h"
#include "vacate.h"

struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
};

static const struct verb verbs[] = {
	{"demo", cmd_demo, "take every block away from a live workload on real files"},
	{"stress", cmd_stress, "the same as a tool: workloads, sizes, rate, duration, seed"},
	{"ls", cmd_ls, "list pools of running programs, or the host's memory, by blocks"},
	{"why", cmd_why, "say who keeps a block from leaving, of a program or of the host"},
	{"offline", cmd_offline, "take blocks away from a running program, or from the host"},
	{"online", cmd_online, "give offline blocks memory again, of a program or of the host"},
	{"add", cmd_add, "add blocks to a running program's pool"},
	{"remove", cmd_remove, "make a running program forget offline blocks"},
	{"capture", cmd_capture, "save what the verbs read of this machine, for --sysroot"},
	{"watch", cmd_watch, "who pins pages of a block of the host, as it happens"},
	{"metrics", cmd_metrics, "figures of the host's memory for a collector (OpenMetrics)"},
	{"sim", cmd_sim, "the engine under a deterministic simulator: every schedule a seed"},
	{"bench", cmd_bench, "the measurements, each beside its peer"},
};

#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static void usage(void)
{
	puts("Usage: vacate VERB [OPTIONS] [ARGUMENTS]\n"
	     "\n"
	     "Take memory away from a running program without stopping it, and when a page cannot\n"
	     "leave, say who holds it.\n"
	     "\n"
	     "Verbs:");
	for (size_t i = 0; i < VERBS; i++)
		printf("  %-10s  %s\n", verbs[i].name, verbs[i].what);
	puts("\n"
	     "Options:\n"
	     "  -h, --help      this text; 'vacate VERB --help' or 'vacate help VERB' for a verb\n"
	     "  -V, --version   the version\n"
	     "\n"
	     "Data goes to standard output, messages and progress to standard error.\n"
	     "Exit status: 0 done, 1 error, 2 wrong usage; more with some verbs.");
}

static void list_verbs(void)
{
	for (size_t i = 0; i < VERBS; i++)
		fprintf(stderr, "%s%s", i ? ", " : "", verbs[i].name);
	fputs("\nTry 'vacate --help'.\n", stderr);
}

/* argv[0] is the verb; -1: there is no such. */
static int run_verb(int argc, char **argv)
{
	for (size_t i = 0; i < VERBS; i++) {
		if (!strcmp(argv[0], verbs[i].name))
			return verbs[i].run(argc, argv);
	}
	return -1;
}

static int run(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;
	int rc;

	if (!word) {
		fputs("vacate: a verb is missing; there are: ", stderr);
		list_verbs();
		return CMD_USAGE;
	}
	if (!strcmp(word, "-h") || !strcmp(word, "--help")) {
		usage();
		return CMD_OK;
	}
	if (!strcmp(word, "help")) {
		char *of[] = {argv[2], (char *)"--help", NULL};

		if (argc > 2 && (rc = run_verb(2, of)) >= 0)
			return rc;
		if (argc == 2) {
			usage();
			return CMD_OK;
		}
		word = argv[2];
	}
	if (!strcmp(word, "-V") || !strcmp(word, "--version")) {
		printf("vacate %s\n", vac_version());
		return CMD_OK;
	}
	rc = run_verb(argc - 1, argv + 1);
	if (rc >= 0)
		return rc;
	fprintf(stderr,
		"vacate: there is no %s '%s'; the verbs are: ", *word == '-' ? "option" : "verb",
		word);
	list_verbs();
	return CMD_USAGE;
}

int main(int argc, char **argv)
{
	int rc = run(argc, argv);

	if (out_close())
		rc = CMD_ERROR;
	return rc;
}

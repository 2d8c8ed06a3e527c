/* SPDX-License-Identifier: MIT */
/*
 * The verbs of the command, and what their exit statuses mean.
 *
 * A verb gets argc and argv as main() would, argv[0] being the verb. It reads its own options,
 * prints data on stdout and everything else on stderr, and answers one of enum cmd_exit. It does
 * not close stdout: main() does, once, and turns a failed write into CMD_ERROR.
 */
#ifndef CLI_CMD_H
#define CLI_CMD_H

enum cmd_exit {
	CMD_OK = 0,
	CMD_ERROR = 1,
	CMD_USAGE = 2,     /* the command line cannot be understood */
	CMD_HELD = 3,      /* pins keep a block from leaving */
	CMD_NO_TARGET = 4, /* there is no memory to move to */
	CMD_UNMOVABLE = 5, /* something that never moves */
	CMD_REFUSED = 6,   /* it could not have been undone */
	CMD_PARTLY = 64,   /* part of what was asked is done */
};

int cmd_demo(int argc, char **argv);
int cmd_stress(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_offline(int argc, char **argv);
int cmd_online(int argc, char **argv); /* this and the next two: cmd_block.c */
int cmd_add(int argc, char **argv);
int cmd_remove(int argc, char **argv);
int cmd_sim(int argc, char **argv);
/* Of the host's own memory; host_wanted() of host_target.h tells. */
int cmd_host_ls(int argc, char **argv);
int cmd_host_why(int argc, char **argv);
int cmd_capture(int argc, char **argv);
int cmd_metrics(int argc, char **argv);
int cmd_watch(int argc, char **argv);
int cmd_bench(int argc, char **argv); /* bench/bench.c */

#endif

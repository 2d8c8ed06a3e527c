/* SPDX-License-Identifier: MIT */
/* The halves of the verbs that act on the host's own blocks. They take the verb's whole command line. */
#ifndef CLI_CMD_HOST_H
#define CLI_CMD_HOST_H

int cmd_host_offline(int argc, char **argv);
int cmd_host_online(int argc, char **argv);

/* The texts of --help, which both halves share. */
void cmd_offline_usage(void);
void cmd_online_usage(void);

#endif

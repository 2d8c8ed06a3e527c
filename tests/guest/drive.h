/* SPDX-License-Identifier: MIT */
/* What rows that are more than a holder and an offline need of the driver. */
#ifndef TESTS_GUEST_DRIVE_H
#define TESTS_GUEST_DRIVE_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

struct row;

struct holder {
	pid_t pid;
	char name[16];
};

/* Start a planter, and wait until it holds. -1: it does not. */
int holder_start(struct holder *h, void (*plant)(void));
void holder_stop(struct holder *h);

uint64_t block_bytes(void);
int block_node(long block); /* -1: none */
int block_state(long block, char state[32]);
long first_block(int node); /* -1: it has none */

struct answer {
	pid_t pid;
	int rc; /* exit status; 128 and the signal, if one ended it */
	double seconds;
	char *text; /* what it printed */
	json_t *json;
};

/* Run vacate to its end; argv[0] is its name. Answers rc. answer_free() afterwards. */
int vacate_run(struct answer *a, const char *const *argv);
void answer_free(struct answer *a);

/* The row at hand fails, and why. */
void row_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif

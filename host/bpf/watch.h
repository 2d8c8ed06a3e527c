/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What watch.bpf.c and watch.c of the command say to each other. */
#ifndef HOST_BPF_WATCH_H
#define HOST_BPF_WATCH_H

#define WATCH_STACK 24
#define WATCH_DISK 32
#define WATCH_RUNS 16

enum watch_how {
	WATCH_BIO, /* a block device was given the page to read or write */
	WATCH_PIN, /* get_user_pages and its kin took a reference */
};

struct watch_event {
	unsigned long long pfn[WATCH_RUNS];
	unsigned long long ns; /* CLOCK_MONOTONIC */
	unsigned long long stack[WATCH_STACK];
	unsigned int len[WATCH_RUNS]; /* frames from pfn[i] on; 0 from the last run on */
	unsigned int n;               /* frames of the block, those of further runs too */
	unsigned int tgid, pid;
	unsigned char how, write, direct, pad;
	char comm[16];
	char disk[WATCH_DISK];
};

#endif

/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the BPF programs of walk.bpf.c and walk.c of the command say to each other. */
#ifndef HOST_BPF_WALK_H
#define HOST_BPF_WALK_H

enum walk_kind {
	WALK_PIPE,
	WALK_URING,
	WALK_SOCKET,
	WALK_AIO,
	WALK_FUSE,   /* no frames: this descriptor serves the file system on device `object` */
	WALK_OPENER, /* no frames: this descriptor is of the `pfn`-th inode that was asked for */
};

#define WALK_IN_FLIGHT 1 /* the descriptor itself lies in a socket: SCM_RIGHTS */
#define WALK_RECEIVED 2  /* a socket's fragment that was received and not yet read */
#define WALK_PINNED 4    /* by a long-term pin, not a plain reference */
#define WALK_ACCEPT 8    /* of a connection that waits to be accepted */

/* A run of frames that one descriptor, or one AIO context, refers to. */
struct walk_rec {
	unsigned long long pfn;
	unsigned long long object; /* the pipe, ring, socket or context: only to tell them apart */
	unsigned int n;
	unsigned int tgid;
	int fd;
	unsigned char kind;
	unsigned char flags;
	unsigned short pad;
};

struct walk_page {
	unsigned long long mapping;
	unsigned int refs;
	int mapcount; /* as stored: -1 is none; typed pages have something far below */
	int large;    /* of the head of a large folio: its mapcount as stored, if there is one */
	int entire;   /* the same: mappings of the whole folio, as stored */
};

#define WALK_INODES 16
#define WALK_FILES 64 /* files of one descriptor: itself, and what lies in flight in it */

struct walk_inode {
	unsigned long long mapping; /* given */
	unsigned long long inode;   /* found */
	unsigned long long ino;
	unsigned int dev;
	char fstype[16];
	char bdev[32]; /* the disk beneath, "" where there is none */
};

#endif

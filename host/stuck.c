/* SPDX-License-Identifier: MIT */
/*
 * Frames that stay locked, or under writeback. Offline waits for both without a signal being able to
 * end it, so they matter more than any holder. Who could let go is whoever serves the file: the
 * server of a FUSE file system, or a device.
 */
#include "why.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_FILE WALK_INODES

struct pile {
	uint64_t pages, first;
};

static unsigned file_of(const struct job *j, const struct host_page *g)
{
	unsigned k = 0;

	while (k < j->f.n_file && j->f.file[k].mapping != g->mapping)
		k++;
	return k < j->f.n_file && j->f.file[k].fstype[0] ? k : NO_FILE;
}

/* FUSE servers that are not known to be this one: who has /dev/fuse open. */
static int add_candidates(struct job *j, const struct pile *p)
{
	DIR *d = host_opendir(j->h, "proc");
	struct dirent *e;
	int err = 0;

	while (d && !err && (e = readdir(d))) {
		DIR *fds;
		struct dirent *fe;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		fds = host_opendir(j->h, "proc/%s/fd", e->d_name);
		while (fds && !err && (fe = readdir(fds))) {
			struct host_holder o = {.kind = HOST_KIND_FUSE, .evidence = HOST_MAPPER};
			char link[64];

			if (host_readlink(j->h, link, sizeof(link), "proc/%s/fd/%s", e->d_name,
					  fe->d_name) <= 0 ||
			    strcmp(link, "/dev/fuse"))
				continue;
			o.pid = atoi(e->d_name);
			o.fd = atoi(fe->d_name);
			o.detail = text("serves a FUSE file system; whether this one is not known");
			err = job_add(j, &o, p->first, p->pages);
			break;
		}
		if (fds)
			closedir(fds);
	}
	if (d)
		closedir(d);
	return err;
}

static bool is_fuse(const char *fstype)
{
	return !strncmp(fstype, "fuse", 4);
}

/* The server, then who has the file open. */
static int add_file(struct job *j, unsigned k, bool writeback, const struct pile *p)
{
	const struct walk_inode *file = &j->f.file[k];
	bool fuse = is_fuse(file->fstype);
	unsigned servers = 0;
	int err = 0;

	for (unsigned i = 0; i < j->f.n_rec && !err; i++) {
		const struct walk_rec *r = &j->f.rec[i];
		struct host_holder o = {.evidence = HOST_PROOF, .blocks = true};

		o.kind = fuse ? HOST_KIND_FUSE : writeback ? HOST_KIND_WRITEBACK : HOST_KIND_LOCKED;
		o.pid = (pid_t)r->tgid;
		o.fd = r->fd;
		if (r->kind == WALK_FUSE && fuse && r->object == file->dev) {
			servers++;
			o.object = r->object;
			o.detail = text("serves FUSE connection %u, which does not answer for "
					"inode %llu",
					file->dev & 0xfffff, file->ino);
		} else if (r->kind == WALK_OPENER && (r->pfn & 0xffff) == k) {
			o.evidence = HOST_MAPPER;
			o.blocks = false;
			o.detail = text("has the file open whose page is %s: %s, inode %llu",
					writeback ? "being written" : "being read", file->fstype,
					file->ino);
		} else {
			continue;
		}
		err = job_add(j, &o, p->first, p->pages);
	}
	if (!err && !servers) {
		struct host_holder o = {.evidence = HOST_PROOF, .blocks = true, .fd = -1};

		o.kind = fuse ? HOST_KIND_FUSE : writeback ? HOST_KIND_WRITEBACK : HOST_KIND_LOCKED;
		o.detail = fuse ? text("FUSE connection %u does not answer, and has no server that "
				       "can be seen",
				       file->dev & 0xfffff)
				: text("%s of a page of %s, inode %llu, does not end; device %s",
				       writeback ? "writeback" : "the read", file->fstype,
				       file->ino, file->bdev[0] ? file->bdev : "unknown");
		err = job_add(j, &o, p->first, p->pages);
	}
	return err;
}

static int add_unknown(struct job *j, bool writeback, const struct pile *p)
{
	struct host_holder o = {.evidence = HOST_PROOF, .blocks = true, .fd = -1};
	int err;

	o.kind = writeback ? HOST_KIND_WRITEBACK : HOST_KIND_LOCKED;
	o.detail = text("%s in two samples; by whom is not known",
			writeback ? "under writeback" : "locked");
	err = job_add(j, &o, p->first, p->pages);
	return err || writeback || j->f.walked ? err : add_candidates(j, p);
}

int stuck_add(struct job *j)
{
	struct pile piles[2][WALK_INODES + 1] = {0};
	int err = 0;

	for (uint64_t i = 0; i < j->p.n; i++) {
		const struct host_page *g = &j->p.page[i];
		struct pile *p;

		if (g->class != HOST_LOCKED && g->class != HOST_WRITEBACK)
			continue;
		p = &piles[g->class == HOST_WRITEBACK][file_of(j, &j->p.page[j->head[i]])];
		if (!p->pages++)
			p->first = j->p.pfn + i;
	}
	for (int wb = 0; wb < 2; wb++)
		for (unsigned k = 0; k <= NO_FILE && !err; k++)
			if (piles[wb][k].pages)
				err = k < NO_FILE ? add_file(j, k, wb, &piles[wb][k])
						  : add_unknown(j, wb, &piles[wb][k]);
	return err;
}

/* SPDX-License-Identifier: MIT */
/* Saving a machine: see capture.h. */
#include "capture.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "facts.h"
#include "pages.h"

#define CHUNK_FRAMES (1ULL << 20) /* looked at together, with one wait between the two samples */
#define WAIT_MS 60
#define FILE_MAX (1 << 20)

struct saver {
	struct host *h;
	int dir;
	struct facts f;
	struct frame_set set; /* frames whose mappers matter */
	struct host_captured n;
};

/* ---- Files ---- */

static int make_parents(int dir, const char *path)
{
	char part[PATH_MAX];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		if (mkdirat(dir, part, 0700) && errno != EEXIST)
			return -errno;
	}
	return 0;
}

static int put(struct saver *s, const char *path, const char *data, size_t len)
{
	int err = make_parents(s->dir, path), fd;

	if (err)
		return err;
	fd = openat(s->dir, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno == EEXIST ? 0 : -errno;
	while (len && !err) {
		ssize_t n = write(fd, data, len);

		if (n < 0) {
			err = errno == EINTR ? 0 : -errno;
			continue;
		}
		data += n;
		len -= (size_t)n;
		s->n.bytes += (uint64_t)n;
	}
	if (close(fd) && !err)
		err = -errno;
	s->n.files++;
	return err;
}

/* A file as it is; one that cannot be read is not there. */
static int copy(struct saver *s, const char *fmt, ...)
{
	char path[PATH_MAX], *buf;
	va_list ap;
	ssize_t n;
	int err = 0;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	buf = malloc(FILE_MAX);
	if (!buf)
		return -ENOMEM;
	n = host_read(s->h, buf, FILE_MAX, "%s", path);
	if (n >= 0)
		err = put(s, path, buf, (size_t)n);
	free(buf);
	return err;
}

static int copy_link(struct saver *s, const char *fmt, ...)
{
	char path[PATH_MAX], to[PATH_MAX];
	va_list ap;
	int err;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (host_readlink(s->h, to, sizeof(to), "%s", path) <= 0)
		return 0;
	err = make_parents(s->dir, path);
	if (!err && symlinkat(to, s->dir, path) && errno != EEXIST)
		err = -errno;
	s->n.files += !err;
	return err;
}

/* ---- The machine ---- */

#define MEMORY "sys/devices/system/memory"

static int save_blocks(struct saver *s)
{
	static const char *const of_block[] = {"state", "valid_zones", "removable", "phys_index"};
	int err = copy(s, MEMORY "/block_size_bytes");

	if (!err)
		err = copy(s, MEMORY "/auto_online_blocks");
	for (unsigned i = 0; i < s->h->n_blocks && !err; i++) {
		const struct host_block *b = &s->h->blocks[i];

		for (unsigned k = 0; k < 4 && !err; k++)
			err = copy(s, MEMORY "/memory%u/%s", b->id, of_block[k]);
		if (!err && b->node >= 0)
			err = copy_link(s, MEMORY "/memory%u/node%d", b->id, b->node);
		if (!err)
			err = copy_link(s, MEMORY "/memory%u/firmware_node", b->id);
	}
	return err;
}

/* All pools of huge pages below a directory. */
static int save_pools(struct saver *s, const char *at)
{
	static const char *const of_pool[] = {"nr_hugepages", "free_hugepages", "resv_hugepages",
					      "surplus_hugepages", "nr_overcommit_hugepages"};
	DIR *d = host_opendir(s->h, "%s", at);
	struct dirent *e;
	int err = 0;

	while (d && !err && (e = readdir(d)))
		for (unsigned k = 0; k < 5 && !err && e->d_name[0] == 'h'; k++)
			err = copy(s, "%s/%s/%s", at, e->d_name, of_pool[k]);
	if (d)
		closedir(d);
	return err;
}

static int save_machine(struct saver *s)
{
	static const char *const files[] = {"proc/iomem", "proc/zoneinfo", "proc/buddyinfo",
					    "proc/meminfo", "proc/version"};
	DIR *d = host_opendir(s->h, "sys/devices/system/node");
	struct dirent *e;
	int err = save_blocks(s);

	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]) && !err; i++)
		err = copy(s, "%s", files[i]);
	if (!err)
		err = save_pools(s, "sys/kernel/mm/hugepages");
	while (d && !err && (e = readdir(d))) {
		char at[128];

		if (strncmp(e->d_name, "node", 4) || !isdigit((unsigned char)e->d_name[4]))
			continue;
		snprintf(at, sizeof(at), "sys/devices/system/node/%.32s/hugepages", e->d_name);
		err = save_pools(s, at);
	}
	if (d)
		closedir(d);
	return err;
}

/* ---- Frames ---- */

static unsigned file_number(void *ctx, uint64_t mapping)
{
	const struct facts *f = ctx;

	for (unsigned k = 0; k < f->n_file; k++)
		if (f->file[k].mapping == mapping)
			return k + 1;
	return 0;
}

static void want_mappers(struct saver *s, const struct host_pages *p)
{
	for (uint64_t i = 0; i < p->n; i++)
		if (p->page[i].class == HOST_HELD || p->page[i].class == HOST_LOCKED ||
		    p->page[i].class == HOST_WRITEBACK || p->page[i].class == HOST_HUGETLB_USED)
			frame_set_add(&s->set, p->pfn + i);
}

static int save_frames(struct saver *s, FILE *f)
{
	const struct host *h = s->h;
	unsigned i = 0;
	int err = 0;

	fprintf(f, "# vacate pages 1: PFN COUNT FLAGS MAPCOUNT REFS EXCESS MAPPING MAP_TOTAL\n");
	while (i < h->n_blocks && !err) {
		uint64_t pfn = h->blocks[i].pfn, n = 0;
		struct host_pages p;

		for (; i < h->n_blocks && h->blocks[i].pfn == pfn + n && n < CHUNK_FRAMES; i++)
			n += h->blocks[i].frames;
		err = host_pages_read(s->h, pfn, n, WAIT_MS, &p);
		if (err)
			break;
		facts_stuck_files(&p, &s->f);
		want_mappers(s, &p);
		err = host_saved_write(f, &p, file_number, &s->f);
		host_pages_free(&p);
	}
	return err;
}

static int save_pages(struct saver *s)
{
	int err = make_parents(s->dir, "vacate/pages"), fd;
	FILE *f;

	if (err)
		return err;
	fd = openat(s->dir, "vacate/pages", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	err = save_frames(s, f);
	s->n.bytes += (uint64_t)ftell(f);
	if (fclose(f) && !err)
		err = -errno;
	s->n.files++;
	return err;
}

/* ---- Processes ---- */

/* Of /etc/passwd the line of one user. */
static int save_user(struct saver *s, char *users, size_t size, unsigned uid)
{
	FILE *f = host_fopen(s->h, "etc/passwd");
	char line[512];
	unsigned other;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*[^:]:%*[^:]:%u:", &other) == 1 && other == uid &&
		    !strstr(users, line) && strlen(users) + strlen(line) < size)
			strcat(users, line);
	if (f)
		fclose(f);
	return 0;
}

static int save_threads(struct saver *s, pid_t pid)
{
	DIR *d = host_opendir(s->h, "proc/%d/task", (int)pid);
	struct dirent *e;
	int err = 0;

	while (d && !err && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]))
			err = copy(s, "proc/%d/task/%s/syscall", (int)pid, e->d_name);
	if (d)
		closedir(d);
	return err;
}

static int save_fds(struct saver *s, pid_t pid)
{
	DIR *d = host_opendir(s->h, "proc/%d/fd", (int)pid);
	struct dirent *e;
	int err = 0;

	while (d && !err && (e = readdir(d))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		err = copy_link(s, "proc/%d/fd/%s", (int)pid, e->d_name);
		if (!err)
			err = copy(s, "proc/%d/fdinfo/%s", (int)pid, e->d_name);
	}
	if (d)
		closedir(d);
	return err;
}

static int save_process(struct saver *s, pid_t pid, char *users, size_t size)
{
	static const char *const files[] = {"comm", "cmdline", "cgroup", "stat", "status"};
	char status[4096], *p, path[64];
	struct stat st;
	int err = 0;

	snprintf(path, sizeof(path), "proc/%d/stat", (int)pid);
	if (!fstatat(s->dir, path, &st, 0))
		return 0;
	for (unsigned i = 0; i < 5 && !err; i++)
		err = copy(s, "proc/%d/%s", (int)pid, files[i]);
	if (!err)
		err = save_threads(s, pid);
	if (!err)
		err = save_fds(s, pid);
	if (!err && host_read(s->h, status, sizeof(status), "proc/%d/status", (int)pid) > 0) {
		p = strstr(status, "\nUid:");
		if (p)
			err = save_user(s, users, size, (unsigned)strtoul(p + 5, NULL, 10));
	}
	s->n.processes++;
	return err;
}

static int save_processes(struct saver *s)
{
	char *users = calloc(1, FILE_MAX);
	int err = users ? 0 : -ENOMEM;

	for (unsigned i = 0; i < s->f.n_rec && !err; i++)
		err = save_process(s, (pid_t)s->f.rec[i].tgid, users, FILE_MAX);
	for (size_t i = 0; i < s->f.n_map && !err; i++)
		if (!i || s->f.map[i].pid != s->f.map[i - 1].pid)
			err = save_process(s, s->f.map[i].pid, users, FILE_MAX);
	if (!err)
		err = put(s, "etc/passwd", users, strlen(users));
	free(users);
	return err;
}

static int save_facts(struct saver *s)
{
	json_t *j = facts_to_json(&s->f);
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	int err = text ? put(s, "vacate/walk.json", text, strlen(text)) : -ENOMEM;

	free(text);
	json_decref(j);
	return err;
}

/* ---- All of it ---- */

static bool is_empty(int dir)
{
	int fd = dup(dir);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	bool empty = d;

	while (d && (e = readdir(d)))
		empty &= !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
	if (d)
		closedir(d);
	return empty;
}

int host_capture(struct host *h, const char *dir, struct host_captured *out)
{
	const struct host_block *last = &h->blocks[h->n_blocks - 1];
	struct saver s = {.h = h, .dir = -1};
	int err;

	if (!h->live)
		return host_fail(h, -EINVAL, "a captured machine cannot be captured again");
	if (mkdir(dir, 0700) && errno != EEXIST)
		return host_fail(h, -errno, "%s: %s", dir, strerror(errno));
	s.dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.dir < 0)
		return host_fail(h, -errno, "%s: %s", dir, strerror(errno));
	if (!is_empty(s.dir)) {
		close(s.dir);
		return host_fail(h, -EEXIST, "%s: is not empty; name a directory that is, or none",
				 dir);
	}
	err = frame_set_init(&s.set, h->blocks[0].pfn, last->pfn + last->frames - h->blocks[0].pfn);
	if (!err)
		err = save_machine(&s);
	if (!err && h->privileged) {
		err = save_pages(&s);
		if (!err)
			err = facts_walk(h, NULL, 0, UINT64_MAX >> 13, &s.f);
		if (!err)
			err = facts_map(h, &s.set, &s.f);
		if (!err)
			err = save_processes(&s);
		if (!err)
			err = save_facts(&s);
	}
	if (err && !h->message[0])
		host_fail(h, err, "%s: %s", dir, strerror(-err));
	frame_set_free(&s.set);
	facts_free(&s.f);
	close(s.dir);
	*out = s.n;
	return err;
}

/* SPDX-License-Identifier: MIT */
/*
 * Who maps certain frames: the page tables of every process, as /proc/PID/pagemap shows them.
 *
 * Time is linear in memory that is present. Where the kernel has PAGEMAP_SCAN (6.7), what is not
 * present costs nothing; before, a mapping that is far larger than what its process has in memory is
 * left out, and that is said.
 */
#include "facts.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CHUNK 4096 /* entries a read */
#define SPARSE_MAX (64ULL << 30)

#define PM_PRESENT (1ULL << 63)
#define PM_PFN ((1ULL << 55) - 1)

/* linux/fs.h of 6.7. */
struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)
#define SCAN_PRESENT (1ULL << 3)

struct scan {
	struct host *h;
	const struct frame_set *set;
	struct facts *f;
	pid_t pid;
	int fd;
	bool no_ioctl;
	uint64_t buf[CHUNK];
};

/* Entries of present memory. 0, -ENOMEM, or the process has gone. */
static int read_entries(struct scan *s, uint64_t start, uint64_t end)
{
	uint32_t page = s->h->page_bytes;

	while (start < end) {
		uint64_t want = (end - start) / page;
		ssize_t n;

		n = pread(s->fd, s->buf, sizeof(*s->buf) * (want < CHUNK ? want : CHUNK),
			  (off_t)(start / page * sizeof(*s->buf)));
		if (n < (ssize_t)sizeof(*s->buf))
			return 0;
		n /= (ssize_t)sizeof(*s->buf);
		for (ssize_t i = 0; i < n; i++) {
			uint64_t pfn = s->buf[i] & PM_PFN;

			if (s->buf[i] & PM_PRESENT && frame_set_has(s->set, pfn) &&
			    facts_add_run(s->f, s->pid, pfn, 1, start + (uint64_t)i * page, page))
				return -ENOMEM;
		}
		start += (uint64_t)n * page;
	}
	return 0;
}

static int read_vma(struct scan *s, uint64_t start, uint64_t end)
{
	struct scan_region r[64];
	int err = 0;

	while (!s->no_ioctl && start < end && !err) {
		struct scan_arg a = {.size = sizeof(a),
				     .start = start,
				     .end = end,
				     .vec = (uintptr_t)r,
				     .vec_len = 64,
				     .category_mask = SCAN_PRESENT,
				     .return_mask = SCAN_PRESENT};
		int n = ioctl(s->fd, SCAN_IOCTL, &a);

		if (n < 0) {
			s->no_ioctl = errno == ENOTTY || errno == EINVAL;
			if (!s->no_ioctl)
				return 0;
			break;
		}
		for (int i = 0; i < n && !err; i++)
			err = read_entries(s, r[i].start, r[i].end);
		if (a.walk_end <= start)
			return err;
		start = a.walk_end;
	}
	if (err || start >= end)
		return err;
	if (end - start > SPARSE_MAX) {
		facts_lack(s->f,
			   "of process %d, a mapping of %" PRIu64
			   " GiB was not searched: this kernel has no PAGEMAP_SCAN",
			   (int)s->pid, (end - start) >> 30);
		return 0;
	}
	return read_entries(s, start, end);
}

static int scan_process(struct scan *s)
{
	FILE *maps = host_fopen(s->h, "proc/%d/maps", (int)s->pid);
	char line[512];
	int err = 0;

	if (!maps)
		return 0;
	s->fd = host_openat(s->h, O_RDONLY, "proc/%d/pagemap", (int)s->pid);
	while (s->fd >= 0 && !err && fgets(line, sizeof(line), maps)) {
		uint64_t a, b;

		if (!strchr(line, '\n')) { /* a long path: the rest is no line of its own */
			int c;

			while ((c = fgetc(maps)) != EOF && c != '\n')
				;
		}
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &a, &b) == 2 && a < b &&
		    !strstr(line, "[vsyscall]"))
			err = read_vma(s, a, b);
	}
	if (s->fd >= 0)
		close(s->fd);
	fclose(maps);
	return err;
}

int mappers_scan(struct host *h, const struct frame_set *set, struct facts *f)
{
	struct scan *s = calloc(1, sizeof(*s));
	DIR *d = host_opendir(h, "proc");
	struct dirent *e;
	int err = s && d ? 0 : -ENOMEM;

	while (!err && (e = readdir(d))) {
		char statm[64];
		unsigned long resident = 0;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (host_read(h, statm, sizeof(statm), "proc/%s/statm", e->d_name) <= 0 ||
		    sscanf(statm, "%*u %lu", &resident) != 1)
			continue;
		/* hugetlb is not in there: a process with only that still has a stack. */
		if (!resident)
			continue;
		s->h = h;
		s->set = set;
		s->f = f;
		s->pid = atoi(e->d_name);
		err = scan_process(s);
	}
	if (d)
		closedir(d);
	free(s);
	return err;
}

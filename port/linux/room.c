/* SPDX-License-Identifier: MIT */
/*
 * Is there room for another pageblock? A memory cgroup that is full answers the touch of a page by
 * an out-of-memory kill, and so does a host that is full; neither is an answer that a library may
 * bring about. So before memory is touched, the limits are looked at: those of the process's memory
 * cgroup and of all its ancestors (version 1 or 2), and what the host has available.
 *
 * How exact is it? Far from every limit it costs a few reads and is always right. Near one
 * (less than NEAR left) the file cache that the kernel could drop is counted as room, and MARGIN is
 * kept for what is charged besides: page tables, and pages that other threads touch meanwhile. Grants
 * of this pool that are not charged yet are counted, so that its own threads do not race. Against
 * another process that takes the last MARGIN in the same millisecond there is no protection: the
 * kernel has no way to touch shared memory that fails instead of killing. (A 2 MiB charge does fail;
 * memfd.c tries that one first.)
 *
 * What a swap device could take is not counted as room: a pool is for memory that stays.
 *
 * The process's cgroup is looked up again when its name in /proc/self/cgroup has changed, at most
 * once a second. Everything here may run in the SIGSEGV handler, on its stack: buffers are small.
 */
#include <string.h>
#include <sys/sysinfo.h>

#include "port/linux/linux.h"

#define MIB ((uint64_t)1 << 20)
#define NEAR (16 * MIB)
#define MARGIN (4 * MIB)
#define RECHECK_NS 1000000000u

/* ---- Lines of small files, without stdio ----------------------------------------------------- */

struct lines {
	int fd;
	unsigned pos, len;
	char buf[512];
	char line[768]; /* longer lines are cut */
};

static bool next_line(struct lines *l)
{
	unsigned n = 0;
	bool any = false;

	for (;;) {
		if (l->pos == l->len) {
			long r = vac__sys_read(l->fd, l->buf, sizeof(l->buf));

			l->pos = 0;
			l->len = r > 0 ? (unsigned)r : 0;
			if (!l->len)
				break;
		}
		any = true;
		if (l->buf[l->pos] == '\n') {
			l->pos++;
			break;
		}
		if (n < sizeof(l->line) - 1)
			l->line[n++] = l->buf[l->pos];
		l->pos++;
	}
	l->line[n] = 0;
	return any;
}

static bool parse_number(const char *s, uint64_t *v)
{
	if (*s < '0' || *s > '9')
		return false; /* "max" */
	for (*v = 0; *s >= '0' && *s <= '9'; s++)
		*v = *v * 10 + (uint64_t)(*s - '0');
	return true;
}

static bool read_number(int fd, uint64_t *v)
{
	char buf[32];
	long n = vac__sys_pread(fd, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		return false;
	buf[n] = 0;
	return parse_number(buf, v);
}

/* Is word one of the comma-separated words of list, which ends at a NUL or at stop? */
static bool has_word(const char *list, const char *word, char stop)
{
	size_t n = strlen(word);

	for (const char *p = list; *p && *p != stop; p++)
		if ((p == list || p[-1] == ',') && !strncmp(p, word, n) &&
		    (p[n] == ',' || p[n] == stop || !p[n]))
			return true;
	return false;
}

/* The k-th field (from 0) of a line of fields separated by blanks; "" if there are fewer. */
static const char *field(const char *line, unsigned k)
{
	while (k-- && line) {
		line = strchr(line, ' ');
		if (line)
			line++;
	}
	return line ? line : "";
}

static void copy_field(char *to, size_t bytes, const char *from)
{
	size_t n = strcspn(from, " ");

	if (n >= bytes)
		n = bytes - 1;
	memcpy(to, from, n);
	to[n] = 0;
}

/* ---- Which cgroups --------------------------------------------------------------------------- */

struct where {
	char path[256]; /* of the process in the hierarchy */
	char dir[384];  /* directory of the cgroup as it is mounted here */
	size_t top;     /* length of the mount point's part of it */
	bool v2;
};

static uint32_t hash_file(const char *path)
{
	char buf[256];
	uint32_t h = 2166136261u;
	long n;
	int fd = vac__sys_open(AT_FDCWD, path, O_RDONLY);

	if (fd < 0)
		return 0;
	while ((n = vac__sys_read(fd, buf, sizeof(buf))) > 0)
		for (long i = 0; i < n; i++)
			h = (h ^ (unsigned char)buf[i]) * 16777619u;
	vac__sys_close(fd);
	return h;
}

/* The path of the process: "7:memory:/a/b" in version 1, "0::/a/b" in version 2. */
static bool find_path(struct where *w, bool v2)
{
	struct lines l = {.fd = vac__sys_open(AT_FDCWD, "/proc/self/cgroup", O_RDONLY)};
	bool found = false;

	if (l.fd < 0)
		return false;
	while (!found && next_line(&l)) {
		const char *list = strchr(l.line, ':'), *path;

		list = list ? list + 1 : "";
		path = strchr(list, ':');
		if (!path || (v2 ? path != list : !has_word(list, "memory", ':')))
			continue;
		copy_field(w->path, sizeof(w->path), path + 1);
		found = true;
	}
	vac__sys_close(l.fd);
	return found;
}

/* Where the hierarchy is mounted: "36 25 0:31 /root /mount/point opts - type source superopts". */
static bool find_dir(struct where *w, bool v2)
{
	struct lines l = {.fd = vac__sys_open(AT_FDCWD, "/proc/self/mountinfo", O_RDONLY)};
	const char *type = v2 ? "cgroup2 " : "cgroup ", *tail, *rest = w->path;
	bool found = false;

	if (l.fd < 0)
		return false;
	while (!found && next_line(&l)) {
		char root[256];
		size_t n;

		tail = strstr(l.line, " - ");
		if (!tail || strncmp(tail + 3, type, strlen(type)) ||
		    (!v2 && !has_word(field(tail + 3, 2), "memory", ' ')))
			continue;
		found = true;
		copy_field(root, sizeof(root), field(l.line, 3));
		copy_field(w->dir, sizeof(w->dir), field(l.line, 4));
		w->top = strlen(w->dir);
		/* A container may see only a part of the hierarchy: what it sees begins at root. */
		n = strcmp(root, "/") ? strlen(root) : 0;
		if (strncmp(w->path, root, n) || (w->path[n] && w->path[n] != '/') ||
		    strstr(w->path, "/.."))
			rest = ""; /* not below what is mounted: look at the top only */
		else
			rest = w->path + n;
		if (!strcmp(rest, "/"))
			rest = "";
		if (w->top + strlen(rest) >= sizeof(w->dir))
			rest = "";
		memcpy(w->dir + w->top, rest, strlen(rest) + 1);
	}
	vac__sys_close(l.fd);
	w->v2 = v2;
	return found;
}

static void close_levels(struct vac__room *room)
{
	for (unsigned i = 0; i < room->levels; i++) {
		vac__sys_close(room->level[i].limit_fd);
		vac__sys_close(room->level[i].usage_fd);
		vac__sys_close(room->level[i].stat_fd);
	}
	room->levels = 0;
}

static void add_level(struct vac__room *room, int dir, const char *limit, const char *usage)
{
	struct vac__room_level v;

	if (room->levels == VAC__ROOM_LEVELS)
		return;
	v.limit_fd = vac__sys_open(dir, limit, O_RDONLY);
	if (v.limit_fd < 0)
		return; /* the root of version 2 has no limit */
	v.usage_fd = vac__sys_open(dir, usage, O_RDONLY);
	v.stat_fd = vac__sys_open(dir, "memory.stat", O_RDONLY);
	if (v.usage_fd >= 0 && v.stat_fd >= 0) {
		room->level[room->levels++] = v;
		return;
	}
	vac__sys_close(v.limit_fd);
	if (v.usage_fd >= 0)
		vac__sys_close(v.usage_fd);
	if (v.stat_fd >= 0)
		vac__sys_close(v.stat_fd);
}

/* The cgroup and its ancestors up to the mount point. A limit may be set later than now, so the
 * levels that have none are kept too. */
static void open_levels(struct vac__room *room)
{
	struct where w;
	size_t n;

	close_levels(room);
	if (!(find_path(&w, false) && find_dir(&w, false)) &&
	    !(find_path(&w, true) && find_dir(&w, true)))
		return;
	room->v2 = w.v2;
	for (n = strlen(w.dir);; w.dir[n] = 0) {
		int dir = vac__sys_open(AT_FDCWD, w.dir, O_PATH | O_DIRECTORY);

		if (dir >= 0 && w.v2) {
			add_level(room, dir, "memory.max", "memory.current");
		} else if (dir >= 0) {
			add_level(room, dir, "memory.limit_in_bytes", "memory.usage_in_bytes");
			add_level(room, dir, "memory.memsw.limit_in_bytes",
				  "memory.memsw.usage_in_bytes");
		}
		if (dir >= 0)
			vac__sys_close(dir);
		if (n <= w.top)
			return;
		do {
			n--;
		} while (n > w.top && w.dir[n] != '/');
	}
}

void vac__room_init(struct vac__room *room)
{
	room->meminfo_fd = vac__sys_open(AT_FDCWD, "/proc/meminfo", O_RDONLY);
	room->name_hash = hash_file("/proc/self/cgroup");
	room->checked_ns = vac__port_now_coarse();
	open_levels(room);
}

void vac__room_destroy(struct vac__room *room)
{
	close_levels(room);
	if (room->meminfo_fd >= 0)
		vac__sys_close(room->meminfo_fd);
}

/* ---- How much -------------------------------------------------------------------------------- */

/* Clean file cache, of which three quarters are taken for granted: the rest may be mapped and hot,
 * or locked by somebody, and the kernel gives up after a number of rounds. */
static uint64_t droppable(const struct vac__room *room, const struct vac__room_level *v)
{
	static const char *const plus[2][2] = {{"total_inactive_file ", "total_active_file "},
					       {"inactive_file ", "active_file "}};
	static const char *const minus[2][2] = {{"total_dirty ", "total_writeback "},
						{"file_dirty ", "file_writeback "}};
	struct lines l = {.fd = v->stat_fd};
	uint64_t sum = 0, less = 0, n;

	if (syscall(SYS_lseek, v->stat_fd, 0, SEEK_SET) < 0)
		return 0;
	while (next_line(&l)) {
		for (int i = 0; i < 2; i++) {
			const char *p = plus[room->v2][i], *m = minus[room->v2][i];

			if (!strncmp(l.line, p, strlen(p)) && parse_number(l.line + strlen(p), &n))
				sum += n;
			if (!strncmp(l.line, m, strlen(m)) && parse_number(l.line + strlen(m), &n))
				less += n;
		}
	}
	return sum > less ? (sum - less) / 4 * 3 : 0;
}

static bool lacks(int kind, uint64_t limit, uint64_t used, uint64_t need)
{
	struct vac__lack *l = vac__port_lack();

	l->kind = kind;
	l->limit = limit;
	l->used = used;
	l->need = need;
	return false;
}

/* The directory of a cgroup, by the descriptor of one of its files. */
static void note_where(int fd)
{
	struct vac__lack *l = vac__port_lack();
	char link[32] = "/proc/self/fd/", digits[12], *p = digits + sizeof(digits) - 1;
	long n;

	*p = 0;
	do {
		*--p = (char)('0' + fd % 10);
		fd /= 10;
	} while (fd);
	strcat(link, p);
	n = vac__sys(syscall(SYS_readlinkat, AT_FDCWD, link, l->where, sizeof(l->where) - 1));
	l->where[n > 0 ? n : 0] = 0;
	p = strrchr(l->where, '/');
	if (p)
		*p = 0;
}

static bool level_has(const struct vac__room *room, const struct vac__room_level *v, uint64_t need)
{
	uint64_t limit, usage;

	if (!read_number(v->limit_fd, &limit) || !read_number(v->usage_fd, &usage))
		return true;
	if (limit >= usage && limit - usage >= need + NEAR)
		return true;
	if (limit + droppable(room, v) >= usage + need + MARGIN)
		return true;
	note_where(v->limit_fd);
	return lacks(VAC__LACK_CGROUP, limit, usage, need + MARGIN);
}

/* MemAvailable is the kernel's own estimate of what can be had without swapping. It takes a walk
 * over all zones to print, so it is asked for only when little is free outright. */
static bool host_has(const struct vac__room *room, uint64_t need)
{
	struct sysinfo si;
	char buf[256];
	const char *p;
	uint64_t kib, total;
	long n;

	if (sysinfo(&si) < 0)
		return true;
	total = (uint64_t)si.totalram * si.mem_unit;
	need += NEAR + total / 128;
	if ((uint64_t)si.freeram * si.mem_unit >= need + total / 32)
		return true;
	n = vac__sys_pread(room->meminfo_fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return true;
	buf[n] = 0;
	p = strstr(buf, "MemAvailable:");
	if (!p)
		return true;
	p += strcspn(p, "0123456789");
	if (!parse_number(p, &kib) || kib * 1024 >= need)
		return true;
	return lacks(VAC__LACK_HOST, total, total > kib * 1024 ? total - kib * 1024 : 0, need);
}

int vac__room_get(struct vac__room *room, size_t bytes)
{
	uint64_t need = atomic_fetch_add(&room->inflight, bytes) + bytes;
	uint64_t now = vac__port_now_coarse();
	bool ok;

	vac__flock_lock(&room->lock);
	if (now - room->checked_ns >= RECHECK_NS) {
		uint32_t h = hash_file("/proc/self/cgroup");

		room->checked_ns = now;
		if (h != room->name_hash) {
			room->name_hash = h;
			open_levels(room);
		}
	}
	ok = host_has(room, need);
	for (unsigned i = 0; ok && i < room->levels; i++)
		ok = level_has(room, &room->level[i], need);
	vac__flock_unlock(&room->lock);
	if (ok)
		return 0;
	atomic_fetch_sub(&room->inflight, bytes);
	return -ENOMEM;
}

void vac__room_put(struct vac__room *room, size_t bytes)
{
	atomic_fetch_sub(&room->inflight, bytes);
}

/* The usual reason is that the process has been moved to another cgroup less than a second ago. */
void vac__room_blame(struct vac__room *room, size_t bytes)
{
	vac__port_lack()->kind = VAC__LACK_KERNEL;
	vac__flock_lock(&room->lock);
	room->checked_ns = 0;
	vac__flock_unlock(&room->lock);
	if (vac__room_get(room, bytes) == 0)
		vac__room_put(room, bytes);
}

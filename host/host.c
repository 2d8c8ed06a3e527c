/* SPDX-License-Identifier: MIT */
/* A host: its root directory, its files, its memory blocks. See host.h. */
#include "host.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pages.h"
#include "walk.h"

#define BLOCK_MAX (1ULL << 34) /* the kernel's largest is 2 GiB; time and room are by the frame */
#define MEMORY "sys/devices/system/memory"

/* ---- Files below the root ---- */

static int vpath(const struct host *h, char *buf, const char *fmt, va_list ap)
{
	int n = snprintf(buf, PATH_MAX, "%s/", h->root), m;

	if (n >= PATH_MAX)
		return -ENAMETOOLONG;
	m = vsnprintf(buf + n, (size_t)(PATH_MAX - n), fmt, ap);
	return m >= PATH_MAX - n ? -ENAMETOOLONG : 0;
}

/*
 * path as vpath() makes it. A capture may be somebody else's: links in it lead to no file outside of it, and
 * what is not a file or a directory (a FIFO that nobody writes, a device) is not there.
 */
static int open_below(const struct host *h, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK),
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	struct stat st;
	int root, fd;

	if (h->live)
		return open(path, flags | O_CLOEXEC);
	root = open(h->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -1;
	fd = (int)syscall(SYS_openat2, root, path + strlen(h->root) + 1, &how, sizeof(how));
	if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* before 5.6, or filtered */
		fd = open(path, (int)how.flags | O_NOFOLLOW);
	close(root);
	if (fd >= 0 && (fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))) {
		close(fd);
		errno = ENOENT;
		fd = -1;
	}
	return fd;
}

int host_openat(const struct host *h, int flags, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int fd;

	va_start(ap, fmt);
	fd = vpath(h, path, fmt, ap);
	va_end(ap);
	if (!fd)
		fd = open_below(h, path, flags);
	return fd < 0 ? -errno : fd;
}

FILE *host_fopen(const struct host *h, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	FILE *f;
	int fd;

	va_start(ap, fmt);
	fd = vpath(h, path, fmt, ap);
	va_end(ap);
	if (!fd)
		fd = open_below(h, path, O_RDONLY);
	f = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (fd >= 0 && !f)
		close(fd);
	return f;
}

ssize_t host_read(const struct host *h, char *buf, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	size_t len = 0;
	va_list ap;
	ssize_t n;
	int fd;

	buf[0] = '\0';
	va_start(ap, fmt);
	fd = vpath(h, path, fmt, ap);
	va_end(ap);
	if (!fd)
		fd = open_below(h, path, O_RDONLY);
	if (fd < 0)
		return -errno;
	do {
		n = read(fd, buf + len, size - 1 - len);
		len += n > 0 ? (size_t)n : 0;
	} while ((n > 0 && len < size - 1) || (n < 0 && errno == EINTR));
	n = n < 0 ? -errno : (ssize_t)len;
	close(fd);
	buf[len] = '\0';
	if (n > 0 && buf[len - 1] == '\n')
		buf[--len] = '\0';
	return n < 0 ? n : (ssize_t)len;
}

ssize_t host_readlink(const struct host *h, char *buf, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	ssize_t n;

	buf[0] = '\0';
	va_start(ap, fmt);
	n = vpath(h, path, fmt, ap);
	va_end(ap);
	if (n)
		return n;
	n = readlink(path, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

DIR *host_opendir(const struct host *h, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	DIR *d;
	int fd;

	va_start(ap, fmt);
	fd = vpath(h, path, fmt, ap);
	va_end(ap);
	if (!fd)
		fd = open_below(h, path, O_RDONLY | O_DIRECTORY);
	d = fd >= 0 ? fdopendir(fd) : NULL;
	if (fd >= 0 && !d)
		close(fd);
	return d;
}

int host_fail(struct host *h, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(h->message, sizeof(h->message), fmt, ap);
	va_end(ap);
	return err;
}

const char *host_message(const struct host *h)
{
	return h->message;
}

/* ---- Names ---- */

const char *host_state_name(enum host_state s)
{
	static const char *const names[] = {"offline", "online", "going-offline", "unknown"};

	return s <= HOST_STATE_UNKNOWN ? names[s] : "unknown";
}

const char *host_owner_name(enum host_owner o)
{
	static const char *const names[] = {"none", "dimm", "virtio-mem", "dax"};

	return o <= HOST_OWNER_DAX ? names[o] : "none";
}

/* ---- Blocks ---- */

static enum host_state state_of(const char *s)
{
	for (enum host_state i = 0; i < HOST_STATE_UNKNOWN; i++)
		if (!strcmp(s, host_state_name(i)))
			return i;
	return HOST_STATE_UNKNOWN;
}

/* The driver's device that a stretch of System RAM in /proc/iomem lies in, by the name it ends in. */
struct iomem {
	uint64_t first, last;
	enum host_owner owner;
	char device[64];
};

static unsigned read_iomem(struct host *h, struct iomem **out)
{
	FILE *f = host_fopen(h, "proc/iomem");
	char line[256], names[8][64] = {{0}};
	unsigned n = 0, size = 0;

	*out = NULL;
	while (f && fgets(line, sizeof(line), f)) {
		size_t indent = strspn(line, " ") / 2;
		char *name = strstr(line, " : ");
		enum host_owner o = HOST_OWNER_NONE;
		unsigned long long a, b;

		if (!name || indent >= 8 || sscanf(line, "%llx-%llx", &a, &b) != 2)
			continue;
		name += 3;
		name[strcspn(name, "\n")] = '\0';
		snprintf(names[indent], sizeof(names[indent]), "%.63s", name);
		if (!strcmp(name, "System RAM (virtio_mem)"))
			o = HOST_OWNER_VIRTIO;
		else if (!strcmp(name, "System RAM (kmem)"))
			o = HOST_OWNER_DAX;
		if (o == HOST_OWNER_NONE || !indent || b <= a)
			continue;
		if (n == size) {
			struct iomem *grown = realloc(*out, (size + 16) * sizeof(*grown));

			if (!grown)
				break;
			*out = grown;
			size += 16;
		}
		(*out)[n] = (struct iomem){a, b, o, ""};
		snprintf((*out)[n++].device, sizeof((*out)->device), "%s", names[indent - 1]);
	}
	if (f)
		fclose(f);
	return n;
}

static void find_owner(struct host *h, struct host_block *b, const struct iomem *io, unsigned n)
{
	uint64_t first = b->pfn * h->page_bytes;
	char link[PATH_MAX], *base;

	b->owner = HOST_OWNER_NONE;
	b->device[0] = '\0';
	for (unsigned i = 0; i < n; i++) {
		if (first < io[i].first || first > io[i].last)
			continue;
		b->owner = io[i].owner;
		memcpy(b->device, io[i].device, sizeof(b->device));
		return;
	}
	if (host_readlink(h, link, sizeof(link), MEMORY "/memory%u/firmware_node", b->id) < 0)
		return;
	base = strrchr(link, '/');
	base = base ? base + 1 : link;
	if (strncmp(base, "PNP0C80", 7))
		return;
	b->owner = HOST_OWNER_DIMM;
	snprintf(b->device, sizeof(b->device), "%.63s", base);
}

/* The node is a link's name: nodeN -> ../../node/nodeN. */
static int find_node(struct host *h, uint32_t id)
{
	DIR *d = host_opendir(h, MEMORY "/memory%u", id);
	struct dirent *e;
	int node = -1;

	while (d && (e = readdir(d)))
		if (!strncmp(e->d_name, "node", 4) && isdigit((unsigned char)e->d_name[4]))
			node = atoi(e->d_name + 4);
	if (d)
		closedir(d);
	return node;
}

int host_block_refresh(struct host *h, struct host_block *b)
{
	char text[64];
	ssize_t n;

	n = host_read(h, text, sizeof(text), MEMORY "/memory%u/state", b->id);
	if (n < 0)
		return host_fail(h, (int)n, "%s/" MEMORY "/memory%u/state: %s", h->root, b->id,
				 n == -ENOENT ? "the block is not there any more"
					      : strerror((int)-n));
	b->state = state_of(text);
	n = host_read(h, b->zones, sizeof(b->zones), MEMORY "/memory%u/valid_zones", b->id);
	if (n < 0 || b->state != HOST_ONLINE)
		snprintf(b->zone, sizeof(b->zone), "-");
	else
		snprintf(b->zone, sizeof(b->zone), "%.*s", (int)strcspn(b->zones, " "), b->zones);
	n = host_read(h, text, sizeof(text), MEMORY "/memory%u/removable", b->id);
	b->sysfs_removable = n > 0 && text[0] == '1';
	n = host_read(h, text, sizeof(text), MEMORY "/memory%u/phys_index", b->id);
	b->frames = h->block_bytes / h->page_bytes;
	b->pfn = (n > 0 ? strtoull(text, NULL, 16) : b->id) * b->frames;
	b->node = find_node(h, b->id);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct host_block *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int read_ids(struct host *h)
{
	DIR *d = host_opendir(h, MEMORY);
	struct dirent *e;
	unsigned size = 0;
	int err = d ? 0 : -errno;

	h->n_blocks = 0;
	free(h->blocks);
	h->blocks = NULL;
	while (d && (e = readdir(d))) {
		unsigned long id;
		char *end;

		if (strncmp(e->d_name, "memory", 6) || !isdigit((unsigned char)e->d_name[6]))
			continue;
		id = strtoul(e->d_name + 6, &end, 10);
		if (*end || id > UINT32_MAX)
			continue;
		if (h->n_blocks == size) {
			struct host_block *grown =
				realloc(h->blocks, (size + 256) * sizeof(*grown));

			if (!grown) {
				err = -ENOMEM;
				break;
			}
			h->blocks = grown;
			size += 256;
		}
		h->blocks[h->n_blocks++] = (struct host_block){.id = (uint32_t)id};
	}
	if (d)
		closedir(d);
	if (!err && !h->n_blocks)
		err = -ENOENT;
	if (err)
		return host_fail(h, err,
				 "%s/" MEMORY
				 ": no memory block is there; this needs a kernel with "
				 "CONFIG_MEMORY_HOTPLUG, or a directory that 'vacate capture' made",
				 h->root);
	qsort(h->blocks, h->n_blocks, sizeof(*h->blocks), by_id);
	return 0;
}

int host_refresh(struct host *h)
{
	struct iomem *io;
	unsigned n_io;
	char text[64];
	int err;

	if (host_read(h, text, sizeof(text), MEMORY "/block_size_bytes") <= 0)
		return host_fail(h, -ENOENT,
				 "%s/" MEMORY "/block_size_bytes: cannot be read; this needs a "
				 "kernel with CONFIG_MEMORY_HOTPLUG, or a directory that 'vacate "
				 "capture' made",
				 h->root);
	h->block_bytes = strtoull(text, NULL, 16);
	if (h->block_bytes < h->page_bytes || h->block_bytes > BLOCK_MAX ||
	    h->block_bytes & (h->block_bytes - 1))
		return host_fail(h, -EINVAL,
				 "%s/" MEMORY "/block_size_bytes: '%s' is not a power of two of "
				 "at least a page and at most 16 GiB, in hexadecimal",
				 h->root, text);
	host_read(h, h->auto_policy, sizeof(h->auto_policy), MEMORY "/auto_online_blocks");
	h->online_blocks_auto = !h->auto_policy[0] ? -1
						   : strncmp(h->auto_policy, "offline", 7) != 0;
	err = read_ids(h);
	if (err)
		return err;
	n_io = read_iomem(h, &io);
	for (unsigned i = 0; i < h->n_blocks && !err; i++) {
		err = host_block_refresh(h, &h->blocks[i]);
		find_owner(h, &h->blocks[i], io, n_io);
	}
	free(io);
	return err;
}

struct host_block *host_block(struct host *h, uint32_t id)
{
	struct host_block key = {.id = id};

	return h->n_blocks ? bsearch(&key, h->blocks, h->n_blocks, sizeof(key), by_id) : NULL;
}

/* ---- Opening ---- */

int host_open(struct host **out, const char *sysroot, const char **message)
{
	static char text[sizeof(((struct host *)0)->message)];
	struct host *h = calloc(1, sizeof(*h));
	size_t len;
	int err;

	*out = NULL;
	*message = "out of memory";
	if (!h)
		return -ENOMEM;
	h->live = !sysroot || !sysroot[0];
	h->root = strdup(h->live ? "" : sysroot);
	if (!h->root) {
		free(h);
		return -ENOMEM;
	}
	for (len = strlen(h->root); len && h->root[len - 1] == '/'; len--)
		h->root[len - 1] = '\0';
	h->live = !h->root[0];
	h->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	h->privileged = h->live ? !geteuid() : true;
	err = host_saved_open(h);
	if (!err)
		err = host_refresh(h);
	if (err) {
		memcpy(text, h->message, sizeof(text));
		*message = text;
		host_close(h);
		return err;
	}
	*out = h;
	return 0;
}

void host_close(struct host *h)
{
	if (!h)
		return;
	host_walk_close(h);
	host_saved_close(h);
	free(h->blocks);
	free(h->root);
	free(h);
}

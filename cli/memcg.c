/* SPDX-License-Identifier: MIT */
/*
 * The memory cgroup of this process. See memcg.h.
 *
 * /proc/self/cgroup gives the path of the group inside its hierarchy; /proc/self/mountinfo says
 * which part of the hierarchy ("root") is mounted where. Inside a container without a cgroup
 * namespace the path is the host's while the mount shows only the container's part, hence the
 * stripping of the root; with a namespace whose mount was made outside, the path may even begin
 * with "/..", and the mount point itself is then the best that is visible.
 */
#include "memcg.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *usage_name(int version)
{
	return version == 2 ? "memory.current" : "memory.usage_in_bytes";
}

static const char *limit_name(int version)
{
	return version == 2 ? "memory.max" : "memory.limit_in_bytes";
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	while (*list) {
		size_t len = strcspn(list, ",");

		if (len == n && !strncmp(list, word, n))
			return true;
		list += len;
		if (*list)
			list++;
	}
	return false;
}

/* The path of this process's group: in the v1 hierarchy of the memory controller if there is one,
 * else in the unified one. Answers the version, 0 if neither is there. */
static int own_path(char *path, size_t len)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t room = 0;
	int version = 0;

	if (!f)
		return 0;
	while (getline(&line, &room, f) > 0) {
		char *controllers = strchr(line, ':');
		char *p = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!p)
			continue;
		*p++ = '\0';
		controllers++;
		p[strcspn(p, "\n")] = '\0';
		if (has_word(controllers, "memory")) {
			snprintf(path, len, "%s", p);
			version = 1;
			break;
		}
		if (!*controllers) {
			snprintf(path, len, "%s", p);
			version = 2;
		}
	}
	free(line);
	fclose(f);
	return version;
}

/* mountinfo writes blanks and backslashes as \ooo. In place. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

/* Where the hierarchy is mounted, and which part of it. */
static bool find_mount(int version, char *root, char *mount, size_t len)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;

	if (!f)
		return false;
	while (!found && getline(&line, &room, f) > 0) {
		char *field[5], *rest = line, *dash, *type, *super;
		unsigned n = 0;

		/* ID PARENT MAJ:MIN ROOT MOUNT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS */
		dash = strstr(line, " - ");
		if (!dash)
			continue;
		*dash = '\0';
		while (n < 5 && (field[n] = strsep(&rest, " ")))
			n++;
		if (n < 5)
			continue;
		rest = dash + 3;
		type = strsep(&rest, " ");
		strsep(&rest, " ");
		super = strsep(&rest, "\n");
		if (!type || !super)
			continue;
		if (version == 2 ? strcmp(type, "cgroup2") != 0
				 : strcmp(type, "cgroup") != 0 || !has_word(super, "memory"))
			continue;
		unescape(field[3]);
		unescape(field[4]);
		snprintf(root, len, "%s", field[3]);
		snprintf(mount, len, "%s", field[4]);
		found = true;
	}
	free(line);
	fclose(f);
	return found;
}

static int read_value(const char *dir, const char *name, uint64_t *value)
{
	char path[PATH_MAX + 64], text[64];
	ssize_t n;
	char *end;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	close(fd);
	text[n] = '\0';
	if (!strncmp(text, "max", 3)) {
		*value = UINT64_MAX;
		return 0;
	}
	*value = strtoull(text, &end, 10);
	return end == text ? -EINVAL : 0;
}

int memcg_find(struct memcg *cg)
{
	char path[PATH_MAX], root[PATH_MAX];
	const char *below = path;
	size_t n;
	uint64_t v;
	int version;

	memset(cg, 0, sizeof(*cg));
	version = own_path(path, sizeof(path));
	if (!version) {
		snprintf(cg->why, sizeof(cg->why), "/proc/self/cgroup names no memory cgroup");
		return -ENOENT;
	}
	if (!find_mount(version, root, cg->mount, sizeof(root))) {
		snprintf(cg->why, sizeof(cg->why), "the cgroup v%d memory hierarchy is not mounted",
			 version);
		return -ENOENT;
	}
	n = strlen(root);
	if (!strcmp(root, "/"))
		n = 0;
	if (n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]))
		below = path + n;
	if (!strncmp(below, "/..", 3) || !strcmp(below, "/"))
		below = "";
	if (strlen(cg->mount) + strlen(below) >= sizeof(cg->dir)) {
		snprintf(cg->why, sizeof(cg->why), "the path of the memory cgroup is too long");
		return -ENOENT;
	}
	memcpy(cg->dir, cg->mount, strlen(cg->mount) + 1);
	memcpy(cg->dir + strlen(cg->mount), below, strlen(below) + 1);
	if (read_value(cg->dir, usage_name(version), &v)) {
		/* Seen from inside a container whose mount shows the group itself as its root. */
		memcpy(cg->dir, cg->mount, strlen(cg->mount) + 1);
		if (read_value(cg->dir, usage_name(version), &v)) {
			/* Also the v2 root group: it has no memory.current. */
			snprintf(cg->why, sizeof(cg->why),
				 "the memory cgroup '%.200s' has no readable %s under %.3000s",
				 path, usage_name(version), cg->mount);
			return -ENOENT;
		}
	}
	cg->version = version;
	return 0;
}

int memcg_usage(const struct memcg *cg, uint64_t *bytes)
{
	if (!cg->version)
		return -ENOENT;
	return read_value(cg->dir, usage_name(cg->version), bytes);
}

int memcg_room(const struct memcg *cg, uint64_t *bytes)
{
	char dir[PATH_MAX];

	if (!cg->version)
		return -ENOENT;
	*bytes = UINT64_MAX;
	memcpy(dir, cg->dir, sizeof(dir));
	for (;;) {
		uint64_t usage, limit;

		/* v1 without a limit shows a huge number: room is then huge as well. */
		if (!read_value(dir, limit_name(cg->version), &limit) &&
		    !read_value(dir, usage_name(cg->version), &usage) && limit != UINT64_MAX) {
			uint64_t room = limit > usage ? limit - usage : 0;

			if (room < *bytes)
				*bytes = room;
		}
		if (!strcmp(dir, cg->mount) || !strrchr(dir, '/'))
			return 0;
		*strrchr(dir, '/') = '\0';
		if (strlen(dir) < strlen(cg->mount))
			return 0;
	}
}

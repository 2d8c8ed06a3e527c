/* SPDX-License-Identifier: MIT */
/*
 * A process as administrators know it: command line, user, systemd unit, container, pod.
 *
 * The last three come from the cgroup's path alone, as systemd, Docker, containerd, CRI-O, Podman,
 * LXC and Kubernetes make it; no daemon is asked. Text from processes is shown with '?' for what is
 * not printable.
 */
#include "host.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static void clean(char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			*s = '?';
}

static char *copy(const char *s, size_t n)
{
	char *p = strndup(s, n);

	return p ? p : strdup("");
}

/* ---- cgroups ---- */

static bool hex_id(const char *s, size_t n)
{
	if (n < 12 || n > 64)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isxdigit((unsigned char)s[i]))
			return false;
	return true;
}

static bool ends(const char *s, size_t n, const char *tail)
{
	size_t m = strlen(tail);

	return n > m && !memcmp(s + n - m, tail, m);
}

static bool begins(const char *s, size_t n, const char *head)
{
	size_t m = strlen(head);

	return n > m && !memcmp(s, head, m);
}

/* "docker-ID.scope", "cri-containerd-ID.scope", "libpod-ID.scope", or an id alone below docker or a
 * pod; "lxc.payload.NAME", "machine-NAME.scope". */
static void find_container(struct host_holder *o, const char *c, size_t n, bool below)
{
	const char *id = c;
	size_t len = n;

	if (begins(c, n, "lxc.payload.") || begins(c, n, "machine-")) {
		id += c[0] == 'l' ? 12 : 8;
		len -= c[0] == 'l' ? 12 : 8;
		if (ends(id, len, ".scope"))
			len -= 6;
	} else {
		if (ends(c, n, ".scope")) {
			len -= 6;
			for (size_t i = 0; i < len; i++)
				if (c[i] == '-')
					id = c + i + 1;
			len -= (size_t)(id - c);
			if (id == c)
				return;
		} else if (!below) {
			return;
		}
		if (!hex_id(id, len))
			return;
	}
	free(o->container);
	o->container = copy(id, len);
}

/* "kubepods-burstable-podUID.slice" with '_' for '-', or "podUID". */
static void find_pod(struct host_holder *o, const char *c, size_t n, bool below)
{
	const char *p = NULL;

	if (begins(c, n, "pod") && below)
		p = c + 3;
	else if (begins(c, n, "kubepods"))
		for (size_t i = 0; i + 5 < n; i++)
			if (!memcmp(c + i, "-pod", 4))
				p = c + i + 4;
	if (!p)
		return;
	n -= (size_t)(p - c);
	if (ends(p, n, ".slice"))
		n -= 6;
	free(o->pod);
	o->pod = copy(p, n);
	for (char *s = o->pod; *s; s++)
		if (*s == '_')
			*s = '-';
}

static void read_path(struct host_holder *o)
{
	bool docker = false, kube = false;
	const char *c = o->cgroup;

	while (*c) {
		size_t n = strcspn(c, "/");

		if (begins(c, n + 1, "docker") || begins(c, n + 1, "libpod_parent"))
			docker = true;
		if (begins(c, n + 1, "kubepods"))
			kube = true;
		find_pod(o, c, n, kube);
		find_container(o, c, n, docker || kube);
		if (ends(c, n, ".service") || ends(c, n, ".scope") || ends(c, n, ".mount") ||
		    ends(c, n, ".socket") || ends(c, n, ".swap")) {
			free(o->unit);
			o->unit = copy(c, n);
		}
		c += n;
		while (*c == '/')
			c++;
	}
}

static void read_cgroup(struct host *h, struct host_holder *o)
{
	FILE *f = host_fopen(h, "proc/%d/cgroup", (int)o->pid);
	char line[PATH_MAX], best[PATH_MAX] = "";

	while (f && fgets(line, sizeof(line), f)) {
		char *path;

		line[strcspn(line, "\n")] = '\0';
		path = !strncmp(line, "0::", 3) ? line + 3 : strstr(line, ":name=systemd:");
		if (path && path != line + 3)
			path += strlen(":name=systemd:");
		/* Where both hierarchies are in use, one of them says no more than "/". */
		if (path && (!best[0] || !strcmp(best, "/")))
			snprintf(best, sizeof(best), "%s", path);
	}
	if (f)
		fclose(f);
	clean(best);
	o->cgroup = strdup(best);
	if (o->cgroup)
		read_path(o);
}

/* ---- User, command ---- */

static void find_user(struct host *h, struct host_holder *o)
{
	FILE *f = host_fopen(h, "etc/passwd");
	char line[512];

	snprintf(o->user, sizeof(o->user), "%u", (unsigned)o->uid);
	while (f && fgets(line, sizeof(line), f)) {
		unsigned uid;

		if (sscanf(line, "%*[^:]:%*[^:]:%u:", &uid) != 1 || uid != o->uid)
			continue;
		snprintf(o->user, sizeof(o->user), "%.*s", (int)strcspn(line, ":"), line);
		clean(o->user);
		break;
	}
	if (f)
		fclose(f);
}

static void read_cmdline(struct host *h, struct host_holder *o)
{
	char buf[4096];
	ssize_t n = host_read(h, buf, sizeof(buf), "proc/%d/cmdline", (int)o->pid);

	while (n > 0 && !buf[n - 1])
		n--;
	for (ssize_t i = 0; i < n; i++)
		if (!buf[i])
			buf[i] = ' ';
	buf[n > 0 ? n : 0] = '\0';
	clean(buf);
	o->cmdline = strdup(buf);
}

int host_identify(struct host *h, struct host_holder *o)
{
	char buf[2048], *p;
	unsigned long long start = 0;

	if (host_read(h, buf, sizeof(buf), "proc/%d/stat", (int)o->pid) <= 0)
		return -ENOENT;
	/* The name may have spaces and parentheses: fields count from the last one on. */
	p = strrchr(buf, ')');
	if (!p || sscanf(p + 1,
			 " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			 "%*d %*d %llu",
			 &start) != 1)
		return -ENOENT;
	o->start_ticks = start;
	host_read(h, o->comm, sizeof(o->comm), "proc/%d/comm", (int)o->pid);
	clean(o->comm);
	if (host_read(h, buf, sizeof(buf), "proc/%d/status", (int)o->pid) > 0) {
		p = strstr(buf, "\nUid:");
		if (p)
			o->uid = (uid_t)strtoul(p + 5, NULL, 10);
	}
	free(o->cmdline);
	free(o->cgroup);
	read_cmdline(h, o);
	find_user(h, o);
	read_cgroup(h, o);
	return 0;
}

void host_holder_clear(struct host_holder *o)
{
	char *strings[] = {o->cmdline, o->what,      o->detail, o->cgroup,
			   o->unit,    o->container, o->pod};

	for (unsigned i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		free(strings[i]);
	memset(o, 0, sizeof(*o));
}

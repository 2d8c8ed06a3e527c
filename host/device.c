/* SPDX-License-Identifier: MIT */
/* Blocks of a node or a device, and what brings blocks back that were taken away. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/act.h"

static bool whole_number(const char *s, unsigned *n)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	*n = (unsigned)v;
	return isdigit((unsigned char)*s) && !*end && v < 65536;
}

/* The devices that have blocks, each once, for a message. */
static void device_names(const struct host *h, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = 0;
	for (unsigned i = 0; i < h->n_blocks; i++) {
		const char *d = h->blocks[i].device;
		bool again = !*d;

		for (unsigned k = 0; k < i && !again; k++)
			again = !strcmp(d, h->blocks[k].device);
		if (!again && len < size)
			len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? ", " : "", d);
	}
}

static int none(struct host *h, const char *name)
{
	char names[256];
	int fd;

	/* It may be there, and its memory not the system's. */
	fd = host_openat(h, O_RDONLY, "/sys/bus/dax/devices/%s/size", name);
	if (fd >= 0) {
		close(fd);
		return host_fail(h, -ENOENT,
				 "%s has no memory blocks: it is not in system-ram mode", name);
	}
	fd = host_openat(h, O_RDONLY, "/sys/bus/virtio/devices/%s/device", name);
	if (fd >= 0) {
		close(fd);
		return host_fail(
			h, -ENOENT,
			"%s has no memory blocks: it is no virtio-mem device, or has plugged none",
			name);
	}
	device_names(h, names, sizeof(names));
	return host_fail(
		h, -ENOENT,
		"there is no '%s' with memory blocks; node0 and so on%s%s would be accepted", name,
		*names ? ", and " : "", names);
}

int host_device_blocks(struct host *h, const char *name, uint32_t **ids)
{
	bool is_node = !strncmp(name, "node", 4);
	unsigned node = 0;
	int n = 0;

	if (is_node && !whole_number(name + 4, &node))
		return host_fail(h, -EINVAL, "'%s' is no node; node0 would be one", name);
	*ids = calloc(h->n_blocks ? h->n_blocks : 1, sizeof(**ids));
	if (!*ids)
		return host_fail(h, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < h->n_blocks; i++) {
		const struct host_block *b = &h->blocks[i];

		if (is_node ? b->node == (int)node : *name && !strcmp(b->device, name))
			(*ids)[n++] = b->id;
	}
	if (n)
		return n;
	free(*ids);
	*ids = NULL;
	if (is_node)
		return host_fail(h, -ENOENT, "node %u has no memory blocks", node);
	return none(h, name);
}

const char *host_device_advice(const struct host_block *b, char *buf, size_t size)
{
	switch (b->owner) {
	case HOST_OWNER_DAX:
		snprintf(buf, size,
			 "the memory is of %s; once all its blocks are offline: daxctl "
			 "reconfigure-device --mode=devdax %s",
			 b->device, b->device);
		return buf;
	case HOST_OWNER_VIRTIO:
		snprintf(
			buf, size,
			"the memory is of %s, and its driver takes it away by itself when the hypervisor "
			"asks for less: in QEMU, qom-set ID requested-size BYTES. What is taken away here "
			"stays the guest's, unused",
			b->device);
		return buf;
	case HOST_OWNER_DIMM:
		snprintf(
			buf, size,
			"the memory is of the ACPI device %s; once all its blocks are offline it can be "
			"ejected: in QEMU, device_del ID",
			b->device);
		return buf;
	default: return NULL;
	}
}

/* ---- What brings blocks back ---- */

static int rules_in(struct host *h, const char *dir, const char *file,
		    void (*say)(void *arg, const char *text), void *arg)
{
	FILE *f = host_fopen(h, "%s/%s", dir, file);
	char line[1024], text[700];
	int n = 0;

	if (!f)
		return 0;
	for (unsigned k = 1; fgets(line, sizeof(line), f); k++) {
		char *p = line + strspn(line, " \t");

		/* An assignment, not a comparison. */
		if (*p == '#' || !strstr(p, "ATTR{state}=\"online"))
			continue;
		snprintf(
			text, sizeof(text),
			"the udev rule %s/%s:%u brings memory blocks online: %s", dir, file, k,
			strstr(p, "ACTION==\"add\"") || !strstr(p, "ACTION")
				? "what is taken away comes back when the device is added again, or by "
				  "'udevadm trigger'"
				: "also on other events than 'add'");
		say(arg, text);
		n++;
	}
	fclose(f);
	return n;
}

static int rules(struct host *h, void (*say)(void *arg, const char *text), void *arg)
{
	/* In udev's order: a file hides one of the same name in a later directory. */
	static const char *const dirs[] = {"/etc/udev/rules.d", "/run/udev/rules.d",
					   "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d",
					   "/lib/udev/rules.d"};
	char seen[256][64];
	unsigned n_seen = 0;
	int n = 0;

	for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		int fd = host_openat(h, O_RDONLY | O_DIRECTORY, "%s", dirs[i]);
		DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
		struct dirent *e;

		while (d && (e = readdir(d))) {
			size_t len = strlen(e->d_name);
			bool hidden = false;

			if (len < 7 || len > 63 || strcmp(e->d_name + len - 6, ".rules"))
				continue;
			for (unsigned k = 0; k < n_seen && !hidden; k++)
				hidden = !strcmp(seen[k], e->d_name);
			if (hidden)
				continue;
			if (n_seen < 256)
				strcpy(seen[n_seen++], e->d_name);
			n += rules_in(h, dirs[i], e->d_name, say, arg);
		}
		if (d)
			closedir(d);
	}
	return n;
}

int host_comebacks(struct host *h, void (*say)(void *arg, const char *text), void *arg)
{
	char text[256];
	int n = 0;

	if (h->online_blocks_auto == 1) {
		snprintf(text, sizeof(text),
			 "blocks that are added come online by themselves: "
			 "/sys/devices/system/memory/auto_online_blocks is '%s'",
			 h->auto_policy);
		say(arg, text);
		n++;
	}
	return n + rules(h, say, arg);
}

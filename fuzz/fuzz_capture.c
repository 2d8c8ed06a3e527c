/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target: a captured machine that somebody else has made, as 'vacate ls host', 'why' and 'metrics'
 * read it with --sysroot.
 *
 * There is a small machine below a directory of our own. An input is a list of files to put in the place of its
 * own: a byte that says which (files[]), two for the length (little-endian), then the contents. A link is made
 * where the machine has one. All verbs then read it, whatever they say of it: memory is safe (sanitizers), time
 * is bounded (-timeout), what they answer is whole, and the directory is as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "host/facts.h"
#include "host/host.h"
#include "host/json.h"

#define MEMORY "sys/devices/system/memory/"
#define NODE0 "sys/devices/system/node/node0/"
#define FILES_MAX 8   /* of one input */
#define BLOCKS_MAX 16 /* looked at one by one */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Blocks of 2 MiB; 0 and 4 to 8. What each is for is that of tests/host/make_sysroot. */
static const struct {
	const char *path, *text; /* text "@...": a link */
} files[] = {
	{"vacate/walk.json",
	 "{\"version\": 1, \"walked\": true, \"why_not\": \"\", \"lacks\": [\"sockets\"],\n"
	 "\"records\": [{\"kind\": \"pipe\", \"pid\": 100, \"fd\": 7, \"object\": 1, \"flags\": 0,\n"
	 "  \"runs\": [[2048, 2], [2052, 1]]},\n"
	 " {\"kind\": \"socket\", \"pid\": 101, \"fd\": 4, \"object\": 2, \"flags\": 3, \"runs\": [[2056, 1]]},\n"
	 " {\"kind\": \"registered\", \"pid\": 100, \"fd\": 9, \"object\": 3, \"flags\": 4, \"runs\": [[2060, 1]]},\n"
	 " {\"kind\": \"aio\", \"pid\": 101, \"fd\": -1, \"object\": 4, \"flags\": 0, \"runs\": [[2064, 1]]}],\n"
	 "\"servers\": [{\"pid\": 101, \"fd\": 3, \"dev\": 45}],\n"
	 "\"files\": [{\"file\": 1, \"dev\": 45, \"ino\": 2, \"fstype\": \"fuse\", \"disk\": \"\"},\n"
	 " {\"file\": 2, \"dev\": 8, \"ino\": 12, \"fstype\": \"ext4\", \"disk\": \"sda\"}],\n"
	 "\"openers\": [{\"pid\": 100, \"fd\": 5, \"file\": 2}],\n"
	 "\"mappers\": [{\"pid\": 100, \"runs\": [[2560, 16, 1048576], [3584, 4, 8192]]},\n"
	 " {\"pid\": 101, \"runs\": [[2568, 8, 4096]]}]}\n"},
	{"vacate/pages", "# frames\n"
			 "0 100 80 0 1 0 0 0\n64 412 400 0 0 0 0 0\n"
			 "800 2 5828 1 3 2 a 1\n802 2 5828 1 2 1 a 1\n804 4 28 0 2 1 f0 0\n"
			 "808 4 5828 1 1025 1024 a 1\n80c 4 5828 1 - 0 a 1\n810 1 28 1 3 1 f0 1\n"
			 "811 495 400 0 0 0 0 0\n"
			 "a00 16 5828 1 2 1 a 1\na10 16 5828 2 3 1 a 2\na20 480 400 0 0 0 0 0\n"
			 "c00 1 29 0 2 0 f1 0\nc01 511 400 0 0 0 0 0\n"
			 "e00 1 28000 0 0 0 0 0\ne01 511 30000 0 0 0 0 0\n"
			 "1000 8 128 0 2 0 f2 0\n1008 504 400 0 0 0 0 0\n"},
	{"proc/zoneinfo", "Node 0, zone   Normal\n  per-node stats\n      nr_inactive_file 100\n"
			  "  pages free     200000\n        min      100\n        low      200\n"
			  "        managed  300000\nNode 1, zone  Movable\n  pages free     1000\n"
			  "        low      2\n        managed  3000\n"},
	{"proc/buddyinfo", "Node 0, zone   Normal   1 0 0 0 0 0 0 0 0 0 100\n"},
	{"proc/meminfo", "MemTotal: 1 kB\nSwapFree:              12 kB\n"},
	{"proc/iomem",
	 "00000000-007fffff : System RAM\n"
	 "01000000-010fffff : virtio0\n  01000000-010fffff : System RAM (virtio_mem)\n"
	 "00e00000-00ffffff : dax0.0\n  00e00000-00ffffff : System RAM (kmem)\n"},
	{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/false\n"},
	{MEMORY "block_size_bytes", "200000\n"},
	{MEMORY "auto_online_blocks", "offline\n"},
	{MEMORY "memory4/state", "online\n"},
	{MEMORY "memory4/valid_zones", "Movable\n"},
	{MEMORY "memory4/removable", "1\n"},
	{MEMORY "memory4/phys_index", "00000004\n"},
	{MEMORY "memory4/node1", "@../../node/node1"},
	{MEMORY "memory4/firmware_node", "@../../../LNXSYSTM:00/PNP0C80:00"},
	{"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1\n"},
	{"sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "1\n"},
	{NODE0 "hugepages/hugepages-2048kB/free_hugepages", "0\n"},
	{"proc/100/comm", "nginx: worker\n"},
	{"proc/100/cgroup", "0::/system.slice/web.service\n"},
	{"proc/100/stat",
	 "100 (nginx: worker) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 10000 0 0\n"},
	{"proc/100/status", "Name:\tnginx\nUid:\t33\t33\t33\t33\n"},
	{"proc/100/cmdline", "nginx: worker process"},
	{"proc/100/smaps", "7f0000000000-7f0000400000 rw-s 00000000 00:0f 1 /dev/hugepages/x\n"
			   "Size:               4096 kB\nShared_Hugetlb:        0 kB\n"
			   "Private_Hugetlb:       0 kB\nVmFlags: rd wr sh mr mw me ms de ht\n"},
	{"proc/100/fd/7", "@pipe:[70]"},
	{"proc/100/fd/9", "@anon_inode:[io_uring]"},
	{"proc/100/fd/5", "@/dev/sda"},
	{"proc/100/fdinfo/5", "pos:\t0\nflags:\t0140002\n"},
	{"proc/100/task/100/syscall", "17 0x5 0x100000 0x8000 0x0 0x0 0x0 0x7ffc 0x7f00\n"},
	{"proc/101/comm", "sshfs\n"},
	{"proc/101/cgroup", "1:name=systemd:/docker/fedcba9876543210fedcba9876543210\n"},
	{"proc/101/fd/3", "@/dev/fuse"},
	{MEMORY "memory0/state", "online\n"},
	{MEMORY "memory0/valid_zones", "Normal\n"},
	{MEMORY "memory5/state", "online\n"},
	{MEMORY "memory5/valid_zones", "Movable\n"},
	{MEMORY "memory6/state", "online\n"},
	{MEMORY "memory6/valid_zones", "Movable\n"},
	{MEMORY "memory7/state", "online\n"},
	{MEMORY "memory7/valid_zones", "Movable\n"},
	{MEMORY "memory8/state", "online\n"},
	{MEMORY "memory8/valid_zones", "Movable\n"},
	{MEMORY "memory9/state", "offline\n"},
	{MEMORY "memory9/valid_zones", "Normal Movable\n"},
};

#define N_FILES (sizeof(files) / sizeof(files[0]))

static char root[64];
static unsigned long long captures, opened;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	dprintf(2, "fuzz_capture: %s: %s\n", what, strerror(errno));
	abort();
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static void clean_up(void)
{
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	dprintf(2, "fuzz_capture: %llu captures, %llu of them could be read\n", captures, opened);
}

static void path_of(char *path, size_t size, unsigned i)
{
	need(snprintf(path, size, "%s/%s", root, files[i].path) < (int)size, "a path");
}

/* Contents with NUL end a link early, and an empty one cannot be. */
static void put(unsigned i, const void *data, size_t n)
{
	char path[256], target[256];
	int fd;

	path_of(path, sizeof(path), i);
	if (files[i].text[0] == '@') {
		n = n < sizeof(target) - 1 ? n : sizeof(target) - 1;
		memcpy(target, data, n);
		target[n] = 0;
		need(!unlink(path) || errno == ENOENT, path);
		need(!target[0] || !symlink(target, path), path);
		return;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	need(fd >= 0 && write(fd, data, n) == (ssize_t)n && !close(fd), path);
}

static void put_own(unsigned i)
{
	const char *text = files[i].text + (files[i].text[0] == '@');

	put(i, text, strlen(text));
}

static void set_up(void)
{
	const char *dir = getenv("TMPDIR");
	char path[256];

	need(snprintf(root, sizeof(root), "%s/fuzz-XXXXXX", dir ? dir : "/tmp") < (int)sizeof(root),
	     "TMPDIR");
	need(mkdtemp(root) != NULL, root);
	atexit(clean_up);
	for (unsigned i = 0; i < N_FILES; i++) {
		path_of(path, sizeof(path), i);
		for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
			*p = 0;
			need(!mkdir(path, 0700) || errno == EEXIST, path);
		}
		put_own(i);
	}
	/* What the verbs print is not for anybody: neither their data nor their complaints. */
	need(freopen("/dev/null", "w", stdout) != NULL, "/dev/null");
	stderr = fopen("/dev/null", "w");
	need(stderr != NULL, "/dev/null");
}

/* What is said of a block is whole. */
static void look(struct host *h, const struct host_block *b)
{
	struct host_why w;
	uint64_t frames = 0;
	char *text;
	json_t *j;

	if (host_why(h, b, &w))
		return;
	need(w.reason && w.verdict < HOST_VERDICTS, "no verdict");
	for (unsigned c = 0; c < HOST_CLASSES; c++)
		frames += w.usage.frames[c];
	need(b->state == HOST_OFFLINE || frames == b->frames, "a frame is of no class, or of two");
	for (unsigned i = 0; i < w.n_holders; i++) {
		const struct host_holder *o = &w.holders[i];

		need(o->cmdline && o->what && o->detail && o->cgroup && o->unit && o->container &&
			     o->pod,
		     "a holder is not complete");
		need(o->kind < HOST_KINDS && o->evidence <= HOST_MAPPER, "a holder of no kind");
		need(o->pages, "a holder of nothing");
	}
	j = host_why_json(h, b, &w);
	text = j ? json_dumps(j, 0) : NULL;
	need(text != NULL, "no JSON");
	free(text);
	json_decref(j);
	host_why_free(&w);
}

static void verb(int (*cmd)(int, char **), const char *const *words)
{
	char *argv[8], copy[8][80];
	int n = 0, rc;

	for (; words[n]; n++) {
		snprintf(copy[n], sizeof(copy[n]), "%s", words[n]);
		argv[n] = copy[n];
	}
	argv[n] = NULL;
	optind = 0;
	rc = cmd(n, argv);
	need(rc == CMD_OK || rc == CMD_ERROR || rc == CMD_PARTLY, "a strange exit status");
}

#define VERB(cmd, ...) verb(cmd, (const char *const[]){__VA_ARGS__, NULL})

static void verbs(void)
{
	VERB(cmd_host_ls, "ls", "--all", "--sysroot", root);
	VERB(cmd_host_ls, "ls", "--json", "--sysroot", root);
	VERB(cmd_host_why, "why", "--all", "--sysroot", root, "host");
	VERB(cmd_metrics, "metrics", "--sysroot", root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *message = NULL;
	unsigned changed[FILES_MAX], n = 0;
	struct host *h;

	if (!root[0])
		set_up();
	while (n < FILES_MAX && size >= 3) {
		unsigned i = data[0] % N_FILES;
		size_t len = (size_t)(data[1] | data[2] << 8);

		data += 3;
		size -= 3;
		len = len < size ? len : size;
		put(i, data, len);
		data += len;
		size -= len;
		changed[n++] = i;
	}
	captures++;
	if (host_open(&h, root, &message)) {
		need(!h && message && *message, "it cannot be opened, and nobody says why");
	} else {
		bool big = h->block_bytes > 64 << 20; /* time is by the frame: enough of that */

		opened++;
		for (unsigned i = 0; !big && i < h->n_blocks && i < BLOCKS_MAX; i++)
			look(h, &h->blocks[i]);
		host_close(h);
		if (!big)
			verbs();
	}
	while (n)
		put_own(changed[--n]);
	return 0;
}

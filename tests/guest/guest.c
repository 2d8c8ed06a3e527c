/* SPDX-License-Identifier: MIT */
/*
 * The driver in the guest: goes through the rows of a group (rows.c) on one memory block of node 1.
 *
 * For each row the block is brought online in the zone that the row is about, the holders are planted,
 * and `vacate offline` is asked for it. What it says beforehand, its exit status, the kernel's own view
 * of the block afterwards and the holders that it names must be what the row says; then the holders go,
 * and the block must be able to leave, or the row says why not.
 *
 * Prints cmocka's lines with "# " in front, and a line of JSON a row with all that was seen.
 */
#include "guest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "drive.h"

/* ---- For planters ---- */

static int ready_fd = -1;

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	printf("# %s: ", program_invocation_short_name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(": %s\n", strerror(err));
	fflush(stdout);
	_exit(1);
}

void put(const char *path, const char *fmt, ...)
{
	FILE *f = fopen(path, "we");
	va_list ap;

	va_start(ap, fmt);
	if (!f || vfprintf(f, fmt, ap) < 0 || fclose(f))
		die("%s", path);
	va_end(ap);
}

static int policy(int mode, unsigned long node)
{
	unsigned long mask = 1UL << node;

	return (int)syscall(SYS_set_mempolicy, mode, mode ? &mask : NULL, mode ? 64 : 0);
}

void node_policy(bool on)
{
	/* Right after a block came online the kernel may still answer EINVAL. */
	for (int i = 0; policy(on ? MPOL_PREFERRED : MPOL_DEFAULT, NODE); i++) {
		if (i == 100)
			die("set_mempolicy");
		usleep(20000);
	}
}

/*
 * Preferred, not bound: who is bound to a node whose last block leaves meets the OOM killer, as soon as one fault
 * of his comes at a bad moment.
 */
char *node_mapping(size_t bytes, int flags, int fd)
{
	unsigned long mask = 1UL << NODE;
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		die("mmap of %zu bytes", bytes);
	for (int i = 0; syscall(SYS_mbind, p, bytes, MPOL_PREFERRED, &mask, 64, 0); i++) {
		if (i == 100)
			die("mbind");
		usleep(20000);
	}
	return p;
}

void expect_on_node(const void *p, size_t bytes)
{
	size_t n = bytes / 4096;
	uint64_t *e = calloc(n, 8);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long good = -1;

	if (!e || fd < 0 ||
	    pread(fd, e, n * 8, (off_t)((uintptr_t)p / 4096 * 8)) != (ssize_t)(n * 8))
		die("pagemap");
	close(fd);
	for (size_t i = 0; i < n; i++) {
		uint64_t pfn = e[i] >> 63 ? e[i] & ((1ULL << 55) - 1) : 0;
		long block = (long)(pfn * 4096 / block_bytes());

		errno = 0;
		if (block != good && block_node(block) != NODE)
			die("page %zu, pfn %llu, is not on the node", i, (unsigned long long)pfn);
		good = block;
	}
	free(e);
}

char *node_memory(size_t bytes)
{
	char *p = node_mapping(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	madvise(p, bytes, MADV_NOHUGEPAGE);
	memset(p, 1, bytes);
	expect_on_node(p, bytes);
	return p;
}

void plant_say_ready(void)
{
	if (write(ready_fd, "r", 1) != 1)
		_exit(1);
}

void plant_ready(void)
{
	plant_say_ready();
	for (;;)
		pause();
}

/* ---- Holders ---- */

/* A holder has a name that nothing in the code knows. */
static void random_name(char *name)
{
	FILE *f = fopen("/dev/urandom", "re");
	unsigned char byte[8] = {0};

	if (f) {
		if (fread(byte, 1, 8, f) != 8)
			byte[0] = 1;
		fclose(f);
	}
	for (int i = 0; i < 8; i++)
		name[i] = (char)('a' + byte[i] % 26);
	name[8] = 0;
}

int holder_start(struct holder *h, void (*plant)(void))
{
	struct pollfd p;
	int fd[2];
	char c;

	random_name(h->name);
	if (pipe(fd))
		die("pipe");
	h->pid = fork();
	if (!h->pid) {
		/* A group of its own: its children go with it. */
		setpgid(0, 0);
		prctl(PR_SET_NAME, h->name);
		ready_fd = fd[1];
		close(fd[0]);
		plant();
		_exit(1);
	}
	close(fd[1]);
	p = (struct pollfd){.fd = fd[0], .events = POLLIN};
	if (h->pid < 0 || poll(&p, 1, 60000) != 1 || read(fd[0], &c, 1) != 1) {
		close(fd[0]);
		return -1;
	}
	close(fd[0]);
	usleep(100000); /* for what begins only after it has said so */
	return 0;
}

void holder_stop(struct holder *h)
{
	if (h->pid <= 0)
		return;
	kill(-h->pid, SIGKILL);
	waitpid(h->pid, NULL, 0);
	h->pid = 0;
}

/* ---- Blocks ---- */

uint64_t block_bytes(void)
{
	static unsigned long long bytes;
	FILE *f;

	if (bytes)
		return bytes;
	f = fopen("/sys/devices/system/memory/block_size_bytes", "re");
	if (!f || fscanf(f, "%llx", &bytes) != 1)
		die("block_size_bytes");
	fclose(f);
	return bytes;
}

int block_node(long block)
{
	char path[128];

	for (int node = 0; node < 8; node++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/memory%ld", node,
			 block);
		if (!access(path, F_OK))
			return node;
	}
	return -1;
}

int block_state(long block, char state[32])
{
	char path[128];
	FILE *f;
	int rc;

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%ld/state", block);
	f = fopen(path, "re");
	if (!f)
		return -1;
	rc = fscanf(f, "%31s", state) == 1 ? 0 : -1;
	fclose(f);
	return rc;
}

long first_block(int node)
{
	char path[64];
	struct dirent *e;
	long best = -1, n;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", node);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (sscanf(e->d_name, "memory%ld", &n) == 1 &&
		    isdigit((unsigned char)e->d_name[6]) && (best < 0 || n < best))
			best = n;
	if (d)
		closedir(d);
	return best;
}

/* ---- vacate ---- */

int vacate_run(struct answer *a, const char *const *argv)
{
	struct timespec t0, t1;
	size_t room = 65536, n = 0;
	ssize_t got;
	int fd[2], status;

	memset(a, 0, sizeof(*a));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	if (pipe2(fd, O_CLOEXEC))
		die("pipe");
	a->pid = fork();
	if (!a->pid) {
		int err = open("/tmp/err", O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd[1], 1);
		dup2(err, 2);
		execv("/bin/vacate", (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(fd[1]);
	a->text = calloc(1, room + 1);
	while (a->text && n < room && (got = read(fd[0], a->text + n, room - n)) > 0)
		n += (size_t)got;
	close(fd[0]);
	waitpid(a->pid, &status, 0);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	a->seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	a->rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (a->text)
		a->json = json_loads(a->text, 0, NULL);
	return a->rc;
}

void answer_free(struct answer *a)
{
	json_decref(a->json);
	free(a->text);
	memset(a, 0, sizeof(*a));
}

/* ---- Rows ---- */

static int failures; /* of the row at hand */

void row_failed(const char *fmt, ...)
{
	va_list ap;

	printf("# ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	failures++;
}

/* What vacate has said beside its answer, of a row that failed. */
static void show_errors(void)
{
	char line[512];
	FILE *f = fopen("/tmp/err", "re");

	while (f && fgets(line, sizeof(line), f))
		printf("# stderr: %s", line);
	if (f)
		fclose(f);
}

static int online(long block, bool kernel_zone)
{
	char name[32];
	const char *argv[] = {"vacate", "online", "--zone", kernel_zone ? "kernel" : "movable",
			      name,     NULL};
	struct answer a;
	int rc;

	snprintf(name, sizeof(name), "host:%ld", block);
	rc = vacate_run(&a, argv);
	answer_free(&a);
	return rc;
}

/*
 * Into the kernel's zone. A node that gets its first memory gets threads of the kernel, too, whose stacks would
 * lie in just that block; so another block comes first, and leaves again.
 */
static int online_kernel(long block)
{
	char path[96], state[32];
	int rc;

	block_state(block, state);
	if (!strcmp(state, "online"))
		return 0; /* a row before has left it so */
	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%ld/state", block + 1);
	put(path, "online_movable");
	rc = online(block, true);
	put(path, "offline");
	return rc;
}

static int offline(struct answer *a, long block, const char *const *args)
{
	const char *argv[32] = {"vacate", "offline", "--json", "--timeout", "2s"};
	char name[32];
	int n = 5;

	snprintf(name, sizeof(name), "host:%ld", block);
	while (args && *args)
		argv[n++] = *args++;
	argv[n++] = name;
	argv[n] = NULL;
	return vacate_run(a, argv);
}

/* The object of the only block that was asked for. */
static json_t *only(const struct answer *a)
{
	return json_array_get(json_object_get(a->json, "blocks"), 0);
}

static bool names(json_t *block, const struct row *row, const struct holder *h, const char *kind,
		  const char *wanted)
{
	json_t *o;
	size_t i;

	json_array_foreach(json_object_get(block, "holders"), i, o)
	{
		const char *k = json_string_value(json_object_get(o, "kind"));
		const char *evidence = json_string_value(json_object_get(o, "evidence"));

		if (json_integer_value(json_object_get(o, "pid")) == (row->device ? 0 : h->pid) &&
		    k && evidence && (!*kind || !strcmp(k, kind)) && !strcmp(evidence, wanted) &&
		    json_integer_value(json_object_get(o, "bytes")) > 0)
			return true;
	}
	return false;
}

/*
 * Nobody but who was planted, or his children, is said to hold anything: not who shares the block with him, nor
 * who maps the same pages. Who is named as a mapper only is not accused.
 */
static void expect_no_other(json_t *block, const struct row *row, const struct holder *h, int n)
{
	json_t *o;
	size_t i;

	json_array_foreach(json_object_get(block, "holders"), i, o)
	{
		const char *evidence = json_string_value(json_object_get(o, "evidence"));
		pid_t pid = (pid_t)json_integer_value(json_object_get(o, "pid"));
		bool ours = pid == 0 && row->device;

		if (!json_is_true(json_object_get(o, "blocks")) || !evidence ||
		    !strcmp(evidence, "mapper-only"))
			continue;
		for (int k = 0; k < n; k++)
			ours |= pid > 0 && getpgid(pid) == h[k].pid;
		if (!ours)
			row_failed("pid %d is accused (%s, %s), who holds nothing", (int)pid,
				   json_string_value(json_object_get(o, "kind")), evidence);
	}
}

static void judge(const struct row *row, long block, const struct answer *a, const struct holder *h,
		  int n)
{
	json_t *b = only(a);
	const char *verdict = json_string_value(json_object_get(b, "verdict"));
	const char *result = json_string_value(json_object_get(b, "result"));
	const char *wanted = row->verdict;
	int rc = row->rc;
	char state[32] = "?";
	bool the_kernel = row->or_ebusy && verdict && !strcmp(verdict, "ebusy");

	if (the_kernel) {
		printf("# the kernel has something of its own in the block\n");
		wanted = "ebusy";
		rc = CMD_UNMOVABLE;
	}
	if (a->rc != rc)
		row_failed("exit status %d, expected %d", a->rc, rc);
	if (!b)
		row_failed("no JSON: %.200s", a->text ? a->text : "");
	block_state(block, state);
	if (strcmp(result ? result : "", the_kernel ? "kernel refused" : row->result))
		row_failed("offline came to: %s", result ? result : "nothing");
	if (strcmp(state, rc ? "online" : "offline"))
		row_failed("the block is %s afterwards", state);
	if (!verdict || strcmp(verdict, wanted))
		row_failed("foreseen: %s, expected %s", verdict ? verdict : "nothing", wanted);
	for (int i = 0; row->kind && !the_kernel && i < n; i++) {
		const char *kind = i && row->kind2 ? row->kind2 : row->kind;

		const char *evidence = i && row->evidence2 ? row->evidence2
				       : row->evidence     ? row->evidence
							   : "proof";

		if (!names(b, row, &h[i], kind, evidence))
			row_failed("pid %d (%s) is not named as %s by %s", (int)h[i].pid, h[i].name,
				   kind, evidence);
	}
	if (!row->kind && rc == 0 && json_array_size(json_object_get(b, "holders")))
		row_failed("somebody is accused who does not hold anything");
	if (!row->kernel_zone)
		expect_no_other(b, row, h, n);
}

static void run_row(const struct row *row, long block)
{
	struct holder h[2] = {{.pid = 0}}, innocent = {.pid = 0};
	int n = 0;
	struct answer a = {0};
	char state[32] = "?";

	if (row->kernel_zone ? online_kernel(block) : online(block, false)) {
		row_failed("the block cannot be brought online");
		return;
	}
	if (row->setup)
		row->setup();
	if (row->special) {
		if (row->special(row, block))
			row_failed("it is not as it should be");
		return;
	}
	if (row->kind && !row->kernel_zone && !row->device &&
	    holder_start(&innocent, plant_innocent))
		row_failed("who holds nothing cannot be planted");
	else if (row->plant && holder_start(&h[n++], row->plant))
		row_failed("%s cannot be planted", row->name);
	else if (row->plant2 && holder_start(&h[n++], row->plant2))
		row_failed("the second of %s cannot be planted", row->name);
	if (!failures) {
		offline(&a, block,
			row->rc ? row->args : (const char *const[]){"--timeout", "60s", NULL});
		judge(row, block, &a, h, n);
		printf("{\"row\":\"%s\",\"rc\":%d,\"seconds\":%.2f,\"pids\":[%d,%d],\"answer\":%s}\n",
		       row->name, a.rc, a.seconds, (int)h[0].pid, (int)h[1].pid,
		       a.json ? a.text : "null");
		answer_free(&a);
	}
	if (row->release)
		row->release();
	for (int i = 0; i < n; i++)
		holder_stop(&h[i]);
	holder_stop(&innocent);
	/* Without them it goes, and it must have stayed whole meanwhile. */
	block_state(block, state);
	if (!strcmp(state, "online")) {
		static const char *const patient[] = {"--timeout", "60s", NULL};
		int rc = offline(&a, block, patient);

		if (rc && !(row->kernel_zone && rc == CMD_UNMOVABLE))
			row_failed("once they are gone: exit status %d: %.300s", rc,
				   a.text ? a.text : "");
		answer_free(&a);
	}
}

static int groups(void)
{
	for (const struct row *r = rows; r->name; r++) {
		const struct row *s = rows;

		while (strcmp(s->group, r->group))
			s++;
		if (s == r)
			puts(r->group);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct timespec t0, t1;
	int bad = 0;

	if (argc > 1 && !strcmp(argv[1], "--groups"))
		return groups();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (first_block(NODE) < 0)
		die("node %d has no memory blocks", NODE);
	for (const struct row *r = rows; r->name; r++) {
		bool chosen = argc < 2;

		for (int i = 1; i < argc; i++)
			chosen |= !strcmp(argv[i], r->group) || !strcmp(argv[i], r->name);
		if (!chosen)
			continue;
		failures = 0;
		printf("# [ RUN      ] %s\n", r->name);
		clock_gettime(CLOCK_MONOTONIC, &t0);
		run_row(r, first_block(NODE));
		if (failures)
			show_errors();
		clock_gettime(CLOCK_MONOTONIC, &t1);
		printf("# %s: %.1f s\n", r->name,
		       (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9);
		printf("# [ %s ] %s\n", failures ? " FAILED " : "      OK", r->name);
		bad += failures != 0;
	}
	return bad != 0;
}

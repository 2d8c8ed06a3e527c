/* SPDX-License-Identifier: MIT */
/*
 * Rows that are more than a holder and an offline: waiting, suspending, ending, choosing, whole devices, and
 * what a killed vacate leaves behind.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "drive.h"
#include "guest.h"

static const char *state(long block)
{
	static char s[32];

	if (block_state(block, s))
		strcpy(s, "?");
	return s;
}

/* The letter of a process's state; 0: it has gone. */
static char process(pid_t pid)
{
	char path[48], line[512], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	return p ? p[2] : 0;
}

static unsigned long start_ticks(pid_t pid)
{
	unsigned long start = 0;
	char path[48], line[512], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p && sscanf(p, "%lu", &start) != 1)
		start = 0;
	return start;
}

/* Processes of vacate that are left, zombies not counted. */
static int left_over(void)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		char path[300], name[32] = "";
		FILE *f;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && !strncmp(name, "vacate", 6) &&
		    process(atoi(e->d_name)) != 'Z')
			n++;
		fclose(f);
	}
	if (d)
		closedir(d);
	return n;
}

static int run(struct answer *a, int want, const char *const *argv)
{
	int rc = vacate_run(a, argv);

	if (rc != want)
		row_failed("%s %s: exit status %d, expected %d: %.600s", argv[1], argv[2], rc, want,
			   a->text);
	return rc == want ? 0 : -1;
}

#define RUN(a, want, ...) run(a, want, (const char *const[]){"vacate", __VA_ARGS__, NULL})

static const char *name_of(long block)
{
	static char name[32];

	snprintf(name, sizeof(name), "host:%ld", block);
	return name;
}

static void seen(const struct row *row, const struct answer *a)
{
	printf("{\"row\":\"%s\",\"rc\":%d,\"seconds\":%.2f,\"answer\":%s}\n", row->name, a->rc,
	       a->seconds, a->json ? a->text : "null");
}

/* ---- Holders let go, are stopped, are ended ---- */

static void vmsplice_then_go(void)
{
	pid_t parent = getpid();

	/* Lets go by itself after some seconds. */
	if (!fork()) {
		sleep(12);
		kill(parent, SIGKILL);
		_exit(0);
	}
	plant_vmsplice();
}

int special_wait(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	int bad;

	if (holder_start(&h, vmsplice_then_go))
		return -1;
	bad = RUN(&a, 0, "offline", "--json", "--wait", "--timeout", "60s", name_of(block));
	seen(row, &a);
	answer_free(&a);
	holder_stop(&h);
	return bad || strcmp(state(block), "offline") ? -1 : 0;
}

int special_kill(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	char who[64];
	int bad;

	if (holder_start(&h, plant_vmsplice))
		return -1;
	/* Another process than was meant is left alone. */
	snprintf(who, sizeof(who), "%d:%lu", (int)h.pid, start_ticks(h.pid) + 1);
	bad = RUN(&a, 3, "offline", "--json", "--timeout", "2s", "--kill", who, name_of(block));
	answer_free(&a);
	if (!process(h.pid) || process(h.pid) == 'Z') {
		row_failed("a process of another start time was ended");
		bad = -1;
	}
	snprintf(who, sizeof(who), "%d:%lu", (int)h.pid, start_ticks(h.pid));
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "--kill", who, name_of(block));
	seen(row, &a);
	answer_free(&a);
	holder_stop(&h);
	return bad || strcmp(state(block), "offline") ? -1 : 0;
}

static int suspend_by(const struct row *row, long block, const char *how)
{
	char option[32], before;
	struct holder h;
	struct answer a;
	int bad;

	snprintf(option, sizeof(option), "--suspend=%s", how);
	if (holder_start(&h, plant_loop_direct))
		return -1;
	/* For the freezer, which only takes a cgroup of its own. */
	mkdir("/sys/fs/cgroup/holder", 0755);
	put("/sys/fs/cgroup/holder/cgroup.procs", "%d", (int)h.pid);
	before = process(h.pid);
	bad = RUN(&a, 0, "offline", "--json", "--timeout", "30s", option, name_of(block));
	seen(row, &a);
	if (json_integer_value(json_object_get(json_array_get(json_object_get(a.json, "blocks"), 0),
					       "suspended")) != 1) {
		row_failed("%s: nobody was suspended (%c before)", how, before);
		bad = -1;
	}
	answer_free(&a);
	if (!strchr("RSD", process(h.pid) ? process(h.pid) : '?')) {
		row_failed("%s: the holder is '%c' afterwards", how, process(h.pid));
		bad = -1;
	}
	holder_stop(&h);
	rmdir("/sys/fs/cgroup/holder");
	return bad || left_over() ? -1 : 0;
}

int special_suspend(const struct row *row, long block)
{
	return suspend_by(row, block, "auto");
}

int special_suspend_freezer(const struct row *row, long block)
{
	return suspend_by(row, block, "freezer");
}

int special_suspend_stop(const struct row *row, long block)
{
	return suspend_by(row, block, "stop");
}

/* ---- Killed ---- */

/* Nobody frozen, no block half way, nothing of vacate left: soon after it was killed. */
static int clean(long block, pid_t holder, unsigned ms)
{
	for (int i = 0; i < 200; i++) {
		const char *s = state(block);
		char c = process(holder);

		if ((!strcmp(s, "online") || !strcmp(s, "offline")) && c && strchr("RSD", c) &&
		    !left_over())
			return 0;
		usleep(50000);
	}
	row_failed("killed after %u ms: the block is %s, the holder '%c', %d processes are left",
		   ms, state(block), process(holder), left_over());
	return -1;
}

static pid_t begin(const char *const *argv)
{
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execv("/bin/vacate", (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	return pid;
}

static bool stopped(pid_t pid)
{
	char c = process(pid);

	return c == 't' || c == 'T';
}

static void kill_it(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/*
 * At random moments of the whole run, then at random moments from when the holder is stopped on, and from when
 * the kernel is at work on. That each was met is checked: a run that only ever dies while it looks proves nothing.
 */
static int killed_by(long block, const char *option)
{
	const char *const argv[] = {"vacate", "offline",      "--timeout", "60s",
				    option,   name_of(block), NULL};
	unsigned met[3] = {0}, random = (unsigned)time(NULL);
	struct holder h;
	int bad = 0;

	if (holder_start(&h, plant_vmsplice))
		return -1;
	for (unsigned n = 0; n < 6 && !bad; n++) {
		pid_t pid = begin(argv);
		unsigned ms;

		for (int i = 0; n % 3 && i < 6000 && waitpid(pid, NULL, WNOHANG) == 0; i++) {
			if (n % 3 == 1 ? stopped(h.pid) : !strcmp(state(block), "going-offline"))
				break;
			usleep(5000);
		}
		random = random * 1103515245 + 12345;
		ms = (random >> 16) % (n % 3 ? 300 : 4000);
		usleep(ms * 1000);
		met[0] += stopped(h.pid);
		met[1] += !strcmp(state(block), "going-offline");
		met[2]++;
		kill_it(pid);
		bad = clean(block, h.pid, ms);
	}
	printf("# killed %u times: the holder was stopped %u times, the block on its way %u times\n",
	       met[2], met[0], met[1]);
	if (!bad && (met[0] < 2 || met[1] < 2)) {
		row_failed("too few of them met anything half way");
		bad = -1;
	}
	holder_stop(&h);
	return bad;
}

int special_killed(const struct row *row, long block)
{
	(void)row;
	return killed_by(block, "--suspend");
}

int special_killed_stop(const struct row *row, long block)
{
	(void)row;
	return killed_by(block, "--suspend=stop");
}

/* The guardian's pid. */
static pid_t guardian(void)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	pid_t pid = -1;

	while (d && pid < 0 && (e = readdir(d))) {
		char path[300], name[32] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		f = isdigit((unsigned char)e->d_name[0]) ? fopen(path, "re") : NULL;
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && !strcmp(name, "vacate-guard\n"))
			pid = atoi(e->d_name);
		fclose(f);
	}
	if (d)
		closedir(d);
	return pid;
}

/* Both at once: who was traced goes on by itself, who was stopped by the next vacate. */
static int both_killed(long block, const char *option, bool thaw)
{
	const char *const argv[] = {"vacate", "offline",      "--timeout", "60s",
				    option,   name_of(block), NULL};
	struct holder h;
	pid_t pid, guard;
	struct answer a;
	int bad = 0;

	if (holder_start(&h, plant_vmsplice))
		return -1;
	pid = begin(argv);
	for (int i = 0; !stopped(h.pid) && i < 6000; i++)
		usleep(5000);
	guard = guardian();
	if (!stopped(h.pid) || guard < 0) {
		row_failed("nobody was suspended");
		bad = -1;
	}
	kill(pid, SIGSTOP); /* so that it cannot mend what we do to the guardian */
	if (guard > 0)
		kill(guard, SIGKILL);
	kill_it(pid);
	if (thaw) {
		usleep(300000);
		if (!stopped(h.pid)) {
			row_failed("SIGSTOP has gone by itself: this proves nothing");
			bad = -1;
		}
		bad |= RUN(&a, 0, "offline", "--thaw", "host");
		answer_free(&a);
	}
	bad |= clean(block, h.pid, 0);
	holder_stop(&h);
	return bad;
}

int special_killed_both(const struct row *row, long block)
{
	(void)row;
	return both_killed(block, "--suspend=trace", false) |
	       both_killed(block, "--suspend=stop", true);
}

/* ---- What cannot be ended ---- */

/*
 * Forced: the writer sleeps beyond the reach of signals. vacate must say so and end, and once the page is let
 * go the block must be as it was, or gone.
 */
int special_stuck(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	int bad;

	if (holder_start(&h, plant_fuse))
		return -1;
	bad = RUN(&a, 1, "offline", "--json", "--force", "--timeout", "2s", name_of(block));
	seen(row, &a);
	if (!a.text || !strstr(a.text, "\"stuck\"")) {
		row_failed("it does not say that it is stuck");
		bad = -1;
	}
	answer_free(&a);
	holder_stop(&h);
	for (int i = 0; i < 200 && !strcmp(state(block), "going-offline"); i++)
		usleep(50000);
	if (strcmp(state(block), "online") && strcmp(state(block), "offline")) {
		row_failed("the block is %s once the server is gone", state(block));
		bad = -1;
	}
	return bad;
}

/* ---- Many blocks ---- */

int special_node(const struct row *row, long block)
{
	struct answer a;
	int bad;

	bad = RUN(&a, 0, "online", "--zone", "movable", "host:node1");
	answer_free(&a);
	bad |= RUN(&a, 0, "offline", "--json", "--dry-run", "host:node1");
	answer_free(&a);
	if (strcmp(state(block), "online")) {
		row_failed("a dry run has done something");
		bad = -1;
	}
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "host:node1");
	seen(row, &a);
	if (json_array_size(json_object_get(a.json, "blocks")) < 2) {
		row_failed("fewer than two blocks");
		bad = -1;
	}
	answer_free(&a);
	/* Once more: nothing is left to do, and that is no error. */
	bad |= RUN(&a, 0, "offline", "--json", "host:node1");
	answer_free(&a);
	return bad || strcmp(state(block), "offline") || strcmp(state(block + 1), "offline") ? -1
											     : 0;
}

/* Half of the node is held: the other half leaves, and the rest does when it is asked again. */
int special_resume(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	int bad;

	if (holder_start(&h, plant_vmsplice))
		return -1;
	bad = RUN(&a, 0, "online", "host:node1");
	answer_free(&a);
	bad |= RUN(&a, 64, "offline", "--json", "--timeout", "2s", "host:node1");
	seen(row, &a);
	answer_free(&a);
	if (strcmp(state(block), "online") || strcmp(state(block + 1), "offline")) {
		row_failed("the held block is %s", state(block));
		bad = -1;
	}
	holder_stop(&h);
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "host:node1");
	answer_free(&a);
	return bad;
}

/* The cheaper of two blocks: the one without a holder. */
int special_bytes(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	int bad;

	if (holder_start(&h, plant_anon))
		return -1;
	bad = RUN(&a, 0, "online", "host:node1");
	answer_free(&a);
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "--bytes", "100M", "--node", "1",
		   "host");
	seen(row, &a);
	answer_free(&a);
	if (strcmp(state(block), "online") || strcmp(state(block + 1), "offline")) {
		row_failed("block %ld is %s, the empty one %s", block, state(block),
			   state(block + 1));
		bad = -1;
	}
	holder_stop(&h);
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "host:node1");
	answer_free(&a);
	return bad;
}

/* Somebody brings the block back as soon as it has left, as a rule of udev does. */
static void bring_back(void)
{
	long block = first_block(NODE);
	char path[96];

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%ld/state", block);
	plant_say_ready();
	for (;;) {
		if (!strcmp(state(block), "offline")) {
			FILE *f = fopen(path, "we");

			if (f) {
				fputs("online_movable", f);
				fclose(f);
			}
		}
		usleep(20000);
	}
}

int special_comeback(const struct row *row, long block)
{
	struct holder h;
	struct answer a;
	int bad;

	if (holder_start(&h, bring_back))
		return -1;
	bad = RUN(&a, 1, "offline", "--json", "--timeout", "20s", name_of(block));
	seen(row, &a);
	if (!a.text || !strstr(a.text, "\"came back\"")) {
		row_failed("it does not say that the block came back");
		bad = -1;
	}
	answer_free(&a);
	holder_stop(&h);
	RUN(&a, 0, "offline", "--json", "--timeout", "20s", name_of(block));
	answer_free(&a);
	return bad;
}

/* ---- Reading ---- */

/* Waits for a byte of the driver's before it holds, so that whoever watches is there already. */
static int go_fd[2];

static void vmsplice_when_told(void)
{
	char *p = node_memory(8 * 4096), byte;
	struct iovec v = {p, 8 * 4096};
	int fd[2];

	plant_say_ready();
	if (read(go_fd[0], &byte, 1) != 1 || pipe(fd) || vmsplice(fd[1], &v, 1, 0) <= 0)
		die("vmsplice");
	for (;;)
		pause();
}

/* Who takes references while it is watched is named, with the kernel's functions that he came by. */
int special_watch(const struct row *row, long block)
{
	const char *const argv[] = {"vacate", "watch", "--json", name_of(block), NULL};
	char said[256] = "";
	struct holder h;
	struct answer a = {0};
	int out[2], err[2], bad = -1, status;
	json_t *o;
	size_t n = 0, i;
	ssize_t got;
	pid_t pid;

	/* The holder first: what it has open would have no end for us. */
	if (pipe(go_fd) || holder_start(&h, vmsplice_when_told) || pipe(out) || pipe(err))
		return -1;
	pid = fork();
	if (!pid) {
		dup2(out[1], 1);
		dup2(err[1], 2);
		execv("/bin/vacate", (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	/* It says so when it watches. */
	while (n < sizeof(said) - 1 && !strstr(said, "watching") &&
	       (got = read(err[0], said + n, sizeof(said) - 1 - n)) > 0)
		n += (size_t)got;
	if (!strstr(said, "watching"))
		row_failed("it does not watch: %s", said);
	else if (write(go_fd[1], "", 1) == 1)
		sleep(2);
	kill(pid, SIGINT);
	a.text = calloc(1, 65536);
	n = 0;
	while (a.text && n < 65535 && (got = read(out[0], a.text + n, 65535 - n)) > 0)
		n += (size_t)got;
	waitpid(pid, &status, 0);
	a.rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
	a.json = a.text ? json_loads(a.text, 0, NULL) : NULL;
	seen(row, &a);
	json_array_foreach(json_object_get(a.json, "owners"), i, o)
	{
		if (json_integer_value(json_object_get(o, "pid")) == h.pid &&
		    json_integer_value(json_object_get(o, "held_bytes")) == 8 * 4096 &&
		    json_array_size(json_object_get(o, "stack")) > 2)
			bad = 0;
	}
	if (bad)
		row_failed("pid %d is not seen to take 8 pages", (int)h.pid);
	if (a.rc)
		row_failed("exit status %d after an interrupt", a.rc);
	answer_free(&a);
	holder_stop(&h);
	close(out[0]);
	close(err[0]);
	close(go_fd[0]);
	close(go_fd[1]);
	return bad;
}

/* What was captured says the same of a block with a holder as the machine itself, but for times. */
int special_captured(const struct row *row, long block)
{
	struct answer live, saved;
	struct holder h;
	json_t *a, *b;
	int bad;

	if (holder_start(&h, plant_vmsplice_unmapped))
		return -1;
	bad = RUN(&live, 0, "why", "--json", name_of(block));
	bad |= RUN(&saved, 0, "capture", "/tmp/captured");
	answer_free(&saved);
	holder_stop(&h);
	bad |= RUN(&saved, 0, "why", "--sysroot", "/tmp/captured", "--json", name_of(block));
	seen(row, &saved);
	a = json_array_get(json_object_get(live.json, "blocks"), 0);
	b = json_array_get(json_object_get(saved.json, "blocks"), 0);
	for (const char *const *k = (const char *const[]){"block", "zone", "verdict", "reason",
							  "holders", "advice", NULL};
	     *k; k++)
		if (!json_object_get(a, *k) ||
		    !json_equal(json_object_get(a, *k), json_object_get(b, *k))) {
			row_failed("\"%s\" of the capture is not the machine's", *k);
			bad = -1;
		}
	answer_free(&live);
	answer_free(&saved);
	return bad;
}

/* Each thing that was done is in the log: here the kernel's, as nobody else keeps one. */
int special_audit(const struct row *row, long block)
{
	char text[96], buf[8192];
	struct answer a;
	bool begun = false, done = false;
	ssize_t n;
	int fd, bad;

	(void)row;
	bad = RUN(&a, 0, "offline", "--json", "--timeout", "20s", name_of(block));
	answer_free(&a);
	fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	snprintf(text, sizeof(text), "vacate: offline memory%ld: ", block);
	while (fd >= 0 && ((n = read(fd, buf, sizeof(buf) - 1)) > 0 || errno == EPIPE)) {
		buf[n > 0 ? n : 0] = 0;
		begun |= strstr(buf, text) && strstr(buf, "begins");
		done |= strstr(buf, text) && strstr(buf, "done after");
	}
	if (fd >= 0)
		close(fd);
	if (!begun || !done) {
		row_failed("the log does not say that it %s", begun ? "is done" : "begins");
		bad = -1;
	}
	return bad;
}

/* ---- Devices ---- */

static int module(const char *name)
{
	char path[64];
	pid_t pid;
	int status;

	snprintf(path, sizeof(path), "/mod/%s.ko", name);
	if (access(path, F_OK))
		return -1;
	pid = fork();
	if (!pid) {
		execl("/bin/insmod", "insmod", path, NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return status ? -1 : 0;
}

int special_virtio(const struct row *row, long block)
{
	struct answer a;
	int bad;

	(void)block;
	if (module("virtio_mem")) {
		row_failed("virtio_mem cannot be loaded");
		return -1;
	}
	for (int i = 0; i < 100; i++) {
		int rc = RUN(&a, 0, "online", "host:virtio0");

		answer_free(&a);
		if (!rc)
			break;
		usleep(100000);
	}
	bad = RUN(&a, 0, "offline", "--json", "--timeout", "20s", "host:virtio0");
	seen(row, &a);
	if (!a.text || !strstr(a.text, "requested-size")) {
		row_failed("no advice for a device that a driver owns");
		bad = -1;
	}
	answer_free(&a);
	return bad;
}

/*
 * A DAX device of the memory that the kernel was told to leave alone (memmap=): what `ndctl create-namespace
 * --mode=devdax` and `daxctl reconfigure-device --mode=system-ram` do, by hand.
 */
static int make_dax(void)
{
	static const char *const modules[] = {"libnvdimm", "nd_e820", "dax_pmem", "kmem"};

	for (unsigned i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
		if (module(modules[i])) {
			row_failed("%s cannot be loaded", modules[i]);
			return -1;
		}
	}
	for (int i = 0; access("/sys/bus/nd/devices/namespace0.0/size", F_OK); i++) {
		if (i == 100) {
			row_failed("there is no namespace0.0");
			return -1;
		}
		usleep(100000);
	}
	put("/sys/bus/nd/devices/dax0.0/mode", "ram");
	put("/sys/bus/nd/devices/dax0.0/align", "2097152");
	put("/sys/bus/nd/devices/dax0.0/uuid", "6a1b2c3d-0001-4002-8003-123456789abc");
	put("/sys/bus/nd/devices/dax0.0/namespace", "namespace0.0");
	put("/sys/bus/nd/drivers/dax_pmem/bind", "dax0.0");
	put("/sys/bus/dax/drivers/kmem/new_id", "dax0.0");
	return 0;
}

int special_dax(const struct row *row, long block)
{
	struct answer a;
	int bad;

	(void)block;
	if (make_dax())
		return -1;
	bad = RUN(&a, 0, "online", "--zone", "movable", "host:dax0.0");
	answer_free(&a);
	bad |= RUN(&a, 0, "offline", "--json", "--timeout", "20s", "host:dax0.0");
	seen(row, &a);
	if (!a.text || !strstr(a.text, "daxctl reconfigure-device")) {
		row_failed("no advice for a device that a driver owns");
		bad = -1;
	}
	answer_free(&a);
	return bad;
}

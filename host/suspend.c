/* SPDX-License-Identifier: MIT */
/* Suspending processes. See suspend.h. */
#include "host/suspend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECORDS "/run/vacate"
#define CGROUPS "/sys/fs/cgroup"
#define STOP_MS 1000 /* for a thread to come back from the kernel, before we go on without it */
#define ENTRIES 256

struct order {
	pid_t pid;
	uint64_t start;
	int how;
};

struct reply {
	int err, how;
};

/* One that is suspended by other means than tracing. */
struct entry {
	enum host_how how;
	pid_t pid;
	uint64_t start;
	char cgroup[512];
};

struct guardian {
	int sock;
	struct entry entry[ENTRIES];
	unsigned n;
	char record[64];
};

struct host_suspend {
	pid_t pid;
	int sock;
};

const char *host_how_name(enum host_how how)
{
	static const char *const name[] = {"auto", "trace", "freezer", "stop"};

	return name[how];
}

/* ---- What is known of a process ---- */

static int read_text(char *buf, size_t size, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -errno;
	buf[n] = 0;
	return 0;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* The letter of its state and its parent. */
static char look(pid_t pid, pid_t *parent)
{
	char path[48], buf[1024], *p, state = 0;
	int ppid = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_text(buf, sizeof(buf), path))
		return 0;
	p = strrchr(buf, ')');
	if (!p || sscanf(p + 1, " %c %d", &state, &ppid) != 2)
		return 0;
	if (parent)
		*parent = ppid;
	return state;
}

bool host_may_suspend(pid_t pid)
{
	pid_t p = getpid(), parent = 0;
	char path[48];
	char byte[2];

	if (pid <= 1)
		return false;
	while (p > 1) {
		if (p == pid || !look(p, &parent))
			return false;
		p = parent;
	}
	/* A thread of the kernel has no memory of its own, and no command line. */
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	return read_text(byte, sizeof(byte), path) == 0 && byte[0];
}

static int send_signal(pid_t pid, uint64_t start, int sig)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0), err = 0;

	if (fd < 0)
		return -errno;
	if (host_start_ticks(pid) != start)
		err = -ESRCH;
	else if (syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0))
		err = -errno;
	close(fd);
	return err;
}

/* ---- Freezer ---- */

/* The v2 cgroup of a process, as a directory. */
static int cgroup_of(pid_t pid, char *dir, size_t size)
{
	char path[48], buf[2048], *line, *end;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	if (read_text(buf, sizeof(buf), path))
		return -ESRCH;
	line = strncmp(buf, "0::/", 4) ? strstr(buf, "\n0::/") : buf;
	if (!line)
		return -ENOENT;
	line += *line == '\n' ? 4 : 3;
	end = strchr(line, '\n');
	if (end)
		*end = 0;
	if (!line[1])
		return -EPERM; /* the root has no freezer */
	if ((size_t)snprintf(dir, size, CGROUPS "%s", line) >= size)
		return -ENAMETOOLONG;
	return 0;
}

/*
 * A cgroup of its own: every process in it is the holder or a descendant of it. So neither another service
 * nor the session of whoever calls us stops with it; nor do we, and with us the guardian.
 */
static bool own_cgroup(const char *dir, pid_t pid)
{
	char path[600];
	bool own = true;
	FILE *f;
	int id;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (own && fscanf(f, "%d", &id) == 1) {
		pid_t p = id, parent = 0;

		while (p > 1 && p != pid && look(p, &parent))
			p = parent;
		own = p == pid && id != getpid() && id != getppid();
	}
	fclose(f);
	return own;
}

/* ---- The record ---- */

static void record(struct guardian *g)
{
	char text[512 + 64];
	FILE *f;

	if (!g->n) {
		if (g->record[0])
			unlink(g->record);
		return;
	}
	if (!g->record[0]) {
		mkdir(RECORDS, 0700);
		snprintf(g->record, sizeof(g->record), RECORDS "/suspended-%d", (int)getpid());
	}
	f = fopen(g->record, "we");
	if (!f)
		return; /* no /run: then only the guardian knows */
	fprintf(f, "guardian %d %llu\n", (int)getpid(),
		(unsigned long long)host_start_ticks(getpid()));
	for (unsigned i = 0; i < g->n; i++) {
		if (g->entry[i].how == HOST_HOW_FREEZER)
			snprintf(text, sizeof(text), "cgroup %s", g->entry[i].cgroup);
		else
			snprintf(text, sizeof(text), "process %d %llu", (int)g->entry[i].pid,
				 (unsigned long long)g->entry[i].start);
		fprintf(f, "%s\n", text);
	}
	fclose(f);
}

static int thaw_cgroup(const char *dir)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/cgroup.freeze", dir);
	return write_text(path, "0");
}

int host_suspend_recover(void)
{
	struct dirent *e;
	DIR *d = opendir(RECORDS);
	int n = 0;

	while (d && (e = readdir(d))) {
		char path[300], line[600], dir[512];
		unsigned long long start = 0;
		FILE *f;
		int pid;

		if (strncmp(e->d_name, "suspended-", 10))
			continue;
		snprintf(path, sizeof(path), RECORDS "/%s", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(line, sizeof(line), f) ||
		    sscanf(line, "guardian %d %llu", &pid, &start) != 2 ||
		    host_start_ticks(pid) == start) {
			fclose(f); /* he is alive, and about to write it */
			continue;
		}
		while (fgets(line, sizeof(line), f)) {
			if (sscanf(line, "process %d %llu", &pid, &start) == 2)
				n += !send_signal(pid, start, SIGCONT);
			else if (sscanf(line, "cgroup %511[^\n]", dir) == 1 &&
				 !strncmp(dir, CGROUPS "/", strlen(CGROUPS) + 1) &&
				 !strstr(dir, "/../"))
				n += !thaw_cgroup(dir);
		}
		fclose(f);
		unlink(path);
	}
	if (d)
		closedir(d);
	return n;
}

/* ---- The guardian ---- */

static void thaw(struct guardian *g)
{
	while (g->n) {
		struct entry *e = &g->entry[--g->n];

		if (e->how == HOST_HOW_FREEZER)
			thaw_cgroup(e->cgroup);
		else
			send_signal(e->pid, e->start, SIGCONT);
	}
	record(g);
	/* Whom we trace, the kernel lets go when we end. */
}

/* Threads of a process that are not stopped yet; attaches to those that are new. -errno: to none. */
static int seize(pid_t pid, unsigned *seized)
{
	char path[48];
	struct dirent *e;
	int fresh = 0, err = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return -ESRCH;
	while ((e = readdir(d))) {
		pid_t tid = (pid_t)atoi(e->d_name);

		if (tid <= 0)
			continue;
		/* EPERM also says that it is ours already. */
		if (ptrace(PTRACE_SEIZE, tid, NULL, NULL)) {
			err = err ? err : -errno;
			continue;
		}
		ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
		(*seized)++;
		fresh++;
	}
	closedir(d);
	return *seized ? fresh : err ? err : -ESRCH;
}

static bool all_stopped(pid_t pid)
{
	char path[48], stat[400], buf[1024], *p;
	struct dirent *e;
	bool all = true;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	while (d && all && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(stat, sizeof(stat), "/proc/%d/task/%s/stat", (int)pid, e->d_name);
		if (read_text(buf, sizeof(buf), stat))
			continue;
		p = strrchr(buf, ')');
		all = p && strchr("tTZX", p[2]);
	}
	if (d)
		closedir(d);
	return all;
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		;
}

/* A thread may make another while we go through the list: until a round finds none that is new. */
static int trace(const struct order *o)
{
	unsigned seized = 0;
	int n;

	if (host_start_ticks(o->pid) != o->start)
		return -ESRCH;
	do {
		n = seize(o->pid, &seized);
		reap();
	} while (n > 0);
	if (n < 0)
		return n;
	for (int ms = 0; ms < STOP_MS; ms += 5) {
		reap();
		if (all_stopped(o->pid))
			return 0;
		usleep(5000);
		if (seize(o->pid, &seized) < 0)
			break;
	}
	return -EINPROGRESS;
}

static int freeze(struct guardian *g, const struct order *o)
{
	struct entry *e = &g->entry[g->n];
	char path[600], buf[16];
	int err;

	err = cgroup_of(o->pid, e->cgroup, sizeof(e->cgroup));
	if (err)
		return err;
	if (host_start_ticks(o->pid) != o->start)
		return -ESRCH;
	for (unsigned i = 0; i < g->n; i++)
		if (g->entry[i].how == HOST_HOW_FREEZER && !strcmp(g->entry[i].cgroup, e->cgroup))
			return 0;
	if (!own_cgroup(e->cgroup, o->pid))
		return -EPERM;
	snprintf(path, sizeof(path), "%s/cgroup.freeze", e->cgroup);
	err = read_text(buf, sizeof(buf), path);
	if (err || buf[0] == '1')
		return err ? err : -EALREADY;
	e->how = HOST_HOW_FREEZER;
	g->n++;
	record(g);
	err = write_text(path, "1");
	if (err) {
		g->n--;
		record(g);
		return err;
	}
	snprintf(path, sizeof(path), "%s/cgroup.events", e->cgroup);
	for (int ms = 0; ms < STOP_MS; ms += 5) {
		char events[256];

		if (!read_text(events, sizeof(events), path) && strstr(events, "frozen 1"))
			return 0;
		usleep(5000);
	}
	return -EINPROGRESS;
}

static int stop(struct guardian *g, const struct order *o)
{
	struct entry *e = &g->entry[g->n];
	int err;

	if (look(o->pid, NULL) == 'T')
		return -EALREADY;
	*e = (struct entry){.how = HOST_HOW_STOP, .pid = o->pid, .start = o->start};
	g->n++;
	record(g);
	err = send_signal(o->pid, o->start, SIGSTOP);
	if (err) {
		g->n--;
		record(g);
		return err;
	}
	for (int ms = 0; ms < STOP_MS; ms += 5) {
		if (all_stopped(o->pid))
			return 0;
		usleep(5000);
	}
	return -EINPROGRESS;
}

static struct reply carry_out(struct guardian *g, const struct order *o)
{
	struct reply r = {.err = -EINVAL, .how = o->how};

	if (g->n == ENTRIES) {
		r.err = -ENOSPC;
		return r;
	}
	if (o->how == HOST_HOW_AUTO || o->how == HOST_HOW_TRACE) {
		r.how = HOST_HOW_TRACE;
		r.err = trace(o);
		if (o->how == HOST_HOW_TRACE || r.err != -EPERM)
			return r;
	}
	if (o->how == HOST_HOW_AUTO || o->how == HOST_HOW_FREEZER) {
		r.how = HOST_HOW_FREEZER;
		r.err = freeze(g, o);
		if (o->how == HOST_HOW_FREEZER || !r.err || r.err == -EINPROGRESS ||
		    r.err == -ESRCH)
			return r;
	}
	r.how = HOST_HOW_STOP;
	r.err = stop(g, o);
	return r;
}

static volatile sig_atomic_t told_to_end;

static void on_term(int sig)
{
	(void)sig;
	told_to_end = 1;
}

static void __attribute__((noreturn)) guard(int sock)
{
	static struct guardian g; /* of this process only */
	struct sigaction sa = {.sa_handler = on_term};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	sigset_t none;

	g.sock = sock;
	setsid();
	prctl(PR_SET_NAME, "vacate-guard");
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	/* Who ends us politely, a service manager say, wants all of it to end. */
	sigaction(SIGTERM, &sa, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	while (!told_to_end) {
		struct order o;
		struct reply r;
		ssize_t n;

		reap(); /* a tracer must: else parents do not see the ends of their children */
		if (poll(&p, 1, 50) <= 0)
			continue;
		n = recv(sock, &o, sizeof(o), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n != sizeof(o))
			break; /* the other end is gone, or has said that it is over */
		r = carry_out(&g, &o);
		if (send(sock, &r, sizeof(r), MSG_NOSIGNAL) != sizeof(r))
			break;
	}
	thaw(&g);
	_exit(0);
}

/* ---- Our side ---- */

/* Nothing of ours but the socket may stay open in the guardian: he outlives us, and who waits for the end of
 * our output would wait for his. */
static int close_others(int keep)
{
	int null;

	if (keep < 3)
		keep = fcntl(keep, F_DUPFD, 3);
	null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (keep > 3)
		syscall(SYS_close_range, 3, keep - 1, 0);
	syscall(SYS_close_range, keep + 1, ~0U, 0);
	return keep;
}

struct host_suspend *host_suspend_start(void)
{
	struct host_suspend *s = calloc(1, sizeof(*s));
	int fd[2];

	if (!s || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd))
		goto no_socket;
	s->pid = fork();
	if (!s->pid) {
		guard(close_others(fd[1]));
	}
	close(fd[1]);
	if (s->pid < 0)
		goto no_guardian;
	s->sock = fd[0];
	return s;
no_guardian:
	close(fd[0]);
no_socket:
	free(s);
	return NULL;
}

int host_suspend_add(struct host_suspend *s, pid_t pid, uint64_t start_ticks, enum host_how how,
		     enum host_how *used)
{
	struct order o = {.pid = pid, .start = start_ticks, .how = (int)how};
	struct reply r;

	*used = how;
	if (!host_may_suspend(pid))
		return -EPERM;
	if (send(s->sock, &o, sizeof(o), MSG_NOSIGNAL) != sizeof(o) ||
	    recv(s->sock, &r, sizeof(r), 0) != sizeof(r)) {
		/* He was killed. What he traced goes on by itself, the rest is in his record. */
		while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
			;
		s->pid = -1;
		host_suspend_recover();
		return -EPIPE;
	}
	*used = (enum host_how)r.how;
	return r.err;
}

void host_suspend_end(struct host_suspend *s)
{
	if (!s)
		return;
	close(s->sock);
	while (s->pid > 0 && waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	host_suspend_recover();
	free(s);
}

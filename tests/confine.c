/* SPDX-License-Identifier: MIT */
/*
 * confine: run a command as if on a machine that forbids things.
 *
 *	confine WHAT[,WHAT...] COMMAND [ARGUMENT...]
 *
 *	container    what container runtimes' default profiles do: the system calls of the list below
 *	             answer EPERM, only their capabilities are left, and there is no /dev/userfaultfd
 *	no-uffd      userfaultfd(2) answers ENOSYS, and there is no device
 *	no-io-uring  io_uring answers ENOSYS
 *	no-aio       so do io_setup(2) and its kin
 *	no-proc      /proc is empty
 *	no-huge      no transparent huge pages, neither asked for nor given
 *
 * Exit status that of the command; 77 where confining itself is not allowed here, with the reason.
 * The lists follow the profile that Docker 28 and containerd 2 install by default (moby's
 * profiles/seccomp/default.json, as published; capabilities as in its documentation).
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int container_calls[] = {
	SYS_userfaultfd,
	SYS_io_uring_setup,
	SYS_io_uring_enter,
	SYS_io_uring_register,
	SYS_bpf,
	SYS_perf_event_open,
	SYS_fanotify_init,
	SYS_lookup_dcookie,
	SYS_mount,
	SYS_umount2,
	SYS_move_mount,
	SYS_open_tree,
	SYS_fsopen,
	SYS_fsmount,
	SYS_pivot_root,
	SYS_setns,
	SYS_unshare,
	SYS_keyctl,
	SYS_add_key,
	SYS_request_key,
	SYS_kcmp,
	SYS_move_pages,
	SYS_migrate_pages,
	SYS_mbind,
	SYS_set_mempolicy,
	SYS_get_mempolicy,
	SYS_swapon,
	SYS_swapoff,
	SYS_reboot,
	SYS_syslog,
	SYS_acct,
	SYS_quotactl,
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_kexec_load,
	SYS_clock_settime,
	SYS_open_by_handle_at,
	SYS_settimeofday,
	SYS_vhangup,
};
static const int uffd_calls[] = {SYS_userfaultfd};
static const int uring_calls[] = {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register};

static const int aio_calls[] = {SYS_io_setup, SYS_io_submit, SYS_io_getevents};

static _Noreturn void cannot(const char *what)
{
	printf("SKIP: forced: cannot confine: %s: %s\n", what, strerror(errno));
	exit(77);
}

/* Answer err to each of these calls; all others are made. */
static void refuse(const int *calls, unsigned n, int err)
{
	struct sock_filter f[2 * 64 + 4];
	struct sock_fprog prog = {.filter = f};
	unsigned k = 0;

	f[k++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					      offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < n; i++) {
		f[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
						      0, 1);
		f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
						      SECCOMP_RET_ERRNO | (unsigned)err);
	}
	f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prog.len = (unsigned short)k;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		cannot("seccomp");
}

static void own_mounts(void)
{
	static bool done;

	if (done)
		return;
	done = true;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		cannot("a mount namespace (root only)");
}

static void hide_device(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK))
		return; /* not there, or not for us */
	own_mounts();
	if (mount("/dev/null", "/dev/userfaultfd", NULL, MS_BIND, NULL))
		cannot("/dev/userfaultfd");
}

static void drop_capabilities(void)
{
	static const unsigned kept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FSETID |
				     1u << CAP_FOWNER | 1u << CAP_MKNOD | 1u << CAP_NET_RAW |
				     1u << CAP_SETGID | 1u << CAP_SETUID | 1u << CAP_SETPCAP |
				     1u << CAP_NET_BIND_SERVICE | 1u << CAP_SYS_CHROOT |
				     1u << CAP_KILL;
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];

	if (geteuid() != 0)
		return;
	for (int c = 0; c <= 40; c++)
		if (c > 31 || !(kept & 1u << c))
			prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	memset(d, 0, sizeof(d));
	d[0].effective = d[0].permitted = d[0].inheritable = kept;
	if (syscall(SYS_capset, &h, d))
		cannot("capabilities");
}

struct wants {
	bool container, no_uffd, no_uring, no_aio, no_proc, no_huge;
};

static bool parse(char *list, struct wants *w)
{
	const struct {
		const char *name;
		bool *flag;
	} known[] = {{"container", &w->container},  {"no-uffd", &w->no_uffd},
		     {"no-io-uring", &w->no_uring}, {"no-aio", &w->no_aio},
		     {"no-proc", &w->no_proc},      {"no-huge", &w->no_huge}};

	for (char *p = strtok(list, ","); p; p = strtok(NULL, ",")) {
		size_t i = 0;

		while (i < sizeof(known) / sizeof(known[0]) && strcmp(p, known[i].name))
			i++;
		if (i == sizeof(known) / sizeof(known[0]))
			return false;
		*known[i].flag = true;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct wants w = {false};

	if (argc < 3 || !parse(argv[1], &w)) {
		fprintf(stderr, "confine: WHAT is of: container no-uffd no-io-uring no-aio "
				"no-proc no-huge\nUsage: confine WHAT[,WHAT...] COMMAND...\n");
		return 2;
	}
	if (w.container || w.no_uffd)
		hide_device();
	if (w.no_proc) {
		own_mounts();
		if (mount("none", "/proc", "tmpfs", 0, NULL))
			cannot("/proc");
	}
	if (w.no_huge && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		cannot("huge pages");
	if (w.container)
		drop_capabilities();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		cannot("no_new_privs");
	if (w.container)
		refuse(container_calls, sizeof(container_calls) / sizeof(int), EPERM);
	if (w.no_uffd)
		refuse(uffd_calls, 1, ENOSYS);
	if (w.no_uring)
		refuse(uring_calls, 3, ENOSYS);
	if (w.no_aio)
		refuse(aio_calls, 3, ENOSYS);
	execvp(argv[2], argv + 2);
	fprintf(stderr, "confine: %s: %s\n", argv[2], strerror(errno));
	return 127;
}

/* SPDX-License-Identifier: MIT */
/*
 * The rows: what is planted, what must be foreseen, and what offline then really does.
 *
 * The rows of host.md's two tables first, with holders of random names, two at once too; then what the command
 * does about holders, and what it leaves when it is killed. The last of a guest are those after which it is
 * of no more use.
 */
#include "guest.h"

#include "cli/cmd.h"

#define GOES .verdict = "goes", .rc = CMD_OK
#define LOOPS .verdict = "loops", .rc = CMD_HELD
#define NO_MEMORY .verdict = "no-target", .rc = CMD_NO_TARGET
#define EBUSY_AT_ONCE .verdict = "ebusy", .rc = CMD_UNMOVABLE
#define UNKILLABLE .verdict = "unkillable", .rc = CMD_REFUSED

const struct row rows[] = {
	/* What moves; nobody is accused. */
	{.group = "moves", .name = "empty", GOES},
	{.group = "moves", .name = "anonymous", .plant = plant_anon, GOES},
	{.group = "moves", .name = "thp", .plant = plant_thp, GOES},
	{.group = "moves", .name = "mlock", .plant = plant_mlock, GOES},
	{.group = "moves", .name = "writers", .plant = plant_writers, GOES},
	{.group = "moves", .name = "futex", .plant = plant_futex, GOES},
	{.group = "moves", .name = "userfaultfd", .plant = plant_uffd, GOES},
	{.group = "moves", .name = "stopped", .plant = plant_stopped, GOES},
	{.group = "moves", .name = "copy-on-write", .plant = plant_cow, GOES},
	{.group = "moves", .name = "tmpfs", .plant = plant_tmpfs, GOES},
	{.group = "moves", .name = "io_uring", .plant = plant_uring, GOES},
	{.group = "moves",
	 .name = "huge-target",
	 .plant = plant_huge,
	 .setup = setup_huge_target,
	 .release = release_huge,
	 GOES},
	/* No free huge page in another node's pool, but memory to make one of. */
	{.group = "moves",
	 .name = "huge-made",
	 .plant = plant_huge,
	 .setup = setup_huge_only,
	 .release = release_huge,
	 GOES},

	/* What is held. */
	{.group = "held", .name = "vmsplice", .plant = plant_vmsplice, .kind = "pipe", LOOPS},
	{.group = "held",
	 .name = "vmsplice-gift",
	 .plant = plant_vmsplice_gift,
	 .kind = "pipe",
	 LOOPS},
	{.group = "held",
	 .name = "vmsplice-unmapped",
	 .plant = plant_vmsplice_unmapped,
	 .kind = "pipe",
	 LOOPS},
	{.group = "held", .name = "splice-tmpfs", .plant = plant_splice, .kind = "pipe", LOOPS},
	{.group = "held", .name = "sendfile", .plant = plant_sendfile, .kind = "socket", LOOPS},
	{.group = "held", .name = "zerocopy", .plant = plant_zerocopy, .kind = "socket", LOOPS},
	{.group = "held",
	 .name = "direct-read",
	 .plant = plant_direct_read,
	 .setup = setup_slow,
	 .release = release_slow,
	 .kind = "direct-io",
	 LOOPS},
	{.group = "held",
	 .name = "aio",
	 .plant = plant_aio,
	 .setup = setup_slow,
	 .release = release_slow,
	 .kind = "direct-io",
	 LOOPS},
	{.group = "held",
	 .name = "two-pipes",
	 .plant = plant_vmsplice,
	 .plant2 = plant_vmsplice_unmapped,
	 .kind = "pipe",
	 LOOPS},
	{.group = "held",
	 .name = "two-sockets",
	 .plant = plant_zerocopy,
	 .plant2 = plant_sendfile,
	 .kind = "socket",
	 LOOPS},
	{.group = "held",
	 .name = "huge-reserved",
	 .plant = plant_huge_reserved,
	 .setup = setup_huge_reserved,
	 .release = release_huge,
	 .kind = "hugetlb",
	 EBUSY_AT_ONCE},
	{.group = "held", .name = "no-memory", .plant = plant_much, NO_MEMORY},

	/* What the command does about it. */
	{.group = "acts", .name = "wait", .special = special_wait},
	{.group = "acts", .name = "kill", .special = special_kill},
	{.group = "acts", .name = "suspend", .special = special_suspend},
	{.group = "acts", .name = "suspend-freezer", .special = special_suspend_freezer},
	{.group = "acts", .name = "suspend-stop", .special = special_suspend_stop},
	{.group = "acts", .name = "killed", .special = special_killed},
	{.group = "acts", .name = "killed-stop", .special = special_killed_stop},
	{.group = "acts", .name = "killed-both", .special = special_killed_both},
	{.group = "acts", .name = "node", .special = special_node},
	{.group = "acts", .name = "resumed", .special = special_resume},
	{.group = "acts", .name = "bytes", .special = special_bytes},
	{.group = "acts", .name = "comes-back", .special = special_comeback},
	{.group = "acts", .name = "audit", .special = special_audit},
	{.group = "acts", .name = "virtio-mem", .special = special_virtio},
	{.group = "acts", .name = "dax", .special = special_dax},

	/* What would not have come back. */
	{.group = "ends",
	 .name = "writeback",
	 .plant = plant_writeback,
	 .setup = setup_slow_ext4,
	 .release = release_slow,
	 .kind = "writeback",
	 .device = true,
	 UNKILLABLE},
	{.group = "ends", .name = "fuse", .plant = plant_fuse, .kind = "fuse", UNKILLABLE},
	{.group = "ends", .name = "stuck", .special = special_stuck},

	/*
	 * In the kernel's zone. Whether the kernel puts something of its own there meanwhile is not in our hands;
	 * whether that is foreseen is. Such a block may never leave again, so these come last, in a guest of
	 * their own.
	 */
	{.group = "kernel",
	 .name = "kernel-anonymous",
	 .kernel_zone = true,
	 .or_ebusy = true,
	 .plant = plant_anon,
	 GOES},
	{.group = "kernel",
	 .name = "kernel-mlock",
	 .kernel_zone = true,
	 .or_ebusy = true,
	 .plant = plant_mlock,
	 GOES},
	{.group = "kernel",
	 .name = "kernel-aio-ring",
	 .kernel_zone = true,
	 .or_ebusy = true,
	 .plant = plant_aio_ring,
	 GOES},
	{.group = "kernel",
	 .name = "kernel-vmsplice",
	 .kernel_zone = true,
	 .or_ebusy = true,
	 .plant = plant_vmsplice,
	 .kind = "pipe",
	 LOOPS},
	{.group = "kernel",
	 .name = "kernel-slab",
	 .kernel_zone = true,
	 .plant = plant_slab,
	 EBUSY_AT_ONCE},
	{.name = NULL},
};

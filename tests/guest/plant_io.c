/* SPDX-License-Identifier: MIT */
/*
 * Planters of transfers under way: to and from a device that takes ten minutes for each (dm-delay over
 * the guest's disk), and rings of asynchronous I/O. Suspending the device ends all its delays at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "guest.h"

#define DISK "/dev/vda"
#define SLOW "/dev/slow"
#define MNT "/tmp/ext4"
#define DELAY_MS 600000
#define BYTES (8 * 4096UL)

/* ---- The slow device ---- */

static struct {
	struct dm_ioctl io;
	struct dm_target_spec spec;
	char params[256];
} dm;

static void dm_begin(void)
{
	memset(&dm, 0, sizeof(dm));
	dm.io.version[0] = DM_VERSION_MAJOR;
	dm.io.data_size = sizeof(dm);
	dm.io.data_start = sizeof(dm.io);
	strcpy(dm.io.name, "slow");
}

static int dm_call(unsigned long op)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC), rc;

	if (fd < 0)
		die("/dev/mapper/control");
	rc = ioctl(fd, op, &dm);
	close(fd);
	return rc;
}

static void dm_suspend(bool on)
{
	dm_begin();
	/* Never by way of the file system: thawing it would write to the device that is slow by then. */
	dm.io.flags = DM_SKIP_LOCKFS_FLAG | (on ? DM_SUSPEND_FLAG : 0);
	if (dm_call(DM_DEV_SUSPEND))
		die("DM_DEV_SUSPEND");
}

static void slow(unsigned read_ms, unsigned write_ms)
{
	uint64_t bytes = 0;
	int fd = open(DISK, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		die(DISK);
	close(fd);
	dm_begin();
	if (!dm_call(DM_DEV_CREATE)) {
		if (mknod(SLOW, S_IFBLK | 0600, (dev_t)dm.io.dev))
			die("mknod " SLOW);
	} else if (errno != EBUSY) { /* it is there from a row before */
		die("DM_DEV_CREATE");
	}
	dm_begin();
	dm.io.target_count = 1;
	dm.spec.length = bytes / 512;
	strcpy(dm.spec.target_type, "delay");
	snprintf(dm.params, sizeof(dm.params), "%s 0 %u %s 0 %u", DISK, read_ms, DISK, write_ms);
	dm.spec.next = sizeof(dm.spec) + sizeof(dm.params);
	if (dm_call(DM_TABLE_LOAD))
		die("DM_TABLE_LOAD");
	dm_suspend(false);
}

void setup_slow(void)
{
	slow(DELAY_MS, DELAY_MS);
}

/* Reads are quick, so that the file system can be mounted. */
void setup_slow_ext4(void)
{
	slow(0, 0);
	mkdir(MNT, 0755);
	if (mount(SLOW, MNT, "ext4", 0, ""))
		die("mount of ext4");
	/* Made and written once beforehand: only data is on its way afterwards. */
	{
		int fd = open(MNT "/file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		char page[4096] = {1};

		for (unsigned i = 0; i < BYTES / 4096; i++)
			if (write(fd, page, sizeof(page)) != sizeof(page))
				die(MNT "/file");
		fsync(fd);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
	}
	sync();
	slow(0, DELAY_MS);
}

/* Loading another table first: after the suspend nothing may be delayed again. */
void release_slow(void)
{
	dm_suspend(true);
	slow(0, 0);
	umount2(MNT, MNT_DETACH);
}

static int open_slow(void)
{
	int fd = open(SLOW, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		die(SLOW);
	return fd;
}

/* ---- Transfers ---- */

void plant_direct_read(void)
{
	int fd = open_slow();
	char *p = node_memory(BYTES);

	plant_say_ready(); /* the read begins at once after it, and does not come back */
	pread(fd, p, BYTES, 0);
	for (;;)
		pause();
}

static aio_context_t context(void)
{
	aio_context_t c = 0;

	if (syscall(SYS_io_setup, 8, &c))
		die("io_setup");
	return c;
}

void plant_aio(void)
{
	int fd = open_slow();
	char *p = node_memory(BYTES);
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd};
	struct iocb *list = &cb;

	cb.aio_buf = (uintptr_t)p;
	cb.aio_nbytes = BYTES;
	if (syscall(SYS_io_submit, context(), 1, &list) != 1)
		die("io_submit");
	plant_ready();
}

/* The ring's pages come from where the task's policy says. */
void plant_aio_ring(void)
{
	node_policy(true);
	context();
	node_policy(false);
	plant_ready();
}

void plant_uring(void)
{
	struct io_uring ring;
	struct iovec v = {node_memory(64 * 4096), 64 * 4096};

	if (io_uring_queue_init(8, &ring, 0) || io_uring_register_buffers(&ring, &v, 1))
		die("io_uring");
	plant_ready();
}

/* A read under way for which no thread waits. */
void plant_uring_read(void)
{
	struct io_uring ring;
	struct io_uring_sqe *e;
	int fd = open_slow();

	if (io_uring_queue_init(8, &ring, 0) || !(e = io_uring_get_sqe(&ring)))
		die("io_uring");
	io_uring_prep_read(e, fd, node_memory(BYTES), BYTES, 0);
	if (io_uring_submit(&ring) != 1)
		die("io_uring_submit");
	plant_ready();
}

/* Pages of the page cache, on the node, on their way to the slow device. */
void plant_writeback(void)
{
	int fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	char page[4096];
	char *p;

	if (fd < 0)
		die(MNT "/file");
	memset(page, 9, sizeof(page));
	node_policy(true);
	for (unsigned i = 0; i < BYTES / 4096; i++)
		if (pwrite(fd, page, sizeof(page), i * 4096) != sizeof(page))
			die("write");
	node_policy(false);
	p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	expect_on_node(p, BYTES);
	if (sync_file_range(fd, 0, BYTES, SYNC_FILE_RANGE_WRITE))
		die("sync_file_range");
	plant_ready();
}

/* Direct I/O that never ends: each transfer is short, and there is always one. */
void plant_loop_direct(void)
{
	int fd = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC);
	char *p = node_memory(1 << 20);

	if (fd < 0)
		die(DISK);
	plant_say_ready();
	for (;;)
		pread(fd, p, 1 << 20, 0);
}

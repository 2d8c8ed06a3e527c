/* SPDX-License-Identifier: MIT */
/*
 * The guest's driver (guest.c), its rows (rows.c) and what they plant (plant_*.c).
 *
 * A planter is a function that runs in a process of its own. It holds pages of the block under test in
 * the way that its row is about, calls plant_ready(), and stays until it is killed. What must be undone
 * from outside (a slow device that still has the transfer) is the row's release().
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NODE 1      /* where the block under test is */
#define ANY_KIND "" /* of a holder: whatever kind, if the evidence is right */

struct row {
	const char *group; /* rows of one group share a guest */
	const char *name;
	void (*plant)(void);   /* NULL: nobody */
	void (*plant2)(void);  /* a second holder of the same block, or NULL */
	void (*setup)(void);   /* before the planters, in the driver; exits on failure */
	void (*release)(void); /* after them */
	const char *
		verdict; /* what must be said beforehand: goes, loops, ebusy, unkillable, no-memory */
	const char *kind;      /* how the holder must be named; NULL: there is none to name */
	const char *kind2;     /* the second one; NULL: as the first */
	const char *evidence;  /* and by what; NULL: proof */
	const char *evidence2; /* of the second; NULL: as the first */
	const char *result;    /* what offline must have come to */
	int rc;                /* exit status of `vacate offline` */
	bool device;           /* it is a device that holds, so no process is named as the holder */
	bool kernel_zone;      /* onlined into the kernel's zone, not as movable */
	bool or_ebusy; /* the kernel may have put something unmovable there: then that is foreseen, too */
	const char *const *args; /* further options of `vacate offline`, NULL at the end */
	int (*special)(const struct row *row, long block); /* instead of all that: 0 passed */
};

extern const struct row rows[];

/* ---- For planters ---- */

/* End the process: what could not be done, with errno. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* Memory whose every page lies on NODE, written once. bytes a multiple of a page. */
char *node_memory(size_t bytes);
/* The same, not touched: flags as mmap's. */
char *node_mapping(size_t bytes, int flags, int fd);
/* From here on, all that this thread makes lies on NODE where it can. */
void node_policy(bool on);
/* Dies unless all pages from p on lie on NODE's online blocks. */
void expect_on_node(const void *p, size_t bytes);
/* The holder holds; does not come back. */
void plant_ready(void) __attribute__((noreturn));
/* The same where something must go on meanwhile. */
void plant_say_ready(void);
/* Write text to a file; dies if it cannot be. */
void put(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* plant_mem.c */
void plant_anon(void);
void plant_thp(void);
void plant_mlock(void);
void plant_writers(void);
void plant_futex(void);
void plant_cow(void);
void plant_stopped(void);
void plant_tmpfs(void);
void plant_huge(void);
void plant_much(void);
void plant_uffd(void);
void plant_huge_reserved(void);
void plant_slab(void);
void setup_huge_target(void);
void setup_huge_only(void);
void setup_huge_reserved(void);
void release_huge(void);

/* plant_pipe.c */
void plant_innocent(void); /* shares the block, and has much of what holders have */
void plant_random(void);   /* one of many, drawn anew each time; "pipe" or "socket" */
void plant_in_flight(void);
void plant_own_table(void);
void plant_shared(void);
void plant_vmsplice_thp(void);
void plant_not_accepted(void);
void plant_sendfile_unix(void);
void plant_vmsplice(void);
void plant_vmsplice_gift(void);
void plant_vmsplice_unmapped(void);
void plant_splice(void);
void plant_sendfile(void);
void plant_zerocopy(void);

/* plant_io.c */
void plant_direct_read(void);
void plant_aio(void);
void plant_aio_ring(void);
void plant_uring(void);
void plant_uring_read(void);
void plant_writeback(void);
void plant_loop_direct(void);
void setup_slow(void);
void setup_slow_ext4(void);
void release_slow(void);

/* plant_fuse.c */
void plant_fuse(void);

/* ---- Rows of their own: special.c. 0 passed. ---- */

int special_wait(const struct row *row, long block);
int special_kill(const struct row *row, long block);
int special_suspend(const struct row *row, long block);
int special_suspend_freezer(const struct row *row, long block);
int special_suspend_stop(const struct row *row, long block);
int special_killed(const struct row *row, long block);
int special_killed_stop(const struct row *row, long block);
int special_killed_both(const struct row *row, long block);
int special_stuck(const struct row *row, long block);
int special_node(const struct row *row, long block);
int special_resume(const struct row *row, long block);
int special_bytes(const struct row *row, long block);
int special_comeback(const struct row *row, long block);
int special_watch(const struct row *row, long block);
int special_captured(const struct row *row, long block);
int special_audit(const struct row *row, long block);
int special_virtio(const struct row *row, long block);
int special_dax(const struct row *row, long block);

#endif

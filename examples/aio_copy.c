/* SPDX-License-Identifier: MIT */
/*
 * Copy a file by direct I/O while every block of the memory that it goes through is taken away.
 *
 * One direct I/O context (vac_aio_*) has up to DEPTH reads and writes under way, in parts of one registered buffer
 * that is used for as long as the program runs. That pins it, by a pin that moves: each time its block is to leave, the
 * engine waits for the transfers in hand, holds back those to come, and registers the buffer again where it lies then. Another
 * thread takes the blocks away, one after the other, and brings them back. The copy is made, and compared with the
 * original, again and again until each block has left.
 *
 * Prints what it does; the exit status is 0 if the files are equal.
 *
 * What may go wrong, and with you too:
 *  - O_DIRECT wants offsets, lengths and addresses in multiples of the storage's block, here 4096: the last write is
 *    longer than the file, which is then cut. Some file systems have no O_DIRECT: then it is done without.
 *  - A transfer may be short, as read(2) may be: the rest is asked for again.
 *  - vac_aio_submit() may take fewer requests than it was given, and -EAGAIN is no error: as many are under way as
 *    the context was made for, or the host takes no more for now. Fetch events, and come again.
 *  - A request that never ends (a pipe) keeps its block: vac_aio_cancel(), or `vacate offline --cancel-io`. A thread
 *    that is in no hurry to fetch its events keeps nothing.
 *
 * With the library installed:
 *
 *	cc -o aio_copy aio_copy.c $(pkg-config --cflags --libs vacate) -pthread
 *	./aio_copy FROM TO
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <vacate.h>

#define BLOCKS 3
#define BLOCK_BYTES ((uint64_t)4 << 20)
#define ALIGN ((size_t)4096)
#define DEPTH 16u
#define PART_BYTES (VAC_PAGEBLOCK_BYTES / DEPTH) /* 128 KiB */

#define CHECK(what)                                                                   \
	do {                                                                          \
		int check_ = (what);                                                  \
		if (check_ < 0) {                                                     \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, \
				vac_strerror(check_));                                \
			exit(1);                                                      \
		}                                                                     \
	} while (0)

static void die(const char *what, int err)
{
	fprintf(stderr, "aio_copy: %s: %s\n", what, strerror(err));
	exit(1);
}

/* ---- Blocks come and go ------------------------------------------------------------------------- */

static struct vac_pool *pool;
static _Atomic bool stop;
static _Atomic unsigned blocks_left; /* so many offlines have succeeded */

static void *mover(void *unused)
{
	(void)unused;
	for (int id = 0; !atomic_load(&stop); id = (id + 1) % BLOCKS) {
		struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
		struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
		int r;

		o.timeout_ms = 60000;
		r = vac_block_offline(pool, id, &o, &res);
		if (r < 0) {
			fprintf(stderr, "block %d stays: %s\n", id, vac_strerror(r));
			vac_report_print(res.report, stderr);
			exit(1);
		}
		vac_report_free(res.report);
		CHECK(vac_block_online(pool, id, VAC_ZONE_MOVABLE));
		atomic_fetch_add(&blocks_left, 1);
	}
	return NULL;
}

/* ---- The copy ----------------------------------------------------------------------------------- */

/* What happens to a part of the buffer: it is filled, then emptied, then used for the next piece of the file. */
struct part {
	char *mem;
	uint64_t off;
	size_t len;  /* of the piece, a multiple of ALIGN */
	size_t done; /* of this direction */
	bool writing;
	bool busy; /* in the context's hands, or waiting to be */
};

static struct job {
	struct vac_aio *ctx;
	uint64_t bytes, next; /* of the file; the first byte that nobody copies yet */
	struct part part[DEPTH];
} job;

/* Files are numbers 0 and 1 of the context, the memory is a part of its buffer 0. */
static void submit(unsigned i)
{
	struct part *p = &job.part[i];
	struct vac_aio_req r = {
		.op = p->writing ? VAC_AIO_WRITE : VAC_AIO_READ,
		.flags = VAC_AIO_FILE | VAC_AIO_BUFFER,
		.fd = p->writing,
		.off = p->off + p->done,
		.buf = p->mem + p->done,
		.len = p->len - p->done,
		.user_data = i,
	};
	int n;

	/* Never as many as the context was made for, so this is the host, and short. */
	while ((n = vac_aio_submit(job.ctx, &r, 1)) == -EAGAIN)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	CHECK(n);
}

/* Give a part the next piece of the file. False: there is none. */
static bool begin(unsigned i)
{
	struct part *p = &job.part[i];
	uint64_t left = job.bytes - job.next;

	p->busy = left > 0;
	if (!p->busy)
		return false;
	p->off = job.next;
	p->len = left < PART_BYTES ? (left + ALIGN - 1) / ALIGN * ALIGN : PART_BYTES;
	job.next += left < PART_BYTES ? left : PART_BYTES;
	p->done = 0;
	p->writing = false;
	submit(i);
	return true;
}

/* A request has ended. False: the part has nothing more to do. */
static bool go_on(unsigned i, int32_t res)
{
	struct part *p = &job.part[i];
	uint64_t end = job.bytes - p->off; /* of the file, seen from here */

	if (res < 0 || (res == 0 && p->done < end))
		die(p->writing ? "write" : "read", res < 0 ? -res : ENODATA);
	p->done += (size_t)res;
	if (p->done < p->len && p->done < end) {
		p->done = p->done / ALIGN * ALIGN;
	} else if (!p->writing) { /* what lies beyond the end is cut off later */
		p->writing = true;
		p->done = 0;
	} else {
		return begin(i);
	}
	submit(i);
	return true;
}

static void copy(int fd_to)
{
	struct vac_aio_event e[DEPTH];
	unsigned busy = 0;

	if (ftruncate(fd_to, 0) < 0) /* nothing of an earlier copy stands in for this one */
		die("truncate", errno);
	job.next = 0;
	for (unsigned i = 0; i < DEPTH; i++)
		busy += begin(i);
	while (busy) {
		int n = vac_aio_getevents(job.ctx, 1, DEPTH, e, -1);

		CHECK(n);
		for (int k = 0; k < n; k++)
			busy -= !go_on((unsigned)e[k].user_data, e[k].res);
	}
	if (ftruncate(fd_to, (off_t)job.bytes) < 0)
		die("truncate", errno);
}

/* ---- Files -------------------------------------------------------------------------------------- */

static bool direct = true;

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_DIRECT, 0666);

	if (fd < 0 && errno == EINVAL) {
		direct = false;
		fd = open(path, flags | O_CLOEXEC, 0666);
	}
	if (fd < 0)
		die(path, errno);
	return fd;
}

static bool equal(const char *a, const char *b)
{
	static char x[1 << 16], y[1 << 16];
	FILE *fa = fopen(a, "rb"), *fb = fopen(b, "rb");
	size_t n, m;

	if (!fa || !fb)
		die(fa ? b : a, errno);
	do {
		n = fread(x, 1, sizeof(x), fa);
		m = fread(y, 1, sizeof(y), fb);
	} while (n == m && n && memcmp(x, y, n) == 0);
	if (ferror(fa) || ferror(fb))
		die("read back", errno);
	fclose(fa);
	fclose(fb);
	return n == 0 && m == 0;
}

int main(int argc, char **argv)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_aio_opts ao = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_info info = VAC_INIT(struct vac_aio_info);
	struct vac_space *space;
	unsigned copies = 0;
	struct stat st;
	pthread_t t;
	void *mem;
	int fd[2];
	bool same;

	if (argc != 3) {
		fprintf(stderr, "usage: aio_copy FROM TO\n");
		return 2;
	}
	fd[0] = open_file(argv[1], O_RDONLY);
	fd[1] = open_file(argv[2], O_WRONLY | O_CREAT | O_TRUNC);
	if (fstat(fd[0], &st) < 0)
		die(argv[1], errno);
	job.bytes = (uint64_t)st.st_size;

	po.name = "example";
	po.block_bytes = BLOCK_BYTES;
	po.max_bytes = BLOCKS * BLOCK_BYTES;
	CHECK(vac_pool_open(&po, &pool));
	for (int i = 0; i < BLOCKS; i++)
		CHECK(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	so.bytes = 64 << 20;
	CHECK(vac_space_create(pool, &so, &space));
	/* A huge folio lies in one piece, so the kernel gets it as one registered buffer. */
	CHECK(vac_map(space, NULL, VAC_PAGEBLOCK_BYTES, VAC_PROT_READ | VAC_PROT_WRITE, 0, &mem));
	ao.name = "copy";
	ao.events = DEPTH;
	CHECK(vac_aio_setup(space, &ao, &job.ctx));
	CHECK(vac_aio_files(job.ctx, fd, 2));
	CHECK(vac_aio_buffers(job.ctx, &(struct iovec){mem, VAC_PAGEBLOCK_BYTES}, 1));
	for (unsigned i = 0; i < DEPTH; i++)
		job.part[i].mem = (char *)mem + i * PART_BYTES;

	CHECK(-pthread_create(&t, NULL, mover, NULL));
	do {
		copy(fd[1]);
		same = equal(argv[1], argv[2]);
		copies++;
	} while (same && atomic_load(&blocks_left) < BLOCKS && job.bytes);
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	CHECK(vac_aio_info(job.ctx, &info));
	CHECK(vac_aio_destroy(job.ctx));
	CHECK(vac_pool_close(pool));

	if (fsync(fd[1]) < 0)
		die(argv[2], errno);
	close(fd[0]);
	close(fd[1]);
	printf("%u copies of %llu bytes by %s, %s; %u times a block has left meanwhile\n", copies,
	       (unsigned long long)job.bytes, info.uring ? "io_uring" : "threads",
	       direct ? "O_DIRECT" : "without O_DIRECT", atomic_load(&blocks_left));
	printf("%s: the files are %s\n", same ? "PASSED" : "FAILED", same ? "equal" : "different");
	return same ? 0 : 1;
}

/* SPDX-License-Identifier: MIT */
/*
 * A device queue that lets its memory go for a moment, so that it never keeps a block of it.
 *
 * A "device" here is a thread that does what a network card or a VFIO device does: it takes descriptors, writes into the
 * buffers that they name by addresses of its own, beside the page table of the program, and posts completions.
 * It goes on for ever. Its window, which stands for the entries of an IOMMU, maps the frames that its driver has
 * told it of, and nothing else tells it that they have moved.
 *
 * The driver pins the buffers with vac_pin_with() and three callbacks; vac_block_offline() calls them in a thread of
 * the pool's own:
 *
 *	quiesce   wait for the descriptor in the device's hands, stop it, empty its window. New descriptors may be
 *	          posted meanwhile; they wait. Nobody reaches the frames then, the kernel neither.
 *	repoint   a run of addresses has new frames: here it is only counted
 *	resume    fill in the window with the frames as they are now, let the device go on
 *
 * The program takes every block away beneath the device, again and again, and compares each byte that it has written, and
 * what else lies in the pool. Then the device refuses: the offline answers -EBUSY, and its report says who
 * it was and what he has answered. Prints what it does; the exit status is 0 if all was as it should be.
 *
 * What may go wrong, and with you too:
 *  - A window that keeps the old frames: what the device writes is lost, and the kernel does not certify the block,
 *    which stays in quarantine, empty (vac_block_offline() answers -EBUSY, "holder unknown"). Only that
 *    much is found of a mapping such as this one; what the kernel itself holds (registered buffers, VFIO) is looked
 *    for before a page moves, where its counts can be seen: FOREIGN in vacate.h.
 *  - A callback takes a lock that is held by whoever calls vac_unpin(), which waits for the callback: deadlock. Here
 *    the lock is never held across a call of the library from outside of the callbacks.
 *  - quiesce() waits for a transfer that never ends: after timeout_ms the offline goes on without that page, and
 *    the report names the owner with -ETIMEDOUT. Answer -EAGAIN (ask again) or refuse instead.
 *  - Buffers that share a huge page of the host with other memory: the kernel's references are to all of it, so the
 *    neighbours wait for the device too. Give them whole pageblocks of 2 MiB, as here.
 *
 * With the library installed:
 *
 *	cc -o device_queue device_queue.c $(pkg-config --cflags --libs vacate) -pthread
 *	./device_queue [ROUNDS]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <vacate.h>

#define BLOCKS 4
#define BLOCK_BYTES ((uint64_t)4 << 20)
#define QUEUE_BYTES VAC_PAGEBLOCK_BYTES
#define BUF_BYTES ((size_t)16384)
#define BUFS (QUEUE_BYTES / BUF_BYTES)
#define DATA_BYTES ((size_t)3 << 20)

#define CHECK(what)                                                                   \
	do {                                                                          \
		int check_ = (what);                                                  \
		if (check_ < 0) {                                                     \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, \
				vac_strerror(check_));                                \
			exit(1);                                                      \
		}                                                                     \
	} while (0)

/* What the device writes as word i of its n-th transfer. */
static uint64_t word(uint64_t n, size_t i)
{
	uint64_t x = (n << 20 | i) * 0x9e3779b97f4a7c15u;

	return x ^ x >> 29;
}

/* ---- The device --------------------------------------------------------------------------------- */

struct desc {
	size_t off; /* of the buffer in the window: the device's own kind of address */
	uint64_t n; /* of a completion: the number of the transfer */
};

struct ring {
	struct desc d[BUFS];
	unsigned head, tail; /* count, and do not wrap */
};

static struct device {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Guarded by the lock. */
	struct ring posted, done;
	bool busy;    /* a descriptor is in its hands: the window is in use */
	bool stopped; /* by quiesce(), until resume() */
	bool end;
	bool refuses; /* to play the bad one: quiesce() answers -EBUSY */
	unsigned quiesced, resumed;
	uint64_t pages_moved;

	char *window; /* changes only while it is stopped, or has not begun */
} dev = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void put(struct ring *r, struct desc d)
{
	r->d[r->tail++ % BUFS] = d;
}

static struct desc get(struct ring *r)
{
	return r->d[r->head++ % BUFS];
}

static void *device(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&dev.lock);
	for (uint64_t n = 1;; n++) {
		struct desc d;

		while (!dev.end && (dev.stopped || dev.posted.head == dev.posted.tail))
			pthread_cond_wait(&dev.changed, &dev.lock);
		if (dev.end)
			break;
		d = get(&dev.posted);
		dev.busy = true;
		pthread_mutex_unlock(&dev.lock);

		for (size_t i = 0; i < BUF_BYTES / 8; i++)
			((uint64_t *)(void *)(dev.window + d.off))[i] = word(n, i);

		pthread_mutex_lock(&dev.lock);
		d.n = n;
		put(&dev.done, d);
		dev.busy = false;
		pthread_cond_broadcast(&dev.changed);
	}
	pthread_mutex_unlock(&dev.lock);
	return NULL;
}

/* ---- Its driver --------------------------------------------------------------------------------- */

static struct vac_pool *pool;
static struct vac_space *space;
static char *queue; /* the buffers, at the program's addresses */

static int empty_window(void)
{
	void *p = mmap(dev.window, QUEUE_BYTES, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

/* Give the device the frames of [addr, addr + len), which are pinned. Those that follow one another go together. */
static int fill_window(char *addr, size_t len)
{
	struct vac_page_info first = VAC_INIT(struct vac_page_info);

	for (size_t at = 0, n; at < len; at += n) {
		struct vac_block_info block = VAC_INIT(struct vac_block_info);
		int r = vac_page_info(space, addr + at, &first);

		if (r == 0)
			r = vac_block_info(pool, first.block, &block);
		for (n = VAC_PAGE_BYTES; r == 0 && at + n < len; n += VAC_PAGE_BYTES) {
			struct vac_page_info next = VAC_INIT(struct vac_page_info);

			r = vac_page_info(space, addr + at + n, &next);
			if (next.block != first.block || next.pfn != first.pfn + n / VAC_PAGE_BYTES)
				break;
		}
		if (r < 0)
			return r;
		if (mmap(dev.window + (addr + at - queue), n, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, block.fd,
			 (off_t)(first.pfn * VAC_PAGE_BYTES % block.bytes)) == MAP_FAILED)
			return -errno;
	}
	return 0;
}

static int quiesce(void *ctx, uint64_t pin)
{
	int r = 0;

	(void)ctx, (void)pin;
	pthread_mutex_lock(&dev.lock);
	if (dev.refuses) {
		r = -EBUSY;
	} else {
		dev.stopped = true;
		while (dev.busy)
			pthread_cond_wait(&dev.changed, &dev.lock);
		r = empty_window();
		dev.quiesced += r == 0;
		if (r < 0) /* no resume() comes for what is refused */
			dev.stopped = false;
	}
	pthread_cond_broadcast(&dev.changed);
	pthread_mutex_unlock(&dev.lock);
	return r;
}

static int repoint(void *ctx, uint64_t pin, void *addr, size_t len)
{
	(void)ctx, (void)pin, (void)addr;
	dev.pages_moved += len / VAC_PAGE_BYTES;
	return 0;
}

/* The window was emptied as a whole, so it is filled as a whole, whether anything has moved or not. A device
 * whose entries stay until they are replaced would fill in the runs in repoint(). */
static void resume(void *ctx, uint64_t pin)
{
	(void)ctx, (void)pin;
	CHECK(fill_window(queue, QUEUE_BYTES));
	pthread_mutex_lock(&dev.lock);
	dev.resumed++;
	dev.stopped = false;
	pthread_cond_broadcast(&dev.changed);
	pthread_mutex_unlock(&dev.lock);
}

/* Beside the device: compares what it has written, at the program's addresses, and posts the buffers again. */
static void *driver(void *arg)
{
	uint64_t *transfers = arg, bad = 0; /* guarded by the lock; its own */

	pthread_mutex_lock(&dev.lock);
	for (;;) {
		struct desc d;

		while (!dev.end && dev.done.head == dev.done.tail)
			pthread_cond_wait(&dev.changed, &dev.lock);
		if (dev.end)
			break;
		d = get(&dev.done);
		pthread_mutex_unlock(&dev.lock);
		for (size_t i = 0; i < BUF_BYTES / 8; i++)
			bad += ((uint64_t *)(void *)(queue + d.off))[i] != word(d.n, i);
		pthread_mutex_lock(&dev.lock);
		++*transfers;
		put(&dev.posted, d);
		pthread_cond_broadcast(&dev.changed);
	}
	pthread_mutex_unlock(&dev.lock);
	return (void *)(uintptr_t)bad;
}

/* ---- The program -------------------------------------------------------------------------------- */

/* Wait until the device has done so many transfers more: it is at work. */
static void wait_transfers(const uint64_t *transfers, uint64_t more)
{
	uint64_t end;

	pthread_mutex_lock(&dev.lock);
	end = *transfers + more;
	while (*transfers < end)
		pthread_cond_wait(&dev.changed, &dev.lock);
	pthread_mutex_unlock(&dev.lock);
}

static int block_of(const void *addr)
{
	struct vac_page_info page = VAC_INIT(struct vac_page_info);

	CHECK(vac_page_info(space, addr, &page));
	return page.block;
}

static void take_away(int id)
{
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
}

struct named {
	const struct vac_report *report;
	unsigned at;
	bool found;
};

/* Is it the queue, and has it refused? */
static int look_for_queue(void *ctx, const struct vac_blocker *b)
{
	struct named *n = ctx;
	struct vac_owner who;

	for (unsigned k = 0; k < b->owners; k++)
		if (vac_report_owner(n->report, n->at, k, &who) == 0 &&
		    strcmp(who.owner, "example device queue") == 0)
			n->found |= b->cls == VAC_HELD_REFUSED && who.error == -EBUSY;
	n->at++;
	return 0;
}

/* The device refuses: the block stays, and the report says because of whom. */
static bool be_refused(void)
{
	struct vac_offline_opts o = VAC_INIT(struct vac_offline_opts);
	struct vac_offline_result res = VAC_INIT(struct vac_offline_result);
	struct named n = {0};
	int r, id = block_of(queue);

	pthread_mutex_lock(&dev.lock);
	dev.refuses = true;
	pthread_mutex_unlock(&dev.lock);
	o.timeout_ms = 60000; /* it does not take that long: a refusal is final for this offline */
	r = vac_block_offline(pool, id, &o, &res);
	pthread_mutex_lock(&dev.lock);
	dev.refuses = false;
	pthread_mutex_unlock(&dev.lock);
	printf("block %d, of which the device does not let go: %s\n", id, vac_strerror(r));
	if (!res.report)
		return false;
	vac_report_print(res.report, stdout);
	n.report = res.report;
	vac_report_walk(res.report, look_for_queue, &n);
	vac_report_free(res.report);
	return r == -EBUSY && n.found;
}

int main(int argc, char **argv)
{
	static const struct vac_relocate_ops ops = {.size = sizeof(ops),
						    .quiesce = quiesce,
						    .repoint = repoint,
						    .resume = resume,
						    .timeout_ms = 10000};
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pin_opts pin = VAC_INIT(struct vac_pin_opts);
	int rounds = argc > 1 ? atoi(argv[1]) : 3;
	uint64_t transfers = 0, bad_data = 0, handle;
	pthread_t card, other;
	void *mem, *bad;
	bool ok;

	if (argc > 2 || rounds < 1) {
		fprintf(stderr, "usage: device_queue [ROUNDS]\n");
		return 2;
	}
	po.name = "example";
	po.block_bytes = BLOCK_BYTES;
	po.max_bytes = BLOCKS * BLOCK_BYTES;
	CHECK(vac_pool_open(&po, &pool));
	for (int i = 0; i < BLOCKS; i++)
		CHECK(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE));
	so.bytes = 64 << 20;
	CHECK(vac_space_create(pool, &so, &space));
	CHECK(vac_map(space, NULL, DATA_BYTES, VAC_PROT_READ | VAC_PROT_WRITE, 0, &mem));
	for (size_t i = 0; i < DATA_BYTES / 8; i++)
		((uint64_t *)mem)[i] = word(0, i);
	/* A multiple of 2 MiB is placed at one, and so has its pageblocks for itself. */
	CHECK(vac_map(space, NULL, QUEUE_BYTES, VAC_PROT_READ | VAC_PROT_WRITE, 0,
		      (void **)&queue));

	pin.flags = VAC_PIN_WRITE;
	pin.owner = "example device queue";
	pin.relocate = &ops;
	CHECK(vac_pin_with(space, queue, QUEUE_BYTES, &pin, NULL, &handle));
	dev.window = mmap(NULL, QUEUE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	CHECK(dev.window == MAP_FAILED ? -errno : 0);
	CHECK(fill_window(queue, QUEUE_BYTES)); /* nobody takes a block away yet */
	for (size_t i = 0; i < BUFS; i++)
		put(&dev.posted, (struct desc){.off = i * BUF_BYTES});
	CHECK(-pthread_create(&card, NULL, device, NULL));
	CHECK(-pthread_create(&other, NULL, driver, &transfers));

	for (int round = 1; round <= rounds; round++) {
		for (int id = 0; id < BLOCKS; id++) {
			int was = block_of(queue);

			take_away(id);
			wait_transfers(&transfers, 2 * BUFS);
			if (id == was)
				printf("round %d: block %d has left beneath the device, whose queue is in "
				       "block %d now\n",
				       round, id, block_of(queue));
		}
	}
	ok = be_refused();
	take_away(block_of(queue)); /* now it lets go */
	wait_transfers(&transfers, 2 * BUFS);

	pthread_mutex_lock(&dev.lock);
	dev.end = true;
	pthread_cond_broadcast(&dev.changed);
	pthread_mutex_unlock(&dev.lock);
	pthread_join(card, NULL);
	pthread_join(other, &bad);
	for (size_t i = 0; i < DATA_BYTES / 8; i++)
		bad_data += ((uint64_t *)mem)[i] != word(0, i);
	printf("%llu transfers of %zu bytes, %llu words of them wrong; %llu words of other memory wrong;\n"
	       "stopped %u times, %llu pages moved; the refusal was %s\n",
	       (unsigned long long)transfers, BUF_BYTES, (unsigned long long)(uintptr_t)bad,
	       (unsigned long long)bad_data, dev.quiesced, (unsigned long long)dev.pages_moved,
	       ok ? "reported" : "NOT REPORTED");
	ok = ok && !bad && !bad_data && dev.quiesced == dev.resumed && dev.pages_moved > 0;

	/* Nobody reaches the memory any more: only now may the pin go. */
	munmap(dev.window, QUEUE_BYTES);
	CHECK(vac_unpin(pool, handle));
	CHECK(vac_pool_close(pool));
	printf("%s\n", ok ? "PASSED" : "FAILED");
	return ok ? 0 : 1;
}

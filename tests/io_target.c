/* SPDX-License-Identifier: MIT */
/*
 * A program whose blocks are held by what never ends by itself, for test_cancel_io.sh, which compiles it: direct I/O that
 * waits for a pipe, plain and in a registered buffer, and pins that may be revoked. An operator works on it by
 * the control socket; it says on standard output what happens to it, one `key=value` a line, and ends when its standard
 * input does, after it has compared its memory.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vacate.h"

#define P VAC_PAGE_BYTES
#define HUGE VAC_PAGEBLOCK_BYTES
#define RW (VAC_PROT_READ | VAC_PROT_WRITE)

static struct vac_pool *pool;
static struct vac_space *space;

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "io_target: %s: %s\n", what, vac_strerror(r));
	exit(3);
}

/* Memory in a pageblock of its own, of one number throughout. */
static char *memory(int fill)
{
	void *p;

	must(vac_map(space, NULL, HUGE, RW, VAC_MAP_POPULATE, &p), "map");
	memset(p, fill, HUGE);
	return p;
}

static int block_of(const void *p)
{
	struct vac_page_info i = VAC_INIT(struct vac_page_info);

	must(vac_page_info(space, p, &i), "page");
	return i.block;
}

/* ---- Direct I/O ----------------------------------------------------------------------------------- */

static void *events(void *arg)
{
	struct vac_aio_event e;

	while (vac_aio_getevents(arg, 1, 1, &e, -1) == 1)
		printf("event%d=%d\n", (int)e.user_data, e.res);
	return NULL;
}

/* A read of a pipe that nobody fills. */
static int never_ends(struct vac_aio *ctx, int fd, char *buf, unsigned flags, uint64_t number)
{
	struct vac_aio_req r = {.op = VAC_AIO_READ,
				.flags = flags,
				.fd = fd,
				.buf = buf,
				.len = P,
				.user_data = number};

	return vac_aio_submit(ctx, &r, 1);
}

/* ---- Pins that may be revoked --------------------------------------------------------------------- */

static _Atomic uint64_t willing_pin;

static int let_go(void *ctx, uint64_t pin)
{
	(void)ctx;
	if (vac_unpin(pool, pin) == 0)
		printf("revoked=yes\n");
	return 0;
}

static int refuse(void *ctx, uint64_t pin)
{
	(void)ctx, (void)pin;
	printf("refused=yes\n");
	return -EACCES;
}

static uint64_t pin(char *p, const char *owner, int (*revoke)(void *, uint64_t))
{
	struct vac_pin_opts o = VAC_INIT(struct vac_pin_opts);
	uint64_t h;

	o.flags = VAC_PIN_LONGTERM;
	o.owner = owner;
	o.revoke = revoke;
	must(vac_pin_with(space, p, P, &o, NULL, &h), "pin");
	return h;
}

int main(void)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_aio_opts ao = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_info ai = VAC_INIT(struct vac_aio_info);
	struct vac_control *control;
	struct vac_aio *ctx;
	char *mem[4], c;
	uint64_t stubborn;
	pthread_t t;
	int p[2], bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	po.name = "io";
	po.block_bytes = HUGE;       /* each holder has a block for itself */
	po.flags = VAC_POOL_NO_HUGE; /* whatever the host's huge pages are like */
	must(vac_pool_open(&po, &pool), "pool");
	for (int i = 0; i < 8; i++)
		must(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_MOVABLE), "online");
	so.bytes = 64 << 20;
	must(vac_space_create(pool, &so, &space), "space");
	for (int i = 0; i < 4; i++)
		mem[i] = memory(i + 1);
	ao.name = "forever";
	ao.events = 8;
	must(vac_aio_setup(space, &ao, &ctx), "context");
	must(vac_aio_info(ctx, &ai), "info");
	printf("uring=%d\n", ai.uring);
	must(vac_aio_buffers(ctx, &(struct iovec){mem[1], HUGE}, 1), "buffer");
	must(pipe(p) ? -errno : 0, "pipe");
	if (ai.uring) { /* threads take no pipes */
		must(never_ends(ctx, p[0], mem[0], 0, 0), "read");
		must(never_ends(ctx, p[0], mem[1], VAC_AIO_BUFFER, 1), "read into the buffer");
		printf("plain=%d\nregistered=%d\n", block_of(mem[0]), block_of(mem[1]));
	}
	willing_pin = pin(mem[2], "willing cache", let_go);
	stubborn = pin(mem[3], "stubborn cache", refuse);
	printf("willing=%d\nstubborn=%d\n", block_of(mem[2]), block_of(mem[3]));
	must(-pthread_create(&t, NULL, events, ctx), "thread");
	must(vac_control_open(pool, NULL, &control), "control");
	printf("socket=%s\n", vac_control_path(control));

	while (read(0, &c, 1) > 0)
		;
	must(vac_control_close(control), "end of control");
	must(vac_aio_destroy(ctx), "end of the context");
	pthread_join(t, NULL);
	for (int i = 0; i < 4; i++)
		for (size_t at = 0; at < HUGE; at++)
			bad += mem[i][at] != i + 1;
	printf("wrong bytes=%d\n", bad);
	must(vac_unpin(pool, stubborn), "unpin");
	printf("willing pin=%d\n", vac_unpin(pool, willing_pin));
	must(vac_pool_close(pool), "close");
	printf("ended=yes\n");
	return bad != 0;
}

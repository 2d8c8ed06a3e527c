/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target: what comes in by the control socket, against a real pool.
 *
 * An input is a list of requests. Each is preceded by three bytes: its length (two, little-endian) and
 * flags: 1, a descriptor comes along; 2, the head is made good, so that mutations reach the body; 4,
 * the client goes and another comes; 8, an offline is cancelled before it begins. Works are run here
 * and now, so that an input replays. Every answer is looked at as a client would, and after each input
 * the whole pool is checked and brought back to where it began.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/request.h"

#define MIB(n) ((size_t)(n) << 20)
#define BLOCKS 4 /* online, of 2 MiB each; up to ROOM may be added */
#define ROOM 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vac_pool *pool;
static struct vac_space *space;
static unsigned long long requests;

static void tell(void)
{
	fprintf(stderr, "fuzz_control: %llu requests\n", requests);
}
static struct vac_space *space;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_control: %s\n", what);
	abort();
}

static void set_up(void)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	uint64_t pin;
	void *mem;

	atexit(tell);
	po.block_bytes = MIB(2);
	po.max_bytes = MIB(2) * ROOM;
	po.gate_timeout_ms = 1;
	need(!vac_pool_open(&po, &pool), "no pool");
	for (int i = 0; i < BLOCKS; i++)
		need(vac_block_add(pool, NULL) == i && !vac_block_online(pool, i, VAC_ZONE_MOVABLE),
		     "no block");
	so.bytes = MIB(16);
	need(!vac_space_create(pool, &so, &space), "no space");
	need(!vac_map(space, NULL, MIB(2), VAC_PROT_READ | VAC_PROT_WRITE,
		      VAC_MAP_NOHUGE | VAC_MAP_POPULATE, &mem),
	     "no memory");
	need(!vac_pin(space, mem, 3 * VAC_PAGE_BYTES, VAC_PIN_STACK, "short", &pin), "no pin");
	need(!vac_pin(space, (char *)mem + MIB(1), 1, VAC_PIN_LONGTERM | VAC_PIN_WRITE, "long",
		      &pin),
	     "no pin");
}

/* A client would believe it. */
static void look(const struct vac__ctl_packet *p, unsigned op)
{
	static const struct vac__ctl_packet zero;
	const struct vac__ctl_head *h = &p->head;

	need(h->magic == VAC__CTL_MAGIC && h->version == VAC__CTL_VERSION,
	     "an answer without a head");
	need(h->bytes >= sizeof(*h) && h->bytes <= sizeof(*p), "an answer of a wrong length");
	need(h->status <= 0, "an answer with a strange status");
	need(h->op == op || (h->op == 0 && h->status), "an answer to something else");
	need(!memcmp((const char *)p + h->bytes, &zero, sizeof(*p) - h->bytes),
	     "bytes after the end of an answer");
	if (h->status || op == VAC__CTL_OFFLINE)
		return;
	if (op == VAC__CTL_BLOCKS)
		need(p->u.blocks.n <= VAC__CTL_BLOCKS_MAX, "too many blocks");
	if (op == VAC__CTL_OWNERS)
		need(p->u.owners.n <= VAC__CTL_OWNERS_MAX, "too many owners");
}

static void run(struct vac__ctl_session *s, struct vac__ctl_work *w, int cancel)
{
	struct vac__ctl_offline *o = &w->req.u.offline;

	if (w->req.head.op == VAC__CTL_OFFLINE) {
		/* 0 and less mean long. */
		o->timeout_ms = o->timeout_ms > 0 && o->timeout_ms < 3 ? o->timeout_ms : 1;
		if (cancel)
			vac__ctl_work_cancel(w);
	}
	vac__ctl_work_run(w);
	need(w->fd == -1, "a descriptor is left");
	look(&w->answer, w->req.head.op);
	vac_report_free(s->report);
	s->report = w->report;
}

static void restore(void)
{
	char msg[160];

	if (vac_pool_check(pool, msg, sizeof(msg))) {
		fprintf(stderr, "fuzz_control: %s\n", msg);
		abort();
	}
	for (int id = 0; id < ROOM; id++) {
		struct vac_block_info i = VAC_INIT(struct vac_block_info);
		struct vac_block_opts o = VAC_INIT(struct vac_block_opts);
		int there = vac_block_info(pool, id, &i) == 0;

		o.id = id;
		if (id < BLOCKS && !there)
			need(vac_block_add(pool, &o) == id, "cannot add a block again");
		if (id < BLOCKS && (!there || i.state == VAC_BLOCK_OFFLINE))
			need(!vac_block_online(pool, id, VAC_ZONE_MOVABLE),
			     "cannot online a block");
	}
	for (int id = BLOCKS; id < ROOM; id++) {
		struct vac_block_info i = VAC_INIT(struct vac_block_info);

		if (vac_block_info(pool, id, &i))
			continue;
		/* The pins may have come to lie in it: then it stays. */
		if (i.state == VAC_BLOCK_OFFLINE ||
		    (!i.pins && !vac_block_offline(pool, id, NULL, NULL)))
			need(!vac_block_remove(pool, id), "cannot remove a block");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vac__ctl_work work;
	static struct vac__ctl_packet out;
	static uint8_t req[VAC__CTL_PACKET_MAX + 1];
	struct vac__ctl_session s = {0};

	if (!pool)
		set_up();
	for (unsigned n = 0; size >= 3 && n < 32; n++) {
		size_t len = (size_t)(data[0] | data[1] << 8) % (sizeof(req) + 1);
		unsigned flags = data[2], op;
		int fd = flags & 1 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
		struct vac__ctl_head h;
		enum vac__ctl_next next;

		data += 3;
		size -= 3;
		len = len < size ? len : size;
		memcpy(req, data, len);
		data += len;
		size -= len;
		memset(&h, 0, sizeof(h));
		memcpy(&h, req, len < sizeof(h) ? len : sizeof(h));
		if (flags & 2 && len >= sizeof(h)) {
			h.magic = VAC__CTL_MAGIC;
			h.version = VAC__CTL_VERSION;
			h.bytes = (uint32_t)len;
			h.status = 0;
			memcpy(req, &h, sizeof(h));
		}
		op = h.op;
		requests++;
		next = vac__ctl_request(pool, &s, req, len, &fd, flags >> 4, &work, &out);
		if (fd >= 0)
			close(fd);
		if (next == VAC__CTL_WORK)
			run(&s, &work, flags & 8);
		else if (next != VAC__CTL_SILENCE)
			look(&out, next == VAC__CTL_HANG_UP && len < sizeof(h) ? 0 : op);
		if (flags & 4 || next == VAC__CTL_HANG_UP) {
			vac_report_free(s.report);
			s.report = NULL;
		}
	}
	vac_report_free(s.report);
	restore();
	return 0;
}

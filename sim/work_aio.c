/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O contexts. Each client has a space, files' pages of its own, and a context that it ends and makes anew: every
 * request gives one event, those that need no device in their order; they are fetched by calls, or from the ring by
 * loads, and the head is moved by a store. What was read is what the file holds, whatever moves meanwhile. Snapshots
 * of the space show the ring of one instant.
 */
#include <string.h>

#include "port/sim/device.h"
#include "sim/work.h"

#define CLIENTS 2
#define BUF_PAGES 6u
#define FLIGHT_MAX 24
#define NOP_BIT (UINT64_C(1) << 63)

struct flight {
	bool used, read, forever, cancelled;
	uint32_t n, buf[2], page; /* buffers, and pages of the file from `page` on */
};

struct client {
	int nr;
	struct vac_space *space, *shot;
	struct vac_aio *ctx;
	uint64_t ring, buf;
	uint64_t shot_at[2],
		shot_word[2]; /* of a ring that was there: addresses, and what is there */
	uint32_t events, size, first;
	uint64_t nops, nops_seen; /* submitted, and seen */
	uint32_t under_way;       /* submitted, and not seen */
	struct flight flight[FLIGHT_MAX];
	bool buf_busy[BUF_PAGES], buf_known[BUF_PAGES];
	uint64_t buf_word[BUF_PAGES][WORDS];
	bool registered; /* all buffers, as two */
	bool page_busy[DEVICE_PAGES], page_known[DEVICE_PAGES];
	uint64_t page_word[DEVICE_PAGES][WORDS];
};

static struct client clients[CLIENTS];
static int next, quiet; /* numbers given; clients that know that the second phase has begun */
static bool settle;

static uint64_t buf_addr(const struct client *c, uint32_t b, uint32_t i)
{
	return c->buf + b * PAGE + i * 8;
}

/* ---- Contexts ------------------------------------------------------------------------------------- */

static void begin(struct client *c)
{
	struct vac_aio_opts o = VAC_INIT(struct vac_aio_opts);
	struct vac_aio_info info = VAC_INIT(struct vac_aio_info);
	bool starved = work_may_starve();
	uint64_t v;
	int r;

	o.events = 1 + (uint32_t)sim_below(24);
	r = vac_aio_setup(c->space, &o, &c->ctx);
	sim_note("aio setup of %u: %d", o.events, r);
	if (r == -ENOMEM && starved) {
		c->ctx = NULL;
		sim_sleep(sim_below(100000));
		return;
	}
	work_must(r == 0, SIM_CONTENT, "a setup", r);
	r = vac_aio_info(c->ctx, &info);
	work_must(r == 0, SIM_CONTENT, "an info", r);
	c->ring = (uintptr_t)info.ring;
	c->events = info.events;
	c->size = info.ring_events;
	c->nops = c->nops_seen = 0;
	r = sim_load(c->ring, &v);
	work_must(r == 0 || work_excused(r, starved), SIM_CONTENT, "a load of a ring", r);
	if (r == 0 && v != ((uint64_t)1 << 32 | VAC_AIO_MAGIC))
		sim_fail(SIM_CONTENT, "a ring begins with %#llx", (unsigned long long)v);
	r = sim_load(c->ring + 8, &v);
	work_must(r == 0 || work_excused(r, starved), SIM_CONTENT, "a load of a ring", r);
	if (r == 0 && v != ((uint64_t)sizeof(struct vac_aio_ring) << 32 | c->size))
		sim_fail(SIM_CONTENT, "a ring goes on with %#llx", (unsigned long long)v);
	c->first = sizeof(struct vac_aio_ring);
}

static void end(struct client *c)
{
	int r = vac_aio_destroy(c->ctx);

	sim_note("aio destroy: %d", r);
	work_must(r == 0, SIM_CONTENT, "a destroy", r);
	c->ctx = NULL;
	c->registered = false;
	c->under_way = 0;
	for (unsigned i = 0; i < FLIGHT_MAX; i++) {
		struct flight *f = &c->flight[i];

		for (uint32_t k = 0; f->used && k < f->n; k++) {
			/* Done, cancelled, or half done. */
			if (f->read)
				c->buf_known[f->buf[k]] = false;
			else
				c->page_known[f->page + k] = false;
			c->buf_busy[f->buf[k]] = c->page_busy[f->page + k] = false;
		}
		f->used = false;
	}
}

/* ---- Events -------------------------------------------------------------------------------------- */

/* What was read has arrived where the program sees it. */
static void check_buf(struct client *c, uint32_t b)
{
	for (uint32_t i = 0; i < WORDS && c->buf_known[b]; i++) {
		bool starved = work_may_starve();
		uint64_t v;
		int r = sim_load(buf_addr(c, b, i), &v);

		if (work_excused(r, starved))
			return;
		work_must(r == 0, SIM_CONTENT, "a load of a buffer", r);
		if (v != c->buf_word[b][i])
			sim_fail(SIM_CONTENT, "buffer %u word %u is %#llx, and should be %#llx", b,
				 i, (unsigned long long)v, (unsigned long long)c->buf_word[b][i]);
	}
}

static void seen(struct client *c, uint64_t user_data, int32_t res)
{
	struct flight *f;
	bool ok;

	sim_note("event %#llx: %d", (unsigned long long)user_data, res);
	if (c->under_way-- == 0)
		sim_fail(SIM_CONTENT, "an event that nobody has asked for");
	if (user_data & NOP_BIT) {
		uint64_t n = user_data & ~NOP_BIT;

		if (n != c->nops_seen || res != (int32_t)(n & 0xffff))
			sim_fail(SIM_CONTENT, "event %llu comes, event %llu is due",
				 (unsigned long long)n, (unsigned long long)c->nops_seen);
		c->nops_seen++;
		return;
	}
	if (user_data >= FLIGHT_MAX || !c->flight[user_data].used)
		sim_fail(SIM_CONTENT, "request %llu ends twice", (unsigned long long)user_data);
	f = &c->flight[user_data];
	f->used = false;
	ok = res == (int32_t)(f->n * PAGE);
	if (!ok && !(res == -ECANCELED && (f->cancelled || world.calm)) &&
	    !(res == -EIO && world.faults.disk_read))
		sim_fail(SIM_CONTENT, "a request of %u pages answers %d", f->n, res);
	for (uint32_t k = 0; k < f->n; k++) {
		uint32_t b = f->buf[k], p = f->page + k;

		c->buf_busy[b] = c->page_busy[p] = false;
		if (f->read) {
			c->buf_known[b] = ok && c->page_known[p];
			memcpy(c->buf_word[b], c->page_word[p], PAGE);
			check_buf(c, b);
		} else if (res != -ECANCELED) {
			c->page_known[p] = ok && c->buf_known[b];
			memcpy(c->page_word[p], c->buf_word[b], PAGE);
		}
	}
}

static void fetch(struct client *c, unsigned min, int64_t timeout)
{
	struct vac_aio_event e[5];
	bool starved = work_may_starve();
	unsigned max = 1 + (unsigned)sim_below(5);
	int r = vac_aio_getevents(c->ctx, min < max ? min : max, max, e, timeout);

	sim_note("getevents: %d", r);
	work_must(r >= 0 || (r == -ENOMEM && starved), SIM_CONTENT, "a getevents", r);
	for (int i = 0; i < r; i++)
		seen(c, e[i].user_data, e[i].res);
}

/* The same without a call. */
static void look(struct client *c)
{
	bool starved = work_may_starve();
	uint64_t head, tail, data, res;
	int r = sim_load(c->ring + offsetof(struct vac_aio_ring, head), &head);

	r = r ? r : sim_load(c->ring + offsetof(struct vac_aio_ring, tail), &tail);
	if (r == 0 && tail - head > c->size)
		sim_fail(SIM_CONTENT, "a ring of %u from %llu to %llu", c->size,
			 (unsigned long long)head, (unsigned long long)tail);
	while (r == 0 && head != tail && !sim_one_in(4)) {
		uint64_t at = c->ring + c->first + head % c->size * 16;

		r = sim_load(at, &data);
		r = r ? r : sim_load(at + 8, &res);
		r = r ? r : sim_store(c->ring + offsetof(struct vac_aio_ring, head), head + 1);
		if (r == 0) {
			head++;
			seen(c, data, (int32_t)res);
		}
	}
	work_must(r == 0 || work_excused(r, starved), SIM_CONTENT, "a touch of a ring", r);
}

/* As struct iovec. */
struct vec {
	void *base;
	size_t len;
};

/* ---- Requests ------------------------------------------------------------------------------------ */

/* Write something new into a buffer. */
static bool fill(struct client *c, uint32_t b)
{
	for (uint32_t i = 0; i < WORDS; i++) {
		bool starved = work_may_starve();
		uint64_t v = sim_random();
		int r = sim_store(buf_addr(c, b, i), v);

		if (work_excused(r, starved)) {
			c->buf_known[b] = false;
			return false;
		}
		work_must(r == 0, SIM_CONTENT, "a store to a buffer", r);
		c->buf_word[b][i] = v;
	}
	c->buf_known[b] = true;
	return true;
}

/* A transfer between pages that nobody uses. False: there are none just now. */
static bool transfer(struct client *c, struct vac_aio_req *q, struct vec *v)
{
	uint32_t id = (uint32_t)sim_below(FLIGHT_MAX);
	struct flight *f = &c->flight[id];
	struct flight g = {.used = true, .n = 1 + (uint32_t)sim_one_in(3)};

	g.read = sim_one_in(2);
	g.forever = g.read && !world.calm && !settle && sim_one_in(12);
	g.page = (uint32_t)sim_below(DEVICE_PAGES - 1);
	g.buf[0] = (uint32_t)sim_below(BUF_PAGES);
	g.buf[1] = (uint32_t)sim_below(BUF_PAGES);
	if (f->used || (g.n == 2 && g.buf[0] == g.buf[1]))
		return false;
	for (uint32_t k = 0; k < g.n; k++)
		if (c->buf_busy[g.buf[k]] || c->page_busy[g.page + k])
			return false;
	for (uint32_t k = 0; k < g.n; k++) {
		if (!g.read && !fill(c, g.buf[k]))
			return false;
		v[k].base = work_ptr(buf_addr(c, g.buf[k], 0));
		v[k].len = PAGE;
	}
	for (uint32_t k = 0; k < g.n; k++)
		c->buf_busy[g.buf[k]] = c->page_busy[g.page + k] = true;
	*f = g;
	*q = (struct vac_aio_req){.op = g.n == 2 ? (g.read ? VAC_AIO_READV : VAC_AIO_WRITEV)
					: g.read ? VAC_AIO_READ
						 : VAC_AIO_WRITE,
				  .fd = g.forever ? DEVICE_FILES - 1 : c->nr,
				  .off = g.page * PAGE,
				  .buf = g.n == 2 ? (void *)v : v[0].base,
				  .len = g.n == 2 ? 2 : PAGE,
				  .user_data = id};
	if (g.n == 1 && c->registered && sim_one_in(2)) {
		q->flags = VAC_AIO_BUFFER;
		q->buffer = g.buf[0] / (BUF_PAGES / 2);
	}
	return true;
}

static void forget(struct client *c, const struct vac_aio_req *q)
{
	struct flight *f = &c->flight[q->user_data];

	if (q->op == VAC_AIO_NOP) {
		c->nops--;
		return;
	}
	for (uint32_t k = 0; k < f->n; k++)
		c->buf_busy[f->buf[k]] = c->page_busy[f->page + k] = false;
	f->used = false;
}

static void submit(struct client *c)
{
	struct vac_aio_req q[4];
	struct vec v[4][2];
	unsigned n = 0, want = 1 + (unsigned)sim_below(4);
	bool starved = work_may_starve();
	int r;

	while (n < want) {
		if (sim_one_in(2) || !transfer(c, &q[n], v[n])) {
			q[n] = (struct vac_aio_req){.op = VAC_AIO_NOP,
						    .off = c->nops & 0xffff,
						    .user_data = NOP_BIT | c->nops};
			c->nops++;
		}
		n++;
	}
	r = vac_aio_submit(c->ctx, q, n);
	sim_note("submit %u: %d", n, r);
	starved |= work_may_starve();
	work_must(r > 0 || (r == -EAGAIN && (c->under_way >= c->events || starved)) ||
			  (r == -ENOMEM && starved),
		  SIM_CONTENT, "a submit", r);
	r = r < 0 ? 0 : r;
	c->under_way += (uint32_t)r;
	for (unsigned i = n; i > (unsigned)r; i--)
		forget(c, &q[i - 1]);
}

static void enlist(struct client *c, bool on)
{
	struct vec v[2];
	bool starved = work_may_starve();
	int r;

	for (unsigned i = 0; i < 2; i++)
		v[i] = (struct vec){work_ptr(buf_addr(c, i * BUF_PAGES / 2, 0)),
				    BUF_PAGES / 2 * PAGE};
	r = vac_aio_buffers(c->ctx, (struct iovec *)(void *)v, on ? 2 : 0);
	sim_note("aio buffers %d: %d", on, r);
	work_must(r == 0 || r == -EBUSY || (r == -ENOMEM && starved), SIM_CONTENT, "a registration",
		  r);
	if (r == 0)
		c->registered = on;
}

static void cancel(struct client *c, bool all)
{
	for (unsigned i = 0; i < FLIGHT_MAX; i++) {
		struct flight *f = &c->flight[i];
		int r;

		if (!f->used || !(all || f->forever || sim_one_in(4)))
			continue;
		f->cancelled = true;
		r = vac_aio_cancel(c->ctx, i, 0);
		work_must(r == 1 || r == -ENOENT, SIM_CONTENT, "a cancel", r);
	}
}

/* ---- Snapshots ------------------------------------------------------------------------------------ */

/* What a snapshot shows of the ring is what it showed at first: nothing is posted there. */
static void snapshot(struct client *c)
{
	bool starved = work_may_starve();
	uint64_t v[2];
	int r;

	if (!c->shot) {
		r = vac_space_snapshot(c->space, NULL, &c->shot);
		work_must(r == 0 || r == -ENOSPC || (r == -ENOMEM && starved), SIM_CONTENT,
			  "a snapshot", r);
		if (r < 0) {
			c->shot = NULL;
			return;
		}
		c->shot_at[0] = c->ring + offsetof(struct vac_aio_ring, tail);
		c->shot_at[1] = c->ring + c->first + 16 * (c->size / 2);
		c->shot_word[0] = c->shot_word[1] = UINT64_MAX;
	}
	for (unsigned i = 0; i < 2; i++) {
		void *at = vac_space_translate(c->space, work_ptr(c->shot_at[i]), c->shot);

		r = sim_load((uintptr_t)at, &v[i]);
		if (work_excused(r, starved))
			return;
		work_must(r == 0, SIM_CONTENT, "a load of a snapshot", r);
		if (c->shot_word[i] != UINT64_MAX && v[i] != c->shot_word[i])
			sim_fail(SIM_CONTENT, "a ring's snapshot has changed from %llu to %llu",
				 (unsigned long long)c->shot_word[i], (unsigned long long)v[i]);
		c->shot_word[i] = v[i];
	}
	if (!sim_one_in(3))
		return;
	r = vac_space_destroy(c->shot);
	work_must(r == 0 || (r == -ENOMEM && starved), SIM_CONTENT, "a snapshot's end", r);
	if (r == 0)
		c->shot = NULL;
}

/* ---- A client ------------------------------------------------------------------------------------- */

static void wait_for_all(struct client *c)
{
	while (c->ctx && c->under_way) {
		cancel(c, true);
		fetch(c, 1, sim_one_in(2) ? -1 : 1000000);
		if (sim_one_in(2))
			look(c);
	}
	for (uint32_t b = 0; b < BUF_PAGES; b++)
		check_buf(c, b);
}

static void client_begin(struct client *c)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	void *at = NULL;
	int r;

	so.bytes = 4 * VAC_PAGEBLOCK_BYTES;
	so.name = "aio";
	for (;;) {
		r = vac_space_create(world.pool, &so, &c->space);
		if (r == 0)
			break;
		work_must(r == -ENOMEM && work_may_starve(), SIM_CONTENT, "a space's creation", r);
		sim_sleep(sim_below(100000));
	}
	while ((r = vac_map(c->space, NULL, BUF_PAGES * PAGE, VAC_PROT_READ | VAC_PROT_WRITE,
			    sim_one_in(2) ? VAC_MAP_NOHUGE : 0, &at)) < 0) {
		work_must(r == -ENOMEM && work_may_starve(), SIM_CONTENT, "a map", r);
		sim_sleep(sim_below(100000));
	}
	c->buf = (uintptr_t)at;
	for (uint32_t b = 0; b < BUF_PAGES; b++) {
		c->buf_known[b] = true; /* zeroes */
		memset(c->buf_word[b], 0, PAGE);
	}
	for (uint32_t p = 0; p < DEVICE_PAGES; p++) {
		c->page_known[p] = true;
		for (uint32_t i = 0; i < WORDS; i++)
			c->page_word[p][i] = device_first((unsigned)c->nr, p, i);
	}
}

static void client_end(struct client *c)
{
	int r;

	wait_for_all(c);
	if (c->ctx)
		end(c);
	if (c->shot) {
		r = vac_space_destroy(c->shot);
		work_must(r == 0, SIM_CONTENT, "a snapshot's end", r);
	}
	r = vac_space_destroy(c->space);
	work_must(r == 0, SIM_CONTENT, "a space's end", r);
}

/* In the second phase mappings do not change any more. */
static void get_calm(struct client *c)
{
	if (c->ctx)
		wait_for_all(c);
	while (!c->ctx)
		begin(c);
	if (c->shot && vac_space_destroy(c->shot) == 0)
		c->shot = NULL;
}

static void client(void *arg)
{
	struct client *c = &clients[next];
	bool calm = false;

	(void)arg;
	memset(c, 0, sizeof(*c));
	c->nr = next++;
	client_begin(c);
	while (!world.stop) {
		if (settle && !calm) {
			get_calm(c);
			calm = true;
			quiet++;
		}
		if (!c->ctx) {
			begin(c);
			continue;
		}
		switch (sim_below(calm ? 8 : 13)) {
		case 0:
		case 1:
		case 2: submit(c); break;
		case 3: look(c); break;
		case 4: fetch(c, 0, 0); break;
		case 5: fetch(c, c->under_way != 0, (int64_t)sim_below(200000)); break;
		case 6: sim_sleep(sim_below(30000)); break;
		case 7:
			/* Idle, for as long as it takes: the last word is in the ring, by itself. */
			sim_sleep(sim_below(calm ? 30000 : 3000000));
			break;
		case 8: cancel(c, false); break;
		case 9: snapshot(c); break;
		case 10:
			if (sim_one_in(3))
				end(c);
			break;
		case 11: enlist(c, sim_one_in(2)); break;
		default: look(c);
		}
	}
	client_end(c);
}

/* What nobody fetches comes into the ring in the end. */
static void draw(void)
{
	for (int i = OP_ADD; i < OP_OWN; i++)
		world.ops_off |= (uint32_t)sim_one_in(3) << i;
	world.nr_queues = (int)sim_below(2);
	world.steps_left *= 2;
	world.faults.disk_slow = sim_one_in(2) ? 30000 : 0;
	if (world.cfg.faults && sim_one_in(2))
		world.faults.disk_read = world.faults.disk_write = 12;
	next = quiet = 0;
	settle = false;
}

static void size(uint32_t *pbs, uint64_t *need)
{
	(void)pbs;
	if (need)
		*need += CLIENTS * 8;
}

static void calm(void)
{
	settle = true;
	while (quiet < CLIENTS)
		sim_sleep(100000);
}

const struct work_kind work_aio = {
	.name = "aio",
	.draw = draw,
	.size = size,
	.more = client,
	.more_name = "client",
	.nr_more = CLIENTS,
	.calm = calm,
};

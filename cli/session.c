/* SPDX-License-Identifier: MIT */
/* A pool of our own, and the cycle of its blocks. See session.h. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "opt.h"
#include "out.h"

#define CHECK_TRIES 10000
#define GONE_PERCENT 95     /* of a block's memory counts as "has come back" */
#define GONE_NS 1000000000u /* and this is the time it has for that */

const char *guard_name(enum vac_guard guard)
{
	switch (guard) {
	case VAC_GUARD_AUTO: return "auto";
	case VAC_GUARD_SIGSEGV: return "sigsegv";
	case VAC_GUARD_USERFAULTFD: return "userfaultfd";
	}
	return "?";
}

int guard_from_name(const char *name, enum vac_guard *guard)
{
	for (int g = VAC_GUARD_AUTO; g <= VAC_GUARD_USERFAULTFD; g++) {
		if (!strcmp(name, guard_name((enum vac_guard)g))) {
			*guard = (enum vac_guard)g;
			return 0;
		}
	}
	return -EINVAL;
}

/* With engine locks held, perhaps in a fault handler: nothing but printing. */
static void log_message(void *ctx, enum vac_log_level level, const char *msg)
{
	(void)ctx;
	if (level >= VAC_LOG_WARN)
		out_error("engine: %s", msg);
	else
		fprintf(stderr, "note: %s\n", msg);
}

static int open_space(struct session *s)
{
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	int err;

	so.name = s->name;
	/* Addresses cost nothing; room for alignment and for what `map` leaves between mappings. */
	so.bytes = s->pool_bytes * 4 + ((uint64_t)1 << 30);
	err = vac_space_create(s->pool, &so, &s->space);
	if (err)
		out_error("cannot reserve %" PRIu64 " MiB of addresses: %s", so.bytes >> 20,
			  vac_strerror(err));
	return err;
}

/* The file is ours to write over; it is made if it is missing, and no larger than it has to be. */
static int open_swap(struct session *s)
{
	struct vac_swap_opts so = VAC_INIT(struct vac_swap_opts);
	struct stat st;
	int err;

	if (!s->swap_bytes)
		s->swap_bytes = 2 * s->pool_bytes;
	so.bytes = s->swap_bytes;
	so.fd = open(s->swap_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (so.fd < 0 || fstat(so.fd, &st)) {
		err = -errno;
		out_error("cannot open %s: %s", s->swap_path, strerror(-err));
		if (so.fd >= 0)
			close(so.fd);
		return err;
	}
	err = S_ISREG(st.st_mode) && (uint64_t)st.st_size < so.bytes &&
			      ftruncate(so.fd, (off_t)so.bytes)
		      ? -errno
		      : vac_swap_on(s->pool, &so);
	if (err)
		out_error("cannot use %s for %" PRIu64 " MiB of swap: %s", s->swap_path,
			  so.bytes >> 20, vac_strerror(err));
	close(so.fd);
	return err;
}

static int open_control(struct session *s)
{
	struct vac_control_opts co = VAC_INIT(struct vac_control_opts);
	int err;

	co.path = s->control_path;
	err = vac_control_open(s->pool, &co, &s->control);
	if (!err)
		out_msg("control socket %s", vac_control_path(s->control));
	else
		out_error("cannot open a control socket%s%s: %s", s->control_path ? " at " : "",
			  s->control_path ? s->control_path : "", vac_strerror(err));
	return err;
}

int session_open(struct session *s)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	char size[SIZE_TEXT_MAX];
	int err;

	po.name = s->name;
	po.block_bytes = s->block_bytes;
	/* Who operates the pool from outside may want to add to it. */
	po.max_bytes = s->pool_bytes * (s->with_control ? 2 : 1) + (s->normal ? s->block_bytes : 0);
	po.guard = s->guard;
	po.flags = s->flags;
	/* All that the workloads hand to the kernel is pinned. Where holders can be seen looking for others
	 * costs little; elsewhere it would take sums of every byte that moves. */
	if (geteuid() != 0)
		po.flags |= VAC_POOL_PINS_ONLY;
	po.log = log_message;
	err = vac_pool_open(&po, &s->pool);
	if (err) {
		s->pool = NULL;
		out_error("cannot open a pool (%s, blocks of %s, guard %s): %s",
			  size_text(s->pool_bytes, size, sizeof(size)),
			  size_text(s->block_bytes, (char[SIZE_TEXT_MAX]){0}, SIZE_TEXT_MAX),
			  guard_name(s->guard), vac_strerror(err));
		return err;
	}
	s->blocks = (unsigned)(s->pool_bytes / s->block_bytes);
	s->id = calloc(s->blocks, sizeof(*s->id));
	if (!s->id) {
		out_error("out of memory");
		session_close(s);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < s->blocks && !err; i++) {
		s->id[i] = vac_block_add(s->pool, NULL);
		err = s->id[i] < 0 ? s->id[i] : vac_block_online(s->pool, s->id[i], s->zone);
		if (err)
			out_error("cannot add block %u of %u: %s", i + 1, s->blocks,
				  vac_strerror(err));
	}
	s->normal_id = -1;
	if (!err && s->normal) {
		s->normal_id = vac_block_add(s->pool, NULL);
		err = s->normal_id < 0 ? s->normal_id
				       : vac_block_online(s->pool, s->normal_id, VAC_ZONE_NORMAL);
		if (err)
			out_error("cannot add a block of normal memory: %s", vac_strerror(err));
	}
	if (!err && s->swap_path)
		err = open_swap(s);
	if (!err)
		err = open_space(s);
	if (!err && s->with_control)
		err = open_control(s);
	if (err)
		session_close(s);
	return err;
}

int session_close(struct session *s)
{
	int err = 0;

	vac_control_close(s->control);
	s->control = NULL;
	if (s->space) {
		err = vac_space_destroy(s->space);
		if (err)
			out_error("cannot destroy the space: %s", vac_strerror(err));
		s->space = NULL;
	}
	if (s->pool && !err) {
		err = vac_pool_close(s->pool);
		if (err)
			out_error("cannot close the pool: %s", vac_strerror(err));
	}
	s->pool = NULL;
	free(s->id);
	s->id = NULL;
	return err;
}

static uint64_t system_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	if (!f)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	}
	fclose(f);
	return kib ? (uint64_t)kib << 10 : UINT64_MAX;
}

uint64_t session_room(struct session *s)
{
	uint64_t room = system_available(), cg;

	memcg_find(&s->memcg);
	if (!memcg_room(&s->memcg, &cg) && cg < room)
		room = cg;
	return room;
}

/* Bytes that the kernel has allocated to a block's memfd; 0 if it is offline. */
static uint64_t block_allocated(struct session *s, int id)
{
	struct vac_block_info bi = VAC_INIT(struct vac_block_info);
	struct stat st;

	if (vac_block_info(s->pool, id, &bi) || bi.fd < 0 || fstat(bi.fd, &st))
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

static uint64_t all_allocated(struct session *s)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < s->blocks; i++)
		sum += block_allocated(s, s->id[i]);
	return sum;
}

/* This process's own anonymous memory, which counts to the cgroup as well (a sanitizer's shadow
 * grows with every page touched). 0 if unknown. */
static uint64_t own_anonymous(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
			break;
	}
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

/* What the kernel has given out, at one moment. */
struct account {
	uint64_t charged;   /* to the cgroup */
	uint64_t allocated; /* to all blocks */
	uint64_t anonymous;
};

/*
 * How much the cgroup is charged less than before, apart from what the blocks that stay and the
 * process itself have got meanwhile: evacuating one block may well touch as much fresh memory in
 * another, and the difference alone would then show nothing. Other processes of the group, and
 * page cache, count too; they are why this is shown and not judged.
 */
static void watch_fall(struct session *s, struct cycle *c, const struct account *before)
{
	uint64_t t0 = wl_now_ns();
	int64_t want = (int64_t)(c->touched_bytes / 100 * GONE_PERCENT);

	for (;;) {
		uint64_t now = wl_now_ns() - t0, usage, stay, anonymous = own_anonymous();
		struct timespec ts = {0, 10000000};

		stay = all_allocated(s); /* the block itself is offline: not counted */
		if (memcg_usage(&s->memcg, &usage))
			return;
		c->charged_known = true;
		c->charged_fall_bytes = (int64_t)(before->charged - usage);
		c->charged_fall_bytes += (int64_t)(stay - (before->allocated - c->touched_bytes));
		c->charged_fall_bytes += (int64_t)(anonymous - before->anonymous);
		c->charged_fall_s = (double)now / 1e9;
		if (c->charged_fall_bytes >= want || now >= GONE_NS)
			return;
		nanosleep(&ts, NULL);
	}
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void show_progress(void *ctx, const struct vac_offline_progress *p)
{
	struct wl_run *run = ctx;
	uint64_t done = p->frames_used > p->frames_left ? p->frames_used - p->frames_left : 0;

	atomic_fetch_add_explicit(&run->steps, 1, memory_order_relaxed);
	if (run->tick)
		return; /* the ticker shows a line of its own */
	out_bar(p->frames_used ? (double)done / (double)p->frames_used : 1,
		"block %d: %.1f MiB moved, %.1f s", p->id, (double)p->bytes_moved / 1048576,
		(double)p->elapsed_ns / 1e9);
}

int session_offline(struct session *s, struct wl_run *run, int id, int64_t timeout_ms, bool account,
		    struct cycle *c)
{
	struct vac_offline_opts oo = VAC_INIT(struct vac_offline_opts);
	struct account before = {0};

	memset(c, 0, sizeof(*c));
	c->res.size = sizeof(c->res);
	c->id = id;
	oo.timeout_ms = timeout_ms;
	oo.flags = VAC_OFFLINE_REVOKE; /* nobody but `longterm` has such pins */
	oo.progress = show_progress;
	oo.progress_ctx = run;
	if (account) {
		c->touched_bytes = block_allocated(s, id);
		before.allocated = all_allocated(s);
		before.anonymous = own_anonymous();
		account = !memcg_usage(&s->memcg, &before.charged);
	}
	wl_before_offline(run, id);
	wl_worst_ns(run, WL_WRITER);
	wl_worst_ns(run, WL_READER);
	wl_stage(run, "offlining a block");
	atomic_store(&run->leaving, id);
	c->cpu_ns = thread_cpu_ns();
	c->err = vac_block_offline(s->pool, id, &oo, &c->res);
	c->cpu_ns = thread_cpu_ns() - c->cpu_ns;
	atomic_store(&run->leaving, WL_NO_BLOCK);
	wl_stage(run, "offline has ended");
	c->writer_worst_ns = wl_worst_ns(run, WL_WRITER);
	c->reader_worst_ns = wl_worst_ns(run, WL_READER);
	wl_after_offline(run, &c->res, c->err);
	if (!run->tick)
		out_progress_end();
	wl_sample(run);
	/* Part of the copying may have gone on while it waited for a holder. */
	c->busy_ns = c->res.elapsed_ns > c->res.waited_ns ? c->res.elapsed_ns - c->res.waited_ns
							  : 0;
	if (c->busy_ns < c->res.copy_ns)
		c->busy_ns = c->res.copy_ns;
	if (c->busy_ns)
		c->gb_per_s = (double)c->res.bytes_moved / (double)c->busy_ns;
	if (!c->err && account)
		watch_fall(s, c, &before);
	return c->err;
}

int session_return(struct session *s, struct wl_run *run, int id)
{
	struct vac_block_opts bo = VAC_INIT(struct vac_block_opts);
	const char *what = "remove";
	int err;

	bo.id = id;
	wl_stage(run, "adding the block back");
	err = vac_block_remove(s->pool, id);
	if (!err) {
		what = "add back";
		err = vac_block_add(s->pool, &bo);
		if (err >= 0)
			err = err == id ? 0 : -EUCLEAN;
	}
	if (!err) {
		what = "bring online";
		err = vac_block_online(s->pool, id, s->zone);
	}
	/* An operator may have been quicker, and then it is his block. */
	if (s->control && (err == -EBUSY || err == -ENOENT || err == -EEXIST || err == -EALREADY))
		return 0;
	if (err)
		out_error("cannot %s block %d: %s", what, id, vac_strerror(err));
	return err;
}

uint64_t session_check(struct session *s, struct wl_run *run, uint64_t used_frames)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	char msg[512] = "";
	int err;

	wl_stage(run, "checking the pool");
	err = vac_pool_check(s->pool, msg, sizeof(msg));
	if (err)
		wl_fault(run, "the pool's own check: %s", *msg ? msg : vac_strerror(err));
	/* The check keeps operators out while it looks; the counters are read one by one, and an
	 * operator may be at work in between, or the pool's own thread be moving pages back that long-term
	 * pins had brought to normal memory. Then they add up a moment later. */
	for (int try = 0; try < CHECK_TRIES; try++) {
		const struct timespec ts = {0, 1000000};

		err = vac_pool_stats(s->pool, &st);
		if (err ||
		    (st.frames_total == st.frames_free + st.frames_reserved + st.frames_used +
						st.frames_isolated + st.frames_quarantined &&
		     (!used_frames || st.frames_used == used_frames)))
			break;
		nanosleep(&ts, NULL);
	}
	if (err) {
		wl_fault(run, "no statistics: %s", vac_strerror(err));
		return 0;
	}
	if (st.frames_total != st.frames_free + st.frames_reserved + st.frames_used +
				       st.frames_isolated + st.frames_quarantined)
		wl_fault(run,
			 "frames do not add up: %" PRIu64 " in all, but %" PRIu64 " free, %" PRIu64
			 " reserved, %" PRIu64 " used, %" PRIu64 " isolated",
			 st.frames_total, st.frames_free, st.frames_reserved, st.frames_used,
			 st.frames_isolated);
	if (used_frames && st.frames_used != used_frames)
		wl_fault(run, "%" PRIu64 " frames are in use, %" PRIu64 " should be",
			 st.frames_used, used_frames);
	if (st.dangling)
		wl_fault(run, "%" PRIu64 " dangling migration entries were met", st.dangling);
	wl_stage(run, "pool checked");
	return st.frames_used;
}

json_t *latency_json(struct wl_run *run, enum wl_latency kind, enum wl_phase phase)
{
	struct hist *h = malloc(sizeof(*h));
	json_t *j;

	if (!h)
		return NULL;
	wl_latency(run, kind, phase, h);
	j = json_pack("{s:f, s:f, s:f, s:f, s:I}", "p50", (double)hist_percentile(h, 50) / 1e3,
		      "p99", (double)hist_percentile(h, 99) / 1e3, "p999",
		      (double)hist_percentile(h, 99.9) / 1e3, "max", (double)h->max / 1e3, "count",
		      (json_int_t)h->count);
	free(h);
	return j;
}

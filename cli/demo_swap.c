/* SPDX-License-Identifier: MIT */
/*
 * The second part of `vacate demo`: half of the memory that the data needs. See demo_swap.h.
 *
 * A pool of its own, although swap and snapshots get along in one. With swap in the first pool its data would be
 * twice the whole demonstration's memory, gigabytes to be written out and read back for each pass; with less data,
 * nothing would need the file and the claim were empty. And what the first part shows, that blocks leave at the
 * speed of memory, would be the speed of the disk.
 */
#include "demo_swap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "opt.h"
#include "out.h"
#include "report_json.h"
#include "session.h"
#include "workload.h"

#define MIB ((uint64_t)1 << 20)
#define BLOCKS 8
#define TIMEOUT_MS 20000
#define HANG_S 60
#define PAUSE_NS 100000000u

/* An empty file of ours, in path. */
static int make_file(char *path, size_t len)
{
	const char *dirs[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
	int fd = -1;

	for (size_t i = 0; fd < 0 && i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		if (!dirs[i] ||
		    snprintf(path, len, "%s/vacate-demo-swap-XXXXXX", dirs[i]) >= (int)len)
			continue;
		fd = mkstemp(path);
	}
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static int fill(struct demo_swap *d, struct wl_run *run)
{
	int err = wl_run_add(run, &wl_atomics, 1, d->data_bytes);
	uint64_t left = d->data_bytes - run->groups[0].bytes;

	if (!err)
		err = wl_run_add(run, &wl_records, 2, left / 2);
	if (!err)
		err = wl_run_add(run, &wl_verify, 2, left - left / 2);
	return err;
}

/* Every block leaves in turn, as often as there is time for, and at least once. */
static int passes(struct demo_swap *d, struct session *s, struct wl_run *run)
{
	uint64_t t0 = wl_now_ns();

	for (unsigned n = 0; n < s->blocks || wl_now_ns() - t0 < d->limit_ns; n++) {
		struct cycle c = {0};

		if (atomic_load(&run->interrupted))
			break;
		if (session_offline(s, run, s->id[n % s->blocks], TIMEOUT_MS, false, &c)) {
			out_error("swap: block %d could not leave: %s", c.id, vac_strerror(c.err));
			report_text(c.res.report, stderr);
			d->failed++;
		} else {
			d->left++;
			if (session_return(s, run, c.id)) {
				vac_report_free(c.res.report);
				return -1;
			}
		}
		vac_report_free(c.res.report);
		wl_run_wait(run, PAUSE_NS);
	}
	d->seconds = (double)(wl_now_ns() - t0) / 1e9;
	return d->failed ? -1 : 0;
}

static int work(struct demo_swap *d, struct session *s, struct wl_run *run)
{
	struct vac_pool_stats ps = VAC_INIT(struct vac_pool_stats);
	int err;

	run->pool = s->pool;
	run->space = s->space;
	run->seed = d->seed;
	run->hang_s = HANG_S;
	err = wl_run_init(run);
	if (err)
		return -1;
	err = fill(d, run);
	if (!err)
		err = wl_run_start(run);
	if (!err) {
		d->done = true;
		atomic_store(&run->phase, WL_DURING);
		err = passes(d, s, run);
		wl_run_stop(run);
		wl_run_sweep(run);
		session_check(s, run, 0);
	}
	if (vac_pool_stats(s->pool, &ps) == 0) {
		d->in = ps.swap_in;
		d->out = ps.swap_out;
	}
	d->interrupted = atomic_load(&run->interrupted);
	d->errors = atomic_load(&run->faults);
	d->checked = wl_checked(run);
	wl_run_free(run);
	return err || d->errors || d->interrupted ? -1 : 0;
}

int demo_swap_run(struct demo_swap *d)
{
	struct wl_run *run = calloc(1, sizeof(*run));
	char path[512], a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
	struct session s = {.name = "demo-swap", .zone = VAC_ZONE_MOVABLE, .guard = d->guard};
	int err = make_file(path, sizeof(path));

	if (err || !run) {
		out_error("swap: no file for it: %s", strerror(run ? -err : ENOMEM));
		free(run);
		return -1;
	}
	s.block_bytes = VAC_BLOCK_BYTES_MIN;
	while (s.block_bytes * 2 * BLOCKS <= d->pool_bytes)
		s.block_bytes *= 2;
	s.pool_bytes = s.block_bytes * BLOCKS;
	/* While a block is away its data must fit into the file too. */
	d->data_bytes = 2 * s.pool_bytes;
	s.swap_bytes = 3 * s.pool_bytes;
	s.swap_path = path;
	out_msg("now %s of data in a pool of %s, with a swap file of %s",
		size_text(d->data_bytes, a, sizeof(a)), size_text(s.pool_bytes, b, sizeof(b)),
		path);
	err = session_open(&s);
	unlink(path);
	if (!err) {
		err = work(d, &s, run);
		if (session_close(&s))
			err = -1;
	}
	free(run);
	return err ? -1 : 0;
}

void demo_swap_print(const struct demo_swap *d)
{
	if (!d->done) {
		printf("swap: could not be shown, see above\n");
		return;
	}
	printf("swap: %.1f MiB of data in %.1f MiB of memory for %.1f s, another pool: %.1f MiB "
	       "written out, %.1f MiB\n"
	       "      read back; %u blocks left meanwhile, %u could not; %" PRIu64
	       " checks, %" PRIu64 " errors\n",
	       (double)d->data_bytes / 1048576, (double)d->data_bytes / 2 / 1048576, d->seconds,
	       (double)d->out / 256, (double)d->in / 256, d->left, d->failed, d->checked,
	       d->errors);
}

json_t *demo_swap_json(const struct demo_swap *d)
{
	return json_pack("{s:b, s:I, s:f, s:I, s:I, s:i, s:i, s:I, s:I}", "done", d->done,
			 "data_bytes", (json_int_t)d->data_bytes, "seconds", d->seconds,
			 "pages_out", (json_int_t)d->out, "pages_in", (json_int_t)d->in, "left",
			 (int)d->left, "failed", (int)d->failed, "checked", (json_int_t)d->checked,
			 "errors", (json_int_t)d->errors);
}

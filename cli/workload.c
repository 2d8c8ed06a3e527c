/* SPDX-License-Identifier: MIT */
/*
 * The life of a run: groups, threads, pausing, sweeping, counting. See workload.h. The ticker
 * (signals, watchdog) is in watchdog.c.
 */
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "opt.h"
#include "out.h"
#include "watchdog.h"

#define FAULTS_SHOWN 40
#define WARM_OPS 4096
#define HOLD_NS 2000000000u /* if the caller has not said */
#define PACE_OPS 64         /* between two rests */
#define PACE_NS 2000000u
#define CHURN_BYTES ((uint64_t)4 << 20)
/* The finest interval that a client is taken to ask at: below it the clock itself is the noise. */
#define INTERVAL_MIN_NS 50

static const struct wl_class *const classes[] = {
	&wl_verify, &wl_records,   &wl_atomics, &wl_dio, &wl_read, &wl_holder,     &wl_map,
	&wl_storm,  &wl_snapshots, &wl_backup,  &wl_aio, &wl_idle, &wl_multipathd, &wl_longterm,
};

const struct wl_class *wl_nth(unsigned k)
{
	return k < sizeof(classes) / sizeof(classes[0]) ? classes[k] : NULL;
}

const struct wl_class *wl_find(const char *name)
{
	for (unsigned k = 0; wl_nth(k); k++) {
		if (!strcmp(wl_nth(k)->name, name))
			return wl_nth(k);
	}
	return NULL;
}

int wl_run_init(struct wl_run *run)
{
	pthread_condattr_t attr;

	if (!run->hold_ns)
		run->hold_ns = HOLD_NS;
	if (!run->churn_bytes)
		run->churn_bytes = CHURN_BYTES;
	pthread_mutex_init(&run->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&run->wake, &attr);
	pthread_cond_init(&run->quiet, &attr);
	pthread_condattr_destroy(&attr);
	atomic_store(&run->leaving, WL_NO_BLOCK);
	atomic_store(&run->hold_block, WL_NO_BLOCK);
	atomic_store(&run->held_block, WL_NO_BLOCK);
	wl_stage(run, "starting");
	return watchdog_start(run);
}

static struct wl_worker *new_worker(struct wl_group *g, unsigned index)
{
	struct wl_run *run = g->run;
	struct wl_worker *w;

	if (run->n_workers == WL_MAX_WORKERS)
		return NULL;
	w = aligned_alloc(64, (sizeof(*w) + 63) / 64 * 64);
	if (!w)
		return NULL;
	memset(w, 0, sizeof(*w));
	if (g->cls->latency != WL_NEITHER) {
		w->hist = calloc(WL_PHASES, sizeof(*w->hist));
		if (!w->hist) {
			free(w);
			return NULL;
		}
	}
	w->run = run;
	w->group = g;
	w->id = run->n_workers;
	w->index = index;
	w->warm = WARM_OPS;
	snprintf(w->name, sizeof(w->name), "%.7s/%u", g->cls->name, index % 10000);
	/* One stream a thread, from the seed and the place in the run alone: a seed then gives the
	 * same choices to each thread again, whatever their interleaving. */
	w->rng = wl_mix(run->seed ^ wl_mix(w->id + 1));
	atomic_store(&w->doing, "starting");
	run->workers[w->id] = w;
	atomic_fetch_add(&run->n_workers, 1);
	return w;
}

int wl_run_add(struct wl_run *run, const struct wl_class *cls, unsigned threads, uint64_t bytes)
{
	struct wl_group *g;
	int err;

	if (run->n_groups == WL_MAX_GROUPS)
		return -ENOSPC;
	g = &run->groups[run->n_groups];
	memset(g, 0, sizeof(*g));
	g->run = run;
	g->cls = cls;
	g->bytes = bytes;
	g->workers = calloc(threads ? threads : 1, sizeof(struct wl_worker *));
	if (!g->workers)
		goto nomem;
	run->n_groups++;
	for (; g->threads < threads; g->threads++) {
		g->workers[g->threads] = new_worker(g, g->threads);
		if (!g->workers[g->threads])
			goto nomem;
	}
	wl_stage(run, "filling memory");
	err = cls->prepare(g);
	wl_stage(run, "filled");
	return err;
nomem:
	out_error("out of memory for %u threads of '%s' (at most %u in all)", threads, cls->name,
		  WL_MAX_WORKERS);
	return -ENOMEM;
}

static void *worker_main(void *arg)
{
	struct wl_worker *w = arg;
	struct wl_run *run = w->run;

	atomic_store(&w->tid, (int)syscall(SYS_gettid));
	pthread_setname_np(pthread_self(), w->name);
	w->group->cls->work(w);
	wl_doing(w, "ended", NULL);
	pthread_mutex_lock(&run->lock);
	run->ended++;
	atomic_store(&w->parked, true);
	pthread_cond_broadcast(&run->quiet);
	pthread_mutex_unlock(&run->lock);
	return NULL;
}

int wl_run_start(struct wl_run *run)
{
	wl_stage(run, "starting threads");
	for (; run->n_started < run->n_workers; run->n_started++) {
		struct wl_worker *w = run->workers[run->n_started];
		int err = pthread_create(&w->thread, NULL, worker_main, w);

		if (err) {
			out_error("cannot start thread %u of %u: %s", run->n_started + 1,
				  run->n_workers, strerror(err));
			return -err;
		}
	}
	return 0;
}

static void set_state(struct wl_run *run, enum wl_state state)
{
	pthread_mutex_lock(&run->lock);
	atomic_store(&run->state, state);
	pthread_cond_broadcast(&run->wake);
	pthread_mutex_unlock(&run->lock);
}

/* Call with run->lock held, state WL_PAUSE. Comes back in another state. */
static void parked_wait(struct wl_worker *w)
{
	struct wl_run *run = w->run;

	run->parked++;
	atomic_store(&w->parked, true);
	pthread_cond_broadcast(&run->quiet);
	while (atomic_load(&run->state) == WL_PAUSE)
		pthread_cond_wait(&run->wake, &run->lock);
	atomic_store(&w->parked, false);
	run->parked--;
}

bool wl_park(struct wl_worker *w)
{
	struct wl_run *run = w->run;
	bool go;

	pthread_mutex_lock(&run->lock);
	if (atomic_load(&run->state) == WL_PAUSE)
		parked_wait(w);
	go = atomic_load(&run->state) == WL_GO;
	pthread_mutex_unlock(&run->lock);
	return go;
}

static struct timespec to_timespec(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	return ts;
}

bool wl_sleep(struct wl_worker *w, uint64_t ns)
{
	struct wl_run *run = w->run;
	uint64_t end = wl_now_ns() + ns;
	struct timespec until = to_timespec(end);
	bool go;

	pthread_mutex_lock(&run->lock);
	while (atomic_load(&run->state) != WL_STOP) {
		if (atomic_load(&run->state) == WL_PAUSE) {
			parked_wait(w);
			continue;
		}
		if (wl_now_ns() >= end)
			break;
		pthread_cond_timedwait(&run->wake, &run->lock, &until);
	}
	go = atomic_load(&run->state) == WL_GO;
	pthread_mutex_unlock(&run->lock);
	return go;
}

void wl_run_pause(struct wl_run *run)
{
	wl_stage(run, "waiting for all threads to pause");
	set_state(run, WL_PAUSE);
	pthread_mutex_lock(&run->lock);
	while (run->parked + run->ended < run->n_started)
		pthread_cond_wait(&run->quiet, &run->lock);
	pthread_mutex_unlock(&run->lock);
	wl_stage(run, "all threads paused");
}

void wl_run_resume(struct wl_run *run)
{
	set_state(run, WL_GO);
	wl_stage(run, "threads resumed");
}

void wl_run_sweep(struct wl_run *run)
{
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];

		wl_stage(run, "checking all memory");
		if (g->cls->sweep && g->data)
			g->cls->sweep(g);
	}
}

void wl_run_stop(struct wl_run *run)
{
	wl_stage(run, "waiting for all threads to end");
	set_state(run, WL_STOP);
	for (unsigned i = 0; i < run->n_started; i++)
		pthread_join(run->workers[i]->thread, NULL);
	run->n_started = 0;
	wl_stage(run, "all threads ended");
}

void wl_run_free(struct wl_run *run)
{
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];

		if (g->cls->release && g->data)
			g->cls->release(g);
		free(g->workers);
	}
	watchdog_stop(run);
	for (unsigned i = 0; i < run->n_workers; i++) {
		free(run->workers[i]->hist);
		free(run->workers[i]);
	}
	run->n_groups = 0;
	atomic_store(&run->n_workers, 0);
	pthread_cond_destroy(&run->wake);
	pthread_cond_destroy(&run->quiet);
	pthread_mutex_destroy(&run->lock);
}

void wl_stage(struct wl_run *run, const char *stage)
{
	atomic_store(&run->stage, stage);
	atomic_fetch_add_explicit(&run->steps, 1, memory_order_relaxed);
}

void wl_run_wait(struct wl_run *run, uint64_t ns)
{
	uint64_t end = wl_now_ns() + ns;

	for (;;) {
		uint64_t now = wl_now_ns();
		struct timespec ts;

		if (now >= end || atomic_load(&run->interrupted))
			return;
		/* In slices: the interrupt comes to the ticker, not here. */
		ts = to_timespec(end - now < 50000000u ? end - now : 50000000u);
		nanosleep(&ts, NULL);
		atomic_fetch_add_explicit(&run->steps, 1, memory_order_relaxed);
	}
}

void wl_fault(struct wl_run *run, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	uint64_t n = atomic_fetch_add(&run->faults, 1);

	if (n == FAULTS_SHOWN)
		out_error("further errors are only counted");
	if (n >= FAULTS_SHOWN)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	out_error("WRONG: %s", text);
}

/*
 * The interval for the correction of coordinated omission is what the thread itself achieves when
 * nothing is in its way: the median of its first operations. It then asks, so to speak, at its own
 * undisturbed pace, and every stall is felt by all that would have been asked meanwhile.
 */
void wl_op_end(struct wl_worker *w, uint64_t t0, uint64_t n)
{
	uint64_t ns = wl_now_ns() - t0;
	struct hist *h;

	atomic_store_explicit(&w->ops, atomic_load_explicit(&w->ops, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	atomic_store_explicit(&w->checked,
			      atomic_load_explicit(&w->checked, memory_order_relaxed) + n,
			      memory_order_relaxed);
	if (!w->hist)
		return;
	/* The controller may set it back between the two: then this wait is counted for the next
	 * interval, which is as good. */
	if (ns > atomic_load_explicit(&w->worst_ns, memory_order_relaxed))
		atomic_store_explicit(&w->worst_ns, ns, memory_order_relaxed);
	h = &w->hist[atomic_load_explicit(&w->run->phase, memory_order_relaxed)];
	if (w->warm) {
		hist_record(h, ns);
		if (--w->warm)
			return;
		w->interval_ns = hist_percentile(h, 50);
		if (w->interval_ns < INTERVAL_MIN_NS)
			w->interval_ns = INTERVAL_MIN_NS;
		return;
	}
	hist_record_corrected(h, ns, w->interval_ns);
}

void wl_pace(struct wl_worker *w)
{
	if (w->run->paced && atomic_load_explicit(&w->ops, memory_order_relaxed) % PACE_OPS == 0)
		wl_sleep(w, PACE_NS);
}

void wl_before_offline(struct wl_run *run, int block)
{
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];

		g->stat.before = g->cls->in_block && g->data ? g->cls->in_block(g, block) : 0;
	}
}

void wl_after_offline(struct wl_run *run, const struct vac_offline_result *res, int err)
{
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];
		const char *owner = g->cls->owner;

		if (!err && g->stat.before) {
			g->stat.blocks++;
			g->stat.pieces += g->stat.before;
		}
		if (!owner || strncmp(res->waited_for, owner, strlen(owner)))
			continue;
		if (res->waited_longest_ns > g->stat.waited_ns)
			g->stat.waited_ns = res->waited_longest_ns;
		if (g->cls->idle)
			wl_fault(run, "%s: an offline waited for \"%s\"", g->cls->name,
				 res->waited_for);
	}
}

void wl_sample(struct wl_run *run)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	uint64_t seen = atomic_load(&run->host_vmas_max);

	if (vac_pool_stats(run->pool, &st))
		return;
	while (st.host_vmas > seen &&
	       !atomic_compare_exchange_weak(&run->host_vmas_max, &seen, st.host_vmas))
		;
}

uint64_t wl_worst_ns(struct wl_run *run, enum wl_latency kind)
{
	uint64_t worst = 0;

	for (unsigned i = 0; i < run->n_workers; i++) {
		struct wl_worker *w = run->workers[i];
		uint64_t ns;

		if (w->group->cls->latency != kind)
			continue;
		ns = atomic_exchange_explicit(&w->worst_ns, 0, memory_order_relaxed);
		if (ns > worst)
			worst = ns;
	}
	return worst;
}

void wl_latency(struct wl_run *run, enum wl_latency kind, enum wl_phase phase, struct hist *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < run->n_workers; i++) {
		struct wl_worker *w = run->workers[i];

		if (w->hist && w->group->cls->latency == kind)
			hist_merge(out, &w->hist[phase]);
	}
}

uint64_t wl_group_ops(const struct wl_group *g)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->threads; i++)
		n += atomic_load_explicit(&g->workers[i]->ops, memory_order_relaxed);
	return n;
}

uint64_t wl_group_checked(const struct wl_group *g)
{
	uint64_t n = atomic_load_explicit(&g->swept, memory_order_relaxed);

	for (unsigned i = 0; i < g->threads; i++)
		n += atomic_load_explicit(&g->workers[i]->checked, memory_order_relaxed);
	return n;
}

uint64_t wl_checked(struct wl_run *run)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < run->n_groups; i++)
		n += wl_group_checked(&run->groups[i]);
	return n;
}

int wl_map_now(struct wl_run *run, uint64_t bytes, unsigned flags, void **mem)
{
	int err = vac_map(run->space, NULL, bytes, VAC_PROT_READ | VAC_PROT_WRITE, flags, mem);

	if (err)
		return err;
	err = vac_advise(run->space, *mem, bytes, VAC_ADV_WILLNEED);
	if (err)
		vac_unmap(run->space, *mem, bytes);
	return err;
}

void *wl_map_filled(struct wl_run *run, uint64_t *bytes, unsigned flags, const char *for_what,
		    int *err)
{
	char size[SIZE_TEXT_MAX];
	void *mem = NULL;

	*bytes = (*bytes + VAC_PAGE_BYTES - 1) / VAC_PAGE_BYTES * VAC_PAGE_BYTES;
	*err = wl_map_now(run, *bytes, flags, &mem);
	if (!*err)
		return mem;
	out_error("cannot map %s of pool memory for %s: %s", size_text(*bytes, size, sizeof(size)),
		  for_what, vac_strerror(*err));
	return NULL;
}

bool wl_lies_in(struct vac_space *space, const void *addr, int block)
{
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);

	return addr && !vac_page_info(space, addr, &pi) && pi.present && pi.block == block;
}

const char *wl_page_text(struct wl_run *run, const void *addr, char *buf, size_t len)
{
	struct vac_page_info pi = VAC_INIT(struct vac_page_info);
	int err = vac_page_info(run->space, addr, &pi);

	if (err)
		snprintf(buf, len, "%s", vac_strerror(err));
	else if (!pi.present)
		snprintf(buf, len, "no page there");
	else
		snprintf(buf, len, "%s folio, block %d, pfn %" PRIu64 "%s, refs %u pins %u map %u",
			 pi.huge ? "2 MiB" : "4 KiB", pi.block, pi.pfn,
			 pi.present == 2 ? ", leaving" : "", pi.refs, pi.pins, pi.map);
	return buf;
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Memory that a hypervisor has not given to the machine yet costs more than clearing it: have it given, to the
 * kernel's free memory, from which what comes next is taken. */
static void have_memory(uint64_t bytes)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return;
	madvise(mem, bytes, MADV_HUGEPAGE);
	memset(mem, 0x5a, bytes);
	munmap(mem, bytes);
}

int wl_memcpy_rate(struct wl_run *run, uint64_t bytes, unsigned runs, double *bytes_per_s,
		   double *fresh)
{
	uint64_t len = bytes, fill_ns;
	unsigned char *from, *to;
	int err = 0;

	*bytes_per_s = 0;
	if (fresh)
		have_memory(2 * bytes);
	from = wl_map_filled(run, &len, 0, "measuring memcpy", &err);
	if (!from)
		return err;
	fill_ns = thread_cpu_ns();
	to = wl_map_filled(run, &len, 0, "measuring memcpy", &err);
	fill_ns = thread_cpu_ns() - fill_ns;
	if (to) {
		/* Written once before: the host gives real pages, not the page of zeroes. */
		memset(from, 0x5a, len);
		memset(to, 0xa5, len);
		for (unsigned i = 0; i < runs; i++) {
			uint64_t t0 = thread_cpu_ns(), ns;

			memcpy(to, from, len);
			ns = thread_cpu_ns() - t0;
			if (ns && (double)len * 1e9 / (double)ns > *bytes_per_s)
				*bytes_per_s = (double)len * 1e9 / (double)ns;
			wl_stage(run, "measuring memcpy");
		}
		if (memcmp(to, from, len))
			wl_fault(run, "memcpy between two quiet runs of pool memory lost bytes");
		if (fresh && *bytes_per_s > 0)
			*fresh = (double)len / ((double)len / *bytes_per_s + (double)fill_ns / 1e9);
		vac_unmap(run->space, to, len);
	}
	vac_unmap(run->space, from, len);
	return err;
}

int wl_run_print(struct wl_run *run)
{
	static const struct out_column cols[] = {
		{"WORKLOAD", 0},   {"THREADS", 1}, {"MEMORY", 1},
		{"OPERATIONS", 1}, {"CHECKED", 1}, {"NOTE", 0},
	};
	struct out_table *tb = out_table_new(cols, sizeof(cols) / sizeof(cols[0]));

	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];
		char note[128] = "";

		if (g->cls->note && g->data)
			g->cls->note(g, note, sizeof(note));
		out_table_row(tb);
		out_table_cell(tb, "%s", g->cls->name);
		out_table_cell(tb, "%u", g->threads);
		out_table_cell(tb, "%.1f MiB", (double)g->bytes / 1048576);
		out_table_cell(tb, "%" PRIu64, wl_group_ops(g));
		out_table_cell(tb, "%" PRIu64, wl_group_checked(g));
		out_table_cell(tb, "%s", note);
	}
	return out_table_print(tb);
}

void wl_run_tell(struct wl_run *run)
{
	for (unsigned i = 0; i < run->n_groups; i++) {
		struct wl_group *g = &run->groups[i];
		char text[1024] = "", *rest = text, *line;

		if (!g->cls->tell || !g->data)
			continue;
		g->cls->tell(g, text, sizeof(text));
		while ((line = strsep(&rest, "\n")))
			printf("%s%s\n", line == text ? "" : "        ", line);
	}
}

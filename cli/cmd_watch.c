/* SPDX-License-Identifier: MIT */
/*
 * vacate watch host:N: who takes direct references to frames of a block, as it happens; at the end,
 * whose are still there, for how long and by which way into the kernel.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd.h"
#include "host/watch.h"
#include "host_target.h"
#include "out.h"

static const struct opt_ctx ctx = {"watch"};

static void usage(void)
{
	puts("Usage: vacate watch [OPTIONS] host:BLOCK\n"
	     "\n"
	     "Watch one block of the host's memory: a line for each time that a thread pins frames of\n"
	     "it, and at the end those whose frames are still held, with age and kernel stack. Traces\n"
	     "by fexit where the kernel allows it; elsewhere by block_bio_queue, which sees direct\n"
	     "I/O to block devices. What was held before is found by 'vacate why'. As root.\n"
	     "Ends at --duration, or at an interrupt.\n"
	     "\n"
	     "Options:\n"
	     "      --duration TIME  end after this time; by default at an interrupt\n"
	     "      --all            block I/O of the page cache too\n"
	     "      --json           one JSON object at the end, with every owner\n"
	     "  -h, --help           this text\n"
	     "\n"
	     "Exit status: 0 done, 1 error, or the kernel allows no tracing; 2 usage.");
}

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

/* What one thread did by one way, and the frames that it was last seen with. */
struct owner {
	struct watch_event last;
	uint64_t events, frames, first_ns;
	uint64_t held;    /* frames of it that are held at the end */
	uint64_t held_ns; /* since when, the oldest */
};

struct seen {
	uint32_t owner; /* index + 1, 0 nobody */
	uint64_t ns;
};

struct watch {
	struct host *h;
	const struct host_block *b;
	bool all, json;
	uint64_t start_ns, events;
	struct owner *owner;
	uint32_t n;
	struct seen *frame; /* who was last seen with each frame of the block */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static const char *what_of(const struct watch_event *e)
{
	if (e->how == WATCH_PIN)
		return "pins";
	return e->direct  ? e->write ? "direct write" : "direct read"
	       : e->write ? "page-cache write"
			  : "page-cache read";
}

static uint32_t owner_of(struct watch *w, const struct watch_event *e)
{
	struct owner *grown;

	for (uint32_t i = 0; i < w->n; i++) {
		struct watch_event *l = &w->owner[i].last;

		if (l->pid == e->pid && l->how == e->how && l->write == e->write &&
		    l->direct == e->direct && !strcmp(l->disk, e->disk) &&
		    !memcmp(l->stack, e->stack, sizeof(l->stack)))
			return i + 1;
	}
	grown = realloc(w->owner, (w->n + 1) * sizeof(*grown));
	if (!grown)
		return 0;
	w->owner = grown;
	grown[w->n] = (struct owner){.last = *e, .first_ns = e->ns};
	return ++w->n;
}

static void on_event(void *arg, const struct watch_event *e)
{
	struct watch *w = arg;
	char size[SIZE_TEXT_MAX];
	uint32_t i;

	if (e->how == WATCH_BIO && !e->direct && !w->all)
		return;
	w->events++;
	i = owner_of(w, e);
	if (i) {
		w->owner[i - 1].last = *e;
		w->owner[i - 1].events++;
		w->owner[i - 1].frames += e->n;
	}
	for (unsigned r = 0; i && r < WATCH_RUNS; r++)
		for (uint64_t k = 0; k < e->len[r]; k++)
			if (e->pfn[r] - w->b->pfn + k < w->b->frames)
				w->frame[e->pfn[r] - w->b->pfn + k] = (struct seen){i, e->ns};
	if (!w->json) {
		printf("%9.3f  %-15s pid %u thread %u: %s of %s%s%s\n",
		       (double)(e->ns - w->start_ns) / 1e9, e->comm, e->tgid, e->pid, what_of(e),
		       size_text((uint64_t)e->n * w->h->page_bytes, size, sizeof(size)),
		       e->disk[0] ? ", " : "", e->disk);
		fflush(stdout);
	}
}

/* Whose frames are held now? */
static int count_held(struct watch *w)
{
	struct host_pages p;
	int err = host_pages_read(w->h, w->b->pfn, w->b->frames, 60, &p);

	for (uint64_t k = 0; !err && k < p.n; k++) {
		const struct seen *s = &w->frame[k];
		struct owner *o;

		if (!s->owner || p.page[k].class != HOST_HELD)
			continue;
		o = &w->owner[s->owner - 1];
		if (!o->held++ || s->ns < o->held_ns)
			o->held_ns = s->ns;
	}
	if (!err)
		host_pages_free(&p);
	return err;
}

static json_t *owner_json(struct watch *w, const struct owner *o, uint64_t now)
{
	json_t *stack = json_array();
	char buf[96], comm[17];

	for (unsigned i = 0; i < WATCH_STACK && o->last.stack[i]; i++)
		json_array_append_new(
			stack, json_string(host_symbol(w->h, o->last.stack[i], buf, sizeof(buf))));
	snprintf(comm, sizeof(comm), "%s", o->last.comm);
	for (char *c = comm; *c; c++)
		if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
			*c = '?';
	return json_pack("{s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:o}", "pid",
			 (json_int_t)o->last.tgid, "tid", (json_int_t)o->last.pid, "comm", comm,
			 "what", what_of(&o->last), "disk", o->last.disk, "events",
			 (json_int_t)o->events, "bytes", (json_int_t)(o->frames * w->h->page_bytes),
			 "held_bytes", (json_int_t)(o->held * w->h->page_bytes), "age_s",
			 o->held ? (double)(now - o->held_ns) / 1e9 : 0.0, "stack", stack);
}

static int finish(struct watch *w, const struct host_watch *hw)
{
	uint64_t now = now_ns(), lost = host_watch_lost(hw);
	char size[SIZE_TEXT_MAX], buf[96];
	unsigned held = 0;

	if (w->json) {
		json_t *owners = json_array();

		for (uint32_t i = 0; i < w->n; i++)
			json_array_append_new(owners, owner_json(w, &w->owner[i], now));
		return out_json(json_pack("{s:I, s:s, s:I, s:I, s:o}", "block",
					  (json_int_t)w->b->id, "traced_by", host_watch_how(hw),
					  "events", (json_int_t)w->events, "lost", (json_int_t)lost,
					  "owners", owners))
			       ? CMD_ERROR
			       : CMD_OK;
	}
	for (uint32_t i = 0; i < w->n; i++) {
		const struct owner *o = &w->owner[i];

		if (!o->held)
			continue;
		held++;
		printf("still held: %s by %s, pid %u thread %u, for %.1f s: %s%s%s\n",
		       size_text(o->held * w->h->page_bytes, size, sizeof(size)), o->last.comm,
		       o->last.tgid, o->last.pid, (double)(now - o->held_ns) / 1e9,
		       what_of(&o->last), o->last.disk[0] ? ", " : "", o->last.disk);
		for (unsigned k = 0; k < WATCH_STACK && o->last.stack[k]; k++)
			printf("    %s\n", host_symbol(w->h, o->last.stack[k], buf, sizeof(buf)));
	}
	printf("%" PRIu64 " events of %u owners; %u still hold frames of the block", w->events,
	       w->n, held);
	printf(lost ? "; %" PRIu64 " events were lost\n" : "\n", lost);
	return CMD_OK;
}

static int run(struct watch *w, uint64_t duration_ns)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct host_watch *hw;
	int rc = CMD_ERROR, n = 0;

	w->frame = calloc(w->b->frames, sizeof(*w->frame));
	if (!w->frame) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	if (host_watch_open(w->h, w->b, on_event, w, &hw)) {
		out_error("%s", host_message(w->h));
		return CMD_ERROR;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	w->start_ns = now_ns();
	out_msg("watching host:%" PRIu32 " by %s", w->b->id, host_watch_how(hw));
	while (!stop && (n >= 0 || n == -EINTR)) {
		uint64_t gone = now_ns() - w->start_ns;

		if (duration_ns && gone >= duration_ns)
			break;
		n = host_watch_wait(hw, duration_ns && duration_ns - gone < 200000000
						? (int)((duration_ns - gone) / 1000000) + 1
						: 200);
	}
	if (n < 0 && n != -EINTR)
		out_error("the events cannot be read: %s", strerror(-n));
	else if (count_held(w))
		out_error("%s", host_message(w->h));
	else
		rc = finish(w, hw);
	host_watch_close(hw);
	return rc;
}

int cmd_watch(int argc, char **argv)
{
	static const struct option options[] = {
		{"duration", required_argument, NULL, 'd'},
		{"all", no_argument, NULL, 'a'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct watch w = {0};
	struct host_targets t;
	uint64_t duration_ns = 0;
	int c, rc;

	out_set_prefix("vacate watch");
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			if (opt_time(&ctx, "--duration", optarg, 1000000, UINT64_MAX / 4,
				     &duration_ns))
				return CMD_USAGE;
			break;
		case 'a': w.all = true; break;
		case 'j': w.json = true; break;
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	if (argc - optind != 1 || strncmp(argv[optind], "host:", 5))
		return opt_error(&ctx,
				 "one block of the host is watched, as in 'vacate watch host:32'");
	rc = host_targets_parse(&t, &ctx, NULL, argv + optind, argc - optind);
	if (rc < 0 && t.n != 1)
		rc = opt_error(&ctx, "'%s' is %u blocks; one is watched at a time", argv[optind],
			       t.n);
	if (rc < 0) {
		w.h = t.h;
		w.b = &t.h->blocks[t.block[0]];
		rc = run(&w, duration_ns);
	}
	free(w.owner);
	free(w.frame);
	host_targets_free(&t);
	return rc;
}

/* SPDX-License-Identifier: MIT */
/*
 * The verb: which benches to run, and their results as a table or as JSON. See bench.h for how
 * they measure.
 */
#include "bench/bench.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/host.h"
#include "bench/machine.h"
#include "cli/cmd.h"
#include "cli/opt.h"
#include "cli/out.h"
#include "cli/session.h"
#include "vacate.h"

static const struct bench {
	const char *name;
	int (*run)(struct bench_env *env);
	unsigned mib, tiny_mib; /* memory that it takes; 0: it looks for itself */
	const char *what;
} benches[] = {
	{"offline_huge", bench_offline_huge, 640, 128, "take away a block full of huge folios"},
	{"offline_base_run", bench_offline_base_run, 640, 128,
	 "the same with base folios side by side"},
	{"offline_base_single", bench_offline_base_single, 640, 128,
	 "the same with base folios that stand alone"},
	{"writer_wait", bench_writer_wait, 256, 128,
	 "how long a writer waits while its block is taken away"},
	{"reader_wait", bench_reader_wait, 256, 128, "how long a reader does"},
	{"throughput", bench_throughput, 1024, 64, "what a load keeps while blocks leave"},
	{"bystander", bench_bystander, 1024, 64, "mapping ordinary memory while blocks leave"},
	{"pin", bench_pin, 64, 64, "pin and unpin one base page"},
	{"first_touch", bench_first_touch, 640, 128, "fill new memory by touching it"},
	{"fault_in", bench_fault_in, 256, 128, "touch new base pages one by one"},
	{"storm", bench_storm, 1024, 192,
	 "64 threads at the pages of a block that leaves; 10,000 waiters on a folio"},
	{"gate", bench_gate, 256, 128, "take a block away under direct reads that never end"},
	{"compact", bench_compact, 768, 160,
	 "gather the pages that keep pageblocks from being free"},
	{"collapse", bench_collapse, 768, 160, "make huge folios of base ones"},
	{"cost", bench_cost, 384, 128, "metadata of a frame"},
	{"scale", bench_scale, 0, 0, "the same in pools of 1, 4 and 16 GiB"},
	{"swap_random", bench_swap_random, 256, 64,
	 "random reads over twice the memory, beside a mapped file in a memory cgroup"},
	{"aio_seq", bench_aio_seq, 128, 64,
	 "direct reads in order, beside fio; and while every block is taken away"},
	{"aio_rand", bench_aio_rand, 128, 64, "the same with reads of 4 KiB at random"},
	{"snapshot", bench_snapshot, 2560, 96, "take a snapshot, beside fork()"},
	{"snapshot_tenth", bench_snapshot_tenth, 2048, 96,
	 "the same, and write to a random tenth of the pages"},
	{"cow_write", bench_cow_write, 1024, 96, "the first write to a page after a snapshot"},
	{"cow_seq", bench_cow_seq, 1024, 96, "writing all of it in order"},
	{"cow_budget", bench_cow_budget, 1024, 192,
	 "host mappings under random writes and ten snapshots"},
	{"sim_rate", bench_sim_rate, 64, 64, "scheduling points a second of the simulator"},
};

#define BENCHES (sizeof(benches) / sizeof(benches[0]))
#define RUNS_DEFAULT 5

/* ---- What benches call ---------------------------------------------------------------------- */

struct bench_result *bench_result(struct bench_env *env, const char *name, const char *unit,
				  enum bench_better better, const char *peer)
{
	struct bench_result *res = &env->result[env->results];

	if (env->results == BENCH_RESULTS_MAX)
		abort(); /* raise the limit */
	env->results++;
	res->name = name;
	res->unit = unit;
	res->better = better;
	res->peer = peer;
	return res;
}

void bench_add(struct bench_result *res, double value, double peer)
{
	if (res->n == BENCH_RUNS_MAX)
		abort();
	res->sample[res->n] = value;
	res->peer_sample[res->n++] = peer;
}

void bench_extra(struct bench_result *res, const char *key, double value)
{
	if (res->extras == BENCH_EXTRAS_MAX)
		abort();
	res->extra[res->extras].key = key;
	res->extra[res->extras++].value = value;
}

void bench_note(struct bench_result *res, const char *fmt, ...)
{
	size_t at = strlen(res->note);
	va_list ap;

	if (at && at < sizeof(res->note) - 2) {
		strcpy(res->note + at, "; ");
		at += 2;
	}
	va_start(ap, fmt);
	vsnprintf(res->note + at, sizeof(res->note) - at, fmt, ap);
	va_end(ap);
}

void bench_skip(struct bench_env *env, const char *name, const char *fmt, ...)
{
	va_list ap;

	if (env->skips == BENCH_RESULTS_MAX)
		abort();
	env->skip[env->skips].name = name;
	va_start(ap, fmt);
	vsnprintf(env->skip[env->skips].why, sizeof(env->skip[0].why), fmt, ap);
	va_end(ap);
	env->skips++;
}

int bench_fail(const struct bench_env *env, const char *what, int err)
{
	out_error("%s: %s: %s", env->bench, what, vac_strerror(err));
	return -1;
}

void bench_run_begins(const struct bench_env *env, const char *name, int run)
{
	if (run < 0)
		out_progress("%s: warming up", name);
	else
		out_progress("%s: run %d of %u", name, run + 1, env->runs);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void sorted(const double *v, unsigned n, double *out)
{
	memcpy(out, v, n * sizeof(*v));
	qsort(out, n, sizeof(*v), compare);
}

double bench_median(const double *v, unsigned n)
{
	double s[BENCH_RUNS_MAX];

	if (n == 0)
		return 0;
	sorted(v, n, s);
	return n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
}

double bench_ratio(enum bench_better better, double value, double peer)
{
	double above = better == BENCH_MORE ? value : peer;
	double below = better == BENCH_MORE ? peer : value;

	return below > 0 ? above / below : 0;
}

/* ---- Results -------------------------------------------------------------------------------- */

static double result_value(const struct bench_result *res)
{
	return bench_median(res->sample, res->n);
}

static double result_peer(const struct bench_result *res)
{
	return bench_median(res->peer_sample, res->n);
}

static double result_ratio(const struct bench_result *res)
{
	return bench_ratio(res->better, result_value(res), result_peer(res));
}

static json_t *samples_json(const double *v, unsigned n)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(a, json_real(v[i]));
	return a;
}

static json_t *result_json(const struct bench_result *res)
{
	json_t *j = json_object(), *extra;

	json_object_set_new(j, "name", json_string(res->name));
	json_object_set_new(j, "unit", json_string(res->unit));
	json_object_set_new(j, "value", json_real(result_value(res)));
	json_object_set_new(j, "peer", json_string(res->peer));
	json_object_set_new(j, "peer_value", json_real(result_peer(res)));
	json_object_set_new(j, "ratio", json_real(result_ratio(res)));
	json_object_set_new(j, "samples", samples_json(res->sample, res->n));
	json_object_set_new(j, "peer_samples", samples_json(res->peer_sample, res->n));
	if (res->extras) {
		extra = json_object();
		for (unsigned i = 0; i < res->extras; i++)
			json_object_set_new(extra, res->extra[i].key,
					    json_real(res->extra[i].value));
		json_object_set_new(j, "extra", extra);
	}
	if (res->note[0])
		json_object_set_new(j, "note", json_string(res->note));
	return j;
}

static int print_json(const struct bench_env *env)
{
	json_t *j = json_object(), *results = json_array(), *skips = json_array();

	for (unsigned i = 0; i < env->results; i++)
		json_array_append_new(results, result_json(&env->result[i]));
	for (unsigned i = 0; i < env->skips; i++) {
		json_t *s = json_object();

		json_object_set_new(s, "name", json_string(env->skip[i].name));
		json_object_set_new(s, "reason", json_string(env->skip[i].why));
		json_array_append_new(skips, s);
	}
	json_object_set_new(j, "machine", machine_json());
	json_object_set_new(j, "guard", json_string(guard_name(env->guard)));
	json_object_set_new(j, "scale", json_string(env->tiny ? "tiny" : "full"));
	json_object_set_new(j, "runs", json_integer(env->runs));
	json_object_set_new(j, "seed", json_integer((json_int_t)BENCH_SEED));
	json_object_set_new(j, "results", results);
	json_object_set_new(j, "skipped", skips);
	return out_json(j);
}

/* Three significant digits, as a measurement deserves; counts as they are. */
static void number(char *buf, size_t bytes, double v)
{
	double below = v < 0 ? -v : v;

	if (below < 1e15 && v == (double)(long long)v)
		snprintf(buf, bytes, "%lld", (long long)v);
	else if (below < 0.01)
		snprintf(buf, bytes, "%.2g", v);
	else
		snprintf(buf, bytes, "%.*f", below < 1 ? 3 : below < 10 ? 2 : below < 100, v);
}

static void print_extras(const struct bench_result *res)
{
	for (unsigned i = 0; i < res->extras; i++) {
		char v[48];

		number(v, sizeof(v), res->extra[i].value);
		printf("%s%s %s", i ? ", " : "", res->extra[i].key, v);
	}
}

static int print_table(const struct bench_env *env)
{
	static const struct out_column cols[] = {{"NAME", 0},    {"VALUE", 1},  {"PEER", 1},
						 {"UNIT", 0},    {"RATIO", 1},  {"LOWEST", 1},
						 {"HIGHEST", 1}, {"PEER IS", 0}};
	struct out_table *tb = out_table_new(cols, sizeof(cols) / sizeof(cols[0]));
	double s[BENCH_RUNS_MAX];
	char buf[48];
	int err;

	for (unsigned i = 0; i < env->results; i++) {
		const struct bench_result *res = &env->result[i];

		out_table_row(tb);
		out_table_cell(tb, "%s", res->name);
		number(buf, sizeof(buf), result_value(res));
		out_table_cell(tb, "%s", buf);
		number(buf, sizeof(buf), result_peer(res));
		out_table_cell(tb, "%s", buf);
		out_table_cell(tb, "%s", res->unit);
		number(buf, sizeof(buf), result_ratio(res));
		out_table_cell(tb, "%s", buf);
		sorted(res->sample, res->n, s);
		number(buf, sizeof(buf), s[0]);
		out_table_cell(tb, "%s", buf);
		number(buf, sizeof(buf), s[res->n - 1]);
		out_table_cell(tb, "%s", buf);
		out_table_cell(tb, "%s", res->peer);
	}
	err = out_table_print(tb);
	if (err)
		return err;
	printf("\nMedians of %u runs, and the lowest and highest; a ratio above 1 means that vacate is "
	       "better.\n\n",
	       env->runs);
	for (unsigned i = 0; i < env->results; i++) {
		const struct bench_result *res = &env->result[i];

		if (!res->extras && !res->note[0])
			continue;
		printf("%s: ", res->name);
		print_extras(res);
		printf("%s%s\n", res->extras && res->note[0] ? "; " : "", res->note);
	}
	for (unsigned i = 0; i < env->skips; i++)
		printf("%s: skipped: %s\n", env->skip[i].name, env->skip[i].why);
	return 0;
}

/* ---- The command line ----------------------------------------------------------------------- */

static const struct opt_ctx ctx = {"bench"};

static void usage(void)
{
	puts("Usage: vacate bench [OPTIONS] [NAME...]\n"
	     "\n"
	     "Measure, each figure beside its peer in the same run. Without a name: everything.\n"
	     "\n"
	     "Options:\n"
	     "      --json           print JSON, with the machine and all samples\n"
	     "      --runs N         measure each figure N times, 1 to 100, and give the median; "
	     "default 5\n"
	     "      --guard GUARD    auto (default), sigsegv or userfaultfd, for all pools\n"
	     "      --scale SCALE    full (default), or tiny: only to see that it works\n"
	     "      --list           print the names and what they measure\n"
	     "  -h, --help           this text");
}

static int list(void)
{
	static const struct out_column cols[] = {{"NAME", 0}, {"WHAT", 0}};
	struct out_table *tb = out_table_new(cols, 2);

	for (size_t i = 0; i < BENCHES; i++) {
		out_table_row(tb);
		out_table_cell(tb, "%s", benches[i].name);
		out_table_cell(tb, "%s", benches[i].what);
	}
	if (!out_table_print(tb))
		return CMD_OK;
	out_error("out of memory");
	return CMD_ERROR;
}

static int unknown(const char *name)
{
	char names[512];
	size_t at = 0;

	names[0] = '\0';
	for (size_t i = 0; i < BENCHES && at < sizeof(names); i++)
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? ", " : "",
				       benches[i].name);
	return opt_error(&ctx, "there is no measurement '%s'; there are: %s", name, names);
}

static bool has_room(struct bench_env *env, const struct bench *b)
{
	uint64_t need = (env->tiny ? b->tiny_mib : b->mib) * MIB, have = host_available();

	if (have >= need)
		return true;
	bench_skip(env, b->name, "it needs %llu MiB of memory, %llu are available",
		   (unsigned long long)(need / MIB), (unsigned long long)(have / MIB));
	return false;
}

static int run_all(struct bench_env *env, const bool *wanted, bool json)
{
	bool failed = false;
	int err;

	for (size_t i = 0; i < BENCHES; i++) {
		unsigned before = env->results;

		if (!wanted[i] || !has_room(env, &benches[i]))
			continue;
		env->bench = benches[i].name;
		if (benches[i].run(env) == 0)
			continue;
		/* The others have taken minutes, and are still good. */
		failed = true;
		memset(&env->result[before], 0, (env->results - before) * sizeof(env->result[0]));
		env->results = before;
		bench_skip(env, benches[i].name, "it failed: see the messages");
	}
	out_progress_end();
	err = json ? print_json(env) : print_table(env);
	if (!err)
		return !failed ? CMD_OK : env->results ? CMD_PARTLY : CMD_ERROR;
	if (err != -EIO) /* main() tells of a failed write */
		out_error("%s", vac_strerror(err));
	return CMD_ERROR;
}

enum { OPT_JSON = 256, OPT_RUNS, OPT_GUARD, OPT_SCALE, OPT_LIST };

int cmd_bench(int argc, char **argv)
{
	static const struct option longopts[] = {
		{"json", no_argument, NULL, OPT_JSON},
		{"runs", required_argument, NULL, OPT_RUNS},
		{"guard", required_argument, NULL, OPT_GUARD},
		{"scale", required_argument, NULL, OPT_SCALE},
		{"list", no_argument, NULL, OPT_LIST},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	bool json = false, any = false, wanted[BENCHES] = {false};
	struct bench_env *env;
	uint64_t runs = RUNS_DEFAULT;
	enum vac_guard guard = VAC_GUARD_AUTO;
	bool tiny = false;
	int c, rc;

	out_set_prefix("vacate bench");
	opterr = 0;
	optind = 0;
	while ((c = getopt_long(argc, argv, ":h", longopts, NULL)) != -1) {
		switch (c) {
		case OPT_JSON: json = true; break;
		case OPT_RUNS:
			if (opt_number(&ctx, "--runs", optarg, 1, BENCH_RUNS_MAX, &runs) < 0)
				return CMD_USAGE;
			break;
		case OPT_GUARD:
			if (guard_from_name(optarg, &guard) < 0)
				return opt_error(
					&ctx, "--guard is auto, sigsegv or userfaultfd, not '%s'",
					optarg);
			break;
		case OPT_SCALE:
			tiny = !strcmp(optarg, "tiny");
			if (!tiny && strcmp(optarg, "full"))
				return opt_error(&ctx, "--scale is tiny or full, not '%s'", optarg);
			break;
		case OPT_LIST: return list();
		case 'h': usage(); return CMD_OK;
		default: return opt_bad(&ctx, c, argv);
		}
	}
	for (; optind < argc; optind++) {
		size_t i = 0;

		while (i < BENCHES && strcmp(argv[optind], benches[i].name))
			i++;
		if (i == BENCHES)
			return unknown(argv[optind]);
		wanted[i] = any = true;
	}
	for (size_t i = 0; i < BENCHES; i++)
		wanted[i] |= !any;
	env = calloc(1, sizeof(*env));
	if (!env) {
		out_error("out of memory");
		return CMD_ERROR;
	}
	env->runs = (unsigned)runs;
	env->tiny = tiny;
	env->guard = guard;
	rc = run_all(env, wanted, json);
	free(env);
	return rc;
}

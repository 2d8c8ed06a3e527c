/* SPDX-License-Identifier: MIT */
/* The machine that was measured. See machine.h. */
#include "bench/machine.h"

#include <gnu/libc-version.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench/host.h"
#include "vacate.h"

/* A word of a machine's description, and "" where it is not to be had. */
#define WORD_MAX 160

/* The first line of a small file. */
static void read_line(const char *path, char *buf, size_t bytes)
{
	FILE *f = fopen(path, "re");

	buf[0] = '\0';
	if (!f)
		return;
	if (!fgets(buf, (int)bytes, f))
		buf[0] = '\0';
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
}

/* "always [madvise] never": what stands in brackets. */
static json_t *chosen(const char *path)
{
	char line[WORD_MAX], *from, *to;

	read_line(path, line, sizeof(line));
	from = strchr(line, '[');
	to = from ? strchr(from, ']') : NULL;
	if (!to)
		return json_string(line);
	*to = '\0';
	return json_string(from + 1);
}

static void cpu_model(char *buf, size_t bytes)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(buf, bytes, "unknown");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) || !colon)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(buf, bytes, "%s", colon + 2);
		break;
	}
	fclose(f);
}

static json_t *cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return json_integer(CPU_COUNT(&set));
	return json_integer(sysconf(_SC_NPROCESSORS_ONLN));
}

static json_t *load_average(void)
{
	double l = 0;

	getloadavg(&l, 1);
	return json_real(l);
}

static const char *guard(void)
{
	struct vac_pool_stats st = VAC_INIT(struct vac_pool_stats);
	struct vac_pool *pool;

	if (vac_pool_open(NULL, &pool) < 0)
		return "none";
	vac_pool_stats(pool, &st);
	vac_pool_close(pool);
	return st.guard == VAC_GUARD_USERFAULTFD ? "userfaultfd" : "sigsegv";
}

static const char *build(void)
{
#if defined(VAC_ASAN)
	return "asan";
#elif defined(VAC_TSAN)
	return "tsan";
#elif defined(__OPTIMIZE__)
	return "optimised";
#else
	return "not optimised";
#endif
}

json_t *machine_json(void)
{
	json_t *j = json_object(), *thp = json_object();
	char word[WORD_MAX];
	struct utsname u;

	if (uname(&u) == 0) {
		json_object_set_new(j, "kernel", json_string(u.release));
		json_object_set_new(j, "arch", json_string(u.machine));
	}
	json_object_set_new(j, "cpus", cpus());
	cpu_model(word, sizeof(word));
	json_object_set_new(j, "cpu", json_string(word));
	json_object_set_new(j, "memory_bytes",
			    json_integer((json_int_t)host_kib_line("/proc/meminfo", "MemTotal")));
	json_object_set_new(j, "load", load_average());
	json_object_set_new(thp, "enabled", chosen("/sys/kernel/mm/transparent_hugepage/enabled"));
	json_object_set_new(thp, "defrag", chosen("/sys/kernel/mm/transparent_hugepage/defrag"));
	json_object_set_new(thp, "shmem_enabled",
			    chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
	json_object_set_new(j, "thp", thp);
	read_line("/proc/sys/vm/max_map_count", word, sizeof(word));
	json_object_set_new(j, "max_map_count", json_integer(atoll(word)));
	json_object_set_new(j, "guard", json_string(guard()));
	json_object_set_new(j, "libc", json_sprintf("glibc %s", gnu_get_libc_version()));
#if defined(__clang__)
	json_object_set_new(j, "compiler", json_string("clang " __clang_version__));
#else
	json_object_set_new(j, "compiler", json_string("gcc " __VERSION__));
#endif
	json_object_set_new(j, "build", json_string(build()));
	json_object_set_new(j, "version", json_string(vac_version()));
	return j;
}

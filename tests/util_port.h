/* SPDX-License-Identifier: MIT */
/* What the tests of port/linux/ share. */
#ifndef VAC_TESTS_UTIL_PORT_H
#define VAC_TESTS_UTIL_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE ((size_t)4096)
#define PB ((size_t)2 << 20)

/* A sanitizer makes us slow: run loops of n / 10 then. */
unsigned scaled(unsigned n);

/* The guard that the tests are run with: VAC_TEST_GUARD=sigsegv (if not given) or userfaultfd. */
int t_guard(void);
/* End the program as skipped where the host does not allow that guard. */
void t_guard_or_skip(void);

uint64_t rnd(uint64_t *state); /* xorshift; state must not be 0 */

void sleep_ms(unsigned ms);

/* Lines of /proc/self/maps between two addresses; how many of them, or all of the process's, have
 * `what` in them. Allocates nothing and takes no lock, so a child of fork() may call it. */
unsigned maps_between(const void *lo, const void *hi);
unsigned maps_with(const char *what);

/*
 * Run a case in a process of its own, fresh from exec (a child of fork() is no place for a pool).
 * Answers the wait status; what it wrote to stderr is in err. A test program's main() begins with
 * case_main(), which runs the case and does not return if that is what the process was started for.
 */
struct proc_case {
	const char *name;
	void (*fn)(void);
};
void case_main(int argc, char **argv, const struct proc_case *cases, unsigned n);
int case_run(const char *name, char *err, size_t bytes);

/* The same from outside: start it, let `each` look at it (NULL: nothing), wait for the end. */
int case_start(const char *name, int *err_fd, bool traced);

/* For cases: unlike cmocka's, these end the process. */
#define MUST(x)                                            \
	do {                                               \
		if (!(x))                                  \
			must_fail(__FILE__, __LINE__, #x); \
	} while (0)
_Noreturn void must_fail(const char *file, int line, const char *what);

/* A call of the engine's that answers 0, or a negative errno, which is what one wants to know then. */
#define MUST_OK(call)                                                    \
	do {                                                             \
		int must_ok = (call);                                    \
		if (must_ok != 0)                                        \
			must_answer(__FILE__, __LINE__, #call, must_ok); \
	} while (0)
_Noreturn void must_answer(const char *file, int line, const char *what, int answer);

#endif /* VAC_TESTS_UTIL_PORT_H */

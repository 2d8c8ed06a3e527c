/* SPDX-License-Identifier: MIT */
/*
 * Names of code addresses of a process: function, source file and line, by libdw. Without
 * debugging information there is still the nearest symbol, without symbols the module.
 *
 * One thread at a time may use a resolver. Strings stay valid until it is closed.
 */
#ifndef CLI_SYMBOL_H
#define CLI_SYMBOL_H

#include <stdint.h>
#include <sys/types.h>

struct symbols;

struct symbol {
	const char *function; /* NULL: unknown */
	uintptr_t offset;     /* of the address from the function's start */
	const char *module;   /* path of the program or shared object, NULL: unknown */
	const char *file;     /* NULL: unknown */
	int line;
};

/* NULL where libdw cannot read this process's mappings: symbols_find() then knows nothing. */
struct symbols *symbols_open(void);
/* Of another process, from its /proc/PID/maps and the files that those name. NULL also where we may
 * not read them, or where pid is 0. */
struct symbols *symbols_open_pid(pid_t pid);
void symbols_close(struct symbols *s);

/* Resolve a return address: the call before it is meant. s may be NULL. */
void symbols_find(struct symbols *s, uintptr_t return_addr, struct symbol *out);

/* "function+0x12 (file.c:34)", or as much as is known. Answers buf. */
const char *symbol_text(const struct symbol *sym, uintptr_t return_addr, char *buf,
			unsigned long len);

#endif

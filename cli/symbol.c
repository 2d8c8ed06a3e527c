/* SPDX-License-Identifier: MIT */
/* Names of code addresses of a process, by libdw. See symbol.h. */
#include "symbol.h"

#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct symbols {
	Dwfl *dwfl;
	Dwfl_Callbacks callbacks;
};

struct symbols *symbols_open(void)
{
	return symbols_open_pid(getpid());
}

struct symbols *symbols_open_pid(pid_t pid)
{
	struct symbols *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->callbacks.find_elf = dwfl_linux_proc_find_elf;
	s->callbacks.find_debuginfo = dwfl_standard_find_debuginfo;
	s->dwfl = dwfl_begin(&s->callbacks);
	if (!s->dwfl)
		goto fail;
	if (dwfl_linux_proc_report(s->dwfl, pid) || dwfl_report_end(s->dwfl, NULL, NULL))
		goto fail;
	return s;
fail:
	symbols_close(s);
	return NULL;
}

void symbols_close(struct symbols *s)
{
	if (!s)
		return;
	if (s->dwfl)
		dwfl_end(s->dwfl);
	free(s);
}

void symbols_find(struct symbols *s, uintptr_t return_addr, struct symbol *out)
{
	Dwfl_Module *mod;
	Dwfl_Line *line;
	GElf_Off offset = 0;
	GElf_Sym elf_sym;
	/* The return address may already belong to the next line, or, after a call that does not
	 * return, to the next function. */
	uintptr_t addr = return_addr - 1;

	memset(out, 0, sizeof(*out));
	if (!s)
		return;
	mod = dwfl_addrmodule(s->dwfl, addr);
	if (!mod)
		return;
	out->module = dwfl_module_info(mod, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
	out->function = dwfl_module_addrinfo(mod, addr, &offset, &elf_sym, NULL, NULL, NULL);
	out->offset = (uintptr_t)offset + 1;
	line = dwfl_module_getsrc(mod, addr);
	if (line)
		out->file = dwfl_lineinfo(line, NULL, &out->line, NULL, NULL, NULL);
}

const char *symbol_text(const struct symbol *sym, uintptr_t return_addr, char *buf,
			unsigned long len)
{
	const char *module = sym->module ? strrchr(sym->module, '/') : NULL;

	module = module ? module + 1 : sym->module;
	if (sym->function && sym->file)
		snprintf(buf, len, "%s (%s:%d)", sym->function, sym->file, sym->line);
	else if (sym->function)
		snprintf(buf, len, "%s+0x%lx (%s)", sym->function, (unsigned long)sym->offset,
			 module ? module : "?");
	else
		snprintf(buf, len, "0x%lx (%s)", (unsigned long)return_addr, module ? module : "?");
	return buf;
}

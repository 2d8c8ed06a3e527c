#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# runtests: timeout=600
#
# Under valgrind's memcheck a pool works, with the option and the sizes that docs/DEBUGGING.md names;
# what memcheck says is about the program and not about the pool.
. tests/crash_target.sh
command -v valgrind >/dev/null || skip 'valgrind is not installed'
build_target
valgrind --version
valgrind -q /bin/true >"$tmp/log" 2>&1 || { cat "$tmp/log"; skip 'valgrind runs no program here'; }

# Valgrind runs one thread at a time and by default gives the turn back to the one that just had it: a
# thread that waits for another to let a lock go may then never get it. --fair-sched takes them in order.
check() { valgrind --fair-sched=yes --vex-iropt-register-updates=allregs-at-mem-access --error-exitcode=9 "$@"; }

# A pool with a space of 1 GiB and addresses for 4 GiB of memory: not one complaint. The program ends with the
# pool open, and its threads running, whose stacks' descriptors memcheck calls possibly lost.
check --leak-check=full --errors-for-leak-kinds=definite,indirect "$tmp/target" exit 16 1 4 >"$tmp/out" 2>"$tmp/log" ||
	{ rc=$?; cat "$tmp/log"; fail "memcheck: exit status $rc"; }
[ -n "$(value ready)" ] || fail 'the program did not get far'
if echo '#include <valgrind/memcheck.h>' | ${CC:-gcc} -E - >/dev/null 2>&1; then
	grep -q 'ERROR SUMMARY: 0 errors' "$tmp/log" || { cat "$tmp/log"; fail 'memcheck complains'; }
fi

# What is the program's fault is found: a jump by a value that came from nowhere, in pool memory too.
cat >"$tmp/bad.c" <<'END'
#include <stdlib.h>
#include <string.h>
#include "vacate.h"
int main(void)
{
	struct vac_pool_opts po = VAC_INIT(struct vac_pool_opts);
	struct vac_space_opts so = VAC_INIT(struct vac_space_opts);
	struct vac_pool *pool;
	struct vac_space *space;
	void *mem;
	char *heap = malloc(4096);

	po.max_bytes = po.block_bytes = 16 << 20;
	so.bytes = 16 << 20;
	if (vac_pool_open(&po, &pool) || vac_block_online(pool, vac_block_add(pool, NULL), 0) ||
	    vac_space_create(pool, &so, &space) || vac_map(space, NULL, 1 << 20, 3, 0, &mem))
		return 2;
	memcpy(mem, heap, 4096);
	free(heap);
	if (((volatile char *)mem)[99] == 7)
		return 3;
	return 0;
}
END
${CC:-gcc} -g -O1 -Iinclude -o "$tmp/bad" "$tmp/bad.c" "$B/libvacate.a" -pthread
rc=0
check "$tmp/bad" >"$tmp/log" 2>&1 || rc=$?
[ $rc -eq 9 ] || { cat "$tmp/log"; fail "an uninitialised value in pool memory is not found ($rc)"; }
grep -q uninitialised "$tmp/log" || { cat "$tmp/log"; fail 'another complaint'; }

# Blocks leave under threads that write, read, map and unmap, and every byte is right.
rc=0
check "$B/vacate" stress --pool 64M --threads 4 --workload verify,records,atomics,map --duration 3s \
	--timeout 50s --seed 1 >"$tmp/log" 2>&1 || rc=$?
[ $rc -eq 0 ] || { tail -n 40 "$tmp/log"; fail "stress: exit status $rc"; }
grep '^verified: .* 0 errors' "$tmp/log" || { tail -n 40 "$tmp/log"; fail 'stress: no verdict'; }

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# runtests: timeout=600
#
# Machines that forbid things: the main tests, the demonstration and a loaded pool, as in a container
# (no userfaultfd, no io_uring, few capabilities), without io_uring, without huge pages, without /proc,
# with as many mappings as the kernel's default allows and with many more, and where memory is only
# promised as far as there is some. Everything works, or what is lost is said.
set -u
B=${BUILD:-build}
VACATE=${VACATE:-$B/vacate}
confine=$B/tests/confine
[ -x "$confine" ] || { echo "SKIP: forced: $confine is not built (libcmocka-dev is missing)"; exit 77; }
tmp=$(mktemp -d) || exit 1
restore=()
cleanup() {
	local i
	for ((i = 0; i < ${#restore[@]}; i += 2)); do
		echo "${restore[i + 1]}" >"${restore[i]}"
	done
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
failed=0
ok() { echo "ok: $*"; }
bad() {
	echo "FAILED: $*"
	grep -E '(ERROR|LINE) +\]|failed:' "$tmp/out" | sed 's/^/    /'
	sed 's/^/    /' "$tmp/out" | tail -n 40
	failed=1
}

# on NAME WHAT COMMAND...: a command on such a machine passes. What it had to do without is printed.
on() {
	local name=$1 what=$2 rc
	shift 2
	"$confine" "$what" "$@" >"$tmp/out" 2>&1 </dev/null
	rc=$?
	if [ $rc -eq 77 ] && grep -q '^SKIP: forced: cannot confine' "$tmp/out"; then
		echo "left out: $name: $(sed -n 's/^SKIP: forced: //p' "$tmp/out")"
	elif [ $rc -ne 0 ]; then
		bad "$name: exit status $rc"
	else
		ok "$name"
		grep -hE '^note: |SKIP: ' "$tmp/out" | sort -u | sed 's/^/    lost: /'
	fi
}

export VAC_TEST_SCALE=small
for what in container no-uffd no-io-uring no-huge; do
	for t in pool space pin offline io syscalls swap swapfile; do
		on "$what: test_$t" "$what" "$B/tests/test_$t"
	done
done
# Swap has two ways to have several transfers under way, and a third without either.
on "no-io-uring,no-aio: test_swap" no-io-uring,no-aio "$B/tests/test_swap"
for what in container no-uffd no-io-uring no-huge no-proc container,no-io-uring,no-huge; do
	on "$what: stress" "$what" "$VACATE" stress --pool 96M --block 8M --duration 2s
done
# The loss is told in so many words.
"$confine" no-uffd "$VACATE" stress --pool 96M --block 8M --duration 1s >"$tmp/out" 2>&1
[ $? -eq 77 ] || grep -q 'note: guard sigsegv' "$tmp/out" || bad 'nothing is said of the guard'
"$confine" no-huge "$VACATE" stress --pool 96M --block 8M --duration 1s >"$tmp/out" 2>&1
[ $? -eq 77 ] || grep -q 'note: the host gives no 2 MiB page' "$tmp/out" ||
	bad 'nothing is said of huge pages'
"$confine" no-io-uring "$VACATE" stress --pool 96M --block 8M --duration 1s --workload dio \
	>"$tmp/out" 2>&1
grep -q 'pread threads' "$tmp/out" || bad 'nothing is said of io_uring'

# set FILE VALUE: a limit of the whole machine, put back in the end.
set_limit() {
	local was
	was=$(cat "$1" 2>/dev/null) || return 1
	[ -w "$1" ] || return 1
	restore+=("$1" "$was")
	echo "$2" 2>/dev/null >"$1"
}
for n in 65530 1000000; do
	if set_limit /proc/sys/vm/max_map_count $n; then
		if "$VACATE" stress --pool 96M --block 8M --duration 2s >"$tmp/out" 2>&1; then
			ok "vm.max_map_count=$n"
		else
			bad "vm.max_map_count=$n"
		fi
	else
		echo "left out: vm.max_map_count=$n: not allowed to set it"
	fi
done
# Only where the machine has promised little enough for it to go on.
limit=$(sed -n 's/^CommitLimit: *\([0-9]*\) kB/\1/p' /proc/meminfo)
promised=$(sed -n 's/^Committed_AS: *\([0-9]*\) kB/\1/p' /proc/meminfo)
if [ "${limit:-0}" -gt $((${promised:-0} + 4194304)) ] &&
	set_limit /proc/sys/vm/overcommit_memory 2; then
	if "$VACATE" stress --pool 96M --block 8M --duration 2s >"$tmp/out" 2>&1 &&
		grep -q 'note: guard sigsegv' "$tmp/out"; then
		ok 'vm.overcommit_memory=2'
	else
		bad 'vm.overcommit_memory=2'
	fi
else
	echo 'left out: vm.overcommit_memory=2: not allowed, or too much is promised already'
fi
exit $failed

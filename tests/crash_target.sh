# SPDX-License-Identifier: MIT
# What test_core.sh, test_gdb.sh and test_valgrind.sh share; they source it (it is no test itself).
set -eu
B=${BUILD:-build}
tmp=$(mktemp -d)
child=
cleanup() {
	[ -z "$child" ] || kill -KILL "$child" 2>/dev/null || :
	rm -rf "$tmp"
}
trap cleanup EXIT

fail() {
	echo "FAIL: $*"
	exit 1
}
skip() {
	echo "SKIP: forced: $*"
	exit 77
}

# The program to look at, with all its variables where a debugger finds them.
build_target() {
	${CC:-gcc} -std=c11 -D_GNU_SOURCE -g -O0 -Iinclude -rdynamic -o "$tmp/target" \
		tests/crash_target.c "$B/libvacate.a" -pthread
}

# value KEY: of what the program has printed.
value() { sed -n "s/^$1=//p" "$tmp/out"; }

# start ARGUMENTS...: run it until it pauses; sets child.
start() {
	"$tmp/target" pause "$@" >"$tmp/out" 2>&1 </dev/null &
	child=$!
	for _ in $(seq 600); do
		[ -z "$(value ready)" ] || return 0
		kill -0 "$child" 2>/dev/null || break
		sleep 0.1
	done
	cat "$tmp/out"
	fail 'the program did not get ready'
}

stop() {
	kill -KILL "$child"
	wait "$child" 2>/dev/null || :
	child=
}

# In $tmp: die with a core file if the kernel writes one where we can find it. Sets core, or why not.
make_core() {
	local pattern
	core='' why=''
	pattern=$(cat /proc/sys/kernel/core_pattern)
	case $pattern in
	'|'* | /*) why="cores go elsewhere: kernel.core_pattern is $pattern" ;;
	esac
	[ -z "$why" ] || return 0
	(
		cd "$tmp" || exit 1
		ulimit -c unlimited 2>/dev/null || :
		exec ./target "$@"
	) >"$tmp/out" 2>&1 </dev/null || :
	set -- "$tmp"/core*
	if [ -s "$1" ]; then
		core=$1
	else
		why='the kernel wrote no core (its size is limited, or the pattern names another place)'
	fi
}

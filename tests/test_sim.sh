#!/usr/bin/env bash
# runtests: timeout=900
# SPDX-License-Identifier: MIT
#
# The simulator: 100,000 schedules find nothing; the regressions, seeds that once found something,
# find nothing any more; a schedule that is replayed goes the same way; and gcc and clang make the
# same turns of a seed.
set -u
V=${VACATE:-build/vacate}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
fails=0
check() { # what, command...
	local what=$1
	shift
	if "$@" >"$dir/log" 2>&1; then
		echo "ok   $what"
	else
		echo "FAIL $what (status $?)"
		tail -n 40 "$dir/log"
		fails=$((fails + 1))
	fi
}
trace() { "$@" | sed -n 's/.*trace \([0-9a-f]*\):.*/\1/p'; }
same() {
	local a b
	a=$(trace "$1" sim --schedules 600)
	b=$(trace "$2" --schedules 600)
	echo "traces: $a, $b"
	[ -n "$a" ] && [ "$a" = "$b" ]
}

# In two halves, as most machines have two processors.
halves() {
	local other r=0
	"$V" sim --seed 50001 --schedules 50000 --save "$dir" >"$dir/other" 2>&1 &
	other=$!
	"$V" sim --schedules 50000 --save "$dir" || r=$?
	if ! wait $other; then
		cat "$dir/other"
		r=1
	fi
	return $r
}
check "100000 schedules" halves
# Each of these found a mistake in the code of its day: see docs/SIMULATOR.md.
while read -r s w faults; do
	check "seed $s, $w" "$V" sim --seed "$s" --schedules 1 --workload "$w" --faults "$faults" --save "$dir"
done <<-'END'
	6 foreign off
	35 mix on
	93 pin on
	107 pin on
	2502 map on
	102090 pin off
	104065 map off
	105779 pin on
	111816 dio on
	122597 foreign on
	201005 mix on
	1014114 map on
	10010532 mix off
	1013658 foreign off
	END
for w in mix migrate pin map refault dio foreign snapshot compact swap longterm aio; do
	check "workload $w" "$V" sim --workload $w --seed 500000 --schedules 500 --save "$dir"
done
again() {
	[ "$(trace "$V" sim --seed 77 --schedules 5)" = "$(trace "$V" sim --seed 77 --schedules 5)" ]
}
check "the same seed twice" again
other=clang
[ "${CC:-gcc}" = clang ] && other=gcc
if command -v $other >/dev/null; then
	check "build with $other" make -s CC=$other BUILD="$dir/b" "$dir/b/sim.bin"
	check "the same turns by gcc and clang" same "$V" "$dir/b/sim.bin"
else
	echo "SKIP: forced: $other is not installed"
fi
refused() { "$V" sim "$@"; [ $? -eq 2 ]; }
check "an unknown workload" refused --workload nothing
check "a number that is none" refused --schedules many
check "one word too many" refused surplus
noreplay() { "$V" sim --replay "$dir/none"; [ $? -eq 1 ]; }
check "a replay file that is not there" noreplay
[ $fails -eq 0 ]

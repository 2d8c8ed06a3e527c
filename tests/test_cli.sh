#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The command as its user meets it: a small demo and a small stress succeed and print what they
# promise; wrong usage is named, answered with status 2, and leaves nothing behind.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
trap 'rm -rf "$dir"' EXIT
has() { # keys that the JSON in $dir/out must have
	local k
	for k in "$@"; do
		grep -q "\"$k\"" "$dir/out" || failed "no \"$k\" in the JSON"
	done
}
want 0 'PASSED: every block has left' "$V" demo --pool 160M --block 16M --passes 1 include src cli
says() { # patterns that the output must have
	local k
	for k in "$@"; do
		grep -qE "$k" "$dir/out" || failed "nothing like '$k' in the output"
	done
}
# Each case has been run and counted; what it finds wrong is an error above.
says '\(2005\): [1-9][0-9]* reads and [0-9]+ writes' \
	'^[1-9][0-9]* direct I/O contexts that idle for ever.* [1-9][0-9]* blocks? left' \
	"^multipathd's [1-9][0-9]* path checkers.*: [1-9][0-9]* sectors read" \
	'^long-term pins: [1-9][0-9]* plain and [1-9][0-9]* strict' \
	'^[1-9][0-9]* backups to the disk of [1-9][0-9]* files that were loaded' \
	'^moved: .* 2 MiB folios'
want 0 '"errors": 0' "$V" stress --pool 96M --block 8M --threads 4 --duration 4s --seed 5 --json
has seed guard duration_s offlines attempted succeeded failed bytes_moved moved_gb_per_s \
	memcpy_gb_per_s verify checked errors writer_wait_us reader_wait_us p50 p99 p999 max \
	host_vmas_max blockers
want 0 '' "$V" stress --pool 64M --block 4M --duration 2s --workload map,dio --base-only
want 0 '' "$V" stress --pool 64M --block 4M --duration 2s --no-huge --guard sigsegv
mkdir "$dir/tmp"
TMPDIR=$dir/tmp want 0 'contexts that idle' "$V" stress --pool 64M --block 4M --duration 3s --check=4 \
	--workload idle,multipathd,longterm,backup
says "multipathd's" 'long-term pins' 'backups to the disk of [1-9][0-9]* files, from snapshots'
rmdir "$dir/tmp" || failed 'files were left behind'
# As the machine allows: it works, or the reason is given.
"$V" stress --pool 64M --block 4M --duration 1s --guard userfaultfd >"$dir/out" 2>&1 </dev/null
case $? in
0) ;;
1) want 1 'userfaultfd' "$V" stress --pool 64M --block 4M --duration 1s --guard userfaultfd ;;
*) want 0 'errors' "$V" stress --pool 64M --block 4M --duration 1s --guard userfaultfd ;;
esac
want 0 'Usage' "$V" --help
want 0 '[0-9]' "$V" --version
want 2 'demo' "$V"
want 2 'nonsense' "$V" nonsense
want 2 'dance' "$V" stress --workload dance
want 2 'foreign' "$V" stress --workload foreign
want 2 '3x' "$V" stress --block 3x
want 2 'not a power of two' "$V" stress --block 3M
want 2 'soon' "$V" stress --duration soon
want 2 'surplus' "$V" stress surplus
want 1 '/does/not/exist' "$V" demo /does/not/exist
want 2 'nosuch' "$V" bench nosuch
if [ -w /dev/full ]; then
	"$V" --help >/dev/full 2>"$dir/err"
	[ $? -eq 1 ] || failed "a full stdout is not noticed"
fi
[ $fails -eq 0 ]

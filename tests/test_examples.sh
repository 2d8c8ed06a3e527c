#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The examples do what they say, with either guard, with io_uring and without; and say so when they cannot.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
B=${BUILD:-build}
E=$B/examples
dir2=$(mktemp -d -p /var/tmp) || exit 1 # on a disk, where there is O_DIRECT
trap 'rm -rf "$dir" "$dir2"' EXIT

want 0 'PASSED' "$E/device_queue"
for text in 'round [0-9]*: block [0-9] has left beneath the device' 'held by "example device queue"' \
	'refused relocation' ' 0 words of them wrong; 0 words of other memory' 'the refusal was reported'; do
	grep -q "$text" "$dir/out" || failed "device_queue does not say '$text': $(cat "$dir/out")"
done
want 2 'usage' "$E/device_queue" 0

# Files of no, one and many bytes, with a piece less than a page at the end.
for bytes in 0 1 4096 131072 3000001; do
	head -c "$bytes" /dev/urandom >"$dir2/from"
	echo 'what was there before, and is longer than some of them' >"$dir2/to"
	want 0 'PASSED: the files are equal' "$E/aio_copy" "$dir2/from" "$dir2/to"
	cmp "$dir2/from" "$dir2/to" || failed "a file of $bytes bytes"
	[ "$bytes" -eq 0 ] || ! grep -q ' [012] times a block' "$dir/out" ||
		failed "not every block has left: $(cat "$dir/out")"
done
want 2 'usage' "$E/aio_copy" "$dir2/from"
want 1 'No such file' "$E/aio_copy" "$dir2/none" "$dir2/to"
[ ! -w /dev/full ] || want 1 'aio_copy: ' "$E/aio_copy" "$dir2/from" /dev/full

# On a machine that forbids things; confining may itself be forbidden, which is status 77.
for what in no-uffd no-io-uring container no-huge; do
	[ -x "$B/tests/confine" ] || break
	for example in device_queue "aio_copy $dir2/from $dir2/to"; do
		# shellcheck disable=SC2086
		"$B/tests/confine" $what "$E"/$example >"$dir/out" 2>&1 </dev/null
		r=$?
		[ $r -eq 77 ] && grep -q '^SKIP: forced: cannot confine' "$dir/out" && continue
		[ $r -eq 0 ] && grep -q PASSED "$dir/out" ||
			failed "$what: $example: status $r: $(cat "$dir/out")"
	done
	cmp "$dir2/from" "$dir2/to" || failed "$what: the copy"
done
[ $fails -eq 0 ]

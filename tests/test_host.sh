#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The host verbs on a machine that was never there (tests/host/make_sysroot): what they print is compared
# byte by byte with tests/host/*.txt and *.json. `tests/test_host.sh --update` writes those anew; look
# at the difference before you commit it. Then what is wrong in a directory, or on the command line.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
trap 'rm -rf "$dir"' EXIT
update=${1-}
sr=$dir/machine
tests/host/make_sysroot "$sr" || exit 1

golden() { # FILE COMMAND...
	local file=tests/host/$1
	shift
	"$@" >"$dir/out" 2>"$dir/err" </dev/null || failed "$*: status $?: $(cat "$dir/err")"
	if [ "$update" = --update ]; then
		cp "$dir/out" "$file"
	elif ! diff -u "$file" "$dir/out"; then
		failed "$*: not as in $file"
	fi
}

# The tree must be the same afterwards: these verbs only read.
before=$(cd "$sr" && find . -printf '%p %s %l %T@\n' | sort | cksum)
golden ls.txt "$V" ls host --sysroot "$sr"
golden ls-all.txt "$V" ls --sysroot "$sr" --all
golden ls.json "$V" ls host --json --sysroot="$sr"
golden why.txt "$V" why --sysroot "$sr" --all host
golden why-33.txt "$V" why --sysroot "$sr" host:33 host:33
golden why.json "$V" why --sysroot "$sr" --json host:32-35 host:41
golden metrics.txt "$V" metrics --sysroot "$sr"
[ "$before" = "$(cd "$sr" && find . -printf '%p %s %l %T@\n' | sort | cksum)" ] ||
	failed 'a verb that reads has changed something'

# Every member is documented.
for key in $(sed -n 's/^ *"\([a-z_]*\)":.*/\1/p' tests/host/ls.json tests/host/why.json | sort -u); do
	grep -q "\`$key\`" docs/HOST.md || failed "docs/HOST.md has nothing of the JSON's '$key'"
done

# All of a node or a device, by the names that offline takes.
same() { # WORDS OTHER-WORDS: the same answer
	"$V" why --sysroot "$sr" "$1" >"$dir/a" && "$V" why --sysroot "$sr" "$2" >"$dir/b" &&
		cmp "$dir/a" "$dir/b" || failed "$1 is not $2"
}
same host:dax0.0 host:42
same host:virtio0 host:41
same host:node0 host:0
same host:node1 host:1-99
want 0 '^0 ' "$V" ls --all --sysroot "$sr" host:node0

# Nothing was walked: who holds is not known, and that is said.
cp -r "$sr" "$dir/blind" && rm "$dir/blind/vacate/walk.json"
sed -i 's/^\([0-9a-f]* [0-9]* [0-9a-f]* [0-9]*\) [0-9]* [0-9]*/\1 - 0/' "$dir/blind/vacate/pages"
golden why-blind.txt "$V" why --sysroot "$dir/blind" host:32-34
want 0 'cannot be told' "$V" ls host --sysroot "$dir/blind"
# Nor were the frames seen.
rm "$dir/blind/vacate/pages"
want 0 'not-known' "$V" why --sysroot "$dir/blind" host:33
want 0 'no vacate/pages' "$V" ls host --sysroot "$dir/blind"
want 1 'no vacate/pages' "$V" metrics --sysroot "$dir/blind"
# No memory elsewhere; a hole; a huge page that is in use and has nowhere to go.
cp -r "$sr" "$dir/full"
sed -i 's/free     200000/free     210/; s/_file 100/_file 0/' "$dir/full/proc/zoneinfo"
sed -i 's/100$/0/' "$dir/full/proc/buddyinfo"
sed -i -e '/^118000/d' -e 's/^120000 1 28000 0 0/120000 1 28000 1 1/' -e '/^140000/d' \
	"$dir/full/vacate/pages"
golden why-full.txt "$V" why --sysroot "$dir/full" host:32 host:36 host:40

# Bad input.
broken() { # TEXT FILE CONTENTS
	rm -rf "$dir/broken" && cp -r "$sr" "$dir/broken"
	printf '%s\n' "$3" >"$dir/broken/$2"
	want 1 "$1" "$V" why --sysroot "$dir/broken" host:32
}
broken 'line 1: not' vacate/pages '100000 5 zz'
broken 'line 2: frames must ascend' vacate/pages '100000 2 400 0 0 0 0 0
100001 1 400 0 0 0 0 0'
broken 'walk.json, line 2' vacate/walk.json '{"version": 1,'
broken 'version' vacate/walk.json '{"version": 2}'
broken 'an entry of "records"' vacate/walk.json '{"version": 1, "records": [{"kind": "dream"}]}'
broken 'an entry of "mappers"' vacate/walk.json '{"version": 1, "mappers": [{"pid": 1, "runs": [[1]]}]}'
broken 'power of two' sys/devices/system/memory/block_size_bytes 7000000
broken 'at most 16 GiB' sys/devices/system/memory/block_size_bytes 10000000000
# Text that is no UTF-8 is still JSON, and a run that is longer than the block costs no more than the block.
printf 'Mov\377able\n' >"$dir/broken/sys/devices/system/memory/memory32/valid_zones"
rm "$dir/broken/sys/devices/system/memory/block_size_bytes"
cp "$sr/sys/devices/system/memory/block_size_bytes" "$dir/broken/sys/devices/system/memory/"
{
	printf '{"version": 1, "walked": true, "mappers": [{"pid": 100, "runs": [[0, 67108864, 0]'
	for _ in $(seq 300); do printf ', [0, 67108864, 0]'; done
	printf ']}]}\n'
} >"$dir/broken/vacate/walk.json"
want 0 '"zone": "Mov?able"' timeout -s KILL 60 "$V" why --json --sysroot "$dir/broken" host:32
want 0 'host:37.*loops' timeout -s KILL 60 "$V" why --sysroot "$dir/broken" host:37
# Links out of it, and files that are none: not followed, not waited for.
rm -rf "$dir/broken" && cp -r "$sr" "$dir/broken"
echo 0::/secret.service >"$dir/secret"
ln -sf "$dir/secret" "$dir/broken/proc/100/cgroup"
rm "$dir/broken/proc/meminfo" && mkfifo "$dir/broken/proc/meminfo"
want 0 'nginx' timeout -s KILL 60 "$V" why --json --sysroot "$dir/broken" host:33
! grep -q secret "$dir/out" || failed 'a link out of the capture was followed'
rm "$dir/broken/vacate/walk.json" && ln -s "$sr/vacate/walk.json" "$dir/broken/vacate/walk.json"
want 0 'not looked for' timeout -s KILL 60 "$V" why --sysroot "$dir/broken" host:33
want 1 'vacate capture' "$V" ls host --sysroot "$dir"
want 1 'vacate capture' "$V" ls host --sysroot "$dir/is/not/there"
# A word that names nothing here is an error; one that could name nothing anywhere is the command line's.
want 1 'no such block' "$V" why --sysroot "$sr" host:31
want 1 'no such block' "$V" why --sysroot "$sr" host:99999999999
want 1 'no such block' "$V" ls --sysroot "$sr" host:31
want 1 "there is no 'x'.*node0" "$V" why --sysroot "$sr" host:x
want 1 'node 7 has no memory blocks' "$V" why --sysroot "$sr" host:node7
want 1 "'node' is no node" "$V" ls --sysroot "$sr" host:node
want 2 'does not name a block.*host:node1' "$V" why --sysroot "$sr" host:
want 2 'does not name a block' "$V" why --sysroot "$sr" host:-1
want 2 'does not name a block' "$V" why --sysroot "$sr" host:3x
want 2 'does not name a block' "$V" why --sysroot "$sr" host:4-3
want 2 'is not of the host' "$V" why --sysroot "$sr" host:32 1234:3
want 2 'is not of the host' "$V" ls host 1234
want 2 'sysroot' "$V" ls host --sysroot
want 2 'whole host' "$V" metrics host:3
want 2 'which directory' "$V" capture
want 2 'too much' "$V" capture a b
want 0 'Usage: vacate why .*host' "$V" why host --help
want 0 'Usage: vacate ls .*host' "$V" ls host --help
want 0 'Usage' "$V" capture --help
want 0 'Usage' "$V" metrics --help
[ $fails -eq 0 ]

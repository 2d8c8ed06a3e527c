#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# runtests: timeout=600
#
# Holders planted on this machine (tests/host_holder.c), each found by `why host:N` in the block that it
# lies in by its own page tables: pid, descriptor, kind and evidence. Programs that hold nothing are
# never accused. Reads the host only; needs root and a kernel that takes the walks.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
child=
cleanup() {
	exec 9>&-
	[ -z "$child" ] || kill -KILL "$child" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
skip() {
	echo "SKIP: forced: $*"
	exit 77
}
[ "$(id -u)" = 0 ] || skip 'not root'
[ -r /sys/devices/system/memory/block_size_bytes ] || skip 'this kernel has no memory blocks'
[ -r /proc/kpageflags ] || skip 'this kernel has no /proc/kpageflags'
"$V" why host --help >/dev/null || exit 1
frames=$((0x$(cat /sys/devices/system/memory/block_size_bytes) / 4096))
${CC:-gcc} -std=c11 -D_GNU_SOURCE -O1 -o "$dir/holder" tests/host_holder.c || exit 1
reason=$("$V" why --json host:$((0x$(cat /sys/devices/system/memory/memory0/phys_index 2>/dev/null ||
	echo 0))) | sed -n 's/.*who holds pages was not looked for: \(.*\)",*$/\1/p')
case $reason in
'') ;;
*refuses*'Invalid argument'* | *'cannot be found'*)
	echo "FAIL: $reason" # the verifier's word, or our own mistake
	exit 1
	;;
*) skip "$reason" ;;
esac

# plant KIND: run a holder until it has what it wants; sets child. 1: this machine does not allow it.
plant() {
	rm -f "$dir/in"
	mkfifo "$dir/in"
	"$dir/holder" "$1" "$dir/file" <"$dir/in" >"$dir/said" 2>&1 &
	child=$!
	exec 9>"$dir/in"
	while ! grep -q '^ready' "$dir/said"; do
		if ! kill -0 "$child" 2>/dev/null; then
			wait "$child"
			[ $? -eq 77 ] || failed "$1: $(cat "$dir/said")"
			echo "not on this machine: $1: $(cat "$dir/said")"
			child=
			return 1
		fi
		sleep 0.05
	done
}
pull() {
	exec 9>&-
	wait "$child" 2>/dev/null
	child=
}
blocks() { sed -n 's/^pfn=//p' "$dir/said" | while read -r p; do echo $((0x$p / frames)); done | sort -un; }
pids() { sed -n 's/^pid=//p' "$dir/said"; }

# holders: "PID FD KIND EVIDENCE BLOCKS" a line, of the blocks that the planted frames lie in.
holders() {
	for b in $(blocks); do
		"$V" why --json "host:$b" </dev/null || echo 'null'
	done | python3 -c '
import json, sys
d = json.JSONDecoder()
s = sys.stdin.read().strip()
while s:
    v, n = d.raw_decode(s)
    s = s[n:].strip()
    for b in v["blocks"]:
        for h in b["holders"]:
            print(h["pid"], h["fd"], h["kind"], h["evidence"], h["blocks"])'
}

# found KIND-OF-PLANT KIND EVIDENCE: every planted pid, with one of its descriptors, is named so.
found() {
	local pid
	plant "$1" || return 0
	holders >"$dir/holders"
	for pid in $(pids); do
		for fd in $(sed -n 's/^fd=//p' "$dir/said"); do
			grep -qx "$pid $fd $2 $3 True" "$dir/holders" && continue 2
		done
		failed "$1: pid $pid is not named as $2 by $3"
		cat "$dir/said" "$dir/holders"
	done
	pull
}
clean() {
	plant "$1" || return 0
	holders >"$dir/holders"
	for pid in $(pids); do
		if grep "^$pid .* True$" "$dir/holders"; then
			failed "$1: pid $pid holds nothing, and is accused"
		fi
	done
	pull
}

command -v python3 >/dev/null || skip 'no python3'
found vmsplice pipe proof
found gift pipe proof
found unmapped pipe proof
found spliced pipe proof
found in-flight pipe proof
found sendfile socket proof
found sendfile-unix socket proof
found not-accepted socket proof
found zerocopy socket proof
found registered registered-buffer proof
found direct direct-io likely
found direct-aio direct-io likely
found fuse fuse proof
clean aio-ring
for how in anon thp mlock shared tmpfs; do
	clean clean-$how
done

# What was captured says the same as the machine.
if plant unmapped; then
	want 0 'processes' "$V" capture "$dir/captured"
	want 1 'not empty' "$V" capture "$dir/captured"
	"$V" why --sysroot "$dir/captured" --json host >"$dir/why.json" || failed 'why of a capture'
	python3 - "$dir/why.json" "$(pids)" <<'END' || failed 'the capture has lost the holder'
import json, sys
blocks = json.load(open(sys.argv[1]))["blocks"]
mine = [h for b in blocks for h in b["holders"] if h["pid"] == int(sys.argv[2])]
assert mine and all(h["kind"] == "pipe" and h["evidence"] == "proof" for h in mine), mine
assert all(h["comm"] == "holder" and h["cmdline"] for h in mine), mine
END
	if grep -rqs 'ZZZZZZZZ' "$dir/captured"; then # 0x5a: what the pages are full of
		failed 'a capture has contents of pages'
	fi
	want 0 'pipe' "$V" metrics host
	grep -q '^# EOF$' "$dir/out" || failed 'OpenMetrics end with # EOF'
	grep -q 'vacate_host_held_bytes{unit=".*",kind="pipe"}' "$dir/out" ||
		failed 'the holder is not in the metrics'
	pull
fi
# Live: direct reads are seen as they are submitted, with the thread. Only where a disk is beneath.
dev=$(stat -c %d "$dir")
if [ -e "/sys/dev/block/$((dev >> 8 & 4095)):$((dev & 255 | dev >> 12 & 1048320))" ] &&
	plant direct-loop; then
	for b in $(blocks); do
		"$V" watch --json --duration 2s "host:$b" </dev/null >"$dir/watch.$b" 2>"$dir/err" ||
			failed "watch host:$b: $(cat "$dir/err")"
	done
	cat "$dir"/watch.* | grep -q "\"pid\": $(pids)," || failed 'watch has not seen direct reads'
	cat "$dir"/watch.* | grep -q '"what": "direct read"' || failed 'they are not named so'
	pull
fi
want 2 'one block' "$V" watch host
want 2 'one is watched' "$V" watch host:0-9999
want 0 'could leave now' "$V" ls host
[ $fails -eq 0 ]

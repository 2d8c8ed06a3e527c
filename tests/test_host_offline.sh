#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# vacate offline and online of the host's blocks, on machines made of plain files below a directory: what is
# written and where, what is refused, exit statuses, JSON, the log, and bad input. What a kernel then does is
# tested in a guest: tests/guest. Nothing of this machine is touched: --sysroot is in every call, and `state`
# is only written where it is a plain file that no symbolic link leads to.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
log=
cleanup() {
	[ -z "$log" ] || kill "$log" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT

R=$dir/root
M=$R/sys/devices/system/memory
# machine: blocks 0 and 1 on node 0, 8 to 11 on node 1 (10 and 11 of a DAX device), all online.
machine() {
	rm -rf "$R"
	mkdir -p "$M" "$R/proc"
	echo 8000000 >"$M/block_size_bytes"
	echo offline >"$M/auto_online_blocks"
	for i in 0 1 8 9 10 11; do
		mkdir "$M/memory$i"
		echo online >"$M/memory$i/state"
		echo 1 >"$M/memory$i/removable"
		echo Movable >"$M/memory$i/valid_zones"
		printf '%08x\n' $i >"$M/memory$i/phys_index"
		ln -s "../../node/node$((i >= 8))" "$M/memory$i/node$((i >= 8))"
	done
	cat >"$R/proc/iomem" <<-END
		00000000-0fffffff : System RAM
		50000000-5fffffff : dax0.0
		  50000000-5fffffff : System RAM (kmem)
	END
}
# state BLOCK WANTED
state() { [ "$(cat "$M/memory$1/state")" = "$2" ] || failed "block $1 is $(cat "$M/memory$1/state"), not $2"; }
off() { "$V" offline --sysroot "$R" "$@"; }
on() { "$V" online --sysroot "$R" "$@"; }

# ---- It is written, and only what was named ----
machine
want 0 done off host:8
state 8 offline
state 9 online
want 0 already off host:8
want 0 done off host:8-9
state 9 offline
want 0 would off --dry-run host:0
state 0 online

# ---- Nodes and devices; what is done already is done ----
machine
want 0 done off host:node1
for i in 8 9 10 11; do state $i offline; done
state 1 online
want 0 already off host:node1
machine
want 0 'daxctl reconfigure-device' off host:dax0.0
state 9 online
state 10 offline
state 11 offline
machine
want 0 done off --node 1 host
state 0 online
state 8 offline

# ---- JSON ----
machine
echo offline >"$M/memory8/state"
want 0 '"result": "done"' off --json host:8-9
if command -v python3 >/dev/null; then
	python3 - "$dir/out" <<-'END' || failed 'the JSON is not as documented'
		import json, sys
		b = json.load(open(sys.argv[1]))['blocks']
		assert [x['block'] for x in b] == [8, 9], b
		assert [x['result'] for x in b] == ['already', 'done'], b
		assert all(x['done'] is True and x['error'] == 0 and x['node'] == 1 for x in b), b
		for k in ('message', 'seconds', 'waited_seconds', 'bytes_to_move', 'bytes_left', 'suspended',
		          'ended', 'verdict', 'reason', 'holders', 'advice'):
		    assert k in b[1], k
	END
fi
[ ! -s "$dir/err" ] || failed "standard error, which is no terminal: $(cat "$dir/err")"

# ---- Only a plain file below the root is written ----
machine
mv "$M/memory8" "$R/elsewhere"
ln -s "$R/elsewhere" "$M/memory8"
want 1 'memory8/state' off host:8
[ "$(cat "$R/elsewhere/state")" = online ] || failed 'a symbolic link was followed'
machine
mv "$M/memory8/state" "$R/state"
ln -s "$R/state" "$M/memory8/state"
want 1 'memory8/state' off host:8
[ "$(cat "$R/state")" = online ] || failed 'a symbolic link was followed'

# ---- Online: the word that the zone asks for ----
machine
echo offline >"$M/memory8/state"
on host:8 >/dev/null 2>&1
[ "$(cat "$M/memory8/state")" = online_movable ] || failed "movable: $(cat "$M/memory8/state")"
echo offline >"$M/memory8/state"
on --zone kernel host:8 >/dev/null 2>&1
[ "$(cat "$M/memory8/state")" = online_kernel ] || failed "kernel: $(cat "$M/memory8/state")"
echo offline >"$M/memory8/state"
want 0 'is online' on --zone default host:8
want 0 'is online already' on host:8
want 2 'is not a zone' on --zone dma host:8

# ---- What brings blocks back is named, with its place ----
machine
mkdir -p "$R/etc/udev/rules.d" "$R/lib/udev/rules.d"
printf '# x\nSUBSYSTEM=="memory", ACTION=="add", ATTR{state}=="offline", ATTR{state}="online"\n' \
	>"$R/etc/udev/rules.d/40-hot.rules"
printf 'ATTR{state}=="offline", ATTR{state}="online"\n' >"$R/lib/udev/rules.d/40-hot.rules"
echo online_movable >"$M/auto_online_blocks"
want 0 '/etc/udev/rules.d/40-hot.rules:2' off --dry-run host:node1
! grep -q /lib/udev "$dir/err" || failed 'a rule that udev does not see is named'
grep -q "auto_online_blocks is 'online_movable'" "$dir/err" || failed 'the policy is not named'

# ---- The log ----
if command -v python3 >/dev/null; then
	machine
	mkdir -p "$R/run/systemd/journal"
	python3 - "$R/run/systemd/journal/socket" "$dir/journal" <<-'END' &
		import socket, sys
		s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		s.bind(sys.argv[1])
		with open(sys.argv[2], 'wb', 0) as f:
		    while True:
		        f.write(s.recv(65536) + b'\n')
	END
	log=$!
	for _ in $(seq 200); do
		[ -S "$R/run/systemd/journal/socket" ] && break
		sleep 0.1
	done
	want 0 done off host:8
	for _ in $(seq 200); do
		grep -q 'done after' "$dir/journal" 2>/dev/null && break
		sleep 0.1
	done
	for text in '^MESSAGE=offline memory8: begins' '^MESSAGE=offline memory8: done after' \
		'^VACATE_ACTION=offline' '^VACATE_BLOCK=8' '^VACATE_NODE=1' '^PRIORITY=5'; do
		grep -qa "$text" "$dir/journal" || failed "the log has no $text"
	done
	want 0 would off --dry-run host:9
	! grep -qa memory9 "$dir/journal" || failed 'a dry run is in the log'
fi

# ---- Bad input: said what would be accepted, and nothing is written ----
machine
want 2 'a block is missing' off host
want 2 'host:32' off host:
want 2 'host:32-35' off host:8-
want 2 'does not name a block' off host:9-8
want 2 'does not name a block' off host:8x
want 1 'there is no memory block 7; from 0 to 11 there are 6' off host:7
want 1 'node 7 has no memory blocks' off host:node7
want 2 'is no node\|no node' bash -c "'$V' offline --sysroot '$R' host:nodex; [ \$? -eq 1 ] && exit 2"
want 1 "there is no 'virtio7'.*dax0.0" off host:virtio7
want 2 'do not go together' off host:8 1234:3
want 2 'none is named' off --bytes 1G host:8
want 2 'not a size' off --bytes x host
want 2 'is no way' off --suspend=gently host:8
want 2 'is no process' off --kill 1 host:8
want 2 'is no process' off --kill 77: host:8
want 2 'running machine' off --suspend host:8
want 2 'running machine' off --kill 77 host:8
want 2 'no option' off --nonsense host:8
want 1 'block_size_bytes\|no memory block' "$V" offline --sysroot "$dir/nothing" host:8
for i in 0 1 8 9 10 11; do state $i online; done

echo "$fails failed"
[ $fails -eq 0 ]

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# A running `vacate stress` under the hands of an operator: every verb, its exit statuses, its JSON,
# and what it says of bad input; a planted pin named with its stack; and 200 operators killed at
# random, after which not a byte of the workload may be wrong.
#
# runtests: timeout=600
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
export XDG_RUNTIME_DIR=$dir # so that nobody else's pools are seen first
pids=
cleanup() {
	# shellcheck disable=SC2086
	[ -z "$pids" ] || kill -KILL $pids 2>/dev/null
	wait 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
json() { # status, what must be in it, command...: stdout is one JSON object
	want "$@"
	command -v python3 >/dev/null || return
	python3 -c 'import json, sys; sys.exit(not isinstance(json.load(sys.stdin), dict))' \
		<"$dir/out" 2>"$dir/err2" || failed "$*: not a JSON object: $(head -c 300 "$dir/out")"
}
silent() { # nothing on standard error: that is no terminal, so no progress either
	[ ! -s "$dir/err" ] || failed "standard error: $(cat "$dir/err")"
}
# start LOG OPTIONS...: a stress with a control socket. Sets pid and sock.
start() {
	local log=$1
	shift
	"$V" stress --control "$@" >"$log" 2>&1 </dev/null &
	pid=$!
	pids="$pids $pid"
	for _ in $(seq 600); do
		sock=$(sed -n 's/^control socket //p' "$log")
		# It is open before the workload is: wait for memory that is used.
		if [ -n "$sock" ] && "$V" ls --json "$sock" 2>/dev/null |
			grep -q '"pins": [1-9]'; then
			return
		fi
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	failed "stress does not run: $(cat "$log")"
	exit 1
}
finish() { # LOG: end it politely; it verifies all its memory
	kill -INT "$pid"
	wait "$pid"
	grep -q ' 0 errors' "$1" || failed "the workload: $(tail -n 5 "$1")"
	[ ! -e "$sock" ] || failed "$sock is left behind"
}

# Nobody is there.
want 0 'no pool' "$V" ls
json 0 '"pools": \[\]' "$V" ls --json
want 1 'no running program' "$V" why
want 1 'no running program' "$V" offline 3
want 1 'process 1 ' "$V" ls 1
want 1 'no such socket' "$V" ls "$dir/nothing.sock"

# One stress, which after its first offline leaves the blocks to us, and whose holder holds for long.
start "$dir/log" --pool 128M --block 8M --workload records,holder --threads 4 --hold 45s \
	--offline-rate 0.01 --duration 10m --seed 7
case $sock in "$dir/vacate/$pid-stress.sock") ;; *) failed "socket $sock" ;; esac
[ "$(stat -c '%a %F' "$sock")" = '600 socket' ] || failed 'the mode of the socket'
[ "$(stat -c %a "$dir/vacate")" = 700 ] || failed 'the mode of its directory'

want 0 'Pool stress of ' "$V" ls
silent
want 0 'guard [su]' "$V" ls "$pid"
want 0 'host mappings: ' "$V" ls "$sock"
json 0 '"frames_used"' "$V" ls --json

# Who holds what, with the place in the source.
for _ in $(seq 100); do
	"$V" why >"$dir/out" 2>"$dir/err" </dev/null
	! grep -q 'slow-holder' "$dir/out" || break
	sleep 0.05
done
silent
for text in 'block [0-9]*: .* held' '"slow-holder" thread [0-9]* (holder/[0-9]), for [0-9.]* s' \
	'work (cli/work_holder.c:[0-9]*)' 'worker_main'; do
	grep -q "$text" "$dir/out" || failed "why: no '$text' in: $(cat "$dir/out")"
done
json 0 '"owner": "slow-holder"' "$V" why --json
grep -q '"function": "work"' "$dir/out" || failed 'why --json names no function'
held=$(sed -n 's/^ *"block": \([0-9]*\).*/\1/p' "$dir/out" | tail -n 1)
want 0 '.' "$V" why "$pid:0-3"
want 0 '.' "$V" why "$pid:"
want 2 'with a colon' "$V" why 4000000
want 0 '.' "$V" why "$sock:0"
want 0 '.' "$V" why "$sock"
want 64 'no such block' "$V" why 0 31

# Two empty blocks to play with.
want 0 'block 16 of .* is added' "$V" add
silent
json 0 '"block": 17' "$V" add --json --online --zone normal "$pid"
want 0 'normal' "$V" ls
want 0 'block 16 of .* is online' "$V" online 16
want 1 'online already' "$V" online 16
want 1 'take it offline first' "$V" remove 16
want 0 'possible' "$V" offline --dry-run 17
json 0 '"possible": true' "$V" offline --json --dry-run 17
want 0 '17 offline' "$V" offline 17
silent
want 64 'not online' "$V" offline 16-17
want 0 'block 17 of .* is removed' "$V" remove 17
want 1 'no such block' "$V" remove 17
want 64 'no such block' "$V" online --zone movable 16-17
want 1 'no such block' "$V" offline 17
json 1 '"done": false' "$V" remove --json 17
want 0 'block 20 of .* added and online' "$V" add --id 20 --online
want 1 'a block of this number' "$V" add --id 20
want 64 'a block of this number' "$V" add --id 19 --count 2
want 64 'no room' "$V" add --count 100
want 0 "is removed" "$V" remove 19 30 31
want 0 'block 19 ' "$V" add --id 19 --online
json 0 '"given_back_bytes"' "$V" offline --json 20
silent

# Memory that we give it: a file on tmpfs, opened here.
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && shm=$(mktemp -p /dev/shm); then
	want 1 'at least as long as' "$V" add --file "$shm"
	truncate -s 8M "$shm"
	want 0 'added and online' "$V" add --id 31 --file "$shm" --online
	want 0 '31 online .* file, unsealable' "$V" ls
	want 1 'a block already' "$V" add --file "$shm"
	json 0 '"unsealable": true' "$V" ls --json
	want 0 '31 offline' "$V" offline 31
	[ "$(stat -c %b "$shm")" = 0 ] || failed 'the file has kept memory'
	want 0 '' "$V" remove 31
	ln -s "$shm" "$dir/shm-link"
	want 1 'symbolic link' "$V" add --file "$dir/shm-link"
	rm "$shm"
else
	echo 'note: no tmpfs in /dev/shm, so no file was given'
fi
want 1 'No such file' "$V" add --file "$dir/none"
want 2 'does not go with --file' "$V" add --file x --count 2

# The holder keeps something for most of the time: offline the blocks that it holds until one refuses.
refused=no
for _ in $(seq 40); do
	"$V" why --json >"$dir/out" 2>/dev/null </dev/null
	held=$(sed -n 's/^ *"block": \([0-9]*\).*/\1/p' "$dir/out" | sort -u)
	held=$(python3 - "$dir/out" <<-'END' 2>/dev/null || echo "$held" | head -n 1
		import json, sys
		b = [b["block"] for b in json.load(open(sys.argv[1]))["blocks"] if b["held_bytes"]]
		print(b[0] if b else "")
	END
	)
	[ -n "$held" ] || continue
	"$V" offline --timeout 200ms "$held" >"$dir/out" 2>"$dir/err" </dev/null
	if [ $? -eq 3 ]; then
		refused=yes
		break
	fi
	"$V" online "$held" >/dev/null 2>&1
done
[ $refused = yes ] || failed 'no offline was ever held'
grep -q 'held, by:' "$dir/err" && grep -q 'work (cli/work_holder.c' "$dir/err" ||
	failed "a held offline does not say by whom: $(cat "$dir/err")"
grep -q "failed.*slow-holder" "$dir/out" || failed "the table of a held offline: $(cat "$dir/out")"
want 0 " $held online" "$V" ls

# Asked only, without trying: it says the same, and changes nothing.
refused=no
for _ in $(seq 400); do
	"$V" offline --dry-run 0-15 >"$dir/out" 2>"$dir/err" </dev/null
	if grep -q 'held now, by:' "$dir/err"; then
		refused=yes
		break
	fi
	sleep 0.05
done
[ $refused = yes ] && grep -q 'work (cli/work_holder.c' "$dir/err" ||
	failed "a dry run does not say who holds a block: $(cat "$dir/out" "$dir/err")"
grep -q '^ *[0-9]* *[0-9]* held ' "$dir/out" || failed "the table of a dry run: $(cat "$dir/out")"
want 0 " $held online" "$V" ls

# Detached, then cancelled; interrupted.
want 0 'goes on in the program' "$V" offline --detach --timeout 1h "$held"
for _ in $(seq 50); do
	"$V" ls >"$dir/out" 2>&1
	! grep -q "^ *$held evacuating" "$dir/out" || break
	sleep 0.02
done
grep -q "^ *$held \(evacuating\|offline\)" "$dir/out" || failed "a detached offline: $(cat "$dir/out")"
"$V" offline --cancel "$held" >"$dir/out" 2>"$dir/err"
case $? in 0 | 1) ;; *) failed "offline --cancel: $(cat "$dir/err")" ;; esac
want 1 'no offline' "$V" offline --cancel 0
"$V" online "$held" >/dev/null 2>&1
"$V" offline --timeout 1h "$held" >"$dir/out" 2>"$dir/err" &
op=$!
sleep 0.3
kill -INT $op 2>/dev/null
wait $op
case $? in
1) grep -q cancelled "$dir/err" || failed "interrupted: $(cat "$dir/err")" ;;
0) "$V" online "$held" >/dev/null 2>&1 ;; # the holder had let go
*) failed "interrupted offline: $(cat "$dir/out" "$dir/err")" ;;
esac

# Without memory elsewhere.
for b in $("$V" ls | awk '$2 == "online" && $5 == 0 { print $1 }'); do
	"$V" offline "$b" >/dev/null 2>&1
done
for b in $("$V" ls | awk '$2 == "online" { print $1 }'); do
	"$V" offline --timeout 300ms "$b" >"$dir/out" 2>"$dir/err" </dev/null
	[ $? -ne 4 ] || break
done
want 4 'more is needed' "$V" offline --dry-run "$b"
want 4 'not enough memory' "$V" offline "$b"
json 4 '"missing_bytes": [1-9]' "$V" offline --json "$b"
json 4 '"possible": false' "$V" offline --json --dry-run "$b"
for b in $("$V" ls | awk '$2 == "offline" { print $1 }'); do
	"$V" online "$b" >/dev/null 2>&1 || failed "cannot online $b again"
done

# What cannot be understood is named, with what would be accepted.
want 2 "'3x' is not a block" "$V" offline 3x
want 2 "'7-3'" "$V" offline 7-3
want 2 'which block' "$V" offline
want 2 'which block' "$V" online
want 2 'which block' "$V" remove
want 2 'room for blocks 0 to' "$V" offline 60000
want 2 "'99999999999999999999'" "$V" offline 99999999999999999999
want 2 "names no block" "$V" offline "$pid:"
want 2 "not a PID" "$V" ls 99999999999
want 2 "'nonsense' is not a target" "$V" ls nonsense
want 2 'go with ls' "$V" add host
want 2 'go with ls' "$V" remove host:32
want 2 'not a time' "$V" offline --timeout soon 3
want 2 'needs a value' "$V" offline --timeout
want 2 'not a zone' "$V" online --zone dma 3
want 2 'goes with --online' "$V" add --zone movable
want 2 'out of range' "$V" add --count 0
want 2 'out of range' "$V" add --id 65536
want 2 'too much' "$V" add "$pid" "$pid"
want 2 'no option' "$V" why --frobnicate
want 2 'goes with' "$V" offline --cancel --detach 3
want 1 'symbolic link' "$V" ls "$(ln -s "$dir/vacate" "$dir/link" && echo "$dir/link/$pid-stress.sock")"
want 1 'not allowed' "$V" ls /dev/null
for verb in ls why offline online add remove; do
	want 0 'Usage: vacate' "$V" $verb --help
	silent
done
if [ -w /dev/full ]; then
	"$V" ls >/dev/full 2>"$dir/err"
	[ $? -eq 1 ] || failed 'a full stdout is not noticed'
fi
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	cp "$V" "$dir/vacate-copy"
	chmod 711 "$dir"
	nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env -u XDG_RUNTIME_DIR "$@"; }
	want 1 'not allowed' nobody "$dir/vacate-copy" ls "$sock"
	want 1 'no control socket' nobody "$dir/vacate-copy" ls "$pid"
	chmod 700 "$dir"
else
	echo 'note: not root, so no other user was tried'
fi

# Operators that are killed at random, 200 of them, in the middle of whatever they do.
"$V" remove 16 20 >/dev/null 2>&1
RANDOM=42
hit=0
for i in $(seq "${KILLS:-200}"); do
	b=$((RANDOM % 20))
	case $((RANDOM % 6)) in
	0) set -- online "$b" ;;
	1) set -- add --id "$b" --online ;;
	2) set -- remove "$b" ;;
	*) set -- offline --timeout 2s "$b" $((RANDOM % 16)) ;;
	esac
	"$V" "$@" >/dev/null 2>&1 </dev/null &
	op=$!
	sleep "$(printf 0.%03d $((RANDOM % 25)))"
	if kill -KILL $op 2>/dev/null; then hit=$((hit + 1)); fi
	wait $op 2>/dev/null
	if [ $((i % 20)) -eq 0 ]; then
		want 0 'Pool stress' "$V" ls
		for b in $("$V" ls | awk '$2 == "offline" { print $1 }'); do
			"$V" online "$b" >/dev/null 2>&1
		done
	fi
done
echo "note: $hit operators were killed at work"
[ $hit -gt $((${KILLS:-200} / 10)) ] || failed "only $hit operators were still at work when killed"
finish "$dir/log"
[ $fails -eq 0 ]

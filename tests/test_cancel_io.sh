#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# An operator, and blocks that are held by what never ends: `vacate offline` says by whom, --cancel-io ends the
# direct I/O, --revoke asks the holders of pins; neither does what it was not told to.
set -u
# shellcheck source=tests/want.sh
. tests/want.sh || exit 1
B=${BUILD:-build}
export XDG_RUNTIME_DIR=$dir # so that nobody else's pools are seen first
child=
cleanup() {
	[ -z "$child" ] || kill -KILL "$child" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
${CC:-gcc} -std=c11 -D_GNU_SOURCE -g -Iinclude -rdynamic -o "$dir/target" tests/io_target.c \
	"$B/libvacate.a" -pthread || exit 1

value() { sed -n "s/^$1=//p" "$dir/log"; } # of what the program has printed
# said KEY: wait until it has. What it says is printed by a thread of its own, so perhaps after the operator's end.
said() {
	for _ in $(seq 600); do
		[ -z "$(value "$1")" ] || return 0
		sleep 0.1
	done
	failed "the program does not say $1: $(cat "$dir/log")"
	return 1
}
lacks() { [ -z "$(value "$1")" ] || failed "$1=$(value "$1") before it was asked for"; }
back() { "$V" online "$1" >/dev/null 2>&1 || failed "block $1 does not come back"; }

mkfifo "$dir/in" || exit 1
"$dir/target" <"$dir/in" >"$dir/log" 2>&1 &
child=$!
exec 9>"$dir/in"
said socket || exit 1

if [ "$(value uring)" = 1 ]; then
	plain=$(value plain) registered=$(value registered)
	# Without the option it is waited for, and named; and still goes on.
	want 3 'aio:forever fd [0-9]* @0+4096' "$V" offline --timeout 300ms "$plain"
	want 3 'aio:forever buffer 0' "$V" offline --timeout 300ms "$registered"
	# Nor does revoking do it: nobody has said how.
	want 3 'aio:forever' "$V" offline --timeout 300ms --revoke "$plain"
	lacks event0
	lacks event1
	# Of the block that is asked for, and of no other.
	want 0 " $plain offline" "$V" offline --timeout 60s --cancel-io "$plain"
	said event0
	[ "$(value event0)" = -125 ] || failed "the request's answer is $(value event0), not ECANCELED"
	lacks event1
	back "$plain"
	want 0 " $registered offline" "$V" offline --timeout 60s --cancel-io "$registered"
	said event1
	[ "$(value event1)" = -125 ] || failed "the buffer's answer is $(value event1), not ECANCELED"
	back "$registered"
	# The context is there still, and holds nothing: both leave once more, from where their memory is now.
	want 0 ' offline' "$V" offline --timeout 60s "$plain"
	back "$plain"
else
	echo 'note: no io_uring here, and threads take no pipe: --cancel-io was not tried'
fi

willing=$(value willing) stubborn=$(value stubborn)
want 3 'willing cache' "$V" offline --timeout 300ms "$willing"
want 3 'willing cache' "$V" offline --timeout 300ms --cancel-io "$willing"
lacks revoked
want 3 'stubborn cache' "$V" offline --timeout 60s --revoke "$stubborn"
said refused
lacks revoked
want 0 " $willing offline" "$V" offline --timeout 60s --revoke "$willing"
said revoked
back "$willing"
want 3 'stubborn cache' "$V" offline --timeout 300ms "$stubborn"

exec 9>&-
for _ in $(seq 600); do
	kill -0 "$child" 2>/dev/null || break
	sleep 0.1
done
wait "$child"
r=$?
child=
[ $r -eq 0 ] && [ "$(value ended)" = yes ] || failed "the program: status $r: $(cat "$dir/log")"
[ "$(value 'wrong bytes')" = 0 ] || failed "wrong bytes: $(value 'wrong bytes')"
[ "$(value 'willing pin')" = -22 ] || failed 'the revoked pin is still there'
[ $fails -eq 0 ]

# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced by the tests of the command: sets V, the command, and dir, a directory of the test's own, which
# the test removes; and counts what fails in `fails`.
# shellcheck disable=SC2034 # of those who source it
V=${VACATE:-build/vacate}
dir=$(mktemp -d) || exit 1
fails=0
failed() {
	echo "FAIL $*"
	fails=$((fails + 1))
}
# want STATUS TEXT COMMAND...: ends with that status, and prints TEXT, a regular expression, on either
# stream. What it prints is in $dir/out and $dir/err.
want() {
	local status=$1 text=$2 r
	shift 2
	"$@" >"$dir/out" 2>"$dir/err" </dev/null
	r=$?
	if [ $r -ne "$status" ] || ! grep -q -e "$text" "$dir/out" "$dir/err"; then
		failed "$*: status $r, wanted $status and '$text'"
		tail -n 20 "$dir/out" "$dir/err"
	fi
}

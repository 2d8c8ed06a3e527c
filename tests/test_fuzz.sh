#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The fuzzers (the control socket, captured machines) build, find nothing in their corpus, and nothing in some
# hundred or thousand inputs beyond it.
# `make fuzz` alone runs a million.
#
# runtests: timeout=600
set -u
if ! printf 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n < 0; }' |
	clang -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null; then
	echo 'SKIP: forced: no clang with libFuzzer is installed'
	exit 77
fi
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
# By `setarch -R`, as runtests does: this clang's address sanitizer fails at random where mappings are
# placed too much at random.
wrap=
[ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -le 28 ] || wrap='setarch -R'
# shellcheck disable=SC2086
if ! $wrap make fuzz FUZZ_RUNS="${FUZZ_RUNS:-3000}" FUZZ_CAPTURE_RUNS="${FUZZ_RUNS:-500}" >"$out" 2>&1; then
	tail -n 60 "$out"
	exit 1
fi
grep 'fuzz_control: [0-9]* requests' "$out" || { tail -n 20 "$out"; exit 1; }
grep 'fuzz_capture: [0-9]* captures, [1-9][0-9]* of them' "$out" || { tail -n 20 "$out"; exit 1; }

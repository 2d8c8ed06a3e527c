#!/bin/sh
# SPDX-License-Identifier: MIT
#
# vacate bench: every measurement runs (at --scale tiny), what it prints has the form that
# docs/PERFORMANCE.md promises, and a wrong command line is told from a failure. The figures
# themselves are not judged here: they are the machine's.
set -u
vacate=${VACATE:-${BUILD:-build}/vacate}
names='offline_huge offline_base_run offline_base_single writer_wait reader_wait pin first_touch
	fault_in storm gate cost scale swap_random aio_seq aio_rand sim_rate throughput
	bystander compact collapse snapshot snapshot_tenth cow_write cow_seq cow_budget'
failures=0

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# expect STATUS ARGUMENT...: run `vacate bench`; output to $tmp/out, $tmp/err.
expect() {
	want=$1
	shift
	"$vacate" bench "$@" >"$tmp/out" 2>"$tmp/err"
	got=$?
	[ $got -eq "$want" ] && return
	fail "vacate bench $*: exit status $got, not $want"
	sed 's/^/	/' "$tmp/err"
}

has() {
	grep -q -- "$2" "$1" || fail "'$2' is missing in:
$(cat "$1")"
}

# ---- The command line

expect 0 --help
has "$tmp/out" '--runs'
expect 0 --list
for n in $names; do
	has "$tmp/out" "^$n "
done
[ "$(wc -l <"$tmp/out")" -eq 26 ] || fail "--list: more or fewer than 25 names"

expect 2 no_such_thing
for n in $names; do
	has "$tmp/err" "$n"
done
[ ! -s "$tmp/out" ] || fail "an error was printed as data"
expect 2 --runs 0 pin
expect 2 --runs 101 pin
expect 2 --runs many pin
expect 2 --runs
expect 2 --scale huge pin
expect 2 --no-such-option

# ---- The table

expect 0 --scale tiny --runs 2 cost pin
has "$tmp/out" '^NAME  *VALUE  *PEER  *UNIT  *RATIO'
has "$tmp/out" '^pin  *[0-9.]*  *[0-9.]*  *ns '
has "$tmp/out" '^cost  *[0-9.]*  *64  *bytes/frame '
grep -q '^storm' "$tmp/out" && fail 'a measurement ran that was not asked for'
[ ! -s "$tmp/err" ] || fail "messages without a terminal: $(cat "$tmp/err")"
if [ -w /dev/full ]; then
	"$vacate" bench --scale tiny --runs 1 cost >/dev/full 2>"$tmp/err" &&
		fail 'a full disk is no failure'
	has "$tmp/err" 'No space left'
fi

# ---- Everything, as JSON

expect 0 --scale tiny --runs 1 --json
if ! command -v python3 >/dev/null || ! python3 -c 'import json' 2>/dev/null; then
	# Not a parser, but the output is laid out one value a line.
	for key in machine kernel cpus cpu memory_bytes thp guard compiler version results name unit \
		value peer peer_value ratio samples peer_samples; do
		has "$tmp/out" "^ *\"$key\": "
	done
	for n in $names; do
		has "$tmp/out" "\"name\": \"$n"
	done
else
	python3 - "$tmp/out" $names <<'END' || fail "the JSON is not as it should be"
import json, math, sys

doc = json.load(open(sys.argv[1]))
names = sys.argv[2:]
bad = 0

def check(ok, what):
    global bad
    if not ok:
        print(what)
        bad = 1

machine = doc["machine"]
for key in ("kernel", "arch", "cpu", "guard", "compiler", "version", "libc"):
    check(isinstance(machine.get(key), str) and machine[key], f"machine: {key}")
for key in ("cpus", "memory_bytes", "max_map_count"):
    check(isinstance(machine.get(key), int) and machine[key] > 0, f"machine: {key}")
for key in ("enabled", "shmem_enabled", "defrag"):
    check(isinstance(machine.get("thp", {}).get(key), str), f"machine: thp {key}")
check(doc["scale"] == "tiny" and doc["runs"] == 1, "scale, runs")

less = {"ns", "us", "ms", "ns/page", "ms/GiB", "bytes/frame", "a success", "mappings",
	"us/read"}
more = {"GB/s", "MiB/s", "steps/s", "ops/s", "reads/s"}
seen = set()
for r in doc["results"]:
    name = r["name"]
    check(name not in seen, f"{name} twice")
    seen.add(name)
    check(any(name.startswith(n) for n in names), f"{name} belongs to nothing")
    check(r["unit"] in less | more, f"{name}: unit {r['unit']}")
    check(isinstance(r["peer"], str) and r["peer"], f"{name}: peer")
    for key in ("value", "peer_value", "ratio"):
        check(isinstance(r[key], float) and math.isfinite(r[key]) and r[key] > 0, f"{name}: {key}")
    for key, middle in (("samples", "value"), ("peer_samples", "peer_value")):
        check(len(r[key]) == 1 and math.isclose(r[key][0], r[middle], rel_tol=1e-6), f"{name}: {key}")
    ratio = r["value"] / r["peer_value"] if r["unit"] in more else r["peer_value"] / r["value"]
    check(math.isclose(ratio, r["ratio"], rel_tol=1e-6), f"{name}: ratio {r['ratio']}, not {ratio}")
    for key, v in r.get("extra", {}).items():
        check(math.isfinite(v), f"{name}: {key}")
for s in doc["skipped"]:
    check(s["reason"], "a skip without a reason")
    seen.add(s["name"])
for n in names:
    check(any(s.startswith(n) for s in seen), f"nothing of {n}")
result = {r["name"]: r for r in doc["results"]}
if "cost" in result:
    # A frame's own descriptor, and a small part of its pageblock's.
    check(result["cost"]["value"] <= 32, f"a frame costs {result['cost']['value']} bytes")
if "storm_attempts" in result:
    check(result["storm_attempts"]["value"] <= 2, "more than two attempts a success")
sys.exit(bad)
END
fi

[ $failures -eq 0 ]

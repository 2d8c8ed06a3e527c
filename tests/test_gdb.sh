#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# gdb/vacate-gdb.py says what the library says: of a live program, of a core that gdb makes of it, and
# of one that the kernel writes.
. tests/crash_target.sh
command -v gdb >/dev/null || skip 'gdb is not installed'
gdb -batch -nx -ex 'python print("yes")' 2>/dev/null | grep -q yes || skip 'this gdb has no Python'
build_target

export DEBUGINFOD_URLS=
script=$PWD/gdb/vacate-gdb.py
# Its exit status tells of the last command only: what it says is looked at.
debugger() { gdb -batch -nx -iex "set auto-load no" -ex "source $script" "$@" 2>&1 </dev/null || :; }

# Everything that is asked, in the frame of main().
cat >"$tmp/questions" <<'END'
frame function main
vacate pools
vacate blocks
vacate blocks aquarium
vacate space
vacate space reef
vacate pins
vacate translate huge+5*4096+8
vacate translate base+21*4096
vacate translate base
vacate translate thin+127*1024
vacate translate thin+2*1024*1024
vacate folio base+21*4096
END
# Errors end a command file, so each of these is one by itself.
wrong=(-ex 'vacate translate 0' -ex 'vacate translate' -ex 'vacate blocks nowhere'
	-ex 'vacate folio 99999999' -ex 'vacate space nowhere' -ex 'vacate folio')

has() { grep -qF -- "$1" "$tmp/said" || { cat "$tmp/said"; fail "$what: does not say: $1"; }; }
line() { grep -qE -- "$1" "$tmp/said" || { cat "$tmp/said"; fail "$what: no line like: $1"; }; }

answers() {
	what=$1
	blocks=$(value blocks)
	has "$(value frames)"
	line "^pool \"aquarium\" at 0x[0-9a-f]+: guard (sigsegv|userfaultfd), blocks of 16 MiB: $((blocks + 1)), $blocks online"
	has 'spaces 1, pins 1, offlines under way 0, faults refused 0'
	line '^  block 0: online, normal, fd [0-9]+, used [0-9]+, free'
	line '^  block 1: online, movable, fd [0-9]+, used 0, free 4096, reserved 0; pageblocks: 8 untouched'
	has "  block $blocks: offline"
	line '^space 0 "reef" of pool "aquarium": 0x[0-9a-f]+-'
	line "^  $(value fixed)-0x[0-9a-f]+ r- 40 KiB nohuge"
	line '^  "diver" thread [0-9]+: 0x[0-9a-f]+\+12288 in space reef \(write, longterm, stack\)'
	line '^      0x[0-9a-f]+ take_the_pin .*crash_target\.c:[0-9]+'
	line "entry 0x[0-9a-f]+: present, huge, allowed rw, host shows rw"
	has "  frame $(value huge_pfn): block $(value huge_block), memfd offset "
	line "folio [0-9]+: huge, $(value huge_counts)"
	has "  frame $(value base_pfn): block $(value base_block), memfd offset "
	has "folio $(value base_pfn): base, $(value base_counts)"
	has 'pinned by:'
	line "entry 0x[0-9a-f]+: present, base, allowed r-, host shows r-"
	has "  frame $(value fixed_pfn): block $(value fixed_block), memfd offset "
	has 'entry: none, never touched'
	has '  not mapped'
	has 'is in no space of a pool'
	has 'usage: vacate translate ADDR'
	has "no pool 'nowhere'"
	has "no space 'nowhere'"
	has 'has no frame 99999999'
}

what='before the start'
debugger -ex 'vacate pools' "$tmp/target" >"$tmp/said"
has 'no pool is open'

what='another program'
debugger -ex 'vacate pools' /bin/sh >"$tmp/said"
has 'no vac__pools'

# Live. gdb starts the program itself, which needs less permission than attaching.
debugger -ex 'handle SIGSEGV nostop noprint pass' -ex 'break pause' \
	-ex "run pause 32 >$tmp/out" -x "$tmp/questions" "${wrong[@]}" \
	-ex "gcore $tmp/gcore" "$tmp/target" >"$tmp/said"
if grep -qE 'Could not trace|ptrace: Operation not permitted|Cannot create process' "$tmp/said"; then
	skip 'gdb may not trace a program here'
fi
answers live
cp "$tmp/out" "$tmp/out.live"

# The core that gdb has made: the same answers to the letter.
grep -E '^ *(pool|block|space|frame|folio|entry|"diver")' "$tmp/said" >"$tmp/said.live"
[ -s "$tmp/gcore" ] || { cat "$tmp/said"; fail 'gdb made no core'; }
debugger -x "$tmp/questions" "${wrong[@]}" "$tmp/target" "$tmp/gcore" >"$tmp/said"
answers "gdb's core"
grep -E '^ *(pool|block|space|frame|folio|entry|"diver")' "$tmp/said" | diff "$tmp/said.live" - ||
	fail "gdb's core does not say what the live program did"
echo "gdb's core: $(($(stat -c %s "$tmp/gcore") >> 10)) KiB"
rm "$tmp/gcore"

# What the program has none of is put into its tables: a run whose frames have moved and whose holder was not
# told yet, a page that is out, a block in quarantine.
what='states made by hand'
last=$(value blocks)
debugger -ex 'handle SIGSEGV nostop noprint pass' -ex 'break pause' -ex 'run pause 32 >/dev/null' \
	-ex 'frame function main' \
	-ex 'set var pool->ledger.rec[0].run[0] |= (unsigned long)1 << 62' \
	-ex 'set var pool->ledger.rec[1].run[0] |= (unsigned long)1 << 62' \
	-ex 'vacate folio base+21*4096' -ex 'vacate folio huge' -ex 'vacate folio base+40*4096' \
	-ex 'set var $page = (base + 30 * 4096 - (char *)space->base) / 4096' \
	-ex 'set var space->pte[$page] = (7 << 16) | 0x73' -ex 'vacate translate base+30*4096' \
	-ex "set var pool->blocks[$last].state = 5" -ex 'vacate blocks' \
	-ex kill "$tmp/target" >"$tmp/said"
[ "$(grep -c 'pinned by:' "$tmp/said")" = 1 ] || { cat "$tmp/said"; fail "$what: a pin of what it does not hold"; }
line 'entry 0x70073: out, in slot 7 of the swap file, allowed rw'
has "  block $last: quarantine"

# One of the kernel's, of a true SIGSEGV in the middle of a space.
make_core segv 32
if [ -z "$core" ]; then
	echo "no core of the kernel's: $why"
	exit 0
fi
debugger -x "$tmp/questions" "${wrong[@]}" -ex "vacate translate \$_siginfo._sifields._sigfault.si_addr" \
	"$tmp/target" "$core" >"$tmp/said"
has 'terminated with signal SIGSEGV'
answers "the kernel's core"
has "$(value hole): pool \"aquarium\", space \"reef\""

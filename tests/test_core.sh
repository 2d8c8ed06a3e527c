#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# A core dump holds each page of a pool once, no direct map and no reservation; and /proc/PID/maps
# names what is the pool's.
. tests/crash_target.sh
build_target

# What a dump would hold, by the kernel's own marks: "dd" is MADV_DONTDUMP. In KiB.
start 64
smaps=/proc/$child/smaps
read -r views direct other dumped_reservations < <(awk '
	/^[0-9a-f]+-[0-9a-f]+ / { name = $6; for (i = 7; i <= NF; i++) name = name " " $i; prot = $2 }
	/^Size:/ { size = $2 }
	/^VmFlags:/ {
		dd = / dd( |$)/
		if (name ~ /memfd:vacate:aquarium/ && !dd) views += size
		if (name ~ /memfd:vacate:aquarium/ && dd) direct += size
		if (name !~ /memfd:vacate:aquarium/ && prot ~ /^rw/ && !dd) other += size
		if (prot ~ /^---/ && size > 65536 && !dd) bare++
	}
	END { print views + 0, direct + 0, other + 0, bare + 0 }' "$smaps")
used=$(value frames | sed 's/.*used \([0-9]*\).*/\1/')
blocks=$(value blocks)
echo "to be dumped: $views KiB of pages, $other KiB of everything else; left out: $direct KiB of direct map"
[ "$views" -eq $((used * 4)) ] || fail "$used frames in use, and $views KiB of views to be dumped"
[ "$direct" -eq $((blocks * 16384)) ] || fail "the direct map is $direct KiB"
[ "$dumped_reservations" -eq 0 ] || fail "$dumped_reservations reservations are to be dumped"
[ "$other" -lt $((48 * 1024)) ] || fail "$other KiB of tables, stacks and heap"

# Names.
maps=/proc/$child/maps
for i in $(seq 0 $((blocks - 1))); do
	grep -q "/memfd:vacate:aquarium:$i " "$maps" || fail "no mapping is named after block $i"
done
! grep -q "/memfd:vacate:aquarium:$blocks " "$maps" || fail 'an offline block has mappings'
if [ "$(value names)" = 1 ]; then
	grep -q '\[anon:vacate\]' "$maps" || fail 'reservations have no name'
	grep -q '\[anon:vacate:tables\]' "$maps" || fail 'tables have no name'
else
	echo 'this kernel gives no names to anonymous memory'
	if grep -q '\[anon:vacate' "$maps"; then fail 'names where there are none'; fi
fi
stop

# The same from a core that the kernel has written: each page has a mark of its own.
make_core abort 64
if [ -z "$core" ]; then
	echo "no core to look at: $why"
	exit 0
fi
pages=$(value pages)
marks=$(grep -abo 'VACPAGE[0-9a-f]\{8\}' "$core" | wc -l)
kinds=$(grep -ao 'VACPAGE[0-9a-f]\{8\}' "$core" | sort -u | wc -l)
size=$(stat -c %s "$core")
disk=$(($(stat -c %b "$core") * 512))
used=$(value frames | sed 's/.*used \([0-9]*\).*/\1/')
echo "core: $((size >> 10)) KiB, $((disk >> 10)) KiB on disk, for $((used * 4)) KiB of pages"
[ "$marks" -eq "$pages" ] || fail "$marks pages in the core, $pages in the pool"
[ "$kinds" -eq "$pages" ] || fail "$kinds different pages in the core, $pages in the pool"
[ "$size" -lt $((used * 4096 + (48 << 20))) ] || fail "a core of $size bytes"
[ "$disk" -lt $((used * 4096 + (16 << 20))) ] || fail "$disk bytes on disk"

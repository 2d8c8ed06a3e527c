# SPDX-License-Identifier: MIT
"""
What gdb can say about the pools of a program, live or in a core file:

    vacate pools                  every pool, its memory and what is in use
    vacate blocks [POOL]          its memory blocks
    vacate space [NAME|ID]        spaces and what is mapped in them
    vacate pins [POOL]            who holds what, with the stack that took the pin if it was recorded
    vacate folio PFN|ADDR [POOL]  one folio: counts, flags, where it is mapped
    vacate translate ADDR         from an address to space, mapping, entry, frame, block and memfd offset

Load it with `source vacate-gdb.py`; a gdb whose auto-load directory it is installed in does so by
itself. POOL is a name or an address; without one, all pools, or the only one.

It reads the engine's own tables (src/internal.h) by the debug information of the library, so that has
to be there. It calls no function, takes no lock and changes nothing: a live pool is shown as it was
stopped, maybe in the middle of something. The constants below are the engine's; tests/test_gdb.sh
compares what is printed with what the library answers.
"""
import gdb

PAGE_SHIFT, PB_ORDER = 12, 9
PB_PAGES = 1 << PB_ORDER
MAX_SPACES = 4096
NO_PFN = 0xFFFFFFFF

# struct vac__frame.flags
F_BUDDY, F_RESV, F_BASE, F_HEAD, F_TAIL, F_ISOLATED = 0x10, 0x20, 0x40, 0x80, 0x100, 0x200
F_QUAR, F_SWAPCACHE = 0x400, 0x1000
# Entries.
E_TYPE, E_PRESENT, E_MIGRATION, E_SWAP, E_TABLE = 7, 1, 2, 3, 4
E_READ, E_WRITE, E_EXCL, E_HMAP, E_HREAD, E_HWRITE = 0x10, 0x20, 0x40, 0x100, 0x200, 0x400
E_PFN_SHIFT = 16
# Pins.
RUN_HUGE, RUN_MOVED, PIN_RUNS, SEQ_USED = 1 << 31, 1 << 30, 4, 3
PIN_FLAGS = (
    (1, "write"),
    (2, "longterm"),
    (4, "stack"),
    (0x10, "strict"),
    (0x100, "relocatable"),
    (0x200, "revocable"),
    (0x400, "kept"),
)
LEDGER_OWNER = 40

STATES = ("offline", "online", "isolating", "evacuating", "quarantine")
ZONES = ("movable", "normal")
GUARDS = ("auto", "sigsegv", "userfaultfd")
POPULATED = ("untouched", "4 KiB pages", "2 MiB page")


class Trouble(gdb.GdbError):
    pass


def say(text=""):
    gdb.write(text + "\n")


def number(value):
    return int(value)


def string(value):
    return value.string(errors="replace")


def mib(frames):
    kib = frames << PAGE_SHIFT >> 10
    return "%d MiB" % (kib >> 10) if kib % 1024 == 0 else "%d KiB" % kib


def read(addr, size):
    """Bytes of the program, or None where a core has none."""
    try:
        return bytes(gdb.selected_inferior().read_memory(addr, size))
    except gdb.MemoryError:
        return None


def word(addr, size):
    data = read(addr, size)
    return None if data is None else int.from_bytes(data, "little")


class Layout:
    """Offset and size of the fields of a struct whose array is read in one piece."""

    def __init__(self, name):
        t = gdb.lookup_type("struct " + name)
        self.size = t.sizeof
        self.at = {}
        self._fields(t, 0)

    def _fields(self, t, base):
        for f in t.fields():
            if not hasattr(f, "bitpos"):
                continue
            off = base + f.bitpos // 8
            if f.name:
                self.at[f.name] = (off, f.type.sizeof)
            else:  # an unnamed struct or union
                self._fields(f.type.strip_typedefs(), off)

    def get(self, data, field, base=0):
        off, size = self.at[field]
        return int.from_bytes(data[base + off : base + off + size], "little")


def all_pools():
    try:
        p = gdb.parse_and_eval("vac__pools")
    except gdb.error:
        raise Trouble("no vac__pools: not a program with vacate, or without debug information")
    try:
        found = []
        while number(p):
            found.append(Pool(p))
            p = p["next"]
        return found
    except gdb.MemoryError:
        raise Trouble("the list of pools cannot be read: not started yet, or a child of fork()")


def pools_of(arg):
    found = all_pools()
    if arg:
        found = [p for p in found if p.name == arg or hex(p.addr) == arg]
        if not found:
            raise Trouble("no pool '%s'" % arg)
    if not found:
        raise Trouble("no pool is open")
    return found


class Pool:
    def __init__(self, value):
        self.v = value.dereference()
        self.addr = number(value)
        self.name = string(self.v["name"])
        self.block_shift = number(self.v["block_shift"])
        self.max_blocks = number(self.v["max_blocks"])
        self.direct = number(self.v["direct"])
        self.frames = number(self.v["frames"])
        self.pbs = number(self.v["pbs"])

    def spaces(self):
        data = read(number(self.v["spaces"].address), 8 * MAX_SPACES)
        t = gdb.lookup_type("struct vac_space").pointer()
        for i in range(MAX_SPACES):
            p = int.from_bytes(data[8 * i : 8 * i + 8], "little")
            if p:
                yield Space(self, gdb.Value(p).cast(t))

    def blocks(self):
        """Number, struct and state of each block that there is; their table may be mostly empty."""
        block = Layout("vac__block")
        base = number(self.v["blocks"])
        for i in range(self.max_blocks):
            if i % 64 == 0:
                n = min(64, self.max_blocks - i)
                data = read(base + i * block.size, n * block.size)
            state = block.get(data, "state", i % 64 * block.size) if data else 0
            if state:
                yield i, self.v["blocks"][i], state - 1

    def pageblocks(self, block):
        n = 1 << (self.block_shift - PB_ORDER)
        pb = Layout("vac__pb")
        data = read(self.pbs + block * n * pb.size, n * pb.size)
        for i in range(n if data else 0):
            yield {f: pb.get(data, f, i * pb.size) for f in pb.at}

    def cached(self, slot):
        """The frame that the swap cache has for a slot, or NO_PFN."""
        c = number(self.v["swap"]["slot"][slot]["cache"])
        return c - 1 if c else NO_PFN

    def block_of(self, pfn):
        return pfn >> self.block_shift

    def frame(self, pfn):
        f = Layout("vac__frame")
        if pfn >= self.max_blocks << self.block_shift:
            raise Trouble("pool %s has no frame %d" % (self.name, pfn))
        data = read(self.frames + pfn * f.size, f.size)
        if data is None:
            raise Trouble("frame %d: its descriptor is not in this core: never used" % pfn)
        return {k: f.get(data, k) for k in ("word", "lock", "flags", "family", "index")}

    def pins(self):
        ledger = self.v["ledger"]
        for i in range(number(ledger["top"])):
            r = ledger["rec"][i]
            if number(r["seq"]) & SEQ_USED:
                yield Pin(self, i, r)


class Space:
    def __init__(self, pool, value):
        self.pool = pool
        self.v = value.dereference()
        self.id = number(self.v["id"])
        self.family = number(self.v["family"])
        self.name = string(self.v["name"])
        self.base = number(self.v["base"])
        self.pages = number(self.v["pages"])

    def holds(self, addr):
        return self.base <= addr < self.base + (self.pages << PAGE_SHIFT)

    def vmas(self):
        vma = Layout("vac__vma")
        n = number(self.v["nr_vmas"])
        data = read(number(self.v["vmas"]), n * vma.size) if n else b""
        for i in range(n if data else 0):
            yield {f: vma.get(data, f, i * vma.size) for f in vma.at}

    def vma_of(self, page):
        for v in self.vmas():
            if v["start"] <= page < v["end"]:
                return v
        return None

    def entry(self, page):
        """The entry that translates a page, and whether it is a huge folio's."""
        e = word(number(self.v["pmd"]) + (page >> PB_ORDER) * 8, 8) or 0
        if e & E_TYPE == E_TABLE:
            return word(number(self.v["pte"]) + page * 8, 8) or 0, False
        if e:
            e += page % PB_PAGES << E_PFN_SHIFT
        return e, bool(e)


class Pin:
    def __init__(self, pool, index, r):
        self.pool, self.index = pool, index
        self.flags, self.tid = number(r["flags"]), number(r["tid"])
        self.space = number(r["space"]) - 1
        self.addr, self.len, self.when = (number(r[f]) for f in ("addr", "len", "when_ns"))
        owner = b"".join(number(r["owner"][i]).to_bytes(8, "little") for i in range(LEDGER_OWNER // 8))
        self.owner = owner.split(b"\0")[0].decode(errors="replace")
        n = number(r["nr_runs"])
        at = number(r["more"]) if n > PIN_RUNS else number(r["run"].address)
        data = read(at, 8 * n) or b""
        self.runs = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        self.stack = []
        stack = number(r["stack"])
        if stack:
            s = pool.v["ledger"]["stacks"][stack - 1]
            self.stack = [number(s["pc"][k]) for k in range(number(s["depth"]))]

    def holds(self, pfn):
        for run in self.runs:
            first, n = run & 0xFFFFFFFF, run >> 32
            step = PB_PAGES if n & RUN_HUGE else 1
            if first <= pfn < first + (n & RUN_MOVED - 1) * step:
                return True
        return False

    def print(self, with_stack=True):
        flags = [name for bit, name in PIN_FLAGS if self.flags & bit]
        space = [s.name for s in self.pool.spaces() if s.id == self.space]
        say(
            '  "%s" thread %d: %#x+%d in space %s%s, taken at %d.%03d s of the monotonic clock'
            % (
                self.owner,
                self.tid,
                self.addr,
                self.len,
                space[0] if space else "?",
                " (%s)" % ", ".join(flags) if flags else "",
                self.when // 10**9,
                self.when // 10**6 % 1000,
            )
        )
        for pc in self.stack if with_stack else []:
            try:
                block = gdb.block_for_pc(pc - 1)
                while block and not block.function:
                    block = block.superblock
                sal = gdb.find_pc_line(pc - 1)
                name = str(block.function) if block else "?"
                where = "%s:%d" % (sal.symtab.filename, sal.line) if sal.symtab else ""
            except (gdb.error, RuntimeError):
                name, where = "?", ""
            say("      %#x %s %s" % (pc, name, where))


def counts(w):
    flags = [n for bit, n in ((60, "frozen"), (61, "gated"), (62, "waiters"), (63, "poison")) if w >> bit & 1]
    return "refs %d, pins %d, map %d%s" % (
        w & 0xFFFFF,
        w >> 20 & 0xFFFFF,
        w >> 40 & 0xFFFFF,
        "".join(", " + f for f in flags),
    )


def rights(read_bit, write_bit):
    return ("r" if read_bit else "-") + ("w" if write_bit else "-")


def find(addr):
    for pool in all_pools():
        for s in pool.spaces():
            if s.holds(addr):
                return pool, s
        size = pool.max_blocks << (pool.block_shift + PAGE_SHIFT)
        if pool.direct <= addr < pool.direct + size:
            return pool, None
    raise Trouble("%#x is in no space of a pool, nor in a direct map" % addr)


def argument(text):
    try:
        return number(gdb.parse_and_eval(text)) & (1 << 64) - 1
    except gdb.error as e:
        raise Trouble(str(e))


def print_folio(pool, pfn, indent="  "):
    f = pool.frame(pfn)
    flags = f["flags"]
    if flags & F_TAIL:
        pfn -= pfn % PB_PAGES
        f = pool.frame(pfn)
        flags = f["flags"]
    where = "block %d, memfd offset %#x" % (
        pool.block_of(pfn),
        (pfn & (1 << pool.block_shift) - 1) << PAGE_SHIFT,
    )
    if not flags & (F_BASE | F_HEAD):
        kind = "no folio"
        for flag, name in ((F_BUDDY, "free"), (F_RESV, "free, kept for a neighbour"), (F_QUAR, "in quarantine")):
            kind = name if flags & flag else kind
        say("%sframe %d: %s (%s)" % (indent, pfn, kind, where))
        return
    say(
        "%sfolio %d: %s, %s%s%s"
        % (
            indent,
            pfn,
            "huge" if flags & F_HEAD else "base",
            counts(f["word"]),
            ", picked to move" if flags & F_ISOLATED else "",
            ", locked" if f["lock"] & 1 else "",
        )
    )
    say("%s  %s, in the direct map %#x" % (indent, where, pool.direct + (pfn << PAGE_SHIFT)))
    if flags & F_SWAPCACHE:
        say("%s  in the swap cache, for slot %d" % (indent, number(pool.v["swap"]["of"][pfn]) - 1))
    for s in pool.spaces():
        page = f["index"]
        if s.family != f["family"] or page >= s.pages:
            continue
        e, _ = s.entry(page)
        if e & E_TYPE in (E_PRESENT, E_MIGRATION) and e >> E_PFN_SHIFT == pfn:
            say("%s  mapped at %#x in space %s" % (indent, s.base + (page << PAGE_SHIFT), s.name))
    for p in pool.pins():
        if p.holds(pfn):
            say("%s  pinned by:" % indent)
            p.print(False)


class Vacate(gdb.Command):
    """Show the memory pools of a program that uses libvacate. `help vacate` lists what there is."""

    def __init__(self):
        super().__init__("vacate", gdb.COMMAND_DATA, prefix=True)


class Pools(gdb.Command):
    """vacate pools: every pool, its memory and what is in use."""

    def __init__(self):
        super().__init__("vacate pools", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        for p in pools_of(arg):
            n = {k: number(p.v["nr_" + k]) for k in ("total", "free", "resv", "isolated")}
            used = n["total"] - n["free"] - n["resv"] - n["isolated"]
            states = [state for _, _, state in p.blocks()]
            say(
                'pool "%s" at %#x: guard %s, blocks of %s: %d, %d online'
                % (
                    p.name,
                    p.addr,
                    GUARDS[number(p.v["guard"])],
                    mib(1 << p.block_shift),
                    len(states),
                    sum(s > 0 for s in states),
                )
            )
            say(
                "  frames %d: used %d, free %d, reserved %d, isolated %d"
                % (n["total"], used, n["free"], n["resv"], n["isolated"])
            )
            say(
                "  spaces %d, pins %d, offlines under way %d, faults refused %d"
                % (
                    sum(1 for _ in p.spaces()),
                    sum(1 for _ in p.pins()),
                    number(p.v["offliners"]),
                    number(p.v["refused"]["count"]),
                )
            )
            if number(p.v["refused"]["count"]):
                say("  last refused: %s" % string(p.v["refused"]["text"]))


class Blocks(gdb.Command):
    """vacate blocks [POOL]: the memory blocks of a pool."""

    def __init__(self):
        super().__init__("vacate blocks", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        for p in pools_of(arg):
            say('pool "%s": blocks of %s' % (p.name, mib(1 << p.block_shift)))
            for i, b, state in p.blocks():
                line = "  block %d: %s" % (i, STATES[state])
                if state:
                    pbs = list(p.pageblocks(i))
                    free, resv = (sum(pb[k] for pb in pbs) for k in ("nr_free", "nr_resv"))
                    kinds = ", ".join(
                        "%d %s" % (sum(pb["populated"] == k for pb in pbs), POPULATED[k])
                        for k in range(3)
                        if any(pb["populated"] == k for pb in pbs)
                    )
                    line += ", %s, fd %d, used %d, free %d, reserved %d; pageblocks: %s; direct %#x" % (
                        ZONES[number(b["zone"])],
                        number(b["fd"]),
                        len(pbs) * PB_PAGES - free - resv,
                        free,
                        resv,
                        kinds,
                        p.direct + (i << p.block_shift + PAGE_SHIFT),
                    )
                say(line)


class Spaces(gdb.Command):
    """vacate space [NAME|ID]: the spaces of all pools, and what is mapped in them."""

    def __init__(self):
        super().__init__("vacate space", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        found = False
        for p in pools_of(""):
            for s in p.spaces():
                if arg and arg not in (s.name, str(s.id)):
                    continue
                found = True
                say(
                    'space %d "%s" of pool "%s": %#x-%#x'
                    % (s.id, s.name, p.name, s.base, s.base + (s.pages << PAGE_SHIFT))
                )
                for v in s.vmas():
                    say(
                        "  %#x-%#x %s %s%s"
                        % (
                            s.base + (v["start"] << PAGE_SHIFT),
                            s.base + (v["end"] << PAGE_SHIFT),
                            rights(v["prot"], v["prot"] & 2),
                            mib(v["end"] - v["start"]),
                            " nohuge" if v["nohuge"] else "",
                        )
                    )
        if arg and not found:
            raise Trouble("no space '%s'" % arg)


class Pins(gdb.Command):
    """vacate pins [POOL]: who holds what."""

    def __init__(self):
        super().__init__("vacate pins", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        for p in pools_of(arg):
            pins = list(p.pins())
            say('pool "%s": %d pins' % (p.name, len(pins)))
            for pin in pins:
                pin.print()


class Folio(gdb.Command):
    """vacate folio PFN|ADDR [POOL]: counts, flags and mappings of one folio.

    A number below 2^32 is a frame, anything else an address in a space or a direct map."""

    def __init__(self):
        super().__init__("vacate folio", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        argv = gdb.string_to_argv(arg)
        if not 1 <= len(argv) <= 2:
            raise Trouble("usage: vacate folio PFN|ADDR [POOL]")
        what = argument(argv[0])
        if what < NO_PFN:
            pools = pools_of(argv[1] if len(argv) > 1 else "")
            if len(pools) > 1:
                raise Trouble("there are %d pools: name one" % len(pools))
            pool, pfn = pools[0], what
        else:
            pool, s = find(what)
            if s:
                e, _ = s.entry(what - s.base >> PAGE_SHIFT)
                if not e:
                    raise Trouble("nothing is there yet")
                pfn = e >> E_PFN_SHIFT
                if e & E_TYPE == E_SWAP:
                    pfn = pool.cached(pfn)
                    if pfn == NO_PFN:
                        raise Trouble("it is in slot %d of the swap file" % (e >> E_PFN_SHIFT))
            else:
                pfn = what - pool.direct >> PAGE_SHIFT
        say('pool "%s"' % pool.name)
        print_folio(pool, pfn)


class Translate(gdb.Command):
    """vacate translate ADDR: from an address to space, mapping, entry, frame, block."""

    def __init__(self):
        super().__init__("vacate translate", gdb.COMMAND_DATA)

    def invoke(self, arg, from_tty):
        if not arg:
            raise Trouble("usage: vacate translate ADDR")
        addr = argument(arg)
        pool, s = find(addr)
        if not s:
            pfn = addr - pool.direct >> PAGE_SHIFT
            say('%#x: direct map of pool "%s", frame %d' % (addr, pool.name, pfn))
            print_folio(pool, pfn)
            return
        page = addr - s.base >> PAGE_SHIFT
        say('%#x: pool "%s", space "%s", page %d' % (addr, pool.name, s.name, page))
        v = s.vma_of(page)
        if not v:
            say("  not mapped")
            return
        say(
            "  mapping %#x-%#x %s"
            % (
                s.base + (v["start"] << PAGE_SHIFT),
                s.base + (v["end"] << PAGE_SHIFT),
                rights(v["prot"], v["prot"] & 2),
            )
        )
        e, huge = s.entry(page)
        if not e:
            say("  entry: none, never touched")
            return
        pfn = e >> E_PFN_SHIFT
        if e & E_TYPE == E_SWAP:
            say("  entry %#x: out, in slot %d of the swap file, allowed %s" % (e, pfn, rights(e & E_READ, e & E_WRITE)))
            pfn = pool.cached(pfn)
            if pfn != NO_PFN:
                print_folio(pool, pfn)
            return
        say(
            "  entry %#x: %s, %s, allowed %s, host shows %s"
            % (
                e,
                "present" if e & E_TYPE == E_PRESENT else "leaving (migration entry)",
                "huge" if huge else "base",
                rights(e & E_READ, e & E_WRITE),
                rights(e & E_HREAD, e & E_HWRITE) if e & E_HMAP else "nothing",
            )
        )
        off = ((pfn & (1 << pool.block_shift) - 1) << PAGE_SHIFT) + addr % (1 << PAGE_SHIFT)
        say(
            "  frame %d: block %d, memfd offset %#x, direct map %#x"
            % (pfn, pool.block_of(pfn), off, pool.direct + (pfn << PAGE_SHIFT) + addr % (1 << PAGE_SHIFT))
        )
        print_folio(pool, pfn)


Vacate()
for command in (Pools, Blocks, Spaces, Pins, Folio, Translate):
    command()

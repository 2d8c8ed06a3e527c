# SPDX-License-Identifier: MIT
#
# vacate: build, test, install. GNU make 4.3 or later.
#
#	make              build/vacate, build/libvacate.a, build/libvacate.so, build/examples/*
#	make demo         install what is missing, build, run the demonstration
#	make test         install what is missing, then everything: see scripts/runtests
#	make test-normal  one variant of that: normal asan tsan clang package guest (test-quick = normal)
#	make mutants      the simulator against every known mistake, put back
#	make fuzz         libFuzzer at the control socket's requests and captures, FUZZ_RUNS inputs (needs clang)
#	make bench        run the measurements
#	make man          the manual pages, into build/man
#	make install      into $(DESTDIR)$(PREFIX)
#	make format       lay out all sources with clang-format; format-check only looks
#	make clean        remove all build directories
#
# Variables, on the command line or from the environment:
#
#	CC=gcc|clang      the compiler; the object files know with what they were made
#	CFLAGS, CPPFLAGS, LDFLAGS   added after our own; CFLAGS is -O2 -g if not given
#	ASAN=1 UBSAN=1    with sanitizers, in build-asan, build-ubsan, build-asan-ubsan
#	TSAN=1            with the thread sanitizer, in build-tsan
#	DEBUG=1           with VAC_DEBUG (lock ranks and costly assertions checked), in build-debug
#	WERROR=1          warnings are errors
#	V=1               show the commands
#	DEMO_FLAGS, BENCH_FLAGS     arguments for `vacate demo` and `vacate bench`

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
LIBDIR  ?= $(PREFIX)/lib
INCDIR  ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
MANDIR  ?= $(PREFIX)/share/man
DOCDIR  ?= $(PREFIX)/share/doc/vacate

ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS  ?= -O2 -g
INSTALL ?= install

# ---- What there is to build ----------------------------------------------------------------------
#
# Everything is found by wildcard: a new file needs no line here. A part that only one platform has
# lives in a directory of its own.

# The client's side of the control socket goes into the command and the tests only.
LIB_SRC  := $(wildcard src/*.c port/linux/*.c) $(filter-out control/client.c,$(wildcard control/*.c))
CLI_SRC  := $(wildcard cli/*.c bench/*.c host/*.c) control/client.c
TEST_SRC := $(wildcard tests/test_*.c)
UTIL_SRC := $(wildcard tests/util*.c) control/client.c
EXAMPLE_SRC := $(wildcard examples/*.c)

# The simulator: the engine again, over another port, with small sizes and lock ranks checked.
SIM_SRC  := $(wildcard src/*.c port/sim/*.c sim/*.c)

FORMATTED := $(wildcard $(foreach d,include src control port port/linux port/sim sim host host/bpf cli bench examples tests tests/guest fuzz,$d/*.c \
	$d/*.h))

VERSION := $(shell sed -n 's/^.define VAC_VERSION "\(.*\)"/\1/p' include/vacate.h)
SONAME  := libvacate.so.0

# ---- How -----------------------------------------------------------------------------------------

comma := ,
SAN := $(if $(filter 1,$(ASAN)),address) $(if $(filter 1,$(UBSAN)),undefined) \
       $(if $(filter 1,$(TSAN)),thread)
SAN := $(strip $(SAN))

# One build directory a kind of build; BUILD=... overrides.
BUILD ?= build$(if $(filter 1,$(DEBUG)),-debug)$(if $(filter 1,$(ASAN)),-asan)$(if \
	$(filter 1,$(UBSAN)),-ubsan)$(if $(filter 1,$(TSAN)),-tsan)
B := $(BUILD)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
	-Wwrite-strings

# frame pointers: call stacks of pins are walked in a signal handler and on the fast path.
# initial-exec: thread-local storage is reached from the fault handler, and must not be allocated
# there on first use. no-semantic-interposition: calls within the library may be inlined.
FLAGS := -std=c11 -pthread -fPIC -fno-omit-frame-pointer -fno-semantic-interposition \
	-ftls-model=initial-exec -MMD -MP $(WARN)

ifneq ($(SAN),)
SANFLAGS := -fsanitize=$(subst $() ,$(comma),$(SAN)) -fno-sanitize-recover=all \
	$(if $(filter 1,$(ASAN)),-DVAC_ASAN) $(if $(filter 1,$(TSAN)),-DVAC_TSAN)
FLAGS += $(SANFLAGS)
else
# Sanitizers make compilers see ghosts, so only plain builds are strict.
FLAGS += $(if $(filter 1,$(WERROR)),-Werror)
endif
FLAGS += $(if $(filter 1,$(DEBUG)),-DVAC_DEBUG) $(if $(filter 1,$(FUZZ)),-fsanitize=fuzzer-no-link)

# The engine is standard C and sees no operating system: no _GNU_SOURCE. The command sees the
# public header only.
FLAGS_src   = -Iinclude -Isrc -I.
FLAGS_port  = -Iinclude -Isrc -I. -D_GNU_SOURCE
FLAGS_control = $(FLAGS_port)
FLAGS_cli   = -Iinclude -I. -D_GNU_SOURCE $(CLI_INC)
FLAGS_fuzz  = $(FLAGS_port)
FLAGS_bench = $(FLAGS_cli)
FLAGS_host  = $(FLAGS_cli) $(if $(BPF),-DVAC_BPF -I$B/host)
FLAGS_tests = -Iinclude -Isrc -I. -D_GNU_SOURCE $(TEST_INC)

FLAGS_sim   = -Iinclude -Isrc -I. -D_GNU_SOURCE $(CLI_INC)

# now: nothing is left to be resolved inside the fault handler. -rdynamic: reports can name the
# functions of a stack.
LINK = $(CC) -pthread $(SANFLAGS) -Wl,-z,now $(CFLAGS) $(LDFLAGS)

# Of libraries we ask pkg-config, but only when something is made with them, and once.
#
# The host verbs walk the kernel by BPF where there is what builds it; BPF= leaves it out, and they then
# say what they cannot see.
BPFTOOL ?= $(or $(shell command -v bpftool),$(wildcard /usr/sbin/bpftool))
BPF     ?= $(if $(BPFTOOL),$(shell command -v clang >/dev/null && pkg-config --exists libbpf && echo y))
BPF     := $(BPF)

CLI_PKGS  := smartcols jansson liburing libdw $(if $(BPF),libbpf)
TEST_PKGS := cmocka liburing jansson

CLI_INC   = $(call once,CLI_INC,$(call pkg,--cflags,$(CLI_PKGS)))
CLI_LIBS  = $(call once,CLI_LIBS,$(call pkg,--libs,$(CLI_PKGS)))
TEST_INC  = $(call once,TEST_INC,$(call pkg,--cflags,$(TEST_PKGS)))
TEST_LIBS = $(call once,TEST_LIBS,$(call pkg,--libs,$(TEST_PKGS)))

once = $(eval $1 := $2)$($1)
pkg  = $(if $(shell pkg-config --exists $2 && echo y),$(shell pkg-config $1 $2),$(error \
	a library is missing, one of $2: run scripts/setup))

# ---- Rules ---------------------------------------------------------------------------------------

MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: all tests demo test test-quick mutants fuzz bench man install format format-check clean FORCE

Q   := $(if $(filter 1,$(V)),,@)
SAY := $(if $(Q),$(if $(findstring s,$(firstword -$(MAKEFLAGS))),,y))
say  = $(if $(SAY),@printf '  %-6s %s\n' $1 $@)

LIB_OBJ   := $(LIB_SRC:%.c=$B/obj/%.o)
CLI_OBJ   := $(CLI_SRC:%.c=$B/obj/%.o)
SIM_OBJ   := $(SIM_SRC:%.c=$B/sim/%.o)
DEBUG_OBJ := $(LIB_SRC:%.c=$B/debug/%.o)
TEST_OBJ  := $(TEST_SRC:%.c=$B/debug/%.o)
UTIL_OBJ  := $(UTIL_SRC:%.c=$B/debug/%.o) $B/debug/line_buffered.o
TESTS     := $(TEST_SRC:%.c=$B/%)
EXAMPLES  := $(EXAMPLE_SRC:%.c=$B/%)
HOST_OBJ  := $B/debug/host/suspend.o $B/debug/host/kill.o
OBJ       := $(LIB_OBJ) $(CLI_OBJ) $(SIM_OBJ) $(DEBUG_OBJ) $(TEST_OBJ) $(HOST_OBJ) $(UTIL_OBJ)

all: $B/vacate $B/libvacate.a $B/libvacate.so $B/vacate.pc $(EXAMPLES)

# Two engines in one program: all names of the simulator's but the explorer's become local to it.
$B/sim.o: $(SIM_OBJ)
	$(call say,LINK)
	$Q$(CC) -r -nostdlib -o $@.all $(SIM_OBJ)
	$Qobjcopy --keep-global-symbol=vac_sim_main --keep-global-symbol=vac_sim_explore $@.all $@

# The simulator alone, for whoever needs no more.
$B/sim.bin: $(SIM_OBJ)
	$(call say,LINK)
	$Q$(CC) -Wl,--defsym,main=vac_sim_main -o $@ $^ $(CLI_LIBS)

$B/vacate: $(CLI_OBJ) $B/sim.o $B/libvacate.a
	$(call say,LINK)
	$Q$(LINK) -rdynamic -o $@ $^ $(CLI_LIBS)

$B/libvacate.a: $(LIB_OBJ) $B/objects
$B/debug/libvacate.a: $(DEBUG_OBJ) $B/objects
%.a:
	$(call say,AR)
	$Qrm -f $@ && $(AR) rcs $@ $(filter %.o,$^)

# nodelete: the fault handler must outlive a dlclose().
$B/libvacate.so.$(VERSION): $(LIB_OBJ) $B/objects src/libvacate.map
	$(call say,LINK)
	$Q$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=src/libvacate.map \
		-Wl,-z,nodelete $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -o $@ $(LIB_OBJ)

$B/libvacate.so: $B/libvacate.so.$(VERSION)
	$Qln -sf $(<F) $B/$(SONAME) && ln -sf $(SONAME) $@

# As a program outside of this tree is: one file, the public headers, the library.
$(EXAMPLES): $B/%: %.c $B/libvacate.a
	$(call say,CC)
	@mkdir -p $(@D)
	$Q$(CC) $(CPPFLAGS) -std=c11 -pthread -MMD -MP $(WARN) $(SANFLAGS) $(if $(SAN),,$(if $(filter \
		1,$(WERROR)),-Werror)) -Iinclude $(CFLAGS) $(LDFLAGS) -o $@ $< $B/libvacate.a

# The tests are linked with an engine of their own that checks itself (VAC_DEBUG).
tests: $(TESTS) $B/tests/confine

$B/tests/test_host_suspend: $(HOST_OBJ)

# The driver and the planters that run in the QEMU guest: tests/guest/run.
$B/tests/guest/guest: $(wildcard tests/guest/*.c tests/guest/*.h) cli/cmd.h $B/flags
	$(call say,CC)
	@mkdir -p $(@D)
	$Q$(CC) -std=c11 -pthread -D_GNU_SOURCE $(WARN) $(if $(filter 1,$(WERROR)),-Werror) -O1 -g -I. -o $@ \
		$(filter %.c,$^) $(call pkg,--cflags --libs,jansson liburing)

# Runs a command on a machine that forbids things; no test by itself.
$B/tests/confine: tests/confine.c $B/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE $(WARN) -O1 -o $@ $<

$(TESTS): $B/tests/%: $B/debug/tests/%.o $(UTIL_OBJ) $B/debug/libvacate.a
	$(call say,LINK)
	@mkdir -p $(@D)
	$Q$(LINK) -rdynamic $(WRAP:%=-Wl$(comma)--wrap=%) -o $@ $^ $(TEST_LIBS)

# Calls of the library that a test puts its own in the place of.
$B/tests/test_rollback_snapshot: WRAP := vac__port_meta_reserve vac__port_table_reserve vac__base_alloc \
	vac__huge_alloc
$B/tests/test_rollback_aio: WRAP := syscall vac__port_meta_reserve vac__port_thread_start

COMPILE = $(CC) $(CPPFLAGS) $(FLAGS) $(FLAGS_$(firstword $(subst /, ,$<))) $(CFLAGS)

$(LIB_OBJ) $(CLI_OBJ): $B/obj/%.o: %.c $B/flags
	$(call say,CC)
	@mkdir -p $(@D)
	$Q$(COMPILE) -c -o $@ $<

# BPF objects are the same for every kernel (CO-RE) and every sanitizer. clang's BPF target does not
# know where a multiarch system keeps asm/types.h.
BPF_ARCH := $(subst x86_64,x86,$(subst aarch64,arm64,$(shell uname -m)))
$B/host/%.skel.h: host/bpf/%.bpf.c $(wildcard host/bpf/*.h) $B/flags
	$(call say,BPF)
	@mkdir -p $(@D)
	$Qclang -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -I/usr/include/$(shell \
		uname -m)-linux-gnu $(CLI_INC) -Wall -Werror -c -o $(@:.skel.h=.bpf.o) $<
	$Q$(BPFTOOL) gen skeleton $(@:.skel.h=.bpf.o) name $*_bpf >$@

$(if $(BPF),$(patsubst host/bpf/%.bpf.c,$B/obj/host/%.o,$(wildcard host/bpf/*.bpf.c))): \
	$B/obj/host/%.o: $B/host/%.skel.h

# The simulator's threads are its own and switch stacks themselves: no sanitizer follows them.
$(SIM_OBJ): $B/sim/%.o: %.c $B/flags
	$(call say,CC)
	@mkdir -p $(@D)
	$Q$(filter-out $(SANFLAGS),$(COMPILE)) -DVAC_SIM -DVAC_DEBUG -c -o $@ $<

$(DEBUG_OBJ) $(TEST_OBJ) $(HOST_OBJ) $(UTIL_SRC:%.c=$B/debug/%.o): $B/debug/%.o: %.c $B/flags
	$(call say,CC)
	@mkdir -p $(@D)
	$Q$(COMPILE) -DVAC_DEBUG -c -o $@ $<

# So that what a test has printed is not lost when it crashes. Not by stdbuf(1): whatever is
# preloaded comes before the runtime of a sanitizer, and makes cancelled threads crash under TSan.
$B/debug/line_buffered.o: $B/flags
	@mkdir -p $(@D)
	$Qprintf '%s\n' '#include <stdio.h>' \
		'__attribute__((constructor)) static void line_buffered(void)' \
		'{ setvbuf(stdout, NULL, _IOLBF, 0); }' | $(COMPILE) -MF $(@:.o=.d) -x c -c -o $@ -

-include $(OBJ:.o=.d) $(EXAMPLES:=.d)

# Written anew only when they change, so that other flags, or a file fewer, rebuild what they must.
$B/flags: FORCE
	@$(call remember,$(CC) $(CPPFLAGS) $(FLAGS) $(CFLAGS) $(LDFLAGS) BPF=$(BPF))
$B/objects: FORCE
	@$(call remember,$(LIB_OBJ))
remember = mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$1)' >$@.new; \
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# ---- Running -------------------------------------------------------------------------------------
#
# scripts/setup may install what this make has already looked for, hence the second make.

demo:
	@scripts/setup build
	@$(MAKE) all
	$B/vacate demo $(DEMO_FLAGS) </dev/null

test:
	@scripts/setup
	@$(RUNTESTS) all

test-quick: test-normal
test-%:
	@scripts/setup
	@$(RUNTESTS) $*

RUNTESTS = CC='$(CC)' WERROR='$(WERROR)' scripts/runtests

# The mutants: each known mistake, put back into a copy, must be found.
mutants: all
	scripts/mutants all

# What comes in from outside, under libFuzzer and sanitizers, beginning with the corpus: requests of the control
# socket, and captured machines. What is found is left in build-fuzz. The engine's own SIGSEGV handler must stay.
# Time is a mistake, too: reading a capture is bounded by its size.
FUZZ_RUNS ?= 1000000
fuzz:
	@$(MAKE) CC=clang FUZZ=1 ASAN=1 UBSAN=1 BUILD=build-fuzz build-fuzz/fuzz_control build-fuzz/fuzz_capture
	@mkdir -p build-fuzz/found build-fuzz/found-capture
	build-fuzz/fuzz_control -handle_segv=0 -runs=$(FUZZ_RUNS) -max_len=4096 -print_final_stats=1 \
		-artifact_prefix=build-fuzz/ build-fuzz/found fuzz/corpus/control
	build-fuzz/fuzz_capture -runs=$(FUZZ_CAPTURE_RUNS) -max_len=4096 -timeout=$(FUZZ_TIMEOUT) -print_final_stats=1 \
		-dict=fuzz/capture.dict -rss_limit_mb=4096 -artifact_prefix=build-fuzz/ build-fuzz/found-capture fuzz/corpus/capture
FUZZ_CAPTURE_RUNS ?= $(FUZZ_RUNS)
FUZZ_TIMEOUT ?= 60

$B/fuzz_control: fuzz/fuzz_control.c $B/debug/libvacate.a $B/flags
	$(call say,LINK)
	$Q$(COMPILE) -DVAC_DEBUG -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $B/debug/libvacate.a

# The reading host verbs alone, without what the rest of the command is linked with.
FUZZ_CAPTURE := $(filter $B/obj/host/%,$(CLI_OBJ)) $(patsubst %,$B/obj/cli/%.o,cmd_host_ls cmd_host_why cmd_metrics \
	host_target out opt)
$B/fuzz_capture: fuzz/fuzz_capture.c $(FUZZ_CAPTURE) $B/flags
	$(call say,LINK)
	$Q$(COMPILE) $(CLI_INC) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(FUZZ_CAPTURE) $(CLI_LIBS)

bench: all
	$B/vacate bench $(BENCH_FLAGS)

# ---- Manual pages, installation ------------------------------------------------------------------

MAN := $(patsubst man/%.scd,$B/man/%,$(wildcard man/*.scd))

man: $(MAN)

$(MAN): $B/man/%: man/%.scd
	$(call say,SCDOC)
	@mkdir -p $(@D)
	$Qscdoc <$< >$@

$B/vacate.pc: vacate.pc.in include/vacate.h $B/prefix
	$Qsed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCDIR@|$(INCDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' $< >$@
$B/prefix: FORCE
	@$(call remember,$(PREFIX) $(LIBDIR) $(INCDIR))

D = $(DESTDIR)

install: all $(if $(shell command -v scdoc),man)
	$(INSTALL) -d '$D$(BINDIR)' '$D$(INCDIR)' '$D$(LIBDIR)/pkgconfig'
	$(INSTALL) -m 755 $B/vacate '$D$(BINDIR)'
	$(INSTALL) -m 644 include/vacate.h include/vacate_io.h include/vacate_aio.h '$D$(INCDIR)'
	$(INSTALL) -m 644 $B/libvacate.a '$D$(LIBDIR)'
	$(INSTALL) -m 755 $B/libvacate.so.$(VERSION) '$D$(LIBDIR)'
	ln -sf libvacate.so.$(VERSION) '$D$(LIBDIR)/$(SONAME)'
	ln -sf $(SONAME) '$D$(LIBDIR)/libvacate.so'
	$(INSTALL) -m 644 $B/vacate.pc '$D$(LIBDIR)/pkgconfig'
	$(INSTALL) -d '$D$(DATADIR)/vacate' '$D$(DATADIR)/gdb/auto-load$(LIBDIR)'
	$(INSTALL) -m 644 gdb/vacate-gdb.py '$D$(DATADIR)/vacate'
	$(INSTALL) -d '$D$(DOCDIR)/examples'
	$(INSTALL) -m 644 $(EXAMPLE_SRC) '$D$(DOCDIR)/examples'
	$(INSTALL) -m 644 gdb/vacate-gdb.py \
		'$D$(DATADIR)/gdb/auto-load$(LIBDIR)/libvacate.so.$(VERSION)-gdb.py'
ifneq ($(shell command -v scdoc),)
	$(INSTALL) -d '$D$(MANDIR)/man1' '$D$(MANDIR)/man3' '$D$(MANDIR)/man7'
	$(INSTALL) -m 644 $(filter %.1,$(MAN)) '$D$(MANDIR)/man1'
	$(INSTALL) -m 644 $(filter %.3,$(MAN)) '$D$(MANDIR)/man3'
	$(INSTALL) -m 644 $(filter %.7,$(MAN)) '$D$(MANDIR)/man7'
else
	@echo 'scdoc is not installed: no manual pages' >&2
endif

# ---- Sources -------------------------------------------------------------------------------------

format:
	clang-format -i $(FORMATTED)

format-check:
	clang-format --dry-run -Werror $(FORMATTED)

clean:
	rm -rf build build-*

# libslim: build, demo, tests. See README.md.

CARGO ?= cargo
PYTHON ?= python3
CC ?= cc
GO ?= go
VENV := target/venv
OLD_VENV := target/venv-3.3.1
RELEASE := target/release
HELLO := target/examples-c/hello
H2SPEC := target/h2spec/h2spec

# How long `make fuzz` takes for each target, and which.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= http2 grpc message view node name token config

.PHONY: all demo test soak fuzz bench header third-party lint clean install uninstall

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# Where `make install` puts things, and what packagers put before it.
PREFIX ?= /usr/local
DESTDIR ?=
INSTALL ?= install
# The profile that is installed; tests install their own.
BUILT ?= $(RELEASE)

# Leaves a usable target/release: PKG_CONFIG_PATH=target/release pkg-config --libs slim
all:
	$(CARGO) build --release --features cli
	@ln -sf libslim.so $(RELEASE)/libslim.so.0
	@$(call pc,$(CURDIR)/$(RELEASE),$(CURDIR)/$(RELEASE),$(CURDIR)/include) > $(RELEASE)/slim.pc

# $(call pc,PREFIX,LIBDIR,INCLUDEDIR): the text of slim.pc.
pc = sed -e 's|@prefix@|$(1)|' -e 's|@libdir@|$(2)|' -e 's|@includedir@|$(3)|' \
	-e 's|@version@|$(VERSION)|' include/slim.pc.in

# Copies what `make` has built: it builds nothing, so that it can run as another user.
install:
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/share/doc/slim
	$(INSTALL) -m 755 $(BUILT)/slim $(DESTDIR)$(PREFIX)/bin/slim
	$(INSTALL) -m 644 include/slim.h $(DESTDIR)$(PREFIX)/include/slim.h
	$(INSTALL) -m 755 $(BUILT)/libslim.so $(DESTDIR)$(PREFIX)/lib/libslim.so.$(VERSION)
	ln -sf libslim.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libslim.so.0
	ln -sf libslim.so.0 $(DESTDIR)$(PREFIX)/lib/libslim.so
	$(INSTALL) -m 644 $(BUILT)/libslim.a $(DESTDIR)$(PREFIX)/lib/libslim.a
	$(call pc,$(PREFIX),$${prefix}/lib,$${prefix}/include) \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/slim.pc
	$(INSTALL) -m 644 include/slim-config.md $(DESTDIR)$(PREFIX)/share/doc/slim/slim-config.md

uninstall:
	cd $(DESTDIR)$(PREFIX) && rm -f bin/slim include/slim.h lib/libslim.so.$(VERSION) \
		lib/libslim.so.0 lib/libslim.so lib/libslim.a lib/pkgconfig/slim.pc \
		share/doc/slim/slim-config.md
	rmdir $(DESTDIR)$(PREFIX)/share/doc/slim 2>/dev/null || true

# The example programs, with what pkg-config says of the fresh build.
$(HELLO): all
	@mkdir -p $(@D)
	PKG_CONFIG_PATH=$(CURDIR)/$(RELEASE) $(MAKE) -C ffi-examples/c OUT=$(CURDIR)/$(@D) \
		CFLAGS="-O2 -Wall -Wextra -Wpedantic -Wconversion -Werror"

# A node, and programs in C, Python and Go that talk through it; what they say is printed.
demo: $(HELLO)
	@PYTHON=$(PYTHON) GO=$(GO) sh tests/demo.sh $(RELEASE)/slim $(CURDIR)/$(dir $(HELLO))

# Every test, the published implementation as a live peer included.
test: $(HELLO) $(VENV)/ready $(H2SPEC)
	$(CARGO) test --features cli --no-fail-fast

# The published package, and what the hand-written peer needs.
$(VENV)/ready: tests/interop/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The conformance suite of HTTP/2. Without Go its test is left out, except with CI=true.
$(H2SPEC):
	@GOBIN=$(CURDIR)/$(@D) $(GO) install github.com/summerwind/h2spec/cmd/h2spec@latest || \
		{ echo "h2spec could not be built: its test is left out" >&2; [ "$$CI" != true ]; }

# The oldest published package that can join, for one round of the live matrix.
$(OLD_VENV)/ready: tests/interop/requirements.txt
	$(PYTHON) -m venv $(OLD_VENV)
	sed 's/^slim-bindings==.*/slim-bindings==3.3.1/' $< > $(OLD_VENV)/requirements.txt
	$(OLD_VENV)/bin/pip install --quiet --disable-pip-version-check -r $(OLD_VENV)/requirements.txt
	@touch $@

# The tests that run within their own process, where the address sanitizer sees something. With it
# no node is small.
ASAN_TESTS := api links world traces vectors view fuzz sim
# Leaks that are known are found by their names, with the symbolizer.
ASAN = $(if $(shell command -v llvm-symbolizer),LSAN_OPTIONS=suppressions=$(CURDIR)/tests/leaks.txt,\
	ASAN_OPTIONS=detect_leaks=0)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# What takes minutes: the live matrix and the simulated histories many times over, hostile peers
# measured more strictly, the C programs at length, the Rust tests under ASAN.
soak: $(HELLO) $(VENV)/ready $(OLD_VENV)/ready
	SLIM_SIM_SEEDS=100000 $(CARGO) test --release --features cli --test sim
	SLIM_HOSTILE_SOAK=1 $(CARGO) test --release --features cli --test hostile
	SLIM_SOAK=1 $(CARGO) test --release --features cli --test capi
	SLIM_SOAK=1 $(CARGO) test --release --features cli --lib mls::
	$(CARGO) test --release --features cli --lib mls:: -- --ignored --test-threads 1
	SLIM_SOAK=1 $(CARGO) test --release --features cli --test groups -- --test-threads 1
	$(CARGO) test --release --features cli --test mls -- --ignored --test-threads 1
	SLIM_SOAK=1 $(CARGO) test --features cli --test bindings -- --test-threads 1
	SLIM_SOAK=1 $(CARGO) test --features cli --test interop_groups spec05_16
	@rustc +nightly --version >/dev/null 2>&1 || \
		echo "the Rust tests are not run under ASAN: no nightly Rust" >&2
	@command -v llvm-symbolizer >/dev/null || \
		echo "leaks are not looked for: no llvm-symbolizer" >&2
	! rustc +nightly --version >/dev/null 2>&1 || \
		$(ASAN) RUSTFLAGS=-Zsanitizer=address SLIM_SIM_SEEDS=100 $(CARGO) +nightly test --features cli \
		--target $(HOST) --target-dir target/asan --lib $(ASAN_TESTS:%=--test %) -- \
		--skip an_idle_node_is_small
	for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
		$(CARGO) test --features cli --test interop --test interop_groups \
		--test interop_losses || exit 1; done
	SLIM_TEST_PYTHON=$(CURDIR)/$(OLD_VENV)/bin/python \
		$(CARGO) test --features cli --test interop -- default_binding group_of_wheels c18

# Looks for inputs that break a promise, starting from what is known. What breaks one is left in
# target/fuzz-found; what reaches new code in target/fuzz-corpus.
fuzz:
	@rustc +nightly --version >/dev/null 2>&1 || \
		{ echo "make fuzz needs nightly Rust: rustup toolchain install nightly" >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
		{ echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	SLIM_FUZZ_SEEDS=$(CURDIR)/target/fuzz-seeds $(CARGO) test --features cli --test fuzz start_from
	for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz-corpus/$$target target/fuzz-found tests/fuzz/corpus/$$target; \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz $$target \
			target/fuzz-corpus/$$target tests/fuzz/corpus/$$target target/fuzz-seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=6000 -timeout=10 -print_final_stats=1 \
			-artifact_prefix=target/fuzz-found/$$target- || exit 1; done

# Rates beside the published node's, alternating in one run. SLIM_PUBLISHED=DIR, with the published
# `slim` and `slimctl` in it, measures these, too; BENCH=--instructions counts with valgrind.
bench: all $(VENV)/ready
	$(PYTHON) tests/bench/run.py $(BENCH)

# Writes include/slim.h anew from src/ffi.
header:
	SLIM_WRITE_HEADER=1 $(CARGO) test --test header committed_header

# Writes the table of THIRD-PARTY anew from the dependencies.
third-party:
	SLIM_WRITE_THIRD_PARTY=1 $(CARGO) test --test tidy third_party

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --features cli -- -D warnings

clean:
	$(CARGO) clean

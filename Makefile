# libslim: build, demo, tests. See README.md.

CARGO ?= cargo
PYTHON ?= python3
CC ?= cc
GO ?= go
VENV := target/venv
RELEASE := target/release
HELLO := target/examples-c/hello
H2SPEC := target/h2spec/h2spec

.PHONY: all demo test soak header lint clean

all:
	$(CARGO) build --release --features cli

$(HELLO): ffi-examples/c/hello.c include/slim.h all
	@mkdir -p $(@D)
	@ln -sf libslim.so $(RELEASE)/libslim.so.0
	$(CC) -std=c99 -Wall -Wextra -Werror -O2 -Iinclude $< -o $@ \
		-L$(RELEASE) -lslim -Wl,-rpath,$(CURDIR)/$(RELEASE)

# A node, a receiver and a sender in C; what they say is printed.
demo: $(HELLO)
	@sh tests/demo.sh $(RELEASE)/slim $(HELLO)

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

# What takes minutes: the live matrix and the simulated histories many times over, hostile peers
# measured more strictly.
soak: $(HELLO) $(VENV)/ready
	SLIM_SIM_SEEDS=100000 $(CARGO) test --release --features cli --test sim
	SLIM_HOSTILE_SOAK=1 $(CARGO) test --release --features cli --test hostile
	for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
		$(CARGO) test --features cli --test interop || exit 1; done

# Writes include/slim.h anew from src/ffi.
header:
	SLIM_WRITE_HEADER=1 $(CARGO) test --test header committed_header

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --features cli -- -D warnings

clean:
	$(CARGO) clean

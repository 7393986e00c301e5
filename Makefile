# make test: everything that has to hold, as CI runs it. Needs root only to install what is missing.

CARGO ?= cargo
RUNNER := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: test setup fmt lint docs unit examples generate bench bench-more rates matrix faults storm fuzz static deb

test: setup fmt lint docs unit examples

# Debian packages that the tests use as witnesses: nft, ip, bridge, nsenter, unshare. And Ansible, from PyPI.
setup:
	sh tests/setup.sh

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features

unit:
	$(CARGO) $(RUNNER) --locked --all-features

examples:
	$(CARGO) build --locked --all-features
	for file in examples/*.toml; do target/debug/netrec rehearse $$file || exit 1; done

# What is made of the program's own words: docs/cli.md, docs/keys.md, the schema of the file, the units of the Ansible role; and pictures.
generate:
	UPDATE_EXPECT=1 $(CARGO) test --locked --all-features --test generated

# Figures of time, by hand and as root, on a machine that does nothing else: a quarter of an hour. They go to docs/performance/
# and, as a table of aims, to docs/performance.md. What takes longer or is looked at by itself has a bench of its own.
bench: export NETREC_BENCH_KEEP = 1
bench:
	$(CARGO) bench --bench apply
	$(CARGO) bench --bench size
	$(CARGO) bench --bench ports
	$(CARGO) bench --bench path
	$(CARGO) bench --bench overlay -- --only path --rounds 5
	$(CARGO) bench --bench report

bench-more:
	$(CARGO) bench --bench overlay
	$(CARGO) bench --bench watch

# How well limits of traffic are kept, from 1 Mbit/s to 1 Gbit/s, on a machine that does nothing else; a minute and a half.
rates:
	NETREC_RATES=all $(CARGO) test --all-features --test end_to_end rates_are_kept -- --nocapture

# The whole sweeps of which `make test` tries a sample, by hand and as root: who may talk to whom in every cell; and a death
# at every single kernel write, every failure there, a second one on the way back, and 500 deaths at random instants
# (docs/faults.md).
matrix:
	NETREC_MATRIX=all NETREC_MATRIX_REPORT=$(CURDIR)/target/matrix.txt $(CARGO) $(RUNNER) --all-features -E 'binary(matrix)'
	cat target/matrix.txt

faults:
	NETREC_EVERY=1 NETREC_CODES=5 NETREC_KILLS=500 NETREC_LAB_MINUTES=600 $(CARGO) $(RUNNER) --all-features \
		--no-fail-fast --success-output final -E 'binary(faults)'

# Ten thousand changes beside a watch, of which `make test` tries two hundred; what it keeps is compared with what there is at each
# use.
storm:
	NETREC_STORM=10000 NETREC_LAB_MINUTES=600 $(CARGO) $(RUNNER) --all-features -E 'test(a_storm_of_changes)'

# Ten million of each sort of text and message, of which `make test` tries twenty thousand each.
fuzz:
	NETREC_INPUTS=10000000 $(CARGO) test --release --all-features --test fuzz -- --nocapture

# One file that needs no library of the machine's.
STATIC := $(shell uname -m)-unknown-linux-musl

static:
	rustup target add $(STATIC)
	$(CARGO) build --locked --release --target $(STATIC)
	@echo target/$(STATIC)/release/netrec

# A Debian package of the same.
deb: static
	sh packaging/deb.sh target/$(STATIC)/release/netrec target/debian

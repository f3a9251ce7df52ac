# The parts of the Makefile that make the header and install the library.
#
#   make install PREFIX=/usr DESTDIR=/tmp/package LIBDIR=lib/x86_64-linux-gnu
#   make stage          the same tree below target/stage, for examples and tests

PREFIX ?= /usr/local
LIBDIR ?= lib
DESTDIR ?=
CARGO ?= cargo
CARGO_TARGET_DIR ?= target

.PHONY: build-release stage install uninstall header check-header abi

# Who installs has not always what built: the root of `sudo make install` often lacks cargo.
build-release:
	@if command -v $(firstword $(CARGO)) >/dev/null; then \
	    echo "$(CARGO) build --release --locked"; $(CARGO) build --release --locked; \
	elif [ -f "$(CARGO_TARGET_DIR)/release/libaquila.a" ]; then \
	    echo "$(CARGO) is not there: taking $(CARGO_TARGET_DIR)/release as it was built before"; \
	else \
	    echo "$(CARGO) is not there and nothing was built before: make build first, as a user who has it" >&2; exit 1; \
	fi

stage: build-release
	DESTDIR= pkgconfig/stage.sh "$(CARGO_TARGET_DIR)/release" "$(CURDIR)/target/stage" lib

install: build-release
	DESTDIR="$(DESTDIR)" pkgconfig/stage.sh "$(CARGO_TARGET_DIR)/release" "$(PREFIX)" "$(LIBDIR)"
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig || true; fi

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/include/aquila.h" "$(DESTDIR)$(PREFIX)/include/aquila.hpp" \
	    "$(DESTDIR)$(PREFIX)/$(LIBDIR)"/libaquila.so* "$(DESTDIR)$(PREFIX)/$(LIBDIR)/libaquila.a" \
	    "$(DESTDIR)$(PREFIX)/$(LIBDIR)/pkgconfig/aquila.pc" "$(DESTDIR)$(PREFIX)/bin/aquila" \
	    "$(DESTDIR)$(PREFIX)/share/man/man1/aquila.1"
	rm -rf "$(DESTDIR)$(PREFIX)/$(LIBDIR)/cmake/aquila" "$(DESTDIR)$(PREFIX)/$(LIBDIR)/aquila" \
	    "$(DESTDIR)$(PREFIX)/share/doc/aquila" "$(DESTDIR)$(PREFIX)/share/aquila"

header:
	AQUILA_WRITE_HEADER=1 $(CARGO) test --locked --test capi header_is_generated

check-header:
	$(CARGO) test --locked --test capi header

# BREAK=1 also takes over what breaks programs.
abi: header
	AQUILA_WRITE_ABI=$(if $(BREAK),break,add) $(CARGO) test --locked --test capi the_binary_interface

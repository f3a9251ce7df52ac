# The commands of this project; `make` alone lists them. Installing and staging stand in pkgconfig/install.mk.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo

# The model and the prompt of `make demo`, and the most tokens it says. Empty: a small real model that is fetched, and
# a question to it.
MODEL ?=
PROMPT ?=
TOKENS ?=
# Empty: an NPU where one works, else the CPU; npu-sim: the simulator of one.
DEVICE ?=

-include pkgconfig/install.mk

.PHONY: help build demo test test-aarch64 test-ascend tsan cann-sim bench lint fmt-check clean

help: ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /|/' \
		| awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo
	@echo '  make demo PROMPT="…"           asks the small model something else'
	@echo '  make demo DEVICE=npu-sim       the same on the simulator of an Ascend NPU'
	@echo '  make demo MODEL=… PROMPT="…"   continues a text with a model of yours (a directory or a .gguf)'

build: ## the library and the program, optimised, in target/release
	$(CARGO) build --release

demo: ## a C program, linked to the library, streams the answer of a small real model
	@MODEL='$(subst ','\'',$(MODEL))' PROMPT='$(subst ','\'',$(PROMPT))' TOKENS='$(TOKENS)' DEVICE='$(DEVICE)' MAKE='$(MAKE)' CARGO='$(CARGO)' \
		tests/demo/demo.sh

test: ## sets up what the tests need and runs all of them
	@MAKE='$(MAKE)' CARGO='$(CARGO)' tests/run.sh

test-aarch64: ## the kernels and the library on emulated aarch64 CPUs; a part of test
	@CARGO='$(CARGO)' tests/aarch64/run.sh

tsan: ## the C programs under ThreadSanitizer, with Rust's own library instrumented
	@CARGO='$(CARGO)' tests/tsan/run.sh

test-ascend: ## on a machine with CANN: ATB's real headers, and what aquila doctor says of it
	@CARGO='$(CARGO)' tests/ascend/machine.sh

cann-sim: ## a simulator of Ascend's libraries in target/cann-sim; source its set_env.sh to use it
	@$(MAKE) --no-print-directory -C tests/cann-sim OUT='$(CURDIR)/target/cann-sim'

bench: build ## speed on this machine, beside llama.cpp where tests/bench/peers.sh has built it
	@tests/bench/bench.sh $(MODEL)

lint: ## clippy, every warning an error
	$(CARGO) clippy --all-targets -- -D warnings

fmt-check: ## the form of the Rust sources
	$(CARGO) fmt --check

clean: ## removes target/; the cache of fetched models stays
	$(CARGO) clean

# Described here, made in pkgconfig/install.mk.
stage: ## the installed tree below target/stage, which examples and tests use
install: ## library, header, program and documents; PREFIX=/usr/local DESTDIR= LIBDIR=lib
uninstall: ## removes what install put there
header: ## writes include/aquila.h anew from src/capi
check-header: ## include/aquila.h is what src/capi says
abi: ## takes over what was added to aquila.h into pkgconfig/abi; what breaks programs only with BREAK=1

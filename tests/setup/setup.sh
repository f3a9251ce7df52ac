#!/usr/bin/env bash
# Makes sure that the tools for `make demo`, `make test` and so on are there, and installs the missing ones by apt-get.
#
#   setup.sh demo|test|bench|aarch64
#
# As root it installs; else by sudo, after saying so; else it prints the one line to run, and fails.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

readonly RUST_NEEDED=1.95
if ! has "${CARGO:-cargo}"; then
    say "cargo is not there. Rust $RUST_NEEDED or newer is needed: https://rustup.rs"
    exit 1
fi
rust=$("${CARGO:-cargo}" --version | awk '{ print $2 }')
if [ "$(printf '%s\n' "$RUST_NEEDED" "$rust" | sort -V | head -n 1)" != "$RUST_NEEDED" ]; then
    say "Rust $RUST_NEEDED or newer is needed, found $rust: rustup update stable"
    exit 1
fi

missing=()
need() { # need PACKAGE COMMAND…: the package unless the command succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
compiles() { echo '#include <stdio.h>' | "$1" -x "$2" -fsyntax-only -; }

need gcc has gcc
need libc6-dev compiles gcc c
need pkg-config has pkg-config
need python3-venv python3 -c 'import venv, ensurepip'
case ${1:-} in
    demo) ;;
    bench) need g++ compiles g++ c++ ;;
    aarch64)
        need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
        need g++-aarch64-linux-gnu has aarch64-linux-gnu-g++
        need libc6-dev-arm64-cross compiles aarch64-linux-gnu-gcc c
        need qemu-user-static has qemu-aarch64-static
        ;;
    test)
        need g++ compiles g++ c++
        need clang has clang
        need abigail-tools has abidiff
        need cmake has cmake
        need golang-go has go
        need python3-torch /usr/bin/python3 -c 'import torch'
        ;;
    *)
        say "usage: setup.sh demo|test|bench|aarch64"
        exit 1
        ;;
esac
[ ${#missing[@]} -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
line=${install[*]}
if ! has apt-get; then
    say "missing, by their Debian names: ${missing[*]}"
    exit 1
elif [ "$(id -u)" = 0 ]; then
    as_root=()
    say "$line"
elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=(sudo)
    say "these are missing, so by sudo now: $line"
else
    say "missing; please run: sudo apt-get update && sudo $line"
    exit 1
fi
# The lists of a fresh machine are empty or old; that the update fails is no matter where the packages are known.
"${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are there"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" >&2

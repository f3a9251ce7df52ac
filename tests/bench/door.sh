#!/usr/bin/env bash
# `tests/bench/door.sh`: what calls of the C interface cost their caller, on a tiny model that is made here, with the
# library that `make stage` builds. For an idle machine with two processors or more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

"${MAKE:-make}" --no-print-directory stage >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 tests/fetch/make_tiny.py "$work/model"
export PKG_CONFIG_PATH=$PWD/target/stage/lib/pkgconfig LD_LIBRARY_PATH=$PWD/target/stage/lib
# shellcheck disable=SC2046  # lists of flags
${CC:-cc} -std=gnu11 -O2 -Wall -Wextra -Werror -o "$work/door" tests/bench/door.c $(pkg-config --cflags --libs aquila)
"$work/door" "$work/model"

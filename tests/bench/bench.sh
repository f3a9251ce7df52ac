#!/usr/bin/env bash
# `make bench`: speed on this machine, beside llama.cpp where tests/bench/peers.sh has built it.
#
#   bench.sh              the table of table.py: Aquila-7B's shape, every type of weight, with the machine's limits
#   bench.sh MODEL        one model, a directory or a .gguf, with compare.py; PROMPT, GEN, THREADS and REPEAT change
#                         its tests: 512, 64, all cores, 3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ $# -gt 0 ]; then
    exec python3 tests/bench/compare.py "$1"
fi
exec python3 tests/bench/table.py

#!/usr/bin/env bash
# `make bench`: the program's own benchmark and, on a GGUF file where tests/bench/peers.sh has built it, llama.cpp's
# beside it, one test at a time, with the same number of threads.
#
#   bench.sh [MODEL]      MODEL: a directory or a .gguf; without it the small real model that make demo uses
#
# PROMPT, GEN, THREADS and REPEAT change the tests: 512, 64, all cores, 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:-}
if [ -z "$model" ]; then
    cache=$(tests/fetch/fetch.sh model)
    model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
fi
exec python3 tests/bench/compare.py "$model"

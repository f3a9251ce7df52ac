#!/usr/bin/env bash
# `make demo`: from a fresh clone to a C program that streams a model's answer. See the Makefile for MODEL,
# PROMPT and TOKENS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '\n== %s\n' "$*"; }
readonly OUT=target/demo QUESTION="Give me three tips for a good night's sleep."
model=${MODEL:-} prompt=${PROMPT:-}

say "tools"
tests/setup/setup.sh demo
mkdir -p "$OUT"

if [ -z "$model" ]; then
    say "model"
    status=0
    cache=$(tests/fetch/fetch.sh model) || status=$?
    case $status in
        0)
            model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
            question=${prompt:-$QUESTION}
            prompt="<|im_start|>user
$question<|im_end|>
<|im_start|>assistant
"
            ;;
        3)
            echo "No real model could be fetched. The demo runs on a small generated one: its words mean nothing."
            model=$OUT/tiny-model
            python3 tests/fetch/make_tiny.py "$model"
            prompt=${prompt:-the river}
            question=$prompt
            nonsense=1
            ;;
        *) exit 1 ;;
    esac
else
    prompt=${prompt:-Once upon a time}
    question=$prompt
fi

say "library"
"${MAKE:-make}" --no-print-directory stage

say "a C program against it: examples-c/stream.c"
stage=$PWD/target/stage
# The pkgconfig directory of the stage, wherever its libdir is.
pc=$(dirname "$(find "$stage" -name aquila.pc | head -n 1)")
read -ra flags < <(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs aquila)
libdir=$(PKG_CONFIG_PATH=$pc pkg-config --variable=libdir aquila)
gcc -O2 -Wall -o "$OUT/stream" examples-c/stream.c "${flags[@]}" "-Wl,-rpath,$libdir"
echo "gcc examples-c/stream.c \$(pkg-config --cflags --libs aquila)"

if [ "${DEVICE:-}" = npu-sim ]; then
    say "a simulator of an Ascend NPU: slow, and a test double, not a card"
    "${MAKE:-make}" --no-print-directory cann-sim
    # As one sources CANN's own; the C program asks for no device, and so gets an NPU where one is.
    # shellcheck disable=SC1091
    source target/cann-sim/set_env.sh
    export MAX_SEQ_LEN=${MAX_SEQ_LEN:-512} AQUILA_SIM_TRACE=$PWD/$OUT/npu-sim.trace
    "$stage/bin/aquila" info "$model" --device npu:0 | grep -E '^ *(device|npu|arithmetic|prompts)'
    TOKENS=${TOKENS:-40}
elif [ -n "${DEVICE:-}" ]; then
    echo "DEVICE: expected nothing (an NPU where one works, else the CPU) or npu-sim, found $DEVICE" >&2
    exit 2
fi

say "$question"
"$OUT/stream" "$model" "$prompt" "${TOKENS:-200}"
echo
if [ "${DEVICE:-}" = npu-sim ]; then
    echo "(calls of CANN, in $OUT/npu-sim.trace: $(grep -c ' Execute ' "$OUT/npu-sim.trace") graphs executed)"
fi
[ -z "${nonsense:-}" ] || echo "(Random weights: this text means nothing. With a network, make demo answers.)"

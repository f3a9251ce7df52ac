#!/usr/bin/env bash
# `make test-aarch64`: the library built for aarch64 and run by qemu-user as CPUs with and without the dot product of
# bytes: every kernel test, the executor against its f64 decoder, small models against their reference logits, the C
# programs against the staged library, the shim over ATB, and a real model where $AQUILA_TEST_DATA names one.
#
# It shows that results are right, never how fast they come: an emulator has no speed to measure.
#
# Exit status 3: it cannot be done here, and nothing was tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo=${CARGO:-cargo}
readonly target=aarch64-unknown-linux-gnu tools=aarch64-linux-gnu
readonly build=target/$target/debug stage=$PWD/target/stage-aarch64

cannot() {
    printf 'aarch64: %s; nothing was tested on aarch64\n' "$*" >&2
    exit 3
}
step() { printf -- '-- %s, %d s\n' "$*" $SECONDS; }
quietly() { # quietly COMMAND…: what it says is shown only if it fails
    local said status=0
    said=$("$@" 2>&1) || status=$?
    [ $status = 0 ] || printf '%s\n%s\n' "$*" "$said" >&2
    return $status
}

if [ "$(uname -m)" = aarch64 ]; then
    echo "this machine is aarch64: make test has tested the levels of its CPU" >&2
    exit 0
fi
has_std() { compgen -G "$(rustc --print target-libdir --target $target)/libstd-*.rlib" >/dev/null; }
if ! has_std; then
    command -v rustup >/dev/null || cannot "Rust's standard library for $target is not installed, and there is no rustup"
    rustup target add $target >&2 || cannot "rustup target add $target failed"
    has_std || cannot "Rust's standard library for $target is not where rustc looks"
fi
if ! tests/setup/setup.sh aarch64; then
    [ "${CI:-}" != true ] || exit 1
    cannot "the cross compiler and the emulator could not be installed"
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$tools-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
export QEMU_LD_PREFIX=/usr/$tools

tests() { # tests CPU CARGO-TEST-ARGUMENTS…
    QEMU_CPU=$1 "$cargo" test --quiet --target $target "${@:2}"
}

step "clippy"
"$cargo" clippy --quiet --target $target --all-targets -- -D warnings
step "build"
"$cargo" test --quiet --no-run --target $target --lib --bin aquila --test cpu --test reference

# One test of the measurements is left out: it wants the speed of a real CPU.
step "as a CPU with all that the emulator knows: kernels, executor, small models"
tests max --lib backend::cpu
tests max --lib engine::measure -- --skip limits_are_plausible
tests max --test cpu
tests max --test reference tiny::
step "as a Cortex-A72, without the dot product of bytes"
tests cortex-a72 --lib backend::cpu
tests cortex-a72 --lib engine::measure -- --skip limits_are_plausible
tests cortex-a72 --test cpu
tests cortex-a72 --test reference tiny::
step "as a Neoverse N1, with it"
tests neoverse-n1 --lib backend::cpu::kernels::panels
tests neoverse-n1 --lib backend::cpu::kernels::simd
tests neoverse-n1 --test reference tiny::

step "the C interface"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$work/model
python3 tests/fetch/make_tiny.py "$model"
# One without a chat template: neither its name nor its vocabulary is Aquila's.
plain=$work/plain
cp -r "$model" "$plain"
sed -i 's/"aquila"/"llama"/; s/AquilaForCausalLM/LlamaForCausalLM/' "$plain/config.json"
sed -i 's/LDWANG/LAWN/g' "$plain/tokenizer.json"
"$cargo" build --quiet --target $target
CC=$tools-gcc LD=$tools-ld OBJCOPY=$tools-objcopy AR=$tools-ar pkgconfig/stage.sh $build "$stage"
# Those that ask nothing of the model but to be one, and nothing of the memory, which the emulator uses too.
for noun in library result text threads; do
    for link in shared static; do
        library=(-L"$stage/lib" -laquila)
        [ $link = shared ] || library=("$stage/lib/libaquila.a")
        $tools-gcc -std=gnu11 -Wall -Werror -pthread -I"$stage/include" -o "$work/$noun-$link" \
            "tests/capi/$noun.c" "${library[@]}" -lm -ldl
        arguments=("$model")
        [ $noun != library ] || arguments=()
        [ $noun != text ] || arguments+=("$plain")
        quietly env QEMU_CPU=cortex-a72 qemu-aarch64-static -E LD_LIBRARY_PATH="$stage/lib" \
            "$work/$noun-$link" "${arguments[@]}"
    done
done

step "the part for Ascend NPUs: the guide's hosts are aarch64"
for abi in 0 1; do
    $tools-g++ -std=c++17 -Wall -Wextra -Werror -static -D_GLIBCXX_USE_CXX11_ABI=$abi -Isrc/backend/ascend/shim \
        -o "$work/layouts-$abi" tests/ascend/atb_layouts.cpp
    quietly qemu-aarch64-static "$work/layouts-$abi"
    quietly $tools-readelf -h "$stage/lib/aquila/libaquila-atb-abi$abi.so"
done
tests max --lib backend::ascend

# The lists of a step, the graphs and the numbers, on both cards; what takes time is the emulator.
make --no-print-directory -C tests/cann-sim CXX=$tools-g++ CXXFLAGS=-O1 OUT="$PWD/target/tmp/cann-sim/$tools-g++"
simulator=$PWD/target/tmp/cann-sim/$tools-g++
for soc in Ascend910B3 Ascend310P3; do
    answers=() # few words: of random weights the later ones hang on roundings
    for device in cpu npu:0; do
        answers+=("$(QEMU_CPU=max qemu-aarch64-static \
            -E LD_LIBRARY_PATH="$simulator/lib64:$simulator/atb/cxx_abi_1/lib" \
            -E ATB_HOME_PATH="$simulator/atb/cxx_abi_1" -E ASCEND_HOME_PATH="$simulator" \
            -E AQUILA_ASCEND_SHIM="$stage/lib/aquila" -E AQUILA_SIM_SOC=$soc -E AQUILA_SIM_MEMORY=1000000000 \
            $build/aquila run "$model" "the river" -q -n 4 --device $device)")
    done
    if [ -z "${answers[0]}" ] || [ "${answers[0]}" != "${answers[1]}" ]; then
        printf '%s: "%s" on the CPU, "%s" on the simulated NPU\n' $soc "${answers[@]}" >&2
        exit 1
    fi
done

step "the program takes the level that the CPU has, and lowers it on demand"
for case in max::dotprod neoverse-n1::dotprod cortex-a72::neon max:neon:neon cortex-a72:dotprod:neon max:scalar:scalar; do
    IFS=: read -r cpu wanted level <<<"$case"
    said=$(QEMU_CPU=$cpu ${wanted:+env AQUILA_CPU=$wanted} qemu-aarch64-static $build/aquila info "$model")
    if ! grep -q "instructions.*$level" <<<"$said"; then
        printf 'expected %s on %s with AQUILA_CPU=%s, found:\n%s\n' "$level" "$cpu" "$wanted" "$said" >&2
        exit 1
    fi
done

# NEON adds in AVX2's order, so the two say the same; what f32 weights should say, tests/reference knows.
if [ -n "${AQUILA_TEST_DATA:-}" ] && grep -qw avx2 /proc/cpuinfo; then
    step "a real model, with f32 and with 8-bit weights"
    "$cargo" build --quiet
    model=$AQUILA_TEST_DATA/SmolLM2-135M-Instruct.Q4_1.gguf
    for dtype in f32 q8; do
        run=(run -q --dtype $dtype -n 6 "$model" "The capital of France is")
        here=$(AQUILA_CPU=avx2 target/debug/aquila "${run[@]}")
        there=$(QEMU_CPU=max qemu-aarch64-static $build/aquila "${run[@]}")
        if [ -z "$here" ] || [ "$here" != "$there" ]; then
            printf '%s: "%s" with AVX2, "%s" with NEON\n' $dtype "$here" "$there" >&2
            exit 1
        fi
    done
else
    step "a real model: skipped, without AQUILA_TEST_DATA or AVX2 to compare with"
fi
step "done"

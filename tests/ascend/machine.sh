#!/usr/bin/env bash
# `make test-ascend`: on a machine with CANN, what can be shown without a model. ATB's real headers against the layouts
# that the shim relies on, the real libraries opened, and the doctor's report. tests/ascend/HARDWARE.md goes on from there.
#
# Exit status 3: there is no CANN here, and nothing was tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo=${CARGO:-cargo}
if [ -z "${ATB_HOME_PATH:-}" ] || [ -z "${ASCEND_HOME_PATH:-}" ]; then
    echo "test-ascend: ATB_HOME_PATH or ASCEND_HOME_PATH is not set: source both set_env.sh of CANN first" >&2
    exit 3
fi
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Some releases' headers name one of aclnn's that not every installation has; four forward declarations are enough.
stub=()
if [ ! -f "$ASCEND_HOME_PATH/include/aclnn/acl_meta.h" ]; then
    mkdir -p "$work/include/aclnn"
    for type in aclOpExecutor aclTensor aclIntArray aclTensorList; do
        echo "typedef struct $type $type;"
    done >"$work/include/aclnn/acl_meta.h"
    stub=(-I "$work/include")
fi
for abi in 0 1; do
    if "${CXX:-c++}" -std=c++17 -w -DAQATB_REAL_HEADERS -D_GLIBCXX_USE_CXX11_ABI=$abi -I "$ATB_HOME_PATH/include" \
        -I "$ASCEND_HOME_PATH/include" "${stub[@]}" -I src/backend/ascend/shim -o "$work/layouts" \
        tests/ascend/atb_layouts.cpp && "$work/layouts"; then
        echo "ok: layouts and virtual tables of ATB's headers, C++ ABI $abi"
    else
        echo "FAILED: ATB's headers differ from what the shim relies on, C++ ABI $abi" >&2
        failed=1
    fi
done

"$cargo" build --release
target/release/aquila doctor || failed=1
exit $failed

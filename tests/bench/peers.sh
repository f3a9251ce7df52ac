#!/usr/bin/env bash
# Builds llama.cpp, the CPU engine that speed is compared with, from the sdist that also carries Aquila's vocabulary.
# Optimised for this machine (-O3, native). Takes 10 to 25 minutes on two cores, once; 1.5 GB of disk.
#
# Prints the directory of the programs: llama-bench, llama-batched-bench, llama-completion, llama-perplexity,
# llama-tokenize, llama-quantize. Builds those that are missing. JOBS sets the compilers that run at once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/../setup/setup.sh" bench
cache=$("$here/../fetch/fetch.sh" sources)
out=$cache/peers/llama.cpp-0.3.36

programs=()
for program in llama-bench llama-batched-bench llama-completion llama-perplexity llama-tokenize llama-quantize; do
    [ -e "$out/$program" ] || programs+=("$program")
done
if [ ${#programs[@]} -gt 0 ]; then
    exec 9>"$cache/peers.lock"
    flock 9
    work=$cache/peers/build
    rm -rf "$work"
    mkdir -p "$work/source"
    tar -xzf "$cache/llama_cpp_python-0.3.36.tar.gz" -C "$work/source" --strip-components=3 \
        llama_cpp_python-0.3.36/vendor/llama.cpp
    cmake=cmake
    if ! command -v cmake >/dev/null; then
        python3 -m venv "$work/venv"
        "$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes \
            --only-binary :all: -r "$here/../fetch/tools.txt" >&2
        cmake=$work/venv/bin/cmake
    fi
    # Without its server, its web pages and its network parts.
    "$cmake" -S "$work/source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_TOOLS_INSTALL=OFF >&2
    nice "$cmake" --build "$work/build" -j "${JOBS:-$(nproc)}" --target "${programs[@]}" >&2
    mkdir -p "$out"
    cp "$work/source/LICENSE" "$out/"
    # Copied beside, then renamed: a program that is there is whole.
    for program in "${programs[@]}"; do
        cp "$work/build/bin/$program" "$out/.$program"
        mv "$out/.$program" "$out/$program"
    done
    rm -rf "$work"
fi
printf '%s\n' "$out"

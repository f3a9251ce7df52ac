#!/usr/bin/env bash
# `make tsan`: the library under ThreadSanitizer, which sees two threads touch the same memory without order, also where
# nothing went wrong this time.
#
# Rust's own standard library is not instrumented, and without that every mutex of it is a false report. So std is built
# with the rest, of the sources that Debian packs with its newest rustc (rustc-web); that compiler, LLVM and the
# sanitizer's runtime are unpacked below target/tsan, nothing is installed. C programs of tests/capi are linked to the
# archive and must run without one report; that the recipe sees a race in Rust code is tried first, by planted.c.
#
# Exit status 3: it cannot be done here, and nothing was tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo=${CARGO:-cargo}
readonly target=x86_64-unknown-linux-gnu work=$PWD/target/tsan
readonly tools=$work/tools model=$work/model

cannot() {
    printf 'tsan: %s; nothing was tested under ThreadSanitizer\n' "$*" >&2
    exit 3
}
step() { printf -- '-- %s, %d s\n' "$*" $SECONDS; }

[ "$(uname -m)" = x86_64 ] || cannot "only x86-64 is set up"
command -v apt-get >/dev/null || cannot "the compiler with its library's sources is taken from Debian's packages"
lld=$(rustc --print sysroot)/lib/rustlib/$target/bin/gcc-ld
[ -x "$lld/ld.lld" ] || cannot "this Rust has no lld, and GNU ld fails on the runtime's versioned symbols"

depends() { # depends PACKAGE PATTERN: what it needs, by name
    apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1
}

# Downloads and unpacks; `done` names the versions, so that a newer package replaces an older one.
get_tools() {
    local std llvm packages versions folder
    apt-cache show rustc-web >/dev/null 2>&1 || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2; }
    std=$(depends libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
    [ -n "$std" ] || return 1
    llvm=$(depends "$std" 'libllvm[0-9]*')
    packages=(rustc-web libstd-rust-web-dev "$std" rust-web-src "$llvm" "libclang-rt-${llvm#libllvm}-dev")
    versions=$(apt-cache policy "${packages[@]}" | grep -E '^[a-z]|Candidate')
    [ "$versions" != "$(cat "$tools/done" 2>/dev/null)" ] || return 0
    rm -rf "$tools"
    mkdir -p "$tools/packages"
    (cd "$tools/packages" && apt-get download "${packages[@]}" >&2) || return 1
    for package in "$tools"/packages/*.deb; do dpkg -x "$package" "$tools" || return 1; done
    rm -r "$tools/packages"
    echo "$versions" >"$tools/done"
}

step "compiler, its library's sources, runtime"
get_tools || cannot "Debian's packages rustc-web, rust-web-src and libclang-rt could not be had"
export LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu RUSTC=$tools/usr/bin/rustc
"$RUSTC" --version || cannot "Debian's rustc does not run here (it needs what clang needs: libz3-4, libedit2, libxml2)"
runtime=$(find "$tools" -name 'libclang_rt.tsan-x86_64.a')

step "the library, with Rust's own"
# Less optimised than a test otherwise is: the compiler takes longer than all the programs.
RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_TARGET_DIR=$work/build \
    CARGO_ENCODED_RUSTFLAGS=$'-Zsanitizer=thread\x1f-Zexternal-clangrt' \
    "$cargo" rustc --quiet -Zbuild-std=std,panic_unwind --target $target --lib --crate-type staticlib
readonly archive=$work/build/$target/debug/libaquila.a
unset LD_LIBRARY_PATH RUSTC

# Two layers, and a context that ends soon: a request without a limit runs through all of it.
if [ ! -f "$model/config.json" ]; then
    python3 tests/fetch/make_tiny.py "$model"
    sed -i 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 128/' "$model/config.json"
fi

# The programs: instrumented by gcc, for the same runtime.
build() { # build SOURCE PROGRAM
    gcc -std=gnu11 -Wall -Werror -g -O1 -fsanitize=thread -Iinclude -Itests/capi -c -o "$2.o" "$1"
    gcc -fuse-ld=lld -B"$lld" -o "$2" "$2.o" "$archive" \
        -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -Wl,--dynamic-list="$runtime.syms" \
        -lpthread -ldl -lm -lrt -lresolv
}
under_tsan() { # under_tsan PROGRAM: what it says, and 66 where there were reports
    TSAN_OPTIONS="exitcode=66 die_after_fork=0 second_deadlock_stack=1 external_symbolizer_path=$(command -v addr2line)" timeout 600 "$1" "$model" 2>&1
}

step "a race that is there is reported"
build tests/tsan/planted.c "$work/planted"
status=0
said=$(under_tsan "$work/planted") || status=$?
if [ $status != 66 ] || ! grep -q 'WARNING: ThreadSanitizer: data race' <<<"$said" || ! grep -q 'src/capi/' <<<"$said"; then
    printf 'a planted race in the library was not reported (status %d): the recipe does not work here\n%s\n' $status "$said" >&2
    exit 1
fi

failed=0
for program in together together soak threads queue lifetimes score log contract; do
    step "$program"
    build "tests/capi/$program.c" "$work/$program"
    status=0
    said=$(under_tsan "$work/$program") || status=$?
    if [ $status != 0 ]; then
        # 66: the reports; else a check of the program itself, or 124 where it ran too long.
        printf '%s: status %d\n%s\n' $program $status "$(head -n 200 <<<"$said")" >&2
        failed=1
    fi
done
step "done"
exit $failed

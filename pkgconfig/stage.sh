#!/bin/sh
# Installs libaquila from what cargo built.
#
#   stage.sh BUILD PREFIX [LIBDIR]      with DESTDIR, CC, LD, OBJCOPY, AR from the environment
#
# BUILD is cargo's folder (target/release) with libaquila.a in it; LIBDIR is below PREFIX ("lib",
# "lib/x86_64-linux-gnu"). Cargo's own libaquila.so is not used: rustc writes a version script of its own, so
# symbol versions need a link of ours, and the archive exports the globals of Rust's library, which clash
# with those of another Rust archive in the same program.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: stage.sh BUILD PREFIX [LIBDIR]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
build=$1
prefix=$2
libdir=${3:-lib}
to=${DESTDIR:-}$prefix
: "${CC:=cc}" "${LD:=ld}" "${OBJCOPY:=objcopy}" "${AR:=ar}"

number() {
    sed -n "s/^#define AQUILA_VERSION_$1 \([0-9]*\)\$/\1/p" "$root/include/aquila.h"
}
major=$(number MAJOR)
version=$major.$(number MINOR).$(number PATCH)
archive=$build/libaquila.a
if [ ! -f "$archive" ]; then
    echo "stage.sh: $archive is missing: run cargo build first" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# The functions of the header are the symbols of the library.
sed -n 's/^AQUILA_API.*[ *]\(aquila_[a-z_]*\)(.*/\1/p' "$root/include/aquila.h" | sort >"$work/symbols"
roots=$(sed 's/^/-Wl,-u,/' "$work/symbols")

# shellcheck disable=SC2086  # $roots is a list
$CC -shared -o "$work/libaquila.so.$version" \
    -Wl,-soname,"libaquila.so.$major" -Wl,--version-script="$here/aquila.map" \
    $roots "$archive" -Wl,--gc-sections -Wl,-O1 -Wl,--as-needed \
    -Wl,-z,relro -Wl,-z,now -Wl,-z,nodelete -Wl,-z,noexecstack -Wl,-z,defs \
    -lpthread -ldl -lm
$OBJCOPY --strip-debug "$work/libaquila.so.$version"

# shellcheck disable=SC2046  # a list
$LD -r --gc-sections -o "$work/aquila.o" $(sed 's/^/-u /' "$work/symbols") "$archive"
# Rust's own objects carry LLVM bitcode, which the tools of an older LLVM cannot read.
$OBJCOPY --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd \
    --keep-global-symbols="$work/symbols" "$work/aquila.o"
$AR rcsD "$work/libaquila.a" "$work/aquila.o"

lib=$to/$libdir
mkdir -p "$to/include" "$lib/pkgconfig" "$lib/cmake/aquila" "$to/share/doc/aquila" "$to/share/aquila/examples"
install -m 644 "$root/include/aquila.h" "$root/include/aquila.hpp" "$to/include/"
install -m 755 "$work/libaquila.so.$version" "$lib/"
ln -sf "libaquila.so.$version" "$lib/libaquila.so.$major"
ln -sf "libaquila.so.$major" "$lib/libaquila.so"
install -m 644 "$work/libaquila.a" "$lib/"

# The part for Ascend NPUs, which the library opens when one is used. A build without a C++ compiler has none; cargo's
# folder of tests (deps) stands below the one that has it.
for abi in 0 1; do
    for folder in "$build" "$build/.."; do
        if [ -f "$folder/libaquila-atb-abi$abi.so" ]; then
            mkdir -p "$lib/aquila"
            $OBJCOPY --strip-debug "$folder/libaquila-atb-abi$abi.so" "$work/libaquila-atb-abi$abi.so"
            install -m 755 "$work/libaquila-atb-abi$abi.so" "$lib/aquila/"
            break
        fi
    done
done

# From LIBDIR/pkgconfig and LIBDIR/cmake/aquila up to PREFIX, so that the tree can be moved.
up=$(echo "$libdir" | sed 's,/*$,,; s,[^/][^/]*,..,g')
sed -e "s,@PREFIX@,\${pcfiledir}/../$up," -e "s,@LIBDIR@,\${prefix}/$libdir," -e "s,@VERSION@,$version," \
    "$here/aquila.pc.in" >"$lib/pkgconfig/aquila.pc"
for file in aquila-config aquila-config-version; do
    sed -e "s,@TO_PREFIX@,../../$up," -e "s,@VERSION@,$version,g" -e "s,@MAJOR@,$major,g" \
        "$here/$file.cmake.in" >"$lib/cmake/aquila/$file.cmake"
done

for file in README.md README.zh-CN.md ARCHITECTURE.md CHANGELOG.md SECURITY.md LICENSE; do
    if [ -f "$root/$file" ]; then install -m 644 "$root/$file" "$to/share/doc/aquila/"; fi
done
mkdir -p "$to/share/man/man1"
install -m 644 "$root/docs/aquila.1" "$to/share/man/man1/"
install -m 644 "$here/abi/layout.json" "$to/share/aquila/"
for folder in examples-c examples-cpp examples-go examples-python; do
    mkdir -p "$to/share/aquila/examples/${folder#examples-}"
    install -m 644 "$root/$folder"/*.* "$to/share/aquila/examples/${folder#examples-}/"
done
if [ -f "$build/aquila" ]; then
    mkdir -p "$to/bin"
    $OBJCOPY --strip-debug "$build/aquila" "$work/aquila"
    install -m 755 "$work/aquila" "$to/bin/"
fi

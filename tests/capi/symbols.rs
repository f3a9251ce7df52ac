//! What the installed libraries show to a linker.

use crate::stage::{Compiler, Link, build, manifest_dir, program, run, said, scratch, staged};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// The functions of the header.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(manifest_dir().join("include/aquila.h")).expect("aquila.h");
    let names = header.lines().filter(|line| line.starts_with("AQUILA_API")).filter_map(|line| {
        let name = line.split('(').next()?.rsplit([' ', '*']).next()?;
        Some(name.to_owned())
    });
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

fn defined(arguments: &[&str], file: &str) -> BTreeSet<String> {
    let listing = said(Command::new("nm").args(arguments).arg(staged().join("lib").join(file)));
    listing.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

#[test]
fn the_shared_library_exports_the_header_and_nothing_else() {
    let with_version: BTreeSet<_> = declared().iter().map(|name| format!("{name}@@AQUILA_1.0")).collect();
    let mut exported = defined(&["-D", "--defined-only", "--with-symbol-versions"], "libaquila.so");
    exported.remove("AQUILA_1.0"); // the node itself
    exported.remove("AQUILA_1.0@@AQUILA_1.0");
    assert_eq!(exported, with_version);
}

#[test]
fn the_archive_has_no_other_globals() {
    assert_eq!(defined(&["-g", "--defined-only"], "libaquila.a"), declared());
}

#[test]
fn the_shared_library_is_named_and_needs_only_the_c_library() {
    let dynamic = said(Command::new("readelf").arg("-dW").arg(staged().join("lib/libaquila.so")));
    assert!(dynamic.contains("Library soname: [libaquila.so.1]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE") && dynamic.contains("NOW"), "{dynamic}");
    let allowed = ["libc.so", "libm.so", "libdl.so", "libpthread.so", "libgcc_s.so", "ld-linux"];
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        assert!(allowed.iter().any(|name| line.contains(name)), "{line}");
    }
}

/// `contract.c` holds every function against the rules that the header states for all: one that has no row there was
/// forgotten.
#[test]
fn every_function_has_a_row_in_the_table_of_contracts() {
    let table =
        fs::read_to_string(manifest_dir().join("tests/capi/contract_rows.h")).expect("contract_rows.h");
    let rows: BTreeSet<_> = (table.lines())
        .filter_map(|line| line.trim().strip_prefix("{\"")?.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(rows, declared());
}

/// It is opened by the library when an NPU is used; nothing links to it.
#[test]
fn the_part_for_npus_is_installed_beside_the_library() {
    if env!("AQUILA_ATB_SHIM") != "true" {
        println!("skipped: this build has no shim over ATB, because there was no C++ compiler");
        return;
    }
    for abi in [0, 1] {
        let shim = staged().join(format!("lib/aquila/libaquila-atb-abi{abi}.so"));
        let dynamic = said(Command::new("readelf").arg("-dW").arg(&shim));
        assert!(dynamic.contains("libstdc++.so.6") && !dynamic.contains("RUNPATH"), "{dynamic}");
    }
}

/// A program that takes the address of every function links with the library and with the archive.
#[test]
fn every_declared_function_links() {
    let dir = scratch("symbols");
    let code = dir.join("all.c");
    let names: Vec<_> = declared().into_iter().collect();
    let list: String = names.iter().map(|name| format!("    (function){name},\n")).collect();
    let text = format!(
        "#include <aquila.h>\ntypedef void (*function)(void);\nstatic const function all[] = {{\n{list}}};\n\
         int main(void) {{\n    unsigned i;\n    for (i = 0; i < {}; i++)\n        if (!all[i]) return 1;\n    \
         return 0;\n}}\n",
        names.len()
    );
    fs::write(&code, text).expect("all.c");
    for link in [Link::Shared, Link::Static] {
        let path = dir.join("all");
        build(Compiler::found()[0].c(), &code, &path, link, &["-Wno-cast-function-type"]);
        run(&mut program(&path));
    }
}

/// Another Rust archive in the same program brings its own copy of Rust's library: the two must not meet.
#[test]
fn the_archive_stands_beside_another_rust_archive() {
    let dir = scratch("two-archives");
    let (other, archive, code, path) =
        (dir.join("other.rs"), dir.join("libother.a"), dir.join("both.c"), dir.join("both"));
    let rust = "#[unsafe(no_mangle)]\npub extern \"C\" fn other() -> u32 {\n    \
        std::panic::catch_unwind(|| { let v: Vec<u32> = Vec::new(); v[0] }).unwrap_or(7)\n}\n";
    fs::write(&other, rust).expect("other.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "staticlib", "-C", "opt-level=0", "-o"])
        .args([&archive, &other]));
    let c = "#include <aquila.h>\nunsigned other(void);\n\
        int main(void) { return other() == 7 && aquila_version() >= 0x10000 ? 0 : 1; }\n";
    fs::write(&code, c).expect("both.c");
    // Rust's own archives are only ever linked with --gc-sections; ours has had that.
    let flags = ["-Wl,--undefined=other", "-Wl,--gc-sections", archive.to_str().expect("UTF-8")];
    build(Compiler::found()[0].c(), &code, &path, Link::Static, &flags);
    run(&mut program(&path));
}

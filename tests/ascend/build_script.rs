//! The build script alone: the shim where there is a C++ compiler, and a build without it where there is none.

use crate::{finish, run, scratch};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The compiled script, in a folder of `test`: tests run side by side.
fn script(test: &str) -> PathBuf {
    let program = scratch(test).join("build");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(rustc).args(["--edition", "2024", source, "-o"]).arg(&program));
    program
}

/// Runs it as cargo does, for a target, with a compiler that is asked for.
fn build(script: &Path, target: &str, compiler: Option<&str>) -> (Output, PathBuf) {
    let profile = scratch(&format!("build-{target}-{}", compiler.unwrap_or("none").replace('/', "-")));
    let out = profile.join("build/aquila-0/out");
    std::fs::create_dir_all(&out).unwrap();
    let mut command = Command::new(script);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("OUT_DIR", out);
    command.env("TARGET", target).env("HOST", "x86_64-unknown-linux-gnu");
    command
        .env("CARGO_CFG_TARGET_OS", "linux")
        .env("CARGO_CFG_TARGET_ARCH", target.split('-').next().unwrap());
    command.env_remove("CXX").env_remove("CXXFLAGS");
    if let Some(compiler) = compiler {
        command.env("CXX", compiler);
    }
    (finish(&mut command), profile)
}

#[test]
fn with_a_compiler_there_are_two_shims_and_without_one_there_is_still_a_build() {
    let script = script("build-script");
    let (output, profile) = build(&script, "x86_64-unknown-linux-gnu", None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("AQUILA_ATB_SHIM=true"), "{said}");
    for abi in [0, 1] {
        let shim = profile.join(format!("libaquila-atb-abi{abi}.so"));
        let exported = run(Command::new("nm").args(["-D", "--defined-only"]).arg(&shim));
        let names: Vec<_> = exported.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert!(names.contains(&"aqatb_open"), "{names:?}");
        let foreign: Vec<_> = names.iter().filter(|name| !name.starts_with("aqatb_")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        let needed = run(Command::new("readelf").arg("-dW").arg(&shim));
        assert!(needed.contains("libstdc++.so.6") && !needed.contains("libatb"), "{needed}");
    }
    for compiler in ["/nowhere/c++", "/bin/false"] {
        let (output, profile) = build(&script, "x86_64-unknown-linux-gnu", Some(compiler));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("AQUILA_ATB_SHIM=false"), "{said}");
        assert!(said.contains("cargo::warning=") && said.contains(compiler), "{said}");
        assert!(!profile.join("libaquila-atb-abi1.so").exists());
    }
}

/// The Ascend guide's hosts are aarch64.
#[test]
fn the_shims_are_built_for_aarch64() {
    if !crate::is_here("aarch64-linux-gnu-g++") {
        return;
    }
    let (output, profile) = build(&script("build-script-cross"), "aarch64-unknown-linux-gnu", None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("AQUILA_ATB_SHIM=true"), "{said}");
    let header = run(Command::new("readelf").arg("-hW").arg(profile.join("libaquila-atb-abi0.so")));
    assert!(header.contains("AArch64"), "{header}");
}

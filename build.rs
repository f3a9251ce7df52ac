//! Builds the shim over ATB (`src/backend/ascend/shim`, C++) as two shared objects, one for each C++ ABI of the GNU
//! library, beside the library: `target/<profile>/libaquila-atb-abi0.so` and `-abi1.so`.
//!
//! Nothing links to them: they are opened when an NPU is used. So a machine without a C++ compiler builds all the same,
//! for the CPU only; a warning says so here, and `aquila_build_info` at run time.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const SHIM: &str = "src/backend/ascend/shim";

fn main() {
    for variable in ["CXX", "CXXFLAGS"] {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rerun-if-env-changed={}", for_target(variable));
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SHIM}");
    let built = build();
    if let Err(why) = &built {
        println!("cargo::warning=without the shim over ATB, so for the CPU only: {why}");
    }
    println!("cargo::rustc-env=AQUILA_ATB_SHIM={}", built.is_ok());
}

/// `CXX` as `CXX_aarch64_unknown_linux_gnu`.
fn for_target(variable: &str) -> String {
    format!("{variable}_{}", env::var("TARGET").unwrap_or_default().replace('-', "_"))
}

/// A variable's value for this target, else for all.
fn setting(variable: &str) -> Option<OsString> {
    env::var_os(for_target(variable)).or_else(|| env::var_os(variable)).filter(|value| !value.is_empty())
}

/// The compiler: the one that is asked for; GNU's for the target; the system's own.
fn compiler() -> OsString {
    if let Some(asked) = setting("CXX") {
        return asked;
    }
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if env::var("HOST") == env::var("TARGET") {
        "c++".into()
    } else {
        format!("{architecture}-linux-gnu-g++").into()
    }
}

fn build() -> Result<(), String> {
    let of_target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if of_target("OS") != "linux" || !["x86_64", "aarch64"].contains(&of_target("ARCH").as_str()) {
        return Err("there is no Ascend driver for this system".into());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    // OUT_DIR is target/[triple/]profile/build/aquila-<hash>/out.
    let beside_library = out.ancestors().nth(3).ok_or("OUT_DIR is not where cargo puts it")?;
    for abi in [0, 1] {
        let name = format!("libaquila-atb-abi{abi}.so");
        let made = compile(abi, &out.join(&name))?;
        replace(&made, &beside_library.join(&name))?;
    }
    Ok(())
}

/// Compiles one variant.
fn compile(abi: u32, object: &Path) -> Result<PathBuf, String> {
    let compiler = compiler();
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"]);
    command.arg(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"));
    command.arg(format!("-Wl,-soname,libaquila-atb-abi{abi}.so"));
    command.args(["-Wl,-z,defs", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,nodelete", "-Wl,-z,noexecstack"]);
    command.arg(format!("-Wl,--version-script={SHIM}/shim.map"));
    if let Some(flags) = setting("CXXFLAGS") {
        command.args(flags.to_string_lossy().split_whitespace());
    }
    command.arg("-o").arg(object);
    for part in ["library", "operations", "graph", "run"] {
        command.arg(format!("{SHIM}/{part}.cpp"));
    }
    command.arg("-ldl");
    let output = command.output().map_err(|cause| format!("{}: {cause}", compiler.to_string_lossy()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| line.contains("error")).or(said.lines().next()).unwrap_or_default();
    if output.status.success() {
        Ok(object.to_path_buf())
    } else {
        Err(format!("{} fails ({}): {first}", compiler.to_string_lossy(), output.status))
    }
}

/// Puts a copy in place whole: a running program may have the old one open.
fn replace(made: &Path, target: &Path) -> Result<(), String> {
    let part = target.with_extension(format!("part-{}", std::process::id()));
    let copied = std::fs::copy(made, &part).and_then(|_| std::fs::rename(&part, target));
    copied.map_err(|cause| format!("{}: {cause}", target.display()))
}

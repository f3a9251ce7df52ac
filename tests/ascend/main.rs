//! The Ascend backend without an Ascend device: what it calls against the real headers and symbols, the shim's
//! layouts, and how it opens CANN. `HARDWARE.md` beside it lists what only a device can show.

mod build_script;
mod conformance;
mod fake;
mod generate;
mod layouts;
mod opening;
mod operations;
#[path = "../support/mod.rs"]
mod support;
mod symbols;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Releases of torch-npu whose wheels `tests/fetch/fetch.sh headers` unpacks, with the C++ ABI of their libraries.
const RELEASES: [(&str, u32); 3] = [("2.1.0.post17", 0), ("2.7.1.post11", 1), ("2.14.0", 1)];

/// The unpacked wheel of a release; `None`, with a line, where it was not fetched.
fn wheel(version: &str) -> Option<PathBuf> {
    let data = std::env::var_os("AQUILA_TEST_DATA").map(PathBuf::from);
    let wheel = data.map(|data| data.join("torch-npu").join(version).join("torch_npu"));
    let found = wheel.filter(|path| path.is_dir());
    if found.is_none() {
        println!(
            "skipped: no headers of torch-npu {version}; tests/fetch/fetch.sh headers, and AQUILA_TEST_DATA"
        );
    }
    found
}

/// An empty folder for one test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ascend").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    dir
}

/// Runs a command to its end.
fn finish(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"))
}

/// Runs a command that must succeed, and gives what it says.
fn run(command: &mut Command) -> String {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a program can be run; prints a line if not.
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        println!("skipped: {program} is not installed");
    }
    here
}

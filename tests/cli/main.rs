//! The program as a user meets it: what it writes where, how it ends, and what it does when the other
//! side goes away. Each test runs the built program on a small generated model.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod chat;
mod export;
mod info;
mod run;
mod serve_bench;
mod session;
mod usage;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{TempDir, TinyModel};

/// The program, not yet run. No setting of the caller's environment reaches it.
fn aquila() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquila"));
    command.env_remove("MAX_SEQ_LEN").env_remove("AQUILA_CPU").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
fn run(arguments: &[&str]) -> Output {
    aquila().args(arguments).output().expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("the standard output is UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("the standard error is UTF-8")
}

/// Fails with all that the program said unless it ended with `code`.
fn expect_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(output), stderr(output));
}

/// A model directory that is removed in the end.
fn model(change: impl FnOnce(&mut TinyModel)) -> TempDir {
    let mut model = TinyModel::default();
    change(&mut model);
    let dir = TempDir::new();
    model.write_dir(dir.path());
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

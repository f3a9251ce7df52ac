//! Functions with the types of their parameters, as libabigail sees them.
//!
//! The library's own debug information describes Rust: tens of megabytes, and no C. So what is described is a
//! stand-in: a shared object of C, made from the header alone, whose functions do nothing. That the library exports
//! the header's functions is seen in `symbols.rs`, that the header is what the library is made of in `header.rs`.

use super::declarations::{Declarations, without_comments};
use super::{Verdict, layout};
use crate::deadline;
use crate::stage::{Compiler, manifest_dir, run, said};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A stand-in for the library with the functions of a header.
pub fn stand_in(header: &str, dir: &Path) -> PathBuf {
    let (code, library) = (dir.join("functions.c"), dir.join("libaquila.so"));
    let functions = Declarations::of(header).functions.into_iter();
    let bodies: String = functions.map(|(_, head)| format!("{head} {{ __builtin_trap(); }}\n")).collect();
    fs::write(dir.join("aquila.h"), header).expect("aquila.h");
    fs::write(&code, format!("#include <aquila.h>\n{bodies}")).expect("functions.c");
    let map = manifest_dir().join("pkgconfig/aquila.map");
    run(Compiler::found()[0]
        .c()
        .args(["-std=c11", "-w", "-g", "-gdwarf-4", "-O0", "-fPIC", "-shared", "-Wl,-soname,libaquila.so.1"])
        .arg(format!("-Wl,--version-script={}", map.display()))
        .arg("-I")
        .arg(dir)
        .arg("-o")
        .args([&library, &code]));
    library
}

/// A header whose structs have no more fields than a layout knows: a struct that grew at its end, which is for the
/// layout to judge, is no difference to abidiff then.
pub fn without_growth(header: &str, layout: &Value) -> String {
    let mut kept = String::new();
    let mut left = usize::MAX; // fields of this struct still to be kept
    for line in without_comments(header).lines() {
        if let Some(name) = line.strip_prefix("typedef struct ").and_then(|rest| rest.strip_suffix(" {")) {
            let known = layout["structs"].get(name);
            left = known.map_or(usize::MAX, |record| layout::fields(record).len());
        } else if line.starts_with('}') {
            left = usize::MAX;
        } else if left != usize::MAX && line.ends_with(';') {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        kept += line;
        kept.push('\n');
    }
    kept
}

/// libabigail's description of a stand-in, the same wherever that lies.
pub fn description(library: &Path) -> String {
    let dir = library.parent().expect("a folder");
    let said = said(
        Command::new("abidw")
            .args(["--drop-private-types", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs"])
            .args(["--type-id-style", "hash", "--headers-dir"])
            .arg(dir)
            .arg(library),
    );
    let said = said.replace(&format!("path='{}/", dir.display()), "path='");
    assert!(!said.contains("path='/"), "a path of this machine is left in the description");
    said
}

/// What became of the functions that a description has.
pub fn compare(before: &Path, library: &Path) -> Verdict {
    let difference = |flags: &[&str]| {
        let mut command = Command::new("abidiff");
        let output = deadline::output(command.arg("--no-show-locs").args(flags).arg(before).arg(library));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code().unwrap_or(1);
        // 4: a difference, 8: one that breaks for certain; 1 and 2 say that abidiff could not work.
        assert!(code & 3 == 0, "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        (code != 0).then_some(said)
    };
    let mut verdict = Verdict::default();
    if let Some(said) = difference(&["--no-added-syms"]) {
        verdict.broken.push(said);
    } else if let Some(said) = difference(&[]) {
        verdict.added.push(said);
    }
    verdict
}

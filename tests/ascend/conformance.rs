//! The tables of ACL and HCCL against the headers in the wheels of torch-npu.

use crate::{RELEASES, finish, generate, scratch, wheel};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All text of the headers below a folder.
fn headers(dir: &Path) -> String {
    let entries = fs::read_dir(dir).unwrap_or_else(|cause| panic!("{}: {cause}", dir.display()));
    let mut text = String::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            text += &headers(&path);
        } else {
            text += &String::from_utf8_lossy(&fs::read(&path).unwrap());
        }
    }
    text
}

fn compile(code: &Path, include: &Path) -> Command {
    let third_party = include.join("third_party");
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-fsyntax-only", "-w"]).arg(code);
    for path in [third_party.join("acl/inc"), third_party.join("hccl/inc"), include.to_path_buf()] {
        command.arg("-I").arg(path);
    }
    command
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = scratch(name).join("interfaces.cpp");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn types_constants_and_functions_are_those_of_the_headers() {
    for (version, _) in RELEASES {
        let Some(wheel) = wheel(version) else { continue };
        let include = wheel.join("include");
        let all = headers(&include.join("third_party"));
        let text = generate::interfaces(|name| all.contains(name));
        let output = finish(&mut compile(&file(&format!("interfaces-{version}"), &text), &include));
        let said = String::from_utf8_lossy(&output.stderr);
        let wrong: Vec<_> = said.lines().filter(|line| line.contains("error")).collect();
        assert!(output.status.success(), "torch-npu {version}:\n{}", wrong.join("\n"));
    }
}

/// A table that says something else must not pass: one wrong number, one wrong pointer.
#[test]
fn a_wrong_table_is_seen() {
    let (version, _) = RELEASES[1];
    let Some(wheel) = wheel(version) else { return };
    let include = wheel.join("include");
    let text = generate::interfaces(|_| true);
    for (right, wrong, complaint) in [
        ("(ACL_BF16) == 27", "(ACL_BF16) == 26", "ACL_BF16"),
        ("sizeof(HcclRootInfo) == 4108", "sizeof(HcclRootInfo) == 4096", "HcclRootInfo"),
        (
            "(*)(void * *, size_t, aclrtMemMallocPolicy)",
            "(*)(void * *, uint32_t, aclrtMemMallocPolicy)",
            "aclrtMalloc",
        ),
    ] {
        let changed = text.replacen(right, wrong, 1);
        assert_ne!(changed, text, "{right}");
        let output = finish(&mut compile(&file("interfaces-wrong", &changed), &include));
        assert!(!output.status.success(), "{wrong}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(complaint), "{said}");
    }
}

//! The simulator against what is known of the real libraries: the headers of ACL and HCCL, and the imports of a real
//! client of ATB, from the wheels of torch-npu.

use crate::build::{Simulator, is_here, succeed};
use crate::functions::{ACL, HCCL, declared};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Releases that `tests/fetch/fetch.sh headers` unpacks, with the C++ ABI of their libraries.
const RELEASES: [(&str, u32); 3] = [("2.1.0.post17", 0), ("2.7.1.post11", 1), ("2.14.0", 1)];

/// The unpacked wheel of a release; `None`, with a line, where it was not fetched.
fn wheel(version: &str) -> Option<PathBuf> {
    let data = std::env::var_os("AQUILA_TEST_DATA").map(PathBuf::from);
    let found = data.map(|data| data.join("torch-npu").join(version).join("torch_npu"));
    let found = found.filter(|path| path.is_dir());
    if found.is_none() {
        println!(
            "skipped: torch-npu {version} is not there: tests/fetch/fetch.sh headers, and AQUILA_TEST_DATA"
        );
    }
    found
}

/// All text of the headers below a folder.
fn headers(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|cause| panic!("{}: {cause}", dir.display())) {
        let path = entry.expect("an entry").path();
        text += &if path.is_dir() {
            headers(&path)
        } else {
            String::from_utf8_lossy(&fs::read(&path).expect("a header")).into_owned()
        };
    }
    text
}

/// Symbols of a library by `nm`: those it defines, or those it wants.
fn symbols(library: &Path, which: &str) -> BTreeSet<String> {
    let text = succeed(Command::new("nm").args(["-D", which]).arg(library));
    let strong = |line: &&str| line.split_whitespace().rev().nth(1) != Some("w");
    text.lines().filter(strong).filter_map(|line| line.split_whitespace().last()).map(String::from).collect()
}

fn library(simulator: &Simulator, abi: u32) -> PathBuf {
    simulator.out.join(format!("atb/cxx_abi_{abi}/lib/libatb.so"))
}

#[test]
fn every_function_is_exported() {
    let Some(simulator) = Simulator::standard() else { return };
    for (name, list) in [("libascendcl.so", ACL), ("libhccl.so", HCCL)] {
        let defined = symbols(&simulator.out.join("lib64").join(name), "--defined-only");
        let missing: Vec<_> = list.iter().filter(|function| !defined.contains(**function)).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn the_abi_of_atb_can_be_probed() {
    let Some(simulator) = Simulator::standard() else { return };
    let (old, new) = ("_ZN3atb5Utils13GetAtbVersionEv", "_ZN3atb5Utils13GetAtbVersionB5cxx11Ev");
    for (abi, its, other) in [(0, old, new), (1, new, old)] {
        let defined = symbols(&library(simulator, abi), "--defined-only");
        assert!(defined.contains(its) && !defined.contains(other), "abi{abi}");
    }
}

/// A real client of ATB finds all that it imports.
#[test]
fn a_client_of_atb_finds_its_symbols() {
    let Some(simulator) = Simulator::standard() else { return };
    for (version, abi) in RELEASES {
        let Some(wheel) = wheel(version) else { continue };
        let wanted: Vec<_> = symbols(&wheel.join("lib/libop_plugin_atb.so"), "--undefined-only")
            .into_iter()
            .filter(|name| name.contains("3atb"))
            .collect();
        assert!(wanted.len() >= 12, "{version}: {wanted:?}");
        let defined = symbols(&library(simulator, abi), "--defined-only");
        let missing: Vec<_> = wanted.iter().filter(|name| !defined.contains(*name)).collect();
        assert!(missing.is_empty(), "{version}: {missing:?}");
    }
}

/// C++ that asserts that each function has the same calling form as in the headers: as many parameters, pointers where
/// pointers are, and numbers of the same size. `wrong` changes one of ours.
fn assertions(header_text: &str, wrong: Option<(&str, &str)>) -> String {
    let mut text = String::from(
        r#"#include <type_traits>
#include "acl/acl.h"
#include "hccl/hccl.h"
template <class A, class B> constexpr bool number = (std::is_enum_v<A> || std::is_integral_v<A>) &&
    std::is_integral_v<B> && sizeof(A) == sizeof(B);
template <class A, class B> constexpr bool alike() {
    if constexpr (std::is_same_v<A, B>) return true;
    else if constexpr (std::is_pointer_v<A> || std::is_pointer_v<B>) return std::is_pointer_v<A> && std::is_pointer_v<B>;
    else if constexpr (std::is_void_v<A> || std::is_void_v<B>) return false;
    else return number<A, B>;
}
template <class A, class B> struct Same : std::false_type {};
template <class R, class... P, class S, class... Q> struct Same<R(P...), S(Q...)> {
    static constexpr bool check() {
        if constexpr (sizeof...(P) != sizeof...(Q)) return false;
        else return alike<R, S>() && (alike<P, Q>() && ...);
    }
    static constexpr bool value = check();
};
"#,
    );
    for (name, kind) in declared() {
        let known = header_text.contains(&format!("{name}("));
        let kind = match wrong {
            Some((which, other)) if which == name => other.to_string(),
            _ => kind,
        };
        if known {
            writeln!(text, "static_assert(Same<decltype({name}), {kind}>::value, \"{name}\");")
                .expect("a string");
        }
    }
    text
}

fn compile(text: &str, include: &Path, name: &str) -> Output {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cann-sim-signatures");
    fs::create_dir_all(&dir).expect("a scratch folder");
    let file = dir.join(format!("{name}.cpp"));
    fs::write(&file, text).expect("a scratch file");
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-fsyntax-only", "-w"]).arg(file);
    let third_party = include.join("third_party");
    for path in [third_party.join("acl/inc"), third_party.join("hccl/inc"), include.to_path_buf()] {
        command.arg("-I").arg(path);
    }
    command.output().expect("g++ runs")
}

#[test]
fn functions_are_called_as_in_the_headers() {
    if !is_here("g++") {
        return;
    }
    let mut known = BTreeSet::new();
    for (version, _) in RELEASES {
        let Some(wheel) = wheel(version) else { return };
        let include = wheel.join("include");
        let all = headers(&include.join("third_party"));
        let names = declared().into_iter().map(|(name, _)| name);
        known.extend(names.filter(|name| all.contains(&format!("{name}("))));
        let output = compile(&assertions(&all, None), &include, version);
        let said = String::from_utf8_lossy(&output.stderr);
        let wrong: Vec<_> = said.lines().filter(|line| line.contains("error")).collect();
        assert!(output.status.success(), "torch-npu {version}:\n{}", wrong.join("\n"));
    }
    // Each name of ours is a real one.
    let names: BTreeSet<_> = ACL.iter().chain(HCCL).map(ToString::to_string).collect();
    assert_eq!(names.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A wrong declaration is seen: a parameter too few, a number of another size, a number for a pointer.
#[test]
fn a_wrong_function_is_seen() {
    let (version, _) = RELEASES[1];
    let Some(wheel) = wheel(version) else { return };
    let include = wheel.join("include");
    let all = headers(&include.join("third_party"));
    for (name, kind) in [
        ("aclrtMalloc", "int(void **devPtr, size_t size)"),
        ("aclrtMalloc", "int(void **devPtr, uint32_t size, int policy)"),
        ("aclrtFree", "int(size_t devPtr)"),
        ("HcclAllReduce", "int(void *, void *, uint32_t, int, int, void *, void *)"),
    ] {
        let output = compile(&assertions(&all, Some((name, kind))), &include, "wrong");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(name), "{kind}: {said}");
    }
}

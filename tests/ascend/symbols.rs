//! The names of ATB's functions: what a C++ compiler makes of their declarations, and what a real client of ATB imports.

use crate::{RELEASES, run, scratch, wheel};
use aquila::backend::ascend::{open, search};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/ascend/shim");

/// The symbols of `symbols.def` for an ABI.
fn ours(abi: u32) -> BTreeSet<String> {
    let list = scratch(&format!("symbols-{abi}")).join("list.cpp");
    let text = "#define AQATB_SYMBOL(name, symbol, needed) SYMBOL symbol\n#include \"symbols.def\"\n";
    std::fs::write(&list, text).unwrap();
    let mut command = Command::new("g++");
    command.args(["-E", "-P", &format!("-DAQATB_ABI={abi}"), "-I", SHIM]).arg(list);
    let said = run(&mut command);
    let symbols: BTreeSet<String> = said
        .split("SYMBOL ")
        .skip(1)
        .map(|words| words.split('"').skip(1).step_by(2).collect())
        .filter(|symbol: &String| !symbol.is_empty())
        .collect();
    assert!(symbols.len() > 20, "{said}");
    symbols
}

/// The undefined symbols of an object or a library.
fn imported(file: &Path, flags: &[&str]) -> BTreeSet<String> {
    let said = run(Command::new("nm").args(flags).arg("--undefined-only").arg(file));
    said.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

#[test]
fn the_names_are_those_that_a_compiler_gives() {
    let code = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ascend/atb_names.cpp");
    for abi in [0, 1] {
        let object = scratch(&format!("names-{abi}")).join("names.o");
        let define = format!("-D_GLIBCXX_USE_CXX11_ABI={abi}");
        run(Command::new("g++").args(["-std=c++17", "-c", "-O0", &define, code, "-o"]).arg(&object));
        let made = imported(&object, &[]);
        let made: BTreeSet<_> = made.into_iter().filter(|name| name.starts_with("_ZN3atb")).collect();
        assert_eq!(ours(abi), made, "C++ ABI {abi}");
        assert!(made.contains(open::ATB_PROBES[abi as usize]), "{made:?}");
        assert!(!made.contains(open::ATB_PROBES[1 - abi as usize]));
    }
}

#[test]
fn a_real_client_of_atb_imports_the_same_names() {
    for (version, abi) in RELEASES {
        let Some(wheel) = wheel(version) else { continue };
        let imports = imported(&wheel.join("lib/libop_plugin_atb.so"), &["-D"]);
        let atb: BTreeSet<_> = imports.iter().filter(|name| name.starts_with("_ZN3atb")).cloned().collect();
        // What it uses and we do not.
        let others = ["GroupTopkParam", "GetTensorSize"];
        let shared: BTreeSet<_> =
            atb.into_iter().filter(|name| !others.iter().any(|other| name.contains(other))).collect();
        let unknown: Vec<_> = shared.difference(&ours(abi)).cloned().collect();
        assert!(unknown.is_empty(), "torch-npu {version}: {unknown:?}");
        let operations =
            ["Linear", "Elewise", "RmsNorm", "SelfAttention", "PagedAttention", "ReshapeAndCache", "Rope"];
        for operation in operations {
            assert!(shared.iter().any(|name| name.contains(operation)), "torch-npu {version}: {operation}");
        }
        assert_eq!(shared.len(), operations.len() + 3, "torch-npu {version}: {shared:?}");
        // And the function by which PyTorch's own ABI is told.
        assert!(imports.contains(search::TORCH_PROBES[abi as usize]), "torch-npu {version}");
        assert!(!imports.contains(search::TORCH_PROBES[1 - abi as usize]), "torch-npu {version}");
    }
}

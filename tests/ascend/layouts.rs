//! Layouts: the shim's declarations of ATB's types, and Rust's mirror of the shim's own structs.

use crate::{finish, generate, is_here, run, scratch};
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Compilers of this machine's and the other architecture, with what runs their programs.
const COMPILERS: [(&str, &[&str]); 2] = [("g++", &[]), ("aarch64-linux-gnu-g++", &["qemu-aarch64-static"])];

fn compile(compiler: &str, abi: u32, code: &Path, program: &Path) -> Command {
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-static"]);
    command.arg(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"));
    command.arg(format!("-I{ROOT}/src/backend/ascend/shim"));
    command.arg("-o").arg(program).arg(code);
    command
}

#[test]
fn atbs_types_are_laid_out_as_the_reference_says() {
    let code = Path::new(ROOT).join("tests/ascend/atb_layouts.cpp");
    for (compiler, runner) in COMPILERS {
        if !is_here(compiler) || !runner.iter().all(|program| is_here(program)) {
            continue;
        }
        for abi in [0, 1] {
            let program = scratch(&format!("layouts-{compiler}-{abi}")).join("layouts");
            run(&mut compile(compiler, abi, &code, &program));
            let words: Vec<_> = runner.iter().map(|word| word.to_string()).collect();
            let (first, rest) = match words.split_first() {
                Some((runner, _)) => (runner.clone(), vec![program.to_str().unwrap().to_owned()]),
                None => (program.to_str().unwrap().to_owned(), Vec::new()),
            };
            run(Command::new(first).args(rest));
        }
    }
}

/// A struct that is declared otherwise must not compile: the numbers are looked at.
#[test]
fn a_wrong_layout_does_not_compile() {
    let dir = scratch("layouts-wrong");
    let shim = Path::new(ROOT).join("src/backend/ascend/shim");
    let types = std::fs::read_to_string(shim.join("atb_types.hpp")).unwrap();
    std::fs::copy(shim.join("layouts.inc"), dir.join("layouts.inc")).unwrap();
    for (right, wrong, complaint) in [
        ("    float qkScale;\n    bool batch", "    double qkScale;\n    bool batch", "SelfAttentionParam"),
        ("    int32_t cosFormat;\n", "", "RopeParam"),
        ("storage_[SVECTOR_INLINE + 1]", "storage_[SVECTOR_INLINE]", "SVector"),
    ] {
        let changed = types.replacen(right, wrong, 1);
        assert_ne!(changed, types, "{right}");
        std::fs::write(dir.join("atb_types.hpp"), changed).unwrap();
        std::fs::write(dir.join("main.cpp"), "#include \"atb_types.hpp\"\n").unwrap();
        let output =
            finish(Command::new("g++").args(["-std=c++17", "-fsyntax-only"]).arg(dir.join("main.cpp")));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{wrong}: {said}");
    }
}

#[test]
fn rust_mirrors_the_shims_header() {
    let code = scratch("shim-header").join("shim.cpp");
    std::fs::write(&code, generate::shim()).unwrap();
    for (compiler, _) in COMPILERS {
        if is_here(compiler) {
            let mut command = Command::new(compiler);
            command.args(["-std=c++17", "-fsyntax-only", "-Wpadded", "-Werror"]);
            run(command.arg(format!("-I{ROOT}/src/backend/ascend/shim")).arg(&code));
        }
    }
}

/// The header is plain C for whoever wants to use the shim from there.
#[test]
fn the_header_is_c() {
    let code = scratch("shim-c").join("shim.c");
    std::fs::write(&code, "#include \"aquila_atb.h\"\nint main(void) { return (int)aqatb_abi(); }\n")
        .unwrap();
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    run(command.arg(format!("-I{ROOT}/src/backend/ascend/shim")).arg(&code));
}

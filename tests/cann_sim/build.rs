//! Builds the simulator and its test programs, and runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq)]
pub enum Compiler {
    Gcc,
    Clang,
    CrossAarch64,
}

impl Compiler {
    fn program(self) -> &'static str {
        match self {
            Compiler::Gcc => "g++",
            Compiler::Clang => "clang++",
            Compiler::CrossAarch64 => "aarch64-linux-gnu-g++",
        }
    }
}

/// A simulator that was built.
pub struct Simulator {
    compiler: Compiler,
    pub out: PathBuf,
}

impl Simulator {
    /// `make cann-sim`; `None`, with a line, where no C++ compiler is. The tests share it.
    pub fn standard() -> Option<&'static Simulator> {
        static BUILT: OnceLock<Option<Simulator>> = OnceLock::new();
        BUILT
            .get_or_init(|| {
                is_here("g++").then(|| {
                    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                    succeed(
                        Command::new("make").arg("--no-print-directory").arg("-C").arg(root).arg("cann-sim"),
                    );
                    Simulator { compiler: Compiler::Gcc, out: root.join("target/cann-sim") }
                })
            })
            .as_ref()
    }

    /// One by another compiler, beside the standard one.
    pub fn build(compiler: Compiler) -> Option<Simulator> {
        is_here(compiler.program()).then(|| {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cann-sim").join(compiler.program());
            let simulator = Simulator { compiler, out };
            succeed(simulator.make("tests/cann-sim").arg("CXXFLAGS=-O1"));
            simulator
        })
    }

    fn make(&self, folder: &str) -> Command {
        let mut command = Command::new("make");
        command.arg("--no-print-directory").arg("-C").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        command.arg(format!("CXX={}", self.compiler.program())).arg(format!("OUT={}", self.out.display()));
        command
    }

    pub fn build_tests(&self, abi: u32) {
        succeed(self.make("tests/cann-sim/test").arg(format!("ABI={abi}")));
    }

    /// Runs a shell line after `set_env.sh`, and gives what it says.
    pub fn source(&self, line: &str, abi: u32) -> String {
        let script = format!("source {}/set_env.sh --cxx_abi={abi} && {line}", self.out.display());
        let mut command = Command::new("bash");
        for variable in ["LD_LIBRARY_PATH", "ATB_HOME_PATH", "ASCEND_HOME_PATH"] {
            command.env_remove(variable);
        }
        succeed(command.arg("-c").arg(script))
    }

    /// Runs a test program, which must pass.
    pub fn run(&self, abi: u32, program: &str) {
        let path = self.out.join(format!("test/abi{abi}/{program}"));
        let line = match self.compiler {
            Compiler::CrossAarch64 if !cfg!(target_arch = "aarch64") => {
                if !is_here("qemu-aarch64-static") {
                    return;
                }
                // The loader of the emulated program takes the path; bash itself stays the machine's own.
                let library_path = "-E LD_LIBRARY_PATH=$LD_LIBRARY_PATH";
                // Address space is slow to get there.
                format!(
                    "export AQUILA_SIM_MEMORY=1000000000; exec qemu-aarch64-static -L /usr/aarch64-linux-gnu {library_path} {}",
                    path.display()
                )
            }
            _ => format!("exec {}", path.display()),
        };
        let said = self.source(&format!("ulimit -c 0; exec 2>&1; {line}"), abi);
        assert!(said.contains("passed"), "{}: {said}", path.display());
    }
}

/// Runs a command that must succeed, and gives what it says.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}{err}");
    out.into_owned()
}

/// Whether a program can be run; prints a line if not.
pub fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        println!("skipped: {program} is not installed");
    }
    here
}

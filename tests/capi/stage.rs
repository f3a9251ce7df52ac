//! What the tests stand on: the compilers that are here, and an installed tree of the library that
//! cargo just built.

use crate::deadline;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::SystemTime;

/// A C and C++ compiler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compiler {
    pub name: &'static str,
    cpp: &'static str,
}

impl Compiler {
    /// gcc and clang, where they are installed. One that is missing is said once.
    pub fn found() -> &'static [Compiler] {
        static FOUND: OnceLock<Vec<Compiler>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let both = [Compiler { name: "gcc", cpp: "g++" }, Compiler { name: "clang", cpp: "clang++" }];
            let found: Vec<_> = both.into_iter().filter(|compiler| is_here(compiler.name)).collect();
            assert!(!found.is_empty(), "neither gcc nor clang is installed");
            found
        })
    }

    pub fn c(self) -> Command {
        Command::new(self.name)
    }

    pub fn cpp(self) -> Command {
        Command::new(self.cpp)
    }
}

/// Whether a program can be run; prints a line if not.
pub fn is_here(program: &str) -> bool {
    is_here_as(program, "--version")
}

/// The same for a program that says its version otherwise.
pub fn is_here_as(program: &str, version: &str) -> bool {
    let here = Command::new(program).arg(version).output().is_ok_and(|output| output.status.success());
    if !here {
        println!("skipped: {program} is not installed");
    }
    here
}

pub fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo's folder with the libaquila.a that was built for this test program: the one it stands in.
pub fn build_dir() -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    program.parent().expect("target/<profile>/deps").to_owned()
}

/// An empty folder for one test.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a scratch folder");
    dir
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = deadline::output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What a command that must succeed says on its standard output.
pub fn said(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).expect("UTF-8")
}

/// An installed tree, made once of the archive that cargo built with this test.
pub fn staged() -> &'static Path {
    static STAGED: OnceLock<PathBuf> = OnceLock::new();
    STAGED.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-stage");
        let archive = build_dir().join("libaquila.a");
        let sources = [
            archive,
            manifest_dir().join("pkgconfig"),
            manifest_dir().join("pkgconfig/abi"),
            manifest_dir().join("include"),
            manifest_dir().into(),
        ];
        let newest = sources.iter().flat_map(|path| newest(path)).max();
        if newest >= modified(&prefix.join("lib/cmake/aquila/aquila-config.cmake")) {
            run(Command::new(manifest_dir().join("pkgconfig/stage.sh"))
                .arg(build_dir())
                .arg(&prefix)
                .env_remove("DESTDIR"));
        }
        prefix
    })
}

/// The latest change of a file, or of the files directly in a folder.
fn newest(path: &Path) -> Option<SystemTime> {
    let Ok(entries) = fs::read_dir(path) else { return modified(path) };
    entries.flatten().filter(|entry| entry.path().is_file()).filter_map(|e| modified(&e.path())).max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// What pkg-config says of the staged tree.
pub fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", staged().join("lib/pkgconfig")).args(arguments).arg("aquila");
    said(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// How a program is linked to the library.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Shared,
    Static,
}

/// Compiles and links a source against the staged tree by pkg-config alone.
pub fn build(mut compiler: Command, source: &Path, program: &Path, link: Link, flags: &[&str]) {
    compiler.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"]).args(flags);
    compiler.arg("-o").arg(program).arg(source);
    compiler.args(pkg_config(&["--cflags"]));
    match link {
        Link::Shared => {
            compiler.args(pkg_config(&["--libs"]));
        }
        Link::Static => {
            compiler.args(["-Wl,-Bstatic"]).args(pkg_config(&["--libs"])).arg("-Wl,-Bdynamic");
            compiler.args(["-lpthread", "-ldl", "-lm"]);
        }
    }
    run(&mut compiler);
}

/// A command that runs a program built by [`build`].
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", staged().join("lib"));
    command
}

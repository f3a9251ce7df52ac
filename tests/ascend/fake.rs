//! Installations of CANN that are none: small libraries under the real names, in the folders where CANN has its own.
//! They follow none of CANN's rules; that is the simulator's part (`tests/cann-sim`).

use crate::{run, scratch};
use aquila::backend::ascend::{acl, hccl, table::Function};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ascend/fake");

/// What the toolkit is like.
#[derive(Clone, Copy)]
pub struct Toolkit {
    /// What `aclInit` answers.
    pub init: i32,
    /// The chip's name; empty for NULL.
    pub soc: &'static str,
    pub devices: u32,
    /// A function that its library lacks.
    pub missing: &'static str,
}

pub const TOOLKIT: Toolkit = Toolkit { init: 0, soc: "Ascend910B3", devices: 2, missing: "" };

/// What ATB is like.
#[derive(Clone, Copy)]
pub struct Atb {
    pub abi: u32,
    /// What version.info says; empty for no such file.
    pub file: &'static str,
    /// What it says itself.
    pub word: &'static str,
    /// A definition that leaves something out.
    pub without: &'static str,
}

pub const ATB: Atb = Atb { abi: 1, file: "8.1.RC1.B110", word: "", without: "" };

/// A folder that stands for /usr/local/Ascend.
pub struct Install {
    pub root: PathBuf,
}

impl Install {
    pub fn new(name: &str) -> Install {
        Install { root: scratch(&format!("install-{name}")) }
    }

    pub fn with_toolkit(self, toolkit: Toolkit) -> Install {
        make_toolkit(&self.root.join("ascend-toolkit/latest/lib64"), toolkit);
        self
    }

    pub fn with_atb(self, atb: Atb) -> Install {
        let latest = self.root.join("nnal/atb/latest");
        make_atb(&latest.join(format!("atb/cxx_abi_{}/lib", atb.abi)), atb);
        if !atb.file.is_empty() {
            let text = format!("    Ascend-cann-atb : 8.x\n    Ascend-cann-atb Version : {}\n", atb.file);
            fs::write(latest.join("version.info"), text).unwrap();
        }
        self
    }

    /// What ATB's set_env.sh would set `ATB_HOME_PATH` to.
    pub fn atb_home(&self, abi: u32) -> PathBuf {
        self.root.join(format!("nnal/atb/latest/atb/cxx_abi_{abi}"))
    }

    /// The program with this installation and nothing else of Ascend.
    pub fn aquila(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquila"));
        self.set(&mut command);
        command
    }

    /// The environment of a process that is to see this installation.
    pub fn set(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["ASCEND", "ATB", "AQUILA", "HCCL"].iter().any(|prefix| name_text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD").env_remove("MAX_SEQ_LEN");
        command.env("AQUILA_ASCEND_ROOT", &self.root);
    }
}

/// `libascendcl.so` and `libhccl.so` in a folder.
pub fn make_toolkit(dir: &Path, toolkit: Toolkit) {
    fs::create_dir_all(dir).unwrap();
    let own = fs::read_to_string(Path::new(SOURCES).join("acl.c")).unwrap();
    let soc = if toolkit.soc.is_empty() { "0".into() } else { format!("{:?}", toolkit.soc) };
    let text = format!(
        "#define FAKE_INIT {}\n#define FAKE_SOC {soc}\n#define FAKE_DEVICES {}\n{own}\n{}",
        toolkit.init,
        toolkit.devices,
        rest(acl::FUNCTIONS, &own, toolkit.missing)
    );
    compile("gcc", &[], &text, "c", &dir.join("libascendcl.so"));
    compile("gcc", &[], &rest(hccl::FUNCTIONS, "", ""), "c", &dir.join("libhccl.so"));
}

/// Functions that answer 0: those of a table that `own` has not, but `missing`.
fn rest(table: &[Function], own: &str, missing: &str) -> String {
    let needed = table.iter().filter(|item| !item.optional && item.name != missing);
    let others = needed.filter(|item| !own.contains(&format!("{}(", item.name)));
    others.map(|item| format!("int {}(void) {{ return 0; }}\n", item.name)).collect()
}

/// `libatb.so` in a folder.
pub fn make_atb(dir: &Path, atb: Atb) {
    fs::create_dir_all(dir).unwrap();
    let text = fs::read_to_string(Path::new(SOURCES).join("atb.cpp")).unwrap();
    let abi = format!("-D_GLIBCXX_USE_CXX11_ABI={}", atb.abi);
    let word = format!("-DFAKE_VERSION={:?}", atb.word);
    let mut flags = vec!["-std=c++17", "-fvisibility=hidden", abi.as_str(), word.as_str()];
    let without = format!("-D{}", atb.without);
    if !atb.without.is_empty() {
        flags.push(&without);
    }
    compile("g++", &flags, &text, "cpp", &dir.join("libatb.so"));
}

/// A `libc10.so` of PyTorch with an ABI: the one function by which it is told.
pub fn make_torch(dir: &Path, abi: u32) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let probe = aquila::backend::ascend::search::TORCH_PROBES[abi as usize];
    let library = dir.join("libc10.so");
    compile("gcc", &[], &format!("void {probe}(void) {{}}\n"), "c", &library);
    library
}

fn compile(compiler: &str, flags: &[&str], text: &str, extension: &str, library: &Path) {
    let code = library.with_extension(extension);
    fs::write(&code, text).unwrap();
    let name = library.file_name().unwrap().to_str().unwrap();
    let mut command = Command::new(compiler);
    command.args(["-O1", "-fPIC", "-shared", "-w"]).args(flags).arg(format!("-Wl,-soname,{name}"));
    run(command.arg("-o").arg(library).arg(code));
}

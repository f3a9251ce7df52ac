//! Processes that see the simulator, and what it tells of itself.

use crate::build::Simulator;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::process::Command;

const IN_CHILD: &str = "NPU_TEST_CHILD";

/// The two cards.
pub const CARDS: [&str; 2] = ["Ascend910B3", "Ascend310P3"];

/// Whether this is the process that sees the simulator.
pub fn is_child() -> bool {
    std::env::var_os(IN_CHILD).is_some()
}

/// Runs one test of this program in a process that sees the simulator, of C++ ABI `abi`, with these settings besides, and
/// gives what it said. Nothing where there is no C++ compiler, which is said.
pub fn in_child_of(abi: u32, test: &str, settings: &[(&str, &str)]) -> String {
    let Some(simulator) = Simulator::standard() else { return String::new() };
    let out = simulator.out.to_str().expect("a path in UTF-8");
    let atb = format!("{out}/atb/cxx_abi_{abi}");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env("ASCEND_HOME_PATH", out).env("ASCEND_OPP_PATH", format!("{out}/opp"));
    command.env("ATB_HOME_PATH", &atb).env("LD_LIBRARY_PATH", format!("{out}/lib64:{atb}/lib"));
    command.env(IN_CHILD, "1").envs(settings.iter().copied());
    let output = command.args(["--exact", test, "--nocapture"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} with {settings:?}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    // Figures that a test measured, for whoever runs it with --nocapture.
    said.lines()
        .filter(|line| line.contains("measured (simulated"))
        .for_each(|line| println!("{settings:?} {line}"));
    said
}

/// The same with the newer ABI.
pub fn in_child(test: &str, settings: &[(&str, &str)]) -> String {
    in_child_of(1, test, settings)
}

/// What the simulator exports for tests, by name out of the opened library.
fn function(name: &CStr) -> *mut libc::c_void {
    // SAFETY: looked up among the libraries that are open; the simulator is once a device was asked for.
    let handle = unsafe { libc::dlopen(c"libascendcl.so".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
    assert!(!handle.is_null(), "CANN is not open yet");
    // SAFETY: a valid handle and name.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

fn number(name: &CStr) -> u64 {
    // SAFETY: the simulator declares these so.
    let function: extern "C" fn() -> u64 = unsafe { std::mem::transmute(function(name)) };
    function()
}

fn number_of(name: &CStr, argument: &str) -> u64 {
    let argument = CString::new(argument).expect("no NUL");
    // SAFETY: the simulator declares these so.
    let function: extern "C" fn(*const c_char) -> u64 = unsafe { std::mem::transmute(function(name)) };
    function(argument.as_ptr())
}

/// Ends a step of the trace: counts begin anew.
pub fn mark(label: &str) {
    let label = CString::new(label).expect("no NUL");
    // SAFETY: the simulator declares it so.
    let function: extern "C" fn(*const c_char) = unsafe { std::mem::transmute(function(c"aquilaSimMark")) };
    function(label.as_ptr());
}

/// Calls of a function since the last mark.
pub fn count(name: &str) -> u64 {
    number_of(c"aquilaSimCount", name)
}

/// Calls of a function since the process began.
pub fn total(name: &str) -> u64 {
    number_of(c"aquilaSimTotal", name)
}

/// Rules that were broken without an error code.
pub fn violations() -> u64 {
    number(c"aquilaSimViolations")
}

/// Things that a reset of a device found alive.
pub fn leaks() -> u64 {
    number(c"aquilaSimLeaks")
}

/// Bytes of a device's memory that are taken.
pub fn used(device: c_int) -> u64 {
    // SAFETY: the simulator declares it so.
    let function: extern "C" fn(c_int) -> u64 = unsafe { std::mem::transmute(function(c"aquilaSimUsed")) };
    function(device)
}

/// Sets the failures that come from now on; none where the script is empty.
pub fn faults(script: &str) {
    let text = CString::new(script).expect("no NUL");
    // SAFETY: the simulator declares it so.
    let function: extern "C" fn(*const c_char) -> c_int =
        unsafe { std::mem::transmute(function(c"aquilaSimFaults")) };
    assert_eq!(function(text.as_ptr()), 0, "{script:?}");
}

/// Opens CANN, so that its counts can be asked for.
pub fn open() {
    aquila::backend::ascend::open::Cann::open().expect("the simulator opens");
}

/// Fails unless every rule was kept and everything given back.
pub fn expect_clean() {
    assert_eq!((violations(), leaks()), (0, 0), "rules that were broken, and things that were left");
}

/// Whether a folder of real models is there; the path of one in it.
pub fn real_model(name: &str) -> Option<std::path::PathBuf> {
    let model = crate::data::real_data()?.join(name);
    Path::exists(&model).then_some(model)
}

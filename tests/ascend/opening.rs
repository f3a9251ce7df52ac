//! How CANN is looked for and what is said where it is not there, or not as it must be: the program on small libraries
//! under the real names.

use crate::fake::{ATB, Atb, Install, TOOLKIT, Toolkit, make_atb, make_toolkit, make_torch};
use crate::finish;
use crate::support::{TempDir, TinyModel};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What is said of a device that is found fit: the next complaint is the model's.
const FOUND_FIT: &str = "/nowhere";

/// Asks for a device and gives the exit code and the message. The device is looked at before the model, so none is
/// needed.
fn asked(command: &mut Command, arguments: &[&str]) -> (i32, String) {
    let output = finish(command.args(["info", "/nowhere"]).args(arguments));
    (output.status.code().expect("no signal"), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The program on an installation with ATB's variable set, asked for `npu:0`.
fn message(install: &Install, abi: u32, arguments: &[&str]) -> (i32, String) {
    let mut command = install.aquila();
    command.env("ATB_HOME_PATH", install.atb_home(abi));
    let device = if arguments.contains(&"--device") { &[][..] } else { &["--device", "npu:0"] };
    asked(&mut command, &[device, arguments].concat())
}

fn has(said: &(i32, String), code: i32, words: &[&str]) {
    assert_eq!(said.0, code, "{}", said.1);
    for word in words {
        assert!(said.1.contains(word), "{word:?} is not in: {}", said.1);
    }
}

#[test]
fn without_cann_it_says_where_it_looked_and_what_to_source() {
    let install = Install::new("nothing");
    let said = asked(&mut install.aquila(), &["--device", "npu:0"]);
    let root = install.root.display().to_string();
    let script = format!("source {root}/ascend-toolkit/set_env.sh");
    let usual = format!("{root}/ascend-toolkit/latest/lib64/libascendcl.so (no such file)");
    has(
        &said,
        1,
        &[
            "libascendcl.so by the loader (",
            &usual,
            "ASCEND_HOME_PATH is not set",
            "ATB_HOME_PATH is not set",
            &script,
        ],
    );
}

#[test]
fn cann_without_atb_is_told_apart() {
    let install = Install::new("no-atb").with_toolkit(TOOLKIT);
    let said = message(&install, 1, &[]);
    has(&said, 1, &["nnal", "libatb.so by the loader", "cxx_abi_1/lib/libatb.so", "nnal/atb/set_env.sh"]);
}

#[test]
fn stub_libraries_are_recognised() {
    let install = Install::new("stub").with_toolkit(Toolkit { init: 100_039, ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &[]), 1, &["stub library", "LD_LIBRARY_PATH"]);
    let install = Install::new("stub-soc").with_toolkit(Toolkit { soc: "", ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &[]), 1, &["stub library"]);
}

#[test]
fn a_host_that_uses_acl_itself_is_no_failure() {
    let install = Install::new("twice").with_toolkit(Toolkit { init: 100_002, ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &[]), 1, &[FOUND_FIT]);
}

#[test]
fn an_old_atb_is_refused_with_what_to_upgrade() {
    for version in ["8.0.RC2", "8.0.T2.B010", "7.0.0"] {
        let install = Install::new("old").with_toolkit(TOOLKIT).with_atb(Atb { file: version, ..ATB });
        has(&message(&install, 1, &[]), 1, &[version, "8.0.0 or later", "upgrade", "version.info"]);
    }
    // Without the file it is asked itself; if it says nothing it is not trusted.
    let install = Install::new("own-word").with_toolkit(TOOLKIT);
    let install = install.with_atb(Atb { file: "", word: "ATB 8.3.RC1 of today", ..ATB });
    has(&message(&install, 1, &[]), 1, &[FOUND_FIT]);
    for (word, complaint) in [("7.0.0", "by its own word"), ("", "version is not to be told")] {
        let install = Install::new("no-word").with_toolkit(TOOLKIT).with_atb(Atb { file: "", word, ..ATB });
        has(&message(&install, 1, &[]), 1, &[complaint, "8.0.0"]);
    }
}

#[test]
fn functions_that_are_missing_are_named() {
    let toolkit = Toolkit { missing: "aclrtMemset", ..TOOLKIT };
    let install = Install::new("no-memset").with_toolkit(toolkit).with_atb(ATB);
    has(&message(&install, 1, &[]), 1, &["libascendcl.so", "it lacks aclrtMemset"]);
    let install = Install::new("no-linear").with_toolkit(TOOLKIT);
    let install = install.with_atb(Atb { without: "FAKE_WITHOUT_LINEAR", ..ATB });
    has(&message(&install, 1, &[]), 1, &["libatb.so", "lacks linear"]);
    let install = Install::new("no-probe").with_toolkit(TOOLKIT);
    let install = install.with_atb(Atb { without: "FAKE_WITHOUT_PROBE", ..ATB });
    has(&message(&install, 1, &[]), 1, &["libatb.so", "C++ ABI"]);
}

#[test]
fn atb_needs_its_variable() {
    let install = Install::new("no-variable").with_toolkit(TOOLKIT).with_atb(ATB);
    let said = asked(&mut install.aquila(), &["--device", "npu:0"]);
    has(&said, 1, &["ATB_HOME_PATH is not set", "nnal/atb/set_env.sh"]);
}

#[test]
fn both_abis_are_opened_each_with_its_own_shim() {
    for abi in [0, 1] {
        let install = Install::new(&format!("abi{abi}")).with_toolkit(TOOLKIT).with_atb(Atb { abi, ..ATB });
        has(&message(&install, abi, &[]), 1, &[FOUND_FIT]);
        let found = doctor(install.aquila().env("ATB_HOME_PATH", install.atb_home(abi)));
        assert!(finding(&found, "C++ ABI").starts_with(&abi.to_string()), "{found}");
    }
}

#[test]
fn the_variant_of_the_pytorch_in_the_process_is_taken() {
    let install = Install::new("torch").with_toolkit(TOOLKIT).with_atb(ATB);
    let torch = make_torch(&install.root.join("torch"), 0);
    let with_torch = || {
        let mut command = install.aquila();
        command.env("LD_PRELOAD", &torch).env("ATB_HOME_PATH", install.atb_home(1));
        command
    };
    // Only the other variant is installed.
    let said = asked(&mut with_torch(), &["--device", "npu:0"]);
    has(&said, 1, &["libatb.so was not found", "--cxx_abi=0"]);
    // The loader finds the other variant.
    let mut command = with_torch();
    command.env("LD_LIBRARY_PATH", install.atb_home(1).join("lib"));
    has(&asked(&mut command, &["--device", "npu:0"]), 1, &["C++ ABI is 1", "--cxx_abi=0"]);
    // Both are installed, and ATB_HOME_PATH names the wrong one.
    let install = install.with_atb(Atb { abi: 0, ..ATB });
    let found = doctor(install.aquila().env("LD_PRELOAD", &torch).env("ATB_HOME_PATH", install.atb_home(1)));
    assert!(finding(&found, "C++ ABI").starts_with('0'), "{found}");
}

#[test]
fn devices_and_types_are_checked_before_a_model_is_read() {
    let install = Install::new("910b").with_toolkit(TOOLKIT).with_atb(ATB);
    let on = |device: &str| message(&install, 1, &["--device", device]);
    has(&on("npu:2"), 2, &["npu:2", "no such device", "sees 2, npu:0 to npu:1"]);
    has(&on("npu:0,0"), 2, &["stands twice"]);
    has(&on("npu:x"), 2, &["npu:x", "npu:0,1"]);
    has(&on("npu:0,1"), 1, &[FOUND_FIT]);
    has(&message(&install, 1, &["--dtype", "bf16"]), 1, &[FOUND_FIT]);

    let install = Install::new("310p").with_toolkit(Toolkit { soc: "Ascend310P3", ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &["--dtype", "bf16"]), 1, &["dtype", "Ascend310P3", "no bf16", "f16"]);
    has(&message(&install, 1, &["--kv-dtype", "bf16"]), 1, &["kv_dtype", "no bf16"]);
    has(&message(&install, 1, &["--dtype", "f16"]), 1, &[FOUND_FIT]);

    let install = Install::new("910a").with_toolkit(Toolkit { soc: "Ascend910A", ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &[]), 1, &["Ascend910A", "Ascend310P"]);
    let install = Install::new("none").with_toolkit(Toolkit { devices: 0, ..TOOLKIT }).with_atb(ATB);
    has(&message(&install, 1, &[]), 2, &["sees 0"]);
}

#[test]
fn for_the_cpu_nothing_is_opened() {
    let install = Install::new("cpu").with_toolkit(TOOLKIT).with_atb(ATB);
    let trace = install.root.join("trace");
    let mut command = install.aquila();
    command
        .env("FAKE_TRACE", &trace)
        .env("LD_LIBRARY_PATH", install.root.join("ascend-toolkit/latest/lib64"));
    asked(&mut command, &["--device", "cpu"]);
    assert!(!trace.exists(), "{}", std::fs::read_to_string(&trace).unwrap());
    let mut command = install.aquila();
    asked(command.env("FAKE_TRACE", &trace), &["--device", "auto"]);
    assert!(trace.exists());
}

/// "auto" takes an NPU where one works; the log says which device it was, and why.
#[test]
fn auto_says_which_device_it_took_and_why() {
    let model = TempDir::new();
    TinyModel::default().write_dir(model.path());
    let log = |install: &Install, device: &str, more: &[&str]| {
        let mut command = install.aquila();
        command.env("ATB_HOME_PATH", install.atb_home(1)).arg("run").arg(model.path());
        let output = finish(command.args(["a", "-v", "-n", "1", "--device", device]).args(more));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let nothing = Install::new("auto-nothing");
    let said = log(&nothing, "auto", &[]);
    assert!(
        said.contains("device auto: the CPU, because no NPU can be used: CANN: libascendcl.so"),
        "{said}"
    );
    let there = Install::new("auto").with_toolkit(TOOLKIT).with_atb(ATB);
    // Types that only the CPU has are the CPU's.
    let said = log(&there, "auto", &["--dtype", "q8"]);
    assert!(said.contains("device auto: the CPU") && said.contains("f16, bf16 or w8a8"), "{said}");
    assert!(said.contains("npu:0: Ascend910B3, 20480 of 24576 MiB free"), "{said}");
    let said = log(&there, "cpu", &[]);
    assert!(!said.contains("NPU") && !said.contains("CANN"), "{said}");
}

#[test]
fn the_order_of_the_search() {
    let install = Install::new("order").with_toolkit(TOOLKIT).with_atb(ATB);
    let place = |name: &str| {
        let home = install.root.join(name);
        make_toolkit(&home.join("lib64"), TOOLKIT);
        home
    };
    let (own, path, home) = (place("own"), place("path"), place("home"));
    let cann = |variables: &[(&str, &Path)]| {
        let mut command = install.aquila();
        command.env("ATB_HOME_PATH", install.atb_home(1)).envs(variables.iter().copied());
        finding(&doctor(&mut command), "CANN")
    };
    let at = |text: String, place: &str| assert!(text.contains(&format!("/{place}/")), "{place}: {text}");
    at(cann(&[]), "ascend-toolkit");
    at(cann(&[("ASCEND_TOOLKIT_HOME", &home)]), "home");
    at(cann(&[("ASCEND_HOME_PATH", &home), ("ASCEND_TOOLKIT_HOME", &own)]), "home");
    let loader = path.join("lib64");
    at(cann(&[("ASCEND_HOME_PATH", &home), ("LD_LIBRARY_PATH", &loader)]), "path");
    // What the host has loaded already is taken, whatever the variables say.
    let preloaded = loader.join("libascendcl.so");
    at(cann(&[("ASCEND_HOME_PATH", &home), ("LD_PRELOAD", &preloaded)]), "path");
    at(cann(&[("LD_LIBRARY_PATH", &loader), ("AQUILA_ASCEND_HOME", &own)]), "own");
    // But not beside another copy that our own variable asks for.
    let mut command = install.aquila();
    command.env("LD_PRELOAD", &preloaded).env("AQUILA_ASCEND_HOME", &own);
    has(
        &asked(&mut command, &["--device", "npu:0"]),
        1,
        &["/path/lib64/libascendcl.so already", "two copies"],
    );
    // Our own variable stands for all other places: a wrong one is an error.
    let mut command = install.aquila();
    command.env("AQUILA_ASCEND_HOME", install.root.join("gone"));
    has(&asked(&mut command, &["--device", "npu:0"]), 1, &["/gone/lib64/libascendcl.so (no such file)"]);
    let mut command = install.aquila();
    command.env("AQUILA_ASCEND_SHIM", install.root.join("gone")).env("ATB_HOME_PATH", install.atb_home(1));
    has(
        &asked(&mut command, &["--device", "npu:0"]),
        1,
        &["/gone/libaquila-atb-abi1.so", "AQUILA_ASCEND_SHIM"],
    );
}

#[test]
fn atb_elsewhere_by_our_own_variable() {
    let install = Install::new("own-atb").with_toolkit(TOOLKIT);
    let home = install.root.join("mine");
    make_atb(&home.join("cxx_abi_0/lib"), Atb { abi: 0, word: "9.1.0", ..ATB });
    let mut command = install.aquila();
    command.env("AQUILA_ASCEND_ATB_HOME", &home).env("ATB_HOME_PATH", home.join("cxx_abi_0"));
    let found = doctor(&mut command);
    assert!(finding(&found, "ATB").contains("9.1.0") && finding(&found, "ATB").contains("/mine/"), "{found}");
}

/// `aquila doctor --json`.
fn doctor(command: &mut Command) -> Value {
    let output = finish(command.args(["doctor", "--json"]));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|cause| panic!("{cause}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The text of a finding; empty where there is none of that topic.
fn finding(found: &Value, topic: &str) -> String {
    let findings = found["findings"].as_array().unwrap();
    let line = findings.iter().find(|line| line["topic"] == topic);
    line.and_then(|line| line["text"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn the_doctor_knows_an_installation_from_its_lack() {
    let install = Install::new("doctor-none");
    // The folder is there and holds nothing: half an installation.
    let output = finish(install.aquila().arg("doctor"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("problem  CANN") && said.contains(" -> install Ascend-cann-toolkit"), "{said}");

    let mut command = install.aquila();
    command.env("AQUILA_ASCEND_ROOT", install.root.join("nothing"));
    let output = finish(command.arg("doctor"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("no device, driver or CANN") && said.contains("memory"), "{said}");

    let install = Install::new("doctor").with_toolkit(TOOLKIT).with_atb(ATB);
    let found = doctor(install.aquila().env("ATB_HOME_PATH", install.atb_home(1)));
    assert!(
        finding(&found, "npu:1").contains("Ascend910B3 (Atlas 800I A2), 20.0 GiB free of 24.0 GiB"),
        "{found}"
    );
    assert!(finding(&found, "ATB").contains("8.1.RC1.B110"), "{found}");
    assert!(finding(&found, "ATB_HOME_PATH").contains("atb_ops_info.ini"), "{found}");
    assert_eq!(found["verdict"], "problem");
}

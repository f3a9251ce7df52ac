//! The walls of the house, kept by a test: which module may import which, where `unsafe` may stand,
//! what the library never does, and that header and exports agree. It reads the source as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each top module may import. `open` is the one that names the backends.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("loading", &["loading", "base"]),
    ("text", &["text", "loading", "base"]),
    ("sampling", &["sampling", "base"]),
    ("model", &["model", "loading", "base"]),
    ("backend", &["backend", "model", "base"]),
    ("engine", &["engine", "backend", "model", "text", "sampling", "loading", "base"]),
    ("saving", &["saving", "base"]),
    ("export", &["export", "saving", "backend", "model", "text", "loading", "base"]),
    ("open", &["open", "engine", "backend", "model", "text", "loading", "base"]),
    ("capi", &["capi", "open", "engine", "backend", "text", "sampling", "base"]),
];

/// Backends' model imports: the spec, the weight source and its cut, nothing else of it.
const BACKEND_MAY_READ: &[&str] = &["model::cut", "model::spec", "model::weights"];

/// Where `unsafe` may stand: the C door, the backends, and the files that talk to the system.
const UNSAFE_ALLOWED: &[&str] = &[
    "src/capi/",
    "src/backend/ascend/",
    "src/backend/cpu/",
    "src/base/buffer.rs",
    "src/base/disk.rs",
    "src/base/event_fd.rs",
    "src/base/fork.rs",
    "src/base/reserve.rs",
    "src/base/thread.rs",
    "src/engine/measure/",
    "src/loading/file.rs",
    "src/tasks/",
];

struct Source {
    path: String,
    /// The text up to the unit tests.
    code: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// All Rust files of `src`, without unit tests (they stand last in a file, or in files called tests).
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files(&root().join("src"), "rs", &mut paths);
    assert!(paths.len() > 20, "the source tree was not found");
    paths
        .into_iter()
        .map(|path| Source {
            code: without_tests(&fs::read_to_string(&path).unwrap()),
            path: path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"),
        })
        .filter(|s| !s.path.ends_with("/tests.rs") && !s.path.contains("/tests/"))
        .collect()
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_string()
}

/// A line without its comment; doc comments and strings with `//` are close enough for these rules.
fn code_of(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

fn is_program(path: &str) -> bool {
    path.starts_with("src/bin/") || path.starts_with("src/tasks/")
}

fn top_module(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// Runs a rule over every code line and fails with every place that breaks it.
fn check(rule: &str, mut broken: impl FnMut(&Source, &str) -> Option<String>) {
    let mut places = Vec::new();
    for source in sources() {
        for (number, line) in source.code.lines().enumerate() {
            if let Some(why) = broken(&source, code_of(line)) {
                places.push(format!("{}:{}: {why}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(places.is_empty(), "{rule}\n{}", places.join("\n"));
}

#[test]
fn imports_run_downward() {
    check("A module imports only what lies below it (DESIGN: the house).", |source, line| {
        if is_program(&source.path) || source.path == "src/lib.rs" {
            return line.contains("crate::capi").then(|| "the program uses the public Rust API".into());
        }
        let module = top_module(&source.path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            return Some(format!("module {module} is not in the table of this test"));
        };
        for part in line.split("crate::").skip(1) {
            let target: String =
                part.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            let top = target.split("::").next().unwrap_or("");
            // Macros and the re-exports of lib.rs belong to base.
            if ["error", "bail", "ensure", "Error", "Result", "Status", ""].contains(&top) {
                continue;
            }
            if !allowed.contains(&top) {
                return Some(format!("{module} may not import {top}"));
            }
            let backend_reads_model = module == "backend" && top == "model";
            if backend_reads_model && !BACKEND_MAY_READ.iter().any(|m| target.starts_with(m)) {
                return Some(format!("a backend may not read {target}"));
            }
            for backend in ["cpu", "ascend"] {
                if target.starts_with(&format!("backend::{backend}"))
                    && module != "open"
                    && !source.path.starts_with(&format!("src/backend/{backend}"))
                {
                    return Some("only open.rs names a backend".into());
                }
            }
        }
        None
    });
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let mut places = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.code.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = code_of(line);
            if !code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                continue;
            }
            if !UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
                places.push(format!("{}:{}: unsafe may not stand here", source.path, i + 1));
            }
            let is_block_or_impl = code.contains("unsafe {") || code.contains("unsafe impl");
            let from = i.saturating_sub(12);
            let reasoned = lines[from..=i].iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety"));
            if is_block_or_impl && !reasoned {
                places.push(format!("{}:{}: unsafe without a SAFETY line", source.path, i + 1));
            }
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}

#[test]
fn the_library_never_panics_by_choice_prints_or_exits() {
    const PANICS: &[&str] = &[
        ".unwrap()",
        ".expect(",
        "panic!(",
        "unreachable!(",
        "todo!(",
        "unimplemented!(",
        " assert!(",
        " assert_eq!(",
    ];
    const PRINTS: &[&str] =
        &["println!", "eprintln!", "print!(", "eprint!(", "dbg!(", "process::exit", "process::abort"];
    check("The library returns errors and is silent.", |source, line| {
        if is_program(&source.path) {
            return None;
        }
        let found = PANICS.iter().chain(PRINTS).find(|word| line.contains(*word))?;
        // `debug_assert!` states our own invariants and is gone in release builds; constants are
        // checked by the compiler.
        let excused =
            line.contains("debug_assert") || line.contains("const _: () =") || line.contains("const {");
        (!excused).then(|| format!("{} in the library", found.trim()))
    });
}

#[test]
fn forbidden_words_and_calls() {
    check("Unfinished work, machine paths and forbidden calls.", |_, line| {
        let words =
            ["FIXME", "XXX", "TODO", "#[ignore", "encode_batch", "decode_batch", "set_var(", "rayon::"];
        let path = ["work", "root"].iter().find(|top| line.contains(&format!("\"/{top}/")));
        words.iter().chain(path).find(|w| line.contains(**w)).map(|w| format!("{w:?}"))
    });
}

#[test]
fn only_the_c_door_exports() {
    check("extern \"C\" functions are defined in src/capi only.", |source, line| {
        let exports = line.contains("no_mangle") || line.contains("export_name");
        (exports && !source.path.starts_with("src/capi/")).then(|| "an export outside src/capi".into())
    });
}

/// Names of functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(root().join("include/aquila.h")).unwrap();
    let code: String = strip_c_comments(&header);
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(')
        .filter_map(|word| word.split_once('(').map(|(name, _)| name.to_string()))
        .filter(|name| name.starts_with("aquila_"))
        .collect()
}

fn strip_c_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        rest = rest[start..].find("*/").map_or("", |end| &rest[start + end + 2..]);
    }
    out + rest
}

#[test]
fn header_and_exports_agree() {
    let mut exported = BTreeSet::new();
    for source in sources().iter().filter(|s| s.path.starts_with("src/capi/")) {
        let mut lines = source.code.lines();
        while let Some(line) = lines.next() {
            if line.contains("#[unsafe(no_mangle)]") {
                let text: String = lines.by_ref().take(2).collect();
                let name =
                    text.split("fn ").nth(1).and_then(|t| t.split(['(', '<']).next()).unwrap_or_default();
                exported.insert(name.trim().to_string());
            }
        }
    }
    assert!(!exported.is_empty(), "no exports were found");
    assert_eq!(declared(), exported, "include/aquila.h against src/capi");
}

#[test]
fn every_status_is_in_the_header_with_its_number() {
    let header = fs::read_to_string(root().join("include/aquila.h")).unwrap();
    for status in aquila::Status::ALL {
        let line = header.lines().find(|l| l.starts_with(&format!("#define AQUILA_{} ", status.name())));
        let line = line.unwrap_or_else(|| panic!("{} is not in the header", status.name()));
        assert!(line.contains(&(status as i32).to_string()), "{line}");
    }
}

#[test]
fn nothing_large_and_no_binary_is_committed() {
    let list = std::process::Command::new("git").arg("ls-files").current_dir(root()).output();
    let Ok(list) = list else { return };
    for name in String::from_utf8_lossy(&list.stdout).lines() {
        let Ok(bytes) = fs::read(root().join(name)) else { continue };
        assert!(bytes.len() <= 300 * 1024, "{name}: {} bytes, at most 300 KiB", bytes.len());
        let executable =
            bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"!<arch>") || bytes.starts_with(b"GGUF");
        // Generated fixtures of a few hundred KB are data, whatever their format.
        assert!(!executable || name.starts_with("tests/golden/"), "{name} is a binary");
    }
}

#[test]
fn long_files_are_named() {
    // An aim, not a gate: a file over 450 lines deserves a look, one over 700 a reason.
    for source in sources() {
        let lines = source.code.lines().count();
        if lines > 450 {
            println!("{}: {lines} lines", source.path);
        }
    }
}

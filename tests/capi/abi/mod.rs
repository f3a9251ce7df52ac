//! The gate of the binary interface: what programs that were compiled earlier have built in does not change.
//!
//! Kept are two descriptions of the header, in `pkgconfig/abi`: the layout of its structs with the values of its
//! constants, and its functions. A difference is either *broken* (something is gone, has moved or changed: programs
//! go wrong without being told) or *added*. Both fail these tests; `make abi` takes over what was added, and what is
//! broken only by `make abi BREAK=1`.

mod declarations;
mod functions;
mod layout;

use crate::stage::{is_here, manifest_dir, scratch};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// The differences between two headers.
#[derive(Debug, Default)]
pub struct Verdict {
    pub broken: Vec<String>,
    pub added: Vec<String>,
}

impl Verdict {
    fn extend(&mut self, other: Verdict) {
        self.broken.extend(other.broken);
        self.added.extend(other.added);
    }
}

fn folder() -> PathBuf {
    manifest_dir().join("pkgconfig/abi")
}

fn header() -> String {
    fs::read_to_string(manifest_dir().join("include/aquila.h")).expect("aquila.h")
}

/// The layout that is kept; empty where none is.
fn kept_layout() -> Value {
    let text = fs::read_to_string(folder().join("layout.json")).unwrap_or_else(|_| "{}".into());
    serde_json::from_str(&text).expect("pkgconfig/abi/layout.json is JSON")
}

/// libabigail's description of `header`, and what became of the functions that are kept; nothing where there is no
/// abidiff. The description is of one architecture.
fn judged_functions(header: &str, verdict: &mut Verdict) -> Option<String> {
    if !is_here("abidiff") || std::env::consts::ARCH != "x86_64" {
        return None;
    }
    let golden = folder().join("libaquila.abi");
    if golden.exists() {
        let cut = functions::without_growth(header, &kept_layout());
        let library = functions::stand_in(&cut, &scratch("abi-functions-cut"));
        verdict.extend(functions::compare(&golden, &library));
    } else {
        verdict.added.push("all functions".to_owned());
    }
    Some(functions::description(&functions::stand_in(header, &scratch("abi-functions"))))
}

/// `AQUILA_WRITE_ABI=add` or `=break` writes the kept descriptions: that is `make abi`.
#[test]
fn the_binary_interface_is_the_kept_one() {
    let header = header();
    let now = layout::of(&header, &scratch("abi-layout"));
    let mut verdict = layout::compare(&kept_layout(), &now);
    let description = judged_functions(&header, &mut verdict);
    let asked = std::env::var("AQUILA_WRITE_ABI").unwrap_or_default();
    if asked == "break" || (asked == "add" && verdict.broken.is_empty()) {
        fs::create_dir_all(folder()).expect("pkgconfig/abi");
        fs::write(folder().join("layout.json"), layout::text(&now)).expect("layout.json");
        let description = description.expect("abidiff (Debian: abigail-tools), on x86-64");
        fs::write(folder().join("libaquila.abi"), description).expect("libaquila.abi");
        return;
    }
    assert!(
        verdict.broken.is_empty(),
        "aquila.h breaks programs that were compiled before:\n{}\nA struct that begins with struct_size may grow at \
         its end, functions and constants may be added; nothing else may change. Where it must (before 1.0.0 only, \
         with a line in CHANGELOG.md): `make abi BREAK=1`.",
        verdict.broken.join("\n")
    );
    assert!(
        verdict.added.is_empty(),
        "added to aquila.h:\n{}\nRun `make abi` and write it in CHANGELOG.md.",
        verdict.added.join("\n")
    );
    assert!(kept_layout() == now, "pkgconfig/abi/layout.json is not what the compilers say: run `make abi`");
}

/// The gate's own test: a header is changed as a careless programmer would, and the verdict must be right.
#[test]
fn the_gate_tells_breaks_from_additions() {
    let text = header();
    let dir = scratch("abi-gate");
    let before = layout::of(&text, &dir);
    let described = is_here("abidiff").then(|| {
        let golden = dir.join("before.abi");
        let library = functions::stand_in(&text, &dir);
        fs::write(&golden, functions::description(&library)).expect("before.abi");
        golden
    });
    let judge = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{name}: aquila.h has no {from:?}");
        let changed = text.replacen(from, to, 1);
        let dir = scratch(&format!("abi-gate-{name}"));
        let layout = layout::compare(&before, &layout::of(&changed, &dir));
        let functions = described.as_ref().map(|golden| {
            let header = functions::without_growth(&changed, &before);
            functions::compare(golden, &functions::stand_in(&header, &dir))
        });
        (layout, functions)
    };
    let swapped = ("    int32_t token;\n", "    float bias;\n");
    let whole = struct_text(&text, "aquila_logit_bias");
    let other_order = whole.replace(swapped.0, "@").replace(swapped.1, swapped.0).replace('@', swapped.1);
    let stats = struct_text(&text, "aquila_stats");
    let error = struct_text(&text, "aquila_error");
    let grown = |whole: &str| {
        let (body, end) = whole.rsplit_once('}').expect("its end");
        format!("{body}    uint64_t another;\n}}{end}")
    };
    let function = "AQUILA_API void aquila_queue_wake(struct aquila_queue *queue);";
    let fields = "    uint32_t kind;\n";
    // Name; what is replaced by what; whether the layout breaks, and whether the functions do.
    let broken: [(&str, &str, &str, bool, bool); 8] = [
        ("function-removed", function, "", false, true),
        (
            "parameter-type",
            "aquila_queue_fd(const aquila_queue *queue)",
            "aquila_queue_fd(int queue)",
            false,
            true,
        ),
        (
            "return-type",
            "AQUILA_API int32_t aquila_queue_fd",
            "AQUILA_API int64_t aquila_queue_fd",
            false,
            true,
        ),
        ("field-order", whole, &other_order, true, true),
        ("field-removed", fields, "", true, true),
        ("field-type", fields, "    float kind;\n", true, true),
        ("constant", "#define AQUILA_FINISH_STOP 2", "#define AQUILA_FINISH_STOP 9", true, false),
        ("fixed-struct-grown", error, &grown(error), true, false),
    ];
    for (name, from, to, in_layout, in_functions) in broken {
        let (layout, functions) = judge(name, from, to);
        assert_eq!(!layout.broken.is_empty(), in_layout, "{name}: {layout:?}");
        if let Some(functions) = functions {
            assert_eq!(!functions.broken.is_empty(), in_functions, "{name}: {functions:?}");
        }
    }
    let reserved = struct_text(&text, "aquila_event");
    let used = reserved.replace("uint32_t reserved;", "uint32_t used;");
    let added: [(&str, &str, &str, bool, bool); 4] = [
        ("function", function, &format!("{function}\nAQUILA_API int32_t aquila_more(void);"), false, true),
        ("constant-added", "#define AQUILA_OK 0", "#define AQUILA_OK 0\n#define AQUILA_FINE 7", true, false),
        ("struct-grown", stats, &grown(stats), true, false),
        ("reserved-used", reserved, &used, true, false),
    ];
    for (name, from, to, in_layout, in_functions) in added {
        let (layout, functions) = judge(name, from, to);
        assert_eq!((layout.broken.len(), !layout.added.is_empty()), (0, in_layout), "{name}: {layout:?}");
        if let Some(functions) = functions {
            let found = (functions.broken.len(), !functions.added.is_empty());
            assert_eq!(found, (0, in_functions), "{name}: {functions:?}");
        }
    }
}

/// The definition of a struct, from its `typedef` to its name.
fn struct_text<'a>(header: &'a str, name: &str) -> &'a str {
    let start = header.find(&format!("typedef struct {name} {{")).expect("the struct");
    let end = format!("}} {name};");
    &header[start..start + header[start..].find(&end).expect("its end") + end.len()]
}

//! `include/aquila.h` is what cbindgen makes of `src/capi`, and every compiler takes it.

use crate::stage::{Compiler, manifest_dir, run, scratch};
use std::fs;

/// The nouns in the order of the header.
const NOUNS: [&str; 14] = [
    "library",
    "status",
    "log",
    "engine",
    "load",
    "event",
    "constraint",
    "generate",
    "request",
    "queue",
    "session",
    "result",
    "text",
    "score",
];

/// What cbindgen makes of the nouns, tidied.
fn generated() -> String {
    let root = manifest_dir();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = NOUNS.iter().fold(cbindgen::Builder::new().with_config(config), |builder, noun| {
        builder.with_src(root.join("src/capi").join(noun).with_extension("rs"))
    });
    let mut bytes = Vec::new();
    builder.generate().expect("cbindgen").write(&mut bytes);
    tidied(&String::from_utf8(bytes).expect("a header is UTF-8"))
}

/// Leaves out the `# Safety` parts, which are for readers of Rust, puts comments of one line on one line and
/// the mark of a function on the line of the function, and leaves no more than one blank line.
fn tidied(header: &str) -> String {
    const MARK: &str = "AQUILA_API";
    let mut lines: Vec<String> = Vec::new();
    let mut skipping = false;
    let mut lead = String::new(); // what stands before the lines of a marked function
    for line in header.lines().map(str::trim_end) {
        if line == MARK {
            lead = format!("{MARK} ");
            continue;
        }
        let line = format!("{lead}{line}").replace("const struct aquila_", "const aquila_");
        let line = in_parentheses(&line).unwrap_or(line);
        lead = if lead.is_empty() || line.ends_with(';') { String::new() } else { " ".repeat(lead.len()) };
        let (text, indent) = (line.trim(), line.len() - line.trim_start().len());
        if text == "* # Safety" {
            skipping = true;
            while lines.last().is_some_and(|line| line.trim() == "*") {
                lines.pop();
            }
        }
        let ends = text == "*/";
        skipping &= !ends;
        let blank_again = text.is_empty() && lines.last().is_none_or(String::is_empty);
        if skipping || blank_again {
            continue;
        }
        lines.push(line.clone());
        if let [.., opens, only, _] = lines.as_slice()
            && ends
            && opens.trim() == "/**"
        {
            let only = only.trim().trim_start_matches("* ").to_owned();
            lines.truncate(lines.len() - 3);
            lines.push(format!("{:width$}/** {only} */", "", width = indent - 1));
        }
    }
    lines.join("\n") + "\n"
}

/// A negative constant is safe in any expression only in parentheses.
fn in_parentheses(line: &str) -> Option<String> {
    let (name, number) = line.strip_prefix("#define ")?.split_once(' ')?;
    number.starts_with('-').then(|| format!("#define {name} ({number})"))
}

/// `AQUILA_WRITE_HEADER=1` writes it: that is `make header`.
#[test]
fn header_is_generated() {
    let path = manifest_dir().join("include/aquila.h");
    let made = generated();
    if std::env::var_os("AQUILA_WRITE_HEADER").is_some() {
        fs::write(&path, &made).expect("include/aquila.h");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        kept == made,
        "include/aquila.h is not what src/capi says (first difference at line {:?}): run `make header`",
        differs.map(|line| line + 1)
    );
}

#[test]
fn every_compiler_takes_the_header() {
    let dir = scratch("header");
    let source = dir.join("twice.c");
    fs::write(
        &source,
        "#include <aquila.h>\n#include <aquila.h>\nint use(void);\nint use(void) { return (int)AQUILA_OK; }\n",
    )
    .expect("twice.c");
    let common = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wpadded", "-Werror", "-fsyntax-only"];
    for compiler in Compiler::found() {
        for (language, standards) in [
            ("c", &["c89", "c99", "c11", "c17", "c2x"][..]),
            ("c++", &["c++98", "c++11", "c++14", "c++17", "c++20"][..]),
        ] {
            for standard in standards {
                let mut command = compiler.c();
                command.args(["-x", language, &format!("-std={standard}")]).args(common);
                command.arg("-I").arg(manifest_dir().join("include")).arg(&source);
                run(&mut command);
            }
        }
    }
}

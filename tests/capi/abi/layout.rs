//! Sizes, offsets and constants as a C compiler sees them, and the judgement of a difference.

use super::Verdict;
use super::declarations::Declarations;
use crate::stage::{Compiler, run, said};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const COMMENT: &str = "Written by `make abi` from aquila.h: what every program that was compiled against it has \
    built in. All sizes and offsets in bytes, for all 64-bit Linux. A binding that declares the structs itself \
    compares them with this when it starts.";

/// The layout of a header, as each compiler found says it; all must say the same.
pub fn of(header: &str, dir: &Path) -> Value {
    let declarations = Declarations::of(header);
    let code = dir.join("layout.c");
    fs::write(dir.join("aquila.h"), header).expect("aquila.h");
    fs::write(&code, program(&declarations)).expect("layout.c");
    let mut layouts = Compiler::found().iter().map(|&compiler| {
        let path = dir.join(format!("layout-{}", compiler.name));
        run(compiler.c().args(["-std=c11", "-w", "-I"]).arg(dir).arg("-o").arg(&path).arg(&code));
        (compiler, assembled(&declarations, &said(&mut Command::new(&path))))
    });
    let (first, layout) = layouts.next().expect("a compiler");
    for (other, layout_there) in layouts {
        assert!(layout == layout_there, "{} and {} lay aquila.h out differently", first.name, other.name);
    }
    layout
}

/// A C program that prints a number a line: all that [`assembled`] puts together, in the same order.
fn program(found: &Declarations) -> String {
    let mut numbers = String::new();
    for name in &found.constants {
        // Each is signed or not, of 32 or 64 bits.
        numbers += &format!("    printf(({name}) < 0 ? \"%lld\\n\" : \"%llu\\n\", (long long)({name}));\n");
    }
    let mut size = |what: &str| numbers += &format!("    printf(\"%zu\\n\", (size_t)({what}));\n");
    for name in &found.numbers {
        size(&format!("sizeof({name})"));
        size(&format!("({name})-1 < 0"));
    }
    for record in &found.structs {
        size(&format!("sizeof({})", record.name));
        size(&format!("_Alignof({})", record.name));
        for field in &record.fields {
            size(&format!("offsetof({}, {})", record.name, field.name));
            size(&format!("sizeof((({} *)0)->{})", record.name, field.name));
        }
    }
    format!("#include <aquila.h>\n#include <stdio.h>\nint main(void) {{\n{numbers}    return 0;\n}}\n")
}

fn assembled(found: &Declarations, said: &str) -> Value {
    let mut numbers = said.lines();
    let mut number = || serde_json::from_str::<Value>(numbers.next().expect("a number")).expect("a number");
    let constants: Map<_, _> = found.constants.iter().map(|name| (name.clone(), number())).collect();
    let mut types = Map::new();
    for name in &found.numbers {
        let (size, signed) = (number(), number() == 1);
        types.insert(name.clone(), json!({"size": size, "signed": signed}));
    }
    let mut structs = Map::new();
    for record in &found.structs {
        let (size, alignment) = (number(), number());
        let fields = record.fields.iter().map(
            |field| json!({"name": field.name, "type": field.kind, "offset": number(), "size": number()}),
        );
        let fields: Vec<_> = fields.collect();
        structs.insert(record.name.clone(), json!({"size": size, "alignment": alignment, "fields": fields}));
    }
    json!({"comment": COMMENT, "constants": constants, "types": types, "structs": structs})
}

/// One line for each struct's field and each constant.
pub fn text(layout: &Value) -> String {
    let mut lines = vec![format!("\"comment\": {}", layout["comment"])];
    for part in ["constants", "types"] {
        let entries = entries(layout, part).map(|(name, value)| format!("    \"{name}\": {value}"));
        lines.push(format!("\"{part}\": {{\n{}\n  }}", entries.collect::<Vec<_>>().join(",\n")));
    }
    let structs = entries(layout, "structs").map(|(name, value)| {
        let fields: Vec<_> = fields(value).iter().map(|field| format!("        {field}")).collect();
        format!(
            "    \"{name}\": {{\n      \"size\": {}, \"alignment\": {}, \"fields\": [\n{}\n      ]\n    }}",
            value["size"],
            value["alignment"],
            fields.join(",\n")
        )
    });
    lines.push(format!("\"structs\": {{\n{}\n  }}", structs.collect::<Vec<_>>().join(",\n")));
    format!("{{\n  {}\n}}\n", lines.join(",\n  "))
}

/// What became of `before`. Structs that begin with struct_size may grow at their end, no others.
pub fn compare(before: &Value, now: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    for part in ["constants", "types", "structs"] {
        for (name, _) in entries(now, part).filter(|(name, _)| before[part].get(name).is_none()) {
            verdict.added.push(name.clone());
        }
        for (name, old) in entries(before, part) {
            match now[part].get(name) {
                None => verdict.broken.push(format!("{name} is gone")),
                Some(new) if part == "structs" => compare_structs(name, old, new, &mut verdict),
                Some(new) if new == old => {}
                Some(new) => {
                    // A version is there to change.
                    let fine = name.starts_with("AQUILA_VERSION_");
                    let list = if fine { &mut verdict.added } else { &mut verdict.broken };
                    list.push(format!("{name} was {old} and is {new}"));
                }
            }
        }
    }
    verdict
}

fn compare_structs(name: &str, old: &Value, new: &Value, verdict: &mut Verdict) {
    for (at, field) in fields(old).iter().enumerate() {
        let field_name = field["name"].as_str().unwrap_or_default();
        let same_place = fields(new).get(at);
        if field_name.starts_with("reserved") && same_place.is_some_and(|other| takes_the_place(field, other))
        {
            verdict.added.push(format!("{name}.{field_name} is {} now", fields(new)[at]["name"]));
        } else if same_place != Some(field) {
            let there = fields(new).iter().find(|other| other["name"] == field["name"]);
            let now = there.map_or("is gone".to_owned(), |other| format!("is {other}"));
            verdict.broken.push(format!("{name}.{field_name} was {field} and {now}"));
        }
    }
    let added: Vec<_> = fields(new).iter().skip(fields(old).len()).map(|field| &field["name"]).collect();
    if added.is_empty() && new["size"] == old["size"] && new["alignment"] == old["alignment"] {
        return;
    }
    let versioned = fields(old).first().is_some_and(|field| field["name"] == "struct_size");
    let end = fields(old).last().map_or(0, |field| number(field, "offset") + number(field, "size"));
    let inside = fields(new).iter().skip(fields(old).len()).any(|field| number(field, "offset") < end);
    let what = format!("{name}: {} bytes were {}, with {added:?} added", new["size"], old["size"]);
    if versioned && !inside && !added.is_empty() && new["alignment"] == old["alignment"] {
        verdict.added.push(what);
    } else {
        verdict.broken.push(what);
    }
}

/// Whether a field has another's place and type, under another name.
fn takes_the_place(field: &Value, other: &Value) -> bool {
    field["name"] != other["name"] && ["type", "offset", "size"].iter().all(|key| field[key] == other[key])
}

fn entries<'a>(layout: &'a Value, part: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    layout[part].as_object().into_iter().flatten()
}

/// The fields of a struct, in order.
pub fn fields(record: &Value) -> &[Value] {
    record["fields"].as_array().map_or(&[], Vec::as_slice)
}

fn number(field: &Value, key: &str) -> u64 {
    field[key].as_u64().unwrap_or_default()
}

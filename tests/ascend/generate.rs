//! The C++ files that must compile: the backend's own tables, restated as assertions.

use aquila::backend::ascend::table::Function;
use aquila::backend::ascend::{acl, errors, hccl, shim};
use std::fmt::Write;

/// A file that asserts types, constants and signatures of ACL and HCCL. `known` says whether the headers name an
/// identifier: what only newer ones have is asserted only there, and everything else in any case.
pub fn interfaces(known: impl Fn(&str) -> bool) -> String {
    let mut text = String::from(
        "#include <acl/acl.h>\n#include <hccl/hccl.h>\n#include <cstdint>\n#include <type_traits>\n\n\
         template <class T> constexpr bool integer = std::is_enum<T>::value || std::is_integral<T>::value;\n\n",
    );
    for table in [acl::TYPES, hccl::TYPES] {
        for item in table {
            let name = item.name;
            writeln!(text, "static_assert(sizeof({name}) == {}, \"{name}\");", item.size).unwrap();
        }
    }
    for table in [acl::CONSTANTS, hccl::CONSTANTS] {
        for item in table.iter().filter(|item| !item.newer || known(item.name)) {
            let (name, value) = (item.name, item.value);
            writeln!(text, "static_assert((long long)({name}) == {value}, \"{name}\");").unwrap();
        }
    }
    for table in [errors::ACL_CODES, errors::HCCL_CODES] {
        for item in table.iter().filter(|item| !item.newer || known(item.name)) {
            let (name, value) = (item.name, item.value);
            writeln!(text, "static_assert((long long)({name}) == {value}, \"{name}\");").unwrap();
        }
    }
    for table in [acl::FUNCTIONS, hccl::FUNCTIONS] {
        for item in table.iter().filter(|item| !item.optional || known(item.name)) {
            text += &signature(item);
        }
    }
    text
}

/// A Rust type of the tables as C++ writes it. Names of CANN's own are the same in both.
pub fn c_type(rust: &str) -> String {
    let rust = rust.trim();
    if let Some(target) = rust.strip_prefix("*const ") {
        return format!("{} const *", c_type(target));
    }
    if let Some(target) = rust.strip_prefix("*mut ") {
        return format!("{} *", c_type(target));
    }
    let plain = [
        ("()", "void"),
        ("c_void", "void"),
        ("c_char", "char"),
        ("i8", "int8_t"),
        ("u8", "uint8_t"),
        ("i32", "int32_t"),
        ("u32", "uint32_t"),
        ("i64", "int64_t"),
        ("u64", "uint64_t"),
        ("usize", "size_t"),
        ("f32", "float"),
        ("f64", "double"),
    ];
    plain.iter().find(|(name, _)| *name == rust).map_or(rust, |(_, c)| c).to_owned()
}

/// A file that asserts the shim's structs and functions, as Rust sees them, of its header.
pub fn shim() -> String {
    let mut text = String::from("#include \"aquila_atb.h\"\n#include <type_traits>\n");
    let fixed = [
        ("AQATB_INTERFACE", shim::INTERFACE as usize),
        ("AQATB_DIMS", shim::DIMS),
        ("AQATB_TENSORS", shim::TENSORS),
    ];
    for (name, value) in fixed {
        writeln!(text, "static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    let kinds = [("ATB", shim::ERROR_ATB), ("MEMORY", shim::ERROR_MEMORY), ("SYMBOL", shim::ERROR_SYMBOL)];
    for (name, value) in kinds {
        writeln!(text, "static_assert(AQATB_ERROR_{name} == {value}, \"{name}\");").unwrap();
    }
    for item in shim::STRUCTS {
        let name = item.name;
        writeln!(text, "static_assert(sizeof({name}) == {}, \"{name}\");", item.size).unwrap();
        for (field, at) in item.fields {
            let field = field.trim_start_matches("r#");
            writeln!(text, "static_assert(offsetof({name}, {field}) == {at}, \"{name}::{field}\");").unwrap();
        }
    }
    for item in shim::FUNCTIONS {
        text += &signature(item);
    }
    text
}

/// The assertion of a function's type.
fn signature(item: &Function) -> String {
    let name = item.name;
    let parameters: Vec<_> = item.parameters.iter().map(|word| c_type(word)).collect();
    let signature = format!("{} (*)({})", c_type(item.returns), parameters.join(", "));
    format!("static_assert(std::is_same<decltype(&{name}), {signature}>::value, \"{name}\");\n")
}

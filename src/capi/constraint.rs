//! What a generated text must fit.

use super::guard;
use crate::base::error::Result;
use crate::text::constraint::{Constraint, Kind};
use std::ffi::c_char;

/// The text is free.
pub const AQUILA_CONSTRAINT_NONE: u32 = 0;
/// `constraint` is a JSON Schema (an object, or true) of at most 64 KiB: the text is one JSON value that it
/// describes, with the members of an object in the order in which `properties` names them. Known are: type,
/// enum, const, anyOf, oneOf, allOf, $ref (within the schema: #/...), $defs, properties, required,
/// additionalProperties, patternProperties, minProperties, maxProperties, items, prefixItems, additionalItems,
/// minItems, maxItems, minLength, maxLength, pattern, format (date-time, time, date, duration, email,
/// hostname, ipv4, ipv6, uuid, uri), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf.
/// Keywords that only describe (title, default ...) and such that JSON Schema does not know are ignored;
/// others of JSON Schema (not, if, uniqueItems ...) are refused by name, for they could not be kept. Between
/// its parts the text may have blanks and line breaks, at most 40 in a row; the member "x-guidance" of the
/// schema changes that: {"whitespace_flexible": false} allows none.
pub const AQUILA_CONSTRAINT_JSON_SCHEMA: u32 = 1;
/// `constraint` is a regular expression of at most 16 KiB that the whole text matches, in the syntax of Rust's
/// regex crate: Perl's, with Unicode classes, without look-around and back-references. `.` is no line break;
/// ^ and $ at the ends change nothing.
pub const AQUILA_CONSTRAINT_REGEX: u32 = 2;
/// `constraint` is a context-free grammar of at most 64 KiB, in the form of Lark that the llguidance crate
/// reads; the whole text matches its rule `start`. Names of terminals are in upper case; a terminal takes as
/// much of the text as it can. Known are also %ignore, %import common.INT, `rule: <token>` for a special
/// token, and `%json { ... }` for a JSON Schema.
pub const AQUILA_CONSTRAINT_LARK: u32 = 3;

/// The constraint of generation parameters.
///
/// # Safety
/// `text`, unless NULL, is NUL-terminated.
pub(super) unsafe fn read(kind: u32, text: *const c_char) -> Result<Option<Constraint>> {
    let kind = match kind {
        AQUILA_CONSTRAINT_NONE => {
            let what = "constraint: a text, but constraint_kind is AQUILA_CONSTRAINT_NONE";
            crate::ensure!(text.is_null(), Argument, "{what}");
            return Ok(None);
        }
        AQUILA_CONSTRAINT_JSON_SCHEMA => Kind::JsonSchema,
        AQUILA_CONSTRAINT_REGEX => Kind::Regex,
        AQUILA_CONSTRAINT_LARK => Kind::Lark,
        kind => crate::bail!(
            Unsupported,
            "constraint_kind: {kind} is unknown to libaquila {}, expected 0 to {AQUILA_CONSTRAINT_LARK}",
            env!("CARGO_PKG_VERSION")
        ),
    };
    // SAFETY: the caller's promise.
    Ok(Some(Constraint::new(kind, unsafe { guard::text("constraint", text) }?)))
}

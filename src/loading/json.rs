//! JSON from outside: bounded in length and depth, duplicate keys refused, errors with the place.

use crate::base::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

/// A JSON object as its entries, in their order, with every key once: where a key stands twice two
/// readers may disagree about which one counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        let message = format_args!("the key {:?} stands twice", clip(&key));
                        return Err(serde::de::Error::custom(message));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// Reads `text` as JSON of the form `T`. `Format` naming `name`, line and column, and what stands
/// there; a depth of 128 is the most.
pub fn parse<'a, T: Deserialize<'a>>(name: &str, text: &'a [u8]) -> Result<T> {
    // Editors of another system put this mark in front of UTF-8.
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    serde_json::from_slice(text).map_err(|cause| located(name, text, &cause))
}

fn located(name: &str, text: &[u8], cause: &serde_json::Error) -> Error {
    const BEFORE: usize = 60;
    let (line, column) = (cause.line(), cause.column());
    let full = cause.to_string();
    let reason = full.split(" at line ").next().unwrap_or(&full);
    // What stands before the place names the key, which the parser does not.
    let here = text.split(|&b| b == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let end = column.min(here.len());
    let near = here.get(end.saturating_sub(BEFORE)..end).unwrap_or_default();
    let near = String::from_utf8_lossy(near);
    let near: String = near.chars().filter(|c| !c.is_control()).collect();
    let near = match near.trim() {
        "" => String::new(),
        near => format!(", after: {near}"),
    };
    crate::error!(Format, "{name}: line {line} column {column}: not the expected JSON: {reason}{near}")
}

/// At most 80 characters of a string from outside, for a message.
pub fn clip(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn errors_name_the_place_and_the_key() {
        let text = b"{\n  \"a\": 1,\n  \"rms_norm_eps\": 1e309\n}";
        let error = parse::<Entries<Value>>("config.json", text).unwrap_err();
        assert!(error.message.starts_with("config.json: line 3 column "), "{error}");
        assert!(error.message.contains("\"rms_norm_eps\": 1e309"), "{error}");
        let error = parse::<Entries<Value>>("config.json", b"{\"a\":1,\"a\":2}").unwrap_err();
        assert!(error.message.contains("\"a\" stands twice"), "{error}");
        let cut = parse::<Entries<Value>>("config.json", b"{\"a\":\n").unwrap_err();
        assert!(cut.message.ends_with("EOF while parsing a value"), "{cut}");
        let deep = "[".repeat(100_000);
        assert!(parse::<Value>("x", deep.as_bytes()).unwrap_err().message.contains("recursion limit"));
    }
}

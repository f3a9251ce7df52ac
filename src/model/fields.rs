//! Typed, bounded access to the keys of a JSON object, with errors that name file, key, what was
//! expected and what was found.

use crate::base::error::Result;
use crate::loading::json::{Entries, clip};
use serde_json::Value;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// What was taken for keys that are absent, one sentence each, for a person.
#[derive(Clone, Debug, Default)]
pub struct Assumed(pub Vec<String>);

impl Assumed {
    /// `found`, or else `default`, which is noted. `place` is the file.
    pub fn or<T: Display>(&mut self, place: &str, key: &str, found: Option<T>, default: T) -> T {
        found.unwrap_or_else(|| {
            self.0.push(format!("{place}: no {key}: {default}"));
            default
        })
    }
}

/// A JSON object from a file. A key that is absent and one that is `null` are the same.
#[derive(Clone, Debug)]
pub struct Fields {
    /// The file, and for an object inside it the key in front: `config.json: rope_scaling`.
    place: String,
    entries: Vec<(String, Value)>,
}

impl Fields {
    /// The entries of a file.
    pub fn new(file: &str, entries: Entries<Value>) -> Self {
        Fields { place: file.into(), entries: entries.0 }
    }

    /// The file's name, or file and key of an inner object.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// All keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// The value of a key; `None` where it is absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: impl Display,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| {
            crate::error!(
                Format,
                "{}: {key}: expected {expected}, found {}",
                self.place,
                clip(&value.to_string())
            )
        })
    }

    /// A whole number inside `range`.
    pub fn uint(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<usize>> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.typed(key, expected, |value| {
            let number = u32::try_from(value.as_u64()?).ok().filter(|n| range.contains(n))?;
            usize::try_from(number).ok()
        })
    }

    /// A finite number above zero, also after rounding to f32.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number above 0 within f32", |value| {
            let number = value.as_f64()? as f32;
            (number.is_finite() && number > 0.0).then_some(number)
        })
    }

    /// A truth value.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An object inside.
    pub fn object(&self, key: &str) -> Result<Option<Fields>> {
        self.typed(key, "an object", |value| {
            let entries = value.as_object()?.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            Some(Fields { place: format!("{}: {key}", self.place), entries })
        })
    }

    /// The first string of a list of strings (or the string itself).
    pub fn first_string(&self, key: &str) -> Result<Option<&str>> {
        let found = self.typed(key, "a list of strings", |value| match value {
            Value::Array(items) if items.is_empty() => Some(""),
            Value::Array(items) => items.first()?.as_str(),
            other => other.as_str(),
        })?;
        Ok(found.filter(|text| !text.is_empty()))
    }

    /// A token id or a list of them. A number that is no id at all (as −1 for "none") is left out and
    /// gets a warning.
    pub fn ids(&self, key: &str, warnings: &mut Vec<String>) -> Result<Vec<u32>> {
        let numbers = self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(items) => items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>(),
            other => other.as_i64().map(|n| vec![n]),
        })?;
        let mut ids = Vec::new();
        for number in numbers.unwrap_or_default() {
            match u32::try_from(number) {
                Ok(id) => ids.push(id),
                Err(_) => warnings.push(format!("{}: {key}: {number} is no token id", self.place)),
            }
        }
        Ok(ids)
    }
}

//! What Python and Jinja do with values where minijinja does otherwise: `str`, `repr`, `+`, `*`, `~`.
//! What they make is counted first.

use super::bounds::{charge, counted};
use super::json::float;
use minijinja::value::{Value as JinjaValue, ValueKind};
use minijinja::{Error as JinjaError, ErrorKind};
use std::fmt::Write as _;

type Outcome<T> = std::result::Result<T, JinjaError>;

/// A value as it is written into a prompt: texts as they are, numbers and collections as Python's `str`
/// has them.
pub fn to_text(value: JinjaValue) -> Outcome<JinjaValue> {
    match value.kind() {
        ValueKind::String => charge(value.as_str().map_or(0, str::len)).map(|()| value),
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            repr(&value, &mut out)?;
            charge(out.len())?;
            Ok(out.into())
        }
        _ => Ok(value),
    }
}

/// The text of a value, as `to_text`; one that is there already is not counted again.
pub fn text(value: &JinjaValue) -> Outcome<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => to_text(value.clone()).map(|text| text.to_string()),
    }
}

/// The filter `string`; markup stays markup.
pub fn string(value: JinjaValue) -> Outcome<JinjaValue> {
    if value.is_safe() { Ok(value) } else { text(&value).map(JinjaValue::from) }
}

/// What a slice is: a list, where minijinja may have an iterator.
pub fn list(value: JinjaValue) -> Outcome<JinjaValue> {
    let value = match value.kind() {
        ValueKind::Iterable => value.try_iter()?.collect(),
        _ => value,
    };
    counted(&value)?;
    Ok(value)
}

/// What a loop goes over: in Python not `None`.
pub fn looped(value: JinjaValue) -> Outcome<JinjaValue> {
    match value.is_none() {
        true => Err(JinjaError::new(ErrorKind::InvalidOperation, "for: expected a list, found none")),
        false => Ok(value),
    }
}

/// Python's `repr`.
fn repr(value: &JinjaValue, out: &mut String) -> Outcome<()> {
    charge(0)?;
    match value.kind() {
        ValueKind::String => repr_text(value.as_str().unwrap_or_default(), out),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => match number.is_finite() {
                true => *out += &float(number),
                false => *out += &number.to_string().to_lowercase(),
            },
            _ => *out += &value.to_string(),
        },
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (at, item) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&item, out)?;
            }
            out.push_str(if value.is_tuple() && value.len() == Some(1) { "," } else { "" });
            out.push(close);
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => *out += &value.to_string(),
    }
    Ok(())
}

fn repr_text(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            // Writing to a string cannot fail.
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, which is the rule of Rust's `Debug` behind a first character.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || ['a', c].iter().collect::<String>().escape_debug().nth(1) == Some(c)
}

/// `left ~ right`.
pub fn concat(left: JinjaValue, right: JinjaValue) -> Outcome<String> {
    let (mut left, right) = (text(&left)?, text(&right)?);
    charge(left.len() + right.len())?;
    left.push_str(&right);
    Ok(left)
}

/// `left + right`. A text that went through the filter `safe` is markup: what is added to it is escaped,
/// as in Jinja.
pub fn add(left: JinjaValue, right: JinjaValue) -> Outcome<JinjaValue> {
    match (left.as_str(), right.as_str()) {
        (Some(a), Some(b)) => {
            let markup = left.is_safe() || right.is_safe();
            let part = |text: &str, safe: bool| if markup && !safe { escape(text) } else { text.to_owned() };
            let (mut a, b) = (part(a, left.is_safe()), part(b, right.is_safe()));
            charge(a.len() + b.len())?;
            a.push_str(&b);
            return Ok(if markup { JinjaValue::from_safe_string(a) } else { a.into() });
        }
        (None, None) => {}
        _ => return Err(mismatch("+", &left, &right)),
    }
    if is_list(&left) && is_list(&right) {
        if left.is_tuple() != right.is_tuple() {
            return Err(mismatch("+", &left, &right));
        }
        let count = left.len().unwrap_or(0) + right.len().unwrap_or(0);
        charge(count * size_of::<JinjaValue>())?;
        let items: Vec<JinjaValue> = left.try_iter()?.chain(right.try_iter()?).collect();
        let sum = match left.is_tuple() {
            true => minijinja::value::Tuple::from(items).into(),
            false => items.into(),
        };
        counted(&sum)?;
        return Ok(sum);
    }
    arithmetic("+", &left, &right, i128::checked_add, |a, b| a + b)
}

/// `left * right`: texts and lists are repeated.
pub fn multiply(left: JinjaValue, right: JinjaValue) -> Outcome<JinjaValue> {
    let is_repeated = |value: &JinjaValue| value.as_str().is_some() || is_list(value);
    let (repeated, count) = match (is_repeated(&left), is_repeated(&right)) {
        (true, false) => (&left, &right),
        (false, true) => (&right, &left),
        (false, false) => return arithmetic("*", &left, &right, i128::checked_mul, |a, b| a * b),
        (true, true) => return Err(mismatch("*", &left, &right)),
    };
    let count = integer(count).ok_or_else(|| mismatch("*", &left, &right))?;
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = repeated.as_str() {
        charge(text.len().saturating_mul(count))?;
        let text = text.repeat(count);
        return Ok(if repeated.is_safe() { JinjaValue::from_safe_string(text) } else { text.into() });
    }
    let items: Vec<JinjaValue> = repeated.try_iter()?.collect();
    charge(items.len().saturating_mul(count).saturating_mul(size_of::<JinjaValue>()))?;
    let all: JinjaValue = std::iter::repeat_n(items, count).flatten().collect();
    counted(&all)?;
    Ok(all)
}

/// What Python can loop over.
pub fn is_iterable(value: &JinjaValue) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::String)
}

fn is_list(value: &JinjaValue) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// An integer; a boolean is one in Python.
fn integer(value: &JinjaValue) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn arithmetic(
    operator: &str,
    left: &JinjaValue,
    right: &JinjaValue,
    exact: fn(i128, i128) -> Option<i128>,
    rough: fn(f64, f64) -> f64,
) -> Outcome<JinjaValue> {
    let failed = || mismatch(operator, left, right);
    match (integer(left), integer(right)) {
        (Some(a), Some(b)) => match exact(a, b).ok_or_else(failed)? {
            small if i64::try_from(small).is_ok() => Ok((small as i64).into()),
            large => Ok(large.into()),
        },
        (a, b) => {
            let number = |value: &JinjaValue, integer: Option<i128>| match (integer, value.kind()) {
                (Some(integer), _) => Ok(integer as f64),
                (None, ValueKind::Number) => f64::try_from(value.clone()),
                _ => Err(failed()),
            };
            Ok(rough(number(left, a)?, number(right, b)?).into())
        }
    }
}

fn mismatch(operator: &str, left: &JinjaValue, right: &JinjaValue) -> JinjaError {
    let what =
        format!("{operator}: expected values that go together, found {} and {}", left.kind(), right.kind());
    JinjaError::new(ErrorKind::InvalidOperation, what)
}

/// markupsafe's `escape`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    /// From Python: `str(value)`.
    #[test]
    fn values_as_python_writes_them() {
        super::super::bounds::begin(0);
        let value = serde_json::json!({
            "a": [1, -2.5, 1e16, 1e-7, true, null], "it's": "it's", "q": "\"'", "\n": "\u{7}\u{ad}\u{200b}\u{e000}é中🦅\\",
            "e": {}, "l": []
        });
        let expected = "{'a': [1, -2.5, 1e+16, 1e-07, True, None], \"it's\": \"it's\", 'q': '\"\\'', '\\n': \
                        '\\x07\\xad\\u200b\\ue000é中🦅\\\\', 'e': {}, 'l': []}";
        assert_eq!(text(&JinjaValue::from(Serde(&value))).unwrap(), expected);
        assert_eq!(text(&"it's".into()).unwrap(), "it's");
    }

    #[test]
    fn markup_escapes_what_is_added_to_it() {
        super::super::bounds::begin(0);
        let safe = JinjaValue::from_safe_string("<a>".into());
        let both = add(safe.clone(), "<'\">&".into()).unwrap();
        assert_eq!(both.to_string(), "<a>&lt;&#39;&#34;&gt;&amp;");
        assert_eq!(add("<".into(), both).unwrap().to_string(), "&lt;<a>&lt;&#39;&#34;&gt;&amp;");
        assert_eq!(concat(safe, "<".into()).unwrap(), "<a><");
    }

    #[test]
    fn sums_and_products() {
        super::super::bounds::begin(0);
        let show =
            |value: Outcome<JinjaValue>| value.and_then(|value| text(&value)).unwrap_or("error".into());
        let list = || JinjaValue::from(vec![1, 2]);
        for (found, expected) in [
            (show(add(1.into(), 2.5.into())), "3.5"),
            (show(add(true.into(), 2.into())), "3"),
            (show(add("1".into(), 2.into())), "error"),
            (show(add(JinjaValue::UNDEFINED, "x".into())), "error"),
            (show(add(list(), list())), "[1, 2, 1, 2]"),
            (show(add(i64::MAX.into(), 1.into())), "9223372036854775808"),
            (show(multiply("ab".into(), 2.into())), "abab"),
            (show(multiply((-3).into(), "ab".into())), ""),
            (show(multiply(list(), 2.into())), "[1, 2, 1, 2]"),
            (show(multiply("ab".into(), i64::MAX.into())), "error"),
            (show(multiply(list(), i64::MAX.into())), "error"),
            (show(multiply(3.into(), 0.5.into())), "1.5"),
        ] {
            assert_eq!(found, expected);
        }
    }
}

//! Python's `json.dumps`, as transformers' filter `tojson` calls it.

use super::bounds::charge;
use minijinja::value::{Kwargs, Rest, Value as JinjaValue, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error as JinjaError, ErrorKind};
use std::fmt::Write as _;

type Outcome<T> = std::result::Result<T, JinjaError>;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: blanks after
/// commas and colons, nothing escaped for HTML.
pub fn to_json(value: JinjaValue, args: Rest<ValueOrKwargs>) -> Outcome<String> {
    type Args = (Option<bool>, Option<JinjaValue>, Option<Vec<String>>, Option<bool>, Kwargs);
    let args = args.into_values();
    let (ensure_ascii, indent, separators, sort_keys, options): Args = from_args(&args)?;
    let ensure_ascii = ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    let indent = indent.or(options.get("indent")?).filter(|indent| !indent.is_none());
    let separators = separators.or(options.get("separators")?);
    let sort_keys = sort_keys.or(options.get("sort_keys")?).unwrap_or(false);
    options.assert_all_used()?;
    let indent = match indent {
        Some(text) if text.as_str().is_some() => Some(text.to_string()),
        Some(width) => {
            let width = i64::try_from(width).map_err(|_| bad("indent: expected a number or a string"))?;
            Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(INDENT_MAX)))
        }
        None => None,
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(bad("separators: expected two")),
        None => ((if indent.is_some() { "," } else { ", " }).to_string(), ": ".to_string()),
    };
    let mut writer = Writer { out: String::new(), counted: 0, ensure_ascii, indent, item, key, sort_keys };
    writer.value(&value, 0)?;
    Ok(writer.out)
}

/// Wider than any template's.
const INDENT_MAX: usize = 64;

fn bad(what: impl Into<String>) -> JinjaError {
    JinjaError::new(ErrorKind::BadSerialization, format!("tojson: {}", what.into()))
}

struct Writer {
    out: String,
    /// Bytes of `out` that were counted against the template.
    counted: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &JinjaValue, depth: usize) -> Outcome<()> {
        charge(self.out.len() - self.counted)?;
        self.counted = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.object(value, depth)?,
            ValueKind::Seq => {
                let items: Vec<JinjaValue> = value.try_iter()?.collect();
                self.list("[]", items, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            // Python: "Object of type Undefined (or generator, or dict_items) is not JSON serializable".
            other => return Err(bad(format!("expected a value, found {other}"))),
        }
        Ok(())
    }

    fn number(&mut self, value: &JinjaValue) {
        match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => self.out += &float(number),
            _ => self.out += &value.to_string(),
        }
    }

    fn object(&mut self, value: &JinjaValue, depth: usize) -> Outcome<()> {
        let mut keys: Vec<JinjaValue> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.list("{}", keys, depth, |writer, key| {
            match key.kind() {
                ValueKind::String => writer.text(key.as_str().unwrap_or_default()),
                ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                    writer.out.push('"');
                    writer.value(&key, depth)?;
                    writer.out.push('"');
                }
                other => return Err(bad(format!("a key: expected a string, found {other}"))),
            }
            writer.out += &writer.key.clone();
            writer.value(&value.get_item(&key)?, depth + 1)
        })
    }

    fn list(
        &mut self,
        brackets: &str,
        items: Vec<JinjaValue>,
        depth: usize,
        mut write: impl FnMut(&mut Self, JinjaValue) -> Outcome<()>,
    ) -> Outcome<()> {
        let (open, close) = brackets.split_at(1);
        self.out += open;
        let filled = !items.is_empty();
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.out += &self.item.clone();
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if filled {
            self.line(depth);
        }
        self.out += close;
        Ok(())
    }

    /// A new line where the text is indented.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent if (-4..16).contains(&exponent) => format!("{number:?}"),
        exponent => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    fn dump(value: &serde_json::Value, options: &[(&str, JinjaValue)]) -> String {
        super::super::bounds::begin(0);
        let options: Kwargs = options.iter().map(|(k, v)| (*k, v.clone())).collect();
        let args = JinjaValue::from(options);
        let args: (Rest<ValueOrKwargs>,) = from_args(std::slice::from_ref(&args)).unwrap();
        to_json(JinjaValue::from(Serde(value)), args.0).unwrap()
    }

    /// From Python: `json.dumps(value, ensure_ascii=False, ...)`.
    #[test]
    fn json_as_python_writes_it() {
        let value = serde_json::json!({"b": [1, 2.0, "é<\"\n\u{1}"], "a": {}, "c": [], "d": null, "e": [{"f": true}]});
        let plain = r#"{"b": [1, 2.0, "é<\"\n\u0001"], "a": {}, "c": [], "d": null, "e": [{"f": true}]}"#;
        assert_eq!(dump(&value, &[]), plain);
        let indented = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    2.0,\n    \"é<\\\"\\n\\u0001\"\n  ],\n  \"c\": [],\n  \
                        \"d\": null,\n  \"e\": [\n    {\n      \"f\": true\n    }\n  ]\n}";
        assert_eq!(dump(&value, &[("indent", 2.into()), ("sort_keys", true.into())]), indented);
        let emoji = serde_json::json!(["é🦅\u{7f}"]);
        assert_eq!(dump(&emoji, &[("ensure_ascii", true.into())]), r#"["\u00e9\ud83e\udd85\u007f"]"#);
        let tight = [("separators", JinjaValue::from(vec![",", ":"]))];
        assert_eq!(dump(&serde_json::json!({"a": [1, 2]}), &tight), r#"{"a":[1,2]}"#);
        let tabs = [("indent", JinjaValue::from("\t"))];
        assert_eq!(dump(&serde_json::json!([[], 1]), &tabs), "[\n\t[],\n\t1\n]");
    }

    /// From Python: `repr(number)`.
    #[test]
    fn floats_as_python_writes_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (0.1, "0.1"),
            (123_456.789, "123456.789"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}

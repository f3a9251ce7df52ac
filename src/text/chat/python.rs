//! What chat templates take from Python: `json.dumps` and `strftime`.

use minijinja::ErrorKind;
use minijinja::value::{Kwargs, Value as JinjaValue};
use serde::Serialize;
use serde_json::ser::Formatter;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Python's `json.dumps(value, ensure_ascii=False)` with `indent`, `separators` and `sort_keys`, as
/// transformers' filter of that name: blanks after commas and colons, nothing escaped for HTML.
pub fn to_json(value: JinjaValue, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let bad =
        |cause: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, cause.to_string());
    let mut value = serde_json::to_value(&value).map_err(bad)?;
    if sort_keys.unwrap_or(false) {
        value.sort_all_objects();
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => ((if indent.is_some() { "," } else { ", " }).to_string(), ": ".to_string()),
    };
    let indent = indent.map(|width| width.min(64));
    let format = PythonFormat { item, key, indent, depth: 0, filled: false };
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format)).map_err(bad)?;
    String::from_utf8(bytes)
        .map_err(|cause| minijinja::Error::new(ErrorKind::BadSerialization, cause.to_string()))
}

struct PythonFormat {
    item: String,
    key: String,
    indent: Option<usize>,
    depth: usize,
    /// Whether the innermost list or object has an entry: an empty one stays on its line.
    filled: bool,
}

impl PythonFormat {
    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(writer, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }
    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }
    fn entry<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.filled = true;
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for PythonFormat {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }
    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.entry(writer, first)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }
    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.entry(writer, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

/// The date and time of now in UTC (transformers: local time) by C's conversions.
pub fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    strftime(format, now)
}

/// The conversions that chat templates use; an unknown one stays as it stands.
fn strftime(format: &str, unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, second) = (unix / 86400, unix % 86400);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (year, month, day) = civil(days);
    let (week_day, month_name) = (DAYS[(days % 7) as usize], MONTHS[(month as usize + 11) % 12]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out += &match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => week_day.to_string(),
            Some('a') => week_day[..3].to_string(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{:02}", second % 60),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{other}"),
            None => "%".to_string(),
        };
    }
    out
}

/// Year, month and day of a day number since 1970, by counting 400-year cycles of 146097 days from a
/// 1 March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153; // 0 is March
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "Thursday 01 January 1970 12:00:00 AM Jan 70"),
            (951_782_400, "Tuesday 29 February 2000 12:00:00 AM Feb 00"),
            (4_107_542_399, "Sunday 28 February 2100 11:59:59 PM Feb 00"),
            (1_735_689_599, "Tuesday 31 December 2024 11:59:59 PM Dec 24"),
        ] {
            assert_eq!(strftime("%A %d %B %Y %I:%M:%S %p %b %y", unix), expected);
        }
        assert_eq!(strftime("%q 100%% %", 0), "%q 100% %");
    }

    #[test]
    fn json_as_python_writes_it() {
        let value =
            serde_json::json!({"b": [1, 2.0, "é<\"\n"], "a": {}, "c": [], "d": null, "e": [{"f": true}]});
        let value = JinjaValue::from(Serde(&value));
        let dump = |options: &[(&str, JinjaValue)]| {
            let options: Kwargs = options.iter().map(|(k, v)| (*k, v.clone())).collect();
            to_json(value.clone(), options).unwrap()
        };
        // From Python: json.dumps(value, ensure_ascii=False, ...)
        assert_eq!(
            dump(&[]),
            r#"{"b": [1, 2.0, "é<\"\n"], "a": {}, "c": [], "d": null, "e": [{"f": true}]}"#
        );
        let indented = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    2.0,\n    \"é<\\\"\\n\"\n  ],\n  \"c\": [],\n  \
                        \"d\": null,\n  \"e\": [\n    {\n      \"f\": true\n    }\n  ]\n}";
        assert_eq!(dump(&[("indent", 2.into()), ("sort_keys", true.into())]), indented);
    }
}

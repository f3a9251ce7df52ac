//! Chat templates in Jinja, as transformers renders them, in a box: no files, no includes, a bound on
//! instructions, depth and output.

use super::Rendered;
use super::marks::Marks;
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use crate::text::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as JinjaValue};
use minijinja::{Environment, ErrorKind};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Stack for parsing a template, and more for each of its bytes: a chain such as `-----1` or `x.a.a.a`
/// makes the parser's tree as deep as it is long, and some 400 bytes of stack were measured for a level.
const PARSE_STACK: usize = 1 << 20;
const PARSE_STACK_PER_BYTE: usize = 1 << 10;
/// Stack for rendering: a value nested by a loop is dropped level by level, some 200 bytes each, and a
/// level costs six instructions at least. Only what is touched becomes memory.
const RENDER_STACK: usize = (1 << 20) + limits::TEMPLATE_FUEL as usize / 6 * 256;

/// Runs on a thread of its own with the stack that hostile input may need, whatever the caller has.
/// A panic becomes `Format`, a refused thread `Io`.
fn on_own_stack<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("aquila-template".into()).stack_size(bytes);
        let thread = thread.spawn_scoped(scope, run);
        let thread = thread.map_err(|cause| crate::error!(Io, "chat template: no thread: {cause}"))?;
        thread.join().map_err(|_| crate::error!(Format, "chat template: failed inside"))
    })
}

/// How deep blocks and macros may nest while rendering: real templates stay below 20, and a thread of a
/// host may have a stack of 128 KiB.
const DEPTH_MAX: usize = 64;

/// A parsed template with what it needs of the tokenizer.
pub struct Template {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    /// Text that must not be smuggled in by a message.
    specials: Vec<String>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template(jinja)")
    }
}

impl Template {
    /// Parses the template. `Format` with the line of an error.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_fuel(Some(limits::TEMPLATE_FUEL));
        environment.set_recursion_limit(DEPTH_MAX);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let (bytes, most) = (source.len(), limits::TEMPLATE_SOURCE_MAX);
        crate::ensure!(bytes <= most, Format, "chat template: {bytes} bytes, expected at most {most}");
        let source = plain_generation_tags(source);
        let stack = PARSE_STACK + bytes * PARSE_STACK_PER_BYTE;
        let parsed = on_own_stack(stack, || environment.add_template_owned(NAME, source))?;
        parsed.map_err(|cause| template_error(&cause))?;
        let text =
            |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned());
        let specials = tokenizer.special_texts().to_vec();
        Ok(Template { environment, bos: text(tokenizer.bos()), eos: text(tokenizer.eos()), specials })
    }

    /// Renders with the variables that transformers gives: `messages`, `tools`, `documents`,
    /// `add_generation_prompt`, `bos_token`, `eos_token`.
    pub fn render(
        &self,
        mut messages: Vec<Value>,
        mut tools: Option<Vec<Value>>,
        add_prompt: bool,
    ) -> Result<Rendered> {
        let marks = Marks::new(&self.specials, &[&messages, tools.as_deref().unwrap_or(&[])])?;
        messages.iter_mut().chain(tools.iter_mut().flatten()).for_each(|value| marks.put(value));
        let mut context = vec![
            ("messages", JinjaValue::from(Serde(&messages))),
            ("tools", JinjaValue::from(Serde(&tools))),
            ("documents", JinjaValue::from(())),
            ("add_generation_prompt", JinjaValue::from(add_prompt)),
        ];
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            context.extend(text.as_ref().map(|text| (name, JinjaValue::from(text.as_str()))));
        }
        let run = || {
            let mut output = Bounded(Vec::new());
            let context = JinjaValue::from_pairs(context);
            self.environment.get_template(NAME)?.render_captured_to(context, &mut output)?;
            Ok(output.0)
        };
        let bytes = on_own_stack(RENDER_STACK, run)?.map_err(|cause| template_error(&cause))?;
        let text = String::from_utf8(bytes).map_err(|_| crate::error!(Format, "chat template: no UTF-8"))?;
        Ok(marks.take(text))
    }
}

/// Without an ending such as `.html`, so nothing is escaped.
const NAME: &str = "chat_template";

fn syntax() -> Result<SyntaxConfig> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|cause| crate::error!(Internal, "chat template syntax: {cause}"))
}

/// What a template said against the messages is the caller's to mend; the rest is the template's fault.
fn template_error(cause: &minijinja::Error) -> Error {
    use std::error::Error as _;
    if let Some(raised) = cause.source().and_then(|source| source.downcast_ref::<Raised>()) {
        return Error::new(
            Status::Argument,
            format!("messages: the chat template refuses them: {}", raised.0),
        );
    }
    let line = cause.line().map(|line| format!(" line {line}")).unwrap_or_default();
    let what = match cause.kind() {
        ErrorKind::OutOfFuel => format!("more than {} instructions", limits::TEMPLATE_FUEL),
        ErrorKind::WriteFailure => format!("more than {} bytes of text", limits::TEMPLATE_BYTES_MAX),
        _ => match cause.detail() {
            Some(detail) => format!("{}: {detail}", cause.kind()),
            None => cause.kind().to_string(),
        },
    };
    Error::new(Status::Format, format!("chat template{line}: {what}"))
}

/// A buffer that refuses to grow beyond the limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len() <= limits::TEMPLATE_BYTES_MAX.saturating_sub(self.0.len());
        if !fits || self.0.try_reserve(bytes.len()).is_err() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks the assistant's words for training in transformers; here it is a block that
/// does nothing.
fn plain_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inner = &rest[start + 2..start + length];
        let word = inner.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start + 2]);
        match word {
            "generation" => out.push_str(&inner.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&inner.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(inner),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

/// The error of a template that calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> std::result::Result<JinjaValue, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// Python's `json.dumps(value, ensure_ascii=False)` with `indent`, `separators` and `sort_keys`, as
/// transformers' filter of that name: blanks after commas and colons, nothing escaped for HTML.
fn to_json(value: JinjaValue, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
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
fn strftime_now(format: &str) -> String {
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
    use minijinja::value::Value as JinjaValue;

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

    #[test]
    fn generation_tags_become_plain_blocks() {
        let source = "a{%- generation -%} b {% endgeneration %}{% if generation %}{% endif %}{{ '{%' }}";
        let expected = "a{%- if true -%} b {% endif %}{% if generation %}{% endif %}{{ '{%' }}";
        assert_eq!(plain_generation_tags(source), expected);
    }
}

//! Filters and methods whose Python originals differ from minijinja's in something that a prompt shows,
//! or that make more text than they are given and so must be counted.

use super::bounds::{charge, counted};
use super::python;
use minijinja::functions::Function;
use minijinja::value::{
    Enumerator, FunctionArgs, FunctionResult, Kwargs, Object, ObjectRepr, Rest, Value as JinjaValue,
    ValueKind, ValueOrKwargs, from_args,
};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State};
use std::sync::Arc;

type Outcome<T> = std::result::Result<T, JinjaError>;

/// What an item of a list takes while it is made.
const ENTRY: usize = 48;

/// Puts them in the place of minijinja's.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("title", |value: JinjaValue| python::text(&value).map(|text| title_filter(&text)));
    environment.add_filter("trim", trim);
    environment.add_filter("string", python::string);
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    environment.add_filter("format", |state: &mut State, value: JinjaValue, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        check_format(value.as_str().unwrap_or_default(), '%', &args)?;
        state.apply_filter(PLAIN_FORMAT, &[vec![value], args].concat())
    });
    environment.add_filter(PLAIN_FORMAT, minijinja::filters::format);
    listed(environment, "list", "list!", minijinja::filters::list);
    listed(environment, "sort", "sort!", minijinja::filters::sort);
    listed(environment, "batch", "batch!", minijinja::filters::batch);
    listed(environment, "slice", "slice!", minijinja::filters::slice);
    listed(environment, "groupby", "groupby!", minijinja::filters::groupby);
    // These are minijinja's own; to Jinja they are unknown, and the function tells of its inside.
    for name in ["lines", "split", "bool", "zip", "chain", "pprint"] {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    lazy(environment, "map", "map!", minijinja::filters::map);
    lazy(environment, "select", "select!", minijinja::filters::select);
    lazy(environment, "reject", "reject!", minijinja::filters::reject);
    lazy(environment, "selectattr", "selectattr!", minijinja::filters::selectattr);
    lazy(environment, "rejectattr", "rejectattr!", minijinja::filters::rejectattr);
    lazy(environment, "unique", "unique!", minijinja::filters::unique);
    environment.add_test("iterable", |value: JinjaValue| value.is_undefined() || python::is_iterable(&value));
    environment.add_test("sequence", |value: JinjaValue| value.is_undefined() || value.len().is_some());
    environment.set_unknown_method_callback(method);
}

/// No template can write such a name.
const PLAIN_FORMAT: &str = "format!";

/// A filter that gives an iterator in Jinja: it can be looped over, and made a list, but has neither a
/// length nor a JSON text.
fn lazy<F, Rv, Args>(environment: &mut Environment<'_>, name: &'static str, eager: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    environment.add_filter(eager, filter);
    environment.add_filter(name, move |state: &mut State, value: JinjaValue, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        // The names of the filters beneath these are no template's business.
        if args.first().and_then(JinjaValue::as_str).is_some_and(|name| name.ends_with('!')) {
            return Err(ErrorKind::UnknownFilter.into());
        }
        count_items(&value)?;
        let found = state.apply_filter(eager, &[vec![value], args].concat())?;
        // An iterator hides what it gives.
        counted(&found)?;
        Ok::<JinjaValue, JinjaError>(JinjaValue::from_object(Lazy(found)))
    });
}

/// A filter that makes a list of what it is given, be it the characters of a text: these are counted
/// first.
fn listed<F, Rv, Args>(environment: &mut Environment<'_>, name: &'static str, plain: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    environment.add_filter(plain, filter);
    environment.add_filter(name, move |state: &mut State, value: JinjaValue, args: Rest<ValueOrKwargs>| {
        count_items(&value)?;
        state.apply_filter(plain, &[vec![value], args.into_values()].concat())
    });
}

fn count_items(value: &JinjaValue) -> Outcome<()> {
    charge(value.len().unwrap_or(0).saturating_mul(ENTRY))
}

/// The items of a list, one after the other.
#[derive(Debug)]
struct Lazy(JinjaValue);

impl Object for Lazy {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let items: Vec<JinjaValue> = self.0.try_iter().map(Iterator::collect).unwrap_or_default();
        Enumerator::Iter(Box::new(items.into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

fn invalid(what: impl Into<String>) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, what.into())
}

/// Python's `str.isspace`: Unicode's, and four separators that Unicode does not call white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Left,
    Right,
    Both,
}

fn strip<'t>(text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let gone = |c: char| chars.map_or(is_space(c), |chars| chars.contains(c));
    let text = if ends == Ends::Right { text } else { text.trim_start_matches(gone) };
    if ends == Ends::Left { text } else { text.trim_end_matches(gone) }
}

fn trim(value: JinjaValue, chars: Option<String>) -> Outcome<String> {
    Ok(strip(&python::text(&value)?, chars.as_deref(), Ends::Both).to_owned())
}

/// Python's `len`; what is undefined has no items.
fn length(value: JinjaValue) -> Outcome<usize> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        kind => {
            value.len().ok_or_else(|| invalid(format!("length: expected a text or a list, found {kind}")))
        }
    }
}

/// `str.replace(old, new, count)`, counted before it is made.
fn replaced(text: &str, old: &str, new: &str, count: Option<i64>) -> Outcome<String> {
    let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count();
    let grown = found.saturating_mul(new.len().saturating_sub(old.len()));
    charge(text.len().saturating_add(grown))?;
    Ok(text.replacen(old, new, found))
}

fn replace(value: JinjaValue, old: JinjaValue, new: JinjaValue, count: Option<i64>) -> Outcome<String> {
    replaced(&python::text(&value)?, &python::text(&old)?, &python::text(&new)?, count)
}

fn join(
    value: JinjaValue,
    between: Option<JinjaValue>,
    attribute: Option<JinjaValue>,
    options: Kwargs,
) -> Outcome<String> {
    let option = |given: Option<JinjaValue>, name: &str| match given {
        None => options.get::<Option<JinjaValue>>(name),
        given => Ok(given),
    };
    let (between, attribute) = (option(between, "d")?, option(attribute, "attribute")?);
    options.assert_all_used()?;
    let items = value.try_iter()?.map(|item| match attribute.as_ref().filter(|name| !name.is_none()) {
        Some(name) => item.get_item(name),
        None => Ok(item),
    });
    let between = between.filter(|text| !text.is_none()).map(|text| text.to_string()).unwrap_or_default();
    joined(items, &between)
}

fn joined(items: impl Iterator<Item = Outcome<JinjaValue>>, between: &str) -> Outcome<String> {
    let mut out = String::new();
    for (at, item) in items.enumerate() {
        let text = python::text(&item?)?;
        charge(text.len() + between.len())?;
        if at > 0 {
            out.push_str(between);
        }
        out.push_str(&text);
    }
    Ok(out)
}

/// Jinja's `indent`: the text's last line break stays one.
fn indent(
    value: JinjaValue,
    width: Option<JinjaValue>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Outcome<String> {
    let width = match width {
        None => options.get::<Option<JinjaValue>>("width")?,
        width => width,
    };
    let flag = |given: Option<bool>, name: &str| match given {
        None => Ok(options.get::<Option<bool>>(name)?.unwrap_or(false)),
        Some(given) => Ok::<bool, JinjaError>(given),
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    options.assert_all_used()?;
    let width = match &width {
        None => "    ".to_string(),
        Some(text) if text.as_str().is_some() => text.to_string(),
        Some(number) => {
            let count = number.as_usize().ok_or_else(|| invalid("indent: expected a width"))?;
            charge(count)?;
            " ".repeat(count)
        }
    };
    let text = value.to_string() + "\n";
    let lines = split_lines(&text, false)?;
    charge(text.len().saturating_add(lines.len().saturating_mul(width.len())))?;
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if (at > 0 || first) && (blank || !line.is_empty() || at == 0) {
            out.push_str(&width);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Python's `str.splitlines`.
fn split_lines(text: &str, keep: bool) -> Outcome<Vec<&str>> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    charge(text.matches(ENDS).count().saturating_mul(ENTRY))?;
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ENDS) {
        let end = match rest.get(at..) {
            Some(tail) if tail.starts_with("\r\n") => at + 2,
            Some(tail) => at + tail.chars().next().map_or(1, char::len_utf8),
            None => break,
        };
        let (line, tail) = rest.split_at(end);
        lines.push(if keep { line } else { line.get(..at).unwrap_or(line) });
        rest = tail;
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Ok(lines)
}

/// Jinja's `title`: words begin behind blanks, `-`, `(`, `{`, `[` and `<`.
fn title_filter(text: &str) -> String {
    title(text, |c| !(is_space(c) || "-({[<".contains(c)))
}

fn title(text: &str, in_word: impl Fn(char) -> bool) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        match in_word(c) {
            true if inside => out.extend(c.to_lowercase()),
            _ => out.extend(c.to_uppercase()),
        }
        inside = in_word(c);
    }
    out
}

/// A number in a format may ask for any width, and each field may show the same argument again.
fn check_format(format: &str, mark: char, args: &[JinjaValue]) -> Outcome<()> {
    let mut digits = 0;
    for c in format.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 5 {
            return Err(invalid("format: expected widths below 100000"));
        }
    }
    let mut size = 0usize;
    for arg in args {
        // Once as it is printed, for what it holds may be shown, too.
        size = size.saturating_add(python::text(arg)?.len());
    }
    let fields = format.matches(mark).count();
    charge(fields.saturating_mul(size).saturating_add(format.len()))
}

/// Methods of strings; the rest, and those of lists and objects, are minijinja's.
fn method(state: &mut State, value: &JinjaValue, name: &str, args: &[JinjaValue]) -> Outcome<JinjaValue> {
    if value.kind() == ValueKind::String
        && let Some(text) = value.as_str()
        && let Some(found) = string_method(text, name, args)?
    {
        return Ok(found);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn string_method(text: &str, name: &str, args: &[JinjaValue]) -> Outcome<Option<JinjaValue>> {
    let stripped = |ends| {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(Some(strip(text, chars, ends).into()))
    };
    match name {
        "strip" => stripped(Ends::Both),
        "lstrip" => stripped(Ends::Left),
        "rstrip" => stripped(Ends::Right),
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            Ok(Some(replaced(text, old, new, count)?.into()))
        }
        "join" => {
            let (items,): (&JinjaValue,) = from_args(args)?;
            let strings = items.try_iter()?.enumerate().map(|(at, item)| match item.as_str() {
                Some(_) => Ok(item),
                None => Err(invalid(format!("join: item {at}: expected a string, found {}", item.kind()))),
            });
            Ok(Some(joined(strings, text)?.into()))
        }
        "split" | "rsplit" => {
            let (separator, most, options): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(options.get("sep")?);
            let most = most.or(options.get("maxsplit")?);
            options.assert_all_used()?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            Ok(Some(list(split(text, separator.as_deref(), most, name == "rsplit")?)))
        }
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get("keepends")?).unwrap_or(false);
            options.assert_all_used()?;
            Ok(Some(list(split_lines(text, keep)?)))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let left = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Some(left.unwrap_or(text).into()))
        }
        "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(args)?;
            let (before, last) = (text.split_once(part), text.rsplit_once(part));
            let parts = match (name, before, last) {
                _ if part.is_empty() => return Err(invalid(format!("{name}: empty separator"))),
                ("partition", Some((left, right)), _) | ("rpartition", _, Some((left, right))) => {
                    [left, part, right]
                }
                ("partition", ..) => [text, "", ""],
                _ => ["", "", text],
            };
            Ok(Some(list(parts.to_vec())))
        }
        "title" => {
            let () = from_args(args)?;
            Ok(Some(title(text, char::is_alphabetic).into()))
        }
        "format" => check_format(text, '{', args).map(|()| None),
        _ => Ok(None),
    }
}

fn list(texts: Vec<&str>) -> JinjaValue {
    texts.into_iter().map(JinjaValue::from).collect()
}

fn split<'t>(text: &'t str, separator: Option<&str>, most: usize, from_right: bool) -> Outcome<Vec<&'t str>> {
    let pieces = most.saturating_add(1);
    let found = separator
        .map_or_else(|| text.split(is_space).count(), |separator| text.matches(separator).count() + 1);
    charge(found.min(pieces).saturating_mul(ENTRY))?;
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(invalid("split: empty separator")),
        Some(separator) if from_right => text.rsplitn(pieces, separator).collect(),
        Some(separator) => text.splitn(pieces, separator).collect(),
        None => split_blank(text, most, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// Words between blanks, the rest as it stands after `most` cuts; from the right in reverse order.
fn split_blank(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let near = if from_right { Ends::Right } else { Ends::Left };
    let (mut words, mut rest) = (Vec::new(), strip(text, None, near));
    while !rest.is_empty() {
        let end = if from_right {
            rest.char_indices().rev().find(|&(_, c)| is_space(c)).map(|(at, c)| at + c.len_utf8())
        } else {
            rest.find(is_space)
        };
        let Some(end) = end.filter(|_| words.len() < most) else {
            words.push(rest);
            break;
        };
        let (left, right) = rest.split_at(end);
        let (word, others) = if from_right { (right, left) } else { (left, right) };
        words.push(word);
        rest = strip(others, None, near);
    }
    words
}

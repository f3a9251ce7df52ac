//! Marks in message contents, so that special-token text from a message stays text.
//!
//! A Jinja template may trim, join and copy contents as it likes, so where they end up is unknown. A
//! mark, a code point that Unicode reserves for use inside a program, is put behind one character of
//! each special-token text in a content, and taken out of the rendered prompt again: the byte before
//! each mark came from a message. Trims see the same characters as before. But a template that compares
//! or measures contents may write something else because of the marks; so it is rendered without them,
//! too, and that is the prompt. Where the two differ the marks tell less (`reconcile`).

use super::Rendered;
use super::jinja::Variables;
use crate::base::error::Result;
use serde_json::{Map, Value};
use std::ops::Range;

/// Puts marks in and takes them out.
pub struct Marks<'a> {
    mark: char,
    specials: &'a [String],
}

/// Unicode's noncharacters in the basic plane: never part of a text that is exchanged.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// A mark that none of the `values` contains. `Argument` where they contain all of them.
pub fn free(values: &[&Value]) -> Result<char> {
    let is_free = |mark: &char| !values.iter().any(|value| contains(value, mark.encode_utf8(&mut [0; 4])));
    match NONCHARACTERS.into_iter().find(is_free) {
        Some(mark) => Ok(mark),
        None => crate::bail!(Argument, "messages: contain every noncharacter from U+FDD0 to U+FDEF"),
    }
}

impl<'a> Marks<'a> {
    /// Puts `mark` into texts that could become one of `specials`.
    pub fn new(mark: char, specials: &'a [String]) -> Self {
        Marks { mark, specials }
    }

    /// The variables with marks, or `None` where they need none.
    pub fn marked(&self, variables: &Variables) -> Option<Variables> {
        let needs = variables
            .all()
            .into_iter()
            .any(|value| any_text(value, &mut |text| self.marked_text(text).is_some()));
        needs.then(|| Variables {
            messages: self.put(&variables.messages),
            tools: self.put(&variables.tools),
            documents: self.put(&variables.documents),
            args: variables.args.iter().map(|(name, value)| (name.clone(), self.put(value))).collect(),
        })
    }

    /// A value with marks in all its strings, keys among them: a tool's parameter has its name from
    /// outside, too.
    fn put(&self, value: &Value) -> Value {
        let marked = |text: &String| self.marked_text(text).unwrap_or_else(|| text.clone());
        match value {
            Value::String(text) => Value::String(marked(text)),
            Value::Array(list) => list.iter().map(|item| self.put(item)).collect(),
            Value::Object(map) => {
                let entries = map.iter().map(|(key, item)| (marked(key), self.put(item)));
                Value::Object(entries.collect::<Map<String, Value>>())
            }
            other => other.clone(),
        }
    }

    /// `text`, as rendered without marks, with the literal bytes that `marked`, as rendered with them,
    /// shows. Where the template looked for special-token text in a message, the marks made it write
    /// something else. Then only the equal front and end of the two texts tell what came from messages;
    /// between them nothing is a special token whose text could have come from one.
    pub fn reconcile(&self, text: String, marked: Option<String>, variables: &Variables) -> Rendered {
        let shown = self.take(marked.unwrap_or_default());
        if shown.text == text {
            return shown;
        }
        let same = |(left, right): &(u8, u8)| left == right;
        let front = text.bytes().zip(shown.text.bytes()).take_while(same).count();
        let shorter = text.len().min(shown.text.len());
        let end =
            text.bytes().rev().zip(shown.text.bytes().rev()).take_while(same).count().min(shorter - front);
        let (behind, shift) = (text.len() - end, shown.text.len() - end);
        let mut literal: Vec<Range<usize>> = Vec::new();
        for range in shown.literal {
            if range.end <= front {
                literal.push(range);
            } else if range.start >= shift {
                literal.push(range.start - shift + behind..range.end - shift + behind);
            }
        }
        for special in self.specials.iter().filter(|special| self.may_come_from(special, variables)) {
            // One that reaches into the equal parts is none of theirs.
            let from = floor(&text, front.saturating_sub(special.len() - 1));
            let to = floor(&text, (behind + special.len()).min(text.len()));
            let found = text.get(from..to).unwrap_or("").match_indices(special.as_str());
            for start in found.map(|(at, _)| from + at) {
                if start + special.len() > front && start < behind {
                    literal.push(start..start + first_char(special));
                }
            }
        }
        literal.sort_unstable_by_key(|range| (range.start, range.end));
        literal.dedup();
        Rendered { text, literal }
    }

    fn may_come_from(&self, special: &str, variables: &Variables) -> bool {
        let found = |value| any_text(value, &mut |text| !self.places(text, special).is_empty());
        variables.all().into_iter().any(found)
    }

    /// The text with marks, or `None` where it needs none.
    fn marked_text(&self, text: &str) -> Option<String> {
        let mut after: Vec<usize> =
            self.specials.iter().flat_map(|special| self.places(text, special)).collect();
        after.sort_unstable();
        after.dedup();
        let mut out = String::with_capacity(text.len() + after.len() * self.mark.len_utf8());
        let mut done = 0;
        for &at in &after {
            out.push_str(text.get(done..at)?);
            out.push(self.mark);
            done = at;
        }
        out.push_str(text.get(done..)?);
        (done > 0).then_some(out)
    }

    /// Byte positions behind one character of each whole occurrence of `special`, and of each half one
    /// at either end that neighbouring text could complete.
    fn places(&self, text: &str, special: &str) -> Vec<usize> {
        let mut places = Vec::new();
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|rest| rest.find(special)) {
            let start = from + at;
            places.push(start + solid(special));
            from = start + first_char(special);
        }
        for (cut, _) in special.char_indices().skip(1) {
            let (head, tail) = special.split_at(cut);
            if text.ends_with(head) {
                places.push(text.len() - head.len() + solid(head));
            }
            if text.starts_with(tail) {
                places.push(solid(tail));
            }
        }
        places
    }

    /// Takes the marks out of a rendered prompt and notes the character before each.
    fn take(&self, text: String) -> Rendered {
        if !text.contains(self.mark) {
            return Rendered { text, literal: Vec::new() };
        }
        let mut out = Rendered { text: String::with_capacity(text.len()), literal: Vec::new() };
        for (number, piece) in text.split(self.mark).enumerate() {
            let end = out.text.len();
            if number > 0
                && let Some(last) = out.text.chars().next_back()
                && out.literal.last().is_none_or(|range| range.end < end)
            {
                out.literal.push(end - last.len_utf8()..end);
            }
            out.text.push_str(piece);
        }
        out
    }
}

fn first_char(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

/// Bytes up to the end of the first character that no trim takes away from its mark; of the first
/// character where all are blank.
fn solid(text: &str) -> usize {
    let solid = text.char_indices().find(|(_, c)| !c.is_whitespace()).map(|(at, c)| at + c.len_utf8());
    solid.unwrap_or_else(|| first_char(text))
}

/// The last border of characters at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Whether any string in a value, keys among them, contains `part`.
pub fn contains(value: &Value, part: &str) -> bool {
    any_text(value, &mut |text| text.contains(part))
}

/// Whether any string in a value, keys among them, is such.
fn any_text(value: &Value, is_such: &mut dyn FnMut(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_such(text),
        Value::Array(list) => list.iter().any(|item| any_text(item, is_such)),
        Value::Object(map) => map.iter().any(|(key, item)| is_such(key) || any_text(item, is_such)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn specials() -> Vec<String> {
        ["</s>", "<|im_end|>", "\n\n<x>", "中"].map(String::from).to_vec()
    }

    /// Marks a content, puts it between two texts of the template, and says which bytes are literal.
    fn through(before: &str, content: &str, after: &str) -> (String, Vec<String>) {
        let specials = specials();
        let marks = Marks::new(free(&[&json!(content)]).unwrap(), &specials);
        let marked = marks.put(&json!(content));
        let rendered = marks.take(format!("{before}{}{after}", marked.as_str().unwrap().trim()));
        (rendered.text.clone(), literal(&rendered))
    }

    fn literal(rendered: &Rendered) -> Vec<String> {
        rendered.literal.iter().map(|range| rendered.text[range.clone()].to_string()).collect()
    }

    #[test]
    fn each_special_text_has_a_literal_byte() {
        for (before, content, after, literal) in [
            ("", "plain", "</s>", vec![]),
            ("<s>", "a</s>b</s>", "</s>", vec!["<", "<"]),
            ("", "</s", ">", vec!["<"]),
            ("</", "s>", "", vec!["s"]),
            ("", "中", "中", vec!["中"]),
            ("", "x\n\n<x>", "", vec!["<"]),
            ("", "  \n\n<x>  ", "", vec!["<"]),
            ("", "<</s><|im_end|>", "", vec!["<", "<"]),
        ] {
            let (text, found) = through(before, content, after);
            assert_eq!(text, format!("{before}{}{after}", content.trim()));
            assert_eq!(found, literal, "{content:?}");
        }
    }

    #[test]
    fn a_content_that_holds_the_mark_keeps_it() {
        let (text, literal) = through("", "a\u{FDD0}</s>", "");
        assert_eq!((text.as_str(), literal.len()), ("a\u{FDD0}</s>", 1));
        let all: String = NONCHARACTERS.collect();
        let error = free(&[&json!({"content": all})]).unwrap_err();
        assert_eq!(error.status, crate::Status::Argument);
    }

    #[test]
    fn keys_and_roles_are_marked_too() {
        let specials = specials();
        let marks = Marks::new('\u{FDD0}', &specials);
        let marked = marks.put(&json!({"role": "</s>", "a</s>": [{"<|im_end|>": 1}]}));
        assert_eq!(marks.take(marked.to_string()).literal.len(), 3);
    }

    /// A template that cuts contents at a special text does not find it behind marks.
    #[test]
    fn a_text_that_marks_would_change_is_the_unmarked_one() {
        let specials = specials();
        let marks = Marks::new('\u{FDD0}', &specials);
        let variables = Variables {
            messages: json!([{"content": "a</s>b"}, {"content": "<|im_end|>"}]),
            tools: Value::Null,
            documents: Value::Null,
            args: Map::new(),
        };
        // Cut at </s>: "b". With marks it is not found.
        let plain = "<x>b</s>user:<|im_end|></s>".to_string();
        let marked = "<x>a<\u{FDD0}/s>b</s>user:<\u{FDD0}|im_end|></s>".to_string();
        let rendered = marks.reconcile(plain.clone(), Some(marked), &variables);
        assert_eq!(rendered.text, plain);
        // What is behind the difference is known exactly: both </s> are the template's.
        assert_eq!((literal(&rendered), rendered.literal[0].start), (vec!["<".to_string()], 13));
        // Nothing is known: whatever a message has is literal.
        let rendered = marks.reconcile(plain.clone(), None, &variables);
        assert_eq!(literal(&rendered), ["<", "<", "<"]);
        assert_eq!(rendered.literal[0], 4..5);
    }
}

//! Marks in message contents, so that special-token text from a message stays text.
//!
//! A Jinja template may trim, join and copy contents as it likes, so where they end up is unknown. A
//! mark, a code point that Unicode reserves for use inside a program, is put behind one character of
//! each special-token text in a content, and taken out of the rendered prompt again: the byte before
//! each mark came from a message. The template's own trims and comparisons still see their characters.

use super::Rendered;
use crate::base::error::Result;
use serde_json::Value;

/// Puts marks in and takes them out.
pub struct Marks<'a> {
    mark: char,
    specials: &'a [String],
}

/// Unicode's noncharacters in the basic plane: never part of a text that is exchanged.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

impl<'a> Marks<'a> {
    /// Chooses a mark that none of the `values` contains. `Argument` where they contain all of them.
    pub fn new(specials: &'a [String], values: &[&[Value]]) -> Result<Self> {
        let free = |mark: &char| !values.iter().any(|list| list.iter().any(|value| contains(value, *mark)));
        match NONCHARACTERS.into_iter().find(free) {
            Some(mark) => Ok(Marks { mark, specials }),
            None => crate::bail!(Argument, "messages: contain every noncharacter from U+FDD0 to U+FDEF"),
        }
    }

    /// Marks every string in a value except the roles.
    pub fn put(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.marked(text) {
                    *text = marked;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|item| self.put(item)),
            Value::Object(map) => {
                map.iter_mut().filter(|(key, _)| *key != "role").for_each(|(_, item)| self.put(item));
            }
            _ => {}
        }
    }

    /// The text with marks, or `None` where it needs none.
    fn marked(&self, text: &str) -> Option<String> {
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
    pub fn take(&self, text: String) -> Rendered {
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

fn contains(value: &Value, mark: char) -> bool {
    match value {
        Value::String(text) => text.contains(mark),
        Value::Array(list) => list.iter().any(|item| contains(item, mark)),
        Value::Object(map) => map.iter().any(|(key, item)| key.contains(mark) || contains(item, mark)),
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
        let mut value = json!(content);
        let marks = Marks::new(&specials, &[std::slice::from_ref(&value)]).unwrap();
        marks.put(&mut value);
        let rendered = marks.take(format!("{before}{}{after}", value.as_str().unwrap().trim()));
        let literal = rendered.literal.iter().map(|r| rendered.text[r.clone()].to_string()).collect();
        (rendered.text, literal)
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
        let error = Marks::new(&specials(), &[&[json!({"content": all})]]).err().unwrap();
        assert_eq!(error.status, crate::Status::Argument);
    }
}

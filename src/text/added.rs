//! Added tokens: texts such as `</s>` that are found in the input before it is cut into words.

use crate::base::error::Result;
use std::ops::Range;

/// Longest text of an added token in bytes: the published ones stay below 64.
pub const ADDED_BYTES_MAX: usize = 1024;

/// One added token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its id.
    pub id: u32,
    /// Its text, verbatim.
    pub text: String,
    /// Left out of text unless asked for, and not recognised where special tokens are not parsed.
    pub special: bool,
    /// Takes the blanks before it.
    pub lstrip: bool,
    /// Takes the blanks after it.
    pub rstrip: bool,
    /// Looked for in the normalised text instead of the raw one.
    pub normalized: bool,
}

impl Added {
    /// A special token that takes nothing beside its text.
    pub fn special(id: u32, text: impl Into<String>) -> Self {
        let text = text.into();
        Added { id, text, special: true, lstrip: false, rstrip: false, normalized: false }
    }
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An added token.
    Token(u32),
    /// Bytes without one.
    Text(Range<usize>),
}

/// Finds added tokens: at each place the longest.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    tokens: Vec<Added>,
    /// A tree of bytes; node 0 is the root.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Next byte and node, sorted.
    next: Vec<(u8, u32)>,
    /// The token that ends here.
    token: Option<u32>,
}

/// Where special tokens are recognised.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whether they are at all. Where not, their text is ordinary text.
    pub parse_special: bool,
    /// Bytes, sorted, in which none may begin, end or lie.
    pub literal: &'a [Range<usize>],
}

impl Matcher {
    /// A matcher for these tokens; none empty, no text twice.
    pub fn new(tokens: Vec<Added>) -> Self {
        let mut nodes = vec![Node::default()];
        for (index, token) in tokens.iter().enumerate() {
            let mut at = 0usize;
            for &byte in token.text.as_bytes() {
                let place = nodes[at].next.binary_search_by_key(&byte, |&(b, _)| b);
                at = match place {
                    Ok(place) => nodes[at].next[place].1 as usize,
                    Err(place) => {
                        let fresh = nodes.len();
                        nodes[at].next.insert(place, (byte, fresh as u32));
                        nodes.push(Node::default());
                        fresh
                    }
                };
            }
            nodes[at].token = Some(index as u32);
        }
        Matcher { tokens, nodes }
    }

    /// Cuts `text` into added tokens and what is between; all parts together are the whole text (with
    /// the blanks that a token takes). `literal` counts from the start of `text`.
    pub fn cut(&self, text: &str, rules: Rules<'_>, mut part: impl FnMut(Part) -> Result<()>) -> Result<()> {
        let bytes = text.as_bytes();
        let mut literal = rules.literal;
        let (mut done, mut at) = (0, 0);
        while at < bytes.len() {
            while literal.first().is_some_and(|range| range.end <= at) {
                literal = &literal[1..];
            }
            let Some(token) = self.longest(bytes, at, literal) else {
                at += 1;
                continue;
            };
            let end = at + token.text.len();
            if token.special && !rules.parse_special {
                at = end;
                continue;
            }
            let start = if token.lstrip { text[..at].trim_end().len().max(done) } else { at };
            if start > done {
                part(Part::Text(done..start))?;
            }
            part(Part::Token(token.id))?;
            at = if token.rstrip { end + text[end..].len() - text[end..].trim_start().len() } else { end };
            done = at;
        }
        if done < bytes.len() {
            part(Part::Text(done..bytes.len()))?;
        }
        Ok(())
    }

    /// The longest token at `at` that may stand there.
    fn longest(&self, bytes: &[u8], at: usize, literal: &[Range<usize>]) -> Option<&Added> {
        let mut node = self.nodes.first()?;
        let mut found = None;
        for (end, byte) in bytes.iter().enumerate().skip(at) {
            let Ok(place) = node.next.binary_search_by_key(byte, |&(b, _)| b) else { break };
            node = &self.nodes[node.next[place].1 as usize];
            let Some(token) = node.token.and_then(|index| self.tokens.get(index as usize)) else { continue };
            let untouched = literal.first().is_none_or(|range| range.start > end);
            if untouched || !token.special {
                found = Some(token);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(tokens: &[Added], text: &str, parse_special: bool, literal: &[Range<usize>]) -> Vec<String> {
        let mut parts = Vec::new();
        Matcher::new(tokens.to_vec())
            .cut(text, Rules { parse_special, literal }, |part| {
                parts.push(match part {
                    Part::Token(id) => format!("#{id}"),
                    Part::Text(range) => text[range].to_string(),
                });
                Ok(())
            })
            .unwrap();
        parts
    }

    #[test]
    fn finds_the_longest_and_keeps_the_rest() {
        let tokens = [Added::special(1, "<s>"), Added::special(2, "<s>>"), Added::special(3, "中")];
        assert_eq!(cut(&tokens, "a<s>b<s>>中<s", true, &[]), ["a", "#1", "b", "#2", "#3", "<s"]);
        assert_eq!(cut(&tokens, "<s<s>", true, &[]), ["<s", "#1"]);
        assert!(cut(&tokens, "", true, &[]).is_empty());
        assert_eq!(cut(&[], "a<s>", true, &[]), ["a<s>"]);
    }

    #[test]
    fn special_text_is_text_where_it_is_not_parsed() {
        let mut user = Added::special(7, "<u>");
        user.special = false;
        let tokens = [Added::special(1, "<s>"), user];
        assert_eq!(cut(&tokens, "x<s>y<u>z", false, &[]), ["x<s>y", "#7", "z"]);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // Lists of ranges, not the numbers in them.
    fn nothing_special_touches_a_literal_range() {
        let tokens = [Added::special(1, "<s>"), Added::special(2, "<s>>")];
        // Inside, straddling the front, straddling the end; free before and after; a shorter one fits.
        assert_eq!(cut(&tokens, "<s>a<s>b<s>", true, &[3..8]), ["#1", "a<s>b", "#1"]);
        assert_eq!(cut(&tokens, "<s>", true, &[2..9]), ["<s>"]);
        assert_eq!(cut(&tokens, "<s>", true, &[0..1]), ["<s>"]);
        assert_eq!(cut(&tokens, "<s>>", true, &[3..4]), ["#1", ">"]);
        assert_eq!(cut(&tokens, "<s><s>", true, &[0..1, 3..4]), ["<s><s>"]);
    }

    #[test]
    fn strips_take_blanks() {
        let mut token = Added::special(1, "<m>");
        (token.lstrip, token.rstrip) = (true, true);
        assert_eq!(cut(&[token], "a \u{3000}<m>  <m> \n b", true, &[]), ["a", "#1", "#1", "b"]);
    }
}

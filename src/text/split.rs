//! Splitting text into the words that byte-pair merges never cross.
//!
//! The patterns are those of the published tokenizers, walked by hand. The regular expressions of the
//! `tokenizers` crate backtrack: on a long run of blanks `\s+(?!\S)` passes the engine's limit, the
//! error is dropped there, and the rest of the text silently stays one word. The walk here looks at
//! each character at most three times and uses no stack, whatever the text.

use std::sync::LazyLock;
use tokenizers::utils::SysRegex;

/// How a text is cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// GPT-2:
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// Each numeric character alone, what is between as GPT-2 (SmolLM).
    Gpt2Digits,
    /// Qwen2 (`digits` 1) and Llama 3 (`digits` 3): `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+`
    /// `|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
    Modern {
        /// Most numeric characters in one word.
        digits: usize,
    },
}

/// Llama 3's pattern as tokenizer.json files spell it.
pub const LLAMA3_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Qwen2's pattern as tokenizer.json files spell it.
pub const QWEN2_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

impl Split {
    /// Calls `word` with each word of `text` in order; together they are the whole text. Stops at the
    /// first error.
    pub fn words<E>(self, text: &str, word: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        match self {
            Split::Gpt2 => walk(text, gpt2_word, word),
            Split::Gpt2Digits => {
                let mut start = 0;
                for (at, digit) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                    walk(&text[start..at], gpt2_word, word)?;
                    start = at + digit.len_utf8();
                    word(&text[at..start])?;
                }
                walk(&text[start..], gpt2_word, word)
            }
            Split::Modern { digits } => walk(text, |rest| modern_word(rest, digits), word),
        }
    }
}

/// Cuts words off the front until nothing is left. `length` gives the first word's bytes.
fn walk<E>(
    mut text: &str,
    length: impl Fn(&str) -> usize,
    word: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    while !text.is_empty() {
        let (first, rest) = text.split_at(length(text));
        word(first)?;
        text = rest;
    }
    Ok(())
}

/// Bytes of the first word under GPT-2's pattern; `text` is not empty.
fn gpt2_word(text: &str) -> usize {
    if let Some(length) = contraction(text, false) {
        return length;
    }
    let blank = usize::from(text.starts_with(' '));
    match class_at(text, blank) {
        Some(Class::Space) | None => space_word(text),
        Some(class) => blank + run(&text[blank..], |c| class_of(c) == class),
    }
}

/// Bytes of the first word under the Qwen2 and Llama 3 patterns; `text` is not empty.
fn modern_word(text: &str, digits: usize) -> usize {
    if let Some(length) = contraction(text, true) {
        return length;
    }
    let Some(first) = text.chars().next() else { return 0 };
    let letter = |c| class_of(c) == Class::Letter;
    let other = |c| class_of(c) == Class::Other;
    let newline = |c| c == '\r' || c == '\n';
    let width = first.len_utf8();
    match class_of(first) {
        Class::Letter => return run(text, letter),
        Class::Number => {
            return text
                .chars()
                .take(digits)
                .take_while(|&c| class_of(c) == Class::Number)
                .map(char::len_utf8)
                .sum();
        }
        _ if !newline(first) && class_at(text, width) == Some(Class::Letter) => {
            return width + run(&text[width..], letter);
        }
        _ => {}
    }
    let blank = usize::from(first == ' ');
    if class_at(text, blank) == Some(Class::Other) {
        let length = blank + run(&text[blank..], other);
        return length + run(&text[length..], newline);
    }
    let blanks = &text[..run(text, |c| class_of(c) == Class::Space)];
    match blanks.rfind(newline) {
        Some(last) => last + 1,
        None => space_word(text),
    }
}

/// `\s+(?!\S)|\s+`: a run of blanks, less its last one where a word follows that may take it.
fn space_word(text: &str) -> usize {
    let blanks = run(text, |c| class_of(c) == Class::Space);
    if blanks == text.len() {
        return blanks;
    }
    let last = text[..blanks].chars().next_back().map_or(0, char::len_utf8);
    if last < blanks { blanks - last } else { blanks.max(1) }
}

/// Bytes of an English contraction at the front. Without case, `ſ` (U+017F) is an `s` as in Unicode's
/// case folding.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let fold = |c: char| match c {
        'ſ' if any_case => 's',
        c if any_case => c.to_ascii_lowercase(),
        c => c,
    };
    let mut chars = rest.chars();
    let first = chars.next()?;
    let length = match (fold(first), chars.next().map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => first.len_utf8(),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 2,
        _ => return None,
    };
    Some(1 + length)
}

/// Bytes of the longest front part whose characters all satisfy `wanted`.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Other = 0,
    Letter = 1,
    Number = 2,
    Space = 3,
}

fn class_at(text: &str, at: usize) -> Option<Class> {
    text.get(at..)?.chars().next().map(class_of)
}

/// Two bits for each code point. The letters and numbers are read off the regular expressions of the
/// `tokenizers` crate, so that both follow one version of Unicode (`char::is_alphabetic` is a wider
/// class than `\p{L}`).
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0u8; (char::MAX as usize + 1) / 4];
    let mut set = |c: char, class: Class| table[c as usize / 4] |= (class as u8) << (c as usize % 4 * 2);
    let all: String = (char::MIN..=char::MAX).collect();
    for (pattern, class) in [(r"\p{L}+", Class::Letter), (r"\p{N}+", Class::Number), (r"\s+", Class::Space)] {
        let Ok(regex) = SysRegex::new(pattern) else { continue };
        for (start, end) in regex.find_iter(&all) {
            all[start..end].chars().for_each(|c| set(c, class));
        }
    }
    table
});

fn class_of(c: char) -> Class {
    match CLASSES.get(c as usize / 4).map_or(0, |four| four >> (c as usize % 4 * 2) & 3) {
        1 => Class::Letter,
        2 => Class::Number,
        3 => Class::Space,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn words(split: Split, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        split
            .words(text, &mut |w| {
                all.push(w.to_string());
                Ok::<_, ()>(())
            })
            .unwrap();
        all
    }

    fn by_regex(regex: &SysRegex, text: &str) -> Vec<String> {
        regex.find_iter(text).map(|(s, e)| text[s..e].to_string()).collect()
    }

    static REGEXES: LazyLock<[(Split, SysRegex); 3]> = LazyLock::new(|| {
        [
            (Split::Gpt2, SysRegex::new(GPT2_PATTERN).unwrap()),
            (Split::Modern { digits: 1 }, SysRegex::new(QWEN2_PATTERN).unwrap()),
            (Split::Modern { digits: 3 }, SysRegex::new(LLAMA3_PATTERN).unwrap()),
        ]
    });

    /// Characters at which the patterns' branches part.
    fn tricky() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            " ", "  ", "\t", "\n", "\r\n", "\u{a0}", "\u{3000}", "\u{85}", "\u{1c}", "'s", "'S", "'ſ", "'re",
            "'LL", "'l", "'", "a", "B", "é", "e\u{301}", "中文", "1", "23", "4567", "Ⅷ", "٣", "½", "!", "，",
            "🙂", "_", "Ⓐ", "\u{200d}", "ـ", "ᾅ", "\0",
        ]);
        prop::collection::vec(pieces, 0..12).prop_map(|v| v.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
        #[test]
        fn equals_the_regular_expressions(text in prop_oneof![tricky(), any::<String>()]) {
            for (split, regex) in REGEXES.iter() {
                prop_assert_eq!(words(*split, &text), by_regex(regex, &text), "{:?}", split);
            }
        }

        #[test]
        fn digits_stand_alone(text in tricky()) {
            let got = words(Split::Gpt2Digits, &text);
            prop_assert_eq!(got.concat(), text);
            prop_assert!(got.iter().all(|w| w.chars().count() == 1 || !w.contains(char::is_numeric)));
        }
    }

    #[test]
    fn classes_lie_within_those_of_the_standard_library() {
        // Which may know a newer version of Unicode, and whose letters include some marks.
        for c in char::MIN..=char::MAX {
            let class = class_of(c);
            assert_eq!(class == Class::Space, c.is_whitespace(), "{c:?}");
            assert!(class != Class::Number || c.is_numeric(), "{c:?}");
            assert!(class != Class::Letter || c.is_alphabetic(), "{c:?}");
        }
        for (c, class) in
            [('中', Class::Letter), ('Ⅷ', Class::Number), ('Ⓐ', Class::Other), ('\u{301}', Class::Other)]
        {
            assert_eq!(class_of(c), class, "{c:?}");
        }
    }

    #[test]
    fn long_runs_take_linear_time_on_a_small_stack() {
        let run = |split: Split, c: char| {
            let text: String = std::iter::repeat_n(c, (1 << 20) / c.len_utf8()).collect();
            let start = std::time::Instant::now();
            let mut bytes = 0;
            let mut count = |word: &str| {
                bytes += word.len();
                Ok::<_, ()>(())
            };
            split.words(&text, &mut count).unwrap();
            assert_eq!(bytes, text.len());
            start.elapsed()
        };
        let all = move || {
            for split in
                [Split::Gpt2, Split::Gpt2Digits, Split::Modern { digits: 1 }, Split::Modern { digits: 3 }]
            {
                for c in
                    ['a', ' ', '\n', '\t', '\r', '中', '!', '5', '\'', '\0', '🙂', '\u{3000}', '\u{301}', 's']
                {
                    let mib = run(split, c);
                    // 10 ms where the machine is idle; a quadratic walk takes minutes.
                    assert!(mib.as_secs() < 5, "{split:?} {c:?}: {mib:?}");
                }
            }
        };
        LazyLock::force(&CLASSES);
        std::thread::Builder::new().stack_size(64 << 10).spawn(all).unwrap().join().unwrap();
    }
}

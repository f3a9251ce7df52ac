//! JSON schemas, regular expressions and grammars: refused, or a text can be made that fits, token by token. The first
//! byte says what the rest is; the text is chosen by the bytes of it.
#![no_main]

use aquila::text::constraint::{Constraint, Ends, Grammars, Kind};
use aquila::text::{Tokenizer, stop_ids};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const SPECIAL: &str = r#"{"id":256,"content":"</s>","special":true}, {"id":257,"content":"<|im_end|>","special":true}"#;

/// All bytes, and two special tokens.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let (mut moved, mut vocab) = (255, Vec::new());
    for byte in 0..256u32 {
        moved += u32::from(!plain(byte));
        let symbol = char::from_u32(if plain(byte) { byte } else { moved }).expect("a character");
        vocab.push(format!("{:?}:{byte}", symbol.to_string()));
    }
    let json = format!(
        r#"{{"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}},"added_tokens":[{SPECIAL}],
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false}},"decoder":{{"type":"ByteLevel"}}}}"#,
        vocab.join(",")
    );
    Tokenizer::from_json("bytes", json.as_bytes(), &[]).expect("a valid tokenizer")
});
static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(&TOKENIZER, TOKENIZER.vocab()).expect("a small vocabulary"));

/// The parser's crate panics on some input and catches it. libFuzzer's own hook would end the process before that; a
/// panic that is not caught still does.
fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|info| {
        let file = info.location().map_or("", |place| place.file());
        if !["/llguidance-", "/derivre-", "/toktrie-"].iter().any(|name| file.contains(name)) {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let kind = [Kind::JsonSchema, Kind::Regex, Kind::Lark][kind as usize % 3];
    let constraint = Constraint::new(kind, String::from_utf8_lossy(rest));
    let ends = Ends { eos: stop_ids(&TOKENIZER, &[], &[]), stops: Vec::new() };
    let Ok(mut matcher) = GRAMMARS.compile(&constraint, ends.clone()) else { return };
    for &choice in rest.iter().cycle().take(24.min(24 * rest.len())) {
        let is_allowed = |id: u32| matcher.allowed()[id as usize / 32] >> (id % 32) & 1 == 1;
        let allowed: Vec<u32> = (0..TOKENIZER.vocab() as u32).filter(|&id| is_allowed(id)).collect();
        let tokens: Vec<u32> = allowed.iter().copied().filter(|id| !ends.eos.contains(id)).collect();
        assert_eq!(allowed.len() > tokens.len(), matcher.is_complete());
        assert_eq!(tokens.is_empty(), matcher.has_ended());
        let Some(&token) = tokens.get(choice as usize % tokens.len().max(1)) else { return };
        assert_eq!(matcher.count_allowed(&[token]), 1);
        if matcher.advance(token).is_err() {
            return; // a limit of the parser
        }
    }
});

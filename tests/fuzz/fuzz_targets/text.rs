//! Tokenizer files, chat templates and GGUF vocabularies: refused or usable, and bounded. The first byte says what the
//! rest is.
#![no_main]

use aquila::loading::{file::SourceFile, gguf};
use aquila::text::{ChatTemplate, EncodeOptions, GgufVocab, TemplateSources, Tokenizer};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const SMALL: &[u8] = br#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},
    "added_tokens":[{"id":3,"content":"</s>","special":true}],
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}"#;
static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_json("small", SMALL, &[]).expect("a valid tokenizer"));
const MESSAGES: &str = r#"[{"role":"system","content":"s"},{"role":"user","content":"a </s> b"}]"#;

fn use_it(tokenizer: &Tokenizer) {
    let options = EncodeOptions { add_special: true, parse_special: true };
    let ids = tokenizer.encode("ab a  </s> <s> 中\n12 'll x", options).expect("ids of a short text");
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab()));
    let _ = tokenizer.decode(&ids, true);
    let _ = tokenizer.encode_prompt("</s>", options);
}

fn render(template: &ChatTemplate) {
    if let Ok(rendered) = template.render(MESSAGES, Some("[{\"a\":1}]"), true) {
        assert!(rendered.literal.iter().all(|range| rendered.text.get(range.clone()).is_some()));
        let _ = TOKENIZER.encode_rendered(&rendered);
    }
}

/// The `tokenizers` crate panics on some post-processors, which the reader catches and refuses. libFuzzer's own hook
/// would end the process before that; a panic that is not caught still does.
fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|info| {
        if !info.location().is_some_and(|place| place.file().contains("/tokenizers-")) {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => {
            if let Ok(tokenizer) = Tokenizer::from_json("input", rest, &[]) {
                use_it(&tokenizer);
            }
            let _ = Tokenizer::from_json("small", SMALL, &[("tokenizer_config.json", rest)]);
        }
        1 => {
            if let Ok(template) = ChatTemplate::jinja(&text, &TOKENIZER) {
                render(&template);
            }
        }
        2 => {
            let sources = TemplateSources { tokenizer_config: Some(&text), ..TemplateSources::default() };
            if let Ok(Some(template)) = ChatTemplate::pick(&sources, &TOKENIZER) {
                render(&template);
            }
        }
        _ => {
            let input = [b"GGUF\x03\0\0\0", rest].concat();
            let Ok((gguf, _)) = gguf::read(&SourceFile::from_bytes("input", input)) else { return };
            let Ok(Some(vocab)) = GgufVocab::read(&gguf) else { return };
            if let Ok(tokenizer) = Tokenizer::from_gguf(&vocab) {
                use_it(&tokenizer);
            }
        }
    }
});

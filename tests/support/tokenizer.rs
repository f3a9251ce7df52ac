//! A byte-level BPE vocabulary in the layout of Aquila's: id 0 is `<|endoftext|>`, 1 to 256 are the
//! byte symbols in GPT-2's order, then the merges in rank order, then the eight added tokens.

use super::TinyTokenizer;
use super::formats::{GgufValue, GgufWriter};
use serde_json::{Value, json};
use std::path::Path;

/// Merges by rank, in byte symbols (`Ġ` is the space, `ä½ł` is 你).
pub const MERGES: [(&str, &str); 16] = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("Ġ", "w"),
    ("o", "r"),
    ("l", "d"),
    ("Ġw", "or"),
    ("Ġwor", "ld"),
    ("t", "h"),
    ("th", "e"),
    ("ä", "½"),
    ("ä½", "ł"),
    ("å", "¥"),
    ("å¥", "½"),
    ("ä½ł", "å¥½"),
];

/// The eight added tokens of Aquila, in the order of their ids.
pub const ADDED: [&str; 8] =
    ["<|startofpiece|>", "<|endofpiece|>", "<|LDWANG|>", "[MASK]", "[gMASK]", "[sMASK]", "[CLS]", "</s>"];

/// Tokens before the added ones.
pub const BASE: usize = 1 + 256 + MERGES.len();
/// All tokens.
pub const VOCAB: usize = BASE + ADDED.len();
/// The id of `[CLS]`, the beginning of a sequence.
pub const CLS: usize = BASE + 6;
/// The id of `</s>`, the end of a sequence.
pub const EOS: usize = BASE + 7;

/// The 256 byte symbols of GPT-2: printable bytes stand for themselves, the others for U+0100 and up.
pub fn byte_symbols() -> Vec<(u8, char)> {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut out: Vec<(u8, char)> =
        (0..=255u8).filter(|&b| printable(b)).map(|b| (b, char::from(b))).collect();
    let others = (0..=255u8).filter(|&b| !printable(b));
    out.extend(others.zip(256u32..).map(|(b, c)| (b, char::from_u32(c).expect("a letter"))));
    out
}

/// The tokens by id, the added ones last.
pub fn tokens() -> Vec<String> {
    let mut out = vec!["<|endoftext|>".to_string()];
    out.extend(byte_symbols().into_iter().map(|(_, c)| c.to_string()));
    out.extend(MERGES.iter().map(|(a, b)| format!("{a}{b}")));
    out.extend(ADDED.iter().map(|t| t.to_string()));
    out
}

/// vocab.json: the tokens before the added ones.
pub fn vocab() -> Value {
    tokens().into_iter().take(BASE).enumerate().map(|(id, token)| (token, json!(id))).collect()
}

/// merges.txt.
pub fn merges_text() -> String {
    let lines = MERGES.iter().map(|(a, b)| format!("{a} {b}\n"));
    format!("#version: 0.2\n{}", lines.collect::<String>())
}

/// tokenizer.json: no normaliser, the ByteLevel splitter, no post-processor beyond ByteLevel.
pub fn tokenizer_json() -> Value {
    let added = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mut specials = vec![added(0, "<|endoftext|>")];
    specials.extend(ADDED.iter().enumerate().map(|(i, t)| added(BASE + i, t)));
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": specials, "normalizer": null, "pre_tokenizer": level,
        "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": false, "vocab": vocab(),
                  "merges": MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()}
    })
}

/// Writes the files of `kind`.
pub fn write_files(dir: &Path, kind: TinyTokenizer) {
    let write = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    let names = json!({"bos_token": "[CLS]", "eos_token": "</s>", "unk_token": "<|endoftext|>",
                       "pad_token": "<|endoftext|>"});
    if kind == TinyTokenizer::None {
        return;
    }
    if kind == TinyTokenizer::FlagAi {
        write("vocab.json", vocab().to_string());
        write("merges.txt", merges_text());
        write("special_tokens.txt", ADDED.join("\n") + "\n");
        return;
    }
    let mut config = names.clone();
    config["add_prefix_space"] = json!(false);
    config["tokenizer_class"] = json!("GPT2Tokenizer");
    write("tokenizer_config.json", config.to_string());
    if kind == TinyTokenizer::Json {
        write("tokenizer.json", tokenizer_json().to_string());
    } else {
        write("vocab.json", vocab().to_string());
        write("merges.txt", merges_text());
        write("special_tokens_map.json", names.to_string());
        let added: Value = ADDED.iter().enumerate().map(|(i, t)| (t.to_string(), json!(BASE + i))).collect();
        write("added_tokens.json", added.to_string());
    }
}

/// Adds the vocabulary to a GGUF file, filled up to `rows` with unused tokens.
pub fn add_to_gguf(gguf: &mut GgufWriter, rows: usize) {
    let mut all = tokens();
    let mut kinds = vec![1; BASE]; // normal
    kinds.resize(VOCAB, 3); // control
    kinds.resize(rows, 5); // unused
    all.extend((VOCAB..rows).map(|id| format!("[PAD{id}]")));
    gguf.set("tokenizer.ggml.model", GgufValue::Str("gpt2".into()));
    gguf.set("tokenizer.ggml.pre", GgufValue::Str("gpt-2".into()));
    gguf.set("tokenizer.ggml.tokens", GgufValue::Strings(all));
    gguf.set("tokenizer.ggml.token_type", GgufValue::I32s(kinds));
    let merges = MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect();
    gguf.set("tokenizer.ggml.merges", GgufValue::Strings(merges));
    gguf.set("tokenizer.ggml.bos_token_id", GgufValue::U32(CLS as u32));
    gguf.set("tokenizer.ggml.eos_token_id", GgufValue::U32(EOS as u32));
    gguf.set("tokenizer.ggml.add_bos_token", GgufValue::Bool(false));
}

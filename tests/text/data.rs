//! Where real vocabularies are, and small made-up ones.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A directory of real data, or a line that says what is skipped.
pub fn directory(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("AQUILA_TEST_DATA").map(|root| Path::new(&root).join(name));
    let found = found.filter(|dir| dir.join("tokenizer.json").exists() || dir.join("vocab.json").exists());
    if found.is_none() {
        println!("skipped: no {name}/ in $AQUILA_TEST_DATA");
    }
    found
}

/// A file of `tests/golden`.
pub fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// An empty directory of this process that is removed again.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aquila-text-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.0.join(name), text).unwrap();
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Characters of the byte alphabet by byte: printable Latin-1 stands for itself, the rest follows from U+0100.
pub fn alphabet() -> Vec<String> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut moved = 255;
    let mut spell = |b: u32| {
        let code = if plain(b) {
            b
        } else {
            moved += 1;
            moved
        };
        char::from_u32(code).unwrap().to_string()
    };
    (0..256).map(&mut spell).collect()
}

/// A small tokenizer.json: the byte alphabet, a few merges, three special tokens and a user's one.
pub fn small_json() -> Value {
    let merges =
        [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("a", "a"), ("aa", "aa")];
    let mut texts = alphabet();
    texts.extend(merges.iter().map(|(l, r)| format!("{l}{r}")));
    let count = texts.len();
    let vocab: serde_json::Map<String, Value> =
        texts.into_iter().zip((0..).map(|i: usize| json!(i))).collect();
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "added_tokens": [
            added(count, "<s>", true), added(count + 1, "</s>", true), added(count + 2, "<|im_end|>", true),
            added(count + 3, "<user>", false),
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [count], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [count + 1], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges.map(|(l, r)| format!("{l} {r}"))},
    })
}

//! Loading a tokenizer and using it starts no thread, and a chat template leaves none. Alone in its process, so that the threads of other
//! tests are not counted.

use aquila::text::{ChatTemplate, EncodeOptions, Tokenizer};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn tokenizing_starts_no_thread() {
    let json = r#"{"added_tokens": [{"id": 3, "content": "</s>", "special": true}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "ByteLevel",
            "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "ByteLevel"}, "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
    let before = threads();
    let tokenizer = Tokenizer::from_json("t", json.as_bytes(), &[]).unwrap();
    let text = "ab ba! </s>".repeat(100_000);
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true }).unwrap();
    assert_eq!(tokenizer.decode(&ids[..4], true), "abba</s>");
    let template = ChatTemplate::jinja("{{ messages[0].content }}", &tokenizer).unwrap();
    let rendered = template.render(r#"[{"role": "user", "content": "ab"}]"#, None, true).unwrap();
    assert_eq!(tokenizer.encode_rendered(&rendered).unwrap(), [2]);
    assert_eq!(threads(), before);
}

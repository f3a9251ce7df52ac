//! Ids and texts of real vocabularies.

use crate::data::{Scratch, directory, golden};
use aquila::text::{EncodeOptions, GgufVocab, TextStream, Tokenizer, stop_ids};
use serde_json::Value;
use std::path::Path;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };
const LITERAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Texts and ids in both directions, without anything added.
fn check_vectors(tokenizer: &Tokenizer, vectors: &Value) {
    let cases = vectors["encode"].as_array().unwrap();
    assert!(cases.len() >= 100);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, PLAIN).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        let normal = tokenizer.decode(&found, true);
        if case["roundtrip"] == true {
            assert_eq!(normal, text);
        }
        let streamed = stream(tokenizer, &found);
        assert_eq!(streamed, normal, "{text:?}");
    }
}

/// Text as it would leave, piece by piece.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let (mut stream, mut text) = (TextStream::default(), String::new());
    for &id in ids {
        stream.push(tokenizer.token_bytes(id), &mut text);
        assert!(stream.held() <= 3);
    }
    stream.finish(&mut text);
    text
}

/// The vocabulary of a directory as a GGUF file would have it: its eight added tokens are control.
fn as_gguf(dir: &Path, pre: Option<&str>) -> GgufVocab {
    let file: Value = serde_json::from_slice(&std::fs::read(dir.join("tokenizer.json")).unwrap()).unwrap();
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (text, id) in file["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), text.clone(), 1));
    }
    for added in file["added_tokens"].as_array().unwrap() {
        let (id, text) = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap().to_string());
        // The published GGUF of the Aquila vocabulary calls its token 0 a normal one.
        let kind = if text == "<|endoftext|>" && pre.is_none() { 1 } else { 3 };
        tokens.retain(|(other, ..)| *other != id);
        tokens.push((id, text, kind));
    }
    tokens.sort();
    GgufVocab {
        place: "model.gguf".into(),
        model: "gpt2".into(),
        pre: pre.map(String::from),
        token_types: tokens.iter().map(|t| t.2).collect(),
        tokens: tokens.into_iter().map(|t| t.1).collect(),
        merges: file["model"]["merges"].as_array().unwrap().iter().map(merge_text).collect(),
        bos: Some(0),
        eos: Some(0),
        ..GgufVocab::default()
    }
}

fn merge_text(merge: &Value) -> String {
    match merge {
        Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        other => other.as_str().unwrap().to_string(),
    }
}

#[test]
fn aquila_from_each_kind_of_file() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let vectors = golden("aquila-tokens.json");
    let whole = Tokenizer::open(&dir).unwrap();
    check_vectors(&whole, &vectors);
    for case in vectors["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(whole.encode(text, FULL).unwrap(), ids(&case["ids_with_special"]), "{text:?}");
    }
    // Only the two files that BAAI's first repository had beside tokenizer.json.
    let scratch = Scratch::new("vocab-merges");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(dir.join(name), scratch.0.join(name)).unwrap();
    }
    let bare = Tokenizer::open(&scratch.0).unwrap();
    let gguf = Tokenizer::from_gguf(&as_gguf(&dir, None)).unwrap();
    for tokenizer in [&bare, &gguf] {
        check_vectors(tokenizer, &vectors);
        // GPT2Tokenizer adds nothing of its own; the file's post-processor would.
        assert_eq!(tokenizer.encode("a", FULL).unwrap(), [65]);
    }
    for tokenizer in [&whole, &bare, &gguf] {
        assert_eq!(
            (tokenizer.vocab(), tokenizer.bos(), tokenizer.eos()),
            (100_008, Some(100_006), Some(100_007))
        );
        assert!([0, 100_000, 100_003, 100_006, 100_007].iter().all(|&id| tokenizer.is_special(id)));
        assert!(!tokenizer.is_special(1) && !tokenizer.is_special(2) && !tokenizer.is_special(100_008));
        assert_eq!(tokenizer.token_id("</s>"), Some(100_007));
        assert_eq!(tokenizer.token_bytes(199), b"\n");
        assert_eq!(tokenizer.token_bytes(100_007), b"</s>");
        assert_eq!(tokenizer.token_bytes(1 << 30), b"");
    }
}

/// tokenizer_config.json of repositories from before September 2023 says `<|endoftext|>` for all roles.
#[test]
fn aquila_with_the_old_config_still_ends_at_its_true_end() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let scratch = Scratch::new("old-config");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(dir.join(name), scratch.0.join(name)).unwrap();
    }
    let old = r#"{"bos_token":"<|endoftext|>","eos_token":{"content":"<|endoftext|>"},"tokenizer_class":"GPT2Tokenizer"}"#;
    scratch.write("tokenizer_config.json", old);
    let tokenizer = Tokenizer::open(&scratch.0).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(100_006), Some(100_007)));
    check_vectors(&tokenizer, &golden("aquila-tokens.json"));
}

#[test]
fn aquila_prompts_and_special_text() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let text = "你好</s>";
    assert_eq!(tokenizer.encode(text, FULL).unwrap(), [100_006, 34_856, 100_007, 100_007]);
    assert_eq!(tokenizer.encode_prompt(text, FULL).unwrap(), [100_006, 34_856, 100_007]);
    assert_eq!(tokenizer.encode_prompt(text, PLAIN).unwrap(), [34_856, 100_007]);
    let literal = tokenizer.encode(text, LITERAL).unwrap();
    assert!(!literal.contains(&100_007));
    assert_eq!(tokenizer.decode(&literal, false), text);
    assert_eq!(tokenizer.decode(&[34_856, 100_007, 100_006], false), "你好");
    assert_eq!(tokenizer.decode(&[34_856, 100_007], true), text);
    // The whole prompt of the first chat model, from BAAI's conversation code.
    let chat = aquila::text::ChatTemplate::builtin("aquila-chat").unwrap();
    let rendered = chat.render(r#"[{"role":"user","content":"汽车EDR是什么"}]"#, None, true).unwrap();
    let expected = [
        33, 24768, 1788, 262, 26402, 3943, 323, 300, 25232, 17016, 24730, 14, 566, 24730, 8121, 17589, 12,
        13138, 12, 323, 60600, 17107, 318, 271, 3943, 699, 6850, 14, 8090, 42091, 26, 221, 2869, 4085, 50,
        5428, 8090, 12312, 10582, 26,
    ];
    assert_eq!(tokenizer.encode_rendered(&rendered).unwrap(), expected);
}

#[test]
fn aquila_decodes_and_streams() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&dir).unwrap();
    for case in golden("aquila-tokens.json")["decode"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        if let Some(hex) = case["bytes_hex"].as_str() {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
            assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), hex);
            let (mut stream, mut text) = (TextStream::default(), String::new());
            for (&id, piece) in ids.iter().zip(case["stream"].as_array().into_iter().flatten()) {
                let before = text.len();
                stream.push(tokenizer.token_bytes(id), &mut text);
                assert_eq!(&text[before..], piece.as_str().unwrap());
            }
        }
        if let Some(text) = case["hf_decode"].as_str() {
            assert_eq!(tokenizer.decode(&ids, true), text);
            assert_eq!(stream(&tokenizer, &ids), text);
        }
    }
}

/// Every token alone, and many random pairs and triples: what streams out is what decodes at once.
#[test]
fn every_token_streams() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let count = tokenizer.vocab() as u32;
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % count
    };
    for id in 0..count {
        assert_eq!(stream(&tokenizer, &[id]), tokenizer.decode(&[id], true));
        let three = [id, random(), random()];
        assert_eq!(stream(&tokenizer, &three), tokenizer.decode(&three, true), "{three:?}");
    }
    assert!(tokenizer.longest_token() >= (0..count).map(|id| tokenizer.token_bytes(id).len()).max().unwrap());
}

fn check_decode(tokenizer: &Tokenizer, vectors: &Value) {
    for case in vectors["decode"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.decode(&ids, false), case["text"].as_str().unwrap(), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), case["with_special"].as_str().unwrap(), "{ids:?}");
    }
}

#[test]
fn smollm2_from_each_kind_of_file() {
    let Some(dir) = directory("smollm2-hf") else { return };
    let vectors = golden("smollm2-tokens.json");
    let mut gguf = as_gguf(&dir, Some("smollm"));
    (gguf.bos, gguf.eos) = (Some(1), Some(2));
    for tokenizer in [Tokenizer::open(&dir).unwrap(), Tokenizer::from_gguf(&gguf).unwrap()] {
        check_vectors(&tokenizer, &vectors);
        check_decode(&tokenizer, &vectors);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert_eq!(tokenizer.encode_prompt("a", FULL).unwrap(), tokenizer.encode("a", PLAIN).unwrap());
    }
    gguf.add_bos = Some(true);
    gguf.add_eos = Some(true);
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let a = tokenizer.encode("a", PLAIN).unwrap()[0];
    assert_eq!(tokenizer.encode("a", FULL).unwrap(), [1, a, 2]);
    assert_eq!(tokenizer.encode_prompt("a", FULL).unwrap(), [1, a]);
}

#[test]
fn other_families() {
    for (name, pre) in [("qwen3", "qwen2"), ("llama3", "llama-bpe")] {
        let Some(dir) = directory(name) else { continue };
        let vectors = golden(&format!("{name}-tokens.json"));
        let gguf = as_gguf(&dir, Some(pre));
        for tokenizer in [Tokenizer::open(&dir).unwrap(), Tokenizer::from_gguf(&gguf).unwrap()] {
            check_vectors(&tokenizer, &vectors);
        }
        check_decode(&Tokenizer::open(&dir).unwrap(), &vectors);
    }
}

#[test]
fn stop_ids_of_aquila_and_smollm2() {
    if let Some(dir) = directory("aquila-tokenizer") {
        let tokenizer = Tokenizer::open(&dir).unwrap();
        // config.json of Aquila-7B says 2, which is a quotation mark.
        assert_eq!(stop_ids(&tokenizer, &[], &[2]), [100_007, 0]);
        assert_eq!(stop_ids(&tokenizer, &[2], &[100_007]), [100_007, 0]);
        assert_eq!(stop_ids(&tokenizer, &[100_001], &[1]), [100_001, 100_007, 0]);
    }
    if let Some(dir) = directory("smollm2-hf") {
        let tokenizer = Tokenizer::open(&dir).unwrap();
        assert_eq!(stop_ids(&tokenizer, &[2], &[2]), [2]);
        assert_eq!(stop_ids(&tokenizer, &[], &[500]), [2]);
        assert_eq!(stop_ids(&tokenizer, &[0, 9_999_999], &[2]), [0, 2]);
    }
}

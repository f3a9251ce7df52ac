//! Broken tokenizer files: each has its status and a message that names the item.

use crate::data::{Scratch, small_json};
use aquila::Status;
use aquila::text::{EncodeOptions, GgufVocab, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn read(json: &Value) -> aquila::Result<Tokenizer> {
    Tokenizer::from_json("tokenizer.json", json.to_string().as_bytes(), &[])
}

#[test]
fn the_small_file_works() {
    let tokenizer = read(&small_json()).unwrap();
    let hello = tokenizer.token_id("hello").unwrap();
    let ids = tokenizer.encode("hello</s>hello<user>", FULL).unwrap();
    assert_eq!(ids, [263, hello, 264, hello, 266, 264]);
    assert_eq!(tokenizer.decode(&ids, false), "hellohello<user>");
    assert_eq!(tokenizer.vocab(), 267);
}

#[test]
fn each_fault_is_named() {
    type Fault = fn(&mut Value);
    let faults: [(&str, Status, &str, Fault); 26] = [
        ("duplicate id", Status::Format, "257", |f| f["model"]["vocab"]["new"] = json!(257)),
        ("hole", Status::Format, "token id 256", |f| {
            f["model"]["vocab"].as_object_mut().unwrap().shift_remove("he");
            f["model"]["merges"].as_array_mut().unwrap().drain(..5);
            // Texts in the vocabulary and among the added tokens count twice.
            f["model"]["vocab"]["<s>"] = json!(263);
        }),
        ("large id", Status::Format, "1000000", |f| f["model"]["vocab"]["new"] = json!(1_000_000)),
        ("negative id", Status::Format, "\"new\"", |f| f["model"]["vocab"]["new"] = json!(-1)),
        ("id of 2^40", Status::Format, "\"new\"", |f| f["model"]["vocab"]["new"] = json!(1u64 << 40)),
        ("id no number", Status::Format, "\"new\"", |f| f["model"]["vocab"]["new"] = json!("x")),
        ("empty vocabulary", Status::Format, "token id 266", |f| f["model"]["vocab"] = json!({})),
        ("no vocabulary", Status::Format, "vocab", |f| f["model"] = json!({"type": "BPE", "merges": []})),
        ("no model", Status::Format, "null", |f| f["model"] = Value::Null),
        ("merge of unknown", Status::Format, "\"zz\"", |f| f["model"]["merges"][0] = json!("zz a")),
        ("unknown product", Status::Format, "\"ab\"", |f| f["model"]["merges"][0] = json!("a b")),
        ("merge of one", Status::Format, "\"a\"", |f| f["model"]["merges"][0] = json!("a")),
        ("merge of three", Status::Format, "more than two", |f| {
            f["model"]["merges"][0] = json!(["a", "a", "a"])
        }),
        ("merge of nothing", Status::Format, "merge", |f| f["model"]["merges"][0] = json!(["", "a"])),
        ("empty added token", Status::Format, "264", |f| f["added_tokens"][1]["content"] = json!("")),
        ("added token twice", Status::Format, "<s>", |f| f["added_tokens"][1]["content"] = json!("<s>")),
        ("added id taken", Status::Format, "\"</s>\"", |f| f["added_tokens"][1]["id"] = json!(5)),
        ("added id huge", Status::Format, "4294967295", |f| f["added_tokens"][1]["id"] = json!(u32::MAX)),
        ("added id missing", Status::Format, "without an id", |f| f["added_tokens"][1]["id"] = Value::Null),
        ("added token long", Status::Format, "5000 bytes", |f| {
            f["added_tokens"][1]["content"] = json!("x".repeat(5000))
        }),
        ("post id out of range", Status::Format, "id 99999", |f| {
            f["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([99_999])
        }),
        ("post-processor unknown", Status::Format, "post_processor", |f| {
            f["post_processor"] = json!({"type": "Magic"})
        }),
        ("unknown unk", Status::Format, "nothere", |f| f["model"]["unk_token"] = json!("nothere")),
        ("Unigram", Status::Unsupported, "Unigram", |f| f["model"]["type"] = json!("Unigram")),
        ("decoder", Status::Unsupported, "decoder", |f| f["decoder"] = json!({"type": "Metaspace"})),
        ("pre-tokenizer", Status::Unsupported, "Whitespace", |f| {
            f["pre_tokenizer"] = json!({"type": "Whitespace"})
        }),
    ];
    for (name, status, part, fault) in faults {
        let mut file = small_json();
        fault(&mut file);
        let error = read(&file).expect_err(name);
        assert_eq!(error.status, status, "{name}: {error}");
        assert!(error.message.starts_with("tokenizer.json: "), "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[test]
fn bytes_that_are_no_json() {
    let good = small_json().to_string();
    let deep = "[".repeat(100_000);
    let twice = good.replacen("\"he\":256", "\"he\":256,\"he\":257", 1);
    for bad in ["", "{", "nonsense", "\u{feff}{}", deep.as_str(), &good[..good.len() / 2], twice.as_str()] {
        let error = Tokenizer::from_json("t.json", bad.as_bytes(), &[]).unwrap_err();
        assert_eq!(error.status, Status::Format, "{error}");
    }
    let mut bytes = good.into_bytes();
    let at = bytes.windows(5).position(|w| w == b"hello").unwrap();
    bytes[at] = 0xFF;
    assert_eq!(Tokenizer::from_json("t.json", &bytes, &[]).unwrap_err().status, Status::Format);
}

#[test]
fn directories() {
    let scratch = Scratch::new("directories");
    let open = || Tokenizer::open(&scratch.0).unwrap_err();
    assert_eq!(open().status, Status::NotFound);
    assert_eq!(Tokenizer::open(&scratch.0.join("none.json")).unwrap_err().status, Status::NotFound);
    scratch.write("tokenizer.model", "x");
    assert_eq!(open().status, Status::Unsupported);
    scratch.write("vocab.json", r#"{"a": 0, "b": 1, "ab": 2}"#);
    let error = open();
    assert!(error.status == Status::NotFound && error.message.contains("merges.txt"), "{error}");
    scratch.write("merges.txt", "#version: 0.2\na b\na\n");
    let error = open();
    assert!(error.status == Status::Format && error.message.contains("line 3"), "{error}");
    scratch.write("merges.txt", b"a \xff\n");
    assert_eq!(open().status, Status::Format);
    scratch.write("merges.txt", "#version: 0.2\r\na b\r\n");
    let tokenizer = Tokenizer::open(&scratch.0).unwrap();
    assert_eq!(tokenizer.encode("abba", FULL).unwrap(), [2, 1, 0]);
    // A token that only has a role gets the next id, as in transformers.
    scratch.write("special_tokens_map.json", r#"{"eos_token": {"content": "<e>"}, "bos_token": "<b>"}"#);
    scratch.write("tokenizer_config.json", r#"{"add_bos_token": true}"#);
    let tokenizer = Tokenizer::open(&scratch.0).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), Some(4)));
    assert_eq!(tokenizer.encode("ab<e>", FULL).unwrap(), [3, 2, 4]);
    scratch.write("tokenizer_config.json", r#"{"tokenizer_class": "LlamaTokenizer"}"#);
    let error = open();
    assert!(error.status == Status::Unsupported && error.message.contains("LlamaTokenizer"), "{error}");
    scratch.write("tokenizer_config.json", "{");
    let error = open();
    assert!(error.status == Status::Format && error.message.contains("tokenizer_config.json"), "{error}");
    std::fs::create_dir(scratch.0.join("tokenizer.json")).unwrap();
    let error = open();
    assert!(error.status == Status::Format && error.message.contains("a directory"), "{error}");
}

#[test]
fn a_pipe_does_not_hang() {
    let scratch = Scratch::new("pipe");
    scratch.write("vocab.json", r#"{"a": 0}"#).write("merges.txt", "");
    for name in ["special_tokens_map.json", "added_tokens.json", "merges.txt", "tokenizer.json"] {
        let path = scratch.0.join(name);
        let _ = std::fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Without a writer a careless open would wait for ever: in a thread of its own it can be given up.
        let (sender, receiver) = std::sync::mpsc::channel();
        let dir = scratch.0.clone();
        std::thread::spawn(move || sender.send(Tokenizer::open(&dir).unwrap_err()));
        let error = receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("the open hangs");
        assert!(error.status == Status::Format && error.message.contains("a pipe"), "{error}");
        assert!(error.message.contains(name), "{error}");
        std::fs::remove_file(&path).unwrap();
        scratch.write("merges.txt", "");
    }
}

fn small_gguf() -> GgufVocab {
    let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
    GgufVocab {
        place: "m.gguf".into(),
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: texts(&["<s>", "a", "b", "ab", "<pad>", "<u>"]),
        token_types: vec![3, 1, 1, 1, 5, 4],
        merges: texts(&["a b"]),
        bos: Some(0),
        add_bos: Some(true),
        ..GgufVocab::default()
    }
}

#[test]
fn gguf_metadata() {
    let tokenizer = Tokenizer::from_gguf(&small_gguf()).unwrap();
    assert_eq!(tokenizer.encode("ab<s>a<pad><u>", FULL).unwrap(), [0, 3, 0, 1, 1, 5]);
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(5) && tokenizer.token_bytes(4).is_empty());
    type Fault = fn(&mut GgufVocab);
    let faults: [(Status, &str, Fault); 9] = [
        (Status::Unsupported, "\"llama\"", |g| g.model = "llama".into()),
        (Status::Unsupported, "deepseek-llm", |g| g.pre = Some("deepseek-llm".into())),
        (Status::Unsupported, "pre", |g| g.pre = None),
        (Status::Format, "token_type", |g| g.token_types.truncate(2)),
        (Status::Format, "token_type[1]", |g| g.token_types[1] = 77),
        (Status::Format, "merges[0]", |g| g.merges[0] = "ab".into()),
        (Status::Format, "\"c\"", |g| g.merges[0] = "a c".into()),
        (Status::Format, "id 6", |g| g.bos = Some(6)),
        (Status::Format, "\"a\"", |g| g.tokens[2] = "a".into()),
    ];
    for (status, part, fault) in faults {
        let mut gguf = small_gguf();
        fault(&mut gguf);
        let error = Tokenizer::from_gguf(&gguf).unwrap_err();
        assert!(error.status == status && error.message.contains(part), "{error}");
        assert!(error.message.starts_with("m.gguf"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes changed, cut out or doubled: an error or a tokenizer that works, never a panic.
    #[test]
    fn damaged_files_are_refused_or_work(at in 0usize..6000, run in 1usize..40, byte: u8, how in 0..3) {
        let mut bytes = small_json().to_string().into_bytes();
        let at = at % bytes.len();
        let end = (at + run).min(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => drop(bytes.drain(at..end)),
            _ => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json("t", &bytes, &[]) {
            let ids = tokenizer.encode("hello </s> 中 aaaa", FULL).unwrap();
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab()));
        }
    }
}

//! Real chat templates, rendered as transformers renders them: seventy of the published ones, with system
//! messages, tools, calls, results, documents and further variables.

use crate::data::{golden, small_json};
use aquila::text::{Chat, ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// So many there were when this was written; fewer means that some are no longer found.
const TEMPLATES_FLOOR: usize = 70;
const TEXTS_FLOOR: usize = 2200;

/// The directory of templates in the cache, or a line that says what is skipped.
fn templates() -> Option<PathBuf> {
    let found = std::env::var_os("AQUILA_TEST_DATA").map(|root| Path::new(&root).join("templates"));
    if found.is_none() {
        println!("skipped: AQUILA_TEST_DATA is not set, so there are no real chat templates");
    }
    found
}

/// FNV-1a of 64 bits: these hashes meet differences, not attacks.
fn digest(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

#[test]
fn real_templates_render_as_in_transformers() {
    let Some(directory) = templates() else { return };
    let golden = golden("templates.json");
    let roles = br#"{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}"#;
    let json = small_json().to_string();
    let tokenizer = Tokenizer::from_json("t", json.as_bytes(), &[("tokenizer_config.json", roles)]).unwrap();
    let chats: Vec<Chat> = golden["chats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chat| Chat { now: golden["now"].as_u64(), ..Chat::parse(&chat.to_string()).unwrap() })
        .collect();
    let (mut compared, mut refused_by_both, mut wrong) = (0, 0, Vec::new());
    let templates = golden["templates"].as_object().unwrap();
    assert!(templates.len() >= TEMPLATES_FLOOR, "{}", templates.len());
    for (name, expected) in templates {
        let source = std::fs::read_to_string(directory.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(digest(&source), expected["source"], "{name} is another file");
        let template = ChatTemplate::jinja(&source, &tokenizer).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (number, chat) in chats.iter().enumerate() {
            let wanted = expected["texts"][number].as_str().unwrap();
            match (wanted, template.render_chat(chat, true)) {
                ("-", Err(_)) => refused_by_both += 1,
                ("-", Ok(_)) => wrong.push(format!("{name} {number}: transformers refuses")),
                (_, Err(error)) => wrong.push(format!("{name} {number}: {error}")),
                (hash, Ok(found)) if digest(&found.text) == hash => compared += 1,
                (_, Ok(found)) => {
                    show(name, number, &found.text);
                    wrong.push(format!("{name} {number}: another text"));
                }
            }
        }
    }
    println!("{compared} texts equal, {refused_by_both} refused by both, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= TEXTS_FLOOR, "{compared}");
}

/// With AQUILA_SHOW_TEXTS a directory: what was rendered, to compare with the output of
/// tests/oracle/real_templates.py.
fn show(name: &str, number: usize, text: &str) {
    if let Some(directory) = std::env::var_os("AQUILA_SHOW_TEXTS") {
        std::fs::write(Path::new(&directory).join(format!("{name}.{number}")), text).unwrap();
    }
}

/// A chat in which `text` stands wherever text of others can stand.
fn full_of(text: &str) -> Value {
    json!({
        "messages": [
            {"role": "system", "content": format!("Be {text} brief {text}")},
            {"role": "user", "content": format!("{text}Paris?{text}")},
            {"role": "assistant", "content": format!("I see.{text}"), "tool_calls": [{"id": "abc123def", "type": "function",
                "function": {"name": format!("weather{text}"), "arguments": {"city": text, text: [text, {text: 1}]}}}]},
            {"role": "tool", "tool_call_id": "abc123def", "name": "weather", "content": format!("{text}sun{text}")},
            {"role": "assistant", "content": format!("Sun{text}"), "reasoning_content": text},
            {"role": "user", "content": format!("{text}{text} more")},
        ],
        "tools": [{"type": "function", "function": {"name": format!("weather{text}"), "description": text,
            "parameters": {"type": "object", "properties": {text: {"type": "string", "description": text, "enum": [text]}},
                           "required": [text]}}}],
        "template_args": {"model_identity": text, "reasoning_effort": text, "date_string": text, "bos": text,
                          "tool_choice": text, "thinking_mode": text},
    })
}

/// With real vocabularies: text of messages, calls, results, tools (keys among it) and arguments gives no
/// special token. As many come out of a prompt as out of one with harmless words in their places.
#[test]
fn no_text_from_outside_becomes_a_special_token() {
    let Some(directory) = templates() else { return };
    let mut compared = 0;
    for vocabulary in ["aquila-tokenizer", "smollm2-hf"] {
        let Some(files) = crate::data::directory(vocabulary) else { return };
        let tokenizer = Tokenizer::open(&files).unwrap();
        let hostile: Vec<String> = tokenizer.special_texts().to_vec();
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let template = ChatTemplate::jinja(&std::fs::read_to_string(&path).unwrap(), &tokenizer).unwrap();
            let specials = |text: &str| -> Option<Vec<u32>> {
                let rendered = template.render(&full_of(text).to_string(), None, true).ok()?;
                let ids = tokenizer.encode_rendered(&rendered).unwrap();
                assert_eq!(tokenizer.decode(&ids, true), rendered.text);
                Some(ids.into_iter().filter(|&id| tokenizer.is_special(id)).collect())
            };
            let Some(expected) = specials("QQ") else { continue };
            for text in hostile.iter().take(6).chain([&hostile.concat()]) {
                let Some(found) = specials(text) else { continue };
                assert_eq!(found, expected, "{} {text}", path.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 600, "{compared}");
}

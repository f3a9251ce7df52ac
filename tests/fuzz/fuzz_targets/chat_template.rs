//! Chat templates and the JSON of chats: refused or rendered, within bounds, and no text of a message becomes a special
//! token. The first byte says how the rest is cut into a template and a chat.
#![no_main]

use aquila::text::{Chat, ChatTemplate, TemplateSources, Tokenizer};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const SMALL: &[u8] = br#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},
    "added_tokens":[{"id":3,"content":"</s>","special":true}],
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}"#;
static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_json("small", SMALL, &[]).expect("a valid tokenizer"));
const CHAT: &str = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a </s> b"}],"tools":[{"a":1}]}"#;
/// Writes everything that a chat holds, and no special text of its own.
const WRITES_ALL: &str = "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m | tojson }}{% endfor %}\
                          {{ tools | tojson }}{{ documents }}{{ a }}{{ add_generation_prompt }}";

fn render(template: &ChatTemplate, chat: &str) {
    let Ok(rendered) = template.render(chat, None, true) else { return };
    assert!(rendered.literal.iter().all(|range| rendered.text.get(range.clone()).is_some()));
    assert!(rendered.literal.is_sorted_by_key(|range| range.start));
    let _ = TOKENIZER.encode_rendered(&rendered);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => {
            if let Ok(template) = ChatTemplate::jinja(&text, &TOKENIZER) {
                render(&template, CHAT);
            }
        }
        1 => {
            let sources = TemplateSources { tokenizer_config: Some(&text), ..TemplateSources::default() };
            if let Ok(Some(template)) = ChatTemplate::pick(&sources, &TOKENIZER) {
                render(&template, CHAT);
            }
        }
        2 => {
            let _ = Chat::parse(&text);
            let template = ChatTemplate::jinja(WRITES_ALL, &TOKENIZER).expect("a template");
            if let Ok(rendered) = template.render(&text, None, true) {
                let ids = TOKENIZER.encode_rendered(&rendered).expect("ids");
                assert!(ids.iter().all(|&id| !TOKENIZER.is_special(id)));
            }
        }
        // A template and a chat, parted by a NUL.
        _ => {
            let (template, chat) = text.split_once('\0').unwrap_or((&text, CHAT));
            if let Ok(template) = ChatTemplate::jinja(template, &TOKENIZER) {
                render(&template, chat);
            }
        }
    }
});

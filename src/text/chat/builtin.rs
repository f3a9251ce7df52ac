//! The five conversations of the Aquila chat models, as data.
//!
//! Each is a system text and, for each turn, the words around a message. They are those of BAAI's own
//! inference code (flagai 1.8.4, `aquila2/conversation.py`), whose output on two turns the tests hold.

use super::{Chat, Rendered};
use crate::base::error::Result;
use serde_json::Value;

/// The system text of every Aquila conversation that has one.
const SYSTEM: &str = "A chat between a curious human and an artificial intelligence assistant. \
                      The assistant gives helpful, detailed, and polite answers to the human's questions.";

/// One conversation.
#[derive(Debug)]
pub struct Builtin {
    /// Its name in BAAI's code.
    pub name: &'static str,
    /// The system text where the messages begin with none.
    system: &'static str,
    /// After a system text.
    after_system: &'static str,
    /// Before and after a user's message.
    user: (&'static str, &'static str),
    /// Before and after an assistant's message.
    assistant: (&'static str, &'static str),
    /// What opens the assistant's turn.
    prompt: &'static str,
    /// Strings that end an answer.
    pub stops: &'static [&'static str],
}

/// All of them. In `aquila-v1` and `aquila-v2` the mark `<|endofpiece|>` opens the answer.
pub const ALL: [Builtin; 5] = [
    Builtin {
        name: "aquila-chat",
        system: SYSTEM,
        after_system: "###",
        user: ("Human: ", "###"),
        assistant: ("Assistant: ", "###"),
        prompt: "Assistant:",
        stops: &["###", "</s>", "[UNK]"],
    },
    Builtin {
        name: "aquila-legacy",
        system: SYSTEM,
        after_system: "\n\n",
        user: ("### Human: ", "\n"),
        assistant: ("### Assistant: ", "</s>"),
        prompt: "### Assistant: ",
        stops: &["</s>", "[UNK]"],
    },
    Builtin {
        name: "aquila",
        system: SYSTEM,
        after_system: "###",
        user: ("Human: ", "###"),
        assistant: ("Assistant: ", "</s>"),
        prompt: "Assistant:",
        stops: &["</s>", "[UNK]"],
    },
    Builtin {
        name: "aquila-v1",
        system: "",
        after_system: "\n\n",
        user: ("<|startofpiece|>", ""),
        assistant: ("<|endofpiece|>", "</s>"),
        prompt: "<|endofpiece|>",
        stops: &["</s>", "<|endoftext|>"],
    },
    Builtin {
        name: "aquila-v2",
        system: SYSTEM,
        after_system: "\n\n",
        user: ("<|startofpiece|>", ""),
        assistant: ("<|endofpiece|>", "</s>"),
        prompt: "<|endofpiece|>",
        stops: &["</s>", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"],
    },
];

/// The conversation for a model's name, by the table in BAAI's `predict`; the longer names first.
pub fn for_model(name: &str) -> &'static Builtin {
    listed(name).unwrap_or(&ALL[0])
}

/// The conversation that the table has for a model's name, if the name is in it.
pub fn listed(name: &str) -> Option<&'static Builtin> {
    let name = name.to_ascii_lowercase();
    let table = [
        ("aquilachat2-7b-16k", 2),
        ("aquilachat2-34b-16k", 2),
        ("aquilachat2-70b-expr", 4),
        ("aquilachat2-34b", 1),
        ("aquilachat2-7b", 3),
    ];
    let found = table.iter().find(|(part, _)| name.contains(part));
    found.and_then(|&(_, at)| ALL.get(at))
}

impl Builtin {
    /// A first system message takes the place of the system text. Other roles than user and assistant,
    /// a system message later on, tools and documents are `Unsupported`.
    pub fn render(&self, chat: &Chat, add_prompt: bool) -> Result<Rendered> {
        for (what, given) in [("tools", chat.tools.is_some()), ("documents", chat.documents.is_some())] {
            crate::ensure!(!given, Unsupported, "{what}: the chat template {} knows none", self.name);
        }
        let named = chat.template.as_deref().filter(|name| *name != self.name);
        crate::ensure!(named.is_none(), Argument, "chat_template: expected {:?}, the only one", self.name);
        let mut out = Rendered { text: String::new(), literal: Vec::new() };
        let last = chat.messages.len().wrapping_sub(1);
        crate::ensure!(
            !(chat.continue_final_message && chat.messages.is_empty()),
            Argument,
            "continue_final_message: expected a last message with text, found none"
        );
        let goes_on = |at: usize| chat.continue_final_message && at == last;
        let mut messages = chat.messages.iter().enumerate().peekable();
        match messages.next_if(|(_, message)| role(message) == "system") {
            Some((at, message)) => {
                out.message(&content(at, message)?);
                out.text.push_str(if goes_on(at) { "" } else { self.after_system });
            }
            None if self.system.is_empty() => {}
            None => {
                out.text.push_str(self.system);
                out.text.push_str(self.after_system);
            }
        }
        for (at, message) in messages {
            let (before, after) = match role(message) {
                "user" => self.user,
                "assistant" => self.assistant,
                other => crate::bail!(
                    Unsupported,
                    "messages[{at}]: role {other:?}: the chat template {} knows user, assistant and a first system",
                    self.name
                ),
            };
            out.text.push_str(before);
            out.message(&content(at, message)?);
            out.text.push_str(if goes_on(at) { "" } else { after });
        }
        if add_prompt {
            out.text.push_str(self.prompt);
        }
        Ok(out)
    }
}

impl Rendered {
    fn message(&mut self, content: &str) {
        let start = self.text.len();
        self.text.push_str(content);
        if !content.is_empty() {
            self.literal.push(start..self.text.len());
        }
    }
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or("")
}

/// A message's text: a string, or the text parts of a list of parts one after the other.
fn content(at: usize, message: &Value) -> Result<String> {
    let expected =
        || crate::error!(Argument, "messages[{at}].content: expected a string or a list of text parts");
    match message.get("content").ok_or_else(expected)? {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_string);
            parts.iter().map(text).collect::<Option<String>>().ok_or_else(expected)
        }
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChatTemplate;
    use super::*;
    use crate::base::error::Status;

    fn render(name: &str, messages: &str, add_prompt: bool) -> Rendered {
        ChatTemplate::builtin(name).unwrap().render(messages, None, add_prompt).unwrap()
    }

    const TWO_TURNS: &str = r#"[{"role":"user","content":"Q1"},{"role":"assistant","content":"A1"},
                               {"role":"user","content":"Q2"}]"#;
    const ONE_TURN: &str = r#"[{"role":"user","content":"Q1"}]"#;

    /// Output of BAAI's own code; `SYS` is [`SYSTEM`].
    #[test]
    fn equal_the_original() {
        for (name, one, two) in [
            (
                "aquila-chat",
                "SYS###Human: Q1###Assistant:",
                "SYS###Human: Q1###Assistant: A1###Human: Q2###Assistant:",
            ),
            (
                "aquila-legacy",
                "SYS\n\n### Human: Q1\n### Assistant: ",
                "SYS\n\n### Human: Q1\n### Assistant: A1</s>### Human: Q2\n### Assistant: ",
            ),
            (
                "aquila",
                "SYS###Human: Q1###Assistant:",
                "SYS###Human: Q1###Assistant: A1</s>Human: Q2###Assistant:",
            ),
            (
                "aquila-v1",
                "<|startofpiece|>Q1<|endofpiece|>",
                "<|startofpiece|>Q1<|endofpiece|>A1</s><|startofpiece|>Q2<|endofpiece|>",
            ),
            (
                "aquila-v2",
                "SYS\n\n<|startofpiece|>Q1<|endofpiece|>",
                "SYS\n\n<|startofpiece|>Q1<|endofpiece|>A1</s><|startofpiece|>Q2<|endofpiece|>",
            ),
        ] {
            assert_eq!(render(name, ONE_TURN, true).text, one.replace("SYS", SYSTEM), "{name}");
            let two_turns = render(name, TWO_TURNS, true);
            assert_eq!(two_turns.text, two.replace("SYS", SYSTEM), "{name}");
            let contents: Vec<&str> = two_turns.literal.iter().map(|r| &two_turns.text[r.clone()]).collect();
            assert_eq!(contents, ["Q1", "A1", "Q2"]);
        }
    }

    #[test]
    fn system_message_and_parts() {
        let messages = r#"[{"role":"system","content":"Be brief."},
                           {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#;
        assert_eq!(render("aquila", messages, false).text, "Be brief.###Human: ab###");
        assert_eq!(render("aquila-v1", messages, true).text, "Be brief.\n\n<|startofpiece|>ab<|endofpiece|>");
    }

    #[test]
    fn the_last_message_goes_on() {
        let chat = r#"{"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"I think "}],
                       "continue_final_message":true}"#;
        assert_eq!(render("aquila-v1", chat, true).text, "<|startofpiece|>Q<|endofpiece|>I think ");
    }

    #[test]
    fn refuses_what_it_cannot_say() {
        let template = ChatTemplate::builtin("aquila").unwrap();
        for (messages, status, part) in [
            (r#"[{"role":"tool","content":"x"}]"#, Status::Unsupported, "\"tool\""),
            (
                r#"[{"role":"user","content":"x"},{"role":"system","content":"x"}]"#,
                Status::Unsupported,
                "messages[1]",
            ),
            (r#"[{"role":"user"}]"#, Status::Argument, "messages[0].content"),
            (r#"[{"role":"user","content":[{"type":"image"}]}]"#, Status::Argument, "messages[0].content"),
            (r#"[{"content":"x"}]"#, Status::Argument, "messages[0]"),
            (r#"{"role":"user"}"#, Status::Argument, "\"role\""),
            ("[", Status::Argument, "messages"),
            (r#"{"messages":[],"documents":[]}"#, Status::Unsupported, "documents"),
            (r#"{"messages":[],"chat_template":"rag"}"#, Status::Argument, "\"aquila\""),
            (r#"{"messages":[],"continue_final_message":true}"#, Status::Argument, "last message"),
        ] {
            let error = template.render(messages, None, true).unwrap_err();
            assert_eq!(error.status, status, "{messages}");
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!(template.render("[]", Some("[]"), true).unwrap_err().status, Status::Unsupported);
    }

    #[test]
    fn chosen_by_the_model_name() {
        for (model, name) in [
            ("AquilaChat2-7B", "aquila-v1"),
            ("/models/BAAI/AquilaChat2-34B", "aquila-legacy"),
            ("AquilaChat2-70B-Expr", "aquila-v2"),
            ("AquilaChat2-7B-16K", "aquila"),
            ("aquilachat2-34b-16k", "aquila"),
            ("AquilaChat-7B", "aquila-chat"),
            ("Aquila-7B", "aquila-chat"),
            ("", "aquila-chat"),
        ] {
            assert_eq!(ChatTemplate::for_model(model).name(), name, "{model}");
        }
        assert!(ChatTemplate::builtin("chatml").is_none());
    }
}

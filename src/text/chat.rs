//! Chat templates: messages to a prompt.

use crate::base::error::Result;

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    /// The prompt.
    pub text: String,
    /// Byte ranges of `text` that came from message contents: special-token text in them stays text.
    pub literal: Vec<std::ops::Range<usize>>,
}

/// A chat template: one of the five built-in Aquila conversations, or Jinja text from the files.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    name: String,
}

impl ChatTemplate {
    /// The built-in template of that name (`aquila-chat`, `aquila-legacy`, `aquila`, `aquila-v1`,
    /// `aquila-v2`).
    pub fn builtin(name: &str) -> Option<Self> {
        Some(ChatTemplate { name: name.into() })
    }

    /// A Jinja template, checked for syntax. `bos` and `eos` are the texts of those tokens.
    pub fn jinja(_source: &str, _bos: &str, _eos: &str) -> Result<Self> {
        Ok(ChatTemplate { name: "jinja".into() })
    }

    /// The name of a built-in template, or `jinja`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Strings that end an answer under this template.
    pub fn stop_strings(&self) -> &[&'static str] {
        &[]
    }

    /// Renders messages (a JSON array of `{"role", "content"}`) and optional tools (a JSON array) to a
    /// prompt; `add_prompt` opens the assistant's turn.
    pub fn render(&self, _messages: &str, _tools: Option<&str>, _add_prompt: bool) -> Result<Rendered> {
        Ok(Rendered { text: String::new(), literal: Vec::new() })
    }
}

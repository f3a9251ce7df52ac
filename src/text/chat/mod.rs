//! Chat templates: messages to a prompt.
//!
//! A rendered prompt remembers which of its bytes came from messages. There special-token text is never
//! recognised, so a user who types `</s>` or `<|im_end|>` gets letters, not the end of a turn.

mod builtin;
mod jinja;
mod marks;
mod pick;
mod python;

use super::tokenizer::Tokenizer;
use crate::base::error::Result;
use builtin::Builtin;
pub use pick::TemplateSources;
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// A chat template: one of the five built-in Aquila conversations, or Jinja text from the files.
#[derive(Clone, Debug)]
pub struct ChatTemplate(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Builtin(&'static Builtin),
    Jinja(Arc<jinja::Template>),
}

/// A prompt made of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt.
    pub text: String,
    /// Bytes of the text that came from messages, in order, none overlapping: in these no special
    /// token may begin, end or lie. A Jinja template's list has only the bytes that matter.
    pub literal: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The built-in template of that name (`aquila-chat`, `aquila-legacy`, `aquila`, `aquila-v1`,
    /// `aquila-v2`).
    pub fn builtin(name: &str) -> Option<Self> {
        builtin::ALL
            .iter()
            .find(|builtin| builtin.name == name)
            .map(|builtin| ChatTemplate(Kind::Builtin(builtin)))
    }

    /// The built-in template that BAAI's own code takes for a model of that name (a directory or file
    /// name will do): anything unknown gets `aquila-chat`.
    pub fn for_model(name: &str) -> Self {
        ChatTemplate(Kind::Builtin(builtin::for_model(name)))
    }

    /// A Jinja template, checked for syntax; `Format` with the line where it has none. `tokenizer`
    /// gives the texts of `bos_token` and `eos_token`, and the special texts that messages must not
    /// smuggle in.
    pub fn jinja(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(ChatTemplate(Kind::Jinja(Arc::new(jinja::Template::new(source, tokenizer)?))))
    }

    /// The name of a built-in template, or `jinja`.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Builtin(builtin) => builtin.name,
            Kind::Jinja(_) => "jinja",
        }
    }

    /// Strings that end an answer under this template.
    pub fn stop_strings(&self) -> &[&'static str] {
        match &self.0 {
            Kind::Builtin(builtin) => builtin.stops,
            Kind::Jinja(_) => &[],
        }
    }

    /// Renders messages (a JSON array of `{"role", "content"}`) and optional tools (a JSON array) to a
    /// prompt; `add_prompt` opens the assistant's turn. `Argument` for messages that are none or that
    /// the template refuses, `Format` for a template that fails, `Unsupported` for tools or roles that
    /// a built-in template does not have.
    pub fn render(&self, messages: &str, tools: Option<&str>, add_prompt: bool) -> Result<Rendered> {
        let messages = parse_list("messages", messages)?;
        for (at, message) in messages.iter().enumerate() {
            let role = message.get("role").and_then(Value::as_str);
            crate::ensure!(role.is_some(), Argument, "messages[{at}]: expected an object with a role");
        }
        let tools = tools.map(|tools| parse_list("tools", tools)).transpose()?;
        match &self.0 {
            Kind::Builtin(builtin) => {
                let name = builtin.name;
                crate::ensure!(tools.is_none(), Unsupported, "tools: the chat template {name} knows none");
                builtin.render(&messages, add_prompt)
            }
            Kind::Jinja(template) => template.render(messages, tools, add_prompt),
        }
    }
}

fn parse_list(what: &str, json: &str) -> Result<Vec<Value>> {
    match serde_json::from_str(json) {
        Ok(Value::Array(list)) => Ok(list),
        Ok(_) => crate::bail!(Argument, "{what}: expected a JSON array"),
        Err(cause) => crate::bail!(Argument, "{what}: {cause}"),
    }
}

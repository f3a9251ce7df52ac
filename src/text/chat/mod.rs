//! Chat templates: messages to a prompt.
//!
//! A rendered prompt remembers which of its bytes came from messages. There special-token text is never
//! recognised, so a user who types `</s>` or `<|im_end|>` gets letters, not the end of a turn.

mod bounds;
mod builtin;
mod clock;
mod filters;
mod jinja;
mod json;
mod marks;
mod pick;
mod python;
mod request;
mod sources;

use super::tokenizer::Tokenizer;
use crate::base::error::Result;
use builtin::Builtin;
pub use pick::{NamedTemplates, PickedBy, TemplateSources};
pub use request::Chat;
pub use sources::{in_files, in_gguf, in_jinja_files, read_text};
use std::ops::Range;
use std::sync::Arc;

/// A chat template: one of the five built-in Aquila conversations, or Jinja text from the files, of which
/// a model may have several with names.
#[derive(Clone, Debug)]
pub struct ChatTemplate(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Builtin(&'static Builtin),
    Jinja(Arc<[(String, jinja::Template)]>),
}

/// The name of a template that has none, as transformers calls it.
pub const DEFAULT: &str = "default";
/// That of the one for tools.
const TOOL_USE: &str = "tool_use";

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
        Self::named([(DEFAULT, source)], tokenizer)
    }

    /// Several Jinja templates by their names, at least one.
    fn named<'t>(
        sources: impl IntoIterator<Item = (&'t str, &'t str)>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let parsed = sources
            .into_iter()
            .map(|(name, source)| Ok((name.to_owned(), jinja::Template::new(source, tokenizer)?)));
        Ok(ChatTemplate(Kind::Jinja(parsed.collect::<Result<Vec<_>>>()?.into())))
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

    /// Renders messages (JSON, as [`Chat::parse`] reads it) and optional tools (a JSON array) to a prompt;
    /// `add_prompt` opens the assistant's turn unless the messages' JSON decides that itself. Errors as
    /// those of `render_chat`; `Argument` for JSON that is no chat.
    pub fn render(&self, messages: &str, tools: Option<&str>, add_prompt: bool) -> Result<Rendered> {
        let mut chat = Chat::parse(messages)?;
        if let Some(tools) = tools {
            chat.add_tools(tools)?;
        }
        self.render_chat(&chat, add_prompt)
    }

    /// Renders a chat. `Argument` for messages that the template refuses, `Format` for a template that
    /// fails, `Unsupported` for tools, documents or roles that a built-in template does not have.
    pub fn render_chat(&self, chat: &Chat, add_prompt: bool) -> Result<Rendered> {
        let add_prompt = chat.add_generation_prompt.unwrap_or(add_prompt) && !chat.continue_final_message;
        match &self.0 {
            Kind::Builtin(builtin) => builtin.render(chat, add_prompt),
            Kind::Jinja(templates) => choose(templates, chat)?.render(chat, add_prompt),
        }
    }
}

/// As transformers chooses: by name; else the one for tools where tools are given; else the default one.
fn choose<'t>(templates: &'t [(String, jinja::Template)], chat: &Chat) -> Result<&'t jinja::Template> {
    let by_name =
        |name: &str| templates.iter().find(|(other, _)| other == name).map(|(_, template)| template);
    let found = match (&chat.template, templates) {
        (Some(name), _) => by_name(name),
        (None, [(_, only)]) => Some(only),
        (None, _) => chat.tools.as_ref().and_then(|_| by_name(TOOL_USE)).or_else(|| by_name(DEFAULT)),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = chat.template.as_deref().unwrap_or(DEFAULT);
        crate::error!(Argument, "chat_template: {wanted:?}: expected one of {}", names.join(", "))
    })
}

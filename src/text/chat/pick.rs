//! Which chat template a model gets.

use super::ChatTemplate;
use crate::base::error::Result;
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;

/// Everything that may name a chat template, in the order in which it is asked.
#[derive(Clone, Debug, Default)]
pub struct TemplateSources<'a> {
    /// The caller's option: name of a built-in template, or Jinja text.
    pub option: Option<&'a str>,
    /// The text of chat_template.jinja.
    pub jinja_file: Option<&'a str>,
    /// The text of tokenizer_config.json, whose `chat_template` is Jinja text or a list of named ones.
    pub tokenizer_config: Option<&'a str>,
    /// The GGUF key `tokenizer.chat_template`.
    pub gguf: Option<&'a str>,
    /// For an Aquila model, its names: a built-in template serves where the files have none, that of the
    /// first name that BAAI's table of models has. Empty for other models: their format is unknown.
    pub aquila_names: &'a [String],
}

impl ChatTemplate {
    /// The first template that the sources give, or `None`. `Argument` for an option that is neither a
    /// built-in name nor Jinja, `Format` for a broken template, naming its source.
    pub fn pick(sources: &TemplateSources<'_>, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        if let Some(option) = sources.option.filter(|option| !option.is_empty()) {
            return from_option(option, tokenizer).map(Some);
        }
        let jinja =
            |place: &str, text: &str| ChatTemplate::jinja(text, tokenizer).map(Some).map_err(|e| e.at(place));
        if let Some(text) = sources.jinja_file {
            return jinja("chat_template.jinja", text);
        }
        if let Some(text) = sources.tokenizer_config.map(from_config).transpose()?.flatten() {
            return jinja("tokenizer_config.json", &text);
        }
        if let Some(text) = sources.gguf.filter(|text| !text.is_empty()) {
            return jinja("tokenizer.chat_template", text);
        }
        let names = sources.aquila_names;
        let name = names.iter().find(|name| super::builtin::listed(name).is_some()).or(names.first());
        Ok(name.map(|name| ChatTemplate::for_model(name)))
    }
}

fn from_option(option: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    if let Some(builtin) = ChatTemplate::builtin(option) {
        return Ok(builtin);
    }
    let is_jinja = option.contains("{{") || option.contains("{%");
    if !is_jinja {
        let names: Vec<&str> = super::builtin::ALL.iter().map(|builtin| builtin.name).collect();
        crate::bail!(
            Argument,
            "chat_template: expected Jinja text or one of {}, found {option:?}",
            names.join(", ")
        );
    }
    ChatTemplate::jinja(option, tokenizer).map_err(|error| error.at("option chat_template"))
}

/// The text of `chat_template`; of several the one named `default`, or the only one.
fn from_config(config: &str) -> Result<Option<String>> {
    let place = "tokenizer_config.json";
    let config: Value =
        serde_json::from_str(config).map_err(|cause| crate::error!(Format, "{place}: {cause}"))?;
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let name = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
            let only = list.first().filter(|_| list.len() == 1);
            let chosen = list.iter().find(name).or(only).and_then(|entry| entry.get("template")?.as_str());
            match chosen {
                Some(text) => Ok(Some(text.to_string())),
                None => {
                    crate::bail!(Format, "{place}: chat_template: expected one named default, found none")
                }
            }
        }
        Some(_) => {
            crate::bail!(Format, "{place}: chat_template: expected a string or a list of named templates")
        }
    }
}

//! Which chat template a model gets.

use super::ChatTemplate;
use crate::base::error::Result;
use crate::text::tokenizer::Tokenizer;

/// Chat templates by name; the one without a name is `default`.
pub type NamedTemplates = Vec<(String, String)>;

/// Everything that may name a chat template, in the order in which it is asked.
#[derive(Clone, Debug, Default)]
pub struct TemplateSources<'a> {
    /// The caller's option: name of a built-in template, or Jinja text.
    pub option: Option<&'a str>,
    /// The texts of chat_template.jinja (`default`) and of the files in additional_chat_templates.
    pub jinja_files: NamedTemplates,
    /// The text of tokenizer_config.json, whose `chat_template` is Jinja text or a list of named ones.
    pub tokenizer_config: Option<&'a str>,
    /// The GGUF keys `tokenizer.chat_template` (`default`) and `tokenizer.chat_template.NAME`.
    pub gguf: NamedTemplates,
    /// For an Aquila model, its names: a built-in template serves where the files have none, that of the
    /// first name that BAAI's table of models has. Empty for other models: their format is unknown.
    pub aquila_names: &'a [String],
}

/// What a template was picked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PickedBy {
    /// The caller's option.
    Option,
    /// The file or key that holds it.
    Source(&'static str),
    /// A name of the model, which BAAI's table has.
    Name(String),
    /// That the model is an Aquila and none of its names is in the table: the table's own fallback.
    Family,
}

impl ChatTemplate {
    /// The first template that the sources give, or `None`. `Argument` for an option that is neither a
    /// built-in name nor Jinja, `Format` for a broken template, naming its source.
    pub fn pick(sources: &TemplateSources<'_>, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        Ok(Self::pick_and_tell(sources, tokenizer)?.map(|(template, _)| template))
    }

    /// The same, with what it was picked by.
    pub fn pick_and_tell(
        sources: &TemplateSources<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<(ChatTemplate, PickedBy)>> {
        if let Some(option) = sources.option.filter(|option| !option.is_empty()) {
            return Ok(Some((from_option(option, tokenizer)?, PickedBy::Option)));
        }
        let config = sources.tokenizer_config.map(super::sources::in_config).transpose()?.unwrap_or_default();
        for (place, templates) in [
            ("chat_template.jinja", &sources.jinja_files),
            ("tokenizer_config.json", &config),
            ("tokenizer.chat_template", &sources.gguf),
        ] {
            if !templates.is_empty() {
                let template = from_named(templates, tokenizer).map_err(|error| error.at(place))?;
                return Ok(Some((template, PickedBy::Source(place))));
            }
        }
        let names = sources.aquila_names;
        let listed = names.iter().find(|name| super::builtin::listed(name).is_some());
        Ok(match (listed, names.first()) {
            (Some(name), _) => Some((ChatTemplate::for_model(name), PickedBy::Name(name.clone()))),
            (None, Some(name)) => Some((ChatTemplate::for_model(name), PickedBy::Family)),
            (None, None) => None,
        })
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

/// Several must have one that serves where nothing else is asked for.
fn from_named(templates: &NamedTemplates, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    let named = |wanted: &str| templates.iter().filter(|(name, _)| name == wanted).count();
    let plain = templates.len() == 1 || named(super::DEFAULT) == 1;
    crate::ensure!(
        plain,
        Format,
        "chat_template: expected one named default, found {}",
        named(super::DEFAULT)
    );
    let templates = templates.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    ChatTemplate::named(templates, tokenizer)
}

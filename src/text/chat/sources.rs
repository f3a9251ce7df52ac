//! Where a model's files hold chat templates.

use super::{DEFAULT, NamedTemplates};
use crate::base::error::Result;
use crate::base::limits;
use crate::loading::file::SourceFile;
use crate::loading::gguf::Gguf;
use crate::loading::tokenizer_files::TokenizerFiles;
use serde_json::Value;
use std::path::Path;

/// The templates of a directory: those in files of their own, else those in tokenizer_config.json.
pub fn in_files(files: &TokenizerFiles) -> Result<NamedTemplates> {
    let own = in_jinja_files(files)?;
    match &files.config {
        Some(config) if own.is_empty() => in_config(&read_text(config)?),
        _ => Ok(own),
    }
}

/// chat_template.jinja (`default`), and the files in additional_chat_templates.
pub fn in_jinja_files(files: &TokenizerFiles) -> Result<NamedTemplates> {
    let unnamed = files.chat_template.iter().map(|path| (DEFAULT, path));
    let named = files.more_chat_templates.iter().map(|(name, path)| (name.as_str(), path));
    unnamed.chain(named).map(|(name, path)| Ok((name.to_owned(), read_text(path)?))).collect()
}

/// What `chat_template` of a tokenizer_config.json holds: one text, or a list of named ones.
pub fn in_config(config: &str) -> Result<NamedTemplates> {
    let place = "tokenizer_config.json";
    let config: Value =
        serde_json::from_str(config).map_err(|cause| crate::error!(Format, "{place}: {cause}"))?;
    let unnamed = |text: &String| vec![(DEFAULT.to_string(), text.clone())];
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(unnamed(text)),
        Some(Value::Array(list)) => {
            let mut templates = Vec::new();
            for (at, entry) in list.iter().enumerate() {
                let text = |key: &str| match entry.get(key).and_then(Value::as_str) {
                    Some(text) => Ok(text.to_string()),
                    None => {
                        Err(crate::error!(Format, "{place}: chat_template[{at}].{key}: expected a string"))
                    }
                };
                templates.push((text("name")?, text("template")?));
            }
            crate::ensure!(
                !templates.is_empty(),
                Format,
                "{place}: chat_template: expected a template, found none"
            );
            Ok(templates)
        }
        Some(_) => {
            crate::bail!(Format, "{place}: chat_template: expected a string or a list of named templates")
        }
    }
}

/// The templates of a GGUF file: one without a name, and those that `tokenizer.chat_templates` lists.
pub fn in_gguf(gguf: &Gguf) -> Result<NamedTemplates> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = NamedTemplates::new();
    if let Some(text) = gguf.string(KEY)?.filter(|text| !text.is_empty()) {
        templates.push((DEFAULT.into(), text.into()));
    }
    if let Some(names) = gguf.strings("tokenizer.chat_templates")? {
        let most = limits::CHAT_TEMPLATES_MAX;
        crate::ensure!(names.len() <= most, Format, "tokenizer.chat_templates: expected at most {most}");
        for name in names.iter().filter(|name| *name != DEFAULT) {
            let key = format!("{KEY}.{name}");
            let text = gguf.string(&key)?.ok_or_else(|| crate::error!(Format, "{key}: missing"))?;
            templates.push((name.into(), text.into()));
        }
    }
    Ok(templates)
}

/// A text file whole.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = SourceFile::open(path)?.read_all(limits::JSON_BYTES_MAX)?;
    String::from_utf8(bytes)
        .map_err(|cause| crate::error!(Format, "{}: no UTF-8: {}", path.display(), cause.utf8_error()))
}

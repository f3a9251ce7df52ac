//! The tokenizer of a checkpoint in the target's form.

use crate::base::error::Result;
use crate::base::limits::JSON_BYTES_MAX;
use crate::loading::file::SourceFile;
use crate::loading::json;
use crate::loading::tokenizer_files::TokenizerFiles;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::saving;
use crate::text::{GgufVocab, Vocabulary};
use serde_json::Value;
use std::path::Path;

/// The entries of a GGUF file; `None` where the checkpoint has no tokenizer.
pub fn for_gguf(checkpoint: &Checkpoint) -> Result<Option<GgufVocab>> {
    match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => GgufVocab::read(gguf),
        TokenizerSource::Files(files) => {
            let Some(dir) = directory(files) else { return Ok(None) };
            let template = chat_template(files)?;
            let vocabulary = Vocabulary::open(dir)?;
            vocabulary.gguf(checkpoint.spec.vocab, template.as_deref()).map(Some)
        }
    }
}

/// Writes the tokenizer into a directory in Hugging Face's form, and says what could not be.
pub fn write_files(checkpoint: &Checkpoint, dir: &Path) -> Result<Vec<String>> {
    let (vocabulary, template) = match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => match GgufVocab::read(gguf)? {
            Some(vocab) => (Some(Vocabulary::from_gguf(&vocab)?), vocab.chat_template),
            None => (None, None),
        },
        TokenizerSource::Files(files) => {
            (directory(files).map(Vocabulary::open).transpose()?, chat_template(files)?)
        }
    };
    let Some(vocabulary) = vocabulary else {
        return Ok(vec!["the model has no tokenizer, and so the directory has none".into()]);
    };
    for (name, text) in vocabulary.files(template.as_deref(), checkpoint.spec.context)? {
        saving::write_json(&dir.join(name), &text)?;
    }
    Ok(Vec::new())
}

fn directory(files: &TokenizerFiles) -> Option<&Path> {
    files.kind()?;
    files.tokenizer.as_deref().or(files.vocab.as_deref()).and_then(Path::parent)
}

/// The chat template of a directory: that of its own file, else the one (of several that of the name "default") in
/// tokenizer_config.json.
fn chat_template(files: &TokenizerFiles) -> Result<Option<String>> {
    let read = |path: &Path| SourceFile::open(path)?.read_all(JSON_BYTES_MAX);
    if let Some(path) = &files.chat_template {
        return Ok(Some(String::from_utf8_lossy(&read(path)?).into_owned()));
    }
    let Some(path) = &files.config else { return Ok(None) };
    let config: Value = json::parse(&path.display().to_string(), &read(path)?)?;
    let found = match config.get("chat_template") {
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")),
        other => other,
    };
    Ok(found.and_then(Value::as_str).map(str::to_owned))
}

//! The tokenizer of a checkpoint, and its chat templates, in the target's form.

use crate::base::error::Result;
use crate::loading::tokenizer_files::TokenizerFiles;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::saving;
use crate::text::chat::{self, NamedTemplates};
use crate::text::{GgufVocab, Vocabulary};
use std::path::Path;

/// The entries of a GGUF file; `None` where the checkpoint has no tokenizer.
pub fn for_gguf(checkpoint: &Checkpoint) -> Result<Option<(GgufVocab, NamedTemplates)>> {
    let vocab = match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => GgufVocab::read(gguf)?,
        TokenizerSource::Files(files) => match directory(files) {
            Some(dir) => Some(Vocabulary::open(dir)?.gguf(checkpoint.spec.vocab)?),
            None => None,
        },
    };
    let templates = templates(checkpoint)?;
    Ok(vocab.map(|vocab| (vocab, templates)))
}

/// Writes the tokenizer into a directory in Hugging Face's form, and says what could not be.
pub fn write_files(checkpoint: &Checkpoint, dir: &Path) -> Result<Vec<String>> {
    let vocabulary = match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => {
            GgufVocab::read(gguf)?.map(|vocab| Vocabulary::from_gguf(&vocab)).transpose()?
        }
        TokenizerSource::Files(files) => directory(files).map(Vocabulary::open).transpose()?,
    };
    let Some(vocabulary) = vocabulary else {
        return Ok(vec!["the model has no tokenizer, and so the directory has none".into()]);
    };
    for (name, text) in vocabulary.files(&templates(checkpoint)?, checkpoint.spec.context)? {
        saving::write_json(&dir.join(name), &text)?;
    }
    Ok(Vec::new())
}

fn templates(checkpoint: &Checkpoint) -> Result<NamedTemplates> {
    match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => chat::in_gguf(gguf),
        TokenizerSource::Files(files) => chat::in_files(files),
    }
}

fn directory(files: &TokenizerFiles) -> Option<&Path> {
    files.kind()?;
    files.tokenizer.as_deref().or(files.vocab.as_deref()).and_then(Path::parent)
}

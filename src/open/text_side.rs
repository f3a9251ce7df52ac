//! What a checkpoint brings for text: tokenizer, chat template, the ids that end a text; and what of it was recognised,
//! assumed, or looks wrong.

use super::LoadOptions;
use crate::base::error::Result;
use crate::loading::json::clip;
use crate::loading::tokenizer_files::TokenizerFiles;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::text::chat::{self, NamedTemplates, PickedBy, TemplateSources};
use crate::text::{AQUILA_ADDED, ChatTemplate, GgufVocab, Tokenizer, stop_ids};
use std::path::Path;

/// Rows that fill an embedding up: to a multiple of 128 for each of 8 devices at most. With more the tokenizer may be
/// another model's.
const PADDING_MAX: usize = 1024;
/// Rows of an embedding for Aquila's 100,000 tokens and its special ones; no other family has that many.
const AQUILA_ROWS: usize = 100_008;

/// Everything about text that a checkpoint brings.
pub struct TextSide {
    /// `None` where only token ids can be generated from.
    pub tokenizer: Option<Tokenizer>,
    /// With what it was picked by.
    pub chat: Option<(ChatTemplate, PickedBy)>,
    /// The ids that end a text.
    pub stop_ids: Vec<u32>,
}

impl TextSide {
    /// Reads the files, and compares them with the embedding. Errors name the file or option.
    pub fn open(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<TextSide> {
        let tokenizer = open_tokenizer(checkpoint, options)?;
        let Some(tokenizer) = tokenizer else {
            return Ok(TextSide { tokenizer: None, chat: None, stop_ids: Vec::new() });
        };
        checkpoint.check_vocab(tokenizer.vocab())?;
        let chat = pick_template(checkpoint, options, &tokenizer)?;
        let stop_ids = stop_ids(&tokenizer, &checkpoint.ids.eos, &[]);
        Ok(TextSide { tokenizer: Some(tokenizer), chat, stop_ids })
    }

    /// The id that begins a sequence: the tokenizer's own, else the one that the model's files name where
    /// that is a special token (Aquila's config.json says 1, which is an exclamation mark).
    pub fn bos(&self, stated: Option<u32>) -> Option<u32> {
        let Some(tokenizer) = &self.tokenizer else { return stated };
        tokenizer.bos().or(stated.filter(|&id| tokenizer.is_special(id)))
    }

    /// What was recognised: name and value.
    pub fn facts(&self, checkpoint: &Checkpoint) -> Vec<(&'static str, String)> {
        let Some(tokenizer) = &self.tokenizer else { return Vec::new() };
        let tokens = match checkpoint.spec.vocab.saturating_sub(tokenizer.vocab()) {
            0 => tokenizer.vocab().to_string(),
            rows => format!("{}; {rows} more rows of the embedding give no text", tokenizer.vocab()),
        };
        let chat = match &self.chat {
            None => "none".into(),
            Some((chat, PickedBy::Option)) => format!("{}, as asked for", chat.name()),
            Some((chat, PickedBy::Source(place))) => format!("{}, from {place}", chat.name()),
            Some((chat, PickedBy::Name(name))) => format!("{}, by the name {}", chat.name(), clip(name)),
            Some((chat, PickedBy::Family)) => format!("{}, assumed", chat.name()),
        };
        vec![
            ("tokens", tokens),
            ("bos", named(tokenizer, self.bos(checkpoint.ids.bos).as_slice())),
            ("stop ids", named(tokenizer, &self.stop_ids)),
            ("chat template", chat),
        ]
    }

    /// What was taken where the files say nothing, or nothing that can be true.
    pub fn assumed(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let Some(tokenizer) = &self.tokenizer else { return Vec::new() };
        let mut assumed = tokenizer.assumed().to_vec();
        let ids = &checkpoint.ids;
        if let Some(stated) = ids.bos.filter(|&id| !tokenizer.is_special(id)) {
            let bos = named(tokenizer, self.bos(ids.bos).as_slice());
            assumed.push(format!(
                "bos {bos}: bos_token_id is the ordinary token {}",
                named(tokenizer, &[stated])
            ));
        }
        let unnamed: Vec<u32> = self.stop_ids.iter().copied().filter(|id| !ids.eos.contains(id)).collect();
        if !unnamed.is_empty() {
            let unnamed = named(tokenizer, &unnamed);
            assumed
                .push(format!("stop ids {unnamed}: the tokenizer's, as the model's files do not name them"));
        }
        match &self.chat {
            Some((chat, PickedBy::Name(name))) => assumed.push(format!(
                "chat template {}: no file has one, and in BAAI's table it is that of the name {}",
                chat.name(),
                clip(name)
            )),
            Some((chat, PickedBy::Family)) => {
                let names: Vec<String> = checkpoint.names.iter().map(|name| clip(name)).collect();
                assumed.push(format!(
                    "chat template {}: no file has one, and none of the names {} is in BAAI's table of chat models",
                    chat.name(),
                    names.join(", ")
                ));
            }
            _ => {}
        }
        assumed
    }

    /// What looks wrong: an end id that is no special token, no end at all, tokens that the model has and the tokenizer
    /// lacks.
    pub fn warnings(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let Some(tokenizer) = &self.tokenizer else {
            return vec!["it has no tokenizer: only token ids can be generated from".into()];
        };
        let mut warnings = Vec::new();
        for &id in checkpoint.ids.eos.iter().filter(|&&id| !tokenizer.is_special(id)) {
            warnings.push(format!(
                "eos_token_id {id} is the ordinary token {:?} and does not end a text",
                String::from_utf8_lossy(tokenizer.token_bytes(id))
            ));
        }
        if self.stop_ids.is_empty() {
            warnings.push("no id ends a text: every text runs to max_tokens or to the context".into());
        }
        let (ids, rows) = (tokenizer.vocab(), checkpoint.spec.vocab);
        let lacks = |text: &&str| tokenizer.token_id(text).is_none();
        let lacking: Vec<&str> = AQUILA_ADDED.into_iter().filter(lacks).collect();
        if rows == AQUILA_ROWS && !lacking.is_empty() {
            warnings.push(format!("the tokenizer lacks special tokens of Aquila: {}", lacking.join(", ")));
        }
        if rows - ids.min(rows) > PADDING_MAX {
            warnings.push(format!(
                "the tokenizer has {ids} ids, the embedding {rows} rows: is it another model's tokenizer?"
            ));
        }
        warnings
    }
}

/// Ids with their texts.
fn named(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let name = |&id: &u32| format!("{id} {}", String::from_utf8_lossy(tokenizer.token_bytes(id)));
    if ids.is_empty() { "none".into() } else { ids.iter().map(name).collect::<Vec<_>>().join(", ") }
}

fn open_tokenizer(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Option<Tokenizer>> {
    if let Some(path) = &options.tokenizer {
        return Tokenizer::open(path).map(Some).map_err(|error| error.at("option tokenizer"));
    }
    match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => {
            GgufVocab::read(gguf)?.map(|vocab| Tokenizer::from_gguf(&vocab)).transpose()
        }
        TokenizerSource::Files(files) => {
            let dir = files.tokenizer.as_deref().or(files.vocab.as_deref()).and_then(Path::parent);
            match (files.kind(), dir) {
                (Some(_), Some(dir)) => Tokenizer::open(dir).map(Some),
                _ => Ok(None),
            }
        }
    }
}

fn pick_template(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    tokenizer: &Tokenizer,
) -> Result<Option<(ChatTemplate, PickedBy)>> {
    let files = match (&options.tokenizer, &checkpoint.tokenizer) {
        (Some(path), _) => TokenizerFiles::find(path)?,
        (None, TokenizerSource::Files(files)) => files.clone(),
        (None, TokenizerSource::Gguf(_)) => TokenizerFiles::default(),
    };
    let config = files.config.as_deref().map(chat::read_text).transpose()?;
    let gguf = match &checkpoint.tokenizer {
        TokenizerSource::Gguf(gguf) => chat::in_gguf(gguf)?,
        TokenizerSource::Files(_) => NamedTemplates::new(),
    };
    let sources = TemplateSources {
        option: options.chat_template.as_deref(),
        jinja_files: chat::in_jinja_files(&files)?,
        tokenizer_config: config.as_deref(),
        gguf,
        aquila_names: aquila_names(checkpoint, tokenizer),
    };
    ChatTemplate::pick_and_tell(&sources, tokenizer)
}

/// The names of an Aquila model: one of them says so, or its vocabulary does. The built-in templates
/// are for no other family.
fn aquila_names<'a>(checkpoint: &'a Checkpoint, tokenizer: &Tokenizer) -> &'a [String] {
    let says = checkpoint.names.iter().any(|name| name.to_ascii_lowercase().contains("aquila"));
    let by_vocabulary = tokenizer.token_id("<|LDWANG|>").is_some();
    if says || by_vocabulary { &checkpoint.names } else { &[] }
}

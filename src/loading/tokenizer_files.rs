//! Where the files of a tokenizer and its chat template are.

use crate::base::error::{Error, Result};
use crate::base::limits;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The tokenizer's files in a directory; `None` for each that is not there. Nothing is opened yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: the whole tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// `vocab.json`: tokens to ids.
    pub vocab: Option<PathBuf>,
    /// `merges.txt`: merges by rank.
    pub merges: Option<PathBuf>,
    /// `tokenizer_config.json`: names of the special tokens, often the chat template.
    pub config: Option<PathBuf>,
    /// `special_tokens_map.json`: roles of the special tokens.
    pub special_tokens: Option<PathBuf>,
    /// `added_tokens.json`: tokens beyond vocab.json.
    pub added_tokens: Option<PathBuf>,
    /// `chat_template.jinja`.
    pub chat_template: Option<PathBuf>,
    /// `additional_chat_templates/NAME.jinja`, by name.
    pub more_chat_templates: Vec<(String, PathBuf)>,
}

impl TokenizerFiles {
    /// The files in the directory `path`; or `path` itself as a tokenizer.json, with what stands
    /// beside it. `NotFound` where there is no such path.
    pub fn find(path: &Path) -> Result<Self> {
        let facts = std::fs::metadata(path).map_err(|cause| Error::io("look at it", path, &cause))?;
        let dir = match path.parent() {
            _ if facts.is_dir() => path,
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let there = |name: &str| Some(dir.join(name)).filter(|file| file.exists());
        Ok(TokenizerFiles {
            tokenizer: if facts.is_dir() { there("tokenizer.json") } else { Some(path.into()) },
            vocab: there("vocab.json"),
            merges: there("merges.txt"),
            config: there("tokenizer_config.json"),
            special_tokens: there("special_tokens_map.json"),
            added_tokens: there("added_tokens.json"),
            chat_template: there("chat_template.jinja"),
            more_chat_templates: more_templates(&dir.join("additional_chat_templates"))?,
        })
    }

    /// What a tokenizer can be made of: "tokenizer.json", "vocab.json and merges.txt", or `None`.
    pub fn kind(&self) -> Option<&'static str> {
        match (&self.tokenizer, &self.vocab, &self.merges) {
            (Some(_), _, _) => Some("tokenizer.json"),
            (None, Some(_), Some(_)) => Some("vocab.json and merges.txt"),
            _ => None,
        }
    }
}

/// The templates of a directory, sorted by name; none where there is no such directory.
fn more_templates(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(cause) => return Err(Error::io("list it", dir, &cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| Error::io("list it", dir, &cause))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some(name) = name.filter(|_| path.extension().is_some_and(|ending| ending == "jinja")) {
            found.push((name, path));
        }
        let most = limits::CHAT_TEMPLATES_MAX;
        crate::ensure!(found.len() <= most, Format, "{}: expected at most {most} templates", dir.display());
    }
    found.sort();
    Ok(found)
}

//! A tokenizer from the metadata of a GGUF file.

use super::added::Added;
use super::json;
use super::split::Split;
use super::tokenizer::Tokenizer;
use super::vocab::{Parts, PreTokenizer, is_aquila};
use crate::base::checked;
use crate::base::error::Result;
use crate::loading::gguf::Gguf;
use std::collections::HashSet;

/// The `tokenizer.*` entries of a GGUF file, as they stand there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// The file, for errors.
    pub place: String,
    /// `tokenizer.ggml.model`.
    pub model: String,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the id is the place in the list.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`; may be empty: all normal.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`. Byte-level text has no unknown characters, so nothing uses it.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`. Nothing here pads.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
}

impl GgufVocab {
    /// The tokenizer's entries of a parsed file; `None` where it has no tokenizer. `Format` for an
    /// entry of the wrong type, an id that does not fit, or a byte-level vocabulary without its lists.
    pub fn read(gguf: &Gguf) -> Result<Option<GgufVocab>> {
        let model = match gguf.string("tokenizer.ggml.model")? {
            // What converters write for a model that comes without one.
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model,
        };
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        // Without its merges a text would become single bytes: ids that the model never saw, and no error.
        for name in ["tokens", "merges"] {
            let there = model != "gpt2" || gguf.get(&key(name)).is_some();
            crate::ensure!(there, Format, "{}: {} is missing", gguf.file(), key(name));
        }
        let strings = |name: &str| -> Result<Vec<String>> {
            Ok(gguf
                .strings(&key(name))?
                .map(|all| all.iter().map(str::to_owned).collect())
                .unwrap_or_default())
        };
        let id = |name: &str| -> Result<Option<u32>> {
            let key = key(name);
            gguf.uint(&key)?.map(|id| checked::u32(id, &format!("{}: {key}", gguf.file()))).transpose()
        };
        let types = gguf.integers(&key("token_type"))?.unwrap_or_default();
        Ok(Some(GgufVocab {
            place: gguf.file().into(),
            model: model.into(),
            pre: gguf.string(&key("pre"))?.map(str::to_owned),
            tokens: strings("tokens")?,
            // A type beyond 32 bits is as unknown as any other that is not named below.
            token_types: types.iter().map(|&t| i32::try_from(t).unwrap_or(i32::MAX)).collect(),
            merges: strings("merges")?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            unk: id("unknown_token_id")?,
            pad: id("padding_token_id")?,
            add_bos: gguf.boolean(&key("add_bos_token"))?,
            add_eos: gguf.boolean(&key("add_eos_token"))?,
        }))
    }
}

/// Token types of the GGUF format.
pub(super) mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

impl Tokenizer {
    /// A tokenizer from GGUF metadata. `Unsupported`, naming model or `pre`, for other than the
    /// byte-level families that are known exactly; `Format` for what is broken.
    pub fn from_gguf(gguf: &GgufVocab) -> Result<Tokenizer> {
        Tokenizer::from_parts(Parts::from_gguf(gguf)?)
    }
}

impl Parts {
    /// What a tokenizer is made of that [`Tokenizer::from_gguf`] makes.
    pub fn from_gguf(gguf: &GgufVocab) -> Result<Parts> {
        let place = format!("{}: tokenizer.ggml", gguf.place);
        let model = &gguf.model;
        crate::ensure!(
            model == "gpt2",
            Unsupported,
            "{place}.model: expected gpt2 (byte-level), found {model:?}"
        );
        let (tokens, types) = (gguf.tokens.len(), gguf.token_types.len());
        crate::ensure!(
            types == 0 || types == tokens,
            Format,
            "{place}.token_type: {types} entries, expected {tokens} as in tokens"
        );
        let mut merges = Vec::with_capacity(gguf.merges.len());
        for (at, text) in gguf.merges.iter().enumerate() {
            let pair = json::merge_pair(text);
            merges.push(pair.ok_or_else(|| {
                crate::error!(Format, "{place}.merges[{at}]: {text:?}: expected two tokens")
            })?);
        }
        let mut parts = sort_tokens(&place, gguf, merges)?;
        let aquila = is_aquila(&parts.vocab, parts.merges.len());
        let family = Family::of(&place, gguf.pre.as_deref(), aquila)?;
        parts.pre_tokenizer = PreTokenizer::Own(family.split);
        parts.ignore_merges = family.ignore_merges;
        if family.nfc {
            parts.normalizer = Some(tokenizers::normalizers::NFC.into());
        }
        (parts.bos, parts.eos) = (gguf.bos, gguf.eos);
        if aquila {
            parts.complete_aquila();
        }
        if gguf.add_bos.unwrap_or(family.add_bos) {
            parts.prefix.extend(parts.bos);
        }
        if gguf.add_eos.unwrap_or(false) {
            parts.suffix.extend(parts.eos);
        }
        Ok(parts)
    }
}

/// Tokens by type. Control and user-defined ones are found in the text, not merged; they stay in the
/// model only where a merge needs them. Unused ones are no tokens.
fn sort_tokens(place: &str, gguf: &GgufVocab, merges: Vec<(String, String)>) -> Result<Parts> {
    let products: HashSet<String> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let halves: HashSet<&String> = merges.iter().flat_map(|(left, right)| [left, right]).collect();
    let (mut vocab, mut added) = (Vec::new(), Vec::new());
    for (id, text) in (0u32..).zip(&gguf.tokens) {
        let kind = gguf.token_types.get(id as usize).copied().unwrap_or(kind::NORMAL);
        let merged = halves.contains(text) || products.contains(text);
        match kind {
            kind::UNUSED => continue,
            kind::NORMAL | kind::BYTE => vocab.push((text.clone(), id)),
            kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN => {
                let special = kind != kind::USER_DEFINED;
                added.push(Added { special, ..Added::special(id, text.as_str()) });
                if merged {
                    vocab.push((text.clone(), id));
                }
            }
            other => crate::bail!(Format, "{place}.token_type[{id}]: expected 1 to 6, found {other}"),
        }
    }
    let mut parts = Parts::new(place, vocab, merges);
    parts.added = added;
    parts.holes = true;
    Ok(parts)
}

/// What `tokenizer.ggml.pre` stands for.
struct Family {
    split: Split,
    nfc: bool,
    ignore_merges: bool,
    /// Whether a begin of sequence is put in front where the file does not say.
    add_bos: bool,
}

impl Family {
    /// The Aquila vocabulary was converted before `pre` existed, so its absence means GPT-2 there (and
    /// its own name for it, "default", too); elsewhere its absence means that nobody knows.
    fn of(place: &str, pre: Option<&str>, aquila: bool) -> Result<Family> {
        let plain = |split| Family { split, nfc: false, ignore_merges: false, add_bos: false };
        Ok(match pre {
            Some("gpt-2" | "gpt2") => plain(Split::Gpt2),
            None | Some("default") if aquila => plain(Split::Gpt2),
            Some("smollm") => plain(Split::Gpt2Digits),
            Some("qwen2") => Family { nfc: true, ..plain(Split::Modern { digits: 1 }) },
            Some("llama-bpe" | "llama3" | "llama-v3") => {
                Family { ignore_merges: true, add_bos: true, ..plain(Split::Modern { digits: 3 }) }
            }
            other => {
                let found = other.unwrap_or("none");
                crate::bail!(
                    Unsupported,
                    "{place}.pre: expected gpt-2, smollm, qwen2 or llama-bpe, found {found}"
                )
            }
        })
    }
}

//! The JSON of tokenizer files, read so that what serde would merge in silence (a key that stands
//! twice) is seen.

use super::added::Added;
use crate::base::error::Result;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use std::fmt;

/// A tokenizer.json.
#[derive(Deserialize)]
pub struct TokenizerJson {
    /// Tokens outside the model.
    #[serde(default, deserialize_with = "added_tokens")]
    pub added_tokens: Vec<Added>,
    /// Left to the crate.
    pub normalizer: Option<Value>,
    /// Recognised, or left to the crate.
    pub pre_tokenizer: Option<Value>,
    /// Left to the crate.
    pub post_processor: Option<Value>,
    /// Must be byte-level.
    pub decoder: Option<Value>,
    /// The byte-pair model.
    pub model: ModelJson,
}

/// Its `model`.
#[derive(Deserialize)]
pub struct ModelJson {
    /// Token text → id.
    #[serde(deserialize_with = "entries")]
    pub vocab: Vec<(String, u32)>,
    /// Pairs, each one string with a blank or a list of two.
    #[serde(deserialize_with = "merges")]
    pub merges: Vec<(String, String)>,
    /// For unknown characters.
    pub unk_token: Option<String>,
    /// One unknown token for a run.
    #[serde(default)]
    pub fuse_unk: bool,
    /// Whole words first.
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// What decides whether the file can be read at all.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Reads a tokenizer.json. `Unsupported` for models that are not plain byte-pair encoding.
pub fn parse_tokenizer(place: &str, text: &[u8]) -> Result<TokenizerJson> {
    let format = |cause: serde_json::Error| crate::error!(Format, "{place}: {cause}");
    let kind = serde_json::from_slice::<Kind>(text).map_err(format)?.model.kind;
    let is_bpe = kind.as_deref().is_none_or(|kind| kind == "BPE");
    crate::ensure!(is_bpe, Unsupported, "{place}: model: expected BPE, found {}", kind.unwrap_or_default());
    let file: TokenizerJson = serde_json::from_slice(text).map_err(format)?;
    let model = &file.model;
    let filled = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    for (name, set) in [
        ("byte_fallback", model.byte_fallback),
        ("dropout", model.dropout.is_some_and(|share| share != 0.0)),
        ("continuing_subword_prefix", filled(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", filled(&model.end_of_word_suffix)),
    ] {
        crate::ensure!(!set, Unsupported, "{place}: model: {name}: expected none");
    }
    if let Some(unk) = &model.unk_token {
        let known = model.vocab.iter().any(|(text, _)| text == unk);
        crate::ensure!(known, Format, "{place}: model: unk_token {unk:?} is no token");
    }
    Ok(file)
}

/// Reads a JSON object of token texts and ids.
pub fn parse_vocab(place: &str, text: &[u8]) -> Result<Vec<(String, u32)>> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = entries(&mut reader).and_then(|all| reader.end().map(|()| all));
    read.map_err(|cause| crate::error!(Format, "{place}: {cause}"))
}

/// Two token texts with one blank between.
pub fn merge_pair(text: &str) -> Option<(String, String)> {
    let (left, right) = text.split_once(' ')?;
    let whole = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    whole.then(|| (left.to_string(), right.to_string()))
}

/// One entry of `added_tokens`, or of `added_tokens_decoder` in tokenizer_config.json.
pub fn added_token(place: &str, id: u32, token: &Value) -> Result<Added> {
    let flag = |key: &str| token.get(key).and_then(Value::as_bool);
    let Some(text) = token.get("content").and_then(Value::as_str) else {
        crate::bail!(Format, "{place}: added token {id}: expected a content, found none");
    };
    let single = flag("single_word").unwrap_or(false);
    crate::ensure!(!single, Unsupported, "{place}: added token {text:?}: single_word: expected false");
    let special = flag("special").unwrap_or(false);
    Ok(Added {
        id,
        text: text.to_string(),
        special,
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
    })
}

fn added_tokens<'de, D: Deserializer<'de>>(reader: D) -> std::result::Result<Vec<Added>, D::Error> {
    let list = Vec::<Value>::deserialize(reader)?;
    let read = |token: &Value| {
        let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| D::Error::custom("an added token without an id of 32 bits"))?;
        added_token("added_tokens", id, token).map_err(|error| D::Error::custom(error.message))
    };
    list.iter().map(read).collect()
}

/// An object as a list, so that a key that stands twice stays twice.
fn entries<'de, D: Deserializer<'de>>(reader: D) -> std::result::Result<Vec<(String, u32)>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, u32)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of token texts and ids")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(text) = map.next_key::<String>()? {
                let id = map.next_value::<i64>();
                let id = id.map_err(|cause| A::Error::custom(format!("token {text:?}: {cause}")))?;
                let id = u32::try_from(id);
                all.push((
                    text.clone(),
                    id.map_err(|_| A::Error::custom(format!("token {text:?}: id out of range")))?,
                ));
            }
            Ok(all)
        }
    }
    reader.deserialize_map(Entries)
}

fn merges<'de, D: Deserializer<'de>>(reader: D) -> std::result::Result<Vec<(String, String)>, D::Error> {
    struct Pair(String, String);
    impl<'de> Deserialize<'de> for Pair {
        fn deserialize<D: Deserializer<'de>>(reader: D) -> std::result::Result<Self, D::Error> {
            reader.deserialize_any(PairVisitor)
        }
    }
    struct PairVisitor;
    impl<'de> Visitor<'de> for PairVisitor {
        type Value = Pair;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a merge: two tokens")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Pair, E> {
            let pair =
                merge_pair(text).ok_or_else(|| E::custom(format!("merge {text:?}: expected two tokens")))?;
            Ok(Pair(pair.0, pair.1))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Pair, A::Error> {
            let next = |list: &mut A| {
                list.next_element::<String>()?.ok_or_else(|| A::Error::custom("merge of one token"))
            };
            let pair = Pair(next(&mut list)?, next(&mut list)?);
            match list.next_element::<String>()? {
                None => Ok(pair),
                Some(_) => Err(A::Error::custom("merge of more than two tokens")),
            }
        }
    }
    Ok(Vec::<Pair>::deserialize(reader)?.into_iter().map(|pair| (pair.0, pair.1)).collect())
}

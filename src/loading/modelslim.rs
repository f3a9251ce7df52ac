//! Directories of msModelSlim, Ascend's own quantiser: `quant_model_description*.json`, which says of each tensor how it
//! is encoded, beside `quant_model_weight*.safetensors`.

use crate::base::error::Result;
use crate::base::limits;
use crate::loading::file::SourceFile;
use crate::loading::json::{self, Entries, clip};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

const DESCRIPTION: &str = "quant_model_description";
/// What the names of weight files begin with.
pub const WEIGHTS: &str = "quant_model_weight";

/// How a tensor is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it was: `FLOAT`, or not named.
    Float,
    /// Codes of 8 bits, for inputs of 8 bits with one scale for all: `W8A8`, `W8A8S`.
    Tensor,
    /// Codes of 8 bits, for inputs of 8 bits with a scale for each token: `W8A8_DYNAMIC`.
    Tokens,
}

/// What a description says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// The file's name.
    pub file: String,
    types: HashMap<String, String>,
}

impl Description {
    /// Reads the description among a directory's `names`; `None` where there is none. `Format` where there are several.
    pub fn find(dir: &Path, names: &[String]) -> Result<Option<Description>> {
        let mut found = names.iter().filter(|name| name.starts_with(DESCRIPTION) && name.ends_with(".json"));
        let Some(name) = found.next() else { return Ok(None) };
        if let Some(other) = found.next() {
            crate::bail!(
                Format,
                "{}: expected one description of weights, found {name} and {other}",
                dir.display()
            );
        }
        let file = SourceFile::open(&dir.join(name))?;
        Description::parse(name, &file.read_all(limits::INDEX_BYTES_MAX)?).map(Some)
    }

    /// Reads the text of one. What is no string (a version, a size of groups, facts about the tool) names no encoding.
    pub fn parse(name: &str, text: &[u8]) -> Result<Description> {
        let Entries(entries) = json::parse::<Entries<Value>>(name, text)?;
        let types = entries.into_iter().filter_map(|(key, value)| match value {
            Value::String(kind) => Some((key, kind)),
            _ => None,
        });
        Ok(Description { file: name.into(), types: types.collect() })
    }

    /// How a tensor is encoded. `Unsupported` for what no product here takes.
    pub fn encoding(&self, tensor: &str) -> Result<Encoding> {
        match self.types.get(tensor).map(String::as_str) {
            None | Some("FLOAT") => Ok(Encoding::Float),
            Some("W8A8" | "W8A8S") => Ok(Encoding::Tensor),
            Some("W8A8_DYNAMIC") => Ok(Encoding::Tokens),
            Some(other) => Err(crate::error!(
                Unsupported,
                "{}: tensor {tensor}: expected FLOAT, W8A8, W8A8S or W8A8_DYNAMIC, found {:?}",
                self.file,
                clip(other)
            )),
        }
    }
}

/// The name of the weights' file, or of the index of several, among a directory's `names`; `None` where the weights
/// have the usual names. `Format` where more than one could be meant.
pub fn weights_file(names: &[String]) -> Result<Option<&str>> {
    let with = |end: &str| -> Vec<&str> {
        let named = names.iter().filter(|name| name.starts_with(WEIGHTS) && name.ends_with(end));
        named.map(String::as_str).collect()
    };
    let indices = with(".safetensors.index.json");
    let found = if indices.is_empty() { with(".safetensors") } else { indices };
    match found[..] {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        [first, second, ..] => Err(crate::error!(
            Format,
            "expected one {WEIGHTS}*.safetensors or an index of them, found {first} and {second}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn encodings_are_read_and_others_refused_by_name() {
        let text = br#"{"model_quant_type": "W8A8", "version": "1.0.0", "group_size": 0, "optional": {"a": {}},
            "q.weight": "W8A8", "k.weight": "W8A8S", "v.weight": "W8A8_DYNAMIC", "o.weight": "FLOAT", "x.weight": "W4A16"}"#;
        let description = Description::parse("d.json", text).unwrap();
        assert_eq!(description.encoding("q.weight").unwrap(), Encoding::Tensor);
        assert_eq!(description.encoding("k.weight").unwrap(), Encoding::Tensor);
        assert_eq!(description.encoding("v.weight").unwrap(), Encoding::Tokens);
        assert_eq!(description.encoding("o.weight").unwrap(), Encoding::Float);
        assert_eq!(description.encoding("nobody").unwrap(), Encoding::Float);
        let error = description.encoding("x.weight").unwrap_err();
        assert_eq!(error.status, Status::Unsupported);
        assert!(error.message.contains("x.weight") && error.message.contains("W4A16"), "{error}");
        for bad in [&b"[]"[..], b"{\"a\": \"W8A8\", \"a\": \"FLOAT\"}", b"{", b"\xff"] {
            assert_eq!(Description::parse("d.json", bad).unwrap_err().status, Status::Format);
        }
    }

    #[test]
    fn the_weights_are_one_file_or_one_index() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
            weights_file(&names).map(|name| name.map(str::to_owned))
        };
        assert_eq!(of(&["config.json", "model.safetensors"]).unwrap(), None);
        let old = "quant_model_weight_w8a8.safetensors";
        assert_eq!(of(&["config.json", old]).unwrap().as_deref(), Some(old));
        let index = "quant_model_weights.safetensors.index.json";
        let shards = [
            "quant_model_weights-00001-of-00002.safetensors",
            "quant_model_weights-00002-of-00002.safetensors",
        ];
        assert_eq!(of(&[shards[0], shards[1], index]).unwrap().as_deref(), Some(index));
        assert_eq!(of(&shards).unwrap_err().status, Status::Format);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_description_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            if let Ok(description) = Description::parse("d.json", &bytes) {
                let _ = description.encoding("a");
            }
        }
    }
}

//! A vocabulary out of one kind of file into the other: tokenizer.json from GGUF metadata, GGUF metadata from the files of a
//! Hugging Face directory.

use super::added::Added;
use super::chat::NamedTemplates;
use super::gguf::{GgufVocab, kind};
use super::split::{LLAMA3_PATTERN, QWEN2_PATTERN, Split};
use super::vocab::{Parts, PreTokenizer};
use crate::base::error::Result;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use tokenizers::NormalizerWrapper;

/// A tokenizer that can be written down.
pub struct Vocabulary(Parts);

/// What stands in a Hugging Face directory: names of files and their contents.
pub type TokenizerTexts = Vec<(&'static str, Value)>;

impl Vocabulary {
    /// Of what [`super::Tokenizer::open`] opens.
    pub fn open(path: &Path) -> Result<Vocabulary> {
        let parts = Parts::open(path)?;
        parts.check()?;
        Ok(Vocabulary(parts))
    }

    /// Of a GGUF file.
    pub fn from_gguf(gguf: &GgufVocab) -> Result<Vocabulary> {
        let parts = Parts::from_gguf(gguf)?;
        parts.check()?;
        Ok(Vocabulary(parts))
    }

    /// tokenizer.json, tokenizer_config.json and special_tokens_map.json. `Unsupported` where it is a tokenizer that only
    /// its own file describes.
    pub fn files(&self, templates: &NamedTemplates, context: usize) -> Result<TokenizerTexts> {
        let roles = self.roles();
        let mut config = roles.clone();
        config.insert("add_bos_token".into(), (!self.0.prefix.is_empty()).into());
        config.insert("add_prefix_space".into(), false.into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        config.insert("model_max_length".into(), context.into());
        // Any class but this one would put its own rules over those of tokenizer.json.
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        match templates.as_slice() {
            [] => {}
            [(_, text)] => drop(config.insert("chat_template".into(), text.as_str().into())),
            many => {
                let named = many.iter().map(|(name, text)| json!({"name": name, "template": text}));
                config.insert("chat_template".into(), named.collect());
            }
        }
        Ok(vec![
            ("tokenizer.json", self.tokenizer_json()?),
            ("tokenizer_config.json", Value::Object(config)),
            ("special_tokens_map.json", Value::Object(roles)),
        ])
    }

    /// Roles of tokens by their texts.
    fn roles(&self) -> Map<String, Value> {
        let ends = [("bos_token", self.0.bos), ("eos_token", self.0.eos)];
        let ends = ends.into_iter().filter_map(|(role, id)| Some((role.to_owned(), self.text(id?)?.into())));
        let others = self.0.roles.iter().map(|(role, text)| (role.clone(), Value::from(text.as_str())));
        ends.chain(others).collect()
    }

    fn text(&self, id: u32) -> Option<&str> {
        let added = self.0.added.iter().find(|added| added.id == id).map(|added| added.text.as_str());
        added.or_else(|| self.0.vocab.iter().find(|(_, other)| *other == id).map(|(text, _)| text.as_str()))
    }

    fn tokenizer_json(&self) -> Result<Value> {
        let parts = &self.0;
        let PreTokenizer::Own(split) = parts.pre_tokenizer else {
            crate::bail!(Unsupported, "{}: its pre-tokenizer has no name, only its own file", parts.place)
        };
        let mut added: Vec<&Added> = parts.added.iter().collect();
        added.sort_by_key(|added| added.id);
        let added: Vec<Value> = added.into_iter().map(added_json).collect();
        let mut vocab: Vec<&(String, u32)> = parts.vocab.iter().collect();
        vocab.sort_by_key(|(_, id)| *id);
        let vocab: Map<String, Value> =
            vocab.into_iter().map(|(text, id)| (text.clone(), Value::from(*id))).collect();
        let merges: Vec<String> =
            parts.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        let normalizer = parts.normalizer.as_ref().map_or(Ok(Value::Null), |normalizer| {
            serde_json::to_value(normalizer)
                .map_err(|cause| crate::error!(Internal, "{}: normalizer: {cause}", parts.place))
        })?;
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": split_json(split),
            "post_processor": self.post_processor()?,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": parts.unk_token,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": parts.fuse_unk,
                "byte_fallback": false,
                "ignore_merges": parts.ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        }))
    }

    /// What puts ids around a text; null where nothing is put there.
    fn post_processor(&self) -> Result<Value> {
        let (prefix, suffix) = (&self.0.prefix, &self.0.suffix);
        if prefix.is_empty() && suffix.is_empty() {
            return Ok(Value::Null);
        }
        let mut specials = Map::new();
        let mut piece = |&id: &u32| -> Result<Value> {
            let Some(text) = self.text(id) else {
                crate::bail!(Format, "{}: id {id} around a text is no token", self.0.place)
            };
            specials.insert(text.into(), json!({"id": text, "ids": [id], "tokens": [text]}));
            Ok(json!({"SpecialToken": {"id": text, "type_id": 0}}))
        };
        let before = prefix.iter().map(&mut piece).collect::<Result<Vec<_>>>()?;
        let after = suffix.iter().map(&mut piece).collect::<Result<Vec<_>>>()?;
        let around = |name: &str, kind: usize| {
            let text = vec![json!({"Sequence": {"id": name, "type_id": kind}})];
            [before.clone(), text, after.clone()].concat()
        };
        let single = around("A", 0);
        let pair = [single.clone(), around("B", 1)].concat();
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
    }

    /// The `tokenizer.*` entries of a GGUF file for a model of `rows` ids; ids without a token become unused ones.
    /// `Unsupported` where no name in GGUF stands for its way to cut text into words.
    pub fn gguf(&self, rows: usize) -> Result<GgufVocab> {
        let parts = &self.0;
        let place = &parts.place;
        let nfc = matches!(parts.normalizer, Some(NormalizerWrapper::NFC(_)));
        let plain = parts.normalizer.is_none() && !parts.ignore_merges;
        let pre = match parts.pre_tokenizer {
            PreTokenizer::Own(Split::Gpt2) if plain => "gpt-2",
            PreTokenizer::Own(Split::Gpt2Digits) if plain => "smollm",
            PreTokenizer::Own(Split::Modern { digits: 1 }) if nfc && !parts.ignore_merges => "qwen2",
            PreTokenizer::Own(Split::Modern { digits: 3 })
                if parts.normalizer.is_none() && parts.ignore_merges =>
            {
                "llama-bpe"
            }
            _ => crate::bail!(
                Unsupported,
                "{place}: GGUF has no name for its way to cut text into words: expected that of GPT-2, SmolLM, Qwen2 or \
                 Llama 3"
            ),
        };
        let around = parts.prefix.iter().all(|&id| Some(id) == parts.bos) && parts.prefix.len() <= 1;
        crate::ensure!(
            around && parts.suffix.iter().all(|&id| Some(id) == parts.eos) && parts.suffix.len() <= 1,
            Unsupported,
            "{place}: it puts other ids around a text than begin and end, which GGUF cannot say"
        );
        let (tokens, token_types) = self.lists(rows)?;
        let role = |name: &str| {
            let text = parts.roles.iter().find(|(role, _)| role == name).map(|(_, text)| text.as_str())?;
            parts.id_of(text)
        };
        Ok(GgufVocab {
            place: place.clone(),
            model: "gpt2".into(),
            pre: Some(pre.into()),
            tokens,
            token_types,
            merges: parts.merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
            bos: parts.bos,
            eos: parts.eos,
            unk: role("unk_token"),
            pad: role("pad_token"),
            add_bos: Some(!parts.prefix.is_empty()),
            add_eos: Some(!parts.suffix.is_empty()),
        })
    }

    /// Texts and types of all ids below `rows`.
    fn lists(&self, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
        let parts = &self.0;
        let mut texts: HashMap<u32, (&str, i32)> =
            parts.vocab.iter().map(|(text, id)| (*id, (text.as_str(), kind::NORMAL))).collect();
        for added in &parts.added {
            let kind = if added.special { kind::CONTROL } else { kind::USER_DEFINED };
            texts.insert(added.id, (added.text.as_str(), kind));
        }
        let most = texts.keys().max().map_or(0, |&id| id as usize + 1);
        crate::ensure!(
            most <= rows,
            Format,
            "{}: {most} ids, and the model has rows for {rows}",
            parts.place
        );
        let known: HashSet<&str> = texts.values().map(|(text, _)| *text).collect();
        let list = (0..rows as u32).map(|id| match texts.get(&id) {
            Some((text, kind)) => ((*text).to_owned(), *kind),
            // llama.cpp wants every text once.
            None => {
                let text = format!("[PAD{id}]");
                (if known.contains(text.as_str()) { format!("[UNUSED{id}]") } else { text }, kind::UNUSED)
            }
        });
        Ok(list.unzip())
    }
}

fn added_json(added: &Added) -> Value {
    json!({
        "id": added.id,
        "content": added.text,
        "single_word": false,
        "lstrip": added.lstrip,
        "rstrip": added.rstrip,
        "normalized": added.normalized,
        "special": added.special,
    })
}

/// A way to cut text as tokenizer.json files spell it.
fn split_json(split: Split) -> Value {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let two = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
    match split {
        Split::Gpt2 => byte_level(true),
        Split::Gpt2Digits => two(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
        Split::Modern { digits } => {
            let pattern = if digits == 1 { QWEN2_PATTERN } else { LLAMA3_PATTERN };
            let isolated = json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
            });
            two(isolated, byte_level(false))
        }
    }
}

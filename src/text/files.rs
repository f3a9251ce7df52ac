//! Tokenizer files of a Hugging Face directory: tokenizer.json, or vocab.json with merges.txt and what
//! stands beside them.

use super::added::Added;
use super::json;
use super::split::{LLAMA3_PATTERN, QWEN2_PATTERN, Split};
use super::tokenizer::Tokenizer;
use super::vocab::{Parts, PreTokenizer, is_aquila};
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use crate::loading::file::SourceFile;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::{
    Encoding, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper, Token,
};

impl Tokenizer {
    /// Opens a tokenizer.json, or a directory that holds it, or a directory with vocab.json and
    /// merges.txt. `NotFound` where there is none of them, `Unsupported` for SentencePiece and for
    /// pre-tokenizers that are not byte-level, `Format` for what is broken.
    pub fn open(path: &Path) -> Result<Tokenizer> {
        Tokenizer::from_parts(Parts::open(path)?)
    }

    /// Reads the text of a tokenizer.json and, where there are any, of the tokenizer_config.json and
    /// special_tokens_map.json beside it. `place` is the name for errors.
    pub fn from_json(place: &str, json: &[u8], beside: &[(&str, &[u8])]) -> Result<Tokenizer> {
        Tokenizer::from_parts(from_json(place, json, beside)?)
    }
}

impl Parts {
    /// What a tokenizer is made of that [`Tokenizer::open`] opens.
    pub fn open(path: &Path) -> Result<Parts> {
        if !path.is_dir() {
            let beside = path.parent().unwrap_or(Path::new("."));
            return from_json_file(path, beside);
        }
        let at = |name: &str| path.join(name);
        if at("tokenizer.json").exists() {
            return from_json_file(&at("tokenizer.json"), path);
        }
        if at("vocab.json").exists() || at("merges.txt").exists() {
            return from_vocab_and_merges(path);
        }
        let sentencepiece = at("tokenizer.model").exists();
        crate::ensure!(!sentencepiece, Unsupported, "{}: SentencePiece", at("tokenizer.model").display());
        let looked_for = "tokenizer.json, or vocab.json and merges.txt";
        crate::bail!(NotFound, "{}: no tokenizer: looked for {looked_for}", path.display())
    }
}

fn from_json(place: &str, json: &[u8], beside: &[(&str, &[u8])]) -> Result<Parts> {
    let mut roles = Roles::default();
    for (name, text) in beside {
        roles.read(name, text)?;
    }
    let mut parts = json_parts(place, json)?;
    (parts.bos, parts.eos) = (roles.id(&parts, "bos_token"), roles.id(&parts, "eos_token"));
    parts.roles = roles.further();
    if is_aquila(&parts.vocab, parts.merges.len()) {
        parts.correct_aquila_ends();
    }
    Ok(parts)
}

/// The whole file, or `None` where there is no such file. Like every file of a checkpoint it must be a regular one: a
/// pipe would keep a careless reader waiting for ever.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match SourceFile::open(path) {
        Ok(file) => file.read_all(limits::JSON_BYTES_MAX).map(Some),
        Err(error) if error.status == Status::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_named(path: &Path) -> Result<Vec<u8>> {
    read(path)?.ok_or_else(|| Error::new(Status::NotFound, format!("{}: no such file", path.display())))
}

/// The files that name roles of tokens; the later have the last word, as in transformers.
const ROLE_FILES: [&str; 2] = ["special_tokens_map.json", "tokenizer_config.json"];

fn read_roles(dir: &Path) -> Result<Roles> {
    let mut roles = Roles::default();
    for name in ROLE_FILES {
        if let Some(text) = read(&dir.join(name))? {
            roles.read(&dir.join(name).display().to_string(), &text)?;
        }
    }
    Ok(roles)
}

fn from_json_file(path: &Path, beside: &Path) -> Result<Parts> {
    let text = read_named(path)?;
    let mut companions = Vec::new();
    for name in ROLE_FILES {
        if let Some(text) = read(&beside.join(name))? {
            companions.push((beside.join(name).display().to_string(), text));
        }
    }
    let companions: Vec<(&str, &[u8])> = companions.iter().map(|(n, t)| (n.as_str(), t.as_slice())).collect();
    from_json(&path.display().to_string(), &text, &companions)
}

fn json_parts(place: &str, text: &[u8]) -> Result<Parts> {
    let file = json::parse_tokenizer(place, text)?;
    let unsupported = |what: &str, found: &Value| {
        let found = found.get("type").unwrap_or(found);
        crate::error!(Unsupported, "{place}: {what}: expected byte-level, found {found}")
    };
    let decoder = file.decoder.unwrap_or(Value::Null);
    if !is_byte_level(&decoder) {
        return Err(unsupported("decoder", &decoder));
    }
    let split = file.pre_tokenizer.unwrap_or(Value::Null);
    let mut parts = Parts::new(place, file.model.vocab, file.model.merges);
    parts.pre_tokenizer = match known_split(&split) {
        Some(split) => PreTokenizer::Own(split),
        None if ends_byte_level(&split) => {
            let other = from_value::<PreTokenizerWrapper>(place, "pre_tokenizer", split)?;
            PreTokenizer::Crate(Box::new(other))
        }
        None => return Err(unsupported("pre_tokenizer", &split)),
    };
    if let Some(normalizer) = file.normalizer.filter(|value| !value.is_null()) {
        parts.normalizer = Some(from_value::<NormalizerWrapper>(place, "normalizer", normalizer)?);
    }
    if let Some(post) = file.post_processor.filter(|value| !value.is_null()) {
        (parts.prefix, parts.suffix) = affixes(place, post)?;
    }
    parts.added = file.added_tokens;
    parts.unk_token = file.model.unk_token;
    parts.fuse_unk = file.model.fuse_unk;
    parts.ignore_merges = file.model.ignore_merges;
    Ok(parts)
}

/// A component of the crate from its JSON; a panic of its reader is a `Format` error too.
fn from_value<T: serde::de::DeserializeOwned>(place: &str, what: &str, value: Value) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(|| serde_json::from_value::<T>(value))) {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(cause)) => Err(crate::error!(Format, "{place}: {what}: {cause}")),
        Err(_) => Err(crate::error!(Format, "{place}: {what}: unusable")),
    }
}

/// What a post-processor puts before and after a text, found by letting it process one made-up token.
fn affixes(place: &str, post: Value) -> Result<(Vec<u32>, Vec<u32>)> {
    const MARK: u32 = u32::MAX;
    let post = from_value::<PostProcessorWrapper>(place, "post_processor", post)?;
    let probe = Encoding::from_tokens(vec![Token::new(MARK, String::new(), (0, 0))], 0);
    let processed =
        catch_unwind(AssertUnwindSafe(|| post.process(probe, None, true).map_err(|e| e.to_string())));
    let found = match processed {
        Ok(Ok(encoding)) => encoding.get_ids().to_vec(),
        Ok(Err(cause)) => crate::bail!(Format, "{place}: post_processor: {cause}"),
        Err(_) => crate::bail!(Format, "{place}: post_processor: unusable"),
    };
    let mut around = found.split(|&id| id == MARK);
    match (around.next(), around.next(), around.next()) {
        (Some(prefix), Some(suffix), None) => Ok((prefix.to_vec(), suffix.to_vec())),
        _ => crate::bail!(
            Format,
            "{place}: post_processor: expected the text once, found another number of times"
        ),
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    value.get("type").and_then(Value::as_str) == Some(name)
}

fn is_byte_level(value: &Value) -> bool {
    let all = |list: &Vec<Value>| !list.is_empty() && list.iter().all(is_byte_level);
    has_type(value, "ByteLevel")
        || has_type(value, "Sequence") && value.get("decoders").and_then(Value::as_array).is_some_and(all)
}

fn ends_byte_level(value: &Value) -> bool {
    let steps = value.get("pretokenizers").and_then(Value::as_array);
    has_type(value, "ByteLevel")
        || steps.and_then(|s| s.last()).is_some_and(|last| has_type(last, "ByteLevel"))
}

/// The pre-tokenizers that [`Split`] walks itself.
fn known_split(value: &Value) -> Option<Split> {
    let flag =
        |step: &Value, key: &str, default: bool| step.get(key).and_then(Value::as_bool).unwrap_or(default);
    let byte_level = |step: &Value, regex: bool| {
        has_type(step, "ByteLevel")
            && !flag(step, "add_prefix_space", true)
            && flag(step, "use_regex", true) == regex
    };
    if byte_level(value, true) {
        return Some(Split::Gpt2);
    }
    let [first, second] = value.get("pretokenizers")?.as_array()?.as_slice() else { return None };
    if has_type(first, "Digits") && flag(first, "individual_digits", false) && byte_level(second, true) {
        return Some(Split::Gpt2Digits);
    }
    let isolated = first.get("behavior").and_then(Value::as_str) == Some("Isolated");
    if !has_type(first, "Split") || !isolated || flag(first, "invert", false) || !byte_level(second, false) {
        return None;
    }
    match first.get("pattern")?.get("Regex")?.as_str()? {
        QWEN2_PATTERN => Some(Split::Modern { digits: 1 }),
        LLAMA3_PATTERN => Some(Split::Modern { digits: 3 }),
        _ => None,
    }
}

/// Which token plays which role, from the files beside the vocabulary.
#[derive(Default)]
struct Roles {
    /// Role and text, in the order of the files.
    named: Vec<(String, String)>,
    /// Tokens with their ids, from `added_tokens_decoder`.
    listed: Vec<Added>,
    add_bos: bool,
    add_prefix_space: bool,
    class: Option<String>,
}

/// Roles in the order in which transformers gives ids to tokens that have none.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Roles {
    fn read(&mut self, place: &str, text: &[u8]) -> Result<()> {
        let file: Value =
            serde_json::from_slice(text).map_err(|cause| crate::error!(Format, "{place}: {cause}"))?;
        let content = |value: &Value| {
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            text.filter(|text| !text.is_empty()).map(str::to_string)
        };
        for role in ROLES {
            if let Some(text) = file.get(role).and_then(content) {
                self.named.retain(|(other, _)| other != role);
                self.named.push((role.to_string(), text));
            }
        }
        let more = file.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
        self.named.extend(more.filter_map(content).map(|text| (String::new(), text)));
        if let Some(listed) = file.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, token) in listed {
                let id =
                    id.parse().map_err(|_| crate::error!(Format, "{place}: added_tokens_decoder: {id:?}"))?;
                self.listed.push(json::added_token(place, id, token)?);
            }
        }
        let flag = |key: &str| file.get(key).and_then(Value::as_bool);
        self.add_bos = flag("add_bos_token").unwrap_or(self.add_bos);
        self.add_prefix_space = flag("add_prefix_space").unwrap_or(self.add_prefix_space);
        self.class =
            file.get("tokenizer_class").and_then(Value::as_str).map(str::to_string).or(self.class.take());
        Ok(())
    }

    /// All but the two that have ids of their own.
    fn further(&self) -> Vec<(String, String)> {
        let ends = ["", "bos_token", "eos_token"];
        self.named.iter().filter(|(role, _)| !ends.contains(&role.as_str())).cloned().collect()
    }

    fn id(&self, parts: &Parts, role: &str) -> Option<u32> {
        let (_, text) = self.named.iter().find(|(name, _)| name == role)?;
        parts.id_of(text)
    }
}

/// Special tokens, one a line, that BAAI's training code adds to vocab.json.
const SPECIAL_LIST: &str = "special_tokens.txt";

/// vocab.json and merges.txt, as transformers' GPT2Tokenizer (or Qwen2Tokenizer) reads them.
fn from_vocab_and_merges(dir: &Path) -> Result<Parts> {
    let (vocab_path, merges_path) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let place = vocab_path.display().to_string();
    let vocab = json::parse_vocab(&place, &read_named(&vocab_path)?)?;
    let merges = parse_merges(&merges_path.display().to_string(), &read_named(&merges_path)?)?;
    let roles = read_roles(dir)?;
    let mut parts = Parts::new(place, vocab, merges);
    let aquila = is_aquila(&parts.vocab, parts.merges.len());
    choose_class(&mut parts, &roles, aquila, dir)?;
    if let Some(text) = read(&dir.join("added_tokens.json"))? {
        let place = dir.join("added_tokens.json").display().to_string();
        for (text, id) in json::parse_vocab(&place, &text)? {
            parts.added.push(Added::special(id, text));
        }
    }
    for token in &roles.listed {
        parts.added.retain(|added| added.text != token.text);
        parts.added.push(token.clone());
    }
    if let Some(text) = read(&dir.join(SPECIAL_LIST))? {
        add_listed(&mut parts, &dir.join(SPECIAL_LIST).display().to_string(), &text)?;
    }
    if aquila {
        parts.complete_aquila();
    }
    add_named(&mut parts, &roles);
    (parts.bos, parts.eos) = (roles.id(&parts, "bos_token"), roles.id(&parts, "eos_token"));
    parts.roles = roles.further();
    if aquila {
        parts.correct_aquila_ends();
    }
    if roles.add_bos {
        parts.prefix.extend(parts.bos);
    }
    Ok(parts)
}

/// Tokens that only have a role are special.
fn add_named(parts: &mut Parts, roles: &Roles) {
    add_specials(parts, roles.named.iter().map(|(_, text)| text.as_str()));
}

/// The lines of a list of special tokens, in the order of their ids.
fn add_listed(parts: &mut Parts, place: &str, text: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(text).map_err(|cause| crate::error!(Format, "{place}: {cause}"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (found, most) = (lines.clone().count(), limits::SPECIAL_TOKENS_MAX);
    crate::ensure!(found <= most, Format, "{place}: {found} special tokens, expected at most {most}");
    add_specials(parts, lines);
    Ok(())
}

/// Makes those tokens special that none of the added ones is yet; without an id they get the next ones.
fn add_specials<'a>(parts: &mut Parts, texts: impl Iterator<Item = &'a str>) {
    let Parts { vocab, added, .. } = parts;
    let known: HashMap<&str, u32> = vocab.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut seen: HashSet<String> = added.iter().map(|token| token.text.clone()).collect();
    let largest = vocab.iter().map(|&(_, id)| id).chain(added.iter().map(|token| token.id)).max();
    let mut next = largest.map_or(0, |id| id.saturating_add(1));
    for text in texts {
        if !seen.insert(text.to_owned()) {
            continue;
        }
        let id = known.get(text).copied().unwrap_or(next);
        if id == next {
            next = next.saturating_add(1);
        }
        added.push(Added::special(id, text));
    }
}

fn choose_class(parts: &mut Parts, roles: &Roles, aquila: bool, dir: &Path) -> Result<()> {
    let class = roles.class.as_deref().unwrap_or("GPT2Tokenizer");
    let byte_level =
        |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true});
    match class.trim_end_matches("Fast") {
        "GPT2Tokenizer" if roles.add_prefix_space && !aquila => {
            let with_space = from_value(&parts.place, "add_prefix_space", byte_level(true))?;
            parts.pre_tokenizer = PreTokenizer::Crate(Box::new(with_space));
        }
        "GPT2Tokenizer" => {}
        _ if aquila => {}
        "Qwen2Tokenizer" => {
            parts.pre_tokenizer = PreTokenizer::Own(Split::Modern { digits: 1 });
            parts.normalizer = Some(from_value(&parts.place, "normalizer", json!({"type": "NFC"}))?);
        }
        other => crate::bail!(
            Unsupported,
            "{}: tokenizer_class: {other:?} without a tokenizer.json; GPT2Tokenizer and Qwen2Tokenizer can be read",
            dir.join("tokenizer_config.json").display()
        ),
    }
    Ok(())
}

/// One pair of token texts a line, after an optional `#version` line.
fn parse_merges(place: &str, text: &[u8]) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(text).map_err(|cause| crate::error!(Format, "{place}: {cause}"))?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        let pair = json::merge_pair(line);
        let pair =
            pair.ok_or_else(|| crate::error!(Format, "{place}: line {}: expected two tokens", number + 1))?;
        merges.push(pair);
    }
    Ok(merges)
}

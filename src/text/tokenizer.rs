//! The tokenizer: text to ids and back.
//!
//! A text is cut at added tokens ([`super::added`]), normalised, cut into words ([`super::split`]) and
//! merged ([`super::bpe`]). Merging, normalising and the reading of post-processors are the
//! `tokenizers` crate's; its whole pipeline is not used, because its splitter is not linear and its
//! bookkeeping takes a hundred bytes for each byte of text. No call here starts a thread.

use super::added::{Added, Matcher, Part, Rules};
use super::alphabet;
use super::bpe::{Bpe, BpeParts, reserve};
use super::chat::Rendered;
use super::vocab::{Parts, PreTokenizer};
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer as _};

/// Text to ids and back. Shared by threads.
pub struct Tokenizer {
    bpe: Bpe,
    raw: Matcher,
    normalized: Matcher,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: PreTokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token's bytes start; one more entry than tokens.
    starts: Vec<u32>,
    special: Vec<bool>,
    longest: usize,
    added: HashMap<String, u32>,
    special_texts: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    roles: Vec<(String, String)>,
    assumed: Vec<String>,
}

/// What `encode` does beside the plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the file's own post-processor (GGUF: `add_bos_token`) adds.
    pub add_special: bool,
    /// Recognise special-token text such as `</s>` in the input.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Builds a tokenizer from parts of any origin. `Format` naming file and item where they do not
    /// fit together.
    pub(super) fn from_parts(parts: Parts) -> Result<Tokenizer> {
        // The crate would otherwise start a thread pool in its batch calls, which nothing here makes.
        tokenizers::utils::parallelism::set_parallelism(false);
        let place = parts.place.clone();
        guard(|| Tokenizer::build(parts))
            .unwrap_or_else(|_| Err(crate::error!(Format, "{place}: unusable tokenizer")))
    }

    fn build(parts: Parts) -> Result<Tokenizer> {
        let ids = parts.check()?;
        let (bytes, starts) = byte_table(&parts, ids)?;
        let mut special = vec![false; ids];
        for added in parts.added.iter().filter(|added| added.special) {
            special[added.id as usize] = true;
        }
        let bpe = Bpe::new(BpeParts {
            vocab: &parts.vocab,
            merges: parts.merges,
            unk_token: parts.unk_token,
            fuse_unk: parts.fuse_unk,
            ignore_merges: parts.ignore_merges,
        })
        .map_err(|error| error.at(&parts.place))?;
        let longest = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let special_texts = parts.added.iter().filter(|a| a.special).map(|a| a.text.clone()).collect();
        let added = parts.added.iter().map(|a| (a.text.clone(), a.id)).collect();
        let (mut late, early): (Vec<Added>, Vec<Added>) = parts.added.into_iter().partition(|a| a.normalized);
        for token in &mut late {
            token.text = normalize(parts.normalizer.as_ref(), &token.text)?;
        }
        late.retain(|token| !token.text.is_empty());
        Ok(Tokenizer {
            bpe,
            raw: Matcher::new(early),
            normalized: Matcher::new(late),
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            prefix: parts.prefix,
            suffix: parts.suffix,
            bytes,
            starts,
            special,
            longest,
            added,
            special_texts,
            bos: parts.bos,
            eos: parts.eos,
            roles: parts.roles,
            assumed: parts.assumed,
        })
    }

    /// Ids of `text`. `Argument` where it is longer than [`limits::PROMPT_BYTES_MAX`], `NoMemory`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        self.encode_with(text, options, &self.suffix)
    }

    /// Ids of a prompt to generate from: as `encode`, less the special tokens (an end-of-sequence) that
    /// the post-processor puts behind the text, because the text goes on.
    pub fn encode_prompt(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let kept = self.suffix.iter().rposition(|&id| !self.is_special(id)).map_or(0, |last| last + 1);
        self.encode_with(text, options, &self.suffix[..kept])
    }

    /// Ids of a rendered chat: nothing is added (the template wrote its own special tokens), and no
    /// special token is recognised where the text came from a message.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let rules = Rules { parse_special: true, literal: &rendered.literal };
        self.encode_into(&rendered.text, rules, &mut ids)?;
        Ok(ids)
    }

    fn encode_with(&self, text: &str, options: EncodeOptions, suffix: &[u32]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend_from_slice(&self.prefix);
        }
        let rules = Rules { parse_special: options.parse_special, literal: &[] };
        self.encode_into(text, rules, &mut ids)?;
        if options.add_special {
            reserve(&mut ids, suffix.len())?;
            ids.extend_from_slice(suffix);
        }
        Ok(ids)
    }

    fn encode_into(&self, text: &str, rules: Rules<'_>, ids: &mut Vec<u32>) -> Result<()> {
        let (bytes, most) = (text.len(), limits::PROMPT_BYTES_MAX);
        crate::ensure!(bytes <= most, Argument, "text of {bytes} bytes, at most {most}");
        guard(|| {
            self.raw.cut(text, rules, |part| match part {
                Part::Token(id) => push(ids, id),
                Part::Text(range) => self.encode_between(text, range, rules, ids),
            })
        })?
    }

    /// Text between raw added tokens: normalised, cut at those that are found in normalised text.
    fn encode_between(
        &self,
        text: &str,
        range: Range<usize>,
        rules: Rules<'_>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let inside = |literal: &Range<usize>| literal.end > range.start && literal.start < range.end;
        let touched = rules.literal.iter().any(inside);
        // Ranges do not survive normalising, so a part that came from a message even in part has no
        // special tokens of this kind.
        let rules = Rules { parse_special: rules.parse_special && !touched, literal: &[] };
        let normal;
        let text = match &self.normalizer {
            None => &text[range],
            Some(_) => {
                normal = normalize(self.normalizer.as_ref(), &text[range])?;
                &normal
            }
        };
        self.normalized.cut(text, rules, |part| match part {
            Part::Token(id) => push(ids, id),
            Part::Text(range) => self.encode_words(&text[range], ids),
        })
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.pre_tokenizer {
            PreTokenizer::Own(split) => {
                let mut spelled = String::new();
                split.words(text, &mut |word| {
                    spelled.try_reserve(word.len() * 2).map_err(|_| no_memory(word.len() * 2))?;
                    alphabet::spell(word.as_bytes(), &mut spelled);
                    self.bpe.encode(&spelled, ids)
                })
            }
            PreTokenizer::Crate(pre_tokenizer) => {
                let mut pieces = PreTokenizedString::from(text);
                let cut = pre_tokenizer.pre_tokenize(&mut pieces);
                cut.map_err(|cause| crate::error!(Internal, "pre-tokenizer: {cause}"))?;
                let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
                pieces.into_iter().try_for_each(|(word, _, _)| self.bpe.encode(word, ids))
            }
        }
    }

    /// The bytes of one token: any bytes, often no whole character. Added tokens give their text, an
    /// id that the tokenizer does not know gives nothing.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let bounds = self.starts.get(at).zip(self.starts.get(at + 1));
        bounds.and_then(|(&start, &end)| self.bytes.get(start as usize..end as usize)).unwrap_or(&[])
    }

    /// Whether the token is special: left out of text unless asked for.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of a token's text as the files spell it, special or not.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.added.get(text).copied().or_else(|| self.bpe.token_id(text))
    }

    /// The text of all ids at once; bytes that form no character become U+FFFD.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if show_special || !self.is_special(id) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ids that the tokenizer knows: one more than the largest.
    pub fn vocab(&self) -> usize {
        self.special.len()
    }

    /// Bytes of the longest token: a text of `n` bytes has at least `n / longest_token()` tokens (unless
    /// a normaliser shortens it), so a text far beyond the context can be refused before it is read.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// The texts of all special tokens.
    pub fn special_texts(&self) -> &[String] {
        &self.special_texts
    }

    /// Tokens by their roles, as chat templates call them: `bos_token`, `eos_token` and what else the
    /// files name, with their texts.
    pub fn role_texts(&self) -> Vec<(String, String)> {
        let text = |id| String::from_utf8_lossy(self.token_bytes(id)).into_owned();
        let ends = [("bos_token", self.bos), ("eos_token", self.eos)];
        let ends = ends.into_iter().filter_map(|(role, id)| Some((role.to_owned(), text(id?))));
        ends.chain(self.roles.iter().cloned()).collect()
    }

    /// What was taken where the files do not say it, a sentence each.
    pub fn assumed(&self) -> &[String] {
        &self.assumed
    }

    /// Begin-of-sequence id, if the files name one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence id, if the tokenizer's files name one. What ends a text is [`super::stop_ids`].
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids, {} added)", self.vocab(), self.added.len())
    }
}

fn push(ids: &mut Vec<u32>, id: u32) -> Result<()> {
    reserve(ids, 1)?;
    ids.push(id);
    Ok(())
}

fn no_memory(bytes: usize) -> Error {
    Error::new(Status::NoMemory, format!("tokenizing: cannot take {bytes} bytes of memory"))
}

/// Runs code that calls the crate; a panic there becomes `Internal`.
fn guard<T>(run: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| crate::error!(Internal, "tokenizing failed inside"))
}

fn normalize(normalizer: Option<&NormalizerWrapper>, text: &str) -> Result<String> {
    let Some(normalizer) = normalizer else { return Ok(text.to_string()) };
    let mut normal = NormalizedString::from(text);
    normalizer.normalize(&mut normal).map_err(|cause| crate::error!(Internal, "normalizer: {cause}"))?;
    Ok(normal.get().to_string())
}

/// The bytes of every id, and where each starts.
fn byte_table(parts: &Parts, ids: usize) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut texts: Vec<(&str, bool)> = vec![("", true); ids];
    for (text, id) in &parts.vocab {
        texts[*id as usize] = (text, false);
    }
    for added in &parts.added {
        texts[added.id as usize] = (&added.text, true);
    }
    let mut bytes = Vec::new();
    let mut starts = vec![0];
    for (text, verbatim) in texts {
        match verbatim {
            true => bytes.extend_from_slice(text.as_bytes()),
            false => alphabet::unspell(text, &mut bytes),
        }
        let end = u32::try_from(bytes.len());
        starts.push(end.map_err(|_| crate::error!(Format, "{}: over 4 GiB of token text", parts.place))?);
    }
    Ok((bytes, starts))
}

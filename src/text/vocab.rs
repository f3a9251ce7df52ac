//! A vocabulary in the one form to which every kind of file is brought, and the checks that each must
//! pass before the `tokenizers` crate sees it.

use super::added::{ADDED_BYTES_MAX, Added};
use super::split::Split;
use crate::base::error::Result;
use crate::base::limits;
use std::collections::HashMap;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

/// How text becomes words in the byte alphabet.
pub enum PreTokenizer {
    /// A pattern of our own.
    Own(Split),
    /// Another one, run by the crate as the file describes it.
    Crate(Box<PreTokenizerWrapper>),
}

/// Everything a tokenizer is made of.
pub struct Parts {
    /// The file that errors name.
    pub place: String,
    /// Text in the byte alphabet and id of each token of the model.
    pub vocab: Vec<(String, u32)>,
    /// Pairs of token texts in the order of merging.
    pub merges: Vec<(String, String)>,
    /// Tokens that are found before the text is cut into words.
    pub added: Vec<Added>,
    /// Before anything else.
    pub normalizer: Option<NormalizerWrapper>,
    /// How text is cut.
    pub pre_tokenizer: PreTokenizer,
    /// Ids put before a text.
    pub prefix: Vec<u32>,
    /// Ids put after a text.
    pub suffix: Vec<u32>,
    /// Begin-of-sequence id.
    pub bos: Option<u32>,
    /// End-of-sequence id.
    pub eos: Option<u32>,
    /// Further roles of tokens and their texts, such as `pad_token`.
    pub roles: Vec<(String, String)>,
    /// See [`super::bpe::BpeParts`].
    pub unk_token: Option<String>,
    /// See [`super::bpe::BpeParts`].
    pub fuse_unk: bool,
    /// See [`super::bpe::BpeParts`].
    pub ignore_merges: bool,
    /// Ids without a token are allowed: GGUF marks unused ones.
    pub holes: bool,
    /// What was completed or corrected, a sentence each.
    pub assumed: Vec<String>,
}

impl Parts {
    /// Parts with a vocabulary and nothing else.
    pub fn new(place: impl Into<String>, vocab: Vec<(String, u32)>, merges: Vec<(String, String)>) -> Self {
        Parts {
            place: place.into(),
            vocab,
            merges,
            added: Vec::new(),
            normalizer: None,
            pre_tokenizer: PreTokenizer::Own(Split::Gpt2),
            prefix: Vec::new(),
            suffix: Vec::new(),
            bos: None,
            eos: None,
            roles: Vec::new(),
            unk_token: None,
            fuse_unk: false,
            ignore_merges: false,
            holes: false,
            assumed: Vec::new(),
        }
    }

    /// `Format`, naming file and item, unless ids are unique and below the limit and every merge,
    /// added token and id makes sense. Returns the number of ids.
    pub fn check(&self) -> Result<usize> {
        self.check_parts().map_err(|error| error.at(&self.place))
    }

    fn check_parts(&self) -> Result<usize> {
        let ids = self.check_ids()?;
        self.check_merges()?;
        for (name, list) in [("before", &self.prefix), ("after", &self.suffix)] {
            for &id in list {
                let what = format_args!("id {id} that the post-processor puts {name} a text");
                crate::ensure!((id as usize) < ids, Format, "{what}: expected below {ids}");
            }
        }
        for (name, id) in [("bos", self.bos), ("eos", self.eos)] {
            let fits = id.is_none_or(|id| (id as usize) < ids);
            crate::ensure!(fits, Format, "{name} id {}: expected below {ids}", id.unwrap_or(0));
        }
        Ok(ids)
    }

    /// Each id at most once, and (unless holes are allowed) each below the largest once.
    fn check_ids(&self) -> Result<usize> {
        let largest = self.vocab.iter().map(|&(_, id)| id).chain(self.added.iter().map(|a| a.id)).max();
        let Some(largest) = largest else { crate::bail!(Format, "vocabulary: expected tokens, found none") };
        let most = limits::VOCAB_MAX;
        crate::ensure!(largest < most, Format, "token id {largest}: expected below {most}");
        let tokens = self.vocab.len() + self.added.len();
        // Before the table of ids is made: one large id in a small file must not size it.
        let filled = self.holes || (largest as usize) < tokens;
        crate::ensure!(filled, Format, "token id {largest}: expected below {tokens}, the number of tokens");
        let mut owner: Vec<Option<&str>> = vec![None; largest as usize + 1];
        let mut texts: HashMap<&str, u32> = HashMap::with_capacity(self.vocab.len());
        for (text, id) in &self.vocab {
            if let Some(other) = owner[*id as usize].replace(text) {
                crate::bail!(Format, "token id {id}: two tokens, {other:?} and {text:?}");
            }
            if let Some(other) = texts.insert(text, *id) {
                crate::bail!(Format, "token {text:?}: two ids, {other} and {id}");
            }
        }
        self.check_added(&mut owner, &texts)?;
        if !self.holes
            && let Some(hole) = owner.iter().position(Option::is_none)
        {
            crate::bail!(Format, "token id {hole}: no token, expected one for each id to {largest}");
        }
        Ok(owner.len())
    }

    /// An added token may repeat a token of the model, text and id alike, and clash with none.
    fn check_added<'a>(&'a self, owner: &mut [Option<&'a str>], texts: &HashMap<&str, u32>) -> Result<()> {
        let mut seen: HashMap<&str, u32> = HashMap::new();
        for added in &self.added {
            let (id, text) = (added.id, added.text.as_str());
            // An empty text would be found everywhere without end.
            crate::ensure!(!text.is_empty(), Format, "added token {id}: expected a text, found an empty one");
            let (bytes, most) = (text.len(), ADDED_BYTES_MAX);
            crate::ensure!(bytes <= most, Format, "added token {id}: {bytes} bytes, expected at most {most}");
            if let Some(other) = seen.insert(text, id) {
                crate::bail!(Format, "added token {text:?}: listed twice, ids {other} and {id}");
            }
            if let Some(&other) = texts.get(text).filter(|&&other| other != id) {
                crate::bail!(Format, "added token {text:?}: id {id}, but {other} in the vocabulary");
            }
            if let Some(other) = owner[id as usize].replace(text).filter(|&other| other != text) {
                crate::bail!(Format, "token id {id}: two tokens, {other:?} and the added {text:?}");
            }
        }
        Ok(())
    }

    fn check_merges(&self) -> Result<()> {
        let texts: std::collections::HashSet<&str> =
            self.vocab.iter().map(|(text, _)| text.as_str()).collect();
        let mut product = String::new();
        for (at, (left, right)) in self.merges.iter().enumerate() {
            product.clear();
            product.push_str(left);
            product.push_str(right);
            for part in [left, right, &product] {
                let known = texts.contains(part.as_str());
                crate::ensure!(known, Format, "merge {at} ({left:?}, {right:?}): {part:?} is no token");
            }
            crate::ensure!(!left.is_empty() && !right.is_empty(), Format, "merge {at}: an empty half");
        }
        Ok(())
    }

    /// The id of a token's text, added or not.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        let added = self.added.iter().find(|added| added.text == text).map(|added| added.id);
        added.or_else(|| self.vocab.iter().find(|(token, _)| token == text).map(|&(_, id)| id))
    }
}

/// The tokens that the published vocab.json of Aquila-7B lacks and its tokenizer.json adds, from id
/// 100000 on. The last two are begin and end of a sequence.
pub const AQUILA_ADDED: [&str; 8] =
    ["<|startofpiece|>", "<|endofpiece|>", "<|LDWANG|>", "[MASK]", "[gMASK]", "[sMASK]", "[CLS]", "</s>"];
/// Tokens of the Aquila vocabulary without the added ones.
const AQUILA_BASE: usize = 100_000;
/// Unknown and padding in Aquila; FlagAI ends a text at it too.
const AQUILA_UNK: &str = "<|endoftext|>";

/// Whether this is the vocabulary of Aquila-7B (also of the original Aquila2), by its content: number
/// of merges, the unknown token at 0, the byte symbols from 1 on, first and last merge results.
pub fn is_aquila(vocab: &[(String, u32)], merges: usize) -> bool {
    let known: [(&str, u32); 10] = [
        (AQUILA_UNK, 0),
        ("!", 1),
        ("A", 33),
        ("Ċ", 199),
        ("Ġ", 221),
        ("ĠĠ", 257),
        ("ä¸", 258),
        ("ï¼Į", 261),
        ("ä½łå¥½", 34856),
        ("çŃīè¯¾ç¨ĭ", 99999),
    ];
    let has = |&(text, id): &(&str, u32)| vocab.iter().any(|(t, i)| *i == id && t == text);
    matches!(vocab.len().checked_sub(AQUILA_BASE), Some(0..=8)) && merges == 99_743 && known.iter().all(has)
}

impl Parts {
    /// Completes the Aquila vocabulary: the eight added tokens where the files lack them, the unknown
    /// token as a special one, and the begin and end of a sequence that the model was trained with
    /// where the files name none or only the unknown token (as the files did before September 2023).
    pub fn complete_aquila(&mut self) {
        self.add_aquila_tokens();
        self.correct_aquila_ends();
    }

    fn add_aquila_tokens(&mut self) {
        if self.id_of(AQUILA_UNK) == Some(0) && !self.added.iter().any(|a| a.text == AQUILA_UNK) {
            self.added.push(Added::special(0, AQUILA_UNK));
        }
        let before = self.added.len();
        for (text, id) in AQUILA_ADDED.iter().zip(AQUILA_BASE as u32..) {
            let taken = self.added.iter().any(|a| a.id == id || a.text == *text);
            if !taken {
                self.added.push(Added::special(id, *text));
            }
        }
        let count = self.added.len() - before;
        if count > 0 {
            let last = AQUILA_ADDED.len() - 1;
            self.assumed.push(format!(
                "{count} of Aquila's special tokens, {} {AQUILA_BASE} to {} {}, stand in no file of the tokenizer",
                AQUILA_ADDED[0],
                AQUILA_ADDED[last],
                AQUILA_BASE + last
            ));
        }
    }

    /// Begin and end of a sequence as the model was trained, where the files say the unknown token.
    pub fn correct_aquila_ends(&mut self) {
        let special = |text: &str| self.added.iter().find(|a| a.text == text && a.special).map(|a| a.id);
        let (bos, eos) = (special("[CLS]"), special("</s>"));
        for (what, id, true_id) in [("begin", &mut self.bos, bos), ("end", &mut self.eos, eos)] {
            if id.is_some_and(|id| id != 0) {
                continue;
            }
            if let Some(true_id) = true_id {
                let said = if id.is_some() { AQUILA_UNK } else { "none" };
                self.assumed.push(format!(
                    "the {what} of a text is id {true_id}, with which the model was trained; the tokenizer's files name \
                     {said}"
                ));
            }
            *id = true_id;
        }
    }
}

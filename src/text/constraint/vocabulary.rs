//! The tokens of a model as a tree of bytes.

use crate::base::error::Result;
use crate::base::limits;
use crate::text::tokenizer::Tokenizer;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use std::sync::Arc;

/// The tree, and which ids stand in it.
pub struct Vocabulary {
    /// The tree as the parsers take it. It is told that its tokenizer makes approximate tokens, for with exact ones
    /// the parser would allow only the tokens that the tokenizer makes of a forced text, and not all that spell it.
    pub tree: TokEnv,
    /// `[rows + 1]` bits: the tokens that may be chosen at all.
    pub usable: SimpleVob,
}

impl Vocabulary {
    /// The first `rows` ids of a tokenizer: as many as the model has logits. Left out, and so never allowed, are ids
    /// without bytes (rows that only pad the embedding), tokens longer than any text needs, and those with the byte FF,
    /// which is in no UTF-8 text. `Unsupported` where the bytes are too many for a tree.
    pub fn new(tokenizer: &Tokenizer, rows: usize) -> Result<Vocabulary> {
        let mut words: Vec<Vec<u8>> = (0..rows as u32).map(|id| word(tokenizer, id)).collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        let most = limits::CONSTRAINT_VOCABULARY_BYTES_MAX;
        crate::ensure!(
            bytes <= most,
            Unsupported,
            "constraint: the tokens have {bytes} bytes, and constrained output takes at most {most}"
        );
        // An id of our own as the end: the parser says with it that the text is complete, and the matcher allows the
        // model's and the request's ids that end a text instead.
        let end = words.len() as u32;
        words.push(Vec::new());
        let tree = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let mut usable = tree.alloc_token_set();
        for (id, _) in (0u32..).zip(&words).filter(|(_, word)| !word.is_empty()) {
            usable.allow_token(id);
        }
        Ok(Vocabulary { tree: Arc::new(ApproximateTokEnv::new(tree)), usable })
    }

    /// Ids of the model: one logit each.
    pub fn rows(&self) -> usize {
        self.usable.len() - 1
    }
}

/// What stands in the tree for an id; nothing where it is left out.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if bytes.is_empty()
        || bytes.len() > limits::CONSTRAINT_TOKEN_BYTES_MAX
        || bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER)
    {
        return Vec::new();
    }
    // Only a grammar that names a special token can mean it: its text is written with ordinary tokens.
    let marker = tokenizer.is_special(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
    marker.into_iter().chain(bytes.iter().copied()).collect()
}

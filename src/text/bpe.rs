//! Byte-pair merging: the `tokenizers` crate's model for ordinary words, and the same merges on flat
//! arrays for very long ones.
//!
//! The crate takes some 120 bytes of memory for each byte of a word and aborts the process where they
//! cannot be had. A word is short in any language; a run of a million letters is an accident or an
//! attack. From [`LONG_WORD`] on the merges are done here, in 12 bytes a symbol and 16 a queue entry,
//! and memory that is refused is an error.

use crate::base::error::{Error, Result, Status};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

/// Words of more characters than this are merged here instead of in the crate.
const LONG_WORD: usize = 4096;

/// What the model is made of, checked.
pub struct BpeParts<'a> {
    /// Token text in the byte alphabet, and id.
    pub vocab: &'a [(String, u32)],
    /// Pairs of token texts; the earlier, the sooner merged. Both and their product are in `vocab`.
    pub merges: Vec<(String, String)>,
    /// The token for characters that have none.
    pub unk_token: Option<String>,
    /// One unknown token for a run of unknown characters.
    pub fuse_unk: bool,
    /// A word that is a token is that token, whatever the merges say (Llama 3).
    pub ignore_merges: bool,
}

/// A byte-pair model. Shared by threads.
pub struct Bpe {
    model: BPE,
    /// Pair of ids → rank and merged id.
    merges: HashMap<(u32, u32), (u32, u32), BuildHasherDefault<PairHasher>>,
    ignore_merges: bool,
    /// Long words fall back on the crate where unknown characters make tokens of their own.
    has_unk: bool,
}

impl Bpe {
    /// Builds the model. `Format` where the crate refuses what the caller's checks let pass.
    pub fn new(parts: BpeParts<'_>) -> Result<Bpe> {
        let vocab: Vocab = parts.vocab.iter().cloned().collect();
        let mut merges = HashMap::with_capacity_and_hasher(parts.merges.len(), Default::default());
        let (mut product, unknown) = (String::new(), || crate::error!(Format, "a merge of unknown tokens"));
        for (rank, (left, right)) in parts.merges.iter().enumerate() {
            product.clear();
            product.push_str(left);
            product.push_str(right);
            let id = |text: &str| vocab.get(text).copied().ok_or_else(unknown);
            merges.insert((id(left)?, id(right)?), (rank as u32, id(&product)?));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, parts.merges)
            .fuse_unk(parts.fuse_unk)
            .ignore_merges(parts.ignore_merges);
        let has_unk = parts.unk_token.is_some();
        if let Some(unk) = parts.unk_token {
            builder = builder.unk_token(unk);
        }
        let model = builder.build().map_err(|cause| crate::error!(Format, "byte-pair model: {cause}"))?;
        Ok(Bpe { model, merges, ignore_merges: parts.ignore_merges, has_unk })
    }

    /// The id of a token's text.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the ids of one word, given in the byte alphabet.
    pub fn encode(&self, word: &str, out: &mut Vec<u32>) -> Result<()> {
        if word.len() > LONG_WORD && !self.has_unk {
            return self.encode_long(word, out);
        }
        let tokens = self.model.tokenize(word).map_err(|e| crate::error!(Internal, "tokenizing: {e}"))?;
        reserve(out, tokens.len())?;
        out.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }

    /// The crate's merge order on flat arrays: always the pair of least rank, leftmost first.
    fn encode_long(&self, word: &str, out: &mut Vec<u32>) -> Result<()> {
        if self.ignore_merges
            && let Some(id) = self.model.token_to_id(word)
        {
            out.push(id);
            return Ok(());
        }
        let mut symbols = self.symbols(word)?;
        let mut queue = Vec::new();
        reserve(&mut queue, symbols.len())?;
        queue.extend((0..symbols.len() as u32).filter_map(|at| self.entry(&symbols, at)));
        let mut queue = BinaryHeap::from(queue);
        while let Some(Reverse((_, at, merged))) = queue.pop() {
            let next = symbols[at as usize].next;
            if symbols[at as usize].id == GONE || next == END {
                continue;
            }
            // An entry whose neighbours changed since is stale.
            let pair = (symbols[at as usize].id, symbols[next as usize].id);
            if self.merges.get(&pair).is_none_or(|&(_, id)| id != merged) {
                continue;
            }
            let after = symbols[next as usize].next;
            symbols[at as usize].id = merged;
            symbols[at as usize].next = after;
            symbols[next as usize].id = GONE;
            if after != END {
                symbols[after as usize].prev = at;
            }
            let before = symbols[at as usize].prev;
            if before != END {
                self.offer(&symbols, before, &mut queue)?;
            }
            self.offer(&symbols, at, &mut queue)?;
        }
        let left = symbols.iter().filter(|symbol| symbol.id != GONE);
        reserve(out, left.clone().count())?;
        out.extend(left.map(|symbol| symbol.id));
        Ok(())
    }

    /// One symbol for each character that is a token; the others are left out, as the crate does.
    fn symbols(&self, word: &str) -> Result<Vec<Symbol>> {
        // The alphabet has 256 characters, so a few lookups serve the longest word.
        let mut known: HashMap<char, Option<u32>> = HashMap::new();
        let mut symbols: Vec<Symbol> = Vec::new();
        let count = word.chars().count();
        crate::ensure!(count < END as usize, Argument, "a word of {count} bytes, at most {}", END - 1);
        reserve(&mut symbols, count)?;
        for c in word.chars() {
            let mut text = [0; 4];
            let id = *known.entry(c).or_insert_with(|| self.model.token_to_id(c.encode_utf8(&mut text)));
            if let Some(id) = id {
                let at = symbols.len() as u32;
                symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at + 1 });
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
        Ok(symbols)
    }

    /// Queues the pair that starts at `at`, if it merges.
    fn offer(&self, symbols: &[Symbol], at: u32, queue: &mut BinaryHeap<Entry>) -> Result<()> {
        if let Some(entry) = self.entry(symbols, at) {
            queue.try_reserve(1).map_err(|_| no_memory(queue.len()))?;
            queue.push(entry);
        }
        Ok(())
    }

    fn entry(&self, symbols: &[Symbol], at: u32) -> Option<Entry> {
        let symbol = symbols.get(at as usize)?;
        let next = symbols.get(symbol.next as usize)?;
        self.merges.get(&(symbol.id, next.id)).map(|&(rank, merged)| Reverse((rank, at, merged)))
    }
}

/// Rank, place and product of a pair that may merge; the least comes first.
type Entry = Reverse<(u32, u32, u32)>;

/// A hash for pairs of ids. The ids come from the model's own file, so nobody gains from collisions,
/// and merging a long word is mostly lookups.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }
    fn write_u32(&mut self, id: u32) {
        // An odd constant spreads the bits upward, the rotation brings them down again.
        self.0 = (self.0.rotate_left(26) ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// No symbol before or after. `0.wrapping_sub(1)`, so the first symbol's `prev` is it too.
const END: u32 = u32::MAX;
/// The id of a symbol that was merged into the one before it; beyond every vocabulary.
const GONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

fn no_memory(count: usize) -> Error {
    Error::new(Status::NoMemory, format!("tokenizing: no memory for {count} more items"))
}

/// Room for `more` items, or `NoMemory`.
pub fn reserve<T>(out: &mut Vec<T>, more: usize) -> Result<()> {
    out.try_reserve(more).map_err(|_| no_memory(more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small model whose merges overlap in every way: all products of `a`, `b`, `c` up to length 4
    /// that a random order of pairs gives.
    fn model(order: &[usize], ignore_merges: bool) -> Bpe {
        let mut vocab: Vec<(String, u32)> =
            ["a", "b", "c"].iter().zip(0..).map(|(s, i)| (s.to_string(), i)).collect();
        let mut merges = Vec::new();
        for &step in order {
            let (left, right) =
                (vocab[step % vocab.len()].0.clone(), vocab[step / 7 % vocab.len()].0.clone());
            let product = format!("{left}{right}");
            if product.len() <= 8 && !merges.contains(&(left.clone(), right.clone())) {
                if !vocab.iter().any(|(text, _)| *text == product) {
                    vocab.push((product, vocab.len() as u32));
                }
                merges.push((left, right));
            }
        }
        let parts = BpeParts { vocab: &vocab, merges, unk_token: None, fuse_unk: false, ignore_merges };
        Bpe::new(parts).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn long_words_merge_as_in_the_crate(
            order in prop::collection::vec(0usize..2000, 1..40), word in "[abcd]{0,60}", ignore in any::<bool>()
        ) {
            let bpe = model(&order, ignore);
            let (mut short, mut long) = (Vec::new(), Vec::new());
            bpe.encode(&word, &mut short).unwrap();
            if !word.is_empty() {
                bpe.encode_long(&word, &mut long).unwrap();
            }
            prop_assert_eq!(short, long);
        }
    }
}

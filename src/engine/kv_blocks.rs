//! Which KV block belongs to whom. Blocks are numbers; the memory behind them is the executor's.
//!
//! A block is held by some sequences, or idle with a content that may be wanted again ([`Prefixes`]), or free.

use crate::engine::prefix::{Chain, Prefixes};

/// The free list, the reference counts and the contents of all KV blocks of an engine.
#[derive(Clone, Debug)]
pub struct KvBlocks {
    block_tokens: usize,
    /// How many sequences hold each block.
    references: Vec<u32>,
    /// Blocks that nobody holds and whose content nobody wants; the last one is taken first.
    free: Vec<u32>,
    prefixes: Prefixes,
}

impl KvBlocks {
    /// `blocks` free blocks of `block_tokens` positions each.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX - 1);
        KvBlocks {
            block_tokens,
            references: vec![0; count as usize],
            free: (0..count).rev().collect(),
            prefixes: Prefixes::new(count as usize, block_tokens),
        }
    }

    /// Positions in one block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> usize {
        self.free.len() + self.prefixes.idle()
    }

    /// Those of them whose content may be wanted again.
    pub fn idle_blocks(&self) -> usize {
        self.prefixes.idle()
    }

    /// Blocks in all.
    pub fn blocks(&self) -> usize {
        self.references.len()
    }

    /// Blocks that `tokens` positions need.
    pub fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Extends `table` until it holds `tokens` positions. Takes nothing and returns `false` where not
    /// enough blocks are free.
    pub fn grow(&mut self, table: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = self.needed(tokens).saturating_sub(table.len());
        if missing > self.free_blocks() {
            return false;
        }
        for _ in 0..missing {
            let Some(block) = self.free.pop().or_else(|| self.prefixes.give_up()) else { return false };
            self.references[block as usize] = 1;
            table.push(block);
        }
        true
    }

    /// Begins an empty `table` with the known blocks that a text of `tokens` begins with behind `start`, as far as they
    /// lie before position `most`, and gives the name of the last one.
    pub fn adopt(&mut self, table: &mut Vec<u32>, tokens: &[u32], most: usize, start: Chain) -> Chain {
        let mut chain = start;
        for tokens in tokens[..most.min(tokens.len())].chunks_exact(self.block_tokens) {
            let Some((block, name)) = self.prefixes.find(chain, tokens) else { break };
            let count = &mut self.references[block as usize];
            if *count == 0 {
                self.prefixes.take_up(block);
            }
            *count += 1;
            table.push(block);
            chain = name;
        }
        chain
    }

    /// Makes the blocks of `table` from number `from` on known, as far as `tokens`, the text that is computed in
    /// them, fills them. `chain` is the name of the block before. Gives how many are known now, and the last one's
    /// name.
    pub fn publish(&mut self, table: &[u32], tokens: &[u32], from: usize, chain: Chain) -> (usize, Chain) {
        let (mut known, mut chain) = (from, chain);
        let rest = tokens.get(from * self.block_tokens..).unwrap_or(&[]);
        for (tokens, &block) in rest.chunks_exact(self.block_tokens).zip(table.iter().skip(from)) {
            chain = self.prefixes.publish(chain, tokens, block);
            known += 1;
        }
        (known, chain)
    }

    /// Gives all blocks of `table` back and empties it.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        while let Some(block) = table.pop() {
            let count = &mut self.references[block as usize];
            *count = count.saturating_sub(1);
            if *count > 0 {
                continue;
            }
            if self.prefixes.knows(block) {
                self.prefixes.rest(block);
            } else {
                self.free.push(block);
            }
        }
    }

    /// Whether every block is either free or held exactly as often as `tables` say. For tests.
    pub fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) -> Result<(), String> {
        let mut held = vec![0u32; self.references.len()];
        for &block in tables.flatten() {
            match held.get_mut(block as usize) {
                Some(count) => *count += 1,
                None => return Err(format!("block {block} does not exist")),
            }
        }
        if held != self.references {
            return Err(format!("held {held:?}, counted {:?}", self.references));
        }
        let mut seen = vec![false; held.len()];
        let idle: Vec<u32> = self.prefixes.idle_blocks().collect();
        for &block in self.free.iter().chain(&idle) {
            if held[block as usize] != 0 || std::mem::replace(&mut seen[block as usize], true) {
                return Err(format!("block {block} is free and held, or free twice"));
            }
        }
        if let Some(block) = idle.iter().find(|&&block| !self.prefixes.knows(block)) {
            return Err(format!("block {block} is idle, and nobody knows what is in it"));
        }
        if let Some(block) = self.free.iter().find(|&&block| self.prefixes.knows(block)) {
            return Err(format!("block {block} is free, and can still be found"));
        }
        let free = held.iter().filter(|&&count| count == 0).count();
        if free != self.free_blocks() || idle.len() != self.prefixes.idle() {
            return Err(format!(
                "{free} blocks are held by nobody, {} are free, {} of {} idle",
                self.free.len(),
                idle.len(),
                self.prefixes.idle()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_all_or_nothing() {
        let mut blocks = KvBlocks::new(4, 16);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert!(blocks.grow(&mut a, 33));
        assert_eq!(a.len(), 3);
        assert!(!blocks.grow(&mut b, 17));
        assert!(b.is_empty());
        assert!(blocks.grow(&mut b, 16));
        assert!(blocks.grow(&mut a, 48), "no new block is needed for 48 positions");
        blocks.check_integrity([a.as_slice(), b.as_slice()].into_iter()).unwrap();
        blocks.release(&mut a);
        assert_eq!(blocks.free_blocks(), 3);
        assert!(blocks.check_integrity([a.as_slice()].into_iter()).is_err());
    }

    #[test]
    fn texts_of_different_realms_share_nothing() {
        let mut blocks = KvBlocks::new(8, 4);
        let text: Vec<u32> = (0..8).collect();
        let mut table = computed(&mut blocks, &text);
        let mut own = Vec::new();
        assert!(blocks.adopt(&mut own, &text, 8, Chain::start(7)) == Chain::start(7) && own.is_empty());
        assert!(blocks.grow(&mut own, 8));
        blocks.publish(&own, &text, 0, Chain::start(7));
        for (start, expected) in [(Chain::START, &table), (Chain::start(7), &own), (Chain::start(8), &vec![])]
        {
            let mut found = Vec::new();
            blocks.adopt(&mut found, &text, 8, start);
            assert_eq!(&found, expected);
            blocks.release(&mut found);
        }
        blocks.release(&mut table);
        blocks.release(&mut own);
        blocks.check_integrity(std::iter::empty()).unwrap();
    }

    /// The tables of some sequences that were computed whole.
    fn computed(blocks: &mut KvBlocks, tokens: &[u32]) -> Vec<u32> {
        let mut table = Vec::new();
        let chain = blocks.adopt(&mut table, tokens, tokens.len(), Chain::START);
        let from = table.len();
        assert!(blocks.grow(&mut table, tokens.len()));
        blocks.publish(&table, tokens, from, chain);
        table
    }

    #[test]
    fn a_text_that_begins_alike_shares_blocks_and_only_as_far_as_it_does() {
        let mut blocks = KvBlocks::new(16, 4);
        let one: Vec<u32> = (0..12).collect();
        let first = computed(&mut blocks, &one);
        let mut two = one.clone();
        two[9] = 77;
        let second = computed(&mut blocks, &two);
        assert_eq!(first[..2], second[..2]);
        assert_ne!(first[2], second[2]);
        // The same tokens behind other ones are another text.
        let third = computed(&mut blocks, &one[4..]);
        assert!(third.iter().all(|block| !first.contains(block)));
        blocks.check_integrity([&*first, &*second, &*third].into_iter()).unwrap();
        let mut table = Vec::new();
        blocks.adopt(&mut table, &one, 11, Chain::START);
        assert_eq!(table, first[..2], "the block that holds position 11 is not taken over");
    }

    #[test]
    fn idle_blocks_are_found_until_their_memory_is_needed_and_ends_go_first() {
        let mut blocks = KvBlocks::new(4, 4);
        let text: Vec<u32> = (0..12).collect();
        let mut table = computed(&mut blocks, &text);
        let of_text = table.clone();
        blocks.release(&mut table);
        assert_eq!((blocks.free_blocks(), blocks.idle_blocks()), (4, 3));
        blocks.check_integrity(std::iter::empty()).unwrap();
        let (mut other, mut again) = (Vec::new(), Vec::new());
        assert!(blocks.grow(&mut other, 8), "the free block, and the last of the text");
        blocks.adopt(&mut again, &text, 12, Chain::START);
        assert_eq!(again, of_text[..2]);
        assert!(!blocks.grow(&mut other, 12), "all are held");
        blocks.check_integrity([&*other, &*again].into_iter()).unwrap();
    }

    #[test]
    fn what_followed_a_block_that_was_given_up_is_not_found_behind_its_successor() {
        let mut blocks = KvBlocks::new(3, 2);
        let (mut a, mut b) = (computed(&mut blocks, &[1, 2]), Vec::new());
        // `b` continues `a`, but goes idle before it.
        let chain = blocks.adopt(&mut b, &[1, 2, 3, 4], 4, Chain::START);
        assert!(blocks.grow(&mut b, 4));
        blocks.publish(&b, &[1, 2, 3, 4], 1, chain);
        blocks.release(&mut b);
        blocks.release(&mut a);
        let mut all = Vec::new();
        assert!(blocks.grow(&mut all, 4), "the free block and the end of b");
        blocks.release(&mut all);
        let mut found = Vec::new();
        blocks.adopt(&mut found, &[1, 2, 3, 4], 4, Chain::START);
        assert_eq!(found.len(), 1);
    }
}

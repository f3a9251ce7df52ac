//! Which KV block belongs to whom. Blocks are numbers; the memory behind them is the executor's.

/// The free list and the reference counts of all KV blocks of an engine.
#[derive(Clone, Debug)]
pub struct KvBlocks {
    block_tokens: usize,
    /// How many sequences hold each block.
    references: Vec<u32>,
    /// Blocks that nobody holds; the last one is taken first.
    free: Vec<u32>,
}

impl KvBlocks {
    /// `blocks` free blocks of `block_tokens` positions each.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        KvBlocks { block_tokens, references: vec![0; count as usize], free: (0..count).rev().collect() }
    }

    /// Positions in one block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
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
        if missing > self.free.len() {
            return false;
        }
        for block in self.free.drain(self.free.len() - missing..).rev() {
            self.references[block as usize] = 1;
            table.push(block);
        }
        true
    }

    /// Gives all blocks of `table` back and empties it.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..) {
            let count = &mut self.references[block as usize];
            *count = count.saturating_sub(1);
            if *count == 0 {
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
        for &block in &self.free {
            if held[block as usize] != 0 || std::mem::replace(&mut seen[block as usize], true) {
                return Err(format!("block {block} is free and held, or free twice"));
            }
        }
        let free = held.iter().filter(|&&count| count == 0).count();
        if free != self.free.len() {
            return Err(format!(
                "{free} blocks are held by nobody, {} are in the free list",
                self.free.len()
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
}

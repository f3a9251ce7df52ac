//! Which KV blocks hold which beginning of a text, so that a prompt that begins alike needs not be computed again.
//!
//! A block is known by the tokens in it and by the block before it, so a chain of blocks is a text from its first
//! token on. Tokens are compared, not hashes of them alone: two prompts never share a block by accident.
//!
//! A known block that no sequence holds is *idle*: it keeps its content until its memory is needed. The one that
//! was idle longest goes first. A sequence gives its last block back first, so of a chain the end goes before
//! the beginning, without which it could not be found.

use std::hash::{BuildHasher, RandomState};

/// The name of a known block. Never used again, so that what followed a block that was given up is not found behind
/// another one in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain(u64);

/// What tells the starts of realms from the names of blocks, which are counted from 1.
const REALM: u64 = 1 << 63;

impl Chain {
    /// Before the first block of what all share.
    pub const START: Chain = Chain(0);

    /// Before the first block of a text of `realm`; 0 is what all share. Texts of different realms share no block, even
    /// where their tokens are the same: so nobody else is served from what came out of a file.
    pub fn start(realm: u64) -> Chain {
        if realm == 0 { Chain::START } else { Chain(REALM | realm) }
    }
}

/// No block.
const NONE: u32 = u32::MAX;

/// What is known of one block.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// `START`: nothing.
    name: Chain,
    before: Chain,
    /// The next block of the same bucket.
    next: u32,
}

/// The neighbours of an idle block, by the time since which it is idle.
#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

/// The known blocks of an engine, and the idle ones among them in order. All memory is taken when it is made.
#[derive(Clone, Debug)]
pub struct Prefixes {
    block_tokens: usize,
    /// Keyed at random, so that no prompt can be made to fill one bucket.
    hasher: RandomState,
    /// The first block of each bucket; their number is a power of two.
    buckets: Vec<u32>,
    known: Vec<Known>,
    /// `[blocks][block_tokens]`: the tokens of known blocks.
    tokens: Vec<u32>,
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    idle: usize,
    /// The last name given.
    last: u64,
}

impl Prefixes {
    /// For `blocks` blocks of `block_tokens` positions, of which none is known.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        Prefixes {
            block_tokens,
            hasher: RandomState::new(),
            buckets: vec![NONE; blocks.next_power_of_two()],
            known: vec![Known { name: Chain::START, before: Chain::START, next: NONE }; blocks],
            tokens: vec![0; blocks * block_tokens],
            links: vec![Link { older: NONE, newer: NONE }; blocks],
            oldest: NONE,
            newest: NONE,
            idle: 0,
            last: 0,
        }
    }

    /// Idle blocks.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Whether a block is known.
    pub fn knows(&self, block: u32) -> bool {
        self.known[block as usize].name != Chain::START
    }

    fn bucket(&self, before: Chain, tokens: &[u32]) -> usize {
        self.hasher.hash_one((before.0, tokens)) as usize & (self.buckets.len() - 1)
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        &self.tokens[block as usize * self.block_tokens..][..self.block_tokens]
    }

    /// The block with these tokens, as many as a block holds, behind `before`.
    pub fn find(&self, before: Chain, tokens: &[u32]) -> Option<(u32, Chain)> {
        let mut block = self.buckets[self.bucket(before, tokens)];
        while block != NONE {
            let known = &self.known[block as usize];
            if known.before == before && self.tokens_of(block) == tokens {
                return Some((block, known.name));
            }
            block = known.next;
        }
        None
    }

    /// Makes `block` known as `tokens` behind `before`, and gives its name. Where another block is known as that already,
    /// the name of that one: what follows both is the same.
    pub fn publish(&mut self, before: Chain, tokens: &[u32], block: u32) -> Chain {
        if let Some((_, name)) = self.find(before, tokens) {
            return name;
        }
        self.last += 1;
        let (name, bucket) = (Chain(self.last), self.bucket(before, tokens));
        let next = std::mem::replace(&mut self.buckets[bucket], block);
        self.known[block as usize] = Known { name, before, next };
        self.tokens[block as usize * self.block_tokens..][..self.block_tokens].copy_from_slice(tokens);
        name
    }

    /// Forgets what is in a known block.
    fn forget(&mut self, block: u32) {
        let Known { before, next, .. } = self.known[block as usize];
        let bucket = self.bucket(before, self.tokens_of(block));
        if self.buckets[bucket] == block {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while at != NONE && self.known[at as usize].next != block {
                at = self.known[at as usize].next;
            }
            if at != NONE {
                self.known[at as usize].next = next;
            }
        }
        self.known[block as usize].name = Chain::START;
    }

    /// A known block that nobody holds any more.
    pub fn rest(&mut self, block: u32) {
        self.links[block as usize] = Link { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = block,
            newest => self.links[newest as usize].newer = block,
        }
        self.newest = block;
        self.idle += 1;
    }

    /// An idle block that is held again.
    pub fn take_up(&mut self, block: u32) {
        let Link { older, newer } = self.links[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.idle -= 1;
    }

    /// Forgets the block that is idle longest and gives it up.
    pub fn give_up(&mut self) -> Option<u32> {
        let block = self.oldest;
        if block == NONE {
            return None;
        }
        self.take_up(block);
        self.forget(block);
        Some(block)
    }

    /// The idle blocks, the oldest first. For tests.
    pub fn idle_blocks(&self) -> impl Iterator<Item = u32> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let block = (at != NONE).then_some(at)?;
            at = self.links[block as usize].newer;
            Some(block)
        })
    }
}

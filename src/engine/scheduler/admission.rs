//! Who may run: admission, room for those who run, and making way for others.

use super::{Queues, Sequence, StepLimits};
use crate::engine::kv_blocks::KvBlocks;
use crate::engine::prefix::Chain;

impl Queues {
    /// Puts a sequence that comes or was put back into the waiting line: behind those of its priority, or in
    /// front of them.
    pub(super) fn wait_in_line(&mut self, sequence: Sequence, in_front: bool) {
        let priority = sequence.priority;
        let goes_after = |other: &Sequence| {
            if in_front { other.priority > priority } else { other.priority >= priority }
        };
        let at = self.waiting.partition_point(goes_after);
        self.waiting.insert(at, sequence);
    }

    /// Lets the first waiting sequence run, if there is room for it, and gives its place.
    pub(super) fn admit<'a>(
        &mut self,
        kv: &mut KvBlocks,
        limits: &StepLimits,
        budget: usize,
        tokens: &impl Fn(u64) -> &'a [u32],
    ) -> Option<usize> {
        let next = self.waiting.front()?;
        let (id, known, priority) = (next.id, next.known, next.priority);
        if !limits.chunked && known > budget {
            return None;
        }
        let (mut blocks, mut chain) = (Vec::new(), Chain::start(next.realm));
        if next.shares {
            // Rows whose results are wanted are computed in any case.
            chain = kv.adopt(&mut blocks, tokens(id), next.results.first(known), chain);
        }
        // All its known tokens must fit into free blocks: admitting puts nobody of its priority back, and a sequence
        // that was put back does not come in again only to be put back at once.
        let missing = kv.needed(known) - blocks.len();
        if self.running.len() >= limits.sequences || missing > kv.free_blocks() {
            kv.release(&mut blocks);
            return None;
        }
        let mut sequence = self.waiting.pop_front()?;
        sequence.submitted = blocks.len() * kv.block_tokens();
        sequence.published = (blocks.len(), chain);
        sequence.blocks = blocks;
        sequence.new = true;
        let at = self.running.partition_point(|s| s.priority >= priority);
        self.running.insert(at, sequence);
        Some(at)
    }

    /// Puts running sequences back, the youngest of the lowest priority first, for a waiting one of higher priority
    /// that finds no place otherwise. One with rows in flight sits this step out and is put back when they are
    /// collected.
    pub(super) fn make_way<'a>(
        &mut self,
        kv: &mut KvBlocks,
        limits: &StepLimits,
        tokens: &impl Fn(u64) -> &'a [u32],
    ) {
        self.running.iter_mut().for_each(|s| s.held = false);
        let Some(next) = self.waiting.front() else { return };
        let (id, known, priority) = (next.id, next.known, next.priority);
        if self.running.last().is_none_or(|s| s.priority >= priority) {
            return;
        }
        let mut found = Vec::new();
        if next.shares {
            kv.adopt(&mut found, tokens(id), next.results.first(known), Chain::start(next.realm));
        }
        let missing = kv.needed(known) - found.len();
        let fits = |running: usize, free: usize| running < limits.sequences && free >= missing;
        // What the victims hold together with others is counted twice: then there is less room than thought, and
        // more are put back in the next step.
        let (mut running, mut free) = (self.running.len(), kv.free_blocks());
        let mut back = self.running.len();
        while !fits(running, free) && back > 0 && self.running[back - 1].priority < priority {
            back -= 1;
            (running, free) = (running - 1, free + self.running[back].blocks.len());
        }
        if fits(running, free) {
            for index in (back..self.running.len()).rev() {
                if self.running[index].in_flight > 0 {
                    self.running[index].held = true;
                } else {
                    self.put_back(kv, index);
                }
            }
        }
        kv.release(&mut found);
    }

    /// Grows the blocks of running sequence `index` to `tokens` positions, putting younger sequences
    /// back while blocks are short. `false` where it cannot be: the sequence sits this step out.
    pub(super) fn make_room(&mut self, kv: &mut KvBlocks, index: usize, tokens: usize) -> bool {
        loop {
            if kv.grow(&mut self.running[index].blocks, tokens) {
                return true;
            }
            let victim = (index + 1..self.running.len()).rev().find(|&i| {
                let s = &self.running[i];
                s.in_flight == 0 && !s.blocks.is_empty()
            });
            let Some(victim) = victim else { return false };
            self.put_back(kv, victim);
        }
    }

    /// Gives a running sequence's blocks back; it waits in front and is computed again.
    pub(super) fn put_back(&mut self, kv: &mut KvBlocks, index: usize) {
        self.put_back += 1;
        self.wait_anew(kv, index);
    }

    /// Begins a running sequence that has nothing in flight anew, with `known` tokens that are not those it had.
    pub fn begin_anew(&mut self, kv: &mut KvBlocks, id: u64, known: usize, positions_max: usize) {
        let Some(index) = self.running.iter().position(|s| s.id == id) else { return };
        let sequence = &mut self.running[index];
        debug_assert_eq!(sequence.in_flight, 0);
        (sequence.known, sequence.positions_max) = (known, positions_max);
        self.wait_anew(kv, index);
    }

    fn wait_anew(&mut self, kv: &mut KvBlocks, index: usize) {
        let mut sequence = self.running.remove(index);
        kv.release(&mut sequence.blocks);
        (sequence.submitted, sequence.held) = (0, false);
        sequence.published = Default::default();
        if !sequence.finished {
            self.wait_in_line(sequence, true);
        }
    }
}

//! Who runs in the next step: a pure function from the state of the queues to a plan.
//!
//! Continuous batching. Every sequence is a list of positions of which the first `submitted` were
//! handed to the executor. A step takes one row from each sequence that decodes, then fills the rest
//! of its token budget with chunks of prompts, oldest first, and admits waiting sequences while rows,
//! sequences and KV blocks are left. KV blocks are taken as sequences grow; when they run out, the
//! youngest sequence gives its blocks back and waits in front, to be computed again from its tokens
//! (on a reproducible executor the text is the same). The oldest sequence is never put back, and one
//! full context always fits, so every sequence ends.
//!
//! Nothing here knows of text, threads or time, so tables and random histories test it whole.

use crate::backend::Capabilities;
use crate::engine::kv_blocks::KvBlocks;
use std::collections::VecDeque;

/// The part of a request that the scheduler sees.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// Names the request.
    pub id: u64,
    /// Tokens whose ids are known: the prompt and what was generated and collected.
    pub known: usize,
    /// Positions handed to the executor.
    pub submitted: usize,
    /// Positions that will ever be needed: the last generated token needs none.
    pub positions_max: usize,
    /// Steps in flight that hold rows of this sequence.
    pub in_flight: usize,
    /// Whether the device may select this sequence's tokens, so that it can run ahead.
    pub device_select: bool,
    /// No more rows are wanted; blocks go back when nothing is in flight.
    pub finished: bool,
    /// Its KV blocks in the order of positions.
    pub blocks: Vec<u32>,
}

impl Sequence {
    /// Whether its next row is the one after all known tokens' rows but the last: a decode row.
    fn decodes(&self) -> bool {
        self.submitted > 0 && self.submitted + 1 >= self.known
    }

    /// Rows whose tokens are known and that were not submitted.
    fn pending(&self) -> usize {
        self.known.saturating_sub(self.submitted)
    }

    /// Whether the row after the known tokens can be fed by the device's own selection.
    fn can_carry(&self) -> bool {
        self.device_select
            && self.in_flight > 0
            && self.submitted == self.known
            && self.submitted < self.positions_max
    }
}

/// What a planned sequence does in the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRows {
    /// The request.
    pub id: u64,
    /// Position of the first row.
    pub first: usize,
    /// Rows.
    pub rows: usize,
    /// Whether the last row's result is wanted: it is the last known position.
    pub wanted: bool,
    /// Whether its one row takes the token that the step in flight selects.
    pub carry: bool,
}

/// The bounds of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Most rows.
    pub tokens: usize,
    /// Most rows that prompts take while other sequences decode, so that these are not held up long.
    pub prompt_tokens_beside_decode: usize,
    /// Most sequences.
    pub sequences: usize,
    /// Prompts may be cut into chunks.
    pub chunked: bool,
    /// Prompt rows and decode rows may share a step.
    pub mixed: bool,
}

impl StepLimits {
    /// The bounds of an executor.
    pub fn of(capabilities: &Capabilities) -> Self {
        StepLimits {
            tokens: capabilities.step_tokens,
            prompt_tokens_beside_decode: (capabilities.step_tokens / 4).max(1),
            sequences: capabilities.step_sequences,
            chunked: capabilities.prefill_over_cache,
            // A whole prompt may fill a step: beside decode rows a long one would never find room.
            mixed: capabilities.mixed_steps && capabilities.prefill_over_cache,
        }
    }
}

/// The sequences of an engine: waiting in order, running in order of age.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// Not started, or put back; the first is next.
    pub waiting: VecDeque<Sequence>,
    /// Holding KV blocks; the oldest first.
    pub running: Vec<Sequence>,
    /// Whether the last step held decode rows: where steps are not mixed the two kinds take turns.
    pub decoded_last: bool,
}

impl Queues {
    /// The running sequence of that request.
    pub fn running_mut(&mut self, id: u64) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|s| s.id == id)
    }

    /// Takes finished sequences with nothing in flight out and gives their blocks back.
    pub fn retire(&mut self, kv: &mut KvBlocks) {
        self.waiting.retain(|s| !s.finished);
        self.running.retain_mut(|s| {
            let keep = !s.finished || s.in_flight > 0;
            if !keep {
                kv.release(&mut s.blocks);
            }
            keep
        });
    }

    /// Fills `plan` with the rows of the next step, in the order of age, and marks them submitted. An
    /// empty plan means there is nothing to do until a step in flight is collected or a sequence comes.
    pub fn schedule(&mut self, kv: &mut KvBlocks, limits: &StepLimits, plan: &mut Vec<PlannedRows>) {
        plan.clear();
        if limits.mixed {
            self.plan_decode(kv, limits, plan);
            self.plan_prompts(kv, limits, plan);
            return;
        }
        // In turn, so that a prompt does not wait for the end of the answers, nor an answer for all prompts.
        let prompts_first = self.decoded_last;
        for prompts in [prompts_first, !prompts_first] {
            if prompts {
                self.plan_prompts(kv, limits, plan);
            } else {
                self.plan_decode(kv, limits, plan);
            }
            if !plan.is_empty() {
                self.decoded_last = !prompts;
                return;
            }
        }
    }

    fn plan_decode(&mut self, kv: &mut KvBlocks, limits: &StepLimits, plan: &mut Vec<PlannedRows>) {
        let mut index = 0;
        while index < self.running.len() && plan.len() < limits.sequences.min(limits.tokens) {
            let sequence = &self.running[index];
            let carry = sequence.can_carry();
            let one_row = sequence.decodes() && sequence.pending() == 1;
            if sequence.finished || !(carry || one_row) {
                index += 1;
                continue;
            }
            if !self.make_room(kv, index, sequence.submitted + 1) {
                index += 1;
                continue;
            }
            let sequence = &mut self.running[index];
            plan.push(PlannedRows {
                id: sequence.id,
                first: sequence.submitted,
                rows: 1,
                wanted: true,
                carry,
            });
            sequence.submitted += 1;
            sequence.in_flight += 1;
            index += 1;
        }
    }

    /// Grows the blocks of running sequence `index` to `tokens` positions, putting younger sequences
    /// back while blocks are short. `false` where it cannot be: the sequence sits this step out.
    fn make_room(&mut self, kv: &mut KvBlocks, index: usize, tokens: usize) -> bool {
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
    fn put_back(&mut self, kv: &mut KvBlocks, index: usize) {
        let mut sequence = self.running.remove(index);
        kv.release(&mut sequence.blocks);
        sequence.submitted = 0;
        if !sequence.finished {
            self.waiting.push_front(sequence);
        }
    }

    fn plan_prompts(&mut self, kv: &mut KvBlocks, limits: &StepLimits, plan: &mut Vec<PlannedRows>) {
        let mut budget = limits.tokens - plan.len();
        if !plan.is_empty() {
            budget = budget.min(limits.prompt_tokens_beside_decode);
        }
        for index in 0..self.running.len() {
            self.plan_chunk(kv, index, limits, &mut budget, plan);
        }
        while budget > 0 && plan.len() < limits.sequences && self.running.len() < limits.sequences {
            let Some(next) = self.waiting.front() else { break };
            let rows = next.known.min(budget);
            let whole = rows == next.known;
            // All its known tokens must fit into free blocks: admitting never puts others back, and a
            // sequence that was put back does not come in again only to be put back at once.
            if (!limits.chunked && !whole) || kv.needed(next.known) > kv.free_blocks() {
                break;
            }
            let Some(sequence) = self.waiting.pop_front() else { break };
            self.running.push(sequence);
            self.plan_chunk(kv, self.running.len() - 1, limits, &mut budget, plan);
        }
    }

    /// Plans a chunk of the prompt of running sequence `index`, if it has one and there is room.
    fn plan_chunk(
        &mut self,
        kv: &mut KvBlocks,
        index: usize,
        limits: &StepLimits,
        budget: &mut usize,
        plan: &mut Vec<PlannedRows>,
    ) {
        // Putting a younger sequence back shortens the list under the caller's loop.
        let Some(sequence) = self.running.get(index) else { return };
        let pending = sequence.pending();
        let is_prompt = pending > 1 || (pending == 1 && sequence.submitted == 0);
        if sequence.finished || !is_prompt || plan.len() >= limits.sequences {
            return;
        }
        let rows = pending.min(*budget);
        if rows == 0 || (!limits.chunked && rows < pending) {
            return;
        }
        if !self.make_room(kv, index, sequence.submitted + rows) {
            return;
        }
        let sequence = &mut self.running[index];
        let first = sequence.submitted;
        sequence.submitted += rows;
        sequence.in_flight += 1;
        let wanted = sequence.submitted == sequence.known;
        plan.push(PlannedRows { id: sequence.id, first, rows, wanted, carry: false });
        *budget -= rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: StepLimits =
        StepLimits { tokens: 64, prompt_tokens_beside_decode: 16, sequences: 4, chunked: true, mixed: true };

    fn sequence(id: u64, prompt: usize, new: usize) -> Sequence {
        Sequence { id, known: prompt, positions_max: prompt + new - 1, ..Sequence::default() }
    }

    /// What the engine does with a collected step of a device that needs the host to choose.
    fn collect(queues: &mut Queues, plan: &[PlannedRows]) {
        for rows in plan {
            let sequence = queues.running_mut(rows.id).unwrap();
            sequence.in_flight -= 1;
            if rows.wanted && !sequence.finished {
                if sequence.submitted == sequence.positions_max {
                    sequence.finished = true;
                } else {
                    sequence.known += 1;
                }
            }
        }
    }

    fn tables(queues: &Queues) -> impl Iterator<Item = &[u32]> {
        queues.running.iter().chain(&queues.waiting).map(|s| s.blocks.as_slice())
    }

    #[test]
    fn a_long_prompt_is_chunked_and_leaves_room_for_decode() {
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
        queues.waiting.push_back(sequence(1, 10, 8));
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        assert_eq!(plan, [PlannedRows { id: 1, first: 0, rows: 10, wanted: true, carry: false }]);
        collect(&mut queues, &plan);
        queues.waiting.push_back(sequence(2, 100, 8));
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        let rows: Vec<_> = plan.iter().map(|p| (p.id, p.first, p.rows, p.wanted)).collect();
        assert_eq!(rows, [(1, 10, 1, true), (2, 0, 16, false)]);
    }

    #[test]
    fn whole_prompts_where_the_device_cannot_attend_over_the_cache() {
        let limits = StepLimits { chunked: false, mixed: false, ..LIMITS };
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
        queues.waiting.push_back(sequence(1, 40, 4));
        queues.waiting.push_back(sequence(2, 40, 4));
        queues.schedule(&mut kv, &limits, &mut plan);
        assert_eq!(plan.iter().map(|p| p.id).collect::<Vec<_>>(), [1], "40 + 40 rows do not fit whole");
        collect(&mut queues, &plan);
        queues.schedule(&mut kv, &limits, &mut plan);
        assert_eq!(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>(), [(1, 1)], "decode alone");
    }

    #[test]
    fn prompts_and_answers_take_turns_where_they_share_no_step() {
        // A prompt waited for the end of every answer that was being made when it came.
        for chunked in [false, true] {
            let limits = StepLimits { chunked, mixed: false, ..LIMITS };
            let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
            queues.waiting.push_back(sequence(1, 4, 100));
            let mut seen = Vec::new();
            for step in 0..8 {
                if step == 2 {
                    queues.waiting.push_back(sequence(2, 60, 3));
                    queues.waiting.push_back(sequence(3, 60, 3));
                }
                queues.schedule(&mut kv, &limits, &mut plan);
                seen.push(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>());
                collect(&mut queues, &plan);
                queues.retire(&mut kv);
            }
            assert_eq!(seen[..2], [[(1, 4)], [(1, 1)]], "{chunked}");
            assert_eq!(seen[2][0], (2, 60), "{chunked}: {seen:?}");
            let third = seen.iter().position(|step| step.iter().any(|rows| rows.0 == 3));
            assert!(third.is_some_and(|step| step <= 4), "{chunked}: {seen:?}");
            let of_first = seen.iter().filter(|step| step.contains(&(1, 1))).count();
            assert!(of_first >= 3, "{chunked}: {seen:?}");
        }
    }

    #[test]
    fn whole_prompts_never_share_a_step_with_decode_rows() {
        let capabilities = Capabilities {
            block_tokens: 128,
            prefill_over_cache: false,
            mixed_steps: true,
            device_select: false,
            reproducible: false,
            step_tokens: 64,
            step_sequences: 4,
        };
        let limits = StepLimits::of(&capabilities);
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
        queues.waiting.push_back(sequence(1, 4, 100));
        queues.schedule(&mut kv, &limits, &mut plan);
        collect(&mut queues, &plan);
        queues.waiting.push_back(sequence(2, 64, 3));
        queues.schedule(&mut kv, &limits, &mut plan);
        collect(&mut queues, &plan);
        queues.schedule(&mut kv, &limits, &mut plan);
        assert_eq!(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>(), [(2, 64)]);
    }

    #[test]
    fn the_youngest_gives_way_when_blocks_run_out() {
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(4, 16), Vec::new());
        queues.waiting.push_back(sequence(1, 31, 20));
        queues.waiting.push_back(sequence(2, 31, 20));
        for _ in 0..3 {
            queues.schedule(&mut kv, &LIMITS, &mut plan);
            collect(&mut queues, &plan);
        }
        assert_eq!(queues.running.iter().map(|s| s.id).collect::<Vec<_>>(), [1]);
        assert_eq!(queues.waiting[0].id, 2);
        assert_eq!(queues.waiting[0].submitted, 0);
        kv.check_integrity(tables(&queues)).unwrap();
    }

    #[test]
    fn a_device_that_selects_runs_one_step_ahead() {
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(8, 16), Vec::new());
        queues.waiting.push_back(Sequence { device_select: true, ..sequence(1, 4, 3) });
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        assert_eq!(plan, [PlannedRows { id: 1, first: 4, rows: 1, wanted: true, carry: true }]);
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        queues.schedule(&mut kv, &LIMITS, &mut plan);
        assert!(plan.is_empty(), "three tokens need six positions: {plan:?}");
    }

    proptest! {
        /// Random arrivals, lengths and ends: every sequence ends, no row is planned twice or skipped,
        /// no step is over its bounds, and no block is lost.
        #[test]
        fn random_histories(
            lengths in proptest::collection::vec((1usize..90, 1usize..40, 0usize..6), 1..12),
            blocks in 9usize..24,
            (chunked, mixed) in prop_oneof![Just((true, true)), Just((true, false)), Just((false, false))],
        ) {
            let limits = StepLimits { tokens: 128, prompt_tokens_beside_decode: 24, sequences: 5, chunked, mixed };
            let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(blocks, 16), Vec::new());
            let mut arrivals: VecDeque<_> = lengths.iter().enumerate().collect();
            let mut done = 0;
            for step in 0..4000 {
                while arrivals.front().is_some_and(|(_, l)| l.2 <= step) {
                    let (id, &(prompt, new, _)) = arrivals.pop_front().unwrap();
                    queues.waiting.push_back(sequence(id as u64, prompt, new));
                }
                queues.schedule(&mut kv, &limits, &mut plan);
                let rows: usize = plan.iter().map(|p| p.rows).sum();
                prop_assert!(rows <= limits.tokens && plan.len() <= limits.sequences);
                for rows in &plan {
                    let sequence = queues.running.iter().find(|s| s.id == rows.id).unwrap();
                    prop_assert_eq!(rows.first + rows.rows, sequence.submitted);
                    prop_assert!(sequence.blocks.len() * 16 >= sequence.submitted);
                    prop_assert!(sequence.submitted <= sequence.positions_max);
                }
                let decodes = plan.iter().filter(|p| p.rows == 1 && p.first > 0 && p.wanted).count();
                prop_assert!(mixed || decodes == 0 || decodes == plan.len(), "{:?}", plan);
                kv.check_integrity(tables(&queues)).map_err(TestCaseError::fail)?;
                let idle = plan.is_empty() && queues.running.is_empty() && queues.waiting.is_empty();
                collect(&mut queues, &plan);
                done += queues.running.iter().filter(|s| s.finished && s.in_flight == 0).count();
                queues.retire(&mut kv);
                if idle && arrivals.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(done, lengths.len());
            prop_assert_eq!(kv.free_blocks(), blocks);
        }
    }
}

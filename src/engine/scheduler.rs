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
//! A sequence of higher priority is older than all of lower priority, whenever it came: it is admitted first, and
//! where blocks or places are short the others are put back for it.
//!
//! A sequence that is admitted begins with the blocks that hold the beginning of its text already
//! ([`KvBlocks::adopt`]), its own from before it was put back among them.
//!
//! Nothing here knows of threads or time, so tables and random histories test it whole.

use crate::backend::Capabilities;
use crate::engine::kv_blocks::KvBlocks;
use crate::engine::prefix::Chain;
use std::collections::VecDeque;

mod admission;

/// The part of a request that the scheduler sees. Of proposed tokens only the number: when the step is
/// collected, `submitted` goes back to the position before the last known token.
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
    /// Tokens proposed to follow the known ones, set anew before each step: a decode row may take rows
    /// for them along.
    pub proposed: usize,
    /// No more rows are wanted; blocks go back when nothing is in flight.
    pub finished: bool,
    /// Its KV blocks in the order of positions.
    pub blocks: Vec<u32>,
    /// It was admitted, and none of its rows is planned yet.
    pub new: bool,
    /// It must make way for one of higher priority, and has rows in flight.
    pub held: bool,
    /// Higher ones go first.
    pub priority: i32,
    /// Whether it takes over blocks of texts that begin alike, and leaves its own for others: only where prompts
    /// may be computed in chunks.
    pub shares: bool,
    /// Whose blocks it shares: 0, or a number that only requests of one session have.
    pub realm: u64,
    /// Which of its rows' results are wanted.
    pub results: Results,
    /// Its first blocks that others may find, and the name of the last one.
    pub published: (usize, Chain),
}

/// Which rows of a sequence's known tokens give results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Results {
    /// The last one: the next token is made of it.
    #[default]
    Last,
    /// Those from this position on, as logits: a text is scored.
    LogitsFrom(usize),
    /// All, as hidden states: a text is embedded.
    Hidden,
}

impl Results {
    /// The first position whose result is wanted, where `known` are known.
    fn first(self, known: usize) -> usize {
        match self {
            Results::Last => known - 1,
            Results::LogitsFrom(first) => first.min(known - 1),
            Results::Hidden => 0,
        }
    }
}

impl Sequence {
    /// Whether its next row is the one after all known tokens' rows but the last: a decode row.
    fn decodes(&self) -> bool {
        !self.new && self.results == Results::Last && self.submitted > 0 && self.submitted + 1 >= self.known
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
    /// Whether these are rows of a prompt, or of a text that is computed again: not the next of an answer.
    pub prompt: bool,
    /// How many rows' results are wanted: so many of the last ones, proposed ones not counted.
    pub wanted: usize,
    /// Whether what is wanted are hidden states.
    pub hidden: bool,
    /// Whether its one row takes the token that the step in flight selects.
    pub carry: bool,
    /// Rows at the end that hold proposed tokens; the results of these and of the one before are wanted.
    pub proposed: usize,
}

impl PlannedRows {
    /// Rows whose results are wanted: the last ones.
    pub fn wanted_rows(&self) -> usize {
        self.wanted + self.proposed
    }
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
    /// Most rows whose logits are wanted.
    pub logit_rows: usize,
    /// Prompts may be cut into chunks.
    pub chunked: bool,
    /// Prompt rows and decode rows may share a step.
    pub mixed: bool,
    /// Rows that a step with proposed tokens may have; 0 or 1: none are taken.
    pub cheap_rows: usize,
}

impl StepLimits {
    /// The bounds of an executor.
    pub fn of(capabilities: &Capabilities) -> Self {
        StepLimits {
            tokens: capabilities.step_tokens,
            prompt_tokens_beside_decode: (capabilities.step_tokens / 4).max(1),
            sequences: capabilities.step_sequences,
            logit_rows: capabilities.logit_rows,
            chunked: capabilities.prefill_over_cache,
            // A whole prompt may fill a step: beside decode rows a long one would never find room.
            mixed: capabilities.mixed_steps && capabilities.prefill_over_cache,
            cheap_rows: cheap_rows(capabilities),
        }
    }
}

/// Rows that a step with proposed tokens may have on this device: none where the text could change by it
/// (its results depend on the batch), where the host does not see the logits in time, and where a step
/// cannot continue two sequences by different numbers of rows.
fn cheap_rows(can: &Capabilities) -> usize {
    let verifies = can.reproducible && !can.device_select && can.prefill_over_cache && can.mixed_steps;
    if verifies { can.cheap_rows.min(can.logit_rows).min(can.step_tokens) } else { 0 }
}

/// The sequences of an engine: waiting in order, running in order of age.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// Not started, or put back; the first is next.
    pub waiting: VecDeque<Sequence>,
    /// Holding KV blocks; the oldest first.
    pub running: Vec<Sequence>,
    /// How often a sequence was put back.
    pub put_back: u64,
    /// Whether the last step held decode rows: where steps are not mixed the two kinds take turns.
    pub decoded_last: bool,
}

impl Queues {
    /// A new sequence.
    pub fn push(&mut self, sequence: Sequence) {
        self.wait_in_line(sequence, false);
    }

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
    ///
    /// `tokens` gives the known tokens of a request.
    pub fn schedule<'a>(
        &mut self,
        kv: &mut KvBlocks,
        limits: &StepLimits,
        plan: &mut Vec<PlannedRows>,
        tokens: impl Fn(u64) -> &'a [u32],
    ) {
        plan.clear();
        self.make_way(kv, limits, &tokens);
        if limits.mixed {
            self.plan_decode(kv, limits, plan);
            let decodes = plan.len();
            self.plan_prompts(kv, limits, plan, &tokens);
            if plan.len() == decodes {
                self.plan_proposals(kv, limits, plan);
            }
            return;
        }
        // In turn, so that a prompt does not wait for the end of the answers, nor an answer for all prompts.
        let prompts_first = self.decoded_last;
        for prompts in [prompts_first, !prompts_first] {
            if prompts {
                self.plan_prompts(kv, limits, plan, &tokens);
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
            if sequence.finished || sequence.held || !(carry || one_row) {
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
                prompt: false,
                wanted: 1,
                hidden: false,
                carry,
                proposed: 0,
            });
            sequence.submitted += 1;
            sequence.in_flight += 1;
            index += 1;
        }
    }

    /// How many proposed tokens each running sequence could take into the next step at most.
    pub fn room_for_proposals(&self, limits: &StepLimits) -> usize {
        let running = self.running.iter().filter(|s| !s.finished);
        let decode = running.clone().all(|s| s.pending() <= 1 && s.decodes());
        if decode { share(limits, running.count()) } else { 0 }
    }

    /// Adds rows of proposed tokens to the decode rows of a step that holds nothing else, as far as the
    /// step stays cheap. They take blocks that are free, and none that a running sequence may want next:
    /// a proposal never puts anyone back. Blocks behind a rejected proposal stay with the sequence, which grows
    /// into them.
    fn plan_proposals(&mut self, kv: &mut KvBlocks, limits: &StepLimits, plan: &mut [PlannedRows]) {
        let share = share(limits, plan.len());
        if share == 0 {
            return;
        }
        let reserve = plan.len();
        for rows in plan.iter_mut() {
            let Some(sequence) = self.running_mut(rows.id) else { continue };
            let spare = kv.free_blocks().saturating_sub(reserve);
            let held = (sequence.blocks.len() + spare).saturating_mul(kv.block_tokens());
            let most = sequence.positions_max.min(held).saturating_sub(sequence.submitted);
            let proposed = sequence.proposed.min(share).min(most);
            if proposed > 0 && kv.grow(&mut sequence.blocks, sequence.submitted + proposed) {
                sequence.submitted += proposed;
                rows.rows += proposed;
                rows.proposed = proposed;
            }
        }
    }

    fn plan_prompts<'a>(
        &mut self,
        kv: &mut KvBlocks,
        limits: &StepLimits,
        plan: &mut Vec<PlannedRows>,
        tokens: &impl Fn(u64) -> &'a [u32],
    ) {
        let mut budget = limits.tokens - plan.len();
        if !plan.is_empty() {
            budget = budget.min(limits.prompt_tokens_beside_decode);
        }
        for index in 0..self.running.len() {
            self.plan_chunk(kv, index, limits, &mut budget, plan);
        }
        while budget > 0 && plan.len() < limits.sequences {
            let Some(index) = self.admit(kv, limits, budget, tokens) else { break };
            self.plan_chunk(kv, index, limits, &mut budget, plan);
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
        let is_prompt = pending > 1 || (pending == 1 && (sequence.new || sequence.results != Results::Last));
        if sequence.finished || sequence.held || !is_prompt || plan.len() >= limits.sequences {
            return;
        }
        let first_wanted = sequence.results.first(sequence.known).max(sequence.submitted);
        let mut rows = pending.min(*budget);
        if sequence.results != Results::Hidden {
            // Of so many rows the logits fit into this step.
            let taken: usize = plan.iter().map(|p| if p.hidden { 0 } else { p.wanted_rows() }).sum();
            let logits = limits.logit_rows.saturating_sub(taken);
            rows = rows.min((first_wanted - sequence.submitted) + logits);
        }
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
        sequence.new = false;
        let wanted = sequence.submitted.saturating_sub(first_wanted);
        plan.push(PlannedRows {
            id: sequence.id,
            first,
            rows,
            prompt: true,
            wanted,
            hidden: sequence.results == Results::Hidden,
            carry: false,
            proposed: 0,
        });
        *budget -= rows;
    }
}

impl Sequence {
    /// Lets others find the blocks in which `tokens`, the beginning of its text that is computed, lie.
    pub fn publish(&mut self, kv: &mut KvBlocks, tokens: &[u32]) {
        if self.shares {
            let (from, chain) = self.published;
            self.published = kv.publish(&self.blocks, tokens, from, chain);
        }
    }
}

/// Guessed tokens of each of `sequences` sequences in a step that stays cheap.
fn share(limits: &StepLimits, sequences: usize) -> usize {
    (limits.cheap_rows / sequences.max(1)).saturating_sub(1)
}

#[cfg(test)]
mod tests;

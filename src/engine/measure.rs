//! How fast an executor is, without scheduler, tokenizer or sampler: prefill of n tokens and decode
//! of n sequences, each at a given depth of context, and the machine's limits beside them.
//!
//! The depth of a test costs nothing to reach: the KV blocks of the earlier positions are claimed and
//! left as they are. What they hold decides the numbers that come out, not the time it takes.

pub mod limits;

use crate::backend::{Executor, MemoryPlan, Step, StepSequence, Want, WantedRow};
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The tokens of one prompt, in steps as large as the executor takes; logits of the last one.
    Prefill,
    /// One token a step for each of the sequences, with logits.
    Decode,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is measured.
    pub kind: Kind,
    /// New tokens of each sequence.
    pub tokens: usize,
    /// Tokens each sequence already has.
    pub depth: usize,
    /// Sequences side by side; 1 for prefill.
    pub batch: usize,
}

impl Case {
    /// Tokens of one sequence at the end of the test.
    pub fn context(&self) -> usize {
        self.depth.saturating_add(self.tokens)
    }

    /// KV blocks that the test claims.
    pub fn blocks(&self, block_tokens: usize) -> usize {
        self.context().div_ceil(block_tokens.max(1)).saturating_mul(self.batch)
    }

    /// Tokens computed by the test in all.
    pub fn work_tokens(&self) -> u64 {
        self.tokens as u64 * self.batch as u64
    }

    /// Floating-point operations of the whole test (a multiplication and an addition are two): every
    /// matrix once a token, attention over the positions up to the token's own, the head once for
    /// each row whose logits are wanted.
    pub fn operations(&self, spec: &DecoderSpec) -> f64 {
        let (hidden, ffn) = (spec.hidden as f64, spec.ffn as f64);
        let (q, kv) = (spec.q_width() as f64, spec.kv_width() as f64);
        let layer = 2.0 * hidden * (2.0 * q + 2.0 * kv + 3.0 * ffn);
        let heads = match self.kind {
            Kind::Prefill => 1.0,
            Kind::Decode => self.work_tokens() as f64,
        };
        // Query times key and probability times value: 4 × q operations for each earlier position.
        let pairs = self.position_pairs() * 4.0 * q;
        spec.layers as f64 * (self.work_tokens() as f64 * layer + pairs)
            + heads * 2.0 * spec.vocab as f64 * hidden
    }

    /// Bytes that the whole decode test must read from memory: the weights once a step, and the keys
    /// and values of every position that a token attends to.
    pub fn decode_bytes(&self, plan: &MemoryPlan) -> f64 {
        self.tokens as f64 * plan.weight_bytes_per_token as f64
            + self.position_pairs() * plan.kv_bytes_per_token as f64
    }

    /// Sum over all new tokens of the positions each attends to.
    fn position_pairs(&self) -> f64 {
        let (n, depth) = (self.tokens as f64, self.depth as f64);
        self.batch as f64 * (n * depth + n * (n + 1.0) / 2.0)
    }
}

/// An opened executor under measurement.
pub struct Rig {
    spec: Arc<DecoderSpec>,
    plan: MemoryPlan,
    executor: Box<dyn Executor>,
    random: u64,
    /// KV blocks that were written once, from block 0 upwards.
    blocks_touched: usize,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    sequences: Vec<StepSequence>,
    block_tables: Vec<u32>,
    wanted: Vec<WantedRow>,
}

impl Rig {
    /// Takes an opened executor, the decoder it runs and the plan it was opened with.
    pub fn new(spec: Arc<DecoderSpec>, plan: MemoryPlan, executor: Box<dyn Executor>) -> Self {
        Rig {
            spec,
            plan,
            executor,
            random: 0x9e37_79b9_7f4a_7c15,
            blocks_touched: 0,
            tokens: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            sequences: Vec::new(),
            block_tables: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// The decoder.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// What the executor took.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// The executor's facts: threads, instruction level, arithmetic.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        self.executor.describe()
    }

    /// Whether the test can be run: `ContextFull` where it needs more positions than the model has,
    /// `NoMemory` where the KV cache is too small, `Unsupported` where the executor takes no such
    /// step, `Argument` where it asks for nothing.
    pub fn check(&self, case: &Case) -> Result<()> {
        let can = self.executor.capabilities();
        crate::ensure!(case.tokens > 0 && case.batch > 0, Argument, "a test needs a token and a sequence");
        crate::ensure!(
            case.context() <= self.spec.context,
            ContextFull,
            "{} tokens at depth {} need a context of {}, the model has {}",
            case.tokens,
            case.depth,
            case.context(),
            self.spec.context
        );
        crate::ensure!(
            case.blocks(self.plan.block_tokens) <= self.plan.kv_blocks,
            NoMemory,
            "{} sequences of {} tokens need {} KV blocks, there is memory for {}",
            case.batch,
            case.context(),
            case.blocks(self.plan.block_tokens),
            self.plan.kv_blocks
        );
        crate::ensure!(
            case.batch <= can.step_sequences,
            Unsupported,
            "{} sequences a step, the device takes {}",
            case.batch,
            can.step_sequences
        );
        crate::ensure!(
            case.kind == Kind::Decode
                || can.prefill_over_cache
                || (case.depth == 0 && case.tokens <= can.step_tokens),
            Unsupported,
            "this device prefills whole prompts of at most {} tokens only",
            can.step_tokens
        );
        Ok(())
    }

    /// Steps that the test takes: each reads all weights once.
    pub fn steps(&self, case: &Case) -> usize {
        match case.kind {
            Kind::Prefill => case.tokens.div_ceil(self.executor.capabilities().step_tokens.max(1)),
            Kind::Decode => case.tokens,
        }
    }

    /// A short uncounted run of the same shape, so that no measured one pays for first touches: of
    /// weights still on disk, of KV memory never written, of code never run.
    pub fn warm_up(&mut self, case: &Case) -> Result<()> {
        self.check(case)?;
        self.touch_blocks(case.blocks(self.plan.block_tokens))?;
        let step = self.executor.capabilities().step_tokens;
        let tokens = match case.kind {
            Kind::Prefill => case.tokens.min(step),
            Kind::Decode => 1,
        };
        self.run_steps(&Case { tokens, ..*case })
    }

    /// Runs the test and gives the time of all its steps, from the first submission to the last
    /// collected row.
    pub fn run(&mut self, case: &Case) -> Result<Duration> {
        self.check(case)?;
        let start = Instant::now();
        self.run_steps(case)?;
        Ok(start.elapsed())
    }

    fn run_steps(&mut self, case: &Case) -> Result<()> {
        let most = match case.kind {
            Kind::Prefill => self.executor.capabilities().step_tokens.max(1),
            Kind::Decode => 1,
        };
        let mut done = 0;
        while done < case.tokens {
            let rows = most.min(case.tokens - done);
            let last = done + rows == case.tokens;
            self.describe_step(case, case.depth + done, rows, last || case.kind == Kind::Decode);
            self.step()?;
            done += rows;
        }
        Ok(())
    }

    /// Fills the step's tables: each sequence gets `rows` random tokens from position `start` on.
    fn describe_step(&mut self, case: &Case, start: usize, rows: usize, logits: bool) {
        let block_tokens = self.plan.block_tokens.max(1);
        let blocks = case.context().div_ceil(block_tokens);
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.sequences.clear();
        self.block_tables.clear();
        self.wanted.clear();
        for sequence in 0..case.batch {
            let first_row = self.tokens.len();
            for position in start..start + rows {
                let token = self.next_random() % self.spec.vocab.max(1) as u64;
                self.tokens.push(token as u32);
                self.positions.push(position as u32);
                self.slots.push((sequence * blocks * block_tokens + position) as u32);
            }
            self.sequences.push(StepSequence {
                first_row,
                rows,
                context: start + rows,
                first_block: self.block_tables.len(),
                blocks,
            });
            let first_block = sequence * blocks;
            self.block_tables.extend((first_block..first_block + blocks).map(|block| block as u32));
            if logits {
                self.wanted.push(WantedRow { row: first_row + rows - 1, want: Want::Logits });
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        let ticket = self.executor.submit(&Step {
            tokens: &self.tokens,
            positions: &self.positions,
            slots: &self.slots,
            sequences: &self.sequences,
            block_tables: &self.block_tables,
            wanted: &self.wanted,
            carry: &[],
        })?;
        let collected = self.executor.collect(ticket)?;
        for index in 0..self.wanted.len() {
            std::hint::black_box(collected.row(index));
        }
        Ok(())
    }

    /// Writes each of the first `blocks` blocks once. Memory that was never written reads from the
    /// kernel's one page of zeros, which stays in the nearest cache and would flatter attention.
    fn touch_blocks(&mut self, blocks: usize) -> Result<()> {
        let first = self.blocks_touched.max(1);
        let pairs: Vec<(u32, u32)> = (first..blocks).map(|block| (0, block as u32)).collect();
        if !pairs.is_empty() {
            self.executor.copy_blocks(&pairs)?;
        }
        self.blocks_touched = self.blocks_touched.max(blocks);
        Ok(())
    }

    /// splitmix64: any generator would do, the ids only have to differ.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;

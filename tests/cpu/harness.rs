//! Opens executors and drives sequences through them, block tables and all.

use aquila::backend::cpu::CpuBackend;
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Backend, Executor, ExecutorOptions, Row, Step, StepSequence, Want, WantedRow};
use aquila::model::spec::DecoderSpec;
use aquila::model::weights::WeightSet;
use std::ops::ControlFlow;
use std::sync::Arc;

pub fn options() -> ExecutorOptions {
    ExecutorOptions {
        dtype: None,
        kv_dtype: None,
        threads: 2,
        context: 64,
        max_batch: 16,
        host_memory: 0,
        device_memory: 0,
        kv_memory: 0,
        copied_bytes: 0,
        lock_memory: false,
    }
}

pub fn open(
    level: Level,
    spec: &DecoderSpec,
    weights: WeightSet,
    options: &ExecutorOptions,
) -> aquila::Result<Box<dyn Executor>> {
    let backend = CpuBackend::new(level);
    // A fixed number of blocks, so that a busy machine changes nothing.
    let mut plan = backend.plan(spec, &weights, options)?;
    plan.refusal = None;
    plan.kv_blocks = options.context.div_ceil(16) * options.max_batch;
    backend.open(Arc::new(spec.clone()), weights, options, &plan, &mut |_, _, _| ControlFlow::Continue(()))
}

/// A sequence: its tokens so far and its blocks.
#[derive(Clone)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub blocks: Vec<u32>,
    pub done: usize,
}

impl Sequence {
    /// `tokens` in blocks from `first_block` on.
    pub fn new(tokens: Vec<u32>, first_block: u32) -> Self {
        let blocks = (0..tokens.len().div_ceil(16) as u32).map(|b| first_block + b).collect();
        Sequence { tokens, blocks, done: 0 }
    }
}

/// Steps the next `rows[i]` tokens of each sequence together and gives the logits of the last row of
/// each.
pub fn step(executor: &mut dyn Executor, sequences: &mut [(&mut Sequence, usize)]) -> Vec<Vec<f32>> {
    let mut owned = Owned::default();
    for (sequence, rows) in sequences.iter_mut() {
        owned.push(sequence, *rows);
        owned.wanted.push(WantedRow { row: owned.tokens.len() - 1, want: Want::Logits });
        sequence.done += *rows;
    }
    let ticket = executor.submit(&owned.step()).unwrap();
    let collected = executor.collect(ticket).unwrap();
    (0..sequences.len())
        .map(|i| match collected.row(i) {
            Row::Logits(logits) => logits.to_vec(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// All tokens of one sequence in chunks of `chunk`; the logits of the last row of each chunk.
pub fn run(executor: &mut dyn Executor, sequence: &mut Sequence, chunk: usize) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    while sequence.done < sequence.tokens.len() {
        let rows = chunk.min(sequence.tokens.len() - sequence.done);
        all.extend(step(executor, &mut [(sequence, rows)]));
    }
    all
}

/// A step that owns its lists.
#[derive(Clone, Default)]
pub struct Owned {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub slots: Vec<u32>,
    pub sequences: Vec<StepSequence>,
    pub block_tables: Vec<u32>,
    pub wanted: Vec<WantedRow>,
}

impl Owned {
    /// Adds the next `rows` tokens of a sequence.
    pub fn push(&mut self, sequence: &Sequence, rows: usize) {
        let (start, end) = (sequence.done, sequence.done + rows);
        self.sequences.push(StepSequence {
            first_row: self.tokens.len(),
            rows,
            context: end,
            first_block: self.block_tables.len(),
            blocks: sequence.blocks.len(),
        });
        self.tokens.extend(&sequence.tokens[start..end]);
        self.positions.extend(start as u32..end as u32);
        self.slots.extend((start..end).map(|p| sequence.blocks[p / 16] * 16 + (p % 16) as u32));
        self.block_tables.extend(&sequence.blocks);
    }

    pub fn step(&self) -> Step<'_> {
        Step {
            tokens: &self.tokens,
            positions: &self.positions,
            slots: &self.slots,
            sequences: &self.sequences,
            block_tables: &self.block_tables,
            wanted: &self.wanted,
            carry: &[],
        }
    }
}

//! What the engine asks of a device: the [`Backend`] that plans and opens, and the [`Executor`] that
//! runs whole decoder steps.
//!
//! A backend is an executor of a whole step, not a library of small operations. The engine describes
//! a step (token ids, positions, block tables, KV slots, wanted rows); `submit` copies the
//! description and returns a [`Ticket`] at once or after the work, as the device likes; `collect`
//! gives the results of that ticket. So an accelerator can run ahead of the host, feed a token that
//! it selected itself into the next step (`Step::carry`), and keep its own graphs, while the CPU runs
//! one fused program. Neither could be fast behind a trait of operations or a synchronous call.
//!
//! The KV cache belongs to the executor. It is an array of blocks of `Capabilities::block_tokens`
//! token positions; the engine alone decides which block belongs to which sequence, and passes block
//! numbers. Slot s is position `s % block_tokens` of block `s / block_tokens`.

use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::WeightSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

pub mod ascend;
pub mod cpu;
pub mod rope;
pub mod shapes;
mod step_check;

/// What an executor can do, fixed when it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// Token positions in one KV block: 16 on the CPU, 128 on ATB.
    pub block_tokens: usize,
    /// Bytes of one KV block, of all layers together, as [`Executor::read_blocks`] gives them.
    pub block_bytes: usize,
    /// What these bytes mean: executors that say the same can read each other's. At most 200 bytes of text.
    pub block_form: String,
    /// Whether a prompt may be prefilled in chunks, later chunks attending over cached blocks. Where
    /// it is false a step holds whole prompts only, no prefix is shared, and `step_tokens` must reach the
    /// context: a sequence may be computed again from any of its lengths.
    pub prefill_over_cache: bool,
    /// Whether a step may mix prompt tokens and decode tokens. Where it is false, or
    /// `prefill_over_cache` is, the two kinds of steps take turns.
    pub mixed_steps: bool,
    /// Whether the device can select ids ([`Want::Select`]) and carry them into the next step.
    pub device_select: bool,
    /// How many of a row's largest logits the device can find ([`Want::Candidates`]); 0: it finds none.
    pub candidates: usize,
    /// Whether results are independent of batch composition, chunking and thread count, bit for bit.
    pub reproducible: bool,
    /// Most tokens in one step.
    pub step_tokens: usize,
    /// Most sequences in one step.
    pub step_sequences: usize,
    /// Most rows of one step whose logits may be wanted: `step_sequences` or more.
    pub logit_rows: usize,
    /// Rows up to which a step that decodes takes hardly longer than with one, because reading the weights
    /// takes its time. The engine fills decode steps up to it with tokens that it proposes; at most
    /// `logit_rows`, and 1 where a row costs a row.
    pub cheap_rows: usize,
}

/// A step in flight. Tickets of one executor rise by one and are collected in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What is wanted of a token row after the last layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// The logits: `[vocab]` f32.
    Logits,
    /// The hidden state after the final norm: `[hidden]` f32.
    Hidden,
    /// The id with the largest logit, selected on the device (capability `device_select`).
    Select,
    /// The `Capabilities::candidates` largest logits with their ids, found on the device.
    Candidates,
}

/// One row whose result is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WantedRow {
    /// Index into `Step::tokens`.
    pub row: usize,
    /// What of it.
    pub want: Want,
}

/// One sequence's share of a step: consecutive rows that continue the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSequence {
    /// First row in `Step::tokens`.
    pub first_row: usize,
    /// Rows of this sequence in this step: 1 when decoding, more in prefill and where proposed tokens are
    /// verified. Positions that an earlier step wrote may be written again.
    pub rows: usize,
    /// Tokens of the sequence including this step's: row j of the sequence stands at position
    /// `context - rows + j` and attends to all positions up to its own.
    pub context: usize,
    /// First entry of its block table in `Step::block_tables`.
    pub first_block: usize,
    /// Entries of its block table: ⌈context / block_tokens⌉ or more.
    pub blocks: usize,
}

/// A token that the device itself selected in an earlier step and that the host has not seen yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Carry {
    /// Row of this step whose token id is replaced.
    pub row: usize,
    /// The step that selected it.
    pub from: Ticket,
    /// Index into that step's `wanted`, a [`Want::Select`].
    pub from_wanted: usize,
}

/// Layer tap: the residual stream after a layer, for parity tests between devices.
pub type Tap<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// A decoder step. The executor copies what it needs before `submit` returns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step<'a> {
    /// Token ids of all sequences, concatenated: `[rows]`, each < vocab.
    pub tokens: &'a [u32],
    /// Rotary position of each row: `[rows]`.
    pub positions: &'a [u32],
    /// KV slot that each row's key and value are written to: `[rows]`, no two alike.
    pub slots: &'a [u32],
    /// The sequences, in the order of their rows, covering all rows.
    pub sequences: &'a [StepSequence],
    /// Block numbers of all sequences, concatenated.
    pub block_tables: &'a [u32],
    /// Rows whose results are wanted, in rising order of rows.
    pub wanted: &'a [WantedRow],
    /// Rows whose token comes from an earlier step's selection on the device.
    pub carry: &'a [Carry],
}

/// One wanted result, borrowed from the executor until its next call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Row<'a> {
    /// `[vocab]`.
    Logits(&'a [f32]),
    /// `[hidden]`.
    Hidden(&'a [f32]),
    /// A token id.
    Selected(u32),
    /// The largest logits, falling, and the id of each: `[Capabilities::candidates]` both. Equal ones stand in any order,
    /// and of those that are equal at the last place any may be left out.
    Candidates {
        /// The logits.
        logits: &'a [f32],
        /// Their ids.
        ids: &'a [u32],
    },
}

/// The results of a step, one for each entry of its `wanted`, in that order.
pub trait Collected {
    /// Result `index`.
    fn row(&self, index: usize) -> Row<'_>;
}

/// Runs decoder steps on one device (or on several ranks of one). Called from one thread, the
/// engine's.
pub trait Executor: Send {
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Starts a step. The description is copied; the call may return before the work is done.
    /// An error leaves the KV slots of the step undefined and everything else as it was.
    fn submit(&mut self, step: &Step<'_>) -> Result<Ticket>;

    /// Waits for a step and gives its results. Tickets are collected in the order of submission.
    fn collect(&mut self, ticket: Ticket) -> Result<&dyn Collected>;

    /// Copies whole KV blocks, `(from, to)` each, after all submitted steps.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()>;

    /// Copies the content of KV blocks to `out`, `[blocks][block_bytes]`, after all submitted steps.
    fn read_blocks(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()>;

    /// The other way: fills KV blocks that no submitted step touches. `bytes` come from an executor with the same
    /// `block_form`.
    fn write_blocks(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()>;

    /// Runs a step to its end and hands the residual stream after each layer, `[rows, hidden]`, to
    /// `tap`. For parity tests; slow.
    fn run_tapped(&mut self, step: &Step<'_>, tap: Tap<'_>) -> Result<Ticket>;

    /// Facts for the user: threads, instruction level, arithmetic. Pairs of name and value.
    fn describe(&self) -> Vec<(&'static str, String)>;
}

/// How weights are held and computed with. `None` in [`ExecutorOptions::dtype`] means as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeType {
    /// f32 weights, f32 arithmetic.
    F32,
    /// f16 weights, f32 arithmetic on the CPU.
    F16,
    /// bf16 weights; bf16 dot products where the CPU has them, else f32 arithmetic.
    Bf16,
    /// 8-bit weights with a scale for each 128 or 32, 8-bit activations with one for each 32; 8-bit dot
    /// products, f32 sums. Quantised weights of a file that have no more bits are taken over as they are.
    Q8,
    /// The same with 4-bit weights, but for the embedding and the head.
    Q4,
    /// Of NPUs: the layers' matrices in bytes with a scale for each output feature, activations in bytes with a scale for
    /// each token; embedding, head, norms, attention and KV cache in 16 bits.
    W8a8,
}

/// How keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes an element.
    F32,
    /// 2 bytes an element.
    F16,
    /// 2 bytes an element.
    Bf16,
    /// Signed bytes with a scale for each key and value of a head: half the memory and the reading of 16
    /// bits, and a little less exact.
    I8,
}

/// What the engine asks of an executor when it is planned and opened.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorOptions {
    /// How weights are held; `None` as stored.
    pub dtype: Option<ComputeType>,
    /// How keys and values are held; `None`: f32 for f32 weights, bf16 for bf16 ones, else f16.
    pub kv_dtype: Option<KvType>,
    /// Worker threads; 0: what affinity and the control group's quota allow.
    pub threads: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Most sequences decoded together; 0: the device's choice.
    pub max_batch: usize,
    /// Host bytes the engine may take, 0: no bound but the machine's.
    pub host_memory: u64,
    /// Device bytes it may take on each device, 0: no bound but the device's.
    pub device_memory: u64,
    /// Bytes for the KV cache, 0: what the budgets leave, and no more than all sequences could use.
    pub kv_memory: u64,
    /// Keep the weights resident (`mlock`).
    pub lock_memory: bool,
    /// Whether the files of the weights, mapped while planning, will be copied into private memory before
    /// `open`: the copies are then private bytes of the plan.
    pub copy_weights: bool,
}

/// What an executor will take, known before anything is taken. All in bytes unless said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryPlan {
    /// Weights used where they lie in mapped files: page cache, shared, reclaimable.
    pub weight_bytes_mapped: u64,
    /// Weights in private or device memory.
    pub weight_bytes_private: u64,
    /// Activations, scratch, logits.
    pub workspace_bytes: u64,
    /// Keys and values of one token position.
    pub kv_bytes_per_token: u64,
    /// KV blocks to take.
    pub kv_blocks: usize,
    /// Token positions in a KV block.
    pub block_tokens: usize,
    /// Weight bytes read for each decoded token.
    pub weight_bytes_per_token: u64,
    /// Host memory available now.
    pub host_available: u64,
    /// Device memory available now; 0 on the CPU.
    pub device_available: u64,
    /// What [`Executor::describe`] will say.
    pub facts: Vec<(&'static str, String)>,
    /// The packed cache that the load will use or write, where one is allowed and something is converted.
    pub packed: Option<PackedCache>,
    /// Why it does not fit, or `None` where it does.
    pub refusal: Option<String>,
}

/// A file of converted weights. Bytes and weights are those that are in it, not all of the model's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedCache {
    /// Where it is or will be.
    pub path: PathBuf,
    /// Matrices and vectors.
    pub tensors: usize,
    /// Numbers in them.
    pub weights: u64,
    /// Their bytes in the source.
    pub stored_bytes: u64,
    /// Their bytes in the cache.
    pub packed_bytes: u64,
    /// Whether it was there and good.
    pub found: bool,
}

impl MemoryPlan {
    /// Token positions that the KV cache holds.
    pub fn kv_tokens(&self) -> u64 {
        self.kv_blocks as u64 * self.block_tokens as u64
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_tokens().saturating_mul(self.kv_bytes_per_token)
    }

    /// Private bytes in all: weights that are not mapped, workspace and KV cache.
    pub fn private_bytes(&self) -> u64 {
        self.weight_bytes_private.saturating_add(self.workspace_bytes).saturating_add(self.kv_bytes())
    }
}

/// Told of progress while loading: stage, bytes done, bytes in all. `Break` abandons the load.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> ControlFlow<()>;

/// A kind of device: plans and opens executors on it.
pub trait Backend: Send + Sync {
    /// "cpu", "npu:0", …
    fn name(&self) -> String;

    /// Devices that share one decoder: ranks of tensor parallelism.
    fn ranks(&self) -> usize {
        1
    }

    /// What `open` would take with these weights and options. Reads headers only, takes nothing.
    /// An impossible combination (a dtype this device lacks) is an error; too little memory is a
    /// plan with a `refusal`.
    fn plan(&self, spec: &DecoderSpec, weights: &WeightSet, options: &ExecutorOptions) -> Result<MemoryPlan>;

    /// Converts the weights and keeps them in the packed cache that `weights` names a place for, unless a good one is
    /// there; with `force` in any case. `Argument` where there is no place or nothing to convert, `Io` where the file
    /// cannot be written, `Unsupported` where this device keeps none.
    fn pack(
        &self,
        _spec: &DecoderSpec,
        _weights: &WeightSet,
        _options: &ExecutorOptions,
        _force: bool,
        _progress: Progress<'_>,
    ) -> Result<PackedCache> {
        Err(crate::error!(Unsupported, "device {}: it keeps no packed weights", self.name()))
    }

    /// Takes the memory of `plan` and readies the weights. On error everything is given back.
    fn open(
        &self,
        spec: Arc<DecoderSpec>,
        weights: WeightSet,
        options: &ExecutorOptions,
        plan: &MemoryPlan,
        progress: Progress<'_>,
    ) -> Result<Box<dyn Executor>>;
}

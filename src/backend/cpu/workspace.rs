//! The activations of one step, taken once when the executor is opened.

use super::arena::Arena;
use super::kernels::attention::result_len;
use super::kernels::panels::activations::token_bytes;
use super::kernels::{SPAN_KEYS, Scratch};
use super::pool::Worker;
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use std::cell::UnsafeCell;
use std::sync::atomic::AtomicU32;

/// Up to this many rows every worker computes the norms for itself: cheaper than a barrier.
pub const OWN_ROWS: usize = 4;

/// Up to this many rows the keys of a sequence may be shared out among the workers in spans.
pub const SPAN_ROWS: usize = 8;

/// Units of attention for each worker that let the workers end at about the same time.
pub const UNITS_EACH: usize = 4;

/// How many rows of what a workspace holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Tokens of one step.
    pub rows: usize,
    /// Rows of logits of one step.
    pub logit_rows: usize,
    /// Workers.
    pub threads: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Whether some of the matrices are quantised, so that activations are too.
    pub packed: bool,
}

/// Activations `[rows, …]`, all f32.
pub struct Workspace {
    /// The residual stream, `[rows, hidden]`.
    pub x: Arena<f32>,
    /// `[rows, hidden]`: normed rows; between norms the output of o and down; at the end the final
    /// norm of the wanted rows.
    pub h: Arena<f32>,
    /// `[threads, OWN_ROWS, hidden]`: normed rows where each worker makes its own.
    pub own_h: Arena<f32>,
    /// `[rows]` tokens of quantised activations, the input of the next products; see
    /// `kernels::panels::activations`.
    pub packed: Arena<u8>,
    /// `[threads, OWN_ROWS]` tokens of the same, where each worker makes its own.
    pub own_packed: Arena<u8>,
    /// `[rows, q_width]`.
    pub q: Arena<f32>,
    /// `[rows, kv_width]`.
    pub k: Arena<f32>,
    /// `[rows, kv_width]`.
    pub v: Arena<f32>,
    /// `[rows, q_width]`: what attention gives.
    pub attended: Arena<f32>,
    /// `[SPAN_ROWS, …]` results of spans where keys are shared out: `span_results` elements a row, in which
    /// a sequence has `[kv_heads][spans][rows × group]`.
    pub spans: Arena<f32>,
    /// `[SPAN_ROWS, kv_heads]`: spans of a sequence that are done; 0 between two steps.
    pub spans_done: Vec<AtomicU32>,
    /// `[rows, ffn]`: gate, then silu(gate)·up.
    pub gate: Arena<f32>,
    /// `[rows, ffn]`.
    pub up: Arena<f32>,
    /// `[rows, head_dim / 2]`: cosines of the rows' rotary angles.
    pub cos: Arena<f32>,
    /// `[rows, head_dim / 2]`: their sines.
    pub sin: Arena<f32>,
    /// `[logit_rows, vocab]`.
    pub logits: Arena<f32>,
    scratch: Vec<UnsafeCell<Scratch>>,
}

// SAFETY: every entry of `scratch` is used by the worker of its index alone (`Workspace::scratch`); all
// other fields are Sync.
unsafe impl Sync for Workspace {}

impl Workspace {
    /// Takes the memory.
    pub fn new(spec: &DecoderSpec, sizes: Sizes) -> Result<Self> {
        let [x, h, own_h, q, k, v, attended, gate, up, cos, sin, logits] = lengths(spec, sizes);
        let arena = |len| Arena::new(len, "activations");
        let [packed, own_packed] = packed_bytes(spec, sizes);
        let spans = span_results(spec, sizes);
        Ok(Workspace {
            spans: Arena::new(SPAN_ROWS * spans, "attention")?,
            spans_done: (0..SPAN_ROWS * spec.kv_heads).map(|_| AtomicU32::new(0)).collect(),
            packed: Arena::new(packed, "quantised activations")?,
            own_packed: Arena::new(own_packed, "quantised activations")?,
            x: arena(x)?,
            h: arena(h)?,
            own_h: arena(own_h)?,
            q: arena(q)?,
            k: arena(k)?,
            v: arena(v)?,
            attended: arena(attended)?,
            gate: arena(gate)?,
            up: arena(up)?,
            cos: arena(cos)?,
            sin: arena(sin)?,
            logits: Arena::new(logits, "logits")?,
            scratch: (0..sizes.threads)
                .map(|_| Scratch::new(cols_max(spec), spec.head_dim, sizes.packed).map(UnsafeCell::new))
                .collect::<Result<_>>()?,
        })
    }

    /// Bytes that [`Workspace::new`] takes.
    pub fn bytes(spec: &DecoderSpec, sizes: Sizes) -> u64 {
        let activations = lengths(spec, sizes).iter().map(|&n| n as u64 * 4).sum::<u64>();
        let packed = packed_bytes(spec, sizes).iter().map(|&n| n as u64).sum::<u64>();
        let scratch = Scratch::bytes(cols_max(spec), spec.head_dim, sizes.packed) as u64;
        let spans = (SPAN_ROWS * (span_results(spec, sizes) + spec.kv_heads)) as u64 * 4;
        activations + packed + spans + sizes.threads as u64 * scratch
    }

    /// The kernels' scratch of this worker.
    ///
    /// # Safety
    /// The worker holds no other reference to it.
    #[allow(clippy::mut_from_ref, reason = "each worker has an entry of its own")]
    pub unsafe fn scratch(&self, worker: &Worker<'_>) -> &mut Scratch {
        // SAFETY: of all workers of a job only one has this index, and it holds no other reference.
        unsafe { &mut *self.scratch[worker.index()].get() }
    }
}

/// Elements that the results of one row take where its keys are shared out; 0 where no step of these sizes does so,
/// because there are heads enough for all workers, or one span is all.
pub fn span_results(spec: &DecoderSpec, sizes: Sizes) -> usize {
    let shared = sizes.threads > 1 && spec.kv_heads < UNITS_EACH * sizes.threads && sizes.context > SPAN_KEYS;
    if shared { spec.heads * sizes.context.div_ceil(SPAN_KEYS) * result_len(spec.head_dim) } else { 0 }
}

/// Bytes of the arenas of quantised activations.
fn packed_bytes(spec: &DecoderSpec, sizes: Sizes) -> [usize; 2] {
    let token = if sizes.packed { token_bytes(cols_max(spec)) } else { 0 };
    [sizes.rows * token, sizes.threads * OWN_ROWS * token]
}

/// Elements of each f32 arena, in the order of the fields.
fn lengths(spec: &DecoderSpec, sizes: Sizes) -> [usize; 12] {
    let rows = sizes.rows;
    let (hidden, q, kv, half) = (spec.hidden, spec.q_width(), spec.kv_width(), spec.head_dim / 2);
    [
        rows * hidden,
        rows * hidden,
        sizes.threads * OWN_ROWS * hidden,
        rows * q,
        rows * kv,
        rows * kv,
        rows * q,
        rows * spec.ffn,
        rows * spec.ffn,
        rows * half,
        rows * half,
        sizes.logit_rows * spec.vocab,
    ]
}

/// The longest row of any matrix.
pub fn cols_max(spec: &DecoderSpec) -> usize {
    spec.hidden.max(spec.q_width()).max(spec.ffn)
}

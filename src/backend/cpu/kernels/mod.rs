//! The arithmetic of the CPU backend: matrix products, attention over the paged cache, and the small
//! operations between them.
//!
//! Every kernel is written once, over a token of an instruction set ([`simd::Isa`]), and instantiated
//! for each [`Level`]. Results are a function of the level and the operands alone: the value for a
//! (weight row, token) or a (query, head) is the same bit for bit however many tokens are in the call
//! and however rows, tokens and heads are split into calls.
//!
//! | file | holds |
//! |---|---|
//! | [`simd`] | the vector operations, one file for each instruction set |
//! | [`matrix`] | a weight as the matrix product reads it: rows and blocks along k, in place |
//! | [`matmul`] | `out[t][r] = W[r]·x[t]` for plain elements |
//! | [`panels`] | the same for quantised weights and activations |
//! | [`kv`] | the layout of a block of keys and values |
//! | [`attention`] | softmax(q·K)·V over blocks |
//! | [`rms_norm`], [`silu_mul`], [`rope`], [`convert`], [`exp`] | the rest |

// Rows, tokens, queries and parts index several arrays at once, and closures over vectors are sometimes not
// inlined, which would compile them for the lowest CPU: loops over indices are both clearer and safer here.
#![allow(clippy::needless_range_loop)]

use crate::backend::cpu::isa::Level;
use crate::base::buffer::Buffer;
use crate::base::dtype::DType;
use crate::base::error::Result;
use std::ops::Range;

pub mod attention;
pub mod convert;
pub mod exp;
pub mod kv;
pub mod matmul;
pub mod matrix;
pub mod panels;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;
pub mod simd;
#[cfg(test)]
mod testing;

pub use attention::{Attention, SPAN_KEYS, Share};
pub use kv::{KvElement, KvLayout};
pub use matrix::{Dense, Matrix};
pub use panels::{Packed, Packing};

/// How an element of a weight or of the KV cache is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    /// The element type of plain `dtype`; `None` for the blocked ones.
    pub const fn of(dtype: DType) -> Option<Element> {
        match dtype {
            DType::F32 => Some(Element::F32),
            DType::F16 => Some(Element::F16),
            DType::BF16 => Some(Element::Bf16),
            _ => None,
        }
    }

    /// The same as a tensor's type.
    pub const fn dtype(self) -> DType {
        match self {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
            Element::Bf16 => DType::BF16,
        }
    }
}

/// Activations of a step as the matrix products read them.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `[tokens, cols]`.
    pub rows: &'a [f32],
    /// The same rows quantised, in tiles; empty where no quantised matrix reads them.
    pub quantised: &'a [u8],
}

/// Working memory of one worker, taken once; no kernel allocates.
#[derive(Debug)]
pub struct Scratch {
    /// Activations of a block along k, laid out for the product.
    x: Buffer<f32>,
    /// Weights of a block along k, as f32 (or bf16 pairs).
    w: Buffer<f32>,
    /// Accumulators of attention: `[queries of a tile, head_dim]`.
    attention: Buffer<f32>,
    /// A panel of codes as bytes.
    panel: Buffer<u8>,
}

impl Scratch {
    /// Memory for matrices of up to `cols` columns and heads of up to `head_dim`; `packed` says whether
    /// some of the matrices are quantised.
    pub fn new(cols: usize, head_dim: usize, packed: bool) -> Result<Self> {
        let [x, w, attention] = Self::lengths(cols, head_dim);
        Ok(Scratch {
            panel: Buffer::zeroed(Self::panel_bytes(cols, packed), "matrix product scratch")?,
            x: Buffer::zeroed(x, "matrix product scratch")?,
            w: Buffer::zeroed(w, "matrix product scratch")?,
            attention: Buffer::zeroed(attention, "attention scratch")?,
        })
    }

    /// Bytes that [`Scratch::new`] takes.
    pub fn bytes(cols: usize, head_dim: usize, packed: bool) -> usize {
        Self::lengths(cols, head_dim).iter().sum::<usize>() * size_of::<f32>()
            + Self::panel_bytes(cols, packed)
    }

    fn panel_bytes(cols: usize, packed: bool) -> usize {
        if packed { panels::product::scratch_bytes(cols) } else { 0 }
    }

    fn lengths(cols: usize, head_dim: usize) -> [usize; 3] {
        [matmul::x_scratch_len(cols), matmul::W_SCRATCH_LEN, attention::scratch_len(head_dim)]
    }
}

/// The kernels at one level. Holding a value is the proof that this CPU has the level's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    level: Level,
}

impl Kernels {
    /// The kernels of `level`, or of this CPU's highest level where that is lower.
    pub fn new(level: Level) -> Self {
        Kernels { level: level.lowered() }
    }

    /// The level in use.
    pub fn level(self) -> Level {
        self.level
    }

    /// `out[i] = x[i] / √(mean(x²) + eps) × weight[i]`; all of one length.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        simd::dispatch(self.level, rms_norm::RmsNorm { x, weight, eps, out });
    }

    /// `gate[i] = silu(gate[i]) × up[i]` with `silu(g) = g / (1 + e^-g)`; both of one length.
    pub fn silu_mul(self, gate: &mut [f32], up: &[f32]) {
        simd::dispatch(self.level, silu_mul::SiluMul { gate, up });
    }

    /// `into[i] += other[i]`; both of one length.
    pub fn add(self, into: &mut [f32], other: &[f32]) {
        for (a, b) in into.iter_mut().zip(other) {
            *a += b;
        }
    }

    /// Rotates one head, `[head_dim]`, in the halves layout: element i with element i + head_dim/2 by the
    /// angle whose cosine and sine are `cos[i]`, `sin[i]` (`[head_dim/2]`).
    pub fn rope(self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        simd::dispatch(self.level, rope::Rope { head, cos, sin });
    }

    /// `x` as stored elements (little-endian, rounded to nearest even) in `out`, which holds
    /// `x.len() × element.bytes()` bytes. A value beyond f16 becomes infinite.
    pub fn encode(self, element: Element, x: &[f32], out: &mut [u8]) {
        simd::dispatch(self.level, convert::Encode { element, x, out });
    }

    /// Stored elements as f32, exactly.
    pub fn decode(self, element: Element, bytes: &[u8], out: &mut [f32]) {
        simd::dispatch(self.level, convert::Decode { element, bytes, out });
    }

    /// Tokens of each tile of quantised activations but the last, where a product has `tokens`.
    pub fn tile_tokens(self, tokens: usize) -> usize {
        panels::activations::tile_tokens(tokens, simd::int8::tile_tokens(self.level))
    }

    /// Quantises the row `x` as token `place` of the tile of `width` tokens at `tile`; see
    /// [`panels::activations`].
    ///
    /// # Safety
    /// `tile` must be 4-aligned and valid for a tile of `width` tokens of `x.len()` elements; nothing else
    /// may access this token's part of it during the call, and `place` must be below `width`.
    pub unsafe fn quantise(self, x: &[f32], tile: *mut u8, width: usize, place: usize) {
        simd::dispatch(self.level, panels::activations::Quantise { x, tile, width, place });
    }

    /// Quantises the rows of one panel: row i is `rows[i × cols..]`; rows that are missing become zeros.
    /// `panel` holds `packing.panel_bytes(cols)`, and the packing must be one that is made from floats. `Err` with
    /// row and column of a weight that cannot be quantised: NaN, infinite, or so large that its scale is beyond f16.
    pub fn pack(
        self,
        packing: Packing,
        rows: &[f32],
        cols: usize,
        panel: &mut [u8],
    ) -> std::result::Result<(), (usize, usize)> {
        simd::dispatch(self.level, panels::pack::Quantise { packing, rows, cols, panel })
    }

    /// `out[t × out_stride + r] = W[r]·x[t]` for the rows `rows` of `matrix` and every token t of `x`.
    /// Columns of `out` outside `rows` are not touched. Rows or elements that do not exist are left out.
    ///
    /// # Safety
    /// `out` must be valid for writes at every named element, and nothing else may read or write
    /// those elements during the call.
    pub unsafe fn matmul(
        self,
        matrix: &Matrix,
        rows: Range<usize>,
        x: Input<'_>,
        out: *mut f32,
        out_stride: usize,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match matrix {
                Matrix::Dense(matrix) => {
                    let product = matmul::Product { matrix, rows, x: x.rows, out, out_stride };
                    matmul::run(self.level, product, scratch)
                }
                Matrix::Packed(matrix) => {
                    panels::product::run(self.level, matrix, rows, x, out, out_stride, scratch)
                }
            }
        }
    }

    /// Writes the keys and values of one token, `[heads.len(), head_dim]` each, for the KV heads `heads`
    /// into slot `slot` of one layer's blocks.
    ///
    /// # Safety
    /// `blocks` must be valid for the whole block that holds `slot`, and nothing else may access these
    /// heads of that slot during the call.
    pub unsafe fn kv_store(
        self,
        layout: &KvLayout,
        blocks: *mut u8,
        slot: usize,
        heads: Range<usize>,
        keys: &[f32],
        values: &[f32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { kv::store(self, layout, blocks, slot, heads, keys, values) }
    }

    /// Attention of the query rows `rows` for all query heads that share KV head `kv_head`.
    ///
    /// # Safety
    /// The pointers of `attention` must be valid for what its fields say; nothing else may write the
    /// cache blocks it reads, or access the rows and heads of `out` that it writes, during the call.
    pub unsafe fn attend(
        self,
        attention: &Attention<'_>,
        rows: Range<usize>,
        kv_head: usize,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller's promise.
        unsafe { attention::run(self.level, attention, rows, kv_head, None, scratch) }
    }

    /// The part of [`Kernels::attend`] over one span of keys. When all spans of the rows are done,
    /// [`Kernels::merge_spans`] gives what `attend` would.
    ///
    /// # Safety
    /// As `attend`, but that `out` is not touched; the results of `share`, `rows` × the heads of a group, must be valid,
    /// and nothing else may access them during the call.
    pub unsafe fn attend_span(
        self,
        attention: &Attention<'_>,
        rows: Range<usize>,
        kv_head: usize,
        share: Share,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller's promise.
        unsafe { attention::run(self.level, attention, rows, kv_head, Some(share), scratch) }
    }

    /// Merges the results of all spans, `[spans][rows × heads of a group]` from `results` on, into the output of the
    /// rows. The results are used up.
    ///
    /// # Safety
    /// `results` must hold what `attend_span` gave for every span of the rows; nothing else may access it, or the rows
    /// and heads of `out`, during the call.
    pub unsafe fn merge_spans(
        self,
        attention: &Attention<'_>,
        rows: Range<usize>,
        kv_head: usize,
        results: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { attention::merge(self.level, attention, rows, kv_head, results) }
    }
}

//! `out[t][r] = W[r]·x[t]`: some rows of a matrix with every token of a step.
//!
//! **One arithmetic.** An element of the result is a dot product along k, taken in blocks of 64 steps. In a
//! block the lanes of one vector accumulate every `STEP`th product in rising order; the lanes are summed
//! by a fixed tree ([`simd::Isa::sum4`]); the block sums are added in rising order, in f32. Nothing in
//! this depends on which other rows or tokens are computed beside it, so a token has the same result
//! alone and in a batch of 512. Elements past the end of k count as 0 × 0.
//!
//! **Few tokens** ([`few`]): the weights are read once, from memory, and that is the whole cost. So a few
//! rows at a time are read in place, converted in registers and multiplied with all tokens.
//!
//! **Many tokens** ([`many`]): arithmetic is the cost, and the caches must keep up with two fused
//! multiplications a cycle.
//!
//! ```text
//! for each 128 rows of the call
//!   for each block of 64 steps along k                       1,024 f32 or 2,048 bf16, where a zmm is a step
//!     convert the weights of 128 rows                       512 KiB, in L2 or L3, once for all tokens
//!     for each 48 tokens
//!       copy their activations                              192 KiB, in L2, reused for 128 rows
//!       for each panel of 4 rows                             16 KiB, in L1, reused for 48 tokens
//!         for each tile of up to 6 tokens                     24 KiB, from L2
//!           4 × 6 accumulators in registers: 10 loads for 24 fused multiplications
//! ```
//!
//! Operands are copied because rows that are a large power of two apart would all fall into the same
//! few sets of a cache.

use crate::backend::cpu::isa::Level;
use crate::backend::cpu::kernels::convert::{AsBf16, AsF16, AsF32};
use crate::backend::cpu::kernels::simd::{self, Isa, Operation};
use crate::backend::cpu::kernels::{Dense, Element, Scratch};
use arithmetic::{Arithmetic, F32};
use std::ops::Range;

mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
mod few;
mod many;
#[cfg(test)]
mod tests;
mod tile;

/// Steps of a block along k, see [`Arithmetic::BLOCK`].
const BLOCK_STEPS: usize = 64;
/// Bytes of a block of stored weights, or of operands in scratch: steps of at most 64 bytes.
const BLOCK_BYTES: usize = BLOCK_STEPS * 64;
/// Up to so many tokens the weights are used in place. Beyond, converting them once pays.
const FEW: usize = 16;
/// Elements of the widest step along k.
const STEP_MAX: usize = 32;
/// f32 that a row of operands takes in scratch: a block and a step.
const SCRATCH_ROW: usize = (BLOCK_BYTES + 64) / 4;

/// Elements of the weight scratch.
pub(super) const W_SCRATCH_LEN: usize = many::ROWS * SCRATCH_ROW;

/// Elements of the activation scratch for matrices of up to `cols` columns.
pub(super) const fn x_scratch_len(cols: usize) -> usize {
    let few = FEW * cols.next_multiple_of(STEP_MAX);
    let many = many::TOKENS * SCRATCH_ROW;
    if few > many { few } else { many }
}

/// How many rows a worker should take at a time, so that `workers` get a fair share each and the
/// activations are not laid out too often.
pub fn chunk_rows(rows: usize, tokens: usize, workers: usize) -> usize {
    let most = if tokens <= FEW { 128 } else { many::ROWS };
    rows.div_ceil(4 * workers.max(1)).next_multiple_of(8).min(most)
}

/// The operands of one call.
pub(super) struct Product<'a> {
    pub matrix: &'a Dense,
    pub rows: Range<usize>,
    pub x: &'a [f32],
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Product<'_> {
    fn tokens(&self) -> usize {
        self.x.len() / self.matrix.cols().max(1)
    }

    /// Where the result for a row and a token goes.
    #[inline(always)]
    fn place(&self, token: usize, row: usize) -> *mut f32 {
        self.out.wrapping_add(token * self.out_stride + row)
    }
}

/// Runs a product at `level`.
///
/// # Safety
/// As `Kernels::matmul`, and the CPU must have the instructions of `level`.
pub(super) unsafe fn run(level: Level, mut product: Product<'_>, scratch: &mut Scratch) {
    product.rows.end = product.rows.end.min(product.matrix.rows());
    let room = scratch.x.len() >= x_scratch_len(product.matrix.cols());
    debug_assert!(room, "the scratch was made for narrower matrices");
    if product.rows.is_empty() || product.matrix.cols() == 0 || product.tokens() == 0 || !room {
        return;
    }
    let (x, w) = (scratch.x.as_mut_ptr(), scratch.w.as_mut_ptr());
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512Bf16 && product.matrix.element() == Element::Bf16 {
        // SAFETY: the caller's promise; the scratch is large enough and ours alone.
        return unsafe { bf16_pairs::run(&product, x, w) };
    }
    simd::dispatch(level, InF32 { product: &product, x, w });
}

/// A product in f32 arithmetic. The scratch is as large as this file says, and not used elsewhere.
struct InF32<'a> {
    product: &'a Product<'a>,
    x: *mut f32,
    w: *mut f32,
}

impl Operation for InF32<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let InF32 { product, x, w } = self;
        // SAFETY: `run` above is the only maker: the caller of `Kernels::matmul` vouches for the output.
        unsafe {
            match product.matrix.element() {
                Element::F32 => multiply(F32::<I, AsF32>::new(isa), product, x, w),
                Element::F16 => multiply(F32::<I, AsF16>::new(isa), product, x, w),
                Element::Bf16 => multiply(F32::<I, AsBf16>::new(isa), product, x, w),
            }
        }
    }
}

/// The product in some arithmetic.
///
/// # Safety
/// As [`run`]; the scratch must have the lengths that this file gives.
#[inline(always)]
unsafe fn multiply<A: Arithmetic>(a: A, product: &Product<'_>, x: *mut f32, w: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if product.tokens() <= FEW {
            few::run(a, product, x.cast());
        } else {
            many::run(a, product, x.cast(), w.cast());
        }
    }
}

/// Activations in scratch, padded with zeros to a whole step.
///
/// # Safety
/// The scratch must hold `x.len()` elements rounded up to whole steps.
#[inline(always)]
unsafe fn lay_out<A: Arithmetic>(a: A, x: &[f32], scratch: *mut A::Packed) {
    let rest = simd::whole_vectors(A::STEP, x.len(), |i| {
        // SAFETY: i + STEP ≤ the length.
        unsafe { a.store(a.activation(x.as_ptr().add(i)), scratch.add(i)) }
    });
    if !rest.is_empty() {
        let mut padded = [0f32; STEP_MAX];
        padded[..rest.len()].copy_from_slice(&x[rest.clone()]);
        // SAFETY: the caller's promise; `padded` holds a step.
        unsafe { a.store(a.activation(padded.as_ptr()), scratch.add(rest.start)) }
    }
}

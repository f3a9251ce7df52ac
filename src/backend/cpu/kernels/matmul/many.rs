//! The product for many tokens: operands are laid out in scratch for the caches, then multiplied in
//! register tiles. The loops are drawn in `matmul.rs`.

use super::super::simd::{Isa, Tokens};
use super::arithmetic::Arithmetic;
use super::tile::{TILE_ROWS, tile};
use super::{BLOCK_BYTES, Product, STEP_MAX, lay_out};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows whose block of converted weights is kept: the more, the more often the activations that are laid out
/// are used. They need not stay in L2: each panel of them is read once for [`TOKENS`] tokens.
pub(super) const ROWS: usize = 128;
/// Tokens whose block of activations lies in L2; a multiple of every register tile's.
pub(super) const TOKENS: usize = 48;
/// Rows whose block of converted weights lies in L1.
const PANEL_ROWS: usize = 4;

/// Runs a product of any number of tokens.
///
/// # Safety
/// As `matmul::multiply`.
#[inline(always)]
pub(super) unsafe fn run<A: Arithmetic>(
    a: A,
    product: &Product<'_>,
    x_scratch: *mut A::Packed,
    w_scratch: *mut A::Packed,
) {
    let (cols, tokens) = (product.matrix.cols(), product.tokens());
    let mut row = product.rows.start;
    while row < product.rows.end {
        let rows = row..product.rows.end.min(row + ROWS);
        for start in (0..cols).step_by(A::BLOCK) {
            let k = start..cols.min(start + A::BLOCK);
            // SAFETY: the scratch holds ROWS rows and TOKENS tokens of a block; the caller's promise for
            // the rest.
            unsafe {
                lay_out_weights(a, product, rows.clone(), k.clone(), w_scratch);
                for token in (0..tokens).step_by(TOKENS) {
                    let block = token..tokens.min(token + TOKENS);
                    lay_out_activations(a, product, block.clone(), k.clone(), x_scratch);
                    multiply_block(a, product, rows.clone(), block, k.clone(), x_scratch, w_scratch);
                }
            }
        }
        row = rows.end;
    }
}

/// The elements `k` of `rows` in scratch, `A::STRIDE` apart, padded with zeros to a whole step.
///
/// # Safety
/// The scratch must hold them.
#[inline(always)]
unsafe fn lay_out_weights<A: Arithmetic>(
    a: A,
    product: &Product<'_>,
    rows: Range<usize>,
    k: Range<usize>,
    scratch: *mut A::Packed,
) {
    let mut gathered = MaybeUninit::<[u8; BLOCK_BYTES]>::uninit();
    for (r, row) in rows.enumerate() {
        let bytes = product.matrix.run(row, k.clone(), &mut gathered);
        let into = scratch.wrapping_add(r * A::STRIDE);
        let whole = k.len() - k.len() % A::STEP;
        let mut at = 0;
        // SAFETY: `bytes` holds k.len() elements, and the scratch a row of a block, a whole number of steps.
        unsafe {
            while at < whole {
                a.store(a.weight(bytes.as_ptr().add(at * A::STORED_BYTES)), into.add(at));
                at += A::STEP;
            }
            if at < k.len() {
                let mut padded = [0u8; 4 * STEP_MAX];
                let rest = &bytes[at * A::STORED_BYTES..];
                padded[..rest.len()].copy_from_slice(rest);
                a.store(a.weight(padded.as_ptr()), into.add(at));
            }
        }
    }
}

/// The elements `k` of `tokens` in scratch, `A::STRIDE` apart, padded with zeros to a whole step.
///
/// # Safety
/// The scratch must hold them.
#[inline(always)]
unsafe fn lay_out_activations<A: Arithmetic>(
    a: A,
    product: &Product<'_>,
    tokens: Range<usize>,
    k: Range<usize>,
    scratch: *mut A::Packed,
) {
    let cols = product.matrix.cols();
    for (i, token) in tokens.enumerate() {
        let row = &product.x[token * cols + k.start..token * cols + k.end];
        // SAFETY: the caller's promise.
        unsafe { lay_out(a, row, scratch.add(i * A::STRIDE)) };
    }
}

/// Adds one block along k of `rows` × `tokens` to the result.
///
/// # Safety
/// The scratch must hold the laid-out operands; the rest as `matmul::multiply`.
#[inline(always)]
unsafe fn multiply_block<A: Arithmetic>(
    a: A,
    product: &Product<'_>,
    rows: Range<usize>,
    tokens: Range<usize>,
    k: Range<usize>,
    x_scratch: *const A::Packed,
    w_scratch: *const A::Packed,
) {
    let steps = k.len().div_ceil(A::STEP);
    let first = k.start == 0;
    for panel in (0..rows.len()).step_by(PANEL_ROWS) {
        let panel = panel..rows.len().min(panel + PANEL_ROWS);
        let mut token = 0;
        while token < tokens.len() {
            let count = (tokens.len() - token).min(A::TOKENS);
            for r in panel.clone().step_by(TILE_ROWS) {
                // SAFETY: rows r.. and tokens token.. of the scratch, which holds whole tiles.
                let (w, x) = unsafe { (w_scratch.add(r * A::STRIDE), x_scratch.add(token * A::STRIDE)) };
                let rows_left = (panel.end - r).min(TILE_ROWS);
                let (row, token) = (rows.start + r, tokens.start + token);
                a.isa()
                    .with_tokens(count, Tile { a, product, row, rows: rows_left, token, first, w, x, steps });
            }
            token += count;
        }
    }
}

/// One register tile and where it falls in the result. Made by `multiply_block` alone, whose caller
/// vouches for the pointers.
struct Tile<'a, A: Arithmetic> {
    a: A,
    product: &'a Product<'a>,
    row: usize,
    rows: usize,
    token: usize,
    first: bool,
    w: *const A::Packed,
    x: *const A::Packed,
    steps: usize,
}

impl<A: Arithmetic> Tokens for Tile<'_, A> {
    #[inline(always)]
    fn run<const T: usize>(self) {
        for t in 0..T {
            // The result lies scattered: it is asked for now and there when the tile is done.
            self.a.isa().prefetch(self.product.place(self.token + t, self.row).cast());
        }
        // SAFETY: the caller of `multiply_block` vouches for the pointers; where this is not the first block,
        // an earlier one wrote the result.
        unsafe {
            let sums = tile::<A, T>(self.a, self.w, self.x, self.steps);
            for (t, sums) in sums.into_iter().enumerate() {
                let out = self.product.place(self.token + t, self.row);
                if self.rows == TILE_ROWS {
                    let out = out.cast::<[f32; TILE_ROWS]>();
                    let old = if self.first { None } else { Some(out.read_unaligned()) };
                    out.write_unaligned(old.map_or(sums, |old| std::array::from_fn(|r| old[r] + sums[r])));
                } else {
                    for (r, &sum) in sums.iter().enumerate().take(self.rows) {
                        *out.add(r) = if self.first { sum } else { *out.add(r) + sum };
                    }
                }
            }
        }
    }
}

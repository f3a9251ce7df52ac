//! The product for so few tokens that one register tile holds them: weights are read once, in place.

use super::super::Matrix;
use super::super::simd::{Isa, Tokens};
use super::arithmetic::Arithmetic;
use super::{BLOCK, Product, STEP_MAX, lay_out};
use std::ops::Range;

/// Runs a product of 1 to `A::TOKENS` tokens.
///
/// # Safety
/// As `matmul::multiply`.
#[inline(always)]
pub(super) unsafe fn run<A: Arithmetic>(a: A, product: &Product<'_>, scratch: *mut A::Packed) {
    a.isa().with_tokens(product.tokens(), AllRows { a, product, scratch });
}

/// All rows of a product. Made by `run` alone, whose caller vouches for the pointers.
struct AllRows<'a, A: Arithmetic> {
    a: A,
    product: &'a Product<'a>,
    scratch: *mut A::Packed,
}

impl<A: Arithmetic> Tokens for AllRows<'_, A> {
    /// One token needs two groups of four rows at a time, because one group's four chains of dependent
    /// additions would leave the multipliers idle half of the time.
    #[inline(always)]
    fn run<const T: usize>(self) {
        // SAFETY: the caller of `few::run` vouches for the pointers.
        unsafe {
            if T == 1 {
                all_rows::<A, T, 2>(self.a, self.product, self.scratch);
            } else {
                all_rows::<A, T, 1>(self.a, self.product, self.scratch);
            }
        }
    }
}

/// All rows of the product with its `T` tokens, `G` groups of four rows at a time.
///
/// # Safety
/// As `matmul::multiply`.
#[inline(always)]
unsafe fn all_rows<A: Arithmetic, const T: usize, const G: usize>(
    a: A,
    product: &Product<'_>,
    scratch: *mut A::Packed,
) {
    let (matrix, cols) = (product.matrix, product.matrix.cols());
    let in_place = A::X_IN_PLACE && cols % A::STEP == 0;
    let (x, x_stride) = if in_place {
        (product.x.as_ptr().cast::<A::Packed>(), cols)
    } else {
        let stride = cols.next_multiple_of(A::STEP);
        for (t, row) in product.x.chunks_exact(cols).enumerate() {
            // SAFETY: the scratch holds TILE_TOKENS_MAX rows of any stride.
            unsafe { lay_out(a, row, scratch.add(t * stride)) };
        }
        (scratch.cast_const(), stride)
    };
    let mut gathered = [[[0u8; 4 * BLOCK]; 4]; G];
    let mut row = product.rows.start;
    while row < product.rows.end {
        let count = (product.rows.end - row).min(4 * G);
        let mut sums = [[[0f32; 4]; G]; T];
        for start in (0..cols).step_by(BLOCK) {
            let k = start..cols.min(start + BLOCK);
            let w = weights(matrix, row, count, k.clone(), &mut gathered);
            // SAFETY: `weights` gives rows of k; x has whole steps to the end of k.
            let block = unsafe { block::<A, T, G>(a, w, x.add(start), x_stride, k.len()) };
            for (sum, block) in sums.as_flattened_mut().iter_mut().zip(block.as_flattened()) {
                for (sum, block) in sum.iter_mut().zip(block) {
                    *sum = if start == 0 { *block } else { *sum + *block };
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise: rows and tokens of this product.
            unsafe { product.put(t, row, &sums.as_flattened()[..count], true) };
        }
        row += count;
    }
}

/// Pointers to the stored elements `k` of the rows from `row` on; beyond `count` the last is repeated.
#[inline(always)]
fn weights<const G: usize>(
    matrix: &Matrix,
    row: usize,
    count: usize,
    k: Range<usize>,
    gathered: &mut [[[u8; 4 * BLOCK]; 4]; G],
) -> [[*const u8; 4]; G] {
    let mut pointers = [[std::ptr::null(); 4]; G];
    for (g, group) in gathered.iter_mut().enumerate() {
        for (r, room) in group.iter_mut().enumerate() {
            let row = row + (4 * g + r).min(count - 1);
            pointers[g][r] = matrix.run(row, k.clone(), room).as_ptr();
        }
    }
    pointers
}

/// The block sums of `4 G` rows with each of `T` tokens.
///
/// # Safety
/// Each of `w` must be valid for `len` stored elements, `x` for `T` rows `x_stride` apart of `len` elements
/// rounded up to whole steps.
#[inline(always)]
unsafe fn block<A: Arithmetic, const T: usize, const G: usize>(
    a: A,
    w: [[*const u8; 4]; G],
    x: *const A::Packed,
    x_stride: usize,
    len: usize,
) -> [[[f32; 4]; G]; T] {
    let isa = a.isa();
    let mut acc = [[[isa.zero(); 4]; G]; T];
    let whole = len - len % A::STEP;
    let mut at = 0;
    while at < whole {
        // SAFETY: at + STEP ≤ len.
        let xs: [A::Operand; T] = std::array::from_fn(|t| unsafe { a.load(x.add(t * x_stride + at)) });
        for g in 0..G {
            for r in 0..4 {
                // SAFETY: as above.
                let ws = unsafe { a.weight(w[g][r].add(at * A::STORED_BYTES)) };
                for t in 0..T {
                    acc[t][g][r] = a.multiply_add(ws, xs[t], acc[t][g][r]);
                }
            }
        }
        at += A::STEP;
    }
    if at < len {
        // The last, partial step: the missing weights are zero, and so are the activations laid out.
        for g in 0..G {
            for r in 0..4 {
                let mut padded = [0u8; 4 * STEP_MAX];
                let bytes = (len - at) * A::STORED_BYTES;
                // SAFETY: the remaining elements of the row, fewer than a step; a step fits in `padded`.
                let ws = unsafe {
                    let from = w[g][r].add(at * A::STORED_BYTES);
                    padded[..bytes].copy_from_slice(std::slice::from_raw_parts(from, bytes));
                    a.weight(padded.as_ptr())
                };
                for t in 0..T {
                    // SAFETY: x is valid for whole steps.
                    let xs = unsafe { a.load(x.add(t * x_stride + at)) };
                    acc[t][g][r] = a.multiply_add(ws, xs, acc[t][g][r]);
                }
            }
        }
    }
    acc.map(|groups| groups.map(|rows| isa.sum4(rows)))
}

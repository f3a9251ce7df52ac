//! The product for few tokens: weights are read once from memory, in place.

use super::super::Dense;
use super::super::simd::{Isa, Tokens};
use super::arithmetic::Arithmetic;
use super::{BLOCK_BYTES, FEW, Product, STEP_MAX, lay_out};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Runs a product of 1 to [`FEW`] tokens.
///
/// While some rows are multiplied, the next ones are asked for, in the order in which they lie: memory answers one
/// stream fastest, and the rows that are multiplied together are several.
///
/// One token takes two groups of four rows at a time, because one group's four chains of dependent
/// additions would leave the multipliers idle half of the time.
///
/// # Safety
/// As `matmul::multiply`.
#[inline(always)]
pub(super) unsafe fn run<A: Arithmetic>(a: A, product: &Product<'_>, scratch: *mut A::Packed) {
    let cols = product.matrix.cols();
    let in_place = A::X_IN_PLACE && cols.is_multiple_of(A::STEP);
    let x = if in_place {
        Activations { start: product.x.as_ptr().cast::<A::Packed>(), stride: cols }
    } else {
        let stride = cols.next_multiple_of(A::STEP);
        for (t, row) in product.x.chunks_exact(cols).enumerate() {
            // SAFETY: the scratch holds FEW rows of such a stride.
            unsafe { lay_out(a, row, scratch.add(t * stride)) };
        }
        Activations { start: scratch.cast_const(), stride }
    };
    // SAFETY: the caller's promise.
    unsafe {
        if product.tokens() == 1 {
            all_rows::<A, 2>(a, product, x);
        } else {
            all_rows::<A, 1>(a, product, x);
        }
    }
}

/// Rows of activations, valid for whole steps to the end of k.
#[derive(Clone, Copy)]
struct Activations<P> {
    start: *const P,
    stride: usize,
}

/// All rows of the product with its tokens, `G` groups of four rows at a time.
///
/// # Safety
/// As `matmul::multiply`.
#[inline(always)]
unsafe fn all_rows<A: Arithmetic, const G: usize>(a: A, product: &Product<'_>, x: Activations<A::Packed>) {
    let (matrix, cols, tokens) = (product.matrix, product.matrix.cols(), product.tokens());
    let mut gathered = [const { [const { MaybeUninit::uninit() }; 4] }; G];
    let mut row = product.rows.start;
    while row < product.rows.end {
        let count = (product.rows.end - row).min(4 * G);
        let mut sums = [[[0f32; 4]; G]; FEW];
        let next = row + count..product.rows.end.min(row + 2 * count);
        let ahead = if next.len() == 4 * G { adjacent(matrix, next) } else { None };
        for start in (0..cols).step_by(A::BLOCK) {
            let k = start..cols.min(start + A::BLOCK);
            let w = weights(matrix, row, count, k.clone(), &mut gathered);
            for token in (0..tokens).step_by(A::Isa::FEW_TOKENS) {
                let x = Activations { start: x.start.wrapping_add(token * x.stride + start), ..x };
                // One pass over the tokens asks for the bytes of as many steps.
                let ahead =
                    ahead.filter(|_| token == 0).map(|at| at.wrapping_add(4 * G * start * A::STORED_BYTES));
                let tile = Tile { a, w, ahead, x, len: k.len(), first: start == 0, sums: &mut sums[token..] };
                if G == 2 {
                    tile.run::<1>();
                } else {
                    a.isa().with_tokens((tokens - token).min(A::Isa::FEW_TOKENS), tile);
                }
            }
        }
        for (t, sums) in sums[..tokens].iter().enumerate() {
            // SAFETY: the caller's promise: rows and tokens of this product.
            unsafe { product.place(t, row).copy_from_nonoverlapping(sums.as_flattened().as_ptr(), count) };
        }
        row += count;
    }
}

/// One block along k of `4 G` rows, to be multiplied with some tokens. Made by `all_rows` alone, whose
/// caller vouches for the pointers.
struct Tile<'a, A: Arithmetic, const G: usize> {
    a: A,
    w: [[*const u8; 4]; G],
    /// `4 G × len` elements that are needed next, if any.
    ahead: Option<*const u8>,
    x: Activations<A::Packed>,
    len: usize,
    first: bool,
    /// The sums of the tokens so far.
    sums: &'a mut [[[f32; 4]; G]],
}

impl<A: Arithmetic, const G: usize> Tokens for Tile<'_, A, G> {
    #[inline(always)]
    fn run<const T: usize>(self) {
        if T > A::Isa::FEW_TOKENS {
            return;
        }
        // SAFETY: the caller of `all_rows` vouches for the pointers.
        let block = unsafe { block::<A, T, G>(self.a, self.w, self.ahead, self.x, self.len) };
        for (sums, block) in self.sums.iter_mut().zip(block) {
            for (sum, block) in sums.as_flattened_mut().iter_mut().zip(block.as_flattened()) {
                *sum = if self.first { *block } else { *sum + *block };
            }
        }
    }
}

/// Pointers to the stored elements `k` of the rows from `row` on; beyond `count` the last is repeated.
#[inline(always)]
fn weights<const G: usize>(
    matrix: &Dense,
    row: usize,
    count: usize,
    k: Range<usize>,
    gathered: &mut [[MaybeUninit<[u8; BLOCK_BYTES]>; 4]; G],
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

/// Where whole rows lie, if they lie one behind the other.
#[inline(always)]
fn adjacent(matrix: &Dense, rows: Range<usize>) -> Option<*const u8> {
    let at = |row| matrix.run(row, 0..1, &mut MaybeUninit::<[u8; 4]>::uninit()).as_ptr();
    let (first, last) = (at(rows.start), at(rows.end - 1));
    let bytes = (rows.len() - 1) * matrix.cols() * matrix.element().bytes();
    (last as usize).checked_sub(first as usize).is_some_and(|apart| apart == bytes).then_some(first)
}

/// The block sums of `4 G` rows with each of `T` tokens.
///
/// # Safety
/// Each of `w` must be valid for `len` stored elements, `x` for `T` rows of as many, rounded up to steps.
#[inline(always)]
unsafe fn block<A: Arithmetic, const T: usize, const G: usize>(
    a: A,
    w: [[*const u8; 4]; G],
    ahead: Option<*const u8>,
    x: Activations<A::Packed>,
    len: usize,
) -> [[[f32; 4]; G]; T] {
    let isa = a.isa();
    let mut acc = [[[isa.zero(); 4]; G]; T];
    let whole = len - len % A::STEP;
    let mut at = 0;
    while at < whole {
        if let Some(ahead) = ahead {
            for line in (0..4 * G * A::STEP * A::STORED_BYTES).step_by(LINE) {
                isa.prefetch_l2(ahead.wrapping_add(4 * G * at * A::STORED_BYTES + line));
            }
        }
        // SAFETY: at + STEP ≤ len.
        let mut xs = [unsafe { a.load(x.start.add(at)) }; T];
        for t in 1..T {
            // SAFETY: as above.
            xs[t] = unsafe { a.load(x.start.add(t * x.stride + at)) };
        }
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
                    let xs = unsafe { a.load(x.start.add(t * x.stride + at)) };
                    acc[t][g][r] = a.multiply_add(ws, xs, acc[t][g][r]);
                }
            }
        }
    }
    let mut sums = [[[0.0; 4]; G]; T];
    for t in 0..T {
        for g in 0..G {
            sums[t][g] = isa.sum4(acc[t][g]);
        }
    }
    sums
}

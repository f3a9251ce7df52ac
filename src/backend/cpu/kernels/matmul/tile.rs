//! The register tile: some rows by some tokens over one block along k, in scratch.

use super::super::simd::Isa;
use super::arithmetic::Arithmetic;

/// Rows of a register tile, the four that `sum4` sums together.
pub(super) const TILE_ROWS: usize = 4;

/// The block sums of four rows with each of `T` tokens. Rows, and tokens, lie `A::STRIDE` elements apart.
///
/// # Safety
/// `w` must be valid for four rows and `x` for `T`, of `steps × STEP` elements each.
#[inline(always)]
pub(super) unsafe fn tile<A: Arithmetic, const T: usize>(
    a: A,
    w: *const A::Packed,
    x: *const A::Packed,
    steps: usize,
) -> [[f32; TILE_ROWS]; T] {
    let isa = a.isa();
    let mut acc = [[isa.zero(); TILE_ROWS]; T];
    for step in 0..steps {
        let at = step * A::STEP;
        // SAFETY: `at` is below `steps × STEP`.
        let mut xs = [unsafe { a.load(x.add(at)) }; T];
        for t in 1..T {
            // SAFETY: as above.
            xs[t] = unsafe { a.load(x.add(t * A::STRIDE + at)) };
        }
        for r in 0..TILE_ROWS {
            // SAFETY: as above.
            let ws = unsafe { a.load(w.add(r * A::STRIDE + at)) };
            for t in 0..T {
                acc[t][r] = a.multiply_add(ws, xs[t], acc[t][r]);
            }
        }
    }
    let mut sums = [[0.0; TILE_ROWS]; T];
    for t in 0..T {
        sums[t] = isa.sum4(acc[t]);
    }
    sums
}

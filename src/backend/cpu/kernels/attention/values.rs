//! The weighted sum of the values of a tile of keys.

use super::super::convert::Stored;
use super::super::kv::BLOCK_TOKENS;
use super::super::simd::Isa;
use super::spans::SpanResult;
use super::{TILE_KEYS, Tile, result_len};

/// Σ weight × value of `Q` queries, where their results are.
pub(super) struct Accumulators<I: Isa, const Q: usize> {
    isa: I,
    start: *mut f32,
    stride: usize,
    head_dim: usize,
}

impl<I: Isa, const Q: usize> Accumulators<I, Q> {
    /// Zeros.
    ///
    /// # Safety
    /// `results` must be the first of `Q`, and these not used elsewhere.
    #[inline(always)]
    pub(super) unsafe fn zeroed(isa: I, results: SpanResult, head_dim: usize) -> Self {
        let (start, stride) = (results.values(), result_len(head_dim));
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(0, Q * stride) };
        Accumulators { isa, start, stride, head_dim }
    }

    /// Multiplies what was summed by `kept` and adds the values of a tile, for query i those of its first
    /// `seen[i]` keys. `seen` does not fall.
    ///
    /// # Safety
    /// The blocks in use must be valid for their values.
    #[inline(always)]
    pub(super) unsafe fn step<S: Stored>(
        &mut self,
        tile: &Tile,
        weights: &[[f32; TILE_KEYS]; Q],
        kept: [f32; Q],
        seen: [usize; Q],
    ) {
        let first: [usize; Q] = std::array::from_fn(|i| i);
        // SAFETY: the caller's promise.
        unsafe {
            // What all queries see, together; the rest of the diagonal one by one.
            self.elements::<S, Q>(tile, weights, first, kept, 0, seen[0]);
            for i in 1..Q {
                if seen[i] > seen[0] {
                    self.elements::<S, 1>(tile, weights, [i], [1.0], seen[0], seen[i]);
                }
            }
        }
    }

    /// Adds the values of keys `from..to` for the queries `which`, all elements of the head.
    ///
    /// # Safety
    /// As [`Accumulators::step`].
    #[inline(always)]
    unsafe fn elements<S: Stored, const N: usize>(
        &mut self,
        tile: &Tile,
        weights: &[[f32; TILE_KEYS]; Q],
        which: [usize; N],
        kept: [f32; N],
        from: usize,
        to: usize,
    ) {
        let mut element = 0;
        // SAFETY: the elements exist; the caller's promise.
        unsafe {
            if N == 1 {
                while element + 8 * I::LANES <= self.head_dim {
                    self.keys::<S, N, 8>(tile, weights, which, kept, from..to, element);
                    element += 8 * I::LANES;
                }
            }
            while element + 2 * I::LANES <= self.head_dim {
                self.keys::<S, N, 2>(tile, weights, which, kept, from..to, element);
                element += 2 * I::LANES;
            }
            while element < self.head_dim {
                self.keys::<S, N, 1>(tile, weights, which, kept, from..to, element);
                element += I::LANES;
            }
        }
    }

    /// Adds the values of some keys for `N` queries, `C` vectors of elements from `element` on. A vector
    /// alone (`C` = 1) may reach over the end of the head.
    ///
    /// # Safety
    /// As [`Accumulators::step`].
    #[inline(always)]
    unsafe fn keys<S: Stored, const N: usize, const C: usize>(
        &mut self,
        tile: &Tile,
        weights: &[[f32; TILE_KEYS]; Q],
        which: [usize; N],
        kept: [f32; N],
        keys: std::ops::Range<usize>,
        element: usize,
    ) {
        let isa = self.isa;
        let rows: [*mut f32; N] = which.map(|i| self.start.wrapping_add(i * self.stride + element));
        let partial = if C == 1 { self.head_dim - element } else { I::LANES };
        // SAFETY: rows hold `stride` elements; values of keys below 64 lie in the tile's blocks.
        unsafe {
            let mut acc = [[isa.zero(); C]; N];
            for n in 0..N {
                for c in 0..C {
                    acc[n][c] = isa.mul(isa.load(rows[n].add(c * I::LANES)), isa.splat(kept[n]));
                }
            }
            let mut key = keys.start;
            while key < keys.end {
                let end = keys.end.min((key / BLOCK_TOKENS + 1) * BLOCK_TOKENS);
                let row_bytes = self.head_dim * S::BYTES;
                let mut at =
                    tile.values[key / BLOCK_TOKENS].add(key % BLOCK_TOKENS * row_bytes + element * S::BYTES);
                while key < end {
                    let mut value = [isa.zero(); C];
                    for c in 0..C {
                        let at = at.add(c * I::LANES * S::BYTES);
                        value[c] = if C == 1 && partial < I::LANES {
                            load_partial::<I, S>(isa, at, partial)
                        } else {
                            S::load(isa, at)
                        };
                    }
                    for n in 0..N {
                        let weight = isa.splat(*weights.get_unchecked(which[n]).get_unchecked(key));
                        for c in 0..C {
                            acc[n][c] = isa.fma(weight, value[c], acc[n][c]);
                        }
                    }
                    at = at.add(row_bytes);
                    key += 1;
                }
            }
            for n in 0..N {
                for c in 0..C {
                    isa.store(acc[n][c], rows[n].add(c * I::LANES));
                }
            }
        }
    }
}

/// The first `count` elements of a vector, and zeros.
///
/// # Safety
/// `at` must be valid for reading `count`, fewer than a vector.
#[inline(always)]
unsafe fn load_partial<I: Isa, S: Stored>(isa: I, at: *const u8, count: usize) -> I::V {
    let mut padded = [0u8; 64];
    // SAFETY: the caller's promise; 64 bytes hold a vector of any element.
    unsafe {
        padded.as_mut_ptr().copy_from_nonoverlapping(at, count * S::BYTES);
        S::load(isa, padded.as_ptr())
    }
}

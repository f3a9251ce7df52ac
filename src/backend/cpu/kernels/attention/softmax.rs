//! The running softmax of one query.

use super::super::exp::{exp, exp_one};
use super::super::simd::Isa;
use super::TILE_KEYS;

/// What the keys so far have given.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// The largest score.
    pub largest: f32,
    /// Σ e^(score − largest).
    pub sum: f32,
}

impl State {
    /// Before the first key.
    #[inline(always)]
    pub(super) fn new() -> Self {
        State { largest: f32::NEG_INFINITY, sum: 0.0 }
    }

    /// Turns the first `seen` raw scores of a tile into weights (the rest become 0) and gives the factor
    /// by which everything summed before must be multiplied.
    #[inline(always)]
    pub(super) fn step<I: Isa>(
        &mut self,
        isa: I,
        scores: &mut [f32; TILE_KEYS],
        seen: usize,
        scale: f32,
        clamp: Option<f32>,
    ) -> f32 {
        let at = scores.as_mut_ptr();
        let bound = isa.splat(clamp.unwrap_or(f32::INFINITY));
        let minus_bound = isa.sub(isa.zero(), bound);
        let mut v = 0;
        while v < TILE_KEYS {
            // SAFETY: v + LANES ≤ TILE_KEYS.
            unsafe {
                let score = isa.mul(isa.load(at.add(v)), isa.splat(scale));
                // A NaN score stays one: min and max give the second operand.
                isa.store(isa.min(bound, isa.max(minus_bound, score)), at.add(v));
            }
            v += I::LANES;
        }
        scores[seen..].fill(f32::NEG_INFINITY);
        let at = scores.as_mut_ptr();
        let mut largest = isa.splat(self.largest);
        let mut v = 0;
        while v < TILE_KEYS {
            // SAFETY: as above.
            largest = isa.max(unsafe { isa.load(at.add(v)) }, largest);
            v += I::LANES;
        }
        let largest = isa.largest(largest);
        let (mut sum, minus_largest) = (isa.zero(), isa.splat(-largest));
        let mut v = 0;
        while v < TILE_KEYS {
            // SAFETY: as above.
            unsafe {
                let weight = exp(isa, isa.add(isa.load(at.add(v)), minus_largest));
                sum = isa.add(sum, weight);
                isa.store(weight, at.add(v));
            }
            v += I::LANES;
        }
        let kept = if largest == self.largest { 1.0 } else { exp_one(isa, self.largest - largest) };
        self.sum = self.sum * kept + isa.sum(sum);
        self.largest = largest;
        kept
    }

    /// Takes the keys of a later span in; gives the factors of what was summed here and there.
    #[inline(always)]
    pub(super) fn merge<I: Isa>(&mut self, isa: I, later: State) -> (f32, f32) {
        let largest = if later.largest > self.largest { later.largest } else { self.largest };
        let kept = exp_one(isa, self.largest - largest);
        let added = exp_one(isa, later.largest - largest);
        self.sum = self.sum * kept + later.sum * added;
        self.largest = largest;
        (kept, added)
    }
}

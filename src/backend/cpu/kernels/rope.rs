//! Rotary position embedding of one head.

use super::simd::{Isa, Operation};

/// Rotates element i with element i + head_dim/2; see `Kernels::rope`.
pub(super) struct Rope<'a> {
    pub head: &'a mut [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

impl Operation for Rope<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let (low, high) = self.head.split_at_mut(self.head.len() / 2);
        for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
            // Two products and a sum, each rounded, as the reference implementation does it.
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}

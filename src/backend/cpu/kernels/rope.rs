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

#[cfg(test)]
mod tests {
    use super::super::testing::{Engine, bits, random};
    use super::*;

    #[test]
    fn rotates_halves_and_gives_the_same_bits_everywhere() {
        for head_dim in [2, 6, 20, 64, 100, 128] {
            let (x, half) = (random(head_dim, 5), head_dim / 2);
            let angles: Vec<f64> = (0..half).map(|i| 17.0 / 1e4f64.powf(i as f64 / half as f64)).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let mut first: Option<Vec<f32>> = None;
            for engine in Engine::all() {
                let mut head = x.clone();
                engine.run(Rope { head: &mut head, cos: &cos, sin: &sin });
                for i in 0..half {
                    let (a, b, angle) = (f64::from(x[i]), f64::from(x[i + half]), angles[i]);
                    let (low, high) = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
                    let error = (f64::from(head[i]) - low).abs() + (f64::from(head[i + half]) - high).abs();
                    assert!(error < 1e-6, "{engine:?} {head_dim}");
                }
                assert_eq!(bits(first.get_or_insert(head.clone())), bits(&head), "{engine:?}");
            }
        }
    }
}

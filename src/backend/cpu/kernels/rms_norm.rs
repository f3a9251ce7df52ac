//! Root-mean-square norm of one row.

use super::simd::{Isa, Operation, whole_vectors};

/// `out[i] = x[i] / √(mean(x²) + eps) × weight[i]`.
pub(super) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Operation for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let RmsNorm { x, weight, eps, out } = self;
        let mean = sum_of_squares(isa, x) / x.len().max(1) as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * factor * w;
        }
    }
}

/// Σ x², in f32 over four interleaved accumulators.
#[inline(always)]
fn sum_of_squares<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let mut sums = [isa.zero(); 4];
    let rest = whole_vectors(4 * I::LANES, x.len(), |i| {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 4 × LANES ≤ the length.
            let v = unsafe { isa.load(x.as_ptr().add(i + j * I::LANES)) };
            *sum = isa.fma(v, v, *sum);
        }
    });
    let tail: f32 = x[rest].iter().map(|v| v * v).sum();
    let [a, b, c, d] = isa.sum4(sums);
    ((a + b) + (c + d)) + tail
}

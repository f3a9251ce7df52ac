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

#[cfg(test)]
mod tests {
    use super::super::testing::{Engine, random};
    use super::*;

    #[test]
    fn right_at_every_length() {
        for len in [1, 5, 32, 100, 576, 4096, 11008] {
            let (x, weight) = (random(len, 8), random(len, 9));
            for (scale, eps) in [(1.0, 1e-5), (1e-4, 1e-6), (3e3, 1e-6)] {
                let x: Vec<f32> = x.iter().map(|v| v * scale).collect();
                let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
                let root = (squares / len as f64 + f64::from(eps)).sqrt();
                for engine in Engine::all() {
                    let mut out = vec![f32::NAN; len];
                    engine.run(RmsNorm { x: &x, weight: &weight, eps, out: &mut out });
                    for i in 0..len {
                        let truth = f64::from(x[i]) / root * f64::from(weight[i]);
                        let error = (f64::from(out[i]) - truth).abs();
                        assert!(error <= truth.abs() * 5e-7, "{engine:?} {len}: {} {truth}", out[i]);
                    }
                }
            }
        }
    }
}

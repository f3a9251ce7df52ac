//! The angles of the rotary embedding, as Hugging Face computes them.
//!
//! A greedy token can hang on the last bit of an angle: at position 2000 an f32 angle is off by up to
//! 1e-4, so an exact angle and a rounded one disagree visibly. The models were trained and are
//! referenced with inverse frequencies and angles rounded to f32; we round at the same places.

use crate::model::spec::{RopeScaling, RopeSpec};

/// Inverse frequencies `[head_dim / 2]` for an engine loaded for `context` tokens.
pub fn inverse_frequencies(rope: &RopeSpec, head_dim: usize, context: usize) -> Vec<f32> {
    let mut theta = f64::from(rope.theta);
    let mut divisor = 1.0f32;
    match rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => divisor = factor,
        RopeScaling::DynamicNtk { factor, trained } => {
            let (factor, trained) = (f64::from(factor), f64::from(trained));
            if context as f64 > trained && head_dim > 2 {
                let stretch = factor * context as f64 / trained - (factor - 1.0);
                theta *= stretch.powf(head_dim as f64 / (head_dim as f64 - 2.0));
            }
        }
    }
    (0..head_dim / 2)
        .map(|i| {
            let exponent = 2.0 * i as f32 / head_dim as f32;
            let power = theta.powf(f64::from(exponent)) as f32;
            1.0 / power / divisor
        })
        .collect()
}

/// Cosines and sines of one position, `[head_dim / 2]` each.
pub fn angles(inverse_frequencies: &[f32], position: u32, cos: &mut [f32], sin: &mut [f32]) {
    for ((&frequency, cos), sin) in inverse_frequencies.iter().zip(cos).zip(sin) {
        let angle = position as f32 * frequency;
        let (s, c) = f64::from(angle).sin_cos();
        (*cos, *sin) = (c as f32, s as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RopeScaling, head_dim: usize, context: usize) -> Vec<f32> {
        inverse_frequencies(&RopeSpec { theta: 1e4, scaling }, head_dim, context)
    }

    #[test]
    fn plain_frequencies_are_the_powers_of_theta() {
        let f = frequencies(RopeScaling::None, 128, 2048);
        assert_eq!(f.len(), 64);
        for (i, &f) in f.iter().enumerate() {
            let exact = 1e4f64.powf(-(i as f64) / 64.0);
            assert!((f64::from(f) / exact - 1.0).abs() < 2e-7, "{i}");
        }
    }

    #[test]
    fn scalings() {
        let plain = frequencies(RopeScaling::None, 64, 4096);
        let linear = frequencies(RopeScaling::Linear { factor: 8.0 }, 64, 4096);
        assert!(plain.iter().zip(&linear).all(|(p, l)| *l == p / 8.0));
        let ntk = RopeScaling::DynamicNtk { factor: 2.0, trained: 2048 };
        assert_eq!(frequencies(ntk, 64, 2048), frequencies(RopeScaling::None, 64, 2048));
        // theta' = 1e4 × (2·4096/2048 − 1)^(64/62)
        let theta = 1e4 * 3f64.powf(64.0 / 62.0);
        let stretched = frequencies(ntk, 64, 4096);
        assert!((f64::from(stretched[31]) * theta.powf(62.0 / 64.0) - 1.0).abs() < 1e-6);
        assert!(frequencies(ntk, 2, 4096).iter().all(|f| f.is_finite()));
    }

    #[test]
    fn angles_are_rounded_before_the_cosine() {
        let f = frequencies(RopeScaling::None, 128, 2048);
        let (mut cos, mut sin) = (vec![0.0; 64], vec![0.0; 64]);
        angles(&f, 2047, &mut cos, &mut sin);
        for i in 0..64 {
            let angle = 2047.0f32 * f[i];
            assert_eq!(cos[i], f64::from(angle).cos() as f32);
            assert!((cos[i] * cos[i] + sin[i] * sin[i] - 1.0).abs() < 1e-6);
        }
    }
}

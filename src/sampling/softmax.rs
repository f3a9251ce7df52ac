//! Log-probabilities over a whole vocabulary, once a token: the one pass here that must be fast.

/// Values treated at once; terms added in f32 before they go to an f64 sum.
const LANES: usize = 16;

/// The largest logit; `None` where none is above −∞. `Err` with the place of a NaN.
pub fn largest(logits: &[f32]) -> Result<Option<f32>, usize> {
    // In lanes, so that the compiler uses vectors. No comparison holds for NaN, which is looked for apart.
    let (mut lanes, mut nan) = ([f32::NEG_INFINITY; LANES], false);
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
            nan |= logit.is_nan();
        }
    }
    nan |= rest.iter().any(|logit| logit.is_nan());
    if nan {
        return Err(logits.iter().position(|logit| logit.is_nan()).unwrap_or(0));
    }
    let best = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    Ok((best > f32::NEG_INFINITY).then_some(best))
}

/// ln Σ exp(logit − largest), of logits that are at most `largest`, which is finite: the logarithm by
/// which all log-probabilities are lowered. Its error is below 1e-6.
pub fn log_sum_exp(logits: &[f32], largest: f32) -> f64 {
    let mut sum = 0f64;
    let chunks = logits.chunks_exact(LANES);
    for &logit in chunks.remainder() {
        sum += f64::from(exp(logit - largest));
    }
    for chunk in chunks {
        let mut lanes = [0f32; LANES];
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = exp(logit - largest);
        }
        // Halving keeps the additions independent of each other.
        let mut width = LANES / 2;
        while width > 0 {
            for at in 0..width {
                lanes[at] += lanes[at + width];
            }
            width /= 2;
        }
        sum += f64::from(lanes[0]);
    }
    sum.ln()
}

/// e^x for x ≤ 0 within 2e-7 of its value, 0 below −87; without branches, so that the compiler uses
/// vectors. x is split into n·ln 2 + r with |r| ≤ ln 2 / 2 (ln 2 in two parts, so that n·ln 2 is exact),
/// e^r is its Taylor polynomial, and n goes into the exponent bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting 1.5·2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(-87.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    // The low bits of `shifted` are n; the exponent's bias is 127.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = 0.0f32;
        while x > -87.0 {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "{x}");
            x -= 0.001_37;
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn sums_as_in_f64() {
        for count in [1usize, 15, 16, 17, 1000, 100_008] {
            let logits: Vec<f32> = (0..count).map(|i| ((i * 7919 % 1000) as f32 / 50.0) - 12.0).collect();
            let best = largest(&logits).unwrap().unwrap();
            assert!(logits.contains(&best) && logits.iter().all(|&logit| logit <= best));
            let exact: f64 = logits.iter().map(|&l| f64::from(l - best).exp()).sum::<f64>().ln();
            assert!((log_sum_exp(&logits, best) - exact).abs() < 1e-6);
        }
    }

    #[test]
    fn nan_and_nothing_are_seen_anywhere() {
        for at in [0, 5, 16, 99] {
            let mut logits = vec![1.0f32; 100];
            logits[at] = f32::NAN;
            assert_eq!(largest(&logits), Err(at));
        }
        assert_eq!(largest(&[f32::NEG_INFINITY; 3]), Ok(None));
        assert_eq!(largest(&[]), Ok(None));
        assert_eq!(largest(&[0.0, 2.0, 2.0]), Ok(Some(2.0)));
    }
}

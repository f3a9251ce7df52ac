//! The exponential function on vectors.
//!
//! e^x = 2^n · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2. ln 2 is subtracted in two parts, the
//! first with few enough bits that n times it is exact. e^r is its Taylor polynomial of degree 7, whose
//! truncation error on that range is below 2^-27 of the value. The error against
//! f64 is below 2 ulp at every level.
//! 2^n is applied in two factors, so that results run into infinity and denormals as they should.

use super::simd::Isa;

/// e^x in every lane. −∞ gives exactly 0, and so does everything below −104; +∞ from 88.73 on; NaN stays.
#[inline(always)]
pub(super) fn exp<I: Isa>(isa: I, x: I::V) -> I::V {
    const LN2_HIGH: f32 = 0.693_359_4; // 355/512, nine bits
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // The order of the operands keeps NaN: min and max give the second where either is NaN.
    let x = isa.min(isa.splat(89.0), isa.max(isa.splat(-104.0), x));
    let n = isa.round(isa.mul(x, isa.splat(std::f32::consts::LOG2_E)));
    let minus_n = isa.sub(isa.zero(), n);
    let r = isa.fma(minus_n, isa.splat(LN2_HIGH), x);
    let r = isa.fma(minus_n, isa.splat(LN2_LOW), r);
    let mut p = isa.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = isa.fma(p, r, isa.splat(coefficient));
    }
    let half = isa.round(isa.mul(n, isa.splat(0.5)));
    isa.mul(isa.mul(p, isa.exp2(half)), isa.exp2(isa.sub(n, half)))
}

/// e^x of one number, by the same steps.
#[inline(always)]
pub(super) fn exp_one<I: Isa>(isa: I, x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    isa.lanes(exp(isa, isa.splat(x)), &mut lanes);
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Operation};
    use super::super::testing::Engine;

    struct Exp<'a>(&'a mut [f32]);
    impl Operation for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            for x in self.0 {
                *x = super::exp_one(isa, *x);
            }
        }
    }

    #[test]
    fn within_two_ulp_of_the_truth() {
        let xs: Vec<f32> = (-87_000..88_000).map(|i| i as f32 * 0.001 + 0.000_37).collect();
        for engine in Engine::all() {
            let mut got = xs.clone();
            engine.run(Exp(&mut got));
            for (&x, &y) in xs.iter().zip(&got) {
                let truth = f64::from(x).exp();
                let ulp = f64::from(f32::from_bits((truth as f32).to_bits() + 1)) - f64::from(truth as f32);
                let error = (f64::from(y) - truth).abs() / ulp;
                assert!(error < 2.0, "{engine:?}: e^{x} = {y}, {error} ulp off");
            }
        }
    }

    #[test]
    fn the_ends_are_exact() {
        for engine in Engine::all() {
            let mut x = [f32::NEG_INFINITY, -1e30, -105.0, 0.0, -0.0, 89.0, f32::INFINITY, f32::NAN];
            engine.run(Exp(&mut x));
            let end = f32::INFINITY;
            assert_eq!(x[..7], [0.0, 0.0, 0.0, 1.0, 1.0, end, end], "{engine:?}");
            assert!(x[7].is_nan());
        }
    }
}

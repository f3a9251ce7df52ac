//! The gate of the feed-forward: `silu(gate) × up`.

use super::exp::exp;
use super::simd::{Isa, Operation, whole_vectors};

/// `gate[i] = gate[i] / (1 + e^-gate[i]) × up[i]`.
pub(super) struct SiluMul<'a> {
    pub gate: &'a mut [f32],
    pub up: &'a [f32],
}

impl Operation for SiluMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let len = self.gate.len().min(self.up.len());
        let (gate, up) = (self.gate.as_mut_ptr(), self.up.as_ptr());
        let rest = whole_vectors(I::LANES, len, |i| {
            // SAFETY: i + LANES ≤ len, the shorter length.
            unsafe { isa.store(silu_mul(isa, isa.load(gate.add(i)), isa.load(up.add(i))), gate.add(i)) }
        });
        for i in rest {
            let mut lanes = [0.0; 16];
            isa.lanes(silu_mul(isa, isa.splat(self.gate[i]), isa.splat(self.up[i])), &mut lanes);
            self.gate[i] = lanes[0];
        }
    }
}

#[inline(always)]
fn silu_mul<I: Isa>(isa: I, gate: I::V, up: I::V) -> I::V {
    let e = exp(isa, isa.sub(isa.zero(), gate));
    isa.mul(isa.div(gate, isa.add(isa.splat(1.0), e)), up)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Engine, bits, random};
    use super::*;

    #[test]
    fn right_at_every_length_and_alike_at_every_place() {
        for len in [1, 7, 8, 31, 576] {
            let gates: Vec<f32> = random(len, 3).iter().map(|x| 20.0 * x).collect();
            let up = random(len, 4);
            for engine in Engine::all() {
                let mut got = gates.clone();
                engine.run(SiluMul { gate: &mut got, up: &up });
                for (i, &y) in got.iter().enumerate() {
                    let (g, u) = (f64::from(gates[i]), f64::from(up[i]));
                    let truth = g / (1.0 + (-g).exp()) * u;
                    assert!(
                        (f64::from(y) - truth).abs() <= truth.abs() * 5e-7,
                        "{engine:?} {len}: {y} {truth}"
                    );
                }
                // An element has the same bits in a vector and in the rest after the last whole one.
                let mut short = gates[len / 2..].to_vec();
                engine.run(SiluMul { gate: &mut short, up: &up[len / 2..] });
                assert_eq!(bits(&short), bits(&got[len / 2..]), "{engine:?}");
            }
        }
    }

    #[test]
    fn a_gate_far_below_zero_closes() {
        for engine in Engine::all() {
            let mut gate = [-1e4, -90.0, 0.0, 1e4];
            engine.run(SiluMul { gate: &mut gate, up: &[2.0; 4] });
            assert_eq!(gate, [0.0, 0.0, 0.0, 2e4], "{engine:?}");
        }
    }
}

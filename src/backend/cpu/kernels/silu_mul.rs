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

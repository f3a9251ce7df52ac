//! NEON, which every aarch64 CPU has: eight lanes, as two registers of four.
//!
//! With 32 registers of four lanes the tiles are those of AVX2's sixteen of eight, and so are the results,
//! bit for bit.

use super::{Isa, Operation, with_tokens};
use std::arch::aarch64::*;

/// The instructions of every aarch64 CPU, Advanced SIMD among them.
#[derive(Clone, Copy)]
pub(in super::super) struct Neon;

/// Runs a kernel with these instructions.
#[inline]
pub(in super::super) fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Neon)
}

/// Applies an instruction to both halves.
macro_rules! halves {
    ($name:ident($($operand:ident),+)) => {
        // SAFETY: every aarch64 CPU has the instruction.
        unsafe { float32x4x2_t($name($($operand.0),+), $name($($operand.1),+)) }
    };
}

/// `2^n` by its exponent's bits.
#[inline(always)]
unsafe fn power_of_two(n: float32x4_t) -> float32x4_t {
    // SAFETY: every aarch64 CPU has the instructions.
    unsafe {
        let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
    }
}

// SAFETY: the target has the instructions.
unsafe impl Isa for Neon {
    type V = float32x4x2_t;
    const LANES: usize = 8;
    // 24 registers of sums, six of activations and two of weights.
    const TOKENS: usize = 3;
    const FEW_TOKENS: usize = 2;
    with_tokens!(1 2 3);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: every aarch64 CPU has the instruction, here and below.
        let four = unsafe { vdupq_n_f32(x) };
        float32x4x2_t(four, four)
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(vfmaq_f32(c, a, b))
    }
    // NEON's own maximum and minimum treat NaN otherwise.
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: as above.
        let above = unsafe { uint32x4x2_t(vcgtq_f32(a.0, b.0), vcgtq_f32(a.1, b.1)) };
        halves!(vbslq_f32(above, a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: as above.
        let below = unsafe { uint32x4x2_t(vcltq_f32(a.0, b.0), vcltq_f32(a.1, b.1)) };
        halves!(vbslq_f32(below, a, b))
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        halves!(vrndnq_f32(a))
    }
    #[inline(always)]
    fn exp2(self, n: Self::V) -> Self::V {
        halves!(power_of_two(n))
    }
    #[inline(always)]
    fn sum4(self, a: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: as above; the store is to an array of its size.
        unsafe {
            let low = vpaddq_f32(vpaddq_f32(a[0].0, a[1].0), vpaddq_f32(a[2].0, a[3].0));
            let high = vpaddq_f32(vpaddq_f32(a[0].1, a[1].1), vpaddq_f32(a[2].1, a[3].1));
            let mut out = [0.0; 4];
            vst1q_f32(out.as_mut_ptr(), vaddq_f32(low, high));
            out
        }
    }
    #[inline(always)]
    fn lanes(self, a: Self::V, out: &mut [f32; 16]) {
        // SAFETY: `out` holds more than eight.
        unsafe { self.store(a, out.as_mut_ptr()) }
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        // The "number" forms pass NaN over.
        // SAFETY: as above.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(a.0, a.1)) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { float32x4x2_t(vld1q_f32(at), vld1q_f32(at.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            let half = vreinterpretq_f16_u16(vld1q_u16(at.cast()));
            float32x4x2_t(vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = vld1q_u16(at.cast());
            let (low, high) = (vshll_n_u16::<16>(vget_low_u16(bits)), vshll_high_n_u16::<16>(bits));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    unsafe fn store(self, a: Self::V, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            vst1q_f32(at, a.0);
            vst1q_f32(at.add(4), a.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, a: Self::V, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let half = vcvt_high_f16_f32(vcvt_f16_f32(a.0), a.1);
            vst1q_u16(at.cast(), vreinterpretq_u16_f16(half));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            let words = vmovl_s8(vld1_s8(at.cast()));
            float32x4x2_t(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words)))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, a: Self::V, at: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe {
            let low = vqmovn_s32(vcvtnq_s32_f32(a.0));
            let words = vqmovn_high_s32(low, vcvtnq_s32_f32(a.1));
            vst1_s8(at, vqmovn_s16(words));
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address has no effect that a program can see.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn prefetch_l2(self, at: *const u8) {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }
}

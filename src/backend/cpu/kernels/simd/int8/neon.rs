//! NEON: eight lanes as two registers of four, with the dot product of bytes where the CPU has it
//! (Cortex-A76, Neoverse N1, Kunpeng 920 and later), else with products of 16 bits.
//!
//! The dot product multiplies signed by signed bytes, so both take the offset out of the weights; from
//! codes it is out already in the table.

use super::super::neon::Neon;
use super::{Codebook, Int8, IntOperation, tiles};
use std::arch::aarch64::*;
use std::arch::asm;

/// What every aarch64 CPU has.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

/// The proof that the CPU has the dot product of bytes.
#[derive(Clone, Copy)]
pub(super) struct Dot(());

/// Runs a kernel with what every CPU has.
#[inline]
pub(super) fn run<O: IntOperation>(operation: O) {
    operation.run(Pairs)
}

/// Runs a kernel compiled for the dot product of bytes.
///
/// # Safety
/// The CPU must have it.
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn run_dot<O: IntOperation>(operation: O) {
    operation.run(Dot(()))
}

/// What both have in common.
macro_rules! common {
    () => {
        type F = Neon;
        type I = int32x4x2_t;
        type W = int8x16x2_t;
        type Table = int8x16_t;
        const LANES: usize = 8;
        const OFFSET: bool = false;
        const ROLLED: bool = false;

        #[inline(always)]
        fn floats(self) -> Neon {
            Neon
        }
        #[inline(always)]
        fn splat(self, x: i32) -> int32x4x2_t {
            // SAFETY: every aarch64 CPU has the instruction, here and below.
            let four = unsafe { vdupq_n_s32(x) };
            int32x4x2_t(four, four)
        }
        #[inline(always)]
        fn to_float(self, sums: int32x4x2_t) -> float32x4x2_t {
            // SAFETY: as above.
            unsafe { float32x4x2_t(vcvtq_f32_s32(sums.0), vcvtq_f32_s32(sums.1)) }
        }
        #[inline(always)]
        fn table(self, codebook: &Codebook) -> int8x16_t {
            // SAFETY: as above; the codebook has 16 bytes.
            unsafe { signed(vld1q_u8(codebook.as_ptr())) }
        }
        #[inline(always)]
        unsafe fn load_nibbles(self, at: *const u8) -> float32x4x2_t {
            // SAFETY: the caller's promise.
            unsafe {
                let codes = vandq_u16(vld1q_u16(at.cast()), vdupq_n_u16(15));
                float32x4x2_t(
                    vcvtq_f32_u32(vmovl_u16(vget_low_u16(codes))),
                    vcvtq_f32_u32(vmovl_high_u16(codes)),
                )
            }
        }
        #[inline(always)]
        unsafe fn weights(self, at: *const u8) -> int8x16x2_t {
            // SAFETY: the caller's promise.
            unsafe { int8x16x2_t(signed(vld1q_u8(at)), signed(vld1q_u8(at.add(16)))) }
        }
        #[inline(always)]
        unsafe fn coded<const HIGH: bool>(self, at: *const u8, table: int8x16_t) -> int8x16x2_t {
            // SAFETY: the caller's promise.
            unsafe { int8x16x2_t(look_up::<HIGH>(at, table), look_up::<HIGH>(at.add(16), table)) }
        }
        #[inline(always)]
        unsafe fn expand<const HIGH: bool>(self, from: *const u8, table: int8x16_t, to: *mut u8) {
            // SAFETY: the caller's promise.
            unsafe {
                let weights = self.coded::<HIGH>(from, table);
                vst1q_u8(to, stored(weights.0));
                vst1q_u8(to.add(16), stored(weights.1));
            }
        }
    };
}

/// Stored bytes as the weights that they stand for: 128 less.
#[inline(always)]
fn signed(bytes: uint8x16_t) -> int8x16_t {
    // SAFETY: every aarch64 CPU has the instruction.
    unsafe { vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80))) }
}

/// Weights as they are stored.
#[inline(always)]
fn stored(weights: int8x16_t) -> uint8x16_t {
    // SAFETY: every aarch64 CPU has the instruction.
    unsafe { veorq_u8(vreinterpretq_u8_s8(weights), vdupq_n_u8(0x80)) }
}

/// The weights of 16 codes.
///
/// # Safety
/// `at` must be valid for reading 16 bytes.
#[inline(always)]
unsafe fn look_up<const HIGH: bool>(at: *const u8, table: int8x16_t) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = vld1q_u8(at);
        vqtbl1q_s8(table, if HIGH { vshrq_n_u8::<4>(bytes) } else { vandq_u8(bytes, vdupq_n_u8(15)) })
    }
}

/// `acc` + the products of four lanes. The sums of two products must fit in 16 bits, and do: a weight is at least
/// −128 and an activation at most 127 in magnitude, 2 × 128 × 127 = 32,512.
#[inline(always)]
fn pairs(acc: int32x4_t, w: int8x16_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: every aarch64 CPU has the instructions.
    unsafe {
        let x = vreinterpretq_s8_s32(x);
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_high_s8(w, x);
        vpadalq_s16(acc, vpaddq_s16(low, high))
    }
}

/// `acc` + the products of four lanes.
///
/// # Safety
/// The CPU must have the dot product of bytes, and the function that this is inlined into must be compiled for it.
#[inline(always)]
unsafe fn dot(mut acc: int32x4_t, w: int8x16_t, x: int32x4_t) -> int32x4_t {
    // The compiler's own name for the instruction is not stable yet.
    // SAFETY: the caller's promise; nothing but `acc` changes.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inlateout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

// SAFETY: the target has the instructions.
unsafe impl Int8 for Pairs {
    common!();
    // Four instructions a register of weights: sums, scaled sums, products and weights take 21 registers.
    tiles!(1 x [1 2 3] 4);

    #[inline(always)]
    fn dot(self, acc: int32x4x2_t, w: int8x16x2_t, x: int32x4x2_t) -> int32x4x2_t {
        int32x4x2_t(pairs(acc.0, w.0, x.0), pairs(acc.1, w.1, x.1))
    }
}

// SAFETY: only `run_dot` makes a value, and its caller vouches for the instructions.
unsafe impl Int8 for Dot {
    common!();
    // 12 registers of sums and as many of scaled ones leave room for four of weights and the activations: 12
    // dot products for four loads of weights and three of activations.
    tiles!(2 x [1 2] 3, "dotprod");

    #[inline(always)]
    fn dot(self, acc: int32x4x2_t, w: int8x16x2_t, x: int32x4x2_t) -> int32x4x2_t {
        // SAFETY: the token.
        unsafe { int32x4x2_t(dot(acc.0, w.0, x.0), dot(acc.1, w.1, x.1)) }
    }
}

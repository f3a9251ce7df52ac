//! Dot products in registers on aarch64.

use super::{Dot, dot_portable};
use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

pub fn dot_kernel(dot: Dot) -> Option<fn(u32) -> u64> {
    match dot {
        // Every CPU has the fused multiplication, which the compiler uses.
        Dot::F32 => Some(dot_portable),
        // No kernel of ours uses bf16 instructions here.
        Dot::Bf16 => None,
        Dot::Int8 if std::arch::is_aarch64_feature_detected!("dotprod") => {
            // SAFETY: the CPU has the feature of the function.
            Some(|rounds| unsafe { dot_bytes(rounds) })
        }
        Dot::Int8 => Some(dot_pairs),
    }
}

/// Sixteen sums hide the latency of the units, two to four operations a cycle of three or four cycles each.
const SUMS: usize = 16;

#[target_feature(enable = "dotprod")]
fn dot_bytes(rounds: u32) -> u64 {
    let (a, b) = (black_box(vdupq_n_s8(5)), black_box(vdupq_n_s8(3)));
    let mut sums = [vdupq_n_s32(0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: the function has the feature; nothing but `sum` changes.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                    sum = inlateout(vreg) *sum,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    }
    black_box(sums);
    u64::from(rounds) * SUMS as u64 * 16 * 2
}

/// The four instructions that stand for it on CPUs without.
fn dot_pairs(rounds: u32) -> u64 {
    // SAFETY: every aarch64 CPU has the instructions.
    unsafe {
        let (a, mut b) = (black_box(vdupq_n_s8(5)), black_box(vdupq_n_s8(3)));
        let mut sums = [vdupq_n_s32(0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // No instruction, but `b` may have changed: else the compiler would multiply once for all sums.
                asm!("/* {b:v} */", b = inout(vreg) b, options(nomem, nostack, preserves_flags));
                let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
                *sum = vpadalq_s16(*sum, vpaddq_s16(low, vmull_high_s8(a, b)));
            }
        }
        black_box(sums);
    }
    u64::from(rounds) * SUMS as u64 * 16 * 2
}

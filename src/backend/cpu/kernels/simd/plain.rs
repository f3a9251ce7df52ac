//! Vectors as plain arrays: the scalar level, and the oracle for the others.
//!
//! The compiler turns these loops into whatever vectors the lowest CPU has.

use super::{Isa, with_tokens};
use half::{bf16, f16};

/// The scalar level: eight lanes, a multiplication and an addition in place of the fused one, which
/// the lowest CPUs only have as a slow library call.
#[derive(Clone, Copy)]
pub(in super::super) struct Plain;

macro_rules! plain_isa {
    ($name:ident, $lanes:literal, [$($tokens:literal)*] of $most:literal tokens, |$a:ident, $b:ident, $c:ident| $fma:expr) => {
        // SAFETY: plain arrays need no instructions beyond the target's.
        unsafe impl Isa for $name {
            type V = [f32; $lanes];
            const LANES: usize = $lanes;
            const TOKENS: usize = $most;
            const FEW_TOKENS: usize = if $most == 3 { 2 } else { $most };
            with_tokens!($($tokens)*);

            #[inline(always)]
            fn splat(self, x: f32) -> Self::V {
                [x; $lanes]
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| {
                    let ($a, $b, $c) = (a[i], b[i], c[i]);
                    $fma
                })
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn round(self, a: Self::V) -> Self::V {
                // 1.5 × 2^23: adding it leaves no room for a fraction, so the addition rounds.
                const SHIFT: f32 = 12_582_912.0;
                std::array::from_fn(|i| (a[i] + SHIFT) - SHIFT)
            }
            #[inline(always)]
            fn exp2(self, n: Self::V) -> Self::V {
                std::array::from_fn(|i| f32::from_bits(((n[i] as i32 + 127) << 23) as u32))
            }
            #[inline(always)]
            fn sum4(self, a: [Self::V; 4]) -> [f32; 4] {
                a.map(|v| {
                    let l: [f32; 8] =
                        std::array::from_fn(|i| if $lanes == 16 { v[i] + v[i + $lanes - 8] } else { v[i] });
                    ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]))
                })
            }
            #[inline(always)]
            fn lanes(self, a: Self::V, out: &mut [f32; 16]) {
                out[..$lanes].copy_from_slice(&a);
            }

            #[inline(always)]
            unsafe fn load(self, at: *const f32) -> Self::V {
                // SAFETY: the caller's promise.
                unsafe { at.cast::<Self::V>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn load_f16(self, at: *const u8) -> Self::V {
                // SAFETY: the caller's promise.
                let bits = unsafe { at.cast::<[u16; $lanes]>().read_unaligned() };
                bits.map(f16_to_f32)
            }
            #[inline(always)]
            unsafe fn load_bf16(self, at: *const u8) -> Self::V {
                // SAFETY: the caller's promise.
                let bits = unsafe { at.cast::<[u16; $lanes]>().read_unaligned() };
                bits.map(|b| f32::from_bits(u32::from(b) << 16))
            }
            #[inline(always)]
            unsafe fn store(self, a: Self::V, at: *mut f32) {
                // SAFETY: the caller's promise.
                unsafe { at.cast::<Self::V>().write_unaligned(a) }
            }
            #[inline(always)]
            unsafe fn store_f16(self, a: Self::V, at: *mut u8) {
                let bits = a.map(|x| f16::from_f32(x).to_bits());
                // SAFETY: the caller's promise.
                unsafe { at.cast::<[u16; $lanes]>().write_unaligned(bits) }
            }
            #[inline(always)]
            unsafe fn load_i8(self, at: *const u8) -> Self::V {
                // SAFETY: the caller's promise.
                unsafe { at.cast::<[i8; $lanes]>().read_unaligned() }.map(f32::from)
            }
            #[inline(always)]
            unsafe fn store_i8(self, a: Self::V, at: *mut i8) {
                // SAFETY: the caller's promise.
                unsafe { at.cast::<[i8; $lanes]>().write_unaligned(a.map(|x| x as i8)) }
            }
            #[inline(always)]
            fn prefetch(self, _at: *const u8) {}
            #[inline(always)]
            fn prefetch_l2(self, _at: *const u8) {}
        }
    };
}

plain_isa!(Plain, 8, [1 2] of 2 tokens, |a, b, c| a * b + c);

/// What AVX2 computes, on arrays: for tests.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(in super::super) struct Fused8;
#[cfg(test)]
plain_isa!(Fused8, 8, [1 2 3] of 3 tokens, |a, b, c| f32::mul_add(a, b, c));

/// What AVX-512 computes, on arrays: for tests.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(in super::super) struct Fused16;
#[cfg(test)]
plain_isa!(Fused16, 16, [1 2 3 4 5 6] of 6 tokens, |a, b, c| f32::mul_add(a, b, c));

/// An f16 as f32, exactly, in integer and normal f32 arithmetic: it gives the same where denormals are
/// treated as zero.
#[inline(always)]
pub(in super::super) fn f16_to_f32(bits: u16) -> f32 {
    const EXPONENT: u32 = 0x1f << 23;
    // 2^-14, the smallest normal f16.
    const SMALLEST: f32 = f32::from_bits(113 << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let exponent = magnitude & EXPONENT;
    let normal = magnitude + ((127 - 15) << 23);
    let special = normal + ((128 - 16) << 23);
    let denormal = (f32::from_bits(normal + (1 << 23)) - SMALLEST).to_bits();
    let value = if exponent == EXPONENT {
        special
    } else if exponent == 0 {
        denormal
    } else {
        normal
    };
    f32::from_bits(value | sign)
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(in super::super) fn f32_to_bf16(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#06x}: {ours} instead of {theirs}"
            );
        }
    }
}

//! bf16 weights by activations rounded to bf16, two products a lane, accumulated in f32 (AVX512-BF16).
//!
//! The instruction takes denormal inputs as zero and flushes denormal results, whatever the thread's
//! settings: values below 2^-126, which no weight or activation needs.

use super::super::simd::avx512::Avx512;
use super::arithmetic::Arithmetic;
use super::{Product, multiply};
use std::arch::x86_64::*;

/// Runs a product of a bf16 matrix.
///
/// # Safety
/// As `matmul::run`; the CPU must have AVX512-BF16 and what `Avx512` needs.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run(product: &Product<'_>, x: *mut f32, w: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { multiply(Bf16Pairs(Avx512::assume()), product, x, w) }
}

/// The proof that the CPU has AVX512-BF16.
#[derive(Clone, Copy)]
struct Bf16Pairs(Avx512);

impl Arithmetic for Bf16Pairs {
    type Isa = Avx512;
    type Packed = u16;
    type Operand = __m512bh;
    const STEP: usize = 32;
    const STORED_BYTES: usize = 2;
    const X_IN_PLACE: bool = false;

    #[inline(always)]
    fn isa(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn multiply_add(self, w: __m512bh, x: __m512bh, acc: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_dpbf16_ps(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn load(self, at: *const u16) -> __m512bh {
        // SAFETY: the token, the caller's promise, and two types of the same 64 bytes.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, operand: __m512bh, at: *mut u16) {
        // SAFETY: the token, the caller's promise, and two types of the same 64 bytes.
        unsafe { _mm512_storeu_si512(at.cast(), std::mem::transmute::<__m512bh, __m512i>(operand)) }
    }
    #[inline(always)]
    unsafe fn weight(self, at: *const u8) -> __m512bh {
        // SAFETY: the caller's promise.
        unsafe { self.load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn activation(self, at: *const f32) -> __m512bh {
        // SAFETY: the token, and the caller's promise. The first operand becomes the upper half.
        unsafe { _mm512_cvtne2ps_pbh(_mm512_loadu_ps(at.add(16)), _mm512_loadu_ps(at)) }
    }
}

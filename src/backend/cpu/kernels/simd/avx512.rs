//! AVX-512 (F, BW, VL, DQ): sixteen lanes.

use super::{Isa, Operation, with_tokens};
use std::arch::x86_64::*;

/// The proof that the CPU has AVX-512 F, BW, VL, DQ, and AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(());

impl Avx512 {
    /// The proof, for a function that is compiled for these instructions and more.
    ///
    /// # Safety
    /// The CPU must have AVX-512 F, BW, VL and DQ, AVX2, FMA and F16C.
    #[inline(always)]
    pub(in super::super) unsafe fn assume() -> Self {
        Avx512(())
    }
}

/// Runs a kernel compiled for these instructions.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, VL and DQ, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(in super::super) unsafe fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Avx512(()))
}

// SAFETY: only `run` and `assume` make a value, and their callers vouch for the instructions.
unsafe impl Isa for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const TOKENS: usize = 6;
    const FEW_TOKENS: usize = 6;
    with_tokens!(1 2 3 4 5 6);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves the instructions, here and below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2(self, n: Self::V) -> Self::V {
        // SAFETY: the token.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn sum4(self, a: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: the token; the store is to an array of its size.
        unsafe {
            let fold = |v: __m512| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let pairs01 = _mm256_hadd_ps(fold(a[0]), fold(a[1]));
            let pairs23 = _mm256_hadd_ps(fold(a[2]), fold(a[3]));
            let fours = _mm256_hadd_ps(pairs01, pairs23);
            let sums = _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps::<1>(fours));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }
    #[inline(always)]
    fn lanes(self, a: Self::V, out: &mut [f32; 16]) {
        // SAFETY: the token; `out` holds sixteen.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::V {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> Self::V {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u8) -> Self::V {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store(self, a: Self::V, at: *mut f32) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_storeu_ps(at, a) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, a: Self::V, at: *mut u8) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            _mm256_storeu_si256(at.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> Self::V {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, a: Self::V, at: *mut i8) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))) }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address has no effect that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_l2(self, at: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}

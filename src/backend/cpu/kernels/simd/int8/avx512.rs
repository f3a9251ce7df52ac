//! AVX-512 VNNI: sixteen lanes.

use super::super::avx512::Avx512;
use super::{Codebook, Int8, IntOperation, tiles};
use std::arch::x86_64::*;

/// The proof that the CPU has AVX-512 VNNI and what [`Avx512`] needs.
#[derive(Clone, Copy)]
pub(super) struct Vnni(Avx512);

/// Runs a kernel compiled for these instructions.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run<O: IntOperation>(operation: O) {
    // SAFETY: the caller's promise.
    operation.run(Vnni(unsafe { Avx512::assume() }))
}

// SAFETY: only `run` makes a value, and its caller vouches for the instructions.
unsafe impl Int8 for Vnni {
    type F = Avx512;
    type I = __m512i;
    type W = __m512i;
    type Table = __m512i;
    const LANES: usize = 16;
    const OFFSET: bool = true;
    const ROLLED: bool = false;
    // 12 sums and as many scaled ones leave room for two vectors of weights and the activations.
    tiles!(2 x [1 2 3 4 5] 6, "avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");

    #[inline(always)]
    fn floats(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        // SAFETY: the token proves the instructions, here and below.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    fn to_float(self, sums: __m512i) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
    #[inline(always)]
    fn table(self, codebook: &Codebook) -> __m512i {
        // SAFETY: the token; the codebook has 16 bytes.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(codebook.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, at: *const u8) -> __m512 {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn weights(self, at: *const u8) -> __m512i {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn coded<const HIGH: bool>(self, at: *const u8, table: __m512i) -> __m512i {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let bytes = _mm512_loadu_si512(at.cast());
            let codes = if HIGH { _mm512_srli_epi16::<4>(bytes) } else { bytes };
            _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
        }
    }
    #[inline(always)]
    unsafe fn expand<const HIGH: bool>(self, from: *const u8, table: __m512i, to: *mut u8) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), self.coded::<HIGH>(from, table)) }
    }
}

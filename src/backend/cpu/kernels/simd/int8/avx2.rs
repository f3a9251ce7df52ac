//! AVX2: eight lanes, with the dot product of bytes where the CPU has its VEX form, else with products of
//! 16 bits.

use super::super::avx2::Avx2;
use super::{Codebook, Int8, IntOperation, tiles};
use std::arch::x86_64::*;

/// The proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Pairs(Avx2);

/// The same, and AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Vnni(Avx2);

/// Runs a kernel compiled for AVX2.
///
/// # Safety
/// The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<O: IntOperation>(operation: O) {
    // SAFETY: the caller's promise.
    operation.run(Pairs(unsafe { Avx2::assume() }))
}

/// Runs a kernel compiled for AVX2 and AVX-VNNI.
///
/// # Safety
/// The CPU must have AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(super) unsafe fn run_vnni<O: IntOperation>(operation: O) {
    // SAFETY: the caller's promise.
    operation.run(Vnni(unsafe { Avx2::assume() }))
}

/// What both have in common.
macro_rules! common {
    () => {
        type F = Avx2;
        type I = __m256i;
        type W = __m256i;
        /// As the multiplication takes them.
        type Table = __m256i;
        const LANES: usize = 8;

        #[inline(always)]
        fn floats(self) -> Avx2 {
            self.0
        }
        #[inline(always)]
        fn splat(self, x: i32) -> __m256i {
            // SAFETY: the token proves the instructions, here and below.
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        fn to_float(self, sums: __m256i) -> __m256 {
            // SAFETY: the token.
            unsafe { _mm256_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        fn table(self, codebook: &Codebook) -> __m256i {
            // SAFETY: the token; the codebook has 16 bytes.
            unsafe {
                taken(_mm256_broadcastsi128_si256(_mm_loadu_si128(codebook.as_ptr().cast())), Self::OFFSET)
            }
        }
        #[inline(always)]
        unsafe fn load_nibbles(self, at: *const u8) -> __m256 {
            // SAFETY: the token, and the caller's promise.
            unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_cvtepi32_ps(_mm256_and_si256(words, _mm256_set1_epi32(15)))
            }
        }
        #[inline(always)]
        unsafe fn expand<const HIGH: bool>(self, from: *const u8, table: __m256i, to: *mut u8) {
            // SAFETY: the token, and the caller's promise.
            unsafe { _mm256_storeu_si256(to.cast(), taken(look_up::<HIGH>(from, table), Self::OFFSET)) }
        }
        #[inline(always)]
        unsafe fn weights(self, at: *const u8) -> __m256i {
            // SAFETY: the token, and the caller's promise.
            unsafe { taken(_mm256_loadu_si256(at.cast()), Self::OFFSET) }
        }
        #[inline(always)]
        unsafe fn coded<const HIGH: bool>(self, at: *const u8, table: __m256i) -> __m256i {
            // SAFETY: the token, and the caller's promise.
            unsafe { look_up::<HIGH>(at, table) }
        }
    };
}

/// Stored bytes as the multiplication takes them, and back: with their offset, or as signed bytes.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn taken(bytes: __m256i, offset: bool) -> __m256i {
    // SAFETY: the caller's promise.
    if offset { bytes } else { unsafe { _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) } }
}

/// What a table says of 32 codes.
///
/// # Safety
/// The CPU must have AVX2; `at` must be valid for reading 32 bytes.
#[inline(always)]
unsafe fn look_up<const HIGH: bool>(at: *const u8, table: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = _mm256_loadu_si256(at.cast());
        let codes = if HIGH { _mm256_srli_epi16::<4>(bytes) } else { bytes };
        _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)))
    }
}

// SAFETY: only `run` makes a value, and its caller vouches for the instructions.
unsafe impl Int8 for Pairs {
    common!();
    const OFFSET: bool = false;
    const ROLLED: bool = true;
    tiles!(1 x [1 2 3] 4, "avx2,fma,f16c");

    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // Unsigned by signed bytes, two products to 16 bits: |w| × (x with the sign of w). The sums cannot
        // saturate, since |w| is at most 128 and |x| at most 127.
        // SAFETY: the token.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

// SAFETY: only `run_vnni` makes a value, and its caller vouches for the instructions.
unsafe impl Int8 for Vnni {
    common!();
    const OFFSET: bool = true;
    const ROLLED: bool = false;
    tiles!(2 x [1 2] 3, "avxvnni,avx2,fma,f16c");

    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}

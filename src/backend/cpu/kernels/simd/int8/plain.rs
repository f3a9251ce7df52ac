//! Dot products of bytes on plain arrays: the scalar level, and the oracle for the others.

use super::super::plain::Plain as PlainFloats;
use super::{Codebook, Int8, tiles};

/// Eight lanes of arrays.
#[derive(Clone, Copy)]
pub(in super::super) struct Plain;

// SAFETY: plain arrays need no instructions beyond the target's.
unsafe impl Int8 for Plain {
    type F = PlainFloats;
    type I = [i32; 8];
    type W = [i8; 32];
    type Table = Codebook;
    const LANES: usize = 8;
    const OFFSET: bool = false;
    const ROLLED: bool = false;
    tiles!(1 x [1] 2);

    #[inline(always)]
    fn floats(self) -> PlainFloats {
        PlainFloats
    }
    #[inline(always)]
    fn splat(self, x: i32) -> Self::I {
        [x; 8]
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::W, x: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let x = x[lane].to_le_bytes();
            let product = |i: usize| i32::from(w[4 * lane + i]) * i32::from(x[i] as i8);
            acc[lane] + (product(0) + product(1)) + (product(2) + product(3))
        })
    }
    #[inline(always)]
    fn to_float(self, sums: Self::I) -> [f32; 8] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    fn table(self, codebook: &Codebook) -> Codebook {
        *codebook
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, at: *const u8) -> [f32; 8] {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[[u8; 2]; 8]>().read_unaligned() }.map(|word| f32::from(word[0] & 15))
    }
    #[inline(always)]
    unsafe fn weights(self, at: *const u8) -> Self::W {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u8; 32]>().read_unaligned() }.map(signed)
    }
    #[inline(always)]
    unsafe fn coded<const HIGH: bool>(self, at: *const u8, table: Codebook) -> Self::W {
        // SAFETY: the caller's promise.
        unsafe { stored::<HIGH>(at, table) }.map(signed)
    }
    #[inline(always)]
    unsafe fn expand<const HIGH: bool>(self, from: *const u8, table: Codebook, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u8; 32]>().write_unaligned(stored::<HIGH>(from, table)) }
    }
}

/// A stored byte as the weight that it stands for.
#[inline(always)]
fn signed(byte: u8) -> i8 {
    (byte ^ 0x80) as i8
}

/// # Safety
/// `at` must be valid for reading 32 bytes.
#[inline(always)]
unsafe fn stored<const HIGH: bool>(at: *const u8, table: Codebook) -> [u8; 32] {
    // SAFETY: the caller's promise.
    let bytes = unsafe { at.cast::<[u8; 32]>().read_unaligned() };
    bytes.map(|byte| table[usize::from(if HIGH { byte >> 4 } else { byte & 15 })])
}

//! The blocked element types of GGUF, to f32.
//!
//! A block holds 32 elements (the older types) or 256 (the K types) as small codes with scales of
//! their own. The older types have one f16 scale d, and some an f16 minimum m: an element is
//! `code · d` or `code · d + m`. A K block is cut into groups of 16 or 32 elements; each group has a
//! small integer scale (and minimum) that is itself multiplied by an f16 of the block.
//!
//! The order of the multiplications is part of the format: the tests compare every bit with ggml's
//! own dequantiser.

use crate::base::blocks::{five_bits, scale_and_min};
use crate::base::dtype::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements of a K block.
const K: usize = 256;

/// Decodes whole blocks of `dtype` into `out`. `bytes` must be exactly the blocks of `out.len()`
/// elements; callers checked that when the tensor was made. What is missing on either side is left
/// as it was.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            for (o, b) in out.iter_mut().zip(values) {
                *o = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => f16_to_f32(bytes, out),
        DType::BF16 => {
            let (values, _) = bytes.as_chunks::<2>();
            for (o, b) in out.iter_mut().zip(values) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        DType::Q4_0 => blocks(bytes, out, q4_0),
        DType::Q4_1 => blocks(bytes, out, q4_1),
        DType::Q5_0 => blocks(bytes, out, q5_0),
        DType::Q5_1 => blocks(bytes, out, q5_1),
        DType::Q8_0 => blocks(bytes, out, q8_0),
        DType::Q2K => blocks(bytes, out, q2_k),
        DType::Q3K => blocks(bytes, out, q3_k),
        DType::Q4K => blocks(bytes, out, q4_k),
        DType::Q5K => blocks(bytes, out, q5_k),
        DType::Q6K => blocks(bytes, out, q6_k),
    }
}

/// Pairs the blocks of `B` bytes with their `E` elements.
fn blocks<const B: usize, const E: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; E]),
) {
    for (block, out) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<E>().0) {
        decode(block, out);
    }
}

/// f16 in batches, because the crate looks for the CPU's own conversion once a call.
fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    const BATCH: usize = 256;
    let mut values = [f16::ZERO; BATCH];
    for (bytes, out) in bytes.chunks(2 * BATCH).zip(out.chunks_mut(BATCH)) {
        for (value, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = f16::from_le_bytes(*b);
        }
        values[..out.len()].convert_to_f32_slice(out);
    }
}

/// The f16 at byte `at` of a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `d` f16, 16 bytes: low nibbles are elements 0..16, high ones 16..32.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, byte) in block[2..].iter().enumerate() {
        out[i] = (i32::from(byte & 15) - 8) as f32 * d;
        out[i + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
    }
}

/// `d`, `m` f16, 16 bytes of nibbles as in [`q4_0`].
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, byte) in block[4..].iter().enumerate() {
        out[i] = f32::from(byte & 15) * d + m;
        out[i + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// `d` f16, 32 fifth bits, 16 bytes of nibbles.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half(block, 0), u32::from_le_bytes([block[2], block[3], block[4], block[5]]));
    for (i, &byte) in block[6..].iter().enumerate() {
        let (a, b) = five_bits(byte, high, i);
        out[i] = (i32::from(a) - 16) as f32 * d;
        out[i + 16] = (i32::from(b) - 16) as f32 * d;
    }
}

/// `d`, `m` f16, 32 fifth bits, 16 bytes of nibbles.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, &byte) in block[8..].iter().enumerate() {
        let (a, b) = five_bits(byte, high, i);
        out[i] = f32::from(a) * d + m;
        out[i + 16] = f32::from(b) * d + m;
    }
}

/// `d` f16, 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (o, &byte) in out.iter_mut().zip(&block[2..]) {
        *o = f32::from(byte as i8) * d;
    }
}

/// The 16 bytes that hold, in bits `2 · plane` and up, the 2-bit codes of a group of 16: each 32 bytes
/// hold 128 elements in four planes of 32. Returns the bytes and the shift.
fn two_bits(codes: &[u8], group: usize) -> (&[u8], usize) {
    let (half, plane, start) = (group / 8, group % 8 / 2, group % 2 * 16);
    (&codes[half * 32 + start..][..16], plane * 2)
}

/// 16 bytes (scale in the low nibble, minimum in the high one), 64 bytes of 2-bit codes, `d`, `dmin`.
fn q2_k(block: &[u8; 84], out: &mut [f32; K]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, d_min) = (half(block, 80), half(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let minimum = d_min * f32::from(scales[group] >> 4);
        let (codes, shift) = two_bits(codes, group);
        for (o, code) in out.iter_mut().zip(codes) {
            *o = scale * f32::from(code >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits (bit g of byte i: element i of the g-th 32), 64 bytes of 2-bit codes, 12 bytes
/// of 16 six-bit scales, `d`.
fn q3_k(block: &[u8; 110], out: &mut [f32; K]) {
    let (high, codes, packed, d) = (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Low nibbles of the 16 scales fill bytes 0..8; their upper two bits are the pairs of 8..12.
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let upper = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * (i32::from(low | upper << 4) - 32) as f32;
        let (codes, shift) = two_bits(codes, group);
        let high = &high[group % 2 * 16..][..16];
        for ((o, code), high) in out.iter_mut().zip(codes).zip(high) {
            let third = high >> (group / 2) & 1;
            *o = scale * (i32::from(code >> shift & 3 | third << 2) - 4) as f32;
        }
    }
}

/// `d`, `dmin`, 12 bytes of scales and minima, 128 bytes of nibbles: each 32 bytes hold a group of 32
/// in the low nibbles and the next group in the high ones.
fn q4_k(block: &[u8; 144], out: &mut [f32; K]) {
    let (d, d_min, packed, codes) = (half(block, 0), half(block, 2), &block[4..16], &block[16..]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_min(packed, group);
        let (scale, minimum) = (d * f32::from(scale), d_min * f32::from(minimum));
        let codes = &codes[group / 2 * 32..][..32];
        for (o, code) in out.iter_mut().zip(codes) {
            *o = scale * f32::from(code >> (group % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`] with 32 bytes of fifth bits (bit g of byte i: element i of group g) before the nibbles.
fn q5_k(block: &[u8; 176], out: &mut [f32; K]) {
    let (d, d_min, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (high, codes) = (&block[16..48], &block[48..]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_min(packed, group);
        let (scale, minimum) = (d * f32::from(scale), d_min * f32::from(minimum));
        let codes = &codes[group / 2 * 32..][..32];
        for ((o, code), high) in out.iter_mut().zip(codes).zip(high) {
            let code = code >> (group % 2 * 4) & 15 | (high >> group & 1) << 4;
            *o = scale * f32::from(code) - minimum;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper two bits, 16 signed scales, `d`.
fn q6_k(block: &[u8; 210], out: &mut [f32; K]) {
    let (low, upper, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        // Each 64 low bytes hold 128 elements: 64 in the low nibbles, then 64 in the high ones.
        let (low, low_shift) = (&low[group / 8 * 64 + group % 4 * 16..][..16], group % 8 / 4 * 4);
        let (upper, shift) = two_bits(upper, group);
        for ((o, low), upper) in out.iter_mut().zip(low).zip(upper) {
            let code = low >> low_shift & 15 | (upper >> shift & 3) << 4;
            *o = scale * (i32::from(code) - 32) as f32;
        }
    }
}

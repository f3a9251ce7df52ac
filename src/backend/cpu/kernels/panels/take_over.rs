//! From GGUF's blocks to panels, without another rounding.

use super::pack::{Groups, place_bytes, place_f16};
use super::{GROUP, PANEL_ROWS, Packing, SUBGROUP};
use crate::base::blocks::{five_bits, scale_and_min};
use crate::base::dtype::DType;

/// The packing that takes a stored type over without another rounding, if there is one.
pub const fn takes_over(dtype: DType) -> Option<Packing> {
    match dtype {
        DType::Q8_0 | DType::Q5_0 => Some(Packing::Q8Fine),
        DType::Q4_0 => Some(Packing::Q4Fine),
        DType::Q4_1 => Some(Packing::Q4Min),
        DType::Q4K => Some(Packing::Q4Super),
        _ => None,
    }
}

/// Takes one row of blocks of `dtype`, `cols` elements in all, over into row `lane` of a panel of
/// [`takes_over`]`(dtype)` that was made zero by [`super::pack::clear`]. Types that cannot be taken over are left out.
pub fn take_over(dtype: DType, blocks: &[u8], cols: usize, lane: usize, panel: &mut [u8]) {
    let Some(packing) = takes_over(dtype) else { return };
    let mut groups = Groups::new(packing, cols);
    if dtype == DType::Q4K {
        for block in blocks.as_chunks::<144>().0 {
            for half in 0..2 {
                super_blocks(block, half, groups.next(panel), lane);
            }
        }
        return;
    }
    let size = dtype.block_bytes();
    for blocks in blocks.chunks(size * GROUP / SUBGROUP) {
        let group = groups.next(panel);
        for (subgroup, block) in blocks.chunks_exact(size).enumerate() {
            let each = subgroup * PANEL_ROWS + lane;
            place_f16(group, each, [block[0], block[1]]);
            match dtype {
                DType::Q8_0 => {
                    let stored: [u8; SUBGROUP] = std::array::from_fn(|i| block[2 + i] ^ 0x80);
                    place_bytes(packing, group, lane, subgroup * SUBGROUP / 4, &stored);
                }
                DType::Q5_0 => {
                    let stored = codes_of_five_bits(&block[2..]).map(|code| code + 128 - 16);
                    place_bytes(packing, group, lane, subgroup * SUBGROUP / 4, &stored);
                }
                DType::Q4_1 => {
                    place_f16(group, PANEL_ROWS * (GROUP / SUBGROUP) + each, [block[2], block[3]]);
                    place_codes(packing, group, lane, subgroup, &nibbles(&block[4..]));
                }
                _ => place_codes(packing, group, lane, subgroup, &nibbles(&block[2..])),
            }
        }
    }
}

/// Half a block of Q4_K: a group.
fn super_blocks(block: &[u8; 144], half: usize, group: &mut [u8], lane: usize) {
    place_f16(group, lane, [block[0], block[1]]);
    place_f16(group, PANEL_ROWS + lane, [block[2], block[3]]);
    for subgroup in 0..GROUP / SUBGROUP {
        let number = half * (GROUP / SUBGROUP) + subgroup;
        let (scale, min) = scale_and_min(&block[4..16], number);
        let factors = &mut group[4 * PANEL_ROWS..];
        factors[subgroup * PANEL_ROWS + lane] = scale;
        factors[GROUP / SUBGROUP * PANEL_ROWS + subgroup * PANEL_ROWS + lane] = min;
        let bytes = &block[16 + number / 2 * 32..][..32];
        let codes: [u8; SUBGROUP] = std::array::from_fn(|i| bytes[i] >> (number % 2 * 4) & 15);
        place_codes(Packing::Q4Super, group, lane, subgroup, &codes);
    }
}

/// 16 bytes: low halves are elements 0 to 15, high ones 16 to 31.
fn nibbles(bytes: &[u8]) -> [u8; SUBGROUP] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// The fifth bits, then 16 bytes as in [`nibbles`].
fn codes_of_five_bits(bytes: &[u8]) -> [u8; SUBGROUP] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|i| {
        let (low, upper) = five_bits(bytes[4 + i % 16], high, i % 16);
        if i < 16 { low } else { upper }
    })
}

/// Puts the codes of a subgroup in their places, which must be zero.
fn place_codes(packing: Packing, group: &mut [u8], lane: usize, subgroup: usize, codes: &[u8; SUBGROUP]) {
    let lines = &mut group[packing.scale_bytes() + subgroup / 2 * 8 * 4 * PANEL_ROWS..];
    let shift = subgroup % 2 * 4;
    for (line, codes) in lines.chunks_mut(4 * PANEL_ROWS).zip(codes.as_chunks::<4>().0) {
        for (byte, code) in line[4 * lane..][..4].iter_mut().zip(codes) {
            *byte |= code << shift;
        }
    }
}

//! Activations for the dot product of bytes: signed bytes with an f32 scale for each 32, and the sums that
//! take the offset of the weights out again.
//!
//! Rows of tokens are laid out in tiles of [`tile_tokens`], the last one narrower: a register tile of the
//! product each, so that the strides in it are known when it is compiled. In a tile of `w` tokens a group of `k` elements (128, or the last, padded to a multiple of `K_STEP`) is
//!
//! ```text
//! [k / 4][w]   4 bytes each: four elements of a token, as a lane of the product takes them
//! [4][w]       f32: the scale of each 32 bytes
//! [4][w]       i32: −128 × their sum
//! ```
//!
//! always at the stride of a whole group. So a product of `w` tokens reads one stream.
//!
//! The scale is the largest magnitude ÷ 127, and a byte the nearest integer to element ÷ scale. Some
//! activations of trained models are a hundred times the others; in 32 elements such a one coarsens few.
//! 32 elements with an infinite or undefined one get the scale NaN, and so do the results of their row.

use super::super::simd::{Isa, Operation};
use super::{GROUP, K_STEP, SUBGROUP};

/// Tokens of each tile but the last, which may have fewer, where a product has `tokens` in all and a register
/// tile `most`: tiles of nearly equal width, so that none is left with a few.
pub const fn tile_tokens(tokens: usize, most: usize) -> usize {
    if tokens == 0 { 1 } else { tokens.div_ceil(tokens.div_ceil(most)) }
}

/// Bytes of a token's group.
const GROUP_BYTES: usize = GROUP + (4 + 4) * (GROUP / SUBGROUP);

/// Bytes of one token of `cols` elements; a tile of w tokens takes w times as many.
pub const fn token_bytes(cols: usize) -> usize {
    cols.div_ceil(GROUP) * GROUP_BYTES
}

/// Where the parts of group `group` of a tile lie.
#[derive(Clone, Copy)]
pub(super) struct GroupAt {
    /// `[k / 4][w]` lanes.
    pub bytes: *const i32,
    /// `[4][w]`.
    pub scales: *const f32,
    /// `[4][w]`.
    pub offsets: *const i32,
}

impl GroupAt {
    /// The parts of group `group` of the tile of `width` tokens at `tile`.
    #[inline(always)]
    pub(super) fn new(tile: *const u8, width: usize, group: usize) -> Self {
        let bytes = tile.wrapping_add(group * GROUP_BYTES * width);
        let scales = bytes.wrapping_add(GROUP * width);
        GroupAt {
            bytes: bytes.cast(),
            scales: scales.cast(),
            offsets: scales.wrapping_add(4 * (GROUP / SUBGROUP) * width).cast(),
        }
    }

    /// The parts of the next group of a tile of `width` tokens.
    #[inline(always)]
    pub(super) fn next(self, width: usize) -> Self {
        let GroupAt { bytes, scales, offsets } = self;
        let step = GROUP_BYTES * width;
        GroupAt {
            bytes: bytes.wrapping_byte_add(step),
            scales: scales.wrapping_byte_add(step),
            offsets: offsets.wrapping_byte_add(step),
        }
    }
}

/// Quantises one row into its place in a tile. Made by `Kernels::quantise`, whose caller vouches for the
/// pointer.
pub(in super::super) struct Quantise<'a> {
    pub x: &'a [f32],
    /// The tile, 4-aligned.
    pub tile: *mut u8,
    /// Tokens of the tile.
    pub width: usize,
    /// This token's place in it.
    pub place: usize,
}

impl Operation for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Quantise { x, tile, width, place } = self;
        // k is padded to whole pairs of subgroups: the scale of one beyond the end is zero.
        for subgroup in 0..x.len().next_multiple_of(K_STEP) / SUBGROUP {
            let part = &x[x.len().min(subgroup * SUBGROUP)..x.len().min((subgroup + 1) * SUBGROUP)];
            let mut bytes = [0i8; SUBGROUP];
            let scale = quantise(isa, part, &mut bytes);
            let sum: i32 = bytes.iter().map(|&b| i32::from(b)).sum();
            let at = GroupAt::new(tile, width, subgroup / (GROUP / SUBGROUP));
            let subgroup = subgroup % (GROUP / SUBGROUP);
            // SAFETY: the caller vouches for the tile; `place` is below `width`.
            unsafe {
                let lanes = at.bytes.cast_mut().add(subgroup * SUBGROUP / 4 * width + place);
                for k4 in 0..SUBGROUP / 4 {
                    *lanes.add(k4 * width) = bytes.as_ptr().add(4 * k4).cast::<i32>().read_unaligned();
                }
                *at.scales.cast_mut().add(subgroup * width + place) = scale;
                *at.offsets.cast_mut().add(subgroup * width + place) = -128 * sum;
            }
        }
    }
}

/// The bytes of up to 32 elements, and their scale.
#[inline(always)]
fn quantise<I: Isa>(isa: I, x: &[f32], bytes: &mut [i8; SUBGROUP]) -> f32 {
    let mut padded = [0f32; SUBGROUP];
    let x: &[f32; SUBGROUP] = match x.try_into() {
        Ok(whole) => whole,
        Err(_) => {
            padded[..x.len()].copy_from_slice(x);
            &padded
        }
    };
    let (mut largest, mut unreal) = (isa.zero(), isa.zero());
    let mut i = 0;
    while i < SUBGROUP {
        // SAFETY: i + LANES ≤ 32.
        let v = unsafe { isa.load(x.as_ptr().add(i)) };
        largest = isa.max(isa.max(v, isa.sub(isa.zero(), v)), largest);
        // 0 × anything finite is 0.
        unreal = isa.fma(v, isa.zero(), unreal);
        i += I::LANES;
    }
    let largest = isa.largest(largest);
    if isa.sum(unreal) != 0.0 || !largest.is_finite() {
        return f32::NAN;
    }
    // Below this the reciprocal is infinite; such numbers count as zero beside any others.
    if largest < 1e-35 {
        return 0.0;
    }
    let inverse = isa.splat(127.0 / largest);
    let mut i = 0;
    while i < SUBGROUP {
        // SAFETY: i + LANES ≤ 32.
        unsafe {
            let v = isa.round(isa.mul(isa.load(x.as_ptr().add(i)), inverse));
            isa.store_i8(v, bytes.as_mut_ptr().add(i));
        }
        i += I::LANES;
    }
    largest / 127.0
}

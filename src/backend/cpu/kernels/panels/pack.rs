//! From rows of f32, or of GGUF's blocks, to panels.
//!
//! **q8**: the scale is the largest magnitude ÷ 127 as f16, rounded up, so that no weight is clipped.
//!
//! **q4**: for each 32 weights the scale is searched for that gives the least square error with the best
//! code for each weight; it may be negative, because the codebook reaches further on one side. The scales of
//! a group are then signed bytes times one f16, and the codes are chosen again for the scales as stored.

use super::super::simd::{Isa, Operation};
use super::{CODEBOOK, GROUP, K_STEP, PANEL_ROWS, Packing, SUBGROUP};
use crate::base::dtype::DType;
use half::f16;

/// Sums that the search keeps side by side, for the vectors of any level.
const LANES: usize = 16;

/// The packing that takes a stored type over without another rounding, if there is one.
pub const fn takes_over(dtype: DType) -> Option<Packing> {
    match dtype {
        DType::Q8_0 => Some(Packing::Q8Fine),
        DType::Q4_0 => Some(Packing::Q4Fine),
        _ => None,
    }
}

/// Quantises the rows of one panel; see `Kernels::pack`. Plain loops, which the compiler turns into the
/// vectors of the level that they are dispatched for.
pub(in super::super) struct Quantise<'a> {
    pub packing: Packing,
    pub rows: &'a [f32],
    pub cols: usize,
    pub panel: &'a mut [u8],
}

impl Operation for Quantise<'_> {
    type Output = Result<(), (usize, usize)>;
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> Self::Output {
        let Quantise { packing, rows, cols, panel } = self;
        clear(packing, cols, panel);
        for (lane, row) in rows.chunks_exact(cols.max(1)).take(PANEL_ROWS).enumerate() {
            let mut groups = Groups::new(packing, cols);
            for (index, weights) in row.chunks(GROUP).enumerate() {
                let unreal = weights.iter().position(|w| !w.is_finite());
                if let Some(col) = unreal {
                    return Err((lane, index * GROUP + col));
                }
                let group = groups.next(panel);
                let fits = match packing {
                    Packing::Q8 => bytes(group, packing, lane, weights, GROUP),
                    Packing::Q8Fine => bytes(group, packing, lane, weights, SUBGROUP),
                    Packing::Q4 => codebook(group, lane, weights),
                    Packing::Q4Fine => linear(group, lane, weights),
                };
                if !fits {
                    return Err((lane, index * GROUP));
                }
            }
        }
        Ok(())
    }
}

/// Takes one row of GGUF blocks over into row `lane` of a panel that was cleared by [`clear`]. The
/// blocks are those of [`takes_over`] for `packing`, `cols` elements in all.
pub fn take_over(packing: Packing, blocks: &[u8], cols: usize, lane: usize, panel: &mut [u8]) {
    let block = if packing == Packing::Q8Fine { 34 } else { 18 };
    let mut groups = Groups::new(packing, cols);
    for blocks in blocks.chunks(block * GROUP / SUBGROUP) {
        let group = groups.next(panel);
        for (subgroup, block) in blocks.chunks_exact(block).enumerate() {
            group[2 * (subgroup * PANEL_ROWS + lane)..][..2].copy_from_slice(&block[..2]);
            for i in 0..SUBGROUP {
                if packing == Packing::Q8Fine {
                    place_byte(packing, group, lane, subgroup * SUBGROUP + i, block[2 + i] as i8);
                } else {
                    // Low halves are elements 0 to 15, high ones 16 to 31.
                    let byte = block[2 + i % 16];
                    let code = if i < 16 { byte & 15 } else { byte >> 4 };
                    place_code(packing, group, lane, subgroup * SUBGROUP + i, code);
                }
            }
        }
    }
}

/// Makes every weight of a panel zero: bytes of 128, and for codes scales of zero.
pub fn clear(packing: Packing, cols: usize, panel: &mut [u8]) {
    panel.fill(0);
    if packing.is_bytes() {
        let mut groups = Groups::new(packing, cols);
        for _ in (0..cols).step_by(GROUP) {
            groups.next(panel)[packing.scale_bytes()..].fill(0x80);
        }
    }
}

/// Walks along the groups of a panel.
struct Groups {
    packing: Packing,
    left: usize,
    at: usize,
}

impl Groups {
    fn new(packing: Packing, cols: usize) -> Self {
        Groups { packing, left: cols.next_multiple_of(K_STEP), at: 0 }
    }

    fn next<'a>(&mut self, panel: &'a mut [u8]) -> &'a mut [u8] {
        let k = self.left.min(GROUP);
        let start = self.at;
        self.at += self.packing.group_bytes(k);
        self.left -= k;
        &mut panel[start..self.at]
    }
}

#[inline(always)]
fn place_byte(packing: Packing, group: &mut [u8], lane: usize, i: usize, weight: i8) {
    group[packing.scale_bytes() + i / 4 * 4 * PANEL_ROWS + 4 * lane + i % 4] = weight as u8 ^ 0x80;
}

#[inline(always)]
fn place_code(packing: Packing, group: &mut [u8], lane: usize, i: usize, code: u8) {
    let line = i / K_STEP * 8 + i % SUBGROUP / 4;
    let byte = &mut group[packing.scale_bytes() + line * 4 * PANEL_ROWS + 4 * lane + i % 4];
    *byte |= if i % K_STEP < SUBGROUP { code } else { code << 4 };
}

/// Signed bytes with an f16 scale for each `reach` elements.
#[inline(always)]
fn bytes(group: &mut [u8], packing: Packing, lane: usize, weights: &[f32], reach: usize) -> bool {
    for (part, weights) in weights.chunks(reach).enumerate() {
        let largest = weights.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scale = up(largest / 127.0);
        if !scale.is_finite() {
            return false;
        }
        group[2 * (part * PANEL_ROWS + lane)..][..2].copy_from_slice(&scale.to_le_bytes());
        let scale = scale.to_f32();
        for (i, weight) in weights.iter().enumerate() {
            let quotient = if scale == 0.0 { 0.0 } else { (weight / scale).round_ties_even() };
            place_byte(packing, group, lane, part * reach + i, quotient as i8);
        }
    }
    true
}

/// The least f16 that is not below `x ≥ 0`.
#[inline(always)]
fn up(x: f32) -> f16 {
    let nearest = f16::from_f32(x);
    if nearest.to_f32() < x { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

/// Codes −8 … 7 with an f16 scale for each 32. The weight of the largest magnitude becomes −8, unless
/// another scale near that one has a smaller square error.
#[inline(always)]
fn linear(group: &mut [u8], lane: usize, weights: &[f32]) -> bool {
    let levels: [f32; 16] = std::array::from_fn(|code| code as f32 - 8.0);
    for (subgroup, weights) in weights.chunks(SUBGROUP).enumerate() {
        let scale = f16::from_f32(search(weights, &levels));
        if !scale.is_finite() {
            return false;
        }
        group[2 * (subgroup * PANEL_ROWS + lane)..][..2].copy_from_slice(&scale.to_le_bytes());
        place_codes(Packing::Q4Fine, group, lane, subgroup, weights, &levels, scale.to_f32());
    }
    true
}

/// Codes of the codebook, an f16 scale for the group and a signed byte for each 32.
#[inline(always)]
fn codebook(group: &mut [u8], lane: usize, weights: &[f32]) -> bool {
    let levels = CODEBOOK.map(f32::from);
    let mut scales = [0f32; GROUP / SUBGROUP];
    for (scale, weights) in scales.iter_mut().zip(weights.chunks(SUBGROUP)) {
        *scale = search(weights, &levels);
    }
    let largest = scales.iter().fold(0f32, |m, s| m.max(s.abs()));
    let unit = up(largest / 127.0);
    if !unit.is_finite() {
        return false;
    }
    group[2 * lane..][..2].copy_from_slice(&unit.to_le_bytes());
    let unit = unit.to_f32();
    for (subgroup, (scale, weights)) in scales.iter().zip(weights.chunks(SUBGROUP)).enumerate() {
        let factor = if unit == 0.0 { 0 } else { (scale / unit).round_ties_even() as i8 };
        group[2 * PANEL_ROWS + subgroup * PANEL_ROWS + lane] = factor as u8;
        place_codes(Packing::Q4, group, lane, subgroup, weights, &levels, unit * f32::from(factor));
    }
    true
}

/// The nearest code of each weight for a scale.
#[inline(always)]
fn place_codes(
    packing: Packing,
    group: &mut [u8],
    lane: usize,
    subgroup: usize,
    weights: &[f32],
    levels: &[f32; 16],
    scale: f32,
) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (i, weight) in weights.iter().enumerate() {
        let code = nearest(levels, weight * inverse);
        place_code(packing, group, lane, subgroup * SUBGROUP + i, code);
    }
}

/// The code whose level is nearest to `x`; levels rise.
#[inline(always)]
fn nearest(levels: &[f32; 16], x: f32) -> u8 {
    // The number of midpoints below x.
    (0..15).map(|i| u8::from(x > 0.5 * (levels[i] + levels[i + 1]))).sum()
}

/// The scale that gives up to 32 weights the least square error found: for each of some scales near the
/// two that put the largest magnitude on an end of the levels, the codes are chosen, and the best scale for
/// those codes is `Σ w·level ÷ Σ level²`.
///
/// A weight counts the more the larger it is, since large weights move results most.
#[inline(always)]
fn search(weights: &[f32], levels: &[f32; 16]) -> f32 {
    let extreme = weights.iter().fold(0f32, |m, w| if w.abs() > m.abs() { *w } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    // In units of the extreme, so that no square overflows or vanishes.
    let mut units = [0f32; SUBGROUP];
    units.iter_mut().zip(weights).for_each(|(u, w)| *u = w / extreme);
    let mean_square = units.iter().map(|u| u * u).sum::<f32>() / weights.len() as f32;
    // Beyond the end of a short row the weights are zeros, and count for nothing.
    let mut importance = [0f32; SUBGROUP];
    for (importance, u) in importance.iter_mut().zip(&units[..weights.len()]) {
        *importance = (mean_square + u * u).sqrt();
    }
    let (mut best, mut best_gain) = (0f32, f32::NEG_INFINITY);
    for end in [levels[0], levels[15]] {
        for step in -6..=6i32 {
            let inverse = end * (1.0 + 0.03 * step as f32);
            let (mut along, mut length) = ([0f32; LANES], [0f32; LANES]);
            for (units, importance) in units.chunks_exact(LANES).zip(importance.chunks_exact(LANES)) {
                for i in 0..LANES {
                    // The level nearest to the weight: the lowest, and a step for each midpoint below it.
                    let mut level = levels[0];
                    for j in 0..15 {
                        let below = units[i] * inverse > 0.5 * (levels[j] + levels[j + 1]);
                        level += if below { levels[j + 1] - levels[j] } else { 0.0 };
                    }
                    along[i] += importance[i] * units[i] * level;
                    length[i] += importance[i] * level * level;
                }
            }
            let (along, length) = (along.iter().sum::<f32>(), length.iter().sum::<f32>());
            // With the best scale the error is Σ importance·u² − along² ÷ length.
            let gain = along * along / length;
            if gain > best_gain {
                (best, best_gain) = (along / length, gain);
            }
        }
    }
    best * extreme
}

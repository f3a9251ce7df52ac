//! From rows of f32 to panels.
//!
//! **q8**: the scale is the largest magnitude ÷ 127 as f16, rounded up, so that no weight is clipped. (At 8 bits
//! a search for a better scale gains a hundredth of the error.)
//!
//! **q4**: scale and offset of each 32 weights are searched for: [`super::search`].
//!
//! Plain loops over arrays of a fixed length, which the compiler turns into the vectors of the level that they
//! are dispatched for.

use super::super::simd::{Isa, Operation};
use super::search;
use super::{GROUP, K_STEP, PANEL_ROWS, Packing, SUBGROUP};
use half::f16;

/// Quantises the rows of one panel; see `Kernels::pack`.
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
        debug_assert!(packing.is_made_from_floats(), "{packing:?} only takes over");
        clear(packing, cols, panel);
        let mut groups = Groups::new(packing, cols);
        for start in (0..cols).step_by(GROUP) {
            let group = groups.next(panel);
            let columns = start..cols.min(start + GROUP);
            for (lane, row) in rows.chunks_exact(cols).take(PANEL_ROWS).enumerate() {
                let weights = &row[columns.clone()];
                if let Some(col) = unreal(weights) {
                    return Err((lane, start + col));
                }
                let fits = match packing {
                    Packing::Q8 => bytes(packing, group, lane, weights, GROUP),
                    Packing::Q8Fine => bytes(packing, group, lane, weights, SUBGROUP),
                    _ => true,
                };
                if !fits {
                    return Err((lane, start + largest(weights)));
                }
            }
            if packing == Packing::Q4 {
                for (subgroup, first) in columns.clone().step_by(SUBGROUP).enumerate() {
                    let part = first..columns.end.min(first + SUBGROUP);
                    if let Err(lane) = search::pack(group, subgroup, rows, cols, part.clone()) {
                        return Err((lane, first + largest(&rows[lane * cols..][part])));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The place of a weight that is infinite or not a number.
#[inline(always)]
fn unreal(weights: &[f32]) -> Option<usize> {
    const INFINITE: u32 = f32::INFINITY.to_bits();
    let all = weights.iter().fold(0, |m, w| m.max(w.to_bits() & !(1 << 31)));
    if all < INFINITE { None } else { weights.iter().position(|w| !w.is_finite()) }
}

/// The place of the weight of the largest magnitude.
fn largest(weights: &[f32]) -> usize {
    let better = |best: usize, i: usize| if weights[i].abs() > weights[best].abs() { i } else { best };
    (0..weights.len()).fold(0, better)
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
pub(super) struct Groups {
    packing: Packing,
    left: usize,
    at: usize,
}

impl Groups {
    pub(super) fn new(packing: Packing, cols: usize) -> Self {
        Groups { packing, left: cols.next_multiple_of(K_STEP), at: 0 }
    }

    pub(super) fn next<'a>(&mut self, panel: &'a mut [u8]) -> &'a mut [u8] {
        let k = self.left.min(GROUP);
        let start = self.at;
        self.at += self.packing.group_bytes(k);
        self.left -= k;
        &mut panel[start..self.at]
    }
}

/// Puts the stored bytes of elements 4 × `k4` on of row `lane` in their places; the group must have them.
#[inline(always)]
pub(super) fn place_bytes(packing: Packing, group: &mut [u8], lane: usize, k4: usize, stored: &[u8]) {
    let lines = &mut group[packing.scale_bytes() + k4 * 4 * PANEL_ROWS..];
    for (line, stored) in lines.chunks_mut(4 * PANEL_ROWS).zip(stored.chunks(4)) {
        line[4 * lane..][..stored.len()].copy_from_slice(stored);
    }
}

/// Puts an f16 at number `at` of the group's scales.
#[inline(always)]
pub(super) fn place_f16(group: &mut [u8], at: usize, bits: [u8; 2]) {
    group[2 * at..][..2].copy_from_slice(&bits);
}

/// Signed bytes with an f16 scale for each `reach` elements; false where a scale is beyond f16.
#[inline(always)]
fn bytes(packing: Packing, group: &mut [u8], lane: usize, weights: &[f32], reach: usize) -> bool {
    // Adding it leaves the integer nearest to a small number in the lowest bits.
    const ROUND: f32 = (3 << 22) as f32;
    let mut padded = [0f32; GROUP];
    padded[..weights.len()].copy_from_slice(weights);
    let mut stored = [0x80; GROUP];
    for (part, (weights, stored)) in padded.chunks(reach).zip(stored.chunks_mut(reach)).enumerate() {
        let largest = weights.iter().fold(0, |m, w| m.max(w.to_bits() & !(1 << 31)));
        let scale = up(f32::from_bits(largest) / 127.0);
        if !scale.is_finite() {
            return false;
        }
        place_f16(group, part * PANEL_ROWS + lane, scale.to_le_bytes());
        let scale = scale.to_f32();
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (stored, weight) in stored.iter_mut().zip(weights) {
            *stored = (weight * inverse + ROUND).to_bits() as u8 ^ 0x80;
        }
    }
    place_bytes(packing, group, lane, 0, &stored[..weights.len()]);
    true
}

/// The least f16 that is not below `x ≥ 0`.
#[inline(always)]
fn up(x: f32) -> f16 {
    let nearest = f16::from_f32(x);
    if nearest.to_f32() < x { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

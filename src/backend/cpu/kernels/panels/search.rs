//! The scale and offset of each 32 weights of `q4`.
//!
//! Wanted are scale s, offset o and codes that minimise `Σ w · (x − (level + o)·s)²`. For given s and o the best code
//! of a weight is the nearest level; for given codes s and o are a weighted least-squares line. So a candidate
//! is tried by choosing its codes and then the line, the offset rounded to one that can be stored. Candidates
//! put the weight of the largest magnitude on either end of the levels, with one of eight offsets; the best
//! is improved twice. More candidates gain 2 % of the error for five times the work.
//!
//! The scale may be negative, since the codebook is denser on one side. Its four lowest bits are then the offset's
//! number, and the codes are chosen again for the scale as stored.
//!
//! The work is done for the rows of a panel side by side, a row a lane, so nothing is summed across lanes.

use super::{CODEBOOK, K_STEP, PANEL_ROWS, Packing, Q4_OFFSET, Q4_UNITS, SUBGROUP};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// A number for each row of a panel.
type Lanes = [f32; PANEL_ROWS];

/// Weights of smaller magnitude count as zero: their reciprocals are infinite.
const TINY: f32 = 1e-30;
/// Adding it leaves the integer nearest to a small number in the lowest bits.
const ROUND: f32 = (3 << 22) as f32;
/// Offsets tried: numbers n of 2·n − 15.
const TRIED: [i8; 8] = [-14, -10, -6, -2, 2, 6, 10, 14];

const fn level(code: usize) -> f32 {
    CODEBOOK[code] as f32
}

/// Quantises the columns `columns`, up to 32, of up to 32 rows into a subgroup of a group of a cleared panel;
/// the error is a row whose scale is beyond f16.
#[inline(always)]
pub(super) fn pack(
    group: &mut [u8],
    subgroup: usize,
    rows: &[f32],
    cols: usize,
    columns: Range<usize>,
) -> Result<(), usize> {
    let mut x = [[0f32; PANEL_ROWS]; SUBGROUP];
    for (lane, row) in rows.chunks_exact(cols).take(PANEL_ROWS).enumerate() {
        for (x, weight) in x.iter_mut().zip(&row[columns.clone()]) {
            x[lane] = *weight;
        }
    }
    let x = &x[..columns.len()];
    let (scale, offset) = Search::new(x).run(x);
    let (words, scale) = stored(&scale, &offset);
    for (lane, word) in words.iter().enumerate() {
        if !word.is_finite() {
            return Err(lane);
        }
        group[2 * (subgroup * PANEL_ROWS + lane)..][..2].copy_from_slice(&word.to_le_bytes());
    }
    place(group, subgroup, x, &scale, &offset);
    Ok(())
}

/// What the search knows of 32 weights of each row, in units of the one of the largest magnitude, so that no
/// square overflows or vanishes.
struct Search {
    /// 1 ÷ the weight of the largest magnitude; 0 where all are zero.
    unit: Lanes,
    extreme: Lanes,
    /// The square root of the mean square. A weight counts the more the larger it is, since large weights move
    /// results most: by this and its own magnitude.
    rms: Lanes,
    /// Σ w, Σ w·x, for the weights' weights w.
    sum: Lanes,
    sum_x: Lanes,
    best: Lanes,
    scale: Lanes,
    offset: Lanes,
}

impl Search {
    #[inline(always)]
    fn new(x: &[Lanes]) -> Self {
        let zero = [0f32; PANEL_ROWS];
        let (mut extreme, mut unit, mut rms, mut sum, mut sum_x) = (zero, zero, zero, zero, zero);
        for x in x {
            for lane in 0..PANEL_ROWS {
                extreme[lane] = if x[lane].abs() > extreme[lane].abs() { x[lane] } else { extreme[lane] };
            }
        }
        for lane in 0..PANEL_ROWS {
            unit[lane] = if extreme[lane].abs() > TINY { 1.0 / extreme[lane] } else { 0.0 };
        }
        for x in x {
            for lane in 0..PANEL_ROWS {
                let u = x[lane] * unit[lane];
                rms[lane] += u * u;
            }
        }
        for rms in &mut rms {
            *rms = (*rms / x.len() as f32).sqrt();
        }
        for x in x {
            for lane in 0..PANEL_ROWS {
                let u = x[lane] * unit[lane];
                let w = rms[lane] + u.abs();
                sum[lane] += w;
                sum_x[lane] += w * u;
            }
        }
        Search { unit, extreme, rms, sum, sum_x, best: zero, scale: zero, offset: zero }
    }

    /// The scales and offsets found.
    #[inline(always)]
    fn run(mut self, x: &[Lanes]) -> (Lanes, Lanes) {
        for end in [level(0), level(15)] {
            for offset in TRIED.map(f32::from) {
                self.candidate(x, &[end + offset; PANEL_ROWS], &[offset; PANEL_ROWS]);
            }
        }
        for _ in 0..2 {
            let inverse = self.scale.map(|s| if s == 0.0 { 0.0 } else { 1.0 / s });
            let offset = self.offset;
            self.candidate(x, &inverse, &offset);
        }
        for lane in 0..PANEL_ROWS {
            self.scale[lane] *= self.extreme[lane];
        }
        (self.scale, self.offset)
    }

    /// Tries one scale, by its inverse, and offset a row.
    #[inline(always)]
    fn candidate(&mut self, x: &[Lanes], inverse: &Lanes, offset: &Lanes) {
        // Σ w·level, Σ w·level², Σ w·level·x
        let zero = [0f32; PANEL_ROWS];
        let (mut levels, mut squares, mut products) = (zero, zero, zero);
        for x in x {
            for lane in 0..PANEL_ROWS {
                let u = x[lane] * self.unit[lane];
                let at = u * inverse[lane] - offset[lane];
                // The nearest level: the lowest, and a step for each midpoint below.
                let mut nearest = level(0);
                for code in 1..16 {
                    let (low, high) = (level(code - 1), level(code));
                    nearest += if at > 0.5 * (low + high) { high - low } else { 0.0 };
                }
                let weighted = (self.rms[lane] + u.abs()) * nearest;
                levels[lane] += weighted;
                squares[lane] += weighted * nearest;
                products[lane] += weighted * u;
            }
        }
        let (sum, sum_x) = (&self.sum, &self.sum_x);
        for lane in 0..PANEL_ROWS {
            // The line: slope × (Σ w·level² · Σ w − (Σ w·level)²), and so on; its offset is intercept ÷ slope.
            let slope = sum[lane] * products[lane] - levels[lane] * sum_x[lane];
            let intercept = squares[lane] * sum_x[lane] - levels[lane] * products[lane];
            let free = intercept / slope;
            let most = f32::from(Q4_OFFSET);
            // Where all weights are equal any offset serves.
            let free = if free.abs() < 1e6 { free } else { offset[lane] };
            let number = (0.5 * (free.clamp(-most, most) + most) + ROUND) - ROUND;
            let rounded = 2.0 * number - most;
            let along = products[lane] + rounded * sum_x[lane];
            let length = squares[lane] + rounded * (2.0 * levels[lane] + rounded * sum[lane]);
            // With the best scale the error is Σ w·x² − along² ÷ length.
            let gain = along * along / length;
            let better = gain > self.best[lane];
            self.best[lane] = if better { gain } else { self.best[lane] };
            self.scale[lane] = if better { along / length } else { self.scale[lane] };
            self.offset[lane] = if better { rounded } else { self.offset[lane] };
        }
    }
}

/// The f16 words nearest to the scales whose four lowest bits are the offset's number, and the scales that they
/// stand for.
#[inline(always)]
fn stored(scale: &Lanes, offset: &Lanes) -> ([f16; PANEL_ROWS], Lanes) {
    let mut words = [f16::ZERO; PANEL_ROWS];
    words.convert_from_f32_slice(&scale.map(|s| s * Q4_UNITS));
    for (word, (offset, scale)) in words.iter_mut().zip(offset.iter().zip(scale)) {
        // A row of zeros stays one: its scale is zero whatever the offset.
        if *scale != 0.0 && word.is_finite() {
            let number = ((offset + f32::from(Q4_OFFSET)) * 0.5) as u16;
            let (sign, magnitude) = (word.to_bits() & 0x8000, word.to_bits() & 0x7fff);
            let steps = (magnitude + 8).saturating_sub(number) >> 4;
            *word = f16::from_bits(sign | (steps << 4 | number));
        }
    }
    let mut scales = [0f32; PANEL_ROWS];
    words.convert_to_f32_slice(&mut scales);
    (words, scales.map(|s| s / Q4_UNITS))
}

/// The nearest codes of all weights, in their places.
#[inline(always)]
fn place(group: &mut [u8], subgroup: usize, x: &[Lanes], scale: &Lanes, offset: &Lanes) {
    let inverse = scale.map(|s| if s == 0.0 { 0.0 } else { 1.0 / s });
    let first = (subgroup / 2 * K_STEP / 8) * 4 * PANEL_ROWS;
    let lines = &mut group[Packing::Q4.scale_bytes() + first..];
    for (line, x) in lines.chunks_mut(4 * PANEL_ROWS).zip(x.chunks(4)) {
        let mut words = [0u32; PANEL_ROWS];
        for (i, x) in x.iter().enumerate() {
            let shift = 8 * i + if subgroup.is_multiple_of(2) { 0 } else { 4 };
            for lane in 0..PANEL_ROWS {
                let at = x[lane] * inverse[lane] - offset[lane];
                let mut code = 0;
                for i in 1..16 {
                    code += u32::from(at > 0.5 * (level(i - 1) + level(i)));
                }
                words[lane] |= code << shift;
            }
        }
        for (bytes, word) in line.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = (u32::from_le_bytes(*bytes) | word).to_le_bytes();
        }
    }
}

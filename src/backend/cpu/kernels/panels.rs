//! Quantised weights, laid out for the dot product of bytes.
//!
//! **Panels.** A panel holds [`PANEL_ROWS`] rows, the last one of a matrix padded with rows of zeros. It is
//! a sequence of groups of [`GROUP`] elements along k, each with its scales in front, in the order in
//! which a product reads them: one stream, no gathers, no sums across lanes. k is padded with zero
//! weights to a multiple of [`K_STEP`]; only the last group may be short.
//!
//! ```text
//! group    scales of 32 rows, and minima where there are some, then the weights
//! bytes    for each 4 elements of k: 32 rows × 4 bytes, 128 more than the weight      (q8)
//! codes    for each 8 pairs of 4 elements, 32 rows × 4 bytes: element k in the low half of a byte,
//!          element k + 32 in the high half                                            (q4)
//! ```
//!
//! One zmm is sixteen rows × 4 elements, one ymm eight rows, one q register four.
//!
//! **Arithmetic.** An activation row is quantised too ([`activations`]): signed bytes with an f32 scale for
//! each [`SUBGROUP`]. Products of bytes are summed exactly in 32 bits over a subgroup; what follows is f32:
//! `part = Σ sum × activation scale` over the subgroups of a group, in rising order, and `result += part ×
//! weight scale`, group after group. Where each subgroup has a weight scale, it multiplies the sum first; where
//! each has a minimum, minimum × the sum of the activation bytes is added to that.
//! None of this depends on which rows and tokens are computed together.
//!
//! | packing | a weight is | bits a weight | made from |
//! |---|---|---|---|
//! | [`Packing::Q8`] | byte × f16 for 128 | 8.125 | f32 |
//! | [`Packing::Q8Fine`] | byte × f16 for 32 | 8.5 | f32; GGUF's Q8_0 and Q5_0, exactly |
//! | [`Packing::Q4`] | (level + offset for 32) × f16 for 32, which holds the offset too | 4.5 | f32 |
//! | [`Packing::Q4Fine`] | (code − 8) × f16 for 32 | 4.5 | GGUF's Q4_0, exactly |
//! | [`Packing::Q4Min`] | code × f16 + f16, for 32 | 5 | GGUF's Q4_1, exactly |
//! | [`Packing::Q4Super`] | code × s·f16 − m·f16, bytes s and m for 32, f16 for 128 | 4.75 | GGUF's Q4_K, exactly |
//!
//! **q4.** The levels of a code are those of [`CODEBOOK`], dense where weights are. Thirty-two weights seldom lie
//! evenly about zero, so each 32 have an offset, added to all levels: one of sixteen, in the four lowest bits of
//! their f16 scale. The scale is used as it stands; that it can be had only in steps of 1/64 costs nothing
//! that could be measured. The scale is stored times [`Q4_UNITS`], so that small weights have normal f16 scales.
//! The square error is 0.87 of what Q4_K's form leaves at the same 4.5 bits (`tests/oracle/codebook.py`).

use super::simd::int8::Codebook;
use crate::base::error::Result;
use crate::base::region::Region;
use half::f16;

pub mod activations;
mod coding;
pub mod pack;
pub(super) mod product;
mod search;
pub mod take_over;
#[cfg(test)]
mod tests;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 32;
/// Elements along k that share a weight scale in [`Packing::Q8`].
pub const GROUP: usize = 128;
/// Elements along k that share an activation scale, and a weight scale in the finer packings.
pub const SUBGROUP: usize = 32;
/// k is padded to a multiple of this.
pub const K_STEP: usize = 2 * SUBGROUP;

/// How a weight is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Bytes, one f16 scale for 128.
    Q8,
    /// Bytes, an f16 scale for each 32: GGUF's Q8_0, without another rounding.
    Q8Fine,
    /// 4-bit codes of [`CODEBOOK`], an f16 scale for each 32 whose lowest bits are an offset of the levels.
    Q4,
    /// 4-bit codes −8 … 7, an f16 scale for each 32: GGUF's Q4_0, without another rounding.
    Q4Fine,
    /// 4-bit codes 0 … 15, an f16 scale and an f16 minimum for each 32: GGUF's Q4_1, without another rounding.
    Q4Min,
    /// 4-bit codes 0 … 15, a scale and a minimum for each 32, which are bytes times two f16 for 128: GGUF's
    /// Q4_K, without another rounding.
    Q4Super,
}

/// The weights of the codes of [`Packing::Q4`]: the levels that `tests/oracle/codebook.py` found to
/// give the least square error on normally distributed rows whose scales and offsets are searched, 32 weights to
/// each. With an offset they stay within ±127.
pub const CODEBOOK: [i8; 16] = [-112, -88, -70, -56, -43, -31, -20, -9, 2, 13, 24, 35, 46, 59, 73, 88];
/// The largest offset of the levels of [`Packing::Q4`]. Number n of 0 … 15 is the offset 2·n − `Q4_OFFSET`.
pub const Q4_OFFSET: i8 = 15;
/// By what the scales of [`Packing::Q4`] are multiplied to be stored. A power of two.
pub const Q4_UNITS: f32 = 256.0;

impl Packing {
    /// Every packing.
    pub const ALL: [Packing; 6] =
        [Packing::Q8, Packing::Q8Fine, Packing::Q4, Packing::Q4Fine, Packing::Q4Min, Packing::Q4Super];

    /// The name in lower case, as messages use it.
    pub const fn name(self) -> &'static str {
        match self {
            Packing::Q8 => "q8",
            Packing::Q8Fine => "q8 (32)",
            Packing::Q4 => "q4",
            Packing::Q4Fine => "q4 (as q4_0)",
            Packing::Q4Min => "q4 (as q4_1)",
            Packing::Q4Super => "q4 (as q4_k)",
        }
    }

    /// Bytes of the scales, and minima, in front of a group.
    pub const fn scale_bytes(self) -> usize {
        const SUBGROUPS: usize = GROUP / SUBGROUP;
        match self {
            Packing::Q8 => 2 * PANEL_ROWS,
            Packing::Q8Fine | Packing::Q4 | Packing::Q4Fine => 2 * PANEL_ROWS * SUBGROUPS,
            Packing::Q4Min => 4 * PANEL_ROWS * SUBGROUPS,
            Packing::Q4Super => 4 * PANEL_ROWS + 2 * PANEL_ROWS * SUBGROUPS,
        }
    }

    /// Whether a byte holds one weight rather than two codes.
    pub const fn is_bytes(self) -> bool {
        matches!(self, Packing::Q8 | Packing::Q8Fine)
    }

    /// Whether rows of f32 can be quantised to it; the others only take over what GGUF's blocks hold.
    pub const fn is_made_from_floats(self) -> bool {
        matches!(self, Packing::Q8 | Packing::Q8Fine | Packing::Q4)
    }

    /// Bytes of a group of `k` elements, a multiple of [`K_STEP`].
    pub const fn group_bytes(self, k: usize) -> usize {
        self.scale_bytes() + PANEL_ROWS * if self.is_bytes() { k } else { k / 2 }
    }

    /// Bytes of a panel of rows of `cols` elements.
    pub const fn panel_bytes(self, cols: usize) -> usize {
        let k = cols.next_multiple_of(K_STEP);
        let (whole, rest) = (k / GROUP, k % GROUP);
        whole * self.group_bytes(GROUP) + if rest > 0 { self.group_bytes(rest) } else { 0 }
    }

    /// Bytes of a matrix.
    pub const fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(PANEL_ROWS) * self.panel_bytes(cols)
    }

    /// The weights of the 4-bit codes as stored bytes.
    pub(super) fn codebook(self) -> Codebook {
        std::array::from_fn(|code| {
            let weight = match self {
                Packing::Q4 => CODEBOOK[code],
                Packing::Q4Min | Packing::Q4Super => code as i8,
                _ => code as i8 - 8,
            };
            (weight as u8) ^ 0x80
        })
    }
}

/// A quantised matrix.
#[derive(Clone, Debug)]
pub struct Packed {
    packing: Packing,
    rows: usize,
    cols: usize,
    bytes: Region,
}

impl Packed {
    /// The matrix whose panels `bytes` holds; `Format` where their number of bytes is another.
    pub fn new(name: &str, packing: Packing, rows: usize, cols: usize, bytes: Region) -> Result<Self> {
        let expected = packing.bytes(rows, cols);
        crate::ensure!(
            bytes.len() == expected,
            Format,
            "{name}: expected {expected} bytes of {rows} × {cols} in {}, found {}",
            packing.name(),
            bytes.len()
        );
        Ok(Packed { packing, rows, cols, bytes })
    }

    /// How it is quantised.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features: k.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All panels.
    pub fn bytes(&self) -> &Region {
        &self.bytes
    }

    /// Panel `panel`, which must exist.
    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        let size = self.packing.panel_bytes(self.cols);
        &self.bytes[panel * size..(panel + 1) * size]
    }

    /// Row `row`, which must exist, as f32 in `out`, `[cols]`.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / PANEL_ROWS), row % PANEL_ROWS);
        let codebook = self.packing.codebook();
        let mut rest = panel;
        for out in out[..self.cols].chunks_mut(GROUP) {
            let k = out.len().next_multiple_of(K_STEP);
            let (group, after) = rest.split_at(self.packing.group_bytes(k));
            let (scales, weights) = group.split_at(self.packing.scale_bytes());
            for (i, out) in out.iter_mut().enumerate() {
                let stored = if self.packing.is_bytes() {
                    weights[i / 4 * 4 * PANEL_ROWS + 4 * lane + i % 4]
                } else {
                    let line = i / K_STEP * 8 + i % SUBGROUP / 4;
                    let byte = weights[line * 4 * PANEL_ROWS + 4 * lane + i % 4];
                    codebook[usize::from(if i % K_STEP < SUBGROUP { byte & 15 } else { byte >> 4 })]
                };
                *out = self.packing.weight(scales, lane, i / SUBGROUP, (stored ^ 0x80) as i8);
            }
            rest = after;
        }
    }
}

impl Packing {
    /// The weight whose stored byte, or level, is `value` in row `lane` and subgroup `subgroup` of the group with
    /// these scales.
    fn weight(self, scales: &[u8], lane: usize, subgroup: usize, value: i8) -> f32 {
        const MINIMA: usize = PANEL_ROWS * (GROUP / SUBGROUP);
        let f16 = |at: usize| f16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32();
        let each = subgroup * PANEL_ROWS + lane;
        let value = f32::from(value);
        match self {
            Packing::Q8 => value * f16(lane),
            Packing::Q8Fine | Packing::Q4Fine => value * f16(each),
            Packing::Q4 => {
                let offset = 2 * (scales[2 * each] & 15) as i8 - Q4_OFFSET;
                (value + f32::from(offset)) * (f16(each) / Q4_UNITS)
            }
            Packing::Q4Min => value * f16(each) + f16(MINIMA + each),
            Packing::Q4Super => {
                let factor = |at: usize| f32::from(scales[4 * PANEL_ROWS + at]);
                value * (f16(lane) * factor(each)) - f16(PANEL_ROWS + lane) * factor(MINIMA + each)
            }
        }
    }
}

//! Quantised weights, laid out for the dot product of bytes.
//!
//! **Panels.** A panel holds [`PANEL_ROWS`] rows, the last one of a matrix padded with rows of zeros. It is
//! a sequence of groups of [`GROUP`] elements along k, each with its scales in front, in the order in
//! which a product reads them: one stream, no gathers, no sums across lanes. k is padded with zero
//! weights to a multiple of [`K_STEP`]; only the last group may be short.
//!
//! ```text
//! group    scales of 32 rows, then the weights
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
//! weight scale`, group after group. Where each subgroup has a weight scale, it multiplies the sum first.
//! None of this depends on which rows and tokens are computed together.
//!
//! | packing | scales of a row's group | bits a weight |
//! |---|---|---|
//! | [`Packing::Q8`] | one f16 | 8.125 |
//! | [`Packing::Q8Fine`] | f16 for each 32 | 8.5 |
//! | [`Packing::Q4`] | one f16, times a signed byte for each 32 | 4.375 |
//! | [`Packing::Q4Fine`] | f16 for each 32 | 4.5 |

use super::simd::int8::Codebook;
use crate::base::error::Result;
use crate::base::region::Region;
use half::f16;

pub mod activations;
mod coding;
pub mod pack;
pub(super) mod product;
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
    /// 4-bit codes of [`CODEBOOK`], an f16 scale for 128 refined by a signed byte for each 32.
    Q4,
    /// 4-bit codes −8 … 7, an f16 scale for each 32: GGUF's Q4_0, without another rounding.
    Q4Fine,
}

/// The weights of the codes of [`Packing::Q4`]: the levels that `tests/oracle/codebook.py` found to
/// give the least square error on normally distributed rows whose scales are searched, 32 weights to a
/// scale.
pub const CODEBOOK: [i8; 16] = [-127, -105, -84, -67, -51, -37, -23, -10, 3, 15, 28, 40, 54, 69, 86, 110];

impl Packing {
    /// Every packing.
    pub const ALL: [Packing; 4] = [Packing::Q8, Packing::Q8Fine, Packing::Q4, Packing::Q4Fine];

    /// The name in lower case, as messages use it.
    pub const fn name(self) -> &'static str {
        match self {
            Packing::Q8 => "q8",
            Packing::Q8Fine => "q8 (32)",
            Packing::Q4 => "q4",
            Packing::Q4Fine => "q4 (32)",
        }
    }

    /// Bytes of the scales in front of a group.
    pub const fn scale_bytes(self) -> usize {
        match self {
            Packing::Q8 => 2 * PANEL_ROWS,
            Packing::Q8Fine | Packing::Q4Fine => 2 * PANEL_ROWS * (GROUP / SUBGROUP),
            Packing::Q4 => 2 * PANEL_ROWS + PANEL_ROWS * (GROUP / SUBGROUP),
        }
    }

    /// Whether a byte holds one weight rather than two codes.
    pub const fn is_bytes(self) -> bool {
        matches!(self, Packing::Q8 | Packing::Q8Fine)
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
            let weight = if self == Packing::Q4 { CODEBOOK[code] } else { code as i8 - 8 };
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
                *out = f32::from((stored ^ 0x80) as i8) * self.packing.scale(scales, lane, i / SUBGROUP);
            }
            rest = after;
        }
    }
}

impl Packing {
    /// The scale of row `lane` of a panel for subgroup `subgroup`, from the scales of a group.
    fn scale(self, scales: &[u8], lane: usize, subgroup: usize) -> f32 {
        let f16 = |at: usize| f16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32();
        match self {
            Packing::Q8 => f16(lane),
            Packing::Q8Fine | Packing::Q4Fine => f16(subgroup * PANEL_ROWS + lane),
            Packing::Q4 => {
                let factor = scales[2 * PANEL_ROWS + subgroup * PANEL_ROWS + lane] as i8;
                f16(lane) * f32::from(factor)
            }
        }
    }
}

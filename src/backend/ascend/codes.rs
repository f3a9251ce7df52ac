//! Matrices of 8-bit codes on their way to the device: stored ones as they are, others made of numbers, a row at a time,
//! with a scale for each row.

use super::form::{Element, Form, Part, to_tiles};
use crate::base::error::Result;
use crate::model::weights::Int8Weight;
use std::ops::Range;

/// Some rows and columns of a weight that are, or become, codes.
#[derive(Clone, Debug)]
pub enum CodePart<'a> {
    /// Codes of a checkpoint.
    Stored {
        /// The weight.
        weight: &'a Int8Weight,
        /// Its rows.
        rows: Range<usize>,
        /// Its columns.
        cols: Range<usize>,
    },
    /// Numbers.
    Numbers(Part<'a>),
}

/// The largest code; -128 is left out, so that what is symmetric stays so.
const MOST: f32 = 127.0;

/// Writes codes. Keeps the memory that it needs for it, and the scales that it made.
#[derive(Debug, Default)]
pub struct Coder {
    values: Vec<f32>,
    whole: Vec<f32>,
    /// A scale for each row of numbers so far, in the order of the rows.
    pub scales: Vec<f32>,
}

impl Coder {
    /// Writes piece `chunk` of a matrix whose rows are those of `parts`, one part below the other, and zeros behind them.
    /// Numbers go into rows only, not into tiles. `Format` naming tensor and row where a number is not finite.
    pub fn fill(
        &mut self,
        form: &Form,
        parts: &[CodePart<'_>],
        chunk: &Range<usize>,
        out: &mut [u8],
    ) -> Result<()> {
        crate::ensure!(
            form.element == Element::Int8,
            Internal,
            "a matrix of {:?} is none of codes",
            form.element
        );
        out.fill(0);
        let mut row = 0;
        for part in parts {
            match part {
                CodePart::Stored { weight, rows, cols } => {
                    for stored in rows.clone() {
                        let line = &weight.codes(stored)[cols.clone()];
                        if form.tiled {
                            to_tiles(form, row, &line[chunk.clone()], out);
                        } else if chunk.contains(&row) {
                            let at = (row - chunk.start) * form.cols;
                            out[at..at + form.cols].copy_from_slice(line);
                        }
                        row += 1;
                    }
                }
                CodePart::Numbers(part) => {
                    crate::ensure!(!form.tiled, Internal, "codes are made in rows");
                    for stored in part.rows.clone() {
                        if chunk.contains(&row) {
                            let at = (row - chunk.start) * form.cols;
                            self.make(part, stored, &mut out[at..at + form.cols])?;
                        }
                        row += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn make(&mut self, part: &Part<'_>, row: usize, out: &mut [u8]) -> Result<()> {
        self.values.resize(part.cols.len(), 0.0);
        part.weight.cols_f32(row, part.cols.clone(), &mut self.whole, &mut self.values);
        let scale = to_codes(&self.values, out);
        crate::ensure!(
            scale.is_finite(),
            Format,
            "tensor {}: row {row}: expected finite numbers, found others",
            part.weight.name
        );
        self.scales.push(scale);
        Ok(())
    }
}

/// Numbers to codes, symmetric: `round(x / scale)`, with the scale by which the largest becomes 127. Gives the scale; it is
/// 0 for zeros, and not finite where a number is not.
pub fn to_codes(values: &[f32], codes: &mut [u8]) -> f32 {
    // A sum of NaN or infinity stays one; a largest value would pass NaN over.
    let (mut most, mut sum) = (0.0f32, 0.0f32);
    for value in values {
        most = most.max(value.abs());
        sum += value * 0.0;
    }
    let scale = most / MOST + sum;
    let inverse = if most > 0.0 { MOST / most } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse).round_ties_even().clamp(-MOST, MOST) as i8 as u8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::base::dtype::DType;
    use crate::model::weights::{RowMap, Weight};

    fn weight(rows: usize, cols: usize, value: impl Fn(usize) -> f32) -> Weight {
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| value(i).to_le_bytes()).collect();
        Weight::whole("model.w", rows, cols, DType::F32, bytes.into(), RowMap::Identity).unwrap()
    }

    #[test]
    fn the_largest_is_127_and_no_number_is_off_by_more_than_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 40.0) * 0.013).collect();
        let mut codes = [0; 64];
        let scale = to_codes(&values, &mut codes);
        let signed = codes.map(|code| code as i8);
        assert_eq!(signed.iter().map(|code| code.unsigned_abs()).max(), Some(127));
        for (code, value) in signed.iter().zip(&values) {
            assert!((f32::from(*code) * scale - value).abs() <= scale * 0.5001, "{code} {value}");
        }
        assert_eq!(to_codes(&[0.0; 4], &mut codes), 0.0);
        assert_eq!(codes[..4], [0; 4]);
        assert!(!to_codes(&[1.0, f32::NAN], &mut codes).is_finite());
        assert!(!to_codes(&[1.0, f32::INFINITY], &mut codes).is_finite());
    }

    #[test]
    fn a_rank_has_the_scales_of_its_own_columns() {
        let w = weight(3, 64, |i| if i % 64 == 63 { 12.7 } else { 1.27 });
        let form = Form::new(3, 32, false, Element::Int8).unwrap();
        for (cols, expected) in [(0..32, 0.01), (32..64, 0.1)] {
            let mut coder = Coder::default();
            let parts = [CodePart::Numbers(Part { weight: &w, rows: 0..3, cols })];
            let mut all = Vec::new();
            for chunk in form.chunks(40) {
                let mut out = vec![9; form.chunk_bytes(&chunk)];
                coder.fill(&form, &parts, &chunk, &mut out).unwrap();
                all.extend(out);
            }
            assert_eq!((all.len(), coder.scales.len()), (96, 3));
            assert!(coder.scales.iter().all(|scale| (scale - expected).abs() < 1e-6), "{:?}", coder.scales);
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let w = weight(2, 32, |i| if i == 40 { f32::INFINITY } else { 1.0 });
        let form = Form::new(2, 32, false, Element::Int8).unwrap();
        let parts = [CodePart::Numbers(Part { weight: &w, rows: 0..2, cols: 0..32 })];
        let error = Coder::default().fill(&form, &parts, &(0..2), &mut [0; 64]).unwrap_err();
        assert_eq!(error.status, Status::Format);
        assert!(error.message.contains("model.w") && error.message.contains("row 1"), "{error}");
    }

    #[test]
    fn tiles_of_bytes_are_32_wide() {
        let form = Form::new(3, 64, true, Element::Int8).unwrap();
        assert_eq!((form.rows_held, form.bytes()), (16, 1024));
        assert_eq!(form.desc().unwrap().dims(), [1, 2, 16, 32]);
        let mut out = vec![0u8; 1024];
        for row in 0..3 {
            let line: Vec<u8> = (0..64).map(|col| (row * 64 + col) as u8).collect();
            to_tiles(&form, row, &line, &mut out);
        }
        for (row, col) in [(0, 0), (0, 31), (0, 32), (2, 5), (2, 63)] {
            assert_eq!(usize::from(out[(col / 32 * 16 + row) * 32 + col % 32]), row * 64 + col);
        }
        assert_eq!(Form::new(4, 48, true, Element::Int8).unwrap_err().status, Status::Unsupported);
    }
}

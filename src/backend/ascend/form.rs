//! The form of matrices on the device: elements in rows, or in the tiles that the 310P's matrix unit reads; and stored
//! weights brought into it in 16 bits, piece by piece, on the host.
//!
//! Tiles (FRACTAL_NZ): the matrix `[rows, cols]` is cut into columns of 16 (of bytes 32); each is stored whole, row after
//! row of 16 elements, with the rows filled up to a multiple of 16 by zeros. Element (r, c) lies at
//! `((c / 16) · rows↑16 + r) · 16 + c % 16`.

use super::acl::{self, aclDataType};
use super::atb::Desc;
use super::hccl::{self, HcclDataType};
use crate::base::error::Result;
use crate::model::weights::Weight;
use half::{bf16, f16};
use std::ops::Range;

/// Edge of a tile of 16-bit elements.
pub const TILE: usize = 16;
/// Columns of quantised weights are read in multiples of it, which all their blocks divide.
const COLS_UNIT: usize = 256;

/// The type of weights, activations and caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfType {
    /// IEEE's: 10 bits of mantissa, up to 65504.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl HalfType {
    /// ACL's number.
    pub fn acl(self) -> aclDataType {
        match self {
            HalfType::F16 => acl::ACL_FLOAT16,
            HalfType::Bf16 => acl::ACL_BF16,
        }
    }

    /// HCCL's number, which is another.
    pub fn hccl(self) -> HcclDataType {
        match self {
            HalfType::F16 => hccl::HCCL_DATA_TYPE_FP16,
            HalfType::Bf16 => hccl::HCCL_DATA_TYPE_BFP16,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            HalfType::F16 => "f16",
            HalfType::Bf16 => "bf16",
        }
    }

    /// The bits of a number, rounded to nearest.
    pub fn bits(self, value: f32) -> u16 {
        match self {
            HalfType::F16 => f16::from_f32(value).to_bits(),
            HalfType::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// The number of bits.
    pub fn value(self, bits: u16) -> f32 {
        match self {
            HalfType::F16 => f16::from_bits(bits).to_f32(),
            HalfType::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }

    fn is_stored_as(self, dtype: crate::base::dtype::DType) -> bool {
        use crate::base::dtype::DType;
        matches!((self, dtype), (HalfType::F16, DType::F16) | (HalfType::Bf16, DType::BF16))
    }
}

/// The elements of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Numbers of 16 bits.
    Half(HalfType),
    /// Signed bytes, for products of 8 bits.
    Int8,
}

impl From<HalfType> for Element {
    fn from(half: HalfType) -> Element {
        Element::Half(half)
    }
}

impl Element {
    /// ACL's number.
    pub fn acl(self) -> aclDataType {
        match self {
            Element::Half(half) => half.acl(),
            Element::Int8 => acl::ACL_INT8,
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::Half(_) => 2,
            Element::Int8 => 1,
        }
    }

    /// Columns of a tile: 32 bytes of them.
    pub fn tile_cols(self) -> usize {
        32 / self.bytes()
    }
}

/// A matrix of weights as the device has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Output features, as many as count.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Output features with those that are filled up.
    pub rows_held: usize,
    /// In tiles, else in rows.
    pub tiled: bool,
    /// Its elements.
    pub element: Element,
}

impl Form {
    /// A matrix of `rows` by `cols`; in tiles its rows are filled up. `Unsupported` where tiles do not go.
    pub fn new(rows: usize, cols: usize, tiled: bool, element: impl Into<Element>) -> Result<Form> {
        let element = element.into();
        // Bytes go to the matrix unit in runs of 32 in either form.
        let unit = if tiled || element == Element::Int8 { element.tile_cols() } else { 1 };
        crate::ensure!(
            cols.is_multiple_of(unit),
            Unsupported,
            "a matrix of {cols} input features{}: this chip takes multiples of {unit}",
            if element == Element::Int8 { " in 8 bits" } else { "" }
        );
        let rows_held = if tiled { rows.next_multiple_of(TILE) } else { rows };
        Ok(Form { rows, cols, rows_held, tiled, element })
    }

    /// The same with rows filled up to so many.
    pub fn padded(self, rows_held: usize) -> Form {
        Form { rows_held, ..self }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.rows_held * self.cols * self.element.bytes()
    }

    /// What ATB is told.
    pub fn desc(&self) -> Result<Desc> {
        let (rows, cols) = (self.rows_held as i64, self.cols as i64);
        let dtype = self.element.acl();
        if self.tiled {
            let tile = self.element.tile_cols() as i64;
            Desc::new(dtype, acl::ACL_FORMAT_FRACTAL_NZ, &[1, cols / tile, rows, tile])
        } else {
            Desc::new(dtype, acl::ACL_FORMAT_ND, &[rows, cols])
        }
    }

    /// The pieces in which it is brought over, each at most `bytes` large where that can be: ranges of rows, or in tiles
    /// of columns. Each piece is one range of bytes on the device, in order.
    pub fn chunks(&self, bytes: usize) -> Vec<Range<usize>> {
        let each = self.element.bytes();
        let (total, unit, line) = if self.tiled {
            (self.cols, COLS_UNIT.min(self.cols), self.rows_held * each)
        } else {
            (self.rows_held, 1, self.cols * each)
        };
        let step = (bytes / line.max(1) / unit).max(1) * unit;
        (0..total).step_by(step.max(1)).map(|start| start..(start + step).min(total)).collect()
    }

    /// Bytes of a piece.
    pub fn chunk_bytes(&self, chunk: &Range<usize>) -> usize {
        chunk.len() * if self.tiled { self.rows_held } else { self.cols } * self.element.bytes()
    }
}

/// A part of a stored weight: some of its rows and columns.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The weight.
    pub weight: &'a Weight,
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub cols: Range<usize>,
}

/// Turns stored rows into 16-bit ones. Keeps the memory that it needs for it.
#[derive(Debug, Default)]
pub struct Converter {
    values: Vec<f32>,
    whole: Vec<f32>,
    line: Vec<u16>,
}

impl Converter {
    /// Writes piece `chunk` of a matrix whose rows are those of `parts`, one part below the other, and zeros behind
    /// them. `Format` naming tensor and element where a number is too large for f16.
    pub fn fill(
        &mut self,
        form: &Form,
        parts: &[Part<'_>],
        chunk: &Range<usize>,
        out: &mut [u16],
    ) -> Result<()> {
        out.fill(0);
        let Element::Half(dtype) = form.element else {
            crate::bail!(Internal, "a matrix of bytes is no matrix of 16-bit elements")
        };
        let mut row = 0;
        for part in parts {
            for stored in part.rows.clone() {
                if form.tiled {
                    self.scatter(form, dtype, part, stored, row, chunk, out)?;
                } else if chunk.contains(&row) {
                    let at = (row - chunk.start) * form.cols;
                    self.convert(dtype, part, stored, 0..form.cols, &mut out[at..at + form.cols])?;
                }
                row += 1;
            }
        }
        Ok(())
    }

    /// Row `row` of the matrix into the tiles of columns `cols`.
    #[allow(clippy::too_many_arguments)]
    fn scatter(
        &mut self,
        form: &Form,
        dtype: HalfType,
        part: &Part<'_>,
        stored: usize,
        row: usize,
        cols: &Range<usize>,
        out: &mut [u16],
    ) -> Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.resize(cols.len(), 0);
        let result = self.convert(dtype, part, stored, cols.clone(), &mut line);
        to_tiles(form, row, &line, out);
        self.line = line;
        result
    }

    /// Columns `cols` of a part's row, counted within the part.
    fn convert(
        &mut self,
        dtype: HalfType,
        part: &Part<'_>,
        row: usize,
        cols: Range<usize>,
        out: &mut [u16],
    ) -> Result<()> {
        let cols = part.cols.start + cols.start..part.cols.start + cols.end;
        let mut same = part.weight.row_pieces(row).filter(|piece| dtype.is_stored_as(piece.dtype));
        if let Some(piece) = same.find(|piece| piece.cols.start <= cols.start && cols.end <= piece.cols.end) {
            let bytes =
                &piece.row(row)[(cols.start - piece.cols.start) * 2..(cols.end - piece.cols.start) * 2];
            let (pairs, _) = bytes.as_chunks::<2>();
            for (out, pair) in out.iter_mut().zip(pairs) {
                *out = u16::from_le_bytes(*pair);
            }
            return Ok(());
        }
        self.values.resize(cols.len(), 0.0);
        part.weight.cols_f32(row, cols.clone(), &mut self.whole, &mut self.values);
        let mut too_large = None;
        for (index, (out, &value)) in out.iter_mut().zip(&self.values).enumerate() {
            *out = dtype.bits(value);
            if *out & 0x7fff == 0x7c00 && dtype == HalfType::F16 && value.is_finite() {
                too_large.get_or_insert((index, value));
            }
        }
        match too_large {
            Some((index, value)) => Err(crate::error!(
                Format,
                "tensor {}: element [{row}, {}] is {value}, beyond what f16 holds (65504): this device computes in f16; the \
                 model needs one with bf16, or the CPU",
                part.weight.name,
                cols.start + index
            )),
            None => Ok(()),
        }
    }
}

/// Row `row` of some of a matrix's columns into their tiles.
pub fn to_tiles<T: Copy>(form: &Form, row: usize, line: &[T], out: &mut [T]) {
    let width = form.element.tile_cols();
    for (column, tile) in line.chunks_exact(width).enumerate() {
        let at = (column * form.rows_held + row) * width;
        out[at..at + width].copy_from_slice(tile);
    }
}

/// Place of element (`row`, `col`) of a matrix of 16-bit elements and `rows_held` rows in tiles.
pub fn tile_place(row: usize, col: usize, rows_held: usize) -> usize {
    (col / TILE * rows_held + row) * TILE + col % TILE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::base::dtype::DType;
    use crate::model::weights::RowMap;

    fn weight(rows: usize, cols: usize, dtype: HalfType, value: impl Fn(usize) -> f32) -> Weight {
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| dtype.bits(value(i)).to_le_bytes()).collect();
        let stored = if dtype == HalfType::F16 { DType::F16 } else { DType::BF16 };
        Weight::whole("model.w", rows, cols, stored, bytes.into(), RowMap::Identity).unwrap()
    }

    fn brought_over(form: &Form, parts: &[Part<'_>], chunk_bytes: usize) -> Vec<u16> {
        let (mut all, mut converter) = (Vec::new(), Converter::default());
        for chunk in form.chunks(chunk_bytes) {
            let mut out = vec![0xffff; form.chunk_bytes(&chunk) / 2];
            converter.fill(form, parts, &chunk, &mut out).unwrap();
            all.extend(out);
        }
        assert_eq!(all.len() * 2, form.bytes());
        all
    }

    #[test]
    fn rows_and_tiles_hold_the_parts_one_below_the_other_and_zeros_behind() {
        let (a, b) =
            (weight(5, 48, HalfType::F16, |i| i as f32), weight(4, 64, HalfType::Bf16, |i| 500.0 + i as f32));
        let parts =
            [Part { weight: &a, rows: 1..4, cols: 0..32 }, Part { weight: &b, rows: 0..3, cols: 16..48 }];
        let expected = |row: usize, col: usize| match row {
            0..3 => ((row + 1) * 48 + col) as f32,
            3..6 => HalfType::Bf16.value(HalfType::Bf16.bits(500.0 + ((row - 3) * 64 + 16 + col) as f32)),
            _ => 0.0,
        };
        for (tiled, held) in [(false, 6), (true, 16), (true, 32)] {
            let form = Form::new(6, 32, tiled, HalfType::F16).unwrap().padded(held);
            for chunk_bytes in [1, 130, 1 << 20] {
                let bits = brought_over(&form, &parts, chunk_bytes);
                for row in 0..held {
                    for col in 0..32 {
                        let at = if tiled { tile_place(row, col, held) } else { row * 32 + col };
                        assert_eq!(HalfType::F16.value(bits[at]), expected(row, col), "{tiled} {row} {col}");
                    }
                }
            }
        }
    }

    #[test]
    fn large_matrices_go_in_pieces_of_whole_blocks() {
        let form = Form::new(100_008, 4096, true, HalfType::F16).unwrap();
        assert_eq!(form.rows_held, 100_016);
        let chunks = form.chunks(32 << 20);
        assert!(chunks.iter().all(|c| c.start % 256 == 0) && chunks.len() == 16, "{chunks:?}");
        assert_eq!(chunks.iter().map(|c| form.chunk_bytes(c)).sum::<usize>(), form.bytes());
    }

    #[test]
    fn a_number_that_f16_cannot_hold_is_named() {
        let large = weight(2, 16, HalfType::Bf16, |i| if i == 21 { -70000.0 } else { 1.0 });
        let form = Form::new(2, 16, false, HalfType::F16).unwrap();
        let parts = [Part { weight: &large, rows: 0..2, cols: 0..16 }];
        let mut out = vec![0; 32];
        let error = Converter::default().fill(&form, &parts, &(0..2), &mut out).unwrap_err();
        assert_eq!(error.status, Status::Format);
        assert!(error.message.contains("model.w") && error.message.contains("[1, 5]"), "{error}");
        // What was stored as infinity stays infinity: that is the check of all weights' business.
        let infinite = weight(1, 16, HalfType::Bf16, |_| f32::INFINITY);
        let parts = [Part { weight: &infinite, rows: 0..1, cols: 0..16 }];
        Converter::default().fill(&form, &parts, &(0..1), &mut out[..16]).unwrap();
    }

    #[test]
    fn tiles_take_whole_columns_of_16() {
        assert_eq!(Form::new(4, 40, true, HalfType::F16).unwrap_err().status, Status::Unsupported);
    }
}

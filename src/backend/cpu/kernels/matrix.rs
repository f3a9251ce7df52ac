//! A weight as the matrix product reads it: plain elements, or quantised panels.
//!
//! The bytes of plain elements stay where they lie, usually in a mapped file, at any alignment. A row may be cut into
//! several pieces along k, and the order of the stored rows may differ from the order of the matrix
//! rows; both are settled here, so that the kernels see pointers to runs of elements.

use crate::backend::cpu::kernels::{Element, Packed, matmul, panels};
use crate::base::error::Result;
use crate::base::region::Region;
use crate::model::weights::{Piece, Weight};
use std::mem::MaybeUninit;
use std::ops::Range;

/// A weight in one of the forms that the product takes.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Plain elements.
    Dense(Dense),
    /// Quantised panels.
    Packed(Packed),
}

impl Matrix {
    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Matrix::Dense(dense) => dense.rows(),
            Matrix::Packed(packed) => packed.rows(),
        }
    }

    /// Input features: k.
    pub fn cols(&self) -> usize {
        match self {
            Matrix::Dense(dense) => dense.cols(),
            Matrix::Packed(packed) => packed.cols(),
        }
    }

    /// Whether the product takes quantised activations.
    pub fn is_packed(&self) -> bool {
        matches!(self, Matrix::Packed(_))
    }

    /// Row `row`, which must exist, as f32 in `out`, `[cols]`.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        match self {
            Matrix::Dense(dense) => dense.weight.row_f32(row, out),
            Matrix::Packed(packed) => packed.row_f32(row, out),
        }
    }

    /// How many of `rows` rows a worker should take at a time, so that `workers` get a fair share each and
    /// the activations are not read too often.
    pub fn chunk_rows(&self, rows: usize, tokens: usize, workers: usize) -> usize {
        match self {
            Matrix::Dense(_) => matmul::chunk_rows(rows, tokens, workers),
            Matrix::Packed(_) => panels::product::chunk_rows(rows, workers),
        }
    }

    /// The bytes that hold it.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        let (pieces, packed): (&[Piece], _) = match self {
            Matrix::Dense(dense) => (&dense.weight.pieces, None),
            Matrix::Packed(packed) => (&[], Some(packed.bytes())),
        };
        pieces.iter().map(|piece| &piece.bytes).chain(packed)
    }

    /// Bytes that a product with all rows reads.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Matrix::Dense(dense) => dense.weight.stored_bytes(),
            Matrix::Packed(packed) => packed.bytes().len() as u64,
        }
    }
}

/// A weight whose pieces all have one plain element type, used in place.
#[derive(Clone, Debug)]
pub struct Dense {
    weight: Weight,
    element: Element,
}

impl Dense {
    /// The weight as a matrix, or `Unsupported` where its pieces are not all of one plain type.
    pub fn new(weight: Weight) -> Result<Self> {
        match weight.dtype().and_then(Element::of) {
            Some(element) => Ok(Dense { weight, element }),
            None => Err(crate::error!(
                Unsupported,
                "{}: expected one of f32, f16, bf16 throughout, found {}",
                weight.name,
                weight.dtype().map_or("several types", |d| d.name())
            )),
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.weight.rows
    }

    /// Input features: k.
    pub fn cols(&self) -> usize {
        self.weight.cols
    }

    /// How the elements are stored.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The weight itself.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The stored elements `k` of row `row`: in place where one piece holds them all, else gathered
    /// into `room`, which must hold them. Row and columns must exist.
    #[inline]
    pub(super) fn run<'a, const N: usize>(
        &'a self,
        row: usize,
        k: Range<usize>,
        room: &'a mut MaybeUninit<[u8; N]>,
    ) -> &'a [u8] {
        let size = self.element.bytes();
        for piece in self.weight.row_pieces(row) {
            if piece.cols.start <= k.start && k.end <= piece.cols.end {
                let start = (k.start - piece.cols.start) * size;
                return &piece.row(row)[start..start + k.len() * size];
            }
        }
        // Seldom reached, and the room is large: so it is not cleared before.
        let gather = room.write([0; N]);
        for piece in self.weight.row_pieces(row) {
            let (start, end) = (piece.cols.start.max(k.start), piece.cols.end.min(k.end));
            if start < end {
                let from = (start - piece.cols.start) * size;
                let into = (start - k.start) * size..(end - k.start) * size;
                gather[into.clone()].copy_from_slice(&piece.row(row)[from..from + into.len()]);
            }
        }
        &gather[..k.len() * size]
    }
}

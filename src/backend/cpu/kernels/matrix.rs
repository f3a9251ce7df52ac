//! A weight as the matrix product reads it.
//!
//! The bytes stay where they lie, usually in a mapped file, at any alignment. A row may be cut into
//! several pieces along k, and the order of the stored rows may differ from the order of the matrix
//! rows; both are settled here, so that the kernels see pointers to runs of elements.

use crate::backend::cpu::kernels::Element;
use crate::base::error::Result;
use crate::model::weights::Weight;
use std::ops::Range;

/// A weight whose pieces all have one plain element type, used in place.
#[derive(Clone, Debug)]
pub struct Matrix {
    weight: Weight,
    element: Element,
}

impl Matrix {
    /// The weight as a matrix, or `Unsupported` where its pieces are not all of one plain type.
    pub fn new(weight: Weight) -> Result<Self> {
        match weight.dtype().and_then(Element::of) {
            Some(element) => Ok(Matrix { weight, element }),
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
    /// into `gather`, which must hold them. Row and columns must exist.
    #[inline]
    pub(super) fn run<'a>(&'a self, row: usize, k: Range<usize>, gather: &'a mut [u8]) -> &'a [u8] {
        let size = self.element.bytes();
        for piece in self.weight.row_pieces(row) {
            if piece.cols.start <= k.start && k.end <= piece.cols.end {
                let start = (k.start - piece.cols.start) * size;
                return &piece.row(row)[start..start + k.len() * size];
            }
        }
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

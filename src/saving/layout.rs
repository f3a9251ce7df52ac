//! What is to be written, and where its bytes will lie.

use crate::base::dtype::DType;
use crate::base::error::Result;
use std::ops::Range;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTensor {
    /// Its name in the file.
    pub name: String,
    /// How its elements are encoded.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }

    /// Bytes in the file. `Unsupported` where a row is no whole number of blocks of its type.
    pub fn bytes(&self) -> Result<u64> {
        let row = self.shape.last().copied().unwrap_or(1) as u64;
        let bytes = self.dtype.bytes(row).and_then(|_| self.dtype.bytes(self.elements()));
        bytes.ok_or_else(|| {
            crate::error!(
                Unsupported,
                "tensor {}: rows of {row} elements cannot be stored as {}: expected a multiple of {}",
                self.name,
                self.dtype,
                self.dtype.block_elements()
            )
        })
    }
}

/// Where everything lies in a file of some format.
pub trait Layout: std::fmt::Debug + Send {
    /// The bytes of each tensor, in the order in which they were given.
    fn ranges(&self) -> &[Range<u64>];

    /// Length of the whole file.
    fn file_len(&self) -> u64;

    /// Whether the file holds a checksum of each tensor's bytes.
    fn has_checksums(&self) -> bool {
        false
    }

    /// All bytes that are no tensor's, each with its place. `checksums` are the CRC-32 of the tensors, where the format
    /// has such.
    fn frame(&self, checksums: &[u32]) -> Vec<(u64, Vec<u8>)>;
}

//! The tensors of a checkpoint, whatever its format: names, shapes, types and bytes.

use crate::base::buffer::Buffer;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::base::{checked, limits, memory};
use crate::loading::file::SourceFile;
use crate::loading::json::clip;
use crate::loading::packed::SourceKey;
use crate::loading::strided;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The element type that a file states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// A type that weights may have.
    Known(DType),
    /// Another one, by its name in the format: no error where the tensor is not a weight.
    Other(&'static str),
}

impl std::fmt::Display for StoredType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoredType::Known(dtype) => dtype.fmt(f),
            StoredType::Other(name) => f.write_str(name),
        }
    }
}

/// One tensor as a reader of a format found and checked it: its range lies inside the file, and is
/// exactly as long as its shape and type say, or from the first to the last element of its strides.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// How its elements are encoded.
    pub dtype: StoredType,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub range: Range<u64>,
    /// `None`: the elements lie one after the other, row by row. Else, for each dimension, how many elements
    /// apart two neighbours lie (a transposed matrix of a torch checkpoint).
    pub strides: Option<Vec<usize>>,
}

/// The named tensors of one file.
pub type Named = Vec<(String, StoredTensor)>;

/// All tensors of a checkpoint with the bytes of their files.
#[derive(Debug)]
pub struct TensorTable {
    files: Vec<(String, Region)>,
    modified_ns: Vec<i64>,
    tensors: HashMap<String, (usize, StoredTensor)>,
    /// Bytes that strided tensors were copied into.
    copied: AtomicU64,
}

impl TensorTable {
    /// The tensors of all files together. Every file is mapped, or with `copy` read into private
    /// memory. A name that stands twice, in one file or in two, is `Format`.
    pub fn new(parts: Vec<(SourceFile, Named)>, copy: bool) -> Result<Self> {
        let mut table = TensorTable {
            files: Vec::new(),
            modified_ns: Vec::new(),
            tensors: HashMap::new(),
            copied: AtomicU64::new(0),
        };
        for (file, named) in parts {
            let number = table.files.len();
            for (name, tensor) in named {
                match table.tensors.entry(name) {
                    Entry::Vacant(slot) => slot.insert((number, tensor)),
                    Entry::Occupied(slot) => {
                        let other = table.files.get(slot.get().0).map_or(file.name(), |f| f.0.clone());
                        crate::bail!(
                            Format,
                            "{}: tensor {} is also in {other}, expected every tensor once",
                            file.name(),
                            clip(slot.key())
                        )
                    }
                };
            }
            crate::ensure!(
                table.tensors.len() <= limits::TENSORS_MAX,
                Format,
                "{}: more than {} tensors",
                file.name(),
                limits::TENSORS_MAX
            );
            table.files.push((file.name(), file.region(copy)?));
            table.modified_ns.push(file.modified_ns());
        }
        Ok(table)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name).map(|(_, tensor)| tensor)
    }

    /// The name of the file that holds the tensor; the first file's where there is no such tensor, so
    /// that a message about a missing one names a place.
    pub fn file_of(&self, name: &str) -> &str {
        let number = self.tensors.get(name).map_or(0, |(number, _)| *number);
        self.files.get(number).map_or("", |(name, _)| name)
    }

    /// The bytes of the tensor of that name, row by row: where they lie, or for strided ones in memory of their own.
    /// All such copies together are at most as large as the files, and no larger than what the machine has left:
    /// else `NoMemory`.
    pub fn bytes(&self, name: &str) -> Result<Region> {
        let found = self.tensors.get(name).and_then(|(number, tensor)| {
            let range = usize::try_from(tensor.range.start).ok()?..usize::try_from(tensor.range.end).ok()?;
            Some((self.files.get(*number)?.1.slice(range)?, tensor))
        });
        let Some((stored, tensor)) = found else {
            crate::bail!(Format, "{}: tensor {name}: no such bytes", self.file_of(name))
        };
        match (&tensor.strides, tensor.dtype) {
            (Some(strides), StoredType::Known(dtype)) => self
                .copy(&stored, &tensor.shape, strides, dtype)
                .map_err(|error| error.at(format_args!("{}: tensor {name}", self.file_of(name)))),
            _ => Ok(stored),
        }
    }

    fn copy(&self, stored: &Region, shape: &[usize], strides: &[usize], dtype: DType) -> Result<Region> {
        let dims: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
        let bytes = checked::product(&dims, "its shape")?;
        let bytes = checked::mul(bytes, dtype.block_bytes() as u64, "its shape")?;
        crate::ensure!(
            bytes <= stored.len() as u64,
            Unsupported,
            "strides {strides:?} give {shape:?} of fewer elements, many times the same ones: expected a tensor of its own"
        );
        let files: u64 = self.files.iter().map(|(_, region)| region.len() as u64).sum();
        let before = self.copied.fetch_add(bytes, Ordering::Relaxed);
        crate::ensure!(
            before.saturating_add(bytes) <= files
                && memory::available_bytes().is_none_or(|left| bytes <= left),
            NoMemory,
            "a copy of {bytes} bytes with other strides, beside {before} of others: more than the machine has left, \
             or than the files have ({files})"
        );
        let len = checked::usize(bytes, "its shape")?;
        let mut copy = Buffer::<u8>::zeroed(len, "a copy with other strides")?;
        strided::gather(stored, shape, strides, dtype.block_bytes(), &mut copy);
        Ok(copy.into())
    }

    /// All names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The identity of all files of all tables together. Both ends of each are read.
    pub fn source_key(tables: &[TensorTable]) -> SourceKey {
        let files = tables.iter().flat_map(|table| table.files.iter().zip(&table.modified_ns));
        SourceKey::of(files.map(|((name, bytes), time)| (name.as_str(), *time, &**bytes)))
    }

    /// The files: name and bytes.
    pub fn files(&self) -> &[(String, Region)] {
        &self.files
    }
}

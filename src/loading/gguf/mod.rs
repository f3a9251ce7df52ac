//! The GGUF format, versions 2 and 3, little endian: a header of counts, metadata as keys and typed
//! values, descriptions of the tensors, and the aligned data.
//!
//! The header is read front to back through a small window, never mapped, and no number in it is
//! believed before it was compared with the bytes that are left.

mod metadata;

pub use metadata::{Array, Gguf, Scalar, Strings, Value};

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::{checked, limits};
use crate::loading::cursor::Cursor;
use crate::loading::file::SourceFile;
use crate::loading::json::clip;
use crate::loading::tensor::{Named, StoredTensor, StoredType};
use std::collections::HashSet;

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Where `general.alignment` does not say otherwise.
const ALIGNMENT: u64 = 32;
/// Most dimensions of a tensor.
const RANK_MAX: u32 = 4;
/// Fewest bytes of a metadata entry: key length, one letter, type, one byte.
const ENTRY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's description: name length, one letter, rank, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 4 + 8;

/// Reads and checks the whole header: the metadata, and every tensor in the order of the file.
///
/// `Format` where the file is no GGUF file or is damaged, `Unsupported` for big-endian files and other
/// versions.
pub fn read(file: &SourceFile) -> Result<(Gguf, Named)> {
    let mut cursor = Cursor::new(file);
    read_with(&mut cursor).map_err(|error| error.at(file.name()))
}

fn read_with(cursor: &mut Cursor<'_>) -> Result<(Gguf, Named)> {
    let version = read_version(cursor)?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let entry_count = cursor.u64("the number of metadata entries")?;
    let left = cursor.left();
    crate::ensure!(
        tensor_count <= limits::TENSORS_MAX as u64 && tensor_count <= left / TENSOR_BYTES_MIN,
        Format,
        "{tensor_count} tensors, expected at most {} in the {left} bytes that follow",
        (limits::TENSORS_MAX as u64).min(left / TENSOR_BYTES_MIN)
    );
    crate::ensure!(
        entry_count <= limits::GGUF_ENTRIES_MAX && entry_count <= left / ENTRY_BYTES_MIN,
        Format,
        "{entry_count} metadata entries, expected at most {} in the {left} bytes that follow",
        limits::GGUF_ENTRIES_MAX.min(left / ENTRY_BYTES_MIN)
    );
    let gguf = metadata::read(cursor, version, entry_count)?;
    let alignment = alignment(&gguf)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for number in 0..tensor_count {
        let (name, description) = read_description(cursor, number)?;
        crate::ensure!(names.insert(name.clone()), Format, "tensor {} stands twice", clip(&name));
        tensors.push((name, description));
    }
    let data_start = checked::mul(cursor.position().div_ceil(alignment), alignment, "start of the data")?;
    let file_len = cursor.file_len();
    let mut named = Vec::with_capacity(tensors.len());
    for (name, description) in tensors {
        let tensor = place(description, data_start, alignment, file_len)
            .map_err(|error| error.at(format!("tensor {}", clip(&name))))?;
        named.push((name, tensor));
    }
    refuse_overlap(&named)?;
    Ok((gguf, named))
}

/// The version behind the magic, 2 or 3.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let magic = cursor.array::<4>("the magic")?;
    crate::ensure!(
        magic == MAGIC,
        Format,
        "not a GGUF file: expected it to begin with GGUF, found {magic:?}"
    );
    let version = cursor.u32("the version")?;
    // Version 3 of the other byte order reads as 3 << 24.
    crate::ensure!(
        version == 0 || version.trailing_zeros() < 16,
        Unsupported,
        "a big-endian GGUF file, expected little endian"
    );
    crate::ensure!((2..=3).contains(&version), Unsupported, "GGUF version {version}, expected 2 or 3");
    Ok(version)
}

fn alignment(gguf: &Gguf) -> Result<u64> {
    let alignment = gguf.uint("general.alignment")?.unwrap_or(ALIGNMENT);
    crate::ensure!(
        alignment.is_power_of_two() && alignment <= limits::GGUF_ALIGNMENT_MAX,
        Format,
        "general.alignment: expected a power of two up to {}, found {alignment}",
        limits::GGUF_ALIGNMENT_MAX
    );
    Ok(alignment)
}

/// A tensor as its description says, before it is compared with the file.
struct Description {
    /// Outermost dimension first (the file has it the other way round).
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn read_description(cursor: &mut Cursor<'_>, number: u64) -> Result<(String, Description)> {
    let name = cursor.string(limits::GGUF_NAME_MAX, &format!("the name of tensor {number}"))?;
    crate::ensure!(!name.is_empty(), Format, "tensor {number} has an empty name");
    let what = format!("tensor {}", clip(&name));
    let rank = cursor.u32(&what)?;
    crate::ensure!(rank <= RANK_MAX, Format, "{what}: {rank} dimensions, expected at most {RANK_MAX}");
    let mut dims = Vec::new();
    for _ in 0..rank {
        dims.insert(0, cursor.u64(&what)?);
    }
    let kind = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    Ok((name, Description { dims, kind, offset }))
}

/// The tensor with its bytes in the file. A type that is known by name only has no known size: its
/// range is empty.
fn place(tensor: Description, data_start: u64, alignment: u64, file_len: u64) -> Result<StoredTensor> {
    let Description { dims, kind, offset } = tensor;
    let dtype = stored_type(kind)?;
    crate::ensure!(
        offset % alignment == 0,
        Format,
        "offset {offset}, expected a multiple of the alignment {alignment}"
    );
    let elements = checked::product(&dims, "its shape")?;
    let bytes = match dtype {
        StoredType::Known(dtype) => {
            let row = dims.last().copied().unwrap_or(1);
            crate::ensure!(
                row % dtype.block_elements() as u64 == 0,
                Format,
                "rows of {row} elements, expected whole blocks of {} ({dtype})",
                dtype.block_elements()
            );
            let bytes = dtype.bytes(elements);
            bytes.ok_or_else(|| crate::error!(Format, "{elements} elements of {dtype} overflow"))?
        }
        StoredType::Other(_) => 0,
    };
    let start = checked::add(data_start, offset, "its offset")?;
    let end = checked::add(start, bytes, "its end")?;
    crate::ensure!(
        end <= file_len,
        Format,
        "truncated: {dims:?} {dtype} takes bytes {start} to {end}, the file has {file_len}"
    );
    let shape = dims.iter().map(|&d| checked::usize(d, "a dimension")).collect::<Result<_>>()?;
    Ok(StoredTensor { dtype, shape, range: start..end, strides: None })
}

fn refuse_overlap(named: &Named) -> Result<()> {
    let mut order: Vec<&(String, StoredTensor)> = named.iter().filter(|(_, t)| !t.range.is_empty()).collect();
    order.sort_by_key(|(_, tensor)| tensor.range.start);
    for pair in order.windows(2) {
        if let [(first, a), (second, b)] = pair {
            crate::ensure!(
                a.range.end <= b.range.start,
                Format,
                "tensor {} starts at byte {}, inside tensor {}",
                clip(second),
                b.range.start,
                clip(first)
            );
        }
    }
    Ok(())
}

/// The type of a number in the file. The numbers are those of ggml's `enum ggml_type`.
fn stored_type(kind: u32) -> Result<StoredType> {
    let known = match kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        10 => DType::Q2K,
        11 => DType::Q3K,
        12 => DType::Q4K,
        13 => DType::Q5K,
        14 => DType::Q6K,
        30 => DType::BF16,
        _ => return other_type(kind).map(StoredType::Other),
    };
    Ok(StoredType::Known(known))
}

/// Types that exist and that weights here may not have.
fn other_type(kind: u32) -> Result<&'static str> {
    Ok(match kind {
        4 => "q4_2 (retired)",
        5 => "q4_3 (retired)",
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        20 => "iq4_nl",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        31..=33 => "q4_0 repacked (retired)",
        34 => "tq1_0",
        35 => "tq2_0",
        36..=38 => "iq4_nl repacked (retired)",
        39 => "mxfp4",
        40..=63 => "a newer type",
        _ => crate::bail!(Format, "type number {kind}, expected one below 64"),
    })
}

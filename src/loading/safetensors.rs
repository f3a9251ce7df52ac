//! The safetensors format: 8 bytes of header length, a JSON header, and the data.
//!
//! The header is read by our own visitor with the crate's list of types. The crate's own reader wants
//! the whole file in memory, lets the last of two equal names win, and reports a broken tensor
//! without its numbers.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::{checked, limits};
use crate::loading::file::SourceFile;
use crate::loading::json::{self, clip};
use crate::loading::tensor::{Named, StoredTensor, StoredType};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Bytes of the header's length.
const PREFIX: u64 = 8;
/// Most dimensions of a tensor.
const RANK_MAX: usize = 8;

/// Reads and checks the header: every tensor of `file`, in the order of its bytes.
///
/// `Format` where the file is no safetensors file, is truncated, or where the tensors leave a hole,
/// overlap, or do not end with the file.
pub fn read(file: &SourceFile) -> Result<Named> {
    let name = file.name();
    let header = read_header(file)?;
    let data_start = PREFIX + header.len() as u64;
    let Header(entries) = json::parse(&format!("{name}: safetensors header"), &header)?;
    drop(header);
    let mut tensors = Vec::with_capacity(entries.len());
    for (tensor, info) in entries {
        tensors.push(place(&name, tensor, info, data_start)?);
    }
    tensors.sort_by_key(|(_, t)| (t.range.start, t.range.end));
    let mut end = data_start;
    for (tensor, stored) in &tensors {
        let start = stored.range.start;
        crate::ensure!(
            start == end,
            Format,
            "{name}: tensor {}: {} its predecessor: expected to start at byte {}, found {}",
            clip(tensor),
            if start < end { "it overlaps" } else { "there is a hole after" },
            end - data_start,
            start - data_start
        );
        end = stored.range.end;
        crate::ensure!(
            end <= file.len(),
            Format,
            "{name}: truncated: tensor {} ends at byte {end}, the file has {}",
            clip(tensor),
            file.len()
        );
    }
    crate::ensure!(
        end == file.len(),
        Format,
        "{name}: the last tensor ends at byte {end}, expected the end of the file, {}",
        file.len()
    );
    Ok(tensors)
}

/// The JSON text of the header, its length compared with the file and the bound first.
fn read_header(file: &SourceFile) -> Result<Vec<u8>> {
    let name = file.name();
    crate::ensure!(
        file.len() >= PREFIX,
        Format,
        "{name}: expected a safetensors file, found {} bytes",
        file.len()
    );
    let mut prefix = [0u8; 8];
    file.read_at(0, &mut prefix)?;
    let len = u64::from_le_bytes(prefix);
    let fits = len <= limits::SAFETENSORS_HEADER_MAX;
    // A length that fits may look like anything: 15392 is a blank and "<".
    if let Some(found) = sniff(&prefix).filter(|_| !fits) {
        crate::bail!(Format, "{name}: expected a safetensors file, found {found}");
    }
    crate::ensure!(
        fits,
        Format,
        "{name}: not a safetensors file: a header of {len} bytes, expected at most {}",
        limits::SAFETENSORS_HEADER_MAX
    );
    crate::ensure!(
        len <= file.len() - PREFIX,
        Format,
        "{name}: truncated: a header of {len} bytes, the file has {} after the length",
        file.len() - PREFIX
    );
    file.read_range(PREFIX..PREFIX + len)
}

/// What a file of another kind is, from its first bytes. Only for those that are no length of a header.
pub(super) fn sniff(start: &[u8; 8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    match start {
        _ if text.starts_with(b"<") => Some("an HTML or XML page (a failed download?)"),
        _ if start.starts_with(b"version ") => Some("a Git LFS pointer (the weights were not fetched)"),
        _ if start.starts_with(b"PK\x03\x04") => Some("a zip archive (a torch checkpoint?)"),
        _ if start.starts_with(b"GGUF") => Some("a GGUF file"),
        _ => None,
    }
}

/// A header's entry as a tensor with its place in the file.
fn place(file: &str, name: String, info: Info, data_start: u64) -> Result<(String, StoredTensor)> {
    let what = || format!("{file}: tensor {}", clip(&name));
    let Dims(shape) = info.shape;
    let (start, end) = info.data_offsets;
    crate::ensure!(start <= end, Format, "{}: its end, {end}, is before its start, {start}", what());
    let dims: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    let elements = checked::product(&dims, "shape").map_err(|e| e.at(what()))?;
    let bits = checked::mul(elements, info.dtype.bitsize() as u64, "shape").map_err(|e| e.at(what()))?;
    crate::ensure!(
        bits % 8 == 0 && end - start == bits / 8,
        Format,
        "{}: expected {} bytes for {shape:?} {}, found {}",
        what(),
        bits.div_ceil(8),
        info.dtype,
        end - start
    );
    let range = checked::add(start, data_start, "offset").map_err(|e| e.at(what()))?
        ..checked::add(end, data_start, "offset").map_err(|e| e.at(what()))?;
    Ok((name, StoredTensor { dtype: stored_type(info.dtype), shape, range, strides: None }))
}

fn stored_type(dtype: Dtype) -> StoredType {
    match dtype {
        Dtype::F32 => StoredType::Known(DType::F32),
        Dtype::F16 => StoredType::Known(DType::F16),
        Dtype::BF16 => StoredType::Known(DType::BF16),
        Dtype::BOOL => StoredType::Other("bool"),
        Dtype::U8 => StoredType::Other("u8"),
        Dtype::I8 => StoredType::Other("i8"),
        Dtype::I16 => StoredType::Other("i16"),
        Dtype::U16 => StoredType::Other("u16"),
        Dtype::I32 => StoredType::Other("i32"),
        Dtype::U32 => StoredType::Other("u32"),
        Dtype::I64 => StoredType::Other("i64"),
        Dtype::U64 => StoredType::Other("u64"),
        Dtype::F64 => StoredType::Other("f64"),
        Dtype::F8_E4M3 => StoredType::Other("f8_e4m3"),
        Dtype::F8_E5M2 => StoredType::Other("f8_e5m2"),
        _ => StoredType::Other("a type of less common use"),
    }
}

/// A header's entry.
#[derive(Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Dims,
    data_offsets: (u64, u64),
}

/// A shape, bounded while it is read: a list of a million ones is refused at the ninth.
struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {RANK_MAX} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == RANK_MAX {
                        return Err(serde::de::Error::invalid_length(RANK_MAX + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// All entries but `__metadata__`, as they stand.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if entries.len() == limits::TENSORS_MAX {
                        let message = format_args!("more than {} tensors", limits::TENSORS_MAX);
                        return Err(serde::de::Error::custom(message));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

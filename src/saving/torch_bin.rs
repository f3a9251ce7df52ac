//! Files of `torch.save`: a zip archive of stored entries: a pickle that names the tensors, and the bytes of each.
//!
//! The entries are those that torch's own reader asks for: `data.pkl`, `byteorder`, `version`, and `data/0`, `data/1` … for
//! the storages, each at a multiple of 64 bytes, all below a directory with the stem of the file's name. The pickle holds a
//! dict of `torch._utils._rebuild_tensor_v2` calls, which `torch.load(weights_only=True)` allows.

use super::layout::{Layout, NewTensor};
use crate::base::dtype::DType;
use crate::base::error::Result;
use std::ops::Range;

/// Where torch puts storages: so that they can be mapped.
const ALIGNMENT: u64 = 64;
/// The version of the archive's form that torch has written since 1.6.
const VERSION: &[u8] = b"3\n";
const LOCAL_BYTES: u64 = 30;
/// What fills up to the alignment stands in an extra field of this number, as torch's own does.
const PADDING_ID: u16 = u16::from_le_bytes(*b"FB");
/// Sizes and places of 4 GiB and more stand in an extra field of this number.
const ZIP64_ID: u16 = 1;

/// The layout of such a file.
#[derive(Debug)]
pub struct TorchLayout {
    entries: Vec<Entry>,
    /// Where each tensor lies.
    ranges: Vec<Range<u64>>,
    /// Where the directory of the archive begins.
    directory: u64,
    len: u64,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// Of its local header.
    start: u64,
    /// Its bytes, before which the header and what fills up lie.
    data: Range<u64>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Tensor(usize),
}

impl TorchLayout {
    /// The layout of an archive of `tensors` in a file of the name `stem`. `Unsupported` for types that torch has not.
    pub fn new(stem: &str, tensors: &[NewTensor]) -> Result<TorchLayout> {
        let mut layout = TorchLayout { entries: Vec::new(), ranges: Vec::new(), directory: 0, len: 0 };
        layout.add_bytes(format!("{stem}/data.pkl"), state_dict(tensors)?);
        layout.add_bytes(format!("{stem}/byteorder"), b"little".to_vec());
        for (number, tensor) in tensors.iter().enumerate() {
            let name = format!("{stem}/data/{number}");
            let range = layout.add(name, tensor.bytes()?, Content::Tensor(number));
            layout.ranges.push(range);
        }
        layout.add_bytes(format!("{stem}/version"), VERSION.to_vec());
        layout.directory = layout.len;
        layout.len += layout.directory_bytes(&[]).len() as u64;
        Ok(layout)
    }

    fn add_bytes(&mut self, name: String, bytes: Vec<u8>) {
        self.add(name, bytes.len() as u64, Content::Bytes(bytes));
    }

    fn add(&mut self, name: String, bytes: u64, content: Content) -> Range<u64> {
        let start = self.len;
        // Room for the two extra fields.
        let header = LOCAL_BYTES + name.len() as u64 + zip64_sizes(bytes).len() as u64 + 4;
        let data = (start + header).next_multiple_of(ALIGNMENT);
        let data = data..data + bytes;
        self.len = data.end;
        self.entries.push(Entry { name, start, data: data.clone(), content });
        data
    }

    fn checksum(entry: &Entry, checksums: &[u32]) -> u32 {
        match &entry.content {
            Content::Bytes(bytes) => crc32fast::hash(bytes),
            Content::Tensor(number) => checksums.get(*number).copied().unwrap_or(0),
        }
    }

    /// The directory at the end, and what says where it is.
    fn directory_bytes(&self, checksums: &[u32]) -> Vec<u8> {
        let mut out = Bytes(Vec::new());
        for entry in &self.entries {
            let size = entry.data.end - entry.data.start;
            let mut extra = Bytes(Vec::new());
            let wide = [size, size, entry.start];
            let wide: Vec<u64> = wide.into_iter().filter(|&n| small(n) == u32::MAX).collect();
            if !wide.is_empty() {
                extra.u16(ZIP64_ID).u16(8 * wide.len() as u16);
                for number in wide {
                    extra.u64(number);
                }
            }
            out.u32(0x0201_4b50).u16(made_by(entry)).u16(made_by(entry)).u16(0).u16(0).u32(0);
            out.u32(Self::checksum(entry, checksums)).u32(small(size)).u32(small(size));
            out.u16(entry.name.len() as u16).u16(extra.0.len() as u16).u16(0).u16(0).u16(0).u32(0);
            out.u32(small(entry.start)).put(entry.name.as_bytes()).put(&extra.0);
        }
        let (count, bytes) = (self.entries.len() as u64, out.0.len() as u64);
        let end = self.directory + bytes;
        // Readers that know it take this one; the fields of the other are too narrow for large files.
        out.u32(0x0606_4b50).u64(44).u16(45).u16(45).u32(0).u32(0);
        out.u64(count).u64(count).u64(bytes).u64(self.directory);
        out.u32(0x0706_4b50).u32(0).u64(end).u32(1);
        let entries = u16::try_from(count).unwrap_or(u16::MAX);
        out.u32(0x0605_4b50).u16(0).u16(0).u16(entries).u16(entries);
        out.u32(small(bytes)).u32(small(self.directory)).u16(0);
        out.0
    }
}

impl Layout for TorchLayout {
    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn file_len(&self) -> u64 {
        self.len
    }

    fn has_checksums(&self) -> bool {
        true
    }

    fn frame(&self, checksums: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let mut frame = Vec::with_capacity(self.entries.len() + 1);
        for entry in &self.entries {
            let size = entry.data.end - entry.data.start;
            let wide = zip64_sizes(size);
            let header = LOCAL_BYTES + entry.name.len() as u64 + wide.len() as u64 + 4;
            let fill = (entry.data.start - entry.start - header) as usize;
            let mut out = Bytes(Vec::new());
            out.u32(0x0403_4b50).u16(made_by(entry)).u16(0).u16(0).u32(0);
            out.u32(Self::checksum(entry, checksums)).u32(small(size)).u32(small(size));
            out.u16(entry.name.len() as u16).u16((wide.len() + 4 + fill) as u16).put(entry.name.as_bytes());
            out.put(&wide).u16(PADDING_ID).u16(fill as u16).put(&vec![b'Z'; fill]);
            if let Content::Bytes(bytes) = &entry.content {
                out.put(bytes);
            }
            frame.push((entry.start, out.0));
        }
        frame.push((self.directory, self.directory_bytes(checksums)));
        frame
    }
}

/// A number of the archive's older fields; all ones where it stands in an extra field.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The extra field of a local header for an entry of 4 GiB and more.
fn zip64_sizes(bytes: u64) -> Vec<u8> {
    let mut out = Bytes(Vec::new());
    if small(bytes) == u32::MAX {
        out.u16(ZIP64_ID).u16(16).u64(bytes).u64(bytes);
    }
    out.0
}

/// The version of the zip format that an entry needs, in tenths: 4.5 brought the wide fields.
fn made_by(entry: &Entry) -> u16 {
    let wide = small(entry.data.end - entry.data.start).max(small(entry.start)) == u32::MAX;
    if wide { 45 } else { 20 }
}

/// Little-endian bytes in the making.
struct Bytes(Vec<u8>);

impl Bytes {
    fn put(&mut self, bytes: &[u8]) -> &mut Bytes {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, number: u16) -> &mut Bytes {
        self.put(&number.to_le_bytes())
    }

    fn u32(&mut self, number: u32) -> &mut Bytes {
        self.put(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> &mut Bytes {
        self.put(&number.to_le_bytes())
    }
}

/// The pickle, protocol 2: a dict from names to calls that put a tensor over its storage.
fn state_dict(tensors: &[NewTensor]) -> Result<Vec<u8>> {
    let mut out = Bytes(Vec::new());
    out.put(b"\x80\x02}(");
    for (number, tensor) in tensors.iter().enumerate() {
        let storage = match tensor.dtype {
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            other => crate::bail!(
                Unsupported,
                "tensor {}: torch's files hold f32, f16 and bf16, not {other}",
                tensor.name
            ),
        };
        let mut strides = vec![1u64; tensor.shape.len()];
        for dim in (1..tensor.shape.len()).rev() {
            strides[dim - 1] = strides[dim] * tensor.shape[dim] as u64;
        }
        text(&mut out, &tensor.name);
        // The function, then its arguments: the storage, the offset, shape, strides, no gradient, no hooks.
        out.put(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.put(b"ctorch\n").put(storage.as_bytes()).put(b"\n");
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.elements());
        out.put(b"tQ");
        integer(&mut out, 0);
        let shape = tensor.shape.iter().map(|&size| size as u64);
        tuple(&mut out, shape);
        tuple(&mut out, strides.into_iter());
        out.put(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.put(b"u.");
    Ok(out.0)
}

fn text(out: &mut Bytes, text: &str) {
    out.put(b"X").u32(text.len() as u32).put(text.as_bytes());
}

/// The shortest of the opcodes for it that every protocol since 2 has.
fn integer(out: &mut Bytes, number: u64) {
    let _ = match number {
        0..=0xff => out.put(&[b'K', number as u8]),
        0x100..=0xffff => out.put(b"M").u16(number as u16),
        0x1_0000..=0x7fff_ffff => out.put(b"J").u32(number as u32),
        // Nine bytes, so that the sign is none.
        _ => out.put(b"\x8a\x09").u64(number).put(b"\0"),
    };
}

fn tuple(out: &mut Bytes, numbers: impl Iterator<Item = u64>) {
    out.put(b"(");
    numbers.for_each(|number| integer(out, number));
    out.put(b"t");
}

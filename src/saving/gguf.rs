//! GGUF files, version 3, little endian: counts, metadata, descriptions of the tensors, and the aligned data.

use super::layout::{Layout, NewTensor};
use crate::base::dtype::DType;
use crate::base::error::Result;
use std::ops::Range;

/// What readers take where `general.alignment` is not there.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers.
    Integers(Vec<i32>),
}

impl GgufValue {
    /// Its number in the format, and its bytes.
    fn encode(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, number: u32| out.extend(number.to_le_bytes());
        let array = |out: &mut Vec<u8>, of: u32, len: usize| {
            kind(out, 9);
            kind(out, of);
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            GgufValue::U32(number) => {
                kind(out, 4);
                out.extend(number.to_le_bytes());
            }
            GgufValue::F32(number) => {
                kind(out, 6);
                out.extend(number.to_le_bytes());
            }
            GgufValue::Bool(truth) => {
                kind(out, 7);
                out.push(u8::from(*truth));
            }
            GgufValue::Text(text) => {
                kind(out, 8);
                put_text(out, text);
            }
            GgufValue::Texts(texts) => {
                array(out, 8, texts.len());
                texts.iter().for_each(|text| put_text(out, text));
            }
            GgufValue::Integers(numbers) => {
                array(out, 5, numbers.len());
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The layout of a GGUF file.
#[derive(Debug)]
pub struct GgufLayout {
    header: Vec<u8>,
    ranges: Vec<Range<u64>>,
    len: u64,
}

impl GgufLayout {
    /// Of a file with this metadata and these tensors.
    pub fn new(metadata: &[(String, GgufValue)], tensors: &[NewTensor]) -> Result<GgufLayout> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            value.encode(&mut header);
        }
        let (mut ranges, mut end) = (Vec::with_capacity(tensors.len()), 0u64);
        for tensor in tensors {
            let start = end.next_multiple_of(ALIGNMENT);
            put_text(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            // The innermost dimension stands first.
            header.extend(tensor.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
            header.extend(number_of(tensor)?.to_le_bytes());
            header.extend(start.to_le_bytes());
            end = start + tensor.bytes()?;
            ranges.push(start..end);
        }
        let data = (header.len() as u64).next_multiple_of(ALIGNMENT);
        header.resize(data as usize, 0);
        ranges.iter_mut().for_each(|range| *range = range.start + data..range.end + data);
        Ok(GgufLayout { header, ranges, len: (end + data).next_multiple_of(ALIGNMENT) })
    }
}

/// The number of a type in the format.
fn number_of(tensor: &NewTensor) -> Result<u32> {
    match tensor.dtype {
        DType::F32 => Ok(0),
        DType::F16 => Ok(1),
        DType::Q8_0 => Ok(8),
        DType::BF16 => Ok(30),
        other => Err(crate::error!(
            Unsupported,
            "tensor {}: f32, f16, bf16 and q8_0 can be written, not {other}",
            tensor.name
        )),
    }
}

impl Layout for GgufLayout {
    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn file_len(&self) -> u64 {
        self.len
    }

    fn frame(&self, _checksums: &[u32]) -> Vec<(u64, Vec<u8>)> {
        vec![(0, self.header.clone())]
    }
}

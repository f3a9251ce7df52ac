//! Files of safetensors: the length of a JSON header, the header, and the tensors without a gap.

use super::layout::{Layout, NewTensor};
use crate::base::dtype::DType;
use crate::base::error::Result;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The data begin at a multiple of it: a cache line. The format asks for 8; mapped rows are read faster so.
const ALIGNMENT: u64 = 64;
/// Bytes of the header's length.
const PREFIX: u64 = 8;

#[derive(Debug)]
pub(super) struct Safetensors {
    header: Vec<u8>,
    ranges: Vec<Range<u64>>,
}

impl Safetensors {
    /// The layout of a file of `tensors`. `Unsupported` for types that the format has not.
    pub fn new(tensors: &[NewTensor]) -> Result<Safetensors> {
        // transformers refuses files that do not say which library's tensors these are.
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let mut ranges = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for tensor in tensors {
            let start = end;
            end += tensor.bytes()?;
            let dtype = dtype_name(tensor)?;
            let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
            header.insert(tensor.name.clone(), entry);
            ranges.push(start..end);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        let data = (PREFIX + header.len() as u64).next_multiple_of(ALIGNMENT);
        header.resize((data - PREFIX) as usize, b' ');
        ranges.iter_mut().for_each(|range| *range = range.start + data..range.end + data);
        Ok(Safetensors { header, ranges })
    }
}

fn dtype_name(tensor: &NewTensor) -> Result<&'static str> {
    match tensor.dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        other => Err(crate::error!(
            Unsupported,
            "tensor {}: safetensors files hold f32, f16 and bf16, not {other}",
            tensor.name
        )),
    }
}

impl Layout for Safetensors {
    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn file_len(&self) -> u64 {
        let header = PREFIX + self.header.len() as u64;
        self.ranges.last().map_or(header, |range| range.end)
    }

    fn frame(&self, _checksums: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let length = (self.header.len() as u64).to_le_bytes();
        vec![(0, [&length, self.header.as_slice()].concat())]
    }
}

//! Writers of the file formats, plain enough to be told to write nonsense.

use super::{TinyTensor, TinyType};

/// A safetensors file with these tensors.
pub fn safetensors_bytes(tensors: &[TinyTensor], dtype: TinyType) -> Vec<u8> {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(dtype.bytes(&tensor.values));
        header.push_str(&format!(
            ",\"{}\":{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{start},{}]}}",
            tensor.name,
            dtype.safetensors(),
            tensor.shape,
            data.len()
        ));
    }
    header.push('}');
    safetensors_with(&header, &data)
}

/// A safetensors file with this header, padded to 8 bytes as the reference writer does, and this data.
pub fn safetensors_with(header: &str, data: &[u8]) -> Vec<u8> {
    let padded = header.len().next_multiple_of(8);
    let mut out = (padded as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(8 + padded, b' ');
    out.extend(data);
    out
}

/// A metadata value of a GGUF file.
#[derive(Clone, Debug)]
pub enum GgufValue {
    U8(u8),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    U64(u64),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A type number and the bytes of the value as they are.
    Raw(u32, Vec<u8>),
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

fn array(kind: u32, count: usize, items: Vec<u8>) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    out.extend((count as u64).to_le_bytes());
    out.extend(items);
    out
}

impl GgufValue {
    /// The type number and the bytes.
    pub fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            GgufValue::U8(x) => (0, vec![*x]),
            GgufValue::U32(x) => (4, x.to_le_bytes().to_vec()),
            GgufValue::I32(x) => (5, x.to_le_bytes().to_vec()),
            GgufValue::F32(x) => (6, x.to_le_bytes().to_vec()),
            GgufValue::Bool(x) => (7, vec![u8::from(*x)]),
            GgufValue::Str(x) => (8, string(x)),
            GgufValue::U64(x) => (10, x.to_le_bytes().to_vec()),
            GgufValue::Strings(x) => (9, array(8, x.len(), x.iter().flat_map(|s| string(s)).collect())),
            GgufValue::I32s(x) => (9, array(5, x.len(), x.iter().flat_map(|n| n.to_le_bytes()).collect())),
            GgufValue::F32s(x) => (9, array(6, x.len(), x.iter().flat_map(|n| n.to_le_bytes()).collect())),
            GgufValue::Raw(kind, bytes) => (*kind, bytes.clone()),
        }
    }
}

/// A tensor of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    pub name: String,
    /// Outermost first; written the other way round.
    pub shape: Vec<usize>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Overrides the offset in the data section.
    pub offset: Option<u64>,
}

/// A GGUF file in the making. All fields may be spoilt.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    pub magic: [u8; 4],
    pub version: u32,
    pub values: Vec<(String, GgufValue)>,
    pub tensors: Vec<GgufTensor>,
    pub alignment: usize,
    /// Overrides the counts of the header.
    pub tensor_count: Option<u64>,
    pub value_count: Option<u64>,
}

impl GgufWriter {
    /// An empty file of version 3.
    pub fn new() -> Self {
        GgufWriter {
            magic: *b"GGUF",
            version: 3,
            values: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            tensor_count: None,
            value_count: None,
        }
    }

    /// Sets a key, replacing its value.
    pub fn set(&mut self, key: &str, value: GgufValue) {
        match self.values.iter_mut().find(|(k, _)| k == key) {
            Some(slot) => slot.1 = value,
            None => self.values.push((key.into(), value)),
        }
    }

    /// Removes a key.
    pub fn unset(&mut self, key: &str) {
        self.values.retain(|(k, _)| k != key);
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, data: Vec<u8>) {
        self.tensors.push(GgufTensor { name: name.into(), shape: shape.to_vec(), kind, data, offset: None });
    }

    /// Everything before the data section, without the padding.
    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.value_count.unwrap_or(self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            let (kind, bytes) = value.encode();
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut offset = 0usize;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                out.extend((*dim as u64).to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(self.alignment);
        }
        out
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        let start = out.len();
        for tensor in &self.tensors {
            out.resize(start + (out.len() - start).next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

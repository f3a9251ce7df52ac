//! Writers of torch's files, in both forms, plain enough to be told to write nonsense. That they write what
//! torch does is not taken on trust: the same readers read files of several versions of torch.

use super::{TinyModel, TinyTensor, TinyType};

/// The two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchForm {
    Zip,
    Legacy,
}

/// A pickle that is being written.
#[derive(Clone, Debug, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    /// Protocol 2, as torch.save writes.
    pub fn new() -> Self {
        Pickle(vec![0x80, 2])
    }

    /// Appends opcodes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(self, n: u64) -> Self {
        match (u16::try_from(n), i64::try_from(n)) {
            (Ok(n), _) => self.raw(b"M").raw(&n.to_le_bytes()),
            (_, Ok(n)) => self.raw(b"\x8a\x08").raw(&n.to_le_bytes()),
            _ => self.raw(b"\x8a\x09").raw(&n.to_le_bytes()).raw(&[0]),
        }
    }

    /// A tuple of numbers.
    pub fn ints(self, numbers: &[u64]) -> Self {
        numbers.iter().fold(self.raw(b"("), |pickle, &n| pickle.int(n)).raw(b"t")
    }

    /// A storage of that class.
    pub fn storage(self, class: &str, key: &str, elements: u64, form: TorchForm) -> Self {
        let id = self.raw(b"(").text("storage").global("torch", class).text(key).text("cuda:0").int(elements);
        if form == TorchForm::Legacy { id.raw(b"Nt") } else { id.raw(b"t") }.raw(b"Q")
    }

    /// An OrderedDict without entries, open for them.
    pub fn ordered_dict(self) -> Self {
        self.global("collections", "OrderedDict").raw(b")R")
    }

    /// A tensor over the storage that `storage` writes.
    pub fn tensor(
        self,
        storage: impl FnOnce(Self) -> Self,
        offset: u64,
        shape: &[u64],
        strides: &[u64],
    ) -> Self {
        storage(self.global("torch._utils", "_rebuild_tensor_v2").raw(b"("))
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89")
            .ordered_dict()
            .raw(b"tR")
    }

    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A storage: class, elements, bytes.
#[derive(Clone, Debug)]
pub struct TorchStorage {
    pub class: &'static str,
    pub elements: u64,
    pub data: Vec<u8>,
}

/// A file of torch before it is written.
#[derive(Clone, Debug)]
pub struct TorchWriter {
    pub form: TorchForm,
    /// The state dict.
    pub pickle: Vec<u8>,
    pub storages: Vec<TorchStorage>,
    /// The entry byteorder of a zip file.
    pub byte_order: Option<&'static str>,
}

/// One name of a state dict: which storage, and how the tensor lies in it.
#[derive(Clone, Debug)]
pub struct TorchTensor {
    pub name: String,
    pub storage: usize,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// The strides of a tensor that lies row by row.
pub fn row_strides(shape: &[u64]) -> Vec<u64> {
    (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect()
}

impl TorchWriter {
    /// A file with a state dict of these tensors.
    pub fn new(form: TorchForm, storages: Vec<TorchStorage>, tensors: &[TorchTensor]) -> Self {
        let mut pickle = Pickle::new().ordered_dict().raw(b"(");
        for tensor in tensors {
            let TorchStorage { class, elements, .. } = storages[tensor.storage];
            pickle = pickle.text(&tensor.name).tensor(
                |pickle| pickle.storage(class, &tensor.storage.to_string(), elements, form),
                tensor.offset,
                &tensor.shape,
                &tensor.strides,
            );
        }
        TorchWriter { form, pickle: pickle.raw(b"u").stop(), storages, byte_order: Some("little") }
    }

    /// A file with these tensors, each in a storage of its own.
    pub fn of(form: TorchForm, tensors: &[TinyTensor], dtype: TinyType) -> Self {
        let class = match dtype {
            TinyType::F32 => "FloatStorage",
            TinyType::F16 => "HalfStorage",
            TinyType::Bf16 => "BFloat16Storage",
        };
        let storages = tensors.iter().map(|t| TorchStorage {
            class,
            elements: t.values.len() as u64,
            data: dtype.bytes(&t.values),
        });
        let views: Vec<TorchTensor> = tensors
            .iter()
            .enumerate()
            .map(|(storage, t)| {
                let shape: Vec<u64> = t.shape.iter().map(|&d| d as u64).collect();
                TorchTensor { name: t.name.clone(), storage, offset: 0, strides: row_strides(&shape), shape }
            })
            .collect();
        TorchWriter::new(form, storages.collect(), &views)
    }

    /// The entries of a zip file.
    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let mut entries = vec![("archive/data.pkl".to_string(), self.pickle.clone())];
        entries.extend(self.byte_order.map(|order| ("archive/byteorder".into(), order.into())));
        for (number, storage) in self.storages.iter().enumerate() {
            entries.push((format!("archive/data/{number}"), storage.data.clone()));
        }
        entries.push(("archive/version".into(), "3\n".into()));
        entries
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        if self.form == TorchForm::Zip {
            return zip(&self.entries());
        }
        let mut out = legacy_head(true);
        out.extend(&self.pickle);
        let keys = Pickle::new().raw(b"](");
        let keys = (0..self.storages.len()).fold(keys, |pickle, key| pickle.text(&key.to_string()));
        out.extend(keys.raw(b"e").stop());
        for storage in &self.storages {
            out.extend(storage.elements.to_le_bytes());
            out.extend(&storage.data);
        }
        out
    }
}

/// The three pickles that begin the older form.
pub fn legacy_head(little_endian: bool) -> Vec<u8> {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let mut out = Pickle::new().raw(magic).stop();
    out.extend(Pickle::new().int(1001).stop());
    let facts = Pickle::new().raw(b"}(").text("protocol_version").int(1001).text("little_endian");
    let facts = facts.raw(if little_endian { b"\x88" } else { b"\x89" });
    out.extend(facts.text("type_sizes").raw(b"}").text("int").int(4).raw(b"su").stop());
    out
}

/// CRC-32, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// An archive of stored entries as torch writes it: data at multiples of 64 bytes, and 64-bit records at the end.
pub fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let padding =
            (out.len() + 30 + name.len() + 4).next_multiple_of(64) - (out.len() + 30 + name.len() + 4);
        let common = |extra: usize| {
            let mut part = vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0];
            for number in [crc32(data), data.len() as u32, data.len() as u32] {
                part.extend(number.to_le_bytes());
            }
            for number in [name.len() as u16, extra as u16] {
                part.extend(number.to_le_bytes());
            }
            part
        };
        out.extend(b"PK\x03\x04");
        out.extend(common(4 + padding));
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(data);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(common(0));
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len() as u64, entries.len() as u64);
    out.extend(&directory);
    let records = out.len() as u64;
    out.extend(b"PK\x06\x06");
    out.extend(44u64.to_le_bytes());
    out.extend([0; 12]);
    for number in [count, count, directory.len() as u64, start] {
        out.extend(number.to_le_bytes());
    }
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend(records.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((count as u16).to_le_bytes());
    out.extend((count as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend((start as u32).to_le_bytes());
    out.extend([0, 0]);
    out
}

impl TinyModel {
    /// Writes a Hugging Face directory with torch's files; several with an index.
    pub fn write_torch_dir(&self, dir: &std::path::Path, form: TorchForm) {
        self.write_around(dir);
        self.write_torch_weights(dir, form, &self.tensors());
    }

    /// Writes the files with these tensors.
    pub fn write_torch_weights(&self, dir: &std::path::Path, form: TorchForm, tensors: &[TinyTensor]) {
        let shards = self.shards.max(1);
        let write =
            |name: &str, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).expect("write the weights");
        if shards == 1 {
            return write("pytorch_model.bin", TorchWriter::of(form, tensors, self.dtype).bytes());
        }
        let mut map = serde_json::Map::new();
        for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
            let name = format!("pytorch_model-{:05}-of-{shards:05}.bin", i + 1);
            map.extend(part.iter().map(|tensor| (tensor.name.clone(), name.as_str().into())));
            write(&name, TorchWriter::of(form, part, self.dtype).bytes());
        }
        let index = serde_json::json!({"metadata": {}, "weight_map": map});
        write("pytorch_model.bin.index.json", index.to_string().into());
    }
}

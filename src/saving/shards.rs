//! The weight files of a Hugging Face directory: one, or several with an index.

use super::layout::{Layout, NewTensor};
use super::safetensors::Safetensors;
use super::tensor_file::TensorFile;
use super::torch_bin::TorchLayout;
use crate::base::error::{Error, Result};
use crate::base::new_file::NewFile;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// In what kind of files weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// `model.safetensors`.
    #[default]
    Safetensors,
    /// `pytorch_model.bin`, which `torch.load(weights_only=True)` reads.
    TorchBin,
}

impl WeightFormat {
    /// Beginning and end of a file's name.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            WeightFormat::Safetensors => ("model", ".safetensors"),
            WeightFormat::TorchBin => ("pytorch_model", ".bin"),
        }
    }

    fn layout(self, stem: &str, tensors: &[NewTensor]) -> Result<Box<dyn Layout>> {
        Ok(match self {
            WeightFormat::Safetensors => Box::new(Safetensors::new(tensors)?),
            WeightFormat::TorchBin => Box::new(TorchLayout::new(stem, tensors)?),
        })
    }
}

/// The weight files of one directory in the making, with the disk space of all of them.
#[derive(Debug)]
pub struct Shards {
    files: Vec<TensorFile>,
    /// For each tensor its file, and its number there.
    places: Vec<(usize, usize)>,
    index: Option<(PathBuf, Value)>,
}

impl Shards {
    /// Begins the files of `tensors` in `dir`. A file holds tensors in their order up to `shard_bytes`, and one at least;
    /// where one file is enough there is no index.
    pub fn create(
        dir: &Path,
        format: WeightFormat,
        tensors: &[NewTensor],
        shard_bytes: u64,
    ) -> Result<Shards> {
        let (mut groups, mut sizes): (Vec<Vec<NewTensor>>, Vec<u64>) = (vec![Vec::new()], vec![0]);
        let mut places = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = tensor.bytes()?;
            if sizes.last().is_some_and(|&size| size > 0 && size + bytes > shard_bytes) {
                groups.push(Vec::new());
                sizes.push(0);
            }
            let file = groups.len() - 1;
            if let (Some(group), Some(size)) = (groups.last_mut(), sizes.last_mut()) {
                places.push((file, group.len()));
                group.push(tensor.clone());
                *size += bytes;
            }
        }
        let (start, end) = format.name();
        let count = groups.len();
        let stem = |number: usize| match count {
            1 => start.to_owned(),
            _ => format!("{start}-{:05}-of-{count:05}", number + 1),
        };
        let index = (count > 1).then(|| {
            let file = |&(file, _): &(usize, usize)| Value::from(stem(file) + end);
            let map: Map<_, _> = tensors
                .iter()
                .zip(&places)
                .map(|(tensor, place)| (tensor.name.clone(), file(place)))
                .collect();
            let total: u64 = sizes.iter().sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            (dir.join(format!("{start}{end}.index.json")), index)
        });
        let mut files = Vec::with_capacity(count);
        for (number, group) in groups.into_iter().enumerate() {
            let stem = stem(number);
            let layout = format.layout(&stem, &group)?;
            files.push(TensorFile::create(&dir.join(stem + end), group, layout)?);
        }
        Ok(Shards { files, places, index })
    }

    /// Writes the next bytes of a tensor.
    pub fn append(&mut self, tensor: usize, bytes: &[u8]) -> Result<()> {
        let place =
            self.places.get(tensor).and_then(|&(file, within)| Some((self.files.get_mut(file)?, within)));
        let Some((file, within)) = place else { crate::bail!(Internal, "no tensor {tensor} to write") };
        file.append(within, bytes)
    }

    /// Completes all files, and last the index.
    pub fn finish(self) -> Result<()> {
        self.files.into_iter().try_for_each(TensorFile::finish)?;
        let Some((path, index)) = self.index else { return Ok(()) };
        write_json(&path, &index)
    }
}

/// Writes a small JSON file, indented as Hugging Face's tools do.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|cause| crate::error!(Internal, "{}: {cause}", path.display()))?;
    text.push(b'\n');
    write_small(path, &text)
}

/// Writes a small file as a whole.
pub fn write_small(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = NewFile::create(path, "a file")?;
    file.put(0, bytes)?;
    file.synchronise()?;
    file.publish()
}

/// Copies a small file as a whole; at most `most` bytes.
pub fn copy_small(from: &Path, to: &Path, most: u64) -> Result<()> {
    let facts = std::fs::metadata(from).map_err(|cause| Error::io("look at it", from, &cause))?;
    crate::ensure!(
        facts.len() <= most,
        Format,
        "{}: {} bytes, expected at most {most}",
        from.display(),
        facts.len()
    );
    let bytes = std::fs::read(from).map_err(|cause| Error::io("read", from, &cause))?;
    write_small(to, &bytes)
}

//! A whole checkpoint as a Hugging Face directory: joined from parts, or of another type or kind of file.

use super::rows::{self, Cut};
use super::{SHARD_BYTES, WeightFormat, directory, home, in_order, new_tensor, stored_type};
use crate::backend::Progress;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, Status};
use crate::base::new_dir::NewDir;
use crate::model::checkpoint::{Checkpoint, part_dir};
use crate::model::names::Naming;
use crate::model::weights::Role;
use crate::saving::{self, NewTensor, Shards};
use serde_json::Value;
use std::path::Path;

/// What is written.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// In what kind of files.
    pub format: WeightFormat,
    /// f32, f16 or bf16; `None`: as stored, quantised ones as f16.
    pub dtype: Option<DType>,
    /// Most bytes of one file of weights.
    pub shard_bytes: u64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        ConvertOptions { format: WeightFormat::default(), dtype: None, shard_bytes: SHARD_BYTES }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertReport {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// What the target cannot say, or says otherwise.
    pub warnings: Vec<String>,
}

/// Puts a model that was cut for several cards together again, in the new directory `output`. Copies that the parts hold are
/// compared. `progress` is told of the bytes read ("join") and may abandon (`Cancelled`).
pub fn join(
    model: &Path,
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    let checkpoint = Checkpoint::open_parts(model)?;
    checkpoint.compare_copies()?;
    write(&checkpoint, "join", &[model, &part_dir(model, 0)], output, options, progress)
}

/// Writes a model as a Hugging Face directory, in the new directory `output`.
pub fn convert(
    model: &Path,
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    let checkpoint = Checkpoint::open(model, false)?;
    checkpoint.compare_copies()?;
    write(&checkpoint, "convert", &[home(model)], output, options, progress)
}

/// Writes config, weights and what the directories `beside` hold.
fn write(
    checkpoint: &Checkpoint,
    stage: &str,
    beside: &[&Path],
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    let weights = in_order(checkpoint)?;
    let dir = NewDir::create(output)?;
    let embedding = checkpoint.weights.need(0, Role::Embedding)?;
    let config = directory::config(checkpoint, stored_type(embedding, options.dtype))?;
    saving::write_json(&dir.path().join("config.json"), &Value::Object(config))?;
    if checkpoint.config.is_some() {
        beside.iter().try_for_each(|from| directory::copy_others(from, dir.path()))?;
    }
    let tensors: Vec<_> = weights
        .iter()
        .map(|&(layer, role, weight)| {
            let cut = Cut::all(weight, stored_type(weight, options.dtype));
            new_tensor(Naming::HuggingFace, layer, role, &cut)
        })
        .collect();
    let mut shards = Shards::create(dir.path(), options.format, &tensors, options.shard_bytes)?;
    let total = weights.iter().map(|(_, _, weight)| weight.stored_bytes()).sum();
    let mut done = 0;
    for (number, (_, _, weight)) in weights.iter().enumerate() {
        weight.prefetch();
        let cut = Cut::all(weight, stored_type(weight, options.dtype));
        rows::stream(weight, &cut, |bytes| shards.append(number, bytes))?;
        done += weight.stored_bytes();
        if progress(stage, done, total).is_break() {
            return Err(Error::new(Status::Cancelled, format!("{stage}: abandoned")));
        }
    }
    shards.finish()?;
    dir.publish()?;
    let bytes = tensors.iter().map(NewTensor::bytes).sum::<Result<u64>>()?;
    Ok(ConvertReport { tensors: tensors.len(), bytes, warnings: Vec::new() })
}

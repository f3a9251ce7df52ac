//! A whole checkpoint in another form: joined from parts, in other files, of another type.

use super::rows::Cut;
use super::{
    SHARD_BYTES, WeightFormat, directory, flagai, gguf, home, in_order, new_tensor, stored_type, stream_all,
    tokenizer,
};
use crate::backend::Progress;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::new_dir::NewDir;
use crate::model::checkpoint::{Checkpoint, part_dir};
use crate::model::names::Naming;
use crate::model::weights::Role;
use crate::saving::{self, NewTensor, Shards};
use serde_json::Value;
use std::path::Path;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory as Hugging Face's, with weights in files of this kind.
    Directory(WeightFormat),
    /// A directory as FlagAI's, BAAI's training code: its names, its order of rows, its config.json, in `.bin` files.
    FlagAi,
    /// One GGUF file.
    Gguf,
}

/// How it is made.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// What.
    pub target: Target,
    /// f32, f16, bf16, in GGUF also Q8_0; `None`: as stored, quantised ones that the target has not as f16.
    pub dtype: Option<DType>,
    /// Most bytes of one file of weights.
    pub shard_bytes: u64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        let target = Target::Directory(WeightFormat::default());
        ConvertOptions { target, dtype: None, shard_bytes: SHARD_BYTES }
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

/// Puts a model that was cut for several cards together again, as `output`, which must not be there. Copies that the parts
/// hold are compared. `progress` is told of the bytes read ("join") and may abandon (`Cancelled`).
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

/// Writes a model with its tokenizer as `output`, which must not be there. `Unsupported` where the target has no form for
/// something of it; what is merely lost is in the report's warnings.
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

fn write(
    checkpoint: &Checkpoint,
    stage: &str,
    beside: &[&Path],
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    match options.target {
        Target::Gguf => {
            let text = tokenizer::for_gguf(checkpoint)?;
            gguf::write(checkpoint, text.as_ref(), output, options, progress)
        }
        Target::Directory(_) | Target::FlagAi => {
            crate::ensure!(
                options.dtype.is_none_or(DType::is_plain),
                Argument,
                "dtype: only GGUF files hold {}: expected f32, f16 or bf16",
                options.dtype.map_or("", DType::name)
            );
            write_directory(checkpoint, stage, beside, output, options, progress)
        }
    }
}

/// Writes config, weights, tokenizer, and what the directories `beside` hold.
fn write_directory(
    checkpoint: &Checkpoint,
    stage: &str,
    beside: &[&Path],
    output: &Path,
    options: &ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertReport> {
    let mut weights = in_order(checkpoint)?;
    let embedding = checkpoint.weights.need(0, Role::Embedding)?;
    let (format, naming, config, mut warnings) = match options.target {
        Target::Directory(format) => {
            let config = directory::config(checkpoint, stored_type(embedding, options.dtype))?;
            (format, Naming::HuggingFace, config, directory::warnings(checkpoint))
        }
        _ => {
            if checkpoint.spec.tied {
                weights.push((0, Role::Head, embedding));
            }
            let (config, warnings) = flagai::config(checkpoint)?;
            (WeightFormat::TorchBin, Naming::FlagAi, config, warnings)
        }
    };
    let dir = NewDir::create(output)?;
    saving::write_json(&dir.path().join("config.json"), &Value::Object(config))?;
    if checkpoint.config.is_some() {
        beside.iter().try_for_each(|from| directory::copy_others(from, dir.path()))?;
    } else {
        warnings.extend(tokenizer::write_files(checkpoint, dir.path())?);
    }
    let cuts: Vec<Cut> = weights
        .iter()
        .map(|(_, role, weight)| {
            let order = naming.row_map(*role, &checkpoint.spec);
            Cut { order, ..Cut::all(weight, stored_type(weight, options.dtype)) }
        })
        .collect();
    let tensors: Vec<NewTensor> = weights
        .iter()
        .zip(&cuts)
        .map(|(&(layer, role, _), cut)| new_tensor(naming, layer, role, cut))
        .collect();
    let mut shards = Shards::create(dir.path(), format, &tensors, options.shard_bytes)?;
    stream_all(&weights, &cuts, stage, progress, |number, bytes| shards.append(number, bytes))?;
    shards.finish()?;
    dir.publish()?;
    let bytes = tensors.iter().map(NewTensor::bytes).sum::<Result<u64>>()?;
    Ok(ConvertReport { tensors: tensors.len(), bytes, warnings })
}

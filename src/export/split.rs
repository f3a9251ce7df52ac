//! The tensor-parallel cut into files: `part_model/{rank}`, a directory for each card.

use super::rows::{self, Cut};
use super::{SHARD_BYTES, WeightFormat, directory, home, in_order, new_tensor, stored_type, tokenizer};
use crate::backend::Progress;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result, Status};
use crate::base::new_dir::NewDir;
use crate::model::checkpoint::{Checkpoint, PARTS};
use crate::model::cut::RankPart;
use crate::model::names::Naming;
use crate::model::weights::{Role, RowMap, Weight};
use crate::saving::{self, NewTensor, Shards};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// How a model is cut.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Cards.
    pub world_size: u32,
    /// The directory in which `part_model` is made; `None`: the model's own.
    pub output: Option<PathBuf>,
    /// In what kind of files.
    pub format: WeightFormat,
    /// f32, f16 or bf16; `None`: as stored, quantised ones as f16.
    pub dtype: Option<DType>,
    /// Most bytes of one file of weights.
    pub shard_bytes: u64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        let format = WeightFormat::default();
        SplitOptions { world_size: 1, output: None, format, dtype: None, shard_bytes: SHARD_BYTES }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    /// The directory of the parts.
    pub parts: PathBuf,
    /// Cards.
    pub world_size: usize,
    /// Bytes of the weights of each part.
    pub part_bytes: u64,
    /// Rows of all parts of the head together, where zeros were filled up.
    pub padded_vocab: Option<usize>,
    /// How many ranks hold each key head.
    pub kv_copies: usize,
}

/// Cuts a model for several cards. `progress` is told of the bytes read ("split") and may abandon (`Cancelled`).
///
/// The parts appear together once all of them are on the disk; on an error nothing is left. `Argument` where the world
/// size does not fit the model, or where `part_model` is there already.
pub fn split(model: &Path, options: &SplitOptions, progress: Progress<'_>) -> Result<SplitReport> {
    let checkpoint = Checkpoint::open(model, false)?;
    let spec = &checkpoint.spec;
    let ranks = options.world_size as usize;
    crate::ensure!(
        checkpoint.world_size.is_none(),
        Argument,
        "{}: it is cut already, for {} cards: join it first (aquila join)",
        model.display(),
        checkpoint.world_size.unwrap_or_default()
    );
    let parts =
        (0..ranks.max(1)).map(|rank| RankPart::even(spec, rank, ranks)).collect::<Result<Vec<_>>>()?;
    let weights = in_order(&checkpoint)?;
    let home = home(model);
    let output = options.output.as_deref().unwrap_or(home);
    // The guide's script is given the directory of the parts itself.
    let target = if output.ends_with(PARTS) { output.to_owned() } else { output.join(PARTS) };
    let dir = NewDir::create(&target)?;
    let mut writers = Vec::with_capacity(ranks);
    let mut part_bytes = 0;
    for part in &parts {
        let inside = dir.path().join(part.rank.to_string());
        std::fs::create_dir(&inside).map_err(|cause| Error::io("make the directory", &inside, &cause))?;
        let tensors: Vec<_> = weights
            .iter()
            .map(|&(layer, role, weight)| {
                new_tensor(Naming::HuggingFace, layer, role, &cut(part, role, weight, options))
            })
            .collect();
        part_bytes = tensors.iter().map(NewTensor::bytes).sum::<Result<u64>>()?;
        writers.push(Shards::create(&inside, options.format, &tensors, options.shard_bytes)?);
        write_config(&checkpoint, part, &inside, options)?;
        if checkpoint.config.is_some() {
            directory::copy_others(home, &inside)?;
        } else {
            tokenizer::write_files(&checkpoint, &inside)?;
        }
    }
    write_weights(&parts, &weights, options, &mut writers, progress)?;
    writers.into_iter().try_for_each(Shards::finish)?;
    dir.publish()?;
    let filled = parts.first().map_or(0, |part| part.vocab_rows * ranks);
    Ok(SplitReport {
        parts: target,
        world_size: ranks,
        part_bytes,
        padded_vocab: (!spec.tied && filled != spec.vocab).then_some(filled),
        kv_copies: (ranks / spec.kv_heads).max(1),
    })
}

/// Reads every weight once and writes each rank's part of it.
fn write_weights(
    parts: &[RankPart],
    weights: &[(usize, Role, &Weight)],
    options: &SplitOptions,
    writers: &mut [Shards],
    progress: Progress<'_>,
) -> Result<()> {
    let total = weights.iter().map(|(_, _, weight)| weight.stored_bytes()).sum();
    let mut done = 0;
    for (number, (_, role, weight)) in weights.iter().enumerate() {
        weight.prefetch();
        for (part, writer) in parts.iter().zip(writers.iter_mut()) {
            let cut = cut(part, *role, weight, options);
            rows::stream(weight, &cut, |bytes| writer.append(number, bytes))?;
            if progress("split", done, total).is_break() {
                return Err(Error::new(Status::Cancelled, "the cut was abandoned"));
            }
        }
        done += weight.stored_bytes();
    }
    let _ = progress("split", total, total);
    Ok(())
}

/// A rank's part of a weight.
fn cut(part: &RankPart, role: Role, weight: &Weight, options: &SplitOptions) -> Cut {
    let (rows, cols) = part.ranges(role);
    let rows = rows.start..rows.end.min(weight.rows);
    let zeros = if role == Role::Head { part.vocab_rows - rows.len() } else { 0 };
    Cut { rows, cols, zeros, order: RowMap::Identity, dtype: stored_type(weight, options.dtype) }
}

/// The config.json of a part: that of the model, for how many cards it was cut, and the class that the guide's code runs
/// parts with.
fn write_config(checkpoint: &Checkpoint, part: &RankPart, dir: &Path, options: &SplitOptions) -> Result<()> {
    let embedding = checkpoint.weights.need(0, Role::Embedding)?;
    let mut config = directory::config(checkpoint, stored_type(embedding, options.dtype))?;
    if config.get("model_type").and_then(Value::as_str) == Some("aquila") {
        let map = config.entry("auto_map").or_insert_with(|| Value::Object(Map::new()));
        if let Some(map) = map.as_object_mut() {
            map.insert("AutoModelForCausalLM".into(), directory::ASCEND_CLASS.into());
        }
    }
    config.insert("world_size".into(), part.ranks.into());
    config.insert("rank".into(), part.rank.into());
    let filled = part.vocab_rows * part.ranks;
    if !checkpoint.spec.tied && filled != checkpoint.spec.vocab {
        config.insert("padded_vocab_size".into(), json!(filled));
    }
    saving::write_json(&dir.join("config.json"), &Value::Object(config))
}

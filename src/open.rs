//! Path and options in, a running engine out. The only file that names the backends.

use crate::backend::{MemoryPlan, Progress};
use crate::base::error::Result;
use crate::engine::Engine;
use std::path::{Path, PathBuf};

/// How a model is loaded. The default loads as stored on the best device, within what the machine has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// "auto", "cpu", "npu:0", "npu:0,1"; empty: "auto".
    pub device: String,
    /// `None` as stored; "f32", "f16", "bf16".
    pub dtype: Option<String>,
    /// `None` like the weights; "f32", "f16", "bf16".
    pub kv_dtype: Option<String>,
    /// A tokenizer.json, or a directory that holds the tokenizer's files; `None` beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// Name of a built-in template or Jinja text; `None` from the model.
    pub chat_template: Option<String>,
    /// Host bytes to stay within; 0: what the machine has.
    pub host_memory: u64,
    /// Device bytes to stay within; 0: what the device has.
    pub device_memory: u64,
    /// Bytes for the KV cache; 0: what the budgets leave.
    pub kv_memory: u64,
    /// Longest sequence in tokens; 0: the model's.
    pub max_context: u32,
    /// Most sequences a step; 0: chosen.
    pub max_batch: u32,
    /// Most waiting requests; 0: a default.
    pub max_waiting: u32,
    /// Worker threads; 0: affinity and the control group's quota.
    pub threads: u32,
    /// Copy the weights instead of mapping the files.
    pub no_mmap: bool,
    /// Keep the weights resident.
    pub lock_memory: bool,
    /// Look at every weight for NaN and infinity.
    pub verify: bool,
}

/// What a checkpoint is and what loading it will take.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The decoder.
    pub spec: crate::model::spec::DecoderSpec,
    /// The device that `device` chose.
    pub device: String,
    /// Context in tokens and the name of the limit that won: "model", "max_context", "MAX_SEQ_LEN".
    pub context: (u32, &'static str),
    /// Bytes and blocks.
    pub memory: MemoryPlan,
    /// Facts about the checkpoint for a person: format, files, dtypes, tokenizer. Name and value.
    pub checkpoint: Vec<(&'static str, String)>,
    /// What looks wrong in it: ids that are no special tokens, unknown keys.
    pub warnings: Vec<String>,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Stored bytes of all weights.
    pub weight_bytes: u64,
}

/// Reads headers only and says what `load` would take.
pub fn plan(_model: &Path, _options: &LoadOptions) -> Result<Plan> {
    crate::bail!(Unsupported, "not built")
}

/// Loads a model and starts its engine. `progress` is told of stages and bytes and may abandon.
pub fn load(_model: &Path, _options: &LoadOptions, _progress: Progress<'_>) -> Result<Engine> {
    crate::bail!(Unsupported, "not built")
}

/// Opens the executor of a model without an engine, for measurements.
pub fn open_executor(
    _model: &Path,
    _options: &LoadOptions,
    _progress: Progress<'_>,
) -> Result<(std::sync::Arc<crate::model::spec::DecoderSpec>, MemoryPlan, Box<dyn crate::backend::Executor>)>
{
    crate::bail!(Unsupported, "not built")
}

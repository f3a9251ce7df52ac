//! What stands beside the weights in a Hugging Face directory: its config.json, and the files that are copied.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::limits::{CONFIG_BYTES_MAX, JSON_BYTES_MAX};
use crate::loading::file::SourceFile;
use crate::loading::json::{self, Entries};
use crate::model::checkpoint::Checkpoint;
use crate::model::spec::{DecoderSpec, RopeScaling};
use crate::saving;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Where a directory holds further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
/// The class of the Ascend guide that runs parts.
pub const ASCEND_CLASS: &str = "modeling_aquila_ascend.AquilaForCausalLM";

/// Entries of a source directory that are looked at.
const LISTING_MAX: usize = 10_000;

/// The config.json of the source, or for sources without one that of a LLaMA of the same shape, which transformers reads
/// without code from anywhere.
pub fn config(checkpoint: &Checkpoint, dtype: DType) -> Result<Map<String, Value>> {
    let mut config = match &checkpoint.config {
        Some(path) => {
            let source = SourceFile::open(path)?;
            let Entries(entries) = json::parse(&source.name(), &source.read_all(CONFIG_BYTES_MAX)?)?;
            entries.into_iter().collect()
        }
        None => llama(&checkpoint.spec, checkpoint),
    };
    whole_again(&mut config);
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), torch_name(dtype).into());
    Ok(config)
}

/// What the written config.json cannot say of the model.
pub fn warnings(checkpoint: &Checkpoint) -> Vec<String> {
    let lost = checkpoint.spec.score_clamp.filter(|_| checkpoint.config.is_none());
    let clamp =
        |clamp| format!("a LLaMA's config.json cannot say that attention scores are clamped to ±{clamp}");
    lost.map(clamp).into_iter().collect()
}

/// Takes out of the config.json of a part what belongs to the part.
fn whole_again(config: &mut Map<String, Value>) {
    for key in ["world_size", "rank", "padded_vocab_size"] {
        config.shift_remove(key);
    }
    let class = config.get_mut("auto_map").and_then(|map| map.get_mut("AutoModelForCausalLM"));
    if let Some(class) = class.filter(|class| *class == ASCEND_CLASS) {
        *class = Value::from("modeling_aquila.AquilaForCausalLM");
    }
}

/// What torch calls a type.
fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        _ => "float16",
    }
}

fn llama(spec: &DecoderSpec, checkpoint: &Checkpoint) -> Map<String, Value> {
    let bias = checkpoint.weights.get(0, crate::model::weights::Role::QueryBias).is_some();
    let scaling = match spec.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"type": "linear", "factor": factor}),
        RopeScaling::DynamicNtk { factor, .. } => json!({"type": "dynamic", "factor": factor}),
    };
    // Of a dynamic scaling the key holds the length of the training, not the stretched one.
    let context = match spec.rope.scaling {
        RopeScaling::DynamicNtk { trained, .. } => trained as usize,
        _ => spec.context,
    };
    let eos: Value = match checkpoint.ids.eos.as_slice() {
        [one] => json!(one),
        [] => Value::Null,
        many => json!(many),
    };
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": bias,
        "bos_token_id": checkpoint.ids.bos,
        "eos_token_id": eos,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "initializer_range": 0.02,
        "intermediate_size": spec.ffn,
        "max_position_embeddings": context,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": shortest(spec.norm_eps),
        "rope_scaling": scaling,
        "rope_theta": shortest(spec.rope.theta),
        "tie_word_embeddings": spec.tied,
        "torch_dtype": "float16",
        "use_cache": true,
        "vocab_size": spec.vocab,
    });
    match config {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An f32 as the shortest decimal number that is it: 1e-5 and not 9.999999747378752e-06.
pub fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Copies what a directory holds beside its weights: every `*.json`, `*.py`, `*.model`, `*.txt` and `*.jinja`, but for
/// config.json, the indices of weights, and what `to` has already; and its directory of further chat templates.
pub fn copy_others(from: &Path, to: &Path) -> Result<()> {
    let (more, more_to) = (from.join(TEMPLATES), to.join(TEMPLATES));
    if more.is_dir() {
        std::fs::create_dir_all(&more_to)
            .map_err(|cause| Error::io("make the directory", &more_to, &cause))?;
        copy_files(&more, &more_to)?;
    }
    copy_files(from, to)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    const ENDINGS: [&str; 5] = [".json", ".py", ".model", ".txt", ".jinja"];
    let entries = std::fs::read_dir(from).map_err(|cause| Error::io("list it", from, &cause))?;
    for entry in entries.take(LISTING_MAX) {
        let entry = entry.map_err(|cause| Error::io("list it", from, &cause))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = ENDINGS.iter().any(|ending| name.ends_with(ending))
            && name != "config.json"
            && !name.ends_with(".index.json")
            && !name.starts_with('.');
        // Links are followed, as the guide's directories are full of them.
        if wanted && entry.path().is_file() && !to.join(&name).exists() {
            saving::copy_small(&entry.path(), &to.join(&name), JSON_BYTES_MAX)?;
        }
    }
    Ok(())
}

//! The hyperparameters in GGUF metadata, to the same [`ModelConfig`] as config.json.

use crate::base::error::Result;
use crate::base::limits::{CONTEXT_MAX, HEAD_DIM_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX};
use crate::loading::gguf::Gguf;
use crate::loading::json::clip;
use crate::model::config::{ModelConfig, TokenIds, check_heads, derived_head_dim};
use crate::model::fields::Assumed;
use crate::model::names::Naming;
use crate::model::spec::{DecoderSpec, RopeScaling, RopeSpec};

/// Reads the metadata of a file of the llama architecture. `rows` is the number of the embedding's rows,
/// if it is there at all.
pub fn read(gguf: &Gguf, rows: Option<usize>) -> Result<ModelConfig> {
    let place = gguf.file();
    let arch = gguf.string("general.architecture")?;
    crate::ensure!(
        arch == Some("llama"),
        Unsupported,
        "{place}: general.architecture: expected \"llama\", found {}",
        arch.map_or("none".into(), |arch| format!("{:?}", clip(arch)))
    );
    refuse_other_kinds(gguf)?;
    let hidden = needed(gguf, "llama.embedding_length", WIDTH_MAX)?;
    let heads = needed(gguf, "llama.attention.head_count", WIDTH_MAX)?;
    let head_dim = match optional(gguf, "llama.attention.key_length", HEAD_DIM_MAX)? {
        Some(width) => width,
        None => {
            derived_head_dim(place, "llama.embedding_length", hidden, "llama.attention.head_count", heads)?
        }
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        let width = optional(gguf, key, HEAD_DIM_MAX)?.unwrap_or(head_dim);
        crate::ensure!(
            width == head_dim,
            Unsupported,
            "{place}: {key}: expected the width of a head, {head_dim}, found {width}"
        );
    }
    let vocab = vocab(gguf, rows)?;
    let mut assumed = Assumed::default();
    let kv_key = "llama.attention.head_count_kv";
    let theta_key = "llama.rope.freq_base";
    let spec = DecoderSpec {
        layers: needed(gguf, "llama.block_count", LAYERS_MAX)?,
        hidden,
        heads,
        kv_heads: assumed.or(place, kv_key, optional(gguf, kv_key, WIDTH_MAX)?, heads),
        head_dim,
        ffn: needed(gguf, "llama.feed_forward_length", WIDTH_MAX)?,
        vocab,
        norm_eps: positive(gguf, "llama.attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
            crate::error!(Format, "{place}: llama.attention.layer_norm_rms_epsilon is missing")
        })?,
        rope: RopeSpec {
            theta: assumed.or(place, theta_key, positive(gguf, theta_key)?, 10_000.0),
            scaling: scaling(gguf)?,
        },
        context: needed(gguf, "llama.context_length", CONTEXT_MAX)?,
        score_clamp: None, // the format has no key for it
        tied: false,
    };
    check_heads(place, &spec, ["llama.attention.head_count", kv_key, "llama.attention.key_length"])?;
    let mut ids = TokenIds::default();
    let id = |key: &str| gguf.uint(key).map(|id| id.and_then(|n| u32::try_from(n).ok()));
    let eos = [id("tokenizer.ggml.eos_token_id")?, id("tokenizer.ggml.eot_token_id")?];
    ids.add(
        &id("tokenizer.ggml.bos_token_id")?.into_iter().collect::<Vec<_>>(),
        &eos.into_iter().flatten().collect::<Vec<_>>(),
    );
    let names =
        ["general.name", "general.basename"].into_iter().filter_map(|key| gguf.string(key).transpose());
    Ok(ModelConfig {
        spec,
        layout: Naming::Gguf,
        architecture: "llama (GGUF)".into(),
        tie: None,
        attention_bias: None,
        world_size: None,
        padded_vocab: None,
        mlp_bias: None,
        ids,
        names: names.map(|name| Ok(name?.to_string())).collect::<Result<_>>()?,
        guide_class: None,
        assumed: assumed.0,
        warnings: unknown_keys(gguf),
    })
}

/// Rows of the embedding, compared with what the metadata says.
fn vocab(gguf: &Gguf, rows: Option<usize>) -> Result<usize> {
    let place = gguf.file();
    let Some(rows) = rows else {
        crate::bail!(Format, "{place}: tensor token_embd.weight is missing (a file with a vocabulary only?)")
    };
    crate::ensure!(
        (1..=VOCAB_MAX as usize).contains(&rows),
        Format,
        "{place}: tensor token_embd.weight: expected 1 to {VOCAB_MAX} rows, found {rows}"
    );
    let stated = optional(gguf, "llama.vocab_size", VOCAB_MAX)?.unwrap_or(rows);
    crate::ensure!(
        stated == rows,
        Format,
        "{place}: llama.vocab_size: expected the embedding's {rows} rows, found {stated}"
    );
    Ok(rows)
}

/// Keys whose presence makes it another decoder, or a part of a file.
fn refuse_other_kinds(gguf: &Gguf) -> Result<()> {
    let place = gguf.file();
    for (key, most) in [("llama.expert_count", 0), ("split.count", 1)] {
        let found = gguf.uint(key)?.unwrap_or(0);
        crate::ensure!(found <= most, Unsupported, "{place}: {key}: expected at most {most}, found {found}");
    }
    for key in ["llama.attention.sliding_window", "llama.attn_logit_softcapping", "llama.logit_scale"] {
        crate::ensure!(gguf.get(key).is_none(), Unsupported, "{place}: {key}: not supported");
    }
    Ok(())
}

/// `rope.scaling.type` with its factor. Files of before that key have `rope.scale_linear` instead of the factor, and a
/// factor without a type is linear too, as for llama.cpp.
fn scaling(gguf: &Gguf) -> Result<RopeScaling> {
    let place = gguf.file();
    let (key, old_key) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
    let kind = gguf.string("llama.rope.scaling.type")?;
    let factor = match positive(gguf, key)? {
        Some(factor) => Some(factor),
        None => positive(gguf, old_key)?,
    };
    match (kind, factor) {
        (None, None) | (Some("none"), _) | (None | Some("linear"), Some(1.0)) => Ok(RopeScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("linear"), None) => crate::bail!(Format, "{place}: {key} is missing"),
        (Some(other), _) => crate::bail!(
            Unsupported,
            "{place}: llama.rope.scaling.type: expected \"none\" or \"linear\", found {:?}",
            clip(other)
        ),
    }
}

/// A whole number from 1 to `most`. An array of one number a layer (as some files state heads) counts
/// as that number where all are alike.
fn optional(gguf: &Gguf, key: &str, most: u32) -> Result<Option<usize>> {
    let layers = match gguf.get(key) {
        Some(crate::loading::gguf::Value::Array(_)) => gguf.integers(key)?.unwrap_or_default(),
        _ => Vec::new(),
    };
    let number = match layers.first() {
        Some(first) => {
            crate::ensure!(
                layers.iter().all(|n| n == first),
                Unsupported,
                "{}: {key}: expected the same number for every layer",
                gguf.file()
            );
            Some(u64::try_from(*first).unwrap_or(u64::MAX))
        }
        None => gguf.uint(key)?,
    };
    let Some(number) = number else { return Ok(None) };
    crate::ensure!(
        (1..=u64::from(most)).contains(&number),
        Format,
        "{}: {key}: expected an integer from 1 to {most}, found {number}",
        gguf.file()
    );
    Ok(Some(crate::base::checked::usize(number, key)?))
}

fn needed(gguf: &Gguf, key: &str, most: u32) -> Result<usize> {
    optional(gguf, key, most)?.ok_or_else(|| crate::error!(Format, "{}: {key} is missing", gguf.file()))
}

fn positive(gguf: &Gguf, key: &str) -> Result<Option<f32>> {
    let Some(number) = gguf.float(key)? else { return Ok(None) };
    let rounded = number as f32;
    crate::ensure!(
        rounded.is_finite() && rounded > 0.0,
        Format,
        "{}: {key}: expected a number above 0 within f32, found {number}",
        gguf.file()
    );
    Ok(Some(rounded))
}

/// Hyperparameters that are not read: they may change what a newer file means.
fn unknown_keys(gguf: &Gguf) -> Vec<String> {
    const KNOWN: [&str; 18] = [
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.layer_norm_rms_epsilon",
        "llama.attention.value_length",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.expert_count",
        "llama.expert_used_count",
        "llama.feed_forward_length",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
        "llama.rope.scale_linear",
        "llama.rope.scaling.factor",
        "llama.rope.scaling.type",
        "llama.tensor_data_layout",
        "llama.vocab_size",
    ];
    const MOST: usize = 16;
    let mut unknown: Vec<&str> =
        gguf.keys().filter(|key| key.starts_with("llama.") && !KNOWN.contains(key)).collect();
    unknown.sort_unstable();
    let warning = |key: &str| format!("{}: {}: unknown key, not used", gguf.file(), clip(key));
    unknown.into_iter().take(MOST).map(warning).collect()
}

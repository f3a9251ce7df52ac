//! The config.json of a directory as FlagAI's, BAAI's own training code: LLaMA's original keys.

use crate::base::error::Result;
use crate::model::checkpoint::Checkpoint;
use crate::model::spec::{DecoderSpec, RopeScaling};
use crate::model::weights::Role;
use serde_json::{Map, Value, json};

/// The feed-forward's width is a multiple of it in every published model.
const MULTIPLE_OF: usize = 256;
/// The rotary base that the code knows; another one goes under the key of later LLaMAs.
const ROPE_THETA: f32 = 10_000.0;

/// The keys for a model, and what they cannot say. `Unsupported` for decoders that the code could not run.
pub fn config(checkpoint: &Checkpoint) -> Result<(Map<String, Value>, Vec<String>)> {
    let spec = &checkpoint.spec;
    let needs = |fits: bool, what: &str| -> Result<()> {
        crate::ensure!(
            fits,
            Unsupported,
            "FlagAI's code has no {what}: such a model cannot be written for it"
        );
        Ok(())
    };
    needs(checkpoint.weights.get(0, Role::QueryBias).is_none(), "biases in attention")?;
    needs(spec.rope.scaling == RopeScaling::None, "scaling of rotary frequencies")?;
    needs(spec.head_dim * spec.heads == spec.hidden, "heads of a width of their own")?;
    let mut config = json!({
        "dim": spec.hidden,
        "multiple_of": MULTIPLE_OF,
        "n_heads": spec.heads,
        "n_layers": spec.layers,
        "norm_eps": super::directory::shortest(spec.norm_eps),
        "vocab_size": spec.vocab,
        "max_seq_len": spec.context,
    });
    let narrow = 2 * (4 * spec.hidden) / 3;
    if narrow.next_multiple_of(MULTIPLE_OF) != spec.ffn {
        // Whatever is not wider is rounded up to the width itself.
        config["multiple_of"] = json!(spec.ffn);
        if narrow > spec.ffn {
            config["ffn_dim_multiplier"] = json!(fraction_below(narrow, spec.ffn));
        }
    }
    if spec.kv_heads != spec.heads {
        config["n_kv_heads"] = json!(spec.kv_heads);
    }
    if spec.rope.theta != ROPE_THETA {
        config["rope_theta"] = json!(super::directory::shortest(spec.rope.theta));
    }
    if let Some(bos) = checkpoint.ids.bos {
        config["bos_token_id"] = json!(bos);
    }
    if !checkpoint.ids.eos.is_empty() {
        config["eos_token_id"] = json!(checkpoint.ids.eos);
    }
    let config = if let Value::Object(map) = config { map } else { Map::new() };
    Ok((config, warnings(spec)))
}

/// A power of two that makes `wide` at most `narrow`.
fn fraction_below(wide: usize, narrow: usize) -> f64 {
    let mut fraction = 0.5;
    while wide as f64 * fraction > narrow as f64 {
        fraction /= 2.0;
    }
    fraction
}

fn warnings(spec: &DecoderSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.score_clamp.is_none() {
        warnings.push("FlagAI's code clamps attention scores to ±1024, which this model does not".into());
    }
    if spec.tied {
        warnings.push("FlagAI's code has no tied head: the embedding is written twice".into());
    }
    if spec.kv_heads != spec.heads {
        warnings.push("FlagAI's code has no grouped key heads: n_kv_heads is LLaMA 2's key for them".into());
    }
    warnings
}

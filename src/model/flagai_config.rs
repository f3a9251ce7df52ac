//! The config.json of FlagAI, BAAI's own training code, to the same [`ModelConfig`] as Hugging Face's.
//!
//! It has LLaMA's original keys. The width of the feed-forward is not stated but follows from that of the model. The
//! code knows one rotary base and no grouped heads; the keys of later LLaMA configurations for both are taken where they
//! stand. FlagAI trained the first version of Aquila, whose attention clamps its scores.

use crate::base::error::Result;
use crate::base::limits::{CONTEXT_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX};
use crate::loading::json;
use crate::model::config::{
    ModelConfig, ROPE_THETA, TokenIds, V1_SCORE_CLAMP, check_heads, derived_head_dim, epsilon,
    warn_of_unknown_keys,
};
use crate::model::fields::{Assumed, Fields};
use crate::model::names::Naming;
use crate::model::spec::{DecoderSpec, RopeScaling, RopeSpec};

/// Positions where none are stated: the class's default.
const CONTEXT: usize = 2048;

/// Whether a config.json has FlagAI's keys for the shape of a model, and none of Hugging Face's.
pub fn has_its_keys(fields: &Fields) -> bool {
    let any = |keys: [&str; 3]| keys.iter().any(|key| fields.get(key).is_some());
    any(["dim", "n_layers", "n_heads"]) && !any(["hidden_size", "num_hidden_layers", "num_attention_heads"])
}

/// Reads the keys of such a file. `Format` names the key, what was expected and what was found; `Unsupported` another
/// `model_type`.
pub fn read(fields: &Fields) -> Result<ModelConfig> {
    let place = fields.place();
    if let Some(other) = fields.string("model_type")?.filter(|&kind| kind != "aquila") {
        crate::bail!(
            Unsupported,
            "{place}: model_type: expected \"aquila\" or none beside the key dim, found {:?}",
            json::clip(other)
        );
    }
    let (mut assumed, mut warnings) = (Assumed::default(), Vec::new());
    let needed = |key: &str, most| -> Result<usize> {
        let found = fields.uint(key, 1..=most)?;
        found.ok_or_else(|| crate::error!(Format, "{place}: {key}: expected an integer, found none"))
    };
    let (hidden, heads) = (needed("dim", WIDTH_MAX)?, needed("n_heads", WIDTH_MAX)?);
    let kv_heads = fields.uint("n_kv_heads", 1..=WIDTH_MAX)?.unwrap_or(heads);
    let spec = DecoderSpec {
        layers: needed("n_layers", LAYERS_MAX)?,
        hidden,
        heads,
        kv_heads,
        head_dim: derived_head_dim(place, "dim", hidden, "n_heads", heads)?,
        ffn: feed_forward(fields, hidden, needed("multiple_of", WIDTH_MAX)?)?,
        vocab: needed("vocab_size", VOCAB_MAX)?,
        norm_eps: epsilon(fields, "norm_eps", &mut warnings)?,
        rope: RopeSpec {
            theta: assumed.or(place, "rope_theta", fields.positive("rope_theta")?, ROPE_THETA),
            scaling: RopeScaling::None,
        },
        context: assumed.or(place, "max_seq_len", fields.uint("max_seq_len", 1..=CONTEXT_MAX)?, CONTEXT),
        score_clamp: Some(V1_SCORE_CLAMP),
        tied: false,
    };
    check_heads(place, &spec, ["n_heads", "n_kv_heads", "dim / n_heads"])?;
    let mut ids = TokenIds::default();
    ids.add(&fields.ids("bos_token_id", &mut warnings)?, &fields.ids("eos_token_id", &mut warnings)?);
    let known = |key: &str| KNOWN_KEYS.contains(&key) || key.starts_with(TRAINERS_KEYS);
    warn_of_unknown_keys(fields, known, &mut warnings);
    Ok(ModelConfig {
        world_size: None,
        padded_vocab: None,
        spec,
        layout: Naming::FlagAi,
        architecture: "AQUILAModel (FlagAI)".into(),
        tie: Some(false),
        attention_bias: Some(false),
        mlp_bias: None,
        ids,
        names: Vec::new(),
        guide_class: None,
        assumed: assumed.0,
        warnings,
    })
}

/// LLaMA's rule: two thirds of four times the width, by LLaMA 2 times a factor, up to the next multiple.
fn feed_forward(fields: &Fields, hidden: usize, multiple_of: usize) -> Result<usize> {
    let narrow = 2 * (4 * hidden) / 3;
    let wide = match fields.positive("ffn_dim_multiplier")? {
        // As wide as usize at most, where the next check refuses it.
        Some(factor) => (narrow as f64 * widened(factor)) as usize,
        None => narrow,
    };
    let ffn = wide.checked_next_multiple_of(multiple_of).unwrap_or(usize::MAX);
    crate::ensure!(
        (1..=WIDTH_MAX as usize).contains(&ffn),
        Format,
        "{}: multiple_of: expected a feed-forward from 1 to {WIDTH_MAX} wide, found {ffn} by dim {hidden} and {multiple_of}",
        fields.place()
    );
    Ok(ffn)
}

/// The number that was written: 1.3 is none of f32, and its nearest f32 may round a product to another integer.
fn widened(factor: f32) -> f64 {
    factor.to_string().parse().unwrap_or_else(|_| factor.into())
}

/// With this the keys begin that are for the trainer BMTrain.
const TRAINERS_KEYS: &str = "bmt_";

/// Keys that are read above, and those that say how the model was trained or run.
const KNOWN_KEYS: [&str; 29] = [
    "bos_token_id",
    "checkpoint_activations",
    "ckpoint_layer",
    "dim",
    "eos_token_id",
    "ffn_dim_multiplier",
    "fix_large_bsz",
    "flash_atten",
    "flash_atten_aquila_style",
    "flash_atten_llama_style",
    "flash_atten_pdrop",
    "fp16",
    "ignore_index",
    "initializer_range",
    "max_batch_size",
    "max_seq_len",
    "model_type",
    "multiple_of",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "norm_eps",
    "pad_token_id",
    "rope_theta",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_triangle_attn",
    "vocab_size",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;
    use crate::model::config::parse;
    use serde_json::{Value, json};

    /// The file that FlagAI's guide gives for Aquila-7B, with changes.
    fn with(changes: Value) -> Result<ModelConfig> {
        let mut config = json!({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5,
            "vocab_size": 100008, "max_seq_len": 2048, "initializer_range": 0.006, "flash_atten": false,
            "flash_atten_llama_style": false, "bmt_comm_overlap": true, "fp16": true, "checkpoint_activations": true});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        parse("config.json", config.to_string().as_bytes())
    }

    #[test]
    fn the_published_file_is_aquila_7b() {
        let config = with(json!({})).unwrap();
        let expected = DecoderSpec {
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            ffn: 11008,
            vocab: 100_008,
            norm_eps: 1e-5,
            rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
            context: 2048,
            score_clamp: Some(1024.0),
            tied: false,
        };
        assert_eq!((config.spec, config.layout, config.tie), (expected, Naming::FlagAi, Some(false)));
        assert_eq!(config.warnings, Vec::<String>::new());
        assert_eq!(config.assumed, ["config.json: no rope_theta: 10000"]);
    }

    /// Aquila2-34B's shape by the keys of LLaMA 2, and the widths of LLaMA 2 70B and of LLaMA 3 8B.
    #[test]
    fn later_keys_count_where_they_stand() {
        let large =
            json!({"dim": 6144, "n_heads": 48, "n_kv_heads": 8, "n_layers": 60, "ffn_dim_multiplier": 1.5});
        let spec = with(large).unwrap().spec;
        assert_eq!((spec.heads, spec.kv_heads, spec.head_dim, spec.ffn), (48, 8, 128, 24576));
        let llama = json!({"dim": 8192, "n_heads": 64, "multiple_of": 4096, "ffn_dim_multiplier": 1.3});
        assert_eq!(with(llama).unwrap().spec.ffn, 28672);
        let llama = json!({"multiple_of": 1024, "ffn_dim_multiplier": 1.3, "rope_theta": 5e5});
        let spec = with(llama).unwrap().spec;
        assert_eq!((spec.ffn, spec.rope.theta), (14336, 5e5));
    }

    #[test]
    fn what_is_absent_or_unknown_is_told() {
        let config = with(json!({"norm_eps": null, "max_seq_len": null, "window": 7})).unwrap();
        assert_eq!((config.spec.norm_eps, config.spec.context), (1e-6, 2048));
        assert_eq!(config.assumed.len(), 2, "{:?}", config.assumed);
        let [epsilon, window] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert!(epsilon.contains("no norm_eps") && window.contains("window: unknown key"), "{window}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (changes, status, part) in [
            (json!({"n_heads": 33}), Status::Format, "n_heads: expected a divisor of dim 4096, found 33"),
            (
                json!({"n_kv_heads": 5}),
                Status::Format,
                "n_kv_heads: expected a divisor of n_heads 32, found 5",
            ),
            (json!({"multiple_of": null}), Status::Format, "multiple_of: expected an integer, found none"),
            (json!({"multiple_of": 0}), Status::Format, "multiple_of: expected an integer from 1"),
            (
                json!({"multiple_of": 1 << 20, "ffn_dim_multiplier": 1e9}),
                Status::Format,
                "feed-forward from 1",
            ),
            (json!({"ffn_dim_multiplier": 1e-9, "multiple_of": 1}), Status::Format, "found 0 by dim 4096"),
            (json!({"vocab_size": -1}), Status::Format, "vocab_size: expected an integer from 1"),
            (json!({"model_type": "distilbert"}), Status::Unsupported, "found \"distilbert\""),
        ] {
            let error = with(changes.clone()).unwrap_err();
            assert!(error.status == status && error.message.contains(part), "{changes}: {error}");
        }
        // With a key of the other kind it is the other kind.
        let error = with(json!({"hidden_size": 4096})).unwrap_err();
        assert!(error.message.contains("model_type: expected"), "{error}");
    }
}

//! config.json and generation_config.json of a model's directory, to a [`DecoderSpec`]. Here are Hugging Face's keys; a
//! config.json with FlagAI's goes to [`flagai_config`].

use crate::base::error::Result;
use crate::base::limits::{
    CONFIG_BYTES_MAX, CONTEXT_MAX, HEAD_DIM_MAX, LAYERS_MAX, RANKS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use crate::loading::file::SourceFile;
use crate::loading::json;
use crate::model::fields::{Assumed, Fields};
use crate::model::flagai_config;
use crate::model::names::Naming;
use crate::model::spec::{DecoderSpec, RopeScaling, RopeSpec};

/// Aquila v1 clamps its attention scores to ± this "for corner cases" of f16.
pub const V1_SCORE_CLAMP: f32 = 1024.0;

/// What a configuration says of the decoder and of the files around it.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The decoder; `tied` is settled once the tensors are known.
    pub spec: DecoderSpec,
    /// Whose keys these are; tensors usually have names of the same kind.
    pub layout: Naming,
    /// `model_type` and, where stated, the architecture's class.
    pub architecture: String,
    /// Whether the head is stated to be the embedding.
    pub tie: Option<bool>,
    /// Whether biases on q, k, v and o are stated.
    pub attention_bias: Option<bool>,
    /// Whether biases in the feed-forward are stated.
    pub mlp_bias: Option<bool>,
    /// Where this is one rank's part of a model: of how many.
    pub world_size: Option<usize>,
    /// Rows of all ranks' parts of the head together, zeros included, where they are more than ids.
    pub padded_vocab: Option<usize>,
    /// Token ids that the files name.
    pub ids: TokenIds,
    /// Names that the model goes by, for the choice of a chat template.
    pub names: Vec<String>,
    /// The class of the Ascend guide that config.json was edited to name. It changes nothing: no Python is run.
    pub guide_class: Option<String>,
    /// What was taken for keys that are absent.
    pub assumed: Vec<String>,
    /// What looks odd.
    pub warnings: Vec<String>,
}

/// Ids that config.json, generation_config.json or GGUF metadata name. Aquila-7B's config.json names
/// `"` as its eos: what the ids are worth is for the tokenizer to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenIds {
    /// Begin of sequence, the first that is named.
    pub bos: Option<u32>,
    /// End of sequence: generation_config.json's first, then config.json's, none twice.
    pub eos: Vec<u32>,
}

impl TokenIds {
    /// Adds what another file names, after what is there.
    pub fn add(&mut self, bos: &[u32], eos: &[u32]) {
        self.bos = self.bos.or(bos.first().copied());
        for id in eos {
            if !self.eos.contains(id) {
                self.eos.push(*id);
            }
        }
    }
}

/// What a key's absence means: the defaults of the class behind a `model_type`.
struct Defaults {
    vocab: usize,
    context: usize,
}

/// `AquilaConfig`: 4096 wide, 32 layers, 32 heads, 11008 in the feed-forward, as `LlamaConfig`.
const AQUILA: Defaults = Defaults { vocab: 100_008, context: 2048 };
const LLAMA: Defaults = Defaults { vocab: 32_000, context: 2048 };
const HIDDEN: usize = 4096;
const LAYERS: usize = 32;
const HEADS: usize = 32;
const FFN: usize = 11_008;
pub(super) const ROPE_THETA: f32 = 10_000.0;
const RMS_NORM_EPS: f32 = 1e-6;

/// Reads config.json.
pub fn read(file: &SourceFile) -> Result<ModelConfig> {
    parse(&file.name(), &file.read_all(CONFIG_BYTES_MAX)?)
}

/// Reads the text of a config.json. `Unsupported` names another model type, activation or rotary
/// scaling; `Format` names the key, what was expected and what was found.
pub fn parse(name: &str, text: &[u8]) -> Result<ModelConfig> {
    let fields = Fields::new(name, json::parse(name, text)?);
    if flagai_config::has_its_keys(&fields) {
        return flagai_config::read(&fields);
    }
    let mut warnings = Vec::new();
    let mut assumed = Assumed::default();
    let (defaults, architecture, is_v1) = architecture(&fields, &mut assumed)?;
    refuse_other_kinds(&fields)?;
    let mut number =
        |key: &str, most, default| Ok(assumed.or(name, key, fields.uint(key, 1..=most)?, default));
    let hidden = number("hidden_size", WIDTH_MAX, HIDDEN)?;
    let heads = number("num_attention_heads", WIDTH_MAX, HEADS)?;
    let mut spec = DecoderSpec {
        layers: number("num_hidden_layers", LAYERS_MAX, LAYERS)?,
        hidden,
        heads,
        kv_heads: number("num_key_value_heads", WIDTH_MAX, heads)?,
        head_dim: match fields.uint("head_dim", 2..=HEAD_DIM_MAX)? {
            Some(width) => width,
            None => derived_head_dim(name, "hidden_size", hidden, "num_attention_heads", heads)?,
        },
        ffn: number("intermediate_size", WIDTH_MAX, FFN)?,
        vocab: number("vocab_size", VOCAB_MAX, defaults.vocab)?,
        norm_eps: epsilon(&fields, "rms_norm_eps", &mut warnings)?,
        rope: RopeSpec { theta: ROPE_THETA, scaling: RopeScaling::None },
        context: number("max_position_embeddings", CONTEXT_MAX, defaults.context)?,
        score_clamp: is_v1.then_some(V1_SCORE_CLAMP),
        tied: false,
    };
    read_rope(&fields, &mut spec, &mut assumed)?;
    check_heads(name, &spec, ["num_attention_heads", "num_key_value_heads", "head_dim"])?;
    let mut ids = TokenIds::default();
    ids.add(&fields.ids("bos_token_id", &mut warnings)?, &fields.ids("eos_token_id", &mut warnings)?);
    warn_of_unknown_keys(&fields, |key| KNOWN_KEYS.contains(&key), &mut warnings);
    Ok(ModelConfig {
        spec,
        layout: Naming::HuggingFace,
        architecture,
        tie: fields.boolean("tie_word_embeddings")?,
        attention_bias: fields.boolean("attention_bias")?,
        mlp_bias: fields.boolean("mlp_bias")?,
        world_size: fields.uint("world_size", 1..=RANKS_MAX)?,
        padded_vocab: fields.uint("padded_vocab_size", 1..=VOCAB_MAX)?,
        ids,
        names: fields.string("_name_or_path")?.map(String::from).into_iter().collect(),
        guide_class: guide_class(&fields),
        assumed: assumed.0,
        warnings,
    })
}

/// The epsilon of the norms. Models of one shape were published with 1e-6 and with 1e-5, so that taking the class's
/// default is no matter of course.
pub(super) fn epsilon(fields: &Fields, key: &str, warnings: &mut Vec<String>) -> Result<f32> {
    let stated = fields.positive(key)?;
    if stated.is_none() {
        warnings.push(format!(
            "{}: no {key}: the class's default {RMS_NORM_EPS:e} is taken, and models of this shape were trained with \
             1e-6 and with 1e-5",
            fields.place()
        ));
    }
    Ok(stated.unwrap_or(RMS_NORM_EPS))
}

/// The ids of generation_config.json.
pub fn generation_ids(file: &SourceFile, warnings: &mut Vec<String>) -> Result<TokenIds> {
    let name = file.name();
    let fields = Fields::new(&name, json::parse(&name, &file.read_all(CONFIG_BYTES_MAX)?)?);
    let mut ids = TokenIds::default();
    ids.add(&fields.ids("bos_token_id", warnings)?, &fields.ids("eos_token_id", warnings)?);
    Ok(ids)
}

/// The class defaults, the name for people, and whether it is Aquila of the first version: the
/// published configurations of v1 name the class `AquilaModel`, those of Aquila2 `AquilaForCausalLM`.
fn architecture(fields: &Fields, assumed: &mut Assumed) -> Result<(Defaults, String, bool)> {
    let place = fields.place();
    let model_type = fields.string("model_type")?;
    let named = fields.first_string("architectures")?;
    let (defaults, classes) = match model_type {
        Some("aquila") => (AQUILA, ["AquilaModel", "AquilaForCausalLM"]),
        Some("llama") => (LLAMA, ["LlamaForCausalLM", "LLaMAForCausalLM"]),
        Some(other) => crate::bail!(
            Unsupported,
            "{place}: model_type: expected \"aquila\" or \"llama\", found {:?}",
            json::clip(other)
        ),
        None => crate::bail!(Format, "{place}: model_type: expected \"aquila\" or \"llama\", found none"),
    };
    let model_type = model_type.unwrap_or_default();
    let Some(named) = named else {
        if model_type == "aquila" {
            assumed.0.push(format!("{place}: no architectures: that of Aquila2, which clamps no scores"));
        }
        return Ok((defaults, model_type.into(), false));
    };
    let class = MODULES.iter().find_map(|module| named.strip_prefix(module)).unwrap_or(named);
    crate::ensure!(
        classes.contains(&class),
        Unsupported,
        "{place}: architectures: expected {} or {} for model_type {model_type}, found {:?}",
        classes[0],
        classes[1],
        json::clip(named)
    );
    Ok((defaults, format!("{class} (model_type {model_type})"), class == "AquilaModel"))
}

/// The modules in front of a class's name, where a name has one: as published, and as the Ascend guide's users write
/// for one card and for parts of a cut model.
const MODULES: [&str; 3] = ["modeling_aquila.", "modeling_aquila_ascend.", "modeling_aquila_cut."];

/// The guide's class, where one is named: in `auto_map`, under the same key at the top level, or as the architecture.
fn guide_class(fields: &Fields) -> Option<String> {
    const KEY: &str = "AutoModelForCausalLM";
    let mapped = fields.get("auto_map").and_then(|map| map.get(KEY));
    let architecture = fields.get("architectures").and_then(|classes| classes.get(0));
    let named = [mapped, fields.get(KEY), architecture];
    let mut names = named.into_iter().flatten().filter_map(|value| value.as_str());
    // A name may have a repository in front: `BAAI/Aquila-7B--modeling_aquila_ascend.AquilaForCausalLM`.
    let is_guides = |name: &&str| MODULES[1..].iter().any(|module| name.contains(module));
    names.find(is_guides).map(json::clip)
}

/// Keys whose presence makes it another decoder than the one that is built.
fn refuse_other_kinds(fields: &Fields) -> Result<()> {
    let place = fields.place();
    if let Some(act) = fields.string("hidden_act")? {
        crate::ensure!(
            act == "silu" || act == "swish",
            Unsupported,
            "{place}: hidden_act: expected \"silu\", found {:?}",
            json::clip(act)
        );
    }
    if let Some(how) = fields.get("quantization_config") {
        // What msModelSlim's users write there stands in the description beside the weights, which is read.
        crate::ensure!(
            how.get("model_quant_type").is_some(),
            Unsupported,
            "{place}: quantization_config: not supported"
        );
    }
    for key in ["num_local_experts", "num_experts", "attn_logit_softcapping"] {
        crate::ensure!(fields.get(key).is_none(), Unsupported, "{place}: {key}: not supported");
    }
    if let Some(window) = fields.get("sliding_window") {
        let off = fields.get("use_sliding_window").is_some_and(|v| v.as_bool() == Some(false));
        crate::ensure!(off, Unsupported, "{place}: sliding_window: expected null, found {window}");
    }
    if let Some(factor) = fields.positive("partial_rotary_factor")? {
        crate::ensure!(
            factor == 1.0,
            Unsupported,
            "{place}: partial_rotary_factor: expected 1, found {factor}"
        );
    }
    Ok(())
}

/// hidden / heads, where no width of a head is stated.
pub(super) fn derived_head_dim(
    place: &str,
    hidden_key: &str,
    hidden: usize,
    heads_key: &str,
    heads: usize,
) -> Result<usize> {
    crate::ensure!(
        hidden.is_multiple_of(heads), // of 0 only 0 is a multiple
        Format,
        "{place}: {heads_key}: expected a divisor of {hidden_key} {hidden}, found {heads}"
    );
    Ok(hidden / heads)
}

/// The rules that tie the numbers of heads together. `keys` are those of the query heads, the key and
/// value heads, and the width of a head.
pub(super) fn check_heads(place: &str, spec: &DecoderSpec, keys: [&str; 3]) -> Result<()> {
    let [heads_key, kv_key, width_key] = keys;
    let DecoderSpec { heads, kv_heads, head_dim, .. } = *spec;
    crate::ensure!(
        heads % kv_heads == 0,
        Format,
        "{place}: {kv_key}: expected a divisor of {heads_key} {heads}, found {kv_heads}"
    );
    crate::ensure!(
        head_dim % 2 == 0 && (2..=HEAD_DIM_MAX as usize).contains(&head_dim),
        Format,
        "{place}: {width_key}: expected an even number from 2 to {HEAD_DIM_MAX}, found {head_dim}"
    );
    crate::ensure!(
        spec.q_width() <= WIDTH_MAX as usize,
        Format,
        "{place}: {heads_key}: {heads} heads of {head_dim}, expected at most {WIDTH_MAX} together"
    );
    Ok(())
}

/// `rope_theta` and `rope_scaling`, or the `rope_parameters` of newer files that hold both.
fn read_rope(fields: &Fields, spec: &mut DecoderSpec, assumed: &mut Assumed) -> Result<()> {
    let mut theta = fields.positive("rope_theta")?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = fields.object(key)? else { continue };
        theta = rope.positive("rope_theta")?.or(theta);
        if let Some(share) = rope.positive("partial_rotary_factor")? {
            crate::ensure!(
                share == 1.0,
                Unsupported,
                "{}: partial_rotary_factor: expected 1, found {share}",
                rope.place()
            );
        }
        read_scaling(&rope, spec)?;
    }
    spec.rope.theta = assumed.or(fields.place(), "rope_theta", theta, ROPE_THETA);
    Ok(())
}

fn read_scaling(rope: &Fields, spec: &mut DecoderSpec) -> Result<()> {
    let place = rope.place();
    let kind = match rope.string("rope_type")? {
        Some(kind) => Some(kind),
        None => rope.string("type")?,
    };
    let factor = rope.positive("factor")?;
    let needed = || {
        let factor = factor.filter(|&f| f >= 1.0);
        factor.ok_or_else(|| {
            crate::error!(Format, "{place}: factor: expected a number from 1, found {factor:?}")
        })
    };
    spec.rope.scaling = match kind {
        Some("linear") => RopeScaling::Linear { factor: needed()? },
        Some("dynamic") => {
            let stated = rope.uint("original_max_position_embeddings", 1..=CONTEXT_MAX)?;
            let (factor, trained) = (needed()?, stated.unwrap_or(spec.context));
            if stated.is_none() {
                // The convention of this key: max_position_embeddings stays the length of the training.
                let stretched = (trained as f64 * f64::from(factor)).min(f64::from(CONTEXT_MAX));
                spec.context = stretched as usize;
            }
            RopeScaling::DynamicNtk { factor, trained: crate::base::checked::u32(trained as u64, place)? }
        }
        Some("default") => RopeScaling::None,
        None if rope.keys().all(|key| key == "rope_theta") => RopeScaling::None,
        None => crate::bail!(Format, "{place}: type: expected \"linear\" or \"dynamic\", found none"),
        Some(other) => crate::bail!(
            Unsupported,
            "{place}: type: expected \"linear\", \"dynamic\" or \"default\", found {:?}",
            json::clip(other)
        ),
    };
    Ok(())
}

/// Keys that are read above, and those that say nothing about how to compute.
const KNOWN_KEYS: [&str; 54] = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "attn_logit_softcapping",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_dropout",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "layer_types",
    "max_length",
    "max_position_embeddings",
    "max_sequence_length",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_experts",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "padded_vocab_size",
    "partial_rotary_factor",
    "pretraining_tp",
    "quantization",
    "quantization_config",
    "quantize",
    "rank",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
    "world_size",
];

/// A warning for each key that is not `known`, up to a bound.
pub(super) fn warn_of_unknown_keys(
    fields: &Fields,
    known: impl Fn(&str) -> bool,
    warnings: &mut Vec<String>,
) {
    const MOST: usize = 16;
    let unknown = fields.keys().filter(|key| !known(key));
    for key in unknown.take(MOST) {
        warnings.push(format!("{}: {}: unknown key, not used", fields.place(), json::clip(key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;
    use serde_json::{Value, json};

    fn with(changes: Value) -> Result<ModelConfig> {
        let mut config = json!({"model_type": "aquila", "architectures": ["AquilaForCausalLM"],
            "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 96, "vocab_size": 288, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-6});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        parse("config.json", config.to_string().as_bytes())
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_class() {
        let config =
            parse("config.json", br#"{"model_type": "aquila", "num_key_value_heads": null}"#).unwrap();
        let spec = config.spec;
        assert_eq!((spec.layers, spec.hidden, spec.heads, spec.kv_heads), (32, 4096, 32, 32));
        assert_eq!((spec.head_dim, spec.ffn, spec.vocab, spec.context), (128, 11008, 100008, 2048));
        assert_eq!((spec.norm_eps, spec.rope.theta, spec.score_clamp), (1e-6, 1e4, None));
        assert!(config.tie.is_none() && config.warnings.len() == 1, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("no rms_norm_eps") && config.warnings[0].contains("1e-6"));
        for told in ["no hidden_size: 4096", "no num_key_value_heads: 32", "no rope_theta: 10000"] {
            assert!(config.assumed.iter().any(|line| line.ends_with(told)), "{told}: {:?}", config.assumed);
        }
    }

    #[test]
    fn only_the_first_version_clamps() {
        let config = with(json!({"architectures": ["AquilaModel"]})).unwrap();
        assert_eq!(config.spec.score_clamp, Some(1024.0));
        assert_eq!(with(json!({})).unwrap().spec.score_clamp, None);
        let llama = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
        assert_eq!(with(llama).unwrap().spec.score_clamp, None);
    }

    #[test]
    fn every_form_of_rope_scaling() {
        let rope = |value: Value| with(json!({"rope_scaling": value}));
        let linear = rope(json!({"type": "linear", "factor": 8.0})).unwrap().spec;
        assert_eq!((linear.rope.scaling, linear.context), (RopeScaling::Linear { factor: 8.0 }, 128));
        let same = rope(json!({"rope_type": "linear", "factor": 8})).unwrap().spec;
        assert_eq!(same.rope, linear.rope);
        let dynamic = rope(json!({"type": "dynamic", "factor": 2.5})).unwrap().spec;
        assert_eq!(dynamic.rope.scaling, RopeScaling::DynamicNtk { factor: 2.5, trained: 128 });
        assert_eq!(dynamic.context, 320);
        assert_eq!(rope(Value::Null).unwrap().spec.rope.scaling, RopeScaling::None);
        assert_eq!(rope(json!({"rope_type": "default"})).unwrap().spec.rope.scaling, RopeScaling::None);
        let newer = with(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})).unwrap();
        assert_eq!(newer.spec.rope.theta, 5e5);
        let yarn = rope(json!({"rope_type": "yarn", "factor": 4.0})).unwrap_err();
        assert!(yarn.status == Status::Unsupported && yarn.message.contains("yarn"), "{yarn}");
        for bad in [json!({"type": "linear"}), json!({"type": "linear", "factor": 0.5}), json!({"factor": 2})]
        {
            let error = rope(bad).unwrap_err();
            assert!(error.status == Status::Format && error.message.contains("rope_scaling"), "{error}");
        }
    }

    #[test]
    fn ids_come_as_number_or_list() {
        let config = with(json!({"eos_token_id": [5, -1, 7, 5], "bos_token_id": 3, "odd_key": 1})).unwrap();
        assert_eq!(config.ids, TokenIds { bos: Some(3), eos: vec![5, 7] });
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("-1") && config.warnings[1].contains("odd_key"));
    }
}

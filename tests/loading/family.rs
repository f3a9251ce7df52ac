//! The configurations of the published models, as far as they are known: each gives exactly its decoder.

use aquila::model::config::{self, ModelConfig};
use aquila::model::family;
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use serde_json::{Value, json};

fn read(config: &Value) -> ModelConfig {
    config::parse("config.json", config.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{error}: {config}"))
}

/// A published config.json: what all of them have, and what this one has.
fn published(more: Value) -> Value {
    let mut config = json!({
        "architectures": ["AquilaForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_aquila.AquilaConfig",
            "AutoModelForCausalLM": "modeling_aquila.AquilaForCausalLM",
        },
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "hidden_act": "silu", "initializer_range": 0.02, "model_type": "aquila", "rope_scaling": null,
        "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.28.1",
        "use_cache": true,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Version one names no key and value heads and no rotary base, and the class `AquilaModel`.
fn first_version() -> Value {
    published(json!({"architectures": ["AquilaModel"], "vocab_size": 100008, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}))
}

fn second_7b(vocab: u32, context: u32, scaling: Value) -> Value {
    published(
        json!({"vocab_size": vocab, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "intermediate_size": 11008, "max_position_embeddings": context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": scaling, "bos_token_id": 100006,
        "eos_token_id": 100007}),
    )
}

fn second_34b(vocab: u32, context: u32, scaling: Value) -> Value {
    published(
        json!({"vocab_size": vocab, "hidden_size": 6144, "num_hidden_layers": 60, "num_attention_heads": 48,
        "num_key_value_heads": 8, "intermediate_size": 24576, "max_position_embeddings": context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": scaling}),
    )
}

fn spec_7b() -> DecoderSpec {
    DecoderSpec {
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
        score_clamp: None,
        tied: false,
    }
}

fn spec_34b() -> DecoderSpec {
    DecoderSpec { layers: 60, hidden: 6144, heads: 48, kv_heads: 8, ffn: 24576, context: 4096, ..spec_7b() }
}

fn linear(factor: f32) -> RopeSpec {
    RopeSpec { theta: 1e4, scaling: RopeScaling::Linear { factor } }
}

#[test]
fn each_published_configuration_gives_its_decoder() {
    let stretched = |factor: f64| json!({"type": "linear", "factor": factor});
    let long = |vocab: u32| DecoderSpec { vocab: vocab as usize, context: 8192, ..spec_34b() };
    let rows = [
        (
            first_version(),
            DecoderSpec { norm_eps: 1e-6, score_clamp: Some(1024.0), ..spec_7b() },
            "Aquila-7B, AquilaChat-7B or AquilaCode",
            7_295_537_152,
        ),
        (second_7b(100_008, 2048, Value::Null), spec_7b(), "Aquila2-7B or AquilaChat2-7B", 7_295_537_152),
        (
            second_7b(143_973, 2048, Value::Null),
            DecoderSpec { vocab: 143_973, ..spec_7b() },
            "Aquila2-7B or AquilaChat2-7B",
            7_655_698_432,
        ),
        (
            second_7b(100_008, 16384, stretched(8.0)),
            DecoderSpec { context: 16384, rope: linear(8.0), ..spec_7b() },
            "AquilaChat2-7B-16K",
            7_295_537_152,
        ),
        (
            second_34b(100_008, 4096, Value::Null),
            spec_34b(),
            "Aquila2-34B or AquilaChat2-34B",
            33_693_554_688,
        ),
        (
            second_34b(143_973, 8192, Value::Null),
            long(143_973),
            "Aquila2-34B or AquilaChat2-34B",
            34_233_796_608,
        ),
        (
            second_34b(100_008, 16384, stretched(4.0)),
            DecoderSpec { context: 16384, rope: linear(4.0), ..spec_34b() },
            "AquilaChat2-34B-16K",
            33_693_554_688,
        ),
    ];
    for (config, spec, models, parameters) in rows {
        let found = read(&config);
        assert_eq!(found.spec, spec, "{config}");
        assert_eq!(found.warnings, Vec::<String>::new(), "{config}");
        assert_eq!(family::models(&found.spec, true).as_deref(), Some(models), "{config}");
        assert_eq!(found.spec.parameters(), parameters, "{config}");
    }
    assert_eq!(
        read(&first_version()).assumed,
        ["config.json: no num_key_value_heads: 32", "config.json: no rope_theta: 10000"]
    );
}

#[test]
fn a_shape_is_told_by_all_its_numbers() {
    let models = |spec: &DecoderSpec| family::models(spec, true);
    assert_eq!(models(&DecoderSpec { vocab: 32_000, ..spec_7b() }), None);
    assert_eq!(models(&DecoderSpec { layers: 31, ..spec_7b() }), None);
    assert_eq!(models(&DecoderSpec { kv_heads: 16, ..spec_34b() }), None);
    let large = DecoderSpec { layers: 80, hidden: 8192, heads: 64, kv_heads: 8, ffn: 28672, ..spec_7b() };
    assert!(models(&large).is_some_and(|name| name.contains("70B-Expr")));
    // A GGUF file says nothing of the version.
    let either = family::models(&spec_7b(), false).unwrap();
    assert!(either.contains("Aquila-7B") && either.contains("Aquila2-7B"), "{either}");
}

/// What newer versions of transformers write for "no scaling", which Aquila's own code then trips over.
#[test]
fn a_default_rope_type_is_none() {
    let config = second_7b(100_008, 2048, json!({"rope_type": "default"}));
    assert_eq!(read(&config).spec, spec_7b());
}

/// `cp *.py *.json` and two edits: the guide's users name another class, in one of three places.
#[test]
fn a_config_that_the_ascend_guide_edited_is_the_same_decoder() {
    for module in ["modeling_aquila_ascend", "modeling_aquila_cut"] {
        let class = format!("{module}.AquilaForCausalLM");
        let mapped =
            json!({"AutoConfig": "configuration_aquila.AquilaConfig", "AutoModelForCausalLM": class});
        for (edit, v1) in [
            (json!({"auto_map": mapped}), true),
            (json!({"AutoModelForCausalLM": class, "auto_map": null, "world_size": 2}), true),
            (json!({"AutoModelForCausalLM": class, "AutoConfig": "configuration_aquila.AquilaConfig"}), true),
            (json!({"architectures": [class]}), false),
            (json!({"auto_map": {"AutoModelForCausalLM": format!("BAAI/Aquila-7B--{class}")}}), true),
        ] {
            let mut config = first_version();
            for (key, value) in edit.as_object().unwrap() {
                config[key] = value.clone();
            }
            let found = read(&config);
            assert_eq!(found.warnings, Vec::<String>::new(), "{edit}");
            assert!(found.guide_class.is_some_and(|name| name.ends_with(&class)), "{edit}");
            let score_clamp = v1.then_some(1024.0);
            assert_eq!(found.spec, DecoderSpec { norm_eps: 1e-6, score_clamp, ..spec_7b() }, "{edit}");
        }
    }
    assert_eq!(read(&first_version()).guide_class, None);
    for odd in [json!({"auto_map": 7}), json!({"auto_map": ["a"]}), json!({"AutoModelForCausalLM": {}})] {
        let mut config = first_version();
        for (key, value) in odd.as_object().unwrap() {
            config[key] = value.clone();
        }
        assert_eq!(read(&config).guide_class, None, "{odd}");
    }
    let foreign = published(json!({"architectures": ["elsewhere.AquilaForCausalLM"]}));
    assert!(config::parse("config.json", foreign.to_string().as_bytes()).is_err());
}

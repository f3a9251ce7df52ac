//! Damaged directories of FlagAI's layout, and such as mix two layouts in one set of tensors.

use super::refused;
use crate::support::formats::safetensors_bytes;
use crate::support::{TempDir, TinyModel, TinyTensor, TinyTokenizer, flagai};
use aquila::Status;
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

fn small() -> TinyModel {
    let shape =
        TinyModel { layers: 1, hidden: 8, heads: 2, kv_heads: 1, head_dim: 4, ffn: 24, ..flagai::model() };
    TinyModel { vocab: 16, tokenizer: TinyTokenizer::None, ..shape }
}

fn with_config(changes: Value) -> TempDir {
    let dir = TempDir::new();
    small().write_flagai_safetensors(dir.path());
    let mut config = small().flagai_config();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    dir
}

fn with_tensors(change: impl FnOnce(&mut Vec<TinyTensor>)) -> TempDir {
    let dir = with_config(json!({}));
    let mut tensors = small().flagai_tensors();
    change(&mut tensors);
    std::fs::write(dir.join(WEIGHTS), safetensors_bytes(&tensors, small().dtype)).unwrap();
    dir
}

#[test]
fn numbers_that_do_not_fit_the_tensors() {
    aquila::model::Checkpoint::open(with_config(json!({})).path(), false).expect("valid before it is spoilt");
    for (changes, parts) in [
        (json!({"n_heads": 3}), ["config.json: n_heads", "a divisor of dim 8, found 3"]),
        (
            json!({"n_heads": 4, "n_kv_heads": 3}),
            ["config.json: n_kv_heads", "a divisor of n_heads 4, found 3"],
        ),
        (json!({"n_heads": 8, "n_kv_heads": 1}), ["dim / n_heads", "an even number from 2 to 1024, found 1"]),
        (json!({"dim": "8"}), ["config.json: dim", "found \"8\""]),
        (json!({"n_layers": null}), ["config.json: n_layers", "found none"]),
        (
            json!({"multiple_of": 7}),
            ["layers.0.feed_forward.w1.weight", "expected [21, 8] f32, found [24, 8] f32"],
        ),
        (json!({"vocab_size": 17}), ["tok_embeddings.weight", "expected [17, 8] f32, found [16, 8] f32"]),
        (json!({"n_kv_heads": 2}), ["layers.0.attention.wk.weight", "expected [8, 8] f32, found [4, 8] f32"]),
        (json!({"n_layers": 2}), ["layers.1.attention_norm.weight", "expected [8], found none"]),
    ] {
        refused(with_config(changes).path(), Status::Format, &parts);
    }
    let gpt = with_config(json!({"model_type": "gpt2"}));
    refused(gpt.path(), Status::Unsupported, &["config.json: model_type", "found \"gpt2\""]);
}

#[test]
fn tensors_of_another_shape_or_missing() {
    let dir = with_tensors(|tensors| {
        let query = tensors.iter_mut().find(|t| t.name.contains("wq")).unwrap();
        query.shape = vec![4, 16];
    });
    refused(dir.path(), Status::Format, &["wq.weight", "expected [8, 8] f32, found [4, 16] f32"]);
    // FlagAI's models have a head of their own, whatever the file leaves out.
    let dir = with_tensors(|tensors| tensors.retain(|t| t.name != "output.weight"));
    refused(dir.path(), Status::Format, &[WEIGHTS, "tensor output.weight: expected [16, 8], found none"]);
}

/// One set of tensors has one kind of names, and all of them.
#[test]
fn names_of_two_layouts() {
    let theirs = small().tensors();
    let dir = with_tensors(|tensors| {
        let norm = theirs.iter().find(|t| t.name.ends_with("post_attention_layernorm.weight")).unwrap();
        tensors.retain(|t| !t.name.ends_with("ffn_norm.weight"));
        tensors.push(norm.clone());
    });
    let found =
        "found none, but model.layers.0.post_attention_layernorm.weight, which is Hugging Face's name of it";
    refused(dir.path(), Status::Format, &[WEIGHTS, "layers.0.ffn_norm.weight: expected [8]", found]);
    let dir = with_tensors(|tensors| {
        tensors.retain(|t| t.name != "tok_embeddings.weight");
        tensors.push(theirs[0].clone());
    });
    let found = "found none, but layers.0.attention_norm.weight, which is FlagAI's name of it";
    refused(dir.path(), Status::Format, &["model.layers.0.input_layernorm.weight: expected [8]", found]);
}

/// A wrapper's prefix: the message shows what the names are instead.
#[test]
fn names_with_a_prefix() {
    let dir = with_tensors(|tensors| {
        tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, "module."));
    });
    let found = "found none, but module.layers.0.attention.wk.weight, module.layers.0.attention.wo.weight, \
                 module.layers.0.attention.wq.weight and 9 more";
    refused(dir.path(), Status::Format, &["tensor tok_embeddings.weight: expected [16, 8]", found]);
}

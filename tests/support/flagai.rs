//! The small models in the layout of FlagAI, BAAI's training code.

use super::formats::safetensors_bytes;
use super::torch::TorchForm;
use super::{TinyModel, TinyTensor, interleave, tokenizer};
use serde_json::{Value, json};
use std::path::Path;

/// A model that its config.json can describe: a feed-forward by LLaMA's rule, and no biases.
pub fn model() -> TinyModel {
    TinyModel { ffn: 192, eps: 1e-5, tokenizer: super::TinyTokenizer::FlagAi, ..TinyModel::default() }
}

/// The name there of a Hugging Face tensor name.
pub fn name(hugging_face: &str) -> String {
    match hugging_face {
        "model.embed_tokens.weight" => return "tok_embeddings.weight".into(),
        "model.norm.weight" => return "norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let parts = [
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
    ];
    let name = hugging_face.strip_prefix("model.").expect("a layer's tensor");
    let (theirs, ours) = parts.iter().find(|(theirs, _)| name.contains(theirs)).expect("a known part");
    name.replace(theirs, ours)
}

impl TinyModel {
    /// All tensors as FlagAI has them.
    pub fn flagai_tensors(&self) -> Vec<TinyTensor> {
        let stored = |tensor: TinyTensor| {
            let heads = match tensor.name.split('.').rev().nth(1) {
                Some("q_proj") => self.heads,
                Some("k_proj") => self.kv_heads,
                _ => 0,
            };
            let values = match heads {
                0 => tensor.values,
                heads => interleave(&tensor.values, heads * self.head_dim, self.head_dim),
            };
            TinyTensor { name: name(&tensor.name), values, ..tensor }
        };
        self.tensors().into_iter().map(stored).collect()
    }

    /// Its config.json.
    pub fn flagai_config(&self) -> Value {
        assert!(2 * 4 * self.hidden / 3 <= self.ffn, "a feed-forward that LLaMA's rule can give");
        let mut config = json!({
            "dim": self.hidden,
            "multiple_of": self.ffn,
            "n_heads": self.heads,
            "n_layers": self.layers,
            "norm_eps": self.eps,
            "vocab_size": self.vocab,
            "max_seq_len": self.context,
            "initializer_range": 0.006,
            "flash_atten": false,
            "flash_atten_llama_style": false,
        });
        if self.kv_heads != self.heads {
            config["n_kv_heads"] = json!(self.kv_heads);
        }
        config
    }

    /// Writes a directory with pytorch_model.bin; with several shards, and an index.
    pub fn write_flagai_dir(&self, dir: &Path, form: TorchForm) {
        self.write_flagai_around(dir);
        let tensors = self.flagai_tensors();
        self.write_torch_weights(dir, form, &tensors);
    }

    /// The same with model.safetensors.
    pub fn write_flagai_safetensors(&self, dir: &Path) {
        self.write_flagai_around(dir);
        let bytes = safetensors_bytes(&self.flagai_tensors(), self.dtype);
        std::fs::write(dir.join("model.safetensors"), bytes).expect("write the weights");
    }

    fn write_flagai_around(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("create the directory");
        let config = format!("{:#}", self.flagai_config());
        std::fs::write(dir.join("config.json"), config).expect("write config.json");
        tokenizer::write_files(dir, self.tokenizer);
    }
}

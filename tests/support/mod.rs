//! Small valid models for tests: a Hugging Face directory or a GGUF file with seeded random weights
//! and a byte-level vocabulary. Other tests take it in with
//! `#[path = "../support/mod.rs"] mod support;`.

#![allow(dead_code)] // each test uses a part of it

pub mod flagai;
pub mod formats;
pub mod modelslim;
pub mod tokenizer;
pub mod torch;

use formats::{GgufValue, GgufWriter, safetensors_bytes};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of its own that is removed when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("aquila-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TinyType {
    F32,
    F16,
    Bf16,
}

impl TinyType {
    /// The name in a safetensors header.
    pub fn safetensors(self) -> &'static str {
        match self {
            TinyType::F32 => "F32",
            TinyType::F16 => "F16",
            TinyType::Bf16 => "BF16",
        }
    }

    /// The number in a GGUF file.
    pub fn ggml(self) -> u32 {
        match self {
            TinyType::F32 => 0,
            TinyType::F16 => 1,
            TinyType::Bf16 => 30,
        }
    }

    /// The number that is stored for `x`, as f32.
    pub fn round(self, x: f32) -> f32 {
        match self {
            TinyType::F32 => x,
            TinyType::F16 => half::f16::from_f32(x).to_f32(),
            TinyType::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// The stored bytes of `values`.
    pub fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            TinyType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TinyType::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            TinyType::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        }
    }
}

/// Which tokenizer files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TinyTokenizer {
    /// None at all.
    None,
    /// tokenizer.json and tokenizer_config.json.
    Json,
    /// vocab.json, merges.txt, special_tokens_map.json, tokenizer_config.json, as Aquila's v1 repository.
    VocabMerges,
    /// vocab.json, merges.txt and special_tokens.txt, as BAAI's training code.
    FlagAi,
}

/// A tensor under its Hugging Face name. The values are exactly what is stored.
#[derive(Clone, Debug)]
pub struct TinyTensor {
    pub name: String,
    /// Outermost first; one dimension for norms and biases.
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A small model; every field may be changed before it is written.
#[derive(Clone, Debug)]
pub struct TinyModel {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// At least [`tokenizer::VOCAB`] where a tokenizer is written.
    pub vocab: usize,
    pub context: usize,
    pub theta: f64,
    pub eps: f64,
    pub rope_scaling: Value,
    pub tied: bool,
    /// Biases on q, k, v and o.
    pub biases: bool,
    pub model_type: &'static str,
    pub architecture: &'static str,
    pub dtype: TinyType,
    /// safetensors files; more than one with an index.
    pub shards: usize,
    pub tokenizer: TinyTokenizer,
    pub seed: u64,
}

impl Default for TinyModel {
    fn default() -> Self {
        TinyModel {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 96,
            vocab: 288,
            context: 128,
            theta: 10000.0,
            eps: 1e-6,
            rope_scaling: Value::Null,
            tied: false,
            biases: false,
            model_type: "aquila",
            architecture: "AquilaForCausalLM",
            dtype: TinyType::F32,
            shards: 1,
            tokenizer: TinyTokenizer::Json,
            seed: 1,
        }
    }
}

/// Seeded numbers in [-1, 1): splitmix64.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl TinyModel {
    /// All tensors under their Hugging Face names, in file order.
    pub fn tensors(&self) -> Vec<TinyTensor> {
        let mut numbers = Numbers(self.seed);
        let mut out = Vec::new();
        let mut add = |name: String, shape: Vec<usize>, centre: f32, spread: f32| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| self.dtype.round(centre + spread * numbers.unit())).collect();
            out.push(TinyTensor { name, shape, values });
        };
        let (h, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let spread = |cols: usize| (3.0 / cols as f32).sqrt();
        add("model.embed_tokens.weight".into(), vec![self.vocab, h], 0.0, 1.0);
        for layer in 0..self.layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            add(at("input_layernorm.weight"), vec![h], 1.0, 0.1);
            for (part, rows, cols) in [("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)] {
                add(at(&format!("self_attn.{part}_proj.weight")), vec![rows, cols], 0.0, spread(cols));
                if self.biases {
                    add(at(&format!("self_attn.{part}_proj.bias")), vec![rows], 0.0, 0.2);
                }
            }
            add(at("post_attention_layernorm.weight"), vec![h], 1.0, 0.1);
            add(at("mlp.gate_proj.weight"), vec![self.ffn, h], 0.0, spread(h));
            add(at("mlp.up_proj.weight"), vec![self.ffn, h], 0.0, spread(h));
            add(at("mlp.down_proj.weight"), vec![h, self.ffn], 0.0, spread(self.ffn));
        }
        add("model.norm.weight".into(), vec![h], 1.0, 0.1);
        if !self.tied {
            add("lm_head.weight".into(), vec![self.vocab, h], 0.0, spread(h));
        }
        out
    }

    /// config.json.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "bos_token_id": tokenizer::CLS,
            "eos_token_id": tokenizer::EOS,
            "pad_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.eps,
            "rope_scaling": self.rope_scaling,
            "rope_theta": self.theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": match self.dtype {
                TinyType::F32 => "float32",
                TinyType::F16 => "float16",
                TinyType::Bf16 => "bfloat16",
            },
            "transformers_version": "4.31.0",
            "use_cache": true,
            "vocab_size": self.vocab,
        });
        if self.head_dim * self.heads != self.hidden {
            config["head_dim"] = json!(self.head_dim);
        }
        if self.biases {
            config["attention_bias"] = json!(true);
        }
        config
    }

    /// Writes what a Hugging Face directory has beside the weights.
    pub fn write_around(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("create the directory");
        let write = |name: &str, text: String| {
            std::fs::write(dir.join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
        };
        write("config.json", format!("{:#}", self.config()));
        write(
            "generation_config.json",
            json!({"bos_token_id": tokenizer::CLS, "eos_token_id": tokenizer::EOS}).to_string(),
        );
        tokenizer::write_files(dir, self.tokenizer);
    }

    /// Writes a Hugging Face directory with safetensors.
    pub fn write_dir(&self, dir: &Path) {
        self.write_around(dir);
        let tensors = self.tensors();
        let shards = self.shards.max(1);
        if shards == 1 {
            let bytes = safetensors_bytes(&tensors, self.dtype);
            std::fs::write(dir.join("model.safetensors"), bytes).expect("write the weights");
            return;
        }
        let mut map = serde_json::Map::new();
        let mut total = 0;
        for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            for tensor in part {
                map.insert(tensor.name.clone(), json!(name));
                total += self.dtype.bytes(&tensor.values).len();
            }
            std::fs::write(dir.join(&name), safetensors_bytes(part, self.dtype)).expect("write a shard");
        }
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).expect("write the index");
    }

    /// Writes a GGUF file (v3, architecture llama) with the rows of q and k in llama.cpp's order.
    pub fn write_gguf(&self, path: &Path) {
        std::fs::write(path, self.gguf().bytes()).expect("write the GGUF file");
    }

    /// The GGUF file before it is written, so that a test can spoil it.
    pub fn gguf(&self) -> GgufWriter {
        let mut gguf = GgufWriter::new();
        let number = |n: usize| GgufValue::U32(n as u32);
        gguf.set("general.architecture", GgufValue::Str("llama".into()));
        gguf.set("general.name", GgufValue::Str("tiny".into()));
        gguf.set("llama.block_count", number(self.layers));
        gguf.set("llama.context_length", number(self.context));
        gguf.set("llama.embedding_length", number(self.hidden));
        gguf.set("llama.feed_forward_length", number(self.ffn));
        gguf.set("llama.attention.head_count", number(self.heads));
        gguf.set("llama.attention.head_count_kv", number(self.kv_heads));
        gguf.set("llama.rope.dimension_count", number(self.head_dim));
        if self.head_dim * self.heads != self.hidden {
            gguf.set("llama.attention.key_length", number(self.head_dim));
            gguf.set("llama.attention.value_length", number(self.head_dim));
        }
        gguf.set("llama.rope.freq_base", GgufValue::F32(self.theta as f32));
        gguf.set("llama.attention.layer_norm_rms_epsilon", GgufValue::F32(self.eps as f32));
        if self.tokenizer != TinyTokenizer::None {
            tokenizer::add_to_gguf(&mut gguf, self.vocab);
        }
        for tensor in self.tensors() {
            let values = if tensor.name.contains("q_proj") {
                interleave(&tensor.values, self.heads * self.head_dim, self.head_dim)
            } else if tensor.name.contains("k_proj") {
                interleave(&tensor.values, self.kv_heads * self.head_dim, self.head_dim)
            } else {
                tensor.values
            };
            // llama.cpp stores vectors as f32 in every file.
            let dtype = if tensor.shape.len() == 1 { TinyType::F32 } else { self.dtype };
            gguf.tensor(&gguf_name(&tensor.name), &tensor.shape, dtype.ggml(), dtype.bytes(&values));
        }
        gguf
    }
}

/// The GGUF name of a Hugging Face tensor name.
pub fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let rest = name.strip_prefix("model.layers.").expect("a layer's tensor");
    let (layer, part) = rest.split_once('.').expect("a part");
    let (part, kind) = part.rsplit_once('.').expect("a kind");
    let short = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => panic!("no GGUF name for {other}"),
    };
    format!("blk.{layer}.{short}.{kind}")
}

/// `rows` rows in llama.cpp's order: within each head the two rotary halves alternate.
fn interleave(values: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let cols = values.len() / rows;
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
        let stored = head * head_dim + 2 * i + half;
        out[stored * cols..(stored + 1) * cols].copy_from_slice(&values[row * cols..(row + 1) * cols]);
    }
    out
}

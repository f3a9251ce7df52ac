//! What the tensors of a decoder are called in each kind of checkpoint, and their shapes.

use crate::loading::tensor::TensorTable;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, RowMap};

/// A way of naming tensors, with the order of rows that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `model.layers.0.self_attn.q_proj.weight`: rotary halves one after the other.
    HuggingFace,
    /// `layers.0.attention.wq.weight`, BAAI's own training code: the rows of q and k alternate between the rotary
    /// halves, which are the real and the imaginary part of a complex number there.
    FlagAi,
    /// `blk.0.attn_q.weight`: the rows of q and k alternate between the rotary halves.
    Gguf,
}

/// The tensors that every layer has.
pub const LAYER_ROLES: [Role; 9] = [
    Role::AttentionNorm,
    Role::Query,
    Role::Key,
    Role::Value,
    Role::Output,
    Role::FfnNorm,
    Role::Gate,
    Role::Up,
    Role::Down,
];

/// The tensors that the layers of some checkpoints have, all of them or none.
pub const BIAS_ROLES: [Role; 4] = [Role::QueryBias, Role::KeyBias, Role::ValueBias, Role::OutputBias];

/// What is added behind the norms of a layer, where msModelSlim shifted the inputs of its products.
pub const NORM_BIAS_ROLES: [Role; 2] = [Role::AttentionNormBias, Role::FfnNormBias];

/// Rows and columns of a role's weight; vectors have one row.
pub fn shape(role: Role, spec: &DecoderSpec) -> (usize, usize) {
    let (hidden, q, kv) = (spec.hidden, spec.q_width(), spec.kv_width());
    match role {
        Role::Embedding | Role::Head => (spec.vocab, hidden),
        Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm | Role::OutputBias => (1, hidden),
        Role::AttentionNormBias | Role::FfnNormBias => (1, hidden),
        Role::Query => (q, hidden),
        Role::Key | Role::Value => (kv, hidden),
        Role::Output => (hidden, q),
        Role::QueryBias => (1, q),
        Role::KeyBias | Role::ValueBias => (1, kv),
        Role::Gate | Role::Up => (spec.ffn, hidden),
        Role::Down => (hidden, spec.ffn),
    }
}

/// Whether a role is a vector: one dimension in the file.
pub fn is_vector(role: Role) -> bool {
    let norms = [Role::AttentionNorm, Role::FfnNorm, Role::FinalNorm];
    norms.contains(&role) || BIAS_ROLES.contains(&role) || NORM_BIAS_ROLES.contains(&role)
}

impl Naming {
    /// How the tensors of a directory are named, told by the name of the embedding, which every kind has; `None` where
    /// there is none of these names.
    pub fn of_directory(table: &TensorTable) -> Option<Naming> {
        [Naming::HuggingFace, Naming::FlagAi]
            .into_iter()
            .find(|naming| table.get(&naming.tensor(0, Role::Embedding)).is_some())
    }

    /// Whose names they are, for a person.
    pub fn name(self) -> &'static str {
        match self {
            Naming::HuggingFace => "Hugging Face",
            Naming::FlagAi => "FlagAI",
            Naming::Gguf => "GGUF",
        }
    }

    /// The name of a role's tensor. Those outside the layers leave `layer` unused.
    pub fn tensor(self, layer: usize, role: Role) -> String {
        match self {
            Naming::HuggingFace => match role {
                Role::Embedding => "model.embed_tokens.weight".into(),
                Role::FinalNorm => "model.norm.weight".into(),
                Role::Head => "lm_head.weight".into(),
                _ => format!("model.layers.{layer}.{}", hugging_face_part(role)),
            },
            Naming::FlagAi => match role {
                Role::Embedding => "tok_embeddings.weight".into(),
                Role::FinalNorm => "norm.weight".into(),
                Role::Head => "output.weight".into(),
                _ => format!("layers.{layer}.{}", flagai_part(role)),
            },
            Naming::Gguf => match role {
                Role::Embedding => "token_embd.weight".into(),
                Role::FinalNorm => "output_norm.weight".into(),
                Role::Head => "output.weight".into(),
                _ => format!("blk.{layer}.{}", gguf_part(role)),
            },
        }
    }

    /// The names of the feed-forward's biases, which no decoder here has.
    pub fn ffn_biases(self, layer: usize) -> [String; 3] {
        match self {
            Naming::HuggingFace => {
                ["gate", "up", "down"].map(|part| format!("model.layers.{layer}.mlp.{part}_proj.bias"))
            }
            Naming::FlagAi => {
                ["w1", "w3", "w2"].map(|part| format!("layers.{layer}.feed_forward.{part}.bias"))
            }
            Naming::Gguf => ["gate", "up", "down"].map(|part| format!("blk.{layer}.ffn_{part}.bias")),
        }
    }

    /// The order of a role's stored rows.
    pub fn row_map(self, role: Role, spec: &DecoderSpec) -> RowMap {
        match (self, role) {
            (Naming::FlagAi | Naming::Gguf, Role::Query | Role::Key | Role::QueryBias | Role::KeyBias) => {
                RowMap::Interleaved { head_dim: spec.head_dim }
            }
            _ => RowMap::Identity,
        }
    }

    /// Tensors that are no weights and are left alone: the rotary frequencies that checkpoints of
    /// Aquila's time carry along as buffers.
    pub fn is_ignored(self, name: &str) -> bool {
        self == Naming::HuggingFace && name.ends_with("rotary_emb.inv_freq")
    }
}

fn hugging_face_part(role: Role) -> &'static str {
    match role {
        Role::AttentionNorm => "input_layernorm.weight",
        Role::Query => "self_attn.q_proj.weight",
        Role::Key => "self_attn.k_proj.weight",
        Role::Value => "self_attn.v_proj.weight",
        Role::Output => "self_attn.o_proj.weight",
        Role::QueryBias => "self_attn.q_proj.bias",
        Role::KeyBias => "self_attn.k_proj.bias",
        Role::ValueBias => "self_attn.v_proj.bias",
        Role::OutputBias => "self_attn.o_proj.bias",
        Role::FfnNorm => "post_attention_layernorm.weight",
        Role::Gate => "mlp.gate_proj.weight",
        Role::Up => "mlp.up_proj.weight",
        Role::Down => "mlp.down_proj.weight",
        Role::AttentionNormBias => "input_layernorm.bias",
        Role::FfnNormBias => "post_attention_layernorm.bias",
        Role::Embedding | Role::FinalNorm | Role::Head => "",
    }
}

fn flagai_part(role: Role) -> &'static str {
    match role {
        Role::AttentionNorm => "attention_norm.weight",
        Role::Query => "attention.wq.weight",
        Role::Key => "attention.wk.weight",
        Role::Value => "attention.wv.weight",
        Role::Output => "attention.wo.weight",
        Role::QueryBias => "attention.wq.bias",
        Role::KeyBias => "attention.wk.bias",
        Role::ValueBias => "attention.wv.bias",
        Role::OutputBias => "attention.wo.bias",
        Role::FfnNorm => "ffn_norm.weight",
        Role::Gate => "feed_forward.w1.weight",
        Role::Up => "feed_forward.w3.weight",
        Role::Down => "feed_forward.w2.weight",
        Role::AttentionNormBias => "attention_norm.bias",
        Role::FfnNormBias => "ffn_norm.bias",
        Role::Embedding | Role::FinalNorm | Role::Head => "",
    }
}

fn gguf_part(role: Role) -> &'static str {
    match role {
        Role::AttentionNorm => "attn_norm.weight",
        Role::Query => "attn_q.weight",
        Role::Key => "attn_k.weight",
        Role::Value => "attn_v.weight",
        Role::Output => "attn_output.weight",
        Role::QueryBias => "attn_q.bias",
        Role::KeyBias => "attn_k.bias",
        Role::ValueBias => "attn_v.bias",
        Role::OutputBias => "attn_output.bias",
        Role::FfnNorm => "ffn_norm.weight",
        Role::Gate => "ffn_gate.weight",
        Role::Up => "ffn_up.weight",
        Role::Down => "ffn_down.weight",
        Role::AttentionNormBias => "attn_norm.bias",
        Role::FfnNormBias => "ffn_norm.bias",
        Role::Embedding | Role::FinalNorm | Role::Head => "",
    }
}

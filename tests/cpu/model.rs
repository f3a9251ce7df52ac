//! Tiny random decoders, stored in the ways that checkpoints store them.

use aquila::base::dtype::DType;
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use aquila::model::weights::{Role, RowMap, Weight, WeightSet};
use std::collections::HashMap;

/// A decoder's values, already rounded to the type they are stored in.
pub struct Model {
    pub spec: DecoderSpec,
    pub dtype: DType,
    pub values: HashMap<(usize, Role), Vec<f32>>,
}

/// A small decoder with grouped heads; tests change what they are about.
pub fn small() -> DecoderSpec {
    DecoderSpec {
        layers: 2,
        hidden: 96,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        ffn: 144,
        vocab: 131,
        norm_eps: 1e-5,
        rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
        context: 256,
        score_clamp: None,
        tied: false,
    }
}

/// Numbers in −1..1 from a seed (splitmix64).
pub fn random(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// `n` token ids below `vocab`.
pub fn tokens(n: usize, vocab: usize, mut seed: u64) -> Vec<u32> {
    (0..n).map(|_| ((random(&mut seed) + 1.0) / 2.0 * vocab as f32) as u32 % vocab as u32).collect()
}

const MATRICES: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::Output, Role::Gate, Role::Up, Role::Down];
const BIASES: [Role; 4] = [Role::QueryBias, Role::KeyBias, Role::ValueBias, Role::OutputBias];

fn shape(spec: &DecoderSpec, role: Role) -> (usize, usize) {
    match role {
        Role::Embedding | Role::Head => (spec.vocab, spec.hidden),
        Role::Query => (spec.q_width(), spec.hidden),
        Role::Key | Role::Value => (spec.kv_width(), spec.hidden),
        Role::Output => (spec.hidden, spec.q_width()),
        Role::Gate | Role::Up => (spec.ffn, spec.hidden),
        Role::Down => (spec.hidden, spec.ffn),
        Role::QueryBias => (1, spec.q_width()),
        Role::KeyBias | Role::ValueBias => (1, spec.kv_width()),
        _ => (1, spec.hidden),
    }
}

impl Model {
    /// Random values for every weight of `spec`, with or without biases.
    pub fn new(spec: DecoderSpec, dtype: DType, biases: bool) -> Model {
        let mut model = Model { spec: spec.clone(), dtype, values: HashMap::new() };
        let mut seed = 7;
        let mut add = |layer, role| {
            let (rows, cols) = shape(&spec, role);
            let is_norm = matches!(role, Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm);
            let scale = if role == Role::Embedding { 1.0 } else { (3.0 / cols as f32).sqrt() };
            let values = (0..rows * cols).map(|_| {
                let value = random(&mut seed);
                let value = match (is_norm, rows) {
                    (true, _) => 1.0 + value / 4.0,
                    (_, 1) => value / 2.0,
                    _ => value * scale,
                };
                rounded(value, dtype)
            });
            model.values.insert((layer, role), values.collect());
        };
        add(0, Role::Embedding);
        add(0, Role::FinalNorm);
        if !spec.tied {
            add(0, Role::Head);
        }
        for layer in 0..spec.layers {
            MATRICES.into_iter().for_each(|role| add(layer, role));
            add(layer, Role::AttentionNorm);
            add(layer, Role::FfnNorm);
            if biases {
                BIASES.into_iter().for_each(|role| add(layer, role));
            }
        }
        model
    }

    /// A weight's rows in f64.
    pub fn rows(&self, layer: usize, role: Role) -> Vec<Vec<f64>> {
        let cols = shape(&self.spec, role).1;
        let values = &self.values[&(layer, role)];
        values.chunks_exact(cols).map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect()
    }

    /// A vector in f64.
    pub fn row(&self, layer: usize, role: Role) -> Vec<f64> {
        self.values[&(layer, role)].iter().map(|&v| f64::from(v)).collect()
    }

    /// All weights, whole and in order.
    pub fn plain(&self) -> WeightSet {
        self.stored(|_, weight| weight)
    }

    /// q and k with the rows of each head interleaved, o and down cut in three along k and joined.
    pub fn awkward(&self) -> WeightSet {
        self.stored(|role, weight| match role {
            Role::Query | Role::Key => interleaved(&weight, self.spec.head_dim),
            Role::Output | Role::Down => {
                let third = weight.cols / 3;
                let cuts = [0..third, third..2 * third + 1, 2 * third + 1..weight.cols];
                let parts = cuts.into_iter().map(|cols| weight.narrow_cols(cols).unwrap()).collect();
                Weight::join_cols(&weight.name, parts).unwrap()
            }
            _ => weight,
        })
    }

    fn stored(&self, change: impl Fn(Role, Weight) -> Weight) -> WeightSet {
        let mut set = WeightSet::default();
        for (&(layer, role), values) in &self.values {
            let (rows, cols) = shape(&self.spec, role);
            let name = format!("layers.{layer}.{role:?}");
            let bytes = encoded(values, self.dtype);
            let weight = Weight::whole(&name, rows, cols, self.dtype, bytes.into(), RowMap::Identity);
            set.insert(layer, role, change(role, weight.unwrap()));
        }
        set
    }
}

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::BF16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

fn encoded(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The same matrix with its rows stored as llama.cpp stores q and k.
fn interleaved(weight: &Weight, head_dim: usize) -> Weight {
    let map = RowMap::Interleaved { head_dim };
    let piece = &weight.pieces[0];
    let mut bytes = vec![0; piece.bytes.len()];
    for row in 0..weight.rows {
        let stored = piece.row(row);
        bytes[map.stored(row) * stored.len()..][..stored.len()].copy_from_slice(stored);
    }
    Weight::whole(&weight.name, weight.rows, weight.cols, piece.dtype, bytes.into(), map).unwrap()
}

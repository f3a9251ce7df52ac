//! A tiny decoder with seeded weights, and its plain evaluation: what every executor must agree with.

use aquila::base::dtype::DType;
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use aquila::model::weights::{Role, RowMap, Weight, WeightSet};

/// Two layers, three heads of eight: o (k = 24) and down (k = 36) can be cut in three along k.
pub fn spec(context: usize) -> DecoderSpec {
    DecoderSpec {
        layers: 2,
        hidden: 24,
        heads: 3,
        kv_heads: 3,
        head_dim: 8,
        ffn: 36,
        vocab: 50,
        norm_eps: 1e-5,
        rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
        context,
        score_clamp: None,
        tied: false,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn matrix(name: &str, rows: usize, cols: usize, random: &mut Random, scale: f32, offset: f32) -> Weight {
    let bytes: Vec<u8> =
        (0..rows * cols).flat_map(|_| (random.next() * scale + offset).to_le_bytes()).collect();
    Weight::whole(name, rows, cols, DType::F32, bytes.into(), RowMap::Identity).unwrap()
}

/// The same matrix as three pieces along k, as three cards' files hold it.
fn cut_in_three(whole: Weight) -> Weight {
    let part = whole.cols / 3;
    let parts = (0..3).map(|rank| {
        let stored: Vec<u8> = (0..whole.rows)
            .flat_map(|row| whole.pieces[0].row(row)[rank * part * 4..(rank + 1) * part * 4].to_vec())
            .collect();
        Weight::whole(&whole.name, whole.rows, part, DType::F32, stored.into(), RowMap::Identity).unwrap()
    });
    Weight::join_cols(&whole.name, parts.collect()).unwrap()
}

/// The weights of [`spec`]; `cut`: o and down in three pieces along k. The numbers are the same.
pub fn weights(spec: &DecoderSpec, cut: bool) -> WeightSet {
    let mut random = Random(7);
    let mut set = WeightSet::default();
    let (h, q, kv, f) = (spec.hidden, spec.q_width(), spec.kv_width(), spec.ffn);
    set.insert(0, Role::Embedding, matrix("embedding", spec.vocab, h, &mut random, 1.0, 0.0));
    for layer in 0..spec.layers {
        let mut put = |role, rows, cols| {
            let whole = matrix("layer", rows, cols, &mut random, 1.2 / (cols as f32).sqrt(), 0.0);
            let along_k = cut && matches!(role, Role::Output | Role::Down);
            set.insert(layer, role, if along_k { cut_in_three(whole) } else { whole });
        };
        put(Role::Query, q, h);
        put(Role::Key, kv, h);
        put(Role::Value, kv, h);
        put(Role::Output, h, q);
        put(Role::Gate, f, h);
        put(Role::Up, f, h);
        put(Role::Down, h, f);
        for role in [Role::AttentionNorm, Role::FfnNorm] {
            set.insert(layer, role, matrix("norm", 1, h, &mut random, 0.1, 1.0));
        }
    }
    set.insert(0, Role::FinalNorm, matrix("norm", 1, h, &mut random, 0.1, 1.0));
    set.insert(0, Role::Head, matrix("head", spec.vocab, h, &mut random, 1.0, 0.0));
    set
}

/// A plain decoder over f32 rows; keys and values are the caller's to keep.
pub struct Plain {
    pub spec: DecoderSpec,
    weights: WeightSet,
}

/// Keys and values of one position: `[layer] -> (key, value)`.
pub type KeyValue = Vec<(Vec<f32>, Vec<f32>)>;

impl Plain {
    pub fn new(spec: DecoderSpec, weights: WeightSet) -> Self {
        Plain { spec, weights }
    }

    fn times(&self, layer: usize, role: Role, x: &[f32]) -> Vec<f32> {
        let weight = self.weights.need(layer, role).unwrap();
        let mut row = vec![0.0; weight.cols];
        (0..weight.rows)
            .map(|r| {
                weight.row_f32(r, &mut row);
                row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>() as f32
            })
            .collect()
    }

    fn norm(&self, layer: usize, role: Role, x: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; x.len()];
        self.weights.need(layer, role).unwrap().row_f32(0, &mut weight);
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = (mean + f64::from(self.spec.norm_eps)).sqrt().recip();
        x.iter().zip(&weight).map(|(&x, &w)| (f64::from(x) * scale) as f32 * w).collect()
    }

    fn rotate(&self, x: &mut [f32], position: usize) {
        let half = self.spec.head_dim / 2;
        for head in x.chunks_exact_mut(self.spec.head_dim) {
            for i in 0..half {
                let angle = position as f64
                    / f64::from(self.spec.rope.theta).powf(2.0 * i as f64 / self.spec.head_dim as f64);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
                head[i] = (a * cos - b * sin) as f32;
                head[i + half] = (b * cos + a * sin) as f32;
            }
        }
    }

    /// One token at `position`. `past(layer, p)` gives key and value of position p < `position`;
    /// returns the new key and value of each layer and the logits.
    pub fn token(
        &self,
        id: u32,
        position: usize,
        past: impl Fn(usize, usize) -> (Vec<f32>, Vec<f32>),
    ) -> (KeyValue, Vec<f32>) {
        let spec = &self.spec;
        let mut x = vec![0.0; spec.hidden];
        self.weights.need(0, Role::Embedding).unwrap().row_f32(id as usize, &mut x);
        let mut made = Vec::new();
        for layer in 0..spec.layers {
            let n = self.norm(layer, Role::AttentionNorm, &x);
            let mut q = self.times(layer, Role::Query, &n);
            let mut k = self.times(layer, Role::Key, &n);
            let v = self.times(layer, Role::Value, &n);
            self.rotate(&mut q, position);
            self.rotate(&mut k, position);
            let mut all: Vec<_> = (0..position).map(|p| past(layer, p)).collect();
            all.push((k.clone(), v.clone()));
            let mixed = self.attend(&q, &all);
            for (x, o) in x.iter_mut().zip(self.times(layer, Role::Output, &mixed)) {
                *x += o;
            }
            let n = self.norm(layer, Role::FfnNorm, &x);
            let up = self.times(layer, Role::Up, &n);
            let gated: Vec<f32> = self
                .times(layer, Role::Gate, &n)
                .iter()
                .zip(&up)
                .map(|(&g, &u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            for (x, d) in x.iter_mut().zip(self.times(layer, Role::Down, &gated)) {
                *x += d;
            }
            made.push((k, v));
        }
        let n = self.norm(0, Role::FinalNorm, &x);
        (made, self.times(0, Role::Head, &n))
    }

    fn attend(&self, q: &[f32], all: &[(Vec<f32>, Vec<f32>)]) -> Vec<f32> {
        let d = self.spec.head_dim;
        let mut out = vec![0.0; q.len()];
        for head in 0..self.spec.heads {
            let at = head * d..(head + 1) * d;
            let scores: Vec<f64> = all
                .iter()
                .map(|(k, _)| {
                    let dot: f64 = q[at.clone()]
                        .iter()
                        .zip(&k[at.clone()])
                        .map(|(&a, &b)| f64::from(a) * f64::from(b))
                        .sum();
                    dot / (d as f64).sqrt()
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (i, o) in out[at.clone()].iter_mut().enumerate() {
                let mix: f64 =
                    weights.iter().zip(all).map(|(w, (_, v))| w * f64::from(v[head * d + i])).sum();
                *o = (mix / sum) as f32;
            }
        }
        out
    }

    /// The greedy continuation, without any engine.
    pub fn greedy(&self, prompt: &[u32], new: usize) -> Vec<u32> {
        let mut cache: Vec<KeyValue> = Vec::new();
        let mut tokens = prompt.to_vec();
        let mut position = 0;
        while tokens.len() < prompt.len() + new {
            let (made, logits) = self.token(tokens[position], position, |layer, p| cache[p][layer].clone());
            cache.push(made);
            position += 1;
            if position == tokens.len() {
                tokens.push(largest(&logits));
            }
        }
        tokens.split_off(prompt.len())
    }
}

/// The index of the largest logit, the lowest of equals.
pub fn largest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    best as u32
}

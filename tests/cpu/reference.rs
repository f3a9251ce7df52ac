//! A decoder in plain f64, written for clarity: what the executor must agree with.

use crate::model::Model;
use aquila::model::spec::RopeScaling;
use aquila::model::weights::Role;

type Matrix = Vec<Vec<f64>>;

/// Logits `[tokens][vocab]` and, after each layer, the residual `[layers][tokens][hidden]`.
pub struct Output {
    pub logits: Matrix,
    pub residuals: Vec<Matrix>,
}

/// Runs `tokens` as one sequence from position 0, for an engine loaded for `context` tokens.
pub fn run(model: &Model, tokens: &[u32], context: usize) -> Output {
    let spec = &model.spec;
    let embedding = model.rows(0, Role::Embedding);
    let mut x: Matrix = tokens.iter().map(|&t| embedding[t as usize].clone()).collect();
    let mut residuals = Vec::new();
    for layer in 0..spec.layers {
        let h = norm_all(&x, &model.row(layer, Role::AttentionNorm), spec.norm_eps);
        let mut q = project(model, layer, Role::Query, Role::QueryBias, &h);
        let mut k = project(model, layer, Role::Key, Role::KeyBias, &h);
        let v = project(model, layer, Role::Value, Role::ValueBias, &h);
        rotate(model, &mut q, context);
        rotate(model, &mut k, context);
        let attended = attention(model, &q, &k, &v);
        add(&mut x, &project(model, layer, Role::Output, Role::OutputBias, &attended));
        let h = norm_all(&x, &model.row(layer, Role::FfnNorm), spec.norm_eps);
        let mut gate = multiply(&model.rows(layer, Role::Gate), &h);
        let up = multiply(&model.rows(layer, Role::Up), &h);
        for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        add(&mut x, &multiply(&model.rows(layer, Role::Down), &gate));
        residuals.push(x.clone());
    }
    let h = norm_all(&x, &model.row(0, Role::FinalNorm), spec.norm_eps);
    let head = model.rows(0, if spec.tied { Role::Embedding } else { Role::Head });
    Output { logits: multiply(&head, &h), residuals }
}

fn norm_all(x: &Matrix, weight: &[f64], eps: f32) -> Matrix {
    x.iter()
        .map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter().zip(weight).map(|(v, w)| v * scale * w).collect()
        })
        .collect()
}

fn multiply(weight: &Matrix, x: &Matrix) -> Matrix {
    let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(a, b)| a * b).sum();
    x.iter().map(|x| weight.iter().map(|w| dot(w, x)).collect()).collect()
}

fn project(model: &Model, layer: usize, weight: Role, bias: Role, x: &Matrix) -> Matrix {
    let mut out = multiply(&model.rows(layer, weight), x);
    if model.values.contains_key(&(layer, bias)) {
        let bias = model.row(layer, bias);
        out.iter_mut().for_each(|row| row.iter_mut().zip(&bias).for_each(|(o, b)| *o += b));
    }
    out
}

fn add(x: &mut Matrix, other: &Matrix) {
    x.iter_mut().flatten().zip(other.iter().flatten()).for_each(|(x, o)| *x += o);
}

fn rotate(model: &Model, rows: &mut Matrix, context: usize) {
    let (d, rope) = (model.spec.head_dim, &model.spec.rope);
    let (mut theta, mut divisor) = (f64::from(rope.theta), 1.0);
    match rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => divisor = f64::from(factor),
        RopeScaling::DynamicNtk { factor, trained } => {
            let (factor, stretch) = (f64::from(factor), context as f64 / f64::from(trained));
            if stretch > 1.0 {
                theta *= (factor * stretch - (factor - 1.0)).powf(d as f64 / (d as f64 - 2.0));
            }
        }
    }
    for (position, row) in rows.iter_mut().enumerate() {
        for head in row.chunks_exact_mut(d) {
            for i in 0..d / 2 {
                let angle = position as f64 / divisor * theta.powf(-2.0 * i as f64 / d as f64);
                let (a, b) = (head[i], head[i + d / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + d / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
}

fn attention(model: &Model, q: &Matrix, k: &Matrix, v: &Matrix) -> Matrix {
    let spec = &model.spec;
    let (d, group) = (spec.head_dim, spec.heads / spec.kv_heads);
    let mut out = vec![vec![0.0; spec.q_width()]; q.len()];
    for (t, out) in out.iter_mut().enumerate() {
        for head in 0..spec.heads {
            let (at, kv) = (head * d, head / group * d);
            let mut scores: Vec<f64> = (0..=t)
                .map(|j| {
                    let dot: f64 = (0..d).map(|i| q[t][at + i] * k[j][kv + i]).sum();
                    let score = dot / (d as f64).sqrt();
                    spec.score_clamp.map_or(score, |c| score.clamp(-f64::from(c), f64::from(c)))
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let sum: f64 = scores.iter().sum();
            for i in 0..d {
                out[at + i] = scores.iter().enumerate().map(|(j, s)| s / sum * v[j][kv + i]).sum();
            }
        }
    }
    out
}

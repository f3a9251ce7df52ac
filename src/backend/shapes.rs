//! Which weights a decoder has, and their shapes: what every backend asks of a checkpoint.

use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, Weight, WeightSet};

/// The matrices of a layer, in the order of the forward pass.
pub const LAYER_MATRICES: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::Output, Role::Gate, Role::Up, Role::Down];
/// The vectors that every layer has.
pub const LAYER_NORMS: [Role; 2] = [Role::AttentionNorm, Role::FfnNorm];
/// The vectors that a layer may have.
pub const LAYER_BIASES: [Role; 4] = [Role::QueryBias, Role::KeyBias, Role::ValueBias, Role::OutputBias];

/// Rows and columns that `role` has in `spec`.
pub fn shape(spec: &DecoderSpec, role: Role) -> (usize, usize) {
    let (hidden, q, kv) = (spec.hidden, spec.q_width(), spec.kv_width());
    match role {
        Role::Embedding | Role::Head => (spec.vocab, hidden),
        Role::Query => (q, hidden),
        Role::Key | Role::Value => (kv, hidden),
        Role::Output => (hidden, q),
        Role::Gate | Role::Up => (spec.ffn, hidden),
        Role::Down => (hidden, spec.ffn),
        Role::AttentionNorm | Role::FfnNorm | Role::FinalNorm | Role::OutputBias => (1, hidden),
        Role::AttentionNormBias | Role::FfnNormBias => (1, hidden),
        Role::QueryBias => (1, q),
        Role::KeyBias | Role::ValueBias => (1, kv),
    }
}

/// The weight of a role that must exist, with its shape checked.
pub fn need<'a>(spec: &DecoderSpec, weights: &'a WeightSet, layer: usize, role: Role) -> Result<&'a Weight> {
    checked(spec, role, weights.need(layer, role)?)
}

/// The weight of a role that may be absent, with its shape checked.
pub fn may<'a>(
    spec: &DecoderSpec,
    weights: &'a WeightSet,
    layer: usize,
    role: Role,
) -> Result<Option<&'a Weight>> {
    weights.get(layer, role).map(|weight| checked(spec, role, weight)).transpose()
}

fn checked<'a>(spec: &DecoderSpec, role: Role, weight: &'a Weight) -> Result<&'a Weight> {
    let (rows, cols) = shape(spec, role);
    crate::ensure!(
        (weight.rows, weight.cols) == (rows, cols),
        Format,
        "{}: expected {rows} × {cols}, found {} × {}",
        weight.name,
        weight.rows,
        weight.cols
    );
    Ok(weight)
}

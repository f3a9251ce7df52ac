//! What the CPU executor will make of each weight, decided from headers alone: where it is used in
//! place, and where and as what it is converted. Planning and loading both follow the same decision.

use super::kernels::Element;
use crate::backend::ComputeType;
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

/// How a matrix is held: as asked for; else as stored, where that is one plain type; else bf16 for
/// quantised types and f32 (which holds them all) for a mixture of plain ones.
pub fn element_of(weight: &Weight, dtype: Option<ComputeType>) -> Element {
    match dtype {
        Some(ComputeType::F32) => Element::F32,
        Some(ComputeType::F16) => Element::F16,
        Some(ComputeType::Bf16) => Element::Bf16,
        None => {
            let plain = weight.pieces.iter().all(|p| p.dtype.is_plain());
            let mixed = if plain { Element::F32 } else { Element::Bf16 };
            weight.dtype().and_then(Element::of).unwrap_or(mixed)
        }
    }
}

/// Whether a matrix is used where it lies.
pub fn in_place(weight: &Weight, dtype: Option<ComputeType>) -> bool {
    weight.dtype() == Some(element_of(weight, dtype).dtype())
}

/// Bytes of all weights as they will be held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Survey {
    /// Used in place in mapped files.
    pub mapped: u64,
    /// Used in place in memory that the loader took.
    pub held: u64,
    /// Converted into memory still to be taken, norms and biases included.
    pub converted: u64,
    /// Read for each decoded token.
    pub per_token: u64,
    /// How most of the matrices' elements are held.
    pub element: Option<Element>,
}

impl Survey {
    /// Looks at every weight of the decoder; `Format` where one is missing or of a wrong shape.
    pub fn of(spec: &DecoderSpec, weights: &WeightSet, dtype: Option<ComputeType>) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut elements = [(Element::F32, 0u64), (Element::F16, 0), (Element::Bf16, 0)];
        let mut matrix = |survey: &mut Survey, weight: &Weight, read: bool| {
            let element = element_of(weight, dtype);
            let count = weight.rows as u64 * weight.cols as u64;
            let bytes = count * element.bytes() as u64;
            match (in_place(weight, dtype), weight.pieces.iter().all(|p| p.bytes.is_mapped())) {
                (true, true) => survey.mapped += bytes,
                (true, false) => survey.held += bytes,
                (false, _) => survey.converted += bytes,
            }
            survey.per_token += if read { bytes } else { bytes / weight.rows.max(1) as u64 };
            if let Some((_, n)) = elements.iter_mut().find(|(e, _)| *e == element) {
                *n += count;
            }
        };
        let vector = |survey: &mut Survey, weight: &Weight| {
            survey.converted += weight.cols as u64 * u64::from(u32::BITS / 8);
            survey.per_token += weight.cols as u64 * u64::from(u32::BITS / 8);
        };
        matrix(&mut survey, need(spec, weights, 0, Role::Embedding)?, spec.tied);
        for layer in 0..spec.layers {
            for role in LAYER_MATRICES {
                matrix(&mut survey, need(spec, weights, layer, role)?, true);
            }
            for role in LAYER_NORMS {
                vector(&mut survey, need(spec, weights, layer, role)?);
            }
            for role in LAYER_BIASES {
                if let Some(weight) = may(spec, weights, layer, role)? {
                    vector(&mut survey, weight);
                }
            }
        }
        vector(&mut survey, need(spec, weights, 0, Role::FinalNorm)?);
        if !spec.tied {
            matrix(&mut survey, need(spec, weights, 0, Role::Head)?, true);
        }
        survey.element = elements.iter().max_by_key(|(_, n)| *n).map(|(e, _)| *e);
        Ok(survey)
    }
}

//! What the CPU executor will make of each weight, decided from headers alone: where it is used in
//! place, and where and as what it is converted. Planning and loading both follow the same decision.

use super::kernels::panels::take_over::takes_over;
use super::kernels::{Element, Packing};
use crate::backend::ComputeType;
use crate::backend::shapes::{LAYER_BIASES, LAYER_MATRICES, LAYER_NORMS, may, need};
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, Weight, WeightSet};

/// How a matrix is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As plain elements.
    Plain(Element),
    /// As quantised panels.
    Packed(Packing),
}

impl Form {
    /// Without a choice as stored: a plain type in place, GGUF's blocks in the packing that takes them over, or the
    /// one of 8 bits where none does; f32 (which holds them all) for a mixture of plain types, bf16 for any
    /// other mixture.
    ///
    /// A choice of 8 or 4 bits is the most that a weight may have: blocks that have no more are taken over as they
    /// are. Of a model in 4 bits the embedding and the head may have 8: they are few of its bytes and much
    /// of its quality.
    pub fn of(role: Role, weight: &Weight, dtype: Option<ComputeType>) -> Form {
        let is_table = matches!(role, Role::Embedding | Role::Head);
        match dtype {
            Some(ComputeType::F32) => Form::Plain(Element::F32),
            Some(ComputeType::F16) => Form::Plain(Element::F16),
            Some(ComputeType::Bf16) => Form::Plain(Element::Bf16),
            Some(ComputeType::Q4) if !is_table => {
                Form::Packed(taken_over(weight).filter(|packing| !packing.is_bytes()).unwrap_or(Packing::Q4))
            }
            // The last one is refused by `Survey::of`.
            Some(ComputeType::Q4 | ComputeType::Q8 | ComputeType::W8a8) => {
                Form::Packed(taken_over(weight).unwrap_or(Packing::Q8))
            }
            None => match weight.dtype().map(Element::of) {
                Some(Some(element)) => Form::Plain(element),
                Some(None) => Form::Packed(taken_over(weight).unwrap_or(Packing::Q8Fine)),
                None if weight.pieces.iter().all(|piece| piece.dtype.is_plain()) => Form::Plain(Element::F32),
                None => Form::Plain(Element::Bf16),
            },
        }
    }

    /// Bytes of a matrix in this form.
    pub fn bytes(self, rows: usize, cols: usize) -> u64 {
        match self {
            Form::Plain(element) => rows as u64 * cols as u64 * element.bytes() as u64,
            Form::Packed(packing) => packing.bytes(rows, cols) as u64,
        }
    }

    /// Its place in [`FORM_NAMES`].
    pub fn index(self) -> usize {
        match self {
            Form::Plain(Element::F32) => 0,
            Form::Plain(Element::F16) => 1,
            Form::Plain(Element::Bf16) => 2,
            Form::Packed(Packing::Q8) => 3,
            Form::Packed(Packing::Q8Fine) => 4,
            Form::Packed(Packing::Q4) => 5,
            Form::Packed(Packing::Q4Fine) => 6,
            Form::Packed(Packing::Q4Min) => 7,
            Form::Packed(Packing::Q4Super) => 8,
        }
    }
}

/// The names of the forms for a person: the element type, our own packing, or GGUF's type whose numbers it holds.
pub const FORM_NAMES: [&str; 9] = ["f32", "f16", "bf16", "q8", "q8_0", "q4", "q4_0", "q4_1", "q4_k"];

/// The packing that takes the weight over without another rounding, if there is one: its blocks must be of
/// one type, and each row one run of them.
pub fn taken_over(weight: &Weight) -> Option<Packing> {
    let whole_rows = weight.pieces.iter().all(|piece| piece.cols == (0..weight.cols));
    weight.dtype().and_then(takes_over).filter(|_| whole_rows)
}

/// Whether a matrix is used where it lies.
pub fn in_place(role: Role, weight: &Weight, dtype: Option<ComputeType>) -> bool {
    match Form::of(role, weight, dtype) {
        Form::Plain(element) => weight.dtype() == Some(element.dtype()),
        Form::Packed(_) => false,
    }
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
    /// How most of the plain matrices' elements are held; `None` where all are quantised.
    pub element: Option<Element>,
    /// Whether some of the matrices are quantised.
    pub packed: bool,
    /// Whether any matrix is held in the form of each of [`FORM_NAMES`].
    pub used: [bool; FORM_NAMES.len()],
}

/// What is held in bytes for an NPU's products is no form of the CPU's.
fn refuse_npu_types(weights: &WeightSet, dtype: Option<ComputeType>) -> Result<()> {
    if let Some(name) = weights.first_int8() {
        crate::bail!(
            Unsupported,
            "tensor {name}: msModelSlim made it for the 8-bit products of NPUs (w8a8), which the CPU has not; load the \
             checkpoint that it was made from, with dtype \"q8\" for 8 bits"
        );
    }
    crate::ensure!(
        dtype != Some(ComputeType::W8a8),
        Unsupported,
        "dtype \"w8a8\": only NPUs compute so; the CPU's type of 8 bits is \"q8\""
    );
    Ok(())
}

impl Survey {
    /// Looks at every weight of the decoder; `Format` where one is missing or of a wrong shape, `Unsupported` where it is
    /// held as only an NPU can use it.
    pub fn of(spec: &DecoderSpec, weights: &WeightSet, dtype: Option<ComputeType>) -> Result<Survey> {
        refuse_npu_types(weights, dtype)?;
        let mut survey = Survey::default();
        let mut elements = [(Element::F32, 0u64), (Element::F16, 0), (Element::Bf16, 0)];
        let mut matrix = |survey: &mut Survey, role: Role, weight: &Weight, read: bool| {
            let form = Form::of(role, weight, dtype);
            let bytes = form.bytes(weight.rows, weight.cols);
            match (in_place(role, weight, dtype), weight.pieces.iter().all(|p| p.bytes.is_mapped())) {
                (true, true) => survey.mapped += bytes,
                (true, false) => survey.held += bytes,
                (false, _) => survey.converted += bytes,
            }
            survey.per_token += if read { bytes } else { bytes / weight.rows.max(1) as u64 };
            survey.used[form.index()] = true;
            match form {
                Form::Packed(_) => survey.packed = true,
                Form::Plain(element) => {
                    if let Some((_, n)) = elements.iter_mut().find(|(e, _)| *e == element) {
                        *n += weight.rows as u64 * weight.cols as u64;
                    }
                }
            }
        };
        let vector = |survey: &mut Survey, weight: &Weight| {
            survey.converted += weight.cols as u64 * u64::from(u32::BITS / 8);
            survey.per_token += weight.cols as u64 * u64::from(u32::BITS / 8);
        };
        matrix(&mut survey, Role::Embedding, need(spec, weights, 0, Role::Embedding)?, spec.tied);
        for layer in 0..spec.layers {
            for role in LAYER_MATRICES {
                matrix(&mut survey, role, need(spec, weights, layer, role)?, true);
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
            matrix(&mut survey, Role::Head, need(spec, weights, 0, Role::Head)?, true);
        }
        survey.element = elements.iter().filter(|(_, n)| *n > 0).max_by_key(|(_, n)| *n).map(|(e, _)| *e);
        Ok(survey)
    }

    /// Bytes in private memory once loaded.
    pub fn private(&self) -> u64 {
        self.held + self.converted
    }
}

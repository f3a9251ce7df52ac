//! How the products of a layer are held: which come in which form, with which tensors beside the matrix.
//!
//! | hold | matrix | beside it | its input |
//! |---|---|---|---|
//! | half | 16 bits | perhaps a bias | as it is |
//! | tokens | bytes | a scale for each output feature, perhaps a bias | brought to bytes on the device, each token by its own scale |
//! | tensor | bytes | a bias of 32 bits, scales, the input's scale and offset | brought to bytes by a scale and an offset that calibration found |
//!
//! `dtype` "w8a8" makes bytes of what a checkpoint has as numbers, and holds them by tokens, which needs no calibration.
//! What msModelSlim made is held as it came.

use super::form::{Element, Form, HalfType};
use super::program::ALIGN;
use super::soc::Facts;
use crate::backend::ComputeType;
use crate::base::error::Result;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Inputs, Int8Weight, Role, WeightSet};

/// The form of a product's matrix and input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// All in 16 bits.
    Half,
    /// Bytes, and a scale for each token.
    Tokens,
    /// Bytes, and one scale for all inputs.
    Tensor,
}

/// A product: query, key and value together, output, gate and up together, or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How.
    pub hold: Hold,
    /// Whether a bias in 16 bits is added.
    pub bias: bool,
}

impl Held {
    /// Tensors of it: matrix; scales, or bias, scales, input's scale and offset; bias in 16 bits.
    pub fn tensors(self) -> usize {
        let matrix_and_beside = match self.hold {
            Hold::Half => 1,
            Hold::Tokens => 2,
            Hold::Tensor => 5,
        };
        matrix_and_beside + usize::from(self.bias)
    }

    /// Bytes of them, each laid at a multiple of [`ALIGN`].
    pub fn bytes(self, form: &Form, dtype: HalfType) -> usize {
        let piece = |bytes: usize| bytes.next_multiple_of(ALIGN);
        let rows = form.rows_held;
        let beside = match self.hold {
            Hold::Half => 0,
            Hold::Tokens => piece(rows * 4),
            Hold::Tensor => piece(rows * 4) + piece(rows * scale_bytes(dtype)) + piece(2) + piece(1),
        };
        piece(form.bytes()) + beside + if self.bias { piece(rows * 2) } else { 0 }
    }

    /// The elements of its matrix.
    pub fn element(self, dtype: HalfType) -> Element {
        if self.hold == Hold::Half { Element::Half(dtype) } else { Element::Int8 }
    }
}

/// Bytes of a scale of an output feature where inputs have one scale: ATB takes the bits of an f32 in 64 beside f16, and
/// an f32 beside bf16.
pub fn scale_bytes(dtype: HalfType) -> usize {
    match dtype {
        HalfType::F16 => 8,
        HalfType::Bf16 => 4,
    }
}

/// The products of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerHold {
    /// Query, key and value.
    pub qkv: Held,
    /// Output.
    pub output: Held,
    /// Gate and up.
    pub gate_up: Held,
    /// Down.
    pub down: Held,
    /// Whether the checkpoint adds something behind the norm before attention.
    pub attention_shift: bool,
    /// Whether it does behind the norm before the feed-forward.
    pub ffn_shift: bool,
}

/// Roles of matrices with those of their biases.
const QKV: [Role; 3] = [Role::Query, Role::Key, Role::Value];
const QKV_BIASES: [Role; 3] = [Role::QueryBias, Role::KeyBias, Role::ValueBias];

impl LayerHold {
    /// How a layer is held. `Unsupported` where matrices that share their input want it in different forms.
    pub fn of(weights: &WeightSet, layer: usize, asked: Option<ComputeType>) -> Result<LayerHold> {
        let make = asked == Some(ComputeType::W8a8) && weights.all_int8().next().is_none();
        let held = |roles: &[Role], biases: &[Role]| -> Result<Held> {
            let hold = match common_inputs(weights, layer, roles)? {
                Some(Inputs::Tensor { .. }) => Hold::Tensor,
                Some(Inputs::Tokens) => Hold::Tokens,
                None if make => Hold::Tokens,
                None => Hold::Half,
            };
            Ok(Held { hold, bias: biases.iter().any(|&role| weights.get(layer, role).is_some()) })
        };
        Ok(LayerHold {
            qkv: held(&QKV, &QKV_BIASES)?,
            output: held(&[Role::Output], &[Role::OutputBias])?,
            gate_up: held(&[Role::Gate, Role::Up], &[])?,
            down: held(&[Role::Down], &[])?,
            attention_shift: weights.get(layer, Role::AttentionNormBias).is_some(),
            ffn_shift: weights.get(layer, Role::FfnNormBias).is_some(),
        })
    }

    /// All four.
    pub fn products(&self) -> [Held; 4] {
        [self.qkv, self.output, self.gate_up, self.down]
    }

    /// Whether something is added behind the norm before attention: where its result is brought to bytes ATB wants a
    /// tensor for it, of zeros if need be.
    pub fn attention_beta(&self) -> bool {
        self.attention_shift || self.qkv.hold != Hold::Half
    }

    /// The same before the feed-forward.
    pub fn ffn_beta(&self) -> bool {
        self.ffn_shift || self.gate_up.hold != Hold::Half
    }

    /// Tensors of a layer: those of products and norms, keys and values.
    pub fn tensors(&self) -> usize {
        let products: usize = self.products().into_iter().map(Held::tensors).sum();
        2 + usize::from(self.attention_beta()) + usize::from(self.ffn_beta()) + products + 2
    }

    /// Whether any product is held so.
    pub fn has(&self, hold: Hold) -> bool {
        self.products().iter().any(|held| held.hold == hold)
    }

    /// The forms of a rank's matrices.
    pub fn forms(
        &self,
        facts: &Facts,
        spec: &DecoderSpec,
        part: &RankPart,
        dtype: HalfType,
    ) -> Result<LayerForms> {
        let form = |held: Held, rows, cols| Form::new(rows, cols, facts.tiled, held.element(dtype));
        Ok(LayerForms {
            qkv: form(self.qkv, part.q_width() + 2 * part.kv_width(), spec.hidden)?,
            output: form(self.output, spec.hidden, part.q_width())?,
            gate_up: form(self.gate_up, 2 * part.ffn.len(), spec.hidden)?,
            down: form(self.down, spec.hidden, part.ffn.len())?,
        })
    }

    /// Bytes of a rank's tensors of the layer, without caches.
    pub fn bytes(
        &self,
        facts: &Facts,
        spec: &DecoderSpec,
        part: &RankPart,
        dtype: HalfType,
    ) -> Result<usize> {
        let forms = self.forms(facts, spec, part, dtype)?;
        let products = self.products().into_iter().zip([forms.qkv, forms.output, forms.gate_up, forms.down]);
        let products: usize = products.map(|(held, form)| held.bytes(&form, dtype)).sum();
        let norms = 2 + usize::from(self.attention_beta()) + usize::from(self.ffn_beta());
        Ok(products + norms * (spec.hidden * 2).next_multiple_of(ALIGN))
    }
}

/// The forms of a rank's matrices of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerForms {
    /// Query, key and value below one another.
    pub qkv: Form,
    /// Output.
    pub output: Form,
    /// Gate and up below one another.
    pub gate_up: Form,
    /// Down.
    pub down: Form,
}

/// What matrices with one input want of it; `None` where they are no codes.
fn common_inputs(weights: &WeightSet, layer: usize, roles: &[Role]) -> Result<Option<Inputs>> {
    let first = weights.int8(layer, roles[0]);
    for &role in &roles[1..] {
        let other = weights.int8(layer, role);
        let inputs = |weight: Option<&Int8Weight>| weight.map(|weight| weight.inputs);
        let name = |weight: Option<&Int8Weight>, role| match weight {
            Some(weight) => format!("tensor {} has {}", weight.name, said(weight.inputs)),
            None => format!("{role:?} of layer {layer} has 16 bits"),
        };
        crate::ensure!(
            inputs(first) == inputs(other),
            Unsupported,
            "{}, but {}: matrices with the same input are expected to take it in the same form",
            name(first, roles[0]),
            name(other, role)
        );
    }
    Ok(first.map(|weight| weight.inputs))
}

fn said(inputs: Inputs) -> String {
    match inputs {
        Inputs::Tensor { scale, offset } => format!("inputs in steps of {scale} around {offset}"),
        Inputs::Tokens => "inputs with a scale for each token".into(),
    }
}

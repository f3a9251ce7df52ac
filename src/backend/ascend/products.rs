//! Products of a layer and the norms before them as nodes of a draft, whichever way they are held (`hold`).
//!
//! What stands behind a norm takes its result in the form that the norm can give: in 16 bits, or in bytes, which the
//! norm's own operation makes of numbers that were never rounded to 16 bits. What stands behind something else (the
//! output and the down product) brings its input to bytes itself.

use super::acl;
use super::atb::{AtbContext, Operation};
use super::draft::{Draft, Ref};
use super::form::HalfType;
use super::hold::{Held, Hold};
use super::shim::{aqatb_dim, aqatb_elewise, aqatb_linear, aqatb_rms_norm};
use crate::base::error::Result;

// ATB's numbers: RmsNormType, QuantType, DynamicQuantType, LinearParam's QuantMode, and ElewiseType.
const NORM: i32 = 1;
const SUM_AND_NORM: i32 = 2;
const QUANT_INT8: i32 = 2;
const SYMMETRIC: i32 = 1;
const PER_TOKEN: i32 = 2;
/// Another type.
pub const CAST: i32 = 1;
/// A sum.
pub const ADD: i32 = 8;
/// A product of elements.
pub const MUL: i32 = 9;
const QUANT_PER_CHANNEL: i32 = 17;
const DYNAMIC_QUANT: i32 = 19;

/// Element by element.
pub fn elewise(r#type: i32) -> aqatb_elewise {
    aqatb_elewise { r#type, out_dtype: -1, factor: 0.0, input_scale: 1.0, input_offset: 0 }
}

/// A product's tensors that come in.
#[derive(Clone, Debug)]
pub struct Product {
    held: Held,
    matrix: Ref,
    /// Of tokens: scales. Of tensor: bias of 32 bits, scales, the input's scale and offset.
    beside: Vec<Ref>,
    bias: Option<Ref>,
}

impl Product {
    /// Takes them in.
    pub fn of(draft: &mut Draft, held: Held) -> Product {
        let matrix = draft.input();
        let beside = held.tensors() - 1 - usize::from(held.bias);
        let beside = (0..beside).map(|_| draft.input()).collect();
        Product { held, matrix, beside, bias: held.bias.then(|| draft.input()) }
    }
}

/// A norm's tensors that come in.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    gamma: Ref,
    beta: Option<Ref>,
}

impl Norm {
    /// Takes them in.
    pub fn of(draft: &mut Draft, with_beta: bool) -> Norm {
        Norm { gamma: draft.input(), beta: with_beta.then(|| draft.input()) }
    }

    /// One of a weight alone.
    pub fn plain(gamma: Ref) -> Norm {
        Norm { gamma, beta: None }
    }
}

/// The input of a product in the form that it takes.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// 16 bits.
    Half(Ref),
    /// Bytes, and a scale for each row.
    Tokens(Ref, Ref),
    /// Bytes.
    Tensor(Ref),
}

/// Makes products and norms.
#[derive(Clone, Copy, Debug)]
pub struct Products<'a> {
    /// Operations are made for it.
    pub context: &'a AtbContext,
    /// The type of what is not in bytes.
    pub dtype: HalfType,
    /// Of the norms.
    pub epsilon: f32,
}

impl Products<'_> {
    fn rms_norm(&self, layer: i32, quant: i32, dynamic: i32) -> Result<Operation> {
        let norm = aqatb_rms_norm { layer, quant, dynamic, epsilon: self.epsilon, has_bias: 0 };
        Operation::new(self.context, &norm)
    }

    fn elewise(&self, r#type: i32) -> Result<Operation> {
        Operation::new(self.context, &elewise(r#type))
    }

    /// The norm of `x`, in 16 bits.
    pub fn norm(&self, draft: &mut Draft, x: Ref, norm: Norm) -> Result<Ref> {
        let normed = draft.mid();
        draft.node(self.rms_norm(NORM, 0, 0)?, &[x, norm.gamma], &[normed], &[])?;
        self.shifted(draft, normed, norm.beta)
    }

    fn shifted(&self, draft: &mut Draft, x: Ref, by: Option<Ref>) -> Result<Ref> {
        let Some(by) = by else { return Ok(x) };
        let sum = draft.mid();
        draft.node(self.elewise(ADD)?, &[x, by], &[sum], &[])?;
        Ok(sum)
    }

    /// The norm of `x`, as `product` takes it.
    pub fn norm_for(&self, draft: &mut Draft, x: Ref, norm: Norm, product: &Product) -> Result<Input> {
        let (Some(beta), true) = (norm.beta, product.held.hold != Hold::Half) else {
            return Ok(Input::Half(self.norm(draft, x, norm)?));
        };
        let codes = draft.mid();
        if product.held.hold == Hold::Tokens {
            let scales = draft.mid();
            let operation = self.rms_norm(NORM, QUANT_INT8, SYMMETRIC)?;
            draft.node(operation, &[x, norm.gamma, beta], &[codes, scales], &[])?;
            return Ok(Input::Tokens(codes, scales));
        }
        let (scale, offset) = (product.beside[2], product.beside[3]);
        let operation = self.rms_norm(NORM, QUANT_INT8, 0)?;
        draft.node(operation, &[x, norm.gamma, beta, scale, offset], &[codes], &[])?;
        Ok(Input::Tensor(codes))
    }

    /// The norm of a sum, as `product` takes it, and the sum.
    pub fn sum_and_norm_for(
        &self,
        draft: &mut Draft,
        (x, residual): (Ref, Ref),
        norm: Norm,
        product: &Product,
    ) -> Result<(Input, Ref)> {
        let sum = draft.mid();
        if product.held.hold != Hold::Half {
            // The operation that does both gives its result in 16 bits only.
            draft.node(self.elewise(ADD)?, &[residual, x], &[sum], &[])?;
            return Ok((self.norm_for(draft, sum, norm, product)?, sum));
        }
        let normed = draft.mid();
        let operation = self.rms_norm(SUM_AND_NORM, 0, 0)?;
        draft.node(operation, &[x, residual, norm.gamma], &[normed, sum], &[])?;
        Ok((Input::Half(self.shifted(draft, normed, norm.beta)?), sum))
    }

    /// A product of what has 16 bits, seen with the dims `view` unless those are empty.
    pub fn of_half(&self, draft: &mut Draft, x: Ref, view: &[aqatb_dim], product: &Product) -> Result<Ref> {
        let views = [(0, view)];
        let views = if view.is_empty() { &[][..] } else { &views };
        match product.held.hold {
            Hold::Half => self.half(draft, x, product.matrix, product.bias, views),
            Hold::Tokens => {
                let (codes, scales) = (draft.mid(), draft.mid());
                draft.node(self.elewise(DYNAMIC_QUANT)?, &[x], &[codes, scales], views)?;
                self.of(draft, Input::Tokens(codes, scales), product)
            }
            Hold::Tensor => {
                let (codes, scale, offset) = (draft.mid(), product.beside[2], product.beside[3]);
                draft.node(self.elewise(QUANT_PER_CHANNEL)?, &[x, scale, offset], &[codes], views)?;
                self.of(draft, Input::Tensor(codes), product)
            }
        }
    }

    /// A product of an input in its form.
    pub fn of(&self, draft: &mut Draft, input: Input, product: &Product) -> Result<Ref> {
        let (operation, inputs) = match input {
            Input::Half(x) => return self.half(draft, x, product.matrix, product.bias, &[]),
            Input::Tokens(codes, scales) => (
                self.linear(false, self.dtype.acl(), PER_TOKEN)?,
                [codes, product.matrix, product.beside[0], scales],
            ),
            Input::Tensor(codes) => (
                self.linear(true, self.dtype.acl(), 0)?,
                [codes, product.matrix, product.beside[0], product.beside[1]],
            ),
        };
        let out = draft.mid();
        draft.node(operation, &inputs, &[out], &[])?;
        // The products of codes add no bias of 16 bits.
        self.shifted(draft, out, product.bias)
    }

    /// A product in 16 bits, with the views of its input.
    pub fn half(
        &self,
        draft: &mut Draft,
        x: Ref,
        matrix: Ref,
        bias: Option<Ref>,
        views: &[(u32, &[aqatb_dim])],
    ) -> Result<Ref> {
        let product = draft.mid();
        let inputs: Vec<Ref> = [x, matrix].into_iter().chain(bias).collect();
        draft.node(self.linear(bias.is_some(), acl::ACL_DT_UNDEFINED, 0)?, &inputs, &[product], views)?;
        Ok(product)
    }

    fn linear(&self, has_bias: bool, out_dtype: acl::aclDataType, quant_mode: i32) -> Result<Operation> {
        let linear = aqatb_linear {
            transpose_a: 0,
            transpose_b: 1,
            has_bias: has_bias.into(),
            out_dtype,
            accumulate: 0,
            quant_mode,
        };
        Operation::new(self.context, &linear)
    }
}

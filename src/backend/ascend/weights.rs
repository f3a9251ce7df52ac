//! The weights of a rank on its device, as the tensors that programs read.

use super::acl;
use super::atb::{Desc, Tensor};
use super::codes::CodePart;
use super::device::Device;
use super::form::{Form, HalfType, Part};
use super::hold::{Held, Hold};
use super::memory::DeviceBuffer;
use super::plan::Setup;
use super::program::ALIGN;
use super::upload::Uploader;
use crate::backend::shapes;
use crate::base::error::Result;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Inputs, Int8Weight, Role, Weight, WeightSet};
use std::ops::Range;

/// A rank's weights.
#[derive(Debug)]
pub struct RankWeights {
    /// `[V, H]`, in rows.
    pub embedding: Tensor,
    /// `[H]`.
    pub final_norm: Tensor,
    /// `[P, H]`, as the chip's products want it.
    pub head: Tensor,
    /// The tensors of each layer, in the order in which `Decoder::layers` takes them, without the caches.
    pub layers: Vec<Vec<Tensor>>,
    // What the tensors point to.
    _buffers: Vec<DeviceBuffer>,
}

/// Brings tensors into one buffer, one behind the other.
struct Filler<'a, 'u> {
    uploader: &'a mut Uploader<'u>,
    buffer: DeviceBuffer,
    next: usize,
}

impl Filler<'_, '_> {
    fn matrix(&mut self, form: Form, parts: &[Part<'_>]) -> Result<Tensor> {
        let tensor = Tensor::new(form.desc()?, self.buffer.at(self.next)?)?;
        self.uploader.matrix(&form, parts, &self.buffer, self.next)?;
        self.next += form.bytes().next_multiple_of(ALIGN);
        Ok(tensor)
    }

    /// A matrix of codes, and the scales of the rows that were made of numbers.
    fn codes(&mut self, form: Form, parts: &[CodePart<'_>]) -> Result<(Tensor, Vec<f32>)> {
        let tensor = Tensor::new(form.desc()?, self.buffer.at(self.next)?)?;
        let scales = self.uploader.codes(&form, parts, &self.buffer, self.next)?;
        self.next += form.bytes().next_multiple_of(ALIGN);
        Ok((tensor, scales))
    }

    /// A vector of `len` elements as they are.
    fn few(&mut self, dtype: acl::aclDataType, len: usize, bytes: &[u8]) -> Result<Tensor> {
        let desc = Desc::new(dtype, acl::ACL_FORMAT_ND, &[len as i64])?;
        let tensor = Tensor::new(desc, self.buffer.at(self.next)?)?;
        self.uploader.bytes(bytes, &self.buffer, self.next)?;
        self.next += bytes.len().next_multiple_of(ALIGN);
        Ok(tensor)
    }

    /// Numbers in f32, filled up with zeros.
    fn numbers(&mut self, mut values: Vec<f32>, len: usize) -> Result<Tensor> {
        values.resize(len, 0.0);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.few(acl::ACL_FLOAT, len, &bytes)
    }

    /// A vector of `len` numbers: columns of vectors, each from place `at` on; 0 where none are.
    fn vector(
        &mut self,
        setup: &Setup,
        len: usize,
        parts: &[(usize, &Weight, Range<usize>)],
    ) -> Result<Tensor> {
        let desc = Desc::new(setup.dtype.acl(), acl::ACL_FORMAT_ND, &[len as i64])?;
        let tensor = Tensor::new(desc, self.buffer.at(self.next)?)?;
        let form = |len| Form::new(1, len, false, setup.dtype);
        if parts.iter().map(|(_, _, cols)| cols.len()).sum::<usize>() < len {
            self.uploader.matrix(&form(len)?, &[], &self.buffer, self.next)?;
        }
        for (at, weight, cols) in parts {
            let part = Part { weight, rows: 0..1, cols: cols.clone() };
            self.uploader.matrix(&form(cols.len())?, &[part], &self.buffer, self.next + at * 2)?;
        }
        self.next += (len * 2).next_multiple_of(ALIGN);
        Ok(tensor)
    }
}

impl RankWeights {
    /// Brings a rank's weights over. `Format` where one is missing, of a wrong shape, or too large a number for f16.
    pub fn load(
        device: &Device,
        uploader: &mut Uploader<'_>,
        setup: &Setup,
        spec: &DecoderSpec,
        weights: &WeightSet,
        rank: usize,
    ) -> Result<RankWeights> {
        let part = &setup.parts[rank];
        let mut buffers = Vec::new();
        let result = Self::load_into(&mut buffers, device, uploader, setup, spec, weights, part);
        // The buffers may go only when nothing is copied into them any more.
        let finished = uploader.finish();
        let (embedding, final_norm, head, layers) = result?;
        finished?;
        Ok(RankWeights { embedding, final_norm, head, layers, _buffers: buffers })
    }

    #[allow(clippy::type_complexity)]
    fn load_into(
        buffers: &mut Vec<DeviceBuffer>,
        device: &Device,
        uploader: &mut Uploader<'_>,
        setup: &Setup,
        spec: &DecoderSpec,
        weights: &WeightSet,
        part: &RankPart,
    ) -> Result<(Tensor, Tensor, Tensor, Vec<Vec<Tensor>>)> {
        let embedding = shapes::need(spec, weights, 0, Role::Embedding)?;
        let form = Form::new(spec.vocab, spec.hidden, false, setup.dtype)?;
        let norm_bytes = (spec.hidden * 2).next_multiple_of(ALIGN);
        let bytes = form.bytes().next_multiple_of(ALIGN) + norm_bytes;
        let whole = |weight, cols: usize| Part { weight, rows: 0..spec.vocab, cols: 0..cols };
        let ((embedding_tensor, final_norm), buffer) = fill(device, uploader, bytes, |filler| {
            let table = filler.matrix(form, &[whole(embedding, spec.hidden)])?;
            let norm = shapes::need(spec, weights, 0, Role::FinalNorm)?;
            Ok((table, filler.vector(setup, spec.hidden, &[(0, norm, 0..spec.hidden)])?))
        })?;
        buffers.push(buffer);
        let head = if setup.shares_head(spec) {
            embedding_tensor
        } else {
            let stored = if spec.tied { embedding } else { shapes::need(spec, weights, 0, Role::Head)? };
            let form = Form::new(part.vocab.len(), spec.hidden, setup.facts.tiled, setup.dtype)?;
            let form = form.padded(part.vocab_rows);
            let rows = Part { weight: stored, rows: part.vocab.clone(), cols: 0..spec.hidden };
            let (head, buffer) = fill(device, uploader, form.bytes(), |filler| filler.matrix(form, &[rows]))?;
            buffers.push(buffer);
            head
        };
        let mut layers = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let (tensors, buffer) = load_layer(device, uploader, setup, spec, weights, part, layer)?;
            layers.push(tensors);
            buffers.push(buffer);
        }
        Ok((embedding_tensor, final_norm, head, layers))
    }
}

/// Takes a buffer and fills it. On an error the copies into it end before it goes.
fn fill<T>(
    device: &Device,
    uploader: &mut Uploader<'_>,
    bytes: usize,
    work: impl FnOnce(&mut Filler<'_, '_>) -> Result<T>,
) -> Result<(T, DeviceBuffer)> {
    let mut filler = Filler { buffer: DeviceBuffer::new(device, bytes)?, uploader, next: 0 };
    match work(&mut filler) {
        Ok(made) => Ok((made, filler.buffer)),
        Err(error) => {
            let _ = filler.uploader.finish();
            Err(error)
        }
    }
}

/// A layer's tensors, in the order in which `Decoder::layers` takes them.
fn load_layer(
    device: &Device,
    uploader: &mut Uploader<'_>,
    setup: &Setup,
    spec: &DecoderSpec,
    weights: &WeightSet,
    part: &RankPart,
    layer: usize,
) -> Result<(Vec<Tensor>, DeviceBuffer)> {
    let hold = setup.holds.get(layer);
    let hold = hold.ok_or_else(|| crate::error!(Internal, "no layer {layer} was planned"))?;
    let forms = hold.forms(setup.facts, spec, part, setup.dtype)?;
    let source = Source { setup, spec, weights, part, layer };
    fill(device, uploader, hold.bytes(setup.facts, spec, part, setup.dtype)?, |filler| {
        let mut tensors = Vec::with_capacity(hold.tensors());
        let qkv = [Role::Query, Role::Key, Role::Value];
        let qkv_biases = [Role::QueryBias, Role::KeyBias, Role::ValueBias];
        source.norm(
            filler,
            Role::AttentionNorm,
            Role::AttentionNormBias,
            hold.attention_beta(),
            &mut tensors,
        )?;
        source.product(filler, hold.qkv, forms.qkv, &qkv, &qkv_biases, &mut tensors)?;
        source.product(
            filler,
            hold.output,
            forms.output,
            &[Role::Output],
            &[Role::OutputBias],
            &mut tensors,
        )?;
        source.norm(filler, Role::FfnNorm, Role::FfnNormBias, hold.ffn_beta(), &mut tensors)?;
        source.product(filler, hold.gate_up, forms.gate_up, &[Role::Gate, Role::Up], &[], &mut tensors)?;
        source.product(filler, hold.down, forms.down, &[Role::Down], &[], &mut tensors)?;
        Ok(tensors)
    })
}

/// Where a layer's tensors come from.
struct Source<'a> {
    setup: &'a Setup,
    spec: &'a DecoderSpec,
    weights: &'a WeightSet,
    part: &'a RankPart,
    layer: usize,
}

impl Source<'_> {
    /// A norm's weight, and `with_beta` what is added behind it, zeros where nothing is.
    fn norm(
        &self,
        filler: &mut Filler<'_, '_>,
        role: Role,
        bias: Role,
        with_beta: bool,
        tensors: &mut Vec<Tensor>,
    ) -> Result<()> {
        let hidden = self.spec.hidden;
        let weight = shapes::need(self.spec, self.weights, self.layer, role)?;
        tensors.push(filler.vector(self.setup, hidden, &[(0, weight, 0..hidden)])?);
        if with_beta {
            let weight = shapes::may(self.spec, self.weights, self.layer, bias)?;
            let parts: Vec<_> = weight.into_iter().map(|weight| (0, weight, 0..hidden)).collect();
            tensors.push(filler.vector(self.setup, hidden, &parts)?);
        }
        Ok(())
    }

    /// A product's tensors, in the order in which `products::Product` takes them.
    fn product(
        &self,
        filler: &mut Filler<'_, '_>,
        held: Held,
        form: Form,
        roles: &[Role],
        biases: &[Role],
        tensors: &mut Vec<Tensor>,
    ) -> Result<()> {
        match held.hold {
            Hold::Half => {
                let parts = roles.iter().map(|&role| self.part_of(role)).collect::<Result<Vec<_>>>()?;
                tensors.push(filler.matrix(form, &parts)?);
            }
            Hold::Tokens => {
                let parts = self.code_parts(roles)?;
                let (matrix, mut scales) = filler.codes(form, &parts)?;
                if scales.is_empty() {
                    scales = self.stored_scales(roles)?;
                }
                tensors.push(matrix);
                tensors.push(filler.numbers(scales, form.rows_held)?);
            }
            Hold::Tensor => {
                let (matrix, _) = filler.codes(form, &self.code_parts(roles)?)?;
                tensors.push(matrix);
                let mut bias = Vec::with_capacity(form.rows_held);
                for &role in roles {
                    let (rows, cols) = self.part.ranges(role);
                    bias.extend(rank_bias(self.codes_of(role)?, rows, cols, self.part.rank == 0));
                }
                bias.resize(form.rows_held, 0);
                let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
                tensors.push(filler.few(acl::ACL_INT32, form.rows_held, &bytes)?);
                let scales = self.stored_scales(roles)?;
                tensors.push(match self.setup.dtype {
                    HalfType::Bf16 => filler.numbers(scales, form.rows_held)?,
                    HalfType::F16 => {
                        let mut bits: Vec<u64> = scales.iter().map(|scale| scale.to_bits().into()).collect();
                        bits.resize(form.rows_held, 0);
                        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
                        filler.few(acl::ACL_INT64, form.rows_held, &bytes)?
                    }
                });
                tensors.extend(self.input(filler, self.codes_of(roles[0])?)?);
            }
        }
        if held.bias {
            tensors.push(self.bias(filler, form.rows_held, biases)?);
        }
        Ok(())
    }

    /// The scale and the offset of a product's input.
    fn input(&self, filler: &mut Filler<'_, '_>, weight: &Int8Weight) -> Result<[Tensor; 2]> {
        let Inputs::Tensor { scale, offset } = weight.inputs else {
            crate::bail!(Internal, "tensor {} has no scale of its input", weight.name)
        };
        let bits = self.setup.dtype.bits(scale);
        let held = self.setup.dtype.value(bits);
        crate::ensure!(
            held.is_finite() && held > 0.0,
            Format,
            "tensor {}: its input_scale {scale} is none in {}: it becomes {held}",
            weight.name,
            self.setup.dtype.name()
        );
        Ok([
            filler.few(self.setup.dtype.acl(), 1, &bits.to_le_bytes())?,
            filler.few(acl::ACL_INT8, 1, &offset.to_le_bytes())?,
        ])
    }

    /// Biases in 16 bits. That of rows that all ranks have a part of is added once: by the first rank.
    fn bias(&self, filler: &mut Filler<'_, '_>, len: usize, roles: &[Role]) -> Result<Tensor> {
        let (mut parts, mut next) = (Vec::new(), 0);
        for &role in roles {
            let (_, cols) = self.part.ranges(role);
            let at = next;
            next += cols.len();
            let weight = shapes::may(self.spec, self.weights, self.layer, role)?;
            let weight = weight.filter(|_| role != Role::OutputBias || self.part.rank == 0);
            parts.extend(weight.map(|weight| (at, weight, cols)));
        }
        filler.vector(self.setup, len, &parts)
    }

    fn part_of(&self, role: Role) -> Result<Part<'_>> {
        let weight = shapes::need(self.spec, self.weights, self.layer, role)?;
        let (rows, cols) = self.part.ranges(role);
        Ok(Part { weight, rows, cols })
    }

    fn codes_of(&self, role: Role) -> Result<&Int8Weight> {
        let weight = self.weights.int8(self.layer, role);
        weight
            .ok_or_else(|| crate::error!(Internal, "{role:?} of layer {} is no matrix of codes", self.layer))
    }

    fn code_parts(&self, roles: &[Role]) -> Result<Vec<CodePart<'_>>> {
        let part = |&role| match self.weights.int8(self.layer, role) {
            Some(weight) => {
                let (rows, cols) = self.part.ranges(role);
                Ok(CodePart::Stored { weight, rows, cols })
            }
            None => self.part_of(role).map(CodePart::Numbers),
        };
        roles.iter().map(part).collect()
    }

    fn stored_scales(&self, roles: &[Role]) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for &role in roles {
            all.extend_from_slice(&self.codes_of(role)?.scales()?[self.part.ranges(role).0]);
        }
        Ok(all)
    }
}

/// What a rank adds to its sums of codes. The bias holds what the offset of the input adds to the sum over all columns;
/// where a rank has some of the columns it takes back what the offset adds to its own, so that its part is no larger
/// than it must be, and the first rank adds the rest.
fn rank_bias(weight: &Int8Weight, rows: Range<usize>, cols: Range<usize>, first: bool) -> Vec<i32> {
    let whole = cols.len() == weight.cols;
    let Inputs::Tensor { offset, .. } = weight.inputs else { return vec![0; rows.len()] };
    let bias = weight.bias();
    let shift =
        |codes: &[u8]| i64::from(offset) * codes.iter().map(|&code| i64::from(code as i8)).sum::<i64>();
    let of_row = |row: usize| {
        let codes = weight.codes(row);
        let value = match (whole, first) {
            (true, _) => bias[row].into(),
            (false, true) => i64::from(bias[row]) + shift(codes) - shift(&codes[cols.clone()]),
            (false, false) => -shift(&codes[cols.clone()]),
        };
        value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    };
    rows.map(of_row).collect()
}

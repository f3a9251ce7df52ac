//! The weights of a rank on its device, as the tensors that programs read.

use super::acl;
use super::atb::{Desc, Tensor};
use super::device::Device;
use super::form::{Form, Part};
use super::memory::DeviceBuffer;
use super::plan::{LayerForms, Setup};
use super::program::ALIGN;
use super::upload::Uploader;
use crate::backend::shapes;
use crate::base::error::Result;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, Weight, WeightSet};
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
    let forms = LayerForms::of(setup, spec, part)?;
    let matrices: usize = [forms.qkv, forms.output, forms.gate_up, forms.down]
        .iter()
        .map(|form| form.bytes().next_multiple_of(ALIGN))
        .sum();
    let hidden_bytes = (spec.hidden * 2).next_multiple_of(ALIGN);
    let qkv_width = part.q_width() + 2 * part.kv_width();
    let biases = if setup.biases.0 { (qkv_width * 2).next_multiple_of(ALIGN) } else { 0 }
        + if setup.biases.1 { hidden_bytes } else { 0 };
    fill(device, uploader, matrices + 2 * hidden_bytes + biases, |filler| {
        let rows_of = |role| -> Result<Part<'_>> {
            let weight = shapes::need(spec, weights, layer, role)?;
            let (rows, cols) = part.ranges(role);
            Ok(Part { weight, rows, cols })
        };
        let norm = |filler: &mut Filler<'_, '_>, role| {
            let weight = shapes::need(spec, weights, layer, role)?;
            filler.vector(setup, spec.hidden, &[(0, weight, 0..spec.hidden)])
        };
        let mut tensors = vec![norm(filler, Role::AttentionNorm)?];
        tensors.push(
            filler.matrix(forms.qkv, &[rows_of(Role::Query)?, rows_of(Role::Key)?, rows_of(Role::Value)?])?,
        );
        if setup.biases.0 {
            let (mut parts, mut next) = (Vec::new(), 0);
            for role in [Role::QueryBias, Role::KeyBias, Role::ValueBias] {
                let (_, cols) = part.ranges(role);
                let at = next;
                next += cols.len();
                parts.extend(shapes::may(spec, weights, layer, role)?.map(|weight| (at, weight, cols)));
            }
            tensors.push(filler.vector(setup, qkv_width, &parts)?);
        }
        tensors.push(filler.matrix(forms.output, &[rows_of(Role::Output)?])?);
        if setup.biases.1 {
            // Added once: by the first rank.
            let weight = shapes::may(spec, weights, layer, Role::OutputBias)?.filter(|_| part.rank == 0);
            let parts: Vec<_> = weight.into_iter().map(|weight| (0, weight, 0..spec.hidden)).collect();
            tensors.push(filler.vector(setup, spec.hidden, &parts)?);
        }
        tensors.push(norm(filler, Role::FfnNorm)?);
        tensors.push(filler.matrix(forms.gate_up, &[rows_of(Role::Gate)?, rows_of(Role::Up)?])?);
        tensors.push(filler.matrix(forms.down, &[rows_of(Role::Down)?])?);
        Ok(tensors)
    })
}

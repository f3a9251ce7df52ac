//! The weights of an open executor: matrices where they lie, or converted in parallel at load.

use super::arena::Arena;
use super::cache::Kept;
use super::kernels::panels::{PANEL_ROWS, pack, take_over};
use super::kernels::{Dense, Element, Kernels, Matrix, Packed, Packing};
use super::pool::Pool;
use super::read_ahead::read_ahead;
use super::survey::{self, FORM_NAMES, Form};
use crate::backend::shapes::{self, LAYER_BIASES, LAYER_MATRICES, LAYER_NORMS};
use crate::backend::{ComputeType, Progress};
use crate::base::buffer::Buffer;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, RowMap, Weight, WeightSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All weights of one decoder.
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embedding: Matrix,
    /// One entry a layer.
    pub layers: Vec<Layer>,
    /// `[hidden]`.
    pub final_norm: Buffer<f32>,
    /// `[vocab, hidden]`; the embedding where they are tied.
    pub head: Matrix,
    /// Private bytes taken here (what was converted or copied).
    pub taken_bytes: u64,
}

/// The weights of one layer.
pub struct Layer {
    /// `[hidden]`.
    pub attention_norm: Buffer<f32>,
    /// `[q_width, hidden]`.
    pub query: Matrix,
    /// `[kv_width, hidden]`.
    pub key: Matrix,
    /// `[kv_width, hidden]`.
    pub value: Matrix,
    /// `[hidden, q_width]`.
    pub output: Matrix,
    /// `[q_width]`.
    pub query_bias: Option<Buffer<f32>>,
    /// `[kv_width]`.
    pub key_bias: Option<Buffer<f32>>,
    /// `[kv_width]`.
    pub value_bias: Option<Buffer<f32>>,
    /// `[hidden]`.
    pub output_bias: Option<Buffer<f32>>,
    /// `[hidden]`.
    pub ffn_norm: Buffer<f32>,
    /// `[ffn, hidden]`.
    pub gate: Matrix,
    /// `[ffn, hidden]`.
    pub up: Matrix,
    /// `[hidden, ffn]`.
    pub down: Matrix,
}

/// What loading needs at hand.
pub struct Loader<'a, 'p> {
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Where the weights come from.
    pub source: &'a WeightSet,
    /// How they are to be held.
    pub dtype: Option<ComputeType>,
    /// Converts rows.
    pub kernels: Kernels,
    /// Shares the rows out.
    pub pool: &'a mut Pool,
    /// Is told of every finished weight.
    pub progress: Progress<'p>,
    /// Converted weights that were found.
    pub(super) kept: Option<Kept>,
    /// Private bytes taken so far.
    pub(super) taken: u64,
    done: u64,
    total: u64,
}

impl<'a, 'p> Loader<'a, 'p> {
    /// A loader that has not begun.
    pub fn new(
        spec: &'a DecoderSpec,
        source: &'a WeightSet,
        dtype: Option<ComputeType>,
        kernels: Kernels,
        pool: &'a mut Pool,
        progress: Progress<'p>,
    ) -> Self {
        let total = source.stored_bytes();
        Loader { spec, source, dtype, kernels, pool, progress, kept: None, taken: 0, done: 0, total }
    }

    /// Readies all weights. `Cancelled` where `progress` breaks off; `Format` where a weight is missing
    /// or does not fit.
    pub fn load(mut self) -> Result<Weights> {
        if self.kept.is_none() {
            self.prefetch_converted();
        }
        let embedding = self.matrix(0, Role::Embedding)?;
        let mut layers = Vec::with_capacity(self.spec.layers);
        for layer in 0..self.spec.layers {
            layers.push(self.layer(layer)?);
        }
        let final_norm = self.vector(0, Role::FinalNorm)?;
        let head = if self.spec.tied { embedding.clone() } else { self.matrix(0, Role::Head)? };
        let weights = Weights { embedding, layers, final_norm, head, taken_bytes: self.taken };
        read_ahead(weights.matrices().flat_map(Matrix::regions), self.pool, &mut self.progress)?;
        Ok(weights)
    }

    /// Asks the system for the source of what will be converted, which the workers read in parallel.
    fn prefetch_converted(&self) {
        let converted = self.source.iter().filter(|(id, w)| !survey::in_place(id.role, w, self.dtype));
        converted.for_each(|(_, weight)| weight.prefetch());
    }

    fn layer(&mut self, layer: usize) -> Result<Layer> {
        let [query, key, value, output, gate, up, down] = self.each(layer, LAYER_MATRICES, Self::matrix)?;
        let [attention_norm, ffn_norm] = self.each(layer, LAYER_NORMS, Self::vector)?;
        let [query_bias, key_bias, value_bias, output_bias] = self.each(layer, LAYER_BIASES, Self::bias)?;
        Ok(Layer {
            attention_norm,
            query,
            key,
            value,
            output,
            query_bias,
            key_bias,
            value_bias,
            output_bias,
            ffn_norm,
            gate,
            up,
            down,
        })
    }

    /// `one` for each of `roles`, in their order.
    fn each<T, const N: usize>(
        &mut self,
        layer: usize,
        roles: [Role; N],
        one: fn(&mut Self, usize, Role) -> Result<T>,
    ) -> Result<[T; N]> {
        let all = roles.into_iter().map(|role| one(self, layer, role)).collect::<Result<Vec<T>>>()?;
        all.try_into().map_err(|_| crate::error!(Internal, "layer {layer}: a role has no weight"))
    }

    fn matrix(&mut self, layer: usize, role: Role) -> Result<Matrix> {
        let weight = shapes::need(self.spec, self.source, layer, role)?;
        let matrix = if survey::in_place(role, weight, self.dtype) {
            Matrix::Dense(Dense::new(weight.clone())?)
        } else {
            let form = Form::of(role, weight, self.dtype);
            let bytes = match &self.kept {
                Some(kept) => kept.bytes(layer, role)?,
                None => self.make(weight, form)?,
            };
            matrix_of(weight, form, bytes)?
        };
        self.advance(weight)?;
        Ok(matrix)
    }

    fn vector(&mut self, layer: usize, role: Role) -> Result<Buffer<f32>> {
        let weight = shapes::need(self.spec, self.source, layer, role)?;
        let mut copy = Buffer::zeroed(weight.cols, &weight.name)?;
        match &self.kept {
            Some(kept) => fill(&mut copy, &kept.bytes(layer, role)?),
            None => weight.row_f32(0, &mut copy),
        }
        self.taken += copy.bytes() as u64;
        self.advance(weight)?;
        Ok(copy)
    }

    fn bias(&mut self, layer: usize, role: Role) -> Result<Option<Buffer<f32>>> {
        match self.source.get(layer, role) {
            Some(_) => self.vector(layer, role).map(Some),
            None => Ok(None),
        }
    }

    fn advance(&mut self, weight: &Weight) -> Result<()> {
        self.done += weight.stored_bytes();
        let flow = (self.progress)("weights", self.done, self.total);
        crate::ensure!(flow.is_continue(), Cancelled, "the load was abandoned at {}", weight.name);
        Ok(())
    }

    /// The bytes of `weight` in the form it is held in, in private memory.
    pub(super) fn make(&mut self, weight: &Weight, form: Form) -> Result<Region> {
        match form {
            Form::Plain(element) => self.convert(weight, element),
            Form::Packed(packing) => self.pack(weight, packing),
        }
    }

    /// A private copy of `weight` in the element type it is held in, rows in the order of the matrix.
    fn convert(&mut self, weight: &Weight, element: Element) -> Result<Region> {
        let (rows, cols, row_bytes) = (weight.rows, weight.cols, weight.cols * element.bytes());
        let out = Arena::<u8>::new(rows * row_bytes, &weight.name)?;
        let threads = self.pool.threads();
        let scratch = Arena::<f32>::new(threads * cols, "conversion scratch")?;
        let refused = AtomicUsize::new(usize::MAX);
        // About 64 Ki elements a chunk: enough to hide the claim, few enough to share out evenly.
        let chunk_rows = (1usize << 16).div_ceil(cols.max(1));
        let kernels = self.kernels;
        self.pool.run(&|worker| {
            // SAFETY: each worker has its own row of the scratch.
            let row = unsafe { scratch.part_mut(worker.index() * cols..(worker.index() + 1) * cols) };
            for chunk in worker.chunks(rows.div_ceil(chunk_rows)) {
                for r in chunk * chunk_rows..((chunk + 1) * chunk_rows).min(rows) {
                    weight.row_f32(r, row);
                    if element == Element::F16 && !row.iter().all(|x| fits_f16(*x)) {
                        refused.fetch_min(r, Ordering::Relaxed);
                        continue;
                    }
                    // SAFETY: every chunk, and so every row, belongs to one worker.
                    let bytes = unsafe { out.part_mut(r * row_bytes..(r + 1) * row_bytes) };
                    kernels.encode(element, row, bytes);
                }
            }
            Ok(())
        })?;
        if let Some(row) = Some(refused.into_inner()).filter(|&row| row < rows) {
            return Err(beyond_f16(weight, row));
        }
        self.taken += out.bytes();
        Ok(Region::new(Arc::new(Private(out.into_buffer())), false))
    }
}

impl Loader<'_, '_> {
    /// The quantised panels of `weight`, rows in the order of the matrix.
    fn pack(&mut self, weight: &Weight, packing: Packing) -> Result<Region> {
        let (rows, cols, size) = (weight.rows, weight.cols, packing.panel_bytes(weight.cols));
        let out = Arena::<u8>::new(packing.bytes(rows, cols), &weight.name)?;
        let taken_over = survey::taken_over(weight) == Some(packing);
        let panel_len = if taken_over { 0 } else { PANEL_ROWS * cols };
        let scratch = Arena::<f32>::new(self.pool.threads() * panel_len, "quantisation scratch")?;
        let refused = AtomicUsize::new(usize::MAX);
        let kernels = self.kernels;
        self.pool.run(&|worker| {
            let part = worker.index() * panel_len..(worker.index() + 1) * panel_len;
            // SAFETY: each worker has its own part of the scratch.
            let values = unsafe { scratch.part_mut(part) };
            for panel in worker.chunks(rows.div_ceil(PANEL_ROWS)) {
                // SAFETY: every panel belongs to one worker.
                let bytes = unsafe { out.part_mut(panel * size..(panel + 1) * size) };
                let first = panel * PANEL_ROWS;
                let count = PANEL_ROWS.min(rows - first);
                if taken_over {
                    pack::clear(packing, cols, bytes);
                    for lane in 0..count {
                        for piece in weight.row_pieces(first + lane) {
                            take_over::take_over(piece.dtype, piece.row(first + lane), cols, lane, bytes);
                        }
                    }
                    continue;
                }
                for (lane, row) in values.chunks_exact_mut(cols).take(count).enumerate() {
                    weight.row_f32(first + lane, row);
                }
                if let Err((lane, col)) = kernels.pack(packing, &values[..count * cols], cols, bytes) {
                    refused.fetch_min((first + lane) * cols + col, Ordering::Relaxed);
                }
            }
            Ok(())
        })?;
        if let Some(at) = Some(refused.into_inner()).filter(|&at| at < rows * cols) {
            return Err(unpackable(weight, at / cols, at % cols));
        }
        self.taken += out.bytes();
        Ok(Region::new(Arc::new(Private(out.into_buffer())), false))
    }
}

/// The matrix whose elements or panels `bytes` holds; `Format` where they are too few or too many.
fn matrix_of(weight: &Weight, form: Form, bytes: Region) -> Result<Matrix> {
    let (name, rows, cols) = (&weight.name, weight.rows, weight.cols);
    match form {
        Form::Packed(packing) => Ok(Matrix::Packed(Packed::new(name, packing, rows, cols, bytes)?)),
        Form::Plain(element) => {
            let whole = Weight::whole(name, rows, cols, element.dtype(), bytes, RowMap::Identity)?;
            Ok(Matrix::Dense(Dense::new(whole)?))
        }
    }
}

/// f32 elements from their bytes in the order of this machine.
fn fill(out: &mut [f32], bytes: &[u8]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = f32::from_ne_bytes(*bytes);
    }
}

/// The refusal of a weight that cannot be quantised.
fn unpackable(weight: &Weight, row: usize, col: usize) -> crate::Error {
    let mut values = vec![0f32; weight.cols];
    weight.row_f32(row, &mut values);
    crate::error!(
        Format,
        "{}: row {row}, column {col}: expected a finite value small enough to be quantised, found {:e}; load it \
         as f32 or bf16",
        weight.name,
        values[col]
    )
}

/// Whether `x` has an f16 neighbour; NaN passes through as NaN.
fn fits_f16(x: f32) -> bool {
    x.is_nan() || x.abs() <= 65504.0
}

/// The refusal of a row with a value that f16 cannot hold.
fn beyond_f16(weight: &Weight, row: usize) -> crate::Error {
    let mut values = vec![0f32; weight.cols];
    weight.row_f32(row, &mut values);
    let (col, value) =
        values.iter().enumerate().find(|(_, x)| !fits_f16(**x)).map_or((0, f32::NAN), |(i, x)| (i, *x));
    crate::error!(
        Format,
        "{}: row {row}, column {col}: expected a value within ±65504 for f16, found {value:e}; load it as \
         f32 or bf16",
        weight.name
    )
}

/// Converted bytes as the owner of a region.
struct Private(Buffer<u8>);

impl AsRef<[u8]> for Private {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Weights {
    /// Every matrix once.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter();
        let layers = layers.flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down]);
        layers.chain([&self.embedding, &self.head])
    }

    /// Whether any matrix is held in the form of each of [`FORM_NAMES`].
    pub fn used(&self) -> [bool; FORM_NAMES.len()] {
        let mut used = [false; FORM_NAMES.len()];
        for matrix in self.matrices() {
            let form = match matrix {
                Matrix::Dense(dense) => Form::Plain(dense.element()),
                Matrix::Packed(packed) => Form::Packed(packed.packing()),
            };
            used[form.index()] = true;
        }
        used
    }
}

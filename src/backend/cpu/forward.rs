//! The forward pass: what every worker does in one step.
//!
//! All workers run the same phases and share each phase's work out in chunks; a phase ends at a
//! barrier, after which all see what any of them wrote. The weights are read once a step, whatever the
//! number of rows. A layer has four barriers where one sequence decodes: after attention, o, gate/up and down. It has
//! one more where q, k and v are a phase of their own ([`Sharing`]), and up to four more where the rows are too many
//! for every worker to norm and quantise them for itself.
//!
//! No value depends on how the work was shared out: each result row of a matrix, each norm, and each attention head or
//! span of its keys is computed by one worker, and spans are merged, in an order that the kernels fix.

use super::arena::Arena;
use super::kernels::attention::result_len;
use super::kernels::panels::PANEL_ROWS;
use super::kernels::panels::activations::token_bytes;
use super::kernels::{Attention, Input, Kernels, Matrix, SPAN_KEYS, Share};
use super::kv::KvCache;
use super::pool::{Poisoned, Worker};
use super::weights::{Layer, Weights};
use super::workspace::{OWN_ROWS, SPAN_ROWS, Sizes, UNITS_EACH, Workspace, cols_max, span_results};
use crate::backend::rope;
use crate::backend::{Step, StepSequence};
use crate::model::spec::DecoderSpec;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// Query rows of one attention chunk: enough to share each load of keys and values, few enough that a
/// prompt gives every worker several chunks.
const QUERY_TILE: usize = 32;
/// Rows that one worker norms or embeds at a time.
const ROW_CHUNK: usize = 4;

/// Up to this many rows one worker may do q, k, v and attention of a head at one go. With more, larger chunks of the
/// matrices are worth a barrier.
const LOCAL_ROWS: usize = 16;

type Done = Result<(), Poisoned>;

/// One step with all that it works on.
pub struct Forward<'a> {
    pub spec: &'a DecoderSpec,
    pub weights: &'a Weights,
    pub kernels: Kernels,
    pub work: &'a Workspace,
    pub kv: &'a KvCache,
    /// `[head_dim / 2]`.
    pub inverse_frequencies: &'a [f32],
    /// Checked: every index in it exists.
    pub step: &'a Step<'a>,
    /// Rows to norm at the end; those that become logits first.
    pub wanted: &'a [usize],
    /// How many of `wanted` become logits.
    pub logit_rows: usize,
    /// What of attention the workers share out.
    pub sharing: Sharing,
    /// Units of attention before each sequence, and in all: `[sequences + 1]`.
    pub units: &'a [usize],
    /// Elements of `work.spans` for one row.
    pub span_results: usize,
}

/// What of attention the workers of a step share out. The results are the same, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sharing {
    /// KV heads: whoever makes a head's q, k and v goes on with its attention.
    Heads,
    /// Tiles of query rows, and KV heads, in a phase of its own.
    Tiles,
    /// Spans of keys, and KV heads: there are too few heads and sequences to share.
    Spans,
}

impl Sharing {
    /// What suits `step` in a workspace of `sizes`.
    pub fn of(spec: &DecoderSpec, step: &Step<'_>, sizes: Sizes) -> Sharing {
        let (rows, few) = (step.tokens.len(), UNITS_EACH * sizes.threads);
        let long = step.sequences.iter().any(|sequence| sequence.context > SPAN_KEYS);
        if rows <= SPAN_ROWS
            && long
            && step.sequences.len() * spec.kv_heads < few
            && span_results(spec, sizes) > 0
        {
            Sharing::Spans
        } else if rows <= LOCAL_ROWS && spec.kv_heads >= few && spec.head_dim.is_multiple_of(PANEL_ROWS) {
            Sharing::Heads
        } else {
            Sharing::Tiles
        }
    }

    /// Units of one sequence.
    pub fn units(self, sequence: &StepSequence) -> usize {
        match self {
            Sharing::Heads | Sharing::Tiles => sequence.rows.div_ceil(QUERY_TILE),
            Sharing::Spans => sequence.context.div_ceil(SPAN_KEYS),
        }
    }
}

impl Forward<'_> {
    /// The whole step.
    pub fn run(&self, worker: &Worker<'_>) -> Done {
        self.embed(worker)?;
        for layer in 0..self.spec.layers {
            self.layer(worker, layer)?;
        }
        self.results(worker)
    }

    /// x ← embedding rows of the tokens; the rotary angles of the rows.
    pub fn embed(&self, worker: &Worker<'_>) -> Done {
        let (hidden, half) = (self.spec.hidden, self.spec.head_dim / 2);
        for row in self.row_chunks(worker, self.step.tokens.len()).flatten() {
            // SAFETY: each row belongs to one worker until the barrier.
            let (x, cos, sin) = unsafe {
                (
                    self.work.x.part_mut(row * hidden..(row + 1) * hidden),
                    self.work.cos.part_mut(row * half..(row + 1) * half),
                    self.work.sin.part_mut(row * half..(row + 1) * half),
                )
            };
            self.weights.embedding.row_f32(self.step.tokens[row] as usize, x);
            rope::angles(self.inverse_frequencies, self.step.positions[row], cos, sin);
        }
        worker.barrier()
    }

    /// One decoder layer: x ← x + o(attention(norm(x))), x ← x + down(silu(gate)·up of norm(x)).
    pub fn layer(&self, worker: &Worker<'_>, index: usize) -> Done {
        let layer = &self.weights.layers[index];

        let quantise = [&layer.query, &layer.key, &layer.value].iter().any(|m| m.is_packed());
        let h = self.norm(worker, &layer.attention_norm, quantise)?; // [rows, hidden]
        match self.sharing {
            Sharing::Heads => self.heads(worker, index, layer, h)?,
            Sharing::Tiles | Sharing::Spans => {
                self.query_key_value(worker, index, layer, h)?; // q, k, v; k and v also in the cache
                self.attention(worker, index)?; // attended: [rows, q_width]
            }
        }
        let bias = layer.output_bias.as_deref();
        self.add_product(worker, &layer.output, &self.work.attended, bias)?; // x: [rows, hidden]

        let quantise = layer.gate.is_packed() || layer.up.is_packed();
        let h = self.norm(worker, &layer.ffn_norm, quantise)?; // [rows, hidden]
        self.gate_up(worker, layer, h)?; // gate: [rows, ffn]
        self.add_product(worker, &layer.down, &self.work.gate, None) // x: [rows, hidden]
    }

    /// The final norm of the wanted rows, in h, and the logits of the first `logit_rows` of them.
    pub fn results(&self, worker: &Worker<'_>) -> Done {
        let (hidden, vocab) = (self.spec.hidden, self.spec.vocab);
        for place in self.row_chunks(worker, self.wanted.len()).flatten() {
            let row = self.wanted[place];
            // SAFETY: x is not written any more; each place of h belongs to one worker until the barrier.
            let (x, h) = unsafe {
                (
                    self.work.x.part(row * hidden..(row + 1) * hidden),
                    self.work.h.part_mut(place * hidden..(place + 1) * hidden),
                )
            };
            self.kernels.rms_norm(x, &self.weights.final_norm, self.spec.norm_eps, h);
        }
        worker.barrier()?;
        if self.logit_rows > 0 {
            let head = &self.weights.head;
            let h = self.input(worker, &self.work.h, self.logit_rows, head)?;
            for rows in self.matrix_chunks(worker, head, vocab, self.logit_rows) {
                self.product(worker, head, rows, h, &self.work.logits);
            }
        }
        worker.barrier()
    }

    /// The normed rows of x, quantised too where that is wanted. A few rows each worker norms for itself,
    /// with the same result and without a barrier.
    fn norm(&self, worker: &Worker<'_>, weight: &[f32], quantise: bool) -> Result<Input<'_>, Poisoned> {
        let (rows, hidden, eps) = (self.step.tokens.len(), self.spec.hidden, self.spec.norm_eps);
        // SAFETY: x is written in the phases of embed and add_product alone.
        let x = |row: usize| unsafe { self.work.x.part(row * hidden..(row + 1) * hidden) };
        if rows <= OWN_ROWS {
            let first = worker.index() * OWN_ROWS * hidden;
            // SAFETY: this part belongs to this worker; what an earlier call gave is no longer used.
            let own = unsafe { self.work.own_h.part_mut(first..first + rows * hidden) };
            for (row, h) in own.chunks_exact_mut(hidden).enumerate() {
                self.kernels.rms_norm(x(row), weight, eps, h);
            }
            return Ok(self.own_input(worker, own, hidden, quantise));
        }
        for tile in self.tile_chunks(worker, rows) {
            for row in tile.clone() {
                // SAFETY: each row of h belongs to one worker until the barrier.
                let h = unsafe { self.work.h.part_mut(row * hidden..(row + 1) * hidden) };
                self.kernels.rms_norm(x(row), weight, eps, h);
            }
            if quantise {
                self.quantise_tile(&self.work.h, hidden, tile);
            }
        }
        worker.barrier()?;
        // SAFETY: both are written next in a later phase, a barrier after their last reader.
        Ok(unsafe { self.shared_input(&self.work.h, rows, hidden, quantise) })
    }

    /// The first `rows` rows of `arena`, which an earlier phase wrote, as the products with `matrix` read
    /// them: quantised where it is. A few rows each worker quantises for itself.
    fn input<'a>(
        &'a self,
        worker: &Worker<'_>,
        arena: &'a Arena<f32>,
        rows: usize,
        matrix: &Matrix,
    ) -> Result<Input<'a>, Poisoned> {
        let (cols, quantise) = (matrix.cols(), matrix.is_packed());
        if rows <= OWN_ROWS {
            // SAFETY: written in an earlier phase, and only read in this one.
            return Ok(self.own_input(worker, unsafe { arena.part(0..rows * cols) }, cols, quantise));
        }
        if quantise {
            for tile in self.tile_chunks(worker, rows) {
                self.quantise_tile(arena, cols, tile);
            }
            worker.barrier()?;
        }
        // SAFETY: both are written next in a later phase, a barrier after their last reader.
        Ok(unsafe { self.shared_input(arena, rows, cols, quantise) })
    }

    /// Up to `OWN_ROWS` rows, quantised by this worker for itself.
    fn own_input<'a>(
        &'a self,
        worker: &Worker<'_>,
        rows: &'a [f32],
        cols: usize,
        quantise: bool,
    ) -> Input<'a> {
        if !quantise {
            return Input { rows, quantised: &[] };
        }
        let (count, size) = (rows.len() / cols, token_bytes(cols));
        let first = worker.index() * OWN_ROWS * token_bytes(cols_max(self.spec));
        // SAFETY: this part belongs to this worker; what an earlier call gave is no longer used.
        let own = unsafe { self.work.own_packed.part_mut(first..first + count * size) };
        let width = self.kernels.tile_tokens(count);
        for (tile, rows) in own.chunks_mut(width * size).zip(rows.chunks(width * cols)) {
            for (place, row) in rows.chunks_exact(cols).enumerate() {
                // SAFETY: `tile` is a tile of as many tokens as `rows` has rows.
                unsafe { self.kernels.quantise(row, tile.as_mut_ptr(), rows.len() / cols, place) };
            }
        }
        Input { rows, quantised: own }
    }

    /// Quantises the rows `tile` of `arena` into their tile.
    fn quantise_tile(&self, arena: &Arena<f32>, cols: usize, tile: Range<usize>) {
        let size = token_bytes(cols);
        // SAFETY: each tile belongs to one worker until the barrier.
        let into = unsafe { self.work.packed.part_mut(tile.start * size..tile.end * size) };
        for (place, row) in tile.clone().enumerate() {
            // SAFETY: the row was written by this worker or in an earlier phase; `into` is a tile.
            unsafe {
                let row = arena.part(row * cols..(row + 1) * cols);
                self.kernels.quantise(row, into.as_mut_ptr(), tile.len(), place);
            }
        }
    }

    /// The first `rows` rows of `arena`, and their quantised form if there is one.
    ///
    /// # Safety
    /// Both were written before a barrier, and are not written while the result is used.
    unsafe fn shared_input<'a>(
        &'a self,
        arena: &'a Arena<f32>,
        rows: usize,
        cols: usize,
        quantised: bool,
    ) -> Input<'a> {
        let bytes = if quantised { rows * token_bytes(cols) } else { 0 };
        // SAFETY: the caller's promise.
        unsafe { Input { rows: arena.part(0..rows * cols), quantised: self.work.packed.part(0..bytes) } }
    }

    /// q, k and v, whole heads a chunk, so that the same worker rotates them and stores k and v.
    fn query_key_value(&self, worker: &Worker<'_>, index: usize, layer: &Layer, h: Input<'_>) -> Done {
        let (spec, rows) = (self.spec, self.step.tokens.len());
        let heads_at_once = |matrix: &Matrix, heads: usize| {
            let chunk = matrix.chunk_rows(heads * spec.head_dim, rows, worker.threads());
            (chunk / spec.head_dim).clamp(1, heads)
        };
        let q_heads = heads_at_once(&layer.query, spec.heads);
        let kv_heads = heads_at_once(&layer.key, spec.kv_heads);
        let kv_chunks = spec.kv_heads.div_ceil(kv_heads);
        for chunk in worker.chunks(kv_chunks + spec.heads.div_ceil(q_heads)) {
            if chunk < kv_chunks {
                let heads = chunk * kv_heads..((chunk + 1) * kv_heads).min(spec.kv_heads);
                self.key_value_heads(worker, index, layer, h, heads);
            } else {
                let first = (chunk - kv_chunks) * q_heads;
                self.query_heads(worker, layer, h, first..(first + q_heads).min(spec.heads));
            }
        }
        worker.barrier()
    }

    /// q, k, v and attention, a KV head with its query heads a chunk.
    fn heads(&self, worker: &Worker<'_>, index: usize, layer: &Layer, h: Input<'_>) -> Done {
        let group = self.spec.heads / self.spec.kv_heads;
        for kv_head in worker.chunks(self.spec.kv_heads) {
            self.key_value_heads(worker, index, layer, h, kv_head..kv_head + 1);
            self.query_heads(worker, layer, h, kv_head * group..(kv_head + 1) * group);
            for (place, sequence) in self.step.sequences.iter().enumerate() {
                for unit in 0..self.units[place + 1] - self.units[place] {
                    self.attend(worker, index, sequence, unit, kv_head);
                }
            }
        }
        worker.barrier()
    }

    /// q of some heads, rotated.
    fn query_heads(&self, worker: &Worker<'_>, layer: &Layer, h: Input<'_>, heads: Range<usize>) {
        let (d, width) = (self.spec.head_dim, self.spec.q_width());
        let cols = heads.start * d..heads.end * d;
        self.product(worker, &layer.query, cols.clone(), h, &self.work.q);
        self.add_bias(&self.work.q, width, cols.clone(), layer.query_bias.as_deref());
        self.rotate(&self.work.q, width, cols);
    }

    /// k and v of some heads, rotated and stored in the cache.
    fn key_value_heads(
        &self,
        worker: &Worker<'_>,
        index: usize,
        layer: &Layer,
        h: Input<'_>,
        heads: Range<usize>,
    ) {
        let (d, width) = (self.spec.head_dim, self.spec.kv_width());
        let cols = heads.start * d..heads.end * d;
        self.product(worker, &layer.key, cols.clone(), h, &self.work.k);
        self.add_bias(&self.work.k, width, cols.clone(), layer.key_bias.as_deref());
        self.rotate(&self.work.k, width, cols.clone());
        self.product(worker, &layer.value, cols.clone(), h, &self.work.v);
        self.add_bias(&self.work.v, width, cols.clone(), layer.value_bias.as_deref());
        for (row, &slot) in self.step.slots.iter().enumerate() {
            let part = row * width + cols.start..row * width + cols.end;
            // SAFETY: these heads of k, v and the cache belong to this worker until the barrier; every slot
            // was checked to lie in the cache.
            unsafe {
                let (key, value) = (self.work.k.part(part.clone()), self.work.v.part(part));
                let cache = self.kv.layer(index);
                self.kernels.kv_store(self.kv.layout(), cache, slot as usize, heads.clone(), key, value);
            }
        }
    }

    /// Attention, a unit of one sequence and one KV head a chunk.
    fn attention(&self, worker: &Worker<'_>, index: usize) -> Done {
        let kv_heads = self.spec.kv_heads;
        let units = self.units.last().copied().unwrap_or(0);
        for chunk in worker.chunks(units * kv_heads) {
            // The last tiles see the longest context; they come first, so that no worker ends with one.
            let (unit, kv_head) = (units - 1 - chunk / kv_heads, chunk % kv_heads);
            let place = self.units.partition_point(|&before| before <= unit) - 1;
            let (sequence, unit) = (&self.step.sequences[place], unit - self.units[place]);
            if self.sharing == Sharing::Spans {
                self.attend_span(worker, index, place, unit, kv_head);
            } else {
                self.attend(worker, index, sequence, unit, kv_head);
            }
        }
        worker.barrier()
    }

    /// Attention of tile `tile` of a sequence's rows.
    fn attend(
        &self,
        worker: &Worker<'_>,
        index: usize,
        sequence: &StepSequence,
        tile: usize,
        kv_head: usize,
    ) {
        let first = tile * QUERY_TILE;
        let rows = first..(first + QUERY_TILE).min(sequence.rows);
        let attention = self.attention_of(index, sequence);
        // SAFETY: the rows of q and the blocks of the sequence were checked to exist; of this KV head they are
        // written before, by this worker or in an earlier phase, and only read now. These rows and heads of `attended`
        // belong to this worker until the barrier.
        unsafe { self.kernels.attend(&attention, rows, kv_head, self.work.scratch(worker)) };
    }

    /// Attention of sequence `place` over one span of its keys; whoever does the last one merges them.
    fn attend_span(&self, worker: &Worker<'_>, index: usize, place: usize, span: usize, kv_head: usize) {
        let sequence = &self.step.sequences[place];
        let attention = self.attention_of(index, sequence);
        let (spans, head_dim) = (self.sharing.units(sequence), self.spec.head_dim);
        let len = sequence.rows * (self.spec.heads / self.spec.kv_heads) * result_len(head_dim);
        let first = sequence.first_row * self.span_results + kv_head * spans * len;
        let results = self.work.spans.as_mut_ptr().wrapping_add(first);
        let share = Share { span, results: results.wrapping_add(span * len) };
        // SAFETY: as in `attend`; the results of this span belong to this worker until the count below tells others of
        // them, and whoever finds that it was the last one owns all of the sequence and KV head.
        unsafe {
            let scratch = self.work.scratch(worker);
            self.kernels.attend_span(&attention, 0..sequence.rows, kv_head, share, scratch);
            let done = &self.work.spans_done[place * self.spec.kv_heads + kv_head];
            if done.fetch_add(1, AcqRel) + 1 == spans as u32 {
                done.store(0, Relaxed);
                self.kernels.merge_spans(&attention, 0..sequence.rows, kv_head, results);
            }
        }
    }

    /// Attention of a sequence in layer `index`; its output lies in `attended`.
    fn attention_of(&self, index: usize, sequence: &StepSequence) -> Attention<'_> {
        let (spec, width) = (self.spec, self.spec.q_width());
        let start = sequence.first_row * width;
        Attention {
            layout: *self.kv.layout(),
            cache: self.kv.layer(index),
            blocks: &self.step.block_tables[sequence.first_block..][..sequence.blocks],
            past: sequence.context - sequence.rows,
            heads: spec.heads,
            q: self.work.q.as_mut_ptr().wrapping_add(start),
            q_stride: width,
            out: self.work.attended.as_mut_ptr().wrapping_add(start),
            out_stride: width,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            clamp: spec.score_clamp,
        }
    }

    /// gate ← silu(W_gate·h) × (W_up·h).
    fn gate_up(&self, worker: &Worker<'_>, layer: &Layer, h: Input<'_>) -> Done {
        let (rows, ffn) = (self.step.tokens.len(), self.spec.ffn);
        for cols in self.matrix_chunks(worker, &layer.gate, ffn, rows) {
            self.product(worker, &layer.gate, cols.clone(), h, &self.work.gate);
            self.product(worker, &layer.up, cols.clone(), h, &self.work.up);
            for row in 0..rows {
                let part = row * ffn + cols.start..row * ffn + cols.end;
                // SAFETY: these columns of gate and up belong to this worker until the barrier.
                let (gate, up) = unsafe { (self.work.gate.part_mut(part.clone()), self.work.up.part(part)) };
                self.kernels.silu_mul(gate, up);
            }
        }
        worker.barrier()
    }

    /// x ← x + (W·input + bias) with W `[hidden, cols]` and input `[rows, cols]`.
    fn add_product(
        &self,
        worker: &Worker<'_>,
        matrix: &Matrix,
        input: &Arena<f32>,
        bias: Option<&[f32]>,
    ) -> Done {
        let (rows, hidden) = (self.step.tokens.len(), self.spec.hidden);
        let input = self.input(worker, input, rows, matrix)?;
        for cols in self.matrix_chunks(worker, matrix, hidden, rows) {
            self.product(worker, matrix, cols.clone(), input, &self.work.h);
            self.add_bias(&self.work.h, hidden, cols.clone(), bias);
            for row in 0..rows {
                let part = row * hidden + cols.start..row * hidden + cols.end;
                // SAFETY: these columns of x and h belong to this worker until the barrier.
                let (x, h) = unsafe { (self.work.x.part_mut(part.clone()), self.work.h.part(part)) };
                self.kernels.add(x, h);
            }
        }
        worker.barrier()
    }

    /// out[t][r] ← W[r]·input[t] for the rows `rows` of W; `input` is `[tokens, cols]`.
    fn product(
        &self,
        worker: &Worker<'_>,
        matrix: &Matrix,
        rows: Range<usize>,
        input: Input<'_>,
        out: &Arena<f32>,
    ) {
        // SAFETY: `out` has the columns of the matrix's rows for every token of a step; the columns of this
        // chunk belong to this worker until the barrier. The scratch is borrowed for this call alone.
        unsafe {
            let scratch = self.work.scratch(worker);
            self.kernels.matmul(matrix, rows, input, out.as_mut_ptr(), matrix.rows(), scratch);
        }
    }

    /// Adds the columns `cols` of a bias to every row of `out`, `[rows, width]`.
    fn add_bias(&self, out: &Arena<f32>, width: usize, cols: Range<usize>, bias: Option<&[f32]>) {
        let Some(bias) = bias else { return };
        for row in 0..self.step.tokens.len() {
            // SAFETY: called on columns that belong to the calling worker until its barrier.
            let part = unsafe { out.part_mut(row * width + cols.start..row * width + cols.end) };
            self.kernels.add(part, &bias[cols.clone()]);
        }
    }

    /// Rotates the heads in the columns `cols` of every row of `out`, `[rows, width]`.
    fn rotate(&self, out: &Arena<f32>, width: usize, cols: Range<usize>) {
        let half = self.spec.head_dim / 2;
        for row in 0..self.step.tokens.len() {
            // SAFETY: called on columns that belong to the calling worker until its barrier; the angles are
            // only read after embed.
            let (part, cos, sin) = unsafe {
                (
                    out.part_mut(row * width + cols.start..row * width + cols.end),
                    self.work.cos.part(row * half..(row + 1) * half),
                    self.work.sin.part(row * half..(row + 1) * half),
                )
            };
            for head in part.chunks_exact_mut(self.spec.head_dim) {
                self.kernels.rope(head, cos, sin);
            }
        }
    }

    /// This worker's chunks of `rows` token rows.
    fn row_chunks(&self, worker: &Worker<'_>, rows: usize) -> impl Iterator<Item = Range<usize>> {
        worker
            .chunks(rows.div_ceil(ROW_CHUNK))
            .map(move |chunk| chunk * ROW_CHUNK..((chunk + 1) * ROW_CHUNK).min(rows))
    }

    /// This worker's tiles of `rows` token rows, as quantised activations are laid out.
    fn tile_chunks(&self, worker: &Worker<'_>, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let width = self.kernels.tile_tokens(rows);
        worker.chunks(rows.div_ceil(width)).map(move |tile| tile * width..((tile + 1) * width).min(rows))
    }

    /// This worker's chunks of the `rows` rows of a matrix that is multiplied with `tokens` tokens.
    fn matrix_chunks(
        &self,
        worker: &Worker<'_>,
        matrix: &Matrix,
        rows: usize,
        tokens: usize,
    ) -> impl Iterator<Item = Range<usize>> {
        let size = matrix.chunk_rows(rows, tokens, worker.threads()).max(1);
        worker.chunks(rows.div_ceil(size)).map(move |chunk| chunk * size..((chunk + 1) * size).min(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{RopeScaling, RopeSpec};

    /// A decoder with `kv_heads` KV heads and twice as many query heads of 64.
    fn spec(kv_heads: usize) -> DecoderSpec {
        DecoderSpec {
            layers: 1,
            hidden: 64,
            heads: 2 * kv_heads,
            kv_heads,
            head_dim: 64,
            ffn: 64,
            vocab: 10,
            norm_eps: 1e-6,
            rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
            context: 4096,
            score_clamp: None,
            tied: false,
        }
    }

    /// The choice for `sequences` sequences of `rows` rows each and a context of `context`.
    fn choose(spec: &DecoderSpec, threads: usize, sequences: usize, rows: usize, context: usize) -> Sharing {
        let one = StepSequence { first_row: 0, rows, context, first_block: 0, blocks: 0 };
        let step = Step {
            tokens: &vec![0; rows * sequences],
            positions: &[],
            slots: &[],
            sequences: &vec![one; sequences],
            block_tables: &[],
            wanted: &[],
            carry: &[],
        };
        let sizes = Sizes { rows: 512, logit_rows: 8, threads, context: 4096, packed: false };
        Sharing::of(spec, &step, sizes)
    }

    #[test]
    fn workers_share_out_what_there_is_enough_of() {
        // A 7B on two cores; prompts.
        assert_eq!(choose(&spec(32), 2, 1, 1, 2000), Sharing::Heads);
        assert_eq!(choose(&spec(32), 2, 16, 1, 2000), Sharing::Heads);
        assert_eq!(choose(&spec(32), 2, 1, 512, 2000), Sharing::Tiles);
        // Few KV heads, or many workers: keys, where there are several spans of them and few rows.
        assert_eq!(choose(&spec(2), 2, 1, 1, 2000), Sharing::Spans);
        assert_eq!(choose(&spec(8), 16, 2, 4, 513), Sharing::Spans);
        assert_eq!(choose(&spec(2), 2, 1, 1, 512), Sharing::Tiles);
        assert_eq!(choose(&spec(2), 2, 4, 1, 2000), Sharing::Tiles);
        assert_eq!(choose(&spec(2), 1, 1, 1, 2000), Sharing::Tiles);
        assert_eq!(choose(&spec(8), 16, 1, 9, 2000), Sharing::Tiles);
        // Heads that fill no whole panels.
        assert_eq!(choose(&DecoderSpec { head_dim: 80, ..spec(32) }, 2, 1, 1, 2000), Sharing::Tiles);
    }
}

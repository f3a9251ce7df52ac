//! What an engine will take of a device and of the host, before anything is taken.
//!
//! Everything that the backend, ATB and HCCL allocate is counted: weights, KV cache, tables of angles and masks,
//! activations, workspace, the block of words of two steps, ATB's ring of tiling blocks, HCCL's buffers. The workspace is
//! ATB's to say, once its operations are set up; the plan has a bound for it, that of a library that never uses the memory
//! of one tensor between operations for another.

use super::atb::AtbContext;
use super::form::HalfType;
use super::hold::{Hold, LayerHold};
use super::image::{ImageLayout, PassKind, SLOTS};
use super::program::ALIGN;
use super::soc::{Facts, Family};
use crate::backend::shapes;
use crate::backend::{ComputeType, ExecutorOptions, KvType};
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::limits;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;
use crate::model::weights::{Role, WeightSet};
use std::ops::Range;

/// Most sequences of one step where the caller does not say.
const BATCH_DEFAULT: usize = 16;
/// Rows of a step where prompts may be cut: enough that the matrix units are busy.
const CHUNK_ROWS: usize = 1024;
/// Rows of logits of one step at least: scoring a text wants many.
const LOGIT_ROWS_MIN: usize = 64;
/// Largest logits of a row that a device finds at most: more than the top-k of nearly all requests, and with ids
/// 1 KiB to bring over, where a row of Aquila's logits takes 391.
const CANDIDATES: usize = 128;
/// Candidates come in whole pieces, so that lists of them are aligned.
const CANDIDATES_STEP: usize = 16;
/// Largest mask for rows over the cache, `[C, C]`; with a longer context prompts are whole.
const CHUNK_MASK_BYTES_MAX: u64 = 1 << 30;
/// Most elements of a block and head that paged attention takes where it masks.
const BLOCK_ELEMENTS_MAX: usize = 128 * 128;
/// Executes of the layers of one step at most: with prologue and epilogue two steps stay within ATB's ring.
const EXECUTES_MAX: usize = 14;
/// Layers of a graph: of single rows, whose launches the device waits for; of prompts, whose workspace is large.
const TOKEN_LAYERS: usize = 4;
const PROMPT_LAYERS: usize = 2;
/// Kept free on the device: what the driver and other processes take, and what pages round up.
const RESERVE_BYTES: u64 = 256 << 20;
/// A page of device memory: what every allocation is rounded up to.
const PAGE: u64 = 2 << 20;
/// What a kernel of attention or a product takes of workspace beside its rows.
const KERNEL_BYTES: u64 = 32 << 20;
/// Pinned host memory through which weights are brought over, twice.
pub const STAGING_BYTES: usize = 32 << 20;

/// Options with every default filled in, and what follows from them for all ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The chip.
    pub facts: &'static Facts,
    /// Each rank's part of the decoder.
    pub parts: Vec<RankPart>,
    /// The type of weights, activations and caches.
    pub dtype: HalfType,
    /// Whether any weight is converted to it.
    pub converted: bool,
    /// Longest sequence.
    pub context: usize,
    /// Token positions of a KV block.
    pub block_tokens: usize,
    /// Whether prompts may be cut and continue over cached blocks.
    pub prefill_over_cache: bool,
    /// The words of a step.
    pub layout: ImageLayout,
    /// How the products of each layer are held.
    pub holds: Vec<LayerHold>,
}

impl Setup {
    /// `Unsupported` for what the chip cannot do, `Argument` for a value out of range.
    pub fn of(
        facts: &'static Facts,
        ranks: usize,
        spec: &DecoderSpec,
        weights: &WeightSet,
        options: &ExecutorOptions,
    ) -> Result<Setup> {
        crate::ensure!(
            (1..=limits::CONTEXT_MAX as usize).contains(&options.context),
            Argument,
            "context: expected 1 to {}, found {}",
            limits::CONTEXT_MAX,
            options.context
        );
        crate::ensure!(
            options.max_batch <= limits::BATCH_MAX as usize,
            Argument,
            "max_batch: expected at most {}, found {}",
            limits::BATCH_MAX,
            options.max_batch
        );
        let block_tokens = check_shape(facts, spec)?;
        let parts = (0..ranks).map(|rank| RankPart::of(spec, rank, ranks)).collect::<Result<Vec<_>>>()?;
        let (dtype, converted) = choose_type(facts, spec, weights, options.dtype)?;
        let kv = match options.kv_dtype {
            None => dtype,
            Some(KvType::F16) => HalfType::F16,
            Some(KvType::Bf16) => HalfType::Bf16,
            Some(other) => crate::bail!(
                Unsupported,
                "kv_dtype {other:?}: on an NPU keys and values are held like the weights, in {}",
                dtype.name()
            ),
        };
        crate::ensure!(
            kv == dtype,
            Unsupported,
            "kv_dtype {}: on an NPU keys and values are held like the weights, in {}",
            kv.name(),
            dtype.name()
        );
        let sequences = if options.max_batch == 0 { BATCH_DEFAULT } else { options.max_batch };
        let mask_bytes = (options.context as u64).pow(2) * 2;
        let prefill_over_cache = facts.prefill_over_cache && mask_bytes <= CHUNK_MASK_BYTES_MAX;
        let rows = if prefill_over_cache { CHUNK_ROWS.min(options.context) } else { options.context };
        let head_rows = parts[0].vocab_rows * ranks;
        let holds = (0..spec.layers).map(|layer| LayerHold::of(weights, layer, options.dtype));
        let holds = holds.collect::<Result<Vec<_>>>()?;
        crate::ensure!(
            facts.per_token_products || !holds.iter().any(|hold| hold.has(Hold::Tokens)),
            Unsupported,
            "dtype \"w8a8\": {} has no products with a scale for each token; it takes what msModelSlim made with static \
             W8A8, or \"f16\"",
            facts.product
        );
        Ok(Setup {
            facts,
            dtype,
            converted,
            context: options.context,
            block_tokens,
            prefill_over_cache,
            layout: ImageLayout {
                rows: rows.max(sequences),
                sequences,
                table: options.context.div_ceil(block_tokens),
                block_tokens,
                logit_rows: sequences.max(LOGIT_ROWS_MIN),
                logit_words: head_rows,
                // With their ids no more words than whole rows: so results need no room for them.
                candidates: CANDIDATES.min(spec.vocab / 2 / CANDIDATES_STEP * CANDIDATES_STEP),
                hidden_words: spec.hidden,
            },
            holds,
            parts,
        })
    }

    /// The layers of each graph of a pass, which has `shared` tensors beside theirs: two to four, more where a step would be
    /// too many executes, never more than `most`, and never so many that ATB's list of 64 tensors overflows.
    pub fn graphs(&self, kind: PassKind, shared: usize, most: usize) -> Vec<Range<usize>> {
        let usual = if kind == PassKind::Token { TOKEN_LAYERS } else { PROMPT_LAYERS };
        let most = usual.max(self.holds.len().div_ceil(EXECUTES_MAX)).min(most);
        let (mut graphs, mut first, mut tensors) = (Vec::new(), 0, shared);
        for (layer, hold) in self.holds.iter().enumerate() {
            let own = hold.tensors();
            if layer > first && (layer - first == most || tensors + own > super::shim::TENSORS) {
                graphs.push(first..layer);
                (first, tensors) = (layer, shared);
            }
            tensors += own;
        }
        if first < self.holds.len() {
            graphs.push(first..self.holds.len());
        }
        graphs
    }

    /// Whether any product is held so.
    pub fn has(&self, hold: Hold) -> bool {
        self.holds.iter().any(|layer| layer.has(hold))
    }

    /// Side of the mask of whole prompts, in tiles where those are taken; of the compressed one 128.
    pub fn prompt_mask_side(&self) -> usize {
        if self.facts.tiled { self.context.next_multiple_of(super::form::TILE) } else { 128 }
    }

    /// Bytes of keys and values of one block on one rank, all layers.
    pub fn block_bytes(&self, spec: &DecoderSpec, rank: usize) -> u64 {
        (spec.layers * 2 * self.block_tokens * self.parts[rank].kv_width() * 2) as u64
    }
}

/// What a rank takes of its device. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankNeeds {
    /// Weights, filled up as the chip wants them.
    pub weights: u64,
    /// Angles, masks, activations, words of two steps.
    pub tables: u64,
    /// What ATB may want for its operations.
    pub workspace: u64,
    /// ATB's tiling blocks and HCCL's buffers.
    pub libraries: u64,
    /// Keys and values of one block.
    pub block: u64,
}

impl RankNeeds {
    /// Those of a rank.
    pub fn of(setup: &Setup, spec: &DecoderSpec, rank: usize) -> Result<RankNeeds> {
        let part = &setup.parts[rank];
        let piece = |bytes: usize| (bytes as u64).next_multiple_of(ALIGN as u64);
        let layers = setup
            .holds
            .iter()
            .map(|hold| Ok(pages(hold.bytes(setup.facts, spec, part, setup.dtype)? as u64)));
        let layers = layers.sum::<Result<u64>>()?;
        let embedding = pages(piece(spec.vocab * spec.hidden * 2) + piece(spec.hidden * 2));
        let head =
            if setup.shares_head(spec) { 0 } else { pages((part.vocab_rows * spec.hidden * 2) as u64) };
        let rows = setup.layout.rows as u64;
        let (hidden, head_dim) = (spec.hidden as u64, spec.head_dim as u64);
        let context = setup.context as u64;
        let angle = if setup.dtype == HalfType::F16 { 4 } else { 2 };
        let angles = 2 * pages(context * head_dim * angle);
        let masks = pages((setup.prompt_mask_side() as u64).pow(2) * 2)
            + if setup.prefill_over_cache {
                pages(context * context * 2) + pages(rows * context * 2)
            } else {
                0
            };
        let activations = 2 * pages(rows * hidden * 2) + 2 * pages(rows * head_dim * angle);
        let words = pages(setup.layout.words() as u64 * 4);
        let group = if setup.parts.len() > 1 { 2 * hccl_buffer_bytes() } else { 0 };
        Ok(RankNeeds {
            weights: layers + embedding + head,
            tables: angles + masks + activations + words,
            workspace: setup.workspace_bytes(spec, rank),
            libraries: AtbContext::DEVICE_BYTES + group,
            block: setup.block_bytes(spec, rank),
        })
    }

    /// All but the KV cache.
    pub fn fixed(&self) -> u64 {
        self.weights + self.tables + self.workspace + self.libraries
    }
}

impl Setup {
    /// Whether the head is the embedding's own memory: the same matrix in the same form.
    pub fn shares_head(&self, spec: &DecoderSpec) -> bool {
        spec.tied && !self.facts.tiled && self.parts.len() == 1 && self.parts[0].vocab_rows == spec.vocab
    }

    /// A bound for the workspace of the largest program: all tensors between its operations, and what one kernel takes.
    pub fn workspace_bytes(&self, spec: &DecoderSpec, rank: usize) -> u64 {
        let part = &self.parts[rank];
        let (q, kv, ffn) = (part.q_width() as u64, part.kv_width() as u64, part.ffn.len() as u64);
        let hidden = spec.hidden as u64;
        let ranks = self.parts.len() as u64;
        // Norm and sum twice, products of output and down (twice with sums over ranks); query, key and value together,
        // apart and turned, and attended; gate and up together, apart, times each other.
        let sums = if ranks > 1 { 8 } else { 6 };
        let row = sums * hidden
            + 2 * (q + 2 * kv)
            + (q + kv)
            + q
            + 2 * ffn
            + if self.facts.swiglu { 1 } else { 4 } * ffn;
        let quantised = self.has(Hold::Tokens) || self.has(Hold::Tensor);
        // Inputs of four products in bytes, with their scales, and what is shifted by a bias.
        let row = row + if quantised { (2 * hidden + q + ffn) / 2 + 8 + (q + 2 * kv) + hidden } else { 0 };
        let of = |kind, rows: u64| {
            let graphs = self.graphs(kind, super::decoder::Shared::count(kind) as usize, usize::MAX);
            let layers = graphs.iter().map(Range::len).max().unwrap_or_default() as u64;
            layers * (row * 2 * rows + 32 * ALIGN as u64) + rows * q * 4
        };
        let layers = of(PassKind::Prompt, self.layout.rows as u64)
            .max(of(PassKind::Token, self.layout.sequences as u64));
        let logits = self.layout.logit_rows as u64 * self.layout.logit_words as u64;
        // A rank's rows, all ranks', turned, cut, and candidates, which are no more than half of a row.
        let head =
            2 * self.layout.logit_rows as u64 * hidden * 2 + logits * 2 * if ranks > 1 { 4 } else { 3 };
        let hidden_rows = 2 * self.layout.rows as u64 * hidden * 2;
        layers.max(head).max(hidden_rows) + KERNEL_BYTES
    }

    /// Pinned host memory of a rank: two steps' words and results.
    pub fn host_bytes(&self) -> u64 {
        (SLOTS * (self.layout.input_words() + self.layout.output_words()) * 4) as u64
    }
}

/// KV blocks that fit on every rank's device, and why one sequence does not fit where it does not.
///
/// `free` is what each device has; `budget` the most that may be taken of each, 0 for all of it; `kv_budget` the most for
/// the cache, 0 for what is left.
pub fn kv_blocks(
    setup: &Setup,
    needs: &[RankNeeds],
    free: &[u64],
    budget: u64,
    kv_budget: u64,
) -> (usize, Option<String>) {
    let context_blocks = setup.layout.table as u64;
    let mut blocks = context_blocks * setup.layout.sequences as u64;
    let mut refusal = None;
    for (rank, (need, &free)) in needs.iter().zip(free).enumerate() {
        let mut room = free.saturating_sub(RESERVE_BYTES);
        if budget > 0 {
            room = room.min(budget);
        }
        let mut left = room.saturating_sub(need.fixed());
        if kv_budget > 0 {
            left = left.min(kv_budget);
        }
        let fit = left / need.block.max(1);
        blocks = blocks.min(fit);
        if fit < context_blocks && refusal.is_none() {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            refusal = Some(format!(
                "rank {rank} needs {} MiB of weights + {} of workspace + {} of tables and activations + {} for ATB and HCCL + {} \
                 of KV cache for one sequence of {} tokens = {} MiB of its device; {} MiB are free, of which {} are kept in \
                 reserve{}: lower max_context, or use more devices",
                mib(need.weights),
                mib(need.workspace),
                mib(need.tables),
                mib(need.libraries),
                mib(need.block * context_blocks),
                setup.context,
                mib(need.fixed() + need.block * context_blocks),
                mib(free),
                mib(RESERVE_BYTES),
                match (budget, kv_budget) {
                    (0, 0) => String::new(),
                    (0, kv) => format!(", and kv_memory is {} MiB", mib(kv)),
                    (device, 0) => format!(", and device_memory is {} MiB", mib(device)),
                    (device, kv) =>
                        format!(", device_memory is {} MiB and kv_memory {} MiB", mib(device), mib(kv)),
                }
            ));
        }
    }
    (blocks.max(context_blocks) as usize, refusal)
}

/// Bytes of an allocation.
pub fn pages(bytes: u64) -> u64 {
    (bytes + 32).next_multiple_of(PAGE)
}

/// What HCCL takes for each of a communicator's two buffers: `HCCL_BUFFSIZE` in MB, 200 where it is not set.
fn hccl_buffer_bytes() -> u64 {
    let set = std::env::var("HCCL_BUFFSIZE").ok().and_then(|text| text.trim().parse::<u64>().ok());
    set.unwrap_or(200) << 20
}

/// Whether the chip's attention takes heads of this width; the tokens of a block.
fn check_shape(facts: &Facts, spec: &DecoderSpec) -> Result<usize> {
    let (head_dim, most) = (spec.head_dim, facts.head_dim_max.min(256));
    crate::ensure!(
        head_dim % 16 == 0 && head_dim <= most && spec.hidden.is_multiple_of(16),
        Unsupported,
        "heads of {head_dim} in a hidden size of {}: {} takes multiples of 16, and heads of at most {most}",
        spec.hidden,
        facts.product
    );
    Ok(super::soc::BLOCK_TOKENS.min(BLOCK_ELEMENTS_MAX / head_dim / 16 * 16))
}

/// The type to compute in, and whether any weight must be converted to it.
fn choose_type(
    facts: &Facts,
    spec: &DecoderSpec,
    weights: &WeightSet,
    asked: Option<ComputeType>,
) -> Result<(HalfType, bool)> {
    let codes = weights.all_int8().next().map(|(_, weight)| &weight.name);
    if let (Some(name), Some(other)) = (codes, asked.filter(|&asked| asked != ComputeType::W8a8)) {
        crate::bail!(
            Unsupported,
            "dtype {other:?}: tensor {name} has 8 bits, as msModelSlim made it; leave dtype out, or \"w8a8\""
        );
    }
    let dtype = match asked {
        Some(ComputeType::F16) => HalfType::F16,
        Some(ComputeType::Bf16) => HalfType::Bf16,
        Some(other @ (ComputeType::F32 | ComputeType::Q8 | ComputeType::Q4)) => crate::bail!(
            Unsupported,
            "dtype {other:?}: an NPU computes in f16, bf16 or w8a8 (ATB's operations take no others); leave dtype out, or use \
             the CPU"
        ),
        Some(ComputeType::W8a8) | None => {
            let role = if weights.int8(0, Role::Query).is_some() { Role::Embedding } else { Role::Query };
            let stored = shapes::need(spec, weights, 0, role)?.dtype();
            if stored == Some(DType::BF16) && facts.bf16 { HalfType::Bf16 } else { HalfType::F16 }
        }
    };
    crate::ensure!(
        dtype == HalfType::F16 || facts.bf16,
        Unsupported,
        "dtype \"bf16\": {} has no bf16",
        facts.product
    );
    let held = if dtype == HalfType::F16 { DType::F16 } else { DType::BF16 };
    let converted = weights.iter().any(|(_, weight)| weight.rows > 1 && weight.dtype() != Some(held));
    Ok((dtype, converted))
}

/// Facts for a person about an engine that is planned or open.
pub fn facts(setup: &Setup, spec: &DecoderSpec, soc: &str, devices: &[u32]) -> Vec<(&'static str, String)> {
    let ids: Vec<String> = devices.iter().map(u32::to_string).collect();
    let form = if setup.facts.family == Family::Ascend310P { "tiles (FRACTAL_NZ)" } else { "rows (ND)" };
    let prompts = if setup.prefill_over_cache {
        "in chunks, over cached blocks"
    } else {
        "whole; no prefix cache, because this card's attention over cached blocks is not proven"
    };
    let mut facts = vec![
        (
            "npu",
            format!(
                "{soc} ({}), {} device{} ({})",
                setup.facts.product,
                ids.len(),
                if ids.len() == 1 { "" } else { "s" },
                ids.join(", ")
            ),
        ),
        (
            "arithmetic",
            format!(
                "{}{} weights in {form}, f32 sums{}",
                if setup.has(Hold::Tokens) {
                    "w8a8: int8 products, a scale for each channel of the weights and each token; the rest "
                } else if setup.has(Hold::Tensor) {
                    "w8a8: int8 products, a scale for each channel of the weights, inputs by msModelSlim's scales; the rest "
                } else {
                    ""
                },
                setup.dtype.name(),
                if setup.converted { "; converted" } else { "" }
            ),
        ),
        ("kv cache", format!("{}, blocks of {} tokens", setup.dtype.name(), setup.block_tokens)),
        ("prompts", prompts.to_owned()),
    ];
    if let Some(bound) = spec.score_clamp {
        let done = match setup.facts.score_clamp {
            true => "in attention within prompts; paged attention has none",
            false => "none: ATB has no operation with it on this card",
        };
        facts.push(("score clamp", format!("{done}, and trained scores stay far within ±{bound}")));
    }
    facts.push(("choice", choice(setup)));
    if setup.parts.len() > 1 {
        facts.push(("ranks", format!("{}, one a device, joined by HCCL", setup.parts.len())));
    }
    facts
}

/// What of the choice of tokens the device does.
fn choice(setup: &Setup) -> String {
    match setup.layout.candidates {
        0 => "greedy on the device".to_owned(),
        count => format!("greedy on the device; top-k on the device, for top_k below {count}"),
    }
}

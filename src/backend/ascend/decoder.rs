//! The decoder as drafts of ATB operations: the tokens' embedding and angles before the layers, a run of layers, and what
//! is made of the last hidden states.
//!
//! In shapes T is the rows of a pass, S its sequences, B the entries of a block table, C the context, W the rows that are
//! wanted, H the width of the residual stream; heads, F (the feed-forward) and P (rows of the head, filled up) are those
//! of this rank. All elements are 16-bit unless said.
//!
//! A layer is, as in Hugging Face's LLaMA: norm, one product for query, key and value, rotation, keys and values into
//! the cache, attention, output product, sum; norm, one product for gate and up, SiLU of the one times the other, down
//! product, sum. The sum before a norm is one operation with it. With several ranks the output and the down product are
//! partial, and are summed over the ranks.

use super::acl;
use super::atb::{AllGather, AllReduce, Arguments, AtbContext, Operation, fixed, output_like, same};
use super::comm::Comm;
use super::draft::{Draft, Ref};
use super::form::HalfType;
use super::image::PassKind;
use super::shim::{
    aqatb_activation, aqatb_elewise, aqatb_gather, aqatb_linear, aqatb_output, aqatb_paged_attention,
    aqatb_reshape_cache, aqatb_rms_norm, aqatb_rope, aqatb_self_attention, aqatb_slice, aqatb_sort,
    aqatb_split, aqatb_transpose,
};
use super::soc::Facts;
use crate::base::error::Result;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;

/// What the drafts need to know.
#[derive(Debug)]
pub struct Decoder<'a> {
    /// Operations are made for it.
    pub context: &'a AtbContext,
    /// The chip.
    pub facts: &'static Facts,
    /// The whole decoder.
    pub spec: &'a DecoderSpec,
    /// This rank's part of it.
    pub part: &'a RankPart,
    /// The type of weights, activations and caches.
    pub dtype: HalfType,
    /// The group, with several ranks.
    pub comm: Option<&'a Comm>,
    /// Whether query, key and value products have a bias.
    pub qkv_bias: bool,
    /// Whether output products have one.
    pub output_bias: bool,
}

/// Tensors that come into a run of layers, before those of its layers.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

impl Shared {
    /// `[T, H]`: the residual stream.
    pub const X: u32 = 0;
    /// `[T, D]`: cosines, f32 where the elements are f16.
    pub const COS: u32 = 1;
    /// `[T, D]`: sines.
    pub const SIN: u32 = 2;
    /// `[S]` i32: rows of each sequence, with a copy on the host.
    pub const LENGTHS: u32 = 3;
    /// `[T]` i32: where keys and values go.
    pub const SLOTS: u32 = 4;
    /// Of prompts: the causal mask.
    pub const PROMPT_MASK: u32 = 5;
    /// Of the others: `[S, B]` i32.
    pub const TABLES: u32 = 5;
    /// `[S]` i32: tokens of each sequence, with a copy on the host.
    pub const CONTEXTS: u32 = 6;
    /// Of rows over the cache: `[T, C]`, a row of the mask for each.
    pub const CHUNK_MASK: u32 = 7;

    /// How many a pass has.
    pub fn count(kind: PassKind) -> u32 {
        match kind {
            PassKind::Prompt => 6,
            PassKind::Token => 7,
            PassKind::Chunk => 8,
        }
    }
}

impl Decoder<'_> {
    /// Tensors of one layer that come in: norm, query-key-value, its bias, output, its bias, norm, gate-up, down, keys,
    /// values.
    pub fn layer_inputs(&self) -> usize {
        8 + usize::from(self.qkv_bias) + usize::from(self.output_bias)
    }

    fn operation(&self, arguments: &impl Arguments) -> Result<Operation> {
        Operation::new(self.context, arguments)
    }

    fn heads(&self) -> i64 {
        self.part.heads.len() as i64
    }

    fn kv_heads(&self) -> i64 {
        self.part.kv_heads.len() as i64
    }

    fn head_dim(&self) -> i64 {
        self.spec.head_dim as i64
    }

    /// The type of the tables of cosines and sines: exact beside f16, and what ATB takes beside bf16.
    pub fn angle_type(&self) -> acl::aclDataType {
        match self.dtype {
            HalfType::F16 => acl::ACL_FLOAT,
            HalfType::Bf16 => acl::ACL_BF16,
        }
    }

    /// In: token ids `[T]` i32 (`carried`: the device's block of words `[N, 1]` i32 and places in it `[T]`), positions
    /// `[T]` i32, embedding `[V, H]`, cosines and sines `[C, D]`, for rows over the cache the mask `[C, C]`.
    /// Out: hidden states `[T, H]`, cosines and sines `[T, D]`, mask rows `[T, C]`.
    pub fn prologue(&self, kind: PassKind, carried: bool) -> Result<Draft> {
        let mut draft = Draft::new(c"aquila_prologue", 0);
        let gather = || self.operation(&aqatb_gather { axis: 0, batch_dims: 0 });
        let (tokens, embedding_dims) = if carried {
            let (block, places, read) = (draft.input(), draft.input(), draft.mid());
            draft.node(gather()?, &[block, places], &[read], &[])?;
            (read, vec![same(0, 0)])
        } else {
            (draft.input(), vec![])
        };
        let rows = if carried { 1 } else { 0 };
        let positions = draft.input();
        let table = |draft: &mut Draft, tokens: Ref, width: i64, flat: &[_]| -> Result<()> {
            let table = draft.input();
            let Ref::In(like) = table else { return Ok(()) };
            let out = draft.output(output_like(like as i32, &[same(rows, 0), fixed(width)])?);
            let views: &[(u32, &[_])] = if flat.is_empty() { &[] } else { &[(1, flat)] };
            draft.node(gather()?, &[table, tokens], &[out], views)
        };
        table(&mut draft, tokens, self.spec.hidden as i64, &embedding_dims)?;
        table(&mut draft, positions, self.head_dim(), &[])?;
        table(&mut draft, positions, self.head_dim(), &[])?;
        if kind == PassKind::Chunk {
            let mask = draft.input();
            let Ref::In(like) = mask else { return Ok(draft) };
            let out = draft.output(output_like(like as i32, &[same(rows, 0), same(like as i32, 1)])?);
            draft.node(gather()?, &[mask, positions], &[out], &[])?;
        }
        Ok(draft)
    }

    /// `layers` layers. In: [`Shared`], then [`Decoder::layer_inputs`] a layer. Out: the residual stream `[T, H]`.
    pub fn layers(&self, kind: PassKind, layers: usize) -> Result<Draft> {
        let mut draft = Draft::new(
            match kind {
                PassKind::Prompt => c"aquila_prompt_layers",
                PassKind::Chunk => c"aquila_chunk_layers",
                PassKind::Token => c"aquila_token_layers",
            },
            Shared::count(kind),
        );
        let out = draft.output(output_like(Shared::X as i32, &[])?);
        let mut x = Ref::In(Shared::X);
        let mut normed = None;
        let mut inputs: Vec<LayerInputs> = (0..layers).map(|_| LayerInputs::of(&mut draft, self)).collect();
        for layer in 0..layers {
            let next_norm = inputs.get(layer + 1).map(|next| next.attention_norm);
            let this = &mut inputs[layer];
            let first = match normed {
                Some(normed) => normed,
                None => self.norm(&mut draft, x, this.attention_norm)?,
            };
            let attended = self.attention(&mut draft, kind, this, first)?;
            let (normed_ffn, residual) = self.sum_and_norm(&mut draft, attended, x, this.ffn_norm)?;
            let down = self.feed_forward(&mut draft, this, normed_ffn)?;
            match next_norm {
                Some(gamma) => {
                    let (next, sum) = self.sum_and_norm(&mut draft, down, residual, gamma)?;
                    (normed, x) = (Some(next), sum);
                }
                None => {
                    let add = self.operation(&elewise(ADD))?;
                    draft.node(add, &[residual, down], &[out], &[])?;
                }
            }
        }
        Ok(draft)
    }

    /// In: the residual stream `[T, H]`, wanted rows `[W]` i32, the last norm `[H]`, and for logits and ids the head.
    /// Out: f32 logits `[W, P·ranks]`; or ids `[W, 1]` i32; or f32 hidden states `[W, H]`.
    pub fn epilogue(&self, what: Epilogue) -> Result<Draft> {
        let name = match what {
            Epilogue::Logits => c"aquila_logits",
            Epilogue::Select => c"aquila_select",
            Epilogue::Hidden => c"aquila_hidden",
        };
        let mut draft = Draft::new(name, 0);
        let (x, wanted, gamma) = (draft.input(), draft.input(), draft.input());
        let rows = draft.mid();
        draft.node(self.operation(&aqatb_gather { axis: 0, batch_dims: 0 })?, &[x, wanted], &[rows], &[])?;
        let normed = self.norm(&mut draft, rows, gamma)?;
        if what == Epilogue::Hidden {
            let out = draft.output(described(acl::ACL_FLOAT, &[same(1, 0), same(0, 1)])?);
            draft.node(self.operation(&cast(acl::ACL_FLOAT))?, &[normed], &[out], &[])?;
            return Ok(draft);
        }
        let head = draft.input();
        let mut logits = self.linear(&mut draft, normed, head, None)?;
        let width = (self.part.vocab_rows * self.part.ranks) as i64;
        let flat = [same(0, 0), fixed(width)];
        let mut view: &[_] = &[];
        if let Some(comm) = self.comm {
            // [W, P] of each rank to [ranks, W, P] to [W, ranks, P], which is seen as [W, ranks·P].
            let (all, turned) = (draft.mid(), draft.mid());
            draft.node(self.operation(&AllGather(comm))?, &[logits], &[all], &[])?;
            let mut order = [0; 8];
            order[..3].copy_from_slice(&[1, 0, 2]);
            let turn = self.operation(&aqatb_transpose { dim_count: 3, order })?;
            draft.node(turn, &[all], &[turned], &[])?;
            (logits, view) = (turned, &flat);
        }
        let view: Vec<(u32, &[_])> = if view.is_empty() { vec![] } else { vec![(0, view)] };
        if what == Epilogue::Logits {
            let out = draft.output(described(acl::ACL_FLOAT, &[same(1, 0), fixed(width)])?);
            draft.node(self.operation(&cast(acl::ACL_FLOAT))?, &[logits], &[out], &view)?;
            return Ok(draft);
        }
        let mut views = &view[..];
        if width as usize != self.spec.vocab {
            // What is filled up is 0, which could be the largest.
            let cut = draft.mid();
            let (mut offsets, mut sizes) = ([0; 8], [0; 8]);
            sizes[..2].copy_from_slice(&[-1, self.spec.vocab as i64]);
            offsets[..2].fill(0);
            let slice = aqatb_slice { dim_count: 2, reserved: 0, offsets, sizes };
            draft.node(self.operation(&slice)?, &[logits], &[cut], views)?;
            (logits, views) = (cut, &[]);
        }
        let (largest, ids) = (draft.mid(), draft.output(described(acl::ACL_INT32, &[same(1, 0), fixed(1)])?));
        draft.node(self.operation(&aqatb_sort { count: 1 })?, &[logits], &[largest, ids], views)?;
        Ok(draft)
    }

    fn norm(&self, draft: &mut Draft, x: Ref, gamma: Ref) -> Result<Ref> {
        let normed = draft.mid();
        draft.node(self.operation(&self.rms_norm(NORM))?, &[x, gamma], &[normed], &[])?;
        Ok(normed)
    }

    /// The norm of a sum, and the sum.
    fn sum_and_norm(&self, draft: &mut Draft, x: Ref, residual: Ref, gamma: Ref) -> Result<(Ref, Ref)> {
        let (normed, sum) = (draft.mid(), draft.mid());
        draft.node(
            self.operation(&self.rms_norm(SUM_AND_NORM))?,
            &[x, residual, gamma],
            &[normed, sum],
            &[],
        )?;
        Ok((normed, sum))
    }

    fn rms_norm(&self, layer: i32) -> aqatb_rms_norm {
        aqatb_rms_norm { layer, quant: 0, dynamic: 0, epsilon: self.spec.norm_eps, has_bias: 0 }
    }

    fn linear(&self, draft: &mut Draft, x: Ref, weight: Ref, bias: Option<Ref>) -> Result<Ref> {
        let product = draft.mid();
        let linear = aqatb_linear {
            transpose_a: 0,
            transpose_b: 1,
            has_bias: bias.is_some().into(),
            out_dtype: -1,
            accumulate: 0,
            quant_mode: 0,
        };
        let inputs: Vec<Ref> = [x, weight].into_iter().chain(bias).collect();
        draft.node(self.operation(&linear)?, &inputs, &[product], &[])?;
        Ok(product)
    }

    /// The sum over the ranks of what each has a part of.
    fn over_ranks(&self, draft: &mut Draft, partial: Ref) -> Result<Ref> {
        let Some(comm) = self.comm else { return Ok(partial) };
        let sum = draft.mid();
        draft.node(self.operation(&AllReduce(comm))?, &[partial], &[sum], &[])?;
        Ok(sum)
    }

    /// From the normed stream to the output product, `[T, H]`.
    fn attention(&self, draft: &mut Draft, kind: PassKind, layer: &LayerInputs, normed: Ref) -> Result<Ref> {
        let both = self.linear(draft, normed, layer.qkv, layer.qkv_bias)?;
        let (q, k, v) = (draft.mid(), draft.mid(), draft.mid());
        let (q_width, kv_width) = (self.part.q_width() as i32, self.part.kv_width() as i32);
        let equal = q_width == kv_width;
        let sizes = if equal { [0; 3] } else { [q_width, kv_width, kv_width] };
        let split = self.operation(&aqatb_split { dim: 1, count: 3, sizes })?;
        draft.node(split, &[both], &[q, k, v], &[])?;
        let (q_turned, k_turned) = (draft.mid(), draft.mid());
        let rope = self.operation(&aqatb_rope { rotary_coeff: 2, cos_format: 0 })?;
        let angles = [Ref::In(Shared::COS), Ref::In(Shared::SIN), Ref::In(Shared::LENGTHS)];
        draft.node(rope, &[&[q, k], &angles[..]].concat(), &[q_turned, k_turned], &[])?;
        let q_heads = [same(0, 0), fixed(self.heads()), fixed(self.head_dim())];
        let kv_heads = [same(0, 0), fixed(self.kv_heads()), fixed(self.head_dim())];
        let keep = self.operation(&aqatb_reshape_cache { kv_cache_cfg: 0, compress: 0 })?;
        draft.node(
            keep,
            &[k_turned, v, layer.keys, layer.values, Ref::In(Shared::SLOTS)],
            &[layer.keys, layer.values],
            &[(0, &kv_heads), (1, &kv_heads)],
        )?;
        let attended = draft.mid();
        let lengths = Ref::In(Shared::LENGTHS);
        let cached = [layer.keys, layer.values, Ref::In(Shared::TABLES), Ref::In(Shared::CONTEXTS)];
        match kind {
            PassKind::Prompt => draft.node(
                self.operation(&self.self_attention())?,
                &[q_turned, k_turned, v, Ref::In(Shared::PROMPT_MASK), lengths],
                &[attended],
                &[(0, &q_heads), (1, &kv_heads), (2, &kv_heads)],
            )?,
            PassKind::Token => draft.node(
                self.operation(&self.paged_attention(0, 0))?,
                &[&[q_turned], &cached[..]].concat(),
                &[attended],
                &[(0, &q_heads)],
            )?,
            PassKind::Chunk => draft.node(
                self.operation(&self.paged_attention(MASK_SPEC, CALC_SPEC))?,
                &[&[q_turned], &cached[..], &[Ref::In(Shared::CHUNK_MASK), lengths]].concat(),
                &[attended],
                &[(0, &q_heads)],
            )?,
        }
        let product = {
            let product = draft.mid();
            let linear = aqatb_linear {
                transpose_a: 0,
                transpose_b: 1,
                has_bias: layer.output_bias.is_some().into(),
                out_dtype: -1,
                accumulate: 0,
                quant_mode: 0,
            };
            let inputs: Vec<Ref> = [attended, layer.output].into_iter().chain(layer.output_bias).collect();
            let flat = [same(0, 0), fixed(i64::from(q_width))];
            draft.node(self.operation(&linear)?, &inputs, &[product], &[(0, &flat)])?;
            product
        };
        self.over_ranks(draft, product)
    }

    /// From the normed stream to the down product, `[T, H]`.
    fn feed_forward(&self, draft: &mut Draft, layer: &LayerInputs, normed: Ref) -> Result<Ref> {
        let both = self.linear(draft, normed, layer.gate_up, None)?;
        let gated = draft.mid();
        let activation = |r#type| aqatb_activation { r#type, dim: -1, scale: 1.0 };
        if self.facts.swiglu {
            draft.node(self.operation(&activation(SWIGLU))?, &[both], &[gated], &[])?;
        } else {
            let (gate, up, silu) = (draft.mid(), draft.mid(), draft.mid());
            let halves = self.operation(&aqatb_split { dim: 1, count: 2, sizes: [0; 3] })?;
            draft.node(halves, &[both], &[gate, up], &[])?;
            draft.node(self.operation(&activation(SWISH))?, &[gate], &[silu], &[])?;
            draft.node(self.operation(&elewise(MUL))?, &[silu, up], &[gated], &[])?;
        }
        let down = self.linear(draft, gated, layer.down, None)?;
        self.over_ranks(draft, down)
    }

    /// Attention within prompts. Where the chip has the kernel, soft-max is in f32. Aquila's first version clamps scores;
    /// where the operation cannot, nothing is clamped: trained scores stay far within the bound.
    fn self_attention(&self) -> aqatb_self_attention {
        let clamp = self.spec.score_clamp.filter(|_| self.facts.score_clamp);
        aqatb_self_attention {
            calc: CALC_PROMPT,
            kernel: self.facts.high_precision_attention.into(),
            heads: self.heads() as i32,
            kv_heads: self.kv_heads() as i32,
            q_scale: 1.0,
            qk_scale: self.qk_scale(),
            mask: if self.facts.tiled { MASK_NORM } else { MASK_COMPRESSED },
            triangular: (!self.facts.tiled).into(),
            clamp: clamp.is_some().into(),
            clamp_min: clamp.map_or(0.0, |bound| -bound),
            clamp_max: clamp.unwrap_or(0.0),
        }
    }

    fn paged_attention(&self, mask: i32, calc: i32) -> aqatb_paged_attention {
        let (heads, kv_heads) = (self.heads() as i32, self.kv_heads() as i32);
        aqatb_paged_attention { heads, kv_heads, qk_scale: self.qk_scale(), mask, calc }
    }

    fn qk_scale(&self) -> f32 {
        (1.0 / (self.spec.head_dim as f64).sqrt()) as f32
    }
}

/// What is made of the last hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// Logits.
    Logits,
    /// The id of the largest logit.
    Select,
    /// The hidden state after the last norm.
    Hidden,
}

/// The tensors of one layer that come in, in their order.
struct LayerInputs {
    attention_norm: Ref,
    qkv: Ref,
    qkv_bias: Option<Ref>,
    output: Ref,
    output_bias: Option<Ref>,
    ffn_norm: Ref,
    gate_up: Ref,
    down: Ref,
    keys: Ref,
    values: Ref,
}

impl LayerInputs {
    fn of(draft: &mut Draft, decoder: &Decoder<'_>) -> LayerInputs {
        LayerInputs {
            attention_norm: draft.input(),
            qkv: draft.input(),
            qkv_bias: decoder.qkv_bias.then(|| draft.input()),
            output: draft.input(),
            output_bias: decoder.output_bias.then(|| draft.input()),
            ffn_norm: draft.input(),
            gate_up: draft.input(),
            down: draft.input(),
            keys: draft.input(),
            values: draft.input(),
        }
    }
}

// ATB's numbers: RmsNormType, ElewiseType, ActivationType, and of attention CalcType and MaskType.
const NORM: i32 = 1;
const SUM_AND_NORM: i32 = 2;
const CAST: i32 = 1;
const ADD: i32 = 8;
const MUL: i32 = 9;
const SWISH: i32 = 4;
const SWIGLU: i32 = 6;
const CALC_PROMPT: i32 = 3;
const CALC_SPEC: i32 = 1;
const MASK_NORM: i32 = 1;
const MASK_COMPRESSED: i32 = 3;
const MASK_SPEC: i32 = 3;

fn elewise(r#type: i32) -> aqatb_elewise {
    aqatb_elewise { r#type, out_dtype: -1, factor: 0.0, input_scale: 1.0, input_offset: 0 }
}

fn cast(out_dtype: acl::aclDataType) -> aqatb_elewise {
    aqatb_elewise { out_dtype, ..elewise(CAST) }
}

/// An output of another type than the first input.
fn described(dtype: acl::aclDataType, dims: &[super::shim::aqatb_dim]) -> Result<aqatb_output> {
    Ok(aqatb_output { dtype, ..output_like(0, dims)? })
}

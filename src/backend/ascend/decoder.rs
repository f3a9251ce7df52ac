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
//! partial, and are summed over the ranks. A product and its input may have 8 bits (`products`).

use super::acl;
use super::atb::{AllGather, AllReduce, Arguments, AtbContext, Operation, fixed, output_like, same};
use super::comm::Comm;
use super::draft::{Draft, Ref};
use super::form::HalfType;
use super::hold::LayerHold;
use super::image::PassKind;
use super::products::{ADD, CAST, Input, MUL, Norm, Product, Products, elewise};
use super::shim::{
    aqatb_activation, aqatb_elewise, aqatb_gather, aqatb_output, aqatb_paged_attention, aqatb_reshape_cache,
    aqatb_rope, aqatb_self_attention, aqatb_slice, aqatb_sort, aqatb_split, aqatb_transpose,
};
use super::soc::Facts;
use crate::base::error::Result;
use crate::model::cut::RankPart;
use crate::model::spec::DecoderSpec;
use std::ops::Range;

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
    /// How the products of each layer are held.
    pub holds: &'a [LayerHold],
    /// Largest logits that [`Epilogue::Candidates`] gives of a row.
    pub candidates: usize,
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
    fn products(&self) -> Products<'_> {
        Products { context: self.context, dtype: self.dtype, epsilon: self.spec.norm_eps }
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

    /// Some layers. In: [`Shared`], then of each layer norm, query-key-value, output, norm, gate-up, down, each with what
    /// its hold has beside it, keys, values. Out: the residual stream `[T, H]`.
    pub fn layers(&self, kind: PassKind, layers: Range<usize>) -> Result<Draft> {
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
        let products = self.products();
        let holds = self.holds.get(layers).unwrap_or_default();
        let inputs: Vec<_> = holds.iter().map(|hold| LayerInputs::of(&mut draft, hold)).collect();
        for (index, this) in inputs.iter().enumerate() {
            let first = match normed {
                Some(normed) => normed,
                None => products.norm_for(&mut draft, x, this.attention_norm, &this.qkv)?,
            };
            let attended = self.attention(&mut draft, kind, this, first)?;
            let (normed_ffn, residual) =
                products.sum_and_norm_for(&mut draft, (attended, x), this.ffn_norm, &this.gate_up)?;
            let down = self.feed_forward(&mut draft, this, normed_ffn)?;
            match inputs.get(index + 1) {
                Some(after) => {
                    let (next, sum) = products.sum_and_norm_for(
                        &mut draft,
                        (down, residual),
                        after.attention_norm,
                        &after.qkv,
                    )?;
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
    /// Out: f32 logits `[W, P·ranks]`; or ids `[W, 1]` i32; or f32 hidden states `[W, H]`; or the largest logits `[W, K]` f32,
    /// falling, and their ids `[W, K]` i32.
    ///
    /// With several ranks each sorts the whole rows, gathered from all. A rank could sort its part first, and little would be
    /// gathered; but ids of parts would then have to be shifted and looked up by their places in a second sort, four
    /// operations more for what one large gather does.
    pub fn epilogue(&self, what: Epilogue) -> Result<Draft> {
        let name = match what {
            Epilogue::Logits => c"aquila_logits",
            Epilogue::Select => c"aquila_select",
            Epilogue::Hidden => c"aquila_hidden",
            Epilogue::Candidates => c"aquila_candidates",
        };
        let mut draft = Draft::new(name, 0);
        let (x, wanted, gamma) = (draft.input(), draft.input(), draft.input());
        let rows = draft.mid();
        draft.node(self.operation(&aqatb_gather { axis: 0, batch_dims: 0 })?, &[x, wanted], &[rows], &[])?;
        let products = self.products();
        let normed = products.norm(&mut draft, rows, Norm::plain(gamma))?;
        if what == Epilogue::Hidden {
            let out = draft.output(described(acl::ACL_FLOAT, &[same(1, 0), same(0, 1)])?);
            draft.node(self.operation(&cast(acl::ACL_FLOAT))?, &[normed], &[out], &[])?;
            return Ok(draft);
        }
        let head = draft.input();
        let mut logits = products.half(&mut draft, normed, head, None, &[])?;
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
        let count = if what == Epilogue::Candidates { self.candidates } else { 1 };
        let dims = [same(1, 0), fixed(count as i64)];
        let sort = self.operation(&aqatb_sort { count: count as i32 })?;
        if what == Epilogue::Candidates {
            let out = draft.output(described(acl::ACL_FLOAT, &dims)?);
            let (largest, ids) = (draft.mid(), draft.output(described(acl::ACL_INT32, &dims)?));
            draft.node(sort, &[logits], &[largest, ids], views)?;
            draft.node(self.operation(&cast(acl::ACL_FLOAT))?, &[largest], &[out], &[])?;
        } else {
            let (largest, ids) = (draft.mid(), draft.output(described(acl::ACL_INT32, &dims)?));
            draft.node(sort, &[logits], &[largest, ids], views)?;
        }
        Ok(draft)
    }

    /// The sum over the ranks of what each has a part of.
    fn over_ranks(&self, draft: &mut Draft, partial: Ref) -> Result<Ref> {
        let Some(comm) = self.comm else { return Ok(partial) };
        let sum = draft.mid();
        draft.node(self.operation(&AllReduce(comm))?, &[partial], &[sum], &[])?;
        Ok(sum)
    }

    /// From the normed stream to the output product, `[T, H]`.
    fn attention(
        &self,
        draft: &mut Draft,
        kind: PassKind,
        layer: &LayerInputs,
        normed: Input,
    ) -> Result<Ref> {
        let both = self.products().of(draft, normed, &layer.qkv)?;
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
        let flat = [same(0, 0), fixed(i64::from(q_width))];
        let product = self.products().of_half(draft, attended, &flat, &layer.output)?;
        self.over_ranks(draft, product)
    }

    /// From the normed stream to the down product, `[T, H]`.
    fn feed_forward(&self, draft: &mut Draft, layer: &LayerInputs, normed: Input) -> Result<Ref> {
        let both = self.products().of(draft, normed, &layer.gate_up)?;
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
        let down = self.products().of_half(draft, gated, &[], &layer.down)?;
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
    /// The largest logits and their ids.
    Candidates,
}

/// The tensors of one layer that come in, in their order.
struct LayerInputs {
    attention_norm: Norm,
    qkv: Product,
    output: Product,
    ffn_norm: Norm,
    gate_up: Product,
    down: Product,
    keys: Ref,
    values: Ref,
}

impl LayerInputs {
    fn of(draft: &mut Draft, hold: &LayerHold) -> LayerInputs {
        LayerInputs {
            attention_norm: Norm::of(draft, hold.attention_beta()),
            qkv: Product::of(draft, hold.qkv),
            output: Product::of(draft, hold.output),
            ffn_norm: Norm::of(draft, hold.ffn_beta()),
            gate_up: Product::of(draft, hold.gate_up),
            down: Product::of(draft, hold.down),
            keys: draft.input(),
            values: draft.input(),
        }
    }
}

// ATB's numbers: ActivationType, and of attention CalcType and MaskType.
const SWISH: i32 = 4;
const SWIGLU: i32 = 6;
const CALC_PROMPT: i32 = 3;
const CALC_SPEC: i32 = 1;
const MASK_NORM: i32 = 1;
const MASK_COMPRESSED: i32 = 3;
const MASK_SPEC: i32 = 3;

fn cast(out_dtype: acl::aclDataType) -> aqatb_elewise {
    aqatb_elewise { out_dtype, ..elewise(CAST) }
}

/// An output of another type than the first input.
fn described(dtype: acl::aclDataType, dims: &[super::shim::aqatb_dim]) -> Result<aqatb_output> {
    Ok(aqatb_output { dtype, ..output_like(0, dims)? })
}

//! Attention of some query rows of one sequence over its blocks of the KV cache.
//!
//! **One arithmetic.** For a query, keys are taken in tiles of [`TILE_KEYS`] at fixed positions of the
//! sequence. A score is one chain of fused multiplications along the head, in the lane of its key.
//! Softmax runs online: a tile's largest score raises the running maximum m, what was summed so far is
//! scaled by e^(m_old − m_new), and the tile's weights e^(score − m) and weighted values are added in
//! the order of the keys. None of this depends on the other queries of a call.
//!
//! ```text
//! for each group of up to 6 queries (rows, and heads that share the KV head)
//!   for each 64 keys up to the last query's own
//!     scores      6 queries × 16 keys in registers, along the head     K is loaded once for 6
//!     softmax     each query, masked beyond its own position
//!     values      6 queries × 16 elements in registers, along the keys V is loaded once for 6
//! ```
//!
//! A single query (decoding without shared heads) takes 64 keys, and 64 elements, at once instead,
//! for as many independent chains. Keys beyond a query's own position may be later tokens or whatever
//! bits an unused slot holds: their scores are overwritten before use, and their values are not read
//! for that query, since even 0 × NaN would leak.

use crate::backend::cpu::isa::Level;
use crate::backend::cpu::kernels::convert::{AsBf16, AsF16, AsF32, AsI8, Stored};
use crate::backend::cpu::kernels::kv::BLOCK_TOKENS;
use crate::backend::cpu::kernels::simd::{self, Isa, Operation};
use crate::backend::cpu::kernels::{Element, KvElement, KvLayout, Scratch};
use std::ops::Range;

mod scores;
mod softmax;
#[cfg(test)]
mod tests;
mod values;

/// Keys of one step of the online softmax. It is part of the arithmetic.
const TILE_KEYS: usize = 64;
/// Blocks of the cache in a tile.
const TILE_BLOCKS: usize = TILE_KEYS / BLOCK_TOKENS;
/// Most queries that share loaded keys and values: 6 × 16 accumulators fill twelve registers of AVX2.
const QUERIES: usize = 6;

/// Attention of one sequence in one layer. The keys and values of its own rows must have been stored
/// before.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The shape of the cache.
    pub layout: KvLayout,
    /// Block 0 of this layer.
    pub cache: *const u8,
    /// The sequence's blocks: key j is position `j % 16` of block `blocks[j / 16]`.
    pub blocks: &'a [u32],
    /// Tokens of the sequence before row 0: row r attends to keys 0 to `past + r`.
    pub past: usize,
    /// Query heads, a multiple of the KV heads: query head h uses KV head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Element 0 of row 0 of the rotated queries, `[rows, heads, head_dim]` with rows `q_stride` apart.
    pub q: *const f32,
    /// Elements from one query row to the next.
    pub q_stride: usize,
    /// Element 0 of row 0 of the result, laid out like `q` with rows `out_stride` apart.
    pub out: *mut f32,
    /// Elements from one output row to the next.
    pub out_stride: usize,
    /// What a score is multiplied by: 1/√head_dim.
    pub scale: f32,
    /// Bound ± of a score after scaling, before the mask.
    pub clamp: Option<f32>,
}

/// Elements of the attention scratch.
pub(super) const fn scratch_len(head_dim: usize) -> usize {
    QUERIES * head_dim.next_multiple_of(16)
}

/// Runs attention at `level`.
///
/// # Safety
/// As `Kernels::attend`.
pub(super) unsafe fn run(
    level: Level,
    attention: &Attention<'_>,
    rows: Range<usize>,
    kv_head: usize,
    scratch: &mut Scratch,
) {
    let layout = &attention.layout;
    let room = scratch.attention.len() >= scratch_len(layout.head_dim);
    let keys = attention.past + rows.end;
    let cached = keys <= attention.blocks.len() * BLOCK_TOKENS;
    debug_assert!(room && cached, "the scratch or the block table is too short");
    if room && cached && kv_head < layout.kv_heads && !rows.is_empty() {
        let acc = scratch.attention.as_mut_ptr();
        simd::dispatch(level, OneHead { attention, rows, kv_head, acc });
    }
}

/// All queries of some rows that share a KV head. Made by `run`, whose caller vouches for the pointers.
struct OneHead<'a> {
    attention: &'a Attention<'a>,
    rows: Range<usize>,
    kv_head: usize,
    /// `[QUERIES, head_dim]`, rows padded to whole vectors.
    acc: *mut f32,
}

impl Operation for OneHead<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // SAFETY: the caller of `Kernels::attend` vouches for the pointers.
        unsafe {
            match self.attention.layout.element {
                KvElement::Plain(Element::F32) => self.all_queries::<I, AsF32>(isa),
                KvElement::Plain(Element::F16) => self.all_queries::<I, AsF16>(isa),
                KvElement::Plain(Element::Bf16) => self.all_queries::<I, AsBf16>(isa),
                KvElement::I8 => self.all_queries::<I, AsI8>(isa),
            }
        }
    }
}

/// One query: where it is read, where its result goes, and how many keys it attends to.
#[derive(Clone, Copy)]
struct Query {
    q: *const f32,
    out: *mut f32,
    keys: usize,
}

impl OneHead<'_> {
    /// # Safety
    /// As `Kernels::attend`.
    #[inline(always)]
    unsafe fn all_queries<I: Isa, S: Stored>(&self, isa: I) {
        let group = self.attention.heads / self.attention.layout.kv_heads;
        let count = self.rows.len() * group;
        let mut index = 0;
        while index < count {
            let left = count - index;
            let taken = if left >= QUERIES { QUERIES } else { left.min(4) };
            // A short group repeats its last query, and leaves the repetitions out of the result.
            let query = |i: usize| self.query(index + i.min(taken - 1), group);
            // SAFETY: the queries exist; the caller's promise for their memory.
            unsafe {
                match taken {
                    1 => self.some_queries::<I, S, 1>(isa, [query(0)], taken),
                    2..=4 => self.some_queries::<I, S, 4>(isa, std::array::from_fn(query), taken),
                    _ => self.some_queries::<I, S, QUERIES>(isa, std::array::from_fn(query), taken),
                }
            }
            index += taken;
        }
    }

    /// Query `index` of the rows × the heads of the group, rows slowest.
    #[inline(always)]
    fn query(&self, index: usize, group: usize) -> Query {
        let a = self.attention;
        let row = self.rows.start + index / group;
        let at = (self.kv_head * group + index % group) * a.layout.head_dim;
        Query {
            q: a.q.wrapping_add(row * a.q_stride + at),
            out: a.out.wrapping_add(row * a.out_stride + at),
            keys: a.past + row + 1,
        }
    }

    /// The first `wanted` of `Q` queries, whose numbers of keys do not fall.
    ///
    /// # Safety
    /// As `Kernels::attend`.
    #[inline(always)]
    unsafe fn some_queries<I: Isa, S: Stored, const Q: usize>(
        &self,
        isa: I,
        queries: [Query; Q],
        wanted: usize,
    ) {
        let (a, layout) = (self.attention, &self.attention.layout);
        let head_dim = layout.head_dim;
        let mut state = [softmax::State::new(); Q];
        // SAFETY: the scratch holds QUERIES rows and is ours.
        let mut acc = unsafe { values::Accumulators::<I, Q>::zeroed(isa, self.acc, head_dim) };
        let last = queries[Q - 1].keys;
        for first_key in (0..last).step_by(TILE_KEYS) {
            let tile = self.tile::<S>(first_key, last);
            // The keys of this tile that each query attends to.
            let seen = queries.map(|query| query.keys.saturating_sub(first_key).min(TILE_KEYS));
            let mut scores = [[0f32; TILE_KEYS]; Q];
            // SAFETY: the tile's blocks and the queries are valid by the caller's promise; `acc` is ours.
            unsafe {
                scores::scores::<I, S, Q>(isa, queries.map(|query| query.q), head_dim, &tile, &mut scores);
                let scaled = layout.element == KvElement::I8;
                let mut kept = [1f32; Q];
                for i in 0..Q {
                    if scaled {
                        tile.scale(isa, tile.keys, layout, &mut scores[i]);
                    }
                    if seen[i] > 0 {
                        kept[i] = state[i].step(isa, &mut scores[i], seen[i], a.scale, a.clamp);
                    }
                    if scaled {
                        // Weights of unseen keys may become NaN here, but are not read.
                        tile.scale(isa, tile.values, layout, &mut scores[i]);
                    }
                }
                acc.step::<S>(&tile, &scores, kept, seen);
            }
        }
        for i in 0..wanted {
            // SAFETY: the caller's promise.
            unsafe { acc.write(i, 1.0 / state[i].sum, queries[i].out) };
        }
    }

    /// The blocks of the keys from `first_key` on, up to `last` keys in all.
    #[inline(always)]
    fn tile<S: Stored>(&self, first_key: usize, last: usize) -> Tile {
        let (a, layout) = (self.attention, &self.attention.layout);
        let first = first_key / BLOCK_TOKENS;
        let blocks = (last - first_key).div_ceil(BLOCK_TOKENS).min(TILE_BLOCKS);
        let mut tile = Tile { keys: [a.cache; TILE_BLOCKS], values: [a.cache; TILE_BLOCKS], blocks };
        for (i, &block) in a.blocks.iter().skip(first).take(blocks).enumerate() {
            tile.keys[i] = a.cache.wrapping_add(layout.key_offset(block as usize, self.kv_head));
            tile.values[i] = a.cache.wrapping_add(layout.value_offset(block as usize, self.kv_head));
        }
        tile
    }
}

/// The blocks of one tile of keys.
struct Tile {
    /// Keys of each block: `[head_dim][16]`.
    keys: [*const u8; TILE_BLOCKS],
    /// Values of each block: `[16][head_dim]`.
    values: [*const u8; TILE_BLOCKS],
    /// How many of the blocks are in use.
    blocks: usize,
}

impl Tile {
    /// Multiplies what belongs to each key by its scale in `planes`, the keys or the values.
    ///
    /// # Safety
    /// The blocks in use must be valid, and hold scales.
    #[inline(always)]
    unsafe fn scale<I: Isa>(
        &self,
        isa: I,
        planes: [*const u8; TILE_BLOCKS],
        layout: &KvLayout,
        x: &mut [f32; TILE_KEYS],
    ) {
        for (block, plane) in planes.iter().enumerate().take(self.blocks) {
            let mut lane = 0;
            while lane < BLOCK_TOKENS {
                // SAFETY: a block has 16 keys and as many scales behind its elements.
                unsafe {
                    let scale = isa.load(plane.add(layout.element_bytes()).cast::<f32>().add(lane));
                    let at = x.as_mut_ptr().add(block * BLOCK_TOKENS + lane);
                    isa.store(isa.mul(isa.load(at), scale), at);
                }
                lane += I::LANES;
            }
        }
    }
}

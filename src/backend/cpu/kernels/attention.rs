//! Attention of some query rows of one sequence over its blocks of the KV cache.
//!
//! **One arithmetic.** For a query, keys are taken in spans of [`SPAN_KEYS`] and in tiles of [`TILE_KEYS`], both at
//! fixed positions of the sequence. A score is one chain of fused multiplications along the head, in the lane of its
//! key. Inside a span softmax runs online: a tile's largest score raises the running maximum m, what was summed so far
//! is scaled by e^(m_old − m_new), and the tile's weights e^(score − m) and weighted values are added in the order of
//! the keys. The results of the spans are then merged in their order by the same rule. None of this depends on the
//! other queries of a call, nor on whether one worker takes all spans or several share them out.
//!
//! ```text
//! for each group of up to 6 queries (rows, and heads that share the KV head)
//!   for each span of 512 keys up to the last query's own
//!     for each 64 keys
//!       scores      6 queries × 16 keys in registers, along the head     K is loaded once for 6
//!       softmax     each query, masked beyond its own position
//!       values      6 queries × 16 elements in registers, along the keys V is loaded once for 6
//!     merge with the spans before
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
mod spans;
#[cfg(test)]
mod tests;
mod values;

use spans::SpanResult;
pub(super) use spans::merge;
pub use spans::{Share, result_len};

/// Keys whose softmax runs online, and that one worker takes where a sequence is shared out. It is part of the
/// arithmetic.
pub const SPAN_KEYS: usize = 512;
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

/// Elements of the attention scratch: the results of the spans so far, and of one span.
pub(super) const fn scratch_len(head_dim: usize) -> usize {
    2 * QUERIES * result_len(head_dim)
}

/// Runs attention at `level`, all spans of the rows or the one of `share`.
///
/// # Safety
/// As `Kernels::attend` and `Kernels::attend_span`.
pub(super) unsafe fn run(
    level: Level,
    attention: &Attention<'_>,
    rows: Range<usize>,
    kv_head: usize,
    share: Option<Share>,
    scratch: &mut Scratch,
) {
    let layout = &attention.layout;
    let room = scratch.attention.len() >= scratch_len(layout.head_dim);
    let keys = attention.past + rows.end;
    let cached = keys <= attention.blocks.len() * BLOCK_TOKENS;
    debug_assert!(room && cached, "the scratch or the block table is too short");
    if room && cached && kv_head < layout.kv_heads && !rows.is_empty() {
        let scratch = scratch.attention.as_mut_ptr();
        simd::dispatch(level, OneHead { attention, rows, kv_head, share, scratch });
    }
}

/// All queries of some rows that share a KV head. Made by `run`, whose caller vouches for the pointers.
struct OneHead<'a> {
    attention: &'a Attention<'a>,
    rows: Range<usize>,
    kv_head: usize,
    /// `None`: all spans, and the result goes to `out`.
    share: Option<Share>,
    /// `[2, QUERIES]` results of spans.
    scratch: *mut f32,
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

impl Attention<'_> {
    /// Query `index` of the rows from `first_row` on × the heads of the group of `kv_head`, rows slowest.
    #[inline(always)]
    fn query(&self, first_row: usize, kv_head: usize, index: usize) -> Query {
        let group = self.group();
        let row = first_row + index / group;
        let at = (kv_head * group + index % group) * self.layout.head_dim;
        Query {
            q: self.q.wrapping_add(row * self.q_stride + at),
            out: self.out.wrapping_add(row * self.out_stride + at),
            keys: self.past + row + 1,
        }
    }

    /// Query heads that share a KV head.
    fn group(&self) -> usize {
        self.heads / self.layout.kv_heads
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
        let count = self.rows.len() * self.attention.group();
        let mut index = 0;
        while index < count {
            let left = count - index;
            let taken = if left >= QUERIES { QUERIES } else { left.min(4) };
            // A short group repeats its last query, and leaves the repetitions out of the result.
            let query =
                |i: usize| self.attention.query(self.rows.start, self.kv_head, index + i.min(taken - 1));
            // SAFETY: the queries exist; the caller's promise for their memory.
            unsafe {
                match taken {
                    1 => self.some_queries::<I, S, 1>(isa, [query(0)], index, taken),
                    2..=4 => self.some_queries::<I, S, 4>(isa, std::array::from_fn(query), index, taken),
                    _ => self.some_queries::<I, S, QUERIES>(isa, std::array::from_fn(query), index, taken),
                }
            }
            index += taken;
        }
    }

    /// The first `wanted` of `Q` queries, whose numbers of keys do not fall. The first of them is query `index` of
    /// all.
    ///
    /// # Safety
    /// As `Kernels::attend`.
    #[inline(always)]
    unsafe fn some_queries<I: Isa, S: Stored, const Q: usize>(
        &self,
        isa: I,
        queries: [Query; Q],
        index: usize,
        wanted: usize,
    ) {
        let head_dim = self.attention.layout.head_dim;
        let len = result_len(head_dim);
        let first = |part: usize| SpanResult::new(self.scratch.wrapping_add(part * QUERIES * len), head_dim);
        let (from, to) = match self.share {
            Some(share) => (share.span, share.span + 1),
            None => (0, queries[Q - 1].keys.div_ceil(SPAN_KEYS)),
        };
        // SAFETY: the scratch holds 2 × QUERIES results and is ours; the caller's promise for the rest.
        unsafe {
            for span in from..to {
                let results = first(usize::from(span > from));
                // The only call: the function is inlined, and large.
                self.span::<I, S, Q>(isa, &queries, span, results);
                for i in 0..wanted {
                    if span > from && queries[i].keys > span * SPAN_KEYS {
                        first(0).next(i).merge(isa, results.next(i));
                    }
                }
            }
            for i in 0..wanted {
                match self.share {
                    Some(share) => share.result(index + i, head_dim).copy_from(first(0).next(i)),
                    None => first(0).next(i).write(queries[i].out),
                }
            }
        }
    }

    /// The results of span `span` for `Q` queries, in that many from `results` on. That of a query without a key in
    /// the span means nothing.
    ///
    /// # Safety
    /// As `Kernels::attend`; the results are ours.
    #[inline(always)]
    unsafe fn span<I: Isa, S: Stored, const Q: usize>(
        &self,
        isa: I,
        queries: &[Query; Q],
        span: usize,
        results: SpanResult,
    ) {
        let (a, layout) = (self.attention, &self.attention.layout);
        let head_dim = layout.head_dim;
        let mut state = [softmax::State::new(); Q];
        // SAFETY: the caller's promise.
        let mut acc = unsafe { values::Accumulators::<I, Q>::zeroed(isa, results, head_dim) };
        let last = queries[Q - 1].keys.min((span + 1) * SPAN_KEYS);
        for first_key in (span * SPAN_KEYS..last).step_by(TILE_KEYS) {
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
        for i in 0..Q {
            // SAFETY: the caller's promise.
            unsafe { results.next(i).set_state(state[i]) };
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

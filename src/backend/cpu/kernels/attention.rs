//! Attention of some query rows of one sequence over its blocks of the KV cache.

use crate::backend::cpu::isa::Level;
use crate::backend::cpu::kernels::kv::BLOCK_TOKENS;
use crate::backend::cpu::kernels::{Element, KvLayout, Scratch};
use std::ops::Range;

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
    8 * (head_dim + 16)
}

/// Runs attention at `level`.
///
/// # Safety
/// As `Kernels::attend`.
pub(super) unsafe fn run(
    _level: Level,
    a: &Attention<'_>,
    rows: Range<usize>,
    kv_head: usize,
    _scratch: &mut Scratch,
) {
    let (d, group) = (a.layout.head_dim, a.heads / a.layout.kv_heads);
    // SAFETY: the caller vouches for the cache, the queries and the output.
    let get = |offset: usize| unsafe {
        match a.layout.element {
            Element::F32 => a.cache.add(offset).cast::<f32>().read_unaligned(),
            Element::F16 => half::f16::from_bits(a.cache.add(offset).cast::<u16>().read_unaligned()).to_f32(),
            Element::Bf16 => {
                half::bf16::from_bits(a.cache.add(offset).cast::<u16>().read_unaligned()).to_f32()
            }
        }
    };
    let size = a.layout.element.bytes();
    for row in rows {
        for head in kv_head * group..(kv_head + 1) * group {
            // SAFETY: as above.
            let q = unsafe { std::slice::from_raw_parts(a.q.add(row * a.q_stride + head * d), d) };
            let mut scores: Vec<f32> = (0..=a.past + row)
                .map(|j| {
                    let at = a.layout.key_offset(a.blocks[j / BLOCK_TOKENS] as usize, kv_head);
                    let key = |i: usize| get(at + (i * BLOCK_TOKENS + j % BLOCK_TOKENS) * size);
                    let s = q.iter().enumerate().map(|(i, q)| q * key(i)).sum::<f32>() * a.scale;
                    a.clamp.map_or(s, |c| s.clamp(-c, c))
                })
                .collect();
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let sum: f32 = scores.iter().sum();
            for i in 0..d {
                let acc: f32 = scores
                    .iter()
                    .enumerate()
                    .map(|(j, p)| {
                        let at = a.layout.value_offset(a.blocks[j / BLOCK_TOKENS] as usize, kv_head);
                        p * get(at + (j % BLOCK_TOKENS * d + i) * size)
                    })
                    .sum();
                // SAFETY: as above.
                unsafe { *a.out.add(row * a.out_stride + head * d + i) = acc / sum };
            }
        }
    }
}

//! How a block of the KV cache is laid out.
//!
//! A block holds [`BLOCK_TOKENS`] token positions of one layer. For each KV head it holds the keys
//! transposed, `[head_dim][16]`, and after them the values, `[16][head_dim]`. So the scores of
//! 16 keys are computed in the lanes of a vector with no sum across lanes, and the values are read
//! along the accumulator. Slot s is position `s % 16` of block `s / 16`.

use crate::backend::cpu::kernels::Element;
use std::ops::Range;

/// Token positions in a block.
pub const BLOCK_TOKENS: usize = 16;

/// The shape of the KV cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// How keys and values are stored.
    pub element: Element,
}

impl KvLayout {
    /// Bytes of the keys of one head in one block; the values take as many.
    pub const fn plane_bytes(&self) -> usize {
        BLOCK_TOKENS * self.head_dim * self.element.bytes()
    }

    /// Bytes of one block of one layer.
    pub const fn block_bytes(&self) -> usize {
        2 * self.kv_heads * self.plane_bytes()
    }

    /// Byte offset of the keys of head `head` in block `block`, counted from block 0.
    pub const fn key_offset(&self, block: usize, head: usize) -> usize {
        block * self.block_bytes() + 2 * head * self.plane_bytes()
    }

    /// Byte offset of the values of head `head` in block `block`.
    pub const fn value_offset(&self, block: usize, head: usize) -> usize {
        self.key_offset(block, head) + self.plane_bytes()
    }
}

/// Writes one token's keys and values for some heads; see `Kernels::kv_store`.
///
/// # Safety
/// As `Kernels::kv_store`.
pub(super) unsafe fn store(
    layout: &KvLayout,
    blocks: *mut u8,
    slot: usize,
    heads: Range<usize>,
    keys: &[f32],
    values: &[f32],
) {
    let (block, at) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
    let size = layout.element.bytes();
    let rows = keys.chunks_exact(layout.head_dim).zip(values.chunks_exact(layout.head_dim));
    for (head, (key, value)) in heads.filter(|&h| h < layout.kv_heads).zip(rows) {
        for (d, (&k, &v)) in key.iter().zip(value).enumerate() {
            let k_at = layout.key_offset(block, head) + (d * BLOCK_TOKENS + at) * size;
            let v_at = layout.value_offset(block, head) + (at * layout.head_dim + d) * size;
            // SAFETY: both offsets lie in the block of `slot`, which the caller vouches for.
            unsafe {
                put(layout.element, blocks.add(k_at), k);
                put(layout.element, blocks.add(v_at), v);
            }
        }
    }
}

/// Stores `x` as one element.
///
/// # Safety
/// `at` must be valid for a write of the element.
#[inline(always)]
unsafe fn put(element: Element, at: *mut u8, x: f32) {
    // SAFETY: the caller's promise; the writes are unaligned ones.
    unsafe {
        match element {
            Element::F32 => at.cast::<f32>().write_unaligned(x),
            Element::F16 => at.cast::<u16>().write_unaligned(half::f16::from_f32(x).to_bits()),
            Element::Bf16 => at.cast::<u16>().write_unaligned(half::bf16::from_f32(x).to_bits()),
        }
    }
}

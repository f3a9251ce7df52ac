//! How a block of the KV cache is laid out.
//!
//! A block holds [`BLOCK_TOKENS`] token positions of one layer. For each KV head it holds the keys
//! transposed, `[head_dim][16]`, and after them the values, `[16][head_dim]`. So the scores of
//! 16 keys are computed in the lanes of a vector with no sum across lanes, and the values are read
//! along the accumulator. Slot s is position `s % 16` of block `s / 16`.

use crate::backend::cpu::kernels::{Element, Kernels};
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
    kernels: Kernels,
    layout: &KvLayout,
    blocks: *mut u8,
    slot: usize,
    heads: Range<usize>,
    keys: &[f32],
    values: &[f32],
) {
    const CHUNK: usize = 64;
    let (block, at, size) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS, layout.element.bytes());
    let rows = keys.chunks_exact(layout.head_dim).zip(values.chunks_exact(layout.head_dim));
    for (head, (key, value)) in heads.filter(|&h| h < layout.kv_heads).zip(rows) {
        let column = layout.key_offset(block, head) + at * size;
        for (chunk, key) in key.chunks(CHUNK).enumerate() {
            let mut stored = [0u8; CHUNK * size_of::<f32>()];
            kernels.encode(layout.element, key, &mut stored);
            for (i, element) in stored.chunks_exact(size).take(key.len()).enumerate() {
                let d = chunk * CHUNK + i;
                // SAFETY: row d of the head's keys lies in the block of `slot`, which the caller vouches for.
                unsafe {
                    let into = blocks.add(column + d * BLOCK_TOKENS * size);
                    match element {
                        [a, b] => into.cast::<[u8; 2]>().write([*a, *b]),
                        _ => into.copy_from_nonoverlapping(element.as_ptr(), size),
                    }
                }
            }
        }
        let row = layout.value_offset(block, head) + at * layout.head_dim * size;
        // SAFETY: the head's values lie in the block of `slot`, which the caller vouches for, and nothing
        // else accesses this row of them during the call.
        let stored = unsafe { std::slice::from_raw_parts_mut(blocks.add(row), layout.head_dim * size) };
        kernels.encode(layout.element, value, stored);
    }
}

//! The KV cache of one executor: blocks of 16 positions, all layers.

use super::arena::Arena;
use super::kernels::KvLayout;
use crate::base::error::Result;

/// Keys and values, `[layers][blocks][block bytes]`. Which block belongs to which sequence is the
/// engine's affair.
pub struct KvCache {
    layout: KvLayout,
    layers: usize,
    blocks: usize,
    bytes: Arena<u8>,
}

impl KvCache {
    /// `blocks` zeroed blocks for each of `layers` layers. The system gives the pages at first use.
    pub fn new(layout: KvLayout, layers: usize, blocks: usize) -> Result<Self> {
        let len = layout
            .block_bytes()
            .checked_mul(blocks)
            .and_then(|n| n.checked_mul(layers))
            .ok_or_else(|| crate::error!(NoMemory, "KV cache: {blocks} blocks overflow"))?;
        Ok(KvCache { layout, layers, blocks, bytes: Arena::new(len, "KV cache")? })
    }

    /// The shape of a block.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Blocks of each layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    /// The address of block 0 of `layer`, which must exist; valid for all blocks of the layer.
    pub fn layer(&self, layer: usize) -> *mut u8 {
        debug_assert!(layer < self.layers);
        self.bytes.as_mut_ptr().wrapping_add(layer * self.blocks * self.layout.block_bytes())
    }

    /// Copies block `from` to block `to` in all layers; `Argument` where either does not exist.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        let (blocks, size) = (self.blocks, self.layout.block_bytes());
        for block in [from, to] {
            crate::ensure!(
                (block as usize) < blocks,
                Argument,
                "KV block {block} does not exist; there are {blocks}"
            );
        }
        for layer in 0..self.layers {
            let base = self.layer(layer);
            // SAFETY: both blocks lie inside the layer, `&mut self` excludes a running step, and `copy`
            // allows the two to be one.
            unsafe { std::ptr::copy(base.add(from as usize * size), base.add(to as usize * size), size) };
        }
        Ok(())
    }
}

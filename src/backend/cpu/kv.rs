//! The KV cache of one executor: blocks of 16 positions, all layers.

use super::arena::Arena;
use super::kernels::KvLayout;
use crate::base::error::Result;

/// Raise it when the same keys and values become other bytes of a block.
const FORM_REVISION: u32 = 1;

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

    /// Bytes of one block, all layers together.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.layout.block_bytes()
    }

    /// What the bytes of a block mean.
    pub fn form(layout: &KvLayout, layers: usize) -> String {
        let KvLayout { kv_heads, head_dim, element } = layout;
        format!("cpu-{FORM_REVISION} {} {layers}x{kv_heads}x{head_dim}", element.name())
    }

    /// Copies block `from` to block `to` in all layers; `Argument` where either does not exist.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        let size = self.layout.block_bytes();
        for layer in 0..self.layers {
            let base = self.layer(layer);
            // SAFETY: both blocks lie inside the layer, `&mut self` excludes a running step, and `copy`
            // allows the two to be one.
            unsafe { std::ptr::copy(base.add(from as usize * size), base.add(to as usize * size), size) };
        }
        Ok(())
    }

    /// Copies `blocks` to `out`, `[blocks][layers][block bytes]`; `Argument` where one does not exist or the
    /// length is another.
    pub fn read(&mut self, blocks: &[u32], out: &mut [u8]) -> Result<()> {
        let size = self.layout.block_bytes();
        self.each_part(blocks, out.len(), |place, offset| {
            if let Some(out) = out.get_mut(offset..offset + size) {
                // SAFETY: the place is a block of one layer, and `&mut self` excludes a running step.
                unsafe { std::ptr::copy_nonoverlapping(place, out.as_mut_ptr(), size) };
            }
        })
    }

    /// The other way.
    pub fn write(&mut self, blocks: &[u32], bytes: &[u8]) -> Result<()> {
        let size = self.layout.block_bytes();
        self.each_part(blocks, bytes.len(), |place, offset| {
            if let Some(bytes) = bytes.get(offset..offset + size) {
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, size) };
            }
        })
    }

    /// Where each layer's part of each of `blocks` is, here and in `len` bytes that hold them one after another.
    fn each_part(&self, blocks: &[u32], len: usize, mut visit: impl FnMut(*mut u8, usize)) -> Result<()> {
        let expected = blocks.len() * self.block_bytes();
        crate::ensure!(len == expected, Argument, "KV blocks: expected {expected} bytes, found {len}");
        let size = self.layout.block_bytes();
        for (index, &block) in blocks.iter().enumerate() {
            self.check(block)?;
            for layer in 0..self.layers {
                let place = self.layer(layer).wrapping_add(block as usize * size);
                visit(place, (index * self.layers + layer) * size);
            }
        }
        Ok(())
    }

    fn check(&self, block: u32) -> Result<()> {
        crate::ensure!(
            (block as usize) < self.blocks,
            Argument,
            "KV block {block} does not exist; there are {}",
            self.blocks
        );
        Ok(())
    }
}

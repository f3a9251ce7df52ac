//! The scores of a tile of keys: q·k, in the lanes of the keys.

use super::super::convert::Stored;
use super::super::kv::BLOCK_TOKENS;
use super::super::simd::Isa;
use super::{TILE_BLOCKS, TILE_KEYS, Tile};

/// Unscaled scores of all blocks of a tile, garbage slots included.
///
/// # Safety
/// The queries must be valid for `head_dim` elements, the blocks in use for their keys.
#[inline(always)]
pub(super) unsafe fn scores<I: Isa, S: Stored, const Q: usize>(
    isa: I,
    q: [*const f32; Q],
    head_dim: usize,
    tile: &Tile,
    out: &mut [[f32; TILE_KEYS]; Q],
) {
    // SAFETY: the caller's promise.
    unsafe {
        // Enough independent chains to hide the latency of a fused multiplication.
        let mut block = 0;
        if Q == 1 && tile.blocks == TILE_BLOCKS {
            blocks::<I, S, Q, TILE_BLOCKS>(isa, q, head_dim, tile.keys, out, 0);
            block = TILE_BLOCKS;
        }
        if Q > 1 && I::LANES == BLOCK_TOKENS {
            while block + 2 <= tile.blocks {
                let pair = [tile.keys[block], tile.keys[block + 1]];
                blocks::<I, S, Q, 2>(isa, q, head_dim, pair, out, block);
                block += 2;
            }
        }
        while block < tile.blocks {
            blocks::<I, S, Q, 1>(isa, q, head_dim, [tile.keys[block]], out, block);
            block += 1;
        }
    }
}

/// The scores of `B` blocks, the first of which is block `first` of the tile.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
unsafe fn blocks<I: Isa, S: Stored, const Q: usize, const B: usize>(
    isa: I,
    q: [*const f32; Q],
    head_dim: usize,
    keys: [*const u8; B],
    out: &mut [[f32; TILE_KEYS]; Q],
    first: usize,
) {
    // The keys of a block fill one vector of 16 lanes or two of 8.
    let parts = BLOCK_TOKENS / I::LANES;
    let mut acc = [[[isa.zero(); 2]; B]; Q];
    for d in 0..head_dim {
        // SAFETY: d < head_dim, and row d of the keys holds 16 elements.
        unsafe {
            let at = d * BLOCK_TOKENS * S::BYTES;
            // Of queries and keys the fewer stay in registers, beside the accumulators.
            if Q == 1 {
                let q = isa.splat(*q[0].add(d));
                for b in 0..B {
                    for part in 0..parts {
                        let key = S::load(isa, keys[b].add(at + part * I::LANES * S::BYTES));
                        acc[0][b][part] = isa.fma(q, key, acc[0][b][part]);
                    }
                }
            } else {
                for b in 0..B {
                    let mut key = [S::load(isa, keys[b].add(at)); 2];
                    if parts == 2 {
                        key[1] = S::load(isa, keys[b].add(at + I::LANES * S::BYTES));
                    }
                    for i in 0..Q {
                        let q = isa.splat(*q[i].add(d));
                        for part in 0..parts {
                            acc[i][b][part] = isa.fma(q, key[part], acc[i][b][part]);
                        }
                    }
                }
            }
        }
    }
    for i in 0..Q {
        for b in 0..B {
            for part in 0..parts {
                let at = (first + b) * BLOCK_TOKENS + part * I::LANES;
                // SAFETY: at + LANES ≤ 64, since first + B is at most the blocks of a tile.
                unsafe { isa.store(acc[i][b][part], out[i].as_mut_ptr().add(at)) };
            }
        }
    }
}

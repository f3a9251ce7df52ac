//! `out[t][r] = W[r]·x[t]` for a quantised W: some rows with every token of a step.
//!
//! ```text
//! for each block of panels                                   as many as stay in L2
//!   (codes, and more tokens than a register tile: expand them to bytes, once)
//!   for each block of two tiles of 12 tokens                 96 KiB at k = 4096, read once a block of panels
//!     for each panel
//!       for each group of 128 along k                        4 KiB of weights, in L1 for all 24 tokens
//!         for each register tile of R vectors of rows × T tokens
//!           sums in registers: 2 loads of weights and T of activations for 2·T dot products
//!           scale the sums, add them to the block's result   3 KiB, in L1
//! ```
//!
//! One family of register tiles serves one token and five hundred, so a token has the same result in any
//! company; with one token the same loops only wait for memory.

use super::super::simd::Isa;
use super::super::simd::int8::{self, Int8, IntOperation, Tile};
use super::super::{Input, Scratch};
use super::activations::{self, GroupAt, TILE_TOKENS, token_bytes};
use super::coding::{self, Coding, Expanded, Q4, Q4Fine, Q8, Q8Fine};
use super::{GROUP, K_STEP, PANEL_ROWS, Packed, Packing, SUBGROUP};
use crate::backend::cpu::isa::Level;
use std::ops::Range;

/// Tiles of tokens that share a group of weights in L1.
const BLOCK_TILES: usize = 2;
/// Bytes of panels that stay in L2 beside a tile of activations.
const BLOCK_BYTES: usize = 560 << 10;

/// Bytes of scratch for matrices of up to `cols` columns.
pub(in super::super) const fn scratch_bytes(cols: usize) -> usize {
    coding::expanded_bytes(cols)
}

/// How many of `rows` rows a worker should take at a time: whole panels, a fair share for each.
pub(in super::super) fn chunk_rows(rows: usize, workers: usize) -> usize {
    rows.div_ceil(8 * workers.max(1)).next_multiple_of(PANEL_ROWS).min(4 * PANEL_ROWS)
}

/// Runs a product at `level`.
///
/// # Safety
/// As `Kernels::matmul`.
pub(in super::super) unsafe fn run(
    level: Level,
    matrix: &Packed,
    rows: Range<usize>,
    x: Input<'_>,
    out: *mut f32,
    out_stride: usize,
    scratch: &mut Scratch,
) {
    let rows = rows.start..rows.end.min(matrix.rows());
    let tokens = x.rows.len() / matrix.cols().max(1);
    let room = scratch.panel.len() >= scratch_bytes(matrix.cols())
        && x.quantised.len() >= tokens * token_bytes(matrix.cols());
    debug_assert!(room, "the scratch or the quantised activations are too short");
    if !rows.is_empty() && room {
        let (x, scratch) = (x.quantised.as_ptr(), scratch.panel.as_mut_ptr());
        int8::dispatch(level, Product { matrix, rows, x, tokens, out, out_stride, scratch });
    }
}

/// The operands of one call. Made by [`run`], whose caller vouches for the pointers.
struct Product<'a> {
    matrix: &'a Packed,
    rows: Range<usize>,
    /// Quantised activations of `tokens` tokens.
    x: *const u8,
    tokens: usize,
    out: *mut f32,
    out_stride: usize,
    /// `scratch_bytes`.
    scratch: *mut u8,
}

impl IntOperation for Product<'_> {
    #[inline(always)]
    fn run<D: Int8>(self, d: D) {
        match self.matrix.packing() {
            Packing::Q8 => self.bytes::<D, Q8>(d),
            Packing::Q8Fine => self.bytes::<D, Q8Fine>(d),
            Packing::Q4 => self.codes::<D, Q4>(d),
            Packing::Q4Fine => self.codes::<D, Q4Fine>(d),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn bytes<D: Int8, C: Coding>(&self, d: D) {
        let panels = self.panels();
        let block = (BLOCK_BYTES / self.matrix.packing().panel_bytes(self.matrix.cols()).max(1)).max(1);
        let mut first = panels.start;
        while first < panels.end {
            let end = panels.end.min(first + block);
            let mut token = 0;
            while token < self.tokens {
                for panel in first..end {
                    self.multiply::<D, C>(d, self.matrix.panel(panel).as_ptr(), panel, token);
                }
                token += self.block_tokens();
            }
            first = end;
        }
    }

    #[inline(always)]
    fn codes<D: Int8, C: Coding>(&self, d: D) {
        if self.tokens <= d.tokens() {
            return self.bytes::<D, C>(d);
        }
        let table = d.table(&self.matrix.packing().codebook());
        for panel in self.panels() {
            let at = self.matrix.panel(panel).as_ptr();
            // SAFETY: a panel of the matrix; the caller vouches for the scratch.
            unsafe { coding::expand::<D, C>(d, table, at, self.k(), self.scratch) };
            let mut token = 0;
            while token < self.tokens {
                self.multiply::<D, Expanded>(d, self.scratch, panel, token);
                token += self.block_tokens();
            }
        }
    }

    /// Tokens that a panel is multiplied with group by group.
    #[inline(always)]
    fn block_tokens(&self) -> usize {
        BLOCK_TILES * activations::tile_tokens(self.tokens)
    }

    /// The panels that hold the rows.
    fn panels(&self) -> Range<usize> {
        self.rows.start / PANEL_ROWS..self.rows.end.div_ceil(PANEL_ROWS)
    }

    /// Padded elements along k.
    #[inline(always)]
    fn k(&self) -> usize {
        self.matrix.cols().next_multiple_of(K_STEP)
    }

    /// One panel × the block of tokens from `first` on, the rows of this product written to the result.
    #[inline(always)]
    fn multiply<D: Int8, C: Coding>(&self, d: D, panel_at: *const u8, panel: usize, first: usize) {
        // The result of the block, `[tokens][rows of the panel]`.
        let mut sums = [[0f32; PANEL_ROWS]; BLOCK_TILES * TILE_TOKENS];
        let table = d.table(&self.matrix.packing().codebook());
        let tokens = self.block_tokens().min(self.tokens - first);
        let tile_tokens = activations::tile_tokens(self.tokens);
        let k = self.k();
        for index in 0..k.div_ceil(GROUP) {
            let group = panel_at.wrapping_add(index * (C::SCALE_BYTES + GROUP / 4 * C::LINE_BYTES));
            let len = GROUP.min(k - index * GROUP);
            let mut token = 0;
            while token < tokens {
                let width = tile_tokens.min(tokens - token);
                let tile = self.x.wrapping_add((first + token) * token_bytes(self.matrix.cols()));
                let x = GroupAt::new(tile, width, index);
                // Register tiles of equal widths, as near as can be.
                let part = width.div_ceil(width.div_ceil(d.tokens()));
                let mut place = 0;
                while place < width {
                    let count = part.min(width - place);
                    let sums = sums[token + place..].as_flattened_mut().as_mut_ptr();
                    let coding = std::marker::PhantomData;
                    let work =
                        RegisterTile::<D, C> { d, table, group, len, x, width, first: place, sums, coding };
                    d.with_tile(count, work);
                    place += count;
                }
                token += width;
            }
        }
        let start = panel * PANEL_ROWS;
        let rows = self.rows.start.max(start)..self.rows.end.min(start + PANEL_ROWS);
        for (t, sums) in sums[..tokens].iter().enumerate() {
            let part = &sums[rows.start - start..rows.end - start];
            // SAFETY: rows and tokens of this product; the caller vouches for the result.
            unsafe {
                let out = self.out.add((first + t) * self.out_stride + rows.start);
                out.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
        }
    }
}

/// One group of all rows of a panel with some tokens of a tile. Made by `multiply` alone, whose caller vouches
/// for the pointers.
struct RegisterTile<D: Int8, C: Coding> {
    d: D,
    table: D::Table,
    group: *const u8,
    /// Elements of the group.
    len: usize,
    x: GroupAt,
    /// Tokens of the tile.
    width: usize,
    /// The first token in the tile.
    first: usize,
    /// `[tokens][PANEL_ROWS]`: the results so far.
    sums: *mut f32,
    coding: std::marker::PhantomData<C>,
}

impl<D: Int8, C: Coding> Tile for RegisterTile<D, C> {
    #[inline(always)]
    fn run<const R: usize, const T: usize>(self) {
        const { assert!(PANEL_ROWS.is_multiple_of(R * D::LANES)) };
        let mut row = 0;
        while row < PANEL_ROWS {
            // SAFETY: the caller of `multiply` vouches for the pointers.
            unsafe { self.rows::<R, T>(row) };
            row += R * D::LANES;
        }
    }
}

impl<D: Int8, C: Coding> RegisterTile<D, C> {
    /// The whole group, for the rows from `row` on.
    ///
    /// # Safety
    /// The pointers must be valid for what their fields say.
    #[inline(always)]
    unsafe fn rows<const R: usize, const T: usize>(&self, row: usize) {
        let (d, f) = (self.d, self.d.floats());
        // SAFETY: the caller's promise: a group of a panel, tokens of a tile.
        unsafe {
            let mut parts = [[f.zero(); T]; R];
            for half in 0..self.len / K_STEP {
                self.subgroup::<R, T, false>(2 * half, row, &mut parts);
                self.subgroup::<R, T, true>(2 * half + 1, row, &mut parts);
            }
            for r in 0..R {
                let row = row + r * D::LANES;
                let scale = if C::FINE { f.zero() } else { C::scales(d, self.group, 0, row) };
                for t in 0..T {
                    let sum = self.sums.add(t * PANEL_ROWS + row);
                    let old = f.load(sum);
                    let new = if C::FINE { f.add(old, parts[r][t]) } else { f.fma(parts[r][t], scale, old) };
                    f.store(new, sum);
                }
            }
        }
    }

    /// Adds the sums of 32 elements to `parts`, times their activation scales, and times the weight scales where
    /// each 32 have one.
    ///
    /// # Safety
    /// As [`Self::rows`]; the subgroup must exist.
    #[inline(always)]
    unsafe fn subgroup<const R: usize, const T: usize, const HIGH: bool>(
        &self,
        subgroup: usize,
        row: usize,
        parts: &mut [[<D::F as Isa>::V; T]; R],
    ) {
        let (d, f) = (self.d, self.d.floats());
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = self.start::<R, T>(subgroup);
            let first = subgroup * SUBGROUP / 4;
            let mut lanes = self.x.bytes.add(first * self.width + self.first);
            for k4 in first..first + SUBGROUP / 4 {
                self.step::<R, T, HIGH>(k4, row, lanes, &mut acc);
                lanes = lanes.add(self.width);
            }
            let x_scales = self.x.scales.add(subgroup * self.width + self.first);
            for r in 0..R {
                let row = row + r * D::LANES;
                let scale = if C::FINE { C::scales(d, self.group, subgroup, row) } else { f.zero() };
                for t in 0..T {
                    let sum = d.to_float(acc[r][t]);
                    let sum = if C::FINE { f.mul(sum, scale) } else { sum };
                    parts[r][t] = f.fma(sum, f.splat(*x_scales.add(t)), parts[r][t]);
                }
            }
        }
    }

    /// What the sums of a subgroup begin at: 0, or its offsets.
    ///
    /// # Safety
    /// As [`Self::rows`]; the subgroup must exist.
    #[inline(always)]
    unsafe fn start<const R: usize, const T: usize>(&self, subgroup: usize) -> [[D::I; T]; R] {
        let mut acc = [[self.d.splat(0); T]; R];
        if D::OFFSET {
            for t in 0..T {
                // SAFETY: the caller's promise.
                let offset = unsafe { *self.x.offsets.add(subgroup * self.width + self.first + t) };
                for r in 0..R {
                    acc[r][t] = self.d.splat(offset);
                }
            }
        }
        acc
    }

    /// Four elements of k.
    ///
    /// # Safety
    /// As [`Self::rows`]; the elements must exist.
    #[inline(always)]
    unsafe fn step<const R: usize, const T: usize, const HIGH: bool>(
        &self,
        k4: usize,
        row: usize,
        lanes: *const i32,
        acc: &mut [[D::I; T]; R],
    ) {
        let d = self.d;
        // SAFETY: the caller's promise.
        unsafe {
            let mut w = [C::weights::<D, HIGH>(d, self.table, self.group, k4, row); R];
            for r in 1..R {
                w[r] = C::weights::<D, HIGH>(d, self.table, self.group, k4, row + r * D::LANES);
            }
            for t in 0..T {
                let x = d.splat(*lanes.add(t));
                for r in 0..R {
                    acc[r][t] = d.dot(acc[r][t], w[r], x);
                }
            }
        }
    }
}

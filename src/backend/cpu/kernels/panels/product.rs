//! `out[t][r] = W[r]·x[t]` for a quantised W: some rows with every token of a step.
//!
//! ```text
//! for each block of panels                                   as many as stay in L2
//!   (codes, and more tokens than three register tiles: expand them to bytes, once)
//!   for each block of 24 tokens                              104 KiB at k = 4096, read once a block of panels
//!     for each panel
//!       for each register tile of R vectors of rows × T tokens   the panel comes from L2, once a tile
//!         for each group of 128 along k
//!           sums in registers: 2 loads of weights and T of activations for 2·T dot products
//!           scale the sums, add them to the tile's result   1 KiB, in L1
//! ```
//!
//! One family of register tiles serves one token and five hundred, so a token has the same result in any
//! company. With one token the loops only wait for memory. Several tiles compute longer than that; while they do,
//! the next panel is asked for.

use super::super::simd::Isa;
use super::super::simd::int8::{self, Int8, IntOperation, Tile};
use super::super::{Input, Scratch};
use super::activations::{self, GroupAt, token_bytes};
use super::coding::{self, Coding, Expanded, ExpandedMin, Q4, Q4Fine, Q4Min, Q4Super, Q8, Q8Fine};
use super::{GROUP, K_STEP, PANEL_ROWS, Packed, Packing, SUBGROUP};
use crate::backend::cpu::isa::Level;
use std::ops::Range;

/// Most tokens that share a group of weights in L1: a multiple of every register tile's.
const BLOCK_TOKENS: usize = 24;
/// Codes are expanded to bytes where there are more tokens than so many register tiles hold: before, decoding them
/// anew for each tile costs less than writing the bytes and reading them back.
const EXPANDED_FROM: usize = 3;
/// Most tokens of a register tile that takes two subgroups of codes at once.
const PAIRED_TOKENS: usize = 2;
/// How many groups ahead a tile that takes groups in strips asks for them.
const STRIPS_AHEAD: usize = 2;
/// Bytes of panels that stay in L2 beside a tile of activations.
const BLOCK_BYTES: usize = 560 << 10;

/// Bytes of scratch for matrices of up to `cols` columns.
pub(in super::super) const fn scratch_bytes(cols: usize) -> usize {
    coding::expanded_bytes(cols)
}

/// How many of `rows` rows a worker should take at a time: whole panels, a fair share for each.
pub(in super::super) fn chunk_rows(rows: usize, workers: usize) -> usize {
    rows.div_ceil(8 * workers.max(1)).next_multiple_of(PANEL_ROWS).min(8 * PANEL_ROWS)
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
            Packing::Q4 => self.codes::<D, Q4, Expanded>(d),
            Packing::Q4Fine => self.codes::<D, Q4Fine, Expanded>(d),
            Packing::Q4Min => self.codes::<D, Q4Min, ExpandedMin>(d),
            Packing::Q4Super => self.codes::<D, Q4Super, ExpandedMin>(d),
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
                    let next = self.next_panel(panel, token);
                    self.multiply::<D, C>(d, self.matrix.panel(panel).as_ptr(), panel, token, next);
                }
                token += self.block_tokens::<D>();
            }
            first = end;
        }
    }

    #[inline(always)]
    fn codes<D: Int8, C: Coding, E: Coding>(&self, d: D) {
        if self.tokens <= EXPANDED_FROM * D::TOKENS {
            return self.bytes::<D, C>(d);
        }
        let table = d.table(&self.matrix.packing().codebook());
        for panel in self.panels() {
            let at = self.matrix.panel(panel).as_ptr();
            // SAFETY: a panel of the matrix; the caller vouches for the scratch.
            unsafe { coding::expand::<D, C, E>(d, table, at, self.k(), self.scratch) };
            let mut token = 0;
            while token < self.tokens {
                self.multiply::<D, E>(d, self.scratch, panel, token, self.next_panel(panel, token));
                token += self.block_tokens::<D>();
            }
        }
    }

    /// The panel that is read from memory after `panel`, if this product has one and the tokens from `token` on are
    /// the first that read `panel`.
    #[inline(always)]
    fn next_panel(&self, panel: usize, token: usize) -> Option<&[u8]> {
        (token == 0 && panel + 1 < self.panels().end).then(|| self.matrix.panel(panel + 1))
    }

    /// Tokens that a panel in L2 is multiplied with before the next panel.
    #[inline(always)]
    fn block_tokens<D: Int8>(&self) -> usize {
        let tile = activations::tile_tokens(self.tokens, D::TOKENS);
        BLOCK_TOKENS / tile * tile
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
    fn multiply<D: Int8, C: Coding>(
        &self,
        d: D,
        panel_at: *const u8,
        panel: usize,
        first: usize,
        next: Option<&[u8]>,
    ) {
        // The result of the block, `[tokens][rows of the panel]`.
        let mut sums = [[0f32; PANEL_ROWS]; BLOCK_TOKENS];
        let table = d.table(&self.matrix.packing().codebook());
        let tokens = self.block_tokens::<D>().min(self.tokens - first);
        let tile_tokens = activations::tile_tokens(self.tokens, D::TOKENS);
        let k = self.k();
        let subgroups = k / SUBGROUP;
        let mut ahead = match next {
            // Each tile asks for its share of the next panel.
            Some(next) if tokens > tile_tokens => Some(Ahead {
                at: next.as_ptr(),
                step: next.len().div_ceil(tokens.div_ceil(tile_tokens) * subgroups),
            }),
            // One tile alone waits for memory itself. Where it takes groups of codes strip by strip, the hardware does
            // not see the stream in the order of its reads, so it asks for the groups that come. (Bytes it does see:
            // asking for them, too, takes half as long again.)
            Some(_) if D::STRIPS && C::LINE_BYTES != 4 * PANEL_ROWS => {
                let group = C::SCALE_BYTES + GROUP / 4 * C::LINE_BYTES;
                Some(Ahead {
                    at: panel_at.wrapping_add(STRIPS_AHEAD * group),
                    step: group / (GROUP / SUBGROUP),
                })
            }
            _ => None,
        };
        let mut token = 0;
        while token < tokens {
            let width = tile_tokens.min(tokens - token);
            let tile = self.x.wrapping_add((first + token) * token_bytes(self.matrix.cols()));
            let x = GroupAt::new(tile, width, 0);
            let sums = sums[token..].as_flattened_mut().as_mut_ptr();
            let coding = std::marker::PhantomData;
            let work = RegisterTile::<D, C> {
                d,
                table,
                group: panel_at,
                len: k,
                x,
                sums,
                ahead,
                lines: SUBGROUP / 4,
                coding,
            };
            d.with_tile(width, &work);
            ahead = ahead.map(|ahead| ahead.after(subgroups));
            token += width;
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

/// Weights that are not needed yet, to be asked for part by part.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    /// Bytes for each subgroup.
    step: usize,
}

impl Ahead {
    /// What is left after so many subgroups.
    #[inline(always)]
    fn after(self, subgroups: usize) -> Ahead {
        Ahead { at: self.at.wrapping_add(subgroups * self.step), ..self }
    }

    /// Asks for one subgroup's part; the rest.
    #[inline(always)]
    fn ask<F: Isa>(self, f: F) -> Ahead {
        const LINE: usize = 64;
        for at in (0..self.step).step_by(LINE) {
            f.prefetch_l2(self.at.wrapping_add(at));
        }
        self.after(1)
    }
}

/// A panel with the tokens of a tile. Made by `multiply` alone, whose caller vouches for the pointers.
struct RegisterTile<D: Int8, C: Coding> {
    d: D,
    table: D::Table,
    /// The first group of the panel.
    group: *const u8,
    /// Elements along k.
    len: usize,
    /// The activations of the first group.
    x: GroupAt,
    /// `[tokens][PANEL_ROWS]`: the results so far.
    sums: *mut f32,
    /// What to ask for meanwhile.
    ahead: Option<Ahead>,
    /// `SUBGROUP / 4`.
    lines: usize,
    coding: std::marker::PhantomData<C>,
}

impl<D: Int8, C: Coding> Tile for RegisterTile<D, C> {
    #[inline(always)]
    fn run<const R: usize, const T: usize>(&self) {
        const { assert!(PANEL_ROWS.is_multiple_of(R * D::LANES)) };
        let (mut group, mut x, mut left, mut ahead) = (self.group, self.x, self.len, self.ahead);
        while left > 0 {
            let len = left.min(GROUP);
            let mut row = 0;
            while row < PANEL_ROWS {
                // SAFETY: the caller of `multiply` vouches for the pointers.
                unsafe { self.rows::<R, T>(group, x, len, row, ahead.filter(|_| row == 0)) };
                row += R * D::LANES;
            }
            ahead = ahead.map(|ahead| ahead.after(len / SUBGROUP));
            left -= len;
            group = group.wrapping_add(C::SCALE_BYTES + GROUP / 4 * C::LINE_BYTES);
            x = x.next(T);
        }
    }
}

impl<D: Int8, C: Coding> RegisterTile<D, C> {
    /// One group of `len` elements, for the rows from `row` on.
    ///
    /// # Safety
    /// `group` must be a group of a panel, `x` of a tile of `T` tokens; the rest as the fields say.
    #[inline(always)]
    unsafe fn rows<const R: usize, const T: usize>(
        &self,
        group: *const u8,
        x: GroupAt,
        len: usize,
        row: usize,
        mut ahead: Option<Ahead>,
    ) {
        let (d, f) = (self.d, self.d.floats());
        // SAFETY: the caller's promise.
        unsafe {
            let mut parts = [[f.zero(); T]; R];
            if C::LINE_BYTES != 4 * PANEL_ROWS && T <= PAIRED_TOKENS {
                for pair in 0..len / K_STEP {
                    ahead = ahead.map(|part| part.ask(f).ask(f));
                    self.subgroup_pair::<R, T>(group, x, 2 * pair, row, &mut parts);
                }
            } else {
                // One subgroup after the other, with a branch between, even where both are alike: side by side in
                // one block of code they spill registers, and read two streams where memory follows one.
                for subgroup in 0..len / SUBGROUP {
                    ahead = ahead.map(|part| part.ask(f));
                    if C::LINE_BYTES == 4 * PANEL_ROWS || subgroup % 2 == 0 {
                        self.subgroup::<R, T, false>(group, x, subgroup, row, &mut parts);
                    } else {
                        self.subgroup::<R, T, true>(group, x, subgroup, row, &mut parts);
                    }
                }
            }
            for r in 0..R {
                let row = row + r * D::LANES;
                let scale = if C::FINE { f.zero() } else { C::scales(d, group, 0, row) };
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
        group: *const u8,
        x: GroupAt,
        subgroup: usize,
        row: usize,
        parts: &mut [[<D::F as Isa>::V; T]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = self.start::<R, T>(x, subgroup);
            let first = subgroup * SUBGROUP / 4;
            for k4 in first..first + self.lines::<T>() {
                self.step::<R, T, HIGH>(group, k4, row, x.bytes.add(k4 * T), &mut acc);
            }
            self.scale::<R, T>(group, x, subgroup, row, acc, parts);
        }
    }

    /// Two subgroups whose codes share bytes: `subgroup` and the next. The codes are loaded once for both, and
    /// twice as many sums are under way, which few tokens need to keep the dot products busy.
    ///
    /// # Safety
    /// As [`Self::rows`]; the subgroups must exist, the first be even.
    #[inline(always)]
    unsafe fn subgroup_pair<const R: usize, const T: usize>(
        &self,
        group: *const u8,
        x: GroupAt,
        subgroup: usize,
        row: usize,
        parts: &mut [[<D::F as Isa>::V; T]; R],
    ) {
        const LINES: usize = SUBGROUP / 4;
        // SAFETY: the caller's promise.
        unsafe {
            let mut low = self.start::<R, T>(x, subgroup);
            let mut high = self.start::<R, T>(x, subgroup + 1);
            let first = subgroup * LINES;
            for k4 in first..first + self.lines::<T>() {
                self.step::<R, T, false>(group, k4, row, x.bytes.add(k4 * T), &mut low);
                self.step::<R, T, true>(group, k4 + LINES, row, x.bytes.add((k4 + LINES) * T), &mut high);
            }
            self.scale::<R, T>(group, x, subgroup, row, low, parts);
            self.scale::<R, T>(group, x, subgroup + 1, row, high, parts);
        }
    }

    /// Lines of a subgroup: a number that the compiler does not know where it must not unroll the loop over them. Of
    /// the tiles of `D::ROLLED` these gain by it: the widest, and one token of codes.
    #[inline(always)]
    fn lines<const T: usize>(&self) -> usize {
        let one_of_codes = T == 1 && C::LINE_BYTES != 4 * PANEL_ROWS;
        if D::ROLLED && (T == D::TOKENS || one_of_codes) { self.lines } else { SUBGROUP / 4 }
    }

    /// Adds the sums of a subgroup to `parts`, times its scales.
    ///
    /// # Safety
    /// As [`Self::rows`]; the subgroup must exist.
    #[inline(always)]
    unsafe fn scale<const R: usize, const T: usize>(
        &self,
        group: *const u8,
        x: GroupAt,
        subgroup: usize,
        row: usize,
        acc: [[D::I; T]; R],
        parts: &mut [[<D::F as Isa>::V; T]; R],
    ) {
        let (d, f) = (self.d, self.d.floats());
        // SAFETY: the caller's promise.
        unsafe {
            let x_scales = x.scales.add(subgroup * T);
            for r in 0..R {
                let row = row + r * D::LANES;
                let scale = if C::FINE { C::scales(d, group, subgroup, row) } else { f.zero() };
                let min = if C::MIN { C::mins(d, group, subgroup, row) } else { f.zero() };
                for t in 0..T {
                    let sum = d.to_float(acc[r][t]);
                    let x_sum = if C::MIN { f.splat(Self::x_sum::<T>(x, subgroup, t)) } else { f.zero() };
                    let sum = C::scaled(f, sum, scale, min, x_sum);
                    parts[r][t] = f.fma(sum, f.splat(*x_scales.add(t)), parts[r][t]);
                }
            }
        }
    }

    /// The sum of the activation bytes of token `t` of this tile in a subgroup: exact.
    ///
    /// # Safety
    /// As [`Self::rows`]; subgroup and token must exist.
    #[inline(always)]
    unsafe fn x_sum<const T: usize>(x: GroupAt, subgroup: usize, t: usize) -> f32 {
        // SAFETY: the caller's promise.
        let offset = unsafe { *x.offsets.add(subgroup * T + t) };
        offset as f32 * (-1.0 / 128.0)
    }

    /// What the sums of a subgroup begin at: 0, or its offsets.
    ///
    /// # Safety
    /// As [`Self::rows`]; the subgroup must exist.
    #[inline(always)]
    unsafe fn start<const R: usize, const T: usize>(&self, x: GroupAt, subgroup: usize) -> [[D::I; T]; R] {
        let mut acc = [[self.d.splat(0); T]; R];
        if D::OFFSET {
            for t in 0..T {
                // SAFETY: the caller's promise.
                let offset = unsafe { *x.offsets.add(subgroup * T + t) };
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
        group: *const u8,
        k4: usize,
        row: usize,
        lanes: *const i32,
        acc: &mut [[D::I; T]; R],
    ) {
        let d = self.d;
        // SAFETY: the caller's promise.
        unsafe {
            let mut w = [C::weights::<D, HIGH>(d, self.table, group, k4, row); R];
            for r in 1..R {
                w[r] = C::weights::<D, HIGH>(d, self.table, group, k4, row + r * D::LANES);
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

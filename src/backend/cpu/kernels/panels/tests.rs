//! Every packing on every level against exact integers, and the promise that a result does not depend on
//! what is computed beside it.

use super::super::testing::{bits, random};
use super::super::{Input, Kernels, Matrix, Packed, Scratch};
use super::activations::{GroupAt, token_bytes};
use super::take_over::takes_over;
use super::*;
use crate::backend::cpu::isa::Level;
use crate::base::dtype::DType;
use std::ops::Range;

/// A matrix of random rows in a packing, padded with rows of zeros to whole panels, and the rows; those that
/// only take over are made of random blocks, and the rows are theirs. Columns that no row of blocks has are
/// filled up.
fn matrix(packing: Packing, rows: usize, cols: usize) -> (Packed, Vec<f32>) {
    let seed = (rows * 31 + cols) as u32;
    if !packing.is_made_from_floats() {
        let dtype = SOURCES.into_iter().find(|&dtype| takes_over(dtype) == Some(packing)).unwrap();
        return taken_over(dtype, rows, cols.next_multiple_of(dtype.block_elements()), seed);
    }
    let weights = random(rows * cols, seed);
    let mut bytes = vec![0u8; packing.bytes(rows, cols)];
    let panels = bytes.chunks_exact_mut(packing.panel_bytes(cols));
    for (panel, weights) in panels.zip(weights.chunks(PANEL_ROWS * cols)) {
        Kernels::new(Level::detect()).pack(packing, weights, cols, panel).unwrap();
    }
    (Packed::new("w", packing, rows, cols, bytes.into()).unwrap(), weights)
}

/// The types that are taken over.
const SOURCES: [DType; 5] = [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q4K];

/// A matrix taken over from random blocks, and their values.
fn taken_over(dtype: DType, rows: usize, cols: usize, seed: u32) -> (Packed, Vec<f32>) {
    let (packing, size) = (takes_over(dtype).unwrap(), dtype.block_bytes());
    let row_bytes = cols / dtype.block_elements() * size;
    let noise = random(rows * row_bytes, seed);
    let mut blocks: Vec<u8> = noise.iter().map(|x| (x * 127.0) as i8 as u8).collect();
    let halves = if matches!(dtype, DType::Q4_1 | DType::Q4K) { 2 } else { 1 };
    for (block, noise) in blocks.chunks_exact_mut(size).zip(noise.chunks_exact(size)) {
        for (half, noise) in block[..2 * halves].chunks_exact_mut(2).zip(&noise[4..]) {
            half.copy_from_slice(&f16::from_f32(noise * 0.0123).to_le_bytes());
        }
    }
    let mut values = vec![0.0; rows * cols];
    crate::loading::quant::to_f32(dtype, &blocks, &mut values);
    let mut bytes = vec![0xee; packing.bytes(rows, cols)];
    let panels = bytes.chunks_exact_mut(packing.panel_bytes(cols));
    for (panel, rows) in panels.zip(blocks.chunks(PANEL_ROWS * row_bytes)) {
        pack::clear(packing, cols, panel);
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            take_over::take_over(dtype, row, cols, lane, panel);
        }
    }
    (Packed::new("w", packing, rows, cols, bytes.into()).unwrap(), values)
}

/// Quantised activations of all rows of `x`. 4-aligned.
fn quantised(kernels: Kernels, x: &[f32], cols: usize) -> Vec<u32> {
    let mut tiles = vec![u32::MAX; x.len() / cols * token_bytes(cols) / 4];
    let size = token_bytes(cols) / 4;
    let width = kernels.tile_tokens(x.len() / cols);
    for (tile, x) in tiles.chunks_mut(width * size).zip(x.chunks(width * cols)) {
        let width = x.len() / cols;
        for (place, row) in x.chunks_exact(cols).enumerate() {
            // SAFETY: `tile` holds `width` tokens.
            unsafe { kernels.quantise(row, tile.as_mut_ptr().cast(), width, place) };
        }
    }
    tiles
}

fn as_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: every byte of the words is initialised.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 4 * words.len()) }
}

fn multiply(level: Level, matrix: &Packed, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
    let (kernels, cols) = (Kernels::new(level), matrix.cols());
    let tiles = quantised(kernels, x, cols);
    let mut out = vec![f32::NAN; x.len() / cols * matrix.rows()];
    let mut scratch = Scratch::new(cols, 0, true).unwrap();
    let input = Input { rows: x, quantised: as_bytes(&tiles) };
    let (stride, matrix) = (matrix.rows(), Matrix::Packed(matrix.clone()));
    // SAFETY: `out` holds all rows and tokens.
    unsafe { kernels.matmul(&matrix, rows, input, out.as_mut_ptr(), stride, &mut scratch) };
    out
}

/// The activations as the product takes them, read back from their tiles.
fn activation_rows(kernels: Kernels, x: &[f32], cols: usize) -> Vec<f32> {
    let tiles = quantised(kernels, x, cols);
    let tokens = x.len() / cols;
    let mut rows = vec![0.0; x.len()];
    for (t, row) in rows.chunks_exact_mut(cols).enumerate() {
        let tile_tokens = kernels.tile_tokens(tokens);
        let first = t - t % tile_tokens;
        let (width, place) = (tile_tokens.min(tokens - first), t % tile_tokens);
        let tile = as_bytes(&tiles)[first * token_bytes(cols)..].as_ptr();
        for (i, value) in row.iter_mut().enumerate() {
            let at = GroupAt::new(tile, width, i / GROUP);
            // SAFETY: the tile holds this token.
            unsafe {
                let lane = *at.bytes.add(i % GROUP / 4 * width + place);
                let scale = *at.scales.add(i % GROUP / SUBGROUP * width + place);
                *value = f32::from(lane.to_le_bytes()[i % 4] as i8) * scale;
            }
        }
    }
    rows
}

#[test]
fn every_shape_is_right_on_every_level() {
    for packing in Packing::ALL {
        for (rows, cols) in [(1, 1), (5, 63), (32, 64), (33, 65), (40, 128), (70, 200), (64, 576), (9, 1100)]
        {
            let (matrix, _) = matrix(packing, rows, cols);
            let cols = matrix.cols();
            let mut w = vec![0.0; rows * cols];
            w.chunks_exact_mut(cols).enumerate().for_each(|(r, out)| matrix.row_f32(r, out));
            for level in Level::available() {
                for tokens in [1, 2, 3, 5, 6, 7, 11, 12, 13, 16, 29] {
                    let x = random(tokens * cols, tokens as u32);
                    let got = multiply(level, &matrix, 0..rows, &x);
                    let x = activation_rows(Kernels::new(level), &x, cols);
                    for (t, x) in x.chunks_exact(cols).enumerate() {
                        for (r, w) in w.chunks_exact(cols).enumerate() {
                            let products = w.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b));
                            let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                            let error = (f64::from(got[t * rows + r]) - sum).abs();
                            assert!(
                                error <= size * 1e-6,
                                "{packing:?} {level} {rows}×{cols}×{tokens} at {r}, {t}: {error} of {size}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_result_does_not_depend_on_its_company() {
    let (rows, cols, tokens) = (100, 704, 53);
    for packing in Packing::ALL {
        let (matrix, _) = matrix(packing, rows, cols);
        let cols = matrix.cols();
        let x = random(tokens * cols, 5);
        for level in Level::available() {
            let whole = multiply(level, &matrix, 0..rows, &x);
            for count in [1, 2, 3, 4, 5, 6, 7, 12, 13, 17, 25] {
                for (first, range) in [(0, 0..rows), (tokens - count, 3..17), (20, 30..70), (1, 99..100)] {
                    let part = &x[first * cols..(first + count) * cols];
                    let got = multiply(level, &matrix, range.clone(), part);
                    for t in 0..count {
                        for r in 0..rows {
                            let (a, b) = (got[t * rows + r], whole[(first + t) * rows + r]);
                            let right =
                                if range.contains(&r) { a.to_bits() == b.to_bits() } else { a.is_nan() };
                            assert!(right, "{packing:?} {level} {count} tokens, row {r}: {a} and {b}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn levels_with_the_same_additions_give_the_same_bits() {
    // The integers are exact everywhere; the f32 part is fused everywhere but at the scalar level.
    for packing in Packing::ALL {
        let (matrix, _) = matrix(packing, 64, 640);
        let x = random(9 * matrix.cols(), 8);
        let results: Vec<_> = Level::available()
            .filter(|&level| level > Level::Scalar)
            .map(|level| bits(&multiply(level, &matrix, 0..64, &x)))
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{packing:?}");
    }
}

#[test]
fn quantised_weights_are_near_the_weights() {
    for (packing, bound) in [(Packing::Q8, 4.6e-3), (Packing::Q8Fine, 4.4e-3), (Packing::Q4, 0.06)] {
        let (matrix, w) = matrix(packing, 40, 1000);
        let (mut error, mut size) = (0.0, 0.0);
        for (r, w) in w.chunks_exact(1000).enumerate() {
            let mut got = vec![0.0; 1000];
            matrix.row_f32(r, &mut got);
            for (&w, &g) in w.iter().zip(&got) {
                error += f64::from(w - g).powi(2);
                size += f64::from(w).powi(2);
            }
        }
        let relative = (error / size).sqrt();
        assert!(relative < bound, "{packing:?}: {relative}");
    }
}

#[test]
fn gguf_blocks_are_taken_over_to_the_bit() {
    for dtype in SOURCES {
        for (rows, blocks) in [(1, 1), (3, 9), (40, 2), (65, 5)] {
            let cols = blocks * dtype.block_elements();
            let (matrix, truth) = taken_over(dtype, rows, cols, blocks as u32);
            let mut got = vec![0.0; rows * cols];
            got.chunks_exact_mut(cols).enumerate().for_each(|(r, out)| matrix.row_f32(r, out));
            assert_eq!(bits(&got), bits(&truth), "{dtype:?} {rows} × {blocks} blocks");
        }
    }
}

#[test]
fn extremes_of_weights_and_activations() {
    for level in Level::available() {
        for packing in Packing::ALL.into_iter().filter(|packing| packing.is_made_from_floats()) {
            // Every weight and activation at an end of its range: the largest sums that can be.
            let w: Vec<f32> = (0..32 * 256).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
            let mut bytes = vec![0; packing.bytes(32, 256)];
            Kernels::new(Level::detect()).pack(packing, &w, 256, &mut bytes).unwrap();
            let matrix = Packed::new("w", packing, 32, 256, bytes.into()).unwrap();
            let mut row = vec![0.0; 256];
            matrix.row_f32(0, &mut row);
            let x: Vec<f32> = w[..256].iter().map(|w| 3e30 * w).collect();
            let got = multiply(level, &matrix, 0..32, &x);
            let truth: f64 = row.iter().zip(&x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            assert!(
                (f64::from(got[0]) / truth - 1.0).abs() < 1e-5,
                "{packing:?} {level}: {} {truth}",
                got[0]
            );
            // Not a number in one row of activations stays in that row.
            let mut x = random(3 * 256, 6);
            x[256 + 77] = f32::INFINITY;
            let got = multiply(level, &matrix, 0..32, &x);
            assert!(got[32..64].iter().all(|y| y.is_nan()) && !got[64].is_nan() && !got[0].is_nan());
            // Nothing but zeros.
            assert_eq!(multiply(level, &matrix, 0..1, &[0.0; 256])[0], 0.0);
        }
    }
}

#[test]
fn weights_that_cannot_be_quantised_are_named() {
    for packing in Packing::ALL.into_iter().filter(|packing| packing.is_made_from_floats()) {
        let mut w = random(3 * 200, 4);
        let mut panel = vec![0; packing.panel_bytes(200)];
        for bad in [f32::NAN, f32::INFINITY] {
            w[200 + 150] = bad;
            assert_eq!(
                Kernels::new(Level::detect()).pack(packing, &w, 200, &mut panel),
                Err((1, 150)),
                "{packing:?}"
            );
        }
        w[200 + 150] = 3e38;
        assert_eq!(
            Kernels::new(Level::detect()).pack(packing, &w, 200, &mut panel),
            Err((1, 150)),
            "{packing:?}"
        );
    }
    let error = Packed::new("t", Packing::Q8, 1, 64, vec![0; 3].into()).unwrap_err();
    assert!(error.message.contains("t: expected 2112 bytes") && error.message.contains("found 3"), "{error}");
}

//! Every level, and AVX-512's algorithm on plain arrays, against f64; and the promise that a result does
//! not depend on what is computed beside it.

use super::super::simd::plain::Fused8;
use super::super::testing::{Engine, bits, random};
use super::super::{Dense, Element, Input, Kernels, Matrix, Scratch, convert};
use super::*;
use crate::base::dtype::DType;
use crate::model::weights::{RowMap, Weight};

fn multiply(engine: Engine, matrix: &Dense, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / matrix.cols();
    let mut out = vec![f32::NAN; tokens * matrix.rows()];
    let mut scratch = Scratch::new(matrix.cols(), 0, false).unwrap();
    // NaN in the scratch must not reach a result.
    scratch.x.fill(f32::NAN);
    scratch.w.fill(f32::NAN);
    let (pointer, stride) = (out.as_mut_ptr(), matrix.rows());
    if let Engine::Level(level) = engine {
        // SAFETY: `out` holds all rows and tokens.
        unsafe {
            let (matrix, x) = (Matrix::Dense(matrix.clone()), Input { rows: x, quantised: &[] });
            Kernels::new(level).matmul(&matrix, rows, x, pointer, stride, &mut scratch);
        }
    } else {
        let rows = rows.start..rows.end.min(matrix.rows());
        let product = Product { matrix, rows, x, out: pointer, out_stride: stride };
        engine.run(InF32 { product: &product, x: scratch.x.as_mut_ptr(), w: scratch.w.as_mut_ptr() });
    }
    out
}

/// A matrix whose bytes begin at an odd address, and its elements.
fn matrix(element: Element, rows: usize, cols: usize) -> (Dense, Vec<f32>) {
    let values = random(rows * cols, (rows * 31 + cols) as u32);
    let mut bytes = vec![0; values.len() * element.bytes() + 1];
    let kernels = Kernels::new(Level::Scalar);
    kernels.encode(element, &values, &mut bytes[1..]);
    let mut stored = vec![0.0; values.len()];
    kernels.decode(element, &bytes[1..], &mut stored);
    let len = bytes.len();
    let region = crate::base::region::Region::from(bytes).slice(1..len).unwrap();
    let weight = Weight::whole("w", rows, cols, element.dtype(), region, RowMap::Identity).unwrap();
    (Dense::new(weight).unwrap(), stored)
}

/// The largest error relative to Σ |w·x|, in units of 2^-24.
fn error(w: &[f32], x: &[f32], got: &[f32], rows: usize, cols: usize) -> f64 {
    let mut worst = 0f64;
    for (t, x) in x.chunks_exact(cols).enumerate() {
        for (r, w) in w.chunks_exact(cols).enumerate() {
            let products = w.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
            let error = (f64::from(got[t * rows + r]) - sum).abs() / (size + f64::MIN_POSITIVE);
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    worst * f64::from(1 << 24)
}

#[test]
fn every_shape_is_right_on_every_engine() {
    let shapes =
        [(1, 1), (3, 7), (4, 8), (5, 64), (9, 100), (8, 511), (7, 512), (6, 513), (5, 576), (9, 1536)];
    for element in [Element::F32, Element::F16, Element::Bf16] {
        for (rows, cols) in shapes.into_iter().chain([(6, 4096), (2, 11008)]) {
            let (matrix, w) = matrix(element, rows, cols);
            for tokens in [1, 2, 3, 4, 5, 6, 7, 17] {
                let x = random(tokens * cols, tokens as u32);
                for engine in Engine::all() {
                    let got = multiply(engine, &matrix, 0..rows, &x);
                    // bf16 activations are rounded to 8 bits where the pairs instruction is used.
                    let pairs = engine == Engine::Level(Level::Avx512Bf16) && element == Element::Bf16;
                    let bound = if pairs { f64::from(1 << 16) } else { 8.0 };
                    let error = error(&w, &x, &got, rows, cols);
                    assert!(error < bound, "{engine:?} {element:?} {rows}×{cols}×{tokens}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_result_does_not_depend_on_its_company() {
    let (rows, cols, tokens) = (150, 1100, 101);
    let x = random(tokens * cols, 5);
    for element in [Element::F32, Element::F16, Element::Bf16] {
        let (matrix, _) = matrix(element, rows, cols);
        for engine in Engine::all() {
            let whole = multiply(engine, &matrix, 0..rows, &x);
            for count in [1, 2, 3, 4, 5, 6, 7, 13, 49] {
                for (first, range) in [(0, 0..rows), (tokens - count, 3..17), (50, 128..150), (1, 7..8)] {
                    let part = &x[first * cols..(first + count) * cols];
                    let got = multiply(engine, &matrix, range.clone(), part);
                    for t in 0..count {
                        for r in 0..rows {
                            let (a, b) = (got[t * rows + r], whole[(first + t) * rows + r]);
                            let right =
                                if range.contains(&r) { a.to_bits() == b.to_bits() } else { a.is_nan() };
                            assert!(right, "{engine:?} {element:?} {count} tokens, row {r}: {a} and {b}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_arrays_compute_what_avx2_and_neon_compute() {
    let Some(level) = Engine::like_fused8() else { return };
    let (matrix, _) = matrix(Element::F16, 21, 1100);
    for tokens in [1, 3, 50] {
        let x = random(tokens * 1100, 9);
        let (a, b) = (
            multiply(Engine::Level(level), &matrix, 0..21, &x),
            multiply(Engine::Fused8, &matrix, 0..21, &x),
        );
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn permuted_rows_and_pieces_along_k_give_the_bits_of_the_whole() {
    let (rows, cols) = (12, 1233);
    let x = random(5 * cols, 3);
    let (whole, _) = matrix(Element::F16, rows, cols);
    let w = whole.weight().clone();
    // Cut in three along k, with borders inside blocks and vectors.
    let parts = [0..400, 400..1031, 1031..cols].map(|k| w.narrow_cols(k).unwrap());
    let cut = Dense::new(Weight::join_cols("w", parts.to_vec()).unwrap()).unwrap();
    // Two pieces along the rows, the order of the stored rows interleaved.
    let mut permuted = w.clone();
    permuted.pieces[0].row_map = RowMap::Interleaved { head_dim: 6 };
    let bands = [0..5, 5..rows].map(|r| permuted.narrow_rows(r).unwrap());
    let banded = Dense::new(Weight::join_rows("w", bands.to_vec()).unwrap()).unwrap();
    for engine in Engine::all() {
        for tokens in [1, 3, 5] {
            let x = &x[..tokens * cols];
            let expected = multiply(engine, &whole, 0..rows, x);
            assert_eq!(bits(&multiply(engine, &cut, 0..rows, x)), bits(&expected), "{engine:?}");
            let got = multiply(engine, &banded, 0..rows, x);
            for t in 0..tokens {
                for r in 0..rows {
                    let stored = RowMap::Interleaved { head_dim: 6 }.stored(r);
                    assert_eq!(
                        got[t * rows + r].to_bits(),
                        expected[t * rows + stored].to_bits(),
                        "{engine:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn many_tokens_and_rows_beyond_the_end() {
    let (matrix, w) = matrix(Element::Bf16, 9, 80);
    let x = random(512 * 80, 4);
    for engine in Engine::all() {
        let got = multiply(engine, &matrix, 0..1000, &x);
        let bound = if engine == Engine::Level(Level::Avx512Bf16) { f64::from(1 << 16) } else { 8.0 };
        assert!(error(&w, &x, &got, 9, 80) < bound, "{engine:?}");
    }
}

#[test]
fn a_blocked_type_is_no_matrix() {
    let weight = Weight::whole("t", 1, 32, DType::Q8_0, vec![0; 34].into(), RowMap::Identity).unwrap();
    let error = Dense::new(weight).unwrap_err();
    assert!(error.message.contains("t: expected one of f32, f16, bf16") && error.message.contains("q8_0"));
}

#[test]
fn activations_are_padded_with_zeros() {
    let mut scratch = [f32::NAN; 16];
    // SAFETY: 16 elements hold 9 rounded up to two steps of 8.
    unsafe { lay_out(F32::<_, AsF16>::new(Fused8), &random(9, 2), scratch.as_mut_ptr()) };
    assert_eq!(&scratch[..9], random(9, 2));
    assert_eq!(&scratch[9..], [0.0; 7]);
    assert_eq!(convert::decode_one(Element::F16, &[0, 0x3c]), 1.0);
}

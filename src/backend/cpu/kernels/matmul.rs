//! `out[t][r] = W[r]·x[t]`: some rows of a matrix with every token of a step.

use crate::backend::cpu::isa::Level;
use crate::backend::cpu::kernels::{Matrix, Scratch};
use std::ops::Range;

/// Elements of the weight scratch.
pub(super) const W_SCRATCH_LEN: usize = 128 * 512;

/// Elements of the activation scratch for matrices of up to `cols` columns.
pub(super) const fn x_scratch_len(cols: usize) -> usize {
    8 * (cols + 64)
}

/// The operands of one call.
pub(super) struct Product<'a> {
    pub matrix: &'a Matrix,
    pub rows: Range<usize>,
    pub x: &'a [f32],
    pub out: *mut f32,
    pub out_stride: usize,
}

/// How many rows a worker should take at a time, so that all of `workers` get a fair share and the
/// activations are not laid out anew too often.
pub fn chunk_rows(rows: usize, tokens: usize, workers: usize) -> usize {
    let fair = rows.div_ceil(4 * workers.max(1)).next_multiple_of(16);
    if tokens < 16 { fair.min(64) } else { fair.min(128) }
}

/// Runs a product at `level`.
///
/// # Safety
/// As `Kernels::matmul`.
pub(super) unsafe fn run(_level: Level, product: Product<'_>, _scratch: &mut Scratch) {
    let Product { matrix, rows, x, out, out_stride } = product;
    let mut gather = vec![0; matrix.cols() * 4];
    for row in rows.start..rows.end.min(matrix.rows()) {
        let bytes = matrix.run(row, 0..matrix.cols(), &mut gather);
        let mut w = vec![0f32; matrix.cols()];
        crate::loading::quant::to_f32(matrix.element().dtype(), bytes, &mut w);
        for (t, x) in x.chunks_exact(matrix.cols()).enumerate() {
            let sum: f32 = w.iter().zip(x).map(|(a, b)| a * b).sum();
            // SAFETY: the caller's promise.
            unsafe { *out.add(t * out_stride + row) = sum };
        }
    }
}

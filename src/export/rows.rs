//! A rectangle of a weight as a stream of bytes: rows in the order of the target, in its type.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::model::weights::{RowMap, Weight};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;

/// Bytes that are handed on at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Most workers: beyond it the disk is what one waits for.
const WORKERS_MAX: usize = 8;
/// Elements in a block of Q8_0.
const BLOCK: usize = 32;

/// What of a weight is written, and how.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Rows of the weight.
    pub rows: Range<usize>,
    /// Columns of it.
    pub cols: Range<usize>,
    /// Rows of zeros behind them.
    pub zeros: usize,
    /// In which order the target stores the rows.
    pub order: RowMap,
    /// In which type.
    pub dtype: DType,
}

impl Cut {
    /// All of a weight in the order of Hugging Face.
    pub fn all(weight: &Weight, dtype: DType) -> Cut {
        Cut { rows: 0..weight.rows, cols: 0..weight.cols, zeros: 0, order: RowMap::Identity, dtype }
    }
}

/// Hands the bytes of `cut` to `sink`, in order, a few MiB at a time. `Format` where an element is beyond the type, naming
/// tensor and element.
pub fn stream(weight: &Weight, cut: &Cut, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let row_bytes = cut.cols.len() / cut.dtype.block_elements() * cut.dtype.block_bytes();
    if weight.rows == 1 && cut.order != RowMap::Identity {
        // The order of a bias is that of its matrix's rows.
        let mut values = vec![0.0; weight.cols];
        weight.row_f32(0, &mut values);
        let ordered: Vec<f32> = (0..values.len())
            .map(|at| values.get(cut.order.wanted(at)).copied().unwrap_or_default())
            .collect();
        let mut bytes = Vec::new();
        encode(cut.dtype, &ordered, &mut bytes)?;
        sink(&bytes)?;
    } else if let Some(bytes) = as_it_lies(weight, cut, row_bytes) {
        bytes.chunks(CHUNK_BYTES).try_for_each(&mut sink)?;
    } else {
        encode_all(weight, cut, row_bytes, &mut sink)?;
    }
    let zeros = vec![0u8; row_bytes.min(CHUNK_BYTES)];
    let mut left = cut.zeros * row_bytes;
    while left > 0 {
        let part = zeros.get(..left.min(zeros.len())).unwrap_or_default();
        sink(part)?;
        left -= part.len();
    }
    Ok(())
}

/// The bytes themselves, where they lie in one stretch just as they are wanted.
fn as_it_lies<'a>(weight: &'a Weight, cut: &Cut, row_bytes: usize) -> Option<&'a [u8]> {
    let [piece] = weight.pieces.as_slice() else { return None };
    let whole_rows = cut.cols == (0..weight.cols) && piece.stored_cols == weight.cols;
    // In the same order both ways; a part of it begins and ends with whole heads.
    let fits = whole_rows && piece.dtype == cut.dtype && piece.row_map == cut.order;
    if !fits {
        return None;
    }
    let start = (piece.row_offset + cut.rows.start) * row_bytes;
    piece.bytes.get(start..start + cut.rows.len() * row_bytes)
}

/// Workers encode the next rows while the last ones are handed on.
fn encode_all(
    weight: &Weight,
    cut: &Cut,
    row_bytes: usize,
    sink: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let each = (CHUNK_BYTES / row_bytes.max(1)).max(1);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX));
    let (mut ready, mut coming) = (vec![Vec::new(); workers], vec![Vec::new(); workers]);
    let mut next = cut.rows.start;
    while next < cut.rows.end {
        std::thread::scope(|scope| {
            let mut started = Vec::with_capacity(workers);
            for chunk in &mut coming {
                let rows = next..(next + each).min(cut.rows.end);
                next = rows.end;
                let work = move || encode_rows(weight, cut, rows, chunk);
                started.push(
                    std::thread::Builder::new().name("aquila-convert".into()).spawn_scoped(scope, work),
                );
            }
            let handed = ready.iter().try_for_each(|chunk: &Vec<u8>| sink(chunk));
            for worker in started {
                let worker = worker.map_err(|cause| crate::error!(Io, "cannot start a thread: {cause}"))?;
                worker
                    .join()
                    .map_err(|_| crate::error!(Internal, "tensor {}: encoding failed", weight.name))??;
            }
            handed
        })?;
        std::mem::swap(&mut ready, &mut coming);
    }
    ready.iter().try_for_each(|chunk| sink(chunk))
}

/// The stored bytes of rows, into `out` alone.
fn encode_rows(weight: &Weight, cut: &Cut, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    let mut encoder = Encoder { weight, cut, values: Vec::new(), whole: Vec::new() };
    // Heads are whole, so the order of the rows of a part is that of the whole.
    rows.into_iter().try_for_each(|row| encoder.row(cut.order.wanted(row), out))
}

struct Encoder<'a> {
    weight: &'a Weight,
    cut: &'a Cut,
    /// A row as f32.
    values: Vec<f32>,
    whole: Vec<f32>,
}

impl Encoder<'_> {
    /// Appends row `row` of the weight to `out`.
    fn row(&mut self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if self.copy(row, out) {
            return Ok(());
        }
        let Cut { cols, dtype, .. } = self.cut;
        self.values.resize(cols.len(), 0.0);
        self.weight.cols_f32(row, cols.clone(), &mut self.whole, &mut self.values);
        if let Some(at) = self.values.iter().position(|&value| !fits(value, *dtype)) {
            crate::bail!(
                Format,
                "tensor {}: element {:?} is {:e}: {dtype} holds no such number; expected another type",
                self.weight.name,
                [row, cols.start + at],
                self.values.get(at).copied().unwrap_or_default()
            );
        }
        encode(*dtype, &self.values, out)
    }

    /// Appends the stored bytes, where they have the type already.
    fn copy(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let Cut { cols, dtype, .. } = self.cut;
        let (per, bytes) = (dtype.block_elements(), dtype.block_bytes());
        let length = out.len();
        for piece in self.weight.row_pieces(row) {
            let both = piece.cols.start.max(cols.start)..piece.cols.end.min(cols.end);
            if both.is_empty() {
                continue;
            }
            let within = both.start - piece.cols.start..both.end - piece.cols.start;
            let whole_blocks = within.start.is_multiple_of(per) && within.end.is_multiple_of(per);
            let stored = (piece.dtype == *dtype && whole_blocks)
                .then(|| piece.row(row).get(within.start / per * bytes..within.end / per * bytes));
            let Some(Some(stored)) = stored else {
                out.truncate(length);
                return false;
            };
            out.extend_from_slice(stored);
        }
        true
    }
}

/// Whether a type holds a number. What is infinite or no number stays so.
fn fits(value: f32, dtype: DType) -> bool {
    // The first number that rounds to infinity: half a step above the largest one.
    let end = match dtype {
        DType::F16 => 65_520.0,
        // A block's scale is an f16.
        DType::Q8_0 => 65_520.0 * 127.0,
        DType::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    };
    value.abs() < end || !value.is_finite()
}

fn encode(dtype: DType, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DType::F16 => f16s(values, out),
        DType::BF16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        DType::Q8_0 => values.as_chunks::<BLOCK>().0.iter().for_each(|block| q8_0(block, out)),
        other => crate::bail!(Unsupported, "{other}: expected f32, f16, bf16 or q8_0 to write"),
    }
    Ok(())
}

/// By the slice: so the conversion is the CPU's own where it has one.
fn f16s(values: &[f32], out: &mut Vec<u8>) {
    const BATCH: usize = 256;
    let mut halves = [f16::ZERO; BATCH];
    for values in values.chunks(BATCH) {
        let halves = halves.get_mut(..values.len()).unwrap_or_default();
        halves.convert_from_f32_slice(values);
        out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    }
}

/// A block of GGUF's Q8_0: a scale in f16, and signed bytes. The largest element becomes 127.
fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    // By eights, which the compiler makes vectors of.
    let mut largest = [0f32; 8];
    for eight in block.as_chunks::<8>().0 {
        largest.iter_mut().zip(eight).for_each(|(most, value)| *most = most.max(value.abs()));
    }
    let scale = largest.iter().fold(0f32, |most, &value| most.max(value)) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut bytes = [0u8; BLOCK];
    for (byte, value) in bytes.iter_mut().zip(block) {
        // To the nearest, halves away from zero as ggml does it; `round` would be a call for each.
        let scaled = value * inverse;
        *byte = (scaled + 0.5f32.copysign(scaled)) as i32 as u8;
    }
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loading::quant;

    fn weight(rows: usize, cols: usize) -> (Weight, Vec<f32>) {
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        (Weight::whole("w", rows, cols, DType::F16, bytes.into(), RowMap::Identity).unwrap(), values)
    }

    fn bytes(weight: &Weight, cut: &Cut) -> Vec<u8> {
        let mut out = Vec::new();
        stream(weight, cut, |part| {
            out.extend_from_slice(part);
            Ok(())
        })
        .unwrap();
        out
    }

    fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_elements()];
        quant::to_f32(dtype, bytes, &mut out);
        out
    }

    #[test]
    fn rectangles_in_every_type() {
        let (weight, values) = weight(12, 64);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            for (rows, cols) in [(0..12, 0..64), (3..7, 0..64), (0..12, 32..64), (5..6, 0..32)] {
                let cut =
                    Cut { rows: rows.clone(), cols: cols.clone(), zeros: 2, order: RowMap::Identity, dtype };
                let found = floats(dtype, &bytes(&weight, &cut));
                let wanted = rows.flat_map(|r| cols.clone().map(move |c| (r, c)));
                let wanted = wanted.map(|(r, c)| values[r * 64 + c]).chain(vec![0.0; 2 * cols.len()]);
                let error = if dtype == DType::Q8_0 { 6.25 / 127.0 } else { 0.0 };
                assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= error), "{dtype} {cut:?}");
            }
        }
    }

    #[test]
    fn the_order_of_the_target_is_undone_by_its_reader() {
        let (weight, values) = weight(12, 32);
        let order = RowMap::Interleaved { head_dim: 6 };
        // All heads, and the second one alone.
        for rows in [0..12, 6..12] {
            let cut = Cut { rows: rows.clone(), order, ..Cut::all(&weight, DType::F16) };
            let stored = bytes(&weight, &cut);
            let read = Weight::whole("r", rows.len(), 32, DType::F16, stored.clone().into(), order).unwrap();
            let mut row = [0.0; 32];
            for (at, wanted) in rows.clone().enumerate() {
                read.row_f32(at, &mut row);
                assert_eq!(row, values[wanted * 32..][..32]);
            }
            // And through the same order once more it is as it was stored.
            let again = Cut { rows: 0..rows.len(), ..cut };
            assert_eq!(bytes(&read, &again), stored);
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused() {
        let big: Vec<u8> = [1.0f32, 7e4].iter().flat_map(|v| v.to_le_bytes()).collect();
        let weight = Weight::whole("w", 1, 2, DType::F32, big.into(), RowMap::Identity).unwrap();
        let error = stream(&weight, &Cut::all(&weight, DType::F16), |_| Ok(())).unwrap_err();
        assert!(error.message.contains("tensor w: element [0, 1] is 7e4: f16"), "{error}");
        assert!(stream(&weight, &Cut::all(&weight, DType::BF16), |_| Ok(())).is_ok());
    }
}

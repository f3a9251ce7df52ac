//! The weight source: every tensor of a decoder as a list of pieces of stored bytes.
//!
//! A weight is not a flat slice. GGUF keeps the rows of q and k in another order than Hugging Face;
//! a checkpoint cut for N cards keeps o and down in N parts along k; q, k and v may lie in three
//! files. A [`Weight`] says for each [`Piece`] which stored rows and columns become which rows and
//! columns, so that a backend can use mapped bytes where they lie, and no 14.6 GB are copied first.

use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::region::Region;
use crate::loading::file;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

pub use crate::loading::packed;
pub use crate::model::int8::{Inputs, Int8Weight};

/// What a tensor does in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `[vocab, hidden]`.
    Embedding,
    /// `[1, hidden]`: the norm before attention.
    AttentionNorm,
    /// `[q_width, hidden]`.
    Query,
    /// `[kv_width, hidden]`.
    Key,
    /// `[kv_width, hidden]`.
    Value,
    /// `[hidden, q_width]`.
    Output,
    /// `[1, q_width]`, optional.
    QueryBias,
    /// `[1, kv_width]`, optional.
    KeyBias,
    /// `[1, kv_width]`, optional.
    ValueBias,
    /// `[1, hidden]`, optional.
    OutputBias,
    /// `[1, hidden]`: the norm before the feed-forward.
    FfnNorm,
    /// `[ffn, hidden]`.
    Gate,
    /// `[ffn, hidden]`.
    Up,
    /// `[hidden, ffn]`.
    Down,
    /// `[1, hidden]`.
    FinalNorm,
    /// `[vocab, hidden]`; absent where the embedding is tied.
    Head,
    /// `[1, hidden]`, optional: added behind the norm before attention.
    AttentionNormBias,
    /// `[1, hidden]`, optional: added behind the norm before the feed-forward.
    FfnNormBias,
}

impl Role {
    /// Its number in packed caches: never changed, never used again.
    pub const fn number(self) -> u32 {
        match self {
            Role::Embedding => 1,
            Role::AttentionNorm => 2,
            Role::Query => 3,
            Role::Key => 4,
            Role::Value => 5,
            Role::Output => 6,
            Role::QueryBias => 7,
            Role::KeyBias => 8,
            Role::ValueBias => 9,
            Role::OutputBias => 10,
            Role::FfnNorm => 11,
            Role::Gate => 12,
            Role::Up => 13,
            Role::Down => 14,
            Role::FinalNorm => 15,
            Role::Head => 16,
            Role::AttentionNormBias => 17,
            Role::FfnNormBias => 18,
        }
    }
}

/// One tensor of the decoder. Tensors outside the layers have layer 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId {
    /// Decoder layer, from 0.
    pub layer: usize,
    /// What it does there.
    pub role: Role,
}

/// Which stored row holds a wanted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMap {
    /// Wanted row r is stored row r.
    Identity,
    /// The stored rows of each head alternate between the two rotary halves, as llama.cpp and
    /// FlagAI store q and k: wanted row `h·D + j·D/2 + i` (j = 0, 1) is stored row `h·D + 2i + j`.
    Interleaved {
        /// D, the width of one head.
        head_dim: usize,
    },
}

impl RowMap {
    /// The stored row of wanted row `row`.
    #[inline]
    pub fn stored(self, row: usize) -> usize {
        match self {
            RowMap::Identity => row,
            RowMap::Interleaved { head_dim } => {
                let (head, within, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + 2 * (within % half) + within / half
            }
        }
    }

    /// The wanted row that stored row `row` holds.
    #[inline]
    pub fn wanted(self, row: usize) -> usize {
        match self {
            RowMap::Identity => row,
            RowMap::Interleaved { head_dim } => {
                let (head, within, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + within / 2 + within % 2 * half
            }
        }
    }
}

/// A block of stored elements that fills a rectangle of a weight.
///
/// The bytes are a row-major matrix of `dtype` with `stored_cols` columns. Weight element
/// `(rows.start + r, cols.start + c)` is stored element
/// `(row_map.stored(row_offset + r), col_offset + c)`.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The stored matrix, whole; its length is exactly its rows × the bytes of a row. No alignment is
    /// promised: a safetensors header may have any length.
    pub bytes: Region,
    /// How its elements are encoded.
    pub dtype: DType,
    /// Columns of the stored matrix; a whole number of blocks of `dtype`.
    pub stored_cols: usize,
    /// Order of the stored rows.
    pub row_map: RowMap,
    /// First row to take, counted in the order that `row_map` gives.
    pub row_offset: usize,
    /// First stored column to take; on a block border of `dtype`.
    pub col_offset: usize,
    /// Rows of the weight that this piece fills.
    pub rows: Range<usize>,
    /// Columns of the weight that this piece fills.
    pub cols: Range<usize>,
}

impl Piece {
    /// Bytes of one stored row.
    pub fn row_bytes(&self) -> usize {
        self.stored_cols / self.dtype.block_elements() * self.dtype.block_bytes()
    }

    /// Stored bytes of the elements that this piece fills.
    pub fn filled_bytes(&self) -> u64 {
        (self.rows.len() * (self.cols.len() / self.dtype.block_elements()) * self.dtype.block_bytes()) as u64
    }

    /// The stored bytes of weight row `row`, columns `cols` of this piece.
    pub fn row(&self, row: usize) -> &[u8] {
        let stored = self.row_map.stored(self.row_offset + row - self.rows.start);
        let per = self.dtype.block_elements();
        let start = stored * self.row_bytes() + self.col_offset / per * self.dtype.block_bytes();
        let len = self.cols.len() / per * self.dtype.block_bytes();
        &self.bytes[start..start + len]
    }
}

/// A matrix (or a vector, with one row) as a list of pieces that cover it without gap or overlap.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The tensor's name in the checkpoint, for messages.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features: k.
    pub cols: usize,
    /// Pieces ordered by (rows.start, cols.start). All pieces of one row band have the same rows.
    pub pieces: Vec<Piece>,
}

impl Weight {
    /// A whole stored matrix as it lies.
    pub fn whole(
        name: &str,
        rows: usize,
        cols: usize,
        dtype: DType,
        bytes: Region,
        row_map: RowMap,
    ) -> Result<Self> {
        let piece = Piece {
            bytes,
            dtype,
            stored_cols: cols,
            row_map,
            row_offset: 0,
            col_offset: 0,
            rows: 0..rows,
            cols: 0..cols,
        };
        Weight { name: name.into(), rows, cols, pieces: vec![piece] }.checked()
    }

    /// Several weights side by side along k (parts of o and down, cut for several cards).
    pub fn join_cols(name: &str, parts: Vec<Weight>) -> Result<Self> {
        let rows = parts.first().map_or(0, |p| p.rows);
        let (mut pieces, mut cols) = (Vec::new(), 0);
        for part in parts {
            crate::ensure!(
                part.rows == rows,
                Format,
                "{name}: a part has {} rows, another {rows}",
                part.rows
            );
            for mut piece in part.pieces {
                piece.cols = piece.cols.start + cols..piece.cols.end + cols;
                pieces.push(piece);
            }
            cols += part.cols;
        }
        pieces.sort_by_key(|p| (p.rows.start, p.cols.start));
        Weight { name: name.into(), rows, cols, pieces }.checked()
    }

    /// Several weights one below the other (parts of q, k, v, gate, up and head).
    pub fn join_rows(name: &str, parts: Vec<Weight>) -> Result<Self> {
        let cols = parts.first().map_or(0, |p| p.cols);
        let (mut pieces, mut rows) = (Vec::new(), 0);
        for part in parts {
            crate::ensure!(
                part.cols == cols,
                Format,
                "{name}: a part has {} columns, another {cols}",
                part.cols
            );
            for mut piece in part.pieces {
                piece.rows = piece.rows.start + rows..piece.rows.end + rows;
                pieces.push(piece);
            }
            rows += part.rows;
        }
        Weight { name: name.into(), rows, cols, pieces }.checked()
    }

    /// The same pieces, if they cover the matrix exactly and every byte they name exists.
    fn checked(self) -> Result<Self> {
        let name = &self.name;
        let mut covered = 0usize;
        for piece in &self.pieces {
            let per = piece.dtype.block_elements();
            let inside = piece.rows.end <= self.rows
                && piece.cols.end <= self.cols
                && piece.stored_cols % per == 0
                && piece.col_offset % per == 0
                && piece.cols.len() % per == 0
                && piece.col_offset + piece.cols.len() <= piece.stored_cols;
            crate::ensure!(
                inside,
                Format,
                "{name}: a piece of {} rows × {} columns ({}) does not fit in {} × {}",
                piece.rows.len(),
                piece.cols.len(),
                piece.dtype,
                self.rows,
                self.cols
            );
            let stored_rows = piece.bytes.len() / piece.row_bytes().max(1);
            crate::ensure!(
                piece.bytes.len() == stored_rows * piece.row_bytes()
                    && piece.row_offset + piece.rows.len() <= stored_rows,
                Format,
                "{name}: {} bytes stored, expected {} rows of {} bytes ({})",
                piece.bytes.len(),
                piece.row_offset + piece.rows.len(),
                piece.row_bytes(),
                piece.dtype
            );
            if let RowMap::Interleaved { head_dim } = piece.row_map {
                crate::ensure!(
                    head_dim > 0 && head_dim % 2 == 0 && stored_rows % head_dim == 0,
                    Format,
                    "{name}: {stored_rows} rows are no whole number of heads of {head_dim}"
                );
            }
            covered += piece.rows.len() * piece.cols.len();
        }
        let ordered = self.pieces.windows(2).all(|w| {
            let (a, b) = (&w[0], &w[1]);
            (a.rows == b.rows && a.cols.end == b.cols.start)
                || (a.rows.end == b.rows.start && a.cols.end == self.cols && b.cols.start == 0)
        });
        let starts = self.pieces.first().is_some_and(|p| p.rows.start == 0 && p.cols.start == 0);
        crate::ensure!(
            ordered && starts && covered == self.rows * self.cols,
            Format,
            "{name}: its {} pieces do not cover {} × {} exactly",
            self.pieces.len(),
            self.rows,
            self.cols
        );
        Ok(self)
    }

    /// Rows `range` of this weight, as a weight (a rank's part of q, k, v, gate, up or head).
    pub fn narrow_rows(&self, range: Range<usize>) -> Result<Weight> {
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            let (start, end) = (piece.rows.start.max(range.start), piece.rows.end.min(range.end));
            if start < end {
                let mut part = piece.clone();
                part.row_offset += start - piece.rows.start;
                part.rows = start - range.start..end - range.start;
                pieces.push(part);
            }
        }
        Weight { name: self.name.clone(), rows: range.len(), cols: self.cols, pieces }.checked()
    }

    /// Columns `range` of this weight, as a weight (a rank's part of o or down). The borders must lie
    /// on block borders of the stored types.
    pub fn narrow_cols(&self, range: Range<usize>) -> Result<Weight> {
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            let (start, end) = (piece.cols.start.max(range.start), piece.cols.end.min(range.end));
            if start < end {
                let mut part = piece.clone();
                part.col_offset += start - piece.cols.start;
                part.cols = start - range.start..end - range.start;
                pieces.push(part);
            }
        }
        Weight { name: self.name.clone(), rows: self.rows, cols: range.len(), pieces }.checked()
    }

    /// The pieces that hold row `row`, in the order of their columns.
    pub fn row_pieces(&self, row: usize) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |p| p.rows.contains(&row))
    }

    /// Row `row` as f32 in `out` (`[cols]`), whatever its stored type.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        for piece in self.row_pieces(row) {
            crate::loading::quant::to_f32(piece.dtype, piece.row(row), &mut out[piece.cols.clone()]);
        }
    }

    /// Columns `cols` of row `row` as f32 in `out` (`[cols]`), whatever its stored type. `whole` is room for a row where
    /// `cols` cuts a block of quantised weights.
    pub fn cols_f32(&self, row: usize, cols: Range<usize>, whole: &mut Vec<f32>, out: &mut [f32]) {
        let blocks = |piece: &Piece, cols: &Range<usize>| {
            let per = piece.dtype.block_elements();
            cols.start.is_multiple_of(per) && cols.end.is_multiple_of(per)
        };
        for piece in self.row_pieces(row) {
            let both = piece.cols.start.max(cols.start)..piece.cols.end.min(cols.end);
            if both.is_empty() {
                continue;
            }
            let within = both.start - piece.cols.start..both.end - piece.cols.start;
            let out = &mut out[both.start - cols.start..both.end - cols.start];
            if blocks(piece, &within) {
                let (per, bytes) = (piece.dtype.block_elements(), piece.dtype.block_bytes());
                let part = within.start / per * bytes..within.end / per * bytes;
                crate::loading::quant::to_f32(piece.dtype, &piece.row(row)[part], out);
            } else {
                whole.resize(piece.cols.len(), 0.0);
                crate::loading::quant::to_f32(piece.dtype, piece.row(row), whole);
                out.copy_from_slice(&whole[within]);
            }
        }
    }

    /// The one element type of all pieces, or `None` where they differ.
    pub fn dtype(&self) -> Option<DType> {
        let first = self.pieces.first()?.dtype;
        self.pieces.iter().all(|p| p.dtype == first).then_some(first)
    }

    /// A hash of how its pieces lie: types, shapes, order of rows. Of two equal files, equal arrangements give equal
    /// weights.
    pub fn arrangement(&self) -> u64 {
        let mut text = String::new();
        for p in &self.pieces {
            let at = (p.dtype.name(), p.stored_cols, p.row_map, p.row_offset, p.col_offset, &p.rows, &p.cols);
            text.push_str(&format!("{at:?};"));
        }
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    /// Asks the system to read it ahead of its first use.
    pub fn prefetch(&self) {
        self.pieces.iter().for_each(|piece| file::prefetch(&piece.bytes));
    }

    /// Stored bytes of the elements of this weight.
    pub fn stored_bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::filled_bytes).sum()
    }
}

/// All weights of one decoder. Missing optional ones (biases, a tied head) are absent.
#[derive(Clone, Debug, Default)]
pub struct WeightSet {
    entries: HashMap<WeightId, Weight>,
    int8: HashMap<WeightId, Int8Weight>,
    packed: Option<Arc<packed::Store>>,
}

impl WeightSet {
    /// Names the place where a backend may keep what it converts.
    pub fn keep_packed(&mut self, store: packed::Store) {
        self.packed = Some(Arc::new(store));
    }

    /// The place where a backend may keep what it converts; `None`: nowhere.
    pub fn packed(&self) -> Option<&packed::Store> {
        self.packed.as_deref()
    }

    /// Adds or replaces a weight.
    pub fn insert(&mut self, layer: usize, role: Role, weight: Weight) {
        self.entries.insert(WeightId { layer, role }, weight);
    }

    /// Adds or replaces a matrix of 8-bit codes. It is not among the others: who knows nothing of codes lacks it.
    pub fn insert_int8(&mut self, layer: usize, role: Role, weight: Int8Weight) {
        self.int8.insert(WeightId { layer, role }, weight);
    }

    /// The matrix of codes, where the weight is one.
    pub fn int8(&self, layer: usize, role: Role) -> Option<&Int8Weight> {
        self.int8.get(&WeightId { layer, role })
    }

    /// All matrices of codes, in no particular order.
    pub fn all_int8(&self) -> impl Iterator<Item = (&WeightId, &Int8Weight)> {
        self.int8.iter()
    }

    /// The name of a tensor that only products of 8-bit codes can use, where there is one.
    pub fn first_int8(&self) -> Option<&str> {
        let bias = |id: &WeightId| matches!(id.role, Role::AttentionNormBias | Role::FfnNormBias);
        let codes = self.int8.iter().map(|(id, weight)| (id, &weight.name));
        let biases = self.entries.iter().filter(|(id, _)| bias(id)).map(|(id, weight)| (id, &weight.name));
        codes.chain(biases).min_by_key(|(id, _)| (id.layer, id.role.number())).map(|(_, name)| name.as_str())
    }

    /// The weight, or `None` where the checkpoint has none (an optional role).
    pub fn get(&self, layer: usize, role: Role) -> Option<&Weight> {
        self.entries.get(&WeightId { layer, role })
    }

    /// The weight, or `Format` naming the layer and role.
    pub fn need(&self, layer: usize, role: Role) -> Result<&Weight> {
        self.get(layer, role)
            .ok_or_else(|| crate::error!(Format, "layer {layer}: the checkpoint has no {role:?} weight"))
    }

    /// Stored bytes of all weights.
    pub fn stored_bytes(&self) -> u64 {
        let codes = self.int8.values().map(Int8Weight::stored_bytes).sum::<u64>();
        self.entries.values().map(Weight::stored_bytes).sum::<u64>() + codes
    }

    /// Stored bytes of the pieces that lie in mapped files.
    pub fn mapped_bytes(&self) -> u64 {
        let pieces = self.entries.values().flat_map(|weight| &weight.pieces);
        let codes = self.int8.values().map(Int8Weight::mapped_bytes).sum::<u64>();
        pieces.filter(|piece| piece.bytes.is_mapped()).map(Piece::filled_bytes).sum::<u64>() + codes
    }

    /// Every weight with its place, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&WeightId, &Weight)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, first: u8) -> Weight {
        let bytes: Vec<u8> = (0..rows * cols)
            .flat_map(|i| half::f16::from_f32(f32::from(first) + i as f32).to_le_bytes())
            .collect();
        Weight::whole("w", rows, cols, DType::F16, bytes.into(), RowMap::Identity).unwrap()
    }

    fn values(w: &Weight) -> Vec<f32> {
        (0..w.rows)
            .flat_map(|r| w.row_pieces(r).flat_map(move |p| p.row(r).to_vec()).collect::<Vec<u8>>())
            .collect::<Vec<u8>>()
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    }

    #[test]
    fn cut_in_three_along_k_and_joined_is_the_whole() {
        let whole = matrix(4, 12, 0);
        let parts = (0..3).map(|r| whole.narrow_cols(r * 4..r * 4 + 4).unwrap()).collect();
        let joined = Weight::join_cols("w", parts).unwrap();
        assert_eq!(joined.pieces.len(), 3);
        assert_eq!(values(&joined), values(&whole));
        let rows = (0..2).map(|r| joined.narrow_rows(r * 2..r * 2 + 2).unwrap()).collect();
        assert_eq!(values(&Weight::join_rows("w", rows).unwrap()), values(&whole));
    }

    #[test]
    fn columns_of_a_row_are_those_of_the_whole_row() {
        // Q8_0: blocks of 32 with a scale; and two f16 parts side by side.
        let rows: Vec<u8> =
            (0..2 * 2 * 34).map(|i| if i % 34 < 2 { [0, 0x3c][i % 34] } else { i as u8 }).collect();
        let quantised = Weight::whole("w", 2, 64, DType::Q8_0, rows.into(), RowMap::Identity).unwrap();
        let joined = Weight::join_cols("w", vec![matrix(2, 24, 0), matrix(2, 40, 7)]).unwrap();
        for weight in [quantised, joined] {
            let (mut all, mut whole) = (vec![0.0; 64], Vec::new());
            weight.row_f32(1, &mut all);
            for cols in [0..64, 32..64, 0..32, 5..6, 16..48, 23..25, 64..64] {
                let mut part = vec![0.0; cols.len()];
                weight.cols_f32(1, cols.clone(), &mut whole, &mut part);
                assert_eq!(part, all[cols.clone()], "{cols:?}");
            }
        }
    }

    #[test]
    fn interleaved_rows_come_out_in_halves() {
        let map = RowMap::Interleaved { head_dim: 6 };
        let stored: Vec<usize> = (0..12).map(|r| map.stored(r)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!((0..12).all(|r| map.wanted(map.stored(r)) == r));
    }

    #[test]
    fn gaps_and_short_bytes_are_refused() {
        let a = matrix(2, 4, 0);
        let mut gap = a.clone();
        gap.cols = 8;
        assert!(gap.checked().is_err());
        let short = Weight::whole("w", 4, 4, DType::F16, vec![0u8; 30].into(), RowMap::Identity);
        assert!(short.unwrap_err().message.contains("30 bytes"));
    }
}

//! The header and the table of a packed cache file: written, read, and compared with what is wanted.

use super::key::SourceKey;
use crate::base::checked;
use crate::base::error::Result;
use crate::base::limits;
use crate::loading::file::SourceFile;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// The first bytes of the file.
pub const MAGIC: [u8; 8] = *b"AQUILAPK";
/// Version of header and table. A file of another version is made again.
pub const VERSION: u32 = 1;
/// Written in the byte order of the machine, so that another one reads it reversed.
const BYTE_ORDER: u32 = 0x0102_0304;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a table entry.
pub const ENTRY_BYTES: usize = 64;
/// Payloads begin on multiples of this: the widest vector, and a line of the processor's cache.
pub const ALIGNMENT: u64 = 64;
/// Where the header's own checksum stands.
const HEADER_SUM: usize = HEADER_BYTES - 8;

/// One tensor that a backend wants to keep. The numbers are the backend's, stable between versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Decoder layer.
    pub layer: u32,
    /// What it does there.
    pub role: u32,
    /// How it is held: element type or packing.
    pub form: u32,
    /// Rows as computed with.
    pub rows: u64,
    /// Columns as computed with.
    pub cols: u64,
    /// Bytes in that form.
    pub bytes: u64,
    /// A hash of how the stored pieces make it up.
    pub arrangement: u64,
}

/// All that a file must hold, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Identifies the bytes that each form stands for.
    pub layout: u64,
    /// A few letters for the file's name: the type that was asked for.
    pub label: &'static str,
    /// The tensors.
    pub tensors: Vec<Wanted>,
}

impl Format {
    /// A hash of the tensors and their forms.
    pub fn key(&self) -> u64 {
        let mut bytes = Vec::with_capacity(self.tensors.len() * 44);
        for t in &self.tensors {
            [t.layer, t.role, t.form].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            [t.rows, t.cols, t.bytes, t.arrangement].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        }
        xxh3_64(&bytes)
    }

    /// Where each payload will lie, and the length of the file.
    pub(super) fn ranges(&self) -> Result<(Vec<Range<u64>>, u64)> {
        const WHAT: &str = "packed cache";
        let mut end = (HEADER_BYTES + self.tensors.len() * ENTRY_BYTES) as u64;
        let mut ranges = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let start = aligned(end)?;
            end = checked::add(start, tensor.bytes, WHAT)?;
            ranges.push(start..end);
        }
        Ok((ranges, end))
    }
}

fn aligned(offset: u64) -> Result<u64> {
    offset
        .checked_next_multiple_of(ALIGNMENT)
        .ok_or_else(|| crate::error!(Format, "packed cache: offset {offset} overflows"))
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Decoder layer.
    pub layer: u32,
    /// What it does there.
    pub role: u32,
    /// How it is held.
    pub form: u32,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Bytes from the start of the file.
    pub range: Range<u64>,
    /// xxh3 of the payload.
    pub checksum: u64,
}

/// A header and a table that agree with each other and with the length of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// See [`Format::layout`].
    pub layout: u64,
    /// See [`SourceKey::whole`].
    pub source: u128,
    /// See [`Format::key`].
    pub format: u64,
    /// Whether the system confirmed that all payloads were on the disk.
    pub clean: bool,
    /// The table.
    pub entries: Vec<Entry>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}

impl Contents {
    /// The first bytes of the file: header and table.
    pub(super) fn encode(&self, file_bytes: u64) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for e in &self.entries {
            [e.layer, e.role, e.form, 0].iter().for_each(|n| table.extend(n.to_le_bytes()));
            [e.rows, e.cols, e.range.start, e.range.end - e.range.start, e.checksum, 0]
                .iter()
                .for_each(|n| table.extend(n.to_le_bytes()));
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + table.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(BYTE_ORDER.to_ne_bytes());
        out.extend(self.layout.to_le_bytes());
        out.extend(self.source.to_le_bytes());
        out.extend(self.format.to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        out.extend(u32::from(self.clean).to_le_bytes());
        out.extend(file_bytes.to_le_bytes());
        out.extend(xxh3_64(&table).to_le_bytes());
        out.resize(HEADER_SUM, 0);
        let sum = xxh3_64(&out);
        out.extend(sum.to_le_bytes());
        out.extend(table);
        out
    }

    /// Reads and checks header and table. `Format` says what was expected and found; the file is not named in it.
    pub fn read(file: &SourceFile) -> Result<Contents> {
        crate::ensure!(
            file.len() >= HEADER_BYTES as u64,
            Format,
            "truncated: expected a header of {HEADER_BYTES} bytes, found {}",
            file.len()
        );
        let mut header = [0u8; HEADER_BYTES];
        file.read_at(0, &mut header)?;
        crate::ensure!(
            header.starts_with(&MAGIC),
            Format,
            "expected a packed cache, which begins with {:?}, found {:?}",
            String::from_utf8_lossy(&MAGIC),
            String::from_utf8_lossy(header.get(..8).unwrap_or_default())
        );
        // Before the checksum: another version may keep it elsewhere.
        let version = u32_at(&header, 8);
        crate::ensure!(version == VERSION, Format, "expected version {VERSION}, found {version}");
        let order = u32_at(&header, 12);
        crate::ensure!(
            order.to_le_bytes() == BYTE_ORDER.to_ne_bytes(),
            Format,
            "expected the byte order of this machine, found another ({order:#010x})"
        );
        let (stated, found) =
            (u64_at(&header, HEADER_SUM), xxh3_64(header.get(..HEADER_SUM).unwrap_or_default()));
        crate::ensure!(stated == found, Format, "damaged header: checksum {stated:016x}, found {found:016x}");
        let (count, state) = (u32_at(&header, 48) as usize, u32_at(&header, 52));
        crate::ensure!(
            count <= limits::TENSORS_MAX && state <= 1,
            Format,
            "expected at most {} tensors and a state of 0 or 1, found {count} and {state}",
            limits::TENSORS_MAX
        );
        let length = u64_at(&header, 56);
        crate::ensure!(
            length == file.len(),
            Format,
            "truncated or grown: expected {length} bytes, found {}",
            file.len()
        );
        let table_end = (HEADER_BYTES + count * ENTRY_BYTES) as u64;
        crate::ensure!(
            table_end <= length,
            Format,
            "expected a table of {count} tensors, found {length} bytes in all"
        );
        let table = file.read_range(HEADER_BYTES as u64..table_end)?;
        let (stated, found) = (u64_at(&header, 64), xxh3_64(&table));
        crate::ensure!(stated == found, Format, "damaged table: checksum {stated:016x}, found {found:016x}");
        let source = header.get(24..40).and_then(<[u8]>::first_chunk).map_or(0, |b| u128::from_le_bytes(*b));
        Ok(Contents {
            layout: u64_at(&header, 16),
            source,
            format: u64_at(&header, 40),
            clean: state == 1,
            entries: entries(&table, table_end, length)?,
        })
    }

    /// `Format` unless the file was made from `source` for exactly `format`.
    pub fn check(&self, format: &Format, source: &SourceKey) -> Result<()> {
        crate::ensure!(
            self.layout == format.layout,
            Format,
            "expected weights in layout {:016x}, found {:016x}: another version of the library made it",
            format.layout,
            self.layout
        );
        crate::ensure!(
            self.source == source.whole,
            Format,
            "expected source files {:032x}, found {:032x}: they were changed, or it was made from others",
            source.whole,
            self.source
        );
        let key = format.key();
        crate::ensure!(
            self.format == key && self.entries.len() == format.tensors.len(),
            Format,
            "expected {} tensors in format {key:016x}, found {} in {:016x}",
            format.tensors.len(),
            self.entries.len(),
            self.format
        );
        // The key says so already; sizes by which memory is read are compared one by one all the same.
        for (index, (e, t)) in self.entries.iter().zip(&format.tensors).enumerate() {
            let found = (e.layer, e.role, e.form, e.rows, e.cols, e.range.end - e.range.start);
            let expected = (t.layer, t.role, t.form, t.rows, t.cols, t.bytes);
            crate::ensure!(
                found == expected,
                Format,
                "tensor {index}: expected {expected:?}, found {found:?}"
            );
        }
        Ok(())
    }
}

/// The lines of a table, each payload directly behind the one before it, the last one at the file's end.
fn entries(table: &[u8], table_end: u64, length: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(table.len() / ENTRY_BYTES);
    let mut end = table_end;
    for (index, line) in table.chunks_exact(ENTRY_BYTES).enumerate() {
        let (start, bytes) = (u64_at(line, 32), u64_at(line, 40));
        let expected = aligned(end)?;
        crate::ensure!(
            start == expected && u32_at(line, 12) == 0 && u64_at(line, 56) == 0,
            Format,
            "tensor {index}: expected it at byte {expected}, found {start}"
        );
        end = checked::add(start, bytes, "packed cache")?;
        crate::ensure!(
            end <= length,
            Format,
            "tensor {index}: expected its end within {length} bytes, found {end}"
        );
        entries.push(Entry {
            layer: u32_at(line, 0),
            role: u32_at(line, 4),
            form: u32_at(line, 8),
            rows: u64_at(line, 16),
            cols: u64_at(line, 24),
            range: start..end,
            checksum: u64_at(line, 48),
        });
    }
    crate::ensure!(end == length, Format, "expected the last tensor to end at {length}, found {end}");
    Ok(entries)
}
